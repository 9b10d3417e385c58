"""The run that is stopped, damaged and compared: the sample's clips, a tiny model, 11 steps.

Everything of a run lies in one folder, so that it can be copied, compared and thrown away:
    run/                 its --out
    cache/               its store: the run builds it
    stdout, stderr       what its processes said, one after the other
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import recipes  # noqa: F401  before torch, as in every command

# isort: split
import safetensors
import safetensors.torch
import torch

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "recipes" / "sample" / "tr"
# Logs, evaluations and checkpoints come at steps that share no factor: each is between two others somewhere. The rate
# is so low that dev becomes better at steps 3, 6 and 9: best weights are written, and deleted, more than once. One clip
# is too long, so skipped.tsv has a line. Dropout, masks and LayerDrop are the preset's.
FLAGS = ["--lang", "tr", "--data", str(SAMPLE), "--model", "random:tiny", "--lr", "3e-5", "--warmup-steps", "2",
         "--max-seconds", "5", "--max-train-clips", "8", "--batch-clips", "2", "--max-steps", "11", "--log-steps", "4",
         "--eval-steps", "3", "--save-steps", "5", "--keep-checkpoints", "1", "--device", "cpu"]  # fmt: skip
COMMAND = ["-m", "recipes.cv_finetune"]
LONGEST = 600.0  # seconds: a process that has not ended by then hangs
# What tells a time, or where and how the run was started.
# Times, what a command was given, which run it is, and the checksum of run.json over that.
FREE = {"audio_s_per_s", "train_audio_s_per_s", "train_seconds", "command", "git_commit", "out", "resume", "overwrite",
        "checksum", "id", "run"}  # fmt: skip
TRAINING_TIME = re.compile(r"\| training time \| .* \|")  # on the card


class Ended(NamedTuple):
    code: int  # -9: SIGKILL
    seconds: float
    said: str  # stderr


def first(folder: Path) -> list[str]:
    """The arguments that begin the run."""
    return [*FLAGS, "--out", str(folder / "run")]


def then(folder: Path) -> list[str]:
    """The arguments with which a user goes on: those that began it, where a kill came before there was a run."""
    if not (folder / "run" / "run.json").exists():
        return first(folder)
    return ["--resume", "--out", str(folder / "run")]


def environment(folder: Path) -> dict[str, str]:
    return {
        "W2V_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "COMMON_VOICE_ROOT": "",
    }


def start(folder: Path, arguments: list[str], program: list[str] = COMMAND) -> subprocess.Popen:
    """A process of the run in a folder. program: what python runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "stdout", "ab") as out, open(folder / "stderr", "ab") as said:
        command = [sys.executable, *program, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment(folder), stdout=out, stderr=said)


