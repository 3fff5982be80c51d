"""A pseudo-terminal in which tests run the command, type, and read the output.

The process has a session of its own, with this as its controlling terminal, so that Ctrl-C is a key
and not a signal that the test sends. Tests wait for its output.
"""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from command import COMMAND, PATIENCE, without_codes

PROMPT = "«prompt»"  # replaces the code that a line editor sends when it is ready
CTRL_C, CTRL_D, TAB, UP, ENTER = "\x03", "\x04", "\t", "\x1b[A", "\r"
_LAUNCHER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Session:
    """A command in a terminal.

    Attributes:
        process: its process.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self._written = b""
        self._master = master
        self._seen = 0

    @property
    def raw(self) -> str:
        """All output, including terminal codes."""
        return self._written.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """All output, without terminal codes."""
        return without_codes(self.raw.replace("\x1b[?2004h", PROMPT))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def line(self, text: str) -> None:
        """Type a line at the next prompt."""
        self.until(PROMPT)
        self.type(text + ENTER)

    def line_begun(self, keys: str, shown: str) -> None:
        """Type the beginning of a line at the next prompt, and read until it shows as expected."""
        self.until(PROMPT)
        self.type(keys)
        self.until(shown)

    def until(self, wanted: str) -> str:
        """Read until new output contains a text; return the output up to there."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.text[self._seen :]:
            assert time.monotonic() < deadline, f"no {wanted!r} in {self.text[self._seen :]!r}"
            if not self._read(deadline):
                raise AssertionError(
                    f"the process exited without {wanted!r}: {self.text[self._seen :]!r}"
                )
        end = self.text.index(wanted, self._seen) + len(wanted)
        found, self._seen = self.text[self._seen : end], end
        return found

    def resize(self, lines: int, columns: int) -> None:
        set_size(self._master, lines, columns)

    def ended(self) -> int:
        """Read to the end; return the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            assert time.monotonic() < deadline, (
                f"the process does not exit: {self.text[self._seen :]!r}"
            )
        return self.process.wait(PATIENCE)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return True
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # Linux raises EIO once the other side is closed
            return False
        self._written += chunk
        return bool(chunk)


def set_size(terminal: int, lines: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextlib.contextmanager
def session(
    *arguments: str,
    env: Mapping[str, str],
    lines: int = 30,
    columns: int = 100,
    more: Mapping[str, str] | None = None,
    program: Sequence[str] = COMMAND,
    cwd: Path | None = None,
) -> Generator[Session]:
    """Run the command, or another program, in a terminal.

    Args:
        *arguments: its arguments.
        env: its environment, except for terminal variables.
        lines: the height of the terminal.
        columns: the width of the terminal.
        more: variables added to the environment.
        program: the program to run.
        cwd: its working directory.
    """
    master, slave = pty.openpty()
    set_size(master, lines, columns)
    # This terminal does not report its cursor; and the size in the outer shell's variables would
    # win.
    environment = {**env, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    for variable in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(variable, None)
    environment.update(more or {})
    process = subprocess.Popen[bytes](
        [sys.executable, "-c", _LAUNCHER, *program, *arguments],
        env=environment,
        cwd=cwd,
        start_new_session=True,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        yield Session(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
