"""Outcomes of policies in numbers: measures with intervals, paired comparisons, and what they allow to say.

Takes the tables that `perception_metrics.measure` gives, or reads from CSV; no model is needed. Explained in
notebooks 04 and 05.

Problems that show the same facts (column `figure`) are no independent observations: a small world has few figures,
and a policy reads a figure well or badly in all of them. So intervals resample figures, and are never narrower
than those of so many independent problems. McNemar's p stands beside them as if problems were independent.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from perception_r1.common.errors import InputError, some
from perception_r1.evaluation.perception_metrics import CELLS
from perception_r1.evidence.stats import align, count_bootstrap, mcnemar, paired_difference, ratio

NO_GAIN = 0.05  # "no gain" is said only if the whole interval lies below
NO_WORSE = -0.02  # "no worse" is said only if the whole interval lies above

# What tables show, in this order: yes or no for each problem, missing where there was nothing to measure; or a share of
# facts, of all problems together (what counts, of what).
MEASURES: Mapping[str, Callable[[pd.DataFrame], pd.Series] | tuple[str, str]] = {
    "answers": lambda t: t["right"],
    "recall": ("seen", "visual"),
    "precision": ("seen", "said"),
    "probe": lambda t: t["probe_right"],
    "redrawing": lambda t: (t["redraw"] == "follows").where(t["redraw"].notna()),
    "redrawing, where stated": lambda t: (t["redraw"] == "follows").where(
        t["redraw"].isin(["follows", "stays", "neither"])
    ),
    "lucky answers": lambda t: (t["cell"] == "lucky").where(t["cell"].notna()),
    "miscalculated answers": lambda t: (t["cell"] == "miscalculated").where(t["cell"].notna()),
    "all facts stated right": lambda t: t["all_right"],
    "blank page, answers": lambda t: t["blank_right"],
    "copied from the question": ("copied", "given"),
    "blank page, recall": ("blank_seen", "visual"),
}
SHARES = {name for name, of in MEASURES.items() if isinstance(of, tuple)}
STATED = ("recall", "precision")  # what a policy reports; habits of speech move these, too
SEEN = ("probe", "redrawing, where stated")  # what it sees
# More is not better.
NEUTRAL = ("lucky answers", "miscalculated answers", "blank page, answers", "blank page, recall")


def summary(outcomes: pd.DataFrame, *, n_resamples: int = 1000) -> pd.DataFrame:
    """Each measure of one policy, image-only and text-rich problems apart.

    `SHARES` are shares of all facts: a problem where nothing is stated adds nothing to precision. Intervals are
    from a bootstrap over figures, and at least as wide as the exact (Clopper-Pearson) one with a problem as one
    observation; where no figure comes twice, yes/no measures have the exact one.

    Args:
        outcomes: as `perception_metrics.measure` gives them, or read from CSV.
        n_resamples: of the bootstrap.

    Returns:
        Columns kind, measure, share, low, high, n (problems that count), figures (different ones among them).
        Measures that no problem has are left out.
    """
    rows = []
    for kind, part in outcomes.groupby("kind", sort=True):
        for measure in MEASURES:
            counts = pd.DataFrame(_counts(part, measure), part["figure"])
            n, by_figure = int((counts[1] > 0).sum()), counts[counts[1] > 0].groupby(level=0).sum()
            if n == 0:
                continue
            share, low, high = count_bootstrap(by_figure, ratio, n_resamples)
            exact = proportion_confint(share * n, n, method="beta")
            if measure not in SHARES and n == len(by_figure):
                low, high = exact
            low, high = min(exact[0], low), max(exact[1], high)
            rows.append((kind, measure, share, low, high, n, len(by_figure)))
    columns = ["kind", "measure", "share", "low", "high", "n", "figures"]
    return pd.DataFrame(rows, columns=columns)


def cells(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Right and wrong answers by right and wrong needed facts, named: columns kind, answer, needed, cell, n, share.

    Responses that leave a needed fact out, and state none wrong, show no sight either way: they are apart.
    """
    rows = []
    for kind, part in outcomes.dropna(subset="cell").groupby("kind", sort=True):
        for (answer, needed), cell in CELLS.items():
            n = int((part["cell"] == cell).sum())
            rows.append((kind, answer, needed, cell, n, n / len(part)))
    return pd.DataFrame(rows, columns=["kind", "answer", "needed", "cell", "n", "share"])


