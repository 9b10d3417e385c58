"""Heads of several languages side by side: each language's loss and text are those of its own head.

Run: pytest tests/test_heads.py
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import w2v
from w2v import heads
from w2v.asr import recognise
from w2v.data.loading import ClipDataset
from w2v.decoding.language_model import load_language_model, save_language_model
from w2v.errors import InputError
from w2v.text.tokenizer import CharTokenizer

TOKENIZERS = {"tr": CharTokenizer.from_texts(["ab c"]), "ky": CharTokenizer.from_texts(["бв", "гд"])}
WAVEFORMS = [np.random.default_rng(i).normal(0, 0.1, 16_000 + 1000 * i).astype(np.float32) for i in range(4)]
ARPA = "\\data\\\nngram 1=5\n\n\\1-grams:\n-1\t<unk>\n0\t<s>\n-1\t</s>\n-1\t{}\n-1\t{}\n\n\\end\\\n"
TEXTS = [("tr", "ab c"), ("ky", "бвг"), ("tr", "cab"), ("ky", "дд")]


@pytest.fixture
def joint(small_config):
    """-> a model with both heads, the ids of each language, a batch of both languages' clips, the clips' own labels."""
    whole, rows = heads.side_by_side(TOKENIZERS)
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, **small_config.for_vocabulary(whole)))
    with torch.no_grad():
        model.lm_head.bias.normal_()
    own = [TOKENIZERS[lang].encode(text) for lang, text in TEXTS]
    labels = [[rows[lang][i] for i in ids] for (lang, _), ids in zip(TEXTS, own, strict=True)]
    masks = {lang: heads.allowed(rows[lang], len(whole)) for lang in rows}
    clips = [w2v.data.manifest.Clip(str(i), "", "", w2v.data.manifest.Source(None, "")) for i in range(4)]
    audio = dict(zip(clips, WAVEFORMS, strict=True))
    data = ClipDataset(model.config.collate, audio, clips, labels, allowed=[masks[lang] for lang, _ in TEXTS])
    return model.train(), rows, data[[0, 1, 2, 3]], own


def test_vocabularies_side_by_side():
    whole, rows = heads.side_by_side(TOKENIZERS)
    tr, ky = TOKENIZERS.values()
    assert len(whole) == len(tr) + len(ky) - 1
    assert rows["tr"][tr.blank_id] == rows["ky"][ky.blank_id] == whole.blank_id == len(whole) - 1
    assert set(rows["tr"]) & set(rows["ky"]) == {whole.blank_id}
    assert [whole.tokens[i] for i in rows["ky"]] == [f"ky:{t}" for t in ky.tokens[:-1]] + ["[PAD]"]
    assert whole.same_vocabulary(heads.side_by_side(TOKENIZERS)[0])


def test_losses_and_gradients_are_those_of_each_languages_own_head(joint):
    """In a batch of both languages; a head's gradient is 0 in the rows of the other one."""
    model, rows, batch, own = joint
    losses = model.losses(batch)
    losses.values.sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tokens = sum(p.numel() for p in model.lm_head.parameters())
    gradient = {name: torch.zeros_like(grad) for name, grad in whole.items()}
    for lang in rows:
        chosen = [i for i, (of, _) in enumerate(TEXTS) if of == lang]
        alone = model.config.collate([WAVEFORMS[i] for i in chosen], [own[i] for i in chosen])
        with heads.one_language(model, rows[lang], TOKENIZERS[lang]):
            mine = model.losses(alone)
            mine.values.sum().backward()
            for name, p in model.named_parameters():
                if name.startswith("lm_head"):
                    gradient[name].index_add_(0, torch.tensor(rows[lang]), p.grad)
        assert torch.allclose(mine.values, losses.values[chosen], rtol=1e-5), lang
    for name, p in model.named_parameters():
        if p.grad is not None and not name.startswith("lm_head"):
            gradient[name] += p.grad
    assert tokens == sum(p.numel() for p in model.lm_head.parameters())
    for name, grad in whole.items():
        torch.testing.assert_close(grad, gradient[name], rtol=1e-3, atol=1e-5, msg=name)
    first = model.config.collate(WAVEFORMS[:1], [[rows["tr"][i] for i in own[0]]])
    mask = heads.allowed(rows["tr"], len(whole["lm_head.bias"]))
    model.zero_grad()
    model.losses(dataclasses.replace(first, allowed=mask[None])).values.sum().backward()
    assert torch.isfinite(model.lm_head.weight.grad).all()
    assert not model.lm_head.weight.grad[~mask].any()
    assert model.lm_head.weight.grad[mask].any()


