"""W2V-BERT 2.0's config files and folders: what is read, written, drawn and refused.

Run: pytest tests/models/test_w2v_bert_files.py
"""

import dataclasses
import json

import pytest
import torch
from bert_pairs import ADAPTER, SMALL, mask, noises, pair, rows
from transformers import Wav2Vec2BertConfig as PeerConfig
from transformers import Wav2Vec2BertForCTC as PeerForCTC

import w2v
from w2v.weights import hf

# --- config files


def fields(**changes) -> dict:
    return json.loads(json.dumps(SMALL.to_dict() | changes))


def test_the_published_config_is_read():
    """vocab_size null: it has no head. The processor's padding value is the file's, and is written again."""
    published = PeerConfig().to_dict()
    assert published["vocab_size"] is None
    processor = w2v.W2V_BERT_2.processor() | {"padding_value": 0.5}
    config = w2v.Wav2Vec2BertConfig.from_dict(published | {hf.PROCESSOR: processor})
    assert config == dataclasses.replace(w2v.W2V_BERT_2, output_hidden_size=1024, padding_value=0.5)
    assert config.processor() == processor
    assert w2v.Wav2Vec2BertConfig.from_dict(fields(apply_spec_augment=False)).apply_spec_augment is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "wav2vec2"}, "architecture must be wav2vec2-bert, config.json says 'wav2vec2'"),
        ({"position_embeddings_type": "rotary"}, "position_embeddings_type must be 'relative_key'"),
        ({"position_embeddings_type": "relative"}, "position_embeddings_type must be 'relative_key'"),
        ({"position_embeddings_type": None}, "position_embeddings_type must be 'relative_key'"),
        ({"hidden_act": "mish"}, "hidden_act must be one of swish, silu, gelu, relu, got 'mish'"),
        ({"adapter_act": ["relu"]}, "adapter_act must be text"),
        ({"hidden_size": 66}, "hidden_size must be a multiple of num_attention_heads, got 66 and 4"),
        ({"output_hidden_size": 50}, "output_hidden_size must be a multiple of num_attention_heads, got 50 and 4"),
        ({"conv_depthwise_kernel_size": 30}, "conv_depthwise_kernel_size must be odd"),
        ({"use_intermediate_ffn_before_adapter": True}, "use_intermediate_ffn_before_adapter needs add_adapter"),
        ({"layerdrop": 1.5}, "layerdrop must be a probability"),
        ({"final_dropout": 1.0}, "final_dropout must be below 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a whole number from 1 to 1000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 1000"),
        ({"feature_projection_input_dim": 80}, "feature_projection_input_dim must be 160"),
        ({hf.PROCESSOR: {"stride": 3}}, "preprocessor_config.json: stride must be 2"),
        ({hf.PROCESSOR: {"padding_value": "x"}}, "preprocessor_config.json: padding_value must be a number"),
        (
            {hf.PROCESSOR: {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}},
            "feature_extractor_type must be 'SeamlessM4TFeatureExtractor'",
        ),
    ],
)
def test_other_variants_are_refused_by_name(changes, words):
    with pytest.raises(w2v.InputError) as caught:
        w2v.Wav2Vec2BertConfig.from_dict(fields(**changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- folders


def test_export_opens_in_transformers_with_equal_logits(tmp_path):
    for config in (SMALL, ADAPTER):
        model = pair(config)[0]
        model.save_pretrained(tmp_path)
        theirs = PeerForCTC.from_pretrained(tmp_path)
        features = rows([31])
        peer = theirs.eval()(features, attention_mask=mask([31])).logits
        torch.testing.assert_close(model(features).logits, peer, rtol=0, atol=2e-5)
        again = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path)
        assert torch.equal(again(features).logits, model(features).logits)
        # output_hidden_size null is written as the width that it stands for
        assert again.config == dataclasses.replace(config, output_hidden_size=64)


def test_a_folder_by_transformers_is_read(tmp_path):
    PeerForCTC(PeerConfig(**SMALL.to_dict())).save_pretrained(tmp_path)
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path)
    theirs = PeerForCTC.from_pretrained(tmp_path).eval()
    peer = theirs(rows([20]), attention_mask=mask([20])).logits
    torch.testing.assert_close(model(rows([20])).logits, peer, rtol=0, atol=2e-5)


