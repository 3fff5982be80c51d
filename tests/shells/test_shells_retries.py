"""Retries over real sockets: what is sent again, how often, and when.

Waits are those of `Retries(base=0.001)`, so that only waits requested by the server take time.
"""

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asked import bodies, kinds
from backends import PATIENCE, Api

from h2o_client import (
    AsyncH2oClient,
    H2oClient,
    IncompleteStreamError,
    Model,
    OverloadedError,
    RateLimitError,
    Reply,
    Retries,
    Retry,
    StatusError,
    TermsNotAcceptedError,
    Timeouts,
    TransportError,
    UnsupportedServerError,
)
from h2o_client.emulator import Answer, Emulator, Fault
from h2o_client.protocol import turn

QUICK = Retries(base=0.001)
LOST = Fault(disconnect=True)
TAKEN = Fault(disconnect=True, processed=True)


def options(server: Emulator) -> list[dict[str, Any]]:
    """Return the options of the messages received."""
    return [body["options"] for body in bodies(server)]


class Told:
    """Retries with these settings, which record their notifications."""

    def __init__(self, **settings: Any) -> None:
        self.seen: list[Retry] = []
        self.retries = Retries(**{"base": 0.001, **settings, "on_retry": self.seen.append})

    @property
    def errors(self) -> list[type[Exception]]:
        return [type(retry.error) for retry in self.seen]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a message again without giving a stop time to take effect."""
    monkeypatch.setattr(turn, "_STOPPING", 0.0)


# No server


async def test_client_waits_for_a_starting_server(api: Api) -> None:
    with Emulator() as gone:
        port = int(gone.url.rpartition(":")[2])
    late = Emulator(port=port)

    def start(retry: Retry) -> None:
        seen.append(retry)
        if retry.attempt == 2:
            late.start()

    seen: list[Retry] = []
    try:
        retries = Retries(base=0.001, on_retry=start)
        async with api.client(f"http://127.0.0.1:{port}", retries=retries) as client:
            assert (await client.chat("Hi")).text
        assert [retry.attempt for retry in seen] == [1, 2]
        assert {type(retry.error) for retry in seen} == {TransportError}
        assert kinds(late) == ["settings", "create", "message", "delete"]
    finally:
        late.close()


async def test_message_survives_a_server_restart(api: Api) -> None:
    """The message itself finds no server: it never left, and is sent again."""
    first = Emulator().start()
    port = int(first.url.rpartition(":")[2])
    second = Emulator(port=port)
    told = Told()

    def start(_: Retry) -> None:
        if not told.seen:
            second.start()
        told.seen.append(_)

    retries = Retries(base=0.001, on_retry=start)
    try:
        async with api.client(first.url, retries=retries) as client:
            await client.chat("Hi")
            await api.wait(first.close)
            assert (await client.chat("Hi")).text  # reopens its session
        assert kinds(second).count("settings") == kinds(second).count("message") == 1
        assert second.conversations == []
        assert told.seen
    finally:
        first.close()
        second.close()


async def test_unreachable_server_is_an_error_after_all_attempts(api: Api) -> None:
    with Emulator() as gone:
        url = gone.url
    told = Told(attempts=2)
    async with api.client(url, retries=told.retries) as client:
        with pytest.raises(TransportError) as caught:
            await client.chat("Hi")
    assert not caught.value.sent
    assert [retry.attempt for retry in told.seen] == [1, 2]


# Overload


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ([Fault(503)], OverloadedError),
        ([Fault(429, body={"error": "Full", "error_type": "overloaded"})], OverloadedError),
        ([Fault(429, body="Slow", headers={"Retry-After": "0"})], RateLimitError),
    ],
)
async def test_overload_before_the_answer_is_retried(
    api: Api, server: Emulator, faults: list[Fault], error: type[Exception]
) -> None:
    told = Told()
    server.fault("message", *faults)
    async with api.client(retries=told.retries) as client:
        reply = await client.chat("Hi")
    first, second = options(server)
    assert first == second  # the first had no effect, so this is the same message
    assert (second["id"], second["is_retry"]) == (reply.message_id, False)
    assert told.errors == [error]
    assert "data" not in kinds(server)
    await api.settled()


# Idempotent requests


async def reads(client: AsyncH2oClient, fail_data: Callable[[], None] = lambda: None) -> object:
    async with client.conversation() as talk:
        await talk.send("Hi")
        assert await talk.history()  # first checks that the turn is stored
        fail_data()
        assert await talk.history()
    return await client.models()


@pytest.mark.parametrize("on", ["settings", "create", "data", "root", "delete"])
@pytest.mark.parametrize(
    "fault",
    [LOST, Fault(502), Fault(503), Fault(504), Fault(429, body="Slow down")],
    ids=["lost", "502", "503", "504", "429"],
)
async def test_small_request_is_retried(api: Api, server: Emulator, on: str, fault: Fault) -> None:
    told = Told()

    def fail() -> None:
        server.clear()
        server.fault(on, fault, fault)

    async with api.client(retries=told.retries) as client:
        if on == "data":
            await reads(client, fail)
        else:
            fail()
            await (client.chat("Hi") if on == "delete" else reads(client))
            await api.settled()
    assert len(told.seen) == 2
    assert kinds(server).count(on) == 3
    await api.settled()


@pytest.mark.parametrize("on", ["settings", "create", "message"])
@pytest.mark.parametrize("status", [500, 404, 422])
async def test_permanent_error_is_not_retried(
    api: Api, server: Emulator, on: str, status: int
) -> None:
    server.fault(on, *[Fault(status, body={"message": "no"})] * 3)
    async with api.client(retries=QUICK) as client:
        with pytest.raises((StatusError, UnsupportedServerError)):
            await client.chat("Hi")
    assert kinds(server).count(on) == 1


# Waits


@pytest.mark.slow
async def test_retry_after_in_seconds_is_waited_for(api: Api, server: Emulator) -> None:
    told = Told()
    server.fault("create", Fault(503, headers={"Retry-After": "1"}))
    server.fault("message", Fault(503))
    begun = time.monotonic()
    async with api.client(retries=told.retries) as client:
        assert (await client.chat("Hi")).text
    assert time.monotonic() - begun >= 1
    first, second = told.seen
    assert (first.delay, second.delay < 0.01) == (1, True)


# The service's own limit


async def test_rate_limited_server_gets_one_request_per_message(api: Api) -> None:
    with Emulator(rate_limit=1) as limited:
        async with api.client(limited.url, retries=QUICK) as client:
            await client.chat("Hi")
            await client.chat("Hi")
            with pytest.raises(RateLimitError):
                await client.chat("Hi")
        assert kinds(limited).count("message") == 3
        assert limited.conversations == []


# Messages lost before any token

SHORT = Timeouts(recovery=0.02)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("fault", [LOST, Fault(502), Fault(504)], ids=["lost", "502", "504"])
async def test_lost_message_is_sent_again_in_its_place(
    api: Api, server: Emulator, fault: Fault
) -> None:
    told = Told()
    server.fault("message", fault)
    async with api.client(retries=told.retries, timeouts=SHORT) as client:
        reply = await client.chat("Hi")
    first, second = options(server)
    assert (first["is_retry"], second["is_retry"]) == (False, True)
    assert first["id"] == second["id"] == reply.message_id
    assert first["response_id"] == second["response_id"] == reply.response_id
    assert server.generations == 1
    assert not reply.recovered
    assert len(told.seen) == 1
    # The answer was searched for, and the server told to stop, in case it is generating after all.
    between = kinds(server)[3:-2]
    assert set(between) == {"data", "stop"}
    assert between[-1] == "stop"
    await api.settled()


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    "fault", [TAKEN, Fault(502, processed=True), Fault(504, processed=True)], ids=str
)
async def test_processed_message_is_recovered_and_not_sent_again(
    api: Api, server: Emulator, fault: Fault
) -> None:
    told = Told()
    server.fault("message", fault)
    server.reply(" One", " Another")
    async with api.client(retries=told.retries) as client:
        reply = await client.chat("Hi")
    assert (reply.text, reply.recovered, server.generations) == (" One", True, 1)
    assert told.seen == []
    await api.settled()


async def test_running_generation_is_stopped_before_sending_again(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never are there two generations at a time, as one answer would be lost."""
    monkeypatch.setattr(turn, "_STOPPING", 0.15)  # the emulator notices a stop after 0.02 s
    server.reply(Answer(" One two", drop_after=0, hold_after=1), " Whole")
    async with api.client(retries=QUICK, timeouts=SHORT) as client, client.conversation() as talk:
        reply = await talk.send("Hi")
        await api.wait(server.wait_idle)
        assert reply.text == " Whole"
        assert kinds(server).count("stop") == server.stops == 1
        assert [m.content for m in await talk.history()] == ["Hi", " Whole"]
        assert [m.content for m in talk.messages] == ["Hi", " Whole"]
    await api.settled()


