"""The way of a run to the Hugging Face Hub: --push-to-hub, in the background while training goes on.

The repository is made, and the token tried, before any data is read. Later an upload that fails costs one line: the
model is on the disk, the run ends with exit code 0, and its summary says null under `pushed`.

Only files by the names in EXPORTED leave the machine. A run folder also holds names of clips, hashes of speakers and
local paths (run.json, report.html, skipped.tsv, predictions, checkpoints).
"""

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from threading import Lock, Thread

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import disable_progress_bars, logging, validate_repo_id
from tqdm import tqdm

from recipes.checkpoints import best_folder
from recipes.console import say
from recipes.prepared import Prepared
from w2v.errors import InputError, show
from w2v.files import write_text
from w2v.metrics import ErrorRates
from w2v.model_card import CardFacts, model_card
from w2v.training.distributed import by_first, rank
from w2v.weights.hub import SMALL_FILES

EXPORTED = (*SMALL_FILES, "model*.safetensors", "model.safetensors.index.json", "adapter.*.safetensors",
            "alphabet.json", "language_model/*", "languages/*/*",
            "languages/*/language_model/*")  # fmt: skip
REPORTS = ("report.html", "predictions-*.tsv", "metrics.jsonl", "skipped.tsv", "run.json")
Describe = Callable[[dict[str, ErrorRates]], CardFacts]  # what was measured, by split -> the card's facts
LOGIN = "run `hf auth login` or set HF_TOKEN to a token that may write"


def check_upload(args: argparse.Namespace) -> "Upload":
    """The upload that the flags ask for. InputError where the token, the name or the repository does not allow it."""
    repository = "" if args.push_to_hub is None else open_repository(args.push_to_hub, args.private)
    return Upload(repository, EXPORTED + (REPORTS if args.push_reports else ()))


@by_first
def open_repository(name: str, private: bool) -> str:
    """Make the repository unless it is there. -> owner/name"""
    try:
        validate_repo_id(name)
    except hub_errors.HFValidationError:
        raise InputError(
            f"--push-to-hub takes NAME or OWNER/NAME of at most 96 letters, digits, _, - and ., got {show(name)}"
        ) from None
    api = HfApi()
    try:
        me = api.whoami()
        name = name if "/" in name else f"{me['name']}/{name}"
        if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise InputError(f"--push-to-hub needs a token that may write, this one may only read; {LOGIN}")
        api.create_repo(name, private=private or None, exist_ok=True)
        found = api.model_info(name)
    except hub_errors.LocalTokenNotFoundError:
        raise InputError(f"--push-to-hub needs a token of the Hub, found none; {LOGIN}") from None
    except InputError:
        raise
    except Exception as error:  # huggingface_hub's, and those of its HTTP library
        raise InputError(f"--push-to-hub cannot open {name}: {reason(error)}; or leave it out") from None
    if private and not found.private:
        raise InputError(f"--private needs a private repository, {name} is public already; give another --push-to-hub")
    say(f"the model will be uploaded to {constants.ENDPOINT}/{name}, {'private' if found.private else 'public'}")
    return name


