r"""From chains of thought to visual annotations, the paper's first step. Explained in notebook 02.

    trajectories -> those with the right answer -> extracted statements -> annotations, and what was dropped

A trajectory is a teacher's chain of thought (CoT) with its answer. Annotations are short sentences, one
visual fact each. Two extractors: a language model behind any OpenAI-compatible endpoint, as in the paper
(whose prompt is not published; ours is `PROMPT`), and a reader for plain statements that needs no model.
Nothing is dropped in silence: each drop is a row with its reason.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perception_r1 import facts
from perception_r1.common.chat import Chat, ChatError, Reply, Request, user_message
from perception_r1.common.errors import InputError
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


class Fact(BaseModel):
    """One extracted statement."""

    model_config = ConfigDict(extra="forbid")

    sentence: str = Field(min_length=1, max_length=300)
    source: Literal["figure", "question", "deduced"]


class Facts(BaseModel):
    """What the extracting model must answer."""

    model_config = ConfigDict(extra="forbid")

    facts: list[Fact] = Field(max_length=60)


@dataclass(frozen=True)
class Trajectory:
    """A teacher's response to the problem with this id: reasoning and answer."""

    id: str
    text: str


@dataclass(frozen=True)
class Drop:
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
        DatasetError: unreadable, or a line that is not such a record (named by its row, from 0).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8"
        ) from error
    found = []
    for row, line in enumerate(lines):
        if line.strip():
            try:
                record = _Line.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                column = ".".join(map(str, first["loc"])) or None
                remedy = 'write one JSON object a line: {"id": ..., "response": ...}'
                raise DatasetError(f"{path}: {first['msg']}", remedy, row, column) from error
            found.append(Trajectory(record.id, record.response))
    return found


class _Line(BaseModel):
    id: str = Field(min_length=1)
    response: str = Field(min_length=1)


async def ask_teacher(
    chat: Chat, problems: Sequence[Problem]
) -> tuple[list[Trajectory], list[Drop]]:
    """Ask a vision model for one trajectory a problem, image attached, with the training instruction.

    Finished answers stay in the chat's cache: a run that was killed goes on and pays nothing twice.
    """
    requests = (
        Request(
            [
                user_message(
                    f"{problem.problem.replace(IMAGE_MARK, '').strip()} {INSTRUCTION}",
                    *problem.images,
                )
            ]
        )
        for problem in problems
    )
    trajectories, drops = [], []
    for problem, reply in zip(
        problems, await chat.complete_all(requests, label="teacher"), strict=True
    ):
        if isinstance(reply, ChatError):
            drops.append(Drop(problem.id, "trajectory", f"no response: {reply.reason}", str(reply)))
        else:
            trajectories.append(Trajectory(problem.id, reply.text))
    return trajectories, drops


def keep_right(
    problems: Iterable[Problem], trajectories: Iterable[Trajectory]
) -> tuple[list[Trajectory], list[Drop]]:
    """Keep trajectories whose final answer is right, the first for each problem (2,101 -> 1,442 in the paper).

    Raises:
        InputError: a trajectory whose problem is not there.
    """
    by_id = {problem.id: problem for problem in problems}
    kept: dict[str, Trajectory] = {}
    drops = []
    for trajectory in trajectories:
        if trajectory.id not in by_id:
            raise InputError(
                f"a trajectory for problem {trajectory.id!r}, which is not in the dataset"
            )
        answer = extract_answer(trajectory.text)
        if answer is None:
            reason = "no answer in \\boxed{}"
        elif not grade(answer, by_id[trajectory.id].answer):
            reason = "wrong answer"
        elif trajectory.id in kept:
            reason = "another right trajectory is kept"
        else:
            kept[trajectory.id] = trajectory
            continue
        drops.append(Drop(trajectory.id, "trajectory", reason, answer or ""))
    return list(kept.values()), drops


# --- extraction ------------------------------------------------------------------------------------

