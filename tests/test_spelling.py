"""Look-alikes, invisible characters, removed marks, and what holds for every character of Unicode.

Run: pytest tests/test_spelling.py
"""

import csv
import functools
import json
import random
import sys
import unicodedata

import pytest
from conftest import SHARED

from w2v.errors import InputError
from w2v.text.characters import compatibility, is_invisible
from w2v.text.locales import (
    COMMON_VOICE_LOCALES,
    CYRILLIC_ALPHABETS,
    RULES,
    has_dotless_i,
    language_of,
    script_of_language,
)
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer

ARABIC_MARKS = "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670"
HEBREW_POINTS = "".join(map(chr, [*range(0x05B0, 0x05BE), 0x05BF, 0x05C1, 0x05C2]))


@pytest.mark.parametrize(
    ("lang", "remove", "sentence", "wanted"),
    [
        # A mark or a modifier that is removed leaves its word whole.
        ("ar", ARABIC_MARKS, "مُحَمَّدٌ رَسُولٌ", "محمد رسول"),
        ("ar", "\u0640", "الـــسلام", "السلام"),
        ("he", HEBREW_POINTS, "שָׁלוֹם", "שלום"),
        ("he", HEBREW_POINTS, "\ufb2a\u05b8לום", "שלום"),  # shin and its dot in one character
        ("en", "\u0301", "naïve x\u0301y", "naïve xy"),
        ("en", "\u0301", "caf\u00e9 cafe\u0301", "café café"),  # the letter é is another character, however it is coded
        ("hi", "\u093c", "ऩख़", unicodedata.normalize("NFC", "ऩख")),  # the nukta that is no part of a letter
        ("ja", "\u30fc", "コーヒー", "コヒ"),
        ("ha", "\u02bc", "ʼyaʼya", "yaya"),
        ("en", "`^", "a`b^c ` d", "abc d"),  # Sk inside a word
        ("fa", "\u200c", "می\u200cخواهم", "میخواهم"),
        # Whatever else is removed separates words, as before.
        ("en", "'", "it's", "it s"),
        ("tr", "x", "Axel", "a el"),
        ("ca", "\u00b7", "col·lecció", "col lecció"),
        ("en", "-", "fine-tuning", "fine tuning"),
    ],
)
def test_removed_characters(lang, remove, sentence, wanted):
    normalise = Normaliser(lang, remove_chars=remove)
    assert normalise(sentence) == wanted
    assert normalise(wanted) == wanted


def test_words_of_arabic_stay_whole_without_their_marks():
    file = SHARED / "data" / "cv6" / "ar" / "validated.tsv"
    if not file.is_file():
        pytest.skip("needs the shared data")
    with open(file, encoding="utf-8", newline="") as rows:
        sentences = [row["sentence"] for row in csv.DictReader(rows, delimiter="\t")]
    without = Normaliser("ar", remove_chars=ARABIC_MARKS)
    assert sum(len(without(sentence).split()) for sentence in sentences) == 526
    assert sum(len(Normaliser("ar")(sentence).split()) for sentence in sentences) == 526
    assert not set(ARABIC_MARKS) & set("".join(map(without, sentences)))


