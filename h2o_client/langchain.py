# pyright: reportMissingImports=false
"""A chat model for LangChain: `ChatH2o`. It needs the extra `langchain`.

    from h2o_client.langchain import ChatH2o

    for chunk in ChatH2o(temperature=0.2).stream("Why is the sky blue?"):
        print(chunk.content, end="")

The servers do not support tools, structured output, images or token counts.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.language_models.chat_models import (
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils import from_env
from pydantic import Field

from h2o_client import AsyncChatStream, AsyncH2oClient, ChatStream, H2oClient, Reply
from h2o_client.plugins import check_revised, server_url

PROVIDER = "h2o_chat"
ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
}


class ChatH2o(BaseChatModel):
    """A chat-ui server as a chat model.

    Each call gets its own conversation, which is deleted afterwards. An incomplete answer raises an
    `H2oError`, with the text that had arrived in its `partial`. A call may set another `model`, and
    any generation option: `model.invoke("…", seed=7)`.
    """

    base_url: str | None = Field(default_factory=from_env("H2O_CHAT_URL", default=None), repr=False)
    """The server's URL, which may contain user:password; None for the hosted service."""
    model: str | None = Field(default_factory=from_env("H2O_CHAT_MODEL", default=None))
    """The model; None for the server's default."""
    temperature: float | None = None
    """Randomness; 0 always chooses the likeliest token."""
    max_tokens: int | None = None
    """The maximum length of the answer, in tokens."""
    stop: list[str] | None = None
    """Texts that end the answer, on every kind of server; the answer does not include them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More generation options, by the names of `GenerationOptions`."""
    timeout: float | None = None
    """The longest wait for the server, in seconds; None for the client's default time limits."""
    max_retries: int | None = None
    """How often a request that is safe to repeat is retried; None for the client's default."""
    streaming: bool = False
    """Whether `invoke()` streams, so that callbacks get the tokens."""
    client: H2oClient | None = Field(default=None, exclude=True, repr=False)
    """A client to use, which stays open; None to make one for each call."""
    async_client: AsyncH2oClient | None = Field(default=None, exclude=True, repr=False)
    """The same for the async methods."""

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "base_url": server_url(self.base_url),
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "options": self.options,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = kwargs.get("model") or self.model or "default"
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if stop or self.stop:
            return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))
        with self._sync() as client:
            return _result(client.chat(**self._call(messages, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if stop or self.stop:
            return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))
        async with self._async() as client:
            return _result(await client.chat(**self._call(messages, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        cutter = _Cutter(stop or self.stop)
        call = self._call(messages, kwargs)
        with self._sync() as client, client.stream(**call) as stream:
            for text in stream:
                if said := cutter.feed(text):
                    chunk = ChatGenerationChunk(message=AIMessageChunk(content=said))
                    if run_manager is not None:
                        run_manager.on_llm_new_token(said, chunk=chunk)
                    yield chunk
                if cutter.cut:
                    break
            chunk = _last(cutter, stream)
        if run_manager is not None:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        cutter = _Cutter(stop or self.stop)
        call = self._call(messages, kwargs)
        async with self._async() as client, client.stream(**call) as stream:
            async for text in stream:
                if said := cutter.feed(text):
                    chunk = ChatGenerationChunk(message=AIMessageChunk(content=said))
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(said, chunk=chunk)
                    yield chunk
                if cutter.cut:
                    break
            chunk = _last(cutter, stream)
        if run_manager is not None:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _sync(self) -> AbstractContextManager[H2oClient]:
        return H2oClient(**self._connection()) if self.client is None else nullcontext(self.client)

    def _async(self) -> AbstractAsyncContextManager[AsyncH2oClient]:
        client = self.async_client
        return AsyncH2oClient(**self._connection()) if client is None else nullcontext(client)

    def _connection(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "timeouts": self.timeout,
            "retries": self.max_retries,
        }

    def _call(self, messages: Sequence[BaseMessage], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `stream()`."""
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens, **self.options}
        given |= kwargs
        model, limit = given.pop("model", None), given.pop("max_tokens", None)
        given.pop("stream", None)  # LangChain has decided whether to stream
        if limit is not None:
            given["max_new_tokens"] = limit
        if given["temperature"] == 0:  # model servers reject it
            given |= {"temperature": None, "do_sample": False}
        return {"messages": [_message(item) for item in messages], "model": model or self.model} | {
            name: value for name, value in given.items() if value is not None
        }


class _Cutter:
    """Cuts an answer before the first stop text, and removes the space at its beginning.

    Attributes:
        cut: whether a stop text was found.
        rest: the end of the text so far, if it may be the beginning of a stop text.
    """

    def __init__(self, stops: Sequence[str] | None) -> None:
        self.cut = False
        self.rest = ""
        self._stops = [text for text in stops or () if text]
        self._begun = False

    def feed(self, text: str) -> str:
        """Return the text that is certainly part of the answer."""
        if not self._begun:
            text, self._begun = text.removeprefix(" "), True
        text = self.rest + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.cut, self.rest = True, ""
            return text[: min(found)]
        ends = (
            size
            for stop in self._stops
            for size in range(1, len(stop))
            if text.endswith(stop[:size])
        )
        kept = len(text) - max(ends, default=0)
        self.rest = text[kept:]
        return text[:kept]


def _message(message: BaseMessage) -> dict[str, str]:
    """Convert a message for `chat()`.

    Raises:
        ValueError: it belongs to a tool, or contains anything but text.
    """
    roles = (role for kind, role in ROLES.items() if isinstance(message, kind))
    role = message.role if isinstance(message, ChatMessage) else next(roles, None)
    if role is None or getattr(message, "tool_calls", None):
        raise ValueError(f"tools are not supported: cannot send this {message.type} message")
    content = message.content
    if not isinstance(content, str):
        for block in content:
            if not isinstance(block, str) and block.get("type") != "text":
                raise ValueError(f"only text blocks are supported, not {block.get('type')!r}")
    return {"role": role, "content": str(message.text)}


def _metadata(reply: Reply) -> dict[str, Any]:
    return {
        "model_provider": PROVIDER,
        "model_name": reply.model,
        "finish_reason": reply.finish_reason,
        "recovered": reply.recovered,
    }


def _result(reply: Reply) -> ChatResult:
    message = AIMessage(reply.text.removeprefix(" "), response_metadata=_metadata(reply))
    return ChatResult(generations=[ChatGeneration(message=message)])


def _last(cutter: _Cutter, stream: ChatStream | AsyncChatStream) -> ChatGenerationChunk:
    """Return the last chunk, which says how the answer ended."""
    if cutter.cut:
        metadata = {"model_provider": PROVIDER, "finish_reason": "stop_sequence"}
    else:
        check_revised(stream.reply)
        metadata = _metadata(stream.reply)
    message = AIMessageChunk(content=cutter.rest, response_metadata=metadata, chunk_position="last")
    return ChatGenerationChunk(message=message)
