"""JupyterLab in a real browser shows malicious answers as text, and runs nothing.

Requires `pip install '.[notebook]' ipykernel jupyterlab selenium`, Chromium and its driver.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from attacks import ALL, MARKUP, TEX

from h2o_client.emulator import Emulator, GenerationRequest

# selenium and JupyterLab's packages emit warnings of their own.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]

PATIENCE = 180.0
CONTROL = "<img src=x onerror='window.controlled = 1'>"
CELLS = [
    (
        "from IPython.display import Markdown, display\n"
        "from h2o_client import AsyncH2oClient, H2oClient\n"
        "client = H2oClient()\n"
        "%load_ext h2o_client\n"
        # JupyterLab runs other outputs, which proves that this test would notice.
        f"display(Markdown({CONTROL!r}))"
    ),
    "client.chat('0')",
    f"for number in range({len(ALL)}): display(client.chat(str(number)))",
    f"for number in range({len(ALL)}): client.stream(str(number)).display()",
    (
        "async with AsyncH2oClient() as other:\n"
        f"    for number in range(0, {len(ALL)}, 5): await other.stream(str(number)).display()"
    ),
    "%%chat\n2",
    (
        "conversation = client.conversation()\n"
        f"for number in range(0, {len(ALL)}, 5): conversation.send(str(number))\n"
        "display(*conversation.history())"
    ),
    "conversation.history()[-1]",
    "client.close()\nprint('all', 'done')",
]
SETTINGS = {"windowingMode": "none", "maxNumberOutputs": 10_000}
TAGS = (
    *("a", "blockquote", "br", "code", "em", "h1", "li", "p", "pre", "strong"),
    *("table", "tbody", "td", "th", "thead", "tr", "ul"),
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1200,1000",
]
OUTPUTS = "[...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output')]"


def answer(request: GenerationRequest) -> str:
    """Answer a number with the attack of that number."""
    return " " + ALL[int(request.messages[-1][1] if request.messages else request.prompt)]


def until(what: Callable[[], Any], failed: Callable[[], object]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, failed()
        time.sleep(0.2)
    return found


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a notebook in a separate JupyterLab, whose kernels use an emulator."""
    pytest.importorskip("jupyterlab")
    pytest.importorskip("ipykernel")
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps(SETTINGS))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "attack.ipynb").write_text(json.dumps(notebook()))
    with Emulator(engine=answer) as server:
        monkeypatch.setenv("H2O_CHAT_URL", server.url)
        monkeypatch.setenv("JUPYTERLAB_SETTINGS_DIR", str(tmp_path / "settings"))
        for name in ("CONFIG", "DATA", "RUNTIME"):
            monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name))
        log = tmp_path / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
                    *("--ip=127.0.0.1", "--port=0", "--expose-app-in-browser"),
                    *("--IdentityProvider.token=", f"--ServerApp.root_dir={notes}"),
                ],
                stdout=file,
                stderr=file,
            )
        try:
            state = until(
                lambda: next(tmp_path.glob("RUNTIME/jpserver-*.json"), None), log.read_text
            )
            url = until(lambda: state.read_text(), log.read_text)
            yield json.loads(url)["url"] + "lab/tree/attack.ipynb?reset"
        finally:
            process.terminate()
            process.wait(30)
        server.wait_idle()


def notebook() -> Any:
    nbformat = import_module("nbformat.v4")
    cells = [nbformat.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("requires Chromium and its driver")
    chrome = import_module("selenium.webdriver.chrome.webdriver")
    options = import_module("selenium.webdriver.chrome.options").Options()
    service = import_module("selenium.webdriver.chrome.service").Service(driver)
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'chromium'}"]:
        options.add_argument(flag)
    driven = chrome.WebDriver(options, service)
    yield driven
    driven.quit()


def test_malicious_answers_run_nothing(lab: str, browser: Any) -> None:
    def ask(expression: str) -> Any:
        return browser.execute_script(f"return {expression}")

    def shown() -> str:
        return str(ask(f"{OUTPUTS}.map(output => output.textContent).join('\\n')"))

    browser.get(lab)
    until(lambda: ask("!!(window.jupyterapp && document.querySelector('.jp-Notebook'))"), shown)
    until(lambda: ask("document.querySelectorAll('.jp-CodeCell').length") == len(CELLS), shown)
    browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "window.jupyterapp.restored.then(() => done());"
    )
    kernel = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
    until(lambda: ask(f"{kernel}?.status") == "idle", shown)
    ask("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    until(lambda: "all done" in shown(), shown)
    until(lambda: ask("window.controlled"), shown)
    for link in browser.find_elements("css selector", ".jp-OutputArea-output a"):
        assert link.get_attribute("href").startswith("http://x")
    time.sleep(1)  # time for delayed effects of an answer

    assert ask("window.attacked") is None
    assert ask("window.frames.length") == 0
    # JupyterLab adds an element to headings.
    answers = "document.querySelectorAll('.jp-RenderedHTML *:not(.numbering-entry)')"
    tags = set(ask(f"[...{answers}].map(element => element.localName)"))
    assert tags <= {"div", "img", *TAGS}
    names = set(ask(f"[...{answers}].flatMap(element => element.getAttributeNames())"))
    # JupyterLab adds `target` and `rel`.
    assert names <= {"class", "href", "src", "alt", "title", "target", "rel", "style"}
    text = shown()
    assert "Traceback" not in text
    for attack in MARKUP:
        for tag in re.findall(r"^<\w+[^<>\n\0\u202e]*>", attack):
            assert tag in text
    for attack in TEX:
        assert attack.replace("\\\\", "\\") in text
