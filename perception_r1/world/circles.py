"""Circles round O, with radius, chord and diameter: what they show and what is asked."""

import cmath
import math

from perception_r1.world import reckon
from perception_r1.world.scene import Question, Work, angle, length, on_circle, on_line
from perception_r1.world.sketch import Sketch, Unlucky


def diameter(s: Sketch) -> Question:
    """A radius, the diameter it is part of."""
    a, b = s.polygon(2)
    r = s.length()
    _circle(s, r, {a: 180, b: 0})
    s.join(a + b)
    needed = s.show(on_circle(a), on_circle(b), on_line("O", a + b), length("O" + b, r))

    def work(r: int) -> Work:
        return reckon.length_is(f"2 * {r}", 2 * r, a + b)

    return Question(reckon.ask_length(a + b), needed, work)


def inscribed_angle(s: Sketch) -> Question:
    """The angle between two radii, the inscribed angle over the same arc."""
    a, b, c = s.polygon(2, others=1)
    centre = s.degrees(low=74, high=150)  # below, C sees the radii and chords as one
    if centre % 2:
        raise Unlucky
    away = s.rng.uniform(-0.3, 0.3) * (centre - 72)
    _circle(s, 1, {a: -90 - centre / 2, b: -90 + centre / 2, c: 90 + away})
    s.join("O" + a, "O" + b, a + c, b + c)
    needed = s.show(on_circle(a), on_circle(b), on_circle(c), angle(a + "O" + b, centre))
    s.offer(length("O" + a, s.length()))

    def work(centre: int) -> Work:
        return reckon.angle_is(f"{centre} / 2", centre / 2, a + c + b)

    return Question(reckon.ask_angle(a + c + b), needed, work)


def semicircle(s: Sketch) -> Question:
    """A triangle over a diameter: an acute angle, the other one."""
    a, b, c = s.polygon(2, others=1)
    at_a = s.degrees(high=65)
    _circle(s, 1, {a: 180, b: 0, c: 2 * at_a})
    s.join(a + b, b + c, c + a)
    points = on_circle(a), on_circle(b), on_circle(c), on_line("O", a + b)
    needed = s.show(*points, angle(b + a + c, at_a))
    s.offer(length(a + c, s.length()))

    def work(at_a: int) -> Work:
        lines = ["The angle over the diameter is a right angle."]
        return reckon.then(lines, reckon.angle_is(f"90 - {at_a}", 90 - at_a, a + b + c))

    return Question(reckon.ask_angle(a + b + c), needed, work)


def _circle(s: Sketch, r: float, places: dict[str, float]) -> None:
    """Draw the circle round O and put points on it, by their direction from O in degrees."""
    s.radius = r
    s.put("O", 0)
    for name, degrees in places.items():
        s.put(name, cmath.rect(r, math.radians(degrees)))
