"""Conversations that remember.

The server keeps the history and builds the model's prompt from it, so only the new message is
sent [07_two_turns_and_retry]. `Talk` is what is true of one conversation: whether it exists yet,
what was seen of it, whether it is to be deleted at the end. `Ask` is one message in it.

The server takes one message at a time, and a message is sent only when the fate of the turn before
it is known: `Turns` sees to both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from h2o_client.errors import (
    ConversationBusyError,
    H2oError,
    NotFoundError,
    TermsNotAcceptedError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.address import is_id
from h2o_client.protocol.effects import Claim, Close, Flow, Head, Read, Send, Sleep
from h2o_client.protocol.payloads import check_flag, check_model, merge_parameters
from h2o_client.protocol.prompt import JS_SPACE, check_prompt
from h2o_client.protocol.queries import parse_share
from h2o_client.protocol.replies import (
    check_status,
    read_id,
    read_nothing,
    read_prompt_preview,
    read_share_url,
    read_title,
    unexpected,
)
from h2o_client.protocol.retries import Retries, RetryState, is_passing
from h2o_client.protocol.service import Service
from h2o_client.protocol.turn import Turn
from h2o_client.protocol.turns import Turns
from h2o_client.protocol.web_search import WebSearchParser
from h2o_client.types import Message, PromptPreview, Reply, WebSearchEntry

if TYPE_CHECKING:
    from h2o_client.protocol.data import ConversationData

_FIRST_POLL = 0.05
_MAX_TITLE = 100
_FORMAT = 1


class Talk:
    """One conversation.

    Args:
        service: the service.
        model: the model of a conversation that is made; None: the client's.
        conversation: the id of one to take up, or None.
        share: the id of a shared conversation to copy, or None.
        keep: whether it outlives this object; None: one taken up does, one made here does not.
        title: its title, if known.
        messages: what was said in it, as far as known.

    Attributes:
        id: the id; None before the first use.
        model: the model, or "" for one taken up and not read yet.
        title: the title, if known.
        messages: what was seen of it, in order.
        unanswered: the last message, if nothing came of it.
    """

    def __init__(
        self,
        service: Service,
        *,
        model: str | None = None,
        conversation: str | None = None,
        share: str | None = None,
        keep: bool | None = None,
        title: str | None = None,
        messages: Sequence[Message] = (),
    ) -> None:
        self._service = service
        self._share = share
        self._keep = conversation is not None if keep is None else check_flag("keep", keep)
        self._deleted = False
        # Whoever resumes the same conversation by its id shares it.
        self._turns = Turns() if conversation is None else service.claim(conversation, Turns())
        self._opening = Claim()
        self.unanswered: Message | None = None
        self.id = conversation
        taken_up = conversation is not None or share is not None
        self.model = model or ("" if taken_up else service.model)
        self.title = title
        self.messages = list(messages)

    @property
    def to_be_deleted(self) -> bool:
        """Whether there is something to delete at the end."""
        return self.id is not None and not self._keep and not self._deleted

    def ask(
        self,
        prompt: str | None,
        *,
        recover: bool | None,
        retries: Retries | int | None,
        parameters: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
        web_search: bool = False,
        on_web_search: Callable[[WebSearchEntry], object] | None = None,
    ) -> "Ask":
        """Prepare one message; `prompt` None asks the last one again.

        Raises:
            TypeError: an argument is of the wrong type, or none that there is.
            ValueError: an argument cannot be sent.
        """
        if prompt is not None:
            if not isinstance(prompt, str):
                raise TypeError(f"a message is text, not {type(prompt).__name__}")
            check_prompt(prompt)
        if on_web_search is not None and not callable(on_web_search):
            raise TypeError(f"on_web_search is a function, not {on_web_search!r}")
        merged = merge_parameters(self._service.parameters, parameters, keywords)
        return Ask(
            self._service,
            self,
            prompt,
            parameters=merged,
            recover=self._service.recover if recover is None else check_flag("recover", recover),
            retries=self._service.retry_state(retries),
            web_search=check_flag("web_search", web_search) or on_web_search is not None,
            on_web_search=on_web_search,
        )

    @property
    def stoppable(self) -> bool:
        """Whether a stop takes effect: a second one within a minute or so does not [11b]."""
        return self._turns.stoppable(self._service.ambient.clock())

    def begin(self) -> None:
        """Begin a turn.

        Raises:
            ConversationBusyError: another has not ended.
        """
        if not self._turns.take():
            raise ConversationBusyError(
                "the last message of this conversation is still being answered: read the answer "
                "to its end, or stop() it"
            )

    def end(self, turn: Turn | None) -> None:
        """End a turn, and note what was seen of it."""
        try:
            if turn is not None and turn.prompt:  # not stopped before it was known what to ask
                self._note(turn)
        finally:
            self._turns.free()

    def _note(self, turn: Turn) -> None:
        # Stored is what JavaScript's trim() leaves of the message, and its trimEnd() of the answer.
        prompt = turn.prompt.strip(JS_SPACE)
        self.unanswered = Message(role="user", content=prompt, id=turn.message_id)
        if not turn.asked:
            return
        self._turns.note(turn, self._service.ambient.clock())
        if turn.whole or turn.text or turn.stopping:
            self.unanswered = None
            before = [message.id for message in self.messages]
            if turn.message_id in before:  # asked again: it takes the place of the first
                del self.messages[before.index(turn.message_id) :]
            self.messages += [
                Message(role="user", content=prompt, id=turn.message_id),
                Message(
                    role="assistant",
                    content=turn.text.rstrip(JS_SPACE),
                    id=turn.response_id,
                    partial=not turn.whole,
                    web_search_id=turn.web_search_id or None,
                ),
            ]

    def open(self, retries: RetryState) -> Flow[str]:
        """Make the conversation if there is none yet, and return its id.

        However many begin with it at once, one of them makes it.
        """
        while self.id is None:
            if self._opening.take():
                try:
                    yield from self._service.open_session(retries, self._model)
                    if self.id is None:
                        yield from self._service.create(
                            self._model, retries, self._made, from_share=self._share
                        )
                finally:
                    self._opening.free()
            else:
                yield Sleep(_FIRST_POLL)
        return self.id

    def _made(self, conversation: str) -> None:
        self.id = conversation
        self._turns = self._service.claim(conversation, self._turns)

    @property
    def _model(self) -> str:
        """The model to ask for."""
        return self.model or self._service.model

    def wait_until_stored(
        self,
        retries: RetryState,
        patience: float | None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> "Flow[ConversationData | None]":
        """Wait until the server has stored the last turn, or surely will not.

        Args:
            retries: those of the call that waits: it may have a time limit.
            patience: seconds that a call without one waits at the most, or None.
            stopping: whether that call is to be stopped.

        Returns:
            What the server has stored, if it was read and the turn is in it.

        Raises:
            ConversationBusyError: it is not known in time, or a whole answer is not stored.
        """
        if self.id is None:
            return None
        waiting = self._turns.wait_until_stored(self._service, self.id, retries, patience, stopping)
        stored: ConversationData | None = yield from self.explained(waiting)
        known = () if stored is None else stored.messages
        found = {item.id: item.content for item in known if item.id is not None}
        self.messages = [
            replace(message, content=found.get(message.id or "", message.content))
            for message in self.messages
        ]
        return stored

    def refresh(self) -> Flow[list[Message]]:
        """Read title, model and messages from the server, and return the messages."""
        if self.id is None and self._share is None:
            return []
        retries = self._service.new_call()
        conversation = yield from self.open(retries)
        data = yield from self.wait_until_stored(retries, self._service.timeouts.idle)
        if data is None:
            data = yield from self.explained(self._service.data(conversation, retries))
        self.title = data.title
        self.model = data.model
        return list(data.messages)

    def rename(self, title: str) -> Flow[None]:
        """Give it a title.

        Raises:
            TypeError: it is no text.
            ValueError: it is blank, or longer than 100 characters [09_summarize_and_title].
        """
        if not isinstance(title, str):
            raise TypeError(f"a title is text, not {type(title).__name__}")
        title = title.strip()
        if not 0 < len(title.encode("utf-16-le")) // 2 <= _MAX_TITLE:
            raise ValueError(f"a title has 1 to {_MAX_TITLE} characters")
        retries = self._service.new_call()
        conversation = yield from self.open(retries)
        endpoints = self._service.endpoints
        yield from self.explained(
            self._service.call(lambda: endpoints.rename(conversation, title), read_nothing, retries)
        )
        self.title = title

    def summarize(self) -> Flow[str]:
        """Let the model name the conversation, and return the title."""
        retries = self._service.new_call()
        conversation = yield from self.open(retries)
        yield from self.wait_until_stored(retries, self._service.timeouts.idle)
        endpoints = self._service.endpoints
        title: str = yield from self.explained(
            self._service.call(lambda: endpoints.summarize(conversation), read_title, retries)
        )
        self.title = title
        return title

    def share(self) -> Flow[str]:
        """Share the conversation as it is now, and return the URL."""
        retries = self._service.new_call()
        conversation = yield from self.open(retries)
        yield from self.wait_until_stored(retries, self._service.timeouts.idle)
        endpoints = self._service.endpoints
        url: str = yield from self.explained(
            self._service.call(lambda: endpoints.share(conversation), read_share_url, retries)
        )
        return url

    def vote(self, message_id: str, score: int) -> Flow[None]:
        """Vote on a message.

        Raises:
            TypeError: the id is no text.
            ValueError: the score is neither -1 nor 0 nor 1.
        """
        check_message_id(message_id)
        if isinstance(score, bool) or score not in (-1, 0, 1):
            raise ValueError(f"a vote is -1, 0 or 1, not {score!r}")
        retries = self._service.new_call()
        conversation = yield from self.open(retries)
        yield from self.wait_until_stored(retries, self._service.timeouts.idle)
        endpoints = self._service.endpoints
        yield from self.explained(
            self._service.call(
                lambda: endpoints.vote(conversation, message_id, score), read_nothing, retries
            )
        )

    def prompt(self, message_id: str) -> Flow[PromptPreview]:
        """Read the prompt as the model would get it if a message were asked again."""
        check_message_id(message_id)
        retries = self._service.new_call()
        conversation = yield from self.open(retries)
        yield from self.wait_until_stored(retries, self._service.timeouts.idle)
        endpoints = self._service.endpoints
        preview: PromptPreview = yield from self.explained(
            self._service.call(
                lambda: endpoints.prompt(conversation, message_id), read_prompt_preview, retries
            )
        )
        return preview

    def delete(self) -> Flow[None]:
        """Delete the conversation now, whatever `keep` says.

        Raises:
            ConversationBusyError: an answer is running in it: stop it first.
        """
        if self.id is not None and not self._deleted:
            # What is deleted cannot be stopped any more, and goes on generating [15_delete].
            self.begin()
            try:
                yield from self._service.delete(self.id, self._service.new_call())
                self._deleted = True
            finally:
                self._turns.free()

    def abandon(self) -> Flow[None]:
        """Delete the conversation, if it is not to be kept."""
        if self.id is not None and self.to_be_deleted:
            yield from self._service.delete(self.id, None)
            self._deleted = True

    def explained(self, flow: Flow[Any]) -> Flow[Any]:
        """Play a flow; where the server no longer has the conversation, say what can be done."""
        try:
            return (yield from flow)
        except NotFoundError as error:
            if not error.message.startswith("Conversation not found"):
                raise
            lost = error
        raise NotFoundError(
            "the server no longer has this conversation, or it belongs to another session "
            "(what was seen of it is in `messages`; client.chat(messages) can go on from there)",
            partial=lost.partial,
            status=lost.status,
            message=lost.message,
            body=lost.body,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the conversation in a form for JSON; the session is not in it."""
        return {
            "format": _FORMAT,
            "id": self.id,
            "title": self.title,
            "model": self.model,
            "messages": [_message_to_dict(message) for message in self.messages],
            # Of one that was not copied yet.
            **({"share": self._share} if self.id is None and self._share is not None else {}),
        }

    @classmethod
    def from_dict(cls, service: Service, saved: object, *, keep: bool | None) -> "Talk":
        """Take up a conversation that `to_dict()` saved.

        Raises:
            TypeError: it is no mapping.
            ValueError: it is not what `to_dict()` made.
        """
        if not isinstance(saved, Mapping):
            raise TypeError(f"a saved conversation is a mapping, not {type(saved).__name__}")
        if saved.get("format") != _FORMAT:
            raise ValueError("this is no saved conversation, or one of another version")
        conversation, title, model = saved.get("id"), saved.get("title"), saved.get("model")
        if conversation is not None:
            read_id(conversation)
        for name, value in (("title", title), ("model", model)):
            if value is not None and not isinstance(value, str):
                raise ValueError(f"the saved conversation has a {name} that is no text")
        share = saved.get("share")
        if share is not None:
            try:
                parse_share(share)
            except TypeError as error:
                raise ValueError(
                    f"the saved conversation has a share that is none: {error}"
                ) from None
        messages = saved.get("messages")
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise ValueError("the saved conversation has no messages")
        return cls(
            service,
            model=model,
            conversation=conversation,
            share=share,
            keep=keep,
            title=title,
            messages=[_message_from_dict(message) for message in messages],
        )


