"""Several languages in one run: what is given, what is kept apart, and what is told of each.

Run: pytest tests/recipes/test_languages.py
"""

import argparse
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SAMPLE, SHARED
from data.releases import write_release
from safetensors.torch import load_file

import w2v
from benchmarks import language_heads
from recipes import convert, cv_evaluate, cv_finetune, cv_prepare, report, transcribe
from recipes.drawing import add_drawing_arguments, times_drawn
from recipes.given import languages_of, split_locale
from recipes.settings import parse_arguments
from w2v.answers import Batch
from w2v.audio import read_audio
from w2v.data.manifest import Clip, Source
from w2v.data.splits import Splits
from w2v.errors import InputError
from w2v.metrics import ErrorRates, mean_rates

pytestmark = pytest.mark.usefixtures("cache")
FAST = ["--model", "tiny", "--batch-clips", "4", "--accumulation", "1", "--device", "cpu", "--lr", "1e-3"]
SOURCE = Source(Path(), "f")
TABLES = {"train": 6, "dev": 2, "test": 3}


def release(folder: Path, lang: str, first: int, words: str = "Cümle") -> Path:
    """A release of clips whose sentences are these words and the clip's number."""
    root = write_release(folder, lang, TABLES, first=first)
    for table in root.glob("*.tsv"):
        table.write_text(table.read_text(encoding="utf-8").replace("Cümle", words), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Two languages as flags; I is ı in one of them and i in the other."""
    folder = tmp_path_factory.mktemp("data")
    tr, ky = release(folder, "tr", 0, "ILIK"), release(folder, "ky", 40, "Id жаз")
    return ["--data", f"tr={tr}", "--data", f"ky={ky}"]


@pytest.fixture(scope="module")
def shared(data, tmp_path_factory) -> tuple[Path, dict]:
    """A run with one vocabulary."""
    out = tmp_path_factory.mktemp("runs") / "shared"
    flags = ["--heads", "shared", "--max-steps", "4", "--eval-steps", "2", "--out", str(out)]
    return out, cv_finetune.main([*data, *FAST, *flags])


def test_rates_are_the_means_of_the_languages(shared):
    out, summary = shared
    assert list(summary["languages"]) == ["tr", "ky"]
    for rate in ("wer", "cer", "dev_wer", "dev_cer", "train_wer", "train_cer"):
        each = [of_lang[rate] for of_lang in summary["languages"].values()]
        assert summary[rate] == pytest.approx(sum(each) / 2)
    assert summary["test_clips"] == 2 * summary["languages"]["tr"]["test_clips"] == 6
    dev = [m for m in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "dev_cer" in m]
    assert [m["step"] for m in dev] == [2, 4]
    for line in dev:
        assert line["dev_cer"] == pytest.approx((line["dev_cer_tr"] + line["dev_cer_ky"]) / 2)
    best = min(dev, key=lambda line: line["dev_cer"])
    assert summary["exported_step"] == best["step"]


def test_a_language_without_clips_counts_nothing():
    rates = mean_rates({"a": ErrorRates(0.5, 0.25, 4), "b": ErrorRates(1.0, 0.75, 1), "c": ErrorRates(None, None, 0)})
    assert (rates.wer, rates.cer, rates.clips) == (0.75, 0.5, 5)
    assert mean_rates({"c": ErrorRates(None, None, 0)}).wer is None


def test_each_language_has_its_text_rules_and_all_share_a_vocabulary(shared):
    out, _ = shared
    vocabulary = json.loads((out / "vocab.json").read_text(encoding="utf-8"))
    assert {"ı", "i", "ж"} <= vocabulary.keys()
    assert list(vocabulary) == [*sorted(set(vocabulary) - {"|", "[UNK]", "[PAD]"}), "|", "[UNK]", "[PAD]"]
    rows = [line.split("\t") for line in (out / "predictions-test.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["clip", "reference", "prediction", "lang"]
    texts = {row[3]: row[1].split()[0] for row in rows[1:]}
    assert texts == {"tr": "ılık", "ky": "id"}


def test_folder_card_and_report_name_all_languages(shared, capsys, tmp_path):
    out, _ = shared
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "language:\n- tr\n- ky\n" in card
    assert "for `tr`, `ky`" in card
    assert "| test, ky | 3 |" in card
    assert json.loads((out / "run.json").read_text())["languages"] == ["tr", "ky"]
    report.main([str(out), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "on tr, ky" in page
    assert "test, ky" in page
    said = capsys.readouterr().err
    assert "damaged" not in said
    assert "not known" not in said


def test_it_goes_on_without_other_flags(shared, data, tmp_path):
    cv_finetune.main([*data, *FAST, "--max-steps", "3", "--eval-steps", "2", "--out", str(tmp_path / "a")])
    summary = cv_finetune.main(["--resume", "--max-steps", "4", "--out", str(tmp_path / "a")])
    assert summary["steps"] == 4
    assert list(summary["languages"]) == ["tr", "ky"]


def test_a_run_of_one_vocabulary_goes_on_with_it(shared, tmp_path, capsys):
    shutil.copytree(shared[0], tmp_path / "run")
    summary = cv_finetune.main(["--resume", "--max-steps", "5", "--out", str(tmp_path / "run")])
    assert summary["vocabulary"] == shared[1]["vocabulary"]
    assert "heads: one for each language" not in capsys.readouterr().err


def test_one_of_them_is_evaluated(shared):
    out, summary = shared
    measured = cv_evaluate.main(["--model", str(out), "--lang", "tr"])
    assert measured["cer"] == summary["languages"]["tr"]["cer"]
    with pytest.raises(InputError, match="--lang must say which language is meant, the data has tr, ky"):
        cv_evaluate.main(["--model", str(out)])


def test_what_one_language_tests_no_other_trains_on(tmp_path):
    """Though only their samples tell that they are the same clips."""
    tr, ky = release(tmp_path, "tr", 0), release(tmp_path, "ky", 100, "жаз")  # 100 clips: the audio repeats
    moved = (ky / "train.tsv").read_text(encoding="utf-8").splitlines()
    (ky / "train.tsv").write_text("\n".join(moved[:4]) + "\n", encoding="utf-8")
    test = (ky / "test.tsv").read_text(encoding="utf-8")
    (ky / "test.tsv").write_text(test + "\n".join(moved[4:]) + "\n", encoding="utf-8")
    summary = cv_prepare.main(["--data", f"tr={tr}", f"ky={ky}", "--model", "tiny"])
    assert summary["leaks"]["across"] == {"clips": 0, "speakers": 0, "sentences": 0}
    assert {lang: of["train"]["clips"] for lang, of in summary["languages"].items()} == {"tr": 6 - 3, "ky": 3}
    assert summary["skipped"] == 3


def test_what_is_given():
    def of(*data: str, lang: str | None = None, extra: tuple[str, ...] = ()):
        return [(x.lang, [str(p) for p in x.data], [str(p) for p in x.extra_data])
                for x in languages_of(lang, [*map(Path, data)], [*map(Path, extra)])]  # fmt: skip

    assert of("a", "b", lang="tr") == [("tr", ["a", "b"], [])]
    assert of("tr=a") == of("a", lang="tr") == of("tr=a", lang="tr")
    assert of("tr=a", "sv-SE=b", "TR=c", extra=("sv-SE=d",)) == [("tr", ["a", "c"], []), ("sv-SE", ["b"], ["d"])]
    assert [each[0] for each in of("tr=a", "az=b", lang="az")] == ["az", "tr"]
    assert of("tr=hub:a/b", "az=x=y")[1] == ("az", ["x=y"], [])
    assert of(lang="tr", extra=("tr=a",)) == [("tr", [], ["a"])]
    for data, lang, extra, words in (
        (("tr=a", "b"), None, (), "in all places or in none, b has no LANG="),
        (("tr=a",), None, ("b",), "b has no LANG="),
        (("turkish=a", "az=b"), None, (), "did you mean tr"),
        (("tr=a", "az=b"), "ky", (), "must be one of the data's languages, tr, az, got ky"),
        (("tr=a",), None, ("az=b",), "--extra-data must be of the data's languages, tr, got az"),
        (("a",), None, (), "--lang is needed"),
    ):
        with pytest.raises(InputError, match=words):
            of(*data, lang=lang, extra=extra)


def test_a_path_that_is_there_may_have_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tr=a").mkdir()
    assert split_locale(Path("tr=a")) == ("", Path("tr=a"))
    assert split_locale(Path("tr=b")) == ("tr", Path("b"))
    assert split_locale(tmp_path / "tr=b") == ("", tmp_path / "tr=b")


def test_a_repeated_flag_is_several_paths(tmp_path):
    one, two = (release(tmp_path / name, "tr", first) for name, first in (("a", 0), ("b", 20)))
    common = ["--lang", "tr", "--model", "tiny", "--workers", "1"]
    repeated = cv_prepare.main([*common, "--data", str(one), "--data", str(two)])
    together = cv_prepare.main([*common, "--data", str(one), str(two)])
    named = cv_prepare.main([*common[2:], "--data", f"tr={one}", f"tr={two}"])
    assert repeated["train"]["clips"] == 12
    assert repeated == together == named


def drawn(flags: list[str], seconds: dict[str, list[float]]) -> list[float] | None:
    """How often each clip comes; seconds: of the training clips of each language, whose names are their lengths."""
    parser = argparse.ArgumentParser()
    add_drawing_arguments(parser)
    clips = [Clip(str(n), "", "", SOURCE, lang=lang) for lang, each in seconds.items() for n in each]
    told: list[str] = []
    prepared = SimpleNamespace(
        languages=seconds if len(seconds) > 1 else {},
        langs=list(seconds),
        splits=Splits(clips, [], []),
        seconds=lambda some: sum(float(clip.name) for clip in some),
        decide=told.append,
    )
    return times_drawn(parser.parse_args(flags), prepared)


def test_temperature_and_weights_draw_small_languages_more_often():
    seconds = {"tr": [40.0, 60.0], "az": [4.0]}
    assert drawn([], seconds) is None
    assert drawn(["--language-temperature", "2"], seconds) == [1.0, 1.0, 5.0]  # 10 to 2, as seconds are 100 to 4
    assert drawn(["--language-weights", "az=2"], seconds) == [1.0, 1.0, 2.0]
    assert drawn(["--language-weights", "az=0.5"], seconds) == [2.0, 2.0, 1.0]  # each clip comes at least once
    assert drawn(["--language-temperature", "2", "--language-weights", "tr=5"], seconds) is None
    assert drawn(["--language-temperature", "1e9"], seconds) == [1.0, 1.0, 25.0]
    with pytest.raises(InputError, match="must name languages of the data, tr, az, got ky"):
        drawn(["--language-weights", "ky=2"], seconds)
    with pytest.raises(InputError, match="need several languages, the data has one"):
        drawn(["--language-temperature", "2"], {"tr": [1.0]})


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (["--language-temperature", "0.5"], "must be at least 1"),
        (["--language-weights", "tr"], "takes LANG=WEIGHT"),
        (["--language-weights", "tr=0"], "takes LANG=WEIGHT"),
        (["--language-weights", "turkish=2"], "did you mean tr"),
        (["--begin-with", "turkish"], "did you mean tr"),
        (["--begin-with", "tr=0"], "takes LANG or LANG=EPOCHS"),
        (["--begin-with", "tr="], "takes LANG or LANG=EPOCHS"),
    ],
)
def test_what_is_no_temperature_or_weight(data, capsys, flag, words):
    with pytest.raises(SystemExit):
        cv_finetune.main([*data, *flag])
    assert words in capsys.readouterr().err


def test_a_run_draws_as_it_says_and_goes_on(data, tmp_path):
    flags = ["--language-weights", "ky=3", "--max-steps", "5", "--eval-steps", "5"]
    summary = cv_finetune.main([*data, *FAST, *flags, "--out", str(tmp_path / "a")])
    decisions = json.loads((tmp_path / "a" / "run.json").read_text())["decisions"]
    assert any(
        line.startswith("an epoch draws each clip of tr 1 times, ") and "ky 3 times" in line for line in decisions
    )
    assert summary["epochs"] == pytest.approx(5 / 6, abs=0.01)  # 6 + 3 * 6 clips are 6 batches
    cv_finetune.main([*data, *FAST, *flags[:2], "--max-steps", "3", "--eval-steps", "5", "--out", str(tmp_path / "b")])
    cv_finetune.main(["--resume", "--max-steps", "5", "--out", str(tmp_path / "b")])
    with pytest.raises(InputError, match="--language-weights was ky=3, now ky=2"):
        cv_finetune.main(["--resume", "--language-weights", "ky=2", "--out", str(tmp_path / "b")])


def test_a_run_begins_with_one_language(data, tmp_path):
    flags = ["--begin-with", "ky", "--max-steps", "3", "--eval-steps", "3", "--out", str(tmp_path / "run")]
    summary = cv_finetune.main([*data, *FAST, *flags])
    assert summary["epochs"] == pytest.approx(1 + 1 / 3, abs=0.01)  # 6 clips are 2 batches, and then 12 are 3
    decisions = json.loads((tmp_path / "run" / "run.json").read_text())["decisions"]
    assert "the first epochs, 1, have the 6 clips of ky alone" in decisions
    with pytest.raises(InputError, match="must be one of several languages, the data has ky, tr, got az"):
        cv_finetune.main([*data[2:], *data[:2], *FAST, "--begin-with", "az"])


@pytest.fixture(scope="module")
def apart(data, tmp_path_factory) -> tuple[Path, dict]:
    """A run with a head for each language, CTC's default; random weights write letters, training makes blanks."""
    out = tmp_path_factory.mktemp("runs") / "apart"
    flags = ["--max-steps", "2", "--seed", "1", "--out", str(out)]
    return out, cv_finetune.main([*data, *FAST[:-1], "0", *flags])


def test_each_language_of_a_run_is_as_it_was_measured(apart, capsys):
    out, summary = apart
    assert {of_lang["cer"] for of_lang in summary["languages"].values()}.isdisjoint({1.0, summary["cer"]})
    for lang in ("tr", "ky"):
        measured = cv_evaluate.main(["--model", str(out), "--lang", lang])
        assert measured["cer"] == summary["languages"][lang]["cer"], lang
    vocabularies = {lang: w2v.load(out, target_lang=lang).tokenizer.tokens for lang in ("tr", "ky")}
    assert "ı" in vocabularies["tr"] and "ж" not in vocabularies["tr"]
    assert "ж" in vocabularies["ky"] and "ı" not in vocabularies["ky"]
    assert w2v.load(out).tokenizer.tokens == vocabularies["tr"]
    clip = str(next((SAMPLE / "clips").glob("*.mp3")))
    texts = []
    for flags in ([], ["--lang", "tr"], ["--lang", "ky"]):
        transcribe.main([clip, "--model", str(out), "--device", "cpu", *flags])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert summary["vocabulary"] == len(vocabularies["tr"]) + len(vocabularies["ky"]) - 1


@pytest.mark.parametrize("heads", ["shared", "per-language"])
def test_a_clip_is_trained_on_its_own_languages_tokens(data, tmp_path, monkeypatch, heads):
    seen: list[Batch] = []
    losses = w2v.Wav2Vec2ForCTC.losses
    monkeypatch.setattr(w2v.Wav2Vec2ForCTC, "losses", lambda self, batch: (seen.append(batch), losses(self, batch))[1])
    summary = cv_finetune.main([*data, *FAST, "--heads", heads, "--max-steps", "3", "--out", str(tmp_path)])
    vocabularies = {lang: len(w2v.load(tmp_path, target_lang=lang).tokenizer) for lang in ("tr", "ky")}
    assert len(seen) == 3
    for batch in seen:
        if heads == "shared":
            assert batch.allowed is None
            continue
        wanted = [vocabularies[name.split("_")[2]] for name in batch.names]
        assert batch.allowed.sum(1).tolist() == wanted
        assert batch.allowed.shape == (len(batch), summary["vocabulary"])
        for mask, ids, length in zip(batch.allowed, batch.labels, batch.label_lengths, strict=True):
            assert mask[ids[:length]].all()


def test_others_load_each_language(apart, tmp_path, clips):
    from transformers import AutoProcessor, Wav2Vec2ForCTC

    out, _ = apart
    waveform = read_audio(clips[0])
    convert.main([str(out), str(tmp_path / "ky"), "--lang", "ky"])
    for folder, lang in ((out, "tr"), (tmp_path / "ky", "ky")):
        processor, theirs = AutoProcessor.from_pretrained(folder), Wav2Vec2ForCTC.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = theirs(**processor(waveform, sampling_rate=16_000, return_tensors="pt")).logits[0]
        ours = w2v.load(out, target_lang=lang)
        torch.testing.assert_close(ours.emissions(waveform), logits.log_softmax(-1), atol=2e-5, rtol=0)
        assert processor.tokenizer.convert_ids_to_tokens(range(logits.shape[1])) == ours.tokenizer.tokens
        assert w2v.load(folder).normaliser.lang == lang
    with pytest.raises(InputError, match="must be a language of"):
        convert.main([str(out), str(tmp_path / "x"), "--lang", "az"])
    with pytest.raises(InputError, match="--lang takes a language out of a run of several"):
        convert.main([str(tmp_path / "ky"), str(tmp_path / "x"), "--lang", "ky"])


def test_a_language_of_a_shared_vocabulary_has_its_text_rules(shared, tmp_path):
    out, _ = shared
    assert [w2v.load(out, target_lang=lang).normaliser.lang for lang in (None, "tr", "ky")] == ["tr", "tr", "ky"]
    convert.main([str(out), str(tmp_path), "--lang", "ky"])
    assert w2v.load(tmp_path).normaliser.lang == "ky"
    with pytest.raises(InputError, match="must be a language of"):
        w2v.load(out, target_lang="az")


def test_heads_go_on_from_where_a_run_stopped(data, tmp_path):
    flags = [*data, *FAST, "--heads", "per-language", "--precision", "fp32", "--max-steps", "4", "--save-steps", "2"]
    cv_finetune.main([*flags, "--eval-steps", "2", "--out", str(tmp_path / "a")])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "checkpoints" / "step-0000004.pt").unlink()
    cv_finetune.main(["--resume", "--out", str(tmp_path / "b")])
    for name in ("model.safetensors", "languages/ky/head.safetensors"):
        one, other = load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name)
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    flags = ["--heads", "shared", "--max-steps", "1", "--out", str(tmp_path / "a"), "--overwrite"]
    cv_finetune.main([*data, *FAST, *flags])
    assert not list(tmp_path.glob("a/languages/*/head.safetensors"))


