"""Showing answers: as plain text, or as Markdown that grows in a terminal.

An answer that is longer than the screen cannot be redrawn as a whole, since what has scrolled
away is out of reach. So only its last block is: a paragraph, a list, a block of code. What stands
before that is settled, and printed once.

A terminal is not left silent: where nothing comes for some seconds, or something is sent again,
a dim line says so, which no pipe or file gets.
"""

import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from h2o_client import Retry

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RATE = 10  # times a second that the last block is drawn anew
_SILENCE = 3.0  # seconds without anything new until that is said
_NARROW = 16  # columns; with less room than that, text is not indented


def printable(text: str) -> str:
    """Return text without what a terminal would obey: an answer has no business with it."""
    return _CONTROL.sub("", text)


def in_a_line(error: Exception) -> str:
    """Return what an error says, as one line that a terminal can show."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without its number
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split())) or type(error).__name__


def show_hanging(head: str, text: str, *, colour: str | None = None, dim: bool = False) -> None:
    """Show a text on stdout, in a terminal wrapped between words and beside its head.

    Args:
        head: what stands before the first line.
        text: the text.
        colour: of the head.
        dim: whether the text is dim.
    """
    click.echo(click.style(head, fg=colour) if colour else head, nl=False)
    room = shutil.get_terminal_size().columns - len(head)
    if not sys.stdout.isatty() or room < _NARROW:
        click.echo(click.style(text, dim=True) if dim else text)
        return
    from rich.console import Console
    from rich.text import Text

    for number, line in enumerate(Text(text).wrap(Console(), room)):
        shown = f"{' ' * len(head) if number else ''}{line.plain.rstrip()}"
        click.echo(click.style(shown, dim=True) if dim else shown)


def show_retry(retry: "Retry") -> None:
    """Say that something is about to be sent again; the commands' `Retries.on_retry`."""
    _tell(f"trying again in {retry.delay:.1f} s: {in_a_line(retry.error)}")


