"""chat.py and cache.py against a real HTTP server on loopback; no patched client anywhere."""

import asyncio
import base64
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from perception_r1.common.cache import Attempt, Cache
from perception_r1.common.chat import REMEDIES, Chat, ChatError, Request, user_message
from perception_r1.common.errors import InputError
from tests.conftest import png
from tests.judging import KEY, SOON
from tests.stub_server import StubServer, cut, drip, good, hang, raw, status, until


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid")
    facts: list[str]


class Other(BaseModel):
    facts: list[str]
    sure: bool = True


def ask(text: str = "What is AB?", *images: bytes, **more) -> Request:
    return Request([user_message(text, *images)], **more)


def run_all(url: str, requests, **settings):
    async def main():
        async with Chat(url, "stub", **settings) as chat:
            return await chat.complete_all(requests), chat.usage

    return asyncio.run(main())


def run_one(server: StubServer, request: Request | None = None, **settings) -> object:
    ((reply,), _) = run_all(server.url, [request or ask()], **settings)
    if isinstance(reply, ChatError):
        raise reply
    return reply


def texts_in(path) -> list[str]:
    with sqlite3.connect(path) as db:
        return [text for (text,) in db.execute("SELECT text FROM answers ORDER BY id")]


# ---------------------------------------------------------------- what goes over the wire


def test_request_on_the_wire():
    image = png("red")
    with StubServer(lambda call: good('{"facts": ["AB is 10."]}')) as server:
        request = Request(
            [{"role": "system", "content": "Read."}, user_message("Which facts?", image)],
            Facts,
            sampling={"seed": 3, "top_k": 20},
        )
        reply = run_one(server, request, api_key=KEY)
    body, headers = server.calls[0].body, server.calls[0].headers
    assert body["model"] == "stub"
    assert (body["temperature"], body["seed"], body["top_k"]) == (0, 3, 20)
    assert body["messages"][0] == {"role": "system", "content": "Read."}
    picture, text = body["messages"][1]["content"]
    assert text == {"type": "text", "text": "Which facts?"}
    head, _, data = picture["image_url"]["url"].partition(",")
    assert (head, base64.b64decode(data)) == ("data:image/png;base64", image)
    assert "image/jpeg" in str(user_message("x", b"\xff\xd8\xff..."))
    assert headers["authorization"] == f"Bearer {KEY}"
    shape = body["response_format"]
    assert (shape["type"], shape["json_schema"]["strict"]) == ("json_schema", True)
    schema = shape["json_schema"]["schema"]
    assert schema["properties"]["facts"]["items"] == {"type": "string"}
    assert (schema["required"], schema["additionalProperties"]) == (["facts"], False)
    assert reply == Facts(facts=["AB is 10."])


def test_impossible_settings():
    fit = {"url": "http://127.0.0.1:1/v1", "model": "stub"}
    urls = "localhost:8000 http:///v1 http://host:port/v1 http://me:hidden@host/v1 http://host/v1?key=hidden"
    bad = [("url", url, "URL must look like") for url in urls.split()]
    bad += [("model", "", "model"), ("api_key", "hidden\nx", "key"), ("api_key", "hiddén", "key")]
    for name, value, words in bad:
        with pytest.raises(InputError, match=words) as caught:
            Chat(**{**fit, name: value})
        assert "hidden" not in str(caught.value)


# ---------------------------------------------------------------- unusable answers


def test_bad_json_is_asked_again_and_recorded(tmp_path):
    texts = ["Sure! Here you go", '{"facts": "AB"}', '{"facts": ["AB is 10."]}']
    with StubServer(lambda call: good(texts[call.number], prompt=100)) as server:
        (reply,), usage = run_all(server.url, [ask(schema=Facts)], cache=tmp_path / "c.sqlite")
        assert server.count == 3
        assert reply.facts == ["AB is 10."] and texts_in(tmp_path / "c.sqlite") == texts
        assert vars(usage) == {"answers": 3, "prompt_tokens": 300, "completion_tokens": 15, "cached": 0}  # fmt: skip

        (again,), usage = run_all(server.url, [ask(schema=Facts)], cache=tmp_path / "c.sqlite")
        assert server.count == 3
        assert again == reply
        assert (usage.answers, usage.prompt_tokens, usage.cached) == (0, 0, 1)