def test_counts_know_the_mask(joint):
    """Blank frames are those of the language's own likeliest token."""
    model, _, batch, _ = joint
    with torch.no_grad():
        model.lm_head.bias[:] = -50.0
        model.lm_head.bias[0] = 100.0  # a Turkish letter
        model.lm_head.bias[-1] = 50.0  # the blank
        counts = model.losses(batch).counts
        lengths = batch.layout.lengths
    assert counts["blank_frames"] == lengths[1] + lengths[3]


def test_one_language_is_the_model_that_would_be_saved_and_leaves_no_trace(joint, tmp_path):
    model, rows, _, _ = joint
    before, config = list(model.parameters()), model.config
    for lang, tokenizer in TOKENIZERS.items():
        with heads.one_language(model, rows[lang], tokenizer):
            texts = recognise(model, tokenizer, WAVEFORMS)
            model.save_pretrained(tmp_path / lang)
            tokenizer.save_pretrained(tmp_path / lang)
        assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
        assert model.config is config
        assert model.lm_head.out_features == len(model.lm_head.weight)
        asr = w2v.load(tmp_path / lang)
        assert [t.text for t in asr.transcribe(WAVEFORMS)] == texts
        assert torch.equal(asr.model.lm_head.weight, model.lm_head.weight[rows[lang]])
    with pytest.raises(ZeroDivisionError), heads.one_language(model, rows["tr"], TOKENIZERS["tr"]):
        1 / 0  # noqa: B018
    assert model.config is config


@pytest.fixture
def folder(joint, tmp_path):
    """As a run writes it: Turkish at its top."""
    model, rows, _, _ = joint
    with heads.one_language(model, rows["tr"], TOKENIZERS["tr"]):
        model.save_pretrained(tmp_path)
    TOKENIZERS["tr"].save_pretrained(tmp_path)
    w2v.Normaliser("tr").save(tmp_path)
    for lang, tokenizer in TOKENIZERS.items():
        own = tmp_path / heads.FOLDER / lang
        heads.save_head(own, model, rows[lang])
        tokenizer.save_pretrained(own)
        w2v.Normaliser(lang).save(own)
    return tmp_path


def test_a_language_of_a_folder(joint, folder):
    model, rows, _, _ = joint
    for lang, wanted in ((None, "tr"), ("tr", "tr"), ("ky", "ky")):
        asr = w2v.load(folder, target_lang=lang)
        assert asr.tokenizer.tokens == TOKENIZERS[wanted].tokens
        assert asr.normaliser.lang == wanted
        assert torch.equal(asr.model.lm_head.bias, model.lm_head.bias[rows[wanted]])
        assert asr.model.config.vocab_size == len(asr.tokenizer)
        assert asr.model.config.pad_token_id == asr.tokenizer.blank_id


def test_a_language_model_is_of_one_language(folder, tmp_path):
    """A Turkish one at the top of the folder is none for Kyrgyz."""
    tr, ky = TOKENIZERS.values()
    (tmp_path / "lm.arpa").write_text(ARPA.format("ab", "c"), encoding="utf-8")
    save_language_model(heads.folder_of_lm(folder, "tr"), load_language_model(tmp_path / "lm.arpa", tr), tr)
    assert [w2v.load(folder, target_lang=lang).lm is None for lang in (None, "tr", "ky")] == [False, False, True]
    (tmp_path / "lm.arpa").write_text(ARPA.format("бв", "гд"), encoding="utf-8")
    save_language_model(heads.folder_of_lm(folder, "ky"), load_language_model(tmp_path / "lm.arpa", ky), ky)
    words = [w2v.load(folder, target_lang=lang).lm.unigrams for lang in ("tr", "ky")]
    assert [set(of_lang) for of_lang in words] == [{"ab", "c"}, {"бв", "гд"}]