@pytest.mark.slow
def test_heads_of_another_family(data, tmp_path):
    flags = ["--max-steps", "1", "--out", str(tmp_path)]
    summary = cv_finetune.main([*data, "--model", "random:w2v-bert-tiny", *FAST[2:], *flags])
    assert w2v.load(tmp_path, target_lang="ky").model.config.vocab_size < summary["vocabulary"]


def test_what_has_one_head_has_one_vocabulary(data, tmp_path, capsys):
    tr, kk = release(tmp_path, "tr", 0), release(tmp_path, "kk", 40)
    whisper = ["--data", f"tr={tr}", "--data", f"kk={kk}", "--model", "random:whisper-tiny"]
    for flags, has_own in (([*data, "--model", "tiny"], True), (whisper, False)):
        cv_prepare.main(flags)
        assert ("heads: one for each language" in capsys.readouterr().err) == has_own
    assert parse_arguments([*data, "--adapter"], "", "").heads == "shared"


def test_what_several_languages_cannot_have(data):
    with pytest.raises(InputError, match="--heads per-language needs a CTC model"):
        cv_finetune.main([*data, "--heads", "per-language", "--model", "random:whisper-tiny"])
    with pytest.raises(InputError, match="--adapter trains one head"):
        cv_finetune.main([*data, "--heads", "per-language", "--adapter"])
    with pytest.raises(InputError, match="--prompt-language is for data of one language"):
        cv_finetune.main([*data, "--prompt-language", "kk"])
    with pytest.raises(InputError, match="--check-alignment takes data of one language"):
        cv_prepare.main([*data, "--check-alignment", "x"])


