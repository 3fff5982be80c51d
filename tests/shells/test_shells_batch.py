"""Batches: results in the order of completion, independent failures, and a clean exit."""

import asyncio
import contextlib
import contextvars
import logging
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, cast

import anyio
import anyio.lowlevel
import needs
import pytest
from asked import bodies, kinds, requested
from backends import ASYNC, ONCE, PATIENCE, Api, AsIfAsync, endless, only
from interrupted import press_ctrl_c

from h2o_client import (
    AsyncBatch,
    AsyncH2oClient,
    Batch,
    BatchResult,
    GenerationError,
    H2oClient,
    Message,
    OverloadedError,
    RateLimitError,
    Retries,
    Retry,
    ServerError,
    batch,
)
from h2o_client.batch import RateLimit
from h2o_client.emulator import Answer, Emulator, Fault, GenerationRequest


class BatchAsIfAsync(AsIfAsync):
    """A `Batch` that can be used like an `AsyncBatch`."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._twin = AsyncBatch


def many(client: AsyncH2oClient, prompts: Any, **options: Any) -> AsyncBatch:
    """Create a batch on the client's backend."""
    made: Any = client.batch(prompts, **options)
    return made if isinstance(made, AsyncBatch) else cast("AsyncBatch", BatchAsIfAsync(made))


async def everything(results: AsyncBatch) -> list[BatchResult]:
    """Read a batch to its end, and sort the results."""
    async with results:
        return sorted([result async for result in results], key=lambda result: result.index)


def echo(request: GenerationRequest) -> str:
    """Answer with the prompt."""
    return f" {request.messages[-1][1]}"


@pytest.fixture
def server() -> Iterator[Emulator]:
    with Emulator(engine=echo) as emulator:
        yield emulator


def messages(server: Emulator) -> list[dict[str, Any]]:
    """Return the messages received, in the order of their prompts."""
    return sorted(bodies(server), key=lambda body: str(body["inputs"]))


def wait_until_nothing_is_sent(server: Emulator) -> None:
    """Wait until no more prompts are sent, as running calls have nowhere to put their results."""
    before = -1
    while before != (before := len(server.requests)):
        server.wait_idle()
        time.sleep(0.02)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "h2o_client-batch"]


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert threads() == []


class OwnError(Exception):
    """The error raised by a caller."""


# Results


