"""What no recording of the servers of 2025 shows: endings, stops, trees, forms, limits."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from functools import partial
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asked import eventually
from model_servers import WHOLE, Asked, Handler, OpenAIStub, delta, running
from peer_2025 import BOUNDARY, MODEL, Got, Peer, form, said
from replay_2025 import tokens_of

from h2o_client.emulator import (
    Answer,
    Emulator,
    Fault,
    GenerationRequest,
    Intervals,
    Model,
)
from h2o_client.emulator.engines.turns import without_system

WORDS = [" a", " b", " c", " d"]
SLOW = Answer(WORDS, hold_after=2)
FINISHED = {"type": "status", "status": "finished"}
QUICK = Intervals(keep_alive=0.01, journal=0.005, save=0.01)


def emulator(**options: Any) -> Emulator:
    return Emulator(**{"dialect": "chat-ui-2025", "intervals": QUICK, **options})


@pytest.fixture
def server() -> Iterator[Emulator]:
    with emulator() as server:
        yield server


@pytest.fixture
def peer(server: Emulator) -> Peer:
    peer = Peer(server)
    peer.create()
    return peer


@pytest.fixture(params=["main", "0.10"])
def either(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A conversation on each of the two servers."""
    with emulator(version=request.param) as server:
        peer = Peer(server)
        peer.create()
        yield peer


def error(**fields: Any) -> dict[str, Any]:
    return {"type": "status", "status": "error", **fields}


# The stream


def test_tokens_are_padded_to_16_units(peer: Peer) -> None:
    tokens = ["a", " 👋", "x" * 15, "y" * 16, "z" * 20, "n\0"]
    peer.server.reply(tokens)
    got = peer.say()
    sent = [event["token"] for event in got.events if event["type"] == "stream"]
    padded = ["a" + "\0" * 15, " 👋" + "\0" * 13, "x" * 15 + "\0", "y" * 16, "z" * 20]
    assert sent == [*padded, "n" + "\0" * 15]
    assert got.final is not None
    assert got.final["text"] == "".join(tokens)  # a NUL of the model's own is there alone
    assert rb'"a\u0000\u0000' in got.body


def test_halves_of_a_pair_are_sent_as_they_come(peer: Peer) -> None:
    peer.server.reply(["\ud83d", "\udc4b", " alone: \ud83d!"])
    got = peer.say()
    assert rb'"token":"\ud83d\u0000' in got.body
    assert rb'"token":"\udc4b\u0000' in got.body
    assert rb'alone: \ud83d!","interrupted"' in got.body  # of the whole pair, too, two escapes
    assert peer.messages()[-1]["content"] == "👋 alone: \ufffd!"


def test_signs_of_life_come_while_the_model_is_silent(peer: Peer) -> None:
    peer.server.reply(Answer(" x", hold_after=0))
    stream = peer.send()
    for _ in range(5):
        stream.until("keepAlive")
    peer.server.release()
    assert b"finished" in stream.rest().body


def test_the_spaces_follow_the_final_answer(peer: Peer) -> None:
    peer.server.reply(" x")
    body = peer.say().body
    assert re.search(rb'"interrupted":false}\n {4096}{"type"', body)
    assert body.count(b" " * 4096) == 1


def test_white_space_at_the_end_is_trimmed(peer: Peer) -> None:
    peer.server.reply([" one", " two", " \n"])
    got = peer.say()
    assert (got.text, got.final) == (
        " one two \n",
        {"type": "finalAnswer", "text": " one two", "interrupted": False},
    )
    assert peer.messages()[-1]["content"] == " one two"


def test_an_answer_of_white_space_fails_after_its_final_answer(peer: Peer) -> None:
    peer.server.reply([" ", "\n"])
    kinds = [event.get("status", event["type"]) for event in peer.say().events]
    assert [kind for kind in kinds if kind not in {"title", "stream"}] == [
        "started",
        "finalAnswer",
        "error",
    ]
    assert peer.messages()[-1]["interrupted"] is False


