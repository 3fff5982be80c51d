"""The flattened form in which SvelteKit sends data ("devalue"): reading it.

A value is one flat list. Its first entry is the value itself; where an entry is an object or an
array, what it holds are numbers, each the place of another entry [13_data_json]:

    [{"title": 1, "tags": 2}, "Hi", [1, 3], true]    ->   {"title": "Hi", "tags": ["Hi", True]}

Negative numbers are values that JSON lacks: -1 undefined, -2 a hole in an array, -3 NaN, -4 and
-5 the infinities, -6 negative zero. An array that begins with a string is a value of that type:
`["Date", iso]`, `["Set", 4, 7]`. One that begins with -7 is a sparse array: its length, then
place and entry in turn. A payload without entries is just the number. All this is from devalue's
source, src/parse.js and src/stringify.js, from 4.3 (which the measured servers have) to 5.9; of
it, objects, arrays, undefined and dates were seen on the wire [13_data_json, 16_web_search].

An entry can be referred to any number of times, and from within itself. So reviving has two
steps: an entry that is a container becomes an empty one at its first mention and is put on a
list of work; later it is filled. Each entry is thereby made once, references to it are one
object, cycles need no care, and depth costs no recursion.

Python's types are not JavaScript's. What has no counterpart becomes the nearest plain value:

===================  =====================================================================
undefined, a hole    None
`Date`               an aware `datetime`; None if invalid or beyond the years 1 to 9999
`Set`, `Map`         `set` and `dict`; where these cannot hold what is in it (a member or
                     key is a container, a typed array or a number of 62 bits and more, or two
                     are equal in Python, like 1 and true), a list of the members, or of
                     (key, value) pairs, in order
`RegExp`             `RegExp`: the syntax is not Python's, so nothing is compiled
`BigInt`, `Object`   the plain number, string or bool
`ArrayBuffer`        `bytes`; typed arrays over a whole buffer: a tuple of numbers
`URL`, `Temporal.…`  their text
===================  =====================================================================
"""

import binascii
import re
import struct
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import NamedTuple, TypeGuard, cast

from h2o_client.errors import ProtocolError

_UNDEFINED = -1
_HOLE = -2
_SPARSE = -7
_CONSTANTS: dict[int, object] = {
    _UNDEFINED: None,
    -3: float("nan"),
    -4: float("inf"),
    -5: float("-inf"),
    -6: -0.0,
}

# Sparse arrays, and typed arrays that share a buffer, are written shorter than they are: a few
# bytes could ask for any amount of memory. This is how many places all of them may have.
_MAX_PLACES = 1_000_000

# Python's hash of a whole number is the number up to here, and wraps around beyond. Larger ones can
# be chosen to have all the same hash, and a set of many such ones would take hours.
_MAX_HASHED = 2**61 - 2

