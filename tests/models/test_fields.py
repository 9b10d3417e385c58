"""What a config.json may hold: a wrong type or an absurd size is one line that names the field.

Run: pytest tests/models/test_fields.py
"""

import dataclasses
import json
import re
import time

import pytest

import w2v
from recipes import console, cv_finetune
from w2v.errors import InputError, show

WRONG = [
    ("layerdrop", None), ("layerdrop", "0.1"), ("layerdrop", True), ("layerdrop", [0.1]), ("layerdrop", float("nan")),
    ("layerdrop", 10**400), ("layerdrop", -0.1), ("hidden_dropout", 1.0), ("hidden_dropout", float("inf")),
    ("conv_dim", 512), ("conv_dim", []), ("conv_dim", "512"), ("conv_dim", ["512"] * 6), ("conv_dim", [512.0] * 6),
    ("conv_dim", [True] * 6), ("conv_dim", [None] * 6), ("conv_dim", [0] * 6), ("conv_dim", [10**12] * 6),
    ("conv_dim", {"0": 512}), ("conv_dim", [32]), ("conv_stride", [-1] * 6), ("conv_kernel", [[3]] * 6),
    ("conv_stride", [1000] * 6), ("conv_kernel", [9000] * 6), ("feat_extract_norm", "x" * 10**5),
    ("num_attention_heads", 0), ("num_attention_heads", 3), ("num_attention_heads", -4),
    ("num_hidden_layers", 2.0), ("num_hidden_layers", 0), ("num_hidden_layers", 10**12), ("num_hidden_layers", True),
    ("num_hidden_layers", "2"), ("num_hidden_layers", None), ("num_hidden_layers", {"n": 2}),
    ("hidden_size", 10**12), ("hidden_size", -128), ("hidden_size", float("nan")), ("intermediate_size", 10**4000),
    ("vocab_size", 0), ("vocab_size", 10**12), ("vocab_size", "32"), ("vocab_size", [32]), ("pad_token_id", -1),
    ("pad_token_id", "0"), ("eos_token_id", 2.5), ("bos_token_id", False), ("do_stable_layer_norm", 1),
    ("do_stable_layer_norm", "false"), ("conv_bias", None), ("feat_extract_norm", "batch"), ("feat_extract_norm", 3),
    ("num_conv_pos_embeddings", 10**9), ("num_conv_pos_embedding_groups", 0), ("layer_norm_eps", "1e-5"),
    ("layer_norm_eps", -1.0), ("initializer_range", 10**30), ("mask_time_prob", 7), ("mask_time_length", 0),
    ("mask_time_length", 10**12), ("mask_feature_min_masks", -2), ("adapter_attn_dim", 0), ("adapter_attn_dim", 10**9),
    ("ctc_loss_reduction", 1), ("ctc_zero_infinity", "yes"), ("apply_spec_augment", 0), ("hidden_act", ["gelu"]),
    ("hidden_act", "\x1b[31m"), ("add_adapter", "no"), ("model_type", ["wav2vec2"]), ("model_type", {"a": 1}),
    ("model_type", None), ("model_type", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = w2v.CharTokenizer.from_texts(["abc"])
    config = dataclasses.replace(w2v.TINY, num_hidden_layers=1, **w2v.TINY.for_vocabulary(tokenizer))
    w2v.Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def written(folder):
    """written(text or fields) changes config.json for one test."""
    before = (folder / "config.json").read_text()

    def change(value):
        text = value if isinstance(value, str) else json.dumps(json.loads(before) | value)
        (folder / "config.json").write_text(text)

    yield change
    (folder / "config.json").write_text(before)


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: show(value, 20))
def test_wrong_fields_are_refused_by_name(field, value, folder, written):
    written({field: value})
    began = time.process_time()
    name = "architecture" if field == "model_type" else rf"\b{field}\b"
    for read in (w2v.load, w2v.Wav2Vec2ForCTC.from_pretrained):
        with pytest.raises(InputError, match=name) as error:
            read(folder)
        message = str(error.value)
        assert re.search(r"config\.json", message)
        assert ";" in message, "no remedy"
        assert message.isprintable()
        assert len(message) < 400
    assert time.process_time() - began < 5


def test_the_recipe_refuses_in_one_line(folder, written, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    written({"layerdrop": "0.1"})
    command = ["--lang", "tr", "--model", str(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        console.run(lambda: cv_finetune.main(command))
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: config.json: layerdrop must be a number, got '0.1'; use ")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"hidden_act": "\\ud800"}',
        '{"\\udfff": 1}',
        "3",
        "null",
        "",
        "\ufeff{}",
        '{"a": ' * 101 + "1" + "}" * 101,
    ],
)
def test_a_config_that_is_no_plain_json_is_refused(text, folder, written):
    written(text)
    with pytest.raises(InputError, match=r"config\.json") as error:
        w2v.load(folder)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("depth", [50, 900])
def test_a_deep_value_is_shown_in_short(depth, folder, written):
    written('{"model_type": "wav2vec2", "hidden_act": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(InputError, match=r"hidden_act|cannot read") as error:
        w2v.load(folder)
    assert len(str(error.value)) < 400


def test_what_transformers_reads_is_read(folder, written):
    """Whole numbers where a share is meant, null where nothing is known yet, lists, fields of other tools."""
    written({"layerdrop": 0, "hidden_dropout": 0, "layer_norm_eps": 1e-5, "vocab_size": None, "pad_token_id": None,
             "bos_token_id": None, "_name_or_path": "x", "conv_dim": list(w2v.TINY.conv_dim), "do_normalize": False,
             "torch_dtype": "float16"})  # fmt: skip
    config = w2v.Wav2Vec2ForCTC.from_pretrained(folder, new_head=True, vocab_size=7).config
    assert (config.layerdrop, type(config.layerdrop)) == (0.0, float)
    assert (config.conv_dim, config.pad_token_id, config.bos_token_id) == (w2v.TINY.conv_dim, 0, None)
    assert config.do_normalize, "it is preprocessor_config.json that says so"


def test_overrides_are_checked_alike(folder):
    with pytest.raises(InputError, match="hidden_dropout must be a number, got 'much'"):
        w2v.Wav2Vec2ForCTC.from_pretrained(folder, hidden_dropout="much")
    with pytest.raises(InputError, match="conv_dim must be a list with a whole number"):
        dataclasses.replace(w2v.TINY, conv_dim=5)
