"""Which path is which route: endpoints, pages, or both.

Where a path is both, the method and the Accept header decide which is meant:
``POST /conversation/{id}`` with ``text/html`` first is a form post to the page,
which has no actions, and so a 405.
"""
# 04_message_errors

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from h2o_client.emulator.chat_ui_2023 import endpoints, pages
from h2o_client.emulator.chat_ui_2023.call import Call, Handler
from h2o_client.emulator.chat_ui_2023.sveltekit import (
    framed_json,
    method_not_allowed,
    page,
    wants_action_json,
    wants_page,
)
from h2o_client.emulator.web import Answered, Request, Response


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        name: Its name; requests to it are of this kind, unless the method says otherwise.
        pattern: What its path looks like, without the base path.
        endpoint: What its methods do.
        show: What a GET of its page does; None where it has no page.
        act: What a form post to its page does.
        nodes: What its data is.
    """

    name: str
    pattern: str
    endpoint: Mapping[str, Handler] = field(default_factory=dict[str, Handler])
    show: Handler | None = None
    act: Handler | None = None
    nodes: Handler | None = None
    static: bool = False


CONVERSATION = r"/conversation/([^/]+)"
ROUTES = (
    Route("root", r"/", show=pages.show_root, nodes=pages.root_data),
    Route("settings", r"/settings", show=pages.show_broken, act=pages.settings),
    Route("create", r"/conversation", {"GET": endpoints.to_root, "POST": endpoints.create}),
    Route(
        "message",
        CONVERSATION,
        {"POST": endpoints.message, "PATCH": endpoints.rename, "DELETE": endpoints.delete},
        show=pages.show_conversation,
        nodes=pages.conversation_data,
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
_METHOD_KINDS = {"PATCH": "rename", "DELETE": "delete"}
_DATA = "/__data.json"


@dataclass(frozen=True, slots=True)
class Found:
    """The route of one request.

    Attributes:
        route: The route, if there is one.
        path: The path without the base path and the data suffix.
        ids: What its pattern caught.
        data: Whether the page's data is asked for.
        normal: Where the path goes without its trailing slash, if it had one.
    """

    route: Route | None
    path: str
    ids: tuple[str, ...] = ()
    data: bool = False
    normal: str | None = None


def find(path: str, base: str) -> Found:
    """Find a path's route."""
    if base and path != base and not path.startswith(base + "/"):
        return Found(None, path)
    local = path.removeprefix(base) or "/"
    data = local.endswith(_DATA)
    if data:
        local = local.removesuffix(_DATA) or "/"
    bare = local.rstrip("/") or "/"
    for route in ROUTES:
        match = re.fullmatch(route.pattern, bare)
        if match is not None:
            normal = base + bare if bare != local and not data else None
            return Found(route, bare, match.groups(), data, normal)
    return Found(None, local, data=data)


def kind(method: str, found: Found) -> str:
    """What kind of request that is, for faults and for those who look at the requests."""
    if found.route is None or found.route.name == "login":
        return "other"
    if found.route.name == "message":
        if found.data or method in {"GET", "HEAD"}:
            return "data"
        return _METHOD_KINDS.get(method, "message")
    return found.route.name


async def dispatch(call: Call, found: Found) -> Answered:
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


async def _endpoint(call: Call, route: Route) -> Answered:
    method = call.request.method
    handler = route.endpoint.get(method)
    if handler is None and method == "HEAD":
        handler = route.endpoint.get("GET")
    if handler is None:
        allowed = [*route.endpoint, *(["HEAD"] if "GET" in route.endpoint else [])]
        return method_not_allowed(method, ", ".join(allowed))
    return await handler(call)


def no_actions(request: Request) -> Response:
    """The answer to a form post to a page without actions."""
    # 04, 23
    message = "POST method not allowed. No actions exist for this page"
    if wants_action_json(request):
        error = {"type": "error", "error": {"message": message}}
        return framed_json(405, error, ("allow", "GET"))
    return page(405, message, ("allow", "GET"))


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
