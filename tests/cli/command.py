"""Run the command in this process, or in a separate one for signals, pipes and imports."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from h2o_client import H2oClient
from h2o_client.cli import app, state
from h2o_client.emulator import Emulator

PATIENCE = 30.0

# Skip optional packages that httpx imports if installed: they take as long as the rest.
_MAIN = """
import sys
sys.modules.update(dict.fromkeys(("trio", "httpx._main")))
from h2o_client.__main__ import main
main()
"""
_CODES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_=>])|[\r\x07]")
COMMAND = (sys.executable, "-W", "error", "-c", _MAIN)


class Command:
    """The command in this process; `out` and `err` are its output.

    Args:
        capsys: pytest's fixture.
        *first: arguments that come first in every call.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], *first: str) -> None:
        self._capsys = capsys
        self._first = first
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            if type(sys.stdin).__module__.startswith("_pytest"):  # it cannot be read
                patch.setattr(sys, "stdin", io.StringIO())
            with pytest.raises(SystemExit) as exit_:
                app.main([*self._first, *arguments], prog_name="h2o-client")
        self.out, self.err = self._capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code


def keep_two(server: Emulator) -> list[str]:
    """Create two kept conversations, the second as the last one; return their ids."""
    found = []
    with H2oClient(server.url) as client:
        for text in ("one", "two"):
            with client.conversation(keep=True) as conversation:
                conversation.send(text)
                conversation.rename(f"Number\x1b {text}")
                found.append(str(conversation.id))
        state.save(server.url, state.Saved(client.session, found[-1]))
    server.clear()
    return found


def steps(out: str) -> dict[str, tuple[str, str]]:
    """Return the outcome and the text of each step that `doctor` has shown."""
    rows = re.findall(r"^(ok|note|FAILED) +(\w+) +(.*)$", out, re.MULTILINE)
    return {step: (outcome, text) for outcome, step, text in rows}


def without_codes(text: str) -> str:
    """Return terminal output without its control codes."""
    return _CODES.sub("", text)


@contextmanager
def process(
    *arguments: str, program: tuple[str, ...] = COMMAND, **options: Any
) -> "Generator[subprocess.Popen[bytes]]":
    """Start the command, or another program, in a separate process."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # As in a user's Python, which buffers output to a file or pipe.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    keywords: dict[str, Any] = {**pipes, "env": environment, **options}
    with subprocess.Popen[bytes]([*program, *arguments], **keywords) as started:
        try:
            yield started
        finally:
            started.kill()


def ended(started: "subprocess.Popen[bytes]", given: bytes | None = None) -> tuple[int, str, str]:
    """Wait for a process; return its status, stdout and stderr."""
    out, err = started.communicate(given, timeout=PATIENCE)
    return started.returncode, (out or b"").decode(), (err or b"").decode()


def run(*arguments: str, **options: Any) -> tuple[int, str, str]:
    """Run the command to its end; return its status, stdout and stderr."""
    with process(*arguments, **options) as started:
        return ended(started)


def script(text: str, *arguments: str) -> tuple[int, str, str]:
    """Run a script to its end; return the same as `run()`."""
    return run(*arguments, program=(sys.executable, "-W", "error", "-c", text))


def read(started: "subprocess.Popen[bytes]", until: str) -> str:
    """Read the output of a process as it arrives."""
    assert started.stdout is not None
    found = b""
    while until.encode() not in found:
        chunk = os.read(started.stdout.fileno(), 4096)
        assert chunk, f"the process exited with {found!r}"
        found += chunk
    return found.decode()


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class InTerminal:
    """The command in this process, with stdin, stdout and stderr as a terminal.

    Args:
        monkeypatch: pytest's fixture.
        *first: arguments that come first in every call.

    Attributes:
        raw: its output, including terminal codes.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *first: str) -> None:
        self._monkeypatch = monkeypatch
        self._first = first
        self.raw = ""

    @property
    def text(self) -> str:
        """Its output without terminal codes."""
        return without_codes(self.raw)

    def __call__(
        self, *arguments: str, typed: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> int:
        """Run it.

        Args:
            *arguments: its arguments.
            typed: the keys typed for each line, without Enter.
            env: environment variables; COLUMNS is the width of the terminal.
        """
        terminal = Terminal()
        looks = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        with (
            self._monkeypatch.context() as patch,
            create_pipe_input() as keys,
            create_app_session(input=keys, output=DummyOutput()),
        ):
            for name in ("stdin", "stdout", "stderr"):
                patch.setattr(sys, name, terminal)
            for name, value in {**looks, **(env or {})}.items():
                patch.setenv(name, value)
            keys.send_text("".join(f"{line}\r" for line in typed))
            with pytest.raises(SystemExit) as exit_:
                app.main([*self._first, *arguments], prog_name="h2o-client")
        self.raw = terminal.getvalue()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code
