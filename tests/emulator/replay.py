"""Replays recorded exchanges against the emulator, over plain ``http.client``.

The recorder ran a model server of its own, controlled by ``[[...]]`` marks in the last message;
`Stub` reimplements that model server.  Values that a server makes up (ids, session ids, dates) are
matched as they appear; everything else must be equal, byte for byte unless it is a page.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from h2o_client.emulator import Answer, Emulator, GenerationRequest

CAPTURES = Path(__file__).parent.parent / "captures"
STANDARD: list[str] = re.findall(
    r" h(?=2)|2|o(?=G)|GPT|[!,.?]| ?\w+",
    " Hello! I am a stub of h2oGPT, running on loopback. How can I help?",
)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
INVENTED = {"date", "etag", "link", "content-length", "set-cookie"}
TOO_LONG = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. "
    "Given: 1530 `inputs` tokens and 1024 `max_new_tokens`"
)
BAD_JSON = (
    "Failed to deserialize the JSON body into the target type: parameters.temperature: "
    'invalid type: string "x", expected f32 at line 1 column 60'
)
SLOW = [f" slow{i}" for i in range(60)]


def load(name: str) -> dict[str, Any]:
    """Load one capture, such as ``0.4/01_happy_path``."""
    version, _, scenario = name.partition("/")
    path = CAPTURES / f"chat-ui-{version}" / f"{scenario}.json"
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


def names(*versions: str) -> list[str]:
    """Return all captures of some versions, by default those of 2023."""
    return sorted(
        f"{version}/{path.stem}"
        for version in versions or ("0.4", "0.6")
        for path in CAPTURES.glob(f"chat-ui-{version}/*.json")
    )


def tokens_of(text: str) -> list[str]:
    """Return the ordinary tokens in the text of a recorded stream."""
    events = [json.loads(line[5:]) for line in text.split("\n") if line.startswith("data:{")]
    return [event["token"]["text"] for event in events if not event["token"]["special"]]


@dataclass
class Stub:
    """The recorder's model server, as an engine.

    Attributes:
        hold: Where the next slow or silent answer pauses.
        down: Whether the model server is unreachable.
        bodies: The requests it received.
        recorded: Tokens of answers that the capture defines, by mark.
    """

    hold: int | None = None
    down: bool = False
    bodies: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    recorded: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def __call__(self, request: GenerationRequest) -> Answer:
        """Answer as the marks in the last message say."""
        if self.down:
            return Answer(ending="down")
        self.bodies.append(request.body)
        if request.body["options"] == {} and not request.stream:
            title = request.messages[-1][1].startswith("Please summarize")
            return Answer([" Stub", " chat", " title"] if title else [" stub", " search", " query"])
        marks = re.findall(r"\[\[([^\]]*)\]\]", request.messages[-1][1])
        hold, self.hold = self.hold, None
        return self._marked(marks[0] if marks else "", hold)

    def _marked(self, mark: str, hold: int | None) -> Answer:  # noqa: C901 -- a flat table
        five = STANDARD[:5]
        name, _, number = mark.partition(" ")
        match name:
            case "details":
                return Answer(STANDARD, finish_reason="eos_token")
            case "empty":
                return Answer()
            case "eos-in-text":
                return Answer(STANDARD, ending="eos_in_text")
            case "length":
                return Answer(STANDARD, ending="length")
            case "error-422" | "error-424" | "error-503":
                return Answer(status=int(name[-3:]))
            case "overloaded":
                return Answer(status=429)
            case "error-422-text":
                return Answer(status=422, body=BAD_JSON)
            case "error-500-html":
                return Answer(status=500, body="<html>x</html>", content_type="text/html")
            case "gzip-header":
                extra = ("server", "tgi-stub"), ("x-upstream-secret", "internal-hostname-123")
                return Answer(STANDARD, headers=(*extra, ("set-cookie", "upstream=1; Path=/")))
            case "hang":
                return Answer(ending="down", first=0.005)
            case "incomplete":
                return _error("Incomplete generation", "incomplete_generation", five)
            case "midstream-error":
                return Answer(five, ending="error")
            case "sse-overloaded":
                return _error("Model is overloaded", "overloaded")
            case "sse-validation":
                return _error(TOO_LONG, "validation")
            case "keepalive":
                return Answer(STANDARD, comments=(2, 2))
            case "long":
                return Answer([f" w{i}" for i in range(int(number))])
            case "silent":
                return Answer(STANDARD, first=0.005, hold_after=hold)
            case "slow":
                return Answer(SLOW, hold_after=hold)
            case "split":
                return Answer(self.recorded[mark], split=7)
            case "truncate":
                return Answer(five, ending="cut")
            case "truncate-clean":
                return Answer(five, ending="clean")
            case "truncate-midline":
                return Answer(five, ending="midline")
            case "newlines" | "unicode":
                return Answer(self.recorded[mark])
            case _:
                return Answer(STANDARD)


def _error(error: str, error_type: str, tokens: list[str] | None = None) -> Answer:
    return Answer(tokens or [], ending="error", error=error, error_type=error_type)


class Clock:
    """A clock set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Got:
    """A received response."""

    status: int | None = None
    reason: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    ended: str = ""


