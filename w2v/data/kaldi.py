"""Kaldi's data folders: wav.scp and text, and where they are there segments and utt2spk.

Each line begins with the identity of a recording (wav.scp) or an utterance (the others). A folder above train, dev and
test, or folders of any other names, has these as its tables. wav.scp may hold commands, which are code: those are
refused, and so are places inside Kaldi's own archives.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from w2v.data.manifest import SPLITS, UNDIVIDED, Clip, Part, Release, Skipped, Source, fingerprint_of, segment_name
from w2v.data.tables import wrong_row
from w2v.errors import InputError, show
from w2v.files import read_bytes, reading

FILES = ("wav.scp", "text", "segments", "utt2spk")
ARCHIVED = re.compile(r".*\.ark(:\d+)?(\[.*\])?")
TO_THE_END = -1.0  # as the end of a segment


def kaldi_folders(folder: Path) -> dict[str, Path]:
    """The folders that hold wav.scp, by table: this one, or those in it."""
    if (folder / "wav.scp").is_file():
        return {UNDIVIDED: folder}
    with reading("the folder", folder):
        below = sorted(file.parent for file in folder.glob("*/wav.scp"))
    found = {SPLITS.get(place.name, place.name): place for place in below}
    if len(found) < len(below):
        names = ", ".join(place.name for place in below)
        raise InputError(f"{folder} must hold one folder for each split, it holds {names}; give a folder without one")
    return found


def read_kaldi(folder: Path) -> Part:
    """The utterances of a Kaldi folder. InputError where wav.scp holds a command or a place in an archive."""
    part = Part(Release("table", folder.resolve().name))
    folders = kaldi_folders(folder)
    read = {name: _Lines(place, name, part.skipped) for name, place in folders.items()}
    recordings = [path for lines in read.values() for path in lines.recordings.values()]
    source = Source(
        _base(folder.resolve(), next(iter(folders.values())).resolve(), recordings),
        fingerprint_of(str(folder.resolve()).encode(), *(lines.contents for lines in read.values())),
    )
    part.notes.append(source.describe())
    for name, lines in read.items():
        part.tables[name] = lines.clips(source)
    return part


def _base(given: Path, folder: Path, recordings: list[str]) -> Path:
    """What paths are relative to: a folder of wav.scp, or the one of the two above it where a recording is found.

    Kaldi itself takes the folder in which a recipe runs, two above its data/train. given: where none is found.
    """
    relative = [path for path in recordings if not Path(path).is_absolute()]
    for path in relative[:10]:
        for base in (folder, folder.parent, folder.parent.parent):
            try:
                if (base / path).is_file():
                    return base
            except (OSError, ValueError):  # no file has such a name
                break
    return given


class _Lines:
    """What the files of one folder say. Lines that cannot be used go to `skipped`."""

    def __init__(self, folder: Path, table: str, skipped: list[Skipped]):
        self.folder, self.table, self.skipped = folder, table, skipped
        self.contents = b""
        self.recordings = {}
        for line, recording, rest in self._read("wav.scp"):
            if rest.endswith("|") or rest.startswith("|"):
                raise InputError(
                    f"{folder.name}/wav.scp must name audio files, line {line} is a command, and commands are code: "
                    f"{show(rest)}; run it, and name the file that it writes"
                )
            if ARCHIVED.fullmatch(rest):
                raise InputError(
                    f"{folder.name}/wav.scp must name audio files, line {line} is a place in an archive: {show(rest)}; "
                    "write its recordings into files"
                )
            if why := wrong_row({"path": rest, "sentence": ""}):
                self._skip("wav.scp", line, why)
            else:
                self.recordings[recording] = rest
        self.sentences = {utterance: rest for _, utterance, rest in self._read("text")}
        self.speakers = {utterance: rest for _, utterance, rest in self._read("utt2spk", is_optional=True)}

    def _skip(self, file: str, line: int, why: str) -> None:
        self.skipped.append(Skipped(f"{self.folder.name}/{file}:{line}", self.table, why))

    def _read(self, file: str, is_optional: bool = False) -> Iterator[tuple[int, str, str]]:
        """(line number, identity, the rest of the line) of each line; an identity that comes again is skipped."""
        if is_optional and not (self.folder / file).is_file():
            return
        data = read_bytes("the table", self.folder / file)
        self.contents += f"\0{file}\0".encode() + data
        try:
            lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        except UnicodeDecodeError as error:
            where = f"{self.folder.name}/{file}"
            raise InputError(f"{where} must be UTF-8 text, byte {error.start} is not; save it as UTF-8") from None
        seen = set()
        for number, line in enumerate(lines, start=1):
            identity, *rest = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1)
            if identity in seen:
                self._skip(file, number, f"{show(identity)} is listed before")
            elif identity:
                seen.add(identity)
                yield number, identity, "".join(rest)

    def clips(self, source: Source) -> list[Clip]:
        """The utterances: where there are segments these, otherwise the recordings."""
        clips = []
        used = set()
        for file, line, utterance, recording, start, seconds in self._utterances():
            used.add(utterance)
            sentence, path = self.sentences.get(utterance), self.recordings.get(recording)
            if sentence is None or path is None:
                what = "sentence in text" if sentence is None else f"recording {show(recording)} in wav.scp"
                self._skip(file, line, f"{show(utterance)} has no {what}")
                continue
            if why := wrong_row({"path": path, "sentence": sentence}):
                self._skip(file, line, why)
                continue
            clip = Clip(path, sentence, self.speakers.get(utterance, ""), source)
            if start is not None:
                clip = Clip(segment_name(path, start, seconds), sentence, clip.speaker, source, seconds, path, start)
            clips.append(clip)
        for utterance in self.sentences.keys() - used:
            self.skipped.append(Skipped(show(utterance), self.table, "a sentence in text, and no recording or segment"))
        return clips

    def _utterances(self) -> Iterator[tuple[str, int, str, str, float | None, float | None]]:
        """File and line, utterance, recording, and of a segment where it begins and how long it is."""
        if not (self.folder / "segments").is_file():
            for line, recording in enumerate(self.recordings, start=1):
                yield "wav.scp", line, recording, recording, None, None
            return
        for line, utterance, rest in self._read("segments"):
            fields = rest.split()
            if len(fields) != 3:
                what = "names a channel" if len(fields) == 4 else f"{len(fields)} fields behind the utterance"
                self._skip("segments", line, f"{what}: recording, start and end are read")
                continue
            try:
                start, end = float(fields[1]), float(fields[2])
            except ValueError:
                start = end = -1.0
            row = {"path": "x", "offset": fields[1], "duration": "" if end == TO_THE_END else str(end - start)}
            if why := wrong_row(row, ("path",)):
                self._skip("segments", line, why)
                continue
            yield "segments", line, utterance, fields[0], start, None if end == TO_THE_END else end - start
