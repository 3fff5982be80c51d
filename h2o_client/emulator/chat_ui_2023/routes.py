"""The routes: paths of endpoints, pages, or both.

If a path is both, the method and the Accept header decide: ``POST /conversation/{id}`` with
``text/html`` first is a form post to the page, and returns 405 because the page has no actions.
"""
# 04_message_errors

from __future__ import annotations

from h2o_client.emulator.call import delete, to_root
from h2o_client.emulator.chat_ui_2023 import endpoints, pages
from h2o_client.emulator.chat_ui_2023.call import Call
from h2o_client.emulator.routing import Route
from h2o_client.emulator.sveltekit import (
    framed_json,
)
from h2o_client.emulator.web import Answered


async def _version(_: Call) -> Answered:
    """A static file, which is served before the access checks and does not set a cookie."""
    # 21
    return framed_json(
        200,
        {"version": "1795193263314"},
        ("etag", 'W/"27-1795193274789"'),
        ("last-modified", "Fri, 20 Nov 2026 16:47:54 GMT"),
        ("vary", "Accept-Encoding"),
    )


CONVERSATION = r"/conversation/([^/]+)"
ROUTES: tuple[Route, ...] = (
    Route("root", r"/", show=pages.show_root, nodes=pages.root_data),
    Route("settings", r"/settings", show=pages.show_broken, act=pages.settings),
    Route("create", r"/conversation", {"GET": to_root, "POST": endpoints.create}),
    Route(
        "message",
        CONVERSATION,
        {"POST": endpoints.message, "PATCH": endpoints.rename, "DELETE": delete},
        show=pages.show_conversation,
        nodes=pages.conversation_data,
        kinds={"GET": "data", "HEAD": "data", "PATCH": "rename", "DELETE": "delete"},
    ),
    Route("summarize", CONVERSATION + "/summarize", {"POST": endpoints.summarize}),
    Route("share", CONVERSATION + "/share", {"POST": endpoints.share}),
    Route("stop", CONVERSATION + "/stop-generating", {"POST": endpoints.stop}),
    Route("vote", CONVERSATION + r"/message/([^/]+)/vote", {"POST": endpoints.vote}),
    Route("prompt", CONVERSATION + r"/message/([^/]+)/prompt", {"GET": endpoints.prompt}),
    Route("search", CONVERSATION + "/web-search", {"GET": endpoints.web_search}),
    Route("search", r"/search/([^/]+)", {"GET": endpoints.show_search}),
    Route("delete_all", r"/conversations", show=pages.show_broken, act=pages.delete_all),
    Route("shared", r"/r/([^/]+)", show=pages.show_shared, nodes=pages.shared_data),
    Route("prompt", r"/r/([^/]+)/message/([^/]+)/prompt", {"GET": endpoints.shared_prompt}),
    Route("other", r"/privacy", show=pages.show_plain, nodes=pages.root_data),
    Route("login", r"/login", show=pages.show_broken, act=pages.broken),
    Route("other", r"/logout", show=pages.show_broken, act=pages.logout),
    Route("other", r"/_app/version\.json", {"GET": _version}, static=True),
)
