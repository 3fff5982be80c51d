"""Installation hints are consistent, and the extras that they name exist."""

import re
import tomllib
from pathlib import Path

import pytest

from h2o_client.extras import install_hint

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SOURCES = sorted((ROOT / "h2o_client").rglob("*.py"))
DOCUMENTS = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "examples").glob("*.*")) if path.suffix != ".png"),
]
INSTALL = re.compile(r"pip install [^`'\n]*'([^'\n]+)'")


def test_hint_names_the_clone_and_the_extra() -> None:
    assert install_hint("cli") == "from a clone: pip install '.[cli]'"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_hints_are_built_in_one_place(path: Path) -> None:
    text = path.read_text("utf-8")
    assert set(INSTALL.findall(text)) <= {".[{extra}]", "httpx[socks]"}
    for extra in re.findall(r"install_hint\([\"']([\w-]+)", text):
        assert extra in EXTRAS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_extras_in_the_documents_exist(path: Path) -> None:
    for what in INSTALL.findall(path.read_text("utf-8")):
        found = re.fullmatch(r"\.\[([\w,-]+)\]", what)
        assert found is not None, what
        assert set(found[1].split(",")) <= EXTRAS.keys()
