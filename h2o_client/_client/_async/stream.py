"""The stream of one answer, which runs an operation as its reader asks for more.

However the stream ends, the server is notified. `player.py` performs the effects, and the core
decides what is sent.
"""

import warnings
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from h2o_client._client._async._runtime import (
    check_home,
    is_reentrant,
    new_event,
    not_reentrant,
    retry_while_shielded,
    wait_for,
)
from h2o_client._client._async.base import AsyncBaseClient
from h2o_client._client._async.player import AsyncPlayer
from h2o_client._client.http import (
    AMBIENT,
    KEPT_AFTER_FORK,
    POLL_INTERVAL,
    PROCESS,
    TRANSPORT_ERRORS,
)
from h2o_client.errors import H2oError, IncompleteStreamError
from h2o_client.protocol.chat import Operation
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import CallerStoppedError, Pump, Stepper
from h2o_client.protocol.state import OVER, RUNNING, State
from h2o_client.protocol.tokens import TokenQueue
from h2o_client.types import Reply, Token

_OPEN = State.OPEN  # looking up a member of an Enum is slow in Python 3.11


class AsyncChatStream:
    """The answer to one call as it arrives, returned by `AsyncH2oClient.stream()`.

    Iterating yields the texts of the tokens as they arrive, without special tokens and empty texts.
    Nothing is sent until the first one is requested. However the iteration ends, a running
    generation is stopped on the server, and the conversation is deleted. Use the stream in an
    `async with` block, or call `aclose()`, unless you read it to its end.

    One task reads; `stop()` and `aclose()` may be called from any task of the same event loop.
    """

    def __init__(
        self, client: AsyncBaseClient, operation: Operation, conversation: object = None
    ) -> None:
        self._client = client
        self._conversation = conversation  # keeps it alive while the stream is being read
        self._operation = operation
        self._life = operation.life
        self._player = AsyncPlayer(client, self._life)
        self._steps: Stepper[Reply] = Stepper(operation.run())
        self._permit = self._steps.permit
        self._pump: Pump | None = None  # the pump that the flow is waiting for
        self._queue = TokenQueue()
        self._texts = self._queue.texts
        self._enders: list[bool] = []  # an entry for each stop() or close() that may end it
        self._left = new_event()
        self._pid = PROCESS.id
        self._home: object = None  # its owner (see `check_home()`), once it has started

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._life.state.value}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the text of the next visible token.

        Raises:
            StopAsyncIteration: the answer is complete, or was stopped.
            H2oError: the answer is incomplete; `partial` is the part that had arrived.
            RuntimeError: the stream is closed, or another task is reading.
        """
        texts = self._texts
        while not texts:
            if not await self._advance():
                raise StopAsyncIteration
        return texts.popleft()

    def __del__(self) -> None:
        # If __init__ rejected an argument, the attributes are missing.
        if hasattr(self, "_pid") and self.running and not self._is_inherited():
            try:
                self._warn_unclosed()
            finally:
                self._client._drop(self._operation, self._player)

    @property
    def text(self) -> str:
        """The text that has arrived so far, which can be ahead of the iteration."""
        return self._operation.text

    @property
    def reply(self) -> Reply:
        """The reply, once the stream has ended.

        Raises:
            RuntimeError: the stream has not ended, or the answer is incomplete.
        """
        if not self._steps.returned:
            raise RuntimeError("the stream has not been read to its end, so it has no reply yet")
        return self._steps.result

    @property
    def running(self) -> bool:
        """Whether the first request was sent and the stream has not ended."""
        return self._life.state in RUNNING

    @property
    def ended(self) -> bool:
        """Whether the stream was read to its end, failed, was stopped or was closed."""
        return self._life.state in OVER

    def events(self) -> "AsyncTokenEvents":
        """Iterate `Token` objects instead of texts, including special ones.

        On 2025 servers there are two more kinds of special tokens: an `Event` is anything other
        than text, and a `Revision` has the whole text of the answer, which replaces all earlier
        texts.

        Returns:
            An iterator of the tokens.

        Examples:
            >>> async for token in stream.events():
            ...     number, probability = token.id, token.logprob
        """
        return AsyncTokenEvents(self)

    async def read(self) -> Reply:
        """Read to the end.

        Returns:
            The reply.

        Raises:
            H2oError: the answer is incomplete; `partial` is the part that had arrived.
            RuntimeError: the stream is closed, or another task is reading.

        Examples:
            >>> reply = await stream.read()
            >>> reply.finish_reason
            'eos_token'
        """
        while await self._advance():
            self._texts.clear()
        return self.reply

    async def display(self) -> Reply:
        """Show the answer in a notebook as it arrives.

        The notebook's stop button ends the answer like `stop()`: the text so far stays on the
        screen, `finish_reason` is "stopped", and the cell continues. A second press, while the
        server is being notified, ends the cell. In a terminal the answer is written as text.

        Returns:
            The reply.

        Raises:
            ModuleNotFoundError: IPython is not installed.
            H2oError: the answer is incomplete; `partial` is the part that had arrived.
            RuntimeError: the stream is closed, or another task is reading.
        """
        from h2o_client import notebook

        return await notebook.display_async(self)

    async def stop(self) -> None:
        """End the answer here: the server stops generating, and the stream ends at once.

        This is not an error: `reply` has the text that had arrived, and its `finish_reason` is
        "stopped". You may call it while another task reads; that task's iteration then ends.

        Examples:
            >>> first = await anext(stream)
            >>> await stream.stop()
            >>> stream.reply.finish_reason
            'stopped'
        """
        if self._life.state in OVER or self._is_inherited():
            return
        if is_reentrant():  # the interrupted code continues when this returns, and then stops
            self._life.move(State.STOPPING)
            self._player.interrupt()
            return
        if self._home is not None:
            check_home(self._home)
        await AsyncPlayer(self._client).play(self._operation.stop())
        if not await self._instead_of_reader(self._play_out) and self._life.state is State.STOPPING:
            self._player.interrupt()

    async def aclose(self) -> None:
        """End the stream: notify the server, and release the connection.

        Calling it again does nothing. If another task is reading, it gets an
        `IncompleteStreamError`. When this returns, the server has been notified, or
        `Timeouts.cleanup` was exceeded.

        Examples:
            >>> first = await anext(stream)
            >>> await stream.aclose()
            >>> stream.ended
            True
        """
        await self._close(self._client._exchange.cleanup())

    def _warn_unclosed(self) -> None:
        if self.running:
            what = f"{self!r} was not closed: use `async with`"
            warnings.warn(what, ResourceWarning, stacklevel=1, source=self)

    def _is_inherited(self) -> bool:
        """Whether this process is a fork of the one that the stream belongs to."""
        if self._pid == PROCESS.id:
            return False
        KEPT_AFTER_FORK.append(self._player)
        return True

    def _tell_to_close(self) -> bool:
        """Make an active reader end the stream; return False if it cannot be interrupted.

        Once the answer has ended, the reader is only cleaning up, and is not interrupted.
        """
        if self._life.state is State.ANSWERED or self._steps.finished:
            return True
        self._life.move(State.CLOSING)
        return self._player.interrupt()

    async def _close(self, deadline: Deadline) -> None:
        if self._pid != PROCESS.id and self._is_inherited():
            self._end(State.CLOSED)
        if is_reentrant():
            # The interrupted code continues when this returns, and then sees the new state.
            if self._life.state is not State.ANSWERED:
                self._life.move(State.CLOSING)
            await self._client._abandon(self._operation, deadline)
            return
        told = False
        while not self._left.is_set():
            if await self._instead_of_reader(partial(self._leave, deadline)):
                return
            if not told and not self._tell_to_close():
                # The reader waits for a response: notify the server from here. Once the server has
                # stopped generating, that response ends.
                await retry_while_shielded(
                    partial(self._client._abandon, self._operation, deadline), deadline
                )
            told = True
            if deadline.expired():
                return
            await wait_for(self._left, deadline.at_most(POLL_INTERVAL))

    @not_reentrant
    async def _instead_of_reader(self, end: Callable[[], Awaitable[None]]) -> bool:
        """End the stream if it is not being read; return False if it is."""
        self._enders.append(True)
        try:
            if not self._steps.acquire():
                return False
            try:
                if not self._left.is_set():
                    await end()
            finally:
                self._steps.release()
        finally:
            self._enders.pop()
        return True

    async def _next_token(self) -> Token:
        while (token := self._queue.token()) is None:
            if not await self._advance():
                raise StopAsyncIteration
        return token

    @not_reentrant
    async def _advance(self) -> bool:
        """Read until something has arrived (True), or to the end (False)."""
        permit = self._permit
        try:
            mine = permit.pop()
        except IndexError:
            mine = False
        except BaseException:  # Ctrl-C, which Python checks for after the call
            permit.append(True)
            raise
        if not mine:
            return await self._wait_for_end()
        try:
            pump = self._pump
            if pump is None or self._pid != PROCESS.id or self._life.state is not _OPEN:
                return await self._play()
            # The hot path: nearly every token passes here, so it does only what is necessary.
            outcome: float | Exception = AMBIENT.clock()
            texts: Sequence[str] = ()
            try:
                texts = pump.parser.read_on(await self._player.next())
            except StopAsyncIteration:
                pump.parser.read_on(b"")
            except (H2oError, *TRANSPORT_ERRORS) as error:
                outcome = error
            except BaseException as error:
                if isinstance(error, RuntimeError):
                    check_home(self._home)
                await self._break_off(error)
                raise
            if texts and self._life.state is _OPEN:
                self._texts.extend(texts)
                return True
            try:
                return await self._play(outcome)
            finally:
                del outcome  # httpx's error refers to the session
        finally:
            permit.append(True)

    async def _wait_for_end(self) -> bool:
        """Wait while another task is ending the stream; raise if it is reading instead."""
        if not (self._enders or self._left.is_set()):
            raise self._steps.busy()
        await wait_for(self._left, self._client._exchange.configuration.timeouts.cleanup)
        if self._steps.returned:
            return False
        if self._life.state not in OVER:
            raise self._steps.busy()  # the other task could not end it either
        raise IncompleteStreamError("the stream was closed", partial=self.text)

    async def _play(self, outcome: object = None) -> bool:
        """Run the flow until something may have arrived (True), or to the end (False).

        Args:
            outcome: the outcome of the pump that the flow is waiting for, if any.
        """
        if self._left.is_set():
            if self._steps.returned:
                return False
            raise RuntimeError("the stream is closed")
        if self._pid != PROCESS.id and self._is_inherited():
            raise RuntimeError("the stream belongs to the parent process")
        if self._home is not None:
            check_home(self._home)
        pump, self._pump = self._pump, None
        if pump is not None and outcome is None:
            outcome = CallerStoppedError("the stream was stopped")
        if self._life.state is State.NEW:
            await self._client._begin(self)
            self._home = self._client._loop
        try:
            effect = await self._player.advance(self._steps, outcome, pump)
        except BaseException as error:
            await self._break_off(error)
            raise
        finally:
            del outcome  # httpx's error refers to the session
        if effect is None:
            self._end(State.ENDED)
            return False
        if isinstance(effect, Pump):
            self._pump = effect
            self._queue.parser = effect.parser
        else:
            self._queue.put(effect.tokens)
        return True

    async def _play_out(self) -> None:
        """Run the flow to its end, and discard the tokens."""
        while await self._play():
            self._forget()

    async def _break_off(self, error: BaseException) -> None:
        """End the stream because of an error, and set the error's `partial`."""
        await self._leave(self._client._exchange.cleanup())
        if isinstance(error, H2oError) and not error.partial:
            error.partial = self.text

    def _end(self, state: State) -> None:
        """Record that the stream has ended."""
        self._life.state = state
        self._forget()
        self._left.set()

    async def _leave(self, deadline: Deadline) -> None:
        """Close the flow at its current point, release the response, and notify the server."""
        self._life.move(State.CLOSING)
        self._forget()
        try:
            self._steps.close()
            await retry_while_shielded(partial(self._clean_up, deadline), deadline)
        finally:
            self._end(State.CLOSED)

    def _forget(self) -> None:
        """Discard buffered tokens, except a text that a reader is taking at this moment."""
        self._queue = TokenQueue()
        self._texts = self._queue.texts

    async def _clean_up(self, deadline: Deadline) -> None:
        try:
            await self._player.release()
        finally:
            await self._client._abandon(self._operation, deadline)


class AsyncTokenEvents:
    """An iterator of the tokens of a stream, returned by `AsyncChatStream.events()`."""

    def __init__(self, stream: AsyncChatStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        """Return the next token; raises the same errors as the stream's own iteration."""
        return await self._stream._next_token()
