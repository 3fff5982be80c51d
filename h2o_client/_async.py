"""The async shell: performs what the core asks through `httpx.AsyncClient`.

It runs on asyncio and trio alike, through anyio. The words about each class and method are those
of its twin in `_sync.py`; here stands what is different.

A cancellation is never thrown into a flow: the flow is closed where it stands, the response is
released and the server told, shielded from the cancellation and bounded in time. A native
cancellation of asyncio, `task.cancel()`, passes through every shield: it makes the clean-up begin
again. The creation of a conversation, which must not be done twice, runs in a task of its own, so
that its answer is waited for, the id known, and the conversation deleted.
"""

import warnings
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import anyio
import httpx

from h2o_client._async_player import AsyncPlayer
from h2o_client._http import (
    AMBIENT,
    LOOK,
    PROCESS,
    TRANSPORT_ERRORS,
    check_http_client,
    check_transport,
    logger,
    new_http,
    new_service,
    rebuild,
)
from h2o_client._registry import Registry
from h2o_client.errors import (
    H2oError,
    IncompleteStreamError,
)
from h2o_client.protocol import queries
from h2o_client.protocol.arrived import Arrived
from h2o_client.protocol.effects import (
    Flow,
    Stepper,
)
from h2o_client.protocol.flows import Chat, Operation
from h2o_client.protocol.retries import Retries
from h2o_client.protocol.service import Abandoned
from h2o_client.types import (
    Message,
    Messages,
    PromptPreview,
    Reply,
    Timeouts,
    Token,
    WebSearchEntry,
)

if TYPE_CHECKING:
    from h2o_client.batch import AsyncBatch, AsyncPrompts
    from h2o_client.protocol.talk import Ask, Talk
    from h2o_client.stored import ConversationInfo, Model, Settings, SharedConversation

T = TypeVar("T")
_TRIES = 3


INHERITED: list[object] = []
"""What is of another process or event loop, kept so that the garbage collector closes nothing."""


async def insist(call: Callable[[], Awaitable[None]]) -> None:
    """Await a clean-up that a cancellation does not interrupt.

    A native cancellation of asyncio passes through every shield, and interrupts a request on its
    way. The clean-up is then done again, for it tells the server only what it has not been told;
    after some such cancellations they have their way.
    """
    interrupted: BaseException | None = None
    for _ in range(_TRIES):
        try:
            with anyio.CancelScope(shield=True):
                await call()
        except anyio.get_cancelled_exc_class() as error:
            interrupted = error
        else:
            break
    if interrupted is not None:
        try:
            raise interrupted
        finally:
            interrupted = None  # its traceback holds this frame


