"""What a training run does: flags, the preset they are laid over, and the settings that come of both."""

import argparse
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recipes import presets
from recipes.augmenting import add_augmentation_arguments
from recipes.console import Parser, beta, count, not_negative, positive, probability, share, tag
from recipes.data_settings import PER_LANGUAGE, SHARED, add_data_arguments
from recipes.drawing import add_drawing_arguments
from recipes.given import languages_of
from recipes.start import StartingPoint, add_adapter_argument
from w2v.data.batching import BatchSampler
from w2v.errors import InputError
from w2v.models.families import shapes
from w2v.precision import PRECISIONS, resolve_precision
from w2v.training import distributed
from w2v.training.optim import SCHEDULES

EVALUATIONS_PER_RUN, LOGS_PER_RUN = 10, 50  # at least so many, where the usual intervals are longer


def parse_arguments(
    argv: list[str] | None, prog: str, description: str, recorded: Callable[[Path], dict] | None = None
) -> argparse.Namespace:
    """recorded: a run's folder -> its arguments, which --resume takes where none are given."""
    parser = Parser(prog=prog, description=description)
    add_data_arguments(parser)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        help=f"NAME ({', '.join(shapes())}), a checkpoint folder or file, a Hub repository as owner/name[@revision], "
        "or random:NAME for fresh weights; default: xlsr-53, and for the sample w2v-mini, which comes with the code",
    )
    for name in presets.MODEL_FLAGS:
        kind = probability if name.endswith(("dropout", "layerdrop", "prob")) else positive
        kind = count if name.endswith("min_masks") else kind
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help="as in the model's config.json")
    add_adapter_argument(group)
    group.add_argument("--mask-from", type=count, metavar="STEP", help="first step with SpecAugment's masks (0)")
    group.add_argument("--ctc-zero-infinity", action="store_true", help="count clips that CTC cannot align as 0")
    group.add_argument("--train-feature-encoder", action="store_true", help="also train the convolutions")
    group.add_argument(
        "--freeze-encoder", action="store_true", help="train only what writes: Whisper's decoder, or a CTC model's head"
    )
    group.add_argument(
        "--freeze-layers",
        type=count,
        default=0,
        metavar="N",
        help="freeze the lowest N transformer layers and all below them; Whisper's decoder lies above its encoder",
    )
    group.add_argument(
        "--cut-windows", action="store_true", help="Whisper: train on as much as a batch's longest clip, not 30 s"
    )
    group.add_argument("--adapter", action="store_true", help="train only MMS adapters and the head, not the body")
    group = parser.add_argument_group("training (defaults come from a preset by hours of data)")
    group.add_argument("--epochs", type=positive)
    group.add_argument("--max-steps", type=positive, help="optimiser steps in all, whatever --epochs says")
    group.add_argument("--lr", type=not_negative, help="peak learning rate")
    group.add_argument(
        "--layer-decay",
        type=share,
        default=1.0,
        metavar="D",
        help="each layer learns at D times the rate of the one above it, the head at --lr (default: 1, all alike)",
    )
    group.add_argument("--schedule", choices=SCHEDULES)
    group.add_argument("--warmup-steps", type=count)
    group.add_argument("--warmup-ratio", type=probability, help="warm-up as a share of all steps")
    group.add_argument("--head-warmup-steps", type=count, default=0, help="first steps that train the head alone")
    group.add_argument("--adam-betas", type=beta, nargs=2, metavar=("B1", "B2"))
    group.add_argument("--weight-decay", type=not_negative, default=0.0)
    group.add_argument("--max-grad-norm", type=not_negative, default=1.0, help="clip gradients to it; 0: never")
    group.add_argument(
        "--start-share",
        type=probability,
        help="of the starting weights in the exported ones: what a small corpus would make a model forget stays",
    )
    group.add_argument("--batch-seconds", type=not_negative, help="seconds of speech per micro-batch")
    group.add_argument("--batch-clips", type=positive, help="fixed number of clips per micro-batch instead")
    group.add_argument("--accumulation", type=positive, help="micro-batches per step")
    add_drawing_arguments(group)
    group.add_argument("--precision", choices=PRECISIONS)
    group.add_argument("--gradient-checkpointing", choices=("on", "off"), help="less memory, a third more work")
    group.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU where there is one, torchrun's each")
    add_augmentation_arguments(parser)
    group = parser.add_argument_group("checkpoints")
    group.add_argument("--out", type=Path, help="run folder (default: the next free runs/LANG-MODEL-N)")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out")
    group.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    group.add_argument("--eval-steps", type=positive, help="evaluate on dev this often (400)")
    group.add_argument("--save-steps", type=positive, help="save a checkpoint this often (as --eval-steps)")
    group.add_argument("--log-steps", type=positive, help="log this often (50)")
    group.add_argument("--keep-checkpoints", type=positive, default=2)
    group.add_argument("--no-audio", action="store_true", help="no clips to hear in report.html")
    group.add_argument("--patience", type=positive, help="stop after this many evaluations without a better dev CER")
    group = parser.add_argument_group("publishing")
    group.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="upload the model and its card to this repository of the Hugging Face Hub, NAME or OWNER/NAME, at each "
        "best evaluation and at the end, in the background",
    )
    group.add_argument("--private", action="store_true", help="make that repository a private one")
    group.add_argument(
        "--push-reports",
        action="store_true",
        help="also upload report.html, predictions, metrics.jsonl, skipped.tsv and run.json, which names local paths",
    )
    group.add_argument("--tag", action="append", default=[], type=tag, help="further tag of the card; repeatable")
    if recorded is not None:
        take_over(parser, argv, recorded)
    args = parser.parse_args(argv)
    args.lang = languages_of(args.lang, args.data, args.extra_data)[0].lang  # as run.json has it
    if args.push_to_hub is None and (args.private or args.push_reports):
        raise InputError("--private and --push-reports need --push-to-hub, the name of a repository")
    if args.freeze_encoder and (args.adapter or args.train_feature_encoder):
        raise InputError("--freeze-encoder leaves no part of the encoder to train; give it or the other flag")
    for name in ("freeze_encoder", "adapter", "train_feature_encoder"):
        if args.freeze_layers and getattr(args, name):
            raise InputError(
                f"--freeze-layers says which layers learn, --{name.replace('_', '-')} says otherwise; give one of them"
            )
    if args.adapter and args.heads == PER_LANGUAGE:
        raise InputError("--adapter trains one head beside the adapters, --heads per-language one for each; give one")
    if args.adapter:
        args.heads = SHARED
    if args.resume and not args.out:
        raise InputError("--resume needs --out, the folder of the run to go on with")
    if args.resume and args.overwrite:
        raise InputError("--resume goes on with a run and --overwrite deletes it; give one of them")
    if args.batch_seconds is not None and args.batch_clips is not None:
        raise InputError("--batch-seconds and --batch-clips both size a batch; give one of them")
    if args.warmup_steps is not None and args.warmup_ratio is not None:
        raise InputError("--warmup-steps and --warmup-ratio both size the warm-up; give one of them")
    return args


