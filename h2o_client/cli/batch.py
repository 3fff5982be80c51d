"""`h2o-client batch`: a file of prompts, and a file of their answers in the same order.

The state of a run is in a journal beside the output (see `journal.py`). The same command resumes
where the last run ended, and also answers prompts that were added since. An output without a
journal is never changed. If the output is stdout, the journal is temporary.
"""

import os
import shutil
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from h2o_client import Retries
from h2o_client.cli.items import Item, check_items, name_all, read_items
from h2o_client.cli.journal import Journal
from h2o_client.cli.outcome import describe_error
from h2o_client.cli.server import connected, model_option, param_option, url_option, wrong_use
from h2o_client.safe_text import to_json

if TYPE_CHECKING:
    from h2o_client import BatchResult, H2oClient

_EVERY = 10.0  # seconds between progress lines, if stderr is not a terminal


@click.command(short_help="Send all prompts of a file.")
@click.argument("prompts", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    required=True,
    help="The file for the answers, one JSON object per line; - is stdout.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="How many prompts are sent at once.",
)
@model_option
@param_option
@click.option("--retry-failed", is_flag=True, help="Send failed prompts again.")
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Discard the answers to lines that were deleted or changed.",
)
@url_option
@click.pass_context
def batch(
    ctx: click.Context,
    prompts: str,
    output: str,
    concurrency: int,
    model: str | None,
    params: dict[str, Any],
    retry_failed: bool,
    accept_changes: bool,
    base_url: str | None,
) -> None:
    """Send all prompts of the file PROMPTS, and write the answers in the same order.

    Each line is the text of a prompt, or a JSON object with "prompt" or "messages", and optionally
    "id", "model" and "parameters". Each line of the output has the "id", or else the number of the
    "line", and either "text", "model", "finish_reason", "generated_tokens" and "recovered", or an
    "error". If PROMPTS is -, the prompts are read from stdin.

    If it is interrupted or killed, the same command resumes it: answers are not lost, and prompts
    are not sent twice. If lines were added to PROMPTS, only these are sent. The journal for that is
    beside the output; until all prompts are answered it contains the session, so keep it private.
    A run with the output on stdout cannot be resumed.

    The exit status is 1 if a prompt failed.
    """
    temporary: AbstractContextManager[str] = nullcontext("")
    if "-" in (prompts, output):
        temporary = tempfile.TemporaryDirectory(prefix="h2o-client-")
    with temporary as folder:
        source, target = Path(prompts), Path(output)
        if prompts == "-":
            source = Path(folder, "prompts")
            with source.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
        to_stdout = output == "-"
        if to_stdout:
            target = Path(folder, "answers")
        run = _Run(source, target, to_stdout, concurrency, model, params, base_url)
        failed = run(retry_failed=retry_failed, accept_changes=accept_changes)
    if failed:
        again = "" if to_stdout else "; --retry-failed sends them again"
        click.echo(f"{failed} failed{again}", err=True)
        ctx.exit(1)


