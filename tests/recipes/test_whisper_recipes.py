"""The recipes with a small Whisper of random weights: trained, resumed, exported, measured, and what they refuse.

Run: pytest tests/recipes/test_whisper_recipes.py
"""

import dataclasses
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import SAMPLE
from data.releases import write_release
from safetensors.torch import load_file

import w2v
import w2v.models.whisper as whisper_model
from recipes import align, cv_evaluate, cv_finetune, cv_prepare, presets, transcribe
from recipes.cv_prepare import prepare
from recipes.data_settings import data_settings
from recipes.prepared import vocabulary_record
from recipes.settings import parse_arguments
from recipes.start import resolve_model
from recipes.upload import EXPORTED, files_of
from w2v import writing
from w2v.answers import GenerateOptions
from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError
from w2v.model_card import HERE
from w2v.models.whisper_config import CONFIGS, WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer

pytestmark = pytest.mark.usefixtures("cache")
WINDOW = 5  # seconds: a few of the sample's clips are longer
DATA = ["--lang", "tr", "--data", str(SAMPLE), "--device", "cpu"]
NO_SPLITS = ["--dev-split", "none", "--test-split", "none"]
TABLE = ["--train-splits", "validated", *NO_SPLITS, "--device", "cpu"]  # all of it
SAVED = ["--save-steps", "2", "--eval-steps", "4"]
TRAIN = [*DATA, "--max-train-clips", "6", "--batch-clips", "3", "--precision", "fp32"]
FEW = [*TRAIN, *NO_SPLITS]


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


def losses(folder) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_the_cards_snippets_write_the_same_text(finished, clips, tmp_path, monkeypatch, capsys):
    """transformers' generate and w2v, as somebody copies them from the card."""
    shutil.copy(clips[0], tmp_path / "clip.mp3")
    monkeypatch.chdir(tmp_path)
    ours, theirs, *_ = re.findall(r"```python\n(.*?)```", (finished[0] / "README.md").read_text(), re.DOTALL)
    assert "transformers" in theirs and "skip_special_tokens=True" in theirs
    exec(ours.replace(HERE, str(finished[0])), {})
    assert capsys.readouterr().out.count("\n") == 1
    exec(theirs.replace(HERE, str(finished[0])), {})
    written = capsys.readouterr().out
    text = w2v.load(finished[0]).transcribe("clip.mp3", generate=GenerateOptions())[0].text
    assert text and written.strip() == text


def test_a_frozen_encoder_hears_each_clip_once_and_stays_as_it_is(whisper, tmp_path, monkeypatch):
    heard: list[int] = []
    hear = w2v.WhisperForConditionalGeneration.hear
    monkeypatch.setattr(
        w2v.WhisperForConditionalGeneration, "hear", lambda self, batch: heard.append(len(batch)) or hear(self, batch)
    )
    flags = [*FEW, "--model", whisper, "--max-steps", "6", "--freeze-encoder", "--log-steps", "1", "--lr", "1e-3"]
    cv_finetune.main([*flags, "--out", str(tmp_path / "kept")])
    trained = len(heard) - 1  # the last batch is the evaluation of the training clips
    assert trained <= 4, "two batches of the first epoch, and at most as many of mixed ones"
    monkeypatch.setattr(cv_finetune, "kept_hearing", lambda *_: None)
    cv_finetune.main([*flags, "--out", str(tmp_path / "heard")])
    one, two = losses(tmp_path / "kept"), losses(tmp_path / "heard")
    assert len(one) == 6 and one == pytest.approx(two, rel=1e-3) and one[-1] < one[0]
    before = load_file(f"{whisper}/model.safetensors")
    for folder in ("kept", "heard"):
        after = weights(tmp_path / folder)
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert same == {name for name in before if name.startswith("model.encoder.")}


@pytest.mark.parametrize(
    "flags",
    [
        ["--mask-time-prob", "0.05"],
        ["--cut-windows"],
        ["--augment", "gain"],
        *([f"--{name}", "0.1"] for name in ("dropout", "attention-dropout", "activation-dropout", "encoder-layerdrop")),
    ],
)
def test_a_frozen_encoder_hears_again_what_changes(whisper, tmp_path, capsys, flags):
    out = tmp_path / "run"
    cv_finetune.main([*FEW, "--model", whisper, "--max-steps", "1", "--freeze-encoder", *flags, "--out", str(out)])
    assert "the frozen encoder hears each clip in every epoch" in capsys.readouterr().err


