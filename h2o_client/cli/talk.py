"""A conversation in the terminal: `h2o-client chat` without a prompt.

The server keeps the history. Ctrl-C ends the current answer, and the conversation goes on; a second
one in a row leaves.
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
from h2o_client.cli.outcome import PROGRAM, Terminated
from h2o_client.cli.render import in_a_line, new_screen, show_hanging
from h2o_client.safe_text import one_line, printable, to_json

COMMANDS = {
    "/help": "show the commands",
    "/retry": "ask the last message again; the new answer replaces the old one",
    "/model": "NAME: begin a new conversation with another model; alone: show the model",
    "/models": "show the models that the server has",
    "/new": "begin a new conversation",
    "/title": "TEXT: name the conversation; alone: let the model name it",
    "/share": "make a page of it that anyone with its URL can read",
    "/save": "FILE: write it to a file; .json as messages, others as Markdown",
    "/system": "TEXT: put before the first message of each conversation, from the next message on; "
    "- for none; alone: show it",
    "/quit": "leave; so do Ctrl-D and Ctrl-C twice",
}


class Memory:
    """Keeps session and conversation in the user's state directory, as soon as they exist.

    Args:
        client: the client.
        active: False keeps nothing, for a server that ends with the command.
    """

    def __init__(self, client: H2oClient, *, active: bool) -> None:
        self._client = client
        self._active = active
        self._saved = state.load(client.base_url) if active else state.Saved()

    @property
    def last(self) -> str | None:
        """The id of the last conversation."""
        return self._saved.conversation

    def note(self, conversation: Conversation) -> None:
        """Keep a conversation, unless it is kept already."""
        if not self._active or conversation.id is None:
            return
        saved = state.Saved(self._client.session, conversation.id, self._client.dialect)
        if saved == self._saved:
            return
        self._saved = saved  # if it cannot be written, this is not tried again for every answer
        try:
            state.save(self._client.base_url, saved)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            click.echo(f"{PROGRAM}: -c will not find this conversation: {reason}", err=True)


class Talk:
    """One conversation after another, until the user leaves.

    Args:
        client: the client.
        memory: where conversations are kept.
        system: what is put before the first message of each, or None.
        parameters: generation parameters of all answers.
        raw: whether answers are shown as they are, instead of as Markdown.
        keep: whether conversations outlive the command.
    """

    def __init__(
        self,
        client: H2oClient,
        memory: Memory,
        *,
        system: str | None,
        parameters: Mapping[str, Any],
        raw: bool,
        keep: bool,
    ) -> None:
        from h2o_client.cli.lines import Lines

        self._client = client
        self._memory = memory
        self._system = self._unsaid = system
        self._parameters = parameters
        self._raw = raw
        self._keep = keep
        self._model = client.model
        self._models: list[str] = []
        self._asked = ""
        self._partial: Message | None = None
        self._conversation = client.conversation(keep=keep)
        self._lines = Lines(COMMANDS, lambda: self._models)
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/retry": self._retry,
            "/model": self._choose_model,
            "/models": self._show_models,
            "/new": self._new,
            "/title": self._title,
            "/share": self._share,
            "/save": self._save,
            "/system": self._set_system,
        }

    def resume(self, conversation: Conversation) -> None:
        """Resume a conversation.

        Raises:
            H2oError: the server no longer has it, or could not be asked.
        """
        messages = conversation.history()
        self._conversation = conversation
        self._model = conversation.model
        for message in messages:
            if message.role == "user":
                self._lines.recall(printable(message.content))
        title = one_line(conversation.title or "")
        click.echo(f"“{title}”, {len(messages)} messages")
        for message in messages[-2:]:
            self._quote(message)

    def run(self) -> None:
        """Converse until the user leaves.

        Raises:
            KeyboardInterrupt: the user left by Ctrl-C.
        """
        place = f"{one_line(self._model)} at {self._client.base_url}"
        show_hanging("", f"{place}; /help shows the commands", dim=True)
        interrupted = False
        while True:
            try:
                line = self._lines.read()
                if line.strip():
                    interrupted = False
                    if line.startswith("/") and line.split()[0] == "/quit":
                        return
                    with second_leaves():
                        self._take(line)
            except EOFError:
                return
            except (Terminated, Left):
                raise
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                click.secho("Ctrl-C once more leaves.", dim=True)

    def _take(self, line: str) -> None:
        """Do what a line says. A failure is shown, and the conversation goes on."""
        try:
            if line.startswith("/"):
                name, _, argument = line.strip().partition(" ")
                self._commands.get(name, _refuse)(argument.strip())
            else:
                self._ask(line)
        except (H2oError, ValueError, OSError) as error:
            click.echo(f"{PROGRAM}: {in_a_line(error)}", err=True)

    def _ask(self, text: str) -> None:
        if self._unsaid:
            text = f"{self._unsaid}\n\n{text}"
        self._asked = text
        self._show(self._conversation.stream(text, **self._parameters))

    def _retry(self, _argument: str) -> None:
        self._show(self._conversation.stream_retry(**self._parameters))

    def _show(self, answer: ChatStream) -> None:
        try:
            with new_screen(raw=self._raw) as screen, answer as stream:
                for token in stream:
                    self._memory.note(self._conversation)
                    screen.show(token)
        finally:
            self._after_answer()

    def _after_answer(self) -> None:
        self._memory.note(self._conversation)
        messages = self._conversation.messages
        asked = self._asked.strip()
        if any(message.content.strip() == asked for message in messages):  # the server has it
            self._unsaid = None
        if messages and messages[-1].partial and messages[-1] != self._partial:
            self._partial = messages[-1]
            click.secho("(not the whole answer)", dim=True)

    def _help(self, _argument: str) -> None:
        for name, meaning in COMMANDS.items():
            show_hanging(f"{name:9}", meaning)
        show_hanging("", "Alt-Enter begins a new line, Tab completes, the up arrow recalls.")

    def _new(self, _argument: str) -> None:
        self._begin(self._model)
        click.secho("a new conversation", dim=True)

    def _begin(self, model: str) -> None:
        self._conversation.close()
        self._conversation = self._client.conversation(model=model, keep=self._keep)
        self._model = model
        self._unsaid = self._system

    def _choose_model(self, name: str) -> None:
        if not name:
            click.echo(one_line(self._model))
            return
        if name not in self._fetch_models():
            raise ValueError(f"the server has no model {name}; /models shows its models")
        self._begin(name)
        click.secho(f"a new conversation, with {one_line(name)}", dim=True)

    def _show_models(self, _argument: str) -> None:
        for name in self._fetch_models():
            click.echo(f"{'*' if name == self._model else ' '} {one_line(name)}")

    def _fetch_models(self) -> Sequence[str]:
        self._models = [model.id for model in self._client.models()]
        return self._models

    def _title(self, title: str) -> None:
        self._require_messages()
        if title:
            self._conversation.rename(title)
        else:
            title = self._conversation.summarize().strip()
        click.secho(f"it is called “{one_line(title)}”", dim=True)

    def _share(self, _argument: str) -> None:
        self._require_messages()
        click.echo(one_line(self._conversation.share()))

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("give a file: /save FILE")
        self._require_messages()
        path = Path(name).expanduser()
        text = written(self._conversation.history(), as_json=path.suffix.lower() == ".json")
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
        """Raise if nothing was said yet: the server does not know the conversation."""
        if self._conversation.id is None:
            raise ValueError("nothing was said yet")

    def _quote(self, message: Message) -> None:
        if message.role == "user":
            click.echo(f"> {printable(message.content)}")
            return
        with new_screen(raw=self._raw) as screen:
            screen.show(message.content)


def _refuse(_argument: str) -> NoReturn:
    raise ValueError(
        "unknown command; /help shows the commands. To send a message that begins with a slash, "
        "put a space before it"
    )


class Left(KeyboardInterrupt):
    """Ctrl-C came twice during one answer."""


@contextlib.contextmanager
def second_leaves() -> Generator[None]:
    """Let the second Ctrl-C within the block raise `Left`, however the first is handled.

    Telling the server to stop takes time, and the user may not want to wait for it.
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


def written(messages: Sequence[Message], *, as_json: bool) -> str:
    """Return a conversation as the text of a file.

    Args:
        messages: what was said.
        as_json: whether as a JSON list of messages, in the form that `chat()` takes; else as
            Markdown.
    """
    if as_json:
        listed = [{"role": item.role, "content": item.content.strip()} for item in messages]
        return to_json(listed, indent=2, ascii_only=False) + "\n"
    parts = [f"**{item.role.capitalize()}**\n\n{item.content.strip()}\n" for item in messages]
    return "\n".join(parts)
