"""The recipes with small W2V-BERT models of random weights: trained, resumed, exported, measured, what they refuse.

Run: pytest tests/recipes/test_w2v_bert_recipes.py          (learning the sample by heart: add --long)
"""

import csv
import dataclasses
import json
import re
import shutil

import pytest
import torch
import transformers
from conftest import SAMPLE
from safetensors.torch import load_file

import w2v
from recipes import align, cv_evaluate, cv_finetune, cv_prepare, presets, train_lm, transcribe
from recipes.proposals import propose_adapter_off
from recipes.start import resolve_model, with_adapter
from recipes.upload import EXPORTED, files_of
from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError
from w2v.model_card import HERE
from w2v.models.w2v_bert_config import W2V_BERT_TINY, Wav2Vec2BertConfig

pytestmark = pytest.mark.usefixtures("cache")
TINY = "random:w2v-bert-tiny"
DATA = ["--lang", "tr", "--data", str(SAMPLE), "--device", "cpu"]
FEW = [*DATA, "--max-train-clips", "6", "--batch-clips", "3", "--precision", "fp32"]
SAVED = ["--save-steps", "2", "--eval-steps", "4"]
SMALL = dataclasses.replace(W2V_BERT_TINY, hidden_size=32, num_hidden_layers=2, intermediate_size=64, add_adapter=False)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    """A body as transformers saves the published one: no head, no adapter, no vocabulary; masks and LayerDrop on."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(**SMALL.to_dict() | {"vocab_size": None, "layerdrop": 0.2})
    transformers.Wav2Vec2BertModel(config).save_pretrained(folder)
    transformers.SeamlessM4TFeatureExtractor(padding_value=1).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def finished(published, tmp_path_factory, cache):
    """A run of four steps, its evaluation included, and its summary."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--max-steps", "4", *SAVED, "--layerdrop", "0.2", "--mask-time-prob", "0.1"]
    return out, cv_finetune.main([*FEW, "--model", published, *flags, "--out", str(out)])


