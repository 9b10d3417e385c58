"""W2V-BERT 2.0 in transformers' layout through recipes.convert, and to ONNX. Seamless's layout: test_seamless.py.

Run: pytest tests/recipes/test_convert_w2v_bert.py
"""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import w2v
from recipes import convert
from w2v.errors import InputError

SMALL = dataclasses.replace(
    w2v.W2V_BERT_2, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    conv_depthwise_kernel_size=7,
)  # fmt: skip


@pytest.fixture(params=[False, True], ids=["plain", "adapter"])
def folder(request, tmp_path):
    """A fine-tuned folder as a run leaves it, with the length adapter and without."""
    torch.manual_seed(0)
    tokenizer = w2v.CharTokenizer.from_texts(["abcdefgğhıijklmnoöprsştuüvyz'"])
    fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.blank_id, "add_adapter": request.param}
    model = w2v.Wav2Vec2BertForCTC(dataclasses.replace(SMALL, **fields))
    with torch.no_grad():
        for parameter in model.parameters():  # larger than drawn, so that frames differ
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def waveforms(*seconds):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(int(16_000 * s), generator=generator).numpy() * 0.1 for s in seconds]


def logits(folder):
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(folder)
    with torch.no_grad():
        return model(model.config.collate(waveforms(1.3, 2.1))).logits


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_folder_of_ours_stays_what_it_is(folder, tmp_path, capfd, dtype):
    summary = convert.main([str(folder), str(tmp_path / "out"), "--to", "hf", "--dtype", dtype])
    assert (summary["source_layout"], summary["layout"], summary["left_out"]) == ("transformers", "hf", [])
    assert "transformers layout" in capfd.readouterr().err
    one, two = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor.half() if dtype == "fp16" else tensor), name
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}
    for name in ("preprocessor_config.json", "vocab.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    error = (logits(folder) - logits(tmp_path / "out").float()).abs().max()
    assert error <= {"fp32": 0, "fp16": 0.1}[dtype]
    assert len(w2v.load(tmp_path / "out").transcribe(waveforms(1))) == 1


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_folder_that_transformers_saved(folder, tmp_path, dtype):
    """The dtype in its config.json follows, and transformers reads the result."""
    from transformers import Wav2Vec2BertForCTC

    Wav2Vec2BertForCTC.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    convert.main([str(tmp_path / "theirs"), str(tmp_path / "out"), "--dtype", dtype])
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["dtype"] == {"fp32": "float32", "fp16": "float16"}[dtype]
    peer = Wav2Vec2BertForCTC.from_pretrained(tmp_path / "out", dtype=torch.float32)
    wanted = load_file(folder / "model.safetensors")
    for name, tensor in peer.state_dict().items():
        assert torch.equal(tensor, wanted[name].half().float() if dtype == "fp16" else wanted[name]), name


def test_other_targets_are_refused(folder, tmp_path):
    for to in ("fairseq", "torchaudio", "openai"):
        with pytest.raises(InputError, match=f"--to {to} takes no W2V-BERT 2.0 model, .*; use --to hf or onnx"):
            convert.main([str(folder), str(tmp_path / "out"), "--to", to])
    assert not (tmp_path / "out").exists()


def test_a_body_alone_stays_one(folder, tmp_path):
    """As facebook/w2v-bert-2.0 is published: no head, no prefix."""
    tensors = load_file(folder / "model.safetensors")
    body = {name.removeprefix("wav2vec2_bert."): t for name, t in tensors.items() if not name.startswith("lm_head.")}
    save_file(body, folder / "model.safetensors")
    assert convert.main([str(folder), str(tmp_path / "out")])["tensors"] == len(body)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == body.keys()


@pytest.mark.slow
def test_onnx_gives_the_same_logits(folder, tmp_path, capfd):
    import onnxruntime

    convert.main([str(folder), str(tmp_path / "onnx"), "--to", "onnx"])
    assert capfd.readouterr().out == ""
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["features", "feature_lengths"]
    model = w2v.load(folder).model
    for seconds in ((1.0,), (2.03, 1.5), (1.2, 5.17, 0.3)):
        batch = model.config.collate(waveforms(*seconds), pad=True)
        inputs = {"features": batch.inputs.numpy(), "feature_lengths": batch.layout.lengths.numpy()}
        logits, lengths = (torch.from_numpy(array) for array in session.run(None, inputs))
        with torch.no_grad():
            out = model(batch)
        assert logits.shape == out.logits.shape
        assert lengths.tolist() == out.logit_lengths.tolist()
        for row, n in enumerate(lengths):
            assert out.logits[row, :n].std(0).mean() > 0.05  # frames differ
            torch.testing.assert_close(logits[row, :n], out.logits[row, :n], atol=1e-4, rtol=0)
    for name in ("vocab.json", "preprocessor_config.json"):
        assert (tmp_path / "onnx" / name).is_file()
