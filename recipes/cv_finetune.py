"""Fine-tune wav2vec 2.0 on a Common Voice language, from the release archive to an evaluated, exported model.

    python -m recipes.cv_finetune --lang tr --data cv-corpus-17.0-2024-03-15-tr.tar.gz

Without --data it runs on the embedded Turkish sample with a small model from scratch, in a few minutes on a laptop.
Everything it decides is printed and saved; the last line on stdout is one JSON object with WER, CER and the folder.
"""

import dataclasses
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from recipes import presets
from recipes.base_model import SAMPLE_MODEL, BaseModel, default_model, resolve_model
from recipes.console import Parser, beta, count, not_negative, positive, probability, run, say
from recipes.cv_prepare import Prepared, add_data_arguments, cache_folder, find_data, prepare
from recipes.run_folder import (
    Prediction,
    append_line,
    best_folder,
    check_out,
    check_room,
    explain,
    export,
    keep_lines_until,
    resume,
    save_checkpoint,
    start_run,
)
from w2v.asr import transcribe_waveforms
from w2v.audio import SAMPLE_RATE
from w2v.data.batching import BatchSampler
from w2v.data.collate import Batch, ClipDataset, load_ahead
from w2v.data.manifest import Clip
from w2v.errors import InputError
from w2v.kernels.device import use_triton
from w2v.metrics import ErrorRates, error_rates
from w2v.model_card import CardFacts
from w2v.models.wav2vec2 import CONFIGS, Wav2Vec2ForCTC
from w2v.text import check_locale, is_common_voice, is_spaced
from w2v.training import distributed
from w2v.training.optim import SCHEDULES, adamw, schedule
from w2v.training.step import PRECISIONS, StepResult, TrainStep, check_finite, resolve_precision, try_batch

TRAIN_CLIPS_EVALUATED = 500  # train_wer and train_cer of large data are measured on a random part this big
EVALUATIONS_PER_RUN, LOGS_PER_RUN = 10, 50  # at least so many, where the usual intervals are longer
BLANK_PLATEAU = 0.99  # a blank ratio above it, this long after the warm-up, is no longer normal
SETTINGS_ON_CARD = ("preset", "lr", "schedule", "warmup_steps", "total_steps", "batch_seconds", "batch_clips",
                    "accumulation", "precision", "adam_betas", "weight_decay", "seed")  # fmt: skip


def parse_arguments(argv: list[str] | None):
    parser = Parser(prog="python -m recipes.cv_finetune", description=__doc__.split("\n")[0])
    add_data_arguments(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        help=f"NAME ({', '.join(CONFIGS)}), a checkpoint folder or file, or random:NAME for fresh weights; default: "
        "xlsr-53, and random:tiny for the sample",
    )
    for name in presets.MODEL_FLAGS:
        kind = probability if name.endswith(("dropout", "layerdrop", "prob")) else positive
        kind = count if name.endswith("min_masks") else kind
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help="as in the model's config.json")
    group.add_argument("--ctc-zero-infinity", action="store_true", help="count clips that CTC cannot align as 0")
    group.add_argument("--train-feature-encoder", action="store_true", help="also train the convolutions")
    group.add_argument("--adapter", action="store_true", help="train only MMS adapters and the head, the body rests")
    group = parser.add_argument_group("training (defaults come from a preset by hours of data)")
    group.add_argument("--epochs", type=positive)
    group.add_argument("--max-steps", type=positive, help="optimiser steps in all, whatever --epochs says")
    group.add_argument("--lr", type=not_negative, help="peak learning rate")
    group.add_argument("--schedule", choices=SCHEDULES)
    group.add_argument("--warmup-steps", type=count)
    group.add_argument("--warmup-ratio", type=probability, help="warm-up as a share of all steps")
    group.add_argument("--head-warmup-steps", type=count, default=0, help="first steps that train the head alone")
    group.add_argument("--adam-betas", type=beta, nargs=2, metavar=("B1", "B2"))
    group.add_argument("--weight-decay", type=not_negative, default=0.0)
    group.add_argument("--max-grad-norm", type=not_negative, default=1.0)
    group.add_argument("--batch-seconds", type=not_negative, help="padded seconds per micro-batch")
    group.add_argument("--batch-clips", type=positive, help="fixed number of clips per micro-batch instead")
    group.add_argument("--accumulation", type=positive, help="micro-batches per step")
    group.add_argument("--precision", choices=PRECISIONS)
    group.add_argument("--gradient-checkpointing", choices=("on", "off"), help="less memory, a third more work")
    group.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one, torchrun's each")
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


