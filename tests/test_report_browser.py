"""Report pages in headless Chromium, as people see them: 1280 and 390 px wide, light and dark, and by axe-core.

Run: pytest tests/test_report_browser.py -m browser
Skipped where there is no chromium; axe-core is looked for in AXE_CORE, the path of axe.min.js, and in npm's own folder.
"""

import pytest
from chromium import CHROMIUM, SCHEMES, SIZES, Chromium, axe_core
from test_report import ROWS, a_run, big_run

from w2v.report import report_html
from w2v.report_compare import comparison_html

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
PAGES = {
    "big": lambda: report_html(big_run()),
    "whisper": lambda: report_html(a_run([("a.mp3", "bir iki", "bir ikki üç")], advice=["Do this."], metrics=[])),
    "right-to-left": lambda: report_html(big_run("ar", "صباح الخير يا عالم كيف حالك اليوم", 30)),
    "without-spaces": lambda: report_html(big_run("zh-CN", "今天 天气 很好 你好 世界 朋友 我们", 30)),
    "unbroken": lambda: report_html(big_run("tr", " ".join(["ğ" * 300, "w" * 150, "ev"]), 30)),
    "comparison": lambda: comparison_html(
        [
            a_run(ROWS, "a-run-with-a-name-that-is-as-long-as-people-make-them-1"),
            a_run(ROWS[::-1], "other"),
            big_other(),
        ]
    ),
}


def big_other():
    return a_run([(name, text, "bir iki üç", speaker) for name, text, _, speaker in ROWS], "a-third_run" * 5)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Their addresses."""
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_core()


def unfold(chromium: Chromium) -> None:
    chromium.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone_or_asks_for_anything(name, chromium, pages):
    for width in SIZES:
        chromium.open(pages[name], width)
        for _ in range(2):
            assert chromium.evaluate("innerWidth") == width
            assert chromium.evaluate("document.documentElement.scrollWidth") == width
            unfold(chromium)
        assert chromium.requests() == [pages[name]], "the page, and nothing else"
        assert chromium.complaints() == []


@pytest.mark.long  # a time, which another machine or a busy one may miss
def test_a_page_of_1000_predictions_opens_in_two_seconds(chromium, pages):
    chromium.open(pages["whisper"])
    assert min(chromium.open(pages["big"]) for _ in range(3)) < 2


@pytest.mark.parametrize("name", sorted(PAGES.keys() - {"big"}))  # whose 1,000 rows are as those of others
def test_axe_core_finds_nothing(name, chromium, pages, axe):
    for width in SIZES:
        for scheme in SCHEMES:
            chromium.open(pages[name], width, scheme)
            unfold(chromium)
            assert chromium.violations(axe) == [], (width, scheme)


def test_light_and_dark(chromium, pages):
    shades = []
    for scheme in SCHEMES:
        chromium.open(pages["whisper"], scheme=scheme)
        shades.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert shades == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_players_hold_their_clips(chromium, pages):
    chromium.open(pages["big"])
    lengths = chromium.evaluate(
        "Promise.all([...document.querySelectorAll('audio')].map(player => player.readyState ? player.duration : "
        "new Promise(done => { player.onloadedmetadata = () => done(player.duration); player.onerror = () => done(-1) "
        "})))"
    )
    assert len(lengths) == 20
    assert all(length == pytest.approx(5, abs=0.2) for length in lengths)


def test_all_can_be_reached_and_opened_by_keyboard(chromium, pages):
    chromium.open(pages["unbroken"])
    reached = set()
    for _ in range(400):
        chromium.press("Tab", 9)
        reached.add(chromium.evaluate("document.activeElement.tagName + ' ' + document.activeElement.className"))
        if chromium.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert {"A ", "AUDIO ", "DIV wide", "SUMMARY "} <= reached
    assert chromium.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("Enter", 13)
    assert chromium.evaluate("document.activeElement.parentElement.open")


def test_print_leaves_out_what_paper_cannot_do(chromium, pages):
    chromium.open(pages["big"], scheme="dark")
    chromium.ask("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "[...document.querySelectorAll('audio, nav')].filter(e => getComputedStyle(e).display != 'none').length"
    assert chromium.evaluate(shown) == 0
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    chromium.ask("Emulation.setEmulatedMedia", {"media": ""})
