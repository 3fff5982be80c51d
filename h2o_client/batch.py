"""Send many prompts, several at a time, with any client; see `H2oClient.batch()`.

A batch pulls prompts one by one from any iterable, only as far ahead as it can hold, and yields
the results as they finish, so its memory does not grow with the number of prompts. A failed prompt
yields a result with its error.

`Batch` and `AsyncBatch` differ in how they pull prompts and how they stop. `Batch` runs one thread
per concurrent prompt. It pulls prompts in the thread that iterates it, so iterables need not be
thread-safe, and no worker blocks in one. Closing a worker's stream ends the worker. `AsyncBatch`
runs a task for each prompt and one that pulls, and cancels them. Both stop only at the end of their
block: they stop the generations, delete the conversations, and wait for the threads or tasks.

The service limits messages by session or address, so one rejection affects all prompts: `RateLimit`
determines how long all of them pause. A prompt that hit the limit is sent again after the pause, by
the same thread or task. A call's own retries never wait for the limit.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextvars import copy_context
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NoReturn, Self, TypeAlias

import anyio

from h2o_client import RateLimitError, Reply, Retries, Retry, types
from h2o_client.options import as_arguments

Prompt: TypeAlias = types.Messages | Mapping[str, Any]
"""A text, messages, or a mapping with `prompt` or `messages`, and `parameters`, `model`, `id`."""

Prompts: TypeAlias = Iterable[Prompt]
AsyncPrompts: TypeAlias = Iterable[Prompt] | AsyncIterable[Prompt]

WINDOW = RateLimitError.WINDOW
_SHORTEST = 1.0  # seconds to pause if the server says 0
_JOIN = 10.0  # seconds to wait for a thread that is blocked in its socket
_TURN = 1.0  # seconds per wait: on Windows, Ctrl-C is handled only between two waits
_KEYS = frozenset({"id", "messages", "model", "parameters", "prompt"})
_END: Any = object()
_logger = logging.getLogger("h2o_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The outcome of a prompt that was answered.

    Attributes:
        index: the position of the prompt, counted from 0.
        prompt: the prompt, as given.
        id: the `id` of the prompt, if it is a mapping with an `id`.
        reply: the reply.
        error: None.
    """

    index: int
    prompt: Any
    id: Any = None
    reply: Reply
    error: None = None

    def unwrap(self) -> Reply:
        """Return the reply."""
        return self.reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The outcome of a prompt that failed.

    Attributes:
        index: the position of the prompt, counted from 0.
        prompt: the prompt, as given.
        id: the `id` of the prompt, if it is a mapping with an `id`.
        reply: None.
        error: what went wrong: an `H2oError`, or a `TypeError` or `ValueError` for a prompt that
            cannot be sent.
    """

    index: int
    prompt: Any
    id: Any = None
    reply: None = None
    error: Exception

    def unwrap(self) -> NoReturn:
        """Raise the error."""
        raise self.error


BatchResult: TypeAlias = Answered | Failed
"""The outcome of one prompt. `unwrap()` returns the reply, or raises the error."""


class RateLimit:
    """Computes how long a batch pauses. It does not wait itself.

    Args:
        budget: how many seconds the batch may pause without an answer in between.
        tell: called with the length of a pause in seconds, when it begins or is extended.
        clock: the time in seconds.
    """

    def __init__(
        self,
        budget: float,
        tell: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._tell = tell
        self._clock = clock
        self._until = clock()
        self._spent = 0.0
        self._lock = threading.Lock()

    def delay(self) -> float:
        """Return how many seconds of the pause are left."""
        return max(0.0, self._until - self._clock())

    def rejected(self, error: RateLimitError) -> bool:
        """Record that a message hit the limit.

        Returns:
            Whether to send it again after the pause. If not, the budget is used up.
        """
        after = error.retry_after
        pause = WINDOW if after is None else max(after, _SHORTEST)
        with self._lock:
            now = self._clock()
            left = max(0.0, self._until - now)
            more = pause - left
            if more <= 0:
                return True
            if self._spent + more > self._budget:
                return False
            self._spent += more
            self._until = now + pause
        if more > (_SHORTEST if left else 0.0):
            self._tell(pause)
        return True

    def answered(self) -> None:
        """Record that an answer arrived."""
        self._spent = 0.0


def leave_limit_to_batch(retries: Retries | int) -> Retries:
    """Return the same retries, except that errors of the rate limit are not retried."""
    own = retries if isinstance(retries, Retries) else Retries(attempts=retries)

    def on_retry(retry: Retry) -> None:
        if isinstance(retry.error, RateLimitError):
            raise retry.error
        if own.on_retry is not None:
            own.on_retry(retry)

    return replace(own, on_retry=on_retry)


class _Common:
    """The base of both kinds of batches: arguments, rate limit and results."""

    def __init__(
        self,
        client: Any,
        prompts: Any,
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        **parameters: Any,
    ) -> None:
        if isinstance(prompts, str | bytes | Mapping):
            raise TypeError("batch() takes an iterable of prompts: put a single prompt in a list")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise TypeError(f"concurrency must be an integer, not {concurrency!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        if isinstance(limit_wait, bool) or not isinstance(limit_wait, int | float):
            raise TypeError(f"limit_wait must be a number of seconds, not {limit_wait!r}")
        if not limit_wait >= 0:
            raise ValueError(f"limit_wait must be at least 0, not {limit_wait}")
        client.stream("?", **parameters)  # checks the arguments, and sends nothing
        retries = parameters.get("retries")
        if retries is None:
            retries = getattr(client, "retries", None)  # other clients may not have any
        if retries is not None:
            parameters = {**parameters, "retries": leave_limit_to_batch(retries)}
        self._client = client
        self._parameters = parameters
        self._concurrency = concurrency
        self._limit = RateLimit(limit_wait, self.pausing)
        self._entered = False
        self._left = threading.Event()
        self._broken: Exception | None = None  # what iterating the prompts raised

    def __repr__(self) -> str:
        state = "left" if self._left.is_set() else "open" if self._entered else "new"
        return f"<{type(self).__name__} {state}>"

    def call(self, prompt: Prompt) -> tuple[types.Messages, dict[str, Any]]:
        """Return the messages and keyword arguments for the call that sends a prompt.

        Values in the prompt itself override the keyword arguments of the batch.

        Raises:
            TypeError: a value has the wrong type, or a key is unknown.
            ValueError: the prompt has neither `prompt` nor `messages`, or both.
        """
        call = dict(self._parameters)
        if not isinstance(prompt, Mapping):
            return prompt, call
        unknown = sorted(repr(key) for key in prompt if key not in _KEYS)
        if unknown:
            raise TypeError(
                f"unknown keys in a prompt: {', '.join(unknown)} (expected {sorted(_KEYS)})"
            )
        given = [key for key in ("prompt", "messages") if prompt.get(key) is not None]
        if len(given) != 1:
            raise ValueError("a prompt mapping needs either `prompt` or `messages`")
        messages = prompt[given[0]]
        if given == ["prompt"] and not isinstance(messages, str):
            raise TypeError(f"`prompt` must be a string, not {type(messages).__name__}")
        if prompt.get("model") is not None:
            call["model"] = prompt["model"]
        own = prompt.get("parameters")
        if own is None:
            return messages, call
        if not isinstance(own, Mapping):
            raise TypeError(f"a prompt's parameters must be a mapping, not {type(own).__name__}")
        call.update(as_arguments(own, call.get("parameters")))
        return messages, call

    def stream(self, prompt: Prompt) -> Any:
        """Make the stream that answers a prompt; a subclass may make another."""
        messages, keywords = self.call(prompt)
        return self._client.stream(messages, **keywords)

    def pausing(self, seconds: float) -> None:
        """Log for how many seconds all prompts pause; a subclass may do more."""
        _logger.info("too many messages: all prompts pause for %.0f s", seconds)

    def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("a batch can be used only once: create another")
        self._entered = True

    def _check_open(self, block: str) -> None:
        if not self._entered:
            raise RuntimeError(f"use the batch in a block: `{block} client.batch(…) as results`")
        if self._left.is_set():
            raise RuntimeError("the batch was closed")

    def _raise_broken(self) -> None:
        """Raise what iterating the prompts raised, once."""
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken

    def _answered(self, index: int, prompt: Any, reply: Reply) -> BatchResult:
        self._limit.answered()
        return Answered(index=index, prompt=prompt, id=_id(prompt), reply=reply)

    def _failed(self, index: int, prompt: Any, error: Exception) -> BatchResult | None:
        """Return the result, or None if the prompt hit the limit and must be sent again."""
        if isinstance(error, RateLimitError) and self._limit.rejected(error):
            return None
        return Failed(index=index, prompt=prompt, id=_id(prompt), error=error)


def _id(prompt: Any) -> Any:
    return prompt.get("id") if isinstance(prompt, Mapping) else None


class Batch(_Common):
    """The results of many prompts, as they finish; returned by `H2oClient.batch()`.

    Use it in a `with` block, and iterate it there. Nothing is sent until the first result is
    requested. Leaving the block stops all running prompts, and waits for them.

    Args:
        client: sends the prompts. Its `stream()` must return a stream with `read()`, and with a
            `close()` that any thread may call (async: `aclose()`).
        prompts: the prompts.
        **options: `concurrency` (how many prompts are sent at a time), `limit_wait` (how many
            seconds all prompts may pause for the service's rate limit without an answer in
            between), and the arguments of each call.
    """

    def __init__(self, client: Any, prompts: Prompts, **options: Any) -> None:
        super().__init__(client, prompts, **options)
        self._source: Iterator[Prompt] | None = iter(prompts)
        self._jobs: queue.SimpleQueue[tuple[int, Prompt]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[BatchResult] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._streams: set[Any] = set()
        self._threads: list[threading.Thread] = []
        self._pulled = self._given = 0

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._left.set()
            streams = list(self._streams)
        for _ in self._threads:
            self._jobs.put(_END)
        # All at once: each may need its whole time limit to notify the server.
        closers = [_new_thread(stream.close) for stream in streams]
        for thread in closers:
            thread.start()
        until = time.monotonic() + _JOIN
        for thread in [*closers, *self._threads]:
            if thread.is_alive():  # Ctrl-C may have prevented its start
                thread.join(max(0.0, until - time.monotonic()))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchResult:
        """Return the next result.

        Raises:
            StopIteration: all results have been returned.
            RuntimeError: the batch is used outside of its `with` block.
            Exception: iterating the prompts raised it; all earlier prompts are done by then.
        """
        self._check_open("with")
        while self._has_room():
            self._pull()
        while self._given < self._pulled:
            with contextlib.suppress(queue.Empty):
                result = self._results.get(timeout=_TURN)
                self._given += 1
                return result
        self._raise_broken()
        raise StopIteration

    def _has_room(self) -> bool:
        """Whether to pull another prompt: a slot is free, or no result is ready."""
        waiting, ready = self._pulled - self._given, self._results.qsize()
        if self._source is None or waiting >= 2 * self._concurrency:
            return False
        return waiting - ready < self._concurrency or not ready

    def _pull(self) -> None:
        try:
            prompt = next(self._source or iter(()), _END)
        except Exception as error:  # noqa: BLE001 -- raised again when all running prompts are done
            self._broken = error
            prompt = _END
        if prompt is _END:
            self._source = None
            return
        self._jobs.put((self._pulled, prompt))
        self._pulled += 1
        if len(self._threads) < self._concurrency:
            self._threads.append(_new_thread(copy_context().run, self._work))
            self._threads[-1].start()

    def _work(self) -> None:
        """Answer prompts one after another, in order."""
        while (job := self._jobs.get()) is not _END:
            result = self._answer(*job)
            if result is None:
                return
            self._results.put(result)
            del job, result  # lets them be garbage-collected while this waits

    def _answer(self, index: int, prompt: Prompt) -> BatchResult | None:
        """Send a prompt until it is answered or has failed; None if the batch was closed."""
        result: BatchResult | None = None
        while result is None:
            # The pause can be extended while this waits.
            while not self._left.is_set() and (delay := self._limit.delay()) > 0:
                self._left.wait(delay)
            if self._left.is_set():
                break
            try:
                result = self._answered(index, prompt, self._read(prompt))
            except Exception as error:  # noqa: BLE001 -- the result's, not the batch's
                result = self._failed(index, prompt, error)
        return result

    def _read(self, prompt: Prompt) -> Reply:
        stream = self.stream(prompt)
        with self._lock:
            if self._left.is_set():
                raise RuntimeError("the batch was closed")
            self._streams.add(stream)
        try:
            reply: Reply = stream.read()
            return reply
        finally:
            with self._lock:
                self._streams.discard(stream)


def _new_thread(call: Callable[..., object], *args: object) -> threading.Thread:
    # A daemon: a thread blocked in a socket for longer than _JOIN must not keep the process alive.
    return threading.Thread(target=call, args=args, name="h2o_client-batch", daemon=True)


class AsyncBatch(_Common):
    """`Batch` for `async with` and `async for`; `prompts` may also be an async iterable."""

    def __init__(self, client: Any, prompts: AsyncPrompts, **options: Any) -> None:
        super().__init__(client, prompts, **options)
        self._source: Iterator[Prompt] | AsyncIterator[Prompt] = (
            aiter(prompts) if isinstance(prompts, AsyncIterable) else iter(prompts)
        )
        self._begun = False

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
        self._left.set()
        try:
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                return await self._group.__aexit__(exc_type, exc, traceback)
            # Not with the caller's error, which the group would wrap.
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)
        finally:
            self._results.close()
            self._given.close()
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchResult:
        """Return the next result; raises `StopAsyncIteration`, or the errors of `Batch`."""
        self._check_open("async with")
        if not self._begun:
            self._begun = True
            self._group.start_soon(self._feed)
        with contextlib.suppress(anyio.EndOfStream):
            return await self._given.receive()
        self._raise_broken()
        raise StopAsyncIteration

    async def _feed(self) -> None:
        """Pull prompts, and start a task for each as soon as there is room for it."""
        try:
            async with self._results, anyio.create_task_group() as tasks:
                index = 0
                while (prompt := await self._pull()) is not _END:
                    tasks.start_soon(self._run, index, prompt)
                    index += 1
        finally:
            if isinstance(self._source, AsyncGenerator):  # avoids a warning from the event loop
                with anyio.move_on_after(_JOIN, shield=True):
                    await self._source.aclose()

    async def _pull(self) -> Any:
        await self._room.acquire()
        try:
            if isinstance(self._source, AsyncIterator):
                return await anext(self._source, _END)
            return next(self._source, _END)
        except Exception as error:  # noqa: BLE001 -- raised again when all running prompts are done
            self._broken = error
            return _END

    async def _run(self, index: int, prompt: Prompt) -> None:
        """Send a prompt, and deliver its result as soon as there is room for it."""
        await self._results.send(await self._answer(index, prompt))
        self._room.release()

    async def _answer(self, index: int, prompt: Prompt) -> BatchResult:
        """Send a prompt until it is answered or has failed."""
        result: BatchResult | None = None
        while result is None:
            while (delay := self._limit.delay()) > 0:  # noqa: ASYNC110 -- it can be extended
                await anyio.sleep(delay)
            try:
                result = self._answered(index, prompt, await self._read(prompt))
            except Exception as error:  # noqa: BLE001 -- the result's, not the batch's
                result = self._failed(index, prompt, error)
        return result

    async def _read(self, prompt: Prompt) -> Reply:
        stream = self.stream(prompt)
        try:
            reply: Reply = await stream.read()
            return reply
        finally:
            await stream.aclose()
