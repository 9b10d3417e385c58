"""Whisper's tokenizer: labels as transformers makes them, folders in each layout, languages by Common Voice's locales.

Run: pytest tests/test_whisper_tokenizer.py
Of Whisper's own folders: pytest tests/test_whisper_tokenizer.py --whisper DIR
"""

import base64
import json
import pickle
import re
import shutil
import string

import pytest
import transformers
from conftest import SHARED
from test_bpe import SENTENCES, random_texts, trained

import w2v
from w2v.errors import InputError
from w2v.text.bpe import CHARACTERS, bytes_of
from w2v.text.locales import COMMON_VOICE_LOCALES
from w2v.text.whisper_languages import LANGUAGES, NEAR, special_tokens
from w2v.text.whisper_tokenizer import WhisperTokenizer

END, NO_CAPTIONS = "<|endoftext|>", "<|nocaptions|>"
LIKE_TOKENS = "a <|endoftext|> b<|tr|><|0.00|>"
# The locales of shared/data/cv6.
CV6 = "ab ar cs cv de en fa fi fr hi hu id ka kab ky mn or pl ru sah sv-SE th tr tt vot zh-CN".split()


def small(languages: int = 100, **settings) -> WhisperTokenizer:
    """Whisper's special tokens behind a small text vocabulary."""
    vocab, merges = trained()
    after = {token: i for i, token in enumerate(special_tokens(languages), len(vocab))}
    return WhisperTokenizer(vocab | after, merges, **settings)


@pytest.fixture(scope="module")
def tokenizer():
    return small()


