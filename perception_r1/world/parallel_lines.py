"""Two parallel lines cut by a transversal: what they show and what is asked.

Lines AB and CD, in this order of letters, run in the same direction; EF cuts AB in G and CD in H.
"""

import cmath
import math

from perception_r1.facts import Call
from perception_r1.world import reckon
from perception_r1.world.scene import Question, Work, angle, length, on_line, parallel
from perception_r1.world.sketch import Sketch


def corresponding(s: Sketch) -> Question:
    """An angle, the one in the same place at the other line."""
    names = a, b, c, d, e, f, g, h = s.names(8)
    p, q = s.rng.choice(((a, c), (b, d)))
    end, near = s.rng.choice(((e, g), (h, f)))
    target = q + h + near
    needed = _lines(s, names, p + g + end, target)

    def work(value: int) -> Work:
        return ["Corresponding angles are equal.", reckon.so_angle(target, value)], value

    return Question(reckon.ask_angle(target), needed, work)


def same_side(s: Sketch) -> Question:
    """An angle between the lines, the one on the same side of the transversal."""
    names = a, b, c, d, e, f, g, h = s.names(8)
    p, q = s.rng.choice(((a, c), (b, d)))
    target = q + h + g
    needed = _lines(s, names, p + g + h, target)

    def work(value: int) -> Work:
        return reckon.angle_is(f"180 - {value}", 180 - value, target)

    return Question(reckon.ask_angle(target), needed, work)


def _lines(s: Sketch, names: str, given: str, target: str) -> tuple[Call, ...]:
    """Draw the lines so that the given angle has a value that may be written: the needed facts."""
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
    s.show(*cut, *needed)
    s.offer(length(g + h, s.length()))
    # An angle towards E or F needs these lines to go on beyond G and H.
    return (*cut, *needed) if {e, f} & set(given + target) else needed
