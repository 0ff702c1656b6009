"""chat.py and cache.py against a real HTTP server on loopback; no patched client anywhere."""

import asyncio
import base64
import io
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, ConfigDict

from perception_r1.common.cache import Attempt, Cache
from perception_r1.common.chat import Chat, ChatError, Reason, Reply, Request, user_message
from perception_r1.common.errors import InputError
from tests.stub_server import StubServer, cut, drip, good, hang, raw, reset, status, until

SOON = {"retry_after_ms": "1"}  # the SDK waits that long, not half a second
KEY = "sk-a-secret-of-some-length-0123456789"


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid")
    facts: list[str]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No proxy between client and stub, no key of whoever runs the tests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(text: str = "What is AB?", **more) -> Request:
    return Request([user_message(text)], **more)


def run_one(server: StubServer, request: Request | None = None, **settings) -> Reply:
    async def main():
        async with Chat(server.url, "stub", **settings) as chat:
            return (await chat.complete_all([request or ask()]))[0]

    reply = asyncio.run(main())
    if isinstance(reply, ChatError):
        raise reply
    return reply


def run_all(url: str, requests, deadline=None, call_deadline=180, **settings):
    async def main():
        settings["deadline"] = call_deadline
        async with Chat(url, "stub", **settings) as chat:
            return await chat.complete_all(requests, deadline=deadline), chat.usage

    return asyncio.run(main())


def rows(path) -> int:
    with sqlite3.connect(path) as db:
        return db.execute("SELECT count(*) FROM answers").fetchone()[0]


# ---------------------------------------------------------------- what goes over the wire


def test_request_on_the_wire():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
    image = buffer.getvalue()
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
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == image
    assert headers["authorization"] == f"Bearer {KEY}"
    shape = body["response_format"]
    assert (shape["type"], shape["json_schema"]["strict"]) == ("json_schema", True)
    assert shape["json_schema"]["schema"]["properties"]["facts"]["items"] == {"type": "string"}
    assert shape["json_schema"]["schema"]["required"] == ["facts"]
    assert shape["json_schema"]["schema"]["additionalProperties"] is False
    assert reply.value == Facts(facts=["AB is 10."])
    assert (reply.prompt_tokens, reply.completion_tokens) == (10, 5)
    assert (reply.cached, reply.finish_reason) == (False, "stop")


def test_text_without_schema_and_own_reader():
    with StubServer(lambda call: good("17 cm")) as server:
        assert run_one(server).value == "17 cm"
        reply = run_one(server, ask(read=lambda text: int(text.split()[0])))
        assert (reply.value, reply.text) == (17, "17 cm")
    assert "response_format" not in server.calls[0].body


