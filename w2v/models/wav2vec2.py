"""wav2vec 2.0 (Baevski et al. 2020) and XLSR (Conneau et al. 2020), small parts first.

One file for the whole family: base (group norm, post-LayerNorm) and large/XLSR/XLS-R (layer norm, pre-LayerNorm).
Module and parameter names are transformers', so a published checkpoint loads name by name.

    model = Wav2Vec2ForCTC.from_pretrained("DIR")
    out = model(waveforms, waveform_lengths)      # out.logits (B, T, V), out.logit_lengths (B,)

Shapes: B batch, S samples, T frames, C convolution channels, D model width, H heads, V vocabulary.
Masks are boolean, True = real. A clip of n samples has floor((n - 400) / 320) + 1 frames of 20 ms in every published
model; `Wav2Vec2Config.hop` and `.receptive_field` give the two numbers of any other.
For layer-norm models a row's output does not depend on the rows it is batched with. The first norm of group-norm
(base) models runs over time, padding included: there the padded output matches transformers', not the lone clip's.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from w2v.errors import InputError
from w2v.kernels.attention import attention
from w2v.kernels.channels_last_conv import conv1d_channels_last
from w2v.kernels.dropout import Dropout
from w2v.kernels.grouped_conv import same_conv1d
from w2v.kernels.norm_gelu import norm_gelu
from w2v.masking import span_mask
from w2v.packing import Packing


@dataclass
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

    def __post_init__(self):
        self.conv_dim, self.conv_stride, self.conv_kernel = (
            tuple(self.conv_dim),
            tuple(self.conv_stride),
            tuple(self.conv_kernel),
        )
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel) > 0:
            raise InputError(
                "conv_dim, conv_stride and conv_kernel need one entry per layer, got "
                f"{len(self.conv_dim)}, {len(self.conv_stride)} and {len(self.conv_kernel)}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise InputError(
                "hidden_size must be a multiple of num_conv_pos_embedding_groups, got "
                f"{self.hidden_size} and {self.num_conv_pos_embedding_groups}"
            )
        if self.adapter_attn_dim is not None and not self.do_stable_layer_norm:
            raise InputError("adapters (adapter_attn_dim) need do_stable_layer_norm, as in every MMS model")
        if self.feat_extract_norm not in ("group", "layer"):
            raise InputError(f'feat_extract_norm must be "group" or "layer", got {self.feat_extract_norm!r}')
        for name in (
            "hidden_dropout",
            "activation_dropout",
            "attention_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
            "mask_time_prob",
            "mask_feature_prob",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} must be a probability between 0 and 1, got {getattr(self, name)}")

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320 (20 ms at 16 kHz) for every published model."""
        return math.prod(self.conv_stride)

    @property
    def can_pack(self) -> bool:
        """Whether clips may lie end to end: not where a norm runs over time, as the first of group-norm models does."""
        return self.feat_extract_norm == "layer"

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees, and the fewest a clip needs: 400 (25 ms) for every published model."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field


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
    "base": BASE,
    "large-lv60": LARGE_LV60,
    "tiny": TINY,
}


class ModelOutput(NamedTuple):
    last_hidden_state: Tensor  # (B, T, D)
    frame_lengths: Tensor  # (B,) real frames of each row


class CTCOutput(NamedTuple):
    logits: Tensor  # (B, T, V) float32, also under autocast
    logit_lengths: Tensor  # (B,) real frames of each row
    blank_id: int


