"""Builds the parts that all requests of one client have in common: URL and headers.

Every request has the referer of the service's own page, the session's cookie, and `Accept` with
JSON first: servers read only its first entry, and answer `text/html` with a page. Requests forbid
compression: answers are small, and a small body could decompress to a huge one.
"""

# 02_settings_variants: form posts without the referer are rejected. 22_accept_matrix: `Accept`.

import json
from collections.abc import Mapping
from urllib.parse import quote

from h2o_client.protocol.address import Address
from h2o_client.protocol.effects import Request
from h2o_client.protocol.session import Session

ACCEPT = "application/json, text/event-stream"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


class Site:
    """Builds the common part of the requests of one client.

    Args:
        address: the base URL of the service.
        session: the session, whose cookie may change between requests.
        headers: additional headers for every request; they override the client's own.
        token: a bearer token, or None. A user and password in the base URL take precedence over it,
            and an `Authorization` in `headers` over both.
        user_agent: the value of the `User-Agent` header.

    Attributes:
        referer: the value of the `Referer` header; None if the caller's headers contain one.
        origin: the value of the `Origin` header; None if it is not sent.
    """

    def __init__(
        self,
        address: Address,
        session: Session,
        *,
        headers: Mapping[str, str],
        token: str | None,
        user_agent: str,
    ) -> None:
        self.address = address
        self._session = session
        common = {
            "Accept": ACCEPT,
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
        }
        if address.authorization is not None:
            common["Authorization"] = address.authorization
        elif token is not None:
            common["Authorization"] = f"Bearer {token}"
        given = {name.lower() for name in headers}
        self.referer = None if "referer" in given else address.referer
        self.origin: str | None = None
        self._has_origin = "origin" in given
        kept = [(name, value) for name, value in common.items() if name.lower() not in given]
        self._cookies = [value for name, value in headers.items() if name.lower() == "cookie"]
        self._headers = (
            *kept,
            *((name, value) for name, value in headers.items() if name.lower() != "cookie"),
        )

    def request(
        self,
        operation: str,
        method: str,
        path: str,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> Request:
        """Build a request.

        Args:
            operation: its purpose in one word, for logs and errors.
            method: the HTTP method.
            path: the path below the base URL, with its query.
            content: the body, or None.
            content_type: its type, or None.
        """
        headers = list(self._headers)
        if self.referer is not None:
            headers.append(("Referer", self.referer))
        if self.origin is not None and not self._has_origin:
            headers.append(("Origin", self.origin))
        headers.append(("Cookie", "; ".join([self._session.cookie, *self._cookies])))
        if content_type is not None:
            headers.append(("Content-Type", content_type))
        return Request(method, self.address.url + path, tuple(headers), content, operation)

    def about(
        self,
        operation: str,
        method: str,
        conversation: str,
        path: str = "",
        content: bytes | None = None,
    ) -> Request:
        """Build a request about a conversation.

        Args:
            operation: see `request()`.
            method: the HTTP method.
            conversation: its id.
            path: the path below the conversation, with its query.
            content: the body as JSON, or None.
        """
        content_type = None if content is None else JSON
        path = f"/conversation/{in_path(conversation)}{path}"
        return self.request(operation, method, path, content, content_type)


def in_path(text: str) -> str:
    """Return an id, escaped for a path."""
    return quote(text, safe="")


def encode(value: object) -> bytes:
    """Encode the JSON body of a request.

    Raises:
        TypeError: the value cannot be written as JSON.
        ValueError: a number is not finite, the value contains itself, or a string is not valid
            UTF-8.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"a parameter cannot be sent as JSON: {error}") from None
    except RecursionError:
        raise ValueError("a parameter is nested too deeply to be sent as JSON") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("a parameter contains an unpaired surrogate") from None
