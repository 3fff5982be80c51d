import contextlib
import json
import math
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_client.errors import ProtocolError
from h2o_client.protocol.chat_ui_2023.devalue import RegExp, unflatten


def read(text: str) -> Any:
    return unflatten(json.loads(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1", None),
        ("-4", math.inf),
        ("-5", -math.inf),
        ("[null]", None),
        ("[true]", True),
        ('["x"]', "x"),
        ("[0.4]", 0.4),
        ("[2048]", 2048),
        ("[-1]", -1),
        ("[[]]", []),
        ("[{}]", {}),
        ("[[1,-1,2,1],3,4]", [3, None, 4, 3]),
        ("[[-2,1,-2],5]", [None, 5, None]),
        ('[{"a":1,"b":-1,"c":-4},[2],false]', {"a": [False], "b": None, "c": math.inf}),
        (
            '[["Date","2026-11-20T17:00:06.835Z"]]',
            datetime(2026, 11, 20, 17, 0, 6, 835000, tzinfo=UTC),
        ),
        ('[["Date",""]]', None),
        ('[["Date","+010000-01-01T00:00:00.000Z"]]', None),
        ('[["Date","-000001-01-01T00:00:00.000Z"]]', None),
        ('[["Date","0000-01-01T00:00:00.000Z"]]', None),
        ('[["Set"]]', set[object]()),
        ('[["Set",1,2,-1],"a","b"]', {"a", "b", None}),
        ('[["Set",1,2],1,true]', [1, True]),
        ('[["Set",1,2],{"x":2},7]', [{"x": 7}, 7]),
        ('[["Map"]]', dict[object, object]()),
        ('[["Map",1,2,3,4],"k",[3],"l",5]', {"k": ["l"], "l": 5}),
        ('[["Map",1,2,3,2],1,"x",true]', [(1, "x"), (True, "x")]),
        ('[["Map",1,2],[2],"x"]', [(["x"], "x")]),
        ('[["Map",1,2],["Date","2026-11-20T17:00:06.835Z"],"x"]', None),
        ('[["RegExp","a+","gi"]]', RegExp("a+", "gi")),
        ('[["RegExp","(?<n>x)"]]', RegExp("(?<n>x)")),
        ('[["Object","boxed"]]', "boxed"),
        ('[["Object",7]]', 7),
        ('[["Object",true]]', True),
        ('[["BigInt","-123456789012345678901234567890"]]', -123456789012345678901234567890),
        ('[["BigInt",12]]', 12),
        ('[["null"]]', {}),
        ('[["null","a",1,"__proto__",2],1,2]', {"a": 1, "__proto__": 2}),
        ('[["ArrayBuffer","AQID"]]', b"\x01\x02\x03"),
        ('[["Uint8Array","AQID"]]', (1, 2, 3)),
        ('[["Uint8Array",1],["ArrayBuffer","AQID"]]', (1, 2, 3)),
        ('[["Int16Array",1],["ArrayBuffer","//8BAA=="]]', (-1, 1)),
        ('[["Float64Array",1],["ArrayBuffer","AAAAAAAA8D8="]]', (1.0,)),
        ('[["URL","https://h2o.ai/"]]', "https://h2o.ai/"),
        ('[["Temporal.PlainDate","2026-11-20"]]', "2026-11-20"),
        ("[[-7,4,1,1,3,-1],9]", [None, 9, None, None]),
        ("[[-7,0]]", []),
    ],
)
def test_forms(text: str, value: object) -> None:
    if value is None and "Map" in text:
        value = {datetime(2026, 11, 20, 17, 0, 6, 835000, tzinfo=UTC): "x"}
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_numbers_that_json_lacks() -> None:
    assert math.isnan(read("-3"))
    assert math.isnan(read('[{"a":-3}]')["a"])
    assert math.copysign(1, read("-6")) == -1
    assert math.copysign(1, read("[[-6]]")[0]) == -1


def test_entries_are_revived_once() -> None:
    found = read('[{"a":1,"b":1,"c":2},{"x":3},[1],[]]')
    assert found["a"] is found["b"]
    assert found["c"][0] is found["a"]


