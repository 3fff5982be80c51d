"""Connection errors name the cause and the remedy, in the words of `doctor`."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Generator, Iterator
from typing import Any

import anyio
import pytest
from backends import ASYNC, ONCE, Api, endless, only

from h2o_client import (
    AsyncH2oClient,
    H2oClient,
    H2oError,
    LoginRequiredError,
    Timeouts,
    TransportError,
    TransportTimeoutError,
    UnsupportedServerError,
)
from h2o_client.emulator import Emulator, Fault

CLIENTS = [H2oClient, AsyncH2oClient]


@pytest.fixture
def unused() -> Iterator[str]:
    """A host and port without a listener."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def serving(answer: bytes, context: ssl.SSLContext | None = None) -> Generator[str]:
    """Answer every request with these bytes; yield the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join(10)
        listener.close()


def response(status: str, body: str = "", kind: str = "text/html") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


async def failure(api: Api, url: str, **options: Any) -> H2oError:
    async with api.client(url, **{**ONCE, **options}) as client:
        with pytest.raises(H2oError) as caught:
            await client.chat("Hi")
    return caught.value


# Connections


async def test_refused_connection_is_explained(api: Api, unused: str) -> None:
    error = await failure(api, f"http://ann:s3cret@{unused}/chat")
    assert str(error) == (
        f"POST http://{unused}/chat/settings: could not connect to {unused}: Connection refused "
        "(is the server running, is the port right, is a firewall in between?)"
    )
    assert isinstance(error, TransportError)
    assert not error.sent


async def test_unreachable_proxy_from_the_environment_is_named(
    api: Api, unused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://ann:s3cret@{unused}")
    error = await failure(api, "http://chat.example")
    assert str(error) == (
        "POST http://chat.example/settings: could not connect to the proxy "
        f"http://…@{unused} (from HTTP_PROXY): Connection refused (this is the proxy's address: "
        "correct HTTP_PROXY or remove it; to reach chat.example without a proxy, set "
        "NO_PROXY=chat.example)"
    )


async def test_unreachable_explicit_proxy_is_named(
    api: Api, unused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    error = await failure(api, "http://chat.example", proxy=f"http://ann:s3cret@{unused}")
    assert f"the proxy http://…@{unused} (from the argument `proxy`)" in str(error)
    assert "s3cret" not in str(error)
    assert isinstance(error, TransportError)
    assert not error.sent


async def test_proxies_of_a_custom_http_client_are_not_guessed(api: Api, unused: str) -> None:
    own = api.http_client(proxy=f"http://{unused}")
    error = await failure(api, "http://chat.example", http_client=own)
    await api.close_http(own)
    assert "POST http://chat.example/settings: could not connect" in str(error)
    assert "from" not in str(error)


@pytest.mark.parametrize(
    ("status", "advice"),
    [(407, "http://user:password@proxy:port"), (502, "the proxy cannot reach chat.example")],
)
async def test_rejected_tunnel_is_explained(
    api: Api, monkeypatch: pytest.MonkeyPatch, status: int, advice: str
) -> None:
    with serving(response(f"{status} No")) as place:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ann:s3cret@{place}")
        error = await failure(api, "https://chat.example")
    assert f"the proxy http://…@{place} (from HTTPS_PROXY) answered {status}" in str(error)
    assert advice in str(error)
    assert "s3cret" not in str(error)


async def test_https_to_an_http_port_is_explained(api: Api, server: Emulator) -> None:
    error = await failure(api, server.url.replace("http:", "https:"))
    assert str(error).startswith(f"POST {server.url.replace('http:', 'https:')}/settings: no TLS")
    assert "try http:// instead of https://" in str(error)
    assert isinstance(error, TransportError)
    assert not error.sent


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x03\x00\x02\x02\x46",  # a TLS alert
        b"",
        response(
            "400 Bad Request", "Client sent an HTTP request to an HTTPS server.", "text/plain"
        ),
        response("400 Bad Request", "<h1>The plain HTTP request was sent to HTTPS port</h1>"),
    ],
)
async def test_http_to_an_https_port_is_explained(api: Api, answer: bytes) -> None:
    with serving(answer) as place:
        error = await failure(api, f"http://{place}")
    assert f"POST http://{place}/settings: " in str(error)
    assert re.search(r"or https://\?|use https:// instead of http://", str(error))


async def test_untrusted_certificate_is_explained(api: Api) -> None:
    trustme = pytest.importorskip("trustme")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with serving(b"", context) as place:
        error = await failure(api, f"https://{place}")
    assert "certificate" in str(error)
    assert "set SSL_CERT_FILE=issuer.pem" in str(error)
    assert isinstance(error, TransportError)
    assert not error.transient


# Other servers


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "200 OK"])
async def test_base_url_ending_in_v1_is_explained(api: Api, status: str) -> None:
    with serving(response(status, '{"detail":"Not Found"}', "application/json")) as place:
        error = await failure(api, f"http://{place}/v1")
    assert type(error) is UnsupportedServerError
    assert f"POST http://{place}/v1/settings: " in str(error)
    assert "ends in /v1 is for OpenAI's API" in str(error)


async def test_api_that_requires_a_key_is_explained(api: Api) -> None:
    with serving(response("401 Unauthorized", "{}", "application/json")) as place:
        error = await failure(api, f"http://{place}/v1/")
    assert type(error) is LoginRequiredError
    assert "ends in /v1" in str(error)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("404 Not Found", "another web application"),
        ("200 OK", "or another web site"),
        ("501 Unsupported method", "or another web site"),
    ],
)
async def test_other_web_application_is_explained(api: Api, status: str, advice: str) -> None:
    with serving(response(status, "<html>Welcome")) as place:
        error = await failure(api, f"http://{place}")
    assert type(error) is UnsupportedServerError
    assert f"POST http://{place}/settings: " in str(error)
    assert advice in str(error)


async def test_query_is_not_shown(api: Api, server: Emulator) -> None:
    server.fail(500, on="search")
    async with api.client(**ONCE) as client, client.conversation() as talk:
        with pytest.raises(H2oError) as caught:
            await talk.send("my secret", web_search=True)
    assert "/web-search: " in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("value", "shown"),
    [("localhost:3000", "'localhost:3000'"), ("ann:s3cret@host/?token=s3cret", "'…@host/?…'")],
)
def test_environment_variable_of_an_invalid_url_is_named(
    kind: Any, monkeypatch: pytest.MonkeyPatch, value: str, shown: str
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", value)
    with pytest.raises(ValueError, match="H2O_CHAT_URL") as caught:
        kind()
    assert str(caught.value) == (
        f"H2O_CHAT_URL must begin with http:// or https://, but it is {shown}"
    )


# Timeouts


@pytest.mark.slow
@pytest.mark.parametrize("on", ["settings", "create"])
async def test_timeout_before_any_response_is_explained(
    api: Api, server: Emulator, on: str
) -> None:
    server.fault(on, Fault(hang=True))
    error = await failure(api, server.url, timeouts=Timeouts(idle=1))
    path = {"settings": "settings", "create": "conversation"}[on]
    assert str(error) == (
        f"POST {server.url}/{path}: the server did not answer within 1 second (Timeouts.idle)"
    )


@pytest.mark.slow
async def test_timeout_after_partial_text_is_explained(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    error = await failure(api, server.url, timeouts=Timeouts(idle=1))
    assert isinstance(error, TransportTimeoutError)
    assert str(error) == "nothing more arrived within 1 second (Timeouts.idle)"


# Invalid arguments


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timeout", "timeouts=30.0"),
        ("api_key", "H2O_CHAT_TOKEN"),
        ("token", "H2O_CHAT_TOKEN"),
        ("max_retries", "retries=3"),
        ("verify", "SSL_CERT_FILE"),
        ("cookies", "session="),
        ("temperature", "H2oClient(parameters={'temperature': …})"),
        ("time_outs", "did you mean 'timeouts'?"),
    ],
)
def test_constructor_suggests_the_right_argument(kind: Any, name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"^unexpected keyword argument '{name}': ") as caught:
        kind("http://127.0.0.1:9", **{name: 1})
    assert hint in str(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_unknown_argument_without_a_suggestion(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"^unexpected keyword argument 'zzz'$"):
        kind("http://127.0.0.1:9", zzz=1)


@only(*ASYNC)
@pytest.mark.parametrize("use", ["read", "stop"])
def test_stream_of_another_event_loop_is_rejected(backend: str, server: Emulator, use: str) -> None:
    server.reply(endless(" One"))
    client = AsyncH2oClient(server.url)
    stream = client.stream("Hi")

    async def begin() -> None:
        assert await anext(stream) == " One"

    async def go_on() -> None:
        with pytest.raises(RuntimeError, match="was started on another event loop"):
            await getattr(stream, use)()
        await stream.aclose()
        await client.aclose()

    anyio.run(begin, backend=backend)
    anyio.run(go_on, backend=backend)
