"""Normalised text <-> ids, and which characters of a text belong in a vocabulary.

tokenizer = CharTokenizer.from_texts(texts)
tokenizer.decode(tokenizer.encode("ığdır"), group_tokens=False)   # "ığdır"
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from w2v.errors import InputError, show
from w2v.files import write_json
from w2v.text.tokenizer_folder import CHARACTERS, PHONEMES, REMEDY, check_ids, read_tokenizer

# Some letters' Unicode names begin with another word than their script: 々, ª and º, µ, ー.
SCRIPT_ALIASES = {
    "IDEOGRAPHIC": "CJK",
    "FEMININE": "LATIN",
    "MASCULINE": "LATIN",
    "MICRO": "GREEK",
    "KATAKANA-HIRAGANA": "KATAKANA",
}
# Tokens that stand for no text. A vocabulary can also hold those of them that the model's settings do not name.
SPECIAL_TOKENS = {"[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>"}
# What clean_up_tokenization_spaces replaces, in transformers' order: once written for English.
CLEANED = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")] + [(f" {s}", s) for s in "n't 'm 's 've 're".split()]


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

    vocab: token -> id. unk: None where a vocabulary has none. special: further tokens that stand for no text.
    do_lower_case: the vocabulary has capitals and texts have none; tokens of several characters match as they are, as
    in transformers. clean_up: close the space before a full stop or an English 's, where a folder asks for that.
    InputError where the ids are not 0 to len(vocab) - 1, each once, or where `pad` or `space` is no token.
    """

    language = ""  # none in its tokens

    def __init__(
        self,
        vocab: dict[str, int],
        space: str | None = "|",
        unk: str | None = "[UNK]",
        pad: str | None = "[PAD]",
        phonemes: bool = False,
        special: Iterable[str] = (),
        do_lower_case: bool = False,
        clean_up: bool = False,
    ):
        check_ids(vocab)
        for name, token in (("blank", pad), ("space", space)):
            if token not in vocab and not (phonemes and name == "space"):
                raise InputError(f"a CTC vocabulary must hold its {name}, {show(token)} is not in it; {REMEDY}")
        assert pad is not None  # it is a token
        self.vocab, self.space, self.unk, self.pad, self.phonemes = dict(vocab), space, unk, pad, phonemes
        self.tokens = sorted(self.vocab, key=self.vocab.__getitem__)
        self.blank_id = self.vocab[pad]
        self.special, self.do_lower_case, self.clean_up = tuple(special), do_lower_case, clean_up
        no_text = SPECIAL_TOKENS | {pad, unk, *self.special}
        self._ids = {token: i for token, i in self.vocab.items() if token not in no_text}
        # What decode writes for each id; nothing for tokens that stand for no text.
        self._written = ["" if t in no_text else " " if t == space else t for t in self.tokens]
        self._pattern = None
        if not phonemes:
            assert space is not None  # it is a token
            self._ids[" "] = self.vocab[space]
            longer = sorted((token for token in self._ids if len(token) > 1 and token != space), key=len, reverse=True)
            # A regular expression tries its alternatives in order, so the longest token wins.
            self._pattern = re.compile("|".join([*map(re.escape, longer), "."]), re.DOTALL) if longer else None

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def space_id(self) -> int | None:
        """The id of the token between words; None for a vocabulary of phonemes that has none."""
        return None if self.space is None else self.vocab.get(self.space)

    @property
    def between(self) -> str:
        """What stands between the texts of two stretches of speech."""
        return "" if self.space not in self.vocab else " "

    @classmethod
    def from_texts(cls, texts: Iterable[str], exclude: Iterable[str] = ()) -> "CharTokenizer":
        """A vocabulary: the sorted characters of normalised texts without `exclude`, then `|`, [UNK] and [PAD].

        The same text always gives the same ids, because the characters are sorted: a resumed run keeps its labels.
        InputError for a text with `|`: its label would be the space's.
        """
        found = set().union(*texts)
        if "|" in found:
            raise InputError("texts must not hold |, it stands for the space in the vocabulary; normalise them first")
        chars = sorted(found - set(exclude) - {" "})
        return cls({token: i for i, token in enumerate([*chars, "|", "[UNK]", "[PAD]"])})

    def same_vocabulary(self, other: object) -> bool:
        """Whether each id means the same to the other tokenizer, which may be none or of another kind."""
        return isinstance(other, CharTokenizer) and self.tokens == other.tokens

    @property
    def character_ids(self) -> list[int]:
        """Of the tokens that stand for text, the space among them."""
        return sorted(set(self._ids.values()))

    def shared(self, other: "CharTokenizer") -> list[tuple[int, int]]:
        """Of each character that both vocabularies hold, the id here and there."""
        return [(i, other._ids[char]) for char, i in self._ids.items() if char in other._ids]

    def for_language(self, lang: str, prompt_language: str | None = None) -> "CharTokenizer":
        """Itself: characters have no language. InputError where `prompt_language` is given."""
        if prompt_language is not None:
            raise InputError(
                "`prompt_language` is for models with a language token, this one has none, "
                f"got {show(prompt_language)}; leave it out"
            )
        return self

    def encode(self, text: str) -> list[int]:
        """Normalised text, or phonemes with spaces between them, -> ids, one a token.

        A character or phoneme outside the vocabulary becomes [UNK]; a vocabulary without [UNK] leaves it out.
        """
        find, unk = self._ids.get, None if self.unk is None else self.vocab.get(self.unk)
        pieces = (token for piece in self._split(text) for token in self._spell(piece))
        return [i for token in pieces if (i := find(token, unk)) is not None]

    def unknown(self, text: str) -> list[str]:
        """The characters or phonemes that have no token, in order: encode makes [UNK] of them or leaves them out."""
        return [piece for piece in self._split(text) if any(token not in self._ids for token in self._spell(piece))]

    def pieces(self, text: str) -> list[str]:
        """What encode takes in turn: characters, tokens of several of them, or phonemes."""
        return list(self._split(text))

    def _spell(self, piece: str) -> Iterable[str]:
        """The tokens of a piece: itself, or its capitals (SS for ß) where the vocabulary has those."""
        return piece.upper() if self.do_lower_case and len(piece) == 1 else (piece,)

    def _split(self, text: str) -> Iterable[str]:
        if self.phonemes:
            return text.split()
        return self._pattern.findall(text) if self._pattern else text

    def decode(self, ids: Iterable[int], group_tokens: bool = True) -> str:
        """Ids of a clip's frames -> text: collapse repeats, drop blanks and other special tokens, `|` to space, strip.

        A space, a blank and a space give two spaces, as in transformers. Phonemes have a space between each two, and no
        other mark between words. Labels repeat on purpose ("saat"): decode them with group_tokens=False, as in
        transformers.
        """
        numbers = map(int, ids)
        out = [self._written[i] for i in ((i for i, _ in groupby(numbers)) if group_tokens else numbers)]
        text = " ".join(" ".join(out).split()) if self.phonemes else "".join(out).strip()
        if self.do_lower_case:
            text = text.lower()
        for found, cleaned in CLEANED if self.clean_up else ():
            text = text.replace(found, cleaned)
        return text

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
            kind = {"tokenizer_class": CHARACTERS, "do_lower_case": self.do_lower_case}
            kind |= {"replace_word_delimiter_char": " "}
        config = {**kind, "word_delimiter_token": self.space, **special}
        if further := [token for token in self.special if token not in (self.unk, self.pad)]:
            config["additional_special_tokens"] = further
        if self.clean_up:
            config["clean_up_tokenization_spaces"] = True
        write_json(directory / "tokenizer_config.json", config)

    @classmethod
    def from_pretrained(cls, directory: str | Path, target_lang: str | None = None) -> "CharTokenizer":
        """Read vocab.json and, where present, tokenizer_config.json and the files of further tokens.

        tokenizer_config.json's tokenizer_class says whether the tokens are characters or phonemes. Where a config.json
        is beside them, tokens beyond the model's head are left out. target_lang: which language of a nested vocabulary
        (MMS: {"tur": {...}, ...}); default: the config's own. InputError where vocab.json is missing, where a file is
        broken, where the class is neither of the two, or for a setting that is not here.
        """
        return cls(**read_tokenizer(directory, target_lang)._asdict())
