"""Malicious servers: whatever they send, calls end in limited memory with one of our errors.

Each chat has a session and a prompt, and there is a second server, to which redirects and cookies
point and which must receive nothing. The bytes that a server can send before the client hangs up
are counted, which limits what the client can have read.
"""

import ssl
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from backends import ONCE, Api
from confidential import PROMPT, SESSION
from hostile import (
    CERTIFICATE,
    CHUNKED,
    END,
    EVENTS,
    HELLO,
    HTML,
    IN_FLIGHT,
    JSON,
    WELL,
    Dripping,
    Endless,
    Heard,
    Hostile,
    Pieces,
    Play,
    Whole,
    answer,
    bombs,
    chunk,
    event,
    head,
)

from h2o_client import (
    H2oError,
    IncompleteStreamError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    RedirectError,
    Reply,
    ServerError,
    StatusError,
    Timeouts,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.emulator import Emulator

FOREIGN = "00000000-1111-4222-8333-444444444444"
MIB = 1024 * 1024
BLOCK = b"x" * 65536
OPERATIONS = ("settings", "create", "message", "delete")
Operation = Literal["settings", "create", "message", "delete"]


@pytest.fixture
def server() -> Emulator:
    """Replaces the server of `api`, never started: every test here has a server of its own."""
    return Emulator()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[Hostile]:
    """A server that must receive nothing."""
    with Hostile() as running:
        yield running
        assert running.accepted == 0


@dataclass
class Outcome:
    """The result of a chat."""

    reply: Reply | None
    error: H2oError | None
    session: str

    @property
    def kind(self) -> type:
        return type(self.reply if self.error is None else self.error)


async def chat(
    api: Api, hostile: Hostile, *, own: dict[str, Any] | None = None, **options: Any
) -> Outcome:
    """Have one chat, and check the common invariants; `own`: through a custom httpx client."""
    outcome = Outcome(None, None, "")
    options = {"session": SESSION, "share_conversations": False, **ONCE, **options}
    # Failed clean-ups are retried for this long.
    limits = options.get("timeouts", Timeouts())
    options["timeouts"] = replace(limits, cleanup=min(limits.cleanup, 0.3))
    if own is not None:
        options["http_client"] = api.http_client(**own)
    async with api.client(hostile.url, **options) as client:
        try:
            outcome.reply = await client.chat(PROMPT)
        except H2oError as error:
            outcome.error = error
            texts = [str(error), repr(error), *map(str, vars(error).values())]
            assert len(texts[0]) < 2500
            assert not [text for text in texts if SESSION in text or PROMPT in text]
        outcome.session = client.session
    if own is not None:
        await api.close_http(options["http_client"])
    await api.wait(hostile.settled)
    check_requests(hostile.heard)
    return outcome


def check_requests(heard: list[Heard]) -> None:
    """Check that only the requests of a chat were sent, with one cookie."""
    assert heard
    for request in heard:
        assert request.operation != "?", request.target
        assert request.target.isascii()
        assert ".." not in request.target
        assert len(request.cookies) == 1
        assert ";" not in request.cookies[0]
        assert (PROMPT.encode() in request.raw) == (request.operation == "message")


def stream(body: bytes) -> bytes:
    """Build a complete stream in chunks, like the service."""
    return Whole(head(EVENTS, CHUNKED) + chunk(body) + chunk(b""))


# Ids


@pytest.mark.parametrize(
    "number",
    [
        '"../../settings"', '"a/b"', '".."', '"."', '"a\\u0000b"', '"a\\r\\nX-Evil: 1"', '"a%2fb"',
        '""', '" "', '"\\u00e9"', '"\\uff0e\\uff0e"', '"a?b"', '"a#b"', '"a;b"', '"a\\\\b"',
        '"http://127.0.0.1/"', '"//127.0.0.1/x"', '"' + "x" * 65 + '"', "7", "1e999", "null",
        "true", '["abc"]', '{"id":"abc"}',
    ],
)  # fmt: skip
async def test_unsafe_conversation_id_is_never_used(
    api: Api, hostile: Hostile, elsewhere: Hostile, number: str
) -> None:
    number = number.replace("127.0.0.1", elsewhere.origin)
    hostile.on("create", answer(f'{{"conversationId":{number}}}'.encode(), JSON))
    assert (await chat(api, hostile)).kind is ProtocolError
    assert hostile.operations == ["root", "settings", "create"]


# Redirects


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("own", [None, {"follow_redirects": True, "verify": False}])
async def test_redirect_to_another_origin_is_not_followed(
    api: Api, hostile: Hostile, elsewhere: Hostile, operation: Operation, own: Any
) -> None:
    for status in (301, 302, 303, 307, 308):
        for location in (
            f"{elsewhere.url}/conversation",
            f"//{elsewhere.origin}/settings",
            f"http://{hostile.origin}@{elsewhere.origin}/settings",
        ):
            hostile.on(operation, answer(b"", f"Location: {location}", status=f"{status} Gone"))
            outcome = await chat(api, hostile, own=own)
            if operation == "delete":
                assert outcome.kind is Reply
            else:
                assert outcome.kind is RedirectError


@pytest.mark.parametrize("status", [200, 201, 401, 503])
async def test_location_header_without_a_redirect_is_ignored(
    api: Api, hostile: Hostile, elsewhere: Hostile, status: int
) -> None:
    headers = [f"Location: {elsewhere.url}/", f"Refresh: 0; url={elsewhere.url}/", HTML]
    hostile.on("message", answer(b"<html>", *headers, status=f"{status} There"))
    outcome = await chat(api, hostile)
    assert outcome.kind is not Reply


async def test_redirect_in_data_is_not_followed(
    api: Api, hostile: Hostile, elsewhere: Hostile
) -> None:
    hostile.on("message", head(EVENTS) + event(" Hel"))
    body = f'{{"type":"redirect","location":"{elsewhere.url}/"}}'
    hostile.on("data", answer(body.encode(), JSON))
    outcome = await chat(api, hostile, recover=True, timeouts=Timeouts(recovery=0.01))
    assert outcome.kind is IncompleteStreamError
    assert "data" in hostile.operations


@pytest.mark.parametrize("ending", ["\r", "\n", "%0d%0a", "%E5%98%8A%E5%98%8D"])
async def test_location_with_line_breaks_is_harmless(
    api: Api, hostile: Hostile, elsewhere: Hostile, ending: str
) -> None:
    injected = f"{ending}Set-Cookie: hf-chat={FOREIGN}; HttpOnly{ending}{ending}HTTP/1.1 200 OK"
    location = f"Location: {elsewhere.url}/settings{injected}"
    hostile.on("settings", bytes(answer(b"", location, status="303 See")))
    outcome = await chat(api, hostile)
    assert outcome.kind in (RedirectError, TransportError)
    assert outcome.session == SESSION


# Cookies


@pytest.mark.parametrize(
    "cookies",
    [
        [f"hf-chat={FOREIGN}; Domain=evil.test; HttpOnly"],
        [f"theirs={FOREIGN}; HttpOnly; Path=/; domain=.evil.test"],
        [f"theirs={FOREIGN}; Path=/"],
        ["hf-chat=theirs; HttpOnly; Path=/"],
        [f"hf-chat={FOREIGN}; HttpOnly", f"hf-chat={SESSION}; HttpOnly"],
        [f"a b={FOREIGN}; HttpOnly", f"={FOREIGN}; HttpOnly", f"{FOREIGN}; HttpOnly"],
        [f'theirs="{FOREIGN}"; HttpOnly', f"theirs={FOREIGN}, more; HttpOnly"],
        [f"theirs={FOREIGN}x; HttpOnly", f"theirs={FOREIGN[:-1]}\xe9; HttpOnly"],
        [f"c{n}={n}; Domain=d{n}.test; Path=/; HttpOnly" for n in range(1000)],
        ["c=" + "x" * 60_000],
        ["", ";", "=", ";;;=;HttpOnly", "; HttpOnly" * 1000],
    ],
)  # fmt: skip
async def test_foreign_cookies_are_not_adopted(
    api: Api, hostile: Hostile, cookies: list[str]
) -> None:
    headers = [f"Set-Cookie: {cookie}" for cookie in cookies]
    hostile.on("settings", answer(b'{"type":"success"}', *headers))
    hostile.on("create", answer(b'{"conversationId":"abc"}', JSON, *headers))
    hostile.on("message", answer(HELLO, *headers, EVENTS))
    outcome = await chat(api, hostile)
    assert outcome.kind is Reply
    assert outcome.session == SESSION
    assert {cookie for request in hostile.heard for cookie in request.cookies} == {
        f"hf-chat={SESSION}"
    }


async def test_cookies_of_later_responses_are_ignored(api: Api, hostile: Hostile) -> None:
    """They would be adopted from the settings."""
    cookie = f"Set-Cookie: hf-chat={FOREIGN}; HttpOnly; Path=/"
    hostile.on("create", answer(b'{"conversationId":"abc"}', JSON, cookie))
    hostile.on("message", answer(HELLO, EVENTS, cookie))
    assert (await chat(api, hostile)).session == SESSION
    assert hostile.heard[-1].cookies == [f"hf-chat={SESSION}"]


# Endless data

ENDLESS_HEADS: dict[str, Pieces] = {
    "headers": Endless(head()[:-2], b"X-More: " + b"x" * 1000 + b"\r\n"),
    "one header": Endless(head()[:-2] + b"X-More: ", BLOCK),
    "status": Endless(b"HTTP/1.1 200 ", BLOCK),
    "nothing known": Endless(b"", BLOCK),
    "empty lines": Endless(b"", b"\r\n" * 1000),
    "chunk extension": Endless(head(CHUNKED, JSON) + b"5;", BLOCK),
    "chunk size": Endless(head(CHUNKED, JSON), b"0" * 65536),
    "trailers": Endless(head(CHUNKED, JSON) + b"0\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ENDLESS_HEADS)
async def test_endless_head_is_an_error(
    api: Api, hostile: Hostile, operation: Operation, kind: str
) -> None:
    hostile.on(operation, ENDLESS_HEADS[kind])
    outcome = await chat(api, hostile)
    expected = {"message": IncompleteStreamError, "delete": Reply}.get(operation, TransportError)
    if operation == "message" and kind.startswith(("chunk", "trailers")):
        expected = ProtocolError  # rejected for its content type, before the rest is read
    assert outcome.kind in (expected, IncompleteStreamError)
    assert hostile.sent[operation] < IN_FLIGHT * hostile.operations.count(operation)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [400, 503])
async def test_endless_error_body_is_an_error(
    api: Api, hostile: Hostile, operation: Operation, status: int
) -> None:
    hostile.on(operation, Endless(head(status=f"{status} Oh"), BLOCK))
    outcome = await chat(api, hostile)
    if operation == "delete":
        assert outcome.kind is Reply
    else:
        assert isinstance(outcome.error, StatusError)
        assert len(outcome.error.body) == 65536
    assert hostile.sent[operation] < IN_FLIGHT * hostile.operations.count(operation)


@pytest.mark.parametrize("start", [b'{"conversationId":"', b"[" * 1000, b"<html>"])
async def test_endless_json_is_an_error(api: Api, hostile: Hostile, start: bytes) -> None:
    hostile.on("create", Endless(head(JSON) + start, b"x" * MIB))
    assert (await chat(api, hostile)).kind is ProtocolError
    assert hostile.sent["create"] < 64 * MIB + IN_FLIGHT + 2 * MIB


@pytest.mark.parametrize("kind", [HTML, JSON, "X-Type: none"])
async def test_endless_page_instead_of_a_stream_is_an_error(
    api: Api, hostile: Hostile, kind: str
) -> None:
    hostile.on("message", Endless(head(kind), BLOCK))
    assert (await chat(api, hostile)).kind is ProtocolError
    assert hostile.sent["message"] < IN_FLIGHT


@pytest.mark.parametrize("start", [b"data:", b'data:{"token":{"text":"', b":", b"\xff"])
async def test_endless_line_is_an_error(api: Api, hostile: Hostile, start: bytes) -> None:
    hostile.on("message", Endless(head(EVENTS) + event(" Hel") + start, BLOCK))
    outcome = await chat(api, hostile)
    assert outcome.kind is ProtocolError
    assert outcome.error is not None
    assert outcome.error.partial == " Hel"
    assert hostile.sent["message"] < 2 * MIB + IN_FLIGHT


@pytest.mark.slow
async def test_endless_answer_from_a_server_is_an_error(api: Api, hostile: Hostile) -> None:
    hostile.on("message", Endless(head(EVENTS), event("x" * (MIB - 200))))
    outcome = await chat(api, hostile)
    assert outcome.kind is ProtocolError
    assert hostile.sent["message"] < 40 * MIB + IN_FLIGHT


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [b": ping\n" * 10_000, b"\n" * 65536, b"\r" * 65536, b"event: x\nid: 7\n\n" * 5000],
    ids=["comments", "empty lines", "CR", "fields"],
)
async def test_empty_events_do_not_reset_the_timeout(
    api: Api, hostile: Hostile, more: bytes
) -> None:
    pieces: Pieces = [head(EVENTS) + event(" Hel"), *(more, 0.005) * 200, HELLO]
    hostile.on("message", pieces)
    outcome = await chat(api, hostile, timeouts=Timeouts(idle=0.5))
    assert isinstance(outcome.error, TransportTimeoutError)
    assert outcome.error.limit == "idle"
    assert outcome.error.partial == " Hel"


async def test_endless_data_after_the_answer_is_ignored(api: Api, hostile: Hostile) -> None:
    hostile.on("message", Endless(head(EVENTS) + HELLO, BLOCK))
    outcome = await chat(api, hostile)
    assert outcome.reply is not None
    assert outcome.reply.text == " Hello"
    assert hostile.sent["message"] < IN_FLIGHT


@pytest.mark.slow
async def test_endless_data_uses_limited_memory(api: Api, hostile: Hostile) -> None:
    await chat(api, hostile)  # so that one-time allocations are made
    tracemalloc.start()
    try:
        for operation, pieces in (
            ("message", Endless(head(EVENTS) + b"data:", BLOCK)),
            ("message", Endless(head(EVENTS, status="500 Oh"), BLOCK)),
            ("message", Endless(head()[:-2] + b"X-More: ", BLOCK)),
            ("message", Endless(head(EVENTS) + HELLO, BLOCK)),
            ("message", Endless(head(HTML), BLOCK)),
        ):
            hostile.on(operation, pieces)
            await chat(api, hostile)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()


# Compression


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", ["200 OK", "500 Oh"])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip, deflate"])
async def test_compression_bomb_is_not_unpacked(
    api: Api, hostile: Hostile, operation: Operation, status: str, encoding: str
) -> None:
    body = b"".join(bombs(50))
    kind = EVENTS if operation == "message" else JSON
    hostile.on(operation, answer(body, kind, f"Content-Encoding: {encoding}", status=status))
    tracemalloc.start()
    try:
        outcome = await chat(api, hostile)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    if operation == "delete":
        assert outcome.kind is Reply
    else:
        assert outcome.kind is (ProtocolError if status == "200 OK" else ServerError)
    for heard in hostile.heard:
        assert b"accept-encoding: identity\r\n" in heard.raw.lower()


