"""Engines with a model server behind them, each used by the SDK over sockets."""

import http.client
import json
import re
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from asked import eventually
from backends import Api
from model_servers import WHOLE, Asked, Handler, OpenAIStub, Server, running
from replay import Replay, load, names
from test_emulator import Client, talking
from test_emulator_captures import NOT_COMPARED, OWN, play_all, start
from tgi_stub import TgiStub

from h2o_client import (
    GenerationError,
    H2oClient,
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
    EngineLike,
    GenerationRequest,
    LiveEngine,
    Model,
    RoteEngine,
    Token,
)
from h2o_client.emulator.engines import engine_of


@pytest.fixture
def tgi() -> Iterator[tuple[Emulator, TgiStub, Server]]:
    """An emulator with the recorder's model server behind it."""
    stub = TgiStub()
    with running(stub) as server, Emulator(engine=f"tgi:{server.url}/", stop_poll=0.002) as ours:
        yield ours, stub, server


def body(model_server: Server) -> dict[str, Any]:
    """Return the last request to the model server."""
    return model_server.asked[-1].json()


# Engine names


def test_rote_is_the_default_engine() -> None:
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
def test_invalid_engine_name_is_rejected(spec: str) -> None:
    with pytest.raises(EngineError, match=r"engine|URL"):
        Emulator(engine=spec)


@pytest.mark.parametrize(
    "spec",
    [
        "tgi:http://user:sEcret@[::1/",
        "tgi:http://user:sEcret/more@host/",
        "tgi:http://user:sEcret@host:port",
        "openai:http://user:sEcret#@host",
        "openai:ftp://user:sEcret@host",
        "tgy:http://user:sEcret@host",
        "http://user:sEcret@host",
    ],
)
def test_engine_errors_do_not_show_passwords(spec: str) -> None:
    with pytest.raises(EngineError) as caught:
        engine_of(spec)
    assert "sEcret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("form", ["tgi:{}/?key=sEcret", "openai:{}", "openai:{}#m"])
def test_unreachable_model_server_is_logged_without_secrets(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(TgiStub()) as gone:
        place = gone.url[7:]
    spec = form.format(f"http://user:sEcret@{place}")
    with Emulator(engine=spec) as server, H2oClient(server.url, retries=0) as client:
        with pytest.raises(ServerError):
            client.chat("Hi")
        assert server.conversations == []
    assert re.search(rf"http://{place}\S* does not answer", caplog.text)
    assert "sEcret" not in caplog.text


# Parameters


INPUT = "Input validation error: "
TYPE = "Failed to deserialize the JSON body into the target type: parameters."


@pytest.fixture(scope="module", params=["rote", "function", "scripted", "openai"])
def answering(request: pytest.FixtureRequest) -> Iterator[tuple[Client, list[Asked]]]:
    """A client of an emulator with each kind of engine, and the requests to its model server."""
    with running(OpenAIStub(list(WHOLE))) as model_server:
        engine: EngineLike | str = lambda asked: f" {asked.model}"  # noqa: E731 -- an engine
        if request.param != "function":
            engine = f"openai:{model_server.url}#tiny" if request.param == "openai" else "rote"
        with Emulator(engine=engine) as server:
            if request.param == "scripted":
                server.reply(*[" Hello"] * 100)
            client = Client(server).open()
            yield client, model_server.asked


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("temperature", -1, "`temperature` must be strictly positive"),
        ("temperature", 0.0, "`temperature` must be strictly positive"),
        ("repetition_penalty", 0, "`repetition_penalty` must be strictly positive"),
        ("max_new_tokens", 0, "`max_new_tokens` must be strictly positive"),
        ("top_k", -1, "`top_k` must be strictly positive"),
        ("top_p", 2, "`top_p` must be > 0.0 and < 1.0"),
        ("top_p", 1, "`top_p` must be > 0.0 and < 1.0"),
        ("typical_p", 0, "`typical_p` must be > 0.0 and < 1.0"),
        ("truncate", 0, "`truncate` must be strictly positive and less than 1024. Given: 0"),
        ("stop", ["x"] * 5, "`stop` supports up to 4 stop sequences. Given: 5"),
    ],
)
def test_value_out_of_range_is_rejected(
    answering: tuple[Client, list[Asked]], name: str, value: object, refusal: str
) -> None:
    client, asked = answering
    status, body, headers = client.say("Hi", {name: value})
    assert (status, headers["content-type"]) == (422, "application/json")
    assert json.loads(body) == {"error": INPUT + refusal, "error_type": "validation"}
    assert client.stored() == []
    assert asked == []


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("temperature", "x", 'invalid type: string "x", expected f32'),
        ("temperature", True, "invalid type: boolean `true`, expected f32"),
        ("typical_p", {}, "invalid type: map, expected f32"),
        ("stop", "x", 'invalid type: string "x", expected a sequence'),
        ("stop", [1], "invalid type: integer `1`, expected a string"),
        ("stop", None, "invalid type: null, expected a sequence"),
        ("seed", "abc", 'invalid type: string "abc", expected u64'),
        ("seed", -1, "invalid value: integer `-1`, expected u64"),
        ("seed", 2**64, "invalid value: integer `18446744073709551616`, expected u64"),
        ("max_new_tokens", 0.5, "invalid type: floating point `0.5`, expected u32"),
        ("max_new_tokens", True, "invalid type: boolean `true`, expected u32"),
        ("top_k", [], "invalid type: sequence, expected i32"),
        ("do_sample", "no", 'invalid type: string "no", expected a boolean'),
        ("details", None, "invalid type: null, expected a boolean"),
    ],
)
def test_value_of_a_wrong_type_is_rejected(
    answering: tuple[Client, list[Asked]], name: str, value: object, refusal: str
) -> None:
    client, asked = answering
    status, body, headers = client.say("Hi", {name: value})
    assert (status, headers["content-type"]) == (422, "text/plain; charset=utf-8")
    assert body.decode() == f"{TYPE}{name}: {refusal}"
    assert asked == []


