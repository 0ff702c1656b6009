"""The theory of the map: how much credit a fact read right earns, by which reward, and where that leads. Notebook 05.

A problem asks for a computation on k facts of its figure; a group is G responses to it, normalised as in GRPO. What a
group teaches about a fact is the covariance of "read right" with the normalised reward, its *credit*. Its mean over
groups is signal. Its spread is noise, and noisy updates unlearn what was learnt. Numbers only, no model: a table of
thousands of groups takes milliseconds. `predict` follows signal and noise through training.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from perception_r1.common.errors import InputError
from perception_r1.evidence import paper

BETA = paper.constant("beta")
ARMS = {"accuracy_only": 0.0, "perception": paper.constant("gamma")}  # arm -> gamma
LOOKS = 12  # how often signal and noise are measured along a run
MOST_ODDS = 6.0  # log-odds beyond which nothing moves: 1 fact of 400 is misread


class Condition(NamedTuple):
    """A cell of the map, as the theory sees it; shares, but for `facts`.

    Attributes:
        facts: k, how many facts an answer needs.
        read: p, how often a fact is read right; facts are independent of each other.
        luck: g, how often an answer is right although a fact is misread.
        shortcut: s, the problems whose text gives the answer away: right with chance `computed`, whatever is read.
        computed: c, how often an answer is right when all facts are.
        within: of p(1 - p), the share that lies within a problem: so many facts are open from response to response,
            the others are read right, or not, by all of a group, and earn no credit.
    """

    facts: int
    read: float
    luck: float = 0.0
    shortcut: float = 0.0
    computed: float = 1.0
    within: float = 1.0


def rollouts(
    condition: Condition,
    groups: int,
    group_size: int = 8,
    *,
    rng: np.random.Generator,
    open_read: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw groups of responses.

    Args:
        condition: see `Condition`.
        groups: how many problems are drawn.
        group_size: G, responses to each.
        rng: what draws; the same draws for every condition with as many facts.
        open_read: how often an open fact is read right, if training has changed it; else `condition.read`.

    Returns:
        Facts read right, bool (groups, G, k), and right answers, bool (groups, G).

    Raises:
        InputError: a share outside 0 to 1, no fact, or fewer than two responses.
    """
    if not all(0 <= share <= 1 for share in condition[1:]):
        raise InputError(f"{condition}: give shares between 0 and 1")
    if condition.facts < 1 or group_size < 2:
        raise InputError("a group needs at least one fact and two responses")
    draws = rng.random((groups, group_size, condition.facts))
    dealt, is_open = rng.random((2, groups, 1, condition.facts))
    opened = condition.read if open_read is None else open_read
    facts = np.where(is_open < condition.within, draws < opened, dealt < condition.read)
    known = facts.all(axis=2) | (rng.random((groups, 1)) < condition.shortcut)
    chance = np.where(known, condition.computed, condition.luck)
    return facts, rng.random((groups, group_size)) < chance


def mixed(facts_right: np.ndarray, answers_right: np.ndarray, gamma: float) -> np.ndarray:
    """The paper's reward (Eq. 5) without its format, which all have: (groups, G); shapes as `rollouts` gives them."""
    return BETA * answers_right + gamma * np.nanmean(facts_right, axis=2)


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Rewards (groups, G) as GRPO compares them: minus the group's mean, over its standard deviation, as in TRL."""
    spread = rewards.std(axis=1, ddof=1, keepdims=True)
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (spread + 1e-4)


