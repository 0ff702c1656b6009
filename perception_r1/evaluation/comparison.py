"""Outcomes of policies in numbers: measures with intervals, paired comparisons, and what they allow to say.

Takes the tables that `sight` gives, or reads from CSV; no model is needed. Explained in notebooks 04 and 05.

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
from perception_r1.evidence.stats import align, count_bootstrap, mcnemar, paired_difference

NO_GAIN = 0.05  # "no gain" is said only if the whole interval lies below
NO_WORSE = -0.02  # "no worse" is said only if the whole interval lies above

# Yes or no for each problem, missing where there was nothing to measure.
YES_NO: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "answers": lambda t: t["right"],
    "lucky answers": lambda t: (t["cell"] == "lucky").where(t["cell"].notna()),
    "miscalculated answers": lambda t: (t["cell"] == "miscalculated").where(t["cell"].notna()),
    "all facts stated right": lambda t: t["all_right"],
    "probe": lambda t: t["probe_right"],
    "redrawing": lambda t: (t["redraw"] == "follows").where(t["redraw"].notna()),
    "redrawing, where stated": lambda t: (t["redraw"] == "follows").where(
        t["redraw"].isin(["follows", "stays", "neither"])
    ),
    "blank page, answers": lambda t: t["blank_right"],
}
# Shares of facts, of all problems together: (what counts, of what).
SHARES = {
    "recall": ("seen", "visual"),
    "precision": ("seen", "said"),
    "copied from the question": ("copied", "given"),
    "blank page, recall": ("blank_seen", "visual"),
}
SAID = ("recall", "precision")  # what a policy reports; habits of speech move these, too
SIGHT = ("probe", "redrawing, where stated")  # what it sees


# More is not better.
NEUTRAL = ("lucky answers", "miscalculated answers", "blank page, answers", "blank page, recall")


def summary(outcomes: pd.DataFrame, *, n_resamples: int = 1000) -> pd.DataFrame:
    """Each measure of one policy, image-only and text-rich problems apart.

    `SHARES` are shares of all facts: a problem where nothing is stated adds nothing to precision. Intervals are
    from a bootstrap over figures, and at least as wide as the exact (Clopper-Pearson) one with a problem as one
    observation; where no figure comes twice, yes/no measures have the exact one.

    Args:
        outcomes: as `sight.evaluate` gives them, or read from CSV.
        n_resamples: of the bootstrap.

    Returns:
        Columns kind, measure, share, low, high, n (problems that count), figures (different ones among them).
        Measures that no problem has are left out.
    """
    rows = []
    for kind, part in outcomes.groupby("kind", sort=True):
        for measure in (*YES_NO, *SHARES):
            counts = _counts(part, measure)
            counted = counts[counts["of"] > 0]
            if n := len(counted):
                figures = part["figure"][counted.index]
                share, low, high = _over_figures(counted, figures, _ratio, n_resamples)
                exact = proportion_confint(share * n, n, method="beta")
                if measure in YES_NO and figures.is_unique:
                    low, high = exact
                ends = min(exact[0], low), max(exact[1], high)
                rows.append((kind, measure, share, *ends, n, figures.nunique()))
    columns = ["kind", "measure", "share", "low", "high", "n", "figures"]
    table = pd.DataFrame(rows, columns=columns)
    return _in_order(table)


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


def fact_shares(facts: pd.DataFrame, *, n_resamples: int = 1000) -> pd.DataFrame:
    """Recall and precision by kind of fact, needed or not, of what does not stand in the question.

    Args:
        facts: rows of `sight.facts_of`, with the columns policy and figure (problems that show the same facts).
        n_resamples: of the bootstrap over figures.

    Returns:
        Columns problem, kind, needed, policy, measure, share, low, high, n (facts); what is stated about a thing that
        the figure gives no value for counts in precision, under its own kind, as not needed.
    """
    rows = []
    visual = facts[~facts["in_question"]]
    for keys, part in visual.groupby(["problem", "kind", "needed", "policy"], sort=False):
        for measure, of in (("recall", part[part["gold"]]), ("precision", part[part["stated"]])):
            counts = pd.DataFrame({"hit": of["right"].astype(int), "of": 1})
            if len(of):
                found = _over_figures(counts, of["figure"], _ratio, n_resamples)
                rows.append((*keys, measure, *found, len(of)))
    columns = ["problem", "kind", "needed", "policy", "measure", "share", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def compare(before: pd.DataFrame, after: pd.DataFrame, *, n_resamples: int = 1000) -> pd.DataFrame:
    """Two policies on the same problems, measure by measure, image-only and text-rich apart.

    Yes/no measures are compared on problems where both can be measured ("redrawing, where stated": where both
    state the fact). `SHARES` are compared as shares of all facts; a problem where one policy states nothing counts
    in the other's precision. Intervals are from a bootstrap over figures, for yes/no measures at least as wide
    as Tango's for independent problems (which they are, where no figure comes twice), for shares at least as
    wide as Tango's is where no pair differs: a bootstrap knows no change that it has not seen.

    Args:
        before: outcomes of one policy, as `sight.evaluate` gives them, or read from CSV.
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
    before, after = _paired(before, after)
    rows = []
    for kind, places in before.groupby("kind", sort=True).indices.items():
        one, other = before.iloc[places], after.iloc[places]
        for measure in (*YES_NO, *SHARES):
            counts = _both(one, other, measure)
            if not (n := len(counts)):
                continue
            x, y = (counts.iloc[:, k : k + 2].set_axis(["hit", "of"], axis=1) for k in (0, 2))
            figures = one["figure"][counts.index]
            found = _over_figures(counts, figures, change, n_resamples)
            b = c = None
            p = np.nan
            if measure in YES_NO:
                b, c = int((x["hit"] > y["hit"]).sum()), int((x["hit"] < y["hit"]).sum())
                p = mcnemar(b, c).pvalue
                found = _with_tango(found, paired_difference(b, c, n), figures.is_unique)
            else:
                found = _at_least(found, n)
            ratios = _ratio(x.sum().to_numpy()), _ratio(y.sum().to_numpy())
            rows.append((kind, measure, *ratios, *found, n, figures.nunique(), b, c, p))
    columns = ["kind", "measure", "before", "after", "difference", "low", "high", "n", "figures", "b",
               "c", "p"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns).astype({"b": "Int64", "c": "Int64"})
    table["verdict"] = [
        verdict(row.low, row.high) if row.measure not in NEUTRAL else ""
        for row in table.itertuples()
    ]
    return _in_order(table)


