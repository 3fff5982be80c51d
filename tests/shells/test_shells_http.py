"""The httpx client below: custom clients, proxies, cookies, redirects, connections."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from backends import Api

from h2o_client import AsyncH2oClient, H2oClient, RedirectError
from h2o_client.emulator import Emulator, Fault


async def test_custom_client_is_used_and_not_closed(api: Api, server: Emulator) -> None:
    seen: list[str] = []

    def note(request: httpx.Request) -> None:
        seen.append(request.method)

    async def note_async(request: httpx.Request) -> None:
        seen.append(request.method)

    options: dict[str, Any] = {
        "headers": {"X-Own": "1", "User-Agent": "mine", "Referer": "http://elsewhere.test/"},
        "cookies": {"gate": "open", "hf-chat": "not this one"},
        "event_hooks": {"request": [note if api.backend == "sync" else note_async]},
        "follow_redirects": True,
        "timeout": 0.000001,
    }
    own = api.http_client(**options)
    async with api.client(http_client=own) as client:
        assert (await client.chat("Hi")).text
        session = client.session
        with Emulator() as other:
            location = f"{other.url}/conversation"
            server.fault("create", Fault(307, headers={"location": location}, body=""))
            with pytest.raises(RedirectError):
                await client.chat("Hi")
            assert other.requests == []
    assert not own.is_closed
    assert seen == ["POST", "POST", "POST", "DELETE", "POST"]
    for request in server.requests:
        assert request.header("x-own") == "1"
        assert request.header("referer") == f"{server.url}/"
        assert request.header("cookie") == f"hf-chat={session}; gate=open"
    await api.close_http(own)


async def test_client_works_with_a_mock_transport(api: Api) -> None:
    """As in tests of users who know httpx, but not this package's emulator."""

    def answer(request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path.count("/"):
            case "POST", 2:
                event = {"text": " Hi", "id": 1, "logprob": -0.1, "special": False}
                body = json.dumps({"token": event, "generated_text": " Hi", "details": None})
                headers = {"content-type": "text/event-stream"}
                return httpx.Response(200, text=f"data:{body}\n\n", headers=headers)
            case "POST", 1 if request.url.path == "/conversation":
                return httpx.Response(200, json={"conversationId": "6b007c3d1090eb6ec94d77f1"})
        return httpx.Response(200, json={"type": "redirect", "status": 303, "location": "/"})

    http = api.http_client(transport=httpx.MockTransport(answer))
    async with api.client("http://host", http_client=http) as client:
        assert (await client.chat("Hi")).text == " Hi"
    await api.close_http(http)


async def test_hook_may_read_the_responses(api: Api, server: Emulator) -> None:
    read: list[bytes] = []

    async def hook(response: httpx.Response) -> None:
        read.append(await response.aread())

    def sync_hook(response: httpx.Response) -> None:
        read.append(response.read())

    hooks = {"response": [sync_hook if api.backend == "sync" else hook]}
    server.reply(" Hello.")
    http = api.http_client(event_hooks=hooks)
    async with api.client(http_client=http) as client:
        assert (await client.chat("Hi")).text == " Hello."
    await api.close_http(http)
    assert b" Hello." in read[2]
    await api.settled()


async def test_custom_client_of_the_wrong_kind_is_rejected(api: Api) -> None:
    wrong = httpx.AsyncClient if api.backend == "sync" else httpx.Client
    with pytest.raises(TypeError, match="http_client must be an httpx"):
        api.client(http_client=wrong())
    own = api.http_client()
    with pytest.raises(TypeError, match="proxy"):
        api.client(http_client=own, proxy="http://127.0.0.1:1")
    await api.close_http(own)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards requests, each on a new connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        server.seen.append((self.command, self.path, self.headers.get("Proxy-Authorization")))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        with httpx.Client(trust_env=False) as onward:
            answer = onward.request(self.command, self.path, headers=headers, content=body)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name not in ("transfer-encoding", "content-length", "connection", "keep-alive"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)

    do_DELETE = do_POST  # noqa: N815 -- the name that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- inherited
        pass


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[Any]]]:
    """A forwarding proxy: its URL, and the requests it received."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as running:
        seen: list[Any] = []
        vars(running)["seen"] = seen
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{running.server_port}", seen
        running.shutdown()
        thread.join()


@pytest.mark.slow
async def test_proxy_is_used_for_every_request(
    api: Api, server: Emulator, proxy: tuple[str, list[Any]]
) -> None:
    place, seen = proxy
    server.reply(" Hello", " again")
    async with api.client(proxy=f"http://ann:secret@{place}") as client:
        assert (await client.chat("Hi")).text == " Hello"
        assert "secret" not in repr(client)
    assert [path.removeprefix(server.url).split("/")[1] for _, path, _ in seen] == [
        "settings",
        "conversation",
        "conversation",
        "conversation",
    ]
    assert {authorization for *_, authorization in seen} == {"Basic YW5uOnNlY3JldA=="}
    assert all(request.header("referer") == f"{server.url}/" for request in server.requests)


@pytest.mark.slow
async def test_proxy_of_the_environment_is_used(
    api: Api, proxy: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, seen = proxy
    monkeypatch.setenv("http_proxy", place)
    async with api.client() as client:
        assert (await client.chat("Hi")).text
    assert len(seen) == 4


async def test_connection_closed_by_the_server_is_replaced(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        await client.chat("Hi")
        await api.wait(server.disconnect_all)
        assert (await client.chat("Hi")).text
        assert await api.wait(lambda: server.accepted) == 2


@pytest.mark.slow
def test_sync_and_async_clients_are_imported_separately() -> None:
    import subprocess
    import sys

    script = (
        "import sys, h2o_client\n"
        "assert not {'httpx', 'anyio'} & set(sys.modules), 'too early'\n"
        "h2o_client.H2oClient\n"
        "assert 'h2o_client._client._async' not in sys.modules\n"
        "assert 'h2o_client.emulator' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_unused_dropped_client_leaves_nothing() -> None:
    H2oClient("http://127.0.0.1:1").close()
    H2oClient("http://127.0.0.1:1")
    AsyncH2oClient("http://127.0.0.1:1")
    with contextlib.suppress(ValueError):
        H2oClient("nowhere")


@pytest.mark.parametrize("kind", [H2oClient, AsyncH2oClient])
def test_rejected_argument_leaves_nothing(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind("http://127.0.0.1:1", nonsense=1)
    with pytest.raises(TypeError):
        kind("http://127.0.0.1:1").stream("Hi", timeout=3)
