"""What the paper claims, what our evidence says, and whether the two agree (contract C9). Used in notebook 05.

Claims and the rule for each stand in `data/claims.toml`, committed before the runs where the evidence was not known.
A rule looks at the interval alone, and at the direction: sizes of a miniature and of Qwen2.5-VL-7B are not compared.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from scipy import stats as sps

from perception_r1.common import recorded
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA
from perception_r1.evaluation import benchmarks
from perception_r1.evaluation.comparison import NO_GAIN
from perception_r1.evidence import paper
from perception_r1.evidence.stats import count_bootstrap, mcnemar

FILE = DATA / "claims.toml"


def _gain(low: float, high: float) -> str:
    return "yes" if low > 0 else "no" if high < NO_GAIN else "undecided"


def _no_gain(low: float, high: float) -> str:
    return "no" if low > 0 else "yes" if high < NO_GAIN else "undecided"


def _similar(low: float, high: float) -> str:
    if -NO_GAIN < low and high < NO_GAIN:
        return "yes"
    return "no" if low > 0 or high < 0 else "undecided"


# What is claimed of a difference (after - before) -> whether its 95% interval agrees. "gain": yes if the interval lies
# above 0; no if it ends below +5 points, so that a gain of 5 is ruled out. "loss": the same, mirrored. "no gain": the
# other way round. "similar": yes if it lies within 5 points of 0; no if it lies to one side of 0.
RULES: Mapping[str, Callable[[float, float], str]] = {
    "gain": _gain,
    "loss": lambda low, high: _gain(-high, -low),
    "no gain": _no_gain,
    "similar": _similar,
}


class Claim(BaseModel):
    """One claim; `study` (with the policies before and after) or `computed` name its evidence, if there is any.

    `known`: the evidence was known when the rule was written; `planted`: it follows from a dial of our world, and
    shows that the pipeline runs, not that the paper is right.

    Besides `RULES` there are "above" (yes if the interval lies above `threshold`, no if below) and "holds" (arithmetic
    on published numbers: yes or no).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    claim: str
    paper_value: str
    source: str
    study: str = ""
    before: str = ""
    after: str = ""
    kind: Literal["image-only", "text-rich"] = "image-only"
    measure: str = ""
    computed: str = ""
    rule: Literal["gain", "loss", "no gain", "similar", "above", "holds", ""] = ""
    threshold: float | None = None
    known: bool = False
    planted: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        if self.study and self.computed:
            raise ValueError("study and computed: one of the two")
        if self.study and not (self.before and self.after and self.measure):
            raise ValueError("a study takes before, after and measure")
        if bool(self.study or self.computed) != bool(self.rule):
            raise ValueError("evidence takes a rule, and a rule takes evidence")
        if (self.rule == "above") != (self.threshold is not None):
            raise ValueError("the rule above takes a threshold, and no other does")
        if self.study and self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} is none for a difference")
        return self


def read_claims(path: Path = FILE) -> list[Claim]:
    """The claims, in the order of the file.

    Raises:
        InputError: the file is missing or no TOML, a claim breaks the schema, or two share an id.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["claims"]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; restore it with git") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path} is no list of claims: {error}") from error
    if not isinstance(tables, list):
        raise InputError(f"{path} is no list of claims: write each under [[claims]]")
    found = []
    for number, entry in enumerate(tables, start=1):
        try:
            found.append(Claim.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "as a whole"
            raise InputError(f"{path}, claim {number}, {place}: {first['msg']}") from error
    ids = [claim.id for claim in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"{path}: two claims have the id {twice[0]!r}; rename one")
    return found


def agrees(claim: Claim, low: float, high: float) -> str:
    """Whether an interval of the evidence agrees with the claim: "yes", "no" or "undecided"."""
    if claim.rule == "above":
        return "yes" if low > claim.threshold else "no" if high < claim.threshold else "undecided"
    return RULES[claim.rule](low, high)


# --- computed evidence -----------------------------------------------------------------------------


class Found(NamedTuple):
    """A number for a claim, its 95% interval, and what it is; `holds` where the claim is arithmetic."""

    value: float
    unit: Literal[
        "points", "share", "count", "ratio"
    ]  # points: a difference of shares, 0.01 is one point
    what: str
    low: float = math.nan
    high: float = math.nan
    pvalue: float = math.nan
    holds: bool | None = None


@dataclass(frozen=True)
class Evidence:
    """What a run has measured: the base's outcomes (`sight.evaluate`), and the audit (`audit.Audit.summary`)."""

    base: pd.DataFrame
    base_from: str
    audit: pd.DataFrame
    audit_from: str


def _mcnemar_pvalues(evidence: Evidence) -> Found:
    counts = paper.published("mcnemar")
    exact = np.array([mcnemar(row.b, row.c).pvalue for row in counts.itertuples()])
    equal = int((np.abs(exact.round(2) - counts["p_reported"]) < 0.005).sum())
    what = f"of {len(counts)}, by the exact test: {', '.join(f'{p:.4f}' for p in exact)}"
    return Found(equal, "count", what, holds=equal == len(counts))