# What Date.prototype.toISOString writes; a sign and six digits are a year beyond datetime's.
_DATE = re.compile(r"(\d{4})-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_FAR_DATE = re.compile(r"[+-]\d{6}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_BIGINT = re.compile(r"-?\d{1,4000}", re.ASCII)  # int() refuses more than 4,300 digits

_CONTAINERS = frozenset({"Set", "Map", "null"})
_TYPED_ARRAYS = {
    "Int8Array": "b",
    "Uint8Array": "B",
    "Uint8ClampedArray": "B",
    "Int16Array": "h",
    "Uint16Array": "H",
    "Float16Array": "e",
    "Int32Array": "i",
    "Uint32Array": "I",
    "Float32Array": "f",
    "Float64Array": "d",
    "BigInt64Array": "q",
    "BigUint64Array": "Q",
}
_TEXTS = frozenset(
    {
        "URL",
        "URLSearchParams",
        "Temporal.Duration",
        "Temporal.Instant",
        "Temporal.PlainDate",
        "Temporal.PlainTime",
        "Temporal.PlainDateTime",
        "Temporal.PlainMonthDay",
        "Temporal.PlainYearMonth",
        "Temporal.ZonedDateTime",
    }
)


class RegExp(NamedTuple):
    """A JavaScript regular expression, not compiled.

    Attributes:
        source: the pattern, in JavaScript's syntax.
        flags: its flags, such as "gi".
    """

    source: str
    flags: str = ""


def unflatten(values: object) -> object:
    """Return the value that a flattened payload stands for.

    Args:
        values: the payload as `json.loads` gives it: a list, or one negative number. It is not
            changed.

    Raises:
        ProtocolError: it is no such payload.
    """
    if _is_int(values):
        if values not in _CONSTANTS:
            raise _error("a lone number that stands for nothing")
        return _CONSTANTS[values]
    if not _is_list(values) or not values:
        raise _error(f"{_kind(values)} where a list of entries belongs")
    return _Reviver(values).revive()


class _Reviver:
    """Revives one payload. It names places in errors, never contents: those can be prompts."""

    __slots__ = ("_made", "_pending", "_places", "_values")

    def __init__(self, values: list[object]) -> None:
        self._values = values
        self._made: dict[int, object] = {}
        self._pending: list[int] = []  # containers that were made and are still empty
        self._places = 0  # see _MAX_PLACES

    def revive(self) -> object:
        root = self._get(0)
        while self._pending:
            self._fill(self._pending.pop())
        return root

    def _get(self, ref: object) -> object:
        """Return what a reference stands for; a container may still be empty."""
        if not _is_int(ref):
            raise _error(f"{_kind(ref)} where a reference belongs")
        if ref < 0:
            if ref not in _CONSTANTS:
                raise _error("a negative reference that stands for nothing")
            return _CONSTANTS[ref]
        if ref not in self._made:
            if ref >= len(self._values):
                raise _error(f"a reference beyond the {len(self._values)} entries")
            self._made[ref] = self._make(ref)
        return self._made[ref]

    def _make(self, place: int) -> object:
        """Make the entry at `place`: whole if it refers to no container, else empty."""
        entry = self._values[place]
        if entry is None or isinstance(entry, str | int | float):
            return entry
        made: object
        if _is_dict(entry):
            made = {}
        elif not _is_list(entry):
            raise _error(f"entry {place} is {_kind(entry)}")
        elif not entry or not isinstance(entry[0], str):
            made = []
        elif entry[0] not in _CONTAINERS:
            return self._make_leaf(place, entry[0], entry[1:])
        else:
            made = self._make_container(place, entry[0], entry[1:])
            if isinstance(made, set):
                return cast("set[object]", made)
        self._pending.append(place)
        return made

    def _make_container(self, place: int, tag: str, refs: list[object]) -> object:
        """Make a Set whole if it becomes a set; else, and for a Map, the empty container."""
        if tag == "Set":
            members = self._hashable(refs)
            return [] if members is None else members
        if len(refs) % 2:
            raise _error(f"entry {place}, a {tag}, has a key without a value")
        if tag == "Map" and self._hashable(refs[::2]) is None:
            return []
        return {}

    def _hashable(self, refs: list[object]) -> set[object] | None:
        """Return these values as a set, or None if a set cannot hold each of them."""
        if not all(self._is_leaf(ref) for ref in refs):
            return None
        # Leaves are made whole, and refer to leaves at most: this goes no deeper.
        found = {self._get(ref) for ref in refs}
        return found if len(found) == len(refs) else None

    def _is_leaf(self, ref: object) -> bool:
        """Whether what a reference stands for is no container (as far as it is valid)."""
        if not _is_int(ref) or not 0 <= ref < len(self._values):
            return True
        entry = self._values[ref]
        if _is_list(entry):
            tag = entry[0] if entry else None
            return isinstance(tag, str) and tag not in _CONTAINERS and not _is_costly(tag, entry)
        return not isinstance(entry, dict) and not (_is_int(entry) and abs(entry) > _MAX_HASHED)

    def _make_leaf(self, place: int, tag: str, args: list[object]) -> Hashable:
        """Make a value of a type that holds no other values."""
        first = args[0] if args else None
        if tag in _TYPED_ARRAYS:
            return self._make_numbers(place, tag, args)
        if tag == "Object" and len(args) == 1 and isinstance(first, str | int | float):
            # Until devalue 5.6 the primitive itself. From 5.7 on it is a reference, which cannot
            # be told from a number; nobody sends boxed numbers.
            return first
        if tag == "BigInt" and _is_int(first):
            return first  # of a boxed one
        if not isinstance(first, str):
            raise _error(f"entry {place}, a {tag[:40]!r}, has no text")
        if tag == "Date":
            return _date(place, first)
        if tag == "RegExp":
            flags = args[1] if len(args) > 1 else ""
            if not isinstance(flags, str):
                raise _error(f"entry {place}, a RegExp, has flags that are no text")
            return RegExp(first, flags)
        if tag == "BigInt":
            if not _BIGINT.fullmatch(first):
                raise _error(f"entry {place}, a BigInt, is no whole number, or too large a one")
            return int(first)
        if tag == "ArrayBuffer":
            return _base64(place, first)
        if tag in _TEXTS:
            return first
        raise _error(f"entry {place} is of an unknown type, {tag[:40]!r}")

    def _make_numbers(self, place: int, tag: str, args: list[object]) -> tuple[int | float, ...]:
        """Make a typed array: over base64 text (devalue 5.1), or an ArrayBuffer's entry (later)."""
        if len(args) != 1:
            # First and last item until devalue 5.6, offset and length later: no telling which.
            raise _error(f"entry {place} is a part of a buffer, which is not supported")
        source = args[0]
        if isinstance(source, str):
            data: object = _base64(place, source)
        else:
            # Looked at before it is made: an entry that refers to itself would not end.
            if not _is_int(source) or not 0 <= source < len(self._values):
                raise _error(f"entry {place}, a {tag}, has no buffer")
            buffer = self._values[source]
            if not _is_list(buffer) or not buffer or buffer[0] != "ArrayBuffer":
                raise _error(f"entry {place}, a {tag}, has no buffer")
            data = self._get(source)
        code = _TYPED_ARRAYS[tag]
        size = struct.calcsize(f"<{code}")
        if not isinstance(data, bytes) or len(data) % size:
            raise _error(f"entry {place}, a {tag}, has a buffer of a wrong size")
        self._count(len(data) // size)
        return struct.unpack(f"<{len(data) // size}{code}", data)

    def _fill(self, place: int) -> None:
        """Fill the container that was made of the entry at `place`."""
        entry = self._values[place]
        made = self._made[place]
        if _is_dict(entry):
            fields = cast("dict[object, object]", made)
            for name, ref in entry.items():
                fields[name] = self._get(ref)
            return
        refs = cast("list[object]", entry)
        tag = refs[0] if refs else None
        if isinstance(made, dict):
            mapping = cast("dict[object, object]", made)
            for key, ref in zip(refs[1::2], refs[2::2], strict=True):
                if tag == "Map":
                    mapping[self._get(key)] = self._get(ref)
                elif isinstance(key, str):
                    mapping[key] = self._get(ref)
                else:
                    raise _error(f"entry {place}, an object, has a key that is no text")
            return
        items = cast("list[object]", made)
        if tag == "Set":
            items.extend(self._get(ref) for ref in refs[1:])
        elif tag == "Map":
            pairs = zip(refs[1::2], refs[2::2], strict=True)
            items.extend((self._get(key), self._get(ref)) for key, ref in pairs)
        elif _is_int(tag) and tag == _SPARSE:
            self._fill_sparse(place, refs, items)
        else:
            for ref in refs:
                is_hole = _is_int(ref) and ref == _HOLE
                items.append(None if is_hole else self._get(ref))

    def _count(self, places: int) -> None:
        self._places += places
        if self._places > _MAX_PLACES:
            raise _error(f"its sparse and typed arrays have more than {_MAX_PLACES} places")

    def _fill_sparse(self, place: int, refs: list[object], items: list[object]) -> None:
        length = refs[1] if len(refs) > 1 else None
        if not _is_int(length) or length < 0 or len(refs) % 2:
            raise _error(f"entry {place} is no sparse array")
        self._count(length)
        items.extend([None] * length)
        for at, ref in zip(refs[2::2], refs[3::2], strict=True):
            if not _is_int(at) or not 0 <= at < length:
                raise _error(f"entry {place}, a sparse array, has an item outside of it")
            items[at] = self._get(ref)


def _date(place: int, text: str) -> datetime | None:
    if not text or _FAR_DATE.fullmatch(text):
        return None
    found = _DATE.fullmatch(text)
    if found is not None and found[1] == "0000":
        return None
    try:
        if found is not None:
            return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        pass  # the thirtieth of February
    raise _error(f"entry {place}, a Date, is no date")


def _base64(place: int, text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise _error(f"entry {place} is no base64") from None


def _is_costly(tag: str, entry: list[object]) -> bool:
    """Whether hashing a value costs more than writing it: a server could make it cost hours."""
    if tag == "BigInt":  # see _MAX_HASHED; a text of 18 characters is below it
        text = entry[1] if len(entry) > 1 else None
        return isinstance(text, str) and len(text) > 18
    return tag in _TYPED_ARRAYS  # to JavaScript, one equals nothing but itself


def _is_int(value: object) -> TypeGuard[int]:
    """Whether this is a number that can be a reference; to Python, True is an int as well."""
    return type(value) is int


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _kind(value: object) -> str:
    # Never its repr: that of deep garbage fails, and it can be a prompt.
    return f"a value of type {type(value).__name__}"


def _error(what: str) -> ProtocolError:
    return ProtocolError(f"the data is not what this protocol says: {what}")
