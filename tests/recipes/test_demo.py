"""recipes.demo: what it writes of a recording, what it refuses, and where it listens.

The model is a random one that writes letters which HTML could take for its own.

Run: pytest tests/recipes/test_demo.py
"""

import dataclasses
import html
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

import w2v
from recipes import demo
from recipes.demo_page import HOST
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


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    letters = "abcdeğış<>&\"'{}$"
    tokenizer = w2v.CharTokenizer({"[PAD]": 0, "[UNK]": 1, "|": 2, **{c: i for i, c in enumerate(letters, 3)}})
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=1, vocab_size=len(tokenizer), pad_token_id=0)
    model = w2v.Wav2Vec2ForCTC(config)
    model.lm_head.weight.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / NAME
    save_model(folder)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_without_gradio_the_command_is_one_line(tmp_path):
    code = "import sys; sys.modules['gradio'] = None; from recipes import demo; demo.command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", tmp_path], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: the page needs gradio; install it, pip install "w2v[demo]"\n'