def test_complete_alone():
    async def main(url):
        async with Chat(url, "stub") as chat:
            reply = await chat.complete([user_message("hi")], Facts, sampling={"max_tokens": 9})
            with pytest.raises(ChatError, match="HTTP 404, no model of that name") as caught:
                await chat.complete([user_message("bye")])
            assert caught.value.reason == "refused"
            return reply

    def answer(call):
        if call.text == "bye":
            return status(404, "no model of that name")
        return good('{"facts": []}')

    with StubServer(answer) as server:
        assert asyncio.run(main(server.url)).value == Facts(facts=[])
    assert server.calls[0].body["max_tokens"] == 9


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"\x89PNG", "text".encode("utf-16")])
def test_not_an_image(image):
    with pytest.raises(InputError, match="image 2 is neither PNG nor JPEG"):
        user_message("x", b"\x89PNG\r\n\x1a\n...", image)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"url": "localhost:8000"}, "must look like"),
        ({"url": "ftp://host/v1"}, "must look like"),
        ({"url": "http:///v1"}, "must look like"),
        ({"url": "http://host:notaport/v1"}, "must look like"),
        ({"url": "http://u:hidden-password@host:1x/v1"}, "must look like"),
        ({"url": "http://host/v1?api-key=hidden-password"}, "must look like"),
        ({"model": ""}, "no model named"),
        ({"api_key": "hidden-password\nx"}, "copy it anew"),
        ({"api_key": "hidden-passwörd"}, "copy it anew"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"concurrency": 1001}, "concurrency is 1001"),
        ({"attempts": 0}, "attempts is 0"),
        ({"deadline": 0}, "deadline is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_impossible_settings(given_settings, message):
    with pytest.raises(InputError, match=message) as caught:
        Chat(**{"url": "http://127.0.0.1:1/v1", "model": "stub", **given_settings})
    assert "hidden" not in str(caught.value)


# ---------------------------------------------------------------- unusable answers


def test_bad_json_is_asked_again_and_recorded(tmp_path):
    texts = ["Sure! Here you go", '{"facts": "AB"}', '{"facts": ["AB is 10."]}']
    with StubServer(lambda call: good(texts[call.number], prompt=100)) as server:
        (reply,), usage = run_all(server.url, [ask(schema=Facts)], cache=tmp_path / "c.sqlite")
        assert server.count == 3
        assert reply.value.facts == ["AB is 10."]
        assert [attempt.text for attempt in reply.attempts] == texts
        assert "Invalid JSON" in reply.attempts[0].problem
        assert "facts: Input should be a valid array" in reply.attempts[1].problem
        assert reply.attempts[2].problem == ""
        assert reply.prompt_tokens == usage.prompt_tokens == 300
        assert (usage.asked, usage.cached) == (3, 0)

        (again,), usage = run_all(server.url, [ask(schema=Facts)], cache=tmp_path / "c.sqlite")
        assert server.count == 3
        assert again == Reply(**{**vars(reply), "cached": True})
        assert (usage.asked, usage.prompt_tokens, usage.cached_prompt_tokens) == (0, 0, 300)


def test_budget_spent_is_remembered_and_can_be_raised(tmp_path):
    with StubServer(lambda call: good('{"facts": [1,')) as server:
        settings = {"cache": tmp_path / "c.sqlite"}
        with pytest.raises(ChatError, match="no usable answer in 2 attempts") as caught:
            run_one(server, ask(schema=Facts), attempts=2, **settings)
        assert caught.value.reason == "unusable answer"
        assert [attempt.text for attempt in caught.value.attempts] == ['{"facts": [1,'] * 2
        assert "`attempts`" in str(caught.value)
        with pytest.raises(ChatError, match="no usable answer in 2 attempts"):
            run_one(server, ask(schema=Facts), attempts=2, **settings)
        assert server.count == 2  # not paid again
        server.answer = lambda call: good('{"facts": []}')
        reply = run_one(server, ask(schema=Facts), attempts=3, **settings)
        assert server.count == 3
        assert len(reply.attempts) == 3
        assert reply.value == Facts(facts=[])


def test_cut_off_answer_says_so():
    with StubServer(lambda call: good('{"facts": ["AB', finish_reason="length")) as server:
        with pytest.raises(ChatError, match="cut off at the token limit"):
            run_one(server, ask(schema=Facts))
        server.answer = lambda call: good("half a chain of", finish_reason="length")
        assert run_one(server).finish_reason == "length"  # a text may be kept: the caller decides


NOT_COMPLETIONS = {
    "html": raw("<html><body>Welcome to nginx</body></html>", "text/html"),
    "html called json": raw("<html>"),
    "nothing": raw(""),
    "null": raw("null"),
    "list": raw("[]"),
    "object": raw("{}"),
    "no choices": raw('{"choices": []}'),
    "null choices": raw('{"choices": null}'),
    "null choice": raw('{"choices": [null]}'),
    "no message": raw('{"choices": [{}]}'),
    "content is a number": raw('{"choices": [{"message": {"content": 5}}]}'),
    "not utf-8": raw(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "lone surrogate": raw('{"choices": [{"message": {"content": "\\ud800"}}]}'),
    "deep": raw("[" * 100_000),
    "half of a json": raw('{"choices": [{"message": {"content": "AB is'),
    "negative tokens": raw(
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1}}'
    ),
    "broken gzip": raw(b"\x1f\x8bnot gzip", content_encoding="gzip"),
}