_CONCLUDES = re.compile(
    r"(?i)(so|thus|hence|therefore|then|because|since|which means|we get|it follows)\b"
)
# What people write beside full sentences, each as a logic form; points are capital letters.
_SIDE = r"(?:(?:[Ss]egment|[Ss]ide|[Ll]ine) )?([A-Z]'?)([A-Z]'?)"
_ANGLE = r"[Aa]ngle ([A-Z]'?)([A-Z]'?)([A-Z]'?)"
_VALUE = (
    r"((?:\\(?:frac|sqrt|pi)|[\d.+\-*/^(){}]|(?<![a-z\\])[a-z](?![a-z]))+)"  # 5, x+21, 2\sqrt{3}
)
_NOTATIONS = [
    (re.compile(pattern), form)
    for pattern, form in (
        (f"{_SIDE} (?:=|is|measures) {_VALUE}", "Equals(LengthOf(Line({0}, {1})), {2})"),
        (f"{_ANGLE} (?:=|is|measures) {_VALUE}", "Equals(MeasureOf(Angle({0}, {1}, {2})), {3})"),
        (
            f"{_SIDE} (?:=|equals) {_SIDE}",
            "Equals(LengthOf(Line({0}, {1})), LengthOf(Line({2}, {3})))",
        ),
        (f"{_SIDE} is parallel to {_SIDE}", "Parallel(Line({0}, {1}), Line({2}, {3}))"),
        (f"{_SIDE} is perpendicular to {_SIDE}", "Perpendicular(Line({0}, {1}), Line({2}, {3}))"),
        (f"(?:[Pp]oint )?([A-Z]'?) (?:is|lies) on {_SIDE}", "PointLiesOnLine({0}, Line({1}, {2}))"),
    )
]
_SYMBOLS = (
    (re.compile(r"\\angle\b|∠"), " angle "),
    (re.compile(r"\\parallel\b|∥"), " is parallel to "),
    (re.compile(r"\\perp\b|⊥"), " is perpendicular to "),
    (re.compile(r"\\overline\{([A-Z']+)\}"), r"\1"),
    (re.compile(r"\^\{?\\circ\}?|°|\$"), ""),
    (re.compile(r"(?<! )=|=(?! )"), " = "),
    (re.compile(r"\bm *(?=angle )"), ""),
    (re.compile(r"\s+"), " "),
)


@functools.lru_cache(maxsize=2**14)  # policies repeat themselves
def read_statement(sentence: str) -> facts.Call | None:
    r"""Read one plain statement of one fact: the world's own sentences, or short notation (`\angle ABC = 40^\circ`).

    It reads whole sentences about points with capital names, or nothing: no negations, no passages with
    more in them than one fact.
    """
    text = sentence.strip()
    try:
        fact = facts.from_sentence(text)
    except facts.FactError:
        return _read_notation(text)
    # The grammar of `facts` covers all of Geometry3K and takes many words for names; we do not.
    return fact if _is_plain(fact) and facts.to_sentence(fact) == text else _read_notation(text)


_PLAIN = {
    "Equals", "Perpendicular", "Parallel", "PointLiesOnLine", "PointLiesOnCircle", "Tangent",
    "IsMidpointOf", "IsDiameterOf", "IsRadiusOf", "IsChordOf", "LengthOf", "MeasureOf", "AreaOf",
    "PerimeterOf", "Line", "Angle", "Arc", "Circle", "Triangle", "Quadrilateral", "Parallelogram",
    "Rectangle", "Square", "Rhombus", "Kite", "Trapezoid",
}  # fmt: skip


def _is_plain(fact: facts.Term) -> bool:
    """Whether a fact speaks of known things: points by capital letters, angles by number, circles."""
    if isinstance(fact, str):
        return re.fullmatch(r"[A-Z]'?|angle \d+|radius_\d+_\d+", fact) is not None
    if fact.name == "Equals" and len(fact.args) == 2 and isinstance(fact.args[1], str):
        return _is_plain(fact.args[0]) and re.fullmatch(_VALUE, fact.args[1]) is not None
    return fact.name in _PLAIN and all(map(_is_plain, fact.args))


