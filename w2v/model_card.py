"""The README.md of an exported folder, with the metadata block that the Hub reads."""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from w2v.data.manifest import Release
from w2v.metrics import ErrorRates

HERE = "PATH/TO/THIS/FOLDER"
KINDS = {"scripted": "common_voice", "spontaneous": "common_voice_spontaneous"}  # releases of Common Voice
JOINERS = "\u200c\u200d"  # Persian words and emoji are made with them


class Share(NamedTuple):
    """A split: its usable clips."""

    clips: int
    hours: float
    speakers: int  # 0 where the data names none


@dataclass
class CardFacts:
    """What a card says of a run. Texts may hold anything that a file's name may: they are escaped here."""

    name: str
    lang: str
    family: str  # for people: wav2vec 2.0
    model_type: str
    model_class: str  # in transformers
    has_frames: bool  # whether argmax over the logits of its frames is its text: CTC
    start: str  # the checkpoint, or random:NAME
    hub_id: str  # of the checkpoint's public repository, "" where there is none
    licence: str  # of the checkpoint, as its card says; "" where it says none, or where nothing was fine-tuned
    data: str  # for people
    releases: list[Release]  # what that is
    data_names: list[str]  # how the evaluation finds it, given as relative paths
    split_names: tuple[list[str], str, str]  # tables of train, dev and test
    splits: dict[str, Share]
    results: dict[str, ErrorRates]  # by split: test, dev, train
    headline: str  # "wer", or "cer" for languages written without spaces
    hardware: str
    training_seconds: float
    weights_of: int  # the step
    steps: tuple[int, int]  # done and planned
    settings: dict[str, object] = field(default_factory=dict)
    normalisation: dict[str, str] = field(default_factory=dict)  # normaliser.json
    tags: list[str] = field(default_factory=list)
    repository: str = ""  # owner/name on the Hub, where the folder goes
    languages: list[str] = field(default_factory=list)  # where there are several, `lang` first


def model_card(facts: CardFacts) -> str:
    """Markdown with a YAML front matter. Metrics that could not be measured are left out, not invented."""
    random = facts.start.startswith("random:")
    origin = "trained from scratch" if random else f"fine-tuned from {_code(facts.start)}"
    rates = []
    for name, whole in facts.results.items():
        rows = {name: whole} | {f"{name}, {lang}": rates_of for lang, rates_of in whole.languages.items()}
        rates += [(row, r.clips, _percent(r.wer), _percent(r.cer)) for row, r in rows.items()]
    spoken = ", ".join(map(_code, facts.languages or [facts.lang]))
    tested, rules = "the test split", "normalised as normaliser.json says"
    means = " Those of a split without a language are the means of its languages." if facts.languages else ""
    if facts.languages:
        tested += f" in {_code(facts.lang)}"
        rules = f"normalised by the rules of their language, for {_code(facts.lang)} as normaliser.json says"
    shares = [
        (name, share.clips, f"{share.hours:.2f}", share.speakers or "not known") for name, share in facts.splits.items()
    ]
    training = {"hardware": facts.hardware, "training time": _duration(facts.training_seconds)}
    training["steps"] = f"{facts.steps[0]} of {facts.steps[1]}; the weights are of step {facts.weights_of}"
    training |= {name: str(value) for name, value in facts.settings.items() if value is not None}
    is_over = "test" in facts.results
    unfinished = f"These weights are the best so far, of step {facts.weights_of} of {facts.steps[1]}: training goes on."
    usage = [_fence(_use(facts)), "With transformers:", _fence(_transformers(facts))]
    evaluation = [
        "## Evaluation",
        f"This gives the rates of {tested}. In place of the data's name write where it lies on your machine.",
        _fence(_evaluate(facts)),
    ]
    sections = [
        f"---\n{_metadata(facts)}\n---",
        f"# {_text(facts.name)}",
        f"A {_text(facts.family)} speech recogniser for {spoken}, {origin} on {_text(facts.data)}.",
        *([] if is_over else [unfinished]),
        _table(("split", "clips", "WER", "CER"), rates),
        "Rates are summed over the clips named, on greedily decoded text without a language model. References are "
        f"{rules}: "
        f"{_code(str(facts.normalisation))}.{means}",
        "## Use",
        *usage,
        *(evaluation if _is_measured(facts) else []),
        "## Data",
        _table(("split", "clips", "hours", "speakers"), shares),
        "## Training",
        _table(("setting", "value"), list(training.items())),
    ]
    return "\n\n".join(sections) + "\n"


def _is_measured(facts: CardFacts) -> bool:
    test = facts.results.get("test")
    return test is not None and test.wer is not None and test.cer is not None


