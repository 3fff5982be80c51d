"""Conversations with memory.

The server keeps the history and builds the model's prompt from it, so only the new message is
sent. `ConversationCore` is the state of one conversation: whether it exists yet, the messages seen
so far, whether to delete it at the end.

The server accepts one message at a time, and a message is sent only when the fate of the previous
turn is known: `Turns` ensures both.
"""

# 07_two_turns_and_retry: the server keeps the history.

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from h2o_client.errors import ConversationBusyError, ForbiddenError, NotFoundError
from h2o_client.protocol import conversations
from h2o_client.protocol.address import is_id
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import Query, StoredConversation
from h2o_client.protocol.effects import Flow, Lock, Sleep
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.payloads import check_flag, check_model
from h2o_client.protocol.place import settled
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.queries import parse_share
from h2o_client.protocol.replies import read_id
from h2o_client.protocol.retries import Call
from h2o_client.protocol.turn import Turn
from h2o_client.protocol.turns import Turns
from h2o_client.types import Message, PromptPreview

_FIRST_POLL = 0.05
_MAX_TITLE = 100
T = TypeVar("T")


class ConversationCore:
    """One conversation.

    Args:
        exchange: sends its requests.
        model: the model of a new conversation; None for the client's.
        conversation: the id of a conversation to resume, or None.
        share: the id of a shared conversation to copy, or None.
        keep: whether to keep it on the server; None to keep a resumed one and delete a new one.
        title: its title, if known.
        messages: its messages, if known.

    Attributes:
        id: the id; None before the first use.
        model: the model, or "" for a resumed conversation that was not read yet.
        title: the title, if known.
        messages: the messages seen so far, in order.
        unanswered: the last turn, if it got no answer.
        copy_of: the id of the shared conversation that this is a copy of, or None.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        model: str | None = None,
        conversation: str | None = None,
        share: str | None = None,
        keep: bool | None = None,
        title: str | None = None,
        messages: Sequence[Message] = (),
    ) -> None:
        self._exchange = exchange
        self.copy_of = share
        self._keep = conversation is not None if keep is None else check_flag("keep", keep)
        self._deleted = False
        self._turns = Turns()
        if conversation is not None:  # shared by all objects that resume the same conversation
            self._turns = exchange.session.turns_of(conversation, self._turns)
        self._opening = Lock()
        self.unanswered: Turn | None = None
        self.id = conversation
        self._resumed = conversation is not None
        resumed = conversation is not None or share is not None
        self._named_model = model
        self.model = model or ("" if resumed else exchange.model or "")
        self.title = title
        self.messages = list(messages)

    @property
    def to_be_deleted(self) -> bool:
        """Whether it must be deleted at the end."""
        return self.id is not None and not self._keep and not self._deleted

    @property
    def only_deletes(self) -> bool:
        """Whether it only deletes a conversation, whose answers another operation stops."""
        return True

    @property
    def creating(self) -> bool:
        """Whether the request that creates it is in progress."""
        return self._made in self._exchange.session.creating

    @property
    def tip(self) -> str | None:
        """In a tree, the id of the message that the next one follows, if known."""
        return self._turns.tip

    @property
    def stoppable(self) -> bool:
        """Whether a stop takes effect: a second one within about a minute does not."""
        return self._turns.stoppable(self._exchange.ambient.clock())

    def message_ids(self, stored: StoredConversation) -> Mapping[str, str]:
        """Return the ids of the answers in a tree, by the ids of their generations."""
        return self._turns.message_ids(self._exchange, stored)

    def begin(self) -> None:
        """Begin a turn.

        Raises:
            ConversationBusyError: another turn has not ended.
        """
        if not self._turns.acquire():
            raise ConversationBusyError(
                "the last message of this conversation is still being answered: read the answer "
                "to its end, or stop() it"
            )

    def end(self, turn: Turn | None) -> None:
        """End a turn, and record what was seen of it."""
        try:
            if turn is not None and turn.prompt:  # "" if it was stopped before the prompt was known
                self._note(turn)
        finally:
            self._turns.release()

    def _note(self, turn: Turn) -> None:
        # The server stores the answer after JavaScript's trimEnd(), and 2023 servers the message
        # after trim().
        has_tree = self._exchange.dialect.has_tree
        prompt = turn.prompt if has_tree else turn.prompt.strip(JS_SPACE)
        message_id, answer_id = (None, None) if has_tree else (turn.message_id, turn.response_id)
        if turn.asked or turn.place.again is None:  # else it is a retry of `unanswered` itself
            self.unanswered = turn
        if not turn.asked:
            return
        if turn.title:
            self.title = turn.title
        self._turns.note(turn, self._exchange.ambient.clock())
        if turn.whole or turn.text or turn.answered:
            self.unanswered = None
            if turn.place.branch is not None:
                self.messages = list(turn.place.branch)
            before = [message.id for message in self.messages]
            if has_tree:
                if turn.place.beside:
                    del self.messages[-2:]
            elif turn.message_id in before:  # sent again: it replaces the first one
                del self.messages[before.index(turn.message_id) :]
            self.messages += [
                Message(role="user", content=prompt, id=message_id),
                Message(
                    role="assistant",
                    content=turn.text.rstrip(JS_SPACE),
                    id=answer_id,
                    partial=not turn.whole,
                    web_search_id=turn.web_search_id or None,
                ),
            ]

    def open(self, call: Call) -> Flow[str]:
        """Create the conversation if it does not exist yet, and return its id.

        If several calls need it at the same time, only one of them creates it.
        """
        while self.id is None:
            if self._opening.acquire():
                try:
                    yield from self._exchange.open_session(call, self._named_model)
                    if self.id is None:
                        model = yield from self._exchange.choose_model(self._named_model, call)
                        if not self._keep:
                            self._exchange.session.begin(self)
                        self._turns.tip = yield from conversations.create(
                            self._exchange,
                            self._named_model,
                            call,
                            self._made,
                            from_share=self.copy_of,
                        )
                        if self.copy_of is None:
                            self.model = self._named_model or self._exchange.model or model
                finally:
                    self._opening.release()
            else:
                call.deadline.check()
                yield Sleep(_FIRST_POLL)
        return self.id

    def _made(self, conversation: str) -> None:
        self.id = conversation
        self._turns = self._exchange.session.turns_of(conversation, self._turns)

    def known_model(self, call: Call) -> Flow[str]:
        """Return the model; for a resumed conversation it is read from the server."""
        if not self.model:
            stored = conversations.stored(self._exchange, self.id or "", call)
            self.model = (yield from self.explained(stored)).model
        return self.model

    def wait_until_stored(
        self, call: Call, patience: float | None, stopping: Callable[[], bool] = lambda: False
    ) -> Flow[StoredConversation | None]:
        """Wait until the server has stored the last turn, or certainly will not store it.

        Args:
            call: the call that waits; it may have a time limit.
            patience: the maximum wait of a call without a time limit, in seconds, or None.
            stopping: whether the caller has asked to stop.

        Returns:
            The stored conversation, if it was read and contains the turn.

        Raises:
            ConversationBusyError: this is not known in time, or a whole answer is not stored.
        """
        if self.id is None:
            return None
        waiting = self._turns.wait_until_stored(self._exchange, self.id, call, patience, stopping)
        stored = yield from self.explained(waiting)
        if stored is None:
            return None
        if self._exchange.dialect.has_tree:
            self.title, self.messages = stored.title, list(stored.messages)
            return stored
        found = {item.id: item.content for item in stored.messages if item.id is not None}
        self.messages = [
            replace(message, content=found.get(message.id or "", message.content))
            for message in self.messages
        ]
        return stored

    def refresh(self) -> Flow[list[Message]]:
        """Read title, model and messages from the server, and return the messages."""
        if self.id is None and self.copy_of is None:
            return []
        call = self._exchange.call()
        conversation = yield from self.open(call)
        data = yield from self._wait_patiently(call)
        if data is None:
            stored = conversations.stored(self._exchange, conversation, call)
            data = yield from self.explained(stored)
        self.title = data.title
        self.model = data.model
        return list(data.messages)

    def rename(self, title: str) -> Flow[None]:
        """Give it a title.

        Raises:
            TypeError: it is not a string.
            ValueError: it is blank, or longer than 100 characters.
        """
        if not isinstance(title, str):
            raise TypeError(f"title must be a string, not {type(title).__name__}")
        title = title.strip()
        # 09_summarize_and_title: the server counts UTF-16 units.
        if not 0 < len(title.encode("utf-16-le")) // 2 <= _MAX_TITLE:
            raise ValueError(f"title must have 1 to {_MAX_TITLE} characters")
        exchange, call = self._exchange, self._exchange.call()
        where = yield from self.open(call)
        if exchange.untried:
            yield from exchange.ask_dialect(call)
        overwritten = exchange.dialect.has_tree
        if overwritten:  # by a run at its end
            self.begin()
        try:
            if overwritten:
                stored = yield from self._wait_patiently(call)
                if self.tip is None:  # else nothing was said in it yet
                    yield from self.explained(settled(exchange, where, call, stored))
            rename = exchange.query(lambda: exchange.dialect.rename(where, title), call)
            yield from self.explained(rename)
        finally:
            if overwritten:
                self._turns.release()
        self.title = title

    def summarize(self) -> Flow[str]:
        """Have the model generate a title, and return it."""
        yield from self._require("summarize")
        title = yield from self._about(lambda where: self._exchange.dialect.summarize(where))
        self.title = title
        return title

    def share(self) -> Flow[str]:
        """Share the conversation in its current state, and return the URL."""
        url = yield from self._about(lambda where: self._exchange.dialect.share(where))
        if url.startswith("/"):
            call, exchange = self._exchange.call(), self._exchange
            prefix = yield from exchange.query(lambda: exchange.dialect.share_prefix(), call)
            url = (prefix or exchange.configuration.address.url) + url
        return url

    def vote(self, message_id: str, score: int) -> Flow[None]:
        """Vote on a message.

        Raises:
            TypeError: the id is not a string.
            ValueError: the score is not -1, 0 or 1.
        """
        check_message_id(message_id)
        if isinstance(score, bool) or score not in (-1, 0, 1):
            raise ValueError(f"score must be -1, 0 or 1, not {score!r}")
        yield from self._require("vote")
        yield from self._about(lambda where: self._exchange.dialect.vote(where, message_id, score))

    def prompt(self, message_id: str) -> Flow[PromptPreview]:
        """Read the prompt that the model would get if a message were sent again."""
        check_message_id(message_id)
        number = message_id
        if self._exchange.dialect.has_tree and self.id is not None:
            # A reply only has the id of its generation.
            reading = conversations.stored(self._exchange, self.id, self._exchange.call())
            stored = yield from self.explained(reading)
            number = stored.message_id(message_id, self.message_ids(stored))
        return (yield from self._about(lambda where: self._exchange.dialect.prompt(where, number)))

    def delete(self) -> Flow[None]:
        """Delete the conversation now, whatever the value of `keep`.

        Raises:
            ConversationBusyError: an answer is still running: stop it first.
        """
        if self.id is not None and not self._deleted:
            # 15_delete: once deleted, a conversation cannot be stopped, and goes on generating.
            exchange, call = self._exchange, self._exchange.call()
            self.begin()
            try:
                if self._resumed:
                    yield from self._stop_others(self.id, call)
                yield from conversations.delete(exchange, self.id, call)
                self._deleted = True
                self._exchange.session.end(self)
            finally:
                self._turns.release()

    def _stop_others(self, conversation: str, call: Call) -> Flow[None]:
        """Stop another client's answer, which would be generated to its end after a deletion.

        In a tree, a stop that finds nothing to stop only affects the next answer.
        """
        exchange = self._exchange
        if exchange.untried:
            yield from exchange.ask_dialect(call)
        if exchange.dialect.has_tree:
            number = exchange.ambient.uuid4()
            stop = exchange.query(lambda: exchange.dialect.stop(conversation, number, ""), call)
            with contextlib.suppress(NotFoundError):
                yield from stop

    def abandon(self, deadline: Deadline) -> Flow[None]:
        """Delete the conversation, if it is not to be kept."""
        if self.id is not None and self.to_be_deleted:
            yield from conversations.delete_once(self._exchange, self.id, deadline)
            self._deleted = True
        if not self.creating:
            self._exchange.session.end(self)

    def _require(self, capability: str) -> Flow[None]:
        """Raise if the server lacks a capability, before a conversation is created for it."""
        if self.id is None:
            yield from self._exchange.open_session(self._exchange.call(), self._named_model)
        if self._exchange.recognised:
            self._exchange.require(**{capability: True})

    def _wait_patiently(self, call: Call) -> Flow[StoredConversation | None]:
        """Wait until the last turn is stored, before a request that reads or changes it."""
        return (yield from self.wait_until_stored(call, self._exchange.configuration.timeouts.idle))

    def _about(self, build: Callable[[str], Query[T]]) -> Flow[T]:
        """Send a request about the turns, the last of which must be stored first.

        The conversation is created first if necessary.
        """
        call = self._exchange.call()
        conversation = yield from self.open(call)
        yield from self._wait_patiently(call)
        return (yield from self.explained(self._exchange.query(lambda: build(conversation), call)))

    def explained(self, flow: Flow[T]) -> Flow[T]:
        """Run a flow; if the server no longer has the conversation, explain what to do."""
        try:
            return (yield from flow)
        except (NotFoundError, ForbiddenError) as error:
            # chat-ui-main-2026-08/11_history: it belongs to another session.
            if not error.message.startswith(("Conversation not found", "You don't have access")):
                raise
            lost = error
        raise NotFoundError(
            "the server no longer has this conversation, or it belongs to another session "
            "(the messages seen so far are in `messages`; client.chat(messages) can continue from "
            "there)",
            partial=lost.partial,
            status=lost.status,
            message=lost.message,
            body=lost.body,
        )


def new_conversation(
    exchange: Exchange,
    *,
    model: str | None,
    keep: bool | None,
    id: str | None,  # noqa: A002 -- as callers write it
    from_share: str | None,
) -> ConversationCore:
    """Make a conversation from the arguments of `H2oClient.conversation()`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is not valid, or two arguments contradict each other.
    """
    if id is not None and from_share is not None:
        raise ValueError("pass `id` or `from_share`, not both")
    if model is not None:
        check_model(model)
        if id is not None or from_share is not None:
            raise ValueError("an existing conversation has its own model: omit `model`")
    return ConversationCore(
        exchange,
        model=model,
        conversation=None if id is None else read_id(id),
        share=None if from_share is None else parse_share(from_share),
        keep=keep,
    )


def check_message_id(message_id: object) -> None:
    """Check the id of a message.

    Raises:
        TypeError: it is not a string.
        ValueError: it is not 1 to 64 letters, digits, - and _.
    """
    if not isinstance(message_id, str):
        raise TypeError(f"message_id must be a string, not {type(message_id).__name__}")
    if not is_id(message_id):
        raise ValueError("not a valid message id: expected 1 to 64 letters, digits, - and _")