def test_a_model_server_that_cannot_be_reached(peer: Peer) -> None:
    peer.server.reply(Answer(ending="down"))
    assert peer.say().events[-1] == error(message="Connection error.")


@pytest.mark.parametrize(
    ("answer", "text", "streamed"),
    [
        (Answer([" x", " y"], ending="cut", again=" x z"), " x z", " x y x z"),
        (Answer([" x"], ending="error", again=" z"), " z", " x z"),
        (Answer(status=503, again=" z"), " z", " z"),
        (Answer(status=400, again=" z"), " z", " z"),
        (Answer(status=429, again=Answer(status=500, again=" z")), " z", " z"),
    ],
)
def test_it_asks_again(peer: Peer, answer: Answer, text: str, streamed: str) -> None:
    peer.server.reply(answer)
    got = peer.say()
    assert got.final == {"type": "finalAnswer", "text": text, "interrupted": False}
    assert got.text == streamed
    assert peer.messages()[-1]["content"] == text


def test_what_breaks_off_twice_is_stored_doubled(either: Peer) -> None:
    either.server.reply(Answer([" x", " y"], ending="cut"))
    got = either.say()
    assert got.events[-1] == error(message="terminated")
    assert got.text == " x y x y"
    stored = either.messages()[-1]
    assert stored["content"] == " x y x y"
    assert "interrupted" not in stored


def test_a_refusal_is_passed_on_after_six_tries() -> None:
    asked: list[GenerationRequest] = []

    def refuse(request: GenerationRequest) -> Answer:
        asked.append(request)
        return Answer(status=429, body={"error": "busy"})

    with emulator(engine=refuse) as server:
        peer = Peer(server)
        peer.create()
        assert peer.say().events[-1] == error(message="429 busy", statusCode=429)
        assert len([request for request in asked if request.stream]) == 6


def test_the_response_is_held_open_for_the_title(peer: Peer) -> None:
    peer.server.reply(Answer(" x", hold_title=True))
    stream = peer.send("What is this about?")
    peer.server.wait_held()
    assert b"title" not in stream.until("finalAnswer")
    assert peer.history()["title"] == "New Chat"
    peer.server.release()
    events = Got(200, stream.rest().body.lstrip(), {}).events
    assert events == [{"type": "title", "title": "What is this about?"}, FINISHED]
    assert peer.history()["title"] == "What is this about?"


def test_only_a_new_conversation_gets_a_title(peer: Peer) -> None:
    peer.ask("PATCH", f"/conversation/{peer.conversation}", {"title": "Mine"})
    assert "title" not in {event["type"] for event in peer.say().events}
    assert peer.history()["title"] == "Mine"


def test_without_a_title_from_the_model_the_first_words_are_taken() -> None:
    def answer(request: GenerationRequest) -> Answer:
        return Answer(" x") if request.stream else Answer(status=500)

    with emulator(engine=answer) as server:
        peer = Peer(server)
        peer.create()
        peer.say("one two three four five six")
        assert peer.history()["title"] == "one two three four five"


def test_the_turn_is_stored_before_the_response_closes() -> None:
    with emulator(intervals=Intervals()) as server:
        peer = Peer(server)
        peer.create()
        server.reply(Answer(" x", store_delay=30.0))
        stream = peer.send()
        stream.until('"finished"')
        assert (peer.messages()[-1]["content"], server.generating) == ("", 1)
        stream.close()


# Stops


