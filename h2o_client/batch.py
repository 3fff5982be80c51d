"""Many prompts, several at a time, with any client. Made by `H2oClient.batch()`.

A batch pulls prompts one by one from any iterable, never more ahead than it can hold, and gives
the results as they finish, so that its memory does not grow with the number of prompts. What goes
wrong with one prompt is the error of its result.

`Batch` works with threads. It pulls prompts in the thread that iterates it: iterables need not
know of threads, and none of ours can be stuck in one. `AsyncBatch` works with tasks, one of which
pulls. Both are left through their block alone: leaving closes the streams that run, which tells
the server to stop and delete, and waits for the threads or tasks.

The service limits messages by session or address. So one refusal is the concern of all: `RateLimit`
holds when the workers go on, and none sends anything before. The prompt that met the limit is asked
again after the pause, by the worker that has it. A call's own retries wait for no limit: they end
where they would, and leave the wait to the batch.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextvars import copy_context
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import anyio

from h2o_client import RateLimitError, Retries, Retry
from h2o_client.options import as_arguments
from h2o_client.types import Message, Reply

Messages: TypeAlias = str | Sequence[Mapping[str, Any] | Message]
Prompt: TypeAlias = Messages | Mapping[str, Any]
"""A prompt, messages, or a mapping: `prompt` or `messages`, and `parameters`, `model`, `id`."""

Prompts: TypeAlias = Iterable[Prompt]
AsyncPrompts: TypeAlias = Iterable[Prompt] | AsyncIterable[Prompt]

WINDOW = 120.0
"""Seconds after which the service's own limit was free again; it does not say so itself."""

