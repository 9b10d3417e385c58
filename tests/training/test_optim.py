"""Schedules against numbers worked out by hand, and clipping.

Run: pytest tests/training/test_optim.py
"""

import pytest
import torch

from w2v.errors import InputError
from w2v.training.optim import clip_and_update, schedule


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