@pytest.mark.usefixtures("no_pause")
async def test_lost_message_is_sent_again_only_once(api: Api, server: Emulator) -> None:
    # An answer found after a second loss could be the stopped part of the first generation.
    server.fault("message", *[LOST] * 10)
    async with api.client(retries=Retries(attempts=2, base=0), timeouts=SHORT) as client:
        with pytest.raises(IncompleteStreamError):
            await client.chat("Hi")
    assert len(options(server)) == 2
    await api.settled()


# Forgotten sessions


async def test_forgotten_session_is_opened_again_once(api: Api, server: Emulator) -> None:
    async with api.client(retries=0) as client, client.conversation() as talk:
        await talk.send("Hi")
        await api.wait(server.forget_sessions)
        assert (await talk.send("Again")).text
        assert kinds(server).count("settings") == 2
        assert kinds(server).count("message") == 3
        server.clear()
        server.fault("message", *[Fault(405)] * 3)
        with pytest.raises(TermsNotAcceptedError):
            await talk.send("And again")
        assert kinds(server)[:4] == ["data", "message", "settings", "message"]
    await api.settled()


# Retries of client and call


async def test_requests_of_a_call_share_one_retry_count(api: Api, server: Emulator) -> None:
    for on in ("settings", "create", "message"):
        server.fault(on, Fault(503), Fault(503))
    told = Told(attempts=5)
    async with api.client(retries=told.retries) as client:
        with pytest.raises(OverloadedError):
            await client.chat("Hi")
    assert [retry.attempt for retry in told.seen] == [1, 2, 3, 4, 5]
    assert [kinds(server).count(on) for on in ("settings", "create", "message")] == [3, 3, 2]
    await api.settled()


