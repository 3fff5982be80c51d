"""A request that passed the access checks, for the endpoints and pages."""

from __future__ import annotations

from h2o_client.emulator.call import OBJECT_ID
from h2o_client.emulator.call import Call as AnyCall
from h2o_client.emulator.sveltekit import RATE_LIMITED, HttpError, InternalError


class Call(AnyCall):
    """One request that has passed the access checks."""

    __slots__ = ()

    def object_id(self, text: str) -> str:
        """An id in the database's form: 24 hex digits; any twelve bytes are accepted, too."""
        # 04
        if OBJECT_ID.fullmatch(text):
            return text.lower()
        if len(text.encode()) == 12:
            return text.encode().hex()
        raise InternalError

    def limit(self) -> None:
        """Reject messages that exceed the rate limit.

        On 0.4 only accepted messages count, by session; on 0.6 rejected messages and titles count
        too, by address.
        """
        # 06_rate_limit of both
        config, store = self.service.config, self.service.store
        if config.version >= "0.6":
            super().limit()
            return
        if config.rate_limit is not None and store.count_events(self.session) > config.rate_limit:
            raise HttpError(429, RATE_LIMITED)
        store.record_event(self.session, self.request.address)
