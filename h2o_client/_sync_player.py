"""Performs the effects of the sync flows through `httpx.Client`.

A sync reader sleeps in the socket, where nothing reaches it. What wakes it from another thread is
the end of its connection: `Player.interrupt()` shuts the socket down where the response is open;
before that it is unknown, and telling the server to stop makes the server close it.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar, assert_never

import httpx

from h2o_client._http import (
    AMBIENT,
    LOOK,
    TRANSPORT_ERRORS,
    build_request,
    is_less,
    log_response,
    read_head,
    shut_down,
    time_limits,
    translate,
    unread_body,
)
from h2o_client._watchdog import Watchdog
from h2o_client.errors import (
    H2oError,
    IncompleteStreamError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Close,
    Effect,
    Emit,
    Exclusive,
    Finish,
    Flow,
    Head,
    Read,
    Reader,
    Send,
    Sleep,
    Stepper,
)

T = TypeVar("T")


class ConnectionOwner(Protocol):
    """What a player uses: connections, and the lock for opening a session."""

    @property
    def _http(self) -> httpx.Client: ...

    @property
    def _opening(self) -> threading.RLock: ...


class Player:
    """Performs the effects of flows; holds at most one open response.

    Args:
        client: the client, whose connections and lock are used.
        deadline: when everything must be done, on the ambient clock, or None.

    Attributes:
        closing: set when the stream is closed while its reader is at work: no effect follows.
        reader: reads on without the flow, if it may: see `Emit`.
        next: gives it the next bytes.
    """

    def __init__(self, client: ConnectionOwner, deadline: float | None = None) -> None:
        self._client = client
        self._deadline = deadline
        self._limits: dict[str, float | None] = {}
        self._steady: float | None = None  # the limit of a read that httpx watches over
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] | None = None
        self._first_read: Read | None = None  # the effect whose limit they have
        self._awake = threading.Event()
        self._watchdog: Watchdog | None = None
        self._halted = False
        self._interrupted = False
        self.closing = False
        self.reader: Reader | None = None
        self.next: Callable[[], bytes]

    def play(self, flow: Flow[T]) -> T:
        """Play a flow to its end; nobody waits for its tokens."""
        steps = Stepper(flow)
        with steps:
            try:
                while self.advance(steps) is not None:
                    pass
            finally:
                steps.close()
                self.release()
        return steps.result

    def advance(self, steps: Stepper[T], outcome: float | Exception | None = None) -> Emit | None:
        """Play a flow until it emits. None: it has ended.

        Args:
            steps: drives the flow.
            outcome: of the reader's last read, if there was one: when it began, if it gave no
                texts, or what it failed with.
        """
        if isinstance(outcome, Exception):
            outcome = self._failure(outcome, self._first_read)
        if self.closing:
            raise IncompleteStreamError("the stream was closed while it was read")
        self.reader = None
        effect = steps.step(outcome)
        while effect is not None:
            if type(effect) is Emit:
                self.reader = effect.reader
                if self._halted:
                    self.reader = None
                return effect
            effect = steps.step(self._outcome(effect))
        return None

    def halt(self) -> None:
        """Let the flow see to each read from now on: it is to end."""
        self._halted = True
        self.reader = None

    def _failure(self, error: Exception, effect: Effect | None) -> H2oError:
        """Release the response of an effect that failed; return the error to throw in."""
        failure = error if isinstance(error, H2oError) else translate(error, effect)
        self.release()
        if self._interrupted and isinstance(failure, TransportError):
            return CallerStoppedError("the stream was stopped")
        return failure

    def _outcome(self, effect: Effect) -> object:
        """Perform an effect; return its answer, or the error that is to be thrown in."""
        try:
            outcome = self._perform(effect)
        except (H2oError, *TRANSPORT_ERRORS) as error:
            outcome = self._failure(error, effect)
        except RuntimeError:  # httpx's, of a client that was closed meanwhile
            if not self.closing:
                raise
            outcome = None
        if self.closing:
            raise IncompleteStreamError("the stream was closed while it was read")
        return outcome

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Read():
                return self._read(effect)
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
            case Emit():
                pass  # play() takes no tokens
            case _:
                assert_never(effect)
        return None

    def _send(self, effect: Send) -> Head:
        self.release()
        connect, within = self._within(effect.connect), self._within(effect.within)
        self._limits = time_limits(connect, within)
        request = build_request(self._client._http, effect.request, self._limits)
        begun = AMBIENT.clock()
        self._response = self._get_response(request, effect)
        log_response(effect.request, self._response.status_code, begun)
        return read_head(self._response)

    def _get_response(
        self,
        request: httpx.Request,
        effect: Send,  # noqa: ARG002 -- the limit that a task can keep
    ) -> httpx.Response:
        return self._client._http.send(request, stream=True, follow_redirects=False)

    def _read(self, effect: Read) -> bytes:
        within = self._within(effect.within)
        chunks = self._chunks
        if chunks is None:
            if self._response is None:
                return b""
            self._limits["read"] = self._steady = within
            self._first_read = effect
            chunks = self._chunks = iter(unread_body(self._response))
            self.next = self._next(chunks)
        if is_less(within, self._steady, effect.limit):
            chunk = self._read_within(chunks, within, effect.limit)
        else:
            chunk = next(chunks, b"")
        if not chunk:
            self.release()
        return chunk

    def _next(self, chunks: Iterator[bytes]) -> Callable[[], bytes]:
        """Return what reads where `interrupt()` can end it."""
        return chunks.__next__

    def _read_within(self, chunks: Iterator[bytes], within: float, limit: str) -> bytes:
        """Read within less than what httpx was told when the body began."""
        if self._watchdog is None:
            self._watchdog = Watchdog(lambda: shut_down(self._response))
        self._watchdog.watch(within)
        try:
            chunk = next(chunks, b"")
        except TRANSPORT_ERRORS:
            if not self._watchdog.rest():
                raise
        else:
            if not self._watchdog.rest():
                return chunk
        raise TransportTimeoutError.struck(limit, None)

    def _sleep(self, effect: Sleep) -> None:
        if self._awake.wait(effect.seconds) and self._interrupted:
            raise CallerStoppedError("the stream was stopped")

    def _play_alone(self, effect: Exclusive) -> object:
        """Play a flow while no other thread plays such a one."""
        opening = self._client._opening
        within = self._within(effect.within)
        until = None if within is None else AMBIENT.clock() + within
        while not opening.acquire(timeout=LOOK):
            if self._interrupted:
                raise CallerStoppedError("the stream was stopped")
            if until is not None and AMBIENT.clock() >= until:
                raise TransportTimeoutError.struck(effect.limit, None)
        try:
            return self.play(effect.flow)
        finally:
            opening.release()

    def _finish(self, effect: Finish) -> object:
        """Play a flow that Ctrl-C does not interrupt at once.

        Python raises KeyboardInterrupt in the main thread only, and there in the midst of the
        socket's work; in a thread of its own the flow comes to its end all the same. It has a
        player of its own, which nobody closes or interrupts.
        """
        player = Player(self._client, self._deadline)
        if threading.current_thread() is not threading.main_thread():
            return player.play(effect.flow)
        outcome: Outcome[object] = Outcome()
        context = contextvars.copy_context()
        worker = threading.Thread(
            target=context.run,
            args=(outcome.of, lambda: player.play(effect.flow)),
            name="h2o_client-finish",
            daemon=True,
        )
        try:
            worker.start()
            outcome.done.wait()
        except BaseException:  # Ctrl-C: what is on its way may still end
            outcome.done.wait(effect.within)
            raise
        worker.join()
        return outcome.get()

    def _within(self, seconds: float | None) -> float | None:
        """Return what is left to an effect, if everything has a deadline."""
        if self._deadline is None:
            return seconds
        left = self._deadline - AMBIENT.clock()
        if left <= 0:
            raise TransportTimeoutError.struck("cleanup", None)
        return left if seconds is None else min(seconds, left)

    def release(self) -> None:
        """Release the open response, if there is one."""
        response, self._response, self._chunks = self._response, None, None
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.stop()
        if response is not None:
            response.close()

    def interrupt(self) -> bool:
        """Wake the thread that is performing an effect; False: it could not be reached."""
        self._interrupted = True
        self._awake.set()
        return shut_down(self._response)


class Outcome(Generic[T]):
    """What a call in another thread ended with.

    Attributes:
        done: set when it has ended.
    """

    def __init__(self) -> None:
        self.done = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None

    def of(self, call: Callable[[], T]) -> None:
        """Run the call and keep what comes of it."""
        try:
            self._value.append(call())
        except BaseException as error:  # noqa: BLE001 -- raised again by get(), in the other thread
            self._error = error
        finally:
            self.done.set()

    def get(self) -> T:
        """Return what the call returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # the error's traceback holds this frame
        return self._value[0]
