"""The operations of a stream: what happens from the caller's messages to the reply.

An operation has three flows. `run()` is the operation itself. `stop()` is what a caller asks for:
it tells the server, and `run()` then ends with what is there. `abandon()` is played by a shell
when the caller broke `run()` off: it tells the server to stop and to delete, as far as the
operation's state says that there is something to stop or delete, and so may be played at any
time, and twice.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from h2o_client.errors import H2oError
from h2o_client.protocol.effects import CallerStoppedError, Flow
from h2o_client.protocol.payloads import check_flag, check_model, merge_parameters
from h2o_client.protocol.prompt import build_prompt
from h2o_client.protocol.retries import Retries, RetryState
from h2o_client.protocol.service import Service
from h2o_client.protocol.turn import Turn
from h2o_client.types import Messages, Reply


class Operation(Protocol):
    """What a stream plays."""

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing more comes of the answer: what `run()` still does is clean up."""
        ...

    def run(self) -> Flow[Reply]:
        """Do it all, emitting tokens as they arrive."""
        ...

    @property
    def creating(self) -> bool:
        """Whether a request is under way that creates its conversation."""
        ...

    def stop(self) -> Flow[None]:
        """Tell the server that the caller has enough; `run()` ends with what is there."""
        ...

    def abandon(self) -> Flow[None]:
        """Tell the server what must still be told once `run()` was broken off."""
        ...


class Chat:
    """A one-shot chat: its conversation is made for it, and deleted after it.

    Args:
        service: the service.
        messages: as `build_prompt()` takes them.
        model: the model, or None: the client's.
        recover: whether to recover the answer if its connection is lost, or None: the client's.
        retries: the call's retries, or None: the client's.
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
        model: str | None,
        recover: bool | None,
        retries: Retries | int | None,
        parameters: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
    ) -> None:
        self._service = service
        self._model = service.model if model is None else check_model(model)
        self._retries = service.retry_state(retries)
        self._turn = Turn(
            service,
            build_prompt(messages),
            model=self._model,
            parameters=merge_parameters(service.parameters, parameters, keywords),
            retries=self._retries,
            recover=service.recover if recover is None else check_flag("recover", recover),
        )
        self._conversation: str | None = None
        self._stop_failed = False

    @property
    def text(self) -> str:
        """What has arrived of the answer."""
        return self._turn.text

    @property
    def done(self) -> bool:
        """Whether nothing more comes of the answer: what `run()` still does is clean up."""
        return self._turn.done

    @property
    def creating(self) -> bool:
        """Whether a request is under way that creates its conversation."""
        return self._service.is_creating(self._made)

    def run(self) -> Flow[Reply]:
        """Do it all, emitting tokens as they arrive."""
        service = self._service
        service.begin(self._retries)
        try:
            if not self._turn.stopping:
                yield from service.open_session(self._retries, self._model)
            if not self._turn.stopping:
                service.begin_operation(self)
                yield from service.create(self._model, self._retries, self._made)
        except CallerStoppedError:
            if not self._turn.stopping:
                raise
        reply = yield from self._turn.run(self._conversation or "")
        try:  # the answer is there: what follows is the clean-up
            yield from self._delete(service.cleanup_state(self._retries))
        except H2oError as error:
            service.leave_behind(self, error)
        return reply

    def stop(self) -> Flow[None]:
        """Tell the server that the caller has enough; `run()` ends with what is there."""
        yield from self._turn.stop()

    def abandon(self) -> Flow[None]:
        """Tell the server to stop, and to delete the conversation."""
        failure: H2oError | None = None
        try:
            yield from self._turn.abandon()
        except H2oError as error:
            if not self._stop_failed:
                self._stop_failed = True
                raise  # what is deleted cannot be stopped any more: first try again, on close
            failure = error
        yield from self._delete(None)
        if failure is not None:
            raise failure

    def _made(self, conversation: str) -> None:
        self._conversation = conversation

    def _delete(self, retries: RetryState | None) -> Flow[None]:
        if self._conversation is not None:
            yield from self._service.delete(self._conversation, retries)
            self._conversation = None
        if not self.creating:
            self._service.end_operation(self)
