# Generated, do not edit: run `python scripts/unasync.py`.
"""A conversation with memory: `Conversation`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakValueDictionary

from h2o_client._client._sync._runtime import retry_while_shielded
from h2o_client._client._sync.base import BaseClient
from h2o_client._client._sync.stream import ChatStream
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


class Conversation:
    """A conversation with memory, returned by `H2oClient.conversation()`.

    The server keeps the history, so only the new message is sent. Use it in a `with` block,
    or call `close()`: unless you set `keep`, this deletes a new conversation and keeps a resumed
    one.

    It takes one message at a time. `stop()` and `close()` may be called from any thread.
    """

    def __init__(self, client: BaseClient, core: ConversationCore) -> None:
        self._client = client
        self._core = core
        self._streams: WeakValueDictionary[int, ChatStream] = WeakValueDictionary()
        self._closed = False
        self._pid = PROCESS.id

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self._core.id or 'new'}{state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # If __init__ rejected an argument, the attributes are missing.
        if not getattr(self, "_closed", True) and self._is_to_be_deleted():
            try:
                self._warn_unclosed()
            finally:
                self._client._drop(self._core, None)

    def _warn_unclosed(self) -> None:
        if not self._closed and self._is_to_be_deleted():
            what = f"{self!r} was not closed: use `with`"
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

    def send(
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
            files: see `H2oClient.chat()`.
            parameters: see `H2oClient.chat()`.
            recover: see `H2oClient.chat()`.
            retries: see `H2oClient.chat()`.
            web_search: whether the service searches the web before it answers.
            on_web_search: called with each entry of that search as it arrives.
            **options: see `H2oClient.chat()`.

        Returns:
            The reply; its `web_search` has the entries of the search, including errors.

        Raises:
            TypeError: an argument has the wrong type or is unknown.
            ValueError: an argument is not valid.
            ConversationBusyError: the last message is still being answered; nothing was sent.
            NotFoundError: the server no longer has the conversation.
            H2oError: see `H2oClient.chat()`.
            RuntimeError: the conversation or the client is closed.

        Examples:
            >>> reply = talk.send("Name a river.", temperature=0.7)
            >>> reply.finish_reason
            'eos_token'
        """
        with self.stream(
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
            return stream.read()

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
    ) -> ChatStream:
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
            >>> with talk.stream("Name a river.") as stream:
            ...     for text in stream:
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

    def retry(
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
            parameters: see `H2oClient.chat()`.
            recover: see `H2oClient.chat()`.
            retries: see `H2oClient.chat()`.
            **options: see `H2oClient.chat()`.

        Returns:
            The reply with the new answer.

        Raises:
            ValueError: the conversation does not have a message to send again.
            H2oError: see `send()`.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> reply = talk.retry(temperature=1.0)
        """
        with self.stream_retry(
            parameters=parameters,
            recover=recover,
            retries=retries,
            **options,
        ) as stream:
            return stream.read()

    def stream_retry(
        self,
        *,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> ChatStream:
        """Send the last message again, and get the new answer as it arrives.

        Args:
            parameters: see `retry()`.
            recover: see `retry()`.
            retries: see `retry()`.
            **options: see `retry()`.

        Returns:
            The stream. Nothing is sent until its first token is requested.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> with talk.stream_retry() as stream:
            ...     reply = stream.read()
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

    def stop(self) -> None:
        """Stop the running answer, if any: see `ChatStream.stop()`.

        Examples:
            >>> stream = talk.stream("Name all rivers.")
            >>> first = next(stream)
            >>> talk.stop()
            >>> stream.reply.finish_reason
            'stopped'
        """
        for stream in alive(self._streams):
            if stream.running:
                stream.stop()

    def refresh(self) -> None:
        """Fetch the title and model from the server.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> talk.refresh()
            >>> title = talk.title
        """
        self._play(self._core.refresh())

    def history(self) -> list[Message]:
        """Fetch the messages stored by the server, with their ids, votes and dates.

        2023 servers store a stopped answer as if it were complete, and it may be longer than the
        part that was received.

        Returns:
            The messages, oldest first. On 2025 servers, which keep every branch, these are the
            newest message and those before it, with their `parent` and `children`. Notebooks show
            the list as a table.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> [message.role for message in talk.history()]
            ['user', 'assistant']
        """
        found = self._play(self._core.refresh())
        return Table(found, ("role", "content", "score", "created_at", "id"))

    def rename(self, title: str) -> None:
        """Give the conversation a title.

        Args:
            title: the title, of 1 to 100 characters.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> talk.rename("Rivers")
            >>> talk.title
            'Rivers'
        """
        self._play(self._core.rename(title))

    def summarize(self) -> str:
        """Have the model generate a title for the conversation.

        Returns:
            The title.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> title = talk.summarize()
        """
        return self._play(self._core.summarize())

    def vote(self, message_id: str, score: int) -> None:
        """Vote on a message: +1, -1, or 0 to withdraw the vote.

        Args:
            message_id: its id, from `Reply.response_id` or `history()`.
            score: the vote.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> talk.vote(reply.response_id, 1)
        """
        self._play(self._core.vote(message_id, score))

    def prompt(self, message_id: str) -> PromptPreview:
        """Fetch the prompt that the model would get if a message were sent again.

        Args:
            message_id: the id of the message, from `Reply.message_id` or `history()`.

        Returns:
            The prompt, the model and the parameters.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> text = (talk.prompt(reply.message_id)).prompt
        """
        return self._play(self._core.prompt(message_id))

    def share(self) -> str:
        """Share a copy of the conversation in its current state.

        Returns:
            A URL. Anyone who has it can read the copy.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> url = talk.share()
        """
        return self._play(self._core.share())

    def delete(self) -> None:
        """Delete the conversation now, whatever the value of `keep`.

        Raises:
            ConversationBusyError: an answer is still running: call `stop()` first.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> talk.delete()
        """
        self._play(self._core.delete())

    def to_dict(self) -> dict[str, Any]:
        """Save the conversation for `H2oClient.conversation_from()`.

        The session is not included: save the client's `session` too, because the conversation can
        only be accessed with it.

        Returns:
            The saved conversation; JSON can store it.

        Examples:
            >>> reply = talk.send("Name a river.")
            >>> saved = talk.to_dict()
        """
        return save(self._core)

    def close(self) -> None:
        """Stop a running answer, and delete the conversation unless it is to be kept.

        Calling it again does nothing. If the clean-up fails, this is logged, and the client tries
        again when it closes.
        """
        if self._closed:
            return
        self._close(self._client._exchange.cleanup())

    def _close(self, deadline: Deadline) -> None:
        self._closed = True
        retry_while_shielded(lambda: self._clean_up(deadline), deadline)

    def _clean_up(self, deadline: Deadline) -> None:
        for stream in alive(self._streams):
            stream._close(deadline)
        if self._is_to_be_deleted():
            self._client._abandon(self._core, deadline)

    def _is_to_be_deleted(self) -> bool:
        """Whether the conversation must be deleted, and by this process."""
        return self._core.to_be_deleted and self._is_of_this_process()

    def _is_of_this_process(self) -> bool:
        """Whether this is the process that made the conversation, not a fork of it."""
        return self._pid == PROCESS.id

    def _ask(self, operation: MessageOperation) -> ChatStream:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        stream = ChatStream(self._client, operation, self)
        self._streams[id(stream)] = stream
        return stream

    def _play(self, flow: Flow[T]) -> T:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        return self._client._play(flow)
