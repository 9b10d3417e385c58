"""report.html: what it says of a run is right, nothing from outside becomes part of it, and it stays small.

Run: pytest tests/test_report.py          (in a browser: tests/test_report_browser.py)
"""

import base64
import dataclasses
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SAMPLE
from fuzz.model_readers import RECORD

from recipes import cv_finetune, locking
from recipes import report as command
from recipes.run_folder import write_run
from w2v import report, report_compare, report_curves, report_parts
from w2v.errors import InputError
from w2v.report import Prediction, Run, SplitResult, report_html
from w2v.report_compare import comparison_html
from w2v.report_parts import Script, aligned, edit_pairs, histogram, script_of

TURKISH = Script("tr", "ltr", True)
TRAINING = [
    {"step": 50 * i, "epoch": 0, "loss": 12 / i, "lr": 1e-4 / i, "grad_norm": 1.0, "audio_s_per_s": 30.0 + i}
    for i in range(1, 21)
]
DEV = [{"step": 200 * i, "epoch": 0, "dev_wer": 1 / i, "dev_cer": 0.5 / i} for i in range(1, 6)]
BLANKS = [line | {"blank_ratio": 0.9, "frames_per_label": 3.0} for line in TRAINING]
HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)>\"'>&amp;"


def a_run(predictions=(), title: str = "run", lang: str = "tr", metrics=(*BLANKS, *DEV), **given) -> Run:
    held = {"test": [Prediction(*row) for row in predictions], "dev": []}
    rates = [SplitResult("test", 10, 0.451, 0.117)]
    values = {"story": ["It was trained."], "advice": [], "results": rates, "decisions": [], "settings": {"lr": 1e-4}}
    return Run(title=title, lang=lang, metrics=list(metrics), predictions=held, **values | given)


TEN = "bir iki üç dört beş altı yedi sekiz dokuz on"


def big_run(lang: str = "tr", words: str = TEN, count: int = 1000, seconds: int = 5) -> Run:
    """1,000 predictions of ten words, three of them wrong, with clips of noise to hear."""
    draw = random.Random(0)
    rows = []
    for i in range(count):
        said = draw.choices(words.split(), k=10)
        wrong = [word if draw.random() < 0.7 else draw.choice(["", word[1:], word + "x"]) for word in said]
        join = " " if lang != "zh-CN" else ""
        row = (f"common_voice_{lang}_{i:08}.mp3", join.join(said), join.join(filter(None, wrong)), f"s{i % 50}", 5.0)
        rows.append(row)
    noise = np.random.default_rng(0).integers(-8000, 8000, 16_000 * seconds, dtype=np.int16)
    return a_run(rows, f"{lang} run", lang, listen=lambda name: noise, decisions=["text: lower-cased"] * 20)


