"""Run the numbered notebooks headless, one after the other, with papermill."""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import papermill
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from perception_r1.common import profiles
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import NOTEBOOKS, ROOT, alone, cannot_write
from perception_r1.notebook import discovery, pages
from perception_r1.notebook.discovery import Notebook
from perception_r1.notebook.resume import Ledger

# What kernels inherit: quiet progress bars, inline figures, panels that stand still.
KERNEL_ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PERCEPTION_R1_HEADLESS": "1",
}


def run(
    profile: str = "laptop",
    only: Sequence[str] = (),
    out: Path | None = None,
    parameters: Sequence[str] = (),
    resume: bool = False,
    folder: Path = NOTEBOOKS,
) -> int:
    """Run notebooks and report; see `python -m perception_r1 run --help`.

    Returns:
        0 if every notebook ran and wrote what it promises, 1 if one failed, 130 if interrupted.

    Raises:
        InputError: something asked for does not exist or cannot be written; nothing has been run.
    """
    out = (out or ROOT / "runs" / profile).resolve()
    settings = profiles.load_profile(profile)
    notebooks = discovery.discover(folder)
    selected = discovery.select(notebooks, only)
    given = discovery.read_parameters(selected, parameters)
    check_out(out)
    # Jupyter's client logs a traceback when a kernel ends while it is given up; we say what is wrong in one line.
    for name in ("tornado.general", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with alone(out, f"another run is writing to {out}; wait for it or choose another --out"):
        ledger = Ledger(out, settings, notebooks)
        ledger.begin()
        # their pages have a bar to go on by
        ledger.books = [notebook.path for notebook in selected]
        print(f"Profile {profile}: {settings.purpose}\nWriting to {out}", flush=True)
        failed: dict[str, str] = {}  # number -> why, in one line
        try:
            for notebook in selected:
                if why := _execute(notebook, ledger, given[notebook.number], resume, failed):
                    failed[notebook.number] = why
                entry = ledger.entry(notebook)
                took = pages.duration(entry.get("seconds"))
                print(f"  {notebook.path.stem:<28} {entry['status']:<10} {took}", flush=True)
        except KeyboardInterrupt:
            kept = "what was finished is kept, and --resume goes on from here"
            print(f"Interrupted; {kept}", file=sys.stderr)
            return 130
    for number, why in failed.items():
        entry = ledger.entry(notebooks[number])
        print(f"{entry['file']} {entry['status']}: {why}", file=sys.stderr)
    print(f"Read it: {out / 'index.html'}")
    return 1 if failed else 0


def _execute(
    notebook: Notebook, ledger: Ledger, given: Mapping, resume: bool, failed: Mapping[str, str]
) -> str | None:
    """Run one notebook, or find that it need not or cannot run, and note it; return what went wrong, in one line."""
    if broken := [need for need in notebook.needs if need in failed]:
        error = f"needs notebook {some(broken)}, which did not run through"
        ledger.note(notebook, "skipped", error=error)
        return error
    if resume and not ledger.changed(notebook, given):
        ledger.note(notebook, **{**ledger.entry(notebook), "status": "unchanged"})
        return None
    ledger.note(notebook, "not run")
    before, clock = ledger.artifacts_record(notebook.number), time.perf_counter()
    error = _run_and_render(notebook, ledger, given)
    seconds = round(time.perf_counter() - clock, 2)
    written = ledger.artifacts_record(notebook.number)
    if error is None:
        artifacts = {} if written == before else written["artifacts"]
        missing = [name for name in notebook.writes if name not in artifacts]
        if missing or written == before:
            error = f"ran, but did not write what it promises: {some(missing or ['run.json'])}"
    if error is not None:
        ledger.note(notebook, "failed", error=error, seconds=seconds)
        return error
    notes = {key: written.get(key) for key in ("finding", "figure", "peak_memory_mb")}
    # after the run, since what it read is only known now
    made_of = ledger.made_of(notebook, given)
    ledger.note(notebook, "ok", seconds=seconds, made_of=made_of, **notes)
    return None


def _run_and_render(notebook: Notebook, ledger: Ledger, given: Mapping[str, object]) -> str | None:
    """Execute one notebook and write it and its page; return what went wrong, in one line, or None."""
    out, name = ledger.out, notebook.path.stem
    staged = out / f".{name}.part.ipynb"
    here = os.path.relpath(out, notebook.path.parent)
    parameters = {"profile": ledger.profile.name, "out": here, **given}
    try:
        error = _papermill(notebook, staged, parameters)
        if staged.exists():  # else it failed before its first cell
            pages.write_page(staged, out / f"{name}.html", ledger.books)
            os.replace(staged, out / f"{name}.ipynb")
        return error
    except OSError as failure:
        raise InputError(cannot_write(out / f"{name}.ipynb", failure)) from failure
    finally:  # also on Ctrl-C
        staged.unlink(missing_ok=True)
        # what a notebook that did not finish had written
        shutil.rmtree(out / "artifacts" / f".{notebook.number}.part", ignore_errors=True)


def _papermill(notebook: Notebook, staged: Path, parameters: dict) -> str | None:
    """Execute one notebook into the file `staged`; return what went wrong, in one line, or None."""
    try:
        papermill.execute_notebook(
            _literal(notebook.path),
            _literal(staged),
            parameters=parameters,
            cwd=str(notebook.path.parent),
            progress_bar={"desc": notebook.path.stem, "leave": False, "disable": None},
            start_timeout=300,  # seconds
            kernel_manager_class=_Kernel,
            shutdown_kernel="immediate",  # its work is done, and ipykernel may take 10 s to end
            extra_arguments=["--log-level=CRITICAL"],  # what goes wrong stands in the notebook
        )
    except PapermillExecutionError as failure:
        line = next((s for s in failure.source.splitlines() if s.strip()), "").strip()
        message = failure.evalue.strip().split("\n")[0]
        return f"cell [{failure.exec_count}] `{line[:60]}`: {failure.ename}: {message}"
    except DeadKernelError:
        return "the kernel died (out of memory?); see the last cell that has an output"
    except (RuntimeError, NoSuchKernel) as failure:
        why = str(failure).splitlines()[0]
        return f"the kernel did not start: {why}; `make check` says what is missing"
    return None


def _literal(path: Path) -> str:
    """A path as papermill takes it, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _Kernel(AsyncKernelManager):
    """A kernel with the environment above; what it says outside any cell is not for the terminal."""

    async def start_kernel(self, **settings: object) -> None:
        own = {"env": os.environ | KERNEL_ENVIRONMENT, "stderr": subprocess.DEVNULL}
        try:
            await super().start_kernel(**own, **settings)
        except OSError as failure:  # its interpreter is not there
            raise RuntimeError(str(failure)) from failure


def check_out(out: Path) -> None:
    """Refuse a folder that holds the project's own files.

    Raises:
        InputError: it is one.
    """
    own = [ROOT / name for name in ("notebooks", "perception_r1", "data", "tests")]
    if out in (ROOT, *own) or any(place in out.parents for place in own):
        raise InputError(f"--out {out} holds the project's own files; choose another folder")


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 run ...`; see `run`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 run", allow_abbrev=False)
    add = parser.add_argument
    add("--profile", default="laptop", help=f"{', '.join(profiles.names())}; default laptop")
    add("--only", type=discovery.read_names, default=[], metavar="01,A1", help="not all")
    add("--out", type=Path, metavar="DIR", help="default runs/<profile>")
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="of a notebook")
    add("--resume", action="store_true", help="skip notebooks whose code and inputs are unchanged")
    add("--notebooks", type=Path, default=NOTEBOOKS, metavar="DIR", help="a folder of your own")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a run as Ctrl-C does
    own = (given.param, given.resume, given.notebooks.resolve())
    return run(given.profile, given.only, given.out, *own)
