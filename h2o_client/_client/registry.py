"""What of a client is open, without keeping it alive."""

import threading
import weakref
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A weak set that threads may add to while another reads it.

    The lock can be taken again by the thread that has it: the garbage collector may run an
    object's end at any moment, in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: weakref.WeakSet[T] = weakref.WeakSet()

    def add(self, item: T) -> None:
        """Add an item; it stays for as long as somebody else holds it."""
        with self._lock:
            self._items.add(item)

    def items(self) -> list[T]:
        """Return what is there now."""
        with self._lock:
            return list(self._items)
