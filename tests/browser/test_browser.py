"""Notebooks 03 and 05 in a real JupyterLab, and the HTML pages, in a real Chromium. `make test-browser` runs it.

Nothing in the working tree changes, except that pictures of what was seen are left in `runs/browser/`.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest

from perception_r1.common.files import ROOT
from perception_r1.notebook import runner

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is missing: make test-browser installs it"
)
expect = sync_api.expect

SEEN = ROOT / "runs" / "browser"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NOTEBOOK = "03_judge_reward_design.ipynb"
PARAMETERS = {"profile": "smoke", "shared": "none"}  # quick, and without third-party data
COPIED = ("notebooks", "perception_r1", "data", "pyproject.toml", "constraints.txt")
LONGEST = 6 * 60  # seconds for all cells of a notebook on a busy machine
SETTLED = """() => {
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent);
    return document.querySelector('#jp-main-statusbar').textContent.includes('| Idle')
        && prompts.some(p => /\\d/.test(p)) && !prompts.some(p => p.includes('*'));
}"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; on Debian or Ubuntu: apt install chromium")
    SEEN.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Watched:
    """A page, and everything that went wrong on it."""

    def __init__(self, browser, **context):
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.asked: set[str] = set()  # schemes and hosts
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        self.page.on("request", lambda r: self.asked.add("/".join(r.url.split("/")[:3])))
        self.page.on(
            "requestfailed", lambda r: self.wrong.append(f"failed: {r.method} {r.url} {r.failure}")
        )
        self.page.on(
            "response",
            lambda r: r.status >= 400 and self.wrong.append(f"HTTP {r.status}: {r.url}"),
        )

    def _console(self, message) -> None:
        if message.type == "error":
            self.wrong.append(f"console: {message.text} ({message.location.get('url')})")

    def picture(self, name: str, **how) -> None:
        self.page.screenshot(path=SEEN / f"{name}.png", **how)


