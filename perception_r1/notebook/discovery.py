"""What a numbered notebook says about itself, and which of its parameters a person may set.

Notebooks are `01_*.ipynb` and on; appendices, `A1_*.ipynb` and on, come after them. A notebook describes
itself: its cell tagged `parameters` says what can be set, and its metadata (`perception_r1`: `needs`,
`writes`) says which notebooks it reads from and which artefacts it promises.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from pydantic import TypeAdapter, ValidationError

from perception_r1.common.errors import InputError, some
from perception_r1.common.files import NOTEBOOKS, read_json
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
    types: Mapping[str, str]  # parameter -> type name
    sources: tuple[str, ...]  # of all cells


def discover(folder: Path = NOTEBOOKS) -> dict[str, Notebook]:
    """Read the notebooks `NN_*.ipynb` of a folder, then its appendices `A1_*.ipynb`: number -> notebook.

    Raises:
        InputError: none is there, two share a number, or one is unreadable or breaks the contract.
    """
    found: dict[str, Notebook] = {}
    for path in sorted(p for p in folder.glob("*.ipynb") if re.match(r"(\d\d|A\d)_", p.name)):
        notebook = _inspect(path)
        if twin := found.get(notebook.number):
            raise InputError(f"{path.name} and {twin.path.name} share a number; rename one")
        found[notebook.number] = notebook
    if not found:
        raise InputError(f"no notebooks NN_*.ipynb in {folder}; run from a clone of the repository")
    for notebook in found.values():
        later = [need for need in notebook.needs if need not in found or need >= notebook.number]
        if later:
            raise InputError(
                f"{notebook.path.name} needs notebook {some(later)}, which is not before it"
            )
    return found


def literal(path: Path) -> str:
    """A path as papermill takes it, which would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook file of format 4."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("nbformat") != 4:
        raise InputError(f"{path} is no notebook of format 4; open it in JupyterLab and save it")
    try:
        notebook = nbformat.reads(json.dumps(content), as_version=4)
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        why = str(error).splitlines()[0]
        raise InputError(f"{path} breaks the notebook format: {why}") from error
    return notebook


def _inspect(path: Path) -> Notebook:
    content = _read(path)
    if not {"name", "language"} <= set(content.metadata.get("kernelspec", {})):
        raise InputError(f"{path.name} names no kernel; choose Python 3 in JupyterLab, and save")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in content.cells):
        raise InputError(f"{path.name} has no cell tagged 'parameters'; tag its first code cell")
    parameters = papermill.inspect_notebook(content)
    types = {name: parameter["inferred_type_name"] for name, parameter in parameters.items()}
    if unusable := [name for name, type_name in types.items() if type_name not in TYPES]:
        raise InputError(
            f"{path.name}: parameter {some(unusable)} needs a type that can be set: {', '.join(TYPES)}"
        )
    if missing := {"profile", "out"} - set(types):
        raise InputError(f"{path.name}: its parameters cell must have {some(missing)}, both str")
    about = content.metadata.get("perception_r1", {})
    return Notebook(
        number=path.name[:2],
        path=path,
        title=pages.title(content) or path.stem,
        needs=tuple(about.get("needs", ())),
        writes=tuple(about.get("writes", ())),
        types=types,
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
    wanted = {number.strip().zfill(2).upper() for number in only if number.strip()}
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
        if not equals:
            raise InputError(f"--param {setting}: write it as name=value")
        if name in ("profile", "out"):
            raise InputError(f"--param {setting}: use --{name}")
        having = [notebook for notebook in selected if name in notebook.types]
        if not having:
            valid = {f"{n} ({t})" for book in selected for n, t in book.types.items()}
            there = ", ".join(sorted(valid - {"profile (str)", "out (str)"})) or "none"
            raise InputError(f"--param {name}: no selected notebook has it; there are: {there}")
        for notebook in having:
            type_name = notebook.types[name]
            try:
                values[notebook.number][name] = TypeAdapter(TYPES[type_name]).validate_strings(text)
            except ValidationError as error:
                raise InputError(
                    f"--param {setting}: {notebook.path.name} takes {name} as {type_name}, and {text!r} is none"
                ) from error
    return values


def read_names(given: str | None) -> list[str]:
    """The value of `--only`: `01,03` -> ["01", "03"]; [] where it was not given.

    Raises:
        InputError: it was given, and is empty.
    """
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    if given is not None and not names:
        raise InputError("--only is empty; leave it out, or give it a value")
    return names
