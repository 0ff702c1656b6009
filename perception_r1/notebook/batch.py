"""Papermill batches: one notebook executed many times with other parameters, as a plan file says.

    python -m perception_r1 batch PLAN --out DIR [--jobs N] [--only 'flip-*,lazy-*']

A plan is a small TOML file; `data/plans/` holds those of this project's studies, and says in `[analysis]`, before
anything is run, what will be compared. Each row of it (cells x lists of values) is one run of the notebook by
`runner`, in a process and a folder of its own, `DIR/rows/<row>/`. Finished rows stand in `DIR/results.jsonl`, a line
each; the same command goes on where a stopped or killed batch was. Artefacts named in `collect` end up in `DIR`,
one table each, with the rows' parameters as columns.
"""

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from perception_r1.common import checkpoints, profiles, provenance
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import (
    NOTEBOOKS,
    ROOT,
    alone,
    read_json,
    sha256,
    whole,
    write_json,
    write_text,
)
from perception_r1.notebook import pages
from perception_r1.notebook.discovery import Notebook, discover, read_names, read_parameters, select
from perception_r1.notebook.runner import check_out
from perception_r1.study.plans import RESULTS, Plan, Value, read_plan, read_results

ROW_LOCK = ".row"  # in a row's folder; its process holds it, also when the batch is gone
LONGEST_NAME = 200  # bytes


@dataclass(frozen=True)
class Row:
    """One execution: its name, the cell it belongs to, and all of its parameters."""

    name: str
    cell: str
    parameters: Mapping[str, Value]
    varies: tuple[str, ...] = field(default=())  # what tells it from the other rows of its cell