@pytest.mark.parametrize("form", ["chat", "stream", "conversation", "retry"])
@pytest.mark.parametrize("own", [0, Retries(attempts=2, base=0)], ids=["0", "Retries"])
async def test_retries_can_be_set_per_call(
    api: Api, server: Emulator, form: str, own: Retries | int
) -> None:
    async with (
        api.client(retries=Retries(attempts=9, base=0)) as client,
        client.conversation() as talk,
    ):

        async def stream() -> Reply:
            async with client.stream("Hi", retries=own) as stream:
                return await stream.read()

        calls: dict[str, Callable[[], Awaitable[Reply]]] = {
            "chat": lambda: client.chat("Hi", retries=own),
            "stream": stream,
            "conversation": lambda: talk.send("Hi", retries=own),
            "retry": lambda: talk.retry(retries=own),
        }
        await talk.send("Hi")
        server.clear()
        server.fault("message", *[Fault(503)] * 9)
        with pytest.raises(OverloadedError):
            await calls[form]()
        attempts = own if isinstance(own, int) else own.attempts
        assert kinds(server).count("message") == 1 + attempts
        server.clear()
    await api.settled()


async def test_error_raised_by_on_retry_ends_the_call(api: Api, server: Emulator) -> None:
    def refuse(_: Retry) -> None:
        raise KeyError("enough")

    server.fault("message", Fault(503))
    async with api.client(retries=Retries(on_retry=refuse)) as client:
        with pytest.raises(KeyError, match="enough"):
            await client.chat("Hi")
        await api.settled()
    assert kinds(server).count("message") == 1


def test_on_retry_may_use_the_client(server: Emulator) -> None:
    """Only with a sync client: `on_retry` is not awaited, so it cannot call async methods."""
    models: list[Model] = []
    told: list[Retry] = []

    def tell(retry: Retry) -> None:
        told.append(retry)
        models.extend(client.models())

    server.fault("settings", Fault(503), Fault(503))
    retries = Retries(base=0.001, on_retry=tell)
    with H2oClient(server.url, timeouts=PATIENCE, retries=retries) as client:
        assert client.chat("Hi").text
    assert [retry.attempt for retry in told] == [1, 2]
    assert len(models) == 2 * len({model.id for model in models})


@pytest.mark.parametrize("on", ["settings", "create", "message"])
def test_on_retry_may_close_the_client(server: Emulator, on: str) -> None:
    server.fault(on, Fault(503))
    retries = Retries(base=0.001, on_retry=lambda _: client.close())
    client = H2oClient(server.url, timeouts=PATIENCE, retries=retries)
    begun = time.monotonic()
    with pytest.raises(IncompleteStreamError):
        client.chat("Hi")
    assert time.monotonic() - begun < PATIENCE / 2
    server.wait_idle()
    assert server.conversations == []


@pytest.mark.parametrize("how", ["stop", "aclose"])
async def test_wait_before_a_creation_can_be_ended_by_another_thread(
    api: Api, server: Emulator, how: str
) -> None:
    server.fault("create", Fault(503, headers={"Retry-After": "9"}))
    waits = threading.Event()
    async with (
        api.client(retries=Retries(on_retry=lambda _: waits.set())) as client,
        client.stream("Hi") as stream,
    ):
        async with api.in_background(stream.read) as done:
            await api.wait(waits.wait)
            await (stream.stop() if how == "stop" else stream.aclose())
        if how == "stop":
            assert done.result().finish_reason == "stopped"
        else:
            with pytest.raises(IncompleteStreamError):
                done.result()
    assert kinds(server) == ["settings", "create"]
