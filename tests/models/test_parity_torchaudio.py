"""Our model against torchaudio's builders with the same weights: hidden states, logits and every gradient.

Run: pytest tests/models/test_parity_torchaudio.py          (most family members: add -m slow; full depth: --long)
"""

import dataclasses

import pytest
import torch
import torchaudio
from test_parity import NO_DROPOUT, padded_batch

import w2v
from w2v.weights.torchaudio import from_hf

DEPTH = {"xlsr-53": 2, "base": 2, "large-lv60": 1, "xls-r-300m": 1, "xls-r-1b": 1, "xls-r-2b": 1, "tiny": 4}
FAST = {"base", "tiny"}  # both kinds of norm; test_parity.py holds XLSR-53 to transformers at its own width


def build_peer(config: w2v.Wav2Vec2Config):
    return torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm" if config.feat_extract_norm == "layer" else "group_norm",
        extractor_conv_layer_config=list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.hidden_size,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=config.num_conv_pos_embeddings,
        encoder_pos_conv_groups=config.num_conv_pos_embedding_groups,
        encoder_num_layers=config.num_hidden_layers,
        encoder_num_heads=config.num_attention_heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=config.intermediate_size,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=config.do_stable_layer_norm,
        encoder_layer_drop=0.0,
        aux_num_out=config.vocab_size,
    )


def compare(config: w2v.Wav2Vec2Config, train: bool, padded: bool):
    torch.manual_seed(1)
    ours, theirs = w2v.Wav2Vec2ForCTC(config).train(train), build_peer(config).train(train)
    theirs.load_state_dict(from_hf(ours.state_dict())[0])
    states, peer_states = [], []
    for layer in ours.wav2vec2.encoder.layers:
        layer.register_forward_hook(lambda _, __, out: states.append(out))
    for layer in theirs.encoder.transformer.layers:
        layer.register_forward_hook(lambda _, __, out: peer_states.append(out[0] if isinstance(out, tuple) else out))
    waveforms, lengths, labels, label_lengths = padded_batch()
    out = ours(waveforms, lengths if padded else None)
    logits, frames = theirs(waveforms, lengths if padded else None)
    frames = out.logit_lengths if frames is None else frames
    assert frames.tolist() == out.logit_lengths.tolist()
    for row, n in enumerate(frames):
        difference = (out.logits[row, :n] - logits[row, :n]).abs()
        assert difference.max() <= 2e-5, f"row {row}: max {difference.max():.1e}, mean {difference.mean():.1e}"
        for i, (mine, wanted) in enumerate(zip(states, peer_states, strict=True)):
            difference = (mine[row, :n] - wanted[row, :n]).abs()
            assert difference.max() <= 1e-4, f"layer {i}, row {row}: max {difference.max():.1e}"

    w2v.ctc_loss(out, labels, label_lengths).backward()
    w2v.ctc_loss(w2v.CTCOutput(logits, frames, out.blank_id), labels, label_lengths).backward()
    gradients, _ = from_hf({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        if name.endswith("k_proj.bias"):
            assert gradient.norm() <= 1e-5 * wanted[name.replace("bias", "weight")].norm(), name
            continue
        error = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert error <= 1e-4, f"{name}: relative {error:.1e}"


@pytest.mark.parametrize("shape", [pytest.param(s, marks=[] if s in FAST else [pytest.mark.slow]) for s in DEPTH])
@pytest.mark.parametrize(("train", "padded"), [(True, True), (False, False)], ids=["train-padded", "eval-unpadded"])
def test_hidden_states_logits_and_gradients_equal_torchaudio(shape, train, padded):
    config = dataclasses.replace(
        w2v.CONFIGS[shape], **NO_DROPOUT, num_hidden_layers=DEPTH[shape], apply_spec_augment=False
    )
    compare(config, train, padded)


@pytest.mark.long
def test_full_depth():
    compare(dataclasses.replace(w2v.XLSR_53, **NO_DROPOUT, apply_spec_augment=False), train=True, padded=True)
