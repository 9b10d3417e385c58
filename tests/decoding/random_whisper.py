"""A small Whisper with random weights: what decoding is compared on with transformers and with plain loops."""

import dataclasses

import numpy as np
import torch

from w2v.models.whisper import WhisperForConditionalGeneration
from w2v.models.whisper_config import Generation, WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer

TOKENIZER = WhisperTokenizer.from_texts([])
TURKISH = TOKENIZER.for_language("tr")
LETTERS = range(65, 75)
SECONDS = 2  # of a window


def random_whisper(max_target_positions: int = 40, **generation) -> WhisperForConditionalGeneration:
    """In evaluation mode. generation: fields of Generation. Always the same weights."""
    config = WhisperConfig(
        d_model=64, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50 * SECONDS, init_std=0.5,
        max_target_positions=max_target_positions, generation=Generation(**generation),
    )  # fmt: skip
    config = dataclasses.replace(config, **config.for_vocabulary(TURKISH))
    torch.manual_seed(2)  # texts are of all lengths
    model = WhisperForConditionalGeneration(config).eval()
    model.model.decoder.embed_tokens.weight.data[TURKISH.eos_id].normal_(0, config.init_std)  # it is 0, and rarely wins
    return model


def only_letters() -> tuple[int, ...]:
    """All tokens but ten letters and the end: texts of random weights are then of all lengths."""
    return tuple(i for i in range(len(TOKENIZER)) if i not in LETTERS and i != TOKENIZER.eos_id)


def waveforms(count: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.normal(0, 0.1, 9000 + 23_000 * i // count).astype(np.float32) for i in range(count)]