def test_windows_are_cut_in_training_alone(whisper, tmp_path, monkeypatch):
    widths: dict[bool, set[int]] = {True: set(), False: set()}
    encoder = whisper_model.Encoder.forward

    def forward(self, mel):
        widths[self.training].add(mel.shape[2])
        return encoder(self, mel)

    monkeypatch.setattr(whisper_model.Encoder, "forward", forward)
    cv_finetune.main([*FEW, "--model", whisper, "--max-steps", "2", "--cut-windows", "--out", str(tmp_path / "cut")])
    assert all(width < 100 * WINDOW for width in widths[True])
    assert widths[False] == {100 * WINDOW}, "measured as the exported folder hears"
    assert "cut_windows" not in json.loads((tmp_path / "cut" / "config.json").read_text())


def test_cut_windows_cost_their_clips_seconds(whisper, tmp_path):
    flags = ["--lang", "tr", "--data", str(SAMPLE), "--device", "cpu", "--max-train-clips", "12", "--epochs", "1"]
    flags += ["--batch-seconds", str(3 * WINDOW), "--accumulation", "1", *NO_SPLITS, "--model", whisper]
    whole = cv_finetune.main([*flags, "--out", str(tmp_path / "whole")])
    cut = cv_finetune.main([*flags, "--cut-windows", "--out", str(tmp_path / "cut")])
    assert cut["steps"] < whole["steps"], "more clips fit into a batch"


def test_quotes_are_trained_and_written_where_they_are_kept(whisper, tmp_path):
    """The published lists suppress quotes and brackets; what the training text holds is suppressed no longer."""
    folder, table = tmp_path / "model", tmp_path / "quotes.tsv"
    shutil.copytree(whisper, folder)
    quote, bracket = (w2v.load(folder).tokenizer.encode_text(char)[0] for char in '"(')
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"suppress_tokens": [quote, bracket]}))
    clips = sorted((SAMPLE / "clips").glob("*.mp3"))[:4]
    table.write_text("path\tsentence\n" + "".join(f'{clip}\t"bir" (iki)\n' for clip in clips))
    flags = ["--lang", "tr", "--data", str(table), *TABLE, "--max-steps", "1"]
    kept = [*flags, "--case", "keep", "--keep-chars", '"']
    cv_finetune.main([*kept, "--model", str(folder), "--out", str(tmp_path / "kept")])
    assert json.loads((tmp_path / "kept" / "generation_config.json").read_text())["suppress_tokens"] == [bracket]
    cv_finetune.main([*flags, "--model", str(folder), "--out", str(tmp_path / "plain")])
    assert json.loads((tmp_path / "plain" / "generation_config.json").read_text())["suppress_tokens"] == [
        quote,
        bracket,
    ]


def test_what_a_window_or_the_text_positions_cannot_hold_is_left_out_by_name(whisper, tmp_path, clips):
    table = tmp_path / "table.tsv"
    long = next(clip for clip in clips if len(w2v.read_audio(clip)) > WINDOW * SAMPLE_RATE)
    short = [clip for clip in clips if len(w2v.read_audio(clip)) < WINDOW * SAMPLE_RATE][:3]
    rows = [(long, "bir"), (short[0], "bir"), (short[1], "u" * 60), (short[2], "u" * 61)]  # 64 with the four tokens
    table.write_text("path\tsentence\n" + "".join(f"{clip}\t{sentence}\n" for clip, sentence in rows))
    out = tmp_path / "run"
    flags = ["--lang", "tr", "--data", str(table), *TABLE, "--max-steps", "1"]
    cv_finetune.main([*flags, "--model", whisper, "--out", str(out)])
    skipped = [line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines()[1:]]
    reasons = {name.rpartition("/")[2]: reason for name, _, reason in skipped}
    assert reasons.keys() == {long.name, short[2].name}
    assert reasons[long.name].startswith(f"longer than a window of {WINDOW} s: ")
    assert reasons[short[2].name] == "too long a text: 65 tokens, the model has 64 positions"