class Ask:
    """One message of a conversation, and its answer.

    Args:
        service: the service.
        talk: the conversation.
        prompt: the message; None: the last one, again.
        parameters: all generation parameters.
        recover: whether to recover the answer if its connection is lost.
        retries: the retries of the call.
        web_search: whether to search the web first.
        on_web_search: called with each entry of the search as it comes.
    """

    def __init__(
        self,
        service: Service,
        talk: Talk,
        prompt: str | None,
        *,
        parameters: Mapping[str, Any],
        recover: bool,
        retries: RetryState,
        web_search: bool,
        on_web_search: Callable[[WebSearchEntry], object] | None,
    ) -> None:
        self._service = service
        self._talk = talk
        self._prompt = prompt
        self._parameters = parameters
        self._recover = recover
        self._web_search = web_search
        self._on_web_search = on_web_search
        self._retries = retries
        self._stopping = False
        self._turn: Turn | None = None

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        return "" if self._turn is None else self._turn.text

    @property
    def done(self) -> bool:
        """Whether nothing more comes of the answer: what `run()` still does is clean up."""
        return self._turn is not None and self._turn.done

    def run(self) -> Flow[Reply]:
        """Do it all, emitting tokens as they arrive.

        Raises:
            ConversationBusyError: the last message is still being answered.
            ValueError: there is no message to ask again.
        """
        if self._stopping:  # before it began: another may well be running
            return (yield from self._stopped())
        self._talk.begin()
        try:
            return (yield from self._run())
        finally:
            self._talk.end(self._turn)

    def _run(self) -> Flow[Reply]:
        self._service.begin(self._retries)
        try:
            yield from self._prepare()
        except TransportError:
            if not self._stopping:  # else it is how stop() woke this flow
                raise
        turn = self._turn
        if turn is None:  # stopped before there was anything to ask
            return (yield from self._stopped())
        turn.stopping = turn.stopping or self._stopping
        reply: Reply = yield from self._talk.explained(turn.run(self._talk.id or ""))
        return reply

    def _stopped(self) -> Flow[Reply]:
        """Return the reply to a message that was stopped before it was known what to ask."""
        self._turn = self._new_turn(self._prompt or "", None)
        self._turn.stopping = True
        return (yield from self._turn.run(self._talk.id or ""))

    def _prepare(self) -> Flow[None]:
        """Do what comes before the message, as far as the caller does not stop it."""
        talk = self._talk
        if self._stopping:
            return
        conversation = yield from talk.open(self._retries)
        patience = self._service.timeouts.first_token
        yield from talk.wait_until_stored(self._retries, patience, lambda: self._stopping)
        if self._stopping:
            return
        if self._prompt is not None:
            self._turn = self._new_turn(self._prompt, None)
        else:
            last = yield from self._last_message(conversation)
            self._turn = self._new_turn(last.content, last.id)
        if self._web_search and not self._stopping:
            yield from talk.explained(self._search(conversation, self._turn))

    def stop(self) -> Flow[None]:
        """Tell the server that the caller has enough; `run()` ends with what is there."""
        self._stopping = True
        if self._turn is not None:
            yield from self._turn.stop()

    def abandon(self) -> Flow[None]:
        """Tell the server to stop generating."""
        if self._turn is not None:
            yield from self._turn.abandon()

    def _new_turn(self, prompt: str, message_id: str | None) -> Turn:
        return Turn(
            self._service,
            prompt,
            model=self._talk.model,
            parameters=self._parameters,
            retries=self._retries,
            recover=self._recover,
            message_id=message_id,
            stoppable=self._talk.stoppable,
        )

    def _last_message(self, conversation: str) -> Flow[Message]:
        """Return the last message that was asked, as seen here, else as the server has it."""
        if self._talk.unanswered is not None:
            return self._talk.unanswered
        messages: Sequence[Message] = self._talk.messages
        if not messages and conversation:
            data = yield from self._talk.explained(self._service.data(conversation, self._retries))
            messages = data.messages
        for message in reversed(messages):
            if message.role == "user" and message.id is not None:
                return message
        raise ValueError("there is no message to ask again: send one first")

    def _search(self, conversation: str, turn: Turn) -> Flow[None]:
        """Search the web; again, where that may be and no entry was given out yet."""
        service = self._service
        reopen = True
        while not self._stopping:
            openings = service.session.openings
            try:
                return (yield from self._search_once(conversation, turn))
            except TermsNotAcceptedError:
                if not reopen:
                    raise
                reopen = False
                service.session_lost(openings)
                delay = None
            except H2oError as error:
                if turn.web_search or not is_passing(error):
                    raise
                delay = service.next_delay(self._retries, error)
                if delay is None:
                    raise
            if delay is None:
                yield from service.open_session(self._retries)
            else:
                yield Sleep(delay)

    def _search_once(self, conversation: str, turn: Turn) -> Flow[None]:
        """Search the web. The response is never closed by the server [16_web_search]."""
        service = self._service
        clock = service.ambient.clock
        until, limit = self._until()
        request = service.endpoints.web_search(conversation, turn.prompt)
        connect = service.connecting(self._retries.deadline)
        head: Head = yield Send(request, _left(until, clock), connect, limit)
        yield from service.accept(head)
        if head.status != 200:
            body = yield from service.read_body(head, until, limit)
            check_status(head, body, request)
            raise unexpected(head, body, "the web search")
        parser = WebSearchParser()
        until, limit = self._until()
        while parser.result is None and not self._stopping:
            left = _left(until, clock)
            if left is not None and left <= 0:
                yield Close()
                raise TransportTimeoutError.struck(limit, None)
            chunk: bytes = yield Read(left, limit)
            entries = parser.feed(chunk)
            if entries:  # only these are a sign of the search
                until, limit = self._until()
            for entry in entries:
                turn.web_search.append(entry)
                if self._on_web_search is not None:
                    self._on_web_search(entry)
            if not chunk and not self._stopping:
                parser.finish()
        yield Close()
        turn.web_search_id = parser.result or ""

    def _until(self) -> tuple[float | None, str]:
        """Return when a silence that begins now is too long, and which limit that is."""
        service = self._service
        within, limit = service.within(service.timeouts.idle, "idle", self._retries.deadline)
        return (None if within is None else service.ambient.clock() + within), limit


