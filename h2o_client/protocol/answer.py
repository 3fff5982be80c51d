"""Reads the stream of an answer: the part that all dialects share.

Nearly every event has the same form and arrives in a separate read, and nearly every caller wants
only its text. A pattern of the dialect matches exactly that form, and finds the text in a quarter
of the time that splitting lines and decoding JSON takes; tokens are made from its matches on
request. Anything else is read line by line by the dialect, which defines what an event means.

Two rules apply to all dialects:

* The size of a line and the size of the whole text are limited, so that no server can exhaust the
  memory.
* An error does not discard the tokens before it: `feed()` returns them, and sets `error`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from h2o_client.errors import H2oError, ProtocolError
from h2o_client.protocol.lines import LineSplitter
from h2o_client.protocol.text import join_halves
from h2o_client.types import Token

MAX_TEXT = 32 * 1024 * 1024  # bytes of the text of one answer: thousands of times the usual length
raw_decode = json.JSONDecoder().raw_decode


class Final(Protocol):
    """The final event: the answer is complete."""

    @property
    def generated_tokens(self) -> int | None:
        """How many tokens the model generated, if the server says so."""
        ...

    def finish_reason(self, *, has_stop: bool) -> str | None:
        """Why the answer ended, or None if unknown.

        Args:
            has_stop: whether stop sequences were set, one of which may have ended the answer.
        """
        ...


class AnswerParser(ABC):
    """Reads the stream of one answer from the bytes that it is fed.

    Args:
        text: the buffer that the text of the answer is appended to.
        limit: the maximum size of a line, in bytes.
        longest: the maximum size of the text, in bytes.
        fast: whether events may have the usual form. A dialect may change this later.

    Attributes:
        text: the visible text of the answer, in UTF-8: many small strings would take twenty times
            more memory.
        count: how many tokens have arrived.
        ended: whether the answer is final, so that no more text follows.
        final: the final event, once the answer is known to be complete.
        error: the error in the stream, once it occurs; parsing stops there.
        revised: whether some texts returned earlier are not part of the answer.
        title: the title of the conversation, once it has arrived.
    """

    __slots__ = (
        "_event_at", "_fast", "_half", "_latest", "_limit", "_lines", "_longest", "_one_event",
        "_room", "_texts", "count", "ended", "error", "final", "revised", "text", "title",
    )  # fmt: skip

    USUAL: ClassVar[re.Pattern[bytes]]
    """A token in the usual form: a visible one that is not the last."""
    PLAIN: ClassVar[int]
    """The group of `USUAL` with a text without escapes; the next group has one with escapes."""
    END: ClassVar[bytes]
    """The end of an event."""

    def __init__(self, text: bytearray, *, limit: int, longest: int = MAX_TEXT, fast: bool) -> None:
        self._one_event: Callable[[bytes], re.Match[bytes] | None] = self.USUAL.fullmatch
        self._event_at: Callable[[bytes, int], re.Match[bytes] | None] = self.USUAL.match
        self._lines = LineSplitter(limit)
        self._limit = limit
        self._longest = longest
        self._fast = fast
        # Bytes of such events that cannot exceed a limit; 0 within a line:
        self._room = min(limit, longest - len(text)) if fast else 0
        self._half = ""  # the first half of a character, whose other half may follow
        self._latest: list[re.Match[bytes] | Token] = []  # the tokens of the last bytes
        self._texts: list[str] = []  # their visible texts, for `_read_on()`
        self.text = text
        self.count = 0
        self.ended = False
        self.final: Final | None = None
        self.error: H2oError | None = None
        self.revised = False
        self.title: str | None = None

    def feed(self, data: bytes) -> list[Token]:
        """Return the tokens whose events end within `data`, including special ones.

        Check `final` and `error` afterwards.
        """
        self.read_on(data)
        return self.tokens()

    def read_on(self, data: bytes) -> list[str]:
        """Take the next bytes, or b"" at the end, and return the texts in them.

        Returns:
            The texts to give to the caller; if empty, the flow must continue.
        """
        event = self._one_event(data)
        room = self._room - len(data)
        if event is None or room < 0:
            return self._read_on(data)
        # The hot path: nearly every read.
        raw = event[self.PLAIN]
        try:
            text = self._text_of(event) if raw is None else raw.decode()
            self.text += raw or text.encode()
        except ValueError:  # not UTF-8, or half a character
            return self._read_on(data)
        self._room = room
        self._latest = [event]
        self.count += 1
        return [text]

    def tokens(self) -> list[Token]:
        """Return the tokens of the last bytes, including special ones. Call it only once."""
        latest, self._latest = self._latest, []
        return [event if isinstance(event, Token) else self._token_of(event) for event in latest]

    def finish(self) -> list[Token]:
        """Process the end of the stream; return the tokens of an unterminated last line.

        The answer is complete if `final` is set now.
        """
        self._latest, self._texts = [], []
        rest = self._lines.finish()
        try:
            if rest and self.error is None:
                self._line(rest)
        except ProtocolError:
            # A stream that was cut can end in the middle of a line [05_upstream_truncate_midline]:
            # that is not a protocol error, and the missing final event reports it.
            pass
        except H2oError as error:
            self._fail(error)
        return self.tokens()

    @abstractmethod
    def mute(self) -> None:
        """Stop parsing, if the server truncates a stopped answer to what was received."""

    @abstractmethod
    def _line(self, line: bytes) -> None:
        """Read one line in any form; it is not empty.

        Raises:
            H2oError: it reports an error, or is invalid.
        """

    @abstractmethod
    def _token_of(self, event: re.Match[bytes]) -> Token:
        """Return the token of an event in the usual form."""

    def _text_of(self, event: re.Match[bytes]) -> str:
        """Return the text of an event in the usual form."""
        plain = event[self.PLAIN]
        if plain is not None:
            return plain.decode()
        text: str = raw_decode(f'"{event[self.PLAIN + 1].decode()}"')[0]
        return text

    def _read_on(self, data: bytes) -> list[str]:
        """Take bytes that are not exactly one event in the usual form."""
        self._latest, self._texts = [], []
        start, size = 0, len(data)
        try:
            while start < size and self.error is None:
                start = self._usual(data, start)
                if start < size:
                    at = data.find(self.END, start)
                    end = size if at < 0 else at + len(self.END)
                    self._other(data[start:end])
                    start = end
        except H2oError as error:
            self._fail(error)
        return [] if self.ended else self._texts

    def _usual(self, data: bytes, start: int) -> int:
        """Read events in the usual form, and return where they end."""
        room = self._room
        if not room:
            return start
        find, plain = self._event_at, self.PLAIN
        latest, texts, before = self._latest, self._texts, len(self._texts)
        while (event := find(data, start)) is not None:
            end = event.end()
            raw = event[plain]
            try:
                text = self._text_of(event) if raw is None else raw.decode()
                raw = raw or text.encode()
            except ValueError:
                break  # the dialect reports what is wrong
            room -= end - start
            if room < 0:
                break
            self.text += raw
            texts.append(text)
            latest.append(event)
            self._room = room
            start = end
        self.count += len(texts) - before
        return start

    def _other(self, data: bytes) -> None:
        """Read lines, or a part of one, in any form."""
        for line in self._lines.feed(data):
            if line:
                self._line(line)
        if self._lines.overlong and not self.ended:
            raise ProtocolError(f"a line of the answer is longer than {self._limit} bytes")
        self._room = 0
        if self._fast and self._lines.between and not (self.ended or self._half):
            self._room = min(self._limit, self._longest - len(self.text))

    def _whole_characters(self, text: str, *, last: bool = False) -> str:
        """Return the complete characters so far, and keep half a surrogate pair at the end."""
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" and not last else ""
        return join_halves(text.removesuffix(self._half))

    def _add(self, token: Token) -> None:
        raw = b"" if token.special else token.text.encode()
        if len(self.text) + len(raw) > self._longest:
            raise ProtocolError("the answer is longer than any model's answer can be")
        self._latest.append(token)
        if raw:
            self.text += raw
            self._texts.append(token.text)

    def _fail(self, error: H2oError) -> None:
        self._room = 0
        self.final = None
        self.error = error
        self.ended = True
