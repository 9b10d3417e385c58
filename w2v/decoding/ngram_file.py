"""n-gram models on disk: a form that maps into memory, and which form a file has.

The binary form is one safetensors file with the tensors of `NGram`, and its words as UTF-8 bytes with their ends.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from w2v.decoding.arpa import MOST_ORDER, read_arpa
from w2v.decoding.ngram import SPECIAL, NGram
from w2v.errors import InputError, reason, show
from w2v.files import open_file, reading, write_whole

FORMAT, VERSION = "w2v n-gram", "1"
KENLM = b"mmap lm http://kheafield.com/code"
TENSORS = {
    "keys": torch.int64,
    "log10_probs": torch.float32,
    "log10_backoffs": torch.float32,
    "shorter": torch.int32,
    "after": torch.int32,
}


class Words(Sequence[str]):
    """Words as UTF-8 bytes end to end, so that a million of them cost nothing until they are asked for."""

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self.text, self.ends = text, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self)[index]
        index = range(len(self))[index]
        begin = int(self.ends[index - 1]) if index else 0
        return self.text[begin : int(self.ends[index])].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        data, begin = self.text.tobytes(), 0
        for end in self.ends.tolist():
            yield data[begin:end].decode("utf-8")
            begin = end


def save_ngram(path: str | Path, lm: NGram) -> None:
    """Write the binary form."""
    encoded = [word.encode("utf-8") for word in lm.words]
    tensors = {name: getattr(lm, name).cpu() for name in TENSORS}
    tensors["counts"] = torch.tensor(lm.counts)
    tensors["words"] = torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8)
    tensors["ends"] = torch.tensor([len(word) for word in encoded]).cumsum(0)
    write_whole(path, lambda temporary: save_file(tensors, temporary, {"format": FORMAT, "version": VERSION}))


def load_ngram(path: str | Path) -> tuple[NGram, list[str]]:
    """An ARPA file or the binary form -> the model, and what was mended in it, a sentence each.

    InputError for a file that is neither, is damaged, or is of another version; KenLM's own binary files are among
    these, because their form depends on how KenLM was built.
    """
    path = Path(path)
    with reading("the language model", path), open_file(path) as file:
        head = file.read(64)
    if head.startswith(KENLM):
        raise InputError(f"{path} is a binary file of KenLM, which only KenLM reads; give the ARPA file it was made of")
    if path.suffix == ".safetensors" or head[8:10] == b'{"':
        return _load(path), []
    return read_arpa(path)


def _load(path: Path) -> NGram:
    kinds = TENSORS | {"counts": torch.int64, "words": torch.uint8, "ends": torch.int64}
    with reading("the language model", path):
        try:
            with safe_open(path, framework="pt") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                if metadata.get("format") != FORMAT:
                    raise InputError(f"{path} must be a language model, its header does not say so; give another")
                if metadata.get("version") != VERSION:
                    raise InputError(
                        f"{path} must be of version {VERSION}, is of {show(metadata.get('version'))}; make it again "
                        "with recipes.train_lm"
                    )
                if lacking := kinds.keys() - names:
                    raise InputError(f"{path} is damaged: it lacks {', '.join(sorted(lacking))}; make it again")
                tensors = {name: file.get_tensor(name) for name in kinds}
        except SafetensorError as error:
            raise InputError(f"cannot read {path} as safetensors ({reason(error)}); make it again") from None
    for name, kind in kinds.items():
        if tensors[name].dtype != kind or tensors[name].ndim != 1:
            raise InputError(f"{path} is damaged: {name} must be a list of {kind}; make it again")
    if wrong := _fault(tensors) or _fault_of_words(tensors["words"].numpy(), tensors["ends"].numpy()):
        raise InputError(f"{path} is damaged: {wrong}; make it again")
    words = Words(tensors["words"].numpy(), tensors["ends"].numpy())
    return NGram(words, tuple(tensors["counts"].tolist()), **{name: tensors[name] for name in TENSORS})


def _fault(tensors: dict[str, torch.Tensor]) -> str | None:
    """Why the n-grams are no model. Few passes: a model of 30 million n-grams is loaded in less than a second."""
    counts, keys = tensors["counts"], tensors["keys"]
    size, total = len(tensors["ends"]), len(keys)
    if not 1 <= len(counts) <= MOST_ORDER or int(counts.min()) < 0 or int(counts.max()) > total:
        return "it has no count of n-grams for each order"
    if int(counts.sum()) != total or int(counts[0]) != size or size < len(SPECIAL) or total >= 2**31:
        return "its counts are not those of its n-grams"
    if any(len(tensors[name]) != total + 1 for name in TENSORS if name != "keys"):
        return "its lists differ in length"
    if bool((keys[1:] <= keys[:-1]).any()):
        return "keys are not sorted"
    # So the first and the last of an order say enough: its n-grams without their last words are of the order below.
    start, below = 0, (0, 0)  # node 0 is the context of unigrams
    for count in filter(None, counts.tolist()):
        first, last = int(keys[start]) // size, int(keys[start + count - 1]) // size
        if first < below[0] or last > below[1]:
            return "an n-gram lacks its context"
        start, below = start + count, (start + 1, start + count)
    if start != total or bool((counts[:-1] == 0).any()):
        return "an order has no n-grams"
    for name in ("shorter", "after"):
        low, high = map(int, tensors[name].aminmax())
        if low < 0 or high > total:
            return f"{name} points outside"
    for name in ("log10_probs", "log10_backoffs"):
        least, most = map(float, tensors[name].aminmax())  # nan where one is
        if not (isfinite(least) and isfinite(most)) or (name == "log10_probs" and most > 0):
            return f"{name} are none"
    return None


def _fault_of_words(text: np.ndarray, ends: np.ndarray) -> str | None:
    """text, ends: see Words."""
    if int(ends[-1]) != len(text) or int(ends[0]) <= 0 or bool((ends[1:] <= ends[:-1]).any()):
        return "its words lie outside"
    if bool(np.isin(text, np.frombuffer(b" \t\n\r\0", np.uint8)).any()):
        return "a word has a space or a line end in it"
    begins = text[np.concatenate([[0], ends[:-1]])]
    try:
        text.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return "its words are not UTF-8"
    if bool(((begins & 0xC0) == 0x80).any()):  # the middle of a character
        return "its words are not UTF-8"
    return None if tuple(Words(text, ends)[: len(SPECIAL)]) == SPECIAL else "it lacks <unk>, <s> and </s>"
