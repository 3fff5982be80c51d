"""One message and its answer: the heart of every operation.

A turn asks, reads the stream, and knows at each moment whether the server may be generating. When
the connection is lost under it, the server goes on all the same and stores the whole answer
[17_disconnect]; the turn then *recovers*: it looks for its answer in the conversation's data, by
the id that it chose for it, and gives out exactly what is missing. Only where nothing at all had
arrived, and the server shows no sign of the turn, is the message asked again, in its place: never
while the first generation may run, because one of the two answers would overwrite the other.

The server stores an answer only when it is whole, and shows nothing before that. So a lost answer
is waited for as long as it had been going, and `Timeouts.recovery` on top; from then on as long
as the server shows signs of it. One whose response came to a regular end without its final event
is looked for only shortly: as a rule the model server has broken it off, and nothing is stored
[05_upstream_truncate_clean]. After a time limit there is one look: the caller has waited long
enough, and the server was about to answer. Stored text has lost the white space at its end, by
JavaScript's idea of white space, which is not Python's.

Nothing marks a stored answer that another process has stopped half way: such a one looks whole.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from h2o_client.errors import (
    GenerationError,
    H2oError,
    IncompleteStreamError,
    NotFoundError,
    StatusError,
    TermsNotAcceptedError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Close,
    Emit,
    Flow,
    Head,
    Read,
    Request,
    Send,
    Sleep,
)
from h2o_client.protocol.payloads import message_body
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.replies import check_status, unexpected
from h2o_client.protocol.retries import RetryState, was_refused
from h2o_client.protocol.service import Service, in_short
from h2o_client.protocol.stream import AnswerParser, Final
from h2o_client.protocol.text import join_halves
from h2o_client.types import Message, Reply, Token, WebSearchEntry

if TYPE_CHECKING:
    from h2o_client.protocol.data import ConversationData

_EXCERPT = 1024  # bytes read of an answer that is no event stream
_MAX_TAIL = 64 * 1024  # bytes read after the final event
_TAIL_WITHIN = 1.0  # seconds waited for the end of the response after the final event
_GATEWAY = frozenset({502, 504})
_FIRST_LOOK = 0.1  # seconds until a lost answer is looked for again; doubled each time
_LONGEST_LOOK = 2.0
_STOPPED = 2.0  # seconds that a stop is given to take effect; it takes about one
_ENDED = 2.0  # seconds that an answer is looked for whose response the server itself has ended
# Seconds after its end here within which a turn may still be stored:
_STORED_WHOLE = 30.0  # one whose final event has come
_STORED_SHOWN = 5.0  # one of which nothing is generated any more, as far as can be seen
_STORED_RUNNING = 300.0  # one whose generation may run on; it may not have begun to speak


class Turn:
    """One message and its answer.

    Args:
        service: the service.
        prompt: the message, checked.
        model: the model of the conversation; it stands in the reply.
        parameters: all generation parameters.
        retries: the retries of the call.
        recover: whether to recover an answer whose connection is lost.
        message_id: the id of a message that is asked again, in its place; None: a new message.
        stoppable: whether a stop would take effect in this conversation.

    Attributes:
        message_id: the id of the message.
        response_id: the id of its answer.
        asked: whether the message may have reached the server.
        generating: whether the server may be generating this answer.
        stopping: whether the caller asked to stop.
        stop_told: whether the server was told to stop.
        whole: whether the answer is whole.
        web_search_id: the web search that the answer shall rest on, or "".
        web_search: the entries of that search.
    """

    def __init__(
        self,
        service: Service,
        prompt: str,
        *,
        model: str,
        parameters: Mapping[str, Any],
        retries: RetryState,
        recover: bool,
        message_id: str | None = None,
        stoppable: bool = True,
    ) -> None:
        self._service = service
        self.prompt = prompt
        self._model = model
        self._parameters = parameters
        self._retries = retries
        self._recover = recover
        self._stoppable = stoppable
        self._is_retry = message_id is not None
        self.message_id = message_id or service.ambient.uuid4()
        self.response_id = service.ambient.uuid4()
        self.web_search_id = ""
        self.web_search: list[WebSearchEntry] = []
        self._body()  # so that what cannot be sent is refused now
        self._has_stop = bool(parameters.get("stop") or parameters.get("stop_sequences"))
        self._conversation = ""
        self._text = bytearray()  # UTF-8, as `AnswerParser` has it
        self._parser = AnswerParser(text=self._text)
        self._final: Final | None = None
        self._recovered = False
        self.asked = False
        self.generating = False
        self.stopping = False
        self.stop_told = False
        self._over = False
        self._ended = False  # the response came to an end of its own
        self._sought = False  # it was looked for in vain, for as long as there was hope
        self._begun: float | None = None

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        return self._text.decode()

    @property
    def stored_within(self) -> float:
        """Seconds after its end here within which it may be stored; 0: it is, or never will be.

        Nothing is stored of a turn that the server refused, that ended in an error event, or whose
        response came to a regular end without a final event [05_upstream_truncate_clean]. All
        others run on, whatever becomes of the connection [17_disconnect]. A stop ends one at its
        next token, unless it is the second within a minute or so [11b_stop_again_later,
        28_stop_variants].
        """
        if self.whole:
            return 0.0 if self._recovered else _STORED_WHOLE
        if not (self.generating or self.stop_told):
            return 0.0
        if self._ended:
            return 0.0 if self._sought else _STORED_SHOWN
        if self._sought and self._parser.count and self.stop_told and self._stoppable:
            return _STORED_SHOWN
        return _STORED_RUNNING

    @property
    def whole(self) -> bool:
        """Whether the answer is whole."""
        return self._final is not None or self._recovered

    @property
    def done(self) -> bool:
        """Whether nothing more comes of the answer."""
        return self.whole or self._over

    def run(self, conversation: str) -> Flow[Reply]:
        """Send the message and read its answer.

        Raises:
            H2oError: with what had arrived in `partial`.
        """
        self._conversation = conversation
        try:
            yield from self._answer()
        except TransportError:
            if not self.stopping:  # else it is how stop() woke this flow
                raise
        if not self.whole:
            yield Close()
            yield from self.stop()
        self._over = True
        return self._reply()

    def _answer(self) -> Flow[None]:
        """Ask until the answer is whole, or was stopped."""
        reopen = True
        while not self.stopping:
            openings = self._service.session.openings
            error = yield from self._attempt()
            if error is None or self.stopping:
                break
            if isinstance(error, TermsNotAcceptedError) and reopen:
                reopen = False
                self._service.session_lost(openings)
                yield from self._service.open_session(self._retries, self._model)
                continue
            delay = self._service.next_delay(self._retries, error) if was_refused(error) else None
            if delay is not None:
                yield Sleep(delay)
                continue
            if not self._recover or not _can_be_recovered(error):
                raise error
            if (yield from self._find_rest(error)) or self.stopping:
                break
            yield from self._make_way(error)

    def stop(self) -> Flow[None]:
        """Tell the server to stop generating, if it may be and has not been told."""
        self.stopping = True
        try:
            yield from self.abandon()
        except CallerStoppedError:
            return  # the one who stopped it has told, or tells, the server
        except H2oError as error:
            self._service.ambient.warn(f"the server could not be told to stop: {in_short(error)}")

    def abandon(self) -> Flow[None]:
        """Tell the server to stop generating; raises if it could not be told."""
        if self.generating and not self.stop_told:
            # Noted once it is answered: where another thread is at it, its word may come after the
            # deletion that follows here, and find no conversation. Twice does no harm.
            yield from self._service.stop(self._conversation)
            self.stop_told = True
        self.generating = False

    def _attempt(self) -> Flow[H2oError | None]:
        """Ask once. Return what went wrong, or None when the answer is whole or was stopped."""
        request = self._service.endpoints.message(self._conversation, self._body())
        try:
            yield from self._ask(request)
        except H2oError as error:
            error = _as_answer_error(error)
            error.partial = self.text
            self.generating = _may_be_generating(error)
            return error
        return None

    def _ask(self, request: Request) -> Flow[None]:
        limits = self._service.timeouts
        begun = self._service.ambient.clock()
        if self._begun is None:
            self._begun = begun
        within, limit = self._within(limits.first_token, "first_token")
        until = None if within is None else begun + within
        connect = self._service.connecting(self._retries.deadline)
        self.asked = self.generating = True
        head: Head = yield Send(request, within, connect, limit)
        yield from self._service.accept(head)
        if head.status != 200:
            body = yield from self._service.read_body(head, until, limit)
            check_status(head, body, request)
            raise unexpected(head, body, "the answer")
        kind = head.get("content-type").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            body = yield from self._read_excerpt(until)
            raise unexpected(head, body, "the answer")
        yield from self._read_stream()

    def _read_stream(self) -> Flow[None]:
        """Read the events of the answer, until it is whole, broken or stopped."""
        clock = self._service.ambient.clock
        idle = self._service.timeouts.idle
        parser = self._parser = AnswerParser(text=self._text)
        within, limit = self._within(idle, "idle")
        read = Read(within, limit)
        last_token = clock()
        # Where there is a total, each read has a limit of its own.
        reader = parser if self._retries.deadline is None else None
        while True:
            chunk: bytes = yield read
            tokens: Sequence[Token] = parser.feed(chunk) if chunk else parser.finish()
            heard = bool(tokens)
            while tokens:
                self._note_final(parser)
                begun: float | None = yield Emit(tokens, None if parser.ended else reader)
                # The time that the caller takes is not the server's.
                last_token = clock() if begun is None else begun
                heard = begun is None
                tokens = () if begun is None else parser.tokens()
            self._note_final(parser)  # a shell that Ctrl-C broke off does not tell what it has read
            if self.stopping or parser.final is not None:
                break
            if parser.error is not None:
                yield Close()
                raise parser.error
            if not chunk:
                self._ended = True
                raise IncompleteStreamError(
                    "the answer ended before its final event: the server, its model server or a "
                    "proxy broke it off (try again)"
                )
            if self._retries.deadline is not None or (not heard and idle is not None):
                # Comments keep a connection awake, but only tokens count as an answer.
                left = None if idle is None else idle - (clock() - last_token)
                within, limit = self._within(left, "idle")
                read = Read(within, limit)
                if within is not None and within <= 0:
                    yield Close()
                    raise TransportTimeoutError.struck(limit, idle if limit == "idle" else None)
            elif read.within != idle:
                read = Read(idle)
        if parser.final is not None:
            yield from self._read_tail()

    def _note_final(self, parser: AnswerParser) -> None:
        """Note that the answer is whole, if it is."""
        if parser.final is not None:
            self._final = parser.final
            self.generating = False

    def _find_rest(self, error: H2oError) -> Flow[bool]:
        """Look for the answer in what the server has stored, and give out what is missing.

        Args:
            error: what the stream ended with.

        Returns:
            Whether it was found.
        """
        clock = self._service.ambient.clock
        limits = self._service.timeouts
        deadline = self._retries.deadline
        going = clock() - (clock() if self._begun is None else self._begun)
        shown: ConversationData | None = None
        until = clock() + limits.recovery + going
        if self._ended:
            until = clock() + min(limits.recovery, _ENDED)
        if isinstance(error, TransportTimeoutError):
            until = clock()  # the caller's patience is at its end: one look
        self._service.ambient.wait(
            "the answer was lost: looking for it in what is stored, for at most "
            f"{until - clock():.0f} s"
        )
        delay = _FIRST_LOOK
        while not self.stopping:
            try:
                stored = yield from self._service.look(self._conversation, deadline)
            except NotFoundError:
                raise error from None  # nothing will be found, nor could be asked again
            answer = find_message(stored, self.response_id)
            if answer is not None:
                missing = missing_text(self.text, answer.content)
                if missing is None:
                    break
                self._recovered = True
                self.generating = False
                self._service.ambient.note("the connection was lost, the answer recovered")
                if missing:
                    token = Token(None, missing)
                    self._text += missing.encode()
                    yield Emit([token])
                return True
            if stored is not None:
                if shown is not None and stored != shown:
                    until = max(until, clock() + limits.recovery)
                shown = stored
            if deadline is not None and deadline <= clock():
                raise self._too_late(error)
            left = until - clock()
            if left <= 0:
                self._sought = not isinstance(error, TransportTimeoutError)
                break
            if deadline is not None:
                left = min(left, deadline - clock())
            yield Sleep(min(delay, left))
            delay = min(delay * 2, _LONGEST_LOOK)
        return False

    def _make_way(self, error: H2oError) -> Flow[None]:
        """Wait until the message can be asked again, in its place.

        The server shows neither the turn nor a sign of it. Should it be generating all the same,
        it is told to stop, and given the time to: what it stores then, the new answer replaces.

        Args:
            error: what the stream ended with; raised again where a new answer would not do.
        """
        lost = isinstance(error, IncompleteStreamError | StatusError) and not self._ended
        if not lost or self._parser.count or not self._stoppable:
            raise error
        delay = self._service.next_delay(self._retries, error)
        if delay is None:
            raise error
        delay = max(delay, _STOPPED)
        deadline = self._retries.deadline
        if deadline is not None and deadline - self._service.ambient.clock() <= delay:
            raise error  # there is no time left for another answer
        try:
            yield from self.abandon()
        except H2oError:
            raise error from None
        yield Sleep(delay)
        # Should this attempt be lost too, what is stored may be what the first one was stopped at.
        self._recover = self._sought = False
        self.stop_told = False
        self._is_retry = True

    def _too_late(self, error: H2oError) -> H2oError:
        """Return what `Timeouts.total` makes of an error while its remedy is under way."""
        late = TransportTimeoutError.struck("total", None)
        late.partial = self.text
        late.__cause__ = error
        return late

    def _body(self) -> bytes:
        return message_body(
            self.prompt,
            self._parameters,
            message_id=self.message_id,
            response_id=self.response_id,
            is_retry=self._is_retry,
            web_search_id=self.web_search_id,
        )

    def _read_tail(self) -> Flow[None]:
        """Read to the end of the response, so that its connection can be used again."""
        clock = self._service.ambient.clock
        until = clock() + _TAIL_WITHIN
        size = 0
        try:
            while (left := until - clock()) > 0 and size <= _MAX_TAIL:
                chunk: bytes = yield Read(left)
                if not chunk:
                    return
                size += len(chunk)
        except TransportError:
            return  # the answer is whole; only the connection is lost
        yield Close()

    def _read_excerpt(self, until: float | None) -> Flow[bytes]:
        """Read the beginning of what is no answer, as far as it comes until then."""
        clock = self._service.ambient.clock
        body = b""
        try:
            while len(body) < _EXCERPT:
                left = None if until is None else until - clock()
                if left is not None and left <= 0:
                    break
                chunk: bytes = yield Read(left)
                if not chunk:
                    return body
                body += chunk
        except TransportError:
            return body  # what is wrong is what came, not how it ended
        yield Close()
        return body

    def _within(self, seconds: float | None, limit: str) -> tuple[float | None, str]:
        """Return what is left until the limit or the end of the total, and which of them it is."""
        return self._service.within(seconds, limit, self._retries.deadline)

    def _reply(self) -> Reply:
        details = self._final.details if self._final is not None else {}
        reason, count = details.get("finish_reason"), details.get("generated_tokens")
        reason = join_halves(reason) if isinstance(reason, str) else self._concluded_reason()
        return Reply(
            text=self.text,
            model=self._model,
            finish_reason=reason,
            generated_tokens=count if type(count) is int else self._parser.count,
            conversation_id=self._conversation,
            message_id=self.message_id,
            response_id=self.response_id,
            recovered=self._recovered,
            web_search=tuple(self.web_search),
        )

    def _concluded_reason(self) -> str | None:
        """Conclude from the last token why the answer ended [05_upstream_length]."""
        if self._recovered:
            return None
        if self._final is None:
            return "stopped"
        if self._final.token.special:
            return "eos_token"
        return None if self._has_stop else "length"


def _as_answer_error(error: H2oError) -> H2oError:
    """Say of a connection that was lost under a message what it means: the answer is not whole."""
    lost = isinstance(error, TransportError) and error.sent
    if not lost or isinstance(error, TransportTimeoutError):
        return error
    return IncompleteStreamError(
        f"the connection was lost before the end of the answer: {error} (try again)"
    )


def find_message(stored: "ConversationData | None", message_id: str) -> Message | None:
    """Return the message of this id, if it is stored."""
    if stored is None:
        return None
    return next((message for message in stored.messages if message.id == message_id), None)


def missing_text(received: str, stored: str) -> str | None:
    """Return what is in the stored answer and was not received.

    None: the stored text does not begin with what was received. The server stores it without the
    white space at its end, which may have been received.
    """
    if stored.startswith(received):
        return stored[len(received) :]
    return "" if stored == received.rstrip(JS_SPACE) else None


def _can_be_recovered(error: H2oError) -> bool:
    """Whether the server may have, or come to have, the whole answer all the same."""
    if isinstance(error, TransportTimeoutError):
        return error.limit != "total" and error.sent
    if isinstance(error, StatusError):
        return error.status in _GATEWAY
    return isinstance(error, IncompleteStreamError)


def _may_be_generating(error: H2oError) -> bool:
    """Whether the server may go on generating after the message request ended like this."""
    if isinstance(error, GenerationError):
        return False
    if isinstance(error, StatusError):
        return error.status in _GATEWAY
    return not isinstance(error, TransportError) or error.sent
