"""What does layer 9 know? A linear probe of a frozen model: is there speech in this frame?"""

import torch
from sample import sample

import w2v

data = sample(num_hidden_layers=12)  # of random weights; w2v.Wav2Vec2Model.from_pretrained("DIR") for trained ones
model = w2v.Wav2Vec2Model(data.config).eval()
with torch.no_grad():
    states = model.hidden_states(data.batch)  # layers[0] goes into layer 1, layers[9] comes out of layer 9
rows = states.layers[9]  # (B, T, D), one row a clip
frames = torch.cat([row[:length] for row, length in zip(rows, states.lengths, strict=True)])  # (F, D)
size, hop = data.config.receptive_field, data.config.hop
level = torch.cat([torch.from_numpy(waveform).unfold(0, size, hop).std(-1) for waveform in data.waveforms])  # (F,)
is_speech = (level > level.median()).float()
features = torch.cat([frames, torch.ones(len(frames), 1)], dim=1)  # the last is a bias
train, test = slice(None, None, 2), slice(1, None, 2)
weights = torch.linalg.lstsq(features[train], 2 * is_speech[train] - 1, driver="gelsd").solution
accuracy = float(((features[test] @ weights > 0) == is_speech[test].bool()).float().mean())
print(f"{accuracy:.0%} of {len(is_speech[test])} frames are told right")
