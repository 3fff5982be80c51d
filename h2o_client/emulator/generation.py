"""One generation: it reads the model server, feeds the client, and stores the turn.

A generation belongs to the service, not to the connection: it goes on without a
client that leaves.  What the model server sends is read twice, as the real service
does: once for the client, untouched, and once to find, at the end, the last event
and its `generated_text`.  Only then is the turn stored, the user's message with it.
With a fast database that is done before the client has the last event; with a slow
one after the response has ended, which `store_delay` shows.

A stop is looked for whenever something has arrived.  What arrived last is then
stored and not delivered, and the client's connection closes abruptly; if nothing
had been delivered yet, it closes without a response.  A real model that is silent
is not waited for longer than `STOP_PATIENCE`.
"""
# 11, 17_disconnect, 24_race_after_stream, 28

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus

import anyio
import anyio.lowlevel

from h2o_client.emulator.engine import EngineLike, GenerationRequest, LiveEngine, UpstreamDownError
from h2o_client.emulator.prompt import generated_text, partial_text
from h2o_client.emulator.script import Answer
from h2o_client.emulator.upstream import Piece, Upstream, ask
from h2o_client.emulator.web import Feed

MAX_BODY = 16 * 1024 * 1024
"""Bytes of one answer, after which the model server is taken for broken."""

STOP_PATIENCE = 1.0
"""Seconds that a real model has for one more token, once a stop was noticed."""


@dataclass(frozen=True, slots=True)
class Head:
    """The status and the headers that the model server answered with."""

    status: int
    headers: tuple[tuple[str, str], ...]


class Generation:
    """One run of the model, and what becomes of it."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        session: str,
        conversation: str,
        order: int,
        answer: Answer | None,
        cut: int | None,
        store_delay: float,
        stopped: Callable[[], bool],
        save: Callable[[str], None],  # the answer, as its last event has it
        changed: Callable[[], None],
    ) -> None:
        self.request = request
        self.session = session
        self.conversation = conversation
        self.order = order
        self.head: Head | None = None
        self.down = False
        self.was_stopped = False
        self.held = False
        self.tokens = 0  # that the model server has sent
        self.outcome = "broken end"
        self.feed = Feed()
        self._answer = answer
        self._cut = cut
        self._store_delay = store_delay
        self._unsaved: str | None = None  # what is stored once the response has ended
        self._stopped = stopped
        self._save = save
        self._changed = changed
        self._opened = anyio.Event()
        self._gate = anyio.Event()
        self._received: list[bytes] = []
        self._tokens = 0
        self._bytes = 0
        self._size = 0
        self._client_lost = False
        self._waiting = anyio.CancelScope()  # for the model
        self._patience: float | None = None

    async def opened(self) -> Head | None:
        """Wait until the response can start.

        Returns:
            Its head, or None where the connection closes without a response.
        """
        await self._opened.wait()
        return self.head

    def release(self) -> None:
        """Let a held generation go on."""
        self._gate.set()

    def wake(self) -> None:
        """Let a generation that stands still notice that it was stopped."""
        if self._stopped():
            self._gate.set()
            if self._patience is not None:
                self._waiting.deadline = anyio.current_time() + self._patience

    def leave(self) -> None:
        """Do without the client: nothing is kept for it any more."""
        self._client_lost = True
        self.feed.abandon()

    async def run(self, engine: EngineLike, pace: float) -> None:
        """Generate to the end, whoever is still listening."""
        live = isinstance(engine, LiveEngine)
        self._patience = STOP_PATIENCE if live and self._answer is None else None
        try:
            with self._waiting:
                upstream = await ask(self.request, self._answer, engine, pace=pace, hold=self._hold)
                await self._pump(upstream)
            if self._waiting.cancelled_caught:
                self._end_stopped()
        except UpstreamDownError:
            self.down = True
            self.outcome = "down"
        except Exception:  # an engine may raise anything: the model server counts as down
            self.down = True
            raise
        finally:
            self._opened.set()
            self.feed.end(lost=self.head is None)
        if self._unsaved is not None:
            await anyio.sleep(self._store_delay)
            self._save(self._unsaved)

    async def _hold(self) -> None:
        self.held = True
        self._changed()
        await self._gate.wait()
        self.held = False
        self._changed()

    async def _pump(self, upstream: Upstream) -> None:
        if upstream.status != HTTPStatus.OK:
            self.outcome = f"http {upstream.status}"
        drop = upstream.drop_after if self._cut is None else self._cut
        stored = False
        async with aclosing(upstream.body):
            try:
                async for piece in upstream.body:
                    self._received.append(piece.data)
                    self._count(len(piece.data))
                    self.tokens += piece.tokens
                    if self._stopped():
                        self._end_stopped()
                        return
                    # Stored before the last event is sent: a client that has read it finds
                    # the turn there [24_race_after_stream].
                    if piece.final:
                        stored = True
                        self._store_final()
                    self._deliver(piece, upstream, drop)
                    await anyio.lowlevel.checkpoint()
            except ConnectionError:
                self._lose()
                return
        if not stored:
            self._store_final()
        self._open(upstream)
        self.feed.end(lost=self._client_lost)

    def _end_stopped(self) -> None:
        self.was_stopped = True
        self.outcome = "peer gone: stopped"
        self._store(partial_text(self._text()))
        self._lose()

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_BODY:
            raise ConnectionError("too long an answer")

    def _deliver(self, piece: Piece, upstream: Upstream, drop: int | None) -> None:
        if self._client_lost:
            return
        if drop is not None and self._tokens >= drop:
            self._lose()
            return
        data = piece.data
        limit = upstream.drop_after_bytes
        over = limit is not None and self._bytes + len(data) > limit
        if limit is not None and over:
            data = data[: limit - self._bytes]
        if data or not over:
            self._open(upstream)
            self.feed.put(data)
        self._tokens += piece.tokens
        self._bytes += len(data)
        if over or (drop is not None and self._tokens >= drop):
            self._lose()

    def _open(self, upstream: Upstream) -> None:
        if self.head is None and not self._client_lost:
            self.head = Head(upstream.status, upstream.headers)
            self._opened.set()

    def _lose(self) -> None:
        self._client_lost = True
        self._opened.set()
        self.feed.end(lost=True)

    def _text(self) -> str:
        return b"".join(self._received).decode(errors="replace")

    def _store_final(self) -> None:
        text = generated_text(self._text())
        if text is not None:
            self.outcome = "complete"
            self._store(text)

    def _store(self, text: str) -> None:
        if self._store_delay > 0:
            self._unsaved = text
        else:
            self._save(text)
