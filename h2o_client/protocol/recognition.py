"""Detects which dialect a server speaks.

Unless configured, a client assumes the 2023 dialect. On a 2023 server this costs nothing. On other
servers its requests do no harm: they reject them, or answer as no 2023 server does. One more
request then decides: the list of the models, which only 2025 servers return. So the first call to a
2025 server takes two more requests than necessary.
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
_FOREIGN = ("no node has", "the answer to sharing")
_VERSIONS = "this client supports versions 0.3 to 0.6, and 0.9.6 and later"


def load_dialect(name: str, site: Site) -> Dialect:
    """Make a dialect; only the one that is used is imported.

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
    """Whether an error, in the 2023 dialect, may mean that the server speaks another one.

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
        return error.status == 302 and error.base_url is None  # to a login
    match error.status:
        case 400:
            return error.message == "Invalid request"  # an unknown model
        case 403:
            return _ORIGIN in error.message
        case 404:
            return opening or error.message == "(an HTML page)"
        case 500:
            # 2023 servers wrap the error of an unknown model, version 0.7 does not.
            plain = error.message == "Internal Error" and error.body.startswith('{"message"')
            return (opening and plain) or error.message == "An error occurred"
        case status:
            return opening and status in (405, 501)


def question(site: Site) -> "Query[tuple[Model, ...]]":
    """Make the request that only a 2025 server answers with a list of models."""
    from h2o_client.protocol.chat_ui_2025.dialect import Dialect2025

    return Dialect2025(site).models()


def is_undecided(answer: StatusError | ProtocolError) -> bool:
    """Whether the error of reading the list of models says nothing about the kind of server."""
    status = answer.status if isinstance(answer, StatusError) else 0
    return isinstance(answer, LoginRequiredError) or status == 429 or 500 <= status != 501


def explain(sign: H2oError, answer: StatusError | ProtocolError, operation: str) -> H2oError:
    """Return the error for a server that does not list its models as a 2025 server does.

    Args:
        sign: the error in the 2023 dialect.
        answer: the error of reading the list of models.
        operation: "settings" for the first request of a session, which every 2023 server supports.
    """
    if is_undecided(answer):
        return answer
    if isinstance(sign, StatusError) and not isinstance(sign, RedirectError):
        if _ORIGIN in sign.message:
            return UnsupportedServerError(
                "the path of the base URL is wrong, or this server is chat-ui 0.8 to 0.9.5, which "
                f"reports broken answers as whole ({_VERSIONS}: check the base URL, or upgrade the "
                "server)",
                version="0.8 to 0.9.5",
            )
        if sign.message == "An error occurred":
            return UnsupportedServerError(
                f"this server is chat-ui 0.8 to 0.9.5, which is not supported because it reports "
                f"broken answers as whole ({_VERSIONS}: upgrade the server)",
                version="0.8 to 0.9.5",
            )
        if sign.message == "Internal Error" and operation == "settings":
            return UnsupportedServerError(
                f"this server seems to be chat-ui 0.7, which is not supported "
                f"({_VERSIONS}: upgrade the server)",
                version="0.7",
            )
    neither = isinstance(sign, ProtocolError) or getattr(sign, "status", 0) in (404, 405, 501)
    if operation != "settings" or not neither:
        return sign
    return UnsupportedServerError(
        f"this is not a chat-ui server, or a proxy in front of it answered: {sign}; {_VERSIONS}"
    )
