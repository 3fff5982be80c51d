import json
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from recorded import HELLO, Exchange, scenario, streams

from h2o_client.errors import (
    GenerationError,
    H2oError,
    InvalidRequestError,
    OverloadedError,
    ProtocolError,
)
from h2o_client.protocol.answer import raw_decode
from h2o_client.protocol.chat_ui_2023.answer import AnswerParser, Final
from h2o_client.protocol.lines import MAX_LINE, excerpt
from h2o_client.types import Token

END = (
    b'data:{"token":{"id":11,"text":"<|endoftext|>","logprob":-0.1,"special":true},'
    b'"generated_text":"","details":null}\n\n'
)


@dataclass(frozen=True)
class Outcome:
    """The result of reading a stream."""

    tokens: tuple[Token, ...]
    final: Final | None
    error: tuple[type[H2oError], str] | None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens if not token.special)


def read(*chunks: bytes, limit: int = MAX_LINE) -> Outcome:
    parser = AnswerParser(limit)
    tokens: list[Token] = []
    for chunk in chunks:
        tokens += parser.feed(chunk)
    tokens += parser.finish()
    final, error = parser.final, parser.error
    assert final is None or isinstance(final, Final)
    return Outcome(tuple(tokens), final, None if error is None else (type(error), str(error)))


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def event(text: str = "a", **more: object) -> bytes:
    token = {"id": 5, "text": text, "logprob": -0.5, "special": False}
    value = {"token": token, "generated_text": None, "details": None} | more
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data:" + text.encode() + b"\n\n"


# Captured streams.

ENDINGS = {
    "01_happy_path:2": (HELLO, "eos", None),
    "05_upstream_details:2": (HELLO, "eos", None),
    "05_upstream_empty:2": ("", "eos", None),
    "05_upstream_eos_in_text:2": (HELLO, "eos", None),
    "05_upstream_keepalive:2": (HELLO, "eos", None),
    "05_upstream_length:2": (HELLO, "length", None),
    "05_upstream_long_500:2": ("".join(f" w{n}" for n in range(500)), "eos", None),
    "05_upstream_newlines:2": (
        ' Line one\nLine "two"\n\n\tback\\slash </s> data: {"x":1}\u2028end \n',
        "eos",
        None,
    ),
    "05_upstream_unicode:2": (
        " Привет, мир! 你好，世界 👋🏽 👨\u200d👩\u200d👧\u200d👦 naïve café ＼(＾o＾)／ \xa0🇺🇦",  # noqa: RUF001 -- as captured
        "eos",
        None,
    ),
    "05_upstream_incomplete:2": (" Hello! I am a", None, "incomplete_generation"),
    "05_upstream_midstream_error:2": (" Hello! I am a", None, "generation"),
    "05_upstream_sse_overloaded:2": ("", None, "overloaded"),
    "05_upstream_sse_validation:2": ("", None, "validation"),
    "05_upstream_truncate:2": (" Hello! I am a", None, None),
    "05_upstream_truncate_clean:2": (" Hello! I am a", None, None),
    "05_upstream_truncate_midline:2": (" Hello! I am a", None, None),
    "08_parameters_upstream:3": (HELLO, "eos", None),
    "20_slow_stream_timing:2": ("".join(f" slow{n}" for n in range(60)), "eos", None),
    "11_stop_generating:3": ("".join(f" slow{n}" for n in range(15)), None, None),
    "17_disconnect:2": ("".join(f" slow{n}" for n in range(5)), None, None),
}


@pytest.mark.parametrize("place", ENDINGS)
def test_captured_stream_gives_its_text_and_ending(place: str) -> None:
    text, final, error = ENDINGS[place]
    name, index = place.split(":")

    parser = AnswerParser()
    tokens = [*parser.feed(scenario(name)[int(index)].body), *parser.finish()]

    assert "".join(token.text for token in tokens if not token.special) == text
    if final is None:
        assert parser.final is None
    else:
        assert isinstance(parser.final, Final)
        assert parser.final.token == tokens[-1]
        assert parser.final.token.special == (final == "eos")
    if error is None:
        assert parser.error is None
    else:
        assert type(parser.error) is {
            "overloaded": OverloadedError,
            "validation": InvalidRequestError,
        }.get(error, GenerationError)


def test_captured_chunks_and_single_bytes_give_the_same() -> None:
    exchange = scenario("05_upstream_unicode")[2]
    assert len(exchange.chunks) > 1
    assert b"".join(exchange.chunks) == exchange.body

    assert read(*exchange.chunks) == read(exchange.body)


