"""Triangles, rectangles and parallelograms: what they show and what is asked.

A rectangle is known by equal ticks on opposite sides and one right angle, a parallelogram by diagonals
that halve each other; the question only says "quadrilateral".
"""

import cmath
import math

from perception_r1.facts import Call
from perception_r1.world import reckon
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

# --- triangles: lengths -----------------------------------------------------------------------------


def triangle_perimeter(s: Sketch) -> Question:
    """Three sides, their sum."""
    a, b, c = s.polygon(3)
    x, y, z = s.length(), s.length(), s.length()
    s.triangle(a + b + c, x, y, z)
    needed = s.show(length(a + b, x), length(b + c, y), length(c + a, z))
    return Question(reckon.ask_size("perimeter", a + b + c), needed, reckon.perimeter_of)


def two_sides(s: Sketch) -> Question:
    """Two sides, their sum; the third is in sight."""
    a, b, c = s.polygon(3)
    x, y, z = s.length(), s.length(), s.length()
    s.triangle(a + b + c, x, y, z)
    needed = s.show(length(a + b, x), length(b + c, y))
    s.offer(length(c + a, z))

    def work(x: int, y: int) -> Work:
        return [f"The sum is {reckon.added(x, y)}."], x + y

    first, second = reckon.segment_name(a + b), reckon.segment_name(b + c)
    return Question(f"What is {first} + {second}?", needed, work)


# --- triangles: angles ------------------------------------------------------------------------------


def third_angle(s: Sketch) -> Question:
    """Two angles, the third."""
    a, b, c = s.polygon(3)
    at_a, at_b = s.degrees(), s.degrees()
    _by_angles(s, a + b + c, at_a, at_b)
    needed = s.show(angle(b + a + c, at_a), angle(a + b + c, at_b))
    s.offer(length(b + c, s.length()))

    def work(at_a: int, at_b: int) -> Work:
        return reckon.angle_is(f"180 - {at_a} - {at_b}", 180 - at_a - at_b, a + c + b)

    return Question(reckon.ask_angle(a + c + b), needed, work)


def exterior_angle(s: Sketch) -> Question:
    """Two angles, the exterior angle at the third corner."""
    a, b, c, d = s.polygon(3, others=1)
    at_a, at_b = s.degrees(), s.degrees()
    _by_angles(s, a + b + c, at_a, at_b)
    s.put(d, s.points[c] + (s.points[c] - s.points[b]) * 0.5)
    s.join(c + d)
    needed = s.show(on_line(c, b + d), angle(b + a + c, at_a), angle(a + b + c, at_b))
    s.offer(length(a + b, s.length()))

    def work(at_a: int, at_b: int) -> Work:
        third = reckon.inside(180 - at_a - at_b)
        lines, _ = reckon.angle_is(f"180 - {at_a} - {at_b}", third, a + c + b)
        return reckon.then(lines, reckon.angle_is(f"180 - {third}", 180 - third, a + c + d))

    return Question(reckon.ask_angle(a + c + d), needed, work)


