import collections
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import named

from h2o_client.errors import IncompleteStreamError, ProtocolError
from h2o_client.protocol.chat_ui_2023.web_search import WebSearchParser
from h2o_client.types import WebSearchEntry, WebSearchSource

QUERY = WebSearchEntry("update", "Generating search query")
CAPTURED = named("16_web_search", "web-search")


def stream(*lists: list[Any]) -> bytes:
    texts = (json.dumps({"messages": items}, ensure_ascii=False) for items in lists)
    return "".join(texts).encode()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def read(data: bytes, cuts: list[int] | None = None) -> tuple[list[WebSearchEntry], str | None]:
    parser = WebSearchParser()
    entries = [entry for piece in pieces(data, cuts or []) for entry in parser.feed(piece)]
    return entries, parser.result


def test_captured_search_is_read() -> None:
    parser = WebSearchParser()
    chunks = CAPTURED.chunks
    assert parser.feed(chunks[0]) == [QUERY]
    assert parser.result is None
    assert parser.feed(chunks[1]) == [
        WebSearchEntry("update", "Searching Google", (" stub search query",))
    ]
    with pytest.raises(IncompleteStreamError):
        parser.finish()
    assert parser.feed(chunks[2]) == [
        WebSearchEntry(
            "error",
            "An error occurred with the web search",
            ('"No Serper.dev or SerpAPI key found"',),
        ),
        WebSearchEntry("result"),
    ]
    assert parser.result == "6b007ca61090eb6ec94d784e"
    parser.finish()


def test_captured_model_server_failure_is_read() -> None:
    entries, result = read(named("16_web_search", "web-search, model server down").body)
    assert [entry.type for entry in entries] == ["update", "error", "result"]
    assert result == "6b007cb21090eb6ec94d7853"


@given(st.lists(st.integers(0, 10_000), max_size=20))
def test_captured_search_may_be_split_anywhere(cuts: list[int]) -> None:
    data = CAPTURED.body
    assert read(data, cuts) == read(data)


def test_captured_search_byte_by_byte() -> None:
    assert read(CAPTURED.body, list(range(len(CAPTURED.body)))) == read(CAPTURED.body)


texts = st.text(
    st.sampled_from('{}[]"\\ \n\téя👋\u2028:,') | st.characters(codec="utf-8"), max_size=12
)
steps = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["update", "error"]), "message": texts},
        optional={"args": st.lists(texts | st.integers(), max_size=3)},
    ),
    max_size=5,
)


@pytest.mark.slow
@given(steps, st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_any_search_may_be_split_anywhere(items: list[Any], cuts: list[int], whole: bool) -> None:
    grown = [items[: n + 1] for n in range(len(items))]
    if whole:
        grown.append([*items, {"type": "result", "id": "42"}])
    data = stream(*grown)
    entries, result = read(data, cuts)
    expected = [WebSearchEntry(i["type"], i["message"], tuple(i.get("args", ()))) for i in items]
    assert entries == expected + [WebSearchEntry("result")] * whole
    assert result == ("42" if whole else None)


def test_data_after_the_result_is_ignored() -> None:
    data = stream([{"type": "result", "id": "1"}, {"type": "update"}], [])
    parser = WebSearchParser()
    assert parser.feed(data + b"<html>") == [WebSearchEntry("result")]
    assert parser.feed(b"garbage" * 1000) == []
    assert parser.result == "1"


def test_sources_are_read() -> None:
    page = {"title": "Ann won", "link": "https://a.example/x", "hostname": "a.example"}
    entries, result = read(
        stream([{"type": "sources", "sources": [page, {**page, "title": None, "more": 1}]}])
    )
    assert entries == [
        WebSearchEntry(
            "sources",
            sources=(
                WebSearchSource("Ann won", "https://a.example/x", "a.example"),
                WebSearchSource("", "https://a.example/x", "a.example"),
            ),
        )
    ]
    assert result is None


def test_lone_surrogate_becomes_a_replacement_character() -> None:
    entries, _ = read(rb'{"messages":[{"type":"update","message":"a\ud83d","args":["\ude00"]}]}')
    assert entries == [WebSearchEntry("update", "a\ufffd", ("\ufffd",))]


def test_whitespace_between_objects_is_ignored() -> None:
    entries, result = read(b'\n{"messages":[]}\r\n \t{"messages":[{"type":"result","id":"1"}]}\n')
    assert entries == [WebSearchEntry("result")]
    assert result == "1"


def test_shorter_list_gives_nothing_new() -> None:
    first: list[Any] = [{"type": "update", "message": "a"}, {"type": "update", "message": "b"}]
    entries, _ = read(stream(first, first[:1], [*first, {"type": "new", "message": "c"}]))
    assert [entry.message for entry in entries] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "data",
    [
        b"<html>no search</html>",
        b"[]",
        b'"messages"',
        b"\xef\xbb\xbf{}",
        b"{}",
        b'{"message":"Internal Error"}',
        b'{"messages":{}}',
        b'{"messages":[}}',
        b'{"messages":[1]}',
        b'{"messages":[{}]}',
        b'{"messages":[{"type":1}]}',
        b'{"messages":[{"type":"update","message":1}]}',
        b'{"messages":[{"type":"update","args":"x"}]}',
        b'{"messages":[{"type":"result"}]}',
        b'{"messages":[{"type":"result","id":""}]}',
        b'{"messages":[{"type":"result","id":7}]}',
        b'{"messages":[{"type":"result","id":"../../admin"}]}',
        b'{"messages":[{"type":"sources","sources":{}}]}',
        b'{"messages":[{"type":"sources","sources":["x"]}]}',
        b'{"messages":[{"type":"sources","sources":[{"title":1,"link":"","hostname":""}]}]}',
        b'{"messages":[{"type":"update","message":"\xff"}]}',
        b'{"messages":[{"type":"update","args":[NaN]}]}',
        b'{"messages":[]},{"messages":[]}',
        b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
)
def test_invalid_search_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(data)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_object_size_is_limited(size: int) -> None:
    data = stream([{"type": "update", "message": "x" * 100}])
    exact = WebSearchParser(limit=len(data))
    assert sum(len(exact.feed(data[n : n + size])) for n in range(0, len(data), size)) == 1
    small = WebSearchParser(limit=len(data) - 1)
    with pytest.raises(ProtocolError, match="longer than"):
        collections.deque(small.feed(data[n : n + size]) for n in range(0, len(data), size))


def test_limit_applies_to_each_object() -> None:
    data = stream([{"type": "update", "message": "x" * 100}])
    parser = WebSearchParser(limit=len(data))
    assert len(parser.feed(data * 50)) == 1


@pytest.mark.slow
def test_work_is_linear() -> None:
    # Decoding after each byte would process 5 * 10**10 bytes here.
    data = stream([{"type": "update", "message": "x{[\\" * 60_000}])
    parser = WebSearchParser()
    entries = [entry for n in range(len(data)) for entry in parser.feed(data[n : n + 1])]
    assert len(entries) == 1


@pytest.mark.slow
def test_decoding_work_is_limited() -> None:
    data = stream([{"type": "update", "message": "}" * 60_000}])
    parser = WebSearchParser()
    with pytest.raises(ProtocolError):
        collections.deque(parser.feed(data[n : n + 1]) for n in range(len(data)))
