"""Tables of Common Voice's locales and their languages' spelling, and the small questions on them."""

import re
from dataclasses import dataclass, field

from w2v.errors import InputError

ZWNJ, ZWJ = "\u200c", "\u200d"

# The form of Common Voice's locales, which is close to BCP 47: tr, sv-SE, zh-CN, nan-tw, ckb.
LOCALE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*")
DOTTED_AND_DOTLESS_I = {"tr", "az", "crh", "gag"}
# These languages write no spaces between words. WER then counts whole sentences, so CER is the figure to read.
WITHOUT_SPACES = {"zh", "yue", "ja", "th", "lo", "km", "my", "bo", "nan"}
COMMON_VOICE_LOCALES = set(
    "ab ace ady af am an ar arn as ast az ba bas be bg bm bn br bs ca ckb cnh cs cv cy da de dv dyu el en eo es et eu "
    "fa ff fi fr fy-NL ga-IE gl gn gu-IN ha he hi hr hsb ht hu hy-AM ia id ig is it ja ka kab kk kmr kn ko ky lg lij "
    "ln lo lt ltg lv mdf mg mhr mk ml mn mr mrj ms mt my myv nan-tw nb-NO ne-NP nhi nl nn-NO nr nso ny oc om or os "
    "pa-IN pl ps pt quy rm-sursilv rm-vallader ro ru rw sah sat sc sd si sk skr sl sn so sq sr ss st sv-SE sw syr ta "
    "te tg th ti tig tk tl tn to tok tr ts tt tw ty ug uk ur uz ve vec vi vot wo xh yi yo yue zgh zh-CN zh-HK zh-TW zu "
    "zza".split()
)


@dataclass(frozen=True)
class LanguageRules:
    """What one language's spelling needs beyond the Unicode categories."""

    keep: str = ""  # punctuation, symbols or format characters that belong to its words
    drop: str = ""  # characters inside words that are removed and leave no space
    replace: dict[str, str] = field(default_factory=dict)  # look-alikes -> the language's own characters


# Other format characters (category Cf) are removed. Most of them are soft hyphens, byte-order and direction marks.
# ZWNJ separates morphemes in Persian and its neighbours. ZWJ and ZWNJ select conjuncts in Indic scripts.
RULES = {
    # Kabyle joins clitics by hyphens (yella-d). Sources also type ɣ and ɛ as their Greek and Cyrillic look-alikes.
    "kab": LanguageRules(keep="-", replace=dict(zip("γΓεԑԐ", "ɣƔɛɛƐ", strict=True))),
    # Arabic keyboards put Arabic yeh and kaf into Persian words.
    "fa": LanguageRules(keep=ZWNJ, replace={"ي": "ی", "ك": "ک"}),
    "ckb": LanguageRules(keep=ZWNJ),
    "ur": LanguageRules(keep=ZWNJ),
    "ps": LanguageRules(keep=ZWNJ),
    "sd": LanguageRules(keep=ZWNJ),
    "ug": LanguageRules(keep=ZWNJ),
    **{lang: LanguageRules(keep=ZWNJ + ZWJ) for lang in ("as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "or")},
    **{lang: LanguageRules(keep=ZWNJ + ZWJ) for lang in ("pa", "sa", "sat", "si", "ta", "te")},
    "ca": LanguageRules(keep="\u00b7"),  # col·lecció
    "he": LanguageRules(keep="\u05f3\u05f4"),  # geresh and gershayim
    "yi": LanguageRules(keep="\u05f3\u05f4"),
    # Armenian writes its question, exclamation and emphasis marks over a vowel, in the middle of a word.
    "hy": LanguageRules(drop="\u055a\u055b\u055c\u055e\u055f"),
    # Uzbek oʻ and gʻ end in the letter U+02BB, a turned comma. Sources also type a quotation mark or ` in its place.
    "uz": LanguageRules(replace=dict.fromkeys("\u2018`", "\u02bb")),
    # Chuvash sources mix Latin look-alikes into Cyrillic words.
    "cv": LanguageRules(replace=dict(zip("ăĕçÿĂĔÇŸ", "ӑӗҫӳӐӖҪӲ", strict=True))),
}


def check_locale(lang: str) -> str:
    """`lang` with its language in lower case. InputError where it has not the form of a locale (tr, sv-SE, ckb)."""
    if not LOCALE.fullmatch(lang):
        raise InputError(f"`lang` must be a Common Voice locale such as tr, sv-SE or ckb, got {lang!r}")
    language, *rest = lang.split("-")
    return "-".join([language.lower(), *rest])


def language_of(lang: str) -> str:
    """The language of a locale: sv of sv-SE. The tables are by language."""
    return lang.split("-")[0]


def is_common_voice(lang: str) -> bool:
    """Whether the locale is one of Common Voice's."""
    return lang in COMMON_VOICE_LOCALES


def has_dotless_i(lang: str) -> bool:
    """Whether I lower-cases to ı, as in Turkish."""
    return language_of(lang) in DOTTED_AND_DOTLESS_I


def is_spaced(lang: str) -> bool:
    """Whether the language separates words by spaces, so that WER counts words."""
    return language_of(lang) not in WITHOUT_SPACES
