"""Records the exchanges of an emulator in files of the capture format.

Each file holds the exchanges of one session, in the order in which they ended, and their requests
to the model; `tests/captures/README.md` describes the format. A file is rewritten atomically after
each exchange, so that it is always complete; a new one is started after `PER_FILE` exchanges, or
when it is `FULL`. If writing fails, the failure is logged, and the emulator continues.

The files contain prompts and answers, so only their owner can read them. Only headers and query
parameters that are known to be harmless are kept, and session ids are replaced.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from h2o_client.emulator.store import Bounded
from h2o_client.emulator.web import Request

PER_FILE = 100
MAX_OPEN = 100
"""The number of sessions whose files are still extended."""

FULL = 2 * 1024 * 1024
"""Characters after which a file is full."""

HARMLESS = {
    "accept", "accept-encoding", "accept-range", "accept-language", "cache-control", "connection",
    "content-disposition", "content-encoding", "content-length", "content-security-policy",
    "content-type", "expect", "host", "keep-alive", "origin",
    "pragma", "priority", "te", "transfer-encoding", "upgrade-insecure-requests", "user-agent",
    "x-sveltekit-action", "access-control-allow-credentials", "access-control-allow-headers",
    "access-control-allow-methods", "access-control-allow-origin", "access-control-expose-headers",
    "access-control-max-age", "age", "allow", "content-language", "date", "etag", "expires",
    "last-event-id", "last-modified", "retry-after", "server", "strict-transport-security", "vary",
    "x-accel-buffering", "x-compute-characters", "x-compute-time", "x-compute-type",
    "x-content-type-options", "x-frame-options", "x-inference-time", "x-powered-by",
    "x-queue-time", "x-sveltekit-normalize", "x-sveltekit-page", "x-time-per-token",
    "x-total-time", "x-validation-time",
}  # fmt: skip
"""Headers of requests and responses whose values are kept."""

URLS = {"location", "referer"}
"""Headers that are kept with the query of their URL redacted."""

HARMLESS_QUERY = {"fromSeq", "generationId", "model", "p", "prompt", "x-sveltekit-invalidated"}
LEFT_OUT = "(left out)"
QUERY_LEFT_OUT = "left-out"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Take:
    """One file that is being written."""

    path: Path
    exchanges: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    upstream: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Recorder:
    """Writes exchanges to files.

    Args:
        folder: The folder; it is created if it does not exist, and existing files are kept.
        cookie_name: The session cookie's name.
        server: The server's name in the files.
    """

    def __init__(self, folder: Path, cookie_name: str, server: str) -> None:
        for path in (*reversed(folder.parents), folder):
            if not path.is_dir():
                path.mkdir(mode=0o700)
        self._folder = folder
        self._cookie = cookie_name
        self._server = server
        self._salt = secrets.token_bytes()
        self._takes: Bounded[_Take] = Bounded(MAX_OPEN)
        self._number = len(list(folder.glob("*.json")))

    def tape(self, request: Request) -> Tape:
        """Start recording an exchange."""
        return Tape(request, self._done)

    def asked(self, session: str, body: object, tokens: int, outcome: str) -> None:
        """Record a request to a model."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        take = self._take(session)
        take.upstream.append(
            {
                "method": "POST",
                "path": "/",
                "body": text,
                "tokens_sent": tokens,
                "outcome": outcome,
            }
        )
        self._write(take)

    def _done(self, request: Request, exchange: dict[str, Any]) -> None:
        session = request.cookie(self._cookie) or self._given(exchange)
        referer = request.header("referer") or ""
        for part in (exchange["request"], exchange["response"]):
            if part["headers"]:
                part["headers"] = [
                    [name, self._shown(name.lower(), value, session)]
                    for name, value in part["headers"]
                ]
        # The response to a form redirects to the referer, which is in its body, too.
        response = exchange["response"]
        for holder in (response, *response.get("chunks", ())):
            for key in ("text", "body_text"):
                if referer and key in holder:
                    holder[key] = holder[key].replace(referer, redacted(referer))
        take = self._take(session)
        take.exchanges.append(exchange)
        full = self._write(take) > FULL
        if full or len(take.exchanges) >= PER_FILE:
            del self._takes[session]

    def _given(self, exchange: dict[str, Any]) -> str:
        """The session in the response."""
        for name, value in exchange["response"]["headers"] or []:
            if name.lower() == "set-cookie" and value.startswith(f"{self._cookie}="):
                return str(value).partition("=")[2].partition(";")[0]
        return ""

    def _shown(self, header: str, value: str, session: str) -> str:
        """A header's value, without secrets."""
        cookie = f"{self._cookie}={self._alias(session)}"
        if header == "cookie":
            return cookie if f"{self._cookie}=" in value else LEFT_OUT
        if header == "set-cookie":
            pair, semicolon, attributes = value.partition(";")
            name = pair.partition("=")[0]
            new = cookie if name == self._cookie else f"{name}={LEFT_OUT}"
            return f"{new}{semicolon}{attributes}"
        if header in URLS:
            return redacted(value)
        return value if header in HARMLESS else LEFT_OUT

    def _alias(self, session: str) -> str:
        """The replacement for a session's id, which is always the same."""
        return str(UUID(bytes=hmac.digest(self._salt, session.encode(), "sha256")[:16]))

    def _take(self, session: str) -> _Take:
        take = self._takes.use(session)
        if take is None:
            while True:
                self._number += 1
                path = self._folder / f"session-{self._number:04}.json"
                if not path.exists():
                    break
            take = _Take(path)
            self._takes.put(session, take)
        return take

    def _write(self, take: _Take) -> int:
        """Write a file; returns its length."""
        scenario = {
            "name": take.path.stem,
            "note": "recorded by the emulator",
            "server": self._server,
            "exchanges": take.exchanges,
            "upstream": take.upstream,
        }
        text = json.dumps(scenario, ensure_ascii=False, indent=1)
        unfinished = take.path.with_suffix(".part")
        try:
            unfinished.unlink(missing_ok=True)
            with open(unfinished, "xb", opener=_private) as file:
                file.write(text.encode(errors="backslashreplace"))
            os.replace(unfinished, take.path)
        except OSError as error:
            logger.warning("cannot record: %s", error)
        return len(text)


