"""The flattened form of SvelteKit's ``__data.json`` ("devalue"), written.

A value becomes a flat array: its first element is the value, and wherever a
value holds another, it holds that one's index.  Equal primitives share an
index; undefined is -1; a date is ``["Date", iso]`` [13_data_json].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast


class _Undefined:
    def __repr__(self) -> str:
        return "UNDEFINED"


UNDEFINED: Final = _Undefined()
"""JavaScript's undefined, which JSON has not."""

_ESCAPES = {
    "<": "\\u003C",
    ">": "\\u003E",
    "/": "\\u002F",
    "\\": "\\\\",
    '"': '\\"',
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def stringify(value: object) -> str:
    """Write a value of dicts, lists, dates and primitives."""
    parts: list[str] = []
    seen: dict[object, int] = {}

    def flatten(item: object) -> int:
        if item is UNDEFINED:
            return -1
        if isinstance(item, float):
            if math.isnan(item):
                return -3
            if math.isinf(item):
                return -4 if item > 0 else -5
        # True == 1 and 1 == 1.0 in Python, and only the latter in JavaScript.
        primitive = item is None or isinstance(item, str | int | float)
        key: object = (isinstance(item, bool), item) if primitive else id(item)
        if key in seen:
            return seen[key]
        index = seen[key] = len(parts)
        parts.append("")
        parts[index] = write(item)
        return index

    def write(item: object) -> str:
        if item is None:
            return "null"
        if isinstance(item, bool):
            return "true" if item else "false"
        if isinstance(item, str):
            return quote(item)
        if isinstance(item, datetime):
            return f'["Date","{iso(item)}"]'
        if isinstance(item, Mapping):
            fields = cast("Mapping[str, object]", item).items()
            return "{" + ",".join(f"{quote(name)}:{flatten(part)}" for name, part in fields) + "}"
        if isinstance(item, Sequence):
            return (
                "[" + ",".join(str(flatten(part)) for part in cast("Sequence[object]", item)) + "]"
            )
        if isinstance(item, float) and item.is_integer():
            return str(int(item))
        return repr(item)

    first = flatten(value)
    return str(first) if first < 0 else "[" + ",".join(parts) + "]"


def quote(text: str) -> str:
    """A string in devalue's own quoting, which escapes slashes and angle brackets too."""
    escaped = "".join(
        _ESCAPES.get(char) or (f"\\u{ord(char):04x}" if char < " " else char) for char in text
    )
    return f'"{escaped}"'


def date(seconds: float) -> datetime:
    """A moment of the emulator's clock as a date."""
    return datetime.fromtimestamp(seconds, UTC)


def iso(moment: datetime) -> str:
    """JavaScript's ISO form: milliseconds and a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
