"""The life of a stream, as one state.

    NEW ──begin──▶ OPEN ──the reply is known──▶ ANSWERED ──the clean-up is done──▶ ENDED
     │              │ ╲                            ▲
     │            close  stop──▶ STOPPING──────────┘
     │              │               │
     └────close────▶└▶ CLOSING ◀────┘close, or an error, from OPEN, STOPPING or ANSWERED
                        │
                        └──the server was notified──▶ CLOSED

    NEW        nothing was sent
    OPEN       the message is being sent, or its answer is arriving
    STOPPING   the caller stopped it: the text that has arrived becomes the reply
    ANSWERED   the reply is known; the operation cleans up
    CLOSING    the caller closed it, or the operation failed; the server is being notified
    ENDED      the stream has a reply
    CLOSED     the stream ended without a reply

The operation moves it to OPEN, STOPPING and ANSWERED, and the shell that runs it to the others. Two
threads or tasks may ask for an end at the same time, so a transition that is not shown here is
ignored, and is not an error.
"""

from enum import Enum


class State(Enum):
    """The states of a stream: see the module's docstring."""

    NEW = "new"
    OPEN = "open"
    STOPPING = "stopping"
    ANSWERED = "answered"
    CLOSING = "closing"
    ENDED = "ended"
    CLOSED = "closed"

    __hash__ = object.__hash__  # Enum's is Python code: see `Life.move()`


_NEXT = {
    State.NEW: {State.OPEN, State.STOPPING, State.CLOSING},
    State.OPEN: {State.STOPPING, State.ANSWERED, State.CLOSING},
    State.STOPPING: {State.ANSWERED, State.CLOSING},
    State.ANSWERED: {State.ENDED, State.CLOSING},
    State.CLOSING: {State.CLOSED},
    State.ENDED: set[State](),
    State.CLOSED: set[State](),
}
RUNNING = frozenset({State.OPEN, State.STOPPING, State.ANSWERED})
"""The states in which the server may have to be notified."""
OVER = frozenset({State.CLOSING, State.ENDED, State.CLOSED})
"""The states in which the caller does not get any more text."""


class Life:
    """The state of one stream.

    Attributes:
        state: the current state.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.NEW

    def move(self, state: State) -> bool:
        """Move to a state if the transition is allowed; return whether it was."""
        # No Python code is called here: during such a call, a signal handler or another thread
        # could move the state between the check and the assignment.
        if state in _NEXT[self.state]:
            self.state = state
            return True
        return False


class Fate(Enum):
    """The state of a turn on the server: see `turn.py`."""

    UNSENT = "the server does not have the message"
    RUNNING = "the server may be generating the answer"
    STOPPED = "the server was told to stop generating"
    OVER = "the server is not generating"
    DONE = "the server has stored the whole turn"
