"""The answer's stream in the 2023 protocol: `data:` lines in, tokens out.

Each `data:` line is a JSON object and a separate event. The model server
(text-generation-inference) writes the events, and the service forwards them as they arrive. The
rules:

* An answer is complete only if an event had a `generated_text` that is not null; `""` is a
  complete, empty answer. A stream that ended in any other way was cut short, even if HTTP reports a
  proper end.
* The text consists of the texts of the tokens that are not special, verbatim. It is not
  `generated_text`, which can contain the end token's text.
* Two halves of a surrogate pair in successive tokens are one character, which belongs to the second
  token; a half alone becomes U+FFFD. A half at the end of a truncated stream is dropped.
* Anything after the final event is not part of the answer.
* An error does not discard the tokens before it: `feed()` returns them, and sets `error`.

Nearly every event has the same form and arrives in a separate read, and nearly every caller wants
only its text. `_EVENT` matches exactly that form, and finds the text in a quarter of the time that
splitting lines and decoding JSON takes; tokens are made from its matches on request. Anything else
is read by the ordinary path, which defines what an event means.
"""

# 01_happy_path: the form of the events. 05_upstream_empty: a whole, empty answer.
# 05_upstream_truncate_clean: cut short without a sign. 05_upstream_eos_in_text.

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from h2o_client.errors import (
    GenerationError,
    H2oError,
    InvalidRequestError,
    OverloadedError,
    ProtocolError,
)
from h2o_client.protocol.lines import MAX_LINE, LineSplitter, excerpt
from h2o_client.protocol.text import join_halves
from h2o_client.protocol.tokens import shown_texts
from h2o_client.types import Token

MAX_TEXT = 32 * 1024 * 1024  # bytes of the text of one answer: thousands of times the usual length
_MAX_MESSAGE = 500
_BOM = b"\xef\xbb\xbf"
_raw_decode = json.JSONDecoder().raw_decode
_new_token = tuple.__new__  # half the cost of calling `Token`

# A visible token other than the last [01_happy_path]: its id, its text (or its JSON text, if that
# has escapes), its logprob. Possessive quantifiers prevent backtracking.
_EVENT = re.compile(
    rb'data:\{"token":\{"id":(0|[1-9][0-9]{0,9}+),'
    rb'"text":(?:"([^"\\\x00-\x1f]++)"|("(?:[^"\\\x00-\x1f]++|\\[ -~])++")),'
    rb'"logprob":(-?+(?:0|[1-9][0-9]{0,9}+)\.[0-9]{1,30}+(?:e-?+[0-9]{1,3}+)?+),"special":false\},'
    rb'"generated_text":null,"details":null\}\n\n'
)
_one_event, _event_at = _EVENT.fullmatch, _EVENT.match


class Final(NamedTuple):
    """The final event: the answer is complete.

    Attributes:
        token: the last token, which is not special if the answer reached its maximum length.
        details: the model server's details of the answer, if requested: `finish_reason`,
            `generated_tokens`, `seed`; else empty.
    """

    # 05_upstream_details

    token: Token
    details: Mapping[str, Any]

    @property
    def generated_tokens(self) -> int | None:
        """How many tokens the model generated, if details were requested."""
        count = self.details.get("generated_tokens")
        return count if type(count) is int else None

    def finish_reason(self, *, has_stop: bool) -> str | None:
        """Return the server's reason, or infer it from the last token.

        Args:
            has_stop: whether stop sequences were set, one of which may have ended the answer.
        """
        reason = self.details.get("finish_reason")
        if isinstance(reason, str):
            return join_halves(reason)
        if self.token.special:
            return "eos_token"
        return None if has_stop else "length"  # 05_upstream_length


