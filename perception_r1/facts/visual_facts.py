"""The visual fact, the one idea all rooms share: its equality up to symmetry and algebra, and its kind.

A fact is a small tree (see `forms`) with one English sentence (see `sentences`); both ways are exact.
"""

import functools
import re
from collections.abc import Hashable, Sequence

from perception_r1.facts import expressions
from perception_r1.facts.forms import Call, Term

Fact = Call

# --- equality --------------------------------------------------------------------------------------

# Vertices in order around a closed line: the same figure from any corner, in either direction.
_POLYGONS = set(
    "Triangle Quadrilateral Parallelogram Rectangle Square Rhombus Kite Trapezoid "
    "Pentagon Hexagon Polygon Shape".split()
)
_PATHS = {"Line", "Angle", "Arc"}  # the same from either end
_UNORDERED = {"Equals", "Perpendicular", "Parallel", "Congruent", "Similar", "Add", "SumOf", "Mul"}
_CORRESPONDING = {"Congruent", "Similar", "ScaleFactorOf"}  # vertices correspond in order
_VALUED = {"Equals", "Add", "SumOf", "Mul", "HalfOf", "Find"}  # a bare argument is a value


@functools.lru_cache(maxsize=2**14)
def key(fact: Term) -> Hashable:
    """A canonical form: facts that say the same have equal keys.

    The same up to: the ends of lines, angles and arcs; the first corner and direction of polygons;
    the order of operands; algebra in values. And up to the annotators' spellings: `Point(A)` is
    A, `angle 3` is `Angle(3)`, `LengthOf(h)` is h, an equation between lines (angles, arcs) is one between
    their lengths (measures), a right angle measures 90, and `Circle(O, radius_7_0)` is `Circle(O)`,
    while `radius_7_1` is a second circle around O.
    """
    if isinstance(fact, str):
        number = re.fullmatch(r"angle (\S+)", fact)
        return ("Angle", number.group(1)) if number else fact
    name, args = fact.name, fact.args
    if name == "RightAngle" and len(args) == 1:
        return key(Call("Equals", (Call("MeasureOf", args), "90")))
    if name == "Point" and len(args) == 1:
        return key(args[0])
    if name in ("Circle", "Cirle"):
        second = [a for a in args[1:] if isinstance(a, str) and re.fullmatch(r"radius_\d+_0", a)]
        return ("Circle", *(key(a) for a in args if a not in second))
    if name in ("LengthOf", "MeasureOf") and len(args) == 1:
        inner = args[0]
        if isinstance(inner, Call) and inner.name.endswith("Of"):
            return key(inner)  # the length of the height is the height
        if isinstance(inner, str) and not inner.startswith("angle "):
            return _value_key(inner)
    if name in _POLYGONS:
        return (name, *min(_turns([key(a) for a in args]), key=repr, default=()))
    if name in _PATHS:
        keys = [key(a) for a in args]
        return (name, *min(keys, keys[::-1], key=repr))
    if name in _CORRESPONDING and (pair := _corresponding(name, args)):
        return pair
    keys = [_side_key(a) if name in _VALUED else key(a) for a in args]
    if name in _UNORDERED:
        keys.sort(key=repr)
    elif name == "IntersectAt":
        keys[:-1] = sorted(keys[:-1], key=repr)
    return (name, *keys)


def same(f: Fact, g: Fact) -> bool:
    """Whether two facts say the same, up to symmetry and algebra (see `key`)."""
    return key(f) == key(g)


def subject(fact: Fact) -> Hashable | None:
    """What a fact gives a value to: the length of AB for `Equals(LengthOf(Line(A, B)), 10)`.

    None for a fact that gives no value to anything, which no other value can conflict with.
    """
    valued = _subject_and_value(fact)
    return valued and valued[0]


def contradicts(f: Fact, g: Fact) -> bool:
    """Whether both give the same subject a value, and the values differ whatever the letters stand for.

    10 contradicts 12, x+21 contradicts x+22; x+21 and 10 may both hold.
    """
    one, other = _subject_and_value(f), _subject_and_value(g)
    if not one or not other or one[0] != other[0]:
        return False
    return expressions.differ(one[1], other[1])


def _turns(corners: Sequence) -> list[Sequence]:
    """All rotations of the corners, in both directions."""
    both = (list(corners), list(corners)[::-1])
    return [c[i:] + c[:i] for c in both for i in range(len(c))]


def _corresponding(name: str, args: tuple[Term, ...]) -> tuple | None:
    """The key of a relation between two polygons: their corners correspond, so they turn together."""
    if len(args) != 2 or not all(isinstance(a, Call) and a.name in _POLYGONS for a in args):
        return None
    corners = [[key(a) for a in figure.args] for figure in args]
    if len(corners[0]) != len(corners[1]) or len(corners[0]) < 2:
        return None
    pairs = list(zip(*corners, strict=True))
    turns = [(args[0].name, args[1].name, *turn) for turn in _turns(pairs)]
    if name in _UNORDERED:
        pairs = [pair[::-1] for pair in pairs]
        turns += [(args[1].name, args[0].name, *turn) for turn in _turns(pairs)]
    return (name, *min(turns, key=repr))


def _side_key(term: Term) -> Hashable:
    """The key of one side of an equation, where a figure stands for its size."""
    if isinstance(term, str):
        return _value_key(term)
    measure = {"Line": "LengthOf", "Angle": "MeasureOf", "Arc": "MeasureOf"}.get(term.name)
    return (measure, key(term)) if measure else key(term)


def _value_key(text: str) -> Hashable:
    try:
        return ("value", expressions.read_value(text))
    except expressions.ExpressionError:
        return ("text", text.replace(" ", ""))


def _subject_and_value(fact: Fact) -> tuple[Hashable, expressions.Value] | None:
    keys = key(fact)
    if keys[0] != "Equals" or len(keys) != 3:
        return None
    for one, other in (keys[1:], keys[:0:-1]):
        number = one[0] == "value" and expressions.is_number(one[1])
        if number or (one[0] == "value" and other[0] not in ("value", "text")):
            return other, one[1]
    return None


# --- kinds -----------------------------------------------------------------------------------------

_SIZES = {"LengthOf": "length", "MeasureOf": "angle", "Add": "sum", "Mul": "product"}


def kind(fact: Fact) -> str:
    """The kind of fact, for tables: of an equation "length", "equal angles", "area", ...; else its predicate in words.

    `PointLiesOnLine` is "point on line", `IsMidpointOf` "midpoint", `InscribedIn` "inscribed in".
    """
    if fact.name in ("Equals", "RightAngle"):
        names = [side[0] for side in key(fact)[1:] if side[0] not in ("value", "text")]
        sizes = {_SIZES.get(name, name.removesuffix("Of").lower()) for name in names}
        if len(sizes) > 1:
            return "equal quantities"
        size = sizes.pop() if sizes else "value"
        return f"equal {size}s" if len(names) > 1 else size
    predicate = re.sub("^Is|Lies|Of$", "", fact.name)
    return re.sub("(?<!^)(?=[A-Z])", " ", predicate).lower()
