"""SvelteKit, the web framework of the real servers: its responses and content negotiation.

There are two kinds of responses: those of the service's own endpoints are sent in chunks, while
those of the framework (errors, redirects of form actions, data) have a content length. The emulator
does the same, because clients can see the difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

from h2o_client.emulator.web import Request, Response

MODAL = "You need to accept the welcome modal first"
RATE_LIMITED = "You are sending too many messages. Try again later."
NO_CONVERSATION = "Conversation not found"
NO_MESSAGE = "Message not found"
FORBIDDEN = (
    "You don't have access to this conversation. If someone gave you this link, "
    "ask them to use the 'share' feature instead."
)
UNDEFINED: Final = object()
"""JavaScript's undefined."""
FORM_TYPES = frozenset({"multipart/form-data", "application/x-www-form-urlencoded", "text/plain"})


class HttpError(Exception):
    """An error that the framework turns into a response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class InternalError(HttpError):
    """An unexpected error in the service."""

    def __init__(self) -> None:
        super().__init__(500, "Internal Error")


def compact(value: object) -> bytes:
    """JSON as JavaScript writes it: an unpaired surrogate as an escape."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        errors="backslashreplace"
    )


def moment(seconds: float) -> datetime:
    """A moment of the emulator's clock as a date."""
    return datetime.fromtimestamp(seconds, UTC)


def iso(date: datetime) -> str:
    """A date as JavaScript writes it."""
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def framed(status: int, body: bytes, content_type: str, *extra: tuple[str, str]) -> Response:
    """A response from the framework, with a content length."""
    headers = [*extra, ("content-length", str(len(body))), ("content-type", content_type)]
    return Response(status, sorted(headers), body)


def framed_json(status: int, value: object, *extra: tuple[str, str]) -> Response:
    """The same, in JSON."""
    return framed(status, compact(value), "application/json", *extra)


def endpoint_json(value: object, *, indent: int | None = None) -> Response:
    """The response of an endpoint of the service: JSON in chunks."""
    body = compact(value)
    if indent is not None:
        body = json.dumps(value, ensure_ascii=False, indent=indent).encode()
    return Response(200, [("content-type", "application/json")], body)


def empty() -> Response:
    """The empty response of an endpoint."""
    return Response(200)


def redirect(status: int, location: str) -> Response:
    """A redirect."""
    return Response(status, [("location", location)])


def hook_error(request: Request, status: int, message: str) -> Response:
    """An error before the routes: without a cookie, and in JSON if either side uses JSON."""
    # 03, 02
    accept = request.header("accept") or ""
    if "application/json" in accept or "application/json" in (request.header("content-type") or ""):
        return Response(status, [("content-type", "application/json")], compact({"error": message}))
    return Response(status, [("content-type", "text/plain")], message.encode())


def fatal_error(request: Request, status: int, message: str, **more: str) -> Response:
    """An error from an endpoint: JSON if the client prefers that, otherwise a page."""
    # 22
    types = ("application/json", "text/html")
    if negotiate(request.header("accept") or "text/html", types) == "application/json":
        return framed_json(status, {"message": message, **more})
    return framed(status, html(status, message), "text/html; charset=utf-8")


def page(status: int, message: str, *extra: tuple[str, str]) -> Response:
    """A page of the application."""
    etag = ("etag", f'"{status:x}{len(message):x}"')
    return framed(
        status, html(status, message), "text/html", etag, ("x-sveltekit-page", "true"), *extra
    )


def html(status: int, message: str) -> bytes:
    """A page, much shorter than the real one."""
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{message}</title>"
        f"</head><body><h1>{status}</h1><p>{message}</p></body></html>\n"
    ).encode()


def method_not_allowed(method: str, allowed: str) -> Response:
    """The answer to a method that an endpoint does not support."""
    # 13
    return framed(
        405,
        f"{method} method not allowed".encode(),
        "text/plain;charset=UTF-8",
        ("allow", allowed),
    )


def negotiate(accept: str, types: Sequence[str]) -> str | None:
    """The framework's content negotiation, including its bug.

    Only the first entry of a list is read correctly; the space before later ones keeps them from
    matching.
    """
    # 22_accept_matrix
    parts: list[tuple[float, bool, bool, int, str, str]] = []
    for index, entry in enumerate(accept.split(",")):
        match = re.search(r"([^/]+)/([^;]+)(?:;q=([0-9.]+))?", entry)
        if match is not None:
            kind, sub, quality = match.group(1), match.group(2), match.group(3) or "1"
            parts.append((-_number(quality), sub == "*", kind == "*", index, kind, sub))
    parts.sort()
    best: tuple[int, str] | None = None
    for name in types:
        kind, _, sub = name.partition("/")
        for place, (*_, accepted_kind, accepted_sub) in enumerate(parts):
            if accepted_kind in {kind, "*"} and accepted_sub in {sub, "*"}:
                if best is None or place < best[0]:
                    best = place, name
                break
    return None if best is None else best[1]


def unspecific(status: int) -> Response:
    """The response for a status for which the real server's message is unknown."""
    if 300 <= status < 400:
        return redirect(status, "/")
    if status < 300:
        return empty() if status == 200 else Response(status, [("content-length", "0")])
    body = html(status, "The server is temporarily unable to service your request.")
    return framed(status, body, "text/html")


def wants_page(request: Request) -> bool:
    """Whether a request is for the page, if its path is both a page and an endpoint."""
    if request.method in {"PUT", "PATCH", "DELETE", "OPTIONS"}:
        return False
    if request.method == "POST" and request.header("x-sveltekit-action") == "true":
        return True
    return negotiate(request.header("accept") or "*/*", ("*", "text/html")) == "text/html"


def wants_action_json(request: Request) -> bool:
    """Whether to answer a form action in JSON rather than with a redirect."""
    types = ("application/json", "text/html")
    return negotiate(request.header("accept") or "*/*", types) == "application/json"


def no_actions(request: Request) -> Response:
    """The answer to a form post to a page without actions."""
    # 04, 23; 2025: 09_wrong_id
    message = "POST method not allowed. No actions exist for this page"
    if wants_action_json(request):
        error = {"type": "error", "error": {"message": message}}
        return framed_json(405, error, ("allow", "GET"))
    return page(405, message, ("allow", "GET"))


def session_cookie(name: str, value: str, expires: str, *, secure: bool = True) -> tuple[str, str]:
    """The session's cookie, which is Secure even on plain http, unless configured otherwise."""
    # 21; 2025: 32_cookie_flags
    text = quote(value, safe="!'()*-._~")
    flags = "HttpOnly; Secure; SameSite=None" if secure else "HttpOnly; SameSite=Lax"
    return "set-cookie", f"{name}={text}; Path=/; Expires={expires}; {flags}"


def origin_of(url: str) -> str:
    """The origin of an absolute URL; a ValueError if it is not valid."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        raise ValueError("not a valid URL")
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in {None, default} else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
