import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Exchange, everything, scenario
from world import MODAL, OWN_LIMIT

from h2o_client.errors import (
    ForbiddenError,
    GenerationError,
    H2oError,
    InvalidRequestError,
    LoginRequiredError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    PromptTooLargeError,
    ProtocolError,
    RateLimitError,
    RedirectError,
    ServerError,
    StatusError,
    TermsNotAcceptedError,
)
from h2o_client.protocol.chat_ui_2023.replies import read_created, read_settings
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.replies import (
    check_status,
    error_message,
    is_plain,
    other_base_url,
    read_json,
    retry_after,
    status_error,
)

SETTINGS = Request("POST", "https://host/chat/settings", (), None, "settings")
CREATE = Request("POST", "https://host/chat/conversation", (), None, "create")
DELETE = Request("DELETE", "https://host/chat/conversation/6b007c", (), None, "delete")
HTML = "(an HTML page)"
BAD_JSON = (
    "Failed to deserialize the JSON body into the target type: parameters.temperature: "
    'invalid type: string "x", expected f32 at line 1 column 60'
)


def answer(value: object, status: int = 200) -> tuple[Head, bytes]:
    return Head(status, (("content-type", "application/json"),)), json.dumps(value).encode()


def failure(head: Head, body: bytes, request: Request = CREATE) -> StatusError:
    with pytest.raises(StatusError) as caught:
        check_status(head, body, request)
    return caught.value


# Every captured error.

FAILED = "Request failed during generation: Server error: boom"
REFUSALS = [e for e in everything() if e.status is not None and e.status >= 400 and e.status != 424]

# By status, and if needed by the start of the message.
CAPTURED: dict[tuple[int, str], type[StatusError]] = {
    (403, "Non-JSON form requests need to have a referer"): ForbiddenError,
    (403, "Invalid referer for POST request"): ForbiddenError,
    (403, "You don't have access to the conversation here."): ForbiddenError,
    (404, "Conversation not found"): NotFoundError,
    (404, "Message not found"): NotFoundError,
    (404, HTML): NotFoundError,
    (405, MODAL): TermsNotAcceptedError,
    (405, "PUT method not allowed"): StatusError,
    (405, "GET method not allowed"): StatusError,
    (405, "OPTIONS method not allowed"): StatusError,
    (405, "POST method not allowed. No actions exist for this page"): StatusError,
    (405, HTML): StatusError,
    (410, "Model not available anymore"): ModelUnavailableError,
    (410, HTML): ModelUnavailableError,
    (415, "Expected request with `Content-Type: application/json`"): StatusError,
    (
        422,
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 1530",
    ): InvalidRequestError,
    (
        422,
        BAD_JSON,
    ): InvalidRequestError,
    (429, OWN_LIMIT): RateLimitError,
    (429, "Model is overloaded"): OverloadedError,
    (429, HTML): RateLimitError,
    (500, "Internal Error"): ServerError,
    (500, HTML): ServerError,
    (503, "unhealthy"): OverloadedError,
}


@pytest.mark.parametrize("exchange", REFUSALS, ids=str)
def test_captured_rejection_has_its_class_and_message(exchange: Exchange) -> None:
    error = failure(exchange.head, exchange.body, exchange.request)

    assert type(error) is CAPTURED[exchange.head.status, error.message]
    assert error.status == exchange.status
    assert error.body == exchange.body.decode()
    assert error.message in str(error)
    assert str(error.status) in str(error)
    assert error.retry_after is None


def test_captured_model_server_failure_is_a_generation_error() -> None:
    for exchange in everything():
        if exchange.status == 424:
            with pytest.raises(GenerationError, match=f"answered 424: {FAILED}") as caught:
                check_status(exchange.head, exchange.body, exchange.request)
            assert caught.value.error_type == "generation"


@pytest.mark.parametrize(
    ("status", "kind", "cls"),
    [
        (424, "", GenerationError),
        (424, "generation", GenerationError),
        (500, "incomplete_generation", GenerationError),
        (503, "overloaded", OverloadedError),
        (400, "validation", InvalidRequestError),
    ],
)
def test_error_class_depends_on_the_error_type(status: int, kind: str, cls: type[H2oError]) -> None:
    assert type(status_error(status, "x", kind=kind)) is cls


