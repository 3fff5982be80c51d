"""The sync shell: the client, its streams and conversations.

`ChatStream` plays an operation as far as its reader wants, and sees to it that the server is told
however that ends. `Conversation` is one that remembers, `H2oClient` what all of one session
share. What they play is performed by `_sync_player.py`. Nothing here decides what is sent;
`_async.py` is the same with `await`, and a test holds the two together.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import httpx

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
from h2o_client._leaving import (
    Cleaner,
    clean_up_at_exit,
    is_closed,
    is_reentrant,
    not_reentrant,
)
from h2o_client._registry import Registry
from h2o_client._sync_player import Player
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
    from h2o_client.batch import Batch, Prompts
    from h2o_client.protocol.talk import Ask, Talk
    from h2o_client.stored import ConversationInfo, Model, Settings, SharedConversation

T = TypeVar("T")


INHERITED: list[object] = []
"""What a forked child has of its parent's, kept so that the garbage collector closes nothing."""


def close_at_home(http: httpx.Client, pid: int) -> None:
    """Close an httpx client in the process that made it."""
    if pid == PROCESS.id:
        http.close()


class ChatStream:
    """The answer to one call, as it arrives. Made by `H2oClient.stream()`.

    Iterating gives the texts of the tokens, as they come; special tokens and empty texts are left
    out. Nothing is sent before the first. However the iteration ends, the server is told: the
    generation is stopped if it still ran, the conversation deleted. Use it in a `with` block, or
    call `close()`, unless it is read to its end.

    One thread reads; `stop()` and `close()` may be called from any.
    """

    def __init__(self, client: "H2oClient", operation: Operation) -> None:
        self._client = client
        self._operation = operation
        self._player = Player(client)
        self._steps: Stepper[Reply] = Stepper(operation.run())
        self._permit = self._steps.permit
        self._arrived = Arrived()
        self._texts = self._arrived.texts
        self._begun = False
        self._closed = False
        self._enders: list[bool] = []  # stop() and close(), while they may do it for the reader
        self._left = threading.Event()
        self._pid = PROCESS.id

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._begun else "new"
        return f"<{type(self).__name__} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Return the text of the next token that is shown.

        Raises:
            StopIteration: the answer is whole, or was stopped.
            H2oError: the answer broke off; `partial` is what had arrived.
            RuntimeError: the stream is closed, or another thread is reading.
        """
        texts = self._texts
        while not texts:
            if not self._advance():
                raise StopIteration
        return texts.popleft()

    def __del__(self) -> None:
        # An argument that was refused in __init__ leaves nothing to look at.
        if getattr(self, "_begun", False) and not self._closed and not self._is_inherited():
            self._client._drop(self._operation, self._player)
            self._warn_unclosed()

    @property
    def text(self) -> str:
        """What has arrived so far: more than was iterated, where one packet held many tokens."""
        return self._operation.text

    @property
    def reply(self) -> Reply:
        """The reply, once the stream has ended.

        Raises:
            RuntimeError: it has not ended, or broke off.
        """
        if not self._steps.returned:
            raise RuntimeError("there is no reply: the stream was not read to its end")
        return self._steps.result

    @property
    def running(self) -> bool:
        """Whether the first request was sent, and the stream has not ended."""
        return self._begun and not self._closed

    @property
    def ended(self) -> bool:
        """Whether the stream was read to its end, broke off, was stopped or closed."""
        return self._closed

    def events(self) -> "TokenEvents":
        """Iterate `Token` objects instead of texts, the special ones too."""
        return TokenEvents(self)

    def read(self) -> Reply:
        """Read to the end and return the reply.

        Raises:
            H2oError: the answer broke off; `partial` is what had arrived.
            RuntimeError: the stream is closed, or another thread is reading.
        """
        while self._advance():
            self._texts.clear()
        return self.reply

    def display(self) -> Reply:
        """Show the answer in a notebook while it grows, and return the reply.

        The notebook's stop button ends the answer as `stop()` does: what has arrived stays on
        the screen, `finish_reason` is "stopped", and the cell goes on. A second press, while the
        server is being told, ends the cell. In a terminal the answer is written as text.

        Raises:
            ModuleNotFoundError: IPython is not installed.
            H2oError: the answer broke off; `partial` is what had arrived.
            RuntimeError: the stream is closed, or another thread is reading.
        """
        from h2o_client import notebook

        return notebook.display(self)

    def stop(self) -> None:
        """End the answer here: the server stops generating, and the stream ends at once.

        That is no error: `reply` has the text that had arrived, and `finish_reason` "stopped".
        It may be called while another thread reads; that thread's loop then ends.
        """
        if self._closed or self._is_inherited():
            return
        self._player.halt()
        Player(self._client, self._client._cleanup_deadline()).play(self._operation.stop())
        if not self._instead_of_reader(self._play_out) and not self._operation.done:
            self._player.interrupt()

    def close(self) -> None:
        """Leave the stream: tell the server, release the connection. May be called twice.

        Where another thread is reading, that thread gets an `IncompleteStreamError`. When this
        returns the server has been told, or the time for it (`Timeouts.cleanup`) was up.
        """
        self._close(self._client._cleanup_deadline())

    def _warn_unclosed(self) -> None:
        if self.running:
            warnings.warn(
                f"{self!r} was not closed: use `with`", ResourceWarning, stacklevel=1, source=self
            )

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

    def _close(self, deadline: float) -> None:
        if self._is_inherited():
            self._closed = True
            self._left.set()
        if is_reentrant():
            if not (self._operation.done or self._closed):
                self._player.closing = True
            if self._begun:
                self._client._abandon(self._operation, deadline)
            return
        told = False
        while not self._left.is_set():
            if self._instead_of_reader(partial(self._leave, deadline)):
                return
            if not told and not self._tell_to_close():
                # The reader waits for a response: what is known can be told the server from here,
                # and its answer ends when it has stopped.
                self._client._abandon(self._operation, deadline)
            told = True
            left = deadline - AMBIENT.clock()
            if left <= 0:
                return
            self._left.wait(min(LOOK, left))

    @not_reentrant
    def _instead_of_reader(self, end: Callable[[], None]) -> bool:
        """End the stream where nobody reads it; False: somebody does."""
        self._enders.append(True)
        try:
            if not self._steps.take():
                return False
            try:
                if not self._closed:
                    end()
            finally:
                self._steps.free()
        finally:
            self._enders.pop()
        return True

    def _next_token(self) -> Token:
        while (token := self._arrived.token()) is None:
            if not self._advance():
                raise StopIteration
        return token

    @not_reentrant
    def _advance(self) -> bool:
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
            return self._wait_for_end()
        try:
            player = self._player
            reader = player.reader
            if reader is None or self._pid != PROCESS.id:
                return self._play()
            # The way of nearly every token: whatever can stand elsewhere does.
            outcome: float | Exception = AMBIENT.clock()
            texts: Sequence[str] = ()
            try:
                texts = reader.read_on(player.next())
            except StopIteration:
                reader.read_on(b"")
            except (H2oError, *TRANSPORT_ERRORS) as error:
                outcome = error
            except BaseException as error:
                self._break_off(error)
                raise
            if texts and not player.closing:
                self._texts.extend(texts)
                return True
            try:
                return self._play(outcome)
            finally:
                del outcome  # httpx's error, which holds the session
        finally:
            permit.append(True)

    def _wait_for_end(self) -> bool:
        """Wait where another thread or task is ending the stream; two may not read it."""
        if not (self._enders or self._left.is_set()):
            raise self._steps.taken()
        self._left.wait(self._client._service.timeouts.cleanup)
        if self._steps.returned:
            return False
        if not (self._closed or self._player.closing):
            raise self._steps.taken()  # who meant to end it had come too late as well
        raise IncompleteStreamError("the stream was closed", partial=self.text)

    def _play(self, outcome: float | Exception | None = None) -> bool:
        """Play until something has come (True), or to the end (False): see `Player.advance()`."""
        if self._closed:
            if self._steps.returned:
                return False
            raise RuntimeError("the stream is closed")
        if self._pid != PROCESS.id and self._is_inherited():
            raise RuntimeError("the stream belongs to the parent process")
        if not self._begun:
            self._begin()
        try:
            emit = self._player.advance(self._steps, outcome)
        except BaseException as error:
            self._break_off(error)
            raise
        finally:
            del outcome  # httpx's error, which holds the session
        if emit is None:
            self._end()
            return False
        self._arrived.put(emit)
        return True

    def _begin(self) -> None:
        """Tell the client that the first request comes now."""
        self._client._begin(self)
        self._begun = True

    def _play_out(self) -> None:
        """Play to the end; nobody waits for the tokens."""
        if not self._begun:
            self._begin()
        try:
            while self._player.advance(self._steps) is not None:
                pass
        except BaseException as error:
            self._break_off(error)
            raise
        self._end()

    def _break_off(self, error: BaseException) -> None:
        """Leave the stream, for this error; it is given what had arrived."""
        self._leave(self._client._cleanup_deadline())
        if isinstance(error, H2oError) and not error.partial:
            error.partial = self.text

    def _end(self) -> None:
        """Note that the stream has come to its end."""
        self._closed = True
        self._forget()
        self._left.set()

    def _leave(self, deadline: float) -> None:
        """Leave the flow where it stands, release the response, tell the server."""
        self._closed = True
        self._player.halt()
        self._forget()
        try:
            self._steps.close()
            self._clean_up(deadline)
        finally:
            self._left.set()

    def _forget(self) -> None:
        """Give nothing more out. A reader that is just taking what came next may have that."""
        self._arrived = Arrived()
        self._texts = self._arrived.texts

    def _clean_up(self, deadline: float) -> None:
        try:
            self._player.release()
        finally:
            if self._begun:
                self._client._abandon(self._operation, deadline)


class TokenEvents:
    """Iterates the tokens of a stream. Made by `ChatStream.events()`."""

    def __init__(self, stream: ChatStream) -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        """Return the next token; raises what the stream's own iteration raises."""
        return self._stream._next_token()