async def test_undeclared_compression_is_not_unpacked(api: Api, hostile: Hostile) -> None:
    hostile.on("create", answer(b"".join(bombs(50)), JSON))
    assert (await chat(api, hostile)).kind is ProtocolError


# Bytes


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\0", ProtocolError),
        (b"data:\0\n\n", ProtocolError),
        (b"data:\xff\xfe\n\n", ProtocolError),
        (event("\0"), ProtocolError),
        (event("Q").replace(b"Q", b"\xff"), ProtocolError),
        (event("Q").replace(b"Q", b"\xed\xa0\x80"), ProtocolError),
        (event("Q")[:-3].replace(b"Q", b"\xe2\x82"), IncompleteStreamError),
        (b"data:[" + b"[" * 900_000 + b"\n\n", ProtocolError),
        (b"data:" + b"9" * 5000 + b"\n\n", ProtocolError),
        (b"data:{}{}\n\n", ProtocolError),
        (END.replace(b'"generated_text":""', b'"generated_text":7'), ProtocolError),
        (b"\xff\xfe" + HELLO.decode().encode("utf-16-le"), IncompleteStreamError),
    ],
)
async def test_invalid_stream_bytes_are_an_error(
    api: Api, hostile: Hostile, body: bytes, kind: type[H2oError]
) -> None:
    hostile.on("message", stream(body))
    outcome = await chat(api, hostile)
    if body == b"\0":
        kind = IncompleteStreamError  # an empty field, then the end
    assert outcome.kind is kind


