"""Keep awkward phrases out of code, messages and pages."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "h2o_client"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
AWKWARD = [
    # write "unexpected keyword argument", "x must not be empty", "the answer does not contain x"
    r"(?i)\bthere (is|are) (none|no)\b",
    r"\b[Nn]one where\b",  # "or None"
    r"\b(is|are) none\b",
    r"(?i)(?<!there )\b(is|are) no (?!longer\b)",  # "x is not a y"
    r"\b(taken|took|takes|take) up\b",  # "resumed"
    r"\b(has|had) it has\b",
    r"\bno such\b",
    r"\bis (text|a mapping|a whole number|a number of seconds|a list), not\b",  # "must be"
    r"\"(the )?[\w.]+ is (a list|a text|JSON|one of)\b",  # "must be"
    r"\bnot what this protocol says\b",  # "does not follow this protocol"
    r"\bcould not stand\b",  # "not a valid id"
    r"\bthat a header cannot\b",  # "not allowed in a header"
    r"\bit is neither\b",  # name the value
    r"\bif (it|this) is one\b",  # "if it is valid"
    r"\bwhere there is one\b",  # "if any"
    r"\bwhere the server (tells|told)\b",  # "if the server says so"
    r"\bcannot be told\b",  # "unknown"
    r"\bnothing that comes now\b",
    r"\bnobody (goes|waits)\b",
    r"\bare asked for\b",  # "requested"
    r"\b(is|are) the (client|http_client)'s: ",  # "set … on the client"
    r"\b(meets?|met) the limit\b",  # "hit the limit"
    r"\bsends? the request elsewhere\b",  # "redirects"
    r"\bleft behind\b",  # "left on the server"
    r"\bits like\b",  # "similar"
    r"\bhas been kept\b",  # "saved"
]


def text_of(path: Path) -> str:
    """Return the text of a page or module, joining the lines of strings and comments."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        text = re.sub(r'"\s*\n\s*f?"|\n\s*#(?= )', "", text)
    return " ".join(text.split())


def test_no_text_contains_an_awkward_phrase() -> None:
    found = [
        (str(path.relative_to(ROOT)), match[0])
        for path in [*PAGES, *PACKAGE.rglob("*.py")]
        for text in [text_of(path)]
        for phrase in AWKWARD
        for match in re.finditer(phrase, text)
    ]
    assert found == []
