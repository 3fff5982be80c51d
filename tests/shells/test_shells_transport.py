"""Transports: selection, proxies, TLS, pools, and unusual responses."""

import asyncio
import contextlib
import importlib.util
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import anyio
import httpx
import needs
import pytest
from backends import ASYNC, PATIENCE, Api, endless, only
from hostile import (
    CERTIFICATE,
    CHUNKED,
    END,
    EVENTS,
    HELLO,
    IN_FLIGHT,
    Dripping,
    Endless,
    Hostile,
    Play,
    chunk,
    event,
    head,
)

from h2o_client import (
    AsyncH2oClient,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    TransportError,
)
from h2o_client._client import http as client_http
from h2o_client._fast.asyncio_network import AsyncioBackend
from h2o_client.emulator import Emulator

FAST: Any = {"transport": "fast"}


# Selection


@pytest.mark.parametrize("kind", [H2oClient, AsyncH2oClient])
def test_invalid_transport_is_rejected(kind: Any) -> None:
    with pytest.raises(ValueError, match="'quick'"):
        kind("http://127.0.0.1:1", transport="quick")
    with pytest.raises(TypeError, match="HTTPTransport"):
        kind("http://127.0.0.1:1", transport=httpx.HTTPTransport())
    with pytest.raises(TypeError, match="not bool"):
        kind("http://127.0.0.1:1", transport=False)
    own: Any = httpx.Client() if kind is H2oClient else httpx.AsyncClient()
    with pytest.raises(TypeError, match="http_client"):
        kind("http://127.0.0.1:1", http_client=own, **FAST)


async def test_pickled_client_keeps_the_transport(api: Api, server: Emulator) -> None:
    kind: Any = H2oClient if api.backend == "sync" else AsyncH2oClient
    first = kind(server.url, **FAST)
    copy = pickle.loads(pickle.dumps(first))
    assert copy._arguments["transport"] == "fast"
    for client in (first, copy):
        if api.backend == "sync":
            client.close()
        else:
            await client.aclose()


@pytest.mark.slow
def test_missing_package_is_named() -> None:
    script = (
        "import sys; sys.modules['aiohappyeyeballs'] = None\n"
        "from h2o_client import H2oClient\n"
        "H2oClient('http://127.0.0.1:1').close()\n"
        "H2oClient('http://127.0.0.1:1', transport='fast')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: transport="fast" needs aiohappyeyeballs '
        "(from a clone: pip install '.[fast]')"
    )


# Responses


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return head(EVENTS, CHUNKED) + b"".join(map(chunk, pieces)) + end


WHOLE = {
    "chunks": chunked(event(" Hel"), event("lo"), END),
    "one chunk": chunked(HELLO),
    "split chunks": chunked(HELLO[:30], HELLO[30:33], HELLO[33:]),
    "extensions": head(EVENTS, CHUNKED) + b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (len(HELLO), HELLO),
    "trailers": chunked(HELLO, end=b"0\r\nA: b\r\nC: d\r\n\r\n"),
    "a length": head(EVENTS, f"Content-Length: {len(HELLO)}") + HELLO,
    "a lower-case length": head(EVENTS, "TRANSFER-ENCODING: Chunked") + chunk(HELLO) + b"0\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + chunked(HELLO),
}


@pytest.mark.parametrize("dripping", [False, True], ids=["", "dripping"])
@pytest.mark.parametrize("what", WHOLE)
async def test_complete_response_keeps_the_connection(api: Api, what: str, dripping: bool) -> None:
    body = WHOLE[what]
    pieces = Dripping(body[:5], body[5:], 0.0) if dripping else [body]
    with Hostile() as hostile:
        hostile.on("message", Play(pieces, keep=True))
        async with api.client(hostile.url) as client:
            for _ in range(2):
                hostile.on("message", Play(pieces, keep=True))
                assert (await client.chat("Hi")).text == " Hello"
        await api.wait(hostile.settled)
        assert hostile.accepted == 1  # the connection was reused


