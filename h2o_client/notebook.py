"""Live display in Jupyter: what `ChatStream.display()` and its async twin do.

The stream is read by a thread or task of its own, and the cell does nothing but look, ten times a
second, at what has arrived. So the browser gets no more than it bears however fast the tokens
come, a token that is followed by a long silence is shown all the same, and the cell is free when
the stop button is pressed.

That button sends SIGINT, which would raise KeyboardInterrupt wherever the cell stands, and cancel
the task of an async one. While an answer is shown it asks the stream to stop instead, which is no
error: the server stops generating, a conversation that was made for the answer is deleted, and
the reply says "stopped". A second press does what the first would have done, so that nothing is
ever in the way of ending the cell.

IPython is imported when it is needed. This module works on whatever stream it is handed.
"""

import contextvars
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from h2o_client.types import Reply

EVERY = 0.1
"""Seconds between two looks at what has arrived."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)


class Stream(Protocol):
    """What `display()` needs of a stream."""

    @property
    def text(self) -> str:
        """What has arrived."""
        ...

    def read(self) -> Reply:
        """Read to the end."""
        ...

    def stop(self) -> None:
        """End the answer here; called while another thread reads."""

    def close(self) -> None:
        """Leave it, wherever it stands."""


class AsyncStream(Protocol):
    """What `display_async()` needs of a stream."""

    @property
    def text(self) -> str:
        """What has arrived."""
        ...

    async def read(self) -> Reply:
        """Read to the end."""
        ...

    async def stop(self) -> None:
        """End the answer here; called while another task reads."""

    async def aclose(self) -> None:
        """Leave it, wherever it stands."""


class Screen(Protocol):
    """Where an answer is shown."""

    def show(self, text: str) -> None:
        """Show what has arrived: all of it, each time."""

    def end(self, text: str, mark: str) -> None:
        """Show the last state, and how it ended where that was not as it should."""

    def returned(self, reply: Reply) -> None:
        """Note that the cell gets the reply, and may have it as its last value."""


def display(
    stream: Stream,
    *,
    every: float = EVERY,
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
) -> Reply:
    """Show an answer while it grows; see `ChatStream.display()`.

    Args:
        stream: the answer.
        every: seconds between two looks at it.
        wait: waits for an event that long, and says whether it was set.
    """
    live = _Live(stream, new_screen())
    reader = _Reader(stream)
    try:
        with StopButton() as button:
            reader.start()
            while not wait(reader.done, every):
                live.show()
                if button.take():
                    stream.stop()
            reply = reader.result()
    except BaseException as error:
        live.broke_off(error)
        raise
    finally:
        stream.close()
    return live.ended(reply)


async def display_async(
    stream: AsyncStream,
    *,
    every: float = EVERY,
    sleep: Callable[[float], Awaitable[object]] | None = None,
) -> Reply:
    """The twin of `display()`.

    Args:
        stream: the answer.
        every: seconds between two looks at it.
        sleep: waits that long; None: `anyio.sleep`.
    """
    import anyio

    pause = sleep or anyio.sleep
    live = _Live(stream, new_screen())
    replies: list[Reply] = []
    errors: list[Exception] = []

    async def read() -> None:
        replies.append(await stream.read())

    async def follow() -> None:
        while True:
            await pause(every)
            live.show()
            if button.take():
                with anyio.CancelScope(shield=True):  # its request is not to be broken off
                    await stream.stop()

    def result() -> Reply:
        if errors:
            raise errors.pop()
        return replies[0]

    async def guarded(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- raised below: a task group would wrap it
            errors.append(error)
        tasks.cancel_scope.cancel()

    try:
        with StopButton() as button:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guarded, follow)
                await guarded(read)
        reply = result()
    except BaseException as error:
        live.broke_off(error)
        raise
    finally:
        await stream.aclose()
    return live.ended(reply)


class StopButton:
    """Takes SIGINT while an answer is shown; a second one goes where it would have gone.

    Only the main thread gets signals: in another one this does nothing, and neither would they.
    """

    def __init__(self) -> None:
        self._before: Callable[[int, FrameType | None], Any] | None = None
        self._pressed = False
        self._taken = False

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGINT)
        # One that is ignored, or was not set by Python, stays as it is.
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, signum: int, frame: FrameType | None) -> None:
        if self._pressed and self._before is not None:
            self._before(signum, frame)
        self._pressed = True

    def take(self) -> bool:
        """Whether it was pressed; says so once."""
        taken, self._taken = self._taken, self._pressed
        return self._pressed and not taken


class _Reader:
    """Reads a stream in a thread, and keeps what comes of it.

    Attributes:
        done: set when it has ended.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._replies: list[Reply] = []
        self._errors: list[BaseException] = []
        self.done = threading.Event()

    def start(self) -> None:
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._read,), name="h2o_client-display", daemon=True
        ).start()

    def _read(self) -> None:
        try:
            self._replies.append(self._stream.read())
        except BaseException as error:  # noqa: BLE001 -- raised by result(), in the other thread
            self._errors.append(error)
        finally:
            self.done.set()

    def result(self) -> Reply:
        """Return the reply, or raise what reading raised."""
        if self._errors:
            raise self._errors.pop()
        return self._replies[0]


