"""Failures: each error has its class, message and `partial`, and nothing is left on the server."""

import copy
import pickle
import traceback
from typing import Any

import httpx
import pytest
from backends import ONCE, Api, endless

from h2o_client import (
    ForbiddenError,
    GenerationError,
    H2oError,
    IncompleteStreamError,
    InvalidRequestError,
    LoginRequiredError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    PromptTooLargeError,
    ProtocolError,
    RateLimitError,
    RedirectError,
    Retries,
    ServerError,
    StatusError,
    TermsNotAcceptedError,
    Timeouts,
    TransportError,
    TransportTimeoutError,
    UnsupportedServerError,
)
from h2o_client.emulator import Answer, Emulator, Fault

STATUSES: list[tuple[int, type[StatusError]]] = [
    (302, RedirectError),
    (308, RedirectError),
    (400, StatusError),
    (401, LoginRequiredError),
    (403, ForbiddenError),
    (404, NotFoundError),
    (410, ModelUnavailableError),
    (413, PromptTooLargeError),
    (415, StatusError),
    (422, InvalidRequestError),
    (429, RateLimitError),
    (500, ServerError),
    (502, ServerError),
    (503, OverloadedError),
    (504, ServerError),
]


def is_theirs(item: object) -> bool:
    return type(item).__module__.startswith(("httpx", "httpcore", "h11"))


def check_whole(error: H2oError) -> None:
    """Check that an error holds no httpx objects, and can be pickled."""
    # httpx's errors hold the request, and with it the session; error trackers show such frames.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for name, value in frame.f_locals.items():
            assert not (isinstance(value, BaseException) and is_theirs(value)), (frame, name)
    seen: list[object] = [error]
    for item in seen:
        assert not is_theirs(item), item
        if isinstance(item, BaseException):
            found = [item.__cause__, item.__context__, *item.args, *vars(item).values()]
            seen.extend(each for each in found if each is not None and each not in seen)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


async def fails(api: Api, **options: Any) -> H2oError:
    """Return the error of a chat; nothing may be left on the server, before and after closing."""
    async with api.client(**{**ONCE, **options}) as client:
        with pytest.raises(H2oError) as caught:
            await client.chat("Hi")
        await api.settled()
    error = caught.value
    check_whole(error)
    return error


# Statuses


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_error_status_raises_its_class(
    api: Api, server: Emulator, status: int, kind: type[StatusError]
) -> None:
    for on in ("settings", "create", "message"):
        server.fail(status, on=on)
        error = await fails(api)
        if (status, on) in (
            (404, "settings"),
            (501, "settings"),
        ):  # every chat-ui has these endpoints
            assert type(error) is UnsupportedServerError
            continue
        assert type(error) is kind
        assert isinstance(error, StatusError)
        assert error.status == status
        assert str(status) in str(error)
        assert error.partial == ""


@pytest.mark.parametrize("status", [302, 404, 405, 429, 500, 503])
async def test_error_status_of_the_deletion_does_not_affect_the_answer(
    api: Api, server: Emulator, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply(" Whole", " too")
    gone = status == 404
    server.fault("delete", Fault(status, body={"message": "no"}, processed=gone))
    async with api.client(retries=0) as client:
        assert (await client.chat("Hi")).text == " Whole"
        left = await api.wait(lambda: server.conversations)
        assert len(left) == (not gone)
        assert (await client.chat("Hi")).text == " too"
    if not gone:
        assert "could not be cleaned up" in caplog.text
        assert [request.kind for request in server.requests].count("delete") == 3
    await api.settled()


async def test_405_means_terms_or_a_wrong_method(api: Api, server: Emulator) -> None:
    server.fault("settings", Fault(405), Fault(405, body="Method Not Allowed"))
    assert type(await fails(api)) is TermsNotAcceptedError
    error = await fails(api)
    assert type(error) is UnsupportedServerError
    assert "Method Not Allowed" in str(error)


@pytest.mark.parametrize("on", ["create", "message"])
async def test_forgotten_session_is_opened_again(api: Api, server: Emulator, on: str) -> None:
    server.fault(on, Fault(405))
    server.reply(" Hello")
    async with api.client(**ONCE) as client:
        assert (await client.chat("Hi")).text == " Hello"
    kinds = [request.kind for request in server.requests]
    assert kinds.count("settings") == kinds.count(on) == 2
    await api.settled()


async def test_session_forgotten_repeatedly_is_an_error(api: Api, server: Emulator) -> None:
    server.fault("message", *[Fault(405)] * 5)
    assert type(await fails(api)) is TermsNotAcceptedError


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "One"}, "One"),
        ({"message": "Two"}, "Two"),
        ({"type": "error", "error": {"message": "Three"}}, "Three"),
        ({"error": "Four", "error_type": "new"}, "Four"),
        ("Five", "Five"),
        ("<html><body>Six</body></html>", "(an HTML page)"),
        (b"\xff\xfe\x00", "\ufffd\ufffd\x00"),
    ],
)
async def test_message_is_found_in_every_form_of_error(
    api: Api, server: Emulator, body: Any, message: str
) -> None:
    server.fault("message", Fault(500, body=body))
    error = await fails(api)
    assert isinstance(error, ServerError)
    assert error.message == message
    assert error.body


