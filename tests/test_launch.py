"""Runs side by side: what is shown, and what happens to the others when one fails."""

import os
import sys
import time

import pytest

from perception_r1.common.errors import InputError
from perception_r1.training import launch

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
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.fixture(autouse=True)
def somebody_watches(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def test_nobody_watches_a_headless_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    folders, seen = {"one": tmp_path / "one"}, []
    launch.run_together(
        {"one": command(WRITES, folders["one"])},
        folders,
        steps=3,
        watch=lambda: seen.append(1),
        every=0.1,
    )
    assert not seen and launch.steps_done(folders["one"]) == 3


def test_runs_are_watched_to_their_end(tmp_path):
    folders = {name: tmp_path / name for name in ("one", "two")}
    seen = []
    launch.run_together(
        {name: command(WRITES, folder) for name, folder in folders.items()}, folders,
        steps=3, threads=1, watch=lambda: seen.append(len(launch.read_logs(folders))), every=0.1,
    )  # fmt: skip
    assert seen[-1] == 6
    logs = launch.read_logs(folders)
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
    commands = {
        "good": command(patient, folders["good"]), "bad": command(fails, folders["good"]),
    }  # fmt: skip
    start = time.monotonic()
    with pytest.raises(InputError, match="arm bad ended with status 3: the judge is dead; mend it"):
        launch.run_together(commands, folders, steps=3, every=0.1)
    assert (folders["good"] / "saved").exists()
    assert time.monotonic() - start < 30


def test_an_interrupt_leaves_nothing_running(tmp_path):
    folders = {"one": tmp_path / "one"}
    code = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid())); time.sleep(60)"
    )

    def interrupt():
        if (folders["one"] / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.run_together(
            {"one": command(code, folders["one"])}, folders, steps=1, watch=interrupt, every=0.1
        )
    pid = int((folders["one"] / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_line_half_written_is_left_out(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "grpo_log.csv").write_text("step,reward,loss\n1,0.5,1\n2,0.6")
    logs = launch.read_logs({"one": tmp_path / "one", "none": tmp_path / "none"})
    assert logs["step"].tolist() == [1]
    assert launch.steps_done(tmp_path / "one") == 1


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc")
def test_workers_of_a_killed_launcher_do_not_outlive_it(tmp_path):
    """The head starts a worker in its own group, and dies without it. (torchrun's have other groups.)"""
    folder = {"one": tmp_path / "one"}
    head = (
        "import os, pathlib, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])\n"
        "pathlib.Path(sys.argv[1], 'pid').write_text(str(worker.pid)); os._exit(1)"
    )
    with pytest.raises(InputError, match="ended with status 1"):
        launch.run_together({"one": command(head, folder["one"])}, folder, steps=1, every=0.1)
    worker = int((folder["one"] / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = open(f"/proc/{worker}/stat").read().split(") ")[1][0]
        except FileNotFoundError:
            return
        if state == "Z":  # killed, and not yet collected
            return
        time.sleep(0.05)
    raise AssertionError("the worker still runs")
