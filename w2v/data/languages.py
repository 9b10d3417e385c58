"""The splits of several languages become one, and what is tested in one of them is trained on in none.

Clips of different languages are one recording where Common Voice numbered them alike, where they are one file or
stretches of it that overlap, or where their samples are the same. A name such as 001.wav says nothing: each language's
folder may have one.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

from w2v.data.manifest import Clip, Skipped
from w2v.data.splits import NUMBERED, Splits, basename_of, file_of, overlap
from w2v.errors import named

Rule = tuple[str, Callable[[Clip], bool]]  # why a clip is left out, and whether it is


def join(parts: dict[str, Splits], sentence_key: Callable[[Clip], str]) -> Splits:
    """The union of each language's splits, whose clips then know their `lang`. `notes` says what was left out.

    - Nothing is trained on that is a clip, or has a speaker or a sentence, of another language's dev or test. Nor are
      clips of a dev or test table of any language that is no split here.
    - A clip of dev is not in another language's test.
    - A clip that several languages have in one split is the first one's.
    sentence_key: the text of a clip under the rules of its language.
    """
    parts = {lang: _with_lang(lang, part) for lang, part in parts.items()}
    whole = Splits([], [], [])
    for lang, part in parts.items():
        others = [other for name, other in parts.items() if name != lang]
        held = [clip for other in others for clip in other.dev + other.test]
        speakers = {clip.speaker for clip in held} - {""}
        sentences = {sentence_key(clip) for clip in held} - {""}
        never_trained = [*held, *(clip for other in others for clip in other.withheld)]
        rules: dict[str, list[Rule]] = {
            "test": [],
            "dev": [("are in another language's test", _membership(c for other in others for c in other.test))],
            "train": [
                ("are in another language's dev or test tables", _membership(never_trained)),
                ("have their speakers", lambda clip: clip.speaker in speakers),  # noqa: B023  called before they change
                ("have their sentences", lambda clip: sentence_key(clip) in sentences),  # noqa: B023
            ],
        }
        for (split, clips), (_, taken) in zip(part.items(), whole.items(), strict=True):
            again: Rule = ("are another language's too, which has them", _membership(taken))
            kept, left_out = _without(clips, [*rules[split], again])
            taken.extend(kept)
            if left_out:
                counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
                whole.notes.append(f"{lang}: {sum(left_out.values())} clips are left out of {split}: {counts}")
    return whole


def apart_by_sound(splits: Splits, content: Callable[[Clip], Hashable]) -> tuple[Splits, list[Skipped]]:
    """The splits without clips of train and dev whose samples are those of another language's dev or test.

    content: what tells a clip's samples from others'. -> also the clips that are left out, with reasons.
    """
    held: dict[Hashable, list[tuple[str, Clip]]] = {}
    for split, clips in splits.items():
        for clip in clips if split != "train" else ():
            held.setdefault(content(clip), []).append((split, clip))
    skipped = []

    def keep(split: str, clips: list[Clip]) -> list[Clip]:
        kept = []
        for clip in clips if split != "test" else ():
            same = [
                other
                for of, other in held.get(content(clip), ())
                if other.lang != clip.lang and (split == "train" or of == "test")
            ]
            if same:
                why = f"the samples of another language's held-out clip: {same[0].lang}, {named(same[0].name)}"
                skipped.append(Skipped(clip.name, split, why))
            else:
                kept.append(clip)
        return kept if split != "test" else clips

    return splits.map(keep), skipped


def shared_across(splits: Splits, sentence_key: Callable[[Clip], str]) -> dict[str, int]:
    """What train of any language shares with dev and test of others: speakers and sentences, as `leak_report`."""
    counts: Counter[str] = Counter(clips=0, speakers=0, sentences=0)
    for lang in {clip.lang for clip in splits.train}:
        mine = [clip for clip in splits.train if clip.lang == lang]
        held = [clip for clip in splits.dev + splits.test if clip.lang != lang]
        counts["clips"] += sum(map(_membership(held), mine))
        counts["speakers"] += len(({clip.speaker for clip in mine} & {clip.speaker for clip in held}) - {""})
        counts["sentences"] += len({sentence_key(clip) for clip in mine} & {sentence_key(clip) for clip in held})
    return dict(counts)


def _with_lang(lang: str, part: Splits) -> Splits:
    told = part.map(lambda _, clips: [replace(clip, lang=lang) for clip in clips])
    told.withheld = [replace(clip, lang=lang) for clip in part.withheld]
    return told


def _without(clips: list[Clip], rules: list[Rule]) -> tuple[list[Clip], Counter[str]]:
    """The clips that no rule leaves out, and how many each rule does; the first one that holds counts."""
    kept, left_out = [], Counter[str]()
    for clip in clips:
        why = next((why for why, holds in rules if holds(clip)), None)
        if why is None:
            kept.append(clip)
        else:
            left_out[why] += 1
    return kept, left_out


def _recording_of(clip: Clip) -> str:
    numbered = NUMBERED.fullmatch(basename_of(clip))
    return numbered[1] if numbered else file_of(clip)


def _membership(clips: Iterable[Clip]) -> Callable[[Clip], bool]:
    """-> a function that says whether a clip is one of these, or has sound in common with one."""
    known: dict[str, list[Clip]] = {}
    for clip in clips:
        known.setdefault(_recording_of(clip), []).append(clip)
    return lambda clip: any(overlap(clip, other) for other in known.get(_recording_of(clip), ()))
