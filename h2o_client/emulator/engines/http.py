"""The base class of engines that use HTTP, with one httpx client while the emulator runs.

A response body is a generator of bytes. Closing it, or cancelling its reader, closes the connection
to the model server at once, so that a stop reaches the server.
"""

from __future__ import annotations

import base64
import errno
import http.cookiejar
import logging
import os
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

import anyio
import anyio.to_thread
import httpx

from h2o_client.emulator.engine import EngineError, LiveEngine, RawResponse, UpstreamDownError

CONNECT = 10.0
"""Seconds to connect."""

FIRST = 5.0
"""Seconds for the first request, which only checks that the server answers."""

SILENCE = 300.0
"""The read timeout in seconds, as in the real service's HTTP client."""

INVALID_URL = (
    "the URL of the model server is not valid: write http://HOST:PORT/PATH or https://HOST/PATH;"
    " in a user or a password, write special characters as %XX"
)
"""The message does not repeat the URL: any part of a malformed URL could be the password."""

EXCERPT = 64 * 1024
"""The maximum number of bytes to read of an error."""

PER_MESSAGE = frozenset(
    {"connection", "content-encoding", "keep-alive", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "proxy-authenticate", "proxy-authorization"}
)
"""Headers about the connection, or about the encoding of the body."""

logger = logging.getLogger(__name__)


class Opened(RawResponse):
    """A response whose body is still to be read; `body` must be exhausted or closed."""

    __slots__ = ()

    def header(self, name: str) -> str:
        """A header's value, or an empty string."""
        return next((value for key, value in self.headers if key == name), "")

    async def excerpt(self) -> str:
        """The beginning of an error's text, even if the rest cannot be read."""
        data = b""
        with suppress(ConnectionError):
            async with aclosing(self.body) as body:
                async for part in body:
                    data += part
                    if len(data) > EXCERPT:
                        break
        return data[:EXCERPT].decode(errors="replace")


class HttpEngine(LiveEngine):
    """An engine that uses a server over HTTP.

    Args:
        url: The model server's URL. A user and password in it are sent in a header.

    Attributes:
        url: The URL without user and password.
        place: The same without the query, which could contain a key; used in messages.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise EngineError(INVALID_URL) from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise EngineError(INVALID_URL)
        self.url = str(parsed.copy_with(userinfo=b"")) if parsed.userinfo else url
        self.place = str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
        self._login: dict[str, str] = {}
        if parsed.userinfo:
            login = f"{parsed.username}:{parsed.password}".encode()
            self._login["authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._client: httpx.AsyncClient | None = None
        self._told = ""  # the last error, so that it is logged only once

    async def start(self, say: Callable[[str], None]) -> None:  # noqa: ARG002 -- it is logged
        """Create the client, and log a warning if the model server cannot be reached.

        The client is created in a thread because it may read certificates.
        """
        secure = httpx.URL(self.url).scheme == "https"  # redirects are not followed
        self._client = await anyio.to_thread.run_sync(_make_client, secure)
        # Any response is fine, and a slow one does not matter.
        with suppress(UpstreamDownError), anyio.move_on_after(FIRST):
            await (await self.send("HEAD", self.url)).excerpt()

    async def aclose(self) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def send(
        self,
        method: str,
        url: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Opened:
        """Send a request; return when the response's headers have arrived.

        Raises:
            UpstreamDownError: The server cannot be reached, or did not answer.
        """
        assert self._client is not None, "the engine was not started"  # noqa: S101 -- a bug here
        encoded_headers = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in {**(headers or {}), **self._login}.items()
        ]
        request = self._client.build_request(method, url, content=content, headers=encoded_headers)
        request.headers["accept-encoding"] = "identity"
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            text = f"{type(error).__name__}: {_cause(error)}"
            if text != self._told:
                self._told = text
                logger.warning("the model server at %s does not answer: %s", self.place, text)
            raise UpstreamDownError(text) from error
        self._told = ""
        encoded = "content-encoding" in response.headers
        kept = tuple(
            (name, value)
            for name, value in response.headers.multi_items()
            if name not in PER_MESSAGE and not (encoded and name == "content-length")
        )
        return Opened(response.status_code, kept, self._read(response))

    async def _read(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        try:
            async for data in response.aiter_bytes():
                if data:
                    yield data
        except httpx.HTTPError as error:
            text = f"{type(error).__name__}: {error}"
            logger.warning("an answer from the model server at %s broke off: %s", self.place, text)
            raise ConnectionError(text) from error
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()


def _make_client(secure: bool) -> httpx.AsyncClient:
    no_domain = http.cookiejar.DefaultCookiePolicy(allowed_domains=[])
    return httpx.AsyncClient(
        verify=secure,
        # Do not store cookies: all clients of the emulator would share them.
        cookies=http.cookiejar.CookieJar(no_domain),
        timeout=httpx.Timeout(SILENCE, connect=CONNECT, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    )


def _cause(error: BaseException) -> str:
    """The operating system's message, such as "Connection refused", or the error's own."""
    text = str(error)
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            known = found.errno in errno.errorcode and not isinstance(found, ssl.SSLError)
            text = os.strerror(found.errno) if known and found.errno else found.strerror
        within = found.exceptions[0] if isinstance(found, BaseExceptionGroup) else None
        found = within or found.__cause__ or found.__context__
    return text
