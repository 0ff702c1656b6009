"""Do our versions of the official rules give the published results? Real responses, rescored. Used in notebook 05.

MATH-Vision and MathVista publish responses of several systems with the official verdict on each. What differs is
counted with its reason; `data/results/benchmark_agreement.csv` and `benchmark_reasons.csv` keep it for runs without the
files.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.common.files import sha256, shared_data
from perception_r1.evaluation import benchmarks
from perception_r1.evaluation.evaluate import score
from perception_r1.evidence.mathvista_pairs import MATHVISTA_SYSTEMS, find_mathvista

MATHVISION_SYSTEMS = ("Gemini-Pro-CoT", "Qwen-VL-Max-CoT", "GPT4-CoT_Text_Only", "LLaVA-v1.5-13B")


def find_mathvision(given: str | Path = "") -> Path | None:
    """The folder with MATH-Vision's problems and responses (`outputs/`), or None; "none" is nowhere."""
    folder = shared_data(given) / "mathvision"
    return folder if str(given) != "none" and (folder / "outputs").is_dir() else None


def rescore_mathvision(folder: Path, system: str) -> pd.DataFrame:
    """3,040 responses of one system as `evaluate.score` scores them, with the column `published`: the official verdict.

    Raises:
        InputError: a file is missing or unreadable.
    """
    benchmark = benchmarks.find("mathvision")
    rows = benchmarks.read_rows(folder / "outputs" / f"{system}.jsonl")
    return _rescored(
        benchmark, folder, {row["id"]: (row["response"], row["correct"]) for row in rows}
    )


def rescore_mathvista(folder: Path, key: str) -> pd.DataFrame:
    """1,000 responses of one system, in the same form."""
    rows = benchmarks.read_rows(folder / f"output_{key}.json")
    told = {row["pid"]: (row["response"] or "", row["true_false"]) for row in rows}
    return _rescored(benchmarks.find("mathvista"), folder, told)


def _rescored(
    benchmark: benchmarks.Benchmark, folder: Path, told: dict[str, tuple[str, bool]]
) -> pd.DataFrame:
    items = benchmarks.load(benchmark, folder)
    if missing := [item.id for item in items if item.id not in told]:
        raise InputError(
            f"{folder}: {len(missing)} items have no response, the first is {missing[0]}; fetch it again"
        )
    scored = score(benchmark, items, {name: response for name, (response, _) in told.items()})
    return scored.assign(
        published=scored["id"].map({name: right for name, (_, right) in told.items()})
    )


def counts(scored: pd.DataFrame) -> dict[str, float | int]:
    """Right answers as published, by the official rules and by ours; how often each agrees, of right and wrong ones."""
    right = scored["published"].astype(bool)
    found = {"n": len(scored), "published": int(right.sum())}
    for method in ("official", "ours"):
        verdict = scored[method].astype(bool)
        found[method] = int(verdict.sum())
        found[f"{method}_of_right"] = float(verdict[right].mean())
        found[f"{method}_of_wrong"] = float((~verdict[~right]).mean())
    return found


def all_systems(
    mathvision: Path | None, mathvista: Path | None
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(benchmark, system, rescored responses) of each system whose files are there; some 10 to 20 s each."""
    if mathvision:
        for system in MATHVISION_SYSTEMS:
            yield "MathVision", system, rescore_mathvision(mathvision, system)
    if mathvista:
        for key, (name, _) in MATHVISTA_SYSTEMS.items():
            yield "MathVista", name, rescore_mathvista(mathvista, key)


def record() -> None:
    """Write both tables to `data/results/`; needs the files of both benchmarks.

    Raises:
        InputError: they are not there, or the folder cannot be written.
    """
    folders = find_mathvision(), find_mathvista()
    if None in folders:
        raise InputError(
            f"MATH-Vision or MathVista are not in {shared_data()}; set PERCEPTION_R1_SHARED"
        )
    rows, reasons = [], []
    for benchmark, system, scored in all_systems(*folders):
        rows.append({"benchmark": benchmark, "system": system, **counts(scored)})
        differing = scored[scored["why"] != ""]
        for (why, ours), part in differing.groupby(["why", "ours"]):
            favours = "ours" if ours else "official"
            reasons.append((benchmark, system, favours, why, len(part)))
    reasons = pd.DataFrame(reasons, columns=["benchmark", "system", "right by", "reason", "items"])
    inputs = {"MathVision outputs": sha256(folders[0] / "outputs"), "MathVista": sha256(folders[1])}
    for name, table in (
        ("benchmark_agreement", pd.DataFrame(rows)),
        ("benchmark_reasons", reasons),
    ):
        recorded.write(
            name, table.round(5), "published responses of MATH-Vision and MathVista, rescored",
            "MIT (MATH-Vision), CC BY-SA 4.0 (MathVista); counts only", inputs,
            "perception_r1.evaluation.agreement.record",
        )  # fmt: skip
