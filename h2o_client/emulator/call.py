"""A request that passed the access checks, for the endpoints and pages of a face."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from h2o_client.emulator.service import Service
from h2o_client.emulator.store import Conversation
from h2o_client.emulator.sveltekit import (
    NO_CONVERSATION,
    RATE_LIMITED,
    HttpError,
    InternalError,
    empty,
    redirect,
)
from h2o_client.emulator.web import Answered, Request

OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


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

    def limit(self) -> None:
        """Count a request, and reject it if its session or address has sent too many.

        Rejected requests count, too.
        """
        # 30_rate_limit; 2023: 0.6/06_rate_limit
        store, limit = self.service.store, self.service.config.rate_limit
        store.record_event(self.session, self.request.address)
        count = store.count_events(self.session, self.request.address)
        if limit is not None and count > limit:
            raise HttpError(429, RATE_LIMITED)

    def copied(self, share_id: str) -> Conversation:
        """A new conversation, with the messages of a shared one."""
        source = self.service.store.shares.use(share_id)
        if source is None:
            raise HttpError(404, NO_CONVERSATION)
        return self.service.store.create(self.session, source.model, source.title, source.messages)


Handler = Callable[[Any], Awaitable[Answered]]
"""A handler of a route; its argument is the `Call` of its face."""


async def to_root(call: Call) -> Answered:
    """``GET /conversation``."""
    return redirect(302, call.service.config.base_path or "/")


async def delete(call: Call) -> Answered:
    """``DELETE /conversation/{id}``; generation there continues."""
    # 15; 2025: 05_delete
    del call.service.store.conversations[call.conversation().id]
    return empty()
