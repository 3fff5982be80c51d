"""Writes the flattened form of SvelteKit's ``__data.json`` ("devalue").

A value becomes a flat array: its first element is the value, and nested values are replaced by
their indices in the array. Equal primitives share an index; undefined is -1; a date is
``["Date", iso]``.
"""

# 13_data_json

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from h2o_client.emulator.sveltekit import UNDEFINED, iso

_ESCAPES = {ord(char): f"\\u{ord(char):04X}" for char in "<>/\u2028\u2029"}


def stringify(value: object) -> str:
    """Write a value of dicts, lists, dates and primitives."""
    parts: list[str] = []
    seen: dict[object, int] = {}

    def flatten(item: object) -> int:
        if item is UNDEFINED:
            return -1
        primitive = item is None or isinstance(item, str | int | float)
        # True == 1 in Python, but not in JavaScript.
        key: object = (isinstance(item, bool), item) if primitive else id(item)
        if key not in seen:
            seen[key] = len(parts)
            parts.append("")  # reserve its index before those of nested values
            parts[seen[key]] = write(item)
        return seen[key]

    def write(item: object) -> str:
        if isinstance(item, datetime):
            return f'["Date","{iso(item)}"]'
        if isinstance(item, Mapping):
            fields = cast("Mapping[str, object]", item).items()
            return "{" + ",".join(f"{quote(name)}:{flatten(part)}" for name, part in fields) + "}"
        if isinstance(item, Sequence) and not isinstance(item, str):
            return f"[{','.join(str(flatten(part)) for part in cast('Sequence[object]', item))}]"
        return quote(item)

    flatten(value)
    return f"[{','.join(parts)}]"


def quote(item: object) -> str:
    """A primitive; strings escape slashes and angle brackets too."""
    if isinstance(item, float) and item.is_integer():
        item = int(item)  # as JavaScript writes it
    return json.dumps(item, ensure_ascii=False).translate(_ESCAPES)
