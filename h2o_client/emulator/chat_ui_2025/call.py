"""One request that passed the gates, as the endpoints see it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from h2o_client.emulator.chat_ui_2025.run import Journal
from h2o_client.emulator.chat_ui_2025.superjson import superjson
from h2o_client.emulator.service import Service
from h2o_client.emulator.store import Bounded, Conversation
from h2o_client.emulator.sveltekit import NO_CONVERSATION, HttpError, InternalError, endpoint_json
from h2o_client.emulator.web import Answered, Request, Response

OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the gates; `journals` are those of the runs, by their ids."""

    service: Service
    journals: Bounded[Journal]
    request: Request
    session: str
    ids: tuple[str, ...]

    @property
    def main(self) -> bool:
        """Whether this is the newer of the two servers."""
        return self.service.config.version == "main"

    def json(self) -> object:
        """The body as JSON; a body without a content type is not read."""
        if self.request.header("content-type") is None:
            raise InternalError
        try:
            return cast("object", self.request.json())
        except ValueError:
            raise InternalError from None

    def fields(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value = self.json()
        if not isinstance(value, dict):
            raise InternalError
        return cast("dict[str, Any]", value)

    def conversation(self) -> Conversation:
        """The conversation of the path, if it is this session's."""
        if not OBJECT_ID.fullmatch(self.ids[0]):
            raise InternalError
        found = self.service.store.conversations.use(self.ids[0].lower())
        if found is None or found.session != self.session:
            raise HttpError(404, NO_CONVERSATION)
        return found

    def superjson(self, value: object, *extra: tuple[str, str]) -> Response:
        """What an endpoint of the newer form returns."""
        made = endpoint_json(superjson(value, numbered=self.main))
        made.headers += extra
        return made


Handler = Callable[[Call], Awaitable[Answered]]


def valid(fields: dict[str, Any], kinds: Iterable[tuple[str, type]]) -> bool:
    """Whether fields are of their types, as far as they are there."""
    return all(type(fields[name]) is kind for name, kind in kinds if name in fields)
