"""Spontaneous Speech: each rule of the module's docstring.

Run: pytest tests/data/test_spontaneous.py
"""

import random

import pytest
from releases import SPOKEN_COLUMNS, pack, write_release, write_spoken_release

from w2v.data.corpus import read_corpus
from w2v.data.manifest import Release
from w2v.data.splits import make_splits
from w2v.data.store import build_store
from w2v.errors import InputError

ROWS = [
    {"split": "train", "transcription": "Merhaba [disfluency] dünya", "duration_ms": "2500"},
    {"split": "dev", "transcription": "Bir[noise]iki"},
    {"split": "test", "transcription": "<disfluency>Üç, [noise] dört [disfluency]"},
    {"split": "unassigned", "transcription": "Beş"},
    {"split": "unassigned", "transcription": " "},
    {"split": "\x1b[2Jnew", "transcription": "Altı"},
    {"split": "train", "transcription": "[noise] [laugh]"},
    {"split": "train", "transcription": ""},
]


def name(number: int) -> str:
    return f"spontaneous-speech-tr-{number}.mp3"


def texts(corpus) -> dict[str, list[str]]:
    return {table: [clip.sentence for clip in clips] for table, clips in corpus.tables.items()}


@pytest.mark.parametrize("version", SPOKEN_COLUMNS)
def test_folder_and_archive_give_the_same_tables_and_audio(tmp_path, version):
    root = write_spoken_release(tmp_path / "a", "tr", ROWS, version)
    archives = [
        pack(root, tmp_path / f"1764158905630-{root.name}.tar.gz"),
        pack(root, tmp_path / f"mcv-spontaneous-tr-v{version}.tar.gz"),
        pack(root, tmp_path / "flat.tar.gz", arcname=""),
    ]
    for path in (root, root.parent, *archives):
        corpus = read_corpus([path], "tr", tmp_path / "cache")
        assert texts(corpus) == {
            "train": ["Merhaba dünya", ""],
            "dev": ["Bir iki"],
            "test": ["Üç, dört"],
            "unassigned": ["Beş", "Altı"],
        }
        assert corpus.tables["train"][0].speaker == "p0"
        assert corpus.tables["train"][0].seconds == 2.5
        title = path.name if path in archives else root.name
        assert corpus.releases == [Release("spontaneous", title, "" if title == "flat.tar.gz" else version, "tr")]
        clips = [clip for table in corpus.tables.values() for clip in table if clip.seconds is None]
        assert not build_store(clips, tmp_path / "cache", 1).skipped
    with pytest.raises(InputError, match="holds no locale de; it holds tr"):
        read_corpus([root], "de", tmp_path)


def test_unassigned_rows_are_used_only_where_they_are_named(tmp_path):
    corpus = read_corpus([write_spoken_release(tmp_path, "tr", ROWS)], "tr", tmp_path)
    usual = make_splits(corpus.tables, ["train"], "dev", "test", str.lower)
    assert {clip.name for clip in usual.train} == {name(0), name(6)}
    named = make_splits(corpus.tables, ["train", "unassigned"], "dev", "test", str.lower)
    assert {clip.name for clip in named.train} == {name(0), name(6), name(3), name(5)}
    assert [(skip.name, skip.split, skip.reason) for skip in corpus.skipped] == [
        (name(4), "unassigned", "without a transcription"),
        (name(7), "train", "without a transcription"),
    ]
    assert corpus.notes[1:] == [
        "7 bracketed tags are removed from the transcriptions: [noise] 3, [disfluency] 2, <disfluency> 1, [laugh] 1",
        "2 clips have a transcription that was not validated; they are used only where `train_splits` names unassigned",
        "2 clips have no transcription and are skipped",
    ]


def test_clips_whose_text_is_in_doubt_are_left_out_of_training_only(tmp_path):
    tags = ["speech-rate", "long-audio|transcription-length", "dataset-language-audio-mismatch", "short-audio", ""]
    rows = [
        {"split": split, "transcription": f"Bir {split}", "quality_tags": tag}
        for split in ("train", "dev", "test", "unassigned")
        for tag in tags
    ]
    corpus = read_corpus([write_spoken_release(tmp_path, "tr", rows)], "tr", tmp_path)
    assert {table: len(clips) for table, clips in corpus.tables.items()} == {
        "train": 2, "dev": 5, "test": 5, "unassigned": 2,
    }  # fmt: skip
    assert [(skip.name, skip.split) for skip in corpus.skipped] == [
        (name(n), split) for n, split in [(0, "train"), (1, "train"), (2, "train")]
    ] + [(name(n), "unassigned") for n in (15, 16, 17)]
    assert corpus.skipped[1].reason == "quality tag transcription-length: its text may not be what is said"
    (doubt,) = [note for note in corpus.notes if note.startswith("quality tags")]
    assert (
        "6 clips left out of training (speech-rate 2, transcription-length 2, dataset-language-audio-mismatch 2)"
        in doubt
    )
    assert "6 clips with such tags stay in dev and test" in doubt
    assert "other quality tags, only counted: long-audio 4, short-audio 4" in corpus.notes


