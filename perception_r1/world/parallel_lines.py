"""Two parallel lines cut by a transversal: what they show and what is asked.

Lines AB and CD, in this order of letters, run in the same direction; EF cuts AB in G and CD in H.
"""

import cmath
import math

from perception_r1.world.reckon import angle_is, ask_angle, so_angle, then
from perception_r1.world.scene import Question, Work, angle, length, on_line, parallel
from perception_r1.world.sketch import Sketch


def corresponding(s: Sketch) -> Question:
    """An angle, the one in the same place at the other line."""
    names = a, b, c, d, e, f, g, h = s.names(8)
    p, q = s.rng.choice(((a, c), (b, d)))
    end, near = s.rng.choice(((e, g), (h, f)))
    return _equal(s, names, "corresponding", p + g + end, q + h + near)


def alternate(s: Sketch) -> Question:
    """An angle between the lines, the one on the other side of the transversal."""
    names = a, b, c, d, e, f, g, h = s.names(8)
    p, q = s.rng.choice(((a, d), (b, c)))
    return _equal(s, names, "alternate", p + g + h, q + h + g)


def same_side(s: Sketch) -> Question:
    """An angle between the lines, the one on the same side of the transversal."""
    names = a, b, c, d, e, f, g, h = s.names(8)
    p, q = s.rng.choice(((a, c), (b, d)))
    asked = q + h + g
    value, needed = _draw(s, names, p + g + h, asked)

    def work(value: int) -> Work:
        return angle_is(f"180 - {value}", 180 - value, asked)

    return Question(ask_angle(asked), needed, work)


def two_steps(s: Sketch) -> Question:
    """An angle outside the lines, the corresponding one and then its neighbour."""
    names = a, b, c, d, e, f, g, h = s.names(8)
    p, q, r = s.rng.choice(((a, c, d), (b, d, c)))
    asked = r + h + g
    value, needed = _draw(s, names, p + g + e, asked)

    def work(value: int) -> Work:
        return then(
            [f"Corresponding angles are equal. {so_angle(q + h + g, value)}"],
            angle_is(f"180 - {value}", 180 - value, asked),
        )

    return Question(ask_angle(asked), needed, work)


def _equal(s: Sketch, names: tuple, relation: str, given: str, asked: str) -> Question:
    value, needed = _draw(s, names, given, asked)

    def work(value: int) -> Work:
        lines = [f"{relation.capitalize()} angles are equal."]
        return [*lines, so_angle(asked, value)], value

    return Question(ask_angle(asked), needed, work)


def _draw(s: Sketch, names: tuple, given: str, asked: str):
    """Draw the lines so that the given angle has a value: that value, and the needed facts."""
    a, b, c, d, e, f, g, h = names
    value = s.degrees(low=40, high=140)
    slope = value if given[0] + given[2] in (b + e, a + h) else 180 - value  # of the transversal
    along = cmath.rect(1, math.radians(slope))
    half = 0.8
    s.put(g + h, half / along.imag * along, -half / along.imag * along)
    s.put(e + f, s.points[g] + 1.2 * along, s.points[h] - 1.2 * along)
    s.put(a + b, complex(-2.4, half), complex(2.4, half))
    s.put(c + d, complex(-2.4, -half), complex(2.4, -half))
    s.join(a + b, c + d, e + f)
    cut = on_line(g, e + f), on_line(h, e + f)
    needed = on_line(g, a + b), on_line(h, c + d), parallel(a + b, c + d), angle(given, value)
    if {e, f} & set(given + asked):  # else the transversal may end in G and H
        needed = *cut, *needed
    s.show(*needed)
    if cut[0] not in needed:
        s.show(*cut)
    s.offer(length(g + h, s.length()))
    return value, needed
