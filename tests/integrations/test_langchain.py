# pyright: reportMissingImports=false
"""`ChatH2o`: LangChain's own test suites on each kind of server, and tests of what they omit."""

import asyncio
import json
from typing import Any, ClassVar, cast

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from h2o_client import AsyncH2oClient, GenerationError, H2oClient, H2oError, UnsupportedError
from h2o_client.emulator import Answer, Emulator
from h2o_client.langchain import ChatH2o

CUT = Answer(" Half an", ending="error", error="boom", again=Answer(ending="cut"))
OTHER = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"


class TestUnit(ChatModelUnitTests):
    unsupported: ClassVar[set[str]] = {
        "test_bind_tool_pydantic",
        "test_serdes",
        "test_with_structured_output",
    }

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatH2o

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:1"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {"H2O_CHAT_URL": "http://127.0.0.1:9", "H2O_CHAT_MODEL": "m"}
        return environment, {}, {"base_url": "http://127.0.0.1:9", "model": "m"}


class TestIntegration(ChatModelIntegrationTests):
    unsupported: ClassVar[set[str]] = {
        "test_agent_loop",
        "test_anthropic_inputs",
        "test_audio_inputs",
        "test_bind_runnables_as_tools",
        "test_image_inputs",
        "test_image_tool_message",
        "test_json_mode",
        "test_pdf_inputs",
        "test_pdf_tool_message",
        "test_stream_time",
        "test_structured_few_shot_examples",
        "test_structured_output",
        "test_structured_output_async",
        "test_structured_output_optional_param",
        "test_structured_output_pydantic_2_v1",
        "test_tool_calling",
        "test_tool_calling_async",
        "test_tool_calling_with_no_arguments",
        "test_tool_choice",
        "test_tool_message_error_status",
        "test_tool_message_histories_list_content",
        "test_tool_message_histories_string_content",
        "test_unicode_tool_call_integration",
        "test_usage_metadata",
        "test_usage_metadata_streaming",
    }

    @pytest.fixture(autouse=True)
    def served(self, server: Emulator) -> None:
        self.server = server

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatH2o

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": self.server.url}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        """Parameters that the suite passes to each model; 2025 servers accept none of ours."""
        params = super().standard_chat_model_params
        rejected = {"temperature", "max_tokens"} if self.server.dialect == "chat-ui-2025" else ()
        return {name: value for name, value in params.items() if name not in rejected}

    @property
    def returns_usage_metadata(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return False

    @property
    def supports_image_inputs(self) -> bool:
        return False

    @property
    def model_override_value(self) -> str:
        return OTHER


class Tokens(BaseCallbackHandler):
    """Records the calls of a callback."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.errors: list[BaseException] = []

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)


def test_invoke_returns_an_answer(server: Emulator) -> None:
    server.reply(" Hello, you")
    answer = ChatH2o().invoke("Hi")
    assert answer.text == "Hello, you"
    known = "eos_token" if server.dialect == "chat-ui-2023" else None
    assert answer.response_metadata["finish_reason"] == known
    assert answer.response_metadata["model_name"].startswith("h2oai/")


def test_history_is_sent(server: Emulator) -> None:
    messages: list[Any] = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "a"}]),
        AIMessage("b"),
        ChatMessage(content="c", role="user"),
    ]
    ChatH2o().invoke(messages)
    flat = "User: a\nAssistant: b\nUser: c\nAssistant:"
    (asked,) = [request for request in server.requests if request.kind == "message"]
    if server.dialect == "chat-ui-2023":
        assert asked.json()["inputs"] == f"System: Be brief.\n{flat}"
    else:
        assert json.loads(asked.parts()[0].value)["inputs"] == flat
        (created,) = [request for request in server.requests if request.kind == "create"]
        assert created.json()["preprompt"] == "Be brief."


@pytest.mark.parametrize(
    "message",
    [
        ToolMessage("x", tool_call_id="1"),
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
        HumanMessage([{"type": "image", "url": "http://x/y.png"}]),
    ],
)
def test_unsupported_messages_are_rejected(server: Emulator, message: BaseMessage) -> None:
    with pytest.raises(ValueError, match=r"tools|only text"):
        ChatH2o().invoke([HumanMessage("a"), message, HumanMessage("b")])
    assert [request for request in server.requests if request.kind == "message"] == []


