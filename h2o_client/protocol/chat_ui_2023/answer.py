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
"""

# 01_happy_path: the form of the events. 05_upstream_empty: a whole, empty answer.
# 05_upstream_truncate_clean: cut short without a sign. 05_upstream_eos_in_text.

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
from h2o_client.protocol.answer import MAX_TEXT, raw_decode
from h2o_client.protocol.answer import AnswerParser as AnyAnswerParser
from h2o_client.protocol.lines import MAX_LINE, excerpt
from h2o_client.protocol.text import join_halves
from h2o_client.types import Token

_MAX_MESSAGE = 500
_BOM = b"\xef\xbb\xbf"
_new_token = tuple.__new__  # half the cost of calling `Token`

# A visible token other than the last [01_happy_path]: its id, its text (or its JSON text, if that
# has escapes), its logprob. Possessive quantifiers prevent backtracking.
_USUAL = re.compile(
    rb'data:\{"token":\{"id":(0|[1-9][0-9]{0,9}+),'
    rb'"text":"(?:([^"\\\x00-\x1f]++)"|((?:[^"\\\x00-\x1f]++|\\[ -~])++)"),'
    rb'"logprob":(-?+(?:0|[1-9][0-9]{0,9}+)\.[0-9]{1,30}+(?:e-?+[0-9]{1,3}+)?+),"special":false\},'
    rb'"generated_text":null,"details":null\}\n\n'
)


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


class AnswerParser(AnyAnswerParser):
    """Reads the stream of one answer.

    Args:
        limit: the maximum size of a line, in bytes.
        longest: the maximum size of the text, in bytes.
        text: the buffer that the text of the answer is appended to.
    """

    __slots__ = ()
    USUAL = _USUAL
    PLAIN = 2
    END = b"\n\n"

    def __init__(
        self, limit: int = MAX_LINE, longest: int = MAX_TEXT, text: bytearray | None = None
    ) -> None:
        buffer = bytearray() if text is None else text
        # Not before the first line, which may begin with a byte order mark:
        super().__init__(buffer, limit=limit, longest=longest, fast=False)

    def mute(self) -> None:
        """Do nothing: the server stores everything it has of a stopped answer."""

    def _line(self, line: bytes) -> None:
        if self.ended:
            return
        if not self._fast:  # the first line
            self._fast = True
            line = line.removeprefix(_BOM)
        if not line.startswith(b"data:"):
            return  # a comment [05_upstream_keepalive], or a field that is not used here
        try:
            text = line[5:].strip().decode()
            event, end = raw_decode(text)
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
            shown = self._whole_characters(shown, last=last)
        else:
            shown = join_halves(shown)
            if last and self._half:
                self._add(Token(None, join_halves(self._half)))
        token = Token(number, shown, logprob, special)
        self._add(token)
        self.count += 1
        if last:
            details = event.get("details")
            self.final = Final(token, details if type(details) is dict else {})
            self.ended = True

    def _token_of(self, event: re.Match[bytes]) -> Token:
        return _new_token(Token, (int(event[1]), self._text_of(event), float(event[4]), False))

    def _no_token(self, event: dict[str, Any], line: bytes) -> H2oError:
        error = event.get("error")
        if error is None:
            return _malformed(line, "an event of the answer has neither a token nor an error")
        kind = event.get("error_type")
        kind = kind if isinstance(kind, str) else ""
        text = join_halves(error[:_MAX_MESSAGE]) if isinstance(error, str) else excerpt(line)
        return model_error(text, kind)


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
