"""Normaliser, scripts and tokenizer, mostly on sentences that occur in Common Voice.

Run: pytest tests/test_text.py
"""

import csv
import dataclasses
import json
import random
import re
import unicodedata
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import SAMPLE, SHARED

import w2v
from recipes.start import StartingPoint
from recipes.vocabulary import choose_tokenizer
from w2v.errors import InputError
from w2v.models.families import FAMILIES
from w2v.text.locales import is_spaced
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer, foreign_characters


@pytest.mark.parametrize(
    ("lang", "sentence", "wanted"),
    [
        # Dotted and dotless i: the trap of every Turkish recipe.
        ("tr", "İstanbul'da, Iğdır!", "istanbul'da ığdır"),
        ("tr", "DİYARBAKIR", "diyarbakır"),
        ("az", "İLHAM QIZIL", "ilham qızıl"),
        ("crh", "Iİ", "ıi"),
        ("tr", "I\u0307zmir", "izmir"),  # decomposed İ
        ("tr", "i\u0307zmir", "izmir"),  # what Python's lower() made of İ elsewhere
        ("en", "İstanbul", "istanbul"),
        ("en", "I AM", "i am"),
        ("de", "Straße, GROẞ; ÄÖÜ", "straße groß äöü"),
        # Apostrophes inside words are unified, elsewhere they go.
        ("en", "It’s ‘quoted’ and 'this' isnʼt", "it's quoted and this isn't"),
        ("tr", "Kosova'nın dördüncü", "kosova'nın dördüncü"),
        ("fr", "aujourd’hui l'homme", "aujourd'hui l'homme"),
        ("en", "the dogs' tails", "the dogs tails"),
        # The letter ʼ is never removed, not even at the edge of a word.
        ("gn", "ʼa", "ʼa"),
        # Hyphens between letters vanish, unless the language keeps them; elsewhere they are spaces.
        ("en", "fine-tuning - of 3-4 models", "finetuning of 3 4 models"),
        ("kab", "Yella-d s-waṭas.", "yella-d s-waṭas"),
        ("hi", "धीरे-धीरे", "धीरेधीरे"),
        # Other punctuation becomes a space, so that words never glue.
        ("fa", "شکر،به", "شکر به"),
        ("mn", "босов.Таны", "босов таны"),
        ("zh-CN", "你好，世界。", "你好 世界"),
        ("or", "ବଡ଼ ଜର ହୋଇଗଲା ।", unicodedata.normalize("NFC", "ବଡ଼ ଜର ହୋଇଗଲା")),
        # Symbols go, digits stay.
        ("tr", "2021'de 3,5 % artış", "2021'de 3 5 artış"),
        ("tw", "• Ná m'ani·nnye", "ná m'ani nnye"),
        # Format characters: ZWNJ spells Persian words, a soft hyphen spells nothing.
        ("fa", "می\u200cخواهم", "می\u200cخواهم"),
        ("de", "Wort\u00adtrennung \ufeffx", "worttrennung x"),
        ("ml", "അവന്\u200d", "അവന്\u200d"),
        # Marks inside Armenian words, the Catalan middle dot, Chuvash look-alikes, Uzbek turned commas.
        ("hy-AM", "Ինչո՞ւ", "ինչու"),
        ("ca", "col·lecció", "col·lecció"),
        ("cv", "Вăл ĕç", "вӑл ӗҫ"),
        ("kab", "Aԑeqqa iɣes γef", "aɛeqqa iɣes ɣef"),
        ("fa", "علي كتاب", "علی کتاب"),
        ("uz", "O‘zbek g`oz togʻ bog‘ ma’no", "oʻzbek gʻoz togʻ bogʻ ma'no"),
        ("hy", "Ինչո՞ւ", "ինչու"),
        ("TR", "IĞDIR", "ığdır"),
        ("ha", "ʼyaʼ-ʼa", "ʼyaʼʼa"),
        # NFC: one spelling of each letter.
        ("fr", "e\u0301te\u0301", "été"),
        ("th", "ไปไหน?", "ไปไหน"),
        ("ar", "كَتَبَ؟", "كَتَبَ"),
        ("xx", " a \t\n b ", "a b"),
        ("en", "“...”", ""),
    ],
)
def test_normaliser(lang, sentence, wanted):
    normalise = Normaliser(lang)
    assert normalise(sentence) == wanted
    assert normalise(wanted) == wanted, "a second pass must change nothing"


