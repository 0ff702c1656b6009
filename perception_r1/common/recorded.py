"""Recorded results: `data/results/<name>.csv` with `<name>.provenance.json` beside it.

Notebooks show them, labelled "recorded", where the data or the machine that made them is not at hand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from perception_r1.common import provenance
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA, read_json, sha256, write_json, write_text

FOLDER = DATA / "results"


def read(name: str) -> pd.DataFrame:
    """Read a recorded table, without its `source` and `licence` columns.

    Raises:
        InputError: it is not there, or not such a table.
    """
    path = FOLDER / f"{name}.csv"
    try:
        return pd.read_csv(path).drop(columns=["source", "licence"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}; restore it with git") from error


def write(
    name: str,
    table: pd.DataFrame,
    source: str,
    licence: str,
    inputs: Mapping[str, str | None],
    made_by: str,
    more: Mapping[str, object] | None = None,
) -> Path:
    """Record a table with what made it.

    Args:
        name: of the table.
        table: aggregates only, no third-party text or image.
        source: what it was computed from, for people; stands in every row.
        licence: of the source; stands in every row.
        inputs: file -> SHA-256.
        made_by: the function or notebook.
        more: what else made it.

    Raises:
        InputError: the folder cannot be written.
    """
    path = FOLDER / f"{name}.csv"
    write_text(path, table.assign(source=source, licence=licence).to_csv(index=False))
    about = {
        "made by": made_by,
        "made at": provenance.now(),
        "machine": provenance.machine(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "inputs (SHA-256)": dict(inputs),
        "licence": licence,
        **(more or {}),
    }
    write_json(path.with_suffix(".provenance.json"), about)
    return path


# --- one run of notebook 04 ------------------------------------------------------------------------


class TrainingRun(NamedTuple):
    """What notebook 04 leaves to others.

    Attributes:
        outcomes: policy ("base", then the arms) -> its outcomes, as `perception_metrics.measure` gives them, no texts.
        responses: the free responses, a row a problem: id, and a column a policy.
        log: `grpo_log.csv` of all arms.
        origin: "this run" or "recorded", for labels.
        about: the run's `run.json` or, recorded, its provenance.
    """

    outcomes: dict[str, pd.DataFrame]
    responses: pd.DataFrame
    log: pd.DataFrame
    origin: str
    about: dict


def training_run(folder: Path) -> TrainingRun:
    """The run of notebook 04 whose artefacts lie in `folder`; where there are none, the recorded laptop run."""
    if (folder / "run.json").is_file():
        return _read_run(folder)
    rows = read("run_outcomes")
    tables = {
        name: group.drop(columns=["policy", "response"]).reset_index(drop=True)
        for name, group in rows.groupby("policy", sort=False)
    }
    responses = rows.pivot(index="id", columns="policy", values="response")
    responses = responses.loc[tables["base"]["id"], list(tables)].rename_axis(columns=None)
    log, about = read("run_log"), read_json(FOLDER / "run_outcomes.provenance.json")
    return TrainingRun(tables, responses.reset_index(), log, "recorded", about)


def _read_run(folder: Path) -> TrainingRun:
    responses = pd.read_csv(folder / "responses.csv", keep_default_na=False)
    policies = [name for name in responses.columns if name != "id"]
    outcomes = {name: pd.read_csv(folder / f"outcomes_{name}.csv") for name in policies}
    log = pd.read_csv(folder / "grpo_log.csv")
    return TrainingRun(outcomes, responses, log, "this run", read_json(folder / "run.json"))


def write_training_run(folder: Path) -> None:
    """Record the run of notebook 04 in `folder`, for notebooks that run without it.

    Raises:
        InputError: the folder of results cannot be written.
    """
    run = _read_run(folder)
    texts = run.responses.set_index("id")
    tables = [
        table.assign(policy=name, response=table["id"].map(texts[name]))
        for name, table in run.outcomes.items()
    ]
    source, inputs = (
        "this project: a laptop run of notebook 04",
        {"artifacts/04/run.json": sha256(folder / "run.json")},
    )
    keys = ("parameters", "tested", "started", "seconds", "profile")
    more = {key: run.about[key] for key in keys}
    for name, table in {"run_outcomes": pd.concat(tables), "run_log": run.log}.items():
        write(name, table, source, "Apache-2.0", inputs, "make refresh", more)
