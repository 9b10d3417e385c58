"""A run's folder: claimed before training, checkpointed during it, exported and explained at its end."""

import dataclasses
import json
import platform
import shutil
import subprocess
import uuid
import zlib
from pathlib import Path

import torch

import w2v
from recipes import locking
from recipes.console import LARGEST, say
from recipes.cv_prepare import Prepared
from recipes.locking import check_free
from recipes.prepared import vocabulary_record
from recipes.presets import BY_MEMORY
from recipes.settings import Settings
from recipes.start import StartingPoint
from w2v.errors import InputError, named
from w2v.files import read_bytes, read_json, write_json, write_text, writing
from w2v.training.distributed import by_first
from w2v.training.state import Progress

# Flags that may differ between a run and its resumption: what they could change is compared by its outcome, the data's
# fingerprint, the model's name and the settings.
NOT_COMPARED = {"resume", "overwrite", "out", "device", "workers", "cache", "data", "extra_data", "model",
                "push_to_hub", "private", "push_reports", "tag", "no_audio", "noise_folder", "room_folder"}  # fmt: skip

RUN_FILES = ("run.json", "skipped.tsv", "metrics.jsonl", "spikes.tsv", "predictions-*.tsv", "report.html", "README.md",
             "config.json", "model.safetensors", "adapter.*.safetensors", "vocab.json", "tokenizer_config.json",
             "merges.txt", "added_tokens.json", "generation_config.json", "special_tokens_map.json",
             "preprocessor_config.json", "normaliser.json", "alphabet.json", "*.part")  # fmt: skip

# These may change too, and the settings of the same names: they decide when a run is measured, saved and over.
FREE = {"patience", "eval_steps", "save_steps", "log_steps", "keep_checkpoints"}
RAISED = {"epochs", "max_steps", "total_steps"}  # these may grow

READ_AGAIN = {"id": str, "arguments": dict, "settings": dict, "model": str, "data_fingerprint": str,
              "vocabulary": list, "normaliser": dict}  # parts of run.json, by --resume  # fmt: skip

DATA_FLAGS = ("data", "extra_data", "train_splits", "dev_split", "test_split", "max_train_clips", "seed", "case",
              "keep_chars", "remove_chars", "audio_column", "text_column", "prompt_language")  # fmt: skip


