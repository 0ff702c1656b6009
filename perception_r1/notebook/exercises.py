"""Exercises that check themselves: a word if the answer is right, else a hint. Used in each notebook.

    check("01.1", (True, False))

What is to be explained has no check; all exercises have a solution in `notebooks/solutions/`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from perception_r1.evidence.stats import mcnemar
from perception_r1.problems.schema import DatasetError, read_annotations


@dataclass(frozen=True)
class Checked:
    """What comes of an answer; shown as its message.

    Attributes:
        right: None where there is no answer yet, or not one of the kind that is wanted.
        message: for the learner.
    """

    right: bool | None
    message: str

    def _repr_markdown_(self) -> str:
        mark = {True: "**Right.** ", False: "**Not yet.** ", None: ""}[self.right]
        return mark + self.message


@dataclass(frozen=True)
class _Exercise:
    wants: str  # the kind of answer, in words
    kind: object  # and as a type
    right: Callable[[Any], bool]
    why: str
    hint: str


def check(name: str, answer: object = ...) -> Checked:
    """Check an answer to an exercise; `...` is no answer yet."""
    exercise = _EXERCISES[name]
    if answer is ...:
        dots = f"Exercise {name}: put your answer in place of the dots, {exercise.wants}."
        return Checked(None, dots)
    try:
        right = bool(exercise.right(TypeAdapter(exercise.kind).validate_python(answer)))
    except ValidationError:
        return Checked(None, f"Exercise {name} takes {exercise.wants}.")
    return Checked(right, exercise.why if right else f"Hint: {exercise.hint}")


def _near(wanted: float, within: float) -> Callable[[float], bool]:
    return lambda answer: abs(answer - wanted) <= within


def _names(wanted: str) -> Callable[[str], bool]:
    return lambda answer: answer.strip().lower().replace("_", "-").replace(" ", "-") == wanted


def _two_changed(answer: tuple[int, int]) -> bool:
    changed = {(b0, c0) for b0 in (0, 1, 2) for c0 in range(3, 8) if abs(b0 - 1) + abs(c0 - 5) <= 3}
    return answer in changed and mcnemar(*answer).pvalue < 0.05


def _both_tags(answer: str) -> bool:
    try:
        return [text.rstrip(".") for text in read_annotations(answer)] == ["GE = 10", "DE = EF"]
    except DatasetError:
        return False


_EXERCISES = {
    "01.1": _Exercise(
        "two truth values, as in (True, False)", tuple[bool, bool],
        lambda answer: answer == tuple(mcnemar(*d).pvalue <= 0.05 for d in ((1, 7), (0, 5))),
        "1 : 7 gives p = 0.070 and 0 : 5 gives p = 0.0625: with so few pairs neither reaches 0.05.",
        "the most lopsided split of five pairs has p = 2 / 2^5. And of eight pairs, how many falls have at most "
        "one loss?",
    ),
    "01.2": _Exercise(
        "the new counts (b, c), as in (1, 5)", tuple[NonNegativeInt, NonNegativeInt], _two_changed,
        "only items that speak can move p: take the loss away, and make an item that said nothing a gain.",
        "six discordant pairs reach 0.05 only if all six point one way.",
    ),
    "01.3": _Exercise(
        "a number of problems", float, _near(215, 5),
        "215 problems. With half as many discordant ones it takes 431, twice as many: the discordant pairs count.",
        "stats.sample_size(discordant, gain, target=...) counts problems, and a 3 : 1 split is a gain of 0.75.",
    ),
    "02.3": _Exercise(
        'a number and a word, as in (0.5, "recall")', tuple[float, str],
        lambda answer: answer[0] == 1 and answer[1].strip().lower() == "precision",
        "whatever the true length, it is among the thirty. Precision, one in thirty, shows the trick.",
        "recall asks how many of the annotations are stated, not how much else is.",
    ),
    "02.1": _Exercise(
        "a text with two tags", str, _both_tags,
        "that is the column visual_key_info of the authors' dataset.",
        "number the tags from 1, close each, and put nothing else between them: <info1>...</info1> and so on.",
    ),
    "03.1": _Exercise(
        "a number", float, _near(0.45, 1e-9),
        "0.1 for the format, 0.9 x 0 for the answer, 0.7 x 2/4 for perception: 0.45.",
        "Eq. 5: 0.1 format + 0.9 accuracy + 0.7 perception + repetition; perception is the share stated.",
    ),
    "03.2": _Exercise(
        "a number", float, _near(0.9, 0.011),
        "0.9: B earns 0.1 + 0.9 = 1 whatever gamma is, C earns 0.1 + gamma.",
        "write down what each of the two earns, with gamma in place of 0.7.",
    ),
    "03.3": _Exercise(
        "two numbers, as in (1.0, 0.0)", tuple[float, float],
        lambda answer: answer == (0.8, 0.2),
        "0.8 and 0.2: the order stays, the gap shrinks from 1 to 0.6. GRPO divides by the group's spread, so that a "
        "smaller gap alone costs little; the noise does.",
        "of the marks that should be 1, a fifth becomes 0; of those that should be 0, a fifth becomes 1.",
    ),
    "04.1": _Exercise(
        "a share between 0 and 1", float, _near(0.72, 0.2),
        "about seven groups in ten: adding two given sums rarely fails, and eight equal rewards have no spread.",
        "how often does the base add two given sums wrong? All eight must be right, or all eight wrong.",
    ),
    "04.2": _Exercise(
        "a number", float, _near(0, 1e-9),
        "eight equal rewards have no spread: each advantage is 0, and the group teaches nothing.",
        "an advantage is a reward minus the group's mean.",
    ),
    "04.3": _Exercise(
        'one of the three, as in "base"', str, _names("accuracy-only"),
        "nearly all its groups are silent, so what moves it is noise; it ends below the base it began from.",
        "what does a policy learn from groups without any difference in reward? And from the few that have one?",
    ),
    "05.2": _Exercise(
        "a share between 0 and 1", float, _near(0.7**4, 0.01),
        "0.7 x 0.7 x 0.7 x 0.7 = 0.24: three answers in four are wrong, though seven facts in ten are read right.",
        "all four must be right.",
    ),
    "05.3": _Exercise(
        "points, as in 2.5", float, _near(3.86, 0.1),
        "about 3.9 points, more than three times the gap of 1.1. A paired test on the same items could be sharper.",
        "the variance of a share is p (1 - p) / n; variances of independent scores add, and 95% is 1.96 sigma.",
    ),
    "05.1": _Exercise(
        'the name of a cell, as in "k2"', str, _names("k3-low"),
        "three in ten of its right answers are lucky, so accuracy praises misreading, too; and most is left to gain.",
        "where does a right answer say least about what was read, while much is left to learn?",
    ),
}  # fmt: skip