def test_values_accepted_by_model_servers_are_accepted(tmp_path: Path) -> None:
    """Unknown names, null for optional values, numbers as JavaScript writes them."""
    # 08_parameters_upstream
    parameters = (
        '{"made_up": [1], "temperature": null, "max_new_tokens": 2.0, "seed": 7, "top_k": 5,'
        ' "truncate": 2048, "stop": [""], "repetition_penalty": 1e999}'
    )
    with Emulator(record=tmp_path) as server:
        client = Client(server).open()
        body = f'{{"inputs": "Hi", "parameters": {parameters}, "stream": true, "options": {{}}}}'
        path = f"/conversation/{client.conversation}"
        status, answer, _ = client.ask("POST", path, body, Content_Type="application/json")
        server.wait_idle()
    assert status == 200
    assert answer.count(b"data:") == 2
    (kept,) = tmp_path.iterdir()
    told = json.loads(json.loads(kept.read_text("utf-8"))["upstream"][0]["body"])["parameters"]
    assert (told["max_new_tokens"], told["repetition_penalty"]) == (2, None)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("parameters", "x", "struct GenerateParameters"),
        ("parameters", None, "struct GenerateParameters"),
        ("stream", "yes", "a boolean"),
    ],
)
def test_other_fields_of_a_message_are_validated(
    answering: tuple[Client, list[Asked]], field: str, value: object, expected: str
) -> None:
    client, _ = answering
    message = {"inputs": "Hi", "stream": True, "options": {}, field: value}
    status, body, _ = client.ask("POST", f"/conversation/{client.conversation}", message)
    assert status == 422
    assert body.decode().endswith(f", expected {expected}")


def test_engine_names_in_the_manual_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs/manual/guides/models.md").read_text("utf-8")
    specs = re.findall(r"--engine ((?:openai|tgi):http[^`\s]*)", page)
    assert len(specs) >= 4
    for spec in specs:
        assert isinstance(engine_of(spec), LiveEngine)


@pytest.mark.parametrize("spec", ["transformers", "transformers:"])
def test_local_model_engine_requires_a_name(spec: str) -> None:
    with pytest.raises((EngineError, ImportError), match=r"name|local-model"):
        Emulator(engine=spec)


