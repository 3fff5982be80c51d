"""Turns the status, headers and body of a response into a value or an error.

Errors come in six shapes: `{"error": …}`, `{"message": …}`,
`{"type": "error", "error": {"message": …}}`, the model server's
`{"error": …, "error_type": …}`, plain text and, from a proxy, HTML. The class of an error depends
on its status, and on its text where the status is not enough.
"""

# 22_accept_matrix, 04_message_errors: the shapes of errors.

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from h2o_client.diagnosis import is_openai_url, site_advice
from h2o_client.errors import (
    ForbiddenError,
    GenerationError,
    InvalidRequestError,
    LoginRequiredError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    PromptTooLargeError,
    ProtocolError,
    RateLimitError,
    RedirectError,
    ServerError,
    StatusError,
    TermsNotAcceptedError,
)
from h2o_client.protocol.address import Address, is_id
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.lines import excerpt
from h2o_client.protocol.text import load_json
from h2o_client.types import PromptPreview

T = TypeVar("T")

MAX_BODY = 64 * 1024  # bytes of an error; a longer body is truncated
_MAX_MESSAGE = 500
_MAX_TYPE = 100
_MODAL = "accept the welcome modal"
OWN_LIMIT = "sending too many messages"
LOGIN = (
    "this server requires a login: log in with a browser and pass the value of its session cookie, "
    '"hf-chat" unless it was renamed (see `cookie_name`), as `session` or in H2O_CHAT_SESSION'
)  # chat-ui-main-2026-08/31_login
_LOGGED_OUT = "have to be logged in"
_OTHER_SITE = frozenset({200, 400, 404, 405, 407, 501})  # other servers' answers to `/settings`
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_CLASSES: Mapping[int, tuple[type[StatusError], str]] = {
    401: (
        LoginRequiredError,
        "this server requires a login: set H2O_CHAT_TOKEN, or pass Authorization in `headers`",
    ),
    403: (
        ForbiddenError,
        "it belongs to another session, or the server expects a different base URL",
    ),
    404: (NotFoundError, "it does not exist, was deleted, or belongs to another session"),
    405: (StatusError, "check that the base URL is that of a chat-ui server"),
    410: (ModelUnavailableError, "choose another model"),
    413: (PromptTooLargeError, "make the prompt shorter"),
    422: (InvalidRequestError, "change the prompt or the parameters"),
    429: (RateLimitError, "wait before the next message"),
    503: (OverloadedError, "try again later"),
}


def check_status(head: Head, body: bytes, request: Request) -> None:
    """Raise an error if the response reports one.

    Raises:
        RedirectError: a 3xx.
        StatusError: any other status outside 2xx.
    """
    if 200 <= head.status < 300:
        return
    if 300 <= head.status < 400:
        raise redirect_error(
            head.status,
            head.get("location"),
            base_url=other_base_url(head.get("location"), request),
            body=as_text(body),
            request=request,
        )
    message, kind = error_message(body)
    raise status_error(
        head.status,
        message,
        kind=kind,
        body=as_text(body),
        retry_after=retry_after(head),
        request=request,
    )


def is_plain(head: Head) -> bool:
    """Whether a response is uncompressed, as requested, so that it can be read.

    Raises:
        ProtocolError: a successful response is compressed.
    """
    encoding = head.get("content-encoding").strip().lower()
    plain = encoding in ("", "identity")
    if not plain and head.status < 400:
        raise ProtocolError(
            f"the response is compressed ({encoding[:40]!r}) although the request forbids it: "
            "does a proxy compress responses?"
        )
    return plain


def status_error(
    status: int,
    message: str,
    *,
    kind: str = "",
    body: str = "",
    retry_after: float | None = None,
    request: Request | None = None,
) -> StatusError | GenerationError:
    """Make the error for a status.

    Args:
        status: the HTTP status.
        message: the server's error message.
        kind: the model server's `error_type`, or "".
        body: the beginning of the body.
        retry_after: seconds to wait, if the server says so.
        request: the request, if known.
    """
    if status == 405 and _MODAL in message:
        found: tuple[type[StatusError], str] = (
            TermsNotAcceptedError,
            "the server does not know this session, or has forgotten it",
        )
    elif status == 401 and _LOGGED_OUT in message:
        found = (LoginRequiredError, LOGIN)
    elif kind == "overloaded":
        found = (OverloadedError, "the model server has too many requests: try again later")
    elif kind == "validation":
        found = _CLASSES[422]
    elif status == 424 or kind in ("generation", "incomplete_generation"):
        words = f": {message[:_MAX_MESSAGE]}" if message else ""
        return GenerationError(
            f"{_about(request)}the server answered {status}{words} "
            "(the model server failed: try again)",
            error_type=kind or "generation",
        )
    elif status == 429 and OWN_LIMIT in message:
        found = (
            RateLimitError,
            "this is the service's own limit: wait two minutes before the next message",
        )
    elif status in _CLASSES:
        found = _CLASSES[status]
    elif status >= 500 and message == "Internal Error":
        found = (
            ServerError,
            "this can mean an unknown model, a bad id, or that the service's model server is down",
        )
    elif status >= 500:
        found = (ServerError, "the server failed: try again later")
    else:
        found = (StatusError, "the request was rejected")
    cls, advice = found
    advice = _site_advice(request, status, body) or advice
    words = f": {message[:_MAX_MESSAGE]}" if message else ""
    return cls(
        f"{_about(request)}the server answered {status}{words} ({advice})",
        status=status,
        message=message,
        body=body,
        retry_after=retry_after,
    )


