"""Headless Chromium for tests of pages, told what to do through two pipes in its own protocol; and axe-core."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_SECONDS = 60
SIZES, SCHEMES = (1280, 390), ("light", "dark")  # pixels of width; prefers-color-scheme
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
         "--disable-dev-shm-usage", "--no-first-run", "--force-prefers-reduced-motion")  # fmt: skip


class Chromium:
    def __init__(self, profile: Path, *flags: str):
        reads, self.orders = os.pipe()
        self.answers, writes = os.pipe()
        command = ["bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', CHROMIUM]  # it asks for these numbers
        self.process = subprocess.Popen(
            [*command, *FLAGS, f"--user-data-dir={profile}", *flags],
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

    def open(self, url: str, width: int = 1280, scheme: str = "light") -> float:
        """Show a page. -> seconds until it was there."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.ask("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.events.clear()
        start = time.perf_counter()
        self.ask("Page.navigate", {"url": url})
        if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.wait(lambda event: event.get("method") == "Page.loadEventFired")
        return time.perf_counter() - start

    def evaluate(self, expression: str):
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self.ask("Runtime.evaluate", given)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str):
        """What the expression gives as soon as it is something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if found := self.evaluate(expression):
                return found
            time.sleep(0.1)
        raise TimeoutError(expression)

    def click(self, selector: str) -> None:
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, code: int) -> None:
        """A key, by its name and its Windows key code."""
        typed = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            given = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.ask("Input.dispatchKeyEvent", given | (typed if kind == "keyDown" else {}))

    def drop(self, file: Path, selector: str) -> None:
        """Drag a file onto an element and let go."""
        x, y = self.until(
            f"(e => e && (r => [r.x + r.width / 2, r.y + r.height / 2])(e.getBoundingClientRect()))"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.ask("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})

    def requests(self) -> list[str]:
        """What was asked for since a page was opened, from the network."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """What the console holds: things that the page's own policy forbids, above all."""
        return [event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"]

    def violations(self, axe: str) -> list[list]:
        """What axe-core finds: rule, number of elements, the first of them."""
        self.evaluate(f"{axe};0")
        return self.evaluate(
            "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"
        )

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.ask("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        os.close(self.orders)
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
        os.close(self.answers)


def axe_core() -> str:
    """axe-core's script, of AXE_CORE, the path of axe.min.js, or of npm's own folder; skips where there is none."""
    found = [Path(os.environ["AXE_CORE"])] if "AXE_CORE" in os.environ else []
    if not found and shutil.which("npm"):
        modules = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True).stdout.strip()
        found = [Path(modules) / "axe-core" / "axe.min.js"]
    if not found or not found[0].is_file():
        pytest.skip("needs axe-core: npm install --global axe-core")
    return found[0].read_text(encoding="utf-8")
