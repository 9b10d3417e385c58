"""Folders and archives of releases, intact and damaged.

Run: pytest tests/data/test_commonvoice.py
"""

import gzip
import io
import tarfile
import zlib
from pathlib import Path

import pytest
from conftest import SAMPLE
from releases import COLUMNS, pack, write_release

from w2v.data import archives
from w2v.data.archives import archive_members
from w2v.data.corpus import read_corpus
from w2v.data.manifest import Release
from w2v.data.splits import make_splits
from w2v.data.store import build_store
from w2v.errors import InputError


@pytest.mark.parametrize("version", COLUMNS)
def test_every_column_set_and_every_folder_depth(tmp_path, version):
    root = write_release(tmp_path, "tr", {"train": 3, "dev": 1, "test": 1, "validated": 5}, version)
    for path in (root, root.parent, root.parent.parent):
        corpus = read_corpus([path], "tr", tmp_path)
        assert {name: len(clips) for name, clips in corpus.tables.items()} == {
            "train": 3, "dev": 1, "test": 1, "validated": 5,
        }  # fmt: skip
        assert corpus.tables["train"][0].sentence == '"Cümle 0'


def test_archive_and_folder_give_the_same_clips_and_audio(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 4, "dev": 1, "test": 1})
    archive = pack(root.parent, tmp_path / "cv-tr.tar.gz")
    cache = tmp_path / "cache"
    folder_corpus = read_corpus([root], "tr", cache)
    archive_corpus = read_corpus([archive], "tr", cache)
    assert not list(cache.rglob("*.mp3")), "an archive is never unpacked"
    folder_clips, archive_clips = folder_corpus.tables["train"], archive_corpus.tables["train"]
    assert [c.name for c in folder_clips] == [c.name for c in archive_clips]
    ours = build_store(folder_clips, tmp_path / "one", 1)
    theirs = build_store(archive_clips, tmp_path / "two", 1)
    for a, b in zip(folder_clips, archive_clips, strict=True):
        assert (ours[a] == theirs[b]).all()
        assert b.seconds == pytest.approx(theirs.seconds(b), abs=0.1)  # headers were read in passing
    # The second reading takes the tables from the cache: the archive could be on a slow disk.
    again = read_corpus([archive], "tr", cache)
    assert again.tables == archive_corpus.tables


def test_durations_table_is_used(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 2})
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_tr_0.mp3\t4321\n")
    clips = read_corpus([root], "tr", tmp_path).tables["train"]
    assert [clip.seconds for clip in clips] == [4.321, None]


def test_clip_shorter_than_its_declared_duration_is_skipped(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 2})
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_tr_0.mp3\t60000\n")
    clips = read_corpus([root], "tr", tmp_path).tables["train"]
    audio = build_store(clips, tmp_path / "cache", 1)
    assert list(audio.skipped) == clips[:1]
    assert audio.skipped[clips[0]].startswith("truncated")


def counts(corpus) -> dict[str, int]:
    return {name: len(clips) for name, clips in corpus.tables.items()}


def test_several_data_are_merged(tmp_path):
    one = write_release(tmp_path / "a", "tr", {"validated": 2})
    manifest = tmp_path / "more.tsv"
    manifest.write_text("path\tsentence\nx.wav\tBir\n")
    assert counts(read_corpus([one, manifest], "tr", tmp_path)) == {"validated": 3}
    assert counts(read_corpus([manifest], "tr", tmp_path)) == {"validated": 1}


@pytest.mark.parametrize("order", [1, -1])
def test_plain_table_beside_official_splits_is_trained_on(tmp_path, order):
    one = write_release(tmp_path / "a", "tr", {"train": 2, "dev": 1, "test": 1, "validated": 4})
    manifest = tmp_path / "more.tsv"
    manifest.write_text("path\tsentence\nx.wav\tBir\n")
    corpus = read_corpus([one, manifest][::order], "tr", tmp_path)
    assert counts(corpus) == {"train": 3, "dev": 1, "test": 1, "validated": 4}
    assert "1 clips of more.tsv join train: the data has official splits" in corpus.notes
    assert "x.wav" in {clip.name for clip in make_splits(corpus.tables, ["train"], "dev", "test", str).train}


