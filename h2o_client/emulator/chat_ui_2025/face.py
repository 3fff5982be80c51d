"""The face of the servers of 2025: which request is what, who may ask, and what is answered.

A request passes three gates before its route: the Origin of form posts, the login, and a
bearer token that the server would check elsewhere.  What they refuse carries no cookie.  Of what
is answered after them, only answers to POST carry one, and those of the pages of login and models.
"""
# 10_missing_cookie, 09_wrong_id, 31_login

from __future__ import annotations

import gzip
import logging
import secrets
from email.utils import formatdate
from urllib.parse import quote
from uuid import uuid4

from h2o_client.emulator.chat_ui_2025 import routes
from h2o_client.emulator.chat_ui_2025.call import Call, Handler
from h2o_client.emulator.chat_ui_2025.run import Journal
from h2o_client.emulator.face import Face
from h2o_client.emulator.routing import Found, find
from h2o_client.emulator.service import Service
from h2o_client.emulator.store import Bounded
from h2o_client.emulator.sveltekit import (
    FORM_TYPES,
    NO_CONVERSATION,
    RATE_LIMITED,
    HttpError,
    InternalError,
    fatal_error,
    framed_json,
    hook_error,
    origin_of,
    session_cookie,
    unspecific,
    wants_action_json,
)
from h2o_client.emulator.web import Answered, Request, Response, Stream

logger = logging.getLogger(__name__)

TWO_WEEKS = 14 * 24 * 3600
HOUR = 3600
LOGIN = "You have to be logged in."
PROVIDER = "https://login.example.com"
MIN_COMPRESSED = 1024
"""Bytes of a body; smaller ones are not compressed."""

CORS = [
    ("access-control-allow-headers", "Content-Type, Authorization"),
    ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
    ("access-control-allow-origin", "*"),
]


class Face2025(Face):
    """Answers requests in this dialect."""

    versions = ("main", "0.10")
    max_body = 15 * 1024 * 1024
    stop_lifetime = 5.0
    sweeps = False

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._journals: Bounded[Journal] = Bounded(service.store.conversations.limit)
        self._main = self._config.version == "main"

    def kind(self, method: str, path: str) -> str:
        """What kind of request that is, for faults and for those who look at the requests."""
        return find(routes.ROUTES, path, self._config.base_path).kind(method)

    async def handle(self, request: Request) -> Answered:
        """Answer one request."""
        found = find(routes.ROUTES, request.path, self._config.base_path)
        answer = await self._answer(request, found)
        if isinstance(answer, Response) and self._main:
            _compress(request, answer)
        if answer is not None:
            self._add_headers(found, answer)
        return answer

    async def _answer(self, request: Request, found: Found[Handler]) -> Answered:
        if found.normal is not None:
            location = f"{found.normal}?{request.query}" if request.query else found.normal
            return Response(308, [("location", location), ("x-sveltekit-normalize", "1")])
        session = request.cookie(self._config.cookie_name) or str(uuid4())
        try:
            refused = self._refuse(request, found, session)
        except ValueError:  # an Origin that is not a URL
            return _unexpected(request)
        if refused is not None:
            return refused
        try:
            call = Call(self._service, self._journals, request, session, found.ids)
            answer = await routes.dispatch(call, found)
        except InternalError:
            answer = _unexpected(request)
        except HttpError as error:
            answer = fatal_error(request, error.status, error.message)
        except Exception:  # the web framework, too, answers an unexpected error so
            logger.exception("emulator: %s %s failed", request.method, request.path)
            answer = _unexpected(request)
        if answer is not None:
            route = found.route
            if found.path.startswith("/api/"):
                answer.headers += CORS
            if found.path == "/login":
                answer.headers.append(("cache-control", "no-store"))
            if route is not None and route.endpoint and route.show is not None:
                answer.headers += [("vary", "Accept")] if request.method in {"GET", "HEAD"} else []
            if request.method == "POST" or found.path.startswith(("/login", "/models/")):
                answer.headers.append(self._cookie(self._config.cookie_name, session, TWO_WEEKS))
        return answer

    def _refuse(self, request: Request, found: Found[Handler], session: str) -> Response | None:
        refused = self.refuse_stranger(request)
        if refused is not None:
            return refused
        api = found.path.startswith("/api/")
        origin = request.header("origin")
        if request.method == "POST" and request.media_type in FORM_TYPES:
            if not origin:
                return hook_error(request, 403, "Non-JSON form requests need to have an origin")
            # Only host and port: another scheme passes.
            own = self.own_origin(request).partition(":")[2]
            if origin_of(origin).partition(":")[2] != own:
                return hook_error(request, 403, "Invalid referer for POST request")
        elif origin and found.path.startswith("/api/v2/"):
            origin_of(origin)
        token = (request.header("authorization") or "").startswith("Bearer ")
        given = request.cookie(self._config.cookie_name)
        if api and token and self._config.token is None and not given:
            return _unexpected(request)  # it would be checked elsewhere
        return self._refuse_anonymous(request, found, session)

    def _refuse_anonymous(
        self, request: Request, found: Found[Handler], session: str
    ) -> Response | None:
        """Send those to the login provider who are not logged in, where that is asked for."""
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

    def _add_headers(self, found: Found[Handler], answer: Response | Stream) -> None:
        """Add what all answers have."""
        static = found.route is not None and found.route.static
        varies = [value for name, value in answer.headers if name == "vary"]
        varies += ["Accept-Encoding"] if self._main or static else []
        kept = [(name, value) for name, value in answer.headers if name != "vary"]
        answer.headers = [*kept, ("vary", ", ".join(varies))] if varies else kept
        if not self._main and not static:
            answer.headers.append(
                ("content-security-policy", "frame-ancestors https://huggingface.co;")
            )

    def usual(self, request: Request, status: int) -> Response:
        """What the real server says with a status."""
        hook = {401: LOGIN, 403: "Invalid referer for POST request"}
        own = {404: NO_CONVERSATION, 410: "Model not available anymore", 429: RATE_LIMITED}
        if status in hook:
            return hook_error(request, status, hook[status])
        if status in own:
            return fatal_error(request, status, own[status])
        if status in {413, 500}:
            return _unexpected(request, status if self._main else 500)
        return unspecific(status)


def _unexpected(request: Request, status: int = 500) -> Response:
    return fatal_error(request, status, "An error occurred", errorId=str(uuid4()))


def _compress(request: Request, answer: Response) -> None:
    # 22_compression; the real server prefers br, which Python does not have.
    wanted = "gzip" in (request.header("accept-encoding") or "")
    if wanted and len(answer.body) >= MIN_COMPRESSED:
        answer.body = gzip.compress(answer.body)
        kept = [(name, value) for name, value in answer.headers if name != "content-length"]
        answer.headers = [*kept, ("content-encoding", "gzip")]
