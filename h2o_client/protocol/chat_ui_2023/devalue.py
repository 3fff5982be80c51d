"""Reads devalue, the flattened form in which SvelteKit sends data.

A value is one flat list. Its first entry is the value itself. An entry that is an object or an
array contains numbers, each of which is the index of another entry:

    [{"title": 1, "tags": 2}, "Hi", [1, 3], true]    ->   {"title": "Hi", "tags": ["Hi", True]}

-1 means undefined, and `["Date", iso]` is a date. The format supports more: sets, maps, big
numbers, sparse arrays, cycles. Servers of this protocol have never sent any of these, so they are
rejected with an error that names the type.
"""

# Objects, arrays, undefined and dates: 13_data_json, 16_web_search and all other captures.

import re
from datetime import UTC, datetime
from typing import cast

from h2o_client.errors import ProtocolError

_UNDEFINED = -1
_DEEPEST = 32  # levels of nesting; the service's data has 6
_MAX_REPEATS = 10  # how many times larger than its payload a value may be
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def unflatten(values: object) -> object:
    """Return the value of a flattened payload.

    Args:
        values: the payload, decoded by `json.loads`.

    Raises:
        ProtocolError: it is not such a payload, or contains a type that this protocol does not use.
    """
    if type(values) is int and values == _UNDEFINED:
        return None
    if not isinstance(values, list) or not values:
        raise _error(f"expected a list of entries, got {type(values).__name__}")
    entries = cast("list[object]", values)
    # An entry that is referenced twice is built twice. That costs little, but without a limit a few
    # bytes could use any amount of memory.
    return _Reader(entries, left=1000 + _MAX_REPEATS * len(entries)).read(0, _DEEPEST)


class _Reader:
    """Builds one value. Its errors name indexes and types, but never contents, such as prompts."""

    __slots__ = ("_entries", "_left")

    def __init__(self, entries: list[object], left: int) -> None:
        self._entries = entries
        self._left = left

    def read(self, place: object, depth: int) -> object:
        """Build the entry at an index; it may be nested `depth` levels deep."""
        if type(place) is not int:
            raise _error(f"expected the index of an entry, got {type(place).__name__}")
        if place == _UNDEFINED:
            return None
        if not 0 <= place < len(self._entries):
            raise _error(f"index {place} is out of range for {len(self._entries)} entries")
        entry = self._entries[place]
        self._left -= 1
        if not isinstance(entry, dict | list):
            return entry
        if depth <= 0 or self._left < 0:
            raise _error("it refers to itself, is nested too deeply, or repeats itself too often")
        if isinstance(entry, dict):
            fields = cast("dict[str, object]", entry)
            return {name: self.read(ref, depth - 1) for name, ref in fields.items()}
        items = cast("list[object]", entry)
        if items and isinstance(items[0], str):
            return _date(place, items)
        return [self.read(ref, depth - 1) for ref in items]


def _date(place: int, items: list[object]) -> datetime:
    if items[0] != "Date":
        raise _error(f"entry {place} has the unknown type {str(items[0])[:40]!r}")
    text = items[1] if len(items) == 2 else None
    try:
        if isinstance(text, str) and _DATE.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:  # such as 30 February
        raise _error(f"entry {place} is not a valid date") from None
    raise _error(f"entry {place} is not a valid date")


def _error(what: str) -> ProtocolError:
    return ProtocolError(f"the server's data does not follow this protocol: {what}")
