"""Settings by how much speech there is, each with its reason. Precedence: the model's config.json < preset < flag."""

from dataclasses import dataclass, replace

from torch import nn

from w2v.audio import SAMPLE_RATE


@dataclass(frozen=True)
class Preset:
    name: str
    reason: str
    epochs: int
    lr: float
    warmup_steps: int
    batch_seconds: float | None = 80.0
    batch_clips: int | None = None
    accumulation: int = 2
    schedule: str = "linear"
    gradient_checkpointing: bool = True
    precision: str = "auto"
    adam_betas: tuple[float, float] = (0.9, 0.999)
    keep_best: bool = True  # export the weights of the lowest dev CER; otherwise the last
    model_fields: str = "fine-tuning"  # which of MODEL_FIELDS


# The Turkish notebook of the 2021 fine-tuning week: every dropout and mask it set, over what XLSR-53's config says.
BLOG_MODEL = {
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "activation_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.1,
    "mask_time_prob": 0.05,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
}
MODEL_FLAGS = (*BLOG_MODEL, "mask_feature_min_masks")  # those a user may turn
DROPOUTS = [name for name in BLOG_MODEL if name.endswith(("dropout", "layerdrop"))]
# By family: config fields of fine-tuning, of training without regularisation, and of training adapters alone.
MODEL_FIELDS = {
    "wav2vec2": {
        "fine-tuning": BLOG_MODEL | {"apply_spec_augment": True},  # a checkpoint's config may have masks switched off
        # The masks' settings stay, switched off: transformers expects a mask embedding by their probabilities.
        "plain": BLOG_MODEL | dict.fromkeys(DROPOUTS, 0.0) | {"apply_spec_augment": False},
        "adapter": BLOG_MODEL
        | {"apply_spec_augment": True, "attention_dropout": 0.0, "hidden_dropout": 0.0, "layerdrop": 0.0},
    },
}

SAMPLE = Preset(
    name="sample",
    reason="six minutes from scratch: a high rate and no regularisation, which would only prolong CTC's plateau of "
    "blanks; the last weights are exported, because ten held-out clips are too few to select by",
    epochs=70,
    lr=2e-3,
    warmup_steps=50,
    batch_seconds=None,
    batch_clips=8,
    accumulation=1,
    gradient_checkpointing=False,
    precision="fp32",
    adam_betas=(0.9, 0.98),
    keep_best=False,
    model_fields="plain",
)
SMALL = Preset(
    name="small",
    reason="under 20 h: the values of the 2021 fine-tuning week's Turkish recipe (30 epochs, rate 3e-4, 500 steps of "
    "warm-up, about 2 x 16 clips of 5 s per step)",
    epochs=30,
    lr=3e-4,
    warmup_steps=500,
)
MEDIUM = Preset(
    name="medium",
    reason="20 to 200 h: as for small data, but half the epochs see each clip often enough",
    epochs=15,
    lr=3e-4,
    warmup_steps=500,
)
LARGE = Preset(
    name="large",
    reason="over 200 h: the 5 epochs of transformers' Common Voice command",
    epochs=5,
    lr=3e-4,
    warmup_steps=500,
)
ADAPTER = Preset(
    name="adapter",
    reason="--adapter: MMS's recipe for a new language trains 2 million parameters at a higher rate for 4 epochs",
    epochs=4,
    lr=1e-3,
    warmup_steps=100,
    model_fields="adapter",
)


def model_fields(preset: Preset, model_type: str) -> dict:
    """The config fields that a preset sets for a family; none for a family without a row here."""
    return MODEL_FIELDS.get(model_type, {}).get(preset.model_fields, {})


def choose(hours: float, is_sample: bool, adapter: bool = False) -> Preset:
    """The preset for so many hours of training speech."""
    if adapter:
        return ADAPTER
    if is_sample:
        return SAMPLE
    return SMALL if hours < 20 else MEDIUM if hours < 200 else LARGE


BY_MEMORY = ("batch_seconds", "batch_clips", "accumulation", "gradient_checkpointing")  # what for_memory may change
BIG_BATCH_SECONDS = 160.0  # the effective batch of every preset for real data, at once
STATE_BYTES = 16  # of a parameter: weight, gradient, two moments of AdamW
ACTIVATION_BYTES = 4  # kept for the backward pass per output of a layer's linear maps, in half precision
USABLE_SHARE = 0.8  # of a GPU's memory


def for_memory(preset: Preset, model, gpu_bytes: int) -> Preset:
    """The preset with its effective batch at once and without checkpointing, where a GPU's memory holds that.

    model: may lie on the meta device. The sizes are counted, not measured. Before training the worst batch is tried,
    and an error says so where it does not fit.
    """
    if not preset.gradient_checkpointing:
        return preset
    layers = [layer for stack in model.parts.stacks for layer in stack]
    widths = [m.out_features for layer in layers for m in layer.modules() if isinstance(m, nn.Linear)]
    frames = model.config.frames(int(BIG_BATCH_SECONDS * SAMPLE_RATE))
    needed = STATE_BYTES * sum(p.numel() for p in model.parameters()) + ACTIVATION_BYTES * frames * sum(widths)
    if needed > USABLE_SHARE * gpu_bytes:
        return preset
    reason = (
        f"{preset.reason}; {BIG_BATCH_SECONDS:g} s at once and no checkpointing, which takes about "
        f"{needed / 1e9:.0f} GB of this GPU's {gpu_bytes / 1e9:.0f}"
    )
    return replace(preset, reason=reason, batch_seconds=BIG_BATCH_SECONDS, accumulation=1, gradient_checkpointing=False)
