"""Pairs of a response and an annotation with the mark that a right judge gives. Used in notebook 03.

Three sets, never mixed:

- `world_pairs`: the embedded world's own sentences, which `ExactJudge` reads by their grammar: a unit test;
- `foreign_pairs`: other people's phrasings of the same facts, by a renderer that shares no code with any judge;
- `real_pairs`: sentences of real chains of thought, labelled by reading.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from perception_r1 import facts
from perception_r1.common.errors import InputError
from perception_r1.common.files import DATA
from perception_r1.facts.reading import read_statement, split_sentences
from perception_r1.problems.schema import Problem
from perception_r1.reward import foreign_wording
from perception_r1.reward.judges import Mark

REAL = DATA / "calibration" / "mathvision_sentences.csv"
HOWS: dict[str, Mark] = {  # what a response does to a fact -> the right mark
    "states": "stated",
    "paraphrases": "stated",
    "contradicts": "contradicted",
    "hints": "absent",
    "omits": "absent",
}


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


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """Twelve digits of the SHA-256 of all that these pairs hold, in their order."""
    return hashlib.sha256(json.dumps([vars(p) for p in pairs]).encode()).hexdigest()[:12]


def world_pairs(problems: Iterable[Problem], seed: int = 0) -> list[Pair]:
    """Pairs in the world's own language: one fact a problem, in every way of `HOWS` that it allows."""
    pairs = []
    for problem in problems:
        rng = random.Random(f"{seed} {problem.id}")
        gold = [facts.parse(form) for form in problem.gold_facts]
        fact = rng.choice(gold)
        others = [facts.to_sentence(f) for f in gold if f != fact]
        for how, sentence in _in_own_words(fact, rng).items():
            thoughts = rng.sample(others, min(3, len(others))) + sentence
            rng.shuffle(thoughts)
            pairs.append(_pair(problem, fact, how, _response(thoughts, problem.answer), "own"))
    return pairs


def foreign_pairs(
    problems: Iterable[Problem], styles: Sequence[str] = foreign_wording.STYLES, seed: int = 0
) -> list[Pair]:
    """The same in other people's phrasings, one of these styles a pair; all true ones paraphrase."""
    pairs = []
    for problem in problems:
        rng = random.Random(f"{seed} {problem.id} foreign")
        forms = list(problem.gold_facts)
        form = rng.choice(forms)
        others = [f for f in forms if f != form]
        others = rng.sample(others, min(3, len(others)))
        for how in ("paraphrases", "contradicts", "hints", "omits"):
            style = rng.choice(styles)
            other = _with_other_value(form, rng) if how == "contradicts" else None
            if how == "paraphrases" or other:
                sentence = foreign_wording.render(other or form, style, rng)
            elif how == "contradicts":
                sentence = foreign_wording.negate(form, rng)
            elif how == "hints":
                sentence = foreign_wording.hint(form, rng)
            else:
                sentence = ""
            if others:  # a line of its own among the thoughts that tell the other facts
                text = foreign_wording.render_solution(others, style, rng, problem.answer)
                lines = text.split("\n")
                lines.insert(rng.randint(1, lines.index("</think>")), sentence)
                response = "\n".join(lines)
            else:
                response = _response([sentence or "Let me think."], problem.answer)
            pairs.append(_pair(problem, facts.parse(form), how, response, style))
    return pairs


def real_pairs(folder: Path) -> list[Pair]:
    """Labelled sentences of real chains of thought, whose texts are read from MATH-Vision's published outputs.

    `REAL` holds `file`, `id`, `sentence` (its place), `sha` (of its text), `fact`, `relation` and `label`.

    Args:
        folder: with `Gemini-Pro-CoT.jsonl` and `Qwen-VL-Max-CoT.jsonl`.

    Raises:
        InputError: a sentence is not the one that was labelled.
    """
    rows = pd.read_csv(REAL, dtype=str, keep_default_na=False).to_dict("records")
    responses = {}
    for name in {row["file"] for row in rows}:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        responses[name] = {str(line["id"]): line["response"] for line in map(json.loads, lines)}
    pairs = []
    for row in rows:
        source = f"{row['file']}/{row['id']}"
        texts = dict(enumerate(split_sentences(responses[row["file"]].get(row["id"], ""))))
        text = texts.get(int(row["sentence"]), "")
        if hashlib.sha256(text.encode()).hexdigest()[:12] != row["sha"]:
            fault = f"{source}: sentence {row['sentence']} is not the one that was labelled"
            raise InputError(f"{fault}; use MATH-Vision's outputs as published")
        fact = read_statement(row["fact"])
        kind = facts.kind(fact) if fact else "other"
        labels = row["label"], row["relation"]
        pairs.append(Pair(source, row["fact"], text, *labels, kind, style=row["file"]))
    return pairs


def _pair(problem: Problem, fact: facts.Fact, how: str, response: str, style: str) -> Pair:
    sentence = facts.to_sentence(fact)
    return Pair(problem.id, sentence, response, HOWS[how], how, facts.kind(fact), style)


def _in_own_words(fact: facts.Fact, rng: random.Random) -> dict[str, list[str]]:
    """Way -> the sentence, if any, that treats the fact so."""
    subject = facts.to_sentence(fact).split(" is ")[0].split(" equals ")[0].split(" lies ")[0]
    ways = {
        "states": [facts.to_sentence(fact)],
        "paraphrases": [facts.to_sentence(_backwards(fact))],
        "hints": [f"First look for {subject[0].lower()}{subject[1:]}."],
        "omits": [],
    }
    if other := _with_other_value(str(fact), rng):
        ways["contradicts"] = [facts.to_sentence(facts.parse(other))]
    return ways


def _with_other_value(form: str, rng: random.Random) -> str | None:
    """The logic form with another number, by a misreading's distance; None if it has none."""
    if match := re.fullmatch(r"(.*, )(\d+)\)", form):
        return f"{match[1]}{int(match[2]) + rng.choice((-1, 1, 2, 10))})"
    return None


def _backwards(term: facts.Term) -> facts.Term:
    """The same fact with lines and angles named from their other end: AB as BA, angle ABC as CBA."""
    if isinstance(term, str):
        return term
    args = tuple(_backwards(argument) for argument in term.args)
    return facts.Call(term.name, args[::-1] if term.name in ("Line", "Angle") else args)


def _response(sentences: Sequence[str], answer: str) -> str:
    thoughts = "\n".join(sentences)
    return f"<think>\n{thoughts}\n</think>\n<answer>\nThe answer is \\boxed{{{answer}}}.\n</answer>"