@pytest.mark.parametrize("name", NOT_COMPLETIONS)
def test_bodies_that_are_no_completion(name, tmp_path):
    with StubServer(lambda call: NOT_COMPLETIONS[name]) as server:
        with pytest.raises(ChatError) as caught:
            run_one(server, attempts=2, retries=0, cache=tmp_path / "c.sqlite")
        broken = name == "broken gzip"  # never becomes a body: the connection's fault to the SDK
        assert caught.value.reason == ("unreachable" if broken else "unusable answer")
        assert "\n" not in str(caught.value) and f"127.0.0.1:{server._http.server_port}" in str(
            caught.value
        )
        assert rows(tmp_path / "c.sqlite") == 0  # no answer of the model: nothing to remember
        server.answer = lambda call: good("fine now")
        assert run_one(server, cache=tmp_path / "c.sqlite").text == "fine now"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_empty_answers(content):
    with StubServer(lambda call: good(content)) as server:
        with pytest.raises(ChatError, match="the text is empty") as caught:
            run_one(server, attempts=2)
    assert (caught.value.reason, len(caught.value.attempts), server.count) == (
        "unusable answer",
        2,
        2,
    )


def test_missing_token_counts_are_counted():
    with StubServer(lambda call: raw('{"choices": [{"message": {"content": "x"}}]}')) as server:
        _, usage = run_all(server.url, [ask("1"), ask("2")])
    assert (usage.asked, usage.uncounted, usage.prompt_tokens) == (2, 2, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "message", "content", "usage", "prompt_tokens", "error"]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_any_json_is_a_reply_or_a_chat_error(body, fuzz_server):
    fuzz_server.answer = lambda call: raw(json.dumps(body))
    (result,), _ = run_all(fuzz_server.url, [ask()], attempts=1, retries=0)
    assert isinstance(result, Reply) or result.reason == "unusable answer"


@pytest.fixture(scope="module")
def fuzz_server():
    with StubServer(lambda call: good("x")) as server:
        yield server


# ---------------------------------------------------------------- faults of server and network

FAULTS = {
    "401": (status(401, "Incorrect API key provided"), "unauthorised", "OPENAI_API_KEY"),
    "403": (status(403), "unauthorised", "HTTP 403"),
    "404": (status(404, "The model `stub` does not exist"), "refused", "does not exist"),
    "400": (status(400, "maximum context length is 4096"), "refused", "maximum context length"),
    "413": (status(413), "refused", "HTTP 413"),
    "422": (status(422, "first\r\n  second line" + "x" * 9999), "refused", "first second line"),
    "429": (status(429, "slow down", **SOON), "rate limited", "HTTP 429"),
    "429 long": (status(429, retry_after="600"), "rate limited", "Retry-After 600"),
    "500": (status(500, "boom", **SOON), "server error", "HTTP 500, boom"),
    "503": (status(503, **SOON), "server error", "HTTP 503"),
    "reset": (reset(), "unreachable", "broken"),
    "cut": (cut(), "unreachable", "broken"),
    "hang": (hang(), "timeout", "no sign of life"),
}
TRIED_AGAIN = {"429", "500", "503", "reset", "cut", "hang"}


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
    assert "\n" not in message and len(message) < 500
    assert server.count == (2 if name in TRIED_AGAIN else 1)
    assert not isinstance(caught.value, InputError)


def test_transient_faults_are_ridden_out():
    plans = {name: FAULTS[name][0] for name in sorted(TRIED_AGAIN)}
    seen = set()

    def answer(call):
        first = call.text not in seen
        seen.add(call.text)
        return plans[call.text] if first else good("at last")

    with StubServer(answer) as server:
        results, usage = run_all(server.url, [ask(name) for name in plans], timeout=0.5)
    assert [reply.text for reply in results] == ["at last"] * len(plans)
    assert server.count == 2 * len(plans)
    assert usage.asked == len(plans)


def test_retry_after_is_waited_for():
    def answer(call):
        return good("ok") if call.number else status(429, retry_after="1")

    with StubServer(answer) as server:
        began = time.monotonic()
        assert run_one(server).text == "ok"
    assert 1.0 <= time.monotonic() - began < 3


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        (result,), _ = run_all(f"http://127.0.0.1:{port}/v1", [ask()], retries=0)
    assert result.reason == "unreachable"
    assert f"127.0.0.1:{port}" in str(result)
    (result,), _ = run_all("http://no-such-host.invalid/v1", [ask()], retries=0)
    assert result.reason == "unreachable"


