"""Models from the Hugging Face Hub, in the cache that all programs of a user share.

    fetched = fetch("facebook/wav2vec2-large-xlsr-53")  # into ~/.cache/huggingface, or where HF_HOME says
    folder = as_safetensors(fetched.folder, Path(f"xlsr-53@{fetched.commit}"))

huggingface_hub does the work. It tries again where a connection breaks, sends the user's token and asks the mirror that
HF_ENDPOINT names. Without a network, or with HF_HUB_OFFLINE=1, it takes what the cache holds. This file chooses the
files and says what to do where they cannot be had.
"""

import errno
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub import errors as hub_errors
from safetensors.torch import save_file
from tqdm import tqdm

from w2v.errors import InputError
from w2v.files import write_whole
from w2v.weights.hf import INDEXES, WEIGHT_FILES, locate, read_weights, shard_names, warn_if_not_finite

Answer = TypeVar("Answer")
SPEC = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", re.ASCII)
# By name: other .json files may be large (a trainer's state), and a pattern would look into folders too.
SMALL_FILES = (
    "config.json generation_config.json preprocessor_config.json processor_config.json tokenizer_config.json "
    "tokenizer.json vocab.json merges.txt added_tokens.json special_tokens_map.json normalizer.json normaliser.json "
    "README.md"  # its licence
).split()
MODEL_FILES = ["*.json", "*.txt", "*.md", "model*", "pytorch_model*"]


class Fetched(NamedTuple):
    folder: Path  # of links into the cache: to be read only
    commit: str  # 40 hex digits


class _Silent(tqdm):
    """No progress bar, for a stderr that is not a terminal: bars would fill a log."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "disable": True})


def quiet_bar() -> type[tqdm] | None:
    return None if sys.stderr.isatty() else _Silent


def parse_spec(spec: str) -> tuple[str, str | None]:
    """owner/name[@revision] -> (owner/name, revision or None)."""
    match = SPEC.fullmatch(spec)
    if not match:
        raise InputError(f"a repository on the Hub is written owner/name or owner/name@revision, got {spec!r}")
    return match[1], match[2]


def fetch(
    repository: str,
    revision: str | None = None,
    extra: tuple[str, ...] = (),
    weights: bool = True,
    optional: tuple[str, ...] = (),
) -> Fetched:
    """Bring a model's config, its tokenizer's and processor's files and one set of weights into the Hub's cache.

    revision: a branch, tag or commit; the newest commit where there is none. extra: further files of the repository,
    such as adapter.tur.safetensors. weights: False for the small files alone. optional: patterns of files that it may
    hold too.
    InputError where the cache does not hold them and the Hub does not give them.
    """

    def ask(call: Callable[..., Answer], **options: Any) -> Answer:
        try:
            return call(repository, **options)
        except Exception as error:  # the disk's, huggingface_hub's, and those of its HTTP and Xet libraries
            raise InputError(in_one_line(error, repository, revision, [*MODEL_FILES, *extra])) from error

    def snapshot(commit: str | None, names: list[str]) -> Path:
        return Path(ask(snapshot_download, revision=commit, allow_patterns=names, tqdm_class=quiet_bar()))

    folder = snapshot(revision, [*SMALL_FILES, *INDEXES, *extra, *optional])
    commit = folder.name
    lacking = [name for name in extra if not (folder / name).is_file()]
    if not weights and not lacking and (folder / "config.json").is_file():
        return Fetched(folder, commit)
    for file in WEIGHT_FILES if not lacking else ():
        if file in INDEXES and not (folder / file).is_file():
            continue
        names = shard_names(folder / file) if file in INDEXES else [file]
        snapshot(commit, ["config.json", *names])  # with a file that is there: huggingface_hub warns of empty choices
        if all((folder / name).is_file() for name in names):
            return Fetched(folder, commit)
    ask(HfApi().list_repo_files, revision=commit)  # fails offline, where one cannot know what the repository holds
    wanted = ", ".join(lacking) or "model.safetensors or pytorch_model.bin, whole or in shards"
    raise InputError(f"a fetched model needs {wanted}, {repository} holds none at {commit[:12]}; choose another")


def in_one_line(
    error: Exception, repository: str, revision: str | None, patterns: list[str], is_dataset: bool = False
) -> str:
    """What went wrong while a repository was fetched and what to do, in one line. patterns: of the files it needs."""
    name = f"{repository}@{revision}" if revision else repository
    source = error.__cause__ if isinstance(error, hub_errors.LocalEntryNotFoundError) and error.__cause__ else error
    is_offline = isinstance(source, hub_errors.OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if is_offline else (str(source).strip() or type(source).__name__).splitlines()[0]
    page = f"{constants.ENDPOINT}/{'datasets/' if is_dataset else ''}{repository}"
    login = "run `hf auth login` or set HF_TOKEN"
    if isinstance(error, hub_errors.HFValidationError):
        return f"a repository on the Hub is written owner/name, got {repository!r}; copy it from its page"
    if isinstance(source, hub_errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision}; choose a branch, tag or commit from {page}/commits/main"
    if isinstance(source, hub_errors.GatedRepoError):
        return f"{repository} is gated; accept its terms at {page}, then {login}"
    status = getattr(getattr(source, "response", None), "status_code", None)
    if isinstance(source, hub_errors.RepositoryNotFoundError) or status in (401, 403):
        return f"the Hub shows no repository {repository}; check its name at {page} or, if it is private, {login}"
    if "No space left" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"{name} does not fit into {constants.HF_HUB_CACHE}; free some space or set HF_HOME to a larger disk"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"cannot write {error.filename} ({error.strerror}); make it writable or set HF_HOME to another folder"
    options = ["--repo-type dataset"] * is_dataset + [f"--revision {revision}"] * bool(revision)
    options += [f'--include "{pattern}"' for pattern in patterns]
    command = " ".join(["hf download", repository, *options])
    return (
        f"{name} is not whole in {constants.HF_HUB_CACHE} and cannot be fetched ({reason[:200]}); run this again or, "
        f"where there is a network, run `{command}` and then set HF_HUB_OFFLINE=1 here; HF_ENDPOINT can name a mirror"
    )


def as_safetensors(folder: Path, target: Path) -> Path:
    """`folder` where it holds safetensors; else `target`, with its pickled weights converted and its texts copied.

    A target that is there already is taken as it is. InputError where the pickle holds more than tensors.
    """
    weights, _ = locate(folder)
    if weights.name in WEIGHT_FILES[:2]:
        return folder
    if not (target / WEIGHT_FILES[0]).is_file():
        tensors = read_weights(weights)
        warn_if_not_finite(tensors, weights)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        for file in sorted(folder.iterdir()):
            if file.name in SMALL_FILES:
                write_whole(target / file.name, partial(shutil.copyfile, file))
        # Last: a target is complete once it holds weights.
        write_whole(target / WEIGHT_FILES[0], lambda part: save_file(tensors, part, metadata={"format": "pt"}))
    return target
