"""The features of a folder of audio, in three lines. Of a folder with a model: asr = w2v.load("DIR")."""

from sample import SAMPLE, sample

import w2v
from w2v.asr import Recogniser

data, folder, features = sample(), SAMPLE / "clips", {}
asr = Recogniser(w2v.Wav2Vec2ForCTC(data.config), data.tokenizer)  # of random weights

for file in sorted(folder.glob("*.mp3"))[:10]:
    features[file.name] = asr.features(file, layer=2)  # (T, D) float32; np.save(file.with_suffix(".npy"), ...) keeps it
print({name: rows.shape for name, rows in features.items()})
