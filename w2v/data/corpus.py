"""The data of a run: releases and tables of any kind, merged.

    corpus = read_corpus([Path("cv-corpus-17.0-2024-03-15-tr.tar.gz")], "tr", cache)
    corpus.tables["train"]                        # list[Clip]

Each path is asked what it is, and the file of that kind reads it. No audio is opened here.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from w2v.data import commonvoice, spontaneous
from w2v.data.archives import ARCHIVES, survey
from w2v.data.columns import Columns
from w2v.data.elsewhere import read_elsewhere
from w2v.data.manifest import UNDIVIDED, Clip, Part, Release, Skipped, Source, read_manifest, used_once
from w2v.data.splits import OFFICIAL
from w2v.errors import InputError, listed
from w2v.files import read_bytes, reading
from w2v.text.locales import COMMON_VOICE_LOCALES, is_common_voice, nearest_locale

TABLES = (".tsv", ".csv", ".jsonl", ".json")  # NeMo calls lines of JSON .json


@dataclass
class Corpus:
    """Tables by name (train, dev, test, validated, other ...), merged over all the data given."""

    tables: dict[str, list[Clip]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # for the user: where the clips come from
    releases: list[Release] = field(default_factory=list)  # what each of the data given is


def read_corpus(
    data: list[Path],
    lang: str,
    cache: Path,
    columns: Columns | None = None,
    wanted: Collection[str] = OFFICIAL,
) -> Corpus:
    """Read archives, locale folders, folders above them, plain tables or what elsewhere.py knows, and merge them.

    columns: of plain tables and of data sets from elsewhere. wanted: the tables of a run; the Hub gives no others.

    The clips of a plain table become `validated`, which can be divided. Beside a release with official splits they
    join its `train`. Raises InputError where there is nothing of `lang` or several releases of it, where something
    cannot be read, where a table lacks path or sentence, and where an archive is damaged or holds member names that
    point outside it.
    """
    corpus = Corpus()
    parts = [_read(Path(path), lang, cache, columns or Columns(), wanted) for path in data]
    for part in parts:
        corpus.skipped += part.skipped
        corpus.notes += part.notes
        corpus.releases.append(part.release)
        for name, clips in part.tables.items():
            if name != UNDIVIDED:
                corpus.tables.setdefault(name, []).extend(clips)
    if not is_common_voice(lang) and not any(of.kind != "table" and of.locale == lang for of in corpus.releases):
        near = nearest_locale(lang, COMMON_VOICE_LOCALES)
        corpus.notes.append(
            f"WARNING: Common Voice is not known to have a locale {lang}, and the data does not name its own; "
            + (f"did you mean {listed([near])}?" if near else "is it spelt right?")
        )
    has_splits = any(corpus.tables.get(name) for name in OFFICIAL)
    for part in parts:
        if has_splits and part.tables.get("validated") and not any(part.tables.get(name) for name in OFFICIAL):
            corpus.notes.append(
                f"{part.release.name} has no official splits, other data has: its {len(part.tables['validated'])} "
                "validated clips are used only where `train_splits` names validated"
            )
        if not any(part.tables.get(name) for name in (*wanted, "validated", UNDIVIDED)):
            corpus.notes.append(
                f"WARNING: no clip of {part.release.name} is used, it holds {listed(part.tables) or 'no table'}: name "
                "that in `train_splits`, or give its file alone"
            )
        if UNDIVIDED in part.tables:
            clips = part.tables[UNDIVIDED]
            corpus.tables.setdefault("train" if has_splits else "validated", []).extend(clips)
            if has_splits:
                corpus.notes.append(
                    f"{len(clips)} clips of {part.release.name} join train: the data has official splits"
                )
    for name, clips in corpus.tables.items():
        corpus.tables[name], skipped, notes = used_once(clips, name, name)
        if name in commonvoice.USUAL:
            corpus.skipped += skipped
            corpus.notes += notes
    return corpus


def read_extra(path: Path, lang: str, cache: Path, columns: Columns) -> Part:
    """Further training clips, as the table `train`: those of a data set's train table and those of no split.

    Its dev and test tables come with it: their clips are not to be trained on, whatever data they stand in. InputError
    where there are no training clips.
    """
    part = _read(path, lang, cache, columns, OFFICIAL)
    clips = part.tables.get("train", []) + part.tables.get(UNDIVIDED, [])
    others = ", ".join(name for name, some in part.tables.items() if some and name not in ("train", UNDIVIDED))
    if others and not clips:
        raise InputError(f"`extra_data` must hold training clips, {path} holds {others}; give their table alone")
    held_out = {name: part.tables[name] for name in ("dev", "test") if part.tables.get(name)}
    notes = part.notes + ([f"{others} of {part.release.name} are not used"] if others else [])
    if held_out:
        notes.append(f"clips of {' and '.join(held_out)} of {part.release.name} are not trained on")
    return Part(part.release, {"train": clips, **held_out}, part.skipped, notes)


def _read(path: Path, lang: str, cache: Path, columns: Columns, wanted: Collection[str]) -> Part:
    """Ask the path what it is, and read it as that."""
    if part := read_elsewhere(path, lang, columns, wanted):
        return part
    if _is_folder(path):
        return _read_folder(path, lang)
    if path.name.endswith(ARCHIVES):
        return _read_archive(path, lang, cache)
    if path.name.endswith(TABLES):
        return _read_table(path, columns)
    raise InputError(f"`data` takes a .tar.gz archive, a folder or a .tsv, .csv, .jsonl or .parquet table, got {path}")


def _read_table(path: Path, columns: Columns) -> Part:
    clips, skipped = read_manifest(path, columns)
    clips, repeated, notes = used_once(clips, path.name)
    origin = [clips[0].source.describe()] if clips else []
    return Part(Release("table", path.resolve().name), {UNDIVIDED: clips}, skipped + repeated, origin + notes)


def _read_folder(path: Path, lang: str) -> Part:
    with reading("the folder", path):
        scripted, spoken = commonvoice.folders(path, lang), spontaneous.folders(path, lang)
        found = [str(folder.relative_to(path)) for folder in scripted + spoken]
        _check_single(path, lang, found, lambda: [*commonvoice.locales(path), *spontaneous.locales(path)])
    if spoken:
        contents = {file.stem: read_bytes("the table", file) for file in sorted(spoken[0].glob("ss-*.tsv"))}
        source = Source(audio_folder(spoken[0], "audios"), fingerprint(lang, contents))
        return spontaneous.read(contents, source, lang, path)
    contents = {stem: read_bytes("the table", file) for stem, file in commonvoice.tables_in(scripted[0]).items()}
    source = Source(audio_folder(scripted[0], "clips"), fingerprint(lang, contents))
    return commonvoice.read(contents, source, lang, path)


def _read_archive(path: Path, lang: str, cache: Path) -> Part:
    archive = survey(path, cache, lambda stem, header: commonvoice.is_table(stem, header) or spontaneous.is_table(stem))
    scripted, spoken = commonvoice.folders_in(archive, lang), spontaneous.folders_in(archive, lang)
    _check_single(
        path, lang, scripted + spoken, lambda: [*commonvoice.locales_in(archive), *spontaneous.locales_in(archive)]
    )
    if spoken:
        contents = archive.tables[spoken[0]]
        prefix = archive.audio_folder(spoken[0], "audios")
        source = Source(path.resolve(), fingerprint(lang, contents), prefix, is_archive=True)
        return spontaneous.read(contents, source, lang, path)
    prefix = archive.audio_folder(scripted[0], "clips")
    contents = commonvoice.with_durations(archive.tables[scripted[0]], archive.audio.get(prefix, {}))
    source = Source(path.resolve(), fingerprint(lang, contents), prefix, is_archive=True)
    return commonvoice.read(contents, source, lang, path)


def _check_single(path: Path, lang: str, found: list[str], locales: Callable[[], list[str]]) -> None:
    """The user must say which release is meant; InputError that names what there is where it is not one."""
    if len(found) > 1:
        raise InputError(f"{path} must hold one release of {lang}, it holds {listed(sorted(found))}; give one of them")
    if not found:
        held = sorted(set(locales()))
        if not held:
            raise InputError(f"{path} holds no .tsv tables; give a Common Voice folder or archive")
        remedy = f"; did you mean `lang` {listed([near])}?" if (near := nearest_locale(lang, held)) else ""
        raise InputError(f"{path} holds no locale {lang}; it holds {listed(held)}{remedy}")


def fingerprint(lang: str, contents: dict[str, bytes]) -> str:
    """The name of the decoded store: the same tables have the same clips, packed or not."""
    digest = hashlib.sha256(lang.encode())
    for stem in sorted(contents):
        digest.update(f"\0{stem}\0".encode() + contents[stem])
    return digest.hexdigest()[:16]


def audio_folder(folder: Path, name: str) -> Path:
    """Where the clips of a folder's tables lie: in the folder of that name, else beside the tables."""
    audio = folder / name if os.path.lexists(folder / name) else folder
    with reading("the folder", audio):
        (audio / "..").stat()  # this fails where the files in it cannot be opened
    return audio.resolve()


def _is_folder(path: Path) -> bool:
    with reading("the data", path):
        try:
            return stat.S_ISDIR(path.stat().st_mode)  # is_dir() may say no where permission is denied
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"`data` must exist, found nothing at {path}") from None
