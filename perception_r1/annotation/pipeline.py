r"""From chains of thought to visual annotations, the paper's first step. Explained in notebook 02.

    trajectories -> those with the right answer -> extracted statements -> annotations, and what was dropped

A trajectory is a teacher's chain of thought (CoT) with its answer. Annotations are short sentences, one
visual fact each. Two extractors: a language model behind any OpenAI-compatible endpoint, as in the paper
(whose prompt is not published; ours is `PROMPT`), and a reader for plain statements that needs no model.
Nothing is dropped in silence: each drop is a row with its reason.

    python -m perception_r1 annotate --data FILE --out FILE.parquet [--trajectories FILE.jsonl] [--chat-url URL ...]
"""

import argparse
import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, Field

from perception_r1.common.chat import Chat, ChatError, Request, user_message
from perception_r1.common.errors import InputError
from perception_r1.common.files import read_rows
from perception_r1.facts import key, parse, read_statement, to_sentence
from perception_r1.facts.reading import split_sentences
from perception_r1.problems import load_problems, write_problems
from perception_r1.problems.answers import extract_answer, grade
from perception_r1.problems.schema import IMAGE_MARK, DatasetError, Problem

INSTRUCTION = (
    "First think about the reasoning process as an internal monologue, then give the final answer. "
    "Put the reasoning inside <think> </think> tags and the answer inside <answer> </answer> tags, "
    r"with the final answer in \boxed{} inside the <answer> tags."
)

PROMPT = """\
You read a geometry question and a solution of it. List what the solution says about the FIGURE.

Rules:
- One short sentence for each fact: one length, one angle, one right angle, one pair of
  parallel lines, one point on a line or circle. Name points as the solution does.
- Only what the solution states. Correct nothing and add nothing.
- No colours, positions on the page or other looks: only what matters for the question.
- For each fact say where it comes from: "figure" if it is read off the figure, "question"
  if it stands in the question, "deduced" if the solution works it out.

Question:
{question}

Solution:
{solution}"""


class ExtractedFact(BaseModel, extra="forbid"):
    """One extracted statement."""

    sentence: str = Field(min_length=1, max_length=300)
    source: Literal["figure", "question", "deduced"]


class Extraction(BaseModel, extra="forbid"):
    """What the extracting model must answer."""

    facts: list[ExtractedFact] = Field(max_length=60)


class Trajectory(NamedTuple):
    """A teacher's response to the problem with this id: reasoning and answer."""

    id: str
    text: str


class Drop(NamedTuple):
    """What was left out, and why. `step` is "trajectory", "extraction" or "annotation"."""

    id: str
    step: str
    reason: str
    text: str


# --- trajectories ----------------------------------------------------------------------------------


