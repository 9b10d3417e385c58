"""The step benchmark: what it promises is there, and both sides do the same work.

Run: pytest tests/benchmarks/test_step_time.py          (several processes: add -m slow)
"""

import dataclasses
import gzip
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
from benchmarks import measuring, step_time
from benchmarks.columns import Work
from benchmarks.common import Speech, covered, draw_speech, group_by_length, memory_rate
from benchmarks.flops import wav2vec2_flops
from benchmarks.peer_step import same_layers_dropped
from benchmarks.peers import build_peer, check_peer, precisions_of
from benchmarks.subjects import Subject, build_subject, whisper_tokenizer
from benchmarks.training_columns import losses_with_dropout_off
from recipes import console
from w2v.errors import InputError
from w2v.kernels.torch_private import cpu_has_bf16_products
from w2v.models.families import FAMILIES, shapes
from w2v.models.whisper_config import WhisperConfig

CPU = torch.device("cpu")
TINY = ["--model", "tiny", "--device", "cpu", "--clips", "2", "--seconds", "1", "--steps", "2"]
RESULT = {
    "ms_per_step", "ms_median", "ms_min", "ms_max", "ms_by_step", "audio_s_per_s", "speech_seconds", "stages_ms",
    "padding", "static_bytes", "peak_bytes", "activation_bytes", "model_flop_per_s", "share_of_ceiling",
    "layers_executed", "precision", "ms_back_to_back",
}  # fmt: skip
SMALL_WHISPER = WhisperConfig(
    d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=100, eos_token_id=50257,
)  # fmt: skip


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


def agrees(result: dict) -> None:
    """A column's rate, its mean time and its stages come from the same sums."""
    for name, column in result["results"].items():
        speech = column["audio_s_per_s"] * column["ms_per_step"] / 1000 * result["steps"]
        assert speech == pytest.approx(column["speech_seconds"], rel=2e-3), name
        assert sum(column["stages_ms"].values()) == pytest.approx(column["ms_per_step"], abs=0.05), name
        assert min(column["ms_by_step"]) <= column["ms_median"] <= max(column["ms_by_step"])


@pytest.fixture
def families(monkeypatch) -> dict[str, str]:
    """A small model's name by family."""
    monkeypatch.setitem(FAMILIES["whisper"].shapes, "whisper-smallest", SMALL_WHISPER)
    return {"wav2vec2": "tiny", "wav2vec2-bert": "w2v-bert-tiny", "whisper": "whisper-smallest"}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("what", ["step", "inference", "evaluation"])
def test_every_family_is_timed_beside_transformers(family, what, families):
    pytest.importorskip("transformers")
    flags = ["--model", f"random:{families[family]}", "--what", what, "--precision", "fp32", "--peer", "transformers"]
    result = step_time.main([*TINY, *flags])
    assert result["failed"] == {} and result["model"] == families[family] and result["what"] == what
    assert set(result["results"]) == {"w2v", "transformers"}
    stages = {"step": {"data", "forward", "backward", "optimiser"}, "inference": {"data", "forward"}}
    for name, column in result["results"].items():
        assert set(column) == RESULT, name
        assert set(column["stages_ms"]) == stages.get(what, {"data", "hearing"})
        hears = what != "step"
        assert (column["model_flop_per_s"] is None) == (family == "whisper" and hears)
        assert (column["padding"] is None) == (what == "evaluation")
    agrees(result)
    losses = result["losses_with_dropout_off"]
    assert set(losses) == {"transformers", "w2v, padded"} | ({"w2v, packed"} if family != "whisper" else set())
    assert max(losses.values()) - min(losses.values()) <= 1e-4 * max(losses.values())
    if what == "evaluation":
        assert result["texts_equal"].endswith(" of 4")
        if family == "whisper":  # of CTC's, transformers writes what it hears in padding too
            assert result["texts_equal"] == "4 of 4"


