"""Simulates Ctrl-C at the points where Python checks for it."""

from typing import SupportsIndex


class CtrlC(BaseException):
    """Replaces KeyboardInterrupt, which would end the test run."""


class Permit(list[bool]):
    """The permit of a claim, with an optional Ctrl-C right after it is taken, once."""

    interrupted = False

    def pop(self, index: SupportsIndex = -1) -> bool:
        found = super().pop(index)
        if self.interrupted:
            self.interrupted = False
            raise CtrlC
        return found
