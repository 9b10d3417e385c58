"""A wrapped model and a schedule of one's own: a student learns a teacher's frame posteriors, without labels."""

import math

import torch
import torch.nn.functional as F
from sample import sample, train

import w2v
from w2v.answers import Batch, Losses


class Distilled(torch.nn.Module):
    def __init__(self, student: w2v.Wav2Vec2ForCTC, teacher: w2v.Wav2Vec2ForCTC):
        super().__init__()
        self.student, self.teacher, self.parts = student, teacher.requires_grad_(False), student.parts

    def losses(self, batch: Batch) -> Losses:
        heard, wanted = (model(batch).logits.log_softmax(-1) for model in (self.student, self.teacher))
        return Losses(F.kl_div(heard, wanted, reduction="none", log_target=True).sum((1, 2)) / batch.layout.lengths, {})


model = Distilled(*(w2v.Wav2Vec2ForCTC(sample(apply_spec_augment=False).config) for _ in range(2)))
losses = train(model, sample().batch, lr_factor=lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 20))
