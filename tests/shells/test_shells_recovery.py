"""Answers whose connection breaks: the rest is fetched from the server, over real sockets."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from asked import kinds
from backends import ASYNC, Api, only

from h2o_client import AsyncH2oClient, IncompleteStreamError, Reply, Timeouts
from h2o_client.emulator import Answer, Emulator, Fault

TOKENS = (" Привет", ",", " мир", "!\n", " \u2028👋🏽", " naïve", " end")
TEXT = "".join(TOKENS)
SOON = Timeouts(recovery=0.05)


async def chat(client: AsyncH2oClient) -> Reply:
    return await client.chat("Hi")


async def stream(client: AsyncH2oClient) -> Reply:
    async with client.stream("Hi") as stream:
        texts = [text async for text in stream]
        assert "".join(texts) == stream.text == stream.reply.text
        return stream.reply


async def send(client: AsyncH2oClient) -> Reply:
    async with client.conversation() as talk:
        reply = await talk.send("Hi")
        assert [(m.content, m.partial) for m in talk.messages] == [
            ("Hi", False),
            (reply.text, False),
        ]
        return reply


async def talk_stream(client: AsyncH2oClient) -> Reply:
    async with client.conversation() as talk, talk.stream("Hi") as stream:
        return await stream.read()


Call = Callable[[AsyncH2oClient], Awaitable[Reply]]
CALLS = [chat, stream, send, talk_stream]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("offset", [0, 1, 4, 5, 60, 61, 131, 260, 333, 500, 700, 850, 900])
async def test_answer_cut_at_a_byte_is_recovered(
    api: Api, server: Emulator, call: Call, offset: int
) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after_bytes=offset))
    async with api.client() as client:
        reply = await call(client)
    assert (reply.text, reply.recovered, reply.finish_reason) == (TEXT, True, None)
    assert server.generations == kinds(server).count("message") == 1
    assert "stop" not in kinds(server)
    await api.settled()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [0, 1, 2, 6, 7])
async def test_answer_cut_after_tokens_is_recovered(
    api: Api, server: Emulator, call: Call, after: int
) -> None:
    server.cut(after)
    server.reply(Answer(tokens=TOKENS))
    async with api.client() as client:
        reply = await call(client)
    assert (reply.text, reply.recovered) == (TEXT, True)
    assert server.generations == 1
    await api.settled()


async def test_recovery_waits_for_a_running_generation(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after=2, hold_after=4))
    async with api.client() as client, api.in_background(lambda: chat(client)) as done:
        await api.held()
        while kinds(server).count("data") < 2:
            await api.wait(lambda: None)
        await api.wait(server.release)
    assert done.result().text == TEXT
    assert done.result().recovered
    assert server.generations == 1
    await api.settled()


async def test_timeout_is_recovered_if_the_answer_is_stored(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS))
    server.fault("message", Fault(hang=True, processed=True))
    async with api.client(timeouts=Timeouts(first_token=0.1)) as client:
        reply = await client.chat("Hi")
    assert (reply.text, reply.recovered, server.generations) == (TEXT, True, 1)


@pytest.mark.parametrize("where", ["client", "call"])
@pytest.mark.parametrize("call", ["chat", "stream", "send", "retry"])
async def test_recovery_can_be_disabled(api: Api, server: Emulator, where: str, call: str) -> None:
    option: dict[str, Any] = {"recover": False} if where == "call" else {}
    async with (
        api.client(recover=where == "call") as client,
        client.conversation() as talk,
    ):

        async def read() -> Reply:
            async with client.stream("Hi", **option) as stream:
                return await stream.read()

        calls: dict[str, Callable[[], Awaitable[Reply]]] = {
            "chat": lambda: client.chat("Hi", **option),
            "stream": read,
            "send": lambda: talk.send("Hi", **option),
            "retry": lambda: talk.retry(**option),
        }
        if call == "retry":
            await talk.send("Hi")
        server.reply(Answer(tokens=TOKENS, drop_after=2))
        with pytest.raises(IncompleteStreamError) as caught:
            await calls[call]()
        assert caught.value.partial == "".join(TOKENS[:2])
        # Only the polls before the message of `retry()`.
        assert kinds(server).count("data") == (call == "retry")
        if call in ("send", "retry"):
            partial = ("assistant", caught.value.partial, True)
            assert [(m.role, m.content, m.partial) for m in talk.messages][1:] == [partial]
    await api.settled()


async def test_recovery_can_be_enabled_per_call(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after=2))
    async with api.client(recover=False) as client:
        assert (await client.chat("Hi", recover=True)).recovered


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("ending", ["cut", "midline", "clean"])
async def test_recovery_is_limited_if_nothing_is_stored(
    api: Api, server: Emulator, call: Call, ending: Literal["cut", "midline", "clean"]
) -> None:
    server.reply(Answer(tokens=TOKENS[:2], ending=ending))
    async with api.client(timeouts=SOON) as client:
        with pytest.raises(IncompleteStreamError) as caught:
            await call(client)
    assert caught.value.partial.startswith(TOKENS[0])
    assert 1 <= kinds(server).count("data") <= 3
    assert server.generations == 1
    await api.settled()


async def test_conversation_continues_after_a_lost_answer(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after=2, hold_after=4), " Fine.")
    async with api.client(recover=False) as client, client.conversation() as talk:
        with pytest.raises(IncompleteStreamError):
            await talk.send("Hi")
        # The server was told to stop; it has stored more than was received, and the next message
        # waits for that.
        assert (await talk.send("Go on")).text == " Fine."
        history = [message.content for message in await talk.history()]
        assert history == ["Hi", "".join(TOKENS[:5]), "Go on", " Fine."]
        assert [(m.content, m.partial) for m in talk.messages] == [
            ("Hi", False),
            ("".join(TOKENS[:5]), True),
            ("Go on", False),
            (" Fine.", False),
        ]
    await api.settled()


async def test_deleted_conversation_is_not_recovered(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after=2, hold_after=4))
    async with api.client() as client, client.conversation() as talk:

        async def ask() -> Reply:
            return await talk.send("Hi")

        async with api.in_background(ask) as done:
            await api.held()
            async with api.client(session=client.session) as other:
                await other.delete_conversations()
    assert isinstance(done.error, IncompleteStreamError)
    assert done.error.partial == "".join(TOKENS[:2])


@pytest.mark.parametrize("beside", [False, True])
async def test_stop_during_recovery(api: Api, server: Emulator, beside: bool) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after=2, hold_after=4))
    async with api.client() as client, client.conversation() as talk:

        async def ask() -> Reply:
            return await talk.send("Hi")

        async with api.in_background(ask) as done:
            await api.held()
            while kinds(server).count("data") < (1 if beside else 2):
                await api.wait(lambda: None)
            await talk.stop()
        reply = done.result()
        assert (reply.text, reply.finish_reason) == ("".join(TOKENS[:2]), "stopped")
        assert not reply.recovered
        assert [m.partial for m in talk.messages] == [False, True]
        await api.wait(server.wait_idle)
        assert server.stops == 1
    await api.settled()


@only(*ASYNC)
async def test_leaving_during_recovery(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=TOKENS, drop_after=2, hold_after=4))
    async with api.client() as client:
        stream = client.stream("Hi")
        assert [await anext(stream), await anext(stream)] == [*TOKENS[:2]]
        await stream.aclose()
        await api.settled()
        assert server.stops == 1
