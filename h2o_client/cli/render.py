"""Showing answers: as plain text, or as Markdown that grows in a terminal.

An answer that is longer than the screen cannot be redrawn as a whole, because lines that have
scrolled away cannot be changed. So only its last block is redrawn: a paragraph, a list, a block of
code. Everything before that is final, and printed once. At the end the screen looks as if the whole
answer had been rendered at once.

In a terminal, but not in a pipe or file, a dim line says when nothing arrives for some seconds, or
when a request is retried.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

import click

from h2o_client.safe_text import one_line, printable, to_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from h2o_client import Message, Retry

_RATE = 10  # redraws of the last block per second
_SILENCE = 3.0  # seconds without new text before a note says so
_THINKS, _THOUGHT = "<think>", "</think>"  # around the model's reasoning
_NARROW = 16  # columns; text is not indented in narrower terminals


def in_a_line(error: Exception) -> str:
    """Return the text of an error, as a single line that is safe to print in a terminal."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without its number
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return one_line(text) or type(error).__name__


def show_hanging(
    head: str, text: str, *, colour: str | None = None, dim: bool = False, err: bool = False
) -> None:
    """Show a text; in a terminal, wrap it between words and indent it by the width of its head.

    Args:
        head: the text before the first line.
        text: the text.
        colour: the colour of the head.
        dim: whether the text is dim.
        err: whether to use stderr instead of stdout.
    """
    click.echo(click.style(head, fg=colour) if colour else head, nl=False, err=err)
    room = shutil.get_terminal_size().columns - len(head)
    if not (sys.stderr if err else sys.stdout).isatty() or room < _NARROW:
        click.echo(click.style(text, dim=True) if dim else text, err=err)
        return
    from rich.console import Console
    from rich.text import Text

    for number, line in enumerate(Text(text).wrap(Console(), room)):
        shown = f"{' ' * len(head) if number else ''}{line.plain.rstrip()}"
        click.echo(click.style(shown, dim=True) if dim else shown, err=err)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal allows.

    Args:
        head: the titles of the columns.
        rows: the rows, which may contain text from a server.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    Console(highlight=False, markup=False, emoji=False).print(table)


def format_messages(messages: "Sequence[Message]", *, as_json: bool) -> str:
    """Return a conversation as the text of a file.

    Args:
        messages: the messages.
        as_json: whether to return a JSON list of messages, in the form that `chat()` accepts,
            instead of Markdown.
    """
    if as_json:
        listed = [{"role": item.role, "content": item.content.strip()} for item in messages]
        return to_json(listed, indent=2, ascii_only=False) + "\n"
    parts = [f"**{item.role.capitalize()}**\n\n{item.content.strip()}\n" for item in messages]
    return "\n".join(parts)


def show_retry(retry: "Retry") -> None:
    """Report a retry in the terminal. Used as `Retries.on_retry`."""
    show_wait(f"trying again in {retry.delay:.1f} s: {in_a_line(retry.error)}")


def show_wait(text: str) -> None:
    """Show in the terminal what the client waits for."""
    if _shown:
        _shown[-1].note(text)
    else:
        _note(text)


def _note(text: str) -> None:
    if sys.stderr.isatty():
        room = shutil.get_terminal_size().columns
        click.secho(text if len(text) <= room else f"{text[: room - 1]}…", dim=True, err=True)


class Screen:
    """Shows an answer on stdout, token by token. Used in a `with` block.

    In a terminal, a thread notices when nothing arrives, and says so once each time.
    """

    def __init__(self) -> None:
        self._begun = self._in_line = False
        self._thinking: bool | None = None  # whether the model's reasoning is shown; once known
        self._held = ""  # possibly the beginning of a tag
        self._terminal = sys.stdout.isatty()  # only a terminal interprets control characters
        self._writing = threading.Lock()
        self._last = time.monotonic()  # when something was shown
        self._silent = False  # whether the current silence was reported
        self._over = threading.Event()

    def __enter__(self) -> Self:
        _shown.append(self)
        self._start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        _shown.remove(self)
        self.end()

    def show(self, text: str) -> None:
        """Show another text, without the space at the beginning of the first token."""
        self._last, self._silent = time.monotonic(), False
        if not self._begun and text:
            self._begun = True
            text = text.removeprefix(" ")
        self._write(self._dimmed(printable(text)) if self._terminal else text)

    def revise(self, text: str) -> None:
        """Show the whole answer, which replaces the text shown so far."""
        self.note("the server restarted the answer; here is the new one")
        if self._in_line:
            self._write("\n")
        self._begun, self._thinking, self._held = False, None, ""
        self.show(text)

    def _dimmed(self, text: str) -> str:
        """Return a text with the model's reasoning in dim style."""
        text, self._held = self._held + text, ""
        if self._thinking is None:
            begun = text.lstrip()
            if len(begun) < len(_THINKS) and _THINKS.startswith(begun):
                self._held = text  # the rest of the tag may follow
                return ""
            self._thinking = begun.startswith(_THINKS)
        if not self._thinking:
            return text
        reasoning, end, answer = text.partition(_THOUGHT)
        self._thinking = not end
        if self._thinking:
            lengths = range(len(_THOUGHT) - 1, 0, -1)
            held = next((size for size in lengths if reasoning.endswith(_THOUGHT[:size])), 0)
            reasoning, self._held = reasoning[: len(reasoning) - held], reasoning[-held:][:held]
        return (click.style(reasoning + end, dim=True) if reasoning + end else "") + answer

    def note(self, text: str) -> None:
        """Show what the client waits for, on a separate line above the rest of the answer."""
        with self._writing:
            if self._terminal and self._in_line:
                self._in_line = False
                click.echo()
            _note(text)

    def end(self) -> None:
        """End the line, if anything was shown."""
        self._over.set()
        held, self._held = self._held, ""  # it was not a tag
        if held:
            self._write(click.style(held, dim=True) if self._thinking else held)
        if self._begun:
            click.echo()

    def _start(self) -> None:
        if sys.stderr.isatty():
            threading.Thread(target=self._watch, name="h2o_client-silence", daemon=True).start()

    def _write(self, text: str) -> None:
        with self._writing:
            # color=True: click must not remove escape sequences, even in a file.
            click.echo(text, nl=False, color=True)
            self._in_line = not text.endswith("\n") if text else self._in_line

    def _watch(self) -> None:
        while not self._over.wait(1 / _RATE):
            text = self._silence()
            if text and not self._silent:
                self._silent = True
                self.note(text)

    def _silence(self) -> str:
        """Return a message about the silence, or "" if text arrived recently."""
        seconds = time.monotonic() - self._last
        missing = "nothing more" if self._begun else "no answer"
        waiting = f"{missing} for {seconds:.0f} s: waiting (Ctrl-C stops it)"
        return waiting if seconds >= _SILENCE else ""


