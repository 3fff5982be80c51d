"""The clients that are measured: each reads one answer and records its tokens on a tape.

A client is a context manager that opens its resources and yields a function that reads one answer.
Clients that only know the service's stream request a message in a conversation that always exists,
so that all of them do the same work per token.

To measure another client, add it to `CLIENTS`. `needs` lists its packages beyond the core install;
if one is missing, the client is skipped with a notice.
"""

import importlib
import importlib.util
import inspect
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from .tape import Tape
from .wire import CONVERSATION, END, MODEL, TREE_PATH

Read: TypeAlias = Callable[[Tape], None]
AsyncRead: TypeAlias = Callable[[Tape], Awaitable[None]]
Open: TypeAlias = Callable[[str], AbstractContextManager[Read]]
AsyncOpen: TypeAlias = Callable[[str], AbstractAsyncContextManager[AsyncRead]]

PATH = f"/conversation/{CONVERSATION}"
BODY: dict[str, Any] = {"inputs": "Hi", "parameters": {}, "stream": True, "options": {}}
MANY = 5000
"""The limit of a client's connection pool; pools are not measured here."""


@dataclass(frozen=True)
class Client:
    """A client to measure.

    Attributes:
        label: its name in the table.
        world: "sync", "asyncio" or "trio".
        open: see `Open` and `AsyncOpen`.
        needs: the packages that it needs.
        slow: the factor by which it gets fewer tokens in a burst.
        dated: whether it can tell the arrival time of each token.
        many: whether it can read a thousand answers at once.
    """

    label: str
    world: str
    open: Open | AsyncOpen
    needs: tuple[str, ...] = ()
    slow: int = 1
    dated: bool = True
    many: bool = True

    def missing(self) -> list[str]:
        """Return the missing packages."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def peer(name: str) -> Any:
    """Import a package that may be missing where these files are type-checked."""
    return importlib.import_module(name)


# --- the limit: a socket, minimal HTTP, json


def request(url: str) -> tuple[str, int, bytes]:
    """Return the host, the port and the bytes of the request."""
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps(BODY).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return host, int(port), head.encode() + body


class Limit:
    """Parses a response's bytes, without checking that the server follows the protocol."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._rest = b""
        self._in_body = False

    def feed(self, data: bytes) -> bool:
        """Parse bytes; return whether this was the end."""
        data = self._rest + data
        start = 0
        if not self._in_body:
            start = data.find(b"\r\n\r\n") + 4
            if start == 3:
                self._rest = data
                return False
            self._in_body = True
        add = self._tape.add
        while True:
            line = data.find(b"\r\n", start)
            if line < 0:
                break
            size = int(data[start:line], 16)
            end = line + 2 + size
            if len(data) < end + 2:
                break
            if size == 0:
                return True
            token = json.loads(data[line + 7 : end - 2])["token"]
            if not token["special"]:
                add(token["text"])
            start = end + 2
        self._rest = data[start:]
        return False


@contextmanager
def limit_sync(url: str) -> Iterator[Read]:
    host, port, message = request(url)

    def read(tape: Tape) -> None:
        with socket.create_connection((host, port)) as sock:
            sock.sendall(message)
            limit = Limit(tape)
            while not limit.feed(sock.recv(65536)):
                pass

    yield read


@asynccontextmanager
async def limit_asyncio(url: str) -> AsyncIterator[AsyncRead]:
    import asyncio

    host, port, message = request(url)

    async def read(tape: Tape) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(message)
        limit = Limit(tape)
        while not limit.feed(await reader.read(65536)):
            pass
        writer.close()
        await writer.wait_closed()

    yield read


@asynccontextmanager
async def limit_trio(url: str) -> AsyncIterator[AsyncRead]:
    trio = peer("trio")
    host, port, message = request(url)

    async def read(tape: Tape) -> None:
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(message)
            limit = Limit(tape)
            while not limit.feed(await stream.receive_some(65536)):
                pass

    yield read


