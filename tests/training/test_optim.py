"""What trains and how fast: frozen layers, rates by layer, schedules against numbers worked out by hand, clipping.

Run: pytest tests/training/test_optim.py
"""

import dataclasses

import numpy as np
import pytest
import torch

import w2v
from w2v.errors import InputError
from w2v.training.optim import adamw, clip_and_update, freeze_lowest, schedule
from w2v.training.state import Progress, load_state, save_state
from w2v.training.step import TrainStep

NARROW = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "conv_dim": (32,) * 7}
CONFIGS = {
    "base": dataclasses.replace(w2v.BASE, **NARROW, **POSITIONS),
    "large-lv60": dataclasses.replace(w2v.LARGE_LV60, **NARROW, **POSITIONS),
    "w2v-bert": dataclasses.replace(w2v.W2V_BERT_2, **NARROW, add_adapter=True),
    "whisper": w2v.WhisperConfig(
        vocab_size=320, d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=40, num_mel_bins=80, max_source_positions=100,
        max_target_positions=40, pad_token_id=300, bos_token_id=300, eos_token_id=300, decoder_start_token_id=301,
    ),
}  # fmt: skip
# What lies below the first layer, and what of the body lies behind the last one, by the beginnings of names.
BELOW = {
    "base": (
        "feature_extractor.",
        "feature_projection.",
        "masked_spec_embed",
        "encoder.pos_conv",
        "encoder.layer_norm.",
    ),
    "large-lv60": ("feature_extractor.", "feature_projection.", "masked_spec_embed", "encoder.pos_conv"),
    "w2v-bert": ("feature_projection.", "masked_spec_embed"),
    "whisper": ("encoder.conv1.", "encoder.conv2."),
}
BODIES = {"base": "wav2vec2.", "large-lv60": "wav2vec2.", "w2v-bert": "wav2vec2_bert.", "whisper": "model."}
LAYERS = {name: [f"encoder.layers.{k}." for k in range(3)] for name in CONFIGS}
LAYERS["whisper"] += [f"decoder.layers.{k}." for k in range(2)]


def make(name: str) -> torch.nn.Module:
    kinds = {"whisper": w2v.WhisperForConditionalGeneration, "w2v-bert": w2v.Wav2Vec2BertForCTC}
    torch.manual_seed(0)
    return kinds.get(name, w2v.Wav2Vec2ForCTC)(CONFIGS[name]).train()


def batch(name: str) -> w2v.Batch:
    draw = np.random.default_rng(0)
    waveforms = [draw.normal(0, 0.1, n).astype(np.float32) for n in (16_000, 12_345)]
    return CONFIGS[name].collate(waveforms, [[1, 2, 3], [4, 5]], ["one", "other"])


def take(step: TrainStep, batch: w2v.Batch, number: int) -> None:
    step.begin(number)
    step.backward(step.losses(batch, last=True), step.total_weight([batch]))
    step.update()


def make_step(model, lr: float = 1e-3, layer_decay: float = 0.5, **options) -> TrainStep:
    return TrainStep(model, adamw(model, lr, (0.9, 0.999), 0.0, layer_decay), lambda _: 1.0, **options)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_has_a_share_of_the_rate_above_it(name):
    model, body = make(name), BODIES[name]
    rates = {
        id(p): group["lr"] for group in adamw(model, 1.0, (0.9, 0.999), 0.0, 0.5).param_groups for p in group["params"]
    }
    layers = LAYERS[name]
    for parameter_name, parameter in model.named_parameters():
        inside = parameter_name.removeprefix(body)
        at = [len(layers) - k for k, layer in enumerate(layers) if inside.startswith(layer)]
        wanted = at[0] if at else (len(layers) + 1) * inside.startswith(BELOW[name])
        assert rates.pop(id(parameter)) == 0.5**wanted, parameter_name
    assert not rates


