"""Time of a training step, ours and a peer's, in turn on the same clips and weights.

    python -m benchmarks.step_time --model xlsr-53 --clips 4 --precision bf16 --peer transformers      # on a CPU
    torchrun --nproc_per_node 8 -m benchmarks.step_time --batch-seconds 160 --peer transformers

A call times one peer: transformers, transformers-compiled or torchaudio. That keeps a call on a GPU below eight
minutes. These commands fill docs/PERFORMANCE.md's rows for a GPU, each call with a result file of its own,
benchmarks/results/step_time-NAME-PEER.json (torchaudio has no checkpointing):

    for c in off on; do for p in transformers transformers-compiled torchaudio; do
      [ $p-$c = torchaudio-on ] || python -m benchmarks.step_time --device cuda --batch-seconds 160 \
        --precision bf16 --steps 20 --checkpointing $c --peer $p --save cuda-xlsr-53-checkpointing-$c
    done; done

Against another commit of this repository, as processes in turn; exit code 1 where this tree is slower:

    python -m benchmarks.step_time --model tiny --device cpu --clips 8 --steps 20 --against REV

First the losses with dropout off, which must agree. Then step after step, each implementation on the same batch in
turn, from int16 waveforms in memory to updated weights: ours packed, the peer padded, both with the recipe's dropouts
and with LayerDrop leaving out the same layers. A table goes to stderr, one JSON object to stdout. XLSR-53 takes up to a
minute per step on two CPU cores; on a GPU most of a run is compiling.

Clips are noise as long as real clips. Their batches are picked evenly from an epoch that is grouped by length as
transformers groups a large corpus, so that there is little padding left to save. Times are those of CUDA events; a GPU
works one step ahead of the host, as in the recipe, and batches are read while others compute. A ratio is the median
over steps of two times for the same batch, so that one disturbed step does not move it. ms_back_to_back is a step's
share of up to ten steps of one implementation alone, none of which waits for the one before: in turn, a step is queued
behind what the other left on the GPU. FLOPs are the model's: of the
executed layers, without padding and without what checkpointing repeats.

peak_bytes is what an implementation needs alone: its weights and optimiser state, and the most that a step takes beyond
what lay on the GPU before it. On a CPU, where the process's peak is all there is to see, Python itself and whatever the
C library keeps for reuse are in it. static_bytes counts weights, gradients and optimiser state; activation_bytes is the
difference, on a GPU.

Under torchrun `w2v-alone` is each rank by itself, all at the same time. What `w2v` takes longer, with waiting for the
slowest rank, is its communication; the backward pass hides most of it.
"""

import argparse
import dataclasses
import gc
import statistics
import time
from typing import Any

import torch

from benchmarks.against import SLOWEST, step_times
from benchmarks.columns import Column, Record, build_columns, on_device
from benchmarks.common import (
    VOCABULARY,
    MemoryPeak,
    Speech,
    StageClock,
    allocator_retries,
    draw_speech,
    fail,
    gpu_busy,
    machine,
    matmul_ceiling,
    model_flops,
    synchronize,
    with_command,
)
from benchmarks.peers import PEERS, same_layers_dropped
from recipes.console import Parser, not_negative, positive, run, say
from recipes.presets import BLOG_MODEL
from w2v.answers import Batch
from w2v.audio import SAMPLE_RATE
from w2v.data.loading import load_ahead
from w2v.errors import InputError
from w2v.kernels.torch_private import is_compiled
from w2v.models.wav2vec2 import Wav2Vec2ForCTC
from w2v.models.wav2vec2_config import CONFIGS
from w2v.precision import PRECISIONS, resolve_precision
from w2v.training import distributed
from w2v.training.device import resolve_device

