"""Deadlines, and the time limits that they come from."""

from collections.abc import Callable

from h2o_client.errors import TransportTimeoutError


class Deadline:
    """The time by which something must be done, and the time limit that set it.

    Args:
        clock: a monotonic clock, in seconds.
        seconds: how long from now; None for no limit.
        limit: the name of the time limit: an attribute of `Timeouts`.
        since: the clock's time at which the limit began; None for now.
    """

    __slots__ = ("_at", "_clock", "limit", "seconds")

    def __init__(
        self,
        clock: Callable[[], float],
        seconds: float | None,
        limit: str,
        since: float | None = None,
    ) -> None:
        self._clock = clock
        begun = clock() if since is None else since
        self._at = None if seconds is None else begun + seconds
        self.seconds = seconds
        self.limit = limit

    def __repr__(self) -> str:
        return f"<Deadline {self.limit}: {self.left()}>"

    @property
    def unlimited(self) -> bool:
        """Whether it has no time limit."""
        return self._at is None

    def left(self) -> float | None:
        """Return the seconds that are left, at least 0.0; None without a limit."""
        return None if self._at is None else max(0.0, self._at - self._clock())

    def expired(self) -> bool:
        """Whether it has passed."""
        return self._at is not None and self._at <= self._clock()

    def at_most(self, seconds: float) -> float:
        """Return the given seconds, or the time that is left if that is less."""
        left = self.left()
        return seconds if left is None else min(seconds, left)

    def or_earlier(
        self, seconds: float | None, limit: str, since: float | None = None
    ) -> "Deadline":
        """Return the deadline of another limit, or this one if it is earlier."""
        begun = self._clock() if since is None else since
        if self._at is not None and (seconds is None or self._at <= begun + seconds):
            return self
        return Deadline(self._clock, seconds, limit, begun)

    def check(self) -> None:
        """Raise if it has passed.

        Raises:
            TransportTimeoutError: it has passed.
        """
        if self._at is not None and self._at <= self._clock():
            raise self.exceeded()

    def exceeded(self, *, begun: bool = False) -> TransportTimeoutError:
        """Return the error for this limit; `begun`: whether part of the answer had arrived."""
        return TransportTimeoutError.exceeded(self.limit, self.seconds, begun=begun)
