"""Where a label finds room on a page: off the strokes, off the edge, off the other labels."""

import numpy as np

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside
# where a text may stand: centres (complex), and what each costs
Places = tuple[np.ndarray, np.ndarray]


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
        on_page = (boxes >= 2).all(axis=1) & (boxes <= self.size - 2).all(axis=1)
        clear = np.flatnonzero(on_page & ~self._meets(boxes, self.needed, 2 * self.needed))
        if not len(clear):
            return None
        crowded = self._meets(boxes[clear], self.wanted, self.wanted)
        best = clear[np.argmin(costs[clear] + 0.5 * crowded)]
        box = tuple(int(v) for v in boxes[best])
        self.taken.append(box)
        return box

    def _meets(self, boxes: np.ndarray, pad: float, gap: float) -> np.ndarray:
        """Which of the boxes (n, 4) come nearer to a stroke than `pad`, or to a label than `gap`."""
        taken = np.array(self.taken).reshape(-1, 4)
        crossed = _crossed(_grown(boxes, pad), self.strokes)
        return crossed | _overlap(_grown(boxes, gap), taken)


def _grown(boxes: np.ndarray, pad: float) -> np.ndarray:
    """The boxes (n, 4), wider on all sides."""
    return boxes + (-pad, -pad, pad, pad)


def _crossed(boxes: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) meet any of the strokes (m, 2, 2)."""
    begin, end = 0.0, 1.0  # how far along each stroke it enters and leaves each box, (n, m)
    for x in (0, 1):
        start, way = strokes[:, 0, x], strokes[:, 1, x] - strokes[:, 0, x]
        way = np.where(np.abs(way) < 1e-9, 1e-9, way)
        near, far = ((boxes[:, x + side, None] - start) / way for side in (0, 2))
        begin = np.maximum(begin, np.minimum(near, far))
        end = np.minimum(end, np.maximum(near, far))
    return (begin <= end).any(axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) have a part in common with any of the others (m, 4)."""
    left, top, right, bottom = boxes.T[..., None]
    across = (left < others[:, 2]) & (right > others[:, 0])
    return (across & (top < others[:, 3]) & (bottom > others[:, 1])).any(axis=1)
