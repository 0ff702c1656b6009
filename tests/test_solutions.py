"""The solutions: each runs from top to bottom, and each exercise has one."""

import re

import nbformat
import papermill
import pytest

from perception_r1.common.files import NOTEBOOKS, ROOT

SOLUTIONS = NOTEBOOKS / "solutions"
NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
EXERCISE = re.compile(r"\*\*(\d\d\.\d)\*\*")


def prose(path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def test_each_notebook_has_its_solutions_and_no_others_are_there():
    names = sorted(path.stem for path in SOLUTIONS.glob("*.ipynb"))
    assert len(NAMES) == 5 and names == [f"{name}_solutions" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = papermill.execute_notebook(
        str(SOLUTIONS / f"{name}_solutions.ipynb"),
        str(tmp_path / "done.ipynb"),
        kernel_name="python3",
        cwd=str(ROOT if name[:2] in ("01", "04") else SOLUTIONS),  # both must do
        progress_bar=False,
        shutdown_kernel="immediate",
    )
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


@pytest.mark.parametrize("name", NAMES)
def test_it_solves_every_exercise_of_its_notebook_and_is_committed_without_outputs(name):
    path = SOLUTIONS / f"{name}_solutions.ipynb"
    texts = prose(NOTEBOOKS / f"{name}.ipynb")
    exercises = {number for text in texts for number in EXERCISE.findall(text)}
    headings = [EXERCISE.match(text) for text in prose(path)]
    assert exercises and [heading[1] for heading in headings if heading] == sorted(exercises)
    solution = nbformat.read(path, as_version=4)
    title = texts[0].splitlines()[0].removeprefix("# ")
    assert solution.cells[0].source.startswith(f"# Solutions: {title}\n")
    assert f"(../{name}.ipynb)" in solution.cells[0].source
    code = [cell for cell in solution.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.execution_count is not None or cell.outputs]
