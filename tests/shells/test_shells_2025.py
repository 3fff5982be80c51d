"""2025 servers, over real sockets: what they do differently, and what only they do."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked import kinds, requested
from backends import ONCE, Api, endless

from h2o_client import (
    Event,
    File,
    GenerationError,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    LoginRequiredError,
    ModelUnavailableError,
    NotFoundError,
    RateLimitError,
    Revision,
    Timeouts,
    UnsupportedError,
)
from h2o_client.emulator import DEFAULT_MODELS, Answer, Emulator, Fault, Intervals, Model

QUICK = Intervals(keep_alive=0.01, journal=0.005, save=0.01)
WORDS = [" a", " b", " c", " d"]
NEW = "chat-ui-2025"


def emulator(**options: Any) -> Emulator:
    return Emulator(**{"dialect": NEW, "intervals": QUICK, **options})


@pytest.fixture
def server() -> Iterator[Emulator]:
    with emulator() as server:
        yield server


@pytest.fixture(params=["main", "0.10"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sent(server: Emulator, kind: str = "message") -> list[dict[str, Any]]:
    """Return the fields of the messages."""
    found = [request for request in server.requests if request.kind == kind]
    return [
        json.loads(next(part.value for part in request.parts() if part.name == "data"))
        for request in found
    ]


# Detection


async def test_detection_needs_two_extra_requests(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        assert (client.dialect, client.capabilities) == (None, frozenset())
        await client.chat("Hi")
        assert kinds(server) == ["settings", "models", "create", "message", "delete"]
        await client.chat("Hi")
        assert kinds(server)[5:] == ["create", "message", "delete"]
        assert client.dialect == NEW
        assert {"files", "branches", "preprompt"} <= client.capabilities
    await api.settled()


async def test_concurrent_calls_detect_the_server_once(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        replies = await api.concurrently([lambda: client.chat("Hi")] * 5)
    assert len(replies) == 5
    assert kinds(server).count("settings") == kinds(server).count("models") == 1
    await api.settled()


def test_pickled_client_knows_the_dialect_but_not_the_default_model() -> None:
    with emulator() as server:
        with H2oClient(server.url) as client:
            client.chat("Hi")
            copied = pickle.loads(pickle.dumps(client))
        before = len(server.requests)
        with copied:
            assert copied.dialect == NEW
            copied.chat("Hi")
            assert kinds(server)[before:] == ["create", "message", "delete"]
            server.fault("create", Fault(400, body='{"message": "Invalid request"}'))
            other = DEFAULT_MODELS[1].name
            models = json.dumps({"json": [{"id": other, "name": other}]})
            server.fault("models", Fault(200, body=models))
            assert copied.chat("Hi").model == copied.model == other


async def test_default_model_is_the_servers_first(api: Api) -> None:
    models = [Model("one/a", "one/a"), Model("two/b", "two/b")]
    with emulator(models=models) as server:
        async with api.client(server.url) as client:
            assert (await client.chat("Hi")).model == client.model == "one/a"
            assert (await client.chat("Hi", model="two/b")).model == "two/b"
            with pytest.raises(ModelUnavailableError, match="it has: one/a, two/b"):
                await client.chat("Hi", model="three/c")
            async with client.conversation() as talk:
                await talk.send("Hi")
                assert talk.model == "one/a"


async def test_login_is_required_and_a_browser_session_works(api: Api) -> None:
    with emulator(login="secret-of-the-browser", cookie_name="chat-session") as server:
        async with api.client(server.url, **ONCE) as client:
            with pytest.raises(LoginRequiredError, match="cookie_name"):
                await client.chat("Hi")
        assert "message" not in kinds(server)
        options = {"session": "secret-of-the-browser", "cookie_name": "chat-session"}
        async with api.client(server.url, **options) as client:
            assert (await client.chat("Hi")).text


@pytest.mark.parametrize("options", [{}, {"dialect": NEW}])
async def test_missing_token_is_a_token_error(api: Api, options: dict[str, Any]) -> None:
    with emulator(token="s3cret") as server:
        async with api.client(server.url, **ONCE, **options) as client:
            with pytest.raises(LoginRequiredError, match="H2O_CHAT_TOKEN") as caught:
                await client.chat("Hi")
    assert "browser" not in str(caught.value)
    assert caught.value.message == "A bearer token is required."


async def test_renamed_cookie_is_detected(api: Api) -> None:
    with emulator(cookie_name="chat-session") as server:
        async with api.client(server.url) as client:
            async with client.conversation() as talk:
                await talk.send("One")
                await talk.send("Two")
                assert len(await talk.history()) == 4
            assert client.session.startswith("chat-session=")
        assert server.conversations == []


async def test_many_at_once_find_out_a_renamed_cookie(api: Api) -> None:
    with emulator(cookie_name="chat-session") as server:
        async with api.client(server.url, **ONCE) as client:
            assert len(await api.concurrently([lambda: client.chat("Hi")] * 4)) == 4
        assert server.conversations == []


async def test_sharing_is_off_before_the_first_message(api: Api, server: Emulator) -> None:
    async with api.client(share_conversations=False) as client:
        await client.chat("Hi")
        assert kinds(server)[:4] == ["settings", "models", "settings", "create"]
        assert (await client.settings()).share_conversations is False


# Capabilities


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"parameters": {"x": 1}}])
async def test_unsupported_parameters_are_rejected_before_sending(
    api: Api, server: Emulator, options: dict[str, Any]
) -> None:
    async with api.client() as client:
        with pytest.raises(UnsupportedError, match="generation parameters"):
            await client.chat("Hi", **options)
        async with client.conversation() as talk:
            for call in (
                lambda: talk.send("Hi", **options),
                lambda: talk.send("Hi", web_search=True),
                talk.summarize,
                lambda: talk.vote("x", 1),
            ):
                with pytest.raises(UnsupportedError):
                    await call()
    assert kinds(server) == ["settings", "models"]


async def test_features_missing_on_2023_are_rejected(api: Api) -> None:
    with Emulator() as server:
        async with api.client(server.url) as client:
            with pytest.raises(UnsupportedError, match="files"):
                await client.chat("Hi", files=[File("a.txt", b"a")])
            async with client.conversation() as talk:
                with pytest.raises(UnsupportedError, match="follow any message but the last"):
                    await talk.send("Hi", parent="x")
            assert client.dialect == "chat-ui-2023"
            assert "vote" in client.capabilities
        assert kinds(server) == ["settings"]


@pytest.mark.slow
async def test_whole_life_of_a_conversation(api: Api, version: str, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("hello")
    with emulator(version=version) as server:
        async with api.client(server.url) as client:
            async with client.conversation(keep=True) as talk:
                first = await talk.send("One", files=[path])
                await talk.send("Two")
                await talk.retry()
                history = await talk.history()
                assert [message.content for message in history][::2] == ["One", "Two"]
                assert len(history[2].children) == 2
                parent = history[1].id
                assert parent is not None
                await talk.send("Other", parent=parent)
                history = await talk.history()
                assert [message.content for message in history][::2] == ["One", "Other"]
                assert len(history[1].children) == 2
                assert talk.title
                await talk.rename("A title")
                await talk.refresh()
                assert talk.title == "A title"
                assert str(await talk.prompt(parent))
                url = await talk.share()
            shared = await client.shared(url)
            assert (shared.title, len(shared.messages)) == ("A title", 4)
            assert [info.title for info in await client.conversations()] == ["A title"]
            async with client.conversation(id=talk.id) as again:
                assert (await again.send("Three")).text
                assert len(await again.history()) == 6
            async with client.conversation(from_share=url) as copied:
                await copied.send("Four")
                assert len(await copied.history()) == 6
            await client.delete_conversations()
            assert await client.conversations() == []
        assert first.text
        files = [
            part.filename
            for request in server.requests
            if request.kind == "message"
            for part in request.parts()
            if part.name == "files"
        ]
        assert files == ["base64;note.txt"]


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (File("a.png", b"x"), "does not accept"),
        (File("a.txt", b""), "is empty"),
        (File("a.txt", b"x" * 11_000_000), "too large"),
    ],
    ids=["type", "empty", "size"],
)
async def test_invalid_files_of_a_message_are_rejected(
    api: Api, server: Emulator, file: File, error: str
) -> None:
    async with api.client() as client:
        with pytest.raises(ValueError, match=error):
            await client.chat("Hi", files=[file])
    assert "message" not in kinds(server)


async def test_reasoning_is_separated_from_the_answer(api: Api, server: Emulator) -> None:
    server.reply(Answer(["<think>Let me", " see.", "</think>", "\n\nFour", "."]))
    async with api.client() as client:
        reply = await client.chat("2+2?")
    assert reply.text == "<think>Let me see.</think>\n\nFour."
    assert (reply.reasoning, reply.answer) == ("Let me see.", "Four.")


# Complete answers and errors


@pytest.mark.parametrize(
    ("ending", "error"),
    [("clean", IncompleteStreamError), ("cut", GenerationError), ("error", GenerationError)],
)
async def test_incomplete_answer_is_an_error(
    api: Api, server: Emulator, ending: Any, error: type[Exception]
) -> None:
    server.reply(Answer(WORDS, ending=ending))
    async with api.client() as client:
        with pytest.raises(error) as caught:
            await client.chat("Hi")
    assert getattr(caught.value, "partial", "").startswith(" a b")
    assert kinds(server).count("message") == 1
    await api.settled()


async def test_regenerated_answer_is_a_revision(api: Api, server: Emulator) -> None:
    server.reply(Answer(WORDS[:2], ending="cut", again=Answer(WORDS)))
    async with api.client() as client, client.stream("Hi") as stream:
        tokens = [token async for token in stream.events()]
        assert stream.text == stream.reply.text == " a b c d"
        assert stream.reply.revised
    assert "".join(token.text for token in tokens if not token.special) == " a b a b c d"
    assert [token for token in tokens if isinstance(token, Revision)] == [Revision(" a b c d")]
    assert not any(isinstance(token, Event) for token in tokens)


# Lost connections


@pytest.mark.parametrize("after", [0, 200, 333, 420, 500, 900, 4000])
async def test_cut_connection_is_recovered(api: Api, version: str, after: int) -> None:
    with emulator(version=version) as server:
        server.reply(Answer(WORDS, drop_after_bytes=after, pace=0.01))
        async with api.client(server.url) as client, client.stream("Hi") as stream:
            texts = [text async for text in stream]
            assert "".join(texts) == stream.reply.text == " a b c d"
        assert server.generations == kinds(server).count("message") == 1
        server.wait_idle()
        assert server.conversations == []


async def test_lost_answer_continues_live(api: Api, server: Emulator) -> None:
    server.reply(Answer(tokens=(*WORDS, " e"), drop_after=2, hold_after=4))
    async with api.client() as client, client.stream("Hi") as stream:
        texts = [await anext(stream) for _ in range(3)]
        while "".join(texts) != " a b c d":
            texts.append(await anext(stream))
        server.release()
        texts += [text async for text in stream]
        assert "".join(texts) == stream.reply.text == " a b c d e"
        assert stream.reply.recovered
    assert kinds(server).count("message") == kinds(server).count("reattach") == 1


@pytest.mark.slow
async def test_keep_alives_do_not_satisfy_the_timeout(api: Api, server: Emulator) -> None:
    server.reply(endless(" a", held=0))
    limits = Timeouts(first_token=0.5, recovery=0.1)
    async with api.client(timeouts=limits, **ONCE) as client:
        with pytest.raises(TimeoutError, match="first_token"):
            await client.chat("Hi")
    await api.settled()


# Stopping, leaving, waiting


async def test_stopped_answer_is_stored_as_returned(api: Api, server: Emulator) -> None:
    server.reply(endless(*WORDS))
    async with api.client() as client, client.conversation() as talk:
        async with talk.stream("Hi") as stream:
            texts = [await anext(stream) for _ in range(2)]
            await api.held()
            await stream.stop()
            texts += [text async for text in stream]
            assert stream.reply.finish_reason == "stopped"
            given = stream.reply.text
        assert given.startswith("".join(texts))
        history = await talk.history()
        assert (history[-1].content, history[-1].partial) == (given, True)
        assert (await talk.send("Next")).finish_reason is None
    assert server.stops == 1
    await api.settled()


@pytest.mark.slow
async def test_reply_is_returned_before_the_title_arrives(api: Api, server: Emulator) -> None:
    server.reply(Answer(WORDS, hold_title=True), "Second")
    async with api.client() as client, client.conversation() as talk:
        assert (await talk.send("One")).text == " a b c d"

        async def second() -> str:
            return (await talk.send("Two")).text

        async with api.in_background(second) as later:
            await api.wait(lambda: requested(server, "data", 2))
            assert kinds(server).count("message") == 1
            server.release()
        assert later.result() == "Second"
        assert [message.content for message in await talk.history()][::2] == ["One", "Two"]
        assert talk.title


# Failed messages and branches


async def test_no_stop_is_sent_after_an_incomplete_answer(api: Api, server: Emulator) -> None:
    """A stop after the end of the response is stored, and would end the next answer."""
    server.reply("One", Answer(" One two", ending="clean"), Answer(WORDS, pace=0.02))
    async with api.client(**ONCE) as client, client.conversation() as talk:
        await talk.send("First")
        with pytest.raises(H2oError):
            await talk.send("Second")
        assert (await talk.send("Third")).text == " a b c d"
    assert "stop" not in kinds(server)


async def test_sharing_is_off_before_a_resumed_conversation_continues(
    api: Api, server: Emulator
) -> None:
    async with api.client() as client:
        async with client.conversation(keep=True) as talk:
            await talk.send("One")
        session, found = client.session, talk.id
    await api.wait(server.wait_idle)
    server.clear()
    async with (
        api.client(session=session, share_conversations=False) as client,
        client.conversation(id=found, keep=True) as talk,
    ):
        await talk.send("Two")
    asked = kinds(server)
    assert asked.index("settings") < asked.index("message")


async def test_missing_conversation_is_requested_once(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        await client.chat("Hi")
        server.clear()
        with pytest.raises(NotFoundError):
            await client.conversation(id="0" * 24, keep=True).send("Hi")
    assert kinds(server) == ["data"]


async def test_retry_of_a_prompt_with_other_line_endings_is_a_sibling(api: Api) -> None:
    async with api.client() as client, client.conversation() as talk:
        await talk.send("a\r\nb")
        await talk.retry()
        assert [message.role for message in await talk.history()] == ["user", "assistant"]
        assert len(talk.messages) == 2


async def test_retry_of_a_rejected_message_keeps_its_files(api: Api, server: Emulator) -> None:
    async with api.client(**ONCE) as client, client.conversation() as talk:
        await talk.send("One")
        server.fault("message", Fault(429, body={"message": "too many"}))
        with pytest.raises(RateLimitError):
            await talk.send("Two", files=[File("notes.txt", b"Noon.", "text/plain")])
        await talk.retry()
        assert [message.content for message in talk.messages][::2] == ["One", "Two"]
        assert [message.content for message in await talk.history()][::2] == ["One", "Two"]
    assert b"notes.txt" in [each for each in server.requests if each.kind == "message"][-1].body


async def test_messages_belong_to_the_current_branch(api: Api) -> None:
    async with api.client() as client, client.conversation() as talk:
        for prompt in ("One", "Two"):
            await talk.send(prompt)
        first = (await talk.history())[1]
        await talk.send("Three", parent=first.id)
        assert [message.content for message in talk.messages][::2] == ["One", "Three"]
        assert [message.content for message in await talk.history()][::2] == ["One", "Three"]
