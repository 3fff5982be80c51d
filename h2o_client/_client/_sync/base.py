# Generated, do not edit: run `python scripts/unasync.py`.
"""The base of the client, which starts, runs and cleans up its streams and conversations."""

from collections import deque
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import httpx

from h2o_client._client._sync._runtime import ConnectionOwner, Interruptible, is_reentrant
from h2o_client._client._sync.player import Player
from h2o_client._client.cleaner import Cleaner
from h2o_client._client.http import PROCESS, alive, logger
from h2o_client.errors import H2oError
from h2o_client.protocol import conversations
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.session import Abandoned

T = TypeVar("T")


class OpenStream(Protocol):
    """The part of a stream that its client uses."""

    @property
    def running(self) -> bool:
        """Whether the first request was sent and the stream has not ended."""
        ...

    def _tell_to_close(self) -> bool: ...

    def _warn_unclosed(self) -> None: ...

    def _close(self, deadline: Deadline) -> None: ...


class OpenConversation(Protocol):
    """The part of a conversation that its client uses."""

    def _is_of_this_process(self) -> bool: ...

    def _warn_unclosed(self) -> None: ...

    def _close(self, deadline: Deadline) -> None: ...


class BaseClient(ConnectionOwner):
    """The base of the client: everything that its streams and conversations use."""

    def __init__(
        self,
        exchange: Exchange,
        http_client: httpx.Client | None,
        proxy: str | None,
        transport: str | None,
    ) -> None:
        self._exchange = exchange
        self._closed = False
        self._streams: WeakValueDictionary[int, OpenStream] = WeakValueDictionary()
        self._conversations: WeakValueDictionary[int, OpenConversation] = WeakValueDictionary()
        self._dropped: deque[Interruptible] = deque()
        super().__init__(http_client, proxy, transport)
        self._cleaner = Cleaner(self, exchange, self._connector())

    def _begin(self, stream: OpenStream | None) -> None:
        """Prepare for the first request of a stream or another operation.

        Raises:
            RuntimeError: the client is closed, or cannot be used here.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        self._prepare()
        self._cleaner.enlist()
        if self._dropped:
            self._release_dropped()
        if stream is not None:
            self._streams[id(stream)] = stream

    def _play(self, flow: Flow[T]) -> T:
        """Run a small operation.

        Raises:
            RuntimeError: the client is closed.
        """
        self._begin(None)
        return Player(self).play(flow)

    def _forget_streams(self) -> None:
        self._streams = WeakValueDictionary()
        before = alive(self._conversations)
        self._conversations = WeakValueDictionary()
        for conversation in before:
            if conversation._is_of_this_process():
                self._conversations[id(conversation)] = conversation
        self._dropped.clear()
        self._cleaner.retire()
        self._cleaner = Cleaner(self, self._exchange, self._connector())

    def _clean_up(self, deadline: Deadline) -> None:
        if not self._prepare_to_clean_up():
            return  # in a child that never used it: everything open belongs to the parent
        for stream in alive(self._streams):
            if stream.running:
                stream._tell_to_close()
        for stream in alive(self._streams):
            stream._close(deadline)
        for conversation in alive(self._conversations):
            conversation._close(deadline)
        self._exchange.session.drop_all()
        self._sweep(deadline)

    def _sweep(self, deadline: Deadline) -> None:
        """Clean up what was left on the server; do not retry failures."""
        if self._forks != PROCESS.forks:
            self._exchange.session.shared = True  # with a child process
        if is_reentrant():
            self._cleaner.finish(deadline)
            return
        try:
            self._release_dropped()
            Player(self).play(conversations.sweep(self._exchange, deadline))
        except Exception:  # noqa: BLE001 -- closing must continue
            logger.warning("the clean-up on the server failed", exc_info=True)

    def _drop(self, operation: Abandoned, player: Interruptible | None) -> None:
        """Clean up an object that was garbage-collected without being closed."""
        if player is not None:
            self._dropped.append(player)
        self._exchange.session.drop(operation)
        self._cleaner.start()

    def _release_dropped(self) -> None:
        """Release the responses of streams that were dropped without being closed."""
        while self._dropped:
            self._dropped.popleft().release()

    def _warn_unclosed(self) -> None:
        """Warn about open objects at the interpreter's exit."""
        for stream in alive(self._streams):
            stream._warn_unclosed()
        for conversation in alive(self._conversations):
            conversation._warn_unclosed()

    def _abandon(self, operation: Abandoned, deadline: Deadline) -> None:
        """Tell the server that the caller interrupted an operation; if that fails, retry later."""
        if is_reentrant():
            self._exchange.session.drop(operation)
            self._cleaner.finish(deadline)
            return
        try:
            Player(self).play(operation.abandon(deadline))
        except H2oError as error:
            conversations.leave_behind(self._exchange, operation, error)
        except Exception as error:  # noqa: BLE001 -- must not replace the original error
            logger.warning("the clean-up failed", exc_info=True)
            conversations.leave_behind(self._exchange, operation, error)
        except BaseException:  # Ctrl-C or a cancellation: clean up later, and raise it
            conversations.leave_behind(self._exchange, operation, None)
            raise
