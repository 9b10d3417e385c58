"""Whisper's config, the shapes with a name, and what a clip becomes for this family."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2v.answers import Batch, pad_labels
from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError, show
from w2v.features import HOP, WINDOW, log_mel
from w2v.layout import Packed, Padded
from w2v.models.fields import LAYERS, LENGTH, MASK_RANGES, WIDTH, Count, check_fields, check_fixed
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.weights.hf import GENERATION, PROCESSOR
from w2v.weights.whisper_generation import alignment_heads

# Settings whose other values would need code that is not here.
FIXED = {
    "activation_function": "gelu",
    "scale_embedding": False,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}
FIXED_PROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "sampling_rate": SAMPLE_RATE,
    "hop_length": HOP,
    "n_fft": WINDOW,
    "padding_value": 0.0,
    "padding_side": "right",
    "dither": 0.0,
}
REMEDY = "use another checkpoint, or its own config.json, generation_config.json and preprocessor_config.json"
POSITION = 2 * HOP  # samples: the encoder's second convolution has stride 2
TOKEN = (0, 10**6)
RANGES: dict[str, tuple[float, float]] = {
    "vocab_size": (1, 10**6),
    "num_mel_bins": (1, 1000),
    "d_model": (2, WIDTH),
    "encoder_layers": (1, LAYERS),
    "decoder_layers": (1, LAYERS),
    "encoder_attention_heads": (1, WIDTH),
    "decoder_attention_heads": (1, WIDTH),
    "encoder_ffn_dim": (1, WIDTH),
    "decoder_ffn_dim": (1, WIDTH),
    "max_source_positions": (1, LENGTH),
    "max_target_positions": (8, LENGTH),
    "dropout": (0, 0.999),
    "attention_dropout": (0, 0.999),
    "activation_dropout": (0, 0.999),
    "encoder_layerdrop": (0, 1),
    "decoder_layerdrop": (0, 1),
    "init_std": (0, 10),
    "mask_time_prob": (0, 1),
    "mask_feature_prob": (0, 1),
    **MASK_RANGES,
    **dict.fromkeys(("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id"), TOKEN),
}


@dataclass(frozen=True)
class Generation:
    """What generation_config.json says of generating text. Its other fields are kept as they are, in `others`."""

    suppress_tokens: tuple[int, ...] = ()  # never written
    begin_suppress_tokens: tuple[int, ...] = ()  # never written first
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) whose cross-attention follows the speech
    max_initial_timestamp_index: int = 50  # in steps of 20 ms
    language: str | None = None  # of a model fine-tuned for one
    task: str | None = None
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: dict) -> "Generation":
        """InputError naming a field that is broken. forced_decoder_ids is dropped: language and task replace it."""
        known = {f.name for f in dataclasses.fields(cls)} - {"others"}
        given = {name: value for name, value in fields.items() if name in known and value is not None}
        others = {name: value for name, value in fields.items() if name not in known | {"forced_decoder_ids"}}
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            given[name] = tuple(_numbers(given.get(name, ()), name, least=-1))  # -1 stands for none
        given["alignment_heads"] = tuple(
            _pair(pair) for pair in _list(given.get("alignment_heads", ()), "alignment_heads")
        )
        index = given.get("max_initial_timestamp_index", 50)
        given["max_initial_timestamp_index"] = _numbers([index], "max_initial_timestamp_index")[0]
        for name in ("language", "task"):
            if not isinstance(given.get(name), str | None):
                raise InputError(f"{GENERATION}: {name} must be text or null, got {show(given[name])}; {REMEDY}")
        return cls(**given, others=others)

    def to_dict(self) -> dict:
        """The fields of generation_config.json."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "others"}
        return self.others | {name: value for name, value in fields.items() if value is not None}


def _list(value: object, name: str) -> list | tuple:
    if not isinstance(value, list | tuple):
        raise InputError(f"{GENERATION}: {name} must be a list, got {show(value)}; {REMEDY}")
    return value


def _numbers(value: object, name: str, least: int = 0) -> list | tuple:
    numbers = _list(value, name)
    for item in numbers:
        if type(item) is not int or not least <= item <= TOKEN[1]:
            raise InputError(
                f"{GENERATION}: {name} must hold whole numbers from {least} on, got {show(item)}; {REMEDY}"
            )
    return numbers


def _pair(value: object) -> tuple[int, int]:
    numbers = tuple(_numbers(value, "alignment_heads"))
    if len(numbers) != 2:
        raise InputError(
            f"{GENERATION}: alignment_heads must hold pairs of layer and head, got {show(value)}; {REMEDY}"
        )
    return numbers


