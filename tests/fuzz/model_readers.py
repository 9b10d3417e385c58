"""Readers of models and runs: what a folder in any layout holds, and what a run left."""

import bz2
import contextlib
import dataclasses
import functools
import gzip
import io
import json
import lzma
import os
import random
import re
import shutil
import tempfile
import zipfile
import zlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, save

import w2v
from recipes import checkpoints, convert, run_folder
from recipes.cv_finetune import is_over
from recipes.prepared import Prepared
from recipes.presets import BY_MEMORY
from recipes.results import Prediction, write_results
from recipes.settings import Settings
from recipes.start import StartingPoint, from_folder
from w2v.answers import Batch
from w2v.data.splits import Splits
from w2v.decoding.arpa import write_arpa
from w2v.decoding.estimate import Corpus, estimate_ngram
from w2v.decoding.language_model import LanguageModel, load_language_model, save_language_model
from w2v.decoding.ngram import NGram
from w2v.decoding.ngram_file import load_ngram, save_ngram
from w2v.errors import InputError
from w2v.metrics import error_rates
from w2v.model_card import CardFacts, model_card
from w2v.models.whisper_config import WhisperConfig
from w2v.text.normalise import Normaliser
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.training.optim import adamw, schedule
from w2v.training.state import Progress, StateWriter, load_state, save_state
from w2v.training.step import TrainStep
from w2v.weights import fairseq, hf, hub, openai_whisper, torchaudio
from w2v.weights.fairseq import read_checkpoint

with contextlib.suppress(ImportError):
    import matplotlib.figure  # noqa: F401  makes its folders and its list of fonts, before such things are findings

from .harness import Reader
from .hostile_pickles import RAN, RUNS, hostile
from .mutators import mutate_bytes, mutate_json, mutate_jsonl, mutate_text

TOKENIZER = w2v.CharTokenizer.from_texts(["abcdefg h"])
CONFIG = dataclasses.replace(
    w2v.TINY,
    **w2v.TINY.for_vocabulary(TOKENIZER),
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=8,
    conv_dim=(4, 4),
    conv_kernel=(10, 8),
    conv_stride=(5, 4),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=8,
)
WAVEFORM = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
LANGUAGE = "tur"


@functools.cache
def files(adapters: bool = False) -> dict[str, bytes]:
    """A whole model folder."""
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, adapter_attn_dim=2) if adapters else CONFIG
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        w2v.Wav2Vec2ForCTC(config).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        w2v.Normaliser("tr", keep_chars="-", remove_chars="q").save(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def put(folder: Path, data: dict[str, bytes], without: tuple[str, ...] = ()) -> None:
    for name, content in data.items():
        if name not in without:
            (folder / name).write_bytes(content)


def used(asr: w2v.Recogniser, folder: Path) -> str:
    """What a loaded model is asked for: text, a training loss, to be saved and read again."""
    text = asr.transcribe([WAVEFORM])[0].text
    speaks = getattr(asr.tokenizer, "prompt", None) is None or asr.tokenizer.language is not None
    labels = (asr.tokenizer if speaks else asr.tokenizer.for_language("tr")).encode("abc ab")
    asr.tokenizer.unknown("a b")
    batch = asr.model.config.collate([WAVEFORM], [labels])
    if asr.model.config.why_not(len(WAVEFORM), labels) is None:
        asr.model.train()
        asr.model.losses(batch)
        asr.model.eval()
    asr.model.save_pretrained(folder / "saved")
    asr.tokenizer.save_pretrained(folder / "saved")
    assert w2v.load(folder / "saved").transcribe([WAVEFORM])[0].text == text
    return text


def read_model(name: str, without: tuple[str, ...] = (), more: tuple[tuple[str, bytes], ...] = ()):
    """A reader of one file of a folder, as recognisers and trainings read it."""

    def read(folder: Path, data: bytes) -> object:
        put(folder, files(), without)
        put(folder, dict(more))
        (folder / name).write_bytes(data)
        try:
            asr = w2v.load(folder)
        finally:
            with contextlib.suppress(InputError):  # it may ask for less, and must fail in the same manner
                start = from_folder(str(folder), folder)
                start.build(TOKENIZER, {})
        return used(asr, folder)

    return read


def seed(*names: str):
    return lambda folder: [files()[name] for name in names]


def json_seeds(*values: object):
    return lambda folder: [json.dumps(value, indent=1).encode() for value in values]


ADDED = {"<s>": len(TOKENIZER), "</s>": len(TOKENIZER) + 1}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]", "pad_token": "[PAD]"}
SPELLED = {name: {"content": token, "lstrip": False, "__type": "AddedToken"} for name, token in TOKENS.items()}
DECODER = {str(i): {"content": token, "special": True} for token, i in ADDED.items()}