async def test_langchain_raises_for_a_cut_answer(server: Emulator) -> None:
    model = ChatH2o(max_retries=0)
    server.reply(*[CUT] * 6)
    handler = Tokens()
    with pytest.raises(H2oError) as caught:
        model.invoke("Hi", config={"callbacks": [handler]})
    assert caught.value.partial.strip().startswith("Half an")
    assert handler.errors == [caught.value]
    with pytest.raises(H2oError):
        await model.ainvoke("Hi")
    with pytest.raises(H2oError):
        list(model.stream("Hi"))
    with pytest.raises(H2oError):
        _ = [chunk async for chunk in model.astream("Hi")]
    with pytest.raises(H2oError):
        model.invoke("Hi", stop=["never"])
    with pytest.raises(H2oError):
        await model.ainvoke("Hi", stop=["never"])


async def test_callbacks_receive_tokens_and_errors(server: Emulator) -> None:
    model = ChatH2o(streaming=True)
    for use in ("invoke", "ainvoke", "stream", "astream"):
        server.reply(" Hello, you")
        handler = Tokens()
        config: Any = {"callbacks": [handler]}
        match use:
            case "invoke":
                model.invoke("Hi", config=config)
            case "ainvoke":
                await model.ainvoke("Hi", config=config)
            case "stream":
                list(model.stream("Hi", config=config))
            case _:
                _ = [chunk async for chunk in model.astream("Hi", config=config)]
        assert handler.tokens == ["Hello,", " you", ""], use


async def test_stop_text_ends_the_answer(server: Emulator) -> None:
    """Stops the answer even on servers without that parameter."""
    for use in ("invoke", "ainvoke", "stream", "astream"):
        server.reply(Answer([" one", " two", "\nSt", "ill", "\nSto", "p", " no"], hold_after=6))
        model = ChatH2o(stop=["\nStop", "never"])
        match use:
            case "invoke":
                answer = model.invoke("Hi")
            case "ainvoke":
                answer = await model.ainvoke("Hi")
            case "stream":
                answer = sum_of(list(model.stream("Hi")))
            case _:
                answer = sum_of([chunk async for chunk in model.astream("Hi")])
        assert answer.text == "one two\nStill", use
        assert answer.response_metadata["finish_reason"] == "stop_sequence"
        server.wait_idle()
        assert server.conversations == []
    assert server.stops == 4
    server.reply(" ends with St")
    assert ChatH2o().invoke("Hi", stop=["Stop"]).text == "ends with St"


def sum_of(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    first, *rest = chunks
    return add_ai_message_chunks(first, *rest)


async def test_leaving_a_langchain_stream_stops_the_answer(server: Emulator) -> None:
    server.reply(*[Answer(" one two", hold_after=1)] * 2)
    stream = ChatH2o().stream("Hi")
    assert next(stream).text == "one"
    cast("Any", stream).close()
    server.wait_idle()
    assert (server.stops, server.conversations) == (1, [])
    async_stream = ChatH2o().astream("Hi")
    assert (await anext(async_stream)).text == "one"
    await cast("Any", async_stream).aclose()
    await asyncio.to_thread(server.wait_idle)  # LangChain leaves the closing to the event loop
    assert (server.stops, server.conversations) == (2, [])


def test_langchain_options_are_sent(server: Emulator) -> None:
    model = ChatH2o(temperature=0, max_tokens=7, options={"top_k": 3})
    if server.dialect == "chat-ui-2025":
        with pytest.raises(UnsupportedError, match="parameters"):
            model.invoke("Hi")
        return
    model.invoke("Hi", seed=5)
    (asked,) = [request for request in server.requests if request.kind == "message"]
    sent = {"max_new_tokens": 7, "top_k": 3, "seed": 5, "do_sample": False}
    assert asked.json()["parameters"].items() >= sent.items()
    with pytest.raises(TypeError, match="temprature"):
        model.invoke("Hi", temprature=1)


async def test_custom_clients_are_used(server: Emulator) -> None:
    with H2oClient() as client:
        model = ChatH2o(client=client)
        model.invoke("Hi")
        list(model.stream("Hi"))
        client.chat("Hi")
    async with AsyncH2oClient() as async_client:
        model = ChatH2o(async_client=async_client)
        await model.ainvoke("Hi")
        await async_client.chat("Hi")
    settings = [request for request in server.requests if request.kind == "settings"]
    assert len(settings) == 2  # one session per client


def test_langchain_shows_no_password(server: Emulator) -> None:
    model = ChatH2o(base_url=server.url.replace("//", "//me:sEcret@"))
    assert model.invoke("Hi").text
    assert "sEcret" not in repr(model) + str(model) + json.dumps(model.asdict(), default=str)


def test_langchain_raises_for_a_restarted_answer(server: Emulator) -> None:
    if server.dialect == "chat-ui-2023":
        return
    again = Answer(" Half an", ending="cut", again=" Whole")
    server.reply(*[again] * 2)
    assert ChatH2o().invoke("Hi").text == "Whole"
    with pytest.raises(GenerationError, match="restarted the answer"):
        list(ChatH2o().stream("Hi"))
