"""A drop-in for `g4f.Provider.H2o`, the provider of this service that gpt4free had in 2023.

Code that was written for it goes on with another import::

    from h2o_client.g4f import H2o

    async for token in H2o.create_async_generator(None, [{"role": "user", "content": "Hello!"}]):
        print(token, end="")

Names, arguments, defaults and the tokens are the old ones. What is different: a request that
fails raises an `H2oError`, where some answered with nothing; the conversation is deleted also
when the answer is broken off; and it runs on trio too. New code is better off with `H2oClient`
and `AsyncH2oClient`, which keep their session and connections from one call to the next.
"""

import asyncio
import contextlib
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

from h2o_client import (
    DEFAULT_BASE_URL,
    DEFAULT_MODEL,
    AsyncChatStream,
    AsyncH2oClient,
    ChatStream,
    H2oClient,
)

__all__ = ["AsyncResult", "CreateResult", "H2o", "Messages", "format_prompt"]

Messages: TypeAlias = list[dict[str, str]]

# The old base classes and their callers passed these to every provider. They never were
# generation parameters, and some are secrets of other services: none is sent.
_OF_THE_OLD_BASE = frozenset({"api_key", "auth", "cookies", "executor", "loop", "stream"})

# asyncio itself holds its tasks weakly.
_closing: set[asyncio.Task[None]] = set()


