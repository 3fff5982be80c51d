"""Sends each request within its limits and in an open session, and retries it if that is safe.

`Exchange.repeat()` is the only loop that retries requests. Two things lead to another attempt: an
error after which a retry can do no harm, if `Call.next_delay()` allows it; and a server that has
forgotten the session, which is then opened again, once.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from h2o_client.errors import (
    ForbiddenError,
    H2oError,
    LoginRequiredError,
    ModelUnavailableError,
    ProtocolError,
    RateLimitError,
    RedirectError,
    StatusError,
    TermsNotAcceptedError,
    TransportError,
)
from h2o_client.protocol.address import with_other_scheme
from h2o_client.protocol.ambient import Ambient
from h2o_client.protocol.answer import AnswerParser
from h2o_client.protocol.configuration import Configuration
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import Dialect, Query, unsupported
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Close,
    Exclusive,
    Fetch,
    Finish,
    Flow,
    Head,
    Read,
    Request,
    Send,
    Sleep,
)
from h2o_client.protocol.outcomes import is_transient
from h2o_client.protocol.recognition import (
    NEW,
    OLD,
    explain,
    is_sign,
    is_undecided,
    load_dialect,
    question,
)
from h2o_client.protocol.replies import LOGIN, MAX_BODY, is_plain
from h2o_client.protocol.requests import Site
from h2o_client.protocol.retries import Call, Retries
from h2o_client.protocol.session import Failure, Session

if TYPE_CHECKING:
    from h2o_client.stored import Model

T = TypeVar("T")
_MAX_TAIL = 64 * 1024  # bytes read after the final event
_TAIL_WITHIN = 1.0  # seconds waited for the end of the response after the final event
_EXCERPT = 1024  # bytes read of an unexpected answer
_POLL_WITHIN = 5.0  # the time limit of one poll of a stored conversation, in seconds


class Exchange:
    """Sends all requests of one client.

    Args:
        configuration: the caller's choices.
        session: the session of the client.
        site: builds the client's requests.
        dialect: the kind of server, known or assumed.
        ambient: clock, randomness, log.
        recognised: whether the kind of server is known.

    Attributes:
        models: the models of the server, once they were read.
    """

    def __init__(
        self,
        configuration: Configuration,
        session: Session,
        site: Site,
        dialect: Dialect,
        ambient: Ambient,
        *,
        recognised: bool,
    ) -> None:
        self.configuration = configuration
        self.session = session
        self.site = site
        self.dialect = dialect
        self.ambient = ambient
        self.recognised = recognised
        self.models: tuple[Model, ...] | None = None

    # The kind of server

    @property
    def model(self) -> str | None:
        """The default model; None means the server's first one, which is not known yet."""
        first = self.models[0].id if self.models else None
        return self.configuration.model or self.dialect.default_model or first

    def use(self, dialect: str) -> None:
        """Remember which dialect the server speaks."""
        if self.dialect.name != dialect:
            self.dialect = load_dialect(dialect, self.site)
        self.recognised = True

    @property
    def untried(self) -> bool:
        """Whether the kind of server is unknown because the session was resumed, not opened."""
        return not self.recognised and self.session.openings == 0

    def ask_dialect(self, call: Call) -> Flow[None]:
        """Ask which dialect the server speaks, if a call needs to know before other requests."""
        if self.recognised:
            return
        try:
            self.models = yield from self.query(lambda: question(self.site), call, reopen=False)
        except (StatusError, ProtocolError) as error:
            if is_undecided(error):
                raise
            self.recognised = True  # only 2025 servers list their models there
        else:
            self.use(NEW)

    def recognise(self, sign: H2oError, call: Call, operation: str = "") -> Flow[bool]:
        """Find out whether the server speaks another dialect than assumed, and switch to it.

        Args:
            sign: the error of a request.
            call: the call that this is part of.
            operation: the operation of the request.

        Returns:
            Whether the dialect has changed, so that the request must be built again.

        Raises:
            UnsupportedServerError: its version is between those that the client supports.
            LoginRequiredError: it requires a login.
        """
        if self.recognised or not is_sign(sign, operation):
            return False
        try:
            asking = self.query(lambda: question(self.site), call, reopen=False)
            self.models = yield from asking
        except (StatusError, ProtocolError) as error:
            found = explain(sign, error, operation)
            if found is not sign:
                raise found from None
            return False
        self.use(NEW)
        self.ambient.note(f"the server speaks {NEW}")
        if isinstance(sign, RedirectError):
            raise LoginRequiredError(LOGIN, status=sign.status) from None
        return True

    def require(self, **wanted: object) -> None:
        """Raise if the server lacks a capability.

        Args:
            **wanted: capabilities; those with a true value are required.

        Raises:
            UnsupportedError: the server lacks one of them.
        """
        for capability, value in wanted.items():
            if value and capability not in self.dialect.capabilities:
                raise unsupported(capability)

    def read_models(self, call: Call) -> "Flow[tuple[Model, ...]]":
        """Read the models of the server."""
        self.models = yield from self.query(lambda: self.dialect.models(), call)
        return self.models

    def choose_model(self, model: str | None, call: Call) -> Flow[str]:
        """Return the model of a call.

        Args:
            model: the model that the call names, or None.
            call: the call.

        Raises:
            ModelUnavailableError: the call names no model, and the server has no models.
        """
        found = model or self.model
        if found is None:
            yield from self.read_models(call)
            found = self.model
        if found is None:
            raise ModelUnavailableError("the server has no models", status=200)
        return found

    # Limits

    def deadline(self, seconds: float | None, limit: str) -> Deadline:
        """Return the deadline of a time limit that begins now."""
        return Deadline(self.ambient.clock, seconds, limit)

    def call(self, retries: Retries | None = None) -> Call:
        """Begin a call: its time limit begins now.

        Args:
            retries: the call's own retries; None for the client's.
        """
        configuration = self.configuration
        return Call(
            configuration.retries if retries is None else retries,
            Deadline(self.ambient.clock, configuration.timeouts.total, "total"),
            self.ambient,
        )

    def cleanup(self) -> Deadline:
        """Return the deadline of a clean-up that begins now."""
        return Deadline(self.ambient.clock, self.configuration.timeouts.cleanup, "cleanup")

    def poll(self, deadline: Deadline) -> Call:
        """Begin a call of one attempt with a short time limit, as another poll can follow."""
        soon = deadline.or_earlier(_POLL_WITHIN, deadline.limit)
        return Call(Retries(attempts=0), soon, self.ambient)

    # Requests

    def query(
        self,
        build: Callable[[], Query[T]],
        call: Call,
        *,
        reopen: bool = True,
        finish: Callable[[Flow[T]], Flow[T]] | None = None,
        failed: Callable[[H2oError], None] | None = None,
    ) -> Flow[T]:
        """Send a request that is safe to send twice, and read its answer.

        Args:
            build: makes the request, separately for each attempt, as the session can change.
            call: the call that this is part of.
            reopen: whether to open the session again if the server has forgotten it.
            finish: wraps an attempt that must finish once it was sent, even if the caller is
                cancelled; the reader must store its result. While the session is not confirmed,
                such attempts run one at a time.
            failed: called with the error of each failed attempt.

        Raises:
            H2oError: the error of the last attempt.
        """

        def attempt() -> Flow[T]:
            timeouts = self.configuration.timeouts
            idle = call.deadline.or_earlier(timeouts.idle, "idle")
            connect = call.deadline.or_earlier(timeouts.connect, "connect")
            inner = self.attempt(build(), idle, connect)
            try:
                if finish is not None:
                    answer: T = yield Finish(finish(inner), self.configuration.timeouts.cleanup)
                    return answer
                return (yield from inner)
            except H2oError as error:
                if failed is not None:
                    failed(error)
                raise

        once: Callable[[], Flow[T]] = attempt
        if finish is not None and not self.session.confirmed:
            once = partial(self._confirm, attempt, call)
        return self.repeat(once, call, is_transient, reopen=reopen)

    def _confirm(self, attempt: Callable[[], Flow[T]], call: Call) -> Flow[T]:
        """Run a flow that creates something in the session, alone until that is confirmed.

        The server ignores our cookie if its own has another name, and gives each of several
        concurrent requests another session.
        """

        def alone() -> Flow[list[T]]:
            return [] if self.session.confirmed else [(yield from attempt())]

        if not self.session.confirmed:
            turn = call.deadline.or_earlier(self.configuration.timeouts.idle, "idle")
            turn.check()
            done: list[T] = yield Exclusive(alone(), turn)
            if done:
                return done[0]
        return (yield from attempt())

    def repeat(
        self,
        attempt: Callable[[], Flow[T]],
        call: Call,
        may_repeat: Callable[[H2oError], bool],
        *,
        reopen: bool = True,
    ) -> Flow[T]:
        """Run a flow until it succeeds, as often as its errors and the call allow.

        Args:
            attempt: makes the flow.
            call: the call that this is part of.
            may_repeat: whether another attempt is safe after this error.
            reopen: whether to open the session again if the server has forgotten it.

        Raises:
            H2oError: the error of the last attempt.
        """
        while True:
            openings, dialect = self.session.openings, self.dialect
            # Keep no error beyond its `except`: its traceback would keep a dropped stream alive.
            try:
                return (yield from attempt())
            except TermsNotAcceptedError:
                # The server has forgotten the session, or never knew the resumed one.
                if not reopen:
                    raise
                reopen = False
                self.session.lost(openings)
                first = self.open_session(call)
            except H2oError as error:
                is_limit = isinstance(error, RateLimitError) and not self.dialect.retries_limit
                repeats = may_repeat(error) and not is_limit
                delay = call.next_delay(error) if repeats else None
                if delay is not None:
                    first = _pause(delay)
                elif dialect is not self.dialect and is_sign(error, ""):
                    continue  # meanwhile another call has found out the dialect
                elif reopen and (yield from self.recognise(error, call)):
                    continue
                else:
                    raise
            yield from first

    def attempt(self, query: Query[T], deadline: Deadline, connect: Deadline) -> Flow[T]:
        """Send a request once and read its answer.

        Args:
            query: the request.
            deadline: by when the whole answer must have arrived.
            connect: by when a connection must have been made.

        Raises:
            ProtocolError: a successful answer is too long, or compressed: see `send()`.
            H2oError: the request failed, or was rejected.
        """
        deadline.check()
        request, read, largest, proves = query
        answer: tuple[Head, bytes] = yield Fetch(request, deadline, connect, largest, MAX_BODY)
        head, body = answer
        if not is_plain(head):
            body = b""
        if head.status >= 300:
            body = body[:MAX_BODY]
        elif len(body) > largest:
            raise ProtocolError(f"an answer is longer than {largest} bytes")
        value = read(head, body, request)
        self.recognised = self.recognised or proves
        return value

    def send(self, request: Request, deadline: Deadline, call: Call) -> Flow[Head]:
        """Send a request and wait for the head of its answer.

        Raises:
            ProtocolError: the answer is compressed although the request forbids it: it could
                decompress to more than any limit. Of an error's answer, only the body is ignored.
        """
        deadline.check()
        connect = call.deadline.or_earlier(self.configuration.timeouts.connect, "connect")
        head: Head = yield Send(request, deadline, connect)
        try:
            plain = is_plain(head)
        except ProtocolError as error:
            rejection = error
        else:
            if not plain:
                yield Close()
            return head
        yield Close()
        raise rejection

    def read_body(self, deadline: Deadline) -> Flow[bytes]:
        """Read the body of a response that should have been a stream, up to a limit.

        Raises:
            TransportTimeoutError: it was not complete in time.
        """
        body = bytearray()
        while True:
            if deadline.expired():
                yield Close()
                raise deadline.exceeded()
            chunk: bytes = yield Read(deadline)
            body += chunk
            if not chunk:
                return bytes(body)
            if len(body) > MAX_BODY:
                yield Close()
                return bytes(body[:MAX_BODY])

    def read_excerpt(self, deadline: Deadline) -> Flow[bytes]:
        """Read the beginning of an unexpected response, as much as arrives by the deadline."""
        body = b""
        try:
            while len(body) < _EXCERPT and not deadline.expired():
                chunk: bytes = yield Read(deadline)
                if not chunk:
                    return body
                body += chunk
        except TransportError:
            return body  # report the unexpected content, not the lost connection
        yield Close()
        return body

    def read_tail(self, parser: AnswerParser) -> Flow[bool]:
        """Read to the end of a response, so that its connection can be reused.

        Returns:
            Whether the server has ended it.
        """
        deadline = self.deadline(_TAIL_WITHIN, "idle")
        size = 0
        try:
            while not deadline.expired() and size <= _MAX_TAIL:
                chunk: bytes = yield Read(deadline)
                if not chunk:
                    return True
                parser.feed(chunk)
                size += len(chunk)
        except TransportError:
            return False  # the answer is whole; only the connection is lost
        yield Close()
        return False

    # The session

    def open_session(self, call: Call, model: str | None = None) -> Flow[None]:
        """Accept the terms and choose a model, unless that was done in this session.

        If several calls begin at once, one of them does it, and the others share its outcome,
        unless they could have tried longer or with another model.

        Args:
            call: the call that needs it.
            model: the model to use if the server does not have the client's; None to raise then.
        """
        if not self.session.accepted:
            call.deadline.check()
            yield Exclusive(self._open(self.session.openings, call, model), call.deadline)

    def _open(self, openings: int, call: Call, model: str | None) -> Flow[None]:
        session = self.session
        if session.accepted:
            return
        failure = session.failure
        waited = failure is not None and session.openings != openings  # on another call's attempt
        if failure is not None and waited and failure.applies_to(model, call.patience):
            raise copy.copy(failure.error)
        patience = call.patience
        try:
            set_cookies = yield from self._accept_terms(model, call)
        except CallerStoppedError:
            raise  # this caller's own decision, not a failure to share
        except H2oError as error:
            if call.vetoed:
                raise
            # A copy does not keep the frames of this call alive.
            session.failure = Failure(copy.copy(error), model, patience)
            session.openings += 1
            raise
        session.opened(set_cookies)

    def _accept_terms(self, model: str | None, call: Call) -> Flow[list[str] | None]:
        """Accept the terms, with the client's model; if the server lacks it, with the call's."""
        usual = self.model
        try:
            return (yield from self._choose(usual, call))
        except ModelUnavailableError:
            if model is None or model == usual:
                raise
        except H2oError as error:
            if not (yield from self.recognise(error, call, "settings")):
                raise
            model = self.model
        return (yield from self._choose(model, call))

    def _choose(self, model: str | None, call: Call) -> Flow[list[str] | None]:
        kept: dict[str, Any] | None = None
        share = self.configuration.share
        opening = self.dialect.accept_terms(model=model, share=share)
        if opening is None:
            return None
        if self.session.has_settings:
            # Send them back, because the server replaces all settings.
            kept = yield from self.query(self.dialect.kept_settings, call, reopen=False)
            model = kept.get("activeModel", model)

        def build() -> Query[list[str]]:
            return self.dialect.accept_terms(model=model, share=share, kept=kept) or opening

        choice = self.post_form(build, call, reopen=False)
        return (yield from self.explain_model(model, choice, call, "settings"))

    def post_form(
        self, build: Callable[[], Query[T]], call: Call, *, reopen: bool = True
    ) -> Flow[T]:
        """Send a form; if the server rejects its referer, retry with the other scheme in it.

        A server without a configured origin assumes that it is `https://host`, even if reached by
        `http://`. It checks only the referer of forms. The accepted scheme is used from then on.
        """
        # 02_settings_variants, "referer https instead of http"
        site = self.site
        referer = site.referer
        try:
            return (yield from self.query(build, call, reopen=reopen))
        except ForbiddenError as rejection:
            if referer is None or "Invalid referer" not in rejection.message:
                raise
            site.referer = with_other_scheme(referer)
            try:
                return (yield from self.query(build, call, reopen=reopen))
            except ForbiddenError:
                site.referer = referer
                raise rejection from None

    def explain_model(
        self, model: str | None, flow: Flow[T], call: Call, operation: str = ""
    ) -> Flow[T]:
        """Run a flow; if it fails because the server does not know the model, say so.

        Raises:
            ModelUnavailableError: the server does not know the model; `models` is up to date.
        """
        try:
            return (yield from flow)
        except StatusError as error:
            foreign = not self.recognised and is_sign(error, operation)
            if foreign or not self.dialect.is_unknown_model(error):
                raise
            try:
                poll = self.poll(call.deadline)
                self.models = yield from self.query(self.dialect.models, poll, reopen=False)
            except H2oError:
                raise error from None
            names = [known.id for known in self.models]
            if model in names:
                raise
            raise ModelUnavailableError(
                f"the server has no model {model!r}; it has: {', '.join(names) or 'none'}",
                status=error.status,
                message=error.message,
                body=error.body,
            ) from None


def new_exchange(configuration: Configuration, ambient: Ambient, *, user_agent: str) -> Exchange:
    """Make the exchange of one client.

    Args:
        configuration: the caller's choices.
        ambient: clock, randomness, log.
        user_agent: the value of the `User-Agent` header.
    """
    session = Session(configuration.session, new=ambient.uuid4(), name=configuration.cookie_name)
    if not configuration.share:
        session.accepted = False  # a resumed session opts out too
    site = Site(
        configuration.address,
        session,
        headers=configuration.headers,
        token=configuration.token,
        user_agent=user_agent,
    )
    dialect = load_dialect(configuration.dialect or OLD, site)
    recognised = configuration.dialect is not None
    return Exchange(configuration, session, site, dialect, ambient, recognised=recognised)


def _pause(seconds: float) -> Flow[None]:
    yield Sleep(seconds)


def in_short(error: BaseException) -> str:
    """Describe an error for the log, without its text, which may quote the prompt."""
    status = f" {error.status}" if isinstance(error, StatusError) else ""
    return type(error).__name__ + status
