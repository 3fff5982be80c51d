"""A deadline for a thread that blocks in a socket.

httpx has one read limit for the whole body of a response, and a sync reader cannot be cancelled.
If a read must end earlier, because of the call's total limit or after comments that are not part of
an answer, a watchdog shuts down the socket from its own thread, which wakes the reader.
"""

import threading
from collections.abc import Callable

from h2o_client._client.http import AMBIENT


class Watchdog:
    """Calls a function when a deadline passes. Its thread starts with the first deadline.

    Args:
        fire: what to call.
    """

    def __init__(self, fire: Callable[[], object]) -> None:
        self._fire = fire
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._wakes: float | None = None  # when the thread wakes by itself; None: only if notified
        self._fired = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def arm(self, seconds: float) -> None:
        """Call the function after this many seconds, unless disarmed before."""
        with self._changed:
            self._fired = False
            self._deadline = AMBIENT.clock() + seconds
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="h2o_client-watchdog", daemon=True
                )
                self._thread.start()
            elif self._wakes is None or self._deadline < self._wakes:
                self._changed.notify()

    def disarm(self) -> bool:
        """Remove the deadline; return whether it had passed."""
        with self._changed:
            self._deadline = None  # the thread sees this when it wakes; waking it now costs more
            return self._fired

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                left = None if self._deadline is None else self._deadline - AMBIENT.clock()
                if left is not None and left <= 0:
                    self._deadline = None
                    self._fired = True
                    self._fire()
                    continue
                self._wakes = self._deadline
                self._changed.wait(left)
