"""What the emulator adds to the real server: scripts, limits, and a clean shutdown."""

from __future__ import annotations

import ast
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from asked import eventually
from model_servers import Listener

from h2o_client import H2oClient, emulator
from h2o_client.emulator import (
    DEFAULT_MODELS,
    Answer,
    Emulator,
    Fault,
    GenerationRequest,
    Token,
    UpstreamError,
    WebSearch,
)

MODEL = DEFAULT_MODELS[0].name
FORM = "application/x-www-form-urlencoded"


class Client:
    """A client of the raw protocol, with a new connection for each request."""

    def __init__(self, server: Emulator, session: str = "s", base: str = "") -> None:
        self.server = server
        self.session = session
        self.base = base
        self.address = server.url.removeprefix("http://").partition("/")[0]
        self.conversation = ""

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send a request, and read the complete response."""
        text: str | None = body if isinstance(body, str) else None
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.setdefault("Cookie", f"hf-chat={self.session}")
        headers.setdefault("Accept", "application/json")
        headers.setdefault("Referer", f"http://{self.address}/")
        if body is not None and text is None:
            text = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, self.base + path, text, headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def open(self) -> Self:
        """Accept the welcome modal, and create a conversation."""
        self.ask("POST", "/settings", "ethicsModalAccepted=true", Content_Type=FORM)
        self.create()
        return self

    def create(self) -> None:
        """Create a conversation."""
        _, body, _ = self.ask("POST", "/conversation", {"model": MODEL})
        self.conversation = json.loads(body)["conversationId"]

    def say(
        self, text: str = "Hello", parameters: dict[str, Any] | None = None, **options: Any
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send a message."""
        body = {"inputs": text, "parameters": parameters or {}, "stream": True, "options": options}
        return self.ask("POST", f"/conversation/{self.conversation}", body)

    def stored(self) -> list[tuple[str, str]]:
        """Return the messages stored in the conversation."""
        for item in self.server.conversations:
            if item.id == self.conversation:
                return [(message.sender, message.content) for message in item.messages]
        return []


@contextmanager
def talking(**options: Any) -> Iterator[H2oClient]:
    """A client of a new emulator, without retries."""
    with Emulator(**options) as server, H2oClient(server.url, retries=0) as client:
        yield client


@pytest.fixture
def server() -> Iterator[Emulator]:
    with Emulator(stop_poll=0.002) as running:
        yield running


@pytest.fixture
def client(server: Emulator) -> Client:
    return Client(server).open()


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[5:]) for line in body.decode().split("\n") if line.startswith("data:")]


def texts(body: bytes) -> list[str]:
    return [event["token"]["text"] for event in events(body)]


# Answers


def test_default_engine_greets_and_remembers(client: Client) -> None:
    _, body, headers = client.say("Hello")
    assert headers["content-type"] == "text/event-stream"
    assert "emulator" in events(body)[-1]["generated_text"]
    _, body, _ = client.say("What did I say first?")
    assert events(body)[-1]["generated_text"].endswith("Hello")
    assert [sender for sender, _ in client.stored()] == ["user", "assistant"] * 2


def test_engine_sees_a_flattened_history(client: Client) -> None:
    prompt = "User: one\nAssistant: 1\nUser: what was before?\nAssistant:"
    _, body, _ = client.say(prompt)
    assert events(body)[-1]["generated_text"].endswith("one")


@pytest.mark.parametrize(
    ("parameters", "text", "finish"),
    [
        ({"max_new_tokens": 2}, " Hello! I", "length"),
        ({"stop": ["am"]}, " Hello! I am", "stop_sequence"),
    ],
    ids=["max_new_tokens", "stop"],
)
def test_answer_is_limited_by_its_parameters(
    client: Client, parameters: dict[str, Any], text: str, finish: str
) -> None:
    _, body, _ = client.say("Hello", {**parameters, "details": True})
    last = events(body)[-1]
    assert (last["token"]["special"], last["generated_text"]) == (False, text)
    count = text.count(" ")
    assert last["details"] == {"finish_reason": finish, "generated_tokens": count, "seed": 42}


