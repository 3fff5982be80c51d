"""The twin of `_sync_player.py`: performs effects through `httpx.AsyncClient`."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, assert_never

import anyio
import httpx

from h2o_client._http import (
    AMBIENT,
    TRANSPORT_ERRORS,
    build_request,
    is_less,
    log_response,
    read_head,
    shut_down,
    socket_of,
    time_limits,
    translate,
    unread_body,
)
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

if TYPE_CHECKING:
    from h2o_client._async import AsyncH2oClient

T = TypeVar("T")


class AsyncPlayer:
    """The twin of `Player`.

    Args:
        client: the client, whose connections and lock are used.
        deadline: when everything must be done, on the ambient clock, or None.

    Attributes:
        closing: set when the stream is closed while its reader is at work: no effect follows.
        reader: reads on without the flow, if it may: see `Emit`.
        next: gives it the next bytes.
        thread: None: callbacks cannot await what closes their stream.
    """

    def __init__(self, client: "AsyncH2oClient", deadline: float | None = None) -> None:
        self._client = client
        self._deadline = deadline
        self._limits: dict[str, float | None] = {}
        self._steady: float | None = None  # the limit of a read that httpx watches over
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._first_read: Read | None = None  # the effect whose limit they have
        self._effect_scope: anyio.CancelScope | None = None
        self._halted = False
        self._interrupted = False
        self.closing = False
        self.reader: Reader | None = None
        self.next: Callable[[], Awaitable[bytes]]
        self.thread: int | None = None

    async def play(self, flow: Flow[T]) -> T:
        """Play a flow to its end; nobody waits for its tokens."""
        steps = Stepper(flow)
        with steps:
            try:
                while await self.advance(steps) is not None:
                    pass
            finally:
                steps.close()
                await self.release()
        return steps.result

    async def advance(
        self, steps: Stepper[T], outcome: float | Exception | None = None
    ) -> Emit | None:
        """Play a flow until it emits. None: it has ended.

        Args:
            steps: drives the flow.
            outcome: of the reader's last read, if there was one: when it began, if it gave no
                texts, or what it failed with.
        """
        if isinstance(outcome, Exception):
            outcome = await self._failure(outcome, self._first_read)
        if self.closing:
            raise IncompleteStreamError("the stream was closed while it was read")
        self.reader = None
        effect = steps.step(outcome)
        while effect is not None:
            if type(effect) is Emit:
                self.thread = None
                self.reader = effect.reader
                if self._halted:
                    self.reader = None
                return effect
            effect = steps.step(await self._outcome(effect))
        return None

    def halt(self) -> None:
        """Let the flow see to each read from now on: it is to end."""
        self._halted = True
        self.reader = None

    async def _failure(self, error: Exception, effect: Effect | None) -> H2oError:
        """Release the response of an effect that failed; return the error to throw in."""
        failure = error if isinstance(error, H2oError) else translate(error, effect)
        await self.release()
        if self._interrupted and isinstance(failure, TransportError):
            return CallerStoppedError("the stream was stopped")
        return failure

    async def _outcome(self, effect: Effect) -> object:
        """Perform an effect; return its answer, or the error that is to be thrown in."""
        try:
            outcome = await self._interruptible(effect)
        except (H2oError, *TRANSPORT_ERRORS) as error:
            outcome = await self._failure(error, effect)
        except RuntimeError:  # httpx's, of a client that was closed meanwhile
            if not self.closing:
                raise
            outcome = None
        if self.closing:
            raise IncompleteStreamError("the stream was closed while it was read")
        return outcome

    async def _interruptible(self, effect: Effect) -> object:
        """Perform an effect where `interrupt()` can reach it."""
        outer = self._effect_scope
        try:
            with anyio.CancelScope() as self._effect_scope:
                return await self._perform(effect)
        finally:
            self._effect_scope = outer
        raise TransportError("interrupted")

    async def _perform(self, effect: Effect) -> object:
        match effect:
            case Read():
                return await self._read(effect)
            case Send():
                return await self._send(effect)
            case Close():
                await self.release()
            case Sleep():
                await self._sleep(effect)
            case Exclusive():
                return await self._play_alone(effect)
            case Finish():
                return await self._finish(effect)
            case Emit():
                pass  # play() takes no tokens
            case _:
                assert_never(effect)
        return None

    async def _send(self, effect: Send) -> Head:
        await self.release()
        connect, within = self._within(effect.connect), self._within(effect.within)
        self._limits = time_limits(connect, within)
        request = build_request(self._client._http, effect.request, self._limits)
        begun = AMBIENT.clock()
        self._response = await self._get_response(request, effect)
        log_response(effect.request, self._response.status_code, begun)
        return read_head(self._response)

    async def _get_response(self, request: httpx.Request, effect: Send) -> httpx.Response:
        """Send a request, within all of its time: httpx's limits begin anew with every byte."""
        connect, within = self._within(effect.connect), self._within(effect.within)
        if within is not None and connect is not None and effect.limit != "total":
            within += connect
        with anyio.move_on_after(within):
            return await self._client._http.send(request, stream=True, follow_redirects=False)
        raise TransportTimeoutError.struck(effect.limit, None)

    async def _read(self, effect: Read) -> bytes:
        within = self._within(effect.within)
        chunks = self._chunks
        if chunks is None:
            if self._response is None:
                return b""
            self._limits["read"] = self._steady = within
            self._first_read = effect
            chunks = self._chunks = aiter(unread_body(self._response))
            self.next = self._next(chunks)
        if is_less(within, self._steady, effect.limit):
            chunk = await self._read_within(chunks, within, effect.limit)
        else:
            chunk = await anext(chunks, b"")
        if not chunk:
            await self.release()
        return chunk

    def _next(self, chunks: AsyncIterator[bytes]) -> Callable[[], Awaitable[bytes]]:
        """Return what reads where `interrupt()` can end it.

        A cancel scope costs as much as all the rest of a token's way: it is for transports that
        do not show their socket.
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

    async def _read_within(self, chunks: AsyncIterator[bytes], within: float, limit: str) -> bytes:
        """Read within less than what httpx was told when the body began."""
        with anyio.move_on_after(within):
            return await anext(chunks, b"")
        raise TransportTimeoutError.struck(limit, None)

    async def _sleep(self, effect: Sleep) -> None:
        await anyio.sleep(effect.seconds)

    async def _play_alone(self, effect: Exclusive) -> object:
        """Play a flow while no other task plays such a one."""
        opening = self._client._opening
        with anyio.move_on_after(self._within(effect.within)) as limit:
            await opening.acquire()
        if limit.cancelled_caught:
            raise TransportTimeoutError.struck(effect.limit, None)
        try:
            return await self.play(effect.flow)
        finally:
            opening.release()

    async def _finish(self, effect: Finish) -> object:
        """Play a flow that a cancellation does not interrupt at once.

        It has a player of its own, which nobody closes or interrupts.
        """
        player = AsyncPlayer(self._client, self._deadline)
        return await shielded(lambda: player.play(effect.flow), after_cancel=effect.within)

    def _within(self, seconds: float | None) -> float | None:
        """Return what is left to an effect, if everything has a deadline."""
        if self._deadline is None:
            return seconds
        left = self._deadline - AMBIENT.clock()
        if left <= 0:
            raise TransportTimeoutError.struck("cleanup", None)
        return left if seconds is None else min(seconds, left)

    async def release(self) -> None:
        """Release the open response, if there is one."""
        response, self._response = self._response, None
        chunks, self._chunks = self._chunks, None
        if response is not None:
            with anyio.CancelScope(shield=True):
                try:
                    if chunks is not None:
                        await exhaust(chunks)
                finally:  # a native cancellation passes through the shield
                    await response.aclose()

    def interrupt(self) -> bool:
        """Wake the task that is performing an effect."""
        self._interrupted = True
        if self._effect_scope is None:
            return shut_down(self._response)
        self._effect_scope.cancel()
        return True


async def exhaust(chunks: AsyncIterator[bytes]) -> None:
    """Bring httpx's generators of a body to their end, without waiting for bytes.

    They stand one within another, and closing the outer one leaves those within to the garbage
    collector, of which trio warns. A cancellation ends them all, from the inside.
    """
    with contextlib.suppress(*TRANSPORT_ERRORS), anyio.CancelScope() as scope:
        scope.cancel()
        async for _ in chunks:
            pass


async def shielded(call: Callable[[], Awaitable[T]], *, after_cancel: float) -> T:
    """Await a call in a task of its own, which a cancellation of this one does not interrupt.

    Args:
        call: what to await.
        after_cancel: seconds that are left to it once this task is cancelled.
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
            except Exception as error:  # noqa: BLE001 -- raised again below, without a group around
                errors.append(error)
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            scope.deadline = anyio.current_time() + after_cancel
            raise
        except BaseException as error:  # noqa: BLE001 -- raised below: Ctrl-C, without a group around
            scope.deadline = anyio.current_time() + after_cancel
            interruption = error
    if interruption is not None:
        try:
            raise interruption
        finally:
            interruption = None  # its traceback holds this frame
    if errors:
        raise errors.pop()
    return results[0]
