"""Requests, responses, cookies and content negotiation, as the web framework had them.

Two ways of answering look alike and are not: what the service's own endpoints
return is sent in chunks, what the framework makes (errors, redirects of form
actions, data) has a content length.  Both are kept, for clients differ in what
they make of them.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

Headers = list[tuple[str, str]]

FORM_TYPES = frozenset({"multipart/form-data", "application/x-www-form-urlencoded", "text/plain"})
MODAL = "You need to accept the welcome modal first"
RATE_LIMITED = "You are sending too many messages. Try again later."
NO_CONVERSATION = "Conversation not found"

# Node's own words [05]; those of `http.HTTPStatus` differ between versions of Python.
_REASONS = {
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Entity",
}


def reason_phrase(status: int) -> str:
    """The reason phrase of a status; empty for a status that nobody has named."""
    try:
        return _REASONS.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as it arrived.

    Attributes:
        kind: What it is: ``settings``, ``create``, ``message`` and so on; see `Emulator.fault`.
        method: The method.
        path: The path, as sent.
        query: What followed the question mark.
        headers: Names, in lower case, and values, in order.
        body: The body.
        t: When it arrived, on the emulator's clock.
        address: Where it came from.
    """

    kind: str
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes
    t: float
    address: str = ""

    def header(self, name: str) -> str | None:
        """The value of a header, the first one; names have no case."""
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def json(self) -> Any:
        """The body as JSON; what JavaScript does not take for JSON is a ValueError."""
        return json.loads(self.body, parse_constant=_no_constant)

    def form(self) -> dict[str, str]:
        """The body as a form, multipart or not; of repeated fields the first."""
        fields: dict[str, str] = {}
        content_type = self.header("content-type") or ""
        if content_type.startswith("multipart/form-data"):
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            head = f"Content-Type: {content_type}\r\n\r\n".encode()
            for part in parser.parsebytes(head + self.body).iter_parts():
                name = part.get_param("name", header="content-disposition")
                fields.setdefault(str(name), str(part.get_content()).removesuffix("\n"))
            return fields
        for name, value in parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True):
            fields.setdefault(name, value)
        return fields

    def parameter(self, name: str) -> str | None:
        """A field of the query string."""
        pairs = parse_qsl(self.query, keep_blank_values=True)
        return next((value for key, value in pairs if key == name), None)

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return (self.header("content-type") or "").partition(";")[0].strip()

    def cookie(self, name: str) -> str:
        """A cookie's value, or an empty string."""
        for part in (self.header("cookie") or "").split(";"):
            key, _, value = part.partition("=")
            if key.strip() == name:
                return unquote(value.strip().strip('"'))
        return ""


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


@dataclass(slots=True)
class Response:
    """A whole response; without a ``content-length`` it is sent in chunks."""

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


class HttpError(Exception):
    """An error that the framework makes a response of."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class InternalError(HttpError):
    """What the service throws where it did not expect something."""

    def __init__(self) -> None:
        super().__init__(500, "Internal Error")


def compact(value: object) -> bytes:
    """JSON as JavaScript writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        errors="surrogatepass"
    )


def framed(status: int, body: bytes, content_type: str, *extra: tuple[str, str]) -> Response:
    """A response of the framework, with a content length."""
    headers = [*extra, ("content-length", str(len(body))), ("content-type", content_type)]
    return Response(status, sorted(headers), body)


def framed_json(status: int, value: object, *extra: tuple[str, str]) -> Response:
    """The same, in JSON."""
    return framed(status, compact(value), "application/json", *extra)


def endpoint_json(value: object, *, indent: int | None = None) -> Response:
    """What an endpoint of the service returns: JSON in chunks."""
    body = compact(value)
    if indent is not None:
        body = json.dumps(value, ensure_ascii=False, indent=indent).encode()
    return Response(200, [("content-type", "application/json")], body)


def empty() -> Response:
    """What an endpoint returns that has nothing to say."""
    return Response(200)


def redirect(status: int, location: str) -> Response:
    """A redirect."""
    return Response(status, [("location", location)])


def hook_error(request: Request, status: int, message: str) -> Response:
    """An error from before the routes: no cookie; JSON if either side spoke of it [03, 02]."""
    accept = request.header("accept") or ""
    if "application/json" in accept or "application/json" in (request.header("content-type") or ""):
        return Response(status, [("content-type", "application/json")], compact({"error": message}))
    return Response(status, [("content-type", "text/plain")], message.encode())


def fatal_error(request: Request, status: int, message: str) -> Response:
    """An error from an endpoint: JSON if that is what is wanted most, else a page [22]."""
    types = ("application/json", "text/html")
    if negotiate(request.header("accept") or "text/html", types) == "application/json":
        return framed_json(status, {"message": message})
    return framed(status, html(status, message), "text/html; charset=utf-8")


def page(status: int, message: str, *extra: tuple[str, str]) -> Response:
    """A page of the application."""
    etag = ("etag", f'"{status:x}{len(message):x}"')
    return framed(
        status, html(status, message), "text/html", etag, ("x-sveltekit-page", "true"), *extra
    )


def html(status: int, message: str) -> bytes:
    """A page, much shorter than the real one's."""
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{message}</title>"
        f"</head><body><h1>{status}</h1><p>{message}</p></body></html>\n"
    ).encode()


def method_not_allowed(method: str, allowed: str) -> Response:
    """A method that an endpoint has not [13]."""
    return framed(
        405,
        f"{method} method not allowed".encode(),
        "text/plain;charset=UTF-8",
        ("allow", allowed),
    )


def negotiate(accept: str, types: Sequence[str]) -> str | None:
    """The framework's content negotiation, its slip included.

    Only the first entry of a list is read without the space before it, so that
    later ones hardly count [22_accept_matrix].
    """
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


def wants_page(request: Request) -> bool:
    """Whether a request for a page that is an endpoint too means the page."""
    if request.method in {"PUT", "PATCH", "DELETE", "OPTIONS"}:
        return False
    if request.method == "POST" and request.header("x-sveltekit-action") == "true":
        return True
    return negotiate(request.header("accept") or "*/*", ("*", "text/html")) == "text/html"


def wants_action_json(request: Request) -> bool:
    """Whether a form action is to be answered in JSON rather than with a redirect."""
    types = ("application/json", "text/html")
    return negotiate(request.header("accept") or "*/*", types) == "application/json"


def session_cookie(name: str, value: str, expires: str) -> tuple[str, str]:
    """The session's cookie: Secure, on plain http too [21]."""
    text = quote(value, safe="!'()*-._~")
    return (
        "set-cookie",
        f"{name}={text}; Path=/; Expires={expires}; HttpOnly; Secure; SameSite=None",
    )


def origin_of(url: str) -> str:
    """The origin of an absolute URL; a ValueError if it is none."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        raise ValueError(f"no URL: {url!r}")
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in {None, default} else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
