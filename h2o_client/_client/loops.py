"""Closes connections when their event loop ends.

If an async client is used in one `asyncio.run()` after another, its connections die with each event
loop, and cannot be closed after that. Both asyncio and trio close all remaining async generators at
their end (PEP 525), so a generator that only waits at its `yield` can close the connections then.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from types import AsyncGeneratorType

import anyio
from anyio.lowlevel import RunVar

_LOOP: RunVar[object] = RunVar("h2o_client._client.loops._LOOP")
_GUARDS: RunVar[set[AsyncGenerator[None, None]]] = RunVar("h2o_client._client.loops._GUARDS")


def this_loop() -> object:
    """Return an object that identifies the running event loop."""
    try:
        return _LOOP.get()
    except LookupError:
        loop = object()
        _LOOP.set(loop)
        return loop


async def watch_over(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Make sure that open connections are closed when the event loop ends.

    Args:
        close: closes them; may be called twice.

    Returns:
        The guard, for `let_go()`. The event loop keeps it alive, so the connections of a dropped
        client are also closed.
    """
    guard = _close_at_the_end(close)
    await anext(guard)
    try:
        _GUARDS.get().add(guard)
    except LookupError:
        _GUARDS.set({guard})
    return guard


def is_on_watch(guard: AsyncGenerator[None, None]) -> bool:
    """Whether the event loop of a guard is still open."""
    return isinstance(guard, AsyncGeneratorType) and guard.ag_frame is not None


async def let_go(guard: AsyncGenerator[None, None]) -> None:
    """Close the connections of a guard now."""
    await guard.aclose()
    _GUARDS.get(set()).discard(guard)


async def _close_at_the_end(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await close()
