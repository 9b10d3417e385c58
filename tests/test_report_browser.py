"""Report pages in headless Chromium, as people see them: 1280 and 390 px wide, light and dark, and by axe-core.

Run: pytest tests/test_report_browser.py -m browser
Skipped where there is no chromium; axe-core is looked for in AXE_CORE, the path of axe.min.js, and in npm's own folder.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from test_report import ROWS, a_run, big_run

from w2v.report import report_html
from w2v.report_compare import comparison_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
PATIENCE_SECONDS = 60
SIZES, SCHEMES = (1280, 390), ("light", "dark")  # pixels of width; prefers-color-scheme
PAGES = {
    "big": lambda: report_html(big_run()),
    "whisper": lambda: report_html(a_run([("a.mp3", "bir iki", "bir ikki üç")], advice=["Do this."], metrics=[])),
    "right-to-left": lambda: report_html(big_run("ar", "صباح الخير يا عالم كيف حالك اليوم", 30)),
    "without-spaces": lambda: report_html(big_run("zh-CN", "今天 天气 很好 你好 世界 朋友 我们", 30)),
    "unbroken": lambda: report_html(big_run("tr", " ".join(["ğ" * 300, "w" * 150, "ev"]), 30)),
    "comparison": lambda: comparison_html(
        [
            a_run(ROWS, "a-run-with-a-name-that-is-as-long-as-people-make-them-1"),
            a_run(ROWS[::-1], "other"),
            big_other(),
        ]
    ),
}


class Chromium:
    """A headless browser that is told what to do through two pipes, in Chromium's own protocol."""

    def __init__(self, profile: Path):
        reads, self.orders = os.pipe()
        self.answers, writes = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
                 "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"]  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', CHROMIUM, *flags],  # it asks for these numbers
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self.number, self.held, self.events, self.session = 0, b"", [], None
        target = self.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, parameters: dict | None = None) -> dict:
        self.number += 1
        order = {"id": self.number, "method": method, "params": parameters or {}}
        if self.session is not None:
            order["sessionId"] = self.session
        os.write(self.orders, json.dumps(order).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.number).get("result", {})

    def wait(self, is_it) -> dict:
        """The next message that is the one; others are kept as events."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            message, found, rest = self.held.partition(b"\0")
            if not found:
                if select.select([self.answers], [], [], PATIENCE_SECONDS)[0]:
                    self.held += os.read(self.answers, 1 << 20)
                continue
            self.held = rest
            answer = json.loads(message)
            assert "error" not in answer, answer
            if is_it(answer):
                return answer
            self.events.append(answer)
        raise TimeoutError

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> float:
        """Show a page. -> seconds until it was there."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.ask("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.events.clear()
        start = time.perf_counter()
        self.ask("Page.navigate", {"url": page.as_uri()})
        if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.wait(lambda event: event.get("method") == "Page.loadEventFired")
        return time.perf_counter() - start

    def evaluate(self, expression: str):
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self.ask("Runtime.evaluate", given)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """What was asked for since the page was opened, other than the page and what it holds."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent[1:] if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """What the console holds: things that the page's own policy forbids, above all."""
        return [event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"]

    def press(self, key: str, code: int) -> None:
        """A key, by its name and its Windows key code."""
        typed = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            given = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.ask("Input.dispatchKeyEvent", given | (typed if kind == "keyDown" else {}))

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.ask("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        os.close(self.orders)
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
        os.close(self.answers)


def big_other():
    return a_run([(name, text, "bir iki üç", speaker) for name, text, _, speaker in ROWS], "a-third_run" * 5)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script; skips where it is not at hand."""
    found = [Path(os.environ["AXE_CORE"])] if "AXE_CORE" in os.environ else []
    if not found and shutil.which("npm"):
        modules = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True).stdout.strip()
        found = [Path(modules) / "axe-core" / "axe.min.js"]
    if not found or not found[0].is_file():
        pytest.skip("needs axe-core: npm install --global axe-core")
    return found[0].read_text(encoding="utf-8")


def unfold(chromium: Chromium) -> None:
    chromium.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone_or_asks_for_anything(name, chromium, pages):
    for width in SIZES:
        chromium.open(pages[name], width)
        for _ in range(2):
            assert chromium.evaluate("innerWidth") == width
            assert chromium.evaluate("document.documentElement.scrollWidth") == width
            unfold(chromium)
        assert chromium.requests() == []
        assert chromium.complaints() == []


def test_a_page_of_1000_predictions_opens_in_two_seconds(chromium, pages):
    chromium.open(pages["whisper"])
    assert min(chromium.open(pages["big"]) for _ in range(3)) < 2


@pytest.mark.parametrize("name", sorted(PAGES.keys() - {"big"}))  # whose 1,000 rows are as those of others
def test_axe_core_finds_nothing(name, chromium, pages, axe):
    for width in SIZES:
        for scheme in SCHEMES:
            chromium.open(pages[name], width, scheme)
            unfold(chromium)
            chromium.evaluate(f"{axe};0")
            found = chromium.evaluate(
                "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"
            )
            assert found == [], (width, scheme)


def test_light_and_dark(chromium, pages):
    shades = []
    for scheme in SCHEMES:
        chromium.open(pages["whisper"], scheme=scheme)
        shades.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert shades == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_players_hold_their_clips(chromium, pages):
    chromium.open(pages["big"])
    lengths = chromium.evaluate(
        "Promise.all([...document.querySelectorAll('audio')].map(player => player.readyState ? player.duration : "
        "new Promise(done => { player.onloadedmetadata = () => done(player.duration); player.onerror = () => done(-1) "
        "})))"
    )
    assert len(lengths) == 20
    assert all(length == pytest.approx(5, abs=0.2) for length in lengths)


def test_all_can_be_reached_and_opened_by_keyboard(chromium, pages):
    chromium.open(pages["unbroken"])
    reached = set()
    for _ in range(400):
        chromium.press("Tab", 9)
        reached.add(chromium.evaluate("document.activeElement.tagName + ' ' + document.activeElement.className"))
        if chromium.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert {"A ", "AUDIO ", "DIV wide", "SUMMARY "} <= reached
    assert chromium.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("Enter", 13)
    assert chromium.evaluate("document.activeElement.parentElement.open")


def test_print_leaves_out_what_paper_cannot_do(chromium, pages):
    chromium.open(pages["big"], scheme="dark")
    chromium.ask("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "[...document.querySelectorAll('audio, nav')].filter(e => getComputedStyle(e).display != 'none').length"
    assert chromium.evaluate(shown) == 0
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    chromium.ask("Emulation.setEmulatedMedia", {"media": ""})
