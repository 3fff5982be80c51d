"""The interface between a dialect's face and the rest of the emulator.

A face knows the routes, the access checks, the responses, and the real server's message for each
status. Another dialect is another folder with a face; store, service, engines and connections are
shared.
"""

from __future__ import annotations

import hmac
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from uuid import uuid4

from h2o_client.emulator.call import Call
from h2o_client.emulator.routing import Found, Route, dispatch, find
from h2o_client.emulator.script import Fault, encode_body
from h2o_client.emulator.service import Service
from h2o_client.emulator.sveltekit import (
    HttpError,
    InternalError,
    fatal_error,
    hook_error,
    origin_of,
)
from h2o_client.emulator.web import Answered, Request, Response, Stream

logger = logging.getLogger(__name__)


class Face(ABC):
    """Answers requests in one dialect.

    Attributes:
        versions: The versions that it supports, the default one first.
        max_body: The default maximum size of a request's body, in bytes.
        stop_lifetime: The default lifetime of the record of a stop, in seconds.
        sweeps: Whether expired records are removed by a sweep, instead of at once.
        routes: The routes.
    """

    versions: tuple[str, ...]
    max_body: int
    stop_lifetime: float
    sweeps: bool
    routes: Sequence[Route]

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config

    def kind(self, method: str, path: str) -> str:
        """The kind of a request, for faults and the log of requests."""
        return find(self.routes, path, self._config.base_path).kind(method)

    @abstractmethod
    async def handle(self, request: Request) -> Answered:
        """Answer one request."""

    @abstractmethod
    def usual(self, request: Request, status: int) -> Response:
        """The real server's message for a status."""

    def refuse_stranger(self, request: Request) -> Response | None:
        """Reject a request without the token, if one is required."""
        token = self._config.token
        if token is not None and not _same(request.header("authorization"), f"Bearer {token}"):
            return self.unauthorized(request)
        return None

    def unauthorized(self, request: Request) -> Response:
        """The answer to a request without the token."""
        return self.usual(request, 401)

    def fault(self, request: Request, fault: Fault) -> Response:
        """The response of a scripted fault, by default with the real server's message."""
        status = fault.status or 500
        extra = list(fault.headers.items())
        if fault.body is not None:
            body, content_type = encode_body(fault.body, fault.content_type)
            length = ("content-length", str(len(body)))
            usual = [length, ("content-type", content_type)]
            return Response(status, _replaced(usual, extra), body)
        answer = self.usual(request, status)
        answer.headers = _replaced(answer.headers, extra)
        return answer


class SvelteKitFace(Face):
    """A face of chat-ui: a web application with pages and forms, based on SvelteKit.

    Attributes:
        call_class: The class of its endpoints' calls.
    """

    call_class: type[Call]

    def unauthorized(self, request: Request) -> Response:
        """The answer to a request without the token, as of a proxy in front of the server."""
        return hook_error(request, 401, "A bearer token is required.")

    async def handle(self, request: Request) -> Answered:
        """Answer one request."""
        found = find(self.routes, request.path, self._config.base_path)
        answer = await self._answer(request, found)
        if answer is not None:
            self.finish(request, found, answer)
        return answer

    async def _answer(self, request: Request, found: Found) -> Answered:
        if found.normal is not None:
            location = f"{found.normal}?{request.query}" if request.query else found.normal
            return Response(308, [("location", location), ("x-sveltekit-normalize", "1")])
        session = request.cookie(self._config.cookie_name) or str(uuid4())
        call = self.call_class(self._service, request, session, found.path, found.ids)
        if found.route is not None and found.route.static:
            return await dispatch(call, found)
        try:
            refused = self.refuse_stranger(request) or self.refuse(request, found, session)
        except ValueError:  # such as a Referer or an Origin that is not a URL [02]
            return self.unexpected(request)
        if refused is not None:
            return refused
        answer: Answered
        try:
            answer = await dispatch(call, found)
        except InternalError:
            answer = self.unexpected(request)
        except HttpError as error:
            answer = fatal_error(request, error.status, error.message)
        except Exception:  # as the web framework does
            logger.exception("emulator: %s %s failed", request.method, request.path)
            answer = self.unexpected(request)
        if answer is not None:
            self.mark(request, found, session, answer)
        return answer

    @abstractmethod
    def refuse(self, request: Request, found: Found, session: str) -> Response | None:
        """Reject requests that do not reach the routes; a ValueError counts as unexpected."""

    @abstractmethod
    def unexpected(self, request: Request) -> Response:
        """The answer after an unexpected error."""

    @abstractmethod
    def mark(self, request: Request, found: Found, session: str, answer: Response | Stream) -> None:
        """Add the headers of all answers after the access checks, such as the cookie."""

    def finish(self, request: Request, found: Found, answer: Response | Stream) -> None:
        """Modify an answer before it is sent."""

    def own_origin(self, request: Request) -> str:
        """The server's own origin; if it listens on all addresses, the one in the Host header."""
        service = self._service
        return service.origin if service.one_host else origin_of(f"http://{request.header('host')}")


def _replaced(usual: list[tuple[str, str]], given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The usual headers, except those that are given."""
    names = {name.lower() for name, _ in given}
    return [*((name, value) for name, value in usual if name.lower() not in names), *given]


def _same(given: str | None, secret: str) -> bool:
    """Compare with a secret in constant time."""
    return hmac.compare_digest((given or "").encode(), secret.encode())
