"""A request that passed the access checks, for the endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from h2o_client.emulator.call import Call as AnyCall
from h2o_client.emulator.chat_ui_2025.superjson import superjson
from h2o_client.emulator.sveltekit import endpoint_json
from h2o_client.emulator.web import Response


class Call(AnyCall):
    """One request that has passed the access checks."""

    __slots__ = ()

    @property
    def main(self) -> bool:
        """Whether this is the newer of the two servers."""
        return self.service.config.version == "main"

    def superjson(self, value: object, *extra: tuple[str, str]) -> Response:
        """A response of an endpoint under ``/api/v2``."""
        made = endpoint_json(superjson(value, numbered=self.main))
        made.headers += extra
        return made


def valid(fields: dict[str, Any], kinds: Iterable[tuple[str, type]]) -> bool:
    """Whether all present fields have the right types."""
    return all(type(fields[name]) is kind for name, kind in kinds if name in fields)
