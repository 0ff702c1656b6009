"""One client for any OpenAI-compatible chat endpoint. Used to extract annotations and to judge.

The SDK retries what the network and the server break; here are the deadlines, the bound on calls in
flight, answers checked against a schema, and the cache. Every answer is committed to the cache the
moment it arrives, so a killed run goes on where it stopped and no answer is paid twice.
"""

import asyncio
import base64
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, ValidationError
from tqdm.auto import tqdm

from perception_r1.common.cache import Attempt, Cache
from perception_r1.common.errors import InputError

if TYPE_CHECKING:
    import openai

Reason = Literal[
    "unreachable", "timeout", "unauthorised", "rate limited", "refused", "server error",
    "unusable answer",
]  # fmt: skip
REMEDIES: dict[Reason, str] = {
    "unreachable": "start the server, or mend the URL (it usually ends in /v1)",
    "timeout": "use a faster server, lower `concurrency`, or allow a longer deadline",
    "unauthorised": "set OPENAI_API_KEY to a key that this server knows",
    "rate limited": "lower `concurrency`, or try again later",
    "refused": "check the model's name, the URL (it usually ends in /v1) and the prompt's length",
    "server error": "look into the server's log, or try again later",
    "unusable answer": "allow more `attempts` or tokens, or use a model that keeps to the schema",
}
STATUS: dict[int, Reason] = {
    401: "unauthorised", 403: "unauthorised", 407: "unauthorised", 408: "timeout", 429: "rate limited",
}  # fmt: skip
MAX_CONCURRENCY = 1000  # connections that the SDK's own pool opens at most
ONCE = "\ue000once\ue000"  # private characters, which no answer may bring along itself
IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@functools.cache
def _sdk() -> ModuleType:
    """OpenAI's client; imported late, since it takes half a second and 20 MB, and most runs ask no endpoint."""
    import openai

    return openai


@dataclass(frozen=True)
class Request:
    """One question to the model.

    Args:
        messages: in the chat format, see `user_message`.
        schema: the answer must be JSON of this model; it becomes the server's `response_format`.
        read: makes the value of the answer's text, or raises ValueError where it cannot; by default
            the schema's own validation, or the text as it is.
        sampling: adds to or replaces the chat's, sent as they are (`seed`, `max_tokens`, `top_k`).
            Independent samples of one prompt need different seeds, else they are one request.
        known_by: stands for the messages in the cache's key, where these hold what must not count there
            (the judge's nonce, new in every run).
        once: that nonce. In the answer's text, as it is kept and read, `ONCE` stands in its place, so that an
            answer from the cache reads like a new one.
    """

    messages: Sequence[Mapping]
    schema: type[BaseModel] | None = None
    read: Callable[[str], object] | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    known_by: object = None
    once: str = ""


@dataclass(frozen=True)
class Reply:
    """A usable answer.

    `value` is the validated object, or the text where neither schema nor reader was given. Tokens are
    summed over `attempts`, of which the last is the usable one. `cached`: nothing was asked for it.
    """

    text: str
    value: object
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached: bool
    attempts: tuple[Attempt, ...]


@dataclass
class Usage:
    """Sums over a `Chat`'s life, unusable answers included; tokens as the server counted them."""

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0  # answers asked of a server that told no token counts
    cached: int = 0  # replies for which nothing was asked
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0


class ChatError(RuntimeError):
    """No usable answer: one line naming the host, what happened and the remedy; `reason` says it in a word."""

    def __init__(self, reason: Reason, message: str, attempts: Sequence[Attempt] = ()):
        super().__init__(message)
        self.reason = reason
        self.attempts = tuple(attempts)


def user_message(text: str, *images: bytes) -> dict:
    """A user's message: the images (PNG or JPEG files as bytes) as data URLs, then the text.

    Raises:
        InputError: bytes that are neither PNG nor JPEG.
    """
    parts = []
    for number, image in enumerate(images, start=1):
        kind = next((kind for start, kind in IMAGE_TYPES.items() if image.startswith(start)), None)
        if kind is None:
            raise InputError(f"image {number} is neither PNG nor JPEG; save it as PNG")
        url = f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