def resolve_device(name: str | None) -> torch.device:
    if distributed.is_launched() and torch.cuda.is_available() and name in (None, "cuda"):
        name = f"cuda:{distributed.local_rank()}"
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
    processes: int


def settle(args, preset: presets.Preset, lengths: list[int], base: BaseModel, device: torch.device):
    """-> Settings, the sampler they imply, and the model's config overrides."""

    def pick(name: str):
        given = getattr(args, name)
        return getattr(preset, name) if given is None else given

    batch_seconds, batch_clips = preset.batch_seconds, preset.batch_clips
    if args.batch_seconds is not None or args.batch_clips is not None:
        batch_seconds, batch_clips = args.batch_seconds, args.batch_clips
    accumulation = pick("accumulation")
    ranks = (distributed.rank(), distributed.world())
    sampler = BatchSampler(lengths, batch_seconds, batch_clips, accumulation, args.seed, *ranks)
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
        processes=distributed.world(),
    )
    given = {name: getattr(args, name) for name in presets.MODEL_FLAGS if getattr(args, name) is not None}
    overrides = {**preset.model, **given}
    if args.ctc_zero_infinity:
        overrides["ctc_zero_infinity"] = True
    if any(given.get(name, 0) > 0 for name in ("mask_time_prob", "mask_feature_prob")):
        overrides["apply_spec_augment"] = True
    return settings, sampler, overrides


def main(argv: list[str] | None = None) -> dict:
    args = parse_arguments(argv)
    args.lang = check_locale(args.lang)
    device = resolve_device(args.device)
    distributed.start(device)
    data, is_sample = find_data(args)
    base = distributed.after_first(lambda: resolve_model(args.model or default_model(is_sample), cache_folder(args)))
    out = check_out(args, base.short_name)

    prepared = distributed.after_first(lambda: prepare(args, data, is_sample, base.config, base.tokenizer))
    train = prepared.splits.train
    hours = prepared.seconds(train) / 3600
    preset = presets.choose(hours, is_sample and base.name == SAMPLE_MODEL, args.adapter)
    prepared.decide(f"preset: {preset.name} ({hours:.1f} h of training speech). {preset.reason}")
    lengths = [prepared.audio.samples(clip) for clip in train]
    settings, sampler, overrides = settle(args, preset, lengths, base, device)

    torch.manual_seed(settings.seed)
    model = base.build(prepared.tokenizer, overrides, args.adapter).to(device)
    model.set_gradient_checkpointing(settings.gradient_checkpointing)
    if args.adapter:
        model.train_adapters_only()
    elif not settings.train_feature_encoder:
        model.freeze_feature_encoder()
    model.train()
    size = sum(p.numel() for p in model.parameters())
    check_room(out, size, args)
    out = start_run(args, out, base, prepared, dataclasses.asdict(settings), model.config)
    if args.precision == "bf16" and settings.precision == "fp32":
        say("--precision bf16: this CPU would emulate it at a third of the speed of fp32; computing in fp32")
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
        settings.seed,
    )
    progress = fit(args, out, step, settings, sampler, prepared)
    steps_in_epoch = len(sampler.epoch(progress["epoch"]))
    progress["epochs"] = round(progress["epoch"] + progress["step_in_epoch"] / steps_in_epoch, 2)
    return finish(out, base, model, settings, prepared, progress)