def paired_counts(before: pd.DataFrame, after: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """What `compare` counts, figure by figure: for `study`, which adds seeds up.

    Returns:
        (kind, measure) -> a row a figure (the index), columns hit and of of `before`, hit and of of `after`, and
        the number of problems. Measures that no problem has are left out.

    Raises:
        InputError: see `compare`.
    """
    before, after = _paired(before, after)
    found = {}
    for kind, places in before.groupby("kind", sort=True).indices.items():
        one, other = before.iloc[places], after.iloc[places]
        for measure in (*YES_NO, *SHARES):
            counts = _both(one, other, measure)
            if len(counts):
                counts = counts.set_axis([*COUNTED], axis=1).assign(problems=1)
                found[kind, measure] = counts.groupby(one["figure"][counts.index]).sum()
    return found


COUNTED = ("hit before", "of before", "hit after", "of after")


def _both(one: pd.DataFrame, other: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Hit and of before, hit and of after, of the problems that count."""
    x, y = _counts(one, measure), _counts(other, measure)
    measured = pd.concat([x["of"] > 0, y["of"] > 0], axis=1)
    measured = measured.all(axis=1) if measure in YES_NO else measured.any(axis=1)
    return pd.concat([x, y], axis=1)[measured]


def _counts(outcomes: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Columns hit and of, a row a problem; of is 0 where the measure cannot be had."""
    if measure in SHARES:
        return outcomes[list(SHARES[measure])].set_axis(["hit", "of"], axis=1)
    values = YES_NO[measure](outcomes).astype(float)
    return pd.DataFrame({"hit": values.fillna(0), "of": values.notna().astype(float)})


def _over_figures(
    counts: pd.DataFrame, figures: pd.Series, statistic: Callable, n_resamples: int
) -> tuple[float, float, float]:
    """A statistic of sums, with the interval of a bootstrap over figures."""
    table = pd.DataFrame(counts.to_numpy(dtype=float)).groupby(figures.to_numpy()).sum()
    return count_bootstrap(table, statistic, n_resamples)


def _with_tango(
    found: tuple[float, float, float], tango: tuple[float, float, float], independent: bool
) -> tuple[float, float, float]:
    """Tango's interval, widened to that over figures where figures come more than once."""
    _, low, high = tango
    if independent:
        return tango
    if np.isnan(found[1]):  # one figure
        return tango[0], np.nan, np.nan
    return tango[0], min(low, found[1]), max(high, found[2])


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def change(sums: np.ndarray) -> np.ndarray:
    """The difference of two shares: hit and of before, hit and of after (last axis); nan where one is 0 / 0."""
    return _ratio(sums[..., 2:]) - _ratio(sums[..., :2])


def _at_least(found: tuple[float, float, float], n: int) -> tuple[float, float, float]:
    """A difference with its interval, made as wide as `n` problems of which none differs would give."""
    value, low, high = found
    _, least, most = paired_difference(0, 0, n)
    if np.isnan(low):  # one problem, or nothing stated
        return value, np.nan, np.nan
    return value, max(-1.0, min(low, value + least)), min(1.0, max(high, value + most))


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    names = ["answers", *SAID, "probe", "redrawing", "redrawing, where stated"]
    rank = {name: k for k, name in enumerate(dict.fromkeys([*names, *YES_NO, *SHARES]))}
    order = table["measure"].map(rank)
    return table.assign(_=order).sort_values(["kind", "_"]).drop(columns="_").reset_index(drop=True)


def _paired(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the order of the first."""
    align(*(table.rename(columns={"right": "correct"}) for table in (before, after)))
    after = after.set_index("id").loc[before["id"]].reset_index()
    before = before.reset_index(drop=True)
    for column in ("kind", "figure", "probe_fact", "redrawn_fact"):
        one, other = (table[column].astype(object).fillna("") for table in (before, after))
        differs = one != other
        if differs.any():
            raise InputError(
                f"{column} of {some(before['id'][differs])} is not the same before and after; evaluate both on "
                "the same problems with the same seed"
            )
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
    said = ["no gain"] * (high < NO_GAIN) + ["no worse"] * (low > NO_WORSE)
    return " and ".join(said) or "undecided"


def sight(verdicts: Mapping[str, str]) -> str:
    """What the verdicts on stated facts, probe and redrawing come to.

    "sees better" takes a gain in `SIGHT`, and says in which if in one only; "reports better" is a gain in stated facts
    alone. Redrawing counts where both policies state the fact, so that saying more is not taken for seeing more.

    Args:
        verdicts: measure -> verdict, of one kind of problems.
    """
    seen = [verdicts[measure] for measure in SIGHT if measure in verdicts]
    said = [verdicts[measure] for measure in SAID if measure in verdicts]
    if "gain" in seen and "loss" in seen:
        return "sees better by one measure and worse by the other"
    if "gain" in seen:
        gained = [measure for measure in SIGHT if verdicts.get(measure) == "gain"]
        return "sees better" + (
            f", by the {gained[0].split(',')[0]} alone" if len(gained) == 1 else ""
        )
    if "loss" in seen:
        return "sees worse" + (", though it reports better" if "gain" in said else "")
    if "gain" in said and "loss" in said:
        return "reports better by one measure and worse by the other"
    if "gain" in said or "loss" in said:
        return "reports better" if "gain" in said else "reports worse"
    small = seen and all("no gain" in found for found in seen + said)
    return "neither sees nor reports better" if small else "undecided"


def finding(comparison: pd.DataFrame, before: str, after: str, kind: str = "image-only") -> str:
    """A comparison in a sentence: answers, stated facts, probe, redrawing, and what they come to.

    Args:
        comparison: as `compare` gives it.
        before: name of the first policy.
        after: name of the second.
        kind: of problems.

    Raises:
        InputError: no problems of this kind were compared.
    """
    rows = comparison[comparison["kind"] == kind].set_index("measure")
    if rows.empty:
        raise InputError(
            f"no {kind} problems were compared; there are {some(set(comparison['kind']))}"
        )
    parts = [
        f"{measure} {100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f}: "
        f"{row['verdict']})"
        for measure, row in rows.dropna(subset="low").iterrows()
        if measure in ("answers", *SAID, *SIGHT)
    ]
    return (
        f"On {kind} problems this checkpoint of {after}, against this one of {before}, in points with 95% "
        f"intervals: {', '.join(parts)}. Sight: {sight(rows['verdict'])}."
    )
