"""Sentences as they are written -> the characters a model is trained on, and those characters <-> ids.

    normalise = Normaliser("tr")
    normalise("İstanbul'da, Iğdır!")              # "istanbul'da ığdır"
    tokenizer = CharTokenizer.from_texts(texts)
    tokenizer.decode(tokenizer.encode("ığdır"), group_tokens=False)   # "ığdır"

One Normaliser is used for training labels, evaluation references and vocabulary alike, and saved with the model.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from w2v.errors import InputError
from w2v.files import write_json

APOSTROPHE = "'"
SAME_APOSTROPHE = "\u2019\uff07"  # ’ right quotation mark, ＇ full-width
APOSTROPHE_LETTER = "\u02bc"  # ʼ is the same inside words, but a letter by category: at their edges it stays
HYPHENS = "-\u2010\u2011"  # hyphen-minus, hyphen, non-breaking hyphen
DOT_ABOVE = "\u0307"
ZWNJ, ZWJ = "\u200c", "\u200d"

# BCP 47-like, as Common Voice names its locales: tr, sv-SE, zh-CN, nan-tw, ckb.
LOCALE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*")
DOTTED_AND_DOTLESS_I = {"tr", "az", "crh", "gag"}
# Written without spaces between words: there WER counts sentences, so CER is the headline.
WITHOUT_SPACES = {"zh", "yue", "ja", "th", "lo", "km", "my", "bo", "nan"}
# Where a letter's name begins with something other than its script: 々, ª and º, µ, ー.
SCRIPT_ALIASES = {
    "IDEOGRAPHIC": "CJK",
    "FEMININE": "LATIN",
    "MASCULINE": "LATIN",
    "MICRO": "GREEK",
    "KATAKANA-HIRAGANA": "KATAKANA",
}
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
    drop: str = ""  # characters that stand inside words and vanish without leaving a space
    replace: dict[str, str] = field(default_factory=dict)


# Format characters (category Cf) not kept here vanish: most are soft hyphens, byte-order and direction marks.
# ZWNJ separates morphemes in Persian and its neighbours; ZWJ and ZWNJ select conjuncts in Indic scripts.
RULES = {
    # Kabyle ties clitics on by hyphens (yella-d), and types ɣ and ɛ as their Greek and Cyrillic look-alikes too.
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
    # Uzbek oʻ and gʻ end in a letter, the turned comma U+02BB, which sources also type as a quotation mark.
    "uz": LanguageRules(replace=dict.fromkeys("\u2018`", "\u02bb")),
    # Chuvash sources mix Latin look-alikes into Cyrillic words.
    "cv": LanguageRules(replace=dict(zip("ăĕçÿĂĔÇŸ", "ӑӗҫӳӐӖҪӲ", strict=True))),
}


def check_locale(lang: str) -> str:
    """`lang` with its language in lower case; InputError where it is not formed like a locale (tr, sv-SE, ckb)."""
    if not LOCALE.fullmatch(lang):
        raise InputError(f"--lang must be a Common Voice locale such as tr, sv-SE or ckb, got {lang!r}")
    language, *rest = lang.split("-")
    return "-".join([language.lower(), *rest])


def language_of(lang: str) -> str:
    """The language of a locale: sv of sv-SE. Rules are by language."""
    return lang.split("-")[0]


def is_common_voice(lang: str) -> bool:
    """Whether Common Voice has collected the locale; any other gets the default rules."""
    return lang in COMMON_VOICE_LOCALES


def has_dotless_i(lang: str) -> bool:
    """Whether I lower-cases to ı, as in Turkish."""
    return language_of(lang) in DOTTED_AND_DOTLESS_I


def is_spaced(lang: str) -> bool:
    """Whether the language separates words by spaces, so that WER says something."""
    return language_of(lang) not in WITHOUT_SPACES


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def _in_words(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN" and char != APOSTROPHE_LETTER


def _with_neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    """(character, the one before it, the one after it), with spaces at the ends."""
    return zip(text, " " + text, text[1:] + " ", strict=False)


class Normaliser:
    """Unicode NFC, locale-correct lower case, punctuation and symbols removed; letters, digits and marks never.

    - ' and its look-alikes (’ ʼ) become ' between word characters and vanish elsewhere.
    - A hyphen between two letters vanishes (fine-tuning -> finetuning), unless the language keeps it.
    - Any other punctuation (P*), symbol (S*), separator or control character becomes a space.
    - Format characters (Cf) vanish unless the language needs them (ZWNJ in Persian).

    lang: a locale. case: "lower" or "keep". keep: characters to spare. remove: characters to turn into spaces,
    letters included. Calling it twice changes nothing more.
    """

    def __init__(self, lang: str, case: str = "lower", keep: str = "", remove: str = ""):
        self.lang = check_locale(lang)
        if case not in ("lower", "keep"):
            raise InputError(f'--case must be "lower" or "keep", got {case!r}')
        if both := sorted(set(keep) & set(remove)):
            raise InputError(f"--keep-chars and --remove-chars must not share characters, both hold {''.join(both)!r}")
        self.case, self.keep, self.remove = case, keep, remove
        rules = RULES.get(language_of(self.lang), LanguageRules())
        if case == "lower":  # characters are judged after lower-casing, so these must be lower-cased too
            keep, remove = keep + self._lower(keep), remove + self._lower(remove)
        self._keep = (set(rules.keep) | set(keep)) - set(remove)
        self._remove = set(remove)
        self._drop = set(rules.drop)
        unified = dict.fromkeys(set(SAME_APOSTROPHE) - self._keep - set(remove), APOSTROPHE)
        self._replace = str.maketrans(unified | rules.replace)

    def __call__(self, sentence: str) -> str:
        # What vanishes goes first: it may stand between a letter and its mark.
        text = self.spell("".join(char for char in sentence if not self._vanishes(char)))
        # Hyphens first: an apostrophe is judged by the neighbours it ends up with.
        text = "".join(char for char, before, after in _with_neighbours(text) if not self._joins(char, before, after))
        text = "".join(self._one(char, before, after) for char, before, after in _with_neighbours(text))
        # Lower-casing and dropping can bring a letter and a mark together: compose once more.
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        # Texts that Python lower-cased elsewhere arrive with i + U+0307 for İ. Only Lithuanian writes a dotted i with
        # an accent above the dot.
        if language_of(self.lang) != "lt":
            text = unicodedata.normalize("NFC", re.sub(f"i{DOT_ABOVE}+", "i", text))
        return text

    def spell(self, sentence: str) -> str:
        """The first half: characters unified and lower-cased, none removed yet."""
        text = unicodedata.normalize("NFC", sentence).translate(self._replace)
        return self._lower(text) if self.case == "lower" else text

    def _lower(self, text: str) -> str:
        if has_dotless_i(self.lang):
            text = text.replace("I" + DOT_ABOVE, "i").replace("İ", "i").replace("I", "ı")
        return text.replace("İ", "i").lower()  # Python alone would make i + U+0307 of İ

    def _vanishes(self, char: str) -> bool:
        if char in self._keep or char in self._remove:
            return False
        return char in self._drop or unicodedata.category(char) == "Cf"

    def _joins(self, char: str, before: str, after: str) -> bool:
        spared = char in self._keep or char in self._remove
        return char in HYPHENS and not spared and _is_letter(before) and _is_letter(after)

    def _one(self, char: str, before: str, after: str) -> str:
        if char in self._remove:
            return " "
        if char in self._keep:
            return char
        if char in (APOSTROPHE, APOSTROPHE_LETTER) and _in_words(before) and _in_words(after):
            return APOSTROPHE
        # Other (Cc, Co, Cn, Cs), punctuation, symbols, separators; what remains is letters, marks and numbers.
        return " " if unicodedata.category(char)[0] in "CPSZ" else char

    def to_dict(self) -> dict[str, str]:
        return {"lang": self.lang, "case": self.case, "keep": self.keep, "remove": self.remove}

    def save(self, directory: str | Path) -> None:
        """Write normaliser.json."""
        write_json(Path(directory) / "normaliser.json", self.to_dict())

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "Normaliser":
        return cls(**_read_json(Path(directory) / "normaliser.json", "the text rules a model was trained with"))


def script_of(char: str) -> str | None:
    """The script a letter belongs to, by the first word of its Unicode name; None for marks, digits and the rest."""
    if not unicodedata.category(char).startswith("L"):
        return None
    script = unicodedata.name(char, "UNKNOWN").split(" ")[0]
    return None if script == "MODIFIER" else SCRIPT_ALIASES.get(script, script)


def foreign_characters(counts: Counter[str]) -> set[str]:
    """Rare letters of scripts other than the text's own: a stray Latin or Han letter in Mongolian.

    A script is foreign below 1% of all letters; a foreign letter is rare below 0.1% of all characters.
    Rare letters of the text's own scripts are never in the set: Chinese has thousands of them.
    """
    scripts = Counter()
    for char, n in counts.items():
        if script := script_of(char):
            scripts[script] += n
    letters, total = sum(scripts.values()), sum(counts.values())
    return {
        char
        for char, n in counts.items()
        if (script := script_of(char)) and scripts[script] < 0.01 * letters and n < 0.001 * total
    }


class CharTokenizer:
    """Characters <-> ids in the layout of transformers' Wav2Vec2CTCTokenizer.

    `|` stands for the space, [UNK] for characters outside the vocabulary, [PAD] is CTC's blank.
    """

    def __init__(self, vocab: dict[str, int], space: str = "|", unk: str | None = "[UNK]", pad: str = "[PAD]"):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise InputError(f"a vocabulary's ids must be 0 to {len(vocab) - 1}, each once; vocab.json has others")
        for token in (space, pad):
            if token not in vocab:
                raise InputError(f"a CTC vocabulary must hold {token!r}, vocab.json does not")
        self.vocab, self.space, self.unk, self.pad = dict(vocab), space, unk, pad
        self.tokens = sorted(self.vocab, key=self.vocab.get)
        self.blank_id = self.vocab[pad]
        self._special = {i for token, i in self.vocab.items() if token in (pad, unk, "<s>", "</s>")}

    def __len__(self) -> int:
        return len(self.vocab)

    @classmethod
    def from_texts(cls, texts: Iterable[str], exclude: Iterable[str] = ()) -> "CharTokenizer":
        """The sorted characters of normalised training texts but `exclude`, then `|`, [UNK] and [PAD].

        Sorted, so that the same text always gives the same ids: a resumed run keeps its labels.
        """
        chars = sorted(set().union(*texts) - set(exclude) - {" ", "|"})
        return cls({token: i for i, token in enumerate([*chars, "|", "[UNK]", "[PAD]"])})

    def encode(self, text: str) -> list[int]:
        """Normalised text -> ids. A character outside the vocabulary becomes [UNK], or is left out without one."""
        unk = self.vocab.get(self.unk)
        ids = (self.vocab.get(self.space if char == " " else char, unk) for char in text)
        return [i for i in ids if i is not None]

    def decode(self, ids: Iterable[int], group_tokens: bool = True) -> str:
        """Frame ids -> text: collapse repeats, drop blanks and [UNK], `|` to space, strip.

        Labels repeat on purpose ("saat"): decode them with group_tokens=False, as in transformers.
        """
        out, previous = [], None
        for i in map(int, ids):
            if not (group_tokens and i == previous) and i not in self._special:
                out.append(" " if self.tokens[i] == self.space else self.tokens[i])
            previous = i
        return " ".join("".join(out).split())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write vocab.json, tokenizer_config.json and special_tokens_map.json for transformers' processor.

        bos and eos are null: otherwise Wav2Vec2CTCTokenizer adds <s> and </s> and outgrows the model's head.
        """
        directory = Path(directory)
        special = {"bos_token": None, "eos_token": None, "unk_token": self.unk, "pad_token": self.pad}
        write_json(directory / "vocab.json", self.vocab)
        write_json(directory / "special_tokens_map.json", {k: v for k, v in special.items() if v})
        config = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "word_delimiter_token": self.space,
            "do_lower_case": False,
            "replace_word_delimiter_char": " ",
            **special,
        }
        write_json(directory / "tokenizer_config.json", config)

    @classmethod
    def from_pretrained(cls, directory: str | Path, target_lang: str | None = None) -> "CharTokenizer":
        """Read vocab.json and, where present, tokenizer_config.json. InputError where they are missing or broken.

        target_lang: which language of a nested vocabulary (MMS: {"tur": {...}, ...}); default: the config's own.
        """
        directory = Path(directory)
        vocab = _read_json(directory / "vocab.json", "a CTC model's characters")
        config = {}
        if (directory / "tokenizer_config.json").is_file():
            config = _read_json(directory / "tokenizer_config.json", "the special tokens")
        if vocab and all(isinstance(value, dict) for value in vocab.values()):
            lang = target_lang or config.get("target_lang")
            if lang not in vocab:
                held = ", ".join(sorted(vocab))[:200]
                raise InputError(
                    f"target_lang must be a language of {directory / 'vocab.json'}, got {lang}; it holds {held}"
                )
            vocab = vocab[lang]

        def token(name: str, default: str) -> str | None:
            value = config.get(name, default)  # old files spell a token as {"content": "[PAD]", ...}
            return value["content"] if isinstance(value, dict) else value

        return cls(vocab, token("word_delimiter_token", "|"), token("unk_token", "[UNK]"), token("pad_token", "[PAD]"))


def _read_json(path: Path, what: str) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {what} from {path} ({error}); use a complete model folder") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value
