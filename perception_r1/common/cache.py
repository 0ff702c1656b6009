"""The answers of chat endpoints in one SQLite file, each committed the moment it arrives."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perception_r1.common.errors import InputError

MARK = 0x50523143  # SQLite's application_id of our files, "PR1C"
TABLE = """
    CREATE TABLE IF NOT EXISTS answers (
        id INTEGER PRIMARY KEY, request TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
    )
"""
INDEX = "CREATE INDEX IF NOT EXISTS by_request ON answers (request)"
FIND = """
    SELECT text, finish_reason, prompt_tokens, completion_tokens
    FROM answers WHERE request = ? ORDER BY id
"""


@dataclass(frozen=True)
class Attempt:
    """One answer of a server, paid for, usable or not; tokens as the server counted them."""

    text: str
    finish_reason: str = ""  # "length" where the server cut the answer off
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problem: str = ""  # why it could not be used, not stored; empty for a usable one


class Cache:
    """Answers by request, usable or not, in the order they came.

    In WAL mode with `synchronous=NORMAL` a killed process loses nothing, and a power cut at most the last
    answers. Several processes may share the file, on one machine's disk (WAL needs shared memory).

    Args:
        path: the file, made with its folders where there is none; None keeps the answers in memory.

    Raises:
        InputError: (from every method) the file cannot be used: another program's, damaged, locked, disk full.
    """

    def __init__(self, path: str | Path | None = None):
        self._path = Path(path) if path else None
        with self._clear(), contextlib.ExitStack() as undo:
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level None: each statement its own transaction; wait 30 s for other processes
            self._db = sqlite3.connect(self._path or ":memory:", timeout=30, isolation_level=None)
            undo.callback(self._db.close)
            self._prepare()
            undo.pop_all()

    def get(self, request: str) -> list[Attempt]:
        """All answers to the request with this key."""
        with self._clear():
            return [Attempt(*row) for row in self._db.execute(FIND, (request,))]

    def add(self, request: str, answer: Attempt) -> None:
        """Keep an answer to the request with this key."""
        tokens = answer.prompt_tokens, answer.completion_tokens
        row = (request, answer.text, answer.finish_reason, *tokens)
        with self._clear():
            self._db.execute("INSERT INTO answers VALUES (NULL, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        with self._clear():
            self._db.close()

    def _prepare(self) -> None:
        self._db.execute(
            "BEGIN"
        )  # one look at both, while another process may be preparing the file
        (mark,) = self._db.execute("PRAGMA application_id").fetchone()
        tables = self._db.execute("SELECT name FROM sqlite_master").fetchall()
        self._db.execute("COMMIT")
        if mark != MARK and (mark or tables):
            raise sqlite3.DatabaseError("it is another program's database")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if mark != MARK:  # a new file; another process may be preparing it too
            self._switch_to_wal()
            for statement in ("BEGIN IMMEDIATE", TABLE, INDEX, f"PRAGMA application_id = {MARK}"):
                self._db.execute(statement)
            self._db.execute("COMMIT")

    def _switch_to_wal(self) -> None:
        """Switch modes; SQLite does not wait for other processes here as it does elsewhere, so we do."""
        end = time.monotonic() + 30
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.05)

    @contextlib.contextmanager
    def _clear(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"cannot use {self._path} as a cache of answers ({error}); free the disk or its lock, "
                "or move the file away, or choose another one"
            ) from error