def tokenizer_configs(folder: Path) -> list[bytes]:
    own = json.loads(files()["tokenizer_config.json"])
    more = {"do_lower_case": True, "clean_up_tokenization_spaces": True, "additional_special_tokens": ["<x>"]}
    further = {**own, **more, **SPELLED, "added_tokens_decoder": DECODER, "tokenizer_class": "Wav2Vec2CTCTokenizer"}
    phonemes = {**own, "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "phone_delimiter_token": " "}
    return [json.dumps(value, indent=1).encode() for value in (own, further, phonemes)]


def vocabularies(folder: Path) -> list[bytes]:
    own = json.loads(files()["vocab.json"])
    units = {"ch" if token == "a" else "sch" if token == "b" else token: i for token, i in own.items()}
    return [json.dumps(value, ensure_ascii=False, indent=1).encode() for value in (own, units, {LANGUAGE: own})]


def read_normaliser(folder: Path, data: bytes) -> object:
    (folder / "normaliser.json").write_bytes(data)
    rules = Normaliser.from_pretrained(folder)
    text = rules("Iğdır'da Q-bir, İstanbul! ½ a\u0301")
    rules.save(folder / "saved")
    assert Normaliser.from_pretrained(folder / "saved")(text) == text
    return text


def processors(folder: Path) -> list[bytes]:
    heard = json.loads(files()["preprocessor_config.json"])
    return [json.dumps({"feature_extractor": heard, "processor_class": "Wav2Vec2Processor"}).encode()]


# --- weights


def tensors(adapters: bool = False) -> dict[str, torch.Tensor]:
    return load(files(adapters)["model.safetensors"])


def pickled(value: object, is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """The header as JSON, three times in four, with a length that fits; else bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.25 or not 0 < size <= len(data) - 8:
        return mutate_bytes(rng, data)
    header = mutate_json(rng, data[8 : 8 + size])
    if rng.random() < 0.3:
        kinds = (b"F64", b"F16", b"BF16", b"I64", b"I8", b"U8", b"BOOL", b"F8_E4M3", b"F8_E5M2", b"C64", b"U64", b"F4")
        header = re.sub(rb'"F32"', b'"' + rng.choice(kinds) + b'"', header, count=rng.choice((0, 1)))
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate_zip(rng: random.Random, data: bytes) -> bytes:
    """A pickle inside of its archive, half of the time."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist()}
    except Exception:  # an input that is spliced of two
        return mutate_bytes(rng, data)
    name = rng.choice((*members, *[name for name in members if name.endswith("data.pkl")] * 20))
    members[name] = mutate_bytes(rng, members[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def read_safetensors(folder: Path, data: bytes) -> object:
    put(folder, files())
    (folder / "model.safetensors").write_bytes(data)
    with contextlib.suppress(InputError):
        hf.tensor_names(folder / "model.safetensors")
    try:
        return used(w2v.load(folder), folder)
    finally:
        with contextlib.suppress(InputError):
            convert.main([str(folder), str(folder / "converted"), "--to", "fairseq"])


def read_bin(folder: Path, data: bytes) -> object:
    put(folder, files(), ("model.safetensors",))
    (folder / "pytorch_model.bin").write_bytes(data)
    try:
        used(w2v.load(folder), folder)
    finally:
        with contextlib.suppress(InputError):
            hub.as_safetensors(folder, folder / "target")


def index(suffix: str):
    def seeds(folder: Path) -> list[bytes]:
        names = sorted(tensors())
        halves = {name: f"{'a' if i % 2 else 'b'}{suffix}" for i, name in enumerate(names)}
        total = sum(tensor.nbytes for tensor in tensors().values())
        return [json.dumps({"metadata": {"total_size": total}, "weight_map": halves}, indent=1).encode()]

    return seeds


def read_index(name: str, suffix: str):
    def read(folder: Path, data: bytes) -> object:
        put(folder, files(), ("model.safetensors",))
        names = sorted(tensors())
        for shard, half in ((f"b{suffix}", names[::2]), (f"a{suffix}", names[1::2])):
            part = {name: tensors()[name] for name in half}
            (folder / shard).write_bytes(pickled(part, True) if suffix == ".bin" else save(part))
        (folder / name).write_bytes(data)
        with contextlib.suppress(InputError):
            hf.tensor_names(folder / name)
        return used(w2v.load(folder), folder)

    return read


@functools.cache
def fairseq_files() -> tuple[bytes, ...]:
    found = fairseq.from_hf(tensors())[0]
    body = {name: tensor for name, tensor in tensors().items() if not name.startswith("lm_head")}
    args = {"conv_feature_layers": "[(4, 10, 5)] + [(4, 8, 4)]", "encoder_attention_heads": 1, "layer_norm_first": True}
    cfg = {"model": {**args, "w2v_args": Namespace(**args)}, "task": {"data": "/x"}}
    return (
        pickled({"model": found, "args": Namespace(**args), "optimizer_history": [{"num_updates": 3}]}, True),
        pickled({"model": fairseq.from_hf(body)[0], "cfg": cfg, "args": None}, True),
        pickled({"model": found, "args": Namespace(**args), "extra_state": {"epoch": 1, "val_loss": 1.5}}, False),
    )


def read_fairseq(folder: Path, data: bytes) -> object:
    (folder / "a.pt").write_bytes(data)
    return convert.main([str(folder / "a.pt"), str(folder / "out")])


def dictionaries(folder: Path) -> list[bytes]:
    return [
        b"| 500\n" + b"".join(b"%c %d\n" % (c, 200 - c) for c in b"abcdef"),
        b"| 9\nb 3\n<pad> 2 #fairseq:overwrite\nc 2\nd 1\ne 1\nf 1\n",
    ]


def read_dictionary(folder: Path, data: bytes) -> object:
    (folder / "dict.ltr.txt").write_bytes(data)
    (folder / "a.pt").write_bytes(fairseq_files()[0])
    return convert.main([str(folder / "a.pt"), str(folder / "out")])


def adapter_files(suffix: str):
    def seeds(folder: Path) -> list[bytes]:
        found = {
            name: t for name, t in tensors(True).items() if ".adapter_layer." in name or name.startswith("lm_head")
        }
        return [save(found)] if suffix == ".safetensors" else [pickled(found, True), pickled(found, False)]

    return seeds


def read_adapter(suffix: str):
    def read(folder: Path, data: bytes) -> object:
        put(folder, files(adapters=True))
        file = folder / f"adapter.{LANGUAGE}{suffix}"
        file.write_bytes(data)
        if suffix == ".safetensors":
            return used(w2v.load(folder, target_lang=LANGUAGE), folder)
        asr = w2v.load(folder)
        asr.model.load_adapter(file)
        return used(asr, folder)

    return read


def torchaudio_files(folder: Path) -> list[bytes]:
    found = torchaudio.from_hf(tensors())[0]
    return [pickled(found, True), pickled(found, False)]


def read_torchaudio(folder: Path, data: bytes) -> object:
    (folder / "a.pth").write_bytes(data)
    put(folder, {"config.json": files()["config.json"]})
    return convert.main([str(folder / "a.pth"), str(folder / "out")])


def whisper_config(vocab_size: int) -> dict:
    sizes = dict(zip(openai_whisper.DIMS, (2, 3, 2, 1, 1, 51864, 2, 2, 1, 1), strict=True))
    return openai_whisper.config_of(sizes) | {"vocab_size": vocab_size}


@functools.cache
def whisper_files() -> tuple[bytes, ...]:
    """OpenAI's .pt: one of a few kilobytes, whose config.json must lie beside it, and one that needs none."""
    torch.manual_seed(0)
    found = []
    for vocab_size in (7, 51864):
        dims = openai_whisper.dims_of(whisper_config(vocab_size))
        state = {n: torch.randn(shape).half() for n, shape in openai_whisper._shapes_of(dims, 99).items()}
        for is_zip in (True, False) if vocab_size == 7 else (True,):
            found.append(pickled({"dims": dims, "model_state_dict": state}, is_zip))
    return tuple(found)


def read_whisper(folder: Path, data: bytes) -> object:
    (folder / "a.pt").write_bytes(data)
    put(folder, {"config.json": json.dumps(whisper_config(7)).encode()})
    with contextlib.suppress(InputError):
        openai_whisper.is_checkpoint(folder / "a.pt")
        convert.main([str(folder / "a.pt"), str(folder / "beside")])
    (folder / "config.json").unlink()
    return convert.main([str(folder / "a.pt"), str(folder / "out")])


@functools.cache
def small_whisper() -> dict[str, bytes]:
    """A whole folder of a Whisper model with windows of a second."""
    torch.manual_seed(0)
    tokenizer = WhisperTokenizer.from_texts(["a"])
    config = WhisperConfig(
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, max_source_positions=50, max_target_positions=16, num_mel_bins=4,
        vocab_size=len(tokenizer), decoder_start_token_id=tokenizer.sot_id, eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.eos_id,
    )  # fmt: skip
    fields = config.for_vocabulary(tokenizer.for_language("tr"))
    generation = dataclasses.replace(fields["generation"], suppress_tokens=(1, 2, 7), begin_suppress_tokens=(220, 256))
    config = dataclasses.replace(config, **fields | {"generation": generation})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        w2v.WhisperForConditionalGeneration(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def read_small_whisper(name: str):
    """A reader of one of its files, as recognisers and trainings read it: windows side by side, in turn, words."""

    def read(folder: Path, data: bytes) -> object:
        put(folder, small_whisper())
        (folder / name).write_bytes(data)
        try:
            asr = w2v.load(folder)
        finally:
            with contextlib.suppress(InputError):  # it may ask for less, and must fail in the same manner
                start = from_folder(str(folder), folder)
                tokenizer = start.tokenizer.for_language("tr")
                start.build(tokenizer, {}, labels=[tokenizer.encode("abc")])
        asr.transcribe([WAVEFORM, np.tile(WAVEFORM, 11)], words=True)
        return used(asr, folder)

    return read


def read_whisper_folder(name: str):
    def read(folder: Path, data: bytes) -> object:
        (folder / "a.pt").write_bytes(whisper_files()[0])
        put(folder, {"config.json": json.dumps(whisper_config(7)).encode()})
        convert.main([str(folder / "a.pt"), str(folder / "model")])
        (folder / "model" / name).write_bytes(data)
        with contextlib.suppress(InputError):
            convert.main([str(folder / "model"), str(folder / "there"), "--to", "openai"])
            (folder / "there" / name).write_bytes(data)
            convert.main([str(folder / "there"), str(folder / "back")])
        return convert.main([str(folder / "model"), str(folder / "out")])

    return read


# --- runs


SETTINGS = Settings(
    preset="small", epochs=3, total_steps=9, lr=1e-3, schedule="linear", warmup_steps=1, head_warmup_steps=0,
    adam_betas=(0.9, 0.98), layer_decay=1.0, weight_decay=0.0, max_grad_norm=1.0,
    batch_seconds=10.0, batch_clips=None, accumulation=1,
    precision="fp32", gradient_checkpointing=False, train_feature_encoder=True,
    freeze_encoder=False, freeze_layers=0, keep_best=True, start_share=0.0, augment="none", mask_from=0,
    keep_checkpoints=2,
    patience=None, eval_steps=3, save_steps=3, log_steps=3, seed=0, processes=1,
)  # fmt: skip
RECORD = {
    "id": "0" * 32, "command": ["python", "-m", "recipes.cv_finetune", "--lang", "tr"],
    "arguments": {"lang": "tr", "out": "x", "resume": False, "lr": None},
    "model": "random:tiny", "model_commit": "", "settings": json.loads(json.dumps(dataclasses.asdict(SETTINGS))),
    "model_config": CONFIG.to_dict(), "normaliser": {"lang": "tr", "case": "lower", "keep": "", "remove": ""},
    "vocabulary": TOKENIZER.tokens, "data_fingerprint": "0123456789abcdef", "data": {"clips": 3}, "decisions": ["a: b"],
    "versions": {"w2v": "0"}, "git_commit": None, "machine": "x",
}  # fmt: skip
RECORD["checksum"] = run_folder.checksum(RECORD)


def run(folder: Path) -> Path:
    """A folder inside of the one that may be written to: what is written whole makes its folder."""
    (folder / "run").mkdir()
    return folder / "run"


def read_run(folder: Path, data: bytes) -> object:
    """What --resume reads of a run, in the command's order."""
    folder = run(folder)
    (folder / "run.json").write_bytes(data)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert run_folder.is_run(folder) in (True, False)
    run_folder.check_out(folder, resume=True, overwrite=False)
    recorded = run_folder.recorded_settings(folder, resume=True)
    if recorded is not None:
        assert all(name in recorded for name in BY_MEMORY)
    run_folder.check_same_run(run_folder.read_run(folder), json.loads(json.dumps(RECORD)))
    return recorded


@functools.cache
def fresh_step() -> TrainStep:
    torch.manual_seed(0)
    return new_step()


def new_step() -> TrainStep:
    trained = w2v.Wav2Vec2ForCTC(dataclasses.replace(CONFIG, layerdrop=0.0)).train()
    return TrainStep(trained, adamw(trained, 1e-3, (0.9, 0.98), 0.0), schedule("linear", 9, 1))


def one_step(step: TrainStep, number: int) -> None:
    batch: Batch = CONFIG.collate([WAVEFORM], [[1, 2]])
    step.begin(number)
    step.backward(step.losses(batch, last=True), step.total_weight([batch]))
    step.update()


def states(folder: Path) -> list[bytes]:
    torch.manual_seed(0)
    step = new_step()
    found = []
    for number in (0, 1):
        save_state(folder / "a.pt", step, Progress(step=number, best_cer=0.5 if number else None, best_step=1))
        found.append((folder / "a.pt").read_bytes())
        one_step(step, number)
    return found


def read_state(folder: Path, data: bytes) -> object:
    folder = run(folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-0000001.pt").write_bytes(data)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 5, "loss": 1.0}\n')
    step = new_step()
    progress = checkpoints.load_progress(folder, step, keep=2)
    is_over(progress, SETTINGS)
    one_step(step, progress.step)
    progress.step += 1
    checkpoints.save_checkpoint(folder, StateWriter(step), progress, keep=2, wait=True)
    json.dumps(dataclasses.asdict(progress), allow_nan=False)
    return progress


METRICS = [
    {"step": 1, "epoch": 0, "loss": 2.5, "lr": 1e-3, "grad_norm": 1.0, "audio_s_per_s": 3.0, "blank_ratio": 0.5},
    {"step": 2, "epoch": 0, "dev_wer": 1.0, "dev_cer": 0.5},
    {"step": 4, "epoch": 1, "loss": 1.5, "lr": 5e-4, "grad_norm": 1.0, "audio_s_per_s": 3.0, "blank_ratio": 0.25},
]
FACTS = CardFacts(
    name="a",
    lang="tr",
    family="wav2vec 2.0",
    model_type="wav2vec2",
    model_class="Wav2Vec2ForCTC",
    has_frames=True,
    start="random:tiny",
    hub_id="",
    licence="",
    data="data",
    releases=[],
    data_names=["data"],
    split_names=(["train"], "dev", "test"),
    splits={},
    results={"test": error_rates(["a"], ["b"])},
    headline="wer",
    hardware="CPU",
    training_seconds=1.0,
    weights_of=4,
    steps=(4, 4),
)


def read_metrics(folder: Path, data: bytes) -> object:
    """What resuming drops of a log, and the report that a run's end makes of the rest."""
    folder = run(folder)
    (folder / "run.json").write_text(json.dumps(RECORD))
    (folder / "metrics.jsonl").write_bytes(data)
    write_end(folder)
    run_folder.restore_log(folder / "metrics.jsonl", METRICS[:2])
    write_end(folder)
    return (folder / "metrics.jsonl").read_text(encoding="utf-8")


def write_end(folder: Path) -> None:
    nothing, rules = Splits([], [], []), w2v.Normaliser("tr")
    prepared = Prepared("tr", "data", [], False, rules, TOKENIZER, nothing, {}, None, [], "x", ["a: b"], {})
    predictions = {"test": [Prediction("a.mp3", "a", "b")], "dev": [], "train": []}
    write_results(folder, FACTS, predictions, SETTINGS, prepared, {"wer": 1.0})


def is_log(value) -> bool:
    return [json.loads(line) for line in value.splitlines()] == METRICS[:2]


def cards(folder: Path) -> list[bytes]:
    return [
        b"---\nlanguage: tr\nlicense: cc-by-nc-4.0\ntags:\n- mms\n---\n# MMS\n",
        b'---\nlicense: "apache-2.0"\n---\ntext --- more\n', b"# A model without metadata\nlicense: mit\n",
    ]  # fmt: skip


def read_card(folder: Path, data: bytes) -> object:
    (folder / "README.md").write_bytes(data)
    start = StartingPoint(str(folder), None, None, folder)  # type: ignore[arg-type]
    card = model_card(dataclasses.replace(FACTS, licence=start.licence))
    return start.licence, card


def is_licence(value) -> bool:
    licence, card = value
    return len(licence) <= 100 and ModelCard(card).data.license == (licence or None)


# --- language models


def language_model() -> NGram:
    corpus = Corpus()
    for line in ("abc de", "de abc fa", "fa abc de", "abc\u00a0g \u00e9", "de de"):
        corpus.add(line.split(" "))
    return estimate_ngram(corpus, 3).ngram


def arpas(folder: Path) -> list[bytes]:
    write_arpa(folder / "seed.arpa", language_model())
    data = (folder / "seed.arpa").read_bytes()
    (folder / "seed.arpa").unlink()
    lines = data.split(b"\n")
    srilm = b"\n".join(re.sub(rb"\t0$", b"", line) for line in lines).replace(b"\n0\t<s>", b"\n-99\t<s>")
    return [data] * 4 + [srilm] * 3 + [gzip.compress(data), bz2.compress(data), lzma.compress(data)]


def mutate_arpa(rng: random.Random, data: bytes) -> bytes:
    """Lines that are moved, doubled or taken away, mostly with counts that fit; else cells or bytes."""
    if not data.startswith(b"\\data") or rng.random() < 0.4:
        return rng.choice((mutate_text(b"\t"), mutate_bytes))(rng, data)
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        places = [i for i, line in enumerate(lines) if b"\t" in line or rng.random() < 0.1]
        if not places:
            break
        i, j = rng.choice(places), rng.choice(places)
        action = rng.randrange(4)
        if action == 0:
            del lines[i]
        elif action == 1:
            lines.insert(i, lines[j])
        elif action == 2:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines[i] = lines[i].replace(b"<", b"", 1) if rng.random() < 0.5 else lines[i].replace(b"-", b"", 1)
    if rng.random() < 0.9:
        counts, order = dict.fromkeys((1, 2, 3), 0), 1
        for line in lines:
            order = int(line[1:2]) if line.endswith(b"-grams:") and line[1:2].isdigit() else order
            counts[order] = counts.get(order, 0) + (b"\t" in line)
        for i, line in enumerate(lines):
            if re.match(rb"ngram [1-3]=", line):
                lines[i] = b"ngram %c=%d" % (line[6], counts[int(line[6:7])])
    return b"\n".join(lines)


def used_lm(lm: NGram, folder: Path) -> list[float]:
    """What a language model is asked for: scores of sentences, to be written in both forms and read again."""
    texts = [["abc", "de", "fa"], ["zz", "abc"], [], ["g", "<s>", "de", "</s>"]]
    scores = lm.score(texts) + lm.score(texts, bos=False, eos=False)
    write_arpa(folder / "again.arpa.gz", lm)
    load_ngram(folder / "again.arpa.gz")[0].score(texts)
    save_ngram(folder / "again.safetensors", lm)
    again = load_ngram(folder / "again.safetensors")[0]
    assert again.score(texts) + again.score(texts, bos=False, eos=False) == scores
    return scores


def read_arpa_file(folder: Path, data: bytes) -> object:
    folder = run(folder)
    (folder / "lm.arpa").write_bytes(data)
    lm, mended = load_ngram(folder / "lm.arpa")
    assert all(sentence.isprintable() for sentence in mended)
    scores = used_lm(lm, folder)
    again, mended = load_ngram(folder / "again.arpa.gz")
    assert not mended and torch.equal(again.log10_probs, lm.log10_probs) and torch.equal(again.shorter, lm.shorter)
    return scores


def are_scores(value) -> bool:
    return all(np.isfinite(value))


def binary_lms(folder: Path) -> list[bytes]:
    save_ngram(folder / "seed.safetensors", language_model())
    data = (folder / "seed.safetensors").read_bytes()
    (folder / "seed.safetensors").unlink()
    return [data, data]


def mutate_binary_lm(rng: random.Random, data: bytes) -> bytes:
    """As any file of tensors; or numbers behind the header, whose places stay."""
    size = int.from_bytes(data[:8], "little") + 8
    if rng.random() < 0.3 or not 8 < size < len(data) - 8:
        return mutate_safetensors(rng, data)
    body = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(size, len(body) - 8)
        at -= (at - size) % rng.choice((1, 4, 8))
        width = rng.choice((1, 4, 8))
        number = rng.choice((0, 1, -1, 2, 7, 2**31 - 1, -(2**31), 2**62, rng.randrange(100)))
        body[at : at + width] = (number % 256**width).to_bytes(width, "little")
    return bytes(body)


def read_binary_lm(folder: Path, data: bytes) -> object:
    folder = run(folder)
    (folder / "lm.safetensors").write_bytes(data)
    return used_lm(load_ngram(folder / "lm.safetensors")[0], folder)


LM_FILES = {"alphabet.json": "", "attrs.json": "language_model", "unigrams.txt": "language_model"}


def lm_folders(folder: Path) -> list[bytes]:
    made = folder / "seed"
    save_language_model(made, LanguageModel(language_model()), TOKENIZER)
    found = {name: (made / place / name).read_text(encoding="utf-8") for name, place in LM_FILES.items()}
    shutil.rmtree(made)
    values = {name: text if name == "unigrams.txt" else json.loads(text) for name, text in found.items()}
    values["alphabet.json"]["labels"] += ["<s>", "</s>"]
    return [json.dumps(values, ensure_ascii=False, indent=1).encode()]


def read_lm_folder(folder: Path, data: bytes) -> object:
    """An input holds the small files of a folder in JSON; one that is broken is each of these files."""
    folder = run(folder)
    put(folder, files())
    save_language_model(folder, LanguageModel(language_model()), TOKENIZER)
    try:
        values = json.loads(data)
        contents = {
            name: values[name].encode() if isinstance(values[name], str) else json.dumps(values[name]).encode()
            for name in LM_FILES
            if name in values
        }
    except (ValueError, TypeError, RecursionError):
        contents = dict.fromkeys(LM_FILES, data)
    for name, place in LM_FILES.items():
        (folder / place / name).write_bytes(contents.get(name, b""))
    asr = w2v.load(folder)
    assert asr.lm is not None and all(sentence.isprintable() for sentence in asr.lm.mended)
    asr.transcribe([WAVEFORM], lm=asr.lm)
    save_language_model(folder / "saved", asr.lm, asr.tokenizer)
    again = load_language_model(folder / "saved", asr.tokenizer)
    assert not again.mended and again.alpha == asr.lm.alpha and again.score_boundary == asr.lm.score_boundary
    return again.beta


# --- pickles


def zipped(data: bytes) -> bytes:
    """As torch.save packs a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/byteorder", b"little")
        archive.writestr("m/data/0", b"\0\0\0\0")
        archive.writestr("m/version", b"3\n")
    return buffer.getvalue()


def legacy(data: bytes) -> bytes:
    """As torch.save did before 1.6."""
    heads = [
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}X\r\x00\x00\x00little_endian\x88s.",
    ]
    return b"".join([*heads, data, b"\x80\x02]X\x01\x00\x00\x000a.", (1).to_bytes(8, "little"), b"\0\0\0\0"])


def archive_behind(data: bytes) -> bytes:
    """Python finds an archive at the end, torch looks at the beginning alone."""
    return legacy(data) + zipped(b"\x80\x02}.")


PACKS = (zipped, legacy, bytes, archive_behind)


@functools.cache
def undamaged() -> frozenset[bytes]:
    return frozenset(hostile().values())


def read_pickle(folder: Path, data: bytes) -> object:
    """In every place where a pickle is read: 0 of them may run anything. An answer that is not allowed goes through.

    A hostile pickle is packed in all four ways, a damaged copy of one in one of them: sixteen reads take a while.
    """
    readers = {
        "a.bin": lambda file: hf.read_weights(file),
        "a.pt": lambda file: read_checkpoint(file),
        "a.whisper": lambda file: openai_whisper.read_checkpoint(file),
        "a.state": lambda file: load_state(file, fresh_step()),
    }
    back, answers = Path.cwd(), []
    os.chdir(folder)
    try:
        for pack in PACKS if data in undamaged() else [PACKS[zlib.crc32(data) % len(PACKS)]]:
            packed = pack(data)
            for name, read in readers.items():
                Path(name).write_bytes(packed)
                try:
                    answers.append(repr(type(read(Path(name)))))
                except InputError as error:
                    if not str(error).isprintable() or len(str(error)) > 600:
                        raise
                    answers.append(str(error))
                finally:
                    if Path(RAN).exists():
                        raise RuntimeError(RUNS)
    finally:
        os.chdir(back)
    raise InputError(answers[0]) if answers[0].startswith("cannot") else InputError("a pickle is refused")


def pickles_in_order(folder: Path) -> list[bytes]:
    return list(hostile().values())


ALL = [
    Reader("config.json", seed("config.json"), read_model("config.json"), mutate_json),
    Reader("vocab.json", vocabularies, read_model("vocab.json"), mutate_json),
    Reader("tokenizer_config.json", tokenizer_configs, read_model("tokenizer_config.json"), mutate_json),
    Reader(
        "special_tokens_map.json", json_seeds(TOKENS, SPELLED), read_model("special_tokens_map.json"), mutate_json
    ),
    Reader("added_tokens.json", json_seeds(ADDED), read_model("added_tokens.json"), mutate_json),
    Reader("normaliser.json", seed("normaliser.json"), read_normaliser, mutate_json),
    Reader(
        "preprocessor_config", seed("preprocessor_config.json"), read_model("preprocessor_config.json"), mutate_json
    ),
    Reader("processor_config", processors, read_model("processor_config.json"), mutate_json),
    Reader("safetensors", seed("model.safetensors"), read_safetensors, mutate_safetensors),
    Reader(
        "safetensors-index", index(".safetensors"), read_index("model.safetensors.index.json", ".safetensors"),
        mutate_json,
    ),
    Reader("bin", lambda folder: [pickled(tensors(), True)], read_bin, mutate_zip),
    Reader("bin-legacy", lambda folder: [pickled(tensors(), False)], read_bin, mutate_bytes),
    Reader("bin-index", index(".bin"), read_index("pytorch_model.bin.index.json", ".bin"), mutate_json),
    Reader("fairseq", lambda folder: list(fairseq_files()), read_fairseq, mutate_zip),
    Reader("dict.ltr.txt", dictionaries, read_dictionary, mutate_text(b" ")),
    Reader("adapter", adapter_files(".safetensors"), read_adapter(".safetensors"), mutate_safetensors),
    Reader("adapter-bin", adapter_files(".bin"), read_adapter(".bin"), mutate_zip),
    Reader("torchaudio", torchaudio_files, read_torchaudio, mutate_zip),
    Reader("openai-whisper", lambda folder: list(whisper_files()), read_whisper, mutate_zip),
    Reader(
        "convert-config", json_seeds(whisper_config(7), whisper_config(51865)), read_whisper_folder("config.json"),
        mutate_json,
    ),
    Reader(
        "convert-generation", json_seeds({"forced_decoder_ids": [[1, None]], "lang_to_id": {"<|tr|>": 50268}}),
        read_whisper_folder("generation_config.json"), mutate_json,
    ),
    *(
        Reader(f"{kind}-of-whisper", lambda folder, name=name: [small_whisper()[name]], read_small_whisper(name),
               mutate_json)
        for kind, name in (
            ("config", "config.json"), ("generation", "generation_config.json"),
            ("processor", "preprocessor_config.json"),
        )
    ),
    Reader("run.json", json_seeds(RECORD), read_run, mutate_json),
    Reader("training-state", states, read_state, mutate_zip),
    Reader(
        "metrics.jsonl", lambda folder: [b"".join(json.dumps(m).encode() + b"\n" for m in METRICS)], read_metrics,
        mutate_jsonl, is_log,
    ),
    Reader("licence", cards, read_card, mutate_text(b":"), is_licence),
    Reader("arpa", arpas, read_arpa_file, mutate_arpa, are_scores),
    Reader("lm-binary", binary_lms, read_binary_lm, mutate_binary_lm, are_scores),
    Reader("lm-folder", lm_folders, read_lm_folder, mutate_json),
    Reader("pickles", pickles_in_order, read_pickle, mutate_bytes, seeds_first=True),
]  # fmt: skip


def with_caches(reader: Reader) -> Reader:
    """What is the same for all inputs is made with the seeds, before the harness watches the disk."""

    def seeds(folder: Path) -> list[bytes]:
        files(), files(adapters=True), fairseq_files(), whisper_files(), small_whisper(), fresh_step()
        return reader.seeds(folder)

    return dataclasses.replace(reader, seeds=seeds)


READERS = [with_caches(reader) for reader in ALL]
