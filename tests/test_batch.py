"""Batches of one notebook: plans, rows in processes of their own, kills and resuming, gathered tables, bad input."""

import csv
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1.__main__ import main
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT, alone
from perception_r1.notebook import batch
from tests.conftest import PARAMETERS
from tests.test_runner import alive

NUMBER = PARAMETERS + "x: int = 1  # a number\n"
WORD = NUMBER + 'word: str = "none"  # any text\n'


def write_plan(folder: Path, *cells: dict, **fields: object) -> Path:
    """Write `plan.toml` for the notebooks of `write_notebook`; TOML takes these values as JSON writes them."""
    about = {"title": "Squares", "notebook": "1", "notebooks": "notebooks", "profile": "smoke"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (about | fields).items()]
    for cell in cells:
        lines += ["[[cells]]", *(f"{key} = {json.dumps(value)}" for key, value in cell.items())]
    path = folder / "plan.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_plan(*cells: dict, **fields: object) -> batch.Plan:
    return batch.Plan(**{"title": "Squares", "notebook": "1", "cells": list(cells), **fields})


def run(plan: Path, out: Path, jobs: int = 1) -> int:
    return main(["batch", str(plan), "--out", str(out), "--jobs", str(jobs)])


def lines_of(out: Path) -> list[dict]:
    """Every line of a batch's results; each must be JSON."""
    path = out / "results.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    assert lines.pop() == ""  # the file ends with a line's end
    return [json.loads(line) for line in lines]


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300  # a busy machine is slow
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def statuses(out: Path) -> dict[str, str]:
    return {line["row"]: line["status"] for line in lines_of(out)}


def table_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def fake(out: Path, row: batch.Row, **artifacts: str) -> None:
    """Leave what a finished row leaves, without running it; CSV artefacts by their names."""
    folder = out / "rows" / row.name / "artifacts" / "01"
    folder.mkdir(parents=True)
    for name, text in artifacts.items():
        (folder / f"{name}.csv").write_text(text)
    line = {"row": row.name, "cell": row.cell, "status": "ok", "parameters": dict(row.parameters)}
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.fixture
def rows_fail(monkeypatch):
    """Rows whose process ends at once with status 1: quick, where it matters only what the batch does then."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))


@pytest.fixture
def start():
    """Return a function that starts a batch by the command line; those that a failed test left are killed."""
    started = []

    def start(plan: Path, out: Path, jobs: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "perception_r1", "batch", str(plan)]
        process = subprocess.Popen(
            [*command, "--out", str(out), "--jobs", str(jobs)],
            cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


# --- rows of a plan --------------------------------------------------------------------------------


def test_lists_are_crossed_and_the_first_varies_fastest():
    plan = make_plan(
        {"name": "both", "x": [1, 2], "word": ["a b", "c/d"], "rate": 0.5},
        {"name": "one", "x": 7},
        parameters={"rate": 0.1, "flag": True},
    )
    rows = batch.rows_of(plan)
    assert [row.name for row in rows] == [
        "both-1-a-b", "both-2-a-b", "both-1-c-d", "both-2-c-d", "one"
    ]  # fmt: skip
    assert [row.cell for row in rows] == ["both"] * 4 + ["one"]
    assert rows[2].parameters == {"rate": 0.5, "flag": True, "x": 1, "word": "c/d"}
    assert rows[4].parameters == {"rate": 0.1, "flag": True, "x": 7}  # the cell's own value counts
    assert rows[2].varies == ("x", "word") and rows[4].varies == ()


names = st.text("abcXYZ019_", min_size=1, max_size=4)
numbers = st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)
anything = st.one_of(st.booleans(), st.integers(), st.floats(), st.text("a./ -é\0", max_size=3))
values = st.one_of(anything, st.lists(anything, max_size=3))
keys = names.map("p".__add__)  # never "name", which is the cell's
calm = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@calm
@given(st.dictionaries(names, st.dictionaries(keys, numbers, max_size=3), min_size=1, max_size=3))
def test_there_is_a_row_for_each_combination(cells):
    rows = batch.rows_of(make_plan(*({"name": name, **lists} for name, lists in cells.items())))
    assert len({row.name for row in rows}) == len(rows)
    for name, lists in cells.items():
        mine = [tuple(row.parameters.values()) for row in rows if row.cell == name]
        assert len(set(mine)) == len(mine) == math.prod(len(v) for v in lists.values())
        assert set(mine) == set(itertools.product(*lists.values()))


@calm
@given(
    st.lists(st.tuples(names, st.dictionaries(keys, values, max_size=3)), min_size=1, max_size=3)
)
def test_names_are_unique_and_name_a_folder_or_the_plan_is_refused(cells):
    try:
        rows = batch.rows_of(make_plan(*({"name": name, **lists} for name, lists in cells)))
    except InputError as error:
        assert "named" in str(error) or "empty list" in str(error)
        return
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert Path(row.name).name == row.name and "\0" not in row.name


@pytest.mark.parametrize("name", [".", ".."])
def test_a_cell_cannot_be_named_as_a_folder_above_its_rows(tmp_path, name):
    """Its row would be run in the batch's own folder, which the batch itself holds: it would wait for ever."""
    plan = write_plan(tmp_path, {"name": name, "x": 1})
    with pytest.raises(InputError):
        batch.rows_of(batch.read_plan(plan))


