"""Stubs of model servers, which send scripted responses over real sockets.

`OpenAIStub` sends the events of an OpenAI-compatible server, and can pause between two of them.
A stub records its requests, and notices when the client disconnects.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from h2o_client.emulator import Answer, GenerationRequest

GONE = (BrokenPipeError, ConnectionResetError)


@dataclass
class Asked:
    """One request received by a stub."""

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
        """Log nothing."""

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
        """Return once the client has closed the connection."""
        with suppress(*GONE):
            assert self.connection.recv(1) == b""
        self.stub.left.set()


Answering = Callable[[Asked, Handler], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answering, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def in_thread(server: socketserver.BaseServer) -> Iterator[None]:
    """Run any server during the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running(answer: Answering, port: int = 0) -> Iterator[Server]:
    """Run a stub during the block."""
    server = Server(answer, port)
    with in_thread(server):
        yield server


class Listener:
    """An engine that keeps its requests, and always gives the same answer."""

    def __init__(self, answer: Answer | str = " x") -> None:
        self.asked: list[GenerationRequest] = []
        self.answer = answer

    def __call__(self, request: GenerationRequest) -> Answer | str:
        self.asked.append(request)
        return self.answer


def delta(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Build one event of an OpenAI-compatible server."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}
    return {"object": "chat.completion.chunk", "choices": [choice]}


DONE = "[DONE]"
WHOLE = [delta(" Hello"), delta(" there"), delta(None, "stop"), DONE]
"""A complete answer."""
HOLD = "hold"
"""Instead of an event: pause until `OpenAIStub.go` is set."""
FLOOD = "flood"
"""Instead of an event: send token after token until the client disconnects."""
CUT = "cut"
"""Instead of an event: close the connection, and send nothing more."""
LEFT = "left"
"""Instead of an event: wait until the client disconnects."""


@dataclass
class OpenAIStub:
    """An OpenAI-compatible server.

    Attributes:
        events: what it sends: events, `HOLD`, `FLOOD`, `CUT`, `LEFT`, `DONE`, or bytes verbatim.
        refusals: statuses and bodies for the next requests, sent with a ``Retry-After`` and a
            misleading ``Location``.
        whole: a body to send instead of events.
        models: the models that it lists.
        go: ends a `HOLD`.
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
