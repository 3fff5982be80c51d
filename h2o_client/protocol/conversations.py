"""Requests about one conversation, and the clean-up on the server.

The session records which conversations this client created or resumed. It also keeps each clean-up
that failed, to retry it when the client closes.
"""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from h2o_client.errors import (
    H2oError,
    ModelUnavailableError,
    NotFoundError,
    StatusError,
    TransportTimeoutError,
)
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import Created, Query, StoredConversation
from h2o_client.protocol.effects import Flow, Head, Request, Sleep
from h2o_client.protocol.exchange import Exchange, in_short
from h2o_client.protocol.outcomes import is_transient, may_have_acted
from h2o_client.protocol.recognition import NEW
from h2o_client.protocol.retries import Call
from h2o_client.protocol.session import Abandoned
from h2o_client.types import DEFAULT_MODEL

if TYPE_CHECKING:
    from h2o_client.stored import ConversationInfo

_FIRST_PAUSE = 0.05  # seconds until a failed clean-up is retried; doubled each time
_LONGEST_PAUSE = 0.5
_UNREACHABLE = (
    "a conversation may be left on the server: the response that contained its session was lost "
    "(set `cookie_name` if the server has renamed its session cookie)"
)


def create(
    exchange: Exchange,
    model: str | None,
    call: Call,
    made: Callable[[str], None],
    *,
    from_share: str | None = None,
    preprompt: str | None = None,
) -> Flow[str | None]:
    """Create a conversation, or a copy of a shared one.

    Args:
        exchange: sends the request.
        model: its model; None for the client's.
        call: the call that it is part of.
        made: called with the id, even if the caller is interrupted in the meantime.
        from_share: the id of the shared conversation.
        preprompt: the system message, if the server supports one.

    Returns:
        The id of the message that the first one follows, if the server sends it.

    Raises:
        ModelUnavailableError: the server does not know the model.
    """
    session = exchange.session
    under_way = False

    def new() -> Query[Created]:
        # If the server is of another kind than assumed, its default model differs.
        named = model or exchange.model or DEFAULT_MODEL
        return exchange.dialect.create(model=named, from_share=from_share, preprompt=preprompt)

    def build() -> Query[str | None]:
        nonlocal under_way
        under_way = True
        query = new()

        def read(head: Head, body: bytes, request: Request) -> str | None:
            nonlocal under_way
            created = query.read(head, body, request)
            under_way = False
            if created.is_newer and not exchange.recognised:
                exchange.use(NEW)
                created = new().read(head, body, request)
            session.known.add(created.id)
            cookie = session.cookie
            session.adopt(created.set_cookies)
            if session.has_orphans and session.cookie != cookie:
                session.has_orphans = False
                exchange.ambient.warn(_UNREACHABLE)
            made(created.id)
            return created.tip

        return Query(query.request, read, query.largest)

    def failed(error: H2oError) -> None:
        nonlocal under_way
        under_way = False
        session.has_orphans = session.has_orphans or may_have_acted(error)

    def tracked(attempt: Flow[str | None]) -> Flow[str | None]:
        session.creating.add(made)
        try:
            return (yield from attempt)
        finally:
            session.creating.discard(made)

    default, renewed = exchange.model, False
    try:
        while True:
            creation = exchange.query(build, call, failed=failed, finish=tracked)
            try:
                return (yield from exchange.explain_model(model or default, creation, call))
            except ModelUnavailableError:
                if model is not None or renewed or exchange.model in (None, default):
                    raise
                # The server removed its first model. This loop must end, even if it does so again.
                default, renewed = exchange.model, True
    except GeneratorExit:
        session.has_orphans = session.has_orphans or under_way
        raise


def stored(exchange: Exchange, conversation: str, call: Call) -> Flow[StoredConversation]:
    """Read a conversation from the server."""
    return (yield from exchange.query(lambda: exchange.dialect.stored(conversation), call))


def poll(
    exchange: Exchange, conversation: str, deadline: Deadline
) -> Flow[StoredConversation | None]:
    """Return the stored conversation; None if it cannot be read at the moment.

    Raises:
        NotFoundError: the conversation is gone.
    """
    try:
        return (yield from stored(exchange, conversation, exchange.poll(deadline)))
    except NotFoundError:
        raise
    except H2oError:
        return None


