"""httpcore's network, which keeps the bodies of responses separate: see the package's docstring."""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from h2o_client._fast._async._runtime import Network
from h2o_client._fast.framing import HeadWatch


class AsyncBodyStream(httpcore.AsyncNetworkStream):
    """A network stream that never gives httpcore a byte of the body together with the head.

    Args:
        stream: the underlying network stream.

    Attributes:
        stream: the underlying network stream; bodies are read from it.
        heads: finds the end of heads, and keeps the bytes read beyond it.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self.stream = stream
        self.heads = HeadWatch()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes that were held back, or read new ones."""
        if self.heads.held:
            return self.heads.take()
        return self.heads.received(await self.stream.read(max_bytes, timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write."""
        self.heads.sent()
        await self.stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close."""
        await self.stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Start TLS; heads are then found in the decrypted bytes."""
        return AsyncBodyStream(await self.stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return information about the connection."""
        if info == "is_readable" and self.heads.held:
            return True
        return self.stream.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """A network that wraps each stream in an `AsyncBodyStream`."""

    def __init__(self) -> None:
        self._network = Network()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect."""
        return AsyncBodyStream(
            await self._network.connect_tcp(host, port, timeout, local_address, socket_options)
        )

    async def sleep(self, seconds: float) -> None:
        """Wait before the next attempt to connect."""
        await self._network.sleep(seconds)
