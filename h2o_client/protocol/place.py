"""The place of a message in a conversation that the server keeps as a tree."""

from collections.abc import Callable, Mapping

from h2o_client.errors import ConversationBusyError
from h2o_client.protocol import conversations
from h2o_client.protocol.dialect import StoredAnswer, StoredConversation
from h2o_client.protocol.effects import Flow, Sleep
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.retries import Call
from h2o_client.types import Message

_POLL = 1.0  # seconds between two polls for the end of another client's answer
_DEAD = 100.0  # seconds without change that show that the server died; it reports this after 90
_BUSY = (
    "the server is still generating another client's answer in this conversation: nothing was "
    "sent, as one of the two would be lost (wait and call again, or start a new conversation with "
    "client.chat(messages))"
)


def settled(
    exchange: Exchange,
    conversation: str,
    call: Call,
    stored: StoredConversation | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Flow[StoredConversation]:
    """Read a conversation in a tree; while another client's answer is running, wait for its end.

    Two answers that are generated at the same time overwrite each other, and a run overwrites the
    title at its end.

    Args:
        exchange: sends its requests.
        conversation: the id of the conversation.
        call: the call that this is part of.
        stored: the stored conversation, if it was just read.
        stopping: whether the caller has asked to stop.

    Raises:
        ConversationBusyError: another client's answer has not ended within the call's limit.
    """
    clock = exchange.ambient.clock
    if stored is None:
        stored = yield from conversations.stored(exchange, conversation, call)
    if stored.busy:
        exchange.ambient.wait("waiting until another client's answer has ended")
    changed_at = clock()
    while stored.busy and not stopping() and clock() - changed_at < _DEAD:
        if call.deadline.at_most(2 * _POLL) < 2 * _POLL:  # no time for a pause and a poll
            raise ConversationBusyError(_BUSY)
        yield Sleep(_POLL)
        before = stored
        stored = yield from conversations.stored(exchange, conversation, call)
        if stored != before:
            changed_at = clock()
    return stored


class Place:
    """The place of a message.

    Args:
        tip: the id of the newest message, if known.
        chosen: the caller's choice of the message to follow: its id, or that of its generation;
            None for the newest.
        beside: whether `chosen` is an answer, and the new one becomes its sibling.
        again: for a retry of a message that the server may have, finds its answer.
        stored: the stored conversation, if it was just read.
        message_ids: returns the ids of the answers in it, by the ids of their generations, as far
            as the server does not store these.

    Attributes:
        chosen: the caller's choice.
        again: finds the answer to the message that this one is a retry of, until that was done.
        parent: the id of the message that it follows, once known.
        beside: whether the new answer becomes a sibling of `parent`, which is itself an answer.
        known: the ids of the messages that existed before.
        branch: the messages before it, if they were read.
    """

    def __init__(
        self,
        tip: str | None = None,
        *,
        chosen: str | None = None,
        beside: bool = False,
        again: Callable[[StoredConversation], StoredAnswer | None] | None = None,
        stored: StoredConversation | None = None,
        message_ids: Callable[[StoredConversation], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self.chosen = chosen
        self.parent = None if chosen is not None else tip
        self.again = again
        self._stored = stored
        self._message_ids = message_ids
        self.beside = beside
        self.known: frozenset[str] = frozenset()
        self.branch: tuple[Message, ...] | None = None

    def find(
        self,
        exchange: Exchange,
        conversation: str,
        call: Call,
        stopping: Callable[[], bool],
    ) -> Flow[None]:
        """Find the place in the stored conversation, unless it is known.

        See `settled()`.

        Args:
            exchange: sends its requests.
            conversation: the id of the conversation.
            call: the call that this is part of.
            stopping: whether the caller has asked to stop.

        Raises:
            ConversationBusyError: another client's answer has not ended within the call's limit.
            ValueError: the conversation does not contain the chosen message.
        """
        if self.parent is not None:
            return
        self._follow((yield from settled(exchange, conversation, call, self._stored, stopping)))

    def _follow(self, stored: StoredConversation) -> None:
        message_ids = self._message_ids(stored)
        self.known = frozenset(message.id for message in stored.tree if message.id is not None)
        answer = None if self.again is None else self.again(stored)
        self.again = None
        if answer is not None:
            self.beside, self.parent = True, answer.message.id
        elif self.chosen is None:
            self.parent = stored.tip
        else:
            self.parent = stored.message_id(self.chosen, message_ids)
            if self.parent not in self.known and self.parent != stored.root:
                raise ValueError(f"this conversation does not contain the parent {self.chosen!r}")
        is_newest = self.parent == stored.tip
        self.branch = stored.messages if is_newest else stored.branch(self.parent)
