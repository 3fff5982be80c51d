"""The saved state of the command: the session and the last conversation of each server.

A session gives access to its conversations, so only the user can read the files, and their contents
are never shown. Each server has its own file, so that commands for different servers do not
interfere. So has each session that `H2O_CHAT_SESSION` sets, which is not stored itself. Files
are replaced atomically, and unreadable ones are ignored.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

_DIALECTS = ("chat-ui-2023", "chat-ui-2025")


@dataclass(frozen=True)
class Saved:
    """The saved state for a server.

    Attributes:
        session: the value of `H2oClient.session`.
        conversation: the id of the last conversation.
        dialect: the kind of server: the value of `H2oClient.dialect`.
    """

    session: str | None = field(default=None, repr=False)
    conversation: str | None = None
    dialect: str | None = None


def directory() -> Path:
    """Return the user's state directory for this program, which may not exist yet."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "h2o-client"


def given_session() -> str | None:
    """Return the session that the environment sets, or None."""
    return os.environ.get("H2O_CHAT_SESSION", "").strip() or None


def load(base_url: str) -> Saved:
    """Return the saved state for a server, with the session that the environment sets, if any.

    Args:
        base_url: its base URL, without user and password.
    """
    given = given_session()
    try:
        found: Any = json.loads(_file(base_url).read_bytes())
        session, conversation = given or found["session"], found["conversation"]
        dialect = found.get("dialect")
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return Saved(given)
    if not isinstance(session, str) or not isinstance(conversation, str | None):
        return Saved(given)
    return Saved(session, conversation, dialect if dialect in _DIALECTS else None)


def find_conversation(base_url: str, number: str) -> str:
    """Return the id of a conversation in the saved session of a server.

    Args:
        base_url: the server.
        number: its id, or "last".

    Raises:
        click.UsageError: the session or the last conversation has not been saved.
    """
    saved = load(base_url)
    found = saved.conversation if number == "last" else number
    if saved.session is None or found is None:
        raise click.UsageError("no conversation with this server has been saved yet")
    return found


def save(base_url: str, saved: Saved) -> None:
    """Save the state for a server.

    Raises:
        OSError: it cannot be written.
    """
    path = _file(base_url)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".new")  # has mode 0600
    stored = saved if given_session() is None else replace(saved, session=None)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"server": base_url, **asdict(stored)}, file)
        Path(name).replace(path)
    except BaseException:  # Ctrl-C too: an unfinished file holds the session
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def forget_dialect(base_url: str) -> None:
    """Make the next command detect the kind of server again, in case it has changed."""
    saved = load(base_url)
    if saved.dialect is not None:
        with contextlib.suppress(OSError):  # the command's own error is the one to report
            save(base_url, replace(saved, dialect=None))


def _file(base_url: str) -> Path:
    given = given_session()
    key = base_url if given is None else f"{base_url}\n{given}"
    return directory() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
