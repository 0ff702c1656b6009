"""What a numbered notebook says about itself, and which of its parameters a person may set.

Notebooks are `01_*.ipynb` and on; appendices, `A1_*.ipynb` and on, come after them. A notebook describes
itself: its cell tagged `parameters` says what can be set, and its metadata (`perception_r1`: `needs`,
`writes`) says which notebooks it reads from and which artefacts it promises.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from pydantic import TypeAdapter, ValidationError

from perception_r1.common.errors import InputError, some
from perception_r1.common.files import NOTEBOOKS
from perception_r1.notebook import pages

TYPES = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Notebook:
    """A numbered notebook and what it says about itself."""

    number: str
    path: Path
    title: str
    needs: tuple[str, ...]
    writes: tuple[str, ...]
    types: Mapping[str, str]  # parameter that can be set -> type name
    sources: tuple[str, ...]  # of all cells


def discover(folder: Path = NOTEBOOKS) -> dict[str, Notebook]:
    """Read the notebooks `NN_*.ipynb` of a folder, then its appendices `A1_*.ipynb`: number -> notebook.

    Raises:
        InputError: none is there, two share a number, or one is unreadable or breaks the contract.
    """
    notebooks: dict[str, Notebook] = {}
    for path in sorted(p for p in folder.glob("*.ipynb") if re.match(r"(\d\d|A\d)_", p.name)):
        notebook = _inspect(path)
        if twin := notebooks.get(notebook.number):
            raise InputError(f"{path.name} and {twin.path.name} share a number; rename one")
        notebooks[notebook.number] = notebook
    if not notebooks:
        raise InputError(f"no notebooks NN_*.ipynb in {folder}; run from a clone of the repository")
    return notebooks


def _inspect(path: Path) -> Notebook:
    try:
        content = nbformat.read(path, as_version=4)
        parameters = papermill.inspect_notebook(content)
    except Exception as error:  # no JSON, no notebook, no kernel
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "open it in JupyterLab, choose Python 3, and save it"
        raise InputError(f"cannot read {path}: {why}; {remedy}") from error
    types = {name: parameter["inferred_type_name"] for name, parameter in parameters.items()}
    if missing := {"profile", "out"} - set(types):
        raise InputError(f"{path.name}: its cell tagged 'parameters' must have {some(missing)}")
    about = content.metadata.get("perception_r1", {})
    return Notebook(
        number=path.name[:2],
        path=path,
        title=pages.title(content) or path.stem,
        needs=tuple(about.get("needs", ())),
        writes=tuple(about.get("writes", ())),
        types={n: t for n, t in types.items() if t in TYPES and n not in ("profile", "out")},
        sources=tuple(cell.source for cell in content.cells),
    )


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of all code cells: `refresh` notes it, so that outputs of other code are found out."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def select(notebooks: Mapping[str, Notebook], only: Sequence[str]) -> list[Notebook]:
    """The notebooks named in `only` ("1" and "01" are the same, "a1" and "A1" too), or all where it is empty.

    Raises:
        InputError: a number that no notebook has.
    """
    wanted = {number.zfill(2).upper() for number in only}
    if unknown := wanted - set(notebooks):
        raise InputError(f"no notebook {some(unknown)}; there are: {', '.join(notebooks)}")
    return [notebook for number, notebook in notebooks.items() if number in wanted or not wanted]


def read_parameters(
    selected: Sequence[Notebook], given: Sequence[str]
) -> dict[str, dict[str, object]]:
    """Read `name=value` settings and give each notebook those that it has: number -> parameters.

    Raises:
        InputError: no `=`, a name that no selected notebook has, or a value of the wrong type; the
            message lists the valid ones.
    """
    values: dict[str, dict[str, object]] = {notebook.number: {} for notebook in selected}
    for setting in given:
        name, equals, text = setting.partition("=")
        having = [notebook for notebook in selected if name in notebook.types]
        if not equals or not having:
            valid = {f"{n} ({t})" for notebook in selected for n, t in notebook.types.items()}
            there = ", ".join(sorted(valid)) or "none"
            raise InputError(f"{setting}: write it as name=value; names there are: {there}")
        for notebook in having:
            type_name = notebook.types[name]
            try:
                values[notebook.number][name] = TypeAdapter(TYPES[type_name]).validate_strings(text)
            except ValidationError as error:
                wanted = f"{notebook.path.name} takes {name} as {type_name}"
                raise InputError(f"{setting}: {wanted}, and {text!r} is none") from error
    return values


def read_names(text: str) -> list[str]:
    """The value of `--only`: "01, A1" -> ["01", "A1"]."""
    return [name.strip() for name in text.split(",")]
