"""The code that is specific to threads; `_async/_runtime.py` has the same names for tasks.

A reader blocks in the socket, and another thread can only wake it by ending the connection:
`interrupt()` shuts the socket down once the response is open. Before that the socket is unknown,
but a stop request makes the server end the response.
"""

import contextlib
import contextvars
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import httpx

from h2o_client._client.http import (
    AMBIENT,
    KEPT_AFTER_FORK,
    POLL_INTERVAL,
    PROCESS,
    TRANSPORT_ERRORS,
    Connector,
    check_http_client,
    new_http,
    shut_down,
)
from h2o_client._client.watchdog import Watchdog
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import CallerStoppedError, Effect, Fetch, Send, Sleep
from h2o_client.protocol.exchange import Exchange

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

_AT_WORK: set[CodeType] = set()
_PACKAGE = __name__.partition(".")[0]


def not_reentrant(function: F) -> F:
    """Mark a function that a signal handler or callback can interrupt: see `is_reentrant()`."""
    _AT_WORK.add(function.__code__)
    return function


def is_reentrant() -> bool:
    """Whether the caller is a signal handler or callback that interrupted our own code.

    It must then not wait for the interrupted code, nor touch connections and locks that this code
    may be using.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_PACKAGE):
        frame = frame.f_back  # skip the frames between the handler and this function
    while frame is not None and frame.f_code not in _AT_WORK:
        frame = frame.f_back
    return frame is not None


def check_home(owner: object) -> None:
    """Do nothing: any thread may use a stream."""


def new_event() -> threading.Event:
    """Make an event."""
    return threading.Event()


def wait_for(event: threading.Event, seconds: float) -> None:
    """Wait for an event, for at most this many seconds."""
    event.wait(seconds)


def retry_while_shielded(clean_up: Callable[[], object], deadline: Deadline) -> bool:
    """Run a clean-up; return whether it has finished. Threads are not cancelled, only interrupted.

    After Ctrl-C, or SystemExit in a signal handler, the clean-up runs in a separate thread until
    the deadline at most: the exception may have hit httpcore while it was acquiring a lock on its
    connections, which is then never released.
    """
    if isinstance(sys.exception(), Exception | None):
        clean_up()
        return True
    worker = threading.Thread(target=clean_up, name="h2o_client-clean-up", daemon=True)
    worker.start()
    worker.join(deadline.left())
    return not worker.is_alive()


def finish(call: Callable[[], T], *, after_interruption: float) -> T:
    """Make a call that Ctrl-C does not interrupt at once.

    Python raises KeyboardInterrupt only in the main thread, even in the middle of socket
    operations; in a separate thread the call can finish.

    Args:
        call: what to call.
        after_interruption: seconds that it may still take after Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    from concurrent.futures import Future  # importing it takes a millisecond

    outcome: Future[T] = Future()
    worker = threading.Thread(
        target=contextvars.copy_context().run,
        args=(_store_outcome, outcome, call),
        name="h2o_client-finish",
        daemon=True,
    )
    try:
        worker.start()
        outcome.exception()  # waits
    except BaseException:  # Ctrl-C: let the call finish
        with contextlib.suppress(TimeoutError):
            outcome.exception(after_interruption)
        raise
    worker.join()
    try:
        return outcome.result()
    finally:
        del outcome  # the traceback of an error holds this frame


def _store_outcome(outcome: "Future[T]", call: Callable[[], T]) -> None:
    try:
        outcome.set_result(call())
    except BaseException as error:  # noqa: BLE001 -- raised by result(), in the other thread
        outcome.set_exception(error)
    finally:
        del outcome  # the traceback of an error holds this frame


