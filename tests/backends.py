"""Run one scenario on three backends: sync in threads, async on asyncio, and async on trio.

A test of the shells is an `async def` that takes the fixture `api`. It is written against the
async client, which `api.client()` returns on asyncio and trio. On "sync" it returns an `H2oClient`
wrapped to look async: each call blocks until it is done, and its awaitable is ready at once. So the
scenarios are type-checked against the real `AsyncH2oClient`, and `test_unasync.py` checks that both
clients have the same members.

    async def test_two_chats(api: Api, server: Emulator) -> None:
        async with api.client() as client:
            assert str(await client.chat("Hi")) ...

What a scenario must not await directly, because it blocks on one backend or does not exist on
another, is in `Api`: blocking calls (`wait`) and concurrency (`concurrently`, `in_background`).
To run a test on some backends only, mark it `@only(*ASYNC)` or `@only("sync")`.
"""

import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import anyio
import anyio.to_thread
import httpx
import pytest

from h2o_client import AsyncH2oClient, H2oClient
from h2o_client._client._async import client, conversation, stream
from h2o_client.emulator import Answer, Emulator

T = TypeVar("T")
ASYNC = ("asyncio", "trio")
BACKENDS = ("sync", *ASYNC)

ONCE: dict[str, Any] = {"retries": 0, "recover": False}
"""Options of a client that tries everything once, so that every error surfaces."""

PATIENCE = 30.0
"""Seconds after which a hanging test fails."""


def only(*backends: str) -> pytest.MarkDecorator:
    """Run a test on these backends only."""
    return pytest.mark.parametrize("backend", backends)


class Background(Generic[T]):
    """A call that runs alongside a scenario, and its outcome."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self.error: BaseException | None = None

    def result(self) -> T:
        """Return the call's result, or raise its error."""
        if self.error is not None:
            raise self.error
        return self._values[0]

    async def run(self, call: Callable[[], Awaitable[T]]) -> None:
        try:
            self._values.append(await call())
        except Exception as error:  # noqa: BLE001 -- the scenario asks for it
            self.error = error


