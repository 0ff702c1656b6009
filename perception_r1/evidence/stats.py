"""Paired tests, intervals and power. Explained in notebook 01.

Sums over the binomial distribution, not simulations (tails below 1e-12 are left out); except `count_bootstrap`.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests

from perception_r1.common.errors import InputError, some

TAIL = (1 - 0.95) / 2  # on either side of an interval
LEVEL = 0.05  # of a two-sided test whose power is planned
MOST_ITEMS = 100_000  # that `sample_size` looks at

# --- two outcome tables, item by item --------------------------------------------------------------


def align(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Put two outcome tables side by side, matched by `id`; nothing is dropped.

    Args:
        before: columns `id` and `correct` (bool, or 0/1), one row per item.
        after: the same items, in any order.

    Returns:
        Columns `id`, `before`, `after` (bool), in the order of `before`.

    Raises:
        InputError: a missing column, a repeated id, an id that only one table has, or an outcome
            that is neither right nor wrong; the ids are named.
    """
    for name, table in (("before", before), ("after", after)):
        if missing := {"id", "correct"} - set(table.columns):
            there = f"columns are {some(table.columns)}"
            raise InputError(f"the {name!r} outcomes have no column {some(missing)}; {there}")
        if len(repeated := table.loc[table["id"].duplicated(), "id"].unique()):
            raise InputError(f"the {name!r} outcomes repeat id {some(repeated)}; each counts once")
        if len(unclear := table.loc[~table["correct"].isin([True, False]), "id"]):
            raise InputError(f"{name!r}: id {some(unclear)} is neither true nor false; give 1 or 0")
    for name, table, other in (("before", before, after), ("after", after, before)):
        if only := set(table["id"]) - set(other["id"]):
            raise InputError(f"only {name!r} has id {some(only)}; both must hold the same items")
    both = before[["id", "correct"]].merge(after[["id", "correct"]], on="id")
    both.columns = ["id", "before", "after"]
    return both.astype({"before": bool, "after": bool})


@dataclass(frozen=True)
class PairedTable:
    """The 2x2 table of two outcomes on the same items."""

    both: int
    b: int  # right only before
    c: int  # right only after
    neither: int

    @property
    def n(self) -> int:
        """The number of items."""
        return self.both + self.b + self.c + self.neither


def paired_table(aligned: pd.DataFrame) -> PairedTable:
    """Count the four cells of a table made by `align`."""
    before, after = aligned["before"], aligned["after"]
    cells = (before & after, before & ~after, ~before & after, ~before & ~after)
    return PairedTable(*(int(cell.sum()) for cell in cells))


# --- McNemar's test --------------------------------------------------------------------------------


@dataclass(frozen=True)
class McNemarResult:
    """McNemar's test of `b` items right only before against `c` right only after."""

    b: int
    c: int
    pvalue: float
    pvalue_mid: float
    odds_ratio: float
    ci_low: float
    ci_high: float


def mcnemar(b: int, c: int) -> McNemarResult:
    """McNemar's exact test: were the discordant pairs dealt by a fair coin?

    Args:
        b: items right only before.
        c: items right only after.

    Returns:
        The exact two-sided p-value; the mid-p value, which counts results as likely as the observed
        one by half (Fagerland et al. 2013); and the odds ratio c/b with its exact (Clopper-Pearson)
        95% interval. With b = 0 < c the ratio is infinite; with b = c = 0 it is nan, in (0, inf), and
        both p-values are 1.

    Raises:
        InputError: a count that is negative or not whole.
    """
    b, c = _count(b, "b"), _count(c, "c")
    n = b + c
    if n == 0:
        return McNemarResult(b, c, 1.0, 1.0, math.nan, 0.0, math.inf)
    test = sps.binomtest(c, n, 0.5)
    same = float(sps.binom.pmf(b, n, 0.5)) * (1 if b == c else 2)  # as likely as what was seen
    low, high = test.proportion_ci(method="exact")
    pvalue = min(float(test.pvalue), 1.0)
    ratio = c / b if b else math.inf
    return McNemarResult(b, c, pvalue, pvalue - same / 2, ratio, _odds(low), _odds(high))


