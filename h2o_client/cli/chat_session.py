"""A conversation in the terminal: `h2o-client chat` without a prompt.

The server keeps the history. Ctrl-C ends the current answer, and the conversation continues; a
second Ctrl-C in a row leaves.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from h2o_client import ChatStream, Conversation, H2oClient, H2oError, Message
from h2o_client.cli import state
from h2o_client.cli.line_editor import LineEditor
from h2o_client.cli.outcome import PROGRAM, Terminated, describe_failure
from h2o_client.cli.render import format_messages, new_screen, show_hanging
from h2o_client.safe_text import one_line, printable


class ChatSession:
    """One conversation after another, until the user leaves.

    Args:
        client: the client.
        model: the model that the user chose, or None for the client's default.
        system: the text to put before the first message of each conversation, or None.
        parameters: generation parameters for all answers.
        raw: whether to show the text of answers without rendering Markdown.
        keep: whether conversations stay on the server, so that -c finds the last one.
        again: the command that resumes the last one.
    """

    def __init__(
        self,
        client: H2oClient,
        *,
        model: str | None,
        system: str | None,
        parameters: Mapping[str, Any],
        raw: bool,
        keep: bool,
        again: str,
    ) -> None:
        self._client = client
        self._saved = state.load(client.base_url)
        self._system = self._unsaid = system
        self._parameters = parameters
        self._raw = raw
        self._keep = keep
        self._again = again
        self._resumable = False  # whether -c finds the conversation
        self._models: Sequence[str] = []
        self._sent = ""
        self._chosen = model
        self._conversation = client.conversation(model=model, keep=keep)
        self._commands: dict[str, tuple[str, Callable[[str], object]]] = {
            "/help": ("show the commands", self._help),
            "/retry": (
                "send the last message again; the new answer replaces the old one",
                self._retry,
            ),
            "/model": (
                "NAME: start a new conversation with another model; alone: show the model",
                self._choose_model,
            ),
            "/models": ("show the server's models", self._show_models),
            "/new": ("start a new conversation", self._new),
            "/title": (
                "TEXT: rename the conversation; alone: let the model choose a title",
                self._set_title,
            ),
            "/share": ("publish the conversation; anyone with the URL can read it", self._share),
            "/save": (
                "FILE: save the conversation; .json as messages, others as Markdown",
                self._save,
            ),
            "/system": (
                "TEXT: add it before each first message; -: remove it; alone: show it",
                self._set_system,
            ),
            "/quit": ("leave; exit, quit, Ctrl-D, and Ctrl-C twice do the same", self._quit),
            "/exit": ("the same", self._quit),
        }
        meanings = {name: meaning for name, (meaning, _) in self._commands.items()}
        self._editor = LineEditor(meanings, lambda: self._models)

    def _resume(self, conversation: Conversation) -> None:
        messages = conversation.history()
        self._conversation = conversation
        self._resumable = conversation.id == self._saved.conversation
        for message in messages:
            if message.role == "user":
                self._editor.recall(printable(message.content))
        title = one_line(conversation.title or "")
        click.echo(f"“{title}”, {len(messages)} messages")
        for message in messages[-2:]:
            self._quote(message)

    @property
    def _model(self) -> str:
        """The conversation's model; "" while the kind of server is unknown and it depends on it."""
        if self._conversation.id is not None:
            return self._conversation.model
        if self._chosen is not None:
            return self._chosen
        return self._client.model if self._client.dialect is not None else ""

    def run(self, *, resume: str | None) -> None:
        """Read messages and show answers until the user leaves.

        Args:
            resume: the id of a conversation to resume, or None for a new one.

        Raises:
            H2oError: the server no longer has the conversation, or could not be reached.
            KeyboardInterrupt: the user left by Ctrl-C.
        """
        if resume is not None:
            self._resume(self._client.conversation(id=resume))
        model = one_line(self._model)
        place = f"{model} at {self._client.base_url}" if model else self._client.base_url
        show_hanging("", f"{place}; /help shows the commands", dim=True)
        interrupted = False
        while True:
            try:
                line = self._editor.read()
                if line.strip():
                    interrupted = False
                    with second_leaves():
                        self._obey(line)
            except EOFError:
                self._say_goodbye()
                return
            except Terminated:
                raise
            except KeyboardInterrupt as error:
                if interrupted or isinstance(error, Left):
                    self._say_goodbye()
                    raise
                interrupted = True
                click.secho("Press Ctrl-C again to leave.", dim=True)

    def _obey(self, line: str) -> None:
        """Execute a line. Show errors, and continue the conversation."""
        try:
            if line.rstrip() in ("exit", "quit"):
                told = f"To send the word “{line.rstrip()}”, put a space before it."
                show_hanging("", told, dim=True)
                self._quit("")
            elif line.startswith("/"):
                name, _, argument = line.strip().partition(" ")
                self._find_command(name)(argument.strip())
            else:
                self._send(line)
        except (H2oError, ValueError, OSError) as error:
            if self._keep and isinstance(error, H2oError):
                state.forget_dialect(self._client.base_url)
            show_hanging("", f"{PROGRAM}: {describe_failure(error)}", err=True)

    def _find_command(self, name: str) -> Callable[[str], object]:
        """Return the function of a command.

        Raises:
            ValueError: the command does not exist.
        """
        if name in self._commands:
            return self._commands[name][1]
        import difflib  # rarely needed

        similar = difflib.get_close_matches(name, self._commands, n=1)
        meant = f"did you mean {similar[0]}? " if similar else ""
        raise ValueError(
            f"unknown command {name}: {meant}/help shows the commands. To send a message that "
            "begins with a slash, put a space before it"
        )

    def _send(self, text: str) -> None:
        if self._unsaid:
            text = f"{self._unsaid}\n\n{text}"
        self._sent = text
        self._show(self._conversation.stream(text, **self._parameters))

    def _retry(self, _argument: str) -> None:
        if self._conversation.id is not None:
            self._show(self._conversation.stream_retry(**self._parameters))
            return
        if not self._sent:
            self._require_messages()
        self._show(self._conversation.stream(self._sent, **self._parameters))

    def _show(self, answer: ChatStream) -> None:
        before = self._conversation.messages
        try:
            with new_screen(raw=self._raw) as screen, answer as stream:
                for token in stream:
                    self._note_conversation()
                    screen.show(token)
                if stream.reply.revised:
                    screen.revise(stream.reply.text)
        finally:
            self._after_answer(before)

    def _after_answer(self, before: Sequence[Message]) -> None:
        self._note_conversation()
        messages = self._conversation.messages
        sent = self._sent.strip()
        if any(message.content.strip() == sent for message in messages):  # the server has it
            self._unsaid = None
        if messages and messages != before and messages[-1].partial:
            click.secho("(incomplete answer)", dim=True)

    def _note_conversation(self) -> None:
        """Save session and conversation in the user's state directory, as soon as they exist."""
        if not self._keep or self._conversation.id is None:
            return
        saved = state.Saved(self._client.session, self._conversation.id, self._client.dialect)
        if saved == self._saved:
            return
        self._saved = saved  # if writing fails, do not try again for every answer
        self._resumable = False
        try:
            state.save(self._client.base_url, saved)
            self._resumable = True
        except OSError as error:
            reason = error.strerror or type(error).__name__
            click.echo(f"{PROGRAM}: -c will not find this conversation: {reason}", err=True)

    def _say_goodbye(self) -> None:
        if self._resumable:
            show_hanging("", "The conversation is saved on the server. To continue it:", dim=True)
            click.secho(f"    {self._again}", dim=True)

    def _help(self, _argument: str) -> None:
        for name, (meaning, _) in self._commands.items():
            show_hanging(f"{name:9}", meaning)
        show_hanging("", "Alt-Enter starts a new line, Tab completes, the up arrow recalls lines.")
        show_hanging("", "To send a line that looks like a command, begin it with a space.")

    def _new(self, _argument: str) -> None:
        self._begin(self._chosen)
        click.secho("a new conversation", dim=True)

    def _begin(self, model: str | None) -> None:
        old = self._conversation
        self._conversation = self._client.conversation(model=model, keep=self._keep)
        self._chosen = model
        self._unsaid = self._system
        self._sent = ""
        self._resumable = False
        old.close()

    def _choose_model(self, name: str) -> None:
        if not name:
            if not self._model:
                self._fetch_models()  # detects the kind of server
            click.echo(one_line(self._model))
            return
        if name not in self._fetch_models():
            raise ValueError(f"model {name} not found; /models shows the models")
        self._begin(name)
        click.secho(f"a new conversation, with {one_line(name)}", dim=True)

    def _show_models(self, _argument: str) -> None:
        for name in self._fetch_models():  # afterwards, the current model is known
            click.echo(f"{'*' if name == self._model else ' '} {one_line(name)}")

    def _fetch_models(self) -> Sequence[str]:
        self._models = [model.id for model in self._client.models()]
        return self._models

    def _set_title(self, title: str) -> None:
        self._require_messages()
        if title:
            self._conversation.rename(title)
        else:
            title = self._conversation.summarize().strip()
        click.secho(f"renamed to “{one_line(title)}”", dim=True)

    def _share(self, _argument: str) -> None:
        self._require_messages()
        click.echo(one_line(self._conversation.share()))

    def _quit(self, _argument: str) -> NoReturn:
        raise EOFError

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("give a file: /save FILE")
        self._require_messages()
        path = Path(name).expanduser()
        text = format_messages(self._conversation.history(), as_json=path.suffix.lower() == ".json")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ValueError(f"{path} exists already") from None
        click.secho(f"saved to {path}", dim=True)

    def _set_system(self, text: str) -> None:
        if text:
            self._system = self._unsaid = None if text == "-" else text
        click.echo(printable(self._system or "none"))

    def _require_messages(self) -> None:
        """Raise an error if nothing has been sent, and so the conversation does not exist yet."""
        if self._conversation.id is None:
            raise ValueError("nothing has been sent yet")

    def _quote(self, message: Message) -> None:
        if message.role == "user":
            click.echo(f"> {printable(message.content)}")
            return
        with new_screen(raw=self._raw) as screen:
            screen.show(message.content)


class Left(KeyboardInterrupt):
    """Ctrl-C was pressed twice during one answer."""


@contextlib.contextmanager
def second_leaves() -> Generator[None]:
    """Make the second Ctrl-C within the block raise `Left`, however the first is handled.

    Stopping the server takes time, and the user may not want to wait for it.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    count = 0

    def interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
        nonlocal count
        count += 1
        raise Left if count > 1 else KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
