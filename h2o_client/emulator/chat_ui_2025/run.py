"""One run: the model answers, the client gets events, and the turn is stored as it grows.

The response starts at once and always ends cleanly; its last events say how the answer ended. If
the model server breaks off, it is asked a second time within the same run, and the new tokens
follow the old ones: only ``finalAnswer`` has the right text.

Each run holds the conversation as it was at the start, and always stores all of it: of two
concurrent runs, the last one wins.
"""
# 07_upstream_cut_once_1, 18_parallel

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import anyio

from h2o_client.emulator.chat_ui_2025.tree import Messages
from h2o_client.emulator.engine import EngineLike, UpstreamDownError
from h2o_client.emulator.generation import (
    Generation,
    Job,
    read_events,
    read_refusal,
    shown_text,
)
from h2o_client.emulator.prompt import END_OF_TEXT, JS_SPACE, units, well_formed
from h2o_client.emulator.script import Answer
from h2o_client.emulator.service import Service
from h2o_client.emulator.store import Conversation, Event, Journal, Message
from h2o_client.emulator.sveltekit import compact
from h2o_client.emulator.upstream import Upstream, ask

PADDED = 16
"""The minimum length of a token in UTF-16 units; shorter ones are padded."""

SPACES = b" " * 4096
"""The padding after the final answer."""

TRIES = 3
"""The maximum number of requests to a model server that rejects them, in each of two attempts."""

NO_OUTPUT = "No output was generated. Something went wrong."
logger = logging.getLogger(__name__)


def status(name: str, **more: Any) -> Event:
    """A status event."""
    return {"type": "status", "status": name, **more}


class _FailedError(Exception):
    """The model server rejected the request, or broke off."""

    def __init__(self, event: Event) -> None:
        super().__init__(event.get("message"))
        self.event = event


