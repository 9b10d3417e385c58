"""A GPU's code and counts without a GPU: what is counted is there, and a change that costs a launch is seen.

Run: pytest tests/benchmarks/test_offline.py          (whole rows: add --long)
"""

import dataclasses
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

pytest.importorskip("triton")
from benchmarks import offline, roofline
from benchmarks.flops import wav2vec2_flops
from benchmarks.generated import CARDS, generating, gpu_ways, inductor_kernels
from recipes import console
from recipes.presets import BLOG_MODEL
from w2v.errors import InputError
from w2v.kernels.torch_private import compile_modules
from w2v.models.wav2vec2_config import XLSR_53

H100 = CARDS["h100"]


class Layer(nn.Module):
    """A product between a norm and a GELU."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(64), nn.Linear(64, 128)

    def forward(self, x):
        return F.gelu(self.linear(self.norm(x)))


def code_of(build, *shapes: tuple[int, ...], card=H100):
    with FakeTensorMode(), gpu_ways(card), generating(card) as made:
        compile_modules([module := build()], True)
        for shape in shapes:
            with torch.autocast("cpu", torch.bfloat16):
                out = module(torch.empty(shape, dtype=torch.bfloat16, requires_grad=True))
            out.sum().backward()
    return made


def test_the_code_is_a_gpu_s():
    forward, backward = code_of(Layer, (512, 64))
    assert (forward.backward, backward.backward) == (False, True)
    kinds = [launch.kind for launch in forward.launches]
    assert kinds.count("product") == 1 and kinds.count("triton") == 4, "norm, casts of weight and bias, GELU"
    assert backward.count("product") == 2
    assert "async_compile.triton" in forward.source and "async_compile.cpp" not in forward.source
    assert re.search(r"DeviceProperties\(type='cuda', index=0, multi_processor_count=132, cc=90", forward.source)
    half = 512 * 64 * 2 + 128 * 64 * 2 + 128 * 2 + 512 * 128 * 2  # a product's operands and result, in bytes
    assert half < forward.bytes < 4 * half


def test_lengths_share_a_graph_unless_the_code_cannot():
    assert len(code_of(Layer, (512, 64), (8000, 64), (3, 64))) == 2, "a forward and a backward graph"
    assert len(code_of(Layer, (512, 64), (1, 64))) == 4, "a size of 1 is a constant to torch.compile"


def test_what_a_norm_sums_makes_no_guard_on_the_number_of_frames(monkeypatch):
    """By default torch's fused sums are for at least 5,120 frames of 1,024 channels: a smaller batch compiles anew."""

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(1024)

        def forward(self, x):
            return self.norm(x)

    assert len(code_of(Norm, (8000, 1024), (100, 1024))) == 2
    from torch._inductor import config as inductor

    patched = inductor.patch({"triton.mix_order_reduction_non_strict_mode": False})
    monkeypatch.setattr("test_offline.compile_modules", lambda modules, on: modules[0].compile(dynamic=True))
    with patched:
        assert len(code_of(Norm, (8000, 1024), (100, 1024))) == 4


def test_a_layer_of_xlsr_53_launches_no_more_than_it_did():
    made = offline.layer_code("xlsr-53", H100)
    assert [graph.backward for graph in made] == [False, True]
    assert sum(graph.count() for graph in made) <= 47
    assert [graph.count("product") for graph in made] == [4, 8], "one product for q, k and v"
    assert [graph.count("attention") for graph in made] == [1, 3]
    try:
        found = inductor_kernels(made[0], H100)
    except InputError as missing:
        pytest.skip(str(missing))
    assert len(found) == len(set(re.findall(r"triton_\w+(?=\.run)", made[0].source)))
    assert all(0 < kernel.registers <= 255 and not kernel.spilled for kernel in found)


@pytest.mark.parametrize("model", offline.MODELS)
def test_nothing_in_a_step_is_read_back(model):
    assert offline.read_back_of(model) == ""