def _perception_errors(evidence: Evidence) -> Found:
    wrong = evidence.base.query("kind == 'image-only' and not right").dropna(subset="needed")
    table = pd.DataFrame({"hit": wrong["needed"] == "wrong", "of": 1, "figure": wrong["figure"]})
    share, low, high = count_bootstrap(
        table.groupby("figure").sum(), lambda sums: sums[..., 0] / sums[..., 1], 2000
    )
    what = f"of {len(wrong)} wrong image-only answers of the base, those that state a needed fact wrong"
    return Found(share, "share", f"{what} ({evidence.base_from})", low, high)


def _annotation_precision(evidence: Evidence) -> Found:
    rows = evidence.audit
    row = rows[(rows["measure"] == "precision") & (rows["kind"] == "all")].iloc[0]
    what = f"precision of {row['of']:,} extracted annotations ({evidence.audit_from})"
    return Found(row["share"], "share", what, row["low"], row["high"])


def _table1(model: str) -> pd.Series:
    """Benchmark -> share, of Table 1 as in the authors' README (version 2)."""
    rows = (
        paper.published("scores")
        .query("version == 'v2' and model == @model")
        .dropna(subset="score")
    )
    return rows.set_index("benchmark")["score"] / 100


OURS, BASE = "Perception-R1-7B", "Qwen2.5-VL-7B-IT"
LARGER = ("GPT-4o", "Claude-3.7-Sonnet", "OpenAI-o1", "Qwen2.5-VL-72B-IT", "InternVL2.5-78B")


def _best_of_table1(evidence: Evidence) -> Found:
    rows = (
        paper.published("scores")
        .query("version == 'v2' and model not in @LARGER")
        .dropna(subset="score")
    )
    best = rows.loc[rows.groupby("benchmark")["score"].idxmax()].set_index("benchmark")["model"]
    first, others = int((best == OURS).sum()), best[best != OURS]
    told = ", ".join(f"{model} on {name}" for name, model in others.items())
    return Found(
        first,
        "count",
        f"of {len(best)} benchmarks; else {told}",
        holds=others.empty,
    )


def _differences(other: str) -> tuple[pd.Series, Found]:
    gaps = (_table1(OURS) - _table1(other)).dropna()
    test = sps.ttest_1samp(gaps, 0)
    low, high = test.confidence_interval(0.95)
    what = f"mean difference to {other} over {len(gaps)} benchmarks of Table 1, Student's t, one difference each"
    return gaps, Found(gaps.mean(), "points", what, low, high, test.pvalue)


def _gain_over_base(evidence: Evidence) -> Found:
    return _differences(BASE)[1]


def _t_test(other: str) -> Callable[[Evidence], Found]:
    def found(evidence: Evidence) -> Found:
        _, test = _differences(other)
        return test._replace(holds=bool(test.pvalue < 0.01))

    return found


def _gain_of_perception_reward(evidence: Evidence) -> Found:
    scores = (
        paper.published("ablations").pivot(
            index="benchmark", columns="configuration", values="score"
        )
        / 100
    )
    pair = scores[["Perception-R1", "without perception reward"]].dropna()
    sizes = pd.Series({one.name: one.items for one in benchmarks.BENCHMARKS.values()})[pair.index]
    noise = (pair * (1 - pair)).sum(axis=1) / sizes
    mean = float((pair.iloc[:, 0] - pair.iloc[:, 1]).mean())
    half = 1.96 * math.sqrt(noise.sum()) / len(pair)
    what = f"mean difference on {', '.join(pair.index)}; interval: binomial noise, as if items were not shared"
    return Found(mean, "points", what, mean - half, mean + half)


def _cost_against_vision_r1(evidence: Evidence) -> Found:
    costs = paper.published("costs").pivot(index="quantity", columns="model", values="value")
    ratio = costs["Vision-R1-7B"] / costs[OURS]
    what = f"times the GPU hours (other GPUs), and {ratio['data preparation']:.0f} times the tokens, for Vision-R1-7B"
    return Found(ratio["training"], "ratio", what, holds=bool((ratio > 1).all()))


COMPUTED: Mapping[str, Callable[[Evidence], Found]] = {
    "mcnemar_pvalues": _mcnemar_pvalues,
    "perception_errors": _perception_errors,
    "annotation_precision": _annotation_precision,
    "best_of_table1": _best_of_table1,
    "gain_over_base": _gain_over_base,
    "t_test_mm_eureka": _t_test("MM-Eureka-7B"),
    "t_test_vision_r1": _t_test("Vision-R1-7B"),
    "gain_of_perception_reward": _gain_of_perception_reward,
    "cost_against_vision_r1": _cost_against_vision_r1,
}
REENACTED = (
    "perception_errors",
    "annotation_precision",
)  # the others are arithmetic on published numbers


