"""`h2o-client chat`: a prompt, and the answer as it arrives; without a prompt, a chat session."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from h2o_client import H2oError
from h2o_client.cli import state
from h2o_client.cli.outcome import PROGRAM, describe_error
from h2o_client.cli.prompt import add_files, read_prompt
from h2o_client.cli.render import new_screen
from h2o_client.cli.server import (
    connected,
    model_option,
    param_option,
    server_options,
    wrong_use,
)
from h2o_client.safe_text import printable, to_json

if TYPE_CHECKING:
    from h2o_client import ChatStream, H2oClient


_LAST = "last"
_ID = re.compile(r"[0-9a-f]{24}")
_PART_OF_ID = re.compile(r"(?=.*\d)[0-9a-f]{8,}")


@click.command(short_help="Show the answer to a prompt, or chat.")
@click.argument("prompt", required=False)
@click.option(
    "-c",
    "--continue",
    "resume",
    is_flag=False,
    flag_value=_LAST,
    metavar="[ID]",
    help="Resume the last conversation, or the one with this id (see `conversations list`).",
)
@server_options
@model_option
@click.option("-s", "--system", metavar="TEXT", help="A system message before the prompt.")
@param_option
@click.option(
    "-f",
    "--file",
    "paths",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Attach a file; if the server does not accept files, add its text. May be repeated.",
)
@click.option(
    "-x", "--extract", is_flag=True, help="Print only the first code block of the answer."
)
@click.option("--raw", is_flag=True, help="Do not render Markdown in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object, for scripts.")
def chat(
    prompt: str | None,
    resume: str | None,
    local: bool,
    engine: str | None,
    dialect: str | None,
    base_url: str | None,
    model: str | None,
    system: str | None,
    params: dict[str, Any],
    paths: tuple[Path, ...],
    extract: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Send PROMPT and the text on stdin, and show the answer as it arrives.

    In a terminal and without PROMPT, this starts a conversation, where /help shows the commands.
    Conversations stay on the server, and `-c` resumes the last one. With PROMPT and without `-c`,
    nothing stays there.

    With --json the answer is an object with the fields of a Reply (text, finish_reason, …), and
    a failure is an object {"error": {"type", "message", "status", "partial"}}.
    """
    local = local or engine is not None
    if resume not in (None, _LAST) and not _ID.fullmatch(str(resume)):
        if prompt is not None or _PART_OF_ID.fullmatch(str(resume)):
            raise click.UsageError(
                f"{resume!r} is not the id of a conversation: "
                f"`{PROGRAM} conversations list` shows the ids"
            )
        resume, prompt = _LAST, resume  # the word after -c was the prompt
    if resume and (local or model is not None):
        other = "--local" if local else "--model"
        raise click.UsageError(f"-c and {other} cannot be combined")
    if extract and (as_json or raw):
        raise click.UsageError(f"-x and {'--json' if as_json else '--raw'} cannot be combined")
    text = read_prompt(prompt, converse=not (as_json or extract or paths))
    saved = resume is not None or text is None
    server = connected(
        base_url, local=local, engine=engine, dialect=dialect, model=model, saved=saved
    )
    with server as client:
        kept = None if resume is None else state.find_conversation(client.base_url, resume)
        if text is None:
            from h2o_client.cli.chat_session import ChatSession

            with wrong_use():  # reports wrong parameters before the first message is typed
                client.stream("nothing is sent", **params).close()
            session = ChatSession(
                client,
                model=model,
                system=system,
                parameters=params,
                raw=raw,
                keep=not local,
                again=f"{PROGRAM} -c" + (f" --base-url {client.base_url}" if base_url else ""),
            )
            session.run(resume=kept)
            return
        asked = _ask(client, kept, text, system, paths, params)
        with wrong_use(), _failures(as_json=as_json), asked as stream:
            if as_json:
                reply = stream.read()
                click.echo(to_json({**dataclasses.asdict(reply), "text": str(reply)}))
            elif extract:
                _write_code(stream)
            else:
                _show(stream, raw=raw)
        if kept is not None:
            found = state.load(client.base_url)
            state.save(client.base_url, dataclasses.replace(found, conversation=kept))


@contextlib.contextmanager
def _ask(
    client: "H2oClient",
    kept: str | None,
    text: str,
    system: str | None,
    paths: Sequence[Path],
    params: dict[str, Any],
) -> "Generator[ChatStream]":
    """Send the prompt in the saved conversation, or else in a new one."""
    if not paths:
        client.stream(text, **params).close()  # sends nothing, and checks the arguments
    text, files = add_files(client, text, paths)
    more: dict[str, Any] = {"files": files} if files else {}
    with contextlib.ExitStack() as stack:
        if kept is not None:
            conversation = stack.enter_context(client.conversation(id=kept))
            text = f"{system}\n\n{text}" if system is not None else text
            stream = conversation.stream(text, **more, **params)
        else:
            messages = [{"role": "user", "content": text}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            stream = client.stream(messages, **more, **params)
        yield stack.enter_context(stream)


def _show(stream: "ChatStream", *, raw: bool) -> None:
    """Show an answer as it arrives."""
    # End the screen before the stream: closing the stream can print a message.
    with new_screen(raw=raw) as screen:
        for token in stream:
            screen.show(token)
        if stream.reply.revised:
            screen.revise(stream.reply.text)
    if stream.reply.revised and not sys.stdout.isatty():
        raise click.ClickException(
            "the server restarted the answer, so the output ends with the whole answer, but also "
            "has an earlier attempt before it: use --json to write only the answer"
        )


def _write_code(stream: "ChatStream") -> None:
    """Print the first code block of an answer, or write an answer without one to stderr."""
    from h2o_client.cli.markdown import first_code

    answer = stream.read().answer
    code = first_code(answer)
    if code is None:
        click.echo(printable(answer.removeprefix(" ")), err=True)
        raise click.ClickException("the answer contains no code block")
    click.echo(printable(code) if sys.stdout.isatty() else code, nl=False)


@contextlib.contextmanager
def _failures(*, as_json: bool) -> "Generator[None]":
    """Write an error as a JSON object if requested."""
    try:
        yield
    except H2oError as error:
        if as_json:
            click.echo(to_json({"error": describe_error(error)}))
        raise
