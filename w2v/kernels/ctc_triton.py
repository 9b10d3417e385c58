"""CTC losses and their gradient with respect to the logits, as three Triton kernels.

They replace F.log_softmax and F.ctc_loss on a GPU. F.ctc_loss reads lengths back to the host, which then waits for the
GPU once per micro-batch; it carries its sums from frame to frame through global memory; and it adds gradients up in an
order that changes from run to run. Here nothing is read back, the sums stay in registers, and the order is fixed.

The algorithm is forward-backward (Graves et al. 2006, "Connectionist Temporal Classification", section 4.1). An
alignment is a path through the states blank, label, blank, ..., label, blank. A recursion over frames sums the
probabilities of all paths into each state, from the clip's start (alpha) and from its end (beta).

1. `_emission_kernel`, one program per frame: gathers the log-probabilities that the recursion reads.
2. `_path_kernel`, one program per clip and direction: the recursion, all states at once, frame by frame.
3. `_gradient_kernel`, one program per frame, in the backward pass: softmax minus the posterior of each token.

Shapes: B clips, T frames, V vocabulary, U labels. Logarithms of paths are to base 2, the hardware's own.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = tl.constexpr(math.log2(math.e))
IMPOSSIBLE = tl.constexpr(-1e30)  # logarithm of zero, finite because -inf minus -inf is NaN


def fused_ctc_losses(
    logits: Tensor, logit_lengths: Tensor, labels: Tensor, label_lengths: Tensor, blank: int
) -> Tensor:
    """Negative log-likelihood of each clip, as F.ctc_loss with reduction="none"; computed in fp32.

    logits (B, T, V) of any float type, logit_lengths (B,), labels (B, U) padded with anything, label_lengths (B,).
    Returns (B,) float32. A clip with too few frames gives inf, and zeros for its gradient, where F.ctc_loss gives NaN.
    """
    targets = (x.to(logits.device).contiguous() for x in (logit_lengths, labels, label_lengths))
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        return _CTCLosses.apply(logits.contiguous(), *targets, blank)


class _CTCLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, logit_lengths: Tensor, labels: Tensor, label_lengths: Tensor, blank: int
    ) -> Tensor:
        (clips, frames, tokens), n_labels = logits.shape, labels.shape[1]
        token_block = triton.next_power_of_2(tokens)
        state_block = max(32, triton.next_power_of_2(n_labels + 1))
        token_warps = min(max(token_block // 512, 1), 32)
        # Within a warp states reach their neighbours by shuffles, between warps through shared memory and a barrier:
        # worth it once a thread would hold more than two blanks and two labels.
        state_warps = 1 if state_block <= 64 else min(state_block // 32, 32)

        def new(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=logits.device)

        targets, sizes = (logit_lengths, labels, label_lengths), (frames, n_labels, tokens, blank)
        emissions, normalisers = new(clips, frames, 1 + n_labels), new(clips, frames)
        _emission_kernel[frames, clips](
            logits, *targets, emissions, normalisers, *sizes, token_block, state_block, num_warps=token_warps
        )
        paths, log_likelihoods = new(clips, frames, 2, 2, n_labels + 1), new(clips)
        _path_kernel[clips, 2](
            emissions, *targets, paths, log_likelihoods, frames, n_labels, state_block, num_warps=state_warps
        )
        losses = torch.sub(normalisers.sum(1), log_likelihoods, alpha=math.log(2))
        ctx.save_for_backward(logits, *targets, emissions, paths, log_likelihoods, losses)
        ctx.sizes, ctx.token_block, ctx.token_warps = sizes, token_block, token_warps
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        clips, frames, _ = ctx.saved_tensors[0].shape
        gradient = torch.empty_like(ctx.saved_tensors[0])
        chunk = max(2048 * ctx.token_warps // ctx.token_block, 1)  # 64 comparisons per thread
        _gradient_kernel[frames, clips](
            *ctx.saved_tensors,
            upstream.contiguous(),
            gradient,
            *ctx.sizes,
            ctx.token_block,
            chunk,
            num_warps=ctx.token_warps,
        )
        return gradient, None, None, None, None


@triton.jit
def _emission(logits: tl.tensor, best: tl.tensor) -> tl.tensor:
    """log2 of probabilities, up to what their frame has in common. -inf becomes IMPOSSIBLE, NaN stays NaN."""
    emission = (logits.to(tl.float32) - best) * LOG2_E
    return tl.where(emission == float("-inf"), IMPOSSIBLE, emission)


# T and U change from batch to batch: specialised on their values, kernels would be compiled again in mid-training.
@triton.jit(do_not_specialize=["frames", "n_labels"])
def _emission_kernel(
    logits: tl.tensor,  # (B, T, V)
    logit_lengths: tl.tensor,  # (B,)
    labels: tl.tensor,  # (B, U)
    label_lengths: tl.tensor,  # (B,)
    emissions: tl.tensor,  # (B, T, 1 + U) out: the blank's, then each label's
    normalisers: tl.tensor,  # (B, T) out: what to subtract (base e) for log-probabilities; 0 in padding
    frames: tl.tensor,
    n_labels: tl.tensor,
    tokens: tl.tensor,
    blank: tl.tensor,
    token_block: tl.constexpr,
    state_block: tl.constexpr,
) -> None:
    t, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    frame = clip * frames + t
    token, u = tl.arange(0, token_block), tl.arange(0, state_block)
    logits += frame * tokens
    emissions += frame * (1 + n_labels)

    # Emissions are relative to the frame's best token. Sums of log-probabilities would reach thousands over a clip and
    # leave fp32 few digits for the differences between paths; the normalisers are the same for all paths.
    row = tl.load(logits + token, mask=token < tokens, other=float("-inf")).to(tl.float32)
    best = tl.max(row, 0)
    normaliser = tl.log(tl.sum(tl.exp(row - best), 0))
    tl.store(normalisers + frame, tl.where(t < tl.load(logit_lengths + clip), normaliser, 0.0))

    is_label = u < tl.load(label_lengths + clip)
    label = tl.load(labels + clip * n_labels + u, mask=is_label, other=0)
    tl.store(emissions, _emission(tl.load(logits + blank), best))
    tl.store(emissions + 1 + u, _emission(tl.load(logits + label, mask=is_label, other=0.0), best), mask=is_label)


@triton.jit
def _log_sum(a: tl.tensor, b: tl.tensor, c: tl.tensor) -> tl.tensor:
    """log2(2**a + 2**b + 2**c)."""
    top = tl.maximum(tl.maximum(a, b), c)
    return top + tl.log2(tl.exp2(a - top) + tl.exp2(b - top) + tl.exp2(c - top))


@triton.jit(do_not_specialize=["frames", "n_labels"])
def _path_kernel(
    emissions: tl.tensor,  # (B, T, 1 + U)
    logit_lengths: tl.tensor,  # (B,)
    labels: tl.tensor,  # (B, U)
    label_lengths: tl.tensor,  # (B,)
    paths: tl.tensor,  # (B, T, 2, 2, U + 1) out: sums from start, from end; into blanks, labels; before the emission
    log_likelihoods: tl.tensor,  # (B,) out: of emissions
    frames: tl.tensor,
    n_labels: tl.tensor,
    state_block: tl.constexpr,
) -> None:
    clip, backwards = tl.program_id(0).to(tl.int64), tl.program_id(1) == 1
    length, count = tl.load(logit_lengths + clip).to(tl.int32), tl.load(label_lengths + clip).to(tl.int32)
    u = tl.arange(0, state_block)
    is_blank, is_label = u <= count, u < count  # blank u comes before label u

    # Beta is the alpha of the clip read backwards, its frames, blanks and labels counted from the end.
    frame = clip * frames + tl.where(backwards, length - 1, 0)
    step = tl.where(backwards, -1, 1)
    blank_at = tl.where(backwards, count - u, u)
    label_at = tl.where(backwards, count - 1 - u, u)
    emissions += frame * (1 + n_labels)
    paths += (frame * 4 + tl.where(backwards, 2, 0)) * (n_labels + 1)

    left = tl.maximum(u - 1, 0)
    label = tl.load(labels + clip * n_labels + label_at, mask=is_label, other=0).to(tl.int32)
    may_skip = label != tl.gather(label, left, 0)  # over the blank between two labels

    # Before the first frame every path is in the first blank.
    at_blank = tl.where(u == 0, 0.0, IMPOSSIBLE)
    at_label = tl.full([state_block], IMPOSSIBLE, tl.float32)
    at_left = at_label
    for _ in range(length):
        # Loaded here and added last: the sums in between cover the wait for memory.
        blank_emission = tl.load(emissions)
        label_emission = tl.load(emissions + 1 + label_at, mask=is_label, other=0.0)
        to_blank = _log_sum(at_blank, at_left, IMPOSSIBLE)
        to_label = _log_sum(at_label, at_blank, tl.where(may_skip, at_left, IMPOSSIBLE))
        tl.store(paths + blank_at, to_blank, mask=is_blank)
        tl.store(paths + n_labels + 1 + label_at, to_label, mask=is_label)
        at_blank = to_blank + blank_emission
        at_label = to_label + label_emission
        at_left = tl.where(u == 0, IMPOSSIBLE, tl.gather(at_label, left, 0))
        emissions += step * (1 + n_labels)
        paths += step * 4 * (n_labels + 1)

    # A path ends in the last blank or in the label before it.
    total = tl.sum(tl.where(u == count, _log_sum(at_blank, at_left, IMPOSSIBLE), 0.0), 0)
    total = tl.where(total < IMPOSSIBLE / 2, float("-inf"), total)
    tl.store(log_likelihoods + clip, total, mask=backwards == 0)


@triton.jit
def _through(paths: tl.tensor, state: tl.tensor, n_labels: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """log2 of the sum over all paths through a state, from start to end, but for the state's own emission."""
    end = 2 * (n_labels + 1)
    alpha = tl.load(paths + state, mask=mask, other=float("-inf"))
    return alpha + tl.load(paths + end + state, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["frames", "n_labels"])