class Page(HTMLParser):
    """The elements of a page, each with its attributes; fails where tags do not close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open += [tag] if tag != "meta" else []

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


# ------------------------------------------------------------------------------------------------ texts


def test_edits_of_a_pair_known_by_hand():
    assert edit_pairs("bir iki üç dört beş", "bir ikki dört beş altı", by_words=True) == [
        ("equal", "bir", "bir"),
        ("substitute", "iki", "ikki"),
        ("delete", "üç", ""),
        ("equal", "dört", "dört"),
        ("equal", "beş", "beş"),
        ("insert", "", "altı"),
    ]


def test_each_edit_has_its_element_and_equal_words_are_read_once():
    text = aligned("bir iki üç dört beş", "bir ikki dört beş altı", TURKISH)
    assert text.startswith('<p class="a" lang="tr" dir="ltr">')
    assert '<span class="p"><span>bir</span><span aria-hidden="true">bir</span></span>' in text
    assert '<span class="p s"><del>iki</del><ins>ikki</ins></span>' in text
    assert '<span class="p"><del>üç</del><span></span></span>' in text
    assert '<span class="p"><span></span><ins>altı</ins></span>' in text
    for rule in ("del{[^}]*line-through", "ins{[^}]*underline", r"\.s del,\.s ins{[^}]*wavy"):  # not by colour alone
        assert re.search(rule, report_parts.STYLE)


def test_texts_without_spaces_are_compared_by_characters():
    text = aligned("今天天气很好", "今夭天气好", Script("zh-CN", "ltr", False))
    assert "<del>天</del><ins>夭</ins>" in text
    assert "<del>很</del><span></span>" in text
    assert "<span>天气</span>" in text


@pytest.mark.parametrize(
    ("lang", "text", "direction"),
    [("ar", "صباح الخير iPhone", "rtl"), ("he", "2 שלום", "rtl"), ("tr", "merhaba", "ltr"), ("ckb", "", "ltr")],
)
def test_language_and_direction(lang, text, direction):
    page = Page(report_html(a_run([("a.mp3", text, "x")], lang=lang)))
    texts = [p for p in page.all("p") if "a" in p.get("class", "").split()]
    assert len(texts) == 2  # the card, and the row of the table
    assert {(p["lang"], p["dir"]) for p in texts} == {(lang, direction)}


def test_a_language_that_is_none_is_said_to_be_unknown():
    assert script_of('"><script>', [], True).lang == "und"


@pytest.mark.parametrize("pair", [("", ""), ("", "a b"), ("a b", ""), (" ", "\t"), ("a" * 50_000, "b" * 50_000)])
def test_strange_texts_have_an_alignment(pair):
    for script in (TURKISH, Script("zh-CN", "ltr", False)):
        text = aligned(*pair, script)
        Page(text)
        assert len(text) < 100_000


# ------------------------------------------------------------------------------------------------ the page


def test_nothing_from_outside_becomes_part_of_the_page():
    rows = [(HOSTILE, HOSTILE, f"{HOSTILE} b"), ("b", f"a {HOSTILE}", HOSTILE)]
    run = a_run(rows, HOSTILE, HOSTILE, story=[HOSTILE], advice=[HOSTILE], decisions=[HOSTILE],
                settings={HOSTILE: HOSTILE}, results=[SplitResult(HOSTILE, 1, 0.5, 0.5, HOSTILE)], remarks=[HOSTILE],
                listen=lambda name: np.zeros(16_000, np.int16))  # fmt: skip
    for text in (report_html(run), comparison_html([run, a_run(rows, HOSTILE * 2, HOSTILE)])):
        page = Page(text)
        assert not page.all("script") + page.all("img")
        assert not [key for _, attributes in page.found for key in attributes if key.startswith("on")]
        assert HOSTILE in page.text


def test_the_page_asks_nobody_for_anything():
    text = report_html(big_run(count=30))
    page = Page(text)
    policy = page.found[2]
    assert policy[1]["http-equiv"] == "Content-Security-Policy"
    assert policy[1]["content"].startswith("default-src 'none';")
    assert "script-src" not in policy[1]["content"]
    assert "://" not in text
    assert "@import" not in text
    addresses = [value for _, held in page.found for key, value in held.items() if key in ("src", "href", "xlink:href")]
    assert addresses
    assert all(address.startswith(("#", "data:audio/")) for address in addresses)
    assert not [tag for tag, _ in page.found if tag in ("script", "link", "iframe", "object", "form")]


def test_every_name_on_the_page_is_there_once_and_what_is_pointed_at_exists():
    page = Page(text := report_html(big_run(count=30)))
    names = [held["id"] for _, held in page.found if "id" in held]
    assert len(set(names)) == len(names)
    pointed = re.findall(r"url\(#([^)]+)\)", text)
    pointed += [value[1:] for _, held in page.found for key, value in held.items() if key.endswith("href")]
    assert set(pointed) <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lang", "words"),
    [("tr", "bir iki üç dört"), ("ar", "صباح الخير يا عالم"), ("zh-CN", "今天 天气 很好 你好"), ("tr", "x" * 400)],
)
def test_a_page_of_1000_predictions_with_audio_stays_under_3_mb(lang, words):
    text = report_html(big_run(lang, words, seconds=60))  # of which 20 are played
    assert len(text.encode()) < 3_000_000
    page = Page(text)
    assert 5 <= len(page.all("audio")) <= report.WORST_CLIPS
    assert len(page.all("article")) == report.WORST_CLIPS


def test_all_predictions_are_on_the_page_and_it_says_so_where_not():
    assert "All 1,000, worst first." in report_html(dataclasses.replace(big_run(), listen=None))
    text = report_html(dataclasses.replace(big_run(count=1200), listen=None))
    assert "The 1,000 worst of 1,200; predictions-test.tsv has all." in text


def test_the_worst_clips_come_first_and_their_players_play_them():
    heard = {"good": np.zeros(8000, np.int16), "bad": (8000 * np.sin(np.arange(16_000))).astype(np.int16)}
    run = a_run([("good", "bir iki", "bir ikj"), ("right", "a", "a"), ("bad", "bir iki", "")], listen=heard.get)
    page = Page(text := report_html(run))
    assert [player["aria-label"] for player in page.all("audio")] == ["bad", "good"]
    assert len(page.all("article")) == 2
    kind, data = page.all("audio")[0]["src"].split(";base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert (kind, rate) == ("data:audio/mpeg", 16_000)
    assert len(samples) / rate == pytest.approx(1, abs=0.1)
    assert np.abs(samples).max() > 0.1
    assert "CER 100\xa0%; errors: 2 in 2 words" in text


def test_confusions_are_counted():
    rows = [("a", "de da ev", "da da"), ("b", "de da", "da da ev"), ("c", "de", "da")]
    text = report_html(a_run(rows))
    bdi = '<bdi lang="tr" dir="ltr">'
    assert f'<tr><td>{bdi}de</bdi></td><td>{bdi}da</bdi></td><td class="n">3</td></tr>' in text
    assert f'<tr><td>{bdi}e</bdi></td><td>{bdi}a</bdi></td><td class="n">3</td></tr>' in text
    assert f'<tr><td>{bdi}ev</bdi></td><td class="n">1</td></tr>' in text


def test_the_rate_that_counts_comes_first_and_has_its_interval():
    rows = [(f"{i}", "bir iki", "bir iki" if i % 3 else "bir", f"speaker {i % 4}") for i in range(12)]
    page = Page(report_html(a_run(rows)))
    assert re.search(r"WER\s*CER\s*test\s*10\s*45.1\s% \([\d.]+\sto\s[\d.]+\)11.7\s%", page.text)
    assert "by a bootstrap over speakers" in page.text
    assert re.search(r"CER\s*WER\s*test", Page(report_html(a_run(rows, lang="zh-CN"))).text)
    alone = [row[:3] for row in rows]
    assert "by a bootstrap over clips" in report_html(a_run(alone))


def test_a_split_that_was_measured_in_part_says_so():
    results = [SplitResult("train", 500, 0.1, 0.05, "drawn at random of 45,000")]
    assert "drawn at random of 45,000" in report_html(a_run(results=results))


def test_histograms_count_every_clip():
    text = histogram("CER of clips", "%", [0.0, 4.0, 5.0, 99.0, 100.0, 340.0], top=100.0)
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"/>', text)]
    assert [round(2 * height / max(heights)) for height in heights] == [2, 1, 1, 2]
    assert "the last bar holds all of 100 and more (2)" in text
    assert histogram("x", "s", []) == ""
    for values in ([0.0], [0.3], [17.0], [0.0] * 9):
        assert "<rect" in histogram("x", "s", values)


# ------------------------------------------------------------------------------------------------ curves


def figures(text: str) -> dict[str, str]:
    """The curves of a page, by caption."""
    found = re.findall(r"<figure><figcaption>(.*?)</figcaption>(.*?)</figure>", text, re.DOTALL)
    return {caption: rest for caption, rest in found if 'class="bars"' not in rest}


def test_curves_have_round_ticks_and_the_pages_colours():
    pytest.importorskip("matplotlib")
    drawn = figures(report_html(a_run()))
    assert list(drawn) == [
        "Training loss",
        "Error rates on dev, %",
        "Learning rate",
        "Seconds of speech trained on per second",
        "Frames whose likeliest token is the blank, %",
    ]
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawn["Error rates on dev, %"])
    assert labels == ["0", "250", "500", "750", "1,000", "step", "0", "25", "50", "75", "100"]
    for svg in drawn.values():
        assert svg.count("<svg") >= 1
        assert not re.search(r"#[0-9a-f]{6}\b", svg)
        assert "currentColor" in svg
    assert 'stroke-dasharray="10 4"' in drawn["Error rates on dev, %"]  # CER, not by colour alone


def test_curves_are_said_in_words():
    rates = figures(report_html(a_run()))["Error rates on dev, %"]
    assert "WER: 100 % at step 200, 20 % at step 1,000; lowest 20 % at step 1,000, highest 100 % at step 200." in rates


def test_what_a_family_does_not_log_is_not_drawn():
    drawn = figures(report_html(a_run(metrics=[*TRAINING, *DEV])))
    assert "Frames whose likeliest token is the blank, %" not in drawn
    assert len(drawn) == 4
    assert not figures(report_html(a_run(metrics=[])))


def test_without_matplotlib_the_rest_stands(monkeypatch):
    for module in (report, report_compare, report_curves):
        monkeypatch.setattr(module, "has_matplotlib", lambda: False)
    run = a_run([("a", "bir", "iki")])
    text = report_html(run)
    assert "w2v[report]" in text
    assert "lowest 20 % at step 1,000" in text
    assert text.count("<svg") == 2  # the histograms
    assert "w2v[report]" in comparison_html([run, run])
    assert "w2v[report]" not in report_html(a_run(metrics=[]))


STRANGE = [0, -1, -5.5, 1e-300, 1e300, -1e300, float("inf"), float("-inf"), float("nan"), None, 2**53, True, "3", [1]]


@pytest.mark.filterwarnings("error")
def test_no_number_of_a_log_ends_the_page():
    pytest.importorskip("matplotlib")
    keys = ("step", "loss", "lr", "audio_s_per_s", "blank_ratio", "dev_wer", "dev_cer")
    draw = random.Random(0)
    for _ in range(40):
        metrics = [{key: draw.choice([*STRANGE, i, 0.5]) for key in keys} for i in range(draw.randrange(6))]
        Page(report_html(a_run(metrics=metrics)))


def test_long_logs_are_thinned():
    pytest.importorskip("matplotlib")
    metrics = [{"step": i, "loss": 1 + (i % 7)} for i in range(1, 100_001)]
    assert len(report_html(a_run(metrics=metrics))) < 100_000


# ------------------------------------------------------------------------------------------------ comparison

ROWS = [(f"{i}", "bir iki üç dört", "bir iki", f"speaker {i // 2}") for i in range(20)]
BETTER = [(name, reference, "bir iki üç", speaker) for name, reference, _, speaker in ROWS]


def test_a_better_run_is_called_better():
    text = Page(comparison_html([a_run(ROWS, "old"), a_run(BETTER, "new")])).text
    assert "B is better than A: -25.0 points of WER, p = 0.002." in text
    assert re.search("A: old\\s*20\\s*50.0\\s%.*B: new\\s*20\\s*25.0\\s%", text)
    assert "Paired bootstrap over 10 speakers" in text
    assert "20 clips became better, 0 worse, 0 have as many errors." in text
    back = Page(comparison_html([a_run(BETTER, "new"), a_run(ROWS, "old")])).text
    assert "B is worse than A: +25.0 points of WER, p = 0.002." in back


def test_equal_runs_are_not_called_different():
    text = comparison_html([a_run(ROWS, "one"), a_run(ROWS, "other")])
    assert "No difference between B and A is shown: +0.0 points of WER, p = 1.000" in text


def test_clips_are_compared_where_the_references_are_the_same():
    changed = [*BETTER[:5], *((name, "bir iki", "bir iki", speaker) for name, _, _, speaker in BETTER[5:])]
    text = comparison_html([a_run(ROWS), a_run(changed)])
    assert "5 clips of test are in all 2 runs with the same reference; 30 others are left out." in text


def test_a_name_that_two_clips_have_is_not_compared():
    twice = [*ROWS, (ROWS[0][0], "beş altı", "beş", "speaker 9")]
    assert "19 clips of test are in all 2 runs" in comparison_html([a_run(twice), a_run(ROWS)])


def test_without_speakers_each_clip_is_its_own_group_and_one_run_that_knows_them_is_enough():
    unknown = [row[:3] for row in BETTER]
    text = comparison_html([a_run([row[:3] for row in ROWS]), a_run(unknown)])
    assert "over 20 clips, whose speakers are not known" in text
    assert "over 10 speakers" in comparison_html([a_run(ROWS), a_run(unknown)])


def test_one_speaker_shows_nothing_for_sure():
    one, other = ([(*row[:3], "alone") for row in rows] for rows in (ROWS, BETTER))
    assert "how sure that is takes clips of two speakers" in comparison_html([a_run(one), a_run(other)])


def test_settings_that_differ_are_listed():
    text = comparison_html([a_run(ROWS, settings={"lr": 1, "seed": 2}), a_run(ROWS, settings={"lr": 3, "seed": 2})])
    assert '<tr><td>lr</td><td class="long">1</td><td class="long">3</td></tr>' in text
    assert "<td>seed</td>" not in text


def test_runs_without_common_clips_are_refused():
    with pytest.raises(InputError, match="compared runs must be measured on the same clips"):
        comparison_html([a_run(ROWS), a_run([("other", "bir", "bir")])])


# ------------------------------------------------------------------------------------------------ the command

NAMES = sorted(file.name for file in (SAMPLE / "clips").iterdir())[:3]
RESULT = {"wer": 0.5, "cer": 0.25, "dev_wer": None, "train_wer": 0.1, "train_cer": 0.05, "steps": 3, "test_clips": 3,
          "train_clips_evaluated": 500, "exported_step": 3, "symptoms": ["only blanks: try another --lr"]}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch, decoded) -> Path:
    """A run that was trained on the sample and is over."""
    monkeypatch.setenv("W2V_CACHE", str(decoded))
    monkeypatch.delenv("COMMON_VOICE_ROOT", raising=False)
    run = tmp_path / "my run"
    run.mkdir()
    data = {"train": {"clips": 45_000, "hours": 51.2}, "test": {"clips": 3, "hours": 0.1}}
    (run / "run.json").write_text(json.dumps(RECORD | {"result": RESULT, "data": data}))
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*BLANKS, *DEV]))
    rows = "".join(f"{name}\tbir iki\tbir\n" for name in NAMES)
    (run / "predictions-test.tsv").write_text("clip\treference\tprediction\n" + rows, encoding="utf-8")
    return run


def test_the_page_is_written_anew_from_the_folder(folder, capsys):
    summary = command.main([str(folder)])
    page = Page(text := (folder / "report.html").read_text(encoding="utf-8"))
    assert summary == {"out": str(folder / "report.html"), "runs": [str(folder)]}
    assert page.text.count("my run: random:tiny on tr") == 2
    assert "random:tiny was trained on 45,000 clips, 51.20 hours of tr: 3 of" in page.text
    assert (
        "On the 3 test clips the errors are 50.0\xa0% of the words (WER) and 25.0\xa0% of the characters" in page.text
    )
    assert "Only blanks: try another --lr." in page.text
    assert "drawn at random of 45,000" in page.text
    assert [player["aria-label"] for player in page.all("audio")] == NAMES
    assert "Length of clips" in page.text
    assert command.main([str(folder)]) == summary
    assert (folder / "report.html").read_text(encoding="utf-8") == text


def test_event_files_hold_the_log(folder, monkeypatch, capsys):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # again, as while a run goes on
        command.main([str(folder), "--tensorboard"])
    events = reader.EventAccumulator(str(folder / "tensorboard")).Reload()
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "dev_cer"):
        wanted = {line["step"]: line[name] for line in log if line.get(name) is not None}
        assert wanted and {event.step: event.value for event in events.Scalars(name)} == pytest.approx(wanted)
    assert f"tensorboard --logdir {folder / 'tensorboard'}" in capsys.readouterr().err
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package tensorboard; pip install"):
        command.main([str(folder), "--tensorboard"])


def test_no_audio(folder, tmp_path):
    command.main([str(folder), "--no-audio", "--out", str(tmp_path / "page.html")])
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not page.all("audio")
    assert len(page.all("article")) == 3
    assert not (folder / "report.html").exists()


def test_data_that_is_gone_is_said_and_the_rest_stands(folder, tmp_path, capsys):
    record = json.loads((folder / "run.json").read_text())
    record["arguments"]["data"] = [str(tmp_path / "gone")]
    write_run(folder, record)
    command.main([str(folder)])
    assert "speakers and audio: not known" in capsys.readouterr().err
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not page.all("audio")
    assert "recipes.report takes --data" in page.text
    command.main([str(folder), "--data", str(SAMPLE)])
    assert len(Page((folder / "report.html").read_text(encoding="utf-8")).all("audio")) == 3


def test_damaged_lines_are_said_and_left_out(folder, capsys):
    with open(folder / "metrics.jsonl", "ab") as log:
        log.write(b'{"step": 1, "loss": "x"}\n\xff\n[')
    with open(folder / "predictions-test.tsv", "ab") as table:
        table.write(b"one\ttwo\n\xff\ta\tb\tc\n")
    command.main([str(folder)])
    said = capsys.readouterr().err
    assert f"{folder / 'metrics.jsonl'}: 3 of 28 lines are damaged and left out" in said
    assert f"{folder / 'predictions-test.tsv'}: 2 of 5 lines are damaged and left out" in said


def test_a_run_that_goes_on_has_a_page_of_its_own(folder, tmp_path):
    (folder / "predictions-test.tsv").unlink()
    (folder / "run.json").write_text(json.dumps(RECORD | {"decisions": None, "data": None}))
    with locking.locked(folder):
        lock = json.loads((folder / locking.FILE).read_text())
        (folder / locking.FILE).write_text(json.dumps(lock | {"process": 1, "started": locking._started(1)}))
        with pytest.raises(InputError, match="is in use by process 1"):
            command.main([str(folder)])
        command.main([str(folder), "--out", str(tmp_path / "page.html")])
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "The run is not over. The lowest dev CER so far is 10.0\xa0%, of step 1,000." in page.text
    assert f"--resume --out '{folder}'" in page.text


def test_a_folder_without_anything_but_its_record(folder):
    for name in ("metrics.jsonl", "predictions-test.tsv"):
        (folder / name).unlink()
    command.main([str(folder)])
    Page((folder / "report.html").read_text(encoding="utf-8"))


ODD = [None, 3, "x", [], {}, [{}], {"train": 3}, {"clips": "x"}, float("nan"), {"symptoms": 3, "wer": "x"}]


@pytest.mark.parametrize("name", ["result", "data", "decisions", "normaliser", "versions", "git_commit", "arguments"])
def test_a_record_that_is_damaged_in_places_gives_a_page_or_one_line(name, folder):
    (folder / "metrics.jsonl").unlink()  # its curves take most of the time
    for value in ODD:
        (folder / "run.json").write_text(json.dumps(RECORD | {"result": RESULT} | {name: value}))
        try:
            command.main([str(folder), "--no-audio"])
        except InputError as error:
            assert str(error).isprintable()
        else:
            Page((folder / "report.html").read_text(encoding="utf-8"))


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot read the run's"):
        command.main([str(tmp_path)])
    with pytest.raises(InputError, match="--out must name a file"):
        command.main([str(tmp_path), "--out", str(tmp_path)])


def test_two_runs_are_compared_by_the_samples_speakers(folder, tmp_path, monkeypatch):
    other = folder.with_name("other")
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    summary = command.main([str(folder), str(other)])
    assert summary["out"] == "comparison.html"
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "my run: random:tiny on tr against other: random:tiny on tr" in text
    assert re.search(r"Paired bootstrap over \d speakers", text)
    assert not (folder / "report.html").exists()


def test_a_run_can_be_told_to_leave_the_audio_out(folder, tmp_path):
    out = tmp_path / "run"
    data = ["--lang", "tr", "--model", "random:tiny", "--max-train-clips", "4", "--max-steps", "1"]
    cv_finetune.main([*data, "--out", str(out), "--no-audio"])
    assert not Page((out / "report.html").read_text(encoding="utf-8")).all("audio")
    command.main([str(out)])
    assert len(Page((out / "report.html").read_text(encoding="utf-8")).all("audio")) == 10