class AnswerParser:
    """Reads the stream of one answer.

    Args:
        limit: the maximum size of a line, in bytes.
        longest: the maximum size of the text, in bytes, so that an endless answer cannot exhaust
            the memory.
        text: the buffer that the text of the answer is appended to.

    Attributes:
        text: the visible text of the answer, in UTF-8: many small strings would take twenty times
            more memory.
        count: how many tokens have arrived.
        ended: whether the answer is final, so that anything more from the server is ignored.
        final: the final event, once it has arrived: the answer is complete.
        error: the error in the stream, once it occurs; parsing stops there.
    """

    __slots__ = (
        "_fresh", "_half", "_latest", "_limit", "_lines", "_longest", "_room", "count", "ended",
        "error", "final", "text",
    )  # fmt: skip
    revised = False
    title = None

    def __init__(
        self, limit: int = MAX_LINE, longest: int = MAX_TEXT, text: bytearray | None = None
    ) -> None:
        self._lines = LineSplitter(limit)
        self._limit = limit
        self._longest = longest
        self._room = 0  # bytes that cannot exceed a limit; 0 within a line
        self._half = ""  # the first half of a character, whose other half may follow
        self._fresh = True
        self._latest: list[re.Match[bytes] | Token] = []  # the tokens of the last bytes
        self.text = bytearray() if text is None else text
        self.count = 0
        self.ended = False
        self.final: Final | None = None
        self.error: H2oError | None = None

    def feed(self, data: bytes) -> list[Token]:
        """Return the tokens whose events end within `data`, including special ones.

        Check `final` and `error` afterwards.
        """
        self.read_on(data)
        return self.tokens()

    def read_on(self, data: bytes) -> list[str]:
        """Take the next bytes and return the texts in them: see `TextParser`."""
        event = _one_event(data)
        if event is None or len(data) > self._room:
            return self._read_on(data)
        # The hot path: nearly every read.
        try:
            text = _text_of(event)
            self.text += event[2] or text.encode()
        except ValueError:  # not UTF-8, or half a character
            return self._read_on(data)
        self._room -= len(data)
        self._latest = [event]
        self.count += 1
        return [text]

    def _read_on(self, data: bytes) -> list[str]:
        """Take bytes that are not exactly one event in the usual form."""
        texts: list[str] = []
        latest: list[re.Match[bytes] | Token] = []
        self._latest = latest
        start, size = 0, len(data)
        if size > self._room:
            # Usually an event was split: read its rest on the ordinary path, the others below.
            end = data.find(b"\n\n")
            start = size if end < 0 else end + 2
            self._others(data[:start], texts)
        if size - start <= self._room:
            self._room -= size - start
            try:
                while start < size and (event := _event_at(data, start)) is not None:
                    text = _text_of(event)
                    self.text += event[2] or text.encode()
                    texts.append(text)
                    latest.append(event)
                    self.count += 1
                    start = event.end()
            except ValueError:
                self._room = 0  # the ordinary path reports what is wrong
        if start < size:
            self._others(data[start:], texts)
        return [] if self.ended else texts

    def tokens(self) -> list[Token]:
        """Return the tokens of the last bytes, once: see `TextParser`."""
        latest, self._latest = self._latest, []
        return [event if isinstance(event, Token) else _token_of(event) for event in latest]

    def _others(self, data: bytes, texts: list[str]) -> None:
        """Read events in any form."""
        if self.ended:
            return
        tokens: list[Token] = []
        try:
            for line in self._lines.feed(data):
                if line and self._line(line, tokens):
                    break
            else:
                if self._lines.overlong:
                    raise ProtocolError(f"a line of the answer is longer than {self._limit} bytes")
        except H2oError as error:
            self.error = error
            self.ended = True
        self._latest += tokens
        texts += shown_texts(tokens)
        self._room = 0
        if self._lines.between and not (self.ended or self._fresh or self._half):
            self._room = min(self._limit, self._longest - len(self.text))

    def finish(self) -> list[Token]:
        """Process the end of the stream; return the tokens of an unterminated last line.

        The answer is complete if `final` is set now.
        """
        self._latest = []
        if self.ended:
            return []
        tokens: list[Token] = []
        rest = self._lines.finish()
        try:
            if rest:
                self._line(rest, tokens)
        except ProtocolError:
            # A stream that was cut can end in the middle of a line [05_upstream_truncate_midline]:
            # that is not a protocol error, and the missing final event reports it.
            return tokens
        except H2oError as error:
            self.error = error
            self.ended = True
        return tokens

    def mute(self) -> None:
        """Do nothing: the server stores everything it has of a stopped answer."""

    def _line(self, line: bytes, tokens: list[Token]) -> bool:
        """Read one line; return whether it was the final event."""
        if self._fresh:
            self._fresh = False
            line = line.removeprefix(_BOM)
        if not line.startswith(b"data:"):
            return False  # a comment [05_upstream_keepalive], or a field that is not used here
        try:
            text = line[5:].strip().decode()
            event, end = _raw_decode(text)
        except (ValueError, RecursionError):
            raise _malformed(line, "a line of the answer is not JSON") from None
        if end != len(text):
            raise _malformed(line, "a line of the answer contains more than one JSON value")
        # `type(…) is` costs less than isinstance(), and JSON values are never of a subclass.
        if type(event) is not dict:
            raise _malformed(line, "an event of the answer is not a JSON object")
        data = event.get("token")
        if type(data) is not dict:
            raise self._no_token(event, line)
        number, shown = data.get("id"), data.get("text")
        logprob, special = data.get("logprob"), data.get("special", False)
        if (
            type(number) is not int
            or type(shown) is not str
            or (type(logprob) is not float and logprob is not None and type(logprob) is not int)
            or type(special) is not bool
        ):
            raise _malformed(line, "a token of the answer does not have the expected shape")
        generated = event.get("generated_text")
        if generated is not None and type(generated) is not str:
            raise _malformed(line, "the answer's `generated_text` is not text")
        last = generated is not None
        if not special:
            shown = self._whole_characters(shown, last)
        else:
            shown = join_halves(shown)
            if last and self._half:
                self._add(Token(None, join_halves(self._half)), tokens)
        token = Token(number, shown, logprob, special)
        self._add(token, tokens)
        self.count += 1
        if last:
            details = event.get("details")
            self.final = Final(token, details if type(details) is dict else {})
            self.ended = True
        return last

    def _whole_characters(self, text: str, last: bool) -> str:
        """Return the complete characters so far, and keep half a surrogate pair at the end."""
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" and not last else ""
        return join_halves(text.removesuffix(self._half))

    def _add(self, token: Token, tokens: list[Token]) -> None:
        raw = b"" if token.special else token.text.encode()
        if len(self.text) + len(raw) > self._longest:
            raise ProtocolError("the answer is longer than any model's answer can be")
        tokens.append(token)
        self.text += raw

    def _no_token(self, event: dict[str, Any], line: bytes) -> H2oError:
        error = event.get("error")
        if error is None:
            return _malformed(line, "an event of the answer has neither a token nor an error")
        kind = event.get("error_type")
        kind = kind if isinstance(kind, str) else ""
        text = join_halves(error[:_MAX_MESSAGE]) if isinstance(error, str) else excerpt(line)
        return model_error(text, kind)


def _token_of(event: re.Match[bytes]) -> Token:
    """Return the token of an event that `_EVENT` has matched."""
    return _new_token(Token, (int(event[1]), _text_of(event), float(event[4]), False))


def _text_of(event: re.Match[bytes]) -> str:
    """Return the text of an event that `_EVENT` has matched."""
    if (plain := event[2]) is not None:
        return plain.decode()
    text: str = _raw_decode(event[3].decode())[0]
    return text


def model_error(message: str, kind: str) -> H2oError:
    """Make the error that a model server reported inside an answer, as if by a status."""
    advice = {
        "validation": "change the prompt or the parameters",
        "overloaded": "it has too many requests; try again later",
        "generation": "it failed while generating; try again",
        "incomplete_generation": "it stopped before the end; try again",
    }.get(kind, "the answer is not complete; try again")
    text = f"the model server reported an error: {message} ({advice})"
    if kind == "overloaded":
        return OverloadedError(text, status=200, message=message)
    if kind == "validation":
        return InvalidRequestError(text, status=200, message=message)
    return GenerationError(text, error_type=kind)


def _malformed(line: bytes, what: str) -> ProtocolError:
    return ProtocolError(f"{what}: {excerpt(line)}")
