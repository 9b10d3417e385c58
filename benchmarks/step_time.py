"""Time of a training step, ours and transformers', interleaved on the same clips and weights.

    python -m benchmarks.step_time --model xlsr-53 --clips 4 --seconds 5 --precision bf16 --peer transformers

Prints the two losses (dropout off) before timing: they must agree. Then both train with the model's dropouts, masks and
LayerDrop, the layers that are dropped being the same on both sides. The table goes to stderr, one JSON object to
stdout. The peer runs as its users run it best: sdpa attention, fused AdamW, autocast.
"""

import dataclasses
import gc
import random
import resource
from collections.abc import Callable
from contextlib import contextmanager
from unittest import mock

import torch

from benchmarks.common import conclude, interleave, machine
from recipes.console import Parser, not_negative, positive, say
from recipes.cv_finetune import resolve_device
from recipes.cv_prepare import SAMPLE
from recipes.presets import BLOG_MODEL
from w2v.audio import SAMPLE_RATE, seconds_of
from w2v.ctc import ctc_loss
from w2v.data.collate import Batch, collate
from w2v.errors import InputError
from w2v.models.wav2vec2 import CONFIGS, Wav2Vec2Config, Wav2Vec2ForCTC
from w2v.training.optim import adamw
from w2v.training.step import PRECISIONS, TrainStep, autocast, resolve_precision

VOCABULARY = 40
LABELS_PER_SECOND = 12  # about what Turkish Common Voice has
LEARNING_RATE = 1e-5


def make_batch(mix: str, clips: int, seconds: float) -> Batch:
    """Noise clips of equal length, or of lengths drawn from the real ones of the sample, scaled to the same mean."""
    rng = random.Random(0)
    lengths = [seconds] * clips
    if mix == "common-voice":
        real = sorted(seconds_of(file) for file in (SAMPLE / "tr" / "clips").glob("*.mp3"))
        drawn = rng.sample(real, clips) if clips <= len(real) else rng.choices(real, k=clips)
        lengths = [length * seconds * clips / sum(drawn) for length in drawn]
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(int(length * SAMPLE_RATE), generator=generator).numpy() for length in lengths]
    labels = [[rng.randrange(VOCABULARY - 1) for _ in range(int(length * LABELS_PER_SECOND))] for length in lengths]
    return collate(waveforms, labels)


def ours(model: Wav2Vec2ForCTC, batch: Batch, precision: str) -> Callable[[], None]:
    step = TrainStep(model, adamw(model, LEARNING_RATE, (0.9, 0.999), 0.0), LEARNING_RATE, lambda _: 1.0, precision)
    return lambda: step([batch], 0)


def theirs(model, batch: Batch, precision: str, device: torch.device) -> Callable[[], None]:
    """The step of transformers' Trainer: forward with labels under autocast, backward, clip, update."""
    optimizer = adamw(model, LEARNING_RATE, (0.9, 0.999), 0.0)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    inputs = peer_inputs(batch)

    def step() -> None:
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        with autocast(precision, device):
            loss = model(**on_device).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    attention_mask = (torch.arange(batch.waveforms.shape[1]) < batch.waveform_lengths[:, None]).long()
    padding = torch.arange(batch.labels.shape[1]) >= batch.label_lengths[:, None]
    return {
        "input_values": batch.waveforms,
        "attention_mask": attention_mask,
        "labels": batch.labels.masked_fill(padding, -100),
    }


@contextmanager
def same_layers_dropped(seed: int):
    """Both implementations toss `torch.rand([])` once per layer: give them the same coins."""
    coins, rand = random.Random(seed), torch.rand
    with mock.patch.object(
        torch, "rand", lambda *a, **k: torch.tensor(coins.random()) if a == ([],) else rand(*a, **k)
    ):
        yield


def with_same_layers_dropped(step: Callable[[], None]) -> Callable[[], None]:
    seeds = iter(range(10**9))

    def run() -> None:
        with same_layers_dropped(next(seeds)):
            step()

    return run


def loss_agreement(model: Wav2Vec2ForCTC, peer, batch: Batch, device: torch.device) -> tuple[float, float]:
    """Both losses in fp32, dropout off; InputError where they differ: then there is nothing to compare."""
    with torch.no_grad():
        on_device = batch.to(device)
        mine = float(ctc_loss(model.eval()(on_device), on_device.labels, on_device.label_lengths))
        inputs = {name: tensor.to(device) for name, tensor in peer_inputs(batch).items()}
        wanted = float(peer.eval()(**inputs).loss)
    if abs(mine - wanted) > 1e-4 * abs(wanted):
        raise InputError(f"the two losses must agree before timing, got {mine} and {wanted}")
    return mine, wanted