def test_a_stop_cuts_the_answer_back_to_what_was_seen(either: Peer) -> None:
    """0.10 does not look at what was seen."""
    name = str(uuid4())
    either.server.reply(SLOW)
    stream = either.send(generationId=name)
    either.server.wait_held()
    assert either.stop(generationId=name, seenContentLength=3).status == 200
    main = "conversation" in either.ask("POST", "/conversation", {"model": MODEL}).json
    text = " a " if main else " a b"
    assert stream.rest().final == {"type": "finalAnswer", "text": text, "interrupted": True}
    stored = either.messages()[-1]
    assert (stored["content"], stored["interrupted"]) == (text, True)
    assert either.server.stops == 1


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"seenContentLength": 1},
        {"generationId": "other", "seenContentLength": 1},
        {"seenContentLength": -1},
        {"seenContentLength": 1.5},
        {"seenContentLength": 99},
    ],
)
def test_a_stop_that_names_no_point_of_this_run(peer: Peer, point: dict[str, Any]) -> None:
    name = str(uuid4())
    peer.server.reply(SLOW)
    stream = peer.send(generationId=name)
    peer.server.wait_held()
    if point.get("seenContentLength") not in {1, None}:
        point = {"generationId": name, **point}
    peer.stop(**point)
    assert stream.rest().final == {"type": "finalAnswer", "text": " a b", "interrupted": True}


def test_a_stop_ends_all_runs_of_a_conversation_also_those_whose_client_has_left(
    peer: Peer,
) -> None:
    peer.server.reply(SLOW, SLOW)
    left, other = peer.send("one", peer.root), peer.send("two", peer.root)
    peer.server.wait_held(2)
    left.close()
    peer.stop()
    assert other.rest().final == {"type": "finalAnswer", "text": " a b", "interrupted": True}
    peer.server.wait_idle()
    assert peer.server.stops == 2


def test_a_stop_with_nothing_running_ends_the_next_message(either: Peer) -> None:
    """Of the newer server alone."""
    main = "conversation" in either.ask("POST", "/conversation", {"model": MODEL}).json
    either.stop()
    either.server.reply(Answer([" a", " b"], hold_after=1))
    stream = either.send()
    if main:
        assert stream.rest().final == {"type": "finalAnswer", "text": " a", "interrupted": True}
    else:
        either.server.wait_held()
        either.server.release()
        assert stream.rest().final == {"type": "finalAnswer", "text": " a b", "interrupted": False}


def test_a_kept_stop_is_forgotten_after_five_seconds() -> None:
    now = [1_000_000.0]
    with emulator(clock=lambda: now[0], stop_poll=0.0) as server:
        peer = Peer(server)
        peer.create()
        for seconds, stopped in ((4.9, True), (5.1, False)):
            peer.stop()
            now[0] += seconds
            server.reply(Answer([" a", " b"], hold_after=1))
            stream = peer.send()
            if not stopped:
                server.wait_held()
                server.release()
            final = stream.rest().final
            assert final is not None
            assert final["interrupted"] is stopped
            now[0] += 10


def test_a_stop_that_did_its_work_is_not_kept(peer: Peer) -> None:
    peer.server.reply(SLOW, SLOW)
    stream = peer.send()
    peer.server.wait_held()
    peer.stop()
    stream.rest()
    stream = peer.send()
    peer.server.wait_held()
    peer.server.release()
    assert stream.rest().final == {"type": "finalAnswer", "text": " a b c d", "interrupted": False}


# What is stored when, and who overwrites whom


def test_the_newer_server_stores_the_text_so_far_from_time_to_time(peer: Peer) -> None:
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    eventually(lambda: peer.messages()[-1]["content"] == " a b")
    assert "interrupted" not in peer.messages()[-1]
    peer.server.release()
    stream.rest()


def test_before_its_first_store_only_the_question_is_there() -> None:
    for version in ("main", "0.10"):
        with emulator(version=version, intervals=Intervals()) as server:
            peer = Peer(server)
            peer.create()
            server.reply(SLOW)
            name = str(uuid4())
            stream = peer.send(generationId=name)
            server.wait_held()
            question, answer = peer.messages()[1:]
            assert (question["content"], answer["content"]) == ("Hello", "")
            assert answer.get("generationId") == (name if version == "main" else None)
            stream.close()  # now it is stored at once
            eventually(partial(has_text, peer, " a b"))
            server.release()
            server.wait_idle()
            assert peer.messages()[-1]["content"] == " a b c d"


