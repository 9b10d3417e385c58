"""The steps of benchmarks.step_time: warming up, in turn, and back to back."""

import gc
import time

import torch

from benchmarks.columns import Column, Record, Work, on_device
from benchmarks.common import MemoryPeak, StageClock, synchronize
from benchmarks.peer_step import same_layers_dropped
from benchmarks.profiling import TRACED
from benchmarks.speech import Speech
from recipes.console import say
from w2v.training import distributed

BACK_TO_BACK = 10  # steps of one implementation alone, at most
AFTERWARDS = 2 + TRACED  # further steps: how busy the GPU is, traces, a snapshot of the memory


def load(column: Column, speech: Speech, device: torch.device) -> list[list[int]]:
    """Let the column read the batches of all its steps in their order. -> the first of them, which warm it up."""
    warm, own = warm_up_batches(column.batches, speech, device), column.batches
    column.load([*warm, *own, *own[:BACK_TO_BACK], *[own[0]] * AFTERWARDS], device)
    return warm


def warm_up_batches(batches: list[list[int]], speech: Speech, device: torch.device) -> list[list[int]]:
    """The first measured batch of each kind that has a graph of its own; on a CPU one batch."""
    # A graph holds for all lengths, so a second batch of a kind compiles nothing: not every measured batch need be a
    # warm-up batch too. Three things make a kind. A batch may hold one clip: graphs take a size of 1 as a constant. It
    # may have no padding: transformers then makes no mask. Its most labels lie between two powers of 2: CTC has a
    # kernel for each. What cuDNN and cuFFT plan for a new shape stays in the measured steps of both sides, as in a
    # first epoch of training, and out of ms_back_to_back.
    if device.type != "cuda":
        return batches[:1]

    def kind(batch: list[int]) -> tuple[bool, bool, int]:
        samples = speech.samples(batch)
        return len(batch) == 1, min(samples) == max(samples), max(len(speech.labels[i]) for i in batch).bit_length()

    # Ranks step together: what is new to one of them is new to all.
    kinds = list(zip(*distributed.gather([kind(batch) for batch in batches]), strict=True))
    return [batch for i, batch in enumerate(batches) if kinds[i] not in kinds[:i]]


def warm_up(columns: list[Column], work: Work, device: torch.device) -> dict[str, str]:
    """Each column's first steps, in which no layer is dropped: one that is compiled later would slow a measured step.

    -> the peer's columns that failed, which leave `columns`, and why.
    """
    failed = {}
    for column in list(columns):
        say(f"warming up {column.name}")
        try:
            for number, batch in enumerate(load(column, work.speech, device)):
                take_step(column, number, batch, work, device, drops=False)
        except Exception as error:
            if column.model is work.subject.model or distributed.world() > 1:  # other ranks would wait for this one
                raise
            failed[column.name] = str(error).strip().split("\n")[0][:300] or type(error).__name__
            say(f"{column.name} does not run here: {failed[column.name]}")
            column.model.zero_grad(set_to_none=True)
            columns.remove(column)
        column.records.clear()
        column.texts.clear()
        gc.collect()
    return failed


def take_step(
    column: Column, number: int, batch: list[int], work: Work, device: torch.device, drops: bool = True
) -> None:
    """The column's step `number`, on the batch of these clip numbers, which its loader yields next, and its record.

    drops: whether LayerDrop leaves layers out.
    """
    if distributed.world() > 1:  # what others were busy with is not this step's time
        synchronize(device)
        distributed.gather(None)
    elif len(column.records) > 1:
        column.records[-2].clock.wait()
    memory = MemoryPeak(device)
    with same_layers_dropped(number if drops else None) as draws:
        clock = StageClock(device)
        inputs = on_device(next(column.loader), device)
        clock("data")
        column.step(inputs, number, clock)
        clock("end")
    if work.layerdrop > 0 and len(draws) != work.layers:
        raise RuntimeError(f"{column.name} drew {len(draws)} times for {work.layers} layers")
    layers = work.layers - sum(draw < work.layerdrop for draw in draws)
    flops, samples = work.flops(batch, layers), sum(work.speech.samples(batch))
    column.records.append(Record(clock, samples, work.spread(inputs), flops, layers, memory.bytes()))


def ms_back_to_back(column: Column, steps: int, device: torch.device) -> float:
    """Milliseconds per step over the batches that its loader yields next: two waits in all, first and last."""
    synchronize(device)
    distributed.gather(None)  # ranks start together
    start = time.perf_counter()
    for number in range(steps):
        untimed_step(column, number, device)
    synchronize(device)
    return round(1000 * max(distributed.gather(time.perf_counter() - start)) / steps, 2)


def untimed_step(column: Column, number: int, device: torch.device) -> None:
    """Step `number` on the batch that the column's loader yields next, without a record."""
    with same_layers_dropped(number):
        column.step(on_device(next(column.loader), device), number, StageClock(device))