def test_cycles() -> None:
    found = read('[{"self":0,"list":1},[0,1]]')
    assert found["self"] is found
    assert found["list"][0] is found
    assert found["list"][1] is found["list"]
    through_set = read('[["Set",0,1],5]')
    assert through_set[0] is through_set
    assert through_set[1] == 5
    through_map = read('[["Map",1,0],"me"]')
    assert through_map["me"] is through_map
    as_key = read('[["Map",0,0]]')
    assert as_key[0][0] is as_key


def test_depth_costs_no_recursion() -> None:
    depth = 100_000
    for values in (
        [[n + 1] for n in range(depth)],
        [{"x": n + 1} for n in range(depth)],
        [["Set", n + 1] for n in range(depth)],
        [["Map", n + 1, n + 1] for n in range(depth)],
    ):
        found: Any = unflatten([*values, []])
        steps = 0
        while found:
            found = found["x"] if isinstance(found, dict) else found[0]
            steps += 1
            if isinstance(found, tuple):
                found = cast("tuple[Any, Any]", found)[1]
        assert steps == depth


def test_payload_is_not_changed() -> None:
    values = json.loads('[{"a":1,"b":3},[2,2],"x",["Map",2,1]]')
    before = json.dumps(values)
    unflatten(values)
    assert json.dumps(values) == before


@pytest.mark.parametrize(
    "text",
    [
        "null", "true", "0", "5", "-2", "-7", "-8", "-1.0", '"x"', "{}", "[]",
        "[[1]]", "[[-8]]", "[[-7]]", '[{"a":-2}]', '[["Set",-2]]', "[[1.0],2]", "[[true],2]",
        '[[1,"x"],2]', "[[null]]", "[[[1]],2]", '[{"a":"b"}]', '[{"a":[1]},2]',
        "[[99999999999999999999]]", "[[-99999999999999999999]]",
        '[["Unknown",1],2]', '[[""]]', '[["Promise",1],2]', '[["__proto__","x"]]',
        '[["Date"]]', '[["Date",1],2]', '[["Date","yesterday"]]', '[["Date","2026-11-20"]]',
        '[["Date","2026-02-30T00:00:00.000Z"]]', '[["Date",null]]',
        '[["Date","\\u0662026-11-20T17:00:06.835Z"]]',
        '[["Map",1],2]', '[["null","a"]]', '[["null",1,1],2]', '[["null",["a"],1],2]',
        '[["Set",7]]', '[["Map",7,7]]', '[["Set",true]]', '[["Set",[1]]]',
        '[["RegExp"]]', '[["RegExp",1],2]', '[["RegExp","a",1],2]',
        '[["BigInt","1.5"]]', '[["BigInt",""]]', '[["BigInt"," 1"]]', '[["BigInt",1.5]]',
        '[["BigInt",true]]', '[["Object"]]', '[["Object",{}]]', '[["Object",[1]],2]',
        '[["Object",null]]',
        '[["ArrayBuffer",1],2]', '[["ArrayBuffer","A"]]', '[["ArrayBuffer","é"]]',
        '[["Uint8Array"]]', '[["Uint8Array",0]]', '[["Uint8Array",1],["Uint8Array",0]]',
        '[["Uint8Array",9]]', '[["Uint8Array",-1]]', '[["Uint16Array","AQID"]]',
        '[["Uint8Array",1,0,1],["ArrayBuffer","AQID"]]', '[["DataView",1],["ArrayBuffer",""]]',
        "[[-7,-1]]", "[[-7,1.5]]", '[[-7,"x"]]', "[[-7,2,2,1],5]", "[[-7,2,-1,1],5]",
        "[[-7,2,0],5]", "[[-7,2,true,1],5]", "[[-7,99999999999999]]",
    ],
)  # fmt: skip
def test_garbage(text: str) -> None:
    with pytest.raises(ProtocolError):
        read(text)