class Run(Generation):
    """One run of the model.

    Args:
        service: The service.
        job: The message to answer.
        found: The conversation.
        messages: Its messages, including the new question and the answer.
        written: The answer, still empty.
        entitle: Asks for a title; None if the conversation already has one.
        lost_file: Whether the message refers to a missing file.
    """

    def __init__(
        self,
        service: Service,
        job: Job,
        found: Conversation,
        messages: Messages,
        written: Message,
        *,
        entitle: Callable[[], Awaitable[str]] | None,
        lost_file: bool,
    ) -> None:
        super().__init__(job)
        self.generating = True
        self.generation_id = written.generation_id
        self.journal = Journal(found.id)
        self._service = service
        self._messages = messages
        self._written = written
        self._title = found.title
        self._entitles = entitle
        self._lost_file = lost_file
        self._next = job.answer  # the scripted answer to the next request to the model server
        self._reattaches = service.config.version == "main"
        self._updates: list[Event] = []
        self._texts: list[str] = []  # the streamed texts
        self._final: str | None = None
        self._whole: bool | None = None
        self._failed = False
        self._ended = False
        self._seen: int | None = None
        self._model = anyio.CancelScope()
        self._titled = anyio.Event()

    @property
    def refused(self) -> bool:
        """Whether the connection is to be lost before any header."""
        return self._drop == 0 or self._limit == 0

    def asked(self) -> object:
        """The request to the model, for a recording."""
        request = self.job.request
        chat = [*request.chat]
        return {"model": request.model, "messages": chat, "stream": True}

    def stop(self, seen: int | None = None) -> None:
        """Stop the model; truncate the text to the length that the client reports as seen."""
        self._seen = seen
        self.wake()

    def wake(self) -> None:
        """End the generation, even while it is held."""
        self.was_stopped = True
        self._model.cancel()

    def leave(self) -> None:
        """Continue without the client, and store the text so far."""
        super().leave()
        if not self._ended:
            self._save()

    async def run(self, engine: EngineLike, pace: float) -> None:
        """Generate to the end, whether or not the client is still connected."""
        intervals = self._service.config.intervals
        try:
            async with anyio.create_task_group() as tasks:
                self._emit(status("started"))
                self._keep_alive()
                tasks.start_soon(_every, intervals.keep_alive, self._keep_alive)
                tasks.start_soon(_every, intervals.journal, self.journal.flush)
                if self._reattaches:
                    tasks.start_soon(_every, intervals.save, self._save)
                if self._entitles is not None:
                    tasks.start_soon(self._entitle, self._entitles)
                with self._model:
                    await self._answer_twice(engine, pace)
                self.generating = False
                await self._finish()
                tasks.cancel_scope.cancel()
        finally:
            self.generating = False
            self._ended = True
            ended = "interrupted" if self._whole is False else "completed"
            self.journal.status = "error" if self._failed else ended
            self.feed.end(lost=self._client_lost)

    async def _answer_twice(self, engine: EngineLike, pace: float) -> None:
        """Ask the model for the answer, and try once more if that fails."""
        if self._lost_file:
            self._fail(status("error", statusCode=404))
            return
        try:
            try:
                await self._attempt(engine, pace)
            except _FailedError:
                await self._attempt(engine, pace)
        except _FailedError as error:
            self._fail(error.event)
            return
        except Exception:  # an engine may raise anything
            self._fail(status("error", message="An error occurred"))
            logger.exception("emulator: the engine failed")
            return
        if self._final:
            text = self._final.removesuffix(END_OF_TEXT).rstrip(JS_SPACE)
            self._end(text, interrupted=False)
            self._texts = [text]
        if not "".join(self._texts):
            self._fail(status("error", message=NO_OUTPUT))

    async def _attempt(self, engine: EngineLike, pace: float) -> None:
        """Ask the model server until it accepts, and forward its stream."""
        tries = 1
        while isinstance(upstream := await self._ask(engine, pace), Mapping):
            code = upstream.get("statusCode", 500)
            if tries == TRIES or (code < 500 and code not in {408, 409, 429}):
                raise _FailedError(upstream)
            tries += 1
            await anyio.sleep(self._service.config.intervals.retry)
        self._script(upstream)
        try:
            await self._read(upstream)
        except ConnectionError:
            raise _FailedError(status("error", message="terminated")) from None

    async def _ask(self, engine: EngineLike, pace: float) -> Upstream | Event:
        """Ask the model server once; an event reports a rejection."""
        answer = self._next
        if answer is not None and answer.again is not None:
            self._next = Answer.of(answer.again)
        try:
            upstream = await ask(self.job.request, answer, engine, pace=pace, hold=self._hold)
            if upstream.status == HTTPStatus.OK:
                return upstream
            code = upstream.status
            text = f"{code} {await read_refusal(upstream)}"
            return status("error", message=text, statusCode=code)
        except UpstreamDownError:
            return status("error", message="Connection error.")

    async def _read(self, upstream: Upstream) -> None:
        """Forward a stream; set `_final` to its text if it ended with a finish reason."""
        async with aclosing(read_events(upstream)) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: Event) -> None:
        """Handle one event from the model server."""
        if event.get("error"):
            # An answer that the model server itself broke off, such as by a content filter, has
            # no finish reason [07_upstream_filter].
            if event.get("error_type") != "incomplete_generation":
                raise _FailedError(status("error", message=str(event["error"])))
            return
        if text := shown_text(event):
            self._say(text)
        if isinstance(event.get("generated_text"), str):
            self._final = event["generated_text"]

    def _say(self, text: str) -> None:
        self.tokens += 1
        self._texts.append(text)
        self._emit({"type": "stream", "token": text}, 1)
        if self._client_lost and not self._reattaches:
            self._save()

    def _fail(self, event: Event) -> None:
        self._failed = True
        self.outcome = str(event.get("message"))
        self._emit(event)

    def _end(self, text: str, *, interrupted: bool) -> None:
        self.outcome = "stopped" if interrupted else "complete"
        self._whole = not interrupted
        self._emit({"type": "finalAnswer", "text": text, "interrupted": interrupted})
        self._deliver(SPACES)

    async def _finish(self) -> None:
        """Report how the run ended, wait for the title, and store the turn."""
        if self.was_stopped and self._whole is None and not self._failed:
            text = "".join(self._texts)
            if self._seen is not None:
                cut = text.encode("utf-16-le", "surrogatepass")[: 2 * self._seen]
                text = cut.decode("utf-16-le", "surrogatepass")
            self._texts = [text]
            self._end(text, interrupted=True)
        elif self._entitles is not None and not self._failed:
            await self._titled.wait()
        if not self._failed:
            self._emit(status("finished"))
        await anyio.sleep(self.job.store_delay)
        self._ended = True
        self._save()

    async def _entitle(self, ask_title: Callable[[], Awaitable[str]]) -> None:
        title = await ask_title()
        if self.job.answer is not None and self.job.answer.hold_title:
            await self._hold()
        self._title = title
        found = self._service.store.conversations.get(self.job.conversation)
        if found is not None:
            found.title = title
        self._emit({"type": "title", "title": title})
        self._titled.set()

    def _keep_alive(self) -> None:
        if self.generating:
            self._deliver(compact(status("keepAlive")) + b"\n")

    def _emit(self, event: Event, tokens: int = 0) -> None:
        """Send an event to the client, the store and clients that reattached."""
        sent, kept = event, event
        if event["type"] == "stream":
            text: str = event["token"]
            length = units(text)
            sent = {**event, "token": text + "\0" * max(PADDED - length, 0)}
            kept = {**event, "token": "", "len": length}
        self._updates.append(kept)
        self.journal.add(event)
        self._deliver(compact(sent) + b"\n", tokens)

    def _save(self) -> None:
        """Store this run's copy of the conversation, with the text so far."""
        self.journal.flush()
        written = replace(
            self._written,
            content=well_formed("".join(self._texts)),
            updated=self._service.store.clock(),
            updates=tuple(self._updates),
            interrupted=None if self._whole is None else not self._whole,
            materialized=len(self.journal.events) if self._reattaches else None,
        )
        messages = tuple(
            written if item.id == written.id else replace(item, updates=item.updates or ())
            for item in self._messages
        )
        self._service.store.save(self.job.conversation, messages, self._title)


async def _every(seconds: float, action: Callable[[], None]) -> None:
    while True:
        await anyio.sleep(seconds)
        action()
