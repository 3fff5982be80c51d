"""The face of 2025 servers: its routes, access checks and responses.

A request passes three checks before its route: the Origin of form posts, the login, and a bearer
token that a real server would verify with another service. Their rejections do not set a cookie.
Of the other responses, only those to POST requests and the pages for login and models set one.
"""
# 10_missing_cookie, 09_wrong_id, 31_login

from __future__ import annotations

import gzip
import logging
import secrets
from email.utils import formatdate
from urllib.parse import quote
from uuid import uuid4

from h2o_client.emulator.chat_ui_2025.call import Call
from h2o_client.emulator.chat_ui_2025.routes import ROUTES
from h2o_client.emulator.face import SvelteKitFace
from h2o_client.emulator.routing import Found
from h2o_client.emulator.sveltekit import (
    FORM_TYPES,
    NO_CONVERSATION,
    RATE_LIMITED,
    fatal_error,
    framed_json,
    hook_error,
    origin_of,
    session_cookie,
    unspecific,
    wants_action_json,
)
from h2o_client.emulator.web import Request, Response, Stream

logger = logging.getLogger(__name__)

TWO_WEEKS = 14 * 24 * 3600
HOUR = 3600
LOGIN = "You have to be logged in."
PROVIDER = "https://login.example.com"
PLAIN = ("content-type", "text/plain;charset=UTF-8")
MIN_COMPRESSED = 1024
"""The minimum size in bytes of a body that is compressed."""

CORS = [
    ("access-control-allow-headers", "Content-Type, Authorization"),
    ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
    ("access-control-allow-origin", "*"),
]


class Face2025(SvelteKitFace):
    """Answers requests in this dialect."""

    versions = ("main", "0.10")
    max_body = 15 * 1024 * 1024
    stop_lifetime = 5.0
    sweeps = False
    routes = ROUTES
    call_class = Call

    @property
    def _main(self) -> bool:
        return self._config.version == "main"

    def unexpected(self, request: Request, status: int = 500) -> Response:
        """The answer after an unexpected error."""
        return fatal_error(request, status, "An error occurred", errorId=str(uuid4()))

    def mark(self, request: Request, found: Found, session: str, answer: Response | Stream) -> None:
        """Add headers that depend on the route, such as the cookie."""
        if found.path.startswith("/api/"):
            answer.headers += CORS
        if found.path == "/login":
            answer.headers.append(("cache-control", "no-store"))
        both = found.route is not None and found.route.endpoint and found.route.show is not None
        if both and request.method in {"GET", "HEAD"}:
            answer.headers.append(("vary", "Accept"))
        if request.method == "POST" or found.path.startswith(("/login", "/models/")):
            answer.headers.append(self._cookie(self._config.cookie_name, session, TWO_WEEKS))

    def refuse(self, request: Request, found: Found, session: str) -> Response | None:
        """Reject forms from other origins, and users who are not logged in."""
        api = found.path.startswith("/api/")
        origin = request.header("origin")
        if request.method == "POST" and request.media_type in FORM_TYPES:
            if not origin:
                return hook_error(request, 403, "Non-JSON form requests need to have an origin")
            # Only host and port are compared, not the scheme.
            own = self.own_origin(request).partition(":")[2]
            if origin_of(origin).partition(":")[2] != own:
                return hook_error(request, 403, "Invalid referer for POST request")
        elif origin and found.path.startswith("/api/v2/"):
            origin_of(origin)
        token = (request.header("authorization") or "").startswith("Bearer ")
        given = request.cookie(self._config.cookie_name)
        if api and token and self._config.token is None and not given:
            return self.unexpected(request)  # a real server would verify it with another service
        return self._refuse_anonymous(request, found, session)

    def _refuse_anonymous(self, request: Request, found: Found, session: str) -> Response | None:
        """Redirect users who are not logged in to the login provider, if configured."""
        # 31_login
        if self._config.login is None or session == self._config.login:
            return None
        creates = found.path == "/conversation" and request.method == "POST"
        if not creates and found.path not in {"/login", "/settings"}:
            harmless = request.method in {"GET", "HEAD", "OPTIONS"}
            return None if harmless else hook_error(request, 401, LOGIN)
        callback = quote(f"{self._service.origin}{self._config.base_path}/login/callback", safe="")
        location = (
            f"{PROVIDER}/authorize?client_id=x&scope=openid%20profile&response_type=code"
            f"&redirect_uri={callback}&code_challenge_method=S256"
            f"&code_challenge={secrets.token_urlsafe(32)}&state={secrets.token_urlsafe(48)}"
        )
        if request.method == "POST" and not creates and wants_action_json(request):
            told = {"type": "redirect", "status": 302, "location": location}
            answer = framed_json(200, told)
        else:
            answer = Response(302, [("location", location)])
        if found.path == "/login":
            answer.headers.append(("cache-control", "no-store"))
        answer.headers += [
            self._cookie(self._config.cookie_name, session, TWO_WEEKS),
            self._cookie("hfChat-codeVerifier", secrets.token_urlsafe(32), HOUR),
        ]
        return answer

    def _cookie(self, name: str, value: str, lifetime: int) -> tuple[str, str]:
        expires = formatdate(self._service.store.clock() + lifetime, usegmt=True)
        return session_cookie(name, value, expires, secure=self._config.cookie_secure)

    def finish(self, request: Request, found: Found, answer: Response | Stream) -> None:
        """Compress the answer, and add the headers common to all answers."""
        static = found.route is not None and found.route.static
        if isinstance(answer, Response) and self._main:
            _compress(request, answer)
        varies = [value for name, value in answer.headers if name == "vary"]
        varies += ["Accept-Encoding"] if self._main or static else []
        # The response to a wrong method has no content type.
        unwanted = PLAIN if answer.status == 405 else None
        kept = [pair for pair in answer.headers if pair[0] != "vary" and pair != unwanted]
        answer.headers = [*kept, ("vary", ", ".join(varies))] if varies else kept
        if not self._main and not static:
            policy = "frame-ancestors https://huggingface.co;"
            answer.headers.append(("content-security-policy", policy))

    def usual(self, request: Request, status: int) -> Response:
        """The real server's message for a status."""
        hook = {401: LOGIN, 403: "Invalid referer for POST request"}
        own = {404: NO_CONVERSATION, 410: "Model not available anymore", 429: RATE_LIMITED}
        if status in hook:
            return hook_error(request, status, hook[status])
        if status in own:
            return fatal_error(request, status, own[status])
        if status in {413, 500}:
            return self.unexpected(request, status if self._main else 500)
        return unspecific(status)


def _compress(request: Request, answer: Response) -> None:
    # 22_compression; the real server prefers br, which Python's library does not support.
    wanted = "gzip" in (request.header("accept-encoding") or "")
    if wanted and len(answer.body) >= MIN_COMPRESSED:
        answer.body = gzip.compress(answer.body)
        kept = [(name, value) for name, value in answer.headers if name != "content-length"]
        answer.headers = [*kept, ("content-encoding", "gzip")]
