"""Checkpoints in transformers' layout, whole and broken.

Run: pytest tests/weights/test_hf.py
"""

import dataclasses
import json

import pytest
import torch
from conftest import published
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config as PeerConfig
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining
from transformers import Wav2Vec2ForCTC as PeerForCTC

import w2v
from w2v.errors import InputError
from w2v.weights.hf import tensor_names, warn_if_not_finite
from w2v.weights.wav2vec2 import body_names


@pytest.fixture
def folder(small_config, tmp_path):
    torch.manual_seed(0)
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_round_trip_is_bit_equal(small_config, tmp_path):
    model = w2v.Wav2Vec2ForCTC(small_config)
    model.save_pretrained(tmp_path)
    for loaded in (w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path),
                   w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path / "model.safetensors")):  # fmt: skip
        assert loaded.config == small_config
        assert not loaded.training
        assert all(p.requires_grad for p in loaded.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name


def test_saved_folder_says_what_the_model_hears(tmp_path):
    for config in (w2v.TINY, dataclasses.replace(w2v.BASE, num_hidden_layers=1)):
        w2v.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
        assert (extractor.sampling_rate, extractor.do_normalize) == (16_000, True)
        assert extractor.return_attention_mask != config.pads


def test_transformers_reads_ours_and_we_read_theirs(small_config, folder, tmp_path):
    ours = w2v.Wav2Vec2ForCTC.from_pretrained(folder)
    theirs, info = PeerForCTC.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    waveforms = torch.randn(1, 16_000)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(waveforms).logits, ours(waveforms).logits, atol=2e-5, rtol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    again = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        assert torch.equal(again(waveforms).logits, ours(waveforms).logits)


def test_old_weight_norm_names_are_read_not_left_random(folder):
    wanted = w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()

    def rename(tensors):
        for name in [name for name in tensors if "parametrizations" in name]:
            new = name.replace("parametrizations.weight.original0", "weight_g")
            tensors[new.replace("parametrizations.weight.original1", "weight_v")] = tensors.pop(name)

    edit(folder, rename)
    loaded = w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.items())


def test_pretrained_body_gets_a_new_head(small_config, tmp_path):
    """A pretraining checkpoint: the quantiser is ignored by name, the head is fresh, the body is the file's."""
    fields = dataclasses.asdict(small_config)
    theirs = Wav2Vec2ForPreTraining(PeerConfig(**fields))
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=41, pad_token_id=40)
    assert model.lm_head.weight.shape == (41, small_config.hidden_size)
    assert 0.015 < model.lm_head.weight.std() < 0.025
    assert (model.lm_head.bias == 0).all()
    body = theirs.wav2vec2.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in model.wav2vec2.state_dict().items())
    alone = w2v.Wav2Vec2Model.from_pretrained(tmp_path)
    assert all(torch.equal(value, body[name]) for name, value in alone.state_dict().items())
    with pytest.raises(InputError, match=r"missing lm_head.bias, lm_head.weight.*new_head=True"):
        w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path)


def test_bin_files_are_read_and_code_in_them_is_not_run(folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    wanted = w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    loaded = w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.items())

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "planted"), "w"))

    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot read"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)
    assert not (tmp_path / "planted").exists()


def test_half_precision_files_give_float32_models(folder):
    edit(folder, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    assert {p.dtype for p in w2v.Wav2Vec2ForCTC.from_pretrained(folder).parameters()} == {torch.float32}


def test_overrides_change_the_config(folder):
    model = w2v.Wav2Vec2ForCTC.from_pretrained(folder, hidden_dropout=0.25, mask_time_prob=0.1)
    assert model.config.hidden_dropout == 0.25
    assert model.wav2vec2.encoder.layers[0].dropout.p == 0.25
    with pytest.raises(InputError, match="unknown config fields hiden_dropout"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder, hiden_dropout=0.25)


def test_missing_unexpected_and_reshaped_tensors_are_named(folder):
    def damage(tensors):
        del tensors["wav2vec2.encoder.layers.0.attention.k_proj.weight"]
        tensors["wav2vec2.adapter.weight"] = torch.zeros(1)
        tensors["wav2vec2.encoder.layer_norm.bias"] = torch.zeros(3)

    edit(folder, damage)
    with pytest.raises(InputError) as error:
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)
    for words in ("missing wav2vec2.encoder.layers.0.attention.k_proj.weight", "unexpected wav2vec2.adapter.weight",
                  "wav2vec2.encoder.layer_norm.bias (3,) instead of (128,)"):  # fmt: skip
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_weight_norm_half_is_an_error(folder):
    edit(folder, lambda t: t.pop("wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"))
    with pytest.raises(InputError, match="original0"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_unreadable_weights(folder, content):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(InputError, match="cannot read"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)


def test_a_header_that_lies_about_sizes(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"] = [10**6, 10**6]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data[8 + int.from_bytes(data[:8], "little") :]))
    with pytest.raises(InputError, match="cannot read"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)


def test_weights_that_are_not_finite_are_named(folder, caplog):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.bias"][3] = float("nan")
    warn_if_not_finite(tensors, folder)
    assert "lm_head.bias" in caplog.text
    assert "lm_head.weight" not in caplog.text
    warn_if_not_finite({"huge": torch.full((10,), 3e38)}, folder)  # finite, though its sum is not
    assert "huge" not in caplog.text


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_read_as_one(folder, whole):
    wanted = w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    suffix = whole.split(".")[1]
    files = {f"a.{suffix}": names[::2], f"b.{suffix}": names[1::2]}
    for file, part in files.items():
        (save_file if suffix == "safetensors" else torch.save)({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / f"{whole}.index.json").write_text(json.dumps(index))
    loaded = w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.items())
    assert tensor_names(folder / f"{whole}.index.json") == set(tensors)
    (folder / f"b.{suffix}").unlink()
    with pytest.raises(InputError, match=rf"needs its shard b\.{suffix}"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)


@pytest.mark.parametrize("map_", [None, ["a.bin"], {"x": "../a.bin"}, {"x": 3}, {"x": "model.safetensors.index.json"}])
def test_an_index_that_names_other_things_than_files_beside_it_is_refused(folder, map_):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    with pytest.raises(InputError, match="must"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)


def test_other_architectures_and_variants_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    for change, words in (({"model_type": "hubert"}, "must be wav2vec2"), ({"add_adapter": True}, "add_adapter"),
                          ({"hidden_act": "relu"}, "hidden_act")):  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=words):
            w2v.Wav2Vec2ForCTC.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"needs a config.json"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder)
    with pytest.raises(InputError, match="missing"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder / "nowhere")


@pytest.mark.parametrize("names", ["new", "old"])
def test_every_published_name_and_shape_of_xlsr_53_has_its_place(names):
    tensors = published(f"hf_Wav2Vec2ForPreTraining_xlsr53_{names}_names.tsv")
    with torch.device("meta"):
        wanted = w2v.Wav2Vec2Model(w2v.XLSR_53).state_dict()
    assert {k: v.shape for k, v in body_names(tensors).items()} == {k: v.shape for k, v in wanted.items()}