class ConvLayer(nn.Module):
    """Convolution -> norm -> exact GELU, (B, S, C_in) -> (B, T, C_out)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, bias: bool, norm: str | None):
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, stride=stride, bias=bias)
        if norm == "layer":
            self.layer_norm = nn.LayerNorm(c_out)
        elif norm == "group":
            self.layer_norm = nn.GroupNorm(c_out, c_out)
        else:
            self.layer_norm = None

    def forward(self, x: Tensor) -> Tensor:
        x = conv1d_channels_last(x, self.conv.weight, self.conv.bias, self.conv.stride[0])
        if isinstance(self.layer_norm, nn.GroupNorm):
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        elif self.layer_norm is not None:
            return norm_gelu(x, self.layer_norm.weight, self.layer_norm.bias, self.layer_norm.eps)
        return F.gelu(x)


class FeatureEncoder(nn.Module):
    """Waveform (B, S) -> features (B, T, C), one frame every 20 ms."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.conv_layers = nn.ModuleList()
        c_in = 1
        for i, (c_out, kernel, stride) in enumerate(
            zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        ):
            norm = "layer" if config.feat_extract_norm == "layer" else ("group" if i == 0 else None)
            self.conv_layers.append(ConvLayer(c_in, c_out, kernel, stride, config.conv_bias, norm))
            c_in = c_out

    def forward(self, waveforms: Tensor) -> Tensor:
        x = waveforms[:, :, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """Features (B, T, C) -> (B, T, D)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.projection(self.layer_norm(features)))


class WeightNormConv(nn.Module):
    """Grouped Conv1d (B, D, T) -> (B, D, T) whose weight is directions times one norm per tap.

    Salimans & Kingma 2016, over dim 2. The parameters have the names that torch's parametrization gives them; torch's
    own takes seconds to set up on the meta device, where checkpoints are loaded.
    """

    def __init__(self, width: int, kernel: int, groups: int):
        super().__init__()
        self.groups = groups
        self.parametrizations = nn.ModuleDict()
        self.parametrizations["weight"] = nn.ParameterDict(
            {
                "original0": nn.Parameter(torch.empty(1, 1, kernel)),  # the norms
                "original1": nn.Parameter(torch.empty(width, width // groups, kernel)),  # the directions
            }
        )
        self.bias = nn.Parameter(torch.empty(width))

    @property
    def weight(self) -> Tensor:
        norms, directions = self.parametrizations["weight"].values()
        return directions * (norms / directions.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return same_conv1d(x, self.weight, self.bias, self.groups)


class PositionalConvEmbedding(nn.Module):
    """Relative positions from a wide grouped convolution: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.conv = WeightNormConv(
            config.hidden_size, config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
        )

    def forward(self, x: Tensor, packing: Packing | None) -> Tensor:
        if packing is not None:  # neighbours in the stream must not hear each other
            return packing.pack(self(packing.unpack(x), None))
        return F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, keys: Tensor | Packing | None) -> Tensor:
        """x (B, T, D) -> (B, T, D). keys: see w2v.kernels.attention."""
        q, k, v = (
            projection(x).unflatten(2, (self.num_heads, -1))  # (B, T, H, D / H)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = attention(q, k, v, keys, self.dropout if self.training else 0.0)
        return self.out_proj(x.flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_dropout(F.gelu(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))


class Adapter(nn.Module):
    """MMS's per-language bottleneck (Pratap et al. 2023): (B, T, D) -> (B, T, D), added to a layer's output."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear_1 = nn.Linear(config.hidden_size, config.adapter_attn_dim)
        self.linear_2 = nn.Linear(config.adapter_attn_dim, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.relu(self.linear_1(self.norm(x))))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual; LayerNorm before them (stable) or after (base)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.adapter_layer = Adapter(config) if config.adapter_attn_dim else None

    def forward(self, x: Tensor, keys: Tensor | Packing | None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.layer_norm(x), keys))
            x = x + self.feed_forward(self.final_layer_norm(x))
            return x if self.adapter_layer is None else x + self.adapter_layer(x)
        x = self.layer_norm(x + self.dropout(self.attention(x, keys)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """The transformer. LayerDrop (Fan et al. 2019) skips whole layers in training, one CPU draw per layer.

    layerdrop_generator: where its coins come from; None: torch's own generator.
    """

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.layerdrop = config.layerdrop
        self.norm_first = config.do_stable_layer_norm
        self.gradient_checkpointing = False
        self.layerdrop_generator: torch.Generator | None = None
        self.pos_conv_embed = PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, real: Tensor | Packing | None) -> Tensor:
        """x (B, T, D) -> (B, T, D). real: (B, T) which frames are, a stream's Packing, None where all are."""
        packing, keys = None, real
        if isinstance(real, Packing):
            packing = real
        elif real is not None:
            # Beyond its end a lone clip meets the convolution's zero padding; a padded one must meet the same.
            x = x.masked_fill(~real[:, :, None], 0.0)
            keys = real[:, None, None, :]
        x = x + self.pos_conv_embed(x, packing)
        if not self.norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)
        for layer in self.layers:
            # Drawn outside the checkpoint: its second forward pass must not toss the coin again.
            if self.training and torch.rand([], generator=self.layerdrop_generator) < self.layerdrop:
                continue
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, keys, use_reentrant=False)
            else:
                x = layer(x, keys)
        if self.norm_first:
            x = self.layer_norm(x)
        return x