def fold(text: str) -> str:
    """Caseless, with all the i's alike: what is left is whether a letter is there at all."""
    return unicodedata.normalize("NFC", text.casefold().replace("i\u0307", "i").replace("ı", "i"))


def test_every_real_sentence_keeps_its_letters_digits_and_marks():
    """Over all Common Voice sentences at hand: nothing but punctuation, symbols and format characters goes."""
    files = [SAMPLE / "validated.tsv", *sorted(SHARED.glob("data/cv6/*/validated.tsv"))]
    for file in files:
        lang = file.parent.name
        normalise = Normaliser(lang)
        with open(file, encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows, delimiter="\t"):
                # Against the sentence itself, not the normaliser's own first half: only the declared look-alikes go.
                before = unicodedata.normalize("NFC", row["sentence"]).translate(normalise._replace)
                after = normalise(row["sentence"])
                gone = Counter(fold(before)) - Counter(fold(after))
                kinds = {unicodedata.category(char)[0] for char in gone}
                assert not kinds & set("LMN"), (lang, row["sentence"], after, gone)
                assert "\u0307" not in after or lang == "lt"


def test_case_keep_and_remove_override_and_travel(tmp_path):
    normalise = Normaliser("tr", case="keep", keep_chars="?", remove_chars="x")
    assert normalise("Axel mi? İyi.") == "A el mi? İyi"
    normalise.save(tmp_path)
    saved = json.loads((tmp_path / "normaliser.json").read_text(encoding="utf-8"))
    assert saved == {"lang": "tr", "case": "keep", "keep": "?", "remove": "x"}, "the keys of folders that people have"
    read = Normaliser.from_pretrained(tmp_path)
    assert (read.lang, read.case, read.keep_chars, read.remove_chars) == ("tr", "keep", "?", "x")
    assert read("Axel mi? İyi.") == "A el mi? İyi"


@pytest.mark.parametrize(
    "fields", ['{"case": "keep"}', '{"lang": "tr", "spare": "?"}', '{"lang": "tr", "keep": 1}', "[]"]
)
def test_broken_normaliser_files_are_refused(tmp_path, fields):
    (tmp_path / "normaliser.json").write_text(fields)
    with pytest.raises(InputError, match="must hold"):
        Normaliser.from_pretrained(tmp_path)


def test_removed_characters_are_removed_in_both_cases():
    assert Normaliser("en", remove_chars="Q")("Queen quits") == "ueen uits"
    assert "\u0307" not in Normaliser("tr", case="keep")("i\u0307zmir İzmir")


def test_a_second_pass_changes_nothing_on_any_string():
    rng = random.Random(0)
    alphabet = "aIİıi\u0307 '’ʼ-\u2011.,é\u0301շ՞\u200c\u00ad3ʻ`·"
    for lang in ("tr", "en", "uz", "hy-AM", "kab", "fa", "lt"):
        normalise = Normaliser(lang)
        for _ in range(3000):
            text = "".join(rng.choices(alphabet, k=rng.randint(1, 9)))
            once = normalise(text)
            assert normalise(once) == once, (lang, text)


def test_normaliser_refuses():
    with pytest.raises(InputError, match="`lang` must be a Common Voice locale"):
        Normaliser("turkish!")
    with pytest.raises(InputError, match="`case` must be"):
        Normaliser("tr", case="upper")
    with pytest.raises(InputError, match="`keep_chars` and `remove_chars` must not share"):
        Normaliser("tr", keep_chars="a", remove_chars="a")


def test_foreign_characters_are_strays_of_other_scripts_only():
    mongolian = Counter({"а": 5000, "б": 3000, "ө": 1, "w": 3, "漢": 1, "3": 1, "\u0301": 2})
    assert foreign_characters(mongolian) == {"w", "漢"}  # ө is rare but the text's own
    chinese = Counter({chr(0x4E00 + i): 1 for i in range(2000)} | {"的": 500, "B": 2})
    assert foreign_characters(chinese) == {"B"}
    japanese = Counter({"の": 4000, "カ": 400, "日": 3000, "々": 2, "ー": 1})
    assert foreign_characters(japanese) == set()


