"""The code that is specific to tasks; `_sync/_runtime.py` has the same names for threads.

A cancellation is never thrown into a flow: the flow is closed at its current point, the response is
released and the server notified, shielded from the cancellation and within a time limit. asyncio's
native cancellation, `task.cancel()`, passes through every shield, so the clean-up is then repeated.
Creating a conversation must not be repeated, so it runs in a separate task: its response is still
awaited, and the conversation can be deleted by its id.
"""

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio
import httpx

from h2o_client._client.http import (
    KEPT_AFTER_FORK,
    PROCESS,
    TRANSPORT_ERRORS,
    Connector,
    alive,
    check_http_client,
    new_http,
    shut_down,
    socket_of,
)
from h2o_client.errors import TransportError
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Effect, Fetch, Send, Sleep
from h2o_client.protocol.exchange import Exchange

T = TypeVar("T")
F = TypeVar("F")

_TRIES = 3


def not_reentrant(function: F) -> F:
    """Mark a function: see `is_reentrant()`."""
    return function


def is_reentrant() -> bool:
    """Return False: a signal handler cannot await, so it cannot call our code."""
    return False


def check_home(owner: object) -> None:
    """Raise if a stream belongs to another event loop.

    Raises:
        RuntimeError: the stream was started on another event loop.
    """
    from h2o_client._client.loops import this_loop

    if owner is not this_loop():
        raise RuntimeError("the stream was started on another event loop: use it there")


def new_event() -> "anyio.Event":  # quoted, as anyio imports this on first access
    """Make an event."""
    return anyio.Event()


async def wait_for(event: "anyio.Event", seconds: float) -> None:
    """Wait for an event, for at most this many seconds."""
    with anyio.move_on_after(seconds):
        await event.wait()


async def retry_while_shielded(
    clean_up: Callable[[], Awaitable[None]],
    deadline: Deadline,  # noqa: ARG001 -- the clean-up observes it itself
) -> bool:
    """Await a clean-up, shielded from cancellation; return whether it has finished.

    asyncio's native cancellation passes through every shield, and interrupts a request. The
    clean-up is then repeated, as it only sends what the server has not received yet. After several
    such cancellations it gives up.
    """
    interrupted: BaseException | None = None
    for _ in range(_TRIES):
        try:
            with anyio.CancelScope(shield=True):
                await clean_up()
        except anyio.get_cancelled_exc_class() as error:
            interrupted = error
        else:
            break
    if interrupted is not None:
        try:
            raise interrupted
        finally:
            interrupted = None  # its traceback holds this frame
    return True


async def finish(call: Callable[[], Awaitable[T]], *, after_interruption: float) -> T:
    """Await a call in a separate task, so that cancelling this task does not interrupt it.

    Args:
        call: what to await.
        after_interruption: seconds that it may still take once this task is cancelled.
    """
    results: list[T] = []
    errors: list[Exception] = []
    done = anyio.Event()
    scope = anyio.CancelScope(shield=True)
    interruption: BaseException | None = None

    async def run() -> None:
        with scope:
            try:
                results.append(await call())
            except Exception as error:  # noqa: BLE001 -- raised again below, outside the group
                errors.append(error)
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            scope.deadline = anyio.current_time() + after_interruption
            raise
        except BaseException as error:  # noqa: BLE001 -- Ctrl-C; raised below, outside the group
            scope.deadline = anyio.current_time() + after_interruption
            interruption = error
    if interruption is not None:
        try:
            raise interruption
        finally:
            interruption = None  # its traceback holds this frame
    if errors:
        raise errors.pop()
    return results[0]


class Interruptible:
    """The base of the player: its response, and waits that another task can interrupt."""

    def __init__(self) -> None:
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._interrupted = False
        self._effect_scope: anyio.CancelScope | None = None

    def interrupt(self) -> bool:
        """Wake the waiting task; return whether that was possible."""
        self._interrupted = True
        if self._effect_scope is None:
            return shut_down(self._response)
        self._effect_scope.cancel()
        return True

    async def release(self) -> None:
        """Release the open response, if any."""
        response, self._response = self._response, None
        chunks, self._chunks = self._chunks, None
        if response is not None:
            with anyio.CancelScope(shield=True):
                try:
                    if chunks is not None:
                        await _exhaust(chunks)
                finally:  # a native cancellation passes through the shield
                    await response.aclose()

    async def _interruptible(
        self, perform: Callable[[Effect], Awaitable[object]], effect: Effect
    ) -> object:
        """Perform an effect that `interrupt()` can end."""
        outer = self._effect_scope
        try:
            with anyio.CancelScope() as self._effect_scope:
                return await perform(effect)
        except BaseExceptionGroup as group:
            # On trio, Ctrl-C can hit a task that is connecting, or a task of `finish()`.
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._effect_scope = outer
        raise TransportError("interrupted")

    async def _get_response(
        self, http: httpx.AsyncClient, request: httpx.Request, effect: Send | Fetch
    ) -> httpx.Response:
        """Send a request within a total time, as httpx's limits restart with every byte."""
        connect, within = effect.connect.left(), effect.deadline.left()
        if (
            within is not None
            and connect is not None
            and effect.deadline.limit in ("first_token", "idle")
        ):
            within += connect
        with anyio.move_on_after(within):
            return await http.send(request, stream=True, follow_redirects=False)
        raise effect.deadline.exceeded()

    def _interruptible_next(self, chunks: AsyncIterator[bytes]) -> Callable[[], Awaitable[bytes]]:
        """Return a function for reads that `interrupt()` can end.

        A cancel scope doubles the cost of a token, so it is only used with transports that do not
        expose their socket.
        """
        if socket_of(self._response) is not None:
            return chunks.__anext__

        async def read() -> bytes:
            try:
                with anyio.CancelScope() as self._effect_scope:
                    return await anext(chunks)
            finally:
                self._effect_scope = None
            raise TransportError("interrupted")

        return read

    async def _read_until(self, chunks: AsyncIterator[bytes], deadline: Deadline) -> bytes:
        """Read with a shorter limit than httpx was given when the body began."""
        with anyio.move_on_after(deadline.left()):
            return await anext(chunks, b"")
        raise deadline.exceeded(begun=True)

    async def _sleep(self, effect: Sleep) -> None:
        await anyio.sleep(effect.seconds)

    async def _acquire(self, lock: "anyio.Lock", within: float | None) -> bool:
        """Acquire a lock; return whether that succeeded within this time."""
        with anyio.move_on_after(within):
            await lock.acquire()
            return True
        return False


