"""The recipes with a small Whisper of random weights: trained, resumed, exported, measured, and what they refuse.

Run: pytest tests/recipes/test_whisper_recipes.py
"""

import dataclasses
import io
import json
import shutil
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import SAMPLE
from safetensors.torch import load_file

import w2v
from recipes import align, cv_evaluate, cv_finetune, cv_prepare, transcribe
from recipes.prepared import vocabulary_record
from recipes.upload import EXPORTED, files_of
from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError
from w2v.models.whisper_config import WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer

pytestmark = pytest.mark.usefixtures("cache")
WINDOW = 5  # seconds: a few of the sample's clips are longer
DATA = ["--lang", "tr", "--data", str(SAMPLE), "--device", "cpu"]
SAVED = ["--save-steps", "2", "--eval-steps", "4"]
TRAIN = [*DATA, "--max-train-clips", "6", "--batch-clips", "3", "--precision", "fp32"]


def make_whisper(folder, is_multilingual: bool = True) -> str:
    torch.manual_seed(0)
    tokenizer = WhisperTokenizer.from_texts(["a"])
    if not is_multilingual:
        tokenizer = WhisperTokenizer(tokenizer.vocab, [], is_multilingual=False)
    config = WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50 * WINDOW, max_target_positions=64, init_std=0.1,
        vocab_size=len(tokenizer), decoder_start_token_id=tokenizer.sot_id, pad_token_id=tokenizer.eos_id,
        bos_token_id=tokenizer.eos_id, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    fields = config.for_vocabulary(tokenizer)
    w2v.WhisperForConditionalGeneration(dataclasses.replace(config, **fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> str:
    return make_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def finished(whisper, tmp_path_factory, cache):
    """A run of four steps, its evaluation included, and its summary."""
    out = tmp_path_factory.mktemp("runs") / "run"
    summary = cv_finetune.main([*TRAIN, "--model", whisper, "--max-steps", "4", *SAVED, "--out", str(out)])
    return out, summary


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_run_leaves_a_folder_that_others_can_load(finished, whisper, clips):
    out, summary = finished
    assert summary["steps"] == 4 and summary["wer"] is not None
    record = json.loads((out / "run.json").read_text())
    assert "language: the model is told tr" in record["decisions"]
    assert not any("frames per label" in line for line in record["decisions"])
    skipped = (out / "skipped.tsv").read_text()
    assert f"longer than a window of {WINDOW} s" in skipped
    assert json.loads((out / "generation_config.json").read_text())["language"] == "tr"
    assert not torch.equal(
        weights(out)["model.encoder.conv1.weight"],
        load_file(f"{whisper}/model.safetensors")["model.encoder.conv1.weight"],
    )
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(out, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(out)
    asr = w2v.load(out)
    assert asr.tokenizer.language == "tr" and asr.normaliser is not None
    waveform = w2v.read_audio(clips[0])[: WINDOW * SAMPLE_RATE]
    inputs = processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[:, :, : 100 * WINDOW]
    tokens = torch.tensor([asr.tokenizer.prompt()])
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(inputs, decoder_input_ids=tokens).logits, asr.model(inputs, tokens), atol=1e-4, rtol=0
        )
    assert processor.tokenizer("merhaba").input_ids == [
        *asr.tokenizer.prompt(),
        *asr.tokenizer.encode_text("merhaba"),
        asr.tokenizer.eos_id,
    ]
    card = (out / "README.md").read_text()
    assert "model.generate(**inputs)" in card and "WhisperForConditionalGeneration" in card
    sent = {file.name for file in files_of(out, EXPORTED)}
    assert {"generation_config.json", "merges.txt", "vocab.json", "preprocessor_config.json"} <= sent
    assert "run.json" not in sent


def test_a_resumed_run_is_the_same_bit_for_bit(finished, whisper, tmp_path):
    out, _ = finished
    again = tmp_path / "again"
    shutil.copytree(out, again)
    (again / "checkpoints" / "step-0000004.pt").unlink()
    cv_finetune.main([*TRAIN, "--model", whisper, "--max-steps", "4", *SAVED, "--out", str(again), "--resume"])
    one, two = weights(out), weights(again)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_frozen_encoder_hears_once_and_stays_as_it_is(whisper, tmp_path, monkeypatch):
    heard = []
    original = w2v.WhisperForConditionalGeneration.hear
    monkeypatch.setattr(
        w2v.WhisperForConditionalGeneration,
        "hear",
        lambda self, batch: heard.append(len(batch)) or original(self, batch),
    )
    flags = [
        *TRAIN,
        "--model",
        whisper,
        "--max-steps",
        "6",
        "--freeze-encoder",
        "--dev-split",
        "none",
        "--test-split",
        "none",
    ]
    cv_finetune.main([*flags, "--out", str(tmp_path / "kept")])
    trained = len(heard) - 1  # the last batch is the evaluation of the training clips
    assert trained <= 4, "two batches of the first epoch, and at most as many of mixed ones"
    cv_finetune.main([*flags, "--out", str(tmp_path / "masked"), "--mask-time-prob", "0.05"])
    before = load_file(f"{whisper}/model.safetensors")
    after = weights(tmp_path / "kept")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("model.encoder.")}


def test_quotes_are_trained_where_they_are_kept(whisper, tmp_path):
    flags = [
        *TRAIN,
        "--model",
        whisper,
        "--max-steps",
        "1",
        "--dev-split",
        "none",
        "--test-split",
        "none",
        "--case",
        "keep",
        "--keep-chars",
        '."',
        "--out",
        str(tmp_path / "r"),
    ]
    cv_finetune.main(flags)
    dot = w2v.load(tmp_path / "r").tokenizer.encode_text(".")[0]
    assert dot not in w2v.load(tmp_path / "r").model.config.generation.suppress_tokens


@pytest.mark.slow
def test_preparing_measuring_and_transcribing(finished, whisper, tmp_path, clips, capsys, monkeypatch):
    out, _ = finished
    facts = cv_prepare.main([*DATA[:4], "--model", whisper])
    assert facts["vocabulary"] == vocabulary_record(WhisperTokenizer.from_pretrained(whisper))
    report = cv_evaluate.main(["--model", str(out), *DATA, "--limit", "3", "--beam", "2"])
    assert report["clips"] == 3 and report["lm"] is None
    report = cv_evaluate.main(["--model", whisper, *DATA, "--limit", "2"])
    assert report["wer"] is not None, "told --lang, because its folder names no language"
    capsys.readouterr()
    for form in ("text", "json", "tsv", "srt", "vtt"):
        summary = transcribe.main(["--model", str(out), "--device", "cpu", str(clips[0]), "--format", form, "--words"])
        assert summary["recordings"] == 1 and (capsys.readouterr().out or form == "srt")
    transcribe.main(
        ["--model", str(out), "--device", "cpu", str(clips[0]), "--chunked", "--task", "translate", "--beam", "2"]
    )
    said = (np.random.default_rng(0).normal(0, 3000, SAMPLE_RATE)).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(said))))
    assert transcribe.main(["--model", str(out), "--device", "cpu", "-"])["audio_seconds"] == pytest.approx(1, abs=0.1)


