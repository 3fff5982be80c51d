"""Cleans up what a program leaves open.

Three things can prevent a client's normal clean-up: an object is dropped without being closed,
perhaps together with its client; the interpreter exits; or a signal handler calls `close()` on top
of the frame that is reading, which cannot continue before the handler returns. All three have the
same solution. The client's session records what the server must still be told, and a `Cleaner`,
which outlives the client, sends it: from its own thread, over its own connections, within
`Timeouts.cleanup`.
"""

import atexit
import contextlib
import os
import threading
import time
import weakref
from typing import Protocol

import httpx

from h2o_client._client._sync.player import Player
from h2o_client._client.http import AMBIENT, Connector, logger
from h2o_client.protocol import conversations
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Lock
from h2o_client.protocol.exchange import Exchange

_POLL_INTERVAL = 0.005  # seconds between two checks of another thread's progress


class Client(Protocol):
    """The part of a client that its cleaner uses."""

    def _warn_unclosed(self) -> None: ...

    def _close_at_exit(self, deadline: Deadline) -> None: ...


class OwnConnections:
    """Connections for a player without a client."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._opening = threading.RLock()


class Cleaner:
    """Notifies the server of everything that one client left unfinished.

    Args:
        client: the client; the cleaner keeps only a weak reference.
        exchange: the client's exchange, with its session.
        connect: makes connections; None if only the client can.
    """

    def __init__(self, client: Client, exchange: Exchange, connect: Connector | None) -> None:
        self._client = weakref.ref(client, self._client_dropped)
        self._exchange = exchange
        self._connect = connect
        self._lock = Lock()  # held by the thread that cleans up
        self._wanted = False

    def enlist(self) -> None:
        """Make sure that the clean-up happens, at the interpreter's exit at the latest."""
        _ENLISTED.add(self)

    def retire(self) -> None:
        """Cancel the clean-up: the client is clean, or belongs to another process."""
        _ENLISTED.discard(self)

    def start(self) -> None:
        """Clean up soon. The garbage collector may call this at any moment."""
        self._wanted = self._connect is not None
        if self._wanted and self in _ENLISTED and self._lock.acquire():
            try:
                threading.Thread(target=self._work, name="h2o_client-cleaner", daemon=True).start()
            except RuntimeError:  # the interpreter is exiting and cannot start threads
                self._lock.release()

    def finish(self, deadline: Deadline) -> None:
        """Clean up, and wait until that is done."""
        self.start()
        # Poll: the lock may be held by the frame that the signal handler interrupted.
        while not self._lock.permit and not deadline.expired():
            time.sleep(_POLL_INTERVAL)
        if self._wanted and not deadline.expired() and self._lock.acquire():
            self._work()

    def close_client(self, begun: float) -> None:
        """Close the client at the interpreter's exit, and warn about open objects."""
        client = self._client()
        if client is not None:
            client._warn_unclosed()
            client._close_at_exit(self._deadline(begun))

    def finish_at_exit(self, begun: float) -> None:
        """Clean up everything that is left."""
        self._exchange.session.drop_all()
        self.finish(self._deadline(begun))

    def _deadline(self, begun: float) -> Deadline:
        cleanup = self._exchange.configuration.timeouts.cleanup
        return Deadline(AMBIENT.clock, cleanup, "cleanup", begun)

    def _work(self) -> None:
        """Clean up until nothing new is left."""
        mine = True
        while mine:
            try:
                while self._wanted:
                    self._wanted = False
                    self._clean_up()
            finally:
                self._lock.release()
            mine = self._wanted and self._lock.acquire()
        if self._client() is None:
            self.retire()

    def _clean_up(self) -> None:
        if self._connect is None or self._exchange.session.is_clean:
            return
        deadline = self._exchange.cleanup()
        try:
            with self._connect() as http:
                Player(OwnConnections(http)).play(conversations.sweep(self._exchange, deadline))
        except Exception:  # noqa: BLE001 -- nothing above this could catch it
            logger.warning("the clean-up on the server failed", exc_info=True)

    def _client_dropped(self, _: object) -> None:
        if self in _ENLISTED:  # otherwise it was closed, or belongs to another process
            self._exchange.session.drop_all()
            self.start()


_ENLISTED: set[Cleaner] = set()
"""The cleaners of clients that were used in this process and are not closed."""


def _at_exit() -> None:
    begun = AMBIENT.clock()
    cleaners = list(_ENLISTED)
    try:
        # Ctrl-C ends the wait for threads that read; a second one ends the clean-up.
        with contextlib.suppress(KeyboardInterrupt):
            for cleaner in cleaners:
                cleaner.close_client(begun)
        for cleaner in cleaners:
            cleaner.finish_at_exit(begun)
    finally:
        _ENLISTED.clear()  # a thread started after this would never end


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ENLISTED.clear)