# text-generation-inference, compared with the recordings


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if name not in OWN])
def test_tgi_exchange_matches_the_recording(name: str) -> None:
    tgi = TgiStub()
    with running(tgi) as model_server:
        server, clock = start(name, tgi.stub, engine=f"tgi:{model_server.url}/")
        with server:
            replay = Replay(name, server, tgi.stub, clock)
            play_all(replay, tgi)
            if name in NOT_COMPARED:
                return
            # Byte for byte, including rejected requests and those without a model server.
            down = replay.capture["name"] == "05_upstream_down"
            asked = [(item.path, item.body.decode()) for item in model_server.asked]
            told = [(item["path"], replay.ours(item["body"])) for item in load(name)["upstream"]]
            assert [item for item in asked if item in told or not down] == told


def test_tgi_url_is_used_unchanged(tgi: tuple[Emulator, TgiStub, Server]) -> None:
    _, _, model_server = tgi
    for path in ("/", "/generate_stream?a=b"):
        with talking(engine=f"tgi:http://me:secret@{model_server.url[7:]}{path}") as client:
            assert client.chat("Hi").finish_reason == "eos_token"
        assert model_server.asked[-1].path == path
        assert model_server.asked[-1].headers["authorization"].startswith("Basic ")
        assert "cookie" not in model_server.asked[-1].headers


def test_model_server_headers_do_not_leak_between_clients(
    tgi: tuple[Emulator, TgiStub, Server],
) -> None:
    """A cookie of the model server is forwarded, and not sent back to it."""
    server, _, model_server = tgi
    with H2oClient(server.url) as client:
        client.chat("[[gzip-header]]")
        client.chat("Hi")
    assert "cookie" not in model_server.asked[-1].headers
    connection = http.client.HTTPConnection(server.url[7:], timeout=30)
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
    assert connection.getresponse().status == 415  # the model server's response
    connection.close()


def test_history_is_truncated_to_the_models_limit(tgi: tuple[Emulator, TgiStub, Server]) -> None:
    _, _, model_server = tgi
    models = (Model(DEFAULT_MODELS[0].name, truncate=4),)
    with talking(engine=f"tgi:{model_server.url}/", models=models) as client:
        client.chat("one two three four five")
    assert body(model_server)["inputs"] == "two three four five</s><|answer|>"


async def test_sdk_streams_from_tgi(api: Api, tgi: tuple[Emulator, TgiStub, Server]) -> None:
    server, stub, model_server = tgi
    async with api.client(server.url, retries=0) as client:
        reply = await client.chat("Hi", details=True)
        assert reply.text == " Hello! I am a stub of h2oGPT, running on loopback. How can I help?"
        assert body(model_server)["parameters"]["details"] is True
        with pytest.raises(InvalidRequestError, match="1024 tokens"):
            await client.chat("[[error-422]]")
        with pytest.raises(OverloadedError):
            await client.chat("[[error-503]]")
        with pytest.raises(GenerationError, match="CUDA"):
            await client.chat("[[midstream-error]]")
        with pytest.raises(IncompleteStreamError):
            await client.chat("[[truncate-clean]]", recover=False)
        stub.stub.hold = 5
        async with client.stream("[[slow]]") as stream:
            async for _ in stream:  # the first token does not wait for the rest
                break
            await stream.stop()
        stub.release()
        await api.wait(server.wait_idle)
        assert await api.wait(lambda: server.stops) == 1
        stub.stub.down = True
        with pytest.raises(ServerError):
            await client.chat("Hi")


def test_stop_disconnects_from_tgi() -> None:
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
        assert model_server.left.wait(30)
        server.wait_idle()
        assert server.stops == 1
        assert talk.history()[-1].content.startswith(" on on")


@pytest.mark.parametrize(("start", "end"), [("data: ", "\n\n"), ("data:", "\r\n\r\n")])
def test_newer_tgi_format_is_accepted(start: str, end: str) -> None:
    """A space after the colon, more fields, other line endings: forwarded, and stored."""

    def answer(_: Asked, handler: Handler) -> None:
        texts = [" Hello", " there", "</s>"]
        lines = [
            {
                "index": number,
                "token": {"id": number, "text": text, "logprob": -0.1, "special": number == 2},
                "generated_text": " Hello there" if number == 2 else None,
                "details": None,
            }
            for number, text in enumerate(texts)
        ]
        handler.head(200, [("content-type", "text/event-stream")])
        for line in lines:
            handler.chunk(f"{start}{json.dumps(line)}{end}".encode())
        handler.chunk(b"")

    with (
        running(answer) as model_server,
        talking(engine=f"tgi:{model_server.url}/") as client,
        client.conversation() as talk,
    ):
        assert talk.send("Hi").text == " Hello there"
        assert [message.content for message in talk.history()] == ["Hi", " Hello there"]