async def test_escaped_characters_are_text(api: Api, hostile: Hostile) -> None:
    text = "\\u0000\\r\\n\\u2028\\u202e\\u001b[31m"
    hostile.on("message", stream(event(text) + END))
    outcome = await chat(api, hostile)
    assert outcome.reply is not None
    assert outcome.reply.text == "\0\r\n\u2028\u202e\x1b[31m"


@pytest.mark.parametrize("operation", ["settings", "create"])
@pytest.mark.parametrize(
    "body",
    [b"\0", b"\xff\xfe\xfd", b'{"conversationId":"\xff"}', b"[" * 200_000, b"9" * 10_000, b"NaN"],
)
async def test_invalid_json_bytes_are_an_error(
    api: Api, hostile: Hostile, operation: Operation, body: bytes
) -> None:
    hostile.on(operation, answer(body, JSON))
    assert (await chat(api, hostile)).kind is ProtocolError
    hostile.on(operation, answer(body, JSON, status="500 Oh"))
    assert (await chat(api, hostile)).kind is ServerError


@pytest.mark.parametrize("value", ["a\0b", "\x01", "\x7f", "\xff\xfe", "\u00e9"])
async def test_binary_headers_are_harmless(api: Api, hostile: Hostile, value: str) -> None:
    headers = [f"X-Odd: {value}", f"Retry-After: {value}", f"Content-Type: {value}"]
    hostile.on("message", answer(b"?", *headers))
    assert (await chat(api, hostile)).kind in (ProtocolError, IncompleteStreamError)
    hostile.on("message", answer(b"?", *headers, status="503 \xff"))
    assert (await chat(api, hostile)).kind in (OverloadedError, IncompleteStreamError)


