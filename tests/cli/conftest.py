"""The command in this process, its state in a folder of the test, and a server for it."""

from pathlib import Path
from typing import Any

import pytest
from command import Command, keep_two

import h2o_client
from h2o_client.emulator import Emulator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the command's state."""
    path = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(path))
    monkeypatch.setenv("LOCALAPPDATA", str(path))
    return path / "h2o-client"


@pytest.fixture
def served(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The server, configured in the environment."""
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    return server


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process."""
    assert not home.exists()
    return Command(capsys)


@pytest.fixture
def kept(home: Path, served: Emulator) -> list[str]:
    """The ids of two conversations, the second the last one."""
    assert not home.exists()
    return keep_two(served)


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable retries, which wait for seconds."""
    made = h2o_client.H2oClient

    def client(*args: Any, **keywords: Any) -> h2o_client.H2oClient:
        return made(*args, **{**keywords, "retries": 0})

    monkeypatch.setattr(h2o_client, "H2oClient", client)
