"""Our model against transformers' with the same weights: hidden states, logits, loss and every gradient.

Run: pytest tests/models/test_parity.py          (most shapes in evaluation, XLSR-53 at full depth: add -m slow)
"""

import dataclasses

import pytest
import torch
from transformers import Wav2Vec2Config as PeerConfig
from transformers import Wav2Vec2ForCTC as PeerForCTC

import w2v

DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
NO_DROPOUT = dict.fromkeys((*DROPOUTS, "layerdrop"), 0.0)
SHAPES = {
    "xlsr-53": (w2v.XLSR_53, 2),
    "base": (w2v.BASE, 2),
    "large-lv60": (w2v.LARGE_LV60, 1),
    "xls-r-300m": (w2v.XLS_R_300M, 1),
    "xls-r-1b": (w2v.XLS_R_1B, 1),
    "xls-r-2b": (w2v.XLS_R_2B, 1),
    "tiny": (w2v.TINY, 4),
    "mms": (dataclasses.replace(w2v.XLSR_53, adapter_attn_dim=16), 2),
    "stable-without-conv-bias": (dataclasses.replace(w2v.XLSR_53, conv_bias=False), 1),
}
# Nothing in these that the others have not, but numbers: left to the slow tests.
ALIKE = {"large-lv60", "xls-r-300m", "xls-r-1b", "xls-r-2b"}
# All that training mode adds is off here, so one shape of each kind of norm says that evaluation computes the same.
EVALUATED = {"base", "tiny"}
CASES = [
    pytest.param(shape, train, id=f"{mode}-{shape}", marks=[] if quick else [pytest.mark.slow])
    for shape in SHAPES
    for mode, train, quick in (("eval", False, shape in EVALUATED), ("train", True, shape not in ALIKE))
]


def pair(config: w2v.Wav2Vec2Config):
    """-> (ours, theirs) with equal random weights."""
    # Not seed 0: there one of 5,000 ReLU inputs of the MMS adapters lies within rounding of zero, where the gradient
    # jumps and no tolerance is fair.
    torch.manual_seed(1)
    fields = dataclasses.asdict(config) | {"ctc_loss_reduction": "mean"}
    theirs = PeerForCTC(PeerConfig(**fields, attn_implementation="sdpa"))
    ours = w2v.Wav2Vec2ForCTC(config)
    # Strict both ways: every tensor of theirs has its place in ours, and none is left random.
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def padded_batch():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([24_000, 16_400, 9_999])
    waveforms = torch.randn(3, 24_000, generator=generator)
    waveforms[torch.arange(24_000) >= lengths[:, None]] = 0.0
    labels = torch.randint(1, 30, (3, 12), generator=generator)
    label_lengths = torch.tensor([12, 9, 5])
    return waveforms, lengths, labels, label_lengths


def hidden_states(model, kept: list):
    """Keep what each encoder layer of either model gives."""
    for layer in model.wav2vec2.encoder.layers:
        layer.register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))


def compare(ours, theirs, train: bool):
    waveforms, lengths, labels, label_lengths = padded_batch()
    attention_mask = (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()
    peer_labels = labels.masked_fill(torch.arange(labels.shape[1]) >= label_lengths[:, None], -100)
    ours.train(train), theirs.train(train)
    states, peer_states = [], []
    hidden_states(ours, states), hidden_states(theirs, peer_states)
    out = ours(waveforms, lengths)
    loss = w2v.ctc_loss(out, labels, label_lengths)
    peer = theirs(waveforms, attention_mask=attention_mask, labels=peer_labels)
    for row, n in enumerate(out.logit_lengths):
        difference = (out.logits[row, :n] - peer.logits[row, :n]).abs()
        assert difference.max() <= 2e-5, f"row {row}: max {difference.max():.1e}, mean {difference.mean():.1e}"
        for i, (mine, wanted) in enumerate(zip(states, peer_states, strict=True)):
            difference = (mine[row, :n] - wanted[row, :n]).abs()
            assert difference.max() <= 1e-4, f"layer {i}, row {row}: max {difference.max():.1e}"
    torch.testing.assert_close(loss, peer.loss, rtol=1e-5, atol=0)

    loss.backward()
    peer.loss.backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient, wanted = parameter.grad, theirs_by_name[name].grad
        if gradient is None:  # a mask embedding without masks
            assert wanted is None, name
            continue
        if name.endswith("k_proj.bias"):
            # Exactly zero in theory (softmax ignores a constant on all keys), so only rounding is left to compare.
            scale = theirs_by_name[name.replace("bias", "weight")].grad.norm()
            assert gradient.norm() <= 1e-5 * scale, name
            continue
        error = (gradient - wanted).norm() / wanted.norm()
        assert error <= 1e-4, f"{name}: relative {error:.1e}"


@pytest.mark.parametrize(("shape", "train"), CASES)
def test_logits_loss_and_gradients_equal_transformers(shape, train):
    config, layers = SHAPES[shape]
    config = dataclasses.replace(config, **NO_DROPOUT, num_hidden_layers=layers, apply_spec_augment=False)
    compare(*pair(config), train)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["xlsr-53", "base"])
