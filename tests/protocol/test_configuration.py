from typing import Any

import pytest
from world import World

from h2o_client.protocol.configuration import as_timeouts, check_headers
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.retries import Retries, as_retries
from h2o_client.types import DEFAULT_BASE_URL, DEFAULT_MODEL, Timeouts


def exchange_of(**arguments: Any) -> Exchange:
    return World(**{"session": None, **arguments}).exchange


def test_none_means_the_default() -> None:
    exchange = exchange_of(base_url=None)
    assert exchange.configuration.address.url == DEFAULT_BASE_URL == "https://gpt-gm.h2o.ai"
    assert exchange.model == DEFAULT_MODEL == "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
    assert exchange.configuration.timeouts == Timeouts()
    assert exchange.configuration.parameters == {}
    assert not exchange.session.accepted
    names = [name for name, _ in exchange.dialect.create(model="m").request.headers]
    assert "Authorization" not in names


def test_environment_supplies_missing_arguments() -> None:
    environ = {
        "H2O_CHAT_URL": "https://env/chat",
        "H2O_CHAT_MODEL": "env-model",
        "H2O_CHAT_TOKEN": "env-token",
    }
    exchange = exchange_of(base_url=None, environ=environ)
    assert exchange.configuration.address.url == "https://env/chat"
    assert exchange.configuration.model == "env-model"
    request = exchange.dialect.create(model="m").request
    assert ("Authorization", "Bearer env-token") in request.headers

    exchange = exchange_of(base_url="https://own", model="own-model", environ=environ)
    assert exchange.configuration.address.url == "https://own"
    assert exchange.configuration.model == "own-model"


def test_empty_variable_is_ignored() -> None:
    environ = {"H2O_CHAT_URL": "", "H2O_CHAT_MODEL": "", "H2O_CHAT_TOKEN": ""}
    exchange = exchange_of(base_url=None, environ=environ)
    assert exchange.configuration.address.url == DEFAULT_BASE_URL
    assert exchange.model == DEFAULT_MODEL
    assert "Authorization" not in dict(exchange.dialect.create(model="m").request.headers)


@pytest.mark.parametrize("around", ["%s ", " %s", "%s\n", "\t%s\r\n"])
def test_token_is_stripped(around: str) -> None:
    environ = {"H2O_CHAT_TOKEN": around % "hunter2"}
    request = exchange_of(environ=environ).dialect.create(model="m").request
    assert ("Authorization", "Bearer hunter2") in request.headers


def test_session_of_the_environment_is_resumed() -> None:
    for environ, cookie in (
        ({"H2O_CHAT_SESSION": " hunter2\n"}, "hf-chat=hunter2"),
        ({"H2O_CHAT_SESSION": "name=hunter2"}, "name=hunter2"),
    ):
        exchange = exchange_of(environ=environ)
        assert exchange.session.cookie == cookie
        assert exchange.session.accepted
        assert exchange.session.shared
    assert exchange_of(session="own", environ=environ).session.cookie == "hf-chat=own"
    assert not exchange_of(environ={"H2O_CHAT_SESSION": " "}).session.accepted


def test_invalid_session_of_the_environment_is_not_shown() -> None:
    with pytest.raises(ValueError, match="H2O_CHAT_SESSION is not valid") as caught:
        exchange_of(environ={"H2O_CHAT_SESSION": "hunter2;"})
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize("token", [" ", "\n", "\t "])
def test_blank_token_is_ignored(token: str) -> None:
    exchange = exchange_of(environ={"H2O_CHAT_TOKEN": token})
    assert "Authorization" not in dict(exchange.dialect.create(model="m").request.headers)


@pytest.mark.parametrize("token", ["hunter2\x00", "hunter2\r\nX: y", "hunter2ü", "hunter2\x7f"])
def test_invalid_token_is_rejected_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="H2O_CHAT_TOKEN") as caught:
        exchange_of(environ={"H2O_CHAT_TOKEN": token})
    assert "hunter2" not in repr(caught.value)


