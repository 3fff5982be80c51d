"""What the core needs from its environment."""

from collections.abc import Callable
from typing import NamedTuple


class Ambient(NamedTuple):
    """Clock, randomness and log, passed in so that tests can replace them.

    Attributes:
        clock: seconds, from any beginning, that never go back.
        random: draws a number from 0 to 1.
        uuid4: makes a random UUID, as text.
        warn: logs a sentence about a problem.
        note: logs a sentence for information.
        wait: takes a sentence for log and terminal that says what the client waits for.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    uuid4: Callable[[], str]
    warn: Callable[[str], None]
    note: Callable[[str], None]
    wait: Callable[[str], None]
