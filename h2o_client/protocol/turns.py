"""The turns of one conversation: one at a time, and each waits until the previous one is stored.

The server accepts one message at a time: of two concurrent ones, the last to end overwrites the
other. It stores a turn only when it ends or later: a whole turn when its response ends or a few
hundred milliseconds later, a stopped turn about a second after the stop, and a turn whose stop
failed when its generation has ended. A message that is sent before that gets a history without the
turn, and the turn then overwrites it.

So a message is sent only when the fate of the previous turn is known, and the same applies to every
request that reads or changes stored messages. `Turns` remembers the last turn until then.
"""

# 07c_parallel_messages: the overwriting. 24_race_after_stream: when turns are stored.

from collections.abc import Callable

from h2o_client.errors import ConversationBusyError
from h2o_client.protocol import conversations
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import Outgoing, Stage, StoredConversation
from h2o_client.protocol.effects import Flow, Lock, Sleep
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.retries import Call
from h2o_client.protocol.state import Fate
from h2o_client.protocol.turn import Turn

_TRUSTED = 5.0  # seconds after which a whole answer counts as stored, without a poll
_STOP_AGAIN = 120.0  # seconds after which a stop in the same conversation certainly works again
_STOP_KEPT = 5.5  # seconds after which a stop that had nothing to stop has certainly expired
_FIRST_POLL = 0.05
_LONGEST_POLL = 1.0
_TOLD = 8 * _FIRST_POLL  # the pause at which the caller is told about the wait
_MAY_BE_STORED = (
    "the server has not stored the last turn of this conversation yet, and may still be "
    "generating its answer: nothing was sent, as one of the two would be lost (wait and call "
    "again, or start a new conversation with client.chat(messages))"
)
_NOT_STORED = (
    "the server has not stored the last answer of this conversation: nothing was sent (call again "
    "to continue without that answer, or start a new conversation with client.chat(messages))"
)
_STOP_MAY_BE_KEPT = (
    "the server may apply the stop of the last answer to the next one: nothing was sent (call "
    "again in a few seconds)"
)


class Turns(Lock):
    """The turns of one conversation, shared by all objects that resume it; the lock of the next.

    Attributes:
        unconfirmed: the last turn, while the server may still store it.
        tip: in a tree, the id of the message that the next one follows, if known.
    """

    __slots__ = ("_ended_at", "_ids", "_last", "_stopped_at", "tip", "unconfirmed")

    def __init__(self) -> None:
        super().__init__()
        self.unconfirmed: Turn | None = None
        self.tip: str | None = None
        self._last: Outgoing | None = None
        self._ids: dict[str, str] = {}
        self._ended_at = 0.0
        self._stopped_at: float | None = None

    def stoppable(self, now: float) -> bool:
        """Whether a stop takes effect: a second one within about a minute does not."""
        # 11b_stop_again_later
        return self._stopped_at is None or now - self._stopped_at > _STOP_AGAIN

    def note(self, turn: Turn, now: float) -> None:
        """Record that a turn has ended here; if it may still run, the server is told to stop it."""
        self.tip = None
        self._last = turn.outgoing()._replace(files=())
        if turn.fate in (Fate.RUNNING, Fate.STOPPED):
            self._stopped_at = now
        if turn.stored_within > 0:
            self.unconfirmed, self._ended_at = turn, now

    def message_ids(self, exchange: Exchange, stored: StoredConversation) -> dict[str, str]:
        """Return the ids of the answers in a tree, by the ids of their generations.

        chat-ui 0.10 does not store the latter. There, an answer can be identified only until the
        next one exists, so this must be called whenever the tree is read before a message.
        """
        last = self._last
        answer = None if last is None else exchange.dialect.find(stored, last)
        if last is not None and answer is not None and answer.message.id is not None:
            self._ids[last.response_id] = answer.message.id
        return self._ids

    def wait_until_stored(
        self,
        exchange: Exchange,
        conversation: str,
        call: Call,
        patience: float | None,
        stopping: Callable[[], bool],
    ) -> Flow[StoredConversation | None]:
        """Wait until the server has stored the last turn, or certainly will not store it.

        Args:
            exchange: sends its requests.
            conversation: the id of the conversation.
            call: the call that waits; it may have a time limit.
            patience: the maximum wait of a call without a time limit, in seconds, or None.
            stopping: whether the caller has asked to stop.

        Returns:
            The stored conversation, if it was read and contains the turn.

        Raises:
            ConversationBusyError: this is not known in time, or a whole answer is not stored.
            NotFoundError: the conversation is gone.
        """
        turn, clock = self.unconfirmed, exchange.ambient.clock
        if turn is None:
            return None
        until = call.deadline
        if until.unlimited:
            until = exchange.deadline(patience, "total")
        if exchange.dialect.has_tree:
            waiting = self._wait_until_over(turn, exchange, conversation, until, stopping)
            return (yield from waiting)
        missing = polled = False  # `missing`: a poll has shown that the turn is not stored
        delay = _FIRST_POLL
        while self.unconfirmed is turn and not stopping():
            within = turn.stored_within if missing or not turn.whole else _TRUSTED
            left = self._ended_at + within - clock()
            if left <= 0:
                self.unconfirmed = None
                if turn.whole and missing:
                    raise ConversationBusyError(_NOT_STORED)
                return None
            if polled:
                left = until.at_most(left)
                if left <= 0:
                    raise ConversationBusyError(_MAY_BE_STORED)
                if delay == _TOLD:
                    exchange.ambient.wait(
                        f"waiting until the last turn is stored, for at most {left:.0f} s"
                    )
                yield Sleep(min(delay, left))
                delay = min(delay * 2, _LONGEST_POLL)
            stored = yield from conversations.poll(exchange, conversation, until)
            polled, missing = True, missing or stored is not None
            if turn.find(stored) is not None:
                self.unconfirmed = None
                return stored
        return None

    def _wait_until_over(
        self,
        turn: Turn,
        exchange: Exchange,
        conversation: str,
        until: Deadline,
        stopping: Callable[[], bool],
    ) -> Flow[StoredConversation | None]:
        """Wait until a server that keeps a tree has finished the last turn.

        The server keeps a stop that arrives when nothing is generated, and ends the next answer.
        """
        # 04_stop
        clock = exchange.ambient.clock
        delay = _FIRST_POLL
        while self.unconfirmed is turn and not stopping():
            stored = yield from conversations.poll(exchange, conversation, until)
            answer = turn.find(stored)
            if turn.is_absent(stored) if answer is None else answer.over:
                turn.fate = Fate.DONE  # from now on, the server would keep a stop
                stopped = answer is not None and answer.stage is Stage.STOPPED
                if turn.told_at is not None and (turn.told_early or not stopped):
                    kept_until = max(self._ended_at, turn.told_at) + _STOP_KEPT
                    left = max(0.0, kept_until - clock())
                    if until.at_most(left) < left:
                        raise ConversationBusyError(_STOP_MAY_BE_KEPT)
                    yield Sleep(left)
                self.unconfirmed = None
                return stored
            if clock() - self._ended_at > turn.stored_within:
                self.unconfirmed = None  # the server itself has probably been shut down
                return stored
            if until.expired():
                raise ConversationBusyError(_MAY_BE_STORED)
            if delay == _TOLD:
                exchange.ambient.wait("waiting until the last turn is stored")
            yield Sleep(until.at_most(delay))
            delay = min(delay * 2, _LONGEST_POLL)
        return None
