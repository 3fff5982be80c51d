"""The engine for OpenAI-compatible servers, used by the SDK over sockets."""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asked import eventually
from backends import Api
from model_servers import CUT, DONE, FLOOD, HOLD, LEFT, WHOLE, OpenAIStub, Server, delta, running
from test_emulator import Client, events, talking

from h2o_client import (
    GenerationError,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    InvalidRequestError,
    OverloadedError,
    Reply,
    ServerError,
)
from h2o_client.emulator import Emulator, EngineError, GenerationRequest
from h2o_client.emulator.engines.openai import OpenAIEngine
from h2o_client.emulator.engines.turns import chat_messages


@pytest.fixture
def stub() -> OpenAIStub:
    return OpenAIStub(list(WHOLE))


@pytest.fixture
def model_server(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running(stub) as server:
        yield server


@pytest.fixture
def server(model_server: Server) -> Iterator[Emulator]:
    """An emulator with the OpenAI stub behind it."""
    with Emulator(engine=f"openai:{model_server.url}#tiny", stop_poll=0.002) as emulator:
        yield emulator


@pytest.fixture
def client(server: Emulator) -> Iterator[H2oClient]:
    with H2oClient(server.url, retries=0) as client:
        yield client


def body(model_server: Server) -> dict[str, Any]:
    """Return the last request to the model server."""
    return model_server.asked[-1].json()


# Sync, asyncio and trio


async def test_first_token_arrives_before_the_rest(api: Api, stub: OpenAIStub) -> None:
    stub.events[1:1] = [HOLD]
    async with api.client() as client, client.stream("Hi") as stream:
        assert await anext(aiter(stream)) == " Hello"
        stub.go.set()
        assert [text async for text in stream] == [" there"]
        assert stream.reply is not None
        assert stream.reply.finish_reason == "eos_token"
    await api.settled()


async def test_stop_disconnects_from_the_model_server(
    api: Api, stub: OpenAIStub, model_server: Server
) -> None:
    stub.events = [delta(" Hello"), HOLD, FLOOD]
    async with api.client() as client, client.stream("Hi") as stream:
        assert await anext(aiter(stream)) == " Hello"
        stub.go.set()
        await stream.stop()
        assert await api.wait(lambda: model_server.left.wait(20))
    await api.settled()
    assert await api.wait(lambda: api.server.stops) == 1


async def test_leaving_a_stream_disconnects_from_the_model_server(
    api: Api, stub: OpenAIStub, model_server: Server
) -> None:
    stub.events = [delta(" Hello"), FLOOD]
    async with api.client() as client:
        async with client.stream("Hi") as stream:
            async for _ in stream:
                break
        assert await api.wait(lambda: model_server.left.wait(20))
    await api.settled()


async def test_errors_before_and_during_an_answer(api: Api, stub: OpenAIStub) -> None:
    async with api.client(retries=0) as client:
        stub.refusals = [(400, {"error": {"message": "too long", "type": "x"}})]
        with pytest.raises(InvalidRequestError, match="too long"):
            await client.chat("Hi")
        stub.events = [delta(" Hello"), {"error": {"message": "boom", "code": 500}}]
        with pytest.raises(GenerationError, match="boom") as caught:
            await client.chat("Hi", recover=False)
        assert caught.value.partial == " Hello"
        stub.events = [delta(" Hello")]
        with pytest.raises(H2oError) as cut:
            await client.chat("Hi", recover=False)
        assert cut.value.partial == " Hello"
    await api.wait(api.server.wait_idle)


# Requests to the model server


def test_parameters_and_history_are_translated(client: H2oClient, model_server: Server) -> None:
    with client.conversation() as talk:
        talk.send("One")
        talk.send("Two", temperature=0.7, max_new_tokens=5, stop=["#"], seed=3, top_k=9)
    sent = body(model_server)
    assert model_server.asked[-1].path == "/v1/chat/completions"
    assert sent.pop("messages") == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": " Hello there"},
        {"role": "user", "content": "Two"},
    ]
    assert sent == {
        "model": "tiny",
        "stream": True,
        "temperature": 0.7,
        "max_tokens": 5,
        "stop": ["#"],
        "seed": 3,
        "repetition_penalty": 1.2,
        "repeat_penalty": 1.2,
        "top_k": 9,
    }
    assert "authorization" not in model_server.asked[-1].headers


def test_greedy_is_temperature_zero(client: H2oClient, model_server: Server) -> None:
    client.chat("Hi", do_sample=False)
    assert body(model_server)["temperature"] == 0