class Conversation:
    """A conversation that remembers. Made by `H2oClient.conversation()`.

    The history is the server's: only the new message is sent. Use it in a `with` block, or call
    `close()`: a conversation that was made here is then deleted, one that was taken up is kept,
    unless `keep` says otherwise.

    It takes one message at a time. `stop()` and `close()` may be called from any thread.
    """

    def __init__(self, client: "H2oClient", talk: "Talk") -> None:
        self._client = client
        self._talk = talk
        self._streams: Registry[ChatStream] = Registry()
        self._closed = False
        self._pid = PROCESS.id

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self._talk.id or 'new'}{state}>"

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
        # An argument that was refused in __init__ leaves nothing to look at.
        if not getattr(self, "_closed", True) and self._is_to_be_deleted():
            self._client._drop(self._talk, None)
            self._warn_unclosed()

    def _warn_unclosed(self) -> None:
        if not self._closed and self._is_to_be_deleted():
            warnings.warn(
                f"{self!r} was not closed: use `with`", ResourceWarning, stacklevel=1, source=self
            )

    @property
    def id(self) -> str | None:
        """The service's id of the conversation; None before the first use."""
        return self._talk.id

    @property
    def title(self) -> str | None:
        """The title, as far as it is known; `refresh()` fetches it."""
        return self._talk.title

    @property
    def model(self) -> str:
        """The model; "" for a conversation taken up by its id, until `refresh()`."""
        return self._talk.model

    @property
    def messages(self) -> list[Message]:
        """What this object has seen of the conversation, in the form that `chat()` takes.

        An answer that broke off or was stopped is marked `partial`.
        """
        return list(self._talk.messages)

    def send(
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
        """Send a message, and wait for the whole answer.

        Args:
            message: the message.
            temperature: as for `H2oClient.chat()`, and so are the others not named here.
            truncate: see there.
            max_new_tokens: see there.
            do_sample: see there.
            repetition_penalty: see there.
            return_full_text: see there.
            parameters: see there.
            recover: see there.
            retries: see there.
            web_search: whether the service searches the web for the answer first.
            on_web_search: called with each entry of that search as it comes.
            **others: see there.

        Returns:
            The reply; its `web_search` has the entries of the search, an error's too.

        Raises:
            TypeError: an argument is of the wrong type, or one that there is not.
            ValueError: an argument cannot be sent.
            ConversationBusyError: the last message is still being answered; nothing was sent.
            NotFoundError: the server no longer has the conversation.
            H2oError: as for `chat()`.
            RuntimeError: the conversation or the client is closed.
        """
        with self.stream(
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
            return stream.read()

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
    ) -> ChatStream:
        """Send a message, and get the answer as it arrives. The arguments are those of `send()`.

        Leaving the stream stops the answer; the conversation goes on.
        """
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

    def retry(
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
        """Ask the last message again; the new answer takes the place of the old one.

        Args:
            temperature: as for `H2oClient.chat()`, and so are the others.
            truncate: see there.
            max_new_tokens: see there.
            do_sample: see there.
            repetition_penalty: see there.
            return_full_text: see there.
            parameters: see there.
            recover: see there.
            retries: see there.
            **others: see there.

        Raises:
            ValueError: there is no message to ask again.
            H2oError: as for `send()`.
        """
        with self.stream_retry(
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
            return stream.read()

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
    ) -> ChatStream:
        """Ask the last message again, and get the new answer as it arrives.

        The arguments are those of `retry()`.
        """
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

    def stop(self) -> None:
        """End the answer that is running, if there is one: see `ChatStream.stop()`."""
        for stream in self._streams.items():
            if stream.running:
                stream.stop()

    def refresh(self) -> None:
        """Fetch title and model from the server."""
        self._play(self._talk.refresh())

    def history(self) -> list[Message]:
        """Fetch the messages as the server has them, with their ids, votes and dates.

        An answer that was stopped is stored as if it were whole, and may be longer than what was
        received of it.
        """
        return self._play(self._talk.refresh())

    def rename(self, title: str) -> None:
        """Give the conversation a title, of 1 to 100 characters."""
        self._play(self._talk.rename(title))

    def summarize(self) -> str:
        """Let the model give the conversation a title, and return it."""
        return self._play(self._talk.summarize())

    def vote(self, message_id: str, score: int) -> None:
        """Vote on a message: +1, -1, or 0 to take the vote back.

        Args:
            message_id: its id: `Reply.response_id`, or of `history()`.
            score: the vote.
        """
        self._play(self._talk.vote(message_id, score))

    def prompt(self, message_id: str) -> PromptPreview:
        """Fetch the prompt as the model would get it if a message were asked again."""
        return self._play(self._talk.prompt(message_id))

    def share(self) -> str:
        """Share the conversation as it is now; anyone who has the URL returned can read it."""
        return self._play(self._talk.share())

    def delete(self) -> None:
        """Delete the conversation now, whatever `keep` says.

        Raises:
            ConversationBusyError: an answer is running in it: `stop()` it first.
        """
        self._play(self._talk.delete())

    def to_dict(self) -> dict[str, Any]:
        """Save the conversation in a form for JSON, for `H2oClient.conversation_from()`.

        The session is not in it: without that of the client the server does not give it back.
        """
        return self._talk.to_dict()

    def close(self) -> None:
        """End what is running, and delete the conversation if it is not to be kept.

        May be called twice. A clean-up that fails is logged, and tried again when the client
        closes.
        """
        if self._closed:
            return
        self._close(self._client._cleanup_deadline())

    def _close(self, deadline: float) -> None:
        self._closed = True
        self._clean_up(deadline)

    def _clean_up(self, deadline: float) -> None:
        for stream in self._streams.items():
            stream._close(deadline)
        if self._is_to_be_deleted():
            self._client._abandon(self._talk, deadline)

    def _is_to_be_deleted(self) -> bool:
        """Whether there is something to delete, and this is not a fork of the process that may."""
        return self._talk.to_be_deleted and self._is_at_home()

    def _is_at_home(self) -> bool:
        """Whether this is the process that it was made in, and no fork of it."""
        return self._pid == PROCESS.id

    def _ask(self, ask: "Ask") -> ChatStream:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        stream = ChatStream(self._client, ask)
        self._streams.add(stream)
        return stream

    def _play(self, flow: Flow[T]) -> T:
        if self._closed:
            raise RuntimeError("the conversation is closed")
        return self._client._play(flow)


class H2oClient:
    """A client of H2O's chat service, or of a self-hosted server of its kind.

    It may be shared by threads, and used with or without `with`; `close()` it at the end. One
    client is one session with the service, opened when it is first needed.

    Args:
        base_url: where the service is; it may have a path, and user:password, which are sent as
            `Authorization`. None: the environment's `H2O_CHAT_URL`, else the hosted service.
        model: the model of calls that name none. None: the environment's `H2O_CHAT_MODEL`, else
            the service's default model.
        session: a session to take up, as `session` gave it. Its settings are left as they are,
            unless `share_conversations` is False.
        share_conversations: whether the service may share conversations with the authors of the
            models. False opts out, on every version of the server [02b_settings_stored].
        timeouts: time limits; a number bounds every silence, in seconds.
        retries: what is sent again; a number says how often, 0 switches it off.
        proxy: URL of a proxy. None: the environment's, as httpx reads it.
        headers: more headers for every request, or other values for ours.
        http_client: your own `httpx.Client`, for a private CA, mounts or hooks. It is used as it
            is, and not closed. Redirects are not followed, whatever it says. Its pool is yours to
            fit: `httpx.Limits(max_connections=None, keepalive_expiry=4.0)`, as httpx's own hundred
            connections make streams wait for each other, and the server closes an idle one
            after 5 seconds.
        transport: "fast" reads answers with less work for each token; on asyncio it takes about
            half of the CPU. None: httpx's own transport.
        parameters: generation parameters for every call.
        recover: whether the rest of an answer is got from the server when the connection is lost
            under it. An answer that another process stopped half way looks whole then.

    The environment's `H2O_CHAT_TOKEN` is sent as a bearer token, unless `base_url` has a user or
    `headers` an `Authorization`.

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
        http_client: httpx.Client | None = None,
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
        self._closed = False
        self._pid, self._forks = PROCESS.id, PROCESS.forks
        self._opening = threading.RLock()  # `on_retry` may use the client
        self._streams: Registry[ChatStream] = Registry()
        self._conversations: Registry[Conversation] = Registry()
        self._owned: weakref.finalize[Any, Any] | None = None
        if http_client is not None:
            check_http_client(http_client, httpx.Client, proxy, transport)
        self._http = http_client or self._own_http()
        self._cleaner = self._new_cleaner()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        service = self._service
        return f"<{type(self).__name__} {service.endpoints.address.url} {service.model}{state}>"

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
        """Pickle the configuration; a session only if it was passed in.

        Raises:
            TypeError: the client has an `http_client` of the caller's.
        """
        if self._owned is None:
            raise TypeError(
                "a client with an http_client of your own cannot be pickled or copied: make one "
                "in each process"
            )
        return rebuild, (type(self), self._arguments)

    @property
    def base_url(self) -> str:
        """The base URL, without user and password."""
        return self._service.endpoints.address.url

    @property
    def model(self) -> str:
        """The model of calls that name none."""
        return self._service.model

    @property
    def retries(self) -> Retries:
        """The retries of calls that are given none of their own."""
        return self._service.retries

    @property
    def session(self) -> str:
        """The session, to be taken up again with `session=`. Who has it has its conversations."""
        return self._service.session.hand_out()

    def chat(
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
        """Ask, and wait for the whole answer.

        A conversation is made for it and deleted after it. Several messages are flattened into
        one prompt of `Role: content` lines.

        Args:
            messages: the prompt, or a sequence of messages: mappings with `role` and `content`,
                or `Message` objects.
            model: the model. None: the client's.
            temperature: randomness of the choice of tokens; the service's default is 0.4.
            truncate: tokens of the prompt that count, the last ones; 2048.
            max_new_tokens: the longest answer, in tokens; 1024.
            do_sample: whether tokens are drawn, instead of the likeliest taken; True.
            repetition_penalty: above 1 repetition is made less likely; 1.2.
            return_full_text: asks the model server to repeat the prompt; False.
            parameters: any parameters, passed on as given.
            recover: whether to get the rest of an answer from the server if the connection is
                lost under it. None: as the client says.
            retries: what is sent again in this call. None: as the client says.
            **others: more parameters, passed on as given: `stop=[…]`, `seed=…`, `details=True`.

        Returns:
            The reply.

        Raises:
            TypeError: an argument is of the wrong type, or one that there is not.
            ValueError: an argument cannot be sent: no messages, a blank prompt.
            H2oError: the server could not be reached, refused, or broke off; `partial` is what
                had arrived of the answer.
            RuntimeError: the client is closed.
        """
        with self.stream(
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
            return stream.read()

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
    ) -> ChatStream:
        """Ask, and get the answer as it arrives. The arguments are those of `chat()`.

        Returns:
            The stream. Nothing is sent before its first token is asked for.

        Raises:
            TypeError: an argument is of the wrong type, or one that there is not.
            ValueError: an argument cannot be sent: no messages, a blank prompt.
        """
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
        return ChatStream(self, chat)

    def conversation(
        self,
        *,
        model: str | None = None,
        keep: bool | None = None,
        id: str | None = None,  # noqa: A002 -- as callers write it
        from_share: str | None = None,
    ) -> Conversation:
        """Begin a conversation that remembers, or take one up.

        Nothing is sent before its first use.

        Args:
            model: the model. None: the client's. A conversation taken up or copied has its own.
            keep: whether it outlives the object. None: one made here is deleted at the end, one
                taken up is kept.
            id: the id of a conversation of this session to take up.
            from_share: the URL of a shared conversation, to go on in a copy of it.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: an argument cannot be meant, or two contradict each other.
        """
        from h2o_client.protocol.talk import new_talk

        return self._converse(
            new_talk(self._service, model=model, keep=keep, id=id, from_share=from_share)
        )

    def conversation_from(
        self, saved: Mapping[str, Any], *, keep: bool | None = None
    ) -> Conversation:
        """Take up a conversation that `Conversation.to_dict()` saved.

        Where the server no longer has it, its first use is a `NotFoundError` that says so.

        Raises:
            TypeError: it is no mapping.
            ValueError: it is not what `to_dict()` made.
        """
        from h2o_client.protocol.talk import Talk

        return self._converse(Talk.from_dict(self._service, saved, keep=keep))

    def batch(
        self,
        prompts: "Prompts",
        *,
        concurrency: int = 8,
        limit_wait: float = 600.0,
        **parameters: Any,
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
            **parameters: arguments of `chat()` for each of them.

        Returns:
            The batch. Nothing is sent before its first result is asked for.

        Raises:
            TypeError: an argument is of the wrong type, or one that there is not.
            ValueError: an argument cannot be meant.
        """
        from h2o_client import batch

        return batch.Batch(
            self, prompts, concurrency=concurrency, limit_wait=limit_wait, **parameters
        )

    def conversations(self) -> "list[ConversationInfo]":
        """Fetch which conversations this session has."""
        return self._play(queries.conversations(self._service))

    def delete_conversations(self) -> None:
        """Delete all conversations of this session."""
        self._play(queries.delete_conversations(self._service))

    def models(self) -> "list[Model]":
        """Fetch which models the server has."""
        return self._play(queries.models(self._service))

    def settings(self) -> "Settings":
        """Fetch what this session has chosen, as the server has it."""
        return self._play(queries.settings(self._service))

    def shared(self, share: str) -> "SharedConversation":
        """Fetch a shared conversation; it takes no session.

        Args:
            share: its URL, as `Conversation.share()` gave it, or the id in it.

        Raises:
            ValueError: this is no URL of a shared conversation.
            NotFoundError: there is none.
        """
        return self._play(queries.shared(self._service, share))

    def close(self) -> None:
        """Close the streams that are open, clean up what was left behind, close the connections.

        May be called twice. An `http_client` of your own stays open.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._clean_up()
        finally:
            if self._owned is not None and not is_reentrant():
                self._owned()
        is_closed(self._cleaner)

    @not_reentrant
    def _clean_up(self) -> None:
        if self._pid != PROCESS.id:
            return  # a child that never used it: all that is open is the parent's
        deadline = self._cleanup_deadline()
        for stream in self._streams.items():
            if stream.running:
                stream._tell_to_close()
        for stream in self._streams.items():
            stream._close(deadline)
        for conversation in self._conversations.items():
            conversation._close(deadline)
        self._tell_off(self._cleanup_deadline())

    def _tell_off(self, deadline: float) -> None:
        """Clean up what was left behind; what fails now is given up."""
        if self._forks != PROCESS.forks:
            self._service.session.shared = True  # by a child, which knows what is in it
        self._service.drop_all()
        if is_reentrant():
            self._cleaner.finish(deadline)
            return
        try:
            self._cleaner.release()
            Player(self, deadline).play(self._service.sweep())
        except Exception:  # noqa: BLE001 -- closing must come to its end
            logger.warning("what was left behind could not be cleaned up", exc_info=True)

    def _close_at_exit(self) -> None:
        """Close what is open, at the interpreter's exit, and warn of it."""
        for stream in self._streams.items():
            stream._warn_unclosed()
        for conversation in self._conversations.items():
            conversation._warn_unclosed()
        self.close()

    def _cleanup_deadline(self) -> float:
        """Return when a clean-up that begins now must be done."""
        return AMBIENT.clock() + self._service.timeouts.cleanup

    def _converse(self, talk: "Talk") -> Conversation:
        conversation = Conversation(self, talk)
        self._conversations.add(conversation)
        return conversation

    def _play(self, flow: Flow[T]) -> T:
        """Play a small operation.

        Raises:
            RuntimeError: the client is closed.
        """
        self._begin(None)
        return Player(self).play(flow)

    def _begin(self, stream: ChatStream | None) -> None:
        """Note that the first request of a stream, or of another operation, is sent now.

        Raises:
            RuntimeError: the client is closed, or cannot be used here.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        self._settle_in()
        clean_up_at_exit(self._cleaner)
        if stream is not None:
            self._streams.add(stream)

    def _own_http(self) -> httpx.Client:
        http = new_http(httpx.Client, self._arguments["proxy"], self._arguments["transport"])
        # A client that is dropped unclosed leaves no open sockets.
        self._owned = weakref.finalize(self, close_at_home, http, self._pid)
        return http

    def _settle_in(self) -> None:
        """After a fork, leave to the parent what is the parent's: connections, chats, locks.

        Raises:
            RuntimeError: the client has an `http_client` of the caller's.
        """
        if self._pid == PROCESS.id:
            return
        if self._owned is None:
            raise RuntimeError(
                "this client was made before the process was forked, with an http_client of your "
                "own: make both anew in the child"
            )
        INHERITED.append(self._http)
        self._pid, self._forks = PROCESS.id, PROCESS.forks
        self._opening = threading.RLock()  # `on_retry` may use the client
        self._streams = Registry()
        mine = [item for item in self._conversations.items() if item._is_at_home()]
        self._conversations = Registry()
        for conversation in mine:
            self._conversations.add(conversation)
        self._service.forget()
        self._http = self._own_http()
        self._cleaner = self._new_cleaner()

    def _new_cleaner(self) -> Cleaner:
        if self._owned is None:
            return Cleaner(self, self._service, partial(nullcontext, self._http))
        proxy, transport = self._arguments["proxy"], self._arguments["transport"]
        return Cleaner(self, self._service, partial(new_http, httpx.Client, proxy, transport))

    def _drop(self, operation: Abandoned, player: Player | None) -> None:
        """Clean up what was dropped unclosed; called by the garbage collector."""
        self._service.drop(operation)
        self._cleaner.drop(player)

    def _abandon(self, operation: Abandoned, deadline: float) -> None:
        """Tell the server that the caller broke an operation off; what fails is left behind."""
        if is_reentrant():
            self._service.drop(operation)
            self._cleaner.finish(deadline)
            return
        try:
            Player(self, deadline).play(operation.abandon())
        except H2oError as error:
            self._service.leave_behind(operation, error)
        except Exception as error:  # noqa: BLE001 -- must not replace the error that led here
            logger.warning("the clean-up failed", exc_info=True)
            self._service.leave_behind(operation, error)
        except BaseException:  # Ctrl-C or a cancellation goes on, and nothing is forgotten for it
            self._service.leave_behind(operation, None)
            raise