def own_trajectories(problems: Iterable[Problem]) -> list[Trajectory]:
    """The chains of thought that came with the problems; problems without one are left out."""
    return [Trajectory(problem.id, problem.cot) for problem in problems if problem.cot]


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read existing trajectories: JSON lines with `id` and `response` (several a problem are fine).

    Raises:
        InputError: the file cannot be read, or a row (counted from 0) is no such record.
    """
    trajectories = []
    for number, row in enumerate(read_rows(path)):
        texts = row.get("id"), row.get("response")
        if not all(isinstance(text, str) and text for text in texts):
            fault = f"{path}: no text for id or response"
            remedy = 'write one JSON object a line: {"id": ..., "response": ...}'
            raise DatasetError(fault, remedy, number)
        trajectories.append(Trajectory(*texts))
    return trajectories


def keep_right(
    problems: Iterable[Problem], trajectories: Iterable[Trajectory]
) -> tuple[list[Trajectory], list[Drop]]:
    """Keep trajectories whose final answer is right, the first for each problem (2,101 -> 1,442 in the paper).

    Raises:
        InputError: a trajectory whose problem is not there.
    """
    answers = {problem.id: problem.answer for problem in problems}
    kept: dict[str, Trajectory] = {}
    drops = []
    for trajectory in trajectories:
        if trajectory.id not in answers:
            raise InputError(f"a trajectory for problem {trajectory.id!r}, not in the dataset")
        answer = extract_answer(trajectory.text)
        if answer is None:
            reason = "no answer in \\boxed{}"
        elif not grade(answer, answers[trajectory.id]):
            reason = "wrong answer"
        elif trajectory.id in kept:
            reason = "another right trajectory is kept"
        else:
            kept[trajectory.id] = trajectory
            continue
        drops.append(Drop(trajectory.id, "trajectory", reason, answer or ""))
    return list(kept.values()), drops


# --- extraction ------------------------------------------------------------------------------------

# A backslash alone before what JSON does not escape, or before a word: LaTeX.
_COMMAND = re.compile(r'(?<!\\)\\(?![\\"/u]|[bfnrt](?![a-z]))')
_CONCLUDES = re.compile(
    r"(?i)(so|thus|hence|therefore|then|because|since|which means|we get|it follows)\b"
)


def extract_by_reading(trajectory: Trajectory) -> tuple[list[ExtractedFact], list[Drop]]:
    """Extract without a model: statements that can be read; conclusions ("So ...") count as deduced."""
    statements, drops = [], []
    for sentence in split_sentences(trajectory.text):
        if _CONCLUDES.match(sentence):
            statements.append(ExtractedFact(sentence=sentence[:300], source="deduced"))
        elif read_statement(sentence):
            statements.append(ExtractedFact(sentence=sentence, source="figure"))
        else:
            drops.append(Drop(trajectory.id, "extraction", "cannot be read", sentence))
    return statements, drops


def read_extraction(text: str) -> Extraction:
    r"""Read a model's JSON; `\frac`, which has to be `\\frac` there, is LaTeX all the same, not a form feed and "rac".

    Raises:
        ValueError: no such JSON (pydantic's).
    """
    return Extraction.model_validate_json(_COMMAND.sub(r"\\\\", text))


async def extract_by_llm(
    chat: Chat, problems: Iterable[Problem], trajectories: Sequence[Trajectory]
) -> tuple[dict[str, list[ExtractedFact]], list[Drop]]:
    """Extract with a text model, one request a trajectory; the model never sees the image, as in the paper.

    Returns:
        Problem id -> statements, and the trajectories for which no usable answer came.
    """
    questions = {p.id: p.problem.replace(IMAGE_MARK, "").strip() for p in problems}
    prompts = [PROMPT.format(question=questions[t.id], solution=t.text) for t in trajectories]
    requests = [Request([user_message(prompt)], Extraction, read_extraction) for prompt in prompts]
    statements: dict[str, list[ExtractedFact]] = {}
    drops = []
    async with chat:
        replies = await chat.complete_all(requests, label="extraction")
    for trajectory, reply in zip(trajectories, replies, strict=True):
        if isinstance(reply, ChatError):
            reason = f"no usable answer: {reply.reason}"
            drops.append(Drop(trajectory.id, "extraction", reason, str(reply)))
        else:
            statements[trajectory.id] = reply.facts
    return statements, drops


# --- annotations -----------------------------------------------------------------------------------


def clean(problem: Problem, statements: Iterable[ExtractedFact]) -> tuple[list[str], list[Drop]]:
    """Make annotations of extracted statements: normalise, and drop what is not visual or said before.

    A statement that can be read becomes the sentence of its fact (see `facts`); any other keeps its words.
    Dropped: deductions, what stands in the question, and repetitions.
    """
    in_question = {key(parse(form)) for form in problem.text_facts}
    kept: dict[object, str] = {}
    drops = []
    for statement in statements:
        text = " ".join(statement.sentence.split())
        fact = read_statement(text)
        identity = key(fact) if fact else text.casefold()
        if statement.source == "deduced":
            reason = "deduced, not seen"
        elif statement.source == "question" or identity in in_question:
            reason = "stands in the question"
        elif identity in kept:
            reason = "said before"
        else:
            kept[identity] = to_sentence(fact) if fact else text
            continue
        drops.append(Drop(problem.id, "annotation", reason, text))
    return list(kept.values()), drops


def annotate(
    problems: Iterable[Problem], statements: Mapping[str, Iterable[ExtractedFact]]
) -> tuple[list[Problem], list[Drop]]:
    """Give each problem its annotations; a problem left with none is dropped, with the reason.

    Args:
        problems: the dataset.
        statements: problem id -> what was extracted from its trajectory; others are not annotated.
    """
    annotated, drops = [], []
    for problem in problems:
        if problem.id not in statements:
            continue
        annotations, dropped = clean(problem, statements[problem.id])
        drops += dropped
        if annotations:
            annotated.append(problem.annotated(annotations))
        else:
            drops.append(Drop(problem.id, "annotation", "no visual fact left", ""))
    return annotated, drops


def annotate_by_reading(problems: Sequence[Problem]) -> list[Problem]:
    """All steps without a model, on the problems' own chains of thought.

    Returns:
        The problems whose chain of thought has the right answer; those of them in which no visual fact is left
        without annotations (the perception reward says nothing about these).
    """
    kept, _ = keep_right(problems, own_trajectories(problems))
    statements = {trajectory.id: extract_by_reading(trajectory)[0] for trajectory in kept}
    annotated = {problem.id: problem for problem in annotate(problems, statements)[0]}
    return [annotated.get(p.id, p) for p in problems if p.id in statements]


def drop_table(drops: Iterable[Drop]) -> pd.DataFrame:
    """Drops as a table: columns `id`, `step`, `reason`, `text`."""
    return pd.DataFrame(list(drops), columns=Drop._fields)


# --- the command -----------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Annotate a dataset and print what was dropped; 1 if a model gave no usable answer for some problems.

    A model's answers are kept beside the output (`OUT.sqlite`), so that the same command goes on after a kill.
    """
    parser = argparse.ArgumentParser(prog="python -m perception_r1 annotate")
    parser.add_argument("--data", required=True, help="problems: Parquet file, folder or hub name")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--trajectories", type=Path, help="JSON lines: id, response (default: cot)")
    parser.add_argument("--chat-url", default="", help="of the extracting model (else a reader)")
    parser.add_argument("--chat-model", default="", help="its name there")
    options = parser.parse_args(arguments)
    problems = load_problems(options.data)
    file = options.trajectories
    trajectories = read_trajectories(file) if file else own_trajectories(problems)
    kept, drops = keep_right(problems, trajectories)

    statements, unanswered = {}, []
    if options.chat_url or options.chat_model:
        cache = options.out.with_suffix(".sqlite")
        slow = {"deadline": 900, "timeout": 300}  # a model on CPUs says nothing for minutes
        chat = Chat(options.chat_url, options.chat_model, cache=cache, **slow)
        statements, unanswered = asyncio.run(extract_by_llm(chat, problems, kept))
    else:
        for trajectory in kept:
            statements[trajectory.id], unread = extract_by_reading(trajectory)
            drops += unread
    annotated, dropped = annotate(problems, statements)
    counts = drop_table([*drops, *unanswered, *dropped]).groupby(["step", "reason"]).size()
    print(counts.rename("dropped").reset_index().to_string(index=False))
    if not annotated:
        nothing = f"nothing of {options.data} is left; give chains of thought with --trajectories"
        raise InputError(unanswered[0].text if unanswered else nothing)
    write_problems(annotated, options.out)
    print(f"{len(annotated)} of {len(problems)} problems annotated in {options.out}")
    if unanswered:
        print(f"{unanswered[0].text}\nIts answers so far are kept; run it again.")
    return 1 if unanswered else 0
