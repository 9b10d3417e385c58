"""What a frozen encoder makes of each clip, computed once: --freeze-encoder trains the decoder alone.

A clip's output is the same in every epoch, so it is kept in half precision in a file of the cache that goes when the
process ends. 1.5 MB a clip for Whisper base.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recipes.console import say
from w2v.answers import Batch
from w2v.precision import autocast

MOST_BYTES = 20e9


class KeptHearing:
    """The encoder's output for the clips of a run, by number; each process keeps those that it meets."""

    def __init__(self, model, clips: int, cache: Path, precision: str):
        config = model.config
        self.model, self.precision = model, precision
        self.shape = (clips, config.max_source_positions, config.d_model)
        cache.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=cache)  # noqa: SIM115  open as long as the run
        self.outputs = np.memmap(self.file, np.float16, "w+", shape=self.shape)
        self.is_kept = np.zeros(clips, bool)

    def __call__(self, numbers: list[int], batch: Batch) -> Batch:
        """The batch of these clips with the encoder's output, rounded to half precision the first time too."""
        device = next(self.model.parameters()).device
        if not self.is_kept[numbers].all():
            with torch.no_grad(), autocast(self.precision, device):
                heard = self.model.hear(batch.to(device))
            self.outputs[numbers] = heard.half().cpu().numpy()
            self.is_kept[numbers] = True
        return replace(batch, heard=torch.from_numpy(self.outputs[numbers]).to(device).float())


def kept_hearing(model, settings, clips: int, cache: Path) -> KeptHearing | None:
    """None where the output changes from epoch to epoch, where there is too much of it, or no encoder apart.

    settings: recipes.settings.Settings.
    """
    config = model.config
    if not settings.freeze_encoder or model.emissions is not None:
        return None
    drawn = (config.dropout, config.attention_dropout, config.activation_dropout, config.encoder_layerdrop)
    if config.apply_spec_augment or config.cut_windows or any(drawn) or settings.augment != "none":
        what = "masks, dropout, cut windows or --augment"
        say(f"the frozen encoder hears each clip in every epoch: {what} change what it hears")
        return None
    needed = 2 * clips * config.max_source_positions * config.d_model
    if needed > MOST_BYTES:
        say(f"the frozen encoder hears each clip in every epoch: to keep it takes {needed / 1e9:.0f} GB of disk")
        return None
    say(f"the frozen encoder hears each clip once: up to {needed / 1e9:.2f} GB in {cache}, until the run ends")
    return KeptHearing(model, clips, cache, settings.precision)