def test_replies_are_sent_in_order_before_the_engine(server: Emulator, client: Client) -> None:
    server.reply(" one two", [" a", "b"], Answer(tokens=[" c"], ending="length"))
    assert texts(client.say()[1]) == [" one", " two", "<|endoftext|>"]
    assert texts(client.say()[1]) == [" a", "b", "<|endoftext|>"]
    assert texts(client.say()[1]) == [" c"]
    assert "emulator" in events(client.say()[1])[-1]["generated_text"]


def test_split_and_join_do_not_change_the_bytes(server: Emulator, client: Client) -> None:
    text = " naïve \u2028 世界"
    server.reply(text, Answer(text, split=1), Answer(text, join=3))
    plain, split, joined = (client.say()[1] for _ in range(3))
    assert plain == split == joined
    assert "\u2028" in plain.decode()


def test_join_puts_events_into_one_chunk(server: Emulator, client: Client) -> None:
    server.reply(Answer(["a"] * 6, join=3))
    body = {"inputs": "x", "stream": True, "options": {}}
    data = raw(server, "POST", f"/conversation/{client.conversation}", json.dumps(body))
    chunks = data.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]
    assert [chunk.count(b"data:") for chunk in chunks] == [3, 3, 1, 0]


def test_scripted_bytes_bodies_and_statuses_are_sent(server: Emulator, client: Client) -> None:
    server.reply(
        Answer(raw=b"data:{nonsense\n\n", split=3),
        Answer(body="<html>gateway</html>"),
        Answer(status=503),
        Answer(status=429, body={"error": "busy"}, headers=[("retry-after", "1")]),
    )
    assert client.say()[1] == b"data:{nonsense\n\n"
    status, body, headers = client.say()
    assert (status, body, headers["content-type"]) == (200, b"<html>gateway</html>", "text/html")
    status, body, _ = client.say()
    assert (status, json.loads(body)["error_type"]) == (503, "healthcheck")
    status, body, headers = client.say()
    assert (status, json.loads(body), headers["retry-after"]) == (429, {"error": "busy"}, "1")
    assert client.stored() == []


def test_model_server_failure_before_the_first_token_is_an_error(
    server: Emulator, client: Client
) -> None:
    server.reply(Answer(ending="down"), Answer(ending="cut"))
    assert client.say()[:2] == (500, b'{"message":"Internal Error"}')
    with pytest.raises(http.client.RemoteDisconnected):
        client.say()


# Lost clients


def test_cut_disconnects_the_client_and_stores_the_answer(server: Emulator, client: Client) -> None:
    server.reply(" a b c d e f")
    server.cut(after=2)
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.say(response_id="11111111-1111-4111-8111-111111111111")
    assert texts(caught.value.partial) == [" a", " b"]
    server.wait_idle()
    assert client.stored()[-1] == ("assistant", " a b c d e f")


def test_cut_before_the_headers_stores_the_answer(server: Emulator, client: Client) -> None:
    server.reply(Answer(" a b", drop_after=0))
    with pytest.raises(http.client.RemoteDisconnected):
        client.say()
    server.wait_idle()
    assert client.stored()[-1] == ("assistant", " a b")


def test_cut_after_bytes_stores_the_answer(server: Emulator, client: Client) -> None:
    server.reply(Answer(" a b", drop_after_bytes=20))
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.say()
    assert len(caught.value.partial) == 20
    server.wait_idle()
    assert client.stored()[-1] == ("assistant", " a b")


def test_disconnect_all_closes_every_connection(server: Emulator, client: Client) -> None:
    server.reply(Answer(" a b c", hold_after=1))
    with ThreadPoolExecutor() as pool:
        future = pool.submit(client.say)
        server.wait_held()
        assert server.connections == 1
        server.disconnect_all()
        with pytest.raises(http.client.IncompleteRead):
            future.result()
    assert (server.generating, server.held, server.connections) == (1, 1, 0)
    server.release()
    server.wait_idle()
    assert client.stored()[-1] == ("assistant", " a b c")