def has_text(peer: Peer, text: str) -> bool:
    return bool(peer.messages()[-1]["content"] == text)


def test_a_rename_in_mid_stream_is_lost(peer: Peer) -> None:
    peer.say()
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    peer.ask("PATCH", f"/conversation/{peer.conversation}", {"title": "Mine"})
    peer.server.release()
    stream.rest()
    assert peer.history()["title"] == "Hello"


def test_the_run_that_ends_last_wipes_out_the_other() -> None:
    with emulator(intervals=Intervals()) as server:
        peer = Peer(server)
        peer.create()
        peer.say("before")
        server.reply(SLOW, " quick")
        last = peer.last()
        slow = peer.send("slow", last)
        server.wait_held()
        assert peer.say("quick", last).text == " quick"
        assert [item["content"] for item in peer.messages()][3:] == ["slow", "", "quick", " quick"]
        server.release()
        slow.rest()
        assert [item["content"] for item in peer.messages()][3:] == ["slow", " a b c d"]


def test_a_message_sent_twice_is_stored_twice(peer: Peer) -> None:
    name = str(uuid4())
    for _ in range(2):
        peer.say("same", peer.root, generationId=name)
    stored = peer.messages()
    assert [item.get("generationId") for item in stored] == [None, None, name, None, name]
    assert stored[0]["children"] == [stored[1]["id"], stored[3]["id"]]


# Reattaching


def follow(peer: Peer, **query: object) -> Any:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return peer.begin("GET", f"/conversation/{peer.conversation}/stream?{text}")


def told(body: bytes) -> tuple[str, list[int], str]:
    """The text, the numbers and the end of what a client that reattached got."""
    blocks = [block for block in body.decode().split("\n\n") if block.startswith("id: ")]
    numbers = [int(block.partition("\n")[0][4:]) for block in blocks]
    events = [json.loads(block.partition("data: ")[2]) for block in blocks]
    return said(events), numbers, json.loads(body.decode().rpartition("data: ")[2])["status"]


def test_a_client_reattaches_in_mid_stream(peer: Peer) -> None:
    name = str(uuid4())
    peer.server.reply(SLOW)
    peer.send(generationId=name).close()
    eventually(lambda: peer.messages()[-1]["content"] == " a b")
    number = peer.messages()[-1]["materializedSeq"]
    stream = follow(peer, generationId=name, fromSeq=number)
    stream.until("heartbeat")
    peer.server.release()
    text, numbers, end = told(stream.rest().body.lstrip())
    assert (text, numbers[0], end) == (" c d", number + 1, "completed")
    # As often as one likes, from any number.
    text, numbers, end = told(follow(peer, generationId=name).rest().body)
    assert (text, end) == (" a b c d", "completed")
    assert numbers == [*range(1, len(numbers) + 1)]
    for wrong in (-1, "x", ""):
        assert told(follow(peer, fromSeq=wrong).rest().body)[0] == " a b c d"
    assert told(follow(peer, fromSeq=len(numbers)).rest().body)[:2] == ("", [])


def test_a_client_that_reattached_can_be_lost_again(peer: Peer) -> None:
    peer.say()
    peer.server.cut(after=1, on="reattach")
    with pytest.raises(IncompleteRead) as caught:
        follow(peer).rest()
    assert caught.value.partial.startswith(b"id: 1\n")
    assert b"id: 2" not in caught.value.partial
    assert told(follow(peer, fromSeq=1).rest().body)[1][0] == 2
    with pytest.raises(ValueError, match="streamed"):
        peer.server.cut(on="list")


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Answer([" x"], ending="clean"), "completed"),
        (Answer([" x"], ending="cut"), "error"),
        (Answer(), "error"),
        (Answer(status=400), "error"),
    ],
)
def test_how_a_run_ended_is_told(peer: Peer, answer: Answer, end: str) -> None:
    peer.server.reply(answer)
    peer.say()
    assert told(follow(peer).rest().body)[2] == end