def test_every_kind_of_rejection_is_captured() -> None:
    found = {(e.status, error_message(e.body)[0]) for e in REFUSALS}
    assert found == set(CAPTURED)


@pytest.mark.parametrize("exchange", [e for e in everything() if e.status in (302, 308)], ids=str)
def test_captured_unexpected_redirect_is_an_error(exchange: Exchange) -> None:
    with pytest.raises(RedirectError) as caught:
        check_status(exchange.head, exchange.body, exchange.request)
    assert caught.value.status == exchange.status
    assert caught.value.location == exchange.head.get("location")
    assert repr(caught.value.location) in str(caught.value)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_success_status_raises_nothing(status: int) -> None:
    check_status(Head(status, ()), b"", CREATE)


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, StatusError),
        (401, LoginRequiredError),
        (402, StatusError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (405, StatusError),
        (410, ModelUnavailableError),
        (413, PromptTooLargeError),
        (418, StatusError),
        (422, InvalidRequestError),
        (429, RateLimitError),
        (499, StatusError),
        (500, ServerError),
        (501, ServerError),
        (502, ServerError),
        (503, OverloadedError),
        (504, ServerError),
        (599, ServerError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"words", b"<!doctype html><html>", b"\xff\xfe"])
def test_status_decides_if_the_body_has_no_message(
    status: int, cls: type[StatusError], body: bytes
) -> None:
    error = failure(Head(status, ()), body)
    assert type(error) is cls
    assert error.status == status


@pytest.mark.parametrize(
    ("body", "message", "kind"),
    [
        (b'{"error":"words"}', "words", ""),
        (b'{"message":"words"}', "words", ""),
        (b'{"type":"error","error":{"message":"words"}}', "words", ""),
        (b'{"error":"words","error_type":"validation"}', "words", "validation"),
        (b"words", "words", ""),
        (b" \n words\n", "words", ""),
        (b"<!DOCTYPE html><html>words</html>", HTML, ""),
        (b" \n<html>", HTML, ""),
        (b"", "", ""),
        (b'{"error":"w","message":"other"}', "w", ""),
        (b'{"error":{"message":7}}', '{"error":{"message":7}}', ""),
        (b'{"error":7}', '{"error":7}', ""),
        (b'{"other":1}', '{"other":1}', ""),
        (b'{"error":"w","error_type":7}', "w", ""),
        (b"[1]", "[1]", ""),
        (b'"text"', '"text"', ""),
        (b"null", "null", ""),
        (b"{", "{", ""),
        ("ü\u2028".encode(), "ü", ""),
        (b"\xff", "\ufffd", ""),
    ],
)
def test_message_is_found_in_each_body_format(body: bytes, message: str, kind: str) -> None:
    assert error_message(body) == (message, kind)


def test_long_message_is_truncated_in_the_error() -> None:
    for body in (b"x" * 60_000, json.dumps({"error": "x" * 60_000}).encode(), b"[" * 60_000):
        assert len(str(failure(Head(500, ()), body))) < 700


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"", "H2O_CHAT_TOKEN"),
        (403, b"", "different base URL"),
        (404, b"", "another session"),
        (410, b"", "another model"),
        (413, b"", "shorter"),
        (422, b"", "change the prompt"),
        (429, OWN_LIMIT.encode(), "two minutes"),
        (429, b"", "wait"),
        (500, b'{"message":"Internal Error"}', "unknown model"),
        (500, b"", "try again"),
        (503, b"", "try again"),
        (405, MODAL.encode(), "session"),
        (405, b"", "base URL"),
    ],
)
def test_error_gives_advice(status: int, body: bytes, words: str) -> None:
    assert words in str(failure(Head(status, ()), body))


def test_terms_message_counts_only_with_status_405() -> None:
    assert type(failure(Head(405, ()), MODAL.encode())) is TermsNotAcceptedError
    assert type(failure(Head(403, ()), MODAL.encode())) is ForbiddenError


