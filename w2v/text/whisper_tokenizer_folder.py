"""What the files of a Whisper model's tokenizer say: transformers' older and newer ones, and OpenAI's.

transformers before 5 has text tokens in vocab.json, merges.txt beside it, and further tokens in added_tokens.json or in
tokenizer_config.json's added_tokens_decoder. tokenizer.json has all of that in one file. OpenAI has
multilingual.tiktoken or gpt2.tiktoken: text tokens in the order of merging; what follows is the same for all models.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from w2v.errors import InputError, show
from w2v.files import read_bytes, read_json
from w2v.text.bpe import REMEDY, spelled
from w2v.text.tokenizer_folder import check_ids
from w2v.text.whisper_languages import END, LANGUAGES, NO_TIMESTAMPS, TIMESTAMPS, special_tokens

# The form of Whisper's own tokens that are no text.
CONTROL = re.compile(r"<\|[^|\s]+\|>")
GPT2_TOKENS = 50256  # text tokens of the English-only models, which have GPT-2's vocabulary


class WhisperTokenizerFolder(NamedTuple):
    vocab: dict[str, int]  # all tokens, timestamps too
    merges: list[tuple[str, str]] | None  # None: they are to be found by the ids
    added: dict[str, bool]  # tokens that others added to Whisper's -> whether they are special
    is_multilingual: bool
    language: str | None  # as it is written there
    task: str | None


def is_control(token: str) -> bool:
    return CONTROL.fullmatch(token) is not None


def read_whisper_tokenizer(directory: str | Path) -> WhisperTokenizerFolder:
    """Read a folder. InputError where a file is missing or broken, or for a setting that is not here."""
    directory = Path(directory)
    config = _optional(directory / "tokenizer_config.json", "the special tokens")
    generation = _optional(directory / "generation_config.json", "the generation settings")
    if config.get("add_prefix_space"):
        raise InputError(
            f"add_prefix_space must be False, {directory / 'tokenizer_config.json'} says "
            f"{show(config['add_prefix_space'])}; use another checkpoint"
        )
    merges: list[tuple[str, str]] | None
    vocab_file, merges_file, whole_file = (directory / name for name in ("vocab.json", "merges.txt", "tokenizer.json"))
    ranks_files = sorted(directory.glob("*.tiktoken"))
    if vocab_file.is_file() and (merges_file.is_file() or not whole_file.is_file()):
        vocab = read_json(vocab_file, "Whisper's text tokens")
        merges = _merges_of_lines(merges_file)
        added = _added(config, directory)
    elif whole_file.is_file():
        vocab, merges, added = _tokenizer_json(whole_file)
    elif ranks_files:
        vocab, merges, added = _ranks(ranks_files[0]), None, {}
        vocab |= _after_ranks(len(vocab), directory)
    else:
        raise InputError(
            f"a Whisper tokenizer must be vocab.json with merges.txt, tokenizer.json or multilingual.tiktoken, "
            f"{directory} has none of them; use a complete model folder"
        )
    vocab = _with_timestamps(vocab | {token: i for token, (i, _) in added.items()})
    check_ids(vocab)
    further = {token: is_special for token, (_, is_special) in added.items() if not is_control(token)}
    text_tokens = sum(not is_control(token) and token not in further for token in vocab)
    return WhisperTokenizerFolder(
        vocab,
        merges,
        further,
        _is_multilingual(config, generation, text_tokens),
        _word("language", generation, config, directory),
        _word("task", generation, config, directory),
    )


def _optional(file: Path, what: str) -> dict:
    return read_json(file, what) if file.is_file() else {}


def _is_multilingual(config: dict, generation: dict, text_tokens: int) -> bool:
    for settings in (generation, config):
        if isinstance(value := settings.get("is_multilingual"), bool):
            return value
    return text_tokens != GPT2_TOKENS


def _word(name: str, generation: dict, config: dict, directory: Path) -> str | None:
    for settings, file in ((generation, "generation_config.json"), (config, "tokenizer_config.json")):
        value = settings.get(name)
        if not isinstance(value, str | None):
            raise InputError(f"{name} in {directory / file} must be a string, got {show(value)}; {REMEDY}")
        if value:
            return value
    return None


def _merges_of_lines(file: Path) -> list[tuple[str, str]]:
    data = read_bytes("Whisper's merges", file, "use a complete model folder")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file} as UTF-8 ({error.reason}); use a complete model folder") from None
    lines = [line.removesuffix("\r") for line in lines]
    if lines[0].startswith("#version"):
        lines[0] = ""
    return [_pair(line.split(" "), f"{file} line {number}") for number, line in enumerate(lines, 1) if line]


def _pair(parts: Any, where: str) -> tuple[str, str]:
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
        raise InputError(f"a merge must be two tokens, {where} has {show(parts)}; {REMEDY}")
    return parts[0], parts[1]


def _added(config: dict, directory: Path) -> dict[str, tuple[int, bool]]:
    """Added token -> its id, whether it is special."""
    decoder = config.get("added_tokens_decoder")
    if decoder is not None:
        file = directory / "tokenizer_config.json"
        if not isinstance(decoder, dict):
            raise InputError(f"added_tokens_decoder in {file} must be an object, got {show(decoder)}; {REMEDY}")
        entries = ((int(i) if i.isdecimal() and len(i) < 10 else i, entry) for i, entry in decoder.items())
        return _entries(entries, f"added_tokens_decoder in {file}")
    found = _optional(directory / "added_tokens.json", "the added tokens")
    check_ids(found, is_whole=False)
    return {token: (i, False) for token, i in found.items()}


def _entries(entries: Iterable[tuple[Any, Any]], where: str) -> dict[str, tuple[int, bool]]:
    added = {}
    for i, entry in entries:
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str) or not isinstance(i, int):
            raise InputError(f"{where} must give a token for each id, got {show(i)}: {show(entry)}; {REMEDY}")
        added[token] = i, entry.get("special") is True
    return added


def _tokenizer_json(file: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, tuple[int, bool]]]:
    whole = read_json(file, "Whisper's tokens")

    def part(of: dict, name: str, kind: type, default: Any = None) -> Any:
        value = of.get(name, default)
        if not isinstance(value, kind):
            what = "an object" if kind is dict else "a list"
            raise InputError(f"{name} in {file} must be {what}, got {show(value)}; {REMEDY}")
        return value

    model = part(whole, "model", dict)
    if model.get("type", "BPE") != "BPE":
        raise InputError(f"the model's type in {file} must be BPE, got {show(model['type'])}; {REMEDY}")
    before = whole.get("pre_tokenizer")
    if isinstance(before, dict) and before.get("add_prefix_space"):
        raise InputError(
            f"add_prefix_space must be False, {file} says {show(before['add_prefix_space'])}; use another checkpoint"
        )
    merges = [
        _pair(merge.split(" ") if isinstance(merge, str) else merge, str(file)) for merge in part(model, "merges", list)
    ]
    entries = part(whole, "added_tokens", list, [])
    numbered = ((entry.get("id") if isinstance(entry, dict) else None, entry) for entry in entries)
    return part(model, "vocab", dict), merges, _entries(numbered, f"added_tokens in {file}")


def _ranks(file: Path) -> dict[str, int]:
    """OpenAI's lines of base64 and a rank. The multilingual file ends with the empty token, written as `=`."""
    vocab = {}
    for number, line in enumerate(read_bytes("Whisper's text tokens", file).split(b"\n"), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            token = b"" if parts[0] == b"=" else base64.b64decode(parts[0], validate=True)
            if len(parts) != 2 or not parts[1].isdigit() or len(parts[1]) > 9:
                raise ValueError
        except (binascii.Error, ValueError):
            raise InputError(
                f"a line must be base64 and a rank, {file} line {number} is {show(line)}; {REMEDY}"
            ) from None
        vocab[spelled(token)] = int(parts[1])
    return vocab


def _after_ranks(text_tokens: int, directory: Path) -> dict[str, int]:
    """Special tokens behind OpenAI's: with as many languages as config.json's head has room for, else 99."""
    size = _optional(directory / "config.json", "the checkpoint's").get("vocab_size")
    without = text_tokens + len(special_tokens(0))
    languages = size - without if isinstance(size, int) else len(LANGUAGES) - 1
    if not 0 <= languages <= len(LANGUAGES):
        raise InputError(
            f"vocab_size must be {without} to {without + len(LANGUAGES)} for {text_tokens} text tokens, "
            f"{directory / 'config.json'} says {show(size)}; {REMEDY}"
        )
    return {token: i for i, token in enumerate(special_tokens(languages), text_tokens)}


def _with_timestamps(vocab: dict[str, int]) -> dict[str, int]:
    """Newer files leave the timestamps out, which follow <|notimestamps|>."""
    last = vocab.get(NO_TIMESTAMPS)
    if TIMESTAMPS[0] in vocab or END not in vocab or not isinstance(last, int):
        return vocab
    return vocab | {token: i for i, token in enumerate(TIMESTAMPS, last + 1)}
