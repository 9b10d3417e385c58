"""Whisper's names in both layouts, OpenAI's files, and the settings that follow from a vocabulary and a shape.

Run: pytest tests/weights/test_whisper_weights.py [--whisper DIR, with real folders base and tiny.en]
"""

import json
import os
import pickle

import pytest
import torch
from conftest import published

from w2v.errors import InputError
from w2v.text.whisper_languages import special_tokens
from w2v.weights import fairseq, hf, openai_whisper, torchaudio, wav2vec2, whisper
from w2v.weights import whisper_generation as generation
from w2v.weights.openai_whisper import config_of, dims_of, from_hf, read_checkpoint, to_hf, write_checkpoint

SPECIAL = [
    f"<|{name}|>"
    for name in "endoftext startoftranscript translate transcribe startoflm startofprev nospeech notimestamps".split()
]
DIMS = dict(zip(openai_whisper.DIMS, (5, 12, 8, 2, 1, 51865, 6, 8, 2, 2), strict=True))


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def state(dims=DIMS):
    """A state dict of OpenAI's, from what a reading of one asks for."""
    torch.manual_seed(0)
    wanted = openai_whisper._shapes_of(dims, 100)
    return {name: torch.randn(shape, dtype=torch.float16) for name, shape in wanted.items()}


def save(path, **content):
    torch.save(content, path)
    return path


# --- names


def test_the_published_name_lists_map_onto_each_other_completely():
    ours, theirs = published("hf_whisper_tiny_names.tsv"), published("openai_whisper_tiny_names.tsv")
    assert (len(ours), len(theirs)) == (168, 167)
    there, left = from_hf(ours)
    assert (shapes(there), left) == (shapes(theirs), [])
    back, left = to_hf(theirs)
    assert left == []
    assert shapes(back) == {name: shape for name, shape in shapes(ours).items() if name != "proj_out.weight"}
    bare = {name.removeprefix("model."): tensor for name, tensor in ours.items() if name != "proj_out.weight"}
    assert from_hf(bare)[0] == there  # a WhisperModel's names


def test_the_shapes_that_a_reading_asks_for_are_the_published_ones():
    sizes = (80, 1500, 384, 6, 4, 51865, 448, 384, 6, 4)
    dims = dict(zip(openai_whisper.DIMS, sizes, strict=True))
    assert openai_whisper._shapes_of(dims, 167) == shapes(published("openai_whisper_tiny_names.tsv"))


def test_a_layout_is_told_by_its_names_and_by_no_others():
    ours, theirs = published("hf_whisper_tiny_names.tsv"), published("openai_whisper_tiny_names.tsv")
    layouts = (whisper, openai_whisper, fairseq, torchaudio)
    for names, of in (
        (list(ours), whisper),
        ([name.removeprefix("model.") for name in ours], whisper),
        (list(theirs), openai_whisper),
        (list(published("hf_Wav2Vec2ForCTC_xlsr53_vocab32_new_names.tsv")), wav2vec2),
        (list(published("hf_w2v_bert_names.tsv")), None),
        (list(published("fairseq_xlsr_53_56k_names.tsv")), fairseq),
        (list(published("torchaudio_WAV2VEC2_XLSR53_names.tsv")), torchaudio),
    ):
        assert [layout for layout in layouts if layout.is_layout(names)] == [of] * (of in layouts)


@pytest.mark.parametrize("body", ["model.", ""])
@pytest.mark.parametrize("output", ["beside the embedding", "in its place", "left out"])
def test_names_of_our_model(body, output):
    tensors = {body + "encoder.conv1.bias": torch.zeros(1), body + "decoder.embed_tokens.weight": torch.ones(2)}
    again = {"proj_out.weight": tensors[body + "decoder.embed_tokens.weight"]}
    if output == "beside the embedding":
        tensors |= again
    elif output == "in its place":
        tensors = {body + "encoder.conv1.bias": torch.zeros(1)} | again
    found = whisper.model_names(tensors)
    assert found.keys() == {"model.encoder.conv1.bias", "model.decoder.embed_tokens.weight"}
    assert found["model.decoder.embed_tokens.weight"] is again["proj_out.weight"]


