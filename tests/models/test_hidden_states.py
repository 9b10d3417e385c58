"""Hidden states of every layer against transformers' output_hidden_states, and the features of recordings.

Run: pytest tests/models/test_hidden_states.py
"""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2BertConfig as PeerBertConfig
from transformers import Wav2Vec2BertModel as PeerBert
from transformers import Wav2Vec2Config as PeerConfig
from transformers import Wav2Vec2Model as Peer
from transformers import WhisperConfig as PeerWhisperConfig
from transformers import WhisperModel as PeerWhisper

import w2v
from w2v.asr import Recogniser
from w2v.audio import UnusableAudioError
from w2v.errors import InputError
from w2v.models.stack import LayerStack
from w2v.recordings import read_blocks

TOLERANCE = 1e-4
NARROW = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "conv_dim": (32,) * 7}
CTC = {
    "base": dataclasses.replace(w2v.BASE, **NARROW, **POSITIONS),
    "large-lv60": dataclasses.replace(w2v.LARGE_LV60, **NARROW, **POSITIONS),
    "w2v-bert": dataclasses.replace(w2v.W2V_BERT_2, **NARROW),
    "w2v-bert with an adapter": dataclasses.replace(w2v.W2V_BERT_2, **NARROW, add_adapter=True),
}
WHISPER = w2v.WhisperConfig(
    vocab_size=320, d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=40, num_mel_bins=80,
    max_source_positions=100, max_target_positions=40, pad_token_id=300, bos_token_id=300, eos_token_id=300,
    decoder_start_token_id=301, init_std=0.2,
)  # fmt: skip
SAMPLES = (16_000, 9_999)


def noises(*samples: int) -> list[np.ndarray]:
    return [0.1 * np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in samples]


def make(config) -> torch.nn.Module:
    torch.manual_seed(1)
    if isinstance(config, w2v.WhisperConfig):
        return w2v.WhisperForConditionalGeneration(config).eval()
    kind = w2v.Wav2Vec2ForCTC if isinstance(config, w2v.Wav2Vec2Config) else w2v.Wav2Vec2BertForCTC
    return kind(config).eval()


def padded(config):
    """The batch, its inputs and the mask over them as transformers takes them."""
    if isinstance(config, w2v.Wav2Vec2Config):
        batch = config.collate(noises(*SAMPLES), pad=True) if not config.pads else config.collate(noises(*SAMPLES))
        lengths = torch.tensor(batch.samples)
    else:
        batch = config.collate(noises(*SAMPLES), pad=True)
        lengths = batch.layout.lengths
    return batch, (torch.arange(batch.inputs.shape[1]) < lengths[:, None]).long()


def assert_rows_equal(ours: w2v.answers.HiddenStates, theirs) -> None:
    assert len(ours.layers) == len(theirs)
    for number, (mine, wanted) in enumerate(zip(ours.layers, theirs, strict=True)):
        for row, length in enumerate(ours.lengths):
            difference = (mine[row, :length] - wanted[row, :length]).abs().max()
            assert difference <= TOLERANCE, f"layer {number}, row {row}: {difference:.1e}"


@pytest.mark.parametrize("name", ["base", "large-lv60"])
@torch.no_grad()
def test_wav2vec2s_layers_are_transformers(name):
    """transformers 5 gives a pre-LayerNorm model's last state before the norm; its 4 gave it after, and so do we."""
    config = CTC[name]
    ours = make(config)
    theirs = Peer(PeerConfig(**dataclasses.asdict(config), attn_implementation="sdpa")).eval()
    theirs.load_state_dict(ours.wav2vec2.state_dict())
    batch, mask = padded(config)
    out = theirs(batch.inputs, attention_mask=mask, output_hidden_states=True)
    assert_rows_equal(ours.hidden_states(batch), (*out.hidden_states[:-1], out.last_hidden_state))


@pytest.mark.parametrize("name", ["w2v-bert", "w2v-bert with an adapter"])
@torch.no_grad()
def test_w2v_berts_layers_are_transformers(name):
    config = CTC[name]
    ours, theirs = make(config), PeerBert(PeerBertConfig(**config.to_dict())).eval()
    theirs.load_state_dict(ours.wav2vec2_bert.state_dict(), strict=False)
    batch, mask = padded(config)
    out = theirs(batch.inputs, attention_mask=mask, output_hidden_states=True)
    states = ours.hidden_states(batch)
    assert_rows_equal(states, out.hidden_states)
    assert states.seconds_per_frame == 0.02


@torch.no_grad()
def test_whispers_encoder_layers_are_transformers():
    ours, theirs = make(WHISPER), PeerWhisper(PeerWhisperConfig(**WHISPER.to_dict())).eval()
    theirs.load_state_dict(ours.model.state_dict())
    batch = WHISPER.collate(noises(*SAMPLES))
    states = ours.hidden_states(batch)
    assert_rows_equal(states, theirs.encoder(batch.inputs, output_hidden_states=True).hidden_states)
    assert states.lengths.tolist() == [50, 32]


