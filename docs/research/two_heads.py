"""Two heads on one body: characters by CTC, and who speaks, from the mean of a clip's frames."""

import torch
from sample import sample, train

import w2v
from w2v.answers import Batch, Losses

data = sample()
number_of = {clip.name: number for number, clip in enumerate(data.clips)}  # each of these clips has another speaker


class TwoHeads(w2v.Wav2Vec2ForCTC):
    def losses(self, batch: Batch) -> Losses:
        frames, lengths = self.wav2vec2(batch)  # (B, T, D), zeros after a clip's end; (B,)
        ctc = w2v.ctc_losses(self.lm_head(frames), lengths, batch.labels, batch.label_lengths, self.config.pad_token_id)
        who = torch.tensor([number_of[name] for name in batch.names], device=frames.device)
        logits = self.who(frames.sum(1) / lengths[:, None])  # (B, speakers)
        return Losses(ctc + torch.nn.functional.cross_entropy(logits, who, reduction="none"), {})


model = TwoHeads(data.config)
model.who = torch.nn.Linear(data.config.hidden_size, len(number_of))
losses = train(model, data.batch)
