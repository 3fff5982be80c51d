"""Reads the small responses of the protocol of 2023."""

from urllib.parse import urlsplit

from h2o_client.protocol.address import is_id
from h2o_client.protocol.dialect import Created
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.replies import (
    MAX_BODY,
    as_text,
    check_status,
    error_message,
    read_id,
    read_json,
    redirect_error,
    status_error,
    unexpected,
)


def read_session_cookies(head: Head, body: bytes, request: Request) -> list[str]:
    """Return the `Set-Cookie` headers of accepted settings.

    Raises:
        H2oError: as for `read_settings()`.
    """
    read_settings(head, body, request)
    return [value for name, value in head.headers if name == "set-cookie"]


def read_settings(head: Head, body: bytes, request: Request) -> None:
    """Check the answer to `POST /settings`.

    Success is 303, or 200 with `{"type":"redirect","status":303,…}`, depending on the `Accept`
    header.

    Raises:
        StatusError: the request was rejected, by the status or inside a 200.
        RedirectError: it redirects away from this service.
        ProtocolError: the answer reports neither success nor an error.
    """
    # 02_settings_variants
    if head.status == 303 and _is_ours(head.get("location"), request):
        return
    check_status(head, body, request)
    answer = read_json(head, body, request)
    kind = answer.get("type")
    # chat-ui-main-2026-08/31_login: a redirect of status 302 leads to a login.
    if kind == "redirect" and answer.get("status") == 302:
        text = as_text(body[:MAX_BODY])
        raise redirect_error(302, str(answer.get("location")), body=text, request=request)
    if kind in ("redirect", "success"):
        return
    if kind in ("error", "failure"):
        status = answer.get("status")
        message, _ = error_message(body)
        if not isinstance(status, int) or not 400 <= status <= 599:
            status = 500
        text = as_text(body[:MAX_BODY])
        raise status_error(status, message[:MAX_BODY], body=text, request=request)
    raise unexpected(head, body, "the answer to the settings", request)


def read_created(head: Head, body: bytes, request: Request) -> Created:
    """Read the answer to `POST /conversation`.

    Raises:
        StatusError: it was rejected.
        ProtocolError: the answer does not contain a valid id.
    """
    # 03_create_conversation
    check_status(head, body, request)
    answer = read_json(head, body)
    try:
        # chat-ui-main-2026-08/01_happy_path has the whole conversation in it.
        return Created(read_id(answer.get("conversationId")), is_newer="conversation" in answer)
    except ValueError:
        raise unexpected(head, body, "the answer to a new conversation") from None


def read_title(head: Head, body: bytes, request: Request) -> str:
    """Return the title that the model gave, which begins with a space.

    Raises:
        StatusError: it was rejected.
        ProtocolError: the answer does not contain a title.
    """
    # 09_summarize_and_title
    check_status(head, body, request)
    title = read_json(head, body).get("title")
    if not isinstance(title, str):
        raise unexpected(head, body, "the title")
    return title.strip()


def read_share_url(head: Head, body: bytes, request: Request) -> str:
    """Return the URL of a conversation that was shared.

    Raises:
        StatusError: it was rejected.
        ProtocolError: the answer does not contain a URL.
    """
    # 10_share
    check_status(head, body, request)
    answer = read_json(head, body)
    if "url" not in answer:  # chat-ui-main-2026-08/13_share
        raise unexpected(head, body, "the answer to sharing")
    url = answer["url"]
    if not isinstance(url, str) or not is_id(url.rpartition("/r/")[2]):
        raise unexpected(head, body, "the URL of the shared conversation")
    return url


def _is_ours(location: str, request: Request) -> bool:
    """Whether a location stays at the origin of the request."""
    try:
        target, source = urlsplit(location), urlsplit(request.url)
    except ValueError:  # it is not a valid URL
        return False
    return not target.netloc or target.netloc.rpartition("@")[2] == source.netloc