@pytest.fixture
def folder(tmp_path):
    """A saved folder that says no language."""
    small().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file, **values):
    """Set values of a JSON file; None takes one away."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    content = {name: value for name, value in (content | values).items() if value is not None}
    file.write_text(json.dumps(content), encoding="utf-8")


def assert_same(one, other):
    assert one.same_vocabulary(other)
    assert [one.encode_text(text) for text in SENTENCES] == [other.encode_text(text) for text in SENTENCES]
    assert one._pairs.merges == other._pairs.merges


def assert_equals_transformers(ours, theirs, texts):
    """The vocabulary, labels, and the text of them."""
    assert ours.vocab == theirs.get_vocab() and len(ours) == len(theirs)
    assert ours.eos_id == theirs.eos_token_id == theirs.pad_token_id
    assert theirs.timestamp_ids() == list(range(ours.timestamp_begin, ours.timestamp_begin + 1501))
    assert not set(theirs.timestamp_ids()) & set(theirs.all_special_ids), "as published"
    for text in texts:
        labels = theirs(text).input_ids
        assert (labels[0], labels[1:]) == (ours.sot_id, ours.encode(text))
        assert ours.text_of(labels) == theirs.decode(labels, skip_special_tokens=True) == text


# --- labels and texts


@pytest.mark.parametrize("loader", [transformers.WhisperTokenizer, transformers.AutoTokenizer])
@pytest.mark.parametrize(("lang", "task"), [("tr", "transcribe"), ("zh-CN", "translate"), ("yue", "transcribe")])
def test_a_saved_folder_equals_transformers(loader, lang, task, tokenizer, tmp_path):
    ours = tokenizer.for_language(lang, task=task)
    ours.save_pretrained(tmp_path)
    theirs = loader.from_pretrained(tmp_path)
    assert (theirs.language, theirs.task) == (ours.language, ours.task)
    texts = [text for text in SENTENCES if "<|" not in text]
    assert_equals_transformers(ours, theirs, texts)
    again = WhisperTokenizer.from_pretrained(tmp_path)
    assert_same(again, ours)
    assert (again.language, again.task, again.is_multilingual) == (ours.language, task, True)


@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_the_published_folder_equals_transformers(name, whisper_folder, tmp_path):
    ours = WhisperTokenizer.from_pretrained(whisper_folder(name))
    assert (ours.is_multilingual, ours.language) == ((True, None) if name == "base" else (False, "en"))
    setting = {"language": "tr", "task": "transcribe"} if name == "base" else {}
    theirs = transformers.WhisperTokenizer.from_pretrained(whisper_folder(name), **setting)
    ours = ours.for_language("tr" if name == "base" else "en")
    texts = [text for text in SENTENCES if "<|" not in text] + random_texts(300)
    assert ours.vocab == theirs.get_vocab()  # it reads no special tokens from an older folder, and decodes them as text
    assert [theirs(text).input_ids for text in texts] == [[ours.sot_id, *ours.encode(text)] for text in texts]
    ours.save_pretrained(tmp_path)
    assert_equals_transformers(ours, transformers.WhisperTokenizer.from_pretrained(tmp_path), texts)
    assert_same(WhisperTokenizer.from_pretrained(tmp_path), ours)


def test_ids_of_the_published_base_model(whisper_folder):
    ours = WhisperTokenizer.from_pretrained(whisper_folder("base"), target_lang="tr")
    assert (ours.eos_id, ours.sot_id, ours.translate_id, ours.transcribe_id) == (50257, 50258, 50358, 50359)
    assert (ours.prev_id, ours.no_speech_id, ours.no_timestamps_id, ours.timestamp_begin) == (
        50361,
        50362,
        50363,
        50364,
    )
    assert (ours.language_ids["en"], ours.language_ids["su"], len(ours.language_ids)) == (50259, 50357, 99)
    assert list(ours.language_ids) == list(LANGUAGES)[:99]
    assert ours.prompt() == [50258, 50268, 50359, 50363]
    settings = json.loads((whisper_folder("base") / "generation_config.json").read_text())
    assert {f"<|{code}|>": i for code, i in ours.language_ids.items()} == settings["lang_to_id"]


def test_the_prompt_and_labels(tokenizer):
    t = tokenizer.for_language("tr")
    tr, text = t.vocab["<|tr|>"], t.encode_text("merhaba")
    assert t.prompt() == [t.sot_id, tr, t.transcribe_id, t.no_timestamps_id]
    assert t.prompt(timestamps=True) == [t.sot_id, tr, t.transcribe_id]
    assert t.encode("merhaba") == [tr, t.transcribe_id, t.no_timestamps_id, *text, t.eos_id]
    assert t.for_language("tr", task="translate").prompt()[2] == t.translate_id
    assert text and max(text) < t.eos_id
    for ask in (tokenizer.prompt, lambda: tokenizer.encode("a")):
        with pytest.raises(InputError, match="use for_language, or from_pretrained with `target_lang`"):
            ask()


def test_english_only_has_no_language_and_no_task(folder):
    change(folder / "generation_config.json", is_multilingual=False)
    t = WhisperTokenizer.from_pretrained(folder)
    assert (t.language, t.language_ids, t.is_multilingual) == ("en", {}, False)
    assert t.prompt() == [t.sot_id, t.no_timestamps_id]
    assert t.prompt(timestamps=True) == [t.sot_id]
    assert t.encode("a") == [t.no_timestamps_id, *t.encode_text("a"), t.eos_id]
    assert (
        t.for_language("en").encode("a") == t.for_language("en", prompt_language="english").encode("a") == t.encode("a")
    )
    t.save_pretrained(folder / "saved")
    again = WhisperTokenizer.from_pretrained(folder / "saved")
    assert (again.is_multilingual, again.encode("a b")) == (False, t.encode("a b"))
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "saved")
    assert theirs("a b").input_ids == [t.sot_id, *t.encode("a b")]
    for call in (
        lambda: t.for_language("tr"),
        lambda: t.for_language("en", prompt_language="tr"),
    ):
        with pytest.raises(InputError, match="weights cannot be used for tr; use the multilingual model of the same"):
            call()
    with pytest.raises(InputError, match=r"`target_lang` must be a language .* got 'tr'; give en"):
        WhisperTokenizer.from_pretrained(folder, target_lang="tr")


@pytest.mark.parametrize(("text_tokens", "is_multilingual"), [(50256, False), (50257, True), (50255, True)])
def test_gpt2_s_vocabulary_is_english_only(text_tokens, is_multilingual, tmp_path):
    """Where no file says it, as beside OpenAI's own files."""
    tokens = [*sorted(CHARACTERS), *[f"{i:08}" for i in range(text_tokens - 256)], *special_tokens(99)]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert WhisperTokenizer.from_pretrained(tmp_path).is_multilingual == is_multilingual


