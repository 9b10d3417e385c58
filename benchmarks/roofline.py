"""The least time that each part of a training step takes on a card, by two of its numbers.

    python -m benchmarks.roofline --model xlsr-53 --batch-seconds 160 --card h100
    python -m benchmarks.roofline --model w2v-bert-2.0 --card here          # a GPU's rates, measured now

A matrix product takes at least its operations by the rate of a large product, and at least its bytes by the rate of a
large copy: whichever is longer. What lies between products is counted as if it were fused without a gap: it reads each
result of a product once, and writes each input of one once, in each pass. The step as it is written, casts of weights
among it, cannot take less; what a real one takes longer is launches, reads that no fusion saved, and kernels below the
two rates.

The step is the recipe's: bf16 or fp16 with fp32 weights, packed where the family packs, AdamW; the encoder frozen where
recipes freeze it, no layer dropped. It is traced with tensors that have shapes and no numbers, so it takes seconds and
no GPU. A table goes to stderr, one JSON object to stdout.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from benchmarks.common import matmul_ceiling, memory_rate, with_command
from benchmarks.generated import CARDS, Card, gpu_ways
from benchmarks.speech import draw_speech
from benchmarks.training_columns import by_itself
from recipes.console import Parser, not_negative, run, say
from recipes.presets import MODEL_FIELDS
from w2v.answers import Batch
from w2v.errors import InputError
from w2v.layout import map_tensors
from w2v.models.families import shapes
from w2v.precision import PRECISIONS, resolve_precision
from w2v.training.device import resolve_device
from w2v.training.optim import adamw
from w2v.training.step import TrainStep

UPDATE_BYTES = 32  # of a trained parameter, in fp32: its gradient for the norm, then gradient, weight and two moments
VIEWS = {"detach", "alias", "t", "transpose", "permute", "expand", "squeeze", "unsqueeze", "as_strided", "slice",
         "select", "split", "split_with_sizes", "unbind", "diagonal", "unfold"}  # fmt: skip


class Part(NamedTuple):
    """The least that one part of one pass takes."""

    stage: str  # forward, backward or optimiser
    name: str
    flop: int
    bytes: int
    seconds: float


@contextmanager
def step_without_numbers(
    model: str, card: Card, precision: str, train_encoder: bool = False, changes: dict[str, Any] | None = None
) -> Iterator[tuple[TrainStep, Callable[[Batch], Batch]]]:
    """A training step of the recipe that computes shapes only, in a GPU's ways. -> it, and what makes its batches.

    model: a name of `shapes()`. changes: of fields of its config.
    """
    family, config = shapes()[model]
    config = dataclasses.replace(config, **MODEL_FIELDS[family.model_type]["fine-tuning"], **(changes or {}))
    with FakeTensorMode() as mode, gpu_ways(card), by_itself():
        net = family.model(config).train()
        if not train_encoder:
            for part in net.parts.frozen:
                part.requires_grad_(False)
        step = TrainStep(net, adamw(net, 1e-5, (0.9, 0.999), 0.0), lambda _: 1.0, precision)
        yield step, lambda batch: map_tensors(batch, mode.from_tensor)


def least_times(model: str, batch: Batch, precision: str, card: Card, train_encoder: bool = False) -> list[Part]:
    """The parts of a training step on the batch. precision: bf16, fp16 or fp32."""
    half = "fp32" if precision == "fp32" else "bf16"  # fp16 moves as much, and its loss scale is no work
    with step_without_numbers(model, card, half, train_encoder) as (step, without_numbers):
        step.begin(0)
        batch = without_numbers(batch)
        trace = Trace(step.model, getattr(batch.layout, "sizes", []), card)
        with trace.tracker:
            with trace.stage("forward"):
                losses = step.losses(batch, last=True)
            with trace.stage("backward"):
                step.backward(losses, step.total_weight([batch]))
        trained = sum(p.numel() for p in step.model.parameters() if p.requires_grad)
    update = Part("optimiser", "norm and AdamW", 0, UPDATE_BYTES * trained, UPDATE_BYTES * trained / card.memory_rate)
    return [*trace.parts(), update]


class Trace(TorchDispatchMode):
    """Counts what each operation must compute and move, by pass and by part of the model."""

    def __init__(self, model: Any, sizes: list[int], card: Card):
        super().__init__()
        self.sizes, self.card = sizes, card
        self.tracker = ModuleTracker()
        self.places = _places(model)
        self.current = ""
        self.found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
        self.made_by: dict[int, str] = {}  # storage -> "product" or "between"
        self.kept: list[Tensor] = []  # alive, so that no storage's number comes again
        self.counted: set[tuple[int, str]] = set()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.current, self.counted = name, set()
        with self:
            yield

    def parts(self) -> list[Part]:
        return [Part(*where, int(flop), int(moved), seconds) for where, (flop, moved, seconds) in self.found.items()]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if is_view(func):
            return out
        if "empty" in name:
            self.keep([out], "between")
            return out
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        if func.overloadpacket in flop_registry:
            self.product(func, name, args, kwargs or {}, inputs, out, outputs)
        else:
            self.between(inputs, outputs)
        return out

    def product(self, func, name, args, kwargs, inputs: list[Tensor], out: Any, outputs: list[Tensor]) -> None:
        if name.startswith("_flash_attention"):  # of each clip by itself, not of so many of the longest
            query = inputs[1] if name.endswith("backward") else inputs[0]  # (F, H, K)
            products = 5 if name.endswith("backward") else 2
            flop = 2 * products * query.shape[1] * query.shape[2] * sum(n * n for n in self.sizes)
        else:
            flop = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        moved = sum(map(_bytes, [*inputs, *outputs]))
        seconds = max(flop / self.card.product_rate, moved / self.card.memory_rate)
        self.add("attention" if "attention" in name else "products", flop, moved, seconds)
        for x in inputs:  # what lies between products wrote it
            if self.made_by.get(_storage(x)) == "between":
                self.cross(x)
        self.keep(outputs, "product")

    def between(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for x in inputs:
            if self.made_by.get(_storage(x)) != "between":
                self.cross(x)
        self.keep(outputs, "between")

    def cross(self, x: Tensor) -> None:
        """Between a product, or memory, and what lies between products: once in each pass."""
        key = (_storage(x), self.current)
        if key not in self.counted:
            self.counted.add(key)
            self.add("between", 0, _bytes(x), _bytes(x) / self.card.memory_rate)

    def keep(self, outputs: list[Tensor], maker: str) -> None:
        for x in outputs:
            self.made_by[_storage(x)] = maker
        self.kept += outputs

    def add(self, kind: str, flop: float, moved: float, seconds: float) -> None:
        inside = max((name for name in self.tracker.parents if name in self.places), key=len, default="")
        row = self.found[self.current, f"{self.places.get(inside, 'rest')}, {kind}"]
        for i, more in enumerate((flop, moved, seconds)):
            row[i] += more


def is_view(func: Any) -> bool:
    """Whether an operation only looks at its input in another way, or asks about it: it launches nothing."""
    name = func._schema.name.removeprefix("aten::").rstrip("_")
    return func.namespace != "aten" or func.is_view or name in VIEWS or "view" in name


def _places(model: Any) -> dict[str, str]:
    """Modules of a TrainStep's model, by the names that ModuleTracker gives them -> the part they are."""
    parts = model.parts
    named = {id(module): f"_Losses.model.{name}" for name, module in model.named_modules()}
    places = {named[id(part)]: "encoder" for part in parts.frozen}
    for stack in parts.stacks:
        places |= {named[id(layer)]: "layers" for layer in stack}
    return places | ({named[id(parts.head)]: "head"} if id(parts.head) in named else {})


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def rates_here(precision: str, device: torch.device) -> Card:
    """This machine's GPU with its two rates, measured now."""
    return card_here(device, matmul_ceiling(precision, device), memory_rate(device))


