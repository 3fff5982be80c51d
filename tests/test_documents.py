"""The README and the manual run as shown, each page from its first block to its last."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import MANUAL, PAGES, ROOT, Page, blocks

from h2o_client import errors
from h2o_client.cli import app

LANGUAGES = {"python", "console", "bash", "ipython", "json", "jsonl", "toml", "text"}


@pytest.fixture
def page(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Page]:
    """Yield a function that runs the blocks of a page, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "100")
    with Page(request.param, capsys, monkeypatch) as made:
        yield made


def name(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


@pytest.mark.parametrize(
    ("page", "path"), [(path, path) for path in PAGES], indirect=["page"], ids=name
)
def test_page_runs_as_shown(page: Page, path: Path) -> None:
    for block in blocks(path):
        if block.runs:
            page.run(block)
    page.leave()
    assert page.server.conversations == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_block_has_a_known_language(path: Path) -> None:
    found = blocks(path)
    assert {block.language for block in found} <= LANGUAGES
    fences = re.findall(r"^\s*```", path.read_text("utf-8"), re.MULTILINE)
    outputs = sum(block.output is not None for block in found)
    assert len(fences) == 2 * (len(found) + outputs)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_of_a_page_exist(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in link:
            assert (path.parent / link).exists(), link


@pytest.mark.parametrize("module", ["h2o_client", "h2o_client.emulator"])
def test_reference_has_every_public_name(module: str) -> None:
    pages = "".join(path.read_text("utf-8") for path in MANUAL.glob("reference/*.md"))
    for public in importlib.import_module(module).__all__:
        error = module == "h2o_client" and hasattr(
            errors, public
        )  # its page documents the whole module
        assert error or re.search(rf"\b{module}\.{public}\b", pages), public


def test_help_names_the_manual() -> None:
    place = "docs/manual/index.md"
    assert (ROOT / place).exists()
    assert place in CliRunner().invoke(app, ["--help"]).output