def test_a_name_without_a_place_is_listed():
    strange = [
        "decoder.mask",
        "alignment_heads",
        "encoder.blocks.0.cross_attn.query.weight",
        "encoder.blocks.*.mlp_ln.bias",
    ]
    tensors, left = to_hf(state() | dict.fromkeys(strange, torch.zeros(1)))
    assert left == strange
    assert tensors.keys() == to_hf(state())[0].keys()
    strange = ["model.encoder.layers.0.encoder_attn.k_proj.weight", "model.encoder.layers.0.self_attn.k_proj.bias", "x"]
    assert from_hf(tensors | dict.fromkeys(strange, torch.zeros(1)))[1] == strange


# --- files


def test_a_file_comes_back_bit_for_bit_in_less_than_its_pickle_more(tmp_path):
    tensors = {name: tensor.half() for name, tensor in state().items()}
    write_checkpoint(tmp_path / "there" / "model.pt", tensors, DIMS)
    assert openai_whisper.is_checkpoint(tmp_path / "there" / "model.pt")
    found, dims = read_checkpoint(tmp_path / "there" / "model.pt")
    assert (dims, list(dims)) == (DIMS, list(DIMS))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) and tensor.dtype == torch.float16 for name, tensor in found.items())
    content = torch.load(tmp_path / "there" / "model.pt", weights_only=True)  # as whisper.load_model does
    assert content["dims"] == DIMS and content["model_state_dict"].keys() == tensors.keys()
    write_checkpoint(tmp_path / "again.pt", tensors, DIMS)
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "there" / "model.pt").read_bytes()


def test_a_file_of_before_torch_1_6_is_read(tmp_path):
    content = {"dims": DIMS, "model_state_dict": state()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert openai_whisper.is_checkpoint(tmp_path / "a.pt")
    tensors, _ = read_checkpoint(tmp_path / "a.pt")
    assert all(torch.equal(tensor, state()[name]) for name, tensor in tensors.items())


def test_older_buffers_are_read_and_left_out(tmp_path):
    file = save(tmp_path / "a.pt", dims=DIMS, model_state_dict=state() | {"decoder.mask": torch.zeros(6, 6)})
    assert to_hf(read_checkpoint(file)[0])[1] == ["decoder.mask"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dims": None}, "holds no dims"),
        ({"dims": [1]}, "holds no dims"),
        ({"model_state_dict": None}, "holds no dims and model_state_dict"),
        ({"model_state_dict": {"a": 3}}, "more than plain tensors"),
        ({"dims": {name: size for name, size in DIMS.items() if name != "n_mels"}}, "n_mels must be .* got None"),
        ({"dims": DIMS | {"n_mels": 5.0}}, "n_mels must be .* got 5.0"),
        ({"dims": DIMS | {"n_vocab": True}}, "n_vocab must be"),
        ({"dims": DIMS | {"n_text_layer": 10**9}}, "n_text_layer must be a number from 1 to 256"),
        ({"dims": DIMS | {"n_audio_head": 3}}, "n_audio_state must be a multiple of n_audio_head"),
        ({"dims": DIMS | {"n_text_state": 10}}, "n_audio_state and n_text_state must be equal"),
        ({"dims": DIMS | {"n_mels": 80}}, r"wrong shape encoder.conv1.weight \(8, 5, 3\) instead of \(8, 80, 3\)"),
        ({"dims": DIMS | {"n_vocab": 51864}}, "wrong shape decoder.token_embedding.weight"),
        ({"dims": DIMS | {"n_text_layer": 1}}, "unexpected decoder.blocks.1"),
        ({"dims": DIMS | {"n_text_layer": 3}}, "missing decoder.blocks.2"),
        (
            {"model_state_dict": {name: tensor for name, tensor in state().items() if name != "decoder.ln.bias"}},
            "missing decoder.ln.bias",
        ),
    ],
)
def test_one_line_for_a_file_that_is_not_whole(tmp_path, change, complaint):
    file = save(tmp_path / "a.pt", **({"dims": DIMS, "model_state_dict": state()} | change))
    with pytest.raises(InputError, match=complaint) as error:
        read_checkpoint(file)
    assert str(file) in str(error.value)
    assert str(error.value).isprintable() and ";" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"model_state_dict"])
