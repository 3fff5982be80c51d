"""A malicious server: it answers each request with the exact bytes that a test provides.

`Hostile` reads requests well enough to tell them apart, records what it received, and then runs
a `Play`: raw bytes, endless if the test wants, with pauses. Operations without a play get the
answer of a healthy server, so that a chat gets as far as the test needs.

It counts the bytes that it could send before the client hung up. That is at most what the client
read plus what fits into the sockets between, `IN_FLIGHT`; so a bound on the bytes sent is a bound
on the bytes read, without a clock. Everything here ends by itself: endless output at `PLENTY`
bytes, a wait after `PATIENCE` seconds.
"""

import contextlib
import gzip
import itertools
import re
import socket
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

PATIENCE = 5.0
PLENTY = 256 * 1024 * 1024
_SEND_BUFFER = 64 * 1024
IN_FLIGHT = 8 * 1024 * 1024
"""Bytes that can be in flight: the send buffer, and the largest receive buffer."""

CONVERSATION = "6b007c3d1090eb6ec94d77f1"
JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"
HTML = "Content-Type: text/html"
CHUNKED = "Transfer-Encoding: chunked"

# A throwaway certificate: localhost, self-signed, valid from 2020 to 2120.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBeDCCAR2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABA3b4fWnC+PB5t3S
CLRyxesCbCgyGmjJQ7H/zwnXHznqKmivUYjiA/ZXiU5iCEqaFqPniq9PcXbyJMiw
FPPvSnajXjBcMBoGA1UdEQQTMBGHBH8AAAGCCWxvY2FsaG9zdDAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBSg8J4OLSS3FGdhbSF9L9m/GsIjHTAOBgNVHQ8BAf8E
BAMCAoQwCgYIKoZIzj0EAwIDSQAwRgIhAOErn4BrfOMWxzd2FCqwZ5LHnESTrP8C
JDtD2hitMwdzAiEA7hSb13EG0D7wBtPQUZpvU3PLVRP1N5QSx0aLx3hg0ew=
-----END CERTIFICATE-----
"""
_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQ4ZmdBD68FciuKS0
ZsCGPihDpQQ4/zr94TyZYi0bv0uhRANCAAQN2+H1pwvjwebd0gi0csXrAmwoMhpo
yUOx/88J1x856ipor1GI4gP2V4lOYghKmhaj54qvT3F28iTIsBTz70p2
-----END PRIVATE KEY-----
"""

Pieces = Iterable[bytes | float]


@dataclass(frozen=True)
class Play:
    """The response to a request.

    Attributes:
        pieces: bytes to send; a number is a pause in seconds.
        keep: whether the connection stays open for another request.
    """

    pieces: Pieces
    keep: bool = False


class Whole(bytes):
    """A complete response: its connection can be reused."""


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> Whole:
    """Build an ordinary response of known length."""
    return Whole(head(*headers, f"Content-Length: {len(body)}", status=status) + body)


