"""What made a result: versions, commit, machine, memory."""

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from perception_r1.common.files import ROOT

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "datasets", "numpy", "scipy", "pandas"),
    *("statsmodels", "seaborn", "papermill", "jupyterlab"),
)


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Python's and each installed package's version; a package that is missing is left out."""
    installed = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def commit() -> str | None:
    """The project's git commit, with "-dirty" where files differ from it; None outside git."""
    command = "git describe --always --dirty --abbrev=40 --exclude=*".split()
    quiet = {"stderr": subprocess.DEVNULL, "timeout": 20, "text": True}
    try:
        return subprocess.check_output(command, cwd=ROOT, **quiet).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> str:
    """The kind of machine in words: system, processor, cores. No host or user name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def origin(packages: tuple[str, ...] = PACKAGES) -> dict[str, object]:
    """What every record says of how it came about: commit, machine, versions."""
    return {"commit": commit(), "machine": machine(), "versions": versions(packages)}


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MiB.

    On Linux from /proc, since `ru_maxrss` of a fresh kernel still counts the parent that started it.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return round(int(peak[1]) / 1024, 1)
    per_mb = 1024**2 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mb, 1)
