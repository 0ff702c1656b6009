"""Published responses of other systems on the paper's benchmarks. Used in notebook 01.

So far MathVista testmini: 1,000 problems, eight systems whose answers and official verdicts stand in
the benchmark's repository (github.com/lupantech/MathVista, CC BY-SA 4.0).
"""

import itertools
from pathlib import Path

import pandas as pd

from perception_r1.common.errors import InputError
from perception_r1.common.files import read_rows, shared_data
from perception_r1.evidence.stats import align, mcnemar, paired_difference, paired_table

MATHVISTA_SYSTEMS = {  # name in the file -> name for people
    "gpt4_2shot_solution_use_ocr": "GPT-4, 2-shot CoT, with OCR text",
    "gpt4_2shot_solution": "GPT-4, 2-shot CoT",
    "gpt4": "GPT-4, zero-shot",
    "chatgpt_2shot_solution": "ChatGPT, 2-shot CoT",
    "bard": "Multimodal Bard",
    "llava_llama_2_13b": "LLaVA (LLaMA-2-13B)",
    "instruct_blip2_vicuna_13b": "InstructBLIP (Vicuna-13B)",
    "random_guess": "Random guess",
}


def mathvista_folder(given: str | Path = "") -> Path:
    """Where MathVista's `output_*.json` files are looked for: `given`, else `mathvista` in the shared data."""
    return Path(given) if given else shared_data() / "mathvista"


def find_mathvista(given: str | Path = "") -> Path | None:
    """The folder with MathVista's files; None if it is not there, or `given` is "none"."""
    folder = mathvista_folder(given)
    return None if given == "none" or not (given or folder.exists()) else folder


def read_outcomes(path: Path) -> pd.DataFrame:
    """Read one system's published MathVista file.

    Returns:
        Columns `id`, `correct` (bool, the official `true_false`), `task`; one row per problem.

    Raises:
        InputError: not JSON, no rows, or one without `true_false` or its task.
    """
    try:
        rows = [(row["pid"], row["true_false"], row["metadata"]["task"]) for row in read_rows(path)]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: an item has no {error}; take one with verdicts") from error
    return pd.DataFrame(rows, columns=["id", "correct", "task"])


def load_mathvista(folder: Path) -> dict[str, pd.DataFrame]:
    """Read all eight systems' outcomes: name for people -> table (see `read_outcomes`).

    The files are in the folders of results/ in github.com/lupantech/MathVista.
    """
    files = {name: folder / f"output_{key}.json" for key, name in MATHVISTA_SYSTEMS.items()}
    return {name: read_outcomes(file) for name, file in files.items()}


def count_pairs(outcomes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The 2x2 counts of every pair of systems, overall and by task.

    Returns:
        Columns `before`, `after`, `task` ("all" for overall), `both`, `b`, `c`, `neither`. Of two
        systems, the one listed later in `outcomes` is `before`.
    """
    rows = []
    for after, before in itertools.combinations(outcomes, 2):
        tasks = outcomes[after][["id", "task"]]
        aligned = align(outcomes[before], outcomes[after]).merge(tasks, on="id")
        for task, part in [("all", aligned), *aligned.groupby("task")]:
            cells = paired_table(part)
            rows.append((before, after, task, cells.both, cells.b, cells.c, cells.neither))
    return pd.DataFrame(rows, columns=["before", "after", "task", "both", "b", "c", "neither"])


def compare_pairs(pairs: pd.DataFrame, test: bool) -> pd.DataFrame:
    """Add `n`, `difference`, `low`, `high` to pair counts and, if `test`, the exact `pvalue`."""
    pairs = pairs.copy()
    pairs["n"] = pairs[["both", "b", "c", "neither"]].sum(axis=1)
    intervals = [paired_difference(row.b, row.c, row.n) for row in pairs.itertuples()]
    pairs[["difference", "low", "high"]] = pd.DataFrame(intervals, index=pairs.index, dtype=float)
    if test:
        pairs["pvalue"] = [mcnemar(row.b, row.c).pvalue for row in pairs.itertuples()]
    return pairs
