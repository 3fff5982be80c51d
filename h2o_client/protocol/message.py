"""One message of a conversation, and its answer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from h2o_client.errors import H2oError, TransportError
from h2o_client.protocol import conversations
from h2o_client.protocol.conversation import ConversationCore, check_message_id
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import StoredConversation
from h2o_client.protocol.effects import Close, Flow, Read
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.files import check_files
from h2o_client.protocol.outcomes import is_transient
from h2o_client.protocol.payloads import check_flag, merge_parameters
from h2o_client.protocol.place import Place
from h2o_client.protocol.prompt import check_prompt
from h2o_client.protocol.replies import check_status, unexpected
from h2o_client.protocol.retries import Call, Retries, as_retries
from h2o_client.protocol.state import Life, State
from h2o_client.protocol.turn import Turn
from h2o_client.types import File, Message, Reply, WebSearchEntry


class MessageOperation:
    """One message of a conversation, and its answer.

    Args:
        exchange: sends its requests.
        conversation: the conversation.
        prompt: the message; None to send the last one again.
        recover: whether to recover the answer if its connection is lost; None for the client's
            setting.
        retries: the call's retries; None for the client's.
        parameters: the call's mapping of parameters, or None.
        keywords: the call's keyword parameters.
        web_search: whether to search the web first.
        on_web_search: called with each entry of the search as it arrives.
        parent: the id of the message that it follows; None for the last one.
        files: the files to send with it.

    Attributes:
        life: the state of the stream.

    Raises:
        TypeError: an argument has the wrong type or an unknown name.
        ValueError: an argument is not valid.
    """

    def __init__(
        self,
        exchange: Exchange,
        conversation: ConversationCore,
        prompt: str | None,
        *,
        recover: bool | None,
        retries: Retries | int | None,
        parameters: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
        web_search: bool = False,
        on_web_search: Callable[[WebSearchEntry], object] | None = None,
        parent: str | None = None,
        files: tuple[File, ...] = (),
    ) -> None:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise TypeError(f"a message must be a string, not {type(prompt).__name__}")
            check_prompt(prompt)
        if on_web_search is not None and not callable(on_web_search):
            raise TypeError(f"on_web_search must be a function, not {on_web_search!r}")
        configuration = exchange.configuration
        self._exchange = exchange
        self._conversation = conversation
        self._prompt = prompt
        self._parameters = merge_parameters(configuration.parameters, parameters, keywords)
        self._recover = configuration.recover if recover is None else check_flag("recover", recover)
        self._retries = None if retries is None else as_retries(retries)
        self._web_search = check_flag("web_search", web_search) or on_web_search is not None
        self._on_web_search = on_web_search
        if parent is not None:
            check_message_id(parent)
        self._parent = parent
        self._files = files
        self.life = Life()
        self._turn: Turn | None = None

    @property
    def text(self) -> str:
        """The part of the answer that has arrived."""
        return "" if self._turn is None else self._turn.text

    @property
    def _stopping(self) -> bool:
        return self.life.state is State.STOPPING

    @property
    def only_deletes(self) -> bool:
        """Whether it only deletes a conversation, whose answers another operation stops."""
        return False

    @property
    def creating(self) -> bool:
        """Always False: the conversation itself tracks whether it is being created."""
        return False

    def run(self) -> Flow[Reply]:
        """Run the operation, emitting tokens as they arrive.

        Raises:
            ConversationBusyError: the last message is still being answered.
            ValueError: the conversation does not have a message to send again.
        """
        call = self._exchange.call(self._retries)
        self.life.move(State.OPEN)
        if self._stopping:  # before it began, and another message may be running
            return (yield from self._stopped(call))
        self._conversation.begin()
        self._exchange.session.begin(self)
        try:
            reply = yield from self._run(call)
            self._exchange.session.end(self)
            return reply
        finally:
            self._conversation.end(self._turn)

    def _run(self, call: Call) -> Flow[Reply]:
        try:
            yield from self._prepare(call)
        except TransportError:
            if not self._stopping:  # otherwise stop() has woken this flow
                raise
        turn = self._turn
        if turn is None:  # stopped before the prompt was known
            return (yield from self._stopped(call))
        conversation = self._conversation
        try:
            return (yield from conversation.explained(turn.run(conversation.id or "", call)))
        except ValueError:
            if not turn.asked:
                self._turn = None  # the parent is wrong, so the message must not be retried
            raise

    def _stopped(self, call: Call) -> Flow[Reply]:
        """Return the reply to a message that was stopped before it was sent."""
        self._turn = self._new_turn(self._prompt or "", None)
        return (yield from self._turn.run(self._conversation.id or "", call))

    def _prepare(self, call: Call) -> Flow[None]:
        """Do everything that precedes the message, until the caller stops it."""
        conversation, exchange = self._conversation, self._exchange
        if conversation.id is None or not exchange.configuration.share:
            yield from exchange.open_session(call)
        needs_tree = bool(self._files or self._parent)
        if needs_tree or (exchange.untried and self._parameters and conversation.id is None):
            yield from exchange.ask_dialect(call)
        if conversation.id is None:  # check before creating a conversation
            exchange.require(
                parameters=self._parameters,
                files=self._files,
                branches=self._parent,
                web_search=self._web_search,
            )
        conversation_id = yield from conversation.open(call)
        patience = exchange.configuration.timeouts.first_token
        stored = yield from conversation.wait_until_stored(call, patience, lambda: self._stopping)
        if self._stopping:
            return
        new_place = partial(Place, message_ids=conversation.message_ids)
        if self._prompt is not None:
            place = new_place(conversation.tip, chosen=self._parent, stored=stored)
            turn = self._new_turn(self._prompt, None, place)
        elif (lost := conversation.unanswered) is not None:
            self._files = lost.files
            parent, beside = lost.place.parent, lost.place.beside
            place = new_place(chosen=parent, beside=beside, again=lost.find, stored=stored)
            turn = self._new_turn(lost.prompt, lost.message_id, place)
        else:
            last, stored = yield from self._last_message(conversation_id, stored, call)
            place = new_place(again=lambda found: found.answer_to(last.id), stored=stored)
            turn = self._new_turn(last.content, last.id, place)
        if self._files and exchange.dialect.has_tree:
            model = yield from conversation.known_model(call)
            yield from check_files(exchange, self._files, model, call)
        self._turn = turn
        if self._web_search and not self._stopping:
            yield from conversation.explained(self._search(conversation_id, self._turn, call))

    def stop(self) -> Flow[None]:
        """Tell the server to stop; `run()` then returns the text that has arrived."""
        self.life.move(State.STOPPING)
        if self._turn is not None:
            yield from self._turn.stop()

    def abandon(self, deadline: Deadline) -> Flow[None]:
        """Tell the server to stop generating."""
        if self._turn is not None:
            yield from self._turn.abandon(deadline)
        self._exchange.session.end(self)

    def _new_turn(self, prompt: str, replaces: str | None, place: Place | None = None) -> Turn:
        return Turn(
            self._exchange,
            prompt,
            model=self._conversation.model,
            parameters=self._parameters,
            recover=self._recover,
            life=self.life,
            message_id=None if self._exchange.dialect.has_tree else replaces,
            stoppable=self._conversation.stoppable,
            place=place,
            files=self._files,
        )

    def _last_message(
        self, conversation_id: str, stored: StoredConversation | None, call: Call
    ) -> Flow[tuple[Message, StoredConversation | None]]:
        """Return the last message that was sent, and the stored conversation if it was read."""
        conversation, has_tree = self._conversation, self._exchange.dialect.has_tree
        messages: Sequence[Message] = conversation.messages
        if has_tree or not messages:  # another client may have added messages to a tree
            if stored is None:
                reading = conversations.stored(self._exchange, conversation_id, call)
                stored = yield from conversation.explained(reading)
            messages = stored.messages
        for message in reversed(messages):
            if message.role == "user" and (message.id is not None or has_tree):
                return message, stored
        raise ValueError("this conversation does not have a message to retry: send one first")

    # The web search

    def _search(self, conversation_id: str, turn: Turn, call: Call) -> Flow[None]:
        """Search the web; retry if that is safe and the caller has not received any entry."""

        def may_repeat(error: H2oError) -> bool:
            return is_transient(error) and not turn.web_search

        yield from self._exchange.repeat(
            lambda: self._search_once(conversation_id, turn, call), call, may_repeat
        )

    def _search_once(self, conversation_id: str, turn: Turn, call: Call) -> Flow[None]:
        """Search the web. The server never closes the response."""  # 16_web_search
        if self._stopping:
            return
        exchange = self._exchange
        idle = exchange.configuration.timeouts.idle
        silence = call.deadline.or_earlier(idle, "idle")
        request = exchange.dialect.web_search(conversation_id, turn.prompt)
        head = yield from exchange.send(request, silence, call)
        if head.status != 200:
            body = yield from exchange.read_body(silence)
            check_status(head, body, request)
            raise unexpected(head, body, "the web search")
        parser = exchange.dialect.web_search_parser()
        silence = call.deadline.or_earlier(idle, "idle")
        while parser.result is None and not self._stopping:
            if silence.expired():
                yield Close()
                raise silence.exceeded(begun=True)
            chunk: bytes = yield Read(silence)
            entries = parser.feed(chunk)
            if entries:  # anything else does not show progress
                silence = call.deadline.or_earlier(idle, "idle")
            for entry in entries:
                turn.web_search.append(entry)
                if self._on_web_search is not None:
                    self._on_web_search(entry)
            if not chunk and not self._stopping:
                parser.finish()
        yield Close()
        turn.web_search_id = parser.result or ""