def test_disconnected_client_is_detected(server: Emulator, client: Client) -> None:
    server.reply(Answer(" a b c", hold_after=0))
    body = json.dumps({"inputs": "x", "stream": True, "options": {}})
    with socket.create_connection(address(server)) as sock:
        sock.sendall(head("POST", f"/conversation/{client.conversation}", body))
        server.wait_held()
    eventually(lambda: server.connections == 0)
    server.release()
    server.wait_idle()
    assert client.stored()[-1] == ("assistant", " a b c")


# Stops


@pytest.mark.slow
def test_turn_stored_late_overwrites_a_newer_one(server: Emulator, client: Client) -> None:
    server.reply(Answer(" One", store_delay=0.5), " Two")
    assert texts(client.say("First")[1])[0] == " One"
    assert client.stored() == []
    client.say("Second")
    assert client.stored() == [("user", "Second"), ("assistant", " Two")]
    server.wait_idle()
    assert client.stored() == [("user", "First"), ("assistant", " One")]


def test_stop_then_delete_stores_nothing(server: Emulator, client: Client) -> None:
    server.reply(Answer(" a b c d", hold_after=2))
    with ThreadPoolExecutor() as pool:
        future = pool.submit(client.say)
        server.wait_held()
        client.ask("POST", f"/conversation/{client.conversation}/stop-generating")
        client.ask("DELETE", f"/conversation/{client.conversation}")
        with pytest.raises(http.client.IncompleteRead):
            future.result()
    server.wait_idle()
    assert (server.stops, server.conversations) == (1, [])


def test_stop_record_expires_at_the_next_sweep() -> None:
    now = [1000.0]
    options: dict[str, Any] = {"stop_poll": 0.001, "sweep": 0.0, "clock": lambda: now[0]}
    with Emulator(**options) as server, ThreadPoolExecutor() as pool:
        client = Client(server).open()
        path = f"/conversation/{client.conversation}/stop-generating"
        for later, stopped in ((0.0, True), (29.0, False), (29.0, False), (31.0, True)):
            now[0] += later
            server.reply(Answer(" a b", hold_after=1))
            future = pool.submit(client.say)
            server.wait_held()
            client.ask("POST", path)
            if stopped:
                with pytest.raises(http.client.IncompleteRead):
                    future.result()
            else:
                time.sleep(0.01)
                server.release()
                assert future.result()[0] == 200
        assert server.stops == 2


# Faults


def test_faults_have_the_real_servers_bodies(server: Emulator, client: Client) -> None:
    server.fail(429, times=2)
    server.fail(404)
    server.fail(502, on="create")
    server.fail(500, on="settings", message="no")
    for _ in range(2):
        status, body, _ = client.say()
        assert (status, json.loads(body)["message"][:11]) == (429, "You are sen")
    assert client.say()[:2] == (404, b'{"message":"Conversation not found"}')
    status, body, headers = client.ask("POST", "/conversation", {"model": MODEL})
    assert (status, headers["content-type"]) == (502, "text/html")
    assert body.startswith(b"<!DOCTYPE")
    status, body, _ = client.ask("POST", "/settings", "a=b", Content_Type=FORM)
    assert (status, body) == (500, b'{"message":"no"}')
    assert client.say()[0] == 200


@pytest.mark.parametrize(
    "status", [200, 204, 302, 308, 401, 403, 405, 410, 413, 422, 424, 500, 503, 599, 799]
)
def test_every_status_has_a_response(server: Emulator, client: Client, status: int) -> None:
    location = {"location": "https://elsewhere/"} if status == 308 else {}
    server.fault("message", Fault(status=status, headers={"Retry-After": "2", **location}))
    got, _, headers = client.say()
    assert (got, headers["Retry-After"]) == (status, "2")
    assert headers.get("location") == location.get("location", "/" if status == 302 else None)
    if status not in {200, 204}:
        server.reply(Answer(status=status))
        assert client.say()[0] == status


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (413, "Payload Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Entity"),
        (429, "Too Many Requests"),
        (599, ""),
    ],
)
def test_reason_phrases_do_not_depend_on_the_python_version(
    server: Emulator, status: int, reason: str
) -> None:
    server.fault("other", Fault(status=status))
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    with closing(connection):
        connection.request("GET", "/nope")
        assert connection.getresponse().reason == reason


