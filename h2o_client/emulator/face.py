"""What a dialect's face is to the rest of the emulator.

A face knows which request is what, who may ask, what is answered, and what the real
server says with a status.  Another dialect is another folder with a face; store, service,
engines and connections stay.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod

from h2o_client.emulator.script import Fault, encode_body
from h2o_client.emulator.service import Service
from h2o_client.emulator.sveltekit import hook_error, origin_of
from h2o_client.emulator.web import Answered, Request, Response


class Face(ABC):
    """Answers requests in one dialect.

    Attributes:
        versions: The versions that it can be, the default one first.
        max_body: Bytes in a request's body, where nothing else is configured.
        stop_lifetime: Seconds that the record of a stop is kept, where nothing else is configured.
        sweeps: Whether what has expired is removed by a sweep, and not at once.
    """

    versions: tuple[str, ...]
    max_body: int
    stop_lifetime: float
    sweeps: bool

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config

    @abstractmethod
    def kind(self, method: str, path: str) -> str:
        """What kind of request that is, for faults and for those who look at the requests."""

    @abstractmethod
    async def handle(self, request: Request) -> Answered:
        """Answer one request."""

    @abstractmethod
    def usual(self, request: Request, status: int) -> Response:
        """What the real server says with a status."""

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
        answer = self.usual(request, status)
        answer.headers = _replaced(answer.headers, extra)
        return answer

    def own_origin(self, request: Request) -> str:
        """The origin that is the server's own: on all addresses it goes by the Host header."""
        service = self._service
        return service.origin if service.one_host else origin_of(f"http://{request.header('host')}")


def _replaced(usual: list[tuple[str, str]], given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The usual headers, but for those that are given."""
    names = {name.lower() for name, _ in given}
    return [*((name, value) for name, value in usual if name.lower() not in names), *given]


def _same(given: str | None, secret: str) -> bool:
    """Compare with a secret in constant time."""
    return hmac.compare_digest((given or "").encode(), secret.encode())