# --- httpx alone


def httpx_options() -> dict[str, Any]:
    import httpx

    limits = httpx.Limits(max_connections=MANY, max_keepalive_connections=MANY)
    return {"timeout": 60, "limits": limits}


class Unchecked:
    """Extracts the texts from a body's bytes with one regular expression, and checks nothing.

    It has no limits or errors, does not detect the end, and accepts events that are not JSON.
    """

    _event = re.compile(rb'data:\{"token":\{"id":\d++,"text":"((?:[^"\\]++|\\.)++)".*+\n\n').match

    def __init__(self, tape: Tape) -> None:
        self._add = tape.add
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Parse bytes, usually one event."""
        if self._rest:
            data = self._rest + data
        event = self._event(data)
        if event is None:
            self._rest = data
            return
        self._rest = data[event.end() :]
        text = event[1].decode()
        if "\\" in text:
            text = json.loads(f'"{text}"')
        if text != END:
            self._add(text)


@contextmanager
def httpx_sync(url: str, *, way: str, below: str = "") -> Iterator[Read]:
    import httpx

    def read(tape: Tape) -> None:
        with http.stream("POST", url + below + PATH, json=BODY) as response:
            if way == "lines":
                add_lines(tape, response)
            elif way == "least":
                feed = Unchecked(tape).feed
                body: Any = response.stream
                for data in body:
                    feed(data)
            else:
                for data in response.iter_raw():
                    tape.add_bytes(data)
                tape.end_bytes()

    def add_lines(tape: Tape, response: httpx.Response) -> None:
        for line in response.iter_lines():
            if line.startswith("data:"):
                token = json.loads(line[5:])["token"]
                if not token["special"]:
                    tape.add(token["text"])

    with httpx.Client(**httpx_options()) as http:
        yield read


@asynccontextmanager
async def httpx_async(url: str, *, way: str, below: str = "") -> AsyncIterator[AsyncRead]:
    import httpx

    async def read(tape: Tape) -> None:
        async with http.stream("POST", url + below + PATH, json=BODY) as response:
            if way == "lines":
                await add_lines(tape, response)
            elif way == "least":
                feed = Unchecked(tape).feed
                body: Any = response.stream
                async for data in body:
                    feed(data)
            else:
                async for data in response.aiter_raw():
                    tape.add_bytes(data)
                tape.end_bytes()

    async def add_lines(tape: Tape, response: httpx.Response) -> None:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                token = json.loads(line[5:])["token"]
                if not token["special"]:
                    tape.add(token["text"])

    async with httpx.AsyncClient(**httpx_options()) as http:
        yield read


# --- the old provider


@asynccontextmanager
async def aiohttp_lines(url: str) -> AsyncIterator[AsyncRead]:
    aiohttp = peer("aiohttp")

    async def read(tape: Tape) -> None:
        async with http.post(url + PATH, json=BODY) as response:
            start = "data:"
            async for line in response.content:
                text = line.decode("utf-8")
                if text and text.startswith(start):
                    token = json.loads(text[len(start) : -1])["token"]
                    if not token["special"]:
                        tape.add(token["text"])

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        yield read


# --- this client


@contextmanager
def ours_sync(url: str, *, below: str = "", **options: Any) -> Iterator[Read]:
    from h2o_client import H2oClient

    def read(tape: Tape) -> None:
        add = tape.add
        with client.stream("Hi") as stream:
            for text in stream:
                add(text)

    with H2oClient(url + below, **options) as client:
        yield read


@asynccontextmanager
async def ours_async(url: str, *, below: str = "", **options: Any) -> AsyncIterator[AsyncRead]:
    from h2o_client import AsyncH2oClient

    async def read(tape: Tape) -> None:
        add = tape.add
        async with client.stream("Hi") as stream:
            async for text in stream:
                add(text)

    async with AsyncH2oClient(url + below, **options) as client:
        yield read


def has(argument: str) -> bool:
    """Whether this version of the client has an argument; older ones are measured, too."""
    from h2o_client import H2oClient

    return argument in inspect.signature(H2oClient).parameters


# --- clients of other services


@contextmanager
def openai_sync(url: str) -> Iterator[Read]:
    openai = peer("openai")

    def read(tape: Tape) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        for piece in answer:
            text = piece.choices[0].delta.content
            if text:
                tape.add(text)

    with openai.OpenAI(base_url=f"{url}/v1", api_key="bench") as client:
        yield read


@asynccontextmanager
async def openai_async(url: str) -> AsyncIterator[AsyncRead]:
    openai = peer("openai")

    async def read(tape: Tape) -> None:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        async for piece in answer:
            text = piece.choices[0].delta.content
            if text:
                tape.add(text)

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="bench") as client:
        yield read


@contextmanager
def huggingface_sync(url: str) -> Iterator[Read]:
    hub = peer("huggingface_hub")
    client = hub.InferenceClient(model=f"{url}/generate_stream")

    def read(tape: Tape) -> None:
        for text in client.text_generation("Hi", stream=True):
            if text != END:
                tape.add(text)

    yield read


@asynccontextmanager
async def huggingface_async(url: str) -> AsyncIterator[AsyncRead]:
    hub = peer("huggingface_hub")
    client = hub.AsyncInferenceClient(model=f"{url}/generate_stream")

    async def read(tape: Tape) -> None:
        async for text in await client.text_generation("Hi", stream=True):
            if text != END:
                tape.add(text)

    yield read


def _clients() -> dict[str, Client]:
    clients: dict[str, Client] = {}

    def add(name: str, label: str, world: str, opens: Any, *needs: str, **options: Any) -> None:
        if world == "trio":
            needs = (*needs, "trio")
        clients[f"{name}-{world}"] = Client(label, world, opens, needs, **options)

    for world, opens in (("sync", limit_sync), ("asyncio", limit_asyncio), ("trio", limit_trio)):
        add("limit", "raw socket, json (the limit)", world, opens)
    add("aiohttp", "the old provider's loop (aiohttp)", "asyncio", aiohttp_lines, "aiohttp")
    for name, label, dated in (
        ("bytes", "httpx, bytes only", False),
        ("least", "httpx, texts without any check", True),
        ("lines", "httpx, iter_lines, json", True),
    ):
        for world in ("sync", "asyncio", "trio"):
            opens = partial(httpx_sync if world == "sync" else httpx_async, way=name)
            add(name, label, world, opens, dated=dated, many=name != "least")
    for world in ("sync", "asyncio", "trio"):
        add("ours", "h2o_client", world, ours_sync if world == "sync" else ours_async)
    if has("dialect"):
        below = TREE_PATH.decode()
        for world in ("sync", "asyncio", "trio"):
            reads = httpx_sync if world == "sync" else httpx_async
            opens = partial(reads, way="bytes", below=below)
            add("tree_bytes", "2025: httpx, bytes only", world, opens, dated=False)
            streams = ours_sync if world == "sync" else ours_async
            opens = partial(streams, below=below, dialect="chat-ui-2025")
            add("tree", "2025: h2o_client", world, opens)
    if has("transport"):
        for world in ("sync", "asyncio", "trio"):
            opens = partial(ours_sync if world == "sync" else ours_async, transport="fast")
            add("fast", 'h2o_client, transport="fast"', world, opens)
    for world, opens in (("sync", openai_sync), ("asyncio", openai_async)):
        add("openai", "openai", world, opens, "openai", slow=10)
    # Its pool size of 100 connections cannot be changed.
    for world, opens in (("sync", huggingface_sync), ("asyncio", huggingface_async)):
        add("hub", "huggingface_hub", world, opens, "huggingface_hub", slow=5, many=False)
    return clients


CLIENTS = _clients()
