"""Emulates a terminal's display; it knows only the codes that rich writes."""

import re

from rich.cells import cell_len

_PARTS = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([\r\n])|(.)", re.DOTALL)
_MODES = {"?25l", "?25h", "?2004h", "?2004l", "?7h", "?7l"}  # they change nothing visible

Cell = tuple[str, str]


class Screen:
    """A terminal, including its scrollback.

    Args:
        height: the visible lines: the cursor cannot move above them.
        width: the number of columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self._height = height
        self._width = width
        self._rows: list[list[Cell]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def feed(self, text: str) -> None:
        for match in _PARTS.finditer(text):
            argument, code, control, character = match.groups()
            if code is not None:
                self._obey(argument, code)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._down()
            else:
                self._put(character)

    @property
    def cells(self) -> list[list[Cell]]:
        """All lines, without trailing blanks and trailing blank lines."""
        rows = [[*row] for row in self._rows]
        for row in rows:
            while row and row[-1] == (" ", ""):
                row.pop()
        while rows and not rows[-1]:
            rows.pop()
        return rows

    @property
    def count(self) -> int:
        """The number of lines including blank ones, which shows how far it has scrolled."""
        return len(self._rows)

    @property
    def lines(self) -> list[str]:
        """The text of the lines."""
        return ["".join(character for character, _ in row).rstrip() for row in self.cells]

    def _down(self) -> None:
        self._column = 0
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])

    def _put(self, character: str) -> None:
        size = cell_len(character)
        if self._column + size > self._width:
            self._down()
        row = self._rows[self._row]
        row += [(" ", "")] * (self._column + size - len(row))
        row[self._column : self._column + size] = [(character, self._style), *[("", "")]][:size]
        self._column += size

    def _obey(self, argument: str, code: str) -> None:
        if code == "m":
            self._style = "" if argument in ("", "0") else f"{self._style};{argument}"
        elif code == "A":
            top = max(0, len(self._rows) - self._height)
            self._row = max(top, self._row - int(argument or 1))
        elif code == "K":
            assert argument == "2"
            self._rows[self._row] = []
        else:
            assert argument + code in _MODES, f"this terminal does not know {argument + code!r}"
