"""Triangles: what they show and what is asked."""

import cmath
import math

from perception_r1.world.reckon import (
    added,
    angle_is,
    area_of,
    ask_angle,
    ask_length,
    ask_of_triangle,
    inside,
    length_is,
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
    perpendicular,
)
from perception_r1.world.sketch import Sketch, Unlucky


def perimeter(s: Sketch) -> Question:
    """Three sides, their sum."""
    a, b, c = s.polygon(3)
    x, y, z = s.length(), s.length(), s.length()
    s.triangle(a + b + c, x, y, z)
    needed = length(a + b, x), length(b + c, y), length(c + a, z)
    s.show(*needed)
    s.offer_beyond(a + b)
    return Question(ask_of_triangle("perimeter", a + b + c), needed, perimeter_of)


def two_sides(s: Sketch) -> Question:
    """Two sides, their sum; the third is in sight."""
    a, b, c = s.polygon(3)
    x, y, z = s.length(), s.length(), s.length()
    s.triangle(a + b + c, x, y, z)
    needed = length(a + b, x), length(b + c, y)
    s.show(*needed)
    s.offer(length(c + a, z))
    s.offer_beyond(a + b)
    first, second = ("".join(sorted(side)) for side in (a + b, b + c))

    def work(x: int, y: int) -> Work:
        return [f"The sum is {added(x, y)}."], x + y

    return Question(f"What is {first} + {second}?", needed, work)


def isosceles_perimeter(s: Sketch) -> Question:
    """Two sides with equal ticks, one of them and the base with values."""
    a, b, c = s.polygon(3)
    x, y = s.length(), s.length()
    s.triangle(a + b + c, y, x, x)
    needed = equal(b + c, c + a), length(b + c, x), length(a + b, y)
    s.show(*needed)
    s.offer_beyond(b + a)

    def work(x: int, y: int) -> Work:
        return then([so_length(c + a, x)], perimeter_of(x, x, y))

    return Question(ask_of_triangle("perimeter", a + b + c), needed, work)


def midsegment(s: Sketch) -> Question:
    """The segment between two midpoints; the third side is twice as long."""
    a, b, c, d, e = s.polygon(3, others=2)
    x, y = s.length(), s.length()
    s.triangle(a + b + c, 2 * x, 2 * y, 2 * x * s.rng.uniform(0.7, 1.3))
    s.put(d + e, (s.points[a] + s.points[c]) / 2, (s.points[b] + s.points[c]) / 2)
    s.join(d + e)
    needed = midpoint(d, a + c), midpoint(e, b + c), length(d + e, x)
    s.show(*needed)
    s.offer(length(b + e, y))

    def work(x: int) -> Work:
        return length_is(f"2 * {x}", 2 * x, a + b)

    return Question(ask_length(a + b), needed, work)


# --- a side in two parts, and the height ------------------------------------------------------------


def side_of_parts(s: Sketch) -> Question:
    """Both parts of a side, the side."""
    a, b, c, d = s.polygon(3, others=1)
    x, y, z = s.length(), s.length(), s.length()
    _divided(s, a + b + c + d, x, y, z)
    needed = on_line(d, a + b), length(a + d, x), length(d + b, y)
    s.show(*needed)
    s.offer(length(b + c, z))
    s.offer_beyond(a + b)

    def work(x: int, y: int) -> Work:
        return length_is(f"{x} + {y}", x + y, a + b)

    return Question(ask_length(a + b), needed, work)


def perimeter_of_parts(s: Sketch) -> Question:
    """Three sides, one of them in two parts."""
    a, b, c, d = s.polygon(3, others=1)
    x, y, z, w = s.length(), s.length(), s.length(), s.length()
    _divided(s, a + b + c + d, x, y, z, w)
    lengths = length(a + d, x), length(d + b, y), length(b + c, z), length(c + a, w)
    needed = on_line(d, a + b), *lengths
    s.show(*needed)
    s.offer_beyond(b + a)

    def work(x: int, y: int, z: int, w: int) -> Work:
        parts, side = length_is(f"{x} + {y}", x + y, a + b)
        return then(parts, perimeter_of(side, z, w))

    return Question(ask_of_triangle("perimeter", a + b + c), needed, work)


