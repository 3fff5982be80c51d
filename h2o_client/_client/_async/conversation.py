"""A conversation with memory: `AsyncConversation`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakValueDictionary

from h2o_client._client._async._runtime import retry_while_shielded
from h2o_client._client._async.base import AsyncBaseClient
from h2o_client._client._async.stream import AsyncChatStream
from h2o_client._client.http import PROCESS, alive, files_of
from h2o_client.options import GenerationOptions
from h2o_client.protocol.conversation import ConversationCore
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.message import MessageOperation
from h2o_client.protocol.retries import Retries
from h2o_client.protocol.saved import save
from h2o_client.types import FileLike, Message, PromptPreview, Reply, Table, WebSearchEntry

T = TypeVar("T")


class AsyncConversation:
    """A conversation with memory, returned by `AsyncH2oClient.conversation()`.

    The server keeps the history, so only the new message is sent. Use it in an `async with` block,
    or call `aclose()`: unless you set `keep`, this deletes a new conversation and keeps a resumed
    one.

    It takes one message at a time. `stop()` and `aclose()` may be called from any task of the
    same event loop.
    """

    def __init__(self, client: AsyncBaseClient, core: ConversationCore) -> None:
        self._client = client
        self._core = core
        self._streams: WeakValueDictionary[int, AsyncChatStream] = WeakValueDictionary()
        self._closed = False
        self._pid = PROCESS.id

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self._core.id or 'new'}{state}>"

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
        # If __init__ rejected an argument, the attributes are missing.
        if not getattr(self, "_closed", True) and self._is_to_be_deleted():
            try:
                self._warn_unclosed()
            finally:
                self._client._drop(self._core, None)

    def _warn_unclosed(self) -> None:
        if not self._closed and self._is_to_be_deleted():
            what = f"{self!r} was not closed: use `async with`"
            warnings.warn(what, ResourceWarning, stacklevel=1, source=self)

    @property
    def id(self) -> str | None:
        """The service's id for the conversation; None before the first use."""
        return self._core.id

    @property
    def title(self) -> str | None:
        """The title, or None if unknown; `refresh()` fetches it."""
        return self._core.title

    @property
    def model(self) -> str:
        """The model; "" for a conversation that was resumed by its id, until `refresh()`."""
        return self._core.model

    @property
    def messages(self) -> list[Message]:
        """The messages sent and received through this object; you can pass them to `chat()`.

        An answer that was cut short or stopped is marked as `partial`.
        """
        return list(self._core.messages)

    async def send(
        self,
        message: str,
        *,
        parent: str | None = None,
        files: Sequence[FileLike] | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        web_search: bool = False,
        on_web_search: Callable[[WebSearchEntry], object] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply:
        """Send a message, and wait for the whole answer.

        Args:
            message: the message.
            parent: the id of the message that it follows, to start another branch; only on 2025
                servers, which keep every message. None for the newest.
            files: see `AsyncH2oClient.chat()`.
            parameters: see `AsyncH2oClient.chat()`.
            recover: see `AsyncH2oClient.chat()`.
            retries: see `AsyncH2oClient.chat()`.
            web_search: whether the service searches the web before it answers.
            on_web_search: called with each entry of that search as it arrives.
            **options: see `AsyncH2oClient.chat()`.

        Returns:
            The reply; its `web_search` has the entries of the search, including errors.

        Raises:
            TypeError: an argument has the wrong type or is unknown.
            ValueError: an argument is not valid.
            ConversationBusyError: the last message is still being answered; nothing was sent.
            NotFoundError: the server no longer has the conversation.
            H2oError: see `AsyncH2oClient.chat()`.
            RuntimeError: the conversation or the client is closed.

        Examples:
            >>> reply = await talk.send("Name a river.", temperature=0.7)
            >>> reply.finish_reason
            'eos_token'
        """
        async with self.stream(
            message,
            parent=parent,
            files=files,
            parameters=parameters,
            recover=recover,
            retries=retries,
            web_search=web_search,
            on_web_search=on_web_search,
            **options,
        ) as stream:
            return await stream.read()

    def stream(
        self,
        message: str,
        *,
        parent: str | None = None,
        files: Sequence[FileLike] | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        web_search: bool = False,
        on_web_search: Callable[[WebSearchEntry], object] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncChatStream:
        """Send a message, and get the answer as it arrives.

        Closing the stream early stops the answer; the conversation can continue.

        Args:
            message: see `send()`.
            parent: see `send()`.
            files: see `send()`.
            parameters: see `send()`.
            recover: see `send()`.
            retries: see `send()`.
            web_search: see `send()`.
            on_web_search: see `send()`.
            **options: see `send()`.

        Returns:
            The stream. Nothing is sent until its first token is requested.

        Examples:
            >>> async with talk.stream("Name a river.") as stream:
            ...     async for text in stream:
            ...         shown = text
        """
        return self._ask(
            MessageOperation(
                self._client._exchange,
                self._core,
                message,
                recover=recover,
                retries=retries,
                parameters=parameters,
                keywords=options,
                web_search=web_search,
                on_web_search=on_web_search,
                parent=parent,
                files=files_of(files),
            )
        )

    async def retry(
        self,
        *,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply:
        """Send the last message again; the new answer replaces the old one.

        On 2025 servers the old answer is also kept: both are children of the message.

        Args:
            parameters: see `AsyncH2oClient.chat()`.
            recover: see `AsyncH2oClient.chat()`.
            retries: see `AsyncH2oClient.chat()`.
            **options: see `AsyncH2oClient.chat()`.

        Returns:
            The reply with the new answer.

        Raises:
            ValueError: the conversation does not have a message to send again.
            H2oError: see `send()`.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> reply = await talk.retry(temperature=1.0)
        """
        async with self.stream_retry(
            parameters=parameters,
            recover=recover,
            retries=retries,
            **options,
        ) as stream:
            return await stream.read()

    def stream_retry(
        self,
        *,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncChatStream:
        """Send the last message again, and get the new answer as it arrives.

        Args:
            parameters: see `retry()`.
            recover: see `retry()`.
            retries: see `retry()`.
            **options: see `retry()`.

        Returns:
            The stream. Nothing is sent until its first token is requested.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> async with talk.stream_retry() as stream:
            ...     reply = await stream.read()
        """
        return self._ask(
            MessageOperation(
                self._client._exchange,
                self._core,
                None,
                recover=recover,
                retries=retries,
                parameters=parameters,
                keywords=options,
            )
        )

    async def stop(self) -> None:
        """Stop the running answer, if any: see `AsyncChatStream.stop()`.

        Examples:
            >>> stream = talk.stream("Name all rivers.")
            >>> first = await anext(stream)
            >>> await talk.stop()
            >>> stream.reply.finish_reason
            'stopped'
        """
        for stream in alive(self._streams):
            if stream.running:
                await stream.stop()

    async def refresh(self) -> None:
        """Fetch the title and model from the server.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.refresh()
            >>> title = talk.title
        """
        await self._play(self._core.refresh())

    async def history(self) -> list[Message]:
        """Fetch the messages stored by the server, with their ids, votes and dates.

        2023 servers store a stopped answer as if it were complete, and it may be longer than the
        part that was received.

        Returns:
            The messages, oldest first. On 2025 servers, which keep every branch, these are the
            newest message and those before it, with their `parent` and `children`. Notebooks show
            the list as a table.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> [message.role for message in await talk.history()]
            ['user', 'assistant']
        """
        found = await self._play(self._core.refresh())
        return Table(found, ("role", "content", "score", "created_at", "id"))

    async def rename(self, title: str) -> None:
        """Give the conversation a title.

        Args:
            title: the title, of 1 to 100 characters.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.rename("Rivers")
            >>> talk.title
            'Rivers'
        """
        await self._play(self._core.rename(title))

    async def summarize(self) -> str:
        """Have the model generate a title for the conversation.

        Returns:
            The title.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> title = await talk.summarize()
        """
        return await self._play(self._core.summarize())

    async def vote(self, message_id: str, score: int) -> None:
        """Vote on a message: +1, -1, or 0 to withdraw the vote.

        Args:
            message_id: its id, from `Reply.response_id` or `history()`.
            score: the vote.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.vote(reply.response_id, 1)
        """
        await self._play(self._core.vote(message_id, score))

    async def prompt(self, message_id: str) -> PromptPreview:
        """Fetch the prompt that the model would get if a message were sent again.

        Args:
            message_id: the id of the message, from `Reply.message_id` or `history()`.

        Returns:
            The prompt, the model and the parameters.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> text = (await talk.prompt(reply.message_id)).prompt
        """
        return await self._play(self._core.prompt(message_id))

    async def share(self) -> str:
        """Share a copy of the conversation in its current state.

        Returns:
            A URL. Anyone who has it can read the copy.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> url = await talk.share()
        """
        return await self._play(self._core.share())

    async def delete(self) -> None:
        """Delete the conversation now, whatever the value of `keep`.

        Raises:
            ConversationBusyError: an answer is still running: call `stop()` first.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.delete()
        """
        await self._play(self._core.delete())

    def to_dict(self) -> dict[str, Any]:
        """Save the conversation for `AsyncH2oClient.conversation_from()`.

        The session is not included: save the client's `session` too, because the conversation can
        only be accessed with it.

        Returns:
            The saved conversation; JSON can store it.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> saved = talk.to_dict()
        """
        return save(self._core)

    async def aclose(self) -> None:
        """Stop a running answer, and delete the conversation unless it is to be kept.

        Calling it again does nothing. If the clean-up fails, this is logged, and the client tries
        again when it closes.
        """
        if self._closed:
            return
        await self._close(self._client._exchange.cleanup())

    async def _close(self, deadline: Deadline) -> None:
        self._closed = True
        await retry_while_shielded(lambda: self._clean_up(deadline), deadline)

    async def _clean_up(self, deadline: Deadline) -> None:
        for stream in alive(self._streams):
            await stream._close(deadline)
        if self._is_to_be_deleted():
            await self._client._abandon(self._core, deadline)

    def _is_to_be_deleted(self) -> bool:
        """Whether the conversation must be deleted, and by this process."""
        return self._core.to_be_deleted and self._is_of_this_process()

    def _is_of_this_process(self) -> bool:
        """Whether this is the process that made the conversation, not a fork of it."""
        return self._pid == PROCESS.id

    def _ask(self, operation: MessageOperation) -> AsyncChatStream:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        stream = AsyncChatStream(self._client, operation, self)
        self._streams[id(stream)] = stream
        return stream

    async def _play(self, flow: Flow[T]) -> T:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        return await self._client._play(flow)
