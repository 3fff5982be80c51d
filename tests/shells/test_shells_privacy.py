"""Logs, reprs and errors do not show the session, the prompt, a password or a token.

httpx and httpcore have loggers of their own: httpx's shows URLs at INFO, without user and password;
httpcore's shows request headers at DEBUG, as the manual says.
"""

import logging
from typing import Any

import httpx
import pytest
from backends import ONCE, Api, endless
from confidential import ANSWER, PASSWORD, PROMPT, SESSION, TOKEN, check_kept

from h2o_client import H2oError, TransportError
from h2o_client.emulator import Answer, Emulator, Fault


async def test_logs_and_reprs_show_no_secrets(
    api: Api,
    server: Emulator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("H2O_CHAT_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG, "h2o_client")
    caplog.set_level(logging.INFO, "httpx")
    url = server.url.replace("http://", f"http://ann:{PASSWORD}@")
    for base_url in (server.url, url):
        server.reply(f" {ANSWER}", endless(f" {ANSWER}"))
        async with api.client(base_url, session=SESSION) as client:
            await client.chat(PROMPT)
            stream = client.stream(PROMPT)
            check_kept(repr(stream))
            await anext(stream)
            check_kept(repr(stream), repr(client), repr(stream.events()))
            await stream.aclose()
            check_kept(repr(stream))
        check_kept(repr(client))
    check_kept(*[record.getMessage() for record in caplog.records])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(401),
        Fault(405),
        Fault(500),
        Fault(503, headers={"x-session": SESSION}),
        Fault(disconnect=True),
        Fault(200, body="<html>"),
        Fault(307, headers={"location": "https://elsewhere.test/"}, body=""),
    ],
)
async def test_errors_show_no_secrets(
    api: Api,
    server: Emulator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setenv("H2O_CHAT_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG, "h2o_client")
    options: dict[str, Any] = {"share_conversations": False, **ONCE}
    for on in ("settings", "create", "message", "delete"):
        server.clear()
        server.fault(on, *[fault] * 3)
        server.reply(Answer(" x"))
        async with api.client(session=SESSION, **options) as client:
            try:
                await client.chat(PROMPT)
            except H2oError as error:
                check_kept(error, *vars(error).values(), *error.args)
            else:
                assert on == "delete"
    check_kept(*[record.getMessage() for record in caplog.records])


async def test_httpx_error_text_about_our_request_is_not_shown(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """The error quotes the invalid header."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value b'{TOKEN} '", request=request)

    http = api.http_client(transport=httpx.MockTransport(refuse))
    async with api.client(http_client=http, **ONCE) as client:
        with pytest.raises(TransportError, match="LocalProtocolError") as caught:
            await client.chat(PROMPT)
        error = caught.value
        check_kept(error, *error.args, *vars(error).values(), error.__cause__, error.__context__)
    check_kept(caplog.text)
    await api.close_http(http)