def test_disconnect_can_be_before_or_after_processing(server: Emulator, client: Client) -> None:
    server.fault("create", Fault(disconnect=True), Fault(disconnect=True, processed=True))
    for expected in (1, 2):
        with pytest.raises(http.client.RemoteDisconnected):
            client.create()
        assert len(server.conversations) == expected


def test_processed_message_is_stored(server: Emulator, client: Client) -> None:
    server.fault("message", Fault(status=502, processed=True))
    assert client.say()[0] == 502
    server.wait_idle()
    assert len(client.stored()) == 2


def test_wildcard_fault_applies_to_any_request(server: Emulator, client: Client) -> None:
    server.fault("*", Fault(delay=0.005), Fault(status=503))
    assert client.ask("GET", "/__data.json")[0] == 200
    assert client.ask("GET", "/__data.json")[0] == 503


def test_hang_ends_when_the_client_disconnects(server: Emulator, client: Client) -> None:
    server.fault("message", Fault(hang=True))
    with socket.create_connection(address(server)) as sock:
        sock.sendall(head("POST", f"/conversation/{client.conversation}", "{}"))
        eventually(lambda: len(server.requests) == 3)
        with pytest.raises(TimeoutError):
            server.wait_idle(timeout=0.005)
    server.wait_idle()


def test_unknown_kind_of_fault_is_rejected(server: Emulator) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        server.fault("mesage", Fault())
    with pytest.raises(ValueError, match="`on` must be `message`"):
        server.cut(on="create")


def test_clear_removes_scripts_and_requests(server: Emulator, client: Client) -> None:
    server.fail(500)
    server.reply("x")
    server.cut(1)
    server.clear()
    assert server.requests == []
    assert "emulator" in events(client.say()[1])[-1]["generated_text"]


# Inspection


def test_requests_are_recorded(server: Emulator, client: Client) -> None:
    client.say("hi")
    client.ask("GET", f"/conversation/{client.conversation}/__data.json?a=b")
    client.ask("POST", "/conversations?/delete", "", Content_Type=FORM)
    kinds = [request.kind for request in server.requests]
    assert kinds == ["settings", "create", "message", "data", "delete_all"]
    settings, create, message, data, _ = server.requests
    assert settings.form() == {"ethicsModalAccepted": "true"}
    assert create.json() == {"model": MODEL}
    assert message.json()["inputs"] == "hi"
    assert message.header("CONTENT-TYPE") == "application/json"
    assert (data.method, data.query) == ("GET", "a=b")
    assert settings.t <= data.t


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/", "root"),
        ("GET", "/__data.json", "root"),
        ("POST", "/conversation/x/summarize", "summarize"),
        ("POST", "/conversation/x/share", "share"),
        ("POST", "/conversation/x/stop-generating", "stop"),
        ("POST", "/conversation/x/message/y/vote", "vote"),
        ("GET", "/conversation/x/message/y/prompt", "prompt"),
        ("GET", "/conversation/x/web-search?prompt=z", "search"),
        ("PATCH", "/conversation/x", "rename"),
        ("DELETE", "/conversation/x", "delete"),
        ("GET", "/r/x/__data.json", "shared"),
        ("GET", "/nope", "other"),
    ],
)
def test_fault_applies_to_its_kind_of_request(
    server: Emulator, method: str, path: str, kind: str
) -> None:
    server.fault(kind, Fault(status=418))
    assert Client(server).ask(method, path)[0] == 418


def test_counters_reflect_requests(server: Emulator, client: Client) -> None:
    client.say()
    assert (server.generations, server.generating, server.sessions) == (1, 0, ["s"])
    assert server.accepted == 3
    eventually(lambda: server.connections == 0)


def test_wait_held_times_out(server: Emulator) -> None:
    with pytest.raises(TimeoutError):
        server.wait_held(timeout=0.001)


# Sessions and limits


def test_forgotten_session_must_accept_the_terms_again(server: Emulator, client: Client) -> None:
    server.forget_sessions()
    status, body, _ = client.say()
    assert (status, body) == (405, b'{"error":"You need to accept the welcome modal first"}')
    first = client.conversation
    client.open()
    client.conversation = first
    assert client.say()[0] == 200


