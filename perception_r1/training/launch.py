"""Training runs as processes of their own, side by side, watched while they run. Used in notebook 04."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from perception_r1.common.checkpoints import read_log
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.training.progress import LOG, WATCHED

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
    # A run that outlives this process would hold its folder; torchrun by itself gives its workers 30 s to save.
    environment = {
        **os.environ,
        WATCHED: str(os.getpid()),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(PATIENCE),
    }
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    quiet = bool(os.environ.get("TQDM_DISABLE"))  # which tqdm's notebook form does not heed
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name, command in commands.items():
            folders[name].mkdir(parents=True, exist_ok=True)
            with (folders[name] / "train.log").open("w") as log:
                processes[name] = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # head of a group of its own
                )
        running = list(processes.values())
        with tqdm(total=steps * len(commands), desc="training", unit="step", disable=quiet) as bar:
            while running:
                with suppress(subprocess.TimeoutExpired):
                    running[0].wait(every)
                bar.update(sum(steps_done(folder) for folder in folders.values()) - bar.n)
                if watch and not quiet:
                    watch()
                for name, process in processes.items():
                    if process.poll():
                        raise InputError(_failure(name, process.returncode, folders[name]))
                running = [process for process in running if process.poll() is None]
    finally:
        _stop(list(processes.values()))


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Let those that still run save and end; then nothing is left of any group, workers of a dead head included."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def steps_done(folder: Path) -> int:
    """How many steps a run's log holds."""
    return len(read_log(folder / LOG))


def read_logs(folders: Mapping[str, Path]) -> pd.DataFrame:
    """The logs of runs, one under the other, with a column `arm` (see `checkpoints.read_log`)."""
    logs = [read_log(folder / LOG).assign(arm=name) for name, folder in folders.items()]
    logs = [log for log in logs if len(log)]
    return pd.concat(logs, ignore_index=True) if logs else pd.DataFrame(columns=["arm", "step"])


def _failure(name: str, status: int, folder: Path) -> str:
    """The error line of a failed run, or its last line."""
    log = folder / "train.log"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines or ["no output"]
    return (
        f"the arm {name} ended with status {status}: {errors[-1].removeprefix('error: ')} (all of its "
        f"output is in {log}; run again to go on from its last checkpoint)"
    )