@pytest.mark.parametrize("plan", [hang(), drip()], ids=["hang", "drip"])
def test_deadline_of_a_call(plan):
    """A server that sends a byte now and then outlives every read timeout; not the deadline."""
    with StubServer(lambda call: plan) as server:
        began = time.monotonic()
        with pytest.raises(ChatError, match="no usable answer within 0.5 s") as caught:
            run_one(server, deadline=0.5)
        assert time.monotonic() - began < 1.5
    assert caught.value.reason == "timeout"


def test_deadline_counts_from_the_slot_not_from_the_queue():
    """Twelve calls of 0.2 s through two slots take 1.2 s; none of them takes 0.8 s."""
    with StubServer(lambda call: good("ok").after(0.2)) as server:
        requests = [ask(str(i)) for i in range(12)]
        results, _ = run_all(server.url, requests, concurrency=2, call_deadline=0.8)
    assert all(isinstance(reply, Reply) for reply in results)


def test_paid_attempts_stay_with_a_later_fault():
    def answer(call):
        return status(400, "no more") if call.number else good("not json")

    with StubServer(answer) as server:
        (result,), usage = run_all(server.url, [ask(schema=Facts)])
    assert result.reason == "refused"
    assert [attempt.text for attempt in result.attempts] == ["not json"]
    assert (usage.asked, usage.prompt_tokens) == (1, 10)


def test_reasons_are_a_closed_set():
    seen = {reason for _, reason, _ in FAULTS.values()} | {"unusable answer"}
    assert seen == set(get_args(Reason))


# ---------------------------------------------------------------- many at once


def test_order_and_one_fault_does_not_stop_the_rest():
    def answer(call):
        number = int(call.text)
        if number % 10 == 3:
            return status(500, "unlucky", **SOON)
        if number % 10 == 7:
            return good("no json")
        return good(json.dumps({"facts": [call.text]})).after(0.03 * (number % 3))

    with StubServer(answer) as server:
        results, usage = run_all(server.url, [ask(str(i), schema=Facts) for i in range(60)])
    for number, result in enumerate(results):
        if number % 10 == 3:
            assert result.reason == "server error"
        elif number % 10 == 7:
            assert result.reason == "unusable answer"
        else:
            assert result.value.facts == [str(number)]
    assert usage.asked == 48 + 6 * 3
    assert server.count == 48 + 6 * 3 + 6 * 3


def test_concurrency_bound_is_kept_and_used():
    async def main(url):
        async with Chat(url, "stub", concurrency=5) as chat:
            batches = [[ask(f"{b} {i}") for i in range(20)] for b in range(3)]
            await asyncio.gather(*(chat.complete_all(batch) for batch in batches))

    with StubServer(lambda call: good("ok").after(0.05)) as server:
        asyncio.run(main(server.url))
    assert server.count == 60
    assert server.most_in_flight == 5


def test_identical_requests_in_flight_are_asked_once():
    with StubServer(lambda call: good(call.text).after(0.1)) as server:
        requests = [ask(str(i % 4)) for i in range(40)]
        results, usage = run_all(server.url, requests, concurrency=16)
    assert server.count == 4
    assert [reply.text for reply in results] == [str(i % 4) for i in range(40)]
    assert sum(not reply.cached for reply in results) == 4
    assert (usage.asked, usage.cached) == (4, 36)
    assert (usage.prompt_tokens, usage.cached_prompt_tokens) == (40, 360)


def test_one_who_gives_up_does_not_stop_the_other():
    async def main(url):
        async with Chat(url, "stub") as chat:
            patient = asyncio.create_task(chat.complete([user_message("same")]))
            hasty = asyncio.create_task(
                asyncio.wait_for(chat.complete([user_message("same")]), 0.1)
            )
            with pytest.raises(TimeoutError):
                await hasty
            return await patient

    with StubServer(lambda call: good("ok").after(0.4)) as server:
        assert asyncio.run(main(server.url)).text == "ok"
        assert server.count == 1


