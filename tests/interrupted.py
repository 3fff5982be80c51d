"""Ctrl-C: simulated at the points where Python checks for it, and pressed in a process."""

import contextlib
import re
import signal
import subprocess
import sys
from typing import SupportsIndex

INTERRUPTED_PYTHON = (
    sys.executable,
    "-Werror",
    # Ctrl-C between two steps of httpcore's code: trio reports a generator that is left to it, and
    # Python a coroutine that was made but not awaited.
    "-Wignore:Async generator 'httpcore",
    "-Wignore:coroutine 'AsyncHTTP11",
    "-Wignore:coroutine 'AsyncHTTPConnection",
)
"""A Python to press Ctrl-C in, where warnings are errors."""
# In a callback of the import system, Python reports Ctrl-C instead of raising it.
_IN_AN_IMPORT = re.compile(
    r"(?ms)Exception ignored in: <function _get_module_lock.*?^KeyboardInterrupt: \n"
)


def press_ctrl_c(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C until the process exits; return its output.

    Python misses a signal that arrives between its last check and a blocking system call.
    """
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, errors = process.communicate(timeout=6)
            return output, _IN_AN_IMPORT.sub("", errors or "")
    raise AssertionError("Ctrl-C did not end the process")


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