def rows_of(plan: Plan) -> list[Row]:
    """The rows of a plan, in the order in which they are run.

    Raises:
        InputError: two rows have the same name, one has too long a name for a folder, or an empty list leaves a
            cell without rows.
    """
    rows: list[Row] = []
    for cell in plan.cells:
        given = {**plan.parameters, **cell.__pydantic_extra__}
        lists = {k: v if isinstance(v, list) else [v] for k, v in given.items()}
        varies = tuple(k for k, v in given.items() if isinstance(v, list))
        if empty := [k for k, v in lists.items() if not v]:
            raise InputError(f"cell {cell.name}: {some(empty)} is an empty list; give a value")
        for values in itertools.product(*reversed(lists.values())):
            parameters = dict(zip(reversed(lists), values, strict=True))
            parameters = {k: parameters[k] for k in lists}
            parts = [cell.name, *(re.sub(r"[^\w.]+", "-", str(parameters[k])) for k in varies)]
            rows.append(Row("-".join(parts), cell.name, parameters, varies))
    names = [row.name for row in rows]
    if long := [name for name in names if len(name.encode()) > LONGEST_NAME]:
        raise InputError(
            f"the row named {long[0][:40]}... has too long a name for a folder; make a cell of its own for each of "
            "these values"
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two rows are named {some(twice)}; give cells other names or values")
    return rows


def run_batch(plan_file: Path, out: Path, jobs: int | None = None, only: Sequence[str] = ()) -> int:
    """Run every row of a plan that has not been run yet, some side by side, and gather what they wrote.

    Args:
        plan_file: see `Plan`.
        out: the batch's folder.
        jobs: rows at a time; None: as many as the machine has cores for. Where there are GPUs, they take turns.
        only: names of rows, or shell patterns of them; the other rows are left for another time, or machine.

    Returns:
        0 if all of these rows have run, 1 if one failed (the others are run all the same; the same command tries it
        again), 130 if stopped.

    Raises:
        InputError: nothing was run: the plan, a parameter or `out` cannot be used, or `out` holds rows of other code.
    """
    plan, out = read_plan(plan_file), out.resolve()
    try:
        notebook, rows = _checked(plan, plan_file.parent)
    except InputError as error:
        raise InputError(f"{plan_file}: {str(error).replace('--param ', '')}") from error
    check_out(out, notebook.path.parent)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}; give 1 or more, or leave it out")
    if lost := [p for p in only if not any(fnmatchcase(row.name, p) for row in rows)]:
        names = some([row.name for row in rows])
        raise InputError(f"{plan_file} has no row {some(lost)}; its rows are {names}")
    jobs = jobs or max(1, _cores() // plan.cores)
    with alone(out, f"another batch runs in {out}; wait for it, or choose another --out"):
        _same_code(plan, notebook, out)
        _mend(out / RESULTS)
        done = _finished(rows, out)
        asked = [row for row in rows if not only or any(fnmatchcase(row.name, p) for p in only)]
        todo = [row for row in asked if row.name not in done]
        print(f"{plan.title}: {len(asked)} rows, {len(asked) - len(todo)} done; {jobs} at a time")
        print(f"Writing to {out}", flush=True)
        stopped = _Batch(plan, sha256(plan_file), notebook, out, jobs).run(todo, len(asked))
        gather(plan, rows, out)
        last = {line["row"]: line for line in read_results(out)}
    failed = [last[row.name] for row in asked if last.get(row.name, {}).get("status") == "failed"]
    for line in failed:
        print(f"{line['row']} failed: {line['error']}", file=sys.stderr)
    if stopped:
        print("Stopped; what was finished is kept, and the same command goes on", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _checked(plan: Plan, place: Path) -> tuple[Notebook, list[Row]]:
    """The notebook and rows of a plan, if they can be run."""
    profiles.load_profile(plan.profile)
    if not plan.notebook.strip():
        raise InputError('notebook is empty; name one, as in "04"')
    folder = (place / plan.notebooks).resolve() if plan.notebooks else NOTEBOOKS
    (notebook,) = select(discover(folder), [plan.notebook])
    tables = [_table(pattern) for pattern in plan.collect]
    if twice := {name for name in tables if tables.count(name) > 1}:
        raise InputError(f"collect would write {some(twice)} twice; name only one of the patterns")
    if nameless := [name for name in tables if name.startswith(".")]:
        raise InputError(f"collect would write {some(nameless)}; begin a pattern with a name")
    rows = rows_of(plan)
    for row in rows:
        read_parameters([notebook], _texts(row))
    return notebook, rows


class _Batch:
    """The rows that are under way."""

    def __init__(self, plan: Plan, digest: str, notebook: Notebook, out: Path, jobs: int):
        self.plan, self.digest, self.notebook = plan, digest, notebook
        self.out, self.jobs, self.code = out, jobs, sha256(ROOT / "perception_r1")
        self.running: dict[int, tuple[Row, subprocess.Popen]] = {}  # by slot
        self.stop = False

    def run(self, todo: list[Row], total: int) -> bool:
        """Run rows until none is left or a signal comes; return whether one came."""
        import torch  # only for the number of GPUs

        gpus = torch.cuda.device_count()
        todo, begun, first = list(todo), time.perf_counter(), len(todo)
        bar = tqdm(total=total, initial=total - len(todo), desc="rows", unit="row", disable=None)
        with _signals(self), bar:
            while (todo and not self.stop) or self.running:
                for slot in range(self.jobs):
                    if slot not in self.running and todo and not self.stop:
                        row = todo.pop(0)
                        process = self._start(row, slot % gpus if gpus else None)
                        if process is None:
                            todo.append(row)
                            continue
                        self.running[slot] = row, process
                        if self.stop:  # while it was being started
                            process.terminate()
                for slot, (row, process) in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[slot]
                        if self.stop and process.returncode:
                            continue  # not finished, not failed
                        line = self._note(row, process.returncode)
                        left = len(todo) + len(self.running)
                        each = (time.perf_counter() - begun) / (first - left)
                        bar.write(_said(line, left, each * left))
                        bar.update()
                        sys.stdout.flush()
                time.sleep(0.2)
        return self.stop

    def _start(self, row: Row, gpu: int | None) -> subprocess.Popen | None:
        """The row's process; None if one that outlived a killed batch still runs."""
        folder = self.out / "rows" / row.name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "perception_r1", "run", "--only", self.notebook.number]
        command += ["--notebooks", str(self.notebook.path.parent)]
        command += ["--profile", self.plan.profile, "--out", str(folder), "--resume"]
        for text in _texts(row):
            command += ["--param", text]
        threads = str(self.plan.cores)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        # kernels would import an installed package, which may be that of another clone
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        )
        if gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if any(visible) else str(gpu)
        with (folder / ROW_LOCK).open("w") as lock, (folder / "batch.log").open("a") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            except OSError:
                pass  # a file system without locks
            return subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock.fileno()],
            )  # fmt: skip

    def _note(self, row: Row, status: int) -> dict:
        """Append what became of a row: one line, whole or torn off at the end."""
        entry, record = {}, {}
        error = f"its process ended with status {status}; see batch.log in its folder"
        with suppress(InputError, KeyError, TypeError):
            record = read_json(self.out / "rows" / row.name / "run.json")
            entry = record["notebooks"][self.notebook.number]
        good = status == 0 and entry.get("status") in ("ok", "unchanged")
        if good and sha256(ROOT / "perception_r1") != self.code:
            good, entry = False, {**entry, "error": "the package changed while the batch ran"}
        line = {
            "row": row.name, "cell": row.cell, "status": "ok" if good else "failed",
            "parameters": dict(row.parameters), "seconds": entry.get("seconds"),
            "error": None if good else entry.get("error", error), "finding": entry.get("finding"),
            "finished": provenance.now(), "commit": record.get("commit"), "plan_sha256": self.digest,
            "machine": record.get("machine"), "versions": record.get("versions"),
        }  # fmt: skip
        checkpoints.append(self.out / RESULTS, json.dumps(line, ensure_ascii=False) + "\n")
        return line


