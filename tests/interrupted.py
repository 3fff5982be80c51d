"""Ctrl-C where Python may look for it."""

from typing import SupportsIndex


class CtrlC(BaseException):
    """Stands for KeyboardInterrupt, which would end the tests."""


class Permit(list[bool]):
    """A claim's permit, with Ctrl-C just after it was taken, once, if so wished."""

    interrupted = False

    def pop(self, index: SupportsIndex = -1) -> bool:
        found = super().pop(index)
        if self.interrupted:
            self.interrupted = False
            raise CtrlC
        return found
