"""A fine-tuned folder as an ONNX graph: padded inputs and their lengths in, logits and their lengths out.

The inputs are what the model hears: waveforms (batch, samples), or W2V-BERT's features (batch, rows, 160).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recipes.console import say
from w2v.errors import InputError
from w2v.files import write_whole
from w2v.models.families import family_of
from w2v.weights.hf import read_fields


class _Exportable(nn.Module):
    """The model with plain tensors in and out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(inputs, lengths)
        return out.logits, out.logit_lengths


def export_onnx(source: Path, destination: Path) -> dict:
    """Write DESTINATION/model.onnx with dynamic batch and time axes. InputError without the `onnx` extra."""
    try:
        import onnx  # noqa: F401 - torch.onnx imports it deep inside, with a traceback where it is missing
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError('--to onnx needs the onnx extra; install it with pip install -e ".[onnx]"') from None
    model = family_of(read_fields(source)).model.from_pretrained(source)
    samples = [32_000, 24_000]
    noise = np.random.default_rng(0).standard_normal((2, max(samples)), np.float32)
    batch = model.config.collate([row[:n] for row, n in zip(noise, samples, strict=True)], pad=True)
    hears_samples = batch.inputs.dim() == 2
    lengths = torch.tensor(samples) if hears_samples else batch.layout.lengths
    name = "waveforms" if hears_samples else "features"
    size, time = torch.export.Dim("batch"), torch.export.Dim("time", min=batch.inputs.shape[1] // 2)
    program = torch.onnx.export(
        # With gradients torch traces an attention with distances that its exporter cannot write.
        _Exportable(model).eval().requires_grad_(False),
        (batch.inputs, lengths),
        dynamo=True,
        verbose=False,  # it would talk on stdout
        input_names=[name, f"{name.removesuffix('s')}_lengths"],
        output_names=["logits", "logit_lengths"],
        dynamic_shapes=({0: size, 1: time}, {0: size}),
    )
    assert program is not None  # dynamo=True gives one
    write_whole(destination / "model.onnx", lambda path: program.save(path))
    say(f"ONNX graph with dynamic batch and time: {destination / 'model.onnx'}")
    return {"layout": "onnx", "out": str(destination)}
