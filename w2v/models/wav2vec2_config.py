"""wav2vec 2.0's config, the shapes with a name, and what a clip becomes for this family."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from w2v.answers import Batch, pad_labels
from w2v.audio import SAMPLE_RATE, normalise
from w2v.ctc import frames_needed
from w2v.errors import InputError, show
from w2v.layout import Layout, Packed, Padded
from w2v.models import ctc_answers
from w2v.models.fields import LAYERS, LENGTH, MASK_RANGES, WIDTH, Count, check_fields, check_fixed, check_probabilities
from w2v.text.tokenizer import CharTokenizer
from w2v.weights.hf import PROCESSOR

# Settings whose other values would need code that is not here: refusing is better than computing something else.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "conv_pos_batch_norm": False,
    "position_embeddings_type": None,
}
# The same for what the model hears, in preprocessor_config.json. `return_attention_mask` may be either: it is about
# padded batches, and here no clip's output depends on the clips it is batched with.
FIXED_PROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": SAMPLE_RATE,
    "padding_value": 0.0,
    "padding_side": "right",
}
REMEDY = "use another checkpoint, or its own config.json and preprocessor_config.json"
CONVOLUTIONS = 100  # more than any model has
RANGES: dict[str, tuple[float, float]] = {
    "vocab_size": (1, 10**6),
    "hidden_size": (1, WIDTH),
    "num_hidden_layers": (1, LAYERS),
    "num_attention_heads": (1, WIDTH),
    "intermediate_size": (1, WIDTH),
    "initializer_range": (0, 10),
    "layer_norm_eps": (0, 1),
    "conv_dim": (1, WIDTH),
    "conv_stride": (1, LENGTH),
    "conv_kernel": (1, LENGTH),
    "num_conv_pos_embeddings": (1, LENGTH),
    "num_conv_pos_embedding_groups": (1, WIDTH),
    **MASK_RANGES,
    "adapter_attn_dim": (1, 4096),
    "pad_token_id": (0, 10**6),
}


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Field names, meanings and defaults (those of `base`) are transformers' Wav2Vec2Config."""

    vocab_size: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"  # "group": one GroupNorm, after the first convolution; "layer": one after each
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False  # True: LayerNorm before attention and feed-forward, and once after the stack
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    adapter_attn_dim: int | None = None  # width of MMS's per-language adapters; None: there are none
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    pad_token_id: int = 0  # also CTC's blank
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    do_normalize: bool = True  # each clip to zero mean and unit variance; it stands in preprocessor_config.json

    def __post_init__(self) -> None:
        check_fields(self, RANGES)
        layers = [len(self.conv_dim), len(self.conv_stride), len(self.conv_kernel)]
        if not CONVOLUTIONS >= layers[0] == layers[1] == layers[2] > 0:
            raise InputError(f"conv_dim, conv_stride and conv_kernel need one entry per layer, got {layers}")
        if self.receptive_field > LENGTH:
            raise InputError(
                f"conv_kernel and conv_stride must give frames of at most {LENGTH} samples, theirs see "
                f"{show(self.receptive_field)}"
            )
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                raise InputError(
                    f"hidden_size must be a multiple of {name}, got {self.hidden_size} and {getattr(self, name)}"
                )
        if self.adapter_attn_dim is not None and not self.do_stable_layer_norm:
            raise InputError("adapters (adapter_attn_dim) need do_stable_layer_norm, as in every MMS model")
        if self.feat_extract_norm not in ("group", "layer"):
            raise InputError(f'feat_extract_norm must be "group" or "layer", got {show(self.feat_extract_norm)}')
        check_probabilities(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "Wav2Vec2Config":
        """The fields of transformers' config.json, and of preprocessor_config.json as hf.read_fields adds them.

        InputError naming a field that is broken or asks for a variant we do not have, or for another architecture.
        """
        if fields.get("model_type") != "wav2vec2":
            raise InputError(
                f"the checkpoint's architecture must be wav2vec2, config.json says {show(fields.get('model_type'))}; "
                "use a wav2vec 2.0 or XLS-R checkpoint"
            )
        processor = fields.get(PROCESSOR, {})
        check_fixed("config.json", FIXED, fields, REMEDY)
        check_fixed(PROCESSOR, FIXED_PROCESSOR, processor, REMEDY)
        for name in ("do_normalize", "return_attention_mask"):
            if not isinstance(processor.get(name, True), bool):
                raise InputError(f"{PROCESSOR}: {name} must be true or false, got {show(processor[name])}; {REMEDY}")
        known = {field.name for field in dataclasses.fields(cls)} - {"do_normalize"}
        given = {name: value for name, value in fields.items() if name in known}
        for name in ("vocab_size", "pad_token_id"):  # null in transformers: not known yet
            if name in given and given[name] is None:
                del given[name]
        try:
            return cls(**given, do_normalize=processor.get("do_normalize", True))
        except InputError as error:
            raise InputError(f"config.json: {error}; {REMEDY}") from None

    def to_dict(self) -> dict:
        """The fields of transformers' config.json."""
        fixed = {"model_type": "wav2vec2", "hidden_act": "gelu", "feat_extract_activation": "gelu"}
        fields = dataclasses.asdict(self)
        del fields["do_normalize"]  # see `processor`
        return fixed | fields

    def processor(self) -> dict:
        """The fields of transformers' preprocessor_config.json."""
        return {
            **FIXED_PROCESSOR,
            "processor_class": "Wav2Vec2Processor",
            "do_normalize": self.do_normalize,
            "return_attention_mask": self.feat_extract_norm == "layer",  # group-norm models were pretrained without
        }

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320 (20 ms at 16 kHz) for every published model."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees, and the fewest a clip needs: 400 (25 ms) for every published model."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field

    @property
    def pads(self) -> bool:
        """Whether clips must be padded to the longest: where a norm runs over time, as in group-norm models."""
        return self.feat_extract_norm == "group"

    def frames(self, samples: Count) -> Count:
        """Samples of a clip, or of each clip (B,), -> frames that the convolutions make of them."""
        return (samples - self.receptive_field) // self.hop + 1

    def cost(self, samples: int) -> float:
        """Seconds of work and memory that a clip stands for in a batch's budget: its own, with a quadratic term."""
        return ctc_answers.cost(samples)

    def why_not(self, samples: int, label_ids: list[int]) -> str | None:
        """Why the model cannot learn from a clip, or None where it can."""
        frames, needed = self.frames(samples), frames_needed(label_ids)
        if frames < 1:
            return f"shorter than one frame: {samples} samples"
        if frames < needed:
            return f"too few frames for its text: CTC cannot align {needed} labels to {frames} frames"
        return None

    def collate(
        self,
        waveforms: list[np.ndarray],
        labels: list[list[int]] | None = None,
        names: list[str] | None = None,
        pad: bool = False,
    ) -> Batch:
        """int16 or float32 waveforms (samples,) at 16 kHz, of any gain, each normalised over its own samples -> Batch.

        Models with do_normalize false hear float32 samples as they are, int16 ones as x / 32768. Without labels every
        clip has none, as in transcription. Clips lie end to end in one waveform, each beginning at a multiple of the
        hop: its frames are then whole frames of the stream. Group-norm models get rows padded to the
        longest clip; pad: the same for the others. Raises InputError for a clip shorter than one frame.
        """
        samples = [len(waveform) for waveform in waveforms]
        frames = [self.frames(n) for n in samples]
        self.check_length(min(samples))
        if not (self.pads or pad):
            starts = [0, *accumulate(-(-n // self.hop) for n in samples)][:-1]  # in frames
            inputs = np.empty((1, starts[-1] * self.hop + samples[-1]), np.float32)
            places = np.split(inputs[0], [start * self.hop for start in starts[1:]])
            layout: Layout = Packed.of(starts, frames)
        else:
            inputs = np.empty((len(waveforms), max(samples)), np.float32)
            places = list(inputs)
            layout = Padded.of(torch.tensor(frames), max(frames))
        for place, waveform in zip(places, waveforms, strict=True):
            clip = place[: len(waveform)]
            if self.do_normalize:
                normalise(waveform, out=clip)
            else:
                np.multiply(waveform, np.float32(1 / 32768 if waveform.dtype == np.int16 else 1.0), out=clip)
            place[len(waveform) :] = 0.0
        label_rows, label_lengths = pad_labels(labels or [[] for _ in waveforms])
        weights = [1.0] * len(waveforms)  # CTC: every clip counts alike, whatever its length
        clip_names = names or [""] * len(waveforms)
        return Batch(torch.from_numpy(inputs), layout, samples, label_rows, label_lengths, weights, clip_names)

    def for_vocabulary(self, tokenizer: CharTokenizer, labels: Sequence[list[int]] = ()) -> dict:
        """The fields that a vocabulary decides: the head's size, CTC's blank. labels: not asked."""
        return ctc_answers.fields_of_vocabulary(tokenizer)

    def check_vocabulary(self, tokenizer: CharTokenizer, directory: str | Path) -> None:
        """InputError where the head and the vocabulary of a folder do not belong together."""
        ctc_answers.check_vocabulary(self, tokenizer, directory)

    def check_length(self, samples: int) -> None:
        """InputError for a clip without a frame."""
        if samples < self.receptive_field:
            raise InputError(
                f"a clip needs at least {self.receptive_field} samples for one frame, got {samples}; "
                "drop clips that short"
            )


_LARGE = Wav2Vec2Config(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    feat_extract_norm="layer",
    conv_bias=True,
    do_stable_layer_norm=True,
)
BASE = Wav2Vec2Config()
LARGE_LV60 = dataclasses.replace(_LARGE)
XLSR_53 = dataclasses.replace(_LARGE, activation_dropout=0.0, final_dropout=0.0, feat_proj_dropout=0.1)
XLS_R_300M = dataclasses.replace(XLSR_53)
XLS_R_1B = dataclasses.replace(XLSR_53, hidden_size=1280, num_hidden_layers=48, intermediate_size=5120)
XLS_R_2B = dataclasses.replace(XLSR_53, hidden_size=1920, num_hidden_layers=48, intermediate_size=7680)
# Small enough to learn six minutes of speech on a laptop, with frames of 40 ms: half the work, and a blank ratio that
# lets CTC leave its plateau of blanks in half the steps. No weights of it are published.
TINY = dataclasses.replace(
    _LARGE,
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
    conv_dim=(32, 48, 64, 64, 96, 128),
    conv_kernel=(10, 8, 4, 4, 2, 2),
    conv_stride=(5, 4, 4, 2, 2, 2),
    num_conv_pos_embeddings=32,
    num_conv_pos_embedding_groups=8,
)
CONFIGS = {
    "xlsr-53": XLSR_53,
    "xls-r-300m": XLS_R_300M,
    "xls-r-1b": XLS_R_1B,
    "xls-r-2b": XLS_R_2B,
    "mms-300m": XLS_R_300M,
    "mms-1b": XLS_R_1B,
    "mms-1b-all": dataclasses.replace(XLS_R_1B, adapter_attn_dim=16),
    "base": BASE,
    "large-lv60": LARGE_LV60,
    "tiny": TINY,
}
