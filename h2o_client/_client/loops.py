"""What ends with an event loop.

An async client that is used in one `asyncio.run()` after another has connections that die with
each event loop, and by then nobody can close them any more. Both asyncio and trio close every
async generator that is still alive when they end (PEP 525), and that is the one moment to hook
into: a generator that waits at its `yield` for nothing else.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from types import AsyncGeneratorType

import anyio
from anyio.lowlevel import RunVar

_LOOP: RunVar[object] = RunVar("h2o_client._client.loops._LOOP")
_GUARDS: RunVar[set[AsyncGenerator[None, None]]] = RunVar("h2o_client._client.loops._GUARDS")


def this_loop() -> object:
    """Return an object that stands for the event loop that is running."""
    try:
        return _LOOP.get()
    except LookupError:
        loop = object()
        _LOOP.set(loop)
        return loop


async def watch_over(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """See to it that connections are closed when the event loop ends, if they are open then.

    Args:
        close: closes them; does no harm twice.

    Returns:
        The guard, for `let_go()`. The event loop holds it: a client of ours that is dropped
        leaves its connections to be closed too.
    """
    guard = _close_at_the_end(close)
    await anext(guard)
    try:
        _GUARDS.get().add(guard)
    except LookupError:
        _GUARDS.set({guard})
    return guard


def is_on_watch(guard: AsyncGenerator[None, None]) -> bool:
    """Whether the event loop of a guard has not ended."""
    return isinstance(guard, AsyncGeneratorType) and guard.ag_frame is not None


async def let_go(guard: AsyncGenerator[None, None]) -> None:
    """Close what a guard watches over, now."""
    await guard.aclose()
    _GUARDS.get(set()).discard(guard)


async def _close_at_the_end(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await close()
