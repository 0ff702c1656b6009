"""Do our versions of the official rules give the published results? Real responses, rescored. Used in notebook 05.

MATH-Vision and MathVista publish responses of several systems with the official verdict on each. What differs is
counted with its reason; `data/results/benchmark_agreement.csv` and `benchmark_reasons.csv` keep it for runs without the
files.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from perception_r1.common import recorded
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import sha256, shared_data
from perception_r1.evaluation import benchmarks
from perception_r1.evaluation.scores import score
from perception_r1.evidence.mathvista_pairs import MATHVISTA_SYSTEMS, find_mathvista

MATHVISION_SYSTEMS = ("Gemini-Pro-CoT", "Qwen-VL-Max-CoT", "GPT4-CoT_Text_Only", "LLaVA-v1.5-13B")


def find_mathvision(given: str | Path = "") -> Path | None:
    """The folder with MATH-Vision's problems and responses (`outputs/`), or None; "none" is nowhere."""
    folder = shared_data(given) / "mathvision"
    return folder if str(given) != "none" and (folder / "outputs").is_dir() else None


def rescore_mathvision(folder: Path, system: str) -> pd.DataFrame:
    """3,040 responses of one system as `scores.score` scores them, with the column `published`: the official verdict.

    Raises:
        InputError: a file is missing or unreadable.
    """
    rows = benchmarks.read_rows(folder / "outputs" / f"{system}.jsonl")
    table = pd.DataFrame(rows, columns=["id", "response", "correct"])
    return _rescored(benchmarks.find("mathvision"), folder, table)


def rescore_mathvista(folder: Path, key: str) -> pd.DataFrame:
    """1,000 responses of one system, in the same form."""
    rows = benchmarks.read_rows(folder / f"output_{key}.json")
    table = pd.DataFrame(rows, columns=["pid", "response", "true_false"])
    table.columns = ["id", "response", "correct"]
    return _rescored(benchmarks.find("mathvista"), folder, table)


def _rescored(
    benchmark: benchmarks.Benchmark, folder: Path, published: pd.DataFrame
) -> pd.DataFrame:
    items = benchmarks.load(benchmark, folder)
    published = published.set_index("id").fillna({"response": ""})
    if missing := {item.id for item in items} - set(published.index):
        raise InputError(f"{folder}: no response to {some(missing)}; fetch it again")
    scored = score(benchmark, items, published["response"])
    return scored.assign(published=scored["id"].map(published["correct"]))


def counts(scored: pd.DataFrame) -> dict[str, float | int]:
    """Right answers as published, by the official rules and by ours; how often each agrees, of right and wrong ones."""
    right = scored["published"].astype(bool)
    totals = {"n": len(scored), "published": int(right.sum())}
    for method in ("official", "ours"):
        verdict = scored[method].astype(bool)
        totals[method] = int(verdict.sum())
        totals[f"{method}_of_right"] = float(verdict[right].mean())
        totals[f"{method}_of_wrong"] = float((~verdict[~right]).mean())
    return totals


def all_systems(mathvision: Path, mathvista: Path) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(benchmark, system, rescored responses) of each published system; some 10 to 20 s each."""
    for system in MATHVISION_SYSTEMS:
        yield "MathVision", system, rescore_mathvision(mathvision, system)
    for key, (name, _) in MATHVISTA_SYSTEMS.items():
        yield "MathVista", name, rescore_mathvista(mathvista, key)


def record_agreement() -> None:
    """Write both tables to `data/results/`; needs the files of both benchmarks.

    Raises:
        InputError: they are not there, or the folder cannot be written.
    """
    mathvision, mathvista = find_mathvision(), find_mathvista()
    if mathvision is None or mathvista is None:
        raise InputError(
            f"MATH-Vision or MathVista are not in {shared_data()}; set PERCEPTION_R1_SHARED"
        )
    rows, reasons = [], []
    for benchmark, system, scored in all_systems(mathvision, mathvista):
        about = {"benchmark": benchmark, "system": system}
        rows.append(about | counts(scored))
        differing = scored[scored["why"] != ""]
        for (why, ours), part in differing.groupby(["why", "ours"]):
            favours = "ours" if ours else "official"
            reasons.append(about | {"right by": favours, "reason": why, "items": len(part)})
    inputs = {"MathVision outputs": sha256(mathvision / "outputs"), "MathVista": sha256(mathvista)}
    for name, table in (("benchmark_agreement", rows), ("benchmark_reasons", reasons)):
        recorded.write(
            name, pd.DataFrame(table).round(5), "published responses of MATH-Vision and MathVista, rescored",
            "MIT (MATH-Vision), CC BY-SA 4.0 (MathVista); counts only", inputs,
            "perception_r1.evaluation.agreement.record_agreement",
        )  # fmt: skip
