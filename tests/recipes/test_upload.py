"""The way to the Hub: what is sent, what never is, and every way in which it fails. All of it on 127.0.0.1.

Run: pytest tests/recipes/test_upload.py
"""

import csv
import dataclasses
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SAMPLE, reach_hub_at
from huggingface_hub import ModelCard, constants
from test_model_card import FACTS

import w2v
from recipes import cv_finetune
from recipes.results import export
from recipes.settings import parse_arguments
from recipes.start import resolve_model
from recipes.upload import Upload, by_hand, check_upload, repository_name
from w2v.errors import InputError
from w2v.metrics import ErrorRates
from w2v.text.normalise import Normaliser
from w2v.text.tokenizer import CharTokenizer

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_write")


def check(*flags: str) -> Upload:
    return check_upload(parse_arguments(["--lang", "tr", *flags], "p", "d"))


def refusal(*flags: str) -> str:
    with pytest.raises(InputError) as caught:
        check(*flags)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_nothing_is_asked_of_the_hub_where_nothing_goes_there(hub, tmp_path):
    nothing = check()
    nothing.best(tmp_path, None, None, None)
    assert nothing.end(tmp_path, {"wer": 1}) == {"wer": 1}
    assert hub.requests == []
    for flags in (["--private"], ["--push-reports"]):
        assert "need --push-to-hub" in refusal(*flags)


@pytest.mark.parametrize(("name", "repository"), [("m", "someone/m"), ("lab/m", "lab/m")])
def test_the_repository_is_made_before_training(hub, token, name, repository):
    assert check("--push-to-hub", name).repository == repository
    assert repository in hub.commits
    assert repository not in hub.private
    assert check("--push-to-hub", name).repository == repository, "a resumed run finds it"


def test_a_private_repository_is_private_or_refused(hub, token):
    check("--push-to-hub", "m", "--private")
    assert hub.private == {"someone/m"}
    check("--push-to-hub", "m", "--private")
    check("--push-to-hub", "open")
    assert "someone/open is public already" in refusal("--push-to-hub", "open", "--private")


@pytest.mark.parametrize("name", ["a/b/c", "a b", ".a", "a--b", "a.git", "", "ü", "a/" + "b" * 200, "x\x1b[2J\ny"])
def test_names_that_the_hub_does_not_take(hub, token, name):
    assert "NAME or OWNER/NAME" in refusal("--push-to-hub", name)
    assert hub.requests == []


def test_tokens_that_do_not_do(hub, monkeypatch):
    assert "found none; run `hf auth login`" in refusal("--push-to-hub", "m")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not know the token; run `hf auth login` or set HF_TOKEN" in refusal("--push-to-hub", "m")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert "needs a token that may write" in refusal("--push-to-hub", "m")
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    assert "may not write there" in refusal("--push-to-hub", "google/m")
    assert not hub.commits


def test_a_hub_that_is_not_there(hub, token, monkeypatch):
    hub.status = 503
    assert "the Hub answered 503 (Service Unavailable)" in refusal("--push-to-hub", "m")
    hub.status, hub.page = 200, b"<html>please log in</html>"
    refusal("--push-to-hub", "m")
    hub.page = b""
    with monkeypatch.context() as down:
        reach_hub_at(down, CLOSED)
        assert "Connection refused" in refusal("--push-to-hub", "m")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("--push-to-hub", "m")


def test_tags():
    assert parse_arguments(["--lang", "tr", "--tag", "a", "--tag", "hf-asr-leaderboard"], "p", "d").tag == [
        "a", "hf-asr-leaderboard"
    ]  # fmt: skip
    for bad in ("", " a", "a\nb", "- a", "x" * 65, "a'"):
        with pytest.raises(SystemExit):
            parse_arguments(["--lang", "tr", "--tag", bad], "p", "d")


PREPARED = SimpleNamespace(
    tokenizer=CharTokenizer.from_texts(["abç"]), normaliser=Normaliser("tr"), has_own_heads=False
)
SENT = {
    "README.md", "config.json", "model.safetensors", "normaliser.json", "preprocessor_config.json",
    "special_tokens_map.json", "tokenizer_config.json", "vocab.json",
}  # fmt: skip
PRIVATE = ["run.json", "report.html", "predictions-test.tsv", "skipped.tsv", "metrics.jsonl", "thesis.tex", ".env"]


