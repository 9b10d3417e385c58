"""Releases as they are published and packed: every column set, every place a table may lie, each locale's spelling.

Run: pytest tests/data/test_layouts.py
"""

import re
import shutil

import pytest
from conftest import SHARED
from releases import COLUMNS, pack, write_release, write_sentence_tables, write_spoken_release

from w2v.data.corpus import read_corpus
from w2v.data.manifest import Release
from w2v.data.store import build_store
from w2v.errors import InputError
from w2v.text.locales import COMMON_VOICE_LOCALES, LANGUAGE_NAMES, check_locale

TABLES = {"train": 2, "dev": 1, "test": 1, "validated": 4, "other": 1, "invalidated": 1}


def counts(corpus) -> dict[str, int]:
    return {name: len(clips) for name, clips in corpus.tables.items()}


def readable(corpus, cache) -> bool:
    clips = [clip for table in corpus.tables.values() for clip in table]
    return not build_store(clips, cache, 1).skipped


@pytest.mark.parametrize("besides", ["", "path", "path client_id up_votes"])
@pytest.mark.parametrize("version", ["17.0", "25.0"])
def test_tables_of_sentences_are_no_clips(tmp_path, version, besides):
    root = write_release(tmp_path / "a", "tr", TABLES, version)
    write_sentence_tables(root, besides)
    for path in (root, root.parent, pack(root.parent, tmp_path / "mcv-scripted-tr-v25.0.tar.gz")):
        corpus = read_corpus([path], "tr", tmp_path / "cache")
        assert counts(corpus) == TABLES
        assert not corpus.skipped


@pytest.mark.parametrize("version", COLUMNS)
def test_every_column_set_packed(tmp_path, version):
    root = write_release(tmp_path / "a", "tr", TABLES, version)
    archive = pack(root.parent, tmp_path / f"1764158905630-cv-corpus-{version}-2024-03-15-tr.tar.gz")
    corpus = read_corpus([archive], "tr", tmp_path / "cache")
    assert counts(corpus) == TABLES
    assert corpus.tables["train"][0].sentence == '"Cümle 0'
    assert corpus.releases == [Release("scripted", archive.name, version, "tr")]
    assert readable(corpus, tmp_path / "cache")


def test_the_name_of_an_archive_tells_its_release_where_nothing_in_it_does(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 1})
    name = "1764158905630-cv-corpus-24.0-2025-12-05-tr.tar.gz"
    corpus = read_corpus([pack(root, tmp_path / name, arcname="")], "tr", tmp_path / "cache")
    assert corpus.releases == [Release("scripted", name, "24.0", "tr")]


