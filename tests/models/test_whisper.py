"""Whisper equals transformers' in logits, losses and gradients, and answers what a family is asked.

Run: pytest tests/models/test_whisper.py
"""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig as TheirConfig
from transformers import WhisperForConditionalGeneration as Theirs

import w2v
from w2v.errors import InputError
from w2v.models import whisper as module
from w2v.models.whisper import Attention, Sinusoids, WhisperForConditionalGeneration
from w2v.models.whisper_config import CONFIGS, FIXED, FIXED_PROCESSOR, RANGES, Generation, WhisperConfig
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.weights.hf import GENERATION, PROCESSOR

SECONDS = 2  # of a window
END, START = 300, 301
SMALL = WhisperConfig(
    vocab_size=320, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=40, num_mel_bins=80,
    max_source_positions=50 * SECONDS, max_target_positions=40, pad_token_id=END, bos_token_id=END, eos_token_id=END,
    decoder_start_token_id=START, init_std=0.2,
    generation=Generation(suppress_tokens=(5, 7, START), begin_suppress_tokens=(9, END)),
)  # fmt: skip
LABELS = [[1, 2, 3, 4, END], [8, END], [11, 12, 13, END]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whisper")
    WhisperForConditionalGeneration(SMALL).save_pretrained(path)
    return path


@pytest.fixture
def ours(folder):
    return WhisperForConditionalGeneration.from_pretrained(folder)


@pytest.fixture
def theirs(folder):
    return Theirs.from_pretrained(folder, dtype=torch.float32).eval()


def waveforms(count: int = 3) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.normal(0, 0.1, 9000 + 7000 * i).astype(np.float32) for i in range(count)]


def padded(labels: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, labels))
    return torch.tensor([ids + [-100] * (longest - len(ids)) for ids in labels])


def test_logits_loss_and_gradients_are_transformers(ours, theirs):
    batch = SMALL.collate(waveforms(), LABELS)
    out = theirs(input_features=batch.inputs, labels=padded(LABELS))
    with torch.no_grad():
        logits = ours(batch)
    for row, ids in enumerate(LABELS):
        torch.testing.assert_close(logits[row, : len(ids)], out.logits[row, : len(ids)], atol=1e-4, rtol=0)
    losses = ours.losses(batch)
    loss = losses.values.sum() / sum(batch.weights)
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    assert losses.counts["labels"] == 11
    loss.backward()
    out.loss.backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        grad = wanted.pop(name).grad
        assert (parameter.grad - grad).norm() <= 1e-4 * grad.norm() + 1e-7, name
    assert wanted.keys() == {"model.encoder.embed_positions.weight"}


def test_our_folder_writes_the_same_in_transformers(ours, theirs):
    batch = SMALL.collate(waveforms())
    found = Written(ours).greedy(batch)
    ids = theirs.generate(batch.inputs, max_length=40, decoder_input_ids=torch.full((3, 1), START), do_sample=False)
    for row, tokens in zip(ids.tolist(), found, strict=True):
        assert tokens == row[: row.index(END) if END in row else None]
        assert 5 not in tokens and 7 not in tokens and tokens[:1] != [9]
    assert any(found)


class Written:
    """The plainest greedy loop: the whole of each text is read again for each token."""

    def __init__(self, model):
        self.model, self.generation = model, model.config.generation

    @torch.no_grad()
    def greedy(self, batch) -> list[list[int]]:
        texts = []
        for mel in batch.inputs:
            tokens = [START]
            while len(tokens) < 40:
                logits = self.model(mel[None], torch.tensor([tokens]))[0, -1]
                never = list(self.generation.suppress_tokens)
                never += self.generation.begin_suppress_tokens if len(tokens) == 1 else ()
                logits[never] = -torch.inf
                tokens.append(int(logits.argmax()))
                if tokens[-1] == END:
                    tokens.pop()
                    break
            texts.append(tokens[1:])
        return texts


