"""The network of event loops; `_sync/_runtime.py` has the same name for threads."""

import asyncio
from typing import Any

import httpcore

from h2o_client._fast.asyncio_network import AsyncioBackend


class Network:
    """Connects in the running event loop, of asyncio or trio."""

    def __init__(self) -> None:
        self._asyncio = AsyncioBackend()
        self._trio: Any = None

    async def connect_tcp(self, *arguments: Any) -> httpcore.AsyncNetworkStream:
        """Connect; the arguments are those of httpcore's backends."""
        stream: httpcore.AsyncNetworkStream = await self._of_this_loop().connect_tcp(*arguments)
        return stream

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await self._of_this_loop().sleep(seconds)

    def _of_this_loop(self) -> Any:
        if _is_asyncio():
            return self._asyncio
        if self._trio is None:
            self._trio = httpcore.TrioBackend()
        return self._trio


def _is_asyncio() -> bool:
    """Whether an asyncio task is running; trio in guest mode runs in asyncio's loop without one."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