def test_what_is_refused(finished, whisper, tmp_path, clips):
    out, model = finished[0], ["--model", whisper]
    english = make_whisper(tmp_path / "english", is_multilingual=False)
    text = tmp_path / "text.txt"
    text.write_text("merhaba\n")
    clip = str(clips[0])
    for command, flags, message in (
        (transcribe, ["--model", str(out), clip, "--lm", "x.arpa"], "--lm needs a model with frame posteriors"),
        (transcribe, ["--model", str(out), clip, "--hot-words", "a"], "--hot-words needs a model with frame"),
        (align, ["--model", str(out), "--text", str(text), clip], "must give frame posteriors"),
        (cv_finetune, [*TRAIN, *model, "--adapter"], "unknown config fields adapter_attn_dim"),
        (cv_finetune, [*TRAIN, "--model", english], "English-only weights cannot be used for tr"),
        (
            cv_finetune,
            [*TRAIN, *model, "--freeze-encoder", "--train-feature-encoder"],
            "--freeze-encoder leaves no part",
        ),
        (cv_finetune, [*TRAIN, *model, "--prompt-language", "ky"], "must be a language that the model has a token for"),
        (
            cv_finetune,
            [*TRAIN, "--prompt-language", "tr", "--model", "random:tiny"],
            "is for models with a language token",
        ),
    ):
        with pytest.raises(InputError, match=message) as caught:
            command.main(flags)
        assert "\n" not in str(caught.value)


def test_a_large_vocabulary_is_recorded_by_its_digest(whisper):
    tokenizer = WhisperTokenizer.from_pretrained(whisper)
    assert vocabulary_record(tokenizer) == tokenizer.tokens
    tokenizer.tokens = [f"{token} {i}" for i, token in enumerate(tokenizer.tokens * 20)]
    tokenizer.vocab = {token: i for i, token in enumerate(tokenizer.tokens)}
    [line] = vocabulary_record(tokenizer)
    assert line.startswith(f"{len(tokenizer)} tokens, sha256 ")
