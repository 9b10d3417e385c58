"""MMS: per-language adapters and heads, in transformers' files.

Run: pytest tests/weights/test_adapters.py
"""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config as PeerConfig
from transformers import Wav2Vec2ForCTC as PeerForCTC

import w2v
from w2v.errors import InputError


@pytest.fixture
def config(small_config):
    return dataclasses.replace(small_config, adapter_attn_dim=16)


@pytest.fixture
def peer(config, tmp_path):
    """transformers' model in tmp_path/mms, with another language's adapter beside it."""
    torch.manual_seed(0)
    theirs = PeerForCTC(PeerConfig(**dataclasses.asdict(config)))
    theirs.save_pretrained(tmp_path / "mms")
    other = {name: torch.randn_like(value) * 0.1 for name, value in theirs._get_adapters().items()}
    other["lm_head.weight"], other["lm_head.bias"] = torch.randn(47, 128) * 0.1, torch.randn(47)
    save_file({k: v.contiguous() for k, v in other.items()}, tmp_path / "mms" / "adapter.tur.safetensors")
    return tmp_path / "mms"


def test_swapped_adapter_gives_the_peers_logits(peer):
    theirs = PeerForCTC.from_pretrained(peer, target_lang="tur", ignore_mismatched_sizes=True).eval()
    ours = w2v.Wav2Vec2ForCTC.from_pretrained(peer)
    waveforms = torch.randn(1, 16_000)
    with torch.no_grad():
        before = ours(waveforms).logits
        ours.load_adapter(peer / "adapter.tur.safetensors")
        after = ours(waveforms).logits
        assert after.shape[-1] == ours.config.vocab_size == 47 != before.shape[-1]
        torch.testing.assert_close(after, theirs(waveforms).logits, atol=2e-5, rtol=0)


def test_mms_folder_with_a_nested_vocabulary(peer):
    """w2v.load(..., target_lang=): that language's characters, adapters and head."""
    vocabs = {
        lang: {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *chars])}
        for lang, chars in (("eng", [chr(97 + i) for i in range(27)]), ("tur", [chr(0x100 + i) for i in range(42)]))
    }
    (peer / "vocab.json").write_text(json.dumps(vocabs))
    (peer / "tokenizer_config.json").write_text(
        json.dumps({"target_lang": "eng", "pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"})
    )
    turkish = w2v.load(peer, target_lang="tur")
    assert len(turkish.tokenizer) == turkish.model.config.vocab_size == 47
    assert len(w2v.load(peer).tokenizer) == 32
    assert len(turkish.transcribe([torch.randn(16_000)])) == 1
    with pytest.raises(InputError, match="`target_lang` must be a language"):
        w2v.load(peer, target_lang="xyz")


def test_saved_adapter_is_read_by_both(peer, tmp_path):
    ours = w2v.Wav2Vec2ForCTC.from_pretrained(peer)
    ours.load_adapter(peer / "adapter.tur.safetensors")
    assert not ours.lm_head.training  # the head of another size is evaluated as the model is
    ours.save_adapter(tmp_path / "again.safetensors")
    one, two = load_file(peer / "adapter.tur.safetensors"), load_file(tmp_path / "again.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_only_adapters_and_head_learn(config):
    model = w2v.Wav2Vec2ForCTC(config)
    model.train_adapters_only()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if ".adapter_layer." in n or n.startswith("lm_head.")}
    model.train()(torch.randn(1, 16_000)).logits.sum().backward()
    assert all((p.grad is not None) == (name in trained) for name, p in model.named_parameters())
    with pytest.raises(InputError, match="MMS"):
        w2v.Wav2Vec2ForCTC(w2v.TINY).train_adapters_only()


def test_new_adapters_on_a_body_without_any(small_config, tmp_path):
    """Any pre-LayerNorm body can be given adapters; they start like transformers' own, close to the identity."""
    body = w2v.Wav2Vec2ForCTC(small_config).eval()
    body.save_pretrained(tmp_path)
    model = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path, adapter_attn_dim=16, new_adapters=True)
    adapter = model.wav2vec2.encoder.layers[0].adapter_layer
    assert 0.01 < adapter.linear_1.weight.std() < 0.03
    assert (adapter.norm.weight == 1).all()
    assert (adapter.linear_2.bias == 0).all()
    with pytest.raises(InputError, match=r"missing .*adapter_layer"):
        w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path, adapter_attn_dim=16)


def test_what_a_file_lacks_is_drawn_though_adapters_are_new_too(small_config, tmp_path):
    """torchaudio's layout cannot hold the mask embedding: it must not stay as the memory was."""
    w2v.Wav2Vec2ForCTC(small_config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["wav2vec2.masked_spec_embed"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path, adapter_attn_dim=16, new_adapters=True)
    embedding = model.wav2vec2.masked_spec_embed
    assert ((embedding >= 0) & (embedding < 1)).all()
    assert embedding.std() > 0.2, "U(0, 1)"


def test_adapter_for_another_width_is_refused(peer, small_config):
    other = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, adapter_attn_dim=8))
    with pytest.raises(InputError, match="wrong shape"):
        other.load_adapter(peer / "adapter.tur.safetensors")
    with pytest.raises(InputError, match="found none"):
        other.load_adapter(peer / "adapter.xyz.safetensors")
    with pytest.raises(InputError, match="do_stable_layer_norm"):
        dataclasses.replace(w2v.BASE, adapter_attn_dim=16)
