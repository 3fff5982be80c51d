"""Behaviour of 2025 servers that no recording shows: endings, stops, storing, reattaching."""

from __future__ import annotations

import re
from functools import partial
from http.client import IncompleteRead
from typing import Any
from uuid import uuid4

import pytest
from asked import eventually
from model_servers import Listener
from peer_2025 import (
    FINISHED,
    MODEL,
    SLOW,
    WORDS,
    Got,
    Peer,
    begun,
    error,
    follow,
    told,
)
from replay_2025 import tokens_of

from h2o_client.emulator import (
    Answer,
    GenerationRequest,
    Intervals,
)

# Stream


def test_tokens_are_padded_to_16_units(peer: Peer) -> None:
    tokens = ["a", " 👋", "x" * 15, "y" * 16, "z" * 20, "n\0"]
    peer.server.reply(tokens)
    got = peer.say()
    sent = [event["token"] for event in got.events if event["type"] == "stream"]
    padded = ["a" + "\0" * 15, " 👋" + "\0" * 13, "x" * 15 + "\0", "y" * 16, "z" * 20]
    assert sent == [*padded, "n" + "\0" * 15]
    assert got.final is not None
    assert got.final["text"] == "".join(tokens)  # a NUL in the model's own text is not padding
    assert rb'"a\u0000\u0000' in got.body


def test_split_surrogate_pairs_are_sent_unchanged(peer: Peer) -> None:
    peer.server.reply(["\ud83d", "\udc4b", " alone: \ud83d!"])
    got = peer.say()
    assert rb'"token":"\ud83d\u0000' in got.body
    assert rb'"token":"\udc4b\u0000' in got.body
    assert rb'alone: \ud83d!","interrupted"' in got.body  # two escapes for the complete pair, too
    assert peer.messages()[-1]["content"] == "👋 alone: \ufffd!"


def test_keep_alives_are_sent_while_the_model_is_silent(peer: Peer) -> None:
    peer.server.reply(Answer(" x", hold_after=0))
    stream = peer.send()
    for _ in range(5):
        stream.until("keepAlive")
    peer.server.release()
    assert b"finished" in stream.rest().body


def test_padding_spaces_follow_the_final_answer(peer: Peer) -> None:
    peer.server.reply(" x")
    body = peer.say().body
    assert re.search(rb'"interrupted":false}\n {4096}{"type"', body)
    assert body.count(b" " * 4096) == 1


def test_trailing_whitespace_is_stripped(peer: Peer) -> None:
    peer.server.reply([" one", " two", " \n"])
    got = peer.say()
    assert (got.text, got.final) == (
        " one two \n",
        {"type": "finalAnswer", "text": " one two", "interrupted": False},
    )
    assert peer.messages()[-1]["content"] == " one two"


def test_blank_answer_fails_after_its_final_answer(peer: Peer) -> None:
    peer.server.reply([" ", "\n"])
    kinds = [event.get("status", event["type"]) for event in peer.say().events]
    assert [kind for kind in kinds if kind not in {"title", "stream"}] == [
        "started",
        "finalAnswer",
        "error",
    ]
    assert peer.messages()[-1]["interrupted"] is False


def test_unreachable_model_server_is_an_error_event(peer: Peer) -> None:
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
def test_interrupted_answer_is_requested_again(
    peer: Peer, answer: Answer, text: str, streamed: str
) -> None:
    peer.server.reply(answer)
    got = peer.say()
    assert got.final == {"type": "finalAnswer", "text": text, "interrupted": False}
    assert got.text == streamed
    assert peer.messages()[-1]["content"] == text


def test_answer_interrupted_twice_is_stored_doubled(either: Peer) -> None:
    either.server.reply(Answer([" x", " y"], ending="cut"))
    got = either.say()
    assert got.events[-1] == error(message="terminated")
    assert got.text == " x y x y"
    stored = either.messages()[-1]
    assert stored["content"] == " x y x y"
    assert "interrupted" not in stored


def test_rejection_is_reported_after_six_attempts() -> None:
    engine = Listener(Answer(status=429, body={"error": "busy"}))
    with begun(engine=engine) as peer:
        assert peer.say().events[-1] == error(message="429 busy", statusCode=429)
    assert len([request for request in engine.asked if request.stream]) == 6


