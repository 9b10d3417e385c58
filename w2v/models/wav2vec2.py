"""wav2vec 2.0 (Baevski et al. 2020) and XLSR (Conneau et al. 2020), from small parts to large ones.

One file for the whole family: base (group norm, post-LayerNorm) and large-lv60/XLSR/XLS-R/MMS (layer norm,
pre-LayerNorm). Module and parameter names are transformers'; w2v.weights.wav2vec2 knows their older spellings.

    model = Wav2Vec2ForCTC.from_pretrained("DIR")
    out = model(waveforms, waveform_lengths)      # out.logits (B, T, V), out.logit_lengths (B,)

Shapes: B batch, S samples, T frames, C convolution channels, D model width, H heads, V vocabulary.
(R, N): the frames of a batch as its layout has them (w2v.layout). Padded: (B, T), one row per clip. Packed: (1, F), the
real frames of all clips end to end in one row. Three calls go between them:
    layout.select(x)      # what the convolutions made -> (R, N, ...): frames that span two packed clips are left out
    layout.rows(x)        # (R, N, ...) -> (B, T, ...), one row per clip, zeros after its end
    layout.stream(rows)   # back to (R, N, ...)
SpecAugment's masks are boolean, True = masked. A clip of n samples has floor((n - 400) / 320) + 1 frames of 20 ms in
every published model; `Wav2Vec2Config.hop` and `.receptive_field` give the two numbers of any other.
In layer-norm models a clip's output does not depend on the clips it is batched with. In group-norm (base) models the
first norm runs over time, padding included: their padded output equals transformers', not that of the clip alone.
Modules hold the parameters; functions of w2v.kernels compute with them where they are faster than the modules.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from w2v.answers import Batch, DecodeOptions, Emissions, HiddenStates, Hypothesis, Losses, Parts
from w2v.audio import SAMPLE_RATE
from w2v.decoding.ctc import decode
from w2v.errors import InputError
from w2v.kernels.attention import attention
from w2v.kernels.channels_last_conv import conv1d_channels_last
from w2v.kernels.device import is_traced
from w2v.kernels.dropout import Dropout
from w2v.kernels.grouped_conv import same_conv1d
from w2v.kernels.linear import Linear, joined_linear
from w2v.kernels.norm_gelu import norm_gelu
from w2v.layout import Layout, Padded
from w2v.masking import apply_masks, draw_masks
from w2v.models import ctc_answers
from w2v.models.ctc_answers import CTCOutput, ModelOutput
from w2v.models.stack import LayerStack
from w2v.models.wav2vec2_config import Wav2Vec2Config
from w2v.text.tokenizer import CharTokenizer
from w2v.weights import adapters, hf
from w2v.weights import wav2vec2 as naming


class ConvLayer(nn.Module):
    """Convolution -> norm -> exact GELU, (B, S, C_in) -> (B, T, C_out)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, bias: bool, norm: str | None):
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, stride=stride, bias=bias)
        if norm == "layer":
            self.layer_norm: nn.LayerNorm | nn.GroupNorm | None = nn.LayerNorm(c_out)
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
    """Features (R, N, C) -> (R, N, D)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.projection(self.layer_norm(features)))


class WeightNormConv(nn.Module):
    """Grouped Conv1d (B, D, T) -> (B, D, T); its weight is normalised directions times one norm per tap.

    Salimans & Kingma 2016, over dim 2. The parameters have the names that torch's parametrization gives them; torch's
    parametrization itself takes seconds to set up on the meta device, where checkpoints are loaded.
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
        norms, directions = self.parametrizations["weight"].parameters()
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

    def forward(self, rows: Tensor) -> Tensor:
        return F.gelu(self.conv(rows.transpose(1, 2))).transpose(1, 2)


class Attention(nn.Module):
    """Each clip's frames attend to one another: (R, N, D) -> (R, N, D)."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_p = config.attention_dropout
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            each.unflatten(2, (self.num_heads, -1))  # (R, N, H, D / H)
            for each in joined_linear(x, (self.q_proj, self.k_proj, self.v_proj))
        )
        x = attention(q, k, v, layout, self.dropout_p if self.training else 0.0)
        return self.out_proj(x.flatten(2))


class FeedForward(nn.Module):
    """(R, N, D) -> (R, N, D), each frame by itself."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.intermediate_dense = Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_dropout(F.gelu(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))


class Adapter(nn.Module):
    """MMS's per-language bottleneck (Pratap et al. 2023): (R, N, D) -> (R, N, D), added to a layer's output."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        assert config.adapter_attn_dim is not None  # there are adapters
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear_1 = Linear(config.hidden_size, config.adapter_attn_dim)
        self.linear_2 = Linear(config.adapter_attn_dim, config.hidden_size)

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

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.layer_norm(x), layout))
            x = x + self.feed_forward(self.final_layer_norm(x))
            return x if self.adapter_layer is None else x + self.adapter_layer(x)
        x = self.layer_norm(x + self.dropout(self.attention(x, layout)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    """The transformer."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = LayerStack((EncoderLayer(config) for _ in range(config.num_hidden_layers)), config.layerdrop)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x (R, N, D) -> (R, N, D)."""
        x = x + layout.stream(self.pos_conv_embed(layout.rows(x)))
        if not self.norm_first:
            x = self.layer_norm(x)
        x = self.layers(self.dropout(x), layout)
        return self.layer_norm(x) if self.norm_first else x


