"""Runs side by side: what is shown, and what happens to the others when one fails."""

import sys

import pytest

from perception_r1.common.errors import InputError
from perception_r1.training import launch
from tests.conftest import alive
from tests.stub_server import until

WRITES = """
import pathlib, sys, time
log = pathlib.Path(sys.argv[1]) / "grpo_log.csv"
with log.open("w") as file:
    file.write("step,reward\\n")
    for step in (1, 2, 3):
        print(f"{step},0.{step}", file=file, flush=True)
        time.sleep(0.05)
print("threads", __import__("os").environ.get("OMP_NUM_THREADS"))
"""


def command(code, *arguments):
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


@pytest.fixture(autouse=True)
def somebody_watches(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.mark.parametrize("headless", [False, True])
def test_runs_are_watched_to_their_end(tmp_path, monkeypatch, headless):
    if headless:
        monkeypatch.setenv("TQDM_DISABLE", "1")
    folders = {name: tmp_path / name for name in ("one", "two")}
    seen = []
    launch.run_together(
        {name: command(WRITES, folder) for name, folder in folders.items()}, folders,
        steps=3, threads=1, watch=lambda: seen.append(len(launch.read_logs(folders))), every=0.1,
    )  # fmt: skip
    assert seen == [] if headless else seen[-1] == 6
    logs = launch.read_logs(folders | {"none": tmp_path / "none"})
    assert logs.groupby("arm")["step"].apply(list).to_dict() == {"one": [1, 2, 3], "two": [1, 2, 3]}
    assert (tmp_path / "one" / "train.log").read_text() == "threads 1\n"


def test_when_one_fails_the_others_are_told_to_stop(tmp_path):
    """SIGTERM, which a training run takes as: save after this step, and end."""
    patient = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): pathlib.Path(sys.argv[1], 'saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path(sys.argv[1], 'ready').touch()\n"
        "time.sleep(60)"
    )
    fails = (
        "import pathlib, sys, time\n"
        "while not pathlib.Path(sys.argv[1], 'ready').exists(): time.sleep(0.05)\n"
        "print('some lines'); print('error: the judge is dead; mend it', file=sys.stderr); sys.exit(3)"
    )
    folders = {name: tmp_path / name for name in ("good", "bad")}
    folders["bad"].mkdir()
    (folders["bad"] / "train.log").write_text("error: of an older run\n")
    commands = {"good": command(patient, folders["good"]), "bad": command(fails, folders["good"])}
    with pytest.raises(InputError, match="arm bad ended with status 3: the judge is dead; mend it"):
        launch.run_together(commands, folders, steps=3, every=0.1)
    assert (folders["good"] / "saved").exists()


@pytest.mark.parametrize("interrupted", [True, False])
def test_nothing_outlives_an_interrupt_or_a_dead_launcher(tmp_path, interrupted):
    """A head starts a worker in its group; it is interrupted, or dies. (torchrun's workers have other groups.)"""
    head = (
        "import os, pathlib, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(120)'])\n"
        "pathlib.Path(sys.argv[1], 'pid').write_text(str(worker.pid))\n"
        "time.sleep(60) if sys.argv[2] == 'True' else os._exit(1)"
    )
    written = tmp_path / "pid"

    def interrupt():
        if interrupted and written.exists() and written.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt if interrupted else InputError):
        launch.run_together(
            {"one": command(head, tmp_path, interrupted)}, {"one": tmp_path}, steps=1,
            watch=interrupt, every=0.1,
        )  # fmt: skip
    until(lambda: not alive(int(written.read_text())))
