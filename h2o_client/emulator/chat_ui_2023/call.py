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

    def limit(self, *, message: bool) -> None:
        """Reject requests that exceed the rate limit.

        On 0.4 only accepted messages count, by session; on 0.6 rejected messages and titles count
        too, by address.
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
