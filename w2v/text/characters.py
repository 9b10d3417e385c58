"""Tables of characters that hold for every language: what is invisible, and which spelling a look-alike stands for.

locales.py says where one language differs. normalise.py applies both.
"""

import functools
import re
import unicodedata

APOSTROPHE = "'"
# Typed or set in place of ' : ‘ ’ ‛ quotation marks, ` grave, ´ acute, ′ prime, ＇ full width.
SAME_APOSTROPHE = "\u2018\u2019\u201b`\u00b4\u2032\uff07"
# ʼ and ʹ mean ' inside words. Elsewhere they stay, because their category is letter.
APOSTROPHE_LETTERS = "\u02bc\u02b9"
HYPHEN = "-"
SAME_HYPHEN = "\u2010\u2011\ufe63\uff0d"  # hyphen, non-breaking hyphen, small and full width
# These only stretch a word's line: the Arabic tatweel, its N'Ko counterpart and the Mongolian nirugu.
STRETCHES = "\u0640\u07fa\u180a"
# Format characters (Cf) that one sees: Arabic and Kaithi number signs, the end of ayah, interlinear annotation.
VISIBLE_FORMATS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u0890\u0891\u08e2\U000110bd\U000110cd\ufff9\ufffa\ufffb"
# Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt, without its Cf: the combining grapheme joiner,
# Hangul fillers, Khmer inherent vowels, variation selectors, reserved code points and the plane of tags.
IGNORABLE = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF),
)  # fmt: skip


def is_invisible(char: str) -> bool:
    """Whether a character leaves no ink and separates nothing: soft hyphen, ZWJ, direction mark, variation selector."""
    if unicodedata.category(char) == "Cf":
        return char not in VISIBLE_FORMATS
    return any(first <= ord(char) <= last for first, last in IGNORABLE)


# Kinds of decomposition in UnicodeData.txt whose result is the same text. The others stay as they are: <super> and
# <sub> are letters of orthographies (ʰ, ⁿ), <fraction> is read otherwise, <noBreak> and <small> hold no letter.
ARABIC_FORMS = {"<initial>", "<medial>", "<final>", "<isolated>"}
SAME_TEXT = {"<compat>", "<font>", "<wide>", "<narrow>", "<circle>", "<square>", "<vertical>", *ARABIC_FORMS}
# Letters whose decomposition is no other spelling of them: Armenian ech yiwn, sara am of Thai and Lao, ho no and ho mo
# of Lao, Tibetan vowels, Arabic high hamza, and Hangul jamo, whose decompositions join to syllables.
LETTERS_OF_THEIR_OWN = {0x0587, 0x0E33, 0x0EB3, 0x0EDC, 0x0EDD, 0x0F77, 0x0F79}
LETTERS_OF_THEIR_OWN |= {*range(0x0675, 0x0679), *range(0x3131, 0x318F), *range(0x3260, 0x327F)}
LAST_FORM = 0x1FFFF  # no such decomposition lies beyond


def _same_text(char: str) -> str | None:
    """What a compatibility form is a form of: fi of ﬁ, A of Ａ, IV of Ⅳ. None for any other character."""
    kind, *codes = unicodedata.decomposition(char).split(" ")
    if kind not in SAME_TEXT or ord(char) in LETTERS_OF_THEIR_OWN:
        return None
    parts = [chr(int(code, 16)) for code in codes]
    text = "".join(_same_text(part) or part for part in parts)
    if kind in ARABIC_FORMS:  # vowel signs are shown on a space or a tatweel
        text = text.strip(" " + STRETCHES)
    if not text.strip() or text.startswith(" "):
        return None
    if any(unicodedata.category(part)[0] not in "LMN" for part in text if part != " "):
        return None
    # A symbol is no letter of a text, save circled ones and those that show ideographs or kana (㌔, ⼀). What a unit
    # such as ㎏ or № is read as depends on the language.
    is_symbol = unicodedata.category(char)[0] not in "LMN"
    is_han = all(part.isdigit() or part > "\u3040" for part in text)
    return text if not is_symbol or kind == "<circle>" or is_han else None


@functools.cache
def compatibility() -> dict[str, str]:
    """{compatibility form: the same text in ordinary characters}. Read it only: every caller gets the same one."""
    found = ((char, _same_text(char)) for char in map(chr, range(0x80, LAST_FORM)))
    return {char: text for char, text in found if text is not None}


# Letters of two scripts that have one shape. (Unicode's confusables.txt, and letters of its pairs with the same marks.)
LATIN_CYRILLIC = list(
    zip(
        "aceopxyəǝɵABCEHKMOPTXYƏƎƟöäÿăĕëïçÖÄŸĂĔËÏÇ",
        "асеорхуәәөАВСЕНКМОРТХУӘӘӨӧӓӱӑӗёїҫӦӒӰӐӖЁЇҪ",
        strict=True,
    )
)
# Letters of some Cyrillic alphabets only: a Latin one becomes Cyrillic where LanguageRules.latin_too names it.
LATIN_CYRILLIC_OF_SOME = list(zip("iIjJsShqwQW", "іІјЈѕЅһԛԝԚԜ", strict=True))
LATIN_GREEK = list(zip("oABEZHIKMNOPTYX", "οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", strict=True))

LATIN = re.compile("[A-Za-zªº\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua7ff]")
CYRILLIC = re.compile("[\u0400-\u0481\u048a-\u052f\u1c80-\u1c8f\ua640-\ua66e\ua680-\ua69b]")
GREEK = re.compile("[\u0370-\u0373\u0376-\u037d\u037f\u0386\u0388-\u03ff\u1f00-\u1fff]")
WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f])*")


def _by_code(pairs: dict[str, str]) -> dict[int, str]:
    return {ord(char): other for char, other in pairs.items()}


class OneScript:
    """A word of Latin and Cyrillic (or Greek) letters becomes a word of one script, where look-alikes make it one.

    "cлово" with a Latin c becomes Cyrillic, "Қаzақ" stays. A word of look-alikes alone ("сop") becomes one of the
    language's own script. script: CYRILLIC, GREEK or LATIN.
    """

    def __init__(self, script: str, latin_too: str = ""):
        some = LATIN_CYRILLIC_OF_SOME
        cyrillic = dict(LATIN_CYRILLIC) | {latin: other for latin, other in some if latin in latin_too}
        self.script = script
        # (the other script, its name, Latin -> it, it -> Latin). The first of two Latin letters is the usual one.
        self.pairs = [
            (CYRILLIC, "CYRILLIC", _by_code(cyrillic), _by_code({b: a for a, b in reversed(LATIN_CYRILLIC + some)})),
            (GREEK, "GREEK", _by_code(dict(LATIN_GREEK)), _by_code({b: a for a, b in LATIN_GREEK})),
        ]

    def __call__(self, text: str) -> str:
        if LATIN.search(text):
            for other, name, to_other, to_latin in self.pairs:
                if other.search(text):
                    text = WORD.sub(lambda word: self._one(word[0], other, name, to_other, to_latin), text)  # noqa: B023
        return text

    def _one(self, word: str, other: re.Pattern, name: str, to_other: dict[int, str], to_latin: dict[int, str]) -> str:
        latin, others = set(map(ord, LATIN.findall(word))), set(map(ord, other.findall(word)))
        if not latin or not others:
            return word
        can_be_other, can_be_latin = latin <= to_other.keys(), others <= to_latin.keys()
        if can_be_other and (not can_be_latin or self.script == name):
            return word.translate(to_other)
        return word.translate(to_latin) if can_be_latin else word