def test_text_that_looks_like_a_token_is_text(tokenizer):
    t = tokenizer.for_language("tr")
    ids = t.encode(LIKE_TOKENS)
    assert ids.count(t.eos_id) == 1 and t.timestamp_begin not in ids and ids.count(t.vocab["<|tr|>"]) == 1
    assert t.decode(ids) == LIKE_TOKENS


def test_decode_leaves_out_what_is_no_text(tokenizer):
    t = tokenizer.for_language("tr")
    a, b = t.encode_text(" ab"), t.encode_text(" c ")
    start, end = t.timestamp_begin, t.timestamp_begin + 1500
    ids = [t.prev_id, *a, t.no_speech_id, *t.prompt(), start, *a, end, start, *b, t.eos_id, *a, len(t), -1]
    assert t.text_of(ids) == " ab ab c  ab"
    assert t.decode(ids) == t.decode(ids, group_tokens=False) == "ab ab c  ab"
    assert t.tokens[end] == "<|30.00|>"
    euro = [t.vocab[CHARACTERS[byte]] for byte in "€".encode()]
    assert t.text_of([*euro[:2], t.eos_id, *euro[2:]]) == "€", "bytes on both sides of a token"
    assert t.text_of(euro[:2]) == "\ufffd"


def test_what_recipes_ask(tokenizer):
    assert tokenizer.unknown("日本 \x00") == [] and tokenizer.pieces("ab c") == ["a", "b", " ", "c"]
    assert (tokenizer.phonemes, tokenizer.space, tokenizer.unk, tokenizer.do_lower_case) == (False, None, None, False)
    assert not hasattr(tokenizer, "blank_id")
    assert len(tokenizer) == len(tokenizer.tokens) == len(tokenizer.vocab)
    assert all(tokenizer.vocab[token] == i for i, token in enumerate(tokenizer.tokens))
    again = pickle.loads(pickle.dumps(tokenizer.for_language("tr")))
    assert again.encode("ığdır") == tokenizer.for_language("tr").encode("ığdır")


# --- words


def peer_words(t, ids, language):
    """openai/whisper's split_to_word_tokens (MIT), of text tokens."""
    whole, words, current, offset = t.text_of(ids), [], [], 0
    for i in ids:
        current = [*current, i]
        text = t.text_of(current)
        if "\ufffd" not in text or whole[offset + text.index("\ufffd")] == "\ufffd":
            words.append((text, current))
            current, offset = [], offset + len(text)
    if language in {"zh", "ja", "th", "lo", "my", "yue"}:
        return words
    joined = []
    for text, tokens in words:
        if text.startswith(" ") or text.strip() in string.punctuation or not joined:
            joined.append((text, tokens))
        else:
            joined[-1] = (joined[-1][0] + text, joined[-1][1] + tokens)
    return joined


@pytest.mark.parametrize("language", [None, "tr", "en", "zh", "ja", "th", "lo", "my", "yue"])
def test_words_equal_openai_s(language, tokenizer):
    t = tokenizer.for_language(language) if language else tokenizer
    for text in [*SENTENCES, *random_texts(300)]:
        ids = t.encode_text(text)
        found = t.split_to_words(ids)
        assert found == peer_words(t, ids, language)
        assert [i for _, tokens in found for i in tokens] == ids