def _read_notation(text: str) -> facts.Call | None:
    text = text.rstrip(".")
    if len(text) > 120:
        return None
    for symbol, words in _SYMBOLS:
        text = symbol.sub(words, text)
    text = text.strip()
    for pattern, form in _NOTATIONS:
        if found := pattern.fullmatch(text):
            try:
                return facts.parse(form.format(*found.groups()))
            except facts.FactError:
                return None
    return None


def sentences(text: str) -> list[str]:
    """The sentences of a chain of thought: its lines, cut after full stops; without the answer block and tags."""
    thoughts = re.sub(r"(?s)<answer>.*", "", text)
    thoughts = re.sub(r"</?think>", "\n", thoughts)
    parts = (
        part.strip() for line in thoughts.splitlines() for part in re.split(r"(?<=[.!?])\s+", line)
    )
    return [part for part in parts if part]


def extract_by_reading(trajectory: Trajectory) -> tuple[list[Fact], list[Drop]]:
    """Extract without a model: statements that can be read; conclusions ("So ...") count as deduced."""
    found, drops = [], []
    for sentence in sentences(trajectory.text):
        if _CONCLUDES.match(sentence):
            found.append(Fact(sentence=sentence[:300], source="deduced"))
        elif read_statement(sentence):
            found.append(Fact(sentence=sentence, source="figure"))
        else:
            drops.append(Drop(trajectory.id, "extraction", "cannot be read", sentence))
    return found, drops


async def extract_by_llm(
    chat: Chat, problems: Iterable[Problem], trajectories: Sequence[Trajectory]
) -> tuple[dict[str, list[Fact]], list[Drop]]:
    """Extract with a text model, one request a trajectory; the model never sees the image, as in the paper.

    Returns:
        Problem id -> statements, and the trajectories for which no usable answer came.
    """
    questions = {
        problem.id: problem.problem.replace(IMAGE_MARK, "").strip() for problem in problems
    }
    requests = [
        Request(
            [user_message(PROMPT.format(question=questions[t.id], solution=t.text))], schema=Facts
        )
        for t in trajectories
    ]
    found: dict[str, list[Fact]] = {}
    drops = []
    replies: list[Reply | ChatError] = await chat.complete_all(requests, label="extraction")
    for trajectory, reply in zip(trajectories, replies, strict=True):
        if isinstance(reply, ChatError):
            drops.append(
                Drop(trajectory.id, "extraction", f"no usable answer: {reply.reason}", str(reply))
            )
        else:
            found[trajectory.id] = reply.value.facts
    return found, drops


# --- annotations -----------------------------------------------------------------------------------


def clean(problem: Problem, statements: Iterable[Fact]) -> tuple[list[str], list[Drop]]:
    """Make annotations of extracted statements: normalise, and drop what is not visual or said before.

    A statement that can be read becomes the sentence of its fact (see `facts`); any other keeps its words.
    Dropped: deductions, what stands in the question, and repetitions.
    """
    in_question = {facts.key(facts.parse(form)) for form in problem.text_facts}
    kept: dict[object, str] = {}
    drops = []
    for statement in statements:
        text = " ".join(statement.sentence.split())
        fact = read_statement(text)
        key = facts.key(fact) if fact else text.casefold()
        if statement.source == "deduced":
            reason = "deduced, not seen"
        elif statement.source == "question" or key in in_question:
            reason = "stands in the question"
        elif key in kept:
            reason = "said before"
        else:
            kept[key] = facts.to_sentence(fact) if fact else text
            continue
        drops.append(Drop(problem.id, "annotation", reason, text))
    return list(kept.values()), drops


def annotate(
    problems: Iterable[Problem], statements: Mapping[str, Iterable[Fact]]
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
    rows = [(drop.id, drop.step, drop.reason, drop.text) for drop in drops]
    return pd.DataFrame(rows, columns=["id", "step", "reason", "text"])
