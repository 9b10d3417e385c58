"""A family of models is one file, one name map and one row: a toy one is trained by the real recipe.

Run: pytest tests/recipes/test_fourth_family.py
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from conftest import SAMPLE
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import w2v
from recipes import cv_finetune
from w2v.answers import Batch, Emissions, Losses, Parts, pad_labels
from w2v.decoding.ctc import greedy
from w2v.layout import Padded
from w2v.models.families import FAMILIES, Family
from w2v.models.stack import LayerStack
from w2v.weights import hf


@dataclass(frozen=True)
class ToyConfig:
    """Frames of 25 ms are spectra of 400 samples."""

    vocab_size: int = 8
    pad_token_id: int = 0

    def frames(self, samples):
        return samples // 400

    pads, hop = True, 400

    def cost(self, samples):
        return samples / 16_000

    def why_not(self, samples, label_ids):
        return None if self.frames(samples) > 2 * len(label_ids) else "too short"

    def collate(self, waveforms, labels=None, names=None):
        cut = [torch.from_numpy(np.float32(x[: len(x) // 400 * 400])).unflatten(0, (-1, 400)) for x in waveforms]
        layout = Padded.of(torch.tensor([len(x) for x in cut]), max(len(x) for x in cut))
        rows = pad_sequence([torch.fft.rfft(x).abs().log1p() for x in cut], batch_first=True)  # (B, T, 201)
        weights, names = [1.0] * len(cut), names or [""] * len(cut)
        ids = pad_labels(labels or [[] for _ in cut])
        return Batch(rows, layout, [len(x) for x in waveforms], *ids, weights, names)

    def for_vocabulary(self, tokenizer, labels=()):
        return {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.blank_id}

    def check_vocabulary(self, tokenizer, directory):
        assert len(tokenizer) == self.vocab_size

    def to_dict(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields):
        return cls(fields["vocab_size"], fields["pad_token_id"])


class Toy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body, self.head = LayerStack([nn.Linear(201, 32)]), nn.Linear(32, config.vocab_size)

    @property
    def parts(self):
        return Parts(self.head, (), (self.body,))

    def emissions(self, batch):
        return Emissions(self.head(self.body(batch.inputs).relu()).log_softmax(-1), batch.layout.lengths, 0.025)

    def losses(self, batch):
        log_probs, lengths, _ = self.emissions(batch)
        return Losses(
            w2v.ctc_losses(log_probs, lengths, batch.labels, batch.label_lengths, self.config.pad_token_id), {}
        )

    def decode(self, batch, tokenizer, options):
        return greedy(self.emissions(batch), tokenizer, options)

    def save_pretrained(self, directory):
        hf.save(directory, self.state_dict(), {"model_type": "toy"} | self.config.to_dict(), {})

    @classmethod
    def from_pretrained(cls, path, config=None, *, new_head=False, **overrides):
        config = hf.override(config or ToyConfig.from_dict(hf.read_fields(path)), overrides)
        fresh = ("head.",) if new_head else ()
        return hf.build(cls, config, hf.read_tensors(path), path, lambda module, _: module.reset_parameters(), fresh)


def test_a_toy_family_is_trained_exported_and_loaded(tmp_path, monkeypatch, clips):
    monkeypatch.setitem(
        FAMILIES, "toy", Family("toy", "toy", ToyConfig, Toy, w2v.CharTokenizer, "head.", {"toy": ToyConfig()}, {})
    )
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    few = ["--lang", "tr", "--data", str(SAMPLE), "--max-train-clips", "8", "--max-steps", "2", "--device", "cpu"]
    out = tmp_path / "toy"
    summary = cv_finetune.main([*few, "--model", "random:toy", "--out", str(out)])
    assert summary["steps"] == 2
    assert summary["train_cer"] is not None
    asr = w2v.load(out)
    assert isinstance(asr.model, Toy)
    assert len(asr.transcribe(clips[:2])) == 2
    # ... and trained on from there: what moves is the optimiser's doing.
    cv_finetune.main([*few, "--model", str(out), "--out", str(tmp_path / "again")])
    one, two = load_file(out / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert one.keys() == two.keys()
    assert not torch.equal(one["body.0.weight"], two["body.0.weight"])
