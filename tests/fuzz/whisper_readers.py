"""Readers of a Whisper model's tokenizer, in each of its layouts."""

import base64
import json
import random
from pathlib import Path

from w2v.text.bpe import CHARACTERS, bytes_of
from w2v.text.whisper_languages import END, special_tokens
from w2v.text.whisper_tokenizer import WhisperTokenizer

from .harness import Reader
from .mutators import mutate_json, mutate_text

MERGES = [("Ġ", "t"), ("a", "b"), ("Ġt", "ab"), ("Ã", "©"), ("h", "e"), ("Ġ", "he")]
TEXTS = ("the tab é\u0301 \x1c12 <|endoftext|>", " he  he\n", "日本\ufffd")


def tokens() -> dict[str, int]:
    words = [*sorted(CHARACTERS), *("".join(pair) for pair in MERGES)]
    return {token: i for i, token in enumerate(words)}


def special() -> dict[str, int]:
    """Without the timestamps, which a reader adds: most changes then hit something else."""
    return {token: i for i, token in enumerate(special_tokens()[:-1501], len(tokens()))}


def decoder() -> dict[str, dict]:
    return {str(i): {"content": token, "lstrip": False, "special": True} for token, i in special().items()}


def whole(as_strings: bool) -> dict:
    merges = [" ".join(pair) for pair in MERGES] if as_strings else [list(pair) for pair in MERGES]
    return {
        "added_tokens": [{"id": int(i), **entry} for i, entry in decoder().items()],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {"type": "BPE", "merges": merges, "vocab": tokens() | {END: special()[END]}},
    }


def config() -> dict:
    return {"tokenizer_class": "WhisperTokenizer", "add_prefix_space": False, "added_tokens_decoder": decoder()}


GENERATION = {"is_multilingual": True, "language": "<|tr|>", "task": "transcribe"}
OLD = {
    "vocab.json": json.dumps(tokens(), ensure_ascii=False, indent=1).encode(),
    "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]).encode(),
    "added_tokens.json": json.dumps(special(), indent=1).encode(),
    "generation_config.json": json.dumps(GENERATION, indent=1).encode(),
}


def ranks(folder: Path) -> list[bytes]:
    lines = [b"%b %d" % (base64.b64encode(bytes_of(token)), i) for token, i in tokens().items()]
    return [b"\n".join([*lines, b""]), b"\n".join([*lines, b"= %d" % len(lines), b""])]


def read(name: str, *beside: str):
    """A reader of one file of a folder. beside: the other files that lie there."""

    def read_folder(folder: Path, data: bytes) -> object:
        for other in beside:
            (folder / other).write_bytes(OLD[other])
        (folder / name).write_bytes(data)
        tokenizer = WhisperTokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(folder / "saved")
        again = WhisperTokenizer.from_pretrained(folder / "saved")
        assert again.same_vocabulary(tokenizer)
        spoken = tokenizer if tokenizer.language else tokenizer.for_language(next(iter(tokenizer.language_ids)))
        for text in TEXTS:
            ids = spoken.encode(text)
            assert again.encode_text(text) == tokenizer.encode_text(text)
            assert spoken.text_of(ids) == text and max(ids) < len(spoken)
            assert "".join(word for word, _ in spoken.split_to_words(ids)) == text
        return spoken.decode(range(-3, len(spoken) + 3))

    return read_folder


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    return mutate_text(b" ")(rng, data)


def seeds(*values: object):
    return lambda folder: [json.dumps(value, ensure_ascii=False, indent=1).encode() for value in values]


READERS = [
    Reader("whisper-vocab", seeds(tokens()), read("vocab.json", "merges.txt", "added_tokens.json"), mutate_json),
    Reader(
        "whisper-merges", lambda folder: [OLD["merges.txt"]], read("merges.txt", "vocab.json", "added_tokens.json"),
        mutate_lines,
    ),
    Reader("whisper-added", seeds(special()), read("added_tokens.json", "vocab.json", "merges.txt"), mutate_json),
    Reader("whisper-config", seeds(config()), read("tokenizer_config.json", "vocab.json", "merges.txt"), mutate_json),
    Reader(
        "whisper-generation", seeds(GENERATION, {"is_multilingual": False}),
        read("generation_config.json", "vocab.json", "merges.txt", "added_tokens.json"), mutate_json,
    ),
    Reader("whisper-whole", seeds(whole(True), whole(False)), read("tokenizer.json"), mutate_json),
    Reader("whisper-ranks", ranks, read("multilingual.tiktoken"), mutate_lines),
]  # fmt: skip