# --- JupyterLab -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A copy of the repository whose notebook 03 has the quick parameters and no outputs."""
    folder = tmp_path_factory.mktemp("lab") / "repository"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder)
    path = folder / "notebooks" / NOTEBOOK
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in PARAMETERS.items():
                old = re.compile(rf'^({name}: str = )"\w*"', re.MULTILINE)
                assert old.search(cell.source), f"{NOTEBOOK} has no parameter {name}"
                cell.source = old.sub(rf'\g<1>"{value}"', cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def lab(copied):
    """Address of a JupyterLab over the copy, with the settings of nobody; the token stands in it."""
    own = copied.parent
    settings = own / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data",
               "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}  # fmt: skip
    environment = os.environ | {name: str(own / folder) for name, folder in folders.items()}
    environment |= {"PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PERCEPTION_R1_HEADLESS", None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    with (own / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
                f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={copied}",
                f"--IdentityProvider.token={token}",
            ],
            cwd=copied, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _await_server(f"http://127.0.0.1:{port}/api?token={token}", server, own / "server.log")
            yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{NOTEBOOK}?token={token}"
        finally:
            server.terminate()  # ends its kernels too
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _await_server(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(120):
        assert server.poll() is None, f"JupyterLab ended: {log.read_text()[-2000:]}"
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()[-2000:]}")


def choose(page, *path: str) -> None:
    """Take an entry of JupyterLab's menu bar, with the mouse."""
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{path[0]}$")).click()
    for name in path[1:]:
        entry = page.locator(".lm-Menu-item", has_text=re.compile(rf"^{re.escape(name)}"))
        entry.last.click()


def run_all(browser, address: str) -> Watched:
    """A notebook in JupyterLab after Run > Run All Cells."""
    watched = Watched(browser, viewport={"width": 1400, "height": 1000})
    page = watched.page
    page.goto(address)
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=120_000)
    choose(page, "Run", "Run All Cells")
    page.wait_for_function(SETTLED, timeout=LONGEST * 1000, polling=500)
    return watched


@pytest.fixture(scope="module")
def opened(lab, browser):
    """Notebook 03; what went wrong is looked at after each test."""
    watched = run_all(browser, lab)
    watched.picture("lab-ran")
    yield watched
    watched.page.context.close()


@pytest.fixture
def page(opened):
    yield opened.page
    assert opened.wrong == []
    assert {host.split(":")[1] for host in opened.asked if host[:4] == "http"} == {"//127.0.0.1"}


class Panel:
    """The panel of notebook 03: its two controls, and what they change."""

    def __init__(self, page):
        self.pick = page.locator(".widget-dropdown select")
        self.gamma = page.locator(".widget-slider [role=slider]")
        self.content = page.locator(".widget-html-content", has_text="gamma = ")
        self.question = self.content.locator("p").first
        expect(self.content).to_have_count(1)
        self.pick.scroll_into_view_if_needed()

    def advantages(self) -> dict[str, float]:
        """The number in bold by response."""
        return {
            part.get_attribute("aria-label"): float(part.locator(".paid b").inner_text())
            for part in self.content.locator("section").all()
        }


def test_every_cell_runs(page, copied):
    wrong = page.locator('[data-mime-type$="jupyter.error"], [data-mime-type$="jupyter.stderr"]')
    assert wrong.all_text_contents() == []  # JupyterLab draws an exception as either
    counts = list(range(1, 1 + len(_code(copied))))
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
    assert prompts == [f"[{count}]:" for count in counts]
    page.keyboard.press("Control+s")
    expect(page.locator(".jp-mod-current.jp-mod-dirty")).to_have_count(0)
    saved = _code(copied)
    assert [cell.execution_count for cell in saved] == counts
    assert not [o for cell in saved for o in cell.outputs if o.output_type == "error"]
    assert (copied / "runs/smoke/artifacts/03/run.json").is_file()


def test_the_panel_by_the_keyboard(page, opened):
    """In command mode JupyterLab moves between cells, folds sections and (with B) adds cells on such keys."""
    panel, cells = Panel(page), page.locator(".jp-Cell").count()
    panel.pick.focus()
    question = panel.question.inner_text()
    for key in ("Space", "ArrowDown", "Enter"):  # opens the list, moves in it, takes
        page.keyboard.press(key)
    expect(panel.question).not_to_have_text(question)
    assert panel.pick.evaluate("select => select.selectedIndex") == 1

    page.keyboard.press("b")
    at_first = panel.advantages()
    page.keyboard.press("Tab")
    expect(panel.gamma).to_be_focused()
    page.keyboard.press("PageUp")
    expect(panel.content).not_to_contain_text("gamma = 0.70")
    assert panel.advantages()["lucky, right"] < at_first["lucky, right"]
    page.keyboard.press("End")
    expect(panel.content).to_contain_text("gamma = 2.50")
    page.keyboard.press("Home")
    expect(panel.content).to_contain_text("gamma = 0.00")
    luck = panel.advantages()
    assert luck["lucky, right"] == luck["sees, right"]  # at 0, luck is worth as much as sight
    panel.content.locator("section").first.scroll_into_view_if_needed()
    opened.picture("lab-gamma-0")
    page.keyboard.press("ArrowRight")
    expect(panel.content).to_contain_text("gamma = 0.05")
    expect(page.locator(".jp-Cell")).to_have_count(cells)


def test_the_dials_of_05_by_the_keyboard(lab, browser):
    watched = run_all(browser, lab.replace(NOTEBOOK, "05_results.ipynb"))
    page, cells = watched.page, watched.page.locator(".jp-Cell").count()
    dials, drawn = (
        page.locator(f".perception-r1-panel {part}") for part in ("[role=slider]", "img")
    )
    expect(dials).to_have_count(4, timeout=60_000)
    at_first = drawn.get_attribute("src")
    dials.nth(1).scroll_into_view_if_needed()
    dials.nth(1).focus()
    page.keyboard.press("b")  # would add a cell
    page.keyboard.press("ArrowLeft")
    expect(drawn).not_to_have_attribute("src", at_first, timeout=60_000)
    expect(page.locator(".jp-Cell")).to_have_count(cells)
    watched.picture("lab-05-dials")
    assert watched.wrong == []
    page.context.close()


def _code(copied: Path) -> list[nbformat.NotebookNode]:
    """The code cells as they stand on the disk."""
    cells = nbformat.read(copied / "notebooks" / NOTEBOOK, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


# --- the HTML pages ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(browser, tmp_path_factory) -> Path:
    """A run of the notebooks that need no training."""
    folder = tmp_path_factory.mktemp("pages") / "run"
    given = ["mathvista=none", "shared=none"]
    assert runner.run("smoke", ["01", "03", "05"], folder, given) == 0
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_html_pages(pages, browser, scheme):
    watched = Watched(browser, viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page = watched.page
    page.goto((pages / "index.html").as_uri())
    cards, table = page.locator("main > article"), page.locator(".claims table").first
    expect(page.locator("h1")).to_be_in_viewport()
    expect(cards).to_have_count(5)
    assert table.locator("tbody tr").count() == 5
    lowest = max(box["y"] for box in (card.bounding_box() for card in cards.all()))
    assert table.bounding_box()["y"] > lowest, "the notebooks come first"
    assert _too_wide(page) == [] and _dead_links(page) == []
    watched.picture(f"index-{scheme}", full_page=True)

    page.locator("article a", has_text="05 ·").first.click()
    expect(page).to_have_url(re.compile(r"/05_results\.html$"))
    expect(page.locator("h1").first).to_be_visible()
    assert _too_wide(page) == [] and _dead_links(page) == []
    watched.picture(f"05-{scheme}", full_page=True)
    _slide(page)
    page.locator(".bar a", has_text="Before: 03").first.click()
    expect(page).to_have_url(re.compile(r"/03_judge_reward_design\.html$"))
    _slide(page)
    assert _dead_links(page) == []
    page.set_viewport_size({"width": 420, "height": 800})
    assert _too_wide(page) == []
    page.locator(".bar a", has_text="Index").first.click()
    expect(page).to_have_url(re.compile(r"/index\.html$"))

    page.set_viewport_size({"width": 400, "height": 800})
    page.goto((pages / "index.html").as_uri())
    assert _too_wide(page) == []
    watched.picture(f"index-{scheme}-phone", full_page=True)
    assert watched.wrong == []
    assert not [address for address in watched.asked if address.startswith("http")]
    page.context.close()


def _slide(page) -> None:
    """Move the page's own slider by the keyboard: the next position opens, and no other."""
    slider = page.locator("input[type=range]")
    at = int(slider.input_value())
    slider.focus()
    page.keyboard.press("ArrowRight")
    places = page.locator(".jp-OutputArea-output", has=slider).locator("details")
    assert places.evaluate_all("all => all.map(e => e.open)") == [
        place == at + 1 for place in range(places.count())
    ]


def _dead_links(page) -> list[str]:
    """Links to files that are not there."""
    links = page.evaluate("[...document.links].map(a => a.href.split('#')[0])")
    paths = [unquote(urlparse(link).path) for link in set(links) if link.startswith("file:")]
    return [path for path in paths if not Path(path).exists()]


def _too_wide(page) -> list[str]:
    """What sticks out of the window to the right, unless it can be scrolled where it stands."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.body.querySelectorAll('*')]
            .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth)
            .map(e => `${e.tagName}.${e.className}`)"""
    )
