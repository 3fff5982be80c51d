"""Tracks the responses that httpx holds open."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest

from h2o_client._fast import AsyncFastTransport, FastTransport


class OpenResponses:
    """The responses that httpx holds open: each keeps a connection of the pool busy."""

    def __init__(self) -> None:
        self._open: set[object] = set()
        self.count = 0

    def opened(self, stream: object) -> None:
        self.count += 1
        self._open.add(stream)

    def closed(self, stream: object) -> None:
        self._open.discard(stream)

    def check(self) -> None:
        """Fail if a response is still open after background clean-up has had time to finish."""
        for _ in range(1000):
            if not self._open:
                return
            time.sleep(0.01)
        assert not self._open, f"{len(self._open)} connections of the pool are still busy"


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, responses: OpenResponses) -> None:
        self._stream = stream
        self._responses = responses
        responses.opened(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()
        self._responses.closed(self)


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, responses: OpenResponses) -> None:
        self._stream = stream
        self._responses = responses
        responses.opened(self)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:  # a native cancellation can break httpcore beyond this point, which we cannot fix
            self._responses.closed(self)


def watch_responses(monkeypatch: pytest.MonkeyPatch) -> OpenResponses:
    """Watch the real transports."""
    watch = OpenResponses()
    for kind in (httpx.HTTPTransport, FastTransport):
        _watch(monkeypatch, kind, watch)
    for async_kind in (httpx.AsyncHTTPTransport, AsyncFastTransport):
        _watch_async(monkeypatch, async_kind, watch)
    return watch


def _watch(monkeypatch: pytest.MonkeyPatch, kind: Any, watch: OpenResponses) -> None:
    send = kind.handle_request

    def handle(self: httpx.BaseTransport, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = send(self, request)
        response.stream = _Stream(cast("Any", response.stream), watch)
        return response

    monkeypatch.setattr(kind, "handle_request", handle)


def _watch_async(monkeypatch: pytest.MonkeyPatch, kind: Any, watch: OpenResponses) -> None:
    send = kind.handle_async_request

    async def handle(self: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await send(self, request)
        response.stream = _AsyncStream(cast("Any", response.stream), watch)
        return response

    monkeypatch.setattr(kind, "handle_async_request", handle)
