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

import re
from typing import Any, NamedTuple, cast

from h2o_client.errors import GenerationError, H2oError, ProtocolError
from h2o_client.protocol.answer import MAX_TEXT, raw_decode
from h2o_client.protocol.answer import AnswerParser as AnyAnswerParser
from h2o_client.protocol.lines import excerpt
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.replies import status_error
from h2o_client.protocol.text import join_halves, load_json
from h2o_client.types import Event, Revision, Token

_MAX_MESSAGE = 500
_KEEP_ALIVE = b'{"type":"status","status":"keepAlive"}'

# A token in the usual form, without its padding: its text, or its JSON text, if that has escapes.
_USUAL = re.compile(
    rb'\{"type":"stream","token":"(?:([^"\\\x00-\x1f]++)'
    rb'|((?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4})++))'
    rb'(?:\\u0000)*+"\}\n'
)


class Final(NamedTuple):
    """The final event: the answer is complete."""

    generated_tokens: None = None

    def finish_reason(self, *, has_stop: bool) -> str | None:  # noqa: ARG002 -- for other dialects
        """Return None: the server reports a normal end and a length limit in the same way."""
        return None  # 07_upstream_length


class AnswerParser(AnyAnswerParser):
    """Reads the stream of one answer.

    Args:
        text: the buffer that the text of the answer is appended to, in UTF-8.
        reattached: whether the stream is read again; `text` has already been received.
    """

    __slots__ = ("_empty", "_muted", "_reattached", "_skip")
    USUAL = _USUAL
    PLAIN = 1
    END = b"\n"

    def __init__(self, text: bytearray, *, reattached: bool = False) -> None:
        # One line contains the whole answer.
        super().__init__(text, limit=MAX_TEXT, fast=not reattached)
        self._reattached = reattached
        self._skip = len(text) if reattached else 0
        self._muted = False
        self._empty = False  # the answer is empty, and the stream has not finished

    def mute(self) -> None:
        """Stop parsing: the server truncates a stopped answer to what was received."""
        self._muted, self._room = True, 0

    def _read_on(self, data: bytes) -> list[str]:
        return super()._read_on(b"" if self._muted else data)

    def _line(self, line: bytes) -> None:
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
            event, end = raw_decode(text)
        except (ValueError, RecursionError):
            raise _malformed(line, "a line of the answer is not JSON") from None
        if end != len(text) or type(event) is not dict:
            raise _malformed(line, "a line of the answer is not a JSON object")
        kind = event.get("type")
        if kind == "stream" and type(token := event.get("token")) is str:
            if not self.ended:
                self._token(token if self._reattached else token.rstrip("\0"))
        elif kind == "finalAnswer" and type(answer := event.get("text")) is str:
            self._final(join_halves(answer), event.get("interrupted"))
        elif kind == "title" and type(title := event.get("title")) is str:
            self.title = join_halves(title).strip()
        elif kind == "status":
            self._status(event)
        elif kind in ("stream", "finalAnswer", "title"):
            raise _malformed(line, f"a {kind} event of the answer does not have the expected shape")
        elif kind is not None:  # it is None in the last event of a reattached stream
            self._latest.append(Event(_load_object(text)))

    def _token(self, token: str) -> None:
        raw = self._whole_characters(token).encode()
        self.count += 1
        if self._skip:
            raw, self._skip = raw[self._skip :], max(0, self._skip - len(raw))
        if raw:
            self._add(Token(None, raw.decode("utf-8", "replace")))

    def _token_of(self, event: re.Match[bytes]) -> Token:
        return Token(None, self._text_of(event))

    def _final(self, answer: str, interrupted: object) -> None:
        """Take the server's text of the answer."""
        if interrupted is not False:
            raise GenerationError(
                "another client stopped the answer (try again)", error_type="interrupted"
            )
        given = self.text.decode()
        if answer.startswith(given):
            if missing := answer[len(given) :]:
                self._add(Token(None, missing))
        elif answer != given.rstrip(JS_SPACE):
            self.revised = True
            self._latest.append(Revision(answer))
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
            if self._empty and self.error is None:
                self.final = Final()


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
