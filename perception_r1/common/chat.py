"""One client for any OpenAI-compatible chat endpoint. Used to extract annotations and to judge.

The SDK retries what the network and the server break; here are the deadlines, the bound on calls in
flight, answers checked against a schema, and the cache. Every answer is committed to the cache the
moment it arrives, so a killed run goes on where it stopped. (Equal requests in flight at the same time are each asked.)
"""

import asyncio
import base64
import functools
import hashlib
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError
from tqdm.auto import tqdm

from perception_r1.common.cache import Attempt, Cache
from perception_r1.common.errors import InputError, first_fault

# openai is imported where it is used: it takes half a second, and most runs ask no endpoint

REMEDIES = {  # by the reason that a ChatError has
    "unreachable": "start the server, or mend the URL (it usually ends in /v1)",
    "timeout": "use a faster server, lower `concurrency`, or allow a longer deadline",
    "unauthorised": "set OPENAI_API_KEY to a key that this server knows",
    "rate limited": "lower `concurrency`, or try again later",
    "refused": "check the model's name, the URL (it usually ends in /v1) and the prompt's length",
    "server error": "look into the server's log, or try again later",
    "unusable answer": "allow more `attempts` or tokens, or use a model that keeps to the schema",
}
# host and port, and perhaps a path
_URL = re.compile(r"https?://((?:[^/?#@:\s\[]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?)(?:/[^?#@\s]*)?")
STATUS = {408: "timeout", 429: "rate limited"} | dict.fromkeys((401, 403, 407), "unauthorised")
# Refusals of a question as it stands: a schema that the server does not take, too long, filtered. Servers word
# them in many ways, so that only asking something else tells which it was.
REFUSED = re.compile(r"HTTP (400|404|413|415|422|501)\b")


@dataclass(frozen=True)
class Request:
    """One question to the model.

    Args:
        messages: in the chat format, see `user_message`.
        schema: the answer must be JSON of this model; it becomes the server's `response_format`.
        read: makes the value of the answer's text, or raises ValueError where it cannot; by default
            the schema's own validation, or the text as it is.
        grade: in place of `read`, makes the value of the whole answer, its log-probabilities included; these
            must be asked for in `sampling` (`logprobs`, `top_logprobs`), and a server may not have them.
        sampling: adds to or replaces the chat's, sent as they are (`seed`, `max_tokens`, `top_k`).
            Independent samples of one prompt need different seeds, else they are one request.
    """

    messages: Sequence[Mapping]
    schema: type[BaseModel] | None = None
    read: Callable[[str], object] | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    grade: Callable[[Attempt], object] | None = None

    @property
    def reader(self) -> Callable[[str], object]:
        """What makes the value of the answer's text."""
        return self.read or (self.schema.model_validate_json if self.schema else str)


@dataclass
class Usage:
    """Sums over a `Chat`'s life, unusable answers included; tokens as far as the server told them."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: int = 0  # replies that the cache gave


class ChatError(RuntimeError):
    """No usable answer: one line naming the host, what happened and the remedy; `reason` says it in a word."""

    def __init__(self, reason: str, message: str, attempts: Sequence[Attempt] = ()):
        super().__init__(message)
        self.reason = reason
        self.attempts = tuple(attempts)


def user_message(text: str, *images: bytes) -> dict:
    """A user's message: the images (PNG or JPEG files as bytes) as data URLs, then the text."""
    parts = []
    for image in images:
        kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


