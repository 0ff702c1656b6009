"""Published responses of other systems on the paper's benchmarks. Used in notebook 01.

So far MathVista testmini: 1,000 problems, eight systems whose answers and official verdicts stand in
the benchmark's repository (github.com/lupantech/MathVista, CC BY-SA 4.0).
"""

import itertools
from pathlib import Path

import pandas as pd
import pooch
import requests

from perception_r1.common import recorded
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import cannot_write, read_json, shared_data
from perception_r1.evidence.stats import align, mcnemar, paired_difference, paired_table

MATHVISTA_URL = "https://raw.githubusercontent.com/lupantech/MathVista/main/results"
MATHVISTA_LICENCE = "CC BY-SA 4.0, github.com/lupantech/MathVista"

# name in the file -> (name for people, folder in the repository)
MATHVISTA_SYSTEMS = {
    "gpt4_2shot_solution_use_ocr": ("GPT-4, 2-shot CoT, with OCR text", "gpt4"),
    "gpt4_2shot_solution": ("GPT-4, 2-shot CoT", "gpt4"),
    "gpt4": ("GPT-4, zero-shot", "gpt4"),
    "chatgpt_2shot_solution": ("ChatGPT, 2-shot CoT", "chatgpt"),
    "bard": ("Multimodal Bard", "bard"),
    "llava_llama_2_13b": ("LLaVA (LLaMA-2-13B)", "llava"),
    "instruct_blip2_vicuna_13b": ("InstructBLIP (Vicuna-13B)", "instruct_blip2"),
    "random_guess": ("Random guess", "random"),
}
MATHVISTA_SHA256 = {
    "output_bard.json": "f83b92bee1318dc6e16660e75b84c3b0ca699f1f8d5efcfc5b6554c167595b69",
    "output_chatgpt_2shot_solution.json": "ace441bfb96e7e2cd516ad3de69cda10c52ee3cb55c1a3f3c01ca1c54d6329b0",
    "output_gpt4.json": "dd3decee8d254da427f9011581fc582702ab71fe0d85cee594a1ba4394df4048",
    "output_gpt4_2shot_solution.json": "4141cad6b5008431e5185c6a02ac37914d3147df3e0069378482795596bb14e4",
    "output_gpt4_2shot_solution_use_ocr.json": "0502f562bb3d98b640f8c5d78be8c68f52983e88af472d40f6239905d1aab272",
    "output_instruct_blip2_vicuna_13b.json": "515365fd5bcb4cc7472f744b76b11e3ff00693b942e19dcc57074e41b6f21329",
    "output_llava_llama_2_13b.json": "b6add8431602466eb8d8c87612fe5fa9de7b6c45052409fcce0c0ed5b0559403",
    "output_random_guess.json": "5d40e7b2a0fdc55a42a2aed1b13fdea17871169b16f4ff2d80c50a12320413fa",
}


def mathvista_places(given: str | Path = "") -> list[Path]:
    """Where to look for MathVista's `output_*.json` files.

    `given` alone if it is a folder, nowhere if it is "none"; else `$PERCEPTION_R1_SHARED/mathvista` (a
    data folder that a class shares; by default `../shared/data` beside the clone), then where
    `download_mathvista` puts them.
    """
    if given:
        return [] if given == "none" else [Path(given)]
    return [shared_data() / "mathvista", _download_folder()]


def find_mathvista(given: str | Path = "") -> Path | None:
    """The first of `mathvista_places` that holds all files, or None.

    Raises:
        InputError: a folder was given, and it lacks some of the files.
    """
    for folder in mathvista_places(given):
        missing = [name for name in MATHVISTA_SHA256 if not (folder / name).is_file()]
        if not missing:
            return folder
        if given:
            raise InputError(
                f"{folder.resolve()} lacks {len(missing)} of MathVista's {len(MATHVISTA_SHA256)} files "
                f"({some(missing, 2)}); mathvista_pairs.download_mathvista(folder) fetches them"
            )
    return None


