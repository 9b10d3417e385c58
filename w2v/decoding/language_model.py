"""A language model with its weights: read from a file or a model's folder, written in transformers' layout, put to use.

    lm = load_language_model("lm.arpa")                          # or a folder with language_model/
    search = BeamSearch(tokenizer, fusion_of(tokenizer, lm, hot_words={"ankara": 10.0}))

The layout is that of transformers' Wav2Vec2ProcessorWithLM and of pyctcdecode: alphabet.json beside the model, and
language_model/ with attrs.json, unigrams.txt and one ARPA file.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from w2v.decoding.arpa import write_arpa
from w2v.decoding.fusion import ALPHA, BETA, UNKNOWN, CharacterFusion, WordFusion, is_of_characters
from w2v.decoding.ngram import SPECIAL, NGram
from w2v.decoding.ngram_file import load_ngram
from w2v.errors import InputError, show
from w2v.files import read_bytes, read_json, reading, write_json, write_text

FOLDER, ATTRIBUTES, UNIGRAMS, ALPHABET = "language_model", "attrs.json", "unigrams.txt", "alphabet.json"
SUFFIXES = (".safetensors", ".arpa", ".bin", ".binary")
PROCESSOR = "Wav2Vec2ProcessorWithLM"
UNKNOWN_LABEL = "⁇"  # pyctcdecode's


@dataclass(frozen=True, eq=False)
class LanguageModel:
    ngram: NGram
    alpha: float = ALPHA  # of ln p
    beta: float = BETA  # for each word
    unk_score_offset: float = UNKNOWN  # added to log10 p of an unknown word
    score_boundary: bool = True  # texts begin with <s> and end with </s>
    unigrams: tuple[str, ...] | None = None  # the known words, where they are not the n-gram's
    mended: tuple[str, ...] = ()  # what its file lacked, a sentence each


def load_language_model(path: str | Path) -> LanguageModel:
    """An ARPA file, a binary one of `recipes.train_lm`, or a folder in transformers' layout.

    The labels in alphabet.json are not looked at: those of the model's tokenizer count. InputError where there is no
    language model, or a broken one.
    """
    path = Path(path)
    with reading("the language model", path):
        is_folder = path.is_dir()
    if not is_folder:
        ngram, mended = load_ngram(path)
        return LanguageModel(ngram, mended=tuple(mended))
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    with reading("the language model", folder):
        files = sorted(file for file in folder.iterdir() if file.name.endswith((*SUFFIXES, ".arpa.gz")))
    if not files or not (folder / ATTRIBUTES).is_file():
        raise InputError(
            f"{path} must hold a language model, {FOLDER}/ with {ATTRIBUTES} and an ARPA file; it has none"
        )
    files.sort(key=lambda file: file.suffix in (".bin", ".binary"))  # the last choice: only KenLM reads them
    ngram, mended = load_ngram(files[0])
    attributes = read_json(folder / ATTRIBUTES, "the language model's weights")
    numbers = {}
    for name, default in (("alpha", ALPHA), ("beta", BETA), ("unk_score_offset", UNKNOWN)):
        value = attributes.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise InputError(f"{folder / ATTRIBUTES} must give {name} as a number, gives {show(value)}; mend it")
        numbers[name] = float(value)
    boundary = attributes.get("score_boundary", True)
    if not isinstance(boundary, bool):
        raise InputError(f"{folder / ATTRIBUTES} must give score_boundary as true or false, gives {show(boundary)}")
    unigrams = None
    if (folder / UNIGRAMS).is_file():
        try:
            text = read_bytes("the unigrams", folder / UNIGRAMS).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{folder / UNIGRAMS} must be UTF-8, some of it is not; convert it") from None
        unigrams = tuple(word for word in text.split("\n") if word and word not in SPECIAL)
    return LanguageModel(ngram, **numbers, score_boundary=boundary, unigrams=unigrams, mended=tuple(mended))


def has_language_model(folder: str | Path) -> bool:
    return (Path(folder) / FOLDER / ATTRIBUTES).is_file()


def save_language_model(folder: str | Path, lm: LanguageModel, tokenizer) -> None:
    """Put a language model into a model's folder, in the place of the one there.

    pyctcdecode wants exactly three files in language_model/, and transformers each label of the tokenizer among those
    of alphabet.json.
    """
    folder = Path(folder)
    made = folder / f".{FOLDER}.{os.getpid()}.part"
    shutil.rmtree(made, ignore_errors=True)
    try:
        write_arpa(made / "lm.arpa", lm.ngram)
        words = lm.unigrams if lm.unigrams is not None else lm.ngram.words[len(SPECIAL) :]
        write_text(made / UNIGRAMS, "".join(f"{word}\n" for word in sorted(words)))
        names = ("alpha", "beta", "unk_score_offset", "score_boundary")
        write_json(made / ATTRIBUTES, {name: getattr(lm, name) for name in names})
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        made.replace(folder / FOLDER)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    labels = list(tokenizer.tokens)
    for token, label in ((tokenizer.space, " "), (tokenizer.pad, ""), (tokenizer.unk, UNKNOWN_LABEL)):
        if token in tokenizer.vocab:
            labels[tokenizer.vocab[token]] = label
    write_json(folder / ALPHABET, {"labels": labels, "is_bpe": False})
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name, "the model's")
            write_json(folder / name, config | {"processor_class": PROCESSOR})


def fusion_of(
    tokenizer,
    lm: LanguageModel | None,
    alpha: float | None = None,
    beta: float | None = None,
    hot_words: Mapping[str, float] | None = None,
    lexicon: Iterable[str] | None = None,
) -> WordFusion | CharacterFusion | None:
    """How a search uses a language model and words. alpha, beta: in place of the model's own; None without anything."""
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
