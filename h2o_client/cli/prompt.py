"""Builds the prompt from the command line, the text on stdin, and files."""

import mimetypes
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from h2o_client.cli.outcome import PROGRAM

if TYPE_CHECKING:
    from h2o_client import File, H2oClient

_FENCES = re.compile(r"^ *(`{3,})", re.MULTILINE)
# These types are accepted by all models of a server that accepts files.
_TEXT = ("text/", "application/json", "application/xml", "application/csv")


def read_prompt(prompt: str | None, *, converse: bool) -> str | None:
    """Return the prompt of the command line, a blank line, and the text on stdin.

    Args:
        prompt: the prompt on the command line; "-" means stdin only.
        converse: whether a terminal without a prompt means a conversation.

    Returns:
        The text, or None for a conversation.

    Raises:
        click.UsageError: the prompt is missing, or stdin is not text.
    """
    if sys.stdin.isatty() and prompt != "-":
        if prompt is None and not (converse and sys.stdout.isatty()):
            raise click.UsageError(f'give a prompt: {PROGRAM} chat "Hello"')
        return prompt
    try:
        piped = sys.stdin.read().removesuffix("\n")
        piped.encode()  # in the C locale, other bytes than UTF-8 arrive as surrogates
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise click.UsageError(f"the text on stdin is not {error.encoding}") from None
    if prompt in (None, "-"):
        return piped
    return f"{prompt}\n\n{piped}" if piped.strip() else prompt


def add_files(client: "H2oClient", text: str, paths: Sequence[Path]) -> "tuple[str, list[File]]":
    """Return a prompt and the files to send with it.

    If the server does not accept files, their text is added to the prompt.

    Args:
        client: the client.
        text: the prompt.
        paths: the files.

    Raises:
        click.UsageError: a file is binary, and the server does not accept files.
        OSError: a file cannot be read.
        H2oError: the kind of server could not be determined.
    """
    files = [_read(path) for path in paths]
    if files and client.dialect is None:
        client.models()  # detects the kind of server
    if "files" in client.capabilities:
        return text, files
    for file in files:
        if not _text(file.type):
            raise click.UsageError(
                f"{file.name} is a binary file, and this kind of server accepts only text in UTF-8"
            )
        content = file.content.decode("utf-8-sig").removesuffix("\n")
        fence = max(("```", *(f"{found}`" for found in _FENCES.findall(content))), key=len)
        text = f"{text}\n\n{file.name}:\n\n{fence}\n{content}\n{fence}"
    return text, []


def _read(path: Path) -> "File":
    """Read a file; whether its type is text depends on its content, not on its name."""
    from h2o_client import File

    content = path.read_bytes()
    found = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    try:
        content.decode()
    except UnicodeDecodeError:
        return File(path.name, content, "application/octet-stream" if _text(found) else found)
    return File(path.name, content, found if _text(found) else "text/plain")


def _text(kind: str) -> bool:
    return kind.startswith(_TEXT)
