"""Outcomes of policies in numbers: measures with intervals, and paired comparisons. Explained in notebooks 04 and 05.

Takes the tables that `perception_metrics.measure` gives, or reads from CSV; no model is needed. Problems are taken as
independent, as those of the map's tests are: no two show the same facts.
"""

from collections.abc import Callable, Mapping

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from perception_r1.common.errors import InputError, some
from perception_r1.evidence.stats import align, mcnemar, mean_interval, paired_difference


def _sighted(outcomes: pd.DataFrame) -> pd.Series:
    return outcomes["needed"].map({"right": 1.0, "wrong": 0.0, "left out": 0.0})


# From outcomes to a value a problem, 0 to 1, missing where there is nothing to measure; in the order of tables.
MEASURES: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "answers": lambda t: t["right"],
    "facts": lambda t: t["seen"] / t["visual"],
    "probe": lambda t: t["probe_right"],
    "redrawing": lambda t: t["redraw"].map({"follows": 1.0, "stays": 0.0, "neither": 0.0}),
    "all facts right": _sighted,
    "seen and computed": lambda t: t["right"] * _sighted(t),
    "lucky": lambda t: t["right"] * (1 - _sighted(t)),
    "answers, sampled": lambda t: t["sampled_right"],
    "facts, sampled": lambda t: t["sampled_seen"] / t["visual"],
}
SHARES = ("facts", "facts, sampled")  # of a problem's facts; all others are yes or no


def by_problem(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Every measure of every problem: the index of `outcomes`, a column a measure."""
    return pd.DataFrame({name: of(outcomes).astype(float) for name, of in MEASURES.items()})


def summary(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Each measure of one policy, with 95% intervals: Clopper-Pearson's; of `SHARES`, Student's over problems.

    Args:
        outcomes: as `perception_metrics.measure` gives them, or read from CSV.

    Returns:
        Columns measure, share, low, high, n (problems that count); a measure that no problem has is left out.
    """
    rows = []
    for measure, column in by_problem(outcomes).dropna(axis=1, how="all").items():
        values = column.dropna()
        if measure in SHARES:
            limits = mean_interval(values)
        else:
            limits = proportion_confint(values.sum(), len(values), method="beta")
        rows.append((measure, values.mean(), *limits, len(values)))
    return pd.DataFrame(rows, columns=["measure", "share", "low", "high", "n"])


def compare(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Two policies on the same problems, measure by measure, where both can be measured.

    Args:
        before: outcomes of one policy, as `perception_metrics.measure` gives them, or read from CSV.
        after: of another, from the same problems and seed.

    Returns:
        Columns measure, before, after, difference, low, high (95%: Tango's; of `SHARES`, Student's over problems), n
        (problems), b (right only before), c (right only after), p (McNemar's exact; these three missing of
        `SHARES`). A measure that no problem has is left out.

    Raises:
        InputError: not the same problems, or not the same facts probed or redrawn.
    """
    one, other = map(by_problem, _paired(before, after))
    rows = []
    for measure in MEASURES:
        pairs = pd.DataFrame({"before": one[measure], "after": other[measure]}).dropna()
        if pairs.empty:
            continue
        change, n = pairs["after"] - pairs["before"], len(pairs)
        if measure in SHARES:
            estimate, counts = (change.mean(), *mean_interval(change)), (None, None, None)
        else:
            b, c = int((change < 0).sum()), int((change > 0).sum())
            estimate, counts = paired_difference(b, c, n), (b, c, mcnemar(b, c).pvalue)
        rows.append((measure, *pairs.mean(), *estimate, n, *counts))
    columns = "measure before after difference low high n b c p".split()
    return pd.DataFrame(rows, columns=columns).astype({"b": "Int64", "c": "Int64"})


def _paired(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables by `id`, in the order of the first."""
    align(*(table.rename(columns={"right": "correct"}) for table in (before, after)))
    before, after = (table.set_index("id") for table in (before, after))
    after = after.loc[before.index]
    for column in ("probe_fact", "redrawn_fact"):
        there = before[column].notna() | after[column].notna()
        if (differs := there & (before[column] != after[column])).any():
            named = f"{column} of {some(before.index[differs])} is not the same before and after"
            raise InputError(f"{named}; evaluate both on the same problems with the same seed")
    return before, after