@pytest.mark.parametrize(
    "body",
    [
        head(EVENTS, "Connection: close") + HELLO,
        head(EVENTS, version="HTTP/1.0") + HELLO,
        head(EVENTS, CHUNKED, "Connection: close") + chunk(HELLO) + b"0\r\n\r\n",
        chunked(HELLO) + b"HTTP/1.1 200 OK\r\n\r\n",  # unsolicited
        chunked(HELLO, end=b""),
        chunked(HELLO, end=b"x\r\n"),
    ],
)
async def test_response_with_excess_data_closes_the_connection(api: Api, body: bytes) -> None:
    with Hostile() as hostile:
        hostile.on("message", body)
        async with api.client(hostile.url) as client:
            assert (await client.chat("Hi")).text == " Hello"
        await api.wait(hostile.settled)
        assert hostile.accepted == 2


async def test_data_after_a_body_is_not_a_response(api: Api) -> None:
    """httpcore alone would use it as the response to the next request."""
    forged = chunked(event(" forged"), END)
    with Hostile() as hostile:
        hostile.on("message", Play([chunked(HELLO) + forged], keep=True))
        async with api.client(hostile.url, transport="fast") as client:
            for _ in range(2):
                assert (await client.chat("Hi")).text == " Hello"
        await api.wait(hostile.settled)
        assert hostile.accepted == 3  # a new one after each response with excess data


@pytest.mark.parametrize(
    "end",
    [b"", b"5", b"5\r\nda", b"x\r\n", b"\r\n", b"1\r\nab\r\n", b"2\r\na\r\n0\r\n\r\n", b"0\r\n"],
)
async def test_incomplete_body_is_an_error(api: Api, end: bytes) -> None:
    with Hostile() as hostile:
        hostile.on("message", chunked(event(" Hel"), end=end))
        async with api.client(hostile.url, retries=0, recover=False) as client:
            with pytest.raises(IncompleteStreamError) as caught:
                await client.chat("Hi")
        assert caught.value.partial == " Hel"
        await api.wait(hostile.settled)


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (chunked(event(" Hel"), end=b""), b"1" * 4096),
        (chunked(event(" Hel"), end=b"1;"), b"a" * 4096),
        (chunked(event(" Hel"), end=b"0\r\n"), b"A: b\r\n" * 1000),
        (chunked(event(" Hel"), end=b"0\r\nA:"), b"b" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    ],
)
async def test_endless_data_is_not_stored(api: Api, start: bytes, again: bytes) -> None:
    with Hostile() as hostile:
        hostile.on("message", Endless(start, again))
        async with api.client(hostile.url, retries=0, recover=False) as client:
            with pytest.raises(H2oError):
                await client.chat("Hi")
        await api.wait(hostile.settled)
        assert hostile.sent["message"] < IN_FLIGHT


