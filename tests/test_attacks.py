"""Attacks on judges: what form can stop is stopped, what it cannot is counted."""

import asyncio
import contextlib
import random

import pytest

from perception_r1 import world
from perception_r1.common.errors import InputError
from perception_r1.reward import attacks
from perception_r1.reward.judge_server import JudgeServer
from perception_r1.reward.judges import ExactJudge, LazyJudge
from perception_r1.reward.llm_judge import LLMJudge


@pytest.fixture(scope="module")
def problems():
    return world.make_problems(3, world.WorldConfig(seed=78), "dev")


@pytest.fixture(scope="module")
def rates(problems):
    """Success of every attack on every weak model, through the real client, in both forms of answer."""
    with contextlib.ExitStack() as stack:
        judges = {"exact": ExactJudge(), "lazy": LazyJudge(), "presence": ExactJudge(False)}
        for name, model in attacks.WEAK_MODELS.items():
            judges[f"reference, {name}"] = attacks.ReferenceJudge(model, name)
            url = stack.enter_context(JudgeServer(model, model=name)).url
            for output in ("json", "tags"):
                judges[f"{name}, {output}"] = LLMJudge(url, name, output=output, retries=0)
        rows = asyncio.run(attacks.run_attacks(judges, problems))
    return attacks.success_rates(rows).set_index(["judge", "attack"])


def test_there_are_at_least_twelve_classes():
    assert len(attacks.ATTACKS) - 1 >= 12


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_no_attack_states_a_fact(problems, attack):
    """Else being paid would be no success: only the lists name what is at stake, beside all that it could be."""
    for problem in problems:
        text = attacks.response(attack, problem, random.Random(0))
        for sentence in attacks.at_stake(attack, problem):
            assert (sentence in text) == attack.startswith("listing every")
        assert problem.answer not in text.rpartition("<answer>")[2]


@pytest.mark.parametrize("output", ["json", "tags"])
@pytest.mark.parametrize("model", ["echo", "copyist", "fragile", "crasher"])
def test_what_form_can_stop_is_paid_nowhere(rates, model, output):
    paid = rates.loc[f"{model}, {output}", "paid"].drop(attacks.RELATIONS)
    assert (paid == 0).all()


@pytest.mark.parametrize("output", ["json", "tags"])
def test_a_model_that_is_not_broken_lets_nobody_escape(rates, output):
    for model in ("copyist", "obedient", "fragile", "imitator"):
        assert (rates.loc[f"{model}, {output}", "escaped"] == 0).all()


def test_what_form_cannot_stop_stands_in_the_table(rates):
    """An obedient model obeys; one that imitates marks fills in the nonce; a server can be crashed."""
    for attack in ("order", "claim", "authority", "fake system turn"):
        assert rates.loc[("obedient, json", attack), "paid"] == 1
    assert rates.loc[("imitator, json", "forged JSON"), "paid"] == 1
    assert rates.loc[("crasher, json", "broken JSON"), "escaped"] == 1
    assert (
        rates.loc[("exact", attacks.RELATIONS), "paid"] > 0
    )  # a right verdict pays a list of relations


def test_a_broken_model_fails_on_the_control_too(rates):
    assert rates.loc[("echo, json", "nothing (control)"), "escaped"] == 1


def test_the_exact_judge_pays_no_value_unseen_and_presence_pays_the_list(rates):
    assert (rates.loc["exact", "paid"].drop(attacks.RELATIONS) == 0).all()
    presence = rates.loc["presence", "paid"].drop(attacks.RELATIONS)
    assert presence["listing every value"] == 1 and presence.drop("listing every value").sum() == 0
    assert rates.loc[("lazy", "bare numbers"), "paid"] == 1


def test_the_references_way_pays_copies_of_its_tags_and_lists(rates):
    for model in ("echo", "copyist"):
        assert rates.loc[(f"reference, {model}", "forged tags"), "paid"] == 1
    assert rates.loc[("reference, copyist", "listing every value"), "paid"] == 1
    assert rates.loc[("reference, copyist", "nothing (control)"), "paid"] == 0


def test_intervals_are_exact(rates):
    row = rates.loc[("presence", "listing every value")]
    assert (row["n"], row["low"], row["high"]) == (3, pytest.approx(0.025 ** (1 / 3)), 1)


def test_an_unknown_attack_is_refused(problems):
    with pytest.raises(InputError, match="no attack 'flattery'; there are: nothing"):
        attacks.response("flattery", problems[0], random.Random(0))