class Replay:
    """One scenario, exchange by exchange."""

    def __init__(self, name: str, server: Emulator, stub: Stub, clock: Clock) -> None:
        self.name = name
        self.capture = load(name)
        self.exchanges: list[dict[str, Any]] = self.capture["exchanges"]
        self.server = server
        self.stub = stub
        self.clock = clock
        self.known: dict[str, str] = {}
        host = next(value for key, value in self._request(0)["headers"] if key == "Host")
        self.known[host] = server.url.removeprefix("http://")
        sent = json.dumps([exchange["request"] for exchange in self.exchanges]).lower()
        self.sent_ids = set(UUID.findall(sent))
        for exchange in self.exchanges:
            if "[[" in (exchange["request"]["body"] or ""):
                mark = re.findall(r"\[\[([^\]]*)\]\]", exchange["request"]["body"])[0]
                if mark in {"split", "newlines", "unicode"}:
                    stub.recorded[mark] = tokens_of(exchange["response"]["body_text"])

    def _request(self, index: int) -> dict[str, Any]:
        request: dict[str, Any] = self.exchanges[index]["request"]
        return request

    def index(self, name: str) -> int:
        """Return the index of the exchange with a name."""
        return next(i for i, item in enumerate(self.exchanges) if item["name"] == name)

    def ours(self, text: str) -> str:
        """Translate a recorded text to the values that this server made up."""
        for theirs, ours in self.known.items():
            text = text.replace(theirs, ours)
        return text

    def play(
        self, index: int, connection: http.client.HTTPConnection | None = None
    ) -> tuple[Got, dict[str, Any]]:
        """Send a request, read the response, and learn the values that the server made up."""
        exchange = self.exchanges[index]
        request, response = exchange["request"], exchange["response"]
        headers: list[tuple[str, str]] = response["headers"] or []
        for key, value in headers:
            if key.lower() == "date":
                moment = parsedate_to_datetime(value).timestamp()
                self.clock.now = max(self.clock.now, moment)
        own = connection is None
        connection = connection or http.client.HTTPConnection(
            self.server.url.removeprefix("http://"), timeout=5
        )
        try:
            got = self._send(connection, request, response)
        finally:
            if own:
                connection.close()
        self._learn(got, response)
        return got, exchange

    def _send(
        self,
        connection: http.client.HTTPConnection,
        request: dict[str, Any],
        response: dict[str, Any],
    ) -> Got:
        path = self.ours(request["path"])
        body = None if request["body"] is None else self.ours(request["body"]).encode()
        got = Got()
        try:
            connection.putrequest(
                request["method"], path, skip_host=True, skip_accept_encoding=True
            )
            for key, value in request["headers"]:
                length = key == "Content-Length" and body is not None
                connection.putheader(key, str(len(body or b"")) if length else self.ours(value))
            connection.endheaders(body)
            answer = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            got.ended = "eof"
            return got
        got.status, got.reason = answer.status, answer.reason
        got.headers = answer.getheaders()
        with answer:
            self._read(answer, connection, request, response, got)
        return got

    def _read(
        self,
        answer: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        request: dict[str, Any],
        response: dict[str, Any],
        got: Got,
    ) -> None:
        if response["ended"] in {"client-closed", "timeout"}:
            self._read_part(answer, response["body_text"], got)
            got.ended = response["ended"]
            if response["ended"] == "timeout":
                assert connection.sock is not None
                assert not select.select([connection.sock], [], [], 0.02)[0]
            connection.close()
            return
        try:
            got.body = answer.read()
        except http.client.IncompleteRead as cut:
            got.body, got.ended = cut.partial, "eof"
            return
        if request["method"] == "HEAD":
            got.ended = "no-body"
        else:
            got.ended = "final-chunk" if answer.chunked else "content-length"

    def _read_part(self, answer: http.client.HTTPResponse, told: str, got: Got) -> None:
        """Read as much as the recorder did before it disconnected."""
        length = len(self.ours(told).encode())
        while len(got.body) < length:
            got.body += answer.read1(length - len(got.body))

    def _learn(self, got: Got, response: dict[str, Any]) -> None:
        theirs, ours = response.get("body_text") or "", got.body.decode(errors="replace")
        for pattern in (
            r'"conversationId":"(\w+)"',
            r"/r/([\w-]{7})\"",
            r'"shareId":"([\w-]{7})"',
            r'"type":"result","id":"(\w+)"',
        ):
            found, made = re.search(pattern, theirs), re.search(pattern, ours)
            if found and made:
                self.known.setdefault(found.group(1), made.group(1))
        session, mine = cookie_of(response["headers"] or []), cookie_of(got.headers)
        if session and mine:
            self.known.setdefault(session, mine)

    def compare(self, got: Got, exchange: dict[str, Any]) -> None:
        """Compare everything that a client can see."""
        response = exchange["response"]
        name = exchange["name"]
        self._same(name, (got.status, got.ended), (response["status"], response["ended"]))
        if response["status"] is None:
            return
        self._same(name, got.reason, response["reason"])
        told = [(key, self.ours(value)) for key, value in response["headers"]]
        self._same(name, self._headers(got.headers), self._headers(told))
        self._same(name, cookies(got.headers), cookies(told))
        expected = self.ours(response.get("body_text") or "")
        if not expected.startswith("<html page omitted"):
            self._same(name, self.scrub(got.body.decode()), self.scrub(expected))

    @staticmethod
    def _same(name: str, ours: object, theirs: object) -> None:
        assert ours == theirs, f"{name}\n  ours: {ours}\ntheirs: {theirs}"

    def scrub(self, text: str) -> str:
        """Remove what servers make up: dates, and ids that no request contained."""
        text = MOMENT.sub("<moment>", text)
        return UUID.sub(
            lambda match: match[0] if match[0].lower() in self.sent_ids else "<uuid>", text
        )

    @staticmethod
    def _headers(headers: list[Any]) -> list[tuple[str, str]]:
        names = {key.lower() for key, _ in headers} & {"content-length", "date"}
        kept = [(key.lower(), value) for key, value in headers if key.lower() not in INVENTED]
        return sorted(kept) + [(key, "*") for key in sorted(names)]

    def compare_upstream(self) -> None:
        """Compare the requests to the model server, byte for byte."""
        asked = [json.dumps(b, ensure_ascii=False, separators=(",", ":")) for b in self.stub.bodies]
        # Invalid JSON is rejected before it reaches the stub.
        told = [item["body"] for item in self.capture["upstream"] if item["outcome"] != "415"]
        assert asked == [self.ours(body) for body in told]


def cookie_of(headers: list[Any]) -> str | None:
    """Return the session id in a response."""
    for key, value in headers:
        if key.lower() == "set-cookie" and value.startswith("hf-chat="):
            return str(value.partition("=")[2].partition(";")[0]) or None
    return None


def cookies(headers: Sequence[Any]) -> list[str]:
    """Return the cookies of a response, without the times and secrets in them."""
    values = [value for key, value in headers if key.lower() == "set-cookie"]
    values = [re.sub(r"Expires=\w{3}, (\d\d \w{3} \d{4}) [\d:]{8} GMT", r"\1", v) for v in values]
    return sorted(re.sub(r"codeVerifier=[^;]+", "codeVerifier=*", value) for value in values)


def background(
    play: Callable[[], tuple[Got, dict[str, Any]]],
) -> Callable[[], tuple[Got, dict[str, Any]]]:
    """Start an exchange in a thread; return a function that waits for its result."""
    result: list[tuple[Got, dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: result.append(play()))
    thread.start()

    def wait() -> tuple[Got, dict[str, Any]]:
        thread.join()
        return result[0]

    return wait
