"""Commands with a language model: what the flags do to the text, tuning, and what is refused.

The model is a real folder of the smallest size, but its emissions are made up: each clip has a length of its own, which
says what is heard in it. "an[gk]ara" is a word whose third letter is more likely a g than a k.

Run: pytest tests/recipes/test_searching.py
"""

import dataclasses
import io
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import w2v
from recipes import console, cv_evaluate, transcribe
from recipes.searching import tune, weighed
from w2v.answers import Emissions
from w2v.decoding.arpa import write_arpa
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.ngram_file import save_ngram
from w2v.text.normalise import Normaliser

RATE, HOP = 16_000, w2v.TINY.hop
# What is heard, and what is said.
CLIPS = {
    "train": [("iyi günler", "iyi günler")],
    "dev": [("an[gk]ara iyi", "ankara iyi"), ("çok iyi", "çok iyi"), ("an[gk]ara", "ankara")],
    "test": [("iyi an[gk]ara", "İyi Ankara."), ("a[kğ]rı iyi", "ağrı iyi")],
}
HEARD = [heard for clips in CLIPS.values() for heard, _ in clips]
TOKENIZER = w2v.CharTokenizer.from_texts(["abcçdefgğhıijklmnoöprsştuüvyz "])


def samples_of(heard: str) -> int:
    return (100 + HEARD.index(heard)) * HOP + HOP // 2


def log_probs_of(heard: str, frames: int) -> torch.Tensor:
    """(T, V): each letter has a frame and a blank behind it."""
    log_probs = torch.full((frames, len(TOKENIZER)), -12.0)
    log_probs[:, TOKENIZER.blank_id] = 0.0
    for frame, letters in enumerate(re.findall(r"\[(\w+)\]|(.)", heard)):
        likely, other, *_ = "".join(letters) * 2
        log_probs[2 * frame + 1, TOKENIZER.blank_id] = -12.0
        log_probs[2 * frame + 1, TOKENIZER.encode(other)] = -0.5
        log_probs[2 * frame + 1, TOKENIZER.encode(likely)] = 0.0
    return log_probs.log_softmax(-1)


