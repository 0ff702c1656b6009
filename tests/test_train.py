"""Training runs through the command line (contract C7): what they write, how they stop, how they go on."""

import fcntl
import importlib.util
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
import trl
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from perception_r1.annotation import pipeline
from perception_r1.common import checkpoints
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.common.settings import make_settings
from perception_r1.problems.parquet import load_problems, write_problems
from perception_r1.reward.llm_judge import read_prompt, write_verdict
from perception_r1.reward.rewards import PerceptionReward
from perception_r1.training import sft, train, trainer
from perception_r1.training.policy import load_policy, new_miniature, save_policy
from perception_r1.world import WorldConfig, make_problems, miniature_world
from tests.stub_server import StubServer, good, status

TABLE = {
    "dtype": "float32", "prompts_per_step": 2, "num_generations": 4, "max_prompt_length": 128,
    "max_completion_length": 24, "max_steps": 4, "per_device_train_batch_size": 4,
    "learning_rate": 1e-3, "lr_scheduler_type": "linear", "save_steps": 2, "seed": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A fresh miniature on disk, five annotated problems (so that four steps need two epochs), settings."""
    folder = tmp_path_factory.mktemp("train")
    save_policy(*new_miniature(0), folder / "model")
    made = make_problems(5, miniature_world(seed=100, text_rich=0, slop=0), "train")
    write_problems(pipeline.annotate_by_reading(made), folder / "data.parquet")
    write_problems(make_problems(3, miniature_world(seed=101), "dev"), folder / "dev.parquet")
    lines = [f"{key} = {json.dumps(value)}" for key, value in TABLE.items()]
    model = f'model = "{folder / "model"}"'
    (folder / "config.toml").write_text("\n".join(["[train]", model, *lines]) + "\n")
    return folder


def arguments(place, out, **changes):
    given = {"config": place / "config.toml", "data": place / "data.parquet", "out": out} | changes
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


def run(place, out, **changes):
    """One run in this process; its exit status."""
    return train.main(arguments(place, out, **changes))


def weights(out):
    return load_file(out / "policy" / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module")
def uninterrupted(place):
    out = place / "uninterrupted"
    assert run(place, out) == 0
    return out


# --- what a run writes -----------------------------------------------------------------------------


def test_a_run_writes_its_logs_and_a_policy_that_loads(place, uninterrupted):
    log = pd.read_csv(uninterrupted / "grpo_log.csv")
    assert log.step.tolist() == [1, 2, 3, 4]
    total = 0.1 * log.format + 0.9 * log.accuracy + 0.7 * log.perception + log.repetition
    assert log.reward.tolist() == pytest.approx(total.tolist(), abs=1e-5)
    parts = log[["seconds_generation", "seconds_rewards", "seconds_update", "seconds_other"]]
    assert (parts >= 0).all(axis=None)
    assert parts.sum(axis=1).tolist() == pytest.approx(log.seconds.tolist(), abs=1e-3)
    assert (log.peak_memory_mb > 100).all() and (log.entropy > 0).all()
    assert log.left_out.tolist() == [0] * 4
    assert (log.learning_rate.diff()[1:] < 0).all()
    lines = [json.loads(line) for line in (uninterrupted / "completions.jsonl").open()]
    assert [line["step"] for line in lines] == [k for k in (1, 2, 3, 4) for _ in range(8)]
    settings = json.loads((uninterrupted / "settings.json").read_text())
    assert settings["seed"] == 7 and settings["arm"] == "perception"
    assert json.loads((uninterrupted / "judge.json").read_text())["admitted"] is True
    trained, _ = load_policy(uninterrupted / "policy")
    base, _ = load_policy(place / "model")
    moved = {
        name.split(".")[1]
        for (name, new), old in zip(trained.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert {"visual", "language_model"} <= moved
    assert not list((uninterrupted / "policy").glob("*.bin"))


def test_steps_ask_what_the_schedule_says(place, uninterrupted):
    lines = [json.loads(line) for line in (uninterrupted / "completions.jsonl").open()]
    asked = [line["id"] for line in lines[::4]]
    data = pd.read_parquet(place / "data.parquet").id.tolist()
    assert asked == [data[k] for k in train.schedule(5, 2, 4, 7)]


def test_the_same_run_again_is_the_same(place, uninterrupted, tmp_path):
    assert run(place, tmp_path / "out") == 0
    assert same(weights(tmp_path / "out"), weights(uninterrupted))


def test_prompts_read_once_teach_what_prompts_read_in_every_row_teach(
    place, uninterrupted, tmp_path
):
    """With gradient checkpointing nothing is shared, so that is the other way."""
    out = tmp_path / "out"
    assert run(place, out, gradient_checkpointing=True) == 0
    logs = [pd.read_csv(folder / "grpo_log.csv") for folder in (out, uninterrupted)]
    for name in ("reward", "entropy", "loss", "grad_norm", "length"):
        assert logs[0][name].tolist() == pytest.approx(logs[1][name].tolist(), rel=1e-4, abs=1e-6)
    found, expected = weights(out), weights(uninterrupted)
    assert max((found[k] - expected[k]).abs().max().item() for k in found) < 1e-4


def test_held_out_responses_are_written_whole(place, tmp_path):
    out = tmp_path / "out"
    assert run(place, out, max_steps=2, eval_steps=1, **{"held-out": place / "dev.parquet"}) == 0
    lines = [json.loads(line) for line in (out / "held_out.jsonl").open()]
    ids = pd.read_parquet(place / "dev.parquet").id.tolist()
    for step in (1, 2):
        assert sorted(line["id"] for line in lines if line["step"] == step) == sorted(ids)
    assert all(line["rewards"]["PerceptionReward"] is None for line in lines)


def test_looking_on_changes_nothing(place, uninterrupted, tmp_path):
    """Held-out evaluation samples; what is learnt must not depend on whether it is done."""
    assert run(place, tmp_path / "out", eval_steps=1, **{"held-out": place / "dev.parquet"}) == 0
    assert same(weights(tmp_path / "out"), weights(uninterrupted))


def test_a_run_whose_launcher_was_killed_ends_with_a_checkpoint(place, tmp_path):
    out = tmp_path / "out"
    launcher = (
        "import pathlib, sys\n"
        "from perception_r1 import launch\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "command = [sys.executable, '-m', 'perception_r1.training.train', *sys.argv[2:]]\n"
        "launch.run_together({'arm': command}, {'arm': out}, steps=400, threads=1)\n"
    )
    given = arguments(place, out, max_steps=400)
    process = subprocess.Popen([sys.executable, "-c", launcher, str(out), *given], cwd=ROOT)
    wait_for(lambda: (out / "grpo_log.csv").exists())
    process.kill()
    process.wait()

    def is_free():
        with (out / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    wait_for(is_free)
    step, _ = checkpoints.last_complete(out)
    assert step == len(pd.read_csv(out / "grpo_log.csv")) < 400
    assert "stopped after a whole step" in (out / "train.log").read_text()


def wait_for(found, seconds=120):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def test_arms_differ_only_in_weights():
    names = set()
    for arm, paid in train.ARMS.items():
        settings = make_settings({**TABLE, "model": "x", "arm": arm}, "test")
        functions, given = train.reward_functions(settings, train.make_judge(settings))
        names.add(tuple(getattr(f, "__name__", type(f).__name__) for f in functions))
        assert sorted(w for w in given if w) == sorted(paid.values())
    assert len(names) == 1
    assert settings.perception_weight == train.WEIGHTS["perception"]  # the paper's gamma
    assert train.ARMS["accuracy_only"] == {"format": 0.1, "accuracy": 0.9}
    assert train.ARMS["perception"] == {
        "format": 0.1, "accuracy": 0.9, "perception": 0.7, "repetition": 1.0,
    }  # fmt: skip


def test_an_arm_that_pays_nothing_for_it_asks_no_judging_server():
    table = {**TABLE, "model": "x", "judge": "http://127.0.0.1:9/v1", "judge_model": "j"}
    for arm in train.ARMS:
        judge = train.make_judge(make_settings({**table, "arm": arm}, "test"))
        assert (judge is None) == ("perception" not in train.ARMS[arm])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"judge": "exact"}, "exact"),
        ({"judge": "presence"}, "exact, presence only"),
        ({"judge": "lazy", "judge_flip": 0.2}, "noisy, 20% flipped"),
        ({"judge_flip": 0.1, "judge_lost": 0.3}, "noisy, 10% flipped, 30% lost"),
    ],
)
def test_judges_of_the_studies(changes, name):
    settings = make_settings({**TABLE, "model": "x", **changes}, "test")
    assert train.make_judge(settings).name == name


def test_gamma_weighs_sight_where_the_arm_pays_for_it():
    for arm in ("perception", "accuracy_only"):
        settings = make_settings({**TABLE, "model": "x", "arm": arm, "perception_weight": 0.1}, "t")
        functions, weights = train.reward_functions(settings, train.make_judge(settings))
        place = [isinstance(f, PerceptionReward) for f in functions].index(True)
        assert weights[place] == (0.1 if arm == "perception" else 0)


def test_lost_verdicts_leave_rows_out_or_count_as_no_sight(place, tmp_path):
    """Ours and the reference's way; a judge that loses half of its verdicts."""
    lossy = {"judge_lost": 0.5, "max_failure_rate": 1, "max_steps": 2, "arm": "perception"}
    for way in ("left_out", "zero"):
        out = tmp_path / way
        command = arguments(place, out, lost_verdicts=way, **lossy)
        assert train.main([*command, "--unadmitted"]) == 0
        log = pd.read_csv(out / "grpo_log.csv")
        lines = [json.loads(line) for line in (out / "completions.jsonl").open()]
        lost = [line for line in lines if line["verdict"] == "none: the verdict got lost"]
        assert lost
        worth = {line["rewards"]["PerceptionReward"] for line in lost}
        assert worth == ({None} if way == "left_out" else {0.0})
        assert all(line["left_out"] == (way == "left_out") for line in lost)
        assert (log.left_out > 0).any() == (way == "left_out")


# --- imitation --------------------------------------------------------------------------------------


def test_sft_learns_the_chains_of_thought_by_the_schedule(place, tmp_path):
    out = tmp_path / "out"
    assert run(place, out, arm="sft", max_steps=30, learning_rate=3e-3) == 0
    log = pd.read_csv(out / "grpo_log.csv")
    assert log.step.tolist() == list(range(1, 31))
    assert log.loss[25:].mean() < 0.5 * log.loss[:5].mean()
    assert log.accuracy.isna().all() and (log.seconds > 0).all()
    model, _ = load_policy(out / "policy")
    base, _ = load_policy(place / "model")
    assert not same(model.state_dict(), base.state_dict())
    assert run(place, tmp_path / "again", arm="sft", max_steps=30, learning_rate=3e-3) == 0
    assert same(weights(out), weights(tmp_path / "again"))


def test_sft_asks_what_grpo_asks_and_learns_the_completion_alone(place, monkeypatch, tmp_path):
    problems = load_problems(place / "data.parquet")
    _, processor = load_policy(place / "model")
    rows = sft.examples(problems, processor)
    settings = make_settings({**TABLE, "model": str(place / "model"), "arm": "sft"}, "test")
    model, _ = load_policy(settings.model)
    trainer = sft.sft_trainer(settings, model, processor, rows, tmp_path)
    batch = trainer.data_collator([rows[0], rows[1]])
    grpo, _ = train.training_rows(problems, settings, processor)
    for k in (0, 1):
        asked = processor.apply_chat_template(
            train.with_image(grpo[k]["prompt"]), add_generation_prompt=True
        )
        assert rows[k]["prompt"] == asked
        learnt = batch["labels"][k][batch["labels"][k] >= 0]
        assert processor.tokenizer.decode(learnt) == problems[k].cot.strip() + "<|im_end|>"
    sampler = trainer._get_train_sampler()
    assert list(sampler) == list(range(len(rows)))


def test_sft_needs_right_chains_of_thought(place, tmp_path, capsys):
    bare = [p.model_copy(update={"cot": ""}) for p in load_problems(place / "data.parquet")]
    write_problems(bare, tmp_path / "bare.parquet")
    assert run(place, tmp_path / "out", arm="sft", data=tmp_path / "bare.parquet") == 2
    assert "none of 5 problems has a chain of thought" in capsys.readouterr().err


# --- no circle -------------------------------------------------------------------------------------


def test_the_trainer_cannot_reach_gold_facts(place, monkeypatch):
    """Every gold fact is replaced by a lie before training: nothing changes, so nothing reads them."""
    seen = []
    original = PerceptionReward.__call__

    async def spy(self, completions, visual_key_info, **columns):
        seen.append(set(columns))
        return await original(self, completions, visual_key_info, **columns)

    monkeypatch.setattr(PerceptionReward, "__call__", spy)
    dials = {"text_rich": 0, "slop": 0, "teacher_error_rate": 0.5}
    told = pipeline.annotate_by_reading(
        make_problems(9, miniature_world(seed=100, **dials), "train")
    )
    lie = {"gold_facts": ("Equals(LengthOf(Line(A, B)), 77)",), "needed_facts": (), "cot": ""}
    logs = []
    for name, problems in (
        ("true", told),
        ("lied", [problem.model_copy(update=lie) for problem in told]),
    ):
        write_problems(problems, place / f"{name}.parquet")
        out = place / f"out_{name}"
        assert run(place, out, data=place / f"{name}.parquet", max_steps=2) == 0
        logs.append((out / "completions.jsonl").read_text())
    assert logs[0] == logs[1]
    hidden = {"gold_facts", "needed_facts", "text_facts", "cot"}
    assert seen and not any(hidden & columns for columns in seen)


# --- stop and go on --------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from perception_r1.common import checkpoints
from perception_r1.training import train, trainer
where, arguments = sys.argv[1], sys.argv[2:]
if where == "in the second save":
    import torch
    save, calls = torch.save, []
    def dying(value, path, *args, **more):
        calls.append(path)
        if "checkpoint-4" in str(path):
            open(path, "wb").write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return save(value, path, *args, **more)
    torch.save = dying
elif where == "before the second mark":
    mark = checkpoints.mark_complete
    def dying(out, step):
        os.kill(os.getpid(), signal.SIGKILL) if step == 4 else mark(out, step)
    checkpoints.mark_complete = dying
else:
    row = trainer.PerceptionGRPOTrainer._row
    def dying(self, logs):
        found = row(self, logs)
        if self.state.global_step == int(where):
            with (self._log_folder / trainer.LOG).open("a") as file:
                file.write("3,0.5,")  # half a line
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    trainer.PerceptionGRPOTrainer._row = dying
train.main(arguments)
"""


@pytest.mark.parametrize("where", ["1", "3", "in the second save", "before the second mark"])
def test_killed_anywhere_and_resumed_is_bitwise_the_same(place, uninterrupted, tmp_path, where):
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, *arguments(place, out)], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, capture_output=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not (out / "policy").exists()
    assert run(place, out) == 0
    assert same(weights(out), weights(uninterrupted))
    for name in ("grpo_log.csv", "completions.jsonl"):
        columns = ("reward", "length", "loss")
        if name.endswith("csv"):
            logs = [pd.read_csv(folder / name) for folder in (out, uninterrupted)]
            assert logs[0].step.tolist() == [1, 2, 3, 4]
            assert logs[0][[*columns]].equals(logs[1][[*columns]])
        else:
            assert (out / name).read_text() == (uninterrupted / name).read_text()
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_sigterm_saves_after_the_step_and_the_run_goes_on(place, uninterrupted, tmp_path):
    out = tmp_path / "out"

    def terminate():
        deadline = time.monotonic() + 60
        while not (out / "grpo_log.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert run(place, out, max_steps=4) == 143
    thread.join()
    step, _ = checkpoints.last_complete(out)
    assert 1 <= step < 4 and not (out / "policy").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run(place, out) == 0
    assert same(weights(out), weights(uninterrupted))


def test_a_judge_that_dies_loses_nothing(place, tmp_path, capsys):
    """The server fails in step 3; the run stops there, and goes on to the same weights when it is back."""
    down = threading.Event()

    def answer(call):
        if down.is_set():
            return status(500)
        question = read_prompt(call.body["messages"])
        marks = [
            "stated" if (len(question.response) + k) % 2 else "absent"
            for k in range(len(question.annotations))
        ]
        return good(write_verdict(marks, question.nonce, False, "json"))

    changes = {"judge_model": "stub", "save_steps": 100}
    with StubServer(answer) as server:
        unadmitted = ["--unadmitted", "--judge", server.url]
        whole, out = tmp_path / "whole", tmp_path / "out"
        assert train.main(arguments(place, whole, **changes) + unadmitted) == 0
        original = train.PerceptionGRPOTrainer._generate

        def generate(self, prompts):
            if self.state.global_step == 2 and not out.joinpath("mended").exists():
                down.set()
            return original(self, prompts)

        train.PerceptionGRPOTrainer._generate = generate
        try:
            patient = ["--max_failure_rate", "0.01"]
            assert train.main(arguments(place, out, **changes) + unadmitted + patient) == 3
            said = capsys.readouterr().err
            assert (
                "verdicts failed" in said and "mend the judge" in said and "Traceback" not in said
            )
            assert checkpoints.last_complete(out)[0] == 2
            down.clear()
            out.joinpath("mended").touch()
            assert train.main(arguments(place, out, **changes) + unadmitted + patient) == 0
        finally:
            train.PerceptionGRPOTrainer._generate = original
    assert same(weights(out), weights(whole))
    assert pd.read_csv(out / "grpo_log.csv").step.tolist() == [1, 2, 3, 4]


def test_a_gradient_that_is_no_number_stops_with_step_and_problems(
    place, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr(trainer, "gather_object", lambda ids: [*ids, "of-another-process"])
    original = train.PerceptionGRPOTrainer.compute_loss

    def poisoned(self, *args, **more):
        loss = original(self, *args, **more)
        return loss * math.nan if self.state.global_step == 2 else loss

    train.PerceptionGRPOTrainer.compute_loss = poisoned
    try:
        assert run(place, out) == 3
    finally:
        train.PerceptionGRPOTrainer.compute_loss = original
    said = capsys.readouterr().err
    assert "gradient of step 3 is not a number" in said and "world-train-100-" in said
    assert "lower learning_rate" in said and "of-another-process" in said
    step, folder = checkpoints.last_complete(out)
    assert step == 2
    assert all(w.isfinite().all() for w in load_file(folder / "model.safetensors").values())


def test_a_full_disk_is_one_clear_error_and_costs_no_checkpoint(place, uninterrupted, tmp_path):
    """Files of more than 2 MB cannot be written: the weights' file is about 4."""
    code = (
        "import resource, sys; from perception_r1 import train\n"
        "original = train.PerceptionGRPOTrainer._save_checkpoint\n"
        "def save(self, model, trial):\n"
        "    if self.state.global_step == 4:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, resource.RLIM_INFINITY))\n"
        "    return original(self, model, trial)\n"
        "train.PerceptionGRPOTrainer._save_checkpoint = save\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    out = tmp_path / "out"
    full = subprocess.run(
        [sys.executable, "-c", code, *arguments(place, out)], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert full.returncode == 2, full.stderr[-2000:]
    assert "cannot write" in full.stderr and "checkpoint-4" in full.stderr
    assert "Traceback" not in full.stderr
    assert checkpoints.last_complete(out)[0] == 2
    assert run(place, out) == 0
    assert same(weights(out), weights(uninterrupted))


def test_a_checkpoint_that_is_whole_is_not_written_again(place, tmp_path, monkeypatch, capsys):
    """The judge fails in the step after a save: a kill in a second save would leave it marked and broken."""
    saved, original = [], trl.GRPOTrainer._save_checkpoint

    def save(self, model, trial):
        saved.append(self.state.global_step)
        original(self, model, trial)

    def fail(self, failed):
        if self.state.global_step == 2:
            raise trainer.JudgeFailed("the judge ran out of memory")

    monkeypatch.setattr(trl.GRPOTrainer, "_save_checkpoint", save)
    monkeypatch.setattr(train.PerceptionGRPOTrainer, "_stop_if_judge_fails", fail)
    assert run(place, tmp_path / "out") == 3
    assert saved == [2] and checkpoints.last_complete(tmp_path / "out")[0] == 2
    assert capsys.readouterr().err.endswith("error: the judge ran out of memory\n")


def test_a_checkpoint_bears_no_mark_while_it_is_written_again(place, tmp_path, monkeypatch, capsys):
    inner, outer = trl.GRPOTrainer._save_checkpoint, train.PerceptionGRPOTrainer._save_checkpoint
    out = tmp_path / "out"

    def full(self, model, trial):
        assert not checkpoints.is_complete(out, 4)
        raise OSError(28, "No space left on device")

    def twice(self, model, trial):
        outer(self, model, trial)
        if self.state.global_step == 4:
            assert checkpoints.is_complete(out, 4)
            monkeypatch.setattr(trl.GRPOTrainer, "_save_checkpoint", full)
            outer(self, model, trial)

    monkeypatch.setattr(trl.GRPOTrainer, "_save_checkpoint", inner)
    monkeypatch.setattr(train.PerceptionGRPOTrainer, "_save_checkpoint", twice)
    assert run(place, out) == 2
    assert "No space left" in capsys.readouterr().err
    assert checkpoints.last_complete(out)[0] == 2


def test_a_disk_that_is_full_at_the_end_leaves_no_half_policy(
    place, uninterrupted, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "policy")

    def full(self, folder, *_, **__):
        Path(folder).mkdir()
        (Path(folder) / "half").touch()
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(train.PerceptionGRPOTrainer, "save_model", full)
        assert run(place, out) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: cannot write {out / 'policy'}: I/O error: No space left")
    assert not list(out.glob("*policy*"))
    assert run(place, out) == 0  # from the last checkpoint
    assert same(weights(out), weights(uninterrupted))


def test_out_of_memory_is_mended_by_the_same_command_with_less(
    place, uninterrupted, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    original = train.PerceptionGRPOTrainer.compute_loss

    def large(self, *args, **more):
        if self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(train.PerceptionGRPOTrainer, "compute_loss", large)
        assert run(place, out) == 2
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    less = {"per_device_train_batch_size": 2, "gradient_checkpointing": True, "save_steps": 1}
    assert run(place, out, max_completion_length=16, **less) == 2
    assert "other settings (max_completion_length)" in capsys.readouterr().err
    assert run(place, out, **less) == 0
    kept = json.loads((out / "settings.json").read_text())
    assert {key: kept[key] for key in less} == less
    assert pd.read_csv(out / "grpo_log.csv").step.tolist() == [1, 2, 3, 4]
    assert {p.name for p in out.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    found, expected = weights(out), weights(uninterrupted)
    assert max((found[k] - expected[k]).abs().max().item() for k in found) < 1e-4


# --- two processes ---------------------------------------------------------------------------------

FIXED = """
import sys
from perception_r1.training import train, trainer
seen = {}
def fixed(self, prompt_ids, images, fields, generations):
    "The k-th completion of a prompt is always the same one, on whatever process."
    counts, ids = {}, []
    for prompt in prompt_ids:
        k = counts[tuple(prompt)] = (counts.get(tuple(prompt), -1) + 1) % generations
        length, start = 6 + (sum(prompt) + 3 * k) % 9, sum(prompt) * 7 + 13 * k
        ids.append([(start + 5 * j * (k + 1)) % 150 for j in range(length)] + self.eos_token_ids[:1])
    return ids, None
trainer.PerceptionGRPOTrainer._generate_single_turn = fixed
class Reward:
    __name__ = "by_tokens"
    def __call__(self, completion_ids, **_): return [float(sum(ids) % 5) for ids in completion_ids]
train.reward_functions = lambda settings, judge: ([Reward()], [1.0])
original = trainer.PerceptionGRPOTrainer.__init__
def init(self, *args, **more):
    original(self, *args, **more)
    print("num_processes", self.accelerator.num_processes, flush=True)
trainer.PerceptionGRPOTrainer.__init__ = init
trainer.PerceptionGRPOTrainer._row = lambda self, logs: {"step": self.state.global_step}
sys.exit(train.main(sys.argv[1:]))
"""


def test_two_processes_learn_what_one_learns(place, tmp_path):
    """Same rollouts: after six steps the weights agree, by one process and by two under torchrun."""
    script = tmp_path / "fixed.py"
    script.write_text(FIXED)
    outs = {}
    for processes in (1, 2):
        out = outs[processes] = tmp_path / f"out{processes}"
        changes = {"max_steps": 6, "processes": processes, "arm": "accuracy_only"}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [sys.executable, *(launcher if processes == 2 else []), str(script),
             *arguments(place, out, **changes)],
            cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"num_processes {processes}") == processes
        assert (out / "checkpoint-6" / checkpoints.MARKER).exists()
        assert pd.read_csv(out / "grpo_log.csv").step.tolist() == [1, 2, 3, 4, 5, 6]
    one, two, base = (
        weights(outs[1]),
        weights(outs[2]),
        load_file(place / "model" / "model.safetensors"),
    )
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-4
    assert max((one[k] - base[k]).abs().max().item() for k in one) > 1e-3  # it did learn


def test_fewer_processes_than_the_settings_say_are_refused(place, tmp_path, capsys):
    assert run(place, tmp_path / "out", processes=2) == 2
    assert "2 processes and 1 were started" in capsys.readouterr().err


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "accuracy"}, "arm: Input should be 'accuracy_only', 'perception'"),
        ({"per_device_train_batch_size": 3}, "do not divide into batches .* 3; 2 would do"),
        ({"prompts_per_step": 50}, "5 problems cannot fill a step of prompts_per_step 50"),
        ({"max_prompt_length": 20}, "every prompt is longer than max_prompt_length 20"),
        ({"config": "nowhere.toml"}, "cannot read nowhere.toml"),
        ({"data": "nowhere.parquet"}, "nowhere.parquet does not exist"),
        ({"model": "nowhere"}, "no folder nowhere"),
        ({"eval_steps": 1}, "eval_steps is set and there are no held-out problems"),
        ({"judge": "exactly"}, "is none of exact, presence, lazy, no folder"),
        ({"learning_rate": "fast"}, "learning_rate: Input should be a valid number"),
        ({"admission": "nowhere.json"}, "cannot read nowhere.json"),
    ],
)
def test_bad_input_gets_one_line(place, tmp_path, capsys, changes, message):
    assert run(place, tmp_path / "out", **changes) == 2
    said = capsys.readouterr().err.strip()
    assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    assert re.search(message, said), said
    assert not (tmp_path / "out" / "grpo_log.csv").exists()