class Waits(logging.Handler):
    """Says in the terminal what the client waits for, as its log does."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        _tell(record.getMessage())


def _tell(text: str) -> None:
    if _shown:
        _shown[-1].note(text)
    else:
        _note(text)


def _note(text: str) -> None:
    if sys.stderr.isatty():
        room = shutil.get_terminal_size().columns
        click.secho(text if len(text) <= room else f"{text[: room - 1]}…", dim=True, err=True)


def _silence(seconds: float, *, begun: bool) -> str:
    missing = "nothing more" if begun else "no answer"
    return f"{missing} for {seconds:.0f} s: waiting (Ctrl-C ends it)"


class Screen:
    """Shows an answer on stdout, each token when it comes. Used in a `with` block."""

    def __init__(self) -> None:
        self._begun = self._in_line = False
        self._terminal = sys.stdout.isatty()  # nothing else obeys control characters
        self._writing = threading.Lock()
        self._listener = _Listener(self._tell_silence) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        _shown.append(self)
        if self._listener is not None:
            self._listener.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _shown.remove(self)
        if self._listener is not None:
            self._listener.stop()
        self.end()

    def show(self, text: str) -> None:
        """Show some more. The space that the first token begins with is left out."""
        if self._listener is not None:
            self._listener.heard()
        if not self._begun:
            self._begun = True
            text = text.removeprefix(" ")
        if self._terminal:
            text = printable(text)
        with self._writing:
            # color=True: passed on as it is, escape sequences in a file too.
            click.echo(text, nl=False, color=True)
            self._in_line = not text.endswith("\n") if text else self._in_line

    def note(self, text: str) -> None:
        """Say what is waited for, in a line of its own, which the answer goes on below."""
        with self._writing:
            if self._terminal and self._in_line:
                self._in_line = False
                click.echo()
            _note(text)

    def _tell_silence(self, seconds: float) -> None:
        self.note(_silence(seconds, begun=self._begun))

    def end(self) -> None:
        """End the line, if there was an answer at all."""
        if self._begun:
            click.echo()


class _Listener:
    """Notices that nothing comes, in a thread of its own, and says so once in each silence.

    Args:
        tell: is told, with the seconds.
    """

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell = tell
        self._last = time.monotonic()
        self._told = False
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, name="h2o_client-silence", daemon=True).start()

    def heard(self) -> None:
        """Note that something came."""
        self._last = time.monotonic()
        self._told = False

    def stop(self) -> None:
        """Listen no longer."""
        self._over.set()

    def _listen(self) -> None:
        while not self._over.wait(1 / _RATE):
            seconds = time.monotonic() - self._last
            if seconds >= _SILENCE and not self._told:
                self._told = True
                self._tell(seconds)


class MarkdownScreen:
    """Shows an answer in a terminal as the Markdown that it is. Used in a `with` block."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False)
        self._tail = _Tail()
        self._live: Live | None = None
        self._begun = self._settled = False

    def __enter__(self) -> Self:
        from rich.live import Live

        _shown.append(self)
        self._live = Live(
            self._tail,
            console=self._console,
            refresh_per_second=_RATE,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _shown.remove(self)
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            finally:  # Ctrl-C may come here, too
                self._console.show_cursor()
        text, self._tail.text = self._tail.text, ""
        self._print(text)

    def show(self, text: str) -> None:
        """Show some more."""
        if not self._begun:
            self._begun = True
            text = text.removeprefix(" ")
        self._tail.hear(printable(text))
        if "\n" in text:
            self._settle()

    def note(self, text: str) -> None:
        """Say what is waited for, below the answer, until it goes on."""
        self._tail.note = text

    def _settle(self) -> None:
        """Print all blocks but the last for good."""
        from h2o_client.cli.markdown import last_block

        lines = self._tail.text.split("\n")
        last = last_block(self._tail.text)
        if last == 0:
            return
        # First out of the part that is drawn anew, that it is not seen twice.
        self._tail.text = "\n".join(lines[last:])
        self._print("\n".join(lines[:last]))

    def _print(self, text: str) -> None:
        from h2o_client.cli.markdown import Block

        if not text.strip():
            return
        if self._settled:
            self._console.print()
        self._settled = self._tail.below = True
        self._console.print(Block(text))


class AnyScreen(Protocol):
    """What both screens are."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def show(self, text: str) -> None:
        """Show some more."""
        ...

    def note(self, text: str) -> None:
        """Say what is waited for."""
        ...


_shown: list[AnyScreen] = []
"""The screens in their `with` blocks; the last one shows an answer now."""


def new_screen(*, raw: bool) -> AnyScreen:
    """Return the screen for one answer.

    Args:
        raw: whether the text is wanted as it is, in a terminal too.
    """
    if raw or not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return Screen()
    return MarkdownScreen()


class _Tail:
    """The part of an answer that is drawn anew: as much of its end as the screen holds.

    Attributes:
        text: the part.
        below: whether something settled stands above it.
        note: what is waited for, or "".
    """

    def __init__(self) -> None:
        from rich.spinner import Spinner

        self.text = self.note = ""
        self.below = False
        self._begun = False
        self._last = time.monotonic()
        self._waiting = Spinner("dots")

    def hear(self, text: str) -> None:
        """Take some more of the answer."""
        self.text += text
        self.note = ""
        self._begun = True
        self._last = time.monotonic()

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment
        from rich.text import Text

        from h2o_client.cli.markdown import markdown_lines

        note, seconds = self.note, time.monotonic() - self._last
        if not note and seconds >= _SILENCE:
            note = _silence(seconds, begun=self._begun)
        lines = markdown_lines(self.text, console, options) if self.text.strip() else []
        if lines and self.below:
            lines.insert(0, [])
        if note or not lines:
            # In one line: "⠋ " stands before it.
            self._waiting.text = Text(note, style="dim")
            self._waiting.text.truncate(options.max_width - 2, overflow="ellipsis")
            lines += console.render_lines(self._waiting, options, pad=False)
        for number, line in enumerate(lines[-max(1, options.size.height - 1) :]):
            if number:
                yield Segment.line()
            yield from line
