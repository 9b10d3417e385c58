"""Folders as people publish them: read as transformers reads them, trained on, and exported for both.

Run: pytest tests/recipes/test_public_folders.py
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC
from transformers import Wav2Vec2Processor as Processor

import w2v
from recipes import cv_finetune
from w2v.errors import InputError

LETTERS = "abcçdefgğhıijklmnoöpqrsştuüvwxyzâîû'"
VOCAB = {token: i for i, token in enumerate([*LETTERS, "|", "[UNK]", "[PAD]"])}
TOKENS = len(VOCAB)
FEW = ["--max-train-clips", "4", "--batch-clips", "2", "--max-steps", "1", "--device", "cpu", "--lr", "1e-5"]
PROCESSOR = {
    "do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
    "padding_value": 0.0, "sampling_rate": 16_000, "return_attention_mask": True,
}  # fmt: skip
TOKENIZER = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": "|",
    "do_lower_case": False, "bos_token": None, "eos_token": None,
}  # fmt: skip


def publish(folder, outputs=TOKENS, norm="layer", **processor):
    """A small random model whose text changes with what it hears, in transformers' layout."""
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer", conv_bias=norm == "layer", vocab_size=outputs,
        pad_token_id=VOCAB["[PAD]"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.normal_()
        for name, p in model.named_parameters():
            if "conv_layers" in name and "conv.weight" in name:
                p.normal_(std=0.6)
            if "conv_layers" in name and name.endswith("bias"):
                p.normal_(std=0.3)
    model.save_pretrained(folder)
    write(folder / "vocab.json", VOCAB)
    write(folder / "preprocessor_config.json", PROCESSOR | processor)
    write(folder / "tokenizer_config.json", TOKENIZER)
    return folder


def write(file, value):
    file.write_text(json.dumps(value, ensure_ascii=False))


def peer_text(folder, waveform):
    """What transformers writes, without the special tokens that it writes too."""
    processor, model = Processor.from_pretrained(folder), Wav2Vec2ForCTC.from_pretrained(folder).eval()
    inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        text = processor.batch_decode(model(inputs.input_values).logits.argmax(-1))[0]
    for token in ("<s>", "</s>", "[UNK]"):
        text = text.replace(token, "")
    return " ".join(text.split())


@pytest.fixture
def waveform(clips):
    return w2v.read_audio(clips[0])


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_model_that_hears_clips_as_they_are(norm, nested, waveform, tmp_path):
    """nested: transformers 5 saves the same in processor_config.json."""
    folder = publish(tmp_path / "m", norm=norm, do_normalize=False)
    if nested:
        Processor.from_pretrained(folder).save_pretrained(folder)
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
        assert "feature_extractor" in json.loads((folder / "processor_config.json").read_text())
    text = w2v.load(folder).transcribe([waveform])[0].text
    assert text == peer_text(folder, waveform)
    normalising = w2v.load(publish(tmp_path / "normalising", norm=norm))
    other = normalising.transcribe([waveform])[0].text
    assert other == peer_text(tmp_path / "normalising", waveform)
    assert other != text or norm == "group"  # a norm over time takes the loudness away
    # An override, as of any other field of the config.
    assert w2v.Wav2Vec2ForCTC.from_pretrained(folder, do_normalize=True).config == normalising.model.config


def test_waveforms_reach_such_a_model_unchanged(waveform, tmp_path):
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(publish(tmp_path, do_normalize=False))
    config = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path).config
    theirs = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
    assert torch.equal(config.collate([waveform]).inputs, theirs)
    stored = np.round(waveform * 32768).clip(-32768, 32767).astype(np.int16)
    assert torch.equal(config.collate([stored]).inputs, torch.from_numpy(stored / np.float32(32768))[None])


