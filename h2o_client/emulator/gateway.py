"""The layer between the connections and the service: log, faults, recorder and replay."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from h2o_client.emulator.face import Face
from h2o_client.emulator.recording import Recorder, Tape
from h2o_client.emulator.replaying import Replay
from h2o_client.emulator.script import Fault
from h2o_client.emulator.service import Service
from h2o_client.emulator.web import Answered, Request


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Receives the requests of all connections.

    Attributes:
        service: Answers the requests, through `face`.
        face: The dialect.
        recorder: Records the exchanges.
        replay: Answers instead of the service.
        changes: Held while the log or the counter changes; notified when the counter changes.
        clock: Seconds since 1970.
        keep_alive: Seconds for which a connection may be idle.
        max_body: The maximum size of a request's body, in bytes.
        max_requests: The maximum number of requests in the log.
        max_request_bytes: The maximum total size of their bodies.
        busy: The number of requests that are being handled.
    """

    service: Service
    face: Face
    recorder: Recorder | None
    replay: Replay | None
    changes: threading.Condition
    clock: Callable[[], float]
    keep_alive: float
    max_body: int
    max_requests: int
    max_request_bytes: int
    busy: int = 0
    _log: deque[Request] = field(default_factory=deque[Request])
    _bytes: int = 0

    def received(self, request: Request) -> Fault | None:
        """Log a request, and return the fault that is scripted for it, if any."""
        with self.changes:
            self._log.append(request)
            self._bytes += len(request.body)
            while len(self._log) > self.max_requests or self._bytes > self.max_request_bytes:
                self._bytes -= len(self._log.popleft().body)
        return self.service.script.take_fault(request.kind)

    def requests(self) -> list[Request]:
        """The logged requests, in the order of arrival."""
        with self.changes:
            return list(self._log)

    def clear(self) -> None:
        """Forget the requests."""
        with self.changes:
            self._log.clear()
            self._bytes = 0

    def count(self, change: int) -> None:
        """Count the requests that are being handled."""
        with self.changes:
            self.busy += change
            self.changes.notify_all()

    def tape(self, request: Request) -> Tape | None:
        """The recording of an exchange, if it is to be recorded."""
        return None if self.recorder is None else self.recorder.tape(request)

    async def handle(self, request: Request) -> Answered:
        """Answer a request, from a recording in replay mode."""
        if self.replay is None:
            return await self.face.handle(request)
        refused = self.face.refuse_stranger(request)
        return refused or await self.replay.answer(request, self.service.spawn)