def compare(before: pd.DataFrame, after: pd.DataFrame, *, n_resamples: int = 1000) -> pd.DataFrame:
    """Two policies on the same problems, measure by measure, image-only and text-rich apart.

    Yes/no measures are compared on problems where both can be measured ("redrawing, where stated": where both
    state the fact). `SHARES` are compared as shares of all facts; a problem where one policy states nothing counts
    in the other's precision. Intervals are from a bootstrap over figures, for yes/no measures at least as wide
    as Tango's for independent problems (which they are, where no figure comes twice), for shares at least as
    wide as Tango's is where no pair differs: a bootstrap knows no change that it has not seen.

    Args:
        before: outcomes of one policy, as `perception_metrics.measure` gives them, or read from CSV.
        after: of another, from the same problems and seed.
        n_resamples: of the bootstrap.

    Returns:
        Columns kind, measure, before, after, difference, low, high (95%), n (problems), figures (different ones),
        b (right only before), c (right only after), p (McNemar's, as if problems were independent), verdict (see
        `verdict`; none where more is not better). Measures that no problem has are left out; a difference is
        missing where one policy cannot be measured.

    Raises:
        InputError: not the same problems, or not the same facts probed or redrawn.
    """
    rows = []
    for (kind, measure), by_figure in paired_counts(before, after).items():
        total, figures = by_figure.sum(), len(by_figure)
        n = int(total["problems"])
        difference, low, high = count_bootstrap(by_figure, change, n_resamples)
        b = c = None
        p = np.nan
        if measure not in SHARES:
            b, c = int(total["b"]), int(total["c"])
            p = mcnemar(b, c).pvalue
            difference, tango_low, tango_high = paired_difference(b, c, n)
            if n == figures:  # no figure comes twice: problems are independent
                low, high = tango_low, tango_high
            elif figures > 1:
                low, high = min(low, tango_low), max(high, tango_high)
        elif not np.isnan(low):  # else one problem, or nothing stated
            _, least, most = paired_difference(0, 0, n)
            low = max(-1.0, min(low, difference + least))
            high = min(1.0, max(high, difference + most))
        shares = ratio(total.to_numpy()), ratio(total.to_numpy()[2:])
        says = verdict(low, high) if measure not in NEUTRAL else ""
        rows.append((kind, measure, *shares, difference, low, high, n, figures, b, c, p, says))
    columns = ["kind", "measure", "before", "after", "difference", "low", "high", "n", "figures", "b",
               "c", "p", "verdict"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).astype({"b": "Int64", "c": "Int64"})