def test_the_peer_as_people_run_it_takes_the_same_clips_by_count(families, monkeypatch):
    pytest.importorskip("transformers")
    seen = {}
    real = step_time.warm_up

    def warm_up(columns, work, device):
        seen.update({column.name: column for column in columns})
        return real(columns, work, device)

    monkeypatch.setattr(step_time, "warm_up", warm_up)
    flags = ["--clips", "3", "--steps", "4", "--peer", "transformers-as-run", "--precision", "fp32"]
    result = step_time.main([*TINY, *flags])
    agrees(result)
    ours, theirs = seen["w2v"], seen["transformers-as-run"]
    assert sorted(i for batch in theirs.batches for i in batch) == sorted(i for batch in ours.batches for i in batch)
    assert theirs.batches != ours.batches and [len(batch) for batch in theirs.batches] == [3] * 4
    columns = result["results"]
    assert columns["w2v"]["speech_seconds"] == columns["transformers-as-run"]["speech_seconds"]
    assert columns["transformers-as-run"]["padding"] > columns["w2v"]["padding"]
    rates = [columns[name]["audio_s_per_s"] for name in ("w2v", "transformers-as-run")]
    assert result["ratio"] == pytest.approx(rates[0] / rates[1], abs=1e-3)
    assert result["ratio_paired"] is None, "its batches are others"
    assert theirs.model.config._attn_implementation == "eager"
    assert theirs.model.is_gradient_checkpointing
    assert any("fp16" in note for note in result["notes"])


def test_what_each_peer_computes_in():
    assert precisions_of("transformers-as-run", "bf16", "bf16", torch.device("cuda")) == ["fp16"]
    assert precisions_of("transformers-as-run", "bf16", "fp32", CPU) == ["fp32"]
    assert precisions_of("transformers", "bf16", "fp32", CPU) == ["bf16", "fp32"]
    assert precisions_of("torchaudio", "bf16", "bf16", torch.device("cuda")) == ["bf16"]


def test_peers_that_cannot_run_here_are_refused_in_one_line(monkeypatch):
    xlsr, bert, gpu = shapes()["xlsr-53"][1], shapes()["w2v-bert-2.0"][1], torch.device("cuda")
    installed = {"transformers", "torchaudio"}
    monkeypatch.setattr("benchmarks.peers.find_spec", lambda name: name in installed or None)
    check_peer("transformers", bert, CPU, "fp32")
    for peer, config, device, precision, words in [
        ("torchaudio", bert, CPU, "fp32", "wav2vec 2.0 only"),
        ("transformers-flash", bert, gpu, "bf16", "W2V-BERT is none"),
        ("transformers-flash", xlsr, gpu, "bf16", "needs flash_attn, which is not installed"),
    ]:
        with pytest.raises(InputError, match=words):
            check_peer(peer, config, device, precision)
    installed.add("flash_attn")
    check_peer("transformers-flash", xlsr, gpu, "bf16")
    with pytest.raises(InputError, match="needs a GPU and bf16 or fp16"):
        check_peer("transformers-flash", xlsr, gpu, "fp32")
    installed.clear()
    with pytest.raises(InputError, match="needs torchaudio, which is not installed; pip install torchaudio"):
        check_peer("torchaudio", xlsr, CPU, "fp32")


def test_profiles_are_written_where_they_are_asked_for(tmp_path):
    folder = tmp_path / "new" / "profile"
    result = step_time.main([*TINY, "--steps", "1", "--peer", "torchaudio", "--profile", str(folder)])
    names = [f"{kind}-{name}" for name in result["results"] for kind in ("trace", "kernels")]
    assert len(result["profiles"]) == len(names)
    for file in result["profiles"]:
        assert file.startswith(tuple(names)) and (folder / file).stat().st_size > 100
    with gzip.open(folder / "trace-w2v.json.gz") as file:
        assert json.load(file)["traceEvents"]


