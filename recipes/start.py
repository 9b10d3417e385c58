"""Where training starts: a published or fine-tuned checkpoint, or a named config with fresh weights."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from recipes.console import say
from w2v.errors import InputError
from w2v.files import open_file, reading
from w2v.heads import keep_rows
from w2v.models.families import Family, family_of, published, shapes
from w2v.text.tokenizer import CharTokenizer
from w2v.weights.hf import fields_of_folder, locate, override, tensor_names
from w2v.weights.hub import SPEC, as_safetensors, fetch, parse_spec

BOX = (
    Path(__file__).parent / "w2v-mini"
)  # a small pretrained model that comes with the code; its README.md says of what
BY_HEART = ("random:tiny", "random:w2v-bert-tiny", "random:w2v-mini")  # small enough to learn the sample on a laptop
MMS_ADAPTER_WIDTH = 16
CARD_BYTES = 100_000  # of a model card, which begins with its metadata


@dataclass(frozen=True)
class StartingPoint:
    """A checkpoint, or a named config with fresh weights."""

    name: str  # as given, for the model card
    family: Family
    config: Any  # the family's
    checkpoint: Path | None
    tokenizer: Any = None  # of a fine-tuned checkpoint
    hub_id: str = ""  # the repository it was fetched from
    commit: str = ""  # of that repository

    @property
    def licence(self) -> str:
        """What the checkpoint's model card names, MMS's cc-by-nc-4.0 for one; "" where there is no card or no name."""
        if self.checkpoint is None:
            return ""
        card = (self.checkpoint if self.checkpoint.is_dir() else self.checkpoint.parent) / "README.md"
        try:
            with open_file(card) as file:
                text = file.read(CARD_BYTES).decode("utf-8", errors="replace")
            licence = ModelCard(text).data.to_dict().get("license")
        except Exception:  # a stranger's card may be broken in any way
            return ""
        is_name = isinstance(licence, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]{0,60}", licence, re.ASCII)
        return licence if is_name else ""

    @property
    def short_name(self) -> str:
        """For folder and model names: xlsr-53, tiny, or the repository's or checkpoint's own."""
        if self.hub_id:
            return self.name if self.name in published() else self.hub_id.split("/")[1]
        return Path(self.name).resolve().stem if self.checkpoint else self.name.removeprefix("random:")

    def build(self, tokenizer, overrides: dict, adapters: bool = False, labels: Sequence[list[int]] = ()) -> Any:
        """The model with a head for `tokenizer`; a fine-tuned head is kept where its vocabulary is.

        adapters: with fresh MMS adapters beside a fresh head, whatever the checkpoint holds. labels: of the training
        clips.
        """
        overrides = overrides | self.config.for_vocabulary(tokenizer, labels)
        if adapters:
            overrides["adapter_attn_dim"] = getattr(self.config, "adapter_attn_dim", None) or MMS_ADAPTER_WIDTH
        if self.checkpoint is None:
            return self.family.model(override(self.config, overrides))
        is_new = not tokenizer.same_vocabulary(self.tokenizer)
        new = {"new_head": is_new} | ({"new_adapters": True} if adapters else {})
        model = self.family.model.from_pretrained(self.checkpoint, self.config, **new, **overrides)
        if is_new and not adapters and isinstance(self.tokenizer, CharTokenizer):
            keep_rows(model, self.checkpoint, self.tokenizer, tokenizer, self.family.head)
        return model


def add_adapter_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--add-adapter",
        choices=("on", "off"),
        help="W2V-BERT: a last layer that halves the frames, to 40 ms (on, but as it is in a fine-tuned checkpoint)",
    )


def with_adapter(start: StartingPoint, choice: str | None) -> StartingPoint:
    """The start of training with or without the layer that halves the frames, where its family has one.

    The published recipe puts a fresh one before the fresh head. choice: --add-adapter. InputError for another family,
    and where a fine-tuned checkpoint has it otherwise.
    """
    if not hasattr(start.config, "add_adapter"):
        if choice is not None:
            raise InputError(
                f"--add-adapter is for W2V-BERT, --model {start.name} is {start.family.title}; leave it out"
            )
        return start
    if start.tokenizer is not None:
        has = "on" if start.config.add_adapter else "off"
        if choice not in (None, has):
            raise InputError(f"--add-adapter must be as the fine-tuned checkpoint has it, {has}; leave it out")
        return start
    fields = {"add_adapter": choice != "off"}
    if choice == "off":
        fields["use_intermediate_ffn_before_adapter"] = False
    return replace(start, config=override(start.config, fields))


def default_model(is_sample: bool) -> str:
    return BOX.name if is_sample else "xlsr-53"


def resolve_model(spec: str, cache: Path, weights: bool = True) -> StartingPoint:
    """NAME, random:NAME, a checkpoint's path, or owner/name[@revision]. InputError where there is no such thing.

    NAME of the model that comes with the code is that, of another published one the Hub's; any other has fresh weights.
    weights: False where nobody needs them yet. A published model's shape is then known without a network.
    """
    if not weights and spec in published() and shapes()[spec][0].head:
        return StartingPoint(spec, *shapes()[spec], None)
    if spec == BOX.name:
        return from_folder(spec, BOX)
    if spec.startswith("random:") or (spec in shapes() and spec not in published()):
        name = spec.removeprefix("random:")
        if name not in shapes():
            raise InputError(f"--model random:NAME takes one of {', '.join(shapes())}, got {name}")
        return StartingPoint(f"random:{name}", *shapes()[name], None)
    path = Path(spec)
    with reading("the checkpoint", path):  # a name that is too long, a folder closed to the user
        is_here = path.exists()
    if not is_here and (spec in published() or SPEC.fullmatch(spec)):
        return from_hub(spec, cache, weights)
    return from_folder(spec, path)


def from_folder(spec: str, path: Path, hub_id: str = "", commit: str = "") -> StartingPoint:
    """A checkpoint in transformers' layout; its vocabulary is kept where it has a head for one."""
    weights, _ = locate(path)
    folder = weights.parent
    fields = fields_of_folder(folder)
    family = family_of(fields)
    config, tokenizer = family.config.from_dict(fields), None
    has_head = any(name.startswith(family.head) for name in tensor_names(weights))
    if not family.head or (has_head and (folder / "vocab.json").is_file()):
        tokenizer = family.tokenizer.from_pretrained(folder)
        config.check_vocabulary(tokenizer, folder)
    return StartingPoint(spec, family, config, path, tokenizer, hub_id, commit)


def from_hub(spec: str, cache: Path, weights: bool) -> StartingPoint:
    """A published name, or owner/name[@revision]. Its config is looked at before its weights are fetched."""
    repository, revision = parse_spec(published().get(spec, spec))
    say(f"taking {repository} from the Hugging Face Hub or its cache")
    try:
        fetched = fetch(repository, revision, weights=False)
        fields = fields_of_folder(fetched.folder)
        family = family_of(fields)
        config = family.config.from_dict(fields)
        if not weights:
            tokenizer = None if family.head else family.tokenizer.from_pretrained(fetched.folder)
            return StartingPoint(spec, family, config, None, tokenizer, repository, fetched.commit)
        fetched = fetch(repository, fetched.commit)
    except InputError as error:
        fresh = f"; or use --model random:{spec} for fresh weights" if spec in published() else ""
        raise InputError(f"--model {spec} is no path here, and {error}{fresh}") from None
    folder = as_safetensors(fetched.folder, cache / "models" / f"{repository.replace('/', '--')}@{fetched.commit}")
    say(f"{repository} is at commit {fetched.commit}, in {folder}")
    return from_folder(spec, folder, repository, fetched.commit)
