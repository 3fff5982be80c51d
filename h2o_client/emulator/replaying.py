"""Answers from recorded exchanges: files of the capture format, your own or the project's.

A request is answered from an exchange with the same method, path and body, apart from ids that
clients generate. If several match, the least used one is chosen, preferably from the same
conversation, then in the order of recording. So a program that sends the same requests in the same
order always gets the same answers. In answers, the ids and the address of the recording are
replaced by the client's. A request that was not recorded is answered with 501 and a message.

An answer is sent without delay, in the recorded chunks, and ends as recorded. A stopped answer
waits for its stop.
"""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import anyio

from h2o_client.emulator.prompt import generated_text
from h2o_client.emulator.recording import redacted
from h2o_client.emulator.store import Bounded
from h2o_client.emulator.web import Answered, Feed, Headers, Request, Response, produced

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_ID = r"\b[0-9a-f]{24}\b"
_NAMES = re.compile(f"{_UUID}|{_ID}")
PER_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
MAX_SESSIONS = 1000
STREAMS = ("text/event-stream", "application/jsonl")
STOPPED = b'"interrupted":true'
"""Occurs in the last events of a stopped answer of a 2025 server."""

Kind = Callable[[str, str], str]


@dataclass(slots=True, eq=False)
class _Exchange:
    """One recorded exchange.

    Attributes:
        request: The recorded request.
        response: The recorded response.
        used: The number of times it was replayed.
        until_stop: Whether it ended because its conversation was stopped.
    """

    request: Request
    response: Mapping[str, Any]
    used: int = 0
    until_stop: bool = False

    @property
    def whole(self) -> bool:
        """Whether the response is complete."""
        return self.response["ended"] in {"final-chunk", "content-length", "no-body"}


class Replay:
    """Answers requests from the files of a folder.

    Args:
        folder: The folder with the files.
        cookie_name: The session cookie's name.
        kind: Returns the kind of request of a method and path.
        pace: Seconds between the chunks of a stream.

    Raises:
        ValueError: The folder is empty, or a file is not a recording.
        OSError: It cannot be read.
    """

    def __init__(self, folder: Path, cookie_name: str, kind: Kind, pace: float) -> None:
        self._cookie = cookie_name
        self._pace = pace
        self._by_shape: defaultdict[str, list[_Exchange]] = defaultdict(list)
        self._names: Bounded[dict[str, str]] = Bounded(MAX_SESSIONS)  # by session
        self._stops: Bounded[anyio.Event] = Bounded(MAX_SESSIONS)
        found = 0
        for path in sorted(folder.rglob("*.json")):
            for exchange in _load(path, kind):
                self._by_shape[_shape(exchange.request)].append(exchange)
                found += 1
        if not found:
            raise ValueError(f"no recorded exchanges found in {folder}")

    async def answer(self, request: Request, spawn: Callable[..., object]) -> Answered:
        """Answer a request as recorded."""
        exchange = self._choose(request)
        if request.kind == "stop":
            self._stop_event(request.path).set()
        elif request.kind == "message":  # only a later request can stop it
            self._stops.pop(_conversation(request.path), None)
        if exchange is None:
            text = json.dumps({"message": f"nothing was recorded for: {_title(request)}"})
            return Response(501, [("content-type", "application/json")], text.encode())
        exchange.used += 1
        names = self._renames(request, exchange)
        response = exchange.response
        if response["status"] is None:
            if exchange.until_stop:
                await self._stop_event(request.path).wait()
            return None
        headers: Headers = [
            (name.lower(), _renamed(value, names))
            for name, value in response["headers"]
            if name.lower() not in PER_CONNECTION
        ]
        status = int(response["status"])
        stream = _header(response["headers"], "content-type").startswith(STREAMS)
        chunks = _chunks(response)
        if not stream:
            chunks = [_renamed_bytes(chunk, names) for chunk in chunks]
        if exchange.whole and not stream:
            body = b"".join(chunks)
            told = _header(response["headers"], "content-length")
            if response["ended"] == "content-length":
                headers.append(("content-length", str(len(body))))
            elif told:  # for HEAD: the length of the body that is not sent
                headers.append(("content-length", told))
            return Response(status, headers, body)
        play = partial(self._play, request, exchange, chunks)
        return produced(play, spawn, status, headers, endless=not exchange.whole)

    async def _play(
        self, request: Request, exchange: _Exchange, chunks: list[bytes], feed: Feed
    ) -> None:
        for number, chunk in enumerate(chunks):
            if number and self._pace:
                await anyio.sleep(self._pace)
            if exchange.until_stop and STOPPED in chunk:
                await self._stop_event(request.path).wait()
            feed.put(chunk)
        if exchange.until_stop:
            await self._stop_event(request.path).wait()
        complete = generated_text(b"".join(chunks).decode(errors="replace")) is not None
        if exchange.whole or complete:
            feed.end()
        elif exchange.response["ended"] == "eof":
            feed.end(lost=True)
        # Otherwise the client closed the connection, and will do so again.

    def _choose(self, request: Request) -> _Exchange | None:
        known = self._by_shape.get(_shape(request))
        if not known:
            return None
        return min(known, key=lambda item: (item.request.path != request.path, item.used))

    def _renames(self, request: Request, exchange: _Exchange) -> dict[str, str]:
        """Map the recording's ids and hosts to the live ones in the same places."""
        session = request.cookie(self._cookie)
        known = self._names.use(session)
        if known is None:
            known = {}
            self._names.put(session, known)
        recorded = exchange.request
        if session and recorded.cookie(self._cookie):
            known[recorded.cookie(self._cookie)] = quote(session)  # it is sent in a header
        theirs = _NAMES.findall(recorded.body.decode(errors="replace"))
        ours = _NAMES.findall(request.body.decode(errors="replace"))
        if len(theirs) == len(ours):
            known.update(zip(theirs, ours, strict=True))
        here = dict(known)
        here.update(zip(_NAMES.findall(recorded.path), _NAMES.findall(request.path), strict=True))
        hosts = recorded.header("host"), request.header("host")
        if hosts[0] and hosts[1]:
            here[f"//{hosts[0]}"] = f"//{hosts[1]}"
        return here

    def _stop_event(self, path: str) -> anyio.Event:
        name = _conversation(path)
        event = self._stops.use(name)
        if event is None:
            event = anyio.Event()
            self._stops.put(name, event)
        return event


