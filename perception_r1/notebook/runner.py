"""Run the numbered notebooks headless, one after the other, with papermill (contract C2 in README)."""

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path

import papermill
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from perception_r1.common import profiles, provenance
from perception_r1.common.errors import InputError, some
from perception_r1.common.files import (
    DATA,
    NOTEBOOKS,
    ROOT,
    alone,
    cannot_write,
    read_json,
    sha256,
    write_json,
)
from perception_r1.notebook import kernels, pages
from perception_r1.notebook.discovery import Notebook, discover, read_names, read_parameters, select

STARTING = 300  # seconds for a kernel to import what its notebook asks for


class Run:
    """One call of the runner: its folder, its record, and what has happened so far."""

    def __init__(self, profile: str, out: Path, notebooks: Mapping[str, Notebook], resume: bool):
        self.profile = profiles.load_profile(profile)
        self.out = out
        self.notebooks = notebooks
        self.resume = resume
        self.statuses: dict[str, str] = {}  # of this call
        self.kernels: dict[str, kernels.Kernel] = {}  # by the notebook's number
        earlier = self._earlier_notebooks()
        self.record: dict = {
            "profile": profile,
            "where": self.profile.where,
            "claims": self.profile.claims,
            "started": provenance.now(),
            "finished": None,
            "commit": provenance.commit(),
            "machine": provenance.machine(),
            "versions": provenance.versions(),
            "notebooks": {
                number: earlier.get(number, {"status": "not run"})
                | {"title": notebook.title, "file": notebook.path.stem}
                for number, notebook in notebooks.items()
            },
        }

    def _earlier_notebooks(self) -> dict:
        path = self.out / "run.json"
        if not path.exists():
            return {}
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("notebooks"), dict):
            raise InputError(f"{path} is not a run's record; choose another --out")
        if not all(isinstance(entry, dict) for entry in record["notebooks"].values()):
            raise InputError(f"{path} is not a run's record; choose another --out")
        if record.get("profile") != self.profile.name:
            raise InputError(
                f"{self.out} holds a run of profile {record.get('profile')!r}; choose another --out or remove it"
            )
        return record["notebooks"]

    def execute(
        self, notebook: Notebook, given: Mapping[str, object], following: Notebook | None = None
    ) -> str:
        """Run one notebook, or find that it need not run; return its status. The following one's kernel gets ready."""
        entry = self.record["notebooks"][notebook.number]
        broken = [
            need for need in notebook.needs if self.statuses.get(need) in ("failed", "skipped")
        ]
        if broken:
            if notebook.number in self.kernels:
                kernels.dismiss(self.kernels[notebook.number])
            return self._note(
                notebook,
                "skipped",
                error=f"needs notebook {some(broken)}, which did not run through",
            )
        fingerprint = self.fingerprint(notebook, given)
        if self.resume and entry.get("fingerprint") == fingerprint and self._is_whole(notebook):
            return self._note(notebook, **{**entry, "status": "unchanged"})
        self._note(notebook, "not run")
        begun, clock = provenance.now(), time.perf_counter()
        error = self._papermill(notebook, given, following)
        seconds = round(time.perf_counter() - clock, 2)
        written = self.artifacts_record(notebook.number)
        if error is None:
            fresh = written.get("started", "") >= begun
            missing = [
                n
                for n in notebook.writes
                if not fresh or not (self._artifacts(notebook.number) / n).is_file()
            ]
            if missing or not fresh:
                error = f"ran, but did not write what it promises: {some(missing or ['run.json'])}"
        if error is not None:
            return self._note(notebook, "failed", error=error, seconds=seconds)
        notes = {key: written.get(key) for key in ("finding", "figure", "peak_memory_mb", "empty")}
        # after the run, since what it read is only known now
        return self._note(
            notebook,
            "ok",
            seconds=seconds,
            fingerprint=self.fingerprint(notebook, given),
            **notes,
        )

    def _papermill(
        self, notebook: Notebook, given: Mapping[str, object], following: Notebook | None
    ) -> str | None:
        """Execute and render one notebook; return what went wrong, in one line, or None."""
        name = notebook.path.stem
        staged = self.out / f".{name}.part.ipynb"
        parameters = {
            "profile": self.profile.name,
            "out": os.path.relpath(self.out, notebook.path.parent),
            **given,
        }
        error = None

        def prepare(cell_index: int, execute_reply: Mapping, **_: object) -> None:
            """Start the following kernel halfway: not earlier, since training, in the first half, takes memory."""
            halfway = 2 * cell_index >= len(notebook.sources)
            well = execute_reply["content"]["status"] == "ok"
            # who resumes may find that it need not run
            if following and halfway and well and not self.resume:
                with suppress(Exception):  # to be said when its turn comes
                    self._start(following)

        try:
            self._start(notebook)
            papermill.execute_notebook(
                str(notebook.path), str(staged), parameters=parameters, cwd=str(notebook.path.parent),
                progress_bar={"desc": name, "leave": False, "position": 1, "disable": None},
                km=self.kernels[notebook.number], start_timeout=STARTING, on_cell_executed=prepare,
            )  # fmt: skip
        except PapermillExecutionError as failure:
            line = next((s for s in failure.source.splitlines() if s.strip()), "")
            what = pages.plain(failure.evalue).strip().split("\n")[0]
            error = f"cell [{failure.exec_count}] `{line.strip()[:60]}`: {failure.ename}: {what}"
        except DeadKernelError:
            said = self.kernels[notebook.number].last_words()
            error = f"the kernel died{said or ' (out of memory?)'}; see the last cell that has an output"
        except (RuntimeError, NoSuchKernel) as failure:
            kernel = self.kernels.get(notebook.number)
            why = str(failure).splitlines()[0] + (kernel.last_words() if kernel else "")
            error = f"the kernel did not start: {why}; `make check` says what is missing"
        except OSError as failure:
            staged.unlink(missing_ok=True)
            raise InputError(cannot_write(self.out / f"{name}.ipynb", failure)) from failure
        except BaseException:  # Ctrl-C above all
            staged.unlink(missing_ok=True)
            raise
        finally:
            # what a notebook that did not finish had written
            shutil.rmtree(self.out / "artifacts" / f".{notebook.number}.part", ignore_errors=True)
        if notebook.number in self.kernels:  # it ends while its page is written
            kernels.dismiss(self.kernels[notebook.number])
        if not staged.exists():  # it failed before its first cell
            return error
        try:
            pages.write_page(staged, self.out / f"{name}.html")
            os.replace(staged, self.out / f"{name}.ipynb")
        finally:
            staged.unlink(missing_ok=True)
        return error

    def _start(self, notebook: Notebook) -> None:
        """Start a notebook's kernel, unless it has one.

        Raises:
            NoSuchKernel, RuntimeError: it cannot be started.
        """
        if notebook.number not in self.kernels:
            try:
                self.kernels[notebook.number] = kernels.start(notebook)
            except OSError as failure:
                raise RuntimeError(str(failure)) from failure

    def fingerprint(self, notebook: Notebook, given: Mapping[str, object]) -> str:
        """What a notebook's result depends on, as one digest; equal digests need no new run."""
        read = self.artifacts_record(notebook.number).get("inputs", {})
        parts = [
            notebook.sources,
            sorted(given.items()),
            self.profile.model_dump(),
            sha256(ROOT / "perception_r1"),
            sha256(DATA),
            provenance.versions(),
            [self.artifacts_record(need).get("artifacts") for need in notebook.needs],
            [(path, sha256(NOTEBOOKS / path)) for path in sorted(read)],
        ]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()

    def _is_whole(self, notebook: Notebook) -> bool:
        pages_there = all(
            (self.out / f"{notebook.path.stem}{end}").is_file() for end in (".ipynb", ".html")
        )
        written = self.artifacts_record(notebook.number).get("artifacts")
        if written is None or not pages_there or not set(notebook.writes) <= set(written):
            return False
        folder = self._artifacts(notebook.number)
        return all(sha256(folder / name) == digest for name, digest in written.items())

    def _artifacts(self, number: str) -> Path:
        return self.out / "artifacts" / number

    def artifacts_record(self, number: str) -> dict:
        """The `run.json` that notebook `number` wrote in this folder; empty where there is none."""
        path = self._artifacts(number) / "run.json"
        try:
            record = read_json(path)
        except InputError:
            return {}
        return record if isinstance(record, dict) else {}

    def _note(self, notebook: Notebook, status: str, **values: object) -> str:
        values |= {"title": notebook.title, "file": notebook.path.stem, "status": status}
        self.record["notebooks"][notebook.number] = values
        self.statuses[notebook.number] = status
        self.write()
        return status

    def close(self) -> None:
        """See that all kernels end, also those whose turn did not come."""
        for number, kernel in self.kernels.items():
            if number not in self.statuses:
                kernels.dismiss(kernel)
            kernels.stop(kernel)

    def write(self) -> None:
        """Write `run.json` and `index.html`."""
        write_json(self.out / "run.json", self.record)
        pages.write_index(self.out, self.record)


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
    profiles.load_profile(profile)
    notebooks = discover(folder)
    selected = select(notebooks, only)
    given = read_parameters(selected, parameters)
    check_out(out, folder)
    busy = f"another run is writing to {out}; wait for it or choose another --out"
    with alone(out, busy), _kernel_environment(), _terminable():
        for left in (*out.glob(".*.part.ipynb"), *out.glob("artifacts/.*.part")):  # by a killed run
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        session = Run(profile, out, notebooks, resume)
        session.write()
        print(f"Profile {profile}: {session.profile.purpose}\nWriting to {out}", flush=True)
        try:
            bar = tqdm(
                selected,
                desc="notebooks",
                unit="notebook",
                position=0,
                disable=None,
                leave=False,
            )
            try:
                for notebook, following in zip_longest(bar, selected[1:]):
                    session.execute(notebook, given[notebook.number], following)
                    bar.write(_line(notebook, session.record["notebooks"][notebook.number]))
                    sys.stdout.flush()
            finally:
                session.close()
        except KeyboardInterrupt:  # perhaps a second one, while kernels are stopped
            print(
                "Interrupted; what was finished is kept, and --resume goes on from here",
                file=sys.stderr,
            )
            return 130
        session.record["finished"] = provenance.now()
        session.write()
    failures = [
        notebook
        for notebook in selected
        if session.statuses[notebook.number] in ("failed", "skipped")
    ]
    for notebook in failures:
        error = session.record["notebooks"][notebook.number]["error"]
        print(
            f"{notebook.path.stem} {session.statuses[notebook.number]}: {error}",
            file=sys.stderr,
        )
    print(f"Read it: {out / 'index.html'}")
    return 1 if failures else 0


