"""The peers with a CTC head, with our weights: transformers' wav2vec 2.0 and W2V-BERT, torchaudio's wav2vec 2.0.

All are in fp32 and in training mode.
"""

import dataclasses
import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peer_step import Inputs, Peer, Write
from w2v.answers import Batch
from w2v.audio import SAMPLE_RATE
from w2v.layout import Padded
from w2v.models.w2v_bert_config import Wav2Vec2BertConfig
from w2v.models.wav2vec2_config import Wav2Vec2Config
from w2v.precision import autocast
from w2v.text.tokenizer import CharTokenizer
from w2v.weights.torchaudio import from_hf


def build_wav2vec2(config: Wav2Vec2Config, weights: dict[str, Tensor], attention: str = "sdpa") -> Peer:
    """transformers' wav2vec 2.0. attention: its attn_implementation."""
    from transformers import Wav2Vec2Config as PeerConfig
    from transformers import Wav2Vec2FeatureExtractor
    from transformers import Wav2Vec2ForCTC as PeerForCTC

    model = PeerForCTC(PeerConfig(**dataclasses.asdict(config), attn_implementation=attention))
    model.load_state_dict(weights)
    body = model.wav2vec2
    extractor = Wav2Vec2FeatureExtractor(
        do_normalize=config.do_normalize, return_attention_mask=config.feat_extract_norm == "layer"
    )
    return Peer(
        "transformers",
        model.train(),
        body.feature_extractor,
        wav2vec2_inputs,
        lambda net, inputs: net(**inputs).loss,
        lambda inputs: model(**_unlabelled(inputs)).logits,
        lambda *how: ctc_writer(model, extractor, *how),
        list(body.encoder.layers),
        list(body.feature_extractor.conv_layers),
        [body.feature_projection, body.encoder.pos_conv_embed],
    )


def wav2vec2_inputs(batch: Batch) -> Inputs:
    """What the data collator of its recipes returns: int32 masks over samples, labels padded with -100."""
    real = torch.arange(batch.inputs.shape[1]) < torch.tensor(batch.samples)[:, None]
    return {"input_values": batch.inputs, "attention_mask": real.int(), "labels": padded_labels(batch)}


def padded_labels(batch: Batch) -> Tensor:
    """(B, U), padded with -100."""
    padding = torch.arange(batch.labels.shape[1]) >= batch.label_lengths[:, None]
    return batch.labels.masked_fill(padding, -100)


def _unlabelled(inputs: Inputs) -> Inputs:
    return {name: tensor for name, tensor in inputs.items() if name != "labels"}


def build_w2v_bert(config: Wav2Vec2BertConfig, weights: dict[str, Tensor], attention: str = "sdpa") -> Peer:
    """transformers' W2V-BERT."""
    from transformers import Wav2Vec2BertConfig as PeerConfig
    from transformers import Wav2Vec2BertForCTC as PeerForCTC

    fields = config.to_dict() | {"ctc_loss_reduction": "mean"}
    model = PeerForCTC(PeerConfig(**fields, attn_implementation=attention))
    model.load_state_dict(weights, strict=False)  # without masks it has no embedding for them
    return Peer(
        "transformers",
        model.train(),
        model.wav2vec2_bert,
        w2v_bert_inputs,
        lambda net, inputs: net(**inputs).loss,
        lambda inputs: model(**_unlabelled(inputs)).logits,
        lambda *how: ctc_writer(model, w2v_bert_extractor(), *how),
        list(model.wav2vec2_bert.encoder.layers),
    )


def w2v_bert_inputs(batch: Batch) -> Inputs:
    """What its processor and the data collator of its recipes return, for our features, padded."""
    assert isinstance(batch.layout, Padded)
    return {
        "input_features": batch.inputs.masked_fill(~batch.layout.real[:, :, None], 1.0),
        "attention_mask": batch.layout.real.int(),
        "labels": padded_labels(batch),
    }


def w2v_bert_extractor() -> Any:
    """The published model's feature extractor."""
    from transformers import SeamlessM4TFeatureExtractor

    return SeamlessM4TFeatureExtractor(padding_value=1)


def ctc_writer(model: Any, extractor: Any, tokenizer: CharTokenizer, precision: str) -> Write:
    """How transformers' recipes evaluate: its features, the likeliest token of each frame, its tokenizer's text.

    What it makes of padding is written too.
    """
    from transformers import Wav2Vec2CTCTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        theirs = Wav2Vec2CTCTokenizer.from_pretrained(folder)

    def write(waveforms: list[np.ndarray]) -> list[str]:
        samples = [waveform.astype(np.float32) / 32768 for waveform in waveforms]
        inputs = extractor(samples, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
        with autocast(precision, model.device):
            ids = model(**inputs.to(model.device)).logits.argmax(-1)
        return theirs.batch_decode(ids.cpu())

    return write


def build_torchaudio(config: Wav2Vec2Config, weights: dict[str, Tensor]) -> Peer:
    """It has neither SpecAugment's masks, a dropout before the head nor checkpointing."""
    from torchaudio.models import wav2vec2_model

    model = wav2vec2_model(
        extractor_mode="layer_norm" if config.feat_extract_norm == "layer" else "group_norm",
        extractor_conv_layer_config=list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.hidden_size,
        encoder_projection_dropout=config.feat_proj_dropout,
        encoder_pos_conv_kernel=config.num_conv_pos_embeddings,
        encoder_pos_conv_groups=config.num_conv_pos_embedding_groups,
        encoder_num_layers=config.num_hidden_layers,
        encoder_num_heads=config.num_attention_heads,
        encoder_attention_dropout=config.attention_dropout,
        encoder_ff_interm_features=config.intermediate_size,
        encoder_ff_interm_dropout=config.activation_dropout,
        encoder_dropout=config.hidden_dropout,
        encoder_layer_norm_first=config.do_stable_layer_norm,
        encoder_layer_drop=config.layerdrop,
        aux_num_out=config.vocab_size,
    )
    model.load_state_dict(from_hf(weights)[0])

    def loss(net: nn.Module, inputs: Inputs) -> Tensor:
        logits, frames = net(inputs["waveforms"], inputs["lengths"])
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)  # (T, B, V)
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(log_probs, inputs["labels"], frames, inputs["label_lengths"], config.pad_token_id)

    def hear(inputs: Inputs) -> Tensor:
        return model(inputs["waveforms"], inputs["lengths"])[0]

    return Peer("torchaudio", model.train(), model.feature_extractor, torchaudio_inputs, loss, hear)


def torchaudio_inputs(batch: Batch) -> Inputs:
    return {
        "waveforms": batch.inputs,
        "lengths": torch.tensor(batch.samples),
        "labels": batch.labels,
        "label_lengths": batch.label_lengths,
    }