def test_a_run_that_was_stopped(peer: Peer) -> None:
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    peer.stop()
    stream.rest()
    assert told(follow(peer).rest().body)[2] == "interrupted"


def test_the_older_server_does_not_reattach() -> None:
    with emulator(version="0.10") as server:
        peer = Peer(server)
        peer.create()
        peer.say()
        got = follow(peer).rest()
        assert (got.status, got.headers["content-type"]) == (404, "text/html")


def test_a_client_that_reattached_may_leave(peer: Peer) -> None:
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    follow(peer).close()
    peer.server.release()
    stream.rest()
    peer.server.wait_idle()


# Where the client is lost


@pytest.mark.parametrize("answer", [Answer(WORDS, drop_after=2), Answer(WORDS)])
def test_generation_goes_on_when_the_client_is_lost(peer: Peer, answer: Answer) -> None:
    peer.server.reply(answer)
    if answer.drop_after is None:
        peer.server.cut(after=2)
    with pytest.raises(IncompleteRead) as caught:
        peer.say()
    assert tokens_of(caught.value.partial.decode()) == [" a", " b"]
    peer.server.wait_idle()
    assert peer.messages()[-1]["content"] == " a b c d"


def test_the_client_is_lost_at_any_byte(peer: Peer) -> None:
    for limit in (1, 40, 300, 3000):
        peer.server.reply(Answer(" x y", drop_after_bytes=limit))
        with pytest.raises(IncompleteRead) as caught:
            peer.say()
        assert len(caught.value.partial) == limit
        peer.server.wait_idle()
        assert peer.messages()[-1]["content"] == " x y"


def test_the_client_is_lost_before_any_header(peer: Peer) -> None:
    peer.server.reply(Answer(" x", drop_after=0))
    with pytest.raises(ConnectionError):
        peer.say(None, peer.root, inputs="Hello")
    peer.server.wait_idle()
    assert peer.messages()[-1]["content"] == " x"


# The tree


def test_the_model_sees_the_path_alone() -> None:
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


def test_thoughts_of_earlier_answers_go_apart_on_the_newer_server() -> None:
    for version, expected in (
        ("main", {"content": "so", "reasoning_content": "hm"}),
        ("0.10", {"content": "<think>hm</think>so"}),
    ):
        chats: list[Any] = []

        def answer(request: GenerationRequest, chats: list[Any] = chats) -> Answer:
            chats.append(request.chat)
            return Answer(["<think>hm", "</think>so"])

        with emulator(version=version, engine=answer) as server:
            peer = Peer(server)
            peer.create()
            peer.say("one")
            peer.say("two")
            assert chats[-1][1] == {"role": "assistant", **expected}


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
def test_messages_that_are_refused(
    peer: Peer, fields: dict[str, Any], status: int, message: str
) -> None:
    data = {name: peer.root if value == "root" else value for name, value in fields.items()}
    got = post(peer, form(data))
    assert (got.status, got.json["message"]) == (status, message)
    assert len(peer.messages()) == 1


def test_the_older_server_does_not_look_at_the_generation_id() -> None:
    with emulator(version="0.10") as server:
        peer = Peer(server)
        peer.create()
        assert peer.say("x", generationId="no UUID").final


def test_what_the_prompt_becomes(peer: Peer) -> None:
    peer.say("a\r\nb \ud83d c")
    assert peer.messages()[1]["content"] == "a\nb \ufffd c"


# The form


