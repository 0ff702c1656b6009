"""Batches of one notebook: plans, rows in processes of their own, kills and resuming, gathered tables, bad input."""

import csv
import itertools
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1.__main__ import main
from perception_r1.common.errors import InputError
from perception_r1.common.files import ROOT
from perception_r1.notebook import batch, resume
from perception_r1.notebook.notebook_run import NotebookRun
from perception_r1.study.plans import Plan, read_results, rows_of
from tests.conftest import PARAMETERS, alive
from tests.stub_server import until

NUMBER = PARAMETERS + "x: int = 1  # a number\n"
WORD = NUMBER + 'word: str = "none"  # any text\n'
GOOD = {"name": "a", "x": [1, 2]}


def write_plan(folder: Path, *cells: dict, **fields: object) -> Path:
    """Write `plan.toml` for the notebooks of `write_notebook`; TOML takes these values as JSON writes them."""
    about = {"title": "Squares", "notebook": "1", "notebooks": "notebooks", "profile": "smoke"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (about | fields).items()]
    for cell in cells:
        lines += ["[[cells]]", *(f"{key} = {json.dumps(value)}" for key, value in cell.items())]
    path = folder / "plan.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_plan(*cells: dict, **fields: object) -> Plan:
    return Plan(**{"title": "Squares", "notebook": "1", "cells": list(cells), **fields})


def run(plan: Path, out: Path, *more: str, jobs: int = 1) -> int:
    return main(["batch", str(plan), "--out", str(out), "--jobs", str(jobs), *more])


def statuses(out: Path) -> dict[str, str]:
    return {line["row"]: line["status"] for line in read_results(out)}


def table_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def fake(plan: Path, out: Path, row: str, reads: Path | None = None, **tables: str) -> None:
    """Leave what a finished row leaves, without a kernel; tables by their names."""
    rows = batch.Batch(plan, out)
    (chosen,) = rows.chosen([row])
    made = NotebookRun("01", "smoke", str(rows.folder(chosen)))
    if reads:
        made.uses(reads)
    for name, text in (tables | {"result": "whole"}).items():
        made.path("result.txt" if name == "result" else f"{name}.csv").write_text(text)
    made.finish("found it")
    for end in (".ipynb", ".html"):
        (made.out / f"01_test{end}").touch()
    kept = rows.ledger(chosen)
    kept.begin()
    digests = kept.made_of(rows.notebook, rows.given[row])
    kept.note(rows.notebook, "ok", made_of=digests, seconds=1.0, finding="found it")


def script(folder: Path, code: str) -> str:
    """An executable that stands in for Python: no kernel has to start."""
    (folder / "python").write_text(f"#!/bin/sh\n{code}\n")
    (folder / "python").chmod(0o755)
    return str(folder / "python")


def test_lists_are_crossed_and_the_first_varies_fastest():
    plan = make_plan(
        {"name": "both", "x": [1, 2], "word": ["a b", "c/d"], "rate": 0.5},
        {"name": "one", "x": 7},
        parameters={"rate": 0.1, "flag": True},
    )
    rows = rows_of(plan)
    names = ["both-1-a-b", "both-2-a-b", "both-1-c-d", "both-2-c-d", "one"]
    assert [row.name for row in rows] == names
    assert rows[2].parameters == {"rate": 0.5, "flag": True, "x": 1, "word": "c/d"}
    assert rows[4].parameters == {"rate": 0.1, "flag": True, "x": 7}  # the cell's own value counts
    assert rows[2].varies == ("x", "word") and rows[4].varies == ()


names = st.text("abcXYZ019_", min_size=1, max_size=4)
anything = st.one_of(st.booleans(), st.integers(), st.floats(), st.text("a./ -é\0", max_size=3))
values = st.one_of(anything, st.lists(anything, max_size=3))
keys = names.map("p".__add__)  # never "name", which is the cell's
cells = st.lists(
    st.tuples(names, st.dictionaries(keys, values, max_size=3)), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cells)
def test_each_combination_has_a_row_named_as_a_folder_may_be_or_the_plan_is_refused(cells):
    try:
        rows = rows_of(make_plan(*({"name": name, **lists} for name, lists in cells)))
    except InputError as error:
        assert "named" in str(error) or "empty list" in str(error)
        return
    assert len({row.name for row in rows}) == len(rows)
    assert all(Path(row.name).name == row.name and "\0" not in row.name for row in rows)
    lists = [[v if isinstance(v, list) else [v] for v in c.values()] for _, c in cells]
    combined = [list(c) for parts in lists for c in itertools.product(*parts)]
    assert sorted(map(repr, combined)) == sorted(repr([*row.parameters.values()]) for row in rows)


