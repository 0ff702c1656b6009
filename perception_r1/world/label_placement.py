"""Where a label finds room on a page: off the strokes, off the edge, off the other labels."""

import numpy as np

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside
Places = tuple[
    np.ndarray, np.ndarray
]  # where a text may stand: centres (complex), and what each costs
AT_ONCE = 24  # places for a label that are looked at together, the cheapest first


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
        order = np.argsort(costs, kind="stable")
        clear: list[tuple[float, int]] = []  # cost and number of places
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            if clear and min(clear)[0] < costs[some[0]]:
                break  # what is left is dearer
            near = boxes[some]
            on_page = (near >= 2).all(axis=1) & (near <= self.size - 2).all(axis=1)
            some, near = some[on_page], near[on_page]
            blocked, crowded = (
                _crossed(_grown(near, pad), self.strokes) | _overlap(_grown(near, gap), taken)
                for pad, gap in ((self.needed, 2 * self.needed), (self.wanted, self.wanted))
            )
            dear = costs[some] + 0.5 * crowded
            clear += [(dear[k], some[k]) for k in np.flatnonzero(~blocked)]
        if not clear:
            return None
        box = tuple(int(v) for v in boxes[min(clear)[1]])
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