@pytest.mark.parametrize("stream", streams(), ids=str)
def test_captured_tokens_are_returned_unchanged(stream: Exchange) -> None:
    expected = []
    for line in stream.body.decode().split("\n"):
        if line.startswith("data:") and line.endswith("}"):
            token = json.loads(line[5:]).get("token")
            if token is not None:
                expected.append(
                    Token(token["id"], token["text"], token["logprob"], token["special"])
                )

    assert list(read(stream.body).tokens) == expected


def test_requested_details_come_with_the_final_event() -> None:
    final = read(scenario("05_upstream_details")[2].body).final
    assert final is not None
    assert final.details == {"finish_reason": "eos_token", "generated_tokens": 22, "seed": 42}

    final = read(scenario("01_happy_path")[2].body).final
    assert final is not None
    assert final.details == {}


# Split input.


@pytest.mark.parametrize("stream", [s for s in streams() if len(s.body) < 1500], ids=str)
def test_stream_split_at_any_byte_gives_the_same(stream: Exchange) -> None:
    data = stream.body
    whole = read(data)
    for place in range(len(data) + 1):
        assert read(data[:place], data[place:]) == whole, place


@pytest.mark.parametrize("stream", streams(), ids=str)
def test_stream_fed_byte_by_byte_gives_the_same(stream: Exchange) -> None:
    assert read(*bytewise(stream.body)) == read(stream.body)


# Transformations by proxies.

DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "CR and LF mixed": lambda data: data.replace(b"\n\n", b"\r\n\n"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "a space after the colon": lambda data: data.replace(b"data:{", b"data: {"),
    "trailing spaces": lambda data: data.replace(b"}\n", b"} \t\n"),
    "comments": lambda data: data.replace(b"data:{", b": ping\n:\n\ndata:{"),
    "other fields": lambda data: data.replace(
        b"data:{", b"event: message\nid: 7\nretry: 10\nfoo\nData:x\ndata: {"
    ),
    "no empty lines": lambda data: data.replace(b"\n\n", b"\n"),
    "no last newline": lambda data: data.rstrip(b"\n"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize(
    "name",
    ["01_happy_path", "05_upstream_newlines", "05_upstream_empty", "05_upstream_midstream_error"],
)
def test_stream_transformed_by_a_proxy_gives_the_same(name: str, disguise: str) -> None:
    data = scenario(name)[2].body
    disguised = DISGUISES[disguise](data)
    assert disguised != data

    assert read(disguised) == read(data)
    assert read(*bytewise(disguised)) == read(data)


@given(
    stream=st.sampled_from([s for s in streams() if len(s.body) < 3000]),
    disguises=st.lists(st.sampled_from(sorted(DISGUISES)), max_size=3, unique=True),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_transformed_stream_may_be_split_anywhere(
    stream: Exchange, disguises: list[str], places: list[int]
) -> None:
    data = stream.body
    for disguise in disguises:
        data = DISGUISES[disguise](data)

    assert read(*cut(data, places)) == read(data)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_cr_and_lf_end_a_line(mark: str) -> None:
    # JSON requires control characters below U+0020 to be escaped: the line is complete, but
    # invalid.
    outcome = read(event(f"a{mark}b").replace(json.dumps(mark)[1:-1].encode(), mark.encode()), END)
    if mark >= " ":
        assert outcome.text == f"a{mark}b"
        assert outcome.error is None
    else:
        assert outcome.error is not None
        assert repr(mark)[1:-1] in outcome.error[1]


def test_byte_order_mark_split_over_chunks_is_ignored() -> None:
    assert read(b"\xef", b"\xbb", b"\xbf" + event("x"), END).text == "x"


def test_byte_order_mark_counts_only_at_the_start() -> None:
    # The line then belongs to an unknown field.
    assert read(event("x") + b"\xef\xbb\xbf" + event("y") + END).text == "x"


# The end of a stream.


def test_data_after_the_final_event_is_ignored() -> None:
    whole = event("x") + END
    for tail in (event("y"), END, b'data:{"error":"late"}\n\n', b"data:rubbish\n\n", b"\xff" * 99):
        assert read(whole + tail) == read(whole)
        assert read(whole, tail) == read(whole)


def test_final_event_needs_no_newline() -> None:
    assert read((event("x") + END).rstrip(b"\n")).final is not None


def test_final_event_may_contain_an_ordinary_token() -> None:
    outcome = read(event(" a"), event("b", generated_text=" ab"))
    assert outcome.text == " ab"
    assert outcome.final == Final(Token(5, "b", -0.5, False), {})


def test_stream_without_a_final_event_is_incomplete() -> None:
    for data in (b"", b"\n\n", b": only a comment\n\n", event("x")):
        outcome = read(data)
        assert outcome.final is None
        assert outcome.error is None


def test_input_after_an_error_is_ignored() -> None:
    parser = AnswerParser()
    assert [t.text for t in parser.feed(event("x") + b"data:rubbish\n" + event("y"))] == ["x"]
    assert isinstance(parser.error, ProtocolError)
    assert parser.ended
    assert parser.feed(event("z") + END) == []
    assert parser.finish() == []
    assert parser.final is None


def test_incomplete_last_line_is_a_cut_not_a_protocol_error() -> None:
    for length in range(1, len(event("y")) - 3):
        outcome = read(event("x") + event("y")[:length])
        assert (outcome.text, outcome.final, outcome.error) == ("x", None, None), length


# Errors.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"data:", "not JSON"),
        (b"data:{", "not JSON"),
        (b"data:[DONE]", "not JSON"),
        (b"data:<html>", "not JSON"),
        (b"data:{} {}", "more than one"),
        (b"data:1", "not a JSON object"),
        (b"data:[]", "not a JSON object"),
        (b"data:null", "not a JSON object"),
        (b'data:"text"', "not a JSON object"),
        (b"data:NaN", "not a JSON object"),
        (b"data:{}", "neither a token nor an error"),
        (b'data:{"error":null}', "neither a token nor an error"),
        (b'data:{"token":null,"generated_text":"x"}', "neither a token nor an error"),
        (b'data:{"token":[]}', "neither a token nor an error"),
        (b'data:{"token":{}}', "expected shape"),
        (b'data:{"token":{"id":"1","text":"a"}}', "expected shape"),
        (b'data:{"token":{"id":true,"text":"a"}}', "expected shape"),
        (b'data:{"token":{"id":1.5,"text":"a"}}', "expected shape"),
        (b'data:{"token":{"id":1,"text":null}}', "expected shape"),
        (b'data:{"token":{"id":1,"text":7}}', "expected shape"),
        (b'data:{"token":{"id":1,"text":"a","special":0}}', "expected shape"),
        (b'data:{"token":{"id":1,"text":"a","logprob":"x"}}', "expected shape"),
        (b'data:{"token":{"id":1,"text":"a"},"generated_text":7}', "not text"),
        (b'data:{"token":{"id":1,"text":"\xff"}}', "not JSON"),
        (b"data:\xed\xa0\x80", "not JSON"),
        (b"data:" + b"[" * 100_000, "not JSON"),
        (b'data:{"a":' * 50_000, "not JSON"),
        (b'data:{"token":{"id":' + b"9" * 5000 + b',"text":"a"}}', "not JSON"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_invalid_line_is_a_protocol_error_with_an_excerpt(line: bytes, words: str) -> None:
    outcome = read(event("x") + line + b"\n\n" + END)

    assert outcome.text == "x"
    assert outcome.final is None
    assert outcome.error is not None
    kind, text = outcome.error
    assert kind is ProtocolError
    assert words in text
    assert repr(line[:20].decode("utf-8", "backslashreplace"))[1:-1] in text
    assert len(text) < 400


def test_token_may_lack_optional_fields() -> None:
    outcome = read(b'data:{"token":{"id":1,"text":"a"}}\n' + END)
    assert outcome.tokens[0] == Token(1, "a", None, False)
    assert outcome.error is None


def test_logprob_may_be_an_integer() -> None:
    assert read(b'data:{"token":{"id":1,"text":"a","logprob":0}}\n').tokens[0].logprob == 0


@pytest.mark.parametrize("depth", [10, 500, 900, *range(960, 1000), 5000])
def test_error_event_may_be_nested_deeply(depth: int) -> None:
    # Near the recursion limit, it can be decoded but not encoded again.
    outcome = read(b'data:{"error":' + b"[" * depth + b"]" * depth + b"}\n")
    assert outcome.error is not None
    assert outcome.error[0] in (GenerationError, ProtocolError)


def test_error_event_has_the_servers_message_and_a_hint() -> None:
    outcome = read(scenario("05_upstream_sse_validation")[2].body)
    assert outcome.error is not None
    assert "`inputs` tokens + `max_new_tokens` must be <= 2048" in outcome.error[1]
    assert "change the prompt or the parameters" in outcome.error[1]


@pytest.mark.parametrize("kind", [b"7", b"null", b'"unheard-of"', b"{}"])
def test_unknown_error_event_is_an_error(kind: bytes) -> None:
    outcome = read(b'data:{"error":"x","error_type":' + kind + b"}\n")
    assert outcome.error is not None
    assert outcome.error[0] is GenerationError


def test_error_event_message_is_truncated() -> None:
    outcome = read(b'data:{"error":"' + b"x" * 100_000 + b'"}\n')
    assert outcome.error is not None
    assert len(outcome.error[1]) < 1000


# The line limit.


@pytest.mark.parametrize("step", [1, 7, 50, 99, 100, 101, 10_000])
@pytest.mark.parametrize("excess", [-1, 0, 1, 2, 50, 150])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_over_the_limit_is_an_error_however_it_is_split(
    step: int, excess: int, end: bytes
) -> None:
    short = b'data:{"token":{"id":1,"text":"x"}}'
    data = short + end + b":" * (100 + excess) + end + short + end
    parser = AnswerParser(limit=100)

    tokens = []
    for start in range(0, len(data), step):
        tokens += parser.feed(data[start : start + step])
    tokens += parser.finish()

    if excess > 0:
        assert [token.text for token in tokens] == ["x"]  # earlier tokens are not lost
        assert isinstance(parser.error, ProtocolError)
        assert "longer than 100 bytes" in str(parser.error)
    else:
        assert [token.text for token in tokens] == ["x", "x"]
        assert parser.error is None


def test_final_event_is_valid_whatever_follows_in_its_chunk() -> None:
    outcome = read(END + b"x" * 1000, limit=200)
    assert outcome.final is not None
    assert outcome.error is None


def test_default_line_limit_is_one_mebibyte() -> None:
    assert MAX_LINE == 2**20
    assert read(b":" + b"x" * (MAX_LINE - 1) + b"\n").error is None
    assert read(b":" + b"x" * MAX_LINE + b"\n").error is not None


def test_endless_line_uses_limited_memory() -> None:
    parser = AnswerParser()
    tracemalloc.start()
    try:
        for _ in range(256):
            parser.feed(bytes(64 * 1024))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(parser.error, ProtocolError)
    assert peak < 4 * MAX_LINE  # of 16 MiB


# Arbitrary input.

FRAGMENTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"data:",
            b"data: ",
            b":",
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\n",
            b"\xef\xbb\xbf",
            b"{",
            b"}",
            b"NaN",
            b"-Infinity",
            b"1e999",
            b'{"token":',
            b'{"id":1,"text":"',
            b'"\\ud800"',
            b'"generated_text":',
            b'data:{"error":{"message":[]}}',
            event("é\u2028"),
            event("é\u2028").replace(b":", b": "),
            event('"\\').replace(b"-0.5", b"-0.5e-3"),
            event("a")[:-9],
            event("a")[20:],
            event("x", generated_text=None, details=7),
            event("", generated_text="", details=[]),
            END,
        ]
    ),
)


@pytest.mark.slow
@given(pieces=st.lists(FRAGMENTS, max_size=20), limit=st.sampled_from([16, 120, MAX_LINE]))
@example(pieces=[b"data:", b"\xef\xbb\xbf", b"\r", b"\n"], limit=16)
def test_any_bytes_give_tokens_or_a_typed_error(pieces: list[bytes], limit: int) -> None:
    data = b"".join(pieces)
    outcome = read(data, limit=limit)

    assert outcome.error is None or outcome.error[0] in (GenerationError, ProtocolError)
    assert outcome.final is None or outcome.error is None
    assert repr(read(*pieces, limit=limit)) == repr(outcome)  # compare the repr, as NaN != NaN
    assert repr(read(*bytewise(data), limit=limit)) == repr(outcome)


def test_excerpt_is_short_and_printable() -> None:
    assert excerpt(b"abc") == "'abc'"
    assert excerpt(b"\xff\n") == repr("\\xff\n")
    assert excerpt(b"x" * 201) == repr("x" * 200) + "…"


USUAL = (
    b'data:{"token":{"id":5,"text":"%b","logprob":%b,"special":false},'
    b'"generated_text":null,"details":null}\n\n'
)


@pytest.mark.parametrize(
    ("text", "logprob"),
    [
        (b" Hello", b"-0.05"),
        (b"", b"0.0"),
        (" wörd 🙂\u2028\u0085".encode(), b"-1.1920929e-7"),
        (rb"\n\t\"\\\/\u00e9", b"-0.5"),
        (rb"\ud83d\ude42", b"-0.5"),
        (rb"\ud83d", b"-0.5"),  # a lone surrogate, which JSON allows
        (rb"\x41", b"-0.5"),
        (rb"\u12", b"-0.5"),
        (b"a\tb", b"-0.5"),
        (b"\xff\xfe", b"-0.5"),
        (b"\\\xff", b"-0.5"),
        (b"\xed\xa0\xbd", b"-0.5"),  # the same surrogate, which UTF-8 does not allow
        (b'"', b"-0.5"),
        (b"a", b"-00.5"),
        (b"a", b"-0."),
        (b"a", b"1e5"),
        (b"a", b"-1.0e-999"),
        (b"a", b"null"),
        (b"a", b"true"),
        (b'a","text":"b', b"-0.5"),
    ],
)
def test_fast_path_gives_the_same_as_the_slow_path(text: bytes, logprob: bytes) -> None:
    first, odd = event("first"), USUAL % (text, logprob)
    last = event("last", generated_text="")
    usual = read(first, odd, odd + odd, last)
    # Split input never contains a complete event, so it takes the slow path.
    assert usual == read(*bytewise(first + odd + odd + odd + last))
    assert usual == read(first + odd + odd + odd + last)
    decoded = AnswerParser()
    for data in (first, odd, odd + odd, last):
        decoded.feed(data)
    assert decoded.text.decode() == usual.text
    assert decoded.count == len(usual.tokens)


@pytest.mark.parametrize("first", [b"", b"\n", b"\r\n\r\n", b": comment\n\n", event("a")])
def test_fast_path_skips_a_byte_order_mark_only_at_the_start(first: bytes) -> None:
    mark = b"\xef\xbb\xbf"
    for pieces in ([first, mark + event("b"), event("c")], [first, event("b"), mark + event("c")]):
        data = b"".join(pieces)
        assert read(*pieces) == read(data) == read(*bytewise(data))


def test_fast_path_enforces_the_limits() -> None:
    odd = USUAL % (b"1234", b"-0.5")
    parser = AnswerParser(limit=len(odd) - 3)
    assert parser.feed(b": comment\n") == parser.feed(odd) == []
    assert isinstance(parser.error, ProtocolError)
    for pieces in ([odd * 11], [odd] * 11):
        parser = AnswerParser(longest=40)
        assert sum(len(parser.feed(piece)) for piece in pieces) == 10
        assert isinstance(parser.error, ProtocolError)
    parser = AnswerParser(longest=40)
    assert len(parser.feed(odd * 10)) == 10
    assert parser.error is None


def special(text: str) -> bytes:
    return event(token={"id": 6, "text": text, "logprob": -0.5, "special": True})


def test_read_on_returns_texts_until_the_flow_is_needed() -> None:
    parser = AnswerParser()
    assert parser.read_on(event("a")) == ["a"]
    assert parser.tokens() == [Token(5, "a", -0.5)]
    assert parser.tokens() == []
    assert parser.read_on(special("b") + event("") + event("c")) == ["c"]
    assert [token.text for token in parser.tokens()] == ["b", "", "c"]
    assert parser.read_on(b": comment\n\n") == []
    assert parser.tokens() == []
    assert parser.read_on(special("d")) == []
    assert [token.text for token in parser.tokens()] == ["d"]
    assert parser.read_on(event("e")) == ["e"]
    assert parser.read_on(b"") == []
    assert parser.tokens() == []  # not those of the previous read
    assert parser.read_on(event("f") + event("g", generated_text="abc")) == []
    assert [token.text for token in parser.tokens()] == ["f", "g"]
    assert parser.final is not None
    assert parser.read_on(event("h")) == []
    assert parser.tokens() == []


def test_unterminated_last_event_is_returned_once() -> None:
    parser = AnswerParser()
    assert parser.read_on(event("a") + event("b").rstrip()) == ["a"]
    assert [token.text for token in parser.finish()] == ["b"]
    assert parser.tokens() == []  # not "a", whose text was already returned


def test_read_on_leaves_errors_to_the_flow() -> None:
    parser = AnswerParser()
    assert parser.read_on(event("a")) == ["a"]
    assert parser.read_on(event("b") + b"data:nonsense\n\n") == []
    assert [token.text for token in parser.tokens()] == ["b"]
    assert isinstance(parser.error, ProtocolError)


def test_fast_path_reads_complete_events_of_a_split_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[str] = []

    def note(text: str) -> Any:
        decoded.append(text)
        return raw_decode(text)

    monkeypatch.setattr("h2o_client.protocol.chat_ui_2023.answer.raw_decode", note)
    answer = b"".join(USUAL % (b"%d" % number, b"-0.5") for number in range(1000))
    parser = AnswerParser()
    texts = [
        text
        for at in range(0, len(answer), 5000)
        for text in parser.read_on(answer[at : at + 5000])
    ]
    assert texts == [str(number) for number in range(1000)]
    assert len(decoded) <= len(answer) // 5000 + 2


# Lone surrogates.


def written(*texts: str, last: str | None = None, special: bool = True) -> list[bytes]:
    """Build events of these texts, with surrogates as escapes, and a final event."""
    events = [ESCAPED % json.dumps(text).encode() for text in texts]
    token = {"id": 7, "text": "</s>" if last is None else last, "logprob": -0.5, "special": special}
    final = {"token": token, "generated_text": "", "details": None}
    return [*events, b"data:" + json.dumps(final, separators=(",", ":")).encode() + b"\n\n"]


ESCAPED = (
    b'data:{"token":{"id":5,"text":%s,"logprob":-0.5,"special":false},'
    b'"generated_text":null,"details":null}\n\n'
)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a\ud83d", "\ude00b"], ["a", "😀b"]),
        (["\ud83d", "\ude00"], ["", "😀"]),
        (["\ud83d\ude00"], ["😀"]),
        (["\ud83d", "\ud83d", "\ude00"], ["", "\ufffd", "😀"]),
        (["\ud83d", "b"], ["", "\ufffdb"]),
        (["\ud83d", "", "\ude00"], ["", "", "😀"]),
        (["\ude00", "b"], ["\ufffd", "b"]),
        (["a\ud83d"], ["a", "\ufffd"]),
        (["a", "\ud83d\ude00\ud83d"], ["a", "😀", "\ufffd"]),
    ],
)
def test_surrogates_in_two_tokens_become_one_character(
    texts: list[str], expected: list[str]
) -> None:
    data = b"".join(written(*texts))
    for chunks in (written(*texts), [data], bytewise(data), cut(data, [9, 150, 300])):
        parser = AnswerParser()
        tokens = [token for chunk in chunks for token in parser.feed(chunk)]
        assert [token.text for token in tokens if not token.special] == expected
        assert parser.text.decode() == "".join(expected)
        assert parser.final is not None
        assert (
            parser.count == len(texts) + 1
        )  # a replacement for a lone surrogate is not a generated token


