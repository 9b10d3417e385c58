"""The step benchmark: what it promises is there, and both sides do the same work.

Run: pytest tests/benchmarks/test_step_time.py          (several processes: add -m slow)
"""

import dataclasses
import itertools
import json
import random
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

import w2v
from benchmarks import step_time
from benchmarks.common import Speech, covered, draw_speech, group_by_length, model_flops
from benchmarks.peers import build_peer, same_layers_dropped
from recipes import console
from w2v.errors import InputError
from w2v.kernels.torch_private import cpu_has_bf16_products

TINY = ["--model", "tiny", "--device", "cpu", "--clips", "2", "--seconds", "1", "--steps", "2"]
RESULT = {
    "ms_per_step", "ms_min", "ms_max", "ms_by_step", "audio_s_per_s", "stages_ms", "padding", "static_bytes",
    "peak_bytes", "activation_bytes", "model_flop_per_s", "share_of_ceiling", "layers_executed", "precision",
    "ms_back_to_back",
}  # fmt: skip


def run(*flags: str, launcher: tuple[str, ...] = ()) -> dict:
    command = [sys.executable, *launcher, "-m", "benchmarks.step_time", *TINY, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("peer", ["transformers", "torchaudio"])
def test_the_last_line_compares_both_implementations(peer, capsys):
    pytest.importorskip(peer)
    console.run(lambda: step_time.main([*TINY, "--peer", peer, "--precision", "bf16"]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    columns = {"w2v", peer}
    if not cpu_has_bf16_products():  # ours computes in fp32 there, so the peer must do that too
        columns |= {f"{peer}-fp32"}
        assert result["precision"] == "fp32"
        assert result["ratio_fp32"] > 0
    assert set(result["results"]) == columns
    for name, column in result["results"].items():
        assert set(column) == RESULT, name
        assert len(column["ms_by_step"]) == 2
        assert column["audio_s_per_s"] > 0
        assert 0 < column["ms_back_to_back"] < 10 * column["ms_max"]
        assert set(column["stages_ms"]) == {"data", "forward", "backward", "optimiser"}
    assert len({column["layers_executed"] for column in result["results"].values()}) == 1
    assert result["peer"] == peer
    assert result["ratio"] > 0
    assert result["failed"] == {}
    losses = result["losses_with_dropout_off"]
    assert set(losses) == {"w2v, padded", "w2v, packed", peer}
    assert max(losses.values()) - min(losses.values()) <= 1e-4 * max(losses.values())


def test_a_ratio_is_the_median_over_steps():
    ours, theirs = {"ms_by_step": [10.0, 20.0, 40.0]}, {"ms_by_step": [20.0, 60.0, 400.0]}
    compared = step_time.compare({"w2v": ours, "torchaudio": theirs, "torchaudio-fp32": ours}, "torchaudio")
    assert compared == {"peer": "torchaudio", "ratio": 3.0, "ratio_fp32": 1.0, "activations_ratio": None}
    assert step_time.compare({"w2v": ours}, "torchaudio")["ratio"] is None, "it did not run"


def test_each_peer_saves_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    for peer in ("none", "torchaudio"):
        step_time.main([*TINY, "--steps", "1", "--peer", peer, "--save", "cpu"])
    assert {file.name for file in tmp_path.iterdir()} == {"step_time-cpu-none.json", "step_time-cpu-torchaudio.json"}


@pytest.mark.slow
def test_several_processes_report_scaling():
    pytest.importorskip("transformers")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = run("--peer", "transformers", "--checkpointing", "on", launcher=launcher)
    assert set(result["results"]) == {"w2v", "w2v-alone", "transformers"}
    assert result["ranks"] == 2
    assert result["clips_per_step"] == 4
    alone, together = (result["results"][name]["ms_per_step"] for name in ("w2v-alone", "w2v"))
    assert result["scaling_efficiency"] == pytest.approx(alone / together, abs=1e-3)
    assert result["results"]["w2v"]["stages_ms"]["communication"] == pytest.approx(together - alone, abs=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "2", "--batch-seconds", "10"], "give one of them"),
        (["--peer", "fairseq"], "fairseq"),
        (["--peer", "transformers,torchaudio"], "once per peer"),
        (["--peer", "torchaudio", "--checkpointing", "on"], "give --peer transformers"),
        (["--batch-seconds", "0"], "above 0"),
        (["--peer", "none", "--precision", "fp16", "--device", "cpu"], "needs a GPU"),
    ],
)
def test_what_it_refuses(flags, words):
    with pytest.raises(InputError, match=words):
        step_time.main(flags)


@pytest.mark.parametrize("encoder_trained", [False, True])
def test_flops_are_what_torch_counts(encoder_trained):
    """In torchaudio's model, which convolves plainly."""
    # One group: of a grouped convolution's backward pass torch counts every group with every other.
    config = dataclasses.replace(w2v.TINY, layerdrop=0.5, num_conv_pos_embedding_groups=1)
    peer = build_peer("torchaudio", w2v.Wav2Vec2ForCTC(config))
    peer.encoder.requires_grad_(encoder_trained)
    batch = config.collate([torch.randn(50_000).numpy()], [[1, 2, 3]], pad=True)
    with same_layers_dropped(3) as coins, FlopCounterMode(display=False) as counter:
        peer.loss(peer.model, peer.inputs(batch)).backward()
    layers = sum(coin >= 0.5 for coin in coins)
    assert 0 < layers < config.num_hidden_layers
    # The positional convolution makes a frame more than it keeps.
    frame = 3 * 2 * config.hidden_size**2 * config.num_conv_pos_embeddings
    assert model_flops(config, 50_000, layers, encoder_trained) == counter.get_total_flops() - frame