def fit(
    args, out: Path, step: TrainStep, settings: Settings, sampler: BatchSampler, prepared: Prepared
) -> dict[str, float]:
    """The training loop. Returns the progress: steps, epochs, best dev CER and where it was."""
    train, audio = prepared.splits.train, prepared.audio
    labels = [prepared.tokenizer.encode(prepared.texts[clip]) for clip in train]
    dataset = ClipDataset(audio, train, labels, step.model.config if step.model.config.can_pack else None)
    if dataset.pack_for is None:
        say("batches are padded: this model's first norm runs over time, so its clips cannot be packed end to end")
    progress = {
        "step": 0, "epoch": 0, "step_in_epoch": 0, "best_cer": None, "best_step": None, "bad_evaluations": 0,
        "audio_seconds": 0.0, "train_seconds": 0.0,
    }  # fmt: skip
    if args.resume:
        progress = resume(out, step, progress)
    metrics = out / "metrics.jsonl"
    keep_lines_until(metrics, progress["step"])
    if step.device.type == "cuda" and progress["step"] < settings.total_steps:
        compile_and_try(step, dataset[sampler.worst_batch()])

    waiting: list[StepResult] = []  # since the last log line; reading a result waits for the GPU
    upcoming = upcoming_steps(dataset, sampler, progress, step.device)
    warned, audio_here = False, 0.0
    clock = time.perf_counter()
    others = distributed.rank() > 0
    with tqdm(
        total=settings.total_steps, initial=progress["step"], desc="training", unit="step", disable=others
    ) as bar:
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
            audio_here += sum(int(b.waveform_lengths.sum()) for b in batches) / SAMPLE_RATE
            progress["train_seconds"] += time.perf_counter() - clock
            clock = time.perf_counter()
            bar.update()
            if logging or evaluating or saving:
                progress["audio_seconds"] += sum(distributed.gather(audio_here))
                audio_here = 0.0
            if logging:
                line = describe_steps(waiting, progress, step, settings)
                waiting.clear()
                append_line(metrics, line)
                bar.set_postfix(loss=f"{line['loss']:.3f}", blank=f"{line['blank_ratio']:.2f}")
                past_warmup = number > max(3 * settings.warmup_steps, settings.total_steps // 2)
                if past_warmup and line["blank_ratio"] > BLANK_PLATEAU and not warned:
                    warned = True
                    say_above(
                        bar,
                        f"step {number}: the model still emits blanks only. Usual causes: a rate too high or low "
                        "(--lr), too few steps, transcripts that do not match the audio",
                    )
            if evaluating and prepared.splits.dev:
                evaluate_on_dev(out, metrics, bar, step, settings, prepared, progress)
            if saving:
                save_checkpoint(out, step, progress, args.keep_checkpoints)
            if evaluating or saving:
                clock = time.perf_counter()  # not training time
    return progress


def compile_and_try(step: TrainStep, batch: Batch) -> None:
    """On a GPU: fuse the layers, where that works here, and run the worst batch: what fails, fails in minute one."""
    if not use_triton(step.model.lm_head.weight):
        say("Triton does not run here: the loss and the encoder's norms take torch's slower kernels")
    say("compiling the transformer's layers for this GPU, about a minute")
    try:
        step.model.compile_layers(True)
        try_batch(step, batch)
    except InputError:
        raise
    except Exception as error:  # no compiler here, or one that cannot: eager does the same, slower
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        say(f"going on without compiled layers, which do not work here: {reason}")
        step.model.compile_layers(False)
        try_batch(step, batch)


def upcoming_steps(
    dataset: ClipDataset, sampler: BatchSampler, progress: dict, device: torch.device
) -> Iterator[list[Batch]]:
    """The batches of each step from where `progress` stands, epoch after epoch, counting in `progress`."""
    while True:
        steps = sampler.epoch(progress["epoch"])[progress["step_in_epoch"] :]
        loader = load_ahead(dataset, [batch for step in steps for batch in step], device)
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
    here = [float(losses.sum()), len(losses)]
    here += [sum(float(getattr(r, name)) for r in results) for name in ("frames", "labels", "blank_frames")]
    loss, clips, frames, labels, blanks = map(sum, zip(*distributed.gather(here), strict=True))
    return {
        "step": progress["step"],
        "epoch": progress["epoch"],
        "loss": loss / clips,
        "lr": settings.lr * step.lr_factor(progress["step"] - 1),
        "grad_norm": float(results[-1].grad_norm),
        "blank_ratio": blanks / frames,
        "frames_per_label": frames / max(1.0, labels),
        "audio_s_per_s": progress["audio_seconds"] / max(1e-9, progress["train_seconds"]),
    }


def say_above(bar: tqdm, text: str) -> None:
    if distributed.rank() == 0:
        bar.write(text, file=sys.stderr)


def evaluate_on_dev(
    out: Path, metrics: Path, bar: tqdm, step: TrainStep, settings: Settings, prepared: Prepared, progress: dict
) -> None:
    """Measure dev, remember the weights of the lowest CER. (By WER a learning model can look worse than blanks.)"""
    rates, _ = evaluate(step.model, prepared, prepared.splits.dev, settings.precision)
    number = progress["step"]
    append_line(metrics, {"step": number, "epoch": progress["epoch"], "dev_wer": rates.wer, "dev_cer": rates.cer})
    say_above(bar, f"step {number}: dev WER {percent(rates.wer)}, CER {percent(rates.cer)}")
    if progress["best_cer"] is None or rates.cer < progress["best_cer"]:
        progress.update(best_cer=rates.cer, best_step=number, bad_evaluations=0)
        if settings.keep_best:
            distributed.by_first(step.model.save_pretrained)(best_folder(out, number))
    else:
        progress["bad_evaluations"] += 1


def evaluate(
    model: Wav2Vec2ForCTC, prepared: Prepared, clips: list[Clip], precision: str
) -> tuple[ErrorRates, list[str]]:
    """-> error rates and hypotheses, each process transcribing its share. References are the normalised text, before
    any [UNK]."""
    rank, world = distributed.rank(), distributed.world()
    waveforms = [prepared.audio[clip] for clip in clips[rank::world]]
    shares = distributed.gather(transcribe_waveforms(model, prepared.tokenizer, waveforms, precision))
    hypotheses = [shares[i % world][i // world] for i in range(len(clips))]
    return error_rates([prepared.texts[clip] for clip in clips], hypotheses), hypotheses


def percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{100 * rate:.1f} %"


def describe(device: torch.device) -> str:
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"CPU ({torch.get_num_threads()} threads)"
    return f"{distributed.world()} x {name}" if distributed.world() > 1 else name


def finish(
    out: Path,
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
    export(out, model, prepared.tokenizer, prepared.normaliser)
    if model.config.adapter_attn_dim:
        distributed.by_first(model.save_adapter)(out / f"adapter.{prepared.lang}.safetensors")

    splits = dict(prepared.splits.items())
    if len(splits["train"]) > TRAIN_CLIPS_EVALUATED:
        splits["train"] = random.Random(settings.seed).sample(splits["train"], TRAIN_CLIPS_EVALUATED)
    results: dict[str, ErrorRates] = {}
    predictions: dict[str, list[Prediction]] = {}
    for name in ("test", "dev", "train"):
        results[name], hypotheses = evaluate(model, prepared, splits[name], "fp32")
        predictions[name] = [
            Prediction(clip.name, prepared.texts[clip], hypothesis)
            for clip, hypothesis in zip(splits[name], hypotheses, strict=True)
        ]
    summary = {
        "wer": results["test"].wer,
        "cer": results["test"].cer,
        "train_wer": results["train"].wer,
        "train_cer": results["train"].cer,
        "dev_wer": results["dev"].wer,
        "dev_cer": results["dev"].cer,
        "split": "test" if splits["test"] else None,
        "test_clips": results["test"].clips,
        "train_clips_evaluated": results["train"].clips,
        "steps": progress["step"],
        "epochs": progress["epochs"],
        "best_step": progress["best_step"],
        "train_audio_s_per_s": round(progress["audio_seconds"] / max(1e-9, progress["train_seconds"]), 2),
        "train_seconds": round(progress["train_seconds"], 1),
        "vocabulary": len(prepared.tokenizer),
        "skipped": len(prepared.skipped),
        "out": str(out),
    }
    facts = CardFacts(
        name=f"wav2vec2-{base.short_name}-{prepared.lang}",
        lang=prepared.lang,
        start=base.name if base.hub_id or not base.checkpoint else base.short_name,
        hub_id=base.hub_id,
        is_common_voice=is_common_voice(prepared.lang),
        data=prepared.data_name,
        results=results,
        headline="wer" if is_spaced(prepared.lang) else "cer",
        settings={name: getattr(settings, name) for name in SETTINGS_ON_CARD},
        normalisation=f"References are normalised as normaliser.json says: {prepared.normaliser.to_dict()}.",
    )
    explain(out, facts, predictions, dataclasses.asdict(settings), prepared, summary)
    say_result(facts, summary, out, prepared.is_sample)
    return summary


def say_result(facts: CardFacts, summary: dict, out: Path, is_sample: bool) -> None:
    if is_sample and facts.start == SAMPLE_MODEL:
        say(f"learned by heart: training CER {percent(summary['train_cer'])}, WER {percent(summary['train_wer'])}")
        say("held-out rates near 100 % are expected: six minutes of speech cannot generalise")
    if summary["split"]:
        order = sorted(("wer", "cer"), key=lambda rate: rate != facts.headline)
        rates = ", ".join(f"{rate.upper()} {percent(summary[rate])}" for rate in order)
        say(f"test: {rates} over {summary['test_clips']} clips")
    else:
        say("test: not measured, the data holds no test clips")
    say(f"model, card, predictions and report: {out}")
    say(f"to publish it: hf upload YOUR_NAME/{facts.name} {out} . --exclude 'checkpoints/*'")


if __name__ == "__main__":
    run(main)
