"""Papermill batches: one notebook executed many times with other parameters, as a plan file says.

    python -m perception_r1 batch PLAN --out DIR [--jobs N] [--only 'flip-*,lazy-*']

A plan is a small TOML file (see `study.plans`); `data/plans/` holds those of this project's studies. Each row of it
is one `python -m perception_r1 run --only NN --resume` in a process and a folder of its own, `DIR/rows/<row>/`. What
these folders hold decides what is left to run, so the same command goes on where a stopped or killed batch was.
At the end `DIR/results.jsonl` has a line a row, and the artefacts named in the plan's `collect` are one table each,
with the rows' parameters as columns.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from perception_r1.common import profiles
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import NOTEBOOKS, ROOT, sha256, write_text
from perception_r1.notebook.discovery import discover, read_names, read_parameters, select
from perception_r1.notebook.resume import Ledger
from perception_r1.notebook.runner import check_out
from perception_r1.study.plans import RESULTS, Row, read_plan, rows_of


def run_batch(plan_file: Path, out: Path, jobs: int | None = None, only: Sequence[str] = ()) -> int:
    """Run every row of a plan that has not been run yet, some side by side, and gather what they wrote.

    Args:
        plan_file: see `Plan`.
        out: the batch's folder.
        jobs: rows at a time; None or 0: as many as the machine has cores for. Where there are GPUs, they take turns.
        only: names of rows, or shell patterns of them; the other rows are left for another time, or machine.

    Returns:
        0 if all of these rows have run, 1 if one failed (the others are run all the same; the same command tries it
        again), 130 if stopped.

    Raises:
        InputError: nothing was run: the plan, a parameter or `out` cannot be used.
    """
    out = out.resolve()
    batch = Batch(plan_file, out)
    check_out(out)
    chosen, finished = batch.chosen(only), batch.finished()
    jobs = max(1, jobs or _cores() // batch.plan.cores)
    todo = [row for row in chosen if row not in finished]
    done = len(chosen) - len(todo)
    print(f"{batch.plan.title}: {len(chosen)} rows, {done} done; {jobs} at a time")
    print(f"Writing to {out}", flush=True)
    status, errors = 0, []
    try:
        for row, error in _side_by_side(batch, todo, jobs):
            done += 1
            mark = "failed" if error else "ok"
            print(f"  {row.name:<36} {mark:<7} {done} of {len(chosen)}", flush=True)
            if error:
                status, errors = 1, [*errors, f"{row.name} failed: {error}"]
    except KeyboardInterrupt:
        status = 130
        errors += ["Stopped; what was finished is kept, and the same command goes on"]
    batch.gather()
    finished = batch.finished()
    lost = [row.name for row in chosen if row not in finished]
    if lost and not status:
        status = 1
        errors = [f"code or data changed while the batch ran; run {some(lost)} again"]
    for line in errors:
        print(line, file=sys.stderr)
    return status


class Batch:
    """A plan that can be run, and the folder in which its rows are.

    Attributes:
        plan: as its file says.
        rows: its rows, in order.
        notebook: which they execute.
        given: a row's name -> its parameters, with the types that the notebook takes.

    Raises:
        InputError: the plan, or a parameter in it, cannot be used; the message names the plan's file.
    """

    def __init__(self, plan_file: Path, out: Path):
        self.plan = read_plan(plan_file)
        self.out = out
        self._text = plan_file.read_text(encoding="utf-8")
        try:
            self._profile = profiles.load_profile(self.plan.profile)
            own = plan_file.parent / self.plan.notebooks if self.plan.notebooks else NOTEBOOKS
            (self.notebook,) = select(discover(own.resolve()), [self.plan.notebook])
            self.rows = rows_of(self.plan)
            self.given = {
                row.name: read_parameters([self.notebook], _as_settings(row))[self.notebook.number]
                for row in self.rows
            }
        except InputError as error:
            raise InputError(f"{plan_file}: {str(error).replace('--param ', '')}") from error
        self._file = plan_file
        tables = [_table_name(pattern) for pattern in self.plan.collect]
        if unusable := {name for name in tables if tables.count(name) > 1 or name.startswith(".")}:
            raise InputError(
                f"{plan_file}: collect makes {some(unusable)} twice, or without a name; name other artefacts"
            )

    def chosen(self, only: Sequence[str]) -> list[Row]:
        """The rows that fit one of these patterns; all where there are none."""
        names = [row.name for row in self.rows]
        if lost := [p for p in only if not any(fnmatchcase(name, p) for name in names)]:
            raise InputError(f"{self._file} has no row {some(lost)}; its rows are {some(names)}")
        return [r for r in self.rows if not only or any(fnmatchcase(r.name, p) for p in only)]

    def folder(self, row: Row) -> Path:
        """Where a row is run."""
        return self.out / "rows" / row.name

    def finished(self) -> list[Row]:
        """The rows that have run with the code, the parameters and all else that they would be run with now.

        Recorded results are left out: those that were added meanwhile do not make a row old.
        """
        return [row for row in self.rows if self._changed(row) <= {"results"}]

    def _changed(self, row: Row) -> set[str]:
        return self.ledger(row).changed(self.notebook, self.given[row.name])

    def ledger(self, row: Row) -> Ledger:
        """What is known of a row's run."""
        return Ledger(self.folder(row), self._profile, {self.notebook.number: self.notebook})

    def start(self, row: Row, gpu: str | None) -> subprocess.Popen:
        """Start a row's process, which sees one GPU and writes what it says to `batch.log` in the row's folder."""
        folder = self.folder(row)
        write_text(folder / "plan.toml", self._text)  # as it was when the row ran
        command = [sys.executable, "-m", "perception_r1", "run", "--only", self.notebook.number]
        command += ["--notebooks", str(self.notebook.path.parent), "--profile", self.plan.profile]
        command += ["--out", str(folder), "--resume"]
        for setting in _as_settings(row):
            command += ["--param", setting]
        # kernels would import an installed package, which may be that of another clone
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        environment |= {"OMP_NUM_THREADS": str(self.plan.cores)}
        environment |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        own = {"cwd": ROOT, "env": environment, "start_new_session": True}
        with (folder / "batch.log").open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **own)

    def error(self, row: Row, status: int) -> str | None:
        """Why a row whose process ended with this exit status did not run through, in one line; None if it did."""
        if status == 0:
            return None
        entry = self.ledger(row).entry(self.notebook)
        log = (self.folder(row) / "batch.log").read_text(errors="replace").split("\n")
        last = next((line for line in reversed(log) if line.strip()), f"exit status {status}")
        return entry.get("error") or last.removeprefix("error: ")

    def gather(self) -> None:
        """Write `results.jsonl`, and one table for each artefact of `collect`, from what is in the rows' folders.

        A table has the columns row, plan_cell, the parameters that vary in a cell, and for a pattern, artifact; the
        rest is taken over as it stands, character by character. A table of which nothing is left is removed.

        Raises:
            InputError: an artefact is no table.
        """
        finished = self.finished()
        results = [self._result(row, row in finished) for row in self.rows]
        lines = [json.dumps(result, ensure_ascii=False) + "\n" for result in results if result]
        write_text(self.out / RESULTS, "".join(lines))
        varies = list(dict.fromkeys(name for row in self.rows for name in row.varies))
        for pattern in self.plan.collect:
            tables = []
            for row in finished:
                folder = self.folder(row) / "artifacts" / self.notebook.number
                for file in sorted(folder.glob(pattern)):
                    about = {"row": row.name, "plan_cell": row.cell}
                    about |= {name: row.parameters.get(name) for name in varies}
                    about |= {"artifact": file.stem} if "*" in pattern else {}
                    tables.append(_labelled(file, about))
            path = self.out / _table_name(pattern)
            if tables:
                write_text(path, pd.concat(tables, ignore_index=True).to_csv(index=False))
            else:
                path.unlink(missing_ok=True)

    def _result(self, row: Row, finished: bool) -> dict | None:
        """A row's line of `results.jsonl`; None where it has not been run."""
        ledger = self.ledger(row)
        record, entry = ledger.record, ledger.entry(self.notebook)
        if not finished and entry["status"] != "failed":
            return None
        status, plan = "ok" if finished else "failed", sha256(self.folder(row) / "plan.toml")
        about = {"row": row.name, "cell": row.cell, "status": status, "plan_sha256": plan}
        about |= {"parameters": dict(row.parameters)}
        about |= {name: entry.get(name) for name in ("seconds", "error", "finding")}
        made_by = ("finished", "commit", "machine", "versions")
        return about | {name: record.get(name) for name in made_by}


