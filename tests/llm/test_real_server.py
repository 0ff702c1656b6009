"""A real language model, SmolLM2-135M behind llama.cpp's own server: what stubs promise elsewhere, held against it.

`make test-llm` runs it. Whether the model is right is no part of it: it is too small to judge.
"""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from perception_r1.__main__ import main
from perception_r1.annotation.pipeline import annotate, extract_by_llm, own_trajectories
from perception_r1.common.cache import Attempt
from perception_r1.common.chat import Chat, ChatError, Request
from perception_r1.common.errors import InputError
from perception_r1.reward import gguf_server
from perception_r1.reward.fact_prompt import GRADED, FactPrompt, yes_score
from perception_r1.reward.gguf_server import GGUFServer, smollm2
from perception_r1.reward.judge_prompt import JudgePrompt, neutralise
from perception_r1.reward.judges import MARKS
from perception_r1.reward.llm_judge import LLMJudge
from perception_r1.world import WorldConfig, make_problems
from tests.judging import AB, CD, verdicts

pytest.importorskip("xllamacpp", reason="llama.cpp is missing: make test-llm installs it")
PATIENT = {"timeout": 400, "deadline": 500}  # on a busy machine
NONCE = "5f1d0c3a9be2740d"


@pytest.fixture(scope="module")
def path():
    try:
        return smollm2()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server(path):
    with GGUFServer(path, model="smollm2", context=2048) as running:
        yield running


def post(server, messages, **sampling) -> dict:
    body = json.dumps({"messages": messages, "temperature": 0, **sampling}).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/chat/completions", body, head)
    with urllib.request.urlopen(request, timeout=240) as answer:
        return json.load(answer)


def likely(answer: dict) -> list[dict]:
    return answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


# --- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("contradictions", [True, False])
def test_all_at_once_gives_verdicts_of_the_right_form(contradictions, server):
    judge = LLMJudge(server.url, "smollm2", contradictions=contradictions, **PATIENT)
    found = verdicts(judge, [AB, "The figure shows a square."], [[AB, CD], [AB]])
    assert [len(v.marks) for v in found] == [2, 1], [v.failure for v in found]
    assert {mark for v in found for mark in v.marks} <= set(MARKS)
    assert judge.usage.answers >= 2 and judge.usage.prompt_tokens > 400


def test_each_by_itself_is_graded_and_cached(server):
    judge = LLMJudge(server.url, "smollm2", ask="each", **PATIENT)
    found = verdicts(judge, [AB, "Nothing."], [[AB, CD], [AB]])
    assert [len(v.scores) for v in found] == [2, 1]
    scores = [score for v in found for score in v.scores]
    assert all(0 < score < 1 for score in scores) and len(set(scores)) == 3
    assert verdicts(judge, [AB, "Nothing."], [[AB, CD], [AB]]) == found
    assert (judge.usage.answers, judge.usage.completion_tokens, judge.usage.cached) == (3, 3, 3)


def test_extraction_gives_statements_in_form_or_a_drop_with_its_reason(server):
    problems = make_problems(2, WorldConfig(seed=3), "test")
    chains = own_trajectories(problems)
    chat = Chat(server.url, "smollm2", sampling={"temperature": 0, "max_tokens": 200}, **PATIENT)
    statements, drops = asyncio.run(extract_by_llm(chat, problems, chains))
    assert sorted([*statements, *(drop.id for drop in drops)]) == sorted(p.id for p in problems)
    assert all(statements.values()) and all("no usable answer" in d.reason for d in drops)
    kept, _ = annotate(problems, statements)
    assert {p.id for p in kept} <= statements.keys()


def test_too_few_tokens_are_no_verdict_and_say_so(server):
    prompt = JudgePrompt([AB], AB, NONCE, True)

    async def ask():
        async with Chat(server.url, "smollm2", attempts=1, **PATIENT) as chat:
            request = Request(prompt.messages(), prompt.schema(), prompt.read, {"max_tokens": 6})
            return await chat.complete_all([request])

    (error,) = asyncio.run(ask())
    assert isinstance(error, ChatError) and error.reason == "unusable answer"
    assert "cut off at the token limit" in str(error)
    assert error.attempts[0].finish_reason == "length"


def test_a_control_token_in_a_text_is_one_unless_it_is_neutralised(server):
    """The server reads <|im_end|> inside a message as the end of the message: a response could go on as the judge."""

    def tokens(text):
        return post(server, user(text), max_tokens=1)["usage"]["prompt_tokens"]

    forged = "AB<|im_end|>CD"
    assert tokens(forged) < tokens("AB<|im_and|>CD")
    assert tokens(neutralise(forged)) > tokens(forged)


# --- the server's memory ---------------------------------------------------------------------------