def format_prompt(messages: Sequence[Mapping[str, str]], add_special_tokens: bool = False) -> str:
    """Flatten messages into one prompt, as the service's requests have it.

    Args:
        messages: mappings with `role` and `content`.
        add_special_tokens: flatten a single message too, instead of taking it as it is.

    Returns:
        `Role: content` lines with `Assistant:` at the end, or the content of the only message.

    Raises:
        IndexError: there is no message.
    """
    if not add_special_tokens and len(messages) <= 1:
        return messages[0]["content"]
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: what its client is made with, and what is asked of it."""

    client: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]


class AsyncResult:
    """The tokens of an answer. Made by `H2o.create_async_generator()`.

    It is what an async generator is to its reader: `async for` it, with `await` before it or
    without, and `aclose()` it if it is not read to its end (`contextlib.aclosing()`). One that is
    dropped instead is closed on asyncio, not on trio, as there is nobody left to wait for that.
    Nothing happens before the first token is asked for.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._client: AsyncH2oClient | None = None
        self._stream: AsyncChatStream | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading = False
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._itself().__await__()

    async def __anext__(self) -> str:
        """Return the next token, verbatim: the first one usually begins with a space.

        Raises:
            StopAsyncIteration: the answer is whole, or the iteration was closed.
            H2oError: a request failed, or the answer broke off.
            TypeError: an argument is of the wrong type.
            ValueError: an argument cannot be sent: no messages, a blank prompt.
            RuntimeError: another task is reading.
        """
        if self._closed:
            raise StopAsyncIteration
        if self._reading:
            raise RuntimeError("another task is reading this answer")
        self._reading = True
        try:
            return await anext(self._opened())
        except BaseException:  # a cancellation too: as a generator, it has ended then
            await self.aclose()
            raise
        finally:
            self._reading = False

    def __del__(self) -> None:
        if self._client is not None and self._loop is not None and self._loop is _running_loop():
            # As asyncio does for its generators; the stream itself gives a warning.
            task = self._loop.create_task(_close(self._client))
            _closing.add(task)
            task.add_done_callback(_closing.discard)

    async def aclose(self) -> None:
        """Leave the answer: the server is told to stop and delete. May be called twice."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _itself(self) -> Self:
        return self

    def _opened(self) -> AsyncChatStream:
        if self._stream is None:
            call = self._call
            self._loop = _running_loop()
            self._client = AsyncH2oClient(**call.client)
            self._stream = self._client.stream(call.messages, parameters=call.parameters)
        return self._stream


async def _close(client: AsyncH2oClient) -> None:
    # At its end `asyncio.run()` cancels the tasks that are left, and waits for them.
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    await client.aclose()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    with contextlib.suppress(RuntimeError):  # it is trio's, or there is none
        return asyncio.get_running_loop()
    return None


class CreateResult:
    """The twin of `AsyncResult` without `await`. Made by `H2o.create_completion()`.

    It is what a generator is to its reader, also where it is dropped: that closes it.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._client: H2oClient | None = None
        self._stream: ChatStream | None = None
        self._reading = False
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """The twin of `AsyncResult.__anext__()`; the end is `StopIteration`."""
        if self._closed:
            raise StopIteration
        if self._reading:
            raise RuntimeError("another thread is reading this answer")
        self._reading = True
        try:
            return next(self._opened())
        except BaseException:  # Ctrl-C too: as a generator, it has ended then
            self.close()
            raise
        finally:
            self._reading = False

    def __del__(self) -> None:
        if self._client is not None:
            warnings.warn(
                f"{type(self).__name__} was not closed: use contextlib.closing()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
            self.close()

    def close(self) -> None:
        """The twin of `AsyncResult.aclose()`."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> ChatStream:
        if self._stream is None:
            call = self._call
            self._client = H2oClient(**call.client)
            self._stream = self._client.stream(call.messages, parameters=call.parameters)
        return self._stream


class _Params:
    """`H2o.params`: a text of the class, as `classmethod` over `property` was until Python 3.12."""

    def __get__(self, instance: object, owner: type) -> str:
        return (
            f"g4f.provider.{owner.__name__} supports: (model: str, "
            "messages: list[dict[str, str]], stream: bool, temperature: float, truncate: int, "
            "max_new_tokens: int, do_sample: bool, repetition_penalty: float, "
            "return_full_text: bool)"
        )


class H2o:
    """The old provider. Its methods are of the class; there is nothing to make an object for.

    Attributes:
        url: where the service is. A subclass may have another one; while it is the hosted
            service's, the environment's `H2O_CHAT_URL` goes before it.
        model: the model of calls that name none; `H2O_CHAT_MODEL` goes before it likewise.
        params: a text that names the parameters.
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
        """Ask, and get the tokens of the answer as they arrive.

        Args:
            model: the model; None or "" for the class's.
            messages: mappings with `role` and `content`.
            proxy: URL of a proxy.
            **kwargs: generation parameters, passed on as given. `timeout` bounds every silence,
                in seconds. What the old base class passed to all providers (`stream`, `loop`,
                `executor`, `auth`, `cookies`, `api_key`) is left out.

        Returns:
            The tokens, to be iterated with `async for`, awaited before that or not.

        Raises:
            TypeError: there are no messages. Other errors are raised by the iteration.
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
        """Ask, and wait for the whole answer. The arguments are `create_async_generator()`'s.

        Returns:
            The tokens, joined.

        Raises:
            H2oError: a request failed, or the answer broke off.
            TypeError: an argument is of the wrong type.
            ValueError: an argument cannot be sent: no messages, a blank prompt.
        """
        tokens = cls.create_async_generator(model, messages, proxy=proxy, **kwargs)
        return "".join([token async for token in tokens])

    @classmethod
    def create_completion(
        cls,
        model: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        stream: bool = True,  # noqa: ARG003 -- it was the third
        proxy: str | None = None,
        **kwargs: Any,
    ) -> CreateResult:
        """Ask without `await`, and get the tokens of the answer as they arrive.

        Args:
            model: as for `create_async_generator()`.
            messages: as for `create_async_generator()`.
            stream: makes no difference, as it made none.
            proxy: as for `create_async_generator()`.
            **kwargs: as for `create_async_generator()`.

        Returns:
            The tokens, to be iterated with `for`.

        Raises:
            TypeError: there are no messages. Other errors are raised by the iteration.
        """
        return CreateResult(cls._call(model, messages, proxy, kwargs))

    @classmethod
    def get_dict(cls) -> dict[str, str]:
        """Return the name and the URL, as gpt4free's base class did for its lists."""
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
            raise TypeError("there are no messages: give messages=[{'role': …, 'content': …}]")
        client = {
            # None is what lets the environment speak.
            "base_url": None if cls.url == DEFAULT_BASE_URL else cls.url,
            "model": model or (None if cls.model == DEFAULT_MODEL else cls.model),
            "proxy": proxy or None,
            "timeouts": kwargs.get("timeout") or None,
        }
        left_out = {*_OF_THE_OLD_BASE, "timeout"}
        parameters = {name: value for name, value in kwargs.items() if name not in left_out}
        return _Call(client, messages, parameters)
