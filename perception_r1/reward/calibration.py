"""How good is a judge? Measured on labelled pairs before it may judge in training. Explained in notebook 03."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from perception_r1.common.errors import InputError
from perception_r1.evidence.stats import count_bootstrap, ratio
from perception_r1.reward.judges import Judge, Verdict
from perception_r1.reward.labelled_pairs import Pair, pairs_hash

MEASURES = {  # measure -> counts that decide it, the last one of what it is a share of; see `_counts`
    "precision": ("both", "marked"),
    "recall": ("both", "stated"),
    "specificity": ("neither", "not stated"),
    "contradictions found": ("contradiction found", "contradicted"),
    "without verdict": ("not judged", "pairs"),
    "repeatable": ("same", "twice"),
    "kappa": ("both", "marked", "stated", "judged"),
}


@dataclass(frozen=True)
class Calibration:
    """What a judge did on labelled pairs.

    Attributes:
        card: the judge's, with the pairs' hash.
        pairs: name of the set.
        rows: a row a pair: `id`, `kind`, `how`, `style`, `label`, `mark`, `mark_again` ("" without verdict, or
            not asked again), `failure`, `score` (nan without).
    """

    pairs: str
    card: Mapping[str, object]
    rows: pd.DataFrame

    def summary(
        self, by: str | None = None, n_resamples: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """The measures with 95% intervals from a bootstrap over problems.

        "Stated" against the rest makes precision, recall, specificity and kappa, and where there are scores "auc":
        the chance that a stated pair's score is above another one's (Mann-Whitney, ties half). Pairs without a verdict
        count in "without verdict" only. "Repeatable": of pairs judged twice, the share with equal marks.
        The bootstrap knows no error that it has not seen; so the interval is widened, where need be, to the exact
        (Clopper-Pearson) one of as many observations as problems count (for kappa: of the agreement).

        Args:
            by: a column of `rows` ("kind", "how", "style") to measure apart.
            n_resamples: of the bootstrap.
            seed: of the bootstrap.

        Returns:
            Columns `judge`, `pairs`, `by`, `measure`, `value`, `low`, `high`, `of` (pairs that count).
            A value is missing where nothing counts, an interval where it rests on one problem.
        """
        groups = [("all", self.rows)] if by is None else self.rows.groupby(by, sort=True)
        table = []
        for group, rows in groups:
            counts = _counts(rows)
            for measure, columns in MEASURES.items():
                ends = _interval(counts, measure, n_resamples, seed)
                of = int(counts[columns[-1]].sum())
                table.append((self.card["judge"], self.pairs, group, measure, *ends, of))
            scored = rows[rows["score"].notna()]
            if len(scored):
                ends = _auc_interval(scored, n_resamples, seed)
                table.append((self.card["judge"], self.pairs, group, "auc", *ends, len(scored)))
        columns = ["judge", "pairs", "by", "measure", "value", "low", "high", "of"]
        return pd.DataFrame(table, columns=columns)


async def calibrate(
    judge: Judge, pairs: Sequence[Pair], name: str = "", twice: int | None = None
) -> Calibration:
    """Let a judge mark labelled pairs, and some of them again, without a cache.

    Args:
        judge: to be measured.
        pairs: whose labels it does not see.
        name: of the set of pairs.
        twice: how many pairs are marked again, spread evenly; None: all.
    """
    responses, annotations = [p.response for p in pairs], [[p.annotation] for p in pairs]
    first = await judge.judge(responses, annotations)
    repeats = min(twice or len(pairs), len(pairs))
    places = np.linspace(0, len(pairs) - 1, repeats).round().astype(int).tolist()
    repeated = await judge.again().judge(
        [responses[k] for k in places], [annotations[k] for k in places]
    )
    second = dict(zip(places, repeated, strict=True))
    rows = pd.DataFrame(list(pairs))[["id", "kind", "how", "style", "label"]].assign(
        mark=[_mark(verdict) for verdict in first],
        mark_again=[_mark(second.get(k)) for k in range(len(pairs))],
        failure=[verdict.failure or "" for verdict in first],
        score=[verdict.scores[0] if verdict.scores else np.nan for verdict in first],
    )
    return Calibration(name, {**judge.card(), "pairs hash": pairs_hash(pairs)}, rows)


def fit_threshold(calibration: Calibration) -> float:
    """The score from which on "stated" is right most often: the best mean of recall and specificity.

    Tried is the middle between every two neighbouring scores; of equally good ones the middle one is taken.

    Raises:
        InputError: the scores, or the labels, are all the same.
    """
    rows = calibration.rows.dropna(subset="score")
    stated, scores = (rows["label"] == "stated").to_numpy(), rows["score"].to_numpy()
    steps = np.unique(scores)
    if len(steps) < 2 or stated.all() or not stated.any():
        raise InputError(
            f"no threshold can be fitted on {calibration.pairs!r}: it needs two scores and both labels; "
            "use a judge that grades (ask='each'), and more pairs"
        )
    cuts = (steps[1:] + steps[:-1]) / 2
    passed = scores >= cuts[:, None]
    balanced = (passed[:, stated].mean(axis=1) + 1 - passed[:, ~stated].mean(axis=1)) / 2
    best = cuts[np.isclose(balanced, balanced.max())]
    return float(best[len(best) // 2])


def _mark(verdict: Verdict | None) -> str:
    return verdict.marks[0] if verdict and verdict.marks else ""


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a problem: how many of its pairs are of each sort."""
    judged = rows["mark"] != ""
    stated = judged & (rows["label"] == "stated")
    contradicted = judged & (rows["label"] == "contradicted")
    marked = rows["mark"] == "stated"
    twice = judged & (rows["mark_again"] != "")
    sorts = {
        "pairs": judged | True,
        "judged": judged,
        "not judged": ~judged,
        "stated": stated,
        "not stated": judged & ~stated,
        "marked": marked,
        "both": stated & marked,
        "neither": judged & ~stated & ~marked,
        "contradicted": contradicted,
        "contradiction found": contradicted & (rows["mark"] == "contradicted"),
        "twice": twice,
        "same": twice & (rows["mark"] == rows["mark_again"]),
    }
    return pd.DataFrame(sorts).groupby(rows["id"]).sum()


