"""The solutions: each runs from top to bottom, and each exercise has one."""

import re

import nbformat
import papermill
import pytest

from perception_r1.common.files import NOTEBOOKS, ROOT

SOLUTIONS = NOTEBOOKS / "solutions"
NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
EXERCISE = re.compile(r"\*\*(\d\d\.\d)\*\*")


def cells(path, kind):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def solution(name):
    return SOLUTIONS / f"{name}_solutions.ipynb"


def test_each_notebook_has_its_solutions_and_no_others_are_there():
    found = sorted(path.stem for path in SOLUTIONS.glob("*.ipynb"))
    assert len(NAMES) == 5 and found == [f"{name}_solutions" for name in NAMES]


def test_it_runs_from_top_to_bottom(name, solution, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    papermill.execute_notebook(
        str(solution),
        str(tmp_path / solution.name),
        kernel_name="python3",
        cwd=str(ROOT if name[:2] in ("01", "04") else SOLUTIONS),  # both must do
        progress_bar=False,
    )
    done = nbformat.read(tmp_path / solution.name, as_version=4)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


def test_every_exercise_is_solved_and_nothing_else(name, solution):
    prose = [cell.source for cell in cells(NOTEBOOKS / f"{name}.ipynb", "markdown")]
    start = next(k for k, text in enumerate(prose) if text.startswith("## Exercises"))
    asked = {number for text in prose[start:] for number in EXERCISE.findall(text)}
    headed = [EXERCISE.match(cell.source) for cell in cells(solution, "markdown")]
    solved = [found[1] for found in headed if found]
    assert asked and solved == sorted(asked)
    everywhere = {
        number for cell in cells(solution, "markdown") for number in EXERCISE.findall(cell.source)
    }
    assert everywhere == asked


def test_each_exercise_is_restated_in_its_words(name, solution):
    """So that a change to an exercise does not leave its solution behind."""
    prose = "\n\n".join(cell.source for cell in cells(NOTEBOOKS / f"{name}.ipynb", "markdown"))
    told = {m[1]: text for text in prose.split("\n\n") if (m := EXERCISE.match(text))}
    restated = {
        found[1]: cell.source.split("\n\n")[0]
        for cell in cells(solution, "markdown")
        if (found := EXERCISE.match(cell.source))
    }
    assert restated == told


def test_it_names_its_notebook_and_is_committed_without_outputs(name, solution):
    whole = nbformat.read(solution, as_version=4)
    title = cells(NOTEBOOKS / f"{name}.ipynb", "markdown")[0].source.splitlines()[0]
    assert whole.cells[0].source.startswith(f"# Solutions: {title.removeprefix('# ')}\n")
    assert f"(../{name}.ipynb)" in whole.cells[0].source
    assert whole.metadata.kernelspec.name == "python3"
    for cell in whole.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None and not cell.outputs
