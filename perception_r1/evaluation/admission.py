"""Whether a base, the miniature before any reinforcement, may be trained with rewards. Shown in notebook 04.

A base that cannot compute from the facts it states, or that reads more or fewer of them than it is wanted for, says
nothing about perception and is not used.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.evaluation.perception_metrics import outcome
from perception_r1.problems.schema import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

THINK = "<think>\n"  # how a response begins
GENERATION = {"max_new_tokens": 96, "batch_size": 128, "quiet": True}
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
    reading: float,
) -> BaseAdmission:
    """Whether a base stands where a cell of the map wants it: it computes, and reads as often as it should.

    Args:
        model: the base.
        processor: its processor.
        problems: held out, image-only.
        reading: how often it should read a fact right when it samples; see `SLACK`.
    """
    from perception_r1.training.generation import generate  # loads torch, which the limits need not

    begin = [THINK + stated_text(problem) for problem in problems]
    again = [problem for problem in problems for _ in range(SAMPLES)]
    forced = generate(model, processor, problems, prefix=begin, **GENERATION)
    greedy = generate(model, processor, problems, **GENERATION)
    sampled = generate(model, processor, again, greedy=False, seed=0, **GENERATION)
    return admission(
        reading, _outcomes(problems, forced), _outcomes(problems, greedy), _outcomes(again, sampled)
    )


def admission(
    reading: float, forced: pd.DataFrame, greedy: pd.DataFrame, sampled: pd.DataFrame
) -> BaseAdmission:
    """The figures and limits of `admit_base`, of outcomes with the gold facts forced, greedily, and sampled."""
    all_right = greedy["needed"] == "right"
    measures = [  # with what is wanted at least and at most, if anything
        ("answers, gold facts forced", forced["right"], 0.95, 1),
        ("facts read right, sampled", sampled["recall"], reading - SLACK, reading + SLACK),
        ("facts read right, greedy", greedy["recall"], None, None),
        ("answers, sampled", sampled["right"], None, None),
        ("answers, greedy", greedy["right"], None, None),
        ("answers, greedy, where all facts are read right", greedy["right"][all_right], None, None),
        ("answers, greedy, where one is not", greedy["right"][~all_right], None, None),
    ]
    rows = [(name, round(of.mean(), 4), len(of), *limits) for name, of, *limits in measures]
    table = pd.DataFrame(rows, columns=["measure", "value", "n", "at_least", "at_most"])
    limited = table["at_least"].notna()
    met = table["value"].between(table["at_least"], table["at_most"])  # a missing value meets none
    failed = [
        f"{row.measure}: {row.value:.2f} (n = {row.n}), wanted {row.at_least:g} to {row.at_most:g}"
        for row in table[limited & ~met].itertuples()
    ]
    return BaseAdmission(table, failed)


def facts_read(
    model: "PreTrainedModel", processor: "ProcessorMixin", problems: Sequence[Problem]
) -> pd.Series:
    """Of the facts of each problem, the share that a sampled response states right; see `admit_base`."""
    from perception_r1.training.generation import generate

    responses = generate(model, processor, problems, greedy=False, seed=0, **GENERATION)
    return _outcomes(problems, responses)["recall"]


def _outcomes(problems: Sequence[Problem], responses: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([outcome(p, r) for p, r in zip(problems, responses, strict=True)])
