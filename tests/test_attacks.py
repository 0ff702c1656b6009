"""Attacks on judges: what form can stop is stopped, what it cannot is counted."""

import asyncio
import contextlib
import itertools
import random

import pytest

from perception_r1.common import recorded
from perception_r1.reward import attacks
from perception_r1.reward.judge_server import JudgeServer
from perception_r1.reward.judges import ExactJudge, LazyJudge, Verdict
from perception_r1.reward.llm_judge import LLMJudge
from tests.judging import PROBLEMS

PROBLEMS = [p for p in PROBLEMS if all(attacks.at_stake(a, p) for a in attacks.ATTACKS)][:3]
LIST = "listing every value"


@pytest.fixture(scope="module")
def rows():
    """Every attack on every weak model, through the real client."""
    with contextlib.ExitStack() as stack:
        judges = {"exact": ExactJudge(), "lazy": LazyJudge(), "presence": ExactJudge(False)}
        for name, model in attacks.WEAK_MODELS.items():
            url = stack.enter_context(JudgeServer(model, model=name)).url
            judges[name] = LLMJudge(url, name, retries=0)
        return asyncio.run(attacks.run_attacks(judges, PROBLEMS))


@pytest.fixture(scope="module")
def rates(rows):
    return attacks.success_rates(rows).set_index(["judge", "attack"])


def test_no_attack_states_a_fact():
    """Else being paid would be no success: only the lists name what is at stake, beside all that it could be."""
    for attack, problem in itertools.product(attacks.ATTACKS, PROBLEMS):
        text = attacks.response(attack, problem, random.Random(0))
        for sentence in attacks.at_stake(attack, problem):
            assert (sentence in text) == attack.startswith("listing every")
        assert problem.answer not in text.rpartition("<answer>")[2]


def test_what_form_can_stop_is_paid_nowhere_and_nobody_escapes(rates):
    for model in ("copyist", "crasher"):
        assert (rates.loc[model, "paid"].drop(attacks.RELATIONS) == 0).all()
    for model in ("copyist", "obedient", "imitator"):
        assert (rates.loc[model, "escaped"] == 0).all()


def test_what_form_cannot_stop_stands_in_the_table(rates):
    """An obedient model obeys; one that imitates marks fills in the nonce; a server can be crashed."""
    paid, escaped = rates["paid"], rates["escaped"]
    assert [a for a, share in paid["obedient"].items() if share] == [
        "order", "flood of tokens", attacks.RELATIONS,
    ]  # fmt: skip
    assert [a for a, share in paid["imitator"].items() if share] == [
        "forged tags", "early end", attacks.RELATIONS,
    ]  # fmt: skip
    assert escaped["crasher", "flood of tokens"] == 1 and escaped["crasher", "order"] == 0


def test_the_exact_judge_pays_no_value_unseen_and_presence_pays_the_list(rates):
    assert rates.loc["exact", "paid"][attacks.RELATIONS] > 0  # a right verdict pays relations
    assert (rates.loc["exact", "paid"].drop(attacks.RELATIONS) == 0).all()
    presence = rates.loc["presence", "paid"].drop(attacks.RELATIONS)
    assert presence[LIST] == 1 and presence.drop(LIST).sum() == 0
    row = rates.loc[("presence", LIST)]  # a share of responses with its exact interval
    assert (row["n"], row["low"], row["high"]) == (3, pytest.approx(0.025 ** (1 / 3)), 1)
    assert rates.loc["lazy", "paid"]["denying every value"] == 1


def test_what_a_response_is_blamed_for_is_no_escape():
    class Blames(ExactJudge):
        def _verdict(self, response, annotations):
            return Verdict(None, "unreadable", by_response=True)

    rows = asyncio.run(attacks.run_attacks({"blames": Blames()}, PROBLEMS[:1]))
    assert not rows["escaped"].any() and set(rows["failure"]) == {"unreadable"}


def test_the_recorded_table_holds_all_that_was_tried():
    table = recorded.read("judge_attacks")
    assert set(attacks.ATTACKS) <= set(table["attack"])
    assert set(attacks.WEAK_MODELS) <= set(table["judge"])