def test_the_published_body_gets_a_fresh_head_and_adapter(tmp_path, caplog):
    """The published file has no prefix, no head and no adapter."""
    body = PeerForCTC(PeerConfig(**SMALL.to_dict())).wav2vec2_bert
    body.save_pretrained(tmp_path)
    with pytest.raises(w2v.InputError, match=r"missing lm_head\.bias"):
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, add_adapter=True, vocab_size=9)
    assert "adapter" in caplog.text and "starts from a fresh one" in caplog.text
    assert model.lm_head.out_features == 9 and all(torch.isfinite(p).all() for p in model.parameters())
    loaded, ours = body.state_dict(), model.wav2vec2_bert.state_dict()
    for name in loaded:
        assert torch.equal(loaded[name], ours[name]), name
    assert ours["adapter.layers.0.self_attn_conv.weight"].std() == pytest.approx((2 / (3 * 64)) ** 0.5, rel=0.1)


def test_a_new_head_without_the_files_adapter(tmp_path):
    pair(ADAPTER)[0].save_pretrained(tmp_path)
    model = w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, add_adapter=False)
    assert model.wav2vec2_bert.adapter is None
    with pytest.raises(w2v.InputError, match=r"unexpected wav2vec2_bert\.adapter"):
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, add_adapter=False)


def test_an_adapter_that_a_fine_tuned_file_lacks_is_an_error(tmp_path):
    pair(SMALL)[0].save_pretrained(tmp_path)
    with pytest.raises(w2v.InputError, match=r"missing wav2vec2_bert\.adapter"):
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, add_adapter=True)


def test_body_from_a_fine_tuned_folder(tmp_path):
    model = pair(ADAPTER)[0]
    model.save_pretrained(tmp_path)
    body = w2v.Wav2Vec2BertModel.from_pretrained(tmp_path)
    out = body(ADAPTER.collate(noises(16_000, 9_000)))
    assert out.last_hidden_state.shape == (2, 25, 64) and out.frame_lengths.tolist() == [25, 14]


def test_the_masks_embedding_may_be_missing(tmp_path):
    """Only training with masks asks for it."""
    tensors = {n: t for n, t in w2v.Wav2Vec2BertForCTC(SMALL).state_dict().items() if not n.endswith("spec_embed")}
    hf.save(tmp_path, tensors, fields(), SMALL.processor())
    for cls in (w2v.Wav2Vec2BertForCTC, w2v.Wav2Vec2BertModel):
        assert all(torch.isfinite(p).all() for p in cls.from_pretrained(tmp_path).parameters())


# --- an adapter of any shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_hidden_size": 65_536}, "give an adapter of at most 300000000 weights, theirs has 68736253952"),
        ({"output_hidden_size": 6400, "adapter_kernel_size": 1}, "at most 300000000 weights, theirs has 329318400"),
        ({"adapter_stride": 100, "num_adapter_layers": 10}, "frames of at most 10000 samples, theirs are of 32000000"),
        ({"adapter_stride": 32}, "frames of at most 10000 samples, theirs are of 10240"),
    ],
)
def test_an_adapter_without_measure_is_refused_before_it_is_made(changes, words, tmp_path):
    """The published body's file has no adapter: what its config says of one is all that is known of its size."""
    body = w2v.Wav2Vec2BertModel(SMALL)
    config = fields(vocab_size=None, **changes)
    hf.save(tmp_path, body.state_dict(), config, SMALL.processor())
    assert w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=9).lm_head.out_features == 9
    with pytest.raises(w2v.InputError) as caught:
        w2v.Wav2Vec2BertForCTC.from_pretrained(tmp_path, new_head=True, vocab_size=9, add_adapter=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    dataclasses.replace(w2v.W2V_BERT_2, add_adapter=True, num_adapter_layers=4)  # 25 million weights each


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (1, 2), (5, 2), (7, 1), (2, 3), (3, 3), (7, 3), (1, 1)])
def test_the_shortest_clip_is_the_first_with_a_frame(kernel, stride, layers):
    shape = {"adapter_kernel_size": kernel, "adapter_stride": stride, "num_adapter_layers": layers}
    config = dataclasses.replace(ADAPTER, num_hidden_layers=1, **shape)
    model = pair(config)[0]
    (frames,) = model(config.collate(noises(config.shortest))).logit_lengths.tolist()
    assert frames == config.frames(config.shortest) >= 1
    assert config.why_not(config.shortest, [1]) is None
    short = config.shortest - 1
    assert short < 560 or config.frames(short) < 1
    assert config.why_not(short, []) == f"shorter than one frame: {short} samples"
    with pytest.raises(w2v.InputError, match=f"needs at least {config.shortest} samples for one frame, got {short};"):
        config.collate(noises(short))