def card_here(device: torch.device, product_rate: float, memory_rate: float) -> Card:
    """This machine's GPU, or its CPU in the ways of a recent GPU, with these two rates."""
    if device.type == "cpu":
        return CARDS["h100"]._replace(
            name="this CPU", product_rate=product_rate, memory_rate=memory_rate, rates_are="measured in this run"
        )
    properties = torch.cuda.get_device_properties(device)
    return Card(
        properties.name,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        getattr(properties, "shared_memory_per_block_optin", 0),
        product_rate,
        memory_rate,
        "measured in this run",
    )


def beside(measured: dict[str, float], parts: list[Part], batch: Batch, card: Card, share: float) -> dict[str, Any]:
    """The least times beside those measured, by stage; said, and as figures.

    measured: milliseconds by stage. share: of the layers, LayerDrop left so many.
    """
    parts = [part._replace(seconds=part.seconds * (share if "layers" in part.name else 1.0)) for part in parts]
    summary = summary_of(parts, batch, card)
    for stage, least in summary["least_ms_by_stage"].items():
        say(f"{stage}: {measured[stage]:.1f} ms, at least {least:.1f} ({least / measured[stage]:.0%})")
    return summary | {"share_of_least": round(summary["least_ms"] / sum(measured.values()), 4)}