def test_parameters_unknown_to_the_server_are_omitted(
    client: H2oClient, stub: OpenAIStub, model_server: Server
) -> None:
    """One name after another, and only those that the server names."""
    stub.refusals = [
        (400, {"error": {"message": "Unrecognized request argument: repetition_penalty"}}),
        (422, {"detail": [{"loc": ["body", "repeat_penalty"], "msg": "Extra inputs"}]}),
    ]
    assert client.chat("Hi", top_k=5).text == " Hello there"
    assert client.chat("Hi", top_k=5).text == " Hello there"
    extensions = {"repetition_penalty", "repeat_penalty", "top_k"}
    assert [extensions & set(item.json()) for item in model_server.asked] == [
        extensions,
        {"repeat_penalty", "top_k"},
        {"top_k"},
        {"top_k"},
    ]


def test_rejected_value_is_omitted_only_once(
    client: H2oClient, stub: OpenAIStub, model_server: Server
) -> None:
    """The value is one client's; the next client's may be accepted."""
    stub.refusals = [(400, {"error": {"message": "top_k must be at most 20, got 50"}})]
    assert client.chat("Hi", top_k=50).text == " Hello there"
    assert client.chat("Hi", top_k=5).text == " Hello there"
    assert [item.json().get("top_k") for item in model_server.asked] == [50, None, 5]


def test_usage_is_requested_with_details(
    client: H2oClient, stub: OpenAIStub, model_server: Server
) -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 9}}
    stub.events = [delta(" Hello"), delta(None, "stop"), usage, DONE]
    stub.refusals = [(400, {"error": {"message": "stream_options is not supported"}})]
    for _ in range(2):
        reply = client.chat("Hi", details=True)
        assert (reply.generated_tokens, reply.finish_reason) == (9, "eos_token")
    asked = [item.json().get("stream_options") for item in model_server.asked]
    assert asked == [{"include_usage": True}, None, None]


def test_details_show_the_seed_that_was_given(server: Emulator) -> None:
    client = Client(server).open()
    for given, told in (({"seed": 7}, 7), ({}, None)):
        last = events(client.say("Hi", {**given, "details": True})[1])[-1]
        assert last["details"]["seed"] == told


@pytest.mark.parametrize(
    ("path", "posted"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/api/v3/", "/api/v3/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ],
)
def test_url_forms_are_accepted_and_the_first_model_is_the_default(
    stub: OpenAIStub, model_server: Server, path: str, posted: str
) -> None:
    with talking(engine=f"openai:{model_server.url}{path}") as client:
        client.chat("Hi")
        client.chat("Hi")
    paths = [item.path for item in model_server.asked]
    assert paths == [posted.replace("chat/completions", "models"), posted, posted]
    assert body(model_server)["model"] == stub.models[0]


def test_default_model_is_updated_when_the_server_changes(
    stub: OpenAIStub, model_server: Server
) -> None:
    missing = {"error": {"message": "no such model"}}
    with talking(engine=f"openai:{model_server.url}") as client:
        client.chat("Hi")
        stub.refusals, stub.models = [(404, missing)], ["new-model"]
        with pytest.raises(GenerationError, match="no such model"):
            client.chat("Hi")
        client.chat("Hi")
    assert body(model_server)["model"] == "new-model"


def test_server_without_models_is_an_error(stub: OpenAIStub, model_server: Server) -> None:
    stub.models = []
    with (
        talking(engine=f"openai:{model_server.url}") as client,
        pytest.raises(GenerationError, match="lists no model"),
    ):
        client.chat("Hi")


