"""One model, several languages: a head that holds each one's own, and what a folder keeps of each language.

    tokenizer, rows = side_by_side({"tr": ..., "az": ...})   # a vocabulary that holds both, and where
    with one_language(model, rows["az"], azerbaijani):       # the model as if it had been made for az alone
        ...

A run's folder holds the model of one language. languages/LANG/ holds what another one has of its own: normaliser.json,
and with heads of their own the tokenizer's files and head.safetensors. The body is the same for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2v.errors import InputError, listed, show
from w2v.files import reading
from w2v.text.locales import LOCALE
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer
from w2v.weights import hf

FOLDER, FILE = "languages", "head.safetensors"
WEIGHT, BIAS = "lm_head.weight", "lm_head.bias"  # as in transformers' layout


def side_by_side(tokenizers: dict[str, CharTokenizer]) -> tuple[CharTokenizer, dict[str, list[int]]]:
    """The tokens of each language one after another, then one blank for all; and the ids of each language's own.

    The vocabulary is for a head's size and its blank. A text is encoded by its own language's tokenizer.
    """
    vocab: dict[str, int] = {}
    for lang, tokenizer in tokenizers.items():
        for token in tokenizer.tokens:
            if token != tokenizer.pad:
                vocab[f"{lang}:{token}"] = len(vocab)
    blank = vocab["[PAD]"] = len(vocab)
    rows = {
        lang: [blank if token == tokenizer.pad else vocab[f"{lang}:{token}"] for token in tokenizer.tokens]
        for lang, tokenizer in tokenizers.items()
    }
    lang, first = next(iter(tokenizers.items()))
    return CharTokenizer(vocab, space=f"{lang}:{first.space}", unk=None, pad="[PAD]"), rows


def allowed(rows: list[int], size: int) -> Tensor:
    """Which of a vocabulary's tokens are a language's, (V,) bool."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[rows] = True
    return mask


@contextmanager
def one_language(model: Any, rows: list[int], tokenizer: CharTokenizer) -> Iterator[None]:
    """Within it the model has these rows of its head alone, for the vocabulary of `tokenizer`: what it says and what it
    saves is that language's. Its parameters are the same objects afterwards.
    """
    head, config = model.parts.head, model.config
    weight, bias = head.weight, head.bias
    try:
        put_head(model, weight.detach()[rows], bias.detach()[rows], tokenizer)
        yield
    finally:
        head.weight, head.bias, head.out_features, model.config = weight, bias, len(weight), config


def put_head(model: Any, weight: Tensor, bias: Tensor, tokenizer: CharTokenizer) -> None:
    """Give a model another head, weight (V, D) and bias (V,), for another vocabulary."""
    head = model.parts.head
    head.weight, head.bias, head.out_features = nn.Parameter(weight), nn.Parameter(bias), len(weight)
    model.config = hf.override(model.config, model.config.for_vocabulary(tokenizer))


def keep_rows(model: Any, checkpoint: str | Path, held: CharTokenizer, tokenizer: CharTokenizer, prefix: str) -> None:
    """Give a fresh head what a checkpoint's head knew: its rows of the characters that both vocabularies hold.

    A token that is new begins as the mean of the known characters: with a row of noise it would be heard everywhere or
    nowhere at first. checkpoint: a folder or file with a head for `held`, whose tensors' names begin with `prefix`.
    tokenizer: that of the model's fresh head. InputError where the checkpoint's head does not fit `held`.
    """
    head = dict(model.parts.head.named_parameters())
    read = hf.read_tensors(checkpoint)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in read.items() if name.startswith(prefix)}
    wanted = {name: torch.Size([len(held), *fresh.shape[1:]]) for name, fresh in head.items()}
    hf.check_shapes(tensors, wanted, checkpoint, "use the vocabulary that the model was trained with")
    if not held.character_ids:
        return
    to, of = map(list, zip((tokenizer.blank_id, held.blank_id), *tokenizer.shared(held), strict=True))
    with torch.no_grad():
        for name, fresh in head.items():
            rows = tensors[name].to(fresh)
            fresh.copy_(rows[held.character_ids].mean(0, keepdim=True).expand_as(fresh))
            fresh[to] = rows[of]


def save_head(folder: Path, model: Any, rows: list[int]) -> None:
    """Write a language's head into its folder."""
    head = model.parts.head
    hf.write_tensors(folder / FILE, {WEIGHT: head.weight[rows], BIAS: head.bias[rows]})


def read_head(folder: Path, width: int, tokenizer: CharTokenizer) -> tuple[Tensor, Tensor]:
    """weight (V, D) and bias (V,) of a language's folder. InputError where they do not fit the model or the tokenizer.

    width: D, of the model's head.
    """
    tensors = {name: tensor.float() for name, tensor in hf.read_weights(folder / FILE).items()}
    wanted = {WEIGHT: torch.Size([len(tokenizer), width]), BIAS: torch.Size([len(tokenizer)])}
    hf.check_shapes(tensors, wanted, folder / FILE, "use the folder as the run wrote it")
    return tensors[WEIGHT], tensors[BIAS]


def folder_of_lm(folder: Path, lang: str | None) -> Path:
    """Where a language's language model lies: the first language's at the top of the folder, another's in its own."""
    own = folder_of_language(folder, lang, must=False)
    return folder if own is None or Normaliser.from_pretrained(folder).lang == lang else own


def folder_of_language(folder: Path, lang: str | None, must: bool = True) -> Path | None:
    """Where a model's folder keeps what is a language's own; None without `lang`, and where it was trained for one.

    must: InputError where it was trained for others.
    """
    with reading("the model", folder):
        if lang is None or not (folder / FOLDER).is_dir():
            return None
        if LOCALE.fullmatch(lang) and (folder / FOLDER / lang / "normaliser.json").is_file():
            return folder / FOLDER / lang
        held = sorted(file.name for file in (folder / FOLDER).iterdir())
    if not must:
        return None
    raise InputError(f"`target_lang` must be a language of {folder}, got {show(lang)}; it holds {listed(held)}")
