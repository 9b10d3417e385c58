"""Faults of disks, of what a run left, of the store, and of the data."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipes import cv_evaluate

from .breaking import (
    at_step,
    breaks,
    cut,
    fill,
    flip,
    flip_part,
    make_read_only,
    obey_permissions,
    small_disk,
    when_written,
)
from .stage import STEPS, NotRightError, Stage, command, newest, refused, resumed, set_aside

Answer = tuple[str, str]


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


# --- disks


def full_disk_store(stage: Stage) -> Answer:
    disk = small_disk(stage.folder / "disk")
    words = [*stage.new(), "--cache", str(disk)]
    answer = refused(command(words, when_written(r"\.i16$", lambda: fill(disk))), "no space|needs", str(disk))
    (disk / "filler").unlink()
    resumed(command(words), stage.folder / "new", stage.whole)
    return answer


def full_disk(stage: Stage, pattern: str) -> Answer:
    """The disk of a run folder fills up as a file is about to be written; with room again the run goes on."""
    disk = small_disk(stage.folder / "disk")
    full = command(stage.new(disk / "run"), when_written(pattern, lambda: fill(disk)))
    answer = refused(full, "no space", str(disk))
    (disk / "filler").unlink()
    is_begun = (disk / "run" / "run.json").exists()
    resumed(command(stage.again(disk / "run") if is_begun else stage.new(disk / "run")), disk / "run", stage.whole)
    return answer


def full_disk_state(stage: Stage) -> Answer:
    return full_disk(stage, r"step-0000004\.pt")


def full_disk_best(stage: Stage) -> Answer:
    return full_disk(stage, r"best-\d+/model\.safetensors")


def full_disk_export(stage: Stage) -> Answer:
    return full_disk(stage, r"run/model\.safetensors")


def full_disk_run_json(stage: Stage) -> Answer:
    return full_disk(stage, r"run\.json")


def unreadable_store(stage: Stage) -> Answer:
    answers = [
        refused(command(stage.again(), breaks(pattern, mode)), "Input/output error", re.escape(str(stage.cache)))
        for pattern, mode in ((r"index-\d+\.tsv$", "r"), (r"\.i16$", "open"))  # samples are mapped, not read
    ]
    resumed(command(stage.again()), stage.run, stage.whole)
    return answers[0]


def unreadable_archive(stage: Stage) -> Answer:
    words = [*stage.new(), "--data", str(stage.archive), "--cache", str(stage.folder / "empty")]
    return refused(command(words, breaks(r"\.tar\.gz$", "r")), "Input/output error", str(stage.archive))


def unreadable_state(stage: Stage) -> Answer:
    done = command(stage.again(), breaks(rf"{newest(stage.run).name}$", "r"))
    return set_aside(done, "state is damaged.*set aside", stage.run, stage.whole)


def unwritable(stage: Stage) -> Answer:
    answers = []
    for pattern, mode in (("step-0000006", "w"), ("step-0000006", "sync"), ("metrics.jsonl$", "w")):
        answers.append(refused(command(stage.again(), breaks(pattern, mode)), "Input/output error", str(stage.run)))
    resumed(command(stage.again()), stage.run, stage.whole)
    return answers[0]


def read_only_run(stage: Stage) -> Answer:
    """By its permissions; as its disk is mounted."""
    places = [stage.run, stage.run / "checkpoints"]
    for place in places:
        place.chmod(0o555)
    refused(command(stage.again(), obey_permissions), "Permission denied", str(stage.run))
    for place in places:
        place.chmod(0o755)
    make_read_only(stage.run)
    return refused(command(stage.again()), "[Rr]ead-only", str(stage.run))


def read_only_cache(stage: Stage) -> Answer:
    """A complete one serves; one that lacks clips is refused."""
    empty = stage.folder / "empty"
    empty.mkdir()
    for cache in (stage.cache, empty):
        make_read_only(cache)
    answer = refused(command([*stage.new(), "--cache", str(empty)]), "[Rr]ead-only", str(empty))
    resumed(command(stage.again()), stage.run, stage.whole)
    return answer


# --- what a run left


def torn_state(stage: Stage) -> Answer:
    """The newest is cut, empty, a folder."""
    answers, copy = [], stage.folder / "copy"
    for damage in ("cut", "empty", "folder"):
        shutil.copytree(stage.run, copy)
        state = newest(copy)
        if damage == "cut":
            cut(state)
        elif damage == "empty":
            os.truncate(state, 0)
        else:
            state.unlink()
            state.mkdir()
        answers.append(set_aside(command(stage.again(copy)), "state is damaged.*set aside", copy, stage.whole))
        shutil.rmtree(copy)
    return answers[0]


def both_states_torn(stage: Stage) -> Answer:
    for state in (stage.run / "checkpoints").glob("step-*.pt"):
        cut(state)
    return refused(command(stage.again()), "no training state", str(stage.run))


def flipped_state(stage: Stage) -> Answer:
    """In a weight; in a moment of the optimiser."""
    answers = []
    for which in (3, -2):
        copy = stage.folder / f"flipped{which}"
        shutil.copytree(stage.run, copy)
        flip_part(newest(copy), which)
        answers.append(set_aside(command(stage.again(copy)), "state is damaged.*set aside", copy, stage.whole))
    return answers[0]


def flipped_best(stage: Stage) -> Answer:
    best = one(stage.run / "checkpoints", "best-*/model.safetensors")
    flip(best, best.stat().st_size // 2)
    done = command(stage.again())
    answer = set_aside(done, "weights of the lowest dev CER.*damaged")
    last, exported = (torch.load(newest(stage.run), weights_only=True)["model"], load_file(stage.run / best.name))
    if any(not torch.equal(last[name], exported[name]) for name in exported):
        raise NotRightError("the last weights are not the exported ones")
    if done.summary["exported_step"] != STEPS:
        raise NotRightError(f"the last weights are exported, the summary tells of step {done.summary['exported_step']}")
    return answer


def flipped_export(stage: Stage) -> Answer:
    weights = stage.whole / "model.safetensors"
    copy = stage.folder / "export"
    shutil.copytree(stage.whole, copy)
    flip(copy / weights.name, weights.stat().st_size // 2)
    words = ["--model", str(copy), "--lang", "tr", "--data", str(stage.data), "--cache", str(stage.cache),
             "--device", "cpu"]  # fmt: skip
    done = command(words, main=cv_evaluate.main)
    return refused(done, "checksum|damaged", str(copy)) if done.code else set_aside(done, "checksum|damaged")


def bad_run_json(stage: Stage) -> Answer:
    """It is cut, empty, no JSON."""
    file, answers = stage.run / "run.json", []
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"what I trained on Monday\n"):
        file.write_bytes(damaged)
        answers.append(refused(command(stage.again()), r"run\.json", "restore it"))
    file.write_bytes(whole)
    resumed(command(stage.again()), stage.run, stage.whole)
    return answers[0]


def run_json_of_another(stage: Stage) -> Answer:
    """Of a run with the same data, which had another learning rate."""
    other = stage.folder / "other"
    done = command([*stage.new(other), "--lr", "5e-4"])
    if done.code != 0:
        raise NotRightError(f"the other run failed: {done.err[-200:]}")
    shutil.copy(other / "run.json", stage.run / "run.json")
    return refused(command(stage.again()), r"run\.json|--lr|lr ")


def garbage_in_the_log(stage: Stage) -> Answer:
    log = stage.run / "metrics.jsonl"
    first, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([first, b"\0\xff\x80garbage\n", b"[1, 2]\n", *rest, b'{"step": 4, "lo']))
    return set_aside(command(stage.again()), r"metrics\.jsonl.*damaged", stage.run, stage.whole)


# --- the store and the data


def train_clip(stage: Stage) -> str:
    return (stage.data / "train.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[1]


def flipped_samples(stage: Stage) -> Answer:
    clip = train_clip(stage)
    lines = one(stage.cache, "index-*.tsv").read_text(encoding="utf-8").splitlines()
    (cells,) = (line.split("\t") for line in lines if line.startswith(f"{clip}\t"))
    start, samples = int(cells[2]), int(cells[3])
    flip(one(stage.cache, "audio-*.i16"), 2 * (start + samples // 2) + 1)
    return set_aside(command(stage.again()), "damaged|checksum", stage.run, stage.whole)


def flipped_index(stage: Stage) -> Answer:
    index = one(stage.cache, "index-*.tsv")
    flip(index, index.stat().st_size // 2, 1)
    return set_aside(command(stage.again()), "decoding [12] clip|damaged", stage.run, stage.whole)


def flipped_archive(stage: Stage) -> Answer:
    flip(stage.archive, stage.archive.stat().st_size // 2)
    words = [*stage.new(), "--data", str(stage.archive), "--cache", str(stage.folder / "empty")]
    return refused(command(words), re.escape(str(stage.archive)), "damaged", "download it again")


def clip_gone(stage: Stage) -> Answer:
    """The store holds it: its file is not needed."""
    (stage.data / "clips" / train_clip(stage)).unlink()
    return resumed(command(stage.again()), stage.run, stage.whole)


def clip_gone_for_good(stage: Stage) -> Answer:
    """The store does not hold it: a new run leaves it out by name, and one that had it is refused."""
    clip = train_clip(stage)
    (stage.data / "clips" / clip).unlink()
    shutil.rmtree(stage.cache)
    refused(command(stage.again()), "data fingerprint")
    done = command(stage.new())
    if clip not in (stage.folder / "new" / "skipped.tsv").read_text(encoding="utf-8"):
        raise NotRightError(f"skipped.tsv does not name it; exit {done.code}: {done.err[-200:]}")
    return set_aside(done, "skipped: 1 clips, missing")


def clip_replaced(stage: Stage) -> Answer:
    """The run goes on with what the store holds, or is refused."""
    clips = stage.data / "clips"
    longest = max(clips.iterdir(), key=lambda file: file.stat().st_size)
    clip = train_clip(stage)
    other = longest if longest.name != clip else min(clips.iterdir(), key=lambda file: file.stat().st_size)
    shutil.copy(other, clips / clip)
    done = command(stage.again())
    return resumed(done, stage.run, stage.whole) if done.code == 0 else refused(done, "data fingerprint|clip")


def folder_gone(stage: Stage) -> Answer:
    """Somebody deletes the run folder while it trains."""
    done = command(stage.again(), at_step(1, lambda: shutil.rmtree(stage.run)))
    if (stage.run / "run.json").exists() or (stage.run / "model.safetensors").exists():
        raise NotRightError("it wrote a part of a run")
    return refused(done, str(stage.run))


def cache_is_a_file(stage: Stage) -> Answer:
    file = stage.folder / "file"
    file.write_text("")
    words = stage.new()
    at = words.index("--cache")
    del words[at : at + 2]
    return refused(command(words, lambda: os.environ.update(W2V_CACHE=str(file))), str(file), "cache")


def link_for_a_part(stage: Stage) -> Answer:
    """Where the process will write its parts lie links to a file that is dear to somebody."""
    dear = stage.folder / "dear"
    dear.write_text("dear")

    def link() -> None:
        for name in (f"checkpoints/step-{STEPS:07d}.pt", "model.safetensors", "run.json"):
            (stage.run / f"{name}.{os.getpid()}.part").symlink_to(dear)

    answer = resumed(command(stage.again(), at_step(1, link)), stage.run, stage.whole)
    if dear.read_text() != "dear":
        raise NotRightError("it wrote through the link")
    return answer


FAULTS: dict[str, Callable[[Stage], Answer]] = {
    "disk full: store": full_disk_store,
    "disk full: state": full_disk_state,
    "disk full: best weights": full_disk_best,
    "disk full: export": full_disk_export,
    "disk full: run.json": full_disk_run_json,
    "EIO on read: store": unreadable_store,
    "EIO on read: archive": unreadable_archive,
    "EIO on read: state": unreadable_state,
    "EIO on write: state, log": unwritable,
    "read-only run folder": read_only_run,
    "read-only cache": read_only_cache,
    "newest state cut, empty, a folder": torn_state,
    "both states cut": both_states_torn,
    "bit flip: state, optimiser": flipped_state,
    "bit flip: best weights": flipped_best,
    "bit flip: exported weights": flipped_export,
    "bit flip: samples of the store": flipped_samples,
    "bit flip: index of the store": flipped_index,
    "bit flip: archive": flipped_archive,
    "run.json cut, empty, no JSON": bad_run_json,
    "run.json of another run": run_json_of_another,
    "garbage in metrics.jsonl": garbage_in_the_log,
    "clip gone that the store holds": clip_gone,
    "clip gone that the store lacks": clip_gone_for_good,
    "clip replaced": clip_replaced,
    "run folder deleted": folder_gone,
    "W2V_CACHE is a file": cache_is_a_file,
    "link in place of a part": link_for_a_part,
}
