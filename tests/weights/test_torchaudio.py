"""torchaudio's layout: every name, equal logits in the library that owns it, nothing lost in silence.

Run: pytest tests/weights/test_torchaudio.py
"""

import dataclasses

import pytest
import torch
import torchaudio
from conftest import published
from safetensors.torch import save_file

import w2v
from w2v.errors import InputError
from w2v.weights.torchaudio import from_hf, is_layout, to_hf

CONVOLUTIONS = [(32, 10, 5)] + [(32, 3, 2)] * 4 + [(48, 2, 2)] * 2
PRETRAINING = ("masked_spec_embed", "quantizer.", "project_q.", "project_hid.")


@pytest.fixture(params=["layer_norm", "group_norm"])
def peer(request):
    """A small torchaudio model of either kind, no two of its tensors alike."""
    torch.manual_seed(0)
    layer_norm = request.param == "layer_norm"
    model = torchaudio.models.wav2vec2_model(
        extractor_mode=request.param,
        extractor_conv_layer_config=CONVOLUTIONS,
        extractor_conv_bias=layer_norm,
        encoder_embed_dim=64,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=96,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=layer_norm,
        encoder_layer_drop=0.0,
        aux_num_out=11,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def config(peer):
    """The fields of our config for `peer`."""
    layer_norm = "feature_extractor.conv_layers.1.layer_norm.weight" in peer.state_dict()
    dims, kernels, strides = zip(*CONVOLUTIONS, strict=True)
    return w2v.Wav2Vec2Config(
        vocab_size=11,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        feat_extract_norm="layer" if layer_norm else "group",
        conv_dim=dims,
        conv_kernel=kernels,
        conv_stride=strides,
        conv_bias=layer_norm,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=layer_norm,
    )


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def old_weight_norm(tensors):
    return {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }


def worst(ours, theirs):
    difference = (ours - theirs).abs()
    return f"max {difference.max():.2e}, mean {difference.mean():.2e}"


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_logits_of_a_torchaudio_model(peer, config, spelling, tmp_path):
    state = peer.state_dict() if spelling == "new" else old_weight_norm(peer.state_dict())
    assert any("weight_g" in name for name in state) == (spelling == "old")
    tensors, left_out = to_hf(state)
    assert left_out == []
    save_file(tensors, tmp_path / "m.safetensors")
    model = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path / "m.safetensors", config=config)
    waveforms = torch.randn(2, 8_000)
    with torch.no_grad():
        ours, theirs = model(waveforms).logits, peer(waveforms)[0]
    assert ours.shape == theirs.shape == (2, 24, 11)
    assert theirs.std() > 0.1  # a model whose logits are all alike would prove nothing
    assert torch.allclose(ours, theirs, atol=2e-5, rtol=0), worst(ours, theirs)


def test_torchaudio_computes_our_logits(peer, config):
    torch.manual_seed(1)
    model = w2v.Wav2Vec2ForCTC(config).eval()
    tensors, left_out = from_hf(model.state_dict())
    assert left_out == ["wav2vec2.masked_spec_embed"]
    peer.load_state_dict(tensors, strict=True)
    waveforms = torch.randn(1, 8_000)
    with torch.no_grad():
        ours, theirs = model(waveforms).logits, peer(waveforms)[0]
    assert torch.allclose(ours, theirs, atol=2e-5, rtol=0), worst(ours, theirs)


@pytest.mark.parametrize("base", [w2v.TINY, w2v.BASE], ids=["xlsr-like", "base-like"])
def test_round_trip_is_bit_equal_for_all_it_can_hold(base):
    small = dataclasses.replace(
        base, hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, conv_dim=(16,) * len(base.conv_dim),
    )  # fmt: skip
    state = {name: torch.randn_like(tensor) for name, tensor in w2v.Wav2Vec2ForCTC(small).state_dict().items()}
    state |= {"quantizer.codevectors": torch.randn(3), "project_q.weight": torch.randn(3)}
    there, left_out = from_hf(state)
    assert left_out == ["wav2vec2.masked_spec_embed", "quantizer.codevectors", "project_q.weight"]
    back, lost = to_hf(there)
    assert lost == []
    assert back.keys() == state.keys() - set(left_out)
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())
    body = {n.removeprefix("wav2vec2."): t for n, t in old_weight_norm(state).items() if n.startswith("wav2vec2.")}
    again, left_out = from_hf(body)  # without prefix, in the old spelling
    assert left_out == ["masked_spec_embed"]
    assert all(again[name] is tensor for name, tensor in there.items() if not name.startswith("aux."))


