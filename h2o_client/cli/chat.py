"""`h2o-client chat`: a prompt, and the answer as it arrives; without a prompt, a chat session."""

import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from h2o_client import H2oError
from h2o_client.cli import state
from h2o_client.cli.outcome import PROGRAM, describe_error
from h2o_client.cli.render import new_screen
from h2o_client.cli.server import connected, param_option, server_options, wrong_use
from h2o_client.safe_text import to_json

if TYPE_CHECKING:
    from h2o_client import ChatStream


@click.command(short_help="Show the answer to a prompt, or chat.")
@click.argument("prompt", required=False)
@click.option("-c", "--continue", "resume", is_flag=True, help="Resume the last conversation.")
@server_options
@click.option("--model", metavar="NAME", help="The model.  [default: $H2O_CHAT_MODEL]")
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@param_option
@click.option("--raw", is_flag=True, help="Show the text as it is, in a terminal too.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object, for scripts.")
def chat(
    prompt: str | None,
    resume: bool,
    local: bool,
    engine: str | None,
    dialect: str | None,
    base_url: str | None,
    model: str | None,
    system: str | None,
    params: dict[str, Any],
    raw: bool,
    as_json: bool,
) -> None:
    """Send PROMPT, or the text on stdin, and show the answer as it arrives.

    In a terminal and without PROMPT this starts a conversation, where /help shows the commands.
    Conversations stay on the server, and `-c` resumes the last one. A single PROMPT leaves nothing
    there.

    With --json the answer is an object with the fields of a Reply (text, finish_reason, …), and
    a failure is an object {"error": {"type", "message", "status", "partial"}}.
    """
    local = local or engine is not None
    if resume and (local or model is not None):
        other = "--local" if local else "--model"
        raise click.UsageError(f"-c and {other} exclude each other")
    text = _read_prompt(prompt, converse=not as_json)
    saved = resume or text is None
    server = connected(
        base_url, local=local, engine=engine, dialect=dialect, model=model, saved=saved
    )
    with server as client:
        last = state.last_conversation(client.base_url) if resume else None
        if text is None:
            from h2o_client.cli.chat_session import ChatSession

            with wrong_use():  # reports wrong parameters before the first message is typed
                client.stream("nothing is sent", **params).close()
            session = ChatSession(client, system=system, parameters=params, raw=raw, keep=not local)
            session.run(resume=last)
            return
        with contextlib.ExitStack() as stack:
            with wrong_use():
                if last is not None:
                    conversation = stack.enter_context(client.conversation(id=last))
                    text = f"{system}\n\n{text}" if system is not None else text
                    stream = conversation.stream(text, **params)
                else:
                    messages = [{"role": "user", "content": text}]
                    if system is not None:
                        messages.insert(0, {"role": "system", "content": system})
                    stream = client.stream(messages, **params)
            stack.enter_context(stream)
            if as_json:
                _write_json(stream)
                return
            # The screen ends before the stream's block does, which can report something.
            with new_screen(raw=raw) as screen:
                for token in stream:
                    screen.show(token)
                if stream.reply.revised:
                    screen.revise(stream.reply.text)


def _write_json(stream: "ChatStream") -> None:
    """Read an answer, and write it or its error as one JSON object."""
    try:
        found = dataclasses.asdict(stream.read())
    except H2oError as error:
        click.echo(to_json({"error": describe_error(error)}))
        raise
    click.echo(to_json(found))


def _read_prompt(prompt: str | None, *, converse: bool) -> str | None:
    """Return the prompt from the command line or stdin; None for a conversation."""
    if prompt not in (None, "-"):
        return str(prompt)
    if prompt is None and sys.stdin.isatty():
        if converse and sys.stdout.isatty():
            return None
        raise click.UsageError(f'give a prompt: {PROGRAM} chat "Hello"')
    try:
        text = sys.stdin.read().removesuffix("\n")
        text.encode()  # in the C locale, other bytes than UTF-8 arrive as surrogates
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise click.UsageError(f"the text on stdin is not {error.encoding}") from None
    return text
