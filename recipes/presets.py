"""Settings by how much speech there is, each with its reason. Precedence: the model's config.json < preset < flag."""

from dataclasses import dataclass, field


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
    model: dict = field(default_factory=dict)  # Wav2Vec2Config fields


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
# A checkpoint's config may have masks switched off altogether.
FINE_TUNING = BLOG_MODEL | {"apply_spec_augment": True}
MODEL_FLAGS = (*BLOG_MODEL, "mask_feature_min_masks")  # those a user may turn
DROPOUTS = [name for name in BLOG_MODEL if name.endswith(("dropout", "layerdrop"))]
# The masks' settings stay, switched off: transformers expects a mask embedding by their probabilities.
NO_REGULARISATION = BLOG_MODEL | dict.fromkeys(DROPOUTS, 0.0) | {"apply_spec_augment": False}

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
    model=NO_REGULARISATION,
)
SMALL = Preset(
    name="small",
    reason="under 20 h: the values of the 2021 fine-tuning week's Turkish recipe (30 epochs, rate 3e-4, 500 steps of "
    "warm-up, about 2 x 16 clips of 5 s per step)",
    epochs=30,
    lr=3e-4,
    warmup_steps=500,
    model=FINE_TUNING,
)
MEDIUM = Preset(
    name="medium",
    reason="20 to 200 h: as for small data, but half the epochs see each clip often enough",
    epochs=15,
    lr=3e-4,
    warmup_steps=500,
    model=FINE_TUNING,
)
LARGE = Preset(
    name="large",
    reason="over 200 h: the 5 epochs of transformers' Common Voice command",
    epochs=5,
    lr=3e-4,
    warmup_steps=500,
    model=FINE_TUNING,
)
ADAPTER = Preset(
    name="adapter",
    reason="--adapter: MMS's recipe for a new language trains 2 million parameters at a higher rate for 4 epochs",
    epochs=4,
    lr=1e-3,
    warmup_steps=100,
    model=FINE_TUNING | {"attention_dropout": 0.0, "hidden_dropout": 0.0, "layerdrop": 0.0},
)


def choose(hours: float, is_sample: bool, adapter: bool = False) -> Preset:
    """The preset for so many hours of training speech."""
    if adapter:
        return ADAPTER
    if is_sample:
        return SAMPLE
    return SMALL if hours < 20 else MEDIUM if hours < 200 else LARGE