def download_mathvista(folder: str | Path = "", url: str = MATHVISTA_URL) -> Path:
    """Fetch the responses (7 MB) from MathVista's repository, with checksums.

    Files that are there already, with the right checksum, are kept; so an interrupted download goes on.

    Args:
        folder: where to put them; empty for this user's cache folder, where `find_mathvista` looks.
        url: where the `results` folder of the repository is served.

    Returns:
        The folder.

    Raises:
        InputError: no network, a file that changed upstream, or a folder that cannot be written.
    """
    folder = Path(folder) if folder else _download_folder()
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
    for key, (_, subfolder) in MATHVISTA_SYSTEMS.items():
        name = f"output_{key}.json"
        address = f"{url}/{subfolder}/{name}"
        try:
            pooch.retrieve(address, MATHVISTA_SHA256[name], name, folder, downloader=downloader)
        except requests.RequestException as error:
            raise InputError(
                f"cannot fetch {address} ({type(error).__name__}); is there a network? "
                "Notebook 01 runs without these files, with recorded counts"
            ) from error
        except ValueError as error:  # what pooch raises for a wrong checksum
            raise InputError(
                f"{address} is not the file this project was checked with (SHA-256 differs); it was not kept"
            ) from error
        except OSError as error:
            raise InputError(cannot_write(folder / name, error)) from error
    return folder


def read_outcomes(path: Path) -> pd.DataFrame:
    """Read one system's published MathVista file.

    Returns:
        Columns `id`, `correct` (bool, the official `true_false`), `task`; one row per problem.

    Raises:
        InputError: not JSON, not a table of items, or an item without `true_false` or its task.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path} is not MathVista's format: an object with one entry per problem id"
        )
    rows = []
    for key, item in content.items():
        try:
            right, task = item["true_false"], item["metadata"]["task"]
            rows.append({"id": item["pid"], "correct": right, "task": task})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}: item {key} has no {error}; use a file with official verdicts"
            ) from error
        if not isinstance(right, bool):
            raise InputError(f"{path}: item {key}: true_false is {right!r}, neither true nor false")
    return pd.DataFrame(rows)


def load_mathvista(folder: Path) -> dict[str, pd.DataFrame]:
    """Read all eight systems' outcomes: name for people -> table (see `read_outcomes`)."""
    return {
        name: read_outcomes(folder / f"output_{key}.json")
        for key, (name, _) in MATHVISTA_SYSTEMS.items()
    }


def count_pairs(outcomes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The 2x2 counts of every pair of systems, overall and by task.

    Returns:
        Columns `before`, `after`, `task` ("all" for overall), `both`, `b`, `c`, `neither`. Of two
        systems, the one listed later in `outcomes` is `before`.
    """
    rows = []
    for after, before in itertools.combinations(outcomes, 2):
        aligned = align(outcomes[before], outcomes[after]).merge(
            outcomes[after][["id", "task"]], on="id"
        )
        for task in ("all", *sorted(aligned["task"].unique())):
            cells = paired_table(aligned if task == "all" else aligned[aligned["task"] == task])
            rows.append((before, after, task, cells.both, cells.b, cells.c, cells.neither))
    return pd.DataFrame(rows, columns=["before", "after", "task", "both", "b", "c", "neither"])


def record_mathvista_pairs() -> Path:
    """Write the counts of `count_pairs` to `data/results/`, with what made them; needs the files.

    Raises:
        InputError: the files are not on this machine, or the folder cannot be written.
    """
    folder = find_mathvista()
    if folder is None:
        raise InputError(
            "MathVista's files are not here; mathvista_pairs.download_mathvista() fetches them"
        )
    return recorded.write(
        "mathvista_pairs",
        count_pairs(load_mathvista(folder)),
        source="counts over MathVista testmini's published answers",
        licence=MATHVISTA_LICENCE,
        inputs=MATHVISTA_SHA256,
        made_by="perception_r1.evidence.mathvista_pairs.record_mathvista_pairs",
    )


def compare_pairs(pairs: pd.DataFrame, test: bool) -> pd.DataFrame:
    """Add `n`, `difference`, `low`, `high` to pair counts and, if `test`, the exact `pvalue`."""
    pairs = pairs.copy()
    pairs["n"] = pairs[["both", "b", "c", "neither"]].sum(axis=1)
    intervals = [paired_difference(row.b, row.c, row.n) for row in pairs.itertuples()]
    pairs[["difference", "low", "high"]] = pd.DataFrame(intervals, index=pairs.index, dtype=float)
    if test:
        pairs["pvalue"] = [mcnemar(row.b, row.c).pvalue for row in pairs.itertuples()]
    return pairs


def _download_folder() -> Path:
    return Path(pooch.os_cache("perception-r1-companion")) / "mathvista"
