"""The input of `h2o-client batch`: a file with one prompt per line."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

_HEADER = {"prompt", "prompts", "question", "questions", "text", "input", "message", "messages"}
_CELL = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]{0,30}")
_JSON_LINES = (".jsonl", ".ndjson")
_MANY = 5  # names in a message


class Item(NamedTuple):
    """One line of the input."""

    number: int  # of the line, from 1
    key: str  # its name in the journal
    id: str | int | None
    prompt: Any  # in the form that a batch accepts
    digest: str
    wrong: str = ""  # what is wrong with it

    @classmethod
    def read(cls, number: int, line: str) -> "Item":
        """Make an item of a line: a JSON object, or else the text of a prompt."""
        digest = hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        name: str | int | None = None
        wrong = ""
        prompt: Any = line
        if line.lstrip().startswith("{"):
            try:
                prompt = json.loads(line)
            except (ValueError, RecursionError) as error:
                wrong = f"the line looks like JSON but is not valid: {error}"
            else:
                name = prompt.get("id")
                if isinstance(name, bool) or not isinstance(name, str | int | None):
                    name, wrong = None, "an id must be a string or an integer"
        key = f"line:{number}" if name is None else f"id:{json.dumps(name)}"
        return cls(number, key, name, prompt, digest, wrong)


def read_items(path: Path) -> Iterator[Item]:
    """Yield the lines of a file that are not blank.

    Raises:
        click.UsageError: the file is not text in UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Item.read(number, line.rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{path} is not UTF-8: {error.reason}") from None


def check_items(path: Path, suffix: str) -> tuple[dict[str, str], list[int]]:
    """Read the input once, and check its lines.

    Args:
        path: the file.
        suffix: the file's suffix; in a `.jsonl` file each line that is JSON must be an object.

    Returns:
        The digest of each item, by its key, and the numbers of the empty lines.

    Raises:
        click.UsageError: a line is not a prompt, or two have the same id.
    """
    digests: dict[str, str] = {}
    numbers: dict[str, int] = {}
    empty: list[int] = []
    last = 0
    for item in read_items(path):
        empty += range(last + 1, item.number)
        last = item.number
        if isinstance(item.prompt, str) and not item.wrong:
            _check_text(item.number, item.prompt.strip(), suffix.lower(), first=not digests)
        if item.key in digests:
            raise click.UsageError(f"lines {numbers[item.key]} and {item.number} have the same id")
        digests[item.key], numbers[item.key] = item.digest, item.number
    return digests, empty


def name_all(noun: str, names: Sequence[object]) -> str:
    """Return names as text: "line 2", "lines 2, 3 and 7 more"."""
    shown = [str(name) for name in names[:_MANY]]
    if len(names) > _MANY:
        shown.append(f"{len(names) - _MANY} more")
    listed = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    return f"{noun}{'s' if len(names) > 1 else ''} {listed}"


def _check_text(number: int, text: str, suffix: str, *, first: bool) -> None:
    """Raise an error if a line is JSON but not an object, or the header of a CSV file."""
    if text == "[":
        raise click.UsageError(
            f"line {number} starts a JSON array: write one JSON object per line instead"
        )
    if (text[0] in '["' or suffix in _JSON_LINES) and _is_json(text):
        raise click.UsageError(
            f"line {number} is JSON but not an object: "
            'write {"prompt": "…"}, or the text of a prompt as it is'
        )
    cells = [cell.strip().strip('"') for cell in re.split("[,;\t]", text)]
    words = _HEADER if len(cells) > 1 or suffix in (".csv", ".tsv") else {"prompt", "prompts"}
    if (
        first
        and all(map(_CELL.fullmatch, cells))
        and not words.isdisjoint(cell.lower() for cell in cells)
    ):
        raise click.UsageError(
            f"line {number} looks like the header of a CSV file: each line must be the text of a "
            'prompt or a JSON object; if it is a prompt, write it as {"prompt": "…"}'
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
