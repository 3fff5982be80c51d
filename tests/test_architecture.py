"""Check the architecture of the package: which module may import which, and what it may contain."""

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import h2o_client

ROOT = Path(h2o_client.__file__).parent
LONGEST = 600
OTHER_WORLDS = {"emulator", "testing"}  # not part of the client
USERS = {
    "cli", "g4f", "batch", "bridge", "langchain", "llm_plugin", "notebook", "magics", "plugins",
    "__main__",
}  # fmt: skip
PUBLIC_MODULES = {"h2o_client", "h2o_client.errors", "h2o_client.stored", "h2o_client.types"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
}
SYNC = {name for name in MODULES if name.startswith("_client._sync.")}
ASYNC = {name for name in MODULES if name.startswith("_client._async.")}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def part(name: str) -> str:
    """Return the part of the package that a module belongs to."""
    return name.partition(".")[0]


def imports(name: str) -> Iterator[tuple[str, str | None]]:
    """Return everything that a module imports, at any level: modules, and names from them."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            for alias in node.names:
                yield node.module or "", alias.name


def imported(name: str) -> set[str]:
    """Return the modules that a module imports; `from package import module` counts as one."""
    found = set()
    for module, attribute in imports(name):
        found.add(module)
        inner = f"{module}.{attribute}".removeprefix("h2o_client.")
        if module.startswith("h2o_client") and {inner, f"{inner}.__init__"} & MODULES.keys():
            found.add(f"h2o_client.{inner}")
    return found


def tops(name: str) -> set[str]:
    return {part(module) for module in imported(name)}


def ours(name: str) -> set[str]:
    """Return the parts of this package that a module imports; "" is the package itself."""
    return {
        part(module.removeprefix("h2o_client").removeprefix("."))
        for module in imported(name)
        if part(module) == "h2o_client"
    }


def of(*parts: str) -> list[str]:
    return [name for name in MODULES if part(name) in parts]


def test_the_core_does_no_io() -> None:
    worldly = {
        "anyio", "asyncio", "concurrent", "contextvars", "http", "httpcore", "httpx",
        "logging", "os", "pathlib", "queue", "random", "secrets", "select", "signal", "socket",
        "ssl", "subprocess", "sys", "threading", "time", "trio", "uuid", "warnings",
    }  # fmt: skip
    for name in of("protocol"):
        assert not tops(name) & worldly, name
        assert ours(name) <= {"protocol", "diagnosis", "errors", "options", "stored", "types"}, name


def test_the_core_reads_no_clock() -> None:
    for name in of("protocol"):
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Attribute) and node.attr in ("now", "today", "utcnow"):
                raise AssertionError(f"{name}, line {node.lineno}: {ast.unparse(node)}")


def test_only_shells_and_client_import_httpx() -> None:
    found = {name for name in MODULES if tops(name) & {"httpx", "httpcore"}}
    # `doctor` runs the network steps below the client by itself.
    found -= {"cli.examination", "cli.probe"}
    assert {part(name) for name in found} - {*OTHER_WORLDS, "_fast"} == {"_client"}


def test_fast_transport_is_independent_of_the_client() -> None:
    """It does not know the client, which imports it in one place, and only on request."""
    for name in of("_fast"):
        assert ours(name) <= {"_fast"}
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                mine = ast.unparse(node.value) in ("self", "asyncio.Protocol")
                assert mine or node.attr.endswith("__"), f"{name}: {ast.unparse(node)}"
    assert {name for name in MODULES if "_fast" in ours(name)} - set(of("_fast")) == {
        "_client.http"
    }
    assert not tops("_fast.framing") & {"httpx", "httpcore", "asyncio", "socket", "ssl", "time"}
    for node in TREES["_client.http"].body:  # not inside functions
        assert "_fast" not in ast.unparse(node) or isinstance(node, ast.FunctionDef)


def test_one_emulator_module_imports_httpx_lazily() -> None:
    """The engines for model servers share it; nothing else in the emulator needs a client."""
    found = {name for name in MODULES if tops(name) & {"httpx", "httpcore"}}
    assert {name for name in found if part(name) == "emulator"} == {"emulator.engines.http"}
    for name in of("emulator"):
        for node in TREES[name].body:  # not inside functions
            if isinstance(node, ast.ImportFrom) and not name.startswith("emulator.engines."):
                assert not (node.module or "").startswith("h2o_client.emulator.engines.")


def test_emulator_shares_no_code_with_the_client() -> None:
    for name in of("emulator"):
        assert ours(name) <= {"emulator", "extras"}, (
            name
        )  # `extras`: how to install what is missing


@functools.cache
def modules_imported(name: str) -> set[str]:
    """Return the modules of this package that a module imports, including type-only imports."""
    found = set()
    for module, attribute in imports(name):
        place = module.removeprefix("h2o_client").removeprefix(".")
        of_a_package = f"{place}.{attribute}".removeprefix(".")
        found.add(of_a_package if of_a_package in MODULES else place)
    return {item for place in found for item in (place, f"{place}.__init__") if item in MODULES}


def in_a_cycle(name: str) -> bool:
    """Whether a module imports itself through others."""
    reached, new = set(), modules_imported(name)
    while new:
        reached |= new
        new = {inner for module in new for inner in modules_imported(module)} - reached
    return name in reached


def test_no_circular_imports() -> None:
    """Type-only imports count, too."""
    found = {name for name in MODULES if in_a_cycle(name)}
    assert found == set()


def test_the_client_does_not_need_the_emulator() -> None:
    found = {name for name in MODULES if ours(name) & OTHER_WORLDS}
    assert {part(name) for name in found} <= {"cli", "bridge", *OTHER_WORLDS}


def test_errors_and_types_import_no_other_part() -> None:
    assert ours("errors") == ours("safe_text") == set()
    assert ours("types") == {"safe_text"}  # for notebooks
    assert ours("stored") == {"types"}


def test_sync_and_async_shells_do_not_import_each_other() -> None:
    shells = {f"h2o_client.{name}" for name in SYNC | ASYNC}
    # The cleaner runs in a thread of its own, for both.
    for name in set(of("_client")) - SYNC - ASYNC - {"_client.cleaner"}:
        assert not imported(name) & shells
    for name in SYNC:
        assert not imported(name) & shells - {f"h2o_client.{name}" for name in SYNC}
        assert not tops(name) & {"anyio", "asyncio", "trio"}
    for name in ASYNC:
        assert not imported(name) & shells - {f"h2o_client.{name}" for name in ASYNC}
        assert not tops(name) & {"asyncio", "trio", "threading", "time"}


def test_code_on_top_of_the_client_uses_its_public_api() -> None:
    known_parts = {
        "", "diagnosis", "errors", "extras", "options", "safe_text", "stored", "types", "bridge",
        "emulator", "cli", "plugins",
    }  # fmt: skip
    for name in of(*USERS):
        assert ours(name) <= {*known_parts, part(name)}, name
        for module, attribute in imports(name):
            if module in PUBLIC_MODULES and attribute is not None:
                known = attribute in h2o_client.__all__ or f"{attribute}.__init__" in MODULES
                assert known or attribute in {"errors", "stored", "types"}, (name, attribute)
        for node in ast.walk(TREES[name]):
            if not isinstance(node, ast.Attribute):
                continue
            of_module = isinstance(node.value, ast.Name) and node.value.id == "h2o_client"
            if of_module:
                assert node.attr in h2o_client.__all__, (name, node.attr)
            if node.attr.startswith("_") and not node.attr.endswith("__"):
                assert ast.unparse(node.value) in ("self", "cls", "super()"), (
                    f"{name}: {ast.unparse(node)}"
                )


def test_batch_and_notebook_import_no_shell() -> None:
    for name in of("batch", "notebook"):
        names = {attribute for module, attribute in imports(name) if module == "h2o_client"}
        assert not names & {"H2oClient", "AsyncH2oClient", "ChatStream", "AsyncChatStream"}, name


def yields(nodes: list[ast.stmt]) -> Iterator[int]:
    for node in nodes:
        for item in ast.walk(node):
            if isinstance(item, ast.Yield | ast.YieldFrom):
                yield item.lineno


def test_flows_do_not_yield_while_closing() -> None:
    wide = {"BaseException", "GeneratorExit"}
    for name in of("protocol"):
        for node in ast.walk(TREES[name]):
            if not isinstance(node, ast.Try | ast.TryStar):
                continue
            assert list(yields(node.finalbody)) == [], name
            for handler in node.handlers:
                caught = _code(handler.type) if handler.type else "BaseException"
                if wide & set(re.findall(r"\w+", caught)):
                    assert list(yields(handler.body)) == [], name


def _code(node: ast.expr) -> str:
    return ast.unparse(node)


def test_yield_check_detects_a_violation() -> None:
    tree = ast.parse("def f():\n try:\n  pass\n finally:\n  x = yield\n")
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    assert list(yields(found[0].finalbody)) == [5]


def test_shells_contain_no_generators() -> None:
    managers = {"contextmanager", "asynccontextmanager"}  # entered and left in one place
    for name in [*sorted(SYNC | ASYNC), *of("g4f", "batch", "notebook", "magics")]:
        for node in ast.walk(TREES[name]):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            decorators = {_code(item).rpartition(".")[2] for item in node.decorator_list}
            own = [item for item in _own_nodes(node) if isinstance(item, ast.Yield | ast.YieldFrom)]
            assert not own or decorators & managers, f"{name}: {node.name} is a generator"


def _own_nodes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of nested functions."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def test_module_length_is_limited() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_every_module_has_a_docstring() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


RECORDING = re.compile(r"\b\d\d[a-z]?_[a-z]\w+")


def test_docstrings_name_no_recordings() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                assert RECORDING.findall(ast.get_docstring(node) or "") == [], name


def test_recording_check_detects_a_violation() -> None:
    assert RECORDING.findall("as seen [02b_settings_stored].") == ["02b_settings_stored"]


def test_all_is_sorted_and_importable() -> None:
    # The order of ruff's RUF022: constants, then classes, then the rest.
    order = sorted(h2o_client.__all__, key=lambda name: (not name.isupper(), name))
    assert h2o_client.__all__ in (order, sorted(order))
    assert len(set(h2o_client.__all__)) == len(h2o_client.__all__)
    for name in h2o_client.__all__:
        found = getattr(h2o_client, name)
        if isinstance(found, type):
            where = importlib.import_module(found.__module__)
            assert getattr(where, name) is found
    assert set(h2o_client.__all__) <= set(dir(h2o_client))
    with pytest.raises(AttributeError, match="nonsense"):
        h2o_client.nonsense  # noqa: B018 -- looked up


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("h2o_client.errors")
    found = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert found <= set(h2o_client.__all__)
    for name in found:
        assert name in (errors.__doc__ or ""), f"{name} is missing from the exception tree"


def test_type_checking_imports_match_exports() -> None:
    tree = TREES["__init__"]
    typed = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.If)
        for item in node.body
        if isinstance(item, ast.ImportFrom)
        for alias in item.names
    }
    assert typed | {"__version__"} == set(h2o_client.__all__)


def test_init_only_contains_the_lazy_import() -> None:
    tree = TREES["__init__"]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions == ["__getattr__", "__dir__"]
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.If, ast.FunctionDef)
    assert all(isinstance(node, allowed) for node in tree.body)
    conditions = [_code(node.test) for node in tree.body if isinstance(node, ast.If)]
    assert conditions == ["TYPE_CHECKING"]


def test_version_is_the_newest_in_the_changelog() -> None:
    path = ROOT.parent / "CHANGELOG.md"
    if not path.exists():
        pytest.skip("not a source tree")
    found = re.search(r"^## \[?v?(\d+\.\d+[\w.]*)", path.read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == h2o_client.__version__