def main() -> None:
    parser = Parser(prog="python -m benchmarks.step_time", description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(CONFIGS), default="xlsr-53")
    parser.add_argument("--device")
    parser.add_argument("--clips", type=positive, default=4)
    parser.add_argument("--seconds", type=not_negative, default=5.0, help="mean length of a clip")
    parser.add_argument("--length-mix", choices=("uniform", "common-voice"), default="uniform")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--checkpointing", choices=("on", "off"), default="off")
    parser.add_argument("--train-feature-encoder", action="store_true")
    parser.add_argument("--peer", choices=("transformers", "none"), default="none")
    parser.add_argument("--steps", type=positive, default=5)
    parser.add_argument("--save", metavar="NAME", help="also write benchmarks/results/step_time-NAME.json")
    args = parser.parse_args()

    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    batch = make_batch(args.length_mix, args.clips, args.seconds)
    real = int(batch.waveform_lengths.sum())
    overrides = {**BLOG_MODEL, "vocab_size": VOCABULARY, "pad_token_id": VOCABULARY - 1, "ctc_loss_reduction": "mean"}
    config = dataclasses.replace(CONFIGS[args.model], **overrides)

    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(config).to(device)
    runs, losses = {}, None
    if args.peer == "transformers":
        peer = build_peer(config, model, device)
        losses = loss_agreement(model, peer, batch, device)
        say(f"loss with dropout off: ours {losses[0]:.6f}, transformers {losses[1]:.6f}")
        if not args.train_feature_encoder:
            peer.freeze_feature_encoder()
        if args.checkpointing == "on":
            peer.gradient_checkpointing_enable({"use_reentrant": False})
        runs["transformers"] = with_same_layers_dropped(theirs(peer.train(), batch, precision, device))
    model.set_gradient_checkpointing(args.checkpointing == "on")
    if not args.train_feature_encoder:
        model.freeze_feature_encoder()
    runs["w2v"] = with_same_layers_dropped(ours(model.train(), batch, precision))

    gc.collect()
    timings = interleave(runs, args.steps, 1, device)
    results = {
        name: {
            "ms_per_step": round(1000 * t["median_s"], 1),
            "ms_min": round(1000 * t["min_s"], 1),
            "ms_max": round(1000 * t["max_s"], 1),
            "audio_s_per_s": round(real / SAMPLE_RATE / t["median_s"], 2),
        }
        for name, t in timings.items()
    }
    for name, r in results.items():
        say(
            f"{name:14}{r['ms_per_step']:>10} ms/step ({r['ms_min']} to {r['ms_max']})"
            f"{r['audio_s_per_s']:>10} audio s/s"
        )
    summary = {
        "results": results,
        "ratio_vs_transformers": None,
        "losses_with_dropout_off": losses,
        "model": args.model,
        "precision": precision,
        "checkpointing": args.checkpointing,
        "feature_encoder": "trained" if args.train_feature_encoder else "frozen",
        "clips": args.clips,
        "audio_seconds": round(real / SAMPLE_RATE, 2),
        "padding": round(1 - real / batch.waveforms.numel(), 4),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "machine": machine(device),
    }
    if device.type == "cuda":
        summary["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(device)
    if "transformers" in results:
        ratio = results["w2v"]["audio_s_per_s"] / results["transformers"]["audio_s_per_s"]
        summary["ratio_vs_transformers"] = round(ratio, 3)
        say(f"w2v / transformers: {ratio:.2f}x")
    conclude(f"step_time-{args.save}" if args.save else "step_time", summary, bool(args.save))


def build_peer(config: Wav2Vec2Config, model: Wav2Vec2ForCTC, device: torch.device):
    """transformers' model with our weights."""
    from transformers import Wav2Vec2Config as PeerConfig
    from transformers import Wav2Vec2ForCTC as PeerForCTC

    peer = PeerForCTC(PeerConfig(**dataclasses.asdict(config), attn_implementation="sdpa"))
    peer.load_state_dict(model.state_dict())
    return peer.to(device)


if __name__ == "__main__":
    main()
