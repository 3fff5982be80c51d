"""The routes: paths and their handlers.

If a path is both an endpoint and a page, the Accept header decides: a message with ``text/html``
first is a form post to the page, and returns 405 because the page has no actions.
"""
# 09_wrong_id, 15_detect

from __future__ import annotations

from h2o_client.emulator.call import Handler, delete, to_root
from h2o_client.emulator.chat_ui_2025 import about, endpoints
from h2o_client.emulator.chat_ui_2025.call import Call
from h2o_client.emulator.chat_ui_2025.endpoints import newer
from h2o_client.emulator.chat_ui_2025.message import message
from h2o_client.emulator.routing import Route
from h2o_client.emulator.sveltekit import framed, framed_json, page
from h2o_client.emulator.web import Answered


async def _page(call: Call) -> Answered:
    """A page; an unknown share redirects to the first page."""
    unknown = call.path.startswith("/r/") and call.ids[0] not in call.service.store.shares
    return await to_root(call) if unknown else page(200, "ChatUI")


def _nodes(count: int) -> Handler:
    """The data of a page, which is always empty."""
    body = f'{{"type":"data","nodes":[{",".join(["null"] * count)}]}}\n'.encode()

    async def nodes(_: Call) -> Answered:
        return framed(200, body, "application/json", ("cache-control", "private, no-store"))

    return nodes


async def _version(call: Call) -> Answered:
    """A static file, served before the access checks: a build number."""
    number = "1795264590157" if call.main else "1795266536352"
    dates = ("last-modified", "Sat, 21 Nov 2026 12:37:56 GMT"), ("etag", f'W/"27-{number}"')
    return framed_json(200, {"version": number}, *dates)


ID = "/([^/]+)"
CONVERSATION = "/conversation" + ID
V2 = "/api/v2/conversations"
TWO, FOUR = _nodes(2), _nodes(4)
ROUTES: tuple[Route, ...] = (
    Route("root", "/", show=_page, nodes=TWO),
    Route("settings", "/settings", {"POST": about.settings}, show=_page, nodes=FOUR),
    Route("create", "/conversation", {"GET": to_root, "POST": endpoints.create}),
    Route(
        "message",
        CONVERSATION,
        {"POST": message, "PATCH": endpoints.rename, "DELETE": delete},
        show=_page,
        nodes=TWO,
        kinds={"GET": "data", "HEAD": "data", "PATCH": "rename", "DELETE": "delete"},
    ),
    Route("share", CONVERSATION + "/share", {"POST": endpoints.share}),
    Route("stop", CONVERSATION + "/stop-generating", {"POST": endpoints.stop}),
    Route("reattach", CONVERSATION + "/stream", {"GET": endpoints.reattach}),
    Route("prompt", CONVERSATION + f"/message{ID}/prompt", {"GET": endpoints.prompt}),
    Route("file", CONVERSATION + "/output" + ID, {"GET": endpoints.output}),
    Route("shared", "/r" + ID, show=_page, nodes=TWO),
    Route("other", "/models/(.+)", show=_page, nodes=TWO),
    Route(
        "list",
        V2,
        {"GET": endpoints.show_list, "DELETE": endpoints.delete_all},
        kinds={"DELETE": "delete_all"},
    ),
    Route("import", V2 + "/import-share", {"POST": endpoints.import_share}),
    Route(
        "data",
        V2 + ID,
        {
            "GET": endpoints.show,
            "PATCH": newer(endpoints.rename_v2),
            "DELETE": newer(delete),
        },
        kinds={"PATCH": "rename", "DELETE": "delete"},
    ),
    Route("other", V2 + f"{ID}/message{ID}", {"DELETE": newer(endpoints.delete_message)}),
    Route("models", "/api/v2/models", {"GET": about.models}),
    Route("models", "/api/v2/models/(.+)", {"GET": about.model}),
    Route("flags", "/api/v2/feature-flags", {"GET": about.flags}),
    Route("other", "/api/v2/public-config", {"GET": about.public_config}),
    Route("user", "/api/v2/user", {"GET": about.user}),
    Route(
        "settings",
        "/api/v2/user/settings",
        {"GET": about.show_settings, "POST": about.settings},
        kinds={"GET": "user"},
    ),
    Route(
        "list",
        "/api/conversations",
        {"GET": endpoints.show_list, "DELETE": endpoints.delete_all},
        kinds={"DELETE": "delete_all"},
    ),
    Route("data", "/api/conversation" + ID, {"GET": endpoints.show_v1}),
    Route(
        "other",
        f"/api/conversation{ID}/message{ID}",
        {"DELETE": endpoints.delete_message},
    ),
    Route("models", "/api/models", {"GET": about.models_v1}),
    Route("user", "/api/user", {"GET": about.user_v1}),
    Route("login", "/login", {"GET": about.login}),
    Route("other", "/healthcheck", {"GET": about.plain(200, b"OK")}),
    Route("other", "/metrics", {"GET": about.plain(404, b"Not Found")}),
    Route("other", r"/\.well-known/oauth-cimd", {"GET": about.plain(404, b"Client ID not found")}),
    Route("other", r"/_app/version\.json", {"GET": _version}, static=True),
)
