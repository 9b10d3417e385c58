"""The peers do the same work as ours, and are refused where they cannot.

Run: pytest tests/benchmarks/test_peers.py
"""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import w2v
from benchmarks.columns import Work
from benchmarks.flops import wav2vec2_flops
from benchmarks.peer_step import same_layers_dropped
from benchmarks.peers import build_peer, check_peer, precisions_of
from benchmarks.speech import draw_speech
from benchmarks.subjects import build_subject, tokenizer_for
from benchmarks.training_columns import losses_with_dropout_off
from w2v.errors import InputError
from w2v.models.families import shapes

CPU = torch.device("cpu")


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
    speech, subject = draw_speech("uniform", 1.0, 2, None, 1), build_subject("tiny", tokenizer_for("tiny"))
    peer = build_peer("torchaudio", subject.model)
    work, exact = Work("step", subject, speech), peer.loss
    assert len(losses_with_dropout_off(work, peer, CPU)) == 3
    peer.loss = lambda net, inputs: exact(net, inputs) * 1.0002
    with pytest.raises(InputError, match="the losses must agree before timing"):
        losses_with_dropout_off(work, peer, CPU)
    peer.name = "transformers-flash"  # which rounds to half precision
    losses_with_dropout_off(work, peer, CPU)
    assert subject.model.training and peer.model.training


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
