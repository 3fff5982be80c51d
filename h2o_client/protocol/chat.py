"""The operations of a stream, from the caller's messages to the reply.

An operation has three flows. `run()` is the operation itself. `stop()` ends the answer at the
caller's request: it tells the server, and `run()` then returns the text that has arrived. A shell
runs `abandon()` when the caller has interrupted `run()`: it stops and deletes what the operation's
state shows is still on the server, so it may run at any time, and more than once.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from h2o_client.errors import H2oError
from h2o_client.protocol import conversations
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import CallerStoppedError, Flow
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.files import check_files
from h2o_client.protocol.payloads import check_flag, check_model, merge_parameters
from h2o_client.protocol.prompt import build_prompt, split_preprompt
from h2o_client.protocol.retries import Call, Retries, as_retries
from h2o_client.protocol.session import Abandoned
from h2o_client.protocol.state import Life, State
from h2o_client.protocol.turn import Turn
from h2o_client.types import File, Messages, Reply


class Operation(Abandoned, Protocol):
    """An operation that a stream runs."""

    @property
    def text(self) -> str:
        """The part of the answer that has arrived."""
        ...

    @property
    def life(self) -> Life:
        """The state of the stream."""
        ...

    def run(self) -> Flow[Reply]:
        """Run the operation, emitting tokens as they arrive."""
        ...

    def stop(self) -> Flow[None]:
        """Tell the server to stop; `run()` then returns the text that has arrived."""
        ...


class ChatOperation:
    """A one-shot chat in its own conversation, which is deleted afterwards.

    Args:
        exchange: sends its requests.
        messages: see `build_prompt()`.
        model: the model; None for the client's.
        recover: whether to recover the answer if its connection is lost; None for the client's
            setting.
        retries: the call's retries; None for the client's.
        parameters: the call's mapping of parameters, or None.
        keywords: the call's keyword parameters.
        files: the files to send with the last message.

    Attributes:
        life: the state of the stream.

    Raises:
        TypeError: an argument has the wrong type or an unknown name.
        ValueError: an argument is not valid.
    """

    def __init__(
        self,
        exchange: Exchange,
        messages: Messages,
        *,
        model: str | None,
        recover: bool | None,
        retries: Retries | int | None,
        parameters: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
        files: tuple[File, ...] = (),
    ) -> None:
        configuration = exchange.configuration
        self._exchange = exchange
        self._model = None if model is None else check_model(model)
        self._retries = None if retries is None else as_retries(retries)
        self.life = Life()
        prompt = build_prompt(messages)
        self._preprompt, self._others = split_preprompt(messages)
        self._turn = Turn(
            exchange,
            prompt,
            model="",
            parameters=merge_parameters(configuration.parameters, parameters, keywords),
            recover=configuration.recover if recover is None else check_flag("recover", recover),
            life=self.life,
            files=files,
        )
        self._conversation: str | None = None
        self._stop_failed = False

    @property
    def text(self) -> str:
        """The part of the answer that has arrived."""
        return self._turn.text

    @property
    def only_deletes(self) -> bool:
        """Whether it only deletes a conversation, whose answers another operation stops."""
        return False

    @property
    def creating(self) -> bool:
        """Whether the request that creates its conversation is in progress."""
        return self._made in self._exchange.session.creating

    def run(self) -> Flow[Reply]:
        """Run the operation, emitting tokens as they arrive."""
        exchange = self._exchange
        call = exchange.call(self._retries)
        self.life.move(State.OPEN)
        try:
            if self.life.state is not State.STOPPING:
                yield from exchange.open_session(call, self._model)
            if self.life.state is not State.STOPPING:
                yield from self._create(call)
        except CallerStoppedError:
            if self.life.state is not State.STOPPING:
                raise
        reply = yield from self._turn.run(self._conversation or "", call)
        # The answer has arrived: clean up, with the remaining retries.
        call.deadline = exchange.cleanup()
        try:
            if self._conversation is not None:
                yield from conversations.delete(exchange, self._conversation, call)
                self._conversation = None
            self._end()
        except H2oError as error:
            conversations.leave_behind(exchange, self, error)
        return reply

    def _create(self, call: Call) -> Flow[None]:
        """Create the conversation."""
        exchange, turn = self._exchange, self._turn
        if turn.files or (exchange.untried and (turn.parameters or self._preprompt)):
            yield from exchange.ask_dialect(call)
        turn.check()
        model = yield from exchange.choose_model(self._model, call)
        yield from check_files(exchange, turn.files, model, call)
        exchange.session.begin(self)
        preprompt: str | None = None
        if "preprompt" in exchange.dialect.capabilities:
            preprompt = self._preprompt
            turn.prompt = build_prompt(self._others)
        turn.place.parent = yield from conversations.create(
            exchange, self._model, call, self._made, preprompt=preprompt
        )
        turn.model = self._model or exchange.model or model

    def stop(self) -> Flow[None]:
        """Tell the server to stop; `run()` then returns the text that has arrived."""
        yield from self._turn.stop()

    def abandon(self, deadline: Deadline) -> Flow[None]:
        """Tell the server to stop, and to delete the conversation."""
        failure: H2oError | None = None
        try:
            yield from self._turn.abandon(deadline)
        except H2oError as error:
            if not self._stop_failed:
                self._stop_failed = True
                raise  # a deleted conversation cannot be stopped, so first retry the stop, on close
            failure = error
        if self._conversation is not None:
            yield from conversations.delete_once(self._exchange, self._conversation, deadline)
            self._conversation = None
        self._end()
        if failure is not None:
            raise failure

    def _made(self, conversation: str) -> None:
        self._conversation = conversation

    def _end(self) -> None:
        """Tell the session that nothing is left to clean up."""
        if not self.creating:
            self._exchange.session.end(self)
