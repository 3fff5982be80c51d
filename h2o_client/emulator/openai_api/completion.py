"""One chat completion: it reads the model server's events, and writes OpenAI's.

It runs for as long as its client is connected. An answer that breaks off ends with an error event
and without ``[DONE]``, or with an error status if nothing was sent yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import anyio

from h2o_client.emulator.engine import EngineLike, UpstreamDownError
from h2o_client.emulator.generation import (
    Generation,
    Job,
    read_events,
    read_refusal,
    shown_text,
)
from h2o_client.emulator.openai_api.request import ApiError, Asked
from h2o_client.emulator.upstream import Upstream, ask

STATUS = {"validation": 400, "overloaded": 503}
"""The statuses for a model server's errors inside an answer; the default is 502."""

TYPES = {429: "rate_limit_error"}


def error_object(error: ApiError) -> dict[str, Any]:
    """An error in the form of OpenAI's API."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": str(error),
            "type": TYPES.get(error.status, kind),
            "param": error.param or None,
            "code": error.code or None,
        }
    }


class Completion(Generation):
    """One run of the model.

    Args:
        id: Its id.
        asked: The request.
        job: The same, as a job of the service.
        created: The time of the request, in seconds since 1970.

    Attributes:
        failure: Why the answer failed, or None.
    """

    def __init__(self, id: str, asked: Asked, job: Job, created: float) -> None:  # noqa: A002
        super().__init__(job)
        self._id = id
        self.failure: ApiError | None = None
        self._asked = asked
        self._created = int(created)
        self._running = anyio.CancelScope()
        self._ended = anyio.Event()
        self._texts: list[str] = []
        self._waiting = ""  # text that could be the beginning of a stop text
        self._reason = ""

    @property
    def refused(self) -> bool:
        """Whether a scripted fault closes the connection before the headers."""
        return self._client_lost and not self._started

    async def ready(self) -> None:
        """Wait for the first text of a streamed answer, or for a complete one.

        Raises:
            ApiError: The generation failed before anything was sent.
        """
        await (self._opened if self._asked.streamed else self._ended).wait()
        if self.failure is not None and not self._started:
            raise self.failure

    def whole(self) -> dict[str, Any]:
        """The complete answer."""
        message = {"role": "assistant", "content": "".join(self._texts), "refusal": None}
        return self._object("chat.completion", message=message, finish=self._reason)

    def leave(self) -> None:
        """Stop generating, as the client has left."""
        super().leave()
        self.wake()

    def wake(self) -> None:
        """Cancel the generation, even while it waits."""
        if not self._ended.is_set():
            self.was_stopped = True
            self._running.cancel()

    async def run(self, engine: EngineLike, pace: float) -> None:
        """Generate to the end, or until the client leaves."""
        try:
            with self._running:
                job = self.job
                upstream = await ask(job.request, job.answer, engine, pace=pace, hold=self._hold)
                self._script(upstream)
                await self._read(upstream)
        except ApiError as error:
            self._fail(error)
        except UpstreamDownError:
            self._fail(ApiError(502, "the model server cannot be reached"))
        except ConnectionError:
            self._fail(ApiError(502, "the answer broke off before its end"))
        except Exception:  # an engine can raise anything
            self._fail(ApiError(500, "the engine failed; see the server's log"))
            raise
        finally:
            self._ended.set()
            self._opened.set()
            self.feed.end(lost=self._client_lost)

    async def _read(self, upstream: Upstream) -> None:
        if upstream.status != HTTPStatus.OK:
            status = {422: 400, 424: 502}.get(upstream.status, upstream.status)
            later = [pair for pair in upstream.headers if pair[0] == "retry-after"]
            raise ApiError(status, await read_refusal(upstream), headers=later)
        async with aclosing(read_events(upstream)) as events:
            async for event in events:
                if event.get("error"):
                    status = STATUS.get(str(event.get("error_type")), 502)
                    raise ApiError(status, str(event["error"]))
                if self._say(shown_text(event)):
                    return self._finish("stop_sequence")
                if isinstance(event.get("generated_text"), str):
                    details = event.get("details") or {}
                    return self._finish(str(details.get("finish_reason")))
        raise ConnectionError("the answer ended before its final event")

    def _say(self, text: str) -> bool:
        """Send a text, but hold back a possible stop text; return whether one was found."""
        self.tokens += bool(text)
        self._waiting += text
        stops = self._asked.stops
        found = [at for stop in stops if (at := self._waiting.find(stop)) >= 0]
        kept = min(found) if found else len(self._waiting) - _beginning(self._waiting, stops)
        said, self._waiting = self._waiting[:kept], "" if found else self._waiting[kept:]
        if not self._texts:
            said = said.removeprefix(" ")  # many models begin with a space
        if said:
            self._emit({"content": said} if self._texts else {"role": "assistant", "content": said})
            self._texts.append(said)
        return bool(found)

    def _finish(self, reason: str) -> None:
        if self._waiting:  # it was not a stop text
            self._emit({"content": self._waiting})
            self._texts.append(self._waiting)
        self.outcome = "complete"
        self._reason = "length" if reason == "length" else "stop"
        self._emit({}, self._reason)
        self._send(b"[DONE]")

    def _fail(self, error: ApiError) -> None:
        self.failure = error
        self.outcome = str(error)
        if self._started:
            self._send(json.dumps(error_object(error)).encode())

    def _emit(self, delta: Mapping[str, Any], finish: str | None = None) -> None:
        event = self._object("chat.completion.chunk", delta=delta, finish=finish)
        self._send(json.dumps(event).encode(), tokens=bool(delta))

    def _send(self, data: bytes, tokens: int = 0) -> None:
        if self._asked.streamed:
            self._deliver(b"data: " + data + b"\n\n", tokens)

    def _object(self, kind: str, *, finish: str | None, **content: Any) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.job.request.model,
            "choices": [choice],
        }


def _beginning(text: str, stops: Sequence[str]) -> int:
    """The number of characters at the end of a text that could begin a stop text."""
    return max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
        default=0,
    )
