"""fairseq's layout: every name, both ways bit for bit. Its files are in test_fairseq_files.py.

Run: pytest tests/weights/test_fairseq.py
"""

import dataclasses

import pytest
import torch
from conftest import published
from torchaudio.models.wav2vec2.utils.import_fairseq import _convert_state_dict
from transformers import Wav2Vec2Config as PeerConfig
from transformers import Wav2Vec2ForPreTraining

import w2v
from w2v.errors import InputError
from w2v.weights import torchaudio as torchaudio_layout
from w2v.weights.fairseq import (
    config_of,
    from_hf,
    is_layout,
    to_hf,
)

BASES = {"xlsr-like": w2v.XLSR_53, "base-like": w2v.BASE}
INFERRED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "feat_extract_norm",
    "conv_dim", "conv_stride", "conv_kernel", "conv_bias", "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups", "do_stable_layer_norm",
)  # fmt: skip


def small(name):
    return dataclasses.replace(
        BASES[name], hidden_size=64, intermediate_size=96, num_hidden_layers=12, num_attention_heads=1, vocab_size=9,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, conv_dim=(16, 16, 16, 16, 16, 16, 24),
    )  # fmt: skip


def random_like(state):
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


@pytest.fixture(params=BASES)
def tuned(request):
    """The tensors of a small CTC model in transformers' names, no two alike."""
    torch.manual_seed(0)
    return random_like(w2v.Wav2Vec2ForCTC(small(request.param)).state_dict())


@pytest.fixture(params=BASES)
def pretrained(request):
    """Likewise of a pretraining model, its quantiser included."""
    torch.manual_seed(0)
    fields = dataclasses.asdict(small(request.param))
    fields |= {"codevector_dim": 12, "proj_codevector_dim": 20}
    fields |= {"num_codevectors_per_group": 5, "num_codevector_groups": 2}
    return random_like(Wav2Vec2ForPreTraining(PeerConfig(**fields)).state_dict())


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def new_weight_norm(tensors):
    return {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in tensors.items()
    }


def assert_bit_equal(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name


# --- names


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_published_lists_map_onto_each_other(spelling):
    fairseq = published("fairseq_xlsr_53_56k_names.tsv")
    hf = published(f"hf_Wav2Vec2ForPreTraining_xlsr53_{spelling}_names.tsv")
    tensors, left_out = from_hf(hf)
    assert left_out == []
    assert shapes(tensors) == shapes(fairseq)
    tensors, left_out = to_hf(fairseq if spelling == "old" else new_weight_norm(fairseq))
    assert left_out == []
    assert shapes(tensors) == shapes(new_weight_norm(hf))
    with torch.device("meta"):
        body = w2v.Wav2Vec2Model(w2v.XLSR_53).state_dict()
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith("wav2vec2.")}
    assert shapes(ours) == {f"wav2vec2.{name}": shape for name, shape in shapes(body).items()}


def test_published_ctc_list_maps():
    hf = published("hf_Wav2Vec2ForCTC_xlsr53_vocab32_new_names.tsv")
    tensors, left_out = from_hf(hf)
    assert left_out == []
    assert {name.split(".")[1] for name in tensors} == {"w2v_model", "proj"}
    body = published("fairseq_xlsr_53_56k_names.tsv")
    heads = ("quantizer.", "project_q.", "final_proj.")
    wanted = {f"w2v_encoder.w2v_model.{n}": shape for n, shape in shapes(body).items() if not n.startswith(heads)}
    wanted |= {"w2v_encoder.proj.weight": (32, 1024), "w2v_encoder.proj.bias": (32,)}
    assert shapes(tensors) == wanted
    assert shapes(to_hf(tensors)[0]) == shapes(hf)


def test_round_trips_are_bit_equal(tuned, pretrained):
    for state in (tuned, pretrained):
        there, left_out = from_hf(state)
        assert left_out == []
        assert len(there) == len(state)
        back, lost = to_hf(there)
        assert lost == []
        assert_bit_equal(back, state)
        assert_bit_equal(from_hf(back)[0], there)


def test_names_without_prefix_are_those_of_a_pretrained_file(tuned):
    body = {n.removeprefix("wav2vec2."): t for n, t in tuned.items() if n.startswith("wav2vec2.")}
    names = from_hf(body)[0].keys()
    assert names == {n.removeprefix("w2v_encoder.w2v_model.") for n in from_hf(tuned)[0] if ".proj." not in n}
    assert "encoder.pos_conv.0.weight_g" in names and "mask_emb" in names


def test_group_norm_sits_where_fairseq_has_it(tuned):
    names = {n for n in from_hf(tuned)[0] if "conv_layers" in n and n.endswith((".2.weight", ".2.1.weight"))}
    prefix = "w2v_encoder.w2v_model.feature_extractor.conv_layers."
    if "wav2vec2.feature_extractor.conv_layers.1.layer_norm.weight" in tuned:
        assert names == {f"{prefix}{i}.2.1.weight" for i in range(7)}
    else:
        assert names == {prefix + "0.2.weight"}


def test_torchaudio_reads_the_same_from_our_names(tuned):
    """torchaudio has a table of its own for fairseq's names, of the encoder inside a fine-tuned model."""
    theirs, _ = from_hf(tuned)
    converted = _convert_state_dict({name.removeprefix("w2v_encoder."): tensor for name, tensor in theirs.items()})
    ours, _ = torchaudio_layout.from_hf(to_hf(theirs)[0])
    assert_bit_equal(new_weight_norm(converted), ours)


