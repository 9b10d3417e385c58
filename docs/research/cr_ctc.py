"""CR-CTC (Yao et al. 2024, arXiv 2410.05101): two masked views of each clip, each of which learns from the other."""

import torch.nn.functional as F
from sample import sample, train
from torch import Tensor

import w2v
from w2v.answers import Batch, Losses


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Log-probabilities (B, T, V) -> (B,). After a clip's end both views are alike and add nothing."""
    return F.kl_div(student, teacher.detach(), reduction="none", log_target=True).sum((1, 2))


class CRCTC(w2v.Wav2Vec2ForCTC):
    def losses(self, batch: Batch) -> Losses:
        views, u = [self(batch), self(batch)], batch.label_lengths  # each view draws its masks and dropout
        ctc = sum(w2v.ctc_losses(view.logits, view.logit_lengths, batch.labels, u, view.blank_id) for view in views)
        one, other = (view.logits.log_softmax(-1) for view in views)
        return Losses(ctc / 2 + 0.2 * (divergence(one, other) + divergence(other, one)) / 2 / u, {})


losses = train(CRCTC(sample(mask_time_prob=0.125).config), sample().batch)
