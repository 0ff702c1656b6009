"""The trainer's treatment of missing rewards, through TRL's own trainer with a tiny model."""

import copy
import math

import numpy as np
import pytest
import trl

from perception_r1.common.errors import InputError
from perception_r1.common.settings import TrainSettings
from perception_r1.reward.judges import Judge, Verdict
from perception_r1.reward.rewards import PerceptionReward, accuracy_reward
from perception_r1.training.configuration import grpo_config
from perception_r1.training.data import training_rows
from perception_r1.training.policy import new_miniature
from perception_r1.training.trainer import Diverged, JudgeFailed, PerceptionGRPOTrainer
from perception_r1.world import make_problems, map_world
from tests.runs import TABLE, lines

G = TABLE["num_generations"]
MODEL, PROCESSOR = new_miniature(0)
PROBLEMS = make_problems(2, map_world(seed=100), "train")
FAILED = Verdict(None, "the server is down")
TOO_LONG = Verdict(None, "the response is too long", by_response=True)


class Planned(Judge):
    """A judge with a plan: place in the batch -> verdict; "stated" for every annotation elsewhere."""

    name = "planned"

    def __init__(self, plan=None):
        self.plan = plan or {}

    async def judge(self, responses, annotations):
        return [self.plan.get(k, Verdict(["stated"] * len(a))) for k, a in enumerate(annotations)]


def by_place(completions, **_):
    """0, 1, 0, 2, ...: a reward that differs inside groups, whatever was sampled."""
    return [float((0, 1, 0, 2)[k % G]) for k in range(len(completions))]


def trained(out, judge, rows, *, kind=PerceptionGRPOTrainer, rewards=None, steps=1, **more):
    """Train a new miniature for some steps and return the trainer."""
    changes = {"prompts_per_step": len(rows), "max_steps": steps, "max_completion_length": 6}
    settings = TrainSettings(**TABLE | changes | {"model": "x"})
    weights = more.pop("reward_weights", [1.0, 0.7])
    trainer = kind(
        model=copy.deepcopy(MODEL), reward_funcs=rewards or [by_place, PerceptionReward(judge)],
        args=grpo_config(settings, out, save_strategy="no", disable_tqdm=True, reward_weights=weights),
        train_dataset=training_rows(rows, settings, PROCESSOR)[0], processing_class=PROCESSOR, **more,
    )  # fmt: skip
    trainer.train()
    return trainer


def row(number=0, annotations=("The length of segment AB is 9.",), answer="4"):
    return PROBLEMS[number].annotated(annotations).model_copy(update={"answer": answer})


def advantages(trainer):
    return list(trainer._logs["advantages"])


def standardised(rewards):
    """Group advantages by hand: (r - mean) / (unbiased std + 1e-4)."""
    return [(r - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-4) for r in rewards]


def close(values):
    return pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("failed", [(), (0,), (0, 1, 2, 3)])
def test_a_failed_verdict_leaves_its_row_out_and_the_others_as_in_a_smaller_group(tmp_path, failed):
    """Exactly as if the response had never been sampled: others are standardised among themselves."""
    plan = dict.fromkeys(failed, FAILED)
    trainer = trained(tmp_path, Planned(plan), [row(0)], max_failure_rate=1.0)
    kept = [k for k in range(G) if k not in failed]
    found = advantages(trainer)
    assert [found[k] for k in kept] == close(standardised([[0.7, 1.7, 0.7, 2.7][k] for k in kept]))
    assert all(found[k] == 0 for k in failed)


def test_trl_alone_books_a_lone_missing_reward_as_zero(tmp_path):
    """Why the override exists; if TRL changes this, the override may go."""
    trainer = trained(tmp_path, Planned({1: FAILED}), [row(0)], kind=trl.GRPOTrainer)
    assert advantages(trainer) == close(standardised([0.7, 1.0, 0.7, 2.7]))


def test_a_problem_without_annotations_trains_on_the_other_rewards(tmp_path):
    rows = [row(0), row(1, annotations=())]
    trainer = trained(tmp_path, Planned(), rows, max_failure_rate=0.0)
    assert advantages(trainer)[G:] == close(standardised([0, 1, 0, 2]))


def test_an_unusable_gold_answer_leaves_its_whole_group_out(tmp_path):
    trainer = trained(
        tmp_path, Planned(), [row(0), row(1, answer="unknown")],
        reward_weights=[1.0, 0.9, 0.7],
        rewards=[by_place, accuracy_reward, PerceptionReward(Planned())],
    )  # fmt: skip
    assert advantages(trainer)[G:] == [0.0] * G
    assert advantages(trainer)[:G] == pytest.approx(standardised([0, 1, 0, 2]), abs=1e-3)


def test_what_the_response_caused_never_beats_an_ordinary_wrong_one(tmp_path):
    """Responses 0 and 2 are ordinary wrong ones, 2 is too long to judge; 1 and 3 are better."""
    nothing_seen = Verdict(["absent"])
    plan = {0: nothing_seen, 2: TOO_LONG, 1: nothing_seen}
    found = advantages(trained(tmp_path, Planned(plan), [row(0)]))
    assert found[2] <= found[0] < found[1] and found[2] < 0


def test_a_reward_without_weight_takes_nothing_away(tmp_path):
    """The accuracy-only arm may log what a judge says, and does not depend on it."""
    plan = dict.fromkeys(range(3), FAILED)
    trainer = trained(tmp_path, Planned(plan), [row(0)], reward_weights=[1.0, 0.0])
    assert advantages(trainer) == close(standardised([0, 1, 0, 2]))


def test_training_stops_when_the_judge_fails_too_often(tmp_path):
    plan = {0: FAILED, 1: FAILED}
    reason = "2 of the last 4 verdicts.*20%.*the server is down.*mend"
    with pytest.raises(JudgeFailed, match=reason):
        trained(tmp_path, Planned(plan), [row(0)])
    trained(tmp_path, Planned(plan), [row(0)], max_failure_rate=0.5)  # above it, not at it
    plan = dict.fromkeys(range(G), TOO_LONG)  # the judge is not to blame
    trained(tmp_path, Planned(plan), [row(0)], max_failure_rate=0.0)


def test_completions_are_written_with_rewards_and_verdicts(tmp_path):
    plan = {1: FAILED, 2: TOO_LONG}
    trainer = trained(
        tmp_path, Planned(plan), [row(0)], steps=2, max_failure_rate=1.0, logs=tmp_path
    )
    written = lines(tmp_path / "completions.jsonl")
    assert [(line["step"], line["place"]) for line in written] == [
        (step, k) for step in (1, 2) for k in range(G)
    ]
    assert written[0]["verdict"] == "stated" and written[0]["id"] == PROBLEMS[0].id
    assert [line["left_out"] for line in written[:G]] == [False, True, False, False]
    assert written[1]["rewards"] == {"by_place": 1.0, "PerceptionReward": None}
    assert written[1]["verdict"] == "none: the server is down"
    assert trainer.progress.measured["left_out"] == 1


def test_completions_that_cannot_be_written_and_gradients_without_end_stop_the_run(
    tmp_path, monkeypatch
):
    (tmp_path / "completions.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write.*completions.jsonl"):
        trained(tmp_path, Planned(), [row(0)], logs=tmp_path)
    monkeypatch.setattr(trl.GRPOTrainer, "_get_grad_norm", lambda *_: math.inf)
    with pytest.raises(Diverged, match="step 1"):
        trained(tmp_path, Planned(), [row(0)])