# Retry-After.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Fri, 20 Nov 2026 16:59:14 GMT", 60.0),
        ("Fri, 20 Nov 2026 16:58:14 GMT", 0.0),
        ("Fri, 20 Nov 2020 16:58:14 GMT", 0.0),
        ("Fri, 20 Nov 2026 17:59:14 +0100", 60.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("1e9", None),
        ("0x10", None),
        ("nan", None),
        ("٣", None),
        ("²", None),
        ("Fri, 20 Nov 2026 16:59:14 -0000", None),
        ("Fri, 99 Nov 2026 16:59:14 GMT", None),
        ("Fri, 20 Nov 99999999999999999999 16:59:14 GMT", None),
        ("Fri, 99999999999999999999 Nov 2026 16:59:14 GMT", None),
        ("Fri, 20 Nov 2026 16:59:14 +99999999999999999999", None),
    ],
)
def test_retry_after_may_be_seconds_or_a_date(value: str, seconds: float | None) -> None:
    head = Head(429, (("date", "Fri, 20 Nov 2026 16:58:14 GMT"), ("retry-after", value)))
    assert retry_after(head) == seconds
    assert failure(head, b"").retry_after == seconds


def test_very_long_retry_after_is_a_number() -> None:
    seconds = retry_after(Head(429, (("retry-after", "9" * 10_000),)))
    assert seconds is not None
    assert seconds > 10**8


def test_retry_after_date_needs_a_date_header() -> None:
    assert retry_after(Head(429, (("retry-after", "Fri, 20 Nov 2026 16:59:14 GMT"),))) is None


@given(
    st.one_of(
        st.text(max_size=20),
        st.lists(
            st.sampled_from(["Fri", ",", " ", "20", "Nov", "9" * 30, ":", "-", "+0000", "GMT"]),
            max_size=10,
        ).map("".join),
    )
)
def test_any_retry_after_is_seconds_or_none(value: str) -> None:
    head = Head(503, (("date", "Fri, 20 Nov 2026 16:58:14 GMT"), ("retry-after", value)))
    seconds = retry_after(head)
    assert seconds is None or seconds >= 0


# Redirects.


@pytest.mark.parametrize(
    ("request_", "location", "base_url"),
    [
        (SETTINGS, "https://other/settings", "https://other"),
        (SETTINGS, "https://other:8443/a/b/settings/", "https://other:8443/a/b"),
        (SETTINGS, "http://host/chat/settings?x=1", "http://host/chat"),
        (CREATE, "https://other/conversation", "https://other"),
        (DELETE, "https://other/x/conversation/6b007c", "https://other/x"),
        (SETTINGS, "https://OTHER/settings", "https://other"),
        (SETTINGS, "/settings", None),
        (SETTINGS, "//other/settings", None),
        (SETTINGS, "https://other/login", None),
        (SETTINGS, "https://user:pw@other/settings", None),
        (SETTINGS, "ftp://other/settings", None),
        (SETTINGS, "https://ho st/settings", None),
        (SETTINGS, "https://other:port/settings", None),
        (SETTINGS, "https://[::1/settings", None),
        (SETTINGS, "", None),
    ],
)
def test_redirect_error_suggests_the_base_url(
    request_: Request, location: str, base_url: str | None
) -> None:
    assert other_base_url(location, request_) == base_url

    with pytest.raises(RedirectError) as caught:
        check_status(Head(308, (("location", location),)), b"", request_)
    assert caught.value.location == location
    assert caught.value.base_url == base_url
    if base_url is not None:
        assert f"use the base URL {base_url}" in str(caught.value)


# Settings.


@pytest.mark.parametrize(
    "exchange",
    [
        e
        for e in everything()
        if e.path == "/settings" and e.method == "POST" and e.status in (200, 303)
    ],
    ids=str,
)
def test_captured_accepted_settings(exchange: Exchange) -> None:
    read_settings(exchange.head, exchange.body, exchange.request)


@pytest.mark.parametrize(
    "exchange",
    [e for e in REFUSALS if e.path == "/settings" and e.method == "POST"],
    ids=str,
)
def test_captured_rejected_settings(exchange: Exchange) -> None:
    with pytest.raises(StatusError):
        read_settings(exchange.head, exchange.body, exchange.request)


