"""The stream of a web search: JSON objects without anything between them.

`GET /conversation/{id}/web-search?prompt=…` is answered with one object after the other, each of
them the whole list so far, and the response is never closed [16_web_search]:

    {"messages":[A]}{"messages":[A,B]}{"messages":[A,B,C,{"type":"result","id":"6b00…"}]}

So the result is the end, and what the stream does afterwards says nothing. An error entry comes
before the result and is no failure: the message can be sent all the same.

`WebSearchParser` is fed bytes, in the manner of h11. To find where an object ends it counts
brackets, and skips strings, in which they mean nothing. It looks at each byte once, in whatever
pieces they come: trying to decode after each piece would cost the square of them. All that it
looks for is ASCII, whose bytes are no part of other characters in UTF-8, so characters can be
cut anywhere; objects are decoded whole.
"""

import json
import re
from typing import Any, NoReturn, TypeGuard

from h2o_client.errors import IncompleteStreamError, ProtocolError
from h2o_client.protocol.lines import excerpt
from h2o_client.types import WebSearchEntry

MAX_OBJECT = 1024 * 1024

_OUTSIDE = re.compile(rb'[{}\[\]"]')
_INSIDE = re.compile(rb'["\\]')  # of a string
_SPACE = re.compile(rb"[ \t\r\n]*")


class WebSearchParser:
    """Reads the stream of one web search.

    Args:
        limit: bytes that one object may have.

    Attributes:
        result: the id of the search, once it has come: `web_search_id` for the message.
    """

    __slots__ = ("_buffer", "_depth", "_in_string", "_limit", "_scanned", "_seen", "result")

    def __init__(self, limit: int = MAX_OBJECT) -> None:
        self._limit = limit
        self._buffer = bytearray()  # the object that has not ended
        self._scanned = 0  # bytes of it that were looked at
        self._depth = 0  # brackets that are open there
        self._in_string = False  # whether it is within a string there
        self._seen = 0  # entries that were given out
        self.result: str | None = None

    def feed(self, data: bytes) -> list[WebSearchEntry]:
        """Return the entries that are new with `data`, the result among them.

        What follows the result is ignored. After an error the parser is of no more use.

        Raises:
            ProtocolError: this is no stream of a web search, or an object is over the limit.
        """
        entries: list[WebSearchEntry] = []
        if self.result is not None:
            return entries
        self._buffer += data
        while self.result is None:
            end = self._scan()
            if (end or len(self._buffer)) > self._limit:
                raise ProtocolError(f"an object of the web search is over {self._limit} bytes")
            if not end:
                return entries
            # Cutting off the front of a bytearray does not move the rest each time.
            content = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._scanned = 0
            entries += self._read(content)
        self._buffer.clear()
        return entries

    def finish(self) -> None:
        """Say that the stream has ended.

        Raises:
            IncompleteStreamError: the result had not come.
        """
        if self.result is None:
            raise IncompleteStreamError("the web search ended before its result")

    def _scan(self) -> int:
        """Look at the new bytes; return where the first object ends, 0 if it does not yet."""
        buffer, at = self._buffer, self._scanned
        if not self._depth:
            # Between objects. The separator that there is none of would be white space.
            space = _SPACE.match(buffer)
            del buffer[: space.end() if space else 0]
            if buffer and buffer[0] != ord("{"):
                raise ProtocolError(f"this is no web search: {excerpt(bytes(buffer[:1000]))}")
        while True:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(buffer, at)
            if found is None:
                self._scanned = len(buffer)
                return 0
            at = found.end()
            mark = found[0]
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark == b"\\":
                if at == len(buffer):
                    # What it escapes has not come: begin with the backslash next time.
                    self._scanned = at - 1
                    return 0
                at += 1
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return at

    def _read(self, content: bytes) -> list[WebSearchEntry]:
        """Read one object; return the entries that the objects before it did not have."""
        try:
            value: object = json.loads(content.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise ProtocolError(f"this is no web search: {excerpt(content)}") from None
        messages = value.get("messages") if _is_dict(value) else None
        if not _is_list(messages):
            raise ProtocolError(f"this is no web search: {excerpt(content)}")
        entries: list[WebSearchEntry] = []
        for message in messages[self._seen :]:
            self._seen += 1
            entries.append(self._entry(message))
            if self.result is not None:
                break
        return entries

    def _entry(self, message: object) -> WebSearchEntry:
        if not _is_dict(message):
            raise _error("an entry that is no object")
        kind = message.get("type")
        text = message.get("message")
        args: object = message.get("args")
        if not isinstance(kind, str):
            raise _error("an entry without a type")
        if kind == "result":
            result = message.get("id")
            if not isinstance(result, str) or not result:
                raise _error("a result without an id")
            self.result = result
        # Both are missing in a result, and args in most updates [16_web_search].
        if text is not None and not isinstance(text, str):
            raise _error("an entry whose message is no text")
        if args is not None and not _is_list(args):
            raise _error("an entry whose args are no array")
        return WebSearchEntry(type=kind, message=text or "", args=tuple(args or ()))


def _is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, which are no JSON.
    raise ValueError(name)


def _error(what: str) -> ProtocolError:
    return ProtocolError(f"the web search has {what}")
