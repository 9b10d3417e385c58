"""Fine-tune wav2vec 2.0 on a Common Voice language, from the release archive to an evaluated, exported model.

    python -m recipes.cv_finetune --lang tr --data cv-corpus-17.0-2024-03-15-tr.tar.gz

Without --data it runs on the embedded Turkish sample with a small model from scratch, in a few minutes on a laptop.
Everything it decides is printed and saved; the last line on stdout is one JSON object with WER, CER and the folder.
"""

import dataclasses
import json
import math
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import w2v
from recipes import presets
from recipes.console import Parser, not_negative, positive, probability, run, say
from recipes.cv_prepare import Prepared, add_data_arguments, cache_folder, find_data, prepare
from w2v.asr import check_vocabulary, transcribe_waveforms
from w2v.audio import SAMPLE_RATE
from w2v.data.batching import BatchSampler
from w2v.data.collate import Batch, ClipDataset
from w2v.data.manifest import Clip
from w2v.errors import InputError
from w2v.files import write_json, write_text
from w2v.metrics import ErrorRates, error_rates
from w2v.model_card import CardFacts, model_card
from w2v.models.wav2vec2 import CONFIGS, Wav2Vec2Config, Wav2Vec2ForCTC
from w2v.report import report_html
from w2v.text import CharTokenizer, is_spaced
from w2v.training.optim import SCHEDULES, adamw, schedule
from w2v.training.state import load_state, save_state
from w2v.training.step import PRECISIONS, StepResult, TrainStep, check_finite, resolve_precision, try_batch
from w2v.weights.hf import HEAD, locate, parse_config, read_config, tensor_names

UNPUBLISHED = {"tiny"}
TRAIN_CLIPS_EVALUATED = 500  # train_wer and train_cer of large data are measured on a random part this big
EVALUATIONS_PER_RUN, LOGS_PER_RUN = 10, 50  # at least so many, where the usual intervals are longer
BLANK_PLATEAU = 0.99  # a blank ratio above it, this long after the warm-up, is no longer normal
# Flags that may differ between a run and its resumption: none of them changes what is computed.
NOT_COMPARED = {"resume", "overwrite", "out", "device", "workers", "cache", "data", "extra_data", "model"}


def parse_arguments(argv: list[str] | None):
    parser = Parser(prog="python -m recipes.cv_finetune", description=__doc__.split("\n")[0])
    add_data_arguments(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        help=f"NAME ({', '.join(CONFIGS)}), a checkpoint folder or file, or random:NAME for fresh weights; default: "
        "xlsr-53, and random:tiny for the sample",
    )
    for name in presets.BLOG_MODEL:
        kind = probability if name.endswith(("dropout", "layerdrop", "prob")) else positive
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help="as in the model's config.json")
    group.add_argument("--train-feature-encoder", action="store_true", help="also train the convolutions")
    group = parser.add_argument_group("training (defaults come from a preset by hours of data)")
    group.add_argument("--epochs", type=positive)
    group.add_argument("--max-steps", type=positive, help="optimiser steps in all, whatever --epochs says")
    group.add_argument("--lr", type=not_negative, help="peak learning rate")
    group.add_argument("--schedule", choices=SCHEDULES)
    group.add_argument("--warmup-steps", type=int)
    group.add_argument("--warmup-ratio", type=probability, help="warm-up as a share of all steps")
    group.add_argument("--head-warmup-steps", type=int, default=0, help="first steps that train the head alone")
    group.add_argument("--adam-betas", type=float, nargs=2, metavar=("B1", "B2"))
    group.add_argument("--weight-decay", type=not_negative, default=0.0)
    group.add_argument("--max-grad-norm", type=not_negative, default=1.0)
    group.add_argument("--batch-seconds", type=not_negative, help="padded seconds per micro-batch")
    group.add_argument("--batch-clips", type=positive, help="fixed number of clips per micro-batch instead")
    group.add_argument("--accumulation", type=positive, help="micro-batches per step")
    group.add_argument("--precision", choices=PRECISIONS)
    group.add_argument("--gradient-checkpointing", choices=("on", "off"), help="less memory, a third more work")
    group.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one")
    group = parser.add_argument_group("checkpoints")
    group.add_argument("--out", type=Path, help="run folder (default: the next free runs/LANG-MODEL-N)")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out")
    group.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    group.add_argument("--eval-steps", type=positive, help="evaluate on dev this often (400)")
    group.add_argument("--save-steps", type=positive, help="save a checkpoint this often (as --eval-steps)")
    group.add_argument("--log-steps", type=positive, help="log this often (50)")
    group.add_argument("--keep-checkpoints", type=positive, default=2)
    group.add_argument("--patience", type=positive, help="stop after this many evaluations without a better dev CER")
    args = parser.parse_args(argv)
    if args.resume and not args.out:
        raise InputError("--resume needs --out, the folder of the run to go on with")
    if args.resume and args.overwrite:
        raise InputError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if args.batch_seconds is not None and args.batch_clips is not None:
        raise InputError("--batch-seconds and --batch-clips both size a batch; give one of them")
    return args


