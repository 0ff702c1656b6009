r"""The words of a problem: the question with its given facts, and a teacher's chain of thought.

The teacher states facts of the figure, one sentence each, then computes; sentences that begin with "So"
give what was worked out, not seen. It may err (`teacher_error_rate`): one stated value is wrong. The computation may
go on from it to the answer that follows, or use the right value all the same: a lucky right answer.
"""

import contextlib
import random
from dataclasses import dataclass
from typing import Literal

from perception_r1.facts import Call, to_sentence
from perception_r1.world.config import WorldConfig
from perception_r1.world.scene import ANGLES, Question, Scene, Work, value_of, with_value


@dataclass(frozen=True)
class Teacher:
    """What the teacher wrote, and what is wrong with it.

    Attributes:
        cot: the whole response, `<think>` block and `<answer>` block.
        wrong: stated facts that are not what the figure shows, as logic forms.
        error: None without a planted error; "follows" if the answer follows from the wrong value,
            "lucky" if the answer is the right one all the same.
    """

    cot: str
    wrong: tuple[str, ...]
    error: Literal["follows", "lucky"] | None


def write_question(question: Question, text_rich: bool) -> str:
    """The question with its image mark, and with the needed facts if it is `text_rich`."""
    if not text_rich:
        return f"<image>{question.text}"
    *most, last = map(in_short, question.needed)
    given = f"{', '.join(most)} and {last}" if most else last
    return f"<image>In the figure, {given}. {question.text}"


def in_short(fact: Call) -> str:
    """A fact as a question gives it: "AB = 5", "D lies on AB"."""
    names = [_name(term) for term in fact.args]
    verb = {
        "Equals": "=",
        "Perpendicular": "is perpendicular to",
        "Parallel": "is parallel to",
        "PointLiesOnLine": "lies on",
        "PointLiesOnCircle": "lies on circle",
        "IsMidpointOf": "is the midpoint of",
    }[fact.name]
    return f"{names[0]} {verb} {names[1]}"


def _name(term: str | Call) -> str:
    if isinstance(term, str):
        return term
    if term.name in ("LengthOf", "MeasureOf"):
        return _name(term.args[0])
    return ("angle " if term.name == "Angle" else "") + "".join(map(str, term.args))


def teach(
    question: Question,
    scene: Scene,
    given: tuple[Call, ...],
    config: WorldConfig,
    rng: random.Random,
) -> Teacher:
    """Write a chain of thought.

    Args:
        question: what is asked.
        scene: what there is to see.
        given: facts that stand in the question; a planted error prefers others.
        config: the dial `teacher_error_rate`, and the range of misread lengths.
        rng: decides what goes wrong.
    """

    def others(fact: Call) -> list[Call]:
        """The fact with all values that it might have, but its own, in random order."""
        low, high = ANGLES if fact.args[0].name == "MeasureOf" else config.labels
        values = [value for value in range(low, high + 1) if value != value_of(fact)]
        rng.shuffle(values)
        return [with_value(fact, value) for value in values]

    def misread(fact: Call) -> Call | None:
        """The fact with another value, from which some answer still follows."""
        for wrong in others(fact):
            with contextlib.suppress(ValueError):
                work_out(question, {fact: wrong})
                return wrong
        return None

    stated, used = {fact: fact for fact in scene.facts}, {}  # true fact -> as stated, as used
    for _ in scene.facts:
        rng.random()  # a dial that is gone drew these: recorded problems stay as they are
    valued = [fact for fact in scene.facts if value_of(fact) is not None]
    planted = rng.random() < config.teacher_error_rate and bool(valued)
    if planted:
        fact = rng.choice([fact for fact in valued if fact not in given] or valued)
        follows = fact in question.needed and rng.random() < 0.5
        if follows and (wrong := misread(fact)):
            stated[fact] = used[fact] = wrong
        else:  # not used, or nothing whole would follow
            stated[fact] = [*others(fact), with_value(fact, value_of(fact) + 1)][0]
    lines, answer = work_out(question, used)
    lucky = answer == work_out(question, {})[1]
    sentences = map(to_sentence, stated.values())
    cot = "<think>\n{}\n</think>\n<answer>\nThe answer is \\boxed{{{}}}.\n</answer>"
    return Teacher(
        cot=cot.format("\n".join([*sentences, *lines]), answer),
        wrong=tuple(str(read) for fact, read in stated.items() if read != fact),
        error=("lucky" if lucky else "follows") if planted else None,
    )


def work_out(question: Question, used: dict[Call, Call]) -> Work:
    """The computation, with the needed facts as they are used; the others are used as they are."""
    facts = (used.get(fact, fact) for fact in question.needed)
    return question.work(*(value for fact in facts if (value := value_of(fact)) is not None))
