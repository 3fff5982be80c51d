"""Malicious ids: a server that sends them gets no request outside of its base path."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from backends import Api

from h2o_client import AsyncH2oClient, ProtocolError, ServerError

EVIL = "../../admin/users/1?force=1#"
GOOD = "6b007c3d1090eb6ec94d77f1"
IDS = [EVIL, "..", "a/b", "a?b", "a#b", "a%2e", "", "a" * 65, 7, None]


class Server:
    """A server with a single page, at `/chat`.

    Attributes:
        made: the id of the conversation that it creates; if None, the response is lost.
        listed: the id of the conversation that it lists.
        message: the id of the message that it has stored.
        url: the URL that it returns for a share.
        lines: the requests, as a server reads them.
    """

    def __init__(self, **changed: Any) -> None:
        self.made: Any = GOOD
        self.listed: Any = GOOD
        self.message: Any = "m"
        self.url: Any = f"http://host/chat/r/{GOOD}"
        self.lines: list[str] = []
        for name, value in changed.items():
            assert name in vars(self)
            setattr(self, name, value)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.lines.append(f"{request.method} {request.url.raw_path.decode()}")
        where = request.url.path.removeprefix("/chat")
        if where == "/settings":
            return httpx.Response(200, json={"type": "redirect", "status": 303, "location": "/"})
        if where == "/conversation":
            if self.made is None:
                return httpx.Response(502)
            return httpx.Response(200, json={"conversationId": self.made})
        if where == "/__data.json":
            model = {"id": "m", "name": "m"}
            settings = {"shareConversationsWithModelAuthors": True, "activeModel": "m"}
            listed = {"id": self.listed, "title": "t", "model": "m"}
            return page({"models": [model], "settings": settings, "conversations": [listed]})
        if where.endswith("/__data.json"):
            message = {"from": "user", "content": "Hi", "id": self.message}
            return page({"title": "t", "model": "m", "messages": [message]})
        if where.endswith("/share"):
            return httpx.Response(200, json={"url": self.url})
        return httpx.Response(200)


def page(value: Any) -> httpx.Response:
    """Return a `__data.json` with one node."""
    entries: list[Any] = []

    def place_of(item: Any) -> int:
        place = len(entries)
        entries.append(None)
        if isinstance(item, dict):
            entries[place] = {name: place_of(part) for name, part in item.items()}
        elif isinstance(item, list):
            entries[place] = [place_of(part) for part in item]
        else:
            entries[place] = item
        return place

    place_of(value)
    body = {"type": "data", "nodes": [{"type": "data", "data": entries}]}
    return httpx.Response(200, content=json.dumps(body).encode())


async def play(
    api: Api, server: Server, scenario: Callable[[AsyncH2oClient], Awaitable[object]]
) -> None:
    """Play a scenario, and check the requests to the server."""
    http = api.http_client(transport=httpx.MockTransport(server))
    async with api.client("http://host/chat", http_client=http, retries=0) as client:
        await scenario(client)
    await api.close_http(http)
    ours = re.compile(r"\w+ /chat/(settings|__data\.json|(conversation|r)(/[\w.-]+)*)")
    assert [line for line in server.lines if not ours.fullmatch(line)] == []
    assert not any("admin" in line or ".." in line for line in server.lines)


async def check_rejected(
    api: Api,
    server: Server,
    call: Callable[[AsyncH2oClient], Awaitable[object]],
    words: str,
    error: type[Exception] = ProtocolError,
) -> None:
    """Check that a call raises an error, and that nothing is deleted afterwards."""

    async def scenario(client: AsyncH2oClient) -> None:
        with pytest.raises(error, match=words):
            await call(client)

    await play(api, server, scenario)
    assert not any(line.startswith("DELETE") for line in server.lines)


@pytest.mark.parametrize("number", IDS)
async def test_id_of_a_listed_conversation_is_validated(api: Api, number: Any) -> None:
    server = Server(listed=number)
    await check_rejected(api, server, lambda c: c.conversations(), r"conversations\[0\]\.id")


@pytest.mark.parametrize("number", IDS)
async def test_id_of_a_new_conversation_is_validated(api: Api, number: Any) -> None:
    server = Server(made="" if number is None else number, listed=EVIL)
    await check_rejected(api, server, lambda c: c.conversation().rename("t"), "conversation")


async def test_orphan_with_an_unsafe_id_is_not_deleted(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(made=None, listed=EVIL)
    await check_rejected(
        api, server, lambda c: c.conversation().rename("t"), "502", error=ServerError
    )
    assert "may be left on the server, because the clean-up failed: ProtocolError" in caplog.text


READS: dict[str, Callable[[AsyncH2oClient], Awaitable[object]]] = {
    "history": lambda c: c.conversation(id=GOOD).history(),
    "copied": lambda c: c.conversation(from_share=GOOD, keep=True).history(),
    "shared": lambda c: c.shared(GOOD),
}


@pytest.mark.parametrize("read", READS)
async def test_ids_of_stored_messages_are_validated(api: Api, read: str) -> None:
    words = r"messages\[0\]\.id is not a valid id"
    await check_rejected(api, Server(message=EVIL), READS[read], words)


async def test_url_of_a_shared_conversation_is_validated(api: Api) -> None:
    server = Server(url="http://host/chat/r/" + EVIL)
    await check_rejected(api, server, lambda c: c.conversation(id=GOOD).share(), "share")


@pytest.mark.parametrize("number", [EVIL, "..", "a/b", "", "a" * 65])
async def test_ids_from_the_caller_are_validated(api: Api, number: str) -> None:
    async def scenario(client: AsyncH2oClient) -> None:
        talk = client.conversation(id=GOOD)
        saved = {**talk.to_dict(), "messages": [{"role": "user", "content": "x", "id": number}]}
        with pytest.raises(ValueError, match="id"):
            client.conversation(id=number)
        with pytest.raises(ValueError, match="id"):
            client.conversation_from({**saved, "id": number})
        with pytest.raises(ValueError, match="id"):
            client.conversation_from(saved)
        with pytest.raises(ValueError, match="id"):
            await talk.vote(number, 1)
        with pytest.raises(ValueError, match="id"):
            await talk.prompt(number)

    server = Server()
    await play(api, server, scenario)
    assert server.lines == []
