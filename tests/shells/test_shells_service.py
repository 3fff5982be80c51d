"""Other operations over real sockets: models, shares, votes, titles, web search."""

from datetime import UTC, datetime

import pytest
from asked import bodies, kinds
from backends import Api

from h2o_client import (
    DEFAULT_MODEL,
    ConversationInfo,
    ModelUnavailableError,
    NotFoundError,
    PromptPreview,
    Reply,
    SharedConversation,
    WebSearchEntry,
    WebSearchSource,
)
from h2o_client.emulator import DEFAULT_MODELS, Emulator, Fault, WebSearch

OTHER_MODEL = DEFAULT_MODELS[1].name


# Operations of a client


async def test_client_lists_models(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        models = await client.models()
    assert [model.id for model in models] == [DEFAULT_MODEL, OTHER_MODEL]
    model = models[0]
    assert (model.name, model.display_name) == (DEFAULT_MODEL, "h2ogpt falcon 40b v1")
    assert model.description == "h2oGPT Falcon 40B"
    assert model.parameters["max_new_tokens"] == 1024
    # It needs no session.
    assert kinds(server) == ["root"]


async def test_client_reads_settings(api: Api) -> None:
    async with api.client(model=OTHER_MODEL) as client:
        before = await client.settings()
        assert before.terms_accepted_at is None
        await client.chat("Hi")
        settings = await client.settings()
        assert settings.active_model == OTHER_MODEL
        assert settings.share_conversations is True
        assert settings.terms_accepted_at is not None
        assert abs((datetime.now(UTC) - settings.terms_accepted_at).total_seconds()) < 60


async def test_conversations_can_be_listed_and_deleted(api: Api, server: Emulator) -> None:
    async with api.client() as client, api.client() as stranger:
        assert await client.conversations() == []
        for model in (DEFAULT_MODEL, OTHER_MODEL):
            async with client.conversation(keep=True, model=model) as talk:
                await talk.send("Hi")
        await stranger.chat("Hi")
        found = await client.conversations()
        assert found == [
            ConversationInfo(id=talk.id or "", title="Untitled 2", model=OTHER_MODEL),
            ConversationInfo(id=found[1].id, title="Untitled 1", model=DEFAULT_MODEL),
        ]
        assert await stranger.conversations() == []
        await stranger.delete_conversations()
        assert len(await client.conversations()) == 2
        await client.delete_conversations()
        assert await client.conversations() == []
    request = next(request for request in server.requests if request.kind == "delete_all")
    assert request.header("content-type") == "application/x-www-form-urlencoded"
    await api.settled()


# Operations of a conversation


async def test_conversation_can_be_renamed_and_summarized(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation() as talk:
        assert talk.title is None
        await talk.send("What is the capital of France?")
        await talk.refresh()
        assert talk.title == "Untitled 1"
        await talk.rename("  Names ")
        assert talk.title == "Names"
        assert [info.title for info in await client.conversations()] == ["Names"]
        title = await talk.summarize()
        assert title == talk.title == "What is the capital"
        assert [info.title for info in await client.conversations()] == [title]
    assert bodies(server, "rename") == [{"title": "Names"}]


async def test_answer_can_be_voted_on(api: Api) -> None:
    async with api.client() as client, client.conversation() as talk:
        reply = await talk.send("Rate me")
        for score in (1, -1, 0):
            await talk.vote(reply.response_id, score)
            history = await talk.history()
            assert history[1].score == (score or None)
            assert history[0].score is None
        with pytest.raises(NotFoundError, match="Message not found"):
            await talk.vote("11111111-1111-4111-8111-111111111111", 1)


async def test_prompt_of_an_answer_can_be_read(api: Api) -> None:
    async with api.client() as client, client.conversation() as talk:
        reply = await talk.send("Rate me")
        preview = await talk.prompt(reply.message_id)
        assert isinstance(preview, PromptPreview)
        assert str(preview) == preview.prompt
        assert "Rate me" in preview.prompt
        assert preview.model == DEFAULT_MODEL
        assert preview.parameters["truncate"] == 2048
        assert reply.text not in preview.prompt
        assert reply.text.strip() in str(await talk.prompt(reply.response_id))
        with pytest.raises(NotFoundError, match="Message not found"):
            await talk.prompt("11111111-1111-4111-8111-111111111111")


async def test_conversation_can_be_shared_and_copied(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation(model=OTHER_MODEL) as talk:
        await talk.send("Share this 👋")
        await talk.rename("Names")
        url = await talk.share()
        assert url.startswith(f"{server.url}/r/")
        assert await talk.share() == url
    async with api.client() as stranger:
        # The share outlives the conversation, and needs no session.
        server.clear()
        shared = await stranger.shared(url)
        assert isinstance(shared, SharedConversation)
        assert (shared.title, shared.model) == ("Names", OTHER_MODEL)
        assert [(m.role, m.content) for m in shared.messages] == [
            ("user", "Share this 👋"),
            ("assistant", talk.messages[1].content),
        ]
        assert kinds(server) == ["shared"]
        assert await stranger.shared(url.rpartition("/")[2]) == shared
        async with stranger.conversation(from_share=url) as copy:
            assert (copy.id, copy.messages) == (None, [])
            assert (await copy.history())[0].content == "Share this 👋"
            assert (copy.title, copy.model) == ("Names", OTHER_MODEL)
            reply = await copy.send("What did I say first?")
            assert "Share this" in reply.text
            assert len(await copy.history()) == 4
            again = await copy.retry()
            assert again.message_id == reply.message_id
        assert (await stranger.shared(url)).messages == shared.messages
    await api.settled()


async def test_unknown_share_is_not_found(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        with pytest.raises(NotFoundError):
            await client.shared(f"{server.url}/r/zzzzzzz")
        with pytest.raises(NotFoundError):
            await client.conversation(from_share="zzzzzzz").send("Hi")
        before = len(server.requests)
        with pytest.raises(ValueError, match="not a share link"):
            await client.shared(f"{server.url}/conversation/zzzzzzz")
        assert len(server.requests) == before
    await api.settled()


# Unknown models


@pytest.mark.parametrize("call", ["chat", "stream", "conversation"])
async def test_unknown_model_of_a_call_is_an_error(api: Api, server: Emulator, call: str) -> None:
    async with api.client() as client:

        async def ask() -> Reply:
            if call == "chat":
                return await client.chat("Hi", model="nope/nope")
            if call == "stream":
                async with client.stream("Hi", model="nope/nope") as stream:
                    return await stream.read()
            async with client.conversation(model="nope/nope") as talk:
                return await talk.send("Hi")

        with pytest.raises(ModelUnavailableError, match=DEFAULT_MODEL) as caught:
            await ask()
        assert (caught.value.status, caught.value.message) == (500, "Internal Error")
        assert (await client.chat("Hi")).text
    await api.settled()
    assert kinds(server)[:3] == ["settings", "create", "root"]


async def test_retired_model_raises_model_unavailable(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation(model=OTHER_MODEL) as talk:
        await talk.send("Hi")
        await api.wait(lambda: server.retire(OTHER_MODEL))
        with pytest.raises(ModelUnavailableError, match="Model not available anymore"):
            await talk.send("Again")
        # Earlier messages can still be read [25_removed_model].
        assert len(await talk.history()) == 2
    await api.settled()


# Web search


async def test_web_search_precedes_the_answer(api: Api, server: Emulator) -> None:
    server.search(WebSearch("Ann won the cup.", query="cup winner", links=("https://a.example/",)))
    entries: list[WebSearchEntry] = []
    async with api.client() as client, client.conversation() as talk:
        reply = await talk.send("Who won?", web_search=True, on_web_search=entries.append)
        assert reply.web_search == tuple(entries)
        assert [(entry.type, entry.message) for entry in entries] == [
            ("update", "Generating search query"),
            ("update", "Searching Google"),
            ("update", "Browsing result"),
            ("update", "Creating summary"),
            ("update", "Injecting summary"),
            ("result", ""),
        ]
        assert entries[1].args == ("cup winner",)
        history = await talk.history()
        (body,) = bodies(server)
        number = body["options"]["web_search_id"]
        assert number
        assert history[1].web_search_id == talk.messages[1].web_search_id == number
        # The next message does not search.
        assert (await talk.send("And before?")).web_search == ()
        assert bodies(server)[1]["options"]["web_search_id"] == ""
    assert kinds(server).count("search") == 1
    await api.settled()


async def test_web_search_has_sources(api: Api) -> None:
    with Emulator(version="0.6") as server:
        server.search(WebSearch("Ann won.", query="cup", links=("https://a.example/x",)))
        async with api.client(server.url) as client, client.conversation() as talk:
            reply = await talk.send("Who won?", web_search=True)
        (found,) = [entry for entry in reply.web_search if entry.type == "sources"]
        assert found.sources == (
            WebSearchSource("https://a.example/x", "https://a.example/x", "a.example"),
        )
        assert [entry.sources for entry in reply.web_search if entry is not found] == [()] * 6


async def test_failed_web_search_does_not_fail_the_message(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.conversation() as talk:
        async with talk.stream("Who won the cup? é&", web_search=True) as stream:
            assert "".join([text async for text in stream]) == stream.reply.text
        entries = stream.reply.web_search
        assert [entry.type for entry in entries] == ["update", "update", "error", "result"]
        assert entries[2].message == "An error occurred with the web search"
        assert "No Serper.dev or SerpAPI key found" in entries[2].args[0]
        assert stream.reply.text
    (search,) = [request for request in server.requests if request.kind == "search"]
    assert search.parameter("prompt") == "Who won the cup? é&"
    await api.settled()


async def test_stop_during_a_web_search_ends_the_call(api: Api, server: Emulator) -> None:
    server.fault("search", Fault(hang=True))
    async with api.client() as client, client.conversation() as talk:
        stream = talk.stream("Hi", web_search=True)
        async with api.in_background(stream.read) as reading:
            while "search" not in kinds(server):
                await api.wait(lambda: None)
            await talk.stop()
            # A silent server cannot be interrupted from another thread, so the call is left.
            if api.backend == "sync":
                await api.wait(server.disconnect_all)
        reply = reading.result()
        assert (reply.text, reply.finish_reason) == ("", "stopped")
        assert talk.messages == []
        assert "message" not in kinds(server)
        assert (await talk.send("Hi")).text
    await api.settled()


# After closing


async def test_closed_client_rejects_every_call(api: Api, server: Emulator) -> None:
    client = api.client()
    talk = client.conversation(id="64c8f0e1a2b3c4d5e6f70819")
    await client.aclose()
    for call in (client.models, client.settings, client.conversations, client.delete_conversations):
        with pytest.raises(RuntimeError, match="client is closed"):
            await call()
    with pytest.raises(RuntimeError, match="client is closed"):
        await client.shared("PMvsTaJ")
    with pytest.raises(RuntimeError, match="closed"):
        await talk.history()
    assert server.requests == []
