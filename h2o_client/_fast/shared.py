"""Code shared by both sides of the transport: errors, options, and which bodies they read."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpcore
import httpx

ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
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
"""The httpx error for each httpcore error; both have the same names."""


@contextlib.contextmanager
def httpx_errors() -> Iterator[None]:
    """Convert httpcore's errors to httpx's."""
    try:
        yield
    except tuple(ERRORS) as error:
        raise ERRORS[type(error)](str(error)) from error


def comes_in_chunks(request: httpx.Request, response: httpcore.Response) -> bool:
    """Whether the response has a body with chunked framing only."""
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
    """Convert httpx's request to httpcore's."""
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


def pool_options(verify: ssl.SSLContext, limits: httpx.Limits) -> dict[str, Any]:
    """Convert httpx's options to httpcore's."""
    return {
        "ssl_context": verify,
        "max_connections": limits.max_connections,
        "max_keepalive_connections": limits.max_keepalive_connections,
        "keepalive_expiry": limits.keepalive_expiry,
    }


def is_socks(proxy: httpx.Proxy, verify: ssl.SSLContext) -> bool:
    """Whether this is a SOCKS proxy.

    Raises:
        ImportError: it is a SOCKS proxy, but a package for it is missing.
    """
    if not proxy.url.scheme.startswith("socks"):
        return False
    httpx.HTTPTransport(verify=verify, proxy=proxy).close()  # raises if a package is missing
    return True


def proxy_options(proxy: httpx.Proxy) -> dict[str, Any]:
    """Return httpcore's options for a proxy."""
    url = proxy.url
    return {
        "proxy_url": httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        "proxy_auth": proxy.raw_auth,
    }


def http_proxy_options(proxy: httpx.Proxy) -> dict[str, Any]:
    """Return the options that only an HTTP proxy has."""
    return {"proxy_headers": proxy.headers.raw, "proxy_ssl_context": proxy.ssl_context}
