"""Tables in a terminal."""

from collections.abc import Iterable, Sequence

from h2o_client.safe_text import one_line


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal allows.

    Args:
        head: what each column holds.
        rows: the rows; a server's text may be in them.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    Console(highlight=False, markup=False, emoji=False).print(table)
