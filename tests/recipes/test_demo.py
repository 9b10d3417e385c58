"""recipes.demo: what it writes, what it refuses, and its page in Chromium, whose microphone is a file.

The model is a random one that writes letters which HTML could take for its own.

Run: pytest tests/recipes/test_demo.py
"""

import dataclasses
import html
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
import torch
from chromium import CHROMIUM, SCHEMES, SIZES, Chromium, axe_core
from conftest import ROOT

import w2v
from recipes import demo
from recipes.demo_page import HOST, POLICY
from w2v.answers import DecodeOptions, GenerateOptions, Word
from w2v.audio import SAMPLE_RATE, read_audio
from w2v.decoding.arpa import write_arpa
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.errors import InputError
from w2v.heard import Segment
from w2v.models.whisper import WhisperForConditionalGeneration
from w2v.models.whisper_config import WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer

NAME = "${1+1} {{2+2}} <img src=x onerror=document.title='owned'>"  # of a model's folder
HEARD, NOTE = "document.querySelector('.heard')", "document.querySelector('.note')"
IS_OVER = f"{NOTE} && !{NOTE}.innerText.includes('there is more')"
FILES = ".block:has(input[type=file])"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / NAME
    letters = "abcdeğış<>&\"'{}$"
    tokenizer = w2v.CharTokenizer({"[PAD]": 0, "[UNK]": 1, "|": 2, **{c: i for i, c in enumerate(letters, 3)}})
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=1, vocab_size=len(tokenizer), pad_token_id=0)
    model = w2v.Wav2Vec2ForCTC(config)
    model.lm_head.weight.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def asr(model) -> w2v.Recogniser:
    return w2v.load(model)


def segment(text: str, *words: tuple[str, float]) -> Segment:
    return Segment(text, 0.0, 1.0, [Word(word, 0.5, 0.75, confidence) for word, confidence in words])


def pages(asr, file, options: DecodeOptions | None = None) -> list[str]:
    return list(demo.listen(asr, options or DecodeOptions(words=True), str(file)))


def plain(page: str) -> tuple[str, str]:
    """The text that a page shows, and the note below it."""
    heard, note = re.fullmatch(
        r'<p class="heard" dir="auto">(.*)</p><p class="note" role="\w+">(.*)</p>', page
    ).groups()
    return html.unescape(re.sub("<[^>]*>", "", heard)), html.unescape(note)


def test_words_are_marked_by_confidence_and_the_text_stays_as_it_is():
    shaded = demo.shaded(segment("a, b a c", ("a,", 0.9), ("b", 0.899), ("a", 0.6), ("c", 0.123)))
    title = "% sure, 0.50 to 0.75 s"
    assert shaded == (
        f'<span class="sure" data-percent="90" style="--doubt: 0.10" title="90 {title}">a,</span> '
        f'<span class="unsure" data-percent="90" style="--doubt: 0.10" title="90 {title}">b</span> '
        f'<span class="unsure" data-percent="60" style="--doubt: 0.40" title="60 {title}">a</span> '
        f'<span class="unsure doubtful" data-percent="12" style="--doubt: 0.88" title="12 {title}">c</span>'
    )


@pytest.mark.parametrize(
    "given",
    [
        segment("今天天气", ("今天", 0.2), ("天气", 1.0)),
        segment("no words"),
        segment("a word is written otherwise", ("word", 0.5), ("wRitten", 0.5), ("otherwise", 0.5), ("", 0.5)),
        segment("<b>&amp;</b> \"'", ("<b>&amp;</b>", 0.5), ("\"'", 0.5)),
    ],
)
def test_text_of_any_kind_is_shown_letter_for_letter(given):
    shaded = demo.shaded(given)
    assert html.unescape(re.sub("<[^>]*>", "", shaded)) == given.text
    assert set(re.findall("</?(\\w+)", shaded)) <= {"span"}


def test_a_clip_is_heard_as_transcribe_hears_it(asr, clips):
    *_, page = pages(asr, clips[0])
    expected = asr.transcribe(clips[0], words=True)[0]
    heard, note = plain(page)
    assert heard == expected.text
    assert set("<&") < set(heard)
    assert note == f"{len(read_audio(clips[0])) / SAMPLE_RATE:.1f} s heard."
    found = re.findall(r'class="(?:un)?sure(?: doubtful)?" data-percent="(\d+)"', page)
    assert found == [str(round(100 * word.confidence)) for word in expected.words]
    assert found


def test_a_long_file_is_shown_while_it_is_heard(asr, clips, tmp_path):
    long = np.tile(np.concatenate([read_audio(clip) for clip in clips[:20]]), 8)
    assert len(long) > 300 * SAMPLE_RATE
    soundfile.write(tmp_path / "long.flac", long, SAMPLE_RATE)
    *earlier, last = map(plain, pages(asr, tmp_path / "long.flac"))
    assert earlier
    for heard, note in earlier:
        assert last[0].startswith(heard)
        assert note.endswith("s heard, there is more ...")
    assert last[0] == asr.transcribe(tmp_path / "long.flac")[0].text


def test_whisper_is_heard_too(clips):
    tokenizer = WhisperTokenizer.from_texts(["iyi günler"]).for_language("tr")
    end = tokenizer.eos_id
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80, max_target_positions=40,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=tokenizer.sot_id, init_std=0.5,
    )  # fmt: skip
    asr, generate = w2v.Recogniser(WhisperForConditionalGeneration(config), tokenizer), GenerateOptions()
    texts = []
    for clip in clips[:3]:
        *_, page = pages(asr, clip, DecodeOptions(words=True, generate=generate))
        expected = asr.transcribe(clip, words=True, generate=generate)[0]
        texts.append(expected.text)
        assert plain(page)[0] == expected.text
        assert page.count("data-percent") == len(expected.words)
    assert any(texts)