def test_the_layout_is_told_from_the_others(tuned, pretrained):
    for state in (tuned, pretrained):
        theirs = from_hf(state)[0]
        assert is_layout(theirs)
        assert not torchaudio_layout.is_layout(theirs)
        assert not is_layout(state)
        assert not is_layout(name.removeprefix("wav2vec2.") for name in state)
        assert not is_layout(torchaudio_layout.from_hf(state)[0])


def test_unknown_names_are_listed(pretrained):
    theirs, _ = from_hf(pretrained)
    extra = ("target_glu.0.weight", "encoder.layers.0.adapter_layer.W_a", "encoder.layers.*.fc1.weight",
             "quantizer.weight_proj.0.0.weight", "feature_extractor.conv_layers.1.2.weight",
             "decoder.layers.0.fc1.weight")  # fmt: skip
    tensors, left_out = to_hf(theirs | {name: torch.zeros(1) for name in extra})
    assert left_out == list(extra)
    assert_bit_equal(tensors, pretrained)
    adapter = "wav2vec2.encoder.layers.0.adapter_layer.norm.weight"
    assert from_hf(pretrained | {adapter: torch.zeros(1)})[1] == [adapter]


@pytest.mark.parametrize("half", ["weight_g", "weight_v"])
def test_half_a_weight_norm_is_an_error(pretrained, half):
    theirs, _ = from_hf(pretrained)
    del theirs["encoder.pos_conv.0." + half]
    with pytest.raises(InputError, match="encoder.pos_conv.0." + half):
        to_hf(theirs)
    with pytest.raises(InputError, match=r"encoder\.pos_conv\.0\.parametrizations"):
        to_hf(new_weight_norm(theirs))
    name = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original" + str("gv".index(half[-1]))
    with pytest.raises(InputError, match=name) as error:
        from_hf({n: t for n, t in pretrained.items() if n != name})
    assert "\n" not in str(error.value)


def test_a_tensor_given_twice_is_an_error(pretrained):
    theirs, _ = from_hf(pretrained)
    with pytest.raises(InputError, match="once"):
        to_hf(theirs | new_weight_norm(theirs))


# --- config


@pytest.mark.parametrize("name", ["base", "large-lv60", "xlsr-53", "xls-r-300m", "xls-r-1b", "xls-r-2b"])
def test_config_of_every_published_shape(name):
    from w2v.models.wav2vec2_config import CONFIGS

    with torch.device("meta"):
        tensors = w2v.Wav2Vec2ForCTC(CONFIGS[name]).state_dict()
    fields = config_of(tensors)
    wanted = {field: getattr(CONFIGS[name], field) for field in INFERRED}
    assert fields == {"model_type": "wav2vec2", **wanted}
    body = {n.removeprefix("wav2vec2."): t for n, t in tensors.items() if not n.startswith("lm_head")}
    assert config_of(body) == {k: v for k, v in fields.items() if k != "vocab_size"}
    assert dataclasses.replace(w2v.Wav2Vec2Config.from_dict(fields), **wanted) == w2v.Wav2Vec2Config.from_dict(fields)


def test_config_of_a_quantiser_builds_transformers_model(pretrained):
    fields = config_of(pretrained)
    with torch.device("meta"):
        peer = Wav2Vec2ForPreTraining(PeerConfig(**fields))
    assert shapes(peer.state_dict()) == shapes(pretrained)


def test_settings_of_the_file_win_over_guesses(tuned):
    layers = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(24,2,1)]"
    args = {"encoder_attention_heads": 8, "layer_norm_first": True, "conv_feature_layers": layers}
    fields = config_of(tuned, args)
    assert fields["num_attention_heads"] == 8
    assert fields["do_stable_layer_norm"] is True
    assert fields["conv_stride"] == (5, 2, 2, 2, 2, 2, 1)
    assert config_of(tuned, {**args, "layer_norm_first": False})["do_stable_layer_norm"] is False
    # Unresolved or of another model: the weights decide.
    fields = config_of(tuned, {"encoder_attention_heads": "${x}", "conv_feature_layers": "[(512, 10, 3)] * 7"})
    assert (fields["num_attention_heads"], fields["conv_stride"]) == (1, (5, 2, 2, 2, 2, 2, 2))


def test_what_cannot_be_told_is_an_error(tuned):
    with torch.device("meta"):
        tiny = w2v.Wav2Vec2Model(w2v.TINY).state_dict()
        narrow = w2v.Wav2Vec2Model(dataclasses.replace(small("base-like"), hidden_size=48, num_attention_heads=2))
    with pytest.raises(InputError, match=r"strides .* \(10, 8, 4, 4, 2, 2\)"):
        config_of(tiny)
    layers = "[(32, 10, 5)] + [(48, 8, 4)] + [(64, 4, 4), (64, 4, 2)] + [(96, 2, 2)] + [(128, 2, 2)]"
    assert config_of(tiny, {"conv_feature_layers": layers})["conv_stride"] == w2v.TINY.conv_stride
    with pytest.raises(InputError, match=r"heads .* 48"):
        config_of(narrow.state_dict())
    missing = "wav2vec2.feature_extractor.conv_layers.0.conv.weight"
    with pytest.raises(InputError, match=missing):
        config_of({n: t for n, t in tuned.items() if n != missing})