async def test_tgi_overload_is_recognised_with_any_status(api: Api, server: Emulator) -> None:
    server.reply(Answer(status=429, body={"error": "Full", "error_type": "overloaded"}))
    assert type(await fails(api)) is OverloadedError


async def test_redirect_is_not_followed(api: Api, server: Emulator) -> None:
    with Emulator() as other:
        for on, path in (("settings", "/settings"), ("create", "/conversation")):
            location = f"{other.url}/chat{path}"
            server.fault(on, Fault(307, headers={"location": location}, body=""))
            error = await fails(api)
            assert isinstance(error, RedirectError)
            assert error.location == location
            assert error.base_url == f"{other.url}/chat"
            assert f"{other.url}/chat" in str(error)
        assert other.requests == []


async def test_settings_redirect_to_another_site_is_an_error(api: Api, server: Emulator) -> None:
    server.fault("settings", Fault(303, headers={"location": "https://login.test/"}, body=""))
    error = await fails(api)
    assert isinstance(error, RedirectError)
    assert error.location == "https://login.test/"


async def test_rate_limit_has_its_retry_after(api: Api, server: Emulator) -> None:
    server.fault("message", Fault(429, body="Slow", headers={"Retry-After": "7"}))
    error = await fails(api)
    assert isinstance(error, RateLimitError)
    assert error.retry_after == 7


# Unexpected responses


@pytest.mark.parametrize(
    ("on", "body"),
    [
        ("settings", "<html>Welcome</html>"),
        ("settings", {"type": "banana"}),
        ("create", "<html>Welcome</html>"),
        ("create", {"conversationId": "../../settings"}),
        ("create", {"conversationId": 7}),
        ("create", {}),
        ("message", "<html>Welcome</html>"),
        ("message", {"error": "No such thing"}),
        ("message", b""),
    ],
)
async def test_unexpected_200_response_is_an_error(
    api: Api, server: Emulator, on: str, body: Any
) -> None:
    server.fault(on, Fault(200, body=body))
    error = await fails(api)
    # The first request of a session detects the kind of server.
    assert type(error) is (UnsupportedServerError if on == "settings" else ProtocolError)
    assert "200" in str(error)
    if isinstance(body, str):
        assert "text/html" in str(error)
        assert "Welcome" in str(error)


@pytest.mark.parametrize(
    "raw",
    [
        b"data:{\n\n",
        b"data:7\n\n",
        b'data:{"token":7}\n\n',
        b"data:\xff\n\n",
        b"data:" + b"x" * (1 << 21),
    ],
)
async def test_malformed_event_is_a_protocol_error(api: Api, server: Emulator, raw: bytes) -> None:
    server.reply(Answer(raw=raw))
    error = await fails(api)
    assert type(error) is ProtocolError
    assert len(str(error)) < 2000


# Connections


@pytest.mark.parametrize("on", ["settings", "create"])
async def test_connection_lost_before_the_message_is_an_error(
    api: Api, server: Emulator, on: str
) -> None:
    server.fault(on, Fault(disconnect=True))
    error = await fails(api)
    assert type(error) is TransportError
    assert error.sent


@pytest.mark.parametrize("on", ["settings", "create"])
async def test_lost_connections_and_gateway_errors_are_retried(
    api: Api, server: Emulator, on: str
) -> None:
    server.fault(on, Fault(disconnect=True), Fault(502), Fault(503))
    async with api.client(retries=Retries(base=0.001)) as client:
        assert (await client.chat("Hi")).text
    await api.settled()


async def test_lost_deletion_is_retried_immediately(api: Api, server: Emulator) -> None:
    server.fault("delete", Fault(disconnect=True))
    async with api.client(retries=Retries(base=0.001)) as client:
        assert (await client.chat("Hi")).text
        await api.settled()


async def test_rejected_message_is_sent_again(api: Api, server: Emulator) -> None:
    server.fail(503, times=2)
    async with api.client(retries=Retries(base=0.001), recover=False) as client:
        assert (await client.chat("Hi")).text
    assert server.generations == 1
    await api.settled()


async def test_message_lost_without_a_response_is_an_error(api: Api, server: Emulator) -> None:
    server.fault("message", Fault(disconnect=True))
    error = await fails(api)
    assert type(error) is IncompleteStreamError


async def test_refused_connection_is_a_transport_error(api: Api) -> None:
    with Emulator() as other:
        url = other.url
    async with api.client(url.replace("http://", "http://ann:hunter2@"), **ONCE) as client:
        with pytest.raises(TransportError, match="could not connect") as caught:
            await client.chat("Hi")
    assert not caught.value.sent
    assert url in str(caught.value)
    assert "hunter2" not in str(caught.value)
    check_whole(caught.value)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_cut_stream_is_an_error(api: Api, server: Emulator, after: int) -> None:
    server.reply(Answer(" One two three four", drop_after=after))
    error = await fails(api)
    assert type(error) is IncompleteStreamError
    assert error.partial == " One two three"[: [0, 4, 8, 14][after]]


