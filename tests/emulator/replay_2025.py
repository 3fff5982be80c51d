"""Replays recorded exchanges of chat-ui 2025 against the emulator; see `replay`.

Values that a server makes up are matched by their place in the JSON of both responses.  The
tokens of a stream must be equal, in order and byte for byte; when titles and keep-alives arrive
between them is a matter of timing.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replay import MOMENT, UUID, Clock, Got, Replay, cookies, load

from h2o_client.emulator import Answer, Emulator, GenerationRequest, Model

STANDARD = [
    *("Hello", "!", " I", " am", " a", " stub", " of", " an", " OpenAI", "-compatible", " server"),
    *(",", " running", " on", " loopback", ".", " How", " can", " I", " help", "?"),
]
MODELS = (
    Model("stub/alpha", "stub/alpha", "the model stub/alpha"),
    Model("stub/beta", "stub/beta", "the model stub/beta"),
    Model("stub/vision", "stub/vision", "the model stub/vision", multimodal=True),
)
TITLE = "Stub chat title"
KEEP_ALIVE = '{"type":"status","status":"keepAlive"}'
SPACES = " " * 4096
INVENTED = re.compile(rf"{UUID.pattern}|\b[0-9a-f]{{24}}\b|\b[0-9a-f]{{64}}\b")
DATA_URL = re.compile(r"data:image/png;base64,[\w+/=]+")
BROKEN = "stub broke in mid stream"
HTML = "<html><h1>502 Bad Gateway</h1></html>"


@dataclass
class Stub2025:
    """The recorder's model server, as an engine.

    Attributes:
        hold: Where the next slow or silent answer pauses.
        chats: The requests it received, as messages.
        titled: The first messages for which it was asked to make a title.
        recorded: Tokens of answers that the capture defines, by mark.
    """

    hold: int | None = None
    chats: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)
    titled: list[str] = field(default_factory=list)
    recorded: dict[str, list[str]] = field(default_factory=dict)
    asked: int = 0

    def __call__(self, request: GenerationRequest) -> Answer:
        """Answer as the marks in the last message say."""
        last = request.messages[-1][1]
        if not request.stream:
            self.titled.append(last)
            late = "[[error-40" in last and len(self.titled) == 1  # the error arrived first
            return Answer([f" {word}" for word in TITLE.split()], first=30.0 if late else 0.0)
        self.chats.append(request.chat)
        self.asked += 1
        marks = re.findall(r"\[\[([^\]]*)\]\]", last)
        hold, self.hold = self.hold, None
        return self._marked(marks[0] if marks else "", hold)

    def _marked(self, mark: str, hold: int | None) -> Answer:
        name, _, number = mark.partition(" ")
        five = STANDARD[:5]
        words = [f" w{i}" for i in range(int(number))] if number.isdecimal() else []
        match name:
            case "cut":
                return Answer(five, ending="cut")
            case "cut-once" if self.asked == 1:
                return Answer(five, ending="cut")
            case "cut-clean":
                return Answer(five, ending="clean")
            case "no-finish" | "filter":
                return Answer(STANDARD, ending="clean")
            case "empty":
                return Answer()
            case "length":
                return Answer(STANDARD, ending="length")
            case "midstream-error":
                return Answer(five, ending="error", error=BROKEN)
            case "error-html":
                return Answer(status=502, body=HTML, content_type="text/html")
            case "error-400" | "error-401" | "error-429" | "error-500" | "error-503":
                code = int(name[-3:])
                return Answer(status=code, body={"error": {"message": f"stub says {code}"}})
            case "slow":
                return Answer(words, first=0.02, hold_after=hold)
            case "long":
                return Answer(words)
            case "silent":
                return Answer(STANDARD, first=0.25, hold_after=hold)
            case "newlines" | "reasoning" | "think" | "unicode":
                return Answer(self.recorded[mark])
            case _:
                return Answer(STANDARD)


class Replay2025(Replay):
    """One scenario, exchange by exchange."""

    def __init__(self, name: str, server: Emulator, stub: Stub2025, clock: Clock) -> None:
        self.name = name
        self.capture = load(name)
        self.exchanges: list[dict[str, Any]] = self.capture["exchanges"]
        self.server = server
        self.model = stub
        self.clock = clock
        host = dict(self.exchanges[0]["request"]["headers"])["Host"]
        self.known = {host: server.url.removeprefix("http://")}
        for exchange in self.exchanges:
            mark = re.search(r"\[\[(\w+)\]\]", exchange["request"]["body"] or "")
            if mark is not None:
                stub.recorded.setdefault(mark[1], tokens_of(exchange["response"]["body_text"]))

    def _read_part(self, answer: http.client.HTTPResponse, told: str, got: Got) -> None:
        while tokens_of(got.body.decode()) != tokens_of(told):
            got.body += answer.readline()

    def _learn(self, got: Got, response: dict[str, Any]) -> None:
        super()._learn(got, response)
        theirs, ours = response.get("body_text") or "", got.body.decode(errors="replace")
        for told, made in pairs(parsed(theirs), parsed(ours)):
            if INVENTED.fullmatch(told) and INVENTED.fullmatch(made):
                self.known.setdefault(told, made)

    def compare(self, got: Got, exchange: dict[str, Any]) -> None:
        """Compare everything that a client can see."""
        response, name = exchange["response"], exchange["name"]
        same = self._same
        same(name, (got.status, got.ended), (response["status"], response["ended"]))
        same(name, got.reason, response["reason"])
        told = [(key, self.ours(value)) for key, value in response["headers"]]
        same(name, self._named(got.headers), self._named(told))
        same(name, cookies(got.headers), cookies(told))
        if "body_base64" in response:
            self._compare_encoded(got, response)
            return
        expected = self.ours(response.get("body_text") or "")
        ours = got.body.decode()
        kind = dict(told).get("content-type", "")
        if expected.startswith("<html page omitted"):
            pages = ("<!DOCTYPE html>", "<html page omitted")
            assert exchange["request"]["method"] == "HEAD" or ours.startswith(pages)
        elif kind == "application/jsonl":
            compare_streams(name, ours, expected, whole=got.ended == "final-chunk")
        elif kind == "text/event-stream":
            same(name, reattached(ours), reattached(expected))
        elif kind == "application/json":
            same(name, shown(parsed(ours)), shown(parsed(expected)))
        else:
            same(name, ours, expected)

    def _compare_encoded(self, got: Got, response: dict[str, Any]) -> None:
        """Compare a file, or a body in a compression that Python cannot read."""
        theirs = base64.b64decode(response["body_base64"])
        if dict(response["headers"]).get("Content-Encoding") != "br":
            assert got.body == theirs
            return
        models = load("main-2026-08/14_models")["exchanges"][1]["response"]["body_text"]
        ours = json.loads(gzip.decompress(got.body))
        self._same("compressed", shown(ours), shown(json.loads(models)))

    @staticmethod
    def _named(headers: Sequence[Any]) -> list[tuple[str, str]]:
        kept: list[tuple[str, str]] = []
        for key, value in headers:
            match key.lower():
                case "date" | "content-length" | "etag" | "last-modified":
                    kept.append((key.lower(), "*"))
                case "set-cookie":
                    continue
                case "location":
                    kept.append(("location", address(value)))
                case "content-encoding":
                    kept.append(("content-encoding", value.replace("br", "gzip")))
                case "content-disposition":
                    kept.append((key, re.sub(r"[0-9a-f]{8}", "*", value)))
                case _:
                    kept.append((key.lower(), value))
        return sorted(kept)

    def compare_upstream(self) -> None:
        """Compare the requests to the model server: answers in order, and titles."""
        asked = [u for u in self.capture["upstream"] if u["path"] == "/v1/chat/completions"]
        chats = [u["body"]["messages"] for u in asked if not u["title_request"]]
        self._same("upstream", images(self.model.chats), self.ours(images(chats)))
        titles = [u["body"]["messages"][-1]["content"] for u in asked if u["title_request"]]
        self._same("titles", self.model.titled, titles)


def images(chats: object) -> str:
    """Return chats as text; the real server re-encodes images."""
    return DATA_URL.sub("<image>", json.dumps(chats, ensure_ascii=False, sort_keys=True))


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a recorded stream."""
    lines = [line for line in text.split("\n") if line.startswith('{"type":"stream"')]
    return [json.loads(line)["token"].rstrip("\0") for line in lines]


