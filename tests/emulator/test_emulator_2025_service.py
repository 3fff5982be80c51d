"""Behaviour of 2025 servers that no recording shows: tree, forms, files, limits, engines."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from model_servers import WHOLE, Asked, Handler, Listener, OpenAIStub, delta, running
from peer_2025 import (
    BOUNDARY,
    FINISHED,
    MODEL,
    SLOW,
    Got,
    Peer,
    begun,
    emulator,
    error,
    follow,
    form,
)

from h2o_client.emulator import (
    Answer,
    Fault,
    GenerationRequest,
    Model,
)
from h2o_client.emulator.engines.turns import without_system

# Message tree


def test_model_sees_only_the_path_to_the_message() -> None:
    asked: list[GenerationRequest] = []

    def answer(request: GenerationRequest) -> Answer:
        asked.append(request)
        return Answer(f" to {request.messages[-1][1]}")

    with emulator(engine=answer) as server:
        peer = Peer(server)
        peer.create(preprompt="P")
        peer.say("one")
        fork = peer.last()
        peer.say("two")
        peer.say("other", fork)
        assert [dict(item) for item in asked[-1].chat] == [
            {"role": "system", "content": "P\n\nP"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "to one"},
            {"role": "user", "content": "other"},
        ]
        assert (
            asked[-1].prompt == "P\n\nP\n\n<|prompt|>one<|answer|> to one<|prompt|>other<|answer|>"
        )
        above = next(item for item in peer.messages() if item["id"] == fork)
        assert len(above["children"]) == 2


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("main", {"content": "so", "reasoning_content": "hm"}),
        ("0.10", {"content": "<think>hm</think>so"}),
    ],
)
def test_newer_server_sends_earlier_reasoning_separately(
    version: str, expected: dict[str, str]
) -> None:
    engine = Listener(Answer(["<think>hm", "</think>so"]))
    with begun(version=version, engine=engine) as peer:
        peer.say("one")
        peer.say("two")
    assert engine.asked[-1].chat[1] == {"role": "assistant", **expected}


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"is_retry": True, "id": "root"}, 500, "Failed to create message"),
        ({"is_retry": True, "id": "root", "inputs": "x"}, 500, "Failed to create message"),
        ({"is_retry": "yes", "id": "root", "inputs": "x"}, 500, "An error occurred"),
        ({"id": "root", "inputs": None}, 500, "An error occurred"),
        ({"id": "root", "inputs": 1}, 500, "An error occurred"),
        ({"id": None, "inputs": "x"}, 500, "An error occurred"),
        ({"id": "root", "inputs": "x", "generationId": "x"}, 500, "An error occurred"),
    ],
)
def test_invalid_messages_are_rejected(
    peer: Peer, fields: dict[str, Any], status: int, message: str
) -> None:
    data = {name: peer.root if value == "root" else value for name, value in fields.items()}
    got = post(peer, form(data))
    assert (got.status, got.json["message"]) == (status, message)
    assert len(peer.messages()) == 1


def test_older_server_ignores_the_generation_id() -> None:
    with begun(version="0.10") as peer:
        assert peer.say("x", generationId="no UUID").final


def test_prompt_is_normalised(peer: Peer) -> None:
    peer.say("a\r\nb \ud83d c")
    assert peer.messages()[1]["content"] == "a\nb \ufffd c"


# Forms


def post(peer: Peer, body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> Got:
    return peer.ask("POST", f"/conversation/{peer.conversation}", body, Content_Type=kind)


def test_forms_are_parsed_strictly(peer: Peer) -> None:
    data = {"id": peer.root, "inputs": "Hello"}
    whole = form(data)
    line = b"--" + BOUNDARY.encode()
    second = form({"id": peer.root, "inputs": "second"})
    cases = {
        "whole": (whole, 200),
        "of two the first counts": (whole.removesuffix(line + b"--\r\n") + second, 200),
        "a type on the part": (
            whole.replace(b"\r\n\r\n", b"\r\nContent-Type: x/y\r\n\r\n", 1),
            200,
        ),
        "no CRLF at the end": (whole.removesuffix(b"\r\n"), 500),
        "no closing boundary": (whole.removesuffix(line + b"--\r\n"), 500),
        "only LF": (whole.replace(b"\r\n", b"\n"), 500),
        "the boundary in the text": (form({**data, "inputs": f"see {BOUNDARY}"}), 500),
        "a file name": (whole.replace(b'"data"', b'"data"; filename="x"'), 400),
        "another name": (whole.replace(b'"data"', b'"date"'), 400),
        "no name": (whole.replace(b'; name="data"', b""), 500),
        "no JSON": (form("{"), 500),
        "no object": (form("[]"), 500),
        "empty": (b"", 500),
    }
    found = {name: post(peer, body).status for name, (body, _) in cases.items()}
    assert found == {name: status for name, (_, status) in cases.items()}
    assert {item["content"] for item in peer.messages() if item["from"] == "user"} == {"Hello"}
    assert post(peer, whole, "multipart/form-data").status == 500
    assert post(peer, whole, "text/plain").status == 500


def test_request_body_size_is_limited(either: Peer) -> None:
    main = "conversation" in either.ask("POST", "/conversation", {"model": MODEL}).json
    got = post(either, form({"id": either.root, "inputs": "x" * (15 * 1024 * 1024)}))
    assert (got.status, got.json["message"]) == (413 if main else 500, "An error occurred")


# Files


def encoded(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_unsupported_file_is_dropped_silently() -> None:
    engine = Listener()
    models = (Model("blind"), Model("seeing", multimodal=True))
    with emulator(engine=engine, models=models) as server:
        for model in models:
            peer = Peer(server)
            peer.create(model=model.name)
            files = (
                ("base64;a;b.png", "image/png", encoded(b"image")),
                ("base64;c.bin", "application/x-unknown", encoded(b"binary")),
                ("base64;empty.txt", "text/plain", b""),
            )
            peer.say("See", None, *files)
            stored = peer.messages()[1]["files"]
            assert [file["name"] for file in stored] == ["a;b.png", "c.bin"]
            value = stored[1]["value"]
            path = f"/conversation/{peer.conversation}/output/"
            assert peer.ask("GET", path + value).body == b"binary"
            assert Peer(server, "other").ask("GET", path + value).status == 404
            assert peer.ask("GET", path + "0" * 64).status == 404
    url = f"data:image/png;base64,{encoded(b'image').decode()}"
    seen = [{"type": "text", "text": "See"}]
    seen.append({"type": "image_url", "image_url": {"url": url, "detail": "auto"}})  # type: ignore[dict-item]
    titled = [item.chat for item in engine.asked if item.chat[0]["role"] == "user"]
    assert [chat[0]["content"] for chat in titled] == ["See", seen]


def test_text_files_of_each_type_precede_the_message() -> None:
    engine = Listener()
    kinds = ("text/plain", "application/json", "application/xml", "application/csv")
    with begun(engine=engine) as peer:
        files = [
            (f"base64;{number}", kind, encoded(kind.encode())) for number, kind in enumerate(kinds)
        ]
        peer.say("Sum", None, *files)
    seen = [str(item.chat[-1]["content"]) for item in engine.asked]
    (asked,) = (text for text in seen if text.endswith("\n\nSum"))
    for kind in kinds:
        assert f'type="{kind}">\n{kind}\n</document>' in asked


@pytest.mark.slow
def test_invalid_files_are_rejected(peer: Peer) -> None:
    text = "text/plain"
    assert peer.say("x", None, ("other;x", text, b"eA==")).status == 500
    big = ("base64;big.txt", text, encoded(b"x" * (10 * 1024 * 1024 + 1)))
    got = peer.say("x", None, big)
    assert (got.status, got.json) == (413, {"message": "File too large, should be <10MB"})
    got = peer.say("x", None, ("hash;x", text, b"0" * 64))
    assert got.events[-1] == error(statusCode=404)


# Other endpoints


def test_conversation_list_has_thirty_per_page(peer: Peer) -> None:
    made = [peer.conversation, *(peer.create() for _ in range(30))]
    first, second = (peer.ask("GET", f"/api/v2/conversations?p={p}").value for p in (0, 1))
    assert (len(first["conversations"]), first["hasMore"]) == (30, True)
    assert (len(second["conversations"]), second["hasMore"]) == (1, False)
    listed = [item["id"] for item in first["conversations"] + second["conversations"]]
    assert sorted(listed) == sorted(made)
    assert peer.ask("DELETE", "/api/v2/conversations").value == 31


def test_sharing_is_enabled_unless_a_post_disables_it(peer: Peer) -> None:
    def shares() -> bool:
        found: bool = peer.ask("GET", "/api/v2/user/settings").value[
            "shareConversationsWithModelAuthors"
        ]
        return found

    assert shares()
    peer.ask("POST", "/settings", {"shareConversationsWithModelAuthors": False})
    assert not shares()
    peer.ask("POST", "/api/v2/user/settings", {"activeModel": MODEL})
    assert shares()


def test_invalid_title_is_rejected(peer: Peer) -> None:
    path = f"/api/v2/conversations/{peer.conversation}"
    assert peer.ask("PATCH", path, {"title": " "}).value == {"success": True}
    for title in ("", "x" * 101, None):
        assert peer.ask("PATCH", path, {"title": title}).status == 400


def test_share_outlives_its_conversation_and_has_a_stable_id(
    peer: Peer,
) -> None:
    peer.say()
    path = f"/conversation/{peer.conversation}"
    first = peer.ask("POST", path + "/share").json["shareId"]
    assert peer.ask("POST", path + "/share").json["shareId"] == first
    peer.say()
    assert peer.ask("POST", path + "/share").json["shareId"] != first
    peer.ask("DELETE", path)
    other = Peer(peer.server, "other")
    assert other.ask("GET", f"/api/v2/conversations/{first}").value["shared"] is True
    imported = [
        other.ask("POST", "/api/v2/conversations/import-share", {"shareId": first}).value
        for _ in range(2)
    ]
    assert imported[0] == imported[1]
    got = other.ask("POST", "/api/v2/conversations/import-share", {"shareId": "unknown"})
    assert got.status == 404
    other.conversation = imported[0]["conversationId"]
    assert "title" not in {event["type"] for event in other.say().events}  # it already has a title


def test_rate_limit_ends_after_a_minute_without_messages() -> None:
    now = [1_000_000.0]
    with begun(rate_limit=1, clock=lambda: now[0]) as peer:
        statuses = []
        for seconds in (0, 59, 59, 61):
            now[0] += seconds
            statuses.append(peer.say().status)
        assert statuses == [200, 429, 429, 200]
        assert peer.ask("GET", "/api/v2/conversations").status == 200


def test_message_length_and_count_are_limited() -> None:
    with begun(message_length=3, max_messages=2) as peer:
        got = peer.say("👋👋")
        assert (got.status, got.json) == (400, {"message": "Message too long."})
        assert peer.say("👋x").status == 200
        assert peer.say("x").status == 429


def test_retired_model_is_rejected(peer: Peer) -> None:
    server = peer.server
    second = server._service.models[1].name
    peer.create(model=second)
    server.retire(second)
    got = peer.say()
    assert (got.status, got.json) == (410, {"message": "Model not available anymore"})


def test_origin_of_a_form_must_match(peer: Peer) -> None:
    body = form({"id": peer.root, "inputs": "x"})
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    port = peer.address.partition(":")[2]
    origins = {
        f"https://127.0.0.1:{port}": 200,
        f"http://localhost:{port}": 403,
        "http://127.0.0.1:1": 403,
        "no URL": 500,
        None: 403,
    }
    for origin, status in origins.items():
        path = f"/conversation/{peer.conversation}"
        got = peer.ask("POST", path, body, Content_Type=kind, Origin=origin)
        assert (origin, got.status) == (origin, status)
        assert ("set-cookie" in got.headers) is (status == 200)
    # JSON requests need no matching origin, but the newer endpoints reject an invalid URL.
    for origin, status in {"http://example.com": 200, "null": 500, None: 200}.items():
        assert peer.ask("GET", "/api/v2/models", Origin=origin).status == status
        assert peer.ask("POST", "/conversation", {"model": MODEL}, Origin=origin).status == 200


def test_unknown_bearer_token_needs_a_cookie(peer: Peer) -> None:
    asked = partial(peer.ask, "GET", "/api/v2/models", Authorization="Bearer x")
    assert asked().status == 200
    assert asked(Cookie=None).status == 500
    with emulator(token="secret") as server:
        other = Peer(server)
        path = "/api/v2/feature-flags"
        assert other.ask("GET", path, Authorization="Bearer x").status == 401
        assert other.ask("GET", path, Authorization="Bearer secret", Cookie=None).status == 200


def test_login_protects_a_conversation() -> None:
    with emulator(login="mine") as server:
        peer = Peer(server, "mine")
        peer.create()
        assert peer.say().final
        assert peer.ask("GET", "/api/v2/user").value["username"]
        other = Peer(server, "other")
        other.conversation = peer.conversation
        assert other.ask("GET", "/api/v2/user").value is None
        assert (
            other.ask("PATCH", f"/conversation/{peer.conversation}", {"title": "x"}).status == 401
        )
        assert other.ask("DELETE", f"/conversation/{peer.conversation}").status == 401
        assert other.stop().status == 401
        got = other.ask("POST", "/settings", {}, Accept="text/html")
        assert got.status == 302


def test_base_path_is_part_of_every_url() -> None:
    with begun(base_path="/chat") as peer:
        assert peer.say().final
        got = peer.ask("GET", "/api/v2/models/")
        assert (got.status, got.headers["location"]) == (308, "/chat/api/v2/models")
        peer.base = ""
        assert peer.ask("GET", "/api/v2/models").status == 404


# Scripts, engines, recordings


def test_faults_apply_to_their_kind_of_request(peer: Peer) -> None:
    server = peer.server
    server.fail(on="flags", status=503)
    server.fail(status=429)
    server.fault("reattach", Fault(disconnect=True))
    assert peer.ask("GET", "/api/v2/feature-flags").status == 503
    got = peer.say()
    assert (got.status, got.json["message"][:11]) == (429, "You are sen")
    with pytest.raises(ConnectionError):
        follow(peer)
    for status, message in {
        404: "Conversation not found",
        410: "Model not available anymore",
        500: "An error occurred",
        413: "An error occurred",
    }.items():
        server.fail(on="list", status=status)
        got = peer.ask("GET", "/api/v2/conversations")
        assert (got.status, got.json["message"]) == (status, message)


def test_kinds_of_requests_are_recorded(peer: Peer) -> None:
    path = f"/conversation/{peer.conversation}"
    peer.server.clear()
    for method, where in [
        ("GET", "/api/v2/models"),
        ("GET", "/api/v2/conversations"),
        ("DELETE", "/api/v2/conversations"),
        ("GET", f"/api/v2{path.replace('conversation', 'conversations')}"),
        ("DELETE", path),
        ("PATCH", path),
        ("GET", path + "/stream"),
        ("GET", path + "/output/x"),
        ("GET", "/api/v2/user/settings"),
        ("POST", "/api/v2/user/settings"),
        ("POST", "/api/v2/conversations/import-share"),
        ("POST", path + "/summarize"),
    ]:
        peer.ask(method, where)
    kinds = [request.kind for request in peer.server.requests]
    assert kinds == [
        *("models", "list", "delete_all", "data", "delete", "rename", "reattach", "file"),
        *("user", "settings", "import", "other"),
    ]


def test_openai_request_matches_the_real_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    stub = OpenAIStub(list(WHOLE))
    with running(stub) as model_server, emulator(engine=f"openai:{model_server.url}#m") as server:
        peer = Peer(server)
        peer.create(preprompt="P")
        got = peer.say("Hello")
        assert got.final is not None
        assert peer.messages()[-1]["content"] == got.final["text"]
    asked = [item.json() for item in model_server.asked if b"titling" not in item.body]
    messages = [{"role": "system", "content": "P\n\nP"}, {"role": "user", "content": "Hello"}]
    assert asked == [{"model": "m", "messages": messages, "stream": True}]


def test_tgi_model_server_answers() -> None:
    def tgi(asked: Asked, handler: Handler) -> None:
        if not asked.json().get("stream"):
            handler.whole(200, b'[{"generated_text":" Its title"}]', "application/json")
            return
        token = {"id": 1, "text": " Hi", "logprob": -0.1, "special": False}
        event = {"token": token, "generated_text": " Hi", "details": None}
        handler.whole(200, f"data:{json.dumps(event)}\n\n".encode(), "text/event-stream")

    with running(tgi) as model_server, emulator(engine=f"tgi:{model_server.url}/") as server:
        peer = Peer(server)
        peer.create(preprompt="P")
        assert peer.say().final == {"type": "finalAnswer", "text": " Hi", "interrupted": False}
        assert peer.history()["title"] == "Its title"
        asked = next(item.json() for item in model_server.asked if item.json().get("stream"))
        assert asked["inputs"] == "P\n\nP\n\n<|prompt|>Hello<|answer|>"
    assert server.generations == 1


def test_local_model_gets_the_system_message_in_the_question() -> None:
    chat = [{"role": "system", "content": "P"}, {"role": "user", "content": "Hi"}]
    assert without_system(chat) == [{"role": "user", "content": "P\n\nHi"}]
    assert without_system(chat[1:]) == chat[1:]


@pytest.mark.parametrize(
    "events",
    [
        [delta(" x", "content_filter")],
        [delta(" x", "stop")],
        [delta(" x")],
        [delta(" x"), "[DONE]"],
    ],
    ids=["content filter", "stop", "no reason", "done without a reason"],
)
def test_every_ending_of_an_openai_answer_is_finished(events: list[Any]) -> None:
    with running(OpenAIStub(events)) as stub, begun(engine=f"openai:{stub.url}#m") as peer:
        got = peer.say()
    assert got.events[-1] == FINISHED
    assert (got.final is not None) is ("stop" in str(events))


def test_separate_reasoning_becomes_part_of_the_text() -> None:
    events: list[Any] = [delta(None) for _ in "ab"]
    for event, text in zip(events, ("Let", " me."), strict=True):
        event["choices"][0]["delta"]["reasoning_content"] = text
    events += [delta("Hello"), delta("!", "stop")]
    with running(OpenAIStub(events)) as stub, begun(engine=f"openai:{stub.url}#m") as peer:
        got = peer.say()
    tokens = [event["token"].rstrip("\0") for event in got.events if event["type"] == "stream"]
    assert tokens == ["<think>Let", " me.", "</think>Hello", "!"]


def test_replayed_stop_waits_for_the_stop_request(tmp_path: Path) -> None:
    with emulator(record=tmp_path) as server:
        server.reply(SLOW)
        peer = Peer(server)
        peer.create()
        stream = peer.send("Hi")
        server.wait_held()
        peer.stop()
        whole = stream.rest().events
    with begun(replay=tmp_path) as peer:
        peer.last = lambda: peer.root  # type: ignore[method-assign]
        stream = peer.send("Hi")
        assert b"finalAnswer" not in stream.until('" b')
        peer.stop()
        assert stream.rest().events == whole[-2:]


def test_recording_can_be_replayed(tmp_path: Path) -> None:
    with emulator(record=tmp_path) as server:
        server.reply(" Hello!", " Bye!")
        peer = Peer(server)
        peer.create()
        first = peer.say("Hi", generationId=str(uuid4()))
        second = peer.say("Bye", generationId=str(uuid4()))
        stored = [item["content"] for item in peer.messages()]
    with emulator(replay=tmp_path) as server:
        peer = Peer(server, "another")
        peer.create()
        assert peer.say("Hi", generationId=str(uuid4())).events == first.events
        assert peer.say("Bye", generationId=str(uuid4())).events == second.events
        assert [item["content"] for item in peer.messages()] == stored
        assert peer.ask("GET", "/api/v2/models").status == 501


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dialect": "chat-ui-2024"}, "unknown dialect 'chat-ui-2024'"),
        ({"version": "0.4"}, "unknown version '0.4' of chat-ui-2025"),
        ({"dialect": "chat-ui-2023", "version": "main"}, "unknown version 'main'"),
    ],
)
def test_invalid_emulator_options_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        emulator(**options)
