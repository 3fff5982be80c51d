"""Rejections that look like lost connections: early rejection of a body, an invalid redirect."""

import json
import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import pytest
from backends import Api, only
from hostile import Hostile, answer

from h2o_client import (
    GenerationError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLargeError,
    ProtocolError,
    Timeouts,
)
from h2o_client.emulator import Answer, Emulator

LARGEST = 524_288
WELL = {
    b"POST /settings ": {"type": "redirect", "status": 303, "location": "/"},
    b"POST /conversation ": {"conversationId": "6b007c3d1090eb6ec94d77f1"},
}
REFUSAL = b"Invalid request body"


class Handler(socketserver.BaseRequestHandler):
    """Rejects a large request after its head, and closes the connection, like the real server."""

    @property
    def owner(self) -> "Server":
        return cast("Server", self.server)

    def handle(self) -> None:
        with self.request.makefile("rb") as file:
            while line := file.readline():
                length = 0
                while (header := file.readline()) not in (b"\r\n", b""):
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                if length > LARGEST:
                    self.owner.refused += 1
                    if self.owner.answers:
                        self.respond(b"413 Payload Too Large", REFUSAL)
                    return
                file.read(length)
                value = next((WELL[start] for start in WELL if line.startswith(start)), {})
                self.respond(b"200 OK", json.dumps(value).encode())

    def respond(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n" % status
        self.request.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    answers = True
    refused = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Generator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# Recovery would use up its limit, and the test's.
PATIENT = Timeouts(recovery=600.0)


@pytest.mark.slow
@pytest.mark.parametrize("transport", [None, "fast"])
@pytest.mark.parametrize("size", [600_000, 6_000_000])
async def test_prompt_rejected_while_sending_is_a_status_error(
    api: Api, transport: str | None, size: int
) -> None:
    api.transport = transport
    with serving() as server:
        async with api.client(server.url, timeouts=PATIENT) as client:
            with pytest.raises(PromptTooLargeError) as caught:
                await client.chat("x" * size)
        assert caught.value.status == 413
        assert server.refused == 1


@pytest.mark.slow
async def test_connection_closed_while_sending_is_an_error(api: Api) -> None:
    with serving() as server:
        server.answers = False
        async with api.client(server.url, timeouts=PATIENT) as client:
            with pytest.raises(PromptTooLargeError, match="524288 bytes"):
                await client.chat("x" * 20_000_000)


@pytest.mark.parametrize("location", ["http://[::1", "http://host:port/", "http://a\x01b/"])
async def test_redirect_with_an_invalid_location_is_an_error(api: Api, location: str) -> None:
    with Hostile() as server:
        server.on("settings", answer(b"", f"Location: {location}", status="302 Found"))
        async with api.client(server.url) as client:
            with pytest.raises(ProtocolError, match="redirect"):
                await client.chat("Hi")


# A model server error has one class, whether from its status or from an event.


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (424, "generation", GenerationError),
        (500, "incomplete_generation", GenerationError),
        (429, "overloaded", OverloadedError),
        (422, "validation", InvalidRequestError),
    ],
)
async def test_error_class_is_the_same_as_status_and_as_event(
    api: Api, server: Emulator, status: int, kind: str, expected: type[Exception]
) -> None:
    server.reply(
        Answer(status=status, body={"error": "the cause", "error_type": kind}),
        Answer(" one two", ending="error", error="the cause", error_type=kind),
    )
    async with api.client(retries=0) as client:
        for partial in ("", " one two"):
            with pytest.raises(expected, match="the cause") as caught:
                await client.chat("Hi")
            assert type(caught.value) is expected
            assert getattr(caught.value, "partial", None) == partial
    await api.settled()


@only("sync")
async def test_overload_during_an_answer_is_not_retried(api: Api, server: Emulator) -> None:
    server.reply(Answer(" one", ending="error", error="full", error_type="overloaded"))
    async with api.client() as client:
        with pytest.raises(OverloadedError) as caught:
            await client.chat("Hi")
    assert caught.value.partial == " one"
    assert server.generations == 1
