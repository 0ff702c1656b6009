"""Rectangles, parallelograms and trapezoids: what they show and what is asked.

A rectangle is known by equal ticks on opposite sides and one right angle, a parallelogram by equal ticks or
by arrows, a trapezoid by the arrows on its two bases; the question only says "quadrilateral".
"""

import cmath
import math

from perception_r1.world.reckon import (
    angle_is,
    area_of,
    ask_angle,
    ask_length,
    ask_of_quadrilateral,
    going_round,
    hypotenuse,
    length_is,
    other_leg,
    perimeter_of,
    so_length,
    then,
)
from perception_r1.world.scene import (
    Question,
    Work,
    angle,
    equal,
    length,
    midpoint,
    on_line,
    parallel,
    perpendicular,
)
from perception_r1.world.sketch import Sketch, Unlucky

# --- rectangles ------------------------------------------------------------------------------------


def rectangle_perimeter(s: Sketch) -> Question:
    """Two sides and the ticks, the perimeter."""
    a, b, c, d = s.polygon(4)
    x, y = s.length(), s.length()
    opposite, right = _rectangle(s, a + b + c + d, x, y)
    needed = *opposite, length(a + b, x), length(b + c, y)
    s.show(*needed, right)
    s.offer_beyond(a + b)
    return _perimeter_question(a, b, c, d, needed)


def rectangle_area(s: Sketch) -> Question:
    """Two sides and the marks, the area."""
    a, b, c, d = s.polygon(4)
    x, y = s.length(), s.length()
    opposite, right = _rectangle(s, a + b + c + d, x, y)
    needed = *opposite, right, length(a + b, x), length(b + c, y)
    s.show(*needed)
    s.offer_beyond(a + b)

    def work(x: int, y: int) -> Work:
        return area_of(f"{x} * {y}", x * y)

    return Question(ask_of_quadrilateral("area", a + b + c + d), needed, work)


def rectangle_diagonal(s: Sketch) -> Question:
    """The two sides at the right angle, the diagonal."""
    a, b, c, d = s.polygon(4)
    x, y, _ = s.triple(0, 1)
    opposite, right = _rectangle(s, a + b + c + d, x, y)
    s.join(a + c)
    needed = right, length(a + b, x), length(b + c, y)
    s.show(*needed, *opposite)
    s.offer_beyond(a + b)

    def work(x: int, y: int) -> Work:
        return hypotenuse(x, y, a + c)

    return Question(ask_length(a + c), needed, work)


def rectangle_side(s: Sketch) -> Question:
    """Diagonal and a side, the side opposite to the missing one."""
    a, b, c, d = s.polygon(4)
    x, y, z = s.triple(0, 2)
    (first, second), right = _rectangle(s, a + b + c + d, x, y)
    s.join(a + c)
    needed = second, right, length(a + c, z), length(a + b, x)
    s.show(*needed, first)
    s.offer_beyond(a + b)

    def work(z: int, x: int) -> Work:
        lines, y = other_leg(z, x, b + c)
        return [*lines, so_length(a + d, y)], y

    return Question(ask_length(a + d), needed, work)


def _rectangle(s: Sketch, names: str, x: int, y: int):
    """Draw rectangle ABCD with AB = x, BC = y: the facts of its opposite sides, and its right angle at B."""
    if not 0.4 <= x / y <= 2.5:
        raise Unlucky
    a, b, c, d = names
    s.put(names, 0, x, complex(x, y), complex(0, y))
    s.ring(names)
    return (equal(a + b, c + d), equal(b + c, d + a)), perpendicular(a + b, b + c)


def _perimeter_question(a: str, b: str, c: str, d: str, needed: tuple) -> Question:
    """The perimeter of a quadrilateral whose opposite sides are equal."""

    def work(x: int, y: int) -> Work:
        return then([so_length(c + d, x), so_length(d + a, y)], perimeter_of(x, y, x, y))

    return Question(ask_of_quadrilateral("perimeter", a + b + c + d), needed, work)


# --- parallelograms --------------------------------------------------------------------------------


def parallelogram_perimeter(s: Sketch) -> Question:
    """Two sides and the ticks, the perimeter."""
    a, b, c, d = s.polygon(4)
    x, y = s.length(), s.length()
    _parallelogram(s, a + b + c + d, x, y, s.rng.uniform(50, 75))
    needed = equal(a + b, c + d), equal(b + c, d + a), length(a + b, x), length(b + c, y)
    s.show(*needed)
    s.offer_beyond(a + b)
    return _perimeter_question(a, b, c, d, needed)


def parallelogram_neighbour(s: Sketch) -> Question:
    """An angle, the next one."""
    a, b, c, d, at_a = _angled(s)
    needed = parallel(b + c, a + d), angle(d + a + b, at_a)
    s.show(*needed, parallel(a + b, c + d))

    def work(at_a: int) -> Work:
        return angle_is(f"180 - {at_a}", 180 - at_a, a + b + c)

    return Question(_ask_corner(a + b + c + d, a + b + c), needed, work)