@pytest.mark.parametrize("name", [name for name in CTC if not CTC[name].pads])
@torch.no_grad()
def test_a_packed_batch_gives_the_same_rows_with_zeros_after_a_clips_end(name):
    model = make(CTC[name])
    packed = model.hidden_states(model.config.collate(noises(*SAMPLES)))
    rows = model.hidden_states(model.config.collate(noises(*SAMPLES), pad=True))
    for one, other in zip(packed.layers, rows.layers, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert not one[1, packed.lengths[1] :].any()


def test_nothing_is_kept_of_a_normal_forward_and_it_stays_as_it_is():
    model = make(CTC["large-lv60"])
    batch = model.config.collate(noises(*SAMPLES))
    before = model(batch).logits
    states = model.hidden_states(batch)
    assert model.wav2vec2.encoder.layers._states is None
    assert model(batch).logits.equal(before)
    assert model.lm_head(states.layers[-1][0]).equal(before[0])


def test_a_dropped_layer_gives_its_input():
    stack = LayerStack([torch.nn.Linear(4, 4) for _ in range(3)], layerdrop=1.0).train()
    x = torch.randn(1, 2, 4)
    with stack.recording() as states:
        stack(x)
    assert len(states) == 4 and all(state is x for state in states)


def test_an_error_in_a_layer_ends_the_recording():
    stack = LayerStack([torch.nn.Linear(4, 4)])
    with pytest.raises(RuntimeError), stack.recording():
        stack(torch.randn(1, 2, 5))
    assert stack._states is None


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_from_a_layer(checkpointing):
    model = make(dataclasses.replace(CTC["large-lv60"], apply_spec_augment=False, layerdrop=0.0)).train()
    layers = model.wav2vec2.encoder.layers
    layers.checkpointing = checkpointing
    model.hidden_states(model.config.collate(noises(*SAMPLES))).layers[2].square().sum().backward()
    assert layers[1].feed_forward.output_dense.weight.grad.abs().max() > 0
    assert layers[2].feed_forward.output_dense.weight.grad is None


@pytest.mark.parametrize("config", [*CTC.values(), WHISPER], ids=[*CTC, "whisper"])
@torch.no_grad()
def test_features_of_a_recording_are_a_layers_rows(config):
    model = make(config)
    asr, (waveform,) = Recogniser(model.train(), None), noises(16_000)
    features = asr.features(waveform, layer=2)
    assert model.training  # it keeps its mode, and was in evaluation between
    states = model.eval().hidden_states(config.collate([waveform]))
    assert features.dtype == np.float32 and features.shape == (int(states.lengths), 32)
    np.testing.assert_array_equal(features, states.layers[2][0, : len(features)].detach().numpy())
    np.testing.assert_array_equal(asr.features(waveform), asr.features(waveform, layer=3))


@pytest.mark.parametrize("config", [*CTC.values(), WHISPER], ids=[*CTC, "whisper"])
@torch.no_grad()
def test_features_of_a_long_recording_have_a_row_for_each_frame(config):
    """Whisper's window is 2 s here; the others hear chunks of at most 33 s."""
    seconds = 5 if config is WHISPER else 40
    waveform = noises(seconds * 16_000)[0]
    features = Recogniser(make(config), None).features(torch.from_numpy(waveform), layer=1)
    assert 0 <= seconds * 50 - len(features) <= 1
    if config is WHISPER:  # the second window is heard from its own start
        alone = make(config).hidden_states(config.collate([waveform[2 * 16_000 : 4 * 16_000]]))
        np.testing.assert_array_equal(features[100:200], alone.layers[1][0].detach().numpy())


def test_features_of_a_file(clips):
    asr = Recogniser(make(CTC["large-lv60"]), None)
    wanted = asr.features(np.concatenate(list(read_blocks(clips[0]))), layer=0)
    np.testing.assert_allclose(asr.features(clips[0], layer=0), wanted, atol=1e-5)


def test_features_of_a_folder_with_a_model(clips, tmp_path):
    tokenizer = w2v.CharTokenizer.from_texts(["bir iki"])
    config = dataclasses.replace(CTC["large-lv60"], **CTC["large-lv60"].for_vocabulary(tokenizer))
    model = make(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asr = w2v.load(tmp_path)
    for clip in clips[:2]:
        wanted = Recogniser(model, tokenizer).features(clip, layer=3)
        np.testing.assert_array_equal(asr.features(str(clip), layer=3), wanted)


def test_what_features_refuse():
    asr, waveform = Recogniser(make(CTC["large-lv60"]), None), noises(16_000)[0]
    for layer in (4, -5):
        with pytest.raises(InputError, match=f"`layer` must be from 0 to 3, or -1 for the last, got {layer}"):
            asr.features(waveform, layer=layer)
    with pytest.raises(UnusableAudioError, match="must have a frame, got 300 samples"):
        asr.features(waveform[:300])
    with pytest.raises(UnusableAudioError, match="finite"):
        asr.features(np.full(16_000, np.nan, np.float32))
