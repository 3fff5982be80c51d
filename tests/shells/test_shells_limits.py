"""The four time limits: which one is exceeded, when, and the partial text.

A limit that must not be exceeded early is long enough for a busy machine.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from asked import eventually
from backends import Api, endless, only
from hostile import EVENTS, Endless, Hostile, event, head

from h2o_client import (
    IncompleteStreamError,
    Timeouts,
    TransportTimeoutError,
)
from h2o_client._client.watchdog import Watchdog
from h2o_client.emulator import Answer, Emulator, Fault

SLACK = 4.0
"""Seconds that a busy machine may be late; the other limits are longer than that."""


async def timeout_of(api: Api, timeouts: Timeouts | float, url: str | None = None) -> Any:
    """Return the timeout error that ends a chat, after checking that the server was told."""
    async with api.client(url, timeouts=timeouts, retries=0, recover=False) as client:
        with pytest.raises(TransportTimeoutError) as caught:
            await client.chat("Hi")
        if url is None:
            await api.settled()
    assert f"Timeouts.{caught.value.limit}" in str(caught.value)
    return caught.value


# Which limit is exceeded

SLOW = {"settings": Fault(delay=0.2), "create": Fault(delay=0.2), "message": Fault(delay=1.3)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("timeouts", "faults", "answer", "limit", "partial"),
    [
        (Timeouts(first_token=0.05), {}, endless(held=0), "first_token", ""),
        (Timeouts(first_token=0.05, idle=9), {}, endless(held=0), "first_token", ""),
        (Timeouts(idle=1, first_token=9), {}, endless(" One"), "idle", " One"),
        (Timeouts(idle=0.05), {"settings": Fault(hang=True)}, " x", "idle", ""),
        (Timeouts(idle=0.05), {"create": Fault(hang=True)}, " x", "idle", ""),
        (Timeouts(total=0.15), {}, endless(held=0), "total", ""),
        (Timeouts(total=1.5), {}, endless(" One"), "total", " One"),
        (Timeouts(total=0.15), {"settings": Fault(hang=True)}, " x", "total", ""),
        (Timeouts(total=0.15), {"create": Fault(hang=True)}, " x", "total", ""),
        # Each request is well within its own limits; together they take too long.
        (Timeouts(total=1.5), SLOW, " x", "total", ""),
        # The shorter of two.
        (Timeouts(total=1.5, idle=5), {}, endless(" One"), "total", " One"),
        (Timeouts(total=9, idle=1), {}, endless(" One"), "idle", " One"),
        (Timeouts(total=5, first_token=0.05), {}, endless(held=0), "first_token", ""),
        (0.2, {}, endless(held=0), "first_token", ""),
        (1.0, {}, endless(" One"), "idle", " One"),
    ],
)  # fmt: skip
async def test_expected_limit_is_exceeded(
    api: Api,
    server: Emulator,
    timeouts: Timeouts | float,
    faults: dict[str, Fault],
    answer: Answer,
    limit: str,
    partial: str,
) -> None:
    server.reply(answer)
    for on, fault in faults.items():
        server.fault(on, fault)
    begun = time.monotonic()
    error = await timeout_of(api, timeouts)
    assert (error.limit, error.partial) == (limit, partial)
    assert time.monotonic() - begun < SLACK
    assert isinstance(error, TimeoutError)


@pytest.mark.slow
async def test_conversation_keeps_the_partial_answer(api: Api, server: Emulator) -> None:
    server.reply(endless(" One", " two"), " Fine.")
    async with (
        api.client(timeouts=Timeouts(idle=1), retries=0, recover=False) as client,
        client.conversation() as talk,
    ):
        with pytest.raises(TransportTimeoutError) as caught:
            await talk.send("Hi")
        assert caught.value.partial == " One two"
        assert [(m.content, m.partial) for m in talk.messages] == [
            ("Hi", False),
            (" One two", True),
        ]
        assert (await talk.send("Go on")).text == " Fine."
    await api.settled()


# Connecting


@pytest.fixture
def full() -> Iterator[str]:
    """The URL of a server that accepts no further connections."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


async def test_connect_timeout_applies_to_connecting(api: Api, full: str) -> None:
    begun = time.monotonic()
    error = await timeout_of(api, Timeouts(connect=0.1, idle=9, first_token=9), full)
    assert (error.limit, error.sent, error.partial) == ("connect", False, "")
    assert "0.1 seconds" in str(error)
    assert 0.1 <= time.monotonic() - begun < 0.1 + SLACK


async def test_total_timeout_applies_to_connecting(api: Api, full: str) -> None:
    """The rest of a call's total is less than the connect limit."""
    begun = time.monotonic()
    error = await timeout_of(api, Timeouts(connect=9, total=0.1), full)
    assert error.limit in ("connect", "total")
    assert time.monotonic() - begun < 0.1 + SLACK


