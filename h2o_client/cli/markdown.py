"""Renders Markdown in a terminal with rich, without losing any text.

rich by itself drops HTML, even in an answer about HTML, hides the URLs of images, and truncates
text that does not fit into the column of a table.
"""

from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.table import Table

from h2o_client.safe_text import printable

_PARSER = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["strikethrough", "table"])
    .disable("image")  # it is a link then
)


def last_block(text: str) -> int:
    """Return the number of the line that the last block of a Markdown text begins with."""
    tokens = _PARSER.parse(text)
    begins = [token.map[0] for token in tokens if token.level == 0 and token.map is not None]
    return begins[-1] if begins else 0


def markdown_lines(text: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """Return the lines of Markdown, without the trailing spaces that rich adds.

    They would be copied with the text, and wrap when the terminal becomes narrower.
    """
    lines = console.render_lines(_Whole(text), options, pad=False)
    for line in lines:
        # Entities are characters only now.
        line[:] = [Segment(printable(part.text), part.style) for part in line]
        while line and (line[-1].style is None or line[-1].style.bgcolor is None):
            last = line.pop()
            kept = last.text.rstrip(" ")
            if kept:
                line.append(Segment(kept, last.style))
                break
    return lines


class Block:
    """A piece of Markdown in the form that rich prints.

    Args:
        text: the piece.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in markdown_lines(self._text, console, options):
            yield from line
            yield Segment.line()


class _Folded(TableElement):
    """A table whose cells continue in the next line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class _Whole(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "table_open": _Folded,
    }

    def __init__(self, text: str) -> None:
        # Links show where they lead, instead of hiding it behind their text.
        super().__init__("", hyperlinks=False)
        self.parsed = _PARSER.parse(text)