def test_vocabulary_is_sorted_and_ends_like_the_blogs():
    tokenizer = CharTokenizer.from_texts(["ba ç", "a"], exclude="ç")
    assert tokenizer.tokens == ["a", "b", "|", "[UNK]", "[PAD]"]
    assert tokenizer.blank_id == 4
    assert tokenizer.encode("ab ç") == [0, 1, 2, 3]


def test_decode_collapses_frames_but_not_labels():
    tokenizer = CharTokenizer.from_texts(["saat"])
    a, s, t, space, unk, blank = (tokenizer.vocab[x] for x in ("a", "s", "t", "|", "[UNK]", "[PAD]"))
    assert tokenizer.decode([s, s, a, blank, a, t, unk]) == "saat"
    assert tokenizer.decode([space, s, space, space, a, space]) == "s a"
    assert tokenizer.decode(tokenizer.encode("saat"), group_tokens=False) == "saat"
    assert tokenizer.decode(tokenizer.encode("saat")) == "sat"


def test_tokenizer_equals_transformers(tmp_path):
    """Same ids and texts, and the size stays: without null bos and eos theirs grows by two."""
    from transformers import Wav2Vec2CTCTokenizer

    tokenizer = CharTokenizer.from_texts(["merhaba dünya", "saat"])
    tokenizer.save_pretrained(tmp_path)
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == len(tokenizer)
    text = "saat dünya"
    assert theirs(text).input_ids == tokenizer.encode(text)
    frames = [i for i in tokenizer.encode(text) for _ in range(2)]
    assert theirs.decode(frames) == tokenizer.decode(frames)
    assert theirs.decode(tokenizer.encode(text), group_tokens=False) == text
    assert theirs.pad_token_id == tokenizer.blank_id


MULTI = ["a", "b", "c", "h", "i", "n", "ch", "in", "ina", "hin", "a.", ".", "|", "[UNK]", "[PAD]"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("in", ["in"]),
        ("ina", ["ina"]),  # the longest of two
        ("i n", ["i", "|", "n"]),  # not across a space
        ("chin", ["ch", "in"]),  # from the left: hin is longer, but begins later
        ("aichn", ["a", "i", "ch", "n"]),
        ("abc", ["a", "b", "c"]),
        ("a.bin a", ["a.", "b", "in", "|", "a"]),  # a token is no regular expression
        ("ax", ["a", "[UNK]"]),
        ("a\nb", ["a", "[UNK]", "b"]),
        ("[PAD]", ["[UNK]"] * 5),  # special tokens are no text
        ("", []),
    ],
)
def test_tokens_of_several_characters_match_longest_first(text, pieces):
    tokenizer = CharTokenizer({token: i for i, token in enumerate(MULTI)})
    assert [tokenizer.tokens[i] for i in tokenizer.encode(text)] == pieces
    silent = CharTokenizer({token: i for i, token in enumerate(t for t in MULTI if t != "[UNK]")}, unk=None)
    assert [silent.tokens[i] for i in silent.encode(text)] == [piece for piece in pieces if piece != "[UNK]"]


def test_tokens_of_several_characters_equal_transformers(tmp_path):
    """On random texts: the same units; theirs lose the spaces beside a unit of several characters, ours keep them."""
    from transformers import Wav2Vec2CTCTokenizer

    tokenizer = CharTokenizer({token: i for i, token in enumerate(MULTI)})
    tokenizer.save_pretrained(tmp_path)
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == len(tokenizer)
    rng, space = random.Random(0), tokenizer.vocab["|"]
    for _ in range(2000):
        words = ["".join(rng.choices("abchin.x", k=rng.randint(1, 8))) for _ in range(rng.randint(1, 3))]
        for word in words:
            assert tokenizer.encode(word) == theirs(word).input_ids, word
        text = " ".join(words)
        ids = tokenizer.encode(text)
        assert [i for i in ids if i != space] == [i for i in theirs(text).input_ids if i != space], text
        if "x" not in text:  # they write [UNK] into the text
            assert tokenizer.decode(ids, group_tokens=False) == text
            assert tokenizer.decode(ids) == theirs.decode(ids)