# TLS and proxies


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the environment to trust the test certificate."""
    path = tmp_path / "ca.pem"
    path.write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    client_http.tls_context.cache_clear()
    yield
    client_http.tls_context.cache_clear()


@pytest.fixture
def secure() -> Iterator[Hostile]:
    with Hostile(tls=True) as running:
        start, end = chunked(event(" Hel"), end=b""), chunk(event("lo")) + chunk(END)
        running.on("message", Play([start, 0.01, end, b"0\r\n\r\n"], keep=True))
        yield running


async def two_chats(api: Api, server: Hostile, **options: Any) -> None:
    async with api.client(server.url, **options) as client:
        for _ in range(2):
            assert (await client.chat("Hi")).text == " Hello"
    await api.wait(server.settled)
    assert server.accepted == 1


@pytest.mark.usefixtures("trusted")
async def test_chat_over_tls(api: Api, secure: Hostile) -> None:
    await two_chats(api, secure)


@pytest.mark.usefixtures("trusted")
async def test_stop_works_over_tls(api: Api, secure: Hostile) -> None:
    tokens = [event(f" {number}") for number in range(5)]
    secure.on("message", Play([chunked(*tokens, end=b""), 5.0]))
    async with api.client(secure.url) as client, client.stream("Hi") as stream:
        for number in range(5):
            assert await anext(stream) == f" {number}"
        begun = time.monotonic()
        async with api.in_background(lambda: anext(stream, None)) as background:
            await api.wait(lambda: time.sleep(0.02))
            await stream.stop()
        assert background.result() is None
        assert stream.reply.finish_reason == "stopped"
        assert time.monotonic() - begun < 4


async def test_untrusted_certificate_is_an_immediate_error(api: Api, secure: Hostile) -> None:
    begun = time.monotonic()
    async with api.client(secure.url, retries=3) as client:
        with pytest.raises(TransportError, match="certificate") as caught:
            await client.chat("Hi")
    assert time.monotonic() - begun < PATIENCE / 2
    assert not caught.value.sent
    assert not caught.value.transient
    await api.wait(secure.settled)
    assert secure.accepted == 1  # not retried
    assert secure.heard == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("kind", [None, "fast"])
def test_reader_gets_no_raw_tls_records(secure: Hostile, kind: Literal["fast"] | None) -> None:
    """A thread reading while another ends its connection gets no raw TLS records as a body."""
    begun = head(EVENTS, CHUNKED) + b"ffff\r\n" + b"B" * 100
    pieces: list[bytes | float] = [begun, 0.05, b"C" * 100, b"D" * 100, 1.0]
    secure.on("message", Play(pieces))
    http = client_http.new_http(httpx.Client, None, kind)
    url = f"{secure.url}/conversation/6b007c3d1090eb6ec94d77f1"
    response = http.send(http.build_request("POST", url), stream=True)
    body = iter(client_http.unread_body(response))
    found = next(body)
    time.sleep(0.1)  # until more has arrived
    assert client_http.shut_down(response)
    with contextlib.suppress(httpx.HTTPError):
        for piece in body:
            found += piece
    assert set(found) <= set(b"BCD")
    response.close()
    http.close()


def test_closed_idle_connection_is_detected_without_the_event_loop() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stream = await AsyncioBackend().connect_tcp("127.0.0.1", listener.getsockname()[1])
            accepted, _ = listener.accept()
            assert not stream.get_extra_info("is_readable")
            accepted.close()
            time.sleep(0.02)  # noqa: ASYNC251 -- it is the point that the event loop does not run
            assert stream.get_extra_info("is_readable")
            await stream.aclose()

    asyncio.run(scenario())


def test_tls_context_is_shared(trusted: None) -> None:
    assert trusted is None
    context = client_http.tls_context()
    assert isinstance(context, ssl.SSLContext)
    assert client_http.tls_context() is context


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("by", ["argument", "https_proxy", "all_proxy"])
async def test_https_proxy_is_tunnelled(
    api: Api, secure: Hostile, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    with Tunnel() as tunnel:
        url = f"http://ann:secret@{tunnel.origin}"
        options = {"proxy": url} if by == "argument" else {}
        if by != "argument":
            monkeypatch.setenv(by, url)
        await two_chats(api, secure, **options)
    assert tunnel.seen == [(secure.origin, "Basic YW5uOnNlY3JldA==")]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    "bypass", ["127.0.0.1", "*", "example.com, 127.0.0.1", "https://127.0.0.1"]
)
async def test_no_proxy_host_bypasses_the_proxy(
    api: Api, secure: Hostile, monkeypatch: pytest.MonkeyPatch, bypass: str
) -> None:
    with Tunnel() as tunnel:
        monkeypatch.setenv("https_proxy", f"http://{tunnel.origin}")
        monkeypatch.setenv("no_proxy", bypass)
        await two_chats(api, secure)
    assert tunnel.seen == []


async def test_rejecting_proxy_is_an_error(api: Api, secure: Hostile) -> None:
    with Tunnel(refuse=True) as tunnel:
        proxy = f"http://{tunnel.origin}"
        async with api.client(secure.url, retries=0, proxy=proxy) as client:
            with pytest.raises(TransportError, match="403") as caught:
                await client.chat("Hi")
    assert not caught.value.sent
    assert secure.heard == []


@pytest.mark.parametrize(
    ("name", "host", "proxied"),
    [
        ("example.com", "https://example.com", False),
        ("example.com", "https://www.example.com", False),
        ("example.com", "https://example.org", True),
        (".example.com", "https://www.example.com", False),
        (".example.com", "https://example.com", True),
        ("localhost", "https://localhost:1", False),
        ("127.0.0.1", "https://127.0.0.1:1", False),
        ("127.0.0.1/8", "https://127.0.0.2", True),  # httpx treats it as an address
        ("::1", "https://[::1]:1", False),
        ("http://example.com", "https://example.com", True),
        ("https://example.com:8", "https://example.com:8", False),
        ("*", "https://example.com", False),
        ("", "https://example.com", True),
    ],
)
def test_environment_proxies_match_httpx(
    monkeypatch: pytest.MonkeyPatch, name: str, host: str, proxied: bool
) -> None:
    """Compared with httpx itself: the proxy's address has no listener."""
    monkeypatch.setenv("all_proxy", "http://proxy.invalid")
    monkeypatch.setenv("no_proxy", name)

    class Note(httpx.BaseTransport):
        def __init__(self, mark: str) -> None:
            self.mark = mark

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"mark": self.mark}, request=request)

    mounts = {
        pattern: None if url is None else Note(url)
        for pattern, url in client_http.environment_proxies().items()
    }
    with httpx.Client(transport=Note("none"), mounts=mounts) as http:
        mark = http.get(host).headers["mark"]
    assert (mark != "none") == proxied
    if proxied:
        assert mark == "http://proxy.invalid"