# Excess data

SECOND = event(" More") + event("</s>", '" More"', special="true")


@pytest.mark.parametrize(
    "more",
    [
        END,
        END * 3,
        SECOND,
        event(" More"),
        b'data:{"error":"late","error_type":"generation"}\n\n',
        b"data:{\n\n",
        b"\0\xff",
        b": ping\n\n",
    ],
)
async def test_excess_data_after_the_final_event_is_ignored(
    api: Api, hostile: Hostile, more: bytes
) -> None:
    for play in (
        stream(HELLO + more),
        [head(EVENTS, CHUNKED) + chunk(HELLO), chunk(more), chunk(b"")],
        [head(EVENTS, CHUNKED) + chunk(HELLO), chunk(more)],  # no last chunk
        answer(HELLO + more, EVENTS),
    ):
        hostile.on("message", play)
        outcome = await chat(api, hostile)
        assert outcome.reply is not None
        assert outcome.reply.text == " Hello"
        assert outcome.reply.generated_tokens == 3
        assert hostile.operations[-1] == "delete"


SMUGGLED = answer(b'{"error":"smuggled"}', JSON, status="403 Forbidden")


@pytest.mark.parametrize("more", [SMUGGLED, b"rubbish", b"\r\n\r\n", b"\0", WELL["create"]])
async def test_data_after_the_response_is_ignored(api: Api, hostile: Hostile, more: bytes) -> None:
    plays: list[Pieces] = [
        [stream(HELLO) + more],
        [stream(HELLO), more],
        [stream(HELLO), 0.005, more],
    ]
    for pieces in plays:
        hostile.on("message", Play(pieces, keep=True))
        for _ in range(2):
            outcome = await chat(api, hostile)
            assert outcome.reply is not None
            assert outcome.reply.text == " Hello"