@dataclass
class BaseModel:
    """Where training starts: a checkpoint, or a named config with fresh weights."""

    name: str  # as given, for the model card
    config: Wav2Vec2Config
    checkpoint: Path | None
    tokenizer: CharTokenizer | None = None  # of a fine-tuned checkpoint

    def build(self, tokenizer: CharTokenizer, overrides: dict) -> Wav2Vec2ForCTC:
        """The model with a head for `tokenizer`; a fine-tuned head stays where its vocabulary does."""
        overrides = {
            **overrides,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.blank_id,
            "bos_token_id": None,
            "eos_token_id": None,
            "ctc_loss_reduction": "mean",
        }
        if self.checkpoint is None:
            return Wav2Vec2ForCTC(dataclasses.replace(self.config, **overrides))
        return Wav2Vec2ForCTC.from_pretrained(
            self.checkpoint, self.config, new_head=tokenizer is not self.tokenizer, **overrides
        )


def resolve_model(spec: str, cache: Path) -> BaseModel:
    """NAME, random:NAME, or the path of a checkpoint. InputError where there is no such thing."""
    random_name = spec.removeprefix("random:") if spec.startswith("random:") else spec if spec in UNPUBLISHED else None
    if random_name is not None:
        if random_name not in CONFIGS:
            raise InputError(f"--model random:NAME takes one of {', '.join(CONFIGS)}, got {random_name}")
        return BaseModel(f"random:{random_name}", CONFIGS[random_name], None)
    path = Path(spec)
    if spec in CONFIGS and not path.exists():
        path = cache / "models" / spec
        if not path.is_dir():
            published = {"xlsr-53": "facebook/wav2vec2-large-xlsr-53", "base": "facebook/wav2vec2-base"}.get(
                spec, f"facebook/wav2vec2-{spec}"
            )
            raise InputError(
                f"--model {spec} needs its published weights in {path}, which is missing; run `hf download {published} "
                f"config.json pytorch_model.bin --local-dir {path}` and then this command again, or use "
                f"--model random:{spec} for fresh weights"
            )
    weights, config_file = locate(path)
    config = parse_config(read_config(config_file))
    folder = weights.parent
    tokenizer = None
    if (folder / "vocab.json").is_file() and any(name.startswith(HEAD) for name in tensor_names(weights)):
        tokenizer = CharTokenizer.from_pretrained(folder)
        check_vocabulary(config, tokenizer, folder)
    return BaseModel(spec, config, path, tokenizer)


def resolve_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(f"--device must be cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda needs a CUDA GPU that torch can use, found none; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name} must be one of {torch.cuda.device_count()} GPUs; count them from cuda:0")
    return device


def check_out(args, name: str) -> Path:
    """The run folder, not made yet. InputError where it holds a run, or anything else."""
    if args.out is None:
        number = 1
        while Path("runs", f"{args.lang}-{name}-{number}").exists():
            number += 1
        return Path("runs", f"{args.lang}-{name}-{number}")
    holds_run = (args.out / "run.json").is_file()
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out must be a folder, {args.out} is a file")
    if not holds_run and args.out.is_dir() and any(args.out.iterdir()):
        raise InputError(f"--out must be new, empty or a run, {args.out} holds other files; choose another folder")
    if holds_run and not (args.resume or args.overwrite):
        raise InputError(f"--out {args.out} already holds a run; add --resume or --overwrite, or choose another folder")
    if args.resume and not holds_run:
        say(f"nothing to resume in {args.out}: starting from the beginning")
    return args.out