def test_a_language_of_a_repository(joint, folder, hub):
    model, rows, _, _ = joint
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    hub.publish("owner/name", **files)
    asr = w2v.load("owner/name", target_lang="ky")
    assert torch.equal(asr.model.lm_head.bias, model.lm_head.bias[rows["ky"]])
    assert asr.normaliser.lang == "ky"
    with pytest.raises(InputError, match="must be a language of"):
        w2v.load("owner/name", target_lang="az")


def test_what_a_folder_does_not_hold_or_holds_damaged(folder):
    for lang in ("az", "../tr", "", "x" * 300, "t\n"):
        with pytest.raises(InputError, match=r"must be a language of .* it holds ky, tr"):
            w2v.load(folder, target_lang=lang)
    own = folder / heads.FOLDER / "ky"
    good = (own / heads.FILE).read_bytes()
    for bad in (good[:100], b"", good.replace(b"lm_head.bias", b"lm_head.bies")):
        (own / heads.FILE).write_bytes(bad)
        with pytest.raises(InputError):
            w2v.load(folder, target_lang="ky")
    save_file({heads.WEIGHT: torch.zeros(3, 4), heads.BIAS: torch.zeros(3)}, own / heads.FILE)
    with pytest.raises(InputError, match="does not fit"):
        w2v.load(folder, target_lang="ky")
    (own / heads.FILE).write_bytes(good)
    (own / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(InputError):
        w2v.load(folder, target_lang="ky")


def test_a_fresh_head_keeps_what_the_old_one_knew(small_config, tmp_path):
    """Rows by character, wherever it stands; the blank's; the mean of the known characters' for new ones."""
    held = CharTokenizer.from_texts(["abc d"])
    tokenizer = CharTokenizer({"ş": 0, "c": 1, "[PAD]": 2, "a": 3, "|": 4, "[UNK]": 5})
    torch.manual_seed(0)
    old = w2v.Wav2Vec2ForCTC(dataclasses.replace(small_config, **small_config.for_vocabulary(held)))
    torch.nn.init.normal_(old.lm_head.bias)
    old.save_pretrained(tmp_path)
    fields = small_config.for_vocabulary(tokenizer)
    model = w2v.Wav2Vec2ForCTC.from_pretrained(tmp_path, new_head=True, **fields)
    heads.keep_rows(model, tmp_path, held, tokenizer, "lm_head.")
    for new, before in ((model.lm_head.weight, old.lm_head.weight), (model.lm_head.bias, old.lm_head.bias)):
        assert torch.equal(new[[1, 3, 4]], before[[held.vocab[token] for token in ("c", "a", "|")]])
        assert torch.equal(new[2], before[held.blank_id])
        mean = before[[held.vocab[token] for token in "abcd|"]].mean(0, keepdim=True)
        torch.testing.assert_close(new[[0, 5]], mean.expand_as(new[[0, 5]]))
    with pytest.raises(InputError, match=r"wrong shape .*use the vocabulary that the model was trained with"):
        heads.keep_rows(model, tmp_path, CharTokenizer.from_texts(["ab"]), tokenizer, "lm_head.")
    silent = CharTokenizer({"[PAD]": 0, "[UNK]": 1}, space=None, phonemes=True)
    model.save_pretrained(tmp_path / "silent")
    tensors = {"lm_head.weight": torch.ones(2, 128), "lm_head.bias": torch.ones(2)}
    save_file(tensors, tmp_path / "silent" / "model.safetensors")
    before = model.lm_head.weight.clone()
    heads.keep_rows(model, tmp_path / "silent", silent, tokenizer, "lm_head.")  # there is no character to keep
    assert torch.equal(model.lm_head.weight, before)
