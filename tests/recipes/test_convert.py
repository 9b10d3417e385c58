"""Conversions between layouts, and to ONNX, through the command.

Run: pytest tests/recipes/test_convert.py [--whisper DIR, with a real folder base]
"""

import base64
import dataclasses
import functools
import json
import os

import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file

import w2v
from recipes import convert
from w2v.audio import read_audio
from w2v.decoding.ctc import greedy_decode
from w2v.errors import InputError
from w2v.text.whisper_tokenizer import WhisperTokenizer


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
    (tmp_path / "other").mkdir()
    save_file({"embeddings.weight": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(InputError, match=r"embeddings\.weight"):
        convert.main([str(tmp_path / "other"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# --- Whisper

TOKENIZER = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture(scope="module")
def whisper_of_transformers():
    """A small model with all of Whisper's parts, no two of its tensors alike."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=4,
        encoder_ffn_dim=256, decoder_ffn_dim=256, max_source_positions=20, max_target_positions=12,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 50257), decoder_start_token_id=50258,
        begin_suppress_tokens=[220, 50257],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def small_whisper(whisper_of_transformers, tmp_path):
    """Its folder as fine-tuning leaves it."""
    folder = tmp_path / "whisper"
    whisper_of_transformers.save_pretrained(folder)
    (folder / "multilingual.tiktoken").write_bytes(ranks())
    WhisperTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "multilingual.tiktoken").unlink()
    return folder


@functools.cache
def ranks():
    """50,257 tokens as OpenAI's multilingual.tiktoken has them: single bytes, pairs, and the empty one."""
    pairs = [bytes((i // 256, i % 256)) for i in range(50_000)]
    tokens = [*(bytes((i,)) for i in range(256)), *pairs, b""]
    return b"".join(b"%b %d\n" % (base64.b64encode(token) or b"=", i) for i, token in enumerate(tokens))


def logits(folder):
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(1)
    frames = torch.randn(1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    with torch.no_grad():
        return model(frames, decoder_input_ids=torch.tensor([[50258, 50268, 50359, 50363, 11]])).logits


def test_whisper_there_and_back_is_bit_equal(small_whisper, tmp_path):
    there = convert.main([str(small_whisper), str(tmp_path / "there"), "--to", "openai"])
    back = convert.main([str(tmp_path / "there" / "model.pt"), str(tmp_path / "back")])
    assert (there["source_layout"], back["source_layout"]) == ("transformers", "openai")
    assert there["left_out"] == back["left_out"] == []
    same(small_whisper, tmp_path / "back")
    for name in ("config.json", "generation_config.json"):
        one, two = (json.loads((folder / name).read_text()) for folder in (small_whisper, tmp_path / "back"))
        assert one == two
    for name in TOKENIZER:
        assert (tmp_path / "back" / name).read_bytes() == (small_whisper / name).read_bytes()
    assert torch.equal(logits(small_whisper), logits(tmp_path / "back"))
    convert.main([str(tmp_path / "there"), str(tmp_path / "folder")])  # the folder that holds model.pt
    same(small_whisper, tmp_path / "folder")


def test_whisper_s_pt_alone(small_whisper, tmp_path, capfd):
    """As OpenAI publishes it: everything but the vocabulary is made."""
    convert.main([str(small_whisper), str(tmp_path / "there"), "--to", "openai"])
    (tmp_path / "pt").mkdir()
    (tmp_path / "there" / "model.pt").rename(tmp_path / "pt" / "mine.pt")
    capfd.readouterr()
    convert.main([str(tmp_path / "pt" / "mine.pt"), str(tmp_path / "out")])
    err = capfd.readouterr().err
    assert f"no vocabulary beside {tmp_path / 'pt' / 'mine.pt'} (a Whisper tokenizer must be vocab.json with" in err
    assert "has none of them); copy vocab.json and merges.txt of openai/whisper-base there and convert again\n" in err
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (generation["lang_to_id"]["<|tr|>"], len(generation["suppress_tokens"])) == (50268, 88)
    assert generation["alignment_heads"] == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert torch.equal(logits(small_whisper), logits(tmp_path / "out"))


@pytest.mark.parametrize("beside", ["OpenAI's", "vocab.json and merges.txt"])
def test_a_vocabulary_beside_a_pt_makes_a_whole_folder(small_whisper, tmp_path, capfd, beside):
    convert.main([str(small_whisper), str(tmp_path / "there"), "--to", "openai"])
    (tmp_path / "pt").mkdir()
    (tmp_path / "there" / "model.pt").rename(tmp_path / "pt" / "a.pt")
    if beside == "OpenAI's":
        (tmp_path / "pt" / "multilingual.tiktoken").write_bytes(ranks())
        (tmp_path / "pt" / "gpt2.tiktoken").write_text("of the English-only models")
    else:
        for name in ("vocab.json", "merges.txt"):  # as published: without special tokens but the end
            (tmp_path / "pt" / name).write_bytes((small_whisper / name).read_bytes())
    convert.main([str(tmp_path / "pt" / "a.pt"), str(tmp_path / "out")])
    assert "no vocabulary" not in capfd.readouterr().err
    for name in TOKENIZER:
        assert (tmp_path / "out" / name).read_bytes() == (small_whisper / name).read_bytes()
    assert not (tmp_path / "out" / "gpt2.tiktoken").exists()
    tokenizer = WhisperTokenizer.from_pretrained(tmp_path / "out")
    assert (len(tokenizer), tokenizer.sot_id, tokenizer.language_ids["tr"]) == (51865, 50258, 50268)


def test_a_vocabulary_that_cannot_be_read_is_said(small_whisper, tmp_path, capfd):
    (small_whisper / "vocab.json").write_text('{"a": 7}')
    convert.main([str(small_whisper), str(tmp_path / "out")])
    assert f"no vocabulary beside {small_whisper} (" in capfd.readouterr().err
    same(small_whisper, tmp_path / "out")


def test_forced_decoder_ids_do_not_survive_a_pt(small_whisper, tmp_path):
    convert.main([str(small_whisper), str(tmp_path / "there"), "--to", "openai"])
    for name in ("config.json", "generation_config.json"):
        file = tmp_path / "there" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"forced_decoder_ids": [[1, 50259]], "mine": 1}))
    convert.main([str(tmp_path / "there" / "model.pt"), str(tmp_path / "out")])
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((tmp_path / "out" / name).read_text())
        assert "forced_decoder_ids" not in fields and fields["mine"] == 1


@pytest.mark.parametrize("form", ["shards", "bin", "WhisperModel"])
def test_whisper_in_other_forms_of_a_folder(small_whisper, whisper_of_transformers, tmp_path, form):
    folder = tmp_path / "other"
    if form == "shards":
        whisper_of_transformers.save_pretrained(folder, max_shard_size="200KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    elif form == "WhisperModel":
        whisper_of_transformers.model.save_pretrained(folder)
    else:
        folder.mkdir()
        (folder / "config.json").write_bytes((small_whisper / "config.json").read_bytes())
        torch.save(whisper_of_transformers.state_dict(), folder / "pytorch_model.bin")  # proj_out.weight among them
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert (
        convert.main([str(folder), str(tmp_path / "out")])["tensors"] == len(whisper_of_transformers.state_dict()) - 1
    )
    same(small_whisper, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["no_timestamps_token_id"] == 50363
    assert torch.equal(logits(small_whisper), logits(tmp_path / "out"))


def test_whisper_in_half_precision(small_whisper, tmp_path):
    convert.main([str(small_whisper), str(tmp_path / "half"), "--to", "openai", "--dtype", "fp16"])
    content = torch.load(tmp_path / "half" / "model.pt", weights_only=True)
    assert {tensor.dtype for tensor in content["model_state_dict"].values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    convert.main([str(tmp_path / "half" / "model.pt"), str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    one, two = (load_file(folder / "model.safetensors") for folder in (small_whisper, tmp_path / "out"))
    assert all(torch.equal(one[name].half().float(), tensor) for name, tensor in two.items())


class Hostile:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (self.place,))


def test_refusals_of_whisper(folder, small_whisper, tmp_path):
    out = str(tmp_path / "out")
    for to in ("fairseq", "torchaudio", "onnx"):
        with pytest.raises(InputError, match=f"--to {to} takes no Whisper model, .*; use --to hf or openai"):
            convert.main([str(small_whisper), out, "--to", to])
    with pytest.raises(InputError, match=r"--to openai takes no wav2vec 2.0 model, .*; use --to hf or fairseq or"):
        convert.main([str(folder), out, "--to", "openai"])
    there = tmp_path / "there"
    convert.main([str(small_whisper), str(there), "--to", "openai"])
    fields = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps(fields | {"decoder_attention_heads": 2}))
    with pytest.raises(InputError, match=r"config.json must have the sizes of .*model.pt, it has others; move"):
        convert.main([str(there / "model.pt"), out])
    (small_whisper / "config.json").write_text(json.dumps(fields | {"decoder_layers": 3}))
    with pytest.raises(InputError, match=r"the model does not fit its config: missing decoder\.blocks\.2"):
        convert.main([str(small_whisper), out, "--to", "openai"])
    (small_whisper / "config.json").write_text(json.dumps(fields | {"encoder_ffn_dim": 128}))
    with pytest.raises(InputError, match="encoder_ffn_dim 256 only"):
        convert.main([str(small_whisper), out, "--to", "openai"])
    content = torch.load(there / "model.pt", weights_only=True)
    torch.save(content["model_state_dict"], tmp_path / "state.pth")
    with pytest.raises(InputError, match="n_mels must be"):  # names without dims
        convert.main([str(tmp_path / "state.pth"), out])
    torch.save(content | {"more": Hostile(str(tmp_path / "ran"))}, tmp_path / "hostile.pt")
    with pytest.raises(InputError, match="nothing was run"):
        convert.main([str(tmp_path / "hostile.pt"), out])
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_real_whisper_there_and_back(whisper_folder, tmp_path):
    from transformers import AutoTokenizer

    folder = whisper_folder("base")
    convert.main([str(folder), str(tmp_path / "there"), "--to", "openai", "--dtype", "fp16"])
    (tmp_path / "pt").mkdir()
    (tmp_path / "there" / "model.pt").rename(tmp_path / "pt" / "base.pt")
    for name in ("vocab.json", "merges.txt"):  # all that is not made
        (tmp_path / "pt" / name).write_bytes((folder / name).read_bytes())
    convert.main([str(tmp_path / "pt" / "base.pt"), str(tmp_path / "back"), "--dtype", "fp16"])
    same(folder, tmp_path / "back")
    for name in ("config.json", "generation_config.json", "preprocessor_config.json"):
        one, two = (json.loads((folder / name).read_text()) for folder in (folder, tmp_path / "back"))
        one.pop("torch_dtype", None)  # of this copy alone
        assert one == two
    assert torch.equal(logits(folder), logits(tmp_path / "back"))
    theirs, ours = (AutoTokenizer.from_pretrained(place) for place in (folder, tmp_path / "back"))
    assert theirs.get_vocab().items() - ours.get_vocab().items() == {("<|nocaptions|>", 50362)}  # <|nospeech|> today
    text = "Ancak avantajlar bunlarla da kalmıyor."
    assert theirs(text).input_ids == ours(text).input_ids
