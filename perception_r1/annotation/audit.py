"""Are annotations true, and complete? They are compared with gold facts, fact by fact. Used in notebook 02.

The paper checked by hand and reports 96% of annotations right. Here the facts are known, so that precision
and recall can be counted, by kind of fact and with intervals.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.evidence.stats import count_bootstrap, ratio
from perception_r1.problems.schema import Problem


class Audit(NamedTuple):
    """An audit, item by item.

    Attributes:
        annotations: one row an annotation: `id`, `text`, `kind`, `verdict`: "true" (a gold fact),
            "contradicted" (a gold fact gives another value), "unsupported" (neither), "unread".
        gold: one row a gold fact of the image: `id`, `fact`, `kind`, `needed` (for the answer),
            `in_question`, `found` (some annotation states it).
    """

    annotations: pd.DataFrame
    gold: pd.DataFrame

    def summary(self, by_kind: bool = False, seed: int = 0) -> pd.DataFrame:
        """Precision, recall and the share unread, with 95% intervals from a bootstrap over problems.

        Precision is over annotations that could be read; recall over gold facts that do not stand in
        the question, since those are left out of annotations on purpose.

        Returns:
            Columns `measure`, `kind` ("all", or each kind), `right`, `of`, `share`, `low`, `high`.
            Intervals are missing where fewer than two problems count.
        """
        annotations, visible = self.annotations, self.gold[~self.gold["in_question"]]
        unread, visible = annotations["verdict"] == "unread", visible.assign(hit=visible["found"])
        parts = {
            "precision": annotations.assign(hit=annotations["verdict"] == "true")[~unread],
            "recall": visible,
            "recall of needed facts": visible[visible["needed"]],
            "unread": annotations.assign(hit=unread),
        }
        rows = []
        for measure, table in parts.items():
            groups = [("all", table)]
            if by_kind and measure != "unread":
                groups = table.groupby("kind")
            for kind, group in groups:
                each = group.groupby("id")["hit"].agg(["sum", "size"])  # a row a problem
                share = count_bootstrap(each, ratio, seed=seed)
                rows.append((measure, kind, *each.sum().astype(int), *share))
        columns = ["measure", "kind", "right", "of", "share", "low", "high"]
        return pd.DataFrame(rows, columns=columns)


def audit(problems: Iterable[Problem]) -> Audit:
    """Compare the annotations of problems with their gold facts.

    Raises:
        InputError: no problem has gold facts.
    """
    annotation_rows, gold_rows = [], []
    for problem in problems:
        gold, stated = by_key(problem.gold_facts), set()
        in_question, needed = by_key(problem.text_facts), by_key(problem.needed_facts)
        for text in problem.annotations:
            fact = facts.read_statement(text)
            kind = facts.kind(fact) if fact else "unread"
            annotation_rows.append((problem.id, text, kind, truth(fact, gold)))
            stated.add(fact and facts.key(fact))
        for key, fact in gold.items():
            marks = key in needed, key in in_question, key in stated
            gold_rows.append((problem.id, str(fact), facts.kind(fact), *marks))
    if not gold_rows:
        raise InputError("no problem has gold facts to compare with")
    columns = ["id", "fact", "kind", "needed", "in_question", "found"]
    annotations = pd.DataFrame(annotation_rows, columns=["id", "text", "kind", "verdict"])
    return Audit(annotations, pd.DataFrame(gold_rows, columns=columns))


def truth(fact: facts.Fact | None, gold: Mapping[Hashable, facts.Fact]) -> str:
    """A statement against what the figure shows: see `Audit`; None is a text that could not be read."""
    if fact is None:
        return "unread"
    if facts.key(fact) in gold:
        return "true"
    against = any(facts.contradicts(fact, other) for other in gold.values())
    return "contradicted" if against else "unsupported"


def by_key(forms: Iterable[str]) -> dict[Hashable, facts.Fact]:
    """Logic forms as facts, by what tells them apart."""
    return {facts.key(fact): fact for fact in map(facts.parse, forms)}


def visual_share(problems: Iterable[Problem]) -> pd.DataFrame:
    """How much of what is known stands only in the image: our reading of the paper's "82% visual information".

    Its definition is not published where we could look. Ours: of all distinct facts given to the solver, in
    the image or the question, the share that does not stand in the question.

    Returns:
        One row a problem: `id`, `visual` (facts only in the image), `facts` (all).
    """
    rows = []
    for problem in problems:
        in_question, in_image = by_key(problem.text_facts), by_key(problem.gold_facts)
        visual = in_image.keys() - in_question.keys()
        rows.append((problem.id, len(visual), len(in_image | in_question)))
    return pd.DataFrame(rows, columns=["id", "visual", "facts"])