def test_step_deadline_keeps_what_is_finished(tmp_path):
    def answer(call):
        return hang() if int(call.text) % 4 == 0 else good(call.text)

    with StubServer(answer) as server:
        requests = [ask(str(i)) for i in range(40)]
        began = time.monotonic()
        results, usage = run_all(
            server.url, requests, deadline=1.0, concurrency=16, cache=tmp_path / "c.sqlite"
        )
        assert time.monotonic() - began < 2.5
        for number, result in enumerate(results):
            if number % 4 == 0:
                assert result.reason == "timeout"
                assert "the 1 s for the whole step" in str(result)
            else:
                assert result.text == str(number)
        assert rows(tmp_path / "c.sqlite") == 30
        # A step without any time left still gives what is known.
        results, _ = run_all(server.url, requests, deadline=0.0, cache=tmp_path / "c.sqlite")
        assert sum(isinstance(result, Reply) for result in results) == 30


def test_requests_are_made_as_they_are_needed():
    made = 0

    def requests():
        nonlocal made
        for number in range(100):
            made += 1
            yield ask(str(number))

    ahead = []
    with StubServer(lambda call: good("ok")) as server:
        server.answer = lambda call: ahead.append(made - call.number) or good("ok").after(0.01)
        results, _ = run_all(server.url, requests(), concurrency=4)
        assert len(results) == server.count == 100
        assert max(ahead) <= 3 * 4
        assert run_all(server.url, [])[0] == []


def test_failing_generator_is_the_callers_error():
    def requests():
        yield ask("1")
        raise InputError("row 1 has no image")

    with StubServer(lambda call: good("ok").after(0.2)) as server:
        with pytest.raises(InputError, match="row 1 has no image"):
            run_all(server.url, requests())


def test_request_that_is_no_json_fails_alone():
    bad = [ask("\ud800"), ask(sampling={"temperature": float("nan")}), Request([{"x": object()}])]
    with StubServer(lambda call: good("ok")) as server:
        results, _ = run_all(server.url, [*bad, ask("fine")])
    assert [getattr(result, "reason", "reply") for result in results] == [*["refused"] * 3, "reply"]
    assert server.count == 1


def test_cancelled_batch_leaves_nothing_behind(tmp_path):
    async def main(url):
        async with Chat(url, "stub", cache=tmp_path / "c.sqlite", concurrency=4) as chat:
            batch = asyncio.create_task(chat.complete_all([ask(str(i)) for i in range(100)]))
            await asyncio.sleep(0.5)
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            await asyncio.sleep(0.1)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return (await chat.complete([user_message("after")])).text

    with StubServer(lambda call: good(call.text).after(0.1)) as server:
        assert asyncio.run(main(server.url)) == "after"
        time.sleep(0.2)
        asked = server.count
        assert 4 <= asked - 1 < 60
        kept = rows(tmp_path / "c.sqlite") - 1
        assert asked - 1 - 4 <= kept <= asked - 1


def test_leaving_the_block_ends_what_is_under_way():
    async def main(url):
        async with Chat(url, "stub") as chat:
            forgotten = asyncio.create_task(chat.complete([user_message("hi")]))
            await asyncio.sleep(0.2)
        await asyncio.wait([forgotten], timeout=5)
        assert forgotten.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with StubServer(lambda call: hang()) as server:
        asyncio.run(main(server.url))


# ---------------------------------------------------------------- loops


def test_two_loops_in_sequence_with_one_chat(tmp_path):
    with StubServer(lambda call: good(call.text)) as server:
        chat = Chat(server.url, "stub", cache=tmp_path / "c.sqlite")

        async def main(texts):
            async with chat:
                return [r.text for r in await chat.complete_all([ask(text) for text in texts])]

        assert asyncio.run(main("ab")) == ["a", "b"]
        assert asyncio.run(main("bc")) == ["b", "c"]
        assert server.count == 3
        assert (chat.usage.asked, chat.usage.cached) == (3, 1)


def test_under_a_running_loop_others_go_on():
    async def main(url):
        beats = 0

        async def heart():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        beating = asyncio.create_task(heart())
        async with Chat(url, "stub") as chat:
            requests = [ask(str(i)) for i in range(64)]
            await chat.complete_all(requests)
            asked, beats = beats, 0
            await chat.complete_all(requests * 20)  # from the cache alone
        beating.cancel()
        return asked, beats

    with StubServer(lambda call: good("ok").after(0.2)) as server:
        asked, cached = asyncio.run(main(server.url))
        assert server.count == 64
    assert asked > 20 and cached > 5


