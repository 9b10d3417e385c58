"""The fused CTC kernels against F.ctc_loss in float64, in Triton's interpreter and, where there is one, on a GPU.

Run: pytest tests/kernels/test_fused_ctc.py [--device cuda]
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_interpreter import interpret, needs_cuobjdump

import w2v
from benchmarks.own_kernels import compiled_only
from w2v.kernels import ctc_triton as kernels
from w2v.models.ctc_answers import FORBIDDEN

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:triton")  # NaN is part of the tests

KERNELS = ("_emission_kernel", "_path_kernel", "_gradient_kernel")


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch) -> str:
    if request.param == "cuda":
        return "cuda"
    interpret(monkeypatch, kernels, KERNELS)
    return "cpu"


@pytest.fixture(autouse=True)
def poison():
    """Fill new tensors with NaN: an element that a kernel forgot shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# Frames and labels of clips of each kind.
CLIPS = {
    "long": (9, [1, 3, 3, 2]),
    "shorter": (6, [2, 1]),
    "no label": (5, []),
    "barely fits": (4, [1, 2, 2]),
    "one frame too few": (3, [1, 2, 2]),
    "no frame": (0, []),
}


def draw(clips: list[tuple[int, list[int]]], tokens: int, dtype=torch.float32) -> tuple[Tensor, ...]:
    """Arguments for the losses: random logits, NaN in their padding, labels padded with ids that are none."""
    torch.manual_seed(0)
    lengths = torch.tensor([frames for frames, _ in clips])
    label_lengths = torch.tensor([len(ids) for _, ids in clips])
    labels = torch.full((len(clips), int(label_lengths.max())), -100)
    labels[:, 1::2] = 10**9
    logits = torch.full((len(clips), int(lengths.max()), tokens), torch.nan)
    for i, (frames, ids) in enumerate(clips):
        logits[i, :frames] = 3 * torch.randn(frames, tokens)
        labels[i, : len(ids)] = torch.tensor(ids)
    return logits.to(dtype), lengths, labels, label_lengths