def test_budget_spent_is_remembered_and_can_be_raised(tmp_path):
    with StubServer(lambda call: good('{"facts": [1,', finish_reason="length")) as server:
        for _ in range(2):
            with pytest.raises(ChatError, match="no usable answer in 2 attempts") as caught:
                run_one(server, ask(schema=Facts), attempts=2, cache=tmp_path / "c.sqlite")
            assert caught.value.reason == "unusable answer"
            assert [attempt.text for attempt in caught.value.attempts] == ['{"facts": [1,'] * 2
            assert "cut off at the token limit" in str(caught.value)
            assert "`attempts`" in str(caught.value)
            assert server.count == 2  # not paid again
        server.answer = lambda call: good('{"facts": []}')
        reply = run_one(server, ask(schema=Facts), attempts=3, cache=tmp_path / "c.sqlite")
        assert (server.count, reply) == (3, Facts(facts=[]))
        server.answer = lambda call: good("half a chain of", finish_reason="length")
        assert (
            run_one(server, ask(grade=lambda a: a)).finish_reason == "length"
        )  # the caller decides


NOT_COMPLETIONS = {
    "html": raw("<html><body>Welcome to nginx</body></html>", "text/html"),
    "content is a number": raw('{"choices": [{"message": {"content": 5}}]}'),
    "not utf-8": raw(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "lone surrogate": raw('{"choices": [{"message": {"content": "\\ud800"}}]}'),
    "deep": raw("[" * 100_000),
    "broken gzip": raw(b"\x1f\x8bnot gzip", content_encoding="gzip"),
}


@pytest.mark.parametrize("name", NOT_COMPLETIONS)
def test_bodies_that_are_no_completion(name, tmp_path):
    with StubServer(lambda call: NOT_COMPLETIONS[name]) as server:
        with pytest.raises(ChatError) as caught:
            run_one(server, attempts=2, retries=0, cache=tmp_path / "c.sqlite")
        broken = name == "broken gzip"  # never becomes a body: the connection's fault to the SDK
        assert caught.value.reason == ("unreachable" if broken else "unusable answer")
        assert all(a.problem.startswith("not a chat completion") for a in caught.value.attempts)
        assert "\n" not in str(caught.value)
        assert texts_in(tmp_path / "c.sqlite") == []  # no answer of the model: nothing to keep
        server.answer = lambda call: good("fine now")
        assert run_one(server, cache=tmp_path / "c.sqlite") == "fine now"


def test_empty_answers():
    with StubServer(lambda call: good([None, " \n"][call.number])) as server:
        with pytest.raises(ChatError, match="the text is empty") as caught:
            run_one(server, attempts=2)
    assert [attempt.text for attempt in caught.value.attempts] == ["", " \n"]


NO_LOGPROBS = [None, "x", {}, {"content": []}, {"content": [{"top_logprobs": None}]}]
NO_LOGPROBS += [{"content": [{"top_logprobs": [{"token": "a", "logprob": v}]}]} for v in (None, 2)]


def test_impossible_token_counts_and_log_probabilities_discard_nothing(tmp_path):
    odd = [{"usage": {"prompt_tokens": n, "completion_tokens": 7}} for n in (None, -1, 2**70)]
    odd += [{"usage": None}, *({"logprobs": given} for given in NO_LOGPROBS)]

    def answer(call):
        more = odd[int(call.text)]
        return raw(json.dumps({"choices": [{"message": {"content": "x"}, **more}], **more}))

    with StubServer(answer) as server:
        for asked in (len(odd), 0):
            requests = [ask(str(k), grade=lambda attempt: attempt) for k in range(len(odd))]
            replies, usage = run_all(server.url, requests, cache=tmp_path / "c.sqlite")
            read = [(reply.text, reply.logprobs) for reply in replies]
            assert read == [("x", {})] * len(odd)
            assert (usage.answers, usage.prompt_tokens) == (asked, 0)
    assert replies[0].completion_tokens == 7


@pytest.fixture(scope="module")
def fuzz_server():
    with StubServer(lambda call: good("x")) as server:
        yield server


NAMES = ["choices", "message", "content", "usage", "prompt_tokens", "error", "finish_reason"]
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES | BODIES.map(lambda b: {"choices": [{"message": {"content": "x"}}], "usage": b}))
def test_any_json_is_a_reply_or_a_chat_error(body, fuzz_server):
    fuzz_server.answer = lambda call: raw(json.dumps(body))
    (result,), _ = run_all(fuzz_server.url, [ask()], attempts=1, retries=0)
    assert isinstance(result, str) or result.reason == "unusable answer"


