"""Words with times -> subtitles that people can read, and the files that players and editors open.

Lengths and times are those of a broadcaster: Netflix, Timed Text Style Guide, general requirements and the English
template's reading speed.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from w2v.answers import Word

LINE = 42  # columns
LINES = 2
WIDE = 2.625  # columns of a Chinese, Japanese or Korean character: 16 are a line
LEAST_SECONDS, MOST_SECONDS = 5 / 6, 7.0  # a subtitle is shown
CHARACTERS_PER_SECOND = 17.0  # people read
GAP_SECONDS = 2 / 24  # between two subtitles: two frames of film
LINGER_SECONDS = 12 / 24  # a subtitle may be shown after its last word, to be read
PAUSE_SECONDS = 0.3  # a good place to end a subtitle
LONG_PAUSE_SECONDS = 2.0  # one always ends here
PUNCTUATION = tuple(".,;:!?…。，、；：！？؟،؛।")
# What a choice of subtitles costs; each subtitle costs 1.
BREAK_IN_SPEECH = 0.5
EMPTY_SPACE = 0.5  # times the square of the share of a subtitle that is not used


class Cue(NamedTuple):
    start: float  # seconds
    end: float
    lines: list[str]


def cues(words: Iterable[Word]) -> list[Cue]:
    """Words in their order -> subtitles. A subtitle shows whole words, no longer than they fit and than 7 s."""
    pieces = [piece for word in words for piece in _pieces(word)]
    groups = _group(pieces)
    found = []
    for i, group in enumerate(groups):
        start, end = group[0].start, group[-1].end
        text = _join(group)
        wanted = start + max(LEAST_SECONDS, len(text) / CHARACTERS_PER_SECOND)
        end = max(end, min(wanted, end + LINGER_SECONDS, start + MOST_SECONDS))
        if i + 1 < len(groups):
            end = max(start, min(end, groups[i + 1][0].start - GAP_SECONDS))
        found.append(Cue(start, end, _lines(group)))
    return found


def _width(text: str) -> float:
    return sum(WIDE if unicodedata.east_asian_width(char) in "WF" else 1 for char in text if not _is_mark(char))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me", "Cf")


class _Piece(NamedTuple):
    """A word, or a part of one that is longer than a line; parts are joined without a space."""

    text: str
    start: float
    end: float
    is_part: bool = False  # of the word before


def _pieces(word: Word) -> list[_Piece]:
    """The word; where it is longer than a line, as a sentence without spaces is, its characters in equal times."""
    if _width(word.text) <= LINE:
        return [_Piece(word.text, word.start, word.end)]
    letters: list[str] = []
    for char in word.text:
        if _is_mark(char) and letters:
            letters[-1] += char
        else:
            letters.append(char)
    step = (word.end - word.start) / len(letters)
    return [
        _Piece(letter, word.start + i * step, word.start + (i + 1) * step, i > 0) for i, letter in enumerate(letters)
    ]


def _join(pieces: list[_Piece]) -> str:
    return "".join(("" if piece.is_part else " ") + piece.text for piece in pieces).lstrip()


def _group(pieces: list[_Piece]) -> list[list[_Piece]]:
    """The pieces of each subtitle: the cheapest way to divide them, found from the beginning to the end."""
    spaces = [0 if piece.is_part else 1 for piece in pieces]
    edges = [0.0, *accumulate(space + _width(piece.text) for space, piece in zip(spaces, pieces, strict=True))]

    def width(begin: int, end: int) -> float:
        return edges[end] - edges[begin] - spaces[begin]

    def fits(begin: int, end: int) -> bool:
        if pieces[end - 1].end - pieces[begin].start > MOST_SECONDS:
            return False
        if pieces[begin + 1].start - pieces[begin].end > LONG_PAUSE_SECONDS:
            return False
        at = bisect_right(edges, edges[begin] + spaces[begin] + LINE) - 1  # as much as the first line takes
        return at >= end or width(at, end) <= LINE

    def cost(begin: int, end: int) -> float:
        ends_well = end == len(pieces) or pieces[end].start - pieces[end - 1].end >= PAUSE_SECONDS
        ends_well = ends_well or pieces[end - 1].text.endswith(PUNCTUATION)
        empty = max(0.0, 1 - width(begin, end) / (LINE * LINES))
        return 1 + EMPTY_SPACE * empty**2 + (0 if ends_well else BREAK_IN_SPEECH)

    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the first i pieces, and where their last subtitle begins
    for end in range(1, len(pieces) + 1):
        options = []
        for begin in range(end - 1, -1, -1):
            if begin < end - 1 and not fits(begin, end):
                break
            options.append((best[begin][0] + cost(begin, end), begin))
        best.append(min(options))
    groups, end = [], len(pieces)
    while end:
        begin = best[end][1]
        groups.append(pieces[begin:end])
        end = begin
    return groups[::-1]


def _lines(group: list[_Piece]) -> list[str]:
    """One line where it fits, else two of about equal width; a line rather ends behind a punctuation mark."""
    text = _join(group)
    if _width(text) <= LINE or len(group) == 1:
        return [text]

    def badness(at: int) -> float:
        one, other = _width(_join(group[:at])), _width(_join(group[at:]))
        bonus = LINE / 4 if group[at - 1].text.endswith(PUNCTUATION) else 0
        return abs(one - other) - bonus + 1000 * max(0.0, max(one, other) - LINE)

    at = min(range(1, len(group)), key=badness)
    return [_join(group[:at]), _join(group[at:])]


def srt(subtitles: Iterable[Cue]) -> str:
    """SubRip, the layout that nearly every player reads."""
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n\n"
        for number, cue in enumerate(subtitles, start=1)
    )


def vtt(subtitles: Iterable[Cue]) -> str:
    """WebVTT, for HTML's <track>; `<` and `&` are escaped as it asks for."""
    entries = "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n\n"
        for cue in subtitles
    )
    return f"WEBVTT\n\n{entries}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