@pytest.mark.parametrize("name", CONFIGS)
def test_the_lowest_layers_and_all_below_are_frozen(name):
    body, layers = BODIES[name], LAYERS[name]
    for count in range(1, len(layers) + 1):
        model = make(name)
        freeze_lowest(model, count)
        frozen = (*BELOW[name], *layers[:count])
        if name == "whisper" and count > 3:
            frozen += ("encoder.layer_norm.",)
        for parameter_name, parameter in model.named_parameters():
            is_frozen = parameter_name.removeprefix(body).startswith(frozen)
            assert parameter.requires_grad != is_frozen, (count, parameter_name)


@pytest.mark.parametrize("count", [-1, 0, 4])
def test_layers_that_are_not_there_cannot_be_frozen(count):
    with pytest.raises(
        InputError, match=f"`freeze_layers` must be from 1 to 3, the layers of this model, got {count};"
    ):
        freeze_lowest(make("base"), count)


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.01, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(InputError, match="`layer_decay` must be above 0 and at most 1, got"):
        adamw(make("base"), 1e-3, (0.9, 0.999), 0.0, decay)


def test_a_decay_needs_layers_that_learn():
    model = make("base")
    model.parts.encoder.requires_grad_(False)
    with pytest.raises(InputError, match="`layer_decay` needs layers that learn"):
        adamw(model, 1e-3, (0.9, 0.999), 0.0, 0.5)
    assert len(adamw(model, 1e-3, (0.9, 0.999), 0.0).param_groups[0]["params"]) == 2  # the head's


def test_without_decay_there_is_one_group_in_the_models_order():
    model = make("large-lv60")
    model.parts.frozen[0].requires_grad_(False)
    [group] = adamw(model, 1e-3, (0.9, 0.98), 0.01).param_groups
    wanted = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 1e-3, (0.9, 0.98), 1e-8, 0.01, fused=True
    )
    assert [id(p) for p in group["params"]] == [id(p) for p in wanted.param_groups[0]["params"]]
    assert {n: v for n, v in group.items() if n != "params"} == {
        n: v for n, v in wanted.param_groups[0].items() if n != "params"
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_moves_each_layer_by_its_rate(name):
    """AdamW's first step is the rate, whatever the gradient's size; clipping and skipping know all groups."""
    model = make(name)
    for stack in model.parts.stacks:
        stack.layerdrop, stack.checkpointing = 0.0, True
    freeze_lowest(model, 1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step = make_step(model, head_warmup_steps=1)
    take(step, batch(name), 0)
    body = BODIES[name]
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters()}
    head = {id(p) for p in model.parts.head.parameters()}
    assert all((moved[n] > 0) == (id(p) in head) for n, p in model.named_parameters() if "bias" not in n and moved[n])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    take(step, batch(name), 1)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters()}
    layers = LAYERS[name]
    for k, layer in enumerate(layers[:3]):  # the encoder's begin to learn now: this is AdamW's first step for them
        of_layer = [moved[n] for n in moved if n.removeprefix(body).startswith(layer)]
        assert max(of_layer) == pytest.approx(0.0 if k == 0 else 1e-3 * 0.5 ** (len(layers) - k), rel=1e-2)
    assert not any(moved[n] for n in moved if n.removeprefix(body).startswith(BELOW[name]))
    # A gradient that is not finite moves nothing, of no group.
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step.begin(2)
    losses = step.losses(batch(name), last=True)
    step.backward(losses._replace(values=losses.values * float("nan")), 1.0)
    step.update()
    assert all(p.detach().equal(before[n]) for n, p in model.named_parameters())


def test_a_state_with_groups_goes_on(tmp_path):
    """And with the rates of its own command; a state of other groups is refused."""
    steps = [make_step(make("large-lv60")) for _ in range(2)]
    take(steps[0], batch("large-lv60"), 0)
    save_state(tmp_path / "state.pt", steps[0], Progress(step=1))
    load_state(tmp_path / "state.pt", steps[1])
    for step in steps:
        take(step, batch("large-lv60"), 1)
    for one, other in zip(steps[0].model.parameters(), steps[1].model.parameters(), strict=True):
        assert one.equal(other)
    with pytest.raises(InputError, match="other parameters"):
        load_state(tmp_path / "state.pt", make_step(make("large-lv60"), layer_decay=1.0))