class Wav2Vec2Model(nn.Module):
    """The body without a head. From scratch it is initialised as transformers does it."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Encoder(config)
        self.apply(lambda module: init_weights(module, config.initializer_range))

    @classmethod
    def from_pretrained(cls, path: str | Path, config: Wav2Vec2Config | None = None, **overrides) -> "Wav2Vec2Model":
        """The body of a checkpoint folder or .safetensors file; a head in it is left out. See Wav2Vec2ForCTC."""
        from w2v.weights.hf import load_model

        return load_model(cls, path, config, overrides)

    def frame_lengths(self, sample_lengths: Tensor) -> Tensor:
        """Samples of each clip -> frames the convolutions make of them."""
        return (sample_lengths - self.config.receptive_field) // self.config.hop + 1

    def forward(
        self,
        waveforms: Tensor,
        waveform_lengths: Tensor | None = None,
        packing: Packing | None = None,
        *,
        time_mask: Tensor | None = None,
        feature_mask: Tensor | None = None,
    ) -> ModelOutput:
        """waveforms (B, S) normalised float32, waveform_lengths (B,) real samples (None: all of them).

        packing: the clips lie end to end in one row, (1, S) -> (1, F, D) as w2v.packing describes.
        time_mask (B, T) and feature_mask (B, D), True = masked, replace the SpecAugment masks that training
        otherwise draws. Raises InputError for a clip shorter than the receptive field (400 samples).
        """
        if not torch.compiler.is_compiling():
            self._check_lengths(waveforms, waveform_lengths)
        features = self.feature_extractor(waveforms)  # (B, T, C)
        if packing is not None:
            features = features.index_select(1, packing.frames)  # (1, F, C)
        hidden = self.feature_projection(features)  # (B, T, D)
        batch, frames, _ = hidden.shape
        if packing is not None:
            frames, lengths, real = packing.longest, packing.frame_lengths, packing
        elif waveform_lengths is not None:
            lengths = self.frame_lengths(waveform_lengths.to(hidden.device))
            real = torch.arange(frames, device=hidden.device) < lengths[:, None]  # (B, T)
        else:
            lengths, real = torch.full((batch,), frames, device=hidden.device), None
        hidden = self._spec_augment(hidden, lengths, frames, packing, time_mask, feature_mask)
        return ModelOutput(self.encoder(hidden, real), lengths)

    def _check_lengths(self, waveforms: Tensor, waveform_lengths: Tensor | None) -> None:
        shortest = waveforms.shape[1]
        if waveform_lengths is not None and waveform_lengths.device.type == "cpu":  # on a GPU the look would stall it
            shortest = int(waveform_lengths.min())
        if shortest < self.config.receptive_field:
            raise InputError(
                f"a clip needs at least {self.config.receptive_field} samples for one frame, got {shortest}; "
                "drop clips that short"
            )

    def _spec_augment(
        self,
        hidden: Tensor,
        lengths: Tensor,
        frames: int,
        packing: Packing | None,
        time_mask: Tensor | None,
        feature_mask: Tensor | None,
    ) -> Tensor:
        config = self.config
        batch, width = lengths.shape[0], hidden.shape[2]  # len() would pin the batch of an exported graph
        if self.training and config.apply_spec_augment:
            if time_mask is None and config.mask_time_prob > 0:
                time_mask = span_mask(
                    lengths, frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
                )
            if feature_mask is None and config.mask_feature_prob > 0:
                feature_mask = span_mask(
                    torch.full((batch,), width, device=hidden.device),
                    width,
                    config.mask_feature_prob,
                    config.mask_feature_length,
                    config.mask_feature_min_masks,
                )
        if time_mask is not None:
            time_mask = time_mask if packing is None else packing.pack(time_mask)
            hidden = torch.where(time_mask[:, :, None], self.masked_spec_embed.to(hidden.dtype), hidden)
        if feature_mask is not None:
            feature_mask = feature_mask[:, None, :].expand(batch, frames, width)
            hidden = hidden.masked_fill(feature_mask if packing is None else packing.pack(feature_mask), 0.0)
        return hidden


class Wav2Vec2ForCTC(nn.Module):
    """The body with a character head."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2Model(config)
        self.dropout = Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        init_weights(self.lm_head, config.initializer_range)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        config: Wav2Vec2Config | None = None,
        *,
        new_head: bool = False,
        new_adapters: bool = False,
        **overrides,
    ) -> "Wav2Vec2ForCTC":
        """Load a checkpoint in transformers' layout: a folder, or a .safetensors file with config.json beside it.

        config: used instead of the folder's config.json. overrides: config fields to change (dropouts, masks,
        vocab_size with new_head). new_head, new_adapters: leave out those in the file and start fresh ones. Both
        spellings of the positional convolution's weight norm are read. Returns the model in evaluation mode.
        Raises InputError for unreadable files, another architecture, and for missing, unexpected or wrongly
        shaped tensors, by name.
        """
        from w2v.weights.hf import load_model

        return load_model(cls, path, config, overrides, new_head=new_head, new_adapters=new_adapters)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors in transformers' layout, each whole or not at all."""
        from w2v.weights.hf import save_model

        save_model(self, directory)

    def freeze_feature_encoder(self) -> None:
        """Stop training the convolutions, as every published recipe does; they then keep no activations either."""
        self.wav2vec2.feature_extractor.requires_grad_(False)

    def train_adapters_only(self) -> None:
        """MMS's recipe for a new language: the adapters and the head learn, the shared body rests."""
        if self.config.adapter_attn_dim is None:
            raise InputError(
                "only a model with adapters (adapter_attn_dim) can train them alone; use an MMS checkpoint"
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(".adapter_layer." in name or name.startswith("lm_head."))

    def load_adapter(self, file: str | Path) -> None:
        """Swap in a language's adapters and head from adapter.LANG.safetensors; the head takes the file's size.

        The tokenizer must be that language's too. Raises InputError for another width or missing tensors.
        """
        from w2v.weights.hf import load_adapter

        load_adapter(self, file)

    def save_adapter(self, file: str | Path) -> None:
        """Write the adapters and the head, as transformers' adapter.LANG.safetensors."""
        from w2v.weights.hf import save_adapter

        save_adapter(self, file)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute each transformer layer in the backward pass instead of keeping its activations."""
        self.wav2vec2.encoder.gradient_checkpointing = on

    def compile_layers(self, on: bool) -> None:
        """Fuse each transformer layer's small kernels with torch.compile, one graph for all layers and lengths.

        Layer by layer, so that LayerDrop and checkpointing stay outside, and it compiles once instead of 24 times.
        Worth its minute on a GPU; on a CPU it was slower than eager (docs/PERFORMANCE.md).
        """
        torch._dynamo.config.specialize_float = True  # lengths vary from batch to batch, probabilities do not
        for layer in self.wav2vec2.encoder.layers:
            layer._compiled_call_impl = None  # nn.Module.compile has no way back of its own
            if on:
                layer.compile(dynamic=True)

    def forward(self, waveforms, waveform_lengths: Tensor | None = None, **masks: Tensor | None) -> CTCOutput:
        """A w2v.Batch, padded or packed, or waveforms (B, S) and waveform_lengths (B,).

        masks: as in Wav2Vec2Model.forward. The logits are (B, T, V) for a packed batch too.
        """
        packing = None
        if not isinstance(waveforms, Tensor):
            batch = waveforms
            waveforms, waveform_lengths, packing = batch.waveforms, batch.waveform_lengths, batch.packing
        hidden, lengths = self.wav2vec2(waveforms, waveform_lengths, packing, **masks)
        logits = self.lm_head(self.dropout(hidden)).float()
        if packing is not None:
            logits = packing.unpack(logits)
        return CTCOutput(logits, lengths, self.config.pad_token_id)


@torch.no_grad()
def init_weights(module: nn.Module, spread: float) -> None:
    """Draw one module's weights as transformers does from scratch, for `module.apply`: children come before parents.

    spread: the config's initializer_range. Nothing is drawn on the meta device, where a checkpoint's tensors take the
    place.
    """
    if any(p.is_meta for p in module.parameters()):
        return
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=spread)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        module.reset_parameters()
    elif isinstance(module, ConvLayer):
        nn.init.kaiming_normal_(module.conv.weight)
        if module.conv.bias is not None:
            _init_uniform(module.conv.bias, module.conv.in_channels * module.conv.kernel_size[0])
    elif isinstance(module, FeatureProjection):
        _init_uniform(module.projection.weight, module.projection.in_features)
        _init_uniform(module.projection.bias, module.projection.in_features)
    elif isinstance(module, WeightNormConv):
        norms, directions = module.parametrizations["weight"].values()
        nn.init.normal_(directions, std=2 / math.sqrt(directions.shape[2] * len(directions)))
        norms.copy_(directions.norm(dim=(0, 1), keepdim=True))
        nn.init.zeros_(module.bias)
    elif isinstance(module, Wav2Vec2Model):
        nn.init.uniform_(module.masked_spec_embed)


def _init_uniform(tensor: Tensor, inputs: int) -> None:
    nn.init.uniform_(tensor, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
