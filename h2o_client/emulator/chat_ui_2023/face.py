"""The face of 2023 servers: its routes, access checks and responses.

A request passes three checks before its route, in the real server's order: the framework's redirect
of trailing slashes, the Referer of form posts, the welcome modal. Their rejections do not set a
cookie; all other responses do.

The routes keep the real order of their checks too, because it is visible: the conversation is
looked up before the rate limit is checked, and the limit before the body.
"""

from __future__ import annotations

import logging
from email.utils import formatdate

from h2o_client.emulator.chat_ui_2023.call import Call
from h2o_client.emulator.chat_ui_2023.routes import ROUTES
from h2o_client.emulator.face import SvelteKitFace
from h2o_client.emulator.routing import Found
from h2o_client.emulator.sveltekit import (
    FORM_TYPES,
    MODAL,
    NO_CONVERSATION,
    RATE_LIMITED,
    fatal_error,
    framed_json,
    hook_error,
    origin_of,
    session_cookie,
    unspecific,
)
from h2o_client.emulator.upstream import ERROR_BODIES
from h2o_client.emulator.web import Request, Response, Stream

logger = logging.getLogger(__name__)

YEAR = 365 * 24 * 3600


class Face2023(SvelteKitFace):
    """Answers requests in this dialect."""

    versions = ("0.4", "0.6")
    max_body = 524_288
    stop_lifetime = 30.0
    sweeps = True
    routes = ROUTES
    call_class = Call

    def unexpected(self, request: Request) -> Response:
        """The answer after an unexpected error."""
        return fatal_error(request, 500, "Internal Error")

    def mark(self, request: Request, found: Found, session: str, answer: Response | Stream) -> None:
        """Add the session's cookie."""
        if not (found.path == "/logout" and request.method == "POST"):
            expires = formatdate(self._service.store.clock() + YEAR, usegmt=True)
            answer.headers.append(session_cookie(self._config.cookie_name, session, expires))

    def refuse(self, request: Request, found: Found, session: str) -> Response | None:
        """Reject forms from other origins, and sessions that have not accepted the modal."""
        service = self._service
        if request.method == "POST" and request.media_type in FORM_TYPES:
            referer = request.header("referer")
            if not referer:
                return hook_error(request, 403, "Non-JSON form requests need to have a referer")
            own = self.own_origin(request)
            if origin_of(referer) != f"{self._config.public_scheme}:{own.partition(':')[2]}":
                return hook_error(request, 403, "Invalid referer for POST request")
        open_to_all = found.route is not None and found.route.name in {"settings", "login"}
        if request.method not in {"GET", "HEAD", "OPTIONS"} and not open_to_all:
            settings = service.store.sessions.use(session)
            if settings is None or settings.accepted_at is None:
                return hook_error(request, 405, MODAL)
        return None

    def usual(self, request: Request, status: int) -> Response:
        """The real server's message for a status."""
        hook = {
            401: "You have to be logged in.",
            403: "Invalid referer for POST request",
            405: MODAL,
        }
        own = {404: NO_CONVERSATION, 410: "Model not available anymore", 429: RATE_LIMITED}
        if status in hook:
            return hook_error(request, status, hook[status])
        if status == 413:
            # Rejected before the service: without a cookie or content type.
            body = b"Invalid request body"
            return Response(413, [("content-length", str(len(body)))], body)
        if status == 500 and request.kind in {"settings", "delete_all"}:
            return framed_json(500, {"type": "error", "error": {"message": "Internal Error"}})
        if status in own or status == 500:
            return fatal_error(request, status, own.get(status, "Internal Error"))
        if status in ERROR_BODIES:
            return framed_json(status, ERROR_BODIES[status])
        return unspecific(status)