# --- batches that really run -----------------------------------------------------------------------


def test_rows_run_at_the_same_time_and_a_failed_one_is_run_again(
    write_notebook, tmp_path, capsys, monkeypatch
):
    """Rows 1 and 2 wait for each other; row 3 fails until it is mended; then the plan is changed."""
    code = (
        "import os, time\nfrom pathlib import Path\n"
        f"place = Path({str(tmp_path)!r})\n"
        "with open(place / f'began-{x}', 'a') as file: file.write('+')\n"
        "if x == 3 and not (place / 'mended').exists(): raise ValueError('not mended')\n"
        "end = time.monotonic() + 300\n"
        "while x < 3 and not (place / f'began-{3 - x}').exists():\n"
        "    assert time.monotonic() < end, 'the other row does not run'\n"
        "    time.sleep(0.05)\n"
        "said = f'{x * x},{word},{flag!r},{rate!r},{profile}'\n"
        "run.path('squares.csv').write_text(f'square,said,flag,rate,where\\n{said}\\n')\n"
        "run.path('part_b.csv').write_text('n\\n3\\n')\n"
        "run.path('part_a.csv').write_text('n\\n1\\n2\\n')\n"
        "seen = [os.environ[name] for name in ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')]\n"
        "run.path('seen.txt').write_text(' '.join(seen))"
    )
    write_notebook("01", code, WORD + "flag: bool = False\nrate: float = 1.0\n")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    left = {"name": "left", "x": [1], "flag": True}
    middle = {"name": "middle", "x": [3], "word": "old", "rate": 1e-3}
    right = {"name": "right", "x": [2]}
    more = {"cores": 2, "collect": ["squares.csv", "part_*.csv"]}
    plan, out = write_plan(tmp_path, left, middle, right, **more), tmp_path / "out"

    assert run(plan, out, jobs=2) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"Squares: 3 rows, 0 done; 2 at a time\nWriting to {out}\n")
    progress = [line.split()[:2] for line in said.out.splitlines()[2:]]
    assert sorted(progress) == [["left-1", "ok"], ["middle-3", "failed"], ["right-2", "ok"]]
    assert said.err.startswith("middle-3 failed: cell [4] `import os, time`: ValueError: not mend")
    assert said.err.count("\n") == 1
    assert statuses(out) == {"left-1": "ok", "middle-3": "failed", "right-2": "ok"}
    first = next(line for line in lines_of(out) if line["row"] == "left-1")
    assert (first["cell"], first["parameters"]) == ("left", {"x": 1, "flag": True})
    assert (first["finding"], first["error"]) == ("found it", None)
    assert first["seconds"] > 0 and first["versions"]["trl"]
    assert table_of(out / "squares.csv") == [
        ["row", "plan_cell", "x", "square", "said", "flag", "rate", "where"],
        ["left-1", "left", "1", "1", "none", "True", "1.0", "smoke"],
        ["right-2", "right", "2", "4", "none", "False", "1.0", "smoke"],
    ]
    seen = [(out / "rows" / row / "artifacts/01/seen.txt") for row in ("left-1", "right-2")]
    assert sorted(path.read_text() for path in seen) == ["2 3", "2 5"]  # cores; a GPU each

    (tmp_path / "mended").touch()
    assert run(plan, out, jobs=2) == 0
    said = capsys.readouterr()
    assert "3 rows, 2 done" in said.out and said.err == ""
    assert statuses(out) == {"left-1": "ok", "middle-3": "ok", "right-2": "ok"}
    assert [row[0] for row in table_of(out / "squares.csv")[1:]] == ["left-1", "middle-3", "right-2"]  # fmt: skip
    assert table_of(out / "part.csv")[:5] == [
        ["row", "plan_cell", "x", "artifact", "n"],
        ["left-1", "left", "1", "part_a", "1"],
        ["left-1", "left", "1", "part_a", "2"],
        ["left-1", "left", "1", "part_b", "3"],
        ["middle-3", "middle", "3", "part_a", "1"],
    ]

    write_plan(tmp_path, middle | {"word": "new"}, right, **more)
    assert run(plan, out, jobs=2) == 0
    assert "2 rows, 1 done" in capsys.readouterr().out
    assert table_of(out / "squares.csv")[1:] == [
        ["middle-3", "middle", "3", "9", "new", "False", "0.001", "smoke"],
        ["right-2", "right", "2", "4", "none", "False", "1.0", "smoke"],
    ]
    count = {n: (tmp_path / f"began-{n}").read_text() for n in (1, 2, 3)}
    assert count == {1: "+", 2: "+", 3: "+++"}


