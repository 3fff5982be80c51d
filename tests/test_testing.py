"""The pytest plugin, in a separate pytest, as its users have it."""

import os
import tomllib
from pathlib import Path

import pytest

from h2o_client import H2oClient, RateLimitError
from h2o_client.emulator import Emulator

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parent.parent / "examples" / "test_my_program.py"
OURS = "h2o_client.testing"


@pytest.fixture
def plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a pytest that loads this plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nfilterwarnings = ['error']\n")
    return ["-p", OURS, "-p", "no:cacheprovider"]


def test_plugin_is_an_entry_point() -> None:
    text = (EXAMPLE.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    assert project["entry-points"]["pytest11"] == {"h2o_client": OURS}
    assert {"h2o-chat-client[emulator]", "pytest>=8"} == {
        *project["optional-dependencies"]["testing"]
    }


@pytest.mark.slow
def test_example_program_passes(pytester: pytest.Pytester, plugin: list[str]) -> None:
    pytester.makepyfile(test_my_program=EXAMPLE.read_text(encoding="utf-8"))
    done = pytester.runpytest_subprocess(*plugin)
    done.assert_outcomes(passed=6)


@pytest.mark.slow
def test_mark_sets_the_server_options(pytester: pytest.Pytester, plugin: list[str]) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.h2o_server(dialect="chat-ui-2025", version="0.10")
        def test_with(h2o_server):
            assert h2o_server.dialect == "chat-ui-2025"

        def test_without(h2o_server):
            assert h2o_server.dialect == "chat-ui-2023"
        """
    )
    done = pytester.runpytest_subprocess(*plugin, "--strict-markers")
    done.assert_outcomes(passed=2)


@pytest.mark.slow
def test_plugin_imports_nothing_until_the_fixture_is_used(
    pytester: pytest.Pytester, plugin: list[str]
) -> None:
    pytester.makepyfile(
        """
        import sys

        def loaded():
            return {name.partition(".")[0] for name in sys.modules}

        def ours():
            return {name for name in sys.modules if name.startswith("h2o_client")}

        def test_without():
            assert ours() == {"h2o_client", "h2o_client._version", "h2o_client.testing"}
            assert not loaded() & {"httpx", "httpcore", "anyio", "h11", "trio"}

        def test_with(h2o_server):
            assert "h2o_client.emulator" in ours()
            assert "httpx" not in loaded()
        """
    )
    done = pytester.runpytest_subprocess(*plugin)
    done.assert_outcomes(passed=2)


@pytest.mark.slow
def test_missing_dependency_is_a_clear_error(pytester: pytest.Pytester, plugin: list[str]) -> None:
    pytester.makepyfile(
        """
        def test_that_needs_it(h2o_server):
            raise AssertionError("not reached")

        def test_that_does_not():
            pass
        """
    )
    pytester.makeconftest("import sys; sys.modules['h11'] = None")
    done = pytester.runpytest_subprocess(*plugin)
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines(["*h2o_server needs h11 (from a clone: pip install '.[[]testing]')*"])
    done.stdout.no_fnmatch_line("*ModuleNotFoundError*")


@pytest.mark.slow
def test_async_tests_can_use_the_fixture(pytester: pytest.Pytester, plugin: list[str]) -> None:
    pytester.makepyfile(
        """
        import pytest
        from h2o_client import AsyncH2oClient

        @pytest.mark.anyio
        async def test_hello(h2o_server):
            h2o_server.reply(" Hi!")
            async with AsyncH2oClient() as client:
                assert str(await client.chat("Hello")) == "Hi!"
        """
    )
    done = pytester.runpytest_subprocess(*plugin, "-p", "anyio.pytest_plugin")
    done.assert_outcomes(passed=2)  # on asyncio and on trio


def test_client_uses_the_fixtures_server(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", "https://elsewhere.invalid")
    monkeypatch.setenv("H2O_CHAT_MODEL", "mine")
    monkeypatch.setenv("H2O_CHAT_TOKEN", "s3cret")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    monkeypatch.setenv("NO_PROXY", "intranet")
    server: Emulator = request.getfixturevalue("h2o_server")
    with H2oClient(retries=0) as client:
        assert client.base_url == server.url
        server.fail(status=429)
        with pytest.raises(RateLimitError):
            client.chat("Hello")
        server.reply(" Hi!")
        assert client.chat("Hello").text == " Hi!"
    assert not any(request.header("authorization") for request in server.requests)
    assert os.environ["NO_PROXY"] == "intranet,127.0.0.1"


def test_each_test_has_its_own_server(h2o_server: Emulator) -> None:
    assert h2o_server.requests == []


@pytest.mark.slow
def test_fixture_restores_the_environment(pytester: pytest.Pytester, plugin: list[str]) -> None:
    pytester.makepyfile(
        """
        import os, threading

        BEFORE = dict(os.environ)

        def test_first(h2o_server):
            assert os.environ["H2O_CHAT_URL"] == h2o_server.url

        def test_second():
            now = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
            assert now == {k: v for k, v in BEFORE.items() if k != "PYTEST_CURRENT_TEST"}
            assert "h2o-emulator" not in {thread.name for thread in threading.enumerate()}
        """
    )
    pytester.runpytest_subprocess(*plugin).assert_outcomes(passed=2)


@pytest.mark.long
def test_fixture_works_with_xdist_workers(pytester: pytest.Pytester, plugin: list[str]) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(test_my_program=EXAMPLE.read_text(encoding="utf-8"))
    done = pytester.runpytest_subprocess(*plugin, "-p", "xdist", "-n", "2")
    done.assert_outcomes(passed=6)
