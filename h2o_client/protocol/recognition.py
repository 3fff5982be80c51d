"""Which dialect a server speaks.

A client that was not told assumes the dialect of 2023. On such a server that costs nothing, and to
others its requests do no harm: these reject them, or answer with what no server of 2023 does. Then
one more request decides, the list of the models, which only servers of 2025 give. So they take
two requests more than they need, in the first call.
"""

# 15_detect, 16_old_client of all versions; chat-ui-main-2026-08/31_login.

from typing import TYPE_CHECKING

from h2o_client.errors import (
    H2oError,
    LoginRequiredError,
    ProtocolError,
    RedirectError,
    StatusError,
    TermsNotAcceptedError,
    UnsupportedServerError,
)
from h2o_client.protocol.dialect import Dialect, Query
from h2o_client.protocol.requests import Site

if TYPE_CHECKING:
    from h2o_client.stored import Model

OLD, NEW = "chat-ui-2023", "chat-ui-2025"
DIALECTS = (OLD, NEW)
_ORIGIN = "need to have an origin"
_FOREIGN = ("no node of it has", "the answer to sharing")
_VERSIONS = "this client speaks to versions 0.3 to 0.6, and 0.9.6 and later"


def load_dialect(name: str, site: Site) -> Dialect:
    """Make a dialect; one that is not used is not imported.

    Args:
        name: its name.
        site: builds its requests.
    """
    if name == NEW:
        from h2o_client.protocol.chat_ui_2025.dialect import Dialect2025

        site.origin = site.address.origin  # which these servers check
        return Dialect2025(site)
    from h2o_client.protocol.chat_ui_2023.dialect import Dialect2023

    return Dialect2023(site)


def is_sign(error: H2oError, operation: str) -> bool:
    """Whether an error, in the dialect of 2023, may come of a server that speaks another one.

    Args:
        error: the error.
        operation: "settings" for the first request of a session.
    """
    opening = operation == "settings"
    if isinstance(error, ProtocolError):
        return opening or any(words in str(error) for words in _FOREIGN)
    if not isinstance(error, StatusError) or isinstance(error, TermsNotAcceptedError):
        return False
    if isinstance(error, RedirectError):
        return opening and error.status == 302 and error.base_url is None
    match error.status:
        case 400:
            return error.message == "Invalid request"  # an unknown model
        case 403:
            return _ORIGIN in error.message
        case 404:
            return opening or error.message == "(an HTML page)"
        case 500:
            # Servers of 2023 wrap the error of an unknown model, those of 0.7 do not.
            plain = error.message == "Internal Error" and error.body.startswith('{"message"')
            return (opening and plain) or error.message == "An error occurred"
        case status:
            return opening and status in (405, 501)


def question(site: Site) -> "Query[tuple[Model, ...]]":
    """Make the request that only a server of 2025 answers with a list of models."""
    from h2o_client.protocol.chat_ui_2025.dialect import Dialect2025

    return Dialect2025(site).models()


def is_undecided(answer: StatusError | ProtocolError) -> bool:
    """Whether the error that the list of the models ended with says nothing about the server."""
    status = answer.status if isinstance(answer, StatusError) else 0
    return isinstance(answer, LoginRequiredError) or status == 429 or 500 <= status != 501


def explain(sign: H2oError, answer: StatusError | ProtocolError, operation: str) -> H2oError:
    """Return the error for a server that does not list its models as one of 2025.

    Args:
        sign: the error in the dialect of 2023.
        answer: the error that the list of the models ended with.
        operation: "settings" for the first request of a session, which every server of 2023 knows.
    """
    if is_undecided(answer):
        return answer
    if isinstance(sign, StatusError) and not isinstance(sign, RedirectError):
        if _ORIGIN in sign.message:
            return UnsupportedServerError(
                "the base URL has a wrong path, or this server is a chat-ui of version 0.8 to "
                f"0.9.5, which reports broken answers as whole ({_VERSIONS}: check the base URL, "
                "or upgrade the server)",
                version="0.8 to 0.9.5",
            )
        if sign.message == "An error occurred":
            return UnsupportedServerError(
                f"this server is a chat-ui of a version from 0.8 to 0.9.5, which cannot be used: "
                f"it reports broken answers as whole ({_VERSIONS}: upgrade the server)",
                version="0.8 to 0.9.5",
            )
        if sign.message == "Internal Error" and operation == "settings":
            return UnsupportedServerError(
                f"this server seems to be a chat-ui of version 0.7, which cannot be used "
                f"({_VERSIONS}: upgrade the server)",
                version="0.7",
            )
    neither = isinstance(sign, ProtocolError) or getattr(sign, "status", 0) in (404, 405, 501)
    if operation != "settings" or not neither:
        return sign
    return UnsupportedServerError(
        f"this is not a chat-ui server, or something stands before it: {sign}; {_VERSIONS}"
    )
