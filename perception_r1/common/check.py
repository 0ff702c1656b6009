"""What works on this machine: one line per requirement, with the remedy where it fails."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from perception_r1.common.files import ROOT

DISK_GB = 3
MEMORY_GB = 4
PINNED = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "papermill",
    "jupyterlab",
    "seaborn",
)
JUDGE_URL = "PERCEPTION_R1_JUDGE_URL"


class Line(NamedTuple):
    """One requirement: is it met, and what to do where not. Optional ones never fail the check."""

    name: str
    met: bool
    found: str
    remedy: str = ""
    optional: bool = False

    def __str__(self) -> str:
        if self.met:
            return f"OK    {self.name:<13} {self.found}"
        return f"FAIL  {self.name:<13} {'(optional) ' if self.optional else ''}{self.found}; {self.remedy}"


def check_environment() -> list[Line]:
    """Look at everything the notebooks need; takes some seconds, since it imports torch."""
    version = sys.version_info
    lines = [
        Line(
            "python",
            (3, 11) <= version[:2] <= (3, 13),
            sys.version.split()[0],
            "use Python 3.11, 3.12 or 3.13",
        )
    ]
    lines += _packages()
    lines += [_gpu(), _disk(), _memory()]
    lines += [
        _optional(
            "torchvision",
            "only for real Qwen2.5-VL checkpoints: pip install -e '.[gpu]' -c constraints.txt",
        ),
        _optional(
            "vllm",
            "only for profiles gpu and paper: pip install -e '.[gpu]' -c constraints.txt",
        ),
        _judge(os.environ.get(JUDGE_URL, "")),
    ]
    return lines


def pins() -> dict[str, set[str]]:
    """Package -> the versions that `constraints.txt` pins it to (one for each range of Pythons)."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, equals, version = line.split(";")[0].strip().partition("==")
        if equals and not line.startswith("#"):
            found.setdefault(name, set()).add(version)
    return found


def _packages() -> Iterator[Line]:
    pinned = pins()
    for name in PINNED:
        remedy = f"pip install -c constraints.txt {name} (or make test, which sets up .venv)"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Line(name, False, "not installed", remedy)
            continue
        wanted = pinned.get(name, set())
        yield Line(
            name,
            version.split("+")[0] in wanted,
            version,
            f"pinned to {', '.join(sorted(wanted))}; {remedy}",
        )


def _gpu() -> Line:
    remedy = "the laptop profile needs none"
    try:
        import torch
    except ImportError:
        return Line("gpu", False, "torch cannot be imported", remedy, optional=True)
    if not torch.cuda.is_available():
        return Line("gpu", False, "torch sees none", remedy, optional=True)
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Line(
        "gpu",
        True,
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB",
    )


def _disk() -> Line:
    free = shutil.disk_usage(ROOT).free / 2**30
    return Line(
        "disk",
        free >= DISK_GB,
        f"{free:.1f} GiB free",
        f"free {DISK_GB} GiB for packages and runs",
    )


def _memory() -> Line:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return Line("memory", True, "unknown")
    return Line(
        "memory",
        total >= MEMORY_GB,
        f"{total:.1f} GiB",
        f"the laptop profile needs {MEMORY_GB} GiB",
    )


def _optional(name: str, remedy: str) -> Line:
    if importlib.util.find_spec(name) is None:
        return Line(name, False, "not installed", remedy, optional=True)
    return Line(name, True, importlib.metadata.version(name), optional=True)


def _judge(url: str) -> Line:
    if not url:
        return Line(
            "judge URL",
            False,
            "not set",
            f"only for an LLM judge: export {JUDGE_URL}=http://host:8000/v1",
            True,
        )
    parts = urlsplit(url)  # a user or password in it is neither shown nor sent
    shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    request = urllib.request.Request(shown.rstrip("/") + "/models")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            models = [str(model["id"]) for model in json.load(answer)["data"]]
    except urllib.error.HTTPError as error:
        if error.code in (
            401,
            403,
        ):  # it is there and wants a key, which this check does not send
            return Line("judge URL", True, f"{shown} answers, and wants a key", optional=True)
        return Line(
            "judge URL",
            False,
            f"{shown}: HTTP {error.code}",
            "it must end in /v1",
            optional=True,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "reason", None) or type(error).__name__
        return Line(
            "judge URL",
            False,
            f"{shown}: {why}",
            "start the server, or mend the URL",
            optional=True,
        )
    return Line("judge URL", True, f"{shown} serves {', '.join(models)}", optional=True)


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 check`; 1 if something is missing that is not optional."""
    argparse.ArgumentParser(prog="python -m perception_r1 check", description=__doc__).parse_args(
        arguments
    )
    lines = check_environment()
    print(*lines, sep="\n")
    return 0 if all(line.met or line.optional for line in lines) else 1
