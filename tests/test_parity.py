"""The two shells are the same: in their signatures, and in their code once `await` is taken away.

What differs is in `DIFFERENT`, with its reason. A difference that is not there fails, and so does
one that is there and no longer needed.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from h2o_client import _async, _async_player, _sync, _sync_player

NAMES = {
    "aclose": "close",
    "aiter": "iter",
    "anext": "next",
    "display_async": "display",
    "anyio": "threading",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
SYNC, ASYNC = (_sync, _sync_player), (_async, _async_player)
CLASSES = ["Player", "ChatStream", "TokenEvents", "Conversation", "H2oClient"]
PUBLIC = ["ChatStream", "TokenEvents", "Conversation", "H2oClient"]

INTERRUPTED = "a task is woken by cancelling its effect, a thread by shutting its socket down"
WATCHED = "a task is limited by a cancel scope, a thread by a watchdog that shuts its socket down"
SHIELDED = "clean-up is shielded from cancellation, which threads do not have"
OWNED = "whether the httpx client is ours, the sync client knows by its finalizer"
DIFFERENT = {
    "Player.__init__": INTERRUPTED,
    "Player._outcome": INTERRUPTED,
    "Player._get_response": "a thread that waits for a response cannot be told to give up",
    "Player._interruptible": INTERRUPTED,
    "Player.interrupt": INTERRUPTED,
    "Player._next": INTERRUPTED,
    "Player._read_within": WATCHED,
    "Player._sleep": "a thread sleeps on an event that interrupts it, a task is cancelled",
    "Player._play_alone": "a wait for a lock ends by its scope, and in a thread by looking",
    "Player._finish": SHIELDED + "; what a thread is to be spared is Ctrl-C",
    "Player.release": SHIELDED + "; and httpx's async generators must be brought to their end",
    "ChatStream._close": SHIELDED + "; a thread's wait takes its limit itself",
    "ChatStream._wait_for_end": "a thread's wait takes its limit itself",
    "ChatStream._leave": SHIELDED,
    "Conversation._close": SHIELDED,
    "H2oClient.__init__": "the sync client is closed by a finalizer when it is dropped",
    "H2oClient._is_in_use": "an async client belongs to an event loop",
    "H2oClient.__del__": "the async client cannot be closed when it is dropped: it warns",
    "H2oClient.__reduce__": OWNED,
    "H2oClient._own_http": OWNED,
    "H2oClient._settle_in": OWNED + "; and an async client belongs to an event loop, too",
    "H2oClient.close": SHIELDED,
    "H2oClient._clean_up": "the sync client's finalizer closes its httpx client",
    "H2oClient._begin": "the async client notes that it has connections to warn of",
}


def sync_name(name: str) -> str:
    """The sync name of what has this name in the async shell."""
    return NAMES.get(name, re.sub(r"^(Stop)?Async(?=[A-Z])", r"\1", name))


class WithoutAwait(ast.NodeTransformer):
    """Makes sync code of async code, and leaves out what is only said."""

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)  # type: ignore[no-any-return]

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self.visit_FunctionDef(ast.FunctionDef(**vars(node)))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.name = sync_name(node.name)
        return self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        return self.generic_visit(ast.With(**vars(node)))

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        return self.generic_visit(ast.For(**vars(node)))

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Awaitable":
            return self.visit(node.slice)  # type: ignore[no-any-return]
        return self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        node.is_async = 0
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = sync_name(node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = sync_name(node.attr)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = re.sub(r"\bAsync(?=[A-Z])", "", node.value.replace("async with", "with"))
        return node


def methods(*modules: Any) -> dict[str, str]:
    """The code of all methods of a shell, as sync code, by their sync names."""
    found = {}
    for node in [
        node for module in modules for node in ast.parse(Path(module.__file__).read_text()).body
    ]:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{sync_name(node.name)}.{sync_name(item.name)}"
                found[name] = ast.unparse(WithoutAwait().visit(item))
    return {name: code for name, code in found.items() if name.partition(".")[0] in CLASSES}


def test_the_code_of_the_shells_is_the_same() -> None:
    ours, theirs = methods(*SYNC), methods(*ASYNC)
    different = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert sorted(different - DIFFERENT.keys()) == [], "differ, and have no reason to"
    assert sorted(DIFFERENT.keys() - different) == [], "are the same: take them off the list"


def test_most_of_the_code_is_compared() -> None:
    assert len(methods(*SYNC).keys() - DIFFERENT.keys()) > 50


def test_the_effect_loop_is_the_same() -> None:
    ours, theirs = methods(*SYNC), methods(*ASYNC)
    for name in ("play", "advance", "_perform", "_send", "_read", "_within"):
        assert ours[f"Player.{name}"] == theirs[f"Player.{name}"]


def members(cls: type) -> dict[str, Any]:
    """The public members of a class, those with underscores that make it what it is as well."""
    special = {f"__{name}__" for name in ("enter", "exit", "iter", "next", "init", "repr")}
    found = {sync_name(name): value for name, value in vars(cls).items()}
    return {
        name: value for name, value in found.items() if not name.startswith("_") or name in special
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_public_signatures_are_equal(name: str) -> None:
    ours, theirs = members(getattr(_sync, name)), members(getattr(_async, f"Async{name}"))
    assert sorted(ours) == sorted(theirs)
    for member, value in ours.items():
        twin = theirs[member]
        assert isinstance(value, property) is isinstance(twin, property), member
        if isinstance(value, property):
            value, twin = value.fget, twin.fget
        assert signature(value) == signature(twin), member


def signature(function: Any) -> str:
    """The signature of a function, as the sync one would have it."""
    text = str(inspect.signature(function))
    text = text.replace("h2o_client._async", "h2o_client._sync")
    return re.sub(r"\bAsync(?=[A-Z])", "", text)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_waits_is_awaited(name: str) -> None:
    twin = members(getattr(_async, f"Async{name}"))
    waiting = {
        "ChatStream": {"__enter__", "__exit__", "__next__", "close", "display", "read", "stop"},
        "TokenEvents": {"__next__"},
    }
    awaited = {member for member in twin if inspect.iscoroutinefunction(twin[member])}
    if name in waiting:
        assert awaited == waiting[name]
    # What gives a stream or a conversation does not wait; what is fetched does.
    assert not awaited & {"stream", "conversation", "conversation_from", "events", "to_dict"}


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings(name: str) -> None:
    for member, value in members(getattr(_sync, name)).items():
        if not member.startswith("_"):
            assert inspect.getdoc(value), member
    for member, value in members(getattr(_async, f"Async{name}")).items():
        if not member.startswith("_"):
            assert "twin of" in (inspect.getdoc(value) or ""), member