def test_other_settings_in_the_same_folder_are_refused(place, uninterrupted, capsys):
    assert run(place, uninterrupted, learning_rate=0.1, arm="accuracy_only") == 2
    assert "other settings (learning_rate, arm)" in capsys.readouterr().err


def test_a_folder_with_whole_checkpoints_is_not_gone_on_with_sharded(
    place, uninterrupted, monkeypatch, capsys
):
    """Their files differ in kind, and transformers would end in a traceback."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert run(place, uninterrupted, processes=2, fsdp=True) == 2
    assert "other settings (fsdp)" in capsys.readouterr().err


def test_other_data_and_other_base_weights_are_refused(place, uninterrupted, tmp_path, capsys):
    other, model, out = tmp_path / "data.parquet", tmp_path / "model", tmp_path / "out"
    first, *rest = load_problems(place / "data.parquet")
    for change in (
        {"answer": "77"}, {"problem": "What is AB?<image>"}, {"images": rest[0].images},
        {"visual_key_info": None}, {"id": "another"},
    ):  # fmt: skip
        write_problems([first.model_copy(update=change), *rest], other)
        assert run(place, uninterrupted, data=other) == 2
        assert "other settings (data)" in capsys.readouterr().err
    shutil.copytree(place / "model", model)
    tensors = load_file(model / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors", {"format": "pt"})
    out.mkdir()
    kept = json.loads((uninterrupted / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps(kept | {"model": str(model)}))
    assert run(place, out, model=model) == 2
    assert "other settings (model_sha256)" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused(place, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(place, out) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: another run trains in {out};") and said.count("\n") == 1
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_the_folder_is_locked_until_the_run_ends(place, tmp_path, monkeypatch):
    out, original = tmp_path / "out", train._save_policy

    def save(*args):
        with (out / ".lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return original(*args)

    monkeypatch.setattr(train, "_save_policy", save)
    assert run(place, out, max_steps=1) == 0
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_checkpoints_of_another_program_are_left_alone(place, tmp_path, capsys):
    foreign = tmp_path / "out" / "checkpoint-500" / "weights"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    assert run(place, tmp_path / "out") == 2
    assert "holds checkpoints of another program; choose another --out" in capsys.readouterr().err
    assert foreign.exists()


@pytest.mark.parametrize(("change", "package"), [("vllm", "vllm"), ("lora_rank", "peft")])
def test_missing_packages_are_named_before_anything_loads(
    place, tmp_path, capsys, monkeypatch, change, package
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )  # fmt: skip
    monkeypatch.setattr(train, "load_policy", None)
    assert run(place, tmp_path / "out", **{change: 1}) == 2
    said = capsys.readouterr().err
    assert package in said and "pip install -c constraints.txt -e '.[gpu]'" in said
    assert not (tmp_path / "out").exists()


def test_one_process_on_several_gpus_is_refused(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run(place, tmp_path / "out") == 2
    assert "set CUDA_VISIBLE_DEVICES=0 (the judge may have the other)" in capsys.readouterr().err


def test_fsdp_that_accelerate_was_not_told_of_is_refused(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert run(place, tmp_path / "out", processes=2, fsdp=True) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"accelerate launch --config_file \S*perception_r1/common/profiles/fsdp.yaml", said
    )


def test_data_without_annotations_are_refused_where_perception_is_paid(place, tmp_path, capsys):
    bare = tmp_path / "bare.parquet"
    write_problems(make_problems(4, miniature_world(seed=100), "train"), bare)
    assert run(place, tmp_path / "out", data=bare) == 2
    assert "none of 4 problems is annotated" in capsys.readouterr().err
    assert run(place, tmp_path / "out", data=bare, arm="accuracy_only", max_steps=1) == 0


def test_a_dead_judge_is_found_before_training(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(place, out, judge="http://127.0.0.1:9/v1", judge_model="j") == 2
    assert "the judge 'j' gives no verdict" in capsys.readouterr().err
    assert not (out / "grpo_log.csv").exists()


def test_an_admission_of_another_judge_does_not_count(place, tmp_path, capsys):
    path = tmp_path / "admissions.json"
    card = {"judge": "exact", "calibrated on": "own", "failed": []}
    for cards, status_ in (([card | {"judge": "other"}], 2), ([card], 0)):
        path.write_text(json.dumps(cards))
        out = tmp_path / f"out{status_}"
        assert run(place, out, admission=path, max_steps=1) == status_
    assert "no admission of the judge 'exact'" in capsys.readouterr().err


def test_a_checkpoint_without_processor(place, tmp_path, capsys):
    model, _ = load_policy(place / "model")
    model.save_pretrained(tmp_path / "bare")
    assert run(place, tmp_path / "out", model=tmp_path / "bare") == 2
    assert "no usable processor" in capsys.readouterr().err


def test_out_of_memory_names_the_levers():
    with pytest.raises(
        InputError, match="lower per_device_train_batch_size .*max_completion_length"
    ):
        with train._memory_levers():
            torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shape"):  # any other error stays what it is
        with train._memory_levers():
            torch.ones(2).view(3)
    for failure in (trainer.JudgeFailed, trainer.Diverged):
        with pytest.raises(failure), train._memory_levers():
            raise failure("HTTP 500, CUDA out of memory")


# --- parts -----------------------------------------------------------------------------------------


def test_a_schedule_is_shuffled_epochs_without_their_rest():
    order = train.schedule(1442, 128, 275, seed=1)
    assert len(order) == 275 * 128 == 35_200
    for epoch in range(25):
        asked = order[epoch * 1408 : (epoch + 1) * 1408]
        assert len(set(asked)) == 1408 and set(asked) <= set(range(1442))
    assert order[:1408] != order[1408:2816]
    assert train.schedule(1442, 128, 100, seed=1) == order[: 100 * 128]
    assert train.schedule(1442, 128, 100, seed=2) != order[: 100 * 128]


def test_long_prompts_are_left_out_and_named():
    _, processor = new_miniature(0)
    problems = make_problems(6, miniature_world(seed=100), "train")
    settings = make_settings({**TABLE, "model": "x"}, "test")
    rows, long = train.training_rows(problems, settings, processor)
    assert len(rows) == 6 and long.empty
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": r["prompt"][0]["content"]}]}],
            add_generation_prompt=True,
        )
        for r in rows
    ]  # fmt: skip
    counts = [
        len(processor(text=[t], images=[r["images"]])["input_ids"][0])
        for t, r in zip(texts, rows, strict=True)
    ]
    limit = sorted(counts)[2]
    cut = make_settings({**TABLE, "model": "x", "max_prompt_length": limit}, "test")
    rows, long = train.training_rows(problems, cut, processor)
    assert long.tokens.tolist() == [c for c in counts if c > limit]
    assert len(rows) == sum(c <= limit for c in counts) < 6
    assert min(counts) > 16  # the image's tokens are counted


def test_images_are_resized_once_to_the_limits_of_the_processor():
    _, processor = new_miniature(0)
    big = make_problems(1, WorldConfig(seed=3, image_size=600), "train")
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 200_000}
    settings = make_settings({**TABLE, "model": "x", "max_prompt_length": 4096}, "test")
    rows, _ = train.training_rows(big, settings, processor)
    image = rows[0]["images"][0]
    assert isinstance(image, Image.Image)
    assert image.width % 28 == 0 and image.height % 28 == 0
    assert 150_000 < image.width * image.height <= 200_000
    grid = processor.image_processor([image], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert [grid[1] * 14, grid[2] * 14] == [image.height, image.width]  # the processor leaves it so


def test_a_step_decodes_each_image_once(place, tmp_path, monkeypatch):
    """Two prompts of four responses in two micro-batches: the step reads sixteen rows, which show two images."""
    model, processor = load_policy(place / "model")
    settings = make_settings({**TABLE, "model": "x", "max_steps": 1, "save_steps": 1}, "test")
    problems = load_problems(place / "data.parquet")[:2]
    rows, _ = train.training_rows(problems, settings, processor)
    grpo = trainer.PerceptionGRPOTrainer(
        model=model, processing_class=processor, train_dataset=train.without_decoding(rows),
        args=train.grpo_config(settings, tmp_path, save_strategy="no"),
        reward_funcs=[lambda completions, **_: [float(k % 2) for k in range(len(completions))]],
    )  # fmt: skip
    seen, decode = [], datasets.Image.decode_example

    def counted(self, value, *more):
        seen.append(value["bytes"])
        return decode(self, value, *more)

    monkeypatch.setattr(datasets.Image, "decode_example", counted)
    grpo.train()
    assert len(seen) == len(set(seen)) == 2


def test_a_schedule_copies_no_image(place):
    """As `paper` has it: each problem comes round two dozen times."""
    _, processor = load_policy(place / "model")
    problems = load_problems(place / "data.parquet")[:4]
    rows, _ = train.training_rows(
        problems, make_settings({**TABLE, "model": "x"}, "test"), processor
    )
    scheduled = train.without_decoding(rows).select([0, 1, 2, 3] * 24)
    assert len(scheduled) == 96 and scheduled.data.nbytes == rows.data.nbytes
    for k, row in enumerate(rows):
        (image,) = scheduled[k + 4]["images"]
        assert datasets.Image().decode_example(image).tobytes() == row["images"][0].tobytes()
        assert {**scheduled[k + 4], "images": row["images"]} == row


def test_a_processor_that_pads_on_the_right_is_refused(place):
    model, processor = load_policy(place / "model")
    made = make_problems(4, miniature_world(seed=100, text_rich=0.5), "train")
    rows, _ = train.training_rows(made, make_settings({**TABLE, "model": "x"}, "test"), processor)
    assert train.check_batching(model, processor, rows) < 1e-4
    assert train.check_batching(model, processor, rows.select([0])) < 1e-4
    processor.tokenizer.padding_side = "right"
    with pytest.raises(InputError, match="must pad on the left"):
        train.check_batching(model, processor, rows)
    with pytest.raises(InputError, match="must pad on the left"):
        train.check_batching(model, processor, rows.select([0]))


def test_parameters_are_counted_by_block():
    model, _ = new_miniature(0)
    model.model.visual.requires_grad_(False)
    table = train.parameters_by_block(model).set_index("block")
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    assert table.trained.to_dict() == {
        "vision": 0, "merger": 0, "language": table.parameters["language"],
    }  # fmt: skip
    merger = sum(p.numel() for p in model.model.visual.merger.parameters())
    assert table.parameters["merger"] == merger


def test_every_profile_has_settings_that_can_work():
    for path in (ROOT / "perception_r1" / "common" / "profiles").glob("*.toml"):
        table = tomllib.loads(path.read_text())["train"]
        assert train.read_settings(path).model == table["model"]


# --- logs and markers ------------------------------------------------------------------------------


def test_a_log_is_cut_after_a_step(tmp_path):
    csv, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    csv.write_text("step,reward\n1,0.5\n2,0.6\n3,0.7\n4,0.")
    lines.write_text('{"step": 1, "x": 2}\n{"step": 2}\n{"step": 3}\n{"ste')
    checkpoints.cut_log(csv, 2)
    checkpoints.cut_log(lines, 2)
    checkpoints.cut_log(tmp_path / "missing.csv", 2)
    assert csv.read_text() == "step,reward\n1,0.5\n2,0.6\n"
    assert lines.read_text() == '{"step": 1, "x": 2}\n{"step": 2}\n'
    checkpoints.cut_log(csv, 0)
    assert csv.read_text() == "step,reward\n"


def test_a_log_is_cut_at_bytes(tmp_path):
    """A completion may hold other ends of lines, and a killed run half a character."""
    path = tmp_path / "a.jsonl"
    line = json.dumps({"step": 1, "completion": "one\u2028two\x85three"}, ensure_ascii=False) + "\n"
    path.write_bytes((line * 2).encode() + '{"step": 1, "completion": "°'.encode()[:-1])
    checkpoints.cut_log(path, 1)
    assert path.read_bytes() == (line * 2).encode()
    path.write_bytes(b"\xff\n" + line.encode())
    checkpoints.cut_log(path, 1)
    assert path.read_bytes() == line.encode()


def test_only_marked_checkpoints_count_and_the_last_two_are_kept(tmp_path):
    for step in (9, 10, 11, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").touch()
        if step != 100:
            checkpoints.mark_complete(tmp_path, step)
    assert checkpoints.last_complete(tmp_path) == (11, tmp_path / "checkpoint-11")
    checkpoints.remove_incomplete(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-11"}
    assert checkpoints.last_complete(tmp_path / "nowhere") is None
