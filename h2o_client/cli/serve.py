"""`h2o-client serve`: the emulator, as a server for experiments, or with a model behind it."""

import ipaddress
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from h2o_client.cli.environment import explained
from h2o_client.cli.local import ENGINES, dialect_option, make_emulator, running
from h2o_client.cli.outcome import PROGRAM, MissingExtraError, debug_option, suggest_doctor
from h2o_client.safe_text import printable

if TYPE_CHECKING:
    from h2o_client.bridge import ChatUiEngine
    from h2o_client.emulator import Emulator

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(short_help="Run the emulator (a local server) until Ctrl-C.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 picks a free one.",
)
@click.option(
    "--engine",
    metavar="ENGINE",
    help=f"The source of answers: {ENGINES}.  [default: rote, a few scripted sentences]",
)
@dialect_option
@click.option(
    "--api",
    type=click.Choice(("chat-ui", "openai")),
    default="chat-ui",
    show_default=True,
    help="The API to serve: chat-ui (see --dialect), or OpenAI's, for any OpenAI client.",
)
@click.option(
    "--upstream",
    metavar="URL",
    help="With --api openai: forward requests to the chat-ui server at this URL.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=ENGINE",
    help="Offer a model under this name; repeat it for several, the default one first.",
)
@click.option(
    "--list",
    "only_list",
    is_flag=True,
    help="Show the models and their prompt templates, and exit.",
)
@click.option(
    "--pace",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="Seconds between tokens, unless a real model sets the pace.",
)
@click.option(
    "--token",
    envvar="H2O_CHAT_TOKEN",
    metavar="TEXT",
    help="Require this bearer token.  [env: $H2O_CHAT_TOKEN]",
)
@click.option(
    "--max-generations",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="The maximum number of concurrent answers; more are rejected.",
)
@click.option(
    "--record", type=FOLDER, metavar="DIR", help="Record all exchanges and prompts in this folder."
)
@click.option(
    "--replay", type=FOLDER, metavar="DIR", help="Answer from exchanges recorded in this folder."
)
@debug_option
def serve(
    host: str,
    port: int,
    engine: str | None,
    dialect: str,
    api: str,
    upstream: str | None,
    models: tuple[str, ...],
    only_list: bool,
    pace: float,
    token: str | None,
    max_generations: int,
    record: Path | None,
    replay: Path | None,
) -> None:
    """Run the emulator, a local server with the same protocol, until Ctrl-C.

    With an engine it is a small chat service with a real model behind it: a
    text-generation-inference server (tgi:URL), any OpenAI-compatible server (openai:URL[#model],
    with the key in $OPENAI_API_KEY), or a model in this process (transformers:NAME_OR_PATH, such
    as transformers:h2oai/h2o-danube3-500m-chat).

    With --api openai it serves /v1/models and /v1/chat/completions; with --upstream URL a chat-ui
    server answers them. With --token, clients must send the token as their key.
    """
    if not token and not _is_loopback(host) and not only_list:
        raise click.UsageError(f"other machines can reach {host}: add --token")
    if engine and models:
        raise click.UsageError("--engine and --model cannot be combined")
    if replay and (engine or models):
        raise click.UsageError("--replay cannot be combined with --engine or --model")
    if replay and record and replay.resolve() == record.resolve():
        raise click.UsageError("--record and --replay need different folders")
    openai = api == "openai"
    if (openai or upstream) and (record or replay):
        raise click.UsageError("--record and --replay work only with --api chat-ui")
    if upstream and (engine or models or not openai):
        raise click.UsageError(
            "--upstream needs --api openai, and cannot be combined with --engine or --model"
        )
    named = _named(models)
    options: dict[str, Any] = {"models": named} if named else {"engine": engine}
    if upstream:
        options = {"models": _upstream_models(upstream)}
    emulator = make_emulator(
        host=host,
        port=port,
        pace=pace,
        token=token or None,
        max_generations=max_generations,
        dialect="openai" if openai else dialect,
        record=None if only_list else record,
        replay=replay,
        **options,
    )
    if only_list:
        _list(emulator, named, engine or ("upstream" if upstream else "rote"))
        return
    try:
        with running(emulator, host, port):
            if openai:
                _tell_openai(emulator, _name_key(given=bool(token)))
            else:
                _tell(emulator.url, next(iter(named), None), with_token=bool(token))
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:  # and SIGTERM: this is how the command ends
        click.echo("\nstopped", err=True)


def _named(models: tuple[str, ...]) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in models:
        name, equals, engine = text.partition("=")
        if not (name and equals and engine):
            # The error does not repeat the text, which may contain a password.
            raise click.UsageError(f"--model must be NAME=ENGINE, where ENGINE is {ENGINES}")
        if name in named:
            raise click.UsageError(f"--model {name!r} is given twice")
        named[name] = engine
    return named


def _upstream_models(url: str) -> "dict[str, ChatUiEngine]":
    """Return an engine for each model of a chat-ui server."""
    try:
        from h2o_client import H2oClient
        from h2o_client.bridge import upstream
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or "a package").partition(".")[0]) from None
    try:
        with explained():
            with H2oClient(url) as client:
                suggest_doctor(client.base_url)
            return upstream(url)
    except ValueError as error:
        raise click.UsageError(f"--upstream: {error}") from error


def _list(emulator: "Emulator", named: dict[str, str], engine: str) -> None:
    from h2o_client.emulator import EngineError

    try:
        templates = emulator.templates
    except EngineError as error:
        raise OSError(str(error)) from error
    for name, template in templates.items():
        spec = re.sub(r"(?<=//)[^/?#]*@|\?[^#]*", "", named.get(name, engine))  # no passwords
        click.echo(f"{name}  ({spec})")
        for line in template.splitlines():
            click.echo(f"    {printable(line)}")


def _tell(url: str, model: str | None, *, with_token: bool) -> None:
    environment = "H2O_CHAT_TOKEN=… " if with_token else ""
    environment += f"H2O_CHAT_URL={url}"
    environment += f" H2O_CHAT_MODEL={model}" if model else ""
    click.echo(f"The emulator is at {url} (Ctrl-C stops it). In another terminal:\n")
    click.echo(f'    {environment} {PROGRAM} chat "Hello"')


def _name_key(*, given: bool) -> str:
    """Return a description of the key for OpenAI's API."""
    if not given:
        return "any text"
    source = click.get_current_context().get_parameter_source("token")
    from_environment = source is ParameterSource.ENVIRONMENT
    return "the value of $H2O_CHAT_TOKEN" if from_environment else "the --token"


def _tell_openai(emulator: "Emulator", key: str) -> None:
    click.echo(f"OpenAI's API is at {emulator.url}/v1 (Ctrl-C stops it). For OpenAI clients:\n")
    click.echo(f"    OPENAI_BASE_URL={emulator.url}/v1 OPENAI_API_KEY=…\n")
    click.echo(f"The key is {key}. The models:\n")
    for name in emulator.templates:
        click.echo(f"    {printable(name)}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
