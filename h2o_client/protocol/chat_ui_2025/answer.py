"""The answer's stream in the 2025 protocol: JSON lines in, tokens out.

Each line is a JSON object with a `type`. The rules:

* An answer is complete if `finalAnswer` arrived with `interrupted` false and without an error after
  it. An empty answer is only known to be complete when the stream has finished, as the error comes
  last.
* The text of `finalAnswer` is the answer, without trailing white space. The streamed text is a
  preview: if the model server fails midway, the server asks it again within the same stream, and
  the tokens of the second attempt follow those of the first. The caller then gets the whole answer
  again, as a `Revision`.
* Tokens are padded with NUL to 16 UTF-16 units; the padding is removed. Two halves of a surrogate
  pair in successive tokens are one character.
* 4,096 spaces follow `finalAnswer`, so the next line begins with them.
* Each line of an unknown type becomes an `Event`.

A stream that is read again (`reattached`) repeats the same events from the beginning, as
server-sent events without padding: the text that the caller already has is dropped.
"""

# 01_happy_path: the form of the events. 07_upstream_cut_once_1: generated again midway.
# 07_upstream_unicode: padding and halves. 06_disconnect: the reattached stream.

import json
import re
from typing import Any, NamedTuple, cast

from h2o_client.errors import GenerationError, H2oError, ProtocolError
from h2o_client.protocol.lines import LineSplitter, excerpt
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.replies import status_error
from h2o_client.protocol.text import join_halves, load_json
from h2o_client.protocol.tokens import shown_texts
from h2o_client.types import Event, Revision, Token

MAX_TEXT = 32 * 1024 * 1024  # bytes of the text of one answer
_MAX_MESSAGE = 500
_raw_decode = json.JSONDecoder().raw_decode
_KEEP_ALIVE = b'{"type":"status","status":"keepAlive"}'

# A token in the usual form, without its padding: its text, or its JSON text, if that has escapes.
_EVENT = re.compile(
    rb'\{"type":"stream","token":"(?:([^"\\\x00-\x1f]++)'
    rb'|((?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4})++))'
    rb'(?:\\u0000)*+"\}\n'
)
_one_event, _event_at = _EVENT.fullmatch, _EVENT.match


class Final(NamedTuple):
    """The final event: the answer is complete."""

    generated_tokens: None = None

    def finish_reason(self, *, has_stop: bool) -> str | None:  # noqa: ARG002 -- for other dialects
        """Return None: the server reports a normal end and a length limit in the same way."""
        return None  # 07_upstream_length


