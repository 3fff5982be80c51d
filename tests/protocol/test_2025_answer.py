"""The parser of 2025 answers, fed with recorded streams."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from recorded import Exchange, lines, named, newer

from h2o_client.errors import GenerationError, H2oError, ProtocolError, RateLimitError
from h2o_client.protocol.answer import MAX_TEXT
from h2o_client.protocol.chat_ui_2025.answer import AnswerParser
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.tokens import shown_texts
from h2o_client.types import Event, Revision, Token

MAIN = "chat-ui-main-2026-08"
STREAMS = [
    exchange
    for exchange in newer()
    if exchange.status == 200
    and dict(exchange.headers).get("content-type") == "application/jsonl"
    and exchange.ended == "final-chunk"
]


def read(*pieces: bytes, text: bytearray | None = None, again: bool = False) -> Any:
    """Feed a parser; its tokens are in `tokens_seen`."""
    parser = AnswerParser(bytearray() if text is None else text, reattached=again)
    tokens: list[Token] = []
    for piece in pieces:
        tokens += parser.feed(piece)
    tokens += parser.finish()
    return parser, tokens


def event(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n"


def stream(text: str) -> bytes:
    return event("stream", token=text.ljust(16, "\0"))


def final(text: str, *, interrupted: object = False) -> bytes:
    return event("finalAnswer", text=text, interrupted=interrupted) + b" " * 4096


FINISHED = event("status", status="finished")


def pieces(body: bytes, size: int) -> Iterable[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("exchange", STREAMS, ids=str)
@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_recorded_stream_is_read_however_it_is_split(exchange: Exchange, size: int) -> None:
    events = lines(exchange)
    answers = [each for each in events if each["type"] == "finalAnswer"]
    failed = [each for each in events if each.get("status") == "error"]
    parser, tokens = read(*pieces(exchange.body, size))
    whole = bool(answers) and not failed and answers[0]["interrupted"] is False
    assert (parser.final is not None) == whole
    if whole:
        text = (
            answers[0]["text"].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        )
        assert parser.text.decode() == text
        given = "".join(shown_texts(tokens))
        revisions = [token for token in tokens if isinstance(token, Revision)]
        assert parser.revised == bool(revisions)
        assert parser.revised or given.rstrip(JS_SPACE) == text
        assert all(token.text == text for token in revisions)
    if failed:
        assert parser.error is not None
    titles = [each["title"] for each in events if each["type"] == "title"]
    assert parser.title == (titles[0] if titles else None)


def test_second_attempt_in_a_stream_is_a_revision() -> None:
    exchange = named("07_upstream_cut_once_1", "message", MAIN)
    parser, tokens = read(exchange.body)
    assert parser.final is not None
    assert parser.revised
    given = "".join(shown_texts(tokens))
    text = "Hello! I am a stub of an OpenAI-compatible server, running on loopback. How can I help?"
    assert given.startswith("Hello! I am aHello! I am a stub")
    assert tokens[-1] == Revision(text)
    assert parser.text.decode() == text


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("07_upstream_cut", GenerationError),
        ("07_upstream_midstream_error", GenerationError),
        ("07_upstream_empty", GenerationError),
        ("07_upstream_error_400", GenerationError),
        ("07_upstream_error_429", RateLimitError),
    ],
)
def test_error_event_raises_its_class(scenario: str, error: type[H2oError]) -> None:
    parser, _ = read(named(scenario, "message", MAIN).body)
    assert type(parser.error) is error
    assert parser.final is None


@pytest.mark.parametrize(
    "scenario", ["07_upstream_cut_clean", "07_upstream_no_finish", "07_upstream_filter"]
)
def test_finished_event_alone_does_not_complete_the_answer(scenario: str) -> None:
    parser, tokens = read(named(scenario, "message", MAIN).body)
    assert parser.final is None
    assert parser.error is None
    assert parser.ended
    assert tokens


def test_empty_answer_is_complete_unless_an_error_follows() -> None:
    parser, _ = read(stream(" "), final(""), event("status", status="error", message="No output"))
    assert parser.final is None
    assert isinstance(parser.error, GenerationError)
    parser, _ = read(stream(" "), final(""))
    assert parser.final is None  # it may have been in transit
    parser, _ = read(final(""), FINISHED)
    assert parser.final is not None


def test_answer_stopped_by_another_client_is_an_error() -> None:
    parser, _ = read(stream("a"), final("a", interrupted=True), FINISHED)
    assert parser.final is None
    assert isinstance(parser.error, GenerationError)


@pytest.mark.parametrize("size", [1, 10**6])
def test_surrogate_pair_split_over_tokens_is_joined(size: int) -> None:
    body = b"".join(
        b'{"type":"stream","token":"%s%s"}\n' % (half, rb"\u0000" * 15)
        for half in (rb"\ud83d", rb"\udc4b", rb"\ud83d", b"x")
    )
    _, tokens = read(*pieces(body, size))
    assert shown_texts(tokens) == ["👋", "\ufffdx"]


def test_padding_is_removed_and_other_nuls_are_kept() -> None:
    _, tokens = read(stream("a\0b"), stream(""), stream('"\\'), stream("x" * 20))
    assert shown_texts(tokens) == ["a\0b", '"\\', "x" * 20]


def test_final_answer_supplies_missing_text() -> None:
    parser, tokens = read(stream("ab"), final("abc"), FINISHED)
    assert shown_texts(tokens) == ["ab", "c"]
    assert not parser.revised


def test_unknown_events_are_returned_unchanged() -> None:
    tool = {"type": "tool", "subtype": "call", "call": {"name": "\ud83dx"}}
    _, tokens = read(stream("a"), json.dumps(tool).encode() + b"\n", stream("b"), final("ab"))
    assert [token for token in tokens if isinstance(token, Event)] == [tokens[1]]
    assert isinstance(tokens[1], Event)
    assert tokens[1].data == {"type": "tool", "subtype": "call", "call": {"name": "\ufffdx"}}
    assert shown_texts(tokens) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>\n",
        b"[1]\n",
        b'{"type":"stream"}\n',
        b'{"type":"stream","token":1}\n',
        b'{"type":"finalAnswer","text":null,"interrupted":false}\n',
        b'{"type":"status","status":"started"} {}\n',
        b'{"type":"stream","token":"\xff"}\n' * 2,
        b"x" * (1024 * 1024 + 1),
    ],
)
def test_invalid_event_is_a_protocol_error(body: bytes) -> None:
    parser, _ = read(stream("a"), body, final("a"))
    assert isinstance(parser.error, ProtocolError)
    assert parser.final is None


@pytest.mark.slow
@pytest.mark.parametrize("reads", [1, 65], ids=["one read", "a read for each event"])
def test_endless_answer_is_an_error(reads: int) -> None:
    token = stream("x" * (MAX_TEXT // 64))
    parser, _ = read(*[token * (65 // reads)] * reads, stream("b"))
    assert isinstance(parser.error, ProtocolError)
    assert len(parser.text) <= MAX_TEXT


def test_muted_parser_ignores_further_input() -> None:
    parser = AnswerParser(bytearray())
    parser.feed(stream("a"))
    parser.mute()
    assert parser.feed(stream("b") + final("ab")) == []
    assert parser.read_on(stream("c")) == []
    assert parser.text == b"a"


@pytest.mark.parametrize("given", range(0, 60, 7))
@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_reattached_stream_continues_in_the_middle_of_a_word(given: int, size: int) -> None:
    exchange = next(
        each
        for each in newer()
        if "/stream?" in each.path and each.name.startswith("GET") and each.status == 200
    )
    text = "".join(f" w{n}" for n in range(30))
    parser, tokens = read(
        *pieces(exchange.body, size), text=bytearray(text[:given].encode()), again=True
    )
    assert "".join(shown_texts(tokens)) == text[given:]
    assert parser.text.decode() == text
    assert parser.final is not None
    assert not parser.revised


def test_expired_generation_has_no_answer() -> None:
    parser, tokens = read(
        named("06_disconnect", "reattach, unknown generationId", MAIN).body, again=True
    )
    assert (parser.final, parser.error, tokens) == (None, None, [])
