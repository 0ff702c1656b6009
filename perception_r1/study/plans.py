"""Plans, and what became of their rows: a plan says what is run many times, and beforehand how it will be read.

`python -m perception_r1 batch` runs a plan's rows and writes a line a row to `results.jsonl`; `analysis` reads both.
"""

import json
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perception_r1.common.errors import InputError

RESULTS = "results.jsonl"
Value = bool | int | float | str


class Cell(BaseModel):
    """A named part of a plan: parameters of the notebook; lists are crossed, the first one varies fastest."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")
    __pydantic_extra__: dict[str, Value | list[Value]]


class Plan(BaseModel):
    """What to run, and how it will be read.

    Attributes:
        title: what the batch is for.
        notebook: number of the notebook, "04".
        notebooks: folder that holds it, seen from the plan's; empty: the project's own.
        profile: of all rows.
        cores: that one row keeps busy; decides how many run side by side.
        collect: CSV artefacts to gather, such as "comparisons.csv" or "outcomes_*.csv".
        parameters: of all rows.
        cells: see `Cell`.
        analysis: written before the runs, for those who read the results; not used here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    notebook: str
    notebooks: str = ""
    profile: str = "laptop"
    cores: int = Field(1, ge=1)
    collect: list[str] = []
    parameters: dict[str, Value] = {}
    cells: list[Cell] = Field(min_length=1)
    analysis: dict = {}


def read_plan(file: Path) -> Plan:
    """Read a plan.

    Raises:
        InputError: no such file, no TOML, or a field that is missing, unknown or of the wrong type.
    """
    try:
        return Plan(**tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot read the plan {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{file}: {where}: {first['msg']}") from error


def read_results(out: Path) -> list[dict]:
    """The last line of each row in a batch's `results.jsonl`; a line torn by a kill is left out."""
    path = out / RESULTS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = {}
    for text in lines:
        try:
            line = json.loads(text)
            found[line["row"]] = line
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds a line that is no result; remove the line") from error
    return list(found.values())
