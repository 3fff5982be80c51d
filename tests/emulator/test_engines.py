"""The engines that have a model server behind them, each driven by the SDK over sockets."""

import http.client
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from flavours import Api
from model_servers import (
    DONE,
    FLOOD,
    HOLD,
    LEFT,
    Asked,
    Handler,
    OpenAIStub,
    Server,
    delta,
    running,
)
from replay import Replay, load, names
from test_emulator_captures import HELD, NOT_COMPARED, OWN, before, start
from tgi_stub import TgiStub

from h2o_client import (
    GenerationError,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
    ServerError,
    StatusError,
)
from h2o_client.emulator import (
    DEFAULT_MODELS,
    Answer,
    Emulator,
    EngineError,
    GenerationRequest,
    LiveEngine,
    Model,
    RoteEngine,
    Token,
)
from h2o_client.emulator.engines import engine_of
from h2o_client.emulator.engines.openai import OpenAIEngine
from h2o_client.emulator.engines.turns import chat_messages

WHOLE = [delta(" Hello"), delta(" there"), delta(None, "stop"), DONE]


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
def tgi() -> Iterator[tuple[Emulator, TgiStub, Server]]:
    """An emulator with the recorder's model server behind it."""
    stub = TgiStub()
    with running(stub) as server, Emulator(engine=f"tgi:{server.url}/", stop_poll=0.002) as ours:
        yield ours, stub, server


def body(model_server: Server) -> dict[str, Any]:
    """What the model server was asked last."""
    return model_server.asked[-1].json()


# Names of engines


def test_rote_is_the_default() -> None:
    assert isinstance(engine_of(None), RoteEngine)
    assert isinstance(engine_of("rote"), RoteEngine)
    engine = RoteEngine()
    assert engine_of(engine) is engine


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "rot",
        "rote:x",
        "tgi",
        "tgi:",
        "tgi:localhost:80",
        "openai:ftp://x",
        "openai:http://",
        "x:y",
    ],
)
def test_nonsense_is_no_engine(spec: str) -> None:
    with pytest.raises(EngineError, match=r"engine|URL"):
        Emulator(engine=spec)


@pytest.mark.parametrize("spec", ["transformers", "transformers:"])
def test_a_model_in_this_process_needs_a_name(spec: str) -> None:
    with pytest.raises((EngineError, ImportError), match=r"name|local-model"):
        Emulator(engine=spec)


# text-generation-inference, checked against what was recorded


# What the server shows half way through an answer takes a model server that stands still there.
HALF_WAY = {"0.4/17_disconnect"}


@pytest.mark.parametrize(
    "name", [name for name in names() if name not in {*HELD, *OWN, *NOT_COMPARED, *HALF_WAY}]
)
def test_a_model_server_is_asked_and_passed_on_as_recorded(name: str) -> None:
    tgi = TgiStub()
    with running(tgi) as model_server:
        _, clock = start(name, tgi.stub)
        limit = 2 if "06_" in name else None
        server = Emulator(
            engine=f"tgi:{model_server.url}/",
            clock=clock,
            version="0.6" if name.startswith("0.6") else "0.4",
            rate_limit=limit,
            stop_poll=0.002,
        )
        with server:
            replay = Replay(name, server, tgi.stub, clock)
            for index, exchange in enumerate(replay.exchanges):
                before(replay, exchange)
                replay.compare(*replay.play(index))
            server.wait_idle()
            # To the byte, what was refused or met no model server included.
            down = replay.capture["name"] == "05_upstream_down"
            asked = [(item.path, item.body.decode()) for item in model_server.asked]
            told = [(item["path"], replay.ours(item["body"])) for item in load(name)["upstream"]]
            assert [item for item in asked if item in told or not down] == told


def test_the_url_is_taken_as_given(tgi: tuple[Emulator, TgiStub, Server]) -> None:
    _, _, model_server = tgi
    for path in ("/", "/generate_stream?a=b"):
        with (
            Emulator(engine=f"tgi:http://me:secret@{model_server.url[7:]}{path}") as server,
            H2oClient(server.url) as client,
        ):
            assert client.chat("Hi").finish_reason == "eos_token"
        assert model_server.asked[-1].path == path
        assert model_server.asked[-1].headers["authorization"].startswith("Basic ")
        assert "cookie" not in model_server.asked[-1].headers


