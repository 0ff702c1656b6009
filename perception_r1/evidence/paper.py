"""The paper's published numbers, read from `data/paper/`, each with the source it was taken from.

What nobody could find (confusion-matrix cells, prompts, most ablation cells) is not in the tables.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from perception_r1.common.errors import InputError, some
from perception_r1.common.files import DATA

FOLDER = DATA / "paper"

Text = Annotated[str, Field(min_length=1)]
Score = Annotated[float, Field(ge=0, le=100)]
Empty = BeforeValidator(lambda cell: None if cell == "" else cell)


class _Row(BaseModel, extra="forbid"):
    pass


class Source(_Row):
    """What a source tag stands for."""

    tag: str
    kind: Literal["primary", "secondary", "reevaluation", "computed"]
    description: Text


class McNemarCounts(_Row):
    """Discordant counts of n items: b right only before, c right only after (which is which is inferred)."""

    id: str
    before: str
    after: str
    b: int = Field(ge=0)
    c: int = Field(ge=0)
    n: int = Field(gt=0)
    p_reported: float = Field(ge=0, le=1)
    note: str
    source: Text


class TableScore(_Row):
    """One cell of Table 1, in percent; None where the paper left it out on purpose."""

    version: Literal["v1", "v2", "iclr"]
    model: str
    data_size: Annotated[int | None, Empty]
    benchmark: str
    split: str
    score: Annotated[Score | None, Empty]
    note: str
    source: Text


class AblationScore(_Row):
    """One known cell of Table 2, in percent; "7B judge" is from the judge-size analysis."""

    configuration: str
    benchmark: str
    score: Score
    source: Text


class Reevaluation(_Row):
    """Somebody else's score of the released checkpoint, under another protocol."""

    benchmark: str
    score: Score
    source: Text


class Cost(_Row):
    """One known cell of Table 13."""

    model: str
    quantity: Literal["data preparation", "training"]
    value: float = Field(gt=0)
    unit: str
    source: Text


class Constant(_Row):
    """A weight, setting or count."""

    name: str
    value: float
    unit: str
    meaning: str
    source: Text


TABLES: dict[str, type[_Row]] = {
    "sources": Source,
    "mcnemar": McNemarCounts,
    "scores": TableScore,
    "ablations": AblationScore,
    "reevaluations": Reevaluation,
    "costs": Cost,
    "constants": Constant,
}


def published(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read and validate one table of published numbers.

    Args:
        name: `sources`, `mcnemar`, `scores`, `ablations`, `reevaluations`, `costs` or `constants`.
        folder: where the CSV files are.

    Raises:
        InputError: no such table, or a row that breaks its schema (file, line and field are named),
            or a source tag that `sources.csv` does not explain.
    """
    if name not in TABLES:
        raise InputError(f"no table {name!r} of published numbers; there are: {', '.join(TABLES)}")
    rows = _read(folder / f"{name}.csv", TABLES[name])
    if name != "sources":
        known = {source.tag for source in _read(folder / "sources.csv", Source)}
        for line, row in enumerate(rows, start=2):
            unknown = {part.split()[0] for part in row.source.split(";")} - known
            if unknown:
                raise InputError(
                    f"{folder / name}.csv line {line}: source {some(unknown)} is not in sources.csv"
                )
    return pd.DataFrame([row.model_dump() for row in rows], columns=list(TABLES[name].model_fields))


def constant(name: str) -> float:
    """One number from `constants.csv`: the weight `gamma`, the `group_size`, ...

    Raises:
        InputError: there is no such constant.
    """
    values = published("constants").set_index("name")["value"]
    if name not in values.index:
        raise InputError(f"no constant {name!r}; there are: {', '.join(values.index)}")
    return float(values[name])


COMPARED = (
    *("Qwen2.5-VL-7B-IT", "VLAA-Thinker-7B", "OpenVLThinker-7B", "MM-Eureka-7B", "Vision-R1-7B"),
    "Perception-R1-7B",
)


def scores_with_noise(sizes: Mapping[str, int], models: Sequence[str] = COMPARED) -> pd.DataFrame:
    """Table 1 in both versions, and what others measured for the released checkpoint, with binomial noise.

    Args:
        sizes: benchmark -> number of items; others are left out.
        models: which rows of the table.

    Returns:
        Columns benchmark, label, score, half (half of the 95% interval of one score, by the normal approximation;
        percent), group ("compared", "Perception-R1", "measured by others"), by benchmark, then model and version.
    """
    whole = ("testmini", "test", "val", "overall", "full")  # no sub-scores
    scores = published("scores").dropna(subset="score")
    chosen = scores["model"].isin(models) & scores["split"].isin(whole)
    scores = scores[chosen & scores["version"].isin(["v1", "v2"])].copy()
    scores["label"] = scores["model"] + " (" + scores["version"] + ")"
    scores["group"] = scores["model"].map(
        lambda model: "Perception-R1" if model == "Perception-R1-7B" else "compared"
    )
    scores["place"] = scores["model"].map(list(models).index)
    others = published("reevaluations").assign(group="measured by others", place=len(models))
    others["label"] = "Perception-R1-7B, by " + others["source"]
    rows = pd.concat([scores, others])
    rows = rows[rows["benchmark"].isin(sizes)]
    share, n = rows["score"] / 100, rows["benchmark"].map(sizes)
    rows["half"] = 196 * (share * (1 - share) / n) ** 0.5
    rows["order"] = rows["benchmark"].map(list(sizes).index)
    rows = rows.sort_values(["order", "place", "label"])
    return rows[["benchmark", "label", "score", "half", "group"]].reset_index(drop=True)


def _read(path: Path, schema: type[_Row]) -> list:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, restkey="a cell too many", restval=None))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; run from a clone of the repository"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(schema.model_validate(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InputError(f"{path} line {number}, column {field}: {first['msg']}") from error
    return rows
