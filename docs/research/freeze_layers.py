"""The lowest two layers, and all below them, stay as they are: --freeze-layers 2 in Python."""

from sample import sample, train

import w2v
from w2v.training.optim import freeze_lowest

data = sample(layerdrop=0.0)
model = w2v.Wav2Vec2ForCTC(data.config)
freeze_lowest(model, 2)
before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
losses = train(model, data.batch)
moved = [name for name, parameter in model.named_parameters() if not parameter.equal(before[name])]
print(f"{len(moved)} of {len(before)} tensors moved")