def parallelogram_opposite(s: Sketch) -> Question:
    """An angle, the next one and then the opposite one."""
    a, b, c, d, at_a = _angled(s)
    needed = parallel(b + c, a + d), parallel(a + b, c + d), angle(d + a + b, at_a)
    s.show(*needed)

    def work(at_a: int) -> Work:
        lines, at_b = angle_is(f"180 - {at_a}", 180 - at_a, a + b + c)
        return then(lines, angle_is(f"180 - {at_b}", 180 - at_b, b + c + d))

    return Question(_ask_corner(a + b + c + d, b + c + d), needed, work)


def parallelogram_diagonal(s: Sketch) -> Question:
    """Half of one diagonal, all of it."""
    a, b, c, d, e, x, y = _crossed(s)
    needed = midpoint(e, a + c), length(a + e, x)
    s.show(*needed, midpoint(e, b + d))
    s.offer(length(b + e, y))

    def work(x: int) -> Work:
        return length_is(f"2 * {x}", 2 * x, a + c)

    return Question(ask_length(a + c), needed, work)


def parallelogram_diagonals(s: Sketch) -> Question:
    """Halves of both diagonals, the diagonals and then their sum."""
    a, b, c, d, e, x, y = _crossed(s)
    needed = midpoint(e, a + c), midpoint(e, b + d), length(a + e, x), length(b + e, y)
    s.show(*needed)
    first, second = ("".join(sorted(diagonal)) for diagonal in (a + c, b + d))

    def work(x: int, y: int) -> Work:
        lines, ac = length_is(f"2 * {x}", 2 * x, a + c)
        more, bd = length_is(f"2 * {y}", 2 * y, b + d)
        return [*lines, *more, f"The sum is {ac} + {bd} = {ac + bd}."], ac + bd

    return Question(f"What is {first} + {second}?", needed, work)


def parallelogram_area(s: Sketch) -> Question:
    """Base and height."""
    a, b, c, d, e = s.polygon(4, others=1)
    base, height = s.length(), s.length()
    foot = base * s.rng.uniform(0.25, 0.5)
    s.put(a + b + e, 0, base, foot)
    s.put(c + d, complex(base + foot, height), complex(foot, height))
    s.ring(a + b + c + d)
    s.join(d + e)
    marks = parallel(a + b, c + d), parallel(b + c, a + d)
    height_marks = on_line(e, a + b), perpendicular(d + e, a + b)
    needed = *height_marks, *marks, length(a + b, base), length(d + e, height)
    s.show(*needed)
    s.offer_beyond(a + b)

    def work(base: int, height: int) -> Work:
        return area_of(f"{base} * {height}", base * height)

    return Question(ask_of_quadrilateral("area", a + b + c + d), needed, work)


def _parallelogram(s: Sketch, names: str, x: float, y: float, at_a: float) -> None:
    """Draw parallelogram ABCD with AB = x, BC = y and this angle at A."""
    if not 0.4 <= x / y <= 2.5:
        raise Unlucky
    side = cmath.rect(y, math.radians(at_a))
    s.put(names, 0, x, x + side, side)
    s.ring(names)


def _angled(s: Sketch):
    """Draw a parallelogram by its angle at A; it has no unit."""
    a, b, c, d = s.polygon(4)
    at_a = s.degrees(low=40, high=140)
    if 80 < at_a < 100:  # would pass for a rectangle
        raise Unlucky
    _parallelogram(s, a + b + c + d, s.rng.uniform(1.1, 1.7), 1, at_a)
    s.offer_length(a + b)
    return a, b, c, d, at_a


def _crossed(s: Sketch):
    """Draw a parallelogram by its diagonals, which cross in E."""
    a, b, c, d, e = s.polygon(4, others=1)
    x, y = s.length(), s.length()
    half = cmath.rect(y, math.radians(s.rng.uniform(50, 130)))
    s.put(a + c + b + d + e, -x, x, -half, half, 0)
    s.ring(a + b + c + d)
    s.join(a + c, b + d)
    return a, b, c, d, e, x, y


def _ask_corner(names: str, corner: str) -> str:
    """The question for an angle of a quadrilateral; its name tells which corners are neighbours."""
    question = ask_angle(corner)
    return f"In quadrilateral {going_round(names)}, {question[0].lower()}{question[1:]}"


# --- trapezoids ------------------------------------------------------------------------------------


def trapezoid_perimeter(s: Sketch) -> Question:
    """Four sides, their sum."""
    a, b, c, d = s.polygon(4)
    base, top, left, right = s.length(), s.length(), s.length(), s.length()
    _trapezoid(s, a + b + c + d, base, top, left, right)
    needed = length(a + b, base), length(b + c, right), length(c + d, top), length(d + a, left)
    s.show(*needed, parallel(a + b, c + d))
    s.offer_beyond(a + b)
    return Question(ask_of_quadrilateral("perimeter", a + b + c + d), needed, perimeter_of)


