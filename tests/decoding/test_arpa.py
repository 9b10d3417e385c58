"""ARPA files: read as KenLM reads them, mended where they lack something, refused in one line where they are wrong."""

import bz2
import gzip
import lzma
import random

import pytest
import torch
from conftest import SHARED

from w2v.decoding.arpa import read_arpa, write_arpa
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.errors import InputError

TOY = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=1

\\1-grams:
-1\t<unk>
0\t<s>\t-0.3
-0.7\t</s>
-0.6\ta\t-0.2
-0.8\tb\t-0.4

\\2-grams:
-0.25\t<s> a\t-0.15
-0.4\tb </s>
-0.5\ta b\t-0.1
-0.9\tb a

\\3-grams:
-0.05\t<s> a b

\\end\\
"""
FIXTURES = SHARED / "fixtures"
TENSORS = ("keys", "log10_probs", "log10_backoffs", "shorter", "after")


def put(tmp_path, text, name="lm.arpa"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return tmp_path / name


def same(a, b):
    return tuple(a.words) == tuple(b.words) and all(torch.equal(getattr(a, n), getattr(b, n)) for n in TENSORS)


def without(text, *lines):
    """A file without some lines, its counts mended."""
    for line in lines:
        assert line + "\n" in text
        text = text.replace(line + "\n", "", 1)
    order, counts = 0, [0, 0, 0]
    for line in text.split("\n"):
        if line.endswith("-grams:"):
            order = int(line[1])
        elif "\t" in line:
            counts[order - 1] += 1
    for n, count in enumerate(counts, 1):
        before, _, behind = text.partition(f"ngram {n}=")
        text = f"{before}ngram {n}={count}\n{behind.partition(chr(10))[2]}"
    return text


def table(path):
    """{n-gram: (log10 p, log10 back-off)} of a file, read in the simplest way."""
    found = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        cells = line.split("\t")
        if len(cells) > 1:
            found[tuple(cells[1].split(" "))] = (float(cells[0]), float(cells[2]) if len(cells) > 2 else 0.0)
    return found


def defined(grams, sentence):
    """log10 p of a sentence as it is defined: the longest n-gram there is, and the back-off weights of the contexts."""
    order, history, total = max(map(len, grams)), ["<s>"], 0.0
    for word in [*sentence, "</s>"]:
        word = word if (word,) in grams else "<unk>"
        context = tuple(history[1 - order :])
        while context and (*context, word) not in grams:
            total += grams.get(context, (0.0, 0.0))[1]
            context = context[1:]
        total += grams[(*context, word)][0]
        history.append(word)
    return total


def test_the_toy_model_scores_as_kenlm_does(tmp_path):
    lm, mended = read_arpa(put(tmp_path, TOY))
    assert mended == [] and lm.counts == (5, 4, 1)
    expected = [-0.8, -1.1 - 0.9 - 0.9, -1.3 - 0.7]
    assert lm.score([["a", "b"], ["b", "a"], ["c"]]) == pytest.approx(expected, abs=1e-6)
    assert lm.score([["a", "c", "b"]], bos=False) == pytest.approx([-3.0], abs=1e-6)


def test_a_written_file_is_lmplz_s_and_gives_the_same_model(tmp_path):
    lm, _ = read_arpa(put(tmp_path, TOY))
    write_arpa(tmp_path / "again.arpa", lm)
    text = (tmp_path / "again.arpa").read_text()
    assert text.startswith(
        "\\data\\\nngram 1=5\nngram 2=4\nngram 3=1\n\n\\1-grams:\n-1\t<unk>\t0\n0\t<s>\t-0.300000012\n"
    )
    assert text.endswith("\n\n\\3-grams:\n-0.0500000007\t<s> a b\n\n\\end\\\n")
    assert same(read_arpa(tmp_path / "again.arpa")[0], lm)
    write_arpa(tmp_path / "a.arpa.gz", lm)
    write_arpa(tmp_path / "b.arpa.gz", lm)
    packed = (tmp_path / "a.arpa.gz").read_bytes()
    assert packed == (tmp_path / "b.arpa.gz").read_bytes() and packed[4:8] == bytes(4)  # no time of writing
    assert gzip.decompress(packed).decode() == text
    assert same(read_arpa(tmp_path / "a.arpa.gz")[0], lm)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TOY.encode()),
        bz2.compress(TOY.encode()),
        lzma.compress(TOY.encode()),
        TOY.replace("\n", "\r\n"),
        "\ufeff" + TOY,
        "made by somebody\n\n" + TOY + "\nand more",
        TOY.replace("\t", " "),  # CMU's toolkit
        TOY.replace("\n\\2", "\n\n\n\\2"),
        TOY.removesuffix("\n"),
        TOY.replace("ngram 1=5", "ngram 1 = 5").replace("ngram 3=1\n", "ngram 3=1\nngram 4=0\n").replace(
            "\\end", "\\4-grams:\n\n\\end"
        ),
    ],
)  # fmt: skip
def test_forms_of_the_same_file(tmp_path, data):
    lm, mended = read_arpa(put(tmp_path, data))
    assert mended == [] and same(lm, read_arpa(put(tmp_path, TOY, "toy.arpa"))[0])


def test_words_hold_what_only_looks_like_a_space(tmp_path):
    words = [f"a{char}b" for char in "\u00a0\u2028\u0085\x0b\x0c\x1c\u3000\ufeff"]
    text = without(TOY.replace("-0.6\ta", "".join(f"-3\t{word}\n" for word in words) + "-0.6\ta"))
    lm, _ = read_arpa(put(tmp_path, text))
    assert set(words) < set(lm.words)
    write_arpa(tmp_path / "again.arpa", lm)
    assert same(read_arpa(tmp_path / "again.arpa")[0], lm)


def test_missing_special_words_are_added_and_said(tmp_path):
    def mend(*lines):
        return read_arpa(put(tmp_path, without(TOY, *lines)))

    lm, mended = mend("-1\t<unk>")
    assert mended == ["<unk> is missing: it is added with log10 p = -100, as KenLM gives it"]
    assert lm.score([["c"]], bos=False, eos=False) == [-100]
    lm, mended = mend("-0.7\t</s>", "-0.4\tb </s>")
    assert mended == ["</s> is missing: it is added with log10 p = -1, that of <unk>"]
    lm, mended = mend("-0.7\t</s>", "-0.4\tb </s>", "-1\t<unk>")
    assert mended[1] == "</s> is missing: it is added with log10 p = -0.7, the mean of the words"
    lm, mended = mend("0\t<s>\t-0.3", "-0.25\t<s> a\t-0.15", "-0.05\t<s> a b")
    assert mended == ["<s> is missing: it is added with log10 p = -99, it says nothing of how sentences begin"]
    assert lm.score([["a"]]) == lm.score([["a"]], bos=False) and lm.counts == (5, 3)
    lm, mended = read_arpa(put(tmp_path, TOY.replace("<unk>", "<UNK>")))
    assert mended == ["<UNK> is taken as <unk>"] and same(lm, read_arpa(put(tmp_path, TOY))[0])
    lm, mended = read_arpa(put(tmp_path, TOY.replace("0\t<s>", "-99\t<s>")))  # SRILM's
    assert mended == [] and lm.score([["a", "b"]]) == pytest.approx([-0.8])


def text_of(order, path):
    sentences = [line.split() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    corpus = Corpus()
    for sentence in sentences:
        corpus.add(sentence)
    return sentences, estimate_ngram(corpus, order).ngram


def noisy(sentences, count, seed=0):
    """Sentences with a tenth of their words replaced by others or by unknown ones."""
    rng = random.Random(seed)
    words = sorted({word for sentence in sentences for word in sentence})
    found = []
    for _ in range(count):
        sentence = list(rng.choice(sentences))
        for i in range(len(sentence)):
            if rng.random() < 0.1:
                sentence[i] = rng.choice([rng.choice(words), f"xyzzy{rng.randrange(9)}"])
        found.append(sentence)
    return found


def thinned(path, to, keep):
    """A file without the n-grams, beyond words, that are not to be kept."""
    lines = path.read_text(encoding="utf-8").split("\n")
    kept, order, counts = [], 0, {}
    for line in lines[lines.index("") :]:
        if line.endswith("-grams:"):
            order = int(line[1])
        if "\t" in line:
            if order > 1 and not keep(tuple(line.split("\t")[1].split(" "))):
                continue
            counts[order] = counts.get(order, 0) + 1
        kept.append(line)
    header = "".join(f"ngram {n}={count}\n" for n, count in counts.items())
    to.write_text(f"\\data\\\n{header}" + "\n".join(kept), encoding="utf-8")
    return to


TINY = [line.split() for line in ("a b c d", "b c d a", "c a b d", "d c b a", "a c b", "a b d c", "b a", "d d a b c")]


@pytest.fixture
def tiny(tmp_path):
    corpus = Corpus()
    for sentence in TINY:
        corpus.add(sentence)
    write_arpa(tmp_path / "tiny.arpa", estimate_ngram(corpus, 4).ngram)
    return tmp_path / "tiny.arpa"


def test_missing_contexts_are_added_and_every_score_is_as_defined(tmp_path, tiny):
    rng = random.Random(0)
    queries = noisy(TINY, 200)
    for _ in range(5):
        path = thinned(tiny, tmp_path / "thin.arpa", lambda gram: rng.random() < 0.5)
        grams = table(path)
        lacking = {gram[:n] for gram in grams for n in range(1, len(gram)) if gram[:n] not in grams}
        lm, mended = read_arpa(path)
        assert sum(int(line.split(" ")[0]) for line in mended) == len(lacking) > 0
        assert sum(lm.counts) == len(grams) + len(lacking)
        assert lm.score(queries) == pytest.approx([defined(grams, query) for query in queries], abs=1e-5)
        write_arpa(tmp_path / "again.arpa", lm)
        again, mended = read_arpa(tmp_path / "again.arpa")
        assert mended == [] and same(again, lm)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (TOY, "", "no line \\data\\"),
        (TOY, "one sentence\nand another\n" * 600, "line 1001: \\data\\ should have come"),
        ("ngram 1=5", "ngram 1=4", "line 11: the header says 4 1-grams, more have come"),
        ("ngram 1=5", "ngram 1=6", "line 12: the header says 6 1-grams, there are 5"),
        ("ngram 3=1", "ngram 3=2", "line 21: the header says 2 3-grams, there are 1"),
        ("ngram 2=4", "ngram 2=999999999999999999999", "line 18: the header says 999999999999999999 2-grams"),
        ("ngram 2=4", "ngram 3=4", "line 3: should be ngram 2=COUNT"),
        ("ngram 2=4", "ngram 2=x", "line 3: should be ngram 2=COUNT"),
        ("ngram 1=5\nngram 2=4\nngram 3=1\n", "", "orders from 1 to 20, this one has 0"),
        ("\\2-grams:", "\\3-grams:", "line 13: \\2-grams: should have come"),
        ("\\end\\\n", "", "behind line 21, without \\end\\"),
        ("\\end\\", "end", "line 22: \\end\\ should have come"),
        ("-0.05\t<s> a b\n\n\\end\\\n", "-0.05\t<s", "line 20: should be log10 p, 3 words"),
        ("-0.5\ta b", "0.5\ta b", "line 16: a log10 probability must be at most 0"),
        ("-0.5\ta b", "nan\ta b", "line 16: should be log10 p"),
        ("-0.5\ta b", "-inf\ta b", "line 16: should be log10 p"),
        ("-0.5\ta b", "-1e99\ta b", "line 16: should be log10 p"),
        ("-0.5\ta b", "-0_5\ta b", "line 16: should be log10 p"),
        ("a b\t-0.1", "a b\tinf", "line 16: should be log10 p"),
        ("a b\t-0.1", "a b\tx", "line 16: should be log10 p"),
        ("a b\t-0.1", "a b\t-0.1\t1", "line 16: should be log10 p"),
        ("-0.5\ta b", "-0.5\ta  b", "line 16: should be log10 p"),
        ("a b\t-0.1", "a  b", "line 16: should be log10 p"),
        ("-0.5\ta b", "-0.5\ta c", "line 16: a word must be among the 1-grams, 'c' is not"),
        ("-0.5\ta b", "-0.4\tb </s>", "line 16: each n-gram must come once, 'b </s>' comes twice"),
        ("-0.8\tb", "-0.8\ta", "line 11: each word must come once, 'a' comes twice"),
        ("-0.8\tb", "-0.8\t", "line 11: a word must have a character"),
        ("-0.8\tb", "-0.8\tb\0", "line 11: a word must not hold NUL"),
        ("-0.8\tb", "-0.8\tb\rc", "line 11: a word must not hold NUL or a carriage return"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, said):
    assert old in TOY
    with pytest.raises(InputError) as refused:
        read_arpa(put(tmp_path, TOY.replace(old, new, 1)))
    message = str(refused.value)
    assert said in message and message.isprintable() and len(message) < 400
    assert message.startswith(str(tmp_path)) and "; " in message  # with a remedy


def test_packed_files_that_are_cut_or_explode_and_other_encodings_are_refused(tmp_path):
    with pytest.raises(InputError, match="cut short or damaged"):
        read_arpa(put(tmp_path, gzip.compress(TOY.encode())[:-20]))
    with pytest.raises(InputError, match="cut short or damaged"):
        read_arpa(put(tmp_path, lzma.compress(TOY.encode())[:-20]))
    with pytest.raises(InputError, match="line 10: must be UTF-8"):
        read_arpa(put(tmp_path, TOY.replace("\ta\t", "\té\t").encode("latin-1")))
    with pytest.raises(InputError, match="50 times its size"):
        read_arpa(put(tmp_path, gzip.compress(("a" * 1_000_000 + "\n").encode() * 20)))
    with pytest.raises(InputError, match="a line of over"):
        read_arpa(put(tmp_path, "\\data\\\n" + "a" * 2**22))
    with pytest.raises(InputError, match="cannot read the language model"):
        read_arpa(tmp_path)


def test_blocks_of_a_file_end_anywhere(tmp_path, monkeypatch, tiny):
    whole, _ = read_arpa(tiny)
    for size in (1, 7, 64, 100):
        monkeypatch.setattr("w2v.decoding.arpa.BLOCK", size)
        assert same(read_arpa(tiny)[0], whole)
    with pytest.raises(InputError, match="line 15: should be log10 p"):
        read_arpa(put(tmp_path, TOY.replace("-0.4\tb </s>", "?\tb </s>")))


def test_words_that_a_file_cannot_hold_are_not_written(tmp_path):
    corpus = Corpus()
    for sentence in TINY:
        corpus.add([word + " " for word in sentence])
    lm = estimate_ngram(corpus, 2).ngram
    with pytest.raises(InputError, match="no space"):
        write_arpa(tmp_path / "lm.arpa", lm)
    assert not list(tmp_path.iterdir())


# --- against KenLM


def differences(path, sentences):
    kenlm = pytest.importorskip("kenlm")
    theirs, (ours, _) = kenlm.Model(str(path)), read_arpa(path)
    assert theirs.order == ours.order
    for bos, eos in ((True, True), (False, True), (True, False), (False, False)):
        scores = ours.score(sentences, bos=bos, eos=eos)
        for sentence, score in zip(sentences, scores, strict=True):
            yield abs(score - theirs.score(" ".join(sentence), bos=bos, eos=eos))


def test_scores_are_kenlm_s_also_where_suffixes_are_missing(tmp_path, tiny):
    queries = noisy(TINY, 200)
    assert max(differences(tiny, queries)) < 1e-4
    assert max(differences(put(tmp_path, TOY), queries)) < 1e-4
    grams = table(tiny)
    contexts = {gram[:-1] for gram in grams}
    rng = random.Random(0)
    path = thinned(tiny, tmp_path / "thin.arpa", lambda gram: gram in contexts or rng.random() < 0.5)
    assert any(gram[1:] not in table(path) for gram in table(path) if len(gram) > 1)
    assert max(differences(path, queries)) < 1e-4
    write_arpa(tmp_path / "mended.arpa", read_arpa(thinned(tiny, path, lambda gram: rng.random() < 0.5))[0])
    assert max(differences(tmp_path / "mended.arpa", queries)) < 1e-4  # with contexts added


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs the shared fixtures")
def test_scores_of_lmplz_s_and_flashlight_s_models_are_kenlm_s(tmp_path):
    text = (FIXTURES / "lmplz" / "tr1500.txt").read_text(encoding="utf-8").split("\n")
    queries = noisy([line.split() for line in text if line], 300)
    for name in ("order3", "order4.prune-0-1-1"):
        packed = FIXTURES / "lmplz" / f"tr1500.{name}.arpa.gz"
        path = put(tmp_path, gzip.decompress(packed.read_bytes()))  # ufal-kenlm reads no .gz
        assert max(differences(path, queries)) < 1e-4 and same(read_arpa(path)[0], read_arpa(packed)[0])
    english = [line.split() for line in ("the cat", "i am the man", "of the zzz", "", "a a a a")]
    assert max(differences(FIXTURES / "flashlight_decoder" / "lm.arpa", english)) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "text").is_dir(), reason="needs the shared text")
@pytest.mark.parametrize(
    ("order", "name"), [(2, "tr/setimes"), (3, "cv/chuvash_org"), (4, "ky/kloop"), (5, "tt/mansur")]
)
def test_ten_thousand_sentences_score_as_with_kenlm(tmp_path, order, name):
    sentences, lm = text_of(order, SHARED / "data" / "text" / f"{name}.txt")
    write_arpa(tmp_path / "lm.arpa", lm)
    assert max(differences(tmp_path / "lm.arpa", noisy(sentences, 10_000))) < 1e-4