@dataclass
class Settings:
    """The preset with the flags laid over it: what this run does, saved in run.json."""

    preset: str
    epochs: int
    total_steps: int
    lr: float
    schedule: str
    warmup_steps: int
    head_warmup_steps: int
    adam_betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    batch_seconds: float | None
    batch_clips: int | None
    accumulation: int
    precision: str
    gradient_checkpointing: bool
    train_feature_encoder: bool
    keep_best: bool
    eval_steps: int
    save_steps: int
    log_steps: int
    seed: int


def settle(args, preset: presets.Preset, lengths: list[int], base: BaseModel, device: torch.device):
    """-> Settings, the sampler they imply, and the model's config overrides."""

    def pick(name: str):
        given = getattr(args, name)
        return getattr(preset, name) if given is None else given

    batch_seconds, batch_clips = preset.batch_seconds, preset.batch_clips
    if args.batch_seconds is not None or args.batch_clips is not None:
        batch_seconds, batch_clips = args.batch_seconds, args.batch_clips
    accumulation = pick("accumulation")
    sampler = BatchSampler(lengths, batch_seconds, batch_clips, accumulation, args.seed)
    epochs = pick("epochs")
    # A seconds budget cuts each epoch into its own number of steps: count them rather than multiply.
    total = args.max_steps or sum(len(sampler.epoch(number)) for number in range(epochs))
    if args.warmup_steps is not None and args.warmup_ratio is not None:
        raise InputError("--warmup-steps and --warmup-ratio both size the warm-up; give one of them")
    if args.warmup_ratio is not None:
        warmup = round(args.warmup_ratio * total)
    else:
        warmup = preset.warmup_steps if args.warmup_steps is None else args.warmup_steps
        # A preset's warm-up is made for longer runs than some: a third of the steps must do.
        warmup = min(warmup, total // 3) if args.warmup_steps is None else warmup
    eval_steps = args.eval_steps or max(1, min(400, math.ceil(total / EVALUATIONS_PER_RUN)))
    settings = Settings(
        preset=preset.name,
        epochs=epochs,
        total_steps=total,
        lr=pick("lr"),
        schedule=pick("schedule"),
        warmup_steps=warmup,
        head_warmup_steps=args.head_warmup_steps,
        adam_betas=tuple(pick("adam_betas")),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        batch_seconds=batch_seconds,
        batch_clips=batch_clips,
        accumulation=accumulation,
        precision=resolve_precision(pick("precision"), device),
        gradient_checkpointing=preset.gradient_checkpointing
        if args.gradient_checkpointing is None
        else args.gradient_checkpointing == "on",
        # Fresh convolutions must learn; pretrained ones are frozen, as in every published recipe.
        train_feature_encoder=args.train_feature_encoder or base.checkpoint is None,
        keep_best=preset.keep_best,
        eval_steps=eval_steps,
        save_steps=args.save_steps or eval_steps,
        log_steps=args.log_steps or max(1, min(50, math.ceil(total / LOGS_PER_RUN))),
        seed=args.seed,
    )
    given = {name: getattr(args, name) for name in presets.BLOG_MODEL if getattr(args, name) is not None}
    overrides = {**preset.model, **given}
    if any(given.get(name, 0) > 0 for name in ("mask_time_prob", "mask_feature_prob")):
        overrides["apply_spec_augment"] = True
    return settings, sampler, overrides


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    device = resolve_device(args.device)
    data, is_sample = find_data(args)
    spec = args.model or ("random:tiny" if is_sample else "xlsr-53")
    out = check_out(args, Path(spec).stem.replace("random:", "") or "model")
    base = resolve_model(spec, cache_folder(args))

    prepared = prepare(args, data, base.config, base.tokenizer)
    train = prepared.splits.train
    hours = prepared.seconds(train) / 3600
    preset = presets.choose(hours, is_sample and base.checkpoint is None)
    say(f"preset: {preset.name} ({hours:.1f} h of training speech). {preset.reason}")
    lengths = [prepared.audio.samples(clip) for clip in train]
    settings, sampler, overrides = settle(args, preset, lengths, base, device)

    torch.manual_seed(settings.seed)
    model = base.build(prepared.tokenizer, overrides).to(device)
    model.set_gradient_checkpointing(settings.gradient_checkpointing)
    if not settings.train_feature_encoder:
        model.freeze_feature_encoder()
    model.train()
    size = sum(p.numel() for p in model.parameters())
    check_room(out, size, args.keep_checkpoints)
    start_run(args, out, spec, base, prepared, settings, model.config)
    say(
        f"training {base.name}, {size / 1e6:.1f} M parameters, on {describe(device)} in {settings.precision}: "
        f"{settings.total_steps} steps, rate {settings.lr:g}, {settings.warmup_steps} warm-up steps"
    )

    step = TrainStep(
        model,
        adamw(model, settings.lr, settings.adam_betas, settings.weight_decay),
        settings.lr,
        schedule(settings.schedule, settings.total_steps, settings.warmup_steps),
        settings.precision,
        settings.max_grad_norm,
        settings.head_warmup_steps,
    )
    progress = fit(args, out, step, settings, sampler, prepared)
    steps_in_epoch = len(sampler.epoch(progress["epoch"]))
    progress["epochs"] = round(progress["epoch"] + progress["step_in_epoch"] / steps_in_epoch, 2)
    return finish(args, out, spec, base, model, settings, prepared, progress)


def fit(
    args, out: Path, step: TrainStep, settings: Settings, sampler: BatchSampler, prepared: Prepared
) -> dict[str, float]:
    """The training loop. Returns the progress: steps, epochs, best dev CER and where it was."""
    train, audio = prepared.splits.train, prepared.audio
    labels = [prepared.tokenizer.encode(prepared.text(clip)) for clip in train]
    dataset = ClipDataset(audio, train, labels)
    progress = {
        "step": 0, "epoch": 0, "step_in_epoch": 0, "best_cer": None, "best_step": None, "bad_evaluations": 0,
        "audio_seconds": 0.0, "train_seconds": 0.0,
    }  # fmt: skip
    if args.resume:
        progress = resume(out, step, progress)
    metrics = out / "metrics.jsonl"
    keep_lines_until(metrics, progress["step"])
    if step.device.type == "cuda" and progress["step"] < settings.total_steps:
        try_batch(step, dataset[sampler.worst_batch()])  # out of memory comes in minute one, or not at all

    waiting: list[StepResult] = []  # since the last log line; reading a result waits for the GPU
    upcoming = upcoming_steps(dataset, sampler, progress, step.device)
    warned = False
    clock = time.perf_counter()
    with tqdm(total=settings.total_steps, initial=progress["step"], desc="training", unit="step") as bar:
        while progress["step"] < settings.total_steps and not stopped(args, progress):
            batches = next(upcoming)
            waiting.append(step(batches, progress["step"] - 1))
            number = progress["step"]
            last = number == settings.total_steps
            logging = last or number % settings.log_steps == 0
            evaluating = last or number % settings.eval_steps == 0
            saving = last or number % settings.save_steps == 0
            # A GPU works one step ahead of what is looked at, but nothing of a broken model is logged or saved.
            up_to_date = step.device.type == "cpu" or logging or evaluating or saving
            for result in waiting[-2:] if up_to_date else waiting[-2:-1]:
                check_finite(result)
            progress["audio_seconds"] += sum(int(b.waveform_lengths.sum()) for b in batches) / SAMPLE_RATE
            progress["train_seconds"] += time.perf_counter() - clock
            clock = time.perf_counter()
            bar.update()
            if logging:
                line = describe_steps(waiting, progress, step, settings)
                waiting.clear()
                append_line(metrics, line)
                bar.set_postfix(loss=f"{line['loss']:.3f}", blank=f"{line['blank_ratio']:.2f}")
                past_warmup = number > max(3 * settings.warmup_steps, settings.total_steps // 2)
                if past_warmup and line["blank_ratio"] > BLANK_PLATEAU and not warned:
                    warned = True
                    bar.write(
                        f"step {number}: the model still emits blanks only. Usual causes: a rate too high or low "
                        "(--lr), too few steps, transcripts that do not match the audio",
                        file=sys.stderr,
                    )
            if evaluating and prepared.splits.dev:
                evaluate_on_dev(out, metrics, bar, step, settings, prepared, progress)
            if saving:
                save_checkpoint(out, step, progress, args.keep_checkpoints)
            if evaluating or saving:
                clock = time.perf_counter()  # not training time
    return progress


def upcoming_steps(
    dataset: ClipDataset, sampler: BatchSampler, progress: dict, device: torch.device
) -> Iterator[list[Batch]]:
    """The batches of each step from where `progress` stands, epoch after epoch, counting in `progress`.

    On a GPU they are read and pinned ahead by two processes.
    """
    on_gpu = device.type == "cuda"
    while True:
        steps = sampler.epoch(progress["epoch"])[progress["step_in_epoch"] :]
        loader = iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=[batch for step in steps for batch in step],
                num_workers=2 if on_gpu else 0,
                pin_memory=on_gpu,
                # Its own generator: a resumed epoch makes one loader more, which must not draw from training's.
                generator=torch.Generator(),
            )
        )
        for step in steps:
            progress["step"] += 1
            progress["step_in_epoch"] += 1
            yield [next(loader) for _ in step]
        progress["epoch"] += 1
        progress["step_in_epoch"] = 0


