"""Requests and responses, for the faces of all dialects."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import anyio

from h2o_client.emulator.forms import Part, parse_multipart

Headers = list[tuple[str, str]]

MAX_DEPTH = 200

# Node's reason phrases (05); Python's differ between its versions.
_REASONS = {
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Entity",
}


def reason_phrase(status: int) -> str:
    """The reason phrase of a status; empty for an unknown one."""
    return _REASONS.get(status) or responses.get(status, "")


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        kind: Its kind: ``settings``, ``create``, ``message`` and so on; see `Emulator.fault`.
        method: The method.
        path: The path, as sent.
        query: The text after the question mark.
        headers: Names, in lower case, and values, in order.
        body: The body.
        t: When it arrived, on the emulator's clock.
        address: The client's address.
    """

    kind: str
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes
    t: float
    address: str = ""

    def header(self, name: str) -> str | None:
        """The first value of a header, whose name is case-insensitive."""
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def json(self) -> Any:
        """The body as JSON; see `parse_json`."""
        return parse_json(self.body)

    def parts(self) -> list[Part]:
        """The body as a form, multipart or not.

        Raises:
            ValueError: It is not a form, or not well-formed.
        """
        if self.media_type == "multipart/form-data":
            return parse_multipart(self.header("content-type") or "", self.body)
        if self.media_type != "application/x-www-form-urlencoded":
            raise ValueError("not a form")
        pairs = parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True)
        return [Part(name, value.encode()) for name, value in pairs]

    def form(self) -> dict[str, str]:
        """The fields of a form; for repeated fields, the first value.

        Raises:
            ValueError: It is not a form, or not well-formed.
        """
        parts = reversed(self.parts())
        return {part.name: part.value.decode(errors="replace") for part in parts}

    def parameter(self, name: str) -> str | None:
        """A field of the query string."""
        pairs = parse_qsl(self.query, keep_blank_values=True)
        return next((value for key, value in pairs if key == name), None)

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return (self.header("content-type") or "").partition(";")[0].strip()

    def cookie(self, name: str) -> str:
        """A cookie's value, or an empty string."""
        for part in (self.header("cookie") or "").split(";"):
            key, _, value = part.partition("=")
            if key.strip() == name:
                return unquote(value.strip().strip('"'))
        return ""


def parse_json(text: str | bytes) -> Any:
    """Read JSON, with numbers as JavaScript reads them.

    Raises:
        ValueError: It is not valid JSON, or nested more than `MAX_DEPTH` deep.
    """
    try:
        value: object = json.loads(
            text, parse_constant=_no_constant, parse_float=_js_number, parse_int=_js_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def _js_number(text: str) -> float | None:
    """A number as JavaScript writes it: 1.0 as 1, and numbers that are too large as null."""
    value = float(text)
    if math.isinf(value):
        return None
    if text.lstrip("-").isdigit():
        return int(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _check_depth(value: object) -> None:
    """Reject values that Python's recursive JSON encoder could not write."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _children(item)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


@dataclass(slots=True)
class Response:
    """A complete response; without a ``content-length`` it is sent in chunks."""

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


class ClientLostError(Exception):
    """The client's connection must be closed as if it had broken."""


class Feed:
    """The part of a body that the client has not received yet."""

    def __init__(self) -> None:
        self._data: deque[bytes] = deque()
        self._more = anyio.Event()
        self._ended = False
        self._lost = False

    def put(self, data: bytes) -> None:
        """Add a chunk."""
        self._data.append(data)
        self._more.set()

    def end(self, *, lost: bool = False) -> None:
        """End the body; `lost` breaks the connection. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._lost = lost
        self._more.set()

    def abandon(self) -> None:
        """Drop the rest: the client has left."""
        self._data.clear()

    async def get(self) -> bytes:
        """The next chunk, empty at the end.

        Raises:
            ClientLostError: The connection is to be closed here.
        """
        while not self._data and not self._ended:
            self._more = anyio.Event()
            await self._more.wait()
        if self._data:
            return self._data.popleft()
        if self._lost:
            raise ClientLostError
        return b""


@dataclass(slots=True)
class Stream:
    """A response whose body is still being produced.

    Attributes:
        status: Its status.
        headers: Its headers.
        feed: Its body, as it is produced.
        leave: Called when the client no longer reads.
        endless: Whether it only ends when the client leaves.
    """

    status: int
    headers: Headers
    feed: Feed
    leave: Callable[[], None]
    endless: bool = False


def produced(
    produce: Callable[[Feed], Awaitable[None]],
    spawn: Callable[..., object],
    status: int,
    headers: Headers,
    *,
    endless: bool = False,
) -> Stream:
    """A response whose body a function produces in a task, until the client leaves."""
    feed, scope = Feed(), anyio.CancelScope()

    async def run() -> None:
        with scope:
            await produce(feed)

    def leave() -> None:
        feed.abandon()
        scope.cancel()

    spawn(run)
    return Stream(status, headers, feed, leave, endless)


Answered = Response | Stream | None
"""The answer to a request; None closes the connection without a response."""
