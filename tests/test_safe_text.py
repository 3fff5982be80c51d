"""Text from a server is harmless wherever it is shown: notebooks, JSON, terminals."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from attacks import ALL, CONTROLS, LINKS, MARKUP, TEX, UNSAFE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from h2o_client import safe_text
from h2o_client.safe_text import one_line, printable, to_html, to_html_table, to_json

LANGUAGE = re.compile(r"language-\S*")
ADDRESS = re.compile(r"(?i)https?://|mailto:")
ALIGNED = re.compile("text-align:(left|center|right)(; vertical-align:top; white-space:pre-wrap)?$")
TAGS = "p br hr em strong s blockquote ul li h1 h2 h3 h4 h5 h6 table thead tbody tr".split()  # noqa: SIM905 -- shorter
ALLOWED: dict[str, dict[str, re.Pattern[str]]] = {
    **{tag: {} for tag in TAGS},
    "code": {"class": LANGUAGE},
    "ol": {"start": re.compile(r"\d+")},
    "th": {"style": ALIGNED},
    "td": {"style": ALIGNED},
    "pre": {"style": re.compile("white-space: pre-wrap")},
    "div": {"class": re.compile("mathjax_ignore tex2jax_ignore")},
    "a": {"href": ADDRESS, "title": re.compile("")},
    "img": {"src": ADDRESS, "alt": re.compile(""), "title": re.compile("")},
}
EMPTY = {"br", "hr", "img"}
# Link titles and code languages are not shown.
IN_ATTRIBUTES = re.compile(r"\[a\]: |^(```|~~~)\S")


class Seen(HTMLParser):
    """Parses HTML, and fails on anything beyond Markdown's own elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert self.open or tag == "div"
        assert len(dict(attrs)) == len(attrs)
        for name, value in attrs:
            assert ALLOWED[tag][name].match(value or ""), (tag, name, value)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self.open, "text outside of the element that MathJax ignores"
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


def seen(html: str) -> str:
    """Return the visible text of HTML that may only contain Markdown's own elements."""
    assert not re.search(r"<(?![a-z/])", html)
    assert not UNSAFE & set(html)
    parser = Seen()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.text


# Notebooks


@pytest.mark.slow
def test_answer_renders_only_markdown_elements() -> None:
    for answer in ALL:
        assert seen(to_html(answer)).strip() or answer.startswith("!["), answer
        for end in range(len(answer)):  # as the answer grows
            seen(to_html(answer[:end], "stopped"))


def test_tags_are_shown_as_text() -> None:
    for answer in MARKUP:
        for tag in re.findall(r"<\w+[^<>\n]*>", answer) if not IN_ATTRIBUTES.search(answer) else ():
            assert printable(tag.replace("\0", "\ufffd")) in seen(to_html(answer)), answer


def test_only_web_links_are_rendered_as_links() -> None:
    for answer in LINKS:
        html = to_html(answer)
        for address in re.findall('(?:href|src)="([^"]*)"', html):
            assert address.startswith("http://x"), answer
        assert "click" not in answer or "click" in seen(html), answer


def test_tex_is_shown_as_written() -> None:
    for answer in TEX:
        html = to_html(answer)
        # Both classes make MathJax (3 and 2) skip the element.
        assert html.startswith('<div class="mathjax_ignore tex2jax_ignore">')
        assert html.endswith("</div>")
        assert answer.replace("\\\\", "\\") in seen(html)


def test_line_breaks_are_kept() -> None:
    html = to_html("Roses are red,\nViolets are blue,\n\n```\na\nb\n```\n\n<b>\n<i>")
    assert "<p>Roses are red,<br />\nViolets are blue,</p>" in html
    assert "<pre><code>a\nb\n</code></pre>" in html
    assert "<p>&lt;b&gt;<br />\n&lt;i&gt;</p>" in html