# HTTP


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_responses_without_a_length_are_read(
    api: Api, hostile: Hostile, version: str
) -> None:
    hostile.on("settings", head(JSON, version=version) + b'{"type":"success"}')
    hostile.on("create", head(JSON, version=version) + b'{"conversationId":"abc"}')
    hostile.on("message", head(EVENTS, version=version) + HELLO)
    hostile.on("delete", head(version=version))
    outcome = await chat(api, hostile)
    assert outcome.reply is not None
    assert outcome.reply.text == " Hello"
    assert hostile.operations == ["root", *OPERATIONS]

    hostile.on("message", head(EVENTS, version=version) + HELLO[:-30])
    outcome = await chat(api, hostile)
    assert outcome.kind is IncompleteStreamError
    assert outcome.error is not None
    assert outcome.error.partial == " Hello"


@pytest.mark.parametrize(
    "before",
    [
        head(status="100 Continue"),
        head(status="102 Processing"),
        head("Link: </x>; rel=preload", "Set-Cookie: hf-chat=x", status="103 Early Hints"),
        head(status="100 Continue") * 1000,
    ],
)
async def test_interim_responses_are_skipped(api: Api, hostile: Hostile, before: bytes) -> None:
    for operation in OPERATIONS:
        hostile.on(operation, Play([before + WELL[operation]], keep=True))
    outcome = await chat(api, hostile)
    assert outcome.reply is not None
    assert outcome.reply.text == " Hello"
    assert outcome.session == SESSION


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\0",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"<html>Welcome</html>",
        head(status="100 Continue"),
        head(status="101 Switching Protocols"),
        head("Upgrade: h2c", "Connection: upgrade", status="101 Switching Protocols"),
        head(status="000 Zero"),
        head(status="099 Low"),
        head(status="1000 High"),
        head(status="20 Short"),
        head(status="-200 Negative"),
        head("Content-Length: -1"),
        head("Content-Length: abc"),
        head("Content-Length: 5", "Content-Length: 6") + b"12345",
        head("Content-Length: 5, 6") + b"12345",
        head("Content-Length: 99999999999999999999999") + b"12345",
        head("Content-Length: 100") + b"12345",
        head("Transfer-Encoding: gzip, chunked") + b"5\r\n12345\r\n0\r\n\r\n",
        head("Transfer-Encoding: banana") + b"12345",
        head(CHUNKED) + b"zz\r\n12345\r\n0\r\n\r\n",
        head(CHUNKED) + b"-5\r\n12345\r\n0\r\n\r\n",
        head(CHUNKED) + b"f" * 30 + b"\r\n12345\r\n0\r\n\r\n",
        head(CHUNKED) + b"5\r\n12345678\r\n0\r\n\r\n",
        head(CHUNKED) + b"5\r\n123",
        head(CHUNKED) + b"5\r\n12345\r\n",
        head("Content Length: 5") + b"12345",
        head(": 5") + b"12345",
        head("X-A: 1", " folded: 2"),
    ],
)  # fmt: skip
async def test_invalid_http_is_an_error(api: Api, hostile: Hostile, start: bytes) -> None:
    for operation in ("settings", "create", "message"):
        hostile.on(operation, start)
        outcome = await chat(api, hostile)
        assert outcome.kind in (TransportError, IncompleteStreamError, ProtocolError)
        hostile.on(operation, WELL[operation])
    hostile.on("delete", start)
    assert (await chat(api, hostile)).kind is Reply