# What is sent to others is asked for each time.
PUBLISHING = ("push_to_hub", "private", "push_reports")
NOT_TAKEN_OVER = ("resume", "overwrite", "out", *PUBLISHING)


def resume_command(args: argparse.Namespace, out: Path) -> str:
    """The command that goes on with the run in `out` as this one would have. Of several machines each has its own: the
    user's launcher knows them."""
    words = ["python"]
    if distributed.is_launched() and distributed.on_one_machine():
        words = ["torchrun", "--nproc-per-node", str(distributed.world())]
    words += ["-m", "recipes.cv_finetune", "--resume", "--out", str(out)]
    if args.push_to_hub is not None:
        words += ["--push-to-hub", args.push_to_hub]
    words += [f"--{name.replace('_', '-')}" for name in PUBLISHING[1:] if getattr(args, name)]
    return shlex.join(words)


def take_over(parser: argparse.ArgumentParser, argv: list[str] | None, recorded: Callable[[Path], dict]) -> None:
    """With --resume, what the run in --out was given becomes the default of each flag."""
    first = Parser(add_help=False)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--out", type=Path)
    known, _ = first.parse_known_args(argv)
    if not known.resume or known.out is None:
        return
    held = recorded(known.out)
    for action in parser._actions:
        if action.dest in held and action.dest not in NOT_TAKEN_OVER:
            try:
                action.default = as_given(action, held[action.dest])
            except (ValueError, TypeError, argparse.ArgumentTypeError):
                raise InputError(
                    f"{known.out / 'run.json'} must hold the run's arguments, --{action.dest.replace('_', '-')} is "
                    "damaged; restore it, or start again in another folder"
                ) from None
            action.required = False


