"""Compiled layers = eager layers, and one graph for batches of any number and length of clips.

Run: pytest tests/models/test_compiled.py           (the compiler itself takes a minute: -m slow)
"""

import copy
import dataclasses
import shutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import w2v
import w2v.kernels.attention
from w2v.layout import Packed, Padded
from w2v.models import w2v_bert
from w2v.models.wav2vec2 import EncoderLayer
from w2v.training.compile import compile_layers, eagerly, layers_of


@torch._dynamo.config.patch(specialize_float=True)  # as compile_layers sets it
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert"])
def test_on_a_gpu_every_layer_and_batch_shares_one_graph(family, half, monkeypatch):
    """Traced with tensors that only claim to be on a GPU: no graph break, no second graph, FlashAttention in bf16.

    Scores that know distances are numbers which FlashAttention does not take.
    """
    kind, config = {"wav2vec2": (EncoderLayer, w2v.XLSR_53), "wav2vec2-bert": (w2v_bert.EncoderLayer, w2v.W2V_BERT_2)}[
        family
    ]
    answer = torch.compiler.assume_constant_result(lambda device: True)
    monkeypatch.setattr(w2v.kernels.attention, "_is_ampere_or_later", answer)
    torch._dynamo.reset()
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    dtype = torch.bfloat16 if half else torch.float32
    before = torch.get_default_dtype()
    with FakeTensorMode(), torch.no_grad():
        try:
            torch.set_default_dtype(dtype)
            with torch.device("cuda"):
                layers = [kind(config) for _ in range(2)]
        finally:
            torch.set_default_dtype(before)
        layers = [torch.compile(layer, backend=compiler, dynamic=True, fullgraph=True) for layer in layers]
        for lengths in ([30, 20, 5], [60, 50, 7, 8], [99, 3]):
            indices = [torch.empty(sum(lengths), dtype=torch.long, device="cuda") for _ in range(2)]
            offsets = torch.empty(len(lengths) + 1, dtype=torch.int32, device="cuda")
            layout = Packed(lengths, max(lengths), *indices, offsets)
            x = torch.empty(1, sum(lengths), 1024, device="cuda", dtype=dtype)
            for layer in layers:
                assert layer(x, layout).shape == x.shape
    assert len(graphs) == 1
    targets = {node.target for node in graphs[0].graph.nodes}
    assert (torch.ops.aten._flash_attention_forward in targets) == (half and family == "wav2vec2")


@torch._dynamo.config.patch(specialize_float=True)
def test_padded_batches_on_a_gpu_share_one_graph_too():
    """Group-norm models: rows of any number and length."""
    torch._dynamo.reset()
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            layers = [EncoderLayer(w2v.BASE) for _ in range(2)]
        layers = [torch.compile(layer, backend=compiler, dynamic=True, fullgraph=True) for layer in layers]
        for clips, frames in ((3, 30), (4, 60), (2, 99)):
            layout = Padded.of(torch.empty(clips, dtype=torch.long, device="cuda"), frames)
            x = torch.empty(clips, frames, 768, device="cuda")
            for layer in layers:
                assert layer(x, layout).shape == x.shape
    assert len(graphs) == 1


def test_evaluation_runs_compiled_layers_as_they_are_written(small_config):
    """Evaluation in another precision and on other lengths would make graphs of its own, and can fail where training
    did not."""
    torch._dynamo.reset()
    graphs = []

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    model = w2v.Wav2Vec2ForCTC(small_config).eval()
    waveforms = [torch.randn(16_000).numpy()]
    for layer in layers_of(model):
        layer.compile(backend=compiler)
    with torch.no_grad(), eagerly(model):
        wanted = model(small_config.collate(waveforms)).logits
    assert not graphs
    with torch.no_grad():
        torch.testing.assert_close(model(small_config.collate(waveforms)).logits, wanted)
    assert graphs, "outside they are compiled"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_equals_eager(small_config):
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, num_hidden_layers=4, layerdrop=0.3)).train()
    model.parts.stacks[0].checkpointing = True
    compiled = copy.deepcopy(model)
    compile_layers(compiled, True)
    for seconds in ((1.0, 1.7), (2.1, 0.9)):
        waveforms = [torch.randn(int(s * 16_000)).numpy() for s in seconds]
        batch = small_config.collate(waveforms, [[1, 2, 2, 3]] * len(seconds))
        results = []
        for each in (model, compiled):
            torch.manual_seed(7)  # the same layers dropped
            each.zero_grad()
            loss = w2v.ctc_loss(each(batch), batch.labels, batch.label_lengths)
            loss.backward()
            results.append((loss, {n: p.grad for n, p in each.named_parameters() if p.grad is not None}))
        (wanted, wanted_gradients), (loss, gradients) = results
        torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
        assert set(gradients) == set(wanted_gradients)
        for name, gradient in wanted_gradients.items():
            if not name.endswith("k_proj.bias"):
                assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    compile_layers(compiled, False)
    assert all(layer._compiled_call_impl is None for layer in compiled.wav2vec2.encoder.layers)