def _left(until: float | None, clock: Callable[[], float]) -> float | None:
    return None if until is None else until - clock()


def new_talk(
    service: Service,
    *,
    model: str | None,
    keep: bool | None,
    id: str | None,  # noqa: A002 -- as callers write it
    from_share: str | None,
) -> Talk:
    """Make a conversation of the arguments of `H2oClient.conversation()`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument cannot be meant, or two contradict each other.
    """
    if id is not None and from_share is not None:
        raise ValueError("give `id` or `from_share`, not both")
    if model is not None:
        check_model(model)
        if id is not None or from_share is not None:
            raise ValueError("a conversation that there is has its model: leave `model` out")
    return Talk(
        service,
        model=model,
        conversation=None if id is None else read_id(id),
        share=None if from_share is None else parse_share(from_share),
        keep=keep,
    )


def check_message_id(message_id: object) -> None:
    """Raise if this cannot be a message's id.

    Raises:
        TypeError: it is not text.
        ValueError: it is not 1 to 64 letters, digits, - and _.
    """
    if not isinstance(message_id, str):
        raise TypeError(f"a message id is text, not {type(message_id).__name__}")
    if not is_id(message_id):
        raise ValueError("this is not a message's id: 1 to 64 letters, digits, - and _")


def _message_to_dict(message: Message) -> dict[str, Any]:
    saved: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.id is not None:
        saved["id"] = message.id
    if message.partial:
        saved["partial"] = True
    return saved


def _message_from_dict(saved: object) -> Message:
    if not isinstance(saved, Mapping):
        raise ValueError("the saved conversation has a message that is no mapping")
    role, content, number = saved.get("role"), saved.get("content"), saved.get("id")
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError("the saved conversation has a message without role or content")
    if number is not None and not is_id(number):
        raise ValueError("the saved conversation has a message whose id is not valid")
    return Message(role=role, content=content, id=number, partial=saved.get("partial") is True)
