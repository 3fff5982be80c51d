"""Showing answers: as plain text, or as Markdown that grows in a terminal.

An answer that is longer than the screen cannot be redrawn as a whole, since what has scrolled
away is out of reach. So only its last block is: a paragraph, a list, a block of code. What stands
before that is settled, and printed once.
"""

import os
import re
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.segment import Segment

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RATE = 10  # times a second that the last block is drawn anew


def printable(text: str) -> str:
    """Return text without what a terminal would obey: an answer has no business with it."""
    return _CONTROL.sub("", text)


class Screen:
    """Shows an answer on stdout, each token when it comes. Used in a `with` block."""

    def __init__(self) -> None:
        self._begun = False
        self._terminal = sys.stdout.isatty()  # nothing else obeys control characters

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def show(self, text: str) -> None:
        """Show some more. The space that the first token begins with is left out."""
        if not self._begun:
            self._begun = True
            text = text.removeprefix(" ")
        if self._terminal:
            text = printable(text)
        # color=True: passed on as it is, escape sequences in a file too.
        click.echo(text, nl=False, color=True)

    def end(self) -> None:
        """End the line, if there was an answer at all."""
        if self._begun:
            click.echo()


class MarkdownScreen:
    """Shows an answer in a terminal as the Markdown that it is. Used in a `with` block."""

    def __init__(self) -> None:
        from rich.console import Console

        # Links show where they lead, instead of hiding it behind their text.
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._tail = _Tail()
        self._live: Live | None = None
        self._begun = self._settled = False

    def __enter__(self) -> Self:
        from rich.live import Live

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
        self._tail.text += printable(text)
        if "\n" in text:
            self._settle()

    def _settle(self) -> None:
        """Print all blocks but the last for good."""
        lines = self._tail.text.split("\n")
        last = last_block(self._tail.text)
        if last == 0:
            return
        # First out of the part that is drawn anew, that it is not seen twice.
        self._tail.text = "\n".join(lines[last:])
        self._print("\n".join(lines[:last]))

    def _print(self, text: str) -> None:
        if not text.strip():
            return
        if self._settled:
            self._console.print()
        self._settled = self._tail.below = True
        self._console.print(_Markdown(text))


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


def new_screen(*, raw: bool) -> AnyScreen:
    """Return the screen for one answer.

    Args:
        raw: whether the text is wanted as it is, in a terminal too.
    """
    if raw or not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return Screen()
    return MarkdownScreen()


def last_block(text: str) -> int:
    """Return the number of the line that the last block of a Markdown text begins with."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().enable("strikethrough").enable("table").parse(text)
    begins = [token.map[0] for token in tokens if token.level == 0 and token.map is not None]
    return begins[-1] if begins else 0


class _Tail:
    """The part of an answer that is drawn anew: as much of its end as the screen holds.

    Attributes:
        text: the part.
        below: whether something settled stands above it.
    """

    def __init__(self) -> None:
        from rich.spinner import Spinner

        self.text = ""
        self.below = False
        self._waiting = Spinner("dots")

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment

        text = self.text
        if not text.strip():
            yield self._waiting
            return
        lines = _markdown_lines(text, console, options)
        if self.below:
            lines.insert(0, [])
        for number, line in enumerate(lines[-max(1, options.size.height - 1) :]):
            if number:
                yield Segment.line()
            yield from line


class _Markdown:
    """Markdown in the form that rich prints."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment

        for line in _markdown_lines(self._text, console, options):
            yield from line
            yield Segment.line()


def _markdown_lines(
    text: str, console: "Console", options: "ConsoleOptions"
) -> "list[list[Segment]]":
    """Return the lines of Markdown, without the blanks that rich fills them up with.

    They would be copied with the text, and wrap when the terminal becomes narrower.
    """
    from rich.markdown import Markdown
    from rich.segment import Segment

    lines = console.render_lines(Markdown(text, hyperlinks=False), options, pad=False)
    for line in lines:
        while line and (line[-1].style is None or line[-1].style.bgcolor is None):
            last = line.pop()
            kept = last.text.rstrip(" ")
            if kept:
                line.append(Segment(kept, last.style))
                break
    return lines
