"""Training that is killed, stopped or fails goes on where it was, to the same weights; and two processes as one."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
import trl
from safetensors.torch import load_file

from perception_r1.__main__ import main
from perception_r1.common import checkpoints
from perception_r1.common.files import ROOT
from perception_r1.common.settings import read_settings
from perception_r1.training import progress, scale, train, trainer
from tests.judging import truth
from tests.runs import arguments, run, same, weights
from tests.stub_server import StubServer, hang, status, until

COMPARED = ["step", "reward", "length", "loss", "grad_norm"]


def steps(out):
    return checkpoints.read_log(out / "grpo_log.csv").step.tolist()


KILLED = """
import os, signal, sys
import torch
from perception_r1.__main__ import main
save = torch.save
def dying(value, path, *args, **more):
    if "checkpoint-4" in str(path):
        open(path, "wb").write(b"half")
        out = sys.argv[1]
        open(f"{out}/grpo_log.csv", "a").write("5,0.5,")  # half a line
        open(f"{out}/completions.jsonl", "ab").write('{"step": 5, "completion": "°'.encode()[:-1])
        os.kill(os.getpid(), signal.SIGKILL)
    return save(value, path, *args, **more)
torch.save = dying
main(["train", *sys.argv[2:]])
"""


def test_killed_while_it_saves_and_resumed_is_bitwise_the_same(place, uninterrupted, tmp_path):
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), *arguments(place, out)], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, capture_output=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert checkpoints.last_complete(out)[0] == 2
    assert run(place, out) == 0
    assert same(weights(out), weights(uninterrupted))
    logs = [checkpoints.read_log(folder / "grpo_log.csv") for folder in (out, uninterrupted)]
    assert logs[0][COMPARED].equals(logs[1][COMPARED]) and steps(out) == [1, 2, 3, 4]
    texts = [checkpoints.read_log(f / "completions.jsonl") for f in (out, uninterrupted)]
    assert texts[0].equals(texts[1])


def test_sigterm_saves_after_the_step(place, tmp_path):
    def terminate():
        until((tmp_path / "grpo_log.csv").exists, 120)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert run(place, tmp_path, save_steps=4) == 143
    thread.join()
    step, _ = checkpoints.last_complete(tmp_path)
    assert 1 <= step < 4 and not (tmp_path / "policy").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    "broken, why",
    [(lambda: status(500), "HTTP 500"), (hang, "unfinished when the")],
)
def test_a_judge_that_dies_or_is_too_slow_stops_the_run_which_goes_on_later(
    place, tmp_path, capsys, monkeypatch, broken, why
):
    """The server fails in step 2; the run stops there, and goes on when it is back."""
    down = threading.Event()
    changes = {"judge_model": "stub", "save_steps": 100, "max_failure_rate": 0.01, "max_steps": 3}
    changes["judge_deadline"] = 2 if broken is hang else 900
    with StubServer(lambda call: broken() if down.is_set() else truth(call)) as server:
        more = ["--unadmitted", "--judge", server.url]
        original = progress.Progress.on_step_end

        def on_step_end(*given, **named):
            original(*given, **named)
            down.set()

        with monkeypatch.context() as patched:
            patched.setattr(progress.Progress, "on_step_end", on_step_end)
            assert main(["train", *arguments(place, tmp_path, **changes), *more]) == 3
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.match(f"error: .*verdicts failed.*{why}.*mend the judge", error)
        assert checkpoints.last_complete(tmp_path)[0] == 1
        down.clear()
        assert main(["train", *arguments(place, tmp_path, **changes), *more]) == 0
    assert steps(tmp_path) == [1, 2, 3]


def test_a_checkpoint_that_is_whole_is_not_written_again(place, tmp_path, monkeypatch):
    """The judge fails in the step after a save: a kill in a second save would leave it marked and broken."""
    saved, original = [], trl.GRPOTrainer._save_checkpoint

    def save(self, model, trial):
        saved.append(self.state.global_step)
        original(self, model, trial)

    def fail(self, failed):
        if self.state.global_step == 2:
            raise trainer.JudgeFailed("the judge ran out of memory")

    monkeypatch.setattr(trl.GRPOTrainer, "_save_checkpoint", save)
    monkeypatch.setattr(trainer.PerceptionGRPOTrainer, "_stop_if_judge_fails", fail)
    assert run(place, tmp_path) == 3
    assert saved == [2] and checkpoints.last_complete(tmp_path)[0] == 2


def test_a_gradient_that_is_no_number_stops_with_the_step(place, tmp_path, capsys, monkeypatch):
    original = trl.GRPOTrainer.compute_loss

    def poisoned(self, *args, **more):
        loss = original(self, *args, **more)
        return loss * math.nan if self.state.global_step == 2 else loss

    monkeypatch.setattr(trl.GRPOTrainer, "compute_loss", poisoned)
    assert run(place, tmp_path) == 3
    error = capsys.readouterr().err
    assert "gradient of step 3 is not a number" in error and "lower learning_rate" in error
    step, folder = checkpoints.last_complete(tmp_path)
    assert step == 2
    assert all(w.isfinite().all() for w in load_file(folder / "model.safetensors").values())


def test_a_full_disk_is_one_clear_error_and_costs_no_checkpoint(
    place, tmp_path, monkeypatch, capsys
):
    def full(self, model, trial):
        if self.state.global_step == 4:
            (tmp_path / "checkpoint-4").mkdir()
            raise OSError(28, "No space left on device")
        original(self, model, trial)

    original = trl.GRPOTrainer._save_checkpoint
    with monkeypatch.context() as patched:
        patched.setattr(trl.GRPOTrainer, "_save_checkpoint", full)
        assert run(place, tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: cannot write {tmp_path / 'checkpoint-4'}: ")
    assert "No space left" in error and checkpoints.last_complete(tmp_path)[0] == 2


def test_out_of_memory_is_mended_by_the_same_command_with_less(
    place, uninterrupted, tmp_path, monkeypatch, capsys
):
    original = trl.GRPOTrainer.compute_loss

    def large(self, *args, **more):
        if self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(trl.GRPOTrainer, "compute_loss", large)
        assert run(place, tmp_path) == 2
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    less = {"per_device_train_batch_size": 2, "gradient_checkpointing": True}
    assert run(place, tmp_path, **less) == 0
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    ours, expected = weights(tmp_path), weights(uninterrupted)  # prompts are not shared any more
    assert max((ours[k] - expected[k]).abs().max().item() for k in ours) < 1e-4


def fixed_turn(self, prompt_ids, images, fields, generations):
    """The k-th completion of a prompt is always the same one, on whatever process."""
    counts, ids = {}, []
    for prompt in prompt_ids:
        k = counts[tuple(prompt)] = (counts.get(tuple(prompt), -1) + 1) % generations
        length, start = 6 + (sum(prompt) + 3 * k) % 9, sum(prompt) * 7 + 13 * k
        ids.append(
            [(start + 5 * j * (k + 1)) % 150 for j in range(length)] + self.eos_token_ids[:1]
        )
    return ids, None


def by_tokens(completion_ids, **_):
    return [float(sum(ids) % 5) for ids in completion_ids]


def fix(set_attribute=setattr):
    """Rollouts and rewards that do not depend on who samples them."""
    set_attribute(trainer.PerceptionGRPOTrainer, "_generate_single_turn", fixed_turn)
    set_attribute(train, "reward_functions", lambda settings, judge: ([by_tokens], [1.0]))
    row = {"loss": 0.0}
    set_attribute(progress.Progress, "_row", lambda self, step, logs: {"step": step, **row})


def test_two_processes_learn_what_one_learns(place, tmp_path, monkeypatch):
    """Same rollouts: after four steps the weights agree, by one process and by two, which also go on from step 2."""
    changes = {"max_steps": 4, "arm": "accuracy_only"}
    fix(monkeypatch.setattr)
    assert run(place, tmp_path / "one", **changes) == 0
    # Python imports this at its start: each worker fixes itself before it runs the command
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'LOCAL_RANK' in os.environ:\n    from tests.test_resume import fix\n    fix()\n"
    )
    settings = read_settings(place / "config.toml", processes=2)
    given = arguments(place, tmp_path / "two", **changes, processes=2)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for begins in ("from the beginning", "going on from step 2"):
        for name in ("checkpoint-4", "policy"):
            shutil.rmtree(tmp_path / "two" / name, ignore_errors=True)
        done = subprocess.run(
            scale.launch_command(settings, given), cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("trains ") == done.stdout.count(begins) == 1  # one of them speaks
    assert steps(tmp_path / "two") == [1, 2, 3, 4]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    base = load_file(place / "model" / "model.safetensors")
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-4
    assert max((one[k] - base[k]).abs().max().item() for k in one) > 1e-3  # it did learn


def test_steps_taken_again_count_once_and_as_last_written(tmp_path):
    path = tmp_path / "log.csv"
    checkpoints.append(path, "step,reward\n1,0.1\n2,0.2\n3,0.3\n4,0.4\n5,")  # killed; on from 2
    checkpoints.append(path, "3,0.33\n")
    assert checkpoints.read_log(path).to_numpy().tolist() == [[1, 0.1], [2, 0.2], [3, 0.33]]
    with path.open("a") as file:
        file.write("4,0.4")  # being written
    assert len(checkpoints.read_log(path)) == 3
    assert checkpoints.read_log(tmp_path / "none.csv").empty


def test_a_log_of_texts_survives_strange_ends_of_lines_and_half_characters(tmp_path):
    path = tmp_path / "log.jsonl"
    rows = [{"step": 1, "place": k, "completion": "one\u2028two\x85three"} for k in (0, 1)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    checkpoints.append(path, text)
    with path.open("ab") as file:
        file.write('{"step": 2, "place": 0, "completion": "°'.encode()[:-1])
    checkpoints.append(path, text.replace("three", "four"))
    again = [{**row, "completion": "one\u2028two\x85four"} for row in rows]
    assert checkpoints.read_log(path).to_dict("records") == again


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