@pytest.mark.parametrize("location", ["https://host/chat/", "/chat/", "", "//host/x"])
def test_303_to_our_own_origin_is_success(location: str) -> None:
    read_settings(Head(303, (("location", location),)), b"", SETTINGS)


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (303, "https://login.example/"),
        (303, "https://host.evil/chat/"),
        (303, "https://host@evil/chat/"),
        (303, "//evil/"),
        (303, "https://[::1/"),
        (302, "/chat/"),
        (301, "https://host/chat/settings"),
        (307, "https://host/chat/settings"),
        (308, "https://host/chat/settings"),
    ],
)
def test_other_redirects_of_the_settings_are_errors(status: int, location: str) -> None:
    with pytest.raises(RedirectError) as caught:
        read_settings(Head(status, (("location", location),)), b"", SETTINGS)
    assert caught.value.location == location


@pytest.mark.parametrize(
    ("value", "status", "cls"),
    [
        ({"type": "error", "error": {"message": "Internal Error"}}, 500, ServerError),
        ({"type": "error", "status": 403, "error": {"message": "x"}}, 403, ForbiddenError),
        ({"type": "failure", "status": 422, "data": "[]"}, 422, InvalidRequestError),
        ({"type": "error", "status": "404"}, 500, ServerError),
        ({"type": "error", "status": 200}, 500, ServerError),
        ({"type": "error", "status": True}, 500, ServerError),
    ],
)
def test_error_inside_a_200_is_raised(
    value: dict[str, Any], status: int, cls: type[StatusError]
) -> None:
    with pytest.raises(cls) as caught:
        read_settings(*answer(value), SETTINGS)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"type":7}', b'{"type":"data"}', b"\xff", b"[" * 9999]
)
def test_unexpected_reply_to_settings_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="status 200, text/x"):
        read_settings(Head(200, (("content-type", "text/x"),)), body, SETTINGS)


# New conversations.


def test_captured_conversation_id_is_read() -> None:
    exchange = scenario("01_happy_path")[1]
    found = read_created(exchange.head, exchange.body, exchange.request).id
    assert found == "6b007c261090eb6ec94d77d0"


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        ".",
        "..",
        "../settings",
        "a/b",
        "a?b",
        "a#b",
        "a b",
        "a%2fb",
        "a\n",
        "a\r\nX: y",
        "a\x00",
        "é",
        "@host",
        "x" * 65,
        None,
        7,
        True,
        ["a"],
        {"a": 1},
    ],
)
def test_unsafe_conversation_id_is_rejected(hostile: object) -> None:
    with pytest.raises(ProtocolError, match="new conversation"):
        read_created(*answer({"conversationId": hostile}), CREATE)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'"6b007c"', b"\xff"])
def test_success_without_an_id_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="no content type"):
        read_created(Head(200, ()), body, CREATE)


def test_rejected_creation_is_a_status_error() -> None:
    with pytest.raises(TermsNotAcceptedError):
        read_created(*answer({"error": MODAL}, 405), CREATE)


# Other replies.


def test_body_of_an_empty_reply_is_ignored() -> None:
    check_status(Head(200, ()), b"<html>", DELETE)
    with pytest.raises(NotFoundError):
        check_status(Head(404, ()), b"", DELETE)


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip", "x" * 9999])
def test_compressed_reply_is_rejected(encoding: str) -> None:
    with pytest.raises(ProtocolError, match="compressed") as caught:
        is_plain(Head(200, (("content-encoding", encoding),)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_identity_encoding_is_accepted(encoding: str) -> None:
    assert is_plain(Head(200, (("content-encoding", encoding),)))
    assert is_plain(Head(200, ()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "status", "conversationId", "x"]), inner
        )
    ),
    max_leaves=6,
)


@pytest.mark.slow
@given(
    status=st.sampled_from([200, 204, 301, 303, 308, 400, 404, 405, 429, 500, 503]),
    body=st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()),
    location=st.text(max_size=20) | st.sampled_from(["//[", "https://h/settings", "http://:x"]),
)
def test_any_reply_is_read_or_a_typed_error(status: int, body: bytes, location: str) -> None:
    head = Head(status, (("location", location), ("retry-after", location)))
    for request, reader in (
        (SETTINGS, read_settings),
        (CREATE, read_created),
        (DELETE, check_status),
        (CREATE, lambda head, body, _: read_json(head, body)),
    ):
        with contextlib.suppress(H2oError):  # any other error fails the test
            reader(head, body, request)
