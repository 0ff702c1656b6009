"""Plans, and what became of their rows: a plan says what is run many times, and beforehand how it will be read.

`python -m perception_r1 batch` runs a plan's rows and writes a line a row to `results.jsonl`; `analysis` reads both.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perception_r1.common.errors import InputError, first_fault, some
from perception_r1.common.files import read_rows, read_toml

RESULTS = "results.jsonl"
Parameter = bool | int | float | str


class Cell(BaseModel):
    """A named part of a plan: parameters of the notebook; lists are crossed, the first one varies fastest."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")
    __pydantic_extra__: dict[str, Parameter | list[Parameter]]


class Plan(BaseModel):
    """What to run, and how it will be read.

    Attributes:
        title: what the batch is for.
        notebook: number of the notebook, "04".
        notebooks: folder that holds it, seen from the plan's; empty: the project's own.
        profile: of all rows.
        cores: that one row keeps busy; decides how many run side by side.
        collect: CSV artefacts to gather, such as "comparisons.csv".
        parameters: of all rows.
        cells: see `Cell`.
        analysis: written before the runs, for those who read the results; not used here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    notebook: str = Field(pattern=r"\S")
    notebooks: str = ""
    profile: str = "laptop"
    cores: int = Field(1, ge=1)
    collect: list[str] = []
    parameters: dict[str, Parameter] = {}
    cells: list[Cell] = Field(min_length=1)
    analysis: dict = {}


def read_plan(file: Path) -> Plan:
    """Read a plan.

    Raises:
        InputError: no such file, no TOML, or a field that is missing, unknown or of the wrong type.
    """
    try:
        return Plan(**read_toml(file))
    except ValidationError as error:
        raise InputError(f"{file}: {first_fault(error)}") from error


class Row(NamedTuple):
    """One execution: its name, the cell it belongs to, and all of its parameters."""

    name: str
    cell: str
    parameters: Mapping[str, Parameter]
    varies: tuple[str, ...]  # what tells it from the other rows of its cell


def rows_of(plan: Plan) -> list[Row]:
    """The rows of a plan, in the order in which they are run.

    Raises:
        InputError: two rows have the same name.
    """
    rows: list[Row] = []
    for cell in plan.cells:
        given = {**plan.parameters, **cell.__pydantic_extra__}
        lists = {k: v if isinstance(v, list) else [v] for k, v in given.items()}
        varies = tuple(k for k, v in given.items() if isinstance(v, list))
        for values in itertools.product(*reversed(lists.values())):
            parameters = dict(zip(lists, reversed(values), strict=True))
            parts = [cell.name, *(re.sub(r"[^\w.]+", "-", str(parameters[k])) for k in varies)]
            rows.append(Row("-".join(parts), cell.name, parameters, varies))
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two rows are named {some(twice)}; give cells other names or values")
    return rows


def read_results(folder: Path) -> list[dict]:
    """The rows of a batch's `results.jsonl`, an object each; none where there is no such file."""
    path = folder / RESULTS
    return read_rows(path) if path.exists() else []
