"""The page of recipes.demo: in Chromium, whose microphone is a file, by axe-core, and what its server tells and asks.

Run: pytest tests/recipes/test_demo_page.py
Skipped where there is no gradio; what needs Chromium, or axe-core, is skipped where that is not at hand.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import CHROMIUM, SCHEMES, SIZES, Chromium, axe_core
from conftest import ROOT
from test_demo import NAME, save_model

import w2v
from recipes.demo import DOUBTFUL
from recipes.demo_page import HOST, POLICY
from w2v.audio import SAMPLE_RATE, read_audio

HEARD, NOTE = "document.querySelector('.heard')", "document.querySelector('.note')"
IS_OVER = f"{NOTE} && !{NOTE}.innerText.includes('there is more')"
FILES = ".block:has(input[type=file])"
browser = pytest.mark.browser
pytestmark = pytest.mark.slow

WATCH = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        with open({file!r}, "a") as file:
            print(event, arguments[1] if event != "socket.getaddrinfo" else arguments[0], file=file)

sys.addaudithook(watch)
"""


class Demo:
    """The command in a process of its own. Where it connects to is written down."""

    def __init__(self, model: Path, folder: Path):
        pytest.importorskip("gradio")
        self.folder, self.connections = folder / "tmp", folder / "connections"
        self.folder.mkdir()
        self.connections.touch()
        (folder / "sitecustomize.py").write_text(WATCH.format(file=str(self.connections)), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TMPDIR": str(self.folder)}
        environment.pop("GRADIO_ANALYTICS_ENABLED", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recipes.demo", "--model", model, "--device", "cpu", "--port", "0"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        line = self.process.stderr.readline()
        self.address = re.search(r"http://127\.0\.0\.1:\d+", line)[0]

    def recordings(self) -> list[Path]:
        return sorted(self.folder.glob("w2v-demo-*/**/*.*"))

    def close(self, number: int) -> tuple[str, str]:
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / NAME
    save_model(folder)
    return folder


@pytest.fixture(scope="module")
def asr(model) -> w2v.Recogniser:
    return w2v.load(model)


@pytest.fixture(scope="module")
def shown(model, tmp_path_factory):
    demo = Demo(model, tmp_path_factory.mktemp("demo"))
    yield demo
    demo.close(signal.SIGTERM)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory, clips):
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    folder = tmp_path_factory.mktemp("chromium")
    soundfile.write(folder / "microphone.wav", read_audio(clips[0]), SAMPLE_RATE)
    browser = Chromium(
        folder / "profile", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
    )  # fmt: skip
    yield browser
    browser.close()


def look(chromium: Chromium, shown: Demo, width: int = 1280, scheme: str = "light") -> None:
    chromium.open(shown.address, width, scheme)
    chromium.until("!!document.querySelector('input[type=file]') && !!document.querySelector('button.record')")


def drop(chromium: Chromium, file: Path) -> None:
    chromium.drop(file, FILES)
    chromium.until(IS_OVER)


def record(chromium: Chromium, seconds: float) -> None:
    chromium.click("button.record")
    chromium.until("document.querySelector('button.stop-button').style.display != 'none'")
    time.sleep(seconds)
    chromium.click("button.stop-button")
    chromium.until(IS_OVER)


def asked_elsewhere(chromium: Chromium, shown: Demo) -> list[str]:
    asked = chromium.requests()
    assert asked  # the page itself, at least
    return [url for url in asked if not url.startswith(shown.address + "/")]


@browser
def test_a_dropped_file_is_written_as_transcribe_hears_it(chromium, shown, asr, clips):
    look(chromium, shown)
    drop(chromium, clips[0])
    expected = asr.transcribe(clips[0], words=True)[0]
    assert chromium.evaluate(f"{HEARD}.innerText") == expected.text
    words = chromium.evaluate(f"[...{HEARD}.querySelectorAll('span')].map(word => word.innerText)")
    assert words == [word.text for word in expected.words]
    unsure = next(i for i, word in enumerate(expected.words) if word.confidence < DOUBTFUL + 0.3)
    style = f"getComputedStyle({HEARD}.querySelectorAll('span')[{unsure}])"
    assert chromium.evaluate(f"{style}.textDecorationLine") == "underline"  # not by colour alone
    assert chromium.evaluate(f"{style}.backgroundColor") != "rgba(0, 0, 0, 0)"
    assert chromium.evaluate("document.title") == f"w2v: {NAME}"
    assert chromium.evaluate("document.querySelector('h1').innerText") == NAME
    assert asked_elsewhere(chromium, shown) == []
    assert chromium.complaints() == []


@browser
def test_a_microphone_is_heard(chromium, shown, asr, clips):
    look(chromium, shown)
    record(chromium, 4)
    recorded = max(shown.recordings(), key=lambda file: file.stat().st_mtime)
    assert recorded.suffix == ".wav"
    assert chromium.evaluate(f"{HEARD}.innerText") == asr.transcribe(recorded)[0].text != ""
    spoken, heard = (loudness(read_audio(file)) for file in (clips[0], recorded))
    likeness = max(np.corrcoef(spoken, part)[0, 1] for part in windows(np.tile(heard, 2), len(spoken)))
    assert likeness > 0.7
    assert asked_elsewhere(chromium, shown) == []
    assert chromium.complaints() == []


def loudness(samples: np.ndarray) -> np.ndarray:
    """(tenths of a second,), in decibels."""
    size = SAMPLE_RATE // 10
    parts = samples[: len(samples) // size * size].reshape(-1, size)
    return 10 * np.log10(np.square(parts).mean(1) + 1e-6)


def windows(values: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, size)


@browser
def test_a_bad_file_is_one_line_on_the_page(chromium, shown, tmp_path):
    (tmp_path / "bad.mp3").write_text("no audio")
    look(chromium, shown)
    drop(chromium, tmp_path / "bad.mp3")
    assert chromium.evaluate(f"{NOTE}.innerText") == "This recording cannot be used: unreadable: Format not recognised"
    chromium.click(f"{FILES.split(':')[0]} [aria-label=Clear]:not(.block:has(button.record) *)")
    chromium.until(f"!{NOTE}")


@browser
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_core_finds_nothing_and_nothing_is_wider_than_the_screen(chromium, shown, clips, tmp_path, width, scheme):
    axe = axe_core()
    (tmp_path / "bad.mp3").write_text("no audio")

    def is_fine():
        assert chromium.violations(axe) == []
        assert chromium.evaluate("document.documentElement.scrollWidth") == width

    look(chromium, shown, width, scheme)
    assert chromium.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    assert chromium.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    is_fine()
    drop(chromium, clips[0])
    is_fine()
    look(chromium, shown, width, scheme)
    drop(chromium, tmp_path / "bad.mp3")
    is_fine()
    look(chromium, shown, width, scheme)
    record(chromium, 1)
    is_fine()


@browser
def test_the_browser_stops_requests_to_elsewhere(chromium, shown):
    look(chromium, shown)
    with socket.create_server((HOST, 0)) as elsewhere:
        elsewhere.settimeout(1)
        address = f"http://{HOST}:{elsewhere.getsockname()[1]}/a"
        assert chromium.evaluate(f"fetch('{address}').then(() => 'went', () => 'stopped')") == "stopped"
        chromium.evaluate(f"new Image().src = '{address}'; 0")
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    assert "Content Security Policy" in " ".join(chromium.complaints())


def test_the_server_answers_this_machine_alone_and_asks_nobody(shown):
    def ask(path: str, host: str | None = None):
        request = urllib.request.Request(shown.address + path, headers={"Host": host} if host else {})
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)

    with ask("/") as answer:
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert "googleapis" not in answer.read().decode()
    for path, host in ("/", "example.org"), ("/docs", None), ("/redoc", None):
        with pytest.raises(urllib.error.HTTPError, match="400" if host else "404"):
            ask(path, host)
    assert shown.connections.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_its_summary_and_no_recording_is_left(model, tmp_path, number):
    demo = Demo(model, tmp_path)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(demo.address, timeout=30):
        pass
    assert list(demo.folder.glob("w2v-demo-*"))
    out, error = demo.close(number)
    assert json.loads(out) == {"address": demo.address}
    assert (demo.process.returncode, error) == (0, "")
    assert not list(demo.folder.glob("w2v-demo-*"))
