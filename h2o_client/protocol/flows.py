"""The operations: what happens from the caller's messages to the reply.

`Turn` is one message and its answer, in a conversation that exists. `Chat` is the whole one-shot
chat around it: open the session, create a conversation, ask, delete it.

An operation has two flows. `run()` is the operation itself. `abandon()` is played by a shell when
the caller broke `run()` off: it tells the server to stop and to delete, as far as the operation's
state says that there is something to stop or delete, and so may be played at any time, and twice.
`stop()` is what a caller asks for: it tells the server, and `run()` then ends with what is there.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from h2o_client.errors import (
    GenerationError,
    H2oError,
    IncompleteStreamError,
    StatusError,
    TermsNotAcceptedError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.effects import Close, Emit, Finish, Flow, Head, Read, Request, Send, Sleep
from h2o_client.protocol.payloads import merge_parameters, message_body
from h2o_client.protocol.prompt import build_prompt
from h2o_client.protocol.replies import check_encoding, check_status, unexpected
from h2o_client.protocol.retries import RetryState, was_refused
from h2o_client.protocol.service import Service
from h2o_client.protocol.stream import AnswerParser, Final
from h2o_client.types import Messages, Reply, Token

_EXCERPT = 1024  # bytes read of an answer that is no event stream
_MAX_TAIL = 64 * 1024  # bytes read after the final event
_TAIL_WITHIN = 1.0  # seconds waited for the end of the response after the final event
_GATEWAY = frozenset({502, 504})


class Operation(Protocol):
    """What a stream plays."""

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        ...

    def run(self) -> Flow[Reply]:
        """Do it all, emitting tokens as they arrive."""
        ...

    def stop(self) -> Flow[None]:
        """Tell the server that the caller has enough; `run()` ends with what is there."""
        ...

    def abandon(self) -> Flow[None]:
        """Tell the server what must still be told once `run()` was broken off."""
        ...


class Turn:
    """One message and its answer.

    Args:
        service: the service.
        prompt: the message, checked.
        model: the model of the conversation; it stands in the reply.
        parameters: all generation parameters.
        retries: the retries of the call.

    Attributes:
        message_id: the id of the message.
        response_id: the id of its answer.
        generating: whether the server may be generating this answer.
        stopping: whether the caller asked to stop.
    """

    def __init__(
        self,
        service: Service,
        prompt: str,
        *,
        model: str,
        parameters: Mapping[str, Any],
        retries: RetryState,
    ) -> None:
        self._service = service
        self._model = model
        self._retries = retries
        self.message_id = service.ambient.uuid4()
        self.response_id = service.ambient.uuid4()
        self._body = message_body(
            prompt, parameters, message_id=self.message_id, response_id=self.response_id
        )
        self._has_stop = bool(parameters.get("stop") or parameters.get("stop_sequences"))
        self._conversation = ""
        self._text = io.StringIO()
        self._tokens = 0
        self._final: Final | None = None
        self.generating = False
        self.stopping = False
        self._stop_told = False
        self._deadline: float | None = None

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        return self._text.getvalue()

    def run(self, conversation: str) -> Flow[Reply]:
        """Send the message and read its answer.

        Raises:
            H2oError: with what had arrived in `partial`.
        """
        self._conversation = conversation
        reopened = False
        while not self.stopping:
            openings = self._service.session.openings
            error = yield from self._attempt()
            if error is None or self.stopping:
                break
            if isinstance(error, TermsNotAcceptedError) and not reopened:
                reopened = True
                self._service.session_lost(openings)
                yield from self._service.open_session(self._retries)
                continue
            delay = self._retries.next_delay(error) if was_refused(error) else None
            if delay is None:
                raise error
            yield Sleep(delay)
        if self._final is None:
            yield Close()
            yield from self.stop()
        return self._reply()

    def stop(self) -> Flow[None]:
        """Tell the server to stop generating, if it may be and has not been told."""
        self.stopping = True
        if self.generating and not self._stop_told:
            self._stop_told = True
            try:
                yield from self._service.stop(self._conversation)
            except H2oError as error:
                self._service.ambient.warn(f"the server could not be told to stop: {error}")
        self.generating = False

    def abandon(self) -> Flow[None]:
        """Tell the server to stop generating; raises if it could not be told."""
        if self.generating and not self._stop_told:
            yield from self._service.stop(self._conversation)
            self._stop_told = True
        self.generating = False

    def _attempt(self) -> Flow[H2oError | None]:
        """Ask once. Return what went wrong, or None when the answer is whole or was stopped."""
        request = self._service.endpoints.message(self._conversation, self._body)
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
        if limits.total is not None and self._deadline is None:
            self._deadline = begun + limits.total
        within, limit = self._within(limits.first_token, "first_token")
        self.generating = True
        head: Head = yield Send(request, within, limits.connect, limit)
        check_encoding(head)
        if head.status != 200:
            body = yield from self._service.read_body(head, begun)
            check_status(head, body, request)
            raise unexpected(head, body, "the answer")
        if not head.get("content-type").lower().startswith("text/event-stream"):
            body = yield from self._read_excerpt()
            raise unexpected(head, body, "the answer")
        yield from self._read_stream()

    def _read_stream(self) -> Flow[None]:
        """Read the events of the answer, until it is whole, broken or stopped."""
        clock = self._service.ambient.clock
        idle = self._service.timeouts.idle
        parser = AnswerParser()
        within, limit = self._within(idle, "idle")
        read = Read(within, limit)
        last_token = clock()
        while True:
            chunk: bytes = yield read
            tokens = parser.feed(chunk) if chunk else parser.finish()
            if tokens:
                last_token = clock()
                self._take(tokens, parser.final)
                yield Emit(tokens)
                if self.stopping or parser.final is not None:
                    break
            if parser.error is not None:
                yield Close()
                raise parser.error
            if not chunk:
                raise IncompleteStreamError(
                    "the answer ended before its final event: the server, its model server or a "
                    "proxy broke it off (try again)"
                )
            if self._deadline is not None or (not tokens and idle is not None):
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

    def _take(self, tokens: Sequence[Token], final: Final | None) -> None:
        self._text.write("".join([token.text for token in tokens if not token.special]))
        self._tokens += len(tokens)
        if final is not None:
            self._final = final
            self.generating = False

    def _read_tail(self) -> Flow[None]:
        """Read to the end of the response, so that its connection can be used again."""
        size = 0
        read = Read(_TAIL_WITHIN)
        try:
            while chunk := (yield read):
                size += len(chunk)
                if size > _MAX_TAIL:
                    break
        except TransportError:
            return  # the answer is whole; only the connection is lost
        yield Close()

    def _read_excerpt(self) -> Flow[bytes]:
        body = b""
        read = Read(self._service.timeouts.idle)
        while len(body) < _EXCERPT and (chunk := (yield read)):
            body += chunk
        yield Close()
        return body

    def _within(self, seconds: float | None, limit: str) -> tuple[float | None, str]:
        """Return what is left until the limit or the end of the total, and which of them it is."""
        if self._deadline is None:
            return seconds, limit
        left = self._deadline - self._service.ambient.clock()
        if seconds is None or left < seconds:
            return left, "total"
        return seconds, limit

    def _reply(self) -> Reply:
        details = self._final.details if self._final is not None else {}
        reason, count = details.get("finish_reason"), details.get("generated_tokens")
        if not isinstance(reason, str):
            reason = self._concluded_reason()
        return Reply(
            text=self.text,
            model=self._model,
            finish_reason=reason,
            generated_tokens=count if isinstance(count, int) else self._tokens,
            conversation_id=self._conversation,
            message_id=self.message_id,
            response_id=self.response_id,
        )

    def _concluded_reason(self) -> str | None:
        """Conclude from the last token why the answer ended [05_upstream_length]."""
        if self._final is None:
            return "stopped"
        if self._final.token.special:
            return "eos_token"
        return None if self._has_stop else "length"


class Chat:
    """A one-shot chat: its conversation is made for it, and deleted after it.

    Args:
        service: the service.
        messages: as `build_prompt()` takes them.
        model: the model, or None: the client's.
        parameters: the call's mapping of parameters, or None.
        keywords: the call's keyword parameters.

    Raises:
        TypeError: an argument is of the wrong type, or none that there is.
        ValueError: an argument cannot be sent.
    """

    def __init__(
        self,
        service: Service,
        messages: Messages,
        *,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        keywords: Mapping[str, Any],
    ) -> None:
        self._service = service
        self._model = service.model if model is None else check_model(model)
        self._retries = service.retry_state()
        self._turn = Turn(
            service,
            build_prompt(messages),
            model=self._model,
            parameters=merge_parameters(service.parameters, parameters, keywords),
            retries=self._retries,
        )
        self._conversation: str | None = None

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        return self._turn.text

    def run(self) -> Flow[Reply]:
        """Do it all, emitting tokens as they arrive."""
        service = self._service
        if not self._turn.stopping:
            yield from service.open_session(self._retries)
        if not self._turn.stopping:
            yield Finish(self._create(), service.timeouts.cleanup)
        reply = yield from self._turn.run(self._conversation or "")
        try:
            yield from self._delete(self._retries)
        except H2oError as error:
            service.leave_behind(self, error)
        return reply

    def stop(self) -> Flow[None]:
        """Tell the server that the caller has enough; `run()` ends with what is there."""
        yield from self._turn.stop()

    def abandon(self) -> Flow[None]:
        """Tell the server to stop, and to delete the conversation."""
        yield from self._turn.abandon()
        yield from self._delete(None)

    def _create(self) -> Flow[None]:
        self._conversation = yield from self._service.create(self._model, self._retries)

    def _delete(self, retries: RetryState | None) -> Flow[None]:
        if self._conversation is not None:
            yield from self._service.delete(self._conversation, retries)
            self._conversation = None


def check_model(model: object) -> str:
    """Return the name of a model if it can be one.

    Raises:
        TypeError: it is no text.
        ValueError: it is blank.
    """
    if not isinstance(model, str):
        raise TypeError(f"model is text, not {type(model).__name__}")
    if not model.strip():
        raise ValueError("model is blank")
    return model


def _as_answer_error(error: H2oError) -> H2oError:
    """Say of a connection that was lost under a message what it means: the answer is not whole."""
    lost = isinstance(error, TransportError) and error.sent
    if not lost or isinstance(error, TransportTimeoutError):
        return error
    return IncompleteStreamError(
        f"the connection was lost before the end of the answer: {error} (try again)"
    )


def _may_be_generating(error: H2oError) -> bool:
    """Whether the server may go on generating after the message request ended like this."""
    if isinstance(error, GenerationError):
        return False
    if isinstance(error, StatusError):
        return error.status in _GATEWAY
    return not isinstance(error, TransportError) or error.sent