def test_a_language_that_whisper_does_not_know(whisper, tmp_path, clips):
    table = tmp_path / "table.tsv"
    table.write_text("path\tsentence\n" + "".join(f"{clip}\tбир эки\n" for clip in clips[:3]))
    flags = ["--lang", "ky", "--data", str(table), *TABLE]
    train = [*flags, "--model", whisper, "--max-steps", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match=r"no token for ky; give `prompt_language` of .* such as kk"):
        cv_finetune.main(train)
    with pytest.raises(InputError, match="no token for ky"):
        cv_evaluate.main(["--model", whisper, *flags, "--split", "train"])
    assert not (tmp_path / "run").exists()
    cv_finetune.main([*train, "--prompt-language", "kk"])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "language: the model is told kk" in record["decisions"]
    assert w2v.load(tmp_path / "run").tokenizer.language == "kk"
    report = cv_evaluate.main(["--model", whisper, *flags, "--split", "train", "--prompt-language", "kk"])
    assert report["clips"] == 3 and report["lang"] == "ky"
    assert cv_evaluate.main(["--model", str(tmp_path / "run"), *flags, "--split", "train"])["clips"] == 3


def test_preparing(whisper, capsys):
    facts = cv_prepare.main([*DATA[:4], "--model", whisper])
    assert facts["vocabulary"] == vocabulary_record(WhisperTokenizer.from_pretrained(whisper))
    printed = capsys.readouterr().err
    assert f"longer than a window of {WINDOW} s" in printed and "the model is told tr" in printed
    assert not any("frame" in proposal for proposal in facts["proposals"])


def test_measuring(finished, whisper):
    report = cv_evaluate.main(["--model", str(finished[0]), *DATA, "--limit", "3", "--beam", "2"])
    assert report["clips"] == 3 and report["lm"] is None
    assert report["prompt"] is None
    report = cv_evaluate.main(["--model", whisper, *DATA, "--limit", "2", "--prompt", "Ayşe"])
    assert report["wer"] is not None, "told --lang, because its folder names no language"
    assert report["prompt"] == "Ayşe"


def transcribed(*arguments) -> dict:
    return transcribe.main(["--device", "cpu", *map(str, arguments)])


def test_transcribing_in_all_formats(finished, clips, capsys):
    asr = w2v.load(finished[0])
    text = asr.transcribe(clips[0])[0].text
    for form in ("text", "json", "tsv", "srt", "vtt"):
        assert transcribed("--model", finished[0], clips[0], "--format", form, "--words")["recordings"] == 1
        out = capsys.readouterr().out
        if form == "text":
            assert out == text + "\n"
        elif form == "json":
            found = json.loads(out)
            words = [word for segment in found["segments"] for word in segment["words"]]
            assert found["text"] == text and " ".join(word["text"] for word in words).split() == text.split()
            times = [time for word in words for time in (word["start"], word["end"])]
            assert times == sorted(times) and times[-1] <= WINDOW
        else:
            assert {"tsv": "start\tend\ttext\n", "srt": "1\n00:00:0", "vtt": "WEBVTT\n"}[form] in out


