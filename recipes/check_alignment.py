"""Which clips of a corpus do not say what their sentences say: for cv_prepare --check-alignment."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

import w2v
from recipes.console import say
from w2v.asr import Recogniser
from w2v.data.manifest import Clip
from w2v.data.splits import Splits
from w2v.data.store import Audio
from w2v.errors import InputError, show
from w2v.training.device import resolve_device

LISTED = 20  # clips; the summary on stdout has them too


def load_recogniser(model: str) -> Recogniser:
    """A run's folder, or a Hub repository, on a GPU where there is one; InputError where it is no recogniser."""
    return w2v.load(model, resolve_device(None))


def check_alignment(asr: Recogniser, splits: Splits, audio: Audio, lang: str) -> dict:
    """Align each clip's sentence to its audio, print the clips that match least, and return them as records.

    lang: the sentences' locale, for a model without text rules. InputError where the model gives no frame posteriors.
    """
    of_clip = [(name, clip) for name, clips in splits.items() for clip in clips]
    of_clip.sort(key=lambda named: audio.samples(named[1]))  # so that clips of one length make a batch
    records: list[dict] = []
    with tqdm(total=len(of_clip), unit="clip", desc="aligning", disable=None) as bar:
        for heard in asr.all_emissions(_blocks(audio, [clip for _, clip in of_clip])):
            split, clip = of_clip[heard.number]
            record: dict = {"clip": clip.name, "split": split, "score": None, "text": clip.sentence}
            try:
                if heard.error is not None:
                    raise heard.error
                record["heard"] = asr.tokenizer.decode(heard.log_probs.argmax(-1).tolist())
                alignment = asr.align_frames(heard.log_probs, asr.written_words(clip.sentence, lang))
                record["score"] = None if alignment.score is None else round(alignment.score, 3)
            except InputError as error:
                record["why_not"] = str(error)
            records.append(record)
            bar.update()
    return _report(records)


def _blocks(audio: Audio, clips: list[Clip]) -> Iterator[list[np.ndarray]]:
    for clip in clips:
        yield [audio[clip]]


def _report(records: list[dict]) -> dict:
    """Clips that cannot be aligned come first, then those with the lowest scores."""
    scores = [record["score"] for record in records if record["score"] is not None]
    records = sorted(records, key=lambda record: (record["score"] is not None, record["score"] or 0.0))
    median = round(float(np.median(scores)), 3) if scores else None
    say(f"alignment: {len(records)} clips, median score {median}; those that match their sentence least:")
    for record in records[:LISTED]:
        score = "-" if record["score"] is None else f"{record['score']:.2f}"
        cells = [score, record["split"], record["clip"], show(record["text"])]
        cells += [f"heard: {show(record['heard'])}"] if "heard" in record else []
        say("  " + "\t".join([*cells, *([record["why_not"]] if "why_not" in record else [])]))
    return {"clips": len(records), "median_score": median, "worst": records[:LISTED]}
