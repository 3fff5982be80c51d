"""The recorded exchanges, as the tests of the core use them."""

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from h2o_client.protocol.effects import Head, Request

CAPTURES = Path(__file__).parents[1] / "captures"
HELLO = " Hello! I am a stub of h2oGPT, running on loopback. How can I help?"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One recorded request and its response.

    Attributes:
        place: version, scenario and number.
        name: the recorder's name for it, which may not be unique.
        status: None if there was no response.
        body: the complete body, re-encoded from text.
        chunks: the body as received, if the recorder noted the chunks.
        ended: how the response ended.
        decoded: the recorder's readable view of a `__data.json`, else None.
    """

    place: str
    name: str
    method: str
    path: str
    request_headers: tuple[tuple[str, str], ...]
    request_body: str | None
    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunks: tuple[bytes, ...]
    ended: str
    decoded: Any = field(compare=False)

    @property
    def head(self) -> Head:
        assert self.status is not None
        return Head(self.status, self.headers)

    @property
    def request(self) -> Request:
        """The request, as the core would build it."""
        host = dict(self.request_headers)["Host"]
        return Request(self.method, f"http://{host}{self.path}", (), None, "recorded")

    @property
    def is_stream(self) -> bool:
        return self.status == 200 and dict(self.headers).get("content-type") == "text/event-stream"

    def __str__(self) -> str:
        return self.place


def _chunk(entry: dict[str, Any]) -> bytes:
    if "base64" in entry:
        return base64.b64decode(entry["base64"])
    text: str = entry.get("text", "")
    return text.encode()


@cache
def scenario(name: str, version: str = "chat-ui-0.4") -> tuple[Exchange, ...]:
    """Return all exchanges of a scenario, in the order in which they ended."""
    loaded = json.loads((CAPTURES / version / f"{name}.json").read_text("utf-8"))
    exchanges = []
    for index, entry in enumerate(loaded["exchanges"]):
        request, response = entry["request"], entry["response"]
        exchanges.append(
            Exchange(
                place=f"{version}/{name}:{index}",
                name=entry["name"],
                method=request["method"],
                path=request["path"],
                request_headers=tuple((key, value) for key, value in request["headers"]),
                request_body=request["body"],
                status=response["status"],
                headers=tuple((key.lower(), value) for key, value in (response["headers"] or ())),
                body=(response.get("body_text") or "").encode(),
                chunks=tuple(_chunk(chunk) for chunk in response.get("chunks") or ()),
                ended=response["ended"],
                decoded=response.get("decoded"),
            )
        )
    return tuple(exchanges)


def named(scenario_name: str, name: str, version: str = "chat-ui-0.4") -> Exchange:
    """Return the last exchange with a name."""
    return [each for each in scenario(scenario_name, version) if each.name == name][-1]


@cache
def newer() -> tuple[Exchange, ...]:
    """Return all exchanges of all scenarios of 2025."""
    return tuple(
        exchange
        for version in ("chat-ui-main-2026-08", "chat-ui-0.10")
        for path in sorted((CAPTURES / version).glob("*.json"))
        for exchange in scenario(path.stem, version)
    )


def lines(exchange: Exchange) -> list[Any]:
    """Yield the events of a 2025 stream."""
    body = exchange.body.decode()
    return [json.loads(line) for line in body.split("\n") if line.strip()]


@cache
def everything() -> tuple[Exchange, ...]:
    """Return all exchanges of all scenarios of 2023."""
    return tuple(
        exchange
        for path in sorted(CAPTURES.glob("chat-ui-0.[46]/*.json"))
        for exchange in scenario(path.stem, path.parent.name)
    )


@cache
def streams() -> tuple[Exchange, ...]:
    """Return the message streams, without duplicates."""
    found: dict[bytes, Exchange] = {}
    for exchange in everything():
        if exchange.is_stream:
            found.setdefault(exchange.body, exchange)
    return tuple(found.values())
