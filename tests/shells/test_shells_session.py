"""One client has one session for any number of concurrent calls; and its sharing option."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from asked import eventually, kinds
from backends import Api, only

from h2o_client import (
    H2oError,
    Reply,
    Retries,
    ServerError,
    TransportTimeoutError,
)
from h2o_client.emulator import Emulator, Fault

MANY = 12


@pytest.mark.slow
async def test_concurrent_calls_open_one_session(api: Api, server: Emulator) -> None:
    server.fault("settings", Fault(delay=0.02))
    async with api.client() as client:
        session = client.session

        def chat(number: int) -> Callable[[], Awaitable[Reply]]:
            return lambda: client.chat(f"number {number}")

        replies = await api.concurrently(chat(number) for number in range(MANY))
        for number, reply in enumerate(replies):
            assert reply.text.startswith(f" You said: number {number}\n")
        assert client.session == session
        assert await api.wait(lambda: server.sessions) == [session]
        await api.settled()
    assert kinds(server).count("settings") == 1
    assert kinds(server).count("create") == kinds(server).count("delete") == MANY


async def test_concurrent_calls_share_a_failure_to_open_the_session(
    api: Api, server: Emulator
) -> None:
    server.fault("settings", Fault(500, delay=0.2), *[Fault(500)] * MANY)
    async with api.client(retries=0) as client:

        async def chat() -> H2oError:
            with pytest.raises(ServerError) as caught:
                await client.chat("Hi")
            return caught.value

        errors = await api.concurrently([chat] * MANY)
        # Each call has an error object of its own, which the others do not change.
        assert len({id(error) for error in errors}) == MANY
        assert kinds(server).count("settings") == 1
        assert "create" not in kinds(server)
        server.clear()
        assert (await client.chat("Hi")).text


@pytest.mark.slow
async def test_concurrent_calls_reopen_a_forgotten_session_once(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        await client.chat("Hi")
        await api.wait(server.forget_sessions)
        server.clear()
        replies = await api.concurrently([lambda: client.chat("Hi")] * MANY)
        assert len(replies) == MANY
        await api.settled()
    assert kinds(server).count("settings") == 1


@only("asyncio", "trio")
async def test_cancelling_the_opening_call_does_not_fail_another(
    api: Api, server: Emulator
) -> None:
    server.fault("settings", Fault(hang=True))
    async with api.client(retries=0) as client, anyio.create_task_group() as tasks:
        first = anyio.CancelScope()

        async def opens() -> None:
            with first:
                await client.chat("Hi")

        tasks.start_soon(opens)
        await api.wait(lambda: eventually(lambda: server.requests))
        async with api.in_background(lambda: client.chat("Hi")) as second:
            first.cancel()
        assert second.result().text
    await api.settled()
    assert kinds(server).count("settings") == 2


@pytest.mark.parametrize("way", ["stop", "aclose"])
async def test_ending_the_opening_stream_does_not_fail_another(
    api: Api, server: Emulator, way: str
) -> None:
    server.fault("settings", Fault(delay=0.5))
    async with api.client(retries=0) as client:
        stream = client.stream("Hi")
        async with api.in_background(stream.read) as first:
            await api.wait(lambda: eventually(lambda: server.requests))
            async with api.in_background(lambda: client.chat("Hi")) as second:
                await getattr(stream, way)()
        if way == "stop":
            assert first.result().finish_reason == "stopped"
        else:
            assert isinstance(first.error, H2oError)
        assert second.result().text
        await stream.aclose()
        await api.settled()


async def test_stop_ends_the_wait_for_the_opening_call(api: Api, server: Emulator) -> None:
    server.fault("settings", Fault(delay=0.3))
    ended: list[str] = []
    async with (
        api.client() as client,
        client.stream("Hi") as opening,
        client.stream("Hi") as waiting,
    ):

        async def open_it() -> None:
            await opening.read()
            ended.append("opening")

        async def wait_for_it() -> None:
            await waiting.read()
            ended.append("waiting")

        async with api.in_background(open_it):
            await api.wait(lambda: eventually(lambda: server.requests))
            async with api.in_background(wait_for_it):
                await api.wait(lambda: eventually(lambda: waiting.running))
                await waiting.stop()
        assert ended == ["waiting", "opening"]
        assert waiting.reply.finish_reason == "stopped"
    assert kinds(server) == ["settings", "create", "message", "delete"]


async def test_conversation_with_a_lost_id_is_deleted_at_close(api: Api, server: Emulator) -> None:
    server.fault("create", Fault(disconnect=True, processed=True))
    async with api.client(retries=Retries(base=0.001)) as client:
        async with client.conversation(keep=True) as talk:
            await talk.rename("Kept")
        assert (await client.chat("Hi")).text
        assert len(await api.wait(lambda: server.conversations)) == 2
    assert await api.wait(lambda: [c.title for c in server.conversations]) == ["Kept"]


async def test_session_can_be_resumed(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        await client.chat("Hi")
        session = client.session
    server.clear()
    async with api.client(session=session) as client:
        await client.chat("Hi")
        assert client.session == session
    assert kinds(server) == ["create", "message", "delete"]
    assert {request.cookie("hf-chat") for request in server.requests} == {session}


async def test_resumed_session_that_was_forgotten_is_reopened(api: Api, server: Emulator) -> None:
    session = "11111111-2222-4333-8444-555555555555"
    async with api.client(session=session) as client:
        await client.chat("Hi")
    assert kinds(server) == ["create", "settings", "create", "message", "delete"]
    assert await api.wait(lambda: server.sessions) == [session]


@pytest.mark.parametrize("version", ["0.4", "0.6"])
async def test_sharing_can_be_turned_off(api: Api, version: Any) -> None:
    with Emulator(version=version) as other:
        async with api.client(other.url, share_conversations=False) as client:
            await client.chat("Hi")
            session = client.session
        form = other.requests[0].form()
        assert "shareConversationsWithModelAuthors" not in form
        assert form["ethicsModalAccepted"] == "true"
        other.clear()
        # A resumed session is told the choice, too, after reading its settings.
        async with api.client(other.url, session=session, share_conversations=False) as client:
            await client.chat("Hi")
        assert kinds(other)[:2] == ["root", "settings"]


@pytest.mark.parametrize("session", [None, "my-own", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"])
async def test_session_cookie_may_have_another_name(api: Api, session: str | None) -> None:
    with Emulator(cookie_name="gpt-session") as other:
        async with api.client(other.url, session=session) as client:
            assert (await client.chat("Hi")).text
            assert (await client.chat("Hi")).text
            taken = client.session
        assert taken.startswith("gpt-session=")
        assert other.conversations == []
        other.clear()
        async with api.client(other.url, session=taken) as client:
            assert (await client.chat("Hi")).text
            assert client.session == taken
        assert kinds(other) == ["create", "message", "delete"]


@pytest.mark.slow
async def test_slow_settings_are_waited_for(api: Api, server: Emulator) -> None:
    server.fault("settings", Fault(hang=True))
    async with api.client(timeouts=1.0, retries=0) as client:
        with pytest.raises(TransportTimeoutError):
            await client.chat("Hi")
        assert (await client.chat("Hi")).text
    await api.settled()
