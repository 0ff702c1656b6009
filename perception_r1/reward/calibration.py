"""How good is a judge? Measured on labelled pairs before it may judge in training. Explained in notebook 03.

A pair is a response, an annotation, and what a right verdict would be. Three sets, never mixed:

- `world_pairs`: the embedded world's own sentences, which `ExactJudge` reads by their grammar: a unit test;
- `foreign_pairs`: other people's phrasings of the same facts, by a renderer that shares no code with any judge;
- `real_pairs`: sentences of real chains of thought, labelled by reading.
"""

import csv
import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from perception_r1 import facts
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import DATA
from perception_r1.evidence.stats import count_bootstrap
from perception_r1.facts.reading import read_statement, split_sentences
from perception_r1.problems.schema import Problem
from perception_r1.reward.judges import Judge, Mark

REAL = DATA / "calibration" / "mathvision_sentences.csv"
HOWS: dict[str, Mark] = {
    "states": "stated", "paraphrases": "stated", "contradicts": "contradicted",
    "hints": "absent", "omits": "absent",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A labelled pair.

    Attributes:
        id: the problem it comes from; pairs of one problem resemble each other.
        annotation: the fact, as a sentence.
        response: what is judged.
        label: the right mark.
        how: what the response does to the fact, a key of `HOWS`.
        kind: of fact, see `facts.kind`.
        style: of the phrasing.
    """

    id: str
    annotation: str
    response: str
    label: Mark
    how: str
    kind: str
    style: str = ""


# --- labelled pairs --------------------------------------------------------------------------------


def world_pairs(problems: Iterable[Problem], seed: int = 0) -> list[Pair]:
    """Pairs in the world's own language: one fact a problem, in every way of `HOWS` that it allows."""
    pairs = []
    for problem in problems:
        rng = random.Random(f"{seed} {problem.id}")
        gold = [facts.parse(form) for form in problem.gold_facts]
        fact = rng.choice(gold)
        others = [facts.to_sentence(f) for f in gold if f != fact]
        for how, sentence in _in_own_words(fact, rng).items():
            said = rng.sample(others, min(3, len(others))) + sentence
            rng.shuffle(said)
            pairs.append(_pair(problem, fact, how, _response(said, problem.answer), "own"))
    return pairs


def foreign_pairs(
    problems: Iterable[Problem], renderer: ModuleType, styles: Sequence[str] = (), seed: int = 0
) -> list[Pair]:
    """The same with another renderer's phrasings (`foreign_wording`), one style a pair; all true ones paraphrase.

    Args:
        problems: with gold facts.
        renderer: has STYLES, render, render_solution, negate (which knows no styles) and hint.
        styles: those to use; empty for all.
        seed: decides the style and the words.
    """
    styles = list(styles or renderer.STYLES)
    pairs = []
    for problem in problems:
        rng = random.Random(f"{seed} {problem.id} foreign")
        forms = list(problem.gold_facts)
        form = rng.choice(forms)
        others = [f for f in forms if f != form]
        others = rng.sample(others, min(3, len(others)))
        for how in ("paraphrases", "contradicts", "hints", "omits"):
            style = rng.choice(styles)
            if how == "paraphrases":
                sentence = renderer.render(form, style, rng)
            elif how == "contradicts":
                other = _with_other_value(form, rng)
                told = renderer.render(other, style, rng) if other else None
                sentence = told or renderer.negate(form, rng)
            else:
                sentence = renderer.hint(form, rng) if how == "hints" else ""
            response = _insert(renderer, others, sentence, style, rng, problem.answer)
            pairs.append(_pair(problem, facts.parse(form), how, response, style))
    return pairs


def real_pairs(folder: Path, labels: Path = REAL) -> list[Pair]:
    """Labelled sentences of real chains of thought, whose texts are read from MATH-Vision's published outputs.

    Args:
        folder: with `Gemini-Pro-CoT.jsonl` and `Qwen-VL-Max-CoT.jsonl`.
        labels: CSV of `file`, `id`, `sentence` (its place), `sha` (of its text), `fact`, `relation`, `label`.

    Raises:
        InputError: a file is missing, or a sentence is not the one that was labelled.
    """
    with labels.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = {name: _outputs(Path(folder) / f"{name}.jsonl") for name in {r["file"] for r in rows}}
    pairs = []
    for row in rows:
        told = split_sentences(texts[row["file"]].get(row["id"], ""))
        text = told[int(row["sentence"])] if int(row["sentence"]) < len(told) else ""
        if hashlib.sha256(text.encode()).hexdigest()[:12] != row["sha"]:
            raise InputError(
                f"{row['file']}, problem {row['id']}: sentence {row['sentence']} is not the one that was "
                f"labelled; use MATH-Vision's outputs as published"
            )
        fact = read_statement(row["fact"])
        pairs.append(
            Pair(
                id=f"{row['file']}/{row['id']}",
                annotation=row["fact"],
                response=text,
                label=row["label"],
                how=row["relation"],
                kind=facts.kind(fact) if fact else "other",
                style=row["file"],
            )  # fmt: skip
        )
    return pairs


def _pair(problem: Problem, fact: facts.Fact, how: str, response: str, style: str) -> Pair:
    sentence = facts.to_sentence(fact)
    return Pair(problem.id, sentence, response, HOWS[how], how, facts.kind(fact), style)


def _in_own_words(fact: facts.Fact, rng: random.Random) -> dict[str, list[str]]:
    """Way -> the sentence, if any, that treats the fact so."""
    subject = facts.to_sentence(fact).split(" is ")[0].split(" equals ")[0].split(" lies ")[0]
    ways = {
        "states": [facts.to_sentence(fact)],
        "paraphrases": [facts.to_sentence(_reversed(fact))],
        "hints": [f"First look for {subject[0].lower()}{subject[1:]}."],
        "omits": [],
    }
    if other := _with_other_value(str(fact), rng):
        ways["contradicts"] = [facts.to_sentence(facts.parse(other))]
    return ways


def _with_other_value(form: str, rng: random.Random) -> str | None:
    """The logic form with another number, by a misreading's distance; None if it has none."""
    found = re.fullmatch(r"(.*, )(\d+)\)", form)
    return found and f"{found[1]}{int(found[2]) + rng.choice((-1, 1, 2, 10))})"


def _reversed(term: facts.Term) -> facts.Term:
    """The same figure named from its other end: AB as BA, angle ABC as CBA."""
    if isinstance(term, str):
        return term
    args = tuple(_reversed(a) for a in term.args)
    return facts.Call(term.name, args[::-1] if term.name in ("Line", "Angle") else args)


def _response(sentences: Sequence[str], answer: str) -> str:
    thoughts = "\n".join(sentences)
    return f"<think>\n{thoughts}\n</think>\n<answer>\nThe answer is \\boxed{{{answer}}}.\n</answer>"


def _insert(
    renderer: ModuleType, others: list[str], sentence: str, style: str, rng: random.Random, answer: str
) -> str:  # fmt: skip
    """A solution that tells the other facts, with the sentence as a line of its own among its thoughts."""
    if not others:
        return _response([sentence] if sentence else ["Let me think."], answer)
    lines = renderer.render_solution(others, style, rng, answer).split("\n")
    end = next(k for k, line in enumerate(lines) if line.startswith("</think>"))
    lines.insert(rng.randint(1, end), sentence)
    return "\n".join(lines)


def _outputs(path: Path) -> dict[str, str]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {str(line["id"]): str(line["response"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read {path} ({error}); get it from MATH-Vision's repository, folder outputs"
        ) from error


# --- measuring -------------------------------------------------------------------------------------

# Each measure is a sum of counts over a sum of counts. `s`, `c`, `a`: label stated, contradicted, absent;
# then the mark: S, C, A, or N for no verdict.
_RATIOS = {
    "precision": (("sS",), ("sS", "cS", "aS")),
    "recall": (("sS",), ("sS", "sC", "sA")),
    "specificity": (("cC", "cA", "aC", "aA"), ("cC", "cA", "aC", "aA", "cS", "aS")),
    "contradictions found": (("cC",), ("cC", "cA", "cS")),
    "without verdict": (("sN", "cN", "aN"), None),  # of all pairs
    "repeatable": (("same",), ("twice",)),
}
MEASURES = (*_RATIOS, "kappa")


@dataclass(frozen=True)
class Calibration:
    """What a judge did on labelled pairs.

    Attributes:
        card: the judge's.
        name: the judge's.
        pairs: name of the set.
        rows: a row a pair: `id`, `kind`, `how`, `style`, `label`, `mark`, `mark_again` ("" without verdict, or
            not asked again), `failure`.
    """

    name: str
    pairs: str
    card: Mapping[str, object]
    rows: pd.DataFrame

    def summary(
        self, by: str | None = None, n_resamples: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """The measures with 95% intervals from a bootstrap over problems.

        "Stated" against the rest makes precision, recall, specificity and kappa. Pairs without a verdict
        count in "without verdict" only. "Repeatable": of pairs judged twice, the share with equal marks.
        The bootstrap knows no error that it has not seen; so the interval is widened, where need be, to the exact
        (Clopper-Pearson) one of as many observations as problems count (for kappa: of the agreement).

        Args:
            by: a column of `rows` ("kind", "how", "style") to measure apart.
            n_resamples: of the bootstrap.
            seed: of the bootstrap.

        Returns:
            Columns `judge`, `pairs`, `by`, `measure`, `value`, `low`, `high`, `of` (pairs that count).
            A value is missing where nothing counts, an interval where it rests on one problem.
        """
        groups = [("all", self.rows)] if by is None else list(self.rows.groupby(by, sort=True))
        found = []
        for group, rows in groups:
            counts = _counts(rows)
            for measure in MEASURES:
                count_of = _denominators(measure, counts)
                ends = count_bootstrap(counts, _measure(measure), n_resamples, seed=seed)
                ends = _widened(measure, *ends, counts, int((count_of > 0).sum()))
                row = (measure, *ends, int(count_of.sum()))
                found.append((self.name, self.pairs, group, *row))
        columns = ["judge", "pairs", "by", "measure", "value", "low", "high", "of"]
        return pd.DataFrame(found, columns=columns)


async def calibrate(
    judge: Judge, pairs: Sequence[Pair], name: str = "", twice: int | None = None
) -> Calibration:
    """Let a judge mark labelled pairs, and some of them again, without a cache.

    Args:
        judge: to be measured.
        pairs: whose labels it does not see.
        name: of the set of pairs.
        twice: how many pairs are marked again, spread evenly; None: all.

    Raises:
        InputError: there are no pairs.
    """
    if not pairs:
        raise InputError("no labelled pairs to calibrate a judge on")
    responses, wanted = [p.response for p in pairs], [[p.annotation] for p in pairs]
    first = await judge.judge(responses, wanted)
    places = (
        np.linspace(0, len(pairs) - 1, min(twice or len(pairs), len(pairs))).round().astype(int)
    )
    repeated = await judge.again().judge(
        [responses[k] for k in places], [wanted[k] for k in places]
    )
    second = dict(zip(places.tolist(), repeated, strict=True))
    rows = pd.DataFrame([(p.id, p.kind, p.how, p.style, p.label) for p in pairs],
                        columns=["id", "kind", "how", "style", "label"])  # fmt: skip
    rows["mark"] = [v.marks[0] if v.marks else "" for v in first]
    rows["mark_again"] = [
        v.marks[0] if (v := second.get(k)) and v.marks else "" for k in range(len(pairs))
    ]
    rows["failure"] = [v.failure or "" for v in first]
    return Calibration(judge.name, name, judge.card(), rows)


_CODES = [label + mark for label in "sca" for mark in "SCAN"]


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a problem: how many pairs of each label got each mark, and how many were judged twice, equally."""
    codes = rows["label"].str[0] + rows["mark"].str[:1].str.upper().replace("", "N")
    twice = (rows["mark"] != "") & (rows["mark_again"] != "")
    same = twice & (rows["mark"] == rows["mark_again"])
    counts = pd.crosstab(rows["id"], codes).reindex(columns=_CODES, fill_value=0)
    more = pd.DataFrame({"same": same, "twice": twice}).groupby(rows["id"]).sum()
    return counts.join(more)


def _denominators(measure: str, counts: pd.DataFrame) -> pd.Series:
    """How many pairs of each problem count for a measure."""
    if measure == "kappa":
        return counts[[c for c in _CODES if not c.endswith("N")]].sum(axis=1)
    return counts[list(_RATIOS[measure][1] or _CODES)].sum(axis=1)


def _widened(
    measure: str, value: float, low: float, high: float, counts: pd.DataFrame, problems: int
) -> tuple[float, float, float]:
    """The interval, at least as wide as the exact one with a problem as one observation."""
    if problems < 2 or np.isnan(value):
        return value, np.nan, np.nan
    share, chance = value, 0.0
    if measure == "kappa":  # agreement = chance + kappa (1 - chance)
        sums = counts.sum()
        n = sum(sums[c] for c in _CODES if not c.endswith("N"))
        share = (sums["sS"] + sum(sums[c] for c in ("cC", "cA", "aC", "aA"))) / n
        chance = _chance(sums, n)
    exact = proportion_confint(share * problems, problems, method="beta")
    exact = [(float(end) - chance) / (1 - chance) for end in exact]
    return value, min(low, exact[0]), max(high, exact[1])


def _chance(sums: pd.Series, n: int) -> float:
    """Agreement by chance on "stated" against the rest."""
    labelled = sum(sums[c] for c in ("sS", "sC", "sA")) / n
    marked = sum(sums[c] for c in ("sS", "cS", "aS")) / n
    return labelled * marked + (1 - labelled) * (1 - marked)


def _measure(measure: str):
    """The measure as a function of a table of sums: columns of `_counts`, any number of rows."""
    places = {name: k for k, name in enumerate([*_CODES, "same", "twice"])}

    def total(sums: np.ndarray, names: Iterable[str]) -> np.ndarray:
        return sum(sums[..., places[name]] for name in names)

    if measure == "kappa":
        return lambda sums: _kappa(
            total(sums, ["sS"]), total(sums, ["sC", "sA"]), total(sums, ["cS", "aS"]),
            total(sums, ["cC", "cA", "aC", "aA"]),
        )  # fmt: skip
    above, below = _RATIOS[measure]
    return lambda sums: _ratio(total(sums, above), total(sums, below or _CODES))


def _kappa(yes: np.ndarray, missed: np.ndarray, false: np.ndarray, no: np.ndarray) -> np.ndarray:
    """Cohen's kappa of a 2x2 table; nan where chance agreement is complete."""
    n = yes + missed + false + no
    chance = (yes + missed) * (yes + false) + (false + no) * (missed + no)
    return _ratio(n * (yes + no) - chance, n * n - chance)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


# --- admission -------------------------------------------------------------------------------------

# Set before any judge was measured. The paper's example of why: with a 7B judge the reward saturated and was hacked,
# MathVerse 46.1 against the base's 47.4 (see notebook 03).
MINIMUM = {
    "precision": 0.90,
    "recall": 0.80,
    "specificity": 0.90,
    "kappa": 0.75,
    "repeatable": 0.90,
}
MAXIMUM = {"without verdict": 0.05}
MAX_PAID = 0.1  # share of responses that an attack may be paid for


@dataclass(frozen=True)
class Admission:
    """Whether a judge may judge in training.

    Attributes:
        judge: its name.
        card: its card with the measures and limits, to be kept beside every score.
        failed: the limits that it missed, one line each; empty if it is admitted.
    """

    judge: str
    card: Mapping[str, object]
    failed: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        """No limit was missed."""
        return not self.failed

    def require(self) -> None:
        """Do nothing for an admitted judge.

        Raises:
            InputError: it is not admitted; the message says which limits it missed.
        """
        if self.failed:
            raise InputError(
                f"the judge {self.judge!r} is not admitted to training: {'; '.join(self.failed)}; "
                "use a better judge, or measure this one on more pairs"
            )


def missed_limits(
    summary: pd.DataFrame,
    minimum: Mapping[str, float] = MINIMUM,
    maximum: Mapping[str, float] = MAXIMUM,
) -> list[str]:
    """The limits that a judge's measures miss, one line each.

    Args:
        summary: of one judge on one set, as `Calibration.summary` gives it.
        minimum: measure -> what the lower end of its interval must reach.
        maximum: measure -> what the upper end must not pass.

    Raises:
        InputError: a limit on a measure that does not exist.
    """
    if unknown := (set(minimum) | set(maximum)) - set(MEASURES):
        raise InputError(f"no measure {some(unknown)}; there are: {', '.join(MEASURES)}")
    found = summary.set_index("measure")
    missed = []
    for measure, limit in (*minimum.items(), *maximum.items()):
        value, low, high = found.loc[measure, ["value", "low", "high"]]
        met = low >= limit if measure in minimum else high <= limit
        if np.isnan(value):
            missed.append(f"{measure} cannot be measured here")
        elif not met:  # also where there is no interval
            wanted = "at least" if measure in minimum else "at most"
            missed.append(f"{measure} {value:.2f} ({low:.2f} to {high:.2f}), {wanted} {limit:.2f}")
    return missed


def admit(
    calibration: Calibration,
    attacked: pd.DataFrame | None = None,
    minimum: Mapping[str, float] = MINIMUM,
    maximum: Mapping[str, float] = MAXIMUM,
    seed: int = 0,
) -> Admission:
    """Compare a judge's intervals with the limits (see `missed_limits`), and its attacks with `MAX_PAID`.

    Args:
        calibration: of the judge.
        attacked: its rows of `attacks.success_rates`, without the attack that a right verdict pays; None: not
            attacked, and the card says so.
        minimum: see `missed_limits`.
        maximum: see `missed_limits`.
        seed: of the bootstrap.
    """
    summary = calibration.summary(seed=seed)
    failed = missed_limits(summary, minimum, maximum)
    rates = {} if attacked is None else attacked.set_index("attack")["paid"].to_dict()
    won = [f"{attack} ({rate:.0%})" for attack, rate in rates.items() if rate > MAX_PAID]
    if won:
        failed.append(f"paid in more than {MAX_PAID:.0%} of responses: {', '.join(won)}")
    ends = summary.set_index("measure")[["value", "low", "high"]].astype(float).round(4)
    measures = dict(zip(ends.index, ends.to_numpy().tolist(), strict=True))
    card = {
        **calibration.card, "calibrated on": calibration.pairs, "pairs": len(calibration.rows),
        "measures": measures, "minimum": dict(minimum), "maximum": dict(maximum),
        "attacks": rates or "not attacked", "admitted": not failed, "failed": failed,
    }  # fmt: skip
    return Admission(calibration.name, card, tuple(failed))
