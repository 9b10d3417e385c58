"""A fine-tuned folder as an ONNX graph: waveforms (batch, samples) and lengths in, logits and their lengths out."""

from pathlib import Path

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

    def forward(self, waveforms: Tensor, waveform_lengths: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(waveforms, waveform_lengths)
        return out.logits, out.logit_lengths


def export_onnx(source: Path, destination: Path) -> dict:
    """Write DESTINATION/model.onnx with dynamic batch and time axes. InputError without the `onnx` extra."""
    try:
        import onnx  # noqa: F401 - torch.onnx imports it deep inside, with a traceback where it is missing
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError('--to onnx needs the onnx extra; install it with pip install -e ".[onnx]"') from None
    model = family_of(read_fields(source)).model.from_pretrained(source)
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=16_000)
    waveforms = torch.randn(2, 32_000)
    lengths = torch.tensor([32_000, 24_000])
    program = torch.onnx.export(
        _Exportable(model).eval(),
        (waveforms, lengths),
        dynamo=True,
        verbose=False,  # it would talk on stdout
        input_names=["waveforms", "waveform_lengths"],
        output_names=["logits", "logit_lengths"],
        dynamic_shapes=({0: batch, 1: samples}, {0: batch}),
    )
    assert program is not None  # dynamo=True gives one
    write_whole(destination / "model.onnx", lambda path: program.save(path))
    say(f"ONNX graph with dynamic batch and time: {destination / 'model.onnx'}")
    return {"layout": "onnx", "out": str(destination)}