@pytest.mark.slow
async def test_full_pool_is_a_connect_timeout(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    options: dict[str, Any] = {"limits": httpx.Limits(max_connections=1), "timeout": None}
    http = api.http_client(**options)
    limits = Timeouts(connect=0.3)
    async with (
        api.client(http_client=http, timeouts=limits, retries=0) as client,
        client.stream("Hi") as stream,
    ):
        assert await anext(stream) == " One"
        with pytest.raises(TransportTimeoutError) as caught:
            await client.chat("Hi")
        assert (caught.value.limit, caught.value.sent) == ("connect", False)
    await api.settled()
    await api.close_http(http)


# Time spent elsewhere


@pytest.mark.slow
async def test_callers_own_time_is_part_of_the_total(api: Api, server: Emulator) -> None:
    server.reply(Answer([" One", " two", " three"], pace=0.02))
    timeouts = Timeouts(total=1.5, idle=5)
    async with (
        api.client(timeouts=timeouts, retries=0) as client,
        client.stream("Hi") as stream,
    ):
        assert await anext(stream) == " One"
        await api.wait(lambda: time.sleep(1.51))
        with pytest.raises(TransportTimeoutError) as caught:
            await stream.read()
        assert caught.value.limit == "total"
    await api.settled()


@pytest.mark.slow
async def test_total_timeout_does_not_affect_a_complete_answer(api: Api, server: Emulator) -> None:
    """The deletion after it is clean-up, which has its own limit."""
    server.reply(" One")
    server.fault("delete", Fault(delay=1.6))
    async with api.client(timeouts=Timeouts(total=1.5), retries=0) as client:
        assert (await client.chat("Hi")).text == " One"
        await api.settled()


@pytest.mark.slow
async def test_slow_tokens_do_not_time_out(api: Api, server: Emulator) -> None:
    server.reply(Answer([" x"] * 8, pace=0.15))
    async with api.client(timeouts=Timeouts(idle=1, first_token=1), retries=0) as client:
        assert (await client.chat("Hi")).text == " x" * 8


@pytest.mark.slow
async def test_each_call_has_its_own_total(api: Api, server: Emulator) -> None:
    server.reply(*[Answer(" x", first=0.7)] * 3)
    async with (
        api.client(timeouts=Timeouts(total=2), retries=0) as client,
        client.conversation() as talk,
    ):
        for _ in range(3):
            assert (await talk.send("Hi")).text == " x"


# Comments


def drips(tokens: bytes = event(" One"), drop: bytes = b":\n\n") -> Endless:
    """Return an answer of tokens, followed by endless comments."""
    return Endless(head(EVENTS) + tokens, drop, pause=0.01)


@pytest.fixture
def dripping() -> Iterator[Hostile]:
    """A server that answers a message with one token, followed by endless comments."""
    with Hostile() as server:
        server.on("message", drips())
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    "drop",
    [
        b":\n\n",
        *[
            pytest.param(other, marks=pytest.mark.long)
            for other in (b": keep-alive\n\n", b"\n", b"event: ping\n")
        ],
    ],
)
@pytest.mark.parametrize(
    ("timeouts", "limit", "after"),
    [
        (Timeouts(idle=1, first_token=9), "idle", 1),
        (Timeouts(idle=9, total=1), "total", 1),
        (Timeouts(idle=1, total=4), "idle", 1),
        (Timeouts(idle=None, total=1), "total", 1),
    ],
)
async def test_comments_do_not_extend_any_limit(
    api: Api, dripping: Hostile, timeouts: Timeouts, limit: str, after: float, drop: bytes
) -> None:
    dripping.on("message", drips(drop=drop))
    begun = time.monotonic()
    error = await timeout_of(api, timeouts, dripping.url)
    took = time.monotonic() - begun
    assert (error.limit, error.partial) == (limit, " One")
    assert after <= took < after + SLACK


@pytest.mark.slow
@only("sync")
@pytest.mark.parametrize("limit", ["idle", "total"])
async def test_watchdog_is_armed_no_longer_than_the_limit(
    api: Api, dripping: Hostile, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """How late it wakes depends on the machine, and proves nothing."""
    watched: list[float] = []
    arm = Watchdog.arm

    def note(self: Watchdog, seconds: float) -> None:
        watched.append(seconds)
        arm(self, seconds)

    monkeypatch.setattr(Watchdog, "arm", note)
    assert (await timeout_of(api, Timeouts(**{limit: 1.0}), dripping.url)).limit == limit
    assert watched
    assert watched == sorted(watched, reverse=True)
    assert watched[0] < 1


async def test_comments_before_the_first_token_time_out(api: Api, dripping: Hostile) -> None:
    """The headers have arrived, so `first_token` is met; from then on, `idle` applies."""
    dripping.on("message", drips(b""))
    begun = time.monotonic()
    error = await timeout_of(api, Timeouts(first_token=5, idle=0.15), dripping.url)
    assert (error.limit, error.partial) == ("idle", "")
    assert 0.15 <= time.monotonic() - begun < 0.15 + SLACK


@pytest.mark.slow
async def test_concurrent_calls_time_out_individually(api: Api, dripping: Hostile) -> None:
    async with api.client(
        dripping.url, timeouts=Timeouts(idle=1), retries=0, recover=False
    ) as client:

        async def chat() -> float:
            begun = time.monotonic()
            with pytest.raises(TransportTimeoutError) as caught:
                await client.chat("Hi")
            assert (caught.value.limit, caught.value.partial) == ("idle", " One")
            return time.monotonic() - begun

        times = await api.concurrently([chat] * 8)
    assert all(1 <= took < 1 + SLACK for took in times), times


async def test_no_watchdog_is_left_armed(api: Api, dripping: Hostile) -> None:
    await timeout_of(api, Timeouts(idle=0.1), dripping.url)

    def no_watch() -> bool:
        return all(thread.name != "h2o_client-watchdog" for thread in threading.enumerate())

    await api.wait(lambda: eventually(no_watch))


async def test_close_ends_a_stream_of_endless_comments(api: Api, dripping: Hostile) -> None:
    timeouts = Timeouts(idle=None, cleanup=1)
    async with api.client(dripping.url, timeouts=timeouts, retries=0, recover=False) as client:
        stream = client.stream("Hi")
        async with api.in_background(stream.read) as reader:
            await api.wait(lambda: eventually(lambda: stream.text))
            begun = time.monotonic()
            await stream.aclose()
            assert time.monotonic() - begun < SLACK
        assert type(reader.error) is IncompleteStreamError
        assert reader.error.partial == " One"