@pytest.mark.parametrize("ending", ["clean", "cut"])
async def test_stream_that_ends_early_is_an_error(api: Api, server: Emulator, ending: Any) -> None:
    server.reply(Answer(" One two", ending=ending))
    error = await fails(api)
    assert type(error) is IncompleteStreamError
    assert error.partial == " One two"
    server.reply(Answer("", ending=ending))
    assert type(await fails(api)) is IncompleteStreamError


async def test_stream_that_ends_within_a_line_is_an_error(api: Api, server: Emulator) -> None:
    server.reply(Answer(" One", ending="midline"))
    error = await fails(api)
    assert isinstance(error, IncompleteStreamError | ProtocolError)
    assert error.partial == " One"


async def test_connection_lost_after_the_final_event_is_ignored(api: Api, server: Emulator) -> None:
    final = '{"token":{"id":2,"text":"x","logprob":0,"special":true},"generated_text":""}'
    server.reply(Answer(raw=f"data:{final}\n\n".encode(), ending="cut"))
    async with api.client(**ONCE) as client:
        assert (await client.chat("Hi")).finish_reason == "eos_token"
    await api.settled()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("validation", InvalidRequestError),
        ("generation", GenerationError),
        ("overloaded", OverloadedError),
    ],
)
async def test_error_event_raises_its_error(
    api: Api, server: Emulator, kind: str, expected: type[H2oError]
) -> None:
    server.reply(Answer(" One two", ending="error", error="It broke", error_type=kind))
    error = await fails(api)
    assert type(error) is expected
    assert error.partial == " One two"
    assert "It broke" in str(error)


async def test_tokens_before_an_error_are_returned_first(api: Api, server: Emulator) -> None:
    server.reply(Answer(" One two", ending="error", join=3))
    texts = []
    async with api.client(**ONCE) as client, client.stream("Hi") as stream:
        with pytest.raises(GenerationError):  # noqa: PT012 -- what came before it counts
            async for text in stream:
                texts.append(text)  # noqa: PERF401 -- the same
        assert stream.text == " One two"
        with pytest.raises(RuntimeError, match="not been read to its end"):
            _ = stream.reply
        with pytest.raises(RuntimeError, match="closed"):
            await anext(stream)
    assert texts == [" One", " two"]
    await api.settled()


# Timeouts


@pytest.mark.parametrize("on", ["settings", "create"])
async def test_silence_before_the_message_times_out(api: Api, server: Emulator, on: str) -> None:
    server.fault(on, Fault(hang=True))
    error = await fails(api, timeouts=Timeouts(idle=0.05))
    assert isinstance(error, TransportTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.limit == "idle"


async def test_silence_before_the_first_token_times_out(api: Api, server: Emulator) -> None:
    server.reply(endless(held=0))
    error = await fails(api, timeouts=Timeouts(first_token=0.05))
    assert isinstance(error, TransportTimeoutError)
    assert (error.limit, error.partial) == ("first_token", "")


@pytest.mark.slow
async def test_silence_between_tokens_times_out(api: Api, server: Emulator) -> None:
    server.reply(endless(" One", " two"))
    error = await fails(api, timeouts=Timeouts(idle=1))
    assert isinstance(error, TransportTimeoutError)
    assert (error.limit, error.partial) == ("idle", " One two")


async def test_comments_are_not_tokens(api: Api, server: Emulator) -> None:
    server.reply(Answer([" One", *[""] * 3], pace=0.03, comments=[1] * 3), endless(" One"))
    async with api.client(timeouts=Timeouts(idle=2), **ONCE) as client:
        assert (await client.chat("Hi")).text == " One"


@pytest.mark.slow
async def test_total_timeout_limits_a_call(api: Api, server: Emulator) -> None:
    server.reply(Answer([" x"] * 1000, pace=0.01))
    error = await fails(api, timeouts=Timeouts(total=1.5))
    assert isinstance(error, TransportTimeoutError)
    assert error.limit == "total"
    assert error.partial.startswith(" x")


# Errors of a custom httpx client


async def test_error_in_a_hook_holds_no_httpx_objects(api: Api, server: Emulator) -> None:
    def check(response: httpx.Response) -> None:
        response.raise_for_status()

    async def check_async(response: httpx.Response) -> None:
        response.raise_for_status()

    server.fail(404, on="create")
    hook = check if api.backend == "sync" else check_async
    # 3xx raises, too, and settings are redirected if HTML is accepted, so they are not checked
    # here.
    http = api.http_client(event_hooks={"response": [hook]})
    try:
        error = await fails(api, http_client=http)
        assert isinstance(error, NotFoundError)
    finally:
        await api.close_http(http)