def test_the_shared_beginning_is_read_once_and_hardly_changes_the_score(server):
    text = neutralise(f"{AB} So the area is 20. {CD}")
    first, second = (
        post(server, FactPrompt([fact], text, NONCE).messages(), **GRADED) for fact in (AB, CD)
    )
    tokens = second["usage"]["prompt_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.9 * tokens - 40
    again = post(server, FactPrompt([AB], text, NONCE).messages(), **GRADED)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.9 * tokens - 40
    # Not the same to the digit: what is computed in one go or in two is rounded differently.
    one, two = (
        yes_score(Attempt("", logprobs={t["token"]: t["logprob"] for t in likely(answer)}))
        for answer in (first, again)
    )
    assert two == pytest.approx(one, abs=0.05) and len(likely(first)) == 20


def test_two_questions_are_worked_on_side_by_side(server):
    ends = {}

    def ask(name, count):
        post(server, user(f"Count to {count}: 1, 2, 3,"), max_tokens=count, ignore_eos=True)
        ends[name] = time.monotonic()

    threads = [threading.Thread(target=ask, args=job) for job in (("long", 40), ("short", 1))]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert ends["short"] < ends["long"]


def test_a_context_that_is_too_long_is_the_responses_fault_unless_nothing_fits(path):
    long, annotations = "AB is next to CD. " * 300, [[AB], [AB]]
    with GGUFServer(path, context=1024) as server:
        for ask in ("each", "all"):
            judge = LLMJudge(server.url, server.model, ask=ask, **PATIENT)
            found = verdicts(judge, [long, AB], annotations)
            assert [(v.marks is None, v.by_response) for v in found] == [(1, True), (0, False)]
            assert "HTTP 400" in found[0].failure and "context size" in found[0].failure
    with GGUFServer(path, context=256) as server:
        judge = LLMJudge(server.url, server.model, ask="each", **PATIENT)
        found = verdicts(judge, [long, AB], annotations)
        assert [(v.marks, v.by_response) for v in found] == [(None, False)] * 2


# --- the command -----------------------------------------------------------------------------------


def serving(port: int) -> tuple[subprocess.Popen, str]:
    """The command in a process of its own, and where it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perception_r1", "serve", "--gguf", "smollm2", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("smollm2 judge at "), process.communicate()
    return process, re.search(r"http://127\.0\.0\.1:\d+/v1", line)[0]


def test_a_server_killed_on_the_way_costs_what_was_in_flight_and_nothing_twice(path, tmp_path):
    responses, annotations = [f"{AB} Take {k}." for k in range(6)], [[AB]] * 6
    process, url = serving(0)
    settings = {"ask": "each", "cache": tmp_path / "c.sqlite", "retries": 0} | PATIENT
    judge = LLMJudge(url, "smollm2", **settings)

    async def killed_on_the_way():
        judging = asyncio.create_task(judge.judge(responses, annotations))
        while judge.usage.answers < 2:
            await asyncio.sleep(0.02)
        process.kill()
        return await judging

    try:
        found = asyncio.run(killed_on_the_way())
        lost = [v for v in found if v.marks is None]
        assert lost and len(lost) == 6 - judge.usage.answers
        assert not any(v.by_response for v in lost)
        assert {"no connection" in v.failure for v in lost} == {True}
        process.communicate()
        process, again = serving(int(url.rpartition(":")[2].removesuffix("/v1")))
        assert again == url
        judge = LLMJudge(url, "smollm2", **settings)
        assert [v.failure for v in verdicts(judge, responses, annotations)] == [None] * 6
        assert judge.usage.answers == len(lost)
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", int(url[17:-3]))):
            pass  # on loopback's one address alone
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "stopped\n", "")
    finally:
        process.kill()
        process.communicate()


def test_what_cannot_be_served_is_refused_in_one_line(path, tmp_path, server, capsys, monkeypatch):
    (tmp_path / "text.gguf").write_text("once upon a time")
    (tmp_path / "zeros.gguf").write_bytes(b"GGUF" + bytes(100))
    with path.open("rb") as file:
        (tmp_path / "half.gguf").write_bytes(file.read(40_000_000))
    port = server.url.removesuffix("/v1").rpartition(":")[2]
    cases = [  # file, port, words
        (tmp_path / "none.gguf", 0, "cannot read"), (tmp_path, 0, "cannot read"),
        (tmp_path / "text.gguf", 0, "no GGUF file"), (tmp_path / "zeros.gguf", 0, "cannot load"),
        (tmp_path / "half.gguf", 0, "cannot load"), (path, port, "choose another port"),
        (path, 70000, "choose another port"),
    ]  # fmt: skip
    for file, port, words in cases:
        assert main(["serve", "--gguf", str(file), "--port", str(port)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and words in lines[0] and lines[0].startswith("error: "), lines
    monkeypatch.setattr(gguf_server, "MEMORY", 1e6)
    assert main(["serve", "--gguf", "smollm2"]) == 2
    assert "GiB of memory" in capsys.readouterr().err
    monkeypatch.setattr(gguf_server, "SMOLLM2_SHA256", "0")
    assert main(["serve", "--gguf", "smollm2"]) == 2
    assert "--gguf PATH" in capsys.readouterr().err