@pytest.mark.parametrize(
    ("lang", "sentence", "wanted"),
    [
        # Cedilla and comma below: one letter in each language.
        ("ro", "\u015fi \u0163ar\u0103 \u015e\u0162", "\u0219i \u021bar\u0103 \u0219\u021b"),
        ("ro", "s\u0327i", "\u0219i"),
        ("ro", "s\u0326i", "\u0219i"),
        ("ro", "\uff53\u0327i", "\u0219i"),  # a full-width s
        ("rup", "\u015fi", "\u0219i"),
        ("tr", "\u015fu i\u015fi", "\u015fu i\u015fi"),
        ("tr", "\u0219u i\u0219i", "\u015fu i\u015fi"),
        ("gag", "\u0219i \u0163a", "\u015fi \u0163a"),
        ("kmr", "\u0219ev \u015fev", "\u015fev \u015fev"),
        ("lv", "k\u0326i \u0137i", "\u0137i \u0137i"),
        # A word of two scripts becomes a word of one, where its look-alikes allow it.
        ("ru", "cлово Mосква", "слово москва"),
        ("ru", "Internet-магазин WhatsAppом", "internetмагазин whatsappом"),
        ("uk", "Iван iз лiсу", "іван із лісу"),
        ("ru", "Iван", "iван"),  # і is no Russian letter
        ("mk", "jас", "јас"),
        ("tt", "həм hава", "һәм һава"),
        ("kk", "Қазaқстан ə", "қазақстан ə"),  # a word of one script stays
        ("tr", "kаlеm", "kalem"),  # Cyrillic a and e
        ("tr", "cор", "cop"),
        ("ru", "cор", "сор"),
        ("el", "Tο παιδί", "το παιδί"),
        ("mhr", "кÿтӱ", "кӱтӱ"),
        # Letters of one shape that another language has.
        ("az", "gǝldi Ǝ", "gəldi ə"),
        ("kab", "γef εeqqa", "ɣef ɛeqqa"),
        ("ee", "nuvε", "nuvɛ"),
        ("vi", "Ðường Ɖây", "đường đây"),
        ("is", "Ð", "ð"),
        ("ur", "علي كي يہ", "علی کی یہ"),
        ("ckb", "كوردي نه\u200cته\u200cوه\u200c", "کوردی نەتەوە"),
        ("ps", "كتاب ي ی", "کتاب ي ی"),
        ("sd", "ك ي", "ڪ ي"),
        ("ug", "ک ي ى", "ك ي ى"),
        ("ar", "کتاب علی", "كتاب علي"),
        # Greek: micro and mu, the sigma at the end of a word, symbol forms.
        ("el", "\u00b5ικρός σοφοσ ΟΔΟΣ οδόςτε", "μικρός σοφος οδος οδόστε"),
        ("el", "μεσ' στη Σ", "μες στη σ"),
        ("el", "ϐιϐλίο ϑ ϕ", "βιβλίο θ φ"),
        ("en", "5 \u00b5m", "5 \u03bcm"),
        # The turned comma.
        ("uz", "o'g'il oʼzbek G’arb tog‘ o`n ma‘no ‘salom’", "oʻgʻil oʻzbek gʻarb togʻ oʻn ma'no salom"),
        ("haw", "'Ōlelo Hawai‘i Hawaiʻi Hawai`i", "ʻōlelo hawaiʻi hawaiʻi hawaiʻi"),
        ("to", "fakaʼilonga", "fakaʻilonga"),
        # Apostrophes of all kinds, inside words and elsewhere.
        ("fr", "l‘a l’a lʼa lʹa l´a l`a l＇a l′a l‛a", "l'a " * 8 + "l'a"),
        ("uk", "м`ята п´ять", "м'ята п'ять"),
        ("en", "‘quoted’ `this´", "quoted this"),
        ("sms", "vueʹllem", "vueʹllem"),
        ("he", 'צה"ל צ\'ק "שלום"', "צה״ל צ׳ק שלום"),
        ("af", "ŉ man 'n man", "n man n man"),
        ("kab", "yella\u2010d yella\u2011d", "yella-d yella-d"),
        # Invisible characters vanish, unless the language keeps them.
        ("en", "a\u034fb c\u200bd e\u2060f \ufeffg\u00adh i\U000e0069j k\ufe0fl m\U000e0101n", "ab cd ef gh ij kl mn"),
        ("en", "a\u200cb c\u200dd", "ab cd"),
        ("km", "ក\u17b4ខ", "កខ"),
        ("ko", "가\u3164나 ㅋㅋ", "가나 ㅋㅋ"),
        ("hi", "क्\u200dष क्\u200cष", "क्\u200dष क्\u200cष"),
        ("hi", "क\u2060ख\ufeff", "कख"),
        ("mn", "ᠬᠠ\u180eᠠ\u180b", "ᠬᠠ\u180eᠠ"),
        ("ar", "الـــسلام", "السلام"),
        ("ar", "نعم\u06ddلا", "نعم لا"),  # the end of ayah is seen, and separates
        # Compatibility forms.
        ("en", "ﬁne oﬃce ﬅ ſo", "fine office st so"),
        ("ga-IE", "ẛ", "ṡ"),
        ("nl", "Ĳs ĳs", "ijs ijs"),
        ("hr", "ǅep ǉ", "džep lj"),
        ("ca", "coŀlecció col•lecció", "col·lecció col·lecció"),
        ("ja", "ＡＢ１２ ｶﾞｷﾞ ｺｰﾋｰ ㌔", "ab12 ガギ コーヒー キロ"),
        ("ko", "ﾡﾢ", "ㄱㄲ"),
        ("ar", "\ufeb3\ufefc\ufee1 \ufe91\ufe70", "سلام ب\u064b"),
        ("ar", "\ufdf2", "الله"),
        ("en", "Ⅳ ⅷ ① Ⓐ 𝐛𝟗", "iv viii 1 a b9"),
        ("zh-CN", "⼀⽔", "一水"),
        # No compatibility forms of other text: these are letters of their alphabets.
        ("th", "น้ำ ทำ", "น้ำ ทำ"),
        ("th", "ท\u0e4dา น\u0e4d\u0e49า เเม่", "ทำ น้ำ แม่"),
        ("lo", "ນ້ຳ ໜູ", "ນ້ຳ ໜູ"),
        ("hy-AM", "և", "և"),
        ("nan-tw", "saⁿ", "saⁿ"),
        ("ru", "№ 5", "5"),  # no Latin no
        ("en", "5 ㎏ ½ m²", "5 ½ m²"),
    ],
)
def test_look_alikes(lang, sentence, wanted):
    normalise = Normaliser(lang)
    assert normalise(sentence) == wanted
    assert normalise(wanted) == wanted


