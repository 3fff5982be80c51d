"""`doctor`: its report on servers that work, and on servers that fail in many ways."""

import base64
import re
import socket
import socketserver
from typing import Any, NoReturn

import pytest
from command import Command, steps
from model_servers import Answering, Asked, Handler, in_thread, running

from h2o_client import diagnosis
from h2o_client.emulator import Answer, Emulator, Fault, Model

JSON = "application/json"
HTML = "text/html; charset=utf-8"


class Doctor(Command):
    """The command in this process; `found` has the outcome and text of each step."""

    @property
    def found(self) -> dict[str, tuple[str, str]]:
        return steps(self.out)

    @property
    def advice(self) -> str:
        (found,) = re.findall(r"→ (.*)$", self.out, re.MULTILINE)
        return str(found)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(capsys, "doctor")


def always(status: int, content_type: str, body: str = "", *headers: tuple[str, str]) -> Answering:
    return lambda _, handler: handler.whole(status, body.encode(), content_type, *headers)


# Working servers


def test_working_server_passes_every_step(doctor: Doctor, server: Emulator) -> None:
    server.reply(" Hello there.")
    assert doctor(server.url) == 0
    assert list(doctor.found) == [
        "server", "proxy", "name", "connection", "protocol", "models", "terms", "answer",
    ]  # fmt: skip
    assert {outcome for outcome, _ in doctor.found.values()} == {"ok"}
    said = doctor.found["answer"][1]
    assert re.fullmatch(r"“Hello there.”: the first token after .* m?s, all 3 after .* m?s", said)
    assert server.conversations == []