def test_words_by_hand(tokenizer):
    t = tokenizer.for_language("tr")
    ids = [t.sot_id, t.timestamp_begin, *t.encode_text(" Merhaba, dünya'ya ğ!"), t.eos_id]
    assert [word for word, _ in t.split_to_words(ids)] == [" Merhaba", ",", " dünya", "'ya", " ğ", "!"]
    assert [word for word, _ in tokenizer.for_language("zh-CN").split_to_words(t.encode_text("你好。"))] == [
        "你",
        "好",
        "。",
    ]
    assert t.split_to_words([]) == t.split_to_words([t.eos_id]) == []
    part = t.vocab[CHARACTERS[0x82]]
    assert t.split_to_words([part, part]) == [("\ufffd\ufffd", [part, part])], "bytes that are no text stay together"


# --- languages


@pytest.mark.parametrize(
    ("lang", "code"),
    [
        pair.split("=")
        for pair in (
            "tr=tr sv-SE=sv zh-CN=zh zh-TW=zh zh-HK=yue yue=yue nn-NO=nn nb-NO=no nb=no jv=jw fil=tl iw=he ne-NP=ne "
            "pa-IN=pa hy-AM=hy el-CY=el ms-MY=ms haw=haw TR=tr cmn=zh turkish=tr Turkish=tr <|tr|>=tr"
        ).split()
    ],
)
def test_locales_have_whisper_s_code(lang, code, tokenizer):
    t = tokenizer.for_language(lang)
    assert t.language == code and t.prompt()[1] == t.vocab[f"<|{code}|>"]
    assert tokenizer.language is None, "a copy"
    assert t.same_vocabulary(tokenizer)


def test_models_before_large_v3_have_no_cantonese():
    t = small(languages=99)
    assert t.for_language("zh-HK").language == "zh"
    with pytest.raises(InputError, match=r"no token for yue; .* such as zh"):
        t.for_language("yue")


@pytest.mark.parametrize(
    ("lang", "message"),
    [
        ("ky", "Whisper has no token for ky; give `prompt_language` of a language near it that it has, such as kk"),
        ("fy-NL", "no token for fy-NL; give `prompt_language` of a language near it that it has, such as nl"),
        ("rm-sursilv", "such as it"),
        ("nan-tw", "such as zh"),
        ("tw", "Whisper has no token for tw; give `prompt_language` of a language near it that it has"),
        ("\x1b[31m", r"no token for '\\x1b\[31m'"),
    ],
)
def test_a_locale_without_a_token_is_refused_with_a_language_near_it(lang, message, tokenizer):
    with pytest.raises(InputError, match=message + "$" if message.startswith("W") else message) as error:
        tokenizer.for_language(lang)
    assert str(error.value).isprintable()


def test_languages_near_others_have_tokens_and_stand_where_there_is_none():
    assert set(NEAR.values()) <= LANGUAGES.keys()
    assert not NEAR.keys() & (LANGUAGES.keys() - {"yue"})


@pytest.mark.parametrize("lang", CV6)
def test_all_languages_at_hand_have_a_token_or_a_near_one(lang, tokenizer):
    assert lang in COMMON_VOICE_LOCALES
    try:
        tokenizer.for_language(lang)
    except InputError as error:
        near = re.search(r"such as (\w+)$", str(error))
        assert tokenizer.for_language(lang, prompt_language=near[1]).language == near[1]


def test_the_locales_above_are_those_of_the_shared_data():
    if not (SHARED / "data" / "cv6").is_dir():
        pytest.skip("needs shared/data/cv6")
    assert sorted(path.name for path in (SHARED / "data" / "cv6").iterdir() if path.is_dir()) == sorted(CV6)


def test_another_language_in_place(tokenizer):
    assert tokenizer.for_language("ky", prompt_language="kk").language == "kk"
    assert tokenizer.for_language("tr", prompt_language="kazakh").language == "kk"
    with pytest.raises(InputError, match=r"`prompt_language` must be .* got 'xx'; give one of en, zh, de"):
        tokenizer.for_language("ky", prompt_language="xx")
    with pytest.raises(InputError, match="got 'cv'; give tt, which is near it, or one of"):
        tokenizer.for_language("ky", prompt_language="cv")
    with pytest.raises(InputError, match="`task` must be transcribe or translate, got 'sing'"):
        tokenizer.for_language("tr", task="sing")


