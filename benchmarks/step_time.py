"""Time of a training step, of inference or of an evaluation, ours and a peer's, in turn on the same clips and weights.

    python -m benchmarks.step_time --model xlsr-53 --clips 4 --precision bf16 --peer transformers      # on a CPU
    python -m benchmarks.step_time --model whisper-small --clips 16 --peer transformers-as-run --profile DIR
    torchrun --nproc_per_node 8 -m benchmarks.step_time --batch-seconds 160 --peer transformers

A call times one peer; benchmarks/peers.py says what each is. That keeps a call on a GPU below eight minutes, each with
a result file of its own, benchmarks/results/step_time-NAME-PEER.json. docs/PERFORMANCE.md has all calls for a GPU, and
benchmarks.compare sets two results side by side. Against another commit of this repository, as processes in turn; exit
code 1 where this tree is slower:

    python -m benchmarks.step_time --model tiny --device cpu --clips 8 --steps 20 --against REV

Models of all families have random weights, clips are noise as long as real clips. First come the losses with dropout
off, which must agree. Then, step after step, each implementation is timed on its batch in turn, from int16 waveforms in
memory to updated weights: ours packed, the peer padded, both with the recipe's dropouts and with LayerDrop leaving out
the same layers. --what inference: to emissions, or to the greedy text of Whisper; --what evaluation: from samples to
texts, as recipes do it (see benchmarks/hearing_columns.py). A table goes to stderr, one JSON object to stdout. XLSR-53
takes up to a minute per step on two CPU cores; on a GPU most of a run is compiling.

Batches are picked evenly from an epoch that is grouped by length as transformers groups a large corpus, so that there
is little padding left to save. transformers-as-run, and an evaluation, take the same clips as they come. Times are
those of CUDA events; a GPU works one step ahead of the host, as in the recipe, and batches are read while others
compute. ms_per_step, the mean, audio_s_per_s and stages_ms come from the same sums (benchmarks/outcome.py). `ratio` is
that of two rates; ratio_paired is the median over steps of two times for the same batch, so that one disturbed step
does not move it. ms_back_to_back is a step's share of up to ten steps of one implementation alone, none of which waits
for the one before: in turn, a step is queued behind what the other left on the GPU. FLOPs are the model's: of the
executed layers, without padding and without what checkpointing repeats. `roofline` has the least times of the batch of
median length by the machine's two rates, which the run measures (benchmarks/roofline.py), beside the stages.

peak_bytes is what an implementation needs alone: its weights and optimiser state, and the most that a step takes beyond
what lay on the GPU before it. On a CPU, where the process's peak is all there is to see, Python itself and whatever the
C library keeps for reuse are in it. static_bytes counts weights, gradients and optimiser state; activation_bytes is the
difference, on a GPU.

Under torchrun `w2v-alone` is each rank by itself, all at the same time. What `w2v` takes longer, with waiting for the
slowest rank, is its communication; the backward pass hides most of it.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch

from benchmarks.against import SLOWEST, step_times
from benchmarks.columns import STAGES, Column, Work
from benchmarks.common import (
    allocator_retries,
    fail,
    gpu_busy,
    machine,
    matmul_ceiling,
    memory_rate,
    synchronize,
    with_command,
)
from benchmarks.generated import Card
from benchmarks.gpu import gpu_state
from benchmarks.hearing_columns import hearing_columns
from benchmarks.measuring import BACK_TO_BACK, ms_back_to_back, take_step, untimed_step, warm_up
from benchmarks.outcome import compare, print_table, result_of
from benchmarks.peers import PEERS, build_peer, check_peer, precisions_of
from benchmarks.profiling import profile_column
from benchmarks.roofline import beside, card_here, least_times
from benchmarks.speech import draw_speech
from benchmarks.subjects import build_subject, known, label_for, tokenizer_for
from benchmarks.training_columns import losses_with_dropout_off, training_columns
from recipes.console import Parser, not_negative, positive, run, say
from w2v.audio import SAMPLE_RATE
from w2v.errors import InputError
from w2v.kernels.torch_private import is_compiled
from w2v.models.families import shapes
from w2v.precision import PRECISIONS, resolve_precision
from w2v.training import distributed
from w2v.training.device import resolve_device

ROUNDS = 5  # of each side, with --against
GPU_SECONDS = {"step": 160.0, "inference": 160.0, "evaluation": 480.0}  # of speech in a batch


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.step_time", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="xlsr-53", help="a name that --model random:NAME of recipes takes")
    parser.add_argument("--what", choices=list(STAGES), default="step", help="what is timed (default: a training step)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one, torchrun's each")
    parser.add_argument("--batch-seconds", type=not_negative, help="speech per batch and rank (default on a GPU: 160)")
    parser.add_argument("--clips", type=positive, help="clips per batch and rank (default on a CPU: 4)")
    parser.add_argument("--seconds", type=not_negative, help="mean length of a clip (default: the mix's; uniform: 5)")
    parser.add_argument("--length-mix", choices=("uniform", "common-voice"), default="common-voice")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--checkpointing", choices=("on", "off"), default="off")
    parser.add_argument("--train-feature-encoder", action="store_true", help="also train wav2vec 2.0's convolutions")
    parser.add_argument("--peer", default="none", help=f"one of {', '.join(PEERS)} or none (the default)")
    parser.add_argument("--steps", type=positive, help="measured steps (default: 5 on a CPU, 20 on a GPU)")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="also write traces and tables of kernels there")
    parser.add_argument("--against", metavar="REV", help="time this tree's step against that commit's, without a peer")
    parser.add_argument("--rounds", type=positive, help="runs of each side with --against (default: 5)")
    parser.add_argument(
        "--save", metavar="NAME", help="also write benchmarks/results/step_time-NAME-PEER.json (-against)"
    )
    args = parser.parse_args(argv)
    args.model = known(args.model)
    if args.peer not in (*PEERS, "none"):
        raise InputError(f"--peer must be one of {', '.join(PEERS)} or none, got {args.peer!r}; call once per peer")
    if args.peer == "torchaudio" and args.checkpointing == "on":
        raise InputError("--checkpointing on needs a peer that has it, got torchaudio; give --peer transformers")
    if args.peer == "torchaudio" and args.what == "evaluation":
        raise InputError("--what evaluation needs a peer that writes text, got torchaudio; give --peer transformers")
    if args.what != "step" and args.peer.endswith("-compiled") and not shapes()[args.model][0].head:
        raise InputError(f"--peer {args.peer} cannot write Whisper's text, whose tokens come one by one; leave it out")
    if args.what != "step" and (distributed.is_launched() or args.against is not None):
        raise InputError(f"--what {args.what} must run as one process, without --against; start it with python alone")
    if args.what != "step" and (args.checkpointing == "on" or args.train_feature_encoder):
        raise InputError(f"--what {args.what} trains nothing; leave out --checkpointing and --train-feature-encoder")
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


def build_work(args: argparse.Namespace, steps: int, device: torch.device) -> Work:
    """The model and the clips of all columns."""
    if args.clips is None and args.batch_seconds is None:
        args.clips, args.batch_seconds = (None, GPU_SECONDS[args.what]) if device.type == "cuda" else (4, None)
    drawn = (args.length_mix, args.seconds, args.clips, args.batch_seconds, steps)
    tokenizer = tokenizer_for(args.model)
    speech = draw_speech(*drawn, distributed.rank(), distributed.world(), label_for(tokenizer))
    longest = max(clip.samples for clip in speech.clips) / SAMPLE_RATE
    subject = build_subject(args.model, tokenizer, None if args.what == "step" else longest)
    if args.train_feature_encoder and not subject.model.parts.frozen:
        raise InputError(f"--train-feature-encoder is for wav2vec 2.0, got {args.model}; leave it out")
    subject.model.to(device)
    return Work(args.what, subject, speech, args.checkpointing == "on", args.train_feature_encoder)


def measure(columns: list[Column], work: Work, device: torch.device) -> None:
    """All steps of all columns in turn: their records."""
    for number in range(len(work.speech.batches)):
        for column in columns:
            take_step(column, number, column.batches[number], work, device)


def least_beside(args: argparse.Namespace, work: Work, measured: dict, card: Card) -> dict:
    """What the two rates allow for the batch of median length, beside the mean step."""
    model = work.subject.model
    batches = sorted(work.speech.batches, key=lambda batch: sum(work.speech.samples(batch)))
    batch = work.speech.dataset(model.config)[batches[len(batches) // 2]]
    parts = least_times(args.model, batch, measured["precision"], card, args.train_feature_encoder)
    layers = sum(len(stack) for stack in model.parts.stacks) * len(batches)
    return beside(measured["stages_ms"], parts, batch, card, measured["layers_executed"] / layers)


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    if args.against is not None:
        return against_commit(args)
    device = resolve_device(args.device)
    on_gpu = device.type == "cuda"
    precision = resolve_precision(args.precision, device)
    here = machine(device)  # before anything runs
    distributed.join(device)
    notes = []

    def note(text: str) -> None:
        say(text)
        notes.append(text)

    asked = precision if args.precision == "auto" else args.precision
    if asked != precision:
        note(f"this CPU emulates {asked}: ours computes in {precision}, the peer in both")
    if args.peer == "torchaudio" and args.what == "step":
        note("torchaudio trains without SpecAugment's masks, which it does not have")
    if args.peer == "transformers-as-run" and not on_gpu:
        note("people run fp16 on a GPU; on this CPU the peer computes in fp32")
    if args.peer != "none":
        check_peer(args.peer, shapes()[args.model][1], device, asked)
    steps = args.steps or (20 if on_gpu else 5)
    work = build_work(args, steps, device)
    peer = None if args.peer == "none" else build_peer(args.peer, work.subject.model)
    losses = losses_with_dropout_off(work, peer, device)
    columns_of = training_columns if work.trains else hearing_columns
    columns = columns_of(work, peer, precision, precisions_of(args.peer, asked, precision, device))

    failed = warm_up(columns, work, device)
    ceiling, rate = matmul_ceiling(precision, device), memory_rate(device)
    retries = allocator_retries(device)
    measure(columns, work, device)
    if allocator_retries(device) > retries:
        note("the GPU's memory ran short, and what had to be freed in mid-step cost time: lower --batch-seconds")
    synchronize(device)
    ceiling = statistics.mean(distributed.gather(max(ceiling, matmul_ceiling(precision, device))))

    results = {column.name: result_of(column, columns, work, ceiling, device) for column in columns}
    texts = [list(column.texts) for column in columns]
    for column in columns:
        taken = min(len(column.batches), BACK_TO_BACK)
        results[column.name]["ms_back_to_back"] = ms_back_to_back(column, taken, device)
    if on_gpu:
        busy = gpu_busy(lambda: untimed_step(columns[0], steps, device), device)
        results["w2v"]["gpu_busy"] = None if busy is None else round(busy, 4)
    profiles = []
    for column in columns if args.profile else ():
        profiles += profile_column(partial(untimed_step, column, steps, device), args.profile, column.name, device)
    compared = compare(results, args.peer)
    if args.what == "evaluation" and len(texts) > 1:
        compared["texts_equal"] = f"{sum(a == b for a, b in zip(*texts[:2], strict=True))} of {len(texts[0])}"
    print_table(results)
    least = least_beside(args, work, results["w2v"], card_here(device, ceiling, rate)) if work.trains else None
    for name, value in compared.items():
        say(f"{name}: {'not measured' if value is None else value}")
    summary = {
        "results": results,
        **compared,
        "losses_with_dropout_off": losses,
        "failed": failed,
        "notes": notes,
        "model": args.model,
        "what": args.what,
        "precision": precision,
        "precision_asked": args.precision,
        "checkpointing": args.checkpointing,
        "feature_encoder": "trained" if args.train_feature_encoder else "frozen",
        "compiled": is_compiled(work.subject.model.parts.stacks[0][0]),
        "ranks": distributed.world(),
        "length_mix": args.length_mix,
        "steps": steps,
        "clips_per_step": round(sum(distributed.gather(len(work.speech.clips))) / steps, 2),
        "audio_seconds_per_step": round(sum(distributed.gather(work.speech.seconds)) / steps, 2),
        "matmul_ceiling_flop_per_s": round(ceiling),
        "memory_bytes_per_s": round(rate),
        "roofline": least,
        "profiles": profiles,
        "machine": here | {"gpu_state_after": gpu_state(device)},
    }
    parts = ["step_time", args.save, *([args.what] if args.what != "step" else []), args.peer]
    return with_command("-".join(parts) if args.save else "step_time", summary, bool(args.save))


if __name__ == "__main__":
    run(main)