async def test_all_prompts_are_answered(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        results = await everything(many(client, [f"p{n}" for n in range(20)], concurrency=4))
    assert [result.index for result in results] == list(range(20))
    assert [str(result.reply) for result in results] == [f"p{n}" for n in range(20)]
    assert [result.prompt for result in results] == [f"p{n}" for n in range(20)]
    assert {result.error for result in results} == {None}
    assert kinds(server).count("settings") == 1
    await api.settled()


async def test_empty_batch_gives_no_results(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        assert await everything(many(client, [])) == []
    assert server.requests == []


async def test_results_arrive_as_they_finish(api: Api, server: Emulator) -> None:
    server.reply(Answer(" late", hold_after=0))
    async with api.client() as client, many(client, ["a", "b", "c"], concurrency=2) as results:
        first = [await anext(results), await anext(results)]
        assert sorted(str(result.reply) == "late" for result in first) == [False, False]
        server.release()
        assert str((await anext(results)).reply) == "late"
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)
    await api.settled()


async def test_concurrency_is_limited(api: Api, server: Emulator) -> None:
    server.reply(*[Answer(" x", hold_after=0)] * 3)
    async with api.client() as client, many(client, ["p"] * 5, concurrency=3) as results:
        async with api.in_background(lambda: anext(results)):
            await api.held(3)
            assert server.generations == 3
            server.release()
        assert len([result async for result in results]) == 4


async def test_failure_affects_only_its_prompt(api: Api, server: Emulator) -> None:
    server.reply(" 0", Answer(" half a", ending="error", error="out of memory"), " 2", Answer())
    server.fault("message", Fault(), Fault(), Fault(), Fault(status=500))
    async with api.client() as client:
        results = await everything(many(client, ["0", "1", "2", "3", "4"], concurrency=1))
    errors = [result.error for result in results]
    assert [type(error) for error in errors] == [
        type(None), GenerationError, type(None), ServerError, type(None)
    ]  # fmt: skip
    assert isinstance(errors[1], GenerationError)
    assert errors[1].partial == " half a"
    assert results[1].reply is results[3].reply is None
    await api.settled()


async def test_invalid_prompt_is_the_error_of_its_result(api: Api) -> None:
    prompts: list[Any] = [
        "good",
        "  ",
        7,
        [{"role": "user"}],
        {"nonsense": 1, "prompt": "p"},
        {"prompt": "p", "messages": "q"},
        {},
        {"prompt": ["p"]},
        {"prompt": "p", "parameters": {"temprature": 1}},
        {"prompt": "p", "parameters": [1]},
        {"prompt": "p", "parameters": {"retries": 1}},
        {"prompt": "p", "parameters": {1: 1}},
        {"prompt": "p", "model": 7},
        {"role": "user", "content": "p"},
        None,
    ]
    async with api.client() as client:
        results = await everything(many(client, prompts))
    assert str(results[0].reply) == "good"
    for result in results[1:]:
        assert isinstance(result.error, TypeError | ValueError), result
    assert [result.prompt for result in results] == prompts
    await api.settled()


async def test_prompts_may_be_texts_messages_or_mappings(api: Api, server: Emulator) -> None:
    conversation = [Message(role="user", content="b1"), {"role": "assistant", "content": "b2"}]
    other = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
    prompts: list[Any] = [
        "a",
        conversation,
        {"id": "third", "prompt": "c", "parameters": {"temperature": 0.1, "stop": ["x"]}},
        {"id": 4, "messages": [{"role": "user", "content": "d"}], "model": other},
        {"prompt": "e", "parameters": None, "model": None, "id": None},
        {"prompt": "f", "parameters": {"seed": 2}},
    ]
    async with api.client() as client:
        results = await everything(
            many(client, prompts, temperature=0.9, parameters={"seed": 1, "top_k": 5})
        )
    assert [result.error for result in results] == [None] * 6
    assert [result.id for result in results] == [None, None, "third", 4, None, None]
    sent = {body["inputs"]: body["parameters"] for body in messages(server)}
    assert list(sent) == ["User: b1\nAssistant: b2\nAssistant:", "a", "c", "d", "e", "f"]
    assert [found["temperature"] for found in sent.values()] == [0.9, 0.9, 0.1, 0.9, 0.9, 0.9]
    assert [found["seed"] for found in sent.values()] == [1, 1, 1, 1, 1, 2]
    assert {found["top_k"] for found in sent.values()} == {5}
    assert sent["c"]["stop"] == ["x"]
    assert results[3].reply is not None
    assert results[3].reply.model == other
    await api.settled()


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        ("one", {}),
        ({"prompt": "one"}, {}),
        (7, {}),
        (["p"], {"concurrency": 0}),
        (["p"], {"concurrency": True}),
        (["p"], {"concurrency": 1.5}),
        (["p"], {"limit_wait": -1}),
        (["p"], {"limit_wait": "long"}),
        (["p"], {"temprature": 1}),
        (["p"], {"temperature": "hot"}),
        (["p"], {"model": ""}),
    ],
)
async def test_invalid_usage_raises_immediately(
    api: Api, server: Emulator, prompts: Any, options: dict[str, Any]
) -> None:
    async with api.client() as client:
        with pytest.raises((TypeError, ValueError)):
            many(client, prompts, **options)
    assert server.requests == []