@pytest.mark.parametrize("status", [201, 202, 204, 205, 206, 226, 304, 306, 418, 600, 999])
async def test_unusual_statuses_are_errors(api: Api, hostile: Hostile, status: int) -> None:
    for operation in ("settings", "create", "message"):
        hostile.on(operation, answer(b"", status=f"{status} Odd"))
        outcome = await chat(api, hostile)
        assert isinstance(outcome.error, ProtocolError if status < 300 else StatusError)
        hostile.on(operation, WELL[operation])
    hostile.on("delete", answer(b"", status=f"{status} Odd"))
    assert (await chat(api, hostile)).kind is Reply


@pytest.mark.parametrize("length", ["5", "5, 5"])
async def test_repeated_equal_content_length_is_accepted(
    api: Api, hostile: Hostile, length: str
) -> None:
    headers = [EVENTS, *[f"Content-Length: {length.replace('5', str(len(HELLO)))}"] * 2]
    hostile.on("message", head(*headers) + HELLO)
    assert (await chat(api, hostile)).kind is Reply


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_response_cut_anywhere_is_an_error(
    api: Api, hostile: Hostile, operation: Operation, at: float
) -> None:
    whole = stream(HELLO) if operation == "message" else WELL[operation]
    hostile.on(operation, whole[: int(len(whole) * at)])
    outcome = await chat(api, hostile)
    expected = {"message": IncompleteStreamError, "delete": Reply}
    assert outcome.kind is expected.get(operation, TransportError)


