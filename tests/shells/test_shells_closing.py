"""Closing waits for calls that are being left, happens once, takes limited time, and is
complete."""

import asyncio
import gc
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import anyio
import httpx
import pytest
from asked import kinds, requested
from backends import ASYNC, PATIENCE, Api, endless, only

from h2o_client import (
    AsyncChatStream,
    AsyncConversation,
    AsyncH2oClient,
    IncompleteStreamError,
    Reply,
    Timeouts,
    TransportTimeoutError,
)
from h2o_client._client.http import alive
from h2o_client.emulator import Answer, Emulator, Fault

Call = Callable[[], Awaitable[Any]]


def check_told(server: Emulator) -> None:
    """Check that the server has been told everything; its model may notice later."""
    assert server.conversations == []


def check_asked(api: Api, server: Emulator, *last: str) -> None:
    """Check the requests after the message."""
    asked = kinds(server)[3:]
    if api.backend == "sync":
        # Closing cannot interrupt a thread that waits for a response, so it notifies the server,
        # too.
        asked = list(dict.fromkeys(asked))
    assert asked == [*last]


def collect_unraisable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of exceptions that nobody can catch.

    Call it within the test: some versions of pytest set a hook before the test begins, too.
    """
    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_type.__name__))
    return found


# During clean-up


@pytest.mark.parametrize(
    ("what", "on"),
    [
        ("client", "stop"),
        ("client", "delete"),
        ("stream", "stop"),
        ("stream", "delete"),
        ("conversation", "stop"),
    ],
)
async def test_close_waits_for_a_stream_being_left(
    api: Api, server: Emulator, what: str, on: str
) -> None:
    server.reply(endless(" One"))
    server.fault(on, Fault(delay=0.05))
    client = api.client()
    talk = client.conversation()
    stream = talk.stream("Hi") if what == "conversation" else client.stream("Hi")
    close = {"client": client.aclose, "stream": stream.aclose, "conversation": talk.aclose}[what]

    async def leave() -> None:
        async with stream:
            async for _ in stream:
                break

    async with api.in_background(leave) as leaving:
        await api.wait(lambda: requested(server, on))
        await close()
        await api.wait(lambda: check_told(server))
        check_asked(api, server, "stop", "delete")
    leaving.result()
    await client.aclose()
    await api.settled()


async def test_close_waits_for_a_conversation_being_closed(api: Api, server: Emulator) -> None:
    server.fault("delete", Fault(delay=0.05))
    client = api.client()
    talk = client.conversation()
    await talk.send("Hi")
    async with api.in_background(talk.aclose) as leaving:
        await api.wait(lambda: requested(server, "delete"))
        await client.aclose()
        await api.wait(lambda: check_told(server))
    leaving.result()


@pytest.mark.parametrize("what", ["client", "stream"])
async def test_close_during_the_last_request_keeps_a_complete_answer(
    api: Api, server: Emulator, what: str
) -> None:
    server.reply(" One two")
    server.fault("delete", Fault(delay=0.05))
    client = api.client()
    stream = client.stream("Hi")
    async with api.in_background(stream.read) as reader:
        await api.wait(lambda: requested(server, "delete"))
        await (stream if what == "stream" else client).aclose()
        await api.wait(lambda: check_told(server))
    reply = reader.result()
    assert (type(reply), reply.text, reply.finish_reason) == (Reply, " One two", "eos_token")
    assert kinds(server).count("delete") == 1
    await client.aclose()


# Time limits


READERS = 10


@pytest.mark.slow
async def test_close_takes_one_time_limit_for_any_number_of_streams(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply(*[endless(held=0) for _ in range(READERS)])
    server.fault("stop", *[Fault(hang=True)] * 4 * READERS)
    server.fault("delete", *[Fault(hang=True)] * 4 * READERS)
    client = api.client(timeouts=Timeouts(cleanup=1.0))
    streams = [client.stream("Hi") for _ in range(READERS)]
    took: list[float] = []

    async def close() -> None:
        await api.wait(lambda: server.wait_held(READERS))
        begun = time.monotonic()
        await client.aclose()
        took.append(time.monotonic() - begun)
        await api.wait(server.release)  # a sync reader sleeps until the server sends something

    async def read(stream: AsyncChatStream) -> None:
        with pytest.raises(IncompleteStreamError):
            await stream.read()

    def reading(stream: AsyncChatStream) -> Call:
        return lambda: read(stream)

    await api.concurrently([*map(reading, streams), close])
    # One limit for the streams, one for their leftovers; one for each would be ten seconds.
    assert took[0] < 0.7 * READERS
    if api.backend == "sync":
        # The first uses up the time, so the others make no attempt; the same happens in the second
        # round. Later requests come from the readers, as they wake up.
        assert kinds(server).count("delete") == 0
        assert "could not be cleaned up" in caplog.text


async def test_concurrent_closes_close_once(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    client = api.client()
    stream = client.stream("Hi")
    await anext(stream)
    await api.concurrently([client.aclose, client.aclose])
    await api.settled()
    assert kinds(server)[-2:] == ["stop", "delete"]


# Complete clean-up


@pytest.mark.parametrize("cancellations", [1, 2])
@only("asyncio")
async def test_natively_cancelled_close_cleans_up(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture, cancellations: int
) -> None:
    server.reply(*[endless(" One") for _ in range(3)])
    server.fault("stop", Fault(delay=0.05))
    client = api.client()
    streams = [client.stream("Hi") for _ in range(3)]
    for stream in streams:
        await anext(stream)
    task = asyncio.create_task(client.aclose())
    for number in range(cancellations):
        await api.wait(lambda: requested(server, "stop", number + 1))  # noqa: B023
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await api.settled()
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.exc_info] == []


async def drop_stream(client: AsyncH2oClient) -> None:
    stream = client.stream("Hi")
    await anext(stream)
    del stream
    gc.collect()


async def drop_conversation(client: AsyncH2oClient) -> None:
    talk = client.conversation()
    await talk.send("Hi")
    del talk
    gc.collect()


@pytest.mark.parametrize("drop", [drop_stream, drop_conversation])
async def test_object_dropped_with_warnings_as_errors_is_cleaned_up_at_close(
    api: Api,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    drop: Callable[[AsyncH2oClient], Awaitable[None]],
) -> None:
    unraisable = collect_unraisable(monkeypatch)
    server.reply(endless(" One") if drop is drop_stream else " One")
    client = api.client()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await drop(client)
    assert unraisable == ["ResourceWarning"]
    await client.aclose()
    await api.settled()


async def drop_two(client: AsyncH2oClient, server: Emulator) -> None:
    server.reply(endless(" One"), endless(" One"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await drop_stream(client)
        await drop_stream(client)


async def test_interrupted_release_of_a_dropped_response_is_completed(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruptions: Iterator[BaseException] = iter([KeyboardInterrupt()])
    close, aclose = httpx.Response.close, httpx.Response.aclose

    def interrupt() -> None:
        for interruption in interruptions:
            raise interruption

    def interrupted_close(self: httpx.Response) -> None:
        close(self)
        interrupt()

    async def interrupted_aclose(self: httpx.Response) -> None:
        await aclose(self)
        interrupt()

    async with api.client() as client:
        await drop_two(client, server)
        await api.settled()
        with monkeypatch.context() as patch:
            patch.setattr(httpx.Response, "close", interrupted_close)
            patch.setattr(httpx.Response, "aclose", interrupted_aclose)
            with pytest.raises(KeyboardInterrupt):
                await client.chat("Hi")
        assert kinds(server).count("message") == 2
    await api.settled()


@pytest.mark.slow
@only(*ASYNC)
async def test_cancellation_at_any_moment_leaves_nothing(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable = collect_unraisable(monkeypatch)
    cancelled = 0
    server.reply(*[Answer(" One two three four", pace=0.002) for _ in range(60)])
    async with api.client() as client:
        for moment in range(60):
            with anyio.move_on_after(0.0003 * (moment % 40)) as scope:
                await client.chat("Hi")
            cancelled += scope.cancelled_caught
            gc.collect()
            assert unraisable == []
        await api.settled()
    assert cancelled
    assert await api.wait(lambda: server.generations) <= 60
    gc.collect()
    assert unraisable == []


# Tracking of open objects


class Thing:
    """An object that can be weakly referenced."""


def test_open_objects_can_be_listed_while_threads_add_and_drop() -> None:
    things: WeakValueDictionary[int, Thing] = WeakValueDictionary()
    start = threading.Barrier(9)
    errors: list[BaseException] = []
    interval = sys.getswitchinterval()

    def add() -> None:
        start.wait(PATIENCE)
        try:
            for _ in range(50):
                kept = [Thing() for _ in range(40)]
                for thing in kept:
                    things[id(thing)] = thing
        except BaseException as error:  # noqa: BLE001 -- the test asks for it
            errors.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        start.wait(PATIENCE)
        while any(thread.is_alive() for thread in threads):
            assert all(type(thing) is Thing for thing in alive(things))
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    gc.collect()
    assert alive(things) == []


# Time limit of small operations


def known(client: AsyncH2oClient) -> AsyncConversation:
    return client.conversation(id="0" * 24, keep=True)


SMALL: dict[str, Callable[[AsyncH2oClient], Awaitable[object]]] = {
    "root": lambda client: client.models(),
    "data": lambda client: known(client).history(),
    "rename": lambda client: known(client).rename("A title"),
}


@pytest.mark.parametrize("on", SMALL)
async def test_total_timeout_limits_a_small_operation(api: Api, server: Emulator, on: str) -> None:
    server.fault(on, Fault(hang=True))
    async with api.client(timeouts=Timeouts(total=0.05, idle=PATIENCE)) as client:
        with pytest.raises(TransportTimeoutError, match=r"Timeouts\.total") as caught:
            await SMALL[on](client)
        assert caught.value.limit == "total"


@pytest.mark.parametrize("on", SMALL)
async def test_total_timeout_limits_the_attempts_of_a_small_operation(
    api: Api, server: Emulator, on: str
) -> None:
    server.fault(on, *[Fault(503, headers={"Retry-After": "3"})] * 9)
    async with api.client(timeouts=Timeouts(total=2.5), retries=8) as client:
        with pytest.raises(Exception, match="503") as caught:
            await SMALL[on](client)
        assert not isinstance(caught.value, TransportTimeoutError)
    assert kinds(server).count(on) == 1
