"""The answers of chat endpoints in one SQLite file, each committed the moment it arrives."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perception_r1.common.errors import InputError

SETUP = """
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS answers (
        id INTEGER PRIMARY KEY, request TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, logprobs TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS by_request ON answers (request);
    COMMIT;
"""


@dataclass(frozen=True)
class Attempt:
    """One answer of a server, paid for, usable or not; tokens as the server counted them."""

    text: str
    finish_reason: str = ""  # "length" where the server cut the answer off
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problem: str = ""  # why it could not be used, not stored; empty for a usable one
    # of the first token: the likeliest ones -> natural logarithm of the probability; empty if not told
    logprobs: Mapping[str, float] = field(default_factory=dict)


class Cache:
    """Answers by request, usable or not, in the order they came.

    A killed process loses nothing that was added. Several processes may share the file, on one machine's disk.

    Args:
        path: the file, made with its folders where there is none; None keeps the answers in memory.

    Raises:
        InputError: (from every method) the file cannot be used: no such database, damaged, locked, disk full.
    """

    def __init__(self, path: str | Path | None = None):
        self._path = Path(path) if path else None
        with self._usable():
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level None: each statement its own transaction; wait 30 s for other processes
            self._db = sqlite3.connect(self._path or ":memory:", timeout=30, isolation_level=None)
            with contextlib.suppress(sqlite3.OperationalError):  # another process does it just now
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(SETUP)

    def get(self, request: str) -> list[Attempt]:
        """All answers to the request with this key."""
        columns = "text, finish_reason, prompt_tokens, completion_tokens, '', logprobs"
        find = f"SELECT {columns} FROM answers WHERE request = ? ORDER BY id"
        with self._usable():
            rows = self._db.execute(find, (request,)).fetchall()
        return [Attempt(*row[:-1], json.loads(row[-1])) for row in rows]

    def add(self, request: str, answer: Attempt) -> None:
        """Keep an answer to the request with this key."""
        tokens = answer.prompt_tokens, answer.completion_tokens
        logprobs = json.dumps(dict(answer.logprobs))
        row = (request, answer.text, answer.finish_reason, *tokens, logprobs)
        with self._usable():
            self._db.execute("INSERT INTO answers VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            why = f"cannot use {self._path} as a cache of answers ({error})"
            raise InputError(f"{why}; free the disk or its lock, or choose another file") from error
