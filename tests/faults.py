"""Public bug reports of people who do this job, tried again: one line per report, exit code 1 where one is not right.

    python -m tests.faults [FOLDER]      # with the reports' inputs; default: ../shared/fixtures/faults

Each report stands for a kind of fault; the tests of the part that is concerned hold the kind.
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import w2v
from w2v.errors import InputError

ROOT = Path(__file__).parents[1]
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "fixtures" / "faults"
SAMPLE = ROOT / "recipes" / "sample" / "tr"
CHECKS: list[tuple[str, Callable[[Path], str]]] = []


def check(report: str):
    """A check gets an empty folder, and returns what it found; it raises AssertionError where that is not right."""

    def register(function: Callable[[Path], str]) -> Callable[[Path], str]:
        CHECKS.append((report, function))
        return function

    return register


def command(*words: object, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=os.environ | variables
    )


def refused(*words: object) -> str:
    """The one line of a command that must end with exit code 2."""
    with tempfile.TemporaryDirectory() as cache:
        done = command("-m", "recipes.cv_finetune", "--lang", "tr", "--out", f"{cache}/out", *words, W2V_CACHE=cache)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, f"exit {done.returncode}: {done.stderr[-300:]}"
    return errors[0]


def trained(out: Path, cache: Path, *words: object) -> None:
    few = ["--max-train-clips", "4", "--batch-clips", "2", "--out", out]
    done = command("-m", "recipes.cv_finetune", "--lang", "tr", *few, *words, W2V_CACHE=str(cache))
    assert done.returncode == 0, done.stderr[-300:]


def made(script: str, *words: object) -> None:
    done = command(FOLDER / script, *words)
    assert done.returncode == 0, done.stderr[-300:]


def normalised(file: str, **keys: str) -> str:
    rows = [json.loads(line) for line in (FOLDER / file).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        options = {keys.get(name, name): value for name, value in row["options"].items()}
        got = w2v.Normaliser(row["lang"], **options)(row["input"])
        assert got == row["right"], f"{row['lang']}: {got!r} for {row['right']!r}"
    return f"{len(rows)} of {len(rows)} sentences"


@check("speechbrain#1290: removed marks split words")
def remove_marks(_: Path) -> str:
    return normalised("remove-marks.jsonl", remove="remove_chars")


@check("common-voice#2971: Romanian letters with cedilla")
def cedilla(_: Path) -> str:
    return normalised("romanian-cedilla.jsonl")


@check("coqui STT#2321: a csv with an unclosed quote")
def unclosed_quote(folder: Path) -> str:
    from w2v.data.manifest import read_manifest

    made("csv_unbalanced_quote.py", folder)
    found = []
    for name in ("one", "two", "huge"):
        try:
            clips, skipped = read_manifest(folder / f"{name}.csv")
            assert len(clips) + len(skipped) >= 30, f"{name}: {len(clips)} clips, {len(skipped)} named of 30"
            found.append(f"{name}: {len(clips)} clips, {len(skipped)} named")
        except InputError as error:
            assert "line" in str(error), error
            found.append(f"{name}: refused, {str(error)[:60]}")
    return "; ".join(found)


@check("libsndfile#1038: a flac of unknown length")
def flac(folder: Path) -> str:
    made("flac_unknown_length.py", folder / "a.flac")
    samples = len(w2v.read_audio(folder / "a.flac"))
    assert samples == 24_000, samples
    (folder / "t.tsv").write_text("path\tsentence\n" + "".join(f"a.flac\tBir iki {i}.\n" for i in range(9)))
    done = command("-m", "recipes.cv_prepare", "--lang", "tr", "--data", folder / "t.tsv", W2V_CACHE=str(folder / "c"))
    assert done.returncode == 0, done.stderr[-300:]
    return f"{samples} samples, cv_prepare goes through"


@check("vllm#56842, audio#2414: one second at odd rates")
def odd_rates(folder: Path) -> str:
    slowest = 0.0
    for rate in (16001, 24414, 44056, 44101, 47999):
        soundfile.write(folder / "a.wav", np.sin(np.arange(rate) / 9).astype(np.float32), rate)
        start = time.perf_counter()
        assert abs(len(w2v.read_audio(folder / "a.wav")) - 16_000) <= 1
        slowest = max(slowest, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    assert slowest < 2 and peak < 2, f"{slowest:.1f} s, {peak:.1f} GB"
    return f"at most {slowest:.2f} s; the process's peak is {peak:.2f} GB, with torch in it"


def same_text_as_transformers(kind: str, folder: Path) -> str:
    import torch
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    made("checkpoint.py", folder, kind)
    clip = sorted((SAMPLE / "clips").glob("*.mp3"))[0]
    processor, model = Wav2Vec2Processor.from_pretrained(folder), Wav2Vec2ForCTC.from_pretrained(folder).eval()
    inputs = processor(w2v.read_audio(clip), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        wanted = processor.decode(model(inputs.input_values).logits[0].argmax(-1))
    got = w2v.load(folder).transcribe([clip])[0].text
    assert got == " ".join(wanted.split()), f"{got[:30]!r} for {wanted[:30]!r}"
    trained(folder / "out", folder / "cache", "--model", folder, "--max-steps", "1")
    return f"transformers' text ({len(got)} characters), and it trains"


@check("transformers#12151: do_normalize false")
def do_normalize(folder: Path) -> str:
    return same_text_as_transformers("donorm", folder)


@check("transformers#14416: <s> and </s> in added_tokens.json")
def added_tokens(folder: Path) -> str:
    return same_text_as_transformers("head+2", folder)


@check("pytorch_model.bin in shards")
def bin_shards(folder: Path) -> str:
    import torch

    model = w2v.Wav2Vec2ForCTC(w2v.TINY)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(model.state_dict())
    halves = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file, half in halves.items():
        torch.save({name: model.state_dict()[name] for name in half}, folder / file)
    index = {"weight_map": {name: file for file, half in halves.items() for name in half}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert len(w2v.Wav2Vec2ForCTC.from_pretrained(folder).state_dict()) == len(names)
    return f"{len(names)} tensors of two shards"


def random_recogniser(folder: Path) -> w2v.Recogniser:
    tokenizer = w2v.CharTokenizer.from_texts(["abcdef"])
    config = w2v.TINY
    import dataclasses

    w2v.Wav2Vec2ForCTC(dataclasses.replace(config, **config.for_vocabulary(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return w2v.load(folder)


@check("NaN or infinity in a float wav")
def not_finite(folder: Path) -> str:
    asr, said = random_recogniser(folder), ""
    for value in (np.nan, np.inf):
        samples = np.sin(np.arange(16_000) / 9).astype(np.float32)
        samples[100] = value
        soundfile.write(folder / "a.wav", samples, 16_000, subtype="FLOAT")
        try:
            asr.transcribe([folder / "a.wav"])
        except InputError as error:
            said = str(error)
        assert "finite" in said, said or "a text came out"
    return said


@check("transcribe of one path instead of a list")
def one_path(folder: Path) -> str:
    clip = sorted((SAMPLE / "clips").glob("*.mp3"))[0]
    asr = random_recogniser(folder)
    assert asr.transcribe(str(clip)) == asr.transcribe([clip])
    return "one path is one recording"


@check("OpenNMT-py#1140: --max-grad-norm 0")
def no_clipping(folder: Path) -> str:
    from safetensors.torch import load_file

    weights = []
    for norm in ("0", "1e30"):
        out = folder / norm
        trained(out, folder / "cache", "--max-steps", "2", "--max-grad-norm", norm)
        weights.append(load_file(out / "model.safetensors"))
    one, two = weights
    assert all((one[name] == two[name]).all() for name in one), "0 does something else than a huge norm"
    return "as with no clipping"


@check("wrong types in config.json and vocab.json")
def wrong_types(folder: Path) -> str:
    random_recogniser(folder)
    texts = {name: (folder / name).read_text() for name in ("config.json", "vocab.json", "tokenizer_config.json")}
    wrong = [
        ("config.json", {"layerdrop": None}),
        ("config.json", {"layerdrop": "0.1"}),
        ("config.json", {"conv_dim": 512}),
    ]
    wrong += [("config.json", {"num_attention_heads": 0}), ("config.json", {"num_hidden_layers": 2.0})]
    wrong += [("vocab.json", {"a": None}), ("tokenizer_config.json", {"pad_token": {"x": 1}})]
    wrong += [("tokenizer_config.json", {"pad_token": ["[PAD]"]})]
    for file, change in wrong:
        (folder / file).write_text(json.dumps(json.loads(texts[file]) | change))
        try:
            w2v.load(folder)
            raise AssertionError(f"{change} is taken")
        except InputError as error:
            assert "\n" not in str(error) and next(iter(change)) in str(error), error
        (folder / file).write_text(texts[file])
    return f"{len(wrong)} of {len(wrong)} refused by name"


@check("transformers#15285: --keep-chars |")
def keep_pipe(_: Path) -> str:
    return refused("--keep-chars", "|")


@check("--batch-seconds inf, a seed of 20 digits, --min-char-count 1000")
def out_of_range(_: Path) -> str:
    words = (["--batch-seconds", "inf"], ["--seed", "9" * 23], ["--min-char-count", "1000"])
    return "; ".join(refused(*each)[7:60] for each in words)


@check("transformers#16564: long evaluation clips, clips and columns twice")
def long_and_twice(folder: Path) -> str:
    clip = sorted((SAMPLE / "clips").glob("*.mp3"))[0]
    soundfile.write(folder / "long.wav", np.tile(w2v.read_audio(clip), 30), 16_000)
    table = folder / "twice.tsv"
    table.write_text("path\tsentence\n" + f"{clip}\tBir iki.\n" * 2)
    (folder / "test.tsv").write_text("path\tsentence\nlong.wav\tUzun bir cümle.\n")
    data = ["--data", folder, "--dev-split", "none"]
    table.rename(folder / "train.tsv")
    done = command("-m", "recipes.cv_prepare", "--lang", "tr", *data, W2V_CACHE=str(folder / "cache"))
    said = done.stderr
    assert "list a clip again" in said, said[-500:]
    assert "longer than 60 s" in said, said[-500:]
    table.write_text("path\tsentence\tsentence\n" + f"{clip}\tBir iki.\tÜç dört.\n")
    done = command("-m", "recipes.cv_prepare", "--lang", "tr", "--data", table, W2V_CACHE=str(folder / "cache"))
    assert done.returncode == 2 and "sentence" in done.stderr.splitlines()[-1], done.stderr[-300:]
    return done.stderr.splitlines()[-1][:90]


def main() -> int:
    if not FOLDER.is_dir():
        print(f"the reports' inputs are not at {FOLDER}; name their folder", file=sys.stderr)
        return 2
    wrong = 0
    for report, function in CHECKS:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            try:
                answer, state = function(Path(folder)), "right"
            except Exception as error:  # what is not right may end in any way
                answer, state, wrong = f"{type(error).__name__}: {error}", "WRONG", wrong + 1
        print(f"{state}  {report}: {' '.join(answer.split())[:160]}", flush=True)
    print(f"{len(CHECKS) - wrong} of {len(CHECKS)} right")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