@pytest.mark.slow
def test_real_languages(tmp_path):
    """Three languages in three scripts, of one vocabulary each or all together."""
    folders = {lang: SHARED / "data" / "cv6" / lang for lang in ("tr", "ka", "sah")}
    if not all(folder.is_dir() for folder in folders.values()):
        pytest.skip("needs the shared Common Voice folders")
    flags = [word for lang, folder in folders.items() for word in ("--data", f"{lang}={folder}")]
    summary = cv_finetune.main([*flags, *FAST, "--max-steps", "6", "--max-train-clips", "30", "--out", str(tmp_path)])
    assert list(summary["languages"]) == list(folders)
    assert all(of_lang["test_clips"] == 10 for of_lang in summary["languages"].values())


def test_the_sample_is_of_one_language():
    with pytest.raises(InputError, match="cannot read the data nope"):
        cv_prepare.main(["--data", f"tr={SAMPLE}", "az=nope"])


def test_the_better_heads_have_the_lower_mean_over_seeds():
    runs = {"shared": [{"cer": 0.4}, {"cer": 0.6}], "per-language": [{"cer": 0.55}, {"cer": 0.3}]}
    assert language_heads.better_of(runs) == "per-language"
    assert language_heads.better_of(runs | {"shared": [{"cer": 0.3}, {"cer": 0.3}]}) == "shared"


def test_both_kinds_of_heads_by_one_command(data, tmp_path, capsys):
    flags = [*data, *FAST, "--max-steps", "1", "--seeds", "0", "1", "--out", str(tmp_path)]
    results = language_heads.main(flags)
    assert {heads: len(runs) for heads, runs in results.items()} == {"shared": 2, "per-language": 2}
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["tr", "ky", "means"]
    assert "lower mean CER: " in table[4]
    times = [(tmp_path / "shared-0" / "run.json").stat().st_mtime_ns, results]
    assert [(tmp_path / "shared-0" / "run.json").stat().st_mtime_ns, language_heads.main(flags)] == times
