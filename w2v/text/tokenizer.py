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

# Some letters' Unicode names begin with another word than their script: 々, ª and º, µ, ー.
SCRIPT_ALIASES = {
    "IDEOGRAPHIC": "CJK",
    "FEMININE": "LATIN",
    "MASCULINE": "LATIN",
    "MICRO": "GREEK",
    "KATAKANA-HIRAGANA": "KATAKANA",
}
# transformers' classes whose folders are read here. Old folders name no class; their tokens are characters.
CHARACTERS, PHONEMES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
# Tokens that stand for no text. A vocabulary can also hold those of them that the model's settings do not name.
SPECIAL_TOKENS = {"[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>"}
REMEDY = "use the vocab.json and tokenizer_config.json that the model was trained with"


def script_of(char: str) -> str | None:
    """The script a letter belongs to, by the first word of its Unicode name; None for marks, digits and the rest."""
    if not unicodedata.category(char).startswith("L"):
        return None
    script = unicodedata.name(char, "UNKNOWN").split(" ")[0]
    return None if script == "MODIFIER" else SCRIPT_ALIASES.get(script, script)


def foreign_characters(counts: Counter[str]) -> set[str]:
    """Rare letters of scripts other than the text's own, such as a stray Latin or Han letter in Mongolian.

    counts: how often each character occurs. A script is foreign below 1% of all letters; a foreign letter is rare
    below 0.1% of all characters. The set never holds rare letters of the text's own scripts: Chinese has thousands.
    """
    scripts: Counter[str] = Counter()
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

    phonemes=True is the layout of transformers' Wav2Vec2PhonemeCTCTokenizer. Its texts are phonemes with a space
    between each two ("h ə l oʊ"), and `space` is a token between words that decode leaves out, or None. encode takes
    phonemes, never spelling: transformers' do_phonemize=True calls espeak first, which is not done here. decode joins
    by a space whatever phone_delimiter_token says, as transformers does; that token only goes to espeak.

    vocab: token -> id. unk: None where a vocabulary has none. InputError where the ids are not 0 to len(vocab) - 1,
    each once, or where `pad` or `space` is no token of the vocabulary.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        space: str | None = "|",
        unk: str | None = "[UNK]",
        pad: str | None = "[PAD]",
        phonemes: bool = False,
    ):
        _check_ids(vocab)
        for name, token in (("blank", pad), ("space", space)):
            if token not in vocab and not (phonemes and name == "space"):
                raise InputError(f"a CTC vocabulary must hold its {name}, {token!r} is not in it; {REMEDY}")
        assert pad is not None  # it is a token
        self.vocab, self.space, self.unk, self.pad, self.phonemes = dict(vocab), space, unk, pad, phonemes
        self.tokens = sorted(self.vocab, key=self.vocab.__getitem__)
        self.blank_id = self.vocab[pad]
        special = SPECIAL_TOKENS | {pad, unk}
        self._ids = {token: i for token, i in self.vocab.items() if token not in special}
        self._silent = {i for token, i in self.vocab.items() if token in special}  # decode leaves them out
        self._pattern = None
        if not phonemes:
            assert space is not None  # it is a token
            self._ids[" "] = self.vocab[space]
            longer = sorted((token for token in self._ids if len(token) > 1 and token != space), key=len, reverse=True)
            # A regular expression tries its alternatives in order, so the longest token wins.
            self._pattern = re.compile("|".join([*map(re.escape, longer), "."]), re.DOTALL) if longer else None

    def __len__(self) -> int:
        return len(self.vocab)

    @classmethod
    def from_texts(cls, texts: Iterable[str], exclude: Iterable[str] = ()) -> "CharTokenizer":
        """A vocabulary: the sorted characters of normalised texts without `exclude`, then `|`, [UNK] and [PAD].

        The same text always gives the same ids, because the characters are sorted: a resumed run keeps its labels.
        """
        chars = sorted(set().union(*texts) - set(exclude) - {" ", "|"})
        return cls({token: i for i, token in enumerate([*chars, "|", "[UNK]", "[PAD]"])})

    def encode(self, text: str) -> list[int]:
        """Normalised text, or phonemes with spaces between them, -> ids, one a token.

        A character or phoneme outside the vocabulary becomes [UNK]; a vocabulary without [UNK] leaves it out.
        """
        find, unk = self._ids.get, None if self.unk is None else self.vocab.get(self.unk)
        return [i for piece in self._split(text) if (i := find(piece, unk)) is not None]

    def unknown(self, text: str) -> list[str]:
        """The characters or phonemes that have no token, in order: encode makes [UNK] of them or leaves them out."""
        return [piece for piece in self._split(text) if piece not in self._ids]

    def _split(self, text: str) -> Iterable[str]:
        if self.phonemes:
            return text.split()
        return self._pattern.findall(text) if self._pattern else text

    def decode(self, ids: Iterable[int], group_tokens: bool = True) -> str:
        """Ids of a clip's frames -> text: collapse repeats, drop blanks and other special tokens, `|` to space, strip.

        Phonemes have a space between each two, and no other mark between words. Labels repeat on purpose ("saat"):
        decode them with group_tokens=False, as in transformers.
        """
        out, previous = [], None
        for i in map(int, ids):
            if not (group_tokens and i == previous) and i not in self._silent:
                out.append(" " if self.tokens[i] == self.space else self.tokens[i])
            previous = i
        return " ".join((" " if self.phonemes else "").join(out).split())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write vocab.json, tokenizer_config.json and special_tokens_map.json for transformers' processor.

        bos and eos are null: otherwise Wav2Vec2CTCTokenizer adds <s> and </s>, and the model's head is too small.
        Phonemes are saved with do_phonemize false: transformers then encodes phonemes too, and needs no espeak.
        """
        directory = Path(directory)
        special = {"bos_token": None, "eos_token": None, "unk_token": self.unk, "pad_token": self.pad}
        write_json(directory / "vocab.json", self.vocab)
        write_json(directory / "special_tokens_map.json", {k: v for k, v in special.items() if v})
        if self.phonemes:
            kind = {"tokenizer_class": PHONEMES, "phone_delimiter_token": " ", "do_phonemize": False}
        else:
            kind = {"tokenizer_class": CHARACTERS, "do_lower_case": False, "replace_word_delimiter_char": " "}
        config = {**kind, "word_delimiter_token": self.space, **special}
        write_json(directory / "tokenizer_config.json", config)

    @classmethod
    def from_pretrained(cls, directory: str | Path, target_lang: str | None = None) -> "CharTokenizer":
        """Read vocab.json and, where present, tokenizer_config.json.

        The latter's tokenizer_class says whether the tokens are characters or phonemes. target_lang: which language of
        a nested vocabulary (MMS: {"tur": {...}, ...}); default: the config's own. InputError where vocab.json is
        missing, where a file is broken, or where the class is neither of the two.
        """
        directory = Path(directory)
        config, config_file = {}, directory / "tokenizer_config.json"
        if config_file.is_file():
            config = read_json(config_file, "the special tokens")
        kind = config.get("tokenizer_class") or CHARACTERS
        if kind not in (CHARACTERS, PHONEMES):
            raise InputError(
                f"tokenizer_class must be {CHARACTERS} or {PHONEMES}, {config_file} says {kind}; "
                "use the folder of a CTC model of characters or phonemes"
            )
        vocab = read_json(directory / "vocab.json", "a CTC model's characters")
        if vocab and all(isinstance(value, dict) for value in vocab.values()):
            lang = target_lang or config.get("target_lang")
            if not isinstance(lang, str) or lang not in vocab:
                held = ", ".join(sorted(vocab))[:200]
                raise InputError(
                    f"`target_lang` must be a language of {directory / 'vocab.json'}, got {lang}; it holds {held}"
                )
            vocab = vocab[lang]

        def token(name: str, default: str | None) -> str | None:
            value = config.get(name, default)
            if isinstance(value, dict):  # old files spell a token as {"content": "[PAD]", ...}
                value = value.get("content", value)
            if not isinstance(value, str | None):
                raise InputError(f"{name} in {config_file} must be a string, got {value!r:.40}; {REMEDY}")
            return value

        return cls(
            vocab,
            space=token("word_delimiter_token", None if kind == PHONEMES else "|"),
            unk=token("unk_token", "[UNK]" if "[UNK]" in vocab else "<unk>"),
            pad=token("pad_token", "[PAD]" if "[PAD]" in vocab else "<pad>"),
            phonemes=kind == PHONEMES,
        )


def _check_ids(vocab: dict[str, int]) -> None:
    for token, i in vocab.items():
        if not isinstance(token, str):
            raise InputError(f"a vocabulary's tokens must be strings, got {token!r:.40}; {REMEDY}")
        if not isinstance(i, int) or isinstance(i, bool):
            raise InputError(f"a vocabulary's ids must be whole numbers, {token!r:.40} has {i!r:.40}; {REMEDY}")
    if missing := set(range(len(vocab))) - set(vocab.values()):
        raise InputError(
            f"a vocabulary of {len(vocab)} tokens must have the ids 0 to {len(vocab) - 1}, each once, "
            f"{min(missing)} is missing; {REMEDY}"
        )