def write_weights(folder: Path, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")


@pytest.fixture
def run(hub, token, tmp_path) -> Path:
    """A run folder with all that a run leaves in it, and more."""
    out = tmp_path / "my run"
    for step in (2, 4, 6):
        write_weights(out / "checkpoints" / f"best-{step:07d}", f"best {step}")
    write_weights(out, "final")
    PREPARED.tokenizer.save_pretrained(out)
    PREPARED.normaliser.save(out)
    (out / "README.md").write_text("---\nlanguage: tr\n---\n")
    for name in PRIVATE:
        (out / name).write_text("/home/me")
    return out


def best(uploads: Upload, out: Path, step: int) -> None:
    def describe(results):
        return dataclasses.replace(FACTS, results=results, weights_of=step, steps=(step, 6))

    uploads.best(out, PREPARED, describe, ErrorRates(0.5, 0.2, 3))


def wait_for(happened) -> None:
    clock = threading.Event()
    for _ in range(400):
        if happened():
            return
        clock.wait(0.01)
    raise AssertionError("it did not happen")


def held(hub) -> dict[str, bytes]:
    return {name: content for name, content in hub.files("someone/m").items() if name != ".gitattributes"}


def test_best_weights_and_the_end_are_uploaded_and_nothing_else(hub, run, capsys):
    uploads = check("--push-to-hub", "m")
    best(uploads, run, 2)
    wait_for(lambda: uploads.pushed)
    assert held(hub).keys() == SENT
    assert held(hub)["model.safetensors"] == b"best 2"
    assert "of step 2 of 6: training goes on" in held(hub)["README.md"].decode()
    summary = uploads.end(run, {"wer": 1.0})
    assert summary == {"wer": 1.0, "pushed": f"someone/m@{list(hub.commits['someone/m'])[-1]}"}
    assert held(hub).keys() == SENT
    assert held(hub)["model.safetensors"] == b"final"
    assert not list((run / "checkpoints").glob("upload-*"))
    assert not [body for body in hub.received if b"/home/me" in body]
    assert "uploaded: someone/m@" in capsys.readouterr().err


def test_the_language_model_goes_with_the_model(hub, run):
    (run / "language_model").mkdir()
    (run / "language_model" / "attrs.json").write_text("{}")
    (run / "alphabet.json").write_text("{}")
    check("--push-to-hub", "m").end(run, {})
    assert held(hub).keys() == SENT | {"alphabet.json", "language_model/attrs.json"}
    command = by_hand("someone/m", run)
    assert "--include language_model/attrs.json" in command and "--include alphabet.json" in command


def test_reports_are_uploaded_where_that_is_asked_for(hub, run):
    check("--push-to-hub", "m", "--push-reports").end(run, {})
    assert held(hub).keys() == SENT | set(PRIVATE) - {"thesis.tex", ".env"}


def test_training_goes_on_and_the_newest_best_takes_the_place_of_one_that_waits(hub, run):
    uploads = check("--push-to-hub", "m")
    hub.going.clear()
    best(uploads, run, 2)
    wait_for(lambda: any(line.startswith("PUT") for line in hub.requests))
    shutil.rmtree(run / "checkpoints" / "best-0000002")  # as training does with weights that are the best no more
    best(uploads, run, 4)
    best(uploads, run, 6)
    assert {file.name for file in (run / "checkpoints").glob("upload-*")} == {"upload-0000002", "upload-0000006"}
    threading.Timer(0.2, hub.going.set).start()
    uploads.end(run, {})
    weights = [files["model.safetensors"] for files in list(hub.commits["someone/m"].values())[1:]]
    assert weights == [b"best 2", b"final"]
    assert not list((run / "checkpoints").glob("upload-*"))


@pytest.mark.parametrize(("part", "status", "words"), [
    ("/commit/", 401, "the Hub does not know the token; run `hf auth login`"),
    ("/commit/", 404, "shows no such repository"),
    ("/commit/", 500, "the Hub answered 500 (Internal Server Error)"),
    ("/commit/", 0, "disconnected"),
    *((part, 403, "the token may not write there") for part in ("/commit/", "/preupload/", "/info/lfs/", "/objects/")),
])  # fmt: skip
def test_a_failed_upload_is_one_line_and_the_next_one_is_whole(hub, run, capsys, part, status, words):
    uploads = check("--push-to-hub", "m")
    hub.refusals[part] = status
    capsys.readouterr()
    best(uploads, run, 2)
    wait_for(lambda: uploads.failure and uploads.thread is None)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("the upload of step 2 to someone/m failed: ")
    assert words in line
    hub.refusals.clear()
    assert uploads.end(run, {})["pushed"]
    assert held(hub).keys() == SENT


def test_attempts_that_are_made_again_are_not_said(hub, run):
    said: list[logging.LogRecord] = []
    log, handler = logging.getLogger("huggingface_hub"), logging.Handler()
    handler.emit = said.append
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    hub.refusals["/preupload/"] = 500
    assert check("--push-to-hub", "m").end(run, {})["pushed"] is None
    log.removeHandler(handler)
    assert sum("/preupload/" in line for line in hub.requests) > 1
    assert not said


def test_a_card_that_the_hub_does_not_take_is_quoted(hub, run, capsys):
    (run / "README.md").write_text("---\nlanguage: [\n---\n")
    assert check("--push-to-hub", "m").end(run, {})["pushed"] is None
    assert "failed: Invalid metadata in README.md. - while parsing" in capsys.readouterr().err


def test_a_network_that_goes_down(hub, run, monkeypatch, capsys):
    uploads = check("--push-to-hub", "m")
    reach_hub_at(monkeypatch, CLOSED)
    capsys.readouterr()
    assert uploads.end(run, {"wer": 1.0}) == {"wer": 1.0, "pushed": None}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "the upload of the finished model to someone/m failed: [Errno 111] Connection refused" in said[1]


def test_the_named_command_uploads_no_more_than_the_run_would_have(hub, run, tmp_path, capsys):
    uploads = check("--push-to-hub", "m")
    hub.refusals["/commit/"] = 403
    uploads.end(run, {})
    hub.refusals.clear()
    command = shlex.split(capsys.readouterr().err.splitlines()[-1].removeprefix("to upload it by hand: "))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1"}  # which asks the package index
    subprocess.run([Path(sys.executable).with_name("hf"), *command[1:]], env=environment, check=True)
    assert held(hub).keys() == SENT


def test_paths_in_a_checkpoint_are_not_exported(tmp_path, small_config):
    """transformers wrote them into config.json and tokenizer_config.json."""
    base, out = tmp_path / "base", tmp_path / "out"
    w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, vocab_size=6, pad_token_id=5)).save_pretrained(base)
    PREPARED.tokenizer.save_pretrained(base)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        fields = json.loads((base / name).read_text())
        paths = {key: str(base) for key in ("_name_or_path", "name_or_path", "special_tokens_map_file")}
        (base / name).write_text(json.dumps(fields | paths))
    start = resolve_model(str(base), tmp_path)
    export(out, start.build(start.tokenizer, {}), start.tokenizer, Normaliser("tr"))
    assert len(list(out.iterdir())) == len(SENT) - 1  # all but the card
    assert not [file for file in out.iterdir() if str(tmp_path).encode() in file.read_bytes()]