def test_a_batch_killed_twice_gives_the_rows_of_one_left_alone(
    write_notebook, tmp_path, capsys, start
):
    """Killed with -9 in row 2, whose process lives on and is waited for; then with SIGTERM in row 3."""
    code = (
        "import os, time\nfrom pathlib import Path\n"
        f"place = Path({str(tmp_path)!r})\n"
        "with open(place / f'began-{x}', 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "end = time.monotonic() + 300\n"
        "while not (place / f'go-{x}').exists():\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.05)\n"
        "run.path('squares.csv').write_text(f'square,root\\n{x * x},{x ** 0.5}\\n')"
    )
    write_notebook("01", code, NUMBER)
    plan = write_plan(tmp_path, {"name": "a", "x": [1, 2, 3]}, collect=["squares.csv"])
    began = [tmp_path / f"began-{n}" for n in range(4)]
    go = [tmp_path / f"go-{n}" for n in range(4)]
    for path in go:
        path.touch()
    assert run(plan, tmp_path / "alone", jobs=2) == 0
    for path in (*go[2:], *began[1:]):
        path.unlink()

    out = tmp_path / "killed"
    first = start(plan, out, jobs=1)
    wait_for(began[2], first)
    assert not began[3].exists()  # one at a time
    capsys.readouterr()
    assert run(plan, out) == 2
    told = capsys.readouterr().err
    assert told == f"error: another batch runs in {out}; wait for it, or choose another --out\n"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    assert statuses(out) == {"a-1": "ok"}

    second = start(plan, out, jobs=2)
    wait_for(began[3], second)  # row 3 need not wait for row 2
    second.send_signal(signal.SIGTERM)
    said, told = second.communicate(timeout=120)
    assert second.returncode == 130
    assert told == "Stopped; what was finished is kept, and the same command goes on\n"
    assert "3 rows, 1 done" in said
    assert statuses(out) == {"a-1": "ok"}
    kernel = int(began[3].read_text())
    assert not alive(kernel)
    began[3].unlink()

    third = start(plan, out, jobs=2)
    wait_for(began[3], third)
    for path in go[2:]:
        path.touch()
    said, told = third.communicate(timeout=240)
    assert (third.returncode, told) == (0, ""), said
    assert len(began[1].read_text().split()) == len(began[2].read_text().split()) == 1
    assert len(lines_of(out)) == 3
    assert (out / "squares.csv").read_bytes() == (tmp_path / "alone/squares.csv").read_bytes()
    of_both = [
        {line["row"]: (line["status"], line["parameters"]) for line in lines_of(folder)}
        for folder in (out, tmp_path / "alone")
    ]
    assert of_both[0] == of_both[1]
    assert of_both[0]["a-2"] == ("ok", {"x": 2})