def stopped(args, progress: dict) -> bool:
    return bool(args.patience) and progress["bad_evaluations"] >= args.patience


def describe_steps(results: list[StepResult], progress: dict, step: TrainStep, settings: Settings) -> dict:
    """One line of metrics.jsonl over the steps since the last one."""
    losses = torch.cat([r.losses for r in results])
    frames, labels, blanks = (
        sum(float(getattr(r, name)) for r in results) for name in ("frames", "labels", "blank_frames")
    )
    return {
        "step": progress["step"],
        "epoch": progress["epoch"],
        "loss": float(losses.mean()),
        "lr": settings.lr * step.lr_factor(progress["step"] - 1),
        "grad_norm": float(results[-1].grad_norm),
        "blank_ratio": blanks / frames,
        "frames_per_label": frames / max(1.0, labels),
        "audio_s_per_s": progress["audio_seconds"] / max(1e-9, progress["train_seconds"]),
    }


def evaluate_on_dev(
    out: Path, metrics: Path, bar: tqdm, step: TrainStep, settings: Settings, prepared: Prepared, progress: dict
) -> None:
    """Measure dev, remember the weights of the lowest CER. (By WER a learning model can look worse than blanks.)"""
    rates, _ = evaluate(step.model, prepared, prepared.splits.dev, settings.precision)
    number = progress["step"]
    append_line(metrics, {"step": number, "epoch": progress["epoch"], "dev_wer": rates.wer, "dev_cer": rates.cer})
    bar.write(f"step {number}: dev WER {percent(rates.wer)}, CER {percent(rates.cer)}", file=sys.stderr)
    if progress["best_cer"] is None or rates.cer < progress["best_cer"]:
        progress.update(best_cer=rates.cer, best_step=number, bad_evaluations=0)
        if settings.keep_best:
            step.model.save_pretrained(best_folder(out, number))
    else:
        progress["bad_evaluations"] += 1


