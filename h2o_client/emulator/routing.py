"""Finds the route of a path, in every dialect: endpoints, pages, or both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from h2o_client.emulator.call import Call, Handler
from h2o_client.emulator.sveltekit import (
    method_not_allowed,
    no_actions,
    page,
    wants_page,
)
from h2o_client.emulator.web import Answered

_DATA = "/__data.json"


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        name: Its name; requests to it are of this kind, unless `kinds` says otherwise.
        pattern: The pattern of its path, without the base path.
        endpoint: The handlers of its methods.
        show: Handles a GET of its page; None without a page.
        act: Handles a form post to its page.
        nodes: Makes its data.
        static: Whether it is a file that is served before the access checks.
        kinds: The kinds of its requests, by method.
    """

    name: str
    pattern: str
    endpoint: Mapping[str, Handler] = field(default_factory=dict[str, Handler])
    show: Handler | None = None
    act: Handler | None = None
    nodes: Handler | None = None
    static: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Found:
    """The route of one request.

    Attributes:
        route: The route, if found.
        path: The path without the base path and the data suffix.
        ids: The groups of its pattern.
        data: Whether the request is for the page's data.
        normal: The target of the redirect that removes a trailing slash, if any.
    """

    route: Route | None
    path: str
    ids: tuple[str, ...] = ()
    data: bool = False
    normal: str | None = None

    def kind(self, method: str) -> str:
        """The kind of the request, for faults and the log of requests."""
        if self.route is None or self.route.name == "login":
            return "other"
        return self.route.kinds.get("GET" if self.data else method, self.route.name)


def find(routes: Sequence[Route], path: str, base: str) -> Found:
    """Find a path's route."""
    if base and path != base and not path.startswith(base + "/"):
        return Found(None, path)
    local = path.removeprefix(base) or "/"
    data = local.endswith(_DATA)
    if data:
        local = local.removesuffix(_DATA) or "/"
    bare = local.rstrip("/") or "/"
    for route in routes:
        match = re.fullmatch(route.pattern, bare)
        if match is not None:
            normal = base + bare if bare != local and not data else None
            return Found(route, bare, match.groups(), data, normal)
    return Found(None, local, data=data)


async def dispatch(call: Call, found: Found) -> Answered:
    """Handle a request."""
    route, request = found.route, call.request
    if route is None or (found.data and route.nodes is None):
        return page(404, "Not found")
    if found.data and route.nodes is not None:
        return await route.nodes(call)
    if route.endpoint and not (route.show is not None and wants_page(request)):
        handler = route.endpoint.get("GET" if request.method == "HEAD" else request.method)
        if handler is not None:
            return await handler(call)
        allowed = [*route.endpoint, *(["HEAD"] if "GET" in route.endpoint else [])]
        return method_not_allowed(request.method, ", ".join(allowed))
    if request.method in {"GET", "HEAD"} and route.show is not None:
        return await route.show(call)
    if request.method == "POST":
        return await route.act(call) if route.act is not None else no_actions(request)
    return method_not_allowed(request.method, "GET, HEAD")