@dataclass
class Chat:
    """One endpoint and model, to be used as `async with Chat(url, model) as chat:`.

    The connection lives and dies with that block, in the event loop that runs it; the same `Chat` may
    be entered again later, in another loop too.

    Args:
        url: the API's base, usually ending in /v1.
        model: the server's name for the model.
        revision: whatever else decides the answer (revision of the weights, version of the prompt); only
            part of the cache's key.
        sampling: sent with every request; greedy by default.
        cache: SQLite file of all answers, shared safely by several processes; None keeps them in memory.
        api_key: by default $OPENAI_API_KEY; it is kept out of the cache, logs and messages.
        timeout: seconds without a sign of life after which the SDK tries again.
        deadline: seconds for one request with all its tries and attempts, once it is under way.
        concurrency: requests in flight at most.
        retries: further tries of the SDK after a broken connection, a timeout, 408, 409, 429 or 5xx.
        attempts: answers asked for at most until one is usable.

    Raises:
        InputError: a URL, key or model that cannot work; on entering, a cache file that cannot be used.
    """

    url: str
    model: str
    _: KW_ONLY
    revision: str = ""
    sampling: Mapping[str, object] = field(default_factory=lambda: {"temperature": 0})
    cache: str | Path | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 60
    deadline: float = 180
    concurrency: int = 32
    retries: int = 2
    attempts: int = 3
    usage: Usage = field(default_factory=Usage, init=False)

    def __post_init__(self):
        if not (match := _URL.fullmatch(self.url)):
            raise InputError(
                "the chat endpoint's URL must look like http://localhost:8000/v1 (http or https, a host, no login, "
                "no ?query; a key goes into OPENAI_API_KEY); the one given is not repeated here, as it may hold a "
                "password"
            )
        self.host = match[1]
        self._key = (self.api_key or os.environ.get("OPENAI_API_KEY") or "none").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError("the API key holds characters that no key has; copy it anew")
        if not self.model:
            raise InputError("no model named; give the name under which the server serves it")

    async def __aenter__(self) -> "Chat":
        import openai

        self._answers = Cache(self.cache)
        self._slots = asyncio.Semaphore(self.concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key,
            max_retries=self.retries,
            timeout=openai.Timeout(self.timeout, connect=min(self.timeout, 10)),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        self._answers.close()

    async def complete_all(
        self, requests: Sequence[Request], *, deadline: float | None = None, label: str = ""
    ) -> list[object]:
        """Ask many questions, in order, with a progress bar; one that fails does not stop the others.

        Args:
            requests: all of them.
            deadline: seconds for all together; what is unfinished then is a ChatError ("timeout").
            label: stands before the progress bar; without one there is no bar.

        Returns:
            What came of each request, in the order given: the value of its answer, or a ChatError.

        Raises:
            InputError: the cache file cannot be used (damaged, full disk); what it holds stays.
        """
        end = None if deadline is None else asyncio.get_running_loop().time() + deadline

        async def ask(request: Request) -> object:
            try:
                async with asyncio.timeout_at(end):
                    return await self.complete(request)
            except ChatError as error:
                return error
            except TimeoutError:
                late = f"unfinished when the {deadline:g} s for the whole step had passed"
                return self._error("timeout", late)
            finally:
                bar.update()

        with tqdm(total=len(requests), desc=label, disable=None if label else True) as bar:
            try:
                async with asyncio.TaskGroup() as group:  # one that cannot be kept stops the others
                    tasks = [group.create_task(ask(request)) for request in requests]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def complete(self, request: Request) -> object:
        """Ask one question.

        A request that is refused with a schema or with log-probabilities is made once more without: its words should
        say the form, too.

        Returns:
            The value of the answer: the validated object, or what `read` or `grade` made of it; else its text.

        Raises:
            ChatError: no usable answer came.
            InputError: the cache file cannot be used (damaged, full disk).
        """
        try:
            return await self._complete(request)
        except ChatError as error:
            plain = {k: v for k, v in request.sampling.items() if "logprobs" not in k}
            special = request.schema or plain != request.sampling
            if not (special and REFUSED.search(str(error))) or error.attempts:
                raise
        plain_request = replace(request, schema=None, read=request.reader, sampling=plain)
        return await self._complete(plain_request)

    async def _complete(self, request: Request) -> object:
        body = {**self.sampling, **request.sampling}
        if request.schema:
            body["response_format"] = _response_format(request.schema)
        key = self._cache_key(request, body)
        attempts: list[Attempt] = []
        for attempt in self._answers.get(key):
            value, problem = _read(request, attempt)
            attempts.append(replace(attempt, problem=problem))
            if not problem:
                self.usage.cached += 1
                return value
        try:
            async with self._slots, asyncio.timeout(self.deadline):
                return await self._ask(request, key, body, attempts)
        except TimeoutError:
            late = f"no usable answer within {self.deadline:g} s"
            raise self._error("timeout", late, attempts) from None

    async def _ask(self, request: Request, key: str, body: dict, attempts: list[Attempt]) -> object:
        """Ask until an answer is usable; every answer joins `attempts`, and the cache."""
        while len(attempts) < self.attempts:
            content = await self._post(request, body, attempts)
            try:
                attempt = _parse(content)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                problem = f"not a chat completion ({type(error).__name__})"  # nothing to keep
                attempts.append(Attempt("", problem=problem))
                continue
            attempt = replace(attempt, text=self._redact(attempt.text))
            self._answers.add(key, attempt)
            self.usage.answers += 1
            self.usage.prompt_tokens += attempt.prompt_tokens
            self.usage.completion_tokens += attempt.completion_tokens
            value, problem = _read(request, attempt)
            attempts.append(replace(attempt, problem=problem))
            if not problem:
                return value
        last = f"no usable answer in {len(attempts)} attempts, the last one {attempts[-1].problem}"
        raise self._error("unusable answer", last, attempts)

    async def _post(self, request: Request, body: dict, attempts: Sequence[Attempt]) -> bytes:
        import openai

        create = self._client.chat.completions.with_raw_response.create
        # the SDK walks through what it knows, word by word; what is extra it sends as it stands
        extra = {"messages": list(request.messages), **body}
        try:
            raw = await create(model=self.model, messages=[], extra_body=extra)
            return raw.content
        except openai.APITimeoutError:
            failure = "timeout", "no sign of life within the timeout, in every try"
        except openai.APIStatusError as error:
            failure = _failure(error.status_code, error.body)
        except openai.APIError as error:
            failure = "unreachable", f"no connection, or a broken one ({error.__cause__})"
        # raised out here, since the SDK's error holds the request and with it the key
        raise self._error(*failure, attempts)

    def _error(self, reason: str, failure: str, attempts: Sequence[Attempt] = ()) -> ChatError:
        failure = textwrap.shorten(self._redact(failure), 300, placeholder="...")
        line = f"chat endpoint {self.host}, model {self.model}: {failure}; {REMEDIES[reason]}"
        return ChatError(reason, line, attempts)

    def _redact(self, text: str) -> str:
        # a word as short as "none" or "EMPTY" is no secret, and would be cut out of honest answers
        return text.replace(self._key, "***") if len(self._key) >= 8 else text

    def _cache_key(self, request: Request, body: dict) -> str:
        everything = [self.model, self.revision, list(request.messages), body]  # images and all
        try:
            text = json.dumps(everything, sort_keys=True, ensure_ascii=False, allow_nan=False)
            return hashlib.sha256(text.encode()).hexdigest()
        except (TypeError, ValueError) as error:  # a lone surrogate, a NaN, an object
            raise self._error("refused", f"the request is not JSON in UTF-8 ({error})") from None


def _parse(content: bytes) -> Attempt:
    """The little of a chat completion that is read here; servers differ in the rest, and may leave out counts."""
    answer = json.loads(content)
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    text = choice["message"].get("content")
    text = "" if text is None else text
    end = str(choice.get("finish_reason") or "")
    (text + end).encode()  # neither a number nor half a character
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [n if isinstance(n, int) and 0 < n < 2**31 else 0 for n in counts]
    return Attempt(text, end, *tokens, logprobs=_logprobs(choice))


def _logprobs(choice: Mapping) -> dict[str, float]:
    """The first token's likeliest ones; empty where the server tells none, or nonsense."""
    try:
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(str(token["token"]), float(token["logprob"])) for token in first]
    except (LookupError, TypeError, ValueError, OverflowError):
        return {}
    return {token: value for token, value in pairs if -math.inf < value <= 1e-6}


