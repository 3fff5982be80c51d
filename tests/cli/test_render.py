"""Terminal rendering: complete answers in Markdown, and notices about waiting."""

import io
import itertools
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from command import Terminal
from rich.console import Console
from rich.markdown import Markdown
from screen import Screen as AnyTerminal

from h2o_client import OverloadedError, Retry
from h2o_client._client.http import AMBIENT
from h2o_client.cli import render
from h2o_client.cli.markdown import Block
from h2o_client.cli.render import MarkdownScreen, Screen
from h2o_client.cli.server import connected


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Make stdout and stderr one terminal with 40 columns; pytest replaces both before the test."""

    def begin() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.setenv("LINES", "20")
        return terminal

    return begin


def shown(text: str, width: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(Block(text))
    return captured.get()


# Nothing is omitted


def test_html_is_shown_as_text() -> None:
    text = "Use <div> and <kbd>x</kbd>, or `<b>`.\n\n<p>block</p>\n\n<!-- not seen in a browser -->"
    for part in ("<div>", "<kbd>x</kbd>", "<b>", "<p>block</p>", "<!-- not seen in a browser"):
        assert part in shown(text)


def test_image_shows_its_url() -> None:
    assert "!cat (http://example.com/x.png)" in shown("![cat](http://example.com/x.png)", 80)


@pytest.mark.parametrize("cell", ["とても長いセルの内容がここに入ります", "a" * 60])
def test_narrow_table_columns_lose_no_text(cell: str) -> None:
    found = shown(f"| 1 | 2 |\n|---|---|\n| 3 | {cell} |\n", 20)
    assert "".join(character for character in found if character in cell) == cell


def test_wide_and_combining_characters_wrap_by_width() -> None:
    lines = shown("日本語の文章がここにあります。e\u0301e\u0301" * 3, 21).splitlines()
    assert all(len(line.replace("e\u0301", "")) * 2 <= 20 for line in lines)
    assert "".join(lines).count("日") == 3


# Answers in pieces


VERSE = "Roses are red,\nViolets are blue,\n\n> Quoted\n> verse\n\n```\none\ntwo\n```\n\n- a\n  b\n"
SAMPLE = """\
# Title

