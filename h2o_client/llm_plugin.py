# pyright: reportMissingImports=false
"""A plugin for Simon Willison's `llm`: `llm -m h2o-chat "…"`. It needs the extra `llm`.

`h2o-chat` is the default model of the configured server (`H2O_CHAT_URL`, `H2O_CHAT_MODEL`,
`H2O_CHAT_TOKEN`, `H2O_CHAT_SESSION`). `llm h2o-chat models` fetches the names of the server's
models; from then on each is available as `h2o-chat/NAME`. Apart from that, the plugin contacts the
server only for a prompt.

While its object exists, an `llm` conversation without a system prompt uses one conversation on the
server, which is deleted afterwards. With a system prompt, and with the async models, every prompt
sends the history as messages, without the attachments of earlier prompts. An incomplete answer is
an error, and `llm` then logs no response.
"""

import json
import mimetypes
import re
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import llm
from llm.parts import TextPart
from pydantic import Field, create_model, field_validator

import h2o_client
from h2o_client.options import OPTION_TYPES, GenerationOptions
from h2o_client.plugins import check_revised, server_url

NAME = "h2o-chat"
FILE_TYPES = frozenset(
    f"{kind}/{name}"
    for kind, names in {
        "application": "csv json pdf xml",
        "image": "gif jpeg png svg+xml webp",
        "text": "css csv html javascript markdown plain x-python xml",
    }.items()
    for name in names.split()
)
"""The types accepted here; the server's model may reject some of them when a file is sent."""


class _Options(llm.Options):
    @field_validator("stop", mode="before", check_fields=False)
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


def _options() -> Any:
    """The generation options, with their types and descriptions, in the form that `llm` expects."""
    said = dict(re.findall(r"^\s+(\w+): (.*)$", GenerationOptions.__doc__ or "", re.MULTILINE))
    fields: dict[str, Any] = {
        name: (kind | None, Field(default=None, description=said.get(name)))
        for name, kind in OPTION_TYPES.items()
    }
    return create_model("Options", __base__=_Options, **fields)


OPTIONS = _options()


class _Talk:
    """A conversation on the server and its messages."""

    def __init__(self, name: str | None) -> None:
        self.client = h2o_client.H2oClient(model=name)
        self.conversation = self.client.conversation()
        self.said: list[dict[str, str]] = []

    def ask(self, messages: list[dict[str, str]], **arguments: Any) -> "h2o_client.ChatStream":
        """Send the last message, or all messages if the conversation is new."""
        text = messages[-1]["content"] if self.said else h2o_client.build_prompt(messages)
        return self.conversation.stream(text, **arguments)


class _H2oChat:
    """The base of the sync and the async model.

    Args:
        name: the model's name on the server; None for the default one.
    """

    can_stream = True
    attachment_types: set[str] | frozenset[str] = FILE_TYPES
    Options = OPTIONS

    def __init__(self, name: str | None = None) -> None:
        self.model_id = NAME if name is None else f"{NAME}/{name}"
        self._name = name

    def _arguments(self, prompt: llm.Prompt) -> dict[str, Any]:
        options = prompt.options.model_dump(exclude_none=True)
        return {"files": _files(prompt) or None, **options}


class H2oChat(_H2oChat, llm.Model):
    """A model on the configured server."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self._talks: dict[str, _Talk] = {}

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
    ) -> Iterator[str]:
        """Yield the answer's texts; `llm` calls this."""
        messages, arguments = _messages(prompt), self._arguments(prompt)
        if conversation is None or messages[0]["role"] == "system":
            with h2o_client.H2oClient(model=self._name) as client:
                yield from _read(client.stream(messages, **arguments), stream, response)
            return
        talk = self._talk(conversation, messages[:-1])
        texts: list[str] = []
        try:
            for text in _read(talk.ask(messages, **arguments), stream, response):
                texts.append(text)
                yield text
        except BaseException:  # the server's history may now differ from that of `llm`
            self._leave(conversation.id)
            raise
        talk.said = [*messages, {"role": "assistant", "content": "".join(texts)}]

    def _talk(self, conversation: llm.Conversation, said: list[dict[str, str]]) -> _Talk:
        """Return the server's conversation if it has the same messages, or else a new one."""
        talk = self._talks.get(conversation.id)
        if talk is None:
            weakref.finalize(conversation, self._leave, conversation.id)
        if talk is None or talk.said != said:
            self._leave(conversation.id)
            talk = self._talks[conversation.id] = _Talk(self._name)
        return talk

    def _leave(self, id: str) -> None:  # noqa: A002 -- the conversation's
        talk = self._talks.pop(id, None)
        if talk is not None:
            talk.client.close()


