"""Successful chats and streams: texts, replies, requests, arguments."""

import json
from typing import Any

import pytest
from asked import bodies, kinds
from backends import Api, endless, only
from pytest_httpx import HTTPXMock

from h2o_client import (
    DEFAULT_MODEL,
    H2oClient,
    Reply,
    Timeouts,
    Token,
)
from h2o_client.emulator import DEFAULT_MODELS, Answer, Emulator

PARAMETERS = {
    "temperature": 0.4,
    "truncate": 2048,
    "max_new_tokens": 1024,
    "do_sample": True,
    "repetition_penalty": 1.2,
    "return_full_text": False,
}
KINDS = ["settings", "create", "message", "delete"]


# Texts and replies


async def test_chat_accepts_a_string(api: Api, server: Emulator) -> None:
    server.reply(" Hello there, you!")
    async with api.client() as client:
        reply = await client.chat("Hello!")
    assert isinstance(reply, Reply)
    assert reply.text == " Hello there, you!"
    assert str(reply) == "Hello there, you!"
    assert bodies(server)[0]["inputs"] == "Hello!"
    options = bodies(server)[0]["options"]
    assert (reply.message_id, reply.response_id) == (options["id"], options["response_id"])
    path = next(request.path for request in server.requests if request.kind == "message")
    assert path == f"/conversation/{reply.conversation_id}"
    assert reply.model == DEFAULT_MODEL
    assert (reply.finish_reason, reply.generated_tokens) == ("eos_token", 4)
    assert reply.recovered is False
    await api.settled()


async def test_stream_yields_the_texts_of_the_tokens(api: Api, server: Emulator) -> None:
    server.reply([" One", "", " two", "\u2028three"])
    async with api.client() as client, client.stream("Count") as stream:
        texts = [text async for text in stream]
        assert texts == [" One", " two", "\u2028three"]
        assert stream.text == stream.reply.text == "".join(texts)
        assert [text async for text in stream] == []
        assert await stream.read() == stream.reply
    assert stream.reply.text == "".join(texts)
    assert kinds(server) == KINDS


async def test_stream_works_without_a_with_block(api: Api, server: Emulator) -> None:
    server.reply(" One two")
    client = api.client()
    assert [text async for text in client.stream("Count")] == [" One", " two"]
    await api.settled()
    await client.aclose()


async def test_events_include_special_tokens(api: Api, server: Emulator) -> None:
    server.reply(" One two")
    async with api.client() as client, client.stream("Count") as stream:
        tokens = [token async for token in stream.events()]
        assert stream.reply.text == " One two"
    assert all(isinstance(token, Token) for token in tokens)
    assert [(token.id, token.text, token.special) for token in tokens] == [
        (100, " One", False),
        (101, " two", False),
        (11, "<|endoftext|>", True),
    ]
    assert tokens[0].logprob == -0.05


async def test_text_and_reply_during_a_stream(api: Api, server: Emulator) -> None:
    server.reply(endless(" One", " two"))
    async with api.client() as client, client.stream("Count") as stream:
        assert stream.text == ""
        with pytest.raises(RuntimeError, match="not been read to its end"):
            _ = stream.reply
        assert server.requests == []
        async for text in stream:
            assert stream.text.startswith(text)
            with pytest.raises(RuntimeError, match="not been read to its end"):
                _ = stream.reply
            break
        assert await anext(stream) == " two"
        assert stream.text == " One two"
    with pytest.raises(RuntimeError, match="not been read to its end"):
        _ = stream.reply
    with pytest.raises(RuntimeError, match="closed"):
        await anext(stream)
    await api.settled()


@pytest.mark.parametrize("split", [1, 2, 3, 7, 50])
async def test_response_may_be_split_anywhere(api: Api, server: Emulator, split: int) -> None:
    text = " Grüße \U0001f600\u2028 und \u0085\u2029 wieder"
    server.reply(Answer(text, split=split, join=2, comments=(0, 2)))
    async with api.client() as client:
        reply = await client.chat("Hi")
    assert reply.text == text


# Requests


