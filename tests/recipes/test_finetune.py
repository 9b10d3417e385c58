"""The main job on the real Turkish clips: splits, run folder, export, resumption, and the whole sample run.

Run: pytest tests/recipes/test_finetune.py          (the whole sample run and the kill test: -m slow)
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SAMPLE, SHARED
from safetensors.torch import load_file

import w2v
from recipes import cv_finetune, cv_prepare
from recipes.run_folder import clear, write_run
from w2v.audio import read_audio
from w2v.errors import InputError
from w2v.training import compile
from w2v.training.optim import adamw
from w2v.training.step import TrainStep
from w2v.weights import hf

QUICK = ["--lang", "tr", "--model", "tiny", "--max-train-clips", "8", "--batch-clips", "4", "--accumulation", "1"]
pytestmark = pytest.mark.usefixtures("cache")
SIX_STEPS = ["--data", str(SAMPLE), "--max-steps", "6", "--eval-steps", "2", "--lr", "1e-3"]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "quick"
    # Given as data, the sample's clips are trained with the settings of real data: the best weights are exported.
    summary = cv_finetune.main([*QUICK, *SIX_STEPS, "--out", str(out)])
    return out, summary


def test_run_folder_explains_itself(quick_run):
    out, summary = quick_run
    expected = {
        "README.md", "checkpoints", "config.json", "metrics.jsonl", "model.safetensors", "normaliser.json",
        "predictions-dev.tsv", "predictions-test.tsv", "preprocessor_config.json", "report.html", "run.json",
        "skipped.tsv", "special_tokens_map.json", "tokenizer_config.json", "vocab.json",
    }  # fmt: skip
    assert {file.name for file in out.iterdir()} == expected
    assert not list(out.rglob("*.part"))
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["total_steps"] == 6
    assert run["arguments"]["lang"] == "tr"
    assert run["data_fingerprint"]
    assert run["result"] == summary
    assert any(line.startswith("spelling: 5 of 20 references") for line in summary["symptoms"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "dev_cer" in line] == [2, 4, 6]
    assert all(0 <= line["blank_ratio"] <= 1 and line["frames_per_label"] > 1 for line in lines if "loss" in line)
    rows = (out / "predictions-test.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + summary["test_clips"]
    card = (out / "README.md").read_text(encoding="utf-8")
    for words in ("language: tr", "type: wer", "- automatic-speech-recognition", "| test | 10 |"):
        assert words in card
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert "://" not in page


def test_summary_holds_the_contract(quick_run):
    _, summary = quick_run
    assert {"wer", "cer", "train_wer", "train_cer", "split", "steps", "epochs", "train_audio_s_per_s", "out"} <= set(
        summary
    )
    assert summary["split"] == "test"
    assert summary["steps"] == 6
    assert summary["epochs"] == 3.0


def test_best_weights_are_exported(quick_run):
    """The export is the checkpoint of the lowest dev CER, and its measured rates are its own."""
    out, summary = quick_run
    best = out / "checkpoints" / f"best-{summary['exported_step']:07d}" / "model.safetensors"
    exported, kept = load_file(out / "model.safetensors"), load_file(best)
    assert all(torch.equal(value, kept[name]) for name, value in exported.items())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    cers = {line["step"]: line["dev_cer"] for line in lines if "dev_cer" in line}
    assert cers[summary["exported_step"]] == min(cers.values())
    assert summary["dev_cer"] == pytest.approx(min(cers.values()), abs=0.02)


def test_export_gives_the_same_logits_and_text_in_transformers(quick_run, clips):
    from transformers import AutoProcessor, Wav2Vec2ForCTC, Wav2Vec2Processor

    out, _ = quick_run
    processor = AutoProcessor.from_pretrained(out)  # as the model card says
    assert isinstance(processor, Wav2Vec2Processor)
    theirs = Wav2Vec2ForCTC.from_pretrained(out).eval()
    asr = w2v.load(out)
    waveforms = [read_audio(clip) for clip in clips[:3]]
    inputs = processor(waveforms, sampling_rate=16_000, return_tensors="pt", padding=True)
    batch = asr.model.config.collate(waveforms, pad=True)
    with torch.no_grad():
        wanted, ours = theirs(**inputs).logits, asr.model(batch)
    for row, n in enumerate(ours.logit_lengths):
        torch.testing.assert_close(ours.logits[row, :n], wanted[row, :n], atol=2e-5, rtol=0)
    assert len(processor.tokenizer) == theirs.config.vocab_size == len(asr.tokenizer)
    texts = [processor.decode(row[:n].argmax(-1)) for row, n in zip(wanted, ours.logit_lengths, strict=True)]
    assert [t.text for t in asr.transcribe(clips[:3])] == texts
    assert [t.text for t in asr.transcribe(waveforms)] == texts


def test_fine_tuned_folder_as_starting_point(quick_run, tmp_path):
    """Its head stays while its vocabulary covers the text; otherwise both are new but for what is shared."""
    out, _ = quick_run
    again = ["--max-train-clips", "8", "--max-steps", "1", "--lr", "0", "--model", str(out)]
    cv_finetune.main(["--lang", "tr", *again, "--out", str(tmp_path / "a")])
    before, after = load_file(out / "model.safetensors"), load_file(tmp_path / "a" / "model.safetensors")
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    summary = cv_finetune.main(["--lang", "tr", *again, "--keep-chars", "?.", "--out", str(tmp_path / "b")])
    new = load_file(tmp_path / "b" / "model.safetensors")
    assert new["lm_head.weight"].shape[0] == summary["vocabulary"] != before["lm_head.weight"].shape[0]
    body = "wav2vec2.encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(before[body], new[body])
    decisions = json.loads((tmp_path / "b" / "run.json").read_text())["decisions"]
    assert any("a new one replaces it, its head keeps what both hold" in line for line in decisions)
    ids = [json.loads((folder / "vocab.json").read_text()) for folder in (out, tmp_path / "b")]
    for name in ("lm_head.weight", "lm_head.bias"):
        assert all(torch.equal(before[name][ids[0][char]], new[name][ids[1][char]]) for char in ("a", "ş", "|"))


def test_same_seed_same_weights(quick_run, tmp_path):
    cv_finetune.main([*QUICK, *SIX_STEPS, "--out", str(tmp_path / "b")])
    outs = (quick_run[0], tmp_path / "b")
    one, two = (load_file(out / "model.safetensors") for out in outs)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    # The exported weights may be of an earlier step, but these are not.
    one, two = ([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in outs)
    assert [line.get("loss") for line in one] == [line.get("loss") for line in two]
    one, two = (torch.load(out / "checkpoints" / "step-0000006.pt", weights_only=True)["model"] for out in outs)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_early_stopping(tmp_path):
    summary = cv_finetune.main(
        [*QUICK, "--max-steps", "20", "--eval-steps", "1", "--patience", "2", "--lr", "0", "--out", str(tmp_path / "a")]
    )
    assert summary["steps"] == 3  # one evaluation that sets the mark, two that do not beat it


def test_nothing_to_evaluate_gives_null_metrics(tmp_path):
    summary = cv_finetune.main(
        [*QUICK, "--dev-split", "none", "--test-split", "none", "--max-steps", "2", "--out", str(tmp_path / "a")]
    )
    assert summary["wer"] is None
    assert summary["cer"] is None
    assert summary["split"] is None
    assert summary["train_cer"] is not None


def test_bad_clips_are_skipped_and_listed(tmp_path):
    folder = tmp_path / "tr"
    shutil.copytree(SAMPLE, folder)
    names = [line.split("\t")[1] for line in (folder / "validated.tsv").read_text().splitlines()[1:21]]
    for name in names[:10]:
        (folder / "clips" / name).write_bytes(b"broken")
    summary = cv_finetune.main(
        [*QUICK, "--data", str(folder), "--max-train-clips", "80", "--max-steps", "1", "--out", str(tmp_path / "o")]
    )
    rows = (tmp_path / "o" / "skipped.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[0] for row in rows} == set(names[:10])
    assert all("unreadable" in row for row in rows)
    assert summary["skipped"] == 10


def test_clips_that_ctc_cannot_align_are_named_before_training(tmp_path, capsys):
    audio = next(iter(sorted((SAMPLE / "clips").glob("*.mp3"))))
    table = tmp_path / "m.tsv"
    sentences = ["kısa", "x" * 5000, "bir", "iki", "üç"]
    for i in range(5):
        shutil.copy(audio, tmp_path / f"{i}.mp3")
    table.write_text("path\tsentence\n" + "".join(f"{i}.mp3\t{s}\n" for i, s in enumerate(sentences)))
    argv = ["--lang", "tr", "--data", str(table), "--model", "tiny", "--dev-split", "none", "--test-split", "none",
            "--train-splits", "validated", "--max-steps", "1", "--out", str(tmp_path / "o")]  # fmt: skip
    cv_finetune.main(argv)
    assert "skipped: 1.mp3: too few frames for its text: CTC cannot align" in capsys.readouterr().err
    assert "too few frames" in (tmp_path / "o" / "skipped.tsv").read_text()


def test_plain_manifest_and_extra_data_for_an_unknown_language(tmp_path):
    audio = sorted((SAMPLE / "clips").glob("*.mp3"))[:8]
    for name, files in (("m.csv", audio[:6]), ("extra.jsonl", audio[6:])):
        rows = [{"path": str(file), "sentence": "Saluton, mondo!"} for file in files]
        if name.endswith("csv"):
            text = "path,sentence\n" + "".join(f'{r["path"]},"{r["sentence"]} {i}"\n' for i, r in enumerate(rows))
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text)
    summary = cv_prepare.main(
        ["--lang", "xx-nova", "--data", str(tmp_path / "m.csv"), "--extra-data", str(tmp_path / "extra.jsonl")]
    )
    assert summary["train"]["clips"] == 4 + 2
    assert summary["dev"]["clips"] == summary["test"]["clips"] == 1
    assert summary["removed"] == {",": 8, "!": 8}


def test_prepare_says_what_training_will_see(capsys):
    summary = cv_prepare.main(["--lang", "tr"])
    printed = capsys.readouterr().err
    assert summary["train"]["clips"] == 80
    assert summary["vocabulary"][-3:] == ["|", "[UNK]", "[PAD]"]
    for words in ("removed characters: . (89)", "leaks: train/test share 0 clips", "EMBEDDED SAMPLE"):
        assert words in printed
    assert not {"i̇", "I", "İ", "\u0307"} & set(summary["vocabulary"])


def test_official_splits_with_an_empty_dev(tmp_path):
    folder = SHARED / "data" / "cv_twi"
    if not folder.is_dir():
        pytest.skip("needs the Twi release")
    summary = cv_prepare.main(["--lang", "tw", "--data", str(folder), "--max-train-clips", "20"])
    assert summary["test"]["clips"] == 20
    assert summary["dev"]["clips"] == 10
    assert "ɛ" in summary["vocabulary"]


def test_resume_refuses_other_settings(quick_run, tmp_path):
    out, _ = quick_run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    same = [*QUICK, *SIX_STEPS, "--out", str(copy), "--resume"]
    with pytest.raises(w2v.InputError, match=r"--seed was 42, now 43"):
        cv_finetune.main([*same, "--seed", "43"])
    shutil.copytree(SAMPLE, tmp_path / "edited")
    table = tmp_path / "edited" / "validated.tsv"
    table.write_text(table.read_text(encoding="utf-8").replace("Bu bir", "Ne bir"), encoding="utf-8")
    words = "own (data fingerprint|vocabulary)"
    with pytest.raises(w2v.InputError, match=words):
        cv_finetune.main([str(tmp_path / "edited") if word == str(SAMPLE) else word for word in same])
    (copy / "checkpoints" / "step-0000006.pt.1.part").write_bytes(b"of a killed process")
    assert cv_finetune.main(same)["steps"] == 6
    assert not list(copy.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("left", ["part of run.json", "run.json alone", "part and run.json"])
def test_a_run_that_was_killed_as_it_began_goes_on(quick_run, tmp_path, left):
    """Between the moments at which run.json and skipped.tsv appear."""
    out, _ = quick_run
    killed = tmp_path / "killed"
    killed.mkdir()
    if left != "part of run.json":
        shutil.copy(out / "run.json", killed)
    if "part" in left:
        (killed / "run.json.1.part").write_text('{"command": [')
    summary = cv_finetune.main([*QUICK, *SIX_STEPS, "--out", str(killed), "--resume"])
    assert summary["steps"] == 6
    assert (killed / "skipped.tsv").read_text() == (out / "skipped.tsv").read_text()
    assert not list(killed.rglob("*.part"))
    one, two = load_file(out / "model.safetensors"), load_file(killed / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_resume_needs_the_folder_and_nothing_else(quick_run, tmp_path):
    """All other flags are in run.json; what decides when a run is measured and saved may change."""
    out, copy = quick_run[0], tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "checkpoints" / "step-0000006.pt").unlink()
    (copy / "model.safetensors").unlink()
    summary = cv_finetune.main(["--resume", "--out", str(copy), "--keep-checkpoints", "1", "--log-steps", "2"])
    assert summary["steps"] == 6
    one, two = (load_file(folder / "model.safetensors") for folder in (out, copy))
    assert all(torch.equal(one[name], two[name]) for name in one)
    record = json.loads((copy / "run.json").read_text())
    assert record["settings"]["keep_checkpoints"] == 1 and record["arguments"]["max_train_clips"] == 8
    assert len(list((copy / "checkpoints").glob("step-*.pt"))) == 1


def test_a_run_may_get_more_steps_and_not_fewer(quick_run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(quick_run[0], copy)
    capsys.readouterr()
    assert cv_finetune.main(["--resume", "--out", str(copy), "--max-steps", "8"])["steps"] == 8
    assert "the run now ends at step 8 instead of 6: after step 6 its learning rate is 0.0" in capsys.readouterr().err
    settings = json.loads((copy / "run.json").read_text())["settings"]
    assert settings["total_steps"] == 8
    assert settings["warmup_steps"] == json.loads((quick_run[0] / "run.json").read_text())["settings"]["warmup_steps"]
    with pytest.raises(InputError, match="may raise the steps of a run, not lower them: they were 8, now 7"):
        cv_finetune.main(["--resume", "--out", str(copy), "--max-steps", "7"])


def test_resume_without_a_run(tmp_path):
    for out in (tmp_path / "typo", tmp_path):
        with pytest.raises(InputError, match="--resume needs the folder of a run"):
            cv_finetune.main([*QUICK, "--out", str(out), "--resume"])
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("damage", [{"lr": "fast"}, {"resume": 3, "epochs": [1]}, {"case": "UPPER"}, {"adapter": 1}])
def test_arguments_that_are_damaged(quick_run, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(quick_run[0], copy)
    record = json.loads((copy / "run.json").read_text())
    write_run(copy, record | {"arguments": record["arguments"] | damage})  # as another version may have
    with pytest.raises(InputError, match=f"must hold the run's arguments, --{list(damage)[-1]} is damaged"):
        cv_finetune.main(["--resume", "--out", str(copy)])


def flip(file: Path, at: float) -> None:
    """One bit, so far into the file."""
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 4
    file.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_bit_that_flips_in_the_newest_state_costs_its_steps_only(quick_run, tmp_path, capsys, at):
    copy = tmp_path / "copy"
    cv_finetune.main([*QUICK, *SIX_STEPS, "--save-steps", "4", "--out", str(copy)])
    states = copy / "checkpoints"
    flip(states / "step-0000006.pt", at)
    capsys.readouterr()
    assert cv_finetune.main(["--resume", "--out", str(copy)])["steps"] == 6
    said = capsys.readouterr().err
    assert "the newest training state is damaged (the checksum of" in said and "set aside as" in said
    assert "step-0000004.pt" in said
    assert (states / "step-0000006.pt.damaged").exists()
    one, two = (load_file(folder / "model.safetensors") for folder in (quick_run[0], copy))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for state in states.glob("step-*.pt"):
        flip(state, at)
    with pytest.raises(InputError, match=r"no training state of .* is sound; restore one, or begin again with --over"):
        cv_finetune.main(["--resume", "--out", str(copy)])


@pytest.mark.slow
def test_best_weights_that_are_damaged_are_not_exported(tmp_path, capsys):
    """The last ones are, and it is said. transformers reads files with a checksum."""
    out = tmp_path / "run"
    cv_finetune.main([*QUICK, *SIX_STEPS, "--out", str(out)])
    (best,) = (out / "checkpoints").glob("best-*")
    assert hf.damage(best / "model.safetensors") is None
    flip(best / "model.safetensors", 0.7)
    assert hf.damage(best / "model.safetensors") == "its checksum is another"
    capsys.readouterr()
    cv_finetune.main(["--resume", "--out", str(out)])
    said = capsys.readouterr().err
    assert "are damaged (its checksum is another)" in said and "exporting the last weights, the best ones are" in said
    last = torch.load(sorted((out / "checkpoints").glob("step-*.pt"))[-1], weights_only=True)["model"]
    exported = load_file(out / "model.safetensors")
    assert all(torch.equal(exported[name], last[name]) for name in exported)


def test_run_json_goes_last(quick_run, tmp_path, monkeypatch):
    """--overwrite that is killed at any moment can be given again: the folder is a run until nothing else is left."""
    copy = tmp_path / "copy"
    shutil.copytree(quick_run[0], copy)
    deleted, unlink = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda file, **flags: (deleted.append(file.name), unlink(file, **flags))[1])
    clear(copy)
    assert deleted[-1] == "run.json" and "skipped.tsv" in deleted and not list(copy.iterdir())


def test_group_norm_models_are_padded_and_say_so(tmp_path, capsys):
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=1, feat_extract_norm="group", do_stable_layer_norm=False)
    w2v.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "base")
    out = tmp_path / "run"
    cv_finetune.main([*QUICK, *SIX_STEPS, "--model", str(tmp_path / "base"), "--max-steps", "1", "--out", str(out)])
    assert "batches are padded" in capsys.readouterr().err


def test_bf16_on_a_cpu_without_it_runs_in_fp32_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("w2v.precision.cpu_has_bf16_products", lambda: False)
    out = tmp_path / "run"
    cv_finetune.main([*QUICK, *SIX_STEPS, "--max-steps", "1", "--precision", "bf16", "--out", str(out)])
    assert "computing in fp32" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["settings"]["precision"] == "fp32"


def test_what_cannot_be_compiled_runs_eagerly_and_says_so(small_config, monkeypatch):
    def no_compiler(layer, **_):
        raise RuntimeError("no compiler on this machine\nsecond line")

    model = w2v.Wav2Vec2ForCTC(small_config).train()
    step = TrainStep(model, adamw(model, 1e-3, (0.9, 0.999), 0.0), lambda _: 1.0)
    tried = []
    monkeypatch.setattr(compile, "try_batch", lambda step, batch: tried.append(batch))
    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    said: list[str] = []
    compile.compile_and_try(step, ["worst", "lone"], said.append)
    assert "Triton does not run here" in said[0]
    assert said[-1].endswith("do not work here: no compiler on this machine")
    assert tried == ["worst", "lone"]


def test_overwrite_deletes_the_run_and_nothing_else(quick_run, tmp_path):
    out, _ = quick_run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "thesis.tex").write_text("")
    (copy / "language_model").mkdir()
    (copy / "language_model" / "attrs.json").write_text("{}")  # of the old weights
    cv_finetune.main([*QUICK, *SIX_STEPS[:2], "--max-steps", "1", "--out", str(copy), "--overwrite"])
    assert (copy / "thesis.tex").exists() and not (copy / "language_model").exists()
    assert len(list((copy / "checkpoints").glob("*.pt"))) == 1


def test_two_runs_at_once_get_a_folder_each(tmp_path):
    from recipes.run_folder import claim

    assert [claim(tmp_path, "tr-tiny").name for _ in range(3)] == ["tr-tiny-1", "tr-tiny-2", "tr-tiny-3"]


def test_only_adapters_are_trained_and_exported(quick_run, tmp_path):
    """--adapter on a fine-tuned body: a fresh head and adapters, the rest bit for bit as it was."""
    out, _ = quick_run
    cv_finetune.main(
        ["--lang", "tr", "--model", str(out), "--adapter", "--max-train-clips", "8", "--max-steps", "2",
         "--out", str(tmp_path / "a")]
    )  # fmt: skip
    before, after = load_file(out / "model.safetensors"), load_file(tmp_path / "a" / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items() if not name.startswith("lm_head"))
    assert any(".adapter_layer." in name for name in after)
    adapter = load_file(tmp_path / "a" / "adapter.tr.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in adapter.items())
    assert len(w2v.load(tmp_path / "a").transcribe([torch.randn(16_000)])) == 1


@pytest.mark.slow
def test_two_processes_train_one_model_and_resume(tmp_path):
    """Under torchrun: one summary, one log, equal weights; a checkpoint leads two processes on bit for bit."""

    def launch(*more: str) -> subprocess.CompletedProcess:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        run = ["-m", "recipes.cv_finetune", *QUICK, *SIX_STEPS, "--out", str(tmp_path / "run"), *more]
        return subprocess.run([*torchrun, *run], cwd=ROOT, capture_output=True, text=True, timeout=600)

    # Everything random at once: dropout, masks, LayerDrop; with checkpointing and accumulation.
    settings = ["--hidden-dropout", "0.1", "--layerdrop", "0.3", "--mask-time-prob", "0.1", "--batch-clips", "2",
                "--accumulation", "2", "--gradient-checkpointing", "on", "--save-steps", "2"]  # fmt: skip
    done = launch(*settings)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.count("test: WER") == 1, "the other process keeps quiet"
    out = tmp_path / "run"
    assert json.loads((out / "run.json").read_text())["settings"]["processes"] == 2
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    weights = load_file(out / "model.safetensors")

    (out / "checkpoints" / "step-0000006.pt").unlink()
    done = launch(*settings, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    again = load_file(out / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert {
        k: v for k, v in json.loads(done.stdout.splitlines()[-1]).items() if "second" not in k and "_s" not in k
    } == {k: v for k, v in summary.items() if "second" not in k and "_s" not in k}


@pytest.mark.slow
def test_the_sample_run_understands_new_speakers(tmp_path):
    """The README's first command with default arguments, as a process: stdout is one JSON line.

    benchmarks.learning --sample has the goal; from scratch the same clips give a CER of .87.
    """
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cv_finetune", "--lang", "tr", "--out", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    summary = json.loads(done.stdout)
    assert (summary["cer"] + summary["dev_cer"]) / 2 <= 0.7
    assert "transfer: CER" in done.stderr and "from scratch it is about" in done.stderr
    asr = w2v.load(tmp_path / "run")
    lines = (tmp_path / "run" / "predictions-test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    names, _, texts = zip(*(line.split("\t") for line in lines), strict=True)
    heard = asr.transcribe([SAMPLE / "clips" / name for name in names])
    assert [" ".join(each.text.split()) for each in heard] == [" ".join(text.split()) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("without", [["--test-split", "none"], ["--test-split", "none", "--dev-split", "none"]])
def test_the_sample_without_held_out_clips(without, tmp_path, capsys):
    few = ["--max-train-clips", "4", "--max-steps", "1", "--out", str(tmp_path / "run")]
    assert cv_finetune.main(["--lang", "tr", *few, *without])["steps"] == 1
    assert ("transfer: CER" in capsys.readouterr().err) == (len(without) == 2)