def test_one_clients_headers_are_not_anothers(tgi: tuple[Emulator, TgiStub, Server]) -> None:
    """A cookie of the model server is passed on, and not sent back to it."""
    server, _, model_server = tgi
    with H2oClient(server.url) as client:
        client.chat("[[gzip-header]]")
        client.chat("Hi")
    assert "cookie" not in model_server.asked[-1].headers
    connection = http.client.HTTPConnection(server.url[7:], timeout=5)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Referer": f"{server.url}/"}
    headers = {"Cookie": "hf-chat=s"}
    connection.request("POST", "/settings", "ethicsModalAccepted=true", {**headers, **form})
    connection.getresponse().read()
    body = json.dumps({"model": DEFAULT_MODELS[0].name})
    json_type = {**headers, "Content-Type": "application/json"}
    connection.request("POST", "/conversation", body, json_type)
    made = json.loads(connection.getresponse().read())["conversationId"]
    odd = {**headers, "Content-Type": "text/naïve", "Referer": f"{server.url}/"}
    body = json.dumps({"inputs": "Hi", "stream": True, "options": {}})
    connection.request("POST", f"/conversation/{made}", body, odd)
    assert connection.getresponse().status == 415  # the model server's word
    connection.close()


def test_history_is_cut_to_the_models_last_words(tgi: tuple[Emulator, TgiStub, Server]) -> None:
    _, _, model_server = tgi
    models = (Model(DEFAULT_MODELS[0].name, truncate=4),)
    with (
        Emulator(engine=f"tgi:{model_server.url}/", models=models) as server,
        H2oClient(server.url) as client,
    ):
        client.chat("one two three four five")
    assert body(model_server)["inputs"] == "two three four five</s><|answer|>"


def test_tgi_by_the_sdk(tgi: tuple[Emulator, TgiStub, Server]) -> None:
    server, stub, model_server = tgi
    with H2oClient(server.url, retries=0) as client:
        reply = client.chat("Hi", details=True)
        assert reply.text == " Hello! I am a stub of h2oGPT, running on loopback. How can I help?"
        assert body(model_server)["parameters"]["details"] is True
        with pytest.raises(InvalidRequestError, match="1024 tokens"):
            client.chat("[[error-422]]")
        with pytest.raises(OverloadedError):
            client.chat("[[error-503]]")
        with pytest.raises(GenerationError, match="CUDA"):
            client.chat("[[midstream-error]]")
        with pytest.raises(IncompleteStreamError):
            client.chat("[[truncate-clean]]", recover=False)
        stub.stub.down = True
        with pytest.raises(ServerError):
            client.chat("Hi")


def test_a_tgi_that_is_not_there() -> None:
    with running(TgiStub()) as gone:
        url = gone.url
    with Emulator(engine=f"tgi:{url}/") as server, H2oClient(server.url, retries=0) as client:
        with pytest.raises(ServerError):
            client.chat("Hi")
        assert server.conversations == []


def test_a_stop_reaches_the_tgi() -> None:
    token = {"id": 5, "text": " on", "logprob": -0.5, "special": False}
    event = json.dumps({"token": token, "generated_text": None, "details": None})

    def flood(_: Asked, handler: Handler) -> None:
        handler.head(200, [("content-type", "text/event-stream")])
        while True:
            handler.chunk(f"data:{event}\n\n".encode())
            time.sleep(0.002)

    with (
        running(flood) as model_server,
        Emulator(engine=f"tgi:{model_server.url}/", stop_poll=0.002) as server,
        H2oClient(server.url) as client,
        client.conversation() as talk,
    ):
        with talk.stream("Hi") as stream:
            assert next(iter(stream)) == " on"
            stream.stop()
        assert model_server.left.wait(5)
        server.wait_idle()
        assert server.stops == 1
        assert talk.history()[-1].content.startswith(" on on")


def test_tokens_of_one_read_are_counted() -> None:
    """A loss is scripted by tokens, also where another's events are passed on."""
    with (
        running(TgiStub()) as model_server,
        Emulator(engine=f"tgi:{model_server.url}/") as server,
        H2oClient(server.url) as client,
    ):
        server.cut(after=3)
        reply = client.chat("Hi")
        assert reply.recovered
        assert reply.text.startswith(" Hello! I am")