def head(*headers: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """Build the head of a response."""
    return "\r\n".join([f"{version} {status}", *headers, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Build one chunk; the empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True)
class Endless:
    """A prefix, then the same piece again and again, optionally with a pause before each."""

    start: bytes
    again: bytes
    pause: float | None = None

    def __iter__(self) -> Iterator[bytes | float]:
        again: list[bytes | float] = [self.again]
        if self.pause is not None:
            again.insert(0, self.pause)
        return itertools.chain([self.start], itertools.cycle(again))


@dataclass(frozen=True)
class Dripping:
    """A prefix at once, then a body byte by byte."""

    start: bytes
    body: bytes
    pause: float = 0.005

    def __iter__(self) -> Iterator[bytes | float]:
        yield self.start
        for at in range(len(self.body)):
            yield self.pause
            yield self.body[at : at + 1]


def event(text: str, final: str = "null", *, special: str = "false") -> bytes:
    """Build an event of an answer; the text is inserted unescaped."""
    token = f'{{"id":5,"text":"{text}","logprob":-0.5,"special":{special}}}'
    return f'data:{{"token":{token},"generated_text":{final},"details":null}}\n\n'.encode()


END = event("</s>", '""', special="true")
HELLO = event(" Hel") + event("lo") + END

# A session without settings, on a server without models.
_ROOT = (
    b'{"type":"data","nodes":[{"type":"data","data":[{"models":1,"settings":2,"conversations":1},'
    b'[],{"shareConversationsWithModelAuthors":3,"activeModel":4},true,""]}]}'
)

WELL = {
    "root": answer(_ROOT, JSON),
    "settings": answer(b'{"type":"redirect","status":303,"location":"/"}', JSON),
    "create": answer(b'{"conversationId":"%b"}' % CONVERSATION.encode(), JSON),
    "message": answer(HELLO, EVENTS),
    "stop": answer(),
    "delete": answer(),
}
_REFUSED = answer(b'{"message":"Not found"}', JSON, status="404 Not Found")


@dataclass(frozen=True)
class Heard:
    """A request as received.

    Attributes:
        operation: the name that the client's core gives it, or "?".
        target: the request target.
        raw: all of its bytes.
    """

    operation: str
    target: str
    raw: bytes

    @property
    def cookies(self) -> list[str]:
        """The values of its `Cookie` headers."""
        found = re.findall(rb"(?im)^cookie: *([^\r\n]*)", self.raw.partition(b"\r\n\r\n")[0])
        return [value.decode() for value in found]


class Hostile:
    """The server, on a port of its own. Use it in a `with` block.

    Args:
        tls: whether it speaks TLS, with a self-signed certificate.

    Attributes:
        heard: the requests, in order.
        accepted: the number of connections.
        sent: the bytes sent for each operation.
        faults: errors of the server itself; must stay empty.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.heard: list[Heard] = []
        self.accepted = 0
        self.sent: Counter[str] = Counter()
        self.faults: list[BaseException] = []
        self._plays: dict[str, Play] = {}
        self._tls = _tls_context() if tls else None
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address = self._listener.getsockname()
        self._acceptor = threading.Thread(target=self._accept, name="hostile", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            socket.create_connection(self._address, PATIENCE).close()  # wakes accept()
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.settled()
        assert not self.faults, self.faults

    @property
    def origin(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._address[1]}"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'http' if self._tls is None else 'https'}://{self.origin}"

    @property
    def operations(self) -> list[str]:
        """The operations requested, in order."""
        return [heard.operation for heard in self.heard]

    def on(self, operation: str, play: Play | Pieces | bytes) -> None:
        """Set the response to all further requests of an operation."""
        if isinstance(play, bytes):
            play = Play([play], keep=isinstance(play, Whole))
        self._plays[operation] = play if isinstance(play, Play) else Play(play)

    def settled(self) -> None:
        """Wait until the client has closed every connection."""
        for thread in list(self._threads):
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a connection was left open"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing.is_set():
                connection.close()
                return
            self.accepted += 1
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)  # only a started thread can be joined

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            plain.settimeout(3 * PATIENCE)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(plain, server_side=True)
                self._open.add(connection)
            while (heard := _hear(connection)) is not None:
                self.heard.append(heard)
                if not self._play(connection, heard.operation):
                    break
        except OSError:
            pass  # the client hung up, or rejected the certificate
        except BaseException as error:  # noqa: BLE001 -- a test must see it
            self.faults.append(error)
        finally:
            self._open -= {connection, plain}
            connection.close()
            plain.close()

    def _play(self, connection: socket.socket, operation: str) -> bool:
        """Send the response; return whether the connection stays open."""
        play = self._plays.get(operation)
        if play is None:
            connection.sendall(WELL.get(operation, _REFUSED))
            return True
        for piece in play.pieces:
            if not isinstance(piece, bytes):
                if self._closing.wait(piece):
                    return False
                continue
            connection.sendall(piece)
            self.sent[operation] += len(piece)
            assert self.sent[operation] < PLENTY, f"{operation}: the client reads without limit"
        if not play.keep:
            _hang_up(connection)
        return play.keep


def _hang_up(connection: socket.socket) -> None:
    """Close our side, so that all sent bytes arrive; then wait for the other side."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


def _hear(connection: socket.socket) -> Heard | None:
    """Read one request; return None at the end of the connection."""
    raw = b""
    while (end := raw.find(b"\r\n\r\n")) < 0:
        data = connection.recv(65536)
        if not data:
            return None
        raw += data
    length = re.search(rb"(?im)^content-length: *(\d+)", raw[:end])
    size = end + 4 + (int(length[1]) if length else 0)
    while len(raw) < size:
        data = connection.recv(65536)
        if not data:
            return None
        raw += data
    method, target, *_ = raw.split(b" ", 2)
    return Heard(_operation(method.decode(), target.decode()), target.decode(), raw)


def _operation(method: str, target: str) -> str:
    patterns = {
        "settings": r"POST /settings",
        "create": r"POST /conversation",
        "message": r"POST /conversation/[^/?]+",
        "delete": r"DELETE /conversation/[^/?]+",
        "stop": r"POST /conversation/[^/?]+/stop-generating",
        "data": r"GET /conversation/[^/?]+/__data\.json",
        "root": r"GET /__data\.json",
        "search": r"GET /conversation/[^/?]+/web-search\?.*",
    }
    request = f"{method} {target}"
    return next((name for name, form in patterns.items() if re.fullmatch(form, request)), "?")


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(CERTIFICATE + _KEY)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def bombs(size: int) -> Iterator[bytes]:
    """Make gzip members that unpack to a mebibyte each, `size` of them."""
    member = gzip.compress(b"\0" * 1024 * 1024)
    return itertools.repeat(member, size)