def best_folder(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"best-{step:07d}"


def save_checkpoint(out: Path, step: TrainStep, progress: dict, keep: int) -> None:
    """Save the training state; then drop older states, and best weights that no state on disk refers to any more."""
    folder = out / "checkpoints"
    save_state(folder / f"step-{progress['step']:07d}.pt", step, progress)
    for old in checkpoints(out)[:-keep]:
        old.unlink()
    oldest_kept = int(checkpoints(out)[0].stem.split("-")[1])
    for best in folder.glob("best-*"):
        number = int(best.name.split("-")[1])
        # Weights newer than a kept state may be needed when training goes on from it: it would find them again.
        if number < oldest_kept and number != progress["best_step"]:
            shutil.rmtree(best)


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*.pt"))


def resume(out: Path, step: TrainStep, fresh: dict) -> dict:
    """Load the newest checkpoint, if there is one yet."""
    saved = checkpoints(out)
    if not saved:
        return fresh
    progress = load_state(saved[-1], step)
    say(f"resuming from {saved[-1]}")
    return progress


def keep_lines_until(metrics: Path, step: int) -> None:
    """Drop what an interrupted run logged after its last checkpoint: it will be logged again."""
    if metrics.is_file():
        lines = [line for line in metrics.read_text(encoding="utf-8").split("\n") if line.endswith("}")]
        write_text(metrics, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))


