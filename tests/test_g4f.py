"""The drop-in replacement for gpt4free's old provider: on asyncio, on trio, and without async."""

import asyncio
import gc
import inspect
import warnings
from collections.abc import Iterator
from contextlib import aclosing, closing
from typing import Any

import anyio
import anyio.to_thread
import pytest
from asked import bodies, eventually, kinds

from h2o_client import DEFAULT_MODEL, ForbiddenError, GenerationError, TransportTimeoutError
from h2o_client.emulator import Answer, Emulator, Fault
from h2o_client.g4f import AsyncResult, CreateResult, H2o, Messages, format_prompt

MESSAGES: Messages = [{"role": "user", "content": "Hello!"}]
OTHER_MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
TOKENS = [" Hello", " there,", " you!"]
DEFAULTS = {
    "temperature": 0.4,
    "truncate": 2048,
    "max_new_tokens": 1024,
    "do_sample": True,
    "repetition_penalty": 1.2,
    "return_full_text": False,
}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def served(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The server, configured in the environment; after each test, nothing may be left on it."""
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    server.reply(TOKENS)
    yield server
    server.wait_idle()
    assert server.conversations == []


def body(server: Emulator, kind: str = "message") -> dict[str, Any]:
    (found,) = bodies(server, kind)
    return found


def check_stopped(server: Emulator) -> None:
    assert server.conversations == []
    server.wait_idle()
    assert server.stops == 1


def check_cleaned_up(server: Emulator) -> None:
    """Like `check_stopped()`, for background clean-up."""
    eventually(lambda: server.conversations == [])
    check_stopped(server)


def check_warned(caught: list[warnings.WarningMessage]) -> None:
    gc.collect()
    while (
        caught
    ):  # each holds the object that it warns about, whose client warns, too, when dropped
        assert caught.pop().category is ResourceWarning
        gc.collect()


async def held(server: Emulator) -> None:
    await anyio.to_thread.run_sync(server.wait_held)


# The async generator


@pytest.mark.anyio
async def test_result_can_be_iterated_directly(served: Emulator) -> None:
    tokens = [token async for token in H2o.create_async_generator(OTHER_MODEL, MESSAGES)]
    assert tokens == TOKENS  # tokens keep their leading spaces
    assert kinds(served) == ["settings", "create", "message", "delete"]
    assert body(served, "create") == {"model": OTHER_MODEL}
    assert body(served)["inputs"] == "Hello!"
    assert body(served)["parameters"] == DEFAULTS


@pytest.mark.anyio
async def test_nothing_is_sent_before_iteration(served: Emulator) -> None:
    tokens = await H2o.create_async_generator(None, MESSAGES)
    await tokens.aclose()
    assert served.requests == []
    assert [token async for token in tokens] == []
    served.clear()


@pytest.mark.anyio
async def test_awaited_and_finished_result_stays_finished() -> None:
    tokens = await H2o.create_async_generator("", MESSAGES)
    assert [token async for token in tokens] == TOKENS
    assert [token async for token in tokens] == []
    await tokens.aclose()
    await tokens.aclose()


def test_result_can_be_created_outside_an_event_loop() -> None:
    tokens = H2o.create_async_generator(None, MESSAGES)

    async def read() -> list[str]:
        return [token async for token in tokens]

    assert asyncio.run(read()) == TOKENS


@pytest.mark.anyio
async def test_closing_early_stops_the_answer(served: Emulator) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, hold_after=1))
    async with aclosing(H2o.create_async_generator(None, MESSAGES)) as tokens:
        async for token in tokens:
            assert token == TOKENS[0]
            await held(served)
            break
    check_stopped(served)
    with pytest.raises(StopAsyncIteration):
        await anext(tokens)


@pytest.mark.anyio
async def test_cancellation_stops_the_answer(served: Emulator) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, hold_after=1))
    read: list[str] = []

    async def reader() -> None:
        async for token in H2o.create_async_generator(None, MESSAGES):
            read.append(token)  # noqa: PERF401 -- what was read before the cancellation counts

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await held(served)
            tasks.cancel_scope.cancel()
    assert read in ([], TOKENS[:1])
    assert served.conversations == []


@pytest.mark.anyio
async def test_closing_while_another_task_reads(served: Emulator) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, hold_after=0))
    tokens = H2o.create_async_generator(None, MESSAGES)
    errors: list[Exception] = []

    async def reader() -> None:
        try:
            await anext(tokens)
        except Exception as error:  # noqa: BLE001 -- looked at below
            errors.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await held(served)
            with pytest.raises(RuntimeError, match="another thread or task"):
                await anext(tokens)
            await tokens.aclose()
    assert len(errors) == 1
    assert served.conversations == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_dropping_the_result_stops_the_answer(served: Emulator, backend: str) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, hold_after=1))

    async def read() -> None:
        async for token in H2o.create_async_generator(None, MESSAGES):
            assert token == TOKENS[0]
            break

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        anyio.run(read, backend=backend)
        check_warned(caught)
    check_cleaned_up(served)


@pytest.mark.anyio
async def test_failure_raises_and_ends_iteration(served: Emulator) -> None:
    served.fail(status=403)
    tokens = H2o.create_async_generator(None, MESSAGES)
    with pytest.raises(ForbiddenError):
        await anext(tokens)
    assert [token async for token in tokens] == []
    served.clear()


@pytest.mark.anyio
async def test_error_during_the_answer_raises(served: Emulator) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, ending="error"))
    read: list[str] = []
    with pytest.raises(GenerationError) as raised:  # noqa: PT012 -- it comes within the loop
        async for token in H2o.create_async_generator(None, MESSAGES):
            read.append(token)  # noqa: PERF401 -- what was read before the error counts
    assert read == TOKENS
    assert raised.value.partial == "".join(TOKENS)


# Arguments


@pytest.mark.anyio
async def test_unknown_parameters_are_sent(served: Emulator) -> None:
    given: dict[str, Any] = {
        "temperature": 0.1,
        "top_p": 0.9,
        "max_tokens": 3,
        "temprature": 1,
        "seed": None,
    }
    await H2o.create_async(None, MESSAGES, **given)
    assert body(served)["parameters"] == {**DEFAULTS, **given}


@pytest.mark.anyio
async def test_arguments_of_the_old_base_class_are_not_sent(served: Emulator) -> None:
    old: dict[str, Any] = {
        "stream": False,
        "auth": "secret",
        "cookies": {"name": "secret"},
        "api_key": "secret",
        "loop": None,
        "executor": None,
        "timeout": 5,
    }
    await H2o.create_async(model=None, messages=MESSAGES, proxy=None, **old)
    assert body(served)["parameters"] == DEFAULTS
    for request in served.requests:
        assert b"secret" not in request.body
        assert "secret" not in str(request.headers)


@pytest.mark.anyio
async def test_timeout_limits_the_answer(served: Emulator) -> None:
    served.fault("create", Fault(hang=True), Fault(hang=True), Fault(hang=True), Fault(hang=True))
    tokens = H2o.create_async_generator(None, MESSAGES, timeout=0.01)
    with pytest.raises(TransportTimeoutError), anyio.fail_after(5):
        await anext(tokens)
    served.clear()


@pytest.mark.anyio
async def test_model_is_optional(served: Emulator) -> None:
    assert await H2o.create_async(messages=MESSAGES) == "".join(TOKENS)
    assert body(served, "create") == {"model": DEFAULT_MODEL}


def test_messages_are_required() -> None:
    with pytest.raises(TypeError, match="messages"):
        H2o.create_async_generator(None)
    with pytest.raises(TypeError, match="messages"):
        H2o.create_completion(None)


@pytest.mark.anyio
async def test_empty_messages_are_rejected() -> None:
    with pytest.raises(ValueError, match="messages"):
        await H2o.create_async(None, [])


@pytest.mark.anyio
async def test_messages_are_flattened_into_a_prompt(served: Emulator) -> None:
    messages: Messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    await H2o.create_async(None, messages)
    assert body(served)["inputs"] == format_prompt(messages)


@pytest.mark.anyio
async def test_proxy_is_used(served: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", "http://chat.example.invalid")
    with pytest.raises(ForbiddenError):  # the emulator is not a proxy
        await H2o.create_async(None, MESSAGES, proxy=served.url)
    assert served.requests[0].path == "http://chat.example.invalid/settings"
    served.clear()


@pytest.mark.anyio
async def test_subclass_can_override_url_and_model(
    served: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", "http://127.0.0.1:1")

    class Mine(H2o):
        url = served.url + "/"
        model = OTHER_MODEL

    assert await Mine.create_async(None, MESSAGES) == "".join(TOKENS)
    assert body(served, "create") == {"model": OTHER_MODEL}
    assert Mine.get_dict() == {"name": "Mine", "url": f"{served.url}/"}


# Without await


def test_completion_streams_tokens(served: Emulator) -> None:
    assert list(H2o.create_completion(None, MESSAGES, True, temperature=0.1)) == TOKENS
    assert body(served)["parameters"] == {**DEFAULTS, "temperature": 0.1}


def test_completion_without_streaming() -> None:
    assert "".join(H2o.create_completion("", MESSAGES, stream=False)) == "".join(TOKENS)


@pytest.mark.anyio
async def test_completion_works_in_an_event_loop() -> None:
    assert list(H2o.create_completion(None, MESSAGES)) == TOKENS


def test_closing_a_completion_stops_the_answer(served: Emulator) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, hold_after=1))
    with closing(H2o.create_completion(None, MESSAGES)) as tokens:
        assert next(tokens) == TOKENS[0]
    check_stopped(served)
    assert list(tokens) == []


def test_dropping_a_completion_stops_the_answer(served: Emulator) -> None:
    served.clear()
    served.reply(Answer(tokens=TOKENS, hold_after=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for token in H2o.create_completion(None, MESSAGES):
            assert token == TOKENS[0]
            break
        check_warned(caught)
    check_cleaned_up(served)


def test_failed_completion_raises(served: Emulator) -> None:
    served.fail(status=403)
    with pytest.raises(ForbiddenError):
        list(H2o.create_completion(None, MESSAGES))
    served.clear()


# Attributes and signatures of the old class


def test_attributes_match_the_old_provider() -> None:
    assert H2o.url == "https://gpt-gm.h2o.ai"
    assert H2o.model == "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
    assert H2o.supports_stream is True
    assert (H2o.working, H2o.needs_auth) == (True, False)
    assert (H2o.supports_gpt_35_turbo, H2o.supports_gpt_4) == (False, False)
    assert H2o.supports_message_history is False


def test_params_match_the_old_provider() -> None:
    class Mine(H2o):
        pass

    assert H2o.params == (
        "g4f.provider.H2o supports: (model: str, messages: list[dict[str, str]], stream: bool, "
        "temperature: float, truncate: int, max_new_tokens: int, do_sample: bool, "
        "repetition_penalty: float, return_full_text: bool)"
    )
    assert Mine.params.startswith("g4f.provider.Mine supports: ")


def test_signatures_match_the_old_provider() -> None:
    for method, names in (
        (H2o.create_async_generator, ["model", "messages", "proxy", "kwargs"]),
        (H2o.create_async, ["model", "messages", "proxy", "kwargs"]),
        (H2o.create_completion, ["model", "messages", "stream", "proxy", "kwargs"]),
    ):
        assert list(inspect.signature(method).parameters) == names


def test_results_are_not_generators() -> None:
    for kind in (AsyncResult, CreateResult):
        for _name, function in inspect.getmembers(kind, inspect.isfunction):
            assert not inspect.isgeneratorfunction(function)
            assert not inspect.isasyncgenfunction(function)


@pytest.mark.parametrize(
    ("messages", "special", "prompt"),
    [
        (MESSAGES, False, "Hello!"),
        (MESSAGES, True, "User: Hello!\nAssistant:"),
        (
            [*MESSAGES, {"role": "assistant", "content": "Hi"}],
            False,
            "User: Hello!\nAssistant: Hi\nAssistant:",
        ),
    ],
)
def test_format_prompt_matches_the_old_provider(
    messages: Messages, special: bool, prompt: str
) -> None:
    assert format_prompt(messages, special) == prompt
    assert format_prompt(messages, add_special_tokens=special) == prompt


@pytest.mark.anyio
async def test_restarted_answer_is_not_duplicated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    revised = Answer([" a", " b"], ending="cut", again=Answer([" a", " b", " c"]))
    with Emulator(dialect="chat-ui-2025") as server:
        server.reply(revised, revised, revised)
        monkeypatch.setattr(H2o, "url", server.url)
        monkeypatch.setattr(H2o, "model", DEFAULT_MODEL)
        assert await H2o.create_async("", MESSAGES) == " a b c"
        with pytest.raises(GenerationError) as caught:
            _ = [token async for token in H2o.create_async_generator("", MESSAGES)]
        assert caught.value.partial == " a b c"
        with pytest.raises(GenerationError):
            await anyio.to_thread.run_sync(lambda: list(H2o.create_completion("", MESSAGES)))
        assert server.conversations == []