def test_data_of_which_no_table_is_used_is_told(tmp_path):
    """A user's own table in a folder has a name that only --train-splits can give."""
    one = write_release(tmp_path / "a", "tr", {"validated": 3})
    own = write_release(tmp_path / "b", "tr", {"metadata": 2}, "11.0")
    said = (
        "WARNING: no clip of cv-corpus-11.0 is used, it holds metadata: name that in `train_splits`, or give its file "
        "alone"
    )
    assert said in read_corpus([one, own], "tr", tmp_path).notes
    assert not [n for n in read_corpus([one, own], "tr", tmp_path, wanted=["metadata"]).notes if "WARNING: no" in n]


def test_validated_clips_beside_official_splits_of_other_data_are_said_to_be_unused(tmp_path):
    one = write_release(tmp_path / "a", "tr", {"train": 1, "validated": 1})
    alone = write_release(tmp_path / "b", "tr", {"validated": 3}, "11.0")
    said = (
        "cv-corpus-11.0 has no official splits, other data has: its 3 validated clips are used only where "
        "`train_splits` names validated"
    )
    assert said in read_corpus([alone, one], "tr", tmp_path).notes
    assert said not in read_corpus([alone], "tr", tmp_path).notes


def test_notes_say_where_the_clips_are_read_from(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 1})
    archive = pack(root.parent, tmp_path / "cv-tr.tar.gz")
    corpus = read_corpus([root.parent, archive], "tr", tmp_path / "cache")
    assert corpus.notes == [
        f"clips are read from {root / 'clips'}",
        f"clips are read from {archive}, its folder cv-corpus-17.0/tr/clips",
    ]


def test_what_each_of_the_data_is(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 1})
    table = tmp_path / "more.tsv"
    table.write_text("path\tsentence\nx.wav\tBir\n")
    name = "mcv-scripted-tr-v25.0.tar.gz"
    for path, kind, title, version in (
        (root, "scripted", "cv-corpus-17.0", "17.0"),
        (root.parent, "scripted", "cv-corpus-17.0", "17.0"),
        (tmp_path / "a", "scripted", "cv-corpus-17.0", "17.0"),
        (pack(root.parent, tmp_path / name), "scripted", name, "25.0"),
        (pack(root.parent, tmp_path / "mine.tar"), "scripted", "mine.tar", "17.0"),
        (SAMPLE, "scripted", "tr", ""),
    ):
        corpus = read_corpus([path, table], "tr", tmp_path / "cache")
        assert corpus.releases == [Release(kind, title, version, "tr"), Release("table", "more.tsv")]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.tsv").write_text("path\tsentence\nx.wav\tBir\n")
    assert read_corpus([tmp_path / "own"], "tr", tmp_path).releases == [Release("table", "own", "", "tr")]


def test_several_releases_under_one_folder_are_refused(tmp_path):
    data = tmp_path / "data"
    new = write_release(data, "tr", {"train": 2})
    (data / "latest").symlink_to(new.parent)
    assert counts(read_corpus([data], "tr", tmp_path)) == {"train": 2}, "a link to a release is no second one"
    write_release(data, "tr", {"train": 3}, "11.0")
    with pytest.raises(InputError, match=r"one release of tr, it holds cv-corpus-11\.0/tr, cv-corpus-17\.0/tr"):
        read_corpus([data], "tr", tmp_path)
    archive = pack(data, tmp_path / "both.tar.gz")
    with pytest.raises(InputError, match=r"it holds data/cv-corpus-11\.0/tr, data/cv-corpus-17\.0/tr"):
        read_corpus([archive], "tr", tmp_path / "cache")
    assert counts(read_corpus([new], "tr", tmp_path)) == {"train": 2}


def test_unrelated_tables_are_left_alone(tmp_path):
    root = write_release(tmp_path / "data", "tr", {"train": 2})
    (root / "reported.tsv").write_text("sentence\tsentence_id\tlocale\treason\na\tb\ttr\tc\n")
    wanted = read_corpus([root], "tr", tmp_path)
    (root / "notes.tsv").write_text("speaker\tremark\ns0\tloud\n")
    (root / "._train.tsv").write_bytes(b"\0\5\x16\7\xff")
    (root.parent / "languages.tsv").write_text("code\tname\ntr\tTurkish\n")
    for path in (root, root.parent, pack(root.parent, tmp_path / "tr.tar.gz")):
        corpus = read_corpus([path], "tr", tmp_path / "cache")
        assert counts(corpus) == {"train": 2}
        assert corpus.skipped == []
    again = read_corpus([root], "tr", tmp_path)
    assert again.tables["train"][0].source.fingerprint == wanted.tables["train"][0].source.fingerprint
    (root / "mine.tsv").write_text("path\tsentence\tlocale\ncommon_voice_tr_0.mp3\tBir\ttr\n")
    assert counts(read_corpus([root], "tr", tmp_path)) == {"mine": 1, "train": 2}