def check_out(out: Path, notebooks: Path) -> None:
    """Refuse a folder that papermill cannot write to, or that holds the project's own files.

    Raises:
        InputError: it is one.
    """
    if re.search(r"[{}]", f"{out}{notebooks}"):
        raise InputError(
            f"{out}: papermill takes braces in a path for a pattern; choose another name"
        )
    own = [ROOT, *(ROOT / name for name in ("notebooks", "perception_r1", "data", "tests"))]
    if out in own or any(place in out.parents for place in own[1:]):
        raise InputError(
            f"--out {out} holds the project's own files; choose a folder such as runs/mine"
        )


def _line(notebook: Notebook, entry: Mapping) -> str:
    took = pages.duration(entry.get("seconds")) if entry["status"] in ("ok", "failed") else ""
    return f"  {notebook.path.stem:<28} {entry['status']:<10} {took}".rstrip()


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Set what the kernels inherit: quiet progress bars, inline figures, no debugger's warning."""
    wanted = {
        "TQDM_DISABLE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PERCEPTION_R1_HEADLESS": "1",  # panels stand still (see `panel`)
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    # Jupyter's client logs a traceback when a message arrives, or a kernel ends, while it is given up; we say what is
    # wrong in one line.
    for name in ("tornado.general", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let `kill` end a run as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 run ...`; see `run`."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 run", allow_abbrev=False)
    add = parser.add_argument
    add("--profile", default="laptop", help=f"{', '.join(profiles.names())}; default laptop")
    add("--only", type=read_names, metavar="01,A1", help="these notebooks, not all")
    add("--out", type=str.strip, metavar="DIR", help="default runs/<profile>")
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="of a notebook")
    add("--resume", action="store_true", help="skip notebooks whose code and inputs are unchanged")
    add("--notebooks", type=Path, default=NOTEBOOKS, metavar="DIR", help="a folder of your own")
    given = parser.parse_args(arguments)
    if given.out == "":
        raise InputError("--out is empty; leave it out, or give it a value")
    out = Path(given.out) if given.out else None
    return run(
        given.profile, given.only or [], out, given.param, given.resume, given.notebooks.resolve()
    )