def test_what_cannot_be_heard_is_one_line(asr, tmp_path):
    (tmp_path / "bad.mp3").write_text("<b>no audio</b>")
    *_, page = pages(asr, tmp_path / "bad.mp3")
    assert plain(page) == ("", "This recording cannot be used: unreadable: Format not recognised")
    assert 'role="alert"' in page
    *_, page = pages(asr, tmp_path / "<i>gone")
    assert plain(page)[1] == "This recording cannot be used: missing file"
    soundfile.write(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    *_, page = pages(asr, tmp_path / "silence.wav")
    assert plain(page) == ("", "No words were heard.")
    assert list(demo.listen(asr, DecodeOptions(), None)) == [demo.note("Nothing was recorded.")]


@pytest.fixture
def served(monkeypatch) -> list:
    """main without gradio: what it would serve, and where."""
    found: list = []

    def serve(listen, listener):
        found.append((listen, listener.getsockname(), Path(os.environ["GRADIO_TEMP_DIR"])))
        (found[-1][2] / "voice.wav").write_bytes(b"a recording")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "find_spec", lambda name: object())
    monkeypatch.setattr(demo, "page", lambda listen, name: listen)
    monkeypatch.setattr(demo, "serve", serve)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "restored afterwards")
    before = signal.getsignal(signal.SIGTERM)
    yield found
    signal.signal(signal.SIGTERM, before)


def run(model, *arguments) -> dict:
    return demo.main(["--model", str(model), "--device", "cpu", "--port", "0", *map(str, arguments)])


def test_it_listens_on_this_machine_alone_and_leaves_no_recording(model, served, capsys):
    summary = run(model)
    ((_, (host, port), folder),) = served
    assert host == "127.0.0.1"
    assert summary == {"address": f"http://127.0.0.1:{port}"}
    assert f"open {summary['address']} in a browser" in capsys.readouterr().err
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port))


def test_a_language_model_searches(model, asr, served, clips, tmp_path):
    greedy = asr.transcribe(clips[0])[0].text
    words = Corpus()
    for word in greedy.replace("d", "").split():
        words.add([word])
    write_arpa(tmp_path / "lm.arpa", estimate_ngram(words, 2).ngram)
    run(model, "--lm", tmp_path / "lm.arpa", "--alpha", "2")
    run(model, "--lm", "none")
    texts = [plain(list(listen(str(clips[0])))[-1])[0] for listen, _, _ in served]
    assert texts[1] == greedy
    search = w2v.load(model).search(tmp_path / "lm.arpa", alpha=2.0)
    assert texts[0] == asr.transcribe(clips[0], lm=search)[0].text != greedy


def test_what_main_refuses(model, served, capsys, monkeypatch):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^`port` must be free, {port} is not: .*; give another$"):
            run(model, "--port", port)
    for wrong in ("-1", "65536", "x"):
        with pytest.raises(SystemExit, match="2"):
            run(model, f"--port={wrong}")
    assert "argument --port: must be at least 0 and at most 65535, got 65536" in capsys.readouterr().err
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'^the page needs gradio; install it, pip install "w2v\[demo\]"$'):
        run("not looked at")
    assert served == []


def test_without_gradio_the_command_is_one_line(tmp_path):
    code = "import sys; sys.modules['gradio'] = None; from recipes import demo; demo.command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", tmp_path], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: the page needs gradio; install it, pip install "w2v[demo]"\n'


# Below, the page itself.

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


browser = pytest.mark.browser


@browser
@pytest.mark.slow
def test_a_dropped_file_is_written_as_transcribe_hears_it(chromium, shown, asr, clips):
    look(chromium, shown)
    drop(chromium, clips[0])
    expected = asr.transcribe(clips[0], words=True)[0]
    assert chromium.evaluate(f"{HEARD}.innerText") == expected.text
    words = chromium.evaluate(f"[...{HEARD}.querySelectorAll('span')].map(word => word.innerText)")
    assert words == [word.text for word in expected.words]
    unsure = next(i for i, word in enumerate(expected.words) if word.confidence < demo.DOUBTFUL + 0.3)
    style = f"getComputedStyle({HEARD}.querySelectorAll('span')[{unsure}])"
    assert chromium.evaluate(f"{style}.textDecorationLine") == "underline"  # not by colour alone
    assert chromium.evaluate(f"{style}.backgroundColor") != "rgba(0, 0, 0, 0)"
    assert chromium.evaluate("document.title") == f"w2v: {NAME}"
    assert chromium.evaluate("document.querySelector('h1').innerText") == NAME
    assert asked_elsewhere(chromium, shown) == []
    assert chromium.complaints() == []


@browser
@pytest.mark.slow
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
@pytest.mark.slow
def test_a_bad_file_is_one_line_on_the_page(chromium, shown, tmp_path):
    (tmp_path / "bad.mp3").write_text("no audio")
    look(chromium, shown)
    drop(chromium, tmp_path / "bad.mp3")
    assert chromium.evaluate(f"{NOTE}.innerText") == "This recording cannot be used: unreadable: Format not recognised"
    chromium.click(f"{FILES.split(':')[0]} [aria-label=Clear]:not(.block:has(button.record) *)")
    chromium.until(f"!{NOTE}")


@browser
@pytest.mark.slow
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
@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
