"""Data sets that do not come from Common Voice: which of the kinds that people hold a path is."""

from collections.abc import Collection
from pathlib import Path

from w2v.data.audiofolder import metadata_in, read_audiofolder, read_split_tables, split_tables_in
from w2v.data.columns import Columns
from w2v.data.hub import PREFIX, fetch_data
from w2v.data.kaldi import kaldi_folders, read_kaldi
from w2v.data.manifest import Part
from w2v.data.parquet import SUFFIX, parquet_files, read_parquet
from w2v.files import reading


def read_elsewhere(path: Path, lang: str, columns: Columns, wanted: Collection[str]) -> Part | None:
    """A parquet file, a data set of the Hub, or a folder of one of these kinds; None where it is something else.

    wanted: the tables of a run. Only they are fetched from the Hub.
    """
    if path.as_posix().startswith(PREFIX):
        return fetch_data(path.as_posix().removeprefix(PREFIX), lang, columns, wanted)
    with reading("the data", path):
        if path.suffix == SUFFIX:
            return read_parquet(path, lang, columns)
        if not path.is_dir():
            return None
        for folder in (path, path / "data", path / lang):
            if folder.is_dir() and metadata_in(folder):
                return read_audiofolder(folder, columns)
        if kaldi_folders(path):
            return read_kaldi(path)
        if any(path.glob("*.tsv")):  # a release: other tables in its folder are the user's own
            return None
        if parquet_files(path):
            return read_parquet(path, lang, columns)
        return read_split_tables(path, columns) if split_tables_in(path) else None