async def test_batch_needs_a_with_block(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        results = many(client, ["p"])
        assert "new" in repr(results)
        with pytest.raises(RuntimeError, match="with"):
            await anext(results)
        async with results:
            assert "open" in repr(results)
        assert "left" in repr(results)
        with pytest.raises(RuntimeError, match="was closed"):
            await anext(results)
        with pytest.raises(RuntimeError, match="once"):
            async with results:
                pass
    assert server.requests == []


def test_results_are_values() -> None:
    result = batch.Failed(index=1, prompt="p", error=ServerError("oops", status=500))
    again = pickle.loads(pickle.dumps(result))
    assert (again.index, again.prompt, again.reply) == (1, "p", None)
    assert again.error.status == 500
    assert isinstance(result, BatchResult)
    assert result == batch.Failed(index=1, prompt="p", error=result.error)
    with pytest.raises(AttributeError):
        result.index = 2  # type: ignore[misc]


async def test_unwrap_returns_the_reply_or_raises(api: Api, server: Emulator) -> None:
    server.reply(" Fine.")
    async with api.client(**ONCE) as client:
        answered, failed = await everything(many(client, ["p", ""]))
    assert answered.error is None
    assert answered.unwrap() is answered.reply
    assert str(answered.reply) == "Fine."
    assert failed.reply is None
    with pytest.raises(ValueError, match="blank") as caught:
        failed.unwrap()
    assert caught.value is failed.error


# Sources of prompts


@pytest.mark.slow
async def test_prompts_are_read_lazily(api: Api, server: Emulator) -> None:
    pulled: list[int] = []

    def prompts() -> Iterator[str]:
        for number in range(10_000):
            pulled.append(number)
            yield f"p{number}"

    async with api.client() as client, many(client, prompts(), concurrency=3) as results:
        assert pulled == []
        for given in range(1, 30):
            await anext(results)
            assert len(pulled) - given <= 6 + (api.backend != "sync")
        await api.wait(lambda: wait_until_nothing_is_sent(server))
    await api.settled()
    assert kinds(server).count("message") <= 40


async def test_slow_reader_pauses_the_batch(api: Api, server: Emulator) -> None:
    async with api.client() as client, many(client, ["p"] * 100, concurrency=2) as results:
        await anext(results)
        await api.wait(lambda: wait_until_nothing_is_sent(server))
        assert kinds(server).count("message") <= 5
    await api.settled()


@pytest.mark.slow
@only(*ASYNC)
async def test_prompts_may_be_an_async_iterable(api: Api, server: Emulator) -> None:
    closed: list[bool] = []

    async def prompts() -> AsyncIterator[str]:
        try:
            for number in range(30):
                await anyio.lowlevel.checkpoint()
                yield f"p{number}"
        finally:
            closed.append(True)

    async with api.client() as client:
        async with client.batch(prompts(), concurrency=3) as results:
            for _ in range(5):
                assert (await anext(results)).error is None
            await api.wait(lambda: wait_until_nothing_is_sent(server))
        assert closed == [True]
        found = await everything(client.batch(prompts()))
        assert [str(result.reply) for result in found] == [f"p{n}" for n in range(30)]
    await api.settled()
    assert server.generating == 0


@only(*ASYNC)
async def test_results_do_not_wait_for_prompts(api: Api) -> None:
    more = anyio.Event()

    async def prompts() -> AsyncIterator[str]:
        yield "first"
        await more.wait()
        yield "second"

    async with api.client() as client, client.batch(prompts(), concurrency=2) as results:
        assert (await anext(results)).index == 0
        more.set()
        assert (await anext(results)).index == 1


async def test_error_in_the_prompts_is_raised(api: Api) -> None:
    def prompts() -> Iterator[str]:
        yield "one"
        yield "two"
        raise OwnError

    async with api.client() as client, many(client, prompts()) as results:
        assert {(await anext(results)).error for _ in range(2)} == {None}
        with pytest.raises(OwnError):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)
    await api.settled()