class Tape:
    """One exchange that is being recorded."""

    def __init__(self, request: Request, done: Callable[[Request, dict[str, Any]], None]) -> None:
        self._request = request
        self._done = done
        self._begun = time.monotonic()
        self._status: int | None = None
        self._reason: str | None = None
        self._headers: list[tuple[str, str]] | None = None
        self._headers_at: int | None = None
        self._chunks: list[tuple[int, bytes]] = []
        self._ended = False

    def head(self, status: int, reason: str, headers: list[tuple[str, str]]) -> None:
        """Record the head of the response."""
        self._status, self._reason, self._headers = status, reason, headers
        self._headers_at = self._now()

    def chunk(self, data: bytes) -> None:
        """Record a part of the body."""
        self._chunks.append((self._now(), data))

    def end(self, ended: str = "") -> None:
        """Record how the response ended, by default completely; only the first call counts."""
        if self._ended:
            return
        self._ended = True
        request = self._request
        if not ended and request.method == "HEAD":
            ended = "no-body"
        elif not ended:
            chunked = any(name.lower() == "transfer-encoding" for name, _ in self._headers or ())
            ended = "final-chunk" if chunked else "content-length"
        asked = f"{request.path}?{request.query}" if request.query else request.path
        body = request.body.decode(errors="replace") if request.body else None
        self._done(
            request,
            {
                "name": f"{request.method} {request.kind}",
                "note": "",
                "request": {
                    "method": request.method,
                    "path": redacted(asked),
                    "headers": request.headers,
                    "body": body,
                },
                "response": {
                    "status": self._status,
                    "reason": self._reason,
                    "headers": self._headers,
                    "headers_at_ms": self._headers_at,
                    "ended": ended,
                    "elapsed_ms": self._now(),
                    "body_text": b"".join(data for _, data in self._chunks).decode(
                        errors="replace"
                    ),
                    **(
                        {"chunks": [_chunk(*item) for item in self._chunks]} if self._chunks else {}
                    ),
                },
            },
        )

    def _now(self) -> int:
        return round((time.monotonic() - self._begun) * 1000)


def redacted(url: str) -> str:
    """A URL or path without possible secrets: user, password and values of the query."""
    url, question, query = url.partition("#")[0].partition("?")
    scheme, slashes, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if slashes:
        url = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    pairs: list[str] = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        action = not equals and name.startswith("/")  # of a form, such as ?/delete
        known = name in HARMLESS_QUERY or action
        pairs.append(pair if known else f"{name}={QUERY_LEFT_OUT}" if equals else QUERY_LEFT_OUT)
    return f"{url}?{'&'.join(pairs)}" if question else url


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner can read, whatever the umask is."""
    return os.open(path, flags, 0o600)


def _chunk(moment: int, data: bytes) -> dict[str, Any]:
    """A chunk, as text if possible; it can end within a character."""
    try:
        return {"t_ms": moment, "text": data.decode()}
    except UnicodeDecodeError:
        return {"t_ms": moment, "base64": base64.b64encode(data).decode()}
