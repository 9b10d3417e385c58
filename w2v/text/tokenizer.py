"""Normalised text <-> ids, and which characters of a text belong in a vocabulary.

tokenizer = CharTokenizer.from_texts(texts)
tokenizer.decode(tokenizer.encode("ığdır"), group_tokens=False)   # "ığdır"
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from w2v.errors import InputError
from w2v.files import read_json, write_json

# Where a letter's name begins with something other than its script: 々, ª and º, µ, ー.
SCRIPT_ALIASES = {
    "IDEOGRAPHIC": "CJK",
    "FEMININE": "LATIN",
    "MASCULINE": "LATIN",
    "MICRO": "GREEK",
    "KATAKANA-HIRAGANA": "KATAKANA",
}
# Tokens that stand for no text, whichever of them a model's settings name. The unused ones stay in many vocabularies.
SPECIAL_TOKENS = {"[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>"}


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
    """Text <-> ids in the layout of transformers' Wav2Vec2CTCTokenizer.

    `|` stands for the space, [UNK] for characters outside the vocabulary, [PAD] is CTC's blank. Most tokens are single
    characters. A token of several characters ("ch", "tʃ") is one unit: at each position encode takes the longest
    token that matches.

    transformers makes the same units, with two differences. It drops the spaces on both sides of a token of several
    characters, so that "a ch b" becomes "achb"; here the spaces stay. It finds special tokens in text; here they never
    match, so that a text cannot hold CTC's blank.
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
        special = SPECIAL_TOKENS | {pad, unk}
        self._special = {i for token, i in self.vocab.items() if token in special}
        self._ids = {token: i for token, i in self.vocab.items() if token not in special}
        self._ids[" "] = self.vocab[space]
        longer = sorted((token for token in self._ids if len(token) > 1 and token != space), key=len, reverse=True)
        # A regular expression tries its alternatives in order, so the longest token wins.
        self._pattern = re.compile("|".join([*map(re.escape, longer), "."]), re.DOTALL) if longer else None

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
        find, unk = self._ids.get, self.vocab.get(self.unk)
        return [i for piece in self._split(text) if (i := find(piece, unk)) is not None]

    def unknown(self, text: str) -> list[str]:
        """What encode makes [UNK] or leaves out: the characters of normalised text without a token, in order."""
        return [piece for piece in self._split(text) if piece not in self._ids]

    def _split(self, text: str) -> Iterable[str]:
        return self._pattern.findall(text) if self._pattern else text

    def decode(self, ids: Iterable[int], group_tokens: bool = True) -> str:
        """Frame ids -> text: collapse repeats, drop blanks, [UNK] and the like, `|` to space, strip.

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
        vocab = read_json(directory / "vocab.json", "a CTC model's characters")
        config = {}
        if (directory / "tokenizer_config.json").is_file():
            config = read_json(directory / "tokenizer_config.json", "the special tokens")
        if vocab and all(isinstance(value, dict) for value in vocab.values()):
            lang = target_lang or config.get("target_lang")
            if lang not in vocab:
                held = ", ".join(sorted(vocab))[:200]
                raise InputError(
                    f"`target_lang` must be a language of {directory / 'vocab.json'}, got {lang}; it holds {held}"
                )
            vocab = vocab[lang]

        def token(name: str, default: str) -> str | None:
            value = config.get(name, default)  # old files spell a token as {"content": "[PAD]", ...}
            return value["content"] if isinstance(value, dict) else value

        return cls(vocab, token("word_delimiter_token", "|"), token("unk_token", "[UNK]"), token("pad_token", "[PAD]"))