def made_up_emissions(model, batch) -> Emissions:
    lengths = [model.config.frames(samples) for samples in batch.samples]
    rows = torch.zeros(len(lengths), max(lengths), len(TOKENIZER))
    for row, frames, samples in zip(rows, lengths, batch.samples, strict=True):
        row[:frames] = log_probs_of(HEARD[min(samples // HOP - 100, len(HEARD) - 1)], frames)
    return Emissions(rows, torch.tensor(lengths), HOP / RATE)


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("W2V_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("COMMON_VOICE_ROOT", raising=False)
    patch.setattr(w2v.Wav2Vec2ForCTC, "emissions", made_up_emissions)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine threads wait for each other longer than such small tensors take
    yield
    torch.set_num_threads(threads)
    patch.undo()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tr"
    (folder / "clips").mkdir(parents=True)
    for split, clips in CLIPS.items():
        lines = ["client_id\tpath\tsentence"]
        for heard, said in clips:
            name = f"{HEARD.index(heard)}.wav"
            noise = np.random.default_rng(0).normal(0, 0.1, samples_of(heard))
            soundfile.write(folder / "clips" / name, noise, RATE)
            lines.append(f"speaker-{split}-{name}\t{name}\t{said}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def empty_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "a"
    w2v.Wav2Vec2ForCTC(
        dataclasses.replace(w2v.TINY, num_hidden_layers=1, **w2v.TINY.for_vocabulary(TOKENIZER))
    ).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    Normaliser("tr").save(folder)
    return folder


@pytest.fixture
def model(empty_model, tmp_path) -> Path:
    shutil.copytree(empty_model, tmp_path / "model")
    return tmp_path / "model"


def estimated(*lines: str):
    corpus = Corpus()
    for line in lines:
        corpus.add(line.split())
    return estimate_ngram(corpus, 2).ngram


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    write_arpa(path, estimated("iyi ankara", "ankara iyi", "çok iyi", "ağrı iyi", "iyi günler", "ankara"))
    return path


def wavs(data: Path, split: str) -> list[Path]:
    return [data / "clips" / f"{HEARD.index(heard)}.wav" for heard, _ in CLIPS[split]]


def transcribed(capsys, model: Path, *arguments) -> list[str]:
    """The texts on stdout; what was said is in `transcribed.err`."""
    transcribe.main(["--model", str(model), "--device", "cpu", *map(str, arguments)])
    printed = capsys.readouterr()
    transcribed.err = printed.err
    return [line.split("\t")[-1] for line in printed.out.splitlines()]


GREEDY, KNOWN = ["iyi angara", "akrı iyi"], ["iyi ankara", "ağrı iyi"]


def test_a_language_model_that_knows_a_word_makes_the_transcript_hold_it(data, model, lm, tmp_path, capsys):
    test = wavs(data, "test")
    assert transcribed(capsys, model, *test) == GREEDY
    assert "language model" not in transcribed.err
    assert transcribed(capsys, model, *test, "--lm", lm) == KNOWN
    said = "the vocabulary can spell 100 % of its words\nlanguage model: alpha 0.5, beta 1.5, beam 100\n"
    assert said in transcribed.err and "language model: order 2, n-grams of each order: 8 12\n" in transcribed.err
    assert transcribed(capsys, model, *test, "--lm", lm, "--alpha", "0") == GREEDY
    assert transcribed(capsys, model, *test, "--lm", lm, "--beta", "-3") == KNOWN
    assert "alpha 0.5, beta -3, beam 100" in transcribed.err
    binary = tmp_path / "lm.safetensors"
    save_ngram(binary, estimated("iyi ankara", "ağrı iyi"))
    assert transcribed(capsys, model, *test, "--lm", binary, "--alpha", "1", "--beam", "5") == KNOWN
    assert "alpha 1, beta 1.5, beam 5" in transcribed.err


def test_a_folder_s_own_language_model_is_used_unless_another_is_given(data, model, lm, tmp_path, capsys):
    asr, test = w2v.load(model), wavs(data, "test")
    w2v.decoding.language_model.save_language_model(
        model, w2v.decoding.language_model.load_language_model(lm), TOKENIZER
    )
    assert transcribed(capsys, model, *test) == KNOWN
    assert transcribed(capsys, model, *test, "--lm", "none") == GREEDY
    write_arpa(tmp_path / "other.arpa", estimated("angara akrı iyi"))
    assert transcribed(capsys, model, *test, "--lm", tmp_path / "other.arpa") == GREEDY
    assert [each.text for each in w2v.load(model).transcribe(test)] == KNOWN
    assert [each.text for each in w2v.load(model, lm=False).transcribe(test)] == GREEDY
    assert [each.text for each in asr.transcribe(test, lm=model)] == KNOWN
    assert [each.text for each in asr.transcribe(test, lm=asr.search(lm, beam=3, alpha=0.0))] == GREEDY
    (model / "language_model" / "attrs.json").write_text("{")
    with pytest.raises(w2v.InputError, match=r"attrs\.json.*; or leave it alone, `lm` none$"):
        w2v.load(model)
    assert transcribed(capsys, model, *test, "--lm", "none") == GREEDY


def test_hot_words_have_weights_and_may_come_from_a_file(data, model, lm, tmp_path, capsys):
    test = wavs(data, "test")
    assert transcribed(capsys, model, *test, "--hot-words", "Ankara") == ["iyi ankara", "akrı iyi"]
    assert "hot words: ankara 10\n" in transcribed.err
    assert transcribed(capsys, model, *test, "--hot-words", "ankara=0.1,ağrı=20") == ["iyi angara", "ağrı iyi"]
    words = tmp_path / "words.txt"
    words.write_text("\ufeffankara\n\nağrı = 12\n", encoding="utf-8")
    assert transcribed(capsys, model, *test, "--hot-words", words) == KNOWN
    assert "hot words: ankara 10, ağrı 12\n" in transcribed.err
    assert transcribed(capsys, model, *test, "--lm", lm, "--hot-words", "angara=30") == ["iyi angara", "ağrı iyi"]
    assert w2v.load(model).search(hot_words={}) is None


def test_words_have_times_that_rise(data, model, lm, capsys):
    wav = wavs(data, "test")[0]
    transcribe.main(["--model", str(model), str(wav), "--lm", str(lm), "--words", "--format", "json"])
    words = [word for segment in json.loads(capsys.readouterr().out)["segments"] for word in segment["words"]]
    assert [word["text"] for word in words] == ["iyi", "ankara"]
    assert all(word["start"] < word["end"] for word in words)
    assert all(a["end"] <= b["start"] for a, b in pairwise(words))
    assert words[0]["start"] == pytest.approx(HOP / RATE) and 0.3 < words[1]["confidence"] < 1


def test_long_recordings_and_live_streams(data, model, lm, monkeypatch, capsys):
    noise = np.random.default_rng(0).normal(0, 0.1, 70 * RATE)
    (text,) = w2v.load(model).transcribe(noise, lm=lm)
    assert text.text == "ağrı iyi"
    stream = (np.random.default_rng(0).normal(0, 0.1, samples_of(HEARD[-2])) * 32767).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream)))
    assert transcribed(capsys, model, "-", "--lm", lm) == ["iyi ankara"]


# ------------------------------------------------------------------------------------------------ evaluation


def evaluated(model: Path, data: Path, *arguments) -> dict:
    words = ["--model", str(model), "--lang", "tr", "--data", str(data), "--device", "cpu", "--workers", "1"]
    return cv_evaluate.main([*words, *map(str, arguments)])


def test_evaluation_says_which_language_model_it_used(data, model, lm, tmp_path, capsys):
    assert evaluated(model, data)["lm"] is None
    report = evaluated(model, data, "--lm", lm, "--compare", model, "--out", tmp_path / "out")
    assert (report["wer"], report["compare"]["wer"], report["compare"]["lm"]) == (0, 0.5, None)
    said = capsys.readouterr().err
    assert f"  A: {model} with {lm}  " in said and f"  B: {model}  " in said
    record = {"path": str(lm), "beam": 100, "alpha": 0.5, "beta": 1.5, "hot_words": None}
    assert report["lm"] == json.loads((tmp_path / "out" / "evaluation.json").read_text())["lm"] == record
    report = evaluated(model, data, "--hot-words", "ankara=9")
    assert report["wer"] == 0.25
    record = {"path": None, "beam": 100, "alpha": None, "beta": None, "hot_words": ["ankara=9"]}
    assert report["lm"] == record


def test_tuning_keeps_the_language_model_and_its_weights_with_the_model(data, model, lm, tmp_path, capsys):
    report = evaluated(model, data, "--lm", lm, "--tune-lm", "--hot-words", "akrı=200", "--beam", "20")
    said = capsys.readouterr().err
    found = re.search(r"tuned: alpha ([\d.]+), beta (-?[\d.]+); dev WER 0\.0 %, 40\.0 % without the", said)
    assert found is not None
    alpha, beta = map(float, found.groups())
    attributes = json.loads((model / "language_model" / "attrs.json").read_text())
    assert alpha > 0 and (attributes["alpha"], attributes["beta"]) == (alpha, beta)
    assert report["lm"] == {"path": str(lm), "beam": 20, "alpha": alpha, "beta": beta, "hot_words": ["akrı=200"]}
    assert report["wer"] == 0.25  # tuning lost no hot word
    assert f"the language model and its weights are in {model}" in said
    assert "--include alphabet.json --include language_model/attrs.json --include language_model/lm.arpa" in said
    # From now on the folder's own counts, here and for others.
    again = evaluated(model, data)
    assert again["lm"] == {"path": str(model), "beam": 100, "alpha": alpha, "beta": beta, "hot_words": None}
    assert again["wer"] == 0
    assert transcribed(capsys, model, *wavs(data, "test")) == KNOWN
    compared = evaluated(model, data, "--lm", "none", "--compare", model)
    assert (compared["lm"], compared["compare"]["lm"]) == (None, None)
    assert evaluated(model, data, "--tune-lm", "--split", "dev")["lm"]["alpha"] == alpha  # once more, with its own
    assert "WARNING: alpha and beta are fitted on the dev clips" in capsys.readouterr().err


def test_a_language_model_that_is_no_help_is_not_kept(data, model, tmp_path, capsys):
    write_arpa(tmp_path / "lm.arpa", estimated("angara iyi", "çok iyi"))
    evaluated(model, data, "--lm", tmp_path / "lm.arpa", "--tune-lm")
    assert "WARNING: the language model is no help on the dev clips" in capsys.readouterr().err
    assert not (model / "language_model").exists()


def test_tuning_finds_planted_weights():
    search = w2v.Recogniser(SimpleNamespace(emissions=True), TOKENIZER).search(
        w2v.decoding.language_model.LanguageModel(estimated("iyi ankara"))
    )

    def distance(tried) -> float:
        return abs(tried.fusion.alpha - 1.25) + abs(tried.fusion.beta + 1.5)

    assert tune(search, distance) == (1.25, -1.5, 0)
    assert tune(search, lambda tried: 0.3) == (0.0, 0.0, 0.3)  # whatever is as good: the weakest
    assert weighed(search, 2.0, 3.0).beam == search.beam and search.fusion.alpha == 0.5


def test_tuned_weights_of_a_model_that_is_no_folder_are_said(data, model, lm, monkeypatch, capsys):
    monkeypatch.setattr(cv_evaluate.asr, "folder_of", lambda *_: model)
    monkeypatch.setattr("w2v.asr.folder_of", lambda *_: model)
    evaluated(Path("owner/name"), data, "--lm", lm, "--tune-lm")
    assert re.search(r"to use them: --alpha [\d.]+ --beta -?[\d.]+; owner/name is no folder", capsys.readouterr().err)
    assert not (model / "language_model").exists()


# -------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def refused(capsys):
    def call(command, *words) -> str:
        with pytest.raises(SystemExit) as end:
            console.run(lambda: command.main([*map(str, words)]))
        printed = capsys.readouterr()
        assert (end.value.code, printed.out) == (2, "")
        lines = printed.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        return lines[-1]

    return call


def test_what_transcribe_refuses(refused, data, model, lm, tmp_path):
    def answer(*words) -> str:
        return refused(transcribe, "--model", model, wavs(data, "test")[0], *words)

    broken, binary, other = (tmp_path / name for name in ("broken.arpa", "lm.bin", "ru.arpa"))
    broken.write_bytes(lm.read_bytes()[:150])
    binary.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(100))
    write_arpa(other, estimated("да нет"))
    (tmp_path / "nothing").mkdir()
    assert "No such file" in answer("--lm", tmp_path / "no.arpa")
    assert "broken.arpa" in answer("--lm", broken)
    assert "is a binary file of KenLM, which only KenLM reads" in answer("--lm", binary)
    assert "none of 2 is, such as 'нет'" in answer("--lm", other)
    assert "must hold a language model" in answer("--lm", tmp_path / "nothing")
    assert "must hold a language model" in answer("--lm", "")
    for flags in (["--alpha", "1"], ["--beta", "1", "--lm", "none"], ["--alpha", "1", "--hot-words", "iyi"]):
        assert "--alpha and --beta weigh a language model, there is none; add --lm" in answer(*flags)
    assert "--beam is the width of a search with --lm or --hot-words" in answer("--beam", "9")
    assert "--alpha: must not be negative, nor infinite, got nan" in answer("--lm", lm, "--alpha", "nan")
    assert "--beta: must be a number, got inf" in answer("--lm", lm, "--beta", "inf")
    assert "--beta must be a number of at most 1e+06" in answer("--lm", lm, "--beta", "1e9")
    assert "must be at least 1" in answer("--lm", lm, "--beam", "0")


def test_hot_words_that_are_refused(refused, data, model, tmp_path):
    def answer(word) -> str:
        return refused(transcribe, "--model", model, wavs(data, "test")[0], "--hot-words", word)

    assert "'tokyo2' is not" in answer("Tokyo2")
    for given in ("iyi=", "iyi=much", "iyi=nan", "iyi=inf"):
        assert answer(given) == f"error: --hot-words are WORD or WORD=WEIGHT, a number, got {given!r}"
    assert "at most 1e+06, got 1e+300 for 'iyi'" in answer("iyi=1e300")
    assert "must have a letter under the model's text rules, '...' has none" in answer("...")
    assert "found nothing at 'words.txt'" in answer("words.txt")
    (tmp_path / "latin").write_bytes("ağrı".encode("iso-8859-9"))
    assert "must be UTF-8" in answer(tmp_path / "latin")


def test_a_language_model_of_few_letters_of_the_vocabulary_is_warned_of(data, model, tmp_path, capsys):
    write_arpa(tmp_path / "lm.arpa", estimated("iyi xw qx wx"))
    assert transcribed(capsys, model, wavs(data, "test")[0], "--lm", tmp_path / "lm.arpa") == GREEDY[:1]
    assert "language model: WARNING: the vocabulary can spell 25 % of its words only; is it of" in transcribed.err


def test_what_tuning_refuses(refused, data, model, lm):
    def answer(*words) -> str:
        given = ["--model", model, "--lang", "tr", "--data", data, "--workers", "1", *words]
        return refused(cv_evaluate, *given)

    for flags in ([], ["--lm", "none"], ["--hot-words", "iyi"]):
        assert "--tune-lm fits the weights of a language model, there is none; add --lm" in answer("--tune-lm", *flags)
    assert "finds --alpha and --beta by itself" in answer("--tune-lm", "--lm", lm, "--alpha", "1")
    assert "--tune-lm needs clips of a dev split" in answer("--tune-lm", "--lm", lm, "--dev-split", "none")
    with pytest.raises(w2v.InputError, match="`beam` must be at least 1, got 0"):
        w2v.load(model).search(lm, beam=0)
