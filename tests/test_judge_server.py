"""judge_server.py through the official client, our own client, plain HTTP, and its command line."""

import asyncio
import http.client
import importlib.util
import json
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1.common.errors import InputError
from perception_r1.reward.attacks import ATTACKS
from perception_r1.reward.calibration import world_pairs
from perception_r1.reward.judge_prompt import prompt, write_verdict
from perception_r1.reward.judge_server import JudgeServer, answers_of
from perception_r1.reward.judges import ExactJudge, LazyJudge, NoisyJudge, Verdict
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.world import WorldConfig, make_problems

AB, CD = "The length of segment AB is 5.", "The length of segment CD is 7."
PAIRS = world_pairs(make_problems(6, WorldConfig(seed=8, image_size=96)), seed=1)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No proxy between client and server, no key of whoever runs the tests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def exact():
    with JudgeServer(ExactJudge()) as server:
        yield server


def verdicts(judge, responses, annotations):
    return asyncio.run(judge.judge(responses, annotations))


def post(server, body) -> tuple[int, dict]:
    """The status and the JSON of an answer to these bytes, or to this object."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/chat/completions", data, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


# ---------------------------------------------------------------- the protocol


@pytest.mark.parametrize("contradictions", [True, False])
@pytest.mark.parametrize("output", ["json", "tags"])
def test_the_openai_client_gets_a_completion(contradictions, output, exact):
    messages = prompt([AB, CD], "AB = 5. CD = 8.", "00ff", contradictions, output)

    async def main():
        async with openai.AsyncOpenAI(base_url=exact.url, api_key="none", max_retries=0) as client:
            return await client.chat.completions.create(model=exact.model, messages=messages)

    answer = asyncio.run(main())
    marks = ["stated", "contradicted"]
    assert answer.choices[0].message.content == write_verdict(marks, "00ff", contradictions, output)
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == (
        "assistant",
        "stop",
    )
    assert answer.object == "chat.completion" and answer.model == "exact"
    usage = answer.usage
    assert usage.prompt_tokens > usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize(
    ("given_name", "name"), [("", "lazy"), ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct")]
)
def test_the_models_are_named(given_name, name):
    async def main(url):
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return [model.id async for model in client.models.list()]

    with JudgeServer(LazyJudge(), model=given_name) as server:
        assert asyncio.run(main(server.url)) == [name]


GOOD = prompt([AB], AB, "00ff", True, "json")
WRONG = {
    "no json": (b"what?", "Expecting value"),
    "nothing": (b"", "Expecting value"),
    "not utf-8": (b'{"messages": "\xff"}', "utf-8"),
    "deep": (b"[" * 200_000, ""),
    "a list": ([], ""),
    "a number": (5, ""),
    "no messages": ({"model": "exact"}, "messages"),
    "messages are null": ({"messages": None}, ""),
    "messages are a number": ({"messages": 5}, ""),
    "messages are a text": ({"messages": "hi"}, ""),
    "messages are texts": ({"messages": ["a", "b"]}, ""),
    "no message": ({"messages": []}, "not a question"),
    "another question": ({"messages": [{"role": "user", "content": "hi"}]}, "not a question"),
    "no content": ({"messages": [{"role": "system"}, {"role": "user"}]}, "not a question"),
    "content is a number": ({"messages": [GOOD[0], {"content": 5}]}, "not a question"),
    "user alone": ({"messages": GOOD[1:]}, "not a question"),
    "three messages": ({"messages": [*GOOD, *GOOD[:1]]}, "not a question"),
    "no such annotation": ({"messages": prompt(["Grass is green."], AB, "00", True, "json")},
                           "no verdict: the exact judge cannot read the annotation 'Grass is green.'"),
    "empty response": ({"messages": prompt([AB], " ", "00", True, "json")}, "no verdict: the response is empty"),
    "long response": ({"messages": prompt([AB], "x" * 50_000, "00", True, "json")}, "too long to judge"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_messages_are_refused_with_a_reason(name, exact):
    body, words = WRONG[name]
    code, answer = post(exact, body)
    assert code == 400
    assert words in answer["error"]["message"] and answer["error"]["message"]
    assert post(exact, {"messages": GOOD})[0] == 200  # and the server goes on


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("GET", "/", 404),
        ("POST", "/chat/completions", 404), ("GET", "/v1/models/../../etc/passwd", 404),
    ],
)  # fmt: skip
def test_other_paths_and_methods(method, path, code, exact):
    connection = http.client.HTTPConnection("127.0.0.1", exact.port, timeout=20)
    connection.request(method, path, body=b"{}" if method == "POST" else None)
    answer = connection.getresponse()
    assert answer.status == code
    answer.read()
    connection.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["messages", "role", "content", "text"]), inner)
        ),
    )
)
def test_any_json_is_answered_with_400(body, exact):
    code, answer = post(exact, body)
    assert code == 400 and answer["error"]["message"]


def test_a_judge_that_breaks_is_an_error_of_the_server(caplog):
    class Broken:
        name = "broken"

        async def judge(self, responses, annotations):
            raise RuntimeError("out of memory")

    with JudgeServer(Broken()) as server:
        code, answer = post(server, {"messages": GOOD})
        assert code == 500 and answer["error"]["message"] == "RuntimeError: out of memory"
        (verdict,) = verdicts(LLMJudge(server.url, "broken", retries=0), [AB], [[AB]])
        assert "HTTP 500, RuntimeError: out of memory" in verdict.failure
        assert not verdict.by_response


def test_a_function_plays_a_language_model():
    async def answer(messages):
        return f"I read {len(messages)} messages."

    with JudgeServer(answer, model="parrot") as server:
        code, body = post(server, {"messages": [{"role": "user", "content": "anything"}]})
    assert (code, body["model"]) == (200, "parrot")
    assert body["choices"][0]["message"]["content"] == "I read 1 messages."


def test_answers_without_a_server():
    answer = answers_of(ExactJudge())
    assert asyncio.run(answer(GOOD)) == write_verdict(["stated"], "00ff", True, "json")
    with pytest.raises(InputError, match="not a question"):
        asyncio.run(answer([{"role": "user", "content": "hi"}]))
    with pytest.raises(InputError, match="no verdict: an annotation is empty"):
        asyncio.run(answer(prompt([" "], AB, "00ff", True, "json")))


# ---------------------------------------------------------------- starting and stopping


def test_it_listens_on_loopback_alone(exact):
    assert exact.host == "127.0.0.1" and exact.url == f"http://127.0.0.1:{exact.port}/v1"
    with socket.create_connection(("127.0.0.1", exact.port), timeout=5):
        pass
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", exact.port), timeout=5):
        pass


def test_a_taken_port_says_so(exact):
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{exact.port}") as caught:
        with JudgeServer(LazyJudge(), port=exact.port):
            pass
    assert "choose another port" in str(caught.value) and "\n" not in str(caught.value)
    assert post(exact, {"messages": GOOD})[0] == 200


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("nowhere.invalid", 0), ("127.0.0.1", -1), ("192.0.2.1", 0),
        pytest.param("127.0.0.1", 70_000),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_had(host, port):
    with pytest.raises(InputError, match="cannot listen on"), JudgeServer(ExactJudge(), host, port):
        pass


def test_an_ipv6_address_stands_in_brackets():
    server = JudgeServer(ExactJudge(), host="::1", port=8100)
    assert server.url == "http://[::1]:8100/v1"


def test_stopping_frees_the_port_and_hangs_up():
    with JudgeServer(ExactJudge()) as server:
        port = server.port
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        kept.request("GET", "/v1/models")
        assert kept.getresponse().read()  # the connection stays open
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    with JudgeServer(ExactJudge(), port=port) as server:
        assert server.port == port
        assert post(server, {"messages": GOOD})[0] == 200
    kept.close()


def test_many_start_and_stop_at_once():
    for _ in range(20):
        with JudgeServer(ExactJudge()):
            pass
    with JudgeServer(ExactJudge()) as one, JudgeServer(LazyJudge()) as two:
        assert one.port != two.port
        texts = [verdicts(LLMJudge(s.url, "x"), ["It is 5."], [[AB]])[0].marks for s in (one, two)]
    assert texts == [["absent"], ["stated"]]


def test_stopping_with_a_question_under_way():
    class Slow:
        name = "slow"

        async def judge(self, responses, annotations):
            await asyncio.sleep(60)
            return [Verdict(["stated"])]

    async def main(url):
        asking = asyncio.create_task(LLMJudge(url, "slow", retries=0).judge([AB], [[AB]]))
        await asyncio.sleep(0.5)
        return asking, await asyncio.to_thread(server.__exit__, None, None, None)

    async def whole(url):
        asking, _ = await main(url)
        return await asyncio.wait_for(asking, 20)

    server = JudgeServer(Slow()).__enter__()
    (verdict,) = asyncio.run(whole(server.url))
    assert verdict.marks is None and not verdict.by_response


# ---------------------------------------------------------------- judges through it


@pytest.mark.parametrize("output", [None, "json", "tags"])
@pytest.mark.parametrize(
    "judge",
    [ExactJudge(), ExactJudge(contradictions=False), LazyJudge(), NoisyJudge(ExactJudge(), 0.3)],
    ids=lambda judge: judge.name,
)
def test_verdicts_through_a_server_are_the_judges_own(judge, output):
    responses, wanted = [p.response for p in PAIRS], [[p.annotation, AB] for p in PAIRS]
    direct = verdicts(judge, responses, wanted)
    with JudgeServer(judge) as server:
        client = LLMJudge(server.url, server.model, output=output)
        if judge.name in ("exact, presence only", "lazy"):
            two = LLMJudge(server.url, server.model, output=output, contradictions=False)
            assert verdicts(two, responses, wanted) == direct
        if isinstance(judge, NoisyJudge):  # its dice see the response as sent: without its tags
            responses = [re.sub("</?(think|answer)>", "", text) for text in responses]
            direct = verdicts(judge, responses, wanted)
        assert verdicts(client, responses, wanted) == direct
    assert len({v.marks[0] for v in direct}) >= 2


def test_labels_of_the_pairs_come_through():
    with JudgeServer(ExactJudge()) as server:
        found = verdicts(
            LLMJudge(server.url, "exact"), [p.response for p in PAIRS], [[p.annotation] for p in PAIRS]
        )  # fmt: skip
    assert [v.marks for v in found] == [[p.label] for p in PAIRS]
    assert {p.label for p in PAIRS} == {"stated", "absent", "contradicted"}


def test_failures_of_the_judge_come_through():
    with JudgeServer(ExactJudge()) as server:
        client = LLMJudge(server.url, "exact", max_characters=10**6)
        found = verdicts(client, [AB, "AB " * 20_000, AB], [["Grass is green."], [AB], [AB]])
    assert [v.marks for v in found] == [None, None, ["stated"]]
    assert [v.by_response for v in found] == [False, True, False]
    assert "cannot read the annotation" in found[0].failure and "too long" in found[1].failure


@pytest.mark.parametrize("response", ["\u200b", "\u202e\u2060", "\x00"], ids=ascii)
def test_a_response_of_nothing_visible_does_not_escape(response):
    """Else it would have no verdict where an ordinary wrong response has a low one."""
    with JudgeServer(ExactJudge()) as server:
        found = verdicts(LLMJudge(server.url, "exact"), [response, AB], [[AB], [AB]])
    assert found[1].marks == ["stated"]
    assert found[0].by_response or found[0].marks == ["absent"]


@pytest.mark.parametrize(
    "end",
    [
        "\n", "\r\n", " ", "\u2028", "\u2029",
        *(pytest.param(end)
          for end in ("\r", "\x0b", "\x0c", "\x85", "\x1e")),
    ],
    ids=ascii,
)  # fmt: skip
def test_ends_of_lines_part_sentences_there_as_here(end):
    response = f"AB = 5.{end}CD = 7."
    direct = verdicts(ExactJudge(), [response], [[AB, CD]])
    assert direct[0].marks == ["stated", "stated"]
    with JudgeServer(ExactJudge()) as server:
        assert verdicts(LLMJudge(server.url, "exact"), [response], [[AB, CD]]) == direct


def test_attacks_pay_nothing_and_break_nothing():
    """What no honest reader is paid for by the exact judge is not paid for through the server either."""
    subjects = ["The length of segment AB", "The length of segment CD"]
    texts = [write(subjects, random.Random(1)) for write in ATTACKS.values()]
    direct = verdicts(ExactJudge(), texts, [[AB, CD]] * len(texts))
    with JudgeServer(ExactJudge()) as server:
        found = verdicts(LLMJudge(server.url, "exact"), texts, [[AB, CD]] * len(texts))
    for name, one, other in zip(ATTACKS, direct, found, strict=True):
        assert one.marks == other.marks, name
        assert one.by_response == other.by_response, name
        assert one.marks is None or "stated" not in one.marks, name


# ---------------------------------------------------------------- the command line

COMMAND = [sys.executable, "-m", "perception_r1", "serve"]


def test_the_command_serves_until_interrupted():
    process = subprocess.Popen(
        [*COMMAND, "--judge", "lazy", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a job in the background of a shell inherits that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/v1", line)[0]
        assert line.startswith("lazy judge at ")
        (verdict,) = verdicts(LLMJudge(url, "lazy"), ["It is 5."], [[AB]])
        assert verdict.marks == ["stated"]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, output, errors) == (0, "stopped\n", "")
    finally:
        process.kill()
        process.wait()


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=100)


def test_the_command_says_that_a_port_is_taken(exact):
    done = run("--port", str(exact.port))
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "choose another port" in done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("perception_r1.reward.learned_judge") is None,
    reason="no learned judge",
)
def test_the_command_knows_no_such_judge():
    done = run("--judge", "nonsense", "--port", "0")
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "nonsense" in done.stderr
