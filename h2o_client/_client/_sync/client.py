# Generated, do not edit: run `python scripts/unasync.py`.
"""The client: `H2oClient`, for scripts and threads.

Nothing here decides what is sent: that is the core's, and the shell plays its flows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import httpx

from h2o_client._client._sync._runtime import retry_while_shielded
from h2o_client._client._sync.base import BaseClient
from h2o_client._client._sync.stream import ChatStream
from h2o_client._client.http import check_transport, exchange_of, files_of, rebuild
from h2o_client.options import GenerationOptions
from h2o_client.protocol import queries
from h2o_client.protocol.chat import ChatOperation
from h2o_client.protocol.retries import Retries
from h2o_client.types import FileLike, Messages, Reply, Timeouts

if TYPE_CHECKING:
    from h2o_client._client._sync.conversation import Conversation
    from h2o_client.batch import Batch, Prompts
    from h2o_client.protocol.conversation import ConversationCore
    from h2o_client.stored import ConversationInfo, Model, Settings, SharedConversation


class H2oClient(BaseClient):
    """A client of H2O's chat service, or of a self-hosted server of its kind.

    It may be shared by threads, and used with or without `with`; call
    `close()` at the end. One client is one session with the service, opened when it is first
    needed.

    Args:
        base_url: where the service is; it may have a path, and user:password, which are sent as
            `Authorization`. None: the environment's `H2O_CHAT_URL`, else the hosted service.
        model: the model of calls that name none. None: the environment's `H2O_CHAT_MODEL`, else
            the service's default model: on servers of 2025 the first that they list.
        session: a session to resume, as `session` gave it, or the value of the session's cookie in
            a browser, for a server that wants a login. Its settings are left as they are,
            unless `share_conversations` is False.
        share_conversations: whether the service may share conversations with the authors of the
            models. False opts out, on every version of the server, before anything is said.
        timeouts: time limits; a number bounds every silence, in seconds.
        retries: what is sent again; a number says how often, 0 switches it off.
        proxy: URL of a proxy. None: the environment's, as httpx reads it.
        headers: more headers for every request, or other values for ours.
        http_client: your own `httpx.Client`, for a private CA, mounts or hooks. It is used as
            it is, and not closed. Redirects are not followed, whatever it says. Its pool is yours
            to fit: `httpx.Limits(max_connections=None, keepalive_expiry=4.0)`, as httpx's own
            hundred connections make streams wait for each other, and the server closes an idle
            one after 5 seconds.
        transport: "fast" reads answers with less work for each token. None: httpx's own transport.
        parameters: generation parameters for every call.
        recover: whether the rest of an answer is got from the server when the connection is lost
            under it. An answer that another process stopped half way then appears whole on servers
            of 2023.
        dialect: "chat-ui-2023" for chat-ui 0.3 to 0.6, "chat-ui-2025" for 0.9.6 and later. None:
            the client finds out with its first request, which costs one more on the newer ones.
        cookie_name: the name of the session's cookie, where a deployment renamed it. None: the
            client finds out.

    The environment's `H2O_CHAT_TOKEN` is sent as a bearer token, unless `base_url` has a user or
    `headers` an `Authorization`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the value of an argument is not valid, such as a base URL without a host.
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
        http_client: httpx.Client | None = None,
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration, and what is known of the server; a session only if passed in.

        Raises:
            TypeError: the client has an `http_client` of the caller's.
        """
        if not self._owned:
            raise TypeError(
                "a client with an http_client of your own cannot be pickled or copied: make one "
                "in each process"
            )
        known = {"dialect": self.dialect}
        if self._exchange.models is not None:
            known["model"] = self._exchange.model  # so that nobody has to ask for it
        return rebuild, (type(self), {**self._arguments, **known})

    @property
    def base_url(self) -> str:
        """The base URL, without user and password."""
        return self._exchange.configuration.address.url

    @property
    def model(self) -> str:
        """The model of calls that name none; "" while the server's own default is not known."""
        return self._exchange.model or ""

    @property
    def dialect(self) -> str | None:
        """The kind of server: "chat-ui-2023" or "chat-ui-2025"; None while it is not known."""
        return self._exchange.dialect.name if self._exchange.recognised else None

    @property
    def capabilities(self) -> frozenset[str]:
        """What the server can do beyond what all can; empty while it is not known which it is.

        "branches": `send(parent=…)`. "files": `files=…`. "parameters": generation options.
        "preprompt": a system message is told the model as such. "prompt": `prompt()`. "summarize":
        `summarize()`. "titles": conversations get titles by themselves. "vote": `vote()`.
        "web_search": `web_search=True`. What it cannot do raises `UnsupportedError`.
        """
        exchange = self._exchange
        return exchange.dialect.capabilities if exchange.recognised else frozenset()

    @property
    def retries(self) -> Retries:
        """The retries of calls that are given none of their own."""
        return self._exchange.configuration.retries

    @property
    def session(self) -> str:
        """The session, to be resumed with `session=`. Whoever has it can read its conversations."""
        return self._exchange.session.export()

    def chat(
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
        """Ask, and wait for the whole answer.

        A conversation is made for it and deleted after it. Several messages are flattened into
        one prompt of `Role: content` lines; on servers of 2025 a system message at the beginning
        is told the model as such.

        Args:
            messages: the prompt, or a sequence of messages: mappings with `role` and `content`,
                or `Message` objects.
            model: the model. None: the client's.
            files: files that go with the last message: paths, or `File(name, content, type)`.
            parameters: any generation parameters, passed on as given.
            recover: whether to get the rest of an answer from the server if the connection is
                lost under it. None: as the client says.
            retries: what is sent again in this call. None: as the client says.
            **options: `temperature`, `max_new_tokens`, `stop`, … : see `GenerationOptions`.

        Returns:
            The reply.

        Raises:
            TypeError: an argument is of the wrong type or unknown.
            ValueError: an argument cannot be sent: no messages, a blank prompt, a file that the
                model does not take.
            UnsupportedError: this kind of server cannot do what an argument asks for.
            H2oError: the server could not be reached, rejected the request, or broke off;
                `partial` is what had arrived of the answer.
            RuntimeError: the client is closed.
        """
        with self.stream(
            messages,
            model=model,
            files=files,
            parameters=parameters,
            recover=recover,
            retries=retries,
            **options,
        ) as stream:
            return stream.read()

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
    ) -> ChatStream:
        """Ask, and get the answer as it arrives. The arguments are those of `chat()`.

        Returns:
            The stream. Nothing is sent before its first token is asked for.

        Raises:
            TypeError: an argument is of the wrong type or unknown.
            ValueError: an argument cannot be sent: no messages, a blank prompt.
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
        return ChatStream(self, chat)

    def conversation(
        self,
        *,
        model: str | None = None,
        keep: bool | None = None,
        id: str | None = None,  # noqa: A002 -- as callers write it
        from_share: str | None = None,
    ) -> "Conversation":
        """Begin a conversation that remembers, or resume one.

        Nothing is sent before its first use.

        Args:
            model: the model. None: the client's. One that is resumed or copied has its own.
            keep: whether it outlives the object. None: one made here is deleted at the end, one
                that is resumed is kept.
            id: the id of a conversation of this session to resume.
            from_share: the URL of a shared conversation, to go on in a copy of it.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the value of an argument is not valid, or two contradict each other.
        """
        from h2o_client.protocol.conversation import new_conversation

        return self._converse(
            new_conversation(self._exchange, model=model, keep=keep, id=id, from_share=from_share)
        )

    def conversation_from(
        self, saved: Mapping[str, Any], *, keep: bool | None = None
    ) -> "Conversation":
        """Resume a conversation that `Conversation.to_dict()` saved.

        Where the server no longer has it, its first use is a `NotFoundError` that says so.

        Raises:
            TypeError: it is not a mapping.
            ValueError: it is not what `to_dict()` made.
        """
        from h2o_client.protocol.saved import resume

        return self._converse(resume(self._exchange, saved, keep=keep))

    def batch(
        self,
        prompts: "Prompts",
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        recover: bool | None = None,
        retries: Retries | int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> "Batch":
        """Ask many prompts, several at a time, and get the results as they finish.

        ::

            with client.batch(prompts) as results:
                for result in results:
                    print(result.index, result.reply or result.error)

        Where the service says that there were too many messages, all pause together and go on.

        Args:
            prompts: any iterable, pulled as there is room: texts, sequences of messages as
                `chat()` takes them, or mappings with `prompt` or `messages`, and perhaps
                `parameters`, `model` and `id`.
            concurrency: how many are asked at a time.
            limit_wait: seconds that all pause at most, with no answer in between, before the
                service's limit is the error of who meets it.
            model: as for `chat()`, for each of them; and so are the others.
            parameters: see there.
            recover: see there.
            retries: see there.
            **options: see there.

        Returns:
            The batch. Nothing is sent before its first result is asked for.

        Raises:
            TypeError: an argument is of the wrong type or unknown.
            ValueError: the value of an argument is not valid.
        """
        from h2o_client import batch

        return batch.Batch(
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

    def conversations(self) -> "list[ConversationInfo]":
        """Fetch which conversations this session has."""
        return self._play(queries.conversations(self._exchange))

    def delete_conversations(self) -> None:
        """Delete all conversations of this session."""
        self._play(queries.delete_conversations(self._exchange))

    def models(self) -> "list[Model]":
        """Fetch which models the server has."""
        return self._play(queries.models(self._exchange))

    def settings(self) -> "Settings":
        """Fetch what this session has chosen, as the server has it."""
        return self._play(queries.settings(self._exchange))

    def shared(self, share: str) -> "SharedConversation":
        """Fetch a shared conversation; it takes no session.

        Args:
            share: its URL, as `Conversation.share()` gave it, or the id in it.

        Raises:
            ValueError: this is not the URL of a shared conversation.
            NotFoundError: the server does not have it.
        """
        return self._play(queries.shared(self._exchange, share))

    def close(self) -> None:
        """Close the streams that are open, clean up what was left behind, close the connections.

        May be called twice. An `http_client` of your own stays open.
        """
        if self._closed:
            return
        self._closed = True
        try:
            deadline = self._exchange.cleanup()
            ended = retry_while_shielded(partial(self._clean_up, deadline), deadline)
        finally:
            self._close_connections()
        if ended:
            self._cleaner.retire()

    def _converse(self, core: "ConversationCore") -> "Conversation":
        from h2o_client._client._sync.conversation import Conversation

        conversation = Conversation(self, core)
        self._conversations[id(conversation)] = conversation
        return conversation
