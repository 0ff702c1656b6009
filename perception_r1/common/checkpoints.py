"""Checkpoints that are whole or not there, and logs in which a step that is taken again counts once.

transformers writes a checkpoint file by file; a run that is killed meanwhile leaves a folder that looks like one.
So a marker is written last, and only what bears it counts. Nothing is unpickled from a checkpoint: what is not
safetensors (the states of optimiser and generators, under FSDP the weights too) transformers reads with
`weights_only=True`, and a test guards that.

Logs are only ever appended to. A run that goes on from a checkpoint writes the steps after it again; `read_log` leaves
out what they replace.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from perception_r1.common.errors import InputError
from perception_r1.common.files import cannot_write, replace_folder, write_json

MARKER = "complete.json"
KEPT = 2  # checkpoints; the older one in case a disk damages the newer


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Whatever goes wrong while weights are written is one error.

    Raises:
        InputError: it says which folder, why, and the remedy.
    """
    try:
        yield
    except Exception as error:  # OSError, or what torch and safetensors make of one
        reason = error if isinstance(error, OSError) else OSError(str(error))
        raise InputError(f"{cannot_write(folder, reason)}; what was whole is unharmed") from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which takes the place of `folder` only if the block ends well.

    Raises:
        InputError: it cannot be written; what was there is still there.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        with saving(folder):
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
            part.mkdir(parents=True)
            yield part
            replace_folder(folder, part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def mark_complete(out: Path, step: int) -> None:
    """Say that a checkpoint is whole, then remove all but the last `KEPT` whole ones."""
    write_json(out / f"checkpoint-{step}" / MARKER, {"step": step})
    for old in _complete_steps(out)[:-KEPT]:
        (out / f"checkpoint-{old}" / MARKER).unlink()  # first, so that half a folder never bears it
        shutil.rmtree(out / f"checkpoint-{old}")


def last_complete(out: Path) -> tuple[int, Path] | None:
    """The step and folder of the last whole checkpoint; None where there is none."""
    steps = _complete_steps(out)
    return (steps[-1], out / f"checkpoint-{steps[-1]}") if steps else None


def remove_incomplete(out: Path) -> None:
    """Remove what a killed run had begun to save."""
    for folder in out.glob("checkpoint-*"):
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder)


def _complete_steps(out: Path) -> list[int]:
    markers = out.glob(f"checkpoint-*/{MARKER}")
    return sorted(int(marker.parent.name.removeprefix("checkpoint-")) for marker in markers)


def append(path: Path, text: str) -> None:
    """Append whole lines to a log; a last line that a killed run left unfinished is ended first.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read() == b"\n" else f"\n{text}"
            file.write(text.encode())
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error


def read_log(path: Path) -> pd.DataFrame:
    """The rows of a log (`.csv` or `.jsonl`), each with a `step`, in the order in which they were written.

    Where a resumed run took steps again, the rows of the last time are given; broken lines are left out. Rows of one
    step differ in their `place` or, where there is none, in their `id`.

    Returns:
        One row a line, its fields as columns; no columns where there is no file, or no whole line in it.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.split("\n")[:-1]  # what stands behind the last end of line is still being written
    rows = _csv_rows(lines) if path.suffix == ".csv" else pd.DataFrame(_json_objects(lines))
    if not len(rows):
        return rows
    least_to_come = rows["step"][::-1].cummin()[::-1]
    rows = rows[rows["step"] <= least_to_come]  # the others lie behind a step that came again
    names = next((["step", name] for name in ("place", "id") if name in rows), ["step"])
    return rows.drop_duplicates(names, keep="last", ignore_index=True)


def _csv_rows(lines: list[str]) -> pd.DataFrame:
    whole = [line for line in lines if line.count(",") == lines[0].count(",")]
    return pd.read_csv(io.StringIO("\n".join(whole))) if whole else pd.DataFrame()


def _json_objects(lines: list[str]) -> list[dict]:
    objects = []
    for line in lines:
        with suppress(json.JSONDecodeError):
            objects.append(json.loads(line))
    return [item for item in objects if isinstance(item, dict) and "step" in item]
