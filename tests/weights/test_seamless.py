"""W2V-BERT 2.0 as Seamless Communication publishes it: every name in both spellings, the config, the command.

The names stand here once more, by hand, as two public programs give them; no published file was at hand.

Run: pytest tests/weights/test_seamless.py
"""

import argparse
import json

import pytest
import torch
from conftest import published
from safetensors.torch import load_file, save_file
from test_fairseq_files import omegaconf as omegaconf

import w2v
from recipes import convert
from w2v.errors import InputError
from w2v.weights import fairseq, openai_whisper, seamless, torchaudio, w2v_bert, wav2vec2, whisper
from w2v.weights.seamless import config_of, is_layout, to_hf

# transformers', fairseq's, fairseq2's; N is the number of a layer.
NAMES = """
masked_spec_embed mask_emb masker.temporal_mask_embed
feature_projection.layer_norm.weight layer_norm.weight encoder_frontend.post_extract_layer_norm.weight
feature_projection.layer_norm.bias layer_norm.bias encoder_frontend.post_extract_layer_norm.bias
feature_projection.projection.weight post_extract_proj.weight encoder_frontend.model_dim_proj.weight
feature_projection.projection.bias post_extract_proj.bias encoder_frontend.model_dim_proj.bias
encoder.layers.N.ffn1_layer_norm.weight encoder.layers.N.ffn1.layer_norm.weight encoder.layers.N.ffn1_layer_norm.weight
encoder.layers.N.ffn1_layer_norm.bias encoder.layers.N.ffn1.layer_norm.bias encoder.layers.N.ffn1_layer_norm.bias
encoder.layers.N.ffn1.intermediate_dense.weight encoder.layers.N.ffn1.w_1.weight encoder.layers.N.ffn1.inner_proj.weight
encoder.layers.N.ffn1.intermediate_dense.bias encoder.layers.N.ffn1.w_1.bias encoder.layers.N.ffn1.inner_proj.bias
encoder.layers.N.ffn1.output_dense.weight encoder.layers.N.ffn1.w_2.weight encoder.layers.N.ffn1.output_proj.weight
encoder.layers.N.ffn1.output_dense.bias encoder.layers.N.ffn1.w_2.bias encoder.layers.N.ffn1.output_proj.bias
encoder.layers.N.self_attn_layer_norm.weight encoder.layers.N.self_attn_layer_norm.weight encoder.layers.N.self_attn_layer_norm.weight
encoder.layers.N.self_attn_layer_norm.bias encoder.layers.N.self_attn_layer_norm.bias encoder.layers.N.self_attn_layer_norm.bias
encoder.layers.N.self_attn.linear_q.weight encoder.layers.N.self_attn.q_proj.weight encoder.layers.N.self_attn.q_proj.weight
encoder.layers.N.self_attn.linear_q.bias encoder.layers.N.self_attn.q_proj.bias encoder.layers.N.self_attn.q_proj.bias
encoder.layers.N.self_attn.linear_k.weight encoder.layers.N.self_attn.k_proj.weight encoder.layers.N.self_attn.k_proj.weight
encoder.layers.N.self_attn.linear_k.bias encoder.layers.N.self_attn.k_proj.bias encoder.layers.N.self_attn.k_proj.bias
encoder.layers.N.self_attn.linear_v.weight encoder.layers.N.self_attn.v_proj.weight encoder.layers.N.self_attn.v_proj.weight
encoder.layers.N.self_attn.linear_v.bias encoder.layers.N.self_attn.v_proj.bias encoder.layers.N.self_attn.v_proj.bias
encoder.layers.N.self_attn.linear_out.weight encoder.layers.N.self_attn.out_proj.weight encoder.layers.N.self_attn.output_proj.weight
encoder.layers.N.self_attn.linear_out.bias encoder.layers.N.self_attn.out_proj.bias encoder.layers.N.self_attn.output_proj.bias
encoder.layers.N.self_attn.distance_embedding.weight encoder.layers.N.self_attn.rel_k_embedding.weight encoder.layers.N.self_attn.sdpa.rel_k_embed.weight
encoder.layers.N.conv_module.layer_norm.weight encoder.layers.N.conv_module.layer_norm.weight encoder.layers.N.conv_layer_norm.weight
encoder.layers.N.conv_module.layer_norm.bias encoder.layers.N.conv_module.layer_norm.bias encoder.layers.N.conv_layer_norm.bias
encoder.layers.N.conv_module.pointwise_conv1.weight encoder.layers.N.conv_module.pointwise_conv1.weight encoder.layers.N.conv.pointwise_conv1.weight
encoder.layers.N.conv_module.depthwise_conv.weight encoder.layers.N.conv_module.depthwise_conv.weight encoder.layers.N.conv.depthwise_conv.weight
encoder.layers.N.conv_module.depthwise_layer_norm.weight encoder.layers.N.conv_module.layer_norm2.weight encoder.layers.N.conv.layer_norm.weight
encoder.layers.N.conv_module.depthwise_layer_norm.bias encoder.layers.N.conv_module.layer_norm2.bias encoder.layers.N.conv.layer_norm.bias
encoder.layers.N.conv_module.pointwise_conv2.weight encoder.layers.N.conv_module.pointwise_conv2.weight encoder.layers.N.conv.pointwise_conv2.weight
encoder.layers.N.ffn2_layer_norm.weight encoder.layers.N.ffn2.layer_norm.weight encoder.layers.N.ffn2_layer_norm.weight
encoder.layers.N.ffn2_layer_norm.bias encoder.layers.N.ffn2.layer_norm.bias encoder.layers.N.ffn2_layer_norm.bias
encoder.layers.N.ffn2.intermediate_dense.weight encoder.layers.N.ffn2.w_1.weight encoder.layers.N.ffn2.inner_proj.weight
encoder.layers.N.ffn2.intermediate_dense.bias encoder.layers.N.ffn2.w_1.bias encoder.layers.N.ffn2.inner_proj.bias
encoder.layers.N.ffn2.output_dense.weight encoder.layers.N.ffn2.w_2.weight encoder.layers.N.ffn2.output_proj.weight
encoder.layers.N.ffn2.output_dense.bias encoder.layers.N.ffn2.w_2.bias encoder.layers.N.ffn2.output_proj.bias
encoder.layers.N.final_layer_norm.weight encoder.layers.N.final_layer_norm.weight encoder.layers.N.layer_norm.weight
encoder.layers.N.final_layer_norm.bias encoder.layers.N.final_layer_norm.bias encoder.layers.N.layer_norm.bias
"""  # noqa: E501
SPELLINGS = ("fairseq", "fairseq2")
# What pretraining leaves in a file, by spelling: no part of the model.
LEFT_OUT = {
    "fairseq": (
        "quantizer.vars", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias", "project_q.weight",
        "project_q.bias", "final_proj.weight", "final_proj.bias", "mlm_proj.weight", "mlm_proj.bias",
        "encoder.layer_norm.weight", "encoder.layer_norm.bias",
    ),
    "fairseq2": (
        "quantizer.entries", "quantizer.entry_proj.weight", "quantizer.entry_proj.bias", "quantizer.num_updates",
        "final_target_proj.weight", "final_target_proj.bias", "final_proj.weight", "final_proj.bias",
    ),
}  # fmt: skip
LAYER = "encoder.layers.0."


