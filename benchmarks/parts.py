"""The parts of a training step, each alone against what it replaces, forward and backward, interleaved.

    python -m benchmarks.parts [--device cpu|cuda] [--seconds 20] [--repeats 9] [--save NAME]

XLSR-53's sizes, one batch of the Common Voice mix. A table goes to stderr, one JSON object to stdout. Each call is
waited for, its launches included; what runs on one kind of device only is left out on the other.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import interleave, machine, with_command
from benchmarks.speech import VOCABULARY, draw_clips
from recipes.console import Parser, not_negative, positive, run, say
from w2v.answers import Batch
from w2v.errors import InputError
from w2v.kernels.attention import attention
from w2v.kernels.dropout import dropout
from w2v.kernels.grouped_conv import fft_conv1d
from w2v.kernels.linear import linear
from w2v.layout import Packed, Padded
from w2v.masking import span_mask
from w2v.models.wav2vec2 import FeatureEncoder
from w2v.models.wav2vec2_config import XLSR_53
from w2v.training.device import resolve_device
from w2v.training.optim import adamw, clip_and_update

Part = tuple[str, str, Callable[[], object], str, Callable[[], object]]  # name, ours, run, what it replaces, run


def main() -> dict:
    parser = Parser(prog="python -m benchmarks.parts", description=__doc__.split("\n")[0])
    parser.add_argument("--device")
    parser.add_argument("--seconds", type=not_negative, help="speech per batch (default: 20 on a CPU, 160 on a GPU)")
    parser.add_argument("--repeats", type=positive, default=9)
    parser.add_argument("--save", metavar="NAME", help="also write benchmarks/results/parts-NAME.json")
    args = parser.parse_args()
    device = resolve_device(args.device)
    seconds = args.seconds or (160.0 if device.type == "cuda" else 20.0)
    torch.manual_seed(0)
    results = []
    for name, ours, new, theirs, old in parts(seconds, device):
        timings = interleave({ours: new, theirs: old}, args.repeats, 2, device)
        mine, other = (1000 * timings[which]["median_s"] for which in (ours, theirs))
        say(f"{name:24}{ours:>28}{mine:>10.2f} ms {theirs:>32}{other:>10.2f} ms {other / mine:>7.2f}x")
        results.append({"part": name, ours: round(mine, 3), theirs: round(other, 3), "ratio": round(other / mine, 2)})
    summary = {"results_ms": results, "seconds": seconds, "machine": machine(device)}
    return with_command(f"parts-{args.save}" if args.save else "parts", summary, bool(args.save))


def parts(seconds: float, device: torch.device) -> Iterator[Part]:
    """One after the other, so that each one's tensors are gone before the next is built."""
    waveforms, labels = draw_clips(seconds)
    packed = XLSR_53.collate(waveforms, labels).to(device)
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    yield from products(device)
    if device.type == "cpu":
        yield linear_map(packed)
    yield encoder(packed, device, half, trained=False)
    yield encoder(packed, device, half, trained=True)
    yield positional_convolution(packed, device, half)
    yield packed_attention(packed, device, half)
    if device.type == "cpu":
        yield cpu_dropout(packed)
    yield masks(packed, device)
    if device.type == "cuda":
        yield ctc(packed, device)
    yield optimiser(device)


def backward(function: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and backward, as a call without arguments."""
    with torch.no_grad():
        noise = torch.randn_like(function())
    return lambda: torch.autograd.grad(function(), inputs, noise)


def products(device: torch.device) -> Iterator[Part]:
    """What precision is for: the feed-forward's product on a thousand frames."""
    x, weight = torch.randn(1000, 1024, device=device), torch.randn(4096, 1024, device=device)
    half = [t.bfloat16() for t in (x, weight)]
    yield "matrix product", "fp32", lambda: F.linear(x, weight), "bf16", lambda: F.linear(*half)


def linear_map(batch: Batch) -> Part:
    """The feed-forward's first one; on a CPU that is not by AMD both are the same."""
    frames, width, inner = int(batch.layout.lengths.sum()), XLSR_53.hidden_size, XLSR_53.intermediate_size
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((frames, width), (inner, width), (inner,))]
    x, weight, bias = inputs
    ours = backward(lambda: linear(x, weight, bias, training=True), inputs)
    theirs = backward(lambda: F.linear(x, weight, bias), inputs)
    return "linear map", "oneDNN on AMD", ours, "F.linear", theirs