def test_each_peer_saves_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    for peer in ("none", "torchaudio"):
        step_time.main([*TINY, "--steps", "1", "--peer", peer, "--save", "cpu"])
    step_time.main([*TINY, "--steps", "1", "--what", "inference", "--save", "cpu"])
    names = {"step_time-cpu-none.json", "step_time-cpu-torchaudio.json", "step_time-cpu-inference-none.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    saved = json.loads((tmp_path / "step_time-cpu-torchaudio.json").read_text())
    assert saved["memory_bytes_per_s"] > 1e8 and saved["matmul_ceiling_flop_per_s"] > 1e8
    assert {"load", "gpu_state", "gpu_state_after", "torch"} <= set(saved["machine"])


@pytest.mark.slow
def test_several_processes_report_scaling():
    pytest.importorskip("transformers")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = run("--peer", "transformers", "--checkpointing", "on", launcher=launcher)
    assert set(result["results"]) == {"w2v", "w2v-alone", "transformers"}
    assert result["ranks"] == 2
    assert result["clips_per_step"] == 4
    agrees(result)
    alone, together = (result["results"][name] for name in ("w2v-alone", "w2v"))
    assert result["scaling_efficiency"] == pytest.approx(alone["ms_per_step"] / together["ms_per_step"], abs=1e-3)
    rates = together["audio_s_per_s"] / (2 * alone["audio_s_per_s"])
    assert result["scaling_efficiency"] == pytest.approx(rates, rel=5e-3)
    assert together["communication_ms"] == pytest.approx(together["ms_per_step"] - alone["ms_per_step"], abs=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "2", "--batch-seconds", "10"], "give one of them"),
        (["--peer", "fairseq"], "fairseq"),
        (["--peer", "transformers,torchaudio"], "once per peer"),
        (["--peer", "torchaudio", "--checkpointing", "on"], "give --peer transformers"),
        (["--batch-seconds", "0"], "above 0"),
        (["--peer", "none", "--precision", "fp16", "--device", "cpu"], "needs a GPU"),
        (["--model", "xlsr-54"], "--model must be one of xlsr-53, .*whisper-base.*got 'xlsr-54'"),
        (["--model", "whisper-base", "--peer", "torchaudio", "--device", "cpu"], "wav2vec 2.0 only"),
        (["--what", "evaluation", "--peer", "torchaudio"], "writes text"),
        (["--what", "inference", "--checkpointing", "on"], "trains nothing"),
        (["--what", "inference", "--model", "whisper-base", "--peer", "transformers-compiled"], "one by one"),
        (["--what", "inference", "--against", "HEAD"], "as one process"),
        (["--model", "w2v-bert-tiny", "--device", "cpu", "--train-feature-encoder"], "is for wav2vec 2.0"),
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
    assert wav2vec2_flops(config, 50_000, layers, encoder_trained) == counter.get_total_flops() - frame
    peer.model.eval()
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # the others are not counted on a CPU
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        peer.hear(peer.inputs(batch))
    forward = wav2vec2_flops(config, 50_000, config.num_hidden_layers, encoder_trained, trains=False)
    assert forward == counter.get_total_flops() - frame // 3


def test_losses_that_differ_are_refused():
    speech, subject = draw_speech("uniform", 1.0, 2, None, 1), build_subject("tiny")
    peer = build_peer("torchaudio", subject.model)
    work, exact = Work("step", subject, speech), peer.loss
    assert len(losses_with_dropout_off(work, peer, CPU)) == 3
    peer.loss = lambda net, inputs: exact(net, inputs) * 1.0002
    with pytest.raises(InputError, match="the losses must agree before timing"):
        losses_with_dropout_off(work, peer, CPU)
    peer.name = "transformers-flash"  # which rounds to half precision
    losses_with_dropout_off(work, peer, CPU)
    assert subject.model.training and peer.model.training