@pytest.mark.parametrize(("positions", "wide"), [(40, 16), (12, 12)])
def test_rows_of_8_tokens_on_a_gpu_give_the_same_losses(positions, wide, monkeypatch):
    """9 labels in the longest row; no row is longer than the model has positions."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, max_target_positions=positions)
    model, read = WhisperForConditionalGeneration(config).eval(), []
    batch = config.collate(waveforms(), [[1, 2, 3, 4, 5, 6, 7, 8, END], *LABELS[1:]])
    model.model.decoder.register_forward_pre_hook(lambda _, args: read.append(args[0].shape))
    wanted = model.losses(batch).values
    monkeypatch.setattr(module, "on_gpu", lambda x: True)
    torch.testing.assert_close(model.losses(batch).values, wanted)
    assert read == [(3, 9), (3, wide)]


def test_micro_batches_add_up_and_a_row_does_not_depend_on_its_batch(ours):
    clips = waveforms()
    whole = ours.losses(SMALL.collate(clips, LABELS)).values
    alone = torch.cat([ours.losses(SMALL.collate([x], [ids])).values for x, ids in zip(clips, LABELS, strict=True)])
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=1e-5)
    assert SMALL.collate(clips, LABELS).weights == [5.0, 2.0, 4.0]
    heard, tokens = ours.hear(SMALL.collate(clips)), torch.arange(6).expand(3, 6)
    logits = ours(SMALL.collate(clips).inputs, tokens)
    for row, clip in enumerate(clips):
        torch.testing.assert_close(ours.hear(SMALL.collate([clip]))[0], heard[row], atol=1e-5, rtol=1e-4)
        alone = ours(SMALL.collate([clip]).inputs, tokens[:1])[0]
        torch.testing.assert_close(alone, logits[row], atol=1e-4, rtol=1e-4)


def test_gradients_of_micro_batches_add_up(ours):
    clips, total = waveforms(), sum(map(len, LABELS))
    (ours.losses(SMALL.collate(clips, LABELS)).values.sum() / total).backward()
    whole = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    for part in (slice(0, 1), slice(1, 3)):
        (ours.losses(SMALL.collate(clips[part], LABELS[part])).values.sum() / total).backward()
    for p, grad in zip(ours.parameters(), whole, strict=True):
        assert (p.grad - grad).norm() <= 1e-4 * grad.norm() + 1e-7


@pytest.mark.parametrize("padding", [17, END])
def test_what_pads_labels_does_not_matter(ours, padding):
    batch = SMALL.collate(waveforms(), LABELS)
    is_padding = torch.arange(5) >= batch.label_lengths[:, None]
    other = dataclasses.replace(batch, labels=batch.labels.masked_fill(is_padding, padding))
    assert torch.equal(ours.losses(other).values, ours.losses(batch).values)


@torch.no_grad()
def test_token_by_token_equals_the_whole_and_sequences_side_by_side_equal_rows(ours):
    heard = ours.hear(SMALL.collate(waveforms(2)))
    tokens = torch.randint(0, 300, (2, 9))
    whole = ours.model.decoder(tokens, heard)
    cache = ours.start(heard)
    steps = [ours.read(tokens[:, :3], cache)] + [ours.read(tokens[:, i : i + 1], cache) for i in range(3, 9)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)
    # Three sequences of each window, then one of each, the windows in another order.
    cache = ours.start(heard)
    ours.read(tokens[:, :3], cache)
    for layer in cache:
        layer.keep(torch.tensor([0, 0, 0, 1, 1, 1]), None)
    several = torch.randint(0, 300, (6, 1))
    found = ours.read(several, cache)
    for row in range(6):
        text = torch.cat([tokens[row // 3, :3], several[row]])[None]
        alone = ours.model.decoder(text, heard[row // 3][None])
        torch.testing.assert_close(found[row, -1], alone[0, -1], atol=1e-5, rtol=1e-4)
    for layer in cache:
        layer.keep(torch.tensor([4, 1]), torch.tensor([1, 0]))
    last = torch.randint(0, 300, (2, 1))
    found = ours.read(last, cache)
    text = torch.cat([tokens[1, :3], several[4], last[0]])[None]
    torch.testing.assert_close(found[0, -1], ours.model.decoder(text, heard[1][None])[0, -1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cache_grows_and_keeps_what_is_in_it(ours):
    """Its room for 32 tokens is doubled."""
    heard = ours.hear(SMALL.collate(waveforms(2)))
    tokens = torch.randint(0, 300, (2, 40))
    cache = ours.start(heard)
    steps = [ours.read(tokens[:, i : i + 1], cache) for i in range(40)]
    torch.testing.assert_close(torch.cat(steps, dim=1), ours.model.decoder(tokens, heard), atol=1e-5, rtol=1e-4)


def test_a_clips_features_do_not_depend_on_its_batch():
    clips = waveforms()
    for row, clip in zip(SMALL.collate(clips).inputs, clips, strict=True):
        assert torch.equal(row, SMALL.collate([clip]).inputs[0])


@torch.no_grad()
def test_tokens_of_a_model_from_scratch_look_with_the_upper_half_of_the_layers(ours, folder):
    ours.config = dataclasses.replace(SMALL, generation=Generation())
    theirs = Theirs.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    mel, tokens = SMALL.collate(waveforms(1)).inputs, torch.randint(0, 300, (1, 7))
    out = theirs(input_features=mel, decoder_input_ids=tokens, output_attentions=True)
    looks, hidden = ours.looks(tokens, ours.model.encoder(mel))
    torch.testing.assert_close(looks.softmax(-1), out.cross_attentions[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logits(hidden), out.logits, atol=1e-4, rtol=0)


def test_a_new_head_leaves_the_rest_as_it_is(folder, ours):
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration.from_pretrained(folder, new_head=True, vocab_size=330)
    kept = ours.state_dict()
    for name, tensor in model.state_dict().items():
        if "embed_tokens" in name:
            assert tensor.shape == (330, 32) and not torch.equal(tensor[:320], kept[name])
            assert tensor.std().item() == pytest.approx(SMALL.init_std, rel=0.05)
        else:
            assert torch.equal(tensor, kept[name]), name


def test_tensors_that_do_not_fit_are_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.decoder.layers.7.fc1.bias"] = tensors.pop("model.decoder.layers.1.fc1.bias")
    tensors["model.encoder.conv1.bias"] = torch.zeros(31)
    shutil.copytree(folder, tmp_path / "broken")
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(InputError, match="does not fit its config") as caught:
        WhisperForConditionalGeneration.from_pretrained(tmp_path / "broken")
    for part in (
        "missing model.decoder.layers.1.fc1.bias", "unexpected model.decoder.layers.7.fc1.bias",
        "model.encoder.conv1.bias (31,) instead of (32,)",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_folders_are_read_as_fp32(folder, tmp_path, dtype):
    Theirs.from_pretrained(folder).to(dtype).save_pretrained(tmp_path)
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    wanted = WhisperForConditionalGeneration.from_pretrained(folder).state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor.to(dtype).float()), name


def test_positions_are_theirs_and_are_not_trained(ours, theirs):
    assert torch.equal(ours.model.encoder.embed_positions.weight, theirs.model.encoder.embed_positions.weight)
    assert "model.encoder.embed_positions.weight" not in dict(ours.named_parameters())
    fresh = Theirs(TheirConfig(d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, vocab_size=60_000))
    torch.testing.assert_close(
        Sinusoids(1500, 32).weight, fresh.model.encoder.embed_positions.weight, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("name", "parameters", "encoder"), [
    ("whisper-tiny", 37_760_640, 8_208_384), ("whisper-tiny.en", 37_760_256, 8_208_384),
    ("whisper-base", 72_593_920, 20_590_592), ("whisper-base.en", 72_593_920 - 512, 20_590_592),
    ("whisper-small", 241_734_912, 88_154_112), ("whisper-small.en", 241_734_912 - 768, 88_154_112),
    ("whisper-medium", 763_857_920, 307_216_384), ("whisper-medium.en", 763_857_920 - 1024, 307_216_384),
    ("whisper-large", 1_543_304_960, 636_784_640), ("whisper-large-v2", 1_543_304_960, 636_784_640),
    ("whisper-large-v3", 1_543_490_560, 636_968_960), ("whisper-large-v3-turbo", 808_878_080, 636_968_960),
])  # fmt: skip
def test_sizes_of_the_published_models(name, parameters, encoder):
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(CONFIGS[name])
    for part, wanted in ((model, parameters), (model.parts.encoder, encoder)):
        assert sum(t.numel() for t in [*part.parameters(), *part.buffers()]) == wanted
    assert w2v.FAMILIES["whisper"].published[name] == f"openai/{name}"


def test_every_published_model_has_its_size_tested():
    assert len(CONFIGS) == 12


def test_fresh_weights_are_drawn_as_in_transformers():
    config = dataclasses.replace(SMALL, d_model=128, init_std=0.02)
    model = WhisperForConditionalGeneration(config)
    theirs = dict(Theirs(TheirConfig.from_dict(config.to_dict())).named_parameters())
    for name, parameter in model.named_parameters():
        wanted = theirs[name]
        assert parameter.mean().item() == pytest.approx(wanted.mean().item(), abs=2e-3), name
        assert parameter.std().item() == pytest.approx(wanted.std().item(), rel=0.1), name
    assert not model.model.decoder.embed_tokens.weight[END].any()


def test_masks_lie_in_the_clips_own_frames(ours):
    ours.config = dataclasses.replace(SMALL, apply_spec_augment=True, mask_time_prob=0.5, mask_feature_prob=0.3)
    batch = SMALL.collate(waveforms())
    before = batch.inputs.clone()
    assert torch.equal(ours.masked(batch.inputs, batch.layout), before), "not in evaluation"
    ours.train()
    torch.manual_seed(0)
    masked = ours.masked(batch.inputs, batch.layout)
    assert torch.equal(batch.inputs, before)
    is_frame = (masked == 0).all(dim=1)  # (B, N)
    for row, samples in zip(is_frame, batch.samples, strict=True):
        assert row.any() and not row[-(-samples // 160) :].any()
    assert (masked == 0).all(dim=2).any(), "whole bins"
    with torch.no_grad():
        torch.manual_seed(0)
        losses = ours.losses(SMALL.collate(waveforms(), LABELS)).values
        ours.eval()
        wanted = ours.losses(dataclasses.replace(SMALL.collate(waveforms(), LABELS), inputs=masked)).values
    torch.testing.assert_close(losses, wanted)
    assert not torch.equal(wanted, ours.losses(SMALL.collate(waveforms(), LABELS)).values)


DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3}


def test_checkpointing_keeps_the_gradients(folder):
    drops = DROPOUTS | {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}
    model = WhisperForConditionalGeneration.from_pretrained(folder, **drops).train()
    batch = SMALL.collate(waveforms(), LABELS)
    for seed in range(4):
        grads = []
        for on in (False, True):
            for stack in model.parts.stacks:
                stack.checkpointing = on
            model.zero_grad()
            torch.manual_seed(seed)
            model.losses(batch).values.sum().backward()
            grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys()
        assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_layers_are_dropped_in_training_alone(folder, ours, side):
    model = WhisperForConditionalGeneration.from_pretrained(folder, **{f"{side}_layerdrop": 1.0})
    batch = SMALL.collate(waveforms(), LABELS)
    assert torch.equal(model.losses(batch).values, ours.losses(batch).values)
    model.train().losses(batch).values.sum().backward()
    # Without the decoder's layers nothing asks what the encoder heard.
    left_out = ("model.encoder.layers.",) if side == "encoder" else ("model.encoder.", "model.decoder.layers.")
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(left_out), name


def test_dropout_is_in_training_alone_and_each_in_its_place(folder, ours):
    batch = SMALL.collate(waveforms(), LABELS)
    for name in DROPOUTS:
        model = WhisperForConditionalGeneration.from_pretrained(folder, **{name: 0.5})
        assert torch.equal(model.losses(batch).values, ours.losses(batch).values)
        assert not torch.equal(model.train().losses(batch).values, ours.losses(batch).values)
    model = WhisperForConditionalGeneration(dataclasses.replace(SMALL, **DROPOUTS)).model
    assert model.encoder.dropout.p == model.decoder.dropout.p == 0.1
    assert {m.dropout_p for m in model.modules() if isinstance(m, Attention)} == {0.2}
    layers = [*model.encoder.layers, *model.decoder.layers]
    assert {(layer.dropout.p, layer.activation_dropout.p) for layer in layers} == {(0.1, 0.3)}


@torch.no_grad()
def test_cut_windows_slice_the_positions(ours, theirs):
    config = dataclasses.replace(SMALL, cut_windows=True)
    batch = config.collate([waveforms()[0]])
    assert batch.inputs.shape[2] == 2 * config.frames(9000) == 58
    assert config.cost(16_000) == 1.0 and SMALL.cost(16_000) == SECONDS
    shorter = Theirs(TheirConfig(**theirs.config.to_dict() | {"max_source_positions": 29})).eval()
    state = theirs.state_dict()
    state["model.encoder.embed_positions.weight"] = state["model.encoder.embed_positions.weight"][:29]
    shorter.load_state_dict(state)
    wanted = shorter.model.encoder(batch.inputs).last_hidden_state
    torch.testing.assert_close(ours.hear(batch), wanted, atol=1e-4, rtol=1e-4)
    longer = config.collate(waveforms(2)).inputs[0]
    assert torch.equal(longer[:, :58], batch.inputs[0]) and longer.shape[1] == 100, "as long as the longest clip"
    assert config.collate([np.zeros(0, np.float32)]).inputs.shape[2] == 2


def test_kept_encoder_outputs_give_the_same_losses(ours):
    batch = SMALL.collate(waveforms(), LABELS)
    kept = dataclasses.replace(batch, heard=ours.hear(batch), inputs=batch.inputs[:0])
    assert torch.equal(ours.losses(kept).values, ours.losses(batch).values)


# --- config


def test_what_cannot_be_learned_from():
    assert SMALL.why_not(16_000 * SECONDS, [1] * 40) is None
    assert "longer than a window of 2 s: 2.00 s" in SMALL.why_not(16_000 * SECONDS + 1, [])
    assert "41 tokens" in SMALL.why_not(16_000, [1] * 41)
    assert SMALL.why_not(0, []) == "no samples"
    with pytest.raises(InputError, match="a window holds 2 s, got a waveform of 2"):
        SMALL.collate([np.zeros(33_000, np.float32)])


def fields(**changes) -> dict:
    generation = SMALL.generation.to_dict()
    return SMALL.to_dict() | {PROCESSOR: SMALL.processor(), GENERATION: generation} | changes


def test_a_config_comes_back_from_its_files():
    assert dataclasses.replace(WhisperConfig.from_dict(fields()), generation=SMALL.generation) == SMALL
    named = WhisperConfig.from_dict(
        fields(**{GENERATION: {"alignment_heads": [[1, 0]], "forced_decoder_ids": [[1, 2]]}})
    )
    assert named.generation.alignment_heads == ((1, 0),)
    assert "forced_decoder_ids" not in named.generation.to_dict()
    base = CONFIGS["whisper-base"]
    heads = WhisperConfig.from_dict(base.to_dict()).generation.alignment_heads
    assert heads == ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6))


@pytest.mark.parametrize(("changes", "message"), [
    *(({name: "other"}, f"config.json: {name} must be") for name in FIXED),
    *(({PROCESSOR: {name: "other"}}, f"{PROCESSOR}: {name} must be") for name in FIXED_PROCESSOR),
    ({PROCESSOR: {"feature_size": 128}}, "feature_size must be num_mel_bins, 80, got 128"),
    ({"model_type": "wav2vec2"}, "architecture must be whisper"),
    ({"d_model": 33}, "d_model must be a multiple of encoder_attention_heads"),
    ({"d_model": "wide"}, "d_model must be a whole number"),
    ({"vocab_size": 10}, "must be below vocab_size, 10"),
    ({GENERATION: {"suppress_tokens": "all"}}, "suppress_tokens must be a list"),
    ({GENERATION: {"suppress_tokens": [1.5]}}, "suppress_tokens must hold whole numbers"),
    ({GENERATION: {"suppress_tokens": [True]}}, "suppress_tokens must hold whole numbers"),
    ({GENERATION: {"begin_suppress_tokens": {"9": 1}}}, "begin_suppress_tokens must be a list"),
    ({GENERATION: {"begin_suppress_tokens": [-2]}}, "begin_suppress_tokens must hold whole numbers from -1 on"),
    ({GENERATION: {"max_initial_timestamp_index": "50"}}, "max_initial_timestamp_index must hold whole numbers"),
    ({GENERATION: {"max_initial_timestamp_index": -1}}, "must hold whole numbers from 0 on, got -1"),
    ({GENERATION: {"alignment_heads": "all"}}, "alignment_heads must be a list"),
    ({GENERATION: {"alignment_heads": [7]}}, "alignment_heads must be a list, got 7"),
    ({GENERATION: {"alignment_heads": [["1", 0]]}}, "alignment_heads must hold whole numbers"),
    ({GENERATION: {"alignment_heads": [[0, 2]]}}, "got layer 0 and head 2"),
    ({GENERATION: {"alignment_heads": [[1]]}}, "must hold pairs of layer and head"),
    ({GENERATION: {"alignment_heads": [[9, 0]]}}, "got layer 9 and head 0"),
    ({GENERATION: {"language": 3}}, "language must be text or null"),
    ({GENERATION: {"max_initial_timestamp_index": None, "task": []}}, "task must be text or null"),
])  # fmt: skip
def test_what_is_not_here_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")) as caught:
        WhisperConfig.from_dict(fields(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RANGES)
def test_sizes_and_shares_have_types_and_limits(name):
    least, most = RANGES[name]
    for value in (least - 1, 2 * most + 1, math.nan, "x", [1], None, True):
        with pytest.raises(InputError, match=f"^{name} must be a (whole )?number from") as caught:
            dataclasses.replace(SMALL, **{name: value})
        assert "\n" not in str(caught.value)


def test_positions_need_an_even_width():
    with pytest.raises(InputError, match="d_model must be even, got 33"):
        dataclasses.replace(SMALL, d_model=33, encoder_attention_heads=1, decoder_attention_heads=1)


def test_old_folders_name_suppressed_tokens_in_config_json():
    given = SMALL.to_dict() | {"suppress_tokens": [3, 4], "begin_suppress_tokens": None}
    generation = WhisperConfig.from_dict(given).generation
    assert generation.suppress_tokens == (3, 4) and generation.begin_suppress_tokens == ()
    newer = WhisperConfig.from_dict(given | {GENERATION: {"suppress_tokens": [8]}}).generation
    assert newer.suppress_tokens == (8,)


def test_what_the_model_hears_is_described_for_transformers():
    processor = SMALL.processor()
    assert [processor[name] for name in ("chunk_length", "n_samples", "nb_max_frames")] == [2, 32_000, 200]
    published = CONFIGS["whisper-large-v3"].processor()
    assert [published[name] for name in ("chunk_length", "n_samples", "nb_max_frames")] == [30, 480_000, 3000]
    assert published["feature_size"] == 128


def test_a_vocabulary_decides_ids_and_language():
    tokenizer = WhisperTokenizer.from_texts(["a"]).for_language("tr")
    quote, bracket = tokenizer.encode_text('"(')
    config = dataclasses.replace(SMALL, vocab_size=9000, generation=Generation(suppress_tokens=(quote, bracket)))
    config = dataclasses.replace(config, **config.for_vocabulary(tokenizer, [tokenizer.encode('"')]))
    assert config.vocab_size == len(tokenizer) and config.eos_token_id == tokenizer.eos_id
    assert config.generation.language == "tr" and config.generation.task == "transcribe"
    assert config.generation.suppress_tokens == (bracket,), "training texts hold quotes"
    others = config.generation.others
    assert others["lang_to_id"]["<|tr|>"] == tokenizer.language_ids["tr"]
    assert others["task_to_id"] == {"transcribe": tokenizer.transcribe_id, "translate": tokenizer.translate_id}
    config.check_vocabulary(tokenizer, "DIR")
    special = Generation(suppress_tokens=(tokenizer.no_timestamps_id,))
    fields = dataclasses.replace(config, generation=special).for_vocabulary(tokenizer, [tokenizer.encode("a")])
    assert fields["generation"].suppress_tokens == special.suppress_tokens, "it is in all labels, and no text"
    for name, value in (("vocab_size", 9000), ("decoder_start_token_id", 3), ("eos_token_id", 3)):
        with pytest.raises(InputError, match=f"{name} and the vocabulary of DIR must agree, got {value}"):
            dataclasses.replace(config, **{name: value}).check_vocabulary(tokenizer, "DIR")


def test_an_english_vocabulary_has_no_language_in_the_settings():
    whole = WhisperTokenizer.from_texts([])
    english = WhisperTokenizer(whole.vocab, [], is_multilingual=False)
    generation = WhisperConfig().for_vocabulary(english)["generation"]
    assert (generation.language, generation.task) == (None, None)
    assert generation.others["is_multilingual"] is False and "lang_to_id" not in generation.others


def test_generation_settings_are_written_for_transformers(folder):
    written = json.loads((folder / GENERATION).read_text())
    assert written["suppress_tokens"] == [5, 7, START] and written["eos_token_id"] == END
    assert written["max_length"] == 40
    assert "forced_decoder_ids" not in written


# --- real weights


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_real_weights_give_transformers_logits(whisper_folder, clips, name, onednn):
    directory = whisper_folder(name)
    model = WhisperForConditionalGeneration.from_pretrained(directory)
    batch = model.config.collate([w2v.read_audio(clip) for clip in clips[:2]])
    tokens = torch.randint(0, 50_000, (2, 12), generator=torch.manual_seed(0))
    theirs = Theirs.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=onednn, allow_tf32=False):
        wanted = theirs(input_features=batch.inputs, decoder_input_ids=tokens).logits
        torch.testing.assert_close(model(batch.inputs, tokens), wanted, atol=1e-4, rtol=0)