# Leaving early


async def test_break_stops_running_answers(api: Api, server: Emulator) -> None:
    server.reply(*[endless(" One", " two")] * 3)
    async with api.client() as client:
        async with many(client, ["a", "b", "c", "d", "e"], concurrency=4) as results:
            async for result in results:
                assert result.error is None
                await api.held(3)
                break
        assert threads() == []
        await api.settled()
        assert server.stops == 3
        assert (await client.chat("on it goes")).text == " on it goes"


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("error", [OwnError, KeyboardInterrupt])
async def test_exception_in_the_loop_leaves_nothing(
    api: Api, server: Emulator, error: type[BaseException], tokens: int
) -> None:
    server.reply(*[Answer([" One"] * 2, hold_after=tokens)] * 3)
    async with api.client() as client:
        with pytest.raises(error) as caught:  # noqa: PT012 -- the caller leaves the block by it
            async with many(client, ["a", "b", "c", "d"], concurrency=4) as results:
                await anext(results)
                await api.held(3)
                raise error
        assert caught.value.__context__ is None
        assert threads() == []
        await api.settled()


# Not on trio, where httpx leaves the generator of a request's body to the garbage collector if
# cancelled while sending.
@only("sync", "asyncio")
async def test_leaving_at_any_moment_leaves_nothing(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        async with many(client, ["a"] * 50, concurrency=2) as results:
            await anext(results)
        await api.settled()
        assert kinds(server).count("create") <= 5


@only(*ASYNC)
async def test_cancelled_batch_leaves_nothing(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), endless(" One"))
    async with api.client() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(everything, many(client, ["a", "b"]))
                await api.held(2)
                scope.cancel()
        assert scope.cancelled_caught
        await api.settled()
        assert server.stops == 2


