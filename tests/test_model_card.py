"""Model cards: true, whole, and readable whatever the names in them hold.

Run: pytest tests/test_model_card.py
"""

import ast
import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from w2v.data.manifest import Release
from w2v.metrics import ErrorRates
from w2v.model_card import CardFacts, Share, model_card

FACTS = CardFacts(
    name="wav2vec2-xlsr-53-tr",
    lang="tr",
    family="wav2vec 2.0",
    model_type="wav2vec2",
    model_class="Wav2Vec2ForCTC",
    has_frames=True,
    start="xlsr-53",
    hub_id="facebook/wav2vec2-large-xlsr-53",
    licence="apache-2.0",
    data="Common Voice 17.0 (cv-corpus-17.0)",
    releases=[Release("scripted", "cv-corpus-17.0", "17.0", "tr")],
    data_names=["cv-corpus-17.0"],
    split_names=(["train"], "dev", "test"),
    splits={"train": Share(100, 12.5, 7), "dev": Share(10, 1.0, 2), "test": Share(10, 1.0, 0)},
    results={"test": ErrorRates(0.25, 0.0625, 10), "train": ErrorRates(0.1, 0.05, 100)},
    headline="wer",
    hardware="2 x NVIDIA H100",
    training_seconds=5000.0,
    weights_of=300,
    steps=(350, 400),
    settings={"lr": 1e-4, "batch_clips": None},
    normalisation={"lang": "tr"},
    tags=["robust-speech-event"],
)
NASTY = [
    "a: b # c", "- x", "---", "no", "1e3", "'\"", "back`tick``s", "pipe|pipe", "<script>alert(1)</script>", "&lt;",
    "new\nline", "tab\tand\r\nreturn", "nul\0", "esc\x1b[2J", "\u2028\u2029\x85", "\udcff\ud83d", "emoji 😀👩‍👩‍👧",
    "می‌خواهم", "ქართული", "[a](http://x)", "![a](b)", "*b* _c_ ~~d~~ \\", "{{ x }}", "%s %", "```", "\u202eevil", "$x$",
    ("long --- " * 40).strip(),
]  # fmt: skip


def named(name: str, **others) -> CardFacts:
    """Facts with this name in every place where a file's or folder's name can stand."""
    return dataclasses.replace(
        FACTS, name=f"m {name}", start=name, data=f"d {name}", data_names=[name], hardware=f"h {name}",
        releases=[Release("table", name)], normalisation={"keep": name}, **others,
    )  # fmt: skip


def parts(card: str) -> tuple[str, str]:
    """YAML and Markdown."""
    assert card.startswith("---\n")
    yaml_text, text = card.removeprefix("---\n").split("\n---\n", 1)
    return yaml_text, text


def metadata(card: str) -> dict:
    return yaml.safe_load(parts(card)[0])


def test_what_the_hub_reads():
    data = metadata(model_card(FACTS))
    assert data["language"] == "tr"
    assert data["license"] == "apache-2.0"
    assert data["base_model"] == "facebook/wav2vec2-large-xlsr-53"
    assert data["metrics"] == ["wer", "cer"]
    assert data["tags"] == [
        "automatic-speech-recognition", "common_voice", "speech", "wav2vec2", "w2v", "robust-speech-event"
    ]  # fmt: skip
    assert "datasets" not in data, "Common Voice is on the Hub no longer"
    [index] = data["model-index"]
    [result] = index["results"]
    assert result["dataset"] == {
        "name": "Common Voice 17.0 (cv-corpus-17.0)", "type": "common_voice_17_0", "config": "tr", "split": "test"
    }  # fmt: skip
    assert {m["type"]: m["value"] for m in result["metrics"]} == {"wer": 25.0, "cer": 6.25}
    data = metadata(model_card(dataclasses.replace(FACTS, lang="sv-SE")))
    assert (data["language"], data["language_bcp47"]) == ("sv", ["sv-SE"])
    assert metadata(model_card(dataclasses.replace(FACTS, lang="no")))["language"] == "no", "not false"


def test_what_is_not_known_is_left_out():
    facts = dataclasses.replace(FACTS, licence="", hub_id="", start="random:tiny", headline="cer")
    data = metadata(model_card(facts))
    assert not {"license", "base_model", "datasets"} & set(data)
    assert data["metrics"] == ["cer", "wer"]
    for results in ({}, {"dev": ErrorRates(0.5, 0.2, 3)}, {"test": ErrorRates(None, None, 0)}):
        card = model_card(dataclasses.replace(facts, results=results))
        assert "model-index" not in metadata(card)
        assert "## Evaluation" not in card


