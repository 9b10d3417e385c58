"""Maps of one input as one product = each by itself, forward and gradients.

Run: pytest tests/kernels/test_joined_linear.py
"""

import torch
from torch import nn

from w2v.kernels.joined_linear import joined_linear


def test_equals_each_map_by_itself():
    torch.manual_seed(0)
    maps, x = [nn.Linear(24, width) for width in (16, 8, 16)], torch.randn(2, 5, 24, requires_grad=True)
    inputs = [x, *(p for each in maps for p in each.parameters())]
    out, wanted = joined_linear(x, maps), [each(x) for each in maps]
    assert [each.shape for each in out] == [(2, 5, 16), (2, 5, 8), (2, 5, 16)]
    upstream = [torch.randn_like(each) for each in wanted]
    for ours, theirs in zip(out, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(*(torch.autograd.grad(o, inputs, upstream) for o in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_map_beside_trained_ones_gets_no_gradient():
    maps, x = [nn.Linear(4, 4) for _ in range(3)], torch.randn(3, 4)
    maps[1].requires_grad_(False)
    torch.cat(joined_linear(x, maps)).sum().backward()
    assert [each.weight.grad is None for each in maps] == [False, True, False]
