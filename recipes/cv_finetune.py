"""Fine-tune a pretrained speech model on a Common Voice language, from the release archive to an evaluated export.

    python -m recipes.cv_finetune --lang tr --data cv-corpus-17.0-2024-03-15-tr.tar.gz

Without --data it fine-tunes w2v-mini, a small model that comes with the code, on the embedded Turkish sample, in a few
minutes on a laptop.
Everything it decides is printed and saved; the last line on stdout is one JSON object with WER, CER and the folder.

Under torchrun every process runs all of this. Functions that write files do it in the first process only, while the
others wait; `evaluate` shares the work and gives all processes the same numbers.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from recipes.augmenting import choose_augmentation
from recipes.checkpoints import best_folder, load_progress, save_checkpoint, save_here
from recipes.console import run, say
from recipes.cv_prepare import Prepared, prepare
from recipes.data_settings import data_settings
from recipes.drawing import begin_with, times_drawn
from recipes.guards import Usual, count_skipped, note_spikes
from recipes.kept import kept_hearing
from recipes.locking import locked
from recipes.results import card_facts, evaluate, export_best, measure_and_explain, percent, say_of_sample
from recipes.run_folder import (
    arguments_of_run,
    check_out,
    check_room,
    log,
    open_run,
    read_run,
    recorded_settings,
)
from recipes.settings import (
    Settings,
    choose_preset,
    make_sampler,
    make_settings,
    model_overrides,
    parse_arguments,
    resume_command,
)
from recipes.start import BY_HEART, default_model, resolve_model, with_adapter
from recipes.stopping import Stop, StoppedError
from recipes.telling import add_up, describe_steps, progress_bar, say_above, show, sums_of_this_rank, tell_symptoms
from recipes.upload import check_upload
from w2v.answers import Batch
from w2v.audio import SAMPLE_RATE
from w2v.augmentation import slowest_samples
from w2v.data.batching import BatchSampler
from w2v.data.loading import ClipDataset, load_ahead
from w2v.layout import Padded
from w2v.metrics import ErrorRates
from w2v.training import distributed
from w2v.training.compile import compile_and_try
from w2v.training.device import describe_device, resolve_device
from w2v.training.optim import adamw, freeze_lowest, schedule
from w2v.training.state import Progress, StateWriter
from w2v.training.step import StepResult, TrainStep
from w2v.weights.hf import override


def main(argv: list[str] | None = None) -> dict:
    with Stop("nothing was trained yet: give the command again") as stop, ExitStack() as held:
        return train(sys.argv[1:] if argv is None else argv, stop, held)


def train(argv: list[str], stop: Stop, held: ExitStack) -> dict:
    """All of the command. stop: hears signals. held: what is given back at the end."""
    args = parse_arguments(argv, "python -m recipes.cv_finetune", __doc__.split("\n")[0], arguments_of_run)
    device = resolve_device(args.device)
    distributed.join(device)
    check_out(args.out, args.resume, args.overwrite)
    data = data_settings(args)
    upload = check_upload(args)
    spec = args.model or default_model(data.is_sample)
    # The first process fetches and decodes; the others then find the files.
    start = with_adapter(distributed.after_first(lambda: resolve_model(spec, data.cache)), args.add_adapter)
    if data.is_sample:
        say_of_sample(start)
    prepared = distributed.after_first(lambda: prepare(data, start))
    train = prepared.splits.train
    hours = prepared.seconds(train) / 3600
    by_heart = data.is_sample and start.name in BY_HEART
    labels = [prepared.encode(clip) for clip in train]
    tokens_per_letter = sum(map(len, labels)) / sum(len(prepared.texts[clip]) for clip in train)
    recorded = recorded_settings(args.out, args.resume)
    preset = choose_preset(args, start, hours, by_heart, device, recorded, tokens_per_letter)
    prepared.decide(f"preset: {preset.name} ({hours:.1f} h of training speech). {preset.reason}")
    overrides = model_overrides(args, preset, start)
    config = override(start.config, overrides)  # what a clip costs may be among them
    augmentation, words = choose_augmentation(args, preset, prepared, data)
    samples = [prepared.audio.samples(clip) for clip in train]
    if augmentation is not None:
        pairs = zip(samples, labels, strict=True)
        samples = [slowest_samples(augmentation.speeds, n, ids, config.why_not) for n, ids in pairs]
    costs = [config.cost(n) for n in samples]  # seconds
    times, begin = times_drawn(args, prepared), begin_with(args, prepared)
    sampler = make_sampler(args, preset, costs, config.pads, recorded, times, begin)
    has_head = start.checkpoint is not None and prepared.tokenizer.same_vocabulary(start.tokenizer)
    settings = make_settings(args, preset, sampler, start, device, has_head and not args.adapter, words, recorded)

    torch.manual_seed(settings.seed)
    build = partial(start.build, prepared.tokenizer, overrides, args.adapter, labels)
    model = build().to(device)
    for stack in model.parts.stacks:
        stack.checkpointing = settings.gradient_checkpointing
    if args.adapter:
        model.train_adapters_only()
    elif settings.freeze_encoder:
        model.parts.encoder.requires_grad_(False)
    elif settings.freeze_layers:
        freeze_lowest(model, settings.freeze_layers)
    elif not settings.train_feature_encoder:  # as in every published recipe: it has learnt to hear
        for part in model.parts.frozen:
            part.requires_grad_(False)
    optimizer = adamw(model, settings.lr, settings.adam_betas, settings.weight_decay, settings.layer_decay)
    model.train()
    size = sum(p.numel() for p in model.parameters())
    check_room(args.out, size, settings.keep_checkpoints)
    if args.precision == "bf16" and settings.precision == "fp32":
        prepared.decide("precision: this CPU would emulate bf16 at a third of the speed of fp32; computing in fp32")
    if args.out is not None:  # before a file of it is written or deleted
        held.enter_context(locked(args.out))
    out = open_run(args.out, args.resume, argv, vars(args), start, prepared, settings, model.config)
    if args.out is None:  # a folder of its own
        held.enter_context(locked(out))
    say(f"run folder: {out}")
    stop.remedy = f"go on with: {resume_command(args, out)}"
    say(
        f"training {start.name}, {size / 1e6:.1f} M parameters, on {describe_device(device)} in {settings.precision}: "
        f"{settings.total_steps} steps, learning rate {settings.lr:g}, {settings.warmup_steps} warm-up steps"
    )

    step = TrainStep(
        model,
        optimizer,
        schedule(settings.schedule, settings.total_steps, settings.warmup_steps),
        precision=settings.precision,
        max_grad_norm=settings.max_grad_norm,
        head_warmup_steps=settings.head_warmup_steps,
        seed=settings.seed,
        mask_from=settings.mask_from,
    )
    progress = load_progress(out, step, settings.keep_checkpoints) if args.resume else Progress()
    progress.run = distributed.by_first(read_run)(out)["id"]
    if recorded is not None:
        tell_longer_schedule(recorded, settings, progress)
    dataset = ClipDataset(
        model.config.collate, prepared.audio, train, labels, augmentation, model.config.why_not, settings.seed,
        prepared.allowed(train),
    )  # fmt: skip
    numbers = sampler.worst_batch()
    worst, lone = dataset.longest(numbers), dataset.longest(numbers[:1])
    if isinstance(worst.layout, Padded):
        say("batches are padded: this model's clips cannot be packed end to end")
    if device.type == "cuda" and not is_over(progress, settings):
        compile_and_try(step, [worst, lone], say)
    describe = partial(card_facts, start, model, settings, data, prepared, progress, args.tag, upload.repository)
    at_best = partial(upload.best, out, prepared, describe)
    kept = kept_hearing(model, settings, len(train), data.cache)
    if args.cut_windows:  # in training alone: the exported model hears whole windows, and is measured so
        model.config = override(model.config, {"cut_windows": False})
    upcoming = upcoming_steps(dataset, sampler, progress, step.device, kept)
    fit(step, upcoming, settings, prepared, progress, out, at_best, stop)
    export_best(out, model, settings, prepared, progress, build)
    epochs = round(progress.epoch + progress.step_in_epoch / len(sampler.epoch(progress.epoch)), 2)
    summary = measure_and_explain(out, model, settings, prepared, progress, epochs, describe)
    return upload.end(out, summary)


def tell_longer_schedule(recorded: dict, settings: Settings, progress: Progress) -> None:
    """Say what more steps do to the learning rate of a run that goes on."""
    if recorded.get("total_steps") == settings.total_steps:
        return
    before, now = (
        settings.lr * schedule(settings.schedule, total, settings.warmup_steps)(progress.step)
        for total in (recorded["total_steps"], settings.total_steps)
    )
    say(
        f"the run now ends at step {settings.total_steps} instead of {recorded['total_steps']}: after step "
        f"{progress.step} its learning rate is {now:.2g}, where it would have been {before:.2g}"
    )


def fit(
    step: TrainStep,
    upcoming: Iterator[tuple[list[Batch], int, int]],
    settings: Settings,
    prepared: Prepared,
    progress: Progress,
    out: Path,
    at_best: Callable[[ErrorRates], None],
    stop: Stop,
) -> None:
    """Train from `progress` to the end, and keep `progress` up to date.

    upcoming: see upcoming_steps. at_best: told the rates of the best weights. StoppedError, with all saved, where a
    signal came.
    """
    waiting: list[StepResult] = []  # not in the sums yet: reading a result waits for the GPU
    sums = sums_of_this_rank(progress)  # since the last log line
    usual, said = Usual(), set[str]()  # loss and gradient norm; symptoms
    audio_here = 0.0
    states = StateWriter(step)
    clock = time.perf_counter()
    with progress_bar(settings, progress) as bar, stop.waiting():
        is_due = settings.is_due(settings.eval_steps, progress.step)
        if is_due and prepared.splits.dev and progress.evaluated < progress.step:
            # A signal broke it off, or came in the step before it.
            evaluate_on_dev(step, settings, prepared, progress, out, states, bar, at_best, stop)
            save_checkpoint(out, states, progress, settings.keep_checkpoints)
        while not is_over(progress, settings):
            batches, epoch, step_in_epoch = next(upcoming)

            step.begin(progress.step)  # seeds, learning rates and what trains follow from the number
            total = step.total_weight(batches)
            for batch in batches:
                losses = step.losses(batch, last=batch is batches[-1])
                step.backward(losses, total)
            waiting.append(step.update())
            progress.step, progress.epoch, progress.step_in_epoch = progress.step + 1, epoch, step_in_epoch

            logging = settings.is_due(settings.log_steps, progress.step)
            evaluating = settings.is_due(settings.eval_steps, progress.step)
            stopping = stop.asked()
            saving = settings.is_due(settings.save_steps, progress.step) or stopping
            for result in results_to_check(waiting, step.device, logging or evaluating or saving):
                say_above(bar, count_skipped(result, progress, settings))
            audio_here += sum(sum(batch.samples) for batch in batches) / SAMPLE_RATE
            progress.train_seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            bar.update()
            if logging or evaluating or saving:
                progress.audio_seconds += sum(distributed.gather(audio_here))
                audio_here = 0.0
                norm = float(waiting[-1].grad_norm)
                say_above(bar, note_spikes(waiting, usual, out))
                add_up(waiting, sums)
                progress.sums = distributed.gather(dict(sums))
            if logging:
                rate = settings.lr * step.lr_factor(progress.step - 1)  # of the step just done
                line = describe_steps(progress, rate, norm)
                sums.clear()
                progress.sums = []
                log(out, progress, line)
                show(bar, line, settings)
                tell_symptoms(out, settings, said, bar)
            if evaluating and prepared.splits.dev and not stopping:
                evaluate_on_dev(step, settings, prepared, progress, out, states, bar, at_best, stop)
            if saving:
                save_checkpoint(out, states, progress, settings.keep_checkpoints, wait=stopping)
            if stopping:
                raise stop.error()
            states.check()  # what could not be written ends the run now, not at the next state
            if evaluating or saving:
                clock = time.perf_counter()  # not training time
        distributed.by_first(states.wait)()


def is_over(progress: Progress, settings: Settings) -> bool:
    """Whether all steps are done, or dev has not become better for as long as --patience allows."""
    out_of_patience = settings.patience is not None and progress.bad_evaluations >= settings.patience
    return progress.step >= settings.total_steps or out_of_patience


def upcoming_steps(
    dataset: ClipDataset,
    sampler: BatchSampler,
    progress: Progress,
    device: torch.device,
    kept: Callable[[list[int], Batch], Batch] | None,
) -> Iterator[tuple[list[Batch], int, int]]:
    """-> the micro-batches of a step on this rank, then the epoch and how many of its steps are done after this one.

    kept: gives a batch what a frozen encoder made of its clips.
    """
    epoch, done = progress.epoch, progress.step_in_epoch
    while True:
        steps = sampler.epoch(epoch)
        loader = load_ahead(dataset.in_epoch(epoch), [numbers for step in steps[done:] for numbers in step], device)
        for i, step in enumerate(steps[done:], done + 1):
            batches = [next(loader) for _ in step]
            if kept is not None:
                batches = [kept(numbers, batch) for numbers, batch in zip(step, batches, strict=True)]
            yield batches, epoch, i
        epoch, done = epoch + 1, 0


def results_to_check(waiting: list[StepResult], device: torch.device, up_to_date: bool) -> list[StepResult]:
    """The steps that are looked at now for losses and gradients that are not finite, each once.

    A GPU works one step ahead of what is checked: to wait for the newest step would leave it idle. Before logging,
    evaluation and saving the newest is checked too, so that nothing comes of a broken model.
    """
    if device.type == "cpu":
        return waiting[-1:]
    return waiting[-2:] if up_to_date else waiting[-2:-1]


def evaluate_on_dev(
    step: TrainStep,
    settings: Settings,
    prepared: Prepared,
    progress: Progress,
    out: Path,
    states: StateWriter,
    bar: tqdm,
    at_best: Callable[[ErrorRates], None],
    stop: Stop,
) -> None:
    """Measure dev, and keep the weights of the lowest CER. Early in training a WER can exceed that of an empty text.

    A signal breaks it off. The first process then saves, without a word to the others, which may have ended before.
    """
    try:
        with stop.waiting(False):
            rates, _ = evaluate(step.model, prepared, prepared.splits.dev, settings.precision)
    except StoppedError:
        if distributed.rank() == 0:
            save_here(out, states, progress, settings.keep_checkpoints, wait=True)
        raise
    progress.evaluated = progress.step
    line = {"step": progress.step, "epoch": progress.epoch, "dev_wer": rates.wer, "dev_cer": rates.cer}
    for lang, of_lang in rates.languages.items():
        line |= {f"dev_wer_{lang}": of_lang.wer, f"dev_cer_{lang}": of_lang.cer}
    log(out, progress, line)
    means = "; CER of " + ", ".join(f"{lang} {percent(r.cer)}" for lang, r in rates.languages.items())
    shown = f"dev WER {percent(rates.wer)}, CER {percent(rates.cer)}" + (means if rates.languages else "")
    say_above(bar, f"step {progress.step}: {shown}")
    assert rates.cer is not None  # every clip of dev has text
    if progress.best_cer is None or rates.cer < progress.best_cer:
        progress.best_cer, progress.best_step, progress.bad_evaluations = rates.cer, progress.step, 0
        if settings.keep_best:
            distributed.by_first(step.model.save_pretrained)(best_folder(out, progress.step))
            at_best(rates)
    else:
        progress.bad_evaluations += 1


def command() -> None:
    run(main, if_stopped="the run goes on with --out RUN --resume")


if __name__ == "__main__":
    command()