def covariances(facts_right: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Of each fact with the advantage, within its group, over G (not G - 1): (groups, k)."""
    facts = np.asarray(facts_right, dtype=float)
    return (advantages(rewards)[..., None] * (facts - facts.mean(axis=1, keepdims=True))).mean(1)


class Credit(NamedTuple):
    """What rewards teach about facts.

    Attributes:
        signal: mean credit of a fact.
        noise: standard deviation of the credit of one fact, over groups.
        silent: share of groups without any difference in reward.
        misread_praise: share of the positive advantage that goes, fact by fact, to responses that misread the fact;
            missing where nothing is praised.
        misread_chance: that share if each group dealt its praise evenly among its responses.
    """

    signal: float
    noise: float
    silent: float
    misread_praise: float
    misread_chance: float


def credit(facts_right: np.ndarray, rewards: np.ndarray) -> Credit:
    """The credit of facts: `covariances` over p(1 - p), where p is the share of all facts that are read right.

    So 1 is what a fact would earn if its reading moved the advantage by 1. Facts count alike.

    Args:
        facts_right: (groups, G, k); nan for the whole group where a problem has fewer than k facts.
        rewards: (groups, G).
    """
    facts, rewards = np.asarray(facts_right, dtype=float), np.asarray(rewards, dtype=float)
    share = np.nanmean(facts)
    earned = covariances(facts, rewards) / (share * (1 - share) or math.inf)
    silent = np.ptp(rewards, axis=1) < 1e-9
    praise = np.maximum(advantages(rewards), 0)[..., None] * ~silent[:, None, None]
    misread, all_praise = 1 - facts, np.sum(praise * ~np.isnan(facts)) or math.nan
    to_misread = np.nansum(praise * misread) / all_praise
    by_chance = np.nansum(praise * misread.mean(axis=1, keepdims=True)) / all_praise
    return Credit(np.nanmean(earned), np.nanstd(earned), silent.mean(), to_misread, by_chance)


class Prediction(NamedTuple):
    """A run as the theory sees it, an array of each from the base to the last step; shares, but for `steps`.

    `answers` are right image-only answers of the exact form, whatever the training problems ask.
    """

    facts: np.ndarray
    answers: np.ndarray


def predict(
    condition: Condition,
    gamma: float,
    *,
    steps: int,
    pull: float,
    drift: float,
    rate: float = 1.0,
) -> Prediction:
    """Where training leads: the log-odds of reading an open fact right move with the signal, and fall with the noise.

    A step adds `pull` x - `drift` y^2, with x and y signal and noise times p(1 - p): the mean and the standard
    deviation of the gradient on those log-odds. Both are measured again along the way, as they change with p: gains
    level off where all is read right, and what unlearns falls faster as right answers become luck.

    Args:
        condition: of the training problems; `read` is the base's.
        gamma: weight of the facts in the reward; see `ARMS`.
        steps: of training, all at the same rate.
        pull: fitted on runs that are not predicted.
        drift: fitted with it.
        rate: in units of that for which they were fitted; r times as high, `pull` is r times as large and `drift` r^2
            times.
    """
    pull, drift = pull * rate, drift * rate**2
    odds = math.log(condition.read / (1 - condition.read)) if 0 < condition.read < 1 else math.inf
    path, stride = [condition.read], steps / LOOKS
    for _ in range(LOOKS if math.isfinite(odds) else 0):
        read = 1 / (1 + math.exp(-odds))
        # the same draws each time, so that a small change makes a small difference
        drawn = rollouts(condition, 2000, rng=np.random.default_rng(0), open_read=read)
        earned = covariances(drawn[0], mixed(*drawn, gamma))
        odds += stride * (pull * earned.mean() - drift * earned.var())
        odds = min(max(odds, -MOST_ODDS), MOST_ODDS)
        fixed = (1 - condition.within) * condition.read
        path.append(fixed + condition.within / (1 + math.exp(-odds)))
    facts = np.array(path if len(path) > 1 else path * (LOOKS + 1))
    answers = condition.computed * facts**condition.facts
    return Prediction(facts, answers)


def fit(
    observed: Sequence[tuple[Condition, float, float, float]], steps: int
) -> tuple[float, float]:
    """Pull and drift with which `predict` comes nearest to what runs have shown, by least squares.

    Args:
        observed: a run each: its condition, gamma, its rate in units of that which pull and drift are wanted for, and
            the share of facts read right at its end.
        steps: of each run.
    """

    def missed(logs: np.ndarray) -> list[float]:
        pull, drift = np.exp(logs)
        return [
            predict(about, gamma, steps=steps, pull=pull, drift=drift, rate=rate).facts[-1] - facts
            for about, gamma, rate, facts in observed
        ]

    pull, drift = np.exp(least_squares(missed, np.log([0.05, 0.3]), diff_step=0.05).x)
    return float(pull), float(drift)
