"""What all tests share: the emulator, the three backends, and what must hold after each test.

A test that is an `async def` with the argument `api` is a scenario; see `backends.py`.
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
"""The scenarios that run on every transport; `--transport fast` has the others run on it too."""


hypothesis.settings.register_profile("short", deadline=None, max_examples=40)
hypothesis.settings.register_profile("long", deadline=None, max_examples=200)


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples are tried, and hear Ctrl-C.

    A shell makes what it begins in the background deaf to Ctrl-C.
    """
    hypothesis.settings.load_profile("short" if config.option.markexpr == "not long" else "long")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the transport of all scenarios be chosen."""
    parser.addoption("--transport", choices=["fast"], help="the transport of all scenarios")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run some scenarios on every transport, and some with servers of both kinds."""
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

    The default run has the first case of each test, and a third of its other cases; of tests that
    are `slow`, a third of all cases. Which third goes in turn with the version of Python: the three
    that `.ci/run` finds share them. A scenario has at most twelve cases here, each in one backend
    and on one transport; what it does with a server of 2025 is one case more. `test_an_exit` has a
    table of its own for this.
    """
    tests: dict[tuple[str, str], dict[object, list[pytest.Function]]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("long"):
            continue
        name, kind, case = item.nodeid.partition("[")[0], OLD, item.nodeid
        if is_scenario(item):
            params = item.callspec.params
            kind = str(params.get("dialect", OLD))
            # The values are the same objects in all backends.
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
    return "api" in item.fixturenames and item.originalname != "test_an_exit"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a scenario in its backend."""
    api = pyfuncitem.funcargs.get("api")
    if not isinstance(api, Api) or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    api.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a server and a proxy of their own."""
    for name in os.environ:
        if name.startswith("H2O_CHAT_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_the_end() -> Iterator[None]:
    """Collect what outlived the test that made it and was dropped after that."""
    yield
    gc.unfreeze()
    gc.collect()
    assert not children_left(), "processes that a test began are still running"


def children_left() -> list[str]:
    """The child processes that were left, where the system can tell: those of multiprocessing stay.

    Its resource tracker and fork server serve this process to its end.
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
    """Collect what was dropped here and now: a socket or stream left open fails this very test.

    Only what the test made is gone through. All that was there before is frozen, after what the
    test before had dropped by its very end is collected: else each test takes longer than the last.
    The core opens nothing.
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
    """A fresh emulator."""
    with Emulator(dialect=dialect) as emulator:
        yield emulator


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The backends, one after the other."""
    return cast("str", request.param)


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str | None:
    """The transport of all clients, by the command's option; None: httpx's own."""
    return cast("str | None", request.config.getoption("--transport"))


@pytest.fixture
def api(
    backend: str, server: Emulator, responses: OpenResponses, transport: str | None
) -> Iterator[Api]:
    """The backend that a scenario runs in; it may leave no connection busy."""
    yield new_api(backend, server, transport)
    responses.check()


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> OpenResponses:
    """Watch the real transports."""
    return watch_responses(monkeypatch)
