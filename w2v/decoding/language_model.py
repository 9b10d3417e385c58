"""A language model with its weights: read from a file or a model's folder, written in transformers' layout, put to use.

    lm = load_language_model("lm.arpa")                          # or a folder with language_model/
    search = BeamSearch(tokenizer, fusion_of(tokenizer, lm, hot_words={"ankara": 10.0}))

The layout is that of transformers' Wav2Vec2ProcessorWithLM and of pyctcdecode: alphabet.json beside the model, and
language_model/ with attrs.json, unigrams.txt and one ARPA file.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from w2v.decoding.arpa import write_arpa
from w2v.decoding.fusion import ALPHA, BETA, CHARACTER_BETA, UNKNOWN, CharacterFusion, WordFusion, is_of_characters
from w2v.decoding.ngram import SPECIAL, NGram
from w2v.decoding.ngram_file import load_ngram
from w2v.errors import InputError, listed, show
from w2v.files import read_bytes, read_json, reading, write_json, write_text
from w2v.text.tokenizer import CharTokenizer

FOLDER, ATTRIBUTES, UNIGRAMS, ALPHABET = "language_model", "attrs.json", "unigrams.txt", "alphabet.json"
FILES = (ALPHABET, f"{FOLDER}/*")  # of a model's folder
SUFFIXES = (".safetensors", ".arpa", ".arpa.gz", ".bin", ".binary")
PROCESSOR = "Wav2Vec2ProcessorWithLM"
# What pyctcdecode and transformers call the unknown token, and which one they take for it.
UNKNOWN_LABEL, UNKNOWN_TOKEN = "\u2047", re.compile(r"[<\[]unk[>\]]", re.IGNORECASE)
MOST_WEIGHT = 1e6  # a number of attrs.json that means something


@dataclass(frozen=True, eq=False)
class LanguageModel:
    ngram: NGram
    alpha: float = ALPHA  # of ln p
    beta: float = BETA  # for each word; each character of an n-gram of characters
    unk_score_offset: float = UNKNOWN  # added to log10 p of an unknown word
    score_boundary: bool = True  # texts begin with <s> and end with </s>
    unigrams: tuple[str, ...] | None = None  # the known words, where they are not the n-gram's
    mended: tuple[str, ...] = ()  # what its file lacked, a sentence each


def load_language_model(path: str | Path, tokenizer: CharTokenizer | None = None) -> LanguageModel:
    """An ARPA file, a binary one of `recipes.train_lm`, or a folder in transformers' layout.

    A folder's labels are not used: those of the model's tokenizer count. Where it is given and they differ, `mended`
    says so. InputError where there is no language model, or a broken one.
    """
    path = Path(path)
    with reading("the language model", path):
        is_folder = path.is_dir()
        folder = path / FOLDER if is_folder and (path / FOLDER).is_dir() else path
        names = [file.name for file in folder.iterdir()] if is_folder else []
    if not is_folder:
        ngram, mended = load_ngram(path)
        of_characters = tokenizer is not None and is_of_characters(ngram, tokenizer)  # beta counts for each
        return LanguageModel(ngram, beta=CHARACTER_BETA if of_characters else BETA, mended=tuple(mended))
    # Those that only KenLM reads are the last choice.
    files = sorted((name.endswith((".bin", ".binary")), name) for name in names if name.endswith(SUFFIXES))
    if not files or ATTRIBUTES not in names:
        raise InputError(
            f"{path} must hold a language model, {FOLDER}/ with {ATTRIBUTES} and an ARPA file; it has none"
        )
    ngram, mended = load_ngram(folder / files[0][1])
    attributes = read_json(folder / ATTRIBUTES, "the language model's weights")
    numbers = {}
    for name, default in (("alpha", ALPHA), ("beta", BETA), ("unk_score_offset", UNKNOWN)):
        value = attributes.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MOST_WEIGHT:
            raise InputError(f"{folder / ATTRIBUTES} must give {name} as a number, gives {show(value)}; mend it")
        numbers[name] = float(value)
    boundary = attributes.get("score_boundary", True)
    if not isinstance(boundary, bool):
        raise InputError(
            f"{folder / ATTRIBUTES} must give score_boundary as true or false, gives {show(boundary)}; mend it"
        )
    unigrams = _unigrams(folder / UNIGRAMS, ngram) if UNIGRAMS in names else None
    if tokenizer is not None and (folder.parent / ALPHABET).is_file():
        mended += _odd_labels(folder.parent / ALPHABET, labels_of(tokenizer))
    return LanguageModel(ngram, **numbers, score_boundary=boundary, unigrams=unigrams, mended=tuple(mended))


def _unigrams(path: Path, ngram: NGram) -> tuple[str, ...] | None:
    """The words of a list that the n-gram has, None for an empty one. The others are unknown, as in pyctcdecode."""
    try:
        words = read_bytes("the unigrams", path).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path} must be UTF-8, some of it is not; convert it") from None
    found = tuple(word for word in dict.fromkeys(words) if word in ngram.id_of and word not in SPECIAL)
    if not found and any(words):
        raise InputError(f"{path} must list words of the language model, none of {len(words)} is one; remove it")
    return found or None


def labels_of(tokenizer: CharTokenizer) -> list[str]:
    """The tokens under the names that pyctcdecode and transformers give them."""
    names = {tokenizer.space: " ", tokenizer.pad: ""}
    return [names.get(t, UNKNOWN_LABEL if UNKNOWN_TOKEN.fullmatch(t) else t) for t in tokenizer.tokens]


def _odd_labels(path: Path, wanted: list[str]) -> list[str]:
    """How the labels of alphabet.json differ from the vocabulary's, a sentence if they do."""
    labels = read_json(path, "the language model's labels").get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return [f"{ALPHABET} lists no labels: those of the vocabulary count"]
    labels = ["" if label.lower() in ("[pad]", "<pad>") else label for label in labels]
    labels = [UNKNOWN_LABEL if UNKNOWN_TOKEN.fullmatch(label) else label for label in labels]
    if labels == wanted or [" " if label == "|" else label for label in labels] == wanted:
        return []
    if labels[: len(wanted)] == wanted:
        more = listed(map(show, labels[len(wanted) :]))
        return [f"{ALPHABET} lists labels that the vocabulary has no token for: {more} are not used"]
    return [f"{ALPHABET} lists {len(labels)} labels that are not the vocabulary's {len(wanted)}: the vocabulary counts"]


