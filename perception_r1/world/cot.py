r"""The words of a problem: the question with its given facts, and a teacher's chain of thought.

The teacher states facts of the figure, one sentence each, then computes; sentences that begin with "So"
give what was worked out, not seen. It may err in two ways, each with its own dial:

- sloppiness (`slop`), per fact: left out, or misread, and then the computation goes on from what was misread;
- an error (`teacher_error_rate`), per problem: one stated value is wrong. The computation may go on from
  it to the answer that follows, or use the right value all the same: a lucky right answer.
"""

import random
from dataclasses import dataclass
from typing import Literal

from perception_r1 import facts
from perception_r1.facts.visual_facts import Call
from perception_r1.world.config import WorldConfig
from perception_r1.world.scene import Question, Scene, value_of, with_value


@dataclass(frozen=True)
class Teacher:
    """What the teacher wrote, and what is wrong with it.

    Attributes:
        cot: the whole response, `<think>` block and `<answer>` block.
        stated: the facts it states, as logic forms.
        wrong: those of them that are not what the figure shows.
        left_out: the facts of the figure that it does not mention.
        answer: the answer it gives.
        error: None without a planted error; "follows" if the answer follows from the wrong value,
            "lucky" if the answer is the right one all the same.
    """

    cot: str
    stated: tuple[str, ...]
    wrong: tuple[str, ...]
    left_out: tuple[str, ...]
    answer: int
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
        config: the dials `slop`, `slop_on`, `teacher_error_rate`, and the ranges of misread values.
        rng: decides what goes wrong.
    """
    seen = {fact: fact for fact in scene.facts}  # true fact -> as stated
    used = {fact: fact for fact in question.needed}  # true fact -> as used in the computation
    reach = [
        fact
        for fact in scene.facts
        if config.slop_on == "both" or (fact in used) == (config.slop_on == "needed")
    ]
    for fact in reach:
        if rng.random() < config.slop:
            misread = _misread(fact, question, used, config, rng) if rng.random() < 0.5 else None
            if misread:
                seen[fact] = misread
                used.update({fact: misread} if fact in used else {})
            else:
                del seen[fact]
    error = None
    if rng.random() < config.teacher_error_rate:
        error = _plant_error(question, seen, used, given, config, rng)
    lines, answer = question.work(*_values(used))
    sentences = [facts.to_sentence(fact) for fact in seen.values()]
    cot = "<think>\n{}\n</think>\n<answer>\nThe answer is \\boxed{{{}}}.\n</answer>"
    return Teacher(
        cot=cot.format("\n".join([*sentences, *lines]), answer),
        stated=tuple(map(str, seen.values())),
        wrong=tuple(str(stated) for fact, stated in seen.items() if stated != fact),
        left_out=tuple(str(fact) for fact in scene.facts if fact not in seen),
        answer=answer,
        error=error,
    )


def _plant_error(
    question: Question,
    seen: dict[Call, Call],
    used: dict[Call, Call],
    given: tuple[Call, ...],
    config: WorldConfig,
    rng: random.Random,
) -> Literal["follows", "lucky"] | None:
    """Make one stated value wrong, in `seen`, and for half of the needed ones in `used` as well."""
    valued = [fact for fact in seen if value_of(fact) is not None and seen[fact] == fact]
    from_image = [fact for fact in valued if fact not in given]
    if not valued:
        return None
    fact = rng.choice(from_image or valued)
    follows = fact in used and rng.random() < 0.5
    wrong = _misread(fact, question, used, config, rng) if follows else None
    if wrong:
        seen[fact] = used[fact] = wrong
    else:  # not used, or nothing whole would follow
        seen[fact] = _misread(fact, question, {}, config, rng) or with_value(
            fact, value_of(fact) + 1
        )
    right = question.work(*_values({fact: fact for fact in question.needed}))[1]
    return "lucky" if question.work(*_values(used))[1] == right else "follows"


def _misread(
    fact: Call, question: Question, used: dict[Call, Call], config: WorldConfig, rng: random.Random
) -> Call | None:
    """The fact with another value in the dials' range, from which some answer still follows."""
    value = value_of(fact)
    if value is None:
        return None
    is_angle = fact.args[0].name == "MeasureOf"
    low, high = config.angles if is_angle else config.labels
    others = [v for v in range(low, high + 1) if v != value]
    rng.shuffle(others)
    for other in others:
        wrong = with_value(fact, other)
        try:
            if fact in used:
                question.work(*_values({**used, fact: wrong}))
        except ValueError:
            continue
        return wrong
    return None


def _values(used: dict[Call, Call]) -> list[int]:
    """The values for `Question.work`, in the order of the needed facts."""
    return [value for fact in used.values() if (value := value_of(fact)) is not None]
