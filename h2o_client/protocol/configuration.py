"""Turns a client's arguments into its configuration, checked before anything is sent.

Both shells have the same arguments and pass them here, with the environment as a mapping.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from h2o_client.protocol.address import Address
from h2o_client.protocol.payloads import check_flag, check_model, check_parameters
from h2o_client.protocol.recognition import DIALECTS
from h2o_client.protocol.retries import Retries, as_retries
from h2o_client.protocol.session import check_cookie_name, parse_session
from h2o_client.types import DEFAULT_BASE_URL, Timeouts

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?")


class Configuration(NamedTuple):
    """The caller's choices.

    Attributes:
        address: the base URL of the service.
        model: the model of calls that do not name one; None for the server's default.
        session: a session to resume, or None.
        cookie_name: the name of the session's cookie; None for the usual one.
        dialect: the kind of server; None if unknown.
        share: whether conversations may be shared with the models' authors.
        timeouts: time limits.
        retries: retries of calls that do not set their own.
        headers: additional headers for every request.
        token: a bearer token, or None.
        parameters: generation parameters of every call.
        recover: whether calls that do not set `recover` recover an answer after a lost connection.
    """

    address: Address
    model: str | None
    session: str | None
    cookie_name: str | None
    dialect: str | None
    share: bool
    timeouts: Timeouts
    retries: Retries
    headers: dict[str, str]
    token: str | None
    parameters: dict[str, Any]
    recover: bool

    def __repr__(self) -> str:
        # Session, headers and token are secrets.
        return f"Configuration({self.address.url!r})"


def configure(
    base_url: str | None,
    *,
    model: str | None,
    session: str | None,
    share_conversations: bool | None,
    timeouts: Timeouts | float | None,
    retries: Retries | int | None,
    headers: Mapping[str, str] | None,
    parameters: Mapping[str, Any] | None,
    recover: bool | None,
    dialect: str | None = None,
    cookie_name: str | None = None,
    environ: Mapping[str, str],
) -> Configuration:
    """Check the arguments of a client; None always means the default.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is not valid.
    """
    # Only None means the default: an empty string is probably a variable that someone forgot to
    # set, and must not send the prompt to the hosted service.
    named_by = "base_url"
    if base_url is None:
        base_url = environ.get("H2O_CHAT_URL") or DEFAULT_BASE_URL
        named_by = "H2O_CHAT_URL"
    if model is None:
        model = environ.get("H2O_CHAT_MODEL") or None
    token = environ.get("H2O_CHAT_TOKEN", "").strip() or None
    if token is not None and not _HEADER_VALUE.fullmatch(token):
        raise ValueError("H2O_CHAT_TOKEN contains characters that are not allowed in a header")
    if session is None and (session := environ.get("H2O_CHAT_SESSION", "").strip() or None):
        parse_session(session, cookie_name, "H2O_CHAT_SESSION")
    return Configuration(
        address=Address.parse(base_url, named_by),
        model=None if model is None else check_model(model),
        session=session,
        cookie_name=None if cookie_name is None else check_cookie_name(cookie_name),
        dialect=None if dialect is None else check_dialect(dialect),
        share=(
            True
            if share_conversations is None
            else check_flag("share_conversations", share_conversations)
        ),
        timeouts=as_timeouts(timeouts),
        retries=as_retries(retries),
        headers=check_headers({} if headers is None else headers),
        token=token,
        parameters=check_parameters({} if parameters is None else parameters),
        recover=True if recover is None else check_flag("recover", recover),
    )


def check_dialect(dialect: object) -> str:
    """Return the name of a dialect if it is valid.

    Raises:
        TypeError: the name is not a string.
        ValueError: the name is not that of a dialect.
    """
    if not isinstance(dialect, str):
        raise TypeError(f"dialect must be a string, not {type(dialect).__name__}")
    if dialect not in DIALECTS:
        raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, not {dialect!r}")
    return dialect


def as_timeouts(value: Timeouts | float | None) -> Timeouts:
    """Return time limits; a number is the longest wait for the server, in seconds.

    It sets `first_token` and `idle`, and `connect` if it is below that limit's default.

    Raises:
        TypeError: the value is neither a number nor `Timeouts`.
        ValueError: the number is not greater than 0.
    """
    if value is None:
        return Timeouts()
    if isinstance(value, Timeouts):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"timeouts must be a number of seconds or Timeouts(…), not {value!r}")
    if not value > 0:
        raise ValueError(f"timeouts must be more than 0 seconds, not {value!r}")
    return Timeouts(connect=min(10.0, value), first_token=value, idle=value)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers if they can be sent. Errors do not quote their values.

    Raises:
        TypeError: the value does not map strings to strings.
        ValueError: a name or value contains characters that are not allowed in a header.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("headers must map strings to strings")
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"the header {name!r} contains characters that are not allowed in a header"
            )
    return dict(headers)
