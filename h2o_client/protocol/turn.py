"""One message and its answer: the core of every operation.

A turn sends the message, reads the stream, and tracks the state of the turn on the server, its
*fate*:

    UNSENT ──send──▶ RUNNING ──final event, error, rejection──▶ OVER ──all is stored──▶ DONE
                      │   ▲
                      │   └──sent again in its place───┐
                      └──the server was told to stop──▶ STOPPED

If the connection is lost, the server continues anyway and stores the whole answer. The turn then
*recovers*: it searches the stored conversation for its answer, by the id that it chose for it, and
gives the caller exactly the missing part. Only if nothing had arrived, and the server shows no sign
of the turn, is the message sent again, in its place; never while the first generation may still
run, because one of the two answers would overwrite the other.

The server stores an answer only when it is whole, and shows nothing before that. So the turn waits
for a lost answer for as long as it had been running plus `Timeouts.recovery`, and after that while
the server shows signs of it. If the response ended regularly without its final event, the turn
searches only briefly: usually the model server has failed, and nothing is stored. After a time
limit it polls once: the caller has waited long enough, and the answer may just have been stored.
Stored text lacks trailing white space, as defined by JavaScript, not by Python.

A stored answer that another process has stopped midway is not marked: it looks whole.

2025 servers keep a tree. They store a message when it arrives, and its answer while it is
generated, including its outcome. A message names the one that it follows, which is read from the
server if unknown. The stream of a lost answer is read again, live, if the server supports that;
otherwise its stored form is polled. A message is sent again only if two polls, a second apart, show
that the server never got it.
"""

# 17_disconnect: the server continues. 05_upstream_truncate_clean: nothing is stored if the model
# server fails midway. 11_stop_generating: a stopped answer is stored like a whole one.

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from h2o_client.errors import (
    H2oError,
    IncompleteStreamError,
    NotFoundError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol import conversations
from h2o_client.protocol.answer import AnswerParser, Final
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.dialect import (
    Outgoing,
    Stage,
    StoredAnswer,
    StoredConversation,
)
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Close,
    Emit,
    Flow,
    Pump,
    Read,
    Sleep,
)
from h2o_client.protocol.exchange import Exchange, in_short
from h2o_client.protocol.outcomes import (
    GATEWAY,
    Outcome,
    as_answer_error,
    can_be_recovered,
    may_have_acted,
    missing_text,
    outcome_of,
)
from h2o_client.protocol.place import Place
from h2o_client.protocol.replies import unexpected
from h2o_client.protocol.retries import Call
from h2o_client.protocol.state import Fate, Life, State
from h2o_client.types import File, Reply, Revision, Token, WebSearchEntry

_FIRST_POLL = 0.1  # seconds until a lost answer is polled for again; doubled each time
_LONGEST_POLL = 2.0
_TELLING = 0.02  # seconds between two checks whether another thread has told the server to stop
_STOPPING = 2.0  # seconds to wait for a stop to take effect; it takes about one
_ENDED = 2.0  # seconds to poll for an answer whose response the server itself has ended
# For how many seconds after its end here a turn may still be stored:
_STORED_WHOLE = 30.0  # if its final event has arrived
_STORED_SHOWN = 5.0  # if the server seems to have stopped generating
_ABSENT = 1.0  # seconds between two polls that show that a message has not arrived
_STORED_RUNNING = 300.0  # if its generation may still run; it may not have produced a token yet


