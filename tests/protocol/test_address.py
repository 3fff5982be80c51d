import base64
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_client.protocol.address import Address


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("https://gpt-gm.h2o.ai", "https://gpt-gm.h2o.ai"),
        ("https://gpt-gm.h2o.ai/", "https://gpt-gm.h2o.ai"),
        ("  https://gpt-gm.h2o.ai\n", "https://gpt-gm.h2o.ai"),
        ("HTTPS://GPT-GM.H2O.AI/ChatOperation", "https://gpt-gm.h2o.ai/ChatOperation"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://localhost:80/", "http://localhost"),
        ("https://localhost:443/", "https://localhost"),
        ("https://localhost:80/", "https://localhost:80"),
        ("https://host/chat", "https://host/chat"),
        ("https://host/a/chat///", "https://host/a/chat"),
        ("https://host/a%20b", "https://host/a%20b"),
        ("http://[::1]:3000/x", "http://[::1]:3000/x"),
        ("http://my_service", "http://my_service"),
        ("http://münchen.example", "http://xn--mnchen-3ya.example"),
        ("https://user:secret@host:8443/chat/", "https://host:8443/chat"),
    ],
)
def test_base_url_is_normalised(given_url: str, url: str) -> None:
    address = Address.parse(given_url)
    assert address.url == url
    assert address.referer == url + "/"
    assert Address.parse(address.url).url == url


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("user:secret", "user:secret"),
        ("user", "user:"),
        (":secret", ":secret"),
        ("u%40b:p%3Aq%2F", "u@b:p:q/"),
        ("ü:ä", "ü:ä"),
        ("a@b:c", "a@b:c"),
    ],
)
def test_user_and_password_become_the_authorization_header(userinfo: str, pair: str) -> None:
    address = Address.parse(f"https://{userinfo}@host")
    assert address.authorization == "Basic " + base64.b64encode(pair.encode()).decode()
    assert address.url == "https://host"


def test_url_without_a_user_has_no_authorization() -> None:
    assert Address.parse("https://host").authorization is None


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "host",
        "//host",
        "localhost:3000",
        "ftp://host",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http://:3000",
        "http:///path",
        "http://host:port",
        "http://host:65536",
        "http://host:-1",
        "http://[::1",
        "http://a..b",
        "http://" + "a" * 64 + ".example",
        "http://ho st",
        "http://host%0d%0a",
        "http://host/a b",
        "http://host/a\x7fb",
        "http://host/ü",
        "http://host/\\evil",
        "http://host/?a=b",
        "http://host/#a",
        "http://user:sec/ret@host",
        "http://user:\udcffsecret@host",
    ],
)
def test_invalid_base_url_is_rejected(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url "):
        Address.parse(base_url)


@pytest.mark.parametrize("base_url", [None, 7, b"http://host", object()])
def test_base_url_of_a_wrong_type_is_rejected(base_url: object) -> None:
    with pytest.raises(TypeError, match="base_url must be a string"):
        Address.parse(cast("str", base_url))


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://user:hunter2@host",
        "http://user:hunter2@host:port",
        "http://user:hunter2@ho st",
        "http://user:hunter2@host/?q",
        "http://user:hunter2\udcff@host",
        "http://user:hunter2@host/a b",
    ],
)
def test_error_does_not_show_the_password(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Address.parse(base_url)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_repr_does_not_show_the_password() -> None:
    address = Address.parse("https://user:hunter2@host")
    for shown in (repr(address), str(address), f"{address}", repr([address])):
        assert shown.strip("[]") == "Address('https://host')"


@given(st.text(max_size=30), st.sampled_from(["", "http://", "https://", "http://host/"]))
def test_any_text_is_a_usable_address_or_a_value_error(text: str, start: str) -> None:
    try:
        address = Address.parse(start + text)
    except ValueError:
        return
    assert address.url.startswith(("http://", "https://"))
    assert address.url.isascii()
    assert address.url.isprintable()
    assert not set(address.url) & set("?# \\")
    assert "@" not in address.url.split("/")[2]
