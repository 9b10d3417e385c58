"""The training step: normalisation of the loss, accumulation, head warm-up, precision, state.

Run: pytest tests/training/test_step.py
"""

import copy
import dataclasses

import pytest
import torch

import w2v
from w2v.errors import InputError
from w2v.models.families import FAMILIES
from w2v.precision import resolve_precision
from w2v.training.optim import adamw
from w2v.training.state import Progress, load_state, save_state
from w2v.training.step import StepResult, TrainStep, no_masks, try_batch, was_skipped, without_loss


def make_step(model, **options) -> TrainStep:
    return TrainStep(model.train(), adamw(model, 1e-3, (0.9, 0.999), 0.0), lambda step: 1.0, **options)


def take(step: TrainStep, batches: list[w2v.Batch], number: int) -> StepResult:
    step.begin(number)
    total = step.total_weight(batches)
    for batch in batches:
        step.backward(step.losses(batch, last=batch is batches[-1]), total)
    return step.update()


def clips(*seconds: float):
    generator = torch.Generator().manual_seed(5)
    waveforms = [torch.randn(int(s * 16_000), generator=generator).numpy() for s in seconds]
    labels = [torch.randint(0, 30, (3 + 2 * i,), generator=generator).tolist() for i in range(len(seconds))]
    return waveforms, labels, [f"clip{i}" for i in range(len(seconds))]


def batch(*numbers: int) -> w2v.Batch:
    waveforms, labels, names = clips(1.0, 1.7, 2.1, 0.9, 1.2)
    return w2v.TINY.collate([waveforms[i] for i in numbers], [labels[i] for i in numbers], [names[i] for i in numbers])


def gradients(model, batches) -> torch.Tensor:
    """The gradient of one effective batch, caught before the optimiser uses it."""
    step = make_step(model, max_grad_norm=float("inf"))
    caught = []
    step.optimizer.step = lambda *_: caught.append(
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    )
    take(step, batches, 0)
    return caught[0]


def test_accumulation_does_not_change_the_gradient(small_config):
    """Micro-batches of unequal size: the mean is over clips, not over micro-batches."""
    model = w2v.Wav2Vec2ForCTC(small_config)
    together = gradients(model, [batch(0, 1, 2, 3, 4)])
    apart = gradients(model, [batch(0, 3), batch(1, 2), batch(4)])
    assert (together - apart).norm() <= 1e-5 * together.norm()


def test_gradient_is_that_of_the_mean_of_normalised_losses(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    data = batch(0, 1, 2)
    w2v.ctc_loss(model(data), data.labels, data.label_lengths).backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    assert (gradients(model, [data]) - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize("accumulated", [False, True])
def test_masks_begin_at_their_step(small_config, accumulated):
    """Losses are those of a model without masks before it, and those of one with masks from then on."""
    masked = dataclasses.replace(small_config, apply_spec_augment=True, mask_time_prob=0.5)
    batches = [batch(0, 3), batch(1, 2)] if accumulated else [batch(0, 1, 2, 3)]

    def losses(config, number: int, mask_from: int = 0) -> torch.Tensor:
        torch.manual_seed(0)
        step = make_step(w2v.Wav2Vec2ForCTC(config), mask_from=mask_from)
        found = take(step, batches, number).losses
        assert step.model.config == config  # what is exported says what the run does
        return found

    with_masks, without = losses(masked, 7), losses(small_config, 7)
    assert not torch.allclose(with_masks, without, rtol=1e-3)
    assert torch.equal(losses(masked, 7, mask_from=8), without)
    assert torch.equal(losses(masked, 7, mask_from=7), with_masks)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_no_masks_reaches_all_that_draw_them(family):
    config = dataclasses.replace(next(iter(family.shapes.values())), apply_spec_augment=True)
    with torch.device("meta"):
        model = family.model(config)

    def drawn() -> set[bool]:
        return {module.config.apply_spec_augment for module in model.modules() if hasattr(module, "config")}

    with no_masks(model):
        assert drawn() == {False}
    assert drawn() == {True}


def test_checkpointing_does_not_change_the_gradient(small_config):
    model = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, hidden_dropout=0.1, layerdrop=0.3))
    results = []
    for on in (False, True):
        model.parts.stacks[0].checkpointing = on
        torch.manual_seed(7)
        results.append(gradients(model, [batch(0, 1)]))
        model.zero_grad()
    assert torch.equal(*results)


def test_clipping_and_reports(small_config):
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small_config)
    step = make_step(model, max_grad_norm=1e-3)
    result = take(step, [batch(0, 1), batch(2)], 0)
    assert result.names == ["clip0", "clip1", "clip2"]
    assert result.losses.shape == (3,)
    assert result.counts["frames"] == sum(small_config.frames(n) for n in (16000, 27200, 33600))
    assert result.counts["labels"] == 3 + 5 + 7
    assert result.weights == [1, 1, 1]
    assert 0 <= result.counts["blank_frames"] <= result.counts["frames"]
    assert result.grad_norm > 1e-3


