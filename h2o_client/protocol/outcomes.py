"""What the error that a message ended with says of its answer."""

from h2o_client.errors import (
    GenerationError,
    H2oError,
    IncompleteStreamError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.retries import GATEWAY


def as_answer_error(error: H2oError) -> H2oError:
    """Say of a connection that was lost under a message what it means: the answer is not whole."""
    lost = isinstance(error, TransportError) and error.sent
    if not lost or isinstance(error, TransportTimeoutError):
        return error
    return IncompleteStreamError(
        f"the connection was lost before the end of the answer: {error} (try again)"
    )


def missing_text(received: str, stored: str) -> str | None:
    """Return what is in the stored answer and was not received.

    None: the stored text does not begin with what was received. The server stores it without the
    white space at its end, which may have been received.
    """
    if stored.startswith(received):
        return stored[len(received) :]
    return "" if stored == received.rstrip(JS_SPACE) else None


def can_be_recovered(error: H2oError) -> bool:
    """Whether the server may have, or come to have, the whole answer all the same."""
    if isinstance(error, TransportTimeoutError):
        return error.limit != "total" and error.sent
    if isinstance(error, StatusError):
        return error.status in GATEWAY
    return isinstance(error, IncompleteStreamError)


def may_be_generating(error: H2oError) -> bool:
    """Whether the server may go on generating after the message request ended like this."""
    if isinstance(error, GenerationError):
        return False
    if isinstance(error, StatusError):
        return error.status in GATEWAY
    return not isinstance(error, TransportError) or error.sent