def test_read_on_joins_surrogates() -> None:
    parser = AnswerParser()
    parser.feed(event("first"))
    texts = [
        text
        for chunk in written("a\ud83d", "\ude00b", " c", " d")
        for text in parser.read_on(chunk)
    ]
    assert "".join(texts) == "a😀b c d"
    assert parser.text.decode() == "firsta😀b c d"


@pytest.mark.parametrize(
    ("first", "last", "joined"),
    [("\ud83d", "\ude00", "😀"), ("\ud83d", "x", "\ufffdx"), ("", "\ud83d", "\ufffd")],
)
def test_last_token_may_end_with_a_lone_surrogate(first: str, last: str, joined: str) -> None:
    tokens = read(*written(first, last=last, special=False)).tokens
    assert [token.text for token in tokens] == ["", joined]


def test_lone_surrogate_before_a_cut_is_omitted() -> None:
    parser = AnswerParser()
    parser.feed(written("a\ud83d")[0])
    parser.finish()
    assert parser.text == b"a"


def test_no_text_contains_a_lone_surrogate() -> None:
    outcome = read(*written("a", last="</s>\ud83d"))
    assert outcome.tokens[-1] == Token(7, "</s>\ufffd", -0.5, special=True)
    outcome = read(b'data:{"error":"no \\ud83d","error_type":"generation"}\n\n')
    assert outcome.error is not None
    assert "no \ufffd" in outcome.error[1]