def test_names_of_models_become_names_of_repositories():
    for name, repository in (("wav2vec2-xlsr-53-tr", "wav2vec2-xlsr-53-tr"), ("a b|c--d", "a-b-c-d"), ("..x.", "x")):
        assert repository_name(name) == repository


def test_a_token_that_does_not_do_is_said_before_any_data_is_read(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="the Hub does not know the token"):
        cv_finetune.main(
            ["--lang", "tr", "--push-to-hub", "m", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o")]
        )
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "o").exists()


def snippets(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL)


@pytest.fixture
def published(hub, tmp_path, small_config):
    """A whole run of the command, from a local checkpoint and data with a name that is hard to write."""
    base, data, out = (
        tmp_path / "secret-base" / "tiny",
        tmp_path / "secret-data" / "a|b 😀 `x`",
        tmp_path / "secret-out",
    )
    torch.manual_seed(0)  # with other weights it may write nothing after four steps
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(base)
    fields = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(fields | {"_name_or_path": str(base), "name_or_path": str(base)}))
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    shutil.copytree(SAMPLE, data)
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_write", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    argv = ["--lang", "tr", "--data", str(data), "--model", str(base), "--max-train-clips", "8", "--batch-clips", "4",
            "--accumulation", "1", "--max-steps", "4", "--eval-steps", "2", "--lr", "1e-4", "--precision", "fp32",
            "--cache", str(tmp_path / "secret-cache"), "--out", str(out), "--push-to-hub", "m", "--private",
            "--tag", "my-tag"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cv_finetune", *argv], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return argv, json.loads(done.stdout.splitlines()[-1]), done.stderr, out, data