class AsyncChatStream:
    """The twin of `ChatStream`. Made by `AsyncH2oClient.stream()`.

    One task reads; `stop()` and `aclose()` may be called from any task of the same event loop.
    """

    def __init__(self, client: "AsyncH2oClient", operation: Operation) -> None:
        self._client = client
        self._operation = operation
        self._player = AsyncPlayer(client)
        self._steps: Stepper[Reply] = Stepper(operation.run())
        self._permit = self._steps.permit
        self._arrived = Arrived()
        self._texts = self._arrived.texts
        self._begun = False
        self._closed = False
        self._enders: list[bool] = []  # stop() and close(), while they may do it for the reader
        self._left = anyio.Event()
        self._pid = PROCESS.id

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._begun else "new"
        return f"<{type(self).__name__} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """The twin of `ChatStream.__next__()`; the end is `StopAsyncIteration`."""
        texts = self._texts
        while not texts:
            if not await self._advance():
                raise StopAsyncIteration
        return texts.popleft()

    def __del__(self) -> None:
        # An argument that was refused in __init__ leaves nothing to look at.
        if getattr(self, "_begun", False) and not self._closed and not self._is_inherited():
            self._client._drop(self._operation, self._player)
            warnings.warn(
                f"{self!r} was not closed: use `async with`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    @property
    def text(self) -> str:
        """The twin of `ChatStream.text`."""
        return self._operation.text

    @property
    def reply(self) -> Reply:
        """The twin of `ChatStream.reply`."""
        if not self._steps.returned:
            raise RuntimeError("there is no reply: the stream was not read to its end")
        return self._steps.result

    @property
    def running(self) -> bool:
        """The twin of `ChatStream.running`."""
        return self._begun and not self._closed

    @property
    def ended(self) -> bool:
        """The twin of `ChatStream.ended`."""
        return self._closed

    def events(self) -> "AsyncTokenEvents":
        """The twin of `ChatStream.events()`."""
        return AsyncTokenEvents(self)

    async def read(self) -> Reply:
        """The twin of `ChatStream.read()`."""
        while await self._advance():
            self._texts.clear()
        return self.reply

    async def display(self) -> Reply:
        """The twin of `ChatStream.display()`."""
        from h2o_client import notebook

        return await notebook.display_async(self)

    async def stop(self) -> None:
        """The twin of `ChatStream.stop()`."""
        if self._closed or self._is_inherited():
            return
        self._player.halt()
        await AsyncPlayer(self._client, self._client._cleanup_deadline()).play(
            self._operation.stop()
        )
        if not await self._instead_of_reader(self._play_out) and not self._operation.done:
            self._player.interrupt()

    async def aclose(self) -> None:
        """The twin of `ChatStream.close()`."""
        await self._close(self._client._cleanup_deadline())

    def _is_inherited(self) -> bool:
        """Whether this process is a fork of the one that the stream belongs to."""
        if self._pid == PROCESS.id:
            return False
        INHERITED.append(self._player)
        return True

    def _tell_to_close(self) -> bool:
        """Make a reader that is at work leave; False: it cannot be reached where it is.

        Once nothing more comes of the answer, the reader is only cleaning up, and is left to it.
        """
        if self._operation.done or self._closed:
            return True
        self._player.closing = True
        return self._player.interrupt()

    async def _close(self, deadline: float) -> None:
        if self._is_inherited():
            self._closed = True
            self._left.set()
        told = False
        while not self._left.is_set():
            if await self._instead_of_reader(partial(self._leave, deadline)):
                return
            if not told and not self._tell_to_close():
                # The reader waits for a response: what is known can be told the server from here,
                # and its answer ends when it has stopped.
                await insist(lambda: self._client._abandon(self._operation, deadline))
            told = True
            left = deadline - AMBIENT.clock()
            if left <= 0:
                return
            with anyio.move_on_after(min(LOOK, left)):
                await self._left.wait()

    async def _instead_of_reader(self, end: Callable[[], Awaitable[None]]) -> bool:
        """End the stream where nobody reads it; False: somebody does."""
        self._enders.append(True)
        try:
            if not self._steps.take():
                return False
            try:
                if not self._closed:
                    await end()
            finally:
                self._steps.free()
        finally:
            self._enders.pop()
        return True

    async def _next_token(self) -> Token:
        while (token := self._arrived.token()) is None:
            if not await self._advance():
                raise StopAsyncIteration
        return token

    async def _advance(self) -> bool:
        """Read until something has come (True), or to the end (False)."""
        permit = self._permit
        try:
            mine = permit.pop()
        except IndexError:
            mine = False
        except BaseException:  # Ctrl-C, which Python looks for after the call
            permit.append(True)
            raise
        if not mine:
            return await self._wait_for_end()
        try:
            player = self._player
            reader = player.reader
            if reader is None or self._pid != PROCESS.id:
                return await self._play()
            # The way of nearly every token: whatever can stand elsewhere does.
            outcome: float | Exception = AMBIENT.clock()
            texts: Sequence[str] = ()
            try:
                texts = reader.read_on(await player.next())
            except StopAsyncIteration:
                reader.read_on(b"")
            except (H2oError, *TRANSPORT_ERRORS) as error:
                outcome = error
            except BaseException as error:
                await self._break_off(error)
                raise
            if texts and not player.closing:
                self._texts.extend(texts)
                return True
            try:
                return await self._play(outcome)
            finally:
                del outcome  # httpx's error, which holds the session
        finally:
            permit.append(True)

    async def _wait_for_end(self) -> bool:
        """Wait where another thread or task is ending the stream; two may not read it."""
        if not (self._enders or self._left.is_set()):
            raise self._steps.taken()
        with anyio.move_on_after(self._client._service.timeouts.cleanup):
            await self._left.wait()
        if self._steps.returned:
            return False
        if not (self._closed or self._player.closing):
            raise self._steps.taken()  # who meant to end it had come too late as well
        raise IncompleteStreamError("the stream was closed", partial=self.text)

    async def _play(self, outcome: float | Exception | None = None) -> bool:
        """Play until something has come (True), or to the end (False): see `Player.advance()`."""
        if self._closed:
            if self._steps.returned:
                return False
            raise RuntimeError("the stream is closed")
        if self._pid != PROCESS.id and self._is_inherited():
            raise RuntimeError("the stream belongs to the parent process")
        if not self._begun:
            await self._begin()
        try:
            emit = await self._player.advance(self._steps, outcome)
        except BaseException as error:
            await self._break_off(error)
            raise
        finally:
            del outcome  # httpx's error, which holds the session
        if emit is None:
            self._end()
            return False
        self._arrived.put(emit)
        return True

    async def _begin(self) -> None:
        """Tell the client that the first request comes now."""
        await self._client._begin(self)
        self._begun = True

    async def _play_out(self) -> None:
        """Play to the end; nobody waits for the tokens."""
        if not self._begun:
            await self._begin()
        try:
            while await self._player.advance(self._steps) is not None:
                pass
        except BaseException as error:
            await self._break_off(error)
            raise
        self._end()

    async def _break_off(self, error: BaseException) -> None:
        """Leave the stream, for this error; it is given what had arrived."""
        await self._leave(self._client._cleanup_deadline())
        if isinstance(error, H2oError) and not error.partial:
            error.partial = self.text

    def _end(self) -> None:
        """Note that the stream has come to its end."""
        self._closed = True
        self._forget()
        self._left.set()

    async def _leave(self, deadline: float) -> None:
        """Leave the flow where it stands, release the response, tell the server."""
        self._closed = True
        self._player.halt()
        self._forget()
        try:
            self._steps.close()
            await insist(lambda: self._clean_up(deadline))
        finally:
            self._left.set()

    def _forget(self) -> None:
        """Give nothing more out. A reader that is just taking what came next may have that."""
        self._arrived = Arrived()
        self._texts = self._arrived.texts

    async def _clean_up(self, deadline: float) -> None:
        try:
            await self._player.release()
        finally:
            if self._begun:
                await self._client._abandon(self._operation, deadline)


class AsyncTokenEvents:
    """The twin of `TokenEvents`. Made by `AsyncChatStream.events()`."""

    def __init__(self, stream: AsyncChatStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        """Return the next token; raises what the stream's own iteration raises."""
        return await self._stream._next_token()