ROUNDS = 5  # of each side, with --against
BACK_TO_BACK = 10  # steps of one implementation alone, at most
STAGES = ("data", "forward", "backward", "optimiser")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.step_time", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(CONFIGS), default="xlsr-53")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one, torchrun's each")
    parser.add_argument("--batch-seconds", type=not_negative, help="speech per batch and rank (default on a GPU: 160)")
    parser.add_argument("--clips", type=positive, help="clips per batch and rank (default on a CPU: 4)")
    parser.add_argument("--seconds", type=not_negative, help="mean length of a clip (default: the mix's; uniform: 5)")
    parser.add_argument("--length-mix", choices=("uniform", "common-voice"), default="common-voice")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--checkpointing", choices=("on", "off"), default="off")
    parser.add_argument("--train-feature-encoder", action="store_true", help="also train the convolutions")
    parser.add_argument("--peer", default="none", help=f"one of {', '.join(PEERS)} or none (the default)")
    parser.add_argument("--steps", type=positive, help="measured steps (default: 5 on a CPU, 20 on a GPU)")
    parser.add_argument("--against", metavar="REV", help="time this tree's step against that commit's, without a peer")
    parser.add_argument("--rounds", type=positive, help="runs of each side with --against (default: 5)")
    parser.add_argument(
        "--save", metavar="NAME", help="also write benchmarks/results/step_time-NAME-PEER.json (-against)"
    )
    args = parser.parse_args(argv)
    if args.peer not in (*PEERS, "none"):
        raise InputError(f"--peer must be one of {', '.join(PEERS)} or none, got {args.peer!r}; call once per peer")
    if args.peer == "torchaudio" and args.checkpointing == "on":
        raise InputError("--checkpointing on needs a peer that has it, got torchaudio; give --peer transformers")
    if args.against is None and args.rounds is not None:
        raise InputError("--rounds needs --against, which is not given; add --against REV")
    if args.against is not None and args.peer != "none":
        raise InputError(f"--against compares two commits of ours, got --peer {args.peer} too; leave one of them out")
    if args.against is not None and distributed.is_launched():
        raise InputError("--against must run as one process, got torchrun; start it with python")
    if args.clips is not None and args.batch_seconds is not None:
        raise InputError("--batch-seconds and --clips both size a batch; give one of them")
    if args.seconds == 0 or args.batch_seconds == 0:
        raise InputError("--seconds and --batch-seconds must be above 0, got 0; a clip of 5 s is usual")
    return args


def take_step(column: Column, number: int, batch: list[int], speech: Speech, model: Wav2Vec2ForCTC) -> Record:
    """The column's step `number`, on the batch of these clip numbers, which its loader yields next."""
    device, config = next(model.parameters()).device, model.config
    if distributed.world() > 1:  # what others were busy with is not this step's time
        synchronize(device)
        distributed.gather(None)
    elif len(column.records) > 1:
        column.records[-2].clock.wait()
    memory = MemoryPeak(device)
    with same_layers_dropped(number) as draws:
        clock = StageClock(device)
        assert column.loader is not None
        inputs = on_device(next(column.loader), device)
        clock("data")
        column.step(inputs, number, clock)
        clock("end")
    if len(draws) != config.num_hidden_layers:
        raise RuntimeError(f"{column.name} drew {len(draws)} times for {config.num_hidden_layers} layers")
    layers = sum(draw >= config.layerdrop for draw in draws)
    samples = speech.samples(batch)
    waveforms = inputs.inputs if isinstance(inputs, Batch) else next(iter(inputs.values()))
    trained = any(p.requires_grad for p in model.wav2vec2.feature_extractor.parameters())
    flops = sum(model_flops(config, n, layers, trained) for n in samples)
    return Record(clock, sum(samples), waveforms.numel(), flops, layers, memory.bytes())


def warm_up_batches(speech: Speech, device: torch.device) -> list[list[int]]:
    """The first measured batch of each kind that has a graph of its own; on a CPU one batch."""
    # A graph holds for all lengths, so a second batch of a kind compiles nothing: not every measured batch need be a
    # warm-up batch too. Three things make a kind. A batch may hold one clip: graphs take a size of 1 as a constant. It
    # may have no padding: transformers then makes no mask. Its most labels lie between two powers of 2: CTC has a
    # kernel for each. What cuDNN and cuFFT plan for a new shape stays in the measured steps of both sides, as in a
    # first epoch of training, and out of ms_back_to_back.
    if device.type != "cuda":
        return speech.batches[:1]

    def kind(batch: list[int]) -> tuple[bool, bool, int]:
        samples = speech.samples(batch)
        return len(batch) == 1, min(samples) == max(samples), max(len(speech.labels[i]) for i in batch).bit_length()

    # Ranks step together: what is new to one of them is new to all.
    kinds = list(zip(*distributed.gather([kind(batch) for batch in speech.batches]), strict=True))
    return [batch for i, batch in enumerate(speech.batches) if kinds[i] not in kinds[:i]]


def warm_up(columns: list[Column], batches: list[list[int]], speech: Speech, model: Wav2Vec2ForCTC) -> dict[str, str]:
    """A step on each of the batches. -> the peer's columns that failed, which leave `columns`, and why."""
    failed = {}
    for column in list(columns):
        say(f"warming up {column.name}")
        try:
            for number, batch in enumerate(batches):
                column.records.append(take_step(column, number, batch, speech, model))
        except Exception as error:
            if column.model is model or distributed.world() > 1:  # other ranks would wait for this one
                raise
            failed[column.name] = str(error).strip().split("\n")[0][:300] or type(error).__name__
            say(f"{column.name} does not run here: {failed[column.name]}")
            column.optimizer.zero_grad(set_to_none=True)
            columns.remove(column)
        column.records.clear()
        gc.collect()
    return failed


