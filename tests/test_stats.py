"""Statistics against hand computation, statsmodels, and brute force written here."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from perception_r1.common.errors import InputError
from perception_r1.evidence import stats

counts = st.integers(0, 400)


def exact_by_hand(b: int, c: int) -> Fraction:
    """The two-sided exact p-value in whole numbers."""
    n = b + c
    return min(Fraction(1), Fraction(2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)), 2**n))


def test_the_papers_three_tables():
    for b, c, pvalue, low, high in [
        (1, 5, 0.21875, 0.5595, 236.49),
        (2, 4, 0.6875, 0.2866, 22.11),
        (2, 10, 0.03857421875, 1.0655, 46.93),
    ]:
        result = stats.mcnemar(b, c)
        assert (result.b, result.c, result.odds_ratio) == (b, c, c / b)
        assert result.pvalue == pytest.approx(pvalue, abs=1e-12)
        assert (result.ci_low, result.ci_high) == pytest.approx((low, high), rel=1e-3)


@given(counts, counts)
def test_exact_p_equals_statsmodels_and_whole_number_arithmetic(b, c):
    result = stats.mcnemar(b, c)
    library = statsmodels_mcnemar([[3, b], [c, 7]], exact=True).pvalue
    assert result.pvalue == pytest.approx(library, rel=1e-9, abs=1e-300)
    assert result.pvalue == pytest.approx(float(exact_by_hand(b, c)), rel=1e-9)


def test_mid_p_by_its_definition():
    """Splits less likely than the observed one count whole, those as likely by half."""
    for b, c in itertools.product(range(9), repeat=2):
        n = b + c
        if n == 0:
            continue
        chance = [Fraction(math.comb(n, k), 2**n) for k in range(n + 1)]
        mid = sum(p if p < chance[c] else p / 2 for p in chance if p <= chance[c])
        assert stats.mcnemar(b, c).pvalue_mid == pytest.approx(float(mid), abs=1e-12)


def test_edge_cases_of_the_odds_ratio():
    nothing = stats.mcnemar(0, 0)
    assert math.isnan(nothing.odds_ratio)
    assert (nothing.ci_low, nothing.ci_high) == (0, math.inf)
    assert (nothing.pvalue, nothing.pvalue_mid) == (1, 1)
    gains, losses = stats.mcnemar(0, 7), stats.mcnemar(np.int64(7), np.int32(0))
    assert (gains.odds_ratio, gains.ci_high) == (math.inf, math.inf)
    assert (losses.odds_ratio, losses.ci_low) == (0, 0)
    assert gains.ci_low == pytest.approx(1 / losses.ci_high) and 0 < gains.ci_low < math.inf
    assert gains.pvalue == losses.pvalue == stats.smallest_pvalue(7) == 2 / 2**7
    assert stats.mcnemar(0, 100_000).pvalue == 0  # below the smallest double


@pytest.mark.parametrize("bad", [-1, 2.5, "3", True])
def test_counts_must_be_whole_and_not_negative(bad):
    for name, counts in (("b", (bad, 3)), ("c", (3, bad))):
        with pytest.raises(InputError, match=rf"{name} must .*got"):
            stats.mcnemar(*counts)


def score_statistic(b: int, c: int, n: int, delta: float) -> float:
    """Tango's statistic, with the nuisance parameter found by numerical maximum likelihood."""

    def minus_likelihood(q):
        shares = (q + delta, q, 1 - 2 * q - delta)
        found = (c, b, n - b - c)
        return -sum(k * math.log(p) for k, p in zip(found, shares, strict=True) if k)

    low, high = max(0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12
    how = {"bounds": (low, high), "method": "bounded", "options": {"xatol": 1e-13}}
    q = optimize.minimize_scalar(minus_likelihood, **how).x
    return (c - b - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize("b, c, n", [(1, 5, 50), (2, 10, 50), (20, 31, 200), (3, 3, 12)])
def test_limits_are_where_the_score_test_turns(b, c, n):
    estimate, low, high = stats.paired_difference(b, c, n)
    assert estimate == (c - b) / n
    assert score_statistic(b, c, n, low) == pytest.approx(1.959964, abs=2e-3)
    assert score_statistic(b, c, n, high) == pytest.approx(-1.959964, abs=2e-3)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_difference_mirrors_and_stays_in_bounds(b, c, rest):
    n = b + c + rest
    estimate, low, high = stats.paired_difference(b, c, n)
    assert -1 <= low <= estimate <= high <= 1
    mirrored = stats.paired_difference(c, b, n)
    assert mirrored == pytest.approx((-estimate, -high, -low), abs=1e-6)


def test_discordant_items_must_fit():
    assert stats.paired_difference(0, 5, 5)[2] == 1 and stats.paired_difference(5, 0, 5)[1] == -1
    for counts in ((6, 5, 10), (0, 0, 0)):
        with pytest.raises(InputError, match=f"do not fit into n = {counts[2]}"):
            stats.paired_difference(*counts)


def test_holm_by_hand_keeps_names():
    adjusted = stats.holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def power_by_hand(d: int, gain: float) -> float:
    return sum(
        math.comb(d, k) * gain**k * (1 - gain) ** (d - k)
        for k in range(d + 1)
        if exact_by_hand(d - k, k) <= 0.05
    )


@given(st.integers(0, 60), st.floats(0, 1))
def test_power_given_discordant_pairs_by_enumeration(d, gain):
    power = stats.power_given_discordant(d, gain)
    assert power == pytest.approx(power_by_hand(d, gain), abs=1e-9)


def test_unconditional_power_by_enumeration():
    n, psi, gain = 40, 0.3, 0.8
    by_hand = sum(
        math.comb(n, d) * psi**d * (1 - psi) ** (n - d) * power_by_hand(d, gain)
        for d in range(n + 1)
    )
    assert stats.power(n, psi, gain) == pytest.approx(by_hand, abs=1e-9)
    assert stats.power(0, psi, gain) == 0


@pytest.mark.parametrize("psi, gain", [(0.24, 5 / 6), (1.0, 0.7)])
def test_sample_size_is_the_last_crossing(psi, gain):
    n = stats.sample_size(psi, gain)
    assert stats.power(n - 1, psi, gain) < 0.8
    assert all(stats.power(m, psi, gain) >= 0.8 for m in range(n, 3 * n))


def test_plans_and_values_that_make_no_sense():
    for function, values, says in (
        (stats.sample_size, (0.2, 0.5), "no effect"),
        (stats.sample_size, (0.1, 0.501), "more than 100000 items"),
        (stats.power, (10, 0.5, 1.5), "gain must lie between 0 and 1, got 1.5"),
        (stats.holm, ({"a": float("nan"), "b": 0.01},), "p-value of a must lie"),
    ):
        with pytest.raises(InputError, match=says):
            function(*values)


def test_sign_flip_by_enumeration():
    gains = [0.3, 0.1, -0.05, 0.2, 0.15]
    flips = [
        abs(sum(s * g for s, g in zip(signs, gains, strict=True)))
        for signs in itertools.product((-1, 1), repeat=5)
    ]
    by_hand = sum(total >= abs(sum(gains)) - 1e-12 for total in flips) / 32
    assert stats.sign_flip(pd.Series(gains)) == pytest.approx(by_hand)
    for bad in ([0.1], [0.1, math.nan], [0.1] * 21):
        with pytest.raises(InputError, match="2 to 20 finite differences"):
            stats.sign_flip(pd.Series(bad))


def test_count_bootstrap_draws_whole_clusters():
    """Rows of one problem are equal, so the interval is that of 40 problems, not of 400 rows."""
    rng = np.random.default_rng(3)
    right = rng.integers(0, 2, 40)
    counts = pd.DataFrame({"right": 10 * right, "n": 10})
    value, low, high = stats.count_bootstrap(counts, lambda n: n[..., 0] / n[..., 1], 4000)
    assert value == right.mean()
    assert high - low == pytest.approx(2 * 1.96 * right.std() / math.sqrt(40), rel=0.1)
    # a resample without any row of the second cluster has no share, and is left out
    counts = pd.DataFrame({"right": [0, 3], "n": [0, 4]})
    with np.errstate(invalid="ignore"):
        some = stats.count_bootstrap(counts, lambda n: n[..., 0] / n[..., 1])
    assert some == (0.75, 0.75, 0.75)


def outcomes(**correct) -> pd.DataFrame:
    return pd.DataFrame({"id": list(correct), "correct": list(correct.values())})


def test_align_matches_by_id_not_by_order():
    aligned = stats.align(outcomes(p=1, q=0, r=1), outcomes(r=0, p=1, q=1))
    rows = [["p", True, True], ["q", False, True], ["r", True, False]]
    assert aligned[["id", "before", "after"]].to_numpy().tolist() == rows
    table = stats.paired_table(aligned)
    assert (table.both, table.b, table.c, table.neither, table.n) == (1, 1, 1, 0, 3)


def test_align_names_what_does_not_match():
    for before, after, message in (
        (outcomes(p=1, q=0), outcomes(p=1), "only 'before' has id q"),
        (outcomes(p=1), outcomes(p=1).iloc[[0, 0]], "repeat id p"),
        (outcomes(p=1), outcomes(p=1).rename(columns={"correct": "right"}), "no column correct; "),
        (outcomes(p=1, q=None), outcomes(p=1, q=1), "id q is neither true nor false"),
    ):
        with pytest.raises(InputError, match=message):
            stats.align(before, after)