# --- verdicts --------------------------------------------------------------------------------------


def judge_claims(claims: Sequence[Claim], evidence: Evidence) -> pd.DataFrame:
    """Each claim with our number and whether it agrees, as `claims.json` holds it (contract C9).

    A study's claim is "re-enacted", from recorded runs; if its rows have not been run, or what it takes away never
    acted, it is "cited", and the note says so. "cited" claims have no number and no verdict.

    Returns:
        Columns id, claim, paper_value, source, status, our_value, ci_low, ci_high, pvalue, agrees, unit, what (our
        number is), rule, known (before the rule was written), planted, note.

    Raises:
        InputError: a claim names evidence that there is not.
    """
    rows = []
    for claim in claims:
        status, note, found = "cited", claim.note, None
        if claim.study:
            found, why = _of_study(claim)
            status, note = ("re-enacted", note) if found else ("cited", why)
        elif claim.computed:
            if claim.computed not in COMPUTED:
                raise InputError(
                    f"claim {claim.id}: nothing is computed under the name {claim.computed!r}"
                )
            found = COMPUTED[claim.computed](evidence)
            status = "re-enacted" if claim.computed in REENACTED else "recomputed"
        word = ""
        if found:
            word = (
                ("yes" if found.holds else "no")
                if claim.rule == "holds"
                else agrees(claim, found.low, found.high)
            )
        found = found or Found(math.nan, "count", "")
        rows.append({
            "id": claim.id, "claim": claim.claim, "paper_value": claim.paper_value, "source": claim.source,
            "status": status, "our_value": found.value, "ci_low": found.low, "ci_high": found.high,
            "pvalue": found.pvalue, "agrees": word, "unit": found.unit if word else "", "what": found.what,
            "rule": claim.rule, "known": claim.known, "planted": claim.planted, "note": note,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _of_study(claim: Claim) -> tuple[Found | None, str]:
    """The recorded row that speaks on a claim, or why there is none."""
    if not (recorded.FOLDER / f"study_{claim.study}.csv").is_file():
        return None, f"plan {claim.study} has not been run"
    table = recorded.read(f"study_{claim.study}")
    pair = table[(table["policy_before"] == claim.before) & (table["policy_after"] == claim.after)]
    rows = pair[(pair["kind"] == claim.kind) & (pair["measure"] == claim.measure)]
    if rows.empty:
        return None, f"not run: {claim.before} or {claim.after} of plan {claim.study}"
    if (pair["decision"] == "inert here").any():
        return (
            None,
            f"inert here: what is taken away had touched {_touched(claim.after)} of the completions",
        )
    row = rows.iloc[0]
    what = (
        f"{claim.kind} problems, {claim.measure}: {claim.after} against {claim.before} "
        f"(recorded, {row['seeds']} seeds, {row['n']} problems each)"
    )
    return Found(row["difference"], "points", what, row["low"], row["high"], row["p"]), ""


def _touched(policy: str) -> str:
    """How often the repetition penalty acted in a policy's recorded training runs."""
    tables = [pd.read_csv(path) for path in sorted(recorded.FOLDER.glob("study_*_training.csv"))]
    runs = pd.concat(tables) if tables else pd.DataFrame(columns=["policy", "seed", "repeated"])
    runs = runs.drop_duplicates(["policy", "seed"])  # a plan may have run another's policies again
    shares = runs.loc[runs["policy"] == policy, "repeated"]
    return f"{shares.mean():.2%}" if len(shares) else "fewer than 5%"


def as_text(row: Mapping) -> str:
    """Our number of a judged claim with its interval, for people."""
    if not row["agrees"]:
        return row["note"]
    scale, form = {"points": (100, "{:+.1f} points"), "share": (100, "{:.1f}%"), "ratio": (1, "{:.1f} times"),
                   "count": (1, "{:g}")}[row["unit"]]  # fmt: skip
    text = form.format(scale * row["our_value"])
    if row["unit"] == "count":
        return f"{text} {row['what']}"
    if not math.isnan(row["ci_low"]):
        sign = "+" if row["unit"] == "points" else ""
        text += f" ({scale * row['ci_low']:{sign}.1f} to {scale * row['ci_high']:{sign}.1f})"
    if not math.isnan(row["pvalue"]):
        text += f", p = {row['pvalue']:.2g}"
    if (
        row["rule"] in ("gain", "loss")
        and row["agrees"] == "no"
        and row["ci_low"] < 0 < row["ci_high"]
    ):
        text += "; 5 points or more are ruled out, less is not"
    return f"{text}; planted by us" if row["planted"] else text


def to_json(judged: pd.DataFrame) -> list[dict[str, object]]:
    """The rows of `claims.json`: what is missing is null; `text` is our number for people (see `as_text`)."""
    judged = judged.assign(text=[as_text(row) for row in judged.to_dict("records")])
    rows = judged.astype(object).where(judged.notna(), None).to_dict("records")
    return [
        {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows
    ]
