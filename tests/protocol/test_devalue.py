import contextlib
import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_client.errors import ProtocolError
from h2o_client.protocol.chat_ui_2023.devalue import unflatten


def read(text: str) -> Any:
    return unflatten(json.loads(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1", None),
        ("[null]", None),
        ("[true]", True),
        ('["x"]', "x"),
        ("[0.4]", 0.4),
        ("[2048]", 2048),
        ("[-1]", -1),
        ("[[]]", []),
        ("[{}]", {}),
        ("[[1,-1,2,1],3,4]", [3, None, 4, 3]),
        ('[{"a":1,"b":-1},[2],false]', {"a": [False], "b": None}),
        ('[[1,1],{"x":2},7]', [{"x": 7}, {"x": 7}]),
        (
            '[["Date","2026-11-20T17:00:06.835Z"]]',
            datetime(2026, 11, 20, 17, 0, 6, 835000, tzinfo=UTC),
        ),
    ],
)
def test_every_form_is_decoded(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_payload_is_not_modified() -> None:
    values = json.loads('[{"a":1,"b":3},[2,2],"x",["Date","2026-11-20T17:00:06.835Z"]]')
    before = json.dumps(values)
    unflatten(values)
    assert json.dumps(values) == before


@pytest.mark.parametrize(
    "text",
    [
        "null", "true", "0", "5", "-2", "-1.0", '"x"', "{}", "[]",
        "[[1]]", "[[-2]]", "[[1.0],2]", "[[true],2]", "[[null]]", "[[[1]],2]", '[{"a":"b"}]',
        '[{"a":[1]},2]', "[[99999999999999999999]]", "[[-99999999999999999999]]",
        '[[""]]', '[["__proto__","x"]]',
        '[["Date"]]', '[["Date",1],2]', '[["Date","yesterday"]]', '[["Date","2026-11-20"]]',
        '[["Date",""]]', '[["Date","2026-02-30T00:00:00.000Z"]]', '[["Date",null]]',
        '[["Date","+010000-01-01T00:00:00.000Z"]]', '[["Date","0000-01-01T00:00:00.000Z"]]',
        '[["Date","\\u0662026-11-20T17:00:06.835Z"]]',
    ],
)  # fmt: skip
def test_invalid_payload_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        read(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[["Set",1],2]', "'Set'"),
        ('[["Map",1,1],2]', "'Map'"),
        ('[["BigInt","1"]]', "'BigInt'"),
        ('[["RegExp","a"]]', "'RegExp'"),
        ('[["null","a",1],2]', "'null'"),
        ('[["Uint8Array","AQID"]]', "'Uint8Array'"),
        ("[[-3]]", "out of range for 1 entries"),
        ("[[-7,1,0,1],2]", "out of range for 2 entries"),
    ],
)
def test_unsupported_type_is_named(text: str, named: str) -> None:
    with pytest.raises(ProtocolError, match=named):
        read(text)


@pytest.mark.parametrize(
    "values",
    [
        [[0]],
        [{"self": 0}],
        [[1], [0]],
        [*([n + 1] for n in range(100_000)), []],
        [*([n + 1, n + 1] for n in range(30)), []],
        [[1] * 1000, [2] * 1000, [3] * 1000, []],
    ],
)
def test_cycles_depth_and_repetition_are_limited(values: list[Any]) -> None:
    with pytest.raises(ProtocolError, match="refers to itself"):
        unflatten(values)


def test_long_conversation_is_within_the_limits() -> None:
    count = 20_000
    messages: list[object] = [{"from": count + 1, "content": count + 2}] * count
    found = cast("list[Any]", unflatten([[n + 1 for n in range(count)], *messages, "user", "Hi"]))
    assert found == [{"from": "user", "content": "Hi"}] * count


def test_errors_name_positions_not_contents() -> None:
    with pytest.raises(ProtocolError) as caught:
        unflatten([{"a": "my secret prompt"}])
    assert "secret" not in str(caught.value)
    with pytest.raises(ProtocolError, match="entry 1 is not a valid date") as caught:
        unflatten([[1], ["Date", "my secret prompt"]])
    assert "secret" not in str(caught.value)


# A separate writer, which shares no code with the reader.


def flatten(value: object) -> object:
    entries: list[Any] = []
    places: dict[tuple[str, object], int] = {}

    def place_of(thing: Any) -> int:
        if thing is None:
            return -1
        is_plain = isinstance(thing, str | bool | int | float)
        key = (type(thing).__name__, thing if is_plain else id(thing))
        if key in places:
            return places[key]
        place = places[key] = len(entries)
        entries.append(None)
        if isinstance(thing, datetime):
            text = thing.astimezone(UTC).isoformat(timespec="milliseconds")
            entries[place] = ["Date", text.replace("+00:00", "Z")]
        elif isinstance(thing, dict):
            fields = cast("dict[str, object]", thing)
            entries[place] = {name: place_of(item) for name, item in fields.items()}
        elif isinstance(thing, list):
            entries[place] = [place_of(item) for item in cast("list[object]", thing)]
        else:
            entries[place] = thing
        return place

    root = place_of(value)
    return entries if root >= 0 else root


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-9, 9).map(lambda number: number + 0.0)  # -0.0 is not encoded as a number
    | st.text(max_size=8)
    | st.datetimes(timezones=st.just(UTC)).map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, fold=0)
    )
)
values_ = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)


@pytest.mark.slow
@given(values_)
def test_written_values_are_read_back(value: object) -> None:
    found = unflatten(json.loads(json.dumps(flatten(value))))
    assert repr(found) == repr(value)  # distinguishes 1, 1.0 and True


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(-2, 2)
    | st.sampled_from(["Set", "Map", "Date", "null"])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)
refs = st.integers(-8, 12)
entries_ = (
    st.integers(-9, 9)
    | st.text(max_size=3)
    | st.lists(refs, max_size=5)
    | st.dictionaries(st.text(max_size=2), refs, max_size=3)
    | st.builds(lambda rest: ["Date", *rest], st.lists(refs, max_size=2))
)


@pytest.mark.slow
@given(json_values | st.lists(json_values, max_size=8) | st.lists(entries_, max_size=12))
def test_any_payload_is_a_value_or_a_protocol_error(payload: object) -> None:
    with contextlib.suppress(ProtocolError):
        unflatten(payload)
