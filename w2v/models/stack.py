"""A stack of transformer layers, run in turn."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LayerStack(nn.ModuleList):
    """x -> layer(x, *context) for each layer.

    layerdrop: in training each layer is left out with this probability (Fan et al. 2019), one draw per layer on the
    CPU. generator: where the draws come from; None: torch's own generator. checkpointing: recompute each layer in the
    backward pass, instead of keeping what it computed: less memory, a third more work.
    """

    def __init__(self, layers: Iterable[nn.Module], layerdrop: float = 0.0):
        super().__init__(layers)
        self.layerdrop = layerdrop
        self.checkpointing = False
        self.generator: torch.Generator | None = None
        self._states: list[Tensor] | None = None

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Within it, the list gets what goes into the first layer, then what comes out of each, dropped ones too."""
        states: list[Tensor] = []
        self._states = states
        try:
            yield states
        finally:
            self._states = None

    def forward(self, x: Tensor, *context: object) -> Tensor:
        for layer in self:
            if self._states is not None:
                self._states.append(x)
            # The draw lies outside the checkpoint: its second forward pass must not draw again.
            if self.training and torch.rand([], generator=self.generator) < self.layerdrop:
                continue
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, *context, use_reentrant=False)
            else:
                x = layer(x, *context)
        if self._states is not None:
            self._states.append(x)
        return x