@pytest.mark.parametrize(("releases", "kind", "is_common_voice"), [
    ([("scripted", "25.0")], "common_voice_25_0", True),
    ([("scripted", "")], "common_voice", True),
    ([("spontaneous", "3.0")], "common_voice_spontaneous_3_0", True),
    ([("table", "")], "custom", False),
    ([("scripted", "17.0"), ("table", "")], "custom", True),
    ([("scripted", "17.0"), ("scripted", "25.0")], "custom", True),
])  # fmt: skip
def test_data_is_called_what_it_is(releases, kind, is_common_voice):
    facts = dataclasses.replace(FACTS, releases=[Release(k, "x", version) for k, version in releases])
    data = metadata(model_card(facts))
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == kind
    assert ("common_voice" in data["tags"]) == is_common_voice


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_read_back_by_yaml_and_by_the_hubs_own_reader(name):
    card = model_card(named(name))
    card.encode("utf-8")
    [index] = metadata(card)["model-index"]
    shown = index["results"][0]["dataset"]["name"]
    assert index["name"].startswith("m")
    assert shown.startswith("d")
    assert "\n" not in shown
    if name.isprintable():
        assert shown == f"d {name}"
    read = ModelCard(card)
    assert read.data.eval_results[0].dataset_name == shown
    assert read.data.model_name == index["name"]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_becomes_markdown_or_html(name):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    card = model_card(named(name))
    tokens = markdown.parse(parts(card)[1])
    assert not [t for t in tokens if t.type == "html_block"]
    inline = [child for token in tokens for child in token.children or []]
    assert {t.type for t in inline} <= {"text", "code_inline", "softbreak", "text_special"}
    assert [t.type for t in tokens].count("heading_open") == 5, "no name is a heading"
    assert [t.type for t in tokens].count("table_open") == 3
    assert len([t for t in tokens if t.type == "fence"]) == 3
    widths = re.findall(r"<tr>(.*?)</tr>", markdown.render(parts(card)[1]), re.DOTALL)
    assert {row.count("<th") + row.count("<td") for row in widths} == {2, 4}
    shown = ["".join(child.content for child in token.children or []) for token in tokens]
    if name.isprintable():
        assert f"m {name}" in shown, "the title"
        assert f"h {name}" in shown, "a cell"
        assert name in [token.content for token in inline if token.type == "code_inline"]


@pytest.mark.parametrize("name", NASTY)
def test_the_snippets_are_python_and_name_the_data(name):
    card = model_card(named(name))
    blocks = re.findall(r"^(`{3,})python\n(.*?)\n\1$", card, re.MULTILINE | re.DOTALL)
    trees = [ast.parse(code) for _, code in blocks]
    assert len(trees) == 3
    assert name in [node.value for node in ast.walk(trees[2]) if isinstance(node, ast.Constant)]


def test_people_read_hours_speakers_hardware_and_time():
    card = model_card(FACTS)
    assert "| train | 100 | 12.50 | 7 |" in card
    assert "| test | 10 | 1.00 | not known |" in card
    assert "| hardware | 2 x NVIDIA H100 |" in card
    assert "| training time | 1 h 23 min |" in card
    assert "| steps | 350 of 400; the weights are of step 300 |" in card
    assert "| test | 10 | 25.00 % | 6.25 % |" in card
    assert "batch\\_clips" not in card, "a setting that was not used"
    assert "training goes on" not in card


def test_a_card_of_the_best_weights_so_far_says_so():
    card = model_card(
        dataclasses.replace(FACTS, results={"dev": ErrorRates(0.5, 0.2, 10)}, weights_of=200, steps=(200, 400))
    )
    assert "of step 200 of 400: training goes on" in card
    assert "| dev | 10 | 50.00 % | 20.00 % |" in card


def test_a_repository_stands_in_every_snippet():
    card = model_card(dataclasses.replace(FACTS, repository="someone/model"))
    assert card.count("'someone/model'") == 4
    assert "PATH/TO" not in card


def test_a_model_without_frames_gets_no_snippet_that_takes_their_argmax():
    card = model_card(dataclasses.replace(FACTS, has_frames=False, model_class="WhisperForConditionalGeneration"))
    assert "argmax" not in card
    assert "from transformers import AutoProcessor, WhisperForConditionalGeneration" in card
    assert "model.generate(**inputs)" in card