def test_special_tokens_are_neither_read_from_text_nor_written_to_it():
    """Whatever they are called: one that no setting names any more, and a blank of one character."""
    tokenizer = CharTokenizer({"_": 0, "<s>": 1, "|": 2, "a": 3, "<unk>": 4, "<pad>": 5}, unk="<unk>", pad="_")
    assert tokenizer.encode("a_a") == [3, 4, 3]
    assert tokenizer.encode("<s>") == [4, 4, 4]
    assert tokenizer.decode([3, 1, 5, 0, 4, 2, 3]) == "a a"


def test_unknown_is_what_encode_cannot_say():
    tokenizer = CharTokenizer({"in": 0, "a": 1, "|": 2, "[UNK]": 3, "[PAD]": 4})
    assert tokenizer.unknown("ain i[a") == ["i", "["]
    assert tokenizer.encode("ain i[a").count(3) == 2


def test_tokenizer_round_trip_and_old_special_tokens(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": {"content": "<pad>"}, "unk_token": "<unk>", "word_delimiter_token": "|"})
    )
    tokenizer = CharTokenizer.from_pretrained(tmp_path)
    assert tokenizer.blank_id == 0
    assert tokenizer.decode([3, 0, 2, 1, 3]) == "a a"


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ('{"a": 0, "b": 3, "|": 1, "[PAD]": 4}', "2 is missing"),
        ('{"a": 1, "|": 1, "[PAD]": 0}', "2 is missing"),
        ('{"a": 0, "|": -1, "[PAD]": 1}', "2 is missing"),
        ('{"a": 0, "[PAD]": 1}', "must hold its space, '|'"),
        ('{"a": 0, "|": 1}', "must hold its blank"),
        ("{}", "must hold its blank"),
        ("[1]", "must hold a JSON object"),
        ("{", "cannot read"),
        # Ids that are no whole numbers, in a vocabulary that is right otherwise.
        ('{"a": 0, "|": true, "[PAD]": 2}', "whole numbers, '|' has True"),
        ('{"a": 0, "|": 1.0, "[PAD]": 2}', "whole numbers"),
        ('{"a": 0, "|": "1", "[PAD]": 2}', "whole numbers"),
        ('{"a": 0, "|": null, "[PAD]": 2}', "whole numbers"),
        ('{"a": 0, "|": [1], "[PAD]": 2}', "whole numbers"),
        ('{"a": 0, "tur": {"b": 1}, "[PAD]": 2}', "whole numbers"),
    ],
)
def test_broken_vocabularies_are_refused(tmp_path, vocab, message):
    (tmp_path / "vocab.json").write_text(vocab)
    with pytest.raises(InputError, match=re.escape(message)) as refusal:
        CharTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


def test_tokens_that_are_no_strings_are_refused():
    with pytest.raises(InputError, match="tokens must be strings, got 7"):
        CharTokenizer({7: 0, "|": 1, "[PAD]": 2})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_class": "WhisperTokenizer"}, "says 'WhisperTokenizer'; use the folder of a CTC model"),
        ({"tokenizer_class": ["Wav2Vec2CTCTokenizer"]}, "tokenizer_class must be Wav2Vec2CTCTokenizer or"),
        ({"pad_token": 2}, "pad_token in"),
        ({"unk_token": {"lstrip": False}}, "unk_token in"),
        ({"word_delimiter_token": ["|"]}, "word_delimiter_token in"),
        ({"pad_token": None}, "must hold its blank"),
    ],
)
def test_tokenizer_settings_that_cannot_be_used_are_refused(tmp_path, config, message):
    (tmp_path / "vocab.json").write_text('{"a": 0, "|": 1, "[PAD]": 2}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=re.escape(message)) as refusal:
        CharTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": None}, {"tokenizer_class": "Wav2Vec2CTCTokenizer"}])
@pytest.mark.parametrize(("pad", "unk"), [("[PAD]", "[UNK]"), ("<pad>", "<unk>")])
def test_folders_of_characters_that_say_little(tmp_path, config, pad, unk):
    (tmp_path / "vocab.json").write_text(json.dumps({pad: 0, unk: 1, "|": 2, "a": 3}))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = CharTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.blank_id, tokenizer.encode("a b")) == (0, [3, 2, 1])


PHONES = ["<s>", "<pad>", "</s>", "<unk>", "n", "ə", "tʃ", "t", "ʃ", "aɪ", "ː"]


