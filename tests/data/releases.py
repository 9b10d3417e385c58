"""Releases of a few real clips, as Mozilla lays them out, for the tests."""

import io
import shutil
import tarfile
from pathlib import Path

from conftest import SAMPLE

COLUMNS = {
    "5.0": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "6.1": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "11.0": "client_id path sentence up_votes down_votes age gender accents locale segment",
    "13.0": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "16.1": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "17.0": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale "
    "segment",
    "25.0": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale "
    "segment",
}
SPOKEN_COLUMNS = {
    "1.0": "client_id audio_id audio_file duration_ms prompt_id prompt transcription votes language prompt_upvotes "
    "prompt_reports is_edited split",
    "3.0": "client_id audio_id audio_file duration_ms prompt_id prompt transcription votes age gender accents variant "
    "language prompt_upvotes prompt_reports is_edited split char_per_sec quality_tags",
}
SENTENCE_TABLES = {
    "reported": "sentence_id sentence locale reason",
    "validated_sentences": "sentence_id sentence variant sentence_domain source is_used clips_count",
    "unvalidated_sentences": "sentence_id sentence variant sentence_domain source up_votes down_votes status",
}


def audio_files() -> list[Path]:
    return sorted((SAMPLE / "clips").glob("*.mp3"))


def write_release(folder: Path, lang: str, tables: dict[str, int], version: str = "17.0", first: int = 0) -> Path:
    """A release of real clips, as Mozilla lays it out; tables: name -> number of clips. first: the first clip's."""
    root = folder / f"cv-corpus-{version}" / lang
    (root / "clips").mkdir(parents=True)
    audio = audio_files()
    columns = COLUMNS[version].split()
    number = first
    for name, count in tables.items():
        lines = ["\t".join(columns)]
        for _ in range(count):
            file = f"common_voice_{lang}_{number}.mp3"
            shutil.copy(audio[number % len(audio)], root / "clips" / file)
            row = {"client_id": f"s{number}", "path": file, "sentence": f'"Cümle {number}', "locale": lang}
            lines.append("\t".join(row.get(c, "") for c in columns))
            number += 1
        (root / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_sentence_tables(root: Path, besides: str = "") -> None:
    """The tables beside the clips' own since release 17, and the datasheet of 25. besides: more columns."""
    for name, columns in SENTENCE_TABLES.items():
        header = [*columns.split(), *besides.split()]
        row = "\t".join(f"a{i}" for i in range(len(header)))
        (root / f"{name}.tsv").write_text("\t".join(header) + f"\n{row}\n")
    (root / "README.md").write_text("# Common Voice\n\npath\tsentence\n")


def write_spoken_release(
    folder: Path, lang: str, rows: list[dict[str, str]], version: str = "3.0", reported=()
) -> Path:
    """A release of Spontaneous Speech. rows: cells by column; one without audio_file gets the next number's."""
    root = folder / f"sps-corpus-{version}-2026-03-09-{lang}"
    (root / "audios").mkdir(parents=True)
    columns = SPOKEN_COLUMNS[version].split()
    lines = ["\t".join(columns)]
    for number, row in enumerate(rows):
        file = f"spontaneous-speech-{lang}-{number}.mp3"
        shutil.copy(audio_files()[number % len(audio_files())], root / "audios" / file)
        row = {"client_id": f"p{number}", "audio_file": file, "prompt": 'Ne "sorusu?', "language": "Turkish"} | row
        lines.append("\t".join(row.get(column, "") for column in columns))
    (root / f"ss-corpus-{lang}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["client_id\taudio_id\taudio_file\tduration_ms\tprompt_id\tprompt\treason\tcomment\tlanguage"]
    lines += [f"r\t1\t{file}\t1000\t1\tNe\tother\tcall Ali\tTurkish" for file in reported]
    (root / f"ss-reported-audios-{lang}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / f"ss-corpus-{lang}.qa-summary.json").write_text("{}")
    (root / "README.md").write_text("# Spontaneous Speech\n")
    return root


def pack(folder: Path, archive: Path, extra: tuple[str, bytes] | None = None, arcname: str | None = None) -> Path:
    """folder as an archive; arcname: its name inside."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name if arcname is None else arcname)
        if extra:
            info = tarfile.TarInfo(extra[0])
            info.size = len(extra[1])
            tar.addfile(info, io.BytesIO(extra[1]))
    return archive
