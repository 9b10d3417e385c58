"""Where training starts: a published or fine-tuned checkpoint, or a named config with fresh weights."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from w2v.asr import check_vocabulary
from w2v.errors import InputError
from w2v.models.wav2vec2 import CONFIGS, Wav2Vec2Config, Wav2Vec2ForCTC
from w2v.text import CharTokenizer
from w2v.weights.hf import HEAD, locate, parse_config, read_config, tensor_names

UNPUBLISHED = {"tiny"}
PUBLISHED = {
    "xlsr-53": "facebook/wav2vec2-large-xlsr-53",
    "xls-r-300m": "facebook/wav2vec2-xls-r-300m",
    "xls-r-1b": "facebook/wav2vec2-xls-r-1b",
    "xls-r-2b": "facebook/wav2vec2-xls-r-2b",
    "base": "facebook/wav2vec2-base",
    "large-lv60": "facebook/wav2vec2-large-lv60",
}


@dataclass
class BaseModel:
    """Where training starts: a checkpoint, or a named config with fresh weights."""

    name: str  # as given, for the model card
    config: Wav2Vec2Config
    checkpoint: Path | None
    tokenizer: CharTokenizer | None = None  # of a fine-tuned checkpoint

    @property
    def short_name(self) -> str:
        """For folder and model names: xlsr-53, tiny, or the checkpoint's own."""
        return (
            Path(self.name.removeprefix("random:")).resolve().stem if self.checkpoint else self.name[len("random:") :]
        )

    def build(self, tokenizer: CharTokenizer, overrides: dict) -> Wav2Vec2ForCTC:
        """The model with a head for `tokenizer`; a fine-tuned head stays where its vocabulary does."""
        overrides = {
            **overrides,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.blank_id,
            "bos_token_id": None,
            "eos_token_id": None,
            "ctc_loss_reduction": "mean",
        }
        if self.checkpoint is None:
            return Wav2Vec2ForCTC(dataclasses.replace(self.config, **overrides))
        return Wav2Vec2ForCTC.from_pretrained(
            self.checkpoint, self.config, new_head=tokenizer is not self.tokenizer, **overrides
        )


def resolve_model(spec: str, cache: Path) -> BaseModel:
    """NAME, random:NAME, or the path of a checkpoint. InputError where there is no such thing."""
    random_name = spec.removeprefix("random:") if spec.startswith("random:") else spec if spec in UNPUBLISHED else None
    if random_name is not None:
        if random_name not in CONFIGS:
            raise InputError(f"--model random:NAME takes one of {', '.join(CONFIGS)}, got {random_name}")
        return BaseModel(f"random:{random_name}", CONFIGS[random_name], None)
    path = Path(spec)
    if spec in CONFIGS and not path.exists():
        path = cache / "models" / spec
        if not path.is_dir():
            raise InputError(
                f"--model {spec} needs its published weights in {path}, which is missing; run `hf download "
                f"{PUBLISHED[spec]} "
                f"config.json pytorch_model.bin --local-dir {path}` and then this command again, or use "
                f"--model random:{spec} for fresh weights"
            )
    weights, config_file = locate(path)
    config = parse_config(read_config(config_file))
    folder = weights.parent
    tokenizer = None
    if (folder / "vocab.json").is_file() and any(name.startswith(HEAD) for name in tensor_names(weights)):
        tokenizer = CharTokenizer.from_pretrained(folder)
        check_vocabulary(config, tokenizer, folder)
    return BaseModel(spec, config, path, tokenizer)
