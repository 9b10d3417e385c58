"""What fine-tuning real Whisper weights brings on real speech: 80 clips of a language, 20 held out by speaker.

    python -m benchmarks.whisper_learning --weights DIR --data CV6 --lang tr --seeds 0 1 2 [--freeze-encoder] --out OUT

DIR: whisper-base in transformers' layout. CV6: folders of 100 validated clips, by locale. The runs are those of
recipes.cv_finetune with its preset; they divide the clips by speaker, and dev and test together are the 20 held out.
Measured before and after under the run's own text rules, with intervals from draws of speakers. Each run adds a line to
OUT/learning.jsonl, with what was heard; a run that is there already is not made again. `--summary` prints the table and
exits 1 where the goal is missed: a mean CER at least a quarter below that of the weights as they came, and a lower WER.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean

import w2v
from recipes import cv_finetune, results
from recipes.cv_prepare import prepare
from recipes.data_settings import data_settings
from recipes.evaluation import intervals, score
from recipes.settings import parse_arguments
from recipes.start import resolve_model
from w2v.asr import recognise
from w2v.data.manifest import Clip
from w2v.files import read_bytes

GOAL = 0.75  # of the CER before
EXAMPLES = 5  # clips whose texts are kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lang", nargs="+", default=["tr", "cs", "ka"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--freeze-encoder", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    if args.summary:
        sys.exit(summarise(args.out))
    results.TRAIN_CLIPS_EVALUATED = 1  # what it knows by heart is not the question
    for seed in args.seeds:
        for lang in args.lang:
            if not any(same(record, lang, seed, args.freeze_encoder) for record in records(args.out)):
                record = measure(args.weights, args.data / lang, lang, seed, args.freeze_encoder, args.out)
                with open(args.out / "learning.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def records(out: Path) -> list[dict]:
    file = out / "learning.jsonl"
    return [json.loads(line) for line in read_bytes("the results", file).splitlines()] if file.is_file() else []


def same(record: dict, lang: str, seed: int, frozen: bool) -> bool:
    return (record["lang"], record["seed"], record["frozen"]) == (lang, seed, frozen)


def measure(weights: Path, data: Path, lang: str, seed: int, frozen: bool, out: Path) -> dict:
    """One run of the command, and the same clips before it."""
    run = out / f"{lang}-{'frozen' if frozen else 'trained'}-{seed}"
    argv = ["--lang", lang, "--data", str(data), "--model", str(weights), "--seed", str(seed), "--out", str(run)]
    argv += ["--overwrite", "--eval-steps", "1000", "--keep-checkpoints", "1"] + ["--freeze-encoder"] * frozen
    args = parse_arguments(argv, "", "")
    settings = data_settings(args)
    prepared = prepare(settings, resolve_model(str(weights), settings.cache))
    held_out = [*prepared.splits.dev, *prepared.splits.test]
    waveforms = [prepared.audio[clip] for clip in held_out]
    asr = w2v.load(weights, target_lang=lang)
    began = time.process_time()
    before = recognise(asr.model, asr.tokenizer, waveforms)
    heard_in = time.process_time() - began
    del asr
    began = time.process_time()
    summary = cv_finetune.main(argv)
    trained_in = time.process_time() - began
    after = predictions(run)
    rules, sentences = prepared.normaliser, [clip.sentence for clip in held_out]
    return {
        "lang": lang,
        "seed": seed,
        "frozen": frozen,
        "clips": (len(prepared.splits.train), len(held_out)),
        "before": rates(sentences, before, held_out, rules),
        "after": rates(sentences, [after[clip.name] for clip in held_out], held_out, rules),
        "cpu_minutes": {"before": round(heard_in / 60, 2), "run": round(trained_in / 60, 2)},
        "steps": summary["steps"],
        "losses": losses(run),
        "texts": [(prepared.texts[clip], before[i], after[clip.name]) for i, clip in enumerate(held_out)][:EXAMPLES],
    }


def rates(sentences: list[str], heard: list[str], clips: list[Clip], rules) -> dict:
    scored = score(sentences, heard, rules, rules)
    return scored.rates | {"intervals": intervals(scored, [clip.speaker for clip in clips], seed=0)}


def predictions(run: Path) -> dict[str, str]:
    found = {}
    for split in ("dev", "test"):
        for line in (run / f"predictions-{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            clip, _, text = line.split("\t")
            found[clip] = text
    return found


def losses(run: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], round(line["loss"], 4)) for line in lines if "loss" in line]


def summarise(out: Path) -> int:
    """Print a row for each language and way of training: rates before and after, means over seeds. -> exit code."""
    found, missed = records(out), False
    for frozen in (False, True):
        rows = [record for record in found if record["frozen"] == frozen]
        for lang in dict.fromkeys(record["lang"] for record in rows):
            of_lang = [record for record in rows if record["lang"] == lang]
            print(lang, "encoder frozen" if frozen else "encoder trained", f"{len(of_lang)} seeds", *told(of_lang))
        if rows:
            cers, wers = (
                [fmean(r[when][rate] for r in rows) for when in ("before", "after")] for rate in ("cer", "wer")
            )
            holds = cers[1] <= GOAL * cers[0] and wers[1] < wers[0]
            missed |= not holds
            print(
                f"all: CER {cers[0]:.3f} to {cers[1]:.3f}, WER {wers[0]:.3f} to {wers[1]:.3f}",
                "holds" if holds else "MISSED",
            )
    return int(missed or not found)


def told(rows: list[dict]) -> list[str]:
    words = []
    for rate in ("wer", "cer"):
        first = rows[0]["before"]
        low, high = first["intervals"][rate]
        after = [record["after"][rate] for record in rows]
        spans = [record["after"]["intervals"][rate] for record in rows]
        words.append(
            f"{rate.upper()} {first[rate]:.3f} ({low:.3f} to {high:.3f}) -> {fmean(after):.3f}, "
            f"{min(after):.3f} to {max(after):.3f} over seeds "
            f"({min(s[0] for s in spans):.3f} to {max(s[1] for s in spans):.3f});"
        )
    return [*words, f"{fmean(r['cpu_minutes']['run'] for r in rows):.1f} CPU minutes a run"]


if __name__ == "__main__":
    main()
