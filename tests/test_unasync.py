"""The sync shell is generated from the async one; hand-written modules define the same names."""

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from h2o_client import (
    AsyncChatStream,
    AsyncConversation,
    AsyncH2oClient,
    ChatStream,
    Conversation,
    H2oClient,
)
from h2o_client._client._async import _runtime as async_runtime
from h2o_client._client._async.stream import AsyncTokenEvents
from h2o_client._client._sync import _runtime as sync_runtime
from h2o_client._client._sync.stream import TokenEvents

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts/unasync.py"
PAIRS = [
    (AsyncH2oClient, H2oClient),
    (AsyncConversation, Conversation),
    (AsyncChatStream, ChatStream),
    (AsyncTokenEvents, TokenEvents),
]


def unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(script: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_generated_sync_code_is_up_to_date() -> None:
    result = check(SCRIPT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("_async/stream.py", "return texts.popleft()", "return texts.pop()"),
        ("_async/stream.py", "Return the text of the next visible token", "Return the text"),
        ("_async/player.py", "# the read limit that httpx enforces", "# a limit"),
        ("_sync/client.py", '"""The client:', '"""A client:'),
    ],
)
def test_check_detects_a_difference(tmp_path: Path, name: str, old: str, new: str) -> None:
    shutil.copytree(ROOT / "h2o_client/_client", tmp_path / "h2o_client/_client")
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "scripts")
    changed = tmp_path / "h2o_client/_client" / name
    code = changed.read_text()
    assert old in code
    changed.write_text(code.replace(old, new))
    result = check(Path(script))
    assert result.returncode == 1
    assert Path(name).name in result.stdout


@pytest.mark.slow
def test_check_detects_an_orphaned_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "h2o_client/_client", tmp_path / "h2o_client/_client")
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "h2o_client/_client/_sync/old.py").write_text("")
    assert "old.py" in check(Path(script)).stdout


def test_code_without_a_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="asyncio"):
        unasync().convert("import asyncio\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Use it in an `async with` block.", "Use it in a `with` block."),
        ("`await client.chat()`", "`client.chat()`"),
        ("from any task of the\n    same event loop", "from any thread"),
        ("Callable[[], Awaitable[list[T]]]", "Callable[[], list[T]]"),
        ("StopAsyncIteration", "StopIteration"),
    ],
)
def test_docstrings_are_converted(words: str, expected: str) -> None:
    module = unasync()
    assert module.convert(words) == module.HEADER + expected


def members(owner: Any) -> dict[str, Any]:
    """Return what a class or module defines, except what only one side needs."""
    module = getattr(owner, "__module__", owner.__name__)
    return {
        name: value
        for name, value in vars(owner).items()
        if inspect.isfunction(value) or inspect.isclass(value)
        if value.__module__ == module and not name.startswith("_")
        if not getattr(value, "__isabstractmethod__", False)
    }


def test_sync_and_async_runtimes_define_the_same_names() -> None:
    ours, theirs = members(sync_runtime), members(async_runtime)
    assert sorted(ours) == sorted(theirs)
    for name, thing in ours.items():
        if inspect.isclass(thing):
            assert sorted(members(thing)) == sorted(members(theirs[name]))
        else:
            mine, twin = inspect.signature(thing), inspect.signature(theirs[name])
            assert list(mine.parameters) == list(twin.parameters)


def public(kind: type) -> list[str]:
    return sorted(name for name in dir(kind) if not name.startswith("_"))


@pytest.mark.parametrize(("twin", "kind"), PAIRS)
def test_sync_and_async_classes_have_the_same_members(twin: type, kind: type) -> None:
    names = ["close" if name == "aclose" else name for name in public(twin)]
    assert sorted(names) == public(kind)


@pytest.mark.parametrize("kind", [kind for pair in PAIRS for kind in pair])
def test_every_public_member_has_a_docstring(kind: type) -> None:
    assert kind.__doc__
    for name in public(kind):
        text = inspect.getdoc(getattr(kind, name)) or ""
        assert text, name
        assert "twin" not in text


@pytest.mark.parametrize("kind", [kind for _, kind in PAIRS])
def test_sync_docstrings_mention_no_async_terms(kind: type) -> None:
    for name in ["__doc__", *public(kind)]:
        text = kind.__doc__ if name == "__doc__" else inspect.getdoc(getattr(kind, name))
        assert not re.search(r"\b(async|await|task|event loop|aclose)\b", text or ""), name


@pytest.mark.parametrize("kind", [kind for kind, _ in PAIRS])
def test_async_docstrings_mention_no_sync_terms(kind: type) -> None:
    for name in ["__doc__", *public(kind)]:
        text = kind.__doc__ if name == "__doc__" else inspect.getdoc(getattr(kind, name))
        assert not re.search(r"\bthreads?\b|`with`|`close\(\)`|\bH2oClient", text or ""), name


WAITING = {
    AsyncH2oClient: {
        "__aenter__", "__aexit__", "aclose", "chat", "conversations", "delete_conversations",
        "models", "settings", "shared",
    },
    AsyncConversation: {
        "__aenter__", "__aexit__", "aclose", "delete", "history", "prompt", "refresh", "rename",
        "retry", "send", "share", "stop", "summarize", "vote",
    },
    AsyncChatStream: {
        "__aenter__", "__aexit__", "__anext__", "aclose", "display", "read", "stop",
    },
    AsyncTokenEvents: {"__anext__"},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(WAITING))
def test_methods_that_wait_are_coroutines(kind: type) -> None:
    names = [*public(kind), *(name for name in vars(kind) if name.startswith("__a"))]
    awaited = {name for name in names if inspect.iscoroutinefunction(getattr(kind, name))}
    assert awaited == WAITING[kind]
