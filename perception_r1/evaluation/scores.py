"""Scores of a benchmark's responses: by rules, in sum and by group, and paired with others'."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from perception_r1.common.errors import InputError, some
from perception_r1.evaluation.benchmarks import Benchmark
from perception_r1.evaluation.our_rules import Item, ours, why_different
from perception_r1.evidence.stats import align, mcnemar, paired_difference, paired_table


def score(benchmark: Benchmark, items: Sequence[Item], texts: Mapping[str, str]) -> pd.DataFrame:
    """Each response by rules, the authors' and ours.

    Returns:
        One row an item: id, official_extracted, official (missing where the authors have no rules), ours_extracted,
        ours, why (where the two differ).
    """
    rows = []
    for item in items:
        answer, right = ours(texts[item.id], item)
        theirs, official, why = None, None, ""
        if benchmark.official:
            theirs, official = benchmark.official(texts[item.id], item)
            why = why_different(item, theirs, answer) if official != right else ""
        rows.append((item.id, theirs, official, answer, right, why))
    columns = ["id", "official_extracted", "official", "ours_extracted", "ours", "why"]
    return pd.DataFrame(rows, columns=columns)


# --- in sum ---------------------------------------------------------------------------------------------


def share(correct: pd.Series) -> dict[str, float | int]:
    """n, correct, accuracy, and its exact (Clopper-Pearson) 95% interval."""
    n, right = len(correct), int(correct.sum())
    low, high = proportion_confint(right, n, method="beta")
    return {"n": n, "correct": right, "accuracy": right / n, "ci_low": low, "ci_high": high}


def summarise(
    benchmark: Benchmark, items: Sequence[Item], verdicts: Mapping[str, pd.Series], decides: str
) -> dict[str, object]:
    """The report of an evaluation: the score, by group, and all other scores by name.

    Args:
        benchmark: whose items these are.
        items: all of them.
        verdicts: name of whoever scored -> whether each response is right, in the order of the items.
        decides: the name of the verdicts that count.
    """
    correct, groups = verdicts[decides], pd.DataFrame([dict(item.groups) for item in items])
    summary = {
        "benchmark": benchmark.name, "scored by": decides, **share(correct),
        "items of the benchmark": benchmark.items, "whole benchmark": len(items) == benchmark.items,
    }  # fmt: skip
    for group in groups:
        parts = correct.groupby(groups[group].to_numpy())
        summary[f"by_{group}"] = {name: share(part) for name, part in parts}
    summary["scores"] = {name: share(verdict) for name, verdict in verdicts.items()}
    summary["a language model, officially"] = benchmark.asks_a_model or "none"
    summary["checked on"] = benchmark.verified
    return summary


def paired(outcomes: pd.DataFrame, other: Path) -> dict[str, object]:
    """McNemar's exact test of these outcomes against those of another evaluation (`before`), item by item.

    Raises:
        InputError: the file is unreadable, scored by another method, or has other items.
    """
    try:
        before = pd.read_csv(other, dtype={"id": str})
    except (OSError, ValueError) as error:
        why = f"cannot read {other}: {error}"
        raise InputError(f"{why}; give the outcomes.csv of an evaluation") from error
    theirs, these = (set(table.get("method", ["unknown rules"])) for table in (before, outcomes))
    if theirs != these:
        why = f"{other} was scored by {some(theirs)}, this by {some(these)}"
        raise InputError(f"{why}; score both alike")
    cells = paired_table(align(before, outcomes))
    test = mcnemar(cells.b, cells.c)
    paired = {"before": str(other), "n": cells.n, **asdict(cells), **asdict(test)}
    change = paired_difference(cells.b, cells.c, cells.n)
    paired |= zip(("difference", "ci_low", "ci_high"), change, strict=True)  # not of the ratio
    return paired if cells.b else paired | {"odds_ratio": None}  # JSON has no infinity
