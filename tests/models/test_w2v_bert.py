"""W2V-BERT 2.0 against transformers with the same weights, and the places where ours is more exact.

Run: pytest tests/models/test_w2v_bert.py          (full depth: add -m slow)
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import SHARED
from transformers import Wav2Vec2BertConfig as PeerConfig
from transformers import Wav2Vec2BertForCTC as PeerForCTC

import w2v
from w2v.layout import Packed, Padded
from w2v.models.w2v_bert import AdapterLayer, EncoderLayer
from w2v.models.w2v_bert_config import W2V_BERT_TINY
from w2v.weights import hf

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


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_full_depth(adapter):
    config = dataclasses.replace(w2v.W2V_BERT_2, add_adapter=adapter, **QUIET)
    ours, theirs = pair(config)
    out, peer = ours(rows([60])), theirs(rows([60]), attention_mask=mask([60]))
    torch.testing.assert_close(out.logits, peer.logits, rtol=0, atol=2e-5)
    compare_gradients(ours, theirs, torch.randn_like(out.logits), out.logits, peer.logits)


def noises(*samples: int) -> list[np.ndarray]:
    return [0.1 * np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in samples]


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
    listed = SHARED / "reference" / "hf_w2v_bert_names.tsv"
    if listed.is_file():
        lines = [line.split("\t") for line in listed.read_text().splitlines() if not line.startswith("#")]
        assert shapes == {name: tuple(json.loads(shape)) for name, shape in lines}


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


# --- config files


def fields(**changes) -> dict:
    return json.loads(json.dumps(SMALL.to_dict() | changes))


def test_the_published_config_is_read():
    """vocab_size null: it has no head. The processor's padding value is the file's, and is written again."""
    published = PeerConfig().to_dict()
    assert published["vocab_size"] is None
    processor = w2v.W2V_BERT_2.processor() | {"padding_value": 0.5}
    config = w2v.Wav2Vec2BertConfig.from_dict(published | {hf.PROCESSOR: processor})
    assert config == dataclasses.replace(w2v.W2V_BERT_2, output_hidden_size=1024, padding_value=0.5)
    assert config.processor() == processor
    assert w2v.Wav2Vec2BertConfig.from_dict(fields(apply_spec_augment=False)).apply_spec_augment is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "wav2vec2"}, "architecture must be wav2vec2-bert, config.json says 'wav2vec2'"),
        ({"position_embeddings_type": "rotary"}, "position_embeddings_type must be 'relative_key'"),
        ({"position_embeddings_type": "relative"}, "position_embeddings_type must be 'relative_key'"),
        ({"position_embeddings_type": None}, "position_embeddings_type must be 'relative_key'"),
        ({"hidden_act": "mish"}, "hidden_act must be one of swish, silu, gelu, relu, got 'mish'"),
        ({"adapter_act": ["relu"]}, "adapter_act must be text"),
        ({"hidden_size": 66}, "hidden_size must be a multiple of num_attention_heads, got 66 and 4"),
        ({"output_hidden_size": 50}, "output_hidden_size must be a multiple of num_attention_heads, got 50 and 4"),
        ({"conv_depthwise_kernel_size": 30}, "conv_depthwise_kernel_size must be odd"),
        ({"use_intermediate_ffn_before_adapter": True}, "use_intermediate_ffn_before_adapter needs add_adapter"),
        ({"layerdrop": 1.5}, "layerdrop must be a probability"),
        ({"final_dropout": 1.0}, "final_dropout must be below 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a whole number from 1 to 1000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 1000"),
        ({"feature_projection_input_dim": 80}, "feature_projection_input_dim must be 160"),
        ({hf.PROCESSOR: {"stride": 3}}, "preprocessor_config.json: stride must be 2"),
        ({hf.PROCESSOR: {"padding_value": "x"}}, "preprocessor_config.json: padding_value must be a number"),
        (
            {hf.PROCESSOR: {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}},
            "feature_extractor_type must be 'SeamlessM4TFeatureExtractor'",
        ),
    ],
)
def test_other_variants_are_refused_by_name(changes, words):
    with pytest.raises(w2v.InputError) as caught:
        w2v.Wav2Vec2BertConfig.from_dict(fields(**changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- folders


def test_export_opens_in_transformers_with_equal_logits(tmp_path):
    for config in (SMALL, ADAPTER):
        model = pair(config)[0]
        model.save_pretrained(tmp_path)
        theirs = PeerForCTC.from_pretrained(tmp_path)
        features = rows([31])
        peer = theirs.eval()(features, attention_mask=mask([31])).logits
        torch.testing.assert_close(model(features).logits, peer, rtol=0, atol=2e-5)
        again = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path)
        assert torch.equal(again(features).logits, model(features).logits)
        # output_hidden_size null is written as the width that it stands for
        assert again.config == dataclasses.replace(config, output_hidden_size=64)


def test_a_folder_by_transformers_is_read(tmp_path):
    PeerForCTC(PeerConfig(**SMALL.to_dict())).save_pretrained(tmp_path)
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path)
    theirs = PeerForCTC.from_pretrained(tmp_path).eval()
    peer = theirs(rows([20]), attention_mask=mask([20])).logits
    torch.testing.assert_close(model(rows([20])).logits, peer, rtol=0, atol=2e-5)


def test_the_published_body_gets_a_fresh_head_and_adapter(tmp_path, caplog):
    """The published file has no prefix, no head and no adapter."""
    body = PeerForCTC(PeerConfig(**SMALL.to_dict())).wav2vec2_bert
    body.save_pretrained(tmp_path)
    with pytest.raises(w2v.InputError, match=r"missing lm_head\.bias"):
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, add_adapter=True, vocab_size=9)
    assert "adapter" in caplog.text and "starts from a fresh one" in caplog.text
    assert model.lm_head.out_features == 9 and all(torch.isfinite(p).all() for p in model.parameters())
    loaded, ours = body.state_dict(), model.wav2vec2_bert.state_dict()
    for name in loaded:
        assert torch.equal(loaded[name], ours[name]), name
    assert ours["adapter.layers.0.self_attn_conv.weight"].std() == pytest.approx((2 / (3 * 64)) ** 0.5, rel=0.1)


def test_a_new_head_without_the_files_adapter(tmp_path):
    pair(ADAPTER)[0].save_pretrained(tmp_path)
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, add_adapter=False)
    assert model.wav2vec2_bert.adapter is None
    with pytest.raises(w2v.InputError, match=r"unexpected wav2vec2_bert\.adapter"):
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, add_adapter=False)


def test_an_adapter_that_a_fine_tuned_file_lacks_is_an_error(tmp_path):
    pair(SMALL)[0].save_pretrained(tmp_path)
    with pytest.raises(w2v.InputError, match=r"missing wav2vec2_bert\.adapter"):
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, add_adapter=True)


def test_body_from_a_fine_tuned_folder(tmp_path):
    model = pair(ADAPTER)[0]
    model.save_pretrained(tmp_path)
    body = w2v.Wav2Vec2BertModel.from_pretrained(tmp_path)
    out = body(ADAPTER.collate(noises(16_000, 9_000)))
    assert out.last_hidden_state.shape == (2, 25, 64) and out.frame_lengths.tolist() == [25, 14]


def test_the_tiny_shape_is_small():
    assert sum(p.numel() for p in w2v.Wav2Vec2BertForCTC(W2V_BERT_TINY).parameters()) < 3e6


# --- an adapter of any shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_hidden_size": 65_536}, "give an adapter of at most 300000000 weights, theirs has 68736253952"),
        ({"output_hidden_size": 6400, "adapter_kernel_size": 1}, "at most 300000000 weights, theirs has 329318400"),
        ({"adapter_stride": 100, "num_adapter_layers": 10}, "frames of at most 10000 samples, theirs are of 32000000"),
        ({"adapter_stride": 32}, "frames of at most 10000 samples, theirs are of 10240"),
    ],
)
def test_an_adapter_without_measure_is_refused_before_it_is_made(changes, words, tmp_path):
    """The published body's file has no adapter: what its config says of one is all that is known of its size."""
    body = w2v.Wav2Vec2BertModel(SMALL)
    config = fields(vocab_size=None, **changes)
    hf.save(tmp_path, body.state_dict(), config, SMALL.processor())
    assert w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=9).lm_head.out_features == 9
    with pytest.raises(w2v.InputError) as caught:
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=9, add_adapter=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    dataclasses.replace(w2v.W2V_BERT_2, add_adapter=True, num_adapter_layers=4)  # 25 million weights each


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (1, 2), (5, 2), (7, 1), (2, 3), (3, 3), (7, 3), (1, 1)])
def test_the_shortest_clip_is_the_first_with_a_frame(kernel, stride, layers):
    shape = {"adapter_kernel_size": kernel, "adapter_stride": stride, "num_adapter_layers": layers}
    config = dataclasses.replace(ADAPTER, num_hidden_layers=1, **shape)
    model = pair(config)[0]
    (frames,) = model(config.collate(noises(config.shortest))).logit_lengths.tolist()
    assert frames == config.frames(config.shortest) >= 1
    assert config.why_not(config.shortest, [1]) is None
    short = config.shortest - 1
    assert short < 560 or config.frames(short) < 1
    assert config.why_not(short, []) == f"shorter than one frame: {short} samples"
    with pytest.raises(w2v.InputError, match=f"needs at least {config.shortest} samples for one frame, got {short};"):
        config.collate(noises(short))


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


def test_the_masks_embedding_may_be_missing(tmp_path):
    """Only training with masks asks for it."""
    tensors = {n: t for n, t in w2v.Wav2Vec2BertForCTC(SMALL).state_dict().items() if not n.endswith("spec_embed")}
    hf.save(tmp_path, tensors, fields(), SMALL.processor())
    for cls in (w2v.Wav2Vec2BertForCTC, w2v.Wav2Vec2BertModel):
        assert all(torch.isfinite(p).all() for p in cls.from_pretrained(tmp_path).parameters())