def draw_many(clips: int, frames: int, labels: int, tokens: int) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    rows = [torch.randint(1, tokens, (int(n),)).tolist() for n in torch.randint(labels // 2, labels + 1, (clips,))]
    return draw([(frames - 7 * i, ids) for i, ids in enumerate(rows)], tokens)


def fused(logits, lengths, labels, label_lengths, blank: int, weights: Tensor, device: str):
    """Losses, and the gradient with respect to the logits of their weighted sum without infinite ones."""
    logits = logits.detach().to(device).requires_grad_()
    losses = kernels.fused_ctc_losses(logits, lengths.to(device), labels.to(device), label_lengths.to(device), blank)
    losses.backward(weights.to(device))
    return losses.detach().cpu(), logits.grad.cpu()


def expected(logits, lengths, labels, label_lengths, blank: int, weights: Tensor):
    logits = logits.double().nan_to_num().requires_grad_()
    args = logits.log_softmax(-1).transpose(0, 1), labels.clamp(0, logits.shape[2] - 1), lengths, label_lengths
    F.ctc_loss(*args, blank=blank, reduction="none", zero_infinity=True).backward(weights.double())
    return F.ctc_loss(*args, blank=blank, reduction="none").detach(), logits.grad


def assert_equal(args: tuple[Tensor, ...], blank: int, device: str, tolerance: float = 1e-5):
    weights = torch.linspace(-1, 2, len(args[0]))
    losses, gradient = fused(*args, blank, weights, device)
    wanted_losses, wanted_gradient = expected(*args, blank, weights)
    assert losses.dtype == torch.float32
    assert gradient.dtype == args[0].dtype
    torch.testing.assert_close(losses.double(), wanted_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=tolerance, atol=tolerance)
    padding = torch.arange(gradient.shape[1]) >= args[1][:, None]
    assert not gradient[padding].any()


@pytest.mark.parametrize(("tokens", "blank"), [(7, 0), (300, 299)])
def test_losses_and_gradient_of_every_kind_of_clip(tokens, blank, device):
    assert_equal(draw(list(CLIPS.values()), tokens), blank, device)


def test_half_precision_logits(device):
    assert_equal(draw([CLIPS["shorter"]], 7, torch.bfloat16), 0, device, tolerance=2**-7)


def test_a_batch_without_labels(device):
    assert_equal(draw([CLIPS["no label"], CLIPS["no frame"]], 7), 0, device)


def test_logits_far_from_zero(device):
    """Their exponentials overflow."""
    logits, *targets = draw([CLIPS["shorter"], CLIPS["no label"]], 7)
    assert_equal((logits + 1000, *targets), 0, device)


def test_logits_in_another_memory_order(device):
    logits, *targets = draw([CLIPS["shorter"], CLIPS["barely fits"]], 7)
    assert_equal((logits.transpose(0, 1).contiguous().transpose(0, 1), *targets), 0, device)


def test_an_infeasible_clip_has_infinite_loss_and_no_gradient(device):
    losses, gradient = fused(*draw([CLIPS["one frame too few"]], 7), 0, torch.ones(1), device)
    assert losses == torch.inf
    assert not gradient.any()


def test_a_logit_of_minus_infinity_forbids_a_token(device):
    logits, *targets = draw([CLIPS["long"], CLIPS["shorter"]], 7)
    logits[:, 2, :6] = -torch.inf
    logits[0, 2, 3] = 0.0  # leaves clip 0 a label to be at in its third frame, and clip 1 nothing
    losses, gradient = fused(logits, *targets, 0, torch.ones(2), device)
    wanted = expected(logits.clamp(min=-1e3), *targets, 0, torch.ones(2))  # F.ctc_loss answers -inf with NaN
    torch.testing.assert_close(losses[0].double(), wanted[0][0])
    torch.testing.assert_close(gradient[0].double(), wanted[1][0], rtol=1e-5, atol=1e-5)
    assert losses[1] == torch.inf
    assert not gradient[1].any()


def test_nan_logits_reach_loss_and_gradient(device):
    """So that the loss scaler of fp16 skips the step."""
    logits, *targets = draw([CLIPS["shorter"], CLIPS["shorter"]], 7)
    logits[0, 3, 6] = torch.nan
    losses, gradient = fused(logits, *targets, 0, torch.ones(2), device)
    assert losses.isnan().tolist() == [True, False]
    assert gradient.isnan().any(2).any(1).tolist() == [True, False]


def test_the_same_bits_twice(device):
    args = draw([CLIPS["long"]], 7)
    first, second = (fused(*args, 0, torch.ones(1), device) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_ctc_losses_is_the_same_through_the_kernels(zero_infinity, device, monkeypatch):
    logits, *targets = draw([CLIPS["barely fits"], CLIPS["no label"], CLIPS["one frame too few"]], 7)
    logits = logits.nan_to_num()
    wanted = w2v.ctc_losses(logits, *targets, 0, zero_infinity)
    monkeypatch.setattr(w2v.ctc, "use_triton", lambda _: True)
    logits = logits.to(device).requires_grad_()
    losses = w2v.ctc_losses(logits, *(x.to(device) for x in targets), 0, zero_infinity)
    torch.testing.assert_close(losses.cpu(), wanted)
    losses.sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[2].any()


@pytest.mark.parametrize(("labels", "tokens"), [(60, 40), (300, 40), (20, 4000)])
def test_kernels_compile_for_hopper(labels, tokens):
    """Without a GPU: no register spills, and up to 64 states, within one warp, the recursion has no barrier."""
    needs_cuobjdump()
    with compiled_only(kernels) as compiled:
        fused(*draw([(1, [1] * labels)], tokens), 0, torch.ones(1), "cpu")
    for name, kernel in compiled.items():
        assert kernel.resources.spilled == 0, name
    assert ("bar.sync" in compiled["_path_kernel"].asm["ptx"]) == (labels >= 64)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("clips", "frames", "labels", "tokens"),
    [(32, 250, 60, 40), (4, 1500, 300, 40), (2, 1200, 600, 30), (4, 250, 40, 4000)],
)
def test_sizes_of_real_batches(clips, frames, labels, tokens):
    """Over many frames fp32 leaves fewer digits of the sums; F.ctc_loss in fp32 would be off by ten times as much."""
    assert_equal(draw_many(clips, frames, labels, tokens), 0, "cuda", tolerance=2e-3)


@pytest.mark.cuda
def test_nothing_waits_for_the_gpu():
    logits, *targets = (x.cuda() for x in draw(list(CLIPS.values()), 7))
    logits.requires_grad_()
    assert w2v.ctc.use_triton(logits)
    w2v.ctc_losses(logits, *targets, 0, zero_infinity=True).sum().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        w2v.ctc_losses(logits, *targets, 0, zero_infinity=True).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tokens_that_a_clip_may_not_hold_count_for_nothing(device):
    """As w2v.models.ctc_answers gives them to a run of several languages: the same as without their columns."""
    logits, lengths, labels, label_lengths = draw([CLIPS["long"], CLIPS["shorter"]], 4)
    weights = torch.ones(2)
    wanted, gradient = fused(logits, lengths, labels, label_lengths, 0, weights, device)
    more = torch.cat([logits, torch.full((*logits.shape[:2], 5), FORBIDDEN)], dim=2)
    losses, of_more = fused(more, lengths, labels, label_lengths, 0, weights, device)
    torch.testing.assert_close(losses, wanted)
    torch.testing.assert_close(of_more[..., :4], gradient)
    assert not of_more[..., 4:].any()
