"""Kernels that start before their turn: one imports what its notebook asks for while the notebook before it runs."""

import ast
import tempfile
from contextlib import suppress

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

from perception_r1.notebook.discovery import Notebook


class Kernel(AsyncKernelManager):
    """A kernel and what belongs to it: its client, which nbclient leaves open, and what it complains of."""

    def __init__(self, notebook: Notebook):
        super().__init__(kernel_name=notebook.kernel)
        self.complaints = tempfile.TemporaryFile()
        self.clients: list = []

    def client(self, **settings: object):
        """See `AsyncKernelManager`."""
        self.clients.append(super().client(**settings))
        return self.clients[-1]

    def last_words(self) -> str:
        """The last line that it wrote outside any cell, in brackets; empty if there is none."""
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").split("\n")
        return next((f" ({line.strip()[:200]})" for line in reversed(lines) if line.strip()), "")


def start(notebook: Notebook) -> Kernel:
    """Start the kernel that a notebook names, in the notebook's folder; it begins to import by itself.

    So what a cell sets for an import, an environment variable for example, comes too late for this package's modules.
    What cannot be imported, the notebook will say when it is its turn.

    Raises:
        NoSuchKernel: there is none of that name.
        OSError: its command cannot be run.
    """
    kernel = Kernel(notebook)
    line = "".join(f"__import__({name!r});" for name in imports(notebook))  # leaves no names behind
    run_sync(kernel.start_kernel)(
        # what goes wrong stands in the notebook
        extra_arguments=["--log-level=CRITICAL", f"--IPKernelApp.exec_lines={line}"],
        stderr=kernel.complaints,  # one that ends may complain of closed streams: not on the terminal
        cwd=str(notebook.path.parent),
    )
    return kernel


def dismiss(kernel: Kernel) -> None:
    """Ask a kernel whose work is done to end, without waiting for it; from now on nobody waits long."""
    # ipykernel, as it ends, may wait 10 s for a thread of its own that has ended already
    kernel.shutdown_wait_time = 1.0  # seconds
    _hang_up(kernel)
    if run_sync(kernel.is_alive)():
        run_sync(kernel.request_shutdown)()


def stop(kernel: Kernel) -> None:
    """Interrupt a kernel and wait until it has ended; one that does not listen is killed."""
    _hang_up(kernel)
    alive = run_sync(kernel.is_alive)()
    run_sync(kernel.shutdown_kernel if alive else kernel.cleanup_resources)()
    kernel.complaints.close()


def _hang_up(kernel: Kernel) -> None:
    while kernel.clients:
        kernel.clients.pop().stop_channels()


def imports(notebook: Notebook) -> list[str]:
    """Modules of this package that a notebook's cells import at their top level; they bring the large libraries."""
    found = []
    for source in notebook.sources:
        with suppress(SyntaxError):  # prose, or a magic command
            for line in ast.parse(source).body:
                if isinstance(line, ast.ImportFrom) and line.module == __package__:
                    found += [f"{line.module}.{name.name}" for name in line.names]
                elif isinstance(line, ast.ImportFrom):
                    found.append(line.module)
                elif isinstance(line, ast.Import):
                    found += [name.name for name in line.names]
    return [name for name in dict.fromkeys(found) if name and name.startswith(f"{__package__}.")]