def test_a_part_of_a_plan_is_run_and_the_rest_at_another_time(write_notebook, tmp_path, capsys):
    code = "run.path('squares.csv').write_text(f'square\\n{x * x}\\n')"
    write_notebook("01", code, parameters=NUMBER)
    plan, out = write_plan(tmp_path, GOOD, collect=["squares.csv"]), tmp_path / "out"
    batch_of = ["batch", str(plan), "--out", str(out), "--jobs", "1"]

    assert main([*batch_of, "--only", " *-2,"]) == 0
    assert "1 rows, 0 done" in capsys.readouterr().out
    assert [row[0] for row in table_of(out / "squares.csv")[1:]] == ["a-2"]
    assert main(batch_of) == 0
    assert "2 rows, 1 done" in capsys.readouterr().out
    assert [row[0] for row in table_of(out / "squares.csv")[1:]] == ["a-1", "a-2"]


def test_a_row_that_a_killed_batch_had_only_just_begun_is_waited_for(
    write_notebook, tmp_path, start
):
    """Its process has not yet taken its folder's lock, and a batch in a warm Python is quicker than that."""
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, {"name": "a", "x": 1}), tmp_path / "out"
    torch.cuda.device_count()  # warm
    first = start(plan, out, jobs=1)
    wait_for(out / "rows" / "a" / "batch.log", first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert batch.run_batch(plan, out, jobs=1) == 0
    assert statuses(out) == {"a": "ok"}


def test_after_a_signal_no_row_begins_and_none_is_waited_for(write_notebook, tmp_path, monkeypatch):
    """The signal comes while the first of two rows is being started, the worst moment."""
    write_notebook("01", parameters=NUMBER)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 5\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    popen, started = subprocess.Popen, []

    def interrupted(command, *arguments, **more):
        process = popen(command, *arguments, **more)
        if command[0] == str(slow):
            started.append(process)
            os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    plan = write_plan(tmp_path, {"name": "a", "x": [1, 2]})
    assert run(plan, tmp_path / "out", jobs=2) == 130
    assert [process.returncode for process in started] == [-signal.SIGTERM]
    assert lines_of(tmp_path / "out") == []


def test_rows_at_a_time_by_default_are_those_that_there_are_cores_for(
    write_notebook, tmp_path, capsys, monkeypatch
):
    write_notebook("01", parameters=NUMBER)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for cores, at_a_time in ((1, 8), (3, 2), (99, 1)):
        plan, out = write_plan(tmp_path, {"name": "a", "x": 1}, cores=cores), tmp_path / str(cores)
        fake(out, *batch.rows_of(batch.read_plan(plan)))
        assert main(["batch", str(plan), "--out", str(out)]) == 0
        assert f"1 rows, 1 done; {at_a_time} at a time" in capsys.readouterr().out


# --- results.jsonl ---------------------------------------------------------------------------------


def test_a_row_whose_process_fails_is_reported_and_tried_again(
    write_notebook, tmp_path, capsys, rows_fail
):
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, {"name": "a", "x": [1, 2]}), tmp_path / "out"
    for times in (1, 2):
        assert run(plan, out) == 1
        told = capsys.readouterr().err
        why = "failed: its process ended with status 1; see batch.log in its folder\n"
        assert told == f"a-1 {why}a-2 {why}"
        assert [line["status"] for line in lines_of(out)] == ["failed"] * 2 * times
    fake(out, batch.rows_of(batch.read_plan(plan))[0])
    found = {line["row"]: line["status"] for line in batch.read_results(out)}
    assert found == {"a-1": "ok", "a-2": "failed"}  # the last of each counts


def torn_batch(write_notebook, folder: Path) -> tuple[Path, Path]:
    """A plan of two rows, and a folder in which one has run and the other's line is torn."""
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(folder, {"name": "a", "x": [1, 2]}), folder / "out"
    for row in batch.rows_of(batch.read_plan(plan)):
        fake(out, row)
    results = out / "results.jsonl"
    results.write_text(results.read_text()[:-20])
    return plan, out


def test_a_torn_last_line_is_ignored_and_its_row_run_again(
    write_notebook, tmp_path, capsys, rows_fail
):
    plan, out = torn_batch(write_notebook, tmp_path)
    assert [line["row"] for line in batch.read_results(out)] == ["a-1"]
    assert run(plan, out) == 1
    assert "2 rows, 1 done" in capsys.readouterr().out
    found = {line["row"]: line["status"] for line in batch.read_results(out)}
    assert found == {"a-1": "ok", "a-2": "failed"}


