"""The input of `h2o-client batch`: a file with a prompt in each line."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click


class Item(NamedTuple):
    """One line of the input."""

    number: int  # of the line, from 1
    key: str  # its name in the journal
    id: str | int | None
    prompt: Any  # as a batch takes it
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