def test_rows_run_at_the_same_time_and_a_failed_one_is_run_again(write_notebook, tmp_path, capsys):
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
        "run.path('squares.csv').write_text(f'square,word,flag\\n{x * x},{word},{flag!r}\\n')\n"
        "run.path('seen.txt').write_text(os.environ['OMP_NUM_THREADS'])"
    )
    write_notebook("01", code, WORD + "flag: bool = False\n")
    left = {"name": "left", "x": [1], "flag": True}
    middle = {"name": "middle", "x": [3], "word": "old"}
    right = {"name": "right", "x": [2]}
    more = {"cores": 2, "collect": ["squares.csv"]}
    plan, out = write_plan(tmp_path, left, middle, right, **more), tmp_path / "out"

    assert run(plan, out, jobs=2) == 1
    why = "middle-3 failed: cell [4] `import os, time`: ValueError: not mended\n"
    assert capsys.readouterr().err == why
    assert statuses(out) == {"left-1": "ok", "middle-3": "failed", "right-2": "ok"}
    first, failed, _ = read_results(out)
    assert (first["cell"], first["parameters"]) == ("left", {"x": 1, "flag": True})
    assert first["seconds"] > 0 and first["versions"]["trl"] and failed["error"] in why
    assert table_of(out / "squares.csv") == [
        ["row", "plan_cell", "x", "square", "word", "flag"],
        ["left-1", "left", "1", "1", "none", "True"],
        ["right-2", "right", "2", "4", "none", "False"],
    ]
    seen = [(out / "rows" / row / "artifacts/01/seen.txt") for row in ("left-1", "right-2")]
    assert [path.read_text() for path in seen] == ["2", "2"]  # cores

    (tmp_path / "mended").touch()
    write_plan(tmp_path, middle | {"word": "new"}, right, **more)
    assert run(plan, out, jobs=2) == 0
    assert table_of(out / "squares.csv")[1][:5] == ["middle-3", "middle", "3", "9", "new"]
    assert [(tmp_path / f"began-{n}").read_text() for n in (1, 2, 3)] == ["+", "+", "++"]
    middle_3, right_2 = read_results(out)
    assert middle_3["plan_sha256"] != right_2["plan_sha256"]  # of the plan as it was when each ran


def test_a_stopped_batch_ends_its_rows_and_goes_on_where_it_was(
    write_notebook, tmp_path, monkeypatch
):
    write_notebook("01", parameters=NUMBER)
    plan, out, pid = write_plan(tmp_path, GOOD), tmp_path / "out", tmp_path / "pid"
    fake(plan, out, "a-1")

    def stop():
        until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", script(tmp_path, f"echo $$ > {pid}; exec sleep 300"))
        thread.start()
        assert run(plan, out) == 130
    thread.join()
    assert not alive(int(pid.read_text()))
    assert statuses(out) == {"a-1": "ok"}
    assert run(plan, out) == 0
    assert statuses(out) == {"a-1": "ok", "a-2": "ok"}


def test_a_row_whose_process_fails_is_reported_with_its_last_word_and_tried_again(
    write_notebook, tmp_path, capsys, monkeypatch
):
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, GOOD), tmp_path / "out"
    code = "echo one\necho error: another\nexit 1"
    monkeypatch.setattr(sys, "executable", script(tmp_path, code))
    for _ in range(2):
        assert run(plan, out) == 1
        assert capsys.readouterr().err == "a-1 failed: another\na-2 failed: another\n"
        assert read_results(out) == []


