"""The face of the servers of 2023: which request is what, who may ask, and what is answered.

A request passes three gates before its route, in the real server's order: the
framework's redirect of trailing slashes, the Referer of form posts, the
welcome modal.  What they refuse carries no cookie; everything after them does.

The routes' own order of checks is kept as well, because it shows: a conversation is
looked up before the rate limit, the limit before the body.
"""

from __future__ import annotations

import hmac
import logging
from email.utils import formatdate
from uuid import uuid4

from h2o_client.emulator.chat_ui_2023 import routes
from h2o_client.emulator.chat_ui_2023.call import Call
from h2o_client.emulator.chat_ui_2023.sveltekit import (
    FORM_TYPES,
    MODAL,
    NO_CONVERSATION,
    RATE_LIMITED,
    HttpError,
    empty,
    fatal_error,
    framed_json,
    hook_error,
    html,
    origin_of,
    redirect,
    session_cookie,
)
from h2o_client.emulator.script import Fault, encode_body
from h2o_client.emulator.service import Service
from h2o_client.emulator.upstream import ERROR_BODIES
from h2o_client.emulator.web import Answered, Request, Response

logger = logging.getLogger(__name__)

YEAR = 365 * 24 * 3600


class Face:
    """Answers requests in this dialect."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config

    def kind(self, method: str, path: str) -> str:
        """What kind of request that is, for faults and for those who look at the requests."""
        return routes.kind(method, routes.find(path, self._config.base_path))

    async def handle(self, request: Request) -> Answered:
        """Answer one request."""
        found = routes.find(request.path, self._config.base_path)
        if found.normal is not None:
            location = f"{found.normal}?{request.query}" if request.query else found.normal
            return Response(308, [("location", location), ("x-sveltekit-normalize", "1")])
        if found.route is not None and found.route.static:
            return routes.version_file()
        session = request.cookie(self._config.cookie_name) or str(uuid4())
        try:
            refused = self._refuse(request, found, session)
        except ValueError:
            return fatal_error(request, 500, "Internal Error")  # such as a malformed Referer [02]
        if refused is not None:
            return refused
        try:
            call = Call(self._service, request, session, found.path, found.ids)
            answer = await routes.dispatch(call, found)
        except HttpError as error:
            answer = fatal_error(request, error.status, error.message)
        except Exception:  # the web framework, too, answers an unexpected error so
            logger.exception("emulator: %s %s failed", request.method, request.path)
            answer = fatal_error(request, 500, "Internal Error")
        if answer is not None and not (found.path == "/logout" and request.method == "POST"):
            expires = formatdate(self._service.store.clock() + YEAR, usegmt=True)
            answer.headers.append(session_cookie(self._config.cookie_name, session, expires))
        return answer

    def _refuse(self, request: Request, found: routes.Found, session: str) -> Response | None:
        service = self._service
        refused = self.refuse_stranger(request)
        if refused is not None:
            return refused
        if request.method == "POST" and request.media_type in FORM_TYPES:
            referer = request.header("referer")
            if not referer:
                return hook_error(request, 403, "Non-JSON form requests need to have a referer")
            own = service.origin if service.one_host else _own_origin(request)
            if origin_of(referer) != f"{self._config.public_scheme}:{own.partition(':')[2]}":
                return hook_error(request, 403, "Invalid referer for POST request")
        open_to_all = found.route is not None and found.route.name in {"settings", "login"}
        if request.method not in {"GET", "HEAD", "OPTIONS"} and not open_to_all:
            settings = service.store.sessions.use(session)
            if settings is None or settings.accepted_at is None:
                return hook_error(request, 405, MODAL)
        return None

    def refuse_stranger(self, request: Request) -> Response | None:
        """Refuse a request without the token, where one is required."""
        token = self._config.token
        # The text is from the server's source: a login was not measured.
        if token is not None and not _same(request.header("authorization"), f"Bearer {token}"):
            return hook_error(request, 401, "You have to be logged in.")
        return None

    def fault(self, request: Request, fault: Fault) -> Response:
        """The response of a scripted fault: by default what the real server says."""
        status = fault.status or 500
        extra = list(fault.headers.items())
        if fault.body is not None:
            body, content_type = encode_body(fault.body, fault.content_type)
            length = ("content-length", str(len(body)))
            usual = [length, ("content-type", content_type)]
            return Response(status, _replaced(usual, extra), body)
        answer = _usual(request, status)
        answer.headers = _replaced(answer.headers, extra)
        return answer


def _replaced(usual: list[tuple[str, str]], given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The usual headers, but for those that are given."""
    names = {name.lower() for name, _ in given}
    return [*((name, value) for name, value in usual if name.lower() not in names), *given]


def _same(given: str | None, secret: str) -> bool:
    """Compare with a secret in constant time."""
    return hmac.compare_digest((given or "").encode(), secret.encode())


def _own_origin(request: Request) -> str:
    return origin_of(f"http://{request.header('host') or ''}")


def _usual(request: Request, status: int) -> Response:
    hook = {401: "You have to be logged in.", 403: "Invalid referer for POST request", 405: MODAL}
    own = {404: NO_CONVERSATION, 410: "Model not available anymore", 429: RATE_LIMITED}
    if status in hook:
        return hook_error(request, status, hook[status])
    if status == 413:
        body = b"Invalid request body"
        return Response(413, [("content-length", str(len(body)))], body)
    if status == 500 and request.kind in {"settings", "delete_all"}:
        return framed_json(500, {"type": "error", "error": {"message": "Internal Error"}})
    if status in own or status == 500:
        return fatal_error(request, status, own.get(status, "Internal Error"))
    if status in ERROR_BODIES:
        return framed_json(status, ERROR_BODIES[status])
    if 300 <= status < 400:
        return redirect(status, "/")
    if status < 300:
        return empty() if status == 200 else Response(status, [("content-length", "0")])
    body = html(status, "The server is temporarily unable to service your request.")
    return Response(
        status, [("content-length", str(len(body))), ("content-type", "text/html")], body
    )