def test_a_read_back_is_found_and_named(monkeypatch):
    from w2v.models import ctc_answers

    losses = ctc_answers.losses

    def reads_back(out, batch):
        assert out.logits.sum() > 0
        return losses(out, batch)

    monkeypatch.setattr(ctc_answers, "losses", reads_back)
    assert "local_scalar_dense" in offline.read_back_of("xlsr-53")
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(1).item()


def test_parts_add_up_to_the_model_s_operations():
    """Every product of the definition and no padding; the positional convolution goes through Fourier transforms."""
    waveforms = [np.zeros(n, np.int16) for n in (48_000, 80_000)]
    config = dataclasses.replace(XLSR_53, **BLOG_MODEL)
    batch = XLSR_53.collate(waveforms, [[1, 2, 3]] * 2)
    parts = roofline.least_times("xlsr-53", batch, "bf16", H100)
    wanted = sum(wav2vec2_flops(config, len(w), config.num_hidden_layers, False) for w in waveforms)
    assert sum(part.flop for part in parts) == pytest.approx(wanted, rel=0.1)
    assert {part.stage for part in parts} == {"forward", "backward", "optimiser"}
    for part in parts:
        fastest = max(part.flop / H100.product_rate, part.bytes / H100.memory_rate)
        both = part.flop / H100.product_rate + part.bytes / H100.memory_rate
        assert fastest * 0.999 <= part.seconds <= both * 1.001
    trained = 311e6  # parameters; the convolutions are frozen
    assert parts[-1].bytes == pytest.approx(32 * trained, rel=0.01)


def test_between_products_each_result_is_read_once_and_each_input_written_once():
    """x -> product -> GELU -> product: the GELU reads the first's result and writes the second's input."""
    with FakeTensorMode():
        first, second, x = nn.Linear(64, 128, bias=False), nn.Linear(128, 32, bias=False), torch.empty(10, 64)
        trace = roofline.Trace(_model(), [], H100)
        with trace.tracker, trace.stage("forward"), torch.no_grad():
            second(F.gelu(first(x)) * 2)
    found = {part.name: part for part in trace.parts()}
    assert found["rest, between"].bytes == 2 * 10 * 128 * 4
    assert found["rest, products"].flop == 2 * 10 * (64 * 128 + 128 * 32)
    assert found["rest, products"].bytes == 4 * (10 * 64 + 64 * 128 + 10 * 128 + 10 * 128 + 128 * 32 + 10 * 32)


def _model():
    with roofline.step_without_numbers("tiny", H100, "fp32") as (step, _):
        return step.model


@pytest.mark.parametrize("model", ["w2v-bert-2.0", "whisper-base"])
def test_the_floor_of_other_families(model, capsys):
    console.run(lambda: roofline.main(["--model", model, "--batch-seconds", "30", "--card", "a100"]))
    said = capsys.readouterr()
    assert re.search(r"backward layers, products +\d", said.err) and '"least_ms":' in said.out


def test_graphs_of_a_few_batches(monkeypatch):
    """The lone clip of step 1 makes none: the trial had one."""
    monkeypatch.setattr(offline, "HEAD_WARMUP_STEPS", 2)
    monkeypatch.setattr(offline, "EVALUATE_EVERY", 1)
    sizes = ([32_000, 48_000], [20_000], [64_000, 80_000, 96_000], [700_000] * 3)
    batches = [XLSR_53.collate([np.zeros(n, np.int16) for n in each], [[1, 2]] * len(each)) for each in sizes]
    made = offline.graphs_by_step("xlsr-53", batches)
    assert made == {"the trial": 1, "step 0": 1, "step 1": 0, "step 2": 0, "step 3": 0}, "step 0 trains the head alone"


@pytest.mark.long
@pytest.mark.parametrize("row", ["launches", "floors", "registers", "read-backs"])
def test_rows(row, capsys):
    console.run(lambda: offline.main([f"--{row}"]))
    assert '"holds": true' in capsys.readouterr().out
