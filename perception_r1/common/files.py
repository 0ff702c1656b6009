"""Where the project's files are, and how a file is written: whole, or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from perception_r1.common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"


def shared_data(given: str | Path = "") -> Path:
    """The folder of real data that a class shares; it need not exist.

    `given` if it is not empty, else `$PERCEPTION_R1_SHARED`, else `../shared/data` beside the clone.
    """
    return Path(given or os.environ.get("PERCEPTION_R1_SHARED") or ROOT.parent / "shared" / "data")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed to `path` only if the block ends well.

    Raises:
        InputError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder, which is made if need be, for one process at a time; a killed one frees it by that.

    Raises:
        InputError: another process holds it (`busy` says so), or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(cannot_write(folder, error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(busy) from error
        except OSError:
            pass  # a file system without locks
        yield


def replace_folder(folder: Path, new: Path) -> None:
    """Put the folder `new`, which stands beside it, in the place of `folder`."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> str:
    """One line for a failed write: which file, why, and the remedy."""
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    remedy = "free some space there" if full else "choose another folder"
    return f"cannot write {path}: {reason}; {remedy}"


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all (see `whole`)."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all (see `whole`)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> object:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, unreadable, or not JSON in UTF-8; the place is named.
    """
    return _parsed(path, json.loads, "JSON")


def read_toml(path: Path) -> dict:
    """The same for TOML."""
    return _parsed(path, tomllib.loads, "TOML")


def read_rows(path: Path) -> list[dict]:
    """The objects of a JSON file (a list, or an object of objects), or of one with a JSON object a line (`.jsonl`).

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    rows = _parsed(path, _json_lines if path.suffix == ".jsonl" else json.loads, "JSON")
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} holds no rows; give a file with a JSON object for each")
    return rows


def _json_lines(text: str) -> list:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _parsed(path: Path, parse: Callable[[str], object], form: str):
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # of the decoder, or of the parser, which names the line
        raise InputError(f"{path} is not {form} in UTF-8: {error}") from error


def sha256(path: Path) -> str | None:
    """The file's (or folder's) content as a hexadecimal digest; None where nothing is there.

    A folder counts by the relative names and contents of all files below it.
    """
    if path.is_file():
        with path.open("rb") as file:  # in parts: weights may be larger than memory
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()
