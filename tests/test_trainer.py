"""The trainer's treatment of missing rewards, through TRL's own trainer with a tiny model."""

import json
import math
import random

import datasets
import pytest
import torch
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from perception_r1.common.errors import InputError
from perception_r1.problems.schema import tag_annotations
from perception_r1.reward.judge_admission import JudgeAdmission
from perception_r1.reward.judge_prompt import JudgePrompt
from perception_r1.reward.judges import Verdict
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.reward.rewards import PerceptionReward, accuracy_reward, in_thread
from perception_r1.training.trainer import JudgeFailed, PerceptionGRPOTrainer
from tests.runs import lines
from tests.stub_server import StubServer, good, status

G = 4
OWN = ("max_failure_rate", "logs", "admission", "unadmitted")
WORDS = [f"w{k}" for k in range(60)]
FAILED = Verdict(None, "the server is down")
TOO_LONG = Verdict(None, "the response is too long", by_response=True)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A two-layer language model over sixty words, saved to disk, and its tokenizer."""
    vocabulary = {word: k for k, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("policy")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder), fast


class Planned:
    """A judge with a plan: place in the batch -> verdict; "stated" for every annotation elsewhere."""

    name = "planned"
    contradictions = True

    def card(self):
        return {"judge": self.name}

    def __init__(self, plan=None):
        self.plan = plan or {}

    async def judge(self, responses, annotations):
        return [self.plan.get(k, Verdict(["stated"] * len(a))) for k, a in enumerate(annotations)]


def by_place(completions, **_):
    """0, 1, 0, 2, ...: a reward that differs inside groups, whatever was sampled."""
    return [float((0, 1, 0, 2)[k % G]) for k in range(len(completions))]


def trained(
    policy, tmp_path, judge, rows, *, kind=PerceptionGRPOTrainer, rewards=None, steps=1, **more
):
    """Train for some steps and return the trainer."""
    folder, tokenizer = policy
    settings = dict(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", num_generations=G,
        per_device_train_batch_size=len(rows) * G, max_completion_length=6, max_steps=steps,
        save_strategy="no", logging_steps=1, disable_tqdm=True, seed=1, shuffle_dataset=False,
        reward_weights=[1.0, 0.7],
    )  # fmt: skip
    own = {k: more.pop(k) for k in OWN if k in more}
    if kind is PerceptionGRPOTrainer:
        own = {"unadmitted": True} | own
    trainer = kind(
        model=folder, reward_funcs=rewards or [by_place, PerceptionReward(judge)],
        args=trl.GRPOConfig(**settings | more), train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, **own,
    )  # fmt: skip
    trainer.train()
    return trainer


def row(number=0, annotations=("The length of segment AB is 9.",), **more):
    tagged = tag_annotations(annotations) if annotations else None
    prompt = f"w{number} w1 w2"
    return {"prompt": prompt, "id": f"p{number}", "visual_key_info": tagged, "answer": "4"} | more


def advantages(trainer):
    return list(trainer._logs["advantages"])


def standardised(rewards):
    """Group advantages by hand: (r - mean) / (unbiased std + 1e-4)."""
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (std + 1e-4) for r in rewards]


def close(values):
    return pytest.approx(values, abs=1e-4)


# --- rows that are left out ------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, 0, 3])
def test_a_failed_verdict_leaves_its_row_out_and_the_others_as_in_a_smaller_group(
    policy, tmp_path, place
):
    """Exactly as if the response had never been sampled: others are standardised among themselves."""
    trainer = trained(policy, tmp_path, Planned({place: FAILED}), [row(0)], max_failure_rate=1.0)
    kept = [k for k in range(G) if k != place]
    expected = standardised([[0.7, 1.7, 0.7, 2.7][k] for k in kept])
    found = advantages(trainer)
    assert [found[k] for k in kept] == close(expected)
    assert place is None or found[place] == 0


def test_normalize_then_sum_leaves_it_out_as_well(policy, tmp_path):
    """GDPO: each reward is standardised in its group, the weighted sum over the batch."""
    trainer = trained(
        policy, tmp_path, Planned({1: FAILED}), [row(0), row(1)], max_failure_rate=1.0,
        multi_objective_aggregation="normalize_then_sum",
    )  # fmt: skip
    groups = [[0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0]]  # perception is constant
    sums = [a for group in groups for a in standardised(group)]
    found = advantages(trainer)
    assert found[1] == 0
    assert [a for k, a in enumerate(found) if k != 1] == close(standardised(sums))


def test_trl_alone_books_a_lone_missing_reward_as_zero(policy, tmp_path):
    """Why the override exists; if TRL changes this, the override may go."""
    trainer = trained(policy, tmp_path, Planned({1: FAILED}), [row(0)], kind=trl.GRPOTrainer)
    assert advantages(trainer) == close(standardised([0.7, 1.0, 0.7, 2.7]))


def test_a_problem_without_annotations_trains_on_the_other_rewards(policy, tmp_path):
    rows = [row(0), row(1, annotations=())]
    trainer = trained(policy, tmp_path, Planned(), rows, max_failure_rate=0.0)
    assert advantages(trainer)[G:] == close(standardised([0, 1, 0, 2]))
    assert list(trainer._logs["rewards"]["by_place"])[G:] == [0, 1, 0, 2]
    assert all(math.isnan(r) for r in list(trainer._logs["rewards"]["PerceptionReward"])[G:])


def test_an_unusable_gold_answer_leaves_its_whole_group_out(policy, tmp_path):
    trainer = trained(
        policy, tmp_path, Planned(), [row(0), row(1, answer="unknown")],
        reward_weights=[1.0, 0.9, 0.7],
        rewards=[by_place, in_thread(accuracy_reward), PerceptionReward(Planned())],
    )  # fmt: skip
    assert advantages(trainer)[G:] == [0.0] * G
    assert advantages(trainer)[:G] == pytest.approx(standardised([0, 1, 0, 2]), abs=1e-3)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_what_the_response_caused_never_beats_an_ordinary_wrong_one(policy, tmp_path, aggregation):
    """Responses 0 and 2 are ordinary wrong ones, 2 is too long to judge; 1 and 3 are better."""
    nothing_seen = Verdict(["absent"])
    plan = {0: nothing_seen, 2: TOO_LONG, 1: nothing_seen}
    trainer = trained(
        policy, tmp_path, Planned(plan), [row(0)], multi_objective_aggregation=aggregation
    )
    found = advantages(trainer)
    assert found[2] <= found[0] < found[1] and found[2] < 0


def test_a_reward_without_weight_takes_nothing_away(policy, tmp_path):
    """The accuracy-only arm may log what a judge says, and depends neither on it nor on its admission."""
    trainer = trained(
        policy, tmp_path, Planned(dict.fromkeys(range(3), FAILED)), [row(0)],
        reward_weights=[1.0, 0.0], unadmitted=False,
    )  # fmt: skip
    assert advantages(trainer) == close(standardised([0, 1, 0, 2]))


def test_a_whole_batch_of_failures_moves_nothing_and_raises_nothing(policy, tmp_path):
    plan = dict.fromkeys(range(G), FAILED)
    trainer = trained(policy, tmp_path, Planned(plan), [row(0)], max_failure_rate=1.0)
    assert advantages(trainer) == [0.0] * G


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_faults_of_a_real_server_move_no_other_advantage(policy, tmp_path, rate):
    """HTTP 500 for a share of responses, chosen by their text; every other row as without those."""

    def unlucky(text):
        return random.Random(text).random() < rate

    def answer(call):
        question = JudgePrompt.parse(call.body["messages"])
        if unlucky(question.response):
            return status(500)
        marks = ["stated" if len(question.response) % 2 else "absent"]
        return good(question.write(marks))

    with StubServer(answer) as server:
        judge = LLMJudge(server.url, "stub", retries=0)
        trainer = trained(
            policy, tmp_path, judge, [row(k) for k in range(6)], max_failure_rate=1.0,
            logs=tmp_path, max_completion_length=7,
        )  # fmt: skip
    found, texts = advantages(trainer), list(trainer._logs["completion"])
    assert len(found) == 6 * G and any(map(unlucky, texts))
    for start in range(0, 6 * G, G):
        kept = [k for k in range(start, start + G) if not unlucky(texts[k])]
        totals = [(0, 1, 0, 2)[k % G] + 0.7 * (len(texts[k]) % 2) for k in kept]
        expected = standardised(totals) if len(kept) > 1 else [0.0] * len(kept)
        assert [found[k] for k in kept] == close(expected)
        assert all(found[k] == 0 for k in range(start, start + G) if k not in kept)


# --- judges that fail, and admission ---------------------------------------------------------------


def test_training_stops_when_the_judge_fails_too_often(policy, tmp_path):
    plan = {0: FAILED, 1: FAILED}
    reason = "2 of the last 4 verdicts.*20%.*the server is down.*mend"
    with pytest.raises(JudgeFailed, match=reason):
        trained(policy, tmp_path, Planned(plan), [row(0)])
    trained(policy, tmp_path, Planned(plan), [row(0)], max_failure_rate=0.5)  # above it, not at it
    plan = dict.fromkeys(range(G), TOO_LONG)  # the judge is not to blame
    trained(policy, tmp_path, Planned(plan), [row(0)], max_failure_rate=0.0)


def test_training_needs_an_admitted_judge(policy, tmp_path):
    def attempt(admission):
        trained(policy, tmp_path, Planned(), [row(0)], unadmitted=False, admission=admission)

    with pytest.raises(InputError, match="the judge has no admission; measure it"):
        attempt(None)
    poor = ("recall 0.20 (0.10 to 0.30), at least 0.80",)
    with pytest.raises(InputError, match="not admitted to training: recall 0.20"):
        attempt(JudgeAdmission("planned", {"judge": "planned"}, poor))
    attempt(JudgeAdmission("planned", {"judge": "planned"}, ()))


# --- logs ------------------------------------------------------------------------------------------


def test_completions_are_written_with_rewards_and_verdicts(policy, tmp_path):
    plan = {1: FAILED, 2: TOO_LONG}
    trainer = trained(
        policy, tmp_path, Planned(plan), [row(0)], steps=2, max_failure_rate=1.0, logs=tmp_path
    )
    written = lines(tmp_path / "completions.jsonl")
    assert [(line["step"], line["place"]) for line in written] == [
        (step, k) for step in (1, 2) for k in range(G)
    ]
    assert written[0]["rewards"] == {"by_place": 0.0, "PerceptionReward": 1.0}
    assert written[0]["verdict"] == "stated" and written[0]["id"] == "p0"
    assert [line["left_out"] for line in written[:G]] == [False, True, False, False]
    assert written[1]["rewards"] == {"by_place": 1.0, "PerceptionReward": None}
    assert written[1]["verdict"] == "none: the server is down"
    assert json.loads((tmp_path / "judge.json").read_text()) == {"judge": "planned"}
    logged = {k: v for entry in trainer.state.log_history for k, v in entry.items()}
    assert logged["judge/failure_rate"] == 0.25
    assert trainer.progress.measured["left_out"] == 1 and trainer.progress.measured["rollouts"] == G
    spread = torch.tensor([0.7, 0.0, 2.7]).std().item()  # response 2 gets nothing for what it hid
    assert trainer.progress.measured["group_std"] == pytest.approx(spread, abs=1e-5)


def test_completions_that_cannot_be_written_give_one_clear_error(policy, tmp_path):
    (tmp_path / "completions.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write.*completions.jsonl"):
        trained(policy, tmp_path, Planned(), [row(0)], logs=tmp_path)