def has_language_model(folder: str | Path) -> bool:
    return (Path(folder) / FOLDER / ATTRIBUTES).is_file()


def save_language_model(folder: str | Path, lm: LanguageModel, tokenizer: CharTokenizer) -> None:
    """Put a language model into a model's folder, in the place of the one there.

    pyctcdecode wants exactly three files in language_model/, and transformers each label of the tokenizer among those
    of alphabet.json.
    """
    folder = Path(folder)
    names = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
    configs = {name: read_json(folder / name, "the model's") for name in names if (folder / name).is_file()}
    made = folder / f".{FOLDER}.{os.getpid()}.part"
    shutil.rmtree(made, ignore_errors=True)
    try:
        write_arpa(made / "lm.arpa", lm.ngram)
        words = lm.unigrams if lm.unigrams is not None else lm.ngram.words[len(SPECIAL) :]
        write_text(made / UNIGRAMS, "".join(f"{word}\n" for word in sorted(words)))
        attributes = ("alpha", "beta", "unk_score_offset", "score_boundary")
        write_json(made / ATTRIBUTES, {name: getattr(lm, name) for name in attributes})
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        made.replace(folder / FOLDER)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    # pyctcdecode reads it in the encoding of the machine: ASCII is the same in all.
    write_text(folder / ALPHABET, json.dumps({"labels": labels_of(tokenizer), "is_bpe": False}) + "\n")
    for name, config in configs.items():
        write_json(folder / name, config | {"processor_class": PROCESSOR})


def fusion_of(
    tokenizer: CharTokenizer,
    lm: LanguageModel | None,
    alpha: float | None = None,
    beta: float | None = None,
    hot_words: Mapping[str, float] | None = None,
    lexicon: Iterable[str] | None = None,
) -> WordFusion | CharacterFusion | None:
    """How a search uses a language model and words. alpha, beta: in place of the model's own; None without anything.

    InputError for weights that are no numbers, or too large to be summed.
    """
    weights = [
        ("alpha", "", alpha),
        ("beta", "", beta),
        *(("hot_words", word, n) for word, n in (hot_words or {}).items()),
    ]
    for name, word, value in weights:
        if value is not None and not abs(value) <= MOST_WEIGHT:
            of_word = f" for {show(word)}" if word else ""
            raise InputError(
                f"`{name}` must be a number of at most {MOST_WEIGHT:g}, got {value}{of_word}; give another"
            )
    if lm is None:
        nothing = not hot_words and lexicon is None
        return None if nothing else WordFusion(tokenizer, None, hot_words=hot_words, lexicon=lexicon)
    alpha, beta = lm.alpha if alpha is None else alpha, lm.beta if beta is None else beta
    if is_of_characters(lm.ngram, tokenizer):
        if hot_words or lexicon is not None:
            raise InputError("hot words need a language model of words, this one is of characters; leave them out")
        return CharacterFusion(tokenizer, lm.ngram, alpha, beta, lm.score_boundary)
    return WordFusion(
        tokenizer, lm.ngram, alpha, beta, lm.unk_score_offset, lm.score_boundary, hot_words, lexicon, lm.unigrams
    )