def paired_difference(b: int, c: int, n: int) -> tuple[float, float, float]:
    """Return the change in the share of right items, (c - b)/n, with Tango's 95% score interval.

    The interval holds every true difference that the score test of McNemar's form does not reject
    (Tango 1998, Statistics in Medicine 17:891). It depends on the discordant counts and n only.

    Args:
        b: items right only before.
        c: items right only after.
        n: all items.

    Returns:
        Difference, lower and upper limit, as shares between -1 and 1.

    Raises:
        InputError: a count that is negative or not whole, or b + c above n, or n = 0.
    """
    b, c, n = _count(b, "b"), _count(c, "c"), _count(n, "n")
    if b + c > n or n == 0:
        raise InputError(f"{b} + {c} discordant items do not fit into n = {n}")
    z = sps.norm.ppf((1 + 0.95) / 2)

    def excess(delta: float, sign: int) -> float:
        """How far the score statistic lies inside the limit, with the sign of the side looked at."""
        # Most likely share of b-items under `delta`: the root of a quadratic (Tango's Eq. 5).
        linear = (b + c) + delta * (c - b - 2 * n)
        root = math.sqrt(max(linear**2 + 8 * n * b * delta * (1 - delta), 0.0))
        q = (linear + root) / (4 * n)
        spread = math.sqrt(max(n * (2 * q + delta * (1 - delta)), 0.0))
        return sign * (c - b - n * delta) - z * spread

    estimate = (c - b) / n
    limits = []
    for sign, end in ((1, -1.0), (-1, 1.0)):
        start = estimate - sign * 1e-9  # at the estimate itself the statistic can be 0/0
        reached = estimate == end or excess(end, sign) <= 0
        limits.append(end if reached else optimize.brentq(excess, start, end, args=(sign,)))
    return estimate, limits[0], limits[1]


def holm(pvalues: Mapping[str, float]) -> dict[str, float]:
    """Adjust several p-values of one family by Holm's method (statsmodels), names kept."""
    values = [_probability(value, f"p-value of {name}") for name, value in pvalues.items()]
    adjusted = multipletests(values, method="holm")[1]
    return dict(zip(pvalues, map(float, adjusted), strict=True))


# --- what a study of this kind can see --------------------------------------------------------------


def smallest_pvalue(d: int) -> float:
    """The smallest p-value that `d` discordant pairs can give: all of them on one side."""
    return mcnemar(0, _count(d, "d")).pvalue


def power_given_discordant(d: int, gain: float) -> float:
    """The chance that McNemar's exact test is significant (p at most `LEVEL`), given `d` discordant pairs.

    Args:
        d: number of discordant pairs.
        gain: probability that a discordant pair is a gain (right only after); a split of 5:1 is 5/6.

    Raises:
        InputError: a count or probability out of range.
    """
    return float(_conditional_power(np.array(_count(d, "d")), _probability(gain, "gain")))


def _conditional_power(d: np.ndarray, gain: float) -> np.ndarray:
    """`power_given_discordant` for an array of discordant counts."""
    # The critical value is the largest k = min(b, c) with 2 P(X <= k) <= LEVEL; ppf gives the first
    # k whose tail *reaches* LEVEL/2, so step back where it goes beyond. -1: no split is significant.
    k = sps.binom.ppf(LEVEL / 2, d, 0.5)
    k = np.where(2 * sps.binom.cdf(k, d, 0.5) > LEVEL, k - 1, k)
    both_tails = sps.binom.cdf(k, d, gain) + sps.binom.sf(d - k - 1, d, gain)
    return np.where(k >= 0, both_tails, 0.0)


def power(n: int, discordant: float, gain: float) -> float:
    """The chance that McNemar's exact test is significant on `n` items, before any is looked at.

    The number of discordant pairs is itself random: d ~ Binomial(n, discordant). This is the sum of
    `power_given_discordant` over d, weighted by that distribution.

    Args:
        n: number of items.
        discordant: probability that an item is discordant (psi).
        gain: probability that a discordant item is a gain.
    """
    n, discordant = _count(n, "n"), _probability(discordant, "discordant")
    if n == 0:
        return 0.0
    low, high = sps.binom.ppf([1e-12, 1 - 1e-12], n, discordant)  # outside, the weights are nothing
    d = np.arange(int(low), int(high) + 1)
    given = _conditional_power(d, _probability(gain, "gain"))
    return float(given @ sps.binom.pmf(d, n, discordant))