# ---------------------------------------------------------------- faults of server and network

FAULTS = {
    "401": (status(401, "Incorrect API key provided"), "unauthorised", "OPENAI_API_KEY"),
    "404": (status(404, "The model `stub` does not exist"), "refused", "does not exist"),
    "422": (status(422, "first\r\n  second " + "x" * 9999), "refused", "first second"),
    "408": (status(408, **SOON), "timeout", "HTTP 408"),
    "409": (status(409, **SOON), "server error", "HTTP 409"),
    "429": (status(429, "slow down", **SOON), "rate limited", "HTTP 429"),
    "500": (status(500, "boom", **SOON), "server error", "HTTP 500, boom"),
    "cut": (cut(), "unreachable", "broken"),
    "hang": (hang(), "timeout", "no sign of life"),
}
TRIED_AGAIN = {"408", "409", "429", "500", "cut", "hang"}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_becomes_one_clear_line(name):
    plan, reason, words = FAULTS[name]
    with StubServer(lambda call: plan) as server:
        with pytest.raises(ChatError) as caught:
            run_one(server, timeout=0.3, retries=1)
        port = server._http.server_port
    message = str(caught.value)
    assert caught.value.reason == reason
    assert words in message
    assert message.startswith(f"chat endpoint 127.0.0.1:{port}, model stub: ")
    assert message.endswith(REMEDIES[reason])
    assert "\n" not in message and len(message) < 500
    assert server.count == (2 if name in TRIED_AGAIN else 1)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize("plan", [hang(), drip()], ids=["hang", "drip"])
def test_deadline_of_a_call(plan):
    """A server that sends a byte now and then outlives every read timeout; not the deadline."""
    with StubServer(lambda call: good("bad") if call.number == 0 else plan) as server:
        began = time.monotonic()
        with pytest.raises(ChatError, match="no usable answer within 0.5 s") as caught:
            run_one(server, ask(schema=Facts), deadline=0.5)
        assert time.monotonic() - began < 5
    assert caught.value.reason == "timeout"
    assert [attempt.text for attempt in caught.value.attempts] == ["bad"]  # paid, and told


def test_deadline_counts_from_the_slot_not_from_the_queue():
    """Twelve calls of 0.2 s through two slots take 1.2 s; none of them takes 0.8 s."""
    with StubServer(lambda call: good("ok").after(0.2)) as server:
        requests = [ask(str(i)) for i in range(12)]
        results, _ = run_all(server.url, requests, concurrency=2, deadline=0.8)
    assert results == ["ok"] * 12


# ---------------------------------------------------------------- many at once


def test_order_and_one_fault_does_not_stop_the_rest():
    bad = [ask("\ud800"), ask(sampling={"temperature": float("nan")}), Request([{"x": object()}])]
    seen = set()

    def answer(call):
        if call.text.endswith("3") and call.text in seen:
            return status(400, "unlucky")
        seen.add(call.text)
        return good("no json" if call.text.endswith("3") else f'{{"facts": ["{call.text}"]}}')

    with StubServer(answer) as server:
        requests = [ask(str(i), schema=Facts) for i in range(30)]
        results, usage = run_all(server.url, [*bad, *requests])
    assert [result.reason for result in results[:3]] == ["refused"] * 3
    for number, result in enumerate(results[3:]):
        if number % 10 == 3:
            assert result.reason == "refused" and "unlucky" in str(result)
            assert [attempt.text for attempt in result.attempts] == ["no json"]  # paid, and told
        else:
            assert result.facts == [str(number)]
    assert (usage.answers, usage.prompt_tokens, server.count) == (30, 300, 33)