@dataclass
class _Run:
    """One run over the prompts.

    Attributes:
        prompts: the file of the prompts.
        output: the file of the answers.
        to_stdout: whether the answers are copied to stdout at the end.
    """

    prompts: Path
    output: Path
    to_stdout: bool
    concurrency: int
    model: str | None
    params: dict[str, Any]
    base_url: str | None

    def __call__(self, *, retry_failed: bool, accept_changes: bool) -> int:
        """Send the prompts, and write the answers; return how many failed."""
        from h2o_client.cli.changes import follow_changes
        from h2o_client.cli.journalled_batch import delete_leftovers

        path = self.output.with_name(f"{self.output.name}.journal")
        if self.output.exists() and self.output.samefile(self.prompts):
            raise click.UsageError(
                f"PROMPTS and -o are the same file, {self.output}: name another output"
            )
        if self.output.exists() and not path.exists():
            raise click.UsageError(
                f"{self.output} exists already, and has no journal: name another output, or "
                "remove it"
            )
        with connected(self.base_url, model=self.model) as client:  # sends nothing
            common = {"server": client.base_url, "model": client.model, "parameters": self.params}
            with wrong_use():
                client.stream("?", **self.params)
        digests, empty = check_items(self.prompts, self.prompts.suffix)
        if not digests:
            raise click.UsageError("PROMPTS has no prompts")
        if empty:
            count = "is" if len(empty) == 1 else "are"
            click.echo(f"{name_all('line', empty)} {count} empty and skipped", err=True)
        progress = Progress(len(digests))
        with Journal(path, common) as journal:
            follow_changes(digests, journal, accept=accept_changes)
            wanted = self._compare(journal, progress, retry_failed=retry_failed)
            if wanted or (journal.owns_session and journal.session):
                options: dict[str, Any] = {"session": journal.session, "retries": Retries()}
                with connected(self.base_url, model=self.model, **options) as client:
                    delete_leftovers(client, journal)
                    if wanted:
                        self._send(client, wanted, journal, progress)
            if not wanted:
                written = "" if self.output.exists() else f"; the answers are taken from {path}"
                done = f"{progress.answered} of {progress.total} are answered"
                click.echo(f"{done}: nothing to send{written}", err=True)
            return self._write(journal)

    def _compare(self, journal: Journal, progress: "Progress", *, retry_failed: bool) -> set[str]:
        """Return the keys of the prompts to send."""
        wanted: set[str] = set()
        for item in read_items(self.prompts):
            entry = journal.find(item.key)
            state = None if entry is None else entry.state
            if state == "answered":
                progress.answered += 1
            elif state == "failed" and not retry_failed:
                progress.failed += 1
            else:
                wanted.add(item.key)
        return wanted

    def _send(
        self, client: "H2oClient", wanted: set[str], journal: Journal, progress: "Progress"
    ) -> None:
        """Send the requested items, and store their outcomes in the journal."""
        from h2o_client.cli.journalled_batch import JournalledBatch, delete_leftovers

        journal.note_session(client.session)
        results = JournalledBatch(
            client,
            (item for item in read_items(self.prompts) if item.key in wanted),
            journal,
            on_pause=progress.pause,
            concurrency=self.concurrency,
            **self.params,
        )
        try:
            with progress, results:
                try:
                    for result in results:
                        item: Item = result.prompt
                        if isinstance(result.error, OSError):  # writing the journal failed
                            raise result.error
                        if result.error is not None:
                            found = describe_error(result.error).items()
                            error = {
                                name: value for name, value in found if value or name == "message"
                            }
                            journal.failed(item.key, item.digest, error)
                        progress.show(result)
                except KeyboardInterrupt:
                    progress.stopping = True
                    raise
        except KeyboardInterrupt:
            self._end_early(journal, progress)
            raise
        delete_leftovers(client, journal)

    def _end_early(self, journal: Journal, progress: "Progress") -> None:
        """Report an interruption; write the answers if they go to stdout."""
        if self.to_stdout:
            self._write(journal)
        kept = "written" if self.to_stdout else "kept; the same command resumes"
        done = f"{progress.answered} of {progress.total}"
        click.echo(f"interrupted: {done} are answered and {kept}", err=True)

    def _write(self, journal: Journal) -> int:
        """Write the outcomes of the items, in their order; return how many failed."""
        failed = 0
        new = self.output.with_name(f"{self.output.name}.new")
        # An unpaired surrogate cannot be encoded; its backslash escape is valid JSON.
        with new.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            for item in read_items(self.prompts):
                entry = journal.find(item.key)
                if entry is None or not entry.outcome:  # interrupted
                    continue
                failed += entry.state == "failed"
                name = {"line": item.number} if item.id is None else {"id": item.id}
                file.write(to_json({**name, **entry.outcome}, ascii_only=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.output)
        _sync_directory(self.output.parent)
        if self.to_stdout:
            click.echo(self.output.read_bytes(), nl=False)
        return failed


def _sync_directory(path: Path) -> None:
    """Sync a directory, so that renamed and removed files survive a power failure."""
    if sys.platform == "win32":
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Progress:
    """Shows the progress on stderr: a bar in a terminal, otherwise a line from time to time.

    Args:
        total: the number of prompts.

    Attributes:
        total: the number of prompts.
        answered: the number of answered prompts.
        failed: the number of failed prompts.
        stopping: whether the batch was interrupted, and running prompts are being stopped.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.answered = self.failed = 0
        self.stopping = False
        self._earlier = self._tokens = 0  # done before this run; tokens of this run
        self._begun = self._shown = self._until = time.monotonic()
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
                def render(self, task: Task) -> Text:  # noqa: ARG002 -- rich's interface
                    return Text(line())

            # A short bar, so that the text fits beside it in 80 columns.
            self._bar = Progress(
                BarColumn(bar_width=20), Words(), console=Console(stderr=True), transient=True
            )
            self._task = self._bar.add_task("", total=self.total, completed=self._earlier)
            self._bar.start()
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if exc_type is None:
            click.echo(self.line(), err=True)

    def show(self, result: "BatchResult") -> None:
        """Count another result and show the progress."""
        self.failed += result.error is not None
        self.answered += result.error is None
        if result.reply is not None:
            self._tokens += result.reply.generated_tokens
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.answered + self.failed)
        elif now - self._shown >= _EVERY:
            self._shown = now
            click.echo(self.line(), err=True)

    def pause(self, seconds: float) -> None:
        """Show that all prompts pause for the service's rate limit."""
        self._until = time.monotonic() + seconds
        if self._bar is None:
            click.echo(self.line(), err=True)

    def line(self) -> str:
        """Return the progress as text."""
        seconds = max(time.monotonic() - self._begun, 0.001)
        done = self.answered + self.failed
        parts = [f"{done} of {self.total} done", f"{self.failed} failed"]
        pause = self._until - time.monotonic()
        if self.stopping:
            parts.append("stopping the running prompts")
        elif pause > 0:
            parts.append(f"paused by the service's rate limit for {pause:.0f} s")
        elif done > self._earlier:  # in this run
            parts.append(f"{self._tokens / seconds:.1f} tokens/s")
            left = round(seconds / (done - self._earlier) * (self.total - done))
            if left:
                hours, minutes = divmod(left // 60, 60)
                parts.append(f"{hours}:{minutes:02}:{left % 60:02} left")
        return ", ".join(parts)