def append_line(path: Path, record: dict) -> None:
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(record) + "\n")


def evaluate(
    model: Wav2Vec2ForCTC, prepared: Prepared, clips: list[Clip], precision: str
) -> tuple[ErrorRates, list[str]]:
    """-> error rates and hypotheses. References are the normalised text, before any [UNK]."""
    waveforms = [prepared.audio[clip] for clip in clips]
    hypotheses = transcribe_waveforms(model, prepared.tokenizer, waveforms, precision)
    return error_rates([prepared.text(clip) for clip in clips], hypotheses), hypotheses


def percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{100 * rate:.1f} %"


def check_room(out: Path, parameters: int, keep: int) -> None:
    """InputError where the disk cannot hold the checkpoints: better now than hours into training."""
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    # A state holds weights and two moments; on top come the best weights, the export, and one file being written.
    needed = 4 * parameters * (3 * (keep + 1) + 3)
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise InputError(
            f"the run needs up to {needed / 1e9:.1f} GB for checkpoints, {parent} has {free / 1e9:.1f} GB free; free "
            "some space, choose another --out or lower --keep-checkpoints"
        )


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.get_num_threads()} threads)"


def start_run(
    args, out: Path, spec: str, base: BaseModel, prepared: Prepared, settings: Settings, config: Wav2Vec2Config
) -> None:
    """Make the run folder with run.json and skipped.tsv; for --resume, check that it is the same run."""
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    arguments |= {k: [str(p) for p in v] for k, v in vars(args).items() if isinstance(v, list) and k.endswith("data")}
    record = {
        "command": ["python", "-m", "recipes.cv_finetune", *sys.argv[1:]],
        "arguments": arguments,
        "model": spec,
        "settings": dataclasses.asdict(settings),
        "model_config": dataclasses.asdict(config),
        "normaliser": prepared.normaliser.to_dict(),
        "vocabulary": prepared.tokenizer.tokens,
        "data_fingerprint": prepared.fingerprint,
        "data": prepared.facts,
        "decisions": prepared.decisions,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "w2v": w2v.__version__},
        "git_commit": git_commit(),
        "machine": platform.platform(),
    }
    file = out / "run.json"
    if args.resume and file.is_file():
        check_same_run(json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(record)))
        return
    if args.overwrite and file.is_file():
        shutil.rmtree(out)
    write_json(file, record)
    lines = [f"{s.name}\t{s.split}\t{s.reason}\n" for s in prepared.skipped]
    write_text(out / "skipped.tsv", "clip\tsplit\treason\n" + "".join(lines))


def check_same_run(old: dict, new: dict) -> None:
    """InputError where --resume would go on with other data or settings than the run had."""
    for name, value in old["arguments"].items():
        now = new["arguments"].get(name)
        if name not in NOT_COMPARED and now != value:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"--resume needs the run's own settings: {flag} was {value}, now {now}; give it as before")
    for key in ("model", "data_fingerprint", "vocabulary", "normaliser"):
        if old[key] != new[key]:
            raise InputError(f"--resume needs the run's own {key.replace('_', ' ')}; it was {old[key]}, now {new[key]}")


