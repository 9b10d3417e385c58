"""Two processes compute what one does: gradients, updates, LayerDrop, checkpointing and accumulation together.

Run: pytest tests/training/test_distributed.py
"""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import w2v
from recipes import console
from w2v.models.w2v_bert_config import W2V_BERT_TINY
from w2v.training import distributed
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

ROOT = Path(__file__).parents[2]
SECONDS = (1.0, 1.7, 2.1, 0.9, 1.2, 0.8, 1.5)
# Micro-batches of unequal size, by rank of two; one process takes the union.
SHARES = {0: [[0, 1], [2]], 1: [[3], [4, 5, 6]]}
TOGETHER = [[0, 1, 3], [2, 4, 5, 6]]
STEPS = 3


def batch(numbers: list[int], config) -> w2v.Batch:
    generator = torch.Generator().manual_seed(5)
    waveforms = [torch.randn(int(s * 16_000), generator=generator).numpy() for s in SECONDS]
    labels = [torch.randint(0, 30, (3 + i,), generator=generator).tolist() for i in range(len(SECONDS))]
    return config.collate([waveforms[i] for i in numbers], [labels[i] for i in numbers])


def train(head_warmup_steps: int, model_type: str) -> dict:
    """A few steps from the same weights -> gradients of each step, the weights after them, layers left out."""
    tiny = {"wav2vec2": w2v.TINY, "wav2vec2-bert": W2V_BERT_TINY}[model_type]
    dropouts = [field.name for field in dataclasses.fields(tiny) if field.name.endswith("dropout")]
    config = dataclasses.replace(
        tiny, num_hidden_layers=6, layerdrop=0.3, apply_spec_augment=False, **dict.fromkeys(dropouts, 0.0)
    )
    torch.manual_seed(3)
    model = w2v.FAMILIES[model_type].model(config).train()
    model.parts.stacks[0].checkpointing = True
    for part in model.parts.frozen:
        part.requires_grad_(False)
    step = TrainStep(
        model, adamw(model, 1e-3, (0.9, 0.999), 0.0), lambda _: 1.0, head_warmup_steps=head_warmup_steps, seed=11
    )
    gradients, update = [], step.optimizer.step

    def caught() -> None:
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        update()

    step.optimizer.step = caught
    numbers = TOGETHER if distributed.world() == 1 else SHARES[distributed.rank()]
    norms = []
    for i in range(STEPS):
        step.begin(i)
        batches = [batch(n, config) for n in numbers]
        total = step.total_weight(batches)
        for micro in batches:
            step.backward(step.losses(micro, last=micro is batches[-1]), total)
        norms.append(step.update().grad_norm)
    return {"gradients": gradients, "weights": model.state_dict(), "norms": torch.stack(norms)}


def start_two(*words: str) -> list[subprocess.Popen]:
    """Two processes of this file, without a launcher: it takes seconds to start, and adds lines of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, __file__, *words],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for rank in (0, 1)
    ]


@pytest.mark.parametrize(
    ("head_warmup_steps", "model_type"),
    [
        pytest.param(0, "wav2vec2", marks=pytest.mark.slow),
        (1, "wav2vec2"),
        pytest.param(0, "wav2vec2-bert", marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(tmp_path, head_warmup_steps, model_type):
    processes = start_two(str(tmp_path), str(head_warmup_steps), model_type)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = train(head_warmup_steps, model_type)

    for number, wanted in enumerate(alone["gradients"]):
        ours = ranks[0]["gradients"][number]
        for name, gradient in ranks[1]["gradients"][number].items():
            assert torch.equal(gradient, ours[name]), f"the ranks differ in {name}"
        # A layer that every micro-batch left out has no gradient alone, and zeros among ranks: AdamW then moves it on
        # by its momentum, so only the first step is compared to the last digits.
        dropped = set(ours) - set(wanted)
        assert all((ours[name] == 0).all() for name in dropped)
        if number == 0 and head_warmup_steps:
            assert set(ours) == {"lm_head.weight", "lm_head.bias"}
        difference, size = 0.0, 0.0
        for name, gradient in wanted.items():
            error = (ours[name] - gradient).norm()
            difference, size = difference + error**2, size + gradient.norm() ** 2
            if (
                not name.endswith(("k_proj.bias", "linear_k.bias")) and number == 0
            ):  # later steps start from weights that rounding moved
                assert error <= 1e-5 * gradient.norm(), (name, error / gradient.norm())
        if number == 0:
            assert difference <= 1e-12 * size, (difference / size) ** 0.5
    assert any("encoder.layers" in name for name in set(ours)), "some layer must have trained"
    torch.testing.assert_close(ranks[0]["norms"][0], alone["norms"][0], rtol=1e-5, atol=0)
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name]), f"the ranks end with other weights in {name}"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["by_first", "after_first"])
def test_what_the_first_process_refuses_ends_all_with_one_line(what):
    processes = start_two(what)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert said == ["error: `lr` must be positive\n", ""]


def refuse() -> dict:
    distributed.join(torch.device("cpu"))

    def first():
        assert distributed.rank() == 0
        raise w2v.InputError("`lr` must be positive")

    return distributed.by_first(first)() if sys.argv[1] == "by_first" else distributed.after_first(first)


def test_a_lone_process_needs_no_group():
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.from_first("a") == "a"
    assert distributed.gather(3) == [3]
    assert distributed.by_first(lambda x: x + 1)(1) == 2
    value = torch.ones(())
    assert distributed.with_all_parameters(value, torch.nn.Linear(1, 1)) is value


if __name__ == "__main__":
    if sys.argv[1] in ("by_first", "after_first"):
        console.run(refuse)
    distributed.join(torch.device("cpu"))
    result = train(int(sys.argv[2]), sys.argv[3])
    assert distributed.gather(distributed.rank()) == [0, 1]
    assert distributed.by_first(distributed.rank)() == 0
    torch.save(result, Path(sys.argv[1]) / f"{distributed.rank()}.pt")
    distributed.leave()
