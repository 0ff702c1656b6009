"""judge_server.py through the official client, our own client, plain HTTP, and its command line."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import openai
import pytest

from perception_r1.common.errors import InputError
from perception_r1.reward import judge_server
from perception_r1.reward.judge_prompt import JudgePrompt
from perception_r1.reward.judge_server import JudgeServer
from perception_r1.reward.judges import ExactJudge, LazyJudge, NoisyJudge
from perception_r1.reward.labelled_pairs import world_pairs
from perception_r1.reward.llm_judge import LLMJudge
from tests.judging import AB, CD, PROBLEMS, verdicts

PAIRS = world_pairs(PROBLEMS[:6], seed=1)


@pytest.fixture(scope="module")
def exact():
    with JudgeServer(ExactJudge()) as server:
        yield server


def post(server, body) -> tuple[int, dict]:
    """The status and the JSON of an answer to these bytes, or to this object."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/chat/completions", data, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def messages(response=AB, *annotations, contradictions=True):
    return JudgePrompt(annotations or [AB], response, "00ff", contradictions).messages()


@pytest.mark.parametrize("contradictions", [True, False])
def test_the_openai_client_gets_a_completion(contradictions, exact):
    prompt = JudgePrompt([AB, CD], "AB = 5. CD = 8.", "00ff", contradictions)

    async def main():
        async with openai.AsyncOpenAI(base_url=exact.url, api_key="none", max_retries=0) as client:
            models = [model.id async for model in client.models.list()]
            create = client.chat.completions.create
            return models, await create(model=exact.model, messages=prompt.messages())

    models, answer = asyncio.run(main())
    assert models == ["exact"] and answer.model == "exact"
    choice = answer.choices[0]
    assert choice.message.content == prompt.write(["stated", "contradicted"])
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert answer.object == "chat.completion"


GOOD = messages()
WRONG = [  # body, and words of the reason
    (b"what?", "Expecting value"),
    (b'{"messages": "\xff"}', "utf-8"),
    (b"[" * 200_000, ""),
    ({"model": "exact"}, "messages"),
    ({"messages": None}, ""),
    ({"messages": [{"role": "user", "content": "hi"}]}, "not a question"),
    ({"messages": [GOOD[0], {"content": 5}]}, "not a question"),
    ({"messages": [*GOOD, GOOD[0]]}, "not a question"),
    ({"messages": messages(AB, "Grass is green.")}, "cannot read the annotation"),
    ({"messages": messages(" ")}, "no verdict: the response is empty"),
]


def test_wrong_messages_are_refused_with_a_reason(exact):
    for body, words in WRONG:
        code, answer = post(exact, body)
        assert code == 400, body
        assert words in answer["error"]["message"] and answer["error"]["message"]
        assert post(exact, {"messages": GOOD})[0] == 200  # and the server goes on


def test_a_judge_that_breaks_is_an_error_of_the_server():
    class Broken(ExactJudge):
        async def judge(self, responses, annotations):
            raise RuntimeError("out of memory")

    with JudgeServer(Broken()) as server:
        code, answer = post(server, {"messages": GOOD})
        assert code == 500 and answer["error"]["message"] == "RuntimeError: out of memory"


def test_it_listens_on_loopback_alone_and_a_taken_port_says_so(exact):
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", exact.port), timeout=5):
        pass
    taken = f"cannot listen on 127.0.0.1:{exact.port}.*choose another port"
    with pytest.raises(InputError, match=taken), JudgeServer(LazyJudge(), port=exact.port):
        pass


def test_stopping_with_a_question_under_way_frees_the_port():
    class Slow(ExactJudge):
        async def judge(self, responses, annotations):
            await asyncio.sleep(60)

    async def stopped_meanwhile():
        asking = asyncio.create_task(LLMJudge(server.url, "slow", retries=0).judge([AB], [[AB]]))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.__exit__, None, None, None)
        return await asyncio.wait_for(asking, 20)

    server = JudgeServer(Slow()).__enter__()
    (verdict,) = asyncio.run(stopped_meanwhile())
    assert verdict.marks is None and not verdict.by_response
    with JudgeServer(ExactJudge(), port=server.port) as again:
        assert again.port == server.port


@pytest.mark.parametrize(
    "judge",
    [ExactJudge(contradictions=False), NoisyJudge(ExactJudge(), 0.3)],
    ids=lambda judge: judge.name,
)
def test_verdicts_through_a_server_are_the_judges_own(judge):
    responses, annotations = [p.response for p in PAIRS], [[p.annotation, AB] for p in PAIRS]
    if isinstance(judge, NoisyJudge):  # its dice see the response as sent: without its tags
        responses = [re.sub("</?(think|answer)>", "", text) for text in responses]
    direct = verdicts(judge, responses, annotations)
    with JudgeServer(judge) as server:
        if not judge.contradictions:
            two = LLMJudge(server.url, server.model, contradictions=False)
            assert verdicts(two, responses, annotations) == direct
            each = verdicts(LLMJudge(server.url, "exact", ask="each"), responses, annotations)
            assert [v.marks for v in each] == [v.marks for v in direct]  # by the word
            assert {score for v in each for score in v.scores} == {0.0, 1.0}
        assert verdicts(LLMJudge(server.url, server.model), responses, annotations) == direct
    assert len({v.marks[0] for v in direct}) >= 2


def test_the_command_serves_until_interrupted():
    process = subprocess.Popen(
        [sys.executable, "-m", "perception_r1", "serve", "--judge", "lazy", "--port", "0"],
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


def test_the_command_refuses_in_one_line(tmp_path):
    (tmp_path / "text.gguf").write_text("a text")
    for name, words in {"nothing": "cannot read", "text.gguf": "no GGUF file"}.items():
        with pytest.raises(InputError, match=f"{name}.*{words}|{words}.*{name}"):
            judge_server.main(["--gguf", str(tmp_path / name), "--port", "0"])
