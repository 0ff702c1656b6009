"""Do our versions of the official rules give the published results? Real responses, rescored. Used in notebook 05.

MATH-Vision and MathVista publish responses of several systems with the official verdict on each. What differs is
counted with its reason; `data/results/benchmark_agreement.csv` and `benchmark_reasons.csv` keep it for runs without the
files.
"""

from pathlib import Path

import pandas as pd

from perception_r1.common import recorded
from perception_r1.common.files import read_rows, sha256, shared_data
from perception_r1.evaluation import benchmarks
from perception_r1.evaluation.scores import score
from perception_r1.evidence.mathvista_pairs import MATHVISTA_SYSTEMS

MATHVISION_SYSTEMS = ("Gemini-Pro-CoT", "Qwen-VL-Max-CoT", "GPT4-CoT_Text_Only", "LLaVA-v1.5-13B")


def rescore(name: str, folder: Path, system: str) -> pd.DataFrame:
    """A system's published responses to "mathvision" or "mathvista", as `scores.score` scores them, each with the
    official verdict in the column `published`.

    Raises:
        InputError: a file is missing or unreadable.
    """
    benchmark, file, verdict = benchmarks.find(name), f"output_{system}.json", "true_false"
    if name == "mathvision":
        file, verdict = f"outputs/{system}.jsonl", "correct"
    rows = {str(row[benchmark.id]): row for row in read_rows(folder / file)}
    items = benchmarks.load(benchmark, folder)
    scored = score(benchmark, items, {id_: row["response"] or "" for id_, row in rows.items()})
    return scored.assign(published=[rows[item.id][verdict] for item in items])


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


def record_agreement() -> None:
    """Write both tables to `data/results/`, from the shared data of both benchmarks.

    Raises:
        InputError: they are not there, or the folder cannot be written.
    """
    folder, rows, reasons = shared_data(), [], []
    systems = [("mathvision", system, system) for system in MATHVISION_SYSTEMS]
    systems += [("mathvista", system, name) for system, name in MATHVISTA_SYSTEMS.items()]
    for key, system, name in systems:
        scored = rescore(key, folder / key, system)
        about = {"benchmark": benchmarks.BENCHMARKS[key].name, "system": name}
        rows.append(about | counts(scored))
        for (why, ours), part in scored[scored["why"] != ""].groupby(["why", "ours"]):
            favours = "ours" if ours else "official"
            reasons.append(about | {"right by": favours, "reason": why, "items": len(part)})
    inputs = {name: sha256(folder / name) for name in ("mathvision/outputs", "mathvista")}
    source = "published responses of MATH-Vision and MathVista, rescored"
    licence = "MIT (MATH-Vision), CC BY-SA 4.0 (MathVista); counts only"
    made_by = "perception_r1.evaluation.agreement.record_agreement"
    for name, table in (("benchmark_agreement", rows), ("benchmark_reasons", reasons)):
        recorded.write(name, pd.DataFrame(table).round(5), source, licence, inputs, made_by)
