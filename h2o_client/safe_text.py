"""Make text from a server safe to show: in a terminal, as JSON, and in a notebook.

A server's text can contain anything. Control characters can move the terminal's cursor, set the
window's title and write to the clipboard. Characters that control the direction of text can make it
read as something else. A notebook runs the scripts in HTML and in Markdown. Everything that the
package shows to a person goes through this module.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

LONGEST = 30_000
"""A text with more characters is not parsed as Markdown, which could take seconds."""

# The C0 controls except tab and newline, DEL, the C1 controls, the controls for the direction of
# text, and the line and paragraph separators.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb]"
)
_WEB_ADDRESS = re.compile(r"https?://|mailto:", re.IGNORECASE)
# Without these classes, notebooks would typeset TeX, which can contain links and styles.
_NO_TEX = "mathjax_ignore tex2jax_ignore"
_CELL = "text-align:left; vertical-align:top; white-space:pre-wrap"


def printable(text: str) -> str:
    """Remove all characters that a terminal acts on, except newline and tab."""
    return _UNSAFE.sub("", text)


def one_line(text: str) -> str:
    """Return text as a single line that is safe to print in a terminal."""
    return " ".join(filter(None, map(printable, text.split())))


class SafeFormatter(logging.Formatter):
    """Formats log records for a terminal, as they can contain text from a server."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return printable(super().format(record))


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """Return a value as JSON in which all characters that a terminal acts on are escaped.

    Args:
        value: the value.
        indent: spaces per level; None: all on one line.
        ascii_only: whether all characters outside ASCII are escaped.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def split_reasoning(text: str) -> tuple[str, str]:
    """Split a text into the contents of its leading `<think>` tags and the rest."""
    if not text.lstrip().startswith("<think>"):
        return "", text
    reasoning, _, answer = text.lstrip().removeprefix("<think>").partition("</think>")
    return reasoning.strip(), answer.lstrip()


def to_html(markdown: str, mark: str = "") -> str:
    """Render Markdown as HTML that contains only Markdown's own elements.

    HTML and TeX in the Markdown are shown as text, and so are links and images other than http,
    https and mailto. If markdown-it-py is not installed, or the text is very long, the Markdown
    itself is shown as text.

    Args:
        markdown: the text, possibly incomplete. Reasoning at its beginning is dimmed.
        mark: a word that says how it ended, shown below it.
    """
    from html import escape

    render = _renderer() if len(markdown) <= LONGEST else None
    reasoning, answer = split_reasoning(markdown)

    def show(text: str) -> str:
        plain = f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'
        return plain if render is None else render(text)

    body = show(answer) if answer or not reasoning else ""
    if reasoning:
        body = f'<div style="opacity: 0.6">{show(reasoning)}</div>{body}'
    if mark:
        body += f"<p><em>— {escape(mark)}</em></p>"
    return f'<div class="{_NO_TEX}">{printable(body)}</div>'  # after entities were decoded


def to_html_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; any HTML in its cells is shown as text.

    Args:
        names: the names of the columns.
        rows: the texts of each row, in the order of the columns.
    """
    from html import escape

    def line(cells: Sequence[str], tag: str) -> str:
        shown = (f'<{tag} style="{_CELL}">{escape(printable(cell))}</{tag}>' for cell in cells)
        return f"<tr>{''.join(shown)}</tr>"

    head, body = line(names, "th"), "".join(line(row, "td") for row in rows)
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="{_NO_TEX}">{table}</div>'


@cache
def _renderer() -> Callable[[str], str] | None:
    """Return a Markdown renderer, or None if markdown-it-py is not installed."""
    try:
        from markdown_it import MarkdownIt
    except ModuleNotFoundError:
        return None

    class Parser(MarkdownIt):
        def validateLink(self, url: str) -> bool:  # noqa: N802 -- markdown-it-py's name
            return _WEB_ADDRESS.match(url) is not None

    # The service's own page also shows every line break.
    parser = Parser("commonmark", {"html": False, "breaks": True})
    return parser.enable(["strikethrough", "table"]).render
