"""Recorded results: `data/results/<name>.csv` with `<name>.provenance.json` beside it.

Notebooks show them, labelled "recorded", where the data or the machine that made them is not at hand.
"""

from collections.abc import Mapping

import pandas as pd

from perception_r1.common import provenance
from perception_r1.common.files import DATA, write_json, write_text

FOLDER = DATA / "results"


def read(name: str) -> pd.DataFrame:
    """Read a recorded table, without its `source` and `licence` columns."""
    return pd.read_csv(FOLDER / f"{name}.csv").drop(columns=["source", "licence"])


def write(
    name: str,
    table: pd.DataFrame,
    source: str,
    licence: str,
    inputs: Mapping[str, str | None],
    made_by: str,
) -> None:
    """Record a table with what made it.

    Args:
        name: of the table.
        table: aggregates only, no third-party text or image.
        source: what it was computed from, for people; stands in every row.
        licence: of the source; stands in every row.
        inputs: file -> SHA-256.
        made_by: the function or notebook.

    Raises:
        InputError: the folder cannot be written.
    """
    path = FOLDER / f"{name}.csv"
    write_text(path, table.assign(source=source, licence=licence).to_csv(index=False))
    about = {
        "made by": made_by,
        "made at": provenance.now(),
        **provenance.origin(),
        "inputs (SHA-256)": dict(inputs),
        "licence": licence,
    }
    write_json(path.with_suffix(".provenance.json"), about)
