"""Settings by how much speech there is, each with its reason. Precedence: the model's config.json < preset < flag."""

import math
from dataclasses import dataclass, replace
from typing import Any

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
    start_share: float = 0.0  # of the weights that training began with in the exported ones (Wortsman et al. 2022)
    model_fields: str = "fine-tuning"  # which of MODEL_FIELDS
    augment: str = "none"  # see recipes.augmenting
    mask_from: int = 0  # step at which SpecAugment begins


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
WHISPER_DROPOUTS = ("dropout", "encoder_layerdrop", "decoder_layerdrop")
MODEL_FLAGS = (  # those a user may turn
    *BLOG_MODEL, "mask_feature_min_masks", *WHISPER_DROPOUTS, "conformer_conv_dropout",
)  # fmt: skip
DROPOUTS = [name for name in BLOG_MODEL if name.endswith(("dropout", "layerdrop"))]
# The published W2V-BERT recipe: what it switches off. The convolutions' and the head's dropout of .1 stay on.
W2V_BERT_MODEL = dict.fromkeys(("attention_dropout", "hidden_dropout", "feat_proj_dropout", "layerdrop"), 0.0) | {
    "mask_time_prob": 0.0
}
# Of models that a laptop trains, and of all that begin with fresh weights: every layer counts, so none is dropped.
SMALL_MODEL = {
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "activation_dropout": 0.1,
    "layerdrop": 0.0,
    "apply_spec_augment": True,
    "mask_time_prob": 0.1,
    "mask_feature_prob": 0.1,
    "mask_feature_length": 16,
}
# By family: config fields of fine-tuning, of training without regularisation, of small models, and of training adapters
# alone.
MODEL_FIELDS: dict[str, dict[str, dict]] = {
    "whisper": {"fine-tuning": {}, "plain": {}},  # the dropouts of published models are 0
    "wav2vec2-bert": {
        "fine-tuning": W2V_BERT_MODEL,
        "plain": W2V_BERT_MODEL
        | dict.fromkeys([*DROPOUTS, "conformer_conv_dropout"], 0.0)
        | {"apply_spec_augment": False},
        "small model": W2V_BERT_MODEL | SMALL_MODEL,
    },
    "wav2vec2": {
        "fine-tuning": BLOG_MODEL | {"apply_spec_augment": True},  # a checkpoint's config may have masks switched off
        # The masks' settings stay, switched off: transformers expects a mask embedding by their probabilities.
        "plain": BLOG_MODEL | dict.fromkeys(DROPOUTS, 0.0) | {"apply_spec_augment": False},
        "small model": BLOG_MODEL | SMALL_MODEL,
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
SCRATCH = Preset(
    name="scratch",
    reason="fresh weights: many small steps at a high rate end CTC's plateau of blanks, and masks come only after it; "
    "pretrained ones need far less speech (docs/RESULTS.md)",
    epochs=30,
    lr=1e-3,
    warmup_steps=100,
    batch_seconds=32.0,
    accumulation=1,
    adam_betas=(0.9, 0.98),
    model_fields="small model",
    augment="speed,gain",
    mask_from=1000,
)
# Of models that a laptop trains: half precision brings them nothing, on a CPU that has it either.
ON_A_LAPTOP: dict[str, Any] = {"gradient_checkpointing": False, "precision": "fp32"}
MINI = replace(
    SCRATCH,
    name="mini",
    reason="a small pretrained model: the rate that it was pretrained with, and all that keeps it from learning by "
    "heart; the last weights are exported, because few held-out clips are too few to select by",
    epochs=20,
    keep_best=False,
    mask_from=0,
    **ON_A_LAPTOP,
)
MINI_WIDTH = 256  # published models are 768 wide and more
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
BYTEWISE = 1.5  # tokens a letter: of 26 languages only Georgian and Odia have more, 2.5 and 2.7; Hindi has 1.1
# Whisper has heard 680,000 h, and forgets: rates are 30 times lower than CTC's, and few epochs are enough.
WHISPER_FEW = Preset(
    name="whisper-few",
    reason="under 1 h: three epochs, and the mean of the weights before and after, which keeps what Whisper knew of "
    "the language (docs/RESULTS.md)",
    epochs=3,
    lr=1e-5,
    warmup_steps=500,
    batch_seconds=240.0,
    accumulation=1,
    start_share=0.5,
)
WHISPER_SCRIPT = replace(
    WHISPER_FEW,
    name="whisper-script",
    reason=f"under 1 h in a script that Whisper spells byte by byte, over {BYTEWISE:g} tokens a letter: it has to be "
    "learned first, at five times the rate (docs/RESULTS.md)",
    epochs=12,
    start_share=0.0,
)
SCRIPT_RATE = 5  # times WHISPER_RATES
WHISPER_SMALL = Preset(
    name="whisper-small",
    reason="1 to 20 h: 16 clips a step, as in the Whisper event of 2022, whose 4,000 steps were nine epochs of 8 h",
    epochs=9,
    lr=1e-5,
    warmup_steps=500,
    batch_seconds=240.0,
)
WHISPER_MEDIUM = replace(
    WHISPER_SMALL, name="whisper-medium", epochs=4, reason="20 to 200 h: as for small data, but fewer epochs"
)
WHISPER_LARGE = replace(
    WHISPER_SMALL, name="whisper-large", epochs=2, reason="over 200 h: as for small data, but two epochs"
)
WHISPER_RATES = {384: 3e-5, 512: 2e-5, 768: 1e-5, 1024: 6e-6, 1280: 4e-6}  # by width, tiny to large
SMALL_WIDTH = 768  # up to it a GPU of 16 GB holds the activations of 8 windows
W2V_BERT_SMALL = Preset(
    name="w2v-bert-small",
    reason="under 20 h: the published Mongolian recipe, which had 14 h (10 epochs, rate 5e-5, 500 steps of warm-up, "
    "about 2 x 16 clips of 5 s per step, no mask)",
    epochs=10,
    lr=5e-5,
    warmup_steps=500,
)
W2V_BERT_MEDIUM = replace(
    W2V_BERT_SMALL, name="w2v-bert-medium", epochs=5, reason="20 to 200 h: as for small data, but half the epochs"
)
W2V_BERT_LARGE = replace(
    W2V_BERT_SMALL, name="w2v-bert-large", epochs=2, reason="over 200 h: as for small data, but two epochs"
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


# By family, as MODEL_FIELDS: (below so many hours, preset).
BY_HOURS = {
    "wav2vec2": ((20.0, SMALL), (200.0, MEDIUM), (math.inf, LARGE)),
    "wav2vec2-bert": ((20.0, W2V_BERT_SMALL), (200.0, W2V_BERT_MEDIUM), (math.inf, W2V_BERT_LARGE)),
    "whisper": (
        (1.0, WHISPER_FEW), (20.0, WHISPER_SMALL), (200.0, WHISPER_MEDIUM), (math.inf, WHISPER_LARGE),
    ),
}  # fmt: skip


def choose(
    hours: float,
    by_heart: bool,
    adapter: bool,
    model_type: str,
    config,
    tokens_per_letter: float = 0.0,
    fresh: bool = False,
) -> Preset:
    """The preset for so many hours of training speech and a family; config: the family's.

    by_heart: a small model of fresh weights learns the sample. tokens_per_letter: of the training text. fresh: whether
    the weights are drawn.
    """
    if adapter:
        return ADAPTER
    if by_heart:
        return SAMPLE
    rows = BY_HOURS.get(model_type, BY_HOURS["wav2vec2"])
    if rows is not BY_HOURS["whisper"]:
        is_small = getattr(config, "hidden_size", MINI_WIDTH + 1) <= MINI_WIDTH
        if fresh:
            return replace(SCRATCH, **ON_A_LAPTOP) if is_small else SCRATCH
        if is_small:
            return MINI
    preset = next(preset for most, preset in rows if hours < most)
    if preset is WHISPER_FEW and tokens_per_letter > BYTEWISE:
        preset = WHISPER_SCRIPT
    width = getattr(config, "d_model", None)
    if rows is not BY_HOURS["whisper"] or width is None:
        return preset
    nearest = min(WHISPER_RATES, key=lambda known: abs(known - width))
    reason = f"{preset.reason}; the rate is that of a width of {nearest}"
    rate = WHISPER_RATES[nearest] * (SCRIPT_RATE if preset is WHISPER_SCRIPT else 1)
    return replace(preset, lr=rate, reason=reason, gradient_checkpointing=width > SMALL_WIDTH)


BY_MEMORY = ("batch_seconds", "batch_clips", "accumulation", "gradient_checkpointing")  # what for_memory may change
STATE_BYTES = 16  # of a parameter: weight, gradient, two moments of AdamW
ACTIVATION_BYTES = 4  # kept for the backward pass per output of a layer's linear maps, in half precision
USABLE_SHARE = 0.8  # of a GPU's memory


def for_memory(preset: Preset, model, gpu_bytes: int) -> Preset:
    """The preset with its effective batch at once and without checkpointing, where a GPU's memory holds that.

    model: may lie on the meta device. The sizes are counted, not measured. Before training the worst batch is tried,
    and an error says so where it does not fit.
    """
    if not (preset.gradient_checkpointing or preset.accumulation > 1) or preset.batch_seconds is None:
        return preset
    at_once = preset.batch_seconds * preset.accumulation
    layers = [layer for stack in model.parts.stacks for layer in stack]
    modules = [m for layer in layers for m in layer.modules()]
    widths = [m.out_features for m in modules if isinstance(m, nn.Linear)]
    widths += [m.out_channels for m in modules if isinstance(m, nn.Conv1d)]
    frames_of = getattr(model.config, "rows", model.config.frames)  # W2V-BERT's stack has more frames than its logits
    frames = frames_of(int(at_once * SAMPLE_RATE))
    needed = STATE_BYTES * sum(p.numel() for p in model.parameters()) + ACTIVATION_BYTES * frames * sum(widths)
    if needed > USABLE_SHARE * gpu_bytes:
        return preset
    reason = (
        f"{preset.reason}; {at_once:g} s at once and no checkpointing, which takes about "
        f"{needed / 1e9:.0f} GB of this GPU's {gpu_bytes / 1e9:.0f}"
    )
    return replace(preset, reason=reason, batch_seconds=at_once, accumulation=1, gradient_checkpointing=False)
