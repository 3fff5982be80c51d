"""`%chat` and `%%chat`, for IPython and Jupyter: `%load_ext h2o_client`.

They ask the server that `H2oClient()` finds, which is the environment's `H2O_CHAT_URL` or the
hosted service; the client is made when it is first needed. What is asked with `-c` is a
conversation, which is deleted when a new one is begun, when the extension is unloaded and when
the kernel ends.
"""

import atexit
import json
import re
from dataclasses import dataclass, field
from typing import Any

from h2o_client import Conversation, H2oClient, H2oError
from h2o_client.options import as_arguments

USAGE = "%chat [--model NAME] [--param NAME=VALUE]... [-c | --conversation] [--new] PROMPT"


class UsageError(Exception):
    """The options are not understood; IPython shows the line alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"{self}\nUsage: {USAGE}"]


class ChatFailedError(Exception):
    """The answer failed; IPython shows the line alone. Its cause is the `H2oError`."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass(slots=True)
class Options:
    """What stands before a prompt.

    Attributes:
        model: the model, or None.
        parameters: generation parameters.
        conversation: whether the conversation is to go on.
        new: whether it is to begin anew.
    """

    model: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    conversation: bool = False
    new: bool = False


def parse(line: str) -> tuple[Options, str]:
    """Take the options off the front of a line; all the rest is prompt, quotes and all.

    Raises:
        UsageError: an option is unknown, or lacks its value.
    """
    options = Options()
    rest = line.strip()
    while rest.startswith("-"):
        word, rest = _first_word(rest)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in ("--model", "--param") and not equals:
            value, rest = _first_word(rest)
        if word in ("-c", "--conversation"):
            options.conversation = True
        elif word == "--new":
            options.new = True
        elif name == "--model" and value:
            options.model = value
        elif name == "--param" and value:
            _add_parameter(options.parameters, value)
        elif name in ("--model", "--param"):
            raise UsageError(f"{name} needs a value")
        else:
            raise UsageError(f"there is no option {word}; a prompt that begins so stands after --")
    return options, rest


def _first_word(text: str) -> tuple[str, str]:
    word, *rest = text.split(maxsplit=1) or [""]
    return word, "".join(rest)


def _add_parameter(parameters: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"{text!r} is no NAME=VALUE of a parameter")
    try:
        parameters[name] = json.loads(value)
    except ValueError:
        parameters[name] = value


class Chat:
    """What the magics do, and the conversation that they have.

    Args:
        shell: the `InteractiveShell`, whose variable `reply` is set.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._client: H2oClient | None = None
        self._conversation: Conversation | None = None

    def chat(self, line: str, cell: str | None = None) -> None:
        """Ask, and show the answer as it comes; the variable `reply` has it afterwards.

        Usage: %chat [--model NAME] [--param NAME=VALUE]... [-c] [--new] PROMPT, or `%%chat` with
        options only and the prompt below it.

          --model NAME          the model; with -c, of the conversation that is begun
          --param NAME=VALUE    a generation parameter, such as temperature=0.2
          -c, --conversation    go on with the conversation, or begin one
          --new                 begin a new conversation, and delete the one before
        """
        options, prompt = parse(line)
        prompt = "\n".join(part for part in (prompt, (cell or "").strip("\n")) if part)
        try:
            self._ask(prompt, options)
        except (H2oError, ValueError) as error:
            raise ChatFailedError(f"{type(error).__name__}: {error}") from error

    def _ask(self, prompt: str, options: Options) -> None:
        if self._client is None:
            self._client = H2oClient()
        if options.new:
            self._forget()
        if not (options.conversation or options.new):
            stream = self._client.stream(
                prompt, model=options.model, **as_arguments(options.parameters)
            )
        elif prompt.strip():
            stream = self._going_on(self._client, options.model).stream(
                prompt, **as_arguments(options.parameters)
            )
        else:
            return  # `%chat --new` alone: the next question begins one
        self._shell.user_ns["reply"] = stream.display()

    def _going_on(self, client: H2oClient, model: str | None) -> Conversation:
        if self._conversation is None:
            self._conversation = client.conversation(model=model)
        elif model not in (None, self._conversation.model):
            raise UsageError(
                f"the conversation is with {self._conversation.model}: add --new for another model"
            )
        return self._conversation

    def _forget(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()

    def close(self) -> None:
        """Delete the conversation, close the client; another question makes new ones."""
        self._forget()
        client, self._client = self._client, None
        if client is not None:
            client.close()


def keep_questions(lines: list[str]) -> list[str]:
    """Keep IPython from taking `%chat Why is that?` for a request for help on `that`.

    Args:
        lines: those of a cell, before anything else is made of them.

    Returns:
        The same, with such a line as the call that `%chat` without a question mark becomes.
    """
    if lines and lines[0].startswith("%%"):
        return lines
    return [_QUESTION.sub(_as_call, line) for line in lines]


_QUESTION = re.compile(r"^(?P<indent>[ \t]*)%chat[ \t]+(?P<rest>.*\?)[ \t]*$", re.MULTILINE)


def _as_call(found: re.Match[str]) -> str:
    return f"{found['indent']}get_ipython().run_line_magic('chat', {found['rest']!r})"


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext h2o_client`."""
    unload_ipython_extension(shell)
    chat = Chat(shell)
    shell.register_magic_function(chat.chat, "line_cell", "chat")
    shell.input_transformers_cleanup.append(keep_questions)
    _LOADED[id(shell)] = chat
    atexit.register(chat.close)


def unload_ipython_extension(shell: Any) -> None:
    """Called by `%unload_ext h2o_client`."""
    chat = _LOADED.pop(id(shell), None)
    if chat is None:
        return
    shell.input_transformers_cleanup.remove(keep_questions)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("chat", None)
    atexit.unregister(chat.close)
    chat.close()


_LOADED: dict[int, Chat] = {}
"""What was loaded, by the identity of the shell."""