def test_what_the_caller_names_is_left_to_the_caller():
    assert Normaliser("ro", keep_chars="ş")("şi ţi") == "şi ți"
    assert Normaliser("en", keep_chars="’`")("it’s `so` it‘s") == "it’s `so` it's"
    assert Normaliser("uz", keep_chars="'")("o'n g'oz") == "o'n g'oz"
    assert Normaliser("ar", keep_chars="\u0640")("اـب") == "اـب"
    assert Normaliser("en", keep_chars="\ufe0f")("a\ufe0fb") == "a\ufe0fb"
    assert Normaliser("en", keep_chars="ﬁ")("ﬁne ﬂow") == "ﬁne flow"


def test_the_sign_of_the_space_cannot_be_kept(tmp_path):
    with pytest.raises(InputError, match=r"^`keep_chars` must not hold \|, got '\?\|'; it stands for the space"):
        Normaliser("tr", keep_chars="?|")
    assert Normaliser("tr")("bir|iki") == "bir iki"
    with pytest.raises(InputError, match=r"^texts must not hold \|"):
        CharTokenizer.from_texts(["bir|iki"])
    # A folder that an earlier version wrote: its labels had a space there.
    rules = {"lang": "tr", "case": "lower", "keep": "?|", "remove": ""}
    (tmp_path / "normaliser.json").write_text(json.dumps(rules))
    assert Normaliser.from_pretrained(tmp_path)("bir|iki?") == "bir iki?"


ASSIGNED = [char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) != "Cn"]
LANGUAGES = sorted({language_of(lang) for lang in {*RULES, *COMMON_VOICE_LOCALES, *CYRILLIC_ALPHABETS}})
# One language of each set of rules: many rows are alike.
_by_rules = {(str(RULES.get(lang)), has_dotless_i(lang), script_of_language(lang)): lang for lang in LANGUAGES}
ONE_OF_EACH = sorted(_by_rules.values())


@functools.cache
def in_words() -> list[str]:
    """All letters, marks and numbers that stay, whole words in one character excepted."""
    phrases = {form for form, text in compatibility().items() if " " in text}
    stretches = set("\u0640\u07fa")
    chars = [char for char in ASSIGNED if unicodedata.category(char)[0] in "LMN" and not is_invisible(char)]
    return [char for char in chars if char not in phrases | stretches]


def parts(chars: list[str], size: int = 500) -> list[list[str]]:
    """Few at a time: one character that needs a third pass takes the others with it."""
    return [chars[at : at + size] for at in range(0, len(chars), size)]


