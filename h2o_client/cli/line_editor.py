"""Reads the lines of a conversation, with editing, history and completion by prompt_toolkit.

The history is kept only in memory.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from h2o_client.cli.outcome import Terminated, terminating
from h2o_client.safe_text import one_line


class LineEditor:
    """Reads lines from the terminal.

    Args:
        commands: a description of each command, by its name.
        models: returns the completions for `/model`.
    """

    def __init__(self, commands: Mapping[str, str], models: Callable[[], Sequence[str]]) -> None:
        self._session: PromptSession[str] = PromptSession(  # keeps the history in memory
            completer=_Commands(commands, models),
            complete_while_typing=False,
            key_bindings=_keys(),
            prompt_continuation="  ",
        )

    def recall(self, text: str) -> None:
        """Add a line that the up arrow recalls."""
        self._session.history.append_string(text)

    def read(self) -> str:
        """Return the text that the user types.

        Raises:
            KeyboardInterrupt: Ctrl-C, with nothing typed.
            EOFError: Ctrl-D, with nothing typed.
            Terminated: the process received a signal.
        """
        # The signal handlers must not raise inside the event loop.
        handlers = terminating()
        try:
            return self._session.prompt("> ", pre_run=lambda: self._handle(handlers))
        finally:  # the loop has removed its handlers without restoring ours
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _handle(self, numbers: Iterable[int]) -> None:
        """Let signals end the editing."""
        app = self._session.app

        def leave(number: int) -> None:
            if not app.is_done:
                app.exit(exception=Terminated(number))

        with contextlib.suppress(NotImplementedError):  # not on Windows
            for number in numbers:
                asyncio.get_running_loop().add_signal_handler(number, leave, number)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-c")
    @keys.add("<sigint>")
    def interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _Commands(Completer):
    """Completes the names of commands, and of models."""

    def __init__(self, commands: Mapping[str, str], models: Callable[[], Sequence[str]]) -> None:
        self._commands = commands
        self._models = models

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002 -- prompt_toolkit's interface
    ) -> Iterable[Completion]:
        """Yield completions of the text before the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, space, begun = text.partition(" ")
        if not space:
            for command, meaning in self._commands.items():
                if command.startswith(name):
                    yield Completion(command, -len(name), display_meta=meaning)
        elif name == "/model":
            for model in self._models():
                if begun in model and model == one_line(model):  # safe to insert into the line
                    yield Completion(model, -len(begun))