def test_token_is_required() -> None:
    with Emulator(token="t0k") as server:
        client = Client(server)
        assert client.ask("GET", "/__data.json")[0] == 401
        assert client.ask("GET", "/__data.json", Authorization="Bearer t0k")[0] == 200


def test_base_path_and_cookie_name_can_be_set() -> None:
    with Emulator(base_path="/chat/", cookie_name="h2o") as server:
        assert server.url.endswith("/chat")
        client = Client(server, base="/chat")
        _, _, headers = client.ask("GET", "/__data.json", Cookie="h2o=me")
        assert headers["set-cookie"].startswith("h2o=me; Path=/")
        client.ask("POST", "/settings", "ethicsModalAccepted=1", Content_Type=FORM, Cookie="h2o=me")
        status, _, headers = client.ask("POST", "/conversation/", {}, Cookie="h2o=me")
        assert (status, headers["location"]) == (308, "/chat/conversation")
        _, body, _ = client.ask("POST", "/conversation", {"model": MODEL}, Cookie="h2o=me")
        assert "conversationId" in json.loads(body)
        assert Client(server).ask("GET", "/__data.json")[0] == 404


def test_origin_check_accepts_the_host_of_the_request() -> None:
    with Emulator(host="0.0.0.0") as server:
        client = Client(server)
        port = address(server)[1]
        for host, status in ((f"localhost:{port}", 200), ("other", 403)):
            referer = f"http://localhost:{port}/"
            headers = {"Content_Type": FORM, "Host": host, "Referer": referer}
            assert client.ask("POST", "/settings", "a=b", **headers)[0] == status


def test_request_body_is_limited() -> None:
    with Emulator(max_body=1000) as server:
        client = Client(server).open()
        status, body, headers = client.say("x" * 2000)
        assert (status, body) == (413, b"Invalid request body")
        assert "content-type" not in {name.lower() for name in headers}
        assert server.requests[-1].body == b""
        body = json.dumps({"inputs": "x" * 2000, "options": {}}).encode()
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        start = head("POST", f"/conversation/{client.conversation}", None)
        start = start.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert exchange(server, start + chunked).startswith(b"HTTP/1.1 500 ")


def test_stored_objects_are_limited() -> None:
    options: dict[str, int] = {
        "max_sessions": 2,
        "max_conversations": 3,
        "max_messages": 4,
        "max_requests": 5,
    }
    with Emulator(**options) as server:  # type: ignore[arg-type] # one dict for four ints
        clients = [Client(server, f"s{number}").open() for number in range(3)]
        assert server.sessions == ["s1", "s2"]
        assert clients[0].say()[0] == 405
        for _ in range(3):
            assert clients[2].say()[0] == 200
        assert len(clients[2].stored()) == 4
        clients[2].create()
        assert len(server.conversations) == 3
        assert len(server.requests) == 5


def test_rate_limit_counts_per_session_and_per_address() -> None:
    now = [0.0]
    for version, allowed, other in (("0.4", 3, 200), ("0.6", 2, 429)):
        options: Any = {"version": version, "rate_limit": 2, "sweep": 0, "clock": lambda: now[0]}
        with Emulator(**options) as server:
            one, two = Client(server, "a").open(), Client(server, "b").open()
            statuses = [one.say()[0] for _ in range(4)]
            assert statuses == [200] * allowed + [429] * (4 - allowed)
            assert two.say()[0] == other
            now[0] += 61
            assert one.say()[0] == 200


def test_default_model_cannot_be_retired(server: Emulator) -> None:
    with pytest.raises(ValueError, match="default model"):
        server.retire(MODEL)


def test_long_history_is_truncated_to_its_last_words() -> None:
    engine = Listener()
    with Emulator(engine=engine) as server:
        Client(server).open().say("word " * 3000)
    (request,) = engine.asked
    assert len(request.prompt.split(" ")) == 2048
    assert request.prompt.endswith("word</s><|answer|>")


# Searches


