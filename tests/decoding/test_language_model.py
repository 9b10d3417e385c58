"""A model's folder with a language model: written as transformers reads it, and others' read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import w2v
from w2v.decoding.arpa import read_arpa, write_arpa
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.fusion import spell
from w2v.decoding.language_model import (
    LanguageModel,
    has_language_model,
    labels_of,
    load_language_model,
    save_language_model,
)
from w2v.errors import InputError
from w2v.text.tokenizer import CharTokenizer

LINES = ("ığdır ağrı", "ağrı ığdır ağrı", "ığdır")
TOKENIZER = CharTokenizer.from_texts(LINES)


@pytest.fixture
def lm():
    corpus = Corpus()
    for line in LINES:
        corpus.add(line.split())
    return LanguageModel(estimate_ngram(corpus, 2).ngram, 0.7, -1.25, -8.0, False)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_folder_has_the_files_that_pyctcdecode_wants_and_gives_the_model_back(tmp_path, lm):
    w2v.Wav2Vec2ForCTC(replace(w2v.TINY, **w2v.TINY.for_vocabulary(TOKENIZER))).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert not has_language_model(tmp_path)
    for _ in range(2):  # the second takes the place of the first
        save_language_model(tmp_path, lm, TOKENIZER)
    assert has_language_model(tmp_path)
    assert names(tmp_path / "language_model") == ["attrs.json", "lm.arpa", "unigrams.txt"]
    attributes = json.loads((tmp_path / "language_model" / "attrs.json").read_text())
    assert attributes == {"alpha": 0.7, "beta": -1.25, "unk_score_offset": -8.0, "score_boundary": False}
    assert (tmp_path / "language_model" / "unigrams.txt").read_text(encoding="utf-8") == "ağrı\nığdır\n"
    alphabet = json.loads((tmp_path / "alphabet.json").read_text(encoding="ascii"))
    assert alphabet == {"labels": [*"adrğı", " ", "\u2047", ""], "is_bpe": False}
    assert not any(name.endswith(".part") for name in names(tmp_path))
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["processor_class"] == "Wav2Vec2ProcessorWithLM" and processor["sampling_rate"] == 16000
    again = load_language_model(tmp_path, TOKENIZER)
    assert again.mended == () and again.unigrams == ("ağrı", "ığdır")
    assert (again.alpha, again.beta, again.unk_score_offset, again.score_boundary) == (0.7, -1.25, -8.0, False)
    assert torch.equal(again.ngram.keys, lm.ngram.keys) and torch.equal(again.ngram.log10_probs, lm.ngram.log10_probs)
    assert w2v.load(tmp_path).lm.alpha == 0.7


@pytest.mark.parametrize("special", ["[UNK] [PAD]", "<unk> <pad>"])
def test_transformers_and_pyctcdecode_load_the_folder(tmp_path, lm, special):
    for package in ("pyctcdecode", "kenlm"):
        pytest.importorskip(package)
    transformers = pytest.importorskip("transformers")
    unk, pad = special.split()
    tokenizer = CharTokenizer({t: i for i, t in enumerate([pad, *"adrğı", "|", unk])}, unk=unk, pad=pad)
    w2v.Wav2Vec2ForCTC(replace(w2v.TINY, **w2v.TINY.for_vocabulary(tokenizer))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    save_language_model(tmp_path, lm, tokenizer)
    processor = transformers.Wav2Vec2ProcessorWithLM.from_pretrained(tmp_path)
    theirs = processor.language_model
    assert (theirs.alpha, theirs.beta, theirs.unk_score_offset, theirs.score_boundary) == (0.7, -1.25, -8.0, False)
    assert theirs._unigram_set == {"ağrı", "ığdır"} and theirs.order == 2
    assert processor.decoder._alphabet.labels == labels_of(tokenizer)
    path = [tokenizer.vocab[char] for char in "ağrı|ığdır"]
    logits = torch.full((2 * len(path), len(tokenizer)), -20.0)
    logits[torch.arange(len(logits)), torch.tensor([token for p in path for token in (p, 0)])] = 0.0
    assert processor.decode(logits.numpy()).text == "ağrı ığdır"


def folder_of_others(tmp_path, lm, labels=None, **attributes):
    save_language_model(tmp_path, lm, TOKENIZER)
    for name, value in attributes.items():
        path = tmp_path / "language_model" / "attrs.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    if labels is not None:
        (tmp_path / "alphabet.json").write_text(json.dumps({"labels": labels, "is_bpe": False}))
    return tmp_path


def test_labels_that_are_not_the_vocabulary_s_are_said(tmp_path, lm):
    def mended(labels):
        return list(load_language_model(folder_of_others(tmp_path, lm, labels), TOKENIZER).mended)

    own = labels_of(TOKENIZER)
    assert mended(own) == mended([*"adrğı", "|", "[UNK]", "[PAD]"]) == []
    assert mended([*own, "<s>", "</s>"]) == [
        "alphabet.json lists labels that the vocabulary has no token for: '<s>', '</s>' are not used"
    ]
    said = "alphabet.json lists 3 labels that are not the vocabulary's 8: the vocabulary counts"
    assert mended(["x", "y", ""]) == [said]
    assert mended([1, 2]) == ["alphabet.json lists no labels: those of the vocabulary count"]
    (tmp_path / "alphabet.json").unlink()
    assert load_language_model(tmp_path, TOKENIZER).mended == ()


def test_unigrams_outside_of_the_model_do_not_count(tmp_path, lm):
    folder_of_others(tmp_path, lm)
    unigrams = tmp_path / "language_model" / "unigrams.txt"
    unigrams.write_text("<s>\r\nzzz\r\nağrı\r\n", encoding="utf-8", newline="")
    assert load_language_model(tmp_path).unigrams == ("ağrı",)
    unigrams.write_text("")
    assert load_language_model(tmp_path).unigrams is None
    unigrams.unlink()
    assert load_language_model(tmp_path / "language_model").unigrams is None
    unigrams.write_text("the\ncat\n")
    with pytest.raises(InputError, match="none of 3 is one; remove it"):
        load_language_model(tmp_path)
    unigrams.write_bytes("ağrı".encode("iso8859-9"))
    with pytest.raises(InputError, match="must be UTF-8"):
        load_language_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", "1"), ("beta", True), ("beta", None), ("alpha", float("nan")), ("unk_score_offset", 10**400),
     ("unk_score_offset", float("-inf")), ("score_boundary", 1)],
)  # fmt: skip
def test_weights_that_are_none_are_refused(tmp_path, lm, name, value):
    with pytest.raises(InputError, match=f"must give {name} as"):
        load_language_model(folder_of_others(tmp_path, lm, **{name: value}))


def test_folders_without_a_readable_model_are_refused(tmp_path, lm):
    with pytest.raises(InputError, match="must hold a language model"):
        load_language_model(tmp_path)
    folder = folder_of_others(tmp_path, lm) / "language_model"
    (folder / "lm.arpa").rename(folder / "lm.bin")
    assert load_language_model(tmp_path).alpha == 0.7  # an ARPA file in spite of its name
    (folder / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(InputError, match=r"lm\.bin is a binary file of KenLM, which only KenLM reads; give the ARPA"):
        load_language_model(tmp_path)
    write_arpa(folder / "z.arpa", lm.ngram)
    assert load_language_model(tmp_path).alpha == 0.7  # the one that can be read
    (folder / "attrs.json").unlink()
    with pytest.raises(InputError, match="must hold a language model"):
        load_language_model(tmp_path)


def test_a_broken_config_leaves_the_folder_as_it_is(tmp_path, lm):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="cannot read"):
        save_language_model(tmp_path, lm, TOKENIZER)
    assert names(tmp_path) == ["preprocessor_config.json"]


def test_a_file_is_a_language_model_with_the_usual_weights(tmp_path, lm):
    write_arpa(tmp_path / "lm.arpa", lm.ngram)
    text = (tmp_path / "lm.arpa").read_text(encoding="utf-8").replace("<unk>", "<UNK>")
    (tmp_path / "lm.arpa").write_text(text, encoding="utf-8")
    found = load_language_model(tmp_path / "lm.arpa")
    assert (found.alpha, found.beta, found.unk_score_offset, found.score_boundary) == (0.5, 1.5, -10.0, True)
    assert found.unigrams is None and found.mended == ("<UNK> is taken as <unk>",)
    assert torch.equal(read_arpa(tmp_path / "lm.arpa")[0].keys, lm.ngram.keys)


def test_a_file_of_characters_has_a_beta_of_its_own(tmp_path):
    corpus = Corpus()
    for line in LINES:
        corpus.add(list(line.replace(" ", "|")))
    write_arpa(tmp_path / "characters.arpa", estimate_ngram(corpus, 3).ngram)
    found = load_language_model(tmp_path / "characters.arpa", TOKENIZER)
    assert (found.alpha, found.beta) == (0.5, 0.75)


def test_a_recogniser_says_what_is_odd_in_its_folder(tmp_path, lm):
    w2v.Wav2Vec2ForCTC(replace(w2v.TINY, **w2v.TINY.for_vocabulary(TOKENIZER))).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    folder_of_others(tmp_path, lm, [*labels_of(TOKENIZER), "<s>", "</s>"])
    asr = w2v.load(tmp_path)
    assert asr.lm is not None and "'<s>', '</s>' are not used" in asr.lm.mended[0]


def test_an_endless_word_takes_no_memory():
    labels, lengths = spell(["ağrı", "a" * 500_000, "r", "r" * 100, "r" * 101, "x"], TOKENIZER)
    assert lengths.tolist() == [4, 0, 1, 100, 0, 0] and labels.shape == (6, 100)