def classes(text: str) -> set[str]:
    return {unicodedata.category(char)[0] for char in text}


def check_every_character(lang: str, case: str) -> None:
    normalise = Normaliser(lang, case)
    # A letter stays a letter, a mark a mark or a letter, and a number a number or a letter (Ⅳ).
    chars = in_words()
    words = [word for part in parts(chars) for word in normalise(" ".join(part)).split(" ")]
    assert len(words) == len(chars), lang
    for char, word in zip(chars, words, strict=True):
        if char != word:
            kinds = classes(compatibility().get(char, char))  # the Arabic form of two marks is called a letter
            assert classes(word) & (kinds | {"L"}), (lang, char, word)
    # Alone, between Latin letters and between the letters of another script: a second call changes nothing.
    for before, after in (("", " "), ("a", "b "), ("б", "г ")):
        for part in parts(ASSIGNED):
            once = normalise("".join(before + char + after for char in part))
            assert normalise(once) == once, (lang, before, part[0])


@pytest.mark.long
@pytest.mark.parametrize("case", ["lower", "keep"])
@pytest.mark.parametrize("lang", ONE_OF_EACH)
def test_every_character_of_unicode(lang, case):
    check_every_character(lang, case)


@pytest.mark.parametrize("lang", ["tr", pytest.param("uz", marks=pytest.mark.slow)])
def test_every_character_of_unicode_in_a_few_languages(lang):
    assert len(ASSIGNED) > 280_000
    check_every_character(lang, "lower")


@pytest.mark.slow
def test_every_language_on_strings_of_its_hardest_characters():
    """Idempotent on random strings of look-alikes, marks, invisible characters and signs of all the tables."""
    rng = random.Random(0)
    hard = (
        "aIİıi\u0307oOgGsſşșcсСеeiіIІјhһǝəәγεσςΣ '’‘ʼʹ`´\u2010-\u2011.,\"|é\u0301\u0326\u0327շ՞\u200c\u200d\u00ad\u034f"
    )
    hard += (
        "\u00b7∙lLŀ3ʻهيكکیىـ\u064e\ufe77\u0e4d\u0e49\u0e32\u0e40\u0ecd\u0eb2צׁ\u05b8ﾞｶ가ㄱ가ŉnⅣ①ＡΑоТ\u180e\u06dd\ud800|"
    )
    for lang in LANGUAGES:
        for options in ({}, {"case": "keep"}, {"remove_chars": "\u0301`'\u0327"}, {"keep_chars": "'\u2010ş"}):
            normalise = Normaliser(lang, **options)
            for _ in range(60):
                text = "".join(rng.choices(hard, k=rng.randint(1, 12)))
                once = normalise(text)
                assert normalise(once) == once, (lang, options, text)


REAL = [*sorted(SHARED.glob("data/cv6/*/validated.tsv")), SHARED / "data/cv_twi/validated.tsv"]


@pytest.mark.parametrize("table", REAL, ids=lambda table: table.parent.name)
def test_real_sentences_lose_no_letter(table):
    if not table.is_file():
        pytest.skip("needs the shared data")
    lang = "tw" if table.parent.name == "cv_twi" else table.parent.name
    quoting = csv.QUOTE_NONE if lang == "tw" else csv.QUOTE_MINIMAL
    with open(table, encoding="utf-8", newline="") as rows:
        sentences = [row["sentence"] for row in csv.DictReader(rows, delimiter="\t", quoting=quoting)]
    normalise = Normaliser(lang)
    assert len(sentences) >= 3
    for sentence in sentences:
        text = normalise(sentence)
        assert normalise(text) == text
        # Without case, and without the look-alikes: how many letters, marks and numbers there are.
        assert count(text) == count(unicodedata.normalize("NFC", sentence)), (sentence, text)


def count(text: str) -> int:
    """Letters, marks and numbers; no tatweel, no invisible one, no letter that means ', no dot of a lower-cased İ."""
    kept = (char for char in text if unicodedata.category(char)[0] in "LMN" and not is_invisible(char))
    return sum(char not in "\u0640\u0307\u02b9\u02bc" for char in kept)
