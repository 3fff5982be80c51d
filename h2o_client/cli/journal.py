"""The journal of `h2o-client batch`: what is known of each prompt, whatever ends the process.

It stands beside the answers, as `answers.jsonl.journal`, until every prompt is answered. It is
readable by the user only, for it holds the session. Lines of JSON are appended, each written and
synced before what follows from it is done, so that a killed process loses nothing. Only the last
line can be torn; it is cut off, and what it said did not happen. The lines::

    {"journal": 1, "server": "https://…", "model": "…", "parameters": {}}
    {"session": "…"}
    {"key": "id:7", "prompt": "9f86…", "conversation": "64…", "at": 1690000000.0}
    {"key": "id:7", "prompt": "9f86…", "answer": {"text": "…", …}}
    {"key": "id:7", "prompt": "9f86…", "error": {"type": "…", "message": "…"}}
    {"key": "id:7", "prompt": "9f86…", "left": true}

The first is what all prompts share: a run that says otherwise is refused. `session` is written
before the first conversation in it. `key` is the prompt's id, as JSON, or else the number of its
line; `prompt` tells whether it is still the same, as the beginning of a SHA-256. Of several lines
with one key the last counts:

- `conversation`: it is about to be asked there, at that time in seconds since 1970. A run that
  finds this first looks into the conversation.
- `answer`, `error`: what came of it, as it stands in the output.
- `left`: its conversation counts no more, and is about to be stopped and deleted. What the server
  stores of an answer that was stopped looks whole, so this is written before.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

_FORMAT = 1
_BEGINNING = b'{"journal": '
_KINDS = ("answer", "error", "left", "conversation")


@dataclass(frozen=True, slots=True)
class Entry:
    """The last line of one prompt.

    Attributes:
        kind: "conversation", "answer", "error" or "left".
        prompt: what was asked, as a digest.
        place: where the line begins in the file.
        conversation: the conversation in which its answer may be.
        at: when, in seconds since 1970.
    """

    kind: str
    prompt: str
    place: int
    conversation: str | None = None
    at: float = 0.0


class Journal:
    """The journal, open and locked; threads may write to it.

    Args:
        path: where it is; made if there is none.
        common: what all prompts share.

    Attributes:
        entries: the last line of each prompt, by its key.
        session: the session, if one is known.

    Raises:
        click.UsageError: it is another run's, or no journal.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, common: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.session: str | None = None
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(path, flags, 0o600)
        try:
            self._claim()
            self._load(dict(common))
        except BaseException:  # Ctrl-C too: the descriptor holds the lock on the journal
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:  # a thread that was not waited for must not write to another file
            closed, self._file = self._file, -1
            os.close(closed)

    @property
    def hopes(self) -> bool:
        """Whether a prompt that failed has a conversation in which its answer may be."""
        return any(entry.kind == "error" and entry.conversation for entry in self.entries.values())

    def kind(self, key: str) -> str | None:
        """Return what the last line of a prompt is, if there is one."""
        entry = self.entries.get(key)
        return None if entry is None else entry.kind

    def outcome(self, key: str) -> dict[str, Any]:
        """Read what came of a prompt, whose last line has an answer or an error."""
        with self._lock:
            os.lseek(self._file, self.entries[key].place, os.SEEK_SET)
            with os.fdopen(os.dup(self._file), "rb") as file:
                record: dict[str, Any] = json.loads(file.readline())
        kind = self.entries[key].kind
        found: dict[str, Any] = record[kind]
        return found if kind == "answer" else {"error": found}

    def asking(self, key: str, prompt: str, conversation: str, session: str) -> None:
        """Note where a prompt is about to be asked."""
        with self._asking:
            if session != self.session:
                self._write({"session": session})
        self._note(key, prompt, {"conversation": conversation, "at": time.time()})

    def answered(self, key: str, prompt: str, answer: Mapping[str, Any]) -> None:
        """Note an answer."""
        self._note(key, prompt, {"answer": dict(answer)})

    def failed(self, key: str, prompt: str, error: Mapping[str, Any]) -> None:
        """Note what went wrong."""
        self._note(key, prompt, {"error": dict(error)})

    def left(self, key: str, prompt: str) -> None:
        """Note that a conversation counts no more, unless the answer is there."""
        if self.kind(key) == "conversation":
            self._note(key, prompt, {"left": True})

    def _claim(self) -> None:
        """Keep other processes off; it is readable by the user only, whoever made it."""
        if sys.platform == "win32":
            return  # its locks keep the file from being replaced as well
        import fcntl

        os.fchmod(self._file, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.UsageError(f"another process is writing {self.path}") from None

    def _load(self, common: dict[str, Any]) -> None:
        """Read what there is, and cut off a torn line."""
        first = {"journal": _FORMAT, **common}
        with os.fdopen(os.dup(self._file), "rb") as file:
            for number, line in enumerate(file, 1):
                record = _parse(line)
                if record is None and _is_torn(line, number):
                    break
                if record is None:
                    raise click.UsageError(
                        f"{self.path} is no journal of this program, or damaged in line {number}"
                    )
                if number == 1:
                    self._check(record, first)
                self._learn(record, self._size)
                self._size += len(line)
        os.ftruncate(self._file, self._size)
        if not self._size:
            self._write(first)
            sync_directory(self.path.parent)

    def _check(self, record: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        if record.get("journal") != _FORMAT:
            raise click.UsageError(f"{self.path} is no journal of this program")
        different = [name for name in first if record.get(name) != first[name]]
        if different:
            raise click.UsageError(
                f"{self.path} was begun with another {', another '.join(different)}: "
                "go on with the same, or name another output"
            )

    def _learn(self, record: Mapping[str, Any], place: int) -> None:
        self.session = record.get("session", self.session)
        kind = next((name for name in _KINDS if name in record), None)
        if kind is None:
            return
        key: str = record["key"]
        conversation, at = record.get("conversation"), record.get("at", 0.0)
        if kind == "error" and key in self.entries:  # "left" comes before, where there is no hope
            conversation, at = self.entries[key].conversation, self.entries[key].at
        self.entries[key] = Entry(kind, record["prompt"], place, conversation, at)

    def _note(self, key: str, prompt: str, what: Mapping[str, Any]) -> None:
        self._write({"key": key, "prompt": prompt, **what})

    def _write(self, record: Mapping[str, Any]) -> None:
        """Append a line, and see it on the disk; half a line is taken back."""
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            if self.kind(str(record.get("key"))) == "answer":
                return  # nothing that comes later can be better
            try:
                os.lseek(self._file, self._size, os.SEEK_SET)
                rest = line
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                os.fsync(self._file)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                if isinstance(error, OSError) and error.filename is None:
                    error.filename = str(self.path)
                raise
            self._learn(record, self._size)
            self._size += len(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None: it is torn, or none of ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    whole = not any(name in record for name in _KINDS) or {"key", "prompt"} <= record.keys()
    return record if whole else None


def _is_torn(line: bytes, number: int) -> bool:
    """Whether a line is what a write left that did not come to its end."""
    ours = number > 1 or line.startswith(_BEGINNING) or _BEGINNING.startswith(line)
    return ours and not line.endswith(b"\n")


def sync_directory(path: Path) -> None:
    """See to it that a name that is new in a directory, or gone, stays so without power."""
    if sys.platform == "win32":
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
