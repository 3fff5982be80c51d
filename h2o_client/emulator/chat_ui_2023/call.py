"""One request that passed the gates, as the endpoints and pages see it."""

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
)
from h2o_client.emulator.web import Answered, Request


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has passed the gates."""

    service: Service
    request: Request
    session: str
    path: str
    ids: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; a body without a content type is not read."""
        # 03
        if self.request.header("content-type") is None:
            raise InternalError
        try:
            value: object = self.request.json()
        except ValueError:
            raise InternalError from None
        if not isinstance(value, dict):
            raise InternalError
        return cast("dict[str, Any]", value)

    def conversation(self) -> Conversation:
        """The conversation of the path, if it is this session's."""
        found = self.service.store.conversations.use(object_id(self.ids[0]))
        if found is None or found.session != self.session:
            raise HttpError(404, NO_CONVERSATION)
        return found

    def limit(self, *, message: bool) -> None:
        """Refuse what exceeds the rate limit.

        On 0.4 only messages count, those that were let through, by session; on 0.6
        refused ones and titles do too, and by address.
        """
        # 06_rate_limit of both
        config, store = self.service.config, self.service.store
        session, address = self.session, self.request.address
        if config.version >= "0.6":
            store.record_event(session, address)
            count = max(store.count_events(session), store.count_events(session, address))
        elif not message:
            return
        else:
            count = store.count_events(session)
        if config.rate_limit is not None and count > config.rate_limit:
            raise HttpError(429, RATE_LIMITED)
        if config.version < "0.6":
            store.record_event(session, address)


Handler = Callable[[Call], Awaitable[Answered]]


def object_id(text: str) -> str:
    """The database's id of a text: 24 hex digits, or any twelve bytes."""
    # 04
    if re.fullmatch(r"[0-9a-fA-F]{24}", text):
        return text.lower()
    if len(text.encode()) == 12:
        return text.encode().hex()
    raise InternalError
