import re
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import scenario

from h2o_client.protocol.session import Session, parse_session

OURS = "8f865e55-c1d9-405d-860b-4b2de8fb56a0"
OTHER = "11111111-2222-4333-8444-555555555555"


def test_new_session_has_the_chosen_value() -> None:
    session = Session(None, OURS)
    assert session.cookie == f"hf-chat={OURS}"
    assert session.export() == OURS
    assert not session.accepted


def test_resumed_session_counts_as_accepted() -> None:
    session = Session(OTHER, OURS)
    assert session.cookie == f"hf-chat={OTHER}"
    assert session.accepted


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (OURS, "hf-chat", OURS),
        ("anything", "hf-chat", "anything"),
        (f"h2o={OURS}", "h2o", OURS),
        ("h2o=a=b==", "h2o", "a=b=="),
        ("hf-chat=abc=", "hf-chat", "abc="),
        ("x" * 512, "hf-chat", "x" * 512),
    ],
)
def test_session_can_be_resumed_from_any_form(text: str, name: str, value: str) -> None:
    assert parse_session(text) == (name, value)
    again = Session(Session(text, OURS).export(), OURS)
    assert (again.name, again.value) == (name, value)


@given(st.text(alphabet='ab="; ,\\\x00é-', max_size=12))
def test_exported_session_can_be_resumed(text: str) -> None:
    try:
        session = Session(text, OURS)
    except ValueError:
        return
    assert Session(session.export(), OURS).cookie == session.cookie
    assert re.fullmatch(r"[^\s;,\"\\]+=[^\s;,\"\\]+", session.cookie)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "=secret",
        "hf-chat=",
        "sec ret",
        "secret;x",
        "secret\r\nX: y",
        'a="secret"',
        "sécret",
        "a,b",
        "na me=secret",
        "secret" + "x" * 512,
    ],
)
def test_invalid_session_is_rejected_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="session is not valid") as caught:
        Session(text, OURS)
    assert "ecret" not in repr(caught.value)


@pytest.mark.parametrize("text", [7, b"secret", OURS.encode()])
def test_session_of_a_wrong_type_is_rejected_and_not_shown(text: object) -> None:
    with pytest.raises(TypeError, match="session must be a string") as caught:
        Session(cast("str", text), OURS)
    assert "secret" not in repr(caught.value)


def test_repr_does_not_show_the_session_id() -> None:
    session = Session(OURS, OTHER)
    assert repr(session) == str(session) == "<Session accepted=True>"


# The session in Set-Cookie.


@pytest.mark.parametrize(
    ("set_cookies", "cookie"),
    [
        ([], f"hf-chat={OURS}"),
        ([f"hf-chat={OURS}; Path=/; HttpOnly; Secure"], f"hf-chat={OURS}"),
        ([f"h2o={OURS}; Path=/"], f"h2o={OURS}"),
        (["upstream=1; Path=/", f"h2o={OURS}; Path=/"], f"h2o={OURS}"),
        ([f"other={OTHER}; HttpOnly", f"h2o={OURS}"], f"h2o={OURS}"),
        ([f"h2o={OURS}", f"other={OTHER}; HttpOnly"], f"h2o={OURS}"),
        ([f"h2o={OTHER}; Path=/; HttpOnly; Secure"], f"h2o={OTHER}"),
        ([f"h2o={OTHER.upper()};httponly"], f"h2o={OTHER.upper()}"),
        ([f" h2o = {OTHER} ; HTTPONLY "], f"h2o={OTHER}"),
        ([f"tracker={OTHER}; Path=/"], f"hf-chat={OURS}"),
        ([f"sso={OTHER}; HttpOnly; Domain=h2o.test"], f"hf-chat={OURS}"),
        ([f"sso={OTHER}; HttpOnly; domain = .test"], f"hf-chat={OURS}"),
        (["upstream=1; HttpOnly"], f"hf-chat={OURS}"),
        (["h2o=; HttpOnly", "", ";", "=", "HttpOnly", f"={OURS}"], f"hf-chat={OURS}"),
        ([f"na me={OTHER}; HttpOnly", f"na\r\nme={OURS}"], f"hf-chat={OURS}"),
    ],
)
def test_session_is_the_echoed_cookie_or_the_http_only_uuid(
    set_cookies: list[str], cookie: str
) -> None:
    session = Session(None, OURS)
    session.adopt(set_cookies)
    assert session.cookie == cookie


@pytest.mark.parametrize("name", ["01_happy_path", "21_cookie", "26_own_cookie"])
def test_captured_cookie_is_adopted(name: str) -> None:
    (found, *_) = (
        value
        for exchange in scenario(name)
        if exchange.path == "/settings"
        for key, value in exchange.headers
        if key == "set-cookie"
    )
    session = Session(None, OTHER)
    session.adopt([found])
    assert session.cookie == found.partition(";")[0]


def test_cookie_of_the_model_server_is_not_the_session() -> None:
    cookies = [
        value
        for key, value in scenario("05_upstream_gzip_header")[2].headers
        if key == "set-cookie"
    ]
    assert cookies[0] == "upstream=1; Path=/"

    session = Session(None, OURS)
    session.adopt(cookies[:1])
    assert session.cookie == f"hf-chat={OURS}"
