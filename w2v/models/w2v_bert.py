"""W2V-BERT 2.0 (Seamless Communication 2023), a conformer (Gulati et al. 2020), from small parts to large ones.

Module and parameter names are transformers'.

    model = Wav2Vec2BertForCTC.from_pretrained("DIR")
    out = model(model.config.collate(waveforms))  # out.logits (B, T, V), out.logit_lengths (B,)

Shapes: B batch, T frames, D model width, H heads, V vocabulary; (R, N) the frames of a batch as its layout has them,
padded (B, T) or packed (1, F): see w2v.layout and w2v.models.wav2vec2. A frame is a row of features, two mel frames of
10 ms; after the adapter it is 40 ms.
A clip's output does not depend on the clips it is batched with. transformers differs from that and from its own output
for a lone clip in three places, where this file does not follow it: it zeroes no padded frames before the adapter's
convolutions, its LayerDrop drops the adapter too, and its features of a clip of one mel frame are NaN.
Attention and everything that is computed frame by frame see no padding in a packed batch; the depthwise convolutions, a
thousandth of the arithmetic, and the adapter, one layer after 24, work on padded rows.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.answers import Batch, DecodeOptions, Emissions, HiddenStates, Hypothesis, Losses, Parts
from w2v.audio import SAMPLE_RATE
from w2v.decoding.ctc import decode
from w2v.errors import InputError
from w2v.features import PAIR_BINS
from w2v.kernels.attention import attention
from w2v.kernels.device import is_traced, on_gpu
from w2v.kernels.dropout import Dropout
from w2v.kernels.linear import Linear, joined_linear, linear
from w2v.kernels.relative_attention import relative_attention
from w2v.layout import Layout, Padded
from w2v.masking import apply_masks, draw_masks
from w2v.models import ctc_answers
from w2v.models.ctc_answers import CTCOutput, ModelOutput
from w2v.models.stack import LayerStack
from w2v.models.w2v_bert_config import PAIR, Wav2Vec2BertConfig
from w2v.text.tokenizer import CharTokenizer
from w2v.weights import hf
from w2v.weights import w2v_bert as naming

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "gelu": F.gelu, "relu": F.relu}


class FeatureProjection(nn.Module):
    """Features (R, N, 160) -> (R, N, D)."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        features = 2 * PAIR_BINS
        self.layer_norm = nn.LayerNorm(features, eps=config.layer_norm_eps)
        self.projection = Linear(features, config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.projection(self.layer_norm(features)))


