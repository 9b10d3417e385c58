"""Whisper (Radford et al. 2022), from small parts to large ones.

One file for all sizes, tiny to large-v3-turbo. Module and parameter names are transformers'.

    model = WhisperForConditionalGeneration.from_pretrained("DIR")
    batch = model.config.collate(waveforms, labels)
    logits = model(batch)                         # (B, U, V), each label's from the tokens before it
    texts = model.decode(batch, tokenizer, DecodeOptions())

Shapes: B clips, M mel bins, N mel frames (3000), T positions of the encoder (1500, of 20 ms), U tokens, D model width,
H heads, V vocabulary. R rows of tokens: K sequences of each clip, R = B x K.
The encoder hears a window of 30 s, padding included: a clip's output does not depend on the clips it is batched with.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.answers import Batch, DecodeOptions, HiddenStates, Hypothesis, Losses, Parts
from w2v.audio import SAMPLE_RATE
from w2v.decoding import seq2seq
from w2v.kernels.device import on_gpu
from w2v.kernels.dropout import Dropout
from w2v.kernels.linear import Linear, linear
from w2v.layout import Layout
from w2v.masking import draw_masks
from w2v.models.stack import LayerStack
from w2v.models.whisper_config import WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.weights import hf
from w2v.weights import whisper as naming
from w2v.weights.whisper_generation import heads_for_times

ROW = 8  # tokens; on a GPU the decoder reads a multiple of them


class Attention(nn.Module):
    """Tokens or positions (R, U, D) attend to keys and values of B rows: (R, U, D)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout_p = heads, dropout
        self.k_proj = Linear(width, width, bias=False)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> two of (B, H, T, D / H)."""
        return self._by_head(self.k_proj(x), len(x)), self._by_head(self.v_proj(x), len(x))

    def queries(self, x: Tensor, rows: int) -> Tensor:
        """(R, U, D) -> (B, H, K x U, D / H): the K sequences of a clip ask side by side. rows: B."""
        return self._by_head(self.q_proj(x), rows)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, is_causal: bool = False) -> Tensor:
        queries, dropout = self.queries(x, len(keys)), self.dropout_p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, None, dropout, is_causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))

    def _by_head(self, x: Tensor, rows: int) -> Tensor:
        return x.reshape(rows, -1, self.heads, x.shape[2] // self.heads).transpose(1, 2)


class LayerCache:
    """What one decoder layer keeps of a window and of the tokens so far."""

    def __init__(self, cross: tuple[Tensor, Tensor]):
        self.cross = cross  # keys and values of the window, (B, H, T, D / H)
        self.keys = self.values = cross[0].new_empty(0, 0, 0, 0)  # of tokens, (R, H, room, D / H)
        self.length = 0  # tokens

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens' (R, H, U, D / H) -> those of all tokens. Room doubles, so that few steps copy."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            room = (*keys.shape[:2], max(32, 2 * end), keys.shape[3])
            old, self.keys, self.values = (self.keys, self.values), keys.new_empty(room), values.new_empty(room)
            if self.length:
                self.keys[:, :, : self.length] = old[0][:, :, : self.length]
                self.values[:, :, : self.length] = old[1][:, :, : self.length]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: Tensor, clips: Tensor | None) -> None:
        """Go on with these rows of tokens, in this order. clips: and these windows; None: all of them."""
        if clips is not None:
            self.cross = (self.cross[0][clips], self.cross[1][clips])
        used = max(1, self.length)
        self.keys, self.values = self.keys[rows, :, :used], self.values[rows, :, :used]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a LayerNorm and with a residual: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.self_attn = Attention(config.d_model, config.encoder_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.dropout, self.activation_dropout = Dropout(config.dropout), Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        heard = self.self_attn_layer_norm(x)
        x = x + self.dropout(self.self_attn(heard, *self.self_attn.keys_values(heard)))
        inner = self.activation_dropout(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class DecoderLayer(nn.Module):
    """Self-attention over earlier tokens, cross-attention on the window, feed-forward: (R, U, D) -> (R, U, D)."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.self_attn = Attention(config.d_model, config.decoder_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = Attention(config.d_model, config.decoder_attention_heads, config.attention_dropout)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = Linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.dropout, self.activation_dropout = Dropout(config.dropout), Dropout(config.activation_dropout)

    def forward(self, x: Tensor, heard: Tensor | LayerCache) -> Tensor:
        """heard: the encoder's output (B, T, D), or a cache with what was made of it and of earlier tokens. Several
        tokens at once are each other's past only where the cache is empty."""
        own = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.keys_values(own)
        if isinstance(heard, LayerCache):
            keys, values = heard.extend(keys, values)
        x = x + self.dropout(self.self_attn(own, keys, values, is_causal=x.shape[1] > 1))
        cross = heard.cross if isinstance(heard, LayerCache) else self.encoder_attn.keys_values(heard)
        x = x + self.dropout(self.encoder_attn(self.encoder_attn_layer_norm(x), *cross))
        inner = self.activation_dropout(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class Sinusoids(nn.Module):
    """Fixed positions: half sines, half cosines. Published models hold them rounded to fp16; theirs are loaded."""

    weight: Tensor

    def __init__(self, positions: int, width: int):
        super().__init__()
        rates = torch.exp(-math.log(10_000) / (width // 2 - 1 or 1) * torch.arange(width // 2))
        angles = torch.arange(positions)[:, None] * rates
        self.register_buffer("weight", torch.cat([angles.sin(), angles.cos()], dim=1))  # (T, D)


class Encoder(nn.Module):
    """Log-mel spectrograms (B, M, N) -> (B, T, D), T = N / 2."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.embed_positions = Sinusoids(config.max_source_positions, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.layers = LayerStack((EncoderLayer(config) for _ in range(config.encoder_layers)), config.encoder_layerdrop)
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # (B, T, D)
        x = x + self.embed_positions.weight[: x.shape[1]]
        return self.layer_norm(self.layers(self.dropout(x)))


class Decoder(nn.Module):
    """Tokens (R, U) and the encoder's output -> (R, U, D)."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_target_positions, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.layers = LayerStack((DecoderLayer(config) for _ in range(config.decoder_layers)), config.decoder_layerdrop)
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, tokens: Tensor, heard: Tensor) -> Tensor:
        return self.layer_norm(self.layers(self.dropout(self.embed(tokens, 0)), heard))

    @property
    def cross_attentions(self) -> list[Attention]:
        return [layer.encoder_attn for layer in self.layers if isinstance(layer, DecoderLayer)]

    def embed(self, tokens: Tensor, first: int) -> Tensor:
        """first: the position of the first token."""
        return self.embed_tokens(tokens) + self.embed_positions.weight[first : first + tokens.shape[1]]

    def step(self, tokens: Tensor, cache: list[LayerCache]) -> Tensor:
        """The next tokens (R, U) after those in the cache, which takes them in -> (R, U, D)."""
        x = self.embed(tokens, cache[0].length)
        for layer, of_layer in zip(self.layers, cache, strict=True):
            x = layer(x, of_layer)
        return self.layer_norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V), float32: the embedding is also the head."""
        return linear(x, self.embed_tokens.weight, training=self.training).float()


class WhisperModel(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)


class WhisperForConditionalGeneration(nn.Module):
    """Encoder and decoder with a head that is the decoder's embedding."""

    emissions = None  # a generated text has no frame posteriors

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.config = config
        self.model = WhisperModel(config)
        self.apply(lambda module: init_weights(module, config))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, config: WhisperConfig | None = None, *, new_head: bool = False, **overrides: Any
    ) -> "WhisperForConditionalGeneration":
        """Load a checkpoint in transformers' layout: a folder, or a .safetensors file with config.json beside it.

        config: used instead of the folder's config.json. overrides: config fields to change. new_head: leave out the
        token embedding in the file and start a fresh one. Returns the model in evaluation mode, in fp32.
        Raises InputError for unreadable files, another architecture, and for missing, unexpected or wrongly shaped
        tensors, by name.
        """
        config = hf.override(config or WhisperConfig.from_dict(hf.read_fields(path)), overrides)
        tensors = naming.model_names(hf.read_tensors(path))
        return hf.build(cls, config, tensors, path, init_weights, ("embed_tokens.",) * new_head)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json, model.safetensors, preprocessor_config.json and generation_config.json."""
        config, fields = self.config, self.config.to_dict()
        generation = config.generation.to_dict() | {"max_length": config.max_target_positions}
        for name in ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"):
            generation[name] = fields[name]
        fields["architectures"] = [type(self).__name__]
        hf.save(directory, self.state_dict(), fields, config.processor(), generation)

    @property
    def parts(self) -> Parts:
        encoder, decoder = self.model.encoder, self.model.decoder
        return Parts(decoder, (), (encoder.layers, decoder.layers), encoder, (encoder.conv1, encoder.conv2))

    def forward(self, inputs: Tensor | Batch, tokens: Tensor | None = None) -> Tensor:
        """Log-mel spectrograms (B, M, N) and tokens (B, U), or a w2v.Batch and its labels, -> logits (B, U, V) float32.

        Position u has the logits of the token after tokens[:, : u + 1].
        """
        mel = inputs.inputs if isinstance(inputs, Batch) else inputs
        if tokens is None:
            assert isinstance(inputs, Batch)
            tokens = self.shift_right(inputs.labels)
        return self.model.decoder.logits(self.model.decoder(tokens, self.model.encoder(mel)))

    def shift_right(self, labels: Tensor) -> Tensor:
        """Labels (B, U) -> what the decoder reads while it is to write them: the start token, and all but the last."""
        return F.pad(labels[:, :-1], (1, 0), value=self.config.decoder_start_token_id)

    def losses(self, batch: Batch) -> Losses:
        """The cross-entropy of each clip's labels, summed, and counts for the log."""
        assert batch.written is not None  # there are labels
        heard = batch.heard
        if heard is None:
            heard = self.model.encoder(self.masked(batch.inputs, batch.layout))
        tokens, longest = self.shift_right(batch.labels), batch.labels.shape[1]
        if on_gpu(tokens):  # rows of other lengths would be other graphs; no token looks at what comes behind it
            more = min(-longest % ROW, self.config.max_target_positions - longest)
            tokens = F.pad(tokens, (0, more), value=self.config.pad_token_id)
        hidden = self.model.decoder(tokens, heard)[:, :longest]  # (B, U, D)
        places = batch.written.slots  # of the F labels of all clips: padding needs no logits
        logits = self.model.decoder.logits(hidden.flatten(0, 1)[places])  # (F, V)
        by_label = F.cross_entropy(logits, batch.labels.flatten()[places], reduction="none")  # (F,)
        return Losses(batch.written.rows(by_label[None]).sum(dim=1), {"labels": batch.label_lengths.sum()})

    def masked(self, mel: Tensor, layout: Layout) -> Tensor:
        """SpecAugment in training: masked frames and bins of (B, M, N) are 0, as in transformers."""
        if not (self.training and self.config.apply_spec_augment):
            return mel
        time_mask, bin_mask = draw_masks(layout, mel.shape[1], self.config)  # (B, N), (B, M)
        if time_mask is not None:
            mel = mel.masked_fill(time_mask[:, None, :], 0.0)
        return mel if bin_mask is None else mel.masked_fill(bin_mask[:, :, None], 0.0)

    def hear(self, batch: Batch) -> Tensor:
        """The encoder's output (B, T, D), without masks."""
        return self.model.encoder(batch.inputs) if batch.heard is None else batch.heard

    def hidden_states(self, batch: Batch) -> HiddenStates:
        """What each layer of the encoder gives, the last one after the norm. Windows are computed to their end."""
        with self.model.encoder.layers.recording() as states:
            states[-1:] = [self.model.encoder(batch.inputs)]
        lengths = self.config.frames(torch.tensor(batch.samples, device=batch.inputs.device))
        return HiddenStates(states, lengths, self.config.hop / SAMPLE_RATE)

    def start(self, heard: Tensor) -> list[LayerCache]:
        """The encoder's output (B, T, D) -> a cache for writing: each layer's keys and values of the windows."""
        return [LayerCache(attention.keys_values(heard)) for attention in self.model.decoder.cross_attentions]

    def read(self, tokens: Tensor, cache: list[LayerCache]) -> Tensor:
        """The next tokens (R, U) -> (R, U, D). The cache takes them in; several at once only where it is empty."""
        return self.model.decoder.step(tokens, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """What `read` gave (..., D) -> the logits (..., V) of the token that comes next."""
        return self.model.decoder.logits(hidden)

    def looks(self, tokens: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """One window's tokens (1, U) and encoder output (1, T, D) -> where they look; hidden states (1, U, D).

        The former are the logits (A, U, T) of cross-attention in the heads that follow the speech; see heads_for_times.
        """
        attentions, seen = self.model.decoder.cross_attentions, []
        config = self.config
        heads = heads_for_times(
            config.generation.alignment_heads, config.decoder_layers, config.decoder_attention_heads
        )
        hooks = [each.register_forward_pre_hook(lambda _, args: seen.append(args)) for each in attentions]
        try:
            hidden = self.model.decoder(tokens, heard)
        finally:
            for hook in hooks:
                hook.remove()
        logits = []
        for layer, head in heads:
            x, keys, _ = seen[layer]
            queries = attentions[layer].queries(x, 1)[0, head]  # (U, D / H)
            logits.append(queries @ keys[0, head].T / math.sqrt(keys.shape[3]))
        return torch.stack(logits), hidden

    def decode(self, batch: Batch, tokenizer: WhisperTokenizer, options: DecodeOptions) -> list[Hypothesis]:
        """The text that is written for each clip; see w2v.decoding.seq2seq."""
        return seq2seq.decode(self, batch, tokenizer, options)


@torch.no_grad()
def init_weights(module: nn.Module, config: WhisperConfig) -> None:
    """Draw one module's weights as transformers does from scratch. Nothing is drawn on the meta device."""
    if any(p.is_meta for p in module.parameters()):
        return
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.normal_(module.weight, std=config.init_std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=config.init_std)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
