import copy
import inspect
import pickle
from typing import Any

import pytest

import h2o_client
from h2o_client import errors
from h2o_client.errors import (
    GenerationError,
    H2oError,
    RedirectError,
    StatusError,
    StreamError,
    TransportError,
    TransportTimeoutError,
    UnsupportedServerError,
)

CLASSES: list[type[H2oError]] = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, H2oError)
]

# Every attribute with a value other than its default.
COMMON = {"partial": "Hal"}
STATUS = {"status": 418, "message": "words", "body": "{}", "retry_after": 2.5} | COMMON


def attributes_of(cls: type[H2oError]) -> dict[str, Any]:
    if issubclass(cls, RedirectError):
        elsewhere = {"location": "https://other/settings", "base_url": "https://other"}
        return {key: value for key, value in STATUS.items() if key != "retry_after"} | elsewhere
    if issubclass(cls, StatusError):
        return STATUS
    if issubclass(cls, TransportTimeoutError):
        return {"sent": False, "limit": "connect"} | COMMON
    if issubclass(cls, TransportError):
        return {"sent": False} | COMMON
    if issubclass(cls, UnsupportedServerError):
        return {"version": "0.7"} | COMMON
    if issubclass(cls, GenerationError):
        return {"error_type": "overloaded"} | COMMON
    return COMMON


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "way",
    [
        *(
            pytest.param(
                lambda error, n=protocol: pickle.loads(pickle.dumps(error, n)),
                id=f"pickle {protocol}",
            )
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_error_survives_pickling_and_copying(cls: type[H2oError], way: Any) -> None:
    attributes = attributes_of(cls)
    error = cls("what happened", **attributes)
    error.partial += "f"  # set later, as in the flows

    again = way(error)

    assert type(again) is cls
    assert again is not error
    assert str(again) == "what happened"
    assert again.args == ("what happened",)
    assert vars(again) == vars(error)
    for name, value in attributes.items():
        assert getattr(again, name) == ("Half" if name == "partial" else value)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_attribute_is_documented(cls: type[H2oError]) -> None:
    documented = "".join(base.__doc__ or "" for base in cls.__mro__ if base in CLASSES)
    for name in vars(cls("x")):
        assert f"{name}:" in documented


@pytest.mark.parametrize("cls", CLASSES)
def test_error_needs_only_a_message(cls: type[H2oError]) -> None:
    error = cls("what happened")
    assert error.partial == ""
    assert str(error) == "what happened"


def test_exception_tree_matches_its_documentation() -> None:
    assert errors.__doc__ is not None
    _, tree, *_ = errors.__doc__.split("\n\n")
    parents: list[str] = []
    documented: dict[str, str] = {}
    for line in tree.splitlines():
        drawn = line.removeprefix("    ").lstrip("│├└─ ")
        depth = (len(line) - 4 - len(drawn)) // 4
        name = drawn.split()[0]
        if depth:
            documented[name] = parents[depth - 1]
        parents[depth:] = [name]

    assert documented == {
        cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES if cls is not H2oError
    }


def test_all_errors_are_exported() -> None:
    for cls in CLASSES:
        assert getattr(h2o_client, cls.__name__) is cls
        assert cls.__name__ in h2o_client.__all__


def test_timeout_errors_are_builtin_timeout_errors() -> None:
    error = TransportTimeoutError("x")
    assert isinstance(error, TimeoutError)
    assert isinstance(error, TransportError)
    assert error.errno is None


@pytest.mark.parametrize(
    ("limit", "seconds", "sent", "words"),
    [
        ("connect", 10.0, False, "no connection was made within 10 seconds"),
        ("first_token", 120.0, True, "did not begin within 120 seconds"),
        ("idle", 0.5, True, "the server did not answer within 0.5 seconds"),
        ("idle", 1, True, "the server did not answer within 1 second ("),
        ("total", None, True, "the call did not finish in time"),
        ("cleanup", None, True, "the clean-up did not finish in time"),
    ],
)
def test_timeout_message_names_the_limit(
    limit: str, seconds: float | None, sent: bool, words: str
) -> None:
    error = TransportTimeoutError.exceeded(limit, seconds)
    assert error.limit == limit
    assert error.sent is sent
    assert words in str(error)
    assert f"Timeouts.{limit}" in str(error)


def test_timeout_message_after_partial_response() -> None:
    error = TransportTimeoutError.exceeded("idle", 1, begun=True)
    assert str(error) == "nothing more arrived within 1 second (Timeouts.idle)"


def test_cut_stream_and_lost_connection_are_distinct_errors() -> None:
    assert not issubclass(StreamError, TransportError)
    assert not issubclass(StatusError, TransportError)