class FeedForward(nn.Module):
    """(R, N, D) -> (R, N, D), each frame by itself."""

    def __init__(self, config: Wav2Vec2BertConfig, width: int, activation: str):
        super().__init__()
        self.intermediate_dense = Linear(width, config.intermediate_size)
        self.activation = ACTIVATIONS[activation]
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = Linear(config.intermediate_size, width)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.intermediate_dropout(self.activation(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(x))


class Attention(nn.Module):
    """Each clip's frames attend to one another: (R, N, D) -> (R, N, D). In the stack they know distances."""

    def __init__(self, config: Wav2Vec2BertConfig, width: int, knows_distances: bool):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_p = config.attention_dropout
        self.left = config.left_max_position_embeddings
        self.linear_q = Linear(width, width)
        self.linear_k = Linear(width, width)
        self.linear_v = Linear(width, width)
        self.linear_out = Linear(width, width)
        distances = self.left + config.right_max_position_embeddings + 1
        self.distance_embedding = nn.Embedding(distances, width // self.num_heads) if knows_distances else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        q, k, v = (
            each.unflatten(2, (self.num_heads, -1))  # (R, N, H, D / H)
            for each in joined_linear(x, (self.linear_q, self.linear_k, self.linear_v))
        )
        dropout = self.dropout_p if self.training else 0.0
        if self.distance_embedding is None:
            x = attention(q, k, v, layout, dropout)
        else:
            x = relative_attention(q, k, v, self.distance_embedding.weight, self.left, layout, dropout)
        return self.linear_out(x.flatten(2))


class ConvolutionModule(nn.Module):
    """Each channel looks back over 31 frames, between gated and plain maps of a frame: (R, N, D) -> (R, N, D)."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        width, self.kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(width, width, self.kernel, groups=width, bias=False)
        self.depthwise_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=False)
        self.dropout = Dropout(config.conformer_conv_dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = F.glu(linear(self.layer_norm(x), self.pointwise_conv1.weight.squeeze(2), training=self.training))
        before = F.pad(layout.rows(x).transpose(1, 2), (self.kernel - 1, 0))  # (B, D, 30 + T): causal
        x = layout.stream(self.depthwise_conv(before).transpose(1, 2))
        x = self.activation(self.depthwise_layer_norm(x))
        return self.dropout(linear(x, self.pointwise_conv2.weight.squeeze(2), training=self.training))


class EncoderLayer(nn.Module):
    """A conformer layer: half a feed-forward, attention, convolution, the other half, each with a residual."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn1 = FeedForward(config, width, config.hidden_act)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.self_attn = Attention(config, width, knows_distances=True)
        self.self_attn_dropout = Dropout(config.attention_dropout)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn2 = FeedForward(config, width, config.hidden_act)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = torch.add(x, self.ffn1(self.ffn1_layer_norm(x)), alpha=0.5)
        x = x + self.self_attn_dropout(self.self_attn(self.self_attn_layer_norm(x), layout))
        x = x + self.conv_module(x, layout)
        x = torch.add(x, self.ffn2(self.ffn2_layer_norm(x)), alpha=0.5)
        return self.final_layer_norm(x)


class Encoder(nn.Module):
    """The conformer. No positions are added and no norm stands around the stack."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = LayerStack((EncoderLayer(config) for _ in range(config.num_hidden_layers)), config.layerdrop)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x (R, N, D) -> (R, N, D)."""
        # A layer ends in a norm, which autocast on a GPU computes in fp32. So does the first one's input begin: another
        # type would be another graph.
        x = self.dropout(x)
        in_fp32 = on_gpu(x) and torch.is_autocast_enabled(x.device.type)
        return self.layers(x.float() if in_fp32 else x, layout)


class AdapterLayer(nn.Module):
    """Two gated convolutions of stride 2, then a transformer layer without positions on one of them."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        width, eps = config.output_width, config.layer_norm_eps
        sizes = (width, 2 * width, config.adapter_kernel_size, config.adapter_stride, config.adapter_stride // 2)
        self.shortened = config.shortened
        self.residual_layer_norm = nn.LayerNorm(width, eps=eps)
        self.residual_conv = nn.Conv1d(*sizes)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.self_attn_conv = nn.Conv1d(*sizes)
        self.self_attn = Attention(config, width, knows_distances=False)
        self.self_attn_dropout = Dropout(config.conformer_conv_dropout)  # as transformers has it
        self.ffn_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn = FeedForward(config, width, config.adapter_act)

    def forward(self, rows: Tensor, layout: Padded) -> tuple[Tensor, Padded]:
        """rows (B, T, D), one per clip -> (B, T', D) and where its frames lie."""
        residual = self._shorten(self.residual_layer_norm(rows), self.residual_conv, layout)
        x = self._shorten(self.self_attn_layer_norm(rows), self.self_attn_conv, layout)
        layout = Padded.of(self.shortened(layout.lengths), x.shape[1])
        x = residual + self.self_attn_dropout(self.self_attn(x, layout))
        return x + self.ffn(self.ffn_layer_norm(x)), layout

    def _shorten(self, rows: Tensor, conv: nn.Conv1d, layout: Padded) -> Tensor:
        """A norm makes something of a padded frame: only zeros there are what a lone clip meets."""
        return F.glu(conv(layout.rows(rows).transpose(1, 2)), dim=1).transpose(1, 2)


class Adapter(nn.Module):
    """Frames of 20 ms -> frames of 40 ms, for CTC: rows (B, T, D) and their layout -> the same of fewer frames."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        self.proj = self.proj_layer_norm = None
        if config.output_width != config.hidden_size:
            self.proj = Linear(config.hidden_size, config.output_width)
            self.proj_layer_norm = nn.LayerNorm(config.output_width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(AdapterLayer(config) for _ in range(config.num_adapter_layers))

    def forward(self, rows: Tensor, layout: Padded) -> tuple[Tensor, Padded]:
        if self.proj is not None and self.proj_layer_norm is not None:
            rows = self.proj_layer_norm(self.proj(rows))
        for layer in self.layers:
            rows, layout = layer(rows, layout)
        return rows, layout


class Wav2Vec2BertModel(nn.Module):
    """The body without a head. From scratch it is initialised as transformers does it."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        self.config = config
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Encoder(config)
        self.adapter = Adapter(config) if config.add_adapter else None
        self.intermediate_ffn = None
        if config.use_intermediate_ffn_before_adapter:
            self.intermediate_ffn = FeedForward(config, config.hidden_size, "relu")
        self.apply(lambda module: init_weights(module, config))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, config: Wav2Vec2BertConfig | None = None, **overrides: Any
    ) -> "Wav2Vec2BertModel":
        """The body of a checkpoint folder or .safetensors file; a head in it is left out. See Wav2Vec2BertForCTC."""
        config = hf.override(config or Wav2Vec2BertConfig.from_dict(hf.read_fields(path)), overrides)
        tensors = naming.body_names(hf.read_tensors(path))
        return hf.build(cls, config, tensors, path, init_weights, optional=(naming.MASK_EMBEDDING,))

    def forward(self, features: Tensor | Batch, lengths: Tensor | None = None, **masks: Tensor | None) -> ModelOutput:
        """A w2v.Batch, or features (B, T, 160) and lengths (B,) in rows of features; None: every row is real.

        Features are w2v.features.mel_pairs'. masks: see `encode`.
        """
        inputs, layout = lay_out(features, lengths)
        rows, layout = self.encode(inputs, layout, **masks)
        return ModelOutput(rows, layout.lengths)

    def encode(
        self, features: Tensor, layout: Layout, time_mask: Tensor | None = None, feature_mask: Tensor | None = None
    ) -> tuple[Tensor, Padded]:
        """Features, padded (B, T, 160) or packed (1, F, 160), -> hidden states (B, T, D), and where their frames lie.

        time_mask (B, T) and feature_mask (B, D), True = masked, replace the SpecAugment masks that training draws.
        """
        x = self.feature_projection(features)  # (R, N, D)
        if self.training and self.config.apply_spec_augment:
            drawn_time_mask, drawn_feature_mask = draw_masks(layout, x.shape[2], self.config)
            time_mask = drawn_time_mask if time_mask is None else time_mask
            feature_mask = drawn_feature_mask if feature_mask is None else feature_mask
        x = apply_masks(x, layout, self.masked_spec_embed, time_mask, feature_mask)
        x = self.encoder(x, layout)
        if self.intermediate_ffn is not None:
            x = torch.add(x, self.intermediate_ffn(x), alpha=0.5)
        rows, layout = layout.rows(x), Padded.of(layout.lengths, layout.longest)
        return (rows, layout) if self.adapter is None else self.adapter(rows, layout)

    def hidden_states(self, batch: Batch) -> HiddenStates:
        """What each layer of the conformer gives, frames of 20 ms; what stands behind the layers is left out."""
        with self.encoder.layers.recording() as states:
            self.encode(batch.inputs, batch.layout)
        layers = [batch.layout.rows(x) for x in states]
        return HiddenStates(layers, batch.layout.lengths, PAIR / SAMPLE_RATE)


class Wav2Vec2BertForCTC(nn.Module):
    """The body with a character head."""

    def __init__(self, config: Wav2Vec2BertConfig):
        super().__init__()
        self.config = config
        self.wav2vec2_bert = Wav2Vec2BertModel(config)
        self.dropout = Dropout(config.final_dropout)
        self.lm_head = Linear(config.output_width if config.add_adapter else config.hidden_size, config.vocab_size)
        init_weights(self.lm_head, config)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, config: Wav2Vec2BertConfig | None = None, *, new_head: bool = False, **overrides: Any
    ) -> "Wav2Vec2BertForCTC":
        """Load a checkpoint in transformers' layout: a folder, or a .safetensors file with config.json beside it.

        config: used instead of the folder's config.json. overrides: config fields to change (dropouts, masks,
        vocab_size and add_adapter with new_head). new_head: leave out the head in the file and start a fresh one; a
        fresh adapter too, where the file has none. Returns the model in evaluation mode. Raises InputError for
        unreadable files, another architecture, and for missing, unexpected or wrongly shaped tensors, by name.
        """
        config = hf.override(config or Wav2Vec2BertConfig.from_dict(hf.read_fields(path)), overrides)
        tensors = naming.model_names(hf.read_tensors(path))
        fresh: tuple[str, ...] = ()
        optional: tuple[str, ...] = (naming.MASK_EMBEDDING,)
        if new_head:
            fresh = (naming.HEAD,) if config.add_adapter else (naming.HEAD, *naming.ADAPTER)
            optional += naming.ADAPTER
        return hf.build(cls, config, tensors, path, init_weights, fresh, optional)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json in transformers' layout."""
        fields = self.config.to_dict() | {"architectures": [type(self).__name__]}
        hf.save(directory, self.state_dict(), fields, self.config.processor())

    @property
    def parts(self) -> Parts:
        body = self.wav2vec2_bert
        return Parts(self.lm_head, (), (body.encoder.layers,), body, (body.feature_projection, body.masked_spec_embed))

    def forward(self, features: Tensor | Batch, lengths: Tensor | None = None, **masks: Tensor | None) -> CTCOutput:
        """As in Wav2Vec2BertModel.forward. The logits are (B, T, V) for a packed batch too."""
        inputs, layout = lay_out(features, lengths)
        rows, layout = self.wav2vec2_bert.encode(inputs, layout, **masks)
        logits = layout.rows(self.lm_head(self.dropout(rows)).float())  # (B, T, V)
        return CTCOutput(logits, layout.lengths, self.config.pad_token_id, self.config.ctc_zero_infinity)

    def losses(self, batch: Batch) -> Losses:
        """Each clip's CTC loss divided by its number of labels, and counts for the log."""
        return ctc_answers.losses(self(batch), batch)

    def hidden_states(self, batch: Batch) -> HiddenStates:
        return self.wav2vec2_bert.hidden_states(batch)

    def emissions(self, batch: Batch) -> Emissions:
        """Log-probabilities of the tokens in each frame."""
        out = self(batch)
        return Emissions(out.logits.log_softmax(-1), out.logit_lengths, self.config.hop / SAMPLE_RATE)

    def decode(self, batch: Batch, tokenizer: CharTokenizer, options: DecodeOptions) -> list[Hypothesis]:
        """The text of the likeliest token of each frame, or what a search finds; see w2v.decoding.ctc."""
        return decode(self.emissions(batch), tokenizer, options)