def encoder(batch: Batch, device: torch.device, dtype: torch.dtype, trained: bool) -> Part:
    ours = FeatureEncoder(XLSR_53).to(device).requires_grad_(trained)
    waveforms = batch.inputs

    def theirs(x: Tensor) -> Tensor:
        """Convolutions over (B, C, T) with a LayerNorm between two transposes, as fairseq and transformers have it."""
        x = x[:, None]
        layers: Any = ours.conv_layers
        for layer in layers:
            x = layer.conv(x)
            x = F.gelu(layer.layer_norm(x.transpose(1, 2)).transpose(1, 2))
        return x.transpose(1, 2)

    def under_autocast(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                return function(waveforms)

        return backward(run, list(ours.parameters())) if trained else run

    name = f"conv encoder, {'trained' if trained else 'frozen'}"
    return name, "channels last", under_autocast(ours), "Conv1d and transposes", under_autocast(theirs)


def positional_convolution(batch: Batch, device: torch.device, dtype: torch.dtype) -> Part:
    width, groups, taps = XLSR_53.hidden_size, XLSR_53.num_conv_pos_embedding_groups, XLSR_53.num_conv_pos_embeddings
    x = torch.randn(len(batch), width, batch.layout.longest, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(width, width // groups, taps, device=device, requires_grad=True)
    bias = torch.randn(width, device=device, requires_grad=True)

    def conv1d() -> Tensor:
        return F.conv1d(x, weight.to(dtype), bias.to(dtype), padding=taps // 2, groups=groups)[..., : x.shape[2]]

    inputs = [x, weight, bias]
    fourier = backward(lambda: fft_conv1d(x, weight, bias, groups), inputs)
    return "positional convolution", "frequency domain", fourier, "Conv1d", backward(conv1d, inputs)


def packed_attention(batch: Batch, device: torch.device, dtype: torch.dtype) -> Part:
    heads, width = XLSR_53.num_attention_heads, XLSR_53.hidden_size // XLSR_53.num_attention_heads
    layout = batch.layout
    assert isinstance(layout, Packed)
    stream = [torch.randn(1, len(layout.frames), heads, width, device=device, dtype=dtype) for _ in range(3)]
    rows = [layout.rows(t).transpose(1, 2).contiguous().requires_grad_() for t in stream]
    stream = [t.requires_grad_() for t in stream]
    (q, k, v), (q_rows, k_rows, v_rows) = stream, rows
    mask = Padded.of(layout.lengths, layout.longest).real[:, None, None, :]
    return (
        "attention, dropout 0.1",
        "packed",
        backward(lambda: attention(q, k, v, layout, 0.1), stream),
        "padded, masked SDPA",
        backward(lambda: F.scaled_dot_product_attention(q_rows, k_rows, v_rows, attn_mask=mask, dropout_p=0.1), rows),
    )


def cpu_dropout(batch: Batch) -> Part:
    assert isinstance(batch.layout, Packed)
    x = torch.randn(1, len(batch.layout.frames), XLSR_53.hidden_size, requires_grad=True)
    ours, theirs = backward(lambda: dropout(x, 0.1), [x]), backward(lambda: F.dropout(x, 0.1), [x])
    return "dropout", "16-bit draws", ours, "F.dropout", theirs


def masks(batch: Batch, device: torch.device) -> Part:
    try:
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
    except ImportError:
        raise InputError('the masks\' peer is transformers; pip install "transformers>=5,<6"') from None
    lengths, longest = batch.layout.lengths, batch.layout.longest
    shape = (len(batch), longest)
    attention_mask = (torch.arange(longest, device=device) < lengths[:, None]).long()

    def theirs() -> None:
        mask = _compute_mask_indices(shape, 0.05, 10, attention_mask=attention_mask, min_masks=2)
        torch.tensor(mask, device=device)

    return "span masks", "on the device", lambda: span_mask(lengths, longest, 0.05, 10, 2), "on the host", theirs


def ctc(batch: Batch, device: torch.device) -> Part:
    """A batch of 32 clips of 250 frames, 60 labels, 40 characters."""
    from w2v.kernels.ctc_triton import fused_ctc_losses

    logits = torch.randn(32, 250, VOCABULARY, device=device, requires_grad=True)
    labels = torch.randint(0, VOCABULARY - 1, (32, 60), device=device)
    frames, characters = torch.full((32,), 250, device=device), torch.full((32,), 60, device=device)

    def theirs() -> Tensor:
        log_probs = F.log_softmax(logits, dim=-1).transpose(0, 1)
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(log_probs, labels, frames, characters, VOCABULARY - 1, "none")

    ours = backward(lambda: fused_ctc_losses(logits, frames, labels, characters, VOCABULARY - 1), [logits])
    return "CTC", "fused", ours, "log_softmax, F.ctc_loss", backward(theirs, [logits])


def optimiser(device: torch.device) -> Part:
    """A layer of XLSR-53 on a CPU, all 24 on a GPU."""
    config = dataclasses.replace(XLSR_53, num_hidden_layers=24 if device.type == "cuda" else 1)
    width, inner = config.hidden_size, config.intermediate_size
    shapes = [(width, width)] * 4 + [(inner, width), (width, inner)]
    module = torch.nn.ParameterList(
        torch.nn.Parameter(torch.randn(shape, device=device))
        for _ in range(config.num_hidden_layers)
        for shape in shapes
    )
    gradients = [torch.randn_like(p) for p in module]
    update, scaler = adamw(module, 1e-5, (0.9, 0.999), 0.0), torch.amp.GradScaler(device.type, enabled=False)

    def ours() -> None:
        for parameter, gradient in zip(module, gradients, strict=True):
            parameter.grad = gradient
        clip_and_update(update, scaler, 1.0)

    def theirs() -> None:
        update.grad_scale = None  # type: ignore[attr-defined]  # only the fused kernel knows it
        for parameter, gradient in zip(module, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        update.step()

    return "clipping and AdamW", "one pass less", ours, "clip_grad_norm_, fused AdamW", theirs


if __name__ == "__main__":
    run(main)
