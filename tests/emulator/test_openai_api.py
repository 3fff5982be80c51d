"""The emulator's OpenAI API, over plain HTTP; `tests/integrations` uses OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from model_servers import Listener

from h2o_client.emulator import Answer, Emulator, Fault, GenerationRequest

MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
QUESTION = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def server() -> Iterator[Emulator]:
    with Emulator(dialect="openai") as emulator:
        yield emulator
        emulator.wait_idle()


@pytest.fixture
def http(server: Emulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}/v1", trust_env=False) as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": QUESTION, **fields}
    return http.post("/chat/completions", json=body)


def error(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def events(response: httpx.Response) -> list[Any]:
    """Return the events of a stream; the last is "[DONE]" if it is complete."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def texts(found: list[Any]) -> list[str]:
    deltas = [event["choices"][0]["delta"] for event in found if "choices" in event]
    return [delta["content"] for delta in deltas if "content" in delta]


def test_models_are_listed(http: httpx.Client) -> None:
    listed = http.get("/models").json()
    assert listed["object"] == "list"
    assert listed["data"][0]["id"] == MODEL
    assert http.get(f"/models/{MODEL}").json() == listed["data"][0]
    assert http.get(f"/models/{MODEL.replace('/', '%2F')}").json() == listed["data"][0]
    assert error(http.get("/models/other"))["code"] == "model_not_found"


def test_answer_without_streaming(http: httpx.Client, server: Emulator) -> None:
    server.reply(" Hello there")
    answer = ask(http).json()
    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"]) == ("chat.completion", MODEL)
    assert choice["message"] == {"role": "assistant", "content": "Hello there", "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_streamed_answer(http: httpx.Client, server: Emulator) -> None:
    server.reply(Answer(" Hello there, you", ending="length"))
    *found, done = events(ask(http, stream=True))
    assert done == "[DONE]"
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    assert len({event["id"] for event in found}) == 1
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hello"}
    assert texts(found) == ["Hello", " there,", " you"]
    assert [event["choices"][0]["finish_reason"] for event in found] == [None, None, None, "length"]


def test_request_is_translated_for_the_engine() -> None:
    engine = Listener()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Two"},
    ]
    given = {"max_completion_tokens": 7, "temperature": 0, "top_p": 1, "stop": "x", "user": "me"}
    with (
        Emulator(dialect="openai", engine=engine) as server,
        httpx.Client(base_url=f"{server.url}/v1", trust_env=False) as http,
    ):
        assert ask(http, messages=messages, tools=[], n=1, **given).status_code == 200
    (request,) = engine.asked
    assert request.parameters == {
        "max_new_tokens": 7,
        "stop": ["x"],
        "do_sample": False,
        "details": True,
    }
    assert [item["role"] for item in request.chat] == ["system", "user", "assistant", "user"]
    assert request.messages == (("user", "One"), ("assistant", ""), ("user", "Two"))
    assert request.prompt == "Be brief.\n\n<|prompt|>One<|answer|><|prompt|>Two<|answer|>"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_text_is_not_part_of_the_answer(
    http: httpx.Client, server: Emulator, stream: bool
) -> None:
    server.reply([" one", " two", "\nSt", "ill", "\nSto", "p", " not this"])
    response = ask(http, stop=["\nStop", "never"], stream=stream)
    if stream:
        found = events(response)
        assert "".join(texts(found)) == "one two\nStill"
        assert found[-2]["choices"][0]["finish_reason"] == "stop"
    else:
        (choice,) = response.json()["choices"]
        assert choice["message"]["content"] == "one two\nStill"
    server.reply(" ends with St")
    assert ask(http, stop=["Stop"]).json()["choices"][0]["message"]["content"] == "ends with St"


@pytest.mark.parametrize("ending", ["cut", "clean", "midline", "error"])
def test_interrupted_answer_is_an_error(http: httpx.Client, server: Emulator, ending: Any) -> None:
    server.reply(*[Answer(" Half an", ending=ending, error="boom")] * 2)
    *found, last = events(ask(http, stream=True))
    assert texts(found) == ["Half", " an"]
    assert last["error"]["type"] == "server_error"
    assert (last["error"]["message"] == "boom") == (ending == "error")
    whole = ask(http)
    assert whole.status_code == 502
    assert error(whole) == last["error"]


