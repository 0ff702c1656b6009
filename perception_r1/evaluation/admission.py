"""Whether a base, the miniature before any reinforcement, may be trained with rewards. Shown in notebook 04.

A base that cannot compute from the facts it states, or that has nothing left to learn, says nothing about
perception and is not used.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.evaluation.perception_metrics import outcome
from perception_r1.problems.schema import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

THINK = "<think>\n"  # how a response begins
SAMPLES = 8  # responses to a problem, to see how often a fact is read right
SLACK = 0.03  # the most by which that may differ from what a base of the map is wanted for


def stated_text(problem: Problem) -> str:
    """The gold facts as the lessons' teacher states them, a sentence a line."""
    return "".join(f"{facts.to_sentence(facts.parse(form))}\n" for form in problem.gold_facts)


class BaseAdmission(NamedTuple):
    """Whether a base may be trained with rewards.

    Attributes:
        table: columns measure, value, n, at_least, at_most; rows without these limits are for information.
        failed: what is not met, in words; empty if the base is admitted.
    """

    table: pd.DataFrame
    failed: list[str]

    def require(self) -> None:
        """Raise an InputError if the base is not admitted."""
        if self.failed:
            raise InputError(f"the base is not admitted: {'; '.join(self.failed)}")


def admit_base(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    problems: Sequence[Problem],
    *,
    max_new_tokens: int = 64,
    quiet: bool = False,
) -> BaseAdmission:
    """Measure a base on held-out problems, greedily: freely, and with the gold facts forced upon it."""
    from perception_r1.training.generation import generate  # loads torch, which the limits need not

    how = {"max_new_tokens": max_new_tokens, "quiet": quiet}
    free = generate(model, processor, problems, **how)
    bare = [problem for problem in problems if not problem.text_facts]
    begin = [THINK + stated_text(problem) for problem in bare]
    forced = generate(model, processor, bare, prefix=begin, **how)
    return admission(problems, free, forced)


def admission(problems: Sequence[Problem], free: list[str], forced: list[str]) -> BaseAdmission:
    """The figures and limits of `admit_base`.

    Args:
        problems: image-only (without `text_facts`) and text-rich ones.
        free: a response to each problem.
        forced: a response to each image-only problem, begun with its gold facts.
    """
    bare = [problem for problem in problems if not problem.text_facts]
    if not bare:
        raise InputError("no image-only problem to admit a base with; make some with text_rich=0")
    outcomes, given = _outcomes(problems, free), _outcomes(bare, forced)["right"]
    is_rich = np.array([bool(problem.text_facts) for problem in problems])
    image, rich = outcomes[~is_rich], outcomes[is_rich]
    sighted, misled = (image["right"][image["needed"] == word] for word in ("right", "wrong"))
    measures = [  # with what is wanted at least and at most, if anything
        ("image-only answers, gold facts forced", given, 0.90, 1),
        ("P(right | needed facts right) - P(right | one wrong)", sighted.mean() - misled, 0.30, 1),
        ("image-only, all facts stated right", image["recall"] == 1, 0, 0.85),
        ("image-only answers", image["right"], 0.20, 0.85),
        ("P(right | needed facts right)", sighted, None, None),
        ("P(right | one needed fact wrong)", misled, None, None),
        ("image-only, share of facts stated right", image["recall"], None, None),
        ("text-rich answers", rich["right"], None, None),
    ]
    rows = [(name, round(of.mean(), 4), len(of), *limits) for name, of, *limits in measures]
    return _decided(pd.DataFrame(rows, columns=["measure", "value", "n", "at_least", "at_most"]))


def _decided(table: pd.DataFrame) -> BaseAdmission:
    limited = table["at_least"].notna()
    met = table["value"].between(table["at_least"], table["at_most"])  # a missing value meets none
    failed = [
        f"{row.measure}: {row.value:.2f} (n = {row.n}), wanted {row.at_least:g} to {row.at_most:g}"
        for row in table[limited & ~met].itertuples()
    ]
    return BaseAdmission(table, failed)


def admit_to_map(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    problems: Sequence[Problem],
    reading: float,
    *,
    max_new_tokens: int = 96,
) -> BaseAdmission:
    """Whether a base stands where a cell of the map wants it: it computes, and reads as often as it should.

    Args:
        model: the base.
        processor: its processor.
        problems: held out, image-only.
        reading: how often it should read a fact right when it samples; see `SLACK`.
        max_new_tokens: most tokens of a response.
    """
    from perception_r1.training.generation import generate

    how = {"max_new_tokens": max_new_tokens, "batch_size": 128, "quiet": True}
    begin = [THINK + stated_text(problem) for problem in problems]
    forced = _outcomes(problems, generate(model, processor, problems, prefix=begin, **how))
    greedy = _outcomes(problems, generate(model, processor, problems, **how))
    again = [problem for problem in problems for _ in range(SAMPLES)]
    sampled = _outcomes(again, generate(model, processor, again, greedy=False, seed=0, **how))
    all_right = greedy["needed"] == "right"
    measures = [
        ("answers, gold facts forced", forced["right"], 0.95, 1),
        ("facts read right, sampled", sampled["recall"], reading - SLACK, reading + SLACK),
        ("facts read right, greedy", greedy["recall"], None, None),
        ("answers, sampled", sampled["right"], None, None),
        ("answers, greedy", greedy["right"], None, None),
        ("answers, greedy, where all facts are read right", greedy["right"][all_right], None, None),
        ("answers, greedy, where one is not", greedy["right"][~all_right], None, None),
    ]
    rows = [(name, round(of.mean(), 4), len(of), *limits) for name, of, *limits in measures]
    return _decided(pd.DataFrame(rows, columns=["measure", "value", "n", "at_least", "at_most"]))


def _outcomes(problems: Sequence[Problem], responses: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([outcome(p, r) for p, r in zip(problems, responses, strict=True)])
