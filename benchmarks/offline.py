"""What can be said of a training step on a GPU without one: counts from generated code, and what arithmetic forbids.

    python -m benchmarks.offline                  # all rows
    python -m benchmarks.offline --launches       # one of them; exit code 1 where a goal is missed

Nothing here is a time. benchmarks.generated says how a GPU's code is made without one, benchmarks.roofline what the
parts of a step take at least; docs/PERFORMANCE.md has the figures.
"""

import sys
import traceback
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import Row, run_rows
from benchmarks.generated import CARDS, Card, Generated, generating, inductor_kernels
from benchmarks.own_kernels import own_kernels
from benchmarks.roofline import is_view, least_times, noise_batch, step_without_numbers, summary_of
from benchmarks.speech import draw_speech
from recipes.console import Parser, run
from recipes.presets import BLOG_MODEL
from w2v.answers import Batch
from w2v.models.families import shapes
from w2v.training.compile import compile_layers, eagerly, try_batches
from w2v.training.step import TrainStep

MODELS = ("xlsr-53", "w2v-bert-2.0", "whisper-base")
H100, BATCH_SECONDS = CARDS["h100"], 160.0
MOST_LAUNCHES, MOST_GRAPHS = 58, 4
BATCHES, HEAD_WARMUP_STEPS, EVALUATE_EVERY, LONE, LAYERS = 200, 20, 50, 198, 2
LAYER_FIELDS = ("num_hidden_layers", "encoder_layers", "decoder_layers")
CHUNK, BLOCKS, TENSORS = 65_536, 320, 30  # numbers, blocks and tensors of one launch over a list of parameters


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.offline", description=(__doc__ or "").split("\n")[0])
    words = list(sys.argv[1:] if argv is None else argv)
    asked = [word for word in words if word != "--save"]
    return run_rows(parser, ROWS, words if asked else [*words, *(f"--{row}" for row in ROWS)])


def few_layers(model: str, layers: int = LAYERS) -> dict[str, int]:
    """Changes of a config: all layers of a stack share a graph, so two say as much as all."""
    config = shapes()[model][1]
    return {field: layers for field in LAYER_FIELDS if hasattr(config, field)}


def take_step(step: TrainStep, number: int, batch: Batch) -> None:
    step.begin(number)
    losses = step.losses(batch, last=True)
    step.backward(losses, step.total_weight([batch]))
    step.update()


def layer_code(model: str, card: Card) -> list[Generated]:
    """Of each stack of a model, a layer's code in training: forward, backward, for 160 s of the Common Voice mix."""
    batch = noise_batch(model, BATCH_SECONDS)
    half = "bf16" if card.capability >= (8, 0) else "fp16"
    with (
        step_without_numbers(model, card, half, changes=few_layers(model)) as (step, without_numbers),
        generating(card) as made,
    ):
        compile_layers(step.model, True)
        step.begin(0)
        batch = without_numbers(batch)
        step.backward(step.losses(batch, last=True), step.total_weight([batch]))
    return made


def launches(args) -> Row:
    """Kernels that a layer launches, forward and backward, and all of a step: XLSR-53, 160 s, bf16, encoder frozen."""
    figures: dict[str, Any] = {}
    for model in MODELS:
        made = layer_code(model, H100)
        for graph in made:
            where = f"{model}, {'backward' if graph.backward else 'forward'}"
            figures[where] = figures.get(where, 0) + graph.count()
        figures[f"{model}, GB of a layer"] = round(sum(graph.bytes for graph in made) / 1e9, 2)
    layer = figures["xlsr-53, forward"] + figures["xlsr-53, backward"]
    layers = round((1 - BLOG_MODEL["layerdrop"]) * shapes()["xlsr-53"][1].num_hidden_layers, 1)
    around = launches_around("xlsr-53")
    figures |= {
        "a layer": layer,
        "around the layers": around,
        f"a step with {layers:g} layers, about": round(layers * layer + around),
    }
    return figures, f"a layer of XLSR-53 at most {MOST_LAUNCHES}", layer <= MOST_LAUNCHES