@pytest.mark.slow
def test_how_whisper_is_asked_to_write(finished, clips, tmp_path, monkeypatch, capsys):
    """--task, --beam and --chunked, on a recording of several windows, and from a live stream."""
    asked: list[tuple[list[int], GenerateOptions]] = []
    write = writing.write

    def note(model, heard, tokenizers, rules, options, *earlier):
        asked.extend((tokenizer.prompt(options.timestamps), options) for tokenizer in tokenizers)
        return write(model, heard, tokenizers, rules, options, *earlier)

    monkeypatch.setattr(writing, "write", note)
    said = np.random.default_rng(0).normal(0, 3000, 12 * SAMPLE_RATE).astype("<i2")
    soundfile.write(tmp_path / "long.wav", said, SAMPLE_RATE)
    tokenizer = w2v.load(finished[0]).tokenizer
    task, no_timestamps = tokenizer.transcribe_id, tokenizer.no_timestamps_id
    transcribed("--model", finished[0], tmp_path / "long.wav")
    assert all(prompt[2] == task and no_timestamps not in prompt for prompt, _ in asked), "in turn"
    assert asked[0][1].beam == 1 and len(asked[0][1].temperatures) == 6
    asked.clear()
    flags = ["--chunked", "--task", "translate", "--beam", "2"]
    transcribed("--model", finished[0], tmp_path / "long.wav", *flags)
    assert len(asked) == 3 and all(prompt[2] == tokenizer.translate_id for prompt, _ in asked)
    assert all(prompt[3] == no_timestamps and options.beam == 2 for prompt, options in asked)
    asked.clear()
    transcribed("--model", finished[0], clips[0], "--target-lang", "ka", "--prompt", "Ayşe")
    assert asked[0][0][1] == tokenizer.language_ids["ka"] and asked[0][1].prompt == "Ayşe"
    asked.clear()
    live = np.concatenate([said[:SAMPLE_RATE], np.zeros(SAMPLE_RATE, "<i2"), said[:SAMPLE_RATE]]).tobytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(live))))
    capsys.readouterr()
    summary = transcribed("--model", finished[0], "-")
    assert summary["audio_seconds"] == pytest.approx(3, abs=0.1) and len(asked) == 2
    assert summary["phrases"] == capsys.readouterr().out.count("\n")


def test_each_clip_of_several_languages_is_told_its_own(whisper, tmp_path):
    releases = [write_release(tmp_path / "data", lang, {"train": 4, "dev": 1, "test": 2}, first=first)
                for lang, first in (("tr", 0), ("kk", 50))]  # fmt: skip
    data = ["--data", f"tr={releases[0]}", f"kk={releases[1]}", "--device", "cpu"]
    args = parse_arguments([*data, "--model", whisper], "p", "d")
    settings = data_settings(args)
    prepared = prepare(settings, resolve_model(whisper, settings.cache))
    tokens = [prepared.tokenizer.language_ids[clip.lang] for clip in prepared.splits.train]
    labels = [prepared.encode(clip) for clip in prepared.splits.train]
    assert {clip.lang for clip in prepared.splits.train} == {"tr", "kk"}
    assert [token in ids for token, ids in zip(tokens, labels, strict=True)] == [True] * len(tokens)
    flags = ["--model", whisper, "--batch-clips", "3", "--precision", "fp32", "--max-steps", "2"]
    summary = cv_finetune.main([*data, *flags, "--out", str(tmp_path / "out")])
    assert list(summary["languages"]) == ["tr", "kk"]
    for lang in (None, "kk", "de"):
        assert w2v.load(tmp_path / "out", target_lang=lang).tokenizer.language == (lang or "tr")


