"""Which path is which route, in every dialect: endpoints, pages, or both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

H = TypeVar("H")
_DATA = "/__data.json"


@dataclass(frozen=True, slots=True)
class Route(Generic[H]):
    """One route.

    Attributes:
        name: Its name; requests to it are of this kind, unless `kinds` says otherwise.
        pattern: What its path looks like, without the base path.
        endpoint: What its methods do.
        show: What a GET of its page does; None where it has no page.
        act: What a form post to its page does.
        nodes: What its data is.
        static: Whether it is a file that is served before the service.
        kinds: The kinds of its requests, by method.
    """

    name: str
    pattern: str
    endpoint: Mapping[str, H] = field(default_factory=dict[str, H])
    show: H | None = None
    act: H | None = None
    nodes: H | None = None
    static: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def methods(self) -> list[str]:
        """The methods that its endpoint allows."""
        return [*self.endpoint, *(["HEAD"] if "GET" in self.endpoint else [])]

    def handler(self, method: str) -> H | None:
        """What its endpoint does with a method."""
        return self.endpoint.get("GET" if method == "HEAD" else method)


@dataclass(frozen=True, slots=True)
class Found(Generic[H]):
    """The route of one request.

    Attributes:
        route: The route, if there is one.
        path: The path without the base path and the data suffix.
        ids: What its pattern caught.
        data: Whether the page's data is asked for.
        normal: Where the path goes without its trailing slash, if it had one.
    """

    route: Route[H] | None
    path: str
    ids: tuple[str, ...] = ()
    data: bool = False
    normal: str | None = None

    def kind(self, method: str) -> str:
        """What kind of request that is, for faults and for those who look at the requests."""
        if self.route is None or self.route.name == "login":
            return "other"
        return self.route.kinds.get("GET" if self.data else method, self.route.name)


def find(routes: Sequence[Route[H]], path: str, base: str) -> Found[H]:
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
