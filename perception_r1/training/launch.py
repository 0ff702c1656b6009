"""Training runs as processes of their own, side by side, watched while they run. Used in notebook 04."""

import io
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.training.trainer import LOG, WATCHED

PATIENCE = 600  # seconds for a run to end its step, save and end after SIGTERM


def run_together(
    commands: Mapping[str, Sequence[str]],
    folders: Mapping[str, Path],
    *,
    steps: int,
    threads: int | None = None,
    watch: Callable[[], None] | None = None,
    every: float = 5.0,
) -> None:
    """Run commands side by side until all have ended; on Ctrl-C, or when one fails, stop the others.

    Args:
        commands: name -> command.
        folders: name -> its run's folder, where its output goes to `train.log` and its rows to `LOG`.
        steps: steps of each run, for the progress bar.
        threads: of each process; None: as many as it likes.
        watch: called every `every` seconds, and at the end; never where TQDM_DISABLE is set (headless): nobody watches.
        every: seconds.

    Raises:
        InputError: one failed; the message holds the last line of its output, the others can go on later.
    """
    environment = dict(os.environ)
    environment[WATCHED] = str(
        os.getpid()
    )  # a run that outlives this process would hold its folder
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(PATIENCE)  # torchrun gives workers 30 s
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    logs = {name: folders[name] / "train.log" for name in commands}
    written = {name: log.stat().st_size if log.exists() else 0 for name, log in logs.items()}
    with _started(commands, logs, environment) as processes:
        quiet = bool(os.environ.get("TQDM_DISABLE"))  # which tqdm's notebook form does not heed
        with tqdm(total=steps * len(commands), desc="training", unit="step", disable=quiet) as bar:
            running = True
            while running:
                ended = time.monotonic() + every
                while (running := [p for p in processes.values() if p.poll() is None]) and (
                    time.monotonic() < ended
                ):
                    time.sleep(0.2)
                bar.update(sum(steps_done(folder) for folder in folders.values()) - bar.n)
                if watch and not quiet:
                    watch()
                for name, process in processes.items():
                    if process.returncode:
                        raise InputError(_why(name, process.returncode, logs[name], written[name]))


@contextmanager
def _started(
    commands: Mapping[str, Sequence[str]], logs: Mapping[str, Path], environment: dict
) -> Iterator[dict[str, subprocess.Popen]]:
    """The processes, each the head of a group of its own; whatever happens, no group is left running.

    torchrun gives each worker a session of its own: it passes SIGTERM on, but workers outlive a launcher that is
    killed with -9.
    """
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name, command in commands.items():
            logs[name].parent.mkdir(parents=True, exist_ok=True)
            with logs[name].open("a") as log:
                processes[name] = subprocess.Popen(
                    list(command), cwd=ROOT, env=environment, stdout=log,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        yield processes
    finally:
        running = [process for process in processes.values() if process.poll() is None]
        for process in running:
            _signal(process, signal.SIGTERM)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        for process in processes.values():  # workers may outlive the head of their group
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def steps_done(folder: Path) -> int:
    """How many steps a run's log holds."""
    path = folder / LOG
    return max(0, path.read_text(encoding="utf-8").count("\n") - 1) if path.exists() else 0


def read_logs(folders: Mapping[str, Path]) -> pd.DataFrame:
    """The logs of runs, one under the other, with a column `arm`; a line half written is left out."""
    found = []
    for name, folder in folders.items():
        if steps_done(folder):
            text = (folder / LOG).read_text(encoding="utf-8")
            whole = io.StringIO(text[: text.rfind("\n") + 1])
            found.append(pd.read_csv(whole).assign(arm=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["arm", "step"])


def _why(name: str, status: int, log: Path, start: int) -> str:
    """The error line of a failed run, or its last line; what stood in its log before `start` is of older runs."""
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["no output"]
    return (
        f"the arm {name} ended with status {status}: {errors[-1].removeprefix('error: ')} (all of its "
        f"output is in {log}; run again to go on from its last checkpoint)"
    )
