"""Lets a language model extract annotations, measures them, and keeps that: `data/results/llm_extraction.csv`.

    python data/judges/extract.py NAME --gguf FILE [--shared DIR]

NAME is the upstream name of the model in FILE. Two sets: chains of thought of this world, whose facts are known, and
ten real ones with right answers (in DIR, MATH-Vision's published responses), whose facts are not.
"""

import argparse
import asyncio
import re
import sys
import time
from pathlib import Path

import pandas as pd
from measure import SEED, keep

from perception_r1.annotation import audit, pipeline
from perception_r1.common import provenance
from perception_r1.common.chat import Chat
from perception_r1.common.files import sha256
from perception_r1.facts import read_statement
from perception_r1.problems.schema import Problem
from perception_r1.reward.gguf_server import GGUFServer
from perception_r1.world import WorldConfig, make_problems

OWN, REAL = 24, 10  # chains of thought
MAX_TOKENS = 700  # a small model may repeat itself to the end
FEWEST_WORDS = 60  # of a real one: many are a bare answer
NUMBER = re.compile(r"\d+(?:\.\d+)?")
POINTS = re.compile(r"\b[A-Z]{2,4}\b")  # as in AB


def real_chains(folder: Path) -> list[Problem]:
    """The first ten of Gemini-Pro's right responses on lengths, angles and areas that say more than an answer."""
    questions = pd.read_json(folder / "test.jsonl", lines=True, dtype={"id": str})
    told = pd.read_json(folder / "outputs/Gemini-Pro-CoT.jsonl", lines=True, dtype={"id": str})
    both = questions.merge(told, on="id")
    geometry = both["subject"].str.startswith("metric geometry")
    long = both["response"].str.split().str.len() >= FEWEST_WORDS
    return [  # unchecked: the model never sees an image, and not all are there
        Problem.model_construct(
            id=row.id, problem=row.question, answer=row.answer, cot=row.response
        )
        for row in both[geometry & long & both["correct"]].head(REAL).itertuples()
    ]


def grounded(sentence: str, source: str) -> bool:
    """Whether every number and every point of an extracted sentence stands in its chain of thought or question."""
    numbers = set(NUMBER.findall(sentence)) <= set(NUMBER.findall(source))
    return numbers and set("".join(POINTS.findall(sentence))) <= set(source)


def audited(problems: list[Problem], statements: dict) -> dict[str, float]:
    """Precision and recall with limits; a chain without an answer has no annotations, so all its facts are missed."""
    annotated, _ = pipeline.annotate(problems, statements)
    silent = [p for p in problems if p.id not in {one.id for one in annotated}]
    shares = audit.audit([*annotated, *silent]).summary(seed=SEED).set_index("measure")
    wide = shares.loc[["precision", "recall"], ["share", "low", "high"]].stack()
    return {"_".join(key).removesuffix("_share"): value for key, value in wide.items()}


async def measure(chat: Chat, problems: list[Problem]) -> dict[str, object]:
    """What a model made of the problems' chains of thought; precision and recall where facts are known."""
    start = time.monotonic()
    chains = pipeline.own_trajectories(problems)
    statements, failed = await pipeline.extract_by_llm(chat, problems, chains)
    seconds = (time.monotonic() - start) / len(problems)
    text = {p.id: f"{p.problem} {p.cot}" for p in problems}
    pairs = [(of, s.sentence) for of, those in statements.items() for s in those]
    print(*pairs, sep="\n")  # those of the real set are labelled by hand: llm_extraction_real.csv
    row = {"chains": len(problems), "answered": len(statements), "statements": len(pairs)}
    row["different"] = len(set(pairs))
    row["grounded"] = sum(grounded(sentence, text[of]) for of, sentence in set(pairs))
    row["read"] = sum(read_statement(sentence) is not None for _, sentence in set(pairs))
    if any(p.gold_facts for p in problems):
        as_figure = {
            of: [s.model_copy(update={"source": "figure"}) for s in those]
            for of, those in statements.items()
        }
        row |= audited(problems, statements)
        row["recall, any source"] = audited(problems, as_figure)["recall"]
    reasons = pd.Series([drop.reason for drop in failed], dtype=str).value_counts()
    row["seconds"] = round(seconds, 1)
    return row | {"failed": "; ".join(f"{n} x {reason}" for reason, n in reasons.items())}


def main(arguments: list[str]) -> int:
    """Measure a model's extraction and record it, in the place of its old rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--shared", type=Path, help="folder with mathvision/")
    given = parser.parse_args(arguments)
    sets = {"own": make_problems(OWN, WorldConfig(seed=SEED + 3), "test")}
    if given.shared:
        sets["real"] = real_chains(given.shared / "mathvision")
    rows = []
    with GGUFServer(given.gguf, model=given.name) as server:
        sampling = {"temperature": 0, "max_tokens": MAX_TOKENS}
        more = {"timeout": 600, "deadline": 900, "concurrency": 2, "attempts": 1}
        chat = Chat(server.url, given.name, sampling=sampling, **more)
        for name, problems in sets.items():
            rows.append({"model": given.name, "set": name} | asyncio.run(measure(chat, problems)))
    new = pd.DataFrame(rows).assign(ask="all", file=sha256(given.gguf))
    made_by = f"python data/judges/extract.py, a row a model; {provenance.versions(('xllamacpp',))}"
    keep("llm_extraction", new, made_by)
    print(new.to_string(index=False, float_format="{:.2f}".format))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
