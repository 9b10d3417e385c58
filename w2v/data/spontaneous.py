"""Common Voice's Spontaneous Speech: answers in people's own words, as an archive or its folder.

A release holds ss-corpus-LANG.tsv, ss-reported-audios-LANG.tsv and audios/*.mp3 in one folder (the layout and the tags:
github.com/common-voice/cv-dataset, datasets/spontaneous-speech). Its rows are treated so:

- The `split` column says train, dev or test. Other rows, whose transcription nobody has validated, form the table
  `unassigned`. A run uses it only where `train_splits` names it. Rows without a transcription are skipped.
- Tags in square or angle brackets ([disfluency], [noise]) say what else is heard. They are removed and leave no word;
  the words beside them stay apart.
- Clips with a quality tag of MISMATCHES are left out of training: their text may be another's. They stay in dev and
  test, because a published test set is measured as it is published; their number is said. Other quality tags are
  counted only.
- Reported audios are skipped, with the reason that was reported.
"""

import re
from collections import Counter
from pathlib import Path

from w2v.data.archives import Survey, first_of_each
from w2v.data.manifest import Clip, Part, Release, Skipped, Source, named_release, seconds_in
from w2v.data.splits import OFFICIAL
from w2v.data.tables import SEPARATORS, parse_table
from w2v.errors import show

CORPUS, REPORTED = "ss-corpus-", "ss-reported-audios-"  # and the locale
UNASSIGNED = "unassigned"
TAG = re.compile(r"\[[^\[\]]*\]|<[^<>]*>")  # <disfluency>: markers before release 3.0
# The transcription has under 3 or over 30 characters per second, or the audio is in another language.
MISMATCHES = ("dataset-language-audio-mismatch", "transcription-length", "speech-rate")
MOST_LISTED = 12
DEPTHS = ("", "*/", "*/*/")


def is_table(stem: str) -> bool:
    return stem.startswith((CORPUS, REPORTED))


def folders(path: Path, lang: str) -> list[Path]:
    """Where the table of `lang` lies: in the folder itself, else one or two levels below."""
    for depth in DEPTHS:
        holding = sorted(file.parent for file in path.glob(f"{depth}{CORPUS}{lang}.tsv"))
        if holding or (path / "clips").is_dir():  # millions of files may lie below clips, and no table
            return first_of_each(holding)
    return []


def locales(path: Path) -> list[str]:
    """Those of the tables that `folders` would find."""
    return [file.stem.removeprefix(CORPUS) for depth in DEPTHS for file in path.glob(f"{depth}{CORPUS}*.tsv")]


def folders_in(archive: Survey, lang: str) -> list[str]:
    """The same of an archive."""
    return sorted(folder for folder, tables in archive.tables.items() if f"{CORPUS}{lang}" in tables)


def locales_in(archive: Survey) -> list[str]:
    stems = [stem for tables in archive.tables.values() for stem in tables]
    return [stem.removeprefix(CORPUS) for stem in stems if stem.startswith(CORPUS)]


def read(contents: dict[str, bytes], source: Source, lang: str, path: Path) -> Part:
    """The clips of a release. contents: its tables by name without .tsv. path: as the user gave it."""
    release = named_release("spontaneous", source, path, lang)
    part = Part(release or Release("spontaneous", path.resolve().name, "", lang), notes=[source.describe()])
    name = f"{CORPUS}{lang}"
    table = parse_table(contents[name], f"{name}.tsv", ("audio_file", "transcription")).check(f"{name}.tsv")
    part.skipped = [Skipped(f"{name}.tsv:{line}", "", why) for line, why in table.broken]
    reported = _reported(contents.get(f"{REPORTED}{lang}"), lang)
    part.skipped += [Skipped(audio, "", f"reported: {reason}") for audio, reason in reported.items()]
    untold, kept = 0, 0
    quality: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    tags: Counter[str] = Counter()
    for row in table.rows:
        audio, split = row["audio_file"], row.get("split", "")
        split = split if split in OFFICIAL else UNASSIGNED
        if not audio.strip() or SEPARATORS.search(audio):
            part.skipped.append(Skipped(show(audio), split, "no file name in its audio_file"))
            continue
        if audio in reported:
            continue
        if not row["transcription"].strip():
            untold += 1
            part.skipped.append(Skipped(audio, split, "without a transcription"))
            continue
        has = [tag for tag in row.get("quality_tags", "").split("|") if tag]
        mismatches = [tag for tag in has if tag in MISMATCHES]
        quality.update(tag for tag in has if tag not in MISMATCHES)
        if mismatches and split not in ("dev", "test"):
            left_out[mismatches[0]] += 1
            part.skipped.append(Skipped(audio, split, f"quality tag {mismatches[0]}: its text may not be what is said"))
            continue
        kept += bool(mismatches)
        tags.update(TAG.findall(row["transcription"]))
        seconds = seconds_in(row.get("duration_ms") or row.get("duration[ms]"), per_second=1000)
        text = " ".join(TAG.sub(" ", row["transcription"]).split())
        part.tables.setdefault(split, []).append(Clip(audio, text, row.get("client_id") or "", source, seconds))

    if tags:
        part.notes.append(f"{tags.total()} bracketed tags are removed from the transcriptions: {_list(tags)}")
    if clips := part.tables.get(UNASSIGNED):
        part.notes.append(
            f"{len(clips)} clips have a transcription that was not validated; they are used only where `train_splits` "
            f"names {UNASSIGNED}"
        )
    if untold:
        part.notes.append(f"{untold} clips have no transcription and are skipped")
    if reported:
        part.notes.append(f"{len(reported)} reported clips are skipped")
    if left_out or kept:
        part.notes.append(
            f"quality tags that put a text in doubt: {left_out.total()} clips left out of training "
            f"({_list(left_out) or 'none'}); {kept} clips with such tags stay in dev and test, which are measured as "
            "they are published"
        )
    if quality:
        part.notes.append(f"other quality tags, only counted: {_list(quality)}")
    return part


def _reported(data: bytes | None, lang: str) -> dict[str, str]:
    """The reason of each reported audio. The reporter's comment is not repeated: it may name people."""
    rows = parse_table(data, f"{REPORTED}{lang}.tsv", ("audio_file",)).rows if data and data.strip() else []
    return {
        row["audio_file"]: re.sub(r"[^\w ]", "", row.get("reason", ""))[:60] or "no reason given"
        for row in rows
        if row["audio_file"].strip() and not SEPARATORS.search(row["audio_file"])
    }


def _list(counts: Counter[str]) -> str:
    listed = [f"{tag if tag.isprintable() else show(tag)} {n}" for tag, n in counts.most_common(MOST_LISTED)]
    return ", ".join(listed) + (f" and {len(counts) - MOST_LISTED} more" if len(counts) > MOST_LISTED else "")