@pytest.fixture(scope="module")
def ctc(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("ctc")
    tokenizer = w2v.CharTokenizer.from_texts(["bir"])
    fields = w2v.TINY.for_vocabulary(tokenizer)
    w2v.Wav2Vec2ForCTC(dataclasses.replace(w2v.TINY, num_hidden_layers=1, **fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_what_is_refused(finished, whisper, ctc, tmp_path, clips):
    out, model = ["--model", str(finished[0])], ["--model", whisper]
    english = make_whisper(tmp_path / "english", is_multilingual=False)
    text = tmp_path / "text.txt"
    text.write_text("merhaba\n")
    silence = str(tmp_path / "silence.wav")
    soundfile.write(silence, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    clip, data = str(clips[0]), ["--lang", "tr", "--data", str(SAMPLE)]
    frames, writes = "needs a model with frame posteriors", "are for models that write their text"
    for command, flags, message in (
        (transcribe, [*out, clip, "--lm", "x.arpa"], f"--lm {frames}"),
        (transcribe, [*out, clip, "--hot-words", "a"], f"--hot-words {frames}"),
        (transcribe, ["--model", english, clip, "--task", "translate"], "--task translate needs a multilingual model"),
        (transcribe, [*out, clip, "--alpha", "1"], f"--alpha {frames}"),
        (transcribe, [*out, silence, "--prompt", 300 * "a"], "a prompt must have at most"),  # before it is heard
        (cv_evaluate, [*out, *data, "--prompt", 300 * "a"], "a prompt must have at most"),
        (cv_evaluate, [*out, *data, "--lm", "x.arpa"], f"--lm {frames}"),
        (cv_evaluate, [*out, *data, "--tune-lm"], "--tune-lm fits the weights of a language model, there is none"),
        (align, [*out, "--text", str(text), clip], "must give frame posteriors"),
        (cv_prepare, [*data, *model, "--check-alignment", str(finished[0])], "must give frame posteriors"),
        (transcribe, ["--model", ctc, clip, "--task", "translate"], writes),
        (transcribe, ["--model", ctc, clip, "--chunked"], writes),
        (transcribe, ["--model", ctc, clip, "--prompt", "a"], "--prompt needs a model that writes its text"),
        (transcribe, [*model, clip, "--target-lang", "ky"], "must be a language that the model has a token for"),
        (cv_finetune, [*TRAIN, *model, "--adapter"], "unknown config fields adapter_attn_dim"),
        (cv_finetune, [*TRAIN, "--model", english], "English-only weights cannot be used for tr"),
        (transcribe, ["--model", english, clip, "--target-lang", "tr"], "must be a language that the model has"),
        (
            cv_finetune,
            [*TRAIN, *model, "--freeze-encoder", "--train-feature-encoder"],
            "--freeze-encoder leaves no part",
        ),
        (cv_finetune, [*TRAIN, *model, "--freeze-encoder", "--adapter"], "--freeze-encoder leaves no part"),
        (cv_finetune, [*TRAIN, *model, "--prompt-language", "ky"], "must be a language that the model has a token for"),
        (
            cv_finetune,
            [*TRAIN, "--prompt-language", "tr", "--model", "random:tiny"],
            "is for models with a language token",
        ),
        (cv_finetune, [*TRAIN, "--cut-windows", "--model", "random:tiny"], "unknown config fields cut_windows"),
    ):
        run = ["--out", str(tmp_path / "run")] if command is cv_finetune else []
        with pytest.raises(InputError, match=message) as caught:
            command.main([*flags, *run])
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_large_vocabulary_is_recorded_by_its_digest(whisper):
    tokenizer = WhisperTokenizer.from_pretrained(whisper)
    assert vocabulary_record(tokenizer) == tokenizer.tokens
    tokenizer.tokens = [f"{token} {i}" for i, token in enumerate(tokenizer.tokens * 20)]
    tokenizer.vocab = {token: i for i, token in enumerate(tokenizer.tokens)}
    [line] = vocabulary_record(tokenizer)
    assert line.startswith(f"{len(tokenizer)} tokens, sha256 ")


def test_a_share_of_the_start_is_exported(whisper, tmp_path):
    """Few clips: the exported weights are the mean of those before and after training, unless a flag says otherwise."""
    run = [*FEW, "--model", whisper, "--max-steps", "2"]
    cv_finetune.main([*run, "--out", str(tmp_path / "mean")])
    cv_finetune.main([*run, "--start-share", "0", "--out", str(tmp_path / "end")])
    assert json.loads((tmp_path / "mean" / "run.json").read_text())["settings"]["start_share"] == 0.5
    before, end = load_file(f"{whisper}/model.safetensors"), weights(tmp_path / "end")
    moved = [name for name in end if not torch.equal(end[name], before[name])]
    assert len(moved) > 20
    for name, mean in weights(tmp_path / "mean").items():
        torch.testing.assert_close(mean, (before[name] + end[name]) / 2, atol=1e-7, rtol=1e-6)


def test_no_share_of_weights_that_were_drawn(tmp_path):
    with pytest.raises(
        InputError, match="--start-share needs a checkpoint that keeps its vocabulary, --model random:tiny"
    ):
        cv_finetune.main([*FEW, "--model", "random:tiny", "--start-share", "0.5", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_script_that_is_spelled_byte_by_byte_gets_more_epochs():
    base = CONFIGS["whisper-base"]
    known, georgian = (presets.choose(0.1, False, False, "whisper", base, tokens) for tokens in (0.4, 2.5))
    assert (known.name, georgian.name) == ("whisper-few", "whisper-script")
    assert georgian.epochs > known.epochs and not georgian.start_share
    assert (known.lr, georgian.lr) == (2e-5, 1e-4)
    assert presets.choose(2.0, False, False, "whisper", base, 2.5).name == "whisper-small"
