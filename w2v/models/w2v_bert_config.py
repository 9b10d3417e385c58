"""W2V-BERT 2.0's config, the shapes with a name, and what a clip becomes for this family."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from w2v.answers import Batch, pad_labels
from w2v.audio import SAMPLE_RATE
from w2v.ctc import frames_needed
from w2v.errors import InputError, show
from w2v.features import HOP, PAIR_BINS, WINDOW, mel_pairs
from w2v.layout import Layout, Packed, Padded
from w2v.models import ctc_answers
from w2v.models.fields import LAYERS, LENGTH, MASK_RANGES, WIDTH, Count, check_fields, check_fixed, check_probabilities
from w2v.text.tokenizer import CharTokenizer
from w2v.weights.hf import PROCESSOR

PAIR = 2 * HOP  # samples from one row of features to the next: 20 ms
# Of the adapter, twelve times the published recipe's. A file need not hold one: only its config says what is allocated.
MOST_WEIGHTS = 3 * 10**8
ACTIVATIONS = ("swish", "silu", "gelu", "relu")  # swish and silu are one
# Settings whose other values would need code that is not here: refusing is better than computing something else.
FIXED = {"position_embeddings_type": "relative_key", "feature_projection_input_dim": 2 * PAIR_BINS}
FIXED_PROCESSOR = {
    "feature_extractor_type": "SeamlessM4TFeatureExtractor",
    "feature_size": PAIR_BINS,
    "num_mel_bins": PAIR_BINS,
    "sampling_rate": SAMPLE_RATE,
    "stride": 2,
    "padding_side": "right",
}
REMEDY = "use another checkpoint, or its own config.json and preprocessor_config.json"
RANGES: dict[str, tuple[float, float]] = {
    "vocab_size": (1, 10**6),
    "hidden_size": (1, WIDTH),
    "num_hidden_layers": (1, LAYERS),
    "num_attention_heads": (1, WIDTH),
    "intermediate_size": (1, WIDTH),
    "initializer_range": (0, 10),
    "layer_norm_eps": (0, 1),
    "left_max_position_embeddings": (0, LENGTH),
    "right_max_position_embeddings": (0, LENGTH),
    "conv_depthwise_kernel_size": (1, LENGTH),
    **MASK_RANGES,
    "adapter_kernel_size": (1, 100),
    "adapter_stride": (1, 100),
    "num_adapter_layers": (1, 10),
    "output_hidden_size": (1, WIDTH),
    "pad_token_id": (0, 10**6),
}


@dataclass(frozen=True)
class Wav2Vec2BertConfig:
    """Field names, meanings and defaults are transformers' Wav2Vec2BertConfig; they are facebook/w2v-bert-2.0's."""

    vocab_size: int = 32
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "swish"
    hidden_dropout: float = 0.0
    activation_dropout: float = 0.0
    attention_dropout: float = 0.0
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    conformer_conv_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    left_max_position_embeddings: int = 64  # keys further back than that are as far as that
    right_max_position_embeddings: int = 8
    conv_depthwise_kernel_size: int = 31
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    add_adapter: bool = False  # convolutions after the stack that halve the frames, from 20 to 40 ms
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 1
    adapter_act: str = "relu"
    use_intermediate_ffn_before_adapter: bool = False
    output_hidden_size: int | None = None  # the adapter's width; None: hidden_size
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    pad_token_id: int = 0  # also CTC's blank
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    padding_value: float = 1.0  # of transformers' batches; no output depends on it. In preprocessor_config.json

    def __post_init__(self) -> None:
        check_fields(self, RANGES)
        for name, width in (("hidden_size", self.hidden_size), ("output_hidden_size", self.output_width)):
            if width % self.num_attention_heads:
                raise InputError(
                    f"{name} must be a multiple of num_attention_heads, got {width} and {self.num_attention_heads}"
                )
        if self.conv_depthwise_kernel_size % 2 == 0:
            raise InputError(
                f"conv_depthwise_kernel_size must be odd, as transformers asks, got {self.conv_depthwise_kernel_size}"
            )
        if self.use_intermediate_ffn_before_adapter and not self.add_adapter:
            raise InputError("use_intermediate_ffn_before_adapter needs add_adapter")
        if self.add_adapter and self.hop > LENGTH:
            raise InputError(
                f"adapter_stride and num_adapter_layers must give frames of at most {LENGTH} samples, theirs are of "
                f"{show(self.hop)}"
            )
        if self.add_adapter and self._adapter_weights > MOST_WEIGHTS:
            raise InputError(
                "output_hidden_size, adapter_kernel_size and num_adapter_layers must give an adapter of at most "
                f"{MOST_WEIGHTS} weights, theirs has {self._adapter_weights}"
            )
        for name in ("hidden_act", "adapter_act"):
            if getattr(self, name) not in ACTIVATIONS:
                raise InputError(f"{name} must be one of {', '.join(ACTIVATIONS)}, got {show(getattr(self, name))}")
        check_probabilities(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "Wav2Vec2BertConfig":
        """The fields of transformers' config.json, and of preprocessor_config.json as hf.read_fields adds them.

        vocab_size null, as in the published model, is not known yet: it has no head. InputError naming a field that is
        broken or asks for a variant we do not have, or for another architecture.
        """
        if fields.get("model_type") != "wav2vec2-bert":
            raise InputError(
                f"the checkpoint's architecture must be wav2vec2-bert, config.json says "
                f"{show(fields.get('model_type'))}; use a W2V-BERT 2.0 checkpoint"
            )
        processor = fields.get(PROCESSOR, {})
        check_fixed("config.json", FIXED, fields, REMEDY)
        check_fixed(PROCESSOR, FIXED_PROCESSOR, processor, REMEDY)
        known = {field.name for field in dataclasses.fields(cls)} - {"padding_value"}
        given = {name: value for name, value in fields.items() if name in known}
        for name in ("vocab_size", "pad_token_id"):
            if name in given and given[name] is None:
                del given[name]
        try:
            config = cls(**given)
        except InputError as error:
            raise InputError(f"config.json: {error}; {REMEDY}") from None
        try:
            return dataclasses.replace(config, padding_value=processor.get("padding_value", 1.0))
        except InputError as error:
            raise InputError(f"{PROCESSOR}: {error}; {REMEDY}") from None

    def to_dict(self) -> dict:
        """The fields of transformers' config.json."""
        fields = dataclasses.asdict(self)
        del fields["padding_value"]  # see `processor`
        return {"model_type": "wav2vec2-bert"} | FIXED | fields | {"output_hidden_size": self.output_width}

    def processor(self) -> dict:
        """The fields of transformers' preprocessor_config.json."""
        return FIXED_PROCESSOR | {
            "processor_class": "Wav2Vec2BertProcessor",
            "padding_value": self.padding_value,
            "return_attention_mask": True,
        }

    pads = False  # no norm runs over time: clips lie end to end

    @property
    def output_width(self) -> int:
        """Of the adapter's frames."""
        return self.output_hidden_size or self.hidden_size

    @property
    def hop(self) -> int:
        """Samples from one frame of the logits to the next: 320 (20 ms at 16 kHz), or 640 with the adapter."""
        return PAIR * self.adapter_stride**self.num_adapter_layers if self.add_adapter else PAIR

    @property
    def shortest(self) -> int:
        """The fewest samples of a clip: 560 for one row of features, more where the adapter needs more rows."""
        rows = 1
        for _ in range(self.num_adapter_layers if self.add_adapter else 0):
            rows = max(1, (rows - 1) * self.adapter_stride + self.adapter_kernel_size - 2 * (self.adapter_stride // 2))
        return WINDOW + (2 * rows - 1) * HOP

    @property
    def _adapter_weights(self) -> int:
        """Of the adapter's matrices and convolutions."""
        width = self.output_width
        return self.num_adapter_layers * (
            4 * width**2 * (self.adapter_kernel_size + 1) + 2 * width * self.intermediate_size
        )

    def rows(self, samples: Count) -> Count:
        """Samples of a clip, or of each clip (B,), -> rows of features, each two mel frames of 10 ms."""
        return ((samples - WINDOW) // HOP + 1) // 2

    def shortened(self, frames: Count) -> Count:
        """Frames that go into one layer of the adapter -> frames that come out of it."""
        return (frames + 2 * (self.adapter_stride // 2) - self.adapter_kernel_size) // self.adapter_stride + 1

    def frames(self, samples: Count) -> Count:
        """Samples of a clip, or of each clip (B,), -> frames of its logits."""
        frames = self.rows(samples)
        for _ in range(self.num_adapter_layers if self.add_adapter else 0):
            frames = self.shortened(frames)
        return frames

    def cost(self, samples: int) -> float:
        """Seconds of work and memory that a clip stands for in a batch's budget: its own, with a quadratic term."""
        return ctc_answers.cost(samples)

    def why_not(self, samples: int, label_ids: list[int]) -> str | None:
        """Why the model cannot learn from a clip, or None where it can."""
        frames, needed = self.frames(samples), frames_needed(label_ids)
        if samples < self.shortest:
            return f"shorter than one frame: {samples} samples"
        if frames >= needed:
            return None
        if self.add_adapter and self.rows(samples) >= needed:
            return (
                f"too few frames of the length adapter for its text: CTC cannot align {needed} labels to {frames} "
                f"frames, without the adapter there are {self.rows(samples)}"
            )
        return f"too few frames for its text: CTC cannot align {needed} labels to {frames} frames"

    def collate(
        self,
        waveforms: list[np.ndarray],
        labels: list[list[int]] | None = None,
        names: list[str] | None = None,
        pad: bool = False,
    ) -> Batch:
        """int16 or float32 waveforms (samples,) at 16 kHz -> Batch of mel pairs, the clips end to end (1, F, 160).

        Each clip's mel bins are normalised over the clip. pad: rows of the longest clip's length instead, (B, T, 160),
        zeros after a clip's end. Without labels every clip has none. InputError for a clip shorter than 560 samples.
        """
        samples = [len(waveform) for waveform in waveforms]
        self.check_length(min(samples))
        features = [mel_pairs(waveform) for waveform in waveforms]
        sizes = [len(rows) for rows in features]
        if pad:
            layout: Layout = Padded.of(torch.tensor(sizes), max(sizes))
            inputs = pad_sequence(features, batch_first=True)
        else:
            layout = Packed.of([0, *accumulate(sizes)][:-1], sizes)
            inputs = torch.cat(features)[None]
        label_rows, label_lengths = pad_labels(labels or [[] for _ in waveforms])
        weights = [1.0] * len(waveforms)  # CTC: every clip counts alike, whatever its length
        return Batch(inputs, layout, samples, label_rows, label_lengths, weights, names or [""] * len(waveforms))

    def for_vocabulary(self, tokenizer: CharTokenizer, labels: Sequence[list[int]] = ()) -> dict:
        """The fields that a vocabulary decides: the head's size, CTC's blank. labels: not asked."""
        return ctc_answers.fields_of_vocabulary(tokenizer)

    def check_vocabulary(self, tokenizer: CharTokenizer, directory: str | Path) -> None:
        """InputError where the head and the vocabulary of a folder do not belong together."""
        ctc_answers.check_vocabulary(self, tokenizer, directory)

    def check_length(self, samples: int) -> None:
        """InputError for a clip without a row of features, or too short for the adapter."""
        if samples < self.shortest:
            raise InputError(
                f"a clip needs at least {self.shortest} samples for one frame, got {samples}; drop clips that short"
            )


W2V_BERT_2 = Wav2Vec2BertConfig()
# Small enough to learn six minutes of speech on a laptop. No weights of it are published.
W2V_BERT_TINY = dataclasses.replace(
    W2V_BERT_2, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, add_adapter=True
)


# As many weights as fit 8 MB in half precision: recipes/w2v-mini is one of these, pretrained.
W2V_MINI = dataclasses.replace(
    W2V_BERT_2, hidden_size=192, num_hidden_layers=5, num_attention_heads=4, intermediate_size=384, add_adapter=True
)
CONFIGS = {"w2v-bert-2.0": W2V_BERT_2, "w2v-bert-tiny": W2V_BERT_TINY, "w2v-mini": W2V_MINI}
