"""Decides when a request is retried, and how long to wait before that.

A request is retried only if that cannot cause a second answer. Requests that never reached the
server, or that it rejected because it was overloaded, can be retried. Requests that may have
reached it can be retried if repeating them does no harm: the settings, a new conversation, a
deletion, and everything that only reads. This excludes messages: of two simultaneous generations,
one answer is lost. After the service's own rate limit, where rejected attempts can also count, the
client waits for one whole window if the budget allows it.

All requests of one call share one count and one budget, so retries do not multiply.
"""

# chat-ui-0.6/06_rate_limit: rejected attempts count.

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from h2o_client.errors import H2oError, RateLimitError, StatusError
from h2o_client.protocol.ambient import Ambient
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.outcomes import is_own_limit

Patience: TypeAlias = tuple[int, float]
"""How many more retries a call may make, and how many seconds it may wait for them."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Describes a retry that is about to happen, for `Retries.on_retry`.

    Attributes:
        attempt: 1 for the first retry in a call.
        delay: seconds until the retry.
        error: the error of the last attempt.
    """

    attempt: int
    delay: float
    error: H2oError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often failed requests are retried, and how long the client waits in between.

    The upper limit of the delay doubles with each attempt. The delay is at least half of that limit
    and the rest is random (equal jitter), so with the defaults a call survives a server restart of
    3 seconds. The delay is never shorter than the server's `Retry-After`.

    Attributes:
        attempts: the maximum number of retries in one call; 0 disables retries.
        budget: how many seconds one call may wait in total; if the server asks for more, the error
            is raised at once.
        base: the first upper limit, in seconds.
        cap: the highest upper limit, in seconds.
        on_retry: called with a `Retry` before each wait; an exception that it raises ends the call.
            It may use the sync client itself, in the same thread.
    """

    attempts: int = 4
    budget: float = 30.0
    base: float = 0.5
    cap: float = 8.0
    on_retry: Callable[[Retry], object] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"Retries.attempts must be an integer, not {self.attempts!r}")
        for name in ("attempts", "budget", "base", "cap"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Retries.{name} must not be negative")

    def delay(self, attempt: int, draw: float, retry_after: float | None = None) -> float:
        """Return the seconds to wait before the attempt.

        Args:
            attempt: 0 for the first retry.
            draw: a random number from 0 to 1.
            retry_after: how many seconds the server asks for, if any.
        """
        bound = min(self.cap, self.base * 2.0 ** min(attempt, 30))
        return max((1 + draw) / 2 * bound, retry_after or 0.0)


def as_retries(value: Retries | int | None) -> Retries:
    """Return retries; a number is the maximum number of retries, 0 disables them.

    Raises:
        TypeError: the value is neither a number nor `Retries`.
        ValueError: the number is negative.
    """
    if value is None:
        return Retries()
    if isinstance(value, Retries):
        return value
    return Retries(attempts=value)


class Call:
    """One call: its time limit, and its remaining retries.

    Args:
        policy: the allowed retries.
        deadline: by when the call must be done (`Timeouts.total`, or the limit of a clean-up).
        ambient: clock, randomness, log.

    Attributes:
        deadline: by when the call must be done.
        vetoed: whether `on_retry` has raised.
    """

    __slots__ = (
        "_ambient",
        "_policy",
        "_waited",
        "_window_waited",
        "attempt",
        "deadline",
        "vetoed",
    )

    def __init__(self, policy: Retries, deadline: Deadline, ambient: Ambient) -> None:
        self._policy = policy
        self._ambient = ambient
        self._waited = 0.0
        self._window_waited = False
        self.deadline = deadline
        self.attempt = 0
        self.vetoed = False

    @property
    def exhausted(self) -> bool:
        """Whether the call has used up its retries."""
        return self.attempt >= self._policy.attempts

    @property
    def patience(self) -> Patience:
        """The remaining retries."""
        return self._policy.attempts - self.attempt, self._policy.budget - self._waited

    def next_delay(self, error: H2oError) -> float | None:
        """Return the seconds to wait before another attempt; None if the call must fail now.

        Args:
            error: the error of the last attempt.
        """
        policy, left = self._policy, self.deadline.left()
        if self.exhausted:
            return None
        after = error.retry_after if isinstance(error, StatusError) else None
        if is_own_limit(error):
            if self._window_waited:
                return None
            after = max(after or 0.0, RateLimitError.WINDOW)
        delay = policy.delay(self.attempt, self._ambient.random(), after)
        if self._waited + delay > policy.budget or (left is not None and delay >= left):
            return None
        self._window_waited = self._window_waited or is_own_limit(error)
        self.attempt += 1
        self._waited += delay
        self._ambient.note(
            f"attempt {self.attempt + 1} in {delay:.2f} s, after {type(error).__name__}"
        )
        if policy.on_retry is not None:
            self.vetoed = True
            policy.on_retry(Retry(self.attempt, delay, error))
            self.vetoed = False
        return delay
