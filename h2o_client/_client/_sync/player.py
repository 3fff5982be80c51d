# Generated, do not edit: run `python scripts/unasync.py`.
"""Performs the effects of flows through `httpx.Client`."""

from collections.abc import Callable
from typing import TypeVar, assert_never

from h2o_client._client._sync._runtime import Connections, Interruptible, finish, not_reentrant
from h2o_client._client.http import (
    AMBIENT,
    TRANSPORT_ERRORS,
    WRITE_LIMIT,
    build_request,
    failure_of,
    is_earlier,
    log_response,
    read_head,
    unread_body,
)
from h2o_client.errors import H2oError, IncompleteStreamError, TransportError
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Close,
    Effect,
    Emit,
    Exclusive,
    Fetch,
    Finish,
    Flow,
    Head,
    Pump,
    Read,
    Send,
    Sleep,
    Stepper,
)
from h2o_client.protocol.state import Life, State

T = TypeVar("T")
_UNENDED = Life()  # for flows that cannot be stopped from outside


class Player(Interruptible):
    """Performs the effects of flows; holds at most one open response.

    Args:
        client: the client, whose connections and lock are used.
        life: the state of the stream that it runs; None for a flow that cannot be stopped.

    Attributes:
        next: reads the next bytes of the open response, for a `Pump`.
    """

    def __init__(self, client: Connections, life: Life | None = None) -> None:
        super().__init__()
        self._client = client
        self._life = _UNENDED if life is None else life
        self._limits: dict[str, float | None] = {}
        self._steady: float | None = None  # the read limit that httpx enforces
        self.next: Callable[[], bytes]

    @not_reentrant
    def play(self, flow: Flow[T]) -> T:
        """Run a flow to its end, and discard its tokens."""
        steps = Stepper(flow)
        try:
            while self.advance(steps) is not None:
                pass
        finally:
            steps.close()
            self.release()
        return steps.result

    def advance(
        self, steps: Stepper[T], outcome: object = None, pump: Pump | None = None
    ) -> Emit | Pump | None:
        """Run a flow until it has something for the caller, or ends (None).

        Args:
            steps: drives the flow.
            outcome: the outcome of its last effect: the answer, or the error that it raised.
            pump: the effect that failed, if any.
        """
        if isinstance(outcome, Exception):
            outcome = self._failure(outcome, pump)
        if self._life.state is State.CLOSING:
            raise self._closed()
        effect = steps.step(outcome)
        while effect is not None:
            if type(effect) is Emit or type(effect) is Pump:
                return effect
            effect = steps.step(self._outcome(effect))
        return None

    def _closed(self) -> IncompleteStreamError:
        """Return the error for a stream that another thread closed while this one was reading."""
        return IncompleteStreamError("the stream was closed while it was read")

    def _failure(self, error: Exception, effect: Effect | None) -> H2oError:
        """Release the response of a failed effect; return the error to throw into the flow."""
        failure = failure_of(error, effect, self._client._http)
        self.release()
        if self._interrupted and isinstance(failure, TransportError):
            return CallerStoppedError("the stream was stopped")
        return failure

    def _outcome(self, effect: Effect) -> object:
        """Perform an effect; return its answer, or the error to throw into the flow."""
        try:
            outcome = self._interruptible(self._perform, effect)
        except (H2oError, *TRANSPORT_ERRORS) as error:
            outcome = self._failure(error, effect)
        except RuntimeError:  # from an httpx client that was closed in the meantime
            if self._life.state is not State.CLOSING:
                raise
            outcome = None
        if self._life.state is State.CLOSING:
            raise self._closed()
        return outcome

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Read():
                return self._read(effect)
            case Fetch():
                return self._fetch(effect)
            case Send():
                return self._send(effect)
            case Close():
                self.release()
            case Sleep():
                self._sleep(effect)
            case Exclusive():
                return self._play_alone(effect)
            case Finish():
                return self._finish(effect)
            case Emit() | Pump():
                raise AssertionError("advance() returns these")
            case _:
                assert_never(effect)
        return None

    def _fetch(self, effect: Fetch) -> tuple[Head, bytes]:
        head = self._send(effect)
        largest = effect.largest if head.status < 300 else effect.largest_error
        body = bytearray()
        while chunk := self._read(effect):
            body += chunk
            effect.deadline.check()
            if len(body) > largest:
                self.release()
                break
        return head, bytes(body)

    def _send(self, effect: Send | Fetch) -> Head:
        if self._response is not None:
            self.release()
        connect, read = effect.connect.left(), effect.deadline.left()
        # httpx reads them again when the body begins, so the read limit can be changed before that.
        self._limits = {"connect": connect, "pool": connect, "write": WRITE_LIMIT, "read": read}
        request = build_request(self._client._http, effect.request, self._limits)
        begun = AMBIENT.clock()
        self._response = self._get_response(self._client._http, request, effect)
        log_response(effect.request, self._response.status_code, begun)
        return read_head(self._response)

    def _read(self, effect: Read | Fetch) -> bytes:
        chunks = self._chunks
        if chunks is None:
            if self._response is None:
                return b""
            self._limits["read"] = self._steady = effect.deadline.left()
            chunks = self._chunks = iter(unread_body(self._response))
            if type(effect) is Read:
                self.next = self._interruptible_next(chunks)
            chunk = next(chunks, b"")
        elif is_earlier(effect.deadline, self._steady):
            chunk = self._read_until(chunks, effect.deadline)
        else:
            chunk = next(chunks, b"")
        if not chunk:
            self.release()
        return chunk

    def _play_alone(self, effect: Exclusive) -> object:
        """Run a flow while no other thread runs an exclusive flow."""
        opening = self._client._opening
        if not self._acquire(opening, effect.deadline.left()):
            raise effect.deadline.exceeded()
        try:
            return self.play(effect.flow)
        finally:
            opening.release()

    def _finish(self, effect: Finish) -> object:
        """Run a flow that a cancellation does not interrupt at once: see `finish()`.

        It has its own player, which is never closed or interrupted.
        """
        player = Player(self._client)
        return finish(lambda: player.play(effect.flow), after_interruption=effect.within)
