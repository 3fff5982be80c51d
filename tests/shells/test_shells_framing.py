"""The fast transport's parser of chunked bodies, and its detection of the end of a head."""

from collections.abc import Iterable
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_client._fast import framing
from h2o_client._fast.framing import Dechunker, HeadWatch

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def decoded(pieces: Iterable[bytes]) -> tuple[bytes, bool, bytes]:
    """Return the body, whether it ended, and the remaining bytes."""
    chunks = Dechunker()
    body = b""
    rest = b""
    for piece in pieces:
        if chunks.ended:
            rest += piece
        else:
            body += chunks.feed(piece)
            assert not chunks.error
    return body, chunks.ended, chunks.rest + rest


def by_h11(data: bytes) -> tuple[bytes, bool, bytes]:
    """Return the same as parsed by h11."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(HEAD + data)
    assert isinstance(client.next_event(), h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    ended = isinstance(event, h11.EndOfMessage)
    return body, ended, client.trailing_data[0] if ended else b""


SIZES = st.sampled_from(["%x", "%X", "0%x", "%x ", "%x\t", "%x;a=b", '%x; a="b" '])
CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), SIZES), max_size=6)
TRAILERS = st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"])


@pytest.mark.slow
@given(CHUNKS, TRAILERS, st.booleans(), st.sampled_from([b"", b"HTTP"]), st.lists(st.integers(0)))
def test_chunks_are_parsed_like_h11_does(
    chunks: list[tuple[bytes, str]], trailers: bytes, ended: bool, rest: bytes, places: list[int]
) -> None:
    body = b"".join((size % len(data)).encode() + b"\r\n" + data + b"\r\n" for data, size in chunks)
    if ended:
        body += b"0\r\n" + trailers + b"\r\n" + rest
    expected = by_h11(body)
    assert decoded([body]) == expected
    assert decoded(cut(body, places)) == expected
    assert decoded(body[at : at + 1] for at in range(len(body))) == expected


@pytest.mark.parametrize(
    ("body", "good"),
    [
        (b"x\r\n", b""),
        (b"\r\n", b""),
        (b"-1\r\n", b""),
        (b"0x1\r\na\r\n", b""),
        (b" 1\r\na\r\n", b""),
        (b"1 1\r\na\r\n", b""),
        (b"12345678901234567\r\n", b""),
        (b"1\r\nab\r\n", b"a"),
        (b"1\r\na\n\r\n", b"a"),
        (b"1\r\na\r\r\n", b"a"),
        (b"1\r\na\r\nHTTP/1.1 200 OK\r\n", b"a"),
    ],
)
def test_invalid_chunks_are_rejected(body: bytes, good: bytes) -> None:
    chunks = Dechunker()
    assert chunks.feed(body) == good
    assert chunks.error
    bytewise = Dechunker()
    given = b""
    for at in range(len(body)):
        given += bytewise.feed(body[at : at + 1])
        if bytewise.error:
            break
    assert (given, bytewise.error) == (good, chunks.error)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("start", [b"", b"1;", b"0\r\nA: "])
def test_endless_chunk_line_is_not_stored(size: int, start: bytes) -> None:
    chunks = Dechunker()
    chunks.feed(start)
    for _ in range((framing.MAX_LINE - 9) // size):
        assert not chunks.error
        chunks.feed(b"1" * size)
    chunks.feed(b"1" * 1001)
    assert chunks.error


def test_number_of_trailers_is_limited() -> None:
    chunks = Dechunker()
    chunks.feed(b"0\r\n")
    for _ in range(framing.MAX_TRAILERS // 4):
        assert not chunks.error
        chunks.feed(b"A: b\r\n")
    chunks.feed(b"A: b\r\n")
    assert chunks.error


def heads(*pieces: bytes) -> tuple[bytes, bool, bytes]:
    """Return the bytes passed on, whether a body was found, and the bytes held back."""
    watch = HeadWatch()
    watch.sent()
    given = b""
    for piece in pieces:
        given += watch.received(piece)
        if watch.at_body:
            return given, True, watch.take()
    return given, False, watch.held


@pytest.mark.parametrize("blank", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_head_ends_where_h11_ends_it(blank: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nA: b" + blank
    for body in (b"", b"1\r\na", blank):
        data = head + body
        assert heads(data) == (head, True, body)
        assert heads(head[:-1], head[-1:] + body) == (head, True, body)
        for at in range(1, len(head)):
            given, found, held = heads(data[:at], data[at:])
            assert (given, found, held) == (head, True, body)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 404 Not Found\r\n\r\n1\r\na\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.1 2000 OK\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
        b"\r\nHTTP/1.1 200 OK\r\n\r\nabc",
        b"\x05\x00\n\n",
        b"",
    ],
)
def test_other_heads_are_passed_on(data: bytes) -> None:
    assert heads(data) == (data, False, b"")
    assert heads(data[:1], data[1:]) == (data, False, b"")


def test_endless_head_is_not_stored() -> None:
    watch = HeadWatch()
    watch.sent()
    line = b"A: " + b"b" * 1000 + b"\r\n"
    assert watch.received(b"HTTP/1.1 200 OK\r\n")
    for _ in range(framing.MAX_HEAD // 1000 + 1):
        assert watch.received(line) == line
    assert watch.received(b"\r\nabc") == b"\r\nabc"
    assert not watch.at_body


def test_unsolicited_bytes_are_passed_on() -> None:
    watch = HeadWatch()
    assert watch.received(HEAD) == HEAD
    watch.sent()
    assert watch.received(HEAD + b"x") == HEAD
    watch.sent()  # held bytes are unread: no response is expected
    assert watch.take() == b"x"
    assert watch.received(HEAD) == HEAD
    assert not watch.at_body