def phoneme_folder(directory, vocab, **settings):
    """As facebook/wav2vec2-xlsr-53-espeak-cv-ft: `|` is named as the word delimiter, and no token of the vocabulary."""
    config = {
        "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "word_delimiter_token": "|",
        "phonemizer_lang": "en-us",
        "phonemizer_backend": "espeak",
    }
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (directory / "tokenizer_config.json").write_text(json.dumps(config | settings))
    return directory


@pytest.mark.parametrize("vocab", [PHONES, [*PHONES, "|"]])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"phone_delimiter_token": "-"},
        {"word_delimiter_token": None, "phone_delimiter_token": " "},
    ],
)
def test_phonemes_equal_transformers(tmp_path, vocab, settings):
    """Random frames and random labels, through their tokenizer and ours, and through what ours saves."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(phoneme_folder(tmp_path, vocab, **settings))
    tokenizer = CharTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(saved) is type(theirs)
    assert len(tokenizer) == len(theirs) == len(saved) == len(vocab)
    assert tokenizer.blank_id == theirs.pad_token_id == saved.pad_token_id == 1
    theirs.do_phonemize = False  # phonemes from spelling would need espeak; decoding is the same
    rng, written = random.Random(0), [i for i, token in enumerate(vocab) if token not in ("<s>", "</s>", "<unk>")]
    for _ in range(500):
        frames = [i for i in rng.choices(written, k=6) for _ in range(rng.randint(1, 3))]
        assert tokenizer.decode(frames) == theirs.decode(frames) == saved.decode(frames)
        labels = [i for i in frames if i != tokenizer.blank_id]
        said = tokenizer.decode(labels, group_tokens=False)
        assert said == theirs.decode(labels, group_tokens=False)
        text = " ".join(vocab[i] for i in labels) + rng.choice(["", " q", " ntʃ", "  n "])
        assert tokenizer.encode(text) == theirs(text).input_ids == saved(text).input_ids
    assert CharTokenizer.from_pretrained(tmp_path / "saved").encode("n tʃ | aɪ q") == tokenizer.encode("n tʃ | aɪ q")


def test_phonemes_by_hand(tmp_path):
    tokenizer = CharTokenizer.from_pretrained(phoneme_folder(tmp_path, [*PHONES, "|"]))
    n, tsh, space = 4, 6, 11
    assert tokenizer.encode("n tʃ | n") == [n, tsh, space, n]
    assert tokenizer.encode("ntʃ n") == [3, n], "one unknown phoneme, not three known characters"
    assert tokenizer.unknown("ntʃ n") == ["ntʃ"]
    assert tokenizer.decode([n, n, 1, n, space, tsh, 3, 0, tsh]) == "n n tʃ tʃ"


def test_a_phoneme_model_recognises_phonemes(tmp_path, small_config):
    """w2v.load reads such a folder: vocabulary, blank and head belong together."""
    torch.manual_seed(0)
    config = dataclasses.replace(small_config, vocab_size=len(PHONES), pad_token_id=1)
    w2v.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    asr = w2v.load(phoneme_folder(tmp_path, PHONES))
    asr.model.lm_head.weight.data *= 100  # far from the bias, so that the frames differ
    phonemes = asr.transcribe([torch.randn(64_000)])[0].text.split()
    assert len(phonemes) > 1
    assert set(phonemes) <= set(PHONES[4:])


def test_a_phoneme_models_vocabulary_stays_for_phonemes_only(tmp_path):
    """Ordinary spelling is made of characters that are phonemes too, and of words that are none."""
    given = CharTokenizer.from_pretrained(phoneme_folder(tmp_path, PHONES))
    start = StartingPoint("phonemes", FAMILIES["wav2vec2"], w2v.TINY, tmp_path, given)
    for text, stays in (("n ə tʃ", True), ("ntʃ ə", False)):
        said = []
        settings = SimpleNamespace(lang="en", prompt_language=None, min_char_count=1)
        kept = choose_tokenizer(start, settings, [text], {"tr": Counter(text.replace(" ", ""))}, said.append)
        assert (kept is given) == stays, said


def test_languages_without_spaces():
    assert not is_spaced("zh-CN")
    assert not is_spaced("th")
    assert is_spaced("tr")


def test_public_names():
    assert all(hasattr(w2v, name) for name in w2v.__all__)