def test_response_stays_open_for_the_title(peer: Peer) -> None:
    peer.server.reply(Answer(" x", hold_title=True))
    stream = peer.send("What is this about?")
    peer.server.wait_held()
    assert b"title" not in stream.until("finalAnswer")
    assert peer.history()["title"] == "New Chat"
    peer.server.release()
    events = Got(200, stream.rest().body.lstrip(), {}).events
    assert events == [{"type": "title", "title": "What is this about?"}, FINISHED]
    assert peer.history()["title"] == "What is this about?"


def test_renamed_conversation_gets_no_other_title(peer: Peer) -> None:
    peer.ask("PATCH", f"/conversation/{peer.conversation}", {"title": "Mine"})
    assert "title" not in {event["type"] for event in peer.say().events}
    assert peer.history()["title"] == "Mine"


def test_first_words_become_the_title_if_the_model_gives_none() -> None:
    def answer(request: GenerationRequest) -> Answer:
        return Answer(" x") if request.stream else Answer(status=500)

    with begun(engine=answer) as peer:
        peer.say("one two three four five six")
        assert peer.history()["title"] == "one two three four five"


def test_turn_is_stored_before_the_response_ends() -> None:
    with begun(intervals=Intervals()) as peer:
        peer.server.reply(Answer(" x", store_delay=30.0))
        stream = peer.send()
        stream.until('"finished"')
        assert (peer.messages()[-1]["content"], peer.server.generating) == ("", 1)
        stream.close()


# Stops


def test_stop_truncates_the_answer_to_what_was_seen(either: Peer) -> None:
    """0.10 ignores what the client has seen."""
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
def test_stop_with_an_invalid_position_keeps_the_whole_answer(
    peer: Peer, point: dict[str, Any]
) -> None:
    name = str(uuid4())
    peer.server.reply(SLOW)
    stream = peer.send(generationId=name)
    peer.server.wait_held()
    if point.get("seenContentLength") not in {1, None}:
        point = {"generationId": name, **point}
    peer.stop(**point)
    assert stream.rest().final == {"type": "finalAnswer", "text": " a b", "interrupted": True}


