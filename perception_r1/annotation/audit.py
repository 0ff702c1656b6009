"""Are annotations true, and complete? They are compared with gold facts, fact by fact. Used in notebook 02.

The paper checked by hand and reports 96% of annotations right. Here the facts are known, so that precision
and recall can be counted, by kind of fact and with intervals.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from perception_r1 import facts
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
        verdict = self.annotations["verdict"]
        annotated = self.annotations.assign(hit=verdict == "true")
        visible = self.gold[~self.gold["in_question"]]
        visible = visible.assign(hit=visible["found"])
        parts = {
            "precision": annotated[verdict != "unread"],
            "recall": visible,
            "recall of needed facts": visible[visible["needed"]],
            "unread": annotated.assign(hit=verdict == "unread"),
        }
        rows = []
        for measure, table in parts.items():
            groups = [("all", table)]
            if by_kind and measure != "unread":
                groups = table.groupby("kind")
            for kind, group in groups:
                rows.append((measure, kind, *_share(group, n_resamples, seed)))
        return pd.DataFrame(
            rows, columns=["measure", "kind", "right", "of", "share", "low", "high"]
        )


def audit(problems: Iterable[Problem]) -> Audit:
    """Compare the annotations of problems with their gold facts.

    Raises:
        InputError: no problem has gold facts.
    """
    annotation_rows, gold_rows = [], []
    for problem in problems:
        gold = [facts.parse(form) for form in problem.gold_facts]
        keys = {facts.key(fact): fact for fact in gold}
        in_question = {facts.key(facts.parse(form)) for form in problem.text_facts}
        needed = {facts.key(facts.parse(form)) for form in problem.needed_facts}
        stated = set()
        for text in problem.annotations:
            fact = facts.read_statement(text)
            if fact is None:
                verdict = "unread"
            elif facts.key(fact) in keys:
                verdict = "true"
                stated.add(facts.key(fact))
            elif any(facts.contradicts(fact, other) for other in gold):
                verdict = "contradicted"
            else:
                verdict = "unsupported"
            kind = facts.kind(fact) if fact else "unread"
            annotation_rows.append((problem.id, text, kind, verdict))
        for key, fact in keys.items():
            marks = key in needed, key in in_question, key in stated
            gold_rows.append((problem.id, str(fact), facts.kind(fact), *marks))
    if not gold_rows:
        raise InputError("no problem has gold facts to compare with")
    return Audit(
        pd.DataFrame(annotation_rows, columns=["id", "text", "kind", "verdict"]),
        pd.DataFrame(gold_rows, columns=["id", "fact", "kind", "needed", "in_question", "found"]),
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
    interval = count_bootstrap(each, lambda n: n[..., 0] / n[..., 1], n_resamples, seed=seed)
    return right, of, *interval