def _failure(status: int, body: object) -> tuple[str, str]:
    """The reason and the words of an answer that is an HTTP error."""
    words = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    other = "server error" if status == 409 or status >= 500 else "refused"
    return STATUS.get(status, other), f"HTTP {status}, {words}" if words else f"HTTP {status}"


def _read(request: Request, attempt: Attempt) -> tuple[object, str]:
    """The value of an answer and an empty string, or None and what is wrong with it."""
    read, text = request.reader, attempt.text
    if read is not str:  # JSON, which models think before, and put into a fence
        text = text.rpartition("</think>")[2].strip()
        text = re.sub(r"^```(?:json)?\s*|\s*```$", "", text)
    try:
        if request.grade:
            return request.grade(attempt), ""
        if not text.strip():
            raise ValueError("the text is empty")
        return read(text), ""
    except ValueError as error:  # pydantic's is one
        fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
        cut = ", cut off at the token limit" if attempt.finish_reason == "length" else ""
        return None, f"unreadable{cut}: {fault}"


@functools.lru_cache(maxsize=256)
def _response_format(schema: type[BaseModel]) -> dict:
    import openai

    tool = openai.pydantic_function_tool(schema)["function"]  # its parameters are the strict schema
    shape = {"name": tool["name"][:64], "strict": True, "schema": tool["parameters"]}
    return {"type": "json_schema", "json_schema": shape}