def paired_counts(before: pd.DataFrame, after: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """What `compare` counts, figure by figure: for `study`, which adds seeds up.

    Returns:
        (kind, measure) -> a row a figure (the index), columns `COUNTED`: hit and of of `before`, hit and of of `after`,
        the numbers of problems, of those right only before (b), and only after (c). Measures that no problem has are
        left out.

    Raises:
        InputError: see `compare`.
    """
    before, after = _paired(before, after)
    counted = {}
    for kind, places in before.groupby("kind", sort=True).indices.items():
        one, other = before.iloc[places], after.iloc[places]
        for measure in MEASURES:
            x, y = _counts(one, measure), _counts(other, measure)
            more = [np.ones(len(x)), x[:, 0] > y[:, 0], x[:, 0] < y[:, 0]]
            counts = pd.DataFrame(np.column_stack([x, y, *more]), one["figure"], COUNTED)
            measured = counts[["of before", "of after"]] > 0
            counts = counts[measured.any(axis=1) if measure in SHARES else measured.all(axis=1)]
            if len(counts):
                counted[kind, measure] = counts.groupby(level=0).sum()
    return counted


COUNTED = ["hit before", "of before", "hit after", "of after", "problems", "b", "c"]


def _counts(outcomes: pd.DataFrame, measure: str) -> np.ndarray:
    """What counts, and of what, a row a problem; of 0 where the measure cannot be had."""
    of = MEASURES[measure]
    if measure in SHARES:
        return outcomes[[*of]].to_numpy(float)
    values = of(outcomes).to_numpy(float, na_value=np.nan)
    return np.column_stack([np.nan_to_num(values), ~np.isnan(values)])


def change(sums: np.ndarray) -> np.ndarray:
    """The difference of two shares: hit and of before, hit and of after (last axis); nan where one is 0 / 0."""
    return ratio(sums[..., 2:]) - ratio(sums)


def _paired(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the order of the first."""
    align(*(table.rename(columns={"right": "correct"}) for table in (before, after)))
    after = after.set_index("id").loc[before["id"]].reset_index()
    before = before.reset_index(drop=True)
    for column in ("kind", "figure", "probe_fact", "redrawn_fact"):
        one, other = (table[column].astype(object).fillna("") for table in (before, after))
        if (differs := one != other).any():
            named = f"{column} of {some(before['id'][differs])} is not the same before and after"
            raise InputError(f"{named}; evaluate both on the same problems with the same seed")
    return before, after


# --- what may be said ------------------------------------------------------------------------------


def verdict(low: float, high: float) -> str:
    """What an interval of a difference allows to say.

    "gain" or "loss" if it does not hold 0; else "no gain" if it ends below `NO_GAIN`, "no worse" if it begins above
    `NO_WORSE`, both, or "undecided".
    """
    if low > 0:
        return "gain"
    if high < 0:
        return "loss"
    if high < NO_GAIN:
        return "no gain and no worse" if low > NO_WORSE else "no gain"
    return "no worse" if low > NO_WORSE else "undecided"


def perception_verdict(verdicts: Mapping[str, str]) -> str:
    """What the verdicts on stated facts, probe and redrawing come to.

    "sees better" takes a gain in `SEEN`, "reports better" one in `STATED` and none in `SEEN`; a gain by one measure
    alone says by which. Redrawing counts where both policies state the fact, so that saying more is not taken for
    seeing more.

    Args:
        verdicts: measure -> verdict, of one kind of problems.
    """
    for verb, measures in (("sees", SEEN), ("reports", STATED)):
        better = [name for name in measures if verdicts.get(name) == "gain"]
        worse = any(verdicts.get(name) == "loss" for name in measures)
        if better and worse:
            return f"{verb} better by one measure and worse by the other"
        if better:
            alone = f", by the {better[0].split(',')[0]} alone" if len(better) == 1 else ""
            return f"{verb} better{alone}"
        if worse:
            return f"{verb} worse"
    small = [name in verdicts and "no gain" in verdicts[name] for name in (*SEEN, *STATED)]
    return "neither sees nor reports better" if all(small) else "undecided"


def finding(comparison: pd.DataFrame, before: str, after: str, kind: str) -> str:
    """A comparison in a sentence: answers, stated facts, probe, redrawing, and what they come to.

    Args:
        comparison: as `compare` gives it.
        before: name of the first policy.
        after: name of the second.
        kind: of problems, one that was compared.
    """
    rows = comparison[comparison["kind"] == kind].set_index("measure")
    parts = [
        f"{row.Index} {100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f}: {row.verdict})"
        for row in rows.dropna(subset="low").itertuples()
        if row.Index in ("answers", *STATED, *SEEN)
    ]
    policies = f"this checkpoint of {after}, against this one of {before}"
    changes = f"in points with 95% intervals: {', '.join(parts)}"
    return (
        f"On {kind} problems {policies}, {changes}. Sight: {perception_verdict(rows['verdict'])}."
    )