def sample_size(discordant: float, gain: float, target: float = 0.8) -> int:
    """The number of items from which on McNemar's exact test has at least the `target` power.

    Exact power rises in n with small dips, so this is the first n after the last dip below the
    target, not the first n that touches it.

    Args:
        discordant: probability that an item is discordant (psi).
        gain: probability that a discordant item is a gain; 0.5 means no effect.
        target: the power wanted, between 0 and 1.

    Raises:
        InputError: no effect is planned (gain 0.5, or no discordant items), or more than `MOST_ITEMS` are needed.
    """
    discordant, gain = _probability(discordant, "discordant"), _probability(gain, "gain")
    if not 0 < _probability(target, "target") < 1:
        raise InputError(f"target power must lie between 0 and 1, got {target}")
    if discordant == 0 or gain == 0.5:
        raise InputError("no sample size finds no effect; plan discordant > 0, gain away from 0.5")

    def enough(n: int) -> bool:
        return power(n, discordant, gain) >= target

    high = 8
    while not enough(high):
        if high >= MOST_ITEMS:
            raise InputError(f"more than {MOST_ITEMS} items are needed; plan a larger effect")
        high = min(2 * high, MOST_ITEMS)
    low = high // 2
    while high - low > 1:  # a crossing lies in (low, high]; dips may follow it
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    # The saw-tooth of the exact test repeats every 2-3 discordant pairs and flattens as n grows: walk on
    # until twenty teeth have passed without a dip.
    calm = math.ceil(50 / discordant)
    last, n = high - 1, high
    while n - last <= calm:
        last, n = (last, n + 1) if enough(n) else (n, n + 1)
    return last + 1


# --- statements about a method, not one checkpoint ---------------------------------------------------


def sign_flip(differences: pd.Series) -> float:
    """Exact two-sided p-value of a mean of paired differences, one a training seed (scipy's permutation test).

    If the method did nothing, each difference could as well have the other sign; all 2^k patterns are enumerated. So
    with k seeds p is at least 2 / 2^k.

    Raises:
        InputError: a difference is not finite, fewer than 2 or more than 20 of them.
    """
    if not 2 <= len(differences) <= 20 or not np.isfinite(differences).all():
        raise InputError("the exact test takes 2 to 20 finite differences, one a seed")
    exact = {"permutation_type": "samples", "n_resamples": np.inf, "vectorized": True}
    return float(sps.permutation_test((differences,), np.mean, **exact).pvalue)


def mean_interval(values: pd.Series) -> tuple[float, float]:
    """Student's 95% interval of a mean; missing with one value."""
    if len(values) < 2:
        return math.nan, math.nan
    interval = sps.ttest_1samp(values, 0).confidence_interval()
    return float(interval.low), float(interval.high)


def count_bootstrap(
    counts: pd.DataFrame,
    statistic: Callable[[np.ndarray], np.ndarray],
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """95% percentile interval of a statistic of sums (shares, kappa), where each row of `counts` is a cluster.

    Whole clusters are drawn with replacement, so that rows of one problem or one figure, which resemble each other,
    are not counted as independent evidence. Only the clusters' counts are needed, which makes it fast.

    Args:
        counts: a row a cluster, a column a count.
        statistic: sums of the columns, shape (..., columns) -> values, shape (...).
        n_resamples: number of bootstrap tables.
        seed: of the random generator.

    Returns:
        The statistic of all rows, lower and upper limit. Resamples in which it is not defined (nan) are left
        out; the limits are nan with fewer than 2 clusters, or where the statistic is nan.
    """
    table = counts.to_numpy(dtype=float)
    value = float(statistic(table.sum(axis=0)))
    if len(table) < 2 or math.isnan(value):
        return value, math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=n_resamples)
    values = statistic(drawn @ table)
    low, high = np.nanquantile(values, [TAIL, 1 - TAIL])
    return value, float(low), float(high)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first count as a share of the second (last axis), as `count_bootstrap` takes it; nan where that is 0 / 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _count(value: int, name: str) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral) or value < 0:
        raise InputError(f"{name} must be a whole number, 0 or more, got {value!r}")
    return int(value)


def _probability(value: float, name: str) -> float:
    if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise InputError(f"{name} must lie between 0 and 1, got {value!r}")
    return float(value)


def _odds(share: float) -> float:
    return math.inf if share >= 1 else float(share / (1 - share))