def test_all_leave_out_the_same_layers():
    pytest.importorskip("transformers")
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=8, layerdrop=0.4, ctc_loss_reduction="mean")
    model = w2v.Wav2Vec2ForCTC(config).train()
    waveforms = [torch.randn(16_000).numpy(), torch.randn(12_000).numpy()]
    batch = config.collate(waveforms, [[1, 2], [3]], pad=True)
    theirs, torchaudios = build_peer("transformers", model), build_peer("torchaudio", model)
    sides = {
        "w2v": (model.wav2vec2.encoder.layers, lambda: model(batch)),
        "transformers": (theirs.model.wav2vec2.encoder.layers, lambda: theirs.loss(theirs.model, theirs.inputs(batch))),
        "torchaudio": (
            torchaudios.model.encoder.transformer.layers,
            lambda: torchaudios.loss(torchaudios.model, torchaudios.inputs(batch)),
        ),
    }
    executed: list[tuple[str, int]] = []
    for name, (layers, _) in sides.items():
        for i, layer in enumerate(layers):
            layer.register_forward_hook(lambda *_, name=name, i=i: executed.append((name, i)))
    for number in range(5):
        executed.clear()
        for _, forward in sides.values():
            with same_layers_dropped(number) as coins:
                forward()
        kept = [i for i, coin in enumerate(coins) if coin >= 0.4]
        assert executed == [(name, i) for name in sides for i in kept]


def test_batches_are_grouped_by_length():
    rng = random.Random(1)
    durations = [rng.uniform(1, 10) for _ in range(8 * 200)]
    batches = group_by_length(durations, 8, None, rng)
    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
    for first in range(0, 200, 50):  # mega-batches, each from long to short
        in_order = [durations[i] for batch in batches[first : first + 50] for i in batch]
        assert in_order == sorted(in_order, reverse=True)

    batches = group_by_length(durations, 8, 40.0, rng)
    sizes = [sum(durations[i] for i in batch) for batch in batches]
    assert min(sizes) > 30
    assert max(sizes) <= 40
    padded = sum(len(batch) * durations[batch[0]] for batch in batches)
    assert sum(sizes) > 0.95 * padded
    assert all(len(batch) == 1 for batch in group_by_length(durations, 1, 0.5, rng)), "at least one clip"


def test_ranks_step_through_batches_alike():
    ranks = [draw_speech("common-voice", None, None, 30.0, 3, rank, 2) for rank in (0, 1)]
    for mine, others in zip(*(speech.batches for speech in ranks), strict=True):
        seconds = [sum(speech.samples(batch)) / 16_000 for speech, batch in zip(ranks, (mine, others), strict=True)]
        assert all(24 < s <= 30 for s in seconds)
        longest = [max(speech.samples(batch)) for speech, batch in zip(ranks, (mine, others), strict=True)]
        assert max(longest) < 1.2 * min(longest)
    assert not (ranks[0].audio[ranks[0].clips[0]][:1000] == ranks[1].audio[ranks[1].clips[0]][:1000]).all()
    uniform = draw_speech("uniform", 2.0, 3, None, 2)
    assert [clip.samples for clip in uniform.clips] == [32_000] * 6
    scaled = draw_speech("common-voice", 2.0, 4, None, 50)
    assert scaled.seconds / len(scaled.clips) == pytest.approx(2.0, rel=0.05)


def test_a_gpu_warms_up_on_one_batch_of_each_kind_of_graph():
    speech, noise = Speech(), np.random.default_rng(0)
    for durations in ([1.0, 0.9], [1.1, 1.0], [2.0], [1.0, 1.0], [1.2, 0.8], [5.4, 5.0], [0.5]):
        speech.add_batch(durations, noise)
    first = [speech.batches[i] for i in (0, 2, 3, 5, 6)]  # padded, alone, unpadded, of 64 labels, alone of 6 labels
    assert step_time.warm_up_batches(speech, torch.device("cuda")) == first
    assert step_time.warm_up_batches(speech, torch.device("cpu")) == speech.batches[:1]


def test_steps_back_to_back_are_all_taken_and_divided_by_their_number(monkeypatch):
    taken = []
    batches, clock = [[0], [1], [2], [3]], itertools.count(5.0, 2.0)
    column = mock.Mock(step=lambda inputs, number, clock: taken.append(number), loader=iter([{}] * 4))
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(step_time, "StageClock", lambda device: None)  # it reads the same clock
    assert step_time.ms_back_to_back(column, batches, torch.device("cpu")) == 500.0  # 2 s over 4 steps
    assert taken == [0, 1, 2, 3]


def test_overlapping_intervals_count_once():
    assert covered([(3, 4), (0, 2), (1, 2.5), (1.2, 1.4), (4, 5)]) == 4.5
    assert covered([]) == 0
