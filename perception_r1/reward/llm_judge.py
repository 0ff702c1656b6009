"""A language model as judge, behind any OpenAI-compatible endpoint (vLLM first). Explained in notebook 03.

What is asked, and what counts as a verdict, is in `judge_prompt` (all facts of a response at once) and in
`fact_prompt` (one at a time, graded). An answer that is none is asked for again, and
then there is no verdict. What can be talked into saying that all is well is the model itself, and only a
measurement on it can tell (`attacks`).
"""

import asyncio
import copy
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from perception_r1.common.chat import REFUSED, Chat, ChatError, Request, Usage
from perception_r1.common.errors import InputError
from perception_r1.reward.fact_prompt import FACT_PROMPT_HASH, GRADED, FactPrompt, yes_score
from perception_r1.reward.judge_prompt import PROMPT_HASH, JudgePrompt, neutralise
from perception_r1.reward.judges import Annotations, Judge, Responses, Verdict, cannot_judge

CONTROL = "The figure is shown above."  # says nothing, and can hardly trouble a judge

Case = tuple[tuple[str, ...], str]  # what is judged: annotations, and a response
Ask = Literal["all", "each"]


class LLMJudge(Judge):
    """Asks a language model about the annotations of a response, all at once or each by itself (contract C6).

    Equal questions are asked once; answers are kept in `cache` and survive restarts. Questions with the
    same facts go out side by side and share their beginning, which helps a server's prefix cache.

    Args:
        url: the endpoint, usually ending in /v1.
        model: the server's name for the model.
        contradictions: three marks; False: the paper's question, presence alone. None: three where it can.
        ask: "all": one question a response, as the paper has it. "each": one question a fact, yes or no, graded by
            the two words' log-probabilities (by the word alone where the server tells none); presence alone.
        threshold: for "each", the score from which on a fact is "stated", see `calibration.fit_threshold`.
        cache: SQLite file of answers; None: a temporary one, kept as long as this object.
        step_deadline: seconds for one call of `judge`; what is unfinished then has no verdict.
        chat: further settings of `Chat`: revision (of the weights), api_key, timeout, deadline, concurrency,
            retries, attempts.

    Raises:
        InputError: a setting that cannot work.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        contradictions: bool | None = None,
        ask: Ask = "all",
        threshold: float = 0.5,
        cache: str | Path | None = None,
        step_deadline: float = 900,
        **chat: Any,
    ):
        if cache is None:
            self._folder = tempfile.TemporaryDirectory(prefix="judge-")
            cache = Path(self._folder.name) / "answers.sqlite"
        self._chat = {"url": url, "model": model, "cache": cache, **chat}
        self.host = Chat(**self._chat).host  # refuses bad settings now, not in the first step
        if ask not in get_args(Ask) or not 0 <= threshold <= 1:
            raise InputError(f"ask is {ask!r}, threshold {threshold}; give all or each, and 0 to 1")
        self.ask, self.graded = ask, ask == "each"
        if self.graded and contradictions:
            raise InputError("ask='each' is about presence alone; leave contradictions out")
        self.contradictions = not self.graded if contradictions is None else contradictions
        self.name, self.step_deadline = model, step_deadline
        # beside the threshold, the hash of the pairs that it was fitted on
        self.threshold, self.fitted_on = threshold, ""
        self.usage = Usage()
        self._round = 0  # see `again`

    async def judge(self, responses: Responses, annotations: Annotations) -> list[Verdict]:
        """One verdict a response; what goes wrong is named in `Verdict.failure` and never raised.

        Raises:
            InputError: not one list of annotations a response, or a cache file that cannot be used.
        """
        texts = [neutralise(response or "") for response in responses]
        failures = cannot_judge(texts, annotations)
        items = {
            place: (tuple(" ".join(fact.split()) for fact in annotations[place]), text)
            for place, text in enumerate(texts)
            if place not in failures
        }
        end = asyncio.get_running_loop().time() + self.step_deadline
        async with Chat(**self._chat) as chat:
            chat.usage = self.usage  # goes on counting
            # the questions about one response side by side
            cases = {item: self._cases(item) for item in sorted(set(items.values()))}
            distinct = list(dict.fromkeys(case for of_item in cases.values() for case in of_item))
            verdicts = await self._verdicts(chat, distinct, end)
        return [
            failures.get(place) or _joined([verdicts[case] for case in cases[items[place]]])
            for place in range(len(texts))
        ]

    def card(self) -> dict[str, object]:
        """See `judges.Judge`."""
        return {
            **super().card(),
            "revision": self._chat.get("revision", ""),
            "host": self.host,
            "prompt": FACT_PROMPT_HASH if self.graded else PROMPT_HASH,
            "contradictions": self.contradictions,
            "ask": self.ask,
        } | ({"threshold": self.threshold, "fitted on": self.fitted_on} if self.graded else {})

    def again(self) -> "LLMJudge":
        """The same judge in another round of questions, whose answers are kept apart from those so far."""
        other = copy.copy(self)
        other._round, other.usage = self._round + 1, Usage()
        return other

    def _cases(self, item: Case) -> list[Case]:
        """What is asked about: the whole, or each fact by itself."""
        facts, response = item
        return [((fact,), response) for fact in facts] if self.graded else [item]

    async def _verdicts(
        self, chat: Chat, items: Sequence[Case], end: float
    ) -> Mapping[Case, Verdict]:
        """All verdicts; where one failed in a way that a response can bring about, look who did it.

        The judge is asked about the same facts with a response that says nothing. If that goes well, and
        the question itself fails once more, then the response is what the judge cannot bear.
        """
        answers = await self._ask(chat, items, end)
        suspects = [item for item in items if _may_be_the_response(answers[item])]
        controls = sorted({(facts, CONTROL) for facts, _ in suspects})
        control_answers = await self._ask(chat, controls, end)
        suspects = [
            s for s in suspects if not isinstance(control_answers[s[0], CONTROL], ChatError)
        ]
        second = await self._ask(chat, suspects, end, after_control=True)
        return {
            item: Verdict(None, str(answer), by_response=_may_be_the_response(second.get(item)))
            if isinstance(answer, ChatError)
            else self._verdict_of(answer)
            for item, answer in (answers | second).items()
        }

    async def _ask(
        self, chat: Chat, items: Sequence[Case], end: float, after_control: bool = False
    ) -> dict[Case, object]:
        """The answer for each item."""
        requests = [self._request(*item, after_control) for item in items]
        left = max(0.0, end - asyncio.get_running_loop().time())
        answers = await chat.complete_all(requests, deadline=left, label="")
        return dict(zip(items, answers, strict=True))

    def _request(self, facts: tuple[str, ...], response: str, after_control: bool) -> Request:
        # The nonce is a hash of the question: no response can hold the hash of itself. Where a fact is asked about by
        # itself, the nonce does not depend on it, so that a server reads response and nonce once for all facts.
        about = () if self.graded else facts
        question = [about, response, self.contradictions, self._round, after_control]
        nonce = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]
        if self.graded:
            messages = FactPrompt(facts, response, nonce).messages()
            return Request(messages, sampling=GRADED, grade=yes_score)
        prompt = JudgePrompt(facts, response, nonce, self.contradictions)
        # the paper's 512 tokens where that is enough
        sampling = {"max_tokens": max(512, 64 + 24 * len(facts))}
        return Request(prompt.messages(), prompt.schema(), prompt.read, sampling)

    def _verdict_of(self, value: Any) -> Verdict:
        """Of a usable answer: marks, or one fact's score."""
        if not self.graded:
            return Verdict(value)
        return Verdict(["stated" if value >= self.threshold else "absent"], scores=[value])


def _joined(parts: Sequence[Verdict]) -> Verdict:
    """One verdict of the parts that were asked about; none where one part has none."""
    failed = [part for part in parts if part.marks is None]
    if failed or len(parts) == 1:
        return (failed or parts)[0]
    marks = [mark for part in parts for mark in part.marks]
    return Verdict(marks, scores=[score for part in parts for score in part.scores])


def _may_be_the_response(answer: object) -> bool:
    """Whether a failure is of a sort that the response could have brought about.

    The question was refused, or the model answered every time and never usably. Connections, time, and
    answers that are no chat completions are the server's affair.
    """
    if not isinstance(answer, ChatError):
        return False
    return bool(REFUSED.search(str(answer))) or (
        answer.reason == "unusable answer"
        and all(attempt.problem.startswith("unreadable") for attempt in answer.attempts)
    )
