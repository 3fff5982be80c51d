"""Classifies failures: what a failed request may have done, and what the client may do next.

`REJECTED`: the request did not arrive, or the server was too busy. Every request is retried.

`LIMITED`: a rate limit was hit; as far as is known, the request had no effect. Requests that are
safe to repeat are retried, messages are not.

`LOST`: the connection or a gateway failed; the request may have taken effect. Requests that are
safe to repeat are retried, and the answer to a message is recovered.

`UNKNOWN`: a time limit was exceeded, or the answer cannot be read; the request may have taken
effect. Nothing is retried. After a time limit, the client searches for the answer to a message.

`FINAL`: the server rejected the request. Nothing is retried.
"""

# chat-ui-0.6/06_rate_limit: the text of the service's own limit.

from enum import Enum

from h2o_client.errors import (
    H2oError,
    IncompleteStreamError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.effects import CallerStoppedError
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.replies import OWN_LIMIT

GATEWAY = frozenset({502, 504})  # from a proxy: whether the request took effect is unknown


class Outcome(Enum):
    """What a failed request may have done: see the module's docstring."""

    REJECTED = "rejected"
    LIMITED = "limited"
    LOST = "lost"
    UNKNOWN = "unknown"
    FINAL = "final"


def outcome_of(error: H2oError) -> Outcome:
    """Classify the error of a failed request."""
    match error:
        case CallerStoppedError() | ProtocolError():
            return Outcome.UNKNOWN
        case TransportError(sent=False):
            return Outcome.REJECTED if error.transient else Outcome.FINAL
        case TransportTimeoutError():
            return Outcome.UNKNOWN
        case TransportError():
            return Outcome.LOST if error.transient else Outcome.UNKNOWN
        case IncompleteStreamError():
            return Outcome.LOST
        case RateLimitError():
            known = error.retry_after is not None or is_own_limit(error)
            return Outcome.REJECTED if known else Outcome.LIMITED
        case OverloadedError(partial=""):
            return Outcome.REJECTED
        case StatusError() if error.status in GATEWAY:
            return Outcome.LOST
    return Outcome.FINAL


def is_transient(error: H2oError) -> bool:
    """Whether a request that is safe to repeat may be retried after this error."""
    return outcome_of(error) in (Outcome.REJECTED, Outcome.LIMITED, Outcome.LOST)


def may_have_acted(error: H2oError) -> bool:
    """Whether a request that failed with this error may have taken effect anyway."""
    return outcome_of(error) in (Outcome.LOST, Outcome.UNKNOWN)


def is_own_limit(error: H2oError) -> bool:
    """Whether this is the service's own rate limit, not one of a proxy or model server."""
    return isinstance(error, RateLimitError) and OWN_LIMIT in error.message


def can_be_recovered(error: H2oError) -> bool:
    """Whether the server may have the whole answer, now or later."""
    if isinstance(error, TransportTimeoutError):
        return error.limit != "total" and error.sent
    return outcome_of(error) is Outcome.LOST


def as_answer_error(error: H2oError) -> H2oError:
    """Convert the error of a lost connection to an `IncompleteStreamError`."""
    lost = isinstance(error, TransportError) and error.sent
    if not lost or isinstance(error, TransportTimeoutError):
        return error
    return IncompleteStreamError(
        f"the connection was lost before the end of the answer: {error} (try again)"
    )


def missing_text(received: str, stored: str) -> str | None:
    """Return the part of the stored answer that was not received.

    None means that the stored text does not begin with the received text. The server strips
    trailing white space from the stored text; the received text may include it.
    """
    if stored.startswith(received):
        return stored[len(received) :]
    return "" if stored == received.rstrip(JS_SPACE) else None