def compare_streams(name: str, ours: str, theirs: str, *, whole: bool) -> None:
    """Compare two streams, apart from the timing of titles and keep-alives."""
    made, told = (events(text) for text in (ours, theirs))
    assert made[0] == told[0], name
    assert made[1][:2] == told[1][:2], f"{name}: {made[1][:2]}"
    assert made[1].count(KEEP_ALIVE) >= 1
    for side in (made, told):
        side[1][:] = [line for line in side[1] if line != KEEP_ALIVE]
    title = json.dumps({"type": "title", "title": TITLE}, separators=(",", ":"))
    if whole:
        assert made[1].count(title) == told[1].count(title), f"{name}: {made[1]}"
    lines = [[line for line in side[1] if line != title] for side in (made, told)]
    assert lines[0] == lines[1], f"{name}\n  ours: {lines[0]}\ntheirs: {lines[1]}"


def events(text: str) -> tuple[int, list[str]]:
    """Return a stream's lines, and the number of final answers followed by the spaces."""
    padded = re.findall(r'"finalAnswer"[^\n]*\n {4096}(?! )', text)
    return len(padded), [line.lstrip(" ") for line in text.split("\n")]


def reattached(text: str) -> tuple[list[Any], str, str]:
    """Return what a reattached client received: events except tokens, their text, the end.

    The sequence numbers must be consecutive.
    """
    others: list[Any] = []
    said, number = "", None
    *blocks, end = text.removesuffix("\n\n").split("\n\n")
    for block in blocks:
        if block == ": heartbeat":
            continue
        first, second, third = block.split("\n")
        told = int(first.removeprefix("id: "))
        assert number is None or told == number + 1
        number = told
        assert second == "event: update"
        event = json.loads(third.removeprefix("data: "))
        if event["type"] == "stream":
            said += event["token"]
        else:
            others.append(event)
    return others, said, end


