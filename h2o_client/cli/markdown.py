"""Renders Markdown in a terminal with rich, without losing any text.

rich by itself drops HTML, even in an answer about HTML, hides the URLs of images, truncates text
that does not fit into the column of a table, and joins the lines of a paragraph.

An answer is rendered block by block while it arrives, so no block may depend on a later one: link
definitions, which may be at the end of the text, are shown as text.
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
    .disable(["image", "reference"])  # renders an image as a link
)
_ABOVE = {"": "", "hr": "---\n\n"}  # Markdown for the block above; the default is a paragraph


def final_blocks(text: str) -> tuple[int, str]:
    """Find the blocks of a growing text that further lines cannot change: all but the last.

    Args:
        text: complete lines only: an incomplete "#1" would look like the heading "#".

    Returns:
        The number of their lines, and the type of the last of them, or "".
    """
    begins = [
        (token.map[0], token.type)
        for token in _PARSER.parse(text)
        if token.level == 0 and token.map is not None
    ]
    return (begins[-1][0], begins[-2][1]) if len(begins) > 1 else (0, "")


def first_code(text: str) -> str | None:
    """Return the content of the first fenced code block of a Markdown text, or None."""
    return next((token.content for token in _PARSER.parse(text) if token.type == "fence"), None)


def markdown_lines(
    text: str, console: Console, options: ConsoleOptions, above: str = ""
) -> list[list[Segment]]:
    """Return the lines of Markdown, without the trailing spaces that rich adds.

    The spaces would be copied with the text, and wrap when the terminal becomes narrower.

    Args:
        text: the Markdown.
        console: the terminal.
        options: the rendering options, such as the width.
        above: the type of the block above the text, or ""; rich's spacing depends on it.
    """
    context = _ABOVE.get(above, "above\n\n")
    lines = console.render_lines(_Whole(context + text), options, pad=False)
    del lines[: len(console.render_lines(_Whole(context), options, pad=False)) if context else 0]
    for line in lines:
        # After rendering, because entities have become characters.
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
        above: the type of the block above it, or "".
    """

    def __init__(self, text: str, above: str = "") -> None:
        self._text = text
        self._above = above

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in markdown_lines(self._text, console, options, self._above):
            yield from line
            yield Segment.line()


class _Folded(TableElement):
    """A table that wraps the text in its cells."""

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
        # Show the URLs of links after their text.
        super().__init__("", hyperlinks=False)
        self.parsed = _PARSER.parse(text)
        for token in self.parsed:
            for part in token.children or ():
                if part.type == "softbreak":  # rich shows it as a space
                    part.type = "hardbreak"