class Chat:
    """One endpoint and model, to be used as `async with Chat(url, model) as chat:`.

    The connection lives and dies with that block, in the event loop that runs it; the same `Chat` may
    be entered again later, in another loop too.

    Args:
        url: the API's base, usually ending in /v1; `user:password@` in it becomes a login.
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
        InputError: a setting that cannot work; on entering, a cache file that cannot be used.
    """

    def __init__(
        self, url: str, model: str, *, revision: str = "", sampling: Mapping[str, object] | None = None,
        cache: str | Path | None = None, api_key: str | None = None, timeout: float = 60,
        deadline: float = 180, concurrency: int = 32, retries: int = 2, attempts: int = 3,
    ):  # fmt: skip
        self.host, self._url, login = _split(url)
        key = (api_key or os.environ.get("OPENAI_API_KEY") or "none").strip()
        if not (key.isascii() and key.isprintable()):
            raise InputError("the API key holds characters that no key has; copy it anew")
        if not model:
            raise InputError("no model named; give the name under which the server serves it")
        for name, value, low, high in (
            ("timeout", timeout, 0.001, 86400), ("deadline", deadline, 0.001, 86400), ("attempts", attempts, 1, 100),
            ("retries", retries, 0, 100), ("concurrency", concurrency, 1, MAX_CONCURRENCY),
        ):  # fmt: skip
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; it must lie between {low} and {high}")
        self.model, self.revision, self.attempts = model, revision, attempts
        self.sampling = {"temperature": 0} if sampling is None else dict(sampling)
        self.deadline, self.concurrency, self.cache = deadline, concurrency, cache
        self.usage = Usage()
        basic = base64.b64encode(login.encode()).decode("ascii")
        # A word as short as "none" or "EMPTY" is no secret, and would be cut out of honest answers.
        words = (key, basic, login, login.partition(":")[2])
        self._secrets = [word for word in words if len(word) >= 8]
        self._settings = {
            "base_url": self._url, "api_key": key, "max_retries": retries,
            "timeout": _sdk().Timeout(timeout, connect=min(timeout, 10)),
            "default_headers": {"Authorization": f"Basic {basic}"} if login else None,
        }  # fmt: skip
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task] = set()
        self._flights: dict[tuple, _Flight] = {}

    async def __aenter__(self) -> "Chat":
        if self._loop is not None:
            raise RuntimeError("this Chat is open already; make another one")
        self._answers = Cache(self.cache)
        self._client = _sdk().AsyncOpenAI(**self._settings)
        self._slots = asyncio.Semaphore(self.concurrency)
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None
        await _cancel(self._tasks)
        await self._client.close()
        self._answers.close()

    async def complete(
        self, messages: Sequence[Mapping], schema: type[BaseModel] | None = None, **more: Any
    ) -> Reply:
        """Ask one question; `more` are the other fields of `Request`.

        Raises:
            ChatError: no usable answer came.
            InputError: the cache file cannot be used (damaged, full disk).
        """
        return await self._complete(Request(messages, schema, **more))

    async def complete_all(
        self, requests: Iterable[Request], *, deadline: float | None = None, label: str = "chat"
    ) -> list[Reply | ChatError]:
        """Ask many questions, in order, with a progress bar; one that fails does not stop the others.

        Args:
            requests: a list, or a generator that builds them (with their images) as they are needed.
            deadline: seconds for all together; what is unfinished then is a ChatError ("timeout").
            label: stands before the progress bar; without one there is no bar.

        Returns:
            What came of each request, in the order given.

        Raises:
            InputError: the cache file cannot be used (damaged, full disk); what it holds stays.
        """
        end = None if deadline is None else asyncio.get_running_loop().time() + deadline
        results: dict[int, Reply | ChatError] = {}
        waiting = enumerate(requests)

        async def work() -> None:
            for index, request in waiting:
                try:
                    async with asyncio.timeout_at(end):
                        results[index] = await self._complete(request)
                except ChatError as error:
                    results[index] = error
                except TimeoutError:
                    what = f"unfinished when the {deadline:g} s for the whole step had passed"
                    results[index] = self._error("timeout", what)
                bar.update()
                await asyncio.sleep(0)  # cached answers alone would never give way to others

        total = len(requests) if isinstance(requests, Sized) else None
        with tqdm(total=total, desc=label, unit="request", disable=None if label else True) as bar:
            # Twice as many as slots: who waits for an equal request in flight leaves no slot idle.
            workers = {asyncio.create_task(work()) for _ in range(2 * self.concurrency)}
            try:
                await asyncio.gather(*workers)
            finally:
                await _cancel(workers)
            bar.set_postfix(failed=sum(isinstance(r, ChatError) for r in results.values()))
        return [results[index] for index in range(len(results))]

    async def _complete(self, request: Request) -> Reply:
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("a Chat works inside its own `async with` block, in one event loop")
        body = {**self.sampling, **request.sampling}
        if request.schema:
            body["response_format"] = _response_format(request.schema)
        key = self._key(request, body)
        identity = (key, request.schema, request.read)
        flight, joined = self._flights.get(identity), True
        if flight is None:
            attempts, value = [], None
            for attempt in self._answers.get(key):
                value, problem = _read(request, attempt)
                attempts.append(replace(attempt, problem=problem))
                if not problem:
                    return self._reply(attempts, value, cached=True)
            task = asyncio.create_task(self._ask(request, key, body, attempts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            flight, joined = self._flights.setdefault(identity, _Flight(task)), False
        flight.waiters += 1
        try:
            reply = await asyncio.shield(flight.task)  # one who gives up must not stop the others
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                del self._flights[identity]
                flight.task.cancel()
        return self._reply(reply.attempts, reply.value, cached=True) if joined else reply

    async def _ask(self, request: Request, key: str, body: dict, attempts: list[Attempt]) -> Reply:
        async with self._slots:
            try:
                async with asyncio.timeout(self.deadline):
                    while len(attempts) < self.attempts:
                        attempt = await self._post(request, body)
                        if not attempt.problem:  # else not even a chat completion: nothing to keep
                            self._answers.add(key, attempt)
                            self._count(attempt)
                            value, problem = _read(request, attempt)
                            attempt = replace(attempt, problem=problem)
                        attempts.append(attempt)
                        if not attempt.problem:
                            return self._reply(attempts, value, cached=False)
            except TimeoutError:
                what = f"no usable answer within {self.deadline:g} s"
                raise self._error("timeout", what, attempts) from None
            except ChatError as error:
                error.attempts = tuple(attempts)
                raise
        raise self._unusable(attempts)

    async def _post(self, request: Request, body: dict) -> Attempt:
        create = self._client.chat.completions.with_raw_response.create
        failure = None
        try:
            # the SDK walks through what it knows, word by word; what is extra it sends as it stands
            extra = {"messages": list(request.messages), **body}
            raw = await create(model=self.model, messages=[], extra_body=extra)
        except _sdk().APIError as error:
            failure = self._failure(error)
        if failure:  # raised out here, since the SDK's error holds the request and with it the key
            raise failure
        try:
            answer = _Completion.model_validate_json(raw.content)
        except ValidationError as error:
            return Attempt("", problem=f"not a chat completion: {_first(error)}")
        choice, usage = answer.choices[0], answer.usage or _Tokens()
        text, end = self._redact(choice.message.content or ""), choice.finish_reason or ""
        if request.once:
            text = text.replace(ONCE, "").replace(request.once, ONCE)
        return Attempt(text, end, usage.prompt_tokens, usage.completion_tokens)

    def _failure(self, error: "openai.APIError") -> ChatError:
        if isinstance(error, _sdk().APITimeoutError):
            return self._error("timeout", "no sign of life within the timeout, in every try")
        if not isinstance(error, _sdk().APIStatusError):
            return self._error("unreachable", f"no connection, or a broken one ({error.__cause__})")
        status, body = error.status_code, error.body
        said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        after = error.response.headers.get("retry-after")
        what = [f"HTTP {status}", after and f"Retry-After {after}", said and str(said)]
        other = "server error" if status == 409 or status >= 500 else "refused"
        return self._error(STATUS.get(status, other), ", ".join(part for part in what if part))

    def _unusable(self, attempts: list[Attempt]) -> ChatError:
        what = f"no usable answer in {len(attempts)} attempts, the last one {attempts[-1].problem}"
        return self._error("unusable answer", what, attempts)

    def _error(self, reason: Reason, what: str, attempts: Sequence[Attempt] = ()) -> ChatError:
        what = " ".join(self._redact(what).split())
        what = what if len(what) <= 300 else f"{what[:300]}..."
        line = f"chat endpoint {self.host}, model {self.model}: {what}; {REMEDIES[reason]}"
        return ChatError(reason, line, attempts)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _key(self, request: Request, body: dict) -> str:
        asked = list(request.messages) if request.known_by is None else request.known_by
        everything = [self.model, self.revision, asked, body]  # images stand in the messages
        try:
            text = json.dumps(everything, sort_keys=True, ensure_ascii=False, allow_nan=False)
            return hashlib.sha256(text.encode()).hexdigest()
        except (TypeError, ValueError) as error:  # a lone surrogate, a NaN, an object
            raise self._error("refused", f"the request is not JSON in UTF-8 ({error})") from None

    def _count(self, attempt: Attempt) -> None:
        self.usage.asked += 1
        self.usage.prompt_tokens += attempt.prompt_tokens
        self.usage.completion_tokens += attempt.completion_tokens
        self.usage.uncounted += not (attempt.prompt_tokens or attempt.completion_tokens)

    def _reply(self, attempts: Sequence[Attempt], value: object, cached: bool) -> Reply:
        prompt = sum(attempt.prompt_tokens for attempt in attempts)
        completion = sum(attempt.completion_tokens for attempt in attempts)
        if cached:
            self.usage.cached += 1
            self.usage.cached_prompt_tokens += prompt
            self.usage.cached_completion_tokens += completion
        last = attempts[-1]
        text, end = last.text, last.finish_reason
        return Reply(text, value, end, prompt, completion, cached, tuple(attempts))


@dataclass
class _Flight:
    """A request under way, and how many wait for it."""

    task: asyncio.Task
    waiters: int = 0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Tokens(BaseModel):
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)


class _Completion(BaseModel):
    """The little of a chat completion that is read here; servers differ in the rest."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens | None = None


def _read(request: Request, attempt: Attempt) -> tuple[object, str]:
    """The value of an answer and an empty string, or None and what is wrong with it."""
    read = request.read or (request.schema.model_validate_json if request.schema else str)
    try:
        if not attempt.text.strip():
            raise ValueError("the text is empty")
        return read(attempt.text), ""
    except ValueError as error:  # pydantic's is one
        said = _first(error) if isinstance(error, ValidationError) else str(error)
        cut = ", cut off at the token limit" if attempt.finish_reason == "length" else ""
        return None, f"unreadable{cut}: {said}"


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints, without the input it complains about."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


@functools.lru_cache(maxsize=256)
def _response_format(schema: type[BaseModel]) -> dict:
    tool = _sdk().pydantic_function_tool(schema)["function"]  # its parameters are the strict schema
    shape = {"name": tool["name"][:64], "strict": True, "schema": tool["parameters"]}
    return {"type": "json_schema", "json_schema": shape}


def _split(url: str) -> tuple[str, str, str]:
    """Host, URL without its login, and the login ("user:password" or empty)."""
    try:
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        fits = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment:
        raise InputError(
            "the chat endpoint's URL must look like http://localhost:8000/v1 (http or https, a host, "
            "no ?query); the one given does not and is not repeated here, as it may hold a password"
        )
    return host, parts._replace(netloc=host).geturl(), unquote(login)


async def _cancel(tasks: Iterable[asyncio.Task]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