class Api:
    """What a scenario needs besides the client.

    Attributes:
        backend: "sync", "asyncio" or "trio".
        server: the emulator that `client()` talks to.
        transport: the transport of all clients without an httpx client of their own.
    """

    def __init__(self, backend: str, server: Emulator, transport: str | None = None) -> None:
        self.backend = backend
        self.server = server
        self.transport = transport

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Run a scenario to its end."""

        async def bounded() -> T:
            with anyio.fail_after(3 * PATIENCE):
                return await scenario

        return anyio.run(bounded, backend=self.backend)

    def client(self, base_url: str | None = None, **options: Any) -> AsyncH2oClient:
        """Make a client for the server or another base URL; it times out before the test does."""
        options = {"timeouts": PATIENCE, **self.options(options)}
        return AsyncH2oClient(base_url or self.server.url, **options)

    def client_of_environment(self, **options: Any) -> AsyncH2oClient:
        """Make a client without a base URL."""
        return AsyncH2oClient(**self.options(options))

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return a client's options, with the transport added."""
        if self.transport is None or "http_client" in options:
            return options
        return {"transport": self.transport, **options}

    def http_client(self, **options: Any) -> Any:
        """Make an httpx client to pass as `http_client=`; close it with `close_http()`."""
        return httpx.AsyncClient(**options)

    async def close_http(self, http: Any) -> None:
        """Close an httpx client made by `http_client()`."""
        await http.aclose()

    async def wait(self, call: Callable[[], T]) -> T:
        """Run a blocking call, such as `server.wait_held`, while other tasks go on."""
        return await anyio.to_thread.run_sync(call)

    async def concurrently(self, calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
        """Run all calls at once in threads or tasks; return their results in order, or raise."""
        backgrounds: list[Background[T]] = []
        async with anyio.create_task_group() as tasks:
            for call in calls:
                backgrounds.append(Background())
                tasks.start_soon(backgrounds[-1].run, call)
        return [background.result() for background in backgrounds]

    @contextlib.asynccontextmanager
    async def in_background(self, call: Callable[[], Awaitable[T]]) -> AsyncIterator[Background[T]]:
        """Run a call in a thread or task during the block, and wait for it at the end."""
        background: Background[T] = Background()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(background.run, call)
                yield background

    async def held(self, count: int = 1) -> None:
        """Wait until generations are paused on the server and their text so far has been sent."""
        await self.wait(lambda: self.server.wait_held(count, PATIENCE))
        await self.wait(lambda: None)

    async def settled(self) -> None:
        """Check that the server was told everything: no conversation and no generation is left."""
        await self.wait(lambda: self.server.wait_idle(PATIENCE))
        assert await self.wait(lambda: self.server.conversations) == []
        assert await self.wait(lambda: self.server.generating) == 0


class SyncApi(Api):
    """The same interface over threads, with `H2oClient`."""

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        return at_once(scenario)

    def client(self, base_url: str | None = None, **options: Any) -> AsyncH2oClient:
        options = {"timeouts": PATIENCE, **self.options(options)}
        return cast("AsyncH2oClient", AsIfAsync(H2oClient(base_url or self.server.url, **options)))

    def client_of_environment(self, **options: Any) -> AsyncH2oClient:
        return cast("AsyncH2oClient", AsIfAsync(H2oClient(**self.options(options))))

    def http_client(self, **options: Any) -> Any:
        return httpx.Client(**options)

    async def close_http(self, http: Any) -> None:
        http.close()

    async def wait(self, call: Callable[[], T]) -> T:
        return call()

    async def concurrently(self, calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
        calls = list(calls)
        backgrounds: list[Background[T]] = [Background() for _ in calls]
        with ThreadPoolExecutor(len(calls)) as threads:
            for background, call in zip(backgrounds, calls, strict=True):
                threads.submit(lambda b, c: at_once(b.run(c)), background, call)
        return [background.result() for background in backgrounds]

    @contextlib.asynccontextmanager
    async def in_background(self, call: Callable[[], Awaitable[T]]) -> AsyncIterator[Background[T]]:
        background: Background[T] = Background()
        thread = threading.Thread(target=lambda: at_once(background.run(call)), daemon=True)
        thread.start()
        try:
            yield background
        finally:
            thread.join(PATIENCE)
        assert not thread.is_alive()


ASYNC_CLASSES = {**vars(client), **vars(stream), **vars(conversation)}


class AsIfAsync:
    """Wrap a sync object so that it can be used like its async twin."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._twin = ASYNC_CLASSES[f"Async{type(thing).__name__}"]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, "close" if name == "aclose" else name)
        if not callable(found):
            return found
        awaited = inspect.iscoroutinefunction(getattr(self._twin, name, None))

        async def call_awaited(*args: Any, **keywords: Any) -> Any:
            return as_if_async(found(*args, **keywords))

        def call(*args: Any, **keywords: Any) -> Any:
            return as_if_async(found(*args, **keywords))

        return call_awaited if awaited else call

    def __repr__(self) -> str:
        return repr(self._thing)

    async def __aenter__(self) -> Self:
        self._thing.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thing.__exit__(kind, error, trace)

    def __aiter__(self) -> Self:
        iter(self._thing)
        return self

    async def __anext__(self) -> Any:
        # Not `try: next(…)`: StopIteration would become the context of StopAsyncIteration.
        missing = object()
        found = next(self._thing, missing)
        if found is missing:
            raise StopAsyncIteration
        return found


def as_if_async(thing: T) -> T:
    """Wrap a result if it has an async twin."""
    if f"Async{type(thing).__name__}" in ASYNC_CLASSES:
        return cast("T", AsIfAsync(thing))
    return thing


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    coroutine.close()
    raise AssertionError("a sync scenario awaited something that was not ready")


def new_api(backend: str, server: Emulator, transport: str | None = None) -> Api:
    """Create the API of a backend."""
    return (SyncApi if backend == "sync" else Api)(backend, server, transport)


def endless(*tokens: str, held: int | None = None) -> Answer:
    """Return an answer that pauses after its tokens until it is stopped or released.

    Args:
        tokens: its tokens; one more follows once it is released.
        held: the number of tokens after which it pauses; all by default.
    """
    return Answer(
        tokens=(*tokens, " too", " late"), hold_after=len(tokens) if held is None else held
    )