def test_concurrency_bound_is_kept_and_used():
    async def main(url):
        async with Chat(url, "stub", concurrency=5) as chat:
            batches = [[ask(f"{b} {i}") for i in range(20)] for b in range(3)]
            await asyncio.gather(*(chat.complete_all(batch) for batch in batches))

    with StubServer(lambda call: good("ok").after(0.05)) as server:
        asyncio.run(main(server.url))
    assert (server.count, server.most_in_flight) == (60, 5)


# ---------------------------------------------------------------- the cache


def test_everything_that_decides_the_answer_is_in_the_key(tmp_path):
    red, base = png("red"), {"model": "m", "revision": "1"}
    variants = [
        (base, ask("q", red)),
        ({**base, "model": "n"}, ask("q", red)),
        ({**base, "revision": "2"}, ask("q", red)),
        ({**base, "sampling": {"temperature": 1}}, ask("q", red)),
        (base, ask("q", red, sampling={"seed": 1, "top_p": 0.5})),
        (base, ask("q", red, sampling={"seed": 2, "top_p": 0.5})),
        (base, ask("q", png("blue"))),
        (base, ask("q")),
        (base, ask("Q", red)),
        (base, Request([{"role": "system", "content": "s"}, user_message("q", red)])),
        (base, ask("q", red, schema=Facts)),
        (base, ask("q", red, schema=Other)),
    ]
    reordered = (base, ask("q", red, sampling={"top_p": 0.5, "seed": 1}))
    with StubServer(lambda call: good('{"facts": []}')) as server:

        async def main():
            for settings, request in [*variants, reordered]:
                async with Chat(server.url, **settings, cache=tmp_path / "c.sqlite") as chat:
                    await chat.complete(request)

        for _ in range(2):
            asyncio.run(main())
            assert server.count == len(variants)


def test_cached_answer_is_read_anew(tmp_path):
    """A reader that changed its mind sees the answers that are there before any is bought."""

    def never(text):
        raise ValueError("not in centimetres")

    with StubServer(lambda call: good("17 cm")) as server:
        run_one(server, ask(), cache=tmp_path / "c.sqlite")
        reply = run_one(server, ask(read=lambda text: text[:2]), cache=tmp_path / "c.sqlite")
        assert (reply, server.count) == ("17", 1)
        with pytest.raises(ChatError, match="not in centimetres"):
            run_one(server, ask(read=never), cache=tmp_path / "c.sqlite")
        assert server.count == 3  # one attempt stood in the cache, two more were bought