class Wav2Vec2Model(nn.Module):
    """The body without a head. From scratch it is initialised as transformers does it."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Encoder(config)
        self.apply(lambda module: init_weights(module, config))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, config: Wav2Vec2Config | None = None, **overrides: Any
    ) -> "Wav2Vec2Model":
        """The body of a checkpoint folder or .safetensors file; a head in it is left out. See Wav2Vec2ForCTC."""
        config = hf.override(config or Wav2Vec2Config.from_dict(hf.read_fields(path)), overrides)
        tensors = naming.body_names(hf.read_tensors(path))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(naming.HEAD)}
        return hf.build(cls, config, tensors, path, init_weights, optional=(naming.MASK_EMBEDDING,))

    def forward(
        self, waveforms: Tensor | Batch, waveform_lengths: Tensor | None = None, **masks: Tensor | None
    ) -> ModelOutput:
        """A w2v.Batch, or waveforms (B, S) and waveform_lengths (B,) in samples; None: every sample is real.

        Waveforms are float32 at 16 kHz, each clip of zero mean and unit variance (w2v.normalise), zeros after its end.
        masks: see `encode`. Raises InputError for a clip shorter than the receptive field (400 samples), unless its
        length lies on a GPU.
        """
        inputs, layout = self.lay_out(waveforms, waveform_lengths)
        return ModelOutput(layout.rows(self.encode(inputs, layout, **masks)), layout.lengths)

    def lay_out(self, waveforms: Tensor | Batch, waveform_lengths: Tensor | None) -> tuple[Tensor, Layout]:
        """What `forward` takes, of either kind -> waveforms, and where their frames lie."""
        if isinstance(waveforms, Batch):
            return waveforms.inputs, waveforms.layout
        if not is_traced():
            self.config.check_length(waveforms.shape[1])
            if waveform_lengths is not None and not waveform_lengths.is_cuda:  # to read a GPU's numbers is to wait
                self.config.check_length(int(waveform_lengths.min()))
        if waveform_lengths is None:
            waveform_lengths = torch.full((waveforms.shape[0],), waveforms.shape[1], device=waveforms.device)
        lengths = self.config.frames(waveform_lengths.to(waveforms.device))
        return waveforms, Padded.of(lengths, self.config.frames(waveforms.shape[1]))

    def encode(
        self, waveforms: Tensor, layout: Layout, time_mask: Tensor | None = None, feature_mask: Tensor | None = None
    ) -> Tensor:
        """Waveforms, padded (B, S) or packed (1, S), -> hidden states (R, N, D).

        time_mask (B, T) and feature_mask (B, D), True = masked, replace the SpecAugment masks that training draws.
        """
        features = layout.select(self.feature_extractor(waveforms))  # (R, N, C)
        hidden = self.feature_projection(features)  # (R, N, D)
        if self.training and self.config.apply_spec_augment:
            drawn_time_mask, drawn_feature_mask = draw_masks(layout, hidden.shape[2], self.config)
            time_mask = drawn_time_mask if time_mask is None else time_mask
            feature_mask = drawn_feature_mask if feature_mask is None else feature_mask
        hidden = apply_masks(hidden, layout, self.masked_spec_embed, time_mask, feature_mask)
        return self.encoder(hidden, layout)

    def hidden_states(self, batch: Batch) -> HiddenStates:
        """What each layer gives; the last one after the final norm, as in transformers 4 (its 5 has it before)."""
        with self.encoder.layers.recording() as states:
            states[-1:] = [self.encode(batch.inputs, batch.layout)]
        layers = [batch.layout.rows(x) for x in states]
        return HiddenStates(layers, batch.layout.lengths, self.config.hop / SAMPLE_RATE)


class Wav2Vec2ForCTC(nn.Module):
    """The body with a character head."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.config = config
        self.wav2vec2 = Wav2Vec2Model(config)
        self.dropout = Dropout(config.final_dropout)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        init_weights(self.lm_head, config)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        config: Wav2Vec2Config | None = None,
        *,
        new_head: bool = False,
        new_adapters: bool = False,
        **overrides: Any,
    ) -> "Wav2Vec2ForCTC":
        """Load a checkpoint in transformers' layout: a folder, or a .safetensors file with config.json beside it.

        config: used instead of the folder's config.json. overrides: config fields to change (dropouts, masks,
        vocab_size with new_head). new_head, new_adapters: leave out those in the file and start fresh ones. Both
        spellings of the positional convolution's weight norm are read. Returns the model in evaluation mode.
        Raises InputError for unreadable files, another architecture, and for missing, unexpected or wrongly
        shaped tensors, by name.
        """
        config = hf.override(config or Wav2Vec2Config.from_dict(hf.read_fields(path)), overrides)
        tensors = naming.model_names(hf.read_tensors(path))
        fresh = (naming.HEAD,) * new_head + (naming.ADAPTER,) * new_adapters
        return hf.build(cls, config, tensors, path, init_weights, fresh, (naming.MASK_EMBEDDING,))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json in transformers' layout."""
        fields = self.config.to_dict() | {"architectures": [type(self).__name__]}
        hf.save(directory, self.state_dict(), fields, self.config.processor())

    @property
    def parts(self) -> Parts:
        body, encoder = self.wav2vec2, self.wav2vec2.encoder
        below = (body.feature_extractor, body.feature_projection, body.masked_spec_embed, encoder.pos_conv_embed)
        norm = () if encoder.norm_first else (encoder.layer_norm,)
        return Parts(self.lm_head, (body.feature_extractor,), (encoder.layers,), body, below + norm)

    def train_adapters_only(self) -> None:
        """MMS's recipe for a new language: the adapters and the head learn, the shared body is frozen."""
        if self.config.adapter_attn_dim is None:
            raise InputError(
                "only a model with adapters (adapter_attn_dim) can train them alone; use an MMS checkpoint"
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(naming.ADAPTER in name or name.startswith(naming.HEAD))

    def load_adapter(self, file: str | Path) -> None:
        """Swap in a language's adapters and head from adapter.LANG.safetensors; the head gets the file's size.

        The tokenizer must be that language's too. Raises InputError for another width or missing tensors.
        """
        tensors = adapters.read(file, self.state_dict())
        size = len(tensors[naming.HEAD + "bias"])
        if size != self.config.vocab_size:
            self.config = self.wav2vec2.config = dataclasses.replace(self.config, vocab_size=size)
            self.lm_head = Linear(self.config.hidden_size, size, device=self.lm_head.weight.device).train(self.training)
        self.load_state_dict(tensors, strict=False)  # the rest is the shared body

    def save_adapter(self, file: str | Path) -> None:
        """Write the adapters and the head, as transformers' adapter.LANG.safetensors."""
        adapters.write(file, self.state_dict())

    def forward(
        self, waveforms: Tensor | Batch, waveform_lengths: Tensor | None = None, **masks: Tensor | None
    ) -> CTCOutput:
        """As in Wav2Vec2Model.forward. The logits are (B, T, V) for a packed batch too."""
        inputs, layout = self.wav2vec2.lay_out(waveforms, waveform_lengths)
        hidden = self.wav2vec2.encode(inputs, layout, **masks)  # (R, N, D)
        logits = layout.rows(self.lm_head(self.dropout(hidden)).float())  # (B, T, V)
        return CTCOutput(logits, layout.lengths, self.config.pad_token_id, self.config.ctc_zero_infinity)

    def losses(self, batch: Batch) -> Losses:
        """Each clip's CTC loss divided by its number of labels, and counts for the log."""
        return ctc_answers.losses(self(batch), batch)

    def hidden_states(self, batch: Batch) -> HiddenStates:
        return self.wav2vec2.hidden_states(batch)

    def emissions(self, batch: Batch) -> Emissions:
        """Log-probabilities of the tokens in each frame. A group-norm model takes each clip alone, without padding."""
        if not self.config.pads:
            logits = self(batch).logits
        else:
            alone = [self(row[None, :n]).logits[0] for row, n in zip(batch.inputs, batch.samples, strict=True)]
            logits = pad_sequence(alone, batch_first=True)
        return Emissions(logits.log_softmax(-1), batch.layout.lengths, self.config.hop / SAMPLE_RATE)

    def decode(self, batch: Batch, tokenizer: CharTokenizer, options: DecodeOptions) -> list[Hypothesis]:
        """The text of the likeliest token of each frame, or what a search finds; see w2v.decoding.ctc."""
        return decode(self.emissions(batch), tokenizer, options)


@torch.no_grad()
def init_weights(module: nn.Module, config: Wav2Vec2Config) -> None:
    """Draw one module's weights as transformers does from scratch, for `module.apply`: children come before parents.

    Nothing is drawn on the meta device: a checkpoint fills such tensors later.
    """
    if any(p.is_meta for p in module.parameters()):
        return
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=config.initializer_range)
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
        norms, directions = module.parametrizations["weight"].parameters()
        nn.init.normal_(directions, std=2 / math.sqrt(directions.shape[2] * len(directions)))
        norms.copy_(directions.norm(dim=(0, 1), keepdim=True))
        nn.init.zeros_(module.bias)
    elif isinstance(module, Wav2Vec2Model):
        nn.init.uniform_(module.masked_spec_embed)


def _init_uniform(tensor: Tensor, inputs: int) -> None:
    nn.init.uniform_(tensor, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
