"""`h2o-client conversations`: the conversations of the session that `chat` has saved."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from h2o_client.cli import state
from h2o_client.cli.render import format_messages, new_screen, print_table
from h2o_client.cli.server import connected, url_option, wrong_use
from h2o_client.safe_text import one_line, to_json

if TYPE_CHECKING:
    from h2o_client import Conversation, H2oClient


@click.group(short_help="Manage the conversations of chat.")
def conversations() -> None:
    """List, show, rename, delete and share the conversations of `chat` on the server.

    The ID `last` is the last conversation. It is the default if ID is optional.
    """


_id = click.argument("number", metavar="[ID]", default="last")


@conversations.command("list", short_help="List the conversations.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list, for scripts.")
def list_(base_url: str | None, as_json: bool) -> None:
    """List the conversations; `*` marks the last one. Piped: ids, models and titles with tabs."""
    with connected(base_url, saved=True) as client:
        saved = state.load(client.base_url)
        # Without a saved session, the list is empty: do not open a session for it.
        found = [] if saved.session is None else client.conversations()
    if as_json:
        listed = [{"id": item.id, "title": item.title, "model": item.model} for item in found]
        click.echo(to_json(listed))
    elif not found:
        click.echo("no conversations", err=True)
    elif sys.stdout.isatty():
        rows = [
            ("*" if item.id == saved.conversation else "", item.id, item.title, item.model)
            for item in found
        ]
        print_table(("", "id", "title", "model"), rows)
    else:
        for item in found:
            click.echo("\t".join(one_line(text) for text in (item.id, item.model, item.title)))


@conversations.command(short_help="Show the messages of a conversation.")
@_id
@url_option
@click.option("--raw", is_flag=True, help="Do not render Markdown in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list of messages.")
def show(number: str, base_url: str | None, raw: bool, as_json: bool) -> None:
    """Show the messages: as Markdown, or as JSON in the form that `chat()` accepts."""
    with _resumed(base_url, number) as (_, conversation):
        text = format_messages(conversation.history(), as_json=as_json)
    if as_json:
        click.echo(text, nl=False)
        return
    with new_screen(raw=raw) as screen:
        screen.show(text.removesuffix("\n"))


@conversations.command(short_help="Rename a conversation.")
@click.argument("number", metavar="ID")
@click.argument("title")
@url_option
def rename(number: str, title: str, base_url: str | None) -> None:
    """Rename a conversation. TITLE has 1 to 100 characters."""
    with _resumed(base_url, number) as (_, conversation), wrong_use():
        conversation.rename(title)


@conversations.command(short_help="Publish a conversation and show its URL.")
@_id
@url_option
def share(number: str, base_url: str | None) -> None:
    """Publish the current messages, and show the URL: anyone with it can read them."""
    with _resumed(base_url, number) as (_, conversation):
        click.echo(one_line(conversation.share()))


@conversations.command(short_help="Delete some or all conversations.")
@click.argument("numbers", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Delete all conversations of the session.")
@click.option("--yes", is_flag=True, help="Do not ask to confirm --all.")
@url_option
def delete(numbers: tuple[str, ...], everything: bool, yes: bool, base_url: str | None) -> None:
    """Delete the given conversations, or --all. Shared pages stay."""
    if everything == bool(numbers):
        raise click.UsageError("give either ids (or `last`), or --all")
    if everything:
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("without a terminal, --all must be confirmed with --yes")
            click.confirm("Delete all conversations of this session?", abort=True, err=True)
        with connected(base_url, saved=True) as client:
            if state.load(client.base_url).session is not None:
                client.delete_conversations()
                _forget(client, None)
        return
    for number in numbers:
        with _resumed(base_url, number) as (client, conversation):
            conversation.delete()
            _forget(client, conversation.id)


@contextmanager
def _resumed(base_url: str | None, number: str) -> "Generator[tuple[H2oClient, Conversation]]":
    """Resume a conversation of the saved session.

    Raises:
        click.UsageError: the conversation does not exist, or the id is not valid.
    """
    with connected(base_url, saved=True) as client:
        number = state.find_conversation(client.base_url, number)
        with wrong_use():
            conversation = client.conversation(id=number)
        yield client, conversation


def _forget(client: "H2oClient", number: str | None) -> None:
    """Forget the last conversation, if it is this one or `number` is None."""
    saved = state.load(client.base_url)
    if number in (None, saved.conversation):
        state.save(client.base_url, state.Saved(saved.session, None, saved.dialect))
