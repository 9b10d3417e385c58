"""The peers of benchmarks.step_time, with our weights and our draws.

transformers            sdpa attention, fused AdamW, autocast, batches grouped by length as ours are
transformers-as-run     as most people run it: eager attention, fp16 with a gradient scaler (fp32 on a CPU), gradient
                        checkpointing, and the same clips in padded batches of a fixed count, drawn at random
transformers-compiled   transformers under torch.compile, region by region
transformers-flash      transformers with flash_attention_2, which needs the package flash_attn and a GPU; not measured
torchaudio              its wav2vec 2.0

Under torchrun all run DistributedDataParallel(find_unused_parameters=True), which LayerDrop asks for.

Compiled, each of wav2vec 2.0's convolutions, the transformer's layers, the projection and the positional convolution
is one graph for all lengths; of the other families, each layer. That is more than its Trainer does: compiling the whole
model breaks at each of LayerDrop's draws and at the masks, which numpy draws, and is compiled anew for other lengths.
Checkpoints lie around the compiled layers as they do with us; inside them inductor fails.
"""

from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.peer_ctc import build_torchaudio, build_w2v_bert, build_wav2vec2
from benchmarks.peer_step import Peer
from benchmarks.peer_whisper import build_fresh_whisper
from w2v.errors import InputError
from w2v.models.w2v_bert_config import Wav2Vec2BertConfig
from w2v.models.wav2vec2_config import Wav2Vec2Config
from w2v.models.whisper_config import WhisperConfig

# Each one's attention, where it has a choice.
PEERS = {
    "transformers": "sdpa",
    "transformers-as-run": "eager",
    "transformers-compiled": "sdpa",
    "transformers-flash": "flash_attention_2",
    "torchaudio": "",
}
BUILDERS: dict[type, Any] = {
    Wav2Vec2Config: build_wav2vec2,
    Wav2Vec2BertConfig: build_w2v_bert,
    WhisperConfig: build_fresh_whisper,
}


def check_installed(name: str) -> None:
    package = name.split("-")[0]
    if not find_spec(package):
        raise InputError(f"--peer {name} needs {package}, which is not installed; pip install {package}")


def check_peer(name: str, config: Any, device: torch.device, precision: str) -> None:
    """InputError where the peer cannot run here, or knows no such model."""
    check_installed(name)
    if name == "torchaudio" and not isinstance(config, Wav2Vec2Config):
        raise InputError("--peer torchaudio has wav2vec 2.0 only, got a model of another family; give transformers")
    if PEERS[name] != "flash_attention_2":
        return
    if isinstance(config, Wav2Vec2BertConfig):
        raise InputError(f"--peer {name} needs a model that transformers has it for, W2V-BERT is none; leave it out")
    if not find_spec("flash_attn"):
        raise InputError(f"--peer {name} needs flash_attn, which is not installed; pip install flash-attn")
    if device.type != "cuda" or precision == "fp32":
        raise InputError(f"--peer {name} needs a GPU and bf16 or fp16, got {device.type} and {precision}; leave it out")


def build_peer(name: str, model: Any) -> Peer:
    """The peer with our model's weights, in fp32 on our model's device, in training mode."""
    check_installed(name)
    weights, config = model.state_dict(), model.config
    if name == "torchaudio":
        peer = build_torchaudio(config, weights)
    else:
        peer = BUILDERS[type(config)](config, weights, PEERS[name])
    peer.name = name
    peer.model.to(next(model.parameters()).device)
    return peer


def precisions_of(name: str, asked: str, ours: str, device: torch.device) -> list[str]:
    """What the peer computes in: as asked, and as ours does where that differs; as people run it, fp16 on a GPU."""
    if name == "transformers-as-run":
        return ["fp16" if device.type == "cuda" else "fp32"]
    return list(dict.fromkeys([asked, ours]))
