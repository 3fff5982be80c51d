"""Writes superjson: JSON, with a list of the dates, ids and undefined values in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from h2o_client.emulator.sveltekit import UNDEFINED, iso


class ObjectId(str):
    """An id of the database."""

    __slots__ = ()


def superjson(value: object, *, numbered: bool) -> dict[str, Any]:
    """The response body for a value; newer servers add the version of the format."""
    values: dict[str, list[Any]] = {}
    ids: dict[int, list[str]] = {}
    plain = _plain(value, "", values, ids)
    if not values:
        return {"json": plain}
    same = {first: rest for first, *rest in ids.values() if rest}
    meta: dict[str, Any] = {"values": values}
    meta |= {"referentialEqualities": same} if same else {}
    meta |= {"v": 1} if numbered else {}
    return {"json": plain, "meta": meta}


def _plain(
    value: object, path: str, values: dict[str, list[Any]], ids: dict[int, list[str]]
) -> object:
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value).items()
        return {name: _plain(part, _under(path, name), values, ids) for name, part in fields}
    if isinstance(value, list | tuple):
        parts = enumerate(cast("list[object]", value))
        return [_plain(part, _under(path, str(place)), values, ids) for place, part in parts]
    if value is UNDEFINED:  # null in the JSON
        values[path] = ["undefined"]
        return None
    if isinstance(value, datetime):
        values[path] = ["Date"]
        return iso(value)
    if isinstance(value, ObjectId):
        values[path] = [["custom", "ObjectId"]]
        ids.setdefault(id(value), []).append(path)
        return str(value)
    return value


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
