"""The client: `AsyncH2oClient`, for asyncio and trio.

The core decides what is sent; this shell runs its flows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import httpx

from h2o_client._client._async._runtime import retry_while_shielded
from h2o_client._client._async.base import AsyncBaseClient
from h2o_client._client._async.stream import AsyncChatStream
from h2o_client._client.http import check_transport, exchange_of, files_of, rebuild
from h2o_client.options import GenerationOptions, with_hints
from h2o_client.protocol import queries
from h2o_client.protocol.chat import ChatOperation
from h2o_client.protocol.retries import Retries
from h2o_client.types import FileLike, Messages, Reply, Timeouts

if TYPE_CHECKING:
    from h2o_client._client._async.conversation import AsyncConversation
    from h2o_client.batch import AsyncBatch, AsyncPrompts
    from h2o_client.protocol.conversation import ConversationCore
    from h2o_client.stored import ConversationInfo, Model, Settings, SharedConversation


class AsyncH2oClient(AsyncBaseClient):
    """A client for H2O's chat service or a self-hosted chat-ui server.

    It may be shared by the tasks of one event loop. Use it in an `async with` block, or call
    `aclose()` at the end. Each client has one session with the service, opened on first use.

    Args:
        base_url: the URL of the service. It may contain a path, and user:password, which is sent as
            `Authorization`. None for the environment's `H2O_CHAT_URL`, or else the hosted service.
        model: the model of calls that do not name one. None for the environment's `H2O_CHAT_MODEL`,
            or else the service's default model, which on 2025 servers is the first in the list.
        session: a session to resume: the `session` of another client, or the value of the session's
            cookie in a browser, for a server that requires a login. Its settings are not changed,
            unless `share_conversations` is False. None for the environment's `H2O_CHAT_SESSION`, or
            else a new session.
        share_conversations: whether the service may share conversations with the authors of the
            models. False opts out before the first message, on every version of the server.
        timeouts: time limits; a number is the longest wait for the server, in seconds.
        retries: how failed requests are retried; a number is the maximum number of retries, 0
            disables them.
        proxy: URL of a proxy. None for the environment's proxies, as httpx reads them.
        headers: additional headers for every request; they override the client's own.
        http_client: your own `httpx.AsyncClient`, for a private CA, mounts or hooks. It is used
            unchanged, and not closed. Redirects are not followed, whatever its settings. Configure
            its pool yourself: `httpx.Limits(max_connections=None, keepalive_expiry=4.0)` is
            recommended, because with httpx's limit of 100 connections streams can wait for each
            other, and the server closes idle connections after 5 seconds.
        transport: "fast" reads answers with less work per token; on asyncio it takes about
            half of the CPU time. None for httpx's own transport.
        parameters: generation parameters for every call.
        recover: whether to fetch the rest of an answer from the server after a lost connection. On
            2023 servers, an answer that another process stopped midway then looks complete.
        dialect: "chat-ui-2023" for chat-ui 0.3 to 0.6, "chat-ui-2025" for 0.9.6 and later. None to
            detect it during the first call, which takes two more requests on 2025 servers.
        cookie_name: the name of the session's cookie, if the deployment changed it. None to detect
            it.

    The environment's `H2O_CHAT_TOKEN` is sent as a bearer token, unless `base_url` contains a user
    or `headers` an `Authorization`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is not valid, such as a base URL without a host.
    """

    @with_hints
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
        dialect: Literal["chat-ui-2023", "chat-ui-2025"] | None = None,
        cookie_name: str | None = None,
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
            "dialect": dialect,
            "cookie_name": cookie_name,
        }
        exchange = exchange_of(base_url, arguments)
        check_transport(transport)
        self._arguments = {
            "base_url": base_url,
            "proxy": proxy,
            "transport": transport,
            **arguments,
        }
        super().__init__(exchange, http_client, proxy, transport)

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self.base_url} {self.model}{state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle configuration, kind of server and models, and the session if it was passed in.

        Raises:
            TypeError: the client uses the caller's `http_client`.
        """
        if not self._owned:
            raise TypeError(
                "a client with your own http_client cannot be pickled or copied: create one in "
                "each process"
            )
        arguments = {**self._arguments, "dialect": self.dialect}
        return rebuild, (type(self), arguments), self._exchange.models

    def __setstate__(self, models: "tuple[Model, ...]") -> None:
        """Take the list of models from a pickle, which saves a request."""
        self._exchange.models = models

    @property
    def base_url(self) -> str:
        """The base URL, without user and password."""
        return self._exchange.configuration.address.url

    @property
    def model(self) -> str:
        """The model of calls that do not name one; "" while the server's default is unknown."""
        return self._exchange.model or ""

    @property
    def dialect(self) -> str | None:
        """The kind of server: "chat-ui-2023" or "chat-ui-2025"; None while it is unknown."""
        return self._exchange.dialect.name if self._exchange.recognised else None

    @property
    def capabilities(self) -> frozenset[str]:
        """The optional features of the server; empty while the kind of server is unknown.

        "branches": `send(parent=…)`. "files": `files=…`. "parameters": generation options.
        "preprompt": the model gets a system message as a system prompt. "prompt": `prompt()`.
        "summarize": `summarize()`. "titles": conversations get titles automatically. "vote":
        `vote()`. "web_search": `web_search=True`. Missing features raise `UnsupportedError`.
        """
        exchange = self._exchange
        return exchange.dialect.capabilities if exchange.recognised else frozenset()

    @property
    def retries(self) -> Retries:
        """The retries of calls that do not set their own."""
        return self._exchange.configuration.retries

    @property
    def session(self) -> str:
        """The session, for `session=`. Keep it secret: it gives access to all its conversations."""
        return self._exchange.session.export()

    async def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        files: Sequence[FileLike] | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Reply:
        """Send a prompt, and wait for the whole answer.

        The call creates a conversation and deletes it afterwards. Several messages are flattened
        into one prompt of `Role: content` lines; on 2025 servers, a system message at the beginning
        is sent separately, as a system prompt.

        Args:
            messages: the prompt, or a sequence of messages: mappings with `role` and `content`,
                or `Message` objects.
            model: the model. None for the client's.
            files: files to send with the last message: paths, or `File(name, content, type)`.
            parameters: any generation parameters, passed on unchanged.
            recover: whether to fetch the rest of an answer from the server after a lost connection.
                None for the client's setting.
            retries: how failed requests are retried in this call. None for the client's setting.
            **options: `temperature`, `max_new_tokens`, `stop` and others; see `GenerationOptions`.

        Returns:
            The reply.

        Raises:
            TypeError: an argument has the wrong type or is unknown.
            ValueError: an argument is not valid: no messages, a blank prompt, or a file that the
                model does not accept.
            UnsupportedError: this kind of server does not support an argument.
            H2oError: the server could not be reached, rejected the request, or did not complete the
                answer; `partial` is the part of the answer that had arrived.
            RuntimeError: the client is closed.

        Examples:
            >>> reply = await client.chat("Why is the sky blue?", max_new_tokens=200)
            >>> reply.finish_reason
            'eos_token'
        """
        async with self.stream(
            messages,
            model=model,
            files=files,
            parameters=parameters,
            recover=recover,
            retries=retries,
            **options,
        ) as stream:
            return await stream.read()

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        files: Sequence[FileLike] | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncChatStream:
        """Send a prompt, and get the answer as it arrives.

        Args:
            messages: see `chat()`.
            model: see `chat()`.
            files: see `chat()`.
            parameters: see `chat()`.
            recover: see `chat()`.
            retries: see `chat()`.
            **options: see `chat()`.

        Returns:
            The stream. Nothing is sent until its first token is requested.

        Raises:
            TypeError: an argument has the wrong type or is unknown.
            ValueError: an argument is not valid: no messages, or a blank prompt.

        Examples:
            >>> async with client.stream("Why is the sky blue?") as stream:
            ...     async for text in stream:
            ...         shown = text
            >>> stream.reply.finish_reason
            'eos_token'
        """
        chat = ChatOperation(
            self._exchange,
            messages,
            model=model,
            recover=recover,
            retries=retries,
            parameters=parameters,
            keywords=options,
            files=files_of(files),
        )
        return AsyncChatStream(self, chat)

    def conversation(
        self,
        *,
        model: str | None = None,
        keep: bool | None = None,
        id: str | None = None,  # noqa: A002 -- as callers write it
        from_share: str | None = None,
    ) -> "AsyncConversation":
        """Start a conversation with memory, or resume one.

        Nothing is sent until its first use.

        Args:
            model: the model of a new conversation. None for the client's.
            keep: whether to keep the conversation on the server. None to delete a new one at the
                end and keep a resumed one.
            id: the id of a conversation of this session to resume.
            from_share: the URL of a shared conversation, to continue in a copy of it.

        Returns:
            The conversation.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: an argument is not valid, or two arguments contradict each other.

        Examples:
            >>> async with client.conversation() as talk:
            ...     reply = await talk.send("My name is Ann.")
            ...     reply = await talk.send("What did I say before?")
        """
        from h2o_client.protocol.conversation import new_conversation

        return self._converse(
            new_conversation(self._exchange, model=model, keep=keep, id=id, from_share=from_share)
        )

    def conversation_from(
        self, saved: Mapping[str, Any], *, keep: bool | None = None
    ) -> "AsyncConversation":
        """Resume a conversation that was saved with `Conversation.to_dict()`.

        If the server has deleted it, its first use raises a `NotFoundError`.

        Args:
            saved: the return value of `to_dict()`.
            keep: see `conversation()`; None keeps a conversation that exists on the server.

        Returns:
            The conversation.

        Raises:
            TypeError: `saved` is not a mapping.
            ValueError: `saved` was not made by `to_dict()`.

        Examples:
            >>> async with client.conversation(keep=True) as talk:
            ...     reply = await talk.send("My name is Ann.")
            ...     saved = talk.to_dict()
            >>> async with client.conversation_from(saved, keep=False) as talk:
            ...     reply = await talk.send("What did I say before?")
        """
        from h2o_client.protocol.saved import resume

        return self._converse(resume(self._exchange, saved, keep=keep))

    def batch(
        self,
        prompts: "AsyncPrompts",
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> "AsyncBatch":
        """Send many prompts, several at a time, and get the results as they finish.

        If the service reports too many messages, all prompts pause together and then continue.

        Args:
            prompts: any iterable, read only as fast as prompts are answered. Each item is a text, a
                sequence of messages as in `chat()`, or a mapping with `prompt` or `messages`, and
                optionally `parameters`, `model` and `id`.
            concurrency: how many prompts are sent at a time.
            limit_wait: how many seconds all prompts may pause, without an answer in between, before
                the service's rate limit becomes the error of a result.
            model: see `chat()`.
            parameters: see `chat()`.
            recover: see `chat()`.
            retries: see `chat()`.
            **options: see `chat()`.

        Returns:
            The batch. Nothing is sent until its first result is requested.

        Raises:
            TypeError: an argument has the wrong type or is unknown.
            ValueError: an argument is not valid.

        Examples:
            >>> async with client.batch(["One?", "Two?"], concurrency=2) as results:
            ...     async for result in results:
            ...         answer = result.reply or result.error
        """
        from h2o_client import batch

        return batch.AsyncBatch(
            self,
            prompts,
            concurrency=concurrency,
            limit_wait=limit_wait,
            model=model,
            parameters=parameters,
            recover=recover,
            retries=retries,
            **options,
        )

    async def conversations(self) -> "list[ConversationInfo]":
        """Fetch the list of this session's conversations.

        Returns:
            Their ids, titles and models. Notebooks show the list as a table.

        Examples:
            >>> [info.title for info in await client.conversations()]
            []
        """
        return await self._play(queries.conversations(self._exchange))

    async def delete_conversations(self) -> None:
        """Delete all conversations of this session.

        Raises:
            ConversationBusyError: an answer of this client is still running: stop it first.

        Examples:
            >>> await client.delete_conversations()
        """
        await self._play(queries.delete_conversations(self._exchange))

    async def models(self) -> "list[Model]":
        """Fetch the models that the server offers.

        Returns:
            The models, in the server's order. Notebooks show the list as a table.

        Examples:
            >>> names = [model.name for model in await client.models()]
        """
        return await self._play(queries.models(self._exchange))

    async def settings(self) -> "Settings":
        """Fetch the settings of this session.

        Returns:
            The settings as stored by the server.

        Examples:
            >>> (await client.settings()).share_conversations
            True
        """
        return await self._play(queries.settings(self._exchange))

    async def shared(self, share: str) -> "SharedConversation":
        """Fetch a shared conversation from any session.

        Args:
            share: its URL, as returned by `Conversation.share()`, or the id in that URL.

        Returns:
            Its title, model and messages.

        Raises:
            ValueError: `share` is not the URL of a shared conversation.
            NotFoundError: it does not exist on the server.

        Examples:
            >>> async with client.conversation() as talk:
            ...     reply = await talk.send("Hello!")
            ...     url = await talk.share()
            >>> [message.role for message in (await client.shared(url)).messages]
            ['user', 'assistant']
        """
        return await self._play(queries.shared(self._exchange, share))

    async def aclose(self) -> None:
        """Close open streams, clean up on the server, and close the connections.

        Calling it again does nothing. Your own `http_client` stays open.
        """
        if self._closed:
            return
        self._closed = True
        try:
            deadline = self._exchange.cleanup()
            ended = await retry_while_shielded(partial(self._clean_up, deadline), deadline)
        finally:
            await self._close_connections()
        if ended:
            self._cleaner.retire()

    def _converse(self, core: "ConversationCore") -> "AsyncConversation":
        from h2o_client._client._async.conversation import AsyncConversation

        conversation = AsyncConversation(self, core)
        self._conversations[id(conversation)] = conversation
        return conversation
