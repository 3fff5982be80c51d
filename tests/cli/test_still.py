"""The terminal picture in the README matches the command's output."""

import html
import io
import re
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
from command import InTerminal
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from screen import Screen

from h2o_client.emulator import Emulator

STILL = Path(__file__).parents[2] / "docs" / "manual" / "terminal.svg"
WIDTH, HEIGHT = 84, 40
PROMPT = "How do I list the files of a folder in Python?"
ANSWER = """Use `pathlib`:

```python
from pathlib import Path

for path in sorted(Path(".").iterdir()):
    print(path.name)
```

- `iterdir()` gives **all entries**, folders too.
- `glob("*.txt")` gives those that match a *pattern*.

| method | descends into folders |
|---|---|
| `iterdir()` | no |
| `rglob("*")` | yes |
"""


def picture(screen: Screen) -> str:
    """Return an SVG of a terminal's display, including the typed command."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f'$ h2o-client "{PROMPT}"'), highlight=False)
    for row in screen.cells:
        line = ""
        for style, cells in groupby(row, key=itemgetter(1)):
            text = "".join(character for character, _ in cells)
            line += f"\x1b[{style.strip(';')}m{text}\x1b[0m" if style else text
        console.print(Text.from_ansi(line), highlight=False)
    svg = console.export_svg(title="h2o-client", theme=MONOKAI, unique_id="still")
    # No third-party fonts; the reader's own are used.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def texts(svg: str) -> list[str]:
    """Return the pieces of text in a picture, one for each style in a line.

    Lines of tables are left out, as versions of rich draw them differently.
    """
    found = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    pieces = (html.unescape(item).strip("\xa0 ─━") for item in found)
    return [piece for piece in pieces if piece]


def test_terminal_picture_is_up_to_date(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.reply(ANSWER)
    terminal = InTerminal(monkeypatch, "--base-url", server.url)
    looks = {"COLUMNS": str(WIDTH), "LINES": str(HEIGHT), "COLORTERM": "truecolor"}

    assert terminal(PROMPT, env=looks) == 0

    screen = Screen(HEIGHT, WIDTH)
    screen.feed(terminal.raw)
    new = tmp_path / STILL.name
    new.write_text(picture(screen), "utf-8")
    kept = STILL.read_text("utf-8") if STILL.exists() else ""
    assert texts(kept) == texts(new.read_text("utf-8")), f"copy {new} over {STILL}"
