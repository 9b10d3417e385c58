"""The peer of Whisper: transformers', with our weights or those of a folder, and whose tokens a text has."""

import json
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_ctc import padded_labels
from benchmarks.peer_step import Inputs, Peer, Write
from w2v.answers import Batch
from w2v.audio import SAMPLE_RATE
from w2v.models.whisper_config import WhisperConfig
from w2v.precision import autocast
from w2v.text.bpe import bytes_of
from w2v.text.whisper_tokenizer import WhisperTokenizer

POSITIONS_PER_SECOND = 50  # of the encoder
# How OpenAI cuts text into words before it looks for byte pairs.
OPENAI_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def build_whisper(folder: Path) -> Peer:
    """transformers' Whisper of a folder, in evaluation mode. In fp32: published folders ask for fp16."""
    from transformers import WhisperForConditionalGeneration

    return as_peer(WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval())


def build_fresh_whisper(config: WhisperConfig, weights: dict[str, Tensor], attention: str = "sdpa") -> Peer:
    """transformers' Whisper with our weights, in fp32 and in training mode. attention: its attn_implementation."""
    from transformers import GenerationConfig, WhisperForConditionalGeneration
    from transformers import WhisperConfig as PeerConfig

    fields = config.to_dict()
    model = WhisperForConditionalGeneration(PeerConfig(**fields, attn_implementation=attention))
    model.load_state_dict(weights | {"proj_out.weight": weights["model.decoder.embed_tokens.weight"]})
    ids = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    told = config.generation.to_dict() | {name: fields[name] for name in ids}
    model.generation_config = GenerationConfig(**told | {"max_length": config.max_target_positions})
    return as_peer(model.train())


def as_peer(model: Any) -> Peer:
    body, config = model.model, model.config

    def hear(inputs: Inputs) -> Tensor:
        return model.generate(inputs["input_features"], do_sample=False, num_beams=1)

    def writer(tokenizer: WhisperTokenizer, precision: str) -> Write:
        from transformers import WhisperFeatureExtractor
        from transformers import WhisperTokenizer as PeerTokenizer

        extractor = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // POSITIONS_PER_SECOND
        )
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            theirs = PeerTokenizer.from_pretrained(folder)

        def write(waveforms: list[np.ndarray]) -> list[str]:
            samples = [waveform.astype(np.float32) / 32768 for waveform in waveforms]
            mel = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            with autocast(precision, model.device):
                ids = hear({"input_features": mel.to(model.device)})
            return texts_of(theirs, ids)

        return write

    return Peer(
        "transformers",
        model,
        body.encoder,
        whisper_inputs,
        lambda net, inputs: net(**inputs, use_cache=False).loss,
        hear,
        writer,
        [*body.encoder.layers, *body.decoder.layers],
    )


def whisper_inputs(batch: Batch) -> Inputs:
    """What the data collator of its recipes returns, for our spectrograms: labels padded with -100, no start token."""
    return {"input_features": batch.inputs, "labels": padded_labels(batch)}


def whisper_extractor(folder: Path) -> Callable[[list[np.ndarray]], Tensor]:
    """Waveforms (S,) -> log-mel (B, M, N) of its feature extractor, which computes them with torch."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    return lambda clips: extractor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features


def whisper_writer(folder: Path) -> Callable[[Tensor, str], list[str]]:
    """Log-mel (B, M, N) and a language -> the texts that its generate writes greedily."""
    from transformers import WhisperTokenizer

    model, tokenizer = build_whisper(folder).model, WhisperTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def write(mel: Tensor, language: str) -> list[str]:
        ids = model.generate(mel, language=language, task="transcribe", do_sample=False, num_beams=1)
        return texts_of(tokenizer, ids)

    return write


def texts_of(tokenizer: Any, ids: Tensor) -> list[str]:
    """tokenizer: transformers'."""
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]


def whisper_encoder(folder: Path) -> tuple[str, Callable[[str], list[int]]]:
    """Whose byte pairs these are, and a text's ids: tiktoken's where it is installed, else those of tokenizers."""
    if find_spec("tiktoken"):
        vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
        ranks = {bytes_of(token): i for token, i in vocab.items() if token and not token.startswith("<|")}
        encoding = import_module("tiktoken").Encoding(
            folder.name, pat_str=OPENAI_WORDS, mergeable_ranks=ranks, special_tokens={}
        )
        return "tiktoken", encoding.encode_ordinary
    from transformers import WhisperTokenizer

    tokenizer = WhisperTokenizer.from_pretrained(folder)
    return "tokenizers", lambda text: tokenizer.encode(text, add_special_tokens=False)
