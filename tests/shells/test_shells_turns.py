"""Turns over real sockets: a message is sent only once the previous turn's outcome is known."""

import contextlib

import anyio
import pytest
from asked import kinds
from backends import Api, endless

from h2o_client import (
    AsyncConversation,
    AsyncH2oClient,
    ConversationBusyError,
    Timeouts,
)
from h2o_client.emulator import Answer, Emulator, Fault


async def contents(talk: AsyncConversation) -> list[str]:
    """Return what the server has stored right now."""
    return [message.content for message in await talk.history()]


async def sent_when_free(talk: AsyncConversation, prompt: str) -> str:
    """Send a message as the error advises: retry while the conversation is busy."""
    for _ in range(20):
        with contextlib.suppress(ConversationBusyError):
            return (await talk.send(prompt)).text
    raise AssertionError("the conversation stays busy")


# Slow storage


async def converse(client: AsyncH2oClient, turns: int) -> None:
    """Send messages in sequence; none may be lost, and the history must be complete."""
    async with client.conversation() as talk:
        for number in range(turns):
            await talk.send(f"Message {number}")
            if number % 10 == 9:
                assert len(await talk.history()) == 2 * number + 2
        assert await contents(talk) == [message.content for message in talk.messages]
        asked = [message.content for message in talk.messages if message.role == "user"]
        assert asked == [f"Message {number}" for number in range(turns)]


@pytest.mark.slow
async def test_no_turn_is_lost_with_slow_storage(api: Api) -> None:
    with Emulator(store_delay=0.2) as slow:
        async with api.client(slow.url) as client:
            await converse(client, 20)
        assert slow.generations == 20


async def test_resumed_conversation_waits_for_its_last_turn(api: Api) -> None:
    with Emulator(store_delay=0.2) as slow:
        async with api.client(slow.url) as client:
            first = await client.conversation(keep=True).send("first")
            async with client.conversation(id=first.conversation_id) as talk:
                await talk.send("second")
                history = await talk.history()
    assert [message.content for message in history if message.role == "user"] == ["first", "second"]


@pytest.mark.long
def test_none_of_2000_turns_is_lost_with_slow_storage() -> None:
    async def scenario() -> None:
        async with AsyncH2oClient(slow.url) as client, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(converse, client, 100)

    with Emulator(store_delay=0.2) as slow:
        anyio.run(scenario)
        assert slow.generations == 2000


@pytest.mark.slow
async def test_history_and_vote_wait_until_a_stopped_turn_is_stored(
    api: Api, server: Emulator
) -> None:
    answer = Answer(tokens=(" One", " two\n", " "), hold_after=1, store_delay=0.3)
    server.reply(answer, answer, " Next")
    async with api.client() as client:
        for vote in (False, True):
            async with client.conversation() as talk, talk.stream("Hi \n") as stream:
                await anext(stream)
                await talk.stop()
                if vote:
                    await talk.vote(stream.reply.response_id, 1)
                history = await talk.history()
                assert [m.score for m in history] == [None, 1 if vote else None]
                assert [m.content for m in history] == ["Hi", " One two"]
                # More was stored than received; `messages` contains it once known.
                assert [(m.content, m.partial) for m in talk.messages] == [
                    ("Hi", False),
                    (" One two", True),
                ]
                assert stream.reply.text == " One"
    await api.settled()


# Generations that continue


@pytest.mark.slow
async def test_message_after_two_stops_is_not_overwritten(api: Api, server: Emulator) -> None:
    # The server ignores the second stop [11b_stop_again_later] and generates to the end.
    server.reply(endless(" One"), Answer(tokens=[f" {n}" for n in range(20)], pace=0.05), " Third")
    async with api.client() as client, client.conversation() as talk:
        for prompt in ("First", "Second"):
            async with talk.stream(prompt) as stream:
                await anext(stream)
                await talk.stop()
        assert (await talk.send("Third")).text == " Third"
        await api.wait(server.wait_idle)
        second = "".join(f" {n}" for n in range(20))
        assert await contents(talk) == ["First", " One too", "Second", second, "Third", " Third"]
    assert server.stops == 1
    await api.settled()


@pytest.mark.slow
async def test_nothing_is_sent_during_a_generation(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), " Next")
    server.fault("stop", *[Fault(status=500)] * 2)
    async with (
        api.client(timeouts=Timeouts(total=1.5), retries=0) as client,
        client.conversation() as talk,
    ):
        async with talk.stream("Hi") as stream:
            await anext(stream)
            await talk.stop()
        with pytest.raises(ConversationBusyError, match="nothing was sent"):
            await talk.send("Next")
        with pytest.raises(ConversationBusyError):
            await talk.history()
        assert kinds(server).count("message") == 1
        await api.wait(server.release)
        assert await sent_when_free(talk, "Next") == " Next"
        await api.wait(server.wait_idle)
        assert (await contents(talk))[2:] == ["Next", " Next"]
    await api.settled()