def post(peer: Peer, body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> Got:
    return peer.ask("POST", f"/conversation/{peer.conversation}", body, Content_Type=kind)


def test_a_form_is_read_strictly(peer: Peer) -> None:
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


def test_too_large_a_body(either: Peer) -> None:
    main = "conversation" in either.ask("POST", "/conversation", {"model": MODEL}).json
    got = post(either, form({"id": either.root, "inputs": "x" * (15 * 1024 * 1024)}))
    assert (got.status, got.json["message"]) == (413 if main else 500, "An error occurred")


# Files


def encoded(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_what_a_model_does_not_take_is_dropped_without_a_word() -> None:
    chats: list[Any] = []

    def answer(request: GenerationRequest) -> Answer:
        chats.append(request.chat)
        return Answer(" x")

    models = (Model("blind"), Model("seeing", multimodal=True))
    with emulator(engine=answer, models=models) as server:
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
    titled = [chat for chat in chats if chat[0]["role"] == "user"]
    assert [chat[0]["content"] for chat in titled] == ["See", seen]


def test_files_that_are_refused(peer: Peer) -> None:
    text = "text/plain"
    assert peer.say("x", None, ("other;x", text, b"eA==")).status == 500
    big = ("base64;big.txt", text, encoded(b"x" * (10 * 1024 * 1024 + 1)))
    got = peer.say("x", None, big)
    assert (got.status, got.json) == (413, {"message": "File too large, should be <10MB"})
    got = peer.say("x", None, ("hash;x", text, b"0" * 64))
    assert got.events[-1] == error(statusCode=404)


# The rest of the service


def test_the_list_has_thirty_on_a_page(peer: Peer) -> None:
    made = [peer.conversation, *(peer.create() for _ in range(30))]
    first, second = (peer.ask("GET", f"/api/v2/conversations?p={p}").value for p in (0, 1))
    assert (len(first["conversations"]), first["hasMore"]) == (30, True)
    assert (len(second["conversations"]), second["hasMore"]) == (1, False)
    listed = [item["id"] for item in first["conversations"] + second["conversations"]]
    assert sorted(listed) == sorted(made)
    assert peer.ask("DELETE", "/api/v2/conversations").value == 31


def test_sharing_is_on_unless_a_post_says_otherwise(peer: Peer) -> None:
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


def test_a_title_that_is_refused_in_the_newer_form(peer: Peer) -> None:
    path = f"/api/v2/conversations/{peer.conversation}"
    assert peer.ask("PATCH", path, {"title": " "}).value == {"success": True}
    for title in ("", "x" * 101, None):
        assert peer.ask("PATCH", path, {"title": title}).status == 400


def test_a_share_outlives_its_conversation_and_keeps_its_id_while_nothing_changes(
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
    assert "title" not in {event["type"] for event in other.say().events}  # it has one


def test_a_minute_of_silence_lifts_the_limit() -> None:
    now = [1_000_000.0]
    with emulator(rate_limit=1, clock=lambda: now[0]) as server:
        peer = Peer(server)
        peer.create()
        statuses = []
        for seconds in (0, 59, 59, 61):
            now[0] += seconds
            statuses.append(peer.say().status)
        assert statuses == [200, 429, 429, 200]
        assert peer.ask("GET", "/api/v2/conversations").status == 200


def test_limits_of_length() -> None:
    with emulator(message_length=3, max_messages=2) as server:
        peer = Peer(server)
        peer.create()
        got = peer.say("👋👋")
        assert (got.status, got.json) == (400, {"message": "Message too long."})
        assert peer.say("👋x").status == 200
        assert peer.say("x").status == 429


def test_a_retired_model(server: Emulator) -> None:
    second = server._service.models[1].name
    peer = Peer(server)
    peer.create(model=second)
    server.retire(second)
    got = peer.say()
    assert (got.status, got.json) == (410, {"message": "Model not available anymore"})


def test_the_origin_of_a_form(peer: Peer) -> None:
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
    # Of JSON it is not asked; but it has to be a URL for the newer endpoints.
    for origin, status in {"http://example.com": 200, "null": 500, None: 200}.items():
        assert peer.ask("GET", "/api/v2/models", Origin=origin).status == status
        assert peer.ask("POST", "/conversation", {"model": MODEL}, Origin=origin).status == 200


def test_a_bearer_token_without_a_cookie(peer: Peer) -> None:
    asked = partial(peer.ask, "GET", "/api/v2/models", Authorization="Bearer x")
    assert asked().status == 200
    assert asked(Cookie=None).status == 500
    with emulator(token="secret") as server:
        other = Peer(server)
        path = "/api/v2/feature-flags"
        assert other.ask("GET", path, Authorization="Bearer x").status == 401
        assert other.ask("GET", path, Authorization="Bearer secret", Cookie=None).status == 200


def test_a_session_that_is_logged_in() -> None:
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


def test_a_base_path() -> None:
    with emulator(base_path="/chat") as server:
        peer = Peer(server)
        peer.create()
        assert peer.say().final
        got = peer.ask("GET", "/api/v2/models/")
        assert (got.status, got.headers["location"]) == (308, "/chat/api/v2/models")
        peer.base = ""
        assert peer.ask("GET", "/api/v2/models").status == 404


# Scripts, engines, recordings


def test_faults_by_kind(peer: Peer) -> None:
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


def test_the_kinds_of_requests(peer: Peer) -> None:
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


def test_an_openai_server_is_asked_as_the_real_one_asks(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_text_generation_inference_server() -> None:
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


def test_a_model_in_this_process_gets_the_system_message_in_the_question() -> None:
    chat = [{"role": "system", "content": "P"}, {"role": "user", "content": "Hi"}]
    assert without_system(chat) == [{"role": "user", "content": "P\n\nHi"}]
    assert without_system(chat[1:]) == chat[1:]


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([delta(" x", "content_filter")], FINISHED),
        ([delta(" x", "stop")], FINISHED),
        ([delta(" x")], FINISHED),
        ([delta(" x"), "[DONE]"], FINISHED),
    ],
)
def test_how_an_answer_of_an_openai_server_ends(
    events: list[Any], end: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    with (
        running(OpenAIStub(events)) as model_server,
        emulator(engine=f"openai:{model_server.url}#m") as server,
    ):
        peer = Peer(server)
        peer.create()
        got = peer.say()
        assert got.events[-1] == end
        assert (got.final is not None) is ("stop" in str(events))


def test_thoughts_that_come_apart_become_a_part_of_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    events: list[Any] = [delta(None) for _ in "ab"]
    for event, text in zip(events, ("Let", " me."), strict=True):
        event["choices"][0]["delta"]["reasoning_content"] = text
    stub = OpenAIStub([*events, delta("Hello"), delta("!", "stop")])
    with (
        running(stub) as model_server,
        emulator(engine=f"openai:{model_server.url}#m") as server,
    ):
        peer = Peer(server)
        peer.create()
        got = peer.say()
    tokens = [event["token"].rstrip("\0") for event in got.events if event["type"] == "stream"]
    assert tokens == ["<think>Let", " me.", "</think>Hello", "!"]


def test_a_recorded_stop_waits_for_the_stop(tmp_path: Path) -> None:
    with emulator(record=tmp_path) as server:
        server.reply(SLOW)
        peer = Peer(server)
        peer.create()
        stream = peer.send("Hi")
        server.wait_held()
        peer.stop()
        whole = stream.rest().events
    with emulator(replay=tmp_path) as server:
        peer = Peer(server)
        peer.create()
        peer.last = lambda: peer.root  # type: ignore[method-assign]
        stream = peer.send("Hi")
        assert b"finalAnswer" not in stream.until('" b')
        peer.stop()
        assert stream.rest().events == whole[-2:]


def test_what_was_recorded_is_replayed(tmp_path: Path) -> None:
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
def test_what_it_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        emulator(**options)