def test_key_comes_from_the_environment_and_is_not_shown(
    stub: OpenAIStub,
    model_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    caplog.set_level("INFO")
    stub.refusals = [(401, {"error": {"message": "Incorrect API key provided: sk-sec**"}})]
    with talking(engine=f"openai:{model_server.url}#tiny", record=tmp_path) as client:
        with pytest.raises(GenerationError, match="rejected the emulator's key") as caught:
            client.chat("Hi")
        assert "answered 424" in str(caught.value)
        assert "sk-" not in str(caught.value)
        assert client.chat("Hi").text == " Hello there"
    assert model_server.asked[-1].headers["authorization"] == "Bearer sk-secret"
    assert "rejected the key in OPENAI_API_KEY" in caplog.text
    assert "sk-" not in caplog.text
    assert all("sk-" not in path.read_text("utf-8") for path in tmp_path.iterdir())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\n")
    with pytest.raises(EngineError, match="OPENAI_API_KEY"):
        Emulator(engine=f"openai:{model_server.url}#tiny")


def test_messages_include_search_results_and_are_truncated() -> None:
    history = (("user", "a b c"), ("assistant", "d e"), ("user", "f"), ("assistant", "g"))
    request = GenerationRequest(
        "m", "", {"truncate": 4}, (*history, ("user", "h")), context="Facts"
    )
    assert chat_messages(request) == [
        {"role": "user", "content": "f"},
        {"role": "assistant", "content": "g"},
        {"role": "user", "content": "Facts\n\nh"},
    ]
    alone = GenerationRequest("m", "", {"truncate": 1}, (("user", "a b c"),))
    assert chat_messages(alone) == [{"role": "user", "content": "a b c"}]


# Responses of the model server


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ([delta(None, "stop"), DONE], "eos_token"),
        ([delta("", "length"), DONE], "length"),
        ([delta(None, "stop", stop_reason="#"), DONE], "stop_sequence"),
        ([delta(None, "stop", stop_reason=None), DONE], "eos_token"),
        ([delta(None, "max_tokens"), DONE], "length"),
        ([delta(None, "tool_calls"), DONE], "eos_token"),
        ([delta(None, ""), DONE], "eos_token"),
        ([delta(None, "stop")], "eos_token"),
        ([DONE], "eos_token"),
        ([b"data:[DONE]"], "eos_token"),
    ],
)
def test_finish_reasons_are_translated(
    client: H2oClient, stub: OpenAIStub, end: list[Any], reason: str
) -> None:
    stub.events = [delta(" Hello"), delta(" there"), *end]
    reply = client.chat("Hi", details=True)
    assert (reply.text, reply.finish_reason) == (" Hello there", reason)
    assert reply.generated_tokens == (3 if reason == "eos_token" else 2)


def test_tokens_have_no_invented_probability(client: H2oClient) -> None:
    with client.stream("Hi") as stream:
        tokens = [token for token in stream.events() if not token.special]
    assert [(token.id, token.text, token.logprob) for token in tokens] == [
        (0, " Hello", None),
        (1, " there", None),
    ]


def test_stream_can_be_split_anywhere(client: H2oClient, stub: OpenAIStub) -> None:
    text = " naïve \u2028 世界 \x85 👋"
    data = f": hello\r\ndata: {json.dumps(delta(text), ensure_ascii=False)}\r\n\r\n".encode()
    stub.events = [data[i : i + 3] for i in range(0, len(data), 3)] + [DONE]
    assert client.chat("Hi").text == text


@pytest.mark.parametrize(
    "noise",
    [
        {"choices": []},
        {"choices": [1]},
        {"choices": None},
        {"usage": {"completion_tokens": 9}},
        {"usage": [], "choices": [{"delta": None}]},
        delta(""),
        delta(None),
        delta(None, ""),
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"reasoning_content": "Hm", "reasoning": "Hm"}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{"}}]}}]},
        {"choices": [{"delta": {"content": ["no text"]}}]},
        b"event: message\r\nid: 1\r\nretry: 5\r\n: ping\r\n\r\n",
        b"data\n\ndata:\n\n",
        "[]",
        "no",
    ],
)
def test_events_without_text_are_skipped(client: H2oClient, stub: OpenAIStub, noise: Any) -> None:
    stub.events.insert(1, noise)
    assert client.chat("Hi").text == " Hello there"


@pytest.mark.parametrize("reason", ["content_filter", "abort", "error"])
def test_abnormal_finish_reason_is_an_error(
    client: H2oClient, stub: OpenAIStub, reason: str
) -> None:
    stub.events = [delta(" Hello"), delta(None, reason), DONE]
    with pytest.raises(GenerationError, match=reason) as caught:
        client.chat("Hi", recover=False)
    assert caught.value.error_type == "incomplete_generation"
    assert caught.value.partial == " Hello"


@pytest.mark.parametrize(
    "end",
    [
        [CUT],
        [b'data: {"choices": [{"del'],
        ["no JSON", "[]"],
        [b"data: " + b"x" * 2**20, b"x" * 2**20],
        [b"\xff\xfe\x00 garbage"],
    ],
    ids=["cut", "midline", "no events", "endless line", "garbage"],
)
def test_interrupted_stream_is_an_error(
    client: H2oClient, stub: OpenAIStub, end: list[Any]
) -> None:
    stub.events = [delta(" Hello"), *end]
    with pytest.raises(IncompleteStreamError) as caught:
        client.chat("Hi", recover=False)
    assert caught.value.partial == " Hello"
    stub.events = list(WHOLE)
    assert client.chat("Hi").text == " Hello there"