def _load(path: Path, kind_of: Kind) -> list[_Exchange]:
    """The exchanges of one file."""
    made: list[_Exchange] = []
    stopped: set[str] = set()
    try:
        scenario = json.loads(path.read_text("utf-8"))
        for item in scenario["exchanges"]:
            asked = item["request"]
            where, _, query = str(asked["path"]).partition("?")
            method = str(asked["method"])
            body = (asked["body"] or "").encode(errors="surrogatepass")
            headers = [(str(name).lower(), str(value)) for name, value in asked["headers"]]
            kind = kind_of(method, where)
            request = Request(kind, method, where, query, headers, body, 0.0)
            exchange = _Exchange(request, cast("Mapping[str, Any]", item["response"]))
            conversation = _conversation(where)
            if kind == "stop":
                stopped.add(conversation)
            elif kind == "message":
                cut = exchange.response["ended"] == "eof"
                told = STOPPED in str(exchange.response.get("body_text")).encode()
                exchange.until_stop = conversation in stopped and (cut or told)
                stopped.discard(conversation)
            made.append(exchange)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path.name} is not a recording: {type(error).__name__}: {error}"
        ) from error
    return made


def _chunks(response: Mapping[str, Any]) -> list[bytes]:
    made: list[bytes] = []
    whole = {"text": response.get("body_text") or ""}
    if "body_base64" in response:
        whole = {"base64": response["body_base64"]}
    for chunk in response.get("chunks") or [whole]:
        if "text" in chunk:
            made.append(str(chunk["text"]).encode(errors="surrogatepass"))
        elif "base64" in chunk:
            made.append(base64.b64decode(chunk["base64"]))
        else:  # some were left out
            return [str(response["body_text"]).encode(errors="surrogatepass")]
    return [chunk for chunk in made if chunk]


def _conversation(path: str) -> str:
    found = re.search(r"/conversation/([^/?]+)", path)
    return found.group(1) if found else ""


def _shape(request: Request) -> str:
    """The part of a request that must match: everything but ids."""
    body: object
    try:
        if request.media_type == "multipart/form-data" or "form" in request.media_type:
            body = request.form()
        else:
            body = request.json() if request.body else None
    except ValueError:
        body = request.body.decode(errors="replace")
    query = redacted(f"?{request.query}") if request.query else ""  # as recorded
    text = json.dumps([request.method, request.path.rstrip("/"), query, body], sort_keys=True)
    return _NAMES.sub("*", text)


def _title(request: Request) -> str:
    """A short description of a request, for the message that it was not recorded."""
    text = " ".join(request.body.decode(errors="replace").split())
    return f"{request.method} {request.path} {text[:200]}".rstrip()


def _header(headers: list[list[str]], name: str) -> str:
    return next((value for key, value in headers if key.lower() == name), "")


def _renamed_bytes(data: bytes, names: Mapping[str, str]) -> bytes:
    """Replace names in a body, unless it is binary, such as a file."""
    try:
        return _renamed(data.decode(), names).encode()
    except UnicodeDecodeError:
        return data


def _renamed(text: str, names: Mapping[str, str]) -> str:
    if not names:
        return text
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda match: names[match[0]], text)
