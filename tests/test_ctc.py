"""CTC loss, feasibility and greedy decoding, against values worked out by hand.

Run: pytest tests/test_ctc.py
"""

import math

import pytest
import torch
import torch.nn.functional as F

import w2v
from w2v.answers import DecodeOptions, Emissions
from w2v.ctc import ctc_losses, frames_needed
from w2v.decoding.ctc import greedy, greedy_decode
from w2v.models.wav2vec2 import CTCOutput


def test_loss_by_hand():
    """Two frames, one label, even odds over {blank, a}: paths aa, a-, -a of 1/4 each."""
    losses = ctc_losses(torch.zeros(1, 2, 2), torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]), blank=0)
    torch.testing.assert_close(losses, torch.tensor([-math.log(0.75)]))


def test_each_clip_is_divided_by_its_own_labels_and_padding_is_ignored():
    torch.manual_seed(0)
    logits = torch.randn(2, 30, 6)
    labels = torch.tensor([[1, 2, 3, 4], [2, 2, 99, 99]])
    lengths, label_lengths = torch.tensor([30, 17]), torch.tensor([4, 2])
    losses = ctc_losses(logits, lengths, labels, label_lengths, blank=5)
    alone = ctc_losses(logits[1:, :17], lengths[1:], labels[1:, :2], label_lengths[1:], blank=5)
    torch.testing.assert_close(losses[1:], alone)
    out = CTCOutput(logits, lengths, 5)
    wanted = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), labels, lengths, label_lengths, blank=5, reduction="mean"
    )
    torch.testing.assert_close(w2v.ctc_loss(out, labels, label_lengths), wanted)


def test_half_precision_logits_are_summed_in_full():
    torch.manual_seed(0)
    logits = torch.randn(1, 900, 40).bfloat16()
    labels = torch.randint(1, 39, (1, 200))
    args = (torch.tensor([900]), labels, torch.tensor([200]))
    loss = ctc_losses(logits, *args, blank=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ctc_losses(logits.double().float(), *args, blank=0))


def test_feasibility_is_exact():
    """frames_needed is the least number of frames with a finite loss."""
    for labels in ([1], [1, 2], [1, 1], [1, 1, 1, 2, 2], [3, 3, 1, 3]):
        needed = frames_needed(labels)
        for frames, finite in ((needed, True), (needed - 1, False)):
            if frames:
                loss = ctc_losses(
                    torch.zeros(1, frames, 5),
                    torch.tensor([frames]),
                    torch.tensor([labels]),
                    torch.tensor([len(labels)]),
                    0,
                )
                assert bool(torch.isfinite(loss)) is finite
    assert frames_needed([]) == 0


def test_infeasible_clip_counts_nothing_with_zero_infinity():
    args = (torch.zeros(1, 1, 3), torch.tensor([1]), torch.tensor([[1, 2]]), torch.tensor([2]))
    assert torch.isinf(ctc_losses(*args, blank=0))
    assert ctc_losses(*args, blank=0, zero_infinity=True) == 0


@pytest.mark.parametrize(("length", "text"), [(7, "hee"), (5, "he"), (1, "h")])
def test_greedy_decoding_of_seven_frames(length, text):
    """Frames h h - e e - e: repeats collapse, a blank keeps two letters apart, padding is cut off before."""
    tokenizer = w2v.CharTokenizer.from_texts(["eh"])
    frames = ["h", "h", "[PAD]", "e", "e", "[PAD]", "e"]
    logits = torch.nn.functional.one_hot(torch.tensor([[tokenizer.vocab[f] for f in frames]]), len(tokenizer)).float()
    assert greedy_decode(logits, torch.tensor([length]), tokenizer) == [text]


def test_words_have_times_and_confidences():
    """Frames h h - e e - | - a: two words, their blanks outside, from the first frame's start to the last one's end."""
    tokenizer = w2v.CharTokenizer.from_texts(["aeh"])
    frames = ["h", "h", "[PAD]", "e", "e", "[PAD]", "|", "[PAD]", "a"]
    path = torch.tensor([[tokenizer.vocab[frame] for frame in frames]])
    log_probs = torch.full((1, len(frames) + 2, len(tokenizer)), -9.0)
    log_probs[:, : len(frames)].scatter_(2, path[:, :, None], math.log(0.5))
    log_probs[:, 3:5].scatter_(2, path[:, 3:5, None], math.log(0.9))
    emissions = Emissions(log_probs, torch.tensor([len(frames)]), seconds_per_frame=0.02)
    (heard,) = greedy(emissions, tokenizer, DecodeOptions(words=True))
    assert heard.text == "he a"
    assert heard.tokens == [tokenizer.vocab[token] for token in "he|a"]
    assert heard.score == pytest.approx(7 * math.log(0.5) + 2 * math.log(0.9), abs=1e-5)
    assert [(word.text, word.start, word.end) for word in heard.words] == [
        ("he", 0.0, pytest.approx(0.1)),
        ("a", pytest.approx(0.16), pytest.approx(0.18)),
    ]
    assert heard.words[0].confidence == pytest.approx((0.5 + 0.5 + 0.9 + 0.9) / 4)
    assert greedy(emissions, tokenizer, DecodeOptions())[0].words == []


def test_words_without_a_token_for_the_space():
    """Phoneme vocabularies need not have one: the text is then one word."""
    tokenizer = w2v.CharTokenizer({"[PAD]": 0, "n": 1, "tʃ": 2}, space=None, unk=None, phonemes=True)
    log_probs = torch.full((1, 4, 3), -9.0)
    log_probs[0, torch.arange(4), torch.tensor([1, 0, 1, 2])] = math.log(0.5)
    (heard,) = greedy(Emissions(log_probs, torch.tensor([4]), 0.02), tokenizer, DecodeOptions(words=True))
    assert [word.text for word in heard.words] == [heard.text] == ["n n tʃ"]


def test_metrics_sum_errors_over_the_corpus():
    rates = w2v.error_rates(["a b c d", "e"], ["a b c d", "f"])
    assert rates.wer == pytest.approx(1 / 5)  # the mean of per-clip rates would be 1/2
    assert rates.cer == pytest.approx(1 / 8)
    assert w2v.error_rates(["a b"], [""]).wer == 1.0  # blanks score exactly 1
    assert w2v.error_rates([], []).wer is None
    assert w2v.error_rates(["a"], ["a b c"]).wer == 2.0


def test_gradients_of_long_clips_keep_their_digits():
    """Sums of log-probabilities in fp32 leave an error of 1e-3 here, which moves with the last digit of any logit."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(2, 400, 40)).requires_grad_()
    labels, lengths, label_lengths = torch.randint(0, 39, (2, 60)), torch.tensor([400, 390]), torch.tensor([60, 55])
    (ours,) = torch.autograd.grad(ctc_losses(logits, lengths, labels, label_lengths, 39).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    losses = F.ctc_loss(exact.log_softmax(-1).transpose(0, 1), labels, lengths, label_lengths, 39, "none")
    (wanted,) = torch.autograd.grad((losses / label_lengths).sum(), exact)
    error = (ours - wanted).norm() / wanted.norm()
    assert error <= 5e-7, error