def test_one_line_for_a_file_that_is_none(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read .* as OpenAI's Whisper checkpoint") as error:
        read_checkpoint(tmp_path / "a.pt")
    assert str(error.value).isprintable()


class Hostile:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.mkdir, (str(self.place),))


@pytest.mark.parametrize("place", ["dims", "model_state_dict", "beside"])
def test_a_hostile_file_is_refused_and_never_run(tmp_path, place):
    content = {"dims": DIMS, "model_state_dict": state()} | {place: Hostile(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.mkdir; nothing was run"):
        read_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Hostile(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "what was refused does run where nobody looks"


# --- settings


def test_config_and_dims_say_the_same():
    assert dims_of(config_of(DIMS)) == DIMS
    assert config_of(DIMS)["decoder_ffn_dim"] == 32


def test_transformers_has_no_field_of_a_model_that_the_config_leaves_to_a_wrong_default():
    from transformers import WhisperConfig

    ours = config_of(DIMS)
    theirs = WhisperConfig(**ours).to_dict()
    assert {name: theirs[name] for name in ours} == ours | {"begin_suppress_tokens": [220, 50257]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"encoder_ffn_dim": 33}, "encoder_ffn_dim 32 only, got 33"),
        ({"decoder_ffn_dim": None}, "decoder_ffn_dim 32 only"),
        ({"scale_embedding": True}, "scale_embedding False only"),
        ({"activation_function": "relu"}, "activation_function gelu only"),
        ({"d_model": "8"}, "d_model must be a number"),
        ({"encoder_layers": 0}, "encoder_layers must be a number from 1 to 256"),
    ],
)
def test_a_config_that_openai_cannot_hold(change, complaint):
    with pytest.raises(InputError, match=complaint):
        dims_of(config_of(DIMS) | change)


def test_ids_of_the_three_vocabularies():
    ids = generation.token_ids
    assert ids(51864) == (50256, 50257, 50357, 50358, 50359, 50360, 50361, 50362)
    assert ids(51865) == (50257, 50258, 50358, 50359, 50360, 50361, 50362, 50363)
    assert ids(51866) == (50257, 50258, 50359, 50360, 50361, 50362, 50363, 50364)
    for vocab_size in generation.VOCABULARIES:
        tokens = special_tokens(generation.languages(vocab_size))  # the tokenizer's: the last in the vocabulary
        found = {token: i for i, token in enumerate(tokens, vocab_size - len(tokens))}
        assert ids(vocab_size) == tuple(found[token] for token in SPECIAL)
    with pytest.raises(InputError, match="vocabularies of 51864, 51865, 51866, got 51867"):
        config_of(DIMS | {"n_vocab": 51867})