class _Live:
    """Shows what a stream has, when there is something new."""

    def __init__(self, stream: Stream | AsyncStream, screen: Screen) -> None:
        self._stream = stream
        self._screen = screen
        self._shown = ""

    def show(self) -> None:
        text = self._stream.text
        if text != self._shown:
            self._shown = text
            self._screen.show(text.removeprefix(" "))

    def ended(self, reply: Reply) -> Reply:
        mark = "stopped" if reply.finish_reason == "stopped" else ""
        self._screen.end(reply.text.removeprefix(" "), mark)
        self._screen.returned(reply)
        return reply

    def broke_off(self, error: BaseException) -> None:
        text = self._stream.text.removeprefix(" ")
        if not isinstance(error, Exception):
            self._screen.end(text, "stopped")
        elif text:  # else the error says it all
            self._screen.end(text, "broke off")


def new_screen() -> Screen:
    """Find out where an answer is to be shown.

    Raises:
        ModuleNotFoundError: IPython is not installed.
    """
    try:
        shell = import_module("IPython").get_ipython()
    except ModuleNotFoundError as error:
        if error.name != "IPython":
            raise
        raise ModuleNotFoundError(
            "display() needs IPython: pip install 'h2o-chat-client[notebook]'", name="IPython"
        ) from None
    names = {cls.__name__ for cls in type(shell).__mro__}
    if shell is None or "TerminalInteractiveShell" in names:
        return Terminal()
    return Page(shell)


class Page:
    """A notebook's output: one piece of Markdown, which is replaced as it grows."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._display = import_module("IPython.display").display
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show what has arrived."""
        self._put(text, text)

    def end(self, text: str, mark: str) -> None:
        """Show the last state; the mark in italics, outside a code block that was left open."""
        if mark:
            self._put(f"{text} [{mark}]", f"{text}{_unclosed(text)}\n\n*— {mark}*")
        elif text:
            self._put(text, text)

    def _put(self, plain: str, markdown: str) -> None:
        data = {"text/plain": plain, "text/markdown": markdown}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def returned(self, reply: Reply) -> None:
        """Keep the cell from showing the same answer again, if the reply is its last value."""
        formatter = self._shell.display_formatter.ipython_display_formatter
        events = self._shell.events

        def show_another(found: Reply) -> None:
            if found is not reply:
                markdown = found.text.removeprefix(" ")
                data = {"text/plain": repr(found), "text/markdown": markdown}
                self._display(data, raw=True)

        def restore(*_: object) -> None:
            formatter.pop(Reply, None)
            events.unregister("post_run_cell", restore)

        formatter.for_type(Reply, show_another)
        events.register("post_run_cell", restore)


class Terminal:
    """A terminal, or whatever else stdout is: text that grows."""

    def __init__(self) -> None:
        self._written = ""

    def show(self, text: str) -> None:
        """Write what is new."""
        if not text.startswith(self._written):  # what was got otherwise is another text
            self._write("\n")
            self._written = ""
        self._write(text[len(self._written) :])
        self._written = text

    def end(self, text: str, mark: str) -> None:
        """Write the rest, and end the line."""
        self.show(text)
        self._write(f" [{mark}]\n" if mark else "\n")

    def returned(self, reply: Reply) -> None:
        """Nothing: a prompt shows a reply in full, which is more than its text."""

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _unclosed(text: str) -> str:
    """Return what closes the code block that a text ends in, if it does."""
    fence = ""
    for found in _FENCE.findall(text):
        if not fence:
            fence = found
        elif found.startswith(fence):
            fence = ""
    return f"\n{fence}" if fence else ""