def isosceles_base(s: Sketch) -> Question:
    """Two sides with equal ticks; from the angle between them, an angle at the base."""
    a, b, c = s.polygon(3)
    top = s.degrees()
    if top % 2:
        raise Unlucky
    _by_angles(s, a + b + c, 90 - top // 2, 90 - top // 2)
    needed = s.show(equal(b + c, c + a), angle(a + c + b, top))
    s.offer(length(a + b, s.length()))

    def work(top: int) -> Work:
        return reckon.angle_is(f"(180 - {top}) / 2", (180 - top) / 2, c + a + b)

    return Question(reckon.ask_angle(c + a + b), needed, work)


def _by_angles(s: Sketch, names: str, at_a: int, at_b: int) -> None:
    """Draw triangle ABC with these angles; its unit is the side AB."""
    if at_a + at_b >= 180:
        raise Unlucky
    ratio = math.sin(math.radians(at_b)) / math.sin(math.radians(at_a + at_b))
    s.put(names, 0, 1, cmath.rect(ratio, math.radians(at_a)))
    s.ring(names)


# --- right triangles -------------------------------------------------------------------------------


def missing_hypotenuse(s: Sketch) -> Question:
    """Two legs, the hypotenuse."""
    a, b, c = s.polygon(3)
    x, y, _ = s.triple(0, 1)
    needed = s.show(_right_angle(s, a + b + c, x, y), length(a + b, x), length(b + c, y))

    def work(x: int, y: int) -> Work:
        return reckon.by_pythagoras(x, "+", y, a + c)

    return Question(reckon.ask_length(a + c), needed, work)


def missing_leg(s: Sketch) -> Question:
    """Hypotenuse and a leg, the other leg."""
    a, b, c = s.polygon(3)
    x, y, z = s.triple(0, 2)
    needed = s.show(_right_angle(s, a + b + c, x, y), length(a + c, z), length(a + b, x))

    def work(z: int, x: int) -> Work:
        return reckon.by_pythagoras(z, "-", x, b + c)

    return Question(reckon.ask_length(b + c), needed, work)


def _right_angle(s: Sketch, names: str, ab: float, bc: float) -> Call:
    """Draw triangle ABC with a right angle at B, and legs of these lengths: the fact of that angle."""
    a, b, c = names
    s.put(names, complex(0, ab), 0, bc)
    s.ring(names)
    return perpendicular(a + b, b + c)


# --- rectangles ------------------------------------------------------------------------------------


def rectangle_perimeter(s: Sketch) -> Question:
    """Two sides and the ticks, the perimeter."""
    (a, b, c, d), x, y, ticks, right_angle = _rectangle(s)
    needed = s.show(*ticks, length(a + b, x), length(b + c, y))
    s.show(right_angle)

    def work(x: int, y: int) -> Work:
        lines = [reckon.so_length(c + d, x), reckon.so_length(d + a, y)]
        return reckon.then(lines, reckon.perimeter_of(x, y, x, y))

    return Question(reckon.ask_size("perimeter", a + b + c + d), needed, work)


def rectangle_area(s: Sketch) -> Question:
    """Two sides and the marks, the area."""
    (a, b, c, d), x, y, ticks, right_angle = _rectangle(s)
    needed = s.show(*ticks, right_angle, length(a + b, x), length(b + c, y))

    def work(x: int, y: int) -> Work:
        return [f"The area is {x} * {y} = {x * y}."], x * y

    return Question(reckon.ask_size("area", a + b + c + d), needed, work)


def _rectangle(s: Sketch) -> tuple[str, int, int, tuple[Call, Call], Call]:
    """Draw a rectangle: its names ABCD, AB and BC, the facts of its equal sides, and of its right angle at B."""
    names = a, b, c, d = s.polygon(4)
    x, y = s.length(), s.length()
    if not 0.4 <= x / y <= 2.5:
        raise Unlucky
    s.put(names, 0, x, complex(x, y), complex(0, y))
    s.ring(names)
    return names, x, y, (equal(a + b, c + d), equal(b + c, d + a)), perpendicular(a + b, b + c)


# --- parallelograms --------------------------------------------------------------------------------


def parallelogram_diagonal(s: Sketch) -> Question:
    """Half of one diagonal, all of it."""
    a, b, c, d, e = s.polygon(4, others=1)
    x, y = s.length(), s.length()
    half = cmath.rect(y, math.radians(s.rng.uniform(50, 130)))
    s.put(a + c + b + d + e, -x, x, -half, half, 0)
    s.ring(a + b + c + d)
    s.join(a + c, b + d)
    needed = s.show(midpoint(e, a + c), length(a + e, x))
    s.show(midpoint(e, b + d))
    s.offer(length(b + e, y))

    def work(x: int) -> Work:
        return reckon.length_is(f"2 * {x}", 2 * x, a + c)

    return Question(reckon.ask_length(a + c), needed, work)