def launches_around(model: str) -> int:
    """Operations of a step outside its layers, each of which launches a kernel or a few; the update by its lists."""
    batch = noise_batch(model, BATCH_SECONDS)
    one, two = (operations(model, batch, layers) for layers in (1, 2))
    with step_without_numbers(model, H100, "bf16") as (step, _):
        sizes = [p.numel() for p in step.model.parameters() if p.requires_grad]
    of_lists = max(-(-sum(-(-size // CHUNK) for size in sizes) // BLOCKS), -(-len(sizes) // TENSORS))
    return 2 * one - two + 2 * of_lists  # the norm and AdamW


def operations(model: str, batch: Batch, layers: int) -> int:
    """Of a forward and a backward pass, as eager layers run them."""
    with step_without_numbers(model, H100, "bf16", changes=few_layers(model, layers)) as (step, without_numbers):
        step.begin(0)
        batch = without_numbers(batch)
        with Operations() as counted:
            step.backward(step.losses(batch, last=True), step.total_weight([batch]))
    return counted.total


class Operations(TorchDispatchMode):
    """Counts the operations that do more than look at their inputs in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not is_view(func) and "empty" not in func._schema.name:
            self.total += 1
        return out


def graphs(args) -> Row:
    """Graphs of 200 batches with a trial, head warm-up, evaluations and a lone clip: how many, and when they are made.

    A lone clip has a graph of its own where rows are computed, which the trial makes.
    """
    speech = draw_speech("common-voice", None, None, BATCH_SECONDS, BATCHES)
    figures: dict[str, Any] = {}
    counts, late = [], 0
    for model in MODELS:
        config = shapes()[model][1]
        batches = [
            config.collate([np.zeros(n, np.int16) for n in speech.samples(b)], [speech.labels[i] for i in b])
            for b in speech.batches
        ]
        batches[LONE] = config.collate([np.zeros(32_000, np.int16)], [[1, 2, 3]])
        made = {when: count for when, count in graphs_by_step(model, batches).items() if count}
        figures[model] = f"{sum(made.values())}, in {', '.join(made)}"
        counts.append(sum(made.values()))
        late += sum(count for when, count in made.items() if when not in ("the trial", "step 0"))
    figures["lone clip"] = f"step {LONE}"
    goal = f"at most {MOST_GRAPHS}, all in the trial or the first step"
    return figures, goal, max(counts) <= MOST_GRAPHS and not late


def graphs_by_step(model: str, batches: list[Batch]) -> dict[str, int]:
    """How many graphs, forward and backward as one, each step made."""
    made_at: dict[str, int] = {}
    longest = max(batches, key=lambda batch: max(batch.samples))
    lone = shapes()[model][1].collate([np.zeros(max(longest.samples), np.int16)], [[1, 2, 3]])
    with (
        step_without_numbers(model, H100, "bf16", changes=few_layers(model)) as (step, without_numbers),
        generating(H100) as made,
    ):
        step.head_warmup_steps = HEAD_WARMUP_STEPS if shapes()[model][0].head else 0  # of a new head

        def forward_graphs() -> int:
            return sum(not graph.backward for graph in made)

        compile_layers(step.model, True)
        try_batches(step, [without_numbers(longest), without_numbers(lone)])
        made_at["the trial"] = forward_graphs()
        for number, batch in enumerate(batches):
            before = forward_graphs()
            batch = without_numbers(batch)
            take_step(step, number, batch)
            if number % EVALUATE_EVERY == 0:
                step.model.eval()
                with torch.no_grad(), eagerly(step.model):
                    step.model.losses(batch)
                step.model.train()
            made_at[f"step {number}"] = forward_graphs() - before
    return made_at


def read_backs(args) -> Row:
    """Operations of a step whose result the host would have to wait for, from begin() to update(), all families."""
    figures: dict[str, Any] = {}
    for model in MODELS:
        figures[model] = read_back_of(model) or 0
    return figures, "none", not any(figures.values())


def read_back_of(model: str) -> str:
    """Where a step first asks for a number of a tensor: there are no numbers here, so it ends there. "": nowhere."""
    batch = noise_batch(model, BATCH_SECONDS)
    with step_without_numbers(model, H100, "bf16", changes=few_layers(model)) as (step, without_numbers):
        try:
            take_step(step, 0, without_numbers(batch))
        except DataDependentOutputException as found:
            frames = [f for f in traceback.extract_tb(found.__traceback__) if "/w2v/" in f.filename]
            return f"{found.func} at {frames[-1].filename.rpartition('/w2v/')[2]}:{frames[-1].lineno}"
    return ""


def registers(args) -> Row:
    """Registers and spilled bytes of every Triton kernel on three cards: ours, and those of an XLSR-53 layer."""
    figures: dict[str, Any] = {}
    spilled = []
    for name, card in CARDS.items():
        found = own_kernels(card)
        for graph in layer_code("xlsr-53", card):
            found += inductor_kernels(graph, card)
        most = max(found, key=lambda kernel: kernel.registers)
        figures[f"sm_{card.number}, {name}"] = (
            f"{len(found)} kernels, at most {most.registers} registers ({most.kernel})"
        )
        spilled += [f"{kernel.kernel} on {name}: {kernel.spilled} bytes" for kernel in found if kernel.spilled]
    figures["spilled"] = spilled or "nothing"
    return figures, "nothing spilled", not spilled


def floors(args) -> Row:
    """The least time of a step on each card, by stage, and the parts of XLSR-53's on an H100: stated."""
    figures: dict[str, Any] = {}
    for model in MODELS:
        batch = noise_batch(model, BATCH_SECONDS)
        for name, card in CARDS.items():
            parts = least_times(model, batch, "bf16" if card.capability >= (8, 0) else "fp16", card)
            figures[f"{model}, {name}, ms"] = summary_of(parts, batch, card)["least_ms_by_stage"]
    return figures, "stated", True


ROWS = {
    "launches": launches,
    "graphs": graphs,
    "read-backs": read_backs,
    "registers": registers,
    "floors": floors,
}


if __name__ == "__main__":
    run(main)
