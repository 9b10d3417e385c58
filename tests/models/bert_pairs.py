"""Small W2V-BERT models and what they hear, for several test files: ours and transformers' with the same weights."""

import dataclasses

import numpy as np
import torch
from transformers import Wav2Vec2BertConfig as PeerConfig
from transformers import Wav2Vec2BertForCTC as PeerForCTC

import w2v

DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
QUIET = dict.fromkeys((*DROPOUTS, "conformer_conv_dropout", "layerdrop"), 0.0) | {"apply_spec_augment": False}
SMALL = dataclasses.replace(
    w2v.W2V_BERT_2, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, **QUIET
)
ADAPTER = dataclasses.replace(SMALL, add_adapter=True)
SHAPES = {
    "plain": SMALL,
    "adapter": ADAPTER,
    "narrow adapter after a feed-forward": dataclasses.replace(
        ADAPTER, output_hidden_size=48, use_intermediate_ffn_before_adapter=True
    ),
    "two adapters": dataclasses.replace(ADAPTER, num_adapter_layers=2),
    "strides of 4": dataclasses.replace(ADAPTER, adapter_stride=4, adapter_kernel_size=5),
    "other activations": dataclasses.replace(ADAPTER, hidden_act="gelu", adapter_act="silu"),
    "few distances": dataclasses.replace(SMALL, left_max_position_embeddings=3, right_max_position_embeddings=0),
    "full width": dataclasses.replace(w2v.W2V_BERT_2, num_hidden_layers=1, add_adapter=True, **QUIET),
}


def pair(config: w2v.Wav2Vec2BertConfig):
    """-> (ours, theirs) with equal random weights, norms and biases not at their start."""
    torch.manual_seed(1)
    ours, theirs = w2v.Wav2Vec2BertForCTC(config), PeerForCTC(PeerConfig(**config.to_dict()))
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    # Strict both ways, but for the mask's embedding, which theirs has only with masks.
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and set(unexpected) <= {"wav2vec2_bert.masked_spec_embed"}
    return ours.eval(), theirs.eval()


def rows(lengths, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(lengths), max(lengths), 160, generator=torch.Generator().manual_seed(seed))


def mask(lengths) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def noises(*samples: int) -> list[np.ndarray]:
    return [0.1 * np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in samples]
