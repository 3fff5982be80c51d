# Generated, do not edit: run `python scripts/unasync.py`.
"""What a client does for its streams and conversations: begin, play, clean up after them."""

from collections import deque
from typing import Protocol, TypeVar

import httpx

from h2o_client._client._sync._runtime import ConnectionOwner, Interruptible
from h2o_client._client._sync.player import Player
from h2o_client._client.http import PROCESS, logger
from h2o_client._client.registry import Registry
from h2o_client.errors import H2oError
from h2o_client.protocol import conversations
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.session import Abandoned

T = TypeVar("T")


class OpenStream(Protocol):
    """What a client needs of its streams."""

    @property
    def running(self) -> bool:
        """Whether the first request was sent, and the stream has not ended."""
        ...

    def _tell_to_close(self) -> bool: ...

    def _close(self, deadline: Deadline) -> None: ...


class OpenConversation(Protocol):
    """What a client needs of its conversations."""

    def _is_of_this_process(self) -> bool: ...

    def _close(self, deadline: Deadline) -> None: ...


class BaseClient(ConnectionOwner):
    """The base of the client: all that its streams and conversations need of it."""

    def __init__(
        self,
        exchange: Exchange,
        http_client: httpx.Client | None,
        proxy: str | None,
        transport: str | None,
    ) -> None:
        self._exchange = exchange
        self._closed = False
        self._streams: Registry[OpenStream] = Registry()
        self._conversations: Registry[OpenConversation] = Registry()
        self._dropped: deque[tuple[Abandoned, Interruptible | None]] = deque()
        super().__init__(http_client, proxy, transport)

    def _begin(self, stream: OpenStream | None) -> None:
        """Note that the first request of a stream, or of another operation, is sent now.

        Raises:
            RuntimeError: the client is closed, or cannot be used here.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        self._settle_in()
        self._sweep()
        if stream is not None:
            self._streams.add(stream)

    def _play(self, flow: Flow[T]) -> T:
        """Play a small operation.

        Raises:
            RuntimeError: the client is closed.
        """
        self._begin(None)
        return Player(self).play(flow)

    def _forget_streams(self) -> None:
        self._streams = Registry()
        conversations = self._conversations.items()
        self._conversations = Registry()
        for conversation in conversations:
            if conversation._is_of_this_process():
                self._conversations.add(conversation)

    def _clean_up(self) -> None:
        if not self._settle_in_to_clean_up():
            return  # a child that never used it: all that is open is the parent's
        deadline = self._exchange.cleanup()
        for stream in self._streams.items():
            if stream.running:
                stream._tell_to_close()
        for stream in self._streams.items():
            stream._close(deadline)
        for conversation in self._conversations.items():
            conversation._close(deadline)
        self._sweep()
        self._notify_server(Player(self))

    def _notify_server(self, player: Player) -> None:
        """Clean up what was left behind; what fails now is given up."""
        if self._forks != PROCESS.forks:
            self._exchange.session.shared = True  # by a child, which knows what is in it
        try:
            player.play(conversations.sweep(self._exchange, self._exchange.cleanup()))
        except Exception:  # noqa: BLE001 -- closing must come to its end
            logger.warning("what was left behind could not be cleaned up", exc_info=True)

    def _drop(self, operation: Abandoned, player: Interruptible | None) -> None:
        """Keep what was dropped unclosed; called by the garbage collector."""
        self._dropped.append((operation, player))

    def _sweep(self) -> None:
        """Clean up after the streams and conversations that were dropped unclosed."""
        while True:
            try:
                operation, player = self._dropped.popleft()
            except IndexError:  # nothing is left, or another thread has it
                return
            try:
                if player is not None:
                    player.release()
            finally:
                self._abandon(operation, self._exchange.cleanup())

    def _abandon(self, operation: Abandoned, deadline: Deadline) -> None:
        """Tell the server that the caller broke an operation off; what fails is left behind."""
        try:
            Player(self).play(operation.abandon(deadline))
        except H2oError as error:
            conversations.leave_behind(self._exchange, operation, error)
        except Exception as error:  # noqa: BLE001 -- must not replace the error that led here
            logger.warning("the clean-up failed", exc_info=True)
            conversations.leave_behind(self._exchange, operation, error)
        except BaseException:  # Ctrl-C or a cancellation goes on, and nothing is forgotten for it
            conversations.leave_behind(self._exchange, operation, None)
            raise