def _gradient_kernel(
    logits: tl.tensor,  # (B, T, V)
    logit_lengths: tl.tensor,  # (B,)
    labels: tl.tensor,  # (B, U)
    label_lengths: tl.tensor,  # (B,)
    emissions: tl.tensor,  # (B, T, 1 + U)
    paths: tl.tensor,  # (B, T, 2, 2, U + 1)
    log_likelihoods: tl.tensor,  # (B,)
    losses: tl.tensor,  # (B,)
    upstream: tl.tensor,  # (B,) gradient with respect to the losses
    gradient: tl.tensor,  # (B, T, V) out
    frames: tl.tensor,
    n_labels: tl.tensor,
    tokens: tl.tensor,
    blank: tl.tensor,
    token_block: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    t, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    frame = clip * frames + t
    token = tl.arange(0, token_block)
    count = tl.load(label_lengths + clip).to(tl.int32)
    log_likelihood = tl.load(log_likelihoods + clip)
    logits += frame * tokens
    emissions += frame * (1 + n_labels)
    paths += frame * 4 * (n_labels + 1)

    # A token's posterior is that of all states that emit it. Comparing each label with each token costs more additions
    # than scattering would, but they keep their order.
    posterior = tl.zeros([token_block], tl.float32)
    for start in range(0, count + 1, chunk):
        u = start + tl.arange(0, chunk)
        at_blank = _through(paths, u, n_labels, u <= count) + (tl.load(emissions) - log_likelihood)
        posterior += tl.where(token == blank, tl.sum(tl.exp2(at_blank), 0), 0.0)

        is_label = u < count
        emission = tl.load(emissions + 1 + u, mask=is_label, other=0.0)
        at_label = _through(paths, n_labels + 1 + u, n_labels, is_label) + (emission - log_likelihood)
        label = tl.load(labels + clip * n_labels + u, mask=is_label, other=0).to(tl.int32)
        emits = label[:, None] == token[None, :]
        posterior += tl.sum(tl.where(emits, tl.exp2(at_label)[:, None], 0.0), 0)
    # 1, but for rounding: alpha and beta drift over hundreds of frames, for all states alike.
    posterior /= tl.sum(posterior, 0)

    row = tl.load(logits + token, mask=token < tokens, other=float("-inf")).to(tl.float32)
    slope = (tl.softmax(row) - posterior) * tl.load(upstream + clip)
    counts = (t < tl.load(logit_lengths + clip)) & (tl.load(losses + clip) != float("inf"))
    tl.store(gradient + frame * tokens + token, tl.where(counts, slope, 0.0), mask=token < tokens)
