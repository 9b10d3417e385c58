"""docs/RESEARCH.md: every example runs, is short, and does what it says.

Run: pytest tests/test_research.py
"""

import functools
import re
import runpy
import sys

import pytest
import torch
from conftest import ROOT

import w2v

FOLDER = ROOT / "docs" / "research"
EXAMPLES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "sample")
MOST_LINES = 24


@pytest.fixture(scope="module")
def run():
    """name -> what `python docs/research/NAME.py` leaves."""
    sys.path.insert(0, str(FOLDER))

    @functools.cache
    def example(name: str) -> dict:
        torch.manual_seed(0)
        return runpy.run_path(str(FOLDER / f"{name}.py"))

    yield example
    sys.path.remove(str(FOLDER))
    sys.modules.pop("sample", None)


def test_the_page_lists_the_examples():
    page = (ROOT / "docs" / "RESEARCH.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\(research/(\w+)\.py\)", page)) - {"sample"}) == EXAMPLES
    assert len(EXAMPLES) == 10


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_heads", "phoneme_tokens", "cr_ctc", "distillation", "layerwise_rates"])
def test_what_trains_learns(name, run):
    losses = run(name)["losses"]
    assert len(losses) == 20 and losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_both_heads_are_in_the_loss_and_the_body_loads(run, tmp_path):
    left = run("two_heads")
    model, data = left["model"], left["data"]
    assert len({clip.speaker for clip in data.clips}) == 4
    model.losses(data.batch).values.sum().backward()
    for part in (model.who, model.lm_head, model.wav2vec2.encoder.layer_norm):
        assert part.weight.grad.abs().max() > 0
    w2v.Wav2Vec2ForCTC(data.config).save_pretrained(tmp_path)
    assert isinstance(left["TwoHeads"].from_pretrained(tmp_path), left["TwoHeads"])


@pytest.mark.slow
def test_two_views_are_pulled_together(run):
    """The value by hand: the mean of the views' CTC losses, and 0.2 of the symmetric divergence of their frames."""
    left = run("cr_ctc")
    data = left["sample"](mask_time_prob=0.125)
    model, batch = left["CRCTC"](data.config).train(), data.batch
    torch.manual_seed(1)
    values = model.losses(batch).values
    torch.manual_seed(1)
    one, other = (model(batch) for _ in range(2))
    ctc = sum(w2v.ctc_losses(*view[:2], batch.labels, batch.label_lengths, view.blank_id) for view in (one, other)) / 2
    p, q = one.logits.softmax(-1), other.logits.softmax(-1)
    apart = ((p - q) * (p / q).log()).sum((1, 2)) / 2 / batch.label_lengths
    assert (apart > 0).all()
    torch.testing.assert_close(values, ctc + 0.2 * apart, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_teacher_does_not_learn(run):
    model = run("distillation")["model"]
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(p.requires_grad for p in model.student.parameters())


@pytest.mark.slow
def test_the_share_of_masks_grows(run):
    left = run("own_specaugment")
    shares, losses = left["shares"], left["losses"]
    assert shares[0] == 0.0 and shares[-1] > 0.2 and losses[-1] < 0.7 * losses[0]
    assert left["model"].wav2vec2.masked_spec_embed in left["optimizer"].state  # it learned, so masks were laid


@pytest.mark.slow
def test_phonemes_are_tokens_of_several_letters(run):
    left = run("phoneme_tokens")
    assert {"dʒ", "ʃ"} & set(left["tokens"])
    assert left["tokenizer"].decode(left["labels"][0], group_tokens=False) == left["spoken"][0]


@pytest.mark.slow
def test_frozen_layers_stay_and_the_others_move(run):
    left = run("freeze_layers")
    still = set(left["before"]) - set(left["moved"])
    assert {name for name in still if ".layers." in name} == {
        name for name in left["before"] if re.search(r"\.encoder\.layers\.[01]\.", name)
    }
    assert {"wav2vec2.masked_spec_embed", "wav2vec2.feature_projection.projection.weight"} <= still
    assert "lm_head.weight" in left["moved"]


@pytest.mark.slow
def test_rates_fall_from_layer_to_layer(run):
    left = run("layerwise_rates")
    rates, groups = left["rates"], left["optimizer"].param_groups
    assert left["optimizer"].state  # it is the one that trained
    assert rates == pytest.approx([2e-3 * 0.8**n for n in range(6)])
    assert sum(len(group["params"]) for group in groups) == len(list(left["model"].parameters()))


def test_a_linear_probe_tells_more_than_chance(run):
    assert run("probe_layer")["accuracy"] > 0.7


def test_the_streamed_frames_are_all_frames(run):
    left = run("streaming_emissions")
    assert len(left["pieces"]) > 2
    frames, wanted = sum(map(len, left["pieces"])), len(left["recording"]) // left["hop"]
    assert wanted - len(left["pieces"]) <= frames <= wanted


def test_the_features_of_a_folder(run, clips):
    left = run("folder_features")
    assert list(left["features"]) == [clip.name for clip in clips[:10]]
    config = left["data"].config
    for clip in clips[:2]:
        assert left["features"][clip.name].shape == (config.frames(len(w2v.read_audio(clip))), config.hidden_size)
