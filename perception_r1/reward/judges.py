"""Who says that a response states a fact? Explained in notebook 03.

A judge marks each annotation of a problem in each response (contract C6). Some judges need no server:
`ExactJudge` reads this project's own language, `NoisyJudge` flips marks, `LossyJudge` loses verdicts, `LazyJudge`
looks for the number anywhere, and `tuned_judge.TunedJudge` is a small language model that was tuned to judge. Any
other judges through `llm_judge.LLMJudge`.

A verdict is one mark for every annotation, or none at all with the reason. Reasons are of two sorts: what
the judge or its server did (the response must not pay for it), and what the response itself brought about,
by its length for instance (it must not gain by it): `Verdict.by_response` tells them apart.
"""

import hashlib
import random
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from perception_r1 import __version__, facts
from perception_r1.common.errors import InputError
from perception_r1.facts.reading import read_statement, split_sentences

Mark = Literal["stated", "absent", "contradicted"]
MARKS: tuple[Mark, ...] = get_args(Mark)
Responses = Sequence[str | None]
Annotations = Sequence[Sequence[str]]  # of each response
MAX_CHARACTERS = 40_000  # of a response; 4,096 tokens of English are about 16,000


@dataclass(frozen=True)
class Verdict:
    """What a judge found in one response.

    Attributes:
        marks: one for each annotation, in their order; None if there is no verdict.
        failure: why there is none, in one line; None if there is one.
        by_response: the response itself is the reason, not the judge.
        scores: for each annotation the probability that it is stated; None from judges that do not grade.
    """

    marks: list[Mark] | None
    failure: str | None = None
    by_response: bool = False
    scores: list[float] | None = None


class Judge:
    """Marks annotations in responses (contract C6).

    `contradictions`: whether it ever marks "contradicted"; False for presence alone. `graded`: whether its
    verdicts have scores.
    """

    name: str
    contradictions: bool = True
    graded: bool = False

    async def judge(self, responses: Responses, annotations: Annotations) -> list[Verdict]:
        """One verdict a response, against the annotations at the same place; never raises for a response.

        Raises:
            InputError: not one list of annotations a response.
        """
        failures = cannot_judge(responses, annotations)
        return [
            failures.get(place) or self._verdict(response, list(annotations[place]))
            for place, response in enumerate(responses)
        ]

    def _verdict(self, response: str, annotations: list[str]) -> Verdict:
        raise NotImplementedError

    def card(self) -> dict[str, object]:
        """What decides the verdicts (model, revision, hash of the prompt), to be kept beside every score."""
        return {"judge": self.name, "version": __version__}

    def again(self) -> "Judge":
        """The same judge, which answers anew instead of from a cache; itself, if it has none."""
        return self


def cannot_judge(responses: Responses, annotations: Annotations) -> dict[int, Verdict]:
    """Verdicts that need no judge: nothing to compare with, nothing to read, or too much.

    Returns:
        Place -> failure; all other places can be judged.

    Raises:
        InputError: the annotations of a response are one text instead of a list.
        ValueError: the two lists differ in length.
    """
    failures: dict[int, Verdict] = {}
    for place, (response, texts) in enumerate(zip(responses, annotations, strict=True)):
        if isinstance(texts, str):
            raise InputError(f"annotations of response {place} are one text; give a list of texts")
        if not texts or not all(text.strip() for text in texts):
            fault = "no annotation, or an empty one; annotate the problem, or leave it out"
            failures[place] = Verdict(None, fault)
        elif not (response or "").strip():
            failures[place] = Verdict(None, "the response is empty", by_response=True)
        elif len(response) > MAX_CHARACTERS:
            fault = f"more than {MAX_CHARACTERS:,} characters are too long to judge"
            failures[place] = Verdict(None, fault, by_response=True)
    return failures


class ExactJudge(Judge):
    """Knows what a sentence of this project's language says, and marks by the facts, not the words.

    Facts are compared up to symmetry and algebra (`facts.key`): "BA = 5" states "The length of segment AB
    is 5." Annotations are sentences, or logic forms. What it cannot read in a response is not stated; an
    annotation that it cannot read leaves it without a verdict.

    Args:
        contradictions: mark an annotation "contradicted" where the response gives its subject another
            value, even if it names the right one too; False: presence alone, as in the paper.
    """

    def __init__(self, contradictions: bool = True):
        self.contradictions = contradictions
        self.name = "exact" if contradictions else "exact, presence only"

    def _verdict(self, response: str, annotations: list[str]) -> Verdict:
        wanted = [_read_annotation(text) for text in annotations]
        if None in wanted:
            text = annotations[wanted.index(None)]
            return Verdict(None, f"the exact judge cannot read the annotation {text[:80]!r}")
        keys: set[Hashable] = set()
        by_subject: dict[Hashable, list[facts.Fact]] = {}  # a long response states many facts
        for text in split_sentences(response):
            if fact := read_statement(text):
                keys.add(facts.key(fact))
                by_subject.setdefault(facts.subject(fact), []).append(fact)
        marks: list[Mark] = ["stated" if facts.key(f) in keys else "absent" for f in wanted]
        for k, fact in enumerate(wanted if self.contradictions else ()):
            others = by_subject.get(facts.subject(fact), ())
            if any(facts.contradicts(fact, other) for other in others):
                marks[k] = "contradicted"
        return Verdict(marks)