def ms_back_to_back(column: Column, batches: list[list[int]], device: torch.device) -> float:
    """Milliseconds per step on these batches, which its loader yields next: two waits in all, first and last."""
    synchronize(device)
    distributed.gather(None)  # ranks start together
    start = time.perf_counter()
    for number in range(len(batches)):
        with same_layers_dropped(number):
            column.step(on_device(next(column.loader), device), number, StageClock(device))
    synchronize(device)
    return round(1000 * max(distributed.gather(time.perf_counter() - start)) / len(batches), 2)


def result_of(column: Column, columns: list[Column], ceiling: float, device: torch.device) -> dict:
    """What the column's records say, over all ranks. A step ends with its slowest rank."""
    on_gpu = device.type == "cuda"
    here = [
        (r.clock.stages(), r.clock.host_seconds, r.speech_samples, r.batch_samples, r.flops) for r in column.records
    ]
    by_step = list(zip(*distributed.gather(here), strict=True))  # of each step, of each rank
    world = distributed.world() if column.together else 1
    over_ranks, total = (max, sum) if column.together else (statistics.mean, statistics.mean)
    seconds = [over_ranks(sum(stages.values()) for stages, *_ in ranks) for ranks in by_step]
    speech, batch, flops = (sum(total(rank[i] for rank in ranks) for ranks in by_step) for i in (2, 3, 4))
    stages = {
        stage: 1000 * statistics.median(statistics.mean(rank[0][stage] for rank in ranks) for ranks in by_step)
        for stage in (*STAGES, "end")
    }
    stages["optimiser"] += stages.pop("end")

    memory = [r.memory for r in column.records if r.memory is not None]
    others = {id(c.model): c.held_bytes for c in columns if c.model is not column.model}
    peak = max(memory) + (column.held_bytes if on_gpu else -sum(others.values())) if memory else None
    peak = max(each for each in distributed.gather(peak) if each is not None) if memory else None
    flop_per_s = flops / sum(seconds)
    result = {
        "ms_per_step": round(1000 * statistics.median(seconds), 2),
        "ms_min": round(1000 * min(seconds), 2),
        "ms_max": round(1000 * max(seconds), 2),
        "ms_by_step": [round(1000 * s, 2) for s in seconds],
        "audio_s_per_s": round(speech / SAMPLE_RATE / sum(seconds), 2),
        "stages_ms": {stage: round(ms, 2) for stage, ms in stages.items()},
        "padding": round(1 - speech / batch, 4),
        "static_bytes": column.static_bytes,
        "peak_bytes": peak,
        "activation_bytes": peak - column.static_bytes if on_gpu and peak is not None else None,
        "model_flop_per_s": round(flop_per_s),
        "share_of_ceiling": round(flop_per_s / (world * ceiling), 4),
        "layers_executed": sum(r.layers for r in column.records),
        "precision": column.precision,
    }
    if on_gpu:
        result["host_ms"] = round(1000 * statistics.median(rank[1] for ranks in by_step for rank in ranks), 2)
    return result


def compare(results: dict[str, dict], peer: str) -> dict:
    """How many times as fast ours is as the peer, and as the peer in fp32 where ours runs in fp32 though bf16 is asked.

    None where the peer was not measured.
    """
    compared: dict = {"peer": peer, "ratio": ratio_of(results, peer)}
    if f"{peer}-fp32" in results:
        compared["ratio_fp32"] = ratio_of(results, f"{peer}-fp32")
    ours, theirs = (results.get(name, {}).get("activation_bytes") for name in ("w2v", peer))
    compared["activations_ratio"] = round(ours / theirs, 3) if ours and theirs else None
    if "w2v-alone" in results:
        alone, together = (results[name]["ms_per_step"] for name in ("w2v-alone", "w2v"))
        compared["scaling_efficiency"] = round(alone / together, 4)
        results["w2v"]["stages_ms"]["communication"] = round(together - alone, 2)
    return compared


def ratio_of(results: dict[str, dict], name: str) -> float | None:
    if name not in results:
        return None
    ours, theirs = (results[column]["ms_by_step"] for column in ("w2v", name))
    return round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 3)


def print_table(results: dict[str, dict]) -> None:
    say(
        f"{'':26}{'ms/step':>10}{'min':>10}{'max':>10}{'audio s/s':>11}"
        + "".join(f"{stage:>11}" for stage in STAGES)
        + f"{'padding':>9}{'peak GB':>9}{'TFLOP/s':>9}{'of best':>9}"
    )
    for name, r in results.items():
        peak = "-" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 1e9:.2f}"
        say(
            f"{name:26}{r['ms_per_step']:>10.1f}{r['ms_min']:>10.1f}{r['ms_max']:>10.1f}{r['audio_s_per_s']:>11.2f}"
            + "".join(f"{r['stages_ms'][stage]:>11.1f}" for stage in STAGES)
            + f"{r['padding']:>9.1%}{peak:>9}{r['model_flop_per_s'] / 1e12:>9.3g}{r['share_of_ceiling']:>9.1%}"
        )


