"""The theory of credit: against the sum over all that can happen, and groups worked out by hand."""

import itertools

import numpy as np
import pytest

from perception_r1.common.errors import InputError
from perception_r1.study.credit import (
    ARMS,
    BETA,
    Condition,
    advantages,
    covariances,
    credit,
    fit,
    mixed,
    predict,
    rollouts,
)


def drawn(condition, groups=20_000, **more):
    return rollouts(condition, groups, rng=np.random.default_rng(0), **more)


def exact(condition, size, gamma):
    """Every group that can happen with its probability: signal, noise, and how likely no reward differs."""
    k, p, g, s, c, _ = condition
    weights, signals, squares, silent = [], [], [], []
    for given in (False, True):
        for bits in itertools.product((0, 1), repeat=size * (k + 1)):
            facts, answers = np.split(np.array(bits), [size * k])
            facts = facts.reshape(1, size, k)
            right = np.where(facts[0].all(axis=1) | given, c, g)
            chance = np.where(answers, right, 1 - right).prod() * (s if given else 1 - s)
            weights.append(chance * np.where(facts, p, 1 - p).prod())
            rewards = mixed(facts, answers[None], gamma)
            earned = covariances(facts, rewards)[0] / (p * (1 - p))
            signals.append(earned.mean())
            squares.append((earned**2).mean())
            silent.append(np.ptp(rewards) < 1e-9)
    signal, square, share = (np.average(v, weights=weights) for v in (signals, squares, silent))
    assert sum(weights) == pytest.approx(1)
    return signal, np.sqrt(square - signal**2), share


@pytest.mark.parametrize("gamma", ARMS.values(), ids=ARMS)
@pytest.mark.parametrize(
    ("condition", "size"),
    [
        (Condition(1, 0.6, 0.2, 0.3, 0.9), 4),
        (Condition(2, 0.7, 0.1, 0.25, 0.95), 3),
        (Condition(3, 0.8), 2),
    ],
)
def test_the_simulation_agrees_with_all_that_can_happen(condition, size, gamma):
    facts, answers = drawn(condition, group_size=size)
    found = credit(facts, mixed(facts, answers, gamma))[:3]
    assert found == pytest.approx(exact(condition, size, gamma), abs=0.03)


def test_a_group_by_hand():
    facts = np.array([[[1, 1], [1, 0], [0, 1], [0, 0]]])
    # one right answer of four: its advantage is 0.75 / 0.5, that of the others -0.25 / 0.5
    answers = np.array([[1, 0, 0, 0]])
    assert advantages(answers) == pytest.approx(np.array([[1.5, -0.5, -0.5, -0.5]]), abs=1e-3)
    found = credit(facts, answers)
    by_hand = (1.5 * 0.5 - 0.5 * 0.5 + 0.5 * 0.5 + 0.5 * 0.5) / 4 / (0.5 * 0.5)
    assert found.signal == pytest.approx(by_hand, abs=1e-3)
    assert found[1:] == pytest.approx((0, 0, 0, 0.5))
    lucky = credit(facts, np.array([[0, 1, 0, 0]]))  # earns its first fact praise, the second blame
    assert lucky == pytest.approx((0, by_hand, 0, 0.5, 0.5), abs=1e-3)
    silent = credit(facts, np.ones((1, 4)))
    assert silent[:3] == (0, 0, 1) and np.isnan(silent.misread_praise)
    padded = np.concatenate([facts, np.full((1, 4, 1), np.nan)], axis=2)
    assert credit(padded, answers) == found
    assert mixed(padded, answers, 0.7)[0] == pytest.approx([BETA + 0.7, 0.35, 0.35, 0])


def test_what_changes_nothing_and_what_earns_nothing():
    facts, answers = drawn(Condition(4, 0.7, luck=0.2, computed=0.9), 500)
    rewards = mixed(facts, answers, 0.7)
    assert credit(facts, rewards + 0.1) == pytest.approx(credit(facts, rewards))
    given = drawn(Condition(4, 0.7, shortcut=1, computed=0.9), 4000)
    blind = credit(given[0], mixed(*given, 0))
    assert abs(blind.signal) < 0.02 < blind.noise and blind.misread_praise > 0.25
    fixed, right = drawn(Condition(4, 0.7, within=0), 500)
    assert (fixed.all(axis=1) | ~fixed.any(axis=1)).all() and credit(fixed, right).signal == 0
    half, _ = drawn(Condition(1, 0.7, within=0.4))
    assert half.var(axis=1, ddof=1).mean() == pytest.approx(0.4 * 0.21, abs=0.005)
    with pytest.raises(InputError, match="between 0 and 1"):
        drawn(Condition(4, 1.2))


def test_predictions_follow_signal_and_noise():
    fitted = {"steps": 120, "pull": 0.055, "drift": 0.22}
    ends = {
        (name, arm): predict(condition, gamma, **fitted)
        for name, condition in {
            "plain": Condition(4, 0.68, 0.05, computed=0.95),
            "lucky": Condition(4, 0.68, 0.5, computed=0.95),
            "given": Condition(4, 0.68, 0.05, 1, 0.95),
        }.items()
        for arm, gamma in ARMS.items()
    }
    facts = {key: path.facts[-1] for key, path in ends.items()}
    assert facts["lucky", "accuracy_only"] < facts["given", "accuracy_only"] < 0.66
    assert all(facts[name, "perception"] > facts[name, "accuracy_only"] for name, _ in facts)
    start = ends["plain", "perception"]
    assert start.answers[0] == pytest.approx(0.95 * 0.68**4)
    rising = predict(Condition(4, 0.7, within=0.3), 0.7, steps=10_000, pull=0.1, drift=0)
    assert rising.facts[-1] == pytest.approx(0.7 * 0.7 + 0.3, abs=0.002)  # never what is not open
    assert predict(Condition(2, 1.0), 0, **fitted).facts[-1] == 1


def test_a_fit_finds_the_constants_of_runs_that_the_theory_made():
    about, wanted = Condition(4, 0.7), (0.08, 0.2)
    runs = [(gamma, rate) for gamma in ARMS.values() for rate in (0.5, 2)]
    observed = [
        (about, gamma, rate, predict(about, gamma, steps=30, pull=0.08 * rate, drift=0.2 * rate**2).facts[-1])
        for gamma, rate in runs
    ]  # fmt: skip
    assert fit(observed, 30) == pytest.approx(wanted, rel=0.02)