def renamed(tensors, spelling):
    """A body in transformers' names -> the same in one of the other two, by the list above."""
    rows = [line.split() for line in NAMES.strip().splitlines()]
    table = {
        row[0].replace("N", str(n)): row[1 + SPELLINGS.index(spelling)].replace("N", str(n))
        for row in rows
        for n in range(24)
    }
    return {table[name]: tensor for name, tensor in tensors.items()}


def random_like(state):
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def peer():
    """A small model of transformers', no two of its tensors alike."""
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig(**sizes, conv_depthwise_kernel_size=7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.fixture
def body(peer):
    return {name: tensor.clone() for name, tensor in peer.state_dict().items()}


@pytest.fixture
def file(body, tmp_path):
    """spelling, what it holds beside `model` -> a .pt with the heads of pretraining in it."""

    def save(spelling, **content):
        (tmp_path / "pt").mkdir(exist_ok=True)
        heads = {name: torch.randn(()) for name in LEFT_OUT[spelling]}  # num_updates has no dimension
        torch.save({"model": renamed(body, spelling) | heads, **content}, tmp_path / "pt" / "conformer_shaw.pt")
        return tmp_path / "pt" / "conformer_shaw.pt"

    return save


# --- names


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_tensor_has_its_name_in_transformers(body, spelling):
    assert "masked_spec_embed" in body and len(body) == 5 + 2 * 32
    heads = {name: torch.zeros(1) for name in LEFT_OUT[spelling]}
    tensors, left_out = to_hf(renamed(body, spelling) | heads)
    assert left_out == list(heads)
    assert tensors.keys() == body.keys()
    assert all(torch.equal(tensor, body[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_published_shape_maps(spelling):
    listed = published("hf_w2v_bert_names.tsv")
    prefix = "wav2vec2_bert."
    body = {n.removeprefix(prefix): x for n, x in listed.items() if n.startswith(prefix) and ".adapter." not in n}
    tensors, left_out = to_hf(renamed(body, spelling))
    assert left_out == [] and {n: x.shape for n, x in tensors.items()} == {n: x.shape for n, x in body.items()}
    assert w2v.Wav2Vec2BertConfig.from_dict(config_of(tensors)) == w2v.W2V_BERT_2


def test_the_layout_is_told_from_the_others(body):
    others = (fairseq, torchaudio, openai_whisper, whisper)
    for spelling in SPELLINGS:
        names = list(renamed(body, spelling))
        assert is_layout(names)
        assert not any(other.is_layout(names) for other in others if (other, spelling) != (fairseq, "fairseq"))
        assert convert.layout_of(names, "a.pt").name == "seamless"  # fairseq's has wav2vec 2.0's among them
        for prefix in ("speech_encoder.", "model."):
            assert not is_layout(prefix + name for name in names)
    assert w2v_bert.is_layout(body) and not is_layout(body)
    with torch.device("meta"):
        others = w2v.Wav2Vec2ForCTC(w2v.TINY).state_dict()
    assert wav2vec2.is_layout(others) and not is_layout(others)
    assert not is_layout(fairseq.from_hf(others)[0])


def test_a_tensor_given_twice_is_an_error(body):
    both = renamed(body, "fairseq") | renamed(body, "fairseq2")
    with pytest.raises(InputError, match=r"each tensor once, \S+ is there in another spelling; remove one"):
        to_hf(both)


@pytest.mark.parametrize(
    "name",
    [
        LAYER + "self_attn.sdpa.rel_v_embed.weight",
        LAYER + "conv_module.batch_norm.running_mean",
        LAYER + "conv.pointwise_conv1.bias",
        "encoder.pos_conv.0.weight_g",
        "encoder_frontend.layer_norm.weight",
        "encoder.layers.*.final_layer_norm.weight",
        "encoder.layers.٣.final_layer_norm.weight",
        "encoder.layers.0\n.final_layer_norm.weight",
    ],
)
def test_a_tensor_of_another_body_is_an_error(body, name):
    with pytest.raises(InputError, match="this is another model") as error:
        to_hf(renamed(body, "fairseq") | {name: torch.zeros(1)})
    assert "\n" not in str(error.value)


# --- config


def test_config_of_a_small_model(body, peer):
    fields = config_of(body)
    assert fields.pop("architectures") == ["Wav2Vec2BertModel"]
    assert len(fields) == 9 and fields == {name: getattr(peer.config, name) for name in fields}
    assert config_of({name: tensor for name, tensor in body.items() if name != "masked_spec_embed"})


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("feature_projection.projection.weight", None, "holds feature_projection.projection.weight, this one lacks"),
        ("feature_projection.projection.weight", (128,), "must have 2 dimensions"),
        ("feature_projection.projection.weight", (0, 160), "must have 2 dimensions"),
        ("feature_projection.projection.weight", (96, 160), "the width must be a multiple of a head's, got 96 and 64"),
        ("feature_projection.projection.weight", (192, 160), "does not fit its config"),
        (LAYER + "self_attn.distance_embedding.weight", (129, 64), "for 73 rows only.* has 129; give a config.json"),
        ("encoder.layers.1.self_attn.distance_embedding.weight", (72, 64), "instead of"),
        (LAYER + "self_attn.linear_k.weight", (128, 64), r"linear_k.weight \(128, 64\) instead of \(128, 128\)"),
        (LAYER + "self_attn.linear_k.bias", (1,), "instead of"),
        (LAYER + "ffn1.intermediate_dense.weight", (64, 128), "instead of"),
        (LAYER + "ffn2.output_dense.weight", (96, 128), "instead of"),
        (LAYER + "conv_module.depthwise_conv.weight", (128, 7), "must have 3 dimensions"),
        (LAYER + "conv_module.pointwise_conv1.weight", (128, 128, 1), "instead of"),
        (LAYER + "conv_module.depthwise_layer_norm.bias", None, "missing .*depthwise_layer_norm.bias"),
        ("encoder.layers.9.final_layer_norm.bias", (128,), "unexpected encoder.layers.9"),
        ("masked_spec_embed", (1, 128), "instead of"),
    ],
)
def test_what_does_not_fit_is_an_error(body, name, shape, words):
    body.pop(name, None)
    if shape is not None:
        body[name] = torch.zeros(shape)
    with pytest.raises(InputError, match=words) as error:
        config_of(body)
    assert "\n" not in str(error.value)


# --- the command


@pytest.mark.parametrize("settings", ["none", "args", "cfg"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_pt_becomes_a_folder_for_both_libraries(peer, file, tmp_path, capfd, omegaconf, spelling, settings):
    from transformers import AutoFeatureExtractor, AutoModel

    model = {"encoder_attention_heads": 16, "layer_norm_first": True}
    content = {
        "none": {},
        "args": {"args": argparse.Namespace(**model), "cfg": None, "extra_state": {"epoch": 3}},
        "cfg": {"args": None, "cfg": omegaconf.convert({"model": model}), "optimizer_history": [{"num_updates": 7}]},
    }
    source, out = file(spelling, **content[settings]), tmp_path / "out"
    omegaconf.gone()
    summary = convert.main([str(source), str(out)])
    assert (summary["source_layout"], summary["tensors"], summary["left_out"]) == ("seamless", 69, [])
    assert f"{source}: Seamless's layout, 69 tensors\n" in (err := capfd.readouterr().err)
    assert f"left out: {', '.join(LEFT_OUT[spelling])}\n" in err
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    features = torch.randn(1, 50, 160)
    ours, theirs = w2v.Wav2Vec2BertModel.from_pretrained(out), AutoModel.from_pretrained(out).eval()
    with torch.no_grad():
        wanted = peer(features).last_hidden_state
        torch.testing.assert_close(ours(features).last_hidden_state, wanted, rtol=0, atol=2e-5)
        assert torch.equal(theirs(features).last_hidden_state, wanted)
    extractor = AutoFeatureExtractor.from_pretrained(out)
    assert type(extractor).__name__ == "SeamlessM4TFeatureExtractor"
    assert (extractor.padding_value, extractor.stride, extractor.num_mel_bins) == (1.0, 2, 80)
    fine_tuned = w2v.Wav2Vec2BertForCTC.from_pretrained(out, new_head=True, add_adapter=True, vocab_size=9)
    assert fine_tuned.lm_head.weight.shape == (9, 128)


def test_what_lies_beside_a_pt_wins(peer, file, tmp_path):
    source = file("fairseq")
    heard = w2v.W2V_BERT_2.processor() | {"padding_value": 0.0}
    (source.parent / "preprocessor_config.json").write_text(json.dumps(heard))
    peer.config.save_pretrained(source.parent)
    convert.main([str(source), str(tmp_path / "out"), "--dtype", "bf16"])
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == heard
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_source_positions"] == 5000
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert w2v.Wav2Vec2BertModel.from_pretrained(tmp_path / "out").config.padding_value == 0.0
    (source.parent / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(InputError, match="architecture must be wav2vec2-bert"):
        convert.main([str(source), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_other_distances_need_a_config(peer, file, body, tmp_path):
    for name in (f"encoder.layers.{n}.self_attn.distance_embedding.weight" for n in range(2)):
        body[name] = torch.randn(5, 64)
    source = file("fairseq2")
    with pytest.raises(InputError, match=r"73 rows only, .* has 5; give a config\.json"):
        convert.main([str(source), str(tmp_path / "out")])
    fields = peer.config.to_dict() | {"left_max_position_embeddings": 3, "right_max_position_embeddings": 1}
    (source.parent / "config.json").write_text(json.dumps(fields))
    convert.main([str(source), str(tmp_path / "out")])
    assert w2v.Wav2Vec2BertModel.from_pretrained(tmp_path / "out").encoder.layers[0].self_attn.left == 3


def test_only_transformers_layout_is_written(file, body, tmp_path):
    for to in ("fairseq", "torchaudio", "openai"):
        with pytest.raises(InputError, match=f"--to {to} takes no W2V-BERT 2.0 model, .*; use --to hf or onnx"):
            convert.main([str(file("fairseq")), str(tmp_path / "out"), "--to", to])
    with pytest.raises(InputError):
        convert.main([str(file("fairseq")), str(tmp_path / "out"), "--to", "onnx"])
    save_file(renamed(body, "fairseq2"), tmp_path / "pt" / "model.safetensors")
    with pytest.raises(InputError):
        convert.main([str(tmp_path / "pt"), str(tmp_path / "out"), "--to", "onnx"])
    assert not (tmp_path / "out").exists()


def test_a_file_of_neither_kind_names_the_layouts(tmp_path):
    torch.save({"model": {"speech_encoder.inner.layers.0.layer_norm.bias": torch.zeros(2)}}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"a W2V-BERT 2\.0 one in transformers' or Seamless's, or a Whisper one"):
        convert.main([str(tmp_path / "m.pt"), str(tmp_path / "out")])
    torch.save(torch.zeros(2), tmp_path / "m.pt")
    with pytest.raises(InputError, match='tensors by name under "model"'):
        convert.main([str(tmp_path / "m.pt"), str(tmp_path / "out")])


def test_seamless_module_is_plain():
    """No name of one spelling means another tensor in the other: the table is a mapping."""
    assert len(seamless.TO_HF) == sum(len(set(line.split()[1:])) for line in NAMES.strip().splitlines())
