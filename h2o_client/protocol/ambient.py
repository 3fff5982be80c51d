"""What the core needs of the world."""

from collections.abc import Callable
from typing import NamedTuple


class Ambient(NamedTuple):
    """Clock, randomness and log, handed in so that tests can hand in something else.

    Attributes:
        clock: seconds, from any beginning, that never go back.
        random: draws a number from 0 to 1.
        uuid4: makes a random UUID, as text.
        warn: takes a sentence for the log that tells of a problem.
        note: takes a sentence for the log that does not.
        wait: takes a sentence for log and terminal that says what is waited for.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    uuid4: Callable[[], str]
    warn: Callable[[str], None]
    note: Callable[[str], None]
    wait: Callable[[str], None]