def test_such_a_model_is_trained_on_and_exported_as_it_is(waveform, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("normalised")

    monkeypatch.setattr("w2v.models.wav2vec2_config.normalise", refuse)
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    folder, out = publish(tmp_path / "m", do_normalize=False), tmp_path / "out"
    cv_finetune.main(["--lang", "tr", "--model", str(folder), "--out", str(out), *FEW])
    assert json.loads((out / "preprocessor_config.json").read_text())["do_normalize"] is False
    assert "do_normalize" not in json.loads((out / "config.json").read_text())
    assert Wav2Vec2FeatureExtractor.from_pretrained(out).do_normalize is False
    assert w2v.load(out).transcribe([waveform])[0].text == peer_text(out, waveform)


def test_such_a_model_comes_from_the_hub_alike(hub, waveform, tmp_path):
    folder = publish(tmp_path / "m", do_normalize=False)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    hub.publish("some-one/model", **files)
    asr = w2v.load("some-one/model")
    assert asr.model.config.do_normalize is False
    assert asr.transcribe([waveform])[0].text == peer_text(folder, waveform)
    assert cv_finetune.resolve_model("some-one/model", tmp_path / "cache").config.do_normalize is False


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("do_normalize", "false"), ("do_normalize", None), ("return_attention_mask", 3), ("feature_size", 80),
        ("sampling_rate", 8000), ("padding_side", "left"), ("padding_value", -1.0),
        ("feature_extractor_type", "SeamlessM4TFeatureExtractor"), ("sampling_rate", [16_000]),
    ],
)  # fmt: skip
def test_other_settings_of_the_processor_are_refused_by_name(setting, value, tmp_path):
    folder = publish(tmp_path, **{setting: value})
    for read in (w2v.load, w2v.Wav2Vec2ForCTC.from_pretrained, lambda d: cv_finetune.resolve_model(str(d), tmp_path)):
        with pytest.raises(InputError, match=rf"^preprocessor_config\.json: {setting} must be .*; use") as error:
            read(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("masked", [True, False])
def test_the_attention_mask_changes_no_clip(masked, waveform, tmp_path):
    folder = publish(tmp_path, return_attention_mask=masked)
    texts = [heard.text for heard in w2v.load(folder).transcribe([waveform, waveform[:20_000]])]
    assert texts == [peer_text(folder, waveform), peer_text(folder, waveform[:20_000])]


def with_added_tokens(folder, form):
    """`<s>` and `</s>` beside vocab.json, in each form that transformers has had for that."""
    names, ids = {"bos_token": "<s>", "eos_token": "</s>"}, {"<s>": TOKENS, "</s>": TOKENS + 1}
    if form in ("added_tokens.json", "special_tokens_map.json"):
        write(folder / "added_tokens.json", ids)
    if form == "special_tokens_map.json":
        write(folder / "special_tokens_map.json", names | {"pad_token": {"content": "[PAD]"}, "unk_token": "[UNK]"})
        names = {}
    settings = TOKENIZER | names
    if form == "special_tokens_map.json":
        settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer"}
    if form == "added_tokens_decoder":
        marks = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        settings["added_tokens_decoder"] = {str(i): {"content": token, **marks} for token, i in ids.items()}
    if form == "not named":
        settings = {name: value for name, value in TOKENIZER.items() if name not in ("bos_token", "eos_token")}
    write(folder / "tokenizer_config.json", settings)


FORMS = ["added_tokens.json", "special_tokens_map.json", "added_tokens_decoder", "named", "not named"]


@pytest.mark.parametrize("form", FORMS)
def test_added_tokens_are_read_as_transformers_reads_them(form, waveform, tmp_path):
    folder = publish(tmp_path, outputs=TOKENS + 2)
    with_added_tokens(folder, form)
    asr, theirs = w2v.load(folder), Wav2Vec2CTCTokenizer.from_pretrained(folder)
    assert asr.tokenizer.vocab == theirs.get_vocab()
    assert asr.transcribe([waveform])[0].text == peer_text(folder, waveform)
    assert asr.tokenizer.decode([0, TOKENS, 1, TOKENS + 1]) == "ab"
    assert asr.tokenizer.encode("<s>") == [VOCAB["[UNK]"], VOCAB["s"], VOCAB["[UNK]"]]


@pytest.mark.parametrize("form", FORMS)
def test_a_head_without_the_added_tokens_is_read_too(form, waveform, tmp_path):
    """transformers names them, and the model cannot say them."""
    folder = publish(tmp_path)
    with_added_tokens(folder, form)
    asr = w2v.load(folder)
    assert asr.tokenizer.vocab == VOCAB
    assert asr.transcribe([waveform])[0].text == peer_text(folder, waveform)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["added_tokens.json", "named"])
def test_a_head_with_added_tokens_is_trained_on_and_exported(form, waveform, tmp_path, monkeypatch):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    folder, out = publish(tmp_path / "m", outputs=TOKENS + 2), tmp_path / "out"
    with_added_tokens(folder, form)
    cv_finetune.main(["--lang", "tr", "--model", str(folder), "--out", str(out), *FEW])
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    torch.testing.assert_close(after["lm_head.weight"], before["lm_head.weight"], atol=1e-3, rtol=0)
    asr, theirs = w2v.load(out), Wav2Vec2CTCTokenizer.from_pretrained(out)
    assert asr.tokenizer.vocab == theirs.get_vocab() == w2v.load(folder).tokenizer.vocab
    assert asr.transcribe([waveform])[0].text == peer_text(out, waveform)
    assert len(theirs) == asr.model.config.vocab_size == TOKENS + 2
    assert set(theirs.all_special_tokens) - {"|"} == {"<s>", "</s>", "[UNK]", "[PAD]"}


def test_a_head_of_another_size_stays_refused(tmp_path):
    for outputs in (TOKENS - 1, TOKENS + 3):
        folder = publish(tmp_path / str(outputs), outputs=outputs)
        with_added_tokens(folder, "added_tokens.json")
        with pytest.raises(InputError, match="must have the same size"):
            w2v.load(folder)
