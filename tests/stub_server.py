"""A real OpenAI-compatible HTTP server on loopback that answers, or fails, as a test tells it.

    with StubServer(lambda call: good(f"you said {call.text}")) as server:
        Chat(server.url, "stub")
    assert server.count == 1

The function gets each `Call` (numbered from 0 in the order of arrival) and returns a `Plan`: `good`,
`status`, `raw`, `hang`, `cut`, `reset` or `drip`.
"""

import http.server
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Call:
    number: int
    body: dict
    headers: dict[str, str]  # names in small letters

    @property
    def text(self) -> str:
        """The text of the last message."""
        content = self.body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


@dataclass(frozen=True)
class Plan:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    break_off: int | None = None  # close after so many bytes of the body; -1: reset at once
    gap: float = 0.0  # seconds between the bytes of the body

    def after(self, seconds: float) -> "Plan":
        return replace(self, delay=seconds)


def good(
    content: str | None,
    finish_reason: str = "stop",
    prompt: int = 10,
    completion: int = 5,
    likely: dict[str, float] | None = None,
):
    """A chat completion with these token counts; `likely`: the first token's likeliest with their log-probabilities."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    if likely:  # as llama.cpp, vLLM and OpenAI have it; the first need not be the one that was said
        top = [{"token": token, "logprob": value} for token, value in likely.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    usage = tokens | {"total_tokens": prompt + completion}
    about = {"id": "chatcmpl-stub", "object": "chat.completion", "created": 0, "model": "stub"}
    return raw(json.dumps(about | {"choices": [choice], "usage": usage}))


def status(code: int, message: str = "planned", **headers: str) -> Plan:
    """An error as OpenAI's and vLLM's servers word it; `retry_after_ms="1"` keeps a test quick."""
    body = json.dumps({"error": {"message": message, "type": "stub", "code": code}})
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Plan(body.encode(), code, {"content-type": "application/json", **names})


def raw(body: str | bytes, content_type: str = "application/json", **headers: str) -> Plan:
    """Any body at all, with status 200."""
    body = body.encode() if isinstance(body, str) else body
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Plan(body, 200, {"content-type": content_type, **names})


def hang() -> Plan:
    """Nothing, until the server stops."""
    return Plan(delay=1e6)


def cut() -> Plan:
    """Half of an answer, then the connection is closed."""
    return replace(good("half of this never arrives"), break_off=40)


def reset() -> Plan:
    """The connection is reset before the first byte."""
    return Plan(break_off=-1)


def drip(gap: float = 0.05) -> Plan:
    """A good answer, byte by byte: never silent for long, never done."""
    return replace(good("drop by drop"), gap=gap)


class StubServer:
    """Serves `POST /v1/chat/completions` by calling `answer`, which a test may exchange on the way."""

    def __init__(self, answer: Callable[[Call], Plan]):
        self.answer = answer
        self.calls: list[Call] = []
        self.answered = 0  # answers written to the last byte
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def count(self) -> int:
        return len(self.calls)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def reset_counts(self) -> None:
        with self._lock:
            self.calls, self.answered, self.most_in_flight = [], 0, self.in_flight

    def __enter__(self) -> "StubServer":
        stub = self

        class Handler(_Handler):
            server_stub = stub

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, handler: "_Handler", body: dict) -> None:
        with self._lock:
            call = Call(len(self.calls), body, {k.lower(): v for k, v in handler.headers.items()})
            self.calls.append(call)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            plan = self.answer(call)
            stopped = self._stopping.wait(plan.delay) if plan.delay else False
        finally:  # before the answer leaves, since the client's next request may overtake this line
            with self._lock:
                self.in_flight -= 1
        if not stopped:
            handler.send(plan, self._stopping)
            with self._lock:
                self.answered += 1


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of the tests


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_stub: StubServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self.send(status(404, f"no such path: {self.path}"), threading.Event())
            return
        self.server_stub.handle(self, body)

    def send(self, plan: Plan, stopping: threading.Event) -> None:
        if plan.break_off == -1:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()  # with no time to linger: RST
            self.close_connection = True
            return
        names = {**plan.headers, "content-length": str(len(plan.body))}
        lines = [f"HTTP/1.1 {plan.status} planned", *(f"{k}: {v}" for k, v in names.items())]
        head = "".join(f"{line}\r\n" for line in lines)
        head = head.encode() + b"\r\n"
        if plan.break_off is not None:
            self.wfile.write(head + plan.body[: plan.break_off])
            self.close_connection = True
        elif plan.gap:
            self.wfile.write(head)
            for byte in plan.body:
                if stopping.wait(plan.gap):
                    return
                self.wfile.write(bytes([byte]))
        else:
            self.wfile.write(head + plan.body)

    def log_message(self, *_: object) -> None:
        pass


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition of the server that another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
