"""W2V-BERT 2.0 against transformers with the same weights, and the places where ours is more exact.

Run: pytest tests/models/test_w2v_bert.py          (full depth: add --long)
"""

import dataclasses

import pytest
import torch
from bert_pairs import ADAPTER, DROPOUTS, QUIET, SHAPES, SMALL, mask, noises, pair, rows
from conftest import published
from transformers import Wav2Vec2BertConfig as PeerConfig
from transformers import Wav2Vec2BertForCTC as PeerForCTC

import w2v
from w2v.layout import Packed, Padded
from w2v.models import w2v_bert
from w2v.models.w2v_bert import AdapterLayer, EncoderLayer
from w2v.models.w2v_bert_config import W2V_BERT_TINY


def compare_gradients(ours, theirs, upstream, ours_out, theirs_out):
    (ours_out * upstream).sum().backward()
    (theirs_out * upstream).sum().backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if name.endswith("masked_spec_embed"):
            continue
        if name.endswith("linear_k.bias"):
            # Zero in theory, as softmax ignores what all keys share: only rounding is left to compare.
            assert parameter.grad.norm() <= 1e-5 * wanted[name.replace("bias", "weight")].norm(), name
            continue
        error = (parameter.grad - wanted[name]).norm() / wanted[name].norm()
        assert error <= 1e-4, f"{name}: relative {error:.1e}"


@pytest.mark.parametrize("frames", [1, 2, 49, 90], ids="{} frames".format)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_lone_clip_equals_transformers(shape, frames):
    ours, theirs = pair(SHAPES[shape])
    features = rows([frames])
    out, peer = ours(features), theirs(features, attention_mask=mask([frames]))
    torch.testing.assert_close(out.logits, peer.logits, rtol=0, atol=2e-5)
    assert out.logit_lengths.tolist() == [peer.logits.shape[1]]
    if frames == 49:
        compare_gradients(ours, theirs, torch.randn_like(out.logits), out.logits, peer.logits)


def test_padded_rows_equal_transformers_without_adapter():
    ours, theirs = pair(SMALL)
    lengths = [90, 49, 2]
    out, peer = ours(rows(lengths), torch.tensor(lengths)), theirs(rows(lengths), attention_mask=mask(lengths))
    real = mask(lengths).bool()
    torch.testing.assert_close(out.logits[real], peer.logits[real], rtol=0, atol=2e-5)
    upstream = torch.randn_like(out.logits) * real[:, :, None]
    compare_gradients(ours, theirs, upstream, out.logits, peer.logits)


@pytest.mark.long
@pytest.mark.parametrize("adapter", [False, True])
def test_full_depth(adapter):
    config = dataclasses.replace(w2v.W2V_BERT_2, add_adapter=adapter, **QUIET)
    ours, theirs = pair(config)
    out, peer = ours(rows([60])), theirs(rows([60]), attention_mask=mask([60]))
    torch.testing.assert_close(out.logits, peer.logits, rtol=0, atol=2e-5)
    compare_gradients(ours, theirs, torch.randn_like(out.logits), out.logits, peer.logits)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_padded_packed_and_alone_are_one(shape):
    """Odd lengths, the shortest clip and equal clips; with an adapter too, where transformers' batches differ."""
    model = pair(SHAPES[shape])[0]
    config = model.config
    clips = noises(16_000, 9_000, 560, 30_001, 880)
    batches = [config.collate(clips), config.collate(clips, pad=True)]
    assert isinstance(batches[0].layout, Packed) and isinstance(batches[1].layout, Padded)
    upstream = None
    gradients = []
    for batch in batches:
        model.zero_grad()
        out = model(batch)
        assert out.logit_lengths.tolist() == [config.frames(len(clip)) for clip in clips]
        for clip, row, n in zip(clips, out.logits, out.logit_lengths, strict=True):
            alone = model(config.collate([clip])).logits[0]
            torch.testing.assert_close(row[:n], alone, rtol=0, atol=1e-5)
            assert not row[n:].any()
        upstream = torch.randn_like(out.logits) if upstream is None else upstream
        (out.logits * upstream).sum().backward()
        # linear_k.bias has rounding only: softmax ignores what all keys share
        gradients.append({n: p.grad for n, p in model.named_parameters() if not n.endswith(("linear_k.bias", "embed"))})
    for name, one in gradients[0].items():
        assert (one - gradients[1][name]).norm() <= 1e-4 * one.norm(), name


