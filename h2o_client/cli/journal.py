"""The journal of `h2o-client batch`: the state of each prompt, even if the process is killed.

It is an SQLite database beside the answers, `answers.jsonl.journal`. When every prompt is
answered, it is kept without the session, so that the same command can answer further prompts. Each
call writes one transaction and syncs it to disk before the process acts on it, so a killed process
loses nothing. Only its user can read it, because it contains the session, and only one process at
a time can open it.

A prompt is a row, found by its key: the prompt's id as JSON, or the number of its line. `digest`
shows whether the prompt has changed. Its state is one of:

- `asked`: its message is about to be sent in `conversation`, at the time `at` (seconds since 1970).
  A run that finds this looks for the answer there first.
- `answered`, `failed`: `outcome` has the answer or the error, in the form of the output. A prompt
  that failed keeps its conversation if the answer may still arrive there.
- `left`: its conversation is abandoned, and about to be stopped and deleted. The server stores a
  stopped answer as if it were complete, so this is written before the server is notified.
"""

import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import click

from h2o_client.cli.state import given_session

_FORMAT = 2
_SQLITE = b"SQLite format 3\0"
_OLD = b'{"journal": '
_DIFFERENT = {
    "server": "a different server",
    "model": "a different model",
    "parameters": "different parameters",
}
_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (key TEXT PRIMARY KEY, digest TEXT NOT NULL,
    state TEXT NOT NULL, conversation TEXT, at REAL, outcome TEXT);
COMMIT;
"""
_PUT = """
INSERT INTO prompts (key, digest, state, conversation, at, outcome) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, state = excluded.state,
    conversation = coalesce(excluded.conversation, conversation),
    at = coalesce(excluded.at, at), outcome = excluded.outcome
