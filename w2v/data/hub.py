"""Data sets of the Hugging Face Hub, in the cache that all programs of a user share: parquet files or an AudioFolder.

Only what a run needs is fetched: the files of its tables and, where a repository has a folder for each language, of its
language.
"""

import glob
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from w2v.data.audiofolder import METADATA, read_audiofolder
from w2v.data.columns import Columns
from w2v.data.manifest import SPLITS, UNDIVIDED, Part, check_inside
from w2v.data.parquet import is_data, of_language, read_files, table_of
from w2v.errors import InputError
from w2v.weights.hub import in_one_line, parse_spec, quiet_bar

PREFIX = "hub:"


def fetch_data(spec: str, lang: str, columns: Columns, wanted: Collection[str]) -> Part:
    """The clips of a data set, owner/name or owner/name@revision. wanted: names of the tables that are fetched.

    InputError where the Hub does not give it and the cache does not hold it, and where it is of another kind.
    """
    repository, revision = parse_spec(spec)

    def ask(call: Callable, **options: Any) -> Any:
        try:
            return call(repository, repo_type="dataset", **options)
        except Exception as error:  # the disk's, huggingface_hub's, and those of its HTTP and Xet libraries
            raise InputError(in_one_line(error, repository, revision, ["*.parquet"], is_dataset=True)) from error

    try:
        info = ask(HfApi().repo_info, revision=revision)
    except InputError:
        cached = _in_cache(repository, revision)
        if cached is None:
            raise
        folder, note = cached, f"{repository} is read from the cache as it is there: the Hub did not answer"
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        files, _ = _choose(names, lang, wanted, repository)
    else:
        files, patterns = _choose([file.rfilename for file in info.siblings], lang, wanted, repository)
        options = {"revision": info.sha, "allow_patterns": patterns, "tqdm_class": quiet_bar()}
        folder, note = Path(ask(snapshot_download, **options)), f"{repository} is read at its commit {info.sha}"
    if is_data(files[0]):
        part = read_files(folder, {file: table_of(file) for file in files}, columns, repository)
    else:
        part = read_audiofolder(folder / _above(files[0]), columns, repository)
    part.notes.append(note)
    return part


def _in_cache(repository: str, revision: str | None) -> Path | None:
    """The folder of what earlier runs fetched; None where there is nothing."""
    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        found = getattr(error, "snapshot_path", None)  # where files are missing that no run has asked for
        return Path(found) if found else None


def _choose(names: list[str], lang: str, wanted: Collection[str], repository: str) -> tuple[list[str], list[str]]:
    """-> the parquet or metadata files of a language to be read, and the patterns of all that they need."""
    for name in names:
        check_inside(name, repository)
    data = sorted(filter(is_data, names))
    if data:
        files = of_language(data, lang, repository)
        files = [file for file in files if table_of(file) in {*wanted, UNDIVIDED}] or files
        return files, [glob.escape(file) for file in files]
    tables = sorted(name for name in names if PurePosixPath(name).name in METADATA)
    if not tables:
        raise InputError(
            f"{repository} must hold parquet files or an AudioFolder with metadata.csv, it holds neither; download and "
            "unpack it, and give its folder"
        )
    tables = of_language(tables, lang, repository)
    own = [name for name in tables if SPLITS.get(PurePosixPath(name).parent.name, UNDIVIDED) in {*wanted, UNDIVIDED}]
    tables = own or tables
    return tables, [glob.escape(name.removesuffix(PurePosixPath(name).name)) + "*" for name in tables]


def _above(table: str) -> PurePosixPath:
    """The folder of an AudioFolder that has this metadata file."""
    folder = PurePosixPath(table).parent
    return folder.parent if folder.name in SPLITS else folder
