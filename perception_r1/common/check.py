"""What works on this machine: one line per requirement, with the remedy where it fails."""

import argparse
import csv
import os
import platform
import re
import shutil
import sys
from typing import NamedTuple

from perception_r1.common import provenance
from perception_r1.common.files import DATA, ROOT

DISK_GB = 3
MEMORY_GB = 4
NEEDED = "torch transformers trl accelerate datasets papermill jupyterlab seaborn".split()
FOR_GPUS = ("torchvision", "vllm", "peft")  # real Qwen2.5-VL checkpoints; profiles gpu and paper


class Line(NamedTuple):
    """One requirement: is it met, how it is, and what to do where not. Optional ones never fail the check."""

    name: str
    met: bool
    state: str
    remedy: str = ""
    optional: bool = False

    def __str__(self) -> str:
        if self.met:
            return f"OK    {self.name:<13} {self.state}"
        return f"FAIL  {self.name:<13} {'(optional) ' if self.optional else ''}{self.state}; {self.remedy}"


def check_environment() -> list[Line]:
    """Look at everything the notebooks need; takes some seconds, since it imports torch."""
    python = (3, 11) <= sys.version_info[:2] <= (3, 13)
    free = shutil.disk_usage(ROOT).free / 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    install = "pip install -c constraints.txt {} (or make test, which sets up .venv)"
    for_gpus = "only for GPUs: pip install -e '.[gpu]' -c constraints.txt"
    return [
        Line("python", python, platform.python_version(), "use Python 3.11, 3.12 or 3.13"),
        *(_package(name, install.format(name)) for name in NEEDED),
        _gpu(),
        Line("disk", free >= DISK_GB, f"{free:.1f} GiB free", f"free {DISK_GB} GiB"),
        Line("memory", memory >= MEMORY_GB, f"{memory:.1f} GiB", f"{MEMORY_GB} GiB are needed"),
        *(_package(name, for_gpus, optional=True) for name in FOR_GPUS),
    ]


def pins() -> dict[str, set[str]]:
    """Package -> the versions that `constraints.txt` pins it to (one for each range of Pythons)."""
    pinned: dict[str, set[str]] = {}
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        pinned.setdefault(name, set()).add(version)
    return pinned


def moved(package: str, version: str) -> list[str]:
    """What we pass to a package that means the same since another version only, or no longer (`data/keywords.csv`)."""
    with (DATA / "keywords.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["package"] == package]
    now, changed = _numbers(version), []
    for row in rows:
        if now < _numbers(row["since"]):
            changed.append(f"{row['keyword']} (since {row['since']})")
        elif row["until"] != "still" and now >= _numbers(row["until"]):
            changed.append(f"{row['keyword']} (until {row['until']})")
    return changed


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3]]


def _package(name: str, remedy: str, optional: bool = False) -> Line:
    wanted = pins().get(name, set())
    version = provenance.versions((name,)).get(name, "not installed")
    right = version.split("+")[0] in wanted
    if not right and version[0].isdigit() and (changed := moved(name, version)):
        version += f", where these mean something else: {', '.join(changed)}"
    return Line(name, right, version, f"pinned to {', '.join(sorted(wanted))}; {remedy}", optional)


def _gpu() -> Line:
    try:
        import torch
    except ImportError:
        return Line("gpu", False, "torch cannot be imported", "see above", True)
    if not torch.cuda.is_available():
        return Line("gpu", False, "torch sees none", "the laptop profile needs none", True)
    return Line("gpu", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")


def main(arguments: list[str]) -> int:
    """`python -m perception_r1 check`; 1 if something is missing that is not optional."""
    parser = argparse.ArgumentParser(prog="python -m perception_r1 check", description=__doc__)
    parser.parse_args(arguments)
    lines = check_environment()
    print(*lines, sep="\n")
    return 0 if all(line.met or line.optional for line in lines) else 1
