"""The binary form of n-gram models gives back the model, and refuses what is damaged or another's in one line."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from w2v.decoding.arpa import read_arpa, write_arpa
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.ngram_file import FORMAT, TENSORS, VERSION, Words, load_ngram, save_ngram
from w2v.errors import InputError


@pytest.fixture
def lm():
    corpus = Corpus()
    for line in ("ığdır ağrı 한국어", "ağrı ığdır", "a b 한국어 ığdır", "b a ağrı", "a\u2028b b"):
        corpus.add(line.split(" "))
    return estimate_ngram(corpus, 3).ngram


def opened(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_the_binary_form_gives_the_model_back(tmp_path, lm):
    save_ngram(tmp_path / "lm.safetensors", lm)
    again, mended = load_ngram(tmp_path / "lm.safetensors")
    assert mended == [] and again.counts == lm.counts and again.order == 3
    assert all(torch.equal(getattr(again, name), getattr(lm, name)) for name in TENSORS)
    assert again.score([["ağrı", "ığdır"]]) == lm.score([["ağrı", "ığdır"]])
    (tmp_path / "lm.bin").write_bytes((tmp_path / "lm.safetensors").read_bytes())
    assert load_ngram(tmp_path / "lm.bin")[0].counts == lm.counts  # whatever its name
    write_arpa(tmp_path / "a.arpa", lm)
    write_arpa(tmp_path / "b.arpa", again)
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()
    assert load_ngram(tmp_path / "a.arpa")[0].counts == lm.counts


def test_words_are_a_sequence_that_holds_bytes(tmp_path, lm):
    save_ngram(tmp_path / "lm.safetensors", lm)
    words, expected = load_ngram(tmp_path / "lm.safetensors")[0].words, list(lm.words)
    assert isinstance(words, Words) and len(words) == len(expected)
    assert list(words) == expected and [words[i] for i in range(len(words))] == expected
    assert words[-1] == expected[-1] and words[3:] == expected[3:] and words[::-2] == expected[::-2]
    assert "ığdır" in words and words.index("한국어") == expected.index("한국어")
    with pytest.raises(IndexError):
        words[len(words)]


def break_order(tensors):
    keys, words = tensors["keys"], int(tensors["counts"][0])
    keys[-1] = keys[-1] + words * 10**6  # the last of the highest order


def break_lower_order(tensors):
    size, start = int(tensors["counts"][0]), int(tensors["counts"][:2].sum())
    tensors["keys"][start] = (size + 0) * size  # a trigram's context is a word


BREAKS = {
    "keys are not sorted": lambda t: t["keys"].__setitem__(5, 1),
    "an n-gram lacks its context": break_order,
    "keys are not sorted|lacks its context": break_lower_order,
    "shorter points outside": lambda t: t["shorter"].__setitem__(3, 10**6),
    "after points outside": lambda t: t["after"].__setitem__(-1, -1),
    "log10_probs are none": lambda t: t["log10_probs"].__setitem__(4, float("nan")),
    "log10_probs are none ": lambda t: t["log10_probs"].__setitem__(4, 0.1),
    "log10_backoffs are none": lambda t: t["log10_backoffs"].__setitem__(4, float("inf")),
    "counts are not those": lambda t: t["counts"].__setitem__(1, 3),
    "no count of n-grams": lambda t: t["counts"].__setitem__(1, -3),
    "no count of n-grams ": lambda t: t.__setitem__("counts", torch.empty(0, dtype=torch.int64)),
    "lists differ in length": lambda t: t.__setitem__("after", t["after"][1:].clone()),
    "keys must be a list of torch.int64": lambda t: t.__setitem__("keys", t["keys"].int()),
    "words lie outside": lambda t: t["ends"].__setitem__(-1, 10**6),
    "words lie outside ": lambda t: t["ends"].__setitem__(4, 0),
    "not UTF-8": lambda t: t["words"].__setitem__(-1, 0xFF),
    "not UTF-8 ": lambda t: t["ends"].__setitem__(4, int(t["ends"][4]) - 1),
    "space or a line end": lambda t: t["words"].__setitem__(-1, 10),
    "lacks <unk>, <s> and </s>": lambda t: t["words"].__setitem__(1, ord("U")),
    "it lacks after, ends": lambda t: (t.pop("ends"), t.pop("after")),
}


@pytest.mark.parametrize("said", BREAKS)
def test_damage_is_refused_in_one_line(tmp_path, lm, said):
    path = tmp_path / "lm.safetensors"
    save_ngram(path, lm)
    tensors, metadata = opened(path)
    BREAKS[said](tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=said.strip()) as refused:
        load_ngram(path)
    assert "is damaged" in str(refused.value) and str(refused.value).isprintable()


def test_other_files_are_refused(tmp_path, lm):
    path = tmp_path / "lm.safetensors"
    save_ngram(path, lm)
    tensors, metadata = opened(path)
    assert metadata == {"format": FORMAT, "version": VERSION}
    save_file(tensors, path, {"format": FORMAT, "version": "2"})
    with pytest.raises(InputError, match=r"must be of version 1, is of '2'; make it again"):
        load_ngram(path)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputError, match="must be a language model"):
        load_ngram(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"cannot read .* as safetensors"):
        load_ngram(path)
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(100))
    with pytest.raises(InputError, match="only KenLM reads; give the ARPA file"):
        load_ngram(tmp_path / "lm.bin")
    (tmp_path / "lm.txt").write_text("nothing of the kind")
    with pytest.raises(InputError, match="it is no ARPA file"):
        load_ngram(tmp_path / "lm.txt")
    with pytest.raises(InputError, match="cannot read the language model"):
        load_ngram(tmp_path / "none.arpa")


def test_a_model_of_arpa_goes_through_the_binary_form(tmp_path):
    text = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n0\t<s>\n-1\t</s>\n-0.5\ta\n\n\\end\\\n"
    (tmp_path / "a.arpa").write_text(text)
    lm, _ = read_arpa(tmp_path / "a.arpa")  # of single words
    save_ngram(tmp_path / "a.safetensors", lm)
    assert load_ngram(tmp_path / "a.safetensors")[0].score([["a", "b"]]) == [-2.5]
