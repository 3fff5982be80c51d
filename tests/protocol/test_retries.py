from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import OWN_LIMIT

from h2o_client.errors import (
    GenerationError,
    H2oError,
    IncompleteStreamError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.ambient import Ambient
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import CallerStoppedError
from h2o_client.protocol.outcomes import Outcome, is_own_limit, outcome_of
from h2o_client.protocol.retries import (
    Call,
    Retries,
    Retry,
)


def test_defaults_of_retries() -> None:
    assert Retries() == Retries(attempts=4, budget=30.0, base=0.5, cap=8.0)


@pytest.mark.parametrize(
    ("attempt", "draw", "retry_after", "delay"),
    [
        (0, 1.0, None, 0.5),
        (1, 1.0, None, 1.0),
        (2, 1.0, None, 2.0),
        (4, 1.0, None, 8.0),
        (5, 1.0, None, 8.0),
        (10**6, 1.0, None, 8.0),
        (2, 0.25, None, 1.25),
        (2, 0.0, None, 1.0),
        (0, 0.0, 3.0, 3.0),
        (0, 1.0, 0.1, 0.5),
        (0, 1.0, 0.0, 0.5),
        (0, 1.0, 60.0, 60.0),
    ],
)
def test_delay_doubles_up_to_a_cap_and_respects_retry_after(
    attempt: int, draw: float, retry_after: float | None, delay: float
) -> None:
    assert Retries().delay(attempt, draw, retry_after) == delay


@given(st.integers(0, 100), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_delay_is_within_its_limits(attempt: int, draw: float, retry_after: float | None) -> None:
    delay = Retries().delay(attempt, draw, retry_after)
    assert (retry_after or 0.0) <= delay <= max(8.0, retry_after or 0.0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"attempts": -1}, ValueError),
        ({"attempts": True}, TypeError),
        ({"attempts": 1.5}, TypeError),
        ({"attempts": "3"}, TypeError),
        ({"attempts": None}, TypeError),
        ({"budget": -0.1}, ValueError),
        ({"budget": float("nan")}, ValueError),
        ({"budget": "30"}, TypeError),
        ({"base": -1}, ValueError),
        ({"base": None}, TypeError),
        ({"cap": -1}, ValueError),
        ({"cap": float("nan")}, ValueError),
    ],
)
def test_invalid_retries_are_rejected(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Retries(**arguments)


def state_of(
    policy: Retries, notes: list[str] | None = None, left: float | None = None, draw: float = 1.0
) -> Call:
    note = ([] if notes is None else notes).append
    ambient = Ambient(lambda: 0.0, lambda: draw, lambda: "", note, note, note)
    return Call(policy, Deadline(ambient.clock, left, "total"), ambient)


def failure(retry_after: float | None = None) -> StatusError:
    return OverloadedError("x", status=503, retry_after=retry_after)


def test_attempts_are_counted() -> None:
    state = state_of(Retries(attempts=2))
    assert [state.next_delay(failure()) for _ in range(4)] == [0.5, 1.0, None, None]


def test_defaults_survive_a_restart_of_three_seconds() -> None:
    rejected = TransportError("x", sent=False)
    least, most = state_of(Retries(), draw=0.0), state_of(Retries(), draw=1.0)
    assert sum(iter(lambda: least.next_delay(rejected) or 0.0, 0.0)) > 3.0
    assert sum(iter(lambda: most.next_delay(rejected) or 0.0, 0.0)) < 10.0


def test_zero_attempts_disable_retries() -> None:
    assert state_of(Retries(attempts=0)).next_delay(failure()) is None


def test_budget_limits_the_total_wait() -> None:
    state = state_of(Retries(attempts=100, budget=5.0))
    assert [state.next_delay(failure()) for _ in range(4)] == [0.5, 1.0, 2.0, None]
    assert state.patience == (97, 1.5)


def test_retry_after_beyond_the_budget_raises_immediately() -> None:
    state = state_of(Retries())
    assert state.next_delay(failure(30.5)) is None
    assert state.next_delay(failure(30.0)) == 30.0
    assert state.next_delay(failure()) is None


def own_limit(retry_after: float | None = None) -> RateLimitError:
    return RateLimitError("x", status=429, message=OWN_LIMIT, retry_after=retry_after)


def test_own_rate_limit_is_waited_for_once_within_the_budget() -> None:
    assert state_of(Retries()).next_delay(own_limit()) is None

    state = state_of(Retries(budget=500.0))
    assert state.next_delay(own_limit()) == 120.0
    assert state.next_delay(own_limit()) is None
    assert state.next_delay(failure()) == 1.0

    assert state_of(Retries(budget=500.0)).next_delay(own_limit(150.0)) == 150.0


def test_on_retry_is_called_before_each_wait() -> None:
    told: list[Retry] = []
    notes: list[str] = []
    state = state_of(Retries(attempts=2, on_retry=told.append), notes)
    errors = [failure(), failure(), failure()]
    for error in errors:
        state.next_delay(error)

    assert told == [Retry(1, 0.5, errors[0]), Retry(2, 1.0, errors[1])]
    assert notes == [
        "attempt 2 in 0.50 s, after OverloadedError",
        "attempt 3 in 1.00 s, after OverloadedError",
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TransportError("x", sent=False), Outcome.REJECTED),
        (TransportError("x", sent=False, transient=False), Outcome.FINAL),
        (TransportError("x", sent=True), Outcome.LOST),
        (TransportTimeoutError("x", sent=False, limit="connect"), Outcome.REJECTED),
        (TransportTimeoutError("x", sent=True, limit="idle"), Outcome.UNKNOWN),
        (CallerStoppedError("x"), Outcome.UNKNOWN),
        (OverloadedError("x", status=503), Outcome.REJECTED),
        (OverloadedError("x", status=429), Outcome.REJECTED),
        (OverloadedError("x", status=200), Outcome.REJECTED),
        (OverloadedError("x", status=200, partial="a"), Outcome.FINAL),
        (GenerationError("x", error_type="generation"), Outcome.FINAL),
        (InvalidRequestError("x", status=200), Outcome.FINAL),
        (RateLimitError("x", status=429, message="slow down"), Outcome.LIMITED),
        (RateLimitError("x", status=429, message="slow down", retry_after=1.0), Outcome.REJECTED),
        (RateLimitError("x", status=429, message=OWN_LIMIT), Outcome.REJECTED),
        (ServerError("x", status=502), Outcome.LOST),
        (ServerError("x", status=504), Outcome.LOST),
        (ServerError("x", status=500), Outcome.FINAL),
        (NotFoundError("x", status=404), Outcome.FINAL),
        (IncompleteStreamError("x"), Outcome.LOST),
        (ProtocolError("x"), Outcome.UNKNOWN),
        (H2oError("x"), Outcome.FINAL),
    ],
    ids=lambda value: repr(value) if isinstance(value, H2oError) else str(value),
)
def test_outcome_of_a_failed_request(error: H2oError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_own_rate_limit_is_recognised_by_its_message() -> None:
    assert is_own_limit(own_limit())
    assert not is_own_limit(RateLimitError("x", status=429, message="slow down"))
    assert not is_own_limit(failure())