def fields_of(name):
    (width, encoder, decoder, vocab_size), _ = generation.PUBLISHED[name]
    heads = {"encoder_attention_heads": width // 64, "decoder_attention_heads": width // 64}
    return dict(zip(generation.SHAPE, (width, encoder, decoder, vocab_size), strict=True)) | heads


def test_suppressed_tokens_are_transformers():
    from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS, NON_SPEECH_TOKENS_MULTI

    english, small, large = (generation.generation_of(fields_of(name)) for name in ("tiny.en", "small", "large-v3"))
    found = [settings["suppress_tokens"] for settings in (english, small, large)]
    assert [len(tokens) for tokens in found] == [90, 88, 88]
    assert all(tokens == sorted(set(tokens)) for tokens in found)
    # transformers' constants lack translate and transcribe, which the published files have.
    assert set(found[0]) == {*NON_SPEECH_TOKENS, 50357, 50358}
    assert set(found[1]) == {*NON_SPEECH_TOKENS_MULTI, 50358, 50359}
    assert found[2][:82] == found[1][:82] and found[2][82:] == [50258, *range(50359, 50364)]
    assert (len(small["lang_to_id"]), small["lang_to_id"]["<|tr|>"], small["lang_to_id"]["<|su|>"]) == (
        99,
        50268,
        50357,
    )
    assert (len(large["lang_to_id"]), large["lang_to_id"]["<|yue|>"]) == (100, 50358)
    assert not {"lang_to_id", "task_to_id"} & english.keys() and not english["is_multilingual"]
    assert all("forced_decoder_ids" not in settings for settings in (english, small, large))


def test_a_config_s_own_lists_of_suppressed_tokens_stay():
    settings = generation.generation_of(fields_of("small") | {"suppress_tokens": [], "begin_suppress_tokens": ["x"]})
    assert settings["suppress_tokens"] == [] and settings["begin_suppress_tokens"] == [220, 50257]


@pytest.mark.parametrize("name", generation.PUBLISHED)
def test_alignment_heads_of_published_shapes(name):
    fields = fields_of(name)
    heads = generation.alignment_heads(fields, name)
    assert len(heads) == len(generation.PUBLISHED[name][1].split()) >= 5
    assert heads == sorted(heads) and len({*map(tuple, heads)}) == len(heads)
    assert all(0 <= layer < fields["decoder_layers"] and 0 <= head < fields["d_model"] // 64 for layer, head in heads)
    if name not in ("large-v1", "large-v2"):
        assert generation.alignment_heads(fields, "my-model") == heads
        assert generation.alignment_heads(fields, "large-v2") == heads  # of another shape


def test_alignment_heads_of_other_shapes_are_the_upper_half():
    large = generation.alignment_heads(fields_of("large-v1"), "model")  # or large-v2: nobody can tell
    assert large == [[layer, head] for layer in range(16, 32) for head in range(20)]
    fields = fields_of("tiny") | {"decoder_layers": 3}
    assert generation.alignment_heads(fields) == [[layer, head] for layer in (1, 2) for head in range(6)]


def test_settings_of_real_folders(whisper_folder):
    for name, vocab_size in (("base", 51865), ("tiny.en", 51864)):
        folder = whisper_folder(name)
        fields = hf.read_config(folder / "config.json")
        ours = config_of(dims_of(fields))
        assert fields.pop("torch_dtype") == "float16"
        assert (ours, ours["vocab_size"]) == (fields, vocab_size)
        theirs = json.loads((folder / "generation_config.json").read_text())
        found = generation.generation_of(fields)
        if name == "tiny.en":  # this copy of the folder has no such list
            found.pop("suppress_tokens")
        assert found == theirs
        assert generation.processor_of(fields) == json.loads((folder / "preprocessor_config.json").read_text())


def test_real_weights_there_and_back(whisper_folder, tmp_path):
    folder = whisper_folder("tiny.en")
    ours = hf.read_tensors(folder)
    there, left = from_hf(ours)
    write_checkpoint(tmp_path / "tiny.en.pt", there, dims_of(hf.read_config(folder / "config.json")))
    assert left == []
    size = sum(tensor.nbytes for tensor in ours.values())
    assert size < (tmp_path / "tiny.en.pt").stat().st_size < size * 1.01  # no tensor brings its whole file along
    back, left = to_hf(read_checkpoint(tmp_path / "tiny.en.pt")[0])
    assert left == []
    assert back.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) and tensor.dtype == ours[name].dtype for name, tensor in back.items())