def lay_out(features: Tensor | Batch, lengths: Tensor | None) -> tuple[Tensor, Layout]:
    """What `forward` takes, of either kind -> features, and where their frames lie."""
    if isinstance(features, Batch):
        return features.inputs, features.layout
    if lengths is None:
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
    elif not is_traced() and not lengths.is_cuda and int(lengths.min()) < 1:  # to read a GPU's numbers is to wait
        raise InputError("a clip needs at least one row of features, got a length of 0; drop clips that short")
    return features, Padded.of(lengths.to(features.device), features.shape[1])


@torch.no_grad()
def init_weights(module: nn.Module, config: Wav2Vec2BertConfig) -> None:
    """Draw one module's weights as transformers does from scratch, for `module.apply`: children come before parents.

    Nothing is drawn on the meta device: a checkpoint fills such tensors later.
    """
    if any(p.is_meta for p in module.parameters()):
        return
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=config.initializer_range)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=config.initializer_range)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, nn.Conv1d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            _init_uniform(module.bias, module.in_channels * module.kernel_size[0])
    elif isinstance(module, FeatureProjection):
        _init_uniform(module.projection.weight, module.projection.in_features)
        _init_uniform(module.projection.bias, module.projection.in_features)
    elif isinstance(module, Wav2Vec2BertModel):
        nn.init.uniform_(module.masked_spec_embed)


def _init_uniform(tensor: Tensor, inputs: int) -> None:
    nn.init.uniform_(tensor, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