def parsed(text: str) -> Any:
    """Parse JSON, including JSON nested in strings; return None for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, dict) and isinstance(value.get("conversation"), str):
        value["conversation"] = json.loads(value["conversation"])
    return value


def pairs(theirs: Any, ours: Any) -> Iterator[tuple[str, str]]:
    """Yield pairs of texts at the same place in both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in theirs.keys() & ours.keys():
            yield from pairs(theirs[key], ours[key])
    elif isinstance(theirs, list) and isinstance(ours, list):
        for told, made in zip(theirs, ours, strict=False):
            yield from pairs(told, made)
    elif isinstance(theirs, str) and isinstance(ours, str):
        yield theirs, ours


def shown(value: Any) -> Any:
    """Return JSON without what depends on timing: dates, event numbers, the title's place."""
    if isinstance(value, dict):
        made = {key: shown(part) for key, part in value.items()}
        if "materializedSeq" in made:
            assert 1 <= made["materializedSeq"] <= max(len(made["updates"]), 1)
            made["materializedSeq"] = "<number>"
        if isinstance(made.get("updates"), list):
            made["updates"].sort(key=lambda event: event["type"] == "title")
        if isinstance(made.get("location"), str):
            made["location"] = address(made["location"])
        return made
    if isinstance(value, list):
        return [shown(part) for part in value]
    return MOMENT.sub("<moment>", value) if isinstance(value, str) else value


def address(url: str) -> str:
    """Normalise a URL; of a login provider's, keep only the query."""
    if "/authorize?" not in url:
        return url
    names = re.findall(r"[?&](\w+)=", url)
    return f"<provider>/authorize {names}"