@pytest.mark.slow
def test_a_published_run_is_whole_private_and_true(hub, published, tmp_path, monkeypatch, capsys):
    argv, summary, said, out, data = published
    arrived = held(hub)
    assert arrived.keys() == SENT
    assert hub.private == {"someone/m"}
    assert summary["pushed"] == f"someone/m@{list(hub.commits['someone/m'])[-1]}"
    assert "Traceback" not in said
    assert all((out / name).read_bytes() == content for name, content in arrived.items())

    # Nothing that left the machine says where things lie, or who spoke.
    sent = b"\n".join([*hub.received, *(c for files in hub.commits["someone/m"].values() for c in files.values())])
    with open(data / "validated.tsv", encoding="utf-8", newline="") as file:
        speaker = {row["path"]: row["client_id"] for row in csv.DictReader(file, delimiter="\t")}
    speakers = set(speaker.values())
    assert len(speakers) == 67
    for secret in (str(tmp_path), str(ROOT), str(Path.home()), "secret-", *speakers):
        assert secret.encode() not in sent, secret

    card = ModelCard(arrived["README.md"].decode())
    assert card.data.license == "cc-by-nc-4.0"
    assert "my-tag" in card.data.tags
    assert card.data.eval_results[0].dataset_name == f"Common Voice ({data.name})"
    rates = {result.metric_type: result.metric_value for result in card.data.eval_results}

    tested = (out / "predictions-test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    hours = json.loads((out / "run.json").read_text(encoding="utf-8"))["data"]["test"]["hours"]
    row = (len(tested), f"{hours:.2f}", len({speaker[line.split("\t")[0]] for line in tested}))
    assert f"| test | {' | '.join(map(str, row))} |" in card.content

    # The snippets, as a reader runs them.
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path / "reader")
    (tmp_path / "reader" / data.name).symlink_to(data)
    row = tested[0].split("\t")
    shutil.copy(data / "clips" / row[0], "clip.mp3")
    ours, theirs, evaluation = snippets(card.content)
    for code in (ours, theirs):
        capsys.readouterr()
        exec(compile(code, "README.md", "exec"), {})
        assert capsys.readouterr().out.split() == row[2].split() != []
    capsys.readouterr()
    exec(compile(evaluation, "README.md", "exec"), {})
    found = eval(capsys.readouterr().out.splitlines()[-1], {"ErrorRates": ErrorRates})
    assert {"wer": round(100 * found.wer, 2), "cer": round(100 * found.cer, 2)} == rates
    assert found.clips == summary["test_clips"]

    # A resumed run may publish or not, as it likes.
    commits = len(hub.commits["someone/m"])
    again = cv_finetune.main([*argv[: argv.index("--push-to-hub")], "--resume"])
    assert again["wer"] == summary["wer"]
    assert "pushed" not in again
    assert len(hub.commits["someone/m"]) == commits
    command = shlex.split(capsys.readouterr().err.splitlines()[-1].removeprefix("to publish it: "))
    assert command[:5] == ["hf", "upload", "YOUR_NAME/wav2vec2-tiny-tr", str(out), "."]
    assert set(command[6::2]) == SENT
