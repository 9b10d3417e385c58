"""The rows of benchmarks.w2v_bert: what they count and compare, on small models.

Run: pytest tests/benchmarks/test_w2v_bert_rows.py
"""

import argparse
import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import w2v_bert
from benchmarks.flops import w2v_bert_products
from w2v.models.w2v_bert_config import W2V_BERT_2

SMALL = dataclasses.replace(W2V_BERT_2, num_hidden_layers=1, vocab_size=40, **w2v_bert.QUIET)


@pytest.mark.parametrize("trains", [False, True])
def test_bare_products_are_those_of_a_step(trains):
    """torch counts two for each multiply-add; it counts the depthwise convolution too, which is none of ours."""
    model, _ = w2v_bert.pair(SMALL)
    batch = SMALL.collate(w2v_bert.noise(16_000, 9_000), [[1, 2], [3]])
    with FlopCounterMode(display=False) as counter:
        losses = model.losses(batch).values.sum()
        if trains:
            losses.backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flops for operator, flops in counts.items() if "conv" not in str(operator))
    found = sum(
        2 * each.times * each.at_once * each.rows * each.inner * each.columns * (1 + each.gradients)
        for each in w2v_bert_products(SMALL, batch.layout.lengths.tolist(), trains)
    )
    padding = batch.layout.longest * 2 - int(batch.layout.lengths.sum())  # the head's logits are rows
    assert counted - found == 2 * padding * SMALL.hidden_size * SMALL.vocab_size * (1 + 2 * trains)


def test_a_difference_is_seen():
    ours, peer = w2v_bert.pair(SMALL)
    batch = SMALL.collate(w2v_bert.noise(16_000), pad=True)
    apart, far = w2v_bert.compare(ours, peer.model, batch)
    assert apart <= w2v_bert.MOST_LOGITS and far <= w2v_bert.MOST_GRADIENT
    with torch.no_grad():
        ours.wav2vec2_bert.encoder.layers[0].ffn1.output_dense.bias[0] += 0.1
    apart, far = w2v_bert.compare(ours, peer.model, batch)
    assert apart > w2v_bert.MOST_LOGITS and far > w2v_bert.MOST_GRADIENT


def test_clips_as_drawn_need_padding_and_grouped_ones_next_to_none():
    grouped = w2v_bert.draw_speech("common-voice", None, w2v_bert.STEP_CLIPS, None, w2v_bert.STEP_BATCHES)
    assert w2v_bert.padding_of(w2v_bert.drawn(0)) > 0.1 > w2v_bert.padding_of(grouped)


@pytest.mark.long
def test_the_rows_that_need_no_other_files_hold(monkeypatch):
    monkeypatch.setattr(w2v_bert, "DEPTHS", (1,))
    monkeypatch.setattr(w2v_bert, "CURVE_STEPS", 3)
    for row in (w2v_bert.parity, w2v_bert.packing, w2v_bert.loss_curve):
        _, _, holds = row(argparse.Namespace())
        assert holds, row
