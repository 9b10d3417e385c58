"""Where training starts: a published or fine-tuned checkpoint, or a named config with fresh weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from recipes.console import say
from w2v.errors import InputError
from w2v.files import write_whole
from w2v.models.families import FAMILIES, Family, family_of, published, shapes
from w2v.weights.download import fetch_model
from w2v.weights.hf import locate, override, read_config, read_weights, tensor_names, warn_if_not_finite

SAMPLE_MODEL = "random:tiny"
MMS_ADAPTER_WIDTH = 16


@dataclass
class StartingPoint:
    """A checkpoint, or a named config with fresh weights."""

    name: str  # as given, for the model card
    family: Family
    config: Any  # the family's
    checkpoint: Path | None
    tokenizer: Any = None  # of a fine-tuned checkpoint

    @property
    def hub_id(self) -> str:
        """The public repository it comes from; "" where there is none to name."""
        return published().get(self.name, "")

    @property
    def model_type(self) -> str:
        return next(name for name, family in FAMILIES.items() if family is self.family)

    @property
    def short_name(self) -> str:
        """For folder and model names: xlsr-53, tiny, or the checkpoint's own."""
        return Path(self.name).resolve().stem if self.checkpoint else self.name.removeprefix("random:")

    def build(self, tokenizer, overrides: dict, adapters: bool = False) -> nn.Module:
        """The model with a head for `tokenizer`; a fine-tuned head stays where its vocabulary does.

        adapters: with fresh MMS adapters beside a fresh head, whatever the checkpoint holds.
        """
        overrides = overrides | self.config.for_vocabulary(tokenizer)
        if adapters:
            overrides["adapter_attn_dim"] = getattr(self.config, "adapter_attn_dim", None) or MMS_ADAPTER_WIDTH
        if self.checkpoint is None:
            return self.family.model(override(self.config, overrides))
        options = {"new_adapters": True} if adapters else {}
        new_head = tokenizer is not self.tokenizer
        return self.family.model.from_pretrained(
            self.checkpoint, self.config, new_head=new_head, **options, **overrides
        )


def default_model(is_sample: bool) -> str:
    return SAMPLE_MODEL if is_sample else "xlsr-53"


def fetched(name: str, folder: Path) -> Path:
    """The folder of a published model: as it lies in the cache, else downloaded into it and converted."""
    if (folder / "model.safetensors").is_file():
        return folder
    if not (folder / "pytorch_model.bin").is_file():
        try:
            fetch_model(name, folder, log=say)
        except InputError as error:
            raise InputError(
                f"--model {name} needs its published weights: {error}; or where there is a network run `hf download "
                f"{published()[name]} config.json pytorch_model.bin --local-dir {folder}` and then this command again, "
                f"or use --model random:{name} for fresh weights"
            ) from None
    # From a pickle to a file that loads without a second copy in memory.
    tensors = read_weights(folder / "pytorch_model.bin")
    warn_if_not_finite(tensors, folder)
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    write_whole(folder / "model.safetensors", lambda path: save_file(contiguous, path, metadata={"format": "pt"}))
    (folder / "pytorch_model.bin").unlink()
    say(f"converted {folder / 'pytorch_model.bin'} to model.safetensors")
    return folder


def resolve_model(spec: str, cache: Path) -> StartingPoint:
    """NAME, random:NAME, or the path of a checkpoint. InputError where there is no such thing."""
    named = shapes()
    is_random = spec.startswith("random:") or (spec in named and spec not in published())
    if is_random:
        name = spec.removeprefix("random:")
        if name not in named:
            raise InputError(f"--model random:NAME takes one of {', '.join(named)}, got {name}")
        family, config = named[name]
        return StartingPoint(f"random:{name}", family, config, None)
    path = Path(spec)
    if spec in published() and not path.exists():
        path = fetched(spec, cache / "models" / spec)
    weights, config_file = locate(path)
    fields = read_config(config_file)
    family = family_of(fields)
    config = family.config.from_dict(fields)
    folder, tokenizer = weights.parent, None
    if (folder / "vocab.json").is_file() and any(name.startswith(family.head) for name in tensor_names(weights)):
        tokenizer = family.tokenizer.from_pretrained(folder)
        config.check_vocabulary(tokenizer, folder)
    return StartingPoint(spec, family, config, path, tokenizer)


def shape_of(spec: str, cache: Path) -> StartingPoint:
    """The same for who needs no weights yet: of a published model they are not fetched."""
    named = shapes()
    return StartingPoint(spec, *named[spec], None) if spec in named else resolve_model(spec, cache)
