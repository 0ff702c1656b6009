"""Serves any `Judge` as an OpenAI-compatible endpoint, so that a laptop without a GPU drives the real client path.

    python -m perception_r1 serve --judge exact --port 8100

It listens on loopback, and answers the questions of `judge_prompt` and `fact_prompt` only. Made with Tornado, which
JupyterLab brings along. With `--gguf` the same command starts llama.cpp's server (`gguf_server`).
"""

import argparse
import asyncio
import functools
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import tornado.httpserver
import tornado.web

from perception_r1 import reward  # TunedJudge, and with it torch, comes when it is asked for
from perception_r1.common.errors import InputError
from perception_r1.reward.fact_prompt import FactPrompt
from perception_r1.reward.gguf_server import HOST, GGUFServer, gguf_file, listen
from perception_r1.reward.judge_prompt import JudgePrompt
from perception_r1.reward.judges import ExactJudge, Judge, LazyJudge

Answerer = Callable[[list[dict]], Awaitable[str]]  # from messages to the answer's text
# What a body that is no question raises; InputError is a ValueError.
NOT_READABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class JudgeServer:
    """A server in a thread of its own: `with JudgeServer(judge) as server: LLMJudge(server.url, ...)`.

    Args:
        judge: whose verdicts it serves; or a function from messages to the answer's text, to play a
            language model (see `attacks`).
        port: on loopback, reachable from this machine only; 0 takes a free one.
        model: the name it serves the judge under.

    Raises:
        InputError: on entering, the port cannot be had.
    """

    def __init__(self, judge: Judge | Answerer, port: int = 0, model: str = ""):
        self._answer = judge if callable(judge) else functools.partial(answer_of, judge)
        self.model = model or getattr(judge, "name", "judge")
        self.port = port

    def __enter__(self) -> "JudgeServer":
        sockets = listen(self.port)
        self.port = sockets[0].getsockname()[1]
        self.url = f"http://{HOST}:{self.port}/v1"  # for `LLMJudge` and other clients
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(sockets),), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, sockets: list) -> None:
        served = {"answer": self._answer, "model": self.model}
        application = tornado.web.Application(
            [("/v1/chat/completions", _Completions, served), ("/v1/models", _Models, served)],
            log_function=lambda handler: None,
        )
        server = tornado.httpserver.HTTPServer(application)
        server.add_sockets(sockets)
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()


async def answer_of(judge: Judge, messages: list[dict]) -> str:
    """A judge's answer to a question of `judge_prompt` or `fact_prompt`, as it asks for it.

    Raises:
        InputError: the messages are no such question, or the judge has no verdict.
    """
    prompt = FactPrompt.parse(messages) or JudgePrompt.parse(messages)
    (verdict,) = await judge.judge([prompt.response], [prompt.annotations])
    if verdict.marks is None:
        raise InputError(f"no verdict: {verdict.failure}")
    return prompt.write(verdict.marks)


class _Handler(tornado.web.RequestHandler):
    def initialize(self, answer: Answerer, model: str) -> None:
        self.answer, self.model = answer, model

    def write_error(self, status_code: int, message: str = "", **_: object) -> None:
        message = message or f"HTTP {status_code} ({self._reason})"
        self.finish({"error": {"message": message, "type": "invalid_request_error"}})


class _Models(_Handler):
    def get(self) -> None:
        self.finish({"object": "list", "data": [{"id": self.model, "object": "model"}]})


class _Completions(_Handler):
    async def post(self) -> None:
        try:
            text = await self.answer(json.loads(self.request.body)["messages"])
        except Exception as error:  # told to the client, and not fatal here
            code = 400 if isinstance(error, NOT_READABLE) else 500  # else the judge's own fault
            self.send_error(code, message=f"{type(error).__name__}: {error}")
            return
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "chatcmpl-judge", "object": "chat.completion", "created": 0}
        self.finish(answer | {"model": self.model, "choices": [choice]})


def main(arguments: list[str]) -> int:
    """The command `serve`; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 serve")
    parser.add_argument("--judge", choices=("exact", "lazy", "tuned"))
    model = 'file of a language model, or "smollm2" (make test-llm): it judges, or --judge tuned builds on it'
    parser.add_argument("--gguf", help=model)
    parser.add_argument("--port", type=int, default=8100)
    options = parser.parse_args(arguments)
    if options.gguf and not options.judge:
        path = gguf_file(options.gguf)
        serving = GGUFServer(path, options.port, Path(options.gguf).stem)
    elif options.judge == "tuned":
        judge = reward.TunedJudge(gguf_file(options.gguf or "smollm2"))
        serving = JudgeServer(judge, options.port)
    else:
        judge = LazyJudge() if options.judge == "lazy" else ExactJudge()
        serving = JudgeServer(judge, options.port)
    with serving as server:
        print(f"{server.model} judge at {server.url} (Ctrl-C stops it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")
    return 0
