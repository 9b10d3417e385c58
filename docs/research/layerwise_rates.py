"""Layer-wise rates: each layer learns at 0.8 times the rate of the one above it, what lies below all layers slowest."""

import torch
from sample import sample, train

import w2v

data = sample(layerdrop=0.0)
model = w2v.Wav2Vec2ForCTC(data.config)
layers = list(model.parts.stacks[0])
groups = [{"params": list(model.parts.head.parameters()), "lr": 2e-3}]
groups += [{"params": list(each.parameters()), "lr": 2e-3 * 0.8**n} for n, each in enumerate(reversed(layers), start=1)]
grouped = {id(parameter) for group in groups for parameter in group["params"]}
rest = [parameter for parameter in model.parameters() if id(parameter) not in grouped]
groups.append({"params": rest, "lr": 2e-3 * 0.8 ** (len(layers) + 1)})
optimizer = torch.optim.AdamW(groups, fused=True)
losses = train(model, data.batch, optimizer)  # a schedule multiplies each group's own rate
rates = [group["lr"] for group in optimizer.param_groups]
print(f"rates {rates[0]:.1e} to {rates[-1]:.1e}")
