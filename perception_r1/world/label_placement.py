"""Where a label finds room on a page: off the strokes, off the edge, off the other labels."""

import numpy as np

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside
Places = tuple[
    np.ndarray, np.ndarray
]  # where a text may stand: centres (complex), and what each costs


class Room:
    """What is still free on a page.

    Args:
        size: width and height of the page in pixels.
        font: height of the text.
        pen: width of the strokes.
        strokes: their straight pieces, shape (pieces, 2 ends, x and y).
    """

    def __init__(self, size: int, font: int, pen: float, strokes: np.ndarray):
        self.size, self.strokes = size, strokes
        self.needed, self.wanted = 0.5 * pen + max(1.0, 0.1 * font), 0.4 * font
        self.taken: list[Box] = []

    def take(self, width: int, height: int, places: Places) -> Box | None:
        """Take the cheapest clear place for a text of this size; closeness to other things costs too.

        Returns:
            The box that the text will fill, or None where no place is clear.
        """
        centres, costs = places
        low = np.round(centres.view(float).reshape(-1, 2) - (width / 2, height / 2))
        boxes = np.concatenate([low, low + (width, height)], axis=1)
        taken = np.array(self.taken).reshape(-1, 4)
        on_page = (boxes >= 2).all(axis=1) & (boxes <= self.size - 2).all(axis=1)
        blocked, crowded = (
            _crossed(_grown(boxes, pad), self.strokes) | _overlap(_grown(boxes, gap), taken)
            for pad, gap in ((self.needed, 2 * self.needed), (self.wanted, self.wanted))
        )
        clear = np.flatnonzero(on_page & ~blocked)
        if not len(clear):
            return None
        best = clear[np.argmin((costs + 0.5 * crowded)[clear])]
        box = tuple(int(v) for v in boxes[best])
        self.taken.append(box)
        return box


def _grown(boxes: np.ndarray, pad: float) -> np.ndarray:
    """The boxes (n, 4), wider on all sides."""
    return boxes + (-pad, -pad, pad, pad)


def _crossed(boxes: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) meet any of the strokes (m, 2, 2)."""
    start, way = strokes[:, 0], strokes[:, 1] - strokes[:, 0]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    # (n, m, 2): how far along the stroke it passes the box's sides
    enter = (boxes[:, None, :2] - start) / way
    leave = (boxes[:, None, 2:] - start) / way
    begin = np.minimum(enter, leave).max(axis=-1)
    end = np.maximum(enter, leave).min(axis=-1)
    return (np.maximum(begin, 0) <= np.minimum(end, 1)).any(axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) have a part in common with any of the others (m, 4)."""
    below = (boxes[:, None, :2] < others[:, 2:]) & (boxes[:, None, 2:] > others[:, :2])
    return below.all(axis=-1).any(axis=1)
