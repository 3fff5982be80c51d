"""`doctor` and `chat` with servers that speak TLS, directly and through tunnelling proxies.

Tests that set certificate files run the command in a separate process, as a process reads its
trusted certificates only once.
"""

import contextlib
import datetime as dt
import os
import re
import select
import socket
import socketserver
import ssl
import subprocess
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlsplit

import pytest
from command import PATIENCE, Command, ended, process, steps
from model_servers import in_thread

trustme = pytest.importorskip("trustme")

from h2o_client.emulator import Emulator  # noqa: E402


def pump(
    client: socket.socket, server: socket.socket, changed: Callable[[bytes], bytes] = bytes
) -> None:
    """Copy bytes between two connections until one of them ends."""
    with client, server:
        pairs = {client: server, server: client}
        while True:
            ready = [side for side in pairs if isinstance(side, ssl.SSLSocket) and side.pending()]
            for side in ready or select.select(list(pairs), [], [], PATIENCE)[0]:
                try:
                    data = side.recv(65536)
                    pairs[side].sendall(changed(data) if side is client else data)
                except OSError:
                    return
                if not data:
                    return


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Generator[int]:
    """Serve each connection in a thread; yield the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Log no failed handshakes."""

    server = Server(("127.0.0.1", 0), Handler)
    with in_thread(server):
        yield server.server_address[1]


@contextlib.contextmanager
def tls(server: Emulator, certificate: Any) -> Generator[int]:
    """Run a TLS endpoint in front of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    target = urlsplit(server.url)

    def changed(data: bytes) -> bytes:
        """Rewrite the origin of a request: the emulator knows only its own."""
        return re.sub(
            rb"(?im)^(referer|origin): https://[^/\r]*", rb"\1: " + server.url.encode(), data
        )

    def serve(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            pump(connection, socket.create_connection((target.hostname, target.port)), changed)

    with listening(serve) as port:
        yield port


class Proxy:
    """A proxy that opens tunnels, all to one port.

    Attributes:
        url: its address.
        asked: the request line and password of each request.
    """

    def __init__(self, status: int, port: int = 0) -> None:
        self.url = ""
        self.asked: list[tuple[str, str | None]] = []
        self._status = status
        self._port = port

    @contextlib.contextmanager
    def running(self) -> Generator["Proxy"]:
        with listening(self._serve) as port:
            self.url = f"http://ann:s3cret@127.0.0.1:{port}"
            yield self

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = connection.recv(1)
            if not data:
                return  # a connection that only checks whether the port is open
            head += data
        text = head.decode()
        given = re.search(r"(?i)^proxy-authorization: (.*)\r$", text, re.MULTILINE)
        self.asked.append((text.partition("\r\n")[0], given and given[1]))
        connection.sendall(f"HTTP/1.1 {self._status} So\r\nContent-Length: 0\r\n\r\n".encode())
        if self._status == 200:
            pump(connection, socket.create_connection(("127.0.0.1", self._port)))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The certificate authority; `path` is the file with its certificate."""
    made = trustme.CA()
    made.path = tmp_path_factory.mktemp("authority") / "issuer.pem"
    made.cert_pem.write_to_path(made.path)
    return made


