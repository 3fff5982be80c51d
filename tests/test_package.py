"""The package as published: its index page, and the wheel installed alone in a new environment."""

import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from h2o_client.emulator import Emulator

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ASK = """
from h2o_client import H2oClient, H2oError
with H2oClient() as client:
    print(client.chat("Hello!"))
    with client.stream("Hello!") as stream:
        print(*stream, sep="")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("packages")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return email.message_from_bytes(archive.read(name))


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_package_page_has_no_relative_links(metadata: Message) -> None:
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert "# h2o_client" in page
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert [target for target in targets if not re.match(r"https?://|#", target)] == []


@pytest.mark.long
def test_wheel_requires_only_httpx_and_its_dependencies(metadata: Message) -> None:
    needed = [item for item in metadata.get_all("Requires-Dist", []) if "extra ==" not in item]
    assert sorted(re.split(r"[<>=]", item)[0] for item in needed) == ["anyio", "httpcore", "httpx"]


@pytest.mark.long
def test_wheel_works_without_extras(wheel: Path, server: Emulator, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    (python,) = tmp_path.glob("venv/*/python")
    run(str(python), "-m", "pip", "install", "--quiet", str(wheel))
    program = tmp_path / "ask.py"  # in a folder without the source
    program.write_text(ASK, "utf-8")
    shown = run(str(python), "-W", "error", str(program), H2O_CHAT_URL=server.url)
    assert shown.count("Hello! I am the emulator") == 2
    server.wait_idle()
    assert server.conversations == []


def test_classifiers_match_python_versions_and_ci() -> None:
    listed = [item for item in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", item)]
    lowest = listed[0].rpartition(" ")[2]
    assert PROJECT["requires-python"] == f">={lowest}"
    systems = [item for item in PROJECT["classifiers"] if item.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
