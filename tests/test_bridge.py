"""OpenAI's API in front of a chat-ui server of either kind, through the client."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from asked import bodies, kinds

from h2o_client import H2oClient, RateLimitError, Timeouts, TransportError
from h2o_client.bridge import ChatUiEngine, upstream
from h2o_client.emulator import Answer, Emulator, EngineError, Fault

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
TIMEOUTS = Timeouts(recovery=0.1)


@pytest.fixture(params=["chat-ui-2023", "chat-ui-2025"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bridge(server: Emulator) -> Iterator[Emulator]:
    """The bridge; after each test, nothing may be left on the chat-ui server."""
    models = upstream(server.url, timeouts=TIMEOUTS, retries=0)
    with Emulator(dialect="openai", models=models) as emulator:
        yield emulator
        emulator.wait_idle()
        server.wait_idle()
        assert server.conversations == []


@pytest.fixture
def http(bridge: Emulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{bridge.url}/v1", trust_env=False) as client:
        yield client


def body(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    model = http.get("/models").json()["data"][0]["id"]
    return {"model": model, "messages": MESSAGES, **fields}


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/chat/completions", json=body(http, **fields))


def test_bridge_lists_models_and_answers(server: Emulator, http: httpx.Client) -> None:
    with H2oClient(server.url) as client:
        names = [model.name for model in client.models()]
    assert [model["id"] for model in http.get("/models").json()["data"]] == names
    server.reply(" Yes, whole")
    (choice,) = ask(http).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Yes, whole", "stop")


def test_bridge_streams_an_answer(server: Emulator, http: httpx.Client) -> None:
    server.reply(" Yes, whole")
    lines = ask(http, stream=True).text.split("\n\n")
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-2]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes, whole"
    assert lines[-2:] == ["data: [DONE]", ""]


def test_parameters_are_sent_if_the_server_supports_them(
    server: Emulator, http: httpx.Client
) -> None:
    response = ask(http, temperature=0.5, max_tokens=9, stop="x")
    if server.dialect == "chat-ui-2023":
        (sent,) = bodies(server)
        given = sent["parameters"]
        assert (given["temperature"], given["max_new_tokens"], given["stop"]) == (0.5, 9, ["x"])
    else:
        assert response.status_code == 400
        assert "parameters" in response.json()["error"]["message"]
        assert "message" not in kinds(server)


def test_default_values_are_accepted_on_every_server(server: Emulator, http: httpx.Client) -> None:
    server.reply(" Yes, whole")
    (choice,) = ask(http, temperature=1, top_p=1.0).json()["choices"]
    assert choice["message"]["content"] == "Yes, whole"


def test_stop_text_works_on_every_server(server: Emulator, http: httpx.Client) -> None:
    server.reply(Answer(" one two three four", hold_after=3))
    (choice,) = ask(http, stop=["two "]).json()["choices"]
    assert choice["message"]["content"] == "one "
    assert choice["finish_reason"] == "stop"
    server.wait_idle()
    assert server.stops == 1


def test_disconnecting_during_a_stream_stops_the_answer(
    server: Emulator, http: httpx.Client
) -> None:
    server.reply(Answer(" one two", hold_after=1))
    with http.stream("POST", "/chat/completions", json=body(http, stream=True)) as response:
        assert next(response.iter_lines()).startswith("data: ")
        server.wait_held()
    server.wait_idle()
    assert server.stops == 1


def test_disconnecting_before_the_response_stops_the_answer(
    server: Emulator, http: httpx.Client
) -> None:
    server.reply(Answer(" one two", hold_after=1))
    request = http.build_request("POST", "/chat/completions", json=body(http))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port)) as connection:
        line = f"POST {request.url.path} HTTP/1.1\r\n"
        connection.sendall(f"{line}{head}\r\n".encode() + request.content)
        server.wait_held()
    server.wait_idle()
    assert server.stops == 1


def test_cut_upstream_stream_is_a_server_error(server: Emulator, http: httpx.Client) -> None:
    cut = Answer(" Half an", ending="cut", again=Answer(ending="cut"))
    server.reply(cut)
    *_, last, empty = ask(http, stream=True).text.split("\n\n")
    assert empty == ""
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    server.reply(cut)
    assert ask(http).status_code == 502


def test_restarted_answer_is_an_error_in_a_stream(server: Emulator, http: httpx.Client) -> None:
    server.reply(Answer(" Half an", ending="cut", again=" Another"))
    *_, last, _ = ask(http, stream=True).text.split("\n\n")
    assert "error" in json.loads(last.removeprefix("data: "))


def test_server_errors_become_openai_errors(server: Emulator, http: httpx.Client) -> None:
    server.fault("message", Fault(status=429, headers={"retry-after": "7"}))
    response = ask(http)
    assert response.status_code == 429
    of_2023 = (
        server.dialect == "chat-ui-2023"
    )  # on the others, the limit restarts with each message
    assert response.headers["retry-after"] == ("7" if of_2023 else "61")
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["type"] == "rate_limit_error"
    server.fault("message", Fault(status=429))
    unsaid = f"{RateLimitError.WINDOW:.0f}"
    assert ask(http).headers["retry-after"] == (unsaid if of_2023 else "61")
    server.fault("message", Fault(status=403))
    forbidden = ask(http)
    assert forbidden.status_code == 502  # the bridge's client did nothing wrong
    assert forbidden.headers["x-should-retry"] == "false"
    server.fault("message", Fault(status=503))
    overloaded = ask(http)
    assert (overloaded.status_code, "x-should-retry" in overloaded.headers) == (503, False)
    blank = ask(http, messages=[{"role": "user", "content": " "}])
    assert (blank.status_code, blank.json()["error"]["type"]) == (400, "invalid_request_error")


def test_unreachable_server_is_an_error() -> None:
    with pytest.raises(TransportError):
        upstream("http://127.0.0.1:1", retries=0)
    engine = ChatUiEngine("http://127.0.0.1:1", retries=0)
    emulator = Emulator(dialect="openai", engine=engine)
    with pytest.raises(EngineError, match="127"):
        emulator.start()
    emulator.close()
