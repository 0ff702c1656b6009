"""A scene: points in the plane and the facts that its figure shows; and a question about it.

The figure is drawn from the facts (see `draw`), so what it shows and what counts as gold cannot differ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from perception_r1.facts import Call

Work = tuple[list[str], int | str]  # sentences of the computation, and the answer
ANGLES = (25, 140)  # the smallest and the largest that is written in a figure, in degrees


@dataclass(frozen=True)
class Scene:
    """What there is to see. A fact is one mark or label of the drawing.

    Attributes:
        points: name -> place, x + iy with y upwards, in the unit of the lengths (or any unit, where the
            figure shows at most one length).
        strokes: the segments that are drawn, each by its two ends; they may pass through other points.
        radius: of the circle round the point "O"; 0 where there is none.
        facts: all that the drawing says, in reading order. Half marks of a midpoint are one fact,
            `IsMidpointOf`, which includes that it lies on the segment.
    """

    points: Mapping[str, complex]
    strokes: tuple[str, ...]
    radius: float
    facts: tuple[Call, ...]


@dataclass(frozen=True)
class Question:
    """What is asked about a scene.

    Attributes:
        text: the question alone, without any given facts.
        needed: the facts that the answer takes, and no more.
        work: from the values of the needed facts, in their order, to the computation and the answer;
            raises ValueError where the values (misread ones) lead to no positive whole number.
        shortcut: the same question with so much in its text that no fact is needed, where there is one.
    """

    text: str
    needed: tuple[Call, ...]
    work: Callable[..., Work]
    shortcut: "Question | None" = None


def value_of(fact: Call) -> int | None:
    """The number that a fact states, None where it states none."""
    last = fact.args[-1]
    return int(last) if isinstance(last, str) and last.isdigit() else None


def with_value(fact: Call, value: int) -> Call:
    """The same fact with another number."""
    return Call(fact.name, (*fact.args[:-1], str(value)))


# --- the facts of the world; ends of segments and arms of angles are in alphabetical order ----------


def line(ab: str) -> Call:
    """The line or segment through two points, "AB"."""
    return Call("Line", tuple(sorted(ab)))


def length(ab: str, value: int) -> Call:
    """Segment AB has this length."""
    return Call("Equals", (Call("LengthOf", (line(ab),)), str(value)))


def angle_name(abc: str) -> str:
    """ABC for CBA."""
    return min(abc, abc[::-1])


def angle(abc: str, value: int) -> Call:
    """Angle ABC, with its corner at B, has this many degrees."""
    corner = Call("Angle", tuple(angle_name(abc)))
    return Call("Equals", (Call("MeasureOf", (corner,)), str(value)))


def equal(ab: str, cd: str) -> Call:
    """Two segments carry the same ticks."""
    return Call("Equals", tuple(Call("LengthOf", (line(s),)) for s in sorted((ab, cd), key=sorted)))


def perpendicular(ab: str, cd: str) -> Call:
    """A square marks a right angle between two lines."""
    return Call("Perpendicular", tuple(map(line, sorted((ab, cd), key=sorted))))


def parallel(ab: str, cd: str) -> Call:
    """Two lines carry the same arrows."""
    return Call("Parallel", tuple(map(line, sorted((ab, cd), key=sorted))))


def on_line(p: str, ab: str) -> Call:
    """A line is drawn through a point between its ends."""
    return Call("PointLiesOnLine", (p, line(ab)))


def on_circle(p: str) -> Call:
    """A point is drawn on the circle round O."""
    return Call("PointLiesOnCircle", (p, Call("Circle", ("O",))))


def midpoint(p: str, ab: str) -> Call:
    """The two halves of a segment carry the same ticks."""
    return Call("IsMidpointOf", (p, line(ab)))


READING_ORDER = (
    "PointLiesOnCircle PointLiesOnLine IsMidpointOf Perpendicular Parallel Equals"
).split()


def in_reading_order(facts: list[Call]) -> tuple[Call, ...]:
    """Marks first, then lengths, then angles; whether a fact is needed plays no part."""

    def place(fact: Call) -> tuple[int, bool, str]:
        return READING_ORDER.index(fact.name), value_of(fact) is not None, str(fact)

    return tuple(sorted(facts, key=place))
