"""The lowest two layers, and all below them, stay as they are."""

from sample import sample, train

import w2v

data = sample(layerdrop=0.0)
model = w2v.Wav2Vec2ForCTC(data.config)
body = model.wav2vec2
for module in (body.feature_extractor, body.feature_projection, body.encoder.pos_conv_embed, *body.encoder.layers[:2]):
    module.requires_grad_(False)
before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
losses = train(model, data.batch)
moved = [name for name, parameter in model.named_parameters() if not parameter.equal(before[name])]
print(f"{len(moved)} of {len(before)} tensors moved")
