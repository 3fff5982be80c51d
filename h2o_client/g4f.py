"""A drop-in replacement for `g4f.Provider.H2o`, gpt4free's provider for this service in 2023.

Code written for it only needs a different import:

    from h2o_client.g4f import H2o

    async for token in H2o.create_async_generator(None, [{"role": "user", "content": "Hello!"}]):
        print(token, end="")

Names, arguments, defaults and tokens are the same. Four things differ: every failed request raises
an `H2oError`, while some used to return an empty answer; a role other than user, assistant and
system raises `ValueError`; the conversation is deleted even if the answer is not read to its end;
and it also runs on trio. In new code use `H2oClient` or `AsyncH2oClient`, which reuse their session
and connections across calls.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from h2o_client import (
    DEFAULT_BASE_URL,
    DEFAULT_MODEL,
    AsyncChatStream,
    AsyncH2oClient,
    ChatStream,
    GenerationError,
    H2oClient,
    build_prompt,
)
from h2o_client.plugins import REVISED, check_revised

__all__ = ["AsyncResult", "CreateResult", "H2o", "Messages", "format_prompt"]

Messages: TypeAlias = list[dict[str, str]]

# The old base class and its callers passed these to every provider. They were never generation
# parameters, and some are secrets for other services, so they are not sent.
_IGNORED = frozenset({"api_key", "auth", "cookies", "executor", "loop", "stream", "timeout"})


def format_prompt(messages: Sequence[Mapping[str, str]], add_special_tokens: bool = False) -> str:
    """Flatten messages into one prompt, in the form that the service expects.

    Args:
        messages: mappings with `role` and `content`.
        add_special_tokens: whether to flatten a single message too, instead of returning its
            content unchanged.

    Returns:
        `Role: content` lines with `Assistant:` at the end, or the content of the only message.

    Raises:
        TypeError: an item is not a message.
        ValueError: `messages` is empty, a role is unknown, or the prompt is blank.
    """
    if add_special_tokens and len(messages) == 1:
        return f"{messages[0]['role'].capitalize()}: {messages[0]['content']}\nAssistant:"
    return build_prompt(messages)


class _Call(NamedTuple):
    """The arguments of a call, for the client and for its stream."""

    client: dict[str, Any]
    messages: Sequence[Mapping[str, Any]]
    parameters: dict[str, Any]


class AsyncResult:
    """The tokens of an answer, returned by `H2o.create_async_generator()`.

    Use it as an async generator, awaited first or not: iterate it with `async for`, and call
    `aclose()` if you do not read it to its end (`contextlib.aclosing()`). If it is
    garbage-collected instead, it is cleaned up in the background. Nothing is sent until the first
    token is requested.
    """

    _client: AsyncH2oClient | None = None
    _stream: AsyncChatStream
    _closed = False

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._itself().__await__()

    async def __anext__(self) -> str:
        """Return the next token, verbatim: the first one usually begins with a space.

        Raises:
            StopAsyncIteration: the answer is complete, or the iterator was closed.
            H2oError: a request failed, or the answer is incomplete.
            TypeError: an argument has the wrong type.
            ValueError: an argument is not valid: no messages, or a blank prompt.
            RuntimeError: another task is reading.
        """
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._client is None:
                options, messages, parameters = self._call
                self._client = AsyncH2oClient(**options)
                self._stream = self._client.stream(messages, parameters=parameters)
            return await anext(self._stream)
        except RuntimeError:
            raise
        except StopAsyncIteration:
            await self.aclose()
            check_revised(self._stream.reply)
            raise
        except BaseException:  # cancellation too: a generator would end here
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop the answer and delete its conversation. Calling it again does nothing."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _itself(self) -> Self:
        return self


class CreateResult:
    """`AsyncResult` without `await`, returned by `H2o.create_completion()`.

    Use it as a generator. If it is garbage-collected, it is cleaned up in the background.
    """

    _client: H2oClient | None = None
    _stream: ChatStream
    _closed = False

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Return the next token; raises the errors of `AsyncResult`, or `StopIteration`."""
        if self._closed:
            raise StopIteration
        try:
            if self._client is None:
                options, messages, parameters = self._call
                self._client = H2oClient(**options)
                self._stream = self._client.stream(messages, parameters=parameters)
            return next(self._stream)
        except RuntimeError:
            raise
        except StopIteration:
            self.close()
            check_revised(self._stream.reply)
            raise
        except BaseException:  # Ctrl-C too: a generator would end here
            self.close()
            raise

    def close(self) -> None:
        """Stop the answer and delete its conversation. Calling it again does nothing."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()


class _Params:
    """`H2o.params`: a string on the class, like `classmethod` with `property` before 3.13."""

    def __get__(self, instance: object, owner: type) -> str:
        return (
            f"g4f.provider.{owner.__name__} supports: (model: str, "
            "messages: list[dict[str, str]], stream: bool, temperature: float, truncate: int, "
            "max_new_tokens: int, do_sample: bool, repetition_penalty: float, "
            "return_full_text: bool)"
        )


class H2o:
    """The old provider. Its methods are class methods; do not instantiate it.

    Attributes:
        url: the URL of the service. A subclass may set another one. The environment's
            `H2O_CHAT_URL` overrides the default, which is the hosted service.
        model: the model of calls that do not name one; `H2O_CHAT_MODEL` overrides the default.
        params: a string that lists the parameters.
    """

    url: ClassVar[str] = DEFAULT_BASE_URL
    model: ClassVar[str] = DEFAULT_MODEL
    working: ClassVar[bool] = True
    needs_auth: ClassVar[bool] = False
    supports_stream: ClassVar[bool] = True
    supports_gpt_35_turbo: ClassVar[bool] = False
    supports_gpt_4: ClassVar[bool] = False
    supports_message_history: ClassVar[bool] = False
    params: ClassVar[_Params] = _Params()

    @classmethod
    def create_async_generator(
        cls,
        model: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        proxy: str | None = None,
        **kwargs: Any,
    ) -> AsyncResult:
        """Send a prompt, and return the tokens of the answer as they arrive.

        Args:
            model: the model; None or "" for the class's.
            messages: mappings with `role` and `content`.
            proxy: URL of a proxy.
            **kwargs: generation parameters, passed on unchanged. `timeout` is the longest wait for
                the server, in seconds. Arguments that the old base class passed to all providers
                (`stream`, `loop`, `executor`, `auth`, `cookies`, `api_key`) are ignored.

        Returns:
            The tokens. Iterate them with `async for`; awaiting them first is optional.

        Raises:
            TypeError: `messages` is missing. Other errors are raised by the iteration.
        """
        return AsyncResult(cls._call(model, messages, proxy, kwargs))

    @classmethod
    async def create_async(
        cls,
        model: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        proxy: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Send a prompt, and wait for the whole answer.

        Takes the arguments of `create_async_generator()`.

        Returns:
            The tokens, joined.

        Raises:
            H2oError: a request failed, or the answer is incomplete.
            TypeError: an argument has the wrong type.
            ValueError: an argument is not valid: no messages, or a blank prompt.
        """
        tokens = cls.create_async_generator(model, messages, proxy=proxy, **kwargs)
        try:
            return "".join([token async for token in tokens])
        except GenerationError as error:
            if error.error_type != REVISED:
                raise
            return error.partial

    @classmethod
    def create_completion(
        cls,
        model: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        stream: bool = True,  # noqa: ARG003 -- the old third argument
        proxy: str | None = None,
        **kwargs: Any,
    ) -> CreateResult:
        """Send a prompt without `await`, and return the tokens of the answer as they arrive.

        Takes the arguments of `create_async_generator()`; `stream` is ignored.

        Returns:
            The tokens. Iterate them with `for`.

        Raises:
            TypeError: `messages` is missing. Other errors are raised by the iteration.
        """
        return CreateResult(cls._call(model, messages, proxy, kwargs))

    @classmethod
    def get_dict(cls) -> dict[str, str]:
        """Return the name and the URL, as gpt4free's base class did for its provider lists."""
        return {"name": cls.__name__, "url": cls.url}

    @classmethod
    def _call(
        cls,
        model: str | None,
        messages: Sequence[Mapping[str, Any]] | None,
        proxy: str | None,
        kwargs: Mapping[str, Any],
    ) -> _Call:
        if messages is None:
            raise TypeError("messages are missing: pass messages=[{'role': …, 'content': …}]")
        client = {
            # None makes the client read the environment.
            "base_url": None if cls.url == DEFAULT_BASE_URL else cls.url,
            "model": model or (None if cls.model == DEFAULT_MODEL else cls.model),
            "proxy": proxy or None,
            "timeouts": kwargs.get("timeout") or None,
        }
        parameters = {name: value for name, value in kwargs.items() if name not in _IGNORED}
        return _Call(client, messages, parameters)
