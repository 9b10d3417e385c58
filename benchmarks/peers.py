"""The peers of benchmarks.step_time: transformers' and torchaudio's wav2vec 2.0, with our weights and our draws.
At the end those of benchmarks.whisper and benchmarks.w2v_bert: transformers', with the same weights.

Each runs as its users run it best: sdpa attention, fused AdamW, autocast, batches grouped by length, and under torchrun
DistributedDataParallel(find_unused_parameters=True), which LayerDrop asks for. transformers' flash_attention_2, a
package of its own, is not measured.

transformers-compiled is transformers under torch.compile, region by region: each of the convolutions, the transformer's
layers, the projection and the positional convolution is one graph for all lengths. That is more than its Trainer does:
compiling the whole model breaks at each of LayerDrop's draws and at the masks, which numpy draws, and is compiled anew
for other lengths. Checkpoints lie around the compiled layers as they do with us; inside them inductor fails.
"""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from benchmarks.common import StageClock
from w2v.answers import Batch
from w2v.audio import SAMPLE_RATE
from w2v.data.loading import ClipDataset
from w2v.errors import InputError
from w2v.layout import Padded
from w2v.models.w2v_bert_config import Wav2Vec2BertConfig
from w2v.models.wav2vec2 import Wav2Vec2ForCTC
from w2v.models.wav2vec2_config import Wav2Vec2Config
from w2v.precision import autocast
from w2v.text.bpe import bytes_of
from w2v.training import distributed
from w2v.training.optim import adamw
from w2v.weights.torchaudio import from_hf

PEERS = ("transformers", "transformers-compiled", "torchaudio")
# How OpenAI cuts text into words before it looks for byte pairs.
OPENAI_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Inputs = dict[str, Tensor]


@dataclass
class Peer:
    name: str
    model: Any  # an nn.Module of the peer's own class
    encoder: nn.Module  # its convolutions
    inputs: Callable[[Batch], Inputs]  # what its collator makes of a padded batch
    loss: Callable[[nn.Module, Inputs], Tensor]  # of the model, or of what wraps it

    @property
    def compiled(self) -> bool:
        """Whether it is to be timed under torch.compile."""
        return self.name.endswith("-compiled")


def build_peer(name: str, model: Wav2Vec2ForCTC) -> Peer:
    """The peer with our model's weights, in fp32 on our model's device, in training mode. InputError if not there."""
    package = name.removesuffix("-compiled")
    if not find_spec(package):
        raise InputError(f"--peer {name} needs {package}, which is not installed; pip install {package}")
    build = {"transformers": build_transformers, "torchaudio": build_torchaudio}[package]
    peer = build(model.config, model.state_dict())
    peer.name = name
    peer.model.to(next(model.parameters()).device).train()
    return peer


def build_transformers(config: Wav2Vec2Config, weights: dict[str, Tensor]) -> Peer:
    from transformers import Wav2Vec2Config as PeerConfig
    from transformers import Wav2Vec2ForCTC as PeerForCTC

    model = PeerForCTC(PeerConfig(**dataclasses.asdict(config), attn_implementation="sdpa"))
    model.load_state_dict(weights)
    return Peer(
        "transformers",
        model,
        model.wav2vec2.feature_extractor,
        transformers_inputs,
        lambda net, inputs: net(**inputs).loss,
    )


def transformers_inputs(batch: Batch) -> Inputs:
    """What the data collator of its recipes returns: int32 masks over samples, labels padded with -100."""
    real = torch.arange(batch.inputs.shape[1]) < torch.tensor(batch.samples)[:, None]
    padding = torch.arange(batch.labels.shape[1]) >= batch.label_lengths[:, None]
    return {
        "input_values": batch.inputs,
        "attention_mask": real.int(),
        "labels": batch.labels.masked_fill(padding, -100),
    }


def build_torchaudio(config: Wav2Vec2Config, weights: dict[str, Tensor]) -> Peer:
    """It has neither SpecAugment's masks, a dropout before the head nor checkpointing."""
    from torchaudio.models import wav2vec2_model

    model = wav2vec2_model(
        extractor_mode="layer_norm" if config.feat_extract_norm == "layer" else "group_norm",
        extractor_conv_layer_config=list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.hidden_size,
        encoder_projection_dropout=config.feat_proj_dropout,
        encoder_pos_conv_kernel=config.num_conv_pos_embeddings,
        encoder_pos_conv_groups=config.num_conv_pos_embedding_groups,
        encoder_num_layers=config.num_hidden_layers,
        encoder_num_heads=config.num_attention_heads,
        encoder_attention_dropout=config.attention_dropout,
        encoder_ff_interm_features=config.intermediate_size,
        encoder_ff_interm_dropout=config.activation_dropout,
        encoder_dropout=config.hidden_dropout,
        encoder_layer_norm_first=config.do_stable_layer_norm,
        encoder_layer_drop=config.layerdrop,
        aux_num_out=config.vocab_size,
    )
    model.load_state_dict(from_hf(weights)[0])

    def loss(net: nn.Module, inputs: Inputs) -> Tensor:
        logits, frames = net(inputs["waveforms"], inputs["lengths"])
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)  # (T, B, V)
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(log_probs, inputs["labels"], frames, inputs["label_lengths"], config.pad_token_id)

    return Peer("torchaudio", model, model.feature_extractor, torchaudio_inputs, loss)


def torchaudio_inputs(batch: Batch) -> Inputs:
    return {
        "waveforms": batch.inputs,
        "lengths": torch.tensor(batch.samples),
        "labels": batch.labels,
        "label_lengths": batch.label_lengths,
    }


