"""One, two and four processes that train one model on the sample: the same losses, gradients and weights.

python -m tests.reliability ranks
"""

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import w2v
from w2v.data.batching import BatchSampler
from w2v.data.corpus import read_corpus
from w2v.data.store import build_store
from w2v.training import distributed
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

ROOT = Path(__file__).parents[2]
WORLDS = (1, 2, 4)
CLIPS, STEPS = 40, 20
FIRST_LOSS, LAST_LOSS, GRADIENT = 1e-6, 1e-4, 1e-5  # the most that may be apart, relative
NO_GRADIENT = "k_proj.bias"  # a softmax does not feel it: what is there is rounding


def train(cache: Path) -> dict:
    """20 steps of the tiny model without dropout, each over the same eight clips however many processes there are."""
    clips = read_corpus([ROOT / "recipes" / "sample" / "tr"], "tr", cache).tables["validated"][:CLIPS]
    audio = distributed.after_first(lambda: build_store(clips, cache, 1))
    off = [f.name for f in dataclasses.fields(w2v.TINY) if f.name.endswith("dropout")]
    config = dataclasses.replace(w2v.TINY, **dict.fromkeys(off, 0.0), layerdrop=0.0, apply_spec_augment=False)
    tokenizer = w2v.CharTokenizer.from_texts([clip.sentence.lower() for clip in clips])
    labels = [tokenizer.encode(clip.sentence.lower()) for clip in clips]
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(dataclasses.replace(config, vocab_size=len(tokenizer))).train()
    step = TrainStep(model, adamw(model, 1e-3, (0.9, 0.999), 0.0), lambda _: 1.0)
    costs = [config.cost(audio.samples(clip)) for clip in clips]
    rank, world = distributed.rank(), distributed.world()
    sampler = BatchSampler(costs, batch_clips=2, rank=rank, world=world, processes=max(WORLDS))
    losses, gradients, update = [], {}, step.optimizer.step

    def caught() -> None:
        if not gradients:
            gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        update()

    step.optimizer.step = caught
    for number in range(STEPS):
        epoch, position = divmod(number, len(sampler.epoch(0)))
        step.begin(number)
        batches = [
            config.collate([audio[clips[i]] for i in numbers], [labels[i] for i in numbers])
            for numbers in sampler.epoch(epoch)[position]
        ]
        total = step.total_weight(batches)
        for batch in batches:
            step.backward(step.losses(batch, last=batch is batches[-1]), total)
        losses.append(sum(distributed.gather(float(step.update().losses.sum()))) / float(total))
    return {"losses": losses, "gradients": gradients, "weights": model.state_dict()}


def launch(world: int, folder: Path) -> list[dict]:
    """What each of so many processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.ranks", str(folder)],
            cwd=ROOT,
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    if any(process.wait(600) for process in processes):
        sys.exit(f"{world} processes: one failed")
    return [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


def main(_: list[str]) -> int:
    """Print the distances of two and four processes from one. -> exit code."""
    missed = False
    with tempfile.TemporaryDirectory() as name:
        found = {world: launch(world, Path(name)) for world in WORLDS}
    alone = found[1][0]
    for world in WORLDS[1:]:
        first = found[world][0]
        same = all(
            torch.equal(value, other[part][name])
            for other in found[world][1:]
            for part in ("gradients", "weights")
            for name, value in first[part].items()
        )
        apart = [abs(a - b) / abs(b) for a, b in zip(first["losses"], alone["losses"], strict=True)]
        gradient = max(
            float((first["gradients"][name] - value).norm() / value.norm())
            for name, value in alone["gradients"].items()
            if not name.endswith(NO_GRADIENT)
        )
        holds = same and apart[0] <= FIRST_LOSS and apart[-1] <= LAST_LOSS and gradient <= GRADIENT
        missed |= not holds
        print(
            f"{world} processes against 1: loss {apart[0]:.1e} apart at step 1, {apart[-1]:.1e} at step {STEPS}; "
            f"gradients of step 1 {gradient:.1e}; ranks {'bit-equal' if same else 'DIFFER'}: "
            f"{'holds' if holds else 'MISSED'}"
        )
    return int(missed)


if __name__ == "__main__":
    distributed.join(torch.device("cpu"))
    result = train(Path(sys.argv[1]) / "cache")
    torch.save(result, Path(sys.argv[1]) / f"{distributed.world()}-{distributed.rank()}.pt")
    distributed.leave()
