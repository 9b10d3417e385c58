"""Waveforms of 4 to 400 kHz -> 16 kHz, as torchaudio.transforms.Resample computes them.

    resample(waveform, 44_100)                  # (samples,) float32 -> (ceil(samples * 16000 / 44100),)

Each output sample is a windowed sinc, laid over the input at that sample's time. Where input and output meet again
after a few samples (44.1 kHz: after 441 and 160) few different filters are needed, and a matrix holds them all. At
44,101 Hz there are 16,000 different filters: they are computed as they are needed, and never kept.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch

from w2v.errors import UnusableAudioError

try:
    import torchaudio
except (ImportError, OSError, RuntimeError) as error:  # its compiled part fits one release of torch
    raise ImportError(
        f"torchaudio does not import beside torch {torch.__version__} ({str(error)[:100]}); install the pair: "
        'pip install "torch==2.11.*" "torchaudio==2.11.*"'
    ) from None

SAMPLE_RATE = 16_000
LOWEST_RATE, HIGHEST_RATE = 4_000, 400_000  # Hz: a telephone's is 8,000, the highest recorder's 384,000
MIN_BLOCK = 16  # output samples per row of a matrix product, the fastest measured at 48 kHz
# torchaudio's defaults
ZERO_CROSSINGS = 6  # of the sinc to either side
ROLLOFF = 0.99  # share of the lower of both rates that passes
# Filters of more numbers than this are not kept as a matrix. 11.025 kHz has 281,000, 44.1 kHz 73,000.
MOST_MATRIX_NUMBERS = 1 << 19
DIRECT_NUMBERS = 1 << 19  # filter numbers that exist at once where they are not kept


def check_rate(rate: float) -> int:
    if rate != rate or not LOWEST_RATE <= rate <= HIGHEST_RATE or int(rate) != rate:
        raise UnusableAudioError(
            f"the sample rate must be a whole number from {LOWEST_RATE} to {HIGHEST_RATE} Hz, got {rate}"
        )
    return int(rate)


def resample(waveform: np.ndarray, rate: float) -> np.ndarray:
    """(samples,) float32 at `rate` Hz -> (ceil(samples * 16000 / rate),) at 16 kHz.

    It equals torchaudio.transforms.Resample. Raises UnusableAudioError for a rate outside 4 to 400 kHz.
    """
    rate = check_rate(rate)
    if rate == SAMPLE_RATE:
        return waveform
    period, phases, width = _geometry(rate)
    if phases * (period + 2 * width) <= MOST_MATRIX_NUMBERS:
        return _resample_by_matrix(waveform, rate)
    return _resample_directly(waveform, rate)


def resample_blocks(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The blocks of one long waveform, each at 16 kHz. End to end they equal resample() of the whole.

    blocks: whole seconds, except for the last one. Each is resampled with the second before and the second after it.
    """
    rest = iter(blocks)
    before, block = np.empty(0, np.float32), next(rest, None)
    while block is not None:
        after = next(rest, None)
        parts = [part for part in (before, block, block[:0] if after is None else after[:rate]) if len(part)]
        around = resample(np.concatenate(parts) if len(parts) > 1 else block, rate)
        start = SAMPLE_RATE if len(before) else 0
        yield around[start : start + math.ceil(len(block) * SAMPLE_RATE / rate)]
        before, block = block[-rate:], after


def _geometry(rate: int) -> tuple[int, int, int]:
    """-> period and phases: as many input samples last as long as that many output samples, the fewest possible;
    and width: how many input samples the filters reach to either side of an output sample."""
    divisor = math.gcd(rate, SAMPLE_RATE)
    period, phases = rate // divisor, SAMPLE_RATE // divisor
    return period, phases, math.ceil(ZERO_CROSSINGS * period / (ROLLOFF * min(period, phases)))


@lru_cache(maxsize=16)
def _filters(rate: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """torchaudio's windowed-sinc filters as a matrix from a block of input, and a little of the next, to its output.

    -> the matrix's rows for the block (block, out), those for the next block's first samples (2 * width, out), and
    width: how far the filters reach to either side of an output sample.
    """
    design = torchaudio.transforms.Resample(rate, SAMPLE_RATE, dtype=torch.float64)
    filters, width = design.kernel[:, 0].T, design.width  # (taps, phases): one column per output of a period
    taps, phases = filters.shape
    period = taps - 2 * width  # samples
    periods = max(math.ceil(2 * width / period), math.ceil(MIN_BLOCK / phases))
    matrix = torch.zeros(periods * period + 2 * width, periods * phases)
    for i in range(periods):
        matrix[i * period : i * period + taps, i * phases : (i + 1) * phases] = filters
    return matrix[: periods * period], matrix[periods * period :], width


def _resample_by_matrix(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Two matrix products take a third of torchaudio's time: it convolves one channel."""
    here, ahead, width = _filters(rate)
    block, out = here.shape
    samples = math.ceil(len(waveform) * SAMPLE_RATE / rate)
    blocks = math.ceil(samples / out)
    padded = np.empty((blocks + 1) * block, np.float32)
    padded[:width] = padded[width + len(waveform) :] = 0
    padded[width : width + len(waveform)] = waveform
    rows = torch.from_numpy(padded).view(blocks + 1, block)
    return (rows[:-1] @ here).addmm_(rows[1:, : len(ahead)], ahead).view(-1)[:samples].numpy()


def _resample_directly(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Compute each output sample's filter, and its product with the input, a few thousand samples at a time."""
    period, phases, width = _geometry(rate)
    samples = math.ceil(len(waveform) * SAMPLE_RATE / rate)
    padded = np.zeros(len(waveform) + 2 * width + 1)
    padded[width : width + len(waveform)] = waveform
    windows = torch.from_numpy(padded).unfold(0, 2 * width + 1, 1)  # (input samples, taps): row i has i in its middle
    taps = torch.arange(-width, width + 1, dtype=torch.float64)
    scale = ROLLOFF * min(period, phases) / period  # zero crossings per input sample
    result = np.empty(samples, np.float32)
    rows = max(1, DIRECT_NUMBERS // len(taps))
    for start in range(0, samples, rows):
        numerators = torch.arange(start, min(samples, start + rows)) * period
        nearest = numerators // phases  # the input sample at or before each output sample
        offset = (numerators % phases).double() / phases
        t = (taps - offset[:, None]).mul_(scale).clamp_(-ZERO_CROSSINGS, ZERO_CROSSINGS)  # (rows, taps)
        filters = torch.sinc(t).mul_((t * (math.pi / ZERO_CROSSINGS / 2)).cos_().square_())
        result[start : start + rows] = filters.mul_(windows[nearest]).sum(dim=1).mul_(scale)
    return result