class AsyncConversation:
    """The twin of `Conversation`. Made by `AsyncH2oClient.conversation()`.

    `stop()` and `aclose()` may be called from any task of the same event loop.
    """

    def __init__(self, client: "AsyncH2oClient", talk: "Talk") -> None:
        self._client = client
        self._talk = talk
        self._streams: Registry[AsyncChatStream] = Registry()
        self._closed = False
        self._pid = PROCESS.id

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self._talk.id or 'new'}{state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # An argument that was refused in __init__ leaves nothing to look at.
        if not getattr(self, "_closed", True) and self._is_to_be_deleted():
            self._client._drop(self._talk, None)
            warnings.warn(
                f"{self!r} was not closed: use `async with`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    @property
    def id(self) -> str | None:
        """The twin of `Conversation.id`."""
        return self._talk.id

    @property
    def title(self) -> str | None:
        """The twin of `Conversation.title`."""
        return self._talk.title

    @property
    def model(self) -> str:
        """The twin of `Conversation.model`."""
        return self._talk.model

    @property
    def messages(self) -> list[Message]:
        """The twin of `Conversation.messages`."""
        return list(self._talk.messages)

    async def send(
        self,
        message: str,
        *,
        temperature: float | None = None,
        truncate: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        repetition_penalty: float | None = None,
        return_full_text: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        web_search: bool = False,
        on_web_search: Callable[[WebSearchEntry], object] | None = None,
        **others: Any,
    ) -> Reply:
        """The twin of `Conversation.send()`."""
        async with self.stream(
            message,
            temperature=temperature,
            truncate=truncate,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            repetition_penalty=repetition_penalty,
            return_full_text=return_full_text,
            parameters=parameters,
            recover=recover,
            retries=retries,
            web_search=web_search,
            on_web_search=on_web_search,
            **others,
        ) as stream:
            return await stream.read()

    def stream(
        self,
        message: str,
        *,
        temperature: float | None = None,
        truncate: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        repetition_penalty: float | None = None,
        return_full_text: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        web_search: bool = False,
        on_web_search: Callable[[WebSearchEntry], object] | None = None,
        **others: Any,
    ) -> AsyncChatStream:
        """The twin of `Conversation.stream()`."""
        keywords = {
            "temperature": temperature,
            "truncate": truncate,
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample,
            "repetition_penalty": repetition_penalty,
            "return_full_text": return_full_text,
            **others,
        }
        return self._ask(
            self._talk.ask(
                message,
                recover=recover,
                retries=retries,
                parameters=parameters,
                keywords=keywords,
                web_search=web_search,
                on_web_search=on_web_search,
            )
        )

    async def retry(
        self,
        *,
        temperature: float | None = None,
        truncate: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        repetition_penalty: float | None = None,
        return_full_text: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **others: Any,
    ) -> Reply:
        """The twin of `Conversation.retry()`."""
        async with self.stream_retry(
            temperature=temperature,
            truncate=truncate,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            repetition_penalty=repetition_penalty,
            return_full_text=return_full_text,
            parameters=parameters,
            recover=recover,
            retries=retries,
            **others,
        ) as stream:
            return await stream.read()

    def stream_retry(
        self,
        *,
        temperature: float | None = None,
        truncate: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        repetition_penalty: float | None = None,
        return_full_text: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **others: Any,
    ) -> AsyncChatStream:
        """The twin of `Conversation.stream_retry()`."""
        keywords = {
            "temperature": temperature,
            "truncate": truncate,
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample,
            "repetition_penalty": repetition_penalty,
            "return_full_text": return_full_text,
            **others,
        }
        return self._ask(
            self._talk.ask(
                None,
                recover=recover,
                retries=retries,
                parameters=parameters,
                keywords=keywords,
            )
        )

    async def stop(self) -> None:
        """The twin of `Conversation.stop()`."""
        for stream in self._streams.items():
            if stream.running:
                await stream.stop()

    async def refresh(self) -> None:
        """The twin of `Conversation.refresh()`."""
        await self._play(self._talk.refresh())

    async def history(self) -> list[Message]:
        """The twin of `Conversation.history()`."""
        return await self._play(self._talk.refresh())

    async def rename(self, title: str) -> None:
        """The twin of `Conversation.rename()`."""
        await self._play(self._talk.rename(title))

    async def summarize(self) -> str:
        """The twin of `Conversation.summarize()`."""
        return await self._play(self._talk.summarize())

    async def vote(self, message_id: str, score: int) -> None:
        """The twin of `Conversation.vote()`."""
        await self._play(self._talk.vote(message_id, score))

    async def prompt(self, message_id: str) -> PromptPreview:
        """The twin of `Conversation.prompt()`."""
        return await self._play(self._talk.prompt(message_id))

    async def share(self) -> str:
        """The twin of `Conversation.share()`."""
        return await self._play(self._talk.share())

    async def delete(self) -> None:
        """The twin of `Conversation.delete()`."""
        await self._play(self._talk.delete())

    def to_dict(self) -> dict[str, Any]:
        """The twin of `Conversation.to_dict()`."""
        return self._talk.to_dict()

    async def aclose(self) -> None:
        """The twin of `Conversation.close()`."""
        if self._closed:
            return
        await self._close(self._client._cleanup_deadline())

    async def _close(self, deadline: float) -> None:
        self._closed = True
        await insist(lambda: self._clean_up(deadline))

    async def _clean_up(self, deadline: float) -> None:
        for stream in self._streams.items():
            await stream._close(deadline)
        if self._is_to_be_deleted():
            await self._client._abandon(self._talk, deadline)

    def _is_to_be_deleted(self) -> bool:
        """Whether there is something to delete, and this is not a fork of the process that may."""
        return self._talk.to_be_deleted and self._is_at_home()

    def _is_at_home(self) -> bool:
        """Whether this is the process that it was made in, and no fork of it."""
        return self._pid == PROCESS.id

    def _ask(self, ask: "Ask") -> AsyncChatStream:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        stream = AsyncChatStream(self._client, ask)
        self._streams.add(stream)
        return stream

    async def _play(self, flow: Flow[T]) -> T:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        return await self._client._play(flow)


class AsyncH2oClient:
    """The twin of `H2oClient`, for asyncio and trio; its arguments are the same.

    It may be shared by the tasks of one event loop, and used with or without `async with`;
    `await aclose()` it at the end. `http_client` is an `httpx.AsyncClient` here.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument cannot be meant, such as a base URL that is none.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        model: str | None = None,
        session: str | None = None,
        share_conversations: bool | None = True,
        timeouts: Timeouts | float | None = None,
        retries: Retries | int | None = None,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
        http_client: httpx.AsyncClient | None = None,
        transport: Literal["fast"] | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool = True,
    ) -> None:
        arguments: dict[str, Any] = {
            "model": model,
            "session": session,
            "share_conversations": share_conversations,
            "timeouts": timeouts,
            "retries": retries,
            "headers": headers,
            "parameters": parameters,
            "recover": recover,
        }
        self._service = new_service(base_url, **arguments)
        check_transport(transport)
        self._arguments = {
            "base_url": base_url,
            "proxy": proxy,
            "transport": transport,
            **arguments,
        }
        self._begun = False
        self._closed = False
        self._pid, self._forks = PROCESS.id, PROCESS.forks
        self._loop: object = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._opening = anyio.Lock()
        self._streams: Registry[AsyncChatStream] = Registry()
        self._conversations: Registry[AsyncConversation] = Registry()
        self._dropped: deque[tuple[Abandoned, AsyncPlayer | None]] = deque()
        self._owned = http_client is None
        if http_client is not None:
            check_http_client(http_client, httpx.AsyncClient, proxy, transport)
        self._http = http_client or self._own_http()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        service = self._service
        return f"<{type(self).__name__} {service.endpoints.address.url} {service.model}{state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Closing takes an event loop, which the garbage collector does not have.
        if getattr(self, "_begun", False) and not self._closed:
            warnings.warn(
                f"{self!r} was not closed: use `async with`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """The twin of `H2oClient.__reduce__()`."""
        if not self._owned:
            raise TypeError(
                "a client with an http_client of your own cannot be pickled or copied: make one "
                "in each process"
            )
        return rebuild, (type(self), self._arguments)

    @property
    def base_url(self) -> str:
        """The twin of `H2oClient.base_url`."""
        return self._service.endpoints.address.url

    @property
    def model(self) -> str:
        """The twin of `H2oClient.model`."""
        return self._service.model

    @property
    def retries(self) -> Retries:
        """The twin of `H2oClient.retries`."""
        return self._service.retries

    @property
    def session(self) -> str:
        """The twin of `H2oClient.session`."""
        return self._service.session.hand_out()

    async def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        temperature: float | None = None,
        truncate: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        repetition_penalty: float | None = None,
        return_full_text: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **others: Any,
    ) -> Reply:
        """The twin of `H2oClient.chat()`."""
        async with self.stream(
            messages,
            model=model,
            temperature=temperature,
            truncate=truncate,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            repetition_penalty=repetition_penalty,
            return_full_text=return_full_text,
            parameters=parameters,
            recover=recover,
            retries=retries,
            **others,
        ) as stream:
            return await stream.read()

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        temperature: float | None = None,
        truncate: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        repetition_penalty: float | None = None,
        return_full_text: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **others: Any,
    ) -> AsyncChatStream:
        """The twin of `H2oClient.stream()`; not to be awaited, but iterated."""
        keywords = {
            "temperature": temperature,
            "truncate": truncate,
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample,
            "repetition_penalty": repetition_penalty,
            "return_full_text": return_full_text,
            **others,
        }
        chat = Chat(
            self._service,
            messages,
            model=model,
            recover=recover,
            retries=retries,
            parameters=parameters,
            keywords=keywords,
        )
        return AsyncChatStream(self, chat)

    def conversation(
        self,
        *,
        model: str | None = None,
        keep: bool | None = None,
        id: str | None = None,  # noqa: A002 -- as callers write it
        from_share: str | None = None,
    ) -> AsyncConversation:
        """The twin of `H2oClient.conversation()`."""
        from h2o_client.protocol.talk import new_talk

        return self._converse(
            new_talk(self._service, model=model, keep=keep, id=id, from_share=from_share)
        )

    def conversation_from(
        self, saved: Mapping[str, Any], *, keep: bool | None = None
    ) -> AsyncConversation:
        """The twin of `H2oClient.conversation_from()`."""
        from h2o_client.protocol.talk import Talk

        return self._converse(Talk.from_dict(self._service, saved, keep=keep))

    def batch(
        self,
        prompts: "AsyncPrompts",
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        **parameters: Any,
    ) -> "AsyncBatch":
        """The twin of `H2oClient.batch()`; `prompts` may be an async iterable."""
        from h2o_client import batch

        return batch.AsyncBatch(
            self, prompts, concurrency=concurrency, limit_wait=limit_wait, **parameters
        )

    async def conversations(self) -> "list[ConversationInfo]":
        """The twin of `H2oClient.conversations()`."""
        return await self._play(queries.conversations(self._service))

    async def delete_conversations(self) -> None:
        """The twin of `H2oClient.delete_conversations()`."""
        await self._play(queries.delete_conversations(self._service))

    async def models(self) -> "list[Model]":
        """The twin of `H2oClient.models()`."""
        return await self._play(queries.models(self._service))

    async def settings(self) -> "Settings":
        """The twin of `H2oClient.settings()`."""
        return await self._play(queries.settings(self._service))

    async def shared(self, share: str) -> "SharedConversation":
        """The twin of `H2oClient.shared()`."""
        return await self._play(queries.shared(self._service, share))

    async def aclose(self) -> None:
        """The twin of `H2oClient.close()`."""
        if self._closed:
            return
        self._closed = True
        try:
            await insist(self._clean_up)
        finally:
            if self._owned:
                with anyio.CancelScope(shield=True):
                    await self._http.aclose()
                    if self._guard is not None:
                        from h2o_client._loops import let_go

                        await let_go(self._guard)

    async def _clean_up(self) -> None:
        if self._pid != PROCESS.id:
            return  # a child that never used it: all that is open is the parent's
        await self._settle_in()
        deadline = self._cleanup_deadline()
        for stream in self._streams.items():
            if stream.running:
                stream._tell_to_close()
        for stream in self._streams.items():
            await stream._close(deadline)
        for conversation in self._conversations.items():
            await conversation._close(deadline)
        await self._sweep()
        await self._tell_off(AsyncPlayer(self, self._cleanup_deadline()))

    async def _tell_off(self, player: AsyncPlayer) -> None:
        """Clean up what was left behind; what fails now is given up."""
        if self._forks != PROCESS.forks:
            self._service.session.shared = True  # by a child, which knows what is in it
        try:
            await player.play(self._service.sweep())
        except Exception:  # noqa: BLE001 -- closing must come to its end
            logger.warning("what was left behind could not be cleaned up", exc_info=True)

    def _cleanup_deadline(self) -> float:
        """Return when a clean-up that begins now must be done."""
        return AMBIENT.clock() + self._service.timeouts.cleanup

    def _converse(self, talk: "Talk") -> AsyncConversation:
        conversation = AsyncConversation(self, talk)
        self._conversations.add(conversation)
        return conversation

    async def _play(self, flow: Flow[T]) -> T:
        """Play a small operation.

        Raises:
            RuntimeError: the client is closed.
        """
        await self._begin(None)
        return await AsyncPlayer(self).play(flow)

    async def _begin(self, stream: AsyncChatStream | None) -> None:
        """Note that the first request of a stream, or of another operation, is sent now.

        Raises:
            RuntimeError: the client is closed, or cannot be used here.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        await self._settle_in()
        self._begun = self._owned
        await self._sweep()
        if stream is not None:
            self._streams.add(stream)

    def _own_http(self) -> httpx.AsyncClient:
        return new_http(httpx.AsyncClient, self._arguments["proxy"], self._arguments["transport"])

    def _is_in_use(self) -> bool:
        """Whether streams are open on the event loop of before, and it still runs."""
        from h2o_client._loops import is_on_watch

        runs = self._guard is not None and is_on_watch(self._guard)
        return runs and any(stream.running for stream in self._streams.items())

    async def _settle_in(self) -> None:
        """On another event loop, or after a fork, begin with connections of one's own.

        Raises:
            RuntimeError: the client has an `http_client` of the caller's, or is in use elsewhere.
        """
        from h2o_client._loops import this_loop, watch_over

        loop = this_loop()
        if self._pid == PROCESS.id and self._loop is loop:
            return
        first, forked = self._loop is None, self._pid != PROCESS.id
        if not first and not forked and self._is_in_use():
            raise RuntimeError(
                "this client has streams open on another event loop: make one for each of them"
            )
        if not first or forked:
            if not self._owned:
                raise RuntimeError(
                    "this client was used on another event loop or before a fork, with an "
                    "http_client of your own: make both anew for each event loop and process"
                )
            if forked:
                INHERITED.extend([self._http, self._guard])
                self._service.forget()
                self._dropped.clear()
            self._pid, self._forks = PROCESS.id, PROCESS.forks
            self._opening = anyio.Lock()
            self._streams = Registry()
            mine = [item for item in self._conversations.items() if item._is_at_home()]
            self._conversations = Registry()
            for conversation in mine:
                self._conversations.add(conversation)
            self._dropped = deque((operation, None) for operation, _ in self._dropped)
            self._http = self._own_http()
        self._loop = loop
        if self._owned:
            self._guard = await watch_over(self._http.aclose)

    def _drop(self, operation: Abandoned, player: AsyncPlayer | None) -> None:
        """Keep what was dropped unclosed; called by the garbage collector."""
        self._dropped.append((operation, player))

    async def _sweep(self) -> None:
        """Clean up after the streams and conversations that were dropped unclosed."""
        while True:
            try:
                operation, player = self._dropped.popleft()
            except IndexError:  # nothing is left, or another thread has it
                return
            try:
                if player is not None:
                    await player.release()
            finally:
                await self._abandon(operation, self._cleanup_deadline())

    async def _abandon(self, operation: Abandoned, deadline: float) -> None:
        """Tell the server that the caller broke an operation off; what fails is left behind."""
        try:
            await AsyncPlayer(self, deadline).play(operation.abandon())
        except H2oError as error:
            self._service.leave_behind(operation, error)
        except Exception as error:  # noqa: BLE001 -- must not replace the error that led here
            logger.warning("the clean-up failed", exc_info=True)
            self._service.leave_behind(operation, error)
        except BaseException:  # Ctrl-C or a cancellation goes on, and nothing is forgotten for it
            self._service.leave_behind(operation, None)
            raise