def _interval(
    counts: pd.DataFrame, measure: str, n_resamples: int, seed: int
) -> tuple[float, float, float]:
    """A measure with its limits, at least as wide as the exact ones with a problem as one observation."""
    columns, statistic = list(MEASURES[measure]), _kappa if measure == "kappa" else ratio
    ends = count_bootstrap(counts[columns], statistic, n_resamples, seed=seed)
    problems = int((counts[columns[-1]] > 0).sum())
    share, chance = ends[0], 0.0
    if measure == "kappa" and not np.isnan(share):  # agreement = chance + kappa (1 - chance)
        sums = counts.sum()
        share = (sums["both"] + sums["neither"]) / sums["judged"]
        stated, marked = sums["stated"] / sums["judged"], sums["marked"] / sums["judged"]
        chance = stated * marked + (1 - stated) * (1 - marked)
    return _widened(ends, problems, share, chance)


def _widened(
    ends: tuple[float, float, float], problems: int, share: float, chance: float = 0.0
) -> tuple[float, float, float]:
    value, low, high = ends
    if problems < 2 or np.isnan(value):
        return value, np.nan, np.nan
    exact = proportion_confint(share * problems, problems, method="beta")
    exact_low, exact_high = ((float(end) - chance) / (1 - chance) for end in exact)
    return value, min(low, exact_low), max(high, exact_high)


def _auc_interval(rows: pd.DataFrame, n_resamples: int, seed: int) -> tuple[float, float, float]:
    """The area under the ROC curve with its limits, widened like the other measures'."""
    ids, problem = np.unique(rows["id"], return_inverse=True)
    steps, step = np.unique(rows["score"], return_inverse=True)
    stated = (rows["label"] == "stated").to_numpy().astype(int)
    counts = np.zeros((len(ids), 2, len(steps)))  # of pairs, by problem, label and score
    np.add.at(counts, (problem, stated, step), 1)
    table = pd.DataFrame(counts.reshape(len(ids), -1))
    ends = count_bootstrap(table, _auc, n_resamples, seed=seed)
    problems = int(counts.any(axis=2).sum(axis=0).min())  # with such a pair: of the rarer label
    return _widened(ends, problems, ends[0])


def _auc(sums: np.ndarray) -> np.ndarray:
    """From counts of other and of stated pairs by rising score; nan without both. Shape (..., 2 K) -> (...)."""
    other, stated = np.split(sums, 2, axis=-1)
    below = np.cumsum(other, axis=-1) - other / 2
    won, all_pairs = (stated * below).sum(axis=-1), stated.sum(axis=-1) * other.sum(axis=-1)
    return ratio(np.stack([won, all_pairs], axis=-1))


def _kappa(sums: np.ndarray) -> np.ndarray:
    """Cohen's kappa of "stated" against the rest; nan where chance agreement is complete. Shape (..., 4) -> (...)."""
    both, marked, stated, judged = np.moveaxis(sums, -1, 0)
    agreed = judged - stated - marked + 2 * both
    chance = stated * marked + (judged - stated) * (judged - marked)
    return ratio(np.stack([judged * agreed - chance, judged * judged - chance], axis=-1))
