"""When a request is sent again, and after what time.

A request is sent again only where that cannot make a second answer. Whatever never reached the
server, and what the server rejected as overloaded, can be repeated at once. What may have
reached it can be repeated where a second time does no harm: the settings, a new conversation, a
deletion, everything that reads. A message is not among them: a second generation beside the first
loses an answer. The service's own limit is not hammered either, as rejected attempts can count:
where the budget allows for it, one whole window is waited for.

All requests of one call draw on one count and one budget, so that no retry multiplies another.
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
"""How often a call may still send something again, and for how many seconds it may wait."""


@dataclass(frozen=True, slots=True)
class Retry:
    """What `Retries.on_retry` is told: something is about to be sent again.

    Attributes:
        attempt: 1 for the first repetition in a call.
        delay: seconds until then.
        error: what went wrong.
    """

    attempt: int
    delay: float
    error: H2oError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often failed requests are sent again, and how long is waited for that.

    The waiting time has a bound that doubles each time. Half of it is always waited, the other half
    at random (equal jitter), so that the default survives a server that restarts for 3 seconds. It
    is never less than what the server asks for in `Retry-After`.

    Attributes:
        attempts: how often in one call something is sent again; 0 switches retries off.
        budget: seconds that one call may wait in all; where the server asks for more, the error
            is raised at once.
        base: seconds of the first bound.
        cap: seconds that the bound grows to.
        on_retry: called with a `Retry` before each wait; what it raises ends the call. It may use
            the sync client itself, in its own thread.
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
            attempt: 0 for the first repetition.
            draw: a random number from 0 to 1.
            retry_after: seconds that the server asked for, if it did.
        """
        bound = min(self.cap, self.base * 2.0 ** min(attempt, 30))
        return max((1 + draw) / 2 * bound, retry_after or 0.0)


def as_retries(value: Retries | int | None) -> Retries:
    """Return retries; a number says how often, 0 switches them off.

    Raises:
        TypeError: it is neither.
        ValueError: it is negative.
    """
    if value is None:
        return Retries()
    if isinstance(value, Retries):
        return value
    return Retries(attempts=value)


class Call:
    """One call of the caller: its time limit, and what is left of its retries.

    Args:
        policy: the retries that are allowed.
        deadline: when the call must be done (`Timeouts.total`, or that of a clean-up).
        ambient: draws random numbers, takes log sentences.

    Attributes:
        deadline: when the call must be done.
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
        """Whether it allows no more retries."""
        return self.attempt >= self._policy.attempts

    @property
    def patience(self) -> Patience:
        """What is left of it."""
        return self._policy.attempts - self.attempt, self._policy.budget - self._waited

    def next_delay(self, error: H2oError) -> float | None:
        """Return the seconds to wait before another attempt; None: the call allows no more.

        Args:
            error: what went wrong.
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