def test_unusable_cache_file(tmp_path):
    (tmp_path / "text").write_text("id,answer\n1,10\n" * 100, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with StubServer(lambda call: good("ok")) as server:
        for path in (tmp_path / "text", tmp_path / "folder"):
            with pytest.raises(InputError, match="as a cache of answers") as caught:
                run_one(server, cache=path)
            assert server.count == 0  # nothing is paid that could not be kept
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        run_one(server, cache=tmp_path / "new" / "c.sqlite")
    assert texts_in(tmp_path / "new" / "c.sqlite") == ["ok"]


def test_log_probabilities_are_kept(tmp_path):
    answer = Attempt("no", "stop", 10, 1, logprobs={"no": -0.1, "\ud800": -3.0})
    for _ in range(2):
        cache = Cache(tmp_path / "c.sqlite")
        if not cache.get("b"):
            cache.add("b", answer)
        assert cache.get("b") == [answer]
        cache.close()


CLIENT = """
import asyncio, sys
from perception_r1.common.chat import Chat, Request, user_message

async def main(url, cache, count):
    async with Chat(url, "stub", cache=cache, concurrency=8) as chat:
        results = await chat.complete_all([Request([user_message(str(i))]) for i in range(int(count))])
        print([r.strip() for r in results] == [f"answer {i}" for i in range(int(count))], chat.usage.answers)

asyncio.run(main(*sys.argv[1:]))
"""


def client(*arguments, code=CLIENT) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_disk_full_on_the_way(tmp_path):
    """A limit on the file's size stands for the full disk; what was kept before stays."""
    path = tmp_path / "c.sqlite"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
    with StubServer(lambda call: good(f"answer {call.text}" + " " * 20_000).after(0.01)) as server:
        process = client(server.url, path, 60, code=limit + CLIENT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        last = errors.strip().splitlines()[-1]
        assert last.startswith("perception_r1.common.errors.InputError: cannot use")
        assert str(path) in last and "never retrieved" not in errors
        kept, asked = len(texts_in(path)), server.count
        assert 5 < kept and asked - kept <= 2 * 8 < asked  # it stopped, and did not buy all sixty


def test_kill_9_and_resume_pays_nothing_twice(tmp_path):
    path, total, kill_after = tmp_path / "c.sqlite", 120, 40
    with StubServer(lambda call: good(f"answer {call.text}").after(0.02)) as server:
        process = client(server.url, path, total)
        until(lambda: server.answered >= kill_after)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(0.2)  # the server finishes what it had begun
        kept, asked = set(texts_in(path)), server.count
        assert kill_after - 8 <= len(kept) <= asked < total
        assert asked - len(kept) <= 8  # lost: at most what was in flight, one per slot
        for missing in (total - len(kept), 0):
            server.reset_counts()
            output, errors = client(server.url, path, total).communicate(timeout=60)
            assert output.split() == ["True", str(missing)], errors
            assert server.count == missing
            assert not {f"answer {call.text}" for call in server.calls} & kept


def test_several_share_a_new_cache_file(tmp_path):
    def use(path, start):
        start.wait()
        cache = Cache(path)
        cache.add("a", Attempt("said"))
        cache.close()

    with ThreadPoolExecutor(4) as threads:
        for turn in range(10):
            path, start = tmp_path / f"{turn}.sqlite", threading.Barrier(4)
            list(threads.map(use, [path] * 4, [start] * 4))
            assert texts_in(path) == ["said"] * 4


# ---------------------------------------------------------------- secrets


def everything_written(folder) -> str:
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return written.decode("latin-1")


def test_secrets_are_written_nowhere(tmp_path, caplog, monkeypatch, capfd):
    """Not even where the server says them back: in answers and in errors."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def answer(call):
        echo = f"you are {call.headers['authorization']}"
        return good(echo) if call.text == "x" else status(int(call.text), echo, **SOON)

    async def main(url):
        async with Chat(url, "stub", cache=tmp_path / "c.sqlite") as chat:
            texts, schemas = ("401", "500", "400", "x"), (None, Facts)
            requests = [ask(text, schema=s) for text in texts for s in schemas]
            results = await chat.complete_all(requests)
            return results, repr(chat), everything_written(tmp_path)

    with StubServer(answer) as server:
        results, shown, while_open = asyncio.run(main(server.url))
        assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert [getattr(result, "reason", "reply") for result in results] == [
        *["unauthorised"] * 2, *["server error"] * 2, *["refused"] * 2, "reply", "unusable answer",
    ]  # fmt: skip
    assert results[6] == "you are Bearer ***"
    chains = []
    for error in results:
        while isinstance(error, BaseException):
            chains.append(f"{error!r} {vars(error)}")
            error = error.__cause__ or error.__context__
    closed, output = everything_written(tmp_path), "".join(capfd.readouterr())
    assert len(caplog.text) > 500 and len(while_open) > 1000  # there was something to search
    for text in (while_open, closed, repr(results), *chains, caplog.text, output, shown):
        assert KEY not in text


def test_placeholder_key_does_not_eat_words():
    with StubServer(lambda call: good("the none set is EMPTY")) as server:
        assert run_one(server) == "the none set is EMPTY"
        assert run_one(server, api_key="EMPTY") == "the none set is EMPTY"
        assert server.calls[1].headers["authorization"] == "Bearer EMPTY"
