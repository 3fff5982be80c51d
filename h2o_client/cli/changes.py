"""Detects changes in the input of `h2o-client batch` since an earlier run.

A prompt is identified by its key (its id, or the number of its line), or else by its text: if lines
were added or deleted, the lines after them have other numbers.
"""

from collections import defaultdict
from collections.abc import Mapping

import click

from h2o_client.cli.items import name_all
from h2o_client.cli.journal import Journal


def follow_changes(now: Mapping[str, str], journal: Journal, *, accept: bool) -> None:
    """Update the keys of the prompts in the journal, and remove prompts that no longer exist.

    Args:
        now: the digest of each prompt in the input, by its key.
        journal: the journal of the earlier run.
        accept: whether answered prompts may be deleted or changed.

    Raises:
        click.UsageError: an answered prompt was deleted or changed, and `accept` is False.
    """
    before = journal.digests()
    rest = {key: digest for key, digest in before.items() if now.get(key) != digest}
    by_digest: defaultdict[str, list[str]] = defaultdict(list)
    for key, digest in reversed(rest.items()):
        by_digest[digest].append(key)
    moved: dict[str, str] = {}
    for key, digest in now.items():
        if before.get(key) != digest and by_digest[digest]:
            moved[by_digest[digest].pop()] = key
    gone = [key for key in rest if key not in moved]
    lost = [key for key in gone if journal.is_answered(key)]
    if lost and not accept:
        new = now.keys() - moved.values()
        changed = [key for key in lost if key in new]
        deleted = [key for key in lost if key not in new]
        told = [
            f"{_name(keys)} {'was' if len(keys) == 1 else 'were'} {what}"
            for keys, what in ((changed, "changed"), (deleted, "deleted"))
            if keys
        ]
        raise click.UsageError(
            f"{', '.join(told)} after the answer was received: --accept-changes discards these "
            "answers and sends the new prompts; or name another output"
        )
    journal.rename(moved, gone)


def _name(keys: list[str]) -> str:
    """Return the lines and ids of prompts as text."""
    lines = sorted(int(key.removeprefix("line:")) for key in keys if key.startswith("line:"))
    ids = [key.removeprefix("id:") for key in keys if key.startswith("id:")]
    named = (name_all(noun, names) for noun, names in (("line", lines), ("id", ids)) if names)
    return " and ".join(named)