def test_markdown_is_rendered() -> None:
    answer = (
        "# A\n\n*b* **c** ~~d~~ `<e>`\nf\n\n1. g\n\n```html\n<i>\n```\n\n"
        "| h | i |\n|:--|--:|\n| j | k |\n\n"
        "[l](https://l/?a=1&b=2 'm') <https://n> <o@p.q> ![r](http://s/t.png)\n\n> u\n\n---\n"
    )
    html = to_html(answer)
    for part in (
        "<h1>A</h1>",
        "<em>b</em> <strong>c</strong> <s>d</s> <code>&lt;e&gt;</code><br />\nf",
        "<ol>\n<li>g</li>\n</ol>",
        '<code class="language-html">&lt;i&gt;\n</code>',
        '<td style="text-align:right">k</td>',
        '<a href="https://l/?a=1&amp;b=2" title="m">l</a>',
        '<a href="https://n">https://n</a>',
        '<a href="mailto:o@p.q">o@p.q</a>',
        '<img src="http://s/t.png" alt="r" />',
        "<blockquote>\n<p>u</p>\n</blockquote>\n<hr />",
    ):
        assert part in html
    seen(html)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (
            "<think>Let me</think>\n\nFour.",
            '<div style="opacity: 0.6"><p>Let me</p>\n</div><p>Four.',
        ),
        ("<think>Let me", '<div style="opacity: 0.6"><p>Let me</p>\n</div></div>'),
        ("Use <think>", "<p>Use &lt;think&gt;</p>"),
    ],
)
def test_reasoning_is_dim(text: str, html: str) -> None:
    assert html in to_html(text)


def test_status_mark_is_outside_of_open_code() -> None:
    assert to_html("```\nx", "<stopped>").endswith(
        "<pre><code>x</code></pre>\n<p><em>— &lt;stopped&gt;</em></p></div>"
    )


def test_very_long_answer_is_shown_as_text() -> None:
    text = "[<b>" * (safe_text.LONGEST // 4 + 1)
    html = to_html(text)
    assert "<pre" in html
    assert seen(html) == text


def test_table_cells_contain_only_text() -> None:
    for attack in [*ALL, CONTROLS]:
        html = to_html_table(["a", attack], [[attack, "b"], ["c", attack]])
        assert seen(html) == f"a{printable(attack) * 2}bc{printable(attack)}"


def test_answer_is_text_without_markdown_it_py() -> None:
    code = (
        "import sys\n"
        "sys.modules['markdown_it'] = None\n"
        "from h2o_client import Message\n"
        "html = Message(role='user', content='**a** <script>')._repr_html_()\n"
        "assert '**a** &lt;script&gt;</pre>' in html, html\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_markdown_parser_is_imported_lazily() -> None:
    code = (
        "import sys, h2o_client\n"
        "h2o_client.Message(role='user', content='a')\n"
        "assert not {'markdown_it', 'html'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


PIECES = st.sampled_from(
    [*ALL, *"<>&\"'`~*_[]()!\\/:#-|$ \n\t\0\x1b\u202e", "&#60;", "&lt", "<!--", "-->", "<a", "    "]
)


@pytest.mark.slow
@given(st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join))
@example("[a](http://[::1")
@example("![a](http://\ud800.x)")
@example("<http://xn--\u00e9.\u202e/>")
@example("```\ud800\n\udfff")
def test_no_text_makes_unexpected_elements(text: str) -> None:
    seen(to_html(text, text[:3]))


@pytest.mark.long
@settings(max_examples=20_000)
@given(st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join))
def test_no_generated_text_makes_unexpected_elements(text: str) -> None:
    seen(to_html(text))


# Terminals and JSON


@given(st.text() | st.lists(st.sampled_from([*sorted(UNSAFE), "a", "\n", "\t"])).map("".join))
def test_only_terminal_controls_are_removed(text: str) -> None:
    clean = printable(text)
    assert not UNSAFE & set(clean)
    assert not re.search(r"[^\S\n\t -\U0010ffff]|[\x00-\x08\x0b-\x1f\x7f-\x9f]", clean)
    kept = [character for character in text if printable(character)]
    assert clean == "".join(kept)
    assert printable(clean) == clean


def test_text_of_all_languages_is_kept() -> None:
    text = "Ünï\tcode\n日本語 עברית عربى \U0001f469\u200d\U0001f467 e\u0301 \u00a0 \ufeff"
    assert printable(text) == text


def test_one_line_removes_every_line_break() -> None:
    assert one_line(f" a\nb\r\n\tc\u2028d{CONTROLS}\n") == one_line("a b c d" + printable(CONTROLS))
    assert "\n" not in one_line("a\n\x0b\x85\u2029b")


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_keeps_the_value(ascii_only: bool) -> None:
    value = {"a": [CONTROLS, "é\U0001f600", "\\", {"\x9b": None}]}
    text = to_json(value, indent=2, ascii_only=ascii_only)
    assert json.loads(text) == value
    assert not UNSAFE & set(text)
    assert ("é" in text) is not ascii_only
