"""The README.md of an exported folder, with the metadata block that the Hub reads."""

import json
from dataclasses import dataclass, field

from w2v.metrics import ErrorRates


@dataclass
class CardFacts:
    """What a card says of a run."""

    name: str
    lang: str
    family: str  # for people: wav2vec 2.0
    model_type: str
    model_class: str  # in transformers
    start: str  # the checkpoint, or random:NAME
    hub_id: str  # of the checkpoint's public repository, "" where there is none
    licence: str  # of the checkpoint, as its card says; "" where it says none, or where nothing was fine-tuned
    data: str
    is_common_voice: bool
    results: dict[str, ErrorRates]  # by split: test, dev, train
    headline: str  # "wer", or "cer" for languages written without spaces
    settings: dict[str, object] = field(default_factory=dict)
    normalisation: str = ""


def model_card(facts: CardFacts) -> str:
    """Markdown with a YAML front matter. Metrics that could not be measured are left out, not invented."""
    test = facts.results.get("test")
    metadata = [
        "---",
        f"language: {_quoted(facts.lang.split('-')[0])}",
        *([f"license: {facts.licence}"] if facts.licence else []),
        "library_name: transformers",
        "pipeline_tag: automatic-speech-recognition",
        *(["datasets:", "- mozilla-foundation/common_voice"] if facts.is_common_voice else []),
        *([f"base_model: {_quoted(facts.hub_id)}"] if facts.hub_id else []),
        "metrics:",
        *(f"- {m}" for m in sorted(("wer", "cer"), key=lambda m: m != facts.headline)),
        "tags:",
        "- automatic-speech-recognition",
        *(["- common_voice"] if facts.is_common_voice else []),
        "- speech",
        f"- {facts.model_type}",
        "- w2v",
        "model-index:",
        f"- name: {_quoted(facts.name)}",
    ]
    if test and test.wer is not None and test.cer is not None:
        metadata += [
            "  results:",
            "  - task:",
            "      type: automatic-speech-recognition",
            "      name: Speech Recognition",
            "    dataset:",
            f"      name: {_quoted(facts.data)}",
            f"      type: {'mozilla-foundation/common_voice' if facts.is_common_voice else 'custom'}",
            f"      args: {_quoted(facts.lang)}",
            "    metrics:",
            f"    - {{type: wer, name: Test WER, value: {100 * test.wer:.2f}}}",
            f"    - {{type: cer, name: Test CER, value: {100 * test.cer:.2f}}}",
        ]
    else:
        metadata += ["  results: []"]
    rows = [
        f"| {split} | {rates.clips} | {_percent(rates.wer)} | {_percent(rates.cer)} |"
        for split, rates in facts.results.items()
    ]
    origin = "trained from scratch" if facts.start.startswith("random:") else f"fine-tuned from `{facts.start}`"
    settings = [f"| {name} | {value} |" for name, value in facts.settings.items()]
    return "\n".join(
        [
            *metadata,
            "---",
            "",
            f"# {facts.name}",
            "",
            f"A {facts.family} speech recogniser for `{facts.lang}`, {origin} on {facts.data}.",
            "",
            "| split | clips | WER | CER |",
            "|---|---|---|---|",
            *rows,
            "",
            "Rates are summed over the clips named, on greedily decoded text without a language model. "
            + (facts.normalisation or ""),
            "",
            "## Use",
            "",
            "```python",
            "import w2v",
            "",
            'asr = w2v.load("PATH/TO/THIS/FOLDER")',
            'print(asr.transcribe(["clip.mp3"])[0].text)',
            "```",
            "",
            f"The folder also loads with transformers: `{facts.model_class}.from_pretrained(...)` and "
            "`AutoProcessor.from_pretrained(...)`, on mono 16 kHz audio.",
            "",
            "## Training",
            "",
            "| setting | value |",
            "|---|---|",
            *settings,
            "",
        ]
    )


def _quoted(text: str) -> str:
    """A YAML string, which JSON's is; other scripts and emoji stay as they are."""
    return json.dumps(text, ensure_ascii=False)


def _percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{100 * rate:.2f} %"
