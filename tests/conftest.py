"""Shared fixtures: the emulator, the three backends, and the leak checks after each test.

An `async def` test with the argument `api` is a scenario; see `backends.py`.
"""

import gc
import inspect
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import hypothesis
import pytest
from backends import BACKENDS, Api, new_api
from dialects import ONLY_2023
from open_responses import OpenResponses, watch_responses

from h2o_client.emulator import Emulator

collect_ignore = ["integrations"]  # they have an environment of their own: see there
OLD, NEW = "chat-ui-2023", "chat-ui-2025"
ON_EVERY_TRANSPORT = {"test_shells_chat", "test_shells_reading", "test_shells_transport"}
"""Modules that run on every transport; `--transport fast` runs all other scenarios on it, too."""


hypothesis.settings.register_profile("short", deadline=None, max_examples=40)
hypothesis.settings.register_profile("long", deadline=None, max_examples=200)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of Hypothesis examples, and restore Ctrl-C.

    A shell makes its background jobs ignore SIGINT.
    """
    hypothesis.settings.load_profile("short" if config.option.markexpr == "not long" else "long")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--transport`."""
    parser.addoption("--transport", choices=["fast"], help="the transport of all scenarios")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run some scenarios on every transport, and some with both kinds of server."""
    every = getattr(metafunc.module, "__name__", "") in ON_EVERY_TRANSPORT
    if every and "api" in metafunc.fixturenames and not metafunc.config.getoption("--transport"):
        metafunc.parametrize("transport", [None, "fast"], ids=["", "fast"])
    left_out = ONLY_2023.get(getattr(metafunc.module, "__name__", ""))
    on_both = left_out is not None and metafunc.function.__name__ not in left_out
    if on_both and "api" in metafunc.fixturenames:
        metafunc.parametrize("dialect", [OLD, NEW], ids=["", "2025"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most cases of a test to the long run.

    The default run has the first case of each test and a third of its other cases; of tests marked
    `slow`, a third of all cases. The minor version of Python decides which third, so that the three
    versions in `.ci/run` cover all. Here, a scenario has at most twelve cases, each on one backend
    and one transport; cases with a server of 2025 are counted apart. `test_exit_leaves_nothing`
    selects from a table of its own.
    """
    tests: dict[tuple[str, str], dict[object, list[pytest.Function]]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("long"):
            continue
        name, kind, case = item.nodeid.partition("[")[0], OLD, item.nodeid
        if is_scenario(item):
            params = item.callspec.params
            kind = str(params.get("dialect", OLD))
            # Parameter values are the same objects on all backends.
            places = ("backend", "transport", "dialect")
            case = str([id(value) for key, value in params.items() if key not in places])
        tests.setdefault((name, kind), {}).setdefault(case, []).append(item)
    minor = sys.version_info.minor
    for (name, kind), cases in tests.items():
        number_of_test = zlib.crc32(name.encode())
        scenario = is_scenario(next(iter(cases.values()))[0])
        every = -(-len(cases) // 12) if scenario else 1
        for number, ways in enumerate(cases.values()):
            place, between = divmod(number, every)
            first = place == 0 and kind == OLD and not ways[0].get_closest_marker("slow")
            in_turn = (number_of_test + minor + place) % 3 == 0 and (place == 0 or kind == OLD)
            played = not between and (first or in_turn)
            way = (minor + (number_of_test + place) // 3) % len(ways)
            for at, item in enumerate(ways):
                if not played or at != way:
                    item.add_marker(pytest.mark.long)


def is_scenario(item: pytest.Function) -> bool:
    return "api" in item.fixturenames and item.originalname != "test_exit_leaves_nothing"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a scenario on its backend."""
    api = pyfuncitem.funcargs.get("api")
    if not isinstance(api, Api) or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    api.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the server and proxy settings of the developer's environment."""
    for name in os.environ:
        if name.startswith("H2O_CHAT_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_the_end() -> Iterator[None]:
    """At the end of the session, collect objects that outlived the test that made them."""
    yield
    gc.unfreeze()
    gc.collect()
    assert not children_left(), "processes started by a test are still running"


def children_left() -> list[str]:
    """List the leftover child processes, where the system can; those of multiprocessing may stay.

    Its resource tracker and fork server live as long as this process.
    """
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    if not own.exists():
        return []
    commands = [
        Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for child in own.read_text().split()
    ]
    return [command for command in commands if "multiprocessing" not in command]


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect garbage right after the test, so that an open socket or stream fails this very test.

    Only objects created by the test are examined. Older ones are frozen, once the previous test's
    leftovers have been collected; otherwise each test would take longer than the one before. The
    core opens nothing.
    """
    opens = "protocol" not in request.path.parts
    if opens:
        gc.collect()
        gc.freeze()
    yield
    if opens:
        gc.collect()


@pytest.fixture
def dialect() -> str:
    """The kind of server."""
    return OLD


@pytest.fixture
def server(dialect: Literal["chat-ui-2023", "chat-ui-2025"]) -> Iterator[Emulator]:
    """A new emulator."""
    with Emulator(dialect=dialect) as emulator:
        yield emulator


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the backend."""
    return cast("str", request.param)


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str | None:
    """The transport of all clients, from `--transport`; None for httpx's default."""
    return cast("str | None", request.config.getoption("--transport"))


@pytest.fixture
def api(
    backend: str, server: Emulator, responses: OpenResponses, transport: str | None
) -> Iterator[Api]:
    """The API of the scenario's backend; the test may leave no connection busy."""
    yield new_api(backend, server, transport)
    responses.check()


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> OpenResponses:
    """Watch the responses of the real transports."""
    return watch_responses(monkeypatch)