async def _exhaust(chunks: AsyncIterator[bytes]) -> None:
    """Finish httpx's generators of a body, without waiting for bytes.

    They are nested, and closing the outer one leaves the inner ones to the garbage collector, which
    makes trio warn. A cancellation ends all of them, from the inside out.
    """
    with contextlib.suppress(*TRANSPORT_ERRORS), anyio.CancelScope() as scope:
        scope.cancel()
        async for _ in chunks:
            pass


class Connections(Protocol):
    """The part of a client that a player uses."""

    _http: httpx.AsyncClient
    _opening: "anyio.Lock"  # quoted, as anyio imports this on first access


class ConnectionOwner(ABC):
    """The base of the client: its connections belong to one process and one event loop."""

    _exchange: Exchange
    _streams: WeakValueDictionary[int, Any]
    _closed: bool

    def __init__(
        self, http_client: httpx.AsyncClient | None, proxy: str | None, transport: str | None
    ) -> None:
        self._proxy, self._transport = proxy, transport
        self._begun = False
        self._pid, self._forks = PROCESS.id, PROCESS.forks
        self._loop: object = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._opening = anyio.Lock()
        self._owned = http_client is None
        if http_client is not None:
            check_http_client(http_client, httpx.AsyncClient, proxy, transport)
        self._http = http_client or self._own_http()

    def __del__(self) -> None:
        # Closing needs an event loop, which the garbage collector does not have.
        if getattr(self, "_begun", False) and not self._closed:
            warnings.warn(
                f"{self!r} was not closed: use `async with`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def _own_http(self) -> httpx.AsyncClient:
        return new_http(httpx.AsyncClient, self._proxy, self._transport)

    @abstractmethod
    def _forget_streams(self) -> None:
        """Leave open connections to the process or event loop that they belong to."""

    @abstractmethod
    async def _clean_up(self, deadline: Deadline) -> None:
        """Close all connections, and notify the server."""

    def _connector(self) -> Connector | None:
        """Return a function that connects without an event loop; None with an `http_client`."""
        return (
            partial(new_http, httpx.Client, self._proxy, self._transport) if self._owned else None
        )

    def _close_at_exit(self, deadline: Deadline) -> None:  # noqa: ARG002 -- this returns at once
        """Refuse further calls; remaining reads are in a thread that ends with the process."""
        self._closed = True

    def _is_in_use(self) -> bool:
        """Whether streams are open on the previous event loop, which is still running."""
        from h2o_client._client.loops import is_on_watch

        runs = self._guard is not None and is_on_watch(self._guard)
        return runs and any(stream.running for stream in alive(self._streams))

    async def _prepare(self) -> None:
        """Make new connections if this is another event loop, or a fork of the process.

        Raises:
            RuntimeError: the client uses the caller's `http_client`, or is in use elsewhere.
        """
        from h2o_client._client.loops import this_loop, watch_over

        loop = this_loop()
        if self._pid == PROCESS.id and self._loop is loop:
            self._begun = self._owned
            return
        first, forked = self._loop is None, self._pid != PROCESS.id
        if not first and not forked and self._is_in_use():
            raise RuntimeError(
                "this client has open streams on another event loop: use one client per event loop"
            )
        if not first or forked:
            if not self._owned:
                raise RuntimeError(
                    "this client was used on another event loop or before a fork, with your own "
                    "http_client: create both in each event loop and process"
                )
            if forked:
                KEPT_AFTER_FORK.extend([self._http, self._guard])
                self._exchange.session.leave_to_parent()
            self._pid, self._forks = PROCESS.id, PROCESS.forks
            self._opening = anyio.Lock()
            self._forget_streams()
            self._http = self._own_http()
        self._loop = loop
        if self._owned:
            self._guard = await watch_over(self._http.aclose)
        self._begun = self._owned

    async def _prepare_to_clean_up(self) -> bool:
        """Prepare a clean-up; return False if everything open belongs to another process."""
        if self._pid != PROCESS.id:
            return False
        await self._prepare()
        return True

    async def _close_connections(self) -> None:
        if self._owned:
            with anyio.CancelScope(shield=True):
                await self._http.aclose()
                if self._guard is not None:
                    from h2o_client._client.loops import let_go

                    await let_go(self._guard)
