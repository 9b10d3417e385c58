"""SpecAugment of one's own: the share of masked frames grows while the model learns. Any boolean masks will do."""

import torch
from sample import sample

import w2v

data = sample(apply_spec_augment=False)  # else masks are drawn where none are given
model, layout = w2v.Wav2Vec2ForCTC(data.config).train(), data.batch.layout
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses, shares = [], []
for step in range(20):
    mask = w2v.span_mask(layout.lengths, layout.longest, prob=0.02 * step, span=5)  # (B, T), True = masked
    out = model(data.batch, time_mask=mask)  # feature_mask: (B, D), for features of whole clips
    loss = w2v.ctc_loss(out, data.batch.labels, data.batch.label_lengths)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    shares.append(float(mask.sum() / layout.lengths.sum()))
print(f"masked {shares[0]:.0%}, then {shares[-1]:.0%}; loss {losses[0]:.2f}, then {losses[-1]:.2f}")