class MarkdownScreen(Screen):
    """Shows an answer in a terminal as Markdown."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        super().__init__()
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._tail = self._note = ""  # the part that is redrawn, and what the client waits for
        self._above = ""  # the type of the last final block, or ""
        self._spinner = Spinner("dots")
        self._live = Live(
            self,
            console=self._console,
            auto_refresh=False,  # rich's own thread would not wait for `_print()`
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def note(self, text: str) -> None:
        """Show below the answer what the client waits for, until the answer continues."""
        self._note = text

    def end(self) -> None:
        """Print the whole answer in its final form."""
        with self._writing:
            self._over.set()
            try:
                self._live.stop()
            finally:  # even after Ctrl-C
                self._console.show_cursor()
        text, self._tail = self._tail, ""
        self._print(text, "paragraph_open")

    def revise(self, text: str) -> None:
        """Show the whole answer; replace the part that can still be redrawn."""
        self._tail = ""
        if self._above:
            told = "*The server restarted the answer; here is the new one.*"
            with self._writing:
                self._print(told, "paragraph_open")
        self.show(text)

    def _dimmed(self, text: str) -> str:
        """Return the text unchanged: Markdown shows tags as text."""
        return text

    def _start(self) -> None:
        self._live.start()
        threading.Thread(target=self._refresh, name="h2o_client-live", daemon=True).start()

    def _refresh(self) -> None:
        while not self._over.wait(1 / _RATE):
            with self._writing:
                if not self._over.is_set():
                    self._live.refresh()

    def _write(self, text: str) -> None:
        with self._writing:
            self._tail += text
            self._note = ""
            if "\n" in text:
                self._print_final_blocks()

    def _print_final_blocks(self) -> None:
        """Print the final form of all blocks but the last."""
        from h2o_client.cli.markdown import final_blocks

        whole, _, begun = self._tail.rpartition("\n")
        end, last = final_blocks(whole)
        if end:
            lines = whole.split("\n")
            # Remove the blocks from the redrawn part first, so that they are not shown twice.
            self._tail = "\n".join([*lines[end:], begun])
            self._print("\n".join(lines[:end]), last)

    def _print(self, text: str, last: str) -> None:
        """Print the final form of some blocks; the caller holds the lock.

        Args:
            text: the blocks.
            last: the type of the last one.
        """
        from h2o_client.cli.markdown import Block

        if text.strip():
            above, self._above = self._above, last
            self._console.print(Block(text, above))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Redraw the last block: as much of its end as fits on the screen."""
        from rich.segment import Segment
        from rich.text import Text

        from h2o_client.cli.markdown import markdown_lines

        note = self._note or self._silence()
        text, above = self._tail, self._above
        lines = markdown_lines(text, console, options, above) if text.strip() else []
        if note or not lines:
            # On one line, with room for "⠋ " before it.
            self._spinner.text = Text(note, style="dim")
            self._spinner.text.truncate(options.max_width - 2, overflow="ellipsis")
            lines += console.render_lines(self._spinner, options, pad=False)
        for number, line in enumerate(lines[-max(1, options.size.height - 1) :]):
            if number:
                yield Segment.line()
            yield from line


_shown: list[Screen] = []
"""The screens inside their `with` blocks; the last one is active."""


def new_screen(*, raw: bool) -> Screen:
    """Return the screen for an answer.

    Args:
        raw: whether to show the text without rendering Markdown, even in a terminal.
    """
    if raw or not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return Screen()
    return MarkdownScreen()
