"""What all tests share: the emulator, the three backends, and what must hold after each test.

A test that is an `async def` with the argument `api` is a scenario; see `backends.py`.
"""

import gc
import inspect
import os
import signal
import sys
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


hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_configure() -> None:
    """Hear Ctrl-C: a shell makes what it begins in the background deaf to it."""
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
    """Leave the full product of a scenario's cases, backends and transports to the long run.

    The default run has the first case of each scenario, and four others of many, each in one
    backend; of a third of the scenarios also the first with a server of 2025. Which cases and which
    backend goes in turn with the version of Python: the three that `.ci/run` finds share them.
    `test_an_exit` has a table of its own for this.
    """
    scenarios: dict[tuple[str, str], dict[tuple[int, ...], list[pytest.Function]]] = {}
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and "api" in item.fixturenames
            and item.originalname != "test_an_exit"
        ):
            # The values are the same objects in all backends.
            case = tuple(
                id(value)
                for name, value in item.callspec.params.items()
                if name not in ("backend", "transport", "dialect")
            )
            kind = str(item.callspec.params.get("dialect", OLD))
            scenario = scenarios.setdefault((item.nodeid.partition("[")[0], kind), {})
            scenario.setdefault(case, []).append(item)
    minor = sys.version_info.minor
    for index, ((_, kind), cases) in enumerate(scenarios.items()):
        step = -(-len(cases) // 12)
        for number, ways in enumerate(cases.values()):
            place = number // step
            its_turn = (minor + index + place) % 3 == 0 or (place == 0 and kind == OLD)
            played = number % step == 0 and its_turn and (place == 0 or kind == OLD)
            for at, item in enumerate(ways):
                if not played or at != (minor + (index + place) // 3) % len(ways):
                    item.add_marker(pytest.mark.long)


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