def test_where_transformers_differs_in_a_batch_ours_is_the_lone_clip():
    """Behind an odd clip the peer's adapter hears the norm of a padded frame (W2V-BERT's only use of padding)."""
    ours, theirs = pair(ADAPTER)
    lengths = [60, 49]
    features = rows(lengths)
    alone = theirs(features[1:, :49], attention_mask=mask([49])).logits[0]
    batched = theirs(features, attention_mask=mask(lengths)).logits[1, :25]
    mine = ours(features, torch.tensor(lengths)).logits[1, :25]
    assert (batched - alone).abs().max() > 1e-2
    torch.testing.assert_close(mine, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_given_masks_equal_transformers(packed):
    config = dataclasses.replace(SMALL, mask_feature_prob=0.1, apply_spec_augment=True)
    ours, theirs = pair(config)
    ours.train()
    lengths = [40, 31]
    features, time_mask, feature_mask = rows(lengths), torch.zeros(2, 40, dtype=torch.bool), torch.zeros(2, 64).bool()
    time_mask[:, 3:9], feature_mask[0, 5:9], feature_mask[1, 20:30] = True, True, True
    layout = Packed.of([0, 40], lengths) if packed else Padded.of(torch.tensor(lengths), 40)
    stream = torch.cat([features[0], features[1, :31]])[None] if packed else features
    batch = dataclasses.replace(config.collate(noises(13_200, 10_320)), inputs=stream, layout=layout)
    mine = ours(batch, time_mask=time_mask, feature_mask=feature_mask).logits
    hidden = theirs.wav2vec2_bert.feature_projection(features)[0]
    hidden = torch.where(time_mask[:, :, None], theirs.wav2vec2_bert.masked_spec_embed, hidden)
    hidden = hidden.masked_fill(feature_mask[:, None, :], 0.0)
    wanted = theirs.lm_head(theirs.wav2vec2_bert.encoder(hidden, attention_mask=mask(lengths))[0])
    real = mask(lengths).bool()
    torch.testing.assert_close(mine[real], wanted[real], rtol=0, atol=2e-5)


def test_masks_are_drawn_in_training_only():
    model = pair(dataclasses.replace(SMALL, apply_spec_augment=True, mask_time_prob=0.5))[0]
    features = rows([50])
    assert torch.equal(model(features).logits, model(features).logits)
    model.train()
    assert not torch.equal(model(features).logits, model(features).logits)


def test_layerdrop_drops_layers_and_never_the_adapter():
    """transformers drops the adapter in a tenth of the calls: then twice as many frames come out."""
    model = pair(dataclasses.replace(ADAPTER, layerdrop=0.9))[0].train()
    ran = {EncoderLayer: 0, AdapterLayer: 0}
    for module in model.modules():
        if type(module) in ran:
            module.register_forward_hook(lambda m, *_: ran.update({type(m): ran[type(m)] + 1}))
    for _ in range(40):
        assert model(rows([60])).logits.shape[1] == 30
    assert ran[AdapterLayer] == 40
    assert 0 < ran[EncoderLayer] < 40  # of 120


@pytest.mark.parametrize("name", [*DROPOUTS, "conformer_conv_dropout"])
def test_every_dropout_does_something_in_training_alone(name):
    config = dataclasses.replace(ADAPTER, **{name: 0.5})
    model = pair(config)[0]
    features = rows([30])
    assert torch.equal(model(features).logits, model(features).logits)
    model.train()
    assert not torch.equal(model(features).logits, model(features).logits)


def test_checkpointing_computes_the_same():
    model = pair(dataclasses.replace(ADAPTER, attention_dropout=0.2, conformer_conv_dropout=0.2))[0].train()
    gradients = []
    for checkpointing in (False, True):
        model.parts.stacks[0].checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(0)
        model(rows([40, 23]), torch.tensor([40, 23])).logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_names_and_shapes_are_transformers():
    config = dataclasses.replace(w2v.W2V_BERT_2, add_adapter=True)
    with torch.device("meta"):
        ours, theirs = w2v.Wav2Vec2BertForCTC(config), PeerForCTC(PeerConfig(**config.to_dict()))
        body = w2v.Wav2Vec2BertModel(w2v.W2V_BERT_2)
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == 605_711_200
    assert sum(p.numel() for p in body.parameters()) == 580_493_120
    assert shapes == {name: tuple(tensor.shape) for name, tensor in published("hf_w2v_bert_names.tsv").items()}


def test_a_model_of_half_precision_runs_on_a_gpu_without_autocast(monkeypatch):
    """Under autocast its layers read fp32; without it their norms have half precision, and read nothing else."""
    monkeypatch.setattr(w2v_bert, "on_gpu", lambda x: True)
    model, read = pair(SMALL)[0].eval(), []
    model.parts.stacks[0][0].register_forward_pre_hook(lambda _, args: read.append(args[0].dtype))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            model(rows([30]))
        assert model.bfloat16()(rows([30]).bfloat16()).logits.isfinite().all()
    assert read == [torch.float32, torch.bfloat16]


def test_initialisation_follows_transformers():
    config = dataclasses.replace(w2v.W2V_BERT_2, num_hidden_layers=1, add_adapter=True)
    torch.manual_seed(0)
    ours = dict(w2v.Wav2Vec2BertForCTC(config).named_parameters())
    for name, wanted in PeerForCTC(PeerConfig(**config.to_dict())).named_parameters():
        five_sigma = 5 * float(wanted.detach().std()) * (2 / wanted.numel()) ** 0.5 if wanted.numel() > 1 else 1.0
        assert abs(float((ours[name] - wanted.mean()).detach().mean())) <= five_sigma, name
        torch.testing.assert_close(ours[name].std(), wanted.std(), rtol=0.15, atol=1e-6, msg=name)


def test_frames_are_counted_as_they_are_made():
    for config in (SMALL, ADAPTER, SHAPES["two adapters"]):
        model = pair(config)[0]
        for samples in (560, 719, 720, 880, 16_000, 16_160, 16_320):
            (frames,) = model(config.collate(noises(samples))).logit_lengths.tolist()
            assert frames == config.frames(samples)
        assert config.frames(torch.tensor([16_000, 560])).tolist() == [config.frames(16_000), config.frames(560)]
        assert config.frames(1600 * config.hop + 400) in (1600, 1601)


def test_seconds_per_frame():
    for config, seconds in ((SMALL, 0.02), (ADAPTER, 0.04)):
        emissions = pair(config)[0].emissions(config.collate(noises(32_000)))
        assert emissions.seconds_per_frame == seconds
        torch.testing.assert_close(emissions.log_probs.exp().sum(-1), torch.ones(1, config.frames(32_000)))


@pytest.mark.parametrize(
    ("config", "samples", "labels", "reason"),
    [
        (SMALL, 559, [], "shorter than one frame: 559 samples"),
        (SMALL, 560, [1], None),
        (SMALL, 16_000, list(range(1, 32)) * 2, "too few frames for its text: CTC cannot align 62 labels to 49 frames"),
        (ADAPTER, 16_000, list(range(1, 26)), None),
        (
            ADAPTER,
            16_000,
            list(range(1, 27)),
            "too few frames of the length adapter for its text: CTC cannot align 26 labels to 25 frames, without the "
            "adapter there are 49",
        ),
        (ADAPTER, 16_000, [5] * 26, "too few frames for its text: CTC cannot align 51 labels to 25 frames"),
    ],
)
def test_which_clips_can_be_learned(config, samples, labels, reason):
    assert config.why_not(samples, labels) == reason


@pytest.mark.parametrize("pad", [True, False])
def test_a_clip_without_a_frame_is_refused(pad):
    with pytest.raises(w2v.InputError, match="at least 560 samples for one frame, got 559"):
        SMALL.collate(noises(16_000, 559), pad=pad)
    with pytest.raises(w2v.InputError, match="at least one row"):
        pair(SMALL)[0](rows([5, 4]), torch.tensor([5, 0]))


def test_the_tiny_shape_is_small():
    assert sum(p.numel() for p in w2v.Wav2Vec2BertForCTC(W2V_BERT_TINY).parameters()) < 3e6


def test_half_precision_is_near_and_trains():
    """Scores, biases of distances and softmax in bfloat16; the logits that CTC gets are fp32."""
    model = pair(ADAPTER)[0]
    batch = ADAPTER.collate(noises(16_000, 9_000), [[1, 2, 3], [4, 4]])
    whole = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch).logits
        model.losses(batch).values.sum().backward()
    assert half.dtype == torch.float32
    assert 0 < (half - whole).abs().max() < 0.1 * whole.abs().max()
    for name, parameter in model.named_parameters():
        if not name.endswith("masked_spec_embed"):
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


# --- what no output of a quiet model shows


def test_where_dropout_stands_between_attention_and_its_residual():
    model = w2v.Wav2Vec2BertForCTC(dataclasses.replace(ADAPTER, attention_dropout=0.3, conformer_conv_dropout=0.2))
    body = model.wav2vec2_bert
    assert {layer.self_attn_dropout.p for layer in body.encoder.layers} == {0.3}
    assert body.adapter.layers[0].self_attn_dropout.p == 0.2, "as transformers has it"


def test_training_without_masks_draws_none():
    model = pair(dataclasses.replace(SMALL, mask_time_prob=0.5, mask_feature_prob=0.5))[0].train()
    assert torch.equal(model(rows([50])).logits, model(rows([50])).logits)


def test_the_loss_knows_the_blank_and_what_cannot_be_aligned():
    out = pair(dataclasses.replace(SMALL, pad_token_id=7, ctc_zero_infinity=True))[0](rows([9]))
    assert (out.blank_id, out.zero_infinity) == (7, True)