class Turn:
    """One message and its answer.

    Args:
        exchange: sends its requests.
        prompt: the message, checked.
        model: the model of the conversation, for the reply.
        parameters: all generation parameters.
        recover: whether to recover the answer if its connection is lost.
        life: the state of the stream that this turn belongs to.
        message_id: the id of the message that this one replaces; None for a new message.
        stoppable: whether a stop would take effect in this conversation.
        place: its place in a tree; None for a place after the newest message.
        files: the files to send with it.

    Attributes:
        message_id: the id of the message.
        response_id: the id of its answer.
        parameters: all generation parameters.
        fate: the state of the turn on the server.
        asked: whether the message may have reached the server.
        told_at: the clock's time when the server was told to stop generating, or None.
        told_early: whether that stop may have arrived before the message.
        web_search_id: the id of the web search to base the answer on, or "".
        web_search: the entries of that search.
    """

    def __init__(
        self,
        exchange: Exchange,
        prompt: str,
        *,
        model: str,
        parameters: Mapping[str, Any],
        recover: bool,
        life: Life,
        message_id: str | None = None,
        stoppable: bool = True,
        place: Place | None = None,
        files: tuple[File, ...] = (),
    ) -> None:
        self._exchange = exchange
        self.prompt = prompt
        self.model = model
        self.parameters = parameters
        self._recover = recover
        self._life = life
        self._stoppable = stoppable
        self._is_retry = message_id is not None
        self.place = place or Place()
        self.files = files
        self.message_id = message_id or exchange.ambient.uuid4()
        self.response_id = exchange.ambient.uuid4()
        self.web_search_id = ""
        self.web_search: list[WebSearchEntry] = []
        # This rejects invalid arguments now; the files were already read and checked.
        exchange.dialect.message("", self.outgoing()._replace(files=()))
        self._has_stop = bool(parameters.get("stop") or parameters.get("stop_sequences"))
        self._conversation = ""
        self._text = bytearray()  # in UTF-8; shared with the parser
        self._parser = exchange.dialect.answer_parser(self._text)
        self._final: Final | None = None
        self._recovered = False
        self._ended = False  # the server has ended the response
        self.told_at: float | None = None
        self.told_early = False
        self._telling = False  # the stop request is in progress
        self._absent_since: float | None = None  # when a poll first showed that it is not stored
        self._begun_stream = False  # the headers of the answer have arrived
        self._revised = False
        self._searched = False  # it was polled for until the time limit for that
        self._begun = 0.0
        self._first_token: Deadline | None = None  # of the last attempt
        self.fate = Fate.UNSENT
        self.asked = False

    @property
    def text(self) -> str:
        """The part of the answer that has arrived."""
        return self._text.decode()

    def check(self) -> None:
        """Raise if the server does not support an argument of the message.

        Raises:
            UnsupportedError: it does not; nothing was sent.
        """
        self._exchange.require(
            parameters=self.parameters, files=self.files, branches=self.place.chosen
        )

    @property
    def title(self) -> str | None:
        """The title of the conversation, if it arrived with the answer."""
        return self._parser.title

    @property
    def whole(self) -> bool:
        """Whether the answer is whole."""
        return self._final is not None or self._recovered

    @property
    def answered(self) -> bool:
        """Whether the reply is known: the answer is whole, or was stopped."""
        return self._life.state is State.ANSWERED

    @property
    def _stopping(self) -> bool:
        return self._life.state is State.STOPPING

    @property
    def stored_within(self) -> float:
        """How many seconds after its end here the server may still store it.

        The server stores nothing if it rejected the turn, if the turn ended with an error event, or
        if its response ended regularly without a final event. All other turns run on, even without
        a connection. A stop ends a turn at its next token, unless it is the second stop within
        about a minute.
        """
        if self._exchange.dialect.has_tree:
            surely_over = self.fate in (Fate.UNSENT, Fate.DONE) and self.told_at is None
            return 0.0 if surely_over else _STORED_RUNNING
        # 05_upstream_truncate_clean, 17_disconnect, 11b_stop_again_later, 28_stop_variants
        if self.whole:
            return 0.0 if self._recovered else _STORED_WHOLE
        if self.fate not in (Fate.RUNNING, Fate.STOPPED):
            return 0.0
        if self._ended:
            return 0.0 if self._searched else _STORED_SHOWN
        surely_stopped = self.fate is Fate.STOPPED and self._stoppable and self._parser.count
        return _STORED_SHOWN if self._searched and surely_stopped else _STORED_RUNNING

    def run(self, conversation: str, call: Call) -> Flow[Reply]:
        """Send the message and read its answer.

        Args:
            conversation: the conversation; "" if the turn was stopped before it was created.
            call: the call that this is part of.

        Raises:
            H2oError: the turn failed; `partial` is the text that had arrived.
        """
        self._conversation = conversation
        try:
            attempt = partial(self._attempt, call)
            if not self._stopping:
                yield from self._exchange.repeat(attempt, call, self._may_ask_again)
        except TransportError:
            if not self._stopping:  # otherwise stop() has woken this flow
                raise
        if not self.whole:
            yield Close()
            yield from self.stop()
        self._life.move(State.ANSWERED)
        return self._reply()

    def stop(self) -> Flow[None]:
        """Tell the server to stop generating, unless it has stopped or was already told."""
        self._life.move(State.STOPPING)
        try:
            yield from self.abandon(self._exchange.cleanup())
        except CallerStoppedError:
            return  # the thread or task that stopped it tells the server
        except H2oError as error:
            self._exchange.ambient.warn(f"the server could not be told to stop: {in_short(error)}")

    def abandon(self, deadline: Deadline) -> Flow[None]:
        """Tell the server to stop generating, or raise why that failed."""
        while self._telling and self._exchange.dialect.has_tree and not deadline.expired():
            yield Sleep(_TELLING)  # a second stop could end the next answer
        if self.fate is Fate.RUNNING:
            # The fate changes only after the server's answer: another thread's stop could arrive
            # after the deletion that follows here, and not take effect. Stopping twice is harmless.
            self.told_at, self._telling = self._exchange.ambient.clock(), True
            self.told_early |= not self._begun_stream
            self._parser.mute()  # the server may truncate the answer to the part that was seen
            stop = self._exchange.dialect.stop(self._conversation, self.response_id, self.text)
            try:
                with contextlib.suppress(NotFoundError):  # nothing is left to stop
                    yield from self._exchange.attempt(stop, deadline, deadline)
            finally:
                self._telling = False
                self.told_at = self._exchange.ambient.clock()
            self.fate = Fate.STOPPED

    def _attempt(self, call: Call) -> Flow[None]:
        """Send the message once, and recover the answer if its connection is lost."""
        self.check()
        has_tree = self._exchange.dialect.has_tree
        if has_tree and not self._stopping:
            if self.asked:
                self.response_id = self._exchange.ambient.uuid4()  # each request has its own
            where, stopping = self._conversation, lambda: self._stopping
            yield from self.place.find(self._exchange, where, call, stopping)
        if self._stopping:
            return
        try:
            yield from self._ask(call)
            parser = self._exchange.dialect.answer_parser(self._text)
            yield from self._read_stream(parser, call, self._first_token if has_tree else None)
        except H2oError as failure:
            error = as_answer_error(failure)
        else:
            return
        error.partial = self.text
        if not may_have_acted(error):
            self._note_over()  # the server would apply a stop to the next answer
        if self._stopping:
            return
        if not self._recover or not can_be_recovered(error) or self.fate is Fate.DONE:
            raise error
        error.__traceback__ = None  # it would keep the stream alive, which may be dropped meanwhile
        if (yield from self._find_rest(error, call)) or self._stopping:
            return
        error.partial = self.text
        lost = isinstance(error, IncompleteStreamError | StatusError) and not self._ended
        if lost and self._stoppable and not self._parser.count and not has_tree:
            yield from self._stop_generation(error, call)
        raise error

    def _may_ask_again(self, error: H2oError) -> bool:
        """Whether the message may be sent again, because no answer to it is being generated."""
        if self._exchange.dialect.has_tree and self._begun_stream:
            return False  # the failed answer is stored
        outcome = outcome_of(error)
        unsent = self.fate is Fate.UNSENT and outcome is Outcome.LOST
        return unsent or outcome is Outcome.REJECTED or self.fate is Fate.STOPPED

    def _ask(self, call: Call) -> Flow[None]:
        """Send the message, and wait for the head of its answer."""
        exchange = self._exchange
        limits = exchange.configuration.timeouts
        self._begun = self._begun or exchange.ambient.clock()
        deadline = self._first_token = call.deadline.or_earlier(limits.first_token, "first_token")
        request = exchange.dialect.message(self._conversation, self.outgoing())
        self.fate = Fate.RUNNING
        self.asked = True
        self._absent_since = None  # polls during an earlier attempt do not count
        head = yield from exchange.send(request, deadline, call)
        if head.status != 200:
            body = yield from exchange.read_body(deadline)
            if head.status not in GATEWAY:
                self._note_done()
            exchange.dialect.check(head, body, request)
            raise unexpected(head, body, "the answer")
        kind = head.get("content-type").partition(";")[0].strip().lower()
        if kind != exchange.dialect.stream_type:
            body = yield from exchange.read_excerpt(deadline)
            raise unexpected(head, body, "the answer")
        self._begun_stream = exchange.recognised = True

    def _read_stream(
        self, parser: AnswerParser, call: Call, first_token: Deadline | None = None
    ) -> Flow[None]:
        """Read the events of the answer, until it is whole, fails or is stopped.

        Args:
            parser: the parser of the answer.
            call: the call that this is part of.
            first_token: by when the first token must arrive, if it follows the headers later.
        """
        idle = self._exchange.configuration.timeouts.idle
        self._parser = parser
        silence = first_token or call.deadline.or_earlier(idle, "idle")
        while True:
            if silence.expired():
                yield Close()
                raise silence.exceeded(begun=True)
            chunk: bytes = yield Read(silence)
            tokens: Sequence[Token] = parser.feed(chunk) if chunk else parser.finish()
            if tokens:
                self._note_final()
                yield Emit(tokens)
            if tokens and (first_token is None or parser.count):
                # The limits do not count the time that the caller takes.
                since: float = self._exchange.ambient.clock()
                if call.deadline.unlimited and not (self._stopping or parser.ended) and chunk:
                    since = yield Pump(parser, idle)
                    if tokens := parser.tokens():
                        self._note_final()
                        yield Emit(tokens)
                # Comments keep a connection alive, but only tokens reset the idle limit.
                silence = call.deadline.or_earlier(idle, "idle", since)
            self._note_final()  # a shell interrupted by Ctrl-C does not report what it has read
            if self._stopping or parser.final is not None:
                break
            if parser.error is not None:
                if self._exchange.dialect.has_tree:
                    yield from self._finish()  # the failed answer is stored at the end
                yield Close()
                raise parser.error
            if not chunk:
                self._ended = True
                if parser.ended:
                    self._note_done()
                raise IncompleteStreamError(
                    "the answer ended before its final event: the server, its model server or a "
                    "proxy cut it short (try again)"
                )
        if parser.final is not None:
            yield from self._finish()
            if parser.error is not None:  # it arrived after the final event
                self._final = None
                raise parser.error

    def _note_final(self) -> None:
        """Record whether the answer is whole."""
        if self._parser.final is not None:
            self._final = self._parser.final
            self._note_over()

    def _note_over(self) -> None:
        """Record that the server is not generating."""
        if self.fate is not Fate.DONE:
            self.fate = Fate.OVER

    def _finish(self) -> Flow[None]:
        """Read the response to its end; the title sometimes arrives late."""
        if (yield from self._exchange.read_tail(self._parser)):
            self._note_done()

    def _note_done(self) -> None:
        """Record that the response has ended: a tree then has the whole turn."""
        if self._exchange.dialect.has_tree:
            self.fate = Fate.DONE

    def _find_rest(self, error: H2oError, call: Call) -> Flow[bool]:
        """Give the caller the missing part of the answer; return whether it was found."""
        exchange, where = self._exchange, self._conversation
        recovery = exchange.configuration.timeouts.recovery
        patience = self._patience(error)
        exchange.ambient.wait(
            f"the connection was lost: looking for the stored answer, for at most {patience:.0f} s"
        )
        until = exchange.deadline(patience, "recovery")
        shown: StoredConversation | None = None
        delay = _FIRST_POLL
        while not self._stopping:
            before = len(self._text)
            if patience and (yield from self._reattach(call)):
                exchange.ambient.note("the connection was lost; the stream was reattached")
                return True
            if len(self._text) > before:
                until, delay = exchange.deadline(recovery, "recovery"), _FIRST_POLL
            try:
                stored = yield from conversations.poll(exchange, where, call.deadline)
            except NotFoundError:
                raise error from None  # neither recovery nor a retry is possible
            if (found := (yield from self._take_stored(stored))) is not None:
                return found
            if stored is not None:
                if shown is not None and stored != shown and until.at_most(recovery) < recovery:
                    until = exchange.deadline(recovery, "recovery")
                shown = stored
            running = self.find(stored)
            if until.expired() and running and not (self._text or running.message.content):
                until = self._first_token or until
            if call.deadline.expired():
                late = call.deadline.exceeded()
                late.partial = self.text
                raise late from error
            if until.expired():
                self._searched = not isinstance(error, TransportTimeoutError)
                break
            yield Sleep(call.deadline.at_most(until.at_most(delay)))
            delay = min(delay * 2, _LONGEST_POLL)
        return False

    def _patience(self, error: H2oError) -> float:
        """Return for how many seconds to search for a lost answer."""
        if isinstance(error, TransportTimeoutError):
            return 0.0  # the caller has waited long enough: poll once
        recovery = self._exchange.configuration.timeouts.recovery
        if self._ended:
            return min(recovery, _ENDED)
        return recovery + self._exchange.ambient.clock() - self._begun

    def _take_stored(self, stored: StoredConversation | None) -> Flow[bool | None]:
        """Give the caller the missing part; return whether the answer is whole, None if unknown."""
        has_tree = self._exchange.dialect.has_tree
        answer = self.find(stored)
        if answer is None:
            if not (has_tree and self.is_absent(stored)):
                return None
            self.fate = Fate.DONE if self._begun_stream else Fate.UNSENT
            return False
        if answer.stage is Stage.RUNNING:
            return None
        content = answer.message.content
        missing = missing_text(self.text, content)
        if missing is None and not has_tree:
            return False
        self.fate = Fate.DONE if answer.over else Fate.OVER
        if answer.stage is not Stage.WHOLE:
            return False
        self._recovered = True
        self._exchange.ambient.note("the connection was lost; the answer was recovered")
        if missing is None:
            self._revised = True
            yield Emit([Revision(content)])
        elif missing:
            yield Emit([Token(None, missing)])
        if missing or has_tree:
            self._text[:] = content.encode()
        return True

    def find(self, stored: StoredConversation | None) -> StoredAnswer | None:
        """Find the answer in the stored conversation."""
        return None if stored is None else self._exchange.dialect.find(stored, self.outgoing())

    def is_absent(self, stored: StoredConversation | None) -> bool:
        """Whether two polls, a second apart, have shown that a tree does not have the message."""
        if stored is None or self.find(stored) is not None:
            return False
        now = self._exchange.ambient.clock()
        if self._absent_since is None:
            self._absent_since = now
        return self._begun_stream or now - self._absent_since >= _ABSENT

    def _reattach(self, call: Call) -> Flow[bool]:
        """Read the stream of the answer again, live, if the server supports that.

        Returns:
            Whether the answer is whole now.

        Raises:
            H2oError: the answer failed.
        """
        exchange = self._exchange
        request = exchange.dialect.reattach(self._conversation, self.response_id)
        if request is None:
            return False
        first = None if self._text else self._first_token
        silence = first or call.deadline.or_earlier(exchange.configuration.timeouts.idle, "idle")
        try:
            head = yield from exchange.send(request, silence, call)
            if head.status != 200:
                body = yield from exchange.read_body(silence)
                if head.status == 404 and not body.startswith(b"{"):
                    exchange.dialect.cannot_reattach()
                return False
            parser = exchange.dialect.reattached_parser(self._text)
            yield from self._read_stream(parser, call, first)
        except H2oError as error:
            self._ended = False
            lost = isinstance(error, IncompleteStreamError | TransportError)
            silent = isinstance(error, TransportTimeoutError) and error.limit != "connect"
            if lost and not silent:
                return False
            error.partial = self.text
            if not lost:
                self._note_over()
            raise
        self._recovered = self.whole
        return self.whole

    def _stop_generation(self, error: H2oError, call: Call) -> Flow[None]:
        """Make sure that the server is not generating, so that the message can be sent again.

        The server shows no sign of the turn. In case it is generating anyway, tell it to stop and
        wait for that; the new answer replaces what it then stores. If the time limit does not allow
        this, the error is raised again.
        """
        if call.exhausted or call.deadline.at_most(_STOPPING) < _STOPPING:
            raise error
        try:
            yield from self.abandon(self._exchange.cleanup())
        except H2oError:
            raise error from None
        yield Sleep(_STOPPING)
        # If the next attempt is lost too, the stored answer may be part of this one.
        self._recover = self._searched = False
        self._is_retry = True

    def outgoing(self) -> Outgoing:
        """Return the message to send."""
        return Outgoing(
            self.prompt,
            self.parameters,
            message_id=self.message_id,
            response_id=self.response_id,
            is_retry=self._is_retry or self.place.beside,
            web_search_id=self.web_search_id,
            parent=self.place.parent,
            known=self.place.known,
            files=self.files,
        )

    def _reply(self) -> Reply:
        count, reason = None, None if self._recovered else "stopped"
        if self._final is not None:
            count = self._final.generated_tokens
            reason = self._final.finish_reason(has_stop=self._has_stop)
        return Reply(
            text=self.text,
            model=self.model,
            finish_reason=reason,
            generated_tokens=self._parser.count if count is None else count,
            conversation_id=self._conversation,
            message_id="" if self._exchange.dialect.has_tree else self.message_id,
            response_id=self.response_id,
            recovered=self._recovered,
            revised=self._revised or self._parser.revised,
            web_search=tuple(self.web_search),
        )