def test_head_warmup_trains_the_head_alone(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config)
    model.parts.frozen[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    step = make_step(model, head_warmup_steps=1)
    take(step, [batch(0)], 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight", "lm_head.bias"}
    take(step, [batch(0)], 1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("encoder.layers" in name for name in changed)
    assert not any("feature_extractor" in name for name in changed), "the convolutions stay frozen"


def state_of(step: TrainStep) -> list[torch.Tensor]:
    """Weights, moments and counts of updates, as they are now."""
    moments = [value for moments in step.optimizer.state.values() for value in moments.values()]
    return [value.detach().clone() for value in [*step.model.parameters(), *moments]]


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_step_with_a_loss_that_is_not_finite_changes_nothing_and_names_the_clips(small_config, max_grad_norm):
    step = make_step(w2v.Wav2Vec2ForCTC(small_config), max_grad_norm=max_grad_norm)
    assert not was_skipped(take(step, [batch(0)], 0))
    before = state_of(step)
    waveforms, labels, names = clips(1.0, 1.0)
    labels[1] = [1] * 100  # more labels than frames
    result = take(step, [batch(2), small_config.collate(waveforms, labels, names)], 1)
    assert was_skipped(result) and result.number == 1
    assert without_loss(result) == ["clip1"]
    assert all(map(torch.equal, state_of(step), before))
    assert not was_skipped(take(step, [batch(0)], 2))
    assert not all(map(torch.equal, state_of(step), before))


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(small_config):
    step = make_step(w2v.Wav2Vec2ForCTC(small_config))
    before = state_of(step)
    handle = step.model.lm_head.bias.register_hook(lambda gradient: gradient / 0)
    result = take(step, [batch(0)], 0)
    handle.remove()
    assert was_skipped(result) and without_loss(result) == []
    assert all(map(torch.equal, state_of(step), before))


def test_an_infinite_loss_is_never_hidden_by_gradients_that_are_finite(small_config):
    """Whatever a loss's backward pass makes of it, every rank must see it in the norm."""
    step = make_step(w2v.Wav2Vec2ForCTC(small_config))
    step.begin(0)
    one = batch(0)
    losses = step.losses(one, last=True)
    step.backward(losses._replace(values=losses.values + torch.inf), step.total_weight([one]))
    assert was_skipped(step.update())


def test_trying_a_batch_leaves_no_trace(small_config):
    model = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, hidden_dropout=0.1))
    step = make_step(model)
    weights, randomness = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    try_batch(step, batch(2))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(p.grad is None for p in model.parameters())


def test_out_of_memory_says_what_to_lower(small_config, monkeypatch):
    step = make_step(w2v.Wav2Vec2ForCTC(small_config))

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(step.model, "forward", full)
    with pytest.raises(InputError, match="`batch_seconds`"):
        try_batch(step, batch(2))


def test_precision(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("w2v.precision.cpu_has_bf16_products", lambda: True)
    assert resolve_precision("auto", cpu) == resolve_precision("bf16", cpu) == "bf16"
    monkeypatch.setattr("w2v.precision.cpu_has_bf16_products", lambda: False)
    assert resolve_precision("auto", cpu) == resolve_precision("bf16", cpu) == resolve_precision("fp32", cpu) == "fp32"
    for wrong in ("fp16", "fp8"):
        with pytest.raises(InputError):
            resolve_precision(wrong, cpu)


def test_bf16_trains_with_fp32_weights_and_logits(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config)
    full = take(make_step(copy.deepcopy(model)), [batch(0, 1)], 0)
    result = take(make_step(model, precision="bf16"), [batch(0, 1)], 0)
    assert torch.isfinite(result.losses).all()
    torch.testing.assert_close(result.losses, full.losses, rtol=0.05, atol=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_saved_state_goes_on_bit_for_bit(small_config, tmp_path):
    small_config = dataclasses.replace(small_config, hidden_dropout=0.2, layerdrop=0.2)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small_config)
    step = make_step(model)
    take(step, [batch(0, 1)], 0)
    save_state(tmp_path / "a.pt", step, Progress(step=1, best_cer=0.5))
    take(step, [batch(2)], 1)
    other = make_step(w2v.Wav2Vec2ForCTC(small_config))
    torch.manual_seed(99)
    assert load_state(tmp_path / "a.pt", other) == Progress(step=1, best_cer=0.5)
    take(other, [batch(2)], 1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_broken_state_is_refused(small_config, tmp_path, content):
    step = make_step(w2v.Wav2Vec2ForCTC(small_config))
    file = tmp_path / "a.pt"
    if content is None:
        save_state(file, step, Progress())
        content = file.read_bytes()[:-5000]
    file.write_bytes(content)
    with pytest.raises(InputError, match="cannot resume"):
        load_state(file, step)


def other_state(state: dict, change: str) -> None:
    """Put something else where the name says, as a damaged disk or a stranger would."""
    first = next(iter(state["optimizer"]["state"].values()))
    if change == "progress":
        state["progress"] = [1]
    elif change.startswith("progress."):
        _, name, value = change.split(".", 2)
        state["progress"][name] = {"text": "3", "below": -1, "nan": float("nan"), "list": [1], "huge": 10**30}[value]
    elif change == "moments of another shape":
        first["exp_avg"] = torch.zeros(3)
    elif change == "moments without end":
        first["exp_avg"] = torch.zeros(1).expand(10**9)
    elif change == "no moments":
        first["exp_avg"] = None
    elif change == "other parameters":
        state["optimizer"]["param_groups"][0]["params"].pop()
    elif change == "no scaler":
        del state["scaler"]
    elif change == "a scaler of text":
        state["scaler"] = {"scale": "a"}
    else:
        state["model"] = {name: value[..., :1] for name, value in state["model"].items()}


@pytest.mark.parametrize(
    "change",
    ["progress", "progress.step.text", "progress.step.below", "progress.best_cer.nan", "progress.best_step.list",
     "progress.epoch.huge", "progress.audio_seconds.nan", "moments of another shape", "moments without end",
     "no moments", "other parameters", "no scaler", "a scaler of text", "other weights"],
)  # fmt: skip
def test_a_damaged_state_is_one_line_that_names_it_and_the_remedy(change, small_config, tmp_path):
    step = make_step(w2v.Wav2Vec2ForCTC(small_config))
    take(step, [batch(0)], 0)
    file = tmp_path / "step-0000001.pt"
    save_state(file, step, Progress(step=1))
    state = torch.load(file, weights_only=True)
    other_state(state, change)
    torch.save(state, file)
    with pytest.raises(InputError, match=r"cannot resume from .*step-0000001\.pt.*; delete it to resume") as error:
        load_state(file, step)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


def test_a_state_runs_no_code_and_says_what_it_asked_for(small_config, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "planted"), "w")

    torch.save({"model": Evil()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"asks for io.open; nothing was run.; delete it"):
        load_state(tmp_path / "a.pt", make_step(w2v.Wav2Vec2ForCTC(small_config)))
    assert not (tmp_path / "planted").exists()


def test_every_parameter_group_keeps_its_own_peak_rate(small_config):
    """Layer-wise decay: the schedule scales each group's rate."""
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    groups = [{"params": model.wav2vec2.parameters(), "lr": 1e-4}, {"params": model.lm_head.parameters(), "lr": 1e-2}]
    step = TrainStep(model, torch.optim.AdamW(groups, fused=True), lambda number: 1 / (1 + number))
    for number, factor in ((0, 1.0), (1, 0.5)):
        take(step, [batch(0)], number)
        assert [group["lr"] for group in step.optimizer.param_groups] == pytest.approx([1e-4 * factor, 1e-2 * factor])


def test_an_optimiser_that_cannot_skip_a_step_is_refused(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config)
    with pytest.raises(InputError, match="fused=True"):
        TrainStep(model, torch.optim.AdamW(model.parameters()), lambda _: 1.0)


@pytest.mark.parametrize("where", ["w2v.ctc.ctc_losses", "torch.Tensor.backward", "w2v.training.step.clip_and_update"])
def test_a_step_that_does_not_fit_says_what_to_lower(small_config, monkeypatch, where):
    """The worst batch is tried first, but fragments or another process can fill the GPU later."""

    def full(*_, **__):
        raise torch.OutOfMemoryError

    step = make_step(w2v.Wav2Vec2ForCTC(small_config))
    monkeypatch.setattr("w2v.models.ctc_answers.ctc_losses" if "ctc" in where else where, full)
    with pytest.raises(InputError, match=r"2 clips of up to 1\.7 s do not; lower `batch_seconds`"):
        take(step, [batch(0, 1)], 0)


def test_a_tried_batch_leaves_room_for_the_optimisers_moments(small_config, monkeypatch):
    model = w2v.Wav2Vec2ForCTC(small_config)
    step, held, empty = make_step(model), [], torch.empty

    def spy(*size, **options):
        if options.get("dtype") == torch.uint8:
            held.append(size[0])
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", spy)
    try_batch(step, batch(2))
    assert held == [8 * sum(p.numel() for p in model.parameters())]
    take(step, [batch(2)], 0)
    try_batch(step, batch(2))
    assert held[1:] == [0], "after the first update the moments lie in memory themselves"


@pytest.mark.cuda
def test_a_step_reads_nothing_back_from_the_gpu(small_config):
    """A batch that lies on the GPU already, as in the benchmark, too."""
    step = make_step(w2v.Wav2Vec2ForCTC(small_config).cuda())
    batches = [batch(0, 1), batch(2).to("cuda")]
    take(step, batches, 0)  # moments, kernels and plans are made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = take(step, batches, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not was_skipped(result)


@pytest.mark.cuda
def test_step_on_a_gpu_agrees_with_the_cpu(small_config):
    model = w2v.Wav2Vec2ForCTC(small_config)
    on_cpu = take(make_step(copy.deepcopy(model)), [batch(0, 1)], 0)
    on_gpu = take(make_step(model.cuda()), [batch(0, 1)], 0)
    torch.testing.assert_close(on_gpu.losses.cpu(), on_cpu.losses, rtol=1e-3, atol=1e-3)