def test_a_torn_line_does_not_stay_in_the_file(write_notebook, tmp_path, rows_fail):
    """Other readers, pandas among them, want JSON in every line."""
    plan, out = torn_batch(write_notebook, tmp_path)
    run(plan, out)
    assert statuses(out) == {"a-1": "ok", "a-2": "failed"}
    assert pd.read_json(out / "results.jsonl", lines=True)["row"].tolist() == ["a-1", "a-2"]


def test_results_are_read_wherever_the_last_line_was_cut(write_notebook, tmp_path, rows_fail):
    """Also within a character: bytes, not characters, are what a kill leaves."""
    write_notebook("01", parameters=WORD)
    cell = {"name": "a", "x": [1, 2], "word": "déjà vu → 角"}
    plan, out = write_plan(tmp_path, cell), tmp_path / "out"
    assert run(plan, out) == 1
    results = out / "results.jsonl"
    whole = results.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole) - 1):
        results.write_bytes(whole[:end])
        assert [line["row"] for line in batch.read_results(out)] == ["a-1"]


def test_a_separator_of_lines_within_a_value_does_not_hide_a_row(
    write_notebook, tmp_path, rows_fail
):
    """U+2028 and U+0085 end a line for `str.splitlines`, and JSON lets them stand in a string."""
    write_notebook("01", parameters=WORD)
    words = ["one\u2028two", "one\u0085two"]
    cells = [{"name": name, "word": word} for name, word in zip("ab", words, strict=True)]
    plan, out = write_plan(tmp_path, *cells), tmp_path / "out"
    assert run(plan, out) == 1
    assert [line["parameters"]["word"] for line in batch.read_results(out)] == words


# --- tables ----------------------------------------------------------------------------------------

TWO = make_plan(
    {"name": "a", "x": [1, 2]}, {"name": "b", "x": 7, "word": ["w", "v"]},
    collect=["squares.csv", "part_*.csv"],
)  # fmt: skip


def test_tables_hold_finished_rows_of_the_plan_and_no_others(tmp_path):
    rows = batch.rows_of(TWO)
    for row in rows[::-1]:
        x = row.parameters["x"]
        fake(tmp_path, row, squares=f"square\n{x * x}\n", part_2="n\n2\n", part_1="n\n1\n")
    batch.gather(TWO, rows, tmp_path)
    assert table_of(tmp_path / "squares.csv") == [
        ["row", "plan_cell", "x", "word", "square"],
        ["a-1", "a", "1", "", "1"],
        ["a-2", "a", "2", "", "4"],
        ["b-w", "b", "7", "w", "49"],
        ["b-v", "b", "7", "v", "49"],
    ]
    parts = table_of(tmp_path / "part.csv")
    assert parts[0] == ["row", "plan_cell", "x", "word", "artifact", "n"]
    assert parts[1:3] == [["a-1", "a", "1", "", "part_1", "1"], ["a-1", "a", "1", "", "part_2", "2"]]  # fmt: skip

    changed = {"name": "b", "x": 8, "word": ["w"]}
    fewer = make_plan({"name": "a", "x": [2, 3]}, changed, collect=["squares.csv"])
    assert batch.gather(fewer, batch.rows_of(fewer), tmp_path) == [tmp_path / "squares.csv"]
    rest = table_of(tmp_path / "squares.csv")[1:]  # b-w ran with x = 7, a-3 not at all
    assert rest == [["a-2", "a", "2", "", "4"]]


def test_gathering_changes_no_cell(tmp_path):
    """An answer may be the word "None", or a number with a zero in front; and every digit counts."""
    text = [["answer", "value"], ["NA", "0.30000000000000004"], ["None", "1.10"], ["007", ""], ["x, y", "1e-05"],
            ["null", "0.1234567890123456789"]]  # fmt: skip
    rows = batch.rows_of(TWO)
    fake(tmp_path, rows[0], squares="\n".join(f'"{a}",{b}' for a, b in text) + "\n")
    batch.gather(TWO, rows, tmp_path)
    assert [line[4:] for line in table_of(tmp_path / "squares.csv")] == text


def test_a_table_without_lines_leaves_the_order_of_columns(tmp_path):
    rows = batch.rows_of(TWO)
    fake(tmp_path, rows[0], squares="square\n")
    fake(tmp_path, rows[1], squares="square\n4\n")
    batch.gather(TWO, rows, tmp_path)
    assert table_of(tmp_path / "squares.csv") == [
        ["row", "plan_cell", "x", "word", "square"],
        ["a-2", "a", "2", "", "4"],
    ]