def test_full_depth(shape):
    config = dataclasses.replace(w2v.CONFIGS[shape], **NO_DROPOUT, apply_spec_augment=False)
    compare(*pair(config), train=True)


def test_unpadded_batch_without_lengths():
    config = dataclasses.replace(w2v.XLSR_53, num_hidden_layers=1)
    ours, theirs = pair(config)
    ours.eval(), theirs.eval()
    waveforms = torch.randn(2, 8000)
    with torch.no_grad():
        torch.testing.assert_close(ours(waveforms).logits, theirs(waveforms).logits, rtol=0, atol=2e-5)


def test_given_masks_equal_transformers():
    """The learned time mask and the zeroed features go in at the same places."""
    config = dataclasses.replace(w2v.XLSR_53, **NO_DROPOUT, num_hidden_layers=1, mask_feature_prob=0.1)
    ours, theirs = pair(config)
    ours.eval(), theirs.eval()
    waveforms = torch.randn(2, 8000)
    time_mask = torch.zeros(2, 24, dtype=torch.bool)
    time_mask[:, 3:9] = True
    with torch.no_grad():
        mine = ours(waveforms, time_mask=time_mask).logits
        features = theirs.wav2vec2.feature_projection(theirs.wav2vec2.feature_extractor(waveforms).transpose(1, 2))[0]
        features = theirs.wav2vec2._mask_hidden_states(features, mask_time_indices=time_mask)
        wanted = theirs.lm_head(theirs.wav2vec2.encoder(features)[0])
    torch.testing.assert_close(mine, wanted, rtol=0, atol=2e-5)
    # ... and the mask changes what comes out at all.
    assert (mine - ours(waveforms).logits).abs().max() > 1e-3


def test_parameter_count_of_xlsr_53():
    with torch.device("meta"):
        model = w2v.Wav2Vec2Model(w2v.XLSR_53)
    assert sum(p.numel() for p in model.parameters()) == 315_438_720


def test_initialisation_follows_transformers():
    """From scratch, each tensor has the mean and spread of transformers' own initialisation."""
    config = dataclasses.replace(w2v.XLSR_53, num_hidden_layers=1)
    torch.manual_seed(0)
    ours = dict(w2v.Wav2Vec2ForCTC(config).named_parameters())
    theirs = PeerForCTC(PeerConfig(**dataclasses.asdict(config)))
    for name, wanted in theirs.named_parameters():
        if "pos_conv_embed" in name and "original" in name:
            continue  # their normal_() fills a temporary there, and the weights keep Conv1d's own start
        five_sigma = (
            5 * float(wanted.detach().std()) * (2 / wanted.numel()) ** 0.5
        )  # of a difference of two sample means
        assert abs(float((ours[name] - wanted.mean()).detach().mean())) <= five_sigma, name
        torch.testing.assert_close(ours[name].std(), wanted.std(), rtol=0.1, atol=1e-6, msg=name)
    spread = ours["wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"].std()
    torch.testing.assert_close(
        spread, torch.tensor(2 / (128 * 1024) ** 0.5), rtol=0.02, atol=0
    )  # as fairseq, and as meant
