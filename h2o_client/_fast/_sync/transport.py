# Generated, do not edit: run `python scripts/unasync.py`.
"""The transport, and the bodies that it reads itself: see the package's docstring."""

import ssl
from collections.abc import Iterator
from typing import Any, Self

import httpcore
import httpx

from h2o_client._fast._sync.network import Backend, BodyStream
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


class Body(httpx.SyncByteStream):
    """A chunked body, read directly from the network.

    Args:
        network: the stream to read from.
        stream: httpcore's stream of the same body.
        timeouts: the limits of the request; they are read when the iteration begins.
    """

    def __init__(self, network: BodyStream, stream: Any, timeouts: Any) -> None:
        self._read = network.stream.read
        self._heads = network.heads
        self._stream = stream
        self._timeouts = timeouts
        self._timeout: float | None = None
        self._first = network.heads.take()
        self._chunks = Dechunker()

    def __iter__(self) -> Self:
        self._timeout = self._timeouts.get("read")
        return self

    def __next__(self) -> bytes:
        """Return the bytes that have arrived since the last call."""
        chunks = self._chunks
        try:
            while not chunks.ended:
                if chunks.error:
                    raise httpx.RemoteProtocolError(chunks.error)
                data = self._first or self._read(_READ, self._timeout)
                if not data:
                    raise httpx.RemoteProtocolError(_CUT)
                self._first = b""
                body = chunks.feed(data)
                if chunks.ended:
                    self._end(chunks.rest)
                if body:
                    return body
        except tuple(ERRORS) as error:
            raise ERRORS[type(error)](str(error)) from error
        raise StopIteration

    def _end(self, rest: bytes) -> None:
        """Show httpcore the end of the body, unless unexpected bytes follow it.

        This does not wait for the network.
        """
        if not rest:
            self._heads.held = _END
            for _ in self._stream:
                pass

    def close(self) -> None:
        """Return the connection to the pool, or close it if the body has not ended."""
        with httpx_errors():
            self._stream.close()


class CoreBody(httpx.SyncByteStream):
    """A body that is read by httpcore."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with httpx_errors():
            for piece in self._stream:
                yield piece

    def close(self) -> None:
        """Return the connection to the pool, or close it if the body has not ended."""
        with httpx_errors():
            self._stream.close()


class FastTransport(httpx.BaseTransport):
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
        options["network_backend"] = Backend()
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**options)
        elif is_socks(proxy, verify):
            self._pool = httpcore.SOCKSProxy(**proxy_options(proxy), **options)
        else:
            self._pool = httpcore.HTTPProxy(
                **proxy_options(proxy), **http_proxy_options(proxy), **options
            )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and wait for the head of its response."""
        with httpx_errors():
            response = self._pool.handle_request(core_request(request))
        network = response.extensions.get("network_stream")
        body: httpx.SyncByteStream
        if (
            isinstance(network, BodyStream)
            and network.heads.at_body
            and comes_in_chunks(request, response)
        ):
            body = Body(network, response.stream, request.extensions.get("timeout", {}))
        else:
            body = CoreBody(response.stream)
        return httpx.Response(
            response.status, headers=response.headers, stream=body, extensions=response.extensions
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
