"""What cv_prepare proposes to change, with the number behind each: nothing where the numbers are as they should be."""

import itertools
import math
import statistics
from collections import Counter

from recipes.prepared import show_character
from w2v.audio import SAMPLE_RATE
from w2v.weights.hf import override

RARE_SHARE = 1e-5  # of the text: a character seen less often than that is not learned, however much text there is
MOST_RARE_SHARE = 0.005  # of the text: where rare characters are more than that, they are how the language is written
FEW_CHARACTERS = 5  # so many may be rare without a word
MOST_NAMED = 12
LONG_SHARE = 0.01  # of the clips, and twice that of the hours: few enough to be left out
LONG_FACTOR = 2.0  # the longest clip counts so many times as much as the longest of the others
LOST_SHARE = 0.05  # of the hours
LONGEST_SECONDS = 30.0  # as long as a clip of pretraining; memory grows with the square of the length
FEW_FRAMES = 1.5  # per token; CTC needs one, and one more between two equal tokens
LONGEST_FRAME_MS = 35  # the published W2V-BERT recipe advises frames of 10 to 35 ms for CTC
FEW_LONG_FRAMES = 2.0  # per token, where frames are longer than that


def propose_min_char_count(characters: Counter[str], min_char_count: int) -> list[str]:
    """--min-char-count, where many characters are hardly ever seen. characters: of train, those of the vocabulary."""
    total = characters.total()
    least = max(3, math.ceil(RARE_SHARE * total))
    rare = {char: n for char, n in characters.items() if n < least}
    share = sum(rare.values()) / max(1, total)
    if min_char_count >= least or len(rare) < FEW_CHARACTERS or share > MOST_RARE_SHARE:
        return []
    named = [f"{show_character(char)} ({n})" for char, n in sorted(rare.items(), key=lambda item: (item[1], item[0]))]
    return [
        f"--min-char-count {least}: {len(rare)} of {len(characters)} characters are seen less than {least} times in "
        f"train, {100 * share:.2g} % of its text, too seldom to be learned: {', '.join(named[:MOST_NAMED])}"
        + (" ..." if len(rare) > MOST_NAMED else "")
    ]


def propose_max_seconds(kept: list[float], lost: list[float], max_seconds: float, config) -> list[str]:
    """--max-seconds, lower where a few long clips decide the memory, higher where much speech is left out.

    kept, lost: the lengths of the training clips within and beyond max_seconds. config: a family's.
    """
    lines = []
    kept, hours, lost_hours = sorted(kept), sum(kept) / 3600, sum(lost) / 3600
    longest_first = kept[: -int(LONG_SHARE * len(kept)) - 1 : -1]
    few = sum(spent <= 2 * LONG_SHARE * 3600 * hours for spent in itertools.accumulate(longest_first))
    limit = math.ceil(kept[-few - 1])
    long = [seconds for seconds in kept if seconds > limit]
    if long:
        worst, other = (config.cost(int(seconds * SAMPLE_RATE)) for seconds in (kept[-1], limit))
        if worst > LONG_FACTOR * other:
            lines.append(
                f"--max-seconds {limit}: {len(long)} of {len(kept)} training clips are longer, "
                f"{100 * sum(long) / 3600 / hours:.1f} % of the hours; the longest, {kept[-1]:.1f} s, takes as much of "
                f"a batch as {worst / other:.1f} of {limit} s"
            )
    if lost_hours > LOST_SHARE * (hours + lost_hours):
        gained = [seconds for seconds in lost if seconds <= LONGEST_SECONDS]
        left_out = f"{len(lost)} training clips longer than {max_seconds:g} s, {lost_hours:.2f} h of "
        left_out += f"{hours + lost_hours:.2f} h, are left out"
        if sum(gained) >= sum(lost) / 2:
            lines.append(f"--max-seconds {math.ceil(max(gained))}: {left_out}; that keeps {sum(gained) / 3600:.2f} h")
        else:
            lines.append(f"cut long recordings at their pauses, to less than {LONGEST_SECONDS:g} s: {left_out}")
    return lines


def propose_adapter_off(samples: list[int], labels: list[list[int]], config) -> list[str]:
    """--add-adapter off, where W2V-BERT's frames of 40 ms are too few for clips that frames of 20 ms can spell."""
    if not getattr(config, "add_adapter", False):
        return []
    finer = override(config, {"add_adapter": False, "use_intermediate_ffn_before_adapter": False})
    lost = [
        n
        for n, ids in zip(samples, labels, strict=True)
        if config.why_not(n, ids) is not None and finer.why_not(n, ids) is None
    ]
    if not lost:
        return []
    return [
        f"--add-adapter off: {len(lost)} of {len(samples)} training clips, {sum(lost) / SAMPLE_RATE / 3600:.2f} h, "
        f"have too few frames of {1000 * config.hop / SAMPLE_RATE:g} ms for their text, and enough of "
        f"{1000 * finer.hop / SAMPLE_RATE:g} ms"
    ]


def propose_frame_rate(samples: list[int], labels: list[int], config) -> list[str]:
    """Another model, where its frames do not fit the text. samples, labels: of each training clip, how many."""
    frame_ms = 1e6 / config.frames(1000 * SAMPLE_RATE)
    token_ms = statistics.median(1000 * n / SAMPLE_RATE / max(1, u) for n, u in zip(samples, labels, strict=True))
    ratio = token_ms / frame_ms
    measured = f"{token_ms:.0f} ms of audio per token (median), frames of {frame_ms:.0f} ms"
    if ratio <= 1:
        return [
            f"a model with shorter frames: {measured}, so tokens come faster than frames and CTC cannot write them; "
            "or the texts are not those of the audio"
        ]
    if ratio < FEW_FRAMES:
        return [
            f"a model with shorter frames: {measured}, {ratio:.1f} frames per token; CTC has trouble below "
            f"{FEW_FRAMES:g}, because doubled letters need a frame between them"
        ]
    if ratio < FEW_LONG_FRAMES and round(frame_ms) > LONGEST_FRAME_MS:
        return [
            f"a model with frames of at most {LONGEST_FRAME_MS} ms: {measured}, {ratio:.1f} frames per token; CTC does "
            "better with frames of 10 to 35 ms"
        ]
    return []
