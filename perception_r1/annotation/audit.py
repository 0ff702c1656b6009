"""Are annotations true, and complete? They are compared with gold facts, fact by fact. Used in notebook 02.

The paper checked by hand and reports 96% of annotations right. Here the facts are known, so that precision
and recall can be counted, by kind of fact and with intervals.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from perception_r1 import facts
from perception_r1.annotation.pipeline import read_statement
from perception_r1.common.errors import InputError
from perception_r1.evidence.stats import count_bootstrap
from perception_r1.problems.schema import Problem


@dataclass(frozen=True)
class Audit:
    """An audit, item by item.

    Attributes:
        annotations: one row an annotation: `id`, `text`, `kind`, `verdict`: "true" (a gold fact),
            "contradicted" (a gold fact gives another value), "unsupported" (neither), "unread".
        gold: one row a gold fact of the image: `id`, `fact`, `kind`, `needed` (for the answer),
            `in_question`, `found` (some annotation states it).
    """

    annotations: pd.DataFrame
    gold: pd.DataFrame

    def summary(
        self, by_kind: bool = False, n_resamples: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """Precision, recall and the share unread, with 95% intervals from a bootstrap over problems.

        Precision is over annotations that could be read; recall over gold facts that do not stand in
        the question, since those are left out of annotations on purpose.

        Returns:
            Columns `measure`, `kind` ("all", or each kind), `right`, `of`, `share`, `low`, `high`.
            Intervals are missing where fewer than two problems count.
        """
        said = self.annotations.assign(
            hit=self.annotations["verdict"] == "true",
            unread=self.annotations["verdict"] == "unread",
        )
        visible = self.gold[~self.gold["in_question"]].assign(hit=lambda table: table["found"])
        parts = {
            "precision": said[~said["unread"]],
            "recall": visible,
            "recall of needed facts": visible[visible["needed"]],
            "unread": said.assign(hit=said["unread"]),
        }
        rows = []
        for measure, table in parts.items():
            kinds = ["all"]
            if by_kind and measure != "unread":
                kinds = sorted(table["kind"].unique())
            for kind in kinds:
                chosen = table if kind == "all" else table[table["kind"] == kind]
                rows.append((measure, kind, *_share(chosen, n_resamples, seed)))
        return pd.DataFrame(
            rows, columns=["measure", "kind", "right", "of", "share", "low", "high"]
        )


def audit(problems: Iterable[Problem]) -> Audit:
    """Compare the annotations of problems with their gold facts.

    Raises:
        InputError: no problem has gold facts.
    """
    said, known = [], []
    for problem in problems:
        gold = [facts.parse(form) for form in problem.gold_facts]
        keys = {facts.key(fact): fact for fact in gold}
        in_question = {facts.key(facts.parse(form)) for form in problem.text_facts}
        needed = {facts.key(facts.parse(form)) for form in problem.needed_facts}
        stated = set()
        for text in problem.annotations:
            fact = read_statement(text)
            if fact is None:
                verdict = "unread"
            elif facts.key(fact) in keys:
                verdict = "true"
                stated.add(facts.key(fact))
            elif any(facts.contradicts(fact, other) for other in gold):
                verdict = "contradicted"
            else:
                verdict = "unsupported"
            said.append((problem.id, text, facts.kind(fact) if fact else "unread", verdict))
        for key, fact in keys.items():
            row = (
                problem.id,
                str(fact),
                facts.kind(fact),
                key in needed,
                key in in_question,
                key in stated,
            )
            known.append(row)
    if not known:
        raise InputError("no problem has gold facts to compare with")
    return Audit(
        pd.DataFrame(said, columns=["id", "text", "kind", "verdict"]),
        pd.DataFrame(known, columns=["id", "fact", "kind", "needed", "in_question", "found"]),
    )


def visual_share(problems: Iterable[Problem]) -> pd.DataFrame:
    """How much of what is known stands only in the image: our reading of the paper's "82% visual information".

    Its definition is not published where we could look. Ours: of all distinct facts given to the solver, in
    the image or the question, the share that does not stand in the question.

    Returns:
        One row a problem: `id`, `visual` (facts only in the image), `facts` (all).
    """
    rows = []
    for problem in problems:
        in_question = {facts.key(facts.parse(form)) for form in problem.text_facts}
        in_image = {facts.key(facts.parse(form)) for form in problem.gold_facts}
        rows.append((problem.id, len(in_image - in_question), len(in_image | in_question)))
    return pd.DataFrame(rows, columns=["id", "visual", "facts"])


def _share(table: pd.DataFrame, n_resamples: int, seed: int) -> tuple:
    right, of = int(table["hit"].sum()), len(table)
    if not of:
        return right, of, float("nan"), float("nan"), float("nan")
    each = table.groupby("id")["hit"].agg(["sum", "size"])  # a row a problem
    return (
        right,
        of,
        *count_bootstrap(each, lambda n: n[..., 0] / n[..., 1], n_resamples, seed=seed),
    )
