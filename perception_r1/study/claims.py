"""What the paper claims, what our evidence says, and whether the two agree (contract C9). Used in notebook 05.

Claims and the rule for each stand in `data/claims.toml`, committed before the runs where the evidence was not known.
A rule looks at the interval alone, and at the direction: sizes of a miniature and of Qwen2.5-VL-7B are not compared.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

from perception_r1.common.files import DATA, read_toml
from perception_r1.evaluation.benchmarks import BENCHMARKS
from perception_r1.evidence import paper
from perception_r1.evidence.stats import mcnemar
from perception_r1.study.map import ROWS, compare, each_run

FILE = DATA / "claims.toml"


class Claim(BaseModel):
    """One claim; `cell` (with the arms before and after) or `computed` name its evidence, if there is any.

    `known`: the evidence was known when the rule was written; `planted`: our design decides it in advance, and it shows
    that the pipeline runs, not that the paper is right; `headline`: one of the five of notebook 05.

    `rule`, `size`: of a difference (after - before) see `agrees`; "holds" is arithmetic on published numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    claim: str
    paper_value: str
    source: str
    cell: str = ""
    before: str = ""
    after: str = ""
    measure: str = ""
    computed: str = ""
    rule: Literal["gain", "loss", "no gain", "similar", "above", "holds", ""] = ""
    size: float = 0.0
    known: bool = False
    planted: bool = False
    headline: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _is_a_test(self) -> "Claim":
        if bool(self.cell or self.computed) != bool(self.rule):
            raise ValueError("evidence takes a rule, and a rule takes evidence")
        return self


def read_claims(path: Path = FILE) -> list[Claim]:
    """The claims, in the order of the file; pydantic says which one breaks the schema."""
    return TypeAdapter(list[Claim]).validate_python(read_toml(path)["claims"])


# --- computed evidence -----------------------------------------------------------------------------

OURS, BASE = "Perception-R1-7B", "Qwen2.5-VL-7B-IT"
LARGER = ("GPT-4o", "Claude-3.7-Sonnet", "OpenAI-o1", "Qwen2.5-VL-72B-IT", "InternVL2.5-78B")


class Number(NamedTuple):
    """A number for a claim, its 95% interval, and what it is; `holds` where the claim is arithmetic."""

    our_value: float = math.nan
    unit: str = ""  # points (0.01: a share that grows by 1%), share, count or ratio
    meaning: str = ""
    ci_low: float = math.nan
    ci_high: float = math.nan
    pvalue: float = math.nan
    holds: bool | None = None


def compute(audit: pd.DataFrame, audit_from: str) -> dict[str, Number]:
    """What `claims.toml` calls computed, by its name: from the map's rows, an audit's summary, published numbers."""
    return {
        "perception_errors": _perception_errors(),
        "annotation_precision": _annotation_precision(audit, audit_from),
        "mcnemar_pvalues": _mcnemar_pvalues(),
        "best_of_table1": _best_of_table1(),
        "gain_over_base": _difference_to(BASE),
        "t_test_mm_eureka": _difference_to("MM-Eureka-7B"),
        "t_test_vision_r1": _difference_to("Vision-R1-7B"),
        "gain_of_perception_reward": _gain_of_perception_reward(),
        "cost_against_vision_r1": _cost_against_vision_r1(),
    }


REENACTED = ("perception_errors", "annotation_precision")  # the others are published arithmetic


def _perception_errors() -> Number:
    rows = pd.read_parquet(ROWS).query("cell == 's0' and arm == 'base' and not right")
    misread = rows["needed"] == "wrong"
    low, high = proportion_confint(misread.sum(), len(rows), method="beta")
    meaning = f"of {len(rows)} wrong answers of the bases in s0, those that state a needed fact wrong (recorded)"
    return Number(misread.mean(), "share", meaning, low, high)


def _annotation_precision(audit: pd.DataFrame, audit_from: str) -> Number:
    row = audit.query("measure == 'precision' and kind == 'all'").iloc[0]
    meaning = f"precision of {row['of']:,} extracted annotations ({audit_from})"
    return Number(row["share"], "share", meaning, row["low"], row["high"])


def _mcnemar_pvalues() -> Number:
    counts = paper.published("mcnemar")
    exact = np.array([mcnemar(row.b, row.c).pvalue for row in counts.itertuples()])
    equal = int((np.abs(exact.round(2) - counts["p_reported"]) < 0.005).sum())
    meaning = f"of {len(counts)}, by the exact test: {', '.join(f'{p:.4f}' for p in exact)}"
    return Number(equal, "count", meaning, holds=equal == len(counts))


def _table1() -> pd.DataFrame:
    """Table 1 as in the authors' README (version 2): a row a benchmark, a column a model, in percent."""
    scores = paper.published("scores").query("version == 'v2'")
    return scores.pivot(index="benchmark", columns="model", values="score")


def _best_of_table1() -> Number:
    best = _table1().drop(columns=list(LARGER), errors="ignore").idxmax(axis=1)
    first, others = int((best == OURS).sum()), best[best != OURS]
    names = ", ".join(f"{model} on {name}" for name, model in others.items())
    meaning = f"of {len(best)} benchmarks; else {names}"
    return Number(first, "count", meaning, holds=others.empty)


def _difference_to(other: str) -> Number:
    """The mean difference to another model; `holds` says whether its p lies below 0.01, as the paper has it."""
    scores = _table1() / 100
    gaps = (scores[OURS] - scores[other]).dropna()
    test = sps.ttest_1samp(gaps, 0)
    low, high = test.confidence_interval(0.95)
    meaning = f"mean difference to {other} over {len(gaps)} benchmarks of Table 1, Student's t, one difference each"
    return Number(gaps.mean(), "points", meaning, low, high, test.pvalue, bool(test.pvalue < 0.01))


