"""The services that the core needs from its environment."""

from collections.abc import Callable
from typing import NamedTuple


class Ambient(NamedTuple):
    """Clock, randomness and log, passed in so that tests can replace them.

    Attributes:
        clock: a monotonic clock, in seconds.
        random: returns a random number from 0 to 1.
        uuid4: returns a random UUID, as text.
        warn: logs a warning.
        note: logs an informational message.
        wait: reports, in the log and the terminal, what the client is waiting for.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    uuid4: Callable[[], str]
    warn: Callable[[str], None]
    note: Callable[[str], None]
    wait: Callable[[str], None]