def test_a_run_leaves_a_folder_that_others_can_load(finished, published, clips):
    out, summary = finished
    assert summary["steps"] == 4 and summary["wer"] is not None
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["preset"] == "mini" and record["settings"]["lr"] == 1e-3  # it is 32 wide
    config = w2v.Wav2Vec2BertConfig.from_dict(record["model_config"])
    assert config.add_adapter and config.layerdrop == 0.2 and config.conformer_conv_dropout == 0.1
    trained, before = weights(out), load_file(f"{published}/model.safetensors")
    name = "encoder.layers.0.ffn1.output_dense.weight"
    assert not torch.equal(trained["wav2vec2_bert." + name], before[name])
    theirs = transformers.Wav2Vec2BertForCTC.from_pretrained(out).eval()
    processor = transformers.AutoProcessor.from_pretrained(out)
    assert type(processor).__name__ == "Wav2Vec2BertProcessor"
    assert processor.feature_extractor.padding_value == 1
    asr = w2v.load(out)
    waveform = w2v.read_audio(clips[0])
    waveform = waveform[: len(waveform) // 640 * 640 + 400]  # an even number of mel frames: no padded row
    inputs = processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.no_grad():
        ours, peer = asr.model(asr.model.config.collate([waveform])).logits, theirs(**inputs).logits
    torch.testing.assert_close(ours, peer, atol=2e-5, rtol=0)
    card = (out / "README.md").read_text()
    assert "Wav2Vec2BertForCTC" in card and "wav2vec2-bert" in card
    sent = {file.name for file in files_of(out, EXPORTED)}
    assert {"vocab.json", "preprocessor_config.json", "model.safetensors"} <= sent


def test_a_resumed_run_is_the_same_bit_for_bit(finished, published, tmp_path):
    out, _ = finished
    again = tmp_path / "again"
    shutil.copytree(out, again)
    (again / "checkpoints" / "step-0000004.pt").unlink()
    flags = ["--max-steps", "4", *SAVED, "--layerdrop", "0.2", "--mask-time-prob", "0.1"]
    cv_finetune.main([*FEW, "--model", published, *flags, "--out", str(again), "--resume"])
    one, two = weights(out), weights(again)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_cards_snippets_write_the_same_text(finished, clips, tmp_path, monkeypatch, capsys):
    """transformers and w2v, as somebody copies them from the card."""
    shutil.copy(clips[0], tmp_path / "clip.mp3")
    monkeypatch.chdir(tmp_path)
    ours, theirs, *_ = re.findall(r"```python\n(.*?)```", (finished[0] / "README.md").read_text(), re.DOTALL)
    exec(ours.replace(HERE, str(finished[0])), {})
    mine = capsys.readouterr().out
    exec(theirs.replace(HERE, str(finished[0])), {})
    assert capsys.readouterr().out.count("\n") == mine.count("\n") == 1


def test_a_fine_tuned_model_keeps_its_adapter(finished, published, tmp_path):
    """Its vocabulary is kept, and so is the head; without the flag nothing is said of the adapter."""
    out = tmp_path / "on"
    few = [*FEW, "--max-steps", "1", "--dev-split", "none", "--test-split", "none"]
    cv_finetune.main([*few, "--model", str(finished[0]), "--lr", "0", "--out", str(out)])
    one, two = weights(finished[0]), weights(out)
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(InputError, match="--add-adapter must be as the fine-tuned checkpoint has it, on; leave it out"):
        cv_finetune.main([*few, "--model", str(finished[0]), "--add-adapter", "off", "--out", str(tmp_path / "no")])
    off = tmp_path / "off"
    cv_finetune.main([*few, "--model", published, "--add-adapter", "off", "--out", str(off)])
    assert not any("adapter" in name for name in weights(off))
    assert json.loads((off / "config.json").read_text())["add_adapter"] is False
    with pytest.raises(InputError, match="--resume needs the run's own settings: --add-adapter was off, now on"):
        cv_finetune.main(["--add-adapter", "on", "--out", str(off), "--resume"])


def test_the_adapter_is_for_this_family(tmp_path):
    with pytest.raises(InputError, match=r"--add-adapter is for W2V-BERT, --model random:tiny is wav2vec 2.0; leave"):
        cv_finetune.main([*FEW, "--model", "random:tiny", "--add-adapter", "on", "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_where_training_starts(published, tmp_path):
    start = resolve_model("w2v-bert-2.0", tmp_path, weights=False)
    assert not start.config.add_adapter
    assert with_adapter(start, None).config.add_adapter
    assert not with_adapter(start, "off").config.add_adapter
    assert with_adapter(resolve_model(published, tmp_path), "on").config.hop == 640


def test_presets_are_the_published_recipe():
    preset = presets.choose(14.0, False, False, "wav2vec2-bert", w2v.W2V_BERT_2)
    assert (preset.epochs, preset.lr, preset.warmup_steps, preset.accumulation) == (10, 5e-5, 500, 2)
    config = dataclasses.replace(w2v.W2V_BERT_2, **presets.model_fields(preset, "wav2vec2-bert"))
    assert (config.layerdrop, config.mask_time_prob, config.attention_dropout) == (0.0, 0.0, 0.0)
    assert (config.conformer_conv_dropout, config.final_dropout) == (0.1, 0.1)
    known = {field.name for field in dataclasses.fields(Wav2Vec2BertConfig)}
    for fields in presets.MODEL_FIELDS["wav2vec2-bert"].values():
        assert fields.keys() <= known
    plain = presets.MODEL_FIELDS["wav2vec2-bert"]["plain"]
    assert all(plain[name] == 0.0 for name in known if name.endswith(("dropout", "layerdrop")))


def fast_speech(folder, clips) -> list[str]:
    """Three clips whose text is as it is, and one that says 60 letters in 2.08 s: more than 25 a second."""
    with open(SAMPLE / "validated.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:3]
    lines = [(str(SAMPLE / "clips" / row["path"]), row["sentence"]) for row in rows]
    fast = "abcdefghij klmnoprstu " * 3
    lines.append((str(next(clip for clip in clips if clip.name == "common_voice_tr_17348770.mp3")), fast))
    (folder / "train.csv").write_text("path,sentence\n" + "".join(f'{path},"{text}"\n' for path, text in lines))
    splits = ["--train-splits", "validated", "--dev-split", "none", "--test-split", "none"]
    return ["--lang", "tr", "--data", str(folder / "train.csv"), *splits]


def test_preparing_proposes_to_leave_the_adapter_out(tmp_path, clips, capsys):
    data = fast_speech(tmp_path, clips)
    facts = cv_prepare.main([*data, "--model", "w2v-bert-2.0"])
    (proposal,) = [line for line in facts["proposals"] if line.startswith("--add-adapter off")]
    assert "1 of 4 training clips" in proposal and "40 ms" in proposal and "enough of 20 ms" in proposal
    printed = capsys.readouterr().err
    assert "too few frames of the length adapter for its text" in printed and "common_voice_tr_17348770" in printed
    facts = cv_prepare.main([*data, "--model", "w2v-bert-2.0", "--add-adapter", "off"])
    assert facts["train"]["clips"] == 4
    assert not any("--add-adapter" in line for line in facts["proposals"])


def test_nothing_is_proposed_where_the_adapter_loses_nothing():
    assert propose_adapter_off([16_000], [[1, 2, 3]], W2V_BERT_TINY) == []
    assert propose_adapter_off([16_000], [[1] * 60], W2V_BERT_TINY) == [], "too many labels for 20 ms too"
    assert propose_adapter_off([16_000], [list(range(40))], SMALL) == [], "no adapter"
    assert propose_adapter_off([16_000], [list(range(40))], w2v.XLSR_53) == []


def transcribed(*arguments) -> dict:
    return transcribe.main(["--device", "cpu", *map(str, arguments)])


def test_all_that_follows_training_serves_it(finished, clips, tmp_path, capsys):
    out, _ = finished
    assert transcribed("--model", out, clips[0], "--format", "json", "--words")["recordings"] == 1
    text = json.loads(capsys.readouterr().out)["text"]
    assert text == w2v.load(out).transcribe(clips[0])[0].text
    report = cv_evaluate.main(["--model", str(out), *DATA, "--limit", "5"])
    assert report["clips"] == 5
    train_lm.main(["--from-data", *DATA[:4], "--order", "2", "--out", str(tmp_path / "lm.arpa")])
    found = cv_evaluate.main(
        ["--model", str(out), *DATA, "--limit", "5", "--lm", str(tmp_path / "lm.arpa"), "--beam", "8"]
    )
    assert found["lm"] is not None
    capsys.readouterr()
    (tmp_path / "text.txt").write_text("bu çok fazla\n")
    clip = next(clip for clip in clips if clip.name == "common_voice_tr_17348770.mp3")
    align.main(["--model", str(out), str(clip), "--text", str(tmp_path / "text.txt"), "--device", "cpu"])
    assert "fazla" in capsys.readouterr().out


@pytest.mark.long
def test_a_small_random_conformer_learns_the_sample_by_heart(tmp_path):
    summary = cv_finetune.main([*DATA, "--model", TINY, "--out", str(tmp_path / "run")])
    assert summary["train_cer"] <= 0.05