def git_commit() -> str | None:
    """The commit of this checkout, where it is one; with "+" for uncommitted changes."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def finish(
    args,
    out: Path,
    spec: str,
    base: BaseModel,
    model: Wav2Vec2ForCTC,
    settings: Settings,
    prepared: Prepared,
    progress: dict,
) -> dict:
    """Export the chosen weights, measure them on every split, and write what explains the run."""
    if settings.keep_best and progress["best_step"] is not None:
        best = Wav2Vec2ForCTC.from_pretrained(best_folder(out, progress["best_step"]))
        model.load_state_dict(best.state_dict())
        say(f"exporting the weights of step {progress['best_step']}, the lowest dev CER")
    else:
        why = "as the preset says" if not settings.keep_best else "there is no dev split to select by"
        say(f"exporting the last weights, {why}")
    export(out, model, prepared)

    splits = dict(prepared.splits.items())
    if len(splits["train"]) > TRAIN_CLIPS_EVALUATED:
        splits["train"] = random.Random(settings.seed).sample(splits["train"], TRAIN_CLIPS_EVALUATED)
    results, test_rows = {}, []
    for name, clips in reversed(splits.items()):
        results[name], hypotheses = evaluate(model, prepared, clips, "fp32")
        rows = [(c.name, prepared.text(c), h) for c, h in zip(clips, hypotheses, strict=True)]
        if rows and name != "train":
            lines = "".join("\t".join(row) + "\n" for row in rows)
            write_text(out / f"predictions-{name}.tsv", "clip\treference\tprediction\n" + lines)
        if name == "test":
            test_rows = sorted(rows, key=lambda row: -(error_rates([row[1]], [row[2]]).cer or 0.0))

    test, train = results["test"], results["train"]
    summary = {
        "wer": test.wer,
        "cer": test.cer,
        "train_wer": train.wer,
        "train_cer": train.cer,
        "dev_wer": results["dev"].wer,
        "dev_cer": results["dev"].cer,
        "split": "test" if prepared.splits.test else None,
        "test_clips": test.clips,
        "train_clips_evaluated": train.clips,
        "steps": progress["step"],
        "epochs": progress["epochs"],
        "best_step": progress["best_step"],
        "train_audio_s_per_s": round(progress["audio_seconds"] / max(1e-9, progress["train_seconds"]), 2),
        "train_seconds": round(progress["train_seconds"], 1),
        "vocabulary": len(prepared.tokenizer),
        "skipped": len(prepared.skipped),
        "out": str(out),
    }
    headline = "wer" if is_spaced(prepared.lang) else "cer"
    kept = ("lr", "schedule", "warmup_steps", "total_steps", "batch_seconds", "batch_clips", "accumulation",
            "precision", "adam_betas", "weight_decay", "seed")  # fmt: skip
    facts = CardFacts(
        name=f"wav2vec2-{Path(spec).name.replace('random:', '')}-{prepared.lang}",
        lang=prepared.lang,
        base_model="" if base.checkpoint is None else base.name,
        data=f"Common Voice ({args.data[0].resolve().name})" if args.data else "100 clips of Common Voice 6.1",
        results=results,
        headline=headline,
        settings={name: getattr(settings, name) for name in kept},
        normalisation=f"References are normalised as normaliser.json says: {prepared.normaliser.to_dict()}.",
    )
    write_text(out / "README.md", model_card(facts))
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    page = report_html(
        facts.name,
        dataclasses.asdict(settings) | {"model": spec, "data fingerprint": prepared.fingerprint},
        results,
        [json.loads(line) for line in lines],
        test_rows[:200],
        prepared.decisions,
    )
    write_text(out / "report.html", page)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    write_json(out / "run.json", record | {"result": summary})
    say_result(args, out, facts, summary, headline)
    return summary


def export(out: Path, model: Wav2Vec2ForCTC, prepared: Prepared) -> None:
    """The folder's top: what w2v.load and transformers' Wav2Vec2ForCTC and Wav2Vec2Processor read."""
    model.save_pretrained(out)
    prepared.tokenizer.save_pretrained(out)
    prepared.normaliser.save(out)
    write_json(
        out / "preprocessor_config.json",
        {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "processor_class": "Wav2Vec2Processor",
            "feature_size": 1,
            "sampling_rate": SAMPLE_RATE,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": True,
            # Group-norm models were pretrained without one.
            "return_attention_mask": model.config.feat_extract_norm == "layer",
        },
    )


def say_result(args, out: Path, facts: CardFacts, summary: dict, headline: str) -> None:
    order = (headline, "cer" if headline == "wer" else "wer")
    if facts.base_model == "" and not args.data and summary["train_cer"] is not None:
        say(f"learned by heart: training CER {percent(summary['train_cer'])}, WER {percent(summary['train_wer'])}")
        say("held-out rates near 100 % are expected: six minutes of speech cannot generalise")
    if summary["split"]:
        rates = ", ".join(f"{name.upper()} {percent(summary[name])}" for name in order)
        say(f"test: {rates} over {summary['test_clips']} clips")
    else:
        say("test: not measured, the data holds no test clips")
    say(f"model, card, predictions and report: {out}")
    say(f"to publish it: hf upload YOUR_NAME/{facts.name} {out} . --exclude 'checkpoints/*'")


if __name__ == "__main__":
    run(main)