def delete(exchange: Exchange, conversation: str, call: Call) -> Flow[None]:
    """Delete a conversation; if it no longer exists, that is not an error."""
    with contextlib.suppress(NotFoundError):
        yield from exchange.query(lambda: exchange.dialect.delete(conversation), call)
    exchange.session.deleted(conversation)


def delete_once(exchange: Exchange, conversation: str, deadline: Deadline) -> Flow[None]:
    """Delete a conversation in one attempt; the whole clean-up is repeated if that fails."""
    with contextlib.suppress(NotFoundError):
        yield from exchange.attempt(exchange.dialect.delete(conversation), deadline, deadline)
    exchange.session.deleted(conversation)


def _page(exchange: Exchange, page: int) -> "Query[tuple[tuple[ConversationInfo, ...], bool]]":
    return exchange.dialect.conversations(page)


def listed(
    exchange: Exchange, call: Call, *, reopen: bool = True
) -> "Flow[list[ConversationInfo]]":
    """Read the session's conversations, from all pages of the list."""
    found: dict[str, ConversationInfo] = {}
    for page in itertools.count():
        query = partial(_page, exchange, page)
        infos, more = yield from exchange.query(query, call, reopen=reopen)
        new = {info.id: info for info in infos if info.id not in found}
        found |= new
        if not (more and new):
            break
    return list(found.values())


def leave_behind(exchange: Exchange, operation: Abandoned, error: BaseException | None) -> None:
    """Keep an operation whose clean-up failed, to retry it when the client closes."""
    exchange.session.drop(operation)
    reason = "it was interrupted" if error is None else in_short(error)
    exchange.ambient.warn(
        f"a conversation could not be cleaned up; the client retries when it closes: {reason}"
    )


def sweep(exchange: Exchange, deadline: Deadline) -> Flow[None]:
    """Clean up on the server; retry until the deadline."""
    pause = _FIRST_PAUSE
    while True:
        failures = yield from _sweep_once(exchange, deadline)
        repeat = any(error is None or _may_succeed_later(error) for error in failures)
        if not repeat or deadline.expired():
            break
        yield Sleep(deadline.at_most(pause))
        pause = min(2 * pause, _LONGEST_PAUSE)
    for error in failures:
        reason = "it is still being created" if error is None else in_short(error)
        exchange.ambient.warn(
            f"a conversation may be left on the server, because the clean-up failed: {reason}"
        )


def _sweep_once(exchange: Exchange, deadline: Deadline) -> Flow[list[H2oError | None]]:
    """Try each clean-up once.

    Returns:
        Why clean-ups failed; None for a conversation that is still being created.
    """
    session = exchange.session
    failures: list[H2oError | None] = []
    for operation in session.dropped():
        try:
            yield from operation.abandon(deadline)
        except H2oError as error:
            failures.append(error)
        else:
            if operation.creating:
                failures.append(None)
            else:
                session.end(operation)
    if session.has_orphans and not session.shared:
        try:
            session.has_orphans = not (yield from _delete_orphans(exchange, deadline))
            if session.has_orphans:
                failures.append(None)
        except H2oError as error:
            failures.append(error)
    return failures


def _may_succeed_later(error: H2oError) -> bool:
    """Whether a clean-up that failed with this error may succeed later."""
    if isinstance(error, StatusError) and error.status >= 500:
        return True
    return isinstance(error, TransportTimeoutError) or is_transient(error)


def _delete_orphans(exchange: Exchange, deadline: Deadline) -> Flow[bool]:
    """Delete the conversations that this client created, but whose ids were lost.

    They are the unknown conversations of a session that only this client uses.

    Returns:
        Whether that is done; it must wait while a conversation is still being created.
    """
    infos = yield from listed(exchange, exchange.poll(deadline), reopen=False)
    if exchange.session.creating:
        return False
    for info in infos:
        if info.id not in exchange.session.known:
            yield from delete_once(exchange, info.id, deadline)
    return True
