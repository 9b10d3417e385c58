"""Conversions between layouts, and to ONNX, through the command.

Run: pytest tests/recipes/test_convert.py
"""

import dataclasses
import json

import pytest
import torch
import torchaudio
from safetensors.torch import load_file

import w2v
from recipes import convert
from w2v.audio import read_audio
from w2v.decoding.ctc import greedy_decode
from w2v.errors import InputError


@pytest.fixture
def folder(small_config, tmp_path):
    """A fine-tuned folder as a run leaves it."""
    torch.manual_seed(0)
    tokenizer = w2v.CharTokenizer.from_texts(["abcdefgğhıijklmnoöprsştuüvyz'"])
    config = dataclasses.replace(small_config, vocab_size=len(tokenizer), pad_token_id=tokenizer.blank_id)
    w2v.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def same(one, two, but=()):
    one, two = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items() if name not in but)


@pytest.mark.parametrize("layout", ["fairseq", "torchaudio"])
def test_there_and_back(folder, tmp_path, layout):
    there = convert.main([str(folder), str(tmp_path / "there"), "--to", layout])
    back = convert.main([str(tmp_path / "there"), str(tmp_path / "back")])
    assert there["source_layout"] == "transformers"
    assert back["source_layout"] == layout
    if layout == "fairseq":
        assert there["left_out"] == []
        same(folder, tmp_path / "back")
    else:
        assert there["left_out"] == ["wav2vec2.masked_spec_embed"]
        one, two = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
        assert all(torch.equal(value, one[name]) for name, value in two.items())
        assert one.keys() - two.keys() == {"wav2vec2.masked_spec_embed"}
    waveforms = torch.randn(1, 16_000)
    with torch.no_grad():
        ours, again = w2v.load(folder).model(waveforms), w2v.load(tmp_path / "back").model(waveforms)
    assert torch.equal(ours.logits, again.logits)


def test_torchaudio_runs_what_we_write(folder, tmp_path):
    convert.main([str(folder), str(tmp_path / "there"), "--to", "torchaudio"])
    config = w2v.load(folder).model.config
    theirs = torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        extractor_conv_bias=True,
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
        encoder_layer_norm_first=True,
        encoder_layer_drop=0.0,
        aux_num_out=config.vocab_size,
    ).eval()
    theirs.load_state_dict(load_file(tmp_path / "there" / "model.safetensors"))
    waveforms = torch.randn(2, 16_000)
    with torch.no_grad():
        torch.testing.assert_close(theirs(waveforms)[0], w2v.load(folder).model(waveforms).logits, atol=2e-5, rtol=0)


def test_torchaudio_state_dict_as_torch_saves_it(folder, tmp_path):
    """The .pth of a plain state dict, as torchaudio publishes its models."""
    convert.main([str(folder), str(tmp_path / "there"), "--to", "torchaudio"])
    (tmp_path / "pth").mkdir()
    torch.save(load_file(tmp_path / "there" / "model.safetensors"), tmp_path / "pth" / "model.pth")
    (tmp_path / "there" / "config.json").rename(tmp_path / "pth" / "config.json")
    assert convert.main([str(tmp_path / "pth" / "model.pth"), str(tmp_path / "out")])["source_layout"] == "torchaudio"
    one, two = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    assert all(torch.equal(value, one[name]) for name, value in two.items())


def test_fairseq_checkpoint_with_its_dictionary(folder, tmp_path):
    """A fine-tuned .pt with argparse settings, and dict.ltr.txt beside it: a folder that transcribes."""
    import argparse

    convert.main([str(folder), str(tmp_path / "there"), "--to", "fairseq"])
    tensors = load_file(tmp_path / "there" / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    layers = list(zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True))
    args = argparse.Namespace(encoder_attention_heads=4, layer_norm_first=True, conv_feature_layers=str(layers))
    (tmp_path / "pt").mkdir()
    torch.save({"args": args, "model": tensors}, tmp_path / "pt" / "model.pt")
    letters = [chr(ord("a") + i) for i in range(config["vocab_size"] - 5)]
    (tmp_path / "pt" / "dict.ltr.txt").write_text("| 100\n" + "".join(f"{letter} 10\n" for letter in letters))
    convert.main([str(tmp_path / "pt" / "model.pt"), str(tmp_path / "out")])
    asr = w2v.load(tmp_path / "out")
    assert asr.tokenizer.blank_id == 0
    assert asr.model.config.num_attention_heads == 4
    waveforms = torch.randn(1, 16_000)
    with torch.no_grad():
        assert torch.equal(asr.model(waveforms).logits, w2v.load(folder).model(waveforms).logits)
    (tmp_path / "pt" / "dict.ltr.txt").write_text("| 100\n")
    with pytest.raises(InputError, match="one token per output"):
        convert.main([str(tmp_path / "pt" / "model.pt"), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_half_precision(folder, tmp_path):
    convert.main([str(folder), str(tmp_path / "half"), "--dtype", "bf16"])
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    assert len(w2v.load(tmp_path / "half").transcribe([torch.randn(16_000)])) == 1


@pytest.mark.slow
def test_onnx_gives_the_same_logits_and_texts_on_real_clips(folder, tmp_path, clips, capfd):
    import onnxruntime

    convert.main([str(folder), str(tmp_path / "onnx"), "--to", "onnx"])
    assert capfd.readouterr().out == ""
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    asr = w2v.load(folder)
    for group in (clips[:1], clips[1:4]):
        batch = w2v.TINY.collate([read_audio(clip) for clip in group], pad=True)
        inputs = {"waveforms": batch.inputs.numpy(), "waveform_lengths": torch.tensor(batch.samples).numpy()}
        logits, lengths = (torch.from_numpy(array) for array in session.run(None, inputs))
        with torch.no_grad():
            out = asr.model(batch)
        assert lengths.tolist() == out.logit_lengths.tolist()
        for row, n in enumerate(lengths):
            torch.testing.assert_close(logits[row, :n], out.logits[row, :n], atol=1e-4, rtol=0)
        texts = [greedy_decode(x, lengths, asr.tokenizer) for x in (logits, out.logits)]
        assert texts[0] == texts[1]
    assert (tmp_path / "onnx" / "vocab.json").is_file()


def test_refusals(folder, tmp_path):
    with pytest.raises(InputError, match="new or empty"):
        convert.main([str(folder), str(folder)])
    with pytest.raises(InputError, match="is missing"):
        convert.main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    from safetensors.torch import save_file

    (tmp_path / "other").mkdir()
    save_file({"embeddings.weight": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(InputError, match=r"embeddings\.weight"):
        convert.main([str(tmp_path / "other"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
