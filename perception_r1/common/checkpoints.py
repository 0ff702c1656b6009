"""Checkpoints that are whole or not there, and logs in which every step stands once.

transformers writes a checkpoint file by file; a run that is killed meanwhile leaves a folder that looks like one.
So a marker is written last and removed first, and only what bears it counts. Nothing is unpickled from a
checkpoint: what is not safetensors (the states of optimiser and generators, under FSDP the weights too) transformers
reads with `weights_only=True`, and a test guards that.
"""

import json
import re
import shutil
from pathlib import Path

from perception_r1.common.errors import InputError
from perception_r1.common.files import cannot_write, read_json, whole, write_json

MARKER = "complete.json"
KEPT = 2  # checkpoints; the older one in case a disk damages the newer


def folder_of(out: Path, step: int) -> Path:
    """Where transformers puts the checkpoint of a step."""
    return out / f"checkpoint-{step}"


def mark_complete(out: Path, step: int) -> None:
    """Say that a checkpoint is whole, then remove all but the last `KEPT` whole ones."""
    write_json(folder_of(out, step) / MARKER, {"step": step})
    for _, folder in _whole(out)[:-KEPT]:
        (folder / MARKER).unlink()  # first, so that half a folder never bears it
        shutil.rmtree(folder)


def is_complete(out: Path, step: int) -> bool:
    """Whether the checkpoint of a step is there and whole."""
    return (folder_of(out, step) / MARKER).is_file()


def unmark(out: Path, step: int) -> None:
    """Take the marker away before a checkpoint is written anew."""
    (folder_of(out, step) / MARKER).unlink(missing_ok=True)


def last_complete(out: Path) -> tuple[int, Path] | None:
    """The step and folder of the last whole checkpoint; None where there is none."""
    found = _whole(out)
    return found[-1] if found else None


def remove_incomplete(out: Path) -> None:
    """Remove what a killed run had begun to save."""
    for folder in out.glob("checkpoint-*"):
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder)


def _whole(out: Path) -> list[tuple[int, Path]]:
    found = []
    for marker in out.glob(f"checkpoint-*/{MARKER}"):
        record = read_json(marker)
        step = record.get("step") if isinstance(record, dict) else None
        if marker.parent.name != f"checkpoint-{step}":
            raise InputError(f"{marker} names step {step!r}; remove {marker.parent}")
        found.append((step, marker.parent))
    return sorted(found)


def cut_log(path: Path, step: int) -> None:
    """Leave in a log (`.csv` or `.jsonl`) the header and what belongs to steps up to `step`.

    A resumed run writes the later steps again. A last line that a killed run left unfinished goes, too.
    """
    if not path.exists():
        return
    step_of = _json_step if path.suffix == ".jsonl" else _csv_step
    # bytes: the last line may end within a character, and completions hold other ends of lines than this one
    lines = path.read_bytes().split(b"\n")[:-1]
    kept = [line for line in lines if (found := step_of(line)) is not None and found <= step]
    with whole(path) as part:
        part.write_bytes(b"".join(line + b"\n" for line in kept))


def _csv_step(line: bytes) -> int | None:
    number = re.match(rb"(\d+),", line)
    return int(number[1]) if number else 0 if line.startswith(b"step,") else None


def _json_step(line: bytes) -> int | None:
    try:
        step = json.loads(line).get("step")
    except (ValueError, AttributeError):
        return None
    return step if isinstance(step, int) else None


def append(path: Path, text: str) -> None:
    """Append whole lines to a log.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error
