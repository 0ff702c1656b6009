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
        jobs: rows at a time; None: as many as the machine has cores for.
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
    jobs = jobs or max(1, (os.cpu_count() or 1) // batch.plan.cores)
    todo = [row for row in chosen if row not in finished]
    done = len(chosen) - len(todo)
    print(f"{batch.plan.title}: {len(chosen)} rows, {done} done; {jobs} at a time")
    print(f"Writing to {out}", flush=True)
    status, errors = 0, []
    try:
        for row in _side_by_side(batch, todo, jobs):
            done, error = done + 1, batch.error(row)
            mark = "failed" if error else "ok"
            print(f"  {row.name:<36} {mark:<7} {done} of {len(chosen)}", flush=True)
            if error:
                status, errors = 1, [*errors, f"{row.name} failed: {error}"]
    except KeyboardInterrupt:
        status = 130
        errors += ["Stopped; what was finished is kept, and the same command goes on"]
    batch.gather()
    for line in errors:
        print(line, file=sys.stderr)
    return status


class Batch:
    """A plan that can be run, and the folder in which its rows are.

    Attributes:
        plan: as its file says.
        out: the batch's folder.
        rows: its rows, in order.
        notebook: which they execute.
        given: a row's name -> its parameters, with the types that the notebook takes.

    Raises:
        InputError: the plan, or a parameter in it, cannot be used; the message names the plan's file.
    """

    def __init__(self, plan_file: Path, out: Path):
        self.plan, self.out, self._file = read_plan(plan_file), out, plan_file
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
            raise InputError(f"{plan_file}: {error}") from error

    def chosen(self, only: Sequence[str]) -> list[Row]:
        """The rows that fit one of these patterns; all where there are none."""
        names = [row.name for row in self.rows]
        if lost := [p for p in only if not any(fnmatchcase(name, p) for name in names)]:
            raise InputError(f"{self._file} has no row {some(lost)}; its rows are {some(names)}")
        return [r for r in self.rows if not only or any(fnmatchcase(r.name, p) for p in only)]

    def folder(self, row: Row) -> Path:
        """Where a row is run."""
        return self.out / "rows" / row.name

    def ledger(self, row: Row) -> Ledger:
        """What is known of a row's run."""
        return Ledger(self.folder(row), self._profile, {self.notebook.number: self.notebook})

    def finished(self) -> list[Row]:
        """The rows that have run with the code, the parameters and all else that they would be run with now."""
        return [row for row in self.rows if not self._changed(row)]

    def _changed(self, row: Row) -> set[str]:
        """Recorded results are left out: those that were added meanwhile do not make a row old."""
        return self.ledger(row).changed(self.notebook, self.given[row.name]) - {"results"}

    def start(self, row: Row) -> subprocess.Popen:
        """Start a row's process, which writes what it says to `batch.log` in the row's folder."""
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
        own = {"cwd": ROOT, "env": environment, "start_new_session": True}
        with (folder / "batch.log").open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **own)

    def error(self, row: Row) -> str | None:
        """Why a row whose process has ended did not run through, in one line; None if it did."""
        if not (changed := self._changed(row)):
            return None
        entry = self.ledger(row).entry(self.notebook)
        if entry["status"] in ("ok", "unchanged"):
            return f"{some(changed)} changed while it ran; run it again"
        log = (self.folder(row) / "batch.log").read_text(errors="replace").strip()
        last = log.rpartition("\n")[2] or "it ended without a word"
        return entry.get("error") or last.removeprefix("error: ")

    def gather(self) -> None:
        """Write `results.jsonl`, and one table for each artefact of `collect`, from what is in the rows' folders.

        A table has the columns row, plan_cell, and the parameters that vary in a cell; the rest is taken over as it
        stands, character by character. A table of which nothing is left is removed.
        """
        finished = self.finished()
        results = [self._result(row, row in finished) for row in self.rows]
        lines = [json.dumps(result, ensure_ascii=False) + "\n" for result in results if result]
        write_text(self.out / RESULTS, "".join(lines))
        varies = list(dict.fromkeys(name for row in self.rows for name in row.varies))
        for artifact in self.plan.collect:
            tables, path = [], self.out / artifact
            for row in finished:
                file = self.folder(row) / "artifacts" / self.notebook.number / artifact
                if file.exists():
                    table = pd.read_csv(file, dtype=str, keep_default_na=False)
                    about = {"row": row.name, "plan_cell": row.cell}
                    about |= {name: row.parameters.get(name) for name in varies}
                    tables.append(pd.DataFrame(about, table.index, dtype=object).join(table))
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


def _side_by_side(batch: Batch, todo: Sequence[Row], jobs: int) -> Iterator[Row]:
    """Run rows, `jobs` at a time; yield each as it ends. Who stops early ends those that run."""
    waiting = list(todo)
    running: list[tuple[Row, subprocess.Popen]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                row = waiting.pop(0)
                running.append((row, batch.start(row)))
            time.sleep(0.2)
            for row, process in list(running):
                if process.poll() is not None:
                    running.remove((row, process))
                    yield row
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def _as_settings(row: Row) -> list[str]:
    """A row's parameters as the command line takes them."""
    return [f"{name}={value}" for name, value in row.parameters.items()]


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 batch PLAN --out DIR`; see `run_batch`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 batch", allow_abbrev=False)
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="TOML; see data/plans/")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--jobs", type=int, metavar="N", help="rows at a time; default: by cores")
    add("--only", type=read_names, default=[], metavar="ROWS", help="'flip-*,lazy-11', not all")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops a batch as Ctrl-C does
    return run_batch(given.plan, given.out, given.jobs, given.only)
