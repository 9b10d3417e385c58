"""Evaluation as a command: a run's own rates again, those of others' rules, breakdowns, comparison, refusals.

Run: pytest tests/recipes/test_evaluate.py
"""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SAMPLE

import w2v
from recipes import console, cv_evaluate, cv_finetune, evaluation
from recipes.cv_evaluate import Model, check_spelling, for_text_of
from recipes.data_settings import find_data
from recipes.evaluation import score
from w2v.errors import InputError
from w2v.text.normalise import Normaliser
from w2v.text.yardsticks import YARDSTICKS

pytestmark = pytest.mark.usefixtures("cache")
COLUMNS = ["clip", "reference_raw", "reference", "prediction", "wer", "cer"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A release with 4 clips to train on, 1 of dev and 8 of test: one is no audio, one has no words, one speaker is
    not known, and one sentence is in train too."""
    folder = tmp_path_factory.mktemp("data") / "tr"
    (folder / "clips").mkdir(parents=True)
    with open(SAMPLE / "validated.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:13]
    for row in rows:
        shutil.copy(SAMPLE / "clips" / row["path"], folder / "clips")
    train, dev, test = rows[:4], rows[4:5], rows[5:]
    test[0]["sentence"] = train[0]["sentence"] + " ..."
    test[1]["sentence"] = "?! ..."
    test[3]["client_id"] = ""
    test[4]["client_id"] = test[5]["client_id"]
    (folder / "clips" / test[2]["path"]).write_bytes(b"no audio")
    for name, part in {"train": train, "dev": dev, "test": test}.items():
        lines = ["client_id\tpath\tsentence"]
        lines += ["\t".join(row[column] for column in ("client_id", "path", "sentence")) for row in part]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, dict]:
    """A run of random weights, which write many letters."""
    out = tmp_path_factory.mktemp("runs") / "a"
    words = ["--lang", "tr", "--data", str(data), "--model", "tiny", "--max-steps", "1", "--lr", "0", "--device", "cpu"]
    return out, cv_finetune.main([*words, "--batch-clips", "2", "--seed", "1", "--out", str(out)])


@pytest.fixture(scope="module")
def evaluated(data, trained, tmp_path_factory) -> tuple[dict, dict, list[list[str]]]:
    """-> the summary, evaluation.json, the rows of predictions.tsv, of a run compared with itself."""
    out = tmp_path_factory.mktemp("evaluated")
    words = ["--model", str(trained[0]), "--lang", "tr", "--data", str(data), "--compare", str(trained[0])]
    summary = cv_evaluate.main([*words, "--out", str(out)])
    rows = (out / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    return summary, json.loads((out / "evaluation.json").read_text(encoding="utf-8")), [r.split("\t") for r in rows]


def test_a_run_s_own_rates_come_again(trained, evaluated):
    run, (summary, report, _) = trained[1], evaluated
    assert summary["wer"] == run["wer"]
    assert summary["cer"] == run["cer"] != 1  # not that of an empty text
    assert summary["clips"] == run["test_clips"] == 6
    assert report["rules"]["own"]["wer"] == run["wer"]
    counts = report["rules"]["own"]["characters"]
    assert (
        sum(counts[kind] for kind in ("substitutions", "deletions", "insertions")) / counts["reference"] == run["cer"]
    )


def test_flags_of_a_run_hold_unless_given(tmp_path):
    recorded = {
        "data": ["a"],
        "train_splits": "validated",
        "seed": 7,
        "keep_chars": "?",
        "extra_data": [],
        "cache": "x",
    }
    (tmp_path / "run.json").write_text(json.dumps({"data_fingerprint": "", "arguments": recorded}))
    args = cv_evaluate.parse_arguments(["--model", str(tmp_path), "--lang", "tr", "--seed", "3"])
    assert (args.data, args.train_splits, args.keep_chars) == ([Path("a")], "validated", "?")
    assert args.seed == 3
    assert args.cache is None  # of the machine, not of the run


def test_unusable_clips_are_named(evaluated):
    _, report, rows = evaluated
    reasons = sorted(skip["reason"].split(":")[0] for skip in report["skipped"])
    assert reasons == ["no text is left of its sentence", "unreadable"]
    assert not {skip["clip"] for skip in report["skipped"]} & {row[0] for row in rows}


def test_breakdowns_cover_every_clip_once(evaluated, data):
    _, report, _ = evaluated
    assert sum(row["clips"] for row in report["by_length"]) == 6
    assert [report["seen_in_training"][answer]["clips"] for answer in ("yes", "no")] == [1, 5]
    assert report["speakers"] == len(report["by_speaker"])
    assert sum(row["clips"] for row in report["by_speaker"]) == 5  # one clip's speaker is not known
    assert max(row["clips"] for row in report["by_speaker"]) == 2
    rates = [row["wer"] for row in report["by_speaker"]]
    assert rates == sorted(rates)
    low, high = report["intervals"]["wer"]
    assert low <= report["wer"] <= high


def test_predictions_keep_the_sentence_as_written(evaluated, data):
    _, _, (header, *rows) = evaluated
    assert header == [*COLUMNS, "other_prediction", "other_wer", "other_cer"]
    with open(data / "test.tsv", encoding="utf-8") as file:
        written = {row["path"]: row["sentence"] for row in csv.DictReader(file, delimiter="\t")}
    for clip, raw, reference, prediction, wer, cer, *others in rows:
        assert raw == written[clip]
        assert reference == Normaliser("tr")(raw)
        rates = w2v_rates(reference, prediction)
        assert (float(wer), float(cer)) == pytest.approx(rates, abs=1e-4)
        assert others == [prediction, wer, cer]


def w2v_rates(reference: str, hypothesis: str) -> tuple[float, float]:
    rates = evaluation.score([reference], [hypothesis], str, str).rates
    return rates["wer"], rates["cer"]


def test_a_model_does_not_differ_from_itself(evaluated):
    summary, _, _ = evaluated
    for rate in ("wer", "cer"):
        assert summary["compare"][rate] == summary[rate]
        against = summary["compare"][f"{rate}_against"]
        assert (against["difference"], against["low"], against["high"], against["p_value"]) == (0, 0, 0, 1)


def test_no_speaker_leaves_the_machine_and_the_run_s_data_need_not_be_named(evaluated, data, trained, capsys, tmp_path):
    with open(data / "test.tsv", encoding="utf-8") as file:
        speakers = {row["client_id"] for row in csv.DictReader(file, delimiter="\t")} - {""}
    summary = cv_evaluate.main(["--model", str(trained[0]), "--lang", "tr", "--out", str(tmp_path)])
    assert {**summary, "compare": None, "out": None} == {**evaluated[0], "compare": None, "out": None}
    shown = capsys.readouterr().err + "".join(file.read_text(encoding="utf-8") for file in tmp_path.iterdir())
    assert len(speakers) > 3
    assert not [speaker for speaker in speakers if speaker in shown]


def test_tables_fit_100_columns(evaluated, capsys):
    _, report, _ = evaluated
    lines = evaluation.lines_of(report | {"model": "a", "compare": report["compare"] | {"model": "b"}})
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for words in (
        "hf-blog",
        "whisper-basic",
        "By length",
        "sentence is new",
        "speaker 1",
        "in characters",
        "p = 1.000",
    ):
        assert words in text


def test_headline_is_cer_where_words_have_no_spaces(trained, data, tmp_path, capsys):
    table = tmp_path / "clips.tsv"
    rows = [line.split("\t") for line in (data / "test.tsv").read_text(encoding="utf-8").splitlines()[4:7]]
    table.write_text(
        "path\tsentence\n" + "".join(f"{data / 'clips' / path}\t{sentence}\n" for _, path, sentence in rows),
        encoding="utf-8",
    )
    words = ["--model", str(trained[0]), "--lang", "th", "--data", str(table), "--split", "validated"]
    summary = cv_evaluate.main(words)
    printed = capsys.readouterr().err
    assert (summary["headline"], summary["clips"], summary["speakers"]) == ("cer", 3, 0)
    assert printed.index("  CER ") < printed.index("  WER ")
    assert "normaliser.json is of tr, --lang is th" in printed


def test_limit_draws_and_length_drops_nothing(trained):
    words = ["--model", str(trained[0]), "--lang", "tr", "--max-seconds", "1", "--min-seconds", "0.9", "--limit", "4"]
    few = cv_evaluate.main(words)
    assert few["clips"] + few["skipped"] == 4
    assert few["skipped"] <= 2  # the broken ones; those are flags for training clips


def test_data_with_a_test_table_alone(trained, data, tmp_path, capsys):
    (tmp_path / "tr").mkdir()
    shutil.copy(data / "test.tsv", tmp_path / "tr")
    (tmp_path / "tr" / "clips").symlink_to(data / "clips")
    summary = cv_evaluate.main(["--model", str(trained[0]), "--lang", "tr", "--data", str(tmp_path)])
    assert (summary["wer"], summary["seen_in_training"]) == (trained[1]["wer"], None)
    assert "the data has no training clips" in capsys.readouterr().err


def test_a_model_of_others_is_measured_under_our_rules(hub, trained, data, tmp_path, capsys):
    shutil.copytree(trained[0], tmp_path / "other", ignore=shutil.ignore_patterns("run.json", "normaliser.json"))
    files = {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir() if file.is_file()}
    hub.publish("some-one/model", **files)
    summary = cv_evaluate.main(["--model", "some-one/model", "--lang", "tr", "--data", str(data)])
    assert summary["cer"] == pytest.approx(trained[1]["cer"], abs=0.05)  # the rules may remove an apostrophe
    assert "the model has no normaliser.json" in capsys.readouterr().err
    ours, theirs = (Model("", None, rules) for rules in (Normaliser("tr"), None))
    assert for_text_of(ours, Normaliser("tr"))("EVET, 'İyi'.") == "EVET, 'İyi'."
    assert for_text_of(theirs, Normaliser("tr"))("EVET, 'İyi'.") == "evet iyi"
    assert for_text_of(ours, Normaliser("tr", keep_chars="."))("Evet.") == "evet."


def test_references_without_text_are_left_out_and_counted():
    sentences, hypotheses = ["Evet.", "?", "Bu  ev"], ["evet", "çok", "bu av"]
    found = score(sentences, hypotheses, YARDSTICKS["hf-blog"], YARDSTICKS["hf-blog"])
    assert (found.empty, found.clips.tolist()) == (1, [0, 2])
    assert found.rates == {"wer": 1 / 3, "cer": 2 / 10}  # av for ev; one of two spaces is missing, of 4 + 6
    raw = score(sentences, hypotheses, YARDSTICKS["none"], YARDSTICKS["none"])
    assert (raw.empty, raw.rates["wer"]) == (0, 4 / 4)
    assert score(["?"], [""], YARDSTICKS["hf-blog"], str).rates == {"wer": None, "cer": None}


def test_lengths_and_speakers_by_hand():
    found = score(["a b", "a b", "a", "c"], ["a b", "a x", "", "c"], str, str)
    rows = evaluation.by_length(found, np.array([1.9, 2.0, 25.0, 3.0]))
    assert [(row["seconds"], row["clips"], row["wer"]) for row in rows] == [
        ("under 2 s", 1, 0.0), ("2 to 4 s", 2, 1 / 3), ("20 s and more", 1, 1.0),
    ]  # fmt: skip
    rows = evaluation.by_speaker(found, ["p", "p", "", "q"], "wer", ["1", "2", "3", "4"])
    assert [(row["speaker"], row["clips"], row["wer"], row["clip"]) for row in rows] == [
        (1, 1, 0, "4"),
        (2, 2, 1 / 4, "1"),
    ]


def test_confusions_are_counted_and_shown():
    found = score(["ev ev bu", "bu"], ["av av bu da", "da"], str, str)
    kinds = evaluation.confusions(found.words)
    assert kinds == {"substituted": [["ev", "av", 2], ["bu", "da", 1]], "deleted": [], "inserted": [["da", 1]]}
    assert evaluation._confusions("words", kinds)[:3] == [
        "Most frequent errors in words:", "  substituted: ev > av (2)", "  deleted: none",
    ]  # fmt: skip
    assert evaluation.printable("a b\x1b") == "a␣bU+001B"


def model_with(vocabulary: str) -> Model:
    return Model("m", SimpleNamespace(tokenizer=w2v.CharTokenizer.from_texts([vocabulary])), None)


def test_what_the_vocabulary_cannot_spell_is_counted_and_said(capsys):
    assert check_spelling(model_with("evtçok"), ["evet", "çok ev"]) == {"clips": 0, "characters": {}}
    assert check_spelling(model_with("EVTÇOK"), ["evet", "çok ev"])["clips"] == 0  # capitals will be lower-cased
    assert capsys.readouterr().err == ""
    assert check_spelling(model_with("evto"), ["evet", "çok ev"]) == {"clips": 1, "characters": {"ç": 1, "k": 1}}
    assert "1 of 2 references" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"lacks 78 % of their characters \(.*; check --lang"):
        check_spelling(model_with("xyt" + "o"), ["evet", "çok ev"])


@pytest.fixture
def refused(capsys):
    def call(*words) -> str:
        with pytest.raises(SystemExit) as end:
            console.run(lambda: cv_evaluate.main([*map(str, words), "--lang", "tr"]))
        printed = capsys.readouterr()
        assert (end.value.code, printed.out) == (2, "")
        lines = printed.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert "Traceback" not in printed.err
        return lines[-1]

    return call


def test_refusals(refused, trained, data, tmp_path):
    run = trained[0]
    assert "--split must be one of train, dev, test, got 'tests'" in refused("--model", run, "--split", "tests")
    assert "--split dev must hold clips" in refused("--model", run, "--dev-split", "none", "--split", "dev")
    assert "is missing" in refused("--model", tmp_path / "nowhere")
    body = tmp_path / "body"
    shutil.copytree(run, body, ignore=shutil.ignore_patterns("vocab.json", "checkpoints"))
    assert "vocab.json" in refused("--model", body, "--data", data)
    assert "vocab.json" in refused("--model", run, "--compare", body)
    assert "--out must be a folder" in refused("--model", run, "--out", run / "vocab.json")
    broken = tmp_path / "broken.tsv"
    (tmp_path / "a.mp3").write_bytes(b"no audio")
    broken.write_text("path\tsentence\na.mp3\tEvet.\n", encoding="utf-8")
    answer = refused("--model", run, "--data", broken, "--split", "validated", "--out", tmp_path / "out")
    assert "none of its 1 has both" in answer
    assert not (tmp_path / "out").exists()


def test_flags_of_training_only_are_said_to_be_unused_and_can_be_given(capsys):
    given = ["--model", "x", "--lang", "tr", "--min-seconds", "1", "--max-seconds", "9", "--min-char-count", "2"]
    assert cv_evaluate.parse_arguments(given).max_seconds == 9
    with pytest.raises(SystemExit):
        cv_evaluate.parse_arguments(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for flag in ("--min-seconds MIN_SECONDS", "--max-seconds MAX_SECONDS", "--min-char-count MIN_CHAR_COUNT"):
        assert f"{flag} not used here; " in said


@pytest.mark.parametrize("trains", [True, False])
def test_the_banner_of_the_sample_is_that_of_the_command(capsys, trains):
    find_data("tr", None, trains)
    said = capsys.readouterr().err
    assert max(map(len, said.splitlines())) == 100
    assert "mozilladatacollective.com" in said
    assert ("Six minutes teach sounds" in said.replace("\n", " ")) == trains
    assert ("Error rates on so few clips" in said) != trains
