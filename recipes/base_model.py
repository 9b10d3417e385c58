"""Where training starts: a published or fine-tuned checkpoint, or a named config with fresh weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from recipes.console import say
from w2v.asr import check_vocabulary
from w2v.errors import InputError
from w2v.files import write_whole
from w2v.models.wav2vec2 import CONFIGS, Wav2Vec2Config, Wav2Vec2ForCTC
from w2v.text import CharTokenizer
from w2v.weights.download import PUBLISHED, fetch_model
from w2v.weights.hf import HEAD, locate, parse_config, read_config, read_weights, tensor_names, warn_if_not_finite

SAMPLE_MODEL = "random:tiny"
UNPUBLISHED = {"tiny"}
MMS_ADAPTER_WIDTH = 16


@dataclass
class BaseModel:
    """Where training starts: a checkpoint, or a named config with fresh weights."""

    name: str  # as given, for the model card
    config: Wav2Vec2Config
    checkpoint: Path | None
    tokenizer: CharTokenizer | None = None  # of a fine-tuned checkpoint

    @property
    def hub_id(self) -> str:
        """The public repository it comes from; "" where there is none to name."""
        return hub_id(self.name) if self.name in PUBLISHED else ""

    @property
    def short_name(self) -> str:
        """For folder and model names: xlsr-53, tiny, or the checkpoint's own."""
        return Path(self.name).resolve().stem if self.checkpoint else self.name.removeprefix("random:")

    def build(self, tokenizer: CharTokenizer, overrides: dict, adapters: bool = False) -> Wav2Vec2ForCTC:
        """The model with a head for `tokenizer`; a fine-tuned head stays where its vocabulary does.

        adapters: with fresh MMS adapters beside a fresh head, whatever the checkpoint holds.
        """
        overrides = {
            **overrides,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.blank_id,
            "bos_token_id": None,
            "eos_token_id": None,
            "ctc_loss_reduction": "mean",
        }
        if adapters:
            overrides["adapter_attn_dim"] = self.config.adapter_attn_dim or MMS_ADAPTER_WIDTH
        if self.checkpoint is None:
            return Wav2Vec2ForCTC(dataclasses.replace(self.config, **overrides))
        return Wav2Vec2ForCTC.from_pretrained(
            self.checkpoint,
            self.config,
            new_head=tokenizer is not self.tokenizer,
            new_adapters=adapters,
            **overrides,
        )


def default_model(is_sample: bool) -> str:
    return SAMPLE_MODEL if is_sample else "xlsr-53"


def hub_id(name: str) -> str:
    """The public repository of a published model: facebook/wav2vec2-large-xlsr-53."""
    return "/".join(PUBLISHED[name][0].split("/")[3:5])


def published(name: str, folder: Path) -> Path:
    """The folder of a published model: as it lies in the cache, else downloaded into it and converted."""
    if (folder / "model.safetensors").is_file():
        return folder
    if not (folder / "pytorch_model.bin").is_file():
        try:
            fetch_model(name, folder, log=say)
        except InputError as error:
            raise InputError(
                f"--model {name} needs its published weights: {error}; or where there is a network run `hf download "
                f"{hub_id(name)} config.json pytorch_model.bin --local-dir {folder}` and then this command again, or "
                f"use --model random:{name} for fresh weights"
            ) from None
    # From a pickle to a file that loads without a second copy in memory.
    tensors = read_weights(folder / "pytorch_model.bin")
    warn_if_not_finite(tensors, folder)
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    write_whole(folder / "model.safetensors", lambda path: save_file(contiguous, path, metadata={"format": "pt"}))
    (folder / "pytorch_model.bin").unlink()
    say(f"converted {folder / 'pytorch_model.bin'} to model.safetensors")
    return folder


def resolve_model(spec: str, cache: Path) -> BaseModel:
    """NAME, random:NAME, or the path of a checkpoint. InputError where there is no such thing."""
    random_name = spec.removeprefix("random:") if spec.startswith("random:") else spec if spec in UNPUBLISHED else None
    if random_name is not None:
        if random_name not in CONFIGS:
            raise InputError(f"--model random:NAME takes one of {', '.join(CONFIGS)}, got {random_name}")
        return BaseModel(f"random:{random_name}", CONFIGS[random_name], None)
    path = Path(spec)
    if spec in CONFIGS and not path.exists():
        path = published(spec, cache / "models" / spec)
    weights, config_file = locate(path)
    config = parse_config(read_config(config_file))
    folder = weights.parent
    tokenizer = None
    if (folder / "vocab.json").is_file() and any(name.startswith(HEAD) for name in tensor_names(weights)):
        tokenizer = CharTokenizer.from_pretrained(folder)
        check_vocabulary(config, tokenizer, folder)
    return BaseModel(spec, config, path, tokenizer)