def against_commit(args: argparse.Namespace) -> dict:
    """The summary with --against; exit code 1 where this tree is too slow."""
    flags = ["--model", args.model, "--length-mix", args.length_mix]
    flags += ["--precision", args.precision, "--checkpointing", args.checkpointing]
    for name in ("device", "batch_seconds", "clips", "seconds", "steps"):
        if (value := getattr(args, name)) is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    if args.train_feature_encoder:
        flags.append("--train-feature-encoder")
    summary = step_times(args.against, flags, args.rounds or ROUNDS)
    summary["machine"] = machine(resolve_device(args.device))
    summary = with_command(f"step_time-{args.save}-against" if args.save else "step_time", summary, bool(args.save))
    if summary["ratio"] < SLOWEST:
        fail(
            summary,
            f"a step must be at least {SLOWEST} times as fast as at {args.against}, got {summary['ratio']:.3f}; find "
            "the change that slows it down, or measure again on a quiet machine",
        )
    return summary


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    if args.against is not None:
        return against_commit(args)
    device = resolve_device(args.device)
    on_gpu = device.type == "cuda"
    precision = resolve_precision(args.precision, device)
    distributed.join(device)
    notes = []

    def note(text: str) -> None:
        say(text)
        notes.append(text)

    asked = precision if args.precision == "auto" else args.precision
    if asked != precision:
        note(f"this CPU emulates {asked}: ours computes in {precision}, the peer in both")
    if args.peer == "torchaudio":
        note("torchaudio trains without SpecAugment's masks, which it does not have")
    if args.clips is None and args.batch_seconds is None:
        args.clips, args.batch_seconds = (None, 160.0) if on_gpu else (4, None)
    steps = args.steps or (20 if on_gpu else 5)
    speech = draw_speech(
        args.length_mix, args.seconds, args.clips, args.batch_seconds, steps, distributed.rank(), distributed.world()
    )

    overrides: dict[str, Any] = {
        **BLOG_MODEL,
        "vocab_size": VOCABULARY,
        "pad_token_id": VOCABULARY - 1,
        "ctc_loss_reduction": "mean",
    }
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(dataclasses.replace(CONFIGS[args.model], **overrides)).to(device)
    columns, losses = build_columns(args, model, speech, [asked, precision], device)

    warm = warm_up_batches(speech, device)
    for column in columns:
        order = [*warm, *speech.batches, *speech.batches[:BACK_TO_BACK], speech.batches[0]]
        column.loader = load_ahead(column.dataset, order, device)
    failed = warm_up(columns, warm, speech, model)
    ceiling = matmul_ceiling(precision, device)
    retries = allocator_retries(device)
    for number, batch in enumerate(speech.batches):
        for column in columns:
            column.records.append(take_step(column, number, batch, speech, model))
    if allocator_retries(device) > retries:
        note("the GPU's memory ran short, and what had to be freed in mid-step cost time: lower --batch-seconds")
    synchronize(device)
    ceiling = statistics.mean(distributed.gather(max(ceiling, matmul_ceiling(precision, device))))

    results = {column.name: result_of(column, columns, ceiling, device) for column in columns}
    for column in columns:
        results[column.name]["ms_back_to_back"] = ms_back_to_back(column, speech.batches[:BACK_TO_BACK], device)
    if on_gpu:
        ours = columns[0]
        busy = gpu_busy(lambda: take_step(ours, steps, speech.batches[0], speech, model), device)
        results["w2v"]["gpu_busy"] = None if busy is None else round(busy, 4)
    compared = compare(results, args.peer)
    print_table(results)
    for name, value in compared.items():
        say(f"{name}: {'not measured' if value is None else value}")
    summary = {
        "results": results,
        **compared,
        "losses_with_dropout_off": losses,
        "failed": failed,
        "notes": notes,
        "model": args.model,
        "precision": precision,
        "precision_asked": args.precision,
        "checkpointing": args.checkpointing,
        "feature_encoder": "trained" if args.train_feature_encoder else "frozen",
        "compiled": is_compiled(model.parts.stacks[0][0]),
        "ranks": distributed.world(),
        "length_mix": args.length_mix,
        "steps": steps,
        "clips_per_step": round(sum(distributed.gather(len(speech.clips))) / steps, 2),
        "audio_seconds_per_step": round(sum(distributed.gather(speech.seconds)) / steps, 2),
        "matmul_ceiling_flop_per_s": round(ceiling),
        "machine": machine(device),
    }
    name = f"step_time-{args.save}-{args.peer}" if args.save else "step_time"
    return with_command(name, summary, bool(args.save))


if __name__ == "__main__":
    run(main)