def test_model_server_errors_are_forwarded(http: httpx.Client, server: Emulator) -> None:
    for status, answered, kind in (
        (422, 400, "invalid_request_error"),
        (424, 502, "server_error"),
        (429, 429, "rate_limit_error"),
        (503, 503, "server_error"),
    ):
        for stream in (False, True):
            server.reply(Answer(status=status, headers=[("retry-after", "7")]))
            response = ask(http, stream=stream)
            assert (response.status_code, error(response)["type"]) == (answered, kind)
            assert response.headers["retry-after"] == "7"
    server.reply(Answer(ending="down"))
    assert ask(http).status_code == 502


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"model": 7}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "Hello"}, 400, "messages"),
        ({"messages": ["Hello"]}, 400, "messages[0].role"),
        ({"messages": [{"role": [], "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [*QUESTION, {"role": "user"}]}, 400, "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages[0].content",
        ),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"n": 2}, 400, "n"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"stop": 7}, 400, "stop"),
        ({"temperature": "hot"}, 400, None),
        ({"top_p": 2}, 400, None),
    ],
)
def test_invalid_values_are_rejected(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str | None
) -> None:
    response = ask(http, **fields)
    assert response.status_code == status
    found = error(response)
    assert found["type"] == "invalid_request_error"
    assert found["param"] == param
    assert not param or param.partition("[")[0] in found["message"]


def test_missing_fields_are_named(http: httpx.Client) -> None:
    assert error(ask(http, model=None))["message"].startswith("model is missing; ")
    message = error(ask(http, messages=[{"content": "Hello"}]))["message"]
    assert message == "messages[0].role must be one of system, developer, user, assistant"


def test_malformed_requests_are_rejected(http: httpx.Client) -> None:
    path = "/chat/completions"
    assert error(http.post(path, content=b"{}"))["message"].startswith("the body must be JSON")
    headers = {"content-type": "application/json"}
    for body in (b"[]", b"{", b'{"model": NaN}'):
        response = http.post(path, content=body, headers=headers)
        assert (response.status_code, error(response)["param"]) == (400, None)
    assert (http.get(path).status_code, http.get("/other").status_code) == (405, 404)


def test_api_key_is_required() -> None:
    with (
        Emulator(dialect="openai", token="s3cret") as server,
        httpx.Client(base_url=f"{server.url}/v1", trust_env=False) as http,
    ):
        refused = ask(http)
        assert (refused.status_code, error(refused)["code"]) == (401, "invalid_api_key")
        assert http.get("/models", headers={"authorization": "Bearer s3cret"}).status_code == 200


def test_scripted_faults_and_cuts(http: httpx.Client, server: Emulator) -> None:
    server.fault("message", Fault(status=503))
    assert error(ask(http))["type"] == "server_error"
    server.cut(after=1)
    with pytest.raises(httpx.RemoteProtocolError):
        ask(http, stream=True)
    server.reply(Answer(" Hello there", drop_after=0))
    with pytest.raises(httpx.RemoteProtocolError):
        ask(http, stream=True)


def test_engine_failure_is_a_server_error(caplog: pytest.LogCaptureFixture) -> None:
    def engine(_: GenerationRequest) -> str:
        raise LookupError("secret")

    with (
        Emulator(dialect="openai", engine=engine) as server,
        httpx.Client(base_url=f"{server.url}/v1", trust_env=False) as http,
    ):
        response = ask(http)
        assert (response.status_code, error(response)["type"]) == (500, "server_error")
        assert "secret" not in response.text
    assert "LookupError: secret" in caplog.text


def test_concurrent_generation_limit_is_a_429() -> None:
    with (
        Emulator(dialect="openai", max_generations=1) as server,
        httpx.Client(base_url=f"{server.url}/v1", trust_env=False) as http,
    ):
        server.reply(Answer(" Hello there", hold_after=1))
        body = {"model": MODEL, "messages": QUESTION, "stream": True}
        with http.stream("POST", "/chat/completions", json=body):
            server.wait_held()
            assert ask(http).status_code == 429
        server.wait_idle()
        assert server.stops == 1  # stopped, as its client is gone
