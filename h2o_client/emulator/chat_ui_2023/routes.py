"""Which path is which route: endpoints, pages, or both.

Where a path is both, the method and the Accept header decide which is meant:
``POST /conversation/{id}`` with ``text/html`` first is a form post to the page,
which has no actions, and so a 405.
"""
# 04_message_errors

from __future__ import annotations

from h2o_client.emulator.chat_ui_2023 import endpoints, pages
from h2o_client.emulator.chat_ui_2023.call import Call, Handler
from h2o_client.emulator.routing import Found, Route
from h2o_client.emulator.sveltekit import (
    framed_json,
    method_not_allowed,
    no_actions,
    page,
    wants_page,
)
from h2o_client.emulator.web import Answered, Response

CONVERSATION = r"/conversation/([^/]+)"
ROUTES: tuple[Route[Handler], ...] = (
    Route("root", r"/", show=pages.show_root, nodes=pages.root_data),
    Route("settings", r"/settings", show=pages.show_broken, act=pages.settings),
    Route("create", r"/conversation", {"GET": endpoints.to_root, "POST": endpoints.create}),
    Route(
        "message",
        CONVERSATION,
        {"POST": endpoints.message, "PATCH": endpoints.rename, "DELETE": endpoints.delete},
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
    Route("other", r"/_app/version\.json", static=True),
)


async def dispatch(call: Call, found: Found[Handler]) -> Answered:
    """Do what a request asks for."""
    route, request = found.route, call.request
    if route is None or (found.data and route.nodes is None):
        return page(404, "Not found")
    if found.data and route.nodes is not None:
        return await route.nodes(call)
    has_page = route.show is not None
    if route.endpoint and not (has_page and wants_page(request)):
        return await _endpoint(call, route)
    if request.method in {"GET", "HEAD"} and route.show is not None:
        return await route.show(call)
    if request.method == "POST":
        return await route.act(call) if route.act is not None else no_actions(request)
    return method_not_allowed(request.method, "GET, HEAD")


async def _endpoint(call: Call, route: Route[Handler]) -> Answered:
    method = call.request.method
    handler = route.handler(method)
    if handler is None:
        return method_not_allowed(method, ", ".join(route.methods))
    return await handler(call)


def version_file() -> Response:
    """A file that is served before the service: it sets no cookie."""
    # 21
    return framed_json(
        200,
        {"version": "1795193263314"},
        ("etag", 'W/"27-1795193274789"'),
        ("last-modified", "Fri, 20 Nov 2026 16:47:54 GMT"),
        ("vary", "Accept-Encoding"),
    )
