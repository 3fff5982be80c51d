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
from h2o_client.protocol.retries import (
    Retries,
    Retry,
    RetryState,
    is_own_limit,
    is_passing,
    was_refused,
)


def test_the_defaults() -> None:
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
def test_the_delay_doubles_up_to_a_cap_and_is_not_less_than_what_the_server_asks(
    attempt: int, draw: float, retry_after: float | None, delay: float
) -> None:
    assert Retries().delay(attempt, draw, retry_after) == delay


@given(st.integers(0, 100), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_the_delay_is_within_its_bounds(
    attempt: int, draw: float, retry_after: float | None
) -> None:
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
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Retries(**arguments)


def state_of(policy: Retries, notes: list[str] | None = None) -> RetryState:
    return RetryState(policy, lambda: 1.0, ([] if notes is None else notes).append)


def failure(retry_after: float | None = None) -> StatusError:
    return OverloadedError("x", status=503, retry_after=retry_after)


def test_the_attempts_are_counted() -> None:
    state = state_of(Retries(attempts=2))
    assert [state.next_delay(failure()) for _ in range(4)] == [0.5, 1.0, None, None]


def test_the_defaults_survive_a_restart_of_three_seconds_whatever_is_drawn() -> None:
    refused = TransportError("x", sent=False)
    least = RetryState(Retries(), random=lambda: 0.0, note=lambda _: None)
    while least.next_delay(refused) is not None:
        pass
    assert least.waited > 3.0
    most = RetryState(Retries(), random=lambda: 1.0, note=lambda _: None)
    while most.next_delay(refused) is not None:
        pass
    assert most.waited < 10.0


def test_no_attempts_are_no_retries() -> None:
    assert state_of(Retries(attempts=0)).next_delay(failure()) is None


def test_the_time_waited_is_bounded_by_the_budget() -> None:
    state = state_of(Retries(attempts=100, budget=5.0))
    assert [state.next_delay(failure()) for _ in range(4)] == [0.5, 1.0, 2.0, None]
    assert state.waited == 3.5


def test_where_the_server_asks_for_more_than_the_budget_the_error_is_raised_at_once() -> None:
    state = state_of(Retries())
    assert state.next_delay(failure(30.5)) is None
    assert state.next_delay(failure(30.0)) == 30.0
    assert state.next_delay(failure()) is None


def own_limit(retry_after: float | None = None) -> RateLimitError:
    return RateLimitError("x", status=429, message=OWN_LIMIT, retry_after=retry_after)


def test_the_services_own_limit_is_waited_out_once_where_the_budget_allows_it() -> None:
    assert state_of(Retries()).next_delay(own_limit()) is None

    state = state_of(Retries(budget=500.0))
    assert state.next_delay(own_limit()) == 120.0
    assert state.next_delay(own_limit()) is None
    assert state.next_delay(failure()) == 1.0

    assert state_of(Retries(budget=500.0)).next_delay(own_limit(150.0)) == 150.0


def test_the_caller_is_told_before_each_wait() -> None:
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
    ("error", "refused", "passing"),
    [
        (TransportError("x", sent=False), True, True),
        (TransportError("x", sent=True), False, True),
        (TransportTimeoutError("x", sent=False, limit="connect"), True, True),
        (TransportTimeoutError("x", sent=True, limit="idle"), False, False),
        (OverloadedError("x", status=503), True, True),
        (OverloadedError("x", status=429), True, True),
        (OverloadedError("x", status=200), True, True),
        (OverloadedError("x", status=200, partial="a"), False, False),
        (GenerationError("x", error_type="generation"), False, False),
        (InvalidRequestError("x", status=200), False, False),
        (RateLimitError("x", status=429, message="slow down"), False, True),
        (RateLimitError("x", status=429, message="slow down", retry_after=1.0), True, True),
        (RateLimitError("x", status=429, message=OWN_LIMIT), True, True),
        (ServerError("x", status=502), False, True),
        (ServerError("x", status=504), False, True),
        (ServerError("x", status=500), False, False),
        (NotFoundError("x", status=404), False, False),
        (IncompleteStreamError("x"), False, False),
        (ProtocolError("x"), False, False),
        (H2oError("x"), False, False),
    ],
    ids=lambda value: repr(value) if isinstance(value, H2oError) else str(value),
)
def test_what_was_refused_and_what_is_passing(
    error: H2oError, refused: bool, passing: bool
) -> None:
    assert was_refused(error) == refused
    assert is_passing(error) == passing


def test_the_services_own_limit_is_known_by_its_words() -> None:
    assert is_own_limit(own_limit())
    assert not is_own_limit(RateLimitError("x", status=429, message="slow down"))
    assert not is_own_limit(failure())