def noise_batch(model: str, seconds: float) -> Batch:
    """A batch of so many seconds of the Common Voice mix, of silence: only its lengths count."""
    speech = draw_speech("common-voice", None, None, seconds, 1)
    _, config = shapes()[model]
    waveforms = [np.zeros(clip.samples, np.int16) for clip in speech.clips]
    return config.collate(waveforms, speech.labels)


def summary_of(parts: list[Part], batch: Batch, card: Card) -> dict[str, Any]:
    seconds = sum(part.seconds for part in parts)
    speech = sum(batch.samples) / 16_000
    return {
        "least_ms": round(1000 * seconds, 2),
        "least_ms_by_stage": {
            stage: round(1000 * sum(p.seconds for p in parts if p.stage == stage), 2)
            for stage in ("forward", "backward", "optimiser")
        },
        "most_audio_s_per_s": round(speech / seconds),
        "parts": [part._asdict() for part in parts],
        "card": card.name,
        "flop_per_s": round(card.product_rate),
        "bytes_per_s": round(card.memory_rate),
        "rates": card.rates_are,
    }


def print_table(parts: list[Part]) -> None:
    say(f"{'':32}{'TFLOP':>9}{'GB':>9}{'least ms':>10}")
    total = Part("", "sum", *(sum(getattr(part, of) for part in parts) for of in ("flop", "bytes", "seconds")))
    for part in [*parts, total]:
        name = f"{part.stage} {part.name}".strip()
        say(f"{name:32}{part.flop / 1e12:>9.2f}{part.bytes / 1e9:>9.2f}{1000 * part.seconds:>10.2f}")


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.roofline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=list(shapes()), default="xlsr-53")
    parser.add_argument("--batch-seconds", type=not_negative, default=160.0, help="speech of the batch (default: 160)")
    parser.add_argument("--precision", choices=[p for p in PRECISIONS if p != "auto"], default="bf16")
    parser.add_argument("--train-feature-encoder", action="store_true", help="also train what recipes freeze")
    parser.add_argument(
        "--card", choices=[*CARDS, "here"], default="h100", help="whose rates; here: this GPU's, measured"
    )
    args = parser.parse_args(argv)
    if args.batch_seconds == 0:
        raise InputError("--batch-seconds must be above 0, got 0; 160 is usual")
    if args.card == "here":
        device = resolve_device("cuda")
        card = rates_here(resolve_precision(args.precision, device), device)
    else:
        card = CARDS[args.card]
    batch = noise_batch(args.model, args.batch_seconds)
    parts = least_times(args.model, batch, args.precision, card, args.train_feature_encoder)
    print_table(parts)
    summary = summary_of(parts, batch, card)
    say(
        f"{card.name}, its two rates {card.rates_are}: at least {summary['least_ms']} ms, at most "
        f"{summary['most_audio_s_per_s']} s of speech a second"
    )
    return with_command("roofline", {"model": args.model, "precision": args.precision, **summary}, save=False)


if __name__ == "__main__":
    run(main)
