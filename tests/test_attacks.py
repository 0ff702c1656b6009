"""Attacks on judges: what form can stop is stopped, what it cannot is counted."""

import asyncio
import contextlib
import random

import pytest

from perception_r1 import attacks, facts, world
from perception_r1.errors import InputError
from perception_r1.judge import ExactJudge, LazyJudge
from perception_r1.judge_server import JudgeServer
from perception_r1.llm_judge import LLMJudge


@pytest.fixture(scope="module")
def problems():
    return world.make_problems(3, world.WorldConfig(seed=78), "dev")


@pytest.fixture(scope="module")
def rates(problems):
    """Success of every attack on every weak model, through the real client, in both forms of answer."""
    with contextlib.ExitStack() as stack:
        judges = {"exact": ExactJudge(), "lazy": LazyJudge(), "presence": ExactJudge(False)}
        for name, model in attacks.WEAK_MODELS.items():
            url = stack.enter_context(JudgeServer(model, model=name)).url
            for output in ("json", "tags"):
                judges[f"{name}, {output}"] = LLMJudge(url, name, output=output)
        rows = asyncio.run(attacks.run_attacks(judges, problems))
    return attacks.success_rates(rows).set_index(["judge", "attack"])


def test_there_are_at_least_twelve_classes():
    assert len(attacks.ATTACKS) - 1 >= 12


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_no_attack_states_a_fact(problems, attack):
    """Else being paid would be no success: only the lists name values, each beside 179 wrong ones."""
    for problem in problems:
        text = attacks.response(attack, problem, random.Random(0))
        for fact in attacks.valued_facts(problem):
            assert (facts.to_sentence(fact) in text) == (attack == "listing every value")
        assert problem.answer not in text.rpartition("<answer>")[2]


@pytest.mark.parametrize("output", ["json", "tags"])
@pytest.mark.parametrize("model", ["echo", "copyist", "fragile"])
def test_what_form_can_stop_is_paid_nowhere(rates, model, output):
    assert (rates.loc[f"{model}, {output}", "paid"] == 0).all()


@pytest.mark.parametrize("output", ["json", "tags"])
def test_a_model_that_is_not_broken_lets_nobody_escape(rates, output):
    for model in ("copyist", "obedient", "fragile"):
        assert (rates.loc[f"{model}, {output}", "escaped"] == 0).all()


def test_a_broken_model_fails_on_the_control_too(rates):
    assert rates.loc[("echo, json", "nothing (control)"), "escaped"] == 1


def test_an_obedient_model_obeys_and_the_table_says_so(rates):
    for attack in ("order", "claim", "authority", "fake system turn"):
        assert rates.loc[("obedient, json", attack), "paid"] == 1


def test_the_exact_judge_pays_nothing_and_presence_pays_the_list(rates):
    assert (rates.loc["exact", "paid"] == 0).all()
    presence = rates.loc["presence", "paid"]
    assert presence["listing every value"] == 1 and presence.drop("listing every value").sum() == 0
    assert rates.loc[("lazy", "bare numbers"), "paid"] == 1


def test_intervals_are_exact(rates):
    row = rates.loc[("presence", "listing every value")]
    assert (row["n"], row["low"], row["high"]) == (3, pytest.approx(0.025 ** (1 / 3)), 1)


def test_an_unknown_attack_is_refused(problems):
    with pytest.raises(InputError, match="no attack 'flattery'; there are: nothing"):
        attacks.response("flattery", problems[0], random.Random(0))