# Slow data

SECONDS = 1.0
DROPS = 1000  # of 5 ms each: several times the limit


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["settings", "create"])
@pytest.mark.parametrize("status", ["200 OK", "500 Oh"])
async def test_slow_small_response_times_out(
    api: Api, hostile: Hostile, operation: Operation, status: str
) -> None:
    body = WELL[operation].partition(b"\r\n\r\n")[2].rjust(DROPS)
    hostile.on(operation, Dripping(head(JSON, status=status), body))
    outcome = await chat(api, hostile, timeouts=Timeouts(idle=SECONDS))
    assert isinstance(outcome.error, TransportTimeoutError)
    assert outcome.error.limit == "idle"


@pytest.mark.slow
@pytest.mark.parametrize("status", ["200 OK", "500 Oh"])
@pytest.mark.parametrize("limit", ["idle", "total"])
async def test_slow_page_instead_of_a_stream_is_an_error(
    api: Api, hostile: Hostile, status: str, limit: str
) -> None:
    hostile.on("message", Dripping(head(HTML, status=status), b"x" * DROPS))
    limits = {"first_token": SECONDS, limit: SECONDS}
    outcome = await chat(api, hostile, timeouts=Timeouts(**limits))
    # The page itself is the error, not its slowness.
    assert isinstance(outcome.error, ProtocolError if status == "200 OK" else TransportTimeoutError)
    assert hostile.sent["message"] < DROPS


@pytest.mark.slow
async def test_slow_line_times_out(api: Api, hostile: Hostile) -> None:
    line = event("x" * DROPS)
    hostile.on("message", Dripping(head(EVENTS) + event(" Hel"), line + END))
    outcome = await chat(api, hostile, timeouts=Timeouts(idle=SECONDS))
    assert isinstance(outcome.error, TransportTimeoutError)
    assert (outcome.error.limit, outcome.error.partial) == ("idle", " Hel")


@pytest.mark.slow
async def test_slow_deletion_times_out(api: Api, hostile: Hostile) -> None:
    hostile.on("delete", Dripping(head(), b"x" * DROPS))
    outcome = await chat(api, hostile, timeouts=Timeouts(idle=SECONDS, cleanup=SECONDS))
    assert outcome.kind is Reply
    assert 1 <= hostile.operations.count("delete") <= 2
    assert hostile.sent["delete"] < DROPS


