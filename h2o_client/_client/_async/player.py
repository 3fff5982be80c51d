"""Performs the effects of flows through `httpx.AsyncClient`."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, assert_never

from h2o_client._client._async._runtime import Connections, Interruptible, finish, not_reentrant
from h2o_client._client.http import (
    AMBIENT,
    TRANSPORT_ERRORS,
    build_request,
    is_less,
    log_response,
    read_head,
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

T = TypeVar("T")


class AsyncPlayer(Interruptible):
    """Performs the effects of flows; holds at most one open response.

    Args:
        client: the client, whose connections and lock are used.
        deadline: when everything must be done, on the ambient clock, or None.

    Attributes:
        closing: set when the stream is closed while its reader is at work: no effect follows.
        reader: reads on without the flow, if it may: see `Emit`.
        next: gives it the next bytes.
    """

    def __init__(self, client: Connections, deadline: float | None = None) -> None:
        super().__init__()
        self._client = client
        self._deadline = deadline
        self._limits: dict[str, float | None] = {}
        self._steady: float | None = None  # the limit of a read that httpx watches over
        self._first_read: Read | None = None  # the effect whose limit they have
        self._halted = False
        self.closing = False
        self.reader: Reader | None = None
        self.next: Callable[[], Awaitable[bytes]]

    @not_reentrant
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
            outcome = await self._interruptible(self._perform, effect)
        except (H2oError, *TRANSPORT_ERRORS) as error:
            outcome = await self._failure(error, effect)
        except RuntimeError:  # httpx's, of a client that was closed meanwhile
            if not self.closing:
                raise
            outcome = None
        if self.closing:
            raise IncompleteStreamError("the stream was closed while it was read")
        return outcome

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
        self._response = await self._get_response(
            self._client._http, request, connect, within, effect.limit
        )
        log_response(effect.request, self._response.status_code, begun)
        return read_head(self._response)

    async def _read(self, effect: Read) -> bytes:
        within = self._within(effect.within)
        chunks = self._chunks
        if chunks is None:
            if self._response is None:
                return b""
            self._limits["read"] = self._steady = within
            self._first_read = effect
            chunks = self._chunks = aiter(unread_body(self._response))
            self.next = self._interruptible_next(chunks)
        if is_less(within, self._steady, effect.limit):
            chunk = await self._read_within(chunks, within, effect.limit)
        else:
            chunk = await anext(chunks, b"")
        if not chunk:
            await self.release()
        return chunk

    async def _play_alone(self, effect: Exclusive) -> object:
        """Play a flow while no other task plays such a one."""
        opening = self._client._opening
        if not await self._acquire(opening, self._within(effect.within)):
            raise TransportTimeoutError.struck(effect.limit, None)
        try:
            return await self.play(effect.flow)
        finally:
            opening.release()

    async def _finish(self, effect: Finish) -> object:
        """Play a flow that is not interrupted at once: see `finish()`.

        It has a player of its own, which nobody closes or interrupts.
        """
        player = AsyncPlayer(self._client, self._deadline)
        return await finish(lambda: player.play(effect.flow), after_interruption=effect.within)

    def _within(self, seconds: float | None) -> float | None:
        """Return what is left to an effect, if everything has a deadline."""
        if self._deadline is None:
            return seconds
        left = self._deadline - AMBIENT.clock()
        if left <= 0:
            raise TransportTimeoutError.struck("cleanup", None)
        return left if seconds is None else min(seconds, left)
