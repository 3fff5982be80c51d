"""OpenAI's own client, sync and async, with the bridge to each kind of chat-ui server."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from h2o_client import Timeouts
from h2o_client.bridge import upstream
from h2o_client.emulator import Answer, Emulator, Fault

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_bridge.py"
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
]
CUT = Answer(" Half an", ending="cut", again=Answer(ending="cut"))


@pytest.fixture
def bridge(server: Emulator) -> Iterator[Emulator]:
    models = upstream(server.url, timeouts=Timeouts(recovery=0.1), retries=0)
    with Emulator(dialect="openai", token="s3cret", models=models) as emulator:
        yield emulator
        emulator.wait_idle()


@pytest.fixture
def client(bridge: Emulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{bridge.url}/v1", api_key="s3cret", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(bridge: Emulator) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{bridge.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="s3cret", max_retries=0) as made:
        yield made


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_openai_client_lists_models(client: openai.OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other/model")


def test_openai_client_gets_an_answer(server: Emulator, client: openai.OpenAI, model: str) -> None:
    server.reply(" Hello, you")
    answer = client.chat.completions.create(model=model, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello, you"
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", model)


async def test_async_openai_client_gets_an_answer(
    server: Emulator, async_client: openai.AsyncOpenAI, model: str
) -> None:
    server.reply(" Hello, you")
    answer = await async_client.chat.completions.create(model=model, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello, you"


def test_openai_client_streams(server: Emulator, client: openai.OpenAI, model: str) -> None:
    server.reply(" Hello, you")
    with client.chat.completions.create(model=model, messages=MESSAGES, stream=True) as stream:
        choices = [event.choices[0] for event in stream]
    assert "".join(choice.delta.content or "" for choice in choices) == "Hello, you"
    assert choices[0].delta.role == "assistant"
    assert choices[-1].finish_reason == "stop"


async def test_async_openai_client_streams(
    server: Emulator, async_client: openai.AsyncOpenAI, model: str
) -> None:
    server.reply(" Hello, you")
    create = async_client.chat.completions.create
    async with await create(model=model, messages=MESSAGES, stream=True) as stream:
        texts = [event.choices[0].delta.content or "" async for event in stream]
    assert "".join(texts) == "Hello, you"


def test_openai_stream_helper_works(server: Emulator, client: openai.OpenAI, model: str) -> None:
    """It assembles the events itself, and validates them strictly."""
    server.reply(" Hello, you")
    with client.chat.completions.stream(model=model, messages=MESSAGES) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "Hello, you"


def test_cut_answer_is_an_error(server: Emulator, client: openai.OpenAI, model: str) -> None:
    server.reply(CUT)
    with (
        client.chat.completions.create(model=model, messages=MESSAGES, stream=True) as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        list(stream)
    assert caught.value.type == "server_error"
    server.reply(CUT)
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert failed.value.status_code == 502


async def test_cut_answer_is_an_error_async(
    server: Emulator, async_client: openai.AsyncOpenAI, model: str
) -> None:
    server.reply(CUT)
    create = async_client.chat.completions.create
    texts: list[str] = []
    stream = await create(model=model, messages=MESSAGES, stream=True)

    async def read() -> None:
        async for event in stream:
            texts.append(event.choices[0].delta.content or "")  # noqa: PERF401 -- kept when it fails

    with pytest.raises(openai.APIError):
        await read()
    assert "".join(texts).startswith("Half an")


def test_leaving_an_openai_stream_stops_the_answer(
    server: Emulator, client: openai.OpenAI, model: str
) -> None:
    server.reply(Answer(" Hello, you", hold_after=1))
    with client.chat.completions.create(model=model, messages=MESSAGES, stream=True) as stream:
        assert next(stream).choices[0].delta.content == "Hello,"
        server.wait_held()
    server.wait_idle()
    assert (server.stops, server.conversations) == (1, [])


async def test_leaving_an_async_openai_stream_stops_the_answer(
    server: Emulator, async_client: openai.AsyncOpenAI, model: str
) -> None:
    server.reply(Answer(" Hello, you", hold_after=1))
    create = async_client.chat.completions.create
    async with await create(model=model, messages=MESSAGES, stream=True) as stream:
        assert (await anext(stream)).choices[0].delta.content == "Hello,"
        server.wait_held()
    server.wait_idle()
    assert (server.stops, server.conversations) == (1, [])


def test_errors_are_openai_errors(
    server: Emulator, bridge: Emulator, client: openai.OpenAI, model: str
) -> None:
    create = client.chat.completions.create
    server.fault("message", Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(openai.RateLimitError):
        create(model=model, messages=MESSAGES)
    with pytest.raises(openai.NotFoundError) as caught:
        create(model="other", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="not supported"):
        create(model=model, messages=MESSAGES, n=2)
    with (
        openai.OpenAI(base_url=f"{bridge.url}/v1", api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


@pytest.mark.parametrize("status", [429, 403])
def test_message_is_not_retried(
    server: Emulator, bridge: Emulator, model: str, status: int
) -> None:
    """The client retries by default, and would get an answer."""
    server.fault("message", Fault(status=status))
    with (
        openai.OpenAI(base_url=f"{bridge.url}/v1", api_key="s3cret") as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.status_code == (429 if status == 429 else 502)
    messages = [request for request in server.requests if request.kind == "message"]
    assert len(messages) == 1


def test_openai_example_runs(server: Emulator) -> None:
    server.reply(" Hello, you")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    models, answer = done.stdout.splitlines()
    assert models.startswith("Models: h2oai/")
    assert answer == "Hello, you"
