"""Conversations over real sockets: history, stop, retry, keep, deletion."""

import gc
import json
import warnings

import pytest
from asked import bodies, eventually, kinds
from backends import Api, endless

from h2o_client import (
    DEFAULT_MODEL,
    AsyncConversation,
    ConversationBusyError,
    H2oClient,
    Message,
    NotFoundError,
    Reply,
)
from h2o_client.emulator import Emulator, Fault


def said(talk: AsyncConversation) -> list[tuple[str, bool]]:
    return [(message.content, message.partial) for message in talk.messages]


async def there(api: Api, server: Emulator) -> list[str]:
    """Return the ids of the conversations on the server."""
    await api.wait(server.wait_idle)
    return [conversation.id for conversation in await api.wait(lambda: server.conversations)]


class OwnError(Exception):
    """The error raised by a caller."""


# Turns


async def test_conversation_keeps_its_history(api: Api, server: Emulator) -> None:
    server.reply(" Hello Ann.", " Ann.", " Ann, you said.")
    async with api.client() as client, client.conversation() as talk:
        assert (talk.id, talk.title, talk.model) == (None, None, DEFAULT_MODEL)
        first = await talk.send("My name is Ann.")
        assert isinstance(first, Reply)
        assert talk.id == first.conversation_id
        async with talk.stream("What is my name?") as stream:
            assert [text async for text in stream] == [" Ann."]
        again = await talk.retry()
        assert again.text == " Ann, you said."
        assert again.message_id == stream.reply.message_id != again.response_id
        assert said(talk) == [
            ("My name is Ann.", False),
            (" Hello Ann.", False),
            ("What is my name?", False),
            (" Ann, you said.", False),
        ]
        history = await talk.history()
        assert [(m.id, m.role, m.content) for m in history] == [
            (m.id, m.role, m.content) for m in talk.messages
        ]
        assert all(message.updated_at is not None for message in history)
        assert await api.wait(lambda: len(server.conversations)) == 1
    # Only the new message is sent; the server combines it with the history.
    assert [body["inputs"] for body in bodies(server)] == [
        "My name is Ann.",
        "What is my name?",
        "What is my name?",
    ]
    assert [body["options"]["is_retry"] for body in bodies(server)] == [False, False, True]
    # Each message, and the history, first checks that the answer before it is stored.
    assert kinds(server) == ["settings", "create", *["message", "data"] * 3, "delete"]
    await api.settled()


async def test_retry_can_be_streamed(api: Api, server: Emulator) -> None:
    server.reply(" Hello.", " Good day.")
    async with api.client() as client, client.conversation() as talk:
        first = await talk.send("Hi")
        async with talk.stream_retry(temperature=0.9, seed=7) as stream:
            assert [text async for text in stream] == [" Good", " day."]
        assert stream.reply.message_id == first.message_id
        assert said(talk) == [("Hi", False), (" Good day.", False)]
        last = bodies(server)[-1]
        assert last["options"]["is_retry"]
        assert (last["parameters"]["temperature"], last["parameters"]["seed"]) == (0.9, 7)


async def test_concurrent_message_is_rejected_and_not_sent(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), " Two")
    async with api.client() as client, client.conversation() as talk:
        async with talk.stream("First") as stream:
            assert await anext(stream) == " One"
            before = len(server.requests)
            with pytest.raises(ConversationBusyError):
                await talk.send("Second")
            with pytest.raises(ConversationBusyError):
                await talk.retry()
            with pytest.raises(ConversationBusyError):
                async with talk.stream("Second") as other:
                    await other.read()
            assert len(server.requests) == before
            await talk.stop()  # stops the first message, not a rejected one
            assert stream.reply.finish_reason == "stopped"
        assert (await talk.send("Third")).text == " Two"
    await api.settled()


async def test_concurrent_conversations_are_allowed(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), " Two")
    async with (
        api.client() as client,
        client.conversation() as one,
        client.conversation() as two,
        one.stream("First") as stream,
    ):
        assert await anext(stream) == " One"
        assert (await two.send("Second")).text == " Two"
    await api.settled()