def finish(folder: Path, arguments: list[str], program: list[str] = COMMAND, kill_after: float | None = None) -> Ended:
    """Run a process to its end, or kill it after so many seconds."""
    before, clock = len(said(folder)), time.monotonic()
    process = start(folder, arguments, program)
    try:
        process.wait(LONGEST if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
    return Ended(process.wait(), time.monotonic() - clock, said(folder)[before:])


def forked(folder: Path, work: Callable[[], object]) -> Ended:
    """A child of this process, which has imported torch already, does some work. This process must not use torch's
    threads."""
    folder.mkdir(parents=True, exist_ok=True)
    before, clock = len(said(folder)), time.monotonic()
    child = get_context("fork").Process(target=_in_child, args=(folder, work))
    child.start()
    child.join(LONGEST)
    if child.exitcode is None:
        child.kill()
        child.join()
    assert child.exitcode is not None
    return Ended(child.exitcode, time.monotonic() - clock, said(folder)[before:])


def _in_child(folder: Path, work: Callable[[], object]) -> None:
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        with open(folder / name, "ab") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(environment(folder))
    os.chdir(ROOT)
    torch.set_num_threads(1)
    work()


def said(folder: Path) -> str:
    """stderr of all processes of a folder."""
    file = folder / "stderr"
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def there(folder: Path) -> str:
    """What a killed process left, in a few words."""
    run = folder / "run"
    found = [f"{_clips(folder)} clips in the store"] if _clips(folder) else []
    if not run.is_dir():
        return ", ".join([*found, "no run folder"])
    names = ["run.json", "model.safetensors", "report.html", "run.lock"]
    found += [name for name in names if (run / name).exists()]
    if (run / "metrics.jsonl").exists():
        found.append(f"{len((run / 'metrics.jsonl').read_bytes().splitlines())} log lines")
    found += sorted(file.name for file in (run / "checkpoints").glob("*"))
    found += sorted(file.name for file in run.glob("*.part"))
    return ", ".join(found) or "an empty run folder"


def _clips(folder: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in folder.glob("cache/audio/*/index-*.tsv"))


def wrong(whole: Path, folder: Path, ended: Ended) -> list[str]:
    """What is not right with a run that has gone on to its end; nothing where all is. whole: a run left alone."""
    found = [f"exit code {ended.code}: {(ended.said.splitlines() or ['no word'])[-1]}"] if ended.code else []
    if "Traceback (most recent call last)" in said(folder):
        found.append("a traceback on stderr")
    return found or differences(whole, folder)


def differences(whole: Path, folder: Path) -> list[str]:
    """In what a run differs from one that was left alone: each a line; none where they are bit-equal.

    Times may differ. Of `checkpoints` what is there is compared, see `too_many` for the rest.
    """
    one, two = whole / "run", folder / "run"
    names, others = _names(one), _names(two)
    found = [f"{name} is missing" for name in sorted(names - others)]
    found += [f"{name} is left" for name in sorted(others - names) if not name.startswith("checkpoints")]
    found += [f"{file.relative_to(two)} is left" for file in two.glob("checkpoints/**/*.part")]
    for name in sorted(names & others):
        compare = READERS.get(Path(name).suffix, Path.read_bytes)
        a, b = compare(one / name), compare(two / name)
        if a != b:
            found.append(f"{name} differs{_where(a, b)}")
    if summary(whole) != summary(folder):
        found.append("the line on stdout differs")
    return found


def too_many(whole: Path, folder: Path) -> list[str]:
    """What a run has kept of its checkpoints that one which was left alone has not."""
    return sorted(_names(folder / "run" / "checkpoints") - _names(whole / "run" / "checkpoints"))


def _names(out: Path) -> set[str]:
    return {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}


def summary(folder: Path) -> Any:
    """The last line on stdout, without what is free."""
    lines = (folder / "stdout").read_text(encoding="utf-8").splitlines()
    return _values(json.loads(lines[-1])) if lines else None


def _values(value: Any) -> dict[str, Any]:
    """A JSON object, or a state, as plain values and the bytes of tensors by path, without what is free."""
    return dict(_walk("", value))


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in FREE:
                yield from _walk(f"{path}.{key}" if path else str(key), part)
    elif isinstance(value, torch.Tensor):
        yield path, (value.dtype, value.shape, value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        yield path, value


def _log(file: Path) -> dict[str, Any]:
    return _values([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])


def _record(file: Path) -> dict[str, Any]:
    return _values(json.loads(file.read_text(encoding="utf-8")))


def _weights(file: Path) -> dict[str, Any]:
    """Not the file's bytes: safetensors writes what is not a tensor in an order that changes."""
    with safetensors.safe_open(file, "pt") as opened:
        return _values(safetensors.torch.load_file(file) | {"metadata": opened.metadata()})


def _state(file: Path) -> dict[str, Any]:
    return _values(torch.load(file, map_location="cpu", weights_only=True))


def _card(file: Path) -> str:
    return TRAINING_TIME.sub("", file.read_text(encoding="utf-8"))


def _page(file: Path) -> str:
    """report.html without the figure of what training did per second."""
    text = file.read_text(encoding="utf-8")
    return re.sub(
        r"<figure(?:(?!</figure>).)*Seconds of speech trained on per second.*?</figure>", "", text, flags=re.DOTALL
    )


READERS: dict[str, Callable[[Path], Any]] = {  # by suffix; anything else by its bytes
    ".jsonl": _log, ".json": _record, ".safetensors": _weights, ".pt": _state, ".md": _card, ".html": _page,
}  # fmt: skip


def _where(a: Any, b: Any) -> str:
    if not isinstance(a, dict):
        return ""
    paths = [path for path in [*a, *(path for path in b if path not in a)] if a.get(path) != b.get(path)]
    return f" in {', '.join(paths[:3])}{' ...' if len(paths) > 3 else ''}"