def test_lengths_are_kept_with_an_archives_tables_only_where_no_table_states_them(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 2})
    for stated in (False, True):
        if stated:
            (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_tr_0.mp3\t4321\n")
        archive = pack(root.parent, tmp_path / f"{stated}.tar.gz")
        clips = read_corpus([archive], "tr", tmp_path / str(stated)).tables["train"]
        (index,) = (tmp_path / str(stated)).rglob("survey.json")
        assert ('common_voice_tr_1.mp3":' in index.read_text()) is not stated
        assert (clips[0].seconds == 4.321, clips[1].seconds is None) == (stated, stated)


@pytest.mark.parametrize(
    ("arcname", "moved"),
    [("tr", ""), ("", ""), ("mcv-tr-v25.0", ""), ("anything", ""), ("tr", "beside"), ("tr", "top"), ("", "beside")],
)
def test_archives_packed_in_other_ways(tmp_path, arcname, moved):
    """LANG at the top, no LANG at all, the clips beside the tables or in a folder of their own."""
    tables = {name: count for name, count in TABLES.items() if name != "other"}
    root = write_release(tmp_path / "a", "tr", tables)
    packed = root
    if moved == "beside":
        for clip in (root / "clips").iterdir():
            shutil.move(clip, root)
        (root / "clips").rmdir()
    elif moved == "top":
        packed = root.parent
        shutil.move(root / "clips", packed / "clips")
        arcname = ""
    corpus = read_corpus([pack(packed, tmp_path / "some.tar.gz", arcname=arcname)], "tr", tmp_path / "cache")
    assert counts(corpus) == tables
    assert readable(corpus, tmp_path / "cache")


def test_a_folder_of_another_name_counts_only_where_it_is_clear(tmp_path):
    root = write_release(tmp_path / "a", "tr", {"train": 2})
    unpacked = tmp_path / "b" / "release"
    unpacked.parent.mkdir()
    shutil.copytree(root, unpacked)
    assert counts(read_corpus([tmp_path / "b"], "tr", tmp_path / "cache")) == {"train": 2}
    for path in (tmp_path / "b", pack(unpacked, tmp_path / "one.tar.gz")):
        with pytest.raises(InputError, match="holds no locale fr; it holds release"):
            read_corpus([path], "fr", tmp_path / "cache")
    shutil.copytree(root, tmp_path / "b" / "another")
    for path in (tmp_path / "b", pack(tmp_path / "b", tmp_path / "two.tar.gz")):
        with pytest.raises(InputError, match="holds no locale tr; it holds another, release"):
            read_corpus([path], "tr", tmp_path / "cache")


@pytest.mark.parametrize("lang", ["qqz", "xx-nova", "zh-YUE"])
def test_a_locale_that_no_list_has_is_believed(tmp_path, lang):
    root = write_release(tmp_path / "a", lang, {"train": 1})
    for path in (root.parent, pack(root.parent, tmp_path / "new.tar.gz")):
        corpus = read_corpus([path], lang, tmp_path / "cache")
        assert counts(corpus) == {"train": 1}
        assert not any("WARNING" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("lang", "words"), [("sv", "did you mean sv-SE?"), ("xx-nova", "is it spelt right?"), ("tr", None)]
)
def test_a_locale_that_neither_the_list_nor_the_data_has_is_asked_about(tmp_path, lang, words):
    (tmp_path / "m.tsv").write_text("path\tsentence\na.wav\tBir\n")
    warnings = [note for note in read_corpus([tmp_path / "m.tsv"], lang, tmp_path).notes if "WARNING" in note]
    assert [warning.endswith(words) for warning in warnings] == ([True] if words else [])
    (tmp_path / "m.tsv").rename(tmp_path / "train.tsv")
    again = [note for note in read_corpus([tmp_path], lang, tmp_path).notes if "WARNING" in note]
    assert again == warnings, "a folder of one's own does not say its locale"


@pytest.mark.parametrize(("lang", "words"), [("tukish", "did you mean tr?"), ("esparanto", "eo"), ("?", "archive")])
def test_a_name_in_place_of_a_locale(lang, words):
    with pytest.raises(InputError, match=re.escape(words)):
        check_locale(lang)
    assert set(LANGUAGE_NAMES.values()) <= COMMON_VOICE_LOCALES


def test_a_locale_spelt_otherwise_is_named(tmp_path):
    root = write_release(tmp_path / "a", "sv-SE", {"train": 1})
    spoken = write_spoken_release(tmp_path / "b", "el-CY", [{"transcription": "Ena", "split": "train"}])
    for lang, path, meant in (
        ("sv", root, "its tables say sv-SE; did you mean `lang` sv-SE\\?"),
        ("sv", root.parent, "it holds sv-SE; did you mean `lang` sv-SE\\?"),
        ("sv-se", pack(root.parent, tmp_path / "sv.tar.gz"), "it holds sv-SE; did you mean `lang` sv-SE\\?"),
        ("de", root, "its tables say sv-SE$"),
        ("el", spoken, "it holds el-CY; did you mean `lang` el-CY\\?"),
        ("el", tmp_path / "b", "it holds el-CY; did you mean `lang` el-CY\\?"),
        ("el", pack(spoken, tmp_path / "el.tar.gz"), "it holds el-CY; did you mean `lang` el-CY\\?"),
    ):
        with pytest.raises(InputError, match=meant):
            read_corpus([path], lang, tmp_path / "cache")


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
@pytest.mark.parametrize("name", ["cv6/tr", "cv6/sv-SE", "cv6/zh-CN", "cv_twi"])
def test_real_tables(tmp_path, name):
    lang = "tw" if name == "cv_twi" else name.split("/")[1]
    corpus = read_corpus([SHARED / "data" / name], lang, tmp_path)
    assert sum(counts(corpus).values()) > 0
    assert [release.kind for release in corpus.releases] == ["scripted"]
