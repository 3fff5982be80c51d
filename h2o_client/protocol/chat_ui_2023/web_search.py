"""The stream of a web search: JSON objects without separators.

The server answers `GET /conversation/{id}/web-search?prompt=…` with one object after another, each
with the whole list so far, and never closes the response:

    {"messages":[A]}{"messages":[A,B]}{"messages":[A,B,C,{"type":"result","id":"6b00…"}]}

So the result marks the end, and anything after it is ignored. An error entry comes before the
result and is not a failure: the message can still be sent.

`WebSearchParser` is fed bytes, like h11. An object ends with a `}`, so the parser tries to decode
one whenever a piece with that character has arrived.
"""

# 16_web_search; the sources are from chat-ui 0.6.

import codecs
import json
import re
from typing import TypeGuard

from h2o_client.errors import IncompleteStreamError, ProtocolError
from h2o_client.protocol.address import is_id
from h2o_client.protocol.fields import is_dict
from h2o_client.protocol.lines import excerpt
from h2o_client.protocol.text import load_json
from h2o_client.types import WebSearchEntry, WebSearchSource

MAX_OBJECT = 1024 * 1024
# Characters decoded in total: an object that grows by one `}` at a time takes quadratic time.
_MAX_WORK = 256 * MAX_OBJECT

_SPACE = re.compile(r"[ \t\r\n]*")
_PART_OF_A_WORD = re.compile(r"[-+.\\\w\s]*")  # of a literal, a number or an escape
_raw_decode = json.JSONDecoder().raw_decode


class WebSearchParser:
    """Reads the stream of one web search.

    Args:
        limit: the maximum length of one object, in characters.

    Attributes:
        result: the id of the search, once it has arrived: the `web_search_id` for the message.
    """

    __slots__ = ("_decode", "_limit", "_pieces", "_seen", "_size", "_work", "result")

    def __init__(self, limit: int = MAX_OBJECT) -> None:
        self._limit = limit
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._pieces: list[str] = []  # of an incomplete object
        self._size = 0  # characters in them
        self._work = 0
        self._seen = 0  # entries that were returned
        self.result: str | None = None

    def feed(self, data: bytes) -> list[WebSearchEntry]:
        """Return the entries that are new with `data`, including the result.

        Anything after the result is ignored. Do not use the parser again after an error.

        Raises:
            ProtocolError: this is not the stream of a web search, or an object exceeds the limit.
        """
        if self.result is not None:
            return []
        try:
            new = self._decode(data)
        except ValueError:
            raise _not_a_search(data) from None
        self._pieces.append(new)
        self._size += len(new)
        # At the beginning, the first character distinguishes an HTML page from an object.
        entries = self._read_objects() if "}" in new or self._size == len(new) else []
        if self._size > self._limit:
            raise self._too_long()
        return entries

    def finish(self) -> None:
        """Process the end of the stream.

        Raises:
            IncompleteStreamError: the result had not arrived.
            ProtocolError: the unfinished object at the end is not part of a web search.
        """
        if self.result is None:
            self._read_objects()
            raise IncompleteStreamError("the web search ended before its result")

    def _read_objects(self) -> list[WebSearchEntry]:
        """Read the complete objects, and keep the rest."""
        entries: list[WebSearchEntry] = []
        text = "".join(self._pieces)
        start = _after_space(text, 0)
        while start < len(text) and self.result is None and (end := self._end(text, start)):
            if end - start > self._limit:
                raise self._too_long()
            entries += self._read(text[start:end])
            start = _after_space(text, end)
        rest = text[start:]
        self._pieces, self._size = [rest] if rest else [], len(rest)
        if self.result is not None:
            self._pieces, self._size = [], 0
        return entries

    def _end(self, text: str, start: int) -> int:
        """Return the end of an object, or 0 if it is not complete yet."""
        self._work += len(text) - start
        if text[start] == "{" and self._work <= _MAX_WORK:
            try:
                return _raw_decode(text, start)[1]
            except json.JSONDecodeError as error:
                rest = text[error.pos :]
                if error.msg.startswith("Unterminated") or _PART_OF_A_WORD.fullmatch(rest):
                    return 0
            except RecursionError:
                pass  # it is nested too deeply to come from the service
        raise _not_a_search(text[start:].encode("utf-8", "replace"))

    def _read(self, content: str) -> list[WebSearchEntry]:
        """Read one object; return its entries that are new."""
        try:
            value = load_json(content)
        except (ValueError, RecursionError):
            value = None
        messages = value.get("messages") if is_dict(value) else None
        if not _is_list(messages):
            raise _not_a_search(content.encode())
        entries: list[WebSearchEntry] = []
        for message in messages[self._seen :]:
            self._seen += 1
            entries.append(self._entry(message))
            if self.result is not None:
                break
        return entries

    def _entry(self, message: object) -> WebSearchEntry:
        if not is_dict(message):
            raise _error("an entry that is not an object")
        kind = message.get("type")
        text = message.get("message")
        args: object = message.get("args")
        sources: object = message.get("sources")
        if not isinstance(kind, str):
            raise _error("an entry without a type")
        if kind == "result":
            result = message.get("id")
            if not is_id(result):
                raise _error("a result without a valid id")
            self.result = result
        # All of them are optional: most updates have only a message.
        if text is not None and not isinstance(text, str):
            raise _error("an entry whose message is not text")
        if args is not None and not _is_list(args):
            raise _error("an entry whose args are not an array")
        if sources is not None and not _is_list(sources):
            raise _error("an entry whose sources are not an array")
        return WebSearchEntry(
            type=kind,
            message=text or "",
            args=tuple(args or ()),
            sources=tuple(_source(source) for source in sources or ()),
        )

    def _too_long(self) -> ProtocolError:
        return ProtocolError(f"an object of the web search is longer than {self._limit} characters")


def _source(source: object) -> WebSearchSource:
    values = [source.get(name) if is_dict(source) else 0 for name in ("title", "link", "hostname")]
    title, link, hostname = (value if value is not None else "" for value in values)
    if not (isinstance(title, str) and isinstance(link, str) and isinstance(hostname, str)):
        raise _error("a source whose title, link or hostname is not text")
    return WebSearchSource(title, link, hostname)


def _after_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return start if found is None else found.end()


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _not_a_search(data: bytes) -> ProtocolError:
    return ProtocolError(f"expected the stream of a web search, got {excerpt(data[:1000])}")


def _error(what: str) -> ProtocolError:
    return ProtocolError(f"the web search has {what}")
