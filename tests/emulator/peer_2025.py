"""A client of the raw chat-ui 2025 protocol, for tests of the emulator."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import SHUT_RDWR
from threading import Timer
from typing import Any

from backends import PATIENCE

from h2o_client.emulator import DEFAULT_MODELS, Answer, Emulator, Intervals

MODEL = DEFAULT_MODELS[0].name
BOUNDARY = "a-long-and-random-boundary"


@dataclass
class Got:
    """A complete response."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def value(self) -> Any:
        """The value decoded from superjson."""
        return self.json["json"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream, without keep-alives."""
        found = [json.loads(line) for line in self.body.decode().split("\n") if line]
        return [event for event in found if event.get("status") != "keepAlive"]

    @property
    def text(self) -> str:
        """The streamed text."""
        return said(self.events)

    @property
    def final(self) -> dict[str, Any] | None:
        """The final answer."""
        return next((item for item in self.events if item["type"] == "finalAnswer"), None)


def said(events: list[dict[str, Any]]) -> str:
    """Return the tokens of a stream's events."""
    return "".join(event["token"].rstrip("\0") for event in events if event["type"] == "stream")


def form(data: object, *files: tuple[str, str, bytes]) -> bytes:
    """Encode a message's form; each file has a name, a type and its content."""
    text = data if isinstance(data, str) else json.dumps(data)
    parts = [b'Content-Disposition: form-data; name="data"\r\n\r\n' + text.encode()]
    for name, kind, content in files:
        head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n'
        parts.append(f"{head}Content-Type: {kind}\r\n\r\n".encode() + content)
    delimiter = f"--{BOUNDARY}".encode()
    return b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


class Stream:
    """A response that is read piece by piece."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        try:
            self._answer = connection.getresponse()
        except ConnectionError:
            connection.close()
            raise
        self.status = self._answer.status

    def lines(self) -> Iterator[bytes]:
        """Yield the lines as they arrive."""
        while line := self._answer.readline():
            yield line

    def until(self, text: str) -> bytes:
        """Read up to the line that contains a text."""
        read = b""
        for line in self.lines():
            read += line
            if text.encode() in line:
                return read
        raise AssertionError(f"{text!r} did not arrive: {read!r}")

    def rest(self) -> Got:
        """Read what is left, within `PATIENCE`, as keep-alives could go on forever."""
        assert self._connection.sock is not None
        out_of_patience = Timer(PATIENCE, self._connection.sock.shutdown, [SHUT_RDWR])
        out_of_patience.start()
        try:
            answer = self._answer
            return Got(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            out_of_patience.cancel()
            self.close()

    def close(self) -> None:
        """Disconnect."""
        self._answer.close()
        self._connection.close()


class Peer:
    """One session, with a new connection for each request."""

    def __init__(self, server: Emulator, session: str = "s") -> None:
        self.server = server
        self.session = session
        self.address = server.url.removeprefix("http://").partition("/")[0]
        self.base = server.base_path
        self.conversation = ""
        self.root = ""

    def begin(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str | None
    ) -> Stream:
        """Send a request; return once the response's head has arrived."""
        all_headers: dict[str, str | None] = {
            "Cookie": f"hf-chat={self.session}",
            "Accept": "*/*",
            "Origin": f"http://{self.address}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection = http.client.HTTPConnection(self.address, timeout=10)
        kept = {name: value for name, value in all_headers.items() if value is not None}
        connection.request(method, self.base + path, body, kept)
        return Stream(connection)

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> Got:
        """Send a request, with any body as JSON, and read the complete response."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body)
            headers.setdefault("Content_Type", "application/json")
        return self.begin(method, path, body, **headers).rest()

    def create(self, **fields: Any) -> str:
        """Create a conversation."""
        got = self.ask("POST", "/conversation", {"model": MODEL, **fields})
        assert got.status == 200, got
        self.conversation = got.json["conversationId"]
        self.root = self.history()["rootMessageId"]
        return self.conversation

    def send(
        self,
        text: str | None = "Hello",
        parent: str | None = None,
        *files: tuple[str, str, bytes],
        **fields: Any,
    ) -> Stream:
        """Send a message; return once the response's head has arrived."""
        data = {"id": parent or self.last(), **fields}
        data |= {} if text is None else {"inputs": text}
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        path = f"/conversation/{self.conversation}"
        return self.begin("POST", path, form(data, *files), Content_Type=kind)

    def say(
        self,
        text: str | None = "Hello",
        parent: str | None = None,
        *files: tuple[str, str, bytes],
        **fields: Any,
    ) -> Got:
        """Send a message, and read the complete answer."""
        return self.send(text, parent, *files, **fields).rest()

    def history(self) -> Any:
        """Fetch the conversation."""
        return self.ask("GET", f"/api/v2/conversations/{self.conversation}").value

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages of the conversation."""
        found: list[dict[str, Any]] = self.history()["messages"]
        return found

    def last(self) -> str:
        """Return the id of the newest message."""
        return str(self.messages()[-1]["id"])

    def stop(self, **point: Any) -> Got:
        """Stop the running generations."""
        path = f"/conversation/{self.conversation}/stop-generating"
        return self.ask("POST", path, point or None)


WORDS = [" a", " b", " c", " d"]
SLOW = Answer(WORDS, hold_after=2)
FINISHED = {"type": "status", "status": "finished"}
QUICK = Intervals(keep_alive=0.01, journal=0.005, save=0.01)


def emulator(**options: Any) -> Emulator:
    return Emulator(**{"dialect": "chat-ui-2025", "intervals": QUICK, **options})


def error(**fields: Any) -> dict[str, Any]:
    return {"type": "status", "status": "error", **fields}


def follow(peer: Peer, **query: object) -> Any:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return peer.begin("GET", f"/conversation/{peer.conversation}/stream?{text}")


def told(body: bytes) -> tuple[str, list[int], str]:
    """Return the text, the sequence numbers and the ending that a reattached client received."""
    blocks = [block for block in body.decode().split("\n\n") if block.startswith("id: ")]
    numbers = [int(block.partition("\n")[0][4:]) for block in blocks]
    events = [json.loads(block.partition("data: ")[2]) for block in blocks]
    return said(events), numbers, json.loads(body.decode().rpartition("data: ")[2])["status"]


@contextmanager
def begun(**options: Any) -> Iterator[Peer]:
    """Yield the client of a new emulator, with a conversation."""
    with emulator(**options) as server:
        peer = Peer(server)
        peer.create()
        yield peer