def _gain_of_perception_reward() -> Number:
    scores = paper.published("ablations")
    scores = scores.pivot(index="benchmark", columns="configuration", values="score") / 100
    pair = scores[["Perception-R1", "without perception reward"]].dropna()
    sizes = pd.Series({one.name: one.items for one in BENCHMARKS.values()})[pair.index]
    noise = (pair * (1 - pair)).sum(axis=1) / sizes
    mean = float((pair["Perception-R1"] - pair["without perception reward"]).mean())
    half = 1.96 * math.sqrt(noise.sum()) / len(pair)
    meaning = f"mean difference on {', '.join(pair.index)}; interval: binomial noise, as if items were not shared"
    return Number(mean, "points", meaning, mean - half, mean + half)


def _cost_against_vision_r1() -> Number:
    costs = paper.published("costs").pivot(index="quantity", columns="model", values="value")
    times = costs["Vision-R1-7B"] / costs[OURS]
    tokens = f"{times['data preparation']:.0f} times the tokens, for Vision-R1-7B"
    meaning = f"times the GPU hours (other GPUs), and {tokens}"
    return Number(times["training"], "ratio", meaning, holds=bool((times > 1).all()))


# --- verdicts --------------------------------------------------------------------------------------


def agrees(claim: Claim, number: Number) -> str:
    """Whether a number and its 95% interval agree with the claim: "yes", "no" or "undecided".

    By the claim's rule. "gain": yes if the interval lies above 0; no if it ends below the claim's size (0 if it has
    none). "loss": the same, mirrored. "no gain": yes if it ends below the size; no if it lies above 0. "similar": yes
    if it lies within the size of 0; no if it lies to one side of 0. "above": yes if it lies above the size, no if
    below. "holds": as the arithmetic says.
    """
    low, high, size = number.ci_low, number.ci_high, claim.size
    if claim.rule == "gain":
        yes, no = low > 0, high < size
    elif claim.rule == "loss":
        yes, no = high < 0, low > -size
    elif claim.rule == "no gain":
        yes, no = high < size and not low > 0, low > 0
    elif claim.rule == "similar":
        yes, no = -size < low and high < size, low > 0 or high < 0
    elif claim.rule == "above":
        yes, no = low > size, high < size
    else:
        yes, no = number.holds, not number.holds
    return "yes" if yes else "no" if no else "undecided"


def judge_claims(claims: Sequence[Claim], audit: pd.DataFrame, audit_from: str) -> pd.DataFrame:
    """Each claim with our number and whether it agrees, as `claims.json` holds it (contract C9).

    A claim on the map is "re-enacted", or "planted"; if its rows have not been run, or it names no evidence, it is
    "cited", without number and verdict.

    Returns:
        Columns: the fields of `Claim` and of `Number`, status, agrees, and for people text and verdict.
    """
    computed, runs, rows = compute(audit, audit_from), each_run(pd.read_parquet(ROWS)), []
    for claim in claims:
        number, note, status = None, claim.note, "recomputed"
        if claim.cell:
            number = _of_map(claim, runs)
            note = note if number else f"not run: {claim.before} or {claim.after} in {claim.cell}"
        elif claim.computed:
            number = computed[claim.computed]
        if claim.cell or claim.computed in REENACTED:
            status = "planted" if claim.planted else "re-enacted"
        decided = {"note": note, "status": "cited", "agrees": ""}
        if number:
            decided |= {"status": status, "agrees": agrees(claim, number)}
        row = {**claim.model_dump(), **(number or Number())._asdict(), **decided}
        rows.append(row | {"text": as_text(row), "verdict": verdict(row)})
    return pd.DataFrame(rows)


def _of_map(claim: Claim, runs: pd.DataFrame) -> Number | None:
    """The difference between two arms in a cell of the map; None where there are no two pairs of runs."""
    table = compare(runs, claim.cell, claim.before, claim.after) if claim.cell in runs.index else []
    row = table.set_index("measure").loc[claim.measure] if len(table) else {"seeds": 0}
    if row["seeds"] < 2:
        return None
    meaning = f"{claim.measure} in {claim.cell}: {claim.after} against {claim.before} ({row['seeds']:.0f} seeds)"
    return Number(row["difference"], "points", meaning, row["low"], row["high"], row["pvalue"])


def as_text(row: Mapping) -> str:
    """Our number of a judged claim with its interval, for people."""
    if not row["agrees"]:
        return row["note"]
    value, low, high = (100 * row[name] for name in ("our_value", "ci_low", "ci_high"))
    text = {
        "count": f"{row['our_value']:g} {row['meaning']}",
        "ratio": f"{row['our_value']:.1f} times",
        "share": f"{value:.1f}% ({low:.1f} to {high:.1f})",
        "points": f"{value:+.1f} points ({low:+.1f} to {high:+.1f})",
    }[row["unit"]]
    if not math.isnan(row["pvalue"]):
        text += f", p = {row['pvalue']:.2g}"
    return text


def verdict(row: Mapping) -> str:
    """What becomes of a claim, in a word: shown, against, ruled out (the paper's size is, less is not), open, cited."""
    if row["agrees"] == "no" and row["rule"] in ("gain", "loss"):
        return "ruled out" if row["ci_low"] < 0 < row["ci_high"] else "against"
    return {"yes": "shown", "no": "against", "undecided": "open", "": "cited"}[row["agrees"]]


def to_json(judged: pd.DataFrame) -> list[dict[str, object]]:
    """The rows of `claims.json`: what is missing is null."""
    return judged.astype(object).where(judged.notna(), None).to_dict("records")
