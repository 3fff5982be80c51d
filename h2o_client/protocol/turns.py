"""The turns of one conversation: one at a time, and each waits until the one before it is stored.

The server takes one message at a time: of two at once, the one that ends last overwrites the other.
And it stores a turn only at its end or after it: a whole one when its
response ends or some hundred milliseconds later, a stopped one about a second after the stop, one
that it could not be told to stop when its generation has run to the end. A message that is sent
before that is built on a history without the turn, and is itself overwritten by it.

So a message is sent only when the fate of the previous turn is known, and so it is with all that
reads or changes what is stored of the messages. `Turns` remembers the last turn until then.
"""

# 07c_parallel_messages: the overwriting. 24_race_after_stream: what is stored when.

from collections.abc import Callable

from h2o_client.errors import ConversationBusyError
from h2o_client.protocol import conversations
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import Stage, StoredConversation
from h2o_client.protocol.effects import Flow, Lock, Sleep
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.retries import Call
from h2o_client.protocol.state import Fate
from h2o_client.protocol.turn import Turn

_TRUSTED = 5.0  # seconds after which a whole answer counts as stored, without a poll
_STOP_AGAIN = 120.0  # seconds after which a stop in the same conversation surely works again
_STOP_KEPT = 5.5  # seconds for which a server surely keeps a stop that found nothing to stop
_FIRST_POLL = 0.05
_LONGEST_POLL = 1.0
_TOLD = 8 * _FIRST_POLL  # the pause from which on the caller is told of the wait
_MAY_BE_STORED = (
    "the server has not stored the last turn of this conversation yet, and may still be "
    "generating its answer: nothing was sent, as one of the two would be lost (wait and call "
    "again, or begin a new conversation, with client.chat(messages))"
)
_NOT_STORED = (
    "the server has not stored the last answer of this conversation: nothing was sent (call again "
    "to go on without that answer, or begin a new conversation, with client.chat(messages))"
)
_STOP_MAY_BE_KEPT = (
    "the server may still keep the stop of the last answer, which would end the next one: nothing "
    "was sent (call again in a few seconds)"
)


class Turns(Lock):
    """The turns of one conversation, shared by all who resumed it; the lock of the next one.

    Attributes:
        unconfirmed: the last turn, as long as the server may still store it.
        tip: in a tree, the id of the message that the next one follows, where it is known.
    """

    __slots__ = ("_ended_at", "_stopped_at", "tip", "unconfirmed")

    def __init__(self) -> None:
        super().__init__()
        self.unconfirmed: Turn | None = None
        self.tip: str | None = None
        self._ended_at = 0.0
        self._stopped_at: float | None = None

    def stoppable(self, now: float) -> bool:
        """Whether a stop takes effect: a second one within a minute or so does not."""
        # 11b_stop_again_later
        return self._stopped_at is None or now - self._stopped_at > _STOP_AGAIN

    def note(self, turn: Turn, now: float) -> None:
        """Note that a turn has ended here; the server is told to stop it, if it may run."""
        self.tip = None
        if turn.fate in (Fate.RUNNING, Fate.STOPPED):
            self._stopped_at = now
        if turn.stored_within > 0:
            self.unconfirmed, self._ended_at = turn, now

    def wait_until_stored(
        self,
        exchange: Exchange,
        conversation: str,
        call: Call,
        patience: float | None,
        stopping: Callable[[], bool],
    ) -> Flow[StoredConversation | None]:
        """Wait until the server has stored the last turn, or surely will not.

        Args:
            exchange: sends its requests.
            conversation: the id of the conversation.
            call: the call that waits: it may have a time limit.
            patience: seconds that a call without one waits at the most, or None.
            stopping: whether the caller has asked to stop.

        Returns:
            What the server has stored, if it was read and the turn is in it.

        Raises:
            ConversationBusyError: it is not known in time, or a whole answer is not stored.
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
        missing = polled = False  # `missing`: a poll has shown that it is not stored
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

        A stop that comes when nothing is generated is kept, and would end the next answer.
        """
        # 04_stop
        clock = exchange.ambient.clock
        delay = _FIRST_POLL
        while self.unconfirmed is turn and not stopping():
            stored = yield from conversations.poll(exchange, conversation, until)
            answer = turn.find(stored)
            if turn.is_absent(stored) if answer is None else answer.over:
                turn.fate = Fate.DONE  # from now on, a stop would be kept
                stopped = answer is not None and answer.stage is Stage.STOPPED
                if turn.told_at is not None and not stopped:
                    kept_until = max(self._ended_at, turn.told_at) + _STOP_KEPT
                    left = max(0.0, kept_until - clock())
                    if until.at_most(left) < left:
                        raise ConversationBusyError(_STOP_MAY_BE_KEPT)
                    yield Sleep(left)
                self.unconfirmed = None
                return stored
            if clock() - self._ended_at > turn.stored_within:
                self.unconfirmed = None  # the server was stopped itself
                return stored
            if until.expired():
                raise ConversationBusyError(_MAY_BE_STORED)
            if delay == _TOLD:
                exchange.ambient.wait("waiting until the last turn is stored")
            yield Sleep(until.at_most(delay))
            delay = min(delay * 2, _LONGEST_POLL)
        return None
