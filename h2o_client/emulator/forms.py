"""Reads multipart forms as strictly as the real servers' web framework.

Every delimiter, including the closing one, must be on its own line and end in CRLF. The boundary
must not occur elsewhere in the body, even without its dashes, because the real parser fails on
that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DISPOSITION = re.compile(rb"content-disposition:\s*form-data;(?P<fields>[^\r\n]*)", re.IGNORECASE)
_FIELD = re.compile(rb';\s*(name|filename)="([^"]*)"', re.IGNORECASE)
_TYPE = re.compile(rb"content-type:\s*([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form.

    Attributes:
        name: The field's name.
        value: Its content.
        filename: The file's name; None for a field.
        content_type: The file's type; empty for a field.
    """

    name: str
    value: bytes
    filename: str | None = None
    content_type: str = ""


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """Read a form.

    Raises:
        ValueError: It is not well-formed.
    """
    found = re.search(r'boundary="?([^";]+)', content_type, re.IGNORECASE)
    if found is None:
        raise ValueError("no boundary")
    boundary = found.group(1).strip().encode()
    first, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if first or not pieces or pieces.pop() != b"--\r\n":
        raise ValueError("no closing delimiter")
    if body.count(boundary) != len(pieces) + 1:
        raise ValueError("the boundary occurs in a part")
    return [_part(piece) for piece in pieces]


def _part(piece: bytes) -> Part:
    head, gap, value = piece.partition(b"\r\n\r\n")
    disposition = _DISPOSITION.search(head)
    if not head.startswith(b"\r\n") or not gap or disposition is None:
        raise ValueError("a part has no head")
    fields = {
        name.lower(): text.decode(errors="replace").replace("%22", '"')
        for name, text in _FIELD.findall(b";" + disposition["fields"])
    }
    if b"name" not in fields:
        raise ValueError("a part has no name")
    told = _TYPE.search(head)
    kind = "" if told is None else told.group(1).decode(errors="replace").strip()
    return Part(fields[b"name"], value, fields.get(b"filename"), kind)