@pytest.mark.parametrize(
    "url",
    ["nonsense://x", *[f"http://127.0.0.1:{port}" for port in ("port", "0", "65536", "-1")]],
)
async def test_invalid_proxy_is_rejected(
    api: Api, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with pytest.raises(ValueError, match="proxy must be a URL"):
        api.client(proxy=url)
    monkeypatch.setenv("all_proxy", url)
    with pytest.raises(ValueError, match="a proxy in the environment"):
        api.client()


async def test_socks_proxy_needs_a_package(api: Api) -> None:
    if importlib.util.find_spec("socksio") is None:
        with pytest.raises(ImportError, match=r"httpx\[socks\]"):
            api.client(proxy="socks5://127.0.0.1:1")
    else:
        async with api.client(proxy="socks5://127.0.0.1:1", retries=0) as client:
            with pytest.raises(H2oError, match="could not connect"):
                await client.chat("Hi")


class Tunnel:
    """A CONNECT proxy.

    Attributes:
        seen: the targets, and each `Proxy-Authorization`.
    """

    def __init__(self, *, refuse: bool = False) -> None:
        self.seen: list[tuple[str, str]] = []
        self._refuse = refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            raw = b""
            while b"\r\n\r\n" not in raw:
                data = client.recv(65536)
                if not data:
                    return
                raw += data
            lines = raw.decode().split("\r\n")
            target = lines[0].split(" ")[1]
            if self._refuse:
                client.sendall(head("Content-Length: 0", status="403 Forbidden"))
                return
            headers = dict(line.split(": ", 1) for line in lines[1:-2])
            self.seen.append((target, headers.get("Proxy-Authorization", "")))
            host, _, port = target.partition(":")
            with socket.create_connection((host, int(port))) as onward:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(onward, client))
                back.start()
                pump(client, onward)
                back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Forward bytes until the source ends."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass  # the other side has disconnected
    for side in (source, sink):
        try:
            side.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


# Pools


async def test_idle_connection_is_closed_before_the_server_does(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_http, "_KEEPALIVE", 0.05)
    async with api.client() as client:
        await client.chat("Hi")
        await api.wait(lambda: time.sleep(0.1))
        await client.chat("Hi")
    assert await api.wait(lambda: server.accepted) == 2
    monkeypatch.undo()


@pytest.mark.long
@only(*ASYNC)
async def test_streams_do_not_wait_for_each_other(api: Api, server: Emulator) -> None:
    count = 110  # httpx's own pool has 100
    server.reply(*[endless(" One") for _ in range(count)])
    async with api.client() as client:
        streams = [client.stream("Hi") for _ in range(count)]
        assert await api.concurrently([stream.__anext__ for stream in streams]) == [" One"] * count
        await api.concurrently([stream.aclose for stream in streams])
    await api.settled()


# Event loops and processes


@pytest.mark.parametrize("loops", [("asyncio", "asyncio", "trio"), ("trio", "asyncio")])
def test_fast_transport_works_on_a_second_event_loop(
    server: Emulator, loops: tuple[str, ...]
) -> None:
    client = AsyncH2oClient(server.url, transport="fast")

    async def ask(last: bool) -> str:
        text = str(await client.chat("Hi"))
        if last:
            await client.aclose()
        return text

    for number, backend in enumerate(loops):
        assert anyio.run(ask, number == len(loops) - 1, backend=backend)


@needs.posix
def test_fast_transport_works_in_a_fork(server: Emulator) -> None:
    with H2oClient(server.url, transport="fast") as client:
        assert client.chat("Hi").text
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if client.chat("Hi").text else 2
            except BaseException:  # noqa: BLE001 -- told by the status
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert client.chat("Hi").text
    assert server.accepted == 2