def test_a_language_that_somebody_added_is_one(folder):
    size = len(small())
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    new = {str(size): {"content": "<|ckb|>", "special": True}, str(size + 1): {"content": "ñandú", "special": False},
           str(size + 2): {"content": "<noise>", "special": True}}  # fmt: skip
    change(folder / "tokenizer_config.json", added_tokens_decoder=added | new)
    t = WhisperTokenizer.from_pretrained(folder, target_lang="ckb")
    assert t.prompt()[1] == size and t.language == "ckb"
    assert t.text_of([size, size + 1, size + 2]) == "ñandú"
    assert size + 1 not in t.encode("ñandú")
    t.save_pretrained(folder / "saved")
    again = WhisperTokenizer.from_pretrained(folder / "saved", target_lang="ckb")
    assert_same(again, t)
    assert again.text_of([size, size + 1, size + 2]) == "ñandú"
    assert transformers.AutoTokenizer.from_pretrained(folder / "saved").get_vocab() == t.vocab


@pytest.mark.parametrize("value", ["tr", "turkish", "<|tr|>", "Turkish"])
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_folder_s_language_and_task(name, value, folder):
    change(folder / name, language=value, task="translate")
    t = WhisperTokenizer.from_pretrained(folder)
    assert (t.language, t.task) == ("tr", "translate")
    assert WhisperTokenizer.from_pretrained(folder, target_lang="sv-SE").language == "sv"


def test_generation_settings_win_over_the_tokenizer_s(folder):
    change(folder / "tokenizer_config.json", language="hi", task="transcribe")
    change(folder / "generation_config.json", language="<|tr|>", task="translate")
    t = WhisperTokenizer.from_pretrained(folder)
    assert (t.language, t.task) == ("tr", "translate")


def test_characters_have_no_language():
    characters = w2v.CharTokenizer.from_texts(["abc"])
    assert characters.for_language("tr") is characters
    with pytest.raises(
        InputError, match=r"`prompt_language` is for models with a language token, this one has none, .*; leave"
    ):
        characters.for_language("tr", prompt_language="kk")


def test_same_vocabulary(tokenizer):
    characters = w2v.CharTokenizer.from_texts(["abc"])
    assert characters.same_vocabulary(w2v.CharTokenizer.from_texts(["cab"]))
    assert not characters.same_vocabulary(w2v.CharTokenizer.from_texts(["abd"]))
    assert tokenizer.same_vocabulary(small()) and not tokenizer.same_vocabulary(small(languages=99))
    for one, other in ((tokenizer, characters), (characters, tokenizer), (tokenizer, None), (characters, None)):
        assert not one.same_vocabulary(other)


# --- folders


def test_fresh_weights_have_bytes(tmp_path):
    t = WhisperTokenizer.from_texts(["nothing of it counts"], exclude="n")
    assert len(t) == 256 + 1 + 1 + 100 + 6 + 1501
    assert t.encode_text("aé") == [t.vocab[char] for char in "aÃ©"]
    assert t.tokens[256:261] == [END, "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>"]
    assert t.tokens[356:366] == [
        "<|su|>", "<|yue|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
        "<|notimestamps|>", "<|0.00|>", "<|0.02|>",
    ]  # fmt: skip
    t.save_pretrained(tmp_path)
    again = WhisperTokenizer.from_pretrained(tmp_path)
    assert_same(again, t)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, language="tr", task="transcribe")
    assert_equals_transformers(t.for_language("tr"), theirs, SENTENCES[:8])


def test_byte_ids_of_fresh_weights_are_whisper_s(whisper_folder):
    real = WhisperTokenizer.from_pretrained(whisper_folder("base"))
    assert WhisperTokenizer.from_texts([]).tokens[:256] == real.tokens[:256]


