"""Folders and archives of releases, intact and damaged.

Run: pytest tests/data/test_commonvoice.py
"""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import SAMPLE

from w2v.data.commonvoice import read_common_voice
from w2v.data.store import build_store
from w2v.errors import InputError

COLUMNS = {
    "6.1": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "11.0": "client_id path sentence up_votes down_votes age gender accents locale segment",
    "17.0": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale "
    "segment",
}


def write_release(folder: Path, lang: str, tables: dict[str, int], version: str = "17.0") -> Path:
    """A release of real clips, as Mozilla lays it out; tables: name -> number of clips."""
    root = folder / f"cv-corpus-{version}" / lang
    (root / "clips").mkdir(parents=True)
    audio = sorted((SAMPLE / "clips").glob("*.mp3"))
    columns = COLUMNS[version].split()
    number = 0
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


def pack(folder: Path, archive: Path, extra: tuple[str, bytes] | None = None) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
        if extra:
            info = tarfile.TarInfo(extra[0])
            info.size = len(extra[1])
            tar.addfile(info, io.BytesIO(extra[1]))
    return archive


@pytest.mark.parametrize("version", COLUMNS)
def test_every_column_set_and_every_folder_depth(tmp_path, version):
    root = write_release(tmp_path, "tr", {"train": 3, "dev": 1, "test": 1, "validated": 5}, version)
    for path in (root, root.parent, root.parent.parent):
        corpus = read_common_voice([path], "tr", tmp_path)
        assert {name: len(clips) for name, clips in corpus.tables.items()} == {
            "train": 3, "dev": 1, "test": 1, "validated": 5,
        }  # fmt: skip
        assert corpus.tables["train"][0].sentence == '"Cümle 0'


def test_archive_and_folder_give_the_same_clips_and_audio(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 4, "dev": 1, "test": 1})
    archive = pack(root.parent, tmp_path / "cv-tr.tar.gz")
    cache = tmp_path / "cache"
    folder_corpus = read_common_voice([root], "tr", cache)
    archive_corpus = read_common_voice([archive], "tr", cache)
    assert not list(cache.rglob("*.mp3")), "an archive is never unpacked"
    folder_clips, archive_clips = folder_corpus.tables["train"], archive_corpus.tables["train"]
    assert [c.name for c in folder_clips] == [c.name for c in archive_clips]
    ours = build_store(folder_clips, tmp_path / "one", 1)
    theirs = build_store(archive_clips, tmp_path / "two", 1)
    for a, b in zip(folder_clips, archive_clips, strict=True):
        assert (ours[a] == theirs[b]).all()
        assert b.seconds == pytest.approx(theirs.seconds(b), abs=0.1)  # headers were read in passing
    # The second reading takes the tables from the cache: the archive could be on a slow disk.
    again = read_common_voice([archive], "tr", cache)
    assert again.tables == archive_corpus.tables


def test_durations_table_is_used(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 2})
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_tr_0.mp3\t4321\n")
    clips = read_common_voice([root], "tr", tmp_path).tables["train"]
    assert [clip.seconds for clip in clips] == [4.321, None]


def test_clip_shorter_than_its_declared_duration_is_skipped(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 2})
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_tr_0.mp3\t60000\n")
    clips = read_common_voice([root], "tr", tmp_path).tables["train"]
    audio = build_store(clips, tmp_path / "cache", 1)
    assert list(audio.skipped) == clips[:1]
    assert audio.skipped[clips[0]].startswith("truncated")


def test_several_data_are_merged(tmp_path):
    one = write_release(tmp_path / "a", "tr", {"train": 2})
    manifest = tmp_path / "more.tsv"
    manifest.write_text("path\tsentence\nx.wav\tBir\n")
    corpus = read_common_voice([one, manifest], "tr", tmp_path)
    assert {name: len(clips) for name, clips in corpus.tables.items()} == {"train": 2, "validated": 1}


@pytest.mark.parametrize("member", ["/etc/escaped.tsv", "../escaped.tsv", "cv/tr/../../../escaped.tsv"])
def test_archive_that_escapes_is_refused(tmp_path, member):
    root = write_release(tmp_path / "a", "tr", {"train": 1})
    archive = pack(root.parent, tmp_path / "evil.tar.gz", (member, b"x"))
    with pytest.raises(InputError, match="outside its own folder"):
        read_common_voice([archive], "tr", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_archive_cut_short_is_refused_and_leaves_nothing(tmp_path, share):
    root = write_release(tmp_path / "a", "tr", {"train": 5})
    data = pack(root.parent, tmp_path / "whole.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut short or damaged"):
        read_common_voice([cut], "tr", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_missing_locales_name_those_there_are(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 1})
    write_release(tmp_path, "de", {"train": 1}, "11.0")
    with pytest.raises(InputError, match="holds no locale fr; it holds tr"):
        read_common_voice([root.parent], "fr", tmp_path)
    with pytest.raises(InputError, match="its tables say tr"):
        read_common_voice([root], "fr", tmp_path)
    archive = pack(root.parent, tmp_path / "tr.tar.gz")
    with pytest.raises(InputError, match="holds no locale fr; it holds tr"):
        read_common_voice([archive], "fr", tmp_path)


def test_what_is_no_data(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.mp3").write_bytes(b"")
    for path, words in ((tmp_path / "empty", "holds no .tsv"), (tmp_path / "a.mp3", "--data takes"),
                        (tmp_path / "no", "found nothing")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            read_common_voice([path], "tr", tmp_path)