async def test_unread_stream_does_not_block_the_conversation(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    async with api.client() as client, client.conversation() as talk:
        unread = talk.stream("Never")
        async with talk.stream("First") as stream:
            assert await anext(stream) == " One"
            await talk.stop()
            assert stream.reply.text == " One"
        await unread.aclose()
    assert [body["inputs"] for body in bodies(server)] == ["First"]
    await api.settled()


# Stopping


async def test_stop_in_the_reading_thread_or_task_keeps_the_partial_answer(
    api: Api, server: Emulator
) -> None:
    server.reply(endless(" One", " two"), " Next")
    async with api.client() as client, client.conversation() as talk:
        texts = []
        async with talk.stream("Hi") as stream:
            async for text in stream:
                texts.append(text)
                if len(texts) == 2:
                    await talk.stop()
        assert texts == [" One", " two"]
        assert (stream.reply.text, stream.reply.finish_reason) == (" One two", "stopped")
        assert said(talk) == [("Hi", False), (" One two", True)]
        # The next message knows the turn, of which more is stored than was received.
        assert (await talk.send("Next")).text == " Next"
        assert [m.content for m in await talk.history()] == [
            "Hi",
            " One two too",
            "Next",
            " Next",
        ]
    order = kinds(server)
    assert "data" in order[order.index("stop") : order.index("message", order.index("stop"))]
    await api.settled()


@pytest.mark.parametrize("tokens", [(" One",), ()], ids=["after a token", "before the first"])
@pytest.mark.parametrize("how", ["talk", "stream"])
async def test_stop_from_another_thread_or_task_keeps_the_partial_answer(
    api: Api, server: Emulator, tokens: tuple[str, ...], how: str
) -> None:
    server.reply(endless(*tokens), " Next")
    async with api.client() as client, client.conversation() as talk:
        stream = talk.stream("Hi")
        async with api.in_background(stream.read) as reading:
            await api.held()
            await (talk if how == "talk" else stream).stop()
        reply = reading.result()
        assert (reply.text, reply.finish_reason) == ("".join(tokens), "stopped")
        assert not reply.recovered
        assert said(talk) == [("Hi", False), ("".join(tokens), True)]
        assert (await talk.send("Next")).text == " Next"
        assert len(await talk.history()) == 4
    # Sent by the thread that stops, and by a reader that is faster.
    assert kinds(server).count("stop") in (1, 2)
    assert server.generations == 2
    assert server.stops == 1
    await api.settled()


async def test_stop_of_a_single_stream_ends_it(api: Api, server: Emulator) -> None:
    server.reply(endless(), endless(" One"))
    async with api.client() as client:
        for text in ("", " One"):
            stream = client.stream("Hi")
            async with api.in_background(stream.read) as reading:
                await api.held()
                await stream.stop()
            reply = reading.result()
            assert (reply.text, reply.finish_reason) == (text, "stopped")
            await api.settled()
    assert server.generations == 2


async def test_stop_without_a_running_answer_sends_nothing(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation() as talk:
        await talk.stop()
        reply = await talk.send("Hi")
        await talk.stop()
        assert reply.finish_reason == "eos_token"
    assert "stop" not in kinds(server)


async def test_stop_ends_the_wait_for_a_stopped_turn(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    async with api.client() as client, client.conversation() as talk:
        async with talk.stream("Hi") as stream:
            await anext(stream)
            await stream.stop()
        # Simulates a server that is slow to store it.
        server.fault("data", *[Fault(status=503)] * 40)
        following = talk.stream("Next")
        async with api.in_background(following.read) as reading:
            while "data" not in kinds(server):
                await api.wait(lambda: None)
            await talk.stop()
        assert reading.result().finish_reason == "stopped"
        assert len(bodies(server)) == 1
        server.clear()
    await api.settled()


async def test_conversation_continues_after_leaving_a_stream(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), " Next")
    async with api.client() as client, client.conversation() as talk:
        async with talk.stream("Hi") as stream:
            async for _ in stream:
                break
        assert said(talk) == [("Hi", False), (" One", True)]
        assert (await talk.send("Next")).text == " Next"
        assert [m.content for m in await talk.history()] == ["Hi", " One too", "Next", " Next"]
    assert server.stops == 1
    await api.settled()


# Errors


async def test_deleted_conversation_raises_not_found(api: Api) -> None:
    async with api.client() as client, client.conversation() as talk:
        await talk.send("Hi")
        await client.delete_conversations()
        words = "the server no longer has this conversation.*client.chat"
        with pytest.raises(NotFoundError, match=words) as caught:
            await talk.send("Still there?")
        assert caught.value.status == 404
        for call in (talk.history, talk.refresh, talk.summarize, talk.share):
            with pytest.raises(NotFoundError, match="no longer has"):
                await call()
        with pytest.raises(NotFoundError, match="no longer has"):
            await talk.rename("x")
        # The known part can continue in another conversation.
        reply = await client.chat([*talk.messages, Message(role="user", content="And now?")])
        assert "turn 2" in reply.text


async def test_conversation_of_another_session_raises_not_found(api: Api) -> None:
    async with api.client() as mine, api.client() as yours, mine.conversation() as talk:
        await talk.send("Hi")
        await yours.chat("Hi")
        taken = yours.conversation(id=talk.id)
        with pytest.raises(NotFoundError, match="another session"):
            await taken.send("Hi")


async def test_unsendable_message_is_rejected_immediately(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation() as talk:
        with pytest.raises(ValueError, match="blank"):
            await talk.send(" ")
        with pytest.raises(TypeError):
            talk.stream("Hi", temprature=1)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="does not have a message to retry"):
            await talk.retry()
        with pytest.raises(ValueError, match="1 to 100"):
            await talk.rename("")
        with pytest.raises(ValueError, match="-1, 0 or 1"):
            await talk.vote("m", 2)
        with pytest.raises(ValueError, match=r"not a valid conversation id"):
            client.conversation(id="../x")
        with pytest.raises(ValueError, match="not both"):
            client.conversation(id="a", from_share="b")
        with pytest.raises(ValueError, match="not a share link"):
            client.conversation(from_share="")
        with pytest.raises(ValueError, match="saved conversation"):
            client.conversation_from({})
    assert "message" not in kinds(server)


# Deletion at the end


@pytest.mark.parametrize("keep", [None, True, False])
@pytest.mark.parametrize("taken", ["made", "id", "saved", "share"])
async def test_keep_controls_deletion(
    api: Api, server: Emulator, taken: str, keep: bool | None
) -> None:
    async with api.client() as client:
        async with client.conversation(keep=True) as first:
            await first.send("Hi")
            saved = json.loads(json.dumps(first.to_dict()))
            url = await first.share()
        original = first.id
        assert await there(api, server) == [original]
        if taken == "made":
            talk = client.conversation(keep=keep)
        elif taken == "id":
            talk = client.conversation(id=original, keep=keep)
        elif taken == "saved":
            talk = client.conversation_from(saved, keep=keep)
        else:
            talk = client.conversation(from_share=url, keep=keep)
        async with talk:
            await talk.send("Again")
        kept = taken in ("id", "saved") if keep is None else keep
        own = talk.id in await there(api, server)
        assert own == kept
        assert (talk.id == original) == (taken in ("id", "saved"))


async def test_conversation_is_deleted_on_an_exception(api: Api, server: Emulator) -> None:
    async with api.client() as client:

        async def converse() -> None:
            async with client.conversation() as talk:
                await talk.send("Hi")
                raise OwnError

        with pytest.raises(OwnError) as caught:
            await converse()
        assert caught.value.__context__ is None
        assert await there(api, server) == []


async def test_closing_the_conversation_ends_its_stream(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    async with api.client() as client:
        async with client.conversation() as talk:
            stream = talk.stream("Hi")
            await anext(stream)
        await api.settled()
        with pytest.raises(RuntimeError, match="closed"):
            await anext(stream)
        for call in (talk.history, talk.share, talk.retry):
            with pytest.raises(RuntimeError, match="conversation is closed"):
                await call()
        with pytest.raises(RuntimeError, match="conversation is closed"):
            talk.stream("Hi")
        await talk.aclose()
        assert repr(talk).endswith(" closed>")
    assert kinds(server)[-2:] == ["stop", "delete"]


async def test_conversation_can_be_deleted_explicitly(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation(keep=True) as talk:
        await talk.send("Hi")
        await talk.delete()
        assert await there(api, server) == []
        await talk.delete()
        with pytest.raises(NotFoundError, match="no longer has"):
            await talk.send("Hi")
    assert kinds(server).count("delete") == 1


async def test_closing_the_client_closes_its_conversations(api: Api, server: Emulator) -> None:
    server.reply(" One", endless(" Two"))
    client = api.client()
    talks = [client.conversation(), client.conversation(), client.conversation(keep=True)]
    await talks[0].send("Hi")
    stream = talks[1].stream("Hi")
    await anext(stream)
    await talks[2].send("Hi")
    await client.aclose()
    assert await there(api, server) == [talks[2].id]
    for talk in talks:
        with pytest.raises(RuntimeError, match="closed"):
            await talk.send("Hi")
    with pytest.raises(RuntimeError, match="closed"):
        await stream.read()
    await talks[0].aclose()


async def test_unused_conversation_leaves_nothing(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        async with client.conversation():
            pass
        client.conversation()
        gc.collect()
    assert server.requests == []


async def test_dropped_conversation_warns_and_is_deleted(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        talk = client.conversation()
        await talk.send("Hi")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del talk
            gc.collect()
        (warning,) = caught
        assert warning.category is ResourceWarning
        assert "Conversation" in str(warning.message)
        assert "was not closed: use" in str(warning.message)
        await api.wait(lambda: eventually(lambda: not server.conversations))


async def test_conversation_dropped_during_an_answer_is_stopped_and_deleted(
    api: Api, server: Emulator
) -> None:
    server.reply(endless(" One"))
    async with api.client() as client:
        talk = client.conversation()
        stream = talk.stream("Hi")
        await anext(stream)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del talk, stream
            gc.collect()
        assert {warning.category for warning in caught} == {ResourceWarning}
    await api.settled()
    assert server.stops == 1


async def test_kept_conversation_may_be_dropped(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        talk = client.conversation(keep=True)
        await talk.send("Hi")
        del talk
        gc.collect()
    assert len(await there(api, server)) == 1


# Resuming


@pytest.mark.slow
async def test_conversation_can_be_saved_and_loaded(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        async with client.conversation(keep=True) as talk:
            await talk.send("My name is Ann.")
            await talk.rename("Names")
            text = json.dumps(talk.to_dict())
        session = client.session
    assert session not in text
    async with api.client(session=session) as client:
        async with client.conversation_from(json.loads(text)) as again:
            assert (again.id, again.title) == (talk.id, "Names")
            assert again.messages == talk.messages
            reply = await again.send("What did I say first?")
            assert "My name is Ann." in reply.text
            assert (await again.retry()).message_id == reply.message_id
        assert await there(api, server) == [talk.id]
        # Its messages are accepted by a chat, too.
        await client.chat([*json.loads(text)["messages"], {"role": "user", "content": "Hi"}])
    async with api.client() as stranger:
        await stranger.chat("Hi")
        taken = stranger.conversation_from(json.loads(text))
        with pytest.raises(NotFoundError, match="no longer has this conversation"):
            await taken.send("Hi")


async def test_session_can_be_used_by_another_client(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        async with client.conversation(keep=True) as talk:
            await talk.send("Hi")
        session = client.session
    server.clear()
    async with api.client(session=session) as client:
        assert [info.id for info in await client.conversations()] == [talk.id]
        async with client.conversation(id=talk.id) as again:
            assert (again.model, again.messages) == ("", [])
            await again.retry()
            assert [m.content for m in again.messages][:1] == ["Hi"]
            await again.refresh()
            assert (again.model, again.title) == (DEFAULT_MODEL, "Untitled 1")
    # Its settings are not changed.
    assert "settings" not in kinds(server)
    assert bodies(server)[0]["options"]["is_retry"] is True
    assert [len(c.messages) for c in await api.wait(lambda: server.conversations)] == [2]


def test_saved_conversation_is_a_plain_dict(server: Emulator) -> None:
    with H2oClient(server.url) as client, client.conversation() as talk:
        talk.send("Hi")
        saved = talk.to_dict()
        assert set(saved) == {"format", "id", "title", "model", "messages"}
        assert saved["messages"][0] == {
            "role": "user",
            "content": "Hi",
            "id": talk.messages[0].id,
        }


async def test_concurrent_first_uses_create_one_conversation(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation() as talk:
        await api.concurrently(
            [lambda: talk.rename("Names"), lambda: talk.share(), lambda: talk.summarize()]
        )
        assert kinds(server).count("create") == 1
    await api.settled()


async def test_delete_during_an_answer_is_rejected(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    async with api.client() as client, client.conversation() as talk:
        async with talk.stream("Hi") as stream:
            await anext(stream)
            with pytest.raises(ConversationBusyError):
                await talk.delete()
        await talk.delete()
    await api.settled()


@pytest.mark.parametrize("delay", [0.0, 0.02])
async def test_stop_from_another_thread_between_two_tokens(
    api: Api, server: Emulator, delay: float
) -> None:
    server.reply(endless(" One"))
    server.fault("delete", Fault(delay=delay))
    async with api.client() as client:
        stream = client.stream("Hi")
        assert await anext(stream) == " One"
        async with api.in_background(stream.stop) as stopping:
            await api.wait(lambda: server.wait_idle())
            assert [text async for text in stream] == []
        assert stopping.error is None
        assert (stream.reply.text, stream.reply.finish_reason) == (" One", "stopped")
    await api.settled()