def _divided(s: Sketch, names: str, x: int, y: int, z: int, w: float = 0) -> None:
    """Draw triangle ABC with D on AB and CD: AD = x, DB = y, BC = z, CA = w (0: whatever is handy)."""
    a, b, c, d = names
    s.triangle(a + b + c, x + y, z, w or (x + y) * s.rng.uniform(0.7, 1.3))
    s.put(d, s.points[a] + (s.points[b] - s.points[a]) * x / (x + y))
    s.join(c + d)


def area(s: Sketch) -> Question:
    """Base and height."""
    a, b, c, d = s.polygon(3, others=1)
    base, height = s.length(), s.length()
    foot = s.length(high=base - 1)
    if base * height % 2:
        raise Unlucky
    s.put(a + b + c + d, 0, base, complex(foot, height), foot)
    s.ring(a + b + c)
    s.join(c + d)
    marks = on_line(d, a + b), perpendicular(c + d, a + b)
    needed = *marks, length(a + b, base), length(c + d, height)
    s.show(*needed)

    def work(base: int, height: int) -> Work:
        return area_of(f"{base} * {height} / 2", base * height / 2)

    return Question(ask_of_triangle("area", a + b + c), needed, work)


# --- angles ----------------------------------------------------------------------------------------


def third_angle(s: Sketch) -> Question:
    """Two angles, the third."""
    a, b, c = s.polygon(3)
    at_a, at_b = s.degrees(), s.degrees()
    _by_angles(s, a + b + c, at_a, at_b)
    needed = angle(b + a + c, at_a), angle(a + b + c, at_b)
    s.show(*needed)
    s.offer_length(b + c)

    def work(at_a: int, at_b: int) -> Work:
        return angle_is(f"180 - {at_a} - {at_b}", 180 - at_a - at_b, a + c + b)

    return Question(ask_angle(a + c + b), needed, work)


def exterior_angle(s: Sketch) -> Question:
    """Two angles, the exterior angle at the third corner."""
    a, b, c, d = s.polygon(3, others=1)
    at_a, at_b = s.degrees(), s.degrees()
    _by_angles(s, a + b + c, at_a, at_b)
    s.put(d, s.points[c] + (s.points[c] - s.points[b]) * 0.5)
    s.join(c + d)
    needed = on_line(c, b + d), angle(b + a + c, at_a), angle(a + b + c, at_b)
    s.show(*needed)
    s.offer_length(a + b)

    def work(at_a: int, at_b: int) -> Work:
        third = inside(180 - at_a - at_b)
        lines, _ = angle_is(f"180 - {at_a} - {at_b}", third, a + c + b)
        return then(lines, angle_is(f"180 - {third}", 180 - third, a + c + d))

    return Question(ask_angle(a + c + d), needed, work)


def isosceles_base(s: Sketch) -> Question:
    """Two sides with equal ticks; from the angle between them, an angle at the base."""
    a, b, c = s.polygon(3)
    top = s.degrees()
    if top % 2:
        raise Unlucky
    _by_angles(s, a + b + c, 90 - top // 2, 90 - top // 2)
    needed = equal(b + c, c + a), angle(a + c + b, top)
    s.show(*needed)
    s.offer_length(a + b)

    def work(top: int) -> Work:
        return angle_is(f"(180 - {top}) / 2", (180 - top) / 2, c + a + b)

    return Question(ask_angle(c + a + b), needed, work)


def isosceles_top(s: Sketch) -> Question:
    """Two sides with equal ticks; from an angle at the base, the angle between them."""
    a, b, c = s.polygon(3)
    base = s.degrees(high=80)
    _by_angles(s, a + b + c, base, base)
    needed = equal(b + c, c + a), angle(c + a + b, base)
    s.show(*needed)
    s.offer_length(a + b)

    def work(base: int) -> Work:
        return angle_is(f"180 - 2 * {base}", 180 - 2 * base, a + c + b)

    return Question(ask_angle(a + c + b), needed, work)


def _by_angles(s: Sketch, names: str, at_a: int, at_b: int) -> None:
    """Draw triangle ABC with these angles; its unit is the side AB."""
    if at_a + at_b >= 180:
        raise Unlucky
    ratio = math.sin(math.radians(at_b)) / math.sin(math.radians(at_a + at_b))
    s.put(names, 0, 1, cmath.rect(ratio, math.radians(at_a)))
    s.ring(names)