def test_stop_disconnects_from_a_silent_tgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a response head."""
    monkeypatch.setattr("h2o_client.emulator.chat_ui_2023.generation.STOP_PATIENCE", 0.02)

    def silent(_: Asked, handler: Handler) -> None:
        handler.wait_until_left()

    with (
        running(silent) as model_server,
        Emulator(engine=f"tgi:{model_server.url}/", stop_poll=0.002) as server,
    ):
        client = Client(server).open()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(client.say, "Hi")
            eventually(lambda: model_server.asked)
            client.ask("POST", f"/conversation/{client.conversation}/stop-generating")
            assert model_server.left.wait(30)
            assert isinstance(answer.exception(), http.client.RemoteDisconnected)
        server.wait_idle()
        assert client.stored() == [("user", "Hi"), ("assistant", "")]


def test_tgi_redirect_is_forwarded_and_not_followed() -> None:
    def elsewhere(_: Asked, handler: Handler) -> None:
        handler.whole(307, b"", "text/plain", ("location", "/astray"))

    with running(elsewhere) as model_server, talking(engine=f"tgi:{model_server.url}/") as client:
        with pytest.raises(StatusError) as caught:
            client.chat("Hi")
        assert caught.value.status == 307
        assert [item.path for item in model_server.asked] == ["/"]


def test_cut_counts_tokens_of_forwarded_events() -> None:
    """Cuts are counted in tokens, even where another server's events are forwarded."""
    with (
        running(TgiStub()) as model_server,
        Emulator(engine=f"tgi:{model_server.url}/") as server,
        H2oClient(server.url) as client,
    ):
        server.cut(after=3)
        reply = client.chat("Hi")
        assert reply.recovered
        assert reply.text.startswith(" Hello! I am")


# Several models


def engines(spec: str) -> dict[str, EngineLike | str]:
    return {"by/rote": "rote", "real": spec, "same": spec}


def test_each_model_has_its_own_engine() -> None:
    stub = OpenAIStub(list(WHOLE))
    with (
        running(stub) as model_server,
        Emulator(models=engines(f"openai:{model_server.url}#tiny")) as server,
        H2oClient(server.url, model="by/rote") as client,
    ):
        assert [model.name for model in client.models()] == ["by/rote", "real", "same"]
        assert "emulator" in client.chat("Hello").text
        assert client.chat("Hello", model="real").text == " Hello there"
        assert client.chat("Hello", model="same").text == " Hello there"
        with client.conversation(model="real") as talk:
            talk.send("Hello")
            assert talk.summarize() == "Hello"  # titles come from the first model
    assert len(model_server.asked) == 3


def test_empty_models_are_rejected() -> None:
    with pytest.raises(ValueError, match="no models"):
        Emulator(models={})
    with pytest.raises(ValueError, match="engine"):
        Emulator(models={"a": "rote"}, engine="rote")


# Limits and lifetimes


def test_concurrent_generations_are_limited() -> None:
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
    """An engine that is slow to start, and records its starts and closes."""

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


def test_engine_is_started_and_closed_with_the_emulator() -> None:
    said: list[str] = []
    engine = Slow()
    engine.go.set()
    server = Emulator(engine=engine, progress=said.append)
    for _ in range(2):
        with server, H2oClient(server.url) as client:
            assert client.chat("Hi").text == f" {DEFAULT_MODELS[0].name}"
    assert engine.lives == ["started", "closed"] * 2
    assert said == ["loading"] * 2


def test_engine_start_failure_is_raised_and_cleaned_up() -> None:
    engine = Slow(fail=True)
    engine.go.set()
    server = Emulator(engine=engine)
    for _ in range(2):
        with pytest.raises(EngineError, match="no such weights"):
            server.start()
    assert engine.lives == ["closed"] * 2


def test_emulator_can_be_closed_while_an_engine_starts() -> None:
    engine = Slow()
    server = Emulator(engine=engine)
    starter = threading.Thread(target=server.start)
    starter.start()
    assert engine.starting.wait(30)
    server.close()
    starter.join(30)
    assert not starter.is_alive()
    assert engine.lives == ["closed"]