def test_no_table_of_rows_that_left_the_plan_stays(tmp_path):
    rows = batch.rows_of(TWO)
    fake(tmp_path, rows[0], squares="square\n1\n")
    batch.gather(TWO, rows, tmp_path)
    other = make_plan({"name": "new", "x": 5}, collect=["squares.csv"])
    assert batch.gather(other, batch.rows_of(other), tmp_path) == []
    assert not (tmp_path / "squares.csv").exists()


def test_an_artefact_that_is_no_table_is_named(tmp_path):
    rows = batch.rows_of(TWO)
    fake(tmp_path, rows[0], squares="")
    with pytest.raises(InputError, match="rows/a-1/artifacts/01/squares.csv"):
        batch.gather(TWO, rows, tmp_path)


# --- bad input -------------------------------------------------------------------------------------

GOOD = {"name": "a", "x": [1, 2]}


def refused(arguments: list, capsys) -> str:
    """Run a batch that cannot be run; return what is said, which is one line."""
    assert main(["batch", *map(str, arguments)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


@pytest.mark.parametrize(
    "cell, fields, message",
    [
        (GOOD, {"colour": "red"}, "plan.toml: colour: Extra inputs are not permitted"),
        (GOOD, {"title": 3}, "plan.toml: title: Input should be a valid string"),
        (GOOD, {"notebook": 1}, "plan.toml: notebook: Input should be a valid string"),
        (GOOD, {"cores": "many"}, "plan.toml: cores: Input should be a valid integer"),
        (GOOD, {"cores": 0}, "plan.toml: cores: Input should be greater than or equal to 1"),
        (GOOD, {"collect": "a.csv"}, "plan.toml: collect: Input should be a valid list"),
        (GOOD, {"collect": ["*.csv"]}, "plan.toml: collect would write .csv; begin a pattern"),
        ({"x": 1}, {}, "plan.toml: cells.0.name: Field required"),
        ({"name": "a b", "x": 1}, {}, "plan.toml: cells.0.name: String should match pattern"),
        ({"name": "a", "x": [[1]]}, {}, "plan.toml: cells.0.x"),
        ({"name": "a", "x": []}, {}, "cell a: x is an empty list; give a value"),
        ({"name": "a", "x": [1, 1]}, {}, "two rows are named a-1; give cells other names or val"),
        ({"name": "a", "y": 1}, {}, "y: no selected notebook has it; there are: x (int)"),
        ({"name": "a", "x": [1, "one"]}, {}, "01_test.ipynb takes x as int, and 'one' is none"),
        ({"name": "a", "profile": "smoke"}, {}, "profile"),
        (GOOD, {"profile": "huge"}, "no profile 'huge'; there are: gpu, laptop, paper, smoke"),
        (GOOD, {"notebook": "09"}, "no notebook 09; there are: 01"),
        (GOOD, {"notebook": ""}, 'plan.toml: notebook is empty; name one, as in "04"'),
        (GOOD, {"notebooks": "nowhere"}, "no notebooks NN_*.ipynb in "),
    ],
)
def test_a_bad_plan_is_refused_before_anything_runs(
    write_notebook, tmp_path, capsys, rows_fail, cell, fields, message
):
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, cell, **fields), tmp_path / "out"
    assert message in refused([plan, "--out", out], capsys)
    assert not out.exists()


def test_every_refusal_of_a_plan_names_the_plan(write_notebook, tmp_path, capsys):
    """A person who has several plans must know which; and nobody gave a `--param`."""
    write_notebook("01", parameters=NUMBER)
    bad = [
        ({"name": "a", "x": []}, {}), ({"name": "a", "x": [1, 1]}, {}), ({"name": "a", "y": 1}, {}),
        ({"name": "a", "x": "one"}, {}), (GOOD, {"profile": "huge"}), (GOOD, {"notebook": "09"}),
    ]  # fmt: skip
    told = [
        refused([write_plan(tmp_path, cell, **fields), "--out", tmp_path / "out"], capsys)
        for cell, fields in bad
    ]
    assert [line for line in told if "plan.toml" not in line or "--param" in line] == []


def test_a_plan_that_is_no_plan_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    told = refused([tmp_path / "none.toml", "--out", out], capsys)
    assert f"cannot read the plan {tmp_path / 'none.toml'}: No such file" in told
    assert "Is a directory" in refused([tmp_path, "--out", out], capsys)
    plan = tmp_path / "plan.toml"
    plan.write_text('title = "Squares\n')
    assert f"{plan} is not TOML: " in refused([plan, "--out", out], capsys)
    plan.write_bytes(b'title = "\xff"\n')
    assert f"{plan} is not TOML: " in refused([plan, "--out", out], capsys)
    plan.write_text('title = "Squares"\nnotebook = "01"\n')
    assert f"{plan}: cells: Field required" in refused([plan, "--out", out], capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--jobs", 0], "--jobs is 0; give 1 or more, or leave it out"),
        (["--jobs", -1], "--jobs is -1; give 1 or more, or leave it out"),
        (["--only", " ,"], "--only is empty; leave it out, or give it a value"),
        (["--only", "a-1,b-*"], "plan.toml has no row b-*; its rows are a-1, a-2"),
        (["--out", ROOT], "holds the project's own files; choose a folder such as"),
        (["--out", ROOT / "data" / "mine"], "holds the project's own files; choose a folder such"),
        (["--out", "/proc/nowhere/mine"], "cannot write /proc/nowhere/mine"),
        (["--out", "/tmp/a{b}"], "braces"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    write_notebook, tmp_path, capsys, arguments, message
):
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, GOOD), tmp_path / "out"
    assert message in refused([plan, "--out", out, *arguments], capsys)
    assert not out.exists()


def test_a_name_too_long_for_a_folder_is_refused(write_notebook, tmp_path, capsys):
    write_notebook("01", parameters=WORD)
    plan = write_plan(tmp_path, {"name": "a", "word": ["w" * 300]})
    assert "name" in refused([plan, "--out", tmp_path / "out"], capsys)


def test_two_artefacts_do_not_end_up_in_one_table(write_notebook, tmp_path, capsys):
    """`part.csv` and `part_*.csv` both make a `part.csv`: the second would overwrite the first."""
    write_notebook("01", parameters=NUMBER)
    plan = write_plan(tmp_path, GOOD, collect=["part.csv", "part_*.csv"])
    for row in batch.rows_of(batch.read_plan(plan)):
        fake(tmp_path / "out", row, part="n\n1\n", part_1="n\n2\n")
    assert "part" in refused([plan, "--out", tmp_path / "out"], capsys)


def test_a_folder_is_for_one_batch_at_a_time(write_notebook, tmp_path, capsys):
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, GOOD), tmp_path / "out"
    with alone(out, "not said"):
        told = refused([plan, "--out", out], capsys)
    assert told == f"error: another batch runs in {out}; wait for it, or choose another --out\n"
    assert not (out / "rows").exists()


