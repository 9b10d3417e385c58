"""Frame posteriors while somebody speaks: blocks of half a second go in, and at each pause frames come out."""

import torch
from sample import sample

import w2v
from w2v.decoding.longform import cut_into_chunks
from w2v.hearing import core_frames

data = sample()
model, hop = w2v.Wav2Vec2ForCTC(data.config).eval(), data.config.hop
recording = torch.cat([torch.from_numpy(waveform) for waveform in data.waveforms]).numpy()
blocks = (recording[start : start + 8000] for start in range(0, len(recording), 8000))  # of a microphone, in real life
pieces = []
with torch.no_grad():
    for chunk in cut_into_chunks(blocks, hop, eager=True):
        frames = core_frames(model, [chunk], "fp32")[0]  # (T, V) log-probabilities, or how many frames are silent
        if isinstance(frames, torch.Tensor):
            pieces.append(frames)
            texts = w2v.greedy_decode(frames[None], torch.tensor([len(frames)]), data.tokenizer)
            print(f"until {chunk.core_end / 16_000:.2f} s: {len(frames)} frames, {texts[0]!r}")