@dataclass(frozen=True)
class WhisperConfig:
    """Field names, meanings and defaults are transformers' WhisperConfig; `generation` is generation_config.json."""

    vocab_size: int = 51865
    num_mel_bins: int = 80
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    encoder_ffn_dim: int = 1536
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    decoder_start_token_id: int = 50257
    d_model: int = 384
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    max_source_positions: int = 1500  # of 20 ms
    max_target_positions: int = 448
    pad_token_id: int = 50256
    bos_token_id: int = 50256
    eos_token_id: int = 50256
    apply_spec_augment: bool = False
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    generation: Generation = field(default_factory=Generation)
    cut_windows: bool = False  # windows as long as the batch's longest clip, not 30 s; no published model has learnt so

    def __post_init__(self) -> None:
        check_fields(self, RANGES, unchecked=("generation",))
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                raise InputError(
                    f"d_model must be a multiple of {side}_attention_heads, got {self.d_model} and {heads}"
                )
        if self.d_model % 2:
            raise InputError(f"d_model must be even, got {self.d_model}: positions are sines and cosines")
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise InputError(f"{name} must be below vocab_size, {self.vocab_size}, got {getattr(self, name)}")
        for layer, head in self.generation.alignment_heads:
            if not (0 <= layer < self.decoder_layers and 0 <= head < self.decoder_attention_heads):
                raise InputError(
                    f"alignment_heads must be of {self.decoder_layers} decoder layers with "
                    f"{self.decoder_attention_heads} heads, got layer {layer} and head {head}"
                )

    @classmethod
    def from_dict(cls, fields: dict) -> "WhisperConfig":
        """The fields of config.json, and of the two files beside it as hf.read_fields adds them.

        InputError naming a field that is broken or asks for a variant we do not have, or for another architecture.
        """
        if fields.get("model_type") != "whisper":
            raise InputError(
                f"the checkpoint's architecture must be whisper, config.json says {show(fields.get('model_type'))}; "
                "use a Whisper checkpoint"
            )
        processor = fields.get(PROCESSOR, {})
        check_fixed("config.json", FIXED, fields, REMEDY)
        check_fixed(PROCESSOR, FIXED_PROCESSOR, processor, REMEDY)
        generation = fields.get(GENERATION)
        if generation is None:  # a folder of before transformers 4.27 has these in config.json
            old = ("suppress_tokens", "begin_suppress_tokens")
            generation = {name: fields[name] for name in old if name in fields}
        known = {f.name for f in dataclasses.fields(cls)} - {"generation", "cut_windows"}
        given = {name: value for name, value in fields.items() if name in known and value is not None}
        try:
            config = cls(**given)
            if not generation.get("alignment_heads"):
                generation = generation | {"alignment_heads": alignment_heads(config.to_dict())}
        except InputError as error:
            raise InputError(f"config.json: {error}; {REMEDY}") from None
        told = Generation.from_dict(generation)
        try:
            config = dataclasses.replace(config, generation=told)
        except InputError as error:
            raise InputError(f"{GENERATION}: {error}; {REMEDY}") from None
        if processor.get("feature_size", config.num_mel_bins) != config.num_mel_bins:
            raise InputError(
                f"{PROCESSOR}: feature_size must be num_mel_bins, {config.num_mel_bins}, "
                f"got {show(processor['feature_size'])}; {REMEDY}"
            )
        return config

    def to_dict(self) -> dict:
        """The fields of transformers' config.json. What is said of generating stands in generation_config.json."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["generation"], fields["cut_windows"]
        return {"model_type": "whisper"} | FIXED | fields

    def processor(self) -> dict:
        """The fields of transformers' preprocessor_config.json."""
        return FIXED_PROCESSOR | {
            "processor_class": "WhisperProcessor",
            "feature_size": self.num_mel_bins,
            "chunk_length": self.window // SAMPLE_RATE,
            "n_samples": self.window,
            "nb_max_frames": self.window // HOP,
            "return_attention_mask": False,
        }

    hop = POSITION
    pads = True  # every clip is a window of its own

    @property
    def window(self) -> int:
        """Samples that the model hears at once: 30 s."""
        return self.max_source_positions * POSITION

    def frames(self, samples: Count) -> Count:
        """Samples of a clip, or of each clip (B,), -> encoder positions, of 20 ms, that they reach into."""
        return -(-samples // POSITION)

    def cost(self, samples: int) -> float:
        """Seconds of work that a clip stands for in a batch's budget: those of its window."""
        return (samples if self.cut_windows else self.window) / SAMPLE_RATE

    def why_not(self, samples: int, label_ids: list[int]) -> str | None:
        """Why the model cannot learn from a clip, or None where it can."""
        if samples < 1:
            return "no samples"
        if samples > self.window:
            return f"longer than a window of {self.window / SAMPLE_RATE:g} s: {samples / SAMPLE_RATE:.2f} s"
        if len(label_ids) > self.max_target_positions:
            return f"too long a text: {len(label_ids)} tokens, the model has {self.max_target_positions} positions"
        return None

    def collate(
        self, waveforms: list[np.ndarray], labels: list[list[int]] | None = None, names: list[str] | None = None
    ) -> Batch:
        """int16 or float32 waveforms (samples,) at 16 kHz of at most 30 s -> Batch of log-mel spectrograms (B, M, N).

        labels: of each clip, WhisperTokenizer.encode's. A clip weighs as many as its labels: the loss is a mean over
        tokens. InputError for a longer waveform, which would lose its end.
        """
        samples = [len(waveform) for waveform in waveforms]
        if max(samples) > self.window:
            raise InputError(
                f"a window holds {self.window / SAMPLE_RATE:g} s, got a waveform of {max(samples) / SAMPLE_RATE:.2f}; "
                "cut it, or leave it out"
            )
        length = max(POSITION * self.frames(max(samples)), POSITION) if self.cut_windows else self.window
        inputs = torch.stack([log_mel(waveform, self.num_mel_bins, length) for waveform in waveforms])
        frames = torch.tensor([-(-n // HOP) for n in samples])
        layout, names = Padded.of(frames, length // HOP), names or [""] * len(waveforms)
        label_rows, label_lengths = pad_labels(labels or [[] for _ in waveforms])
        sizes = label_lengths.tolist()
        starts = [row * label_rows.shape[1] for row in range(len(sizes))]
        written = Packed.of(starts, sizes) if labels else None
        return Batch(inputs, layout, samples, label_rows, label_lengths, [float(n) for n in sizes], names, written)

    def for_vocabulary(self, tokenizer: WhisperTokenizer, labels: Sequence[list[int]] = ()) -> dict:
        """The fields that a vocabulary and its language decide, and the labels of the training clips.

        Text tokens that the labels hold are suppressed no longer: the published lists forbid quotes and brackets.
        """
        ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.eos_id)
        tasks = {"translate": tokenizer.translate_id, "transcribe": tokenizer.transcribe_id}
        others = self.generation.others | {
            "is_multilingual": tokenizer.is_multilingual,
            "no_timestamps_token_id": tokenizer.no_timestamps_id,
            "prev_sot_token_id": tokenizer.prev_id,
        }
        if tokenizer.is_multilingual:  # transformers looks languages and tasks up in these
            others["lang_to_id"] = {f"<|{code}|>": i for code, i in tokenizer.language_ids.items()}
            others["task_to_id"] = tasks
        language, task = (tokenizer.language, tokenizer.task) if tokenizer.is_multilingual else (None, None)
        written = {i for ids in labels for i in ids if i < tokenizer.eos_id}
        never = tuple(i for i in self.generation.suppress_tokens if i not in written)
        generation = dataclasses.replace(
            self.generation, language=language, task=task, suppress_tokens=never, others=others
        )
        size = len(tokenizer)
        return {"vocab_size": size, "decoder_start_token_id": tokenizer.sot_id, "generation": generation, **ends}

    def check_vocabulary(self, tokenizer: WhisperTokenizer, directory: str | Path) -> None:
        """InputError where the embedding and the vocabulary of a folder do not belong together."""
        for name, wanted in (
            ("vocab_size", len(tokenizer)),
            ("decoder_start_token_id", tokenizer.sot_id),
            ("eos_token_id", tokenizer.eos_id),
        ):
            if getattr(self, name) != wanted:
                raise InputError(
                    f"{name} and the vocabulary of {directory} must agree, got {getattr(self, name)} and {wanted}; use "
                    "the vocabulary that the model was trained with"
                )


ENGLISH, MORE = 51864, 51866  # sizes of vocabularies: without languages, and with Cantonese


def _published(size: tuple[int, int, int, int], vocabulary: int = 51865, mels: int = 80) -> WhisperConfig:
    """size: encoder and decoder layers, width, heads."""
    encoder, decoder, width, heads = size
    end = 50256 if vocabulary == ENGLISH else 50257
    return WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        encoder_layers=encoder,
        decoder_layers=decoder,
        d_model=width,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        decoder_start_token_id=end + 1,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
    )


SIZES = {"tiny": (4, 4, 384, 6), "base": (6, 6, 512, 8), "small": (12, 12, 768, 12), "medium": (24, 24, 1024, 16)}
LARGE, TURBO = (32, 32, 1280, 20), (32, 4, 1280, 20)
CONFIGS = {
    **{f"whisper-{name}": _published(size) for name, size in SIZES.items()},
    **{f"whisper-{name}.en": _published(size, ENGLISH) for name, size in SIZES.items()},
    "whisper-large": _published(LARGE),
    "whisper-large-v2": _published(LARGE),
    "whisper-large-v3": _published(LARGE, MORE, mels=128),
    "whisper-large-v3-turbo": _published(TURBO, MORE, mels=128),
}