def test_search_sends_scripted_messages(server: Emulator, client: Client) -> None:
    server.search(WebSearch("It was us.", query=" who won", links=["https://example.com/a"]))
    connection = http.client.HTTPConnection(client.address, timeout=30)
    path = f"/conversation/{client.conversation}/web-search?prompt=Who"
    connection.request("GET", path, headers={"Cookie": "hf-chat=s"})
    answer = connection.getresponse()
    data = b""
    while b'"result"' not in data:
        data += answer.read1()
    server.wait_idle()  # a search without further messages counts as idle, though it never ends
    answer.close()
    connection.close()
    last = data[data.rindex(b'{"messages"') :]
    entries: list[dict[str, Any]] = json.loads(last)["messages"]
    assert [entry["type"] for entry in entries] == ["update"] * 5 + ["result"]
    client.say("Who?", web_search_id=entries[-1]["id"])
    prompt_path = f"/conversation/{client.conversation}/__data.json"
    assert b"Injecting summary" in client.ask("GET", prompt_path)[1]


# Engines


class Counting:
    """An engine that yields tokens, and rejects a request when told to."""

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Token | str]:
        """Count to three, or reject the request."""
        if "refuse" in request.prompt:
            raise UpstreamError(422, {"error": "no", "error_type": "validation"})
        if "break" in request.prompt:
            raise RuntimeError("a mistake in an engine")
        yield " one"
        yield Token(" two")
        yield Token(" three", "length")


def test_custom_engine_answers_and_fails(caplog: pytest.LogCaptureFixture) -> None:
    with Emulator(engine=Counting()) as server:
        client = Client(server).open()
        assert texts(client.say()[1]) == [" one", " two", " three"]
        assert client.say("refuse")[0] == 422
        assert client.say("break")[0] == 500
        assert "a mistake in an engine" in caplog.text
        assert client.stored()[-1] == ("assistant", " one two three")


# Start and shutdown


def test_emulator_does_not_import_the_client() -> None:
    """Shared code would hide mistakes; the emulator needs only the dependencies of httpx."""
    # The engines for model servers need a client, and are imported lazily. Hints on how to install
    # an extra do not concern the protocol.
    more = {"engines/http.py": {"httpx"}, "engines/local.py": {"h2o_client.extras"}}
    folder = Path(emulator.__file__).parent
    for path in folder.rglob("*.py"):
        own_more = more.get(path.relative_to(folder).as_posix(), set())
        allowed = {*sys.stdlib_module_names, "anyio", "h11", *own_more}
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                own = name == "h2o_client.emulator" or name.startswith("h2o_client.emulator.")
                known = {name, name.partition(".")[0]} & allowed
                assert own or known, f"{path.name} imports {name}"


def test_emulator_can_be_restarted() -> None:
    server = Emulator()
    for _ in range(2):
        with server:
            client = Client(server).open()
            assert client.say()[0] == 200
    assert server.generations == 2


def test_close_ends_streams_and_threads() -> None:
    before = threading.active_count()
    server = Emulator()
    server.close()
    server.start()
    with pytest.raises(RuntimeError):
        server.start()
    client = Client(server).open()
    server.reply(Answer(" a b", hold_after=1))
    server.fault("root", Fault(hang=True))
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(client.say)
        hanging = pool.submit(client.ask, "GET", "/__data.json")
        server.wait_held()
        eventually(lambda: len(server.requests) == 4)
        server.close()
        server.close()
        assert isinstance(stream.exception(), http.client.IncompleteRead)
        assert isinstance(hanging.exception(), http.client.RemoteDisconnected | ConnectionError)
    assert threading.active_count() == before
    assert (server.generating, server.connections) == (0, 0)
    with pytest.raises(OSError, match=r".*"), socket.create_connection(address(server)):
        pass


def test_port_in_use_is_an_error(server: Emulator) -> None:
    other = Emulator(port=address(server)[1])
    with pytest.raises(OSError, match="in use"):
        other.start()


@pytest.mark.slow
def test_many_streams_can_run_concurrently(server: Emulator, client: Client) -> None:
    count = 200
    server.reply(*[Answer(" a b", hold_after=1)] * count)
    body = json.dumps({"inputs": "x", "stream": True, "options": {}})
    data = head("POST", f"/conversation/{client.conversation}", body)
    with sockets(server, count) as opened:
        for sock in opened:
            sock.sendall(data)
        server.wait_held(count)
        server.release()
        for sock in opened:
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += sock.recv(65536)
            assert received.count(b"data:") == 3
    server.wait_idle()
    assert server.generations == count