def _metadata(facts: CardFacts) -> str:
    """The YAML that the Hub reads."""
    kinds = {release.kind for release in facts.releases}
    locales = facts.languages or [facts.lang]
    languages = list(dict.fromkeys(locale.split("-")[0] for locale in locales))
    test = facts.results.get("test")
    results = None
    if test is not None and test.wer is not None and test.cer is not None:
        results = [
            EvalResult(
                task_type="automatic-speech-recognition",
                task_name="Speech Recognition",
                dataset_name=_line(facts.data),
                dataset_type=_dataset_type(facts.releases),
                dataset_config=_line(" ".join(locales)),
                dataset_split="test",
                metric_type=metric,
                metric_name=f"Test {metric.upper()}",
                metric_value=round(100 * rate, 2),
            )
            for metric, rate in (("wer", test.wer), ("cer", test.cer))
        ]
    data = ModelCardData(
        language=languages if facts.languages else languages[0],
        license=facts.licence or None,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        # No `datasets`: it takes ids of the Hub, which Common Voice has left (mozilladatacollective.com has it now).
        base_model=facts.hub_id or None,
        metrics=sorted(("wer", "cer"), key=lambda metric: metric != facts.headline),
        tags=[
            "automatic-speech-recognition",
            *(["common_voice"] if kinds & KINDS.keys() else []),
            "speech",
            facts.model_type,
            "w2v",
            *facts.tags,
        ],
        model_name=_line(facts.name) if results else None,
        eval_results=results,
    )
    if any("-" in locale for locale in locales):  # `language` takes no regions
        data["language_bcp47"] = locales
    return data.to_yaml(line_break="\n")


def _dataset_type(releases: list[Release]) -> str:
    """common_voice_17_0, common_voice_spontaneous_3_0, common_voice where the version is unknown; else custom."""
    types = {"_".join([KINDS.get(r.kind, "custom"), *r.version.split(".")]).rstrip("_") for r in releases}
    return types.pop() if len(types) == 1 else "custom"


def _use(facts: CardFacts) -> str:
    return f"""import w2v

asr = w2v.load({facts.repository or HERE!r})
print(asr.transcribe(["clip.mp3"])[0].text)"""


def _transformers(facts: CardFacts) -> str:
    ids, options = "model(**inputs).logits.argmax(-1)", ""
    if not facts.has_frames:
        ids, options = "model.generate(**inputs)", ", skip_special_tokens=True"
    return f"""import soundfile
import torch
from torchaudio.functional import resample
from transformers import AutoProcessor, {facts.model_class}

processor = AutoProcessor.from_pretrained({facts.repository or HERE!r})
model = {facts.model_class}.from_pretrained({facts.repository or HERE!r})
speech, rate = soundfile.read("clip.mp3", dtype="float32", always_2d=True)
speech = resample(torch.from_numpy(speech).mean(1), rate, 16_000)
inputs = processor(speech.numpy(), sampling_rate=16_000, return_tensors="pt")
with torch.no_grad():
    ids = {ids}
print(processor.batch_decode(ids{options})[0])"""


def _evaluate(facts: CardFacts) -> str:
    extra, folder = "", repr(HERE)
    if facts.repository:
        extra, folder = "from huggingface_hub import snapshot_download\n", f"snapshot_download({facts.repository!r})"
    train, dev, test = facts.split_names
    data = ", ".join(f"Path({name!r})" for name in facts.data_names)
    return f"""from pathlib import Path

{extra}import w2v
from w2v.asr import recognise
from w2v.data.corpus import read_corpus
from w2v.data.splits import make_splits
from w2v.data.store import build_store

folder, cache = {folder}, Path("cache")
asr, normalise = w2v.load(folder), w2v.Normaliser.from_pretrained(folder)
corpus = read_corpus([{data}], {facts.lang!r}, cache)
clips = make_splits(corpus.tables, {train!r}, {dev!r}, {test!r}, normalise).test
audio = build_store(clips, cache, workers=4)
clips = [clip for clip in clips if clip not in audio.skipped and normalise(clip.sentence)]
clips = [clip for clip in clips if asr.model.config.frames(audio.samples(clip)) >= 1]
heard = recognise(asr.model, asr.tokenizer, [audio[clip] for clip in clips])
print(w2v.error_rates([normalise(clip.sentence) for clip in clips], heard))"""


def _line(text: str) -> str:
    """One line that UTF-8 can hold: the name of a file may be anything."""
    text = text.encode("utf-8", "replace").decode()
    chars = (" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    return " ".join("".join(c for c in chars if c in JOINERS or unicodedata.category(c) != "Cf").split())


def _text(text: str) -> str:
    """Text in which nothing is Markdown or HTML."""
    escaped = re.sub(r"([\\`*_\[\]#|~$!])", r"\\\1", _line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """A code span, between more backticks than the text holds in a row."""
    text = _line(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _fence(code: str) -> str:
    """A block of Python. repr() of each name has escaped what is not printable."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{ticks}python\n{code}\n{ticks}"


def _table(head: tuple[str, ...], rows: list) -> str:
    cells = [[_text(str(cell)) for cell in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(head), *cells[1:]])


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def _percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{100 * rate:.2f} %"