@pytest.mark.parametrize("name", ["train", "dev", "test", "validated", "other", "invalidated"])
def test_official_table_without_a_column_is_refused(tmp_path, name):
    root = write_release(tmp_path / "data", "tr", {"train": 1})
    (root / f"{name}.tsv").write_text("client_id\tpath\ns\ta.mp3\n")
    for path in (root, pack(root.parent, tmp_path / "tr.tar.gz")):
        with pytest.raises(InputError, match=rf"{name}\.tsv needs .*: sentence not found"):
            read_corpus([path], "tr", tmp_path / "cache")


def test_broken_rows_are_counted_for_the_tables_of_a_run_only(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 1, "other": 1, "invalidated": 1})
    for name in ("train", "other", "invalidated"):
        with open(root / f"{name}.tsv", "a", encoding="utf-8") as table:
            table.write("\t" * 40 + "\n" + "x\t" * 40 + "\n")
    assert [(s.name, s.split) for s in read_corpus([root], "tr", tmp_path).skipped] == [("train.tsv:4", "train")]


@pytest.mark.parametrize("member", ["/etc/escaped.tsv", "../escaped.tsv", "cv/tr/../../../escaped.tsv"])
def test_archive_that_escapes_is_refused(tmp_path, member):
    root = write_release(tmp_path / "a", "tr", {"train": 1})
    archive = pack(root.parent, tmp_path / "evil.tar.gz", (member, b"x"))
    with pytest.raises(InputError, match="outside its own folder"):
        read_corpus([archive], "tr", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_archive_cut_short_is_refused_and_leaves_nothing(tmp_path, share):
    root = write_release(tmp_path / "a", "tr", {"train": 5})
    data = pack(root.parent, tmp_path / "whole.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut short or damaged"):
        read_corpus([cut], "tr", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def plain_tar() -> bytes:
    """Six members of 1500 bytes, each two and a half blocks after a header block."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("train.tsv", *(f"clips/{i}.mp3" for i in range(5))):
            info = tarfile.TarInfo(f"cv/tr/{name}")
            info.size = 1500
            tar.addfile(info, io.BytesIO(bytes(range(250)) * 6))
    return buffer.getvalue()


def refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut short or damaged"):
        list(archive_members(path, "reading"))
    return True


@pytest.mark.parametrize("where", [0, 1, 300, 511])
def test_archive_cut_at_a_member_header_is_refused(tmp_path, plain_tar, where):
    for member in range(1, 7):  # the seventh header is the end-of-archive block
        cut = plain_tar[: member * 2048 + where]
        assert refused(tmp_path / "a.tar", cut)
        whole = gzip.compress(plain_tar)
        packed = next(n for n in range(len(whole)) if len(unpack(whole[:n])) >= len(cut))
        assert refused(tmp_path / "a.tar.gz", whole[:packed])
    for path, data in ((tmp_path / "a.tar", plain_tar), (tmp_path / "a.tar.gz", gzip.compress(plain_tar))):
        path.write_bytes(data)
        assert len(list(archive_members(path, "reading"))) == 6


def unpack(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data)


def test_archive_with_a_flipped_byte_is_refused(tmp_path, plain_tar):
    packed = gzip.compress(plain_tar)
    for at in range(10, len(packed)):  # before: gzip's own header, which says nothing about the contents
        assert refused(tmp_path / "a.tar.gz", packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :])
    stored = gzip.compress(plain_tar, compresslevel=0)  # every byte of it unpacks; only the checksum tells
    for at in range(100, len(plain_tar), 500):
        assert refused(tmp_path / "a.tar.gz", stored[:at] + bytes([stored[at] ^ 4]) + stored[at + 1 :])
    for member in range(6):  # a plain tar has no checksum but its headers'
        at = member * 2048 + 5
        assert refused(tmp_path / "a.tar", plain_tar[:at] + b"?" + plain_tar[at + 1 :])


def test_missing_locales_name_those_there_are(tmp_path):
    root = write_release(tmp_path, "tr", {"train": 1})
    write_release(tmp_path, "de", {"train": 1}, "11.0")
    with pytest.raises(InputError, match="holds no locale fr; it holds tr"):
        read_corpus([root.parent], "fr", tmp_path)
    with pytest.raises(InputError, match="its tables say tr"):
        read_corpus([root], "fr", tmp_path)
    archive = pack(root.parent, tmp_path / "tr.tar.gz")
    with pytest.raises(InputError, match="holds no locale fr; it holds tr"):
        read_corpus([archive], "fr", tmp_path)


def test_what_is_no_data(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.mp3").write_bytes(b"")
    for path, words in ((tmp_path / "empty", "holds no .tsv"), (tmp_path / "a.mp3", "`data` takes"),
                        (tmp_path / "no", "found nothing")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            read_corpus([path], "tr", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"mle 0", b"mle 9"),
        lambda data: data.replace(b"/clips", b"/clops"),
        lambda data: b"[" * 100_000,
        lambda data: b"\xff" + data,
        lambda data: b"{}",
        lambda data: b"",
    ],
)
def test_a_damaged_copy_of_the_tables_is_made_again(tmp_path, damage):
    root = write_release(tmp_path / "a", "tr", {"train": 2, "test": 1})
    archive = pack(root.parent, tmp_path / "cv-tr.tar.gz")
    right = read_corpus([archive], "tr", tmp_path / "cache")
    (saved,) = (tmp_path / "cache").rglob("survey.json")
    whole = saved.read_bytes()
    saved.write_bytes(damage(whole))
    assert read_corpus([archive], "tr", tmp_path / "cache") == right
    assert saved.read_bytes() == whole


def headers(name: str, size: int, kind: bytes = tarfile.REGTYPE, count: int = 1) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT) * count


@pytest.mark.parametrize(
    "start",
    [
        headers("tr/validated.tsv", 1 << 30),
        headers("tr/clips/a.mp3", 1 << 30),
        headers("notes.txt", 1 << 30),
        headers("././@LongLink", 1 << 30, tarfile.GNUTYPE_LONGNAME),
        headers("PaxHeaders/x", 1 << 30, tarfile.XHDTYPE),
        b"",  # zeros where members would be
    ],
)
def test_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, start):
    """A megabyte of zeros is a thousand bytes in gzip, whose parts may follow each other."""
    bomb = tmp_path / "a.tar.gz"
    bomb.write_bytes(gzip.compress(start) + gzip.compress(bytes(1 << 20)) * 1024)
    assert bomb.stat().st_size < 1.2e6
    with pytest.raises(InputError, match="unpacks to over 50 times its size; do not trust it"):
        read_corpus([bomb], "tr", tmp_path / "cache")


def test_archive_of_empty_files_is_refused_before_they_are_a_million(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    bomb = tmp_path / "a.tar.gz"
    bomb.write_bytes(gzip.compress(headers("tr/clips/a.mp3", 0, count=10_000)))
    with pytest.raises(InputError, match="unpacks to over 50 times its size"):
        list(archive_members(bomb, "reading"))


def test_sparse_file_in_an_archive_is_refused(tmp_path):
    header = bytearray(headers("tr/validated.tsv", 0, tarfile.GNUTYPE_SPARSE))
    header[386:410] = b"%011o\0%011o\0" % (7 << 30, 0)  # the only piece stands at 7 GiB and is empty
    header[483:495] = b"%011o\0" % (7 << 30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(InputError, match=r"holds 'tr/validated\.tsv' as a sparse file; pack it without --sparse"):
        read_corpus([tmp_path / "a.tar"], "tr", tmp_path / "cache")


def test_a_size_beyond_any_file_is_damage(tmp_path):
    """tarfile would go to the end of an exabyte block by block."""
    (tmp_path / "a.tar").write_bytes(headers("tr/x", 1 << 60, b"Z") + headers("tr/train.tsv", 0) + bytes(1024))
    with pytest.raises(InputError, match=r"is cut short or damaged \(.*\); download it again"):
        read_corpus([tmp_path / "a.tar"], "tr", tmp_path / "cache")


def test_a_header_that_makes_no_sense_is_damage(tmp_path):
    member = tarfile.TarInfo("tr/train.tsv")
    member.pax_headers = {"GNU.sparse.map": "x"}
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match=r"is cut short or damaged \(unreadable member header\); download it again"):
        read_corpus([tmp_path / "a.tar"], "tr", tmp_path / "cache")


def test_names_that_are_no_text_are_left_out(tmp_path):
    """No table can name them."""
    root = write_release(tmp_path / "a", "tr", {"train": 2, "test": 1})
    archive = pack(root.parent, tmp_path / "tr.tar.gz", ("tr/clips/\udcff.mp3", b"1"))
    assert counts(read_corpus([archive], "tr", tmp_path / "cache")) == {"train": 2, "test": 1}
