"""The fields of a JSON object from the server, read with their types checked.

Unknown fields are ignored. A field that is missing or has the wrong type raises a `ProtocolError`
that names the field.
"""

from datetime import datetime
from typing import Any, TypeGuard

from h2o_client.errors import ProtocolError
from h2o_client.protocol.address import is_id


class Fields:
    """The fields of one object.

    Args:
        value: the object, or whatever the server sent in its place.
        where: the object's path in the answer, for errors, such as "models[0]".
    """

    __slots__ = ("_fields", "_where")

    def __init__(self, value: object, where: str) -> None:
        if not is_dict(value):
            raise _wrong(where, value, "an object")
        self._fields = value
        self._where = where

    @property
    def names(self) -> list[str]:
        """The names of all fields."""
        return list(self._fields)

    def get(self, name: str) -> Any:
        """Return a field of any type; None if it is missing or null."""
        return self._fields.get(name)

    def text(self, name: str) -> str:
        """Return a string."""
        if not isinstance(value := self.get(name), str):
            raise self.wrong(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string; None if it is missing or null."""
        return None if self.get(name) is None else self.text(name)

    def id(self, name: str) -> str:
        """Return a valid id."""
        if not is_id(value := self.get(name)):
            raise self.wrong(name, "a valid id")
        return value

    def optional_id(self, name: str) -> str | None:
        """Return a valid id; None if it is missing or null."""
        return None if self.get(name) is None else self.id(name)

    def flag(self, name: str) -> bool:
        """Return a boolean."""
        if not isinstance(value := self.get(name), bool):
            raise self.wrong(name, "true or false")
        return value

    def optional_number(self, name: str) -> int | None:
        """Return an integer; None if it is missing or null."""
        value = self.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.wrong(name, "an integer")
        return value

    def optional_date(self, name: str) -> datetime | None:
        """Return a date that the format itself marks as a date; None if missing or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, datetime):
            raise self.wrong(name, "a date")
        return value

    def optional_iso_date(self, name: str) -> datetime | None:
        """Return a date that is sent as ISO text; None if it is missing or null."""
        value = self.optional_text(name)
        try:
            return None if value is None else datetime.fromisoformat(value)
        except ValueError:
            raise self.wrong(name, "a date") from None

    def each(self, name: str) -> "list[Fields]":
        """Return the fields of each object in an array."""
        if self.get(name) is None:
            raise self.wrong(name, "an array")
        return self.optional_each(name)

    def optional_each(self, name: str) -> "list[Fields]":
        """Return the fields of each object in an array; none if it is missing or null."""
        items = self.items(name)
        return [Fields(item, f"{self._where}.{name}[{n}]") for n, item in enumerate(items)]

    def items(self, name: str) -> list[Any]:
        """Return the items of an array; none if it is missing or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, "an array")
        return value or []

    def wrong(self, name: str, expected: str) -> ProtocolError:
        """Make the error for a field of the wrong type."""
        return _wrong(f"{self._where}.{name}", self.get(name), expected)


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is a JSON object."""
    return isinstance(value, dict)


def _wrong(place: str, value: object, expected: str) -> ProtocolError:
    # Never include the value: it can be a prompt, and the repr of deeply nested data fails.
    problem = f"missing (expected {expected})" if value is None else f"not {expected}"
    return ProtocolError(f"the server's data does not follow this protocol: {place} is {problem}")