class Wrapped(torch.nn.Module):
    """A user's module around one of ours, with a head of its own."""

    def __init__(self, model):
        super().__init__()
        self.model, self.own = model, torch.nn.Linear(32, 2)

    @property
    def parts(self):
        return self.model.parts

    def losses(self, batch: w2v.Batch):
        losses = self.model.losses(batch)
        own = self.own(self.model.hidden_states(batch).layers[2].mean(1)).square().mean(1)
        return losses._replace(values=losses.values + own)


def test_a_module_around_a_model_trains_with_a_schedule_of_its_own():
    model = Wrapped(make("large-lv60"))
    freeze_lowest(model, 1)
    optimizer = adamw(model, 1e-2, (0.9, 0.999), 0.0, 0.5)
    step = TrainStep(model, optimizer, lambda number: (0.5, 0.0, 0.25)[number])
    [top] = [group for group in optimizer.param_groups if any(p is model.own.weight for p in group["params"])]
    rates, before = [], []
    for number in range(3):
        before.append(model.own.weight.detach().clone())
        take(step, batch("large-lv60"), number)
        rates.append(top["lr"])
    assert rates == [0.5e-2, 0.0, 0.25e-2]
    assert not before[0].equal(before[1]) and before[1].equal(before[2]) and not before[2].equal(model.own.weight)


def test_linear_goes_up_from_zero_and_down_to_zero():
    factor = schedule("linear", total_steps=10, warmup_steps=4)
    assert [factor(step) for step in range(11)] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    )


def test_linear_equals_transformers():
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 7, 40)
    factor = schedule("linear", 40, 7)
    for step in range(40):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_tri_stage_warms_up_holds_and_decays_to_five_percent():
    factor = schedule("tri-stage", total_steps=100, warmup_steps=10)
    assert factor(0) == pytest.approx(0.01)
    assert factor(5) == pytest.approx(0.505)
    assert [factor(step) for step in (10, 30, 49)] == [1, 1, 1]
    assert factor(75) == pytest.approx(0.05**0.5)
    assert factor(100) == factor(1000) == pytest.approx(0.05)


def test_no_warmup_and_unknown_names():
    assert schedule("linear", 10, 0)(0) == 1
    with pytest.raises(InputError, match="linear, tri-stage"):
        schedule("cosine", 10, 0)


@pytest.mark.parametrize("fp16", [False, True])
def test_a_norm_of_zero_clips_nothing(fp16):
    """As with every peer; once it multiplied all gradients by zero, and training stood still."""
    weights = []
    for clip in (True, False):
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.grad = torch.full((3,), 1e3)
        optimizer = torch.optim.AdamW([parameter], lr=0.1, eps=1.0, fused=True)
        if clip:
            scaler = torch.amp.GradScaler("cpu", enabled=fp16, init_scale=1.0)
            scaler.scale(torch.ones(()))
            assert clip_and_update(optimizer, scaler, max_norm=0.0) == pytest.approx(1e3 * 3**0.5)
        else:
            optimizer.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_clipping_within_the_update_equals_clipping_before_it(size):
    """Gradients below the bound stay as they are, those above it come down to it."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(7, 5)), torch.nn.Parameter(torch.randn(5))]
    results = []
    for clip in (True, False):
        model = torch.nn.ParameterList(torch.nn.Parameter(w.detach().clone()) for w in weights)
        # A large eps lets the update depend on the gradients' size, which AdamW otherwise divides away.
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1.0, fused=True)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for parameter in model:
                parameter.grad = size * torch.randn(parameter.shape, generator=generator)
            if clip:
                norm = clip_and_update(optimizer, torch.amp.GradScaler("cpu", enabled=False), max_norm=1.0)
            else:
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        results.append(torch.cat([norm[None], *(p.detach().flatten() for p in model)]))
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-6)