_SHORTEST = 1.0  # seconds of a pause, where the server says 0
_JOIN = 10.0  # seconds that a thread is waited for which cannot be reached in its socket
_TURN = 1.0  # seconds: where a wait cannot be interrupted (Windows), Ctrl-C is seen between two
_KEYS = frozenset({"id", "messages", "model", "parameters", "prompt"})
_NO_PARAMETERS = frozenset({"messages", "model", "parameters", "recover", "retries", "self"})
_END: Any = object()
_logger = logging.getLogger("h2o_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What came of one prompt: `reply` or `error`, the other is None.

    Attributes:
        index: which of the prompts it is, from 0.
        prompt: the prompt, as it was given.
        id: the `id` of a prompt that is a mapping and has one.
        reply: the reply.
        error: what went wrong: an `H2oError`, or a `TypeError` or `ValueError` for a prompt that
            cannot be sent.
    """

    index: int
    prompt: Any
    id: Any = None
    reply: Reply | None = None
    error: Exception | None = None


class Stream(Protocol):
    """Of a `ChatStream`, what a batch needs."""

    def read(self) -> Reply:
        """Read to the end."""
        ...

    def close(self) -> None:
        """Leave it, from any thread."""
        ...


class AsyncStream(Protocol):
    """Of an `AsyncChatStream`, what a batch needs."""

    async def read(self) -> Reply:
        """Read to the end."""
        ...

    async def aclose(self) -> None:
        """Leave it."""
        ...


class Streaming(Protocol):
    """Of an `H2oClient`, what a batch needs."""

    @property
    def stream(self) -> Callable[..., Stream]:
        """`H2oClient.stream()`."""
        ...


class AsyncStreaming(Protocol):
    """Of an `AsyncH2oClient`, what a batch needs."""

    @property
    def stream(self) -> Callable[..., AsyncStream]:
        """`AsyncH2oClient.stream()`."""
        ...


class RateLimit:
    """Until when the workers of a batch pause. It waits for nothing itself.

    Args:
        budget: seconds of pause allowed in a row, without an answer between them.
        clock: the time in seconds.
    """

    def __init__(self, budget: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._until = clock()
        self._spent = 0.0

    def delay(self) -> float:
        """Return the seconds that are left of the pause."""
        return max(0.0, self._until - self._clock())

    def refused(self, error: RateLimitError) -> bool:
        """Note that a message met the limit.

        Returns:
            Whether it is to be asked again after the pause; else the budget is used up.
        """
        now = self._clock()
        window = WINDOW if error.retry_after is None else max(error.retry_after, _SHORTEST)
        more = now + window - max(self._until, now)
        if more > 0:
            if self._spent + more > self._budget:
                return False
            self._spent += more
            self._until = now + window
        return True

    def answered(self) -> None:
        """Note that there was an answer."""
        self._spent = 0.0


def without_limit(retries: Retries | int) -> Retries:
    """Return the same retries, but such as leave waiting for a limit to the batch."""
    own = retries if isinstance(retries, Retries) else Retries(attempts=retries)

    def on_retry(retry: Retry) -> None:
        error = retry.error
        if isinstance(error, RateLimitError) and (
            error.retry_after is not None or retry.delay >= WINDOW
        ):
            raise error
        if own.on_retry is not None:
            own.on_retry(retry)

    return replace(own, on_retry=on_retry)


def read_prompt(prompt: Prompt, keywords: Mapping[str, Any]) -> tuple[Messages, dict[str, Any]]:
    """Return the arguments of the call that a prompt stands for.

    Args:
        prompt: the prompt.
        keywords: those of the batch; what the prompt says itself goes over them.

    Raises:
        TypeError: something is of the wrong type, or has an unknown key.
        ValueError: there is neither prompt nor messages, or both.
    """
    call = dict(keywords)
    if not isinstance(prompt, Mapping):
        return prompt, call
    unknown = sorted(repr(key) for key in prompt if key not in _KEYS)
    if unknown:
        raise TypeError(f"a prompt has the keys {sorted(_KEYS)}, not {', '.join(unknown)}")
    given = [key for key in ("prompt", "messages") if prompt.get(key) is not None]
    if len(given) != 1:
        raise ValueError("a prompt that is a mapping has `prompt` or `messages`, one of them")
    if prompt.get("model") is not None:
        call["model"] = prompt["model"]
    own = prompt.get("parameters")
    if own is not None:
        if not isinstance(own, Mapping):
            raise TypeError(f"a prompt's parameters are a mapping, not {type(own).__name__}")
        wrong = sorted(repr(name) for name in own if name in _NO_PARAMETERS)
        if wrong:
            raise TypeError(f"{', '.join(wrong)} is no generation parameter")
        call.update(as_arguments(own, call.get("parameters")))
    messages = prompt[given[0]]
    if given == ["prompt"] and not isinstance(messages, str):
        raise TypeError(f"`prompt` is text, not {type(messages).__name__}")
    return messages, call


class _Common:
    """What both kinds of batches share: their arguments, and the results they make."""

    def __init__(
        self,
        client: Streaming | AsyncStreaming,
        prompts: Any,
        concurrency: int,
        limit_wait: float,
        parameters: Mapping[str, Any],
    ) -> None:
        if isinstance(prompts, str | bytes | Mapping):
            raise TypeError("a batch takes many prompts: put a single one in a list")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise TypeError(f"concurrency is a whole number, not {concurrency!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        if isinstance(limit_wait, bool) or not isinstance(limit_wait, int | float):
            raise TypeError(f"limit_wait is a number of seconds, not {limit_wait!r}")
        if not limit_wait >= 0:
            raise ValueError(f"limit_wait must not be negative, nor {limit_wait}")
        # Made and never begun, so nothing is sent: what is wrong for all is to be raised now.
        client.stream("?", **parameters)
        retries = parameters.get("retries")
        if retries is None:
            retries = getattr(client, "retries", None)  # not every client has any
        if retries is not None:
            parameters = {**parameters, "retries": without_limit(retries)}
        self._parameters = parameters
        self._concurrency = concurrency
        self._limit = RateLimit(limit_wait)
        self._entered = self._left = False
        self._broken: Exception | None = None  # what iterating the prompts raised

    def __repr__(self) -> str:
        state = "left" if self._left else "open" if self._entered else "new"
        return f"<{type(self).__name__} {state}>"

    def call(self, prompt: Prompt) -> tuple[Messages, dict[str, Any]]:
        """Return messages and keywords of the call that a prompt stands for.

        Raises:
            TypeError: something in it is of the wrong type.
            ValueError: something in it cannot be meant.
        """
        return read_prompt(prompt, self._parameters)

    def pausing(self, seconds: float) -> None:
        """Tell that all pause, for so many seconds; a subclass may tell more than the log."""
        _logger.info("too many messages: all pause for %.0f s", seconds)

    def _refused(self, error: RateLimitError) -> bool:
        """Note that a message met the limit; return whether to ask it again after the pause."""
        known = self._limit.delay()
        again = self._limit.refused(error)
        if (pause := self._limit.delay()) > known + (_SHORTEST if known else 0):
            self.pausing(pause)
        return again

    def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("a batch is entered once: make another")
        self._entered = True

    def _check_open(self, block: str) -> None:
        if not self._entered:
            raise RuntimeError(f"use the batch in a block: `{block} client.batch(…) as results`")
        if self._left:
            raise RuntimeError("the batch was left")

    def _end(self) -> None:
        """Raise what the iterable of the prompts raised, once."""
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken


def _result(
    index: int, prompt: Any, reply: Reply | None = None, error: Exception | None = None
) -> BatchResult:
    number = prompt.get("id") if isinstance(prompt, Mapping) else None
    return BatchResult(index=index, prompt=prompt, id=number, reply=reply, error=error)


class Batch(_Common):
    """The results of many prompts, as they finish. Made by `H2oClient.batch()`.

    Use it in a `with` block, and iterate it there. Nothing is sent before the first result is
    asked for. Leaving the block stops what runs, and waits for it.

    Args:
        client: asks the prompts.
        prompts: the prompts.
        concurrency: how many are asked at a time.
        limit_wait: seconds that all pause, in a row, for the service's limit.
        **arguments: those of each call.
    """

    def __init__(
        self,
        client: Streaming,
        prompts: Prompts,
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        **arguments: Any,
    ) -> None:
        super().__init__(client, prompts, concurrency, limit_wait, arguments)
        self._client = client
        self._source: Iterator[Prompt] | None = iter(prompts)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # there is something to do for a worker
        self._done = threading.Condition(self._lock)  # there is a result
        self._jobs: deque[tuple[int, Prompt]] = deque()
        self._results: deque[BatchResult] = deque()
        self._streams: set[Stream] = set()
        self._threads: list[threading.Thread] = []
        self._pulled = self._finished = self._given = 0

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._left = True
            streams = list(self._streams)
            self._jobs.clear()
            self._results.clear()
            self._work.notify_all()
        # All at once: each has its time limit to tell the server.
        closers = [_thread(stream.close) for stream in streams]
        for thread in closers:
            thread.start()
        until = time.monotonic() + _JOIN
        for thread in closers + self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchResult:
        """Return the next result.

        Raises:
            StopIteration: there is one of every prompt.
            RuntimeError: outside of the `with` block.
            Exception: iterating the prompts raised it; what was pulled before is done by then.
        """
        self._check_open("with")
        while True:
            while self._has_room():
                self._pull()
            with self._lock:
                if self._results:
                    self._given += 1
                    return self._results.popleft()
                if self._given == self._pulled:
                    break
                self._done.wait(_TURN)
        self._end()
        raise StopIteration

    def stream(self, prompt: Prompt) -> Stream:
        """Make the stream that answers a prompt; a subclass may make another."""
        messages, keywords = self.call(prompt)
        return self._client.stream(messages, **keywords)

    def _has_room(self) -> bool:
        """Whether another prompt is to be pulled: first for a free worker, then ahead."""
        with self._lock:
            if self._source is None or self._pulled - self._given >= 2 * self._concurrency:
                return False
            return self._pulled - self._finished < self._concurrency or not self._results

    def _pull(self) -> None:
        assert self._source is not None  # noqa: S101 -- _has_room() saw to it
        try:
            prompt = next(self._source, _END)
        except Exception as error:  # noqa: BLE001 -- raised again when all that runs is done
            self._broken = error
            prompt = _END
        if prompt is _END:
            self._source = None
            return
        with self._lock:
            self._jobs.append((self._pulled, prompt))
            self._pulled += 1
            wanted = self._pulled - self._finished > len(self._threads)
            self._work.notify()
        if wanted and len(self._threads) < self._concurrency:
            thread = _thread(copy_context().run, self._run)
            thread.start()
            self._threads.append(thread)  # not before: Ctrl-C may come upon start()

    def _run(self) -> None:
        """Be a worker."""
        while (job := self._take()) is not None:
            result = self._ask(*job)
            with self._lock:
                if self._left or result is None:
                    return
                self._results.append(result)
                self._finished += 1
                self._done.notify()
            del job, result  # not to be held while there is nothing to do

    def _take(self) -> tuple[int, Prompt] | None:
        with self._lock:
            while not self._jobs and not self._left:
                self._work.wait()
            return None if self._left else self._jobs.popleft()

    def _ask(self, index: int, prompt: Prompt) -> BatchResult | None:
        """Ask a prompt until it is answered or has failed; None: the batch was left."""
        while self._pause():
            try:
                reply = self._read(prompt)
            except RateLimitError as error:
                with self._lock:
                    again = self._refused(error)
                if not again:
                    return _result(index, prompt, error=error)
            except Exception as error:  # noqa: BLE001 -- the result's, not the batch's
                return _result(index, prompt, error=error)
            else:
                with self._lock:
                    self._limit.answered()
                return _result(index, prompt, reply)
        return None

    def _pause(self) -> bool:
        """Wait until the limit lets messages through; False: the batch was left."""
        with self._lock:
            while not self._left and (delay := self._limit.delay()) > 0:
                self._work.wait(delay)
            return not self._left

    def _read(self, prompt: Prompt) -> Reply:
        stream = self.stream(prompt)
        with self._lock:
            if self._left:
                raise RuntimeError("the batch was left")
            self._streams.add(stream)
        try:
            return stream.read()
        finally:
            with self._lock:
                self._streams.discard(stream)


def _thread(call: Callable[..., object], *args: object) -> threading.Thread:
    # A daemon: one that hangs in a socket for longer than was waited must not keep the process.
    return threading.Thread(target=call, args=args, name="h2o_client-batch", daemon=True)


class AsyncBatch(_Common):
    """The twin of `Batch`, for `async with` and `async for`; `prompts` may be async, too."""

    def __init__(
        self,
        client: AsyncStreaming,
        prompts: AsyncPrompts,
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        **arguments: Any,
    ) -> None:
        super().__init__(client, prompts, concurrency, limit_wait, arguments)
        self._client = client
        self._source: Iterator[Prompt] | AsyncIterator[Prompt] = (
            aiter(prompts) if isinstance(prompts, AsyncIterable) else iter(prompts)
        )
        self._begun = self._exhausted = False
        self._active = 0

    async def __aenter__(self) -> Self:
        self._enter()
        self._room = anyio.Semaphore(self._concurrency)
        self._results, self._given = anyio.create_memory_object_stream[BatchResult](
            self._concurrency
        )
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._left = True
        try:
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                return await self._group.__aexit__(exc_type, exc, traceback)
            # The caller's error is not the group's, which would wrap it up.
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)
        finally:
            self._results.close()
            self._given.close()
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchResult:
        """Return the next result; raises what `Batch` does, but `StopAsyncIteration` at the end."""
        self._check_open("async with")
        if not self._begun:
            self._begun = True
            self._group.start_soon(self._feed)
        try:
            return await self._given.receive()
        except anyio.EndOfStream:
            pass
        self._end()
        raise StopAsyncIteration

    def stream(self, prompt: Prompt) -> AsyncStream:
        """The twin of `Batch.stream()`."""
        messages, keywords = self.call(prompt)
        return self._client.stream(messages, **keywords)

    async def _feed(self) -> None:
        """Pull prompts, and start a task for each as soon as there is room for it."""
        try:
            index = 0
            while (prompt := await self._pull()) is not _END:
                self._active += 1
                self._group.start_soon(self._run, index, prompt)
                index += 1
        finally:
            self._exhausted = True
            self._close_at_the_end()
            if isinstance(self._source, AsyncGenerator):  # left to the collector, it would complain
                with anyio.move_on_after(_JOIN, shield=True):
                    await self._source.aclose()

    async def _pull(self) -> Any:
        await self._room.acquire()
        try:
            if isinstance(self._source, AsyncIterator):
                return await anext(self._source, _END)
            return next(self._source, _END)
        except Exception as error:  # noqa: BLE001 -- raised again when all that runs is done
            self._broken = error
            return _END

    async def _run(self, index: int, prompt: Prompt) -> None:
        """Ask a prompt, and hand over its result, as soon as there is room for that."""
        await self._results.send(await self._ask(index, prompt))
        self._room.release()
        self._active -= 1
        self._close_at_the_end()

    def _close_at_the_end(self) -> None:
        if self._exhausted and not self._active:
            self._results.close()

    async def _ask(self, index: int, prompt: Prompt) -> BatchResult:
        while True:
            while (delay := self._limit.delay()) > 0:  # noqa: ASYNC110 -- it can grow meanwhile
                await anyio.sleep(delay)
            try:
                reply = await self._read(prompt)
            except RateLimitError as error:
                if not self._refused(error):
                    return _result(index, prompt, error=error)
            except Exception as error:  # noqa: BLE001 -- the result's, not the batch's
                return _result(index, prompt, error=error)
            else:
                self._limit.answered()
                return _result(index, prompt, reply)

    async def _read(self, prompt: Prompt) -> Reply:
        stream = self.stream(prompt)
        try:
            return await stream.read()
        finally:
            await stream.aclose()
