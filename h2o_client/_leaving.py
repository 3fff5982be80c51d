"""What a program leaves open is cleaned up all the same.

Three things can come between a client and its clean-up: what was to be closed is dropped, perhaps
together with its client; the interpreter exits; or `close()` is called by a signal handler, on top
of the very frame that is reading, which cannot go on before the handler returns. All three are met
in one way. What the server must still be told is known to the client's `Service`, and a `Cleaner`,
which outlives the client, tells it: from a thread of its own, over a connection of its own, within
`Timeouts.cleanup`.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import CodeType, FrameType
from typing import Protocol, TypeVar

import httpx

from h2o_client._http import AMBIENT, logger
from h2o_client._sync_player import Player
from h2o_client.protocol.effects import Claim
from h2o_client.protocol.service import Service

C = TypeVar("C", bound=Callable[..., object])
_LOOK = 0.005  # seconds between two looks at what another thread is doing
_PACKAGE = __name__.partition(".")[0]


class Client(Protocol):
    """What a cleaner needs of its client."""

    def _close_at_exit(self) -> None:
        """Close what a thread that still runs would go on with."""
        ...


class Connections:
    """What a player needs of a client, where there is no client."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._opening = threading.RLock()


class Cleaner:
    """Tells the server what one client has left unfinished.

    Args:
        client: the client; it is held weakly.
        service: what the client knows.
        connect: makes an httpx client for the cleaner.
    """

    def __init__(
        self,
        client: Client,
        service: Service,
        connect: Callable[[], AbstractContextManager[httpx.Client]],
    ) -> None:
        self.client = weakref.ref(client, self._client_dropped)
        self.service = service
        self._connect = connect
        self._claim = Claim()  # whoever has it cleans up
        self._wanted = False
        self._responses: deque[Player] = deque()

    def drop(self, player: Player | None) -> None:
        """Clean up soon. May be called by the garbage collector, at any moment.

        Args:
            player: holds a response that is to be released.
        """
        if player is not None:
            self._responses.append(player)
        self._wanted = True
        if self._claim.take():
            try:
                threading.Thread(target=self._work, name="h2o_client-cleaner", daemon=True).start()
            except RuntimeError:  # no thread can begin any more: the interpreter exits
                self._claim.free()

    def finish(self, deadline: float) -> None:
        """Clean up, and wait until that is done."""
        self.drop(None)
        # There is no lock to wait for: the frame below a signal handler may have it.
        while not self._claim.permit and AMBIENT.clock() < deadline:
            time.sleep(_LOOK)
        if self._wanted and AMBIENT.clock() < deadline and self._claim.take():
            self._work()

    def release(self) -> None:
        """Release the responses of what was dropped."""
        while self._responses:
            self._responses.popleft().release()

    def _work(self) -> None:
        """Clean up for as long as there is something new."""
        mine = True
        while mine:
            try:
                while self._wanted:
                    self._wanted = False
                    self._clean_up()
            finally:
                self._claim.free()
            mine = self._wanted and self._claim.take()
        if self.client() is None:
            _CLEANERS.discard(self)

    def _clean_up(self) -> None:
        try:
            self.release()
            if not self.service.is_clean:
                deadline = AMBIENT.clock() + self.service.timeouts.cleanup
                with self._connect() as http:
                    Player(Connections(http), deadline).play(self.service.sweep())
        except Exception:  # noqa: BLE001 -- there is nobody who could catch it
            logger.warning("what was left behind could not be cleaned up", exc_info=True)

    def _client_dropped(self, _: object) -> None:
        if self in _CLEANERS:  # else it is not of this process, or was closed
            self.service.drop_all()
            self.drop(None)


_CLEANERS: set[Cleaner] = set()
"""Those of clients that were used in this process, and are not closed."""


def clean_up_at_exit(cleaner: Cleaner) -> None:
    """Let a cleaner do its work at the interpreter's exit, if not before."""
    _CLEANERS.add(cleaner)


def is_closed(cleaner: Cleaner) -> None:
    """Note that a client has done it all by itself."""
    _CLEANERS.discard(cleaner)


def _at_exit() -> None:
    cleaners = list(_CLEANERS)
    # Ctrl-C ends the wait for the threads that still read, and a second one the clean-up.
    with contextlib.suppress(KeyboardInterrupt):
        for cleaner in cleaners:
            client = cleaner.client()
            if client is not None:
                client._close_at_exit()
    begun = AMBIENT.clock()
    for cleaner in cleaners:
        cleaner.service.drop_all()
        cleaner.drop(None)
    for cleaner in cleaners:
        cleaner.finish(begun + cleaner.service.timeouts.cleanup)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CLEANERS.clear)

_AT_WORK: set[CodeType] = set()


def not_reentrant(function: C) -> C:
    """Mark a function whose work nobody may do from on top of it: see `is_reentrant()`."""
    _AT_WORK.add(function.__code__)
    return function


def is_reentrant() -> bool:
    """Whether this is called from on top of work of ours, by a signal handler or a callback.

    That work cannot go on until the handler returns: it must not be waited for, and the
    connections and locks that it uses must be left alone.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_PACKAGE):
        frame = frame.f_back  # the way from the handler to here
    while frame is not None:
        if frame.f_code in _AT_WORK:
            return True
        frame = frame.f_back
    return False
