"""Live display in Jupyter: the implementation of `display()` of both stream classes.

A separate thread or task reads the stream, and the cell is updated ten times a second. So fast
tokens do not flood the browser, and a token before a long silence is still shown.

The notebook's stop button sends SIGINT, which would raise KeyboardInterrupt in the cell or cancel
its task. While an answer is shown, the first press stops the stream instead, which is not an error:
the server stops generating, a conversation created for the answer is deleted, and the reply's
`finish_reason` is "stopped". A second press acts as usual, so a cell can always be interrupted.
"""

import contextvars
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from h2o_client.extras import install_hint
from h2o_client.safe_text import printable, to_html
from h2o_client.types import Reply

EVERY = 0.1  # seconds between two updates of the cell


class _AnyStream(Protocol):
    @property
    def text(self) -> str: ...


class _Stream(_AnyStream, Protocol):
    def read(self) -> Reply: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class _AsyncStream(_AnyStream, Protocol):
    async def read(self) -> Reply: ...
    async def stop(self) -> None: ...
    async def aclose(self) -> None: ...


def display(
    stream: _Stream, *, wait: Callable[[threading.Event, float], bool] = threading.Event.wait
) -> Reply:
    """Show an answer as it arrives; see `ChatStream.display()`.

    Args:
        stream: the answer.
        wait: waits for an event for a number of seconds, and returns whether it was set.
    """
    output = _new_output(stream)
    answer: Future[Reply] = Future()
    done = threading.Event()

    def read() -> None:
        try:
            answer.set_result(stream.read())
        except BaseException as error:  # noqa: BLE001 -- raised by result(), in the other thread
            answer.set_exception(error)
        done.set()

    run = contextvars.copy_context().run
    reader = threading.Thread(target=run, args=(read,), name="h2o_client-display", daemon=True)
    try:
        with _stop_button() as was_pressed:
            reader.start()
            while not wait(done, EVERY):
                output.update()
                if was_pressed():
                    stream.stop()
            reply = answer.result()
    except BaseException as error:
        output.broke_off(error)
        raise
    finally:
        stream.close()
    return output.ended(reply)


async def display_async(
    stream: _AsyncStream, *, sleep: Callable[[float], Awaitable[object]] | None = None
) -> Reply:
    """Show an answer as it arrives; see `AsyncChatStream.display()`.

    Args:
        stream: the answer.
        sleep: sleeps for a number of seconds; None: `anyio.sleep`.
    """
    import anyio

    pause = sleep or anyio.sleep
    output = _new_output(stream)
    answer: Future[Reply] = Future()

    async def follow() -> None:
        while True:
            await pause(EVERY)
            output.update()
            if was_pressed():
                with anyio.CancelScope(shield=True):  # so that the server gets the request
                    await stream.stop()

    async def read() -> None:
        answer.set_result(await stream.read())

    async def run(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- raised below: a task group would wrap it
            if not answer.done():
                answer.set_exception(error)
        tasks.cancel_scope.cancel()

    try:
        with _stop_button() as was_pressed:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, follow)
                await run(read)
        reply = answer.result()
    except BaseException as error:
        output.broke_off(error)
        raise
    finally:
        await stream.aclose()
    return output.ended(reply)


@contextmanager
def _stop_button() -> Generator[Callable[[], bool]]:
    """Intercept the first SIGINT in the block; the previous handler gets any others.

    Only the main thread receives signals; in other threads this does nothing.

    Yields:
        A function that returns True on its first call after the first press, and otherwise False.
    """
    before = signal.getsignal(signal.SIGINT)
    pressed = taken = False

    def press(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed and callable(before):
            before(signum, frame)
        pressed = True

    def was_pressed() -> bool:
        nonlocal taken
        was_taken, taken = taken, pressed
        return taken and not was_taken

    # A handler that ignores the signal, or was not set by Python, stays in place.
    ours = callable(before) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, press)
    try:
        yield was_pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


class Output:
    """An answer on stdout, written as text as it arrives."""

    def __init__(self, stream: _AnyStream) -> None:
        self._stream = stream
        self._shown = ""

    def update(self) -> None:
        """Show the text so far, if it has changed."""
        text = self._stream.text.removeprefix(" ")
        if text != self._shown:
            self._show(text)

    def ended(self, reply: Reply) -> Reply:
        """Show the whole answer, and return it."""
        mark = "stopped" if reply.finish_reason == "stopped" else ""
        self._end(str(reply), mark)
        return reply

    def broke_off(self, error: BaseException) -> None:
        """Show the text so far, marked as incomplete or stopped; hide an empty, incomplete text."""
        text = self._stream.text.removeprefix(" ")
        if text or not isinstance(error, Exception):
            self._end(text, "incomplete" if isinstance(error, Exception) else "stopped")

    def _show(self, text: str) -> None:
        # Recovered text may differ from the text shown so far.
        old, gap = (self._shown, "") if text.startswith(self._shown) else ("", "\n")
        sys.stdout.write(printable(gap + text.removeprefix(old)))
        sys.stdout.flush()
        self._shown = text

    def _end(self, text: str, mark: str) -> None:
        self._show(f"{text} [{mark}]\n" if mark else f"{text}\n")


class NotebookOutput(Output):
    """An answer in a notebook: one HTML output, which is replaced as the answer grows."""

    def __init__(self, stream: _AnyStream, shell: Any) -> None:
        from IPython.display import display

        super().__init__(stream)
        self._shell = shell
        self._display: Any = display
        self._handle: Any = None

    def _show(self, text: str, mark: str = "") -> None:
        plain = printable(f"{text} [{mark}]" if mark else text)
        data = {"text/plain": plain, "text/html": to_html(text, mark)}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        self._shown = text

    def _end(self, text: str, mark: str) -> None:
        if text or mark:
            self._show(text, mark)

    def ended(self, reply: Reply) -> Reply:
        """Show the whole answer, and keep IPython from showing it again as the cell's value."""
        formatter = self._shell.display_formatter.ipython_display_formatter
        events = self._shell.events

        def show_another(found: Reply) -> None:
            if found is not reply:
                html = to_html(str(found))
                self._display({"text/plain": repr(found), "text/html": html}, raw=True)

        def restore(*_: object) -> None:
            formatter.pop(Reply, None)
            events.unregister("post_run_cell", restore)

        formatter.for_type(Reply, show_another)
        events.register("post_run_cell", restore)
        return super().ended(reply)


def _new_output(stream: _AnyStream) -> Output:
    """Return the output for this environment.

    Raises:
        ModuleNotFoundError: IPython is not installed.
    """
    try:
        from IPython import get_ipython
    except ModuleNotFoundError as error:
        text = f"display() needs IPython ({install_hint('notebook')})"
        raise ModuleNotFoundError(text, name="IPython") from error
    shell: Any = get_ipython()
    names = {cls.__name__ for cls in type(shell).__mro__}
    in_terminal = shell is None or "TerminalInteractiveShell" in names
    return Output(stream) if in_terminal else NotebookOutput(stream, shell)
