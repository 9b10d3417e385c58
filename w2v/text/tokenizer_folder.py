"""What the files of a CTC model's tokenizer say, as transformers reads them.

vocab.json has the tokens. Further ones, mostly special, stand in tokenizer_config.json (added_tokens_decoder) or in
added_tokens.json, or are only named, in tokenizer_config.json or special_tokens_map.json.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from w2v.errors import InputError, show
from w2v.files import read_json

# transformers' classes whose folders are read here. Old folders name no class; their tokens are characters.
CHARACTERS, PHONEMES = "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"
REMEDY = "use the vocab.json and tokenizer_config.json that the model was trained with"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Of those that a folder does not name, transformers makes these up.
DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>"}
LISTS = ("extra_special_tokens", "additional_special_tokens")  # of today's and of older transformers


class TokenizerFolder(NamedTuple):
    vocab: dict[str, int]  # with the added tokens
    space: str | None
    unk: str | None
    pad: str | None
    phonemes: bool
    special: tuple[str, ...]  # tokens that stand for no text
    do_lower_case: bool
    clean_up: bool


def read_tokenizer(directory: str | Path, target_lang: str | None = None) -> TokenizerFolder:
    """Read a folder. InputError naming the setting that is broken, or that would need code which is not here."""
    directory = Path(directory)
    config, config_file = {}, directory / "tokenizer_config.json"
    if config_file.is_file():
        config = read_json(config_file, "the special tokens")
    kind = config.get("tokenizer_class") or CHARACTERS
    if kind not in (CHARACTERS, PHONEMES):
        raise InputError(
            f"tokenizer_class must be {CHARACTERS} or {PHONEMES}, {config_file} says {show(kind)}; "
            "use the folder of a CTC model of characters or phonemes"
        )
    vocab = read_json(directory / "vocab.json", "a CTC model's characters")
    is_nested = bool(vocab) and all(isinstance(value, dict) for value in vocab.values())
    if is_nested:
        lang = target_lang or config.get("target_lang")
        if not isinstance(lang, str) or lang not in vocab:
            names = ", ".join(name for name in sorted(vocab) if name.isprintable())
            held = names if len(names) <= 200 else f"{names[:200]} ..."
            raise InputError(
                f"`target_lang` must be a language of {directory / 'vocab.json'}, got {show(lang)}; it holds {held}"
            )
        vocab = vocab[lang]
    check_ids(vocab, is_whole=False)

    for name in NAMED:  # also what another file says again must be a token
        _token(config.get(name), name, config_file)
    added, special = _added_tokens(config, config_file)
    if added is None:  # an older folder, where further files may say more
        map_file, added_file = directory / "special_tokens_map.json", directory / "added_tokens.json"
        if map_file.is_file():
            config = config | read_json(map_file, "the special tokens")
        added = read_json(added_file, "the added tokens") if added_file.is_file() else {}
        check_ids(added, is_whole=False)

    def token(name: str, default: str | None) -> str | None:
        return _token(config.get(name, default), name, config_file)

    unk = token("unk_token", "[UNK]" if "[UNK]" in vocab else "<unk>")
    pad = token("pad_token", "[PAD]" if "[PAD]" in vocab else "<pad>")
    by_name = [pad if name == "pad_token" else unk if name == "unk_token" else token(name, DEFAULTS.get(name))
             for name in NAMED]  # fmt: skip
    listed = [t for name in LISTS for t in _tokens(config.get(name), name, config_file)]
    space = token("word_delimiter_token", None if kind == PHONEMES else "|")
    special = (special | {t for t in [*by_name, *listed] if t is not None}) - {space}

    # The head says which of them the model has: many were named only after it was trained. Tokens that are named and
    # have no id get the next ones, as in transformers. Each language of a nested vocabulary is whole by itself.
    size = None if is_nested else _head_size(directory)
    if not is_nested:
        vocab = vocab | {t: i for t, i in added.items() if size is None or i < size}
    unnumbered = [t for t in dict.fromkeys([*by_name, *listed]) if t and t not in vocab and t not in added]
    if size is not None and len(vocab) + len(unnumbered) == size:
        vocab = vocab | {t: i for i, t in enumerate(unnumbered, len(vocab))}

    for name, wanted in (("replace_word_delimiter_char", " "), ("split_special_tokens", False)):
        if kind == CHARACTERS and config.get(name, wanted) != wanted:
            raise InputError(
                f"{name} must be {wanted!r}, {config_file} says {show(config[name])}; use another checkpoint"
            )
    return TokenizerFolder(
        vocab,
        space,
        unk,
        pad,
        kind == PHONEMES,
        tuple(sorted(special & vocab.keys())),
        kind == CHARACTERS and _flag("do_lower_case", config, config_file),
        _flag("clean_up_tokenization_spaces", config, config_file),
    )


def check_ids(vocab: dict, is_whole: bool = True) -> None:
    """InputError where tokens are no strings or ids no whole numbers; is_whole: or where they are not 0, 1, 2 ..."""
    for token, i in vocab.items():
        if not isinstance(token, str):
            raise InputError(f"a vocabulary's tokens must be strings, got {show(token)}; {REMEDY}")
        if not isinstance(i, int) or isinstance(i, bool):
            raise InputError(f"a vocabulary's ids must be whole numbers, {show(token)} has {show(i)}; {REMEDY}")
    if is_whole and (missing := set(range(len(vocab))) - set(vocab.values())):
        raise InputError(
            f"a vocabulary of {len(vocab)} tokens must have the ids 0 to {len(vocab) - 1}, each once, "
            f"{min(missing)} is missing; {REMEDY}"
        )


def _added_tokens(config: dict, file: Path) -> tuple[dict[str, int] | None, set[str]]:
    """tokenizer_config.json's added_tokens_decoder: the ids of its tokens, and which of them are special."""
    decoder = config.get("added_tokens_decoder")
    if decoder is None:
        return None, set()
    if not isinstance(decoder, dict) or not all(isinstance(entry, dict) for entry in decoder.values()):
        raise InputError(f"added_tokens_decoder in {file} must give a token for each id, got {show(decoder)}; {REMEDY}")
    added: dict[str, int] = {}
    special: set[str] = set()
    for i, entry in decoder.items():
        token = _token(entry, "added_tokens_decoder", file)
        if not i.isdecimal() or len(i) > 9 or token is None:
            raise InputError(f"added_tokens_decoder in {file} must give a token for each id, got {show(i)}; {REMEDY}")
        added[token] = int(i)
        special |= {token} if entry.get("special") is True else set()
    return added, special


def _token(value: object, name: str, file: Path) -> str | None:
    if isinstance(value, dict):  # old files spell a token as {"content": "[PAD]", ...}
        value = value.get("content", value)
    if not isinstance(value, str | None):
        raise InputError(f"{name} in {file} must be a string, got {show(value)}; {REMEDY}")
    return value


def _tokens(value: object, name: str, file: Path) -> Iterable[str | None]:
    if isinstance(value, dict):  # tokens by name
        value = list(value.values())
    if not isinstance(value, list | None):
        raise InputError(f"{name} in {file} must be a list of strings, got {show(value)}; {REMEDY}")
    return [_token(token, name, file) for token in value or []]


def _flag(name: str, config: dict, file: Path) -> bool:
    value = config.get(name) or False
    if not isinstance(value, bool):
        raise InputError(f"{name} in {file} must be true or false, got {show(value)}; {REMEDY}")
    return value


def _head_size(directory: Path) -> int | None:
    file = directory / "config.json"
    size = read_json(file, "the checkpoint's").get("vocab_size") if file.is_file() else None
    return size if isinstance(size, int) else None
