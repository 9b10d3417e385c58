"""A tokenizer's files, with each setting that a public CTC model can have: as transformers reads them, or refused.

Run: pytest tests/test_tokenizer_folder.py
"""

import json
import random
import re

import pytest
from transformers import Wav2Vec2CTCTokenizer

import w2v
from w2v.errors import InputError

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "[UNK]", "[PAD]", "[CLS]", "<extra>"]
LOWER = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abceinstv'.,?"]
UPPER = [token.upper() if len(token) == 1 else token for token in LOWER]
NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def folder_of(directory, tokens, config=None, **files):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    for name, value in {"tokenizer_config": config, **files}.items():
        if value is not None:
            (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


def peer(folder):
    """Their tokenizer. transformers 5 loses word_delimiter_token while it reads a folder; 4 did not."""
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    file = folder / "tokenizer_config.json"
    theirs._word_delimiter_token = (json.loads(file.read_text()) if file.exists() else {}).get(
        "word_delimiter_token", "|"
    )
    return theirs


def spoken(text: str) -> str:
    """Their text without the special tokens that they write, and with one space where that leaves two."""
    for token in SPECIAL:
        text = text.replace(token, "").replace(token.lower(), "")
    return " ".join(text.split())


def assert_equal(tokenizer, theirs, words="abceinst'."):
    rng = random.Random(0)
    assert tokenizer.vocab == theirs.get_vocab()
    assert (tokenizer.blank_id, tokenizer.pad) == (theirs.pad_token_id, theirs.pad_token)
    for _ in range(300):
        frames = [i for i in rng.choices(range(len(tokenizer)), k=12) for _ in range(rng.randint(1, 2))]
        without = [i for i in frames if i == tokenizer.blank_id or tokenizer._written[i]]
        assert tokenizer.decode(without) == theirs.decode(without)
        assert " ".join(tokenizer.decode(frames).split()) == spoken(theirs.decode(frames)) or tokenizer.clean_up
        text = " ".join("".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3)))
        assert tokenizer.encode(text) == theirs(text).input_ids, text


@pytest.mark.parametrize(
    ("tokens", "config"),
    [
        (LOWER, NAMES),
        (UPPER, NAMES | {"do_lower_case": True}),
        (LOWER, NAMES | {"do_lower_case": True}),  # nothing is known but "|", and texts have no capitals
        (LOWER, NAMES | {"do_lower_case": False, "clean_up_tokenization_spaces": True}),
        (UPPER, NAMES | {"do_lower_case": True, "clean_up_tokenization_spaces": True}),
        (LOWER, {}),  # all by their default names
        (LOWER, None),
        ([t.replace("|", "_") for t in LOWER], NAMES | {"word_delimiter_token": "_"}),
        ([t.replace("|", "_") for t in LOWER], NAMES | {"word_delimiter_token": "_", "eos_token": None}),
        ([t.replace("|", " ") for t in LOWER], NAMES | {"word_delimiter_token": " "}),
        (LOWER, NAMES | {"pad_token": "'", "padding_side": "left", "model_max_length": 10**30}),
        ([*LOWER, "[CLS]"], NAMES | {"cls_token": "[CLS]", "mask_token": "[CLS]"}),
        ([*LOWER, "<extra>"], NAMES | {"additional_special_tokens": ["<extra>"]}),
        ([*LOWER, "<extra>"], NAMES | {"extra_special_tokens": {"image_token": "<extra>"}}),
        (LOWER, NAMES | {"replace_word_delimiter_char": " ", "processor_class": "Wav2Vec2Processor"}),
    ],
)
def test_settings_equal_transformers(tokens, config, tmp_path):
    """What is read from a folder, and what is read from what that saves."""
    theirs = peer(folder_of(tmp_path, tokens, config))
    tokenizer = w2v.CharTokenizer.from_pretrained(tmp_path)
    words = "abceinst'." if tokenizer.pad != "'" else "abceinst."
    assert_equal(tokenizer, theirs, words)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert_equal(tokenizer, peer(tmp_path / "saved"), words)
    assert_equal(w2v.CharTokenizer.from_pretrained(tmp_path / "saved"), theirs, words)


def test_capitals_by_hand(tmp_path):
    tokenizer = w2v.CharTokenizer.from_pretrained(folder_of(tmp_path, UPPER, NAMES | {"do_lower_case": True}))
    a, s, space = (tokenizer.vocab[token] for token in "AS|")
    assert tokenizer.encode("a ß") == [a, space, s, s]
    assert tokenizer.decode([a, space, s, 0, s]) == "a ss"
    assert tokenizer.unknown("a ßw") == ["w"]


