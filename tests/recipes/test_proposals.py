"""What cv_prepare proposes, on made-up numbers: where it should, with the number behind it, and silent elsewhere.

Run: pytest tests/recipes/test_proposals.py
"""

import dataclasses
from collections import Counter

import pytest
from conftest import SAMPLE

import w2v
from recipes import cv_prepare
from recipes.proposals import propose_frame_rate, propose_max_seconds, propose_min_char_count

LETTERS = Counter(dict.fromkeys("abcdefghijklmnopqrst", 500))
XLSR = w2v.XLSR_53


def test_letters_of_loan_words():
    (line,) = propose_min_char_count(LETTERS + Counter("wxééàà\u0301"), 1)
    assert line.startswith("--min-char-count 3: 5 of 25 characters are seen less than 3 times in train, 0.07 % ")
    assert line.endswith("w (1), x (1), U+0301 COMBINING ACUTE ACCENT (1), à (2), é (2)")


@pytest.mark.parametrize(
    ("characters", "given"),
    [
        (LETTERS, 1),  # all letters are frequent
        (LETTERS + Counter("wxéà"), 1),  # four are few
        (LETTERS + Counter("wxéàñ"), 3),  # already as proposed
        (Counter({chr(0x4E00 + i): 1 + i % 20 for i in range(2000)}), 1),  # a script of rare characters
    ],
)
def test_no_word_of_other_alphabets(characters, given):
    assert propose_min_char_count(characters, given) == []


def test_large_data_has_more_to_learn_from():
    big = Counter({char: 100 * n for char, n in LETTERS.items()}) + Counter("wxéàñ" * 9)
    assert propose_min_char_count(big, 1)[0].startswith("--min-char-count 11: 5 of 25 ")


def test_a_few_long_clips():
    (line,) = propose_max_seconds([4.0] * 395 + [4.6, 4.8, 5.5, 7.5, 19.4], [], 20, XLSR)
    assert line == (
        "--max-seconds 5: 3 of 400 training clips are longer, 2.0 % of the hours; the longest, 19.4 s, takes as much "
        "of a batch as 4.7 of 5 s"
    )


@pytest.mark.parametrize(
    "kept",
    [
        [4.0] * 200,
        [4.0] * 190 + [7.5] * 8 + [9.0] * 2,  # not much longer than the others
        [4.0] * 100 + [19.0] * 100,  # not few
        [4.0] * 80 + [19.0],  # one clip of a small corpus is not few
    ],
)
def test_no_word_of_usual_lengths(kept):
    assert propose_max_seconds(kept, [], 20, XLSR) == []


def test_much_speech_is_left_out():
    (line,) = propose_max_seconds([10.0] * 900, [24.5] * 60, 20, XLSR)
    assert line == (
        "--max-seconds 25: 60 training clips longer than 20 s, 0.41 h of 2.91 h, are left out; that keeps 0.41 h"
    )
    (line,) = propose_max_seconds([10.0] * 900, [600.0] * 6, 20, XLSR)
    assert line.startswith("cut long recordings at their pauses, to less than 30 s: 6 training clips longer than 20 s")
    assert propose_max_seconds([10.0] * 900, [25.0], 20, XLSR) == []


def rate(ms_per_token: int, config) -> list[str]:
    return propose_frame_rate([16 * ms_per_token * 50] * 9, [50] * 9, config)


def test_frames_and_tokens():
    assert rate(70, XLSR) == rate(35, XLSR) == rate(400, XLSR) == []
    assert "18 ms of audio per token (median), frames of 20 ms, so tokens come faster" in rate(18, XLSR)[0]
    assert (
        "26 ms of audio per token (median), frames of 20 ms, 1.3 frames per token; CTC has trouble" in rate(26, XLSR)[0]
    )
    slow = dataclasses.replace(XLSR, conv_stride=(5, 2, 2, 2, 2, 2, 4))  # 40 ms
    assert "frames of at most 35 ms: 70 ms of audio per token (median), frames of 40 ms" in rate(70, slow)[0]
    assert rate(100, slow) == []


def test_prepare_prints_and_shows_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    lines = (SAMPLE / "validated.tsv").read_text(encoding="utf-8").splitlines()
    for i, letter in enumerate("ŵẅĉĝŝĵŷ", 1):
        lines[i] = lines[i].replace(".mp3\t", f".mp3\t{letter}")
    (tmp_path / "tr").mkdir()
    (tmp_path / "tr" / "validated.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "tr" / "clips").symlink_to(SAMPLE / "clips")
    flags = "--train-splits validated --dev-split none --test-split none --max-seconds 5 --model tiny".split()
    summary = cv_prepare.main(
        ["--lang", "tr", "--data", str(tmp_path / "tr"), "--html", str(tmp_path / "page.html"), *flags]
    )
    printed = capsys.readouterr().err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(summary["proposals"]) == 2
    for words in ("--min-char-count 3: ", "--max-seconds 8: 11 training clips longer than 5 s, 0.02 h of 0.11 h"):
        assert f"proposal: {words}" in printed
        assert f'<p class="note">{words}' in page