def as_given(action: argparse.Action, value: Any) -> Any:
    """A flag's value as run.json holds it -> as argparse reads it. ValueError and the like where it is none."""
    if value is None:
        return None
    if isinstance(value, list):
        if action.nargs is None and not isinstance(action.default, list):
            raise ValueError
        return [as_given(action, item) for item in value]
    if action.nargs == 0:  # on or off
        if not isinstance(value, bool):
            raise ValueError
        return value
    read = action.type(str(value)) if callable(action.type) else value
    if (action.choices is not None and read not in action.choices) or not isinstance(read, (str, int, float, Path)):
        raise ValueError
    return read


@dataclass(frozen=True)
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
    layer_decay: float
    weight_decay: float
    max_grad_norm: float
    batch_seconds: float | None
    batch_clips: int | None
    accumulation: int
    precision: str
    gradient_checkpointing: bool
    train_feature_encoder: bool
    freeze_encoder: bool
    freeze_layers: int
    keep_best: bool
    start_share: float
    augment: str  # in words
    mask_from: int
    keep_checkpoints: int
    patience: int | None
    eval_steps: int
    save_steps: int
    log_steps: int
    seed: int
    processes: int  # that the run began with

    def is_due(self, every: int, steps: int) -> bool:
        """Whether something that happens every so many steps happens after this many; all of it happens at the end."""
        return steps % every == 0 or steps == self.total_steps


def choose_preset(
    args: argparse.Namespace,
    start: StartingPoint,
    hours: float,
    by_heart: bool,
    device: torch.device,
    recorded: dict | None,
    tokens_per_letter: float,
) -> presets.Preset:
    """The preset by hours of speech, by how its text is spelled and, unless a flag sizes the batch, by the smallest
    GPU's memory.

    recorded: the settings of the run that goes on, perhaps on another GPU: it keeps its batches.
    """
    preset = presets.choose(
        hours, by_heart, args.adapter, start.family.model_type, start.config, tokens_per_letter,
        fresh=start.checkpoint is None,
    )  # fmt: skip
    if recorded is not None:
        return replace(preset, **{name: recorded[name] for name in presets.BY_MEMORY})
    if device.type == "cpu" or any(getattr(args, name) is not None for name in presets.BY_MEMORY):
        return preset
    with torch.device("meta"):  # parameters without memory: only their sizes are asked
        weightless = start.family.model(start.config)
    memory = min(distributed.gather(torch.cuda.get_device_properties(device).total_memory))
    return presets.for_memory(preset, weightless, memory)


def make_sampler(
    args: argparse.Namespace,
    preset: presets.Preset,
    costs: list[float],
    pads: bool,
    recorded: dict | None,
    times: list[float] | None = None,
    begin: tuple[list[int] | None, int] = (None, 0),
) -> BatchSampler:
    """Batches by seconds or by clips, as the flags say or else the preset.

    times, begin: how often each clip comes in an epoch, and the clips of the first ones, see recipes.drawing.
    recorded: the settings of the run that goes on: its steps keep their clips, however many processes share them.
    """
    batch_seconds, batch_clips = preset.batch_seconds, preset.batch_clips
    if args.batch_seconds is not None or args.batch_clips is not None:
        batch_seconds, batch_clips = args.batch_seconds, args.batch_clips
    accumulation = preset.accumulation if args.accumulation is None else args.accumulation
    ranks = (distributed.rank(), distributed.world())
    began = None if recorded is None else recorded["processes"]
    return BatchSampler(costs, batch_seconds, batch_clips, accumulation, args.seed, *ranks, pads, began, times, *begin)