def _side_by_side(batch: Batch, todo: Sequence[Row], jobs: int) -> Iterator[tuple[Row, str | None]]:
    """Run rows, `jobs` at a time; yield each with what went wrong as it ends. Who stops early ends those that run."""
    import torch  # only for the number of GPUs

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    gpus = visible[:count] if any(visible) else [str(k) for k in range(count)]
    waiting = list(todo)
    running: dict[int, tuple[Row, subprocess.Popen]] = {}  # by slot
    try:
        while waiting or running:
            for slot in range(jobs):
                if slot not in running and waiting:
                    row = waiting.pop(0)
                    running[slot] = row, batch.start(row, gpus[slot % len(gpus)] if gpus else None)
            time.sleep(0.2)
            for slot, (row, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    yield row, batch.error(row, process.returncode)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _table_name(pattern: str) -> str:
    """The table that the artefacts of a pattern make: outcomes_*.csv, outcomes.csv."""
    return re.sub(r"_?\*", "", pattern)


def _labelled(file: Path, about: dict) -> pd.DataFrame:
    """A CSV file's table, its cells as text, with the columns `about` in front."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot gather {file}: {error}; see the row's run") from error
    labels = pd.DataFrame([about] * len(table), columns=list(about), dtype=object)
    return pd.concat([labels, table], axis=1)


def _as_settings(row: Row) -> list[str]:
    """A row's parameters as the command line takes them."""
    return [
        f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in row.parameters.items()
    ]


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 batch PLAN --out DIR`; see `run_batch`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 batch", allow_abbrev=False)
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="TOML; see data/plans/")
    add("--out", type=str.strip, required=True, metavar="DIR")
    add("--jobs", type=int, metavar="N", help="rows at a time; default: by cores")
    add("--only", metavar="ROWS", help="these rows, not all: 'flip-*,lazy-11'")
    given = parser.parse_args(arguments)
    if not given.out:
        raise InputError("--out is empty; give it a value")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops a batch as Ctrl-C does
    return run_batch(given.plan, Path(given.out), given.jobs, read_names(given.only))
