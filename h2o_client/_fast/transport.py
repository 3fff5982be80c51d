"""The transports, and the bodies that they read themselves: see the package."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import httpcore
import httpx

from h2o_client._fast.framing import Dechunker
from h2o_client._fast.network import AsyncBackend, AsyncBodyStream, Backend, BodyStream

_READ = 64 * 1024
_END = b"0\r\n\r\n"
_CUT = "peer closed connection without sending complete message body (incomplete chunked read)"

# httpx's errors have the names of httpcore's.
_ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


@contextlib.contextmanager
def httpx_errors() -> Iterator[None]:
    """Raise httpx's errors for httpcore's."""
    try:
        yield
    except tuple(_ERRORS) as error:
        raise _ERRORS[type(error)](str(error)) from error


class Body(httpx.SyncByteStream):
    """A body that comes in chunks, read from the network.

    Args:
        network: where its bytes come from.
        stream: the body as httpcore has it.
        timeouts: the limits of the request; they are read when the body is begun.
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
        """Return what has come of it since the last time."""
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
        except tuple(_ERRORS) as error:
            raise _ERRORS[type(error)](str(error)) from error
        raise StopIteration

    def _end(self, rest: bytes) -> None:
        """Let httpcore see an end of the body; not where more came, as a response to nothing."""
        if not rest:
            self._heads.held = _END
            for _ in self._stream:
                pass

    def close(self) -> None:
        """Give the connection back; it is closed if the body has not ended."""
        with httpx_errors():
            self._stream.close()


class AsyncBody(httpx.AsyncByteStream):
    """The twin of `Body`."""

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
        """The twin of `Body.__next__()`."""
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
        except tuple(_ERRORS) as error:
            raise _ERRORS[type(error)](str(error)) from error
        raise StopAsyncIteration

    async def _end(self, rest: bytes) -> None:
        """The twin of `Body._end()`; nothing is waited for."""
        if not rest:
            self._heads.held = _END
            async for _ in self._stream:
                pass

    async def aclose(self) -> None:
        """The twin of `Body.close()`."""
        with httpx_errors():
            await self._stream.aclose()


class CoreBody(httpx.SyncByteStream):
    """A body that httpcore reads."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with httpx_errors():
            yield from self._stream

    def close(self) -> None:
        """Give the connection back; it is closed if the body has not ended."""
        with httpx_errors():
            self._stream.close()


class AsyncCoreBody(httpx.AsyncByteStream):
    """The twin of `CoreBody`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with httpx_errors():
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        """The twin of `CoreBody.close()`."""
        with httpx_errors():
            await self._stream.aclose()


def comes_in_chunks(request: httpx.Request, response: httpcore.Response) -> bool:
    """Whether there is a body, and it comes in chunks and in no other way."""
    names = [name.lower() for name, _ in response.headers]
    framing = [
        value.lower() for name, value in response.headers if name.lower() == b"transfer-encoding"
    ]
    return (
        request.method != "HEAD"
        and framing == [b"chunked"]
        and b"content-length" not in names
        and response.extensions.get("http_version") == b"HTTP/1.1"
    )


def core_request(request: httpx.Request) -> httpcore.Request:
    """Make httpcore's request of httpx's."""
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


class FastTransport(httpx.BaseTransport):
    """Reads bodies that come in chunks itself, and leaves all else to httpcore.

    Args:
        verify: the TLS context.
        limits: those of the pool.
        proxy: the proxy, or None.

    Raises:
        ImportError: a SOCKS proxy takes httpx's extra `socks`.
    """

    def __init__(
        self, verify: ssl.SSLContext, limits: httpx.Limits, proxy: httpx.Proxy | None = None
    ) -> None:
        options = _pool_options(verify, limits)
        options["network_backend"] = Backend()
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**options)
        elif _is_socks(proxy, verify):
            self._pool = httpcore.SOCKSProxy(**_proxy_options(proxy), **options)
        else:
            self._pool = httpcore.HTTPProxy(
                **_proxy_options(proxy), **_http_proxy_options(proxy), **options
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


class AsyncFastTransport(httpx.AsyncBaseTransport):
    """The twin of `FastTransport`."""

    def __init__(
        self, verify: ssl.SSLContext, limits: httpx.Limits, proxy: httpx.Proxy | None = None
    ) -> None:
        options = _pool_options(verify, limits)
        options["network_backend"] = AsyncBackend()
        self._pool: httpcore.AsyncConnectionPool
        if proxy is None:
            self._pool = httpcore.AsyncConnectionPool(**options)
        elif _is_socks(proxy, verify):
            self._pool = httpcore.AsyncSOCKSProxy(**_proxy_options(proxy), **options)
        else:
            self._pool = httpcore.AsyncHTTPProxy(
                **_proxy_options(proxy), **_http_proxy_options(proxy), **options
            )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The twin of `FastTransport.handle_request()`."""
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
        """The twin of `FastTransport.close()`."""
        await self._pool.aclose()


def _pool_options(verify: ssl.SSLContext, limits: httpx.Limits) -> dict[str, Any]:
    return {
        "ssl_context": verify,
        "max_connections": limits.max_connections,
        "max_keepalive_connections": limits.max_keepalive_connections,
        "keepalive_expiry": limits.keepalive_expiry,
    }


def _is_socks(proxy: httpx.Proxy, verify: ssl.SSLContext) -> bool:
    if not proxy.url.scheme.startswith("socks"):
        return False
    httpx.HTTPTransport(verify=verify, proxy=proxy).close()  # it says so if a package is missing
    return True


def _proxy_options(proxy: httpx.Proxy) -> dict[str, Any]:
    url = proxy.url
    return {
        "proxy_url": httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        "proxy_auth": proxy.raw_auth,
    }


def _http_proxy_options(proxy: httpx.Proxy) -> dict[str, Any]:
    return {"proxy_headers": proxy.headers.raw, "proxy_ssl_context": proxy.ssl_context}