@pytest.mark.parametrize(("name", "prompt"), [("whisper-large-v3", 3), ("whisper-tiny.en", 1)])
def test_whisper_writes_ids_of_its_whole_vocabulary(name, prompt):
    """Labels begin with language, task and notimestamps, where there are any, and end with the end."""
    config = shapes()[name][1]
    tokenizer = whisper_tokenizer(config)
    config.check_vocabulary(tokenizer, "DIR")
    subject = Subject(None, tokenizer)
    labels = subject.label(10.0, np.random.default_rng(0))
    assert labels[:prompt] == tokenizer.prompt()[1:] and labels[-1] == tokenizer.eos_id
    assert len(labels) == prompt + 30 + 1 and max(labels[prompt:-1]) < tokenizer.eos_id
    assert config.why_not(160_000, labels) is None
    text = tokenizer.decode(labels)
    assert len(text) > 30 and text.isprintable()


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
    for number in (None, *range(5)):
        executed.clear()
        for _, forward in sides.values():
            with same_layers_dropped(number) as coins:
                forward()
        assert number is not None or min(coins) == 1.0, "none is dropped"
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
    assert measuring.warm_up_batches(speech.batches, speech, torch.device("cuda")) == first
    assert measuring.warm_up_batches(speech.batches, speech, CPU) == speech.batches[:1]


def test_a_warm_up_takes_its_own_batches_without_dropping_layers(monkeypatch):
    """So that no measured step finds a graph missing; the order of reading is that of all steps to come."""
    speech, noise, taken = Speech(), np.random.default_rng(0), []
    for durations in ([1.0, 0.9], [1.1, 1.0], [2.0]):
        speech.add_batch(durations, noise)
    column = mock.Mock(batches=speech.batches, records=[])
    monkeypatch.setattr(measuring, "take_step", lambda *args, **how: taken.append((args[1:3], how)))
    work = mock.Mock(speech=speech)
    assert measuring.warm_up([column], work, torch.device("cuda")) == {}
    assert taken == [((0, [0, 1]), {"drops": False}), ((1, [4]), {"drops": False})]
    order, _ = column.load.call_args.args
    assert order == [[0, 1], [4], *speech.batches, *speech.batches, *[[0, 1]] * measuring.AFTERWARDS]


def test_a_peer_that_fails_leaves_and_ours_does_not(monkeypatch):
    speech = Speech()
    speech.add_batch([1.0], np.random.default_rng(0))
    ours, theirs = mock.Mock(batches=speech.batches), mock.Mock(batches=speech.batches)
    work = mock.Mock(speech=speech)
    work.subject.model = ours.model
    columns, fails = [ours, theirs], {theirs}

    def take(column, *_, **__):
        if column in fails:
            raise RuntimeError("no kernel\nand more")

    monkeypatch.setattr(measuring, "take_step", take)
    theirs.name = "transformers"
    assert measuring.warm_up(columns, work, CPU) == {"transformers": "no kernel"}
    assert columns == [ours]
    fails.add(ours)
    with pytest.raises(RuntimeError, match="no kernel"):
        measuring.warm_up(columns, work, CPU)


def test_steps_back_to_back_are_all_taken_and_divided_by_their_number(monkeypatch):
    taken, clock = [], itertools.count(5.0, 2.0)
    column = mock.Mock(step=lambda inputs, number, clock: taken.append(number), loader=iter([{}] * 4))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(measuring, "StageClock", lambda device: None)  # it reads the same clock
    assert measuring.ms_back_to_back(column, 4, CPU) == 500.0  # 2 s over 4 steps
    assert taken == [0, 1, 2, 3]


def test_the_memory_rate_counts_what_is_read_and_what_is_written(monkeypatch):
    monkeypatch.setattr("benchmarks.common.COPIED", {"cpu": 4000})
    clock = itertools.count(0.0, 1.0)  # each look at it takes a second
    monkeypatch.setattr("benchmarks.common.time.perf_counter", lambda: next(clock))
    assert memory_rate(CPU) == 8000.0


def test_overlapping_intervals_count_once():
    assert covered([(3, 4), (0, 2), (1, 2.5), (1.2, 1.4), (4, 5)]) == 4.5
    assert covered([]) == 0