def _read_annotation(text: str) -> facts.Fact | None:
    try:
        return read_statement(text) or facts.parse(text)
    except facts.FactError:
        return None


class LazyJudge(Judge):
    """Takes a fact as stated if its number stands anywhere in the response; without one, if its names do.

    What a weak judging model does, made extreme: easy to satisfy by naming many numbers.
    """

    name, contradictions = "lazy", False

    def _verdict(self, response: str, annotations: list[str]) -> Verdict:
        numbers, names = _numbers(response), _names(response)
        marks: list[Mark] = []
        for annotation in annotations:
            wanted = _numbers(annotation)
            seen = wanted <= numbers if wanted else _names(annotation) <= names
            marks.append("stated" if seen else "absent")
        return Verdict(marks)


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def _names(text: str) -> set[str]:
    """The letters of words such as AB: names of points."""
    return set("".join(re.findall(r"\b[A-Z]{1,4}\b", text)))


class NoisyJudge(Judge):
    """Another judge whose every mark is flipped with a fixed chance; the paper flips 20% of visual rewards [S2].

    A flip turns "stated" into "absent", and anything else into "stated". It depends on the seed, the response
    and the annotation only, so that a run can be resumed; `again` takes the next seed.

    Args:
        judge: whose marks are flipped.
        flip: the chance of each.
        seed: of the dice.
        per_call: throw for each place of each call (the dice depend on all that is asked in it): in training,
            where a group often holds one response several times, equal ones must not share a fate.
    """

    def __init__(self, judge: Judge, flip: float, seed: int = 0, per_call: bool = False):
        self._judge, self.flip, self.seed, self.per_call = judge, flip, seed, per_call
        self.contradictions = judge.contradictions
        self.name = f"noisy, {flip:.0%} flipped"

    async def judge(self, responses: Responses, annotations: Annotations) -> list[Verdict]:
        """See `Judge`."""
        verdicts = await self._judge.judge(responses, annotations)
        places = _places(responses, annotations) if self.per_call else [""] * len(verdicts)
        for k, verdict in enumerate(verdicts):
            if verdict.marks is not None:
                occurrence = f"{responses[k]}{places[k]}"
                marks = zip(verdict.marks, annotations[k], strict=True)
                flipped = [self._flipped(mark, f"{text}\0{occurrence}") for mark, text in marks]
                verdicts[k] = Verdict(flipped)
        return verdicts

    def _flipped(self, mark: Mark, occurrence: str) -> Mark:
        seed = f"{self.seed}\0{occurrence}".encode("utf-8", "surrogatepass")
        if random.Random(seed).random() >= self.flip:
            return mark
        return "absent" if mark == "stated" else "stated"

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        return {"judge": self.name, "flip": self.flip, "seed": self.seed, "of": self._judge.card()}

    def again(self) -> "NoisyJudge":
        """See `Judge`."""
        return NoisyJudge(self._judge.again(), self.flip, self.seed + 1, self.per_call)


class LossyJudge(Judge):
    """Another judge of whose verdicts a fixed share gets lost, as calls to a busy server do.

    Which ones depends on the seed and on all that is asked in a call, place by place, so that a run can be
    resumed and equal responses do not share a fate.
    """

    def __init__(self, judge: Judge, lost: float, seed: int = 0):
        self._judge, self.lost, self.seed = judge, lost, seed
        self.contradictions, self.graded = judge.contradictions, judge.graded
        self.name = f"{judge.name}, {lost:.0%} lost"

    async def judge(self, responses: Responses, annotations: Annotations) -> list[Verdict]:
        """See `Judge`."""
        verdicts = await self._judge.judge(responses, annotations)
        return [
            Verdict(None, "the verdict got lost")
            if random.Random(f"{self.seed}{place}").random() < self.lost
            else verdict
            for verdict, place in zip(verdicts, _places(responses, annotations), strict=True)
        ]

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        return {"judge": self.name, "lost": self.lost, "seed": self.seed, "of": self._judge.card()}


def _places(responses: Responses, annotations: Annotations) -> list[str]:
    """A text for each place of a call, other in every other call."""
    digest = hashlib.sha256()
    for response, texts in zip(responses, annotations, strict=True):
        digest.update("\0".join([*texts, response or ""]).encode("utf-8", "surrogatepass"))
    return [f"\0{digest.hexdigest()}\0{place}" for place in range(len(responses))]