@pytest.mark.parametrize("token", ["<pad>", {"content": "<pad>"}, {"content": "<pad>", "__type": "AddedToken"}])
@pytest.mark.parametrize("place", ["tokenizer_config", "special_tokens_map"])
def test_tokens_are_strings_or_objects_in_either_file(token, place, tmp_path):
    tokens = [*LOWER, "[PAD]"]  # which would be the default
    tokenizer = w2v.CharTokenizer.from_pretrained(folder_of(tmp_path, tokens, **{place: {"pad_token": token}}))
    assert (tokenizer.pad, tokenizer.blank_id) == ("<pad>", 0)


def test_special_tokens_map_wins_as_in_transformers(tmp_path):
    names = {"pad_token": "a", "word_delimiter_token": "|"}
    folder_of(tmp_path, LOWER, names, special_tokens_map={"pad_token": "<pad>"})
    assert w2v.CharTokenizer.from_pretrained(tmp_path).pad == "<pad>"
    assert Wav2Vec2CTCTokenizer.from_pretrained(tmp_path).pad_token == "<pad>"
    folder_of(tmp_path, LOWER, names | {"added_tokens_decoder": {"0": {"content": "<pad>"}}})  # a newer folder
    assert w2v.CharTokenizer.from_pretrained(tmp_path).pad == Wav2Vec2CTCTokenizer.from_pretrained(tmp_path).pad_token


def test_added_tokens_that_are_text_stay_text(tmp_path):
    """One special by its mark, one that is a letter pair."""
    added = {"18": {"content": "ch", "special": False}, "19": {"content": "<noise>", "special": True}}
    folder_of(tmp_path, LOWER, NAMES | {"added_tokens_decoder": added})
    tokenizer, theirs = w2v.CharTokenizer.from_pretrained(tmp_path), Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab == theirs.get_vocab()
    assert tokenizer.encode("chin") == theirs("chin").input_ids == [18, *tokenizer.encode("in")]
    assert tokenizer.decode([18, 19, 5]) == "cha" == theirs.decode([18, 19, 5]).replace("<noise>", "")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert w2v.CharTokenizer.from_pretrained(tmp_path / "saved").decode([18, 19, 5]) == "cha"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {"replace_word_delimiter_char": "-"}}, "replace_word_delimiter_char must be ' '"),
        ({"config": {"replace_word_delimiter_char": ""}}, "replace_word_delimiter_char must be ' '"),
        ({"config": {"split_special_tokens": True}}, "split_special_tokens must be False"),
        ({"config": {"do_lower_case": "yes"}}, "do_lower_case in"),
        ({"config": {"clean_up_tokenization_spaces": [1]}}, "clean_up_tokenization_spaces in"),
        ({"config": {"additional_special_tokens": "<x>"}}, "additional_special_tokens in"),
        ({"config": {"additional_special_tokens": [3]}}, "additional_special_tokens in"),
        ({"config": {"added_tokens_decoder": [1]}}, "added_tokens_decoder in"),
        ({"config": {"added_tokens_decoder": {"x": {"content": "a"}}}}, "added_tokens_decoder in"),
        ({"config": {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}}, "added_tokens_decoder in"),
        ({"config": {"added_tokens_decoder": {"18": {"content": None}}}}, "added_tokens_decoder in"),
        ({"config": {"bos_token": {"x": 1}}}, "bos_token in"),
        ({"config": {"mask_token": ["[MASK]"]}}, "mask_token in"),
        ({"config": {"target_lang": {"x": 1}, "pad_token": 3}}, "pad_token in"),
        ({"special_tokens_map": {"pad_token": ["<pad>"]}}, "pad_token in"),
        ({"special_tokens_map": [1]}, "must hold a JSON object"),
        ({"added_tokens": {"<x>": None}}, "whole numbers, '<x>' has None"),
        ({"added_tokens": {"<x>": 10**12}}, "is missing"),
        ({"added_tokens": {"<x>": 0}}, "is missing"),
        ({"added_tokens": {"a": 18}}, "is missing"),
    ],
)
def test_broken_settings_are_refused_by_name(files, message, tmp_path):
    folder_of(tmp_path, LOWER, **files)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        w2v.CharTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vocab", "tokenizer_config", "added_tokens", "special_tokens_map"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 100_000, '{"\\ud800": 0}', '{"a": "\\udc00"}', "1", ""])
def test_files_that_are_no_plain_json_are_refused(name, content, tmp_path):
    folder_of(tmp_path, LOWER)
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(InputError) as error:
        w2v.CharTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    str(error.value).encode()  # it can be printed


def test_languages_are_named_in_one_printable_line(tmp_path):
    vocab = {f"{mark}{i}" + "x" * 1000: {"a": 0} for i in range(99) for mark in ("\x1b[31m", "a" * 300)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(InputError, match=r"it holds a+") as error:
        w2v.CharTokenizer.from_pretrained(tmp_path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600
