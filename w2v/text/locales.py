"""Tables of Common Voice's locales and their languages' spelling, and the small questions on them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

from w2v.errors import InputError, show

ZWNJ, ZWJ = "\u200c", "\u200d"

# The form of Common Voice's locales, which is close to BCP 47: tr, sv-SE, zh-CN, nan-tw, ckb.
LOCALE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*")
DOTTED_AND_DOTLESS_I = {"tr", "az", "crh", "gag"}
# These languages write no spaces between words. WER then counts whole sentences, so CER is the figure to read.
WITHOUT_SPACES = {"zh", "yue", "ja", "th", "lo", "km", "my", "bo", "nan"}
# The locales of Scripted Speech 25.0, and those of Spontaneous Speech 3.0 that are not among them. New ones come with
# each release. So this list helps with spelling only, and what a release says of itself is believed.
COMMON_VOICE_LOCALES = set(
    "ab abb ady af ajg am an ar as ast az ba bag bas bax bba bbj bbl bce bci be beb bfd bft bg bgp bkh bkm bn bnm bnn "
    "br brh bri bsh bsk btv bum byv ca cjk ckb cnh cpy cs cut cux cv cy da dag dar dav de dmk dml dru dsb dua dv dyu "
    "ebr eko el en eo es esu et eto eu ewo fa fan fi fmp fr fub fue fy-NL ga-IE gej ggg gid gig giz gjk gju gl gn gsw "
    "gv gwc gwt gya ha haz he hem hi hno hr hsb ht hu hux hy-AM ia ibb id ig ipk is it ja jgo jqr ka kab kbd kdh khw "
    "kk kln kls kmr ko ksf kvx kw kxp ky lg lij lo lrk lss lt ltg lua luo lv lzz mau mbo mcf mcn mcx mdd mdf mgg mhk "
    "mhr mk mki ml mn mr mrj ms mse mt mua mug mve mvy mxu myv nan-tw nb-NO ncx ne-NP nhi nl nla nlv nmg nmz nn-NO "
    "nnh nr nso nyu oc odk or oru os pa-IN pcm phl phr pl plk prq ps pt pua pwn qup qur qus qux quy qva qvi qvj qvl "
    "qwa qws qxa qxp qxt qxu qxw rm-sursilv rm-vallader ro rof ru rup rw sah sat sbn sc scl sd sei sk skr sl sq sr ss "
    "ssi st sv-SE sva sw szy ta tar tay te tg th ti tig tk tli tn tok tr trv trw ts tt tui tvu tw udl ug uk ur ush uz "
    "var ve vi vot wbl wes xh xhe xka xmf yaq yav ydg yi yo yue zgh zh-CN zh-HK zh-TW zoc zu zza".split()
)
COMMON_VOICE_LOCALES |= set(
    "aat aln bew brx bsy bxk cdo cgg cpx el-CY hac hch jv kcn koo kzi led lke lth meh mel mmc ms-MY msi pne rki ruc "
    "rwm sco sdo seh shi si sn snv su tob top ttj tuq ukv xkl".split()
)
# What people write in place of a locale.
LANGUAGE_NAMES = dict(
    pair.split("=")
    for pair in (
        "arabic=ar basque=eu belarusian=be bengali=bn breton=br bulgarian=bg cantonese=yue catalan=ca chinese=zh-CN "
        "czech=cs danish=da dutch=nl english=en esperanto=eo estonian=et finnish=fi french=fr frisian=fy-NL "
        "galician=gl georgian=ka german=de greek=el hausa=ha hebrew=he hindi=hi hungarian=hu igbo=ig indonesian=id "
        "irish=ga-IE italian=it japanese=ja kabyle=kab kazakh=kk kinyarwanda=rw korean=ko kurdish=kmr latvian=lv "
        "lithuanian=lt luganda=lg macedonian=mk malayalam=ml maltese=mt marathi=mr mongolian=mn norwegian=nb-NO "
        "persian=fa polish=pl portuguese=pt punjabi=pa-IN romanian=ro russian=ru serbian=sr slovak=sk slovenian=sl "
        "spanish=es swahili=sw swedish=sv-SE tamil=ta tatar=tt thai=th turkish=tr twi=tw ukrainian=uk urdu=ur "
        "uzbek=uz vietnamese=vi welsh=cy yoruba=yo"
    ).split()
)


@dataclass(frozen=True)
class LanguageRules:
    """What one language's spelling needs beyond the Unicode categories and the tables of characters.py."""

    keep: str = ""  # punctuation, symbols or format characters that belong to its words
    drop: str = ""  # characters inside words that are removed and leave no space
    replace: dict[str, str] = field(default_factory=dict)  # look-alikes -> the language's own characters
    rewrite: tuple[tuple[str, str], ...] = ()  # (regular expression, replacement): look-alikes that context tells
    latin_too: str = ""  # Latin letters with a look-alike in its Cyrillic alphabet that few others have


def _pairs(one: str, other: str) -> dict[str, str]:
    return dict(zip(one, other, strict=True))


