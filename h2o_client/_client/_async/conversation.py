"""A conversation that remembers: `AsyncConversation`."""

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
    """A conversation that remembers. Made by `AsyncH2oClient.conversation()`.

    The server keeps the history, so only the new message is sent. Use it in an `async with` block,
    or call `aclose()`: this deletes a conversation that was made here and keeps one that was
    resumed, unless `keep` says otherwise.

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
        # An argument that was rejected in __init__ leaves no attributes.
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
        """The service's id of the conversation; None before the first use."""
        return self._core.id

    @property
    def title(self) -> str | None:
        """The title, if it is known; `refresh()` fetches it."""
        return self._core.title

    @property
    def model(self) -> str:
        """The model; "" for a conversation that was resumed by its id, until `refresh()`."""
        return self._core.model

    @property
    def messages(self) -> list[Message]:
        """The messages that this object has seen, in the form that `chat()` takes.

        An answer that broke off or was stopped is marked `partial`.
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
            parent: the id of the message that it follows, which begins another branch; only on
                servers of 2025, which keep every message. None for the newest.
            files: files that go with it, as for `AsyncH2oClient.chat()`.
            parameters: as for `AsyncH2oClient.chat()`.
            recover: see there.
            retries: see there.
            web_search: whether the service searches the web for the answer first.
            on_web_search: called with each entry of that search as it comes.
            **options: see there.

        Returns:
            The reply; its `web_search` has the entries of the search, including errors.

        Raises:
            TypeError: an argument is of the wrong type or unknown.
            ValueError: an argument cannot be sent.
            ConversationBusyError: the last message is still being answered; nothing was sent.
            NotFoundError: the server no longer has the conversation.
            H2oError: as for `chat()`.
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

        Leaving the stream stops the answer; the conversation can continue.

        Args:
            message: as for `send()`, like the arguments below.
            parent: see there.
            files: see there.
            parameters: see there.
            recover: see there.
            retries: see there.
            web_search: see there.
            on_web_search: see there.
            **options: see there.

        Returns:
            The stream. Nothing is sent before its first token is requested.

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

        On servers of 2025 the old answer is kept too: both are children of the message.

        Args:
            parameters: as for `AsyncH2oClient.chat()`.
            recover: see there.
            retries: see there.
            **options: see there.

        Returns:
            The reply with the new answer.

        Raises:
            ValueError: the conversation does not have a message to send again.
            H2oError: as for `send()`.

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
            parameters: as for `retry()`, like the arguments below.
            recover: see there.
            retries: see there.
            **options: see there.

        Returns:
            The stream. Nothing is sent before its first token is requested.

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
        """End the running answer, if any: see `AsyncChatStream.stop()`.

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
        """Fetch title and model from the server.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.refresh()
            >>> title = talk.title
        """
        await self._play(self._core.refresh())

    async def history(self) -> list[Message]:
        """Fetch the messages as stored by the server, with their ids, votes and dates.

        Servers of 2023 store a stopped answer as if it were complete, and it may be longer than the
        part that was received.

        Returns:
            The messages, the oldest first. Servers of 2025 keep every message: these are the newest
            and all before it, with their `parent` and `children`. Notebooks show the list as a
            table.

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
        """Let the model give the conversation a title.

        Returns:
            The title.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> title = await talk.summarize()
        """
        return await self._play(self._core.summarize())

    async def vote(self, message_id: str, score: int) -> None:
        """Vote on a message: +1, -1, or 0 to take the vote back.

        Args:
            message_id: its id, from `Reply.response_id` or `history()`.
            score: the vote.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.vote(reply.response_id, 1)
        """
        await self._play(self._core.vote(message_id, score))

    async def prompt(self, message_id: str) -> PromptPreview:
        """Fetch the prompt as the model would get it if a message were sent again.

        Args:
            message_id: the id of the message, from `Reply.message_id` or `history()`.

        Returns:
            The prompt, and what goes with it.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> text = (await talk.prompt(reply.message_id)).prompt
        """
        return await self._play(self._core.prompt(message_id))

    async def share(self) -> str:
        """Share the conversation as it is now.

        Returns:
            A URL. Anyone who has it can read the conversation.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> url = await talk.share()
        """
        return await self._play(self._core.share())

    async def delete(self) -> None:
        """Delete the conversation now, whatever `keep` says.

        Raises:
            ConversationBusyError: an answer is still running: `stop()` it first.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> await talk.delete()
        """
        await self._play(self._core.delete())

    def to_dict(self) -> dict[str, Any]:
        """Save the conversation in a form for JSON, for `AsyncH2oClient.conversation_from()`.

        The session is not included: save the client's `session` too, to get access again.

        Returns:
            The saved conversation.

        Examples:
            >>> reply = await talk.send("Name a river.")
            >>> saved = talk.to_dict()
        """
        return save(self._core)

    async def aclose(self) -> None:
        """End a running answer, and delete the conversation unless it is to be kept.

        May be called twice. A clean-up that fails is logged, and tried again when the client
        closes.
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
        """Whether there is something to delete, and this is the process that may delete it."""
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
