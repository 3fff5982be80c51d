"""`h2o-client batch`: a file of prompts, and a file of their answers in the same order.

What is under way stands in a journal beside the output (see `journal.py`, which has its format).
While there is one, the same command goes on where the last one ended, however that was. It is
removed when all prompts are answered; an output without a journal is complete, and not touched.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from h2o_client import H2oError, Retries
from h2o_client.cli.journal import Journal, sync_directory
from h2o_client.cli.parameters import param_option
from h2o_client.cli.server import connected, url_option, wrong_use

if TYPE_CHECKING:
    from h2o_client import BatchResult, H2oClient
    from h2o_client.cli.asking import Item, Items

_EVERY = 10.0  # seconds between lines, where no terminal shows a bar


@click.command(short_help="Ask all prompts of a file.")
@click.argument("prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file for the answers, one JSON object in a line.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="How many prompts are asked at a time.",
)
@click.option("--model", metavar="NAME", help="The model.  [default: $H2O_CHAT_MODEL]")
@param_option
@click.option("--retry-failed", is_flag=True, help="Ask those again that have failed.")
@url_option
@click.pass_context
def batch(
    ctx: click.Context,
    prompts: Path,
    output: Path,
    concurrency: int,
    model: str | None,
    params: dict[str, Any],
    retry_failed: bool,
    base_url: str | None,
) -> None:
    """Ask all prompts of the file PROMPTS, and write the answers in the same order.

    A line of it is the text of a prompt, or a JSON object with "prompt" or "messages", and perhaps
    "id", "model" and "parameters". A line of the output has the "id", or else the number of the
    "line", and "text", "model", "finish_reason", "generated_tokens" and "recovered", or an "error".

    Interrupted or killed, the same command goes on where it was: no answer is lost, or asked for
    again. The journal for that is beside the output; it holds the session, so keep it to yourself.

    The exit status is 1 where a prompt has failed.
    """
    from h2o_client.cli.asking import Items

    items = Items(prompts)
    path = output.with_name(f"{output.name}.journal")
    if output.exists() and not path.exists():
        raise click.UsageError(f"{output} is there already: name another output, or remove it")
    with connected(base_url, model=model) as client:  # which sends nothing
        common = {"server": client.base_url, "model": client.model, "parameters": params}
        with wrong_use():
            client.stream("?", **params)
    progress = Progress(_check(items))
    with Journal(path, common) as journal:
        wanted = _compare(items, journal, progress, retry_failed=retry_failed)
        if wanted:
            options: dict[str, Any] = {"session": journal.session, "retries": Retries()}
            with connected(base_url, model=model, **options) as client:
                _ask(client, _Wanted(items, wanted), journal, progress, concurrency, params)
        failed = _write(output, items, journal)
    if failed:
        click.echo(f"{failed} failed: --retry-failed asks them again", err=True)
        ctx.exit(1)
    path.unlink()
    sync_directory(path.parent)


def _check(items: "Items") -> int:
    """Return how many prompts there are; no two have the same id.

    Raises:
        click.UsageError: two have.
    """
    seen: dict[str, int] = {}
    for item in items:
        if item.key in seen:
            raise click.UsageError(f"lines {seen[item.key]} and {item.number} have the same id")
        seen[item.key] = item.number
    return len(seen)


def _compare(
    items: "Items", journal: Journal, progress: "Progress", *, retry_failed: bool
) -> set[str]:
    """Return the keys of the prompts that are to be asked.

    Raises:
        click.UsageError: a prompt that was answered is another one now.
    """
    wanted: set[str] = set()
    for item in items:
        kind = journal.kind(item.key)
        if kind == "answer" and journal.entries[item.key].prompt != item.digest:
            raise click.UsageError(
                f"line {item.number} is not what was asked before: name another output"
            )
        if kind == "answer":
            progress.answered += 1
        elif kind == "error" and not retry_failed:
            progress.failed += 1
        else:
            wanted.add(item.key)
    return wanted


class _Wanted:
    """Those of the items that are to be asked."""

    def __init__(self, items: "Items", keys: set[str]) -> None:
        self._items = items
        self._keys = keys

    def __iter__(self) -> Iterator["Item"]:
        return (item for item in self._items if item.key in self._keys)


def _ask(
    client: "H2oClient",
    items: Iterable["Item"],
    journal: Journal,
    progress: "Progress",
    concurrency: int,
    params: dict[str, Any],
) -> None:
    """Ask the items; what comes of them is in the journal then."""
    from h2o_client.cli.asking import JournalledBatch, describe_error

    results = JournalledBatch(
        client, items, journal, on_pause=progress.pause, concurrency=concurrency, **params
    )
    try:
        with progress, results, progress.until_interrupted():
            for result in results:
                item: Item = result.prompt
                if isinstance(result.error, OSError):  # the journal: no answer could be kept
                    raise result.error
                if result.error is not None:
                    journal.failed(item.key, item.digest, describe_error(result.error))
                progress.show(result)
    except KeyboardInterrupt:
        click.echo(
            f"interrupted: {progress.answered} of {progress.total} are answered and kept; "
            "the same command goes on",
            err=True,
        )
        raise
    # The session is this batch's own: what a run that was killed left there, goes as well.
    if not journal.hopes:
        with contextlib.suppress(H2oError):
            client.delete_conversations()


def _write(output: Path, items: "Items", journal: Journal) -> int:
    """Write what came of all items, in their order; return how many failed."""
    failed = 0
    new = output.with_name(f"{output.name}.new")
    with new.open("w", encoding="utf-8", newline="\n") as file:
        for item in items:
            outcome = journal.outcome(item.key)
            failed += "error" in outcome
            name = {"line": item.number} if item.id is None else {"id": item.id}
            file.write(json.dumps({**name, **outcome}, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(output)
    sync_directory(output.parent)
    return failed


class Progress:
    """Shows on stderr how far it is: a bar in a terminal, else a line now and then.

    Args:
        total: how many prompts there are.

    Attributes:
        total: how many prompts there are.
        answered: how many are answered.
        failed: how many have failed.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.answered = self.failed = 0
        self._earlier = self._tokens = 0  # done before this run; tokens of this run
        self._begun = self._shown = self._until = time.monotonic()
        self._stopping = False
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        self._begun = self._shown = time.monotonic()
        self._earlier = self.answered + self.failed
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, ProgressColumn, Task
            from rich.text import Text

            line = self.line

            class Words(ProgressColumn):
                def render(self, task: Task) -> Text:  # noqa: ARG002 -- rich's
                    return Text(line())

            # With so short a bar the words stand beside it in 80 columns.
            self._bar = Progress(
                BarColumn(bar_width=20), Words(), console=Console(stderr=True), transient=True
            )
            self._task = self._bar.add_task("", total=self.total, completed=self._earlier)
            self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if exc is None:
            click.echo(self.line(), err=True)

    def show(self, result: "BatchResult") -> None:
        """Show that there is one more."""
        if result.error is not None:
            self.failed += 1
        else:
            self.answered += 1
        if result.reply is not None:
            self._tokens += result.reply.generated_tokens
        now = time.monotonic()
        if self._bar is not None:
            done = self.answered + self.failed
            self._bar.update(self._task, completed=done)
        elif now - self._shown >= _EVERY:
            self._shown = now
            click.echo(self.line(), err=True)

    @contextlib.contextmanager
    def until_interrupted(self) -> Generator[None]:
        """Show, when Ctrl-C ends the block, that what runs is being stopped: it takes its time."""
        try:
            yield
        except KeyboardInterrupt:
            self._stopping = True
            raise

    def pause(self, seconds: float) -> None:
        """Show that all pause for the service's limit, that many seconds."""
        self._until = time.monotonic() + seconds
        if self._bar is None:
            click.echo(self.line(), err=True)

    def line(self) -> str:
        """Return how far it is, in words."""
        seconds = max(time.monotonic() - self._begun, 0.001)
        done = self.answered + self.failed
        parts = [f"{done} of {self.total} done", f"{self.failed} failed"]
        if self._stopping:
            return f"{', '.join(parts)}, stopping what runs"
        if (pause := self._until - time.monotonic()) > 0:
            return f"{', '.join(parts)}, paused by the service's limit for {pause:.0f} s"
        if done > self._earlier:  # in this run
            parts.append(f"{self._tokens / seconds:.1f} tokens/s")
            left = round(seconds / (done - self._earlier) * (self.total - done))
            if left:
                hours, minutes = divmod(left // 60, 60)
                parts.append(f"{hours}:{minutes:02}:{left % 60:02} left")
        return ", ".join(parts)