WHERE state <> 'answered'
"""


class Entry(NamedTuple):
    """The row of one prompt.

    Attributes:
        state: "asked", "answered", "failed" or "left".
        digest: the digest of the prompt that was sent.
        conversation: the conversation in which its answer may be, or None.
        at: when it was sent there, in seconds since 1970.
        outcome: the answer or the error, in the form of the output.
    """

    state: str
    digest: str
    conversation: str | None
    at: float | None
    outcome: dict[str, Any]


class Journal:
    """The journal, open and locked. Any thread may write to it.

    Args:
        path: its path; the file is created if it does not exist.
        common: the settings that all prompts of the run share.

    Raises:
        click.UsageError: the file belongs to another run, or is not a journal.
        OSError: it cannot be read or written. Every method raises this.
    """

    def __init__(self, path: Path, common: Mapping[str, Any]) -> None:
        self.path = path
        self._lock = threading.Lock()
        _prepare(path)
        with self._failures():
            self._db = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._failures():
                self._open({"format": _FORMAT, **common})
        except BaseException:  # Ctrl-C too: the connection holds the lock
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock, self._failures():
            self._db.close()

    @property
    def owns_session(self) -> bool:
        """Whether only the batch uses the session, and may empty it: the user did not set it."""
        return given_session() is None

    @property
    def session(self) -> str | None:
        """The session to use: the user's, or the one of earlier runs; None for a new one."""
        found = self._rows("SELECT value FROM run WHERE name = 'session'")
        return given_session() or (str(found[0][0]) if found else None)

    def note_session(self, session: str | None) -> None:
        """Store the session if it is new and the batch's own; None if nothing is left in it."""
        if not self.owns_session:
            return
        if session is None:
            self._rows("DELETE FROM run WHERE name = 'session'")
        elif session != self.session:
            self._rows("INSERT OR REPLACE INTO run VALUES ('session', ?)", session)

    def find(self, key: str) -> Entry | None:
        """Return the row of a prompt, or None if it does not have one."""
        query = "SELECT state, digest, conversation, at, outcome FROM prompts WHERE key = ?"
        for state, digest, conversation, at, outcome in self._rows(query, key):
            return Entry(state, digest, conversation, at, json.loads(outcome or "{}"))
        return None

    def digests(self) -> dict[str, str]:
        """Return the digest of each prompt in the journal, by its key."""
        return dict(self._rows("SELECT key, digest FROM prompts ORDER BY rowid"))

    def is_answered(self, key: str) -> bool:
        """Whether a prompt is answered."""
        return bool(self._rows("SELECT 1 FROM prompts WHERE key = ? AND state = 'answered'", key))

    def rename(self, moved: Mapping[str, str], gone: Sequence[str]) -> None:
        """Change the keys of prompts, and remove others.

        Args:
            moved: the new key for each old one.
            gone: the keys of the prompts to remove.
        """
        with self._lock, self._failures():
            self._db.execute("BEGIN")
            delete, update = "DELETE FROM prompts WHERE key = ?", "UPDATE prompts SET key = ? "
            self._db.executemany(delete, [(key,) for key in gone])
            # Through temporary keys: the new key of one prompt can be the old key of another.
            away = [(f"moved:{new}", old) for old, new in moved.items()]
            self._db.executemany(f"{update} WHERE key = ?", away)
            self._db.executemany(f"{update} WHERE key = ?", [(k[6:], k) for k, _ in away])
            self._db.execute("COMMIT")

    def conversations(self) -> set[str]:
        """Return the conversations in which an answer may still be found."""
        query = "SELECT conversation FROM prompts WHERE state IN ('asked', 'failed')"
        return {found for (found,) in self._rows(query) if found is not None}

    def asked(self, key: str, digest: str, conversation: str) -> None:
        """Store the conversation in which a prompt is about to be sent."""
        self._rows(_PUT, key, digest, "asked", conversation, time.time(), None)

    def answered(self, key: str, digest: str, answer: Mapping[str, Any]) -> None:
        """Store an answer, which is never replaced later."""
        self._rows(_PUT, key, digest, "answered", None, None, json.dumps(answer))

    def failed(self, key: str, digest: str, error: Mapping[str, Any]) -> None:
        """Store an error."""
        self._rows(_PUT, key, digest, "failed", None, None, json.dumps({"error": error}))

    def left(self, key: str) -> None:
        """Mark the conversation of a prompt as abandoned, unless it is answered."""
        self._rows(
            "UPDATE prompts SET state = 'left', conversation = NULL "
            "WHERE key = ? AND state = 'asked'",
            key,
        )

    def _open(self, common: dict[str, Any]) -> None:
        """Lock the database, and create its tables or check that they are this run's."""
        execute = self._db.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")  # until the connection is closed
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")  # each transaction is on disk when it returns
        self._db.executescript(_SCHEMA)
        before = dict(execute("SELECT name, value FROM run WHERE name <> 'session'").fetchall())
        common = {name: json.dumps(value, sort_keys=True) for name, value in common.items()}
        if not before:
            execute("BEGIN")
            self._db.executemany("INSERT INTO run VALUES (?, ?)", common.items())
            execute("COMMIT")
            return
        different = [_DIFFERENT[name] for name in common if before.get(name) != common[name]]
        if different:
            raise click.UsageError(
                f"{self.path} was started with {' and '.join(different)}: "
                "resume it with the same settings, or name another output"
            )

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, self._failures():
            return self._db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _failures(self) -> Generator[None]:
        """Report errors of SQLite as errors of the file."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise click.UsageError(f"{self.path} is damaged: {error}") from None
            if code == sqlite3.SQLITE_BUSY:
                raise click.UsageError(f"another process is writing {self.path}") from None
            raise OSError(f"{self.path}: {error}") from error


def _prepare(path: Path) -> None:
    """Create the file for its user only, and reject one that is not a database.

    Raises:
        click.UsageError: it is not a journal, or one in an earlier format.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, 0o600), "rb") as file:
        if sys.platform != "win32":
            os.fchmod(file.fileno(), 0o600)
        begins = file.read(len(_SQLITE))
    if begins.startswith(_OLD):
        raise click.UsageError(
            f"{path} was written by version 0.1.0, and only that version can resume "
            "it; if you remove it, all prompts are sent again"
        )
    if begins not in (b"", _SQLITE):
        raise click.UsageError(f"{path} is not a journal of this program")
