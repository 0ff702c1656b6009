"""Sums of sides, the world of the map (notebooks 04 and 05): polygons whose labels must be read one by one.

Figures are not to scale and corners have any letters, so that nothing but a label tells a length. The dial `sides`
says how many lengths an answer takes, the kind of question how likely luck is; and `shortcut`, a dial of the words,
gives sums of sides in the text that suffice without a look.
"""

import cmath
import math
from collections.abc import Callable

from perception_r1.facts import Call
from perception_r1.world.reckon import added
from perception_r1.world.scene import Question, Work, in_reading_order, length, value_of
from perception_r1.world.sketch import LETTERS, Sketch

# From the sum to the last sentences of the chain of thought, and the answer.
Ending = Callable[[int], Work]


def exact_sum(s: Sketch) -> Question:
    """All labelled sides, their sum."""
    return _question("What is {}?", _polygon(s), lambda total: ([], total))


def even_or_odd(s: Sketch) -> Question:
    """The same sum, of which only the parity is asked: luck is right half of the time."""

    def ending(total: int) -> Work:
        parity = "odd" if total % 2 else "even"
        return [f"{total} is {parity}."], parity

    return _question("Is {} even or odd?", _polygon(s), ending)


def remainder(s: Sketch) -> Question:
    """The same sum, of which only the remainder by 4 is asked: luck is right a quarter of the time."""

    def ending(total: int) -> Work:
        return [f"{total} divided by 4 leaves {total % 4}."], total % 4

    return _question("What is the remainder of {} divided by 4?", _polygon(s), ending)


def _polygon(s: Sketch) -> tuple[Call, ...]:
    """Draw a polygon, about regular, and give its sides any lengths; of a triangle's sides `sides` are labelled."""
    corners = max(3, s.dials.sides)
    names = "".join(sorted(s.rng.sample(LETTERS[: s.dials.letters], corners)))
    for k, name in enumerate(names):
        turn = (k + 0.5 + s.rng.uniform(-0.1, 0.1)) * math.tau / corners
        s.put(name, cmath.rect(s.rng.uniform(0.85, 1.15), turn))
    s.ring(names)
    facts = [length(stroke, s.length()) for stroke in s.strokes[: s.dials.sides]]
    return in_reading_order(s.show(*facts))


def _question(text: str, needed: tuple[Call, ...], ending: Ending) -> Question:
    """The question about the sum, with its shortcut: the sums of the first sides and of the others, given."""
    names = ["".join(fact.args[0].args[0].args) for fact in needed]
    values = [value_of(fact) for fact in needed]
    question = text.format(" + ".join(names))

    def work(*values: int) -> Work:
        steps, total = [], values[0]
        for value in values[1:]:
            steps.append(f"{added(total, value)}.")
            total += value
        sentences, answer = ending(total)
        return [*steps, *sentences], answer

    half = len(names) // 2
    parts = [slice(half), slice(half, None)]
    first, second = (f"{' + '.join(names[part])} = {sum(values[part])}" for part in parts)
    given = f"In the figure, {first} and {second}. {question}"
    known = Question(given, (), lambda: work(*(sum(values[part]) for part in parts)))
    return Question(question, needed, work, shortcut=known if half > 1 else None)