async def test_requests_of_two_chats_are_exact(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        await client.chat("One")
        async with client.stream("Two", temperature=0.7, seed=1) as stream:
            await stream.read()
        session = client.session
    one, two = bodies(server)[0], bodies(server)[1]
    assert kinds(server) == [*KINDS, *KINDS[1:]]
    settings, create, first, delete, *_ = server.requests
    assert (settings.method, settings.path) == ("POST", "/settings")
    assert settings.media_type == "application/x-www-form-urlencoded"
    assert settings.body == (
        b"ethicsModalAccepted=true&shareConversationsWithModelAuthors=true"
        b"&ethicsModalAcceptedAt=&activeModel=h2oai%2Fh2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
        b"&searchEnabled=true"
    )
    assert (create.method, create.path, create.media_type) == (
        "POST",
        "/conversation",
        "application/json",
    )
    assert create.json() == {"model": DEFAULT_MODEL}
    assert (first.method, delete.method) == ("POST", "DELETE")
    assert first.path == delete.path
    assert (first.media_type, delete.body) == ("application/json", b"")
    assert list(one) == ["inputs", "parameters", "stream", "options"]
    assert list(one["parameters"].items()) == list(PARAMETERS.items())
    assert one["stream"] is True
    assert list(one["options"]) == ["id", "response_id", "is_retry", "use_cache", "web_search_id"]
    assert one["options"]["is_retry"] is one["options"]["use_cache"] is False
    assert one["options"]["web_search_id"] == ""
    assert two["parameters"] == {**PARAMETERS, "temperature": 0.7, "seed": 1}
    ids = [body["options"][name] for body in (one, two) for name in ("id", "response_id")]
    assert len(set(ids)) == 4
    for request in server.requests:
        assert request.header("referer") == f"{server.url}/"
        assert request.header("cookie") == f"hf-chat={session}"
        assert request.header("accept") == "application/json, text/event-stream"
        assert request.header("accept-encoding") == "identity"
        assert (request.header("user-agent") or "").startswith("h2o-chat-client/")
        assert request.header("authorization") is None


async def test_requests_reuse_one_connection(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        await client.chat("One")
        await client.chat("Two")
        assert await api.wait(lambda: server.accepted) == 1
    await api.wait(server.wait_idle)


async def test_base_url_may_have_a_path_and_a_password(api: Api) -> None:
    with Emulator(base_path="/chat") as other:
        url = other.url.replace("http://", "http://ann:s%3Acret@") + "/"
        async with api.client(url) as client:
            await client.chat("Hi")
            assert client.base_url == other.url
            assert "cret" not in repr(client)
        for request in other.requests:
            assert request.path.startswith("/chat/")
            assert request.header("referer") == f"{other.url}/"
            assert request.header("authorization") == "Basic YW5uOnM6Y3JldA=="
        assert other.conversations == []


async def test_environment_configures_the_client(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DEFAULT_MODELS[1].name
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    monkeypatch.setenv("H2O_CHAT_MODEL", model)
    monkeypatch.setenv("H2O_CHAT_TOKEN", "t0ken")
    async with api.client_of_environment() as client:
        reply = await client.chat("Hi")
        assert client.model == reply.model == model
    assert {request.header("authorization") for request in server.requests} == {"Bearer t0ken"}
    assert server.requests[0].form()["activeModel"] == model
    assert server.requests[1].json() == {"model": model}


async def test_custom_headers_replace_ours(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_TOKEN", "t0ken")
    headers = {"authorization": "Basic eA==", "X-Trace": "7", "Cookie": "gate=open"}
    async with api.client(headers=headers) as client:
        await client.chat("Hi")
        session = client.session
    for request in server.requests:
        values = [value for name, value in request.headers if name == "authorization"]
        assert values == ["Basic eA=="]
        assert request.header("x-trace") == "7"
        assert request.header("cookie") == f"hf-chat={session}; gate=open"


async def test_model_can_be_set_per_call(api: Api, server: Emulator) -> None:
    model = DEFAULT_MODELS[1].name
    async with api.client() as client:
        reply = await client.chat("Hi", model=model)
        assert client.model == DEFAULT_MODEL
    assert reply.model == model
    assert server.requests[0].form()["activeModel"] == DEFAULT_MODEL
    assert server.requests[1].json() == {"model": model}


# Invalid arguments


@pytest.mark.parametrize(
    ("messages", "options", "error", "words"),
    [
        (" \n", {}, ValueError, "blank"),
        ([{"role": "user"}], {}, (TypeError, ValueError), "content"),
        ("Hi", {"temprature": 3}, TypeError, "'temperature'"),
        ("Hi", {"temperature": "hot"}, TypeError, "number"),
        ("Hi", {"parameters": {"x": object()}}, TypeError, "JSON"),
        ("Hi", {"model": ""}, ValueError, "model"),
        ("Hi", {"model": 3}, TypeError, "model"),
    ],
)
@only("sync", "asyncio")
async def test_invalid_arguments_of_a_call_are_rejected(
    api: Api,
    server: Emulator,
    messages: Any,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    async with api.client() as client:
        with pytest.raises(error, match=words):
            await client.chat(messages, **options)
        with pytest.raises(error, match=words):
            client.stream(messages, **options)
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"base_url": "http://user:hunter2@host:port"}, ValueError),
        ({"model": " "}, ValueError),
        ({"session": 7}, TypeError),
        ({"share_conversations": "false"}, TypeError),
        ({"timeouts": True}, TypeError),
        ({"retries": 1.5}, TypeError),
        ({"proxy": "nowhere:user:hunter2"}, ValueError),
        ({"headers": ["a"]}, TypeError),
        ({"parameters": "temperature"}, TypeError),
        ({"http_client": object()}, TypeError),
    ],
)
@only("sync", "asyncio")
async def test_invalid_arguments_of_a_client_are_rejected(
    api: Api, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        api.client_of_environment(**options)
    assert "hunter2" not in str(caught.value)


# With a mock: what a socket does not show


def test_timeouts_are_passed_to_httpx(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url="http://h/settings", status_code=303, headers={"location": "/"})
    httpx_mock.add_response(url="http://h/conversation", json={"conversationId": "a" * 24})
    token = {"id": 1, "text": " a", "logprob": 0, "special": True}
    httpx_mock.add_response(
        url=f"http://h/conversation/{'a' * 24}",
        method="POST",
        headers={"content-type": "text/event-stream"},
        content=b"data:" + json.dumps({"token": token, "generated_text": ""}).encode() + b"\n\n",
    )
    httpx_mock.add_response(method="DELETE")
    with H2oClient("http://h", timeouts=Timeouts(connect=1, first_token=2, idle=3)) as client:
        assert client.chat("Hi").text == ""
    sent = httpx_mock.get_requests()
    limits = [request.extensions["timeout"] for request in sent]
    # The rest of each limit at the time of its request.
    assert [limit["connect"] for limit in limits] == pytest.approx([1, 1, 1, 1], rel=0.5)
    assert all(request.headers["accept-encoding"] == "identity" for request in sent)


async def test_surrogates_in_two_tokens_are_joined(api: Api, server: Emulator) -> None:
    tokens = ("a\ud83d", "\ude00b", " c\ud83d", " d", "\ude00", "\ud83d")
    expected = "a😀b c\ufffd d\ufffd\ufffd"
    server.reply(Answer(tokens=tokens), Answer(tokens=tokens), Answer(tokens=tokens))
    async with api.client() as client, client.conversation() as talk:
        reply = await talk.send("one")
        assert reply.text == expected
        assert reply.generated_tokens == len(tokens) + 1
        async with talk.stream("two") as stream:
            given = [token async for token in stream.events()]
        shown = "".join(token.text for token in given if not token.special)
        assert shown == stream.reply.text == expected
        async with talk.stream("three") as stream:
            texts = [text async for text in stream]
        assert "".join(texts) == expected
        assert [message.content for message in await talk.history()][1::2] == [expected] * 3
        assert [message.content for message in talk.messages][1::2] == [expected] * 3


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_surrogates_are_joined_across_a_lost_connection(
    api: Api, server: Emulator, after: int
) -> None:
    server.reply(Answer(tokens=("a\ud83d", "\ude00b", " c\ud83d", " d"), drop_after=after))
    async with api.client() as client:
        reply = await client.chat("Hi")
    assert reply.text == "a😀b c\ufffd d"
    assert reply.recovered


async def test_parameters_of_client_and_call_are_sent(api: Api, server: Emulator) -> None:
    async with api.client(parameters={"top_p": 0.5, "temperature": 0.1, "seed": 1}) as client:
        await client.chat("Hi", parameters={"seed": 2, "anything": [1]}, temperature=0.9)
        await client.chat("Hi", temperature=None)
    one, two = (body["parameters"] for body in bodies(server))
    assert one == {**PARAMETERS, "temperature": 0.9, "top_p": 0.5, "seed": 2, "anything": [1]}
    assert two == {**PARAMETERS, "temperature": 0.1, "top_p": 0.5, "seed": 1}
