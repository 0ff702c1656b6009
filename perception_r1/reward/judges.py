"""Who says that a response states a fact? Explained in notebook 03.

A judge marks each annotation of a problem in each response (contract C6). Some judges need no server:
`ExactJudge` reads this project's own language, `NoisyJudge` flips marks, `LossyJudge` loses verdicts, `LazyJudge`
looks for the number anywhere, and `learned_judge.LearnedJudge` is a small trained model. Language models judge through
`llm_judge.LLMJudge`.

A verdict is one mark for every annotation, or none at all with the reason. Reasons are of two sorts: what
the judge or its server did (the response must not pay for it), and what the response itself brought about,
by its length for instance (it must not gain by it): `Verdict.by_response` tells them apart.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from perception_r1 import __version__, facts
from perception_r1.common.errors import InputError
from perception_r1.facts.reading import read_statement, split_sentences

Mark = Literal["stated", "absent", "contradicted"]
MARKS: tuple[Mark, ...] = get_args(Mark)
MAX_CHARACTERS = 40_000  # of a response; 4,096 tokens of English are about 16,000


@dataclass(frozen=True)
class Verdict:
    """What a judge found in one response.

    Attributes:
        marks: one for each annotation, in their order; None if there is no verdict.
        failure: why there is none, in one line; None if there is one.
        by_response: the response itself is the reason, not the judge.
    """

    marks: list[Mark] | None
    failure: str | None = None
    by_response: bool = False

    def __post_init__(self):
        if (self.marks is None) == (not self.failure):
            raise ValueError("a verdict has marks, or a failure that says why not")


class Judge(Protocol):
    """Marks annotations in responses.

    `contradictions`: whether it ever marks "contradicted"; False for presence alone.
    """

    name: str
    contradictions: bool

    async def judge(
        self, responses: Sequence[str | None], annotations: Sequence[Sequence[str]]
    ) -> list[Verdict]:
        """One verdict a response, against the annotations at the same place; never raises for a response."""
        ...

    def card(self) -> dict[str, object]:
        """What decides the verdicts (model, revision, hash of the prompt), to be kept beside every score."""
        ...

    def again(self) -> "Judge":
        """The same judge, which answers anew instead of from a cache."""
        ...


def cannot_judge(
    responses: Sequence[str | None],
    annotations: Sequence[Sequence[str]],
    max_characters: int = MAX_CHARACTERS,
) -> dict[int, Verdict]:
    """Verdicts that need no judge: nothing to compare with, nothing to read, or too much.

    Returns:
        Place -> failure; all other places can be judged.

    Raises:
        InputError: the two lists differ in length, or the annotations are one text instead of a list.
    """
    if len(responses) != len(annotations):
        raise InputError(
            f"{len(responses)} responses and {len(annotations)} lists of annotations; give one list a response"
        )
    found: dict[int, Verdict] = {}
    for place, (response, wanted) in enumerate(zip(responses, annotations, strict=True)):
        if isinstance(wanted, str):
            raise InputError(f"annotations of response {place} are one text; give a list of texts")
        if not wanted or not all(text.strip() for text in wanted):
            what = "an annotation is empty" if wanted else "no annotation to compare with"
            found[place] = Verdict(None, f"{what}; annotate the problem, or leave it out")
        elif not (response or "").strip():
            found[place] = Verdict(None, "the response is empty", by_response=True)
        elif len(response) > max_characters:
            size = f"{len(response):,} characters, more than {max_characters:,}"
            found[place] = Verdict(None, f"the response is too long to judge: {size}", True)
    return found


class _LocalJudge:
    """A judge that compares each annotation with the response by itself, without a server."""

    name: str
    contradictions: bool

    async def judge(
        self, responses: Sequence[str | None], annotations: Sequence[Sequence[str]]
    ) -> list[Verdict]:
        """See `Judge`."""
        failed = cannot_judge(responses, annotations)
        return [
            failed.get(place) or self._verdict(response, list(annotations[place]))
            for place, response in enumerate(responses)
        ]

    def _verdict(self, response: str, annotations: list[str]) -> Verdict:
        raise NotImplementedError

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        return {"judge": self.name, "version": __version__}

    def again(self) -> Judge:
        """See `Judge`; nothing is cached here."""
        return self


class ExactJudge(_LocalJudge):
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
        said: dict[Hashable, list[facts.Fact]] = {}  # by what they are about, for long responses
        for text in split_sentences(response):
            if fact := read_statement(text):
                said.setdefault(facts.subject(fact), []).append(fact)
        keys = {facts.key(fact) for about in said.values() for fact in about}
        return Verdict([self._mark(fact, said, keys) for fact in wanted])

    def _mark(self, fact: facts.Fact, said: Mapping[Hashable, list[facts.Fact]], keys: set) -> Mark:
        if self.contradictions and (subject := facts.subject(fact)) is not None:
            if any(facts.contradicts(fact, other) for other in said.get(subject, ())):
                return "contradicted"
        return "stated" if facts.key(fact) in keys else "absent"


def _read_annotation(text: str) -> facts.Fact | None:
    fact = read_statement(text)
    if fact is None:
        try:
            return facts.parse(text)
        except facts.FactError:
            return None
    return fact


class NoisyJudge:
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
        if not 0 <= flip <= 1:
            raise InputError(f"flip is {flip}; it is a probability, between 0 and 1")
        self._judge, self.flip, self.seed, self.per_call = judge, flip, seed, per_call
        self.contradictions = judge.contradictions
        self.name = f"noisy, {flip:.0%} flipped"

    async def judge(
        self, responses: Sequence[str | None], annotations: Sequence[Sequence[str]]
    ) -> list[Verdict]:
        """See `Judge`."""
        verdicts = await self._judge.judge(responses, annotations)
        calls = _places(responses, annotations) if self.per_call else itertools.repeat("")
        return [
            Verdict(
                [self._flipped(*each, response, call) for each in zip(v.marks, wanted, strict=True)]
            )
            if v.marks is not None
            else v
            for v, response, wanted, call in zip(
                verdicts, responses, annotations, calls, strict=False
            )
        ]

    def _flipped(self, mark: Mark, annotation: str, response: str | None, call: str) -> Mark:
        seed = f"{self.seed}\0{annotation}\0{response}{call}".encode("utf-8", "surrogatepass")
        if random.Random(seed).random() >= self.flip:
            return mark
        return "absent" if mark == "stated" else "stated"

    def card(self) -> dict[str, object]:
        """See `Judge`."""
        return {"judge": self.name, "flip": self.flip, "seed": self.seed, "of": self._judge.card()}

    def again(self) -> "NoisyJudge":
        """See `Judge`."""
        return NoisyJudge(self._judge.again(), self.flip, self.seed + 1, self.per_call)


class LossyJudge:
    """Another judge of whose verdicts a fixed share gets lost, as calls to a busy server do.

    Which ones depends on the seed and on all that is asked in a call, place by place, so that a run can be
    resumed and equal responses do not share a fate; `again` takes the next seed.
    """

    def __init__(self, judge: Judge, lost: float, seed: int = 0):
        if not 0 <= lost <= 1:
            raise InputError(f"lost is {lost}; it is a probability, between 0 and 1")
        self._judge, self.lost, self.seed = judge, lost, seed
        self.contradictions = judge.contradictions
        self.name = f"{judge.name}, {lost:.0%} lost"

    async def judge(
        self, responses: Sequence[str | None], annotations: Sequence[Sequence[str]]
    ) -> list[Verdict]:
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

    def again(self) -> "LossyJudge":
        """See `Judge`."""
        return LossyJudge(self._judge.again(), self.lost, self.seed + 1)


def _places(responses: Sequence[str | None], annotations: Sequence[Sequence[str]]) -> list[str]:
    """A text for each place of a call, other in every other call."""
    digest = hashlib.sha256()
    for response, wanted in zip(responses, annotations, strict=True):
        digest.update("\0".join([*wanted, response or ""]).encode("utf-8", "surrogatepass"))
    return [f"\0{digest.hexdigest()}\0{place}" for place in range(len(responses))]


class LazyJudge(_LocalJudge):
    """Takes a fact as stated if its number stands anywhere in the response; without one, if its names do.

    What a weak judging model does, made extreme: easy to satisfy by naming many numbers.
    """

    name, contradictions = "lazy", False

    def _verdict(self, response: str, annotations: list[str]) -> Verdict:
        numbers, names = set(_numbers(response)), set(_names(response))

        def seen(annotation: str) -> bool:
            wanted = set(_numbers(annotation))
            return wanted <= numbers if wanted else set(_names(annotation)) <= names

        return Verdict(["stated" if seen(text) else "absent" for text in annotations])


def _numbers(text: str) -> Iterable[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def _names(text: str) -> Iterable[str]:
    return [letter for word in re.findall(r"\b[A-Z]{1,4}\b", text) for letter in word]
