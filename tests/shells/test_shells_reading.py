"""The shell reads tokens without the flow, until any other event needs handling."""

import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from backends import ASYNC, PATIENCE, Api, endless, only
from interrupted import CtrlC, Permit

from h2o_client import IncompleteStreamError, Timeouts
from h2o_client.emulator import Answer, Emulator, Fault
from h2o_client.protocol.effects import Lock

TOKENS = tuple(f" {number}" for number in range(6))
EVENT = b'data:{"token":{"id":1,"text":" Hi","logprob":-0.1,"special":false}}\n\n'


async def test_stop_does_not_wait_for_the_next_token(api: Api, server: Emulator) -> None:
    server.reply(endless(*TOKENS))
    server.fault("stop", Fault(500))  # the answer stays paused
    begun = time.monotonic()
    async with api.client(retries=0) as client, client.stream("Hi") as stream:
        for token in TOKENS:
            assert await anext(stream) == token
        await stream.stop()
        assert stream.reply.finish_reason == "stopped"
        assert stream.reply.text == "".join(TOKENS)
    assert time.monotonic() - begun < PATIENCE / 2


@pytest.mark.parametrize("join", [1, 2, 3, 20])
async def test_texts_and_tokens_can_alternate(api: Api, server: Emulator, join: int) -> None:
    server.reply(Answer(tokens=TOKENS, join=join))
    async with api.client() as client, client.stream("Hi") as stream:
        events = stream.events()
        assert await anext(stream) == TOKENS[0]
        assert (await anext(events)).text == TOKENS[1]
        assert await anext(stream) == TOKENS[2]
        assert await anext(stream) == TOKENS[3]
        tokens = [token async for token in events]
        assert [token.text for token in tokens[:-1]] == list(TOKENS[4:])
        assert all(token.id is not None and token.logprob is not None for token in tokens)
        assert tokens[-1].special
        assert [text async for text in stream] == []
        assert stream.reply.text == "".join(TOKENS)


@only(*ASYNC)
@pytest.mark.parametrize("way", ["stop", "close", "cancel"])
async def test_transport_without_a_visible_socket_works(
    api: Api, server: Emulator, way: str
) -> None:
    server.reply(endless(*TOKENS))
    http = httpx.AsyncClient(transport=Veiled(), timeout=None)
    texts: list[str] = []
    arrived = anyio.Event()
    errors: list[type[BaseException]] = []
    async with api.client(http_client=http) as client, client.stream("Hi") as stream:

        async def read() -> None:
            try:
                async for text in stream:
                    texts.append(text)
                    if len(texts) == len(TOKENS):
                        arrived.set()
            except IncompleteStreamError as error:
                errors.append(type(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await arrived.wait()
            if way == "stop":
                await stream.stop()
            elif way == "close":
                await stream.aclose()
            else:
                tasks.cancel_scope.cancel()
    assert texts[: len(TOKENS)] == list(TOKENS)
    assert errors == ([IncompleteStreamError] if way == "close" else [])
    await http.aclose()
    await api.settled()


class Veiled(httpx.AsyncHTTPTransport):
    """Hides the network stream, like transports over other libraries."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.extensions.pop("network_stream")
        return response


@pytest.mark.slow
async def test_callers_time_does_not_count_as_silence(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS, pace=0.02, comments=range(len(TOKENS))))
    limits = Timeouts(idle=1)
    async with api.client(timeouts=limits, recover=False) as client, client.stream("Hi") as stream:
        for index, token in enumerate(TOKENS):
            assert await anext(stream) == token
            if index == 2:
                await api.wait(lambda: time.sleep(1.1))
        assert (await stream.read()).text == "".join(TOKENS)


async def test_ctrl_c_at_the_start_of_a_read_releases_the_lock(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(lock: Lock) -> None:
        lock.permit = Permit([True])
        lock.release = partial(lock.permit.append, True)

    monkeypatch.setattr(Lock, "__init__", make)
    server.reply(Answer(tokens=TOKENS, hold_after=1))
    async with api.client() as client, client.stream("Hi") as stream:
        assert await anext(stream) == TOKENS[0]
        permit: Any = stream._steps.permit
        permit.interrupted = True
        with pytest.raises(CtrlC):
            await anext(stream)
        await api.wait(server.release)
        assert [text async for text in stream] == list(TOKENS[1:])
    assert permit == [True]


class Interrupted(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body interrupted by Ctrl-C."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        raise CtrlC

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise CtrlC

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class InterruptedAfterOne(Interrupted):
    """A body interrupted by Ctrl-C after its first event."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield EVENT
        raise CtrlC


def answering(
    message: Interrupted | httpx.ByteStream, *stops: Interrupted | httpx.ByteStream
) -> httpx.MockTransport:
    """Return a service that answers a message, and the first stop, with these bodies."""
    left = list(stops)

    def answer(request: httpx.Request) -> httpx.Response:
        if left and request.url.path.endswith("/stop-generating"):
            return httpx.Response(200, stream=left.pop(0))
        if request.method == "POST" and request.url.path.count("/") == 2:
            kind = {"content-type": "text/event-stream"}
            return httpx.Response(200, stream=message, headers=kind)
        said = {"type": "redirect", "status": 303, "location": "/", "conversationId": "0" * 24}
        return httpx.Response(200, json=said)

    return httpx.MockTransport(answer)


async def test_ctrl_c_during_a_stop_leaves_no_response_open(api: Api) -> None:
    stop = Interrupted()
    http = api.http_client(transport=answering(httpx.ByteStream(EVENT), stop))
    async with api.client("http://host", http_client=http) as client, client.stream("Hi") as stream:
        assert await anext(stream) == " Hi"
        with pytest.raises(CtrlC):
            await stream.stop()
        assert stop.closed
    await api.close_http(http)


@only(*ASYNC)
async def test_ctrl_c_while_finishing_a_body_leaves_no_response_open(api: Api) -> None:
    body = InterruptedAfterOne()
    http = api.http_client(transport=answering(body))
    async with api.client("http://host", http_client=http) as client:
        stream = client.stream("Hi")
        assert await anext(stream) == " Hi"
        with pytest.raises(CtrlC):
            await stream.aclose()
        assert body.closed
    await api.close_http(http)
