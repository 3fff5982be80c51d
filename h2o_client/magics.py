"""`%chat` and `%%chat`, for IPython and Jupyter: `%load_ext h2o_client`.

They use the default server of `H2oClient()`: $H2O_CHAT_URL or the hosted service. `-c` continues a
conversation, which is deleted when a new one begins, the extension is unloaded or the kernel exits.
"""

import atexit
import re
from argparse import REMAINDER, ArgumentTypeError, Namespace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument, magic_arguments

from h2o_client import Conversation, H2oClient, H2oError
from h2o_client.options import as_arguments, read_parameter
from h2o_client.safe_text import printable

_QUESTION = re.compile(r"^([ \t]*)%chat[ \t]+(.*\?)[ \t]*$", re.MULTILINE)


class ChatFailedError(Exception):
    """The answer failed; IPython shows a single line. `__cause__` is the original error."""

    def _render_traceback_(self) -> list[str]:
        return [printable(str(self))]


def _parameter(text: str) -> tuple[str, Any]:
    try:
        return read_parameter(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


class Chat:
    """The magics of one shell, and their conversation."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._client: H2oClient | None = None
        self._conversation: Conversation | None = None

    @magic_arguments()
    @argument("--model", metavar="NAME", help="the model; with -c, the model of a new conversation")
    @argument(
        "--param", metavar="NAME=VALUE", type=_parameter, action="append", default=[],
        help="a generation parameter, such as temperature=0.2; may be repeated",
    )  # fmt: skip
    @argument(
        "-c", "--conversation", action="store_true", help="continue the conversation, or start one"
    )
    @argument(
        "--new", action="store_true", help="start a new conversation, and delete the last one"
    )
    @argument(
        "prompt", nargs=REMAINDER, help="the prompt; put -- before one that begins with a dash"
    )
    def chat(self, line: str, cell: str | None = None) -> None:
        """Show the answer to a prompt as it arrives, and store it in the variable `reply`."""
        options, prompt = self.parse(line)
        prompt = "\n".join(part for part in (prompt, (cell or "").strip("\n")) if part)
        try:
            self._send(prompt, options)
        except (H2oError, TypeError, ValueError) as error:
            raise ChatFailedError(f"{type(error).__name__}: {error}") from error

    def parse(self, line: str) -> tuple[Namespace, str]:
        """Return the options at the front of a line, and the rest as the prompt.

        Raises:
            UsageError: an option is unknown or lacks its value.
        """
        # IPython would split the line like a shell, but a prompt may contain a single quote.
        words = line.split()
        options: Namespace = vars(Chat.chat)["parser"].parse_args(words)  # the decorators' parser
        rest = options.prompt[1:] if options.prompt[:1] == ["--"] else options.prompt
        return options, line.strip().split(maxsplit=len(words) - len(rest))[-1] if rest else ""

    def _send(self, prompt: str, options: Namespace) -> None:
        if self._client is None:
            self._client = H2oClient()
        if options.new:
            self._forget()
        if not (options.conversation or options.new):
            stream = self._client.stream(
                prompt, model=options.model, **as_arguments(dict(options.param))
            )
        elif prompt.strip():
            conversation = self._continued(self._client, options.model)
            stream = conversation.stream(prompt, **as_arguments(dict(options.param)))
        else:
            return  # `%chat --new` alone: the next prompt starts the conversation
        self._shell.user_ns["reply"] = stream.display()

    def _continued(self, client: H2oClient, model: str | None) -> Conversation:
        if self._conversation is None:
            self._conversation = client.conversation(model=model)
        elif model not in (None, self._conversation.model):
            text = f"the conversation uses {self._conversation.model}: add --new for another model"
            raise UsageError(printable(text))
        return self._conversation

    def _forget(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()

    def close(self) -> None:
        """Delete the conversation and close the client; the next prompt makes new ones."""
        self._forget()
        client, self._client = self._client, None
        if client is not None:
            client.close()


def keep_questions(lines: list[str]) -> list[str]:
    """Rewrite `%chat Why is that?` as a call; otherwise IPython would show the help on `that`."""
    if lines and lines[0].startswith("%%"):
        return lines
    call = "{}get_ipython().run_line_magic('chat', {!r})"
    return [_QUESTION.sub(lambda found: call.format(*found.groups()), line) for line in lines]


_loaded: dict[int, Chat] = {}  # by the identity of the shell


def load_ipython_extension(shell: Any) -> None:
    """Add the magics to a shell; called by `%load_ext h2o_client`."""
    unload_ipython_extension(shell)
    chat = _loaded[id(shell)] = Chat(shell)
    shell.register_magic_function(chat.chat, "line_cell", "chat")
    shell.input_transformers_cleanup.append(keep_questions)
    atexit.register(chat.close)


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics from a shell; called by `%unload_ext h2o_client`."""
    chat = _loaded.pop(id(shell), None)
    if chat is not None:
        shell.input_transformers_cleanup.remove(keep_questions)
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop("chat", None)
        atexit.unregister(chat.close)
        chat.close()