A paragraph with **bold** words, `code`, [a link](http://example.com/x), and enough to be wrapped.

## Lists

1. One
2. Two

   ```python
   in_a_list = True
   ```

- a
    - b

* another list

```python
def double(n):

    return 2 * n
```

| left | right |
|------|------:|
| 1    | 2     |

---

- after a rule

---

After a rule.

> Quoted, with a list:
>
> - x
> - y

    indented code

Setext
------

~~~
not closed
"""
TRAPS = """\
See [this][1] and #2:
#2 is not a heading
-5 is not a list
1986. Nor is this.
| a | b |
|---|---|
| <kbd> | &amp; |
-
- x

  y
lazy

[1]: http://example.com/1

 > q
```html
<p>
```
***
日本語の文章がここにあります。
日本
"""


def at_once(text: str) -> AnyTerminal:
    """Render a text in one piece; return what a terminal shows."""
    terminal = AnyTerminal(20, 40)
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system="256")
    with console.capture() as captured:
        console.print(Block(text))
    terminal.feed(captured.get())
    return terminal


def in_pieces(pieces: Iterable[str], begin: Callable[[], Terminal]) -> AnyTerminal:
    stream = begin()
    with MarkdownScreen() as answer:
        for piece in pieces:
            answer.show(piece)
    terminal = AnyTerminal(20, 40)
    terminal.feed(stream.getvalue())
    return terminal


def chunkings(text: str, count: int) -> Iterator[list[str]]:
    """Yield the text whole, by lines, by characters, and cut at random places."""
    yield [text]
    yield text.splitlines(keepends=True)
    yield list(text)
    chance = random.Random(text)
    for _ in range(count):
        cuts = sorted(chance.sample(range(len(text)), chance.randrange(1, len(text) // 2)))
        yield [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("text", [VERSE, SAMPLE, TRAPS])
def test_final_screen_does_not_depend_on_the_pieces(
    screen: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.setattr(render, "_RATE", 100)  # draws intermediate states
    expected = at_once(text)
    for pieces in chunkings(text, count):
        found = in_pieces(pieces, screen)
        assert (found.cells, found.count) == (expected.cells, expected.count)


LINES = [
    "# h",
    "para",
    "- a",
    "  - b",
    "1. one",
    "10. ten",
    "> q",
    "> - x",
    "> ```",
    "```",
    "~~~",
    "| a | b |",
    "|---|---|",
    "---",
    "===",
    "#tag",
    "-",
    "*",
    "",
    "   x",
    "b\\",
    "[a]: http://x",
    "[a]",
    "<p>",
    "**bo",
    "ld**",
    "`c",
    "d`",
    "- - x",
    "more words than a line of this terminal holds",
    "",
]


@pytest.mark.long
def test_final_screen_is_the_same_for_any_text(screen: Callable[[], Terminal]) -> None:
    chance = random.Random(15)
    for _ in range(300):
        text = "\n".join(chance.choices([*LINES, "a  ", "  "], k=chance.randrange(1, 12)))
        assert in_pieces(text, screen).cells == at_once(text).cells


def test_complete_answer_looks_like_rich_markdown() -> None:
    console = Console(file=io.StringIO(), width=40)
    with console.capture() as captured:
        console.print(Markdown(SAMPLE, hyperlinks=False))
    assert at_once(SAMPLE).lines == [line.rstrip() for line in captured.get().splitlines()]


def test_line_breaks_are_kept() -> None:
    lines = at_once(VERSE).lines
    assert lines[:5] == ["Roses are red,", "Violets are blue,", "", "▌ Quoted", "▌ verse"]
    assert [line.strip() for line in lines[5:]] == ["", "", "one", "two", "", "", "• a", "b"]


def test_link_definition_is_shown(screen: Callable[[], Terminal]) -> None:
    """It may arrive last, after the text that refers to it is final."""
    lines = in_pieces(TRAPS, screen).lines
    assert "See [this][1] and #2:" in lines
    assert "[1]: http://example.com/1" in lines


# Hanging indents


def test_hanging_text_wraps_beside_its_label(screen: Callable[[], Terminal]) -> None:
    terminal = screen()
    render.show_hanging("/model   ", "NAME: begin a new conversation with it", colour="green")
    assert terminal.getvalue() == (
        "\x1b[32m/model   \x1b[0mNAME: begin a new conversation\n         with it\n"
    )


def test_hanging_text_is_not_wrapped_without_room(screen: Callable[[], Terminal]) -> None:
    terminal = screen()
    render.show_hanging("x" * 30, "text that is longer than the rest of it")
    assert terminal.getvalue() == f"{'x' * 30}text that is longer than the rest of it\n"


def test_hanging_text_is_not_wrapped_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    render.show_hanging("head ", "text that is longer than the rest of it")
    assert capsys.readouterr().out == "head text that is longer than the rest of it\n"


# Silence


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report silence immediately."""
    monkeypatch.setattr(render, "_SILENCE", 0.0)
    monkeypatch.setattr(render, "_RATE", 200)


def until(screen: Terminal, pattern: str) -> None:
    end = time.monotonic() + 5
    while not re.search(pattern, screen.getvalue()):
        assert time.monotonic() < end, screen.getvalue()
        time.sleep(0.005)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", [Screen, MarkdownScreen])
def test_silence_is_reported(
    screen: Callable[[], Terminal], kind: type[Screen | MarkdownScreen]
) -> None:
    terminal = screen()
    with kind() as answer:
        until(terminal, r"no answer for \d+ s")
        answer.show(" It is")
        until(terminal, r"nothing more for \d+ s")
        answer.show(" here.")
    assert "here." in terminal.getvalue().rpartition("waiting")[2]


@pytest.mark.usefixtures("soon")
def test_each_silence_is_reported_once_on_its_own_line(screen: Callable[[], Terminal]) -> None:
    terminal = screen()
    told = r"\x1b\[2mnothing more for \d s: waiting \(Ctrl-C s…\x1b\[0m\n"
    with Screen() as answer:
        answer.show(" One,")
        until(terminal, f"One,\n{told}")
        time.sleep(0.03)  # six checks
        answer.show(" two")
        until(terminal, f" two\n{told}")
    assert len(re.findall(told, terminal.getvalue())) == 2


@pytest.mark.parametrize("kind", [Screen, MarkdownScreen])
def test_retry_is_reported(
    screen: Callable[[], Terminal], kind: type[Screen | MarkdownScreen]
) -> None:
    terminal = screen()
    retry = Retry(attempt=1, delay=0.25, error=OverloadedError("no room\nfor now"))
    with kind() as answer:
        answer.show(" Half")
        render.show_retry(retry)
        until(terminal, "trying again in 0.2 s: no room for")
        answer.show(" of it.")
    assert "of it." in terminal.getvalue().rpartition("trying")[2]
    render.show_retry(retry)
    assert "trying again" in terminal.getvalue().splitlines()[-1]


def test_reason_for_waiting_is_shown(
    screen: Callable[[], Terminal], caplog: pytest.LogCaptureFixture
) -> None:
    terminal = screen()
    with connected("http://127.0.0.1:1"):
        caplog.set_level("INFO", "h2o_client")
        AMBIENT.wait("waiting until something is there")
        AMBIENT.note("not for the terminal")
    AMBIENT.wait("nobody is there to read this")
    (line,) = terminal.getvalue().splitlines()
    assert "waiting until something is there" in line
    assert len(caplog.records) == 3


@pytest.mark.usefixtures("soon")
def test_pipe_gets_only_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as answer:
        answer.show(" One")
        time.sleep(0.03)
        answer.note("something")
        answer.show(" two")
    assert capsys.readouterr() == ("One two\n", "")


# Answers of 2025 servers


def test_reasoning_is_dim(screen: Callable[[], Terminal]) -> None:
    terminal = screen()
    with Screen() as shown:
        for text in (" <think>Let", " me see.", "</think>", "Four."):
            shown.show(text)
    found = terminal.getvalue()
    assert "\x1b[2m<think>Let\x1b[0m\x1b[2m me see.\x1b[0m\x1b[2m</think>\x1b[0mFour." in found


@pytest.mark.parametrize("text", ["<think>a < b </th</think>c", "<thi", "<think>a</th", " <b>"])
def test_reasoning_is_dim_for_any_token_boundaries(
    screen: Callable[[], Terminal], text: str
) -> None:
    found = []
    for pieces in chunkings(text, 5):
        stream = screen()
        with Screen() as shown:
            for piece in pieces:
                shown.show(piece)
        found.append(AnyTerminal(20, 40))
        found[-1].feed(stream.getvalue())
    assert found[0].lines == [text.removeprefix(" ")]
    assert all(terminal.cells == found[0].cells for terminal in found)


def test_tags_later_in_an_answer_are_not_dim(screen: Callable[[], Terminal]) -> None:
    terminal = screen()
    with Screen() as shown:
        shown.show("Use <think> here.")
    assert "\x1b[2m" not in terminal.getvalue()


@pytest.mark.parametrize("kind", [Screen, MarkdownScreen])
def test_revised_answer_is_shown_whole(screen: Callable[[], Terminal], kind: type[Screen]) -> None:
    terminal = screen()
    with kind() as shown:
        shown.show("Hello! I am a")
        shown.show("Hello! I am")
        shown.revise("Hello! I am a stub.")
    last = terminal.getvalue().replace("\r", "").splitlines()[-1]
    assert last.endswith("Hello! I am a stub.")
    assert kind is MarkdownScreen or "restarted the answer" in terminal.getvalue()
