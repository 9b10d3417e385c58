"""What is made of the records: times, rates, stages and scaling agree, on one rank and on several.

Run: pytest tests/benchmarks/test_outcome.py
"""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import outcome
from benchmarks.columns import Record
from w2v.audio import SAMPLE_RATE

CPU = torch.device("cpu")
WORK = SimpleNamespace(what="step")


def clock(data: float, forward: float, backward: float, optimiser: float, end: float):
    stages = {"data": data, "forward": forward, "backward": backward, "optimiser": optimiser, "end": end}
    return SimpleNamespace(stages=lambda: stages, host_seconds=0.0)


def column(records: list[Record], together: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        records=records, together=together, held_bytes=0, static_bytes=0, precision="fp32", model=object()
    )


def record(seconds: float, speech: float, flops: int | None = 8) -> Record:
    """A step of so many seconds on so many seconds of speech."""
    parts = clock(0.1 * seconds, 0.3 * seconds, 0.4 * seconds, 0.15 * seconds, 0.05 * seconds)
    return Record(parts, round(speech * SAMPLE_RATE), round(1.25 * speech * SAMPLE_RATE), flops, 2, None)


def test_rate_mean_time_and_stages_come_from_the_same_sums():
    records = [record(1.0, 10.0), record(2.0, 12.0), record(6.0, 20.0)]
    result = outcome.result_of(column(records), [], WORK, 100.0, CPU)
    assert (result["ms_per_step"], result["ms_median"], result["ms_min"], result["ms_max"]) == (3000, 2000, 1000, 6000)
    assert result["speech_seconds"] == 42.0
    assert result["audio_s_per_s"] * result["ms_per_step"] / 1000 * 3 == pytest.approx(42.0, rel=1e-3)
    assert result["stages_ms"] == {"data": 300.0, "forward": 900.0, "backward": 1200.0, "optimiser": 600.0}
    assert sum(result["stages_ms"].values()) == result["ms_per_step"]
    assert result["padding"] == pytest.approx(0.2)
    assert result["model_flop_per_s"] == round(24 / 9)


def test_unknown_operations_and_waveforms_without_padding_are_none(capsys):
    records = [record(1.0, 10.0, flops=None)]
    records[0].batch_samples = None
    result = outcome.result_of(column(records), [], WORK, 100.0, CPU)
    assert result["model_flop_per_s"] is result["share_of_ceiling"] is result["padding"] is None
    outcome.print_table({"w2v": result})
    assert capsys.readouterr().err.splitlines()[1].split()[-4:] == ["-"] * 4


def test_scaling_by_time_and_by_rate_agree(monkeypatch, capsys):
    """Two ranks of unlike speed; the second one's records stand in for what is gathered."""
    other = {"w2v": [record(4.0, 20.0), record(2.0, 10.0)], "w2v-alone": [record(3.0, 20.0), record(1.0, 10.0)]}
    mine = {"w2v": [record(3.0, 16.0), record(5.0, 30.0)], "w2v-alone": [record(2.0, 16.0), record(4.0, 30.0)]}
    results = {}
    for name in mine:
        here = [
            (outcome.stages_of(r.clock.stages()), 0.0, r.speech_samples, r.batch_samples, r.flops) for r in other[name]
        ]

        def gather(value, here=here):
            return [value, here] if isinstance(value, list) else [value, value]

        monkeypatch.setattr(outcome.distributed, "gather", gather)
        monkeypatch.setattr(outcome.distributed, "world", lambda: 2)
        results[name] = outcome.result_of(column(mine[name], name == "w2v"), [], WORK, 100.0, CPU)
    together, alone = results["w2v"], results["w2v-alone"]
    assert together["ms_by_step"] == [4000.0, 5000.0], "a step ends with its slowest rank"
    assert alone["ms_by_step"] == [2500.0, 2500.0], "each rank by itself"
    assert sum(together["stages_ms"].values()) == together["ms_per_step"] == 4500.0
    for result, speech in ((together, 76.0), (alone, 38.0)):
        assert result["speech_seconds"] == speech
        rate = result["audio_s_per_s"] * result["ms_per_step"] / 1000 * 2
        assert rate == pytest.approx(speech, rel=1e-3)
    compared = outcome.compare(results, "none")
    assert compared["scaling_efficiency"] == pytest.approx(2500 / 4500, abs=1e-4)
    by_rate = together["audio_s_per_s"] / (2 * alone["audio_s_per_s"])
    assert compared["scaling_efficiency"] == pytest.approx(by_rate, rel=1e-3)
    assert together["communication_ms"] == 2000.0
    assert together["share_of_ceiling"] == pytest.approx(32 / 9 / 200, abs=1e-4)
    outcome.print_table(results)
    head, *rows = capsys.readouterr().err.splitlines()
    place = head.index("communic.")
    assert [row[place : place + 9].strip() for row in rows] == ["2000.0", "-"]


def test_ratios_are_of_rates_and_of_pairs():
    ours = {"ms_by_step": [10.0, 20.0, 40.0], "audio_s_per_s": 60.0}
    theirs = {"ms_by_step": [20.0, 60.0, 400.0], "audio_s_per_s": 12.0}
    results = {"w2v": ours, "torchaudio": theirs, "torchaudio-fp32": ours}
    compared = outcome.compare(results, "torchaudio")
    assert compared == {
        "peer": "torchaudio",
        "ratio": 5.0,
        "ratio_paired": 3.0,
        "ratio_fp32": 1.0,
        "ratio_paired_fp32": 1.0,
        "activations_ratio": None,
    }
    assert outcome.compare({"w2v": ours}, "torchaudio")["ratio"] is None, "it did not run"
    by_count = outcome.compare({"w2v": ours, "transformers-as-run": theirs}, "transformers-as-run")
    assert (by_count["ratio"], by_count["ratio_paired"]) == (5.0, None)