def test_resumed_session_is_opened_only_to_turn_off_sharing() -> None:
    assert exchange_of(session="abc").session.accepted
    assert exchange_of(session="abc", share_conversations=True).session.accepted
    assert not exchange_of(session="abc", share_conversations=False).session.accepted


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"base_url": "ftp://host"}, ValueError, "base_url"),
        ({"base_url": 7}, TypeError, "base_url"),
        # Only None means the default: empty and false values are deliberate.
        ({"base_url": ""}, ValueError, "base_url"),
        ({"base_url": False}, TypeError, "base_url"),
        ({"base_url": "", "environ": {"H2O_CHAT_URL": "https://env"}}, ValueError, "base_url"),
        ({"model": ""}, ValueError, "model"),
        ({"model": False}, TypeError, "model"),
        ({"model": "", "environ": {"H2O_CHAT_MODEL": "env"}}, ValueError, "model"),
        ({"session": ""}, ValueError, "session"),
        ({"timeouts": False}, TypeError, "timeouts"),
        ({"retries": False}, TypeError, "attempts"),
        ({"headers": []}, TypeError, "headers"),
        ({"headers": ""}, TypeError, "headers"),
        ({"headers": False}, TypeError, "headers"),
        ({"parameters": []}, TypeError, "parameters"),
        ({"parameters": ""}, TypeError, "parameters"),
        ({"parameters": False}, TypeError, "parameters"),
        ({"recover": "no"}, TypeError, "recover"),
        ({"recover": 0}, TypeError, "recover"),
        ({"recover": ""}, TypeError, "recover"),
        ({"environ": {"H2O_CHAT_URL": "no url"}}, ValueError, "H2O_CHAT_URL must .* 'no url'"),
        ({"model": " "}, ValueError, "model"),
        ({"model": 7}, TypeError, "model"),
        ({"session": "a b"}, ValueError, "session"),
        ({"session": 7}, TypeError, "session"),
        ({"share_conversations": "false"}, TypeError, "share_conversations"),
        ({"share_conversations": 0}, TypeError, "share_conversations"),
        ({"timeouts": 0}, ValueError, "timeouts"),
        ({"timeouts": "30"}, TypeError, "timeouts"),
        ({"retries": -1}, ValueError, "attempts"),
        ({"retries": "3"}, TypeError, "attempts"),
        ({"headers": [("a", "b")]}, TypeError, "headers"),
        ({"headers": {"a": 1}}, TypeError, "headers"),
        ({"headers": {"a b": "c"}}, ValueError, "header"),
        ({"parameters": [1]}, TypeError, "parameters"),
        ({"parameters": {"a": float("nan")}}, ValueError, "parameter"),
        ({"environ": {"H2O_CHAT_TOKEN": "a\nb"}}, ValueError, "H2O_CHAT_TOKEN"),
        ({"environ": {"H2O_CHAT_TOKEN": "ü"}}, ValueError, "H2O_CHAT_TOKEN"),
    ],
)
def test_invalid_client_argument_is_rejected(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        exchange_of(**{"base_url": None, **arguments})


@pytest.mark.parametrize(
    ("value", "timeouts"),
    [
        (None, Timeouts()),
        (30, Timeouts(connect=10.0, first_token=30, idle=30)),
        (30.0, Timeouts(connect=10.0, first_token=30.0, idle=30.0)),
        (2.5, Timeouts(connect=2.5, first_token=2.5, idle=2.5)),
        (Timeouts(total=1), Timeouts(total=1)),
    ],
)
def test_timeouts_may_be_a_number(value: Timeouts | float | None, timeouts: Timeouts) -> None:
    assert as_timeouts(value) == timeouts


def test_defaults_of_timeouts() -> None:
    assert Timeouts() == Timeouts(connect=10, first_token=120, idle=60, total=None, cleanup=5)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (True, TypeError),
        ("30", TypeError),
        ((1, 2), TypeError),
    ],
)
def test_invalid_timeouts_are_rejected(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeouts"):
        as_timeouts(value)


@pytest.mark.parametrize(
    ("value", "retries"),
    [
        (None, Retries()),
        (0, Retries(attempts=0)),
        (3, Retries(attempts=3)),
        (Retries(cap=1), Retries(cap=1)),
    ],
)
def test_retries_may_be_a_number(value: Retries | int | None, retries: Retries) -> None:
    assert as_retries(value) == retries


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Key", "hunter2\r\nX: y"),
        ("X-Key", "hunter2\x00"),
        ("X-Key", "hunter2\x7f"),
        ("X-Key", "hunter2 ü"),  # httpx encodes ASCII, and would fail too late
        ("X-Key", "hunter2\u2028"),
        (
            "X-Key",
            "hunter2 ",
        ),  # trailing spaces are not part of the value in HTTP, and h11 rejects them
        ("X-Key", " hunter2"),
        ("X-Key", "hunter2\t"),
        ("X-Key", "hunter2\n"),
    ],
)
def test_invalid_header_is_rejected_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        check_headers({name: value})
    assert "hunter2" not in repr((caught.value, caught.value.__context__, caught.value.__cause__))


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ü", "a\n", "(a)"])
def test_invalid_header_name_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        check_headers({name: "x"})


def test_valid_headers_are_kept_unchanged() -> None:
    headers = {"X-Key": "a\tb c~", "x_y": ""}
    assert check_headers(headers) == headers


@pytest.mark.parametrize("session", ["hunter3", None])
def test_repr_shows_no_secrets(session: str | None) -> None:
    exchange = exchange_of(
        base_url="https://user:hunter2@host",
        session=session,
        headers={"X-Key": "hunter4"},
        environ={"H2O_CHAT_TOKEN": "hunter5", "H2O_CHAT_SESSION": "hunter6"},
    )
    for thing in (
        exchange,
        exchange.configuration,
        exchange.dialect,
        exchange.session,
        exchange.configuration.address,
    ):
        assert "hunter" not in repr(thing)
        assert "hunter" not in str(thing)
