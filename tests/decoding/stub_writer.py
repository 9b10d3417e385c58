"""A model that writes, whose logits are a function of what was written: for tests of decoding."""

from types import SimpleNamespace

import torch

from w2v.answers import Batch
from w2v.models.whisper_config import Generation


class History:
    """Stands in for a cache: the tokens of each row, and the window that each looks at."""

    def __init__(self, windows: list[int]):
        self.windows, self.rows = windows, [[] for _ in windows]

    def keep(self, rows, clips) -> None:
        self.rows = [list(self.rows[i]) for i in rows.tolist()]
        if clips is not None:
            self.windows = [self.windows[i] for i in clips.tolist()]


class StubWriter:
    """rule(window, tokens) -> logits (V,), for a window's number and all its tokens, prompt included."""

    emissions = None

    def __init__(
        self, rule, size: int, positions: int = 40, window: int = 480_000, generation: Generation | None = None
    ):
        self.rule, self.training, self.reads = rule, False, 0
        self.config = SimpleNamespace(
            vocab_size=size, max_target_positions=positions, generation=generation or Generation(), window=window,
            hop=320, collate=self.collate,
        )  # fmt: skip
        self.windows: list[float] = []  # the first sample of each that was heard

    def parameters(self):
        return iter([torch.zeros(1)])

    def eval(self):
        return self

    def train(self, mode: bool = True):
        return self

    def collate(self, waveforms) -> Batch:
        return SimpleNamespace(to=lambda device: waveforms)

    def hear(self, waveforms):
        """(B, 1, 1): the number of each window, counted over all calls."""
        first = len(self.windows)
        self.windows += [float(waveform[0]) for waveform in waveforms]
        return torch.arange(first, len(self.windows)).float()[:, None, None]

    def start(self, heard):
        return [History([int(number) for number in heard[:, 0, 0]])]

    def read(self, tokens, cache):
        self.reads += 1
        history, per_window = cache[0], len(tokens) // len(cache[0].windows)
        out = []
        for row, new in enumerate(tokens.tolist()):
            columns = []
            for token in new:
                history.rows[row].append(token)
                columns.append(self.rule(history.windows[row // per_window], history.rows[row]))
            out.append(torch.stack(columns))
        return torch.stack(out)

    def logits(self, hidden):
        return hidden
