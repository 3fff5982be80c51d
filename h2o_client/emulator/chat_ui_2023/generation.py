"""One generation: it reads the model server, feeds the client, and stores the turn.

Like the real service, it reads the model server's response twice: first to forward it unchanged to
the client, and at the end to find the last event and its `generated_text`. Only then is the turn
stored, together with the user's message. With a fast database, this happens before the client has
the last event; with a slow one, after the response has ended, which `store_delay` simulates.

The service checks for a stop whenever data has arrived. The last data is then stored but not
delivered, and the client's connection closes abruptly; if nothing had been delivered yet, it closes
without a response. If a real model sends nothing, the wait is limited to `STOP_PATIENCE`.
"""
# 11, 17_disconnect, 24_race_after_stream, 28

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import anyio
import anyio.lowlevel

from h2o_client.emulator.engine import EngineLike, LiveEngine, UpstreamDownError
from h2o_client.emulator.generation import EventReader, Generation, Job, token_of
from h2o_client.emulator.prompt import generated_text
from h2o_client.emulator.upstream import Upstream, ask

STOP_PATIENCE = 1.0
"""Seconds to wait for another token of a real model after a stop was noticed."""


class PassedOn(Generation):
    """A generation that forwards the model server's bytes unchanged."""

    def __init__(
        self,
        job: Job,
        *,
        stopped: Callable[[], bool],
        save: Callable[[str], None],  # called with the answer's text from the last event
    ) -> None:
        super().__init__(job)
        self.down = False
        self._upstream: Upstream | None = None
        self._unsaved: str | None = None  # the text to store after the response has ended
        self._stopped = stopped
        self._save = save
        self._received: list[bytes] = []
        self._texts: list[str] = []  # of all tokens
        self._waiting = anyio.CancelScope()  # for the model
        self._patience: float | None = None

    async def opened(self) -> Upstream | None:
        """Wait until the response can start.

        Returns:
            The model server's response, or None if the connection closes without one.
        """
        await self._opened.wait()
        return self._upstream if self._started else None

    def wake(self) -> None:
        """Notice a stop, even while generation is held."""
        if self._stopped():
            self._gate.set()
            if self._patience is not None:
                self._waiting.deadline = anyio.current_time() + self._patience

    async def run(self, engine: EngineLike, pace: float) -> None:
        """Generate to the end, whether or not the client is still connected."""
        live = isinstance(engine, LiveEngine)
        self._patience = STOP_PATIENCE if live and self.job.answer is None else None
        try:
            with self._waiting:
                request, answer = self.job.request, self.job.answer
                upstream = await ask(request, answer, engine, pace=pace, hold=self._hold)
                await self._pump(upstream)
            if self._waiting.cancelled_caught:
                self._end_stopped()
        except UpstreamDownError:
            self.down = True
            self.outcome = "down"
        except Exception:  # an engine may raise anything; treat the model server as down
            self.down = True
            raise
        finally:
            self._opened.set()
            self.feed.end(lost=not self._started)
        if self._unsaved is not None:
            await anyio.sleep(self.job.store_delay)
            self._save(self._unsaved)

    async def _pump(self, upstream: Upstream) -> None:
        if upstream.status != HTTPStatus.OK:
            self.outcome = f"http {upstream.status}"
        self._upstream = upstream
        self._script(upstream)
        stored, reader = False, EventReader()
        async with aclosing(upstream.body):
            try:
                async for data in upstream.body:
                    self._received.append(data)
                    events = reader.feed(data)
                    tokens = [token for event in events if (token := token_of(event))]
                    self._texts += [str(token.get("text") or "") for token in tokens]
                    shown = sum(not token.get("special") for token in tokens)
                    self.tokens += shown
                    if self._stopped():
                        self._end_stopped()
                        return
                    # Store the turn before sending the last event, so that a client that has
                    # read it finds the turn [24_race_after_stream].
                    if any(_is_final(event) for event in events):
                        stored = True
                        self._store_final()
                    self._deliver(data, shown)
                    await anyio.lowlevel.checkpoint()
            except ConnectionError:
                self._lose()
                return
        if not stored:
            self._store_final()
        self._start()
        self.feed.end(lost=self._client_lost)

    def _end_stopped(self) -> None:
        self.was_stopped = True
        self.outcome = "peer gone: stopped"
        self._store("".join(self._texts))  # 11
        self._lose()

    def _store_final(self) -> None:
        text = generated_text(b"".join(self._received).decode(errors="replace"))
        if text is not None:
            self.outcome = "complete"
            self._store(text)

    def _store(self, text: str) -> None:
        if self.job.store_delay > 0:
            self._unsaved = text
        else:
            self._save(text)


def _is_final(event: Mapping[str, Any]) -> bool:
    return isinstance(event.get("generated_text"), str) and not event.get("error")
