"""Byte pairs: ids as tokenizers and tiktoken give them, texts back as they were, merges that do not fit refused.

Run: pytest tests/test_bpe.py
Of Whisper's own vocabularies: pytest tests/test_bpe.py --whisper DIR
"""

import functools
import json
import logging
import random
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import SAMPLE, SHARED
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from w2v.errors import InputError
from w2v.text.bpe import CHARACTERS, SPACES, BytePairs, _words, bytes_of, spelled

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SENTENCES = [
    "I'd say it's 12,345 o'clock; we've  seen\t'em.\n\nThey'll, I'm, don't, you're. I'D SAY",
    "नमस्ते दुनिया, यह हिन्दी है। १२३ ½ क्\u200dष",
    "สวัสดีชาวโลก ๑๒๓ ภาษาไทย",
    "السَّلَامُ عَلَيْكُمْ ١٢٣ مرحبًا",
    "Iğdır'da İstanbul'un çayı; ığdır i\u0307",
    "你好，世界。一二三 これはテストです。ㄅ",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 🇹🇷 e\u0301 a\u0308\u0323",
    "\x1c\x1d a\x1eb\x1f\x1f c \x00\x7f\x85 \xa0x\u2003\u3000y\u200bz\u180e\u2028 \u2060\ufeff",
    "x²³ Ⅳ ௰ ꘠ 𝟗𝟘 ʰa_b__ _ <|endoftext|><|tr|> <|0.00|>",
    "  leading and trailing   ",
    "",
]


@functools.cache
def trained(merges: int = 700) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A small vocabulary of the sample's sentences and of the ones above, and its merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    lines = (SAMPLE / "validated.tsv").read_text(encoding="utf-8").splitlines()
    tokenizer.train_from_iterator([*lines, *SENTENCES * 2], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def of_folder(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    del vocab["<|endoftext|>"]
    return vocab, [tuple(line.split(" ")) for line in lines if line]


def tokenizers_peer(vocab, merges):
    peer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    peer.pre_tokenizer, peer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return lambda text: peer.encode(text).ids, peer.decode


def tiktoken_peer(vocab, merges):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes_of(token): i for token, i in vocab.items()}
    peer = tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return functools.partial(peer.encode, disallowed_special=()), peer.decode


@functools.cache
def characters() -> tuple[str, ...]:
    """All that this Python's Unicode knows: of newer letters it cannot say that they are letters."""
    codes = map(chr, range(sys.maxunicode + 1))
    return tuple(char for char in codes if unicodedata.category(char) not in ("Cs", "Cn", "Co"))


def random_texts(count: int) -> list[str]:
    """Of all characters, of those that the words' pattern looks at, and of the scripts above."""
    rng = random.Random(0)
    marks = " \t\n\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2007\u200b\u200d\u2028\u202f\u3000_'sStdrevml0١३๔²Ⅳ½一ʰ\u0301\u064e"
    pools = (characters(), marks, marks, "".join(SENTENCES))
    return ["".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 30))) for _ in range(count)]


def shared_lines(every: int) -> list[str]:
    files = sorted((SHARED / "data" / "text").glob("*/*.txt"))
    if not files:
        pytest.skip("needs shared/data/text")
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()][::every]


def assert_equal(pairs, peer, texts):
    encode, decode = peer
    for text in texts:
        ids = pairs.encode(text)
        assert ids == encode(text), ascii(text)
        assert pairs.decode(ids) == text
        parts = ids[1::2]  # which can be parts of characters
        assert pairs.decode(parts) == decode(parts)


@pytest.mark.parametrize("peer", [tokenizers_peer, tiktoken_peer])
def test_ids_equal_the_peers(peer):
    vocab, merges = trained()
    assert_equal(BytePairs(vocab, merges), peer(vocab, merges), [*SENTENCES, *random_texts(2000)])


@pytest.mark.parametrize("peer", [tokenizers_peer, tiktoken_peer])
@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_ids_of_whisper_s_vocabularies_equal_the_peers(peer, name, whisper_folder):
    vocab, merges = of_folder(whisper_folder(name))
    assert_equal(BytePairs(vocab, merges), peer(vocab, merges), [*SENTENCES, *random_texts(2000)])


@pytest.mark.parametrize("peer", [tokenizers_peer, tiktoken_peer])
@pytest.mark.parametrize("name", ["base", "tiny.en"])
@pytest.mark.parametrize("every", [25, pytest.param(1, marks=pytest.mark.long)])
def test_shared_lines_equal_the_peers(peer, name, every, whisper_folder):
    vocab, merges = of_folder(whisper_folder(name))
    assert_equal(BytePairs(vocab, merges), peer(vocab, merges), shared_lines(every))


def test_shared_lines_equal_the_peer_with_a_small_vocabulary():
    vocab, merges = trained()
    assert_equal(BytePairs(vocab, merges), tokenizers_peer(vocab, merges), shared_lines(25))


def test_words_are_cut_as_unicode_s_classes_say():
    """Each character's class by the pattern, against the categories and the list of White_Space."""
    spaces = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | set(map(chr, range(0x2000, 0x200B)))
    assert {char for char in characters() if re.fullmatch(f"[{SPACES}]", char)} == spaces
    for char in characters():
        category = unicodedata.category(char)[0]
        for other, kind in (("a", "L"), ("1", "N"), ("!", "")):
            is_one = char not in spaces and (category == kind if kind else category not in "LN")
            assert bool(_words().fullmatch(other + char)) == is_one, ascii(char)


