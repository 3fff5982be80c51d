"""A request that passed the access checks, for the endpoints and pages of a face."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from h2o_client.emulator.service import Service
from h2o_client.emulator.store import Conversation
from h2o_client.emulator.sveltekit import NO_CONVERSATION, HttpError, InternalError
from h2o_client.emulator.web import Answered, Request

OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the access checks."""

    service: Service
    request: Request
    session: str
    path: str
    ids: tuple[str, ...]

    def body(self) -> object:
        """The body as JSON; a body without a content type is not read."""
        # 03; 2025: 08_wrong_model
        if self.request.header("content-type") is None:
            raise InternalError
        try:
            return cast("object", self.request.json())
        except ValueError:
            raise InternalError from None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value = self.body()
        if not isinstance(value, dict):
            raise InternalError
        return cast("dict[str, Any]", value)

    def object_id(self, text: str) -> str:
        """An id from a path, in the database's form."""
        if OBJECT_ID.fullmatch(text):
            return text.lower()
        raise InternalError

    def conversation(self) -> Conversation:
        """The conversation of the path, if it belongs to this session."""
        found = self.service.store.conversations.use(self.object_id(self.ids[0]))
        if found is None or found.session != self.session:
            raise HttpError(404, NO_CONVERSATION)
        return found


Handler = Callable[[Any], Awaitable[Answered]]
"""A handler of a route; its argument is the `Call` of its face."""
