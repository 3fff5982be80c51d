"""One client's view of the service: what all its operations share.

`Service` holds the configuration and the session, and has the flows that operations are made of:
a small request with its retries, opening the session, creating and deleting a conversation. It
also keeps what was left behind, because the server could not be told when its turn came.
"""

import contextlib
import copy
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from h2o_client.errors import (
    ForbiddenError,
    H2oError,
    ModelUnavailableError,
    NotFoundError,
    ProtocolError,
    ServerError,
    StatusError,
    TermsNotAcceptedError,
    TransportTimeoutError,
)
from h2o_client.protocol.address import with_other_scheme
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Claim,
    Close,
    Exclusive,
    Finish,
    Flow,
    Head,
    Read,
    Request,
    Send,
    Sleep,
)
from h2o_client.protocol.payloads import Endpoints
from h2o_client.protocol.replies import (
    MAX_BODY,
    check_encoding,
    check_status,
    read_conversation_id,
    read_nothing,
    read_settings,
)
from h2o_client.protocol.retries import (
    Retries,
    RetryState,
    as_retries,
    is_passing,
    may_have_acted,
)
from h2o_client.protocol.session import Failure, Session
from h2o_client.types import Timeouts

if TYPE_CHECKING:
    # Few calls read `__data.json`: what it takes is imported then.
    from h2o_client.protocol.data import ConversationData, Root

T = TypeVar("T")
C = TypeVar("C", bound=Claim)
Reader = Callable[[Head, bytes, Request], T]
MAX_ANSWER = 1024 * 1024  # bytes of a successful answer
MAX_DATA = 64 * 1024 * 1024  # bytes of `__data.json`: a long conversation has megabytes
_MAX_LEFT_BEHIND = 1000
_LOOK_WITHIN = 5.0  # seconds that one look at what is stored may take: another may follow