class Interruptible:
    """The base of the player: its response, and waits that another thread can interrupt."""

    def __init__(self) -> None:
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] | None = None
        self._interrupted = False
        self._awake = threading.Event()
        self._watchdog: Watchdog | None = None

    def interrupt(self) -> bool:
        """Wake the waiting thread; return whether that was possible."""
        self._interrupted = True
        self._awake.set()
        return shut_down(self._response)

    def release(self) -> None:
        """Release the open response, if any."""
        response, self._response, self._chunks = self._response, None, None
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.stop()
        if response is not None:
            response.close()

    def _interruptible(self, perform: Callable[[Effect], object], effect: Effect) -> object:
        """Perform an effect; `interrupt()` needs no preparation here."""
        return perform(effect)

    def _get_response(
        self,
        http: httpx.Client,
        request: httpx.Request,
        effect: Send | Fetch,  # noqa: ARG002 -- httpx applies the request's own limits; a thread
        # that waits for a response cannot be interrupted when the total limit is exceeded
    ) -> httpx.Response:
        return http.send(request, stream=True, follow_redirects=False)

    def _interruptible_next(self, chunks: Iterator[bytes]) -> Callable[[], bytes]:
        """Return a function for reads that `interrupt()` can end."""
        return chunks.__next__

    def _read_until(self, chunks: Iterator[bytes], deadline: Deadline) -> bytes:
        """Read with a shorter limit than httpx was given when the body began."""
        if self._watchdog is None:
            self._watchdog = Watchdog(lambda: shut_down(self._response))
        self._watchdog.arm(deadline.left() or 0.0)
        try:
            chunk = next(chunks, b"")
        except TRANSPORT_ERRORS:
            if not self._watchdog.disarm():
                raise
        else:
            if not self._watchdog.disarm():
                return chunk
        raise deadline.exceeded(begun=True)

    def _sleep(self, effect: Sleep) -> None:
        if self._awake.wait(effect.seconds) and self._interrupted:
            raise CallerStoppedError("the stream was stopped")

    def _acquire(self, lock: threading.RLock, within: float | None) -> bool:
        """Acquire a lock; return whether that succeeded within this time."""
        until = None if within is None else AMBIENT.clock() + within
        while not lock.acquire(timeout=POLL_INTERVAL):
            if self._interrupted:
                raise CallerStoppedError("the stream was stopped")
            if until is not None and AMBIENT.clock() >= until:
                return False
        return True


class Connections(Protocol):
    """The part of a client that a player uses."""

    _http: httpx.Client
    _opening: threading.RLock


class ConnectionOwner(ABC):
    """The base of the client: its connections belong to one process."""

    _exchange: Exchange
    _closed: bool
    _loop: object = None  # any thread may use a stream

    def __init__(
        self, http_client: httpx.Client | None, proxy: str | None, transport: str | None
    ) -> None:
        self._proxy, self._transport = proxy, transport
        self._pid, self._forks = PROCESS.id, PROCESS.forks
        self._opening = threading.RLock()  # `on_retry` may use the client
        self._owned = http_client is None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        if http_client is not None:
            check_http_client(http_client, httpx.Client, proxy, transport)
        self._http = http_client or self._own_http()

    def _own_http(self) -> httpx.Client:
        http = new_http(httpx.Client, self._proxy, self._transport)
        # Close the sockets of a client that is dropped without being closed.
        self._finalizer = weakref.finalize(self, _close_in_creating_process, http, self._pid)
        self._finalizer.atexit = False  # at exit, the cleaner closes clients that were used
        return http

    @abstractmethod
    def _clean_up(self, deadline: Deadline) -> None:
        """Close all connections, and notify the server."""

    def _connector(self) -> Connector:
        """Return a function that connects independently of the client, if possible."""
        if self._owned:
            return partial(new_http, httpx.Client, self._proxy, self._transport)
        http = self._http
        return lambda: contextlib.nullcontext(http)

    def _close_at_exit(self, deadline: Deadline) -> None:
        """Close responses that other threads still read; those threads end with the process."""
        self._closed = True
        self._clean_up(deadline)
        self._close_connections()

    @abstractmethod
    def _forget_streams(self) -> None:
        """Leave open connections to the process that they belong to."""

    def _prepare(self) -> None:
        """After a fork, leave the parent's connections, chats and locks to the parent.

        Raises:
            RuntimeError: the client uses the caller's `http_client`.
        """
        if self._pid == PROCESS.id:
            return
        if not self._owned:
            raise RuntimeError(
                "this client was created before the process was forked, with your own "
                "http_client: create both in the child"
            )
        KEPT_AFTER_FORK.append(self._http)
        self._pid, self._forks = PROCESS.id, PROCESS.forks
        self._opening = threading.RLock()  # `on_retry` may use the client
        self._forget_streams()
        self._exchange.session.leave_to_parent()
        self._http = self._own_http()

    def _prepare_to_clean_up(self) -> bool:
        """Whether open connections belong to this process, and can be cleaned up here."""
        return self._pid == PROCESS.id

    @not_reentrant
    def _close_connections(self) -> None:
        if self._finalizer is not None and not is_reentrant():
            retry_while_shielded(self._finalizer, self._exchange.cleanup())


def _close_in_creating_process(http: httpx.Client, pid: int) -> None:
    """Close an httpx client, unless this is a fork of the process that made it."""
    if pid == PROCESS.id:
        http.close()
