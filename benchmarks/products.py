"""What the bare matrix products of a training step take: the ceiling of rows that are mostly products.

Shapes: M x K and K x N sides of a matrix product, G products of one size at once.
"""

import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from w2v.kernels.linear import mkl_is_slow
from w2v.kernels.torch_private import onednn_linear

REPEATS = 3  # of each bare product, by torch and by whatever else this CPU may take; the fastest counts


class Product(NamedTuple):
    """G products (M, K) x (K, N) of the forward pass, done `times` times, and what the backward pass adds."""

    times: int
    at_once: int  # G
    rows: int  # M
    inner: int  # K
    columns: int  # N
    gradients: int  # 2: of both factors; 1: of the second alone; 0: none


def products_seconds(products: Iterable[Product]) -> float:
    """What they take here, with those of the backward pass."""
    return sum(each.times * sum(seconds_of(*each[1:-1])[: 1 + each.gradients]) for each in products)


@cache
def seconds_of(at_once: int, rows: int, inner: int, columns: int) -> tuple[float, float, float]:
    """A linear map's product, the gradient of its weights (N, K), and that of its input (M, K)."""
    shape = (at_once,) if at_once > 1 else ()
    x, weight, gradient = (torch.randn(*shape, *s) for s in ((rows, inner), (columns, inner), (rows, columns)))
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [torch.bmm if shape else torch.mm]
    if not shape and mkl_is_slow():
        ways.append(lambda a, b: onednn_linear(a, b.mT, None))

    def fastest(a: Tensor, b: Tensor) -> float:
        times = []
        for product in REPEATS * ways:
            start = time.perf_counter()
            product(a, b)
            times.append(time.perf_counter() - start)
        return min(times)

    return fastest(x, weight.mT), fastest(gradient.mT, x), fastest(gradient, weight)
