"""The README is short, in a fixed order, and its commands match CI and each other.

Its blocks run in `test_documents.py`.
"""

import re
from pathlib import Path

from documents import blocks

ROOT = Path(__file__).parent.parent
PATH = ROOT / "README.md"
README = PATH.read_text("utf-8")
HEADINGS = [
    "h2o_client", "Try it", "Ask", "Hold a conversation", "Send files", "Handle errors",
    "Send many prompts", "Use it in a notebook", "Use it in the terminal", "Test your program",
    "Which servers", "More",
]  # fmt: skip


def test_readme_is_short_and_in_order() -> None:
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^#+ (.*)$", text, re.MULTILINE) == HEADINGS
    assert len(README.splitlines()) <= 180


def test_sections_link_to_the_manual() -> None:
    for section in README.split("\n## ")[2:-2]:
        assert "](docs/manual/" in section, section.partition("\n")[0]


def test_first_python_block_uses_the_server_started_before_it() -> None:
    found = blocks(PATH)
    first = next(place for place, block in enumerate(found) if block.language == "python")
    assert found[first - 1].code == "h2o-client serve\n"
    assert 'H2oClient("http://127.0.0.1:8000")' in found[first].code


def test_ci_runs_the_readmes_test_command() -> None:
    (typed,) = [block.code for block in blocks(PATH) if "pytest" in block.code]
    command = typed.strip().rpartition(".venv/bin/")[2]
    script = (ROOT / ".ci/run").read_text("utf-8")

    assert command == "python -m pytest -n 4"
    assert len(re.findall(rf'^\s*suite ".*" {re.escape(command)}$', script, re.MULTILINE)) == 2
