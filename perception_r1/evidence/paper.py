"""The paper's published numbers, read from `data/paper/`, each with the source it was taken from.

The tables are described in `data/README.md`.

What nobody could find (confusion-matrix cells, prompts, most ablation cells) is not in the tables.
"""

from collections.abc import Mapping

import pandas as pd

from perception_r1.common.files import DATA

FOLDER = DATA / "paper"


def published(name: str) -> pd.DataFrame:
    """Read one table of published numbers, "scores"; every row has its `source`, the last column."""
    empty = {"score": [""], "data_size": [""]}  # an empty note is a text
    table = pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False, na_values=empty)
    return table[sorted(table.columns, key=lambda column: column == "source")]


def constant(name: str) -> float:
    """One number from `constants.csv`: the weight `gamma`, the `group_size`, ..."""
    return float(published("constants").set_index("name")["value"][name])


COMPARED = (
    *("Qwen2.5-VL-7B-IT", "VLAA-Thinker-7B", "OpenVLThinker-7B", "MM-Eureka-7B", "Vision-R1-7B"),
    "Perception-R1-7B",
)


def scores_with_noise(sizes: Mapping[str, int]) -> pd.DataFrame:
    """Table 1 in both versions, and what others measured for the released checkpoint, with binomial noise.

    Args:
        sizes: benchmark -> number of items; others are left out.

    Returns:
        Columns benchmark, label, score, half (half of the 95% interval of one score, by the normal approximation;
        percent), group ("compared", "Perception-R1", "measured by others"), by benchmark, then model and version.
    """
    whole = ("testmini", "test", "val", "overall", "full")  # no sub-scores
    scores = published("scores").dropna(subset="score")
    chosen = scores["model"].isin(COMPARED) & scores["split"].isin(whole)
    scores = scores[chosen & scores["version"].isin(["v1", "v2"])].copy()
    scores["label"] = scores["model"] + " (" + scores["version"] + ")"
    scores["group"] = scores["model"].where(scores["model"] == "Perception-R1-7B", "compared")
    scores["group"] = scores["group"].str.removesuffix("-7B")
    scores["place"] = scores["model"].map(COMPARED.index)
    others = published("reevaluations").assign(group="measured by others", place=len(COMPARED))
    others["label"] = "Perception-R1-7B, by " + others["source"]
    rows = pd.concat([scores, others])
    rows = rows[rows["benchmark"].isin(sizes)]
    share, n = rows["score"] / 100, rows["benchmark"].map(sizes)
    rows["half"] = 196 * (share * (1 - share) / n) ** 0.5
    rows["order"] = rows["benchmark"].map(list(sizes).index)
    rows = rows.sort_values(["order", "place", "label"])
    return rows[["benchmark", "label", "score", "half", "group"]].reset_index(drop=True)