# The letters with a cedilla or a comma below. Romanian has the comma (standard SR 13411, and CLDR's exemplar
# characters of ro; fonts and keyboards before 2007 had only the cedilla). Turkish, Azerbaijani, Crimean Tatar,
# Gagauz, Kurdish, Turkmen and Zazaki have the cedilla (CLDR; the Unicode Standard, section 7.1).
COMMA_BELOW = _pairs("şţŞŢ", "șțȘȚ")
CEDILLA = {comma: cedilla for cedilla, comma in COMMA_BELOW.items()}
# Latvian and Latgalian letters are encoded with a cedilla, though it looks as a comma (Unicode Standard, section 7.1).
LATVIAN = {"\u0326": "\u0327"}
# African alphabets have the Latin letters ɛ and ɣ (Niamey 1978). Sources type Greek and Cyrillic look-alikes.
OPEN_E = _pairs("γεԑԐ", "ɣɛɛƐ")
# Polynesian languages: the glottal stop is the letter U+02BB before a vowel (CLDR's exemplar characters of haw and to).
OKINA = ("'(?=[aeiouāēīōūáéíóúAEIOUĀĒĪŌŪÁÉÍÓÚ])", "\u02bb")
GREEK_MARKS = "\u0300-\u036f"
# Arabic keyboards put Arabic yeh, alef maksura and kaf into the words of languages that have other letters for them.
# The letters of each language: CLDR's exemplar characters.
ARABIC_KAF = _pairs("ك", "ک")
ARABIC_YEH_KAF = _pairs("يك", "یک")
ARABIC_YEHS_KAF = _pairs("يىك", "ییک")

