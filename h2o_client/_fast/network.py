"""httpcore's network, with the bodies of responses kept apart: see the package."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from h2o_client._fast.asyncio_network import AsyncioBackend
from h2o_client._fast.framing import HeadWatch


class BodyStream(httpcore.NetworkStream):
    """A network stream that gives httpcore no byte of the body with the head.

    Args:
        stream: the one that does the work.

    Attributes:
        stream: the same; a body is read from it.
        heads: what watches for heads, and holds what was read beyond.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self.stream = stream
        self.heads = HeadWatch()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what was held back, or what comes."""
        if self.heads.held:
            return self.heads.take()
        return self.heads.received(self.stream.read(max_bytes, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write."""
        self.heads.sent()
        self.stream.write(buffer, timeout)

    def close(self) -> None:
        """Close."""
        self.stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Begin TLS; what is read beyond a head is then of what is within."""
        return BodyStream(self.stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return what is known of the connection."""
        if info == "is_readable" and self.heads.held:
            return True
        return self.stream.get_extra_info(info)


class AsyncBodyStream(httpcore.AsyncNetworkStream):
    """The twin of `BodyStream`."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self.stream = stream
        self.heads = HeadWatch()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The twin of `BodyStream.read()`."""
        if self.heads.held:
            return self.heads.take()
        return self.heads.received(await self.stream.read(max_bytes, timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """The twin of `BodyStream.write()`."""
        self.heads.sent()
        await self.stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """The twin of `BodyStream.close()`."""
        await self.stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The twin of `BodyStream.start_tls()`."""
        return AsyncBodyStream(await self.stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """The twin of `BodyStream.get_extra_info()`."""
        if info == "is_readable" and self.heads.held:
            return True
        return self.stream.get_extra_info(info)


class Backend(httpcore.NetworkBackend):
    """httpcore's own network, each stream in a `BodyStream`."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect."""
        return BodyStream(
            self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        )

    def sleep(self, seconds: float) -> None:
        """Wait before connecting is tried again."""
        self._backend.sleep(seconds)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """The network of the event loop that is running, each stream in an `AsyncBodyStream`."""

    def __init__(self) -> None:
        self._asyncio = AsyncioBackend()
        self._trio: Any = None

    def _of_this_loop(self) -> Any:
        if _is_asyncio():
            return self._asyncio
        if self._trio is None:
            self._trio = httpcore.TrioBackend()
        return self._trio

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The twin of `Backend.connect_tcp()`."""
        backend = self._of_this_loop()
        return AsyncBodyStream(
            await backend.connect_tcp(host, port, timeout, local_address, socket_options)
        )

    async def sleep(self, seconds: float) -> None:
        """The twin of `Backend.sleep()`."""
        await self._of_this_loop().sleep(seconds)


def _is_asyncio() -> bool:
    """Whether a task of asyncio asks; trio as a guest runs in asyncio's loop, but in no task."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