class PeerDataset(torch.utils.data.Dataset):
    """A dataset of padded batches in a peer's terms."""

    def __init__(self, padded: ClipDataset, inputs: Callable[[Batch], Inputs]):
        self.padded, self.inputs = padded, inputs

    def __getitem__(self, numbers: list[int]) -> Inputs:
        return self.inputs(self.padded[numbers])

    def __len__(self) -> int:
        return len(self.padded)


def freeze_encoder(peer: Peer) -> None:
    if peer.name != "torchaudio":
        peer.model.freeze_feature_encoder()
    else:
        peer.encoder.requires_grad_(False)


def compile_regions(peer: Peer, checkpointing: bool) -> None:
    """torch.compile over transformers' model in the way this module's docstring describes."""
    torch._dynamo.config.specialize_float = True  # as for our layers: probabilities do not vary
    torch._dynamo.config.recompile_limit = 64  # its convolutions and layers count as one function
    body = peer.model.wav2vec2
    convolutions, layers = list(body.feature_extractor.conv_layers), list(body.encoder.layers)
    trained = any(p.requires_grad for p in peer.encoder.parameters())
    recomputed = ([*layers, *convolutions] if trained else layers) if checkpointing else []
    peer.model.gradient_checkpointing_disable()
    for module in [*convolutions, body.feature_projection, body.encoder.pos_conv_embed, *layers]:
        # What module.compile() does, but for the checkpoint.
        call = torch.compile(module._call_impl, dynamic=True)
        module._compiled_call_impl = partial(checkpoint, call, use_reentrant=False) if module in recomputed else call


class PeerStep:
    """The step of transformers' Trainer: forward with labels under autocast, backward, clip, update."""

    def __init__(self, peer: Peer, optimizer: torch.optim.Optimizer, precision: str, device: torch.device):
        self.peer, self.optimizer, self.precision, self.device = peer, optimizer, precision, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.net = peer.model
        if distributed.world() > 1:
            self.net = DistributedDataParallel(peer.model, find_unused_parameters=True)

    def __call__(self, inputs: Inputs, number: int, clock: StageClock) -> None:
        with autocast(self.precision, self.device):
            loss = self.peer.loss(self.net, inputs)
        clock("forward")
        self.scaler.scale(loss).backward()
        clock("backward")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.peer.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        clock("optimiser")


def peer_optimizer(peer: Peer, lr: float) -> torch.optim.AdamW:
    return adamw(peer.model, lr, (0.9, 0.999), 0.0)


def note_losses(peer: Peer) -> list[float]:
    """-> a list that gets the peer's loss at each step from now on."""
    noted: list[float] = []
    loss_of = peer.loss

    def loss(net: nn.Module, inputs: Inputs) -> Tensor:
        value = loss_of(net, inputs)
        noted.append(value.item())
        return value

    peer.loss = loss
    return noted


@contextmanager
def same_layers_dropped(number: int) -> Iterator[list[float]]:
    """LayerDrop's draws of step `number`, the same for every implementation; yields those drawn so far.

    Ours and transformers' draw torch.rand([]) once per layer, torchaudio torch.rand(1).
    """
    generator, drawn, rand = random.Random(number), [], torch.rand

    def draw(*shape, **options) -> Tensor:
        if shape not in (([],), (1,)):
            return rand(*shape, **options)
        drawn.append(generator.random())
        return torch.full((1,) if shape == (1,) else (), drawn[-1])

    with mock.patch.object(torch, "rand", draw):
        yield drawn


def build_whisper(folder: Path) -> Peer:
    """transformers' Whisper of a folder, in evaluation mode. In fp32: published folders ask for fp16."""
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Peer(
        "transformers",
        model,
        model.model.encoder,
        whisper_inputs,
        lambda net, inputs: net(**inputs, use_cache=False).loss,
    )


def whisper_inputs(batch: Batch) -> Inputs:
    """What the data collator of its recipes returns, for our spectrograms: labels padded with -100, no start token."""
    padding = torch.arange(batch.labels.shape[1]) >= batch.label_lengths[:, None]
    return {"input_features": batch.inputs, "labels": batch.labels.masked_fill(padding, -100)}


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
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    return write


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


def build_w2v_bert(config: Wav2Vec2BertConfig, weights: dict[str, Tensor]) -> Peer:
    """transformers' W2V-BERT with a CTC head and our model's weights, in fp32, in training mode."""
    from transformers import Wav2Vec2BertConfig as PeerConfig
    from transformers import Wav2Vec2BertForCTC as PeerForCTC

    model = PeerForCTC(PeerConfig(**config.to_dict() | {"ctc_loss_reduction": "mean"}, attn_implementation="sdpa"))
    model.load_state_dict(weights, strict=False)  # without masks it has no embedding for them
    return Peer(
        "transformers",
        model.train(),
        model.wav2vec2_bert,
        w2v_bert_inputs,
        lambda net, inputs: net(**inputs).loss,
    )


def w2v_bert_inputs(batch: Batch) -> Inputs:
    """What its processor and the data collator of its recipes return, for our features, padded."""
    assert isinstance(batch.layout, Padded)
    padding = torch.arange(batch.labels.shape[1]) >= batch.label_lengths[:, None]
    return {
        "input_features": batch.inputs.masked_fill(~batch.layout.real[:, :, None], 1.0),
        "attention_mask": batch.layout.real.int(),
        "labels": batch.labels.masked_fill(padding, -100),
    }


def w2v_bert_extractor() -> Any:
    """The published model's feature extractor."""
    from transformers import SeamlessM4TFeatureExtractor

    return SeamlessM4TFeatureExtractor(padding_value=1)