# OpenAI-compatible servers, in three flavours


async def test_the_first_token_does_not_wait(api: Api, stub: OpenAIStub) -> None:
    stub.events[1:1] = [HOLD]
    async with api.client() as client, client.stream("Hi") as stream:
        assert await anext(aiter(stream)) == " Hello"
        stub.go.set()
        assert [text async for text in stream] == [" there"]
        assert stream.reply is not None
        assert stream.reply.finish_reason == "eos_token"
    await api.settled()


async def test_a_stop_reaches_the_model_server(
    api: Api, stub: OpenAIStub, model_server: Server
) -> None:
    stub.events = [delta(" Hello"), HOLD, FLOOD]
    async with api.client() as client, client.stream("Hi") as stream:
        assert await anext(aiter(stream)) == " Hello"
        stub.go.set()
        await stream.stop()
        assert await api.wait(lambda: model_server.left.wait(5))
    await api.settled()
    assert await api.wait(lambda: api.server.stops) == 1


async def test_leaving_reaches_the_model_server(
    api: Api, stub: OpenAIStub, model_server: Server
) -> None:
    stub.events = [delta(" Hello"), FLOOD]
    async with api.client() as client:
        async with client.stream("Hi") as stream:
            async for _ in stream:
                break
        assert await api.wait(lambda: model_server.left.wait(5))
    await api.settled()


async def test_errors_of_every_kind(api: Api, stub: OpenAIStub) -> None:
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


# What is sent to them


def test_parameters_and_history(server: Emulator, model_server: Server) -> None:
    with H2oClient(server.url) as client, client.conversation() as talk:
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


def test_greedy_is_temperature_zero(server: Emulator, model_server: Server) -> None:
    with H2oClient(server.url) as client:
        client.chat("Hi", do_sample=False)
    assert body(model_server)["temperature"] == 0


def test_what_a_server_refuses_is_left_out(
    server: Emulator, stub: OpenAIStub, model_server: Server
) -> None:
    unknown = {"error": {"message": "Unrecognized request argument: repetition_penalty"}}
    stub.refusals = [(400, unknown)]
    with H2oClient(server.url) as client:
        assert client.chat("Hi").text == " Hello there"
        assert client.chat("Hi").text == " Hello there"
    assert ["repetition_penalty" in item.json() for item in model_server.asked] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("path", "posted"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/api/v3/", "/api/v3/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ],
)
def test_addresses_and_the_first_model(
    stub: OpenAIStub, model_server: Server, path: str, posted: str
) -> None:
    with (
        Emulator(engine=f"openai:{model_server.url}{path}") as server,
        H2oClient(server.url) as client,
    ):
        client.chat("Hi")
        client.chat("Hi")
    paths = [item.path for item in model_server.asked]
    assert paths == [posted.replace("chat/completions", "models"), posted, posted]
    assert body(model_server)["model"] == stub.models[0]


def test_a_server_without_models(stub: OpenAIStub, model_server: Server) -> None:
    stub.models = []
    with (
        Emulator(engine=f"openai:{model_server.url}") as server,
        H2oClient(server.url, retries=0) as client,
        pytest.raises(StatusError, match="lists no model"),
    ):
        client.chat("Hi")


