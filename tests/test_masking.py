"""SpecAugment span masks: counts, placement, independence of the batch.

Run: pytest tests/test_masking.py
"""

import numpy as np
import pytest
import torch
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from w2v.masking import span_mask


def runs(row: torch.Tensor) -> list[int]:
    """Lengths of the separate runs of True."""
    return [len(run) for run in "".join("x" if masked else " " for masked in row).split()]


def test_masks_only_real_positions_and_whole_spans():
    torch.manual_seed(0)
    lengths = torch.tensor([250, 100, 40, 10])
    for _ in range(50):
        mask = span_mask(lengths, 250, prob=0.3, span=10, min_spans=1)
        for row, n in zip(mask, lengths, strict=True):
            assert not row[n:].any()
            assert row.sum() >= 10  # every row has room for one span
            assert all(run >= 10 for run in runs(row)), "spans overlap, but none is cut"


def test_too_short_a_row_stays_unmasked_and_never_crashes():
    mask = span_mask(torch.tensor([9, 0, 200]), 200, prob=0.5, span=10, min_spans=2)
    assert not mask[0].any()
    assert not mask[1].any()
    assert mask[2].any()


@pytest.mark.parametrize(
    ("prob", "length", "size"), [(0.05, 10, 250), (0.075, 10, 999), (0.5, 10, 300), (0.2, 64, 1024)]
)
def test_statistics_equal_transformers_at_equal_lengths(prob, length, size):
    """Masked share of a row, mean and spread over many draws, against the peer's own function."""
    torch.manual_seed(0)
    np.random.seed(0)  # the peer draws from numpy's global generator
    ours = torch.cat([span_mask(torch.full((8,), size), size, prob, length, 2).sum(1) for _ in range(150)]).double()
    theirs = torch.from_numpy(
        np.concatenate([_compute_mask_indices((8, size), prob, length, min_masks=2).sum(1) for _ in range(150)])
    ).double()
    standard_error = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
    # Rows of one call share an epsilon: eight times fewer independent draws than rows.
    assert abs(ours.mean() - theirs.mean()) <= 4 * standard_error * 8**0.5
    torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.25, atol=1.0)


def test_a_clips_masks_do_not_depend_on_its_batch():
    """The stated deviation from the peer: a 15-frame clip masks 10 frames alone and 10 when padded to 250."""
    torch.manual_seed(0)
    alone = torch.cat([span_mask(torch.tensor([15]), 15, 0.05, 10, 2).sum(1) for _ in range(100)])
    padded = torch.cat([span_mask(torch.tensor([15, 250]), 250, 0.05, 10, 2)[:1].sum(1) for _ in range(100)])
    assert (alone == 10).all()
    assert (padded == 10).all()


def test_starts_are_uniform():
    torch.manual_seed(0)
    counts = torch.zeros(31)
    for _ in range(400):
        mask = span_mask(torch.full((16,), 40), 40, 0.0, 10, 1)
        counts += torch.bincount(mask.long().argmax(1), minlength=31)
    expected = 16 * 400 / 31
    assert (counts - expected).abs().max() < 5 * expected**0.5
