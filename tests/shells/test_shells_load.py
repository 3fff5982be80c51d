"""Load: one client shared by many threads and tasks, and a million tokens.

With a thousand concurrent chats, most time is spent in the emulator, in the same process: the
default run has 60 tasks, the marker `long` 1,000, and likewise for tokens, streams and threads.
"""

import gc
import json
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import backends
import httpx
import pytest
from asked import kinds
from backends import ASYNC, Api, endless, only
from open_responses import OpenResponses

from h2o_client import H2oClient, Reply, Timeouts
from h2o_client._client import http
from h2o_client.emulator import Answer, Emulator
from h2o_client.emulator.engine import GenerationRequest

PATIENT = Timeouts(connect=60, first_token=60, idle=60, cleanup=60)
"""The emulator shares its two processors with all clients here."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow these scenarios more time."""
    monkeypatch.setattr(backends, "PATIENCE", 150.0)


def echo(request: GenerationRequest) -> str:
    """Answer with the prompt's own marker, a word at a time, and more."""
    return f" {request.messages[-1][1]} and so on and on"


@pytest.fixture
def server() -> Iterator[Emulator]:
    with Emulator(engine=echo, max_conversations=5000, max_requests=100_000) as emulator:
        yield emulator


def marker(number: int) -> str:
    return f"marker <{number}> {number * 7919 % 10_007}"


def right(number: int) -> str:
    return f" {marker(number)} and so on and on"


# Concurrency


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "calls"), [(16, 1), pytest.param(64, 3, marks=pytest.mark.long)]
)
def test_threads_can_share_a_client(
    server: Emulator, responses: OpenResponses, threads: int, calls: int
) -> None:
    with H2oClient(server.url, timeouts=PATIENT) as client:

        def work(thread: int) -> None:
            with client.conversation() as talk:
                for call in range(calls):
                    number = thread * 1000 + call
                    assert client.chat(marker(number)).text == right(number)
                    with client.stream(marker(number + 1)) as stream:
                        assert "".join(stream) == right(number + 1)
                    assert talk.send(marker(number + 2)).text == right(number + 2)
                assert len(talk.messages) == 2 * calls

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        server.wait_idle()
        assert server.conversations == []
        assert server.sessions == [client.session]
    responses.check()
    assert kinds(server).count("settings") == 1
    assert server.generations == kinds(server).count("message") == threads * calls * 3
    assert kinds(server).count("create") == threads * (2 * calls + 1)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [60, pytest.param(1000, marks=pytest.mark.long)])
@only(*ASYNC)
async def test_tasks_can_share_a_client(api: Api, server: Emulator, tasks: int) -> None:
    async with api.client(timeouts=PATIENT) as client:

        def ask(number: int) -> Callable[[], Awaitable[str]]:
            async def chat() -> str:
                return (await client.chat(marker(number))).text

            async def stream() -> str:
                async with client.stream(marker(number)) as stream:
                    return "".join([text async for text in stream])

            async def send() -> str:
                async with client.conversation() as talk:
                    return (await talk.send(marker(number))).text

            return (chat, stream, send)[number % 3]

        texts = await api.concurrently(ask(number) for number in range(tasks))
        assert texts == [right(number) for number in range(tasks)]
        assert await api.wait(lambda: server.sessions) == [client.session]
        await api.settled()
    assert kinds(server).count("settings") == 1
    assert server.generations == kinds(server).count("message") == tasks
    assert kinds(server).count("create") == kinds(server).count("delete") == tasks


@pytest.mark.slow
@pytest.mark.parametrize("streams", [120, pytest.param(400, marks=pytest.mark.long)])
async def test_many_open_streams_do_not_block_a_chat(
    api: Api, server: Emulator, streams: int
) -> None:
    """Each holds a connection; with httpx's default of 100, the others would wait and time out."""
    server.reply(*[endless(" One")] * streams)
    async with api.client(timeouts=PATIENT) as client:
        held = [client.stream("Hi") for _ in range(streams)]
        for stream in held:
            assert await anext(stream) == " One"
        assert await api.wait(lambda: server.connections) >= streams
        begun = time.monotonic()
        assert (await client.chat(marker(1))).text == right(1)
        assert time.monotonic() - begun < backends.PATIENCE / 2
        for stream in held:
            await stream.aclose()
        await api.settled()
        assert server.stops == streams


# Idle connections


def test_idle_connections_expire_before_the_server_closes_them() -> None:
    limits = http.client_options(None)["limits"]
    assert isinstance(limits, httpx.Limits)
    assert limits.keepalive_expiry == 4
    assert limits.max_connections is None


# Long answers


def much(tokens: int) -> Answer:
    """Return a long answer whose bytes are built in advance, so that they take no time."""
    token = {"id": 7, "text": " abcdefg", "logprob": -0.5, "special": False}
    each = f"data:{json.dumps({'token': token, 'generated_text': None})}\n\n"
    end = {"id": 11, "text": "", "logprob": 0, "special": True}
    last = f"data:{json.dumps({'token': end, 'generated_text': 'much'})}\n\n"
    return Answer(raw=(each * tokens + last).encode(), split=16_000)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_memory_does_not_grow_with_streamed_tokens(
    api: Api, server: Emulator, tokens: int
) -> None:
    """Only the text grows, which the reply must contain; everything else is negligible."""
    answers, size = 10, tokens // 10
    answer = much(size)
    async with api.client(timeouts=PATIENT) as client:

        async def read() -> int:
            server.reply(answer)
            async with client.stream("Hi") as stream:
                count = 0
                async for _ in stream:
                    count += 1
                return count

        await read()
        gc.collect()
        tracemalloc.start()
        try:
            grown: list[int] = []
            for _ in range(answers):
                assert await read() == size
                gc.collect()
                server.clear()
                grown.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    # The texts are freed with their streams; less than a byte per token remains.
    assert grown[-1] - grown[1] < max(tokens // 2, 200_000), grown


@pytest.mark.slow
async def test_memory_of_one_answer_is_that_of_its_text(api: Api, server: Emulator) -> None:
    """Tokens are returned on arrival, and not stored."""
    size = 20_000
    server.reply(*[much(size)] * 2)
    async with api.client(timeouts=PATIENT) as client:

        async def read() -> Reply:
            async with client.stream("Hi") as stream:
                async for _ in stream:
                    pass
                return stream.reply

        await read()
        gc.collect()
        tracemalloc.start()
        try:
            reply = await read()
            gc.collect()
            kept = tracemalloc.take_snapshot().filter_traces(
                [
                    tracemalloc.Filter(True, "*/h2o_client/protocol/*"),
                    tracemalloc.Filter(True, "*/h2o_client/_*"),
                ]
            )
        finally:
            tracemalloc.stop()
    assert len(reply.text) == 8 * size
    assert sum(trace.size for trace in kept.traces) < 8 * size * 1.5 + 100_000