def all_done(write_notebook, folder: Path, capsys) -> tuple[Path, Path]:
    """A plan and a folder in which all its rows have run."""
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(folder, GOOD), folder / "out"
    for row in batch.rows_of(batch.read_plan(plan)):
        fake(out, row)
    for _ in range(2):
        assert run(plan, out) == 0
        assert "2 rows, 2 done" in capsys.readouterr().out
    return plan, out


def test_rows_of_other_code_are_not_mixed_in(write_notebook, tmp_path, capsys):
    plan, out = all_done(write_notebook, tmp_path, capsys)
    write_notebook("01", "1 + 1", parameters=NUMBER)
    told = refused([plan, "--out", out], capsys)
    assert f"{out} holds rows run by other code (commit " in told
    assert "go on from a clone of that commit, or choose another --out" in told
    write_notebook("01", parameters=NUMBER)
    assert run(plan, out) == 0
    kept = json.loads((out / "batch.json").read_text())
    (out / "batch.json").write_text(json.dumps(kept | {"package": "0" * 64, "commit": "abc"}))
    capsys.readouterr()
    assert "rows run by other code (commit abc)" in refused([plan, "--out", out], capsys)
    (out / "batch.json").write_text("[]")
    assert "rows run by other code" in refused([plan, "--out", out], capsys)


def test_one_folder_holds_one_profile(write_notebook, tmp_path, capsys):
    """As with single runs: rows of another profile are other rows, though their parameters are the same."""
    plan, out = all_done(write_notebook, tmp_path, capsys)
    write_plan(tmp_path, GOOD, profile="laptop")
    assert "profile" in refused([plan, "--out", out], capsys)