class Ambient(NamedTuple):
    """What the core needs of the world, handed in so that tests can hand in something else.

    Attributes:
        clock: seconds, from any beginning, that never go back.
        random: draws a number from 0 to 1.
        uuid4: makes a random UUID, as text.
        warn: takes a sentence for the log that tells of a problem.
        note: takes a sentence for the log that does not.
        wait: takes a sentence for log and terminal that says what is waited for.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    uuid4: Callable[[], str]
    warn: Callable[[str], None]
    note: Callable[[str], None]
    wait: Callable[[str], None]


class Abandoned(Protocol):
    """An operation that the caller broke off."""

    def abandon(self) -> Flow[None]:
        """Tell the server what must still be told: stop, delete. May be played again."""
        ...


class Service:
    """What the operations of one client share.

    Args:
        endpoints: builds the requests.
        session: the session of the client.
        model: the model of calls that name none.
        parameters: the client's generation parameters.
        share: what the session is told about sharing conversations with the models' authors.
        timeouts: time limits.
        retries: retries.
        ambient: clock, randomness, log.
        recover: whether answers whose connection is lost are recovered, where a call says nothing.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        session: Session,
        *,
        model: str,
        parameters: Mapping[str, Any],
        share: bool,
        timeouts: Timeouts,
        retries: Retries,
        ambient: Ambient,
        recover: bool,
    ) -> None:
        self.endpoints = endpoints
        self.session = session
        self.model = model
        self.parameters = parameters
        self.timeouts = timeouts
        self.ambient = ambient
        self.recover = recover
        self._share = share
        self.retries = retries
        self._left_behind: deque[Abandoned] = deque(maxlen=_MAX_LEFT_BEHIND)
        self._known: set[str] = set()  # the conversations that were made or taken up
        self._orphaned = False  # whether one may have been made whose id was lost
        self._claims: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

    def retry_state(self, retries: Retries | int | None = None) -> RetryState:
        """Begin the retries of one call, its own or the client's."""
        policy = self.retries if retries is None else as_retries(retries)
        return RetryState(policy, self.ambient.random, self.ambient.note)

    def call(
        self,
        build: Callable[[], Request],
        read: Reader[T],
        retries: RetryState | None,
        *,
        reopen: bool = True,
        largest: int = MAX_ANSWER,
        failed: Callable[[H2oError], None] | None = None,
        finish: bool = False,
    ) -> Flow[T]:
        """Send a request that does no harm twice, and read its answer.

        Args:
            build: makes the request; anew for each attempt, as the session can change between.
            read: makes a value of the answer, or raises.
            retries: those of the call, or None: one attempt, in the session as it is.
            reopen: whether to open the session again, once, where the server has forgotten it.
            largest: bytes that a successful answer may have.
            failed: told of each attempt that fails.
            finish: whether an attempt that is on its way comes to its end, whatever becomes of
                the caller; `read` is to note what came of it.

        Raises:
            H2oError: what the last attempt ended with.
        """
        while True:
            openings = self.session.openings
            try:
                deadline = None if retries is None else retries.deadline
                attempt = self._attempt(build(), read, deadline, largest)
                if finish:
                    answer: T = yield Finish(attempt, self.timeouts.cleanup)
                    return answer
                return (yield from attempt)
            except TermsNotAcceptedError:
                # The server has forgotten the session, or never knew the one taken up.
                if retries is None or not reopen:
                    raise
                reopen = False
                self.session_lost(openings)
                delay = None
            except H2oError as error:
                if failed is not None:
                    failed(error)
                if retries is None or not is_passing(error):
                    raise
                delay = self.next_delay(retries, error)
                if delay is None:
                    raise
            if delay is None:
                yield from self.open_session(retries)
            else:
                yield Sleep(delay)

    def new_call(self) -> RetryState:
        """Begin a small operation: its retries, and the time limit of the whole."""
        retries = self.retry_state()
        self.begin(retries)
        return retries

    def cleanup_state(self, retries: RetryState) -> RetryState:
        """Let what follows end within the time of a clean-up."""
        retries.deadline = self.ambient.clock() + self.timeouts.cleanup
        return retries

    def begin(self, retries: RetryState) -> None:
        """Note that a call begins now, and with it the time limit of the whole."""
        if self.timeouts.total is not None:
            retries.deadline = self.ambient.clock() + self.timeouts.total

    def next_delay(self, retries: RetryState, error: H2oError) -> float | None:
        """Return the seconds to wait before another attempt, or None if there is to be none."""
        left = None if retries.deadline is None else retries.deadline - self.ambient.clock()
        return retries.next_delay(error, left)

    def connecting(self, deadline: float | None) -> float | None:
        """Return the seconds that making a connection may take."""
        return self.within(self.timeouts.connect, "connect", deadline)[0]

    def within(
        self, seconds: float | None, limit: str, deadline: float | None
    ) -> tuple[float | None, str]:
        """Return what is left until a limit or the end of the total, and which of them it is.

        Raises:
            TransportTimeoutError: nothing is left of the total.
        """
        if deadline is None:
            return seconds, limit
        left = deadline - self.ambient.clock()
        if left <= 0:
            raise TransportTimeoutError.struck("total", None)
        if seconds is None or left < seconds:
            return left, "total"
        return seconds, limit

    def _attempt(
        self, request: Request, read: Reader[T], deadline: float | None, largest: int
    ) -> Flow[T]:
        """Send a request and read the whole of its answer, within the idle limit in all."""
        within, limit = self.within(self.timeouts.idle, "idle", deadline)
        until = None if within is None else self.ambient.clock() + within
        head: Head = yield Send(request, within, self.connecting(deadline), limit)
        yield from self.accept(head)
        body = yield from self.read_body(head, until, limit, largest)
        return read(head, body, request)

    def accept(self, head: Head) -> Flow[None]:
        """Refuse a response that could unpack to more than it is; of an error's, only the body.

        Raises:
            ProtocolError: it is compressed, and no error.
        """
        try:
            check_encoding(head)
            return
        except ProtocolError as error:
            refusal = error
        yield Close()
        if head.status < 400:
            raise refusal

    def read_body(
        self, head: Head, until: float | None, limit: str, largest: int = MAX_ANSWER
    ) -> Flow[bytes]:
        """Read the body of a small answer; that of an error is cut where it is too long.

        Args:
            head: the head of the answer.
            until: when it must be whole, on the ambient clock, or None.
            limit: the name of the limit that this stands for.
            largest: bytes that a successful answer may have.

        Raises:
            ProtocolError: a successful answer is too long.
            TransportTimeoutError: it was not whole in time.
        """
        successful = 200 <= head.status < 300
        size = largest if successful else MAX_BODY
        body = bytearray()
        while True:
            left = None if until is None else until - self.ambient.clock()
            if left is not None and left <= 0:
                yield Close()
                raise TransportTimeoutError.struck(limit, None)
            chunk: bytes = yield Read(left, limit)
            body += chunk
            if not chunk:
                return bytes(body)
            if len(body) > size:
                yield Close()
                if successful:
                    raise ProtocolError(f"an answer is longer than {size} bytes")
                return bytes(body[:size])

    def open_session(self, retries: RetryState, model: str | None = None) -> Flow[None]:
        """Accept the terms and choose a model, unless that was done in this session.

        However many calls begin at once, one of them does it, and the others share how it ended,
        unless they would have had more patience or another model.

        Args:
            retries: those of the call.
            model: the model of the call, in case that the server has not the client's; None: the
                same.
        """
        if not self.session.accepted:
            opening = self._open(self.session.openings, retries, model or self.model)
            within, limit = self.within(None, "total", retries.deadline)
            yield Exclusive(opening, within, limit)

    def session_lost(self, openings: int) -> None:
        """Note that the server does not know the session, as it was after so many openings."""
        if self.session.openings == openings:
            self.session.accepted = self.session.has_settings = False

    def _open(self, openings: int, retries: RetryState, model: str) -> Flow[None]:
        session = self.session
        if session.accepted:
            return
        failure = session.failure
        waited = failure is not None and session.openings != openings  # for another call's attempt
        if failure is not None and waited and failure.settles(model, retries.patience):
            raise copy.copy(failure.error)
        patience = retries.patience
        try:
            set_cookies = yield from self._accept(model, retries)
        except CallerStoppedError:
            raise  # this caller's will, and no failure to share
        except H2oError as error:
            if retries.vetoed:
                raise
            # A copy has none of the frames of this call.
            session.failure = Failure(copy.copy(error), model, patience)
            session.openings += 1
            raise
        session.adopt(set_cookies)
        session.failure = None
        session.accepted = True
        session.openings += 1

    def _accept(self, model: str, retries: RetryState) -> Flow[list[str]]:
        """Accept the terms, with the client's model; where there is none such, with the call's."""
        try:
            return (yield from self._choose(self.model, retries))
        except ModelUnavailableError:
            if model == self.model:
                raise
        return (yield from self._choose(model, retries))

    def _choose(self, model: str, retries: RetryState) -> Flow[list[str]]:
        prompts: Mapping[str, str] | None = None
        if self.session.has_settings:
            # They are sent back: the server replaces all of them.
            root = yield from self.root(retries, reopen=False)
            prompts = root.settings.custom_prompts
            if any(known.id == root.settings.active_model for known in root.models):
                model = root.settings.active_model

        def build() -> Request:
            return self.endpoints.settings(model=model, share=self._share, custom_prompts=prompts)

        choice = self.post_form(build, _read_settings, retries, reopen=False)
        return (yield from self._explaining(model, choice, retries.deadline))

    def post_form(
        self,
        build: Callable[[], Request],
        read: Reader[T],
        retries: RetryState,
        *,
        reopen: bool = True,
    ) -> Flow[T]:
        """Send a form, once more with the other scheme in its referer if the server refuses that.

        A server to which nobody told its own URL takes itself for `https://host` even where it is
        reached by `http://`. It checks the referer of forms only. What it accepts is used from
        then on.
        """
        # 02_settings_variants, "referer https instead of http"
        endpoints = self.endpoints
        referer = endpoints.referer
        try:
            return (yield from self.call(build, read, retries, reopen=reopen))
        except ForbiddenError as error:
            if referer is None or "Invalid referer" not in error.message:
                raise
            refusal = error
        endpoints.referer = with_other_scheme(referer)
        try:
            return (yield from self.call(build, read, retries, reopen=reopen))
        except ForbiddenError:
            endpoints.referer = referer
            raise refusal from None

    def create(
        self,
        model: str,
        retries: RetryState,
        made: Callable[[str], None],
        *,
        from_share: str | None = None,
    ) -> Flow[None]:
        """Open a conversation, or a copy of a shared one.

        Args:
            model: its model.
            retries: those of the call.
            made: told the id, even where the caller breaks off meanwhile.
            from_share: the id of the shared conversation.

        Raises:
            ModelUnavailableError: the server does not know the model.
        """
        under_way = False

        def build() -> Request:
            nonlocal under_way
            under_way = True
            if from_share is not None:
                return self.endpoints.copy_share(from_share, model=model)
            return self.endpoints.create(model=model)

        def read(head: Head, body: bytes, request: Request) -> None:
            nonlocal under_way
            conversation = read_conversation_id(head, body, request)
            under_way = False
            self._known.add(conversation)
            made(conversation)

        def failed(error: H2oError) -> None:
            nonlocal under_way
            under_way = False
            self._orphaned = self._orphaned or may_have_acted(error)

        creation = self.call(build, read, retries, failed=failed, finish=True)
        try:
            yield from self._explaining(model, creation, retries.deadline)
        except GeneratorExit:
            self._orphaned = self._orphaned or under_way
            raise

    def claim(self, conversation: str, mine: C) -> C:
        """Return the claim to the turns of a conversation, which all who resumed it share.

        Args:
            conversation: its id.
            mine: what becomes the claim if there is none yet.
        """
        self._known.add(conversation)
        claim: C = self._claims.setdefault(conversation, mine)
        return claim

    def _explaining(self, model: str, flow: Flow[T], deadline: float | None) -> Flow[T]:
        """Play a flow; where it fails because the server does not know the model, say so.

        The service itself answers 500 `Internal Error` [02_settings_variants,
        03_create_conversation].
        """
        try:
            return (yield from flow)
        except ServerError as failure:
            if failure.message != "Internal Error":
                raise
            error = failure
        try:
            root = yield from self.root(self._glance(deadline), reopen=False)
        except H2oError:
            raise error from None
        names = [known.id for known in root.models]
        if model in names:
            raise error
        raise ModelUnavailableError(
            f"the server has no model {model!r}; it has: {', '.join(names) or 'none'}",
            status=error.status,
            message=error.message,
            body=error.body,
        )

    def root(self, retries: RetryState, *, reopen: bool = True) -> "Flow[Root]":
        """Read models, settings and conversations."""
        from h2o_client.protocol.data import read_root

        root: Root = yield from self.call(
            self.endpoints.root, reading(read_root), retries, reopen=reopen, largest=MAX_DATA
        )
        return root

    def look(self, conversation: str, deadline: float | None) -> "Flow[ConversationData | None]":
        """Return what the server has stored; None if that cannot be had just now.

        Raises:
            NotFoundError: the conversation is gone.
        """
        try:
            return (yield from self.data(conversation, self._glance(deadline)))
        except NotFoundError:
            raise
        except H2oError:
            return None

    def _glance(self, deadline: float | None) -> RetryState:
        """Begin a single attempt that may not take long: it is not what the caller waits for."""
        once = self.retry_state(0)
        until = self.ambient.clock() + _LOOK_WITHIN
        once.deadline = until if deadline is None else min(until, deadline)
        return once

    def data(self, conversation: str, retries: RetryState) -> "Flow[ConversationData]":
        """Read what the server has stored of a conversation."""
        from h2o_client.protocol.data import read_conversation

        data: ConversationData = yield from self.call(
            lambda: self.endpoints.data(conversation),
            reading(read_conversation),
            retries,
            largest=MAX_DATA,
        )
        return data

    def delete(self, conversation: str, retries: RetryState | None) -> Flow[None]:
        """Delete a conversation; one that is gone already is no error."""
        with contextlib.suppress(NotFoundError):
            yield from self.call(lambda: self.endpoints.delete(conversation), read_nothing, retries)
        self._known.discard(conversation)

    def stop(self, conversation: str) -> Flow[None]:
        """Stop what is generated in a conversation; one that is gone is no error."""
        once = self.cleanup_state(self.retry_state(0))
        try:
            yield from self.call(
                lambda: self.endpoints.stop(conversation), read_nothing, once, reopen=False
            )
        except NotFoundError:
            return

    def leave_behind(self, operation: Abandoned, error: BaseException | None) -> None:
        """Keep an operation whose clean-up failed, to try again when the client closes."""
        self._left_behind.append(operation)
        reason = "it was interrupted" if error is None else in_short(error)
        self.ambient.warn(
            f"a conversation could not be cleaned up, and is tried again on close: {reason}"
        )

    def forget(self) -> None:
        """Leave what there is to another process, which goes on with the session as well."""
        self._left_behind.clear()
        self._claims.clear()
        self.session.shared = True

    def sweep(self) -> Flow[None]:
        """Try again to clean up what was left behind; what fails now is given up."""
        while self._left_behind:
            operation = self._left_behind.popleft()
            try:
                yield from operation.abandon()
            except H2oError as error:
                self.ambient.warn(f"a conversation could not be cleaned up: {in_short(error)}")
        if self._orphaned and not self.session.shared:
            self._orphaned = False
            try:
                yield from self._delete_orphans()
            except H2oError as error:
                self.ambient.warn(f"a conversation may be left behind: {in_short(error)}")

    def _delete_orphans(self) -> Flow[None]:
        """Delete the conversations that were made here, but whose ids were lost on the way.

        They are those that this client does not know, in a session that nobody else has.
        """
        root = yield from self.root(self._glance(None), reopen=False)
        for listed in root.conversations:
            if listed.id not in self._known:
                yield from self.delete(listed.id, None)


def reading(read: Callable[[bytes], T]) -> Reader[T]:
    """Make a reader of a function that reads the body of a successful answer."""

    def reader(head: Head, body: bytes, request: Request) -> T:
        check_status(head, body, request)
        return read(body)

    return reader


def _read_settings(head: Head, body: bytes, request: Request) -> list[str]:
    """Return the `Set-Cookie` headers of accepted settings."""
    read_settings(head, body, request)
    return [value for name, value in head.headers if name == "set-cookie"]


def in_short(error: BaseException) -> str:
    """Return what may stand in a log: an error's text can have the server's words, and so ours."""
    status = f" {error.status}" if isinstance(error, StatusError) else ""
    return type(error).__name__ + status
