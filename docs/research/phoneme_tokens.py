"""Phonemes in place of characters. Turkish spelling is near its sounds; a lexicon or espeak gives those of others."""

import dataclasses

from sample import sample, train

import w2v

SOUNDS = {"c": "dʒ", "ç": "tʃ", "ğ": "ː", "ı": "ɯ", "j": "ʒ", "ö": "œ", "ş": "ʃ", "ü": "y", "y": "j"}
data = sample()
spoken = [" ".join(SOUNDS.get(letter, letter) for letter in text if letter != " ") for text in data.texts]
tokens = ["[PAD]", *sorted(set(" ".join(spoken).split()))]  # [PAD] is CTC's blank
tokenizer = w2v.CharTokenizer({token: i for i, token in enumerate(tokens)}, space=None, unk=None, phonemes=True)
labels = [tokenizer.encode(text) for text in spoken]
config = dataclasses.replace(data.config, **data.config.for_vocabulary(tokenizer))
model = w2v.Wav2Vec2ForCTC(config)
losses = train(model, config.collate(data.waveforms, labels))