@pytest.mark.parametrize(
    "event",
    [
        {"object": "error", "message": "too hot", "code": 500},  # an older vLLM
        {"error": {"message": "too hot", "type": "server_error"}},
        {"error": "too hot"},
    ],
)
def test_error_events_are_raised(
    client: H2oClient, stub: OpenAIStub, event: dict[str, Any]
) -> None:
    stub.events = [delta(" Hello"), event]
    with pytest.raises(GenerationError, match="too hot"):
        client.chat("Hi", recover=False)


def test_hanging_server_times_out(
    stub: OpenAIStub, model_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request finally times out."""
    monkeypatch.setattr("h2o_client.emulator.engines.http.SILENCE", 0.05)
    stub.events = [delta(" Hello"), LEFT]
    with talking(engine=f"openai:{model_server.url}#tiny") as client:
        with pytest.raises(IncompleteStreamError) as caught:
            client.chat("Hi", recover=False)
        assert caught.value.partial == " Hello"
        assert model_server.left.wait(20)


@pytest.mark.parametrize("said", [[delta(" Hello")], [delta(" Hello"), delta("")], []])
def test_stop_disconnects_from_a_silent_server(
    server: Emulator,
    stub: OpenAIStub,
    model_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    said: list[Any],
) -> None:
    """During the answer, and before the first token, when the response has not started [28]."""
    monkeypatch.setattr("h2o_client.emulator.chat_ui_2023.generation.STOP_PATIENCE", 0.02)
    stub.events = [*said, LEFT]
    client = Client(server).open()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.say, "Hi")
        eventually(lambda: model_server.asked)
        running = server._service.generations
        eventually(lambda: [item.tokens for item in tuple(running)] == [min(len(said), 1)])
        stop = f"/conversation/{client.conversation}/stop-generating"
        assert client.ask("POST", stop)[0] == 200
        assert model_server.left.wait(20)
        failure = http.client.IncompleteRead if said else http.client.RemoteDisconnected
        assert isinstance(answer.exception(), failure)
    server.wait_idle()
    assert client.stored() == [("user", "Hi"), ("assistant", " Hello" if said else "")]
    assert server.stops == 1


@pytest.mark.slow
def test_client_timeout_disconnects_from_the_model_server(
    server: Emulator, stub: OpenAIStub, model_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client stops what it does not wait for, and the model server is disconnected."""
    monkeypatch.setattr("h2o_client.emulator.chat_ui_2023.generation.STOP_PATIENCE", 0.02)
    stub.events = [delta(" Hello"), LEFT]
    with H2oClient(server.url, retries=0, timeouts=1.5) as client:
        with pytest.raises(H2oError) as caught:
            client.chat("Hi", recover=False)
        assert caught.value.partial == " Hello"
        assert model_server.left.wait(20)
    server.wait_idle()


def test_answer_of_a_lost_client_is_completed(server: Emulator, stub: OpenAIStub) -> None:
    """The answer is completed and stored [17_disconnect]."""
    stub.events[1:1] = [HOLD]
    client = Client(server).open()
    body = json.dumps({"inputs": "Hi", "stream": True, "options": {}})
    connection = http.client.HTTPConnection(client.address, timeout=30)
    headers = {"Cookie": "hf-chat=s", "Content-Type": "application/json"}
    connection.request("POST", f"/conversation/{client.conversation}", body, headers)
    answer = connection.getresponse()
    assert b" Hello" in answer.read1()
    answer.close()
    connection.close()
    eventually(lambda: server.connections == 0)
    stub.go.set()
    server.wait_idle()
    assert client.stored()[-1] == ("assistant", " Hello there")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_of_the_model_server_is_not_followed(
    client: H2oClient, stub: OpenAIStub, model_server: Server, status: int
) -> None:
    stub.refusals = [(status, b"")]
    with pytest.raises(GenerationError, match=f"answered {status}") as caught:
        client.chat("Hi")
    assert "answered 424" in str(caught.value)
    assert [item.path for item in model_server.asked] == ["/v1/chat/completions"]


@pytest.mark.slow
async def test_answers_are_generated_concurrently(api: Api, stub: OpenAIStub) -> None:
    stub.events[1:1] = [HOLD]
    async with api.client() as client:

        async def ask() -> list[Reply]:
            return await api.concurrently([lambda: client.chat("Hi")] * 8)

        async with api.in_background(ask) as replies:
            await api.wait(lambda: eventually(lambda: api.server.generating == 8))
            stub.go.set()
        assert [str(reply) for reply in replies.result()] == ["Hello there"] * 8
    await api.settled()


def test_response_without_streaming_is_accepted(client: H2oClient, stub: OpenAIStub) -> None:
    choice = {"message": {"content": " All at once"}, "finish_reason": "length"}
    stub.whole = json.dumps({"choices": [choice]}).encode()
    reply = client.chat("Hi")
    assert (reply.text, reply.finish_reason) == (" All at once", "length")
    empty = {"message": {"content": None}, "finish_reason": "stop"}
    stub.whole = json.dumps({"choices": [empty], "usage": None}).encode()
    assert client.chat("Hi", details=True).generated_tokens == 1  # the end token
    stub.whole = b"<html>"
    with pytest.raises(GenerationError, match="not a stream"):
        client.chat("Hi")


def test_title_is_made_by_the_model(
    client: H2oClient, stub: OpenAIStub, model_server: Server
) -> None:
    with client.conversation() as talk:
        talk.send("Hi")
        assert talk.summarize() == "Hello there"
        assert "less than 5 words" in body(model_server)["messages"][0]["content"]
        stub.events = [{"error": "boom"}]
        with pytest.raises(ServerError):
            talk.summarize()


@pytest.mark.parametrize(
    ("status", "becomes", "error"),
    [
        (400, 422, InvalidRequestError),
        (422, 422, InvalidRequestError),
        (404, 424, GenerationError),
        (429, 429, OverloadedError),
        (500, 424, GenerationError),
        (503, 503, OverloadedError),
    ],
)
def test_statuses_are_translated(
    client: H2oClient, stub: OpenAIStub, status: int, becomes: int, error: type[H2oError]
) -> None:
    stub.refusals = [(status, {"error": {"message": "because"}})]
    with pytest.raises(error, match="because") as found:
        client.chat("Hi")
    assert f"answered {becomes}" in str(found.value)


@pytest.mark.parametrize(
    "text", [b"", b"x" * 2**20, b"no JSON", b'{"detail": [1]}', b'{"error": "because"}']
)
def test_any_error_body_is_accepted(client: H2oClient, stub: OpenAIStub, text: bytes) -> None:
    stub.refusals = [(500, text)]
    with pytest.raises(GenerationError) as found:
        client.chat("Hi")
    assert "answered 424" in str(found.value)


def test_failures_are_logged_for_the_operator(
    server: Emulator, stub: OpenAIStub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.events = [delta(" Hello"), CUT]
    with H2oClient(server.url, retries=0) as client, pytest.raises(H2oError):
        client.chat("Hi", recover=False)
    server.wait_idle()
    assert "broke off" in caplog.text


def test_password_in_the_url_is_sent_and_not_shown(
    model_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")  # httpx logs each URL
    with (
        Emulator(engine=f"openai:http://me:s%45cret@{model_server.url[7:]}#tiny") as server,
        H2oClient(server.url) as client,
    ):
        assert client.chat("Hi").text == " Hello there"
        shown = [*server.templates.values(), caplog.text]
    assert model_server.asked[-1].headers["authorization"] == "Basic bWU6c0VjcmV0"
    assert "/chat/completions" in caplog.text
    assert not any("cret" in text for text in shown)


@pytest.mark.slow
def test_closing_the_emulator_disconnects_from_the_model_server(
    server: Emulator, client: H2oClient, stub: OpenAIStub, model_server: Server
) -> None:
    stub.events = [delta(" Hello"), LEFT]
    with client.stream("Hi", recover=False) as stream:
        assert next(iter(stream)) == " Hello"
        server.close()
        assert model_server.left.wait(20)
        with pytest.raises(H2oError):
            list(stream)


def test_pace_does_not_delay_a_model_server(model_server: Server) -> None:
    begun = time.monotonic()
    with talking(engine=f"openai:{model_server.url}#tiny", pace=60) as client:
        assert client.chat("Hi").text == " Hello there"
    assert time.monotonic() - begun < 30


def test_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    engine = OpenAIEngine("http://127.0.0.1:1")
    assert "sk-secret" not in repr(engine)
    assert "sk-secret" not in (engine.template() or "")