def test_what_makes_a_result_old(write_notebook, tmp_path, monkeypatch):
    """Code, data, what a notebook read or wrote, its pages; not results that were recorded meanwhile."""

    def finished() -> list[str]:
        return [row.name for row in batch.Batch(plan, out).finished()]

    data, outside = tmp_path / "data", tmp_path / "input.txt"
    (data / "results").mkdir(parents=True)
    monkeypatch.setattr(resume, "DATA", data)
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, GOOD), tmp_path / "out"
    fake(plan, out, "a-1", reads=outside)
    assert finished() == ["a-1"]
    (data / "results" / "study.csv").write_text("new")
    assert finished() == ["a-1"]
    row = out / "rows" / "a-1"
    for path in (data / "base", outside, row / "01_test.html", row / "artifacts/01/result.txt"):
        before = path.read_text() if path.exists() else None
        path.unlink() if before == "" else path.write_text("other")
        assert finished() == [], path
        path.unlink(missing_ok=True) if before is None else path.write_text(before)
        assert finished() == ["a-1"]
    write_notebook("01", "1 + 1", parameters=NUMBER)
    assert finished() == []
    write_plan(tmp_path, GOOD, profile="laptop")
    with pytest.raises(InputError, match="holds a run of profile 'smoke'; choose another --out"):
        finished()


def test_tables_hold_finished_rows_of_the_plan_and_no_others(
    write_notebook, tmp_path, capsys, monkeypatch
):
    """Cells stay as they are: an answer may be the word "None", or begin with a zero; every digit counts."""
    write_notebook("01", parameters=WORD)
    more = {"collect": ["squares.csv", "part.csv"]}
    cells = [{"name": "a", "x": [1, 2]}, {"name": "b", "x": 7, "word": ["w", "v"]}]
    plan, out = write_plan(tmp_path, *cells, **more), tmp_path / "out"
    odd = ["None", "007", "0.1234567890123456789", "NA", ""]
    squares = {"a-1": odd, "a-2": [], "b-v": ["1e-05"]}
    for row, lines in squares.items():
        text = "\n".join(["square,n", *(f"{line},x" for line in lines)]) + "\n"
        fake(plan, out, row, squares=text, part="n\n1\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    write_plan(tmp_path, *cells, **more, cores=3)
    assert main(["batch", str(plan), "--out", str(out), "--only", " a-*,b-v"]) == 0
    assert "3 rows, 3 done; 2 at a time" in capsys.readouterr().out
    head = ["row", "plan_cell", "x", "word"]
    assert table_of(out / "squares.csv") == [
        [*head, "square", "n"],
        *(["a-1", "a", "1", "", cell, "x"] for cell in odd),
        ["b-v", "b", "7", "v", "1e-05", "x"],
    ]
    parts = table_of(out / "part.csv")
    assert parts[:2] == [[*head, "n"], ["a-1", "a", "1", "", "1"]] and len(parts) == 4

    plan = write_plan(tmp_path, {"name": "a", "x": [2, 3]}, {"name": "b", "x": 8}, **more)
    batch.Batch(plan, out).gather()
    assert len(table_of(out / "squares.csv")) == 1  # a-2 had no line, a-3 and b have not been run
    assert [row[0] for row in table_of(out / "part.csv")[1:]] == ["a-2"]
    plan = write_plan(tmp_path, {"name": "new", "x": 5}, **more)
    batch.Batch(plan, out).gather()
    assert not (out / "squares.csv").exists() and read_results(out) == []


def test_a_bad_plan_is_refused_by_name(write_notebook, tmp_path):
    for cell, fields, message in (
        (GOOD, {"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"name": "a b", "x": 1}, {}, "cells.0.name: String should match pattern"),
        ({"name": "a", "x": [1, "one"]}, {}, "01_test.ipynb takes x as int, and 'one' is none"),
        (GOOD, {"profile": "huge"}, "no profile 'huge'"),
        (GOOD, {"notebook": "09"}, "no notebook 09"),
    ):
        write_notebook("01", parameters=WORD)
        plan = write_plan(tmp_path, cell, **fields)
        with pytest.raises(InputError, match=f"{plan}: .*{message}"):
            batch.Batch(plan, tmp_path / "out")


def test_bad_arguments_are_refused_in_one_line(write_notebook, tmp_path, capsys):
    write_notebook("01", parameters=NUMBER)
    plan, out = write_plan(tmp_path, GOOD), tmp_path / "out"
    for more, says in (
        (("--only", "a-1,b-*"), "plan.toml has no row b-*; its rows are a-1, a-2"),
        (("--out", str(ROOT / "data" / "mine")), "holds the project's own files"),
    ):
        assert run(plan, out, *more) == 2
        printed = capsys.readouterr().err
        assert says in printed and printed.count("\n") == 1 and not out.exists()