def test_bytes_have_a_spelling_each():
    every = bytes(range(256))
    assert bytes_of(spelled(every)) == every
    assert spelled(b" a\n\xad") == "ĠaĊŃ"
    with pytest.raises(InputError, match=r"got 'a b'; use"):
        bytes_of("a b")


def test_all_bytes_go_through():
    vocab, merges = trained()
    pairs = BytePairs(vocab, merges)
    assert [pairs.bytes_of([vocab[CHARACTERS[byte]]]) for byte in range(256)] == [bytes([b]) for b in range(256)]
    for byte in range(256):
        assert pairs.decode([vocab[CHARACTERS[byte]]]) == bytes([byte]).decode("utf-8", "replace")
    assert pairs.decode([vocab["a"], 10**9, -1, vocab["b"]]) == "ab", "ids of no token write nothing"


def test_half_of_a_surrogate_pair_is_an_unknown_character():
    vocab, merges = trained()
    assert BytePairs(vocab, merges).encode("a\ud800b") == BytePairs(vocab, merges).encode("a\ufffdb")


def test_the_earliest_pair_is_merged_first():
    """By hand: b c before a b, although a b comes first in the text; the same merge from left to right."""
    vocab = {char: i for i, char in enumerate(sorted(CHARACTERS))} | {"bc": 256, "ab": 257, "aa": 258}
    pairs = BytePairs(vocab, [("b", "c"), ("a", "b"), ("a", "a")])
    a = vocab["a"]
    assert pairs.encode("abc") == [a, 256]
    assert pairs.encode("ab") == [257]
    assert pairs.encode("aaa") == [258, a]
    assert pairs.encode("aaaab") == [258, a, 257]


def test_merges_win_over_ids_that_are_in_another_order():
    vocab = {char: i for i, char in enumerate(sorted(CHARACTERS))} | {"bc": 257, "ab": 256}
    merges = [("b", "c"), ("a", "b")]
    assert BytePairs(vocab, merges).encode("abc") == tokenizers_peer(vocab, merges)[0]("abc") == [vocab["a"], 257]


def test_a_word_without_end_takes_no_time():
    """Half a million letters in one word: a search through all of them for each merge would take hours."""
    vocab, merges = trained()
    text = "".join(random.Random(0).choices("aeiklmnrst", k=500_000))
    pairs = BytePairs(vocab, merges)
    assert pairs.decode(pairs.encode(text)) == text
    assert not pairs._found, "and it is not kept"


@pytest.mark.parametrize("lost", [[0], [0, 1, 2], [5, 300], range(0, 700, 7), range(700)])
def test_lost_merges_are_mended(lost, caplog):
    vocab, merges = trained()
    with caplog.at_level(logging.WARNING, logger="w2v"):
        pairs = BytePairs(vocab, [pair for i, pair in enumerate(merges) if i not in lost])
    whole = BytePairs(vocab, merges)
    assert pairs.merges == whole.merges == merges
    assert [pairs.encode(text) for text in SENTENCES] == [whole.encode(text) for text in SENTENCES]
    (record,) = caplog.records
    assert f"lacked {len(lost)} of 700 pairs" in record.message and record.message.isprintable()


@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_whisper_s_lost_first_merge_is_mended(name, whisper_folder):
    """The tokenizer.json of old faster-whisper conversions has 49,999 merges."""
    vocab, merges = of_folder(whisper_folder(name))
    assert merges[0] == ("Ġ", "t") and len(merges) == 50_000
    assert BytePairs(vocab, merges[1:]).merges == merges
    assert BytePairs(vocab, None).merges == merges


def test_merges_found_by_ids_alone_are_the_same(caplog):
    vocab, merges = trained()
    assert BytePairs(vocab, None).merges == merges
    assert not caplog.records


def test_tokens_that_nothing_makes_are_left_as_in_the_peer(caplog):
    vocab, merges = trained()
    vocab = vocab | {"qqqq": len(vocab)}
    assert BytePairs(vocab, merges).encode("qqqq") == tokenizers_peer(vocab, merges)[0]("qqqq") == [vocab["q"]] * 4
    assert "1 tokens of the vocabulary will not be written: no two" in caplog.text
    with pytest.raises(InputError, match="two earlier tokens, 'qqqq' has no such two"):
        BytePairs(vocab, None)
    caplog.clear()
    BytePairs(vocab, merges[::-1])
    assert "not in the order of the merges" in caplog.text


@pytest.mark.parametrize(
    "merge", [("Ġ", "qqq"), ("qqq", "a"), ("q", "x"), ("", "a"), ("a", ""), ("a b", "c"), ("\ud800", "a")]
)
def test_merges_that_do_not_fit_are_refused(merge):
    vocab, merges = trained()
    with pytest.raises(InputError, match=r"a merge must join two tokens .* merge 701 joins") as error:
        BytePairs(vocab, [*merges, merge])
    assert str(error.value).isprintable()


def test_vocabularies_of_other_kinds_are_refused():
    vocab, merges = trained()
    with pytest.raises(InputError, match="each of the 256 bytes, 113 has none"):
        BytePairs({token: i for token, i in vocab.items() if token != "q"}, [])
    with pytest.raises(InputError, match="must spell each byte"):
        BytePairs(vocab | {"▁the": len(vocab)}, merges)