def test_stop_ends_every_generation_of_the_conversation(
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


def test_stop_without_a_generation_ends_the_next_one(either: Peer) -> None:
    """Only on the newer server."""
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


def test_pending_stop_expires_after_five_seconds() -> None:
    now = [1_000_000.0]
    with begun(clock=lambda: now[0], stop_poll=0.0) as peer:
        for seconds, stopped in ((4.9, True), (5.1, False)):
            peer.stop()
            now[0] += seconds
            peer.server.reply(Answer([" a", " b"], hold_after=1))
            stream = peer.send()
            if not stopped:
                peer.server.wait_held()
                peer.server.release()
            final = stream.rest().final
            assert final is not None
            assert final["interrupted"] is stopped
            now[0] += 10


def test_effective_stop_does_not_affect_the_next_message(peer: Peer) -> None:
    peer.server.reply(SLOW, SLOW)
    stream = peer.send()
    peer.server.wait_held()
    peer.stop()
    stream.rest()
    stream = peer.send()
    peer.server.wait_held()
    peer.server.release()
    assert stream.rest().final == {"type": "finalAnswer", "text": " a b c d", "interrupted": False}


# Storing


def test_newer_server_stores_partial_text_periodically(peer: Peer) -> None:
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    eventually(lambda: peer.messages()[-1]["content"] == " a b")
    assert "interrupted" not in peer.messages()[-1]
    peer.server.release()
    stream.rest()


def test_only_the_question_is_stored_at_first() -> None:
    for version in ("main", "0.10"):
        with begun(version=version, intervals=Intervals()) as peer:
            peer.server.reply(SLOW)
            name = str(uuid4())
            stream = peer.send(generationId=name)
            peer.server.wait_held()
            question, answer = peer.messages()[1:]
            assert (question["content"], answer["content"]) == ("Hello", "")
            assert answer.get("generationId") == (name if version == "main" else None)
            stream.close()  # stored at once
            eventually(partial(has_text, peer, " a b"))
            peer.server.release()
            peer.server.wait_idle()
            assert peer.messages()[-1]["content"] == " a b c d"


def has_text(peer: Peer, text: str) -> bool:
    return bool(peer.messages()[-1]["content"] == text)


def test_rename_during_a_stream_is_lost(peer: Peer) -> None:
    peer.say()
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    peer.ask("PATCH", f"/conversation/{peer.conversation}", {"title": "Mine"})
    peer.server.release()
    stream.rest()
    assert peer.history()["title"] == "Hello"


def test_message_sent_twice_is_stored_twice(peer: Peer) -> None:
    name = str(uuid4())
    for _ in range(2):
        peer.say("same", peer.root, generationId=name)
    stored = peer.messages()
    assert [item.get("generationId") for item in stored] == [None, None, name, None, name]
    assert stored[0]["children"] == [stored[1]["id"], stored[3]["id"]]


# Reattaching


def test_client_can_reattach_during_a_stream(peer: Peer) -> None:
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
    # As often as needed, from any number.
    text, numbers, end = told(follow(peer, generationId=name).rest().body)
    assert (text, end) == (" a b c d", "completed")
    assert numbers == [*range(1, len(numbers) + 1)]
    for wrong in (-1, "x", ""):
        assert told(follow(peer, fromSeq=wrong).rest().body)[0] == " a b c d"
    assert told(follow(peer, fromSeq=len(numbers)).rest().body)[:2] == ("", [])


def test_reattached_client_can_be_cut(peer: Peer) -> None:
    peer.say()
    peer.server.cut(after=1, on="reattach")
    with pytest.raises(IncompleteRead) as caught:
        follow(peer).rest()
    assert caught.value.partial.startswith(b"id: 1\n")
    assert b"id: 2" not in caught.value.partial
    assert told(follow(peer, fromSeq=1).rest().body)[1][0] == 2
    with pytest.raises(ValueError, match="`on` must be `message`"):
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
def test_reattached_client_receives_the_ending(peer: Peer, answer: Answer, end: str) -> None:
    peer.server.reply(answer)
    peer.say()
    assert told(follow(peer).rest().body)[2] == end


def test_reattached_client_receives_a_stop(peer: Peer) -> None:
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    peer.stop()
    stream.rest()
    assert told(follow(peer).rest().body)[2] == "interrupted"


def test_older_server_does_not_support_reattaching() -> None:
    with begun(version="0.10") as peer:
        peer.say()
        got = follow(peer).rest()
        assert (got.status, got.headers["content-type"]) == (404, "text/html")


def test_reattached_client_can_disconnect(peer: Peer) -> None:
    peer.server.reply(SLOW)
    stream = peer.send()
    peer.server.wait_held()
    follow(peer).close()
    peer.server.release()
    stream.rest()
    peer.server.wait_idle()


# Lost clients


@pytest.mark.parametrize("answer", [Answer(WORDS, drop_after=2), Answer(WORDS)])
def test_generation_continues_after_the_client_is_lost(peer: Peer, answer: Answer) -> None:
    peer.server.reply(answer)
    if answer.drop_after is None:
        peer.server.cut(after=2)
    with pytest.raises(IncompleteRead) as caught:
        peer.say()
    assert tokens_of(caught.value.partial.decode()) == [" a", " b"]
    peer.server.wait_idle()
    assert peer.messages()[-1]["content"] == " a b c d"


def test_cut_can_be_at_any_byte(peer: Peer) -> None:
    for limit in (1, 40, 300, 3000):
        peer.server.reply(Answer(" x y", drop_after_bytes=limit))
        with pytest.raises(IncompleteRead) as caught:
            peer.say()
        assert len(caught.value.partial) == limit
        peer.server.wait_idle()
        assert peer.messages()[-1]["content"] == " x y"


def test_cut_can_be_before_the_headers(peer: Peer) -> None:
    peer.server.reply(Answer(" x", drop_after=0))
    with pytest.raises(ConnectionError):
        peer.say(None, peer.root, inputs="Hello")
    peer.server.wait_idle()
    assert peer.messages()[-1]["content"] == " x"