def test_server_is_taken_from_the_environment(
    doctor: Doctor, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    assert doctor() == 0
    assert doctor.found["server"][1] == f"{server.url} (from $H2O_CHAT_URL)"


@pytest.mark.slow
def test_local_passes(doctor: Doctor) -> None:
    assert doctor("--local") == 0
    assert doctor.found["answer"][0] == "ok"


def test_token_is_sent(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(token="s3cret") as server:
        assert doctor(server.url) == 1
        assert "H2O_CHAT_TOKEN" in doctor.advice
        monkeypatch.setenv("H2O_CHAT_TOKEN", "s3cret")
        assert doctor(server.url) == 0
    assert "s3cret" not in doctor.out


@pytest.mark.parametrize("version", ["0.4", "0.6"])
def test_base_path_is_suggested(doctor: Doctor, version: Any) -> None:
    with Emulator(base_path="/chat", version=version) as server:
        assert doctor(server.url) == 0
        assert doctor(server.url.removesuffix("/chat")) == 1
    assert "/chat" in doctor.advice


# Network


def test_invalid_usage_of_doctor_is_rejected(doctor: Doctor) -> None:
    assert doctor("example.com") == 2
    assert "http://" in doctor.err


@pytest.mark.parametrize(
    ("number", "hint"), [(socket.EAI_NONAME, "spelt"), (socket.EAI_AGAIN, "is this machine online")]
)
def test_unknown_host_is_reported(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def unknown(*_args: object, **_keywords: object) -> NoReturn:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert doctor("http://nowhere.invalid") == 1
    assert doctor.found["name"] == ("FAILED", "nowhere.invalid: Name or service not known")
    assert hint in doctor.advice


def test_refused_connection_is_reported(doctor: Doctor) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert doctor(f"http://127.0.0.1:{port}") == 1
    assert doctor.found["connection"][0] == "FAILED"
    assert "is the server running" in doctor.advice


def test_dropped_packets_are_reported(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(*_args: object, **_keywords: object) -> NoReturn:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", drop)
    assert doctor("http://127.0.0.1:9") == 1
    assert "firewall" in doctor.advice


def test_silent_server_is_reported(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert doctor(f"http://127.0.0.1:{port}", "--timeout", "0.05") == 1
    assert "no answer to POST /settings" in doctor.found["protocol"][1]


def test_server_that_does_not_speak_http_is_reported(doctor: Doctor) -> None:
    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            self.request.recv(65536)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter)
    with in_thread(server):
        assert doctor(f"http://127.0.0.1:{server.server_address[1]}") == 1
    assert "is this a web server" in doctor.advice


# Proxies


def test_proxy_excluded_by_no_proxy_is_not_used(
    doctor: Doctor, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:s3cret@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert doctor(server.url) == 0
    assert doctor.found["proxy"][0] == "ok"
    assert "HTTP_PROXY=http://…@127.0.0.1:9" in doctor.found["proxy"][1]
    assert "s3cret" not in doctor.out


def test_invalid_proxy_variables_are_reported(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:s3cret@proxy:port")
    monkeypatch.setenv("NO_PROXY", "[::1")
    assert doctor("http://chat.example") == 1
    assert re.findall(r"^FAILED +environment +(\w+): ", doctor.out, re.MULTILINE) == [
        "HTTPS_PROXY",
        "NO_PROXY",
    ]
    assert "→ write http://host:port, or unset it\n" in doctor.out
    assert "s3cret" not in doctor.out


def test_unreachable_proxy_is_reported(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert doctor("http://chat.example") == 1
    assert doctor.found["proxy"][0] == "note"
    assert "NO_PROXY=chat.example" in doctor.out
    assert "the proxy's address" in doctor.out
    assert doctor.found["connection"][0] == "FAILED"


def test_proxy_that_needs_a_password_is_reported(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(always(407, JSON)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//ann:s3cret@"))
        assert doctor("http://chat.example") == 1
    assert "user:password@proxy" in doctor.out
    pair = base64.b64encode(b"ann:s3cret").decode()
    seen = [(asked.path, asked.headers.get("proxy-authorization")) for asked in proxy.asked]
    assert seen == [("http://chat.example/settings", f"Basic {pair}")]
    assert "s3cret" not in doctor.out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://ann:p@s/w@proxy:1", "http://…@proxy:1"),
        ("ann:s3cret@proxy:1", "…@proxy:1"),
        ("proxy:1", "proxy:1"),
    ],
)
def test_proxy_passwords_are_not_shown(value: str, shown: str) -> None:
    assert diagnosis.without_password(value) == shown


@pytest.mark.parametrize("proxy", ["http://", "http://[::1"])
def test_invalid_proxy_url_is_an_error(proxy: str) -> None:
    with pytest.raises(ValueError, match=r"host|IPv6"):
        diagnosis.Place.of(proxy)


# Other kinds of server


def chat_ui_07(asked: Asked, handler: Handler) -> None:
    if asked.path != "/settings":
        handler.whole(404, b"<html>", HTML)
    elif asked.headers.get("content-type") == JSON:
        handler.whole(200, b"{}", JSON)
    else:
        handler.whole(500, b'{"message":"Internal Error"}', JSON)


# chat-ui-0.8.4/16_old_client
ORIGIN = '{"error":"Non-JSON form requests need to have an origin"}'


def openai(asked: Asked, handler: Handler) -> None:
    if asked.path == "/v1/models":
        handler.whole(200, b'{"object": "list", "data": [{"id": "m"}]}', JSON)
    else:
        handler.whole(404, b'{"detail":"Not Found"}', JSON)


@pytest.mark.parametrize(
    ("answering", "said", "advice"),
    [
        (chat_ui_07, "chat-ui 0.7", "0.9.6"),
        (always(403, JSON, ORIGIN), "chat-ui 0.8 to 0.9.5", "0.9.6"),
        (openai, "an OpenAI-compatible server", "OpenAI's API"),
        (always(404, JSON, "{}"), "not a chat-ui server", "/chat"),
        (always(200, HTML, "<html>"), "HTML page", "login page"),
        (always(200, JSON, "{}"), "returned 200", "check the URL"),
        (always(401, JSON), "returned 401", "H2O_CHAT_TOKEN"),
        (always(403, JSON), "returned 403", "PUBLIC_ORIGIN"),
        (always(429, JSON), "returned 429", "wait"),
        (always(502, HTML, "<html>"), "with an HTML page", "proxy"),
        (always(500, JSON), "returned 500", "log"),
        (
            always(302, HTML, "", ("Location", "https://login.example/x?next=1")),
            "https://login.example",
            "login page, log in with a browser and set H2O_CHAT_SESSION",
        ),
        (always(308, HTML, "", ("Location", "/elsewhere")), "/elsewhere", "use it as the URL"),
    ],
)
def test_other_kinds_of_server_are_recognised(
    doctor: Doctor, answering: Answering, said: str, advice: str
) -> None:
    with running(answering) as other:
        assert doctor(other.url) == 1
    outcome, text = doctor.found["protocol"]
    assert outcome == "FAILED"
    assert said in text
    assert advice in doctor.advice
    assert "answer" not in doctor.found


def test_2025_server_passes(doctor: Doctor) -> None:
    with Emulator(dialect="chat-ui-2025") as server:
        assert doctor(server.url) == 0
        assert server.conversations == []
    assert doctor.found["protocol"] == ("ok", "a chat-ui server (0.9.6 or later)")
    assert doctor.found["answer"][0] == "ok"


@pytest.mark.slow
def test_login_needs_a_session(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(dialect="chat-ui-2025", login="s3cret") as server:
        assert doctor(server.url) == 1
        assert "H2O_CHAT_SESSION" in doctor.found["protocol"][1]
        assert "→" not in doctor.out
        assert "H2O_CHAT_TOKEN" not in doctor.out
        monkeypatch.setenv("H2O_CHAT_SESSION", "s3cret")
        assert doctor(server.url) == 0
        assert server.conversations == []
    assert "s3cret" not in doctor.out + doctor.err


@pytest.mark.slow
def test_2023_server_needs_a_session(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2O_CHAT_SESSION", "s3cret")
    with Emulator() as server:
        server.fault("settings", Fault(401))
        server.fault("create", Fault(401))
        assert doctor(server.url) == 1
        assert "H2O_CHAT_SESSION" in doctor.found["protocol"][1]
        assert "→" not in doctor.out
        server.fault("settings", Fault(401))  # to a request without the session
        assert doctor(server.url) == 0
        assert server.conversations == []
    assert doctor.found["protocol"] == ("ok", "a chat-ui server (0.3 to 0.6)")


def test_session_passes_a_login_before_every_request(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_SESSION", "s3cret")
    with Emulator(dialect="chat-ui-2025", login="s3cret") as server:
        redirect = Fault(302, headers={"location": "https://login.example/"}, body="")
        server.fault("settings", redirect)  # the only request without the session
        assert doctor(server.url) == 0
        assert server.conversations == []
    assert doctor.found["protocol"] == ("ok", "a chat-ui server (0.9.6 or later)")


def test_server_with_a_wrong_scheme_is_reported(doctor: Doctor) -> None:
    def answering(asked: Asked, handler: Handler) -> None:
        if asked.path == "/settings" and asked.headers["referer"].startswith("https://"):
            handler.whole(303, b"", HTML, ("Location", "/"))
        else:
            handler.whole(403, b'{"message":"Invalid referer"}', JSON)

    with running(answering) as other:
        doctor(other.url)
    outcome, text = doctor.found["protocol"]
    assert outcome == "note"
    assert f"expects the address {other.url.replace('http', 'https')}" in text
    assert "can set its ORIGIN" in doctor.out


# Later failures


def test_unknown_model_is_reported(doctor: Doctor) -> None:
    with Emulator(models=[Model("own/one")]) as server:
        assert doctor(server.url) == 1
        assert doctor.found["protocol"][0] == "note"
        assert doctor.found["models"][0] == "FAILED"
        assert "H2O_CHAT_MODEL=own/one" in doctor.out
        assert doctor(server.url, "--model", "own/one") == 0


def test_terms_without_a_date_are_noted(
    doctor: Doctor, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from h2o_client import H2oClient, Settings

    missing = Settings(share_conversations=True, terms_accepted_at=None, active_model="m")
    monkeypatch.setattr(H2oClient, "settings", lambda _self: missing)
    assert doctor(server.url) == 0
    assert doctor.found["terms"][0] == "note"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault(status=429), "wait two minutes"),
        (Fault(status=503), "overloaded"),
        (Fault(status=410), "h2o-client models"),
        (Fault(hang=True), "--timeout 60"),
    ],
)
def test_failed_answer_is_reported(
    doctor: Doctor, server: Emulator, fault: Fault, advice: str
) -> None:
    server.fault("message", fault)
    timeout = "0.3" if fault.hang else "10"
    assert doctor(server.url, "--timeout", timeout) == 1
    assert doctor.found["terms"][0] == "ok"
    assert doctor.found["answer"][0] == "FAILED"
    assert advice in doctor.advice


def test_failed_model_list_is_reported(doctor: Doctor, server: Emulator) -> None:
    server.fail(status=500, on="root")
    assert doctor(server.url) == 1
    assert doctor.found["models"][0] == "FAILED"


def test_empty_answer_is_reported(doctor: Doctor, server: Emulator) -> None:
    server.reply(Answer(""))
    assert doctor(server.url) == 0
    assert doctor.found["answer"][0] == "note"


def test_reason_is_never_empty() -> None:
    assert diagnosis.reason(OSError(111, "Connection refused")) == "Connection refused"
    assert diagnosis.reason(ValueError("odd")) == "odd"
    assert diagnosis.reason(ConnectionResetError()) == "ConnectionResetError"
