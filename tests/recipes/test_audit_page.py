"""cv_prepare --html: the page is whole, holds what one must see and hear, and nothing of the data breaks it.

Run: pytest tests/recipes/test_audit_page.py
"""

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from conftest import SAMPLE

from recipes import audit_page, cv_prepare
from w2v.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")
VOID = {"meta"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes; fails where tags do not close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def write_page(folder, *flags: str) -> str:
    cv_prepare.main(["--html", str(folder / "page.html"), *flags])
    return (folder / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return write_page(tmp_path_factory.mktemp("page"), "--lang", "tr")


def test_ten_drawn_clips_and_the_suspects_can_be_heard(text):
    players = [player for player in Page(text).all("audio") if "controls" in player and player["aria-label"]]
    assert len(players) == 10 + 5 + 5
    assert len(text) < 1_000_000
    for player in players:
        kind, data = player["src"].split(";base64,")
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert (kind, rate) == ("data:audio/mpeg", 16_000)
        assert np.abs(samples).max() > 0.05
        assert 1 < len(samples) / rate < 10


def test_the_draw_is_the_seeds(text, tmp_path):
    assert write_page(tmp_path, "--lang", "tr") == text
    assert write_page(tmp_path, "--lang", "tr", "--seed", "43") != text


def test_what_it_says_of_the_sample(text):
    words = "".join(Page(text).texts)
    for expected in (
        "tr: 100 clips of Common Voice 6.1",
        "None: the numbers are as they should be.",  # no proposals
        "median 3.7, from 1.8 to 7.18 seconds",
        "Bu, toplumumuzdaki durumun bir yansıması idi.",
        ". 89",  # removed characters
        "removed characters: . (89)",  # the decisions
    ):
        assert expected in words, expected
    assert "bu<del>,</del> toplumumuzdaki durumun bir yansıması idi<del>.</del>" in text
    for row in (["train", "80", "0.08", "54", "6 %"], ["test", "10", "0.01", "5", "60 %"]):
        assert "".join(f"<td>{c}</td>" if i == 0 else f'<td class="n">{c}</td>' for i, c in enumerate(row)) in text


def test_suspects_are_the_fastest_and_the_slowest(text):
    suspects = text.split("Least audio for their text")[1].split("<h2>")[0]
    rates = [float(rate) for rate in re.findall(r"([\d.]+) characters per second", suspects)]
    assert rates[:5] == sorted(rates[:5], reverse=True)
    assert rates[5:] == sorted(rates[5:])
    assert rates[4] > 2 * rates[-1]


def test_one_file_for_any_screen(text):
    page = Page(text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.found}
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme:dark" in text
    assert {link["href"][1:] for link in page.all("a")} == {section["id"] for section in page.all("section")}
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.all("svg"))


def test_nothing_of_the_data_is_markup(tmp_path):
    """Sentences, file names, the language: all are texts of strangers."""
    files = sorted((SAMPLE / "clips").glob("*.mp3"))[:6]
    rows = []
    for i, file in enumerate(files):
        shutil.copy(file, tmp_path / f"<b>&quot;'{i}.mp3")
        rows.append(f"<b>&quot;'{i}.mp3\tBir</p><script>alert({i})</script> & \u200bkalem\u0301\n")
    rows.append("<i>gone.mp3\tBir\n")
    (tmp_path / "<u>.tsv").write_text("path\tsentence\n" + "".join(rows), encoding="utf-8")
    flags = ["--dev-split", "none", "--test-split", "none", "--train-splits", "validated", "--model", "tiny"]
    text = write_page(tmp_path, "--lang", "xx", "--data", str(tmp_path / "<u>.tsv"), *flags)
    page = Page(text)
    assert not {"script", "i", "u"} & {tag for tag, _ in page.found}
    assert any("<i>gone.mp3" in data for data in page.texts), "skipped clips are named"
    assert page.all("audio")[0]["aria-label"].startswith("<b>&quot;'")


def test_a_removed_character_shows_where_it_stood():
    assert audit_page.with_removed("a-b, c!", "ab c") == "a<del>-</del>b<del>,</del> c<del>!</del>"
    assert audit_page.with_removed("a\u200bb", "ab") == "a<del>U+200B ZERO WIDTH SPACE</del>b"
    assert audit_page.with_removed("ab, " * 300, "ab " * 300) == "ab " * 300  # minutes long: not compared
    assert audit_page.with_removed("a<b", "a b") == "a<del>&lt;</del> b"
    assert audit_page.with_removed("e\u0331", "e") == "e<del>\u25cc\u0331</del>"


def test_without_an_mp3_encoder(monkeypatch):
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": ""})
    samples = np.arange(-500, 500, dtype=np.int16)
    kind, data = audit_page.data_url(samples).split(";base64,")
    assert kind == "data:audio/wav"
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="int16")[0], samples)


@pytest.mark.parametrize(
    ("top", "expected"), [(7.2, [0, 2, 4, 6]), (98, [0, 20, 40, 60, 80]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1])]
)
def test_ticks_are_round(top, expected):
    assert audit_page.ticks(top, 5) == expected


@pytest.mark.parametrize("values", [[3.0], [3.0] * 50, [0.01, 500.0], [*np.linspace(0.1, 1, 99), 1e4]])
def test_a_histogram_counts_every_value(values):
    figure = audit_page.histogram("Length", "seconds", values)
    counts = [int(n) for n in re.findall(r": (\d+)</title>", figure)]
    assert sum(counts) == len(values)
    assert len(re.findall("<rect", figure)) <= 45
    numbers = [float(n) for n in re.findall(r'(?:x|y|width|height)="(-?[\d.]+)"', figure)]
    assert min(numbers) >= 0 and max(numbers) <= audit_page.WIDTH
    assert "nan" not in figure


def test_a_folder_is_no_page(tmp_path):
    with pytest.raises(InputError, match="--html must name a file"):
        cv_prepare.main(["--lang", "tr", "--html", str(tmp_path)])
