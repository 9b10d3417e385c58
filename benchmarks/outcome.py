"""What benchmarks.step_time makes of its records: figures of each column, how they compare, a table.

All times come from the same sums, so that they agree: over the measured steps of a column

    audio_s_per_s * ms_per_step / 1000 * steps = speech_seconds

The time of a step is that of its slowest rank, and its stages are that rank's: they add up to ms_per_step. `w2v-alone`
is each rank by itself; its times and its speech are the means over ranks. With `world` ranks then

    scaling_efficiency = ms_per_step of w2v-alone / ms_per_step of w2v
                       = audio_s_per_s of w2v / (world * audio_s_per_s of w2v-alone)
"""

import statistics
from collections.abc import Sequence

import torch

from benchmarks.columns import STAGES, Column, Work
from recipes.console import say
from w2v.audio import SAMPLE_RATE
from w2v.training import distributed


def result_of(column: Column, columns: list[Column], work: Work, ceiling: float, device: torch.device) -> dict:
    """The column's figures, over all ranks."""
    on_gpu = device.type == "cuda"
    here = [
        (stages_of(r.clock.stages()), r.clock.host_seconds, r.speech_samples, r.batch_samples, r.flops)
        for r in column.records
    ]
    by_step = list(zip(*distributed.gather(here), strict=True))  # of each step, of each rank
    times = [rank_times([rank[0] for rank in ranks], column.together) for ranks in by_step]
    seconds = [sum(stages.values()) for stages in times]
    speech, batch, flops = (total(by_step, part, column.together) for part in (2, 3, 4))
    assert speech is not None  # every record has it
    world = distributed.world() if column.together else 1
    peak = peak_bytes(column, columns, on_gpu)
    flop_per_s = None if flops is None else flops / sum(seconds)
    result = {
        "ms_per_step": round(1000 * statistics.mean(seconds), 3),
        "ms_median": round(1000 * statistics.median(seconds), 2),
        "ms_min": round(1000 * min(seconds), 2),
        "ms_max": round(1000 * max(seconds), 2),
        "ms_by_step": [round(1000 * s, 2) for s in seconds],
        "audio_s_per_s": round(speech / SAMPLE_RATE / sum(seconds), 3),
        "speech_seconds": round(speech / SAMPLE_RATE, 3),
        "stages_ms": {
            stage: round(1000 * statistics.mean(stages[stage] for stages in times), 2) for stage in STAGES[work.what]
        },
        "padding": None if batch is None else round(max(0.0, 1 - speech / batch), 4),
        "static_bytes": column.static_bytes,
        "peak_bytes": peak,
        "activation_bytes": peak - column.static_bytes if on_gpu and peak is not None else None,
        "model_flop_per_s": None if flop_per_s is None else round(flop_per_s),
        "share_of_ceiling": None if flop_per_s is None else round(flop_per_s / (world * ceiling), 4),
        "layers_executed": sum(r.layers for r in column.records),
        "precision": column.precision,
    }
    if on_gpu:
        result["host_ms"] = round(1000 * statistics.median(rank[1] for ranks in by_step for rank in ranks), 2)
    return result


def stages_of(stages: dict[str, float]) -> dict[str, float]:
    """A step's seconds by stage; what follows the last stage belongs to it."""
    *names, _ = stages
    return {name: stages[name] + (stages["end"] if name == names[-1] else 0.0) for name in names}


def rank_times(ranks: Sequence[dict[str, float]], together: bool) -> dict[str, float]:
    """The stages of one step: the slowest rank's where ranks step together, else the means over ranks."""
    if together:
        return max(ranks, key=lambda stages: sum(stages.values()))
    return {stage: statistics.mean(stages[stage] for stages in ranks) for stage in ranks[0]}


def total(by_step: list, part: int, together: bool) -> float | None:
    """The sum over steps of one part of the records, of all ranks together or of one of them in the mean."""
    values = [[rank[part] for rank in ranks] for ranks in by_step]
    if any(value is None for ranks in values for value in ranks):
        return None
    return sum(sum(ranks) if together else statistics.mean(ranks) for ranks in values)


def peak_bytes(column: Column, columns: list[Column], on_gpu: bool) -> int | None:
    """The most that any rank needed for the column alone."""
    memory = [r.memory for r in column.records if r.memory is not None]
    others = {id(c.model): c.held_bytes for c in columns if c.model is not column.model}
    peak = max(memory) + (column.held_bytes if on_gpu else -sum(others.values())) if memory else None
    return max((each for each in distributed.gather(peak) if each is not None), default=None)


def compare(results: dict[str, dict], peer: str) -> dict:
    """How many times as fast ours is as the peer, and as the peer in fp32 where ours runs in fp32 though bf16 is asked.

    ratio: of the two rates, audio_s_per_s. ratio_paired: the median over steps of two times for the same batch, which
    one disturbed step does not move; None for a peer whose batches are others. None where a peer was not measured.
    """
    compared: dict = {"peer": peer}
    twins = [("", peer), ("_fp32", f"{peer}-fp32")]
    for suffix, name in twins[: 1 + (f"{peer}-fp32" in results)]:
        compared[f"ratio{suffix}"] = ratio_of_rates(results, name)
        compared[f"ratio_paired{suffix}"] = None if peer.endswith("-as-run") else ratio_of_pairs(results, name)
    ours, theirs = (results.get(name, {}).get("activation_bytes") for name in ("w2v", peer))
    compared["activations_ratio"] = round(ours / theirs, 3) if ours and theirs else None
    if "w2v-alone" in results:
        alone, together = (results[name]["ms_per_step"] for name in ("w2v-alone", "w2v"))
        compared["scaling_efficiency"] = round(alone / together, 4)
        results["w2v"]["communication_ms"] = round(together - alone, 2)
    return compared


def ratio_of_rates(results: dict[str, dict], name: str) -> float | None:
    if name not in results:
        return None
    return round(results["w2v"]["audio_s_per_s"] / results[name]["audio_s_per_s"], 3)


def ratio_of_pairs(results: dict[str, dict], name: str) -> float | None:
    if name not in results:
        return None
    ours, theirs = (results[column]["ms_by_step"] for column in ("w2v", name))
    return round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 3)


def print_table(results: dict[str, dict]) -> None:
    stages = list(results["w2v"]["stages_ms"])
    communicates = "w2v-alone" in results
    say(
        f"{'':26}{'ms/step':>10}{'median':>10}{'min':>10}{'max':>10}{'audio s/s':>11}"
        + "".join(f"{stage:>11}" for stage in stages)
        + (f"{'communic.':>11}" if communicates else "")
        + f"{'padding':>9}{'peak GB':>9}{'TFLOP/s':>9}{'of best':>9}"
    )
    for name, r in results.items():
        times = "".join(f"{r[key]:>10.1f}" for key in ("ms_per_step", "ms_median", "ms_min", "ms_max"))
        communication = shown(r.get("communication_ms"), 11, ".1f") if communicates else ""
        say(
            f"{name:26}{times}{r['audio_s_per_s']:>11.2f}"
            + "".join(f"{r['stages_ms'][stage]:>11.1f}" for stage in stages)
            + communication
            + shown(r["padding"], 9, ".1%")
            + shown(r["peak_bytes"], 9, ".2f", 1e9)
            + shown(r["model_flop_per_s"], 9, ".3g", 1e12)
            + shown(r["share_of_ceiling"], 9, ".1%")
        )


def shown(value: float | None, width: int, form: str, unit: float = 1.0) -> str:
    return f"{'-' if value is None else format(value / unit, form):>{width}}"