def redirect_error(
    status: int,
    location: str,
    *,
    base_url: str | None = None,
    body: str = "",
    request: Request | None = None,
) -> RedirectError:
    """Make the error for an unexpected redirect.

    Args:
        status: the HTTP status.
        location: the target, as the server wrote it.
        base_url: the base URL to use instead, if the location reveals it.
        body: the beginning of the body.
        request: the request, if known.
    """
    if base_url is not None:
        advice = f"use the base URL {base_url}"
    else:
        advice = "redirects are not followed; check the base URL, and whether a login is needed"
    target = f"a redirect to {location[:_MAX_MESSAGE]!r}"
    return RedirectError(
        f"{_about(request)}the server answered {status}, {target} ({advice})",
        status=status,
        message="",
        body=body,
        location=location,
        base_url=base_url,
    )


def _about(request: Request | None) -> str:
    """Return the beginning of an error message about a request."""
    return "" if request is None else f"{request.line}: "


def _site_advice(request: Request | None, status: int, body: str) -> str:
    """Return advice if the first request of a session shows another kind of server, else ""."""
    if request is None or request.operation != "settings":
        return ""
    base_url = request.url.removesuffix("/settings")
    if status not in _OTHER_SITE and not is_openai_url(base_url):
        return ""
    return site_advice(base_url, status, body, html=body.lstrip().startswith("<"))


def other_base_url(location: str, request: Request) -> str | None:
    """Return the base URL that would have sent `request` to `location`, if any."""
    try:
        target = urlsplit(location)
    except ValueError:  # it is not a valid URL
        return None
    if not target.scheme or not target.netloc or "@" in target.netloc:
        return None
    path = urlsplit(request.url).path
    # The service's paths begin with one of these; the path of the base URL precedes them.
    for root in ("/api/v2/", "/settings", "/conversation", "/r/", "/__data.json"):
        start = path.rfind(root)
        if start >= 0 and target.path.rstrip("/").endswith(path[start:]):
            before = target.path.rstrip("/").removesuffix(path[start:])
            try:
                return Address.parse(f"{target.scheme}://{target.netloc}{before}").url
            except ValueError:  # it is not a valid base URL
                return None
    return None


def error_message(body: bytes) -> tuple[str, str]:
    """Return the message in an error's body, and the model server's `error_type`."""
    text = as_text(body).strip()
    try:
        value = load_json(text)
    except (ValueError, RecursionError):
        if text.startswith("<"):
            return "(an HTML page)", ""
        return text[:_MAX_MESSAGE], ""
    if not isinstance(value, dict):
        return text[:_MAX_MESSAGE], ""
    fields = cast("dict[str, Any]", value)
    kind = fields.get("error_type")
    found: object = fields.get("error", fields.get("message"))
    if isinstance(found, dict):
        found = cast("dict[str, Any]", found).get("message")
    message = found if isinstance(found, str) else text[:_MAX_MESSAGE]
    return message, kind if isinstance(kind, str) else ""


def retry_after(head: Head) -> float | None:
    """Return the seconds of a `Retry-After` header with a number or a date, or None.

    A date is compared with the response's own `Date` header, so no clock is needed.
    """
    text = head.get("retry-after").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(head.get("date"))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def read_id(value: object) -> str:
    """Return a conversation's id if it is valid.

    Raises:
        ValueError: the id is not valid.
    """
    if not is_id(value):
        raise ValueError("not a valid conversation id: expected 1 to 64 letters, digits, - and _")
    return value


def reading(read: Callable[[bytes], T]) -> Callable[[Head, bytes, Request], T]:
    """Turn a function that reads the body of a successful answer into a reader of answers."""

    def reader(head: Head, body: bytes, request: Request) -> T:
        check_status(head, body, request)
        return read(body)

    return reader


def read_json(head: Head, body: bytes, request: Request | None = None) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    try:
        value = load_json(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise unexpected(head, body, "an answer that should be JSON", request) from None
    if not isinstance(value, dict):
        raise unexpected(head, body, "an answer that should be a JSON object", request)
    return cast("dict[str, Any]", value)


def unexpected(head: Head, body: bytes, what: str, request: Request | None = None) -> ProtocolError:
    """Make the error for a successful response with unexpected content."""
    content_type = head.get("content-type")[:_MAX_TYPE] or "no content type"
    # JSON comes from the service itself, and may contain messages.
    shown = f"{len(body)} bytes" if "json" in content_type.lower() else excerpt(body)
    advice = _site_advice(request, head.status, as_text(body[:MAX_BODY]))
    return ProtocolError(
        f"{_about(request)}{what} does not follow this protocol: status {head.status}, "
        f"{content_type}, {shown} ({advice or 'check the base URL, and any proxy in between'})"
    )


def read_prompt_preview(head: Head, body: bytes, request: Request) -> PromptPreview:
    """Return the preview of a prompt.

    Raises:
        StatusError: it was rejected.
        ProtocolError: the answer does not contain a prompt.
    """
    # 12_vote_and_prompt, chat-ui-main-2026-08/21_vote_prompt
    check_status(head, body, request)
    answer = read_json(head, body)
    prompt, model, parameters = (answer.get(key) for key in ("prompt", "model", "parameters"))
    if not isinstance(prompt, str) or not isinstance(model, str):
        raise unexpected(head, body, "the preview of the prompt")
    return PromptPreview(
        prompt=prompt, model=model, parameters=parameters if isinstance(parameters, dict) else {}
    )


def as_text(body: bytes) -> str:
    """Return a body as text, even if its bytes are not valid UTF-8."""
    return body.decode("utf-8", "replace")