class AsyncH2oChat(_H2oChat, llm.AsyncModel):
    """A model on the configured server, for asyncio."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,  # noqa: ARG002 -- `prompt` has it all
    ) -> AsyncGenerator[str]:
        """Yield the answer's texts; `llm` calls this."""
        async with h2o_client.AsyncH2oClient(model=self._name) as client:
            arguments = self._arguments(prompt)
            async with client.stream(_messages(prompt), **arguments) as answer:
                first = True
                if not stream:
                    yield (await answer.read()).text.removeprefix(" ")
                async for text in answer:
                    yield text.removeprefix(" ") if first else text
                    first = False
            _end(answer.reply, stream, response)


def _read(answer: "h2o_client.ChatStream", stream: bool, response: llm.Response) -> Iterator[str]:
    """Yield an answer's texts, without a space at the beginning."""
    first = True
    with answer:
        if not stream:
            yield answer.read().text.removeprefix(" ")
        for text in answer:
            yield text.removeprefix(" ") if first else text
            first = False
    _end(answer.reply, stream, response)


def _end(reply: "h2o_client.Reply", stream: bool, response: Any) -> None:
    """Give `llm` the details of a complete answer."""
    if stream:
        check_revised(reply)
    response.set_resolved_model(reply.model)
    response.response_json = {"finish_reason": reply.finish_reason, "recovered": reply.recovered}


def _messages(prompt: llm.Prompt) -> list[dict[str, str]]:
    """Return the history and the prompt as messages for `chat()`."""
    found: list[dict[str, str]] = []
    for message in prompt.messages:
        if message.role not in {"system", "user", "assistant"}:
            text = f"this server does not accept messages with the role {message.role!r}"
            raise llm.ModelError(text)
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        found.append({"role": message.role, "content": "".join(texts)})
    if not found:
        raise llm.ModelError("the prompt is empty")
    return found


def _files(prompt: llm.Prompt) -> list[h2o_client.File]:
    """Return the prompt's attachments."""
    files: list[h2o_client.File] = []
    for number, attachment in enumerate(prompt.attachments, 1):
        kind: str = attachment.resolve_type() or ""
        name = Path(attachment.path or "").name or f"{number}{mimetypes.guess_extension(kind)}"
        files.append(h2o_client.File(name, attachment.content_bytes() or b"", kind))
    return files


def _kept() -> dict[str, list[str]]:
    """Return the saved model names, by server URL."""
    try:
        kept: object = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _file() -> Path:
    return llm.user_dir() / f"{NAME}-models.json"


@llm.hookimpl
def register_models(register: Any) -> None:
    """Register the server's default model, and those that `llm h2o-chat models` has found."""
    for name in (None, *_kept().get(server_url(), ())):
        register(H2oChat(name), AsyncH2oChat(name))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Add `llm h2o-chat models`."""

    @cli.group(name=NAME)
    def group() -> None:
        """Commands for the chat server at H2O_CHAT_URL."""

    @group.command()
    def models() -> None:
        """List the server's models, and save their names for -m."""
        try:
            with h2o_client.H2oClient(retries=0) as client:
                names = [model.name for model in client.models()]
        except h2o_client.H2oError as error:
            raise click.ClickException(str(error)) from error
        kept: Mapping[str, list[str]] = {**_kept(), server_url(): names}
        _file().write_text(json.dumps(kept, indent=2), "utf-8")
        for name in names:
            click.echo(f"{NAME}/{name}")