@only("asyncio")
async def test_natively_cancelled_batch_leaves_nothing(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), endless(" One"))
    async with api.client() as client:
        task = asyncio.create_task(everything(many(client, ["a", "b"])))
        await api.held(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await api.settled()
        async with many(client, ["a", "b", "c"]) as results:
            await anext(results)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        await api.settled()


@only("sync")
async def test_workers_see_the_callers_context(api: Api) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    class Watching(Batch):
        def stream(self, prompt: Any) -> Any:
            seen.append(variable.get())
            return super().stream(prompt)

    variable.set("the caller's")
    with H2oClient(api.server.url) as client, Watching(client, ["a", "b"]) as results:
        assert len(list(results)) == 2
    assert seen == ["the caller's"] * 2


SCRIPT = """
import sys
from h2o_client import H2oClient
with H2oClient(sys.argv[1]) as client, client.batch(["a", "b", "c"]) as results:
    for result in results:
        print(result.error)
"""


@pytest.mark.slow
@needs.posix
def test_ctrl_c_stops_the_batch(server: Emulator) -> None:
    server.reply(*[endless(" One")] * 3)
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, server.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        server.wait_held(3, PATIENCE)
        out, errors = press_ctrl_c(process)
    assert (out, process.returncode) == ("", -signal.SIGINT)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    server.wait_idle()
    assert server.conversations == []
    assert server.stops == 3


def test_ctrl_c_while_starting_a_thread_leaves_nothing(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "h2o_client-batch":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with (
        pytest.raises(KeyboardInterrupt),
        H2oClient(server.url) as client,
        client.batch(["a"]) as results,
    ):
        next(results)


# Rate limit


@pytest.mark.slow
async def test_rate_limit_pauses_every_worker(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "WINDOW", 0.3)
    limited = Fault(status=429, body={"message": "You are sending too many messages. Wait."})
    server.fault("message", Fault(), Fault(), *[limited] * 3)
    refusals: list[float] = []
    begun: list[float] = []
    refused, delay = RateLimit.rejected, RateLimit.delay

    def note_refused(self: RateLimit, error: RateLimitError) -> bool:
        again = refused(self, error)
        refusals.append(time.monotonic())
        return again

    def note_begun(self: RateLimit) -> float:
        now = time.monotonic()
        left = delay(self)
        if not left:
            begun.append(now)
        return left

    monkeypatch.setattr(RateLimit, "rejected", note_refused)
    monkeypatch.setattr(RateLimit, "delay", note_begun)
    async with api.client() as client:
        results = await everything(many(client, [f"p{n}" for n in range(12)], concurrency=3))
    assert [result.error for result in results] == [None] * 12
    assert [str(result.reply) for result in results] == [f"p{n}" for n in range(12)]
    assert kinds(server).count("message") == 15
    assert len(refusals) == 3
    after = [when - refusals[-1] for when in begun if when > refusals[-1]]
    assert len(after) >= 3  # every worker
    assert min(after) > 0.25  # the pause started slightly earlier
    await api.settled()


@pytest.mark.parametrize("by", ["call", "client"])
@pytest.mark.parametrize("on", ["create", "message"])
async def test_calls_of_a_batch_do_not_wait_for_the_limit_themselves(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch, on: str, by: str
) -> None:
    """The budget of a call would allow the window of two minutes, but the batch waits instead."""
    monkeypatch.setattr(batch, "WINDOW", 0.02)
    limited = Fault(status=429, body={"message": "You are sending too many messages. Wait."})
    own = Fault(status=429, body={"message": "Wait."}, headers={"Retry-After": "60"})
    full = Fault(status=503, body="no room")
    server.fault(on, Fault(), full, limited, *[own] * (on == "message"), limited)
    told: list[Retry] = []
    pauses: list[float] = []
    monkeypatch.setattr(batch._Common, "pausing", lambda _, seconds: pauses.append(seconds))
    monkeypatch.setattr(RateLimit, "rejected", without_waiting(RateLimit.rejected))
    retries = Retries(attempts=3, budget=600, base=0.001, on_retry=told.append)
    of_client: dict[str, Any] = {"retries": retries} if by == "client" else {}
    of_call: dict[str, Any] = {} if of_client else {"retries": retries}
    async with api.client(**of_client) as client:
        asked = many(client, [f"p{n}" for n in range(8)], concurrency=2, **of_call)
        results = await everything(asked)
    assert [result.error for result in results] == [None] * 8
    assert [type(retry.error) for retry in told] == [OverloadedError]
    assert pauses
    await api.settled()
    assert server.conversations == []


def without_waiting(
    refused: Callable[[RateLimit, RateLimitError], bool],
) -> Callable[[RateLimit, RateLimitError], bool]:
    """Ignore the length of each limit, so that a test can wait for it."""

    def noted(self: RateLimit, error: RateLimitError) -> bool:
        error.retry_after = None
        return refused(self, error)

    return noted


@pytest.mark.slow
async def test_pause_is_logged(
    api: Api,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(batch, "WINDOW", 0.6)
    caplog.set_level(logging.INFO, "h2o_client")
    server.fail(429, message="You are sending too many messages.")
    async with api.client() as client:
        await everything(many(client, ["a", "b", "c"]))
    assert caplog.messages.count("too many messages: all prompts pause for 1 s") == 1


def test_pause_is_reported_again_only_if_it_gets_longer() -> None:
    told: list[float] = []
    limit = RateLimit(600.0, told.append)
    refusals = [RateLimitError("wait"), RateLimitError("wait")]
    for error in [*refusals, RateLimitError("wait", retry_after=300.0), *refusals]:
        assert limit.rejected(error)
    assert not limit.rejected(RateLimitError("wait", retry_after=900.0))
    assert told == [120.0, 300.0]


@pytest.mark.slow
async def test_batch_completes_despite_the_services_limit(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "WINDOW", 0.02)
    now = [0.0]  # each rejection advances the server's clock

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    with Emulator(engine=echo, rate_limit=3, rate_window=1.0, sweep=0.0, clock=clock) as limited:
        async with api.client(limited.url) as client:
            results = await everything(many(client, [f"p{n}" for n in range(12)], concurrency=4))
        assert [result.error for result in results] == [None] * 12
        messages = kinds(limited).count("message")
        assert messages > 12, "the limit was never hit"
        await api.wait(limited.wait_idle)
        assert limited.conversations == []


async def test_limit_wait_bounds_the_pauses(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "WINDOW", 0.01)
    server.fail(429, times=100, message="You are sending too many messages.")
    async with api.client() as client:
        results = await everything(many(client, ["a", "b"], limit_wait=0.025))
    assert [type(result.error) for result in results] == [RateLimitError] * 2
    assert 2 <= kinds(server).count("message") <= 8


async def test_zero_limit_wait_fails_immediately(api: Api, server: Emulator) -> None:
    server.fail(429, message="You are sending too many messages.")
    async with api.client() as client:
        results = await everything(many(client, ["a", "b"], concurrency=1, limit_wait=0))
    assert [type(result.error) for result in results] == [RateLimitError, type(None)]


async def test_leaving_during_a_pause_does_not_wait(api: Api, server: Emulator) -> None:
    server.fault("message", Fault(), Fault(status=429, headers={"Retry-After": "60"}))
    async with api.client() as client:
        begun = time.monotonic()
        async with many(client, ["a", "b", "c"], concurrency=1) as results:
            assert (await anext(results)).error is None
            await api.wait(lambda: requested(server, "message", 2))
            await api.wait(server.wait_idle)
        assert time.monotonic() - begun < PATIENCE / 2
        await api.settled()


def refusal(retry_after: float | None = None) -> RateLimitError:
    return RateLimitError("too many", status=429, retry_after=retry_after)


def test_rate_limit_computes_its_delays() -> None:
    now = 0.0
    limit = RateLimit(budget=300.0, tell=lambda _seconds: None, clock=lambda: now)
    assert limit.delay() == 0.0
    assert limit.rejected(refusal())
    assert limit.delay() == 120.0
    now = 5.0  # a concurrent rejection: a single pause, which ends a window after it
    assert limit.rejected(refusal())
    assert limit.delay() == 120.0
    assert limit.rejected(refusal(10.0))
    assert limit.delay() == 120.0
    now = 125.0
    assert limit.delay() == 0.0
    assert limit.rejected(refusal())  # 245 s in a row
    assert not limit.rejected(refusal(200.0))
    assert limit.delay() == 120.0
    limit.answered()
    now = 245.0
    assert limit.rejected(refusal(200.0))
    assert limit.delay() == 200.0
    assert limit.rejected(refusal(0.0))
    now = 445.0
    assert limit.rejected(refusal(0.0))
    assert limit.delay() == 1.0


# Other clients


class Canned:
    """A stream that needs no server."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> Any:
        if self._text == "bad":
            raise OSError(self._text)
        return self._text

    def close(self) -> None:
        """Do nothing: nothing is running."""


class CannedClient:
    """A client that needs no server."""

    def stream(self, messages: Any, **keywords: Any) -> Canned:
        assert keywords == {"temperature": 1}
        return Canned(messages)


def test_batch_works_with_any_client() -> None:
    with Batch(CannedClient(), iter(["a", "bad", "c"]), temperature=1) as results:
        found: Mapping[int, Any] = {result.index: result for result in results}
    assert found[0].reply == "a"
    assert isinstance(found[1].error, OSError)
    assert found[2].reply == "c"


def test_finished_batch_leaves_no_threads(server: Emulator) -> None:
    with H2oClient(server.url) as client, client.batch(["a", "b"]) as results:
        assert len(list(results)) == 2
        assert len(threads()) <= 2
    with contextlib.suppress(RuntimeError):
        next(results)