def test_the_key_is_the_environments_and_stays_here(
    stub: OpenAIStub, model_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    stub.refusals = [(401, {"error": {"message": "Incorrect API key provided: sk-sec**"}})]
    with (
        Emulator(engine=f"openai:{model_server.url}#tiny") as server,
        H2oClient(server.url, retries=0) as client,
    ):
        with pytest.raises(StatusError, match="refused the emulator's key") as caught:
            client.chat("Hi")
        assert caught.value.status == 424
        assert "sk-" not in str(caught.value)
        assert client.chat("Hi").text == " Hello there"
    assert model_server.asked[-1].headers["authorization"] == "Bearer sk-secret"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\n")
    with pytest.raises(EngineError, match="OPENAI_API_KEY"):
        Emulator(engine=f"openai:{model_server.url}#tiny")


def test_what_a_search_found_and_long_histories() -> None:
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


# What comes of their answers


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ([delta(None, "stop"), DONE], "eos_token"),
        ([delta("", "length"), DONE], "length"),
        ([delta(None, "stop", stop_reason="#"), DONE], "stop_sequence"),
        ([delta(None, "stop", stop_reason=None), DONE], "eos_token"),
        ([delta(None, "content_filter"), DONE], "eos_token"),
        ([delta(None, "stop")], "eos_token"),
        ([DONE], "eos_token"),
        ([b"data:[DONE]"], "eos_token"),
    ],
)
def test_finish_reasons(server: Emulator, stub: OpenAIStub, end: list[Any], reason: str) -> None:
    stub.events = [delta(" Hello"), delta(" there"), *end]
    with H2oClient(server.url) as client:
        reply = client.chat("Hi", details=True)
    assert (reply.text, reply.finish_reason) == (" Hello there", reason)
    assert reply.generated_tokens == (3 if reason == "eos_token" else 2)


def test_tokens_have_no_invented_probability(server: Emulator) -> None:
    with H2oClient(server.url) as client, client.stream("Hi") as stream:
        tokens = [token for token in stream.events() if not token.special]
    assert [(token.id, token.text, token.logprob) for token in tokens] == [
        (0, " Hello", None),
        (1, " there", None),
    ]


def test_bytes_cut_anywhere(server: Emulator, stub: OpenAIStub) -> None:
    text = " naïve \u2028 世界 \x85 👋"
    data = f": hello\r\ndata: {json.dumps(delta(text), ensure_ascii=False)}\r\n\r\n".encode()
    stub.events = [data[i : i + 3] for i in range(0, len(data), 3)] + [DONE]
    with H2oClient(server.url) as client:
        assert client.chat("Hi").text == text


@pytest.mark.parametrize(
    "noise", [{"choices": []}, {"choices": [1]}, {"usage": {"completion_tokens": 9}}, "[]", "no"]
)
def test_events_without_text_are_passed_over(
    server: Emulator, stub: OpenAIStub, noise: Any
) -> None:
    stub.events.insert(1, noise)
    with H2oClient(server.url) as client:
        assert client.chat("Hi").text == " Hello there"


def test_a_server_that_does_not_stream(server: Emulator, stub: OpenAIStub) -> None:
    choice = {"message": {"content": " All at once"}, "finish_reason": "length"}
    stub.whole = json.dumps({"choices": [choice]}).encode()
    with H2oClient(server.url, retries=0) as client:
        reply = client.chat("Hi")
        assert (reply.text, reply.finish_reason) == (" All at once", "length")
        stub.whole = b"<html>"
        with pytest.raises(StatusError, match="no stream"):
            client.chat("Hi")


def test_a_title(server: Emulator, stub: OpenAIStub, model_server: Server) -> None:
    with H2oClient(server.url, retries=0) as client, client.conversation() as talk:
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
        (404, 424, StatusError),
        (429, 429, OverloadedError),
        (500, 424, StatusError),
        (503, 503, OverloadedError),
    ],
)
def test_statuses(
    server: Emulator, stub: OpenAIStub, status: int, becomes: int, error: type[StatusError]
) -> None:
    stub.refusals = [(status, {"error": {"message": "because"}})]
    with H2oClient(server.url, retries=0) as client, pytest.raises(error, match="because") as found:
        client.chat("Hi")
    assert found.value.status == becomes


@pytest.mark.parametrize("text", [b"", b"no JSON", b'{"detail": [1]}', b'{"error": "because"}'])
def test_any_error_body(server: Emulator, stub: OpenAIStub, text: bytes) -> None:
    stub.refusals = [(500, text)]
    with H2oClient(server.url, retries=0) as client, pytest.raises(StatusError) as found:
        client.chat("Hi")
    assert found.value.status == 424


def test_an_openai_server_that_is_not_there(stub: OpenAIStub) -> None:
    with running(stub) as gone:
        url = gone.url
    with (
        Emulator(engine=f"openai:{url}") as server,
        H2oClient(server.url, retries=0) as client,
        pytest.raises(ServerError),
    ):
        client.chat("Hi")