# ZWNJ separates morphemes in Persian and its neighbours. ZWJ and ZWNJ select conjuncts in Indic scripts. All other
# invisible characters are removed.
RULES = {
    # Kabyle joins clitics by hyphens (yella-d).
    "kab": LanguageRules(keep="-", replace={**OPEN_E, "Γ": "Ɣ"}),
    **{lang: LanguageRules(replace=OPEN_E) for lang in ("ak", "bm", "dyu", "ee", "fat", "gaa", "ln", "tw")},
    "fa": LanguageRules(keep=ZWNJ, replace=ARABIC_YEH_KAF),
    "ur": LanguageRules(keep=ZWNJ, replace={**ARABIC_YEHS_KAF, "ه": "ہ"}),
    "skr": LanguageRules(keep=ZWNJ, replace=ARABIC_YEHS_KAF),
    # Old fonts made the vowel ە of heh and ZWNJ.
    "ckb": LanguageRules(keep=ZWNJ, replace=ARABIC_YEHS_KAF, rewrite=(("ه" + ZWNJ, "ە"),)),
    "ps": LanguageRules(keep=ZWNJ, replace=ARABIC_KAF),  # ي is one of its five yehs
    "sd": LanguageRules(keep=ZWNJ, replace=_pairs("ك", "ڪ")),  # ک is its kheh; ي is its yeh
    "ug": LanguageRules(keep=ZWNJ, replace=_pairs("ک", "ك")),
    "ar": LanguageRules(replace=_pairs("یک", "يك")),
    **{lang: LanguageRules(keep=ZWNJ + ZWJ) for lang in ("as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "or")},
    **{lang: LanguageRules(keep=ZWNJ + ZWJ) for lang in ("pa", "sa", "sat", "si", "ta", "te")},
    "mn": LanguageRules(keep="\u180e"),  # the vowel separator of the traditional script
    # A nikhahit and a sara aa look as sara am, with a tone mark between them or not. Two sara e look as sara ae.
    "th": LanguageRules(rewrite=(("\u0e4d([\u0e48-\u0e4b]?)\u0e32", "\\1\u0e33"), ("\u0e40\u0e40", "\u0e41"))),
    "lo": LanguageRules(rewrite=(("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2", "\\1\u0eb3"), ("\u0ec0\u0ec0", "\u0ec1"))),
    # col·lecció: the middle dot stands between two l. ŀ is l and the dot in one character.
    "ca": LanguageRules(
        keep="\u00b7", replace={"ŀ": "l\u00b7", "Ŀ": "L\u00b7"}, rewrite=(("(?<=[lL])[∙⋅•‧](?=[lL])", "\u00b7"),)
    ),
    # geresh and gershayim; keyboards have ' and " in their place
    **{
        lang: LanguageRules(
            keep="\u05f3\u05f4",
            rewrite=(("(?<=[א-ת])'(?=[א-ת])", "\u05f3"), ('(?<=[א-ת])["“”„](?=[א-ת])', "\u05f4")),
        )
        for lang in ("he", "yi")
    },
    # Armenian writes its question, exclamation and emphasis marks over a vowel, in the middle of a word.
    "hy": LanguageRules(drop="\u055a\u055b\u055c\u055e\u055f"),
    # Greek sigma has another form at the end of a word. An apostrophe there stands for a letter that was left out.
    "el": LanguageRules(
        rewrite=(
            (rf"(?<=[\w{GREEK_MARKS}])σ(?![\w'{GREEK_MARKS}])", "ς"),
            (rf"ς(?=[\w{GREEK_MARKS}])", "σ"),
        )
    ),
    # Uzbek oʻ and gʻ end in the letter U+02BB, a turned comma (CLDR; oʻ stands before a letter nearly always). Any
    # other apostrophe is the sign of a hiatus (maʼno).
    "uz": LanguageRules(rewrite=((r"(?<=[oOgG])['\u02bc](?=[^\W\d_])|(?<=[gG])['\u02bc]", "\u02bb"),)),
    **{lang: LanguageRules(rewrite=(OKINA,)) for lang in ("haw", "sm", "to", "ty")},
    # ŉ is 'n in one character, and the apostrophe before a word goes.
    "af": LanguageRules(rewrite=((r"(?<!\w)\u02bcn(?!\w)", "n"),)),
    "ro": LanguageRules(replace=COMMA_BELOW),
    "rup": LanguageRules(replace=COMMA_BELOW),
    **{lang: LanguageRules(replace=CEDILLA) for lang in ("crh", "diq", "gag", "kmr", "ku", "tk", "tr", "zza")},
    "az": LanguageRules(replace={**CEDILLA, "ǝ": "ə", "Ǝ": "Ə"}),  # U+01DD is the turned e of other alphabets
    **{lang: LanguageRules(replace=LATVIAN) for lang in ("lv", "ltg")},
    # Đ and the letters Ð of Icelandic and Ɖ of Ewe have one shape as capitals.
    **{lang: LanguageRules(replace=_pairs("ÐƉ", "ĐĐ")) for lang in ("bs", "hr", "vi")},
    "sr": LanguageRules(replace=_pairs("ÐƉ", "ĐĐ"), latin_too="jJ"),
    "mk": LanguageRules(latin_too="jJsS"),
    **{lang: LanguageRules(latin_too="iI") for lang in ("be", "koi", "kpv", "kv", "rue", "uk")},
    "kk": LanguageRules(latin_too="hiI"),
    **{lang: LanguageRules(latin_too="h") for lang in ("ba", "bxr", "sah", "tt", "xal")},
    # Chuvash sources mix Latin look-alikes into Cyrillic words.
    "cv": LanguageRules(replace=_pairs("ăĕçÿĂĔÇŸ", "ӑӗҫӳӐӖҪӲ")),
    "sms": LanguageRules(keep="\u02b9"),  # Skolt Sami: a letter that marks a palatal syllable
}
# Languages that are written in Cyrillic letters.
CYRILLIC_ALPHABETS = set(
    "ab abq ady alt av ba be bg bua bxr ce cv dar evn inh kbd kca kjh kk koi kpv kum kv ky lbe lez mdf mhr mk mn mns "
    "mrj myv nog os ru rue rut sah sr tab tg tt tyv udl udm uk xal yrk".split()
)


def check_locale(lang: str) -> str:
    """`lang` with its language in lower case. InputError where it has not the form of a locale (tr, sv-SE, ckb)."""
    if not LOCALE.fullmatch(lang):
        near = get_close_matches(lang.lower(), LANGUAGE_NAMES, n=1, cutoff=0.75)
        remedy = f"did you mean {LANGUAGE_NAMES[near[0]]}?" if near else "an archive's name holds it"
        raise InputError(f"`lang` must be a Common Voice locale such as tr, sv-SE or ckb, got {show(lang)}; {remedy}")
    language, *rest = lang.split("-")
    return "-".join([language.lower(), *rest])


def language_of(lang: str) -> str:
    """The language of a locale: sv of sv-SE. The tables are by language."""
    return lang.split("-")[0]


def is_common_voice(lang: str) -> bool:
    """Whether the locale is one of Common Voice's, as far as the list knows."""
    return lang in COMMON_VOICE_LOCALES


def nearest_locale(lang: str, locales: Iterable[str]) -> str:
    """The one of these that was meant by `lang`: another case or region of its language, else a slip of the pen.

    "" where there is none, or where several are as near.
    """
    locales = sorted(locales)
    for of in (str.lower, lambda locale: language_of(locale).lower()):
        near = [locale for locale in locales if of(locale) == of(lang)]
        if near:
            return near[0] if len(near) == 1 else ""
    close = get_close_matches(lang.lower(), locales, n=2, cutoff=0.8)
    return close[0] if len(close) == 1 else ""


def has_dotless_i(lang: str) -> bool:
    """Whether I lower-cases to ı, as in Turkish."""
    return language_of(lang) in DOTTED_AND_DOTLESS_I


def is_spaced(lang: str) -> bool:
    """Whether the language separates words by spaces, so that WER counts words."""
    return language_of(lang) not in WITHOUT_SPACES


def script_of_language(lang: str) -> str:
    """The script of words that could be of two: CYRILLIC, GREEK, else LATIN."""
    language = language_of(lang)
    return "CYRILLIC" if language in CYRILLIC_ALPHABETS else "GREEK" if language == "el" else "LATIN"