class AnswerParser:
    """Reads the stream of one answer.

    Args:
        text: the buffer that the text of the answer is appended to, in UTF-8.
        reattached: whether the stream is read again; `text` has already been received.

    Attributes:
        text: the visible text of the answer.
        count: how many tokens have arrived.
        ended: whether the answer is final, so that anything more from the server is ignored.
        final: the final event, once the answer is known to be complete.
        error: the error in the stream, once it occurs.
        revised: whether some texts returned earlier are not part of the answer.
        title: the title of the conversation, once it has arrived.
    """

    __slots__ = (
        "_between", "_empty", "_half", "_latest", "_lines", "_muted", "_reattached", "_skip",
        "count", "ended", "error", "final", "revised", "text", "title",
    )  # fmt: skip

    def __init__(self, text: bytearray, *, reattached: bool = False) -> None:
        self._lines = LineSplitter(MAX_TEXT)  # one line contains the whole answer
        self._between = not reattached  # whether an event in the usual form may come next
        self._reattached = reattached
        self._skip = len(text) if reattached else 0
        self._muted = False
        self._half = ""  # the first half of a character, whose other half may follow
        self._empty = False  # the answer is empty, and the stream has not finished
        self._latest: list[re.Match[bytes] | Token] = []
        self.text = text
        self.count = 0
        self.ended = False
        self.final: Final | None = None
        self.error: H2oError | None = None
        self.revised = False
        self.title: str | None = None

    def feed(self, data: bytes) -> list[Token]:
        """Return the tokens whose events end within `data`; then check `final` and `error`."""
        self.read_on(data)
        return self.tokens()

    def read_on(self, data: bytes) -> list[str]:
        """Take the next bytes and return the texts in them: see `TextParser`."""
        event = _one_event(data) if self._between else None
        if event is None:
            return self._read_on(data)
        # The hot path: nearly every read.
        try:
            text = _text_of(event)
        except ValueError:  # not UTF-8
            return self._read_on(data)
        self._latest = [event]
        self.count += 1
        self.text += event[1] or text.encode()
        return [text]

    def _read_on(self, data: bytes) -> list[str]:
        """Take bytes that are not exactly one event in the usual form."""
        texts: list[str] = []
        latest = self._latest = []
        start, size = 0, 0 if self._muted else len(data)
        try:
            if len(self.text) > MAX_TEXT:
                raise ProtocolError("the answer is longer than any model's answer can be")
            while start < size and self.error is None:
                if self._between:
                    start = self._usual(data, start, latest, texts)
                if start < size:
                    end = data.find(b"\n", start) + 1 or size
                    self._other(data[start:end], latest, texts)
                    start = end
        except H2oError as error:
            self._fail(error)
        return [] if self.ended else texts

    def _usual(self, data: bytes, start: int, latest: list[Any], texts: list[str]) -> int:
        """Read events in the usual form, and return where they end."""
        while (event := _event_at(data, start)) is not None:
            try:
                text = _text_of(event)
            except ValueError:
                break  # the ordinary path reports invalid UTF-8
            texts.append(text)
            self.text += event[1] or text.encode()
            latest.append(event)
            self.count += 1
            start = event.end()
        return start

    def tokens(self) -> list[Token]:
        """Return the tokens of the last bytes, once: see `TextParser`."""
        latest, self._latest = self._latest, []
        return [
            event if isinstance(event, Token) else Token(None, _text_of(event)) for event in latest
        ]

    def finish(self) -> list[Token]:
        """Process the end of the stream; return the tokens of an unterminated last line."""
        tokens: list[Token] = []
        rest = self._lines.finish()
        try:
            if rest and self.error is None:
                self._line(rest, tokens)
        except ProtocolError:
            return tokens  # a stream that was cut can end in the middle of a line
        except H2oError as error:
            self._fail(error)
        return tokens

    def mute(self) -> None:
        """Stop parsing: the server truncates a stopped answer to what was received."""
        self._muted, self._between = True, False

    def _fail(self, error: H2oError) -> None:
        self.final, self._empty = None, False
        self.error = error
        self.ended = True

    def _other(self, data: bytes, latest: list[Any], texts: list[str]) -> None:
        """Read a line, or a part of one, in any form."""
        tokens: list[Token] = []
        for line in self._lines.feed(data):
            self._line(line, tokens)
        if self._lines.overlong:
            raise ProtocolError(f"a line of the answer is longer than {MAX_TEXT} bytes")
        latest += tokens
        texts += shown_texts(tokens)
        self._between = self._lines.between and not (
            self.ended or self._half or self._reattached or self._muted
        )

    def _line(self, line: bytes, tokens: list[Token]) -> None:
        """Read one line."""
        line = line.strip()
        if self._reattached:
            # Comments are heartbeats, and ids are just numbers: skip both.
            if not line.startswith(b"data:"):
                return
            line = line[5:].strip()
        if not line or line == _KEEP_ALIVE:
            return
        try:
            text = line.decode()
            event, end = _raw_decode(text)
        except (ValueError, RecursionError):
            raise _malformed(line, "a line of the answer is not JSON") from None
        if end != len(text) or type(event) is not dict:
            raise _malformed(line, "a line of the answer is not a JSON object")
        kind = event.get("type")
        if kind == "stream" and type(token := event.get("token")) is str:
            if not self.ended:
                self._token(token if self._reattached else token.rstrip("\0"), tokens)
        elif kind == "finalAnswer" and type(answer := event.get("text")) is str:
            self._final(join_halves(answer), event.get("interrupted"), tokens)
        elif kind == "title" and type(title := event.get("title")) is str:
            self.title = join_halves(title).strip()
        elif kind == "status":
            self._status(event)
        elif kind in ("stream", "finalAnswer", "title"):
            raise _malformed(line, f"a {kind} event of the answer does not have the expected shape")
        elif kind is not None:  # it is None in the last event of a reattached stream
            tokens.append(Event(_load_object(text)))

    def _token(self, token: str, tokens: list[Token]) -> None:
        token = self._half + token
        self._half = token[-1:] if "\ud800" <= token[-1:] <= "\udbff" else ""
        raw = join_halves(token.removesuffix(self._half)).encode()
        self.count += 1
        if self._skip:
            raw, self._skip = raw[self._skip :], max(0, self._skip - len(raw))
        if raw:
            self._add(raw.decode("utf-8", "replace"), tokens)

    def _add(self, text: str, tokens: list[Token]) -> None:
        tokens.append(Token(None, text))
        self.text += text.encode()

    def _final(self, answer: str, interrupted: object, tokens: list[Token]) -> None:
        """Take the server's text of the answer."""
        if interrupted is not False:
            raise GenerationError(
                "another client stopped the answer (try again)", error_type="interrupted"
            )
        given = self.text.decode()
        if answer.startswith(given):
            if missing := answer[len(given) :]:
                self._add(missing, tokens)
        elif answer != given.rstrip(JS_SPACE):
            self.revised = True
            tokens.append(Revision(answer))
        self.text[:] = answer.encode()
        self.ended = True
        # 07_upstream_empty: for an empty answer, or one of white space alone, an error follows.
        if answer:
            self.final = Final()
        else:
            self._empty = True

    def _status(self, event: dict[str, Any]) -> None:
        status = event.get("status")
        if status == "error":
            self._fail(_model_error(event.get("message"), event.get("statusCode")))
        elif status == "finished":
            self.ended = True
            if self._empty:
                self.final = Final()


def _text_of(event: re.Match[bytes]) -> str:
    """Return the text of an event that `_EVENT` has matched."""
    if (plain := event[1]) is not None:
        return plain.decode()
    text: str = _raw_decode(f'"{event[2].decode()}"')[0]
    return text


def _load_object(text: str) -> dict[str, Any]:
    """Return a JSON object whose strings can all be encoded as UTF-8."""
    return cast("dict[str, Any]", load_json(text))


def _model_error(message: object, status: object) -> H2oError:
    """Make the error for a failure of the model server."""
    words = join_halves(message[:_MAX_MESSAGE]) if isinstance(message, str) else "it gave no reason"
    if isinstance(status, int) and status in (429, 503):
        return status_error(status, f"the model server: {words}")
    return GenerationError(
        f"the model server failed: {words} (the server has already retried; wait, or choose "
        "another model)",
        error_type="generation",
    )


def _malformed(line: bytes, what: str) -> ProtocolError:
    return ProtocolError(f"{what}: {excerpt(line)}")