def test_closing_the_emulator_reaches_the_model_server(
    server: Emulator, stub: OpenAIStub, model_server: Server
) -> None:
    stub.events = [delta(" Hello"), LEFT]
    with H2oClient(server.url, retries=0) as client, client.stream("Hi", recover=False) as stream:
        assert next(iter(stream)) == " Hello"
        server.close()
        assert model_server.left.wait(5)
        with pytest.raises(H2oError):
            list(stream)


def test_pace_is_the_models_own(model_server: Server) -> None:
    begun = time.monotonic()
    with (
        Emulator(engine=f"openai:{model_server.url}#tiny", pace=60) as server,
        H2oClient(server.url) as client,
    ):
        assert client.chat("Hi").text == " Hello there"
    assert time.monotonic() - begun < 10


# Several models


def test_each_model_has_its_engine(model_server: Server) -> None:
    spec = f"openai:{model_server.url}#tiny"
    with (
        Emulator(models={"by/rote": "rote", "real": spec, "same": spec}) as server,
        H2oClient(server.url, model="by/rote") as client,
    ):
        assert [model.name for model in client.models()] == ["by/rote", "real", "same"]
        assert "emulator" in client.chat("Hello").text
        assert client.chat("Hello", model="real").text == " Hello there"
        assert client.chat("Hello", model="same").text == " Hello there"
        with client.conversation(model="real") as talk:
            talk.send("Hello")
            assert talk.summarize() == "Hello"  # titles are the first model's business
    assert len(model_server.asked) == 3


def test_no_models() -> None:
    with pytest.raises(ValueError, match="no models"):
        Emulator(models={})


# Bounds and lives


def test_generations_are_bounded() -> None:
    with Emulator(max_generations=2) as server, H2oClient(server.url, retries=0) as client:
        server.reply(*[Answer(" one two", hold_after=1)] * 2)
        with client.stream("Hi") as one, client.stream("Hi") as two:
            assert next(iter(one)) == next(iter(two)) == " one"
            with pytest.raises((OverloadedError, RateLimitError)) as caught:
                client.chat("Hello")
            assert caught.value.status == 429
            with client.conversation() as talk, pytest.raises(ServerError):
                talk.summarize()
            server.release()
        server.wait_idle()
        assert "emulator" in client.chat("Hello").text


class Slow(LiveEngine):
    """An engine that takes its time to start, and counts its lives."""

    def __init__(self, *, fail: bool = False) -> None:
        self.fail = fail
        self.starting = threading.Event()
        self.go = threading.Event()
        self.lives: list[str] = []

    async def start(self, say: Callable[[str], None]) -> None:
        say("loading")
        self.starting.set()
        while not self.go.is_set():  # noqa: ASYNC110 -- set by another thread
            await anyio.sleep(0.002)
        if self.fail:
            raise EngineError("no such weights")
        self.lives.append("started")

    async def aclose(self) -> None:
        self.lives.append("closed")

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Token | str]:
        yield f" {request.model}"


def test_an_engine_is_started_and_closed_each_time() -> None:
    said: list[str] = []
    engine = Slow()
    engine.go.set()
    server = Emulator(engine=engine, progress=said.append)
    for _ in range(2):
        with server, H2oClient(server.url) as client:
            assert client.chat("Hi").text == f" {DEFAULT_MODELS[0].name}"
    assert engine.lives == ["started", "closed"] * 2
    assert said == ["loading"] * 2


def test_an_engine_that_cannot_start() -> None:
    engine = Slow(fail=True)
    engine.go.set()
    server = Emulator(engine=engine)
    for _ in range(2):
        with pytest.raises(EngineError, match="no such weights"):
            server.start()
    assert engine.lives == ["closed"] * 2


def test_closing_while_an_engine_starts() -> None:
    engine = Slow()
    server = Emulator(engine=engine)
    starter = threading.Thread(target=server.start)
    starter.start()
    assert engine.starting.wait(5)
    server.close()
    starter.join(5)
    assert not starter.is_alive()
    assert engine.lives == ["closed"]


def test_a_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    engine = OpenAIEngine("http://127.0.0.1:1")
    assert "sk-secret" not in repr(engine)
    assert "sk-secret" not in (engine.template() or "")