def check_out(out: Path | None, resume: bool, overwrite: bool) -> None:
    """InputError where the run folder, which is not made yet, is in use. None: a new one will be."""
    if out is None:
        return
    holds_run = is_run(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out must be a folder, {out} is a file")
    check_free(out)
    if resume and not holds_run and (out / "run.json").exists():
        read_run(out)  # which says what is wrong with it
    # A run that was killed while run.json was written leaves a part of it.
    if not holds_run and out.is_dir() and any(not is_left(file) for file in out.iterdir()):
        raise InputError(f"--out must be new, empty or a run, {out} holds other files; choose another folder")
    if holds_run and not (resume or overwrite):
        raise InputError(f"--out {out} already holds a run; add --resume or --overwrite, or choose another folder")
    if resume and not holds_run:
        if not out.is_dir() or not any(out.iterdir()):
            raise InputError(
                f"--resume needs the folder of a run, --out {out} is none; leave --resume out to begin one"
            )
        say(f"the run in {out} was stopped before it began: starting from the beginning")


def is_left(file: Path) -> bool:
    """Whether a process that was killed left a file behind which tells nothing."""
    return file.name.endswith(".part") or file.name == locking.FILE


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ours, finished or not."""
    try:
        return "data_fingerprint" in read_json(folder / "run.json", "the run's")
    except InputError:
        return False


def data_of_run(folder: Path) -> dict:
    """What the run.json of a run says of its data and its text, as flags; nothing where the folder is no run."""
    if not is_run(folder):
        return {}
    recorded = read_json(folder / "run.json", "the run's").get("arguments", {})
    known = {name: recorded[name] for name in DATA_FLAGS if recorded.get(name) is not None}
    for name in {"data", "extra_data"} & known.keys():
        known[name] = [Path(path) for path in known[name]]
    return known


def read_run(out: Path) -> dict:
    """run.json, for --resume. InputError where it is damaged in a part that resuming reads."""
    remedy = "restore it, or start again in another folder"
    try:
        record = read_json(out / "run.json", "the run's")
    except InputError as error:
        raise InputError(f"{str(error).rpartition(';')[0]}; {remedy}") from None
    for name, kind in READ_AGAIN.items():
        if not isinstance(record.get(name), kind):
            raise InputError(f"{out / 'run.json'} must hold the run's {name}, it is damaged; {remedy}")
    for name in (*BY_MEMORY, "total_steps", "warmup_steps", "processes"):
        value = record["settings"].get(name, "none")
        may_lack = name.startswith("batch_") and value is None
        of = (bool,) if name == "gradient_checkpointing" else (int, float) if name == "batch_seconds" else (int,)
        if not may_lack and (type(value) not in of or not 0 <= value <= LARGEST):
            raise InputError(f"{out / 'run.json'} must hold the run's {name}, it is damaged; {remedy}")
    if record.get("checksum") != checksum(record):
        raise InputError(f"{out / 'run.json'} must be as the run wrote it, its checksum is another; {remedy}")
    return record


def checksum(record: dict) -> str:
    """Of what --resume reads of run.json: another digit of a rate is valid JSON too."""
    text = json.dumps([record[name] for name in READ_AGAIN], sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def write_run(out: Path, record: dict) -> None:
    write_json(out / "run.json", record | {"checksum": checksum(record)})


def arguments_of_run(out: Path) -> dict:
    """What the run in a folder was given, by name; nothing where there is none. InputError for a damaged run.json."""
    return read_run(out)["arguments"] if (out / "run.json").exists() else {}


def recorded_settings(out: Path | None, resume: bool) -> dict | None:
    """The settings of the run that goes on; None for a new one."""
    if not resume or out is None or not is_run(out):
        return None
    return read_run(out)["settings"]


@by_first
def check_room(out: Path | None, parameters: int, keep: int) -> None:
    """InputError where the disk cannot hold the checkpoints: better now than hours into training."""
    place = out or Path("runs")
    parent = next(p for p in (place, *place.absolute().parents) if p.exists())
    # A state holds weights and two moments; on top come the best weights, the export, and one file being written.
    needed = 4 * parameters * (3 * (keep + 1) + 3)
    free = shutil.disk_usage(parent).free
    if out is not None and is_run(out):  # what the run already holds it will replace
        free += sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if needed > free:
        raise InputError(
            f"the run needs up to {needed / 1e9:.1f} GB for checkpoints, {parent} has {free / 1e9:.1f} GB free; free "
            "some space, choose another --out or lower --keep-checkpoints"
        )


@by_first
def open_run(
    out: Path | None,
    resume: bool,
    argv: list[str],
    arguments: dict,
    start: StartingPoint,
    prepared: Prepared,
    settings: Settings,
    config,
) -> Path:
    """Claim the run folder and write run.json and skipped.tsv; for --resume, check that it is the same run.

    argv, arguments: the command's, as given and by name. config: the model's.
    """
    arguments = json.loads(json.dumps(arguments, default=str))  # paths as text
    record = {
        "id": uuid.uuid4().hex,  # the run's states hold it: they fit no other run.json
        "command": ["python", "-m", "recipes.cv_finetune", *argv],
        "arguments": arguments,
        "model": start.name,
        "model_commit": start.commit,
        "settings": dataclasses.asdict(settings),
        "model_config": config.to_dict(),
        "normaliser": prepared.normaliser.to_dict(),
        "vocabulary": vocabulary_record(prepared.tokenizer),
        "data_fingerprint": prepared.fingerprint,
        **({"languages": prepared.langs} if prepared.languages else {}),
        "data": prepared.facts,
        "decisions": prepared.decisions,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "w2v": w2v.__version__},
        "git_commit": git_commit(),
        "machine": platform.platform(),
    }
    if out is None:
        out = claim(Path("runs"), f"{prepared.title}-{start.short_name}")
    elif is_run(out) and resume:
        held = read_run(out)
        check_same_run(held, json.loads(json.dumps(record)))
        drop_parts(out)
        changed = {name: record[name] for name in ("arguments", "settings")}
        if any(held[name] != json.loads(json.dumps(value)) for name, value in changed.items()):
            write_run(out, json.loads(json.dumps(held | changed)))
        if not (out / "skipped.tsv").exists():  # killed between the two files
            write_skipped(out, prepared)
        return out
    elif is_run(out):
        clear(out)
    drop_parts(out)
    write_run(out, json.loads(json.dumps(record)))
    write_skipped(out, prepared)
    return out


def drop_parts(out: Path) -> None:
    """Delete what a process that was killed was writing."""
    for unfinished in out.rglob("*.part"):
        unfinished.unlink()


def write_skipped(out: Path, prepared: Prepared) -> None:
    lines = [f"{s.name}\t{s.split}\t{s.reason}\n" for s in prepared.skipped]
    write_text(out / "skipped.tsv", "clip\tsplit\treason\n" + "".join(lines))


def claim(runs: Path, name: str) -> Path:
    """Make the next free NAME-N; of two processes that ask at once each gets its own."""
    number = 1
    while True:
        try:
            (runs / f"{name}-{number}").mkdir(parents=True)
            return runs / f"{name}-{number}"
        except FileExistsError:
            number += 1


def clear(out: Path) -> None:
    """Delete what a run writes, for --overwrite; anything else in the folder is not ours to delete.

    run.json goes last: until then the folder holds a run, and a command that was killed here can be given again.
    """
    for folder in ("checkpoints", "languages", "language_model", "tensorboard"):  # the third is tuned to the weights
        shutil.rmtree(out / folder, ignore_errors=True)
    for pattern in sorted(RUN_FILES, key="run.json".__eq__):
        for file in out.glob(pattern):
            file.unlink()


def check_same_run(old: dict, new: dict) -> None:
    """InputError where --resume would go on with other data or settings than the run had, or with fewer steps."""
    for name, value in old["arguments"].items():
        now = new["arguments"].get(name)
        if name not in NOT_COMPARED | FREE | RAISED and now != value:
            flag = f"--{named(name).replace('_', '-')}"
            raise InputError(
                f"--resume needs the run's own settings: {flag} was {named(value)}, now {named(now)}; give it as before"
            )
    before, after = (record["settings"].get("total_steps", 0) for record in (old, new))
    if type(before) is int and after < before:
        raise InputError(f"--resume may raise the steps of a run, not lower them: they were {before}, now {after}")
    for name, value in old["settings"].items():
        if name not in FREE | RAISED and new["settings"].get(name) != value:
            now = new["settings"].get(name)
            raise InputError(
                f"--resume needs the run's own settings: {named(name)} was {named(value)}, now {named(now)}"
            )
    for key in ("model", "data_fingerprint", "vocabulary", "normaliser"):
        if old[key] != new[key]:
            was, now = named(old[key]), named(new[key])
            raise InputError(f"--resume needs the run's own {key.replace('_', ' ')}; it was {was}, now {now}")


def git_commit() -> str | None:
    """The commit of this checkout, where it is one; with "+" for uncommitted changes."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, encoding="utf-8", check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def log(out: Path, progress: Progress, record: dict) -> None:
    """Add a line to metrics.jsonl, and to what the next state holds of it."""
    progress.log.append(record)
    _append_line(out / "metrics.jsonl", record)


@by_first
def _append_line(path: Path, record: dict) -> None:
    with writing(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(metrics: Path) -> list[dict]:
    """The lines of metrics.jsonl. Those that are damaged are counted, said and left out: a log is no reason to stop."""
    found, damaged = [], 0
    lines = read_bytes("the log", metrics).split(b"\n") if metrics.is_file() else []
    for line in filter(None, lines):
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            record = None
        if _is_log_line(record):
            found.append(record)
        else:
            damaged += 1
    if damaged:
        say(f"{metrics}: {damaged} of {len(found) + damaged} lines are damaged and left out")
    return found


def _is_log_line(record) -> bool:
    """As `log` writes them: numbers by name. One in half precision may be infinite."""
    return (
        isinstance(record, dict)
        and type(record.get("step")) is int
        and all(value is None or type(value) in (int, float) for value in record.values())
        and all(abs(value) <= LARGEST for value in record.values() if type(value) is int)
    )


@by_first
def restore_log(metrics: Path, log: list[dict]) -> None:
    """The log becomes what the state holds of it; what was logged later will be logged again."""
    held = "".join(f"{json.dumps(line)}\n" for line in log).encode()
    found = read_bytes("the log", metrics) if metrics.is_file() else b""
    if not found.startswith(held):
        say(f"{metrics} is damaged: it is written again, as the training state holds it")
    if found != held:
        write_text(metrics, held.decode())