@pytest.mark.slow
async def test_slow_web_search_times_out(api: Api, hostile: Hostile) -> None:
    body = b'{"messages":[{"type":"result","id":"abc"}]}'
    again: Pieces = [head(JSON), *(b'{"messages":[]}', 0.005) * DROPS, body]
    for pieces in (Dripping(head(JSON), body.rjust(DROPS)), again):
        hostile.on("search", pieces)
        limits = Timeouts(idle=SECONDS)
        async with (
            api.client(hostile.url, timeouts=limits, **ONCE) as client,
            client.conversation() as conversation,
        ):
            with pytest.raises(TransportTimeoutError):
                await conversation.send(PROMPT, web_search=True)
    await api.wait(hostile.settled)


async def test_endless_web_search_is_an_error(api: Api, hostile: Hostile) -> None:
    for start, again in ((b'{"messages":["', BLOCK), (b"[", BLOCK), (b"<html>", BLOCK)):
        pieces = Endless(head(JSON) + start, again)
        hostile.on("search", pieces)
        async with (
            api.client(hostile.url, timeouts=Timeouts(idle=1), **ONCE) as client,
            client.conversation() as conversation,
        ):
            with pytest.raises(H2oError):
                await conversation.send(PROMPT, web_search=True)
        await api.wait(hostile.settled)
        assert hostile.sent["search"] < 3 * IN_FLIGHT
    assert "message" not in hostile.operations


# Retries


@pytest.mark.parametrize(
    "wait", ["999999999999999999999", "86400", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 5000]
)
@pytest.mark.parametrize("operation", ["settings", "create", "message"])
@pytest.mark.parametrize("status", ["429 Slow", "503 Full"])
async def test_excessive_retry_after_is_not_waited_for(
    api: Api, hostile: Hostile, operation: Operation, wait: str, status: str
) -> None:
    date = "Date: Fri, 20 Nov 2026 16:58:14 GMT"
    hostile.on(operation, answer(b"{}", JSON, f"Retry-After: {wait}", date, status=status))
    outcome = await chat(api, hostile, retries=3)
    assert isinstance(outcome.error, RateLimitError | OverloadedError)
    assert outcome.error.retry_after is not None
    assert outcome.error.retry_after >= 86400
    assert hostile.operations.count(operation) == 1


# Recovery


@pytest.mark.parametrize(
    "body",
    [
        b"\0",
        b"[" * 100_000,
        b'{"type":"data","nodes":[{"type":"data","data":[[-7,999999999999]]}]}',
        b'{"type":"data","nodes":[{"type":"data","data":[{"messages":0,"title":0,"model":0}]}]}',
        b'{"type":"data","nodes":[null,{"type":"error","status":500,"error":{"message":7}}]}',
    ],
)
async def test_invalid_data_during_recovery_is_an_error(
    api: Api, hostile: Hostile, body: bytes
) -> None:
    hostile.on("message", head(EVENTS) + event(" Hel"))
    hostile.on("data", answer(body, JSON))
    outcome = await chat(api, hostile, recover=True, timeouts=Timeouts(recovery=0.01))
    assert outcome.error is not None
    assert outcome.error.partial == " Hel"
    assert "data" in hostile.operations
    assert hostile.operations[-1] == "delete"


@pytest.mark.slow
async def test_endless_data_during_recovery_is_an_error(api: Api, hostile: Hostile) -> None:
    hostile.on("message", head(EVENTS) + event(" Hel"))
    hostile.on("data", Endless(head(JSON), b"[" * MIB))
    outcome = await chat(api, hostile, recover=True, timeouts=Timeouts(recovery=0.01))
    assert outcome.kind is IncompleteStreamError
    looks = hostile.operations.count("data")
    assert hostile.sent["data"] < looks * (64 * MIB + IN_FLIGHT + 2 * MIB)


# TLS


@pytest.fixture
def secure() -> Iterator[Hostile]:
    with Hostile(tls=True) as running:
        yield running


async def test_custom_http_client_may_trust_a_certificate(api: Api, secure: Hostile) -> None:
    own = {"verify": ssl.create_default_context(cadata=CERTIFICATE)}
    assert (await chat(api, secure, own=own)).kind is Reply
    assert secure.operations == ["root", *OPERATIONS]