def _said(line: dict, left: int, seconds: float) -> str:
    """A finished row for people, with the time that the others will take."""
    rest = f"{left} left, about {pages.duration(seconds)}" if left else ""
    took = pages.duration(line["seconds"])
    return f"  {line['row']:<36} {line['status']:<7} {took:<12} {rest}".rstrip()


def _mend(path: Path) -> None:
    """Take away a last line that a kill left without its end."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n") and text:
        with whole(path) as part:
            part.write_bytes(text[: text.rfind(b"\n") + 1])


def _finished(rows: list[Row], out: Path) -> set[str]:
    """Names of the rows that have run, with the very parameters that they have now."""
    ran = {
        line["row"]: json.dumps(line["parameters"])  # as text, in which 1 is not true
        for line in read_results(out)
        if line["status"] == "ok"
    }
    return {row.name for row in rows if ran.get(row.name) == json.dumps(dict(row.parameters))}


def gather(plan: Plan, rows: list[Row], out: Path) -> list[Path]:
    """Write one table for each artefact of `collect`, from all finished rows, in the order of the plan.

    Each has the columns row, plan_cell, the parameters that vary in a cell, and for a pattern, artifact; the rest is
    taken over as it stands, character by character. A table of which nothing is left is removed.

    Raises:
        InputError: an artefact is no table.
    """
    done = _finished(rows, out)
    varies = list(dict.fromkeys(name for row in rows for name in row.varies))
    written = []
    for pattern in plan.collect:
        tables = []
        for row in (row for row in rows if row.name in done):
            folder = out / "rows" / row.name / "artifacts" / plan.notebook.zfill(2)
            for file in sorted(folder.glob(pattern)):
                about = {"row": row.name, "plan_cell": row.cell}
                about |= {name: row.parameters.get(name) for name in varies}
                about |= {"artifact": file.stem} if "*" in pattern else {}
                try:
                    table = pd.read_csv(file, dtype=str, keep_default_na=False)
                except (OSError, ValueError) as error:
                    raise InputError(f"cannot gather {file}: {error}; see the row's run") from error
                added = pd.DataFrame([about] * len(table), columns=list(about), dtype=object)
                tables.append(pd.concat([added, table], axis=1))
        path = out / _table(pattern)
        if tables:
            write_text(path, pd.concat(tables, ignore_index=True).to_csv(index=False))
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def _table(pattern: str) -> str:
    """The table that the artefacts of a pattern make: outcomes_*.csv, outcomes.csv."""
    return re.sub(r"_?\*", "", pattern)


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _texts(row: Row) -> list[str]:
    """Parameters as the command line takes them."""
    return [
        f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in row.parameters.items()
    ]


def _same_code(plan: Plan, notebook: Notebook, out: Path) -> None:
    """Keep what the rows are run by; refuse to go on with other code or profile, which would mix two studies."""
    path = out / "batch.json"
    sources = hashlib.sha256(json.dumps(notebook.sources).encode()).hexdigest()
    now = {"notebook": sources, "package": sha256(ROOT / "perception_r1")}
    if path.exists():
        before = read_json(path)
        if isinstance(before, dict) and before.get("profile") != plan.profile:
            raise InputError(
                f"{out} holds rows of profile {before.get('profile')!r}, the plan says {plan.profile!r}; choose "
                "another --out"
            )
        if not isinstance(before, dict) or any(before.get(k) != v for k, v in now.items()):
            commit = before.get("commit") if isinstance(before, dict) else None
            raise InputError(
                f"{out} holds rows run by other code (commit {commit}); go on from a clone of that commit, or "
                "choose another --out"
            )
        return
    write_json(path, now | {"profile": plan.profile, "commit": provenance.commit()})


@contextmanager
def _signals(batch: _Batch) -> Iterator[None]:
    """SIGTERM and Ctrl-C let no new row begin, and end those that run after a whole training step."""

    def stop(*_: object) -> None:
        batch.stop = True
        for _, process in batch.running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 batch PLAN --out DIR`; see `run_batch`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 batch", allow_abbrev=False)
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="TOML; see data/plans/")
    add("--out", type=str.strip, required=True, metavar="DIR")
    add("--jobs", type=int, metavar="N", help="rows at a time; default: by cores")
    add("--only", type=read_names, metavar="ROWS", help="these rows, not all: 'flip-*,lazy-11'")
    given = parser.parse_args(arguments)
    if not given.out:
        raise InputError("--out is empty; give it a value")
    return run_batch(given.plan, Path(given.out), given.jobs, given.only or [])
