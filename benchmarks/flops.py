"""Floating-point operations by each model's definition, two per multiply-add: what a step cannot do without.

Matrix products and convolutions only, on the clip's own frames: neither padding, nor what checkpointing computes twice,
nor how an implementation gets around some of it (a convolution through Fourier transforms counts in full).

Shapes: a Product's are in benchmarks/products.py.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from benchmarks.products import Product
from w2v.models.w2v_bert_config import Wav2Vec2BertConfig
from w2v.models.wav2vec2_config import Wav2Vec2Config
from w2v.models.whisper_config import WhisperConfig


def batch_flops(
    config: Any, samples: list[int], labels: list[int], layers: int, trains: bool, encoder_trained: bool = False
) -> int | None:
    """Of a batch by each clip's samples and labels: forward, and backward where it trains.

    layers: how many LayerDrop left. encoder_trained: wav2vec 2.0's convolutions too. None where it is not known: a
    Whisper that writes decides itself how much.
    """
    if isinstance(config, Wav2Vec2Config):
        return sum(wav2vec2_flops(config, n, layers, encoder_trained, trains) for n in samples)
    if isinstance(config, Wav2Vec2BertConfig):
        left = replace(config, num_hidden_layers=layers)
        return flops_of(w2v_bert_products(left, [config.rows(n) for n in samples], trains))
    return flops_of(whisper_products(config, labels, "trained")) if trains else None


def flops_of(products: Iterable[Product]) -> int:
    return sum(2 * p.times * p.at_once * p.rows * p.inner * p.columns * (1 + p.gradients) for p in products)


def wav2vec2_flops(
    config: Wav2Vec2Config, samples: int, layers: int, encoder_trained: bool, trains: bool = True
) -> int:
    """Of one clip, as torch's FlopCounterMode counts a plain implementation."""
    frames, channels, convolutions = samples, 1, []
    for c_out, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        convolutions.append(2 * frames * c_out * channels * kernel)
        channels = c_out
    width, per_group = config.hidden_size, config.hidden_size // config.num_conv_pos_embedding_groups
    projection = 2 * frames * channels * width
    positions = 2 * frames * width * per_group * config.num_conv_pos_embeddings
    attention = 2 * (4 * frames * width**2 + 2 * frames**2 * width)
    feed_forward = 2 * 2 * frames * width * config.intermediate_size
    head = 2 * frames * width * config.vocab_size
    body = projection + positions + layers * (attention + feed_forward) + head
    if not trains:
        return sum(convolutions) + body
    # The backward pass is two products for each of the forward pass; the waveform alone needs no gradient.
    encoder = 3 * sum(convolutions) - convolutions[0] if encoder_trained else sum(convolutions)
    return encoder + 3 * body


def w2v_bert_products(config: Wav2Vec2BertConfig, lengths: Iterable[int], trains: bool) -> list[Product]:
    """Of W2V-BERT without its adapter, pointwise convolutions among them, the depthwise ones not: a thousandth.

    lengths: rows of features of each clip.
    """
    lengths, layers, inner, gradients = list(lengths), config.num_hidden_layers, config.intermediate_size, 2 * trains
    rows, heads, width = sum(lengths), config.num_attention_heads, config.hidden_size
    depth = width // heads
    found = [
        Product(2 * layers, 1, rows, width, inner, gradients),
        Product(2 * layers, 1, rows, inner, width, gradients),
        Product(4 * layers + layers, 1, rows, width, width, gradients),  # attention's, and the last pointwise
        Product(layers, 1, rows, width, 2 * width, gradients),
        Product(1, 1, rows, 160, width, gradients),  # behind a norm that trains
        Product(1, 1, rows, width, config.vocab_size, gradients),
    ]
    distances = config.left_max_position_embeddings + config.right_max_position_embeddings + 1
    for length in lengths:
        found += [
            Product(layers, heads, length, depth, length, gradients),
            Product(layers, heads, length, length, depth, gradients),
            Product(layers, 1, heads * length, depth, distances, gradients),
        ]
    return found


def whisper_products(config: WhisperConfig, lengths: list[int], way: str) -> list[Product]:
    """Of Whisper, convolutions as products: padding of labels is none.

    lengths: labels of each clip. way: trained, frozen (the encoder's forward pass only), or kept (none of the encoder).
    """
    clips, labels, positions, width = len(lengths), sum(lengths), config.max_source_positions, config.d_model
    heard, found, two = clips * positions, [], 2 if way == "trained" else 0
    if way != "kept":
        layers, heads, inner = config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim
        depth = width // heads
        found += [
            Product(1, 1, 2 * heard, 3 * config.num_mel_bins, width, two // 2),  # the spectrogram needs no gradient
            Product(1, 1, heard, 3 * width, width, two),
            Product(4 * layers, 1, heard, width, width, two),
            Product(clips * layers, heads, positions, depth, positions, two),
            Product(clips * layers, heads, positions, positions, depth, two),
            Product(layers, 1, heard, width, inner, two),
            Product(layers, 1, heard, inner, width, two),
        ]
    layers, heads, inner = config.decoder_layers, config.decoder_attention_heads, config.decoder_ffn_dim
    depth = width // heads
    found += [
        Product(6 * layers, 1, labels, width, width, 2),
        Product(2 * layers, 1, heard, width, width, 2 if way == "trained" else 1),  # keys and values of what is heard
        Product(layers, 1, labels, width, inner, 2),
        Product(layers, 1, labels, inner, width, 2),
        Product(1, 1, labels, width, config.vocab_size, 2),
    ]
    for length in lengths:
        for seen in (length, positions):
            found += [Product(layers, heads, length, depth, seen, 2), Product(layers, heads, length, seen, depth, 2)]
    return found
