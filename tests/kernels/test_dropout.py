"""The CPU's dropout: rate, scale, gradient, and that it follows torch's generator.

Run: pytest tests/kernels/test_dropout.py
"""

import pytest
import torch

from w2v.kernels.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_scale_and_gradient(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 999, dtype=dtype, requires_grad=True)
    out = dropout(x, p)
    kept = out != 0
    # Five standard deviations of a binomial share.
    assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    assert torch.equal(out[kept].unique(), torch.tensor([1 / (1 - p)], dtype=dtype))
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_neighbours_are_independent():
    """Four elements share one draw: none of its bits may be constant or repeated."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) != 0).double().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02
    assert (kept.mean(dim=0) - 0.5).abs().max() < 0.01


def test_follows_the_generator_and_rests_in_evaluation():
    x, layer = torch.randn(300), Dropout(0.3)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(layer(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert layer.eval()(x) is x
    assert (dropout(x, 1.0) == 0).all()