def without_timestamps(folder):
    """As in the newer of the published folders."""
    decoder = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    kept = {i: entry for i, entry in decoder.items() if "." not in entry["content"]}
    change(folder / "tokenizer_config.json", added_tokens_decoder=kept)
    assert len(kept) == len(decoder) - 1501


def older(folder):
    """added_tokens.json and no added_tokens_decoder."""
    change(folder / "tokenizer_config.json", added_tokens_decoder=None)


def oldest(folder):
    """The end only among the added tokens."""
    older(folder)
    vocab = json.loads((folder / "vocab.json").read_text())
    change(folder / "added_tokens.json", **{END: vocab[END]})
    change(folder / "vocab.json", **{END: None})


def newest(folder):
    """What transformers 5 writes."""
    transformers.WhisperTokenizer.from_pretrained(folder).save_pretrained(folder / "new")
    for file in folder.glob("*.*"):
        file.unlink()
    for file in (folder / "new").iterdir():
        shutil.move(file, folder / file.name)
    assert not (folder / "vocab.json").exists() and (folder / "tokenizer.json").exists()


def newest_with_merges_as_strings(folder):
    newest(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert isinstance(model["merges"][0], list)
    change(folder / "tokenizer.json", model=model | {"merges": [" ".join(pair) for pair in model["merges"]]})


def newest_and_broken(folder):
    """Without the first merge, as in old faster-whisper conversions."""
    newest(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    change(folder / "tokenizer.json", model=model | {"merges": model["merges"][1:]})


def broken(folder):
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    (folder / "merges.txt").write_text("\n".join([lines[0], *lines[2:]]), encoding="utf-8")


def from_windows(folder):
    text = (folder / "merges.txt").read_text(encoding="utf-8")
    (folder / "merges.txt").write_bytes(text.replace("\n", "\r\n").encode())


def beside_a_broken_one(folder):
    shutil.copytree(folder, folder / "new")
    newest_and_broken(folder / "new")
    shutil.copy(folder / "new" / "tokenizer.json", folder)


LAYOUTS = [without_timestamps, older, oldest, newest, newest_with_merges_as_strings, newest_and_broken, broken,
           from_windows, beside_a_broken_one]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_same(layout, folder, caplog):
    layout(folder)
    assert_same(WhisperTokenizer.from_pretrained(folder), small())
    assert ("lacked 1 of 700 pairs" in caplog.text) == (layout in (broken, newest_and_broken))


def test_whisper_s_own_folder_in_transformers_5(whisper_folder, tmp_path):
    ours = WhisperTokenizer.from_pretrained(whisper_folder("base"))
    transformers.WhisperTokenizer.from_pretrained(whisper_folder("base")).save_pretrained(tmp_path)
    assert_same(WhisperTokenizer.from_pretrained(tmp_path), ours)


def ranks(vocab: dict[str, int]) -> bytes:
    """OpenAI's form of text tokens."""
    lines = (base64.b64encode(bytes_of(token)) or b"=" for token in sorted(vocab, key=vocab.__getitem__))
    return b"".join(b"%b %d\n" % (line, i) for i, line in enumerate(lines))


@pytest.mark.parametrize("languages", [None, 99, 100])
def test_openai_s_file(languages, tmp_path):
    vocab = trained()[0] | {"": len(trained()[0])}
    (tmp_path / "multilingual.tiktoken").write_bytes(ranks(vocab))
    if languages:
        change(tmp_path / "config.json", vocab_size=len(small(languages)) + 1)
    t = WhisperTokenizer.from_pretrained(tmp_path)
    assert t.tokens == [*sorted(vocab, key=vocab.__getitem__), *special_tokens(languages or 99)]
    assert t._pairs.merges == small()._pairs.merges and t.is_multilingual


@pytest.mark.parametrize(("name", "file"), [("base", "multilingual.tiktoken"), ("tiny.en", "gpt2.tiktoken")])
def test_openai_s_file_of_whisper_s_vocabulary(name, file, whisper_folder, tmp_path):
    ours = WhisperTokenizer.from_pretrained(whisper_folder(name))
    vocab = json.loads((whisper_folder(name) / "vocab.json").read_text(encoding="utf-8"))
    del vocab[END]
    (tmp_path / file).write_bytes(ranks(vocab))
    found = WhisperTokenizer.from_pretrained(tmp_path)
    assert [t.replace(NO_CAPTIONS, "<|nospeech|>") for t in ours.tokens] == found.tokens
    assert found._pairs.merges == ours._pairs.merges and found.is_multilingual == ours.is_multilingual


def test_the_older_name_of_no_speech(folder):
    older(folder)
    added = json.loads((folder / "added_tokens.json").read_text())
    i = added["<|nospeech|>"]
    change(folder / "added_tokens.json", **{"<|nospeech|>": None, NO_CAPTIONS: i})
    assert WhisperTokenizer.from_pretrained(folder).no_speech_id == i == small().no_speech_id


def test_ids_are_found_by_the_tokens_text():
    """In an order that no Whisper has."""
    vocab, merges = trained()
    special = special_tokens()
    order = [*reversed(special[:-1501]), *sorted(vocab, key=vocab.__getitem__), *special[-1501:]]
    t = WhisperTokenizer({token: i for i, token in enumerate(order)}, merges)
    for name, token in (
        ("eos_id", END), ("sot_id", "<|startoftranscript|>"), ("transcribe_id", "<|transcribe|>"),
        ("translate_id", "<|translate|>"), ("no_timestamps_id", "<|notimestamps|>"), ("no_speech_id", "<|nospeech|>"),
        ("prev_id", "<|startofprev|>"), ("timestamp_begin", "<|0.00|>"),
    ):  # fmt: skip
        assert getattr(t, name) == order.index(token)
    assert t.language_ids["tr"] == order.index("<|tr|>") and len(t.language_ids) == 100
    assert t.decode(t.for_language("tr").encode("çok güzel")) == "çok güzel"


@pytest.mark.parametrize(
    "token",
    [END, "<|startoftranscript|>", "<|transcribe|>", "<|translate|>", "<|startofprev|>", "<|nospeech|>",
     "<|notimestamps|>", "<|0.00|>", "<|30.00|>", "<|15.02|>"],
)  # fmt: skip
def test_a_missing_special_token_is_refused(token):
    vocab, merges = trained()
    vocab = vocab | {t: i for i, t in enumerate((t for t in special_tokens() if t != token), len(vocab))}
    with pytest.raises(InputError, match=re.escape(f"must hold its special tokens, {token} is missing")):
        WhisperTokenizer(vocab, merges)


def test_other_broken_vocabularies_are_refused():
    vocab, merges = trained()
    special = special_tokens()
    with pytest.raises(InputError, match="must hold a language token"):
        WhisperTokenizer(vocab | {t: i for i, t in enumerate(special_tokens(0), len(vocab))}, merges)
    with pytest.raises(InputError, match=r"timestamps must have ids in their order, <\|0.02\|> has"):
        swapped = [*special[:-1501], special[-1501], special[-1499], special[-1500], *special[-1498:]]
        WhisperTokenizer(vocab | {t: i for i, t in enumerate(swapped, len(vocab))}, merges)
    with pytest.raises(InputError, match="each once, 956 is missing"):
        WhisperTokenizer(vocab | {t: i for i, t in enumerate(special, len(vocab) + 1)}, merges)


def model_of(folder, **values):
    newest(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    change(folder / "tokenizer.json", model=model | values)


def ranks_of(data: bytes, size=None):
    def layout(folder):
        for file in folder.iterdir():
            file.unlink()
        (folder / "multilingual.tiktoken").write_bytes(data)
        change(folder / "config.json", vocab_size=size)

    return layout


ADDED = {"content": "<|x|>", "special": True}
BROKEN = [
    (lambda d: (d / "merges.txt").unlink(), "cannot read Whisper's merges"),
    (lambda d: (d / "vocab.json").unlink(), "must be vocab.json with merges.txt, tokenizer.json or"),
    (lambda d: (d / "merges.txt").write_bytes(b"\xff\n"), "as UTF-8"),
    (lambda d: (d / "merges.txt").write_text("#version: 0.2\na b c\n"), "merges.txt line 2 has ['a', 'b', 'c']"),
    (lambda d: (d / "merges.txt").write_text("#version: 0.2\na \n"), "merge 1 joins 'a' and ''"),
    (lambda d: (d / "merges.txt").write_text("a qqq\n"), "merge 1 joins 'a' and 'qqq'"),
    (lambda d: change(d / "vocab.json", a="x"), "ids must be whole numbers, 'a' has 'x'"),
    (lambda d: change(d / "vocab.json", a=10**12), "is missing"),
    (lambda d: change(d / "tokenizer_config.json", add_prefix_space=True), "add_prefix_space must be False"),
    (lambda d: change(d / "tokenizer_config.json", added_tokens_decoder=[1]), "added_tokens_decoder in"),
    (lambda d: change(d / "tokenizer_config.json", added_tokens_decoder={"x": ADDED}), "must give a token for each id"),
    (lambda d: change(d / "tokenizer_config.json", added_tokens_decoder={"9": "<|x|>"}), "must give a token for each"),
    (lambda d: change(d / "tokenizer_config.json", added_tokens_decoder={"9" * 5000: ADDED}), "must give a token"),
    (lambda d: change(d / "tokenizer_config.json", added_tokens_decoder={"²": ADDED}), "must give a token"),
    (lambda d: change(d / "generation_config.json", language=["tr"]), "language in"),
    (
        lambda d: change(d / "generation_config.json", language="klingon"),
        "that the model has a token for, got 'klingon'",
    ),
    (lambda d: change(d / "generation_config.json", task="sing"), "`task` must be transcribe or translate, got 'sing'"),
    (lambda d: change(d / "tokenizer_config.json", task=3), "task in"),
    (lambda d: (older(d), change(d / "added_tokens.json", a=None, b="1")), "ids must be whole numbers, 'b' has '1'"),
    (lambda d: model_of(d, type="Unigram"), "type in"),
    (lambda d: model_of(d, vocab=[1]), "vocab in"),
    (lambda d: model_of(d, merges={"a": 1}), "merges in"),
    (lambda d: model_of(d, merges=["a"]), "a merge must be two tokens"),
    (lambda d: model_of(d, merges=[["a", "b", "c"]]), "a merge must be two tokens"),
    (lambda d: model_of(d, merges=[["a", 1]]), "a merge must be two tokens"),
    (lambda d: (newest(d), change(d / "tokenizer.json", added_tokens=[1])), "added_tokens in"),
    (lambda d: (newest(d), change(d / "tokenizer.json", model=3)), "model in"),
    (
        lambda d: (newest(d), change(d / "tokenizer.json", pre_tokenizer={"add_prefix_space": True})),
        "add_prefix_space must be False",
    ),
    (ranks_of(b"IQ== 0 1\n"), "line 1 is b'IQ== 0 1'"),
    (ranks_of(b"IQ== 0\n!!!! 1\n"), "line 2 is b'!!!! 1'"),
    (ranks_of(b"IQ== x\n"), "line 1 is"),
    (ranks_of(b"IQ== 0\n"), "each of the 256 bytes"),
    (ranks_of(ranks(trained()[0] | {"qqqq": 956})), "two earlier tokens, 'qqqq' has no such two"),
    (ranks_of(ranks(trained()[0]), 51865), "vocab_size must be 2465 to 2565 for 956 text tokens"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_broken_folders_are_refused(damage, message, folder):
    damage(folder)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        WhisperTokenizer.from_pretrained(folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