def trapezoid_isosceles(s: Sketch) -> Question:
    """Equal ticks on the legs, three values, the perimeter."""
    a, b, c, d = s.polygon(4)
    base, top, side = s.length(), s.length(), s.length()
    _trapezoid(s, a + b + c + d, base, top, side, side)
    lengths = length(a + b, base), length(b + c, side), length(c + d, top)
    needed = equal(a + d, b + c), *lengths
    s.show(*needed, parallel(a + b, c + d))
    s.offer_beyond(a + b)

    def work(base: int, side: int, top: int) -> Work:
        return then([so_length(a + d, side)], perimeter_of(base, side, top, side))

    return Question(ask_of_quadrilateral("perimeter", a + b + c + d), needed, work)


def trapezoid_angle(s: Sketch) -> Question:
    """An angle at the base, the other angle at the same leg."""
    a, b, c, d = s.polygon(4)
    at_a, at_b = s.degrees(low=40, high=120), s.degrees(low=40, high=120)
    height = s.rng.uniform(0.8, 1.2)
    left = complex(height / math.tan(math.radians(at_a)), height)
    right = complex(-height / math.tan(math.radians(at_b)), height)
    base = s.rng.uniform(1.5, 2.5)
    if not 0.5 <= (base + right - left).real <= 2.6 or abs(at_a + at_b - 180) < 15:
        raise Unlucky
    s.put(a + b + c + d, 0, base, base + right, left)
    s.ring(a + b + c + d)
    needed = parallel(a + b, c + d), angle(d + a + b, at_a)
    s.show(*needed)
    s.offer(angle(a + b + c, at_b))
    s.offer_length(a + b)

    def work(at_a: int) -> Work:
        return angle_is(f"180 - {at_a}", 180 - at_a, a + d + c)

    return Question(_ask_corner(a + b + c + d, a + d + c), needed, work)


def trapezoid_midsegment(s: Sketch) -> Question:
    """Two bases, the segment between the midpoints of the legs."""
    a, b, c, d, e, f, base, top, marks = _halved(s)
    needed = *marks, length(a + b, base), length(c + d, top)
    s.show(*needed)

    def work(base: int, top: int) -> Work:
        return length_is(f"({base} + {top}) / 2", (base + top) / 2, e + f)

    return Question(ask_length(e + f), needed, work)


def trapezoid_base(s: Sketch) -> Question:
    """A base and the segment between the midpoints of the legs, the other base."""
    a, b, c, d, e, f, base, top, marks = _halved(s)
    middle = (base + top) // 2
    if not s.dials.labels[0] <= middle <= s.dials.labels[1]:
        raise Unlucky
    needed = *marks, length(a + b, base), length(e + f, middle)
    s.show(*needed)

    def work(base: int, middle: int) -> Work:
        return length_is(f"2 * {middle} - {base}", 2 * middle - base, c + d)

    return Question(ask_length(c + d), needed, work)


def trapezoid_area(s: Sketch) -> Question:
    """Two bases and the height."""
    a, b, c, d, e = s.polygon(4, others=1)
    base, top, height = s.length(), s.length(), s.length()
    if (base + top) * height % 2 or not 0.4 * base <= top <= 0.8 * base:
        raise Unlucky
    foot = s.rng.uniform(0.3, 0.7) * (base - top)
    s.put(a + b + e, 0, base, foot)
    s.put(c + d, complex(foot + top, height), complex(foot, height))
    s.ring(a + b + c + d)
    s.join(d + e)
    marks = on_line(e, a + b), perpendicular(d + e, a + b), parallel(a + b, c + d)
    needed = *marks, length(a + b, base), length(c + d, top), length(d + e, height)
    s.show(*needed)
    s.offer_beyond(a + b)

    def work(base: int, top: int, height: int) -> Work:
        return area_of(f"({base} + {top}) * {height} / 2", (base + top) * height / 2)

    return Question(ask_of_quadrilateral("area", a + b + c + d), needed, work)


def _trapezoid(s: Sketch, names: str, base: int, top: int, left: int, right: int) -> None:
    """Draw trapezoid ABCD with AB = base, BC = right, CD = top, DA = left."""
    overhang = base - top
    if overhang < 0.2 * base or top < 0.25 * base:
        raise Unlucky
    x = (overhang**2 + left**2 - right**2) / (2 * overhang)
    if left**2 - x * x < (0.3 * base) ** 2:
        raise Unlucky
    place = complex(x, math.sqrt(left**2 - x * x))
    s.put(names, 0, base, place + top, place)
    s.ring(names)


def _halved(s: Sketch):
    """Draw a trapezoid ABCD with midpoints E of DA and F of BC: names, bases, marks."""
    a, b, c, d, e, f = s.polygon(4, others=2)
    base, top = s.length(), s.length()
    if (base + top) % 2 or not 0.35 * base <= top <= 0.8 * base:
        raise Unlucky
    place = complex(s.rng.uniform(0.2, 0.8) * (base - top), s.rng.uniform(0.6, 0.9) * base)
    s.put(a + b + c + d, 0, base, place + top, place)
    s.put(e + f, place / 2, (place + top + base) / 2)
    s.ring(a + b + c + d)
    s.join(e + f)
    marks = midpoint(e, a + d), midpoint(f, b + c), parallel(a + b, c + d)
    return a, b, c, d, e, f, base, top, marks
