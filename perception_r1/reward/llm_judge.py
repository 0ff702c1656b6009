"""A language model as judge, behind any OpenAI-compatible endpoint (vLLM first). Explained in notebook 03.

What is asked, and what counts as a verdict, is in `judge_prompt`. An answer that is none is asked for again, and
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
from typing import Any

from perception_r1.common.chat import REFUSED, Chat, ChatError, Reply, Request, Usage
from perception_r1.reward.judge_prompt import PROMPT_HASH, JudgePrompt, neutralise
from perception_r1.reward.judges import Annotations, Judge, Responses, Verdict, cannot_judge

CONTROL = "The figure is shown above."  # says nothing, and can hardly trouble a judge

Case = tuple[tuple[str, ...], str]  # what is judged: annotations, and a response
Answer = Reply | ChatError


class LLMJudge(Judge):
    """Asks a language model, one question a response with all its annotations (contract C6).

    Equal questions are asked once; answers are kept in `cache` and survive restarts. Questions with the
    same facts go out side by side and share their beginning, which helps a server's prefix cache.

    Args:
        url: the endpoint, usually ending in /v1.
        model: the server's name for the model.
        contradictions: three marks; False: the paper's question, presence alone.
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
        contradictions: bool = True,
        cache: str | Path | None = None,
        step_deadline: float = 900,
        **chat: Any,
    ):
        if cache is None:
            self._folder = tempfile.TemporaryDirectory(prefix="judge-")
            cache = Path(self._folder.name) / "answers.sqlite"
        self._chat = {"url": url, "model": model, "cache": cache, **chat}
        self.host = Chat(**self._chat).host  # refuses bad settings now, not in the first step
        self.name, self.contradictions, self.step_deadline = model, contradictions, step_deadline
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
            verdicts = await self._verdicts(chat, sorted(set(items.values())), end)
        return [failures.get(place) or verdicts[items[place]] for place in range(len(texts))]

    def card(self) -> dict[str, object]:
        """See `judges.Judge`."""
        return {
            **super().card(),
            "revision": self._chat.get("revision", ""),
            "host": self.host,
            "prompt": PROMPT_HASH,
            "contradictions": self.contradictions,
        }

    def again(self) -> "LLMJudge":
        """The same judge in another round of questions, whose answers are kept apart from those so far."""
        other = copy.copy(self)
        other._round, other.usage = self._round + 1, Usage()
        return other

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
        suspects = [s for s in suspects if isinstance(control_answers[s[0], CONTROL], Reply)]
        second = await self._ask(chat, suspects, end, after_control=True)
        return {
            item: Verdict(answer.value)
            if isinstance(answer, Reply)
            else Verdict(None, str(answer), by_response=_may_be_the_response(second.get(item)))
            for item, answer in (answers | second).items()
        }

    async def _ask(
        self, chat: Chat, items: Sequence[Case], end: float, after_control: bool = False
    ) -> dict[Case, Answer]:
        """The answer for each item."""
        requests = []
        for facts, response in items:
            # The nonce is a hash of the whole question: no response can hold the hash of itself.
            question = [facts, response, self.contradictions, self._round, after_control]
            nonce = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]
            prompt = JudgePrompt(facts, response, nonce, self.contradictions)
            # the paper's 512 tokens where that is enough
            sampling = {"max_tokens": max(512, 64 + 24 * len(facts))}
            requests.append(Request(prompt.messages(), prompt.schema(), prompt.read, sampling))
        left = max(0.0, end - asyncio.get_running_loop().time())
        answers = await chat.complete_all(requests, deadline=left, label="")
        return dict(zip(items, answers, strict=True))


def _is_refusal(answer: Answer | None) -> bool:
    return isinstance(answer, ChatError) and bool(REFUSED.search(str(answer)))


def _may_be_the_response(answer: Answer | None) -> bool:
    """Whether a failure is of a sort that the response could have brought about.

    The question was refused, or the model answered every time and never usably. Connections, time, and
    answers that are no chat completions are the server's affair.
    """
    if not isinstance(answer, ChatError):
        return False
    return _is_refusal(answer) or (
        answer.reason == "unusable answer"
        and all(attempt.problem.startswith("unreadable") for attempt in answer.attempts)
    )