def test_use_outside_of_its_block_is_refused():
    async def main(url):
        chat = Chat(url, "stub")
        with pytest.raises(RuntimeError, match="async with"):
            await chat.complete([user_message("too early")])
        async with chat:
            with pytest.raises(RuntimeError, match="open already"):
                await chat.__aenter__()
            with pytest.raises(RuntimeError, match="one event loop"):
                await asyncio.to_thread(asyncio.run, chat.complete([user_message("other loop")]))
        with pytest.raises(RuntimeError, match="async with"):
            await chat.complete([user_message("too late")])

    with StubServer(lambda call: good("ok")) as server:
        asyncio.run(main(server.url))
        assert server.count == 0


# ---------------------------------------------------------------- the cache


def test_everything_that_decides_the_answer_is_in_the_key(tmp_path):
    def png(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        return buffer.getvalue()

    class Other(BaseModel):
        facts: list[str]
        sure: bool = True

    base = {"model": "m", "revision": "1", "chat_sampling": {"temperature": 0}}
    message = [user_message("q", png("red"))]
    variants = [
        (base, Request(message)),
        ({**base, "model": "n"}, Request(message)),
        ({**base, "revision": "2"}, Request(message)),
        ({**base, "chat_sampling": {"temperature": 1}}, Request(message)),
        (base, Request(message, sampling={"seed": 1})),
        (base, Request(message, sampling={"seed": 2})),
        (base, Request([user_message("q", png("blue"))])),
        (base, Request([user_message("q")])),
        (base, Request([user_message("Q", png("red"))])),
        (base, Request([{"role": "system", "content": "s"}, *message])),
        (base, Request(message, Facts)),
        (base, Request(message, Other)),
    ]
    with StubServer(lambda call: good('{"facts": []}')) as server:

        async def main():
            for chosen, request in variants:
                async with Chat(
                    server.url, chosen["model"], revision=chosen["revision"],
                    sampling=chosen["chat_sampling"], cache=tmp_path / "c.sqlite",
                ) as chat:  # fmt: skip
                    assert isinstance((await chat.complete_all([request]))[0], Reply)

        asyncio.run(main())
        assert server.count == len(variants)
        asyncio.run(main())
        assert server.count == len(variants)


def test_order_of_names_is_not_in_the_key(tmp_path):
    with StubServer(lambda call: good("ok")) as server:
        for sampling in ({"seed": 1, "top_p": 0.5}, {"top_p": 0.5, "seed": 1}):
            run_one(server, ask(sampling=sampling), cache=tmp_path / "c.sqlite")
        assert server.count == 1


def test_known_by_stands_for_the_messages(tmp_path):
    with StubServer(lambda call: good(call.text)) as server:
        for nonce in ("aaa", "bbb"):
            request = ask(f"<{nonce}> judge this </{nonce}>", known_by=["judge this"])
            reply = run_one(server, request, cache=tmp_path / "c.sqlite")
            assert reply.text == "<aaa> judge this </aaa>"
        assert server.count == 1


def test_cached_answer_is_read_anew(tmp_path):
    """A reader that changed its mind sees the answers that are there before any is bought."""
    with StubServer(lambda call: good("17 cm")) as server:
        run_one(server, ask(), cache=tmp_path / "c.sqlite")
        reply = run_one(server, ask(read=lambda text: text[:2]), cache=tmp_path / "c.sqlite")
        assert (reply.value, reply.cached, server.count) == ("17", True, 1)

        def never(text):
            raise ValueError("not in centimetres")

        with pytest.raises(ChatError, match="not in centimetres"):
            run_one(server, ask(read=never), cache=tmp_path / "c.sqlite")
        assert server.count == 3  # one attempt stood in the cache, two more were bought


def damaged(path):
    with StubServer(lambda call: good("x" * 20_000)) as server:
        run_all(server.url, [ask(str(i)) for i in range(10)], cache=path)
    content = bytearray(path.read_bytes())
    content[2000:] = b"\x5a" * (len(content) - 2000)
    path.write_bytes(bytes(content))


def foreign(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE answers (id INTEGER, mine TEXT)")
        db.execute("INSERT INTO answers VALUES (1, 'keep this')")
    db.close()


BAD_CACHES = {
    "text": lambda path: path.write_text("id,answer\n1,10\n" * 100, encoding="utf-8"),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 32),
    "folder": lambda path: path.mkdir(),
    "foreign": foreign,
    "damaged": damaged,
}


@pytest.mark.parametrize("name", BAD_CACHES)
def test_unusable_cache_file(name, tmp_path):
    path = tmp_path / "c.sqlite"
    BAD_CACHES[name](path)
    before = path.read_bytes() if path.is_file() else None
    with StubServer(lambda call: good("ok")) as server:
        with pytest.raises(InputError, match="as a cache of answers") as caught:
            run_one(server, cache=path)
        assert server.count == 0  # nothing is paid that could not be kept
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_cache_below_a_file_and_empty_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with StubServer(lambda call: good("ok")) as server:
        with pytest.raises(InputError, match="as a cache of answers"):
            run_one(server, cache=tmp_path / "file" / "c.sqlite")
        (tmp_path / "empty").touch()
        run_one(server, cache=tmp_path / "empty")
        run_one(server, cache=tmp_path / "new" / "folder" / "c.sqlite")
    assert rows(tmp_path / "empty") == rows(tmp_path / "new" / "folder" / "c.sqlite") == 1


def test_disk_full_on_the_way(tmp_path):
    """A limit on the file's size stands for the full disk; what was kept before stays."""
    path = tmp_path / "c.sqlite"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
    with StubServer(lambda call: good(f"answer {call.text}" + " " * 20_000).after(0.01)) as server:
        pytest.importorskip("resource", reason="no limits on file size on this system")
        command = [sys.executable, "-c", limit + CLIENT, server.url, str(path), "0", "60"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("perception_r1.common.errors.InputError: cannot use")
        assert str(path) in last and "never retrieved" not in done.stderr
        kept, asked = rows(path), server.count
        assert 5 < kept and asked - kept <= 2 * 8 < asked  # it stopped, and did not buy all sixty
        server.reset_counts()
        output, errors = client(server.url, path, 0, 60).communicate(timeout=60)
        assert server.count == 60 - kept, errors


CLIENT = textwrap.dedent(
    """
    import asyncio, sys
    from perception_r1.common.chat import Chat, Request, user_message

    async def main(url, cache, first, last):
        async with Chat(url, "stub", cache=cache, concurrency=8) as chat:
            requests = [Request([user_message(str(i))]) for i in range(int(first), int(last))]
            results = await chat.complete_all(requests)
            print([r.text for r in results] == [f"answer {r}" for r in range(int(first), int(last))],
                  chat.usage.asked)

    asyncio.run(main(*sys.argv[1:]))
    """
)


def client(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", CLIENT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kill_after", [1, 23, 77])
def test_kill_9_and_resume_pays_nothing_twice(kill_after, tmp_path):
    path, total = tmp_path / "c.sqlite", 120
    with StubServer(lambda call: good(f"answer {call.text}").after(0.02)) as server:
        process = client(server.url, path, 0, total)
        until(lambda: server.answered >= kill_after)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        time.sleep(0.2)  # the server finishes what it had begun
        kept, asked = rows(path), server.count
        assert kill_after - 8 <= kept <= asked < total
        assert asked - kept <= 8  # lost: at most what was in flight, one per slot

        kept_texts = {f"answer {i}" for i in range(total)} & _texts(path)
        server.reset_counts()
        output, errors = client(server.url, path, 0, total).communicate(timeout=60)
        assert output.split() == ["True", str(total - kept)], errors
        assert server.count == total - kept
        assert not {f"answer {call.text}" for call in server.calls} & kept_texts
        assert rows(path) == total

        server.reset_counts()
        output, errors = client(server.url, path, 0, total).communicate(timeout=60)
        assert output.split() == ["True", "0"], errors
        assert server.count == 0


def _texts(path) -> set[str]:
    with sqlite3.connect(path) as db:
        return {text for (text,) in db.execute("SELECT text FROM answers")}


def test_killed_between_attempts_the_budget_goes_on(tmp_path):
    """A bad first answer is paid and kept; after a kill only the second is asked."""
    with StubServer(
        lambda call: good("bad") if call.number == 0 else good("7").after(30)
    ) as server:
        code = CLIENT.replace("user_message(str(i))]", "user_message(str(i))], read=int")
        command = [sys.executable, "-c", code, server.url, str(tmp_path / "c.sqlite"), "0", "1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: server.count == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert _texts(tmp_path / "c.sqlite") == {"bad"}
        server.reset_counts()
        server.answer = lambda call: good("7")
        reply = run_one(server, ask("0", read=int), cache=tmp_path / "c.sqlite")
        assert ([attempt.text for attempt in reply.attempts], server.count) == (["bad", "7"], 1)


def test_threads_open_a_new_cache_file_at_the_same_time(tmp_path):
    """None takes what another has just begun for a stranger's database."""
    for turn in range(40):
        path, start, failed = tmp_path / f"{turn}.sqlite", threading.Barrier(4), []

        def use(path=path, start=start, failed=failed):
            start.wait()
            try:
                cache = Cache(path)
                cache.add("a", Attempt("said"))
                cache.close()
            except InputError as error:
                failed.append(str(error))

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        cache = Cache(path)
        assert len(cache.get("a")) == 4
        cache.close()


def test_processes_share_a_new_cache_file(tmp_path):
    path = tmp_path / "c.sqlite"
    with StubServer(lambda call: good(f"answer {call.text}").after(0.01)) as server:
        processes = [client(server.url, path, 40 * i, 40 * i + 60) for i in range(4)]
        outputs = [process.communicate(timeout=60) for process in processes]
        assert all(output.startswith("True") for output, _ in outputs), outputs
        assert len(_texts(path)) == 180
        server.reset_counts()
        output, errors = client(server.url, path, 0, 180).communicate(timeout=60)
        assert output.split() == ["True", "0"], errors
        assert server.count == 0


# ---------------------------------------------------------------- secrets

PASSWORD = "correct-horse-battery"


def everything_written(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("way", ["given", "environment", "login"])
def test_secrets_are_written_nowhere(way, tmp_path, caplog, monkeypatch, capfd):
    """Not even where the server says them back: in answers and in errors."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)

    def answer(call):
        told = f"you are {call.headers['authorization']} {PASSWORD}"
        codes = {"401": 401, "500": 500, "400": 400}
        return status(codes[call.text], told, **SOON) if call.text in codes else good(told)

    settings = {}
    if way == "given":
        settings["api_key"] = KEY
    if way == "environment":
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer(answer) as server:
        url = server.url
        if way == "login":
            url = url.replace("//", f"//somebody:{PASSWORD}@")
            settings["api_key"] = KEY

        async def main():
            async with Chat(url, "stub", cache=tmp_path / "c.sqlite", **settings) as chat:
                texts, schemas = ("401", "500", "400", "x"), (None, Facts)
                requests = [ask(text, schema=s) for text in texts for s in schemas]
                return await chat.complete_all(requests), repr(chat), everything_written(tmp_path)

        results, shown, while_open = asyncio.run(main())
        sent = server.calls[0].headers["authorization"]
    encoded = base64.b64encode(f"somebody:{PASSWORD}".encode()).decode()
    assert sent == (f"Basic {encoded}" if way == "login" else f"Bearer {KEY}")
    assert {getattr(result, "reason", "reply") for result in results} == {
        "unauthorised", "server error", "refused", "unusable answer", "reply",
    }  # fmt: skip
    assert "***" in results[6].text
    secrets = [KEY, encoded] + ([PASSWORD] if way == "login" else [])
    chains = []
    for error in results:
        while error is not None and isinstance(error, BaseException):
            chains.append(f"{error!r} {vars(error)}")
            error = error.__cause__ or error.__context__
    out, err = capfd.readouterr()
    places = {
        "cache": while_open.decode("latin-1"),
        "cache closed": everything_written(tmp_path).decode("latin-1"),
        "results": repr(results),
        "exceptions": "".join(chains),
        "logs": caplog.text,
        "output": out + err,
        "repr": shown,
    }
    assert len(caplog.text) > 500 and len(places["cache"]) > 1000  # there was something to search
    for place, text in places.items():
        for secret in secrets:
            assert secret not in text, place


def test_placeholder_key_does_not_eat_words():
    with StubServer(lambda call: good("the none set is EMPTY")) as server:
        assert run_one(server).text == "the none set is EMPTY"
        assert run_one(server, api_key="EMPTY").text == "the none set is EMPTY"
        assert server.calls[1].headers["authorization"] == "Bearer EMPTY"
