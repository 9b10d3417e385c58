"""Layer-wise rates: each layer learns at 0.8 times the rate of the one above it: --layer-decay 0.8 in Python."""

from sample import sample, train

import w2v
from w2v.training.optim import adamw

data = sample(layerdrop=0.0)
model = w2v.Wav2Vec2ForCTC(data.config)
optimizer = adamw(model, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0, layer_decay=0.8)
losses = train(model, data.batch, optimizer)  # a schedule multiplies each group's own rate
rates = [group["lr"] for group in optimizer.param_groups]
print(f"rates {rates[0]:.1e} to {rates[-1]:.1e}")