def test_garbage_that_json_cannot_hold() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    garbage: list[object] = [
        deep, [[deep]], [["Set", deep]], [["BigInt", deep]], [[10**5000]], 10**5000,
        [["BigInt", "9" * 5000]], object(), (1, 2), [object()], [{1, 2}],
    ]  # fmt: skip
    for values in garbage:
        with pytest.raises(ProtocolError):
            unflatten(values)


def test_few_bytes_cannot_ask_for_much_memory() -> None:
    with pytest.raises(ProtocolError, match="places"):
        unflatten([[n + 1 for n in range(1000)], *([[-7, 100_000]] * 1000)])
    buffer = ["ArrayBuffer", "AAAA" * 1000]
    with pytest.raises(ProtocolError, match="places"):
        unflatten([[n + 2 for n in range(1000)], buffer, *([["Uint8Array", 1]] * 1000)])


def test_errors_hold_places_not_contents() -> None:
    with pytest.raises(ProtocolError) as caught:
        unflatten([{"a": "my secret prompt"}])
    assert "secret" not in str(caught.value)
    with pytest.raises(ProtocolError, match="entry 1, a Date"):
        unflatten([[1], ["Date", "my secret prompt"]])


# A writer of our own: it shares no code with the reader.


def flatten(value: object) -> object:
    entries: list[Any] = []
    places: dict[tuple[str, object], int] = {}

    def place_of(thing: Any) -> int:
        if thing is None:
            return -1
        if isinstance(thing, float):
            if math.isnan(thing):
                return -3
            if math.isinf(thing):
                return -4 if thing > 0 else -5
            if thing == 0 and math.copysign(1, thing) < 0:
                return -6
        is_plain = isinstance(thing, str | bool | int | float)
        key = (type(thing).__name__, thing if is_plain else id(thing))
        if key in places:
            return places[key]
        place = places[key] = len(entries)
        entries.append(None)
        if isinstance(thing, datetime):
            text = thing.astimezone(UTC).isoformat(timespec="milliseconds")
            entries[place] = ["Date", text.replace("+00:00", "Z")]
        elif isinstance(thing, RegExp):
            entries[place] = [
                "RegExp",
                *([thing.source, thing.flags] if thing.flags else [thing.source]),
            ]
        elif isinstance(thing, dict):
            fields = cast("dict[object, object]", thing)
            if all(isinstance(name, str) for name in fields):
                entries[place] = {name: place_of(item) for name, item in fields.items()}
            else:
                pairs = [place_of(part) for pair in fields.items() for part in pair]
                entries[place] = ["Map", *pairs]
        elif isinstance(thing, frozenset | set):
            entries[place] = ["Set", *(place_of(item) for item in cast("set[Any]", thing))]
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
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.datetimes(timezones=st.just(UTC)).map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, fold=0)
    )
    | st.builds(RegExp, st.text(max_size=4), st.sampled_from(["", "g", "im"]))
)
# Python takes 1 and True as one key; that such ones become lists is shown above.
keys = st.integers(2, 9) | st.floats(0.1, 0.9) | st.text(max_size=3)
values_ = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.dictionaries(keys, inner, min_size=1, max_size=4)
        | st.sets(keys, max_size=4)
    ),
    max_leaves=25,
)


@given(values_)
def test_what_is_written_is_read(value: object) -> None:
    found = unflatten(json.loads(json.dumps(flatten(value))))
    assert found == value
    if "{" not in repr(value):  # sets have no order
        assert repr(found) == repr(value)  # which tells 1, 1.0 and True apart


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(-2, 2)
    | st.sampled_from(["Set", "Map", "Date", "null", "Object", "BigInt", "RegExp", "Uint8Array"])
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
    | st.builds(
        lambda tag, rest: [tag, *rest],
        st.sampled_from(["Set", "Map", "null", "Uint8Array", "Object", "BigInt"]),
        st.lists(refs, max_size=4),
    )
    | st.just(["ArrayBuffer", "AQID"])
)


@given(json_values | st.lists(json_values, max_size=8) | st.lists(entries_, max_size=12))
def test_anything_is_a_value_or_a_protocol_error(payload: object) -> None:
    with contextlib.suppress(ProtocolError):
        unflatten(payload)
