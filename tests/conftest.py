"""What several test files use: real data where it is present, and small notebooks to run."""

import importlib.util
import io
import os
import sys
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported

import hypothesis
import nbformat
import pytest
from PIL import Image

from perception_r1.common.files import shared_data

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("no deadline")


def load_script(path: Path) -> ModuleType:
    """A script of `data/` as a module; its folder is searched for what it imports, as when it is run."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def alive(pid: int) -> bool:
    """Whether a process runs: it is not gone, nor dead and not collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def png(colour: str | tuple = "red", size: tuple[int, int] = (9, 7), kind: str = "PNG") -> bytes:
    """A small picture of one colour, as a file has it."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


PARAMETERS = 'profile: str = "smoke"  # profile\nout: str = ""  # run folder\n'
START = 'from perception_r1.notebook.notebook_run import NotebookRun\nrun = NotebookRun("{number}", profile, out)\n'
FINISH = 'run.path("result.txt").write_text("whole")\nrun.finish("found it")'


LONGEST = [
    f"test_{name}.py"
    for name in "notebooks resume train scale runner batch solutions world judge answers chat rewards".split()
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that two workers end at about the same time."""
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No proxy between client and server, no key of whoever runs the tests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, which is not part of the repository."""
    folder = shared_data()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PERCEPTION_R1_SHARED to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with a fresh miniature, a few problems and settings; see `tests.runs`."""
    from tests.runs import make_place  # which loads torch

    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def uninterrupted(place, tmp_path_factory) -> Path:
    """The folder of a whole tiny training run."""
    from tests.runs import run

    out = tmp_path_factory.mktemp("uninterrupted")
    assert run(place, out) == 0
    return out


@pytest.fixture
def write_notebook(tmp_path):
    """Return a function that writes a runnable notebook `NN_name.ipynb` into a folder of its own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()

    def write(
        number: str,
        code: str = "",
        parameters: str | None = PARAMETERS,
        needs: tuple[str, ...] = (),
        writes: tuple[str, ...] = ("result.txt",),
        finish: str = FINISH,
    ) -> Path:
        cells = [nbformat.v4.new_markdown_cell(f"# Notebook *{number}*")]
        if parameters is not None:
            cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        cells.append(nbformat.v4.new_code_cell(START.format(number=number)))
        cells += [nbformat.v4.new_code_cell(part) for part in (code, finish) if part]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {
            "name": "python3", "display_name": "Python 3", "language": "python"
        }  # fmt: skip
        notebook.metadata["perception_r1"] = {"needs": list(needs), "writes": list(writes)}
        path = folder / f"{number}_test.ipynb"
        nbformat.write(notebook, path)
        return path

    write.folder = folder
    return write
