"""Requests about one conversation, and the clean-up of what a client leaves behind.

The session notes which conversations this client made or resumed. What could not be cleaned up
when its turn came is kept there too, and tried again when the client closes.
"""

import contextlib
from collections.abc import Callable

from h2o_client.errors import H2oError, NotFoundError, StatusError, TransportTimeoutError
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import Query, StoredConversation
from h2o_client.protocol.effects import Flow, Head, Request, Sleep
from h2o_client.protocol.exchange import Exchange, in_short
from h2o_client.protocol.outcomes import is_transient, may_have_acted
from h2o_client.protocol.retries import Call
from h2o_client.protocol.session import Abandoned

_FIRST_PAUSE = 0.05  # seconds until what could not be cleaned up is tried again; then doubled
_LONGEST_PAUSE = 0.5


def create(
    exchange: Exchange,
    model: str,
    call: Call,
    made: Callable[[str], None],
    *,
    from_share: str | None = None,
) -> Flow[None]:
    """Open a conversation, or a copy of a shared one.

    Args:
        exchange: sends the request.
        model: its model.
        call: the call that it is part of.
        made: told the id, even where the caller breaks off meanwhile.
        from_share: the id of the shared conversation.

    Raises:
        ModelUnavailableError: the server does not know the model.
    """
    session, dialect = exchange.session, exchange.dialect
    under_way = False

    def build() -> Query[None]:
        nonlocal under_way
        under_way = True
        query = dialect.create(model=model, from_share=from_share)

        def read(head: Head, body: bytes, request: Request) -> None:
            nonlocal under_way
            conversation = query.read(head, body, request)
            under_way = False
            session.known.add(conversation)
            made(conversation)

        return Query(query.request, read)

    def failed(error: H2oError) -> None:
        nonlocal under_way
        under_way = False
        session.has_orphans = session.has_orphans or may_have_acted(error)

    def tracked(attempt: Flow[None]) -> Flow[None]:
        session.creating.add(made)
        try:
            return (yield from attempt)
        finally:
            session.creating.discard(made)

    creation = exchange.query(build, call, failed=failed, finish=tracked)
    try:
        yield from exchange.explain_model(model, creation, call)
    except GeneratorExit:
        session.has_orphans = session.has_orphans or under_way
        raise


def stored(exchange: Exchange, conversation: str, call: Call) -> Flow[StoredConversation]:
    """Read what the server has stored of a conversation."""
    return (yield from exchange.query(lambda: exchange.dialect.stored(conversation), call))


def poll(
    exchange: Exchange, conversation: str, deadline: Deadline
) -> Flow[StoredConversation | None]:
    """Return what the server has stored; None if that cannot be had just now.

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
    """Delete a conversation; one that is gone already is not an error."""
    with contextlib.suppress(NotFoundError):
        yield from exchange.query(lambda: exchange.dialect.delete(conversation), call)
    exchange.session.deleted(conversation)


def delete_once(exchange: Exchange, conversation: str, deadline: Deadline) -> Flow[None]:
    """Delete a conversation in a clean-up, which is tried again as a whole."""
    with contextlib.suppress(NotFoundError):
        yield from exchange.attempt(exchange.dialect.delete(conversation), deadline, deadline)
    exchange.session.deleted(conversation)


def leave_behind(exchange: Exchange, operation: Abandoned, error: BaseException | None) -> None:
    """Keep an operation whose clean-up failed, to try again when the client closes."""
    exchange.session.drop(operation)
    reason = "it was interrupted" if error is None else in_short(error)
    exchange.ambient.warn(
        f"a conversation could not be cleaned up, and is tried again on close: {reason}"
    )


def sweep(exchange: Exchange, deadline: Deadline) -> Flow[None]:
    """Clean up what was left behind; try again until the deadline."""
    pause = _FIRST_PAUSE
    while True:
        failures = yield from _sweep_once(exchange, deadline)
        repeat = any(error is None or _may_succeed_later(error) for error in failures)
        if not repeat or deadline.expired():
            break
        yield Sleep(deadline.at_most(pause))
        pause = min(2 * pause, _LONGEST_PAUSE)
    for error in failures:
        reason = "its creation has not ended" if error is None else in_short(error)
        exchange.ambient.warn(f"a conversation may be left behind, as clean-up failed: {reason}")


def _sweep_once(exchange: Exchange, deadline: Deadline) -> Flow[list[H2oError | None]]:
    """Return why something is not clean yet; None: it is just being created."""
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
    """Whether a clean-up that failed like this may succeed when it is tried again."""
    if isinstance(error, StatusError) and error.status >= 500:
        return True
    return isinstance(error, TransportTimeoutError) or is_transient(error)


def _delete_orphans(exchange: Exchange, deadline: Deadline) -> Flow[bool]:
    """Delete the conversations that were made here, but whose ids were lost on the way.

    They are those that this client does not know, in a session that nobody else has.

    Returns:
        Whether that is done: while one is just being created, its id is not known either.
    """
    overview = yield from exchange.overview(exchange.poll(deadline), reopen=False)
    if exchange.session.creating:
        return False
    for listed in overview.conversations:
        if listed.id not in exchange.session.known:
            yield from delete_once(exchange, listed.id, deadline)
    return True