class Upload:
    """Uploads of one run, one at a time in a thread of their own. Without a repository nothing happens."""

    def __init__(self, repository: str, patterns: tuple[str, ...] = EXPORTED):
        self.repository, self.patterns = repository, patterns
        self.lock = Lock()
        self.waiting: tuple[Path, str] | None = None  # folder, and what it holds
        self.thread: Thread | None = None
        self.pushed: str | None = None  # owner/name@commit, of the last upload
        self.failure = ""  # of the last upload

    def best(self, out: Path, prepared: Prepared, describe: Describe, rates: ErrorRates) -> None:
        """Send the best weights so far, with a card of what is known so far. rates: theirs on dev."""
        if not self.repository or rank() > 0 or prepared.has_own_heads:  # whose heads are taken apart at the end
            return
        facts = describe({"dev": rates})
        step = facts.weights_of
        # A folder of its own: training may delete the best weights while they are sent.
        folder = out / "checkpoints" / f"upload-{step:07d}"
        folder.mkdir(exist_ok=True)
        for file in files_of(best_folder(out, step), self.patterns):
            link(file, folder / file.name)
        prepared.tokenizer.save_pretrained(folder)
        prepared.normaliser.save(folder)
        write_text(folder / "README.md", model_card(facts))
        self._send(folder, f"step {step}")

    def end(self, out: Path, summary: dict) -> dict:
        """Send the finished folder, and wait for it. -> the summary with what became of it."""
        if not self.repository or rank() > 0:
            return summary
        say(f"uploading to {constants.ENDPOINT}/{self.repository}")
        thread = self._send(out, "the finished model")
        thread.join()
        if self.failure:
            say(f"to upload it by hand: {by_hand(self.repository, out, self.patterns)}")
        else:
            say(f"uploaded: {self.pushed}")
        for folder in (out / "checkpoints").glob("upload-*"):  # of a process that was killed
            drop(folder)
        return summary | {"pushed": None if self.failure else self.pushed}

    def _send(self, folder: Path, what: str) -> Thread:
        """Let the thread send a folder next, in place of one that still waits."""
        disable_progress_bars()  # they would run into training's
        logging.set_verbosity_error()  # of attempts that are made again
        with self.lock:
            if self.waiting:
                drop(self.waiting[0])
            self.waiting = (folder, what)
            if self.thread is None:
                self.thread = Thread(target=self._work, daemon=True)  # an interrupted run does not wait for it
                self.thread.start()
            return self.thread

    def _work(self) -> None:
        while True:
            with self.lock:
                if self.waiting is None:
                    self.thread = None
                    return
                (folder, what), self.waiting = self.waiting, None
            try:
                files = files_of(folder, self.patterns)
                operations = [
                    CommitOperationAdd(path_in_repo=file.relative_to(folder).as_posix(), path_or_fileobj=file)
                    for file in files
                ]
                commit = HfApi().create_commit(self.repository, operations, commit_message=f"w2v: {what}")
                self.pushed, self.failure = f"{self.repository}@{commit.oid}", ""
            except Exception as error:  # whatever it is, training goes on
                self.failure = reason(error)
                line = f"the upload of {what} to {self.repository} failed: {self.failure}"
                tqdm.write(line, file=sys.stderr)  # above training's bar
            drop(folder)


def files_of(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk has no such thing."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def drop(folder: Path) -> None:
    """Delete what `Upload.best` put together, and no other folder."""
    if folder.name.startswith("upload-"):
        shutil.rmtree(folder, ignore_errors=True)


def by_hand(repository: str, out: Path, patterns: tuple[str, ...] = EXPORTED) -> str:
    """The command that uploads a finished run, and no file that is not named in it."""
    names = [f"--include {shlex.quote(file.relative_to(out).as_posix())}" for file in files_of(out, patterns)]
    return f"hf upload {repository} {shlex.quote(str(out))} . {' '.join(names)}"


def repository_name(name: str) -> str:
    """A model's name in the characters that the Hub takes."""
    return re.sub(r"[^A-Za-z0-9_]+", lambda found: "." if set(found[0]) == {"."} else "-", name).strip("-.")[:80]


def reason(error: Exception) -> str:
    """What went wrong, in one line with its remedy where there is one."""
    source: BaseException = error
    while source.__cause__ is not None and not hasattr(source, "response"):
        source = source.__cause__
    status = getattr(getattr(source, "response", None), "status_code", None)
    if status == 401:
        return f"the Hub does not know the token; {LOGIN}"
    if status == 403:
        return "the token may not write there; use one that may, or a repository of your own"
    if status == 404:
        return "the Hub shows no such repository; check its name and the token's rights"
    if status == 400:  # the Hub says which line of the card it does not take
        return " ".join(str(error).split())[:200]
    if status is not None:
        return f"the Hub answered {status} ({HTTPStatus(status).phrase}); try again later"
    if isinstance(source, hub_errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it where there is a network"
    return (str(source).strip() or type(source).__name__).splitlines()[0][:200]