def test_reported_audios_are_skipped_without_the_reporters_words(tmp_path):
    root = write_spoken_release(tmp_path, "tr", ROWS[:3], reported=["spontaneous-speech-tr-90.mp3", name(0)])
    corpus = read_corpus([root], "tr", tmp_path)
    assert "train" not in corpus.tables, "a reported clip is left out though the main table lists it"
    assert [(skip.name, skip.reason) for skip in corpus.skipped] == [
        ("spontaneous-speech-tr-90.mp3", "reported: other"),
        (name(0), "reported: other"),
    ]
    assert "2 reported clips are skipped" in corpus.notes
    (root / "ss-reported-audios-tr.tsv").write_text("")
    assert read_corpus([root], "tr", tmp_path).tables["train"]
    (root / "ss-reported-audios-tr.tsv").unlink()
    assert read_corpus([root], "tr", tmp_path).tables["train"]


def test_rows_that_name_no_file(tmp_path):
    rows = [{"audio_file": "", "split": "train", "transcription": "x"}, {"split": "train", "transcription": "y"}]
    corpus = read_corpus([write_spoken_release(tmp_path, "tr", rows)], "tr", tmp_path)
    assert [clip.sentence for clip in corpus.tables["train"]] == ["y"]
    assert [skip.reason for skip in corpus.skipped] == ["no file name in its audio_file"]


def test_a_table_without_transcriptions_is_refused(tmp_path):
    root = write_spoken_release(tmp_path, "tr", ROWS)
    (root / "ss-corpus-tr.tsv").write_text("audio_file\tsplit\na.mp3\ttrain\n")
    with pytest.raises(InputError, match=r"ss-corpus-tr\.tsv needs .*: transcription not found"):
        read_corpus([root], "tr", tmp_path)


def test_damaged_tables_give_clips_or_one_clear_line(tmp_path):
    root = write_spoken_release(tmp_path, "tr", ROWS, reported=[name(90)])
    rng = random.Random(0)
    for file in (root / "ss-corpus-tr.tsv", root / "ss-reported-audios-tr.tsv"):
        whole = file.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data))
                data[at : at + rng.choice((0, 1, 30))] = rng.choice(
                    (b"\t", b"\n", b'"', b"\0", b"\xff", b"[", b"\x1b", b"")
                )
            file.write_bytes(data)
            try:
                corpus = read_corpus([root], "tr", tmp_path)
            except InputError as error:
                assert "\n" not in str(error)
            else:
                said = [*corpus.notes, *(f"{skip.split} {skip.reason}" for skip in corpus.skipped)]
                assert all(line.isprintable() for line in said), said
        file.write_bytes(whole)


def test_scripted_and_spontaneous_together(tmp_path):
    spoken = write_spoken_release(tmp_path / "a", "tr", ROWS)
    scripted = write_release(tmp_path / "b", "tr", {"train": 2, "dev": 1, "test": 1})
    corpus = read_corpus([scripted, pack(spoken, tmp_path / "s.tar.gz")], "tr", tmp_path / "cache")
    assert {table: len(clips) for table, clips in corpus.tables.items()} == {
        "train": 4, "dev": 2, "test": 2, "unassigned": 2,
    }  # fmt: skip
    assert [release.kind for release in corpus.releases] == ["scripted", "spontaneous"]
    both = tmp_path / "both"
    both.mkdir()
    for folder in (spoken, scripted.parent):
        folder.rename(both / folder.name)
    with pytest.raises(InputError, match=r"one release of tr, it holds cv-corpus-17\.0/tr, sps-corpus.*; give one of"):
        read_corpus([both], "tr", tmp_path / "cache")
    assert len(read_corpus(sorted(both.iterdir()), "tr", tmp_path).tables["train"]) == 4