def run(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run the command; return its status and all its output."""
    with process(*arguments, env={**os.environ, **variables}, stderr=subprocess.STDOUT) as started:
        status, out, _ = ended(started)
    assert "Traceback" not in out
    return status, out


# TLS servers


def test_untrusted_issuer_is_reported(command: Command, server: Emulator, authority: Any) -> None:
    with tls(server, authority.issue_cert("localhost")) as port:
        assert command("doctor", f"https://localhost:{port}") == 1
        assert steps(command.out)["TLS"][0] == "FAILED"
        assert "certificate" in steps(command.out)["TLS"][1]
        assert "set SSL_CERT_FILE=issuer.pem" in command.out
        # `chat` reports the same.
        assert command("chat", "--base-url", f"https://localhost:{port}", "Hello") == 1
        assert "certificate" in command.err
    assert server.requests == []


@pytest.mark.long
def test_issuer_in_ssl_cert_file_is_trusted(server: Emulator, authority: Any) -> None:
    trusted = {"SSL_CERT_FILE": str(authority.path)}
    with tls(server, authority.issue_cert("localhost")) as port:
        status, out = run("doctor", f"https://localhost:{port}", **trusted)
        assert (status, steps(out)["TLS"][0]) == (0, "ok")
        assert re.match(r"TLSv1\.[23], \d+ ms$", steps(out)["TLS"][1])
        assert steps(out)["answer"][0] == "ok"
        server.reply(" Hi!")
        chat = run("chat", "--base-url", f"https://localhost:{port}", "Hello", **trusted)
        assert chat == (0, "Hi!\n")
    assert server.conversations == []


@pytest.mark.slow
def test_missing_certificate_file_is_reported(server: Emulator) -> None:
    status, out = run("doctor", server.url, SSL_CERT_FILE="/nowhere/issuer.pem")
    assert (status, steps(out)) == (
        1,
        {"environment": ("FAILED", "SSL_CERT_FILE: No such file or directory")},
    )
    assert "set it to a file of certificates (PEM)" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "days", "outcome", "hint"),
    [
        (["elsewhere.example"], 90, "FAILED", "is localhost the right name?"),
        pytest.param(
            ["localhost"],
            -1,
            "FAILED",
            "the clock of this machine is wrong",
            marks=pytest.mark.long,
        ),
        pytest.param(["localhost"], 1, "note", "the certificate expires", marks=pytest.mark.long),
    ],
)
def test_certificate_problems_are_reported(
    server: Emulator, authority: Any, names: list[str], days: int, outcome: str, hint: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    certificate = authority.issue_cert(
        *names,
        not_before=now - dt.timedelta(days=30),
        not_after=now + dt.timedelta(days=days),
    )
    with tls(server, certificate) as port:
        url = f"https://localhost:{port}"
        status, out = run("doctor", url, SSL_CERT_FILE=str(authority.path))
    assert status == (1 if outcome == "FAILED" else 0)
    assert steps(out)["TLS"][0] == outcome
    assert hint in out


def test_server_without_tls_is_reported(command: Command, server: Emulator) -> None:
    assert command("doctor", server.url.replace("http:", "https:")) == 1
    assert steps(command.out)["TLS"][0] == "FAILED"
    assert "try http:// instead of https://" in command.out


# Through a proxy


@pytest.mark.slow
def test_server_behind_a_tunnelling_proxy_passes(server: Emulator, authority: Any) -> None:
    with (
        tls(server, authority.issue_cert("chat.example")) as port,
        Proxy(200, port).running() as proxy,
    ):
        environment = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(authority.path)}
        status, out = run("doctor", "https://chat.example", **environment)
        assert status == 0
        found = steps(out)
        assert found["proxy"][0] == "note"
        assert {outcome for step, (outcome, _) in found.items() if step != "proxy"} == {"ok"}
        assert {"TLS", "protocol", "answer"} <= found.keys()
        assert {(line[:29], given) for line, given in proxy.asked} == {
            ("CONNECT chat.example:443 HTTP", "Basic YW5uOnMzY3JldA==")
        }
        assert "s3cret" not in out
        # A proxy that inspects TLS has a certificate of its own.
        del environment["SSL_CERT_FILE"]
        status, out = run("doctor", "https://chat.example", **environment)
        assert (status, steps(out)["TLS"][0]) == (1, "FAILED")
        assert "set SSL_CERT_FILE=issuer.pem" in out
    assert server.conversations == []


@pytest.mark.parametrize(
    ("answered", "hint"),
    [
        (403, "refuses connections to chat.example:443"),
        (407, "http://user:password@proxy:port"),
        (502, "cannot reach chat.example"),
    ],
)
def test_refused_tunnel_is_reported(
    command: Command, monkeypatch: pytest.MonkeyPatch, answered: int, hint: str
) -> None:
    with Proxy(answered).running() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert command("doctor", "https://chat.example") == 1
    out = command.out
    assert steps(out)["tunnel"][0] == "FAILED"
    assert f"answered {answered}" in steps(out)["tunnel"][1]
    assert hint in out
    assert "s3cret" not in out
