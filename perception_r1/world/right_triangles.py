"""Right triangles: what they show and what is asked."""

import cmath
import math

from perception_r1.world.reckon import (
    angle_is,
    area_of,
    ask_angle,
    ask_length,
    ask_of_triangle,
    hypotenuse,
    length_is,
    other_leg,
    perimeter_of,
    then,
)
from perception_r1.world.scene import Question, Work, angle, length, midpoint, perpendicular
from perception_r1.world.sketch import Sketch, Unlucky


def missing_hypotenuse(s: Sketch) -> Question:
    """Two legs, the hypotenuse."""
    a, b, c, needed = _two_legs(s)

    def work(x: int, y: int) -> Work:
        return hypotenuse(x, y, a + c)

    return Question(ask_length(a + c), needed, work)


def perimeter(s: Sketch) -> Question:
    """Two legs, the hypotenuse and then the perimeter."""
    a, b, c, needed = _two_legs(s)

    def work(x: int, y: int) -> Work:
        lines, z = hypotenuse(x, y, a + c)
        return then(lines, perimeter_of(x, y, z))

    return Question(ask_of_triangle("perimeter", a + b + c), needed, work)


def missing_leg(s: Sketch) -> Question:
    """Hypotenuse and a leg, the other leg."""
    a, b, c, needed = _leg_and_hypotenuse(s)

    def work(z: int, x: int) -> Work:
        return other_leg(z, x, b + c)

    return Question(ask_length(b + c), needed, work)


def area_by_hypotenuse(s: Sketch) -> Question:
    """Hypotenuse and a leg, the other leg and then the area."""
    a, b, c, needed = _leg_and_hypotenuse(s)

    def work(z: int, x: int) -> Work:
        lines, y = other_leg(z, x, b + c)
        return then(lines, area_of(f"{x} * {y} / 2", x * y / 2))

    return Question(ask_of_triangle("area", a + b + c), needed, work)


def area(s: Sketch) -> Question:
    """Two legs, the area."""
    a, b, c = s.polygon(3)
    x, y = s.length(), s.length()
    if x * y % 2:
        raise Unlucky
    _draw(s, a + b + c, x, y)
    needed = perpendicular(a + b, b + c), length(a + b, x), length(b + c, y)
    s.show(*needed)
    s.offer_beyond(c + a)

    def work(x: int, y: int) -> Work:
        return area_of(f"{x} * {y} / 2", x * y / 2)

    return Question(ask_of_triangle("area", a + b + c), needed, work)


def acute_angle(s: Sketch) -> Question:
    """One acute angle, the other."""
    a, b, c = s.polygon(3)
    at_a = s.degrees(high=65)
    _draw(s, a + b + c, 1, math.tan(math.radians(at_a)))
    needed = perpendicular(a + b, b + c), angle(b + a + c, at_a)
    s.show(*needed)
    s.offer_length(a + b)

    def work(at_a: int) -> Work:
        return angle_is(f"90 - {at_a}", 90 - at_a, a + c + b)

    return Question(ask_angle(a + c + b), needed, work)


def median(s: Sketch) -> Question:
    """The median to the hypotenuse, which is twice as long."""
    a, b, c, d = s.polygon(3, others=1)
    half = s.length()
    corner = cmath.rect(half, math.radians(s.rng.uniform(55, 125)))
    s.put(a + c + b + d, -half, half, corner, 0)
    s.ring(a + b + c)
    s.join(b + d)
    marks = perpendicular(a + b, b + c), midpoint(d, a + c)
    needed = *marks, length(b + d, half)
    s.show(*needed)
    s.offer_beyond(a + c)

    def work(half: int) -> Work:
        return length_is(f"2 * {half}", 2 * half, a + c)

    return Question(ask_length(a + c), needed, work)


def _two_legs(s: Sketch):
    """Draw a triangle with its right angle at B and both legs given: names and needed facts."""
    a, b, c = s.polygon(3)
    x, y, z = s.triple(0, 1)
    _draw(s, a + b + c, x, y)
    needed = perpendicular(a + b, b + c), length(a + b, x), length(b + c, y)
    s.show(*needed)
    s.offer_beyond(c + a)
    return a, b, c, needed


def _leg_and_hypotenuse(s: Sketch):
    """Draw a triangle with its right angle at B and AC, AB given: names and needed facts."""
    a, b, c = s.polygon(3)
    x, y, z = s.triple(0, 2)
    _draw(s, a + b + c, x, y)
    needed = perpendicular(a + b, b + c), length(a + c, z), length(a + b, x)
    s.show(*needed)
    s.offer_beyond(c + b)
    return a, b, c, needed


def _draw(s: Sketch, names: str, ab: float, bc: float) -> None:
    """Draw triangle ABC with its right angle at B."""
    s.put(names, complex(0, ab), 0, bc)
    s.ring(names)
