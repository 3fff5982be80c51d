"""Stubs of model servers, which answer over real sockets what they are told.

`OpenAIStub` sends scripted events of an OpenAI-compatible server, and can stand still between
two of them. A stub keeps what it was sent, and notices when it is left.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GONE = (BrokenPipeError, ConnectionResetError)


@dataclass
class Asked:
    """One request that a stub got."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.body)
        return loaded


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def stub(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's
        """Say nothing."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.path, headers, self.rfile.read(length))
        self.stub.asked.append(asked)
        self.close_connection = True
        try:
            self.stub.answer(asked, self)
        except GONE:
            self.stub.left.set()

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def whole(self, status: int, body: bytes, content_type: str, *more: tuple[str, str]) -> None:
        length = ("content-length", str(len(body)))
        self.head(status, [length, ("content-type", content_type), *more])
        self.wfile.write(body)

    def wait_until_left(self) -> None:
        """Return when the other side has closed the connection."""
        with suppress(*GONE):
            assert self.connection.recv(1) == b""
        self.stub.left.set()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[Asked, Handler], None], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running(answer: Callable[[Asked, Handler], None], port: int = 0) -> Iterator[Server]:
    """A stub, for as long as the block runs."""
    with Server(answer, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def delta(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of an OpenAI-compatible server."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}
    return {"object": "chat.completion.chunk", "choices": [choice]}


DONE = "[DONE]"
WHOLE = [delta(" Hello"), delta(" there"), delta(None, "stop"), DONE]
"""A whole answer."""
HOLD = "hold"
"""In the place of an event: stand still until `OpenAIStub.go` is set."""
FLOOD = "flood"
"""In the place of an event: one token after the other, until the other side leaves."""
CUT = "cut"
"""In the place of an event: close the connection, and no more."""
LEFT = "left"
"""In the place of an event: wait until the other side leaves."""


@dataclass
class OpenAIStub:
    """An OpenAI-compatible server.

    Attributes:
        events: What it says: events, `HOLD`, `FLOOD`, `CUT`, `LEFT`, `DONE`, or bytes verbatim.
        refusals: Statuses and bodies that the next requests get, with a ``Retry-After``, and a
            ``Location`` that leads astray.
        whole: A body that it says instead of events.
        models: What it lists.
        go: Ends a `HOLD`.
    """

    events: list[Any] = field(default_factory=list[Any])
    refusals: list[tuple[int, Any]] = field(default_factory=list[tuple[int, Any]])
    whole: bytes | None = None
    models: list[str] = field(default_factory=lambda: ["first-model", "second-model"])
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, asked: Asked, handler: Handler) -> None:
        if self.refusals:
            status, body = self.refusals.pop(0)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            more = ("retry-after", "7"), ("location", f"{handler.stub.url}/astray")
            handler.whole(status, data, "application/json", *more)
        elif asked.path.endswith("/models"):
            data = json.dumps({"data": [{"id": name} for name in self.models]}).encode()
            handler.whole(200, data, "application/json")
        elif self.whole is not None:
            handler.whole(200, self.whole, "application/json")
        else:
            handler.head(200, [("content-type", "text/event-stream; charset=utf-8")])
            for event in self.events:
                self._say(event, handler)
            handler.chunk(b"")

    def _say(self, event: Any, handler: Handler) -> None:
        if event == HOLD:
            assert self.go.wait(30)
        elif event == FLOOD:
            while True:
                self._say(delta(" more"), handler)
                time.sleep(0.002)
        elif event == CUT:
            raise BrokenPipeError
        elif event == LEFT:
            handler.wait_until_left()
            raise BrokenPipeError
        elif isinstance(event, bytes):
            handler.chunk(event)
        else:
            text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            handler.chunk(f"data: {text}\n\n".encode())