def test_every_published_name_maps():
    listed = published("torchaudio_WAV2VEC2_XLSR53_names.tsv")
    tensors, left_out = to_hf(listed)
    assert left_out == []
    with torch.device("meta"):
        wanted = shapes(w2v.Wav2Vec2Model(w2v.XLSR_53).state_dict())
    del wanted["masked_spec_embed"]
    assert shapes(tensors) == {f"wav2vec2.{name}": shape for name, shape in wanted.items()}
    assert shapes(from_hf(tensors)[0]) == shapes(listed)


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_names_of_transformers_map_or_are_listed(spelling):
    listed = published(f"hf_Wav2Vec2ForPreTraining_xlsr53_{spelling}_names.tsv")
    tensors, left_out = from_hf(listed)
    assert shapes(tensors) == shapes(published("torchaudio_WAV2VEC2_XLSR53_names.tsv"))
    assert left_out == [n for n in listed if n.removeprefix("wav2vec2.").startswith(PRETRAINING)]
    assert len(left_out) == 8
    tuned = published("hf_Wav2Vec2ForCTC_xlsr53_vocab32_new_names.tsv")
    tensors, left_out = from_hf(tuned)
    assert left_out == ["wav2vec2.masked_spec_embed"]
    assert shapes(tensors)["aux.weight"] == (32, 1024)
    assert len(tensors) == len(tuned) - 1


def test_the_layout_is_told_from_transformers(peer):
    assert is_layout(peer.state_dict())
    hf, _ = to_hf(peer.state_dict())
    assert not is_layout(hf)
    assert not is_layout(name.removeprefix("wav2vec2.") for name in hf)


def test_unknown_names_are_listed(peer):
    """Parts of other architectures share our prefixes: they must neither vanish nor slip through."""
    extra = {
        "encoder.transformer.layers.0.attention.gru_rel_pos_linear.weight": torch.zeros(1),
        "encoder.transformer.layers.0.final_layer_norm.running_mean": torch.zeros(1),
        "encoder.transformer.layer_norm.weight_scale": torch.zeros(1),
        "mask_generator.mask_embedding": torch.zeros(1),
        "wav2vec2.encoder.layer_norm.weight": torch.zeros(1),
        "lm_head.weight": torch.zeros(1),
    }
    tensors, left_out = to_hf(peer.state_dict() | extra)
    assert left_out == list(extra)
    assert tensors.keys() == to_hf(peer.state_dict())[0].keys()
    adapter = "wav2vec2.encoder.layers.0.adapter_layer.norm.weight"
    assert from_hf(tensors | {adapter: torch.zeros(1)})[1] == [adapter]


@pytest.mark.parametrize("half", ["parametrizations.weight.original0", "parametrizations.weight.original1"])
def test_half_a_weight_norm_is_an_error(peer, half):
    state = peer.state_dict()
    hf, _ = to_hf(state)
    name = "encoder.transformer.pos_conv_embed.conv." + half
    del state[name]
    with pytest.raises(InputError, match=name):
        to_hf(state)
    old = name.replace(half, {"0": "weight_g", "1": "weight_v"}[half[-1]])
    with pytest.raises(InputError, match=old):
        to_hf(old_weight_norm(state))
    name = "wav2vec2.encoder.pos_conv_embed.conv." + half
    del hf[name]
    with pytest.raises(InputError, match=name) as error:
        from_hf(hf)
    assert "\n" not in str(error.value)


def test_a_tensor_in_both_spellings_is_an_error(peer):
    with pytest.raises(InputError, match="once"):
        to_hf(peer.state_dict() | old_weight_norm(peer.state_dict()))