def make_settings(
    args: argparse.Namespace,
    preset: presets.Preset,
    sampler: BatchSampler,
    start: StartingPoint,
    device: torch.device,
    keeps_head: bool,
    augment: str,
    recorded: dict | None,
) -> Settings:
    """Lay the flags over the preset, and count the steps that come of it.

    keeps_head: whether every weight comes from the checkpoint, that of its head too. augment: in words. recorded: the
    settings of the run that goes on: with more steps its warm-up stays as long as it was.
    """

    def pick(name: str):
        given = getattr(args, name)
        return getattr(preset, name) if given is None else given

    if args.start_share and not keeps_head:
        raise InputError(
            f"--start-share needs a checkpoint that keeps its vocabulary, --model {start.name} gets weights that are "
            "drawn; leave it out"
        )
    epochs = pick("epochs")
    # A seconds budget cuts each epoch into its own number of steps: count them rather than multiply.
    total = args.max_steps or sum(len(sampler.epoch(number)) for number in range(epochs))
    if recorded is not None:
        warmup = recorded["warmup_steps"]
    elif args.warmup_ratio is not None:
        warmup = round(args.warmup_ratio * total)
    elif args.warmup_steps is not None:
        warmup = args.warmup_steps
    else:  # a preset's warm-up may be too long for a short run: a third of the steps at most
        warmup = min(preset.warmup_steps, total // 3)
    eval_steps = args.eval_steps or max(1, min(400, math.ceil(total / EVALUATIONS_PER_RUN)))
    checkpointing = args.gradient_checkpointing
    return Settings(
        preset=preset.name,
        epochs=epochs,
        total_steps=total,
        lr=pick("lr"),
        schedule=pick("schedule"),
        warmup_steps=warmup,
        head_warmup_steps=args.head_warmup_steps,
        adam_betas=tuple(pick("adam_betas")),
        layer_decay=args.layer_decay,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        batch_seconds=sampler.batch_seconds,
        batch_clips=sampler.batch_clips,
        accumulation=sampler.accumulation,
        precision=resolve_precision(pick("precision"), device),
        gradient_checkpointing=preset.gradient_checkpointing if checkpointing is None else checkpointing == "on",
        # Fresh convolutions must learn; pretrained ones are frozen, as in every published recipe.
        train_feature_encoder=args.train_feature_encoder or (start.checkpoint is None and not args.freeze_layers),
        freeze_encoder=args.freeze_encoder,
        freeze_layers=args.freeze_layers,
        keep_best=preset.keep_best,
        start_share=pick("start_share") if keeps_head else 0.0,
        augment=augment,
        mask_from=pick("mask_from"),
        keep_checkpoints=args.keep_checkpoints,
        patience=args.patience,
        eval_steps=eval_steps,
        save_steps=args.save_steps or eval_steps,
        log_steps=args.log_steps or max(1, min(50, math.ceil(total / LOGS_PER_RUN))),
        seed=args.seed,
        processes=sampler.processes,
    )


def model_overrides(args: argparse.Namespace, preset: presets.Preset, start: StartingPoint) -> dict:
    """Config fields that this run changes: the preset's for the family, and the flags' over them."""
    given = {name: getattr(args, name) for name in presets.MODEL_FLAGS if getattr(args, name) is not None}
    if any(given.get(name, 0) > 0 for name in ("mask_time_prob", "mask_feature_prob")):
        given["apply_spec_augment"] = True
    for name in ("ctc_zero_infinity", "cut_windows"):
        if getattr(args, name):
            given[name] = True
    return presets.model_fields(preset, start.family.model_type) | given
