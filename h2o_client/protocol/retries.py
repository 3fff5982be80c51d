"""When a request is sent again, and after what time.

A request is sent again only where that cannot make a second answer. Whatever never reached the
server, and what the server refused for want of room, can be repeated at once. What may have
reached it can be repeated where a second time does no harm: the settings, a new conversation, a
deletion, everything that reads. A message is not among them: a second generation beside the first
loses an answer. The service's own limit is not hammered either, as refused attempts can count
[chat-ui-0.6/06_rate_limit].

All requests of one call draw on one count and one budget, so that no retry multiplies another.
"""

from collections.abc import Callable
from dataclasses import dataclass

from h2o_client.errors import (
    GenerationError,
    H2oError,
    OverloadedError,
    RateLimitError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)

_GATEWAY = frozenset({502, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often failed requests are sent again, and how long is waited for that.

    The waiting time is drawn between 0 and a bound that doubles each time (full jitter), and is
    never less than what the server asks for in `Retry-After`.

    Attributes:
        attempts: how often in one call something is sent again; 0 switches retries off.
        budget: seconds that one call may wait in all; where the server asks for more, the error
            is raised at once.
        base: seconds of the first bound.
        cap: seconds that the bound grows to.
    """

    attempts: int = 3
    budget: float = 30.0
    base: float = 0.5
    cap: float = 8.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"Retries.attempts is a whole number, not {self.attempts!r}")
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
        return max(draw * bound, retry_after or 0.0)


class RetryState:
    """The retries of one call.

    Args:
        policy: what is allowed.
        random: draws a number from 0 to 1.
    """

    __slots__ = ("_policy", "_random", "attempt", "waited")

    def __init__(self, policy: Retries, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self.attempt = 0
        self.waited = 0.0

    def next_delay(self, error: H2oError) -> float | None:
        """Return the seconds to wait before another attempt, or None if there is to be none."""
        if self.attempt >= self._policy.attempts:
            return None
        after = error.retry_after if isinstance(error, StatusError) else None
        delay = self._policy.delay(self.attempt, self._random(), after)
        if self.waited + delay > self._policy.budget:
            return None
        self.attempt += 1
        self.waited += delay
        return delay


def was_refused(error: H2oError) -> bool:
    """Whether the request did nothing: it did not arrive, or there was no room for it."""
    if isinstance(error, TransportError):
        return not error.sent
    if isinstance(error, GenerationError):
        return error.error_type == "overloaded" and not error.partial
    return isinstance(error, OverloadedError)


def is_passing(error: H2oError) -> bool:
    """Whether a request that does no harm twice may be sent again after this."""
    if was_refused(error):
        return True
    if isinstance(error, RateLimitError):
        return "sending too many messages" not in error.message
    if isinstance(error, StatusError):
        return error.status in _GATEWAY
    return isinstance(error, TransportError) and not isinstance(error, TransportTimeoutError)
