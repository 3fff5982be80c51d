"""The answers and faults that a test can prepare.

An `Answer` scripts the *model server*: its text, its pace, how its stream ends, and where the
connection to the client breaks. A `Fault` scripts a problem *before* the service: an unexpected
status, a delay, a connection that closes. Both are used in order, each by one request; after that,
the emulator behaves like the real server.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Ending = Literal["eos", "length", "eos_in_text", "clean", "cut", "midline", "error", "down"]

KINDS = {
    "*", "settings", "create", "message", "delete", "stop", "data", "root", "summarize", "rename",
    "share", "vote", "prompt", "search", "delete_all", "shared", "flags", "models", "list",
    "reattach", "import", "file", "user", "other",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model server.

    Attributes:
        text: The answer; a string is split before its spaces, a sequence holds the tokens.
        tokens: The tokens, as an alternative to `text`.
        ending: How it ends. ``eos``: a special end token carries `generated_text`;
            ``length``: the last ordinary token does; ``eos_in_text``: like ``eos``, with the end
            token's text in it; ``clean``: the stream ends without a final event; ``cut``: the
            same, and without the last HTTP chunk; ``midline``: the same, in the middle of a line;
            ``error``: an error event; ``down``: the model server cannot be reached (after `first`
            seconds). Only the first three are stored.
        error: The text of the error event.
        error_type: Its type: validation, generation, overloaded or incomplete_generation.
        generated_text: The text in the final event, if it differs from the joined tokens.
        finish_reason: The reason in the `details`, if requested; the default depends on `ending`.
        pace: Seconds between tokens; None for the emulator's.
        first: Seconds before the first token; the response's headers wait for it too.
        hold_after: Tokens after which generation is held until `Emulator.release()`, or
            until a stop is noticed; the next token is then sent, as the real server notices a stop
            only with a token. If it equals the number of tokens, the end is held.
        drop_after: Tokens after which the *client's* connection is lost; generation continues and
            is stored. 0 closes it before any header.
        drop_after_bytes: The same, as a number of bytes of the body.
        split: Bytes per chunk, so that events are split anywhere.
        join: Events per chunk.
        comments: Token positions before which a comment line is sent.
        raw: The body, verbatim, instead of events; see also `split`.
        status: The model server's status; if it is not 200, it is forwarded with its body.
        body: The body of such an error, or of a 200 that is not a stream; text, bytes or JSON.
        content_type: Its type.
        headers: More headers of the model server, which are forwarded.
        store_delay: Seconds from the end of the response until the turn is stored; None for the
            emulator's. 0 stores it before the final event is sent. A 2025 server keeps the
            response open until then.
        again: The answer to the second request for the same message, which 2025 servers send if
            the model server rejects the first or breaks off; None for the same answer.
        hold_title: Whether the title of a new conversation is held until `Emulator.release()`;
            a 2025 server keeps the response open for it.
    """

    # 05_upstream_length, 05_upstream_silent, 28, 17, 05_upstream_split, 05_upstream_keepalive,
    # 05_upstream_gzip_header, 24_race_after_stream

    text: str | Sequence[str] = ""
    tokens: Sequence[str] | None = None
    ending: Ending = "eos"
    error: str = "Request failed during generation: Server error: CUDA out of memory."
    error_type: str = "generation"
    generated_text: str | None = None
    finish_reason: str | None = None
    pace: float | None = None
    first: float = 0.0
    hold_after: int | None = None
    drop_after: int | None = None
    drop_after_bytes: int | None = None
    split: int | None = None
    join: int = 1
    comments: Sequence[int] = ()
    raw: bytes | None = None
    status: int = 200
    body: str | bytes | Mapping[str, Any] | None = None
    content_type: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    store_delay: float | None = None
    again: Answer | str | None = None
    hold_title: bool = False

    @classmethod
    def of(cls, answer: Answer | str | Sequence[str]) -> Answer:
        """Create an answer from a string or a list of tokens."""
        return answer if isinstance(answer, Answer) else cls(answer)

    def words(self) -> tuple[str, ...]:
        """The tokens."""
        if self.tokens is not None:
            return tuple(self.tokens)
        return split_words(self.text) if isinstance(self.text, str) else tuple(self.text)


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem with one request, instead of or before its proper answer.

    Attributes:
        status: The status; None to send the proper answer (see `delay`).
        body: The body; None for the real server's message for that status.
        content_type: Its type; None to derive it from the body.
        headers: More headers, such as ``Retry-After``.
        delay: Seconds before anything else happens.
        processed: Whether the request takes effect first.
        disconnect: The connection closes without any response.
        hang: The request is not answered until the client leaves or the emulator closes.
    """

    status: int | None = None
    body: str | bytes | Mapping[str, Any] | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    processed: bool = False
    disconnect: bool = False
    hang: bool = False


@dataclass(frozen=True, slots=True)
class WebSearch:
    """A successful web search. Its form follows the server's source, as no capture has one.

    Attributes:
        summary: The text to put before the prompt.
        query: The search query; None to ask the engine.
        links: The results' addresses.
    """

    summary: str
    query: str | None = None
    links: Sequence[str] = ("https://example.com/",)


class Script:
    """The scripted answers, faults, cuts and searches that are still unused."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.searches: deque[WebSearch] = deque()
        self.cuts: defaultdict[str, deque[int]] = defaultdict(deque)
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def add_faults(self, kind: str, faults: Sequence[Fault]) -> None:
        """Script faults for the next requests of a kind."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind of request: {kind!r}; one of {sorted(KINDS)}")
        self._faults[kind].extend(faults)

    def take_fault(self, kind: str) -> Fault | None:
        """Take the fault for a request of this kind, if any."""
        for queue in (self._faults[kind], self._faults["*"]):
            if queue:
                return queue.popleft()
        return None

    def take_answer(self) -> Answer | None:
        """Take the answer for the next message, if one is scripted."""
        return self.answers.popleft() if self.answers else None

    def take_cut(self, kind: str = "message") -> int | None:
        """Take the number of tokens after which the next connection of a kind is lost."""
        return self.cuts[kind].popleft() if self.cuts[kind] else None

    def take_search(self) -> WebSearch | None:
        """Take the outcome of the next web search, if one is scripted."""
        return self.searches.popleft() if self.searches else None

    def clear(self) -> None:
        """Forget everything."""
        self.answers.clear()
        self.searches.clear()
        self.cuts.clear()
        self._faults.clear()


def split_words(text: str) -> tuple[str, ...]:
    """Split text before its spaces and line breaks: ``" Hello there"`` has two tokens."""
    tokens: list[str] = []
    start = 0
    for i in range(1, len(text)):
        if text[i] in " \n" and text[i - 1] not in " \n":
            tokens.append(text[start:i])
            start = i
    if text:
        tokens.append(text[start:])
    return tuple(tokens)


def encode_body(
    body: str | bytes | Mapping[str, Any], content_type: str | None
) -> tuple[bytes, str]:
    """A scripted body and its content type."""
    if isinstance(body, bytes):
        return body, content_type or "application/octet-stream"
    if isinstance(body, str):
        html = body.lstrip()[:1] == "<"
        return body.encode(), content_type or ("text/html" if html else "text/plain; charset=utf-8")
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode(), content_type or "application/json"