def test_malformed_http_is_a_bad_request(server: Emulator) -> None:
    assert exchange(server, b"what?\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request")


@pytest.mark.parametrize("depth", [250, 1000, 100_000])
@pytest.mark.parametrize("path", ["", "/share", "/message/x/vote", "/summarize"])
def test_deeply_nested_json_is_answered(
    client: Client, path: str, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    nested = "[" * depth + "]" * depth
    body = f'{{"inputs": "Hi", "stream": true, "options": {{}}, "score": {nested}}}'
    where = f"/conversation/{client.conversation}{path}"
    status, answer, _ = client.ask("POST", where, body, Content_Type="application/json")
    reads_its_body = path in {"", "/message/x/vote"}
    assert status == (500 if reads_its_body else 200)
    assert not reads_its_body or json.loads(answer) == {"message": "Internal Error"}
    assert caplog.text == ""


def test_nested_json_is_accepted(client: Client) -> None:
    nested = json.loads("[" * 150 + "]" * 150)
    status, _, _ = client.say("Hi", {"made_up": nested})
    assert status == 200


def test_unexpected_error_is_a_500_response(
    server: Emulator,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def share(*_: object) -> None:
        raise ZeroDivisionError("in the store")

    monkeypatch.setattr(server._store, "share", share)
    status, body, _ = client.ask("POST", f"/conversation/{client.conversation}/share")
    assert (status, json.loads(body)) == (500, {"message": "Internal Error"})
    assert "in the store" in caplog.text
    assert client.say()[0] == 200


def test_head_request_has_no_body(client: Client) -> None:
    path = f"/conversation/{client.conversation}/web-search?prompt=Who"
    status, body, _ = client.ask("HEAD", path)
    assert (status, body) == (200, b"")


def test_expect_continue_is_confirmed(server: Emulator) -> None:
    data = head("POST", "/conversation", "{}").replace(
        b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(address(server)) as sock:
        sock.sendall(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        sock.sendall(b"{}")
        assert sock.recv(100).startswith(b"HTTP/1.1 405")


# Helpers


def address(server: Emulator) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition("/")[0].partition(":")
    return host, int(port)


def head(method: str, path: str, body: str | None) -> bytes:
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    return (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nCookie: hf-chat=s\r\n"
        f"Content-Type: application/json\r\n{length}\r\n{body or ''}"
    ).encode()


def raw(server: Emulator, method: str, path: str, body: str) -> bytes:
    return exchange(server, head(method, path, body), until_end=b"\r\n0\r\n\r\n")


def exchange(server: Emulator, data: bytes, until_end: bytes = b"") -> bytes:
    """Send bytes; read up to an ending, or until data arrives."""
    with socket.create_connection(address(server), timeout=30) as sock:
        sock.sendall(data)
        received = sock.recv(65536)
        while until_end and not received.endswith(until_end):
            received += sock.recv(65536)
        return received


@contextmanager
def sockets(server: Emulator, count: int) -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection(address(server), timeout=30))  # noqa: PERF401
        yield opened
    finally:
        for sock in opened:
            sock.close()


def test_total_text_of_conversations_is_limited() -> None:
    with Emulator(max_stored=2000) as server:
        clients = [Client(server, session=f"s{n}").open() for n in range(6)]
        for client in clients:
            client.say("x" * 200)
        kept = server.conversations
        texts = [message.content for conversation in kept for message in conversation.messages]
        assert sum(map(len, texts)) <= 2000
        assert 0 < len(kept) < 6
        assert clients[-1].conversation in {conversation.id for conversation in kept}


def test_total_size_of_recorded_requests_is_limited() -> None:
    with Emulator(max_request_bytes=1000) as server:
        client = Client(server).open()
        for _ in range(5):
            client.say("x" * 300)
        assert 0 < sum(len(request.body) for request in server.requests) <= 1000
