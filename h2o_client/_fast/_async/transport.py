"""The transport, and the bodies that it reads itself: see the package's docstring."""

import ssl
from collections.abc import AsyncIterator
from typing import Any, Self

import httpcore
import httpx

from h2o_client._fast._async.network import AsyncBackend, AsyncBodyStream
from h2o_client._fast.framing import Dechunker
from h2o_client._fast.shared import (
    ERRORS,
    comes_in_chunks,
    core_request,
    http_proxy_options,
    httpx_errors,
    is_socks,
    pool_options,
    proxy_options,
)

_READ = 64 * 1024
_END = b"0\r\n\r\n"
_CUT = "peer closed connection without sending complete message body (incomplete chunked read)"


class AsyncBody(httpx.AsyncByteStream):
    """A chunked body, read directly from the network.

    Args:
        network: the stream to read from.
        stream: httpcore's stream of the same body.
        timeouts: the limits of the request; they are read when the iteration begins.
    """

    def __init__(self, network: AsyncBodyStream, stream: Any, timeouts: Any) -> None:
        self._read = network.stream.read
        self._heads = network.heads
        self._stream = stream
        self._timeouts = timeouts
        self._timeout: float | None = None
        self._first = network.heads.take()
        self._chunks = Dechunker()

    def __aiter__(self) -> Self:
        self._timeout = self._timeouts.get("read")
        return self

    async def __anext__(self) -> bytes:
        """Return the bytes that have arrived since the last call."""
        chunks = self._chunks
        try:
            while not chunks.ended:
                if chunks.error:
                    raise httpx.RemoteProtocolError(chunks.error)
                data = self._first or await self._read(_READ, self._timeout)
                if not data:
                    raise httpx.RemoteProtocolError(_CUT)
                self._first = b""
                body = chunks.feed(data)
                if chunks.ended:
                    await self._end(chunks.rest)
                if body:
                    return body
        except tuple(ERRORS) as error:
            raise ERRORS[type(error)](str(error)) from error
        raise StopAsyncIteration

    async def _end(self, rest: bytes) -> None:
        """Show httpcore the end of the body, unless unexpected bytes follow it.

        This does not wait for the network.
        """
        if not rest:
            self._heads.held = _END
            async for _ in self._stream:
                pass

    async def aclose(self) -> None:
        """Return the connection to the pool, or close it if the body has not ended."""
        with httpx_errors():
            await self._stream.aclose()


class AsyncCoreBody(httpx.AsyncByteStream):
    """A body that is read by httpcore."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with httpx_errors():
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        """Return the connection to the pool, or close it if the body has not ended."""
        with httpx_errors():
            await self._stream.aclose()


class AsyncFastTransport(httpx.AsyncBaseTransport):
    """Reads chunked bodies itself, and leaves everything else to httpcore.

    Args:
        verify: the TLS context.
        limits: the limits of the pool.
        proxy: the proxy, or None.

    Raises:
        ImportError: a SOCKS proxy needs httpx's extra `socks`.
    """

    def __init__(
        self, verify: ssl.SSLContext, limits: httpx.Limits, proxy: httpx.Proxy | None = None
    ) -> None:
        options = pool_options(verify, limits)
        options["network_backend"] = AsyncBackend()
        self._pool: httpcore.AsyncConnectionPool
        if proxy is None:
            self._pool = httpcore.AsyncConnectionPool(**options)
        elif is_socks(proxy, verify):
            self._pool = httpcore.AsyncSOCKSProxy(**proxy_options(proxy), **options)
        else:
            self._pool = httpcore.AsyncHTTPProxy(
                **proxy_options(proxy), **http_proxy_options(proxy), **options
            )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and wait for the head of its response."""
        with httpx_errors():
            response = await self._pool.handle_async_request(core_request(request))
        network = response.extensions.get("network_stream")
        body: httpx.AsyncByteStream
        if (
            isinstance(network, AsyncBodyStream)
            and network.heads.at_body
            and comes_in_chunks(request, response)
        ):
            body = AsyncBody(network, response.stream, request.extensions.get("timeout", {}))
        else:
            body = AsyncCoreBody(response.stream)
        return httpx.Response(
            response.status, headers=response.headers, stream=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()
