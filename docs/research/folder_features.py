"""The features of a folder of audio, in three lines. A published model: w2v.Wav2Vec2Model.from_pretrained(DIR)."""

from sample import SAMPLE, sample

import w2v

config, folder, features = sample().config, SAMPLE / "clips", {}

model = w2v.Wav2Vec2Model(config).eval().requires_grad_(False)
for file in sorted(folder.glob("*.mp3"))[:10]:
    features[file.name] = model(config.collate([w2v.read_audio(file)])).last_hidden_state[0]  # (T, D)
print({name: tuple(rows.shape) for name, rows in features.items()})
