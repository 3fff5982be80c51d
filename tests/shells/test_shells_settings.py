"""The effect of opening a session on the server's settings, and the referer of requests."""

from urllib.parse import parse_qs, urlencode

import httpx
import pytest
from asked import kinds
from backends import Api

from h2o_client import DEFAULT_MODEL, AsyncH2oClient, ForbiddenError
from h2o_client.emulator import DEFAULT_MODELS, Emulator, Fault, Request

OTHER_MODEL = DEFAULT_MODELS[1].name
SESSION = "8f865e55-c1d9-405d-860b-4b2de8fb56a0"


def referers(server: Emulator, kind: str) -> list[str | None]:
    return [request.header("referer") for request in server.requests if request.kind == kind]


def settings(server: Emulator) -> list[Request]:
    return [request for request in server.requests if request.kind == "settings"]


# A server with a wrong public URL


async def test_server_that_expects_https_is_supported(api: Api) -> None:
    with Emulator(public_scheme="https") as server:
        async with api.client(server.url) as client:
            assert await client.chat("Hi")
            assert kinds(server)[:3] == ["settings", "settings", "create"]
            own = server.url.removeprefix("http")
            assert referers(server, "settings") == [f"http{own}/", f"https{own}/"]
            await client.delete_conversations()
            server.forget_sessions()
            assert await client.chat("Hi")
        # The client remembers it: the second opening needs one request.
        assert referers(server, "settings")[2:] == [f"https{own}/"]
        assert referers(server, "delete_all") == [f"https{own}/"]


async def test_delete_conversations_works_in_a_resumed_session(api: Api) -> None:
    with Emulator(public_scheme="https") as server:
        async with api.client(server.url) as client:
            talk = client.conversation(keep=True)
            await talk.rename("kept")
            session = client.session
        async with api.client(server.url, session=session) as client:
            await client.delete_conversations()
        assert server.conversations == []
        assert len(referers(server, "delete_all")) == 2


async def test_server_that_rejects_both_referers_is_an_error(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        for _ in range(2):
            server.clear()
            server.fault("settings", *[Fault(status=403)] * 3)
            with pytest.raises(ForbiddenError, match="Invalid referer"):
                await client.chat("Hi", retries=0)
            own = server.url.removeprefix("http")
            assert referers(server, "settings") == [f"http{own}/", f"https{own}/"]
        server.clear()
        assert await client.chat("Hi")
    assert referers(server, "settings") == [f"{server.url}/"]


async def test_custom_referer_is_kept(api: Api) -> None:
    with Emulator(public_scheme="https") as server:
        async with api.client(server.url, headers={"referer": server.url}) as client:
            with pytest.raises(ForbiddenError):
                await client.chat("Hi", retries=0)
        assert referers(server, "settings") == [server.url]


# A session with earlier settings


def use_before(server: Emulator) -> None:
    """Set settings like the service's own page."""
    form = {
        "ethicsModalAccepted": "true",
        "shareConversationsWithModelAuthors": "true",
        "activeModel": OTHER_MODEL,
        "customPrompts": f'{{"{DEFAULT_MODEL}":"Be short: é & 😀"}}',
    }
    headers = {
        "Cookie": f"hf-chat={SESSION}",
        "Referer": f"{server.url}/",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = httpx.post(f"{server.url}/settings", content=urlencode(form), headers=headers)
    assert answer.status_code in (200, 303)
    server.clear()


async def chosen(client: AsyncH2oClient) -> tuple[bool, str, dict[str, str]]:
    found = await client.settings()
    return found.share_conversations, found.active_model, dict(found.custom_prompts)


PROMPTS = {DEFAULT_MODEL: "Be short: é & 😀"}


@pytest.mark.parametrize("share", [None, False])
async def test_settings_of_a_resumed_session_are_kept(api: Api, share: bool | None) -> None:
    with Emulator(version="0.6") as server:
        use_before(server)
        async with api.client(
            server.url, session=SESSION, share_conversations=share, model=DEFAULT_MODEL
        ) as client:
            assert await client.chat("Hi")
            assert await client.chat("Hi")
            assert await chosen(client) == (share is None, OTHER_MODEL, PROMPTS)
        assert len(settings(server)) == (share is False)
        assert kinds(server).count("root") == 1 + (share is False)


async def test_new_session_does_not_read_the_settings(api: Api) -> None:
    with Emulator(version="0.6") as server:
        async with api.client(server.url, share_conversations=False) as client:
            assert await client.chat("Hi")
            assert kinds(server)[:2] == ["settings", "create"]
            (request,) = settings(server)
            assert "customPrompts" not in parse_qs(request.body.decode())
            assert await chosen(client) == (False, DEFAULT_MODEL, {})
