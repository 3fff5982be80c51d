"""The log: quiet by default; with `H2O_CHAT_LOG`, it has each request, redacted."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from backends import Api
from confidential import ANSWER, PASSWORD, PROMPT, SECRETS, SESSION, TITLE, TOKEN

from h2o_client import H2oClient, Retries, Timeouts
from h2o_client.emulator import Answer, Emulator, Fault

LINE = re.compile(
    r"(settings|create|message|delete|stop|data|\w[\w ]*): "
    r"(GET|POST|PATCH|DELETE) answered (\d{3}) in \d+\.\d{3} s"
)


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """Our logger; changes by a test are undone."""
    logger = logging.getLogger("h2o_client")
    before, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def requests_in(lines: list[str]) -> list[tuple[str, str]]:
    """Return the methods and statuses in the log, in order."""
    found = [LINE.search(line) for line in lines]
    return [(match.group(2), match.group(3)) for match in found if match is not None]


# On and off


async def test_log_is_quiet_by_default(api: Api, server: Emulator, capfd: Any) -> None:
    server.reply(" One", Answer(" One two", drop_after=1))
    server.fault("settings", Fault(503))
    server.fault("delete", Fault(500))
    async with api.client(retries=Retries(base=0)) as client:
        await client.chat(PROMPT)  # includes a retry and a failing clean-up
        assert (await client.chat(PROMPT)).recovered
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("level", ["debug", "info", "DEBUG", "Info"])
async def test_each_request_is_logged_with_status_and_time(
    api: Api,
    server: Emulator,
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
) -> None:
    monkeypatch.setenv("H2O_CHAT_LOG", level)
    server.fault("settings", Fault(503))
    async with api.client(retries=Retries(base=0)) as client:
        await client.chat(PROMPT)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert requests_in(lines) == [
        ("POST", "503"),
        ("POST", "200"),
        ("POST", "200"),
        ("POST", "200"),
        ("DELETE", "200"),
    ]
    assert all(" h2o_client " in line for line in lines)
    assert out == ""


async def test_retries_and_recovery_are_logged(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "h2o_client")
    server.fault("create", Fault(503))
    server.reply(Answer(" One two three", drop_after=1))
    async with api.client(retries=Retries(base=0)) as client:
        assert (await client.chat("Hi")).recovered
    text = caplog.text
    assert re.search(r"attempt 2 in 0\.00 s, after OverloadedError", text)
    assert "the connection was lost; the answer was recovered" in text
    assert {record.levelname for record in caplog.records if "h2o_client" in record.name} == {
        "INFO"
    }


async def test_failed_clean_up_is_a_warning(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault("delete", Fault(500))
    async with api.client(retries=0) as client:
        await client.chat("Hi")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.name, record.levelname) == ("h2o_client", "WARNING")


def test_clients_share_one_handler(
    logger: logging.Logger, server: Emulator, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_LOG", "info")
    for _ in range(3):
        with H2oClient(server.url) as client:
            client.chat("Hi")
    assert len(requests_in(capfd.readouterr().err.splitlines())) == 3 * 4
    assert len(logger.handlers) == 2  # the null handler of every library, and this one


@pytest.mark.parametrize("level", ["", None])
def test_log_is_off_without_a_level(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, level: str | None
) -> None:
    if level is not None:
        monkeypatch.setenv("H2O_CHAT_LOG", level)
    with H2oClient("http://127.0.0.1:9"):
        pass
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]


@pytest.mark.parametrize("level", ["1", "true", "warning", "verbose", "debug,info"])
def test_invalid_level_is_rejected(api: Api, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("H2O_CHAT_LOG", level)
    with pytest.raises(ValueError, match=f"H2O_CHAT_LOG must be info or debug, not '{level}'"):
        api.client()


@pytest.mark.slow
def test_script_logs_to_stderr(server: Emulator) -> None:
    """As a user sees it: in a separate process, without configuration."""
    script = "import sys, h2o_client\nwith h2o_client.H2oClient(sys.argv[1]) as c: c.chat('Hi')"
    for level, count in (("", 0), ("info", 4), ("debug", 4)):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, server.url],
            env={**os.environ, "H2O_CHAT_LOG": level},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert len(done.stderr.splitlines()) == len(requests_in(done.stderr.splitlines())) == count
        assert done.stdout == ""


# Redaction


@pytest.mark.slow
async def test_log_contains_no_secrets(
    api: Api, server: Emulator, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_LOG", "debug")
    monkeypatch.setenv("H2O_CHAT_TOKEN", TOKEN)
    url = server.url.replace("http://", f"http://ann:{PASSWORD}@")
    told: list[str] = []
    for base_url in (server.url, url):
        server.reply(
            f" {ANSWER}",
            Answer(f" {ANSWER} two", drop_after=1),
            Answer(f" {ANSWER} two", ending="error", error=f"{ANSWER} it broke"),
            f" {ANSWER}",
        )
        server.fault("create", Fault(503, body=f"no room for {PROMPT}"), Fault(disconnect=True))
        options: dict[str, Any] = {"session": SESSION, "timeouts": Timeouts(recovery=0.05)}
        async with api.client(base_url, retries=Retries(base=0), **options) as client:
            await client.chat(PROMPT)
            await client.chat(PROMPT)
            with pytest.raises(Exception, match="it broke"):
                await client.chat(PROMPT)
            server.fault("delete", Fault(500, body=f"{PROMPT} {SESSION}"))
            async with client.conversation() as talk:
                await talk.send(PROMPT)
                await talk.rename(TITLE)
                await talk.history()
                conversation = str(talk.id)
            await client.conversations()
            await client.settings()
        out, err = capfd.readouterr()
        assert out == ""
        assert len(requests_in(err.splitlines())) > 15
        assert "could not be cleaned up" in err
        told.append(err)
        assert conversation not in err
    for text in told:
        # No body is logged, not even an error's; nor any header.
        for secret in (*SECRETS, "Basic", "Bearer", "hf-"):
            assert secret not in text, text
