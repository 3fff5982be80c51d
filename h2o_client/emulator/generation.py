"""One generation: a run of the model, whose client may leave before it ends.

A generation belongs to the service, not to the connection: it continues if its client leaves. The
dialect decides what it reads from the model server, what it sends to the client and when it stores
the turn. In every dialect, a script decides where the client's connection is lost and where
generation is held.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import anyio
import anyio.lowlevel

from h2o_client.emulator.engine import MAX_BODY, EngineLike, GenerationRequest
from h2o_client.emulator.script import Answer
from h2o_client.emulator.upstream import Upstream
from h2o_client.emulator.web import Feed


@dataclass(frozen=True, slots=True)
class Job:
    """A message for a generation to answer; created by `Service.job()`.

    Attributes:
        request: The request to the model.
        session: The client's session.
        conversation: The id of the conversation.
        answer: The scripted answer; None to ask the engine.
        cut: Tokens after which the client's connection is lost; None if the answer decides.
        store_delay: Seconds from the end of the response until the turn is stored.
        changed: Called when the generation is held or released.
    """

    request: GenerationRequest
    session: str
    conversation: str
    answer: Answer | None
    cut: int | None
    store_delay: float
    changed: Callable[[], None]


class Generation(ABC):
    """One run of the model, and its result.

    Args:
        job: The message to answer.

    Attributes:
        job: The message to answer.
        tokens: The number of tokens that the model server has sent.
        held: Whether it is held; see `Answer.hold_after`.
        was_stopped: Whether a stop ended it.
        outcome: How it ended, for a recording.
        feed: The body of the response to the client.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.held = False
        self.was_stopped = False
        self.tokens = 0
        self.outcome = "broken end"
        self.feed = Feed()
        answer, cut = job.answer, job.cut
        self._drop = cut if answer is None or cut is not None else answer.drop_after
        self._limit = None if answer is None else answer.drop_after_bytes
        self._gate = anyio.Event()
        self._opened = anyio.Event()
        self._started = False
        self._client_lost = False
        self._given = 0  # tokens
        self._bytes = 0

    @abstractmethod
    async def run(self, engine: EngineLike, pace: float) -> None:
        """Generate to the end, whether or not the client is still connected."""

    @abstractmethod
    def wake(self) -> None:
        """Notice a stop, even while generation is held."""

    def asked(self) -> object:
        """The request to the model, for a recording."""
        return self.job.request.body

    def release(self) -> None:
        """Let a held generation continue."""
        self._gate.set()

    def leave(self) -> None:
        """Continue without the client, and discard what it has not received."""
        self._client_lost = True
        self.feed.abandon()

    async def _hold(self) -> None:
        self.held = True
        self.job.changed()
        try:
            await self._gate.wait()
        finally:
            self.held = False
            self.job.changed()

    def _script(self, upstream: Upstream) -> None:
        """Apply the lost connection that an engine's answer scripts."""
        if self.job.cut is None and upstream.drop_after is not None:
            self._drop = upstream.drop_after
        if upstream.drop_after_bytes is not None:
            self._limit = upstream.drop_after_bytes

    def _deliver(self, data: bytes, tokens: int = 0) -> None:
        """Send bytes to the client, up to the point where its connection is to be lost."""
        if self._client_lost:
            return
        if self._drop is not None and self._given >= self._drop:
            self._lose()
            return
        limit = self._limit
        over = limit is not None and self._bytes + len(data) > limit
        if limit is not None and over:
            data = data[: limit - self._bytes]
        if data or not over:
            self._start()
            self.feed.put(data)
        self._given += tokens
        self._bytes += len(data)
        if over or (self._drop is not None and self._given >= self._drop):
            self._lose()

    def _start(self) -> None:
        """Start the response."""
        if not self._client_lost:
            self._started = True
            self._opened.set()

    def _lose(self) -> None:
        self._client_lost = True
        self._opened.set()
        self.feed.end(lost=True)


class EventReader:
    """Splits the stream of a model server into events."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of an incomplete line
        self._size = 0

    def feed(self, data: bytes) -> list[Mapping[str, Any]]:
        """Return the events that the next bytes complete; a line without an event is empty.

        Raises:
            ConnectionError: The stream is too long.
        """
        self._size += len(data)
        if self._size > MAX_BODY:
            raise ConnectionError("the answer is too long")
        self._pieces.append(data)
        if b"\n" not in data:
            return []
        *lines, rest = b"".join(self._pieces).split(b"\n")
        self._pieces = [rest]
        return [_parsed(line) for line in lines]


async def read_events(upstream: Upstream) -> AsyncGenerator[Mapping[str, Any]]:
    """Read the events of a model server's stream; see `EventReader`.

    Raises:
        ConnectionError: The stream broke off, or is too long.
    """
    reader = EventReader()
    async with aclosing(upstream.body):
        async for data in upstream.body:
            for event in reader.feed(data):
                yield event
            await anyio.lowlevel.checkpoint()


def _parsed(line: bytes) -> Mapping[str, Any]:
    if not line.startswith(b"data:"):
        return {}
    try:
        value: object = json.loads(line[len(b"data:") :].decode(errors="replace"))
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def token_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The token of an event, empty without one."""
    token: object = event.get("token")
    return cast("dict[str, Any]", token) if isinstance(token, dict) else {}


def shown_text(event: Mapping[str, Any]) -> str:
    """The visible text of an event's token, or an empty string."""
    token = token_of(event)
    return "" if token.get("special") else str(token.get("text") or "")


async def read_refusal(upstream: Upstream) -> str:
    """The message of a model server that rejects a request: its error, or the whole body."""
    # 07_upstream_error_400, 07_upstream_error_html
    data = await upstream.read()
    try:
        value: Any = json.loads(data)
        error: Any = value.get("error", value)
        return error if isinstance(error, str) else str(error["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return data.decode(errors="replace")  # not a JSON error
