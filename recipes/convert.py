"""Convert a checkpoint between transformers' layout and others: fairseq's, torchaudio's, Seamless's, OpenAI's, ONNX.

    python -m recipes.convert xlsr_53_56k.pt runs/xlsr-53            # fairseq -> a folder for --model
    python -m recipes.convert conformer_shaw.pt runs/w2v-bert-2.0    # Seamless's W2V-BERT 2.0 -> the same
    python -m recipes.convert base.pt runs/whisper-base              # OpenAI's Whisper -> the same
    python -m recipes.convert runs/tr-xlsr-53-1 DIR --to torchaudio
    python -m recipes.convert runs/tr-az-xlsr-53-1 DIR --lang az     # a folder for one of a run's languages

The layout of the source is recognised from its tensors' names and said aloud; only tensors are ever unpickled. The
result is a folder with config.json and model.safetensors, and the tokenizer where the source has one.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from recipes.console import Parser, run, say
from w2v import heads
from w2v.errors import InputError, show
from w2v.files import read_bytes, read_json, write_json, write_whole
from w2v.models.families import FAMILIES
from w2v.text.tokenizer import CharTokenizer
from w2v.text.whisper_languages import special_tokens
from w2v.text.whisper_tokenizer import WhisperTokenizer
from w2v.weights import fairseq, hf, openai_whisper, seamless, w2v_bert, whisper, whisper_generation
from w2v.weights import torchaudio as torchaudio_layout
from w2v.weights import wav2vec2 as naming

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FORCED, TOKENIZER = "forced_decoder_ids", "tokenizer_config.json"
PROCESSORS = (hf.PROCESSOR, "processor_config.json")
TIKTOKEN = ("multilingual.tiktoken", "gpt2.tiktoken")  # OpenAI's vocabularies; the second is the English-only models'
# What a folder may hold beside its weights, and every layout's users want along.
COMPANIONS = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    TOKENIZER,
    "special_tokens_map.json",
    "added_tokens.json",
    *PROCESSORS,
    "normaliser.json",
    "normalizer.json",  # Whisper's spellings of English words
    hf.GENERATION,
)
Tensors = dict[str, torch.Tensor]
Renaming = Callable[[Tensors], tuple[Tensors, list[str]]]  # -> renamed, and the names that have no place


def as_they_are(tensors: Tensors) -> tuple[Tensors, list[str]]:
    return tensors, []


class Layout(NamedTuple):
    name: str  # as --to has it
    family: str
    is_layout: Callable[[Iterable[str]], bool]
    to_hf: Renaming
    from_hf: Renaming
    config_of: Callable[[Tensors, dict], dict] | None  # from tensors and the file's own settings


WAV2VEC2, W2V_BERT, WHISPER = "wav2vec 2.0", "W2V-BERT 2.0", "Whisper"
TARGETS = {
    WAV2VEC2: ("hf", "fairseq", "torchaudio", "onnx"),
    W2V_BERT: ("hf", "onnx"),
    WHISPER: ("hf", "openai"),
}
# The first that knows the names is taken: Seamless's have fairseq's wav2vec 2.0's and transformers' W2V-BERT's among
# them, wav2vec 2.0's in transformers' layout are the least peculiar.
LAYOUTS = (
    Layout(
        "seamless", W2V_BERT, seamless.is_layout, seamless.to_hf, as_they_are,  # nothing goes back: see TARGETS
        lambda tensors, _: seamless.config_of(tensors),
    ),
    Layout("fairseq", WAV2VEC2, fairseq.is_layout, fairseq.to_hf, fairseq.from_hf, fairseq.config_of),
    Layout(
        "torchaudio", WAV2VEC2, torchaudio_layout.is_layout, torchaudio_layout.to_hf, torchaudio_layout.from_hf,
        fairseq.config_of,
    ),
    Layout(
        "openai", WHISPER, openai_whisper.is_layout, openai_whisper.to_hf, openai_whisper.from_hf,
        lambda tensors, dims: openai_whisper.config_of(dims),
    ),
    Layout("hf", WHISPER, whisper.is_layout, lambda tensors: (whisper.model_names(tensors), []), as_they_are, None),
    Layout("hf", W2V_BERT, w2v_bert.is_layout, as_they_are, as_they_are, None),
    Layout("hf", WAV2VEC2, naming.is_layout, as_they_are, as_they_are, None),
)  # fmt: skip
SPOKEN = {"hf": "transformers", "seamless": "Seamless's", "openai": "OpenAI's"}  # layouts that people call otherwise


def layout_of(names: Iterable[str], source: Path) -> Layout:
    for layout in LAYOUTS:
        if layout.is_layout(names):
            return layout
    raise InputError(
        f"{source} must hold a wav2vec 2.0 model in transformers', fairseq's or torchaudio's layout, a W2V-BERT 2.0 "
        f"one in transformers' or Seamless's, or a Whisper one in transformers' or OpenAI's; its tensors are named "
        f"{hf.some(sorted(names))}"
    )


def check_target(to: str, layout: Layout, source: Path) -> None:
    if to not in (choices := TARGETS[layout.family]):
        raise InputError(f"--to {to} takes no {layout.family} model, {source} is one; use --to {' or '.join(choices)}")


def folder_of(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def read_tensors(source: Path) -> tuple[Tensors, dict]:
    """The source's tensors, and what a .pt says of its model: fairseq's args, or the dims of OpenAI's Whisper.

    Seamless's .pt are fairseq's files, or have tensors under "model" as those have.
    """
    ours = source / openai_whisper.FILE
    if ours.is_file() and not any((source / name).is_file() for name in hf.WEIGHT_FILES):
        source = ours  # a folder that --to openai wrote
    if source.suffix != ".pt" or not source.is_file():
        return hf.read_weights(hf.locate(source)[0]), {}
    if openai_whisper.is_checkpoint(source):
        return openai_whisper.read_checkpoint(source)
    return fairseq.read_checkpoint(source)


def read_any(source: Path, to: str) -> tuple[Tensors, dict, Layout]:
    """-> transformers-named tensors, config fields, the source's layout. Says what has no place in that layout."""
    tensors, settings = read_tensors(source)
    layout = layout_of(tensors, source)
    check_target(to, layout, source)
    hf.warn_if_not_finite(tensors, source)
    tensors, left = layout.to_hf(tensors)
    say(f"{source}: {SPOKEN.get(layout.name, layout.name)} layout, {len(tensors)} tensors")
    if left:
        say(f"without a place in transformers' layout, left out: {hf.some(left, most=20)}")
    config = folder_of(source) / "config.json"
    if layout.config_of is not None and not config.is_file():
        return tensors, layout.config_of(tensors, settings), layout
    fields = hf.read_config(config)
    if layout.name == "openai":
        fields.pop(FORCED, None)
        if settings and openai_whisper.dims_of(fields) != settings:
            raise InputError(f"{config} must have the sizes of {source}, it has others; move one of the two away")
    return tensors, fields, layout


def vocabulary(source: Path, fields: dict, layout: Layout) -> dict[str, int] | None:
    """fairseq's dict.ltr.txt beside the source, as vocab.json has it; its blank is `<s>`, id 0."""
    file = folder_of(source) / "dict.ltr.txt"
    if layout.name != "fairseq" or not file.is_file():
        return None
    vocab = fairseq.read_dictionary(file)
    if fields.get("vocab_size", len(vocab)) != len(vocab):
        raise InputError(
            f"{file} must have one token per output of the head, got {len(vocab)} for {show(fields['vocab_size'])}"
        )
    fields.update(pad_token_id=vocab["<s>"])
    return vocab


def copy_companions(source: Path, destination: Path, names: Iterable[str] = COMPANIONS) -> None:
    for name in names:
        if (file := folder_of(source) / name).is_file():
            data = read_bytes("the source's", file)
            write_whole(destination / name, partial(Path.write_bytes, data=data))


def whisper_settings(source: Path, fields: dict, layout: Layout) -> dict[str, dict]:
    """What a Whisper folder needs beside weights and tokenizer and the source does not have as it should, by file."""
    found, folder = {}, folder_of(source)
    if not any((folder / name).is_file() for name in PROCESSORS):
        found[PROCESSORS[0]] = whisper_generation.processor_of(fields)
    if (folder / hf.GENERATION).is_file():
        held = read_json(folder / hf.GENERATION, "the settings of generation,")
        if layout.name == "openai" and held.pop(FORCED, None) is not None:
            found[hf.GENERATION] = held
    elif is_published_vocabulary(fields):
        found[hf.GENERATION] = whisper_generation.generation_of(fields, source.stem)
    else:
        say(f"no {hf.GENERATION}: token ids are not known for a vocabulary of {show(fields.get('vocab_size'))}")
    return found


def w2v_bert_settings(source: Path, fields: dict) -> dict[str, dict]:
    """preprocessor_config.json where none lies beside the source. InputError for a config.json of another family."""
    config = FAMILIES["wav2vec2-bert"].config.from_dict(fields)
    has_one = any((folder_of(source) / name).is_file() for name in PROCESSORS)
    return {} if has_one else {hf.PROCESSOR: config.processor()}


def complete_tokenizer(source: Path, destination: Path, fields: dict) -> None:
    """Make a whole tokenizer of whatever vocabulary lies beside the source; say so where none does that can be read."""
    vocab_size = fields.get("vocab_size")
    copy_companions(source, destination, [TIKTOKEN[vocab_size == whisper_generation.ENGLISH]])
    is_published = is_published_vocabulary(fields)
    here = {file.name for file in destination.iterdir()}
    if is_published and "vocab.json" in here and not here & {"added_tokens.json", TOKENIZER, "tokenizer.json"}:
        _, *special = special_tokens(whisper_generation.languages(fields["vocab_size"]))
        first = whisper_generation.token_ids(fields["vocab_size"]).start
        write_json(destination / "added_tokens.json", {token: i for i, token in enumerate(special, first)})
    try:
        tokenizer = WhisperTokenizer.from_pretrained(destination)
    except InputError as error:
        of = whisper_generation.VOCABULARIES[fields["vocab_size"]] if is_published else "the model"
        why, _, _ = str(error).partition(";")
        say(f"no vocabulary beside {source} ({why}); copy vocab.json and merges.txt of {of} there and convert again")
        return
    if TOKENIZER not in here:
        tokenizer.save_pretrained(destination)


def use_language(own: Path, tensors: Tensors, fields: dict) -> None:
    """Put in the head of a language's folder, where it has one, with what its vocabulary decides."""
    if not (own / heads.FILE).is_file():
        return
    tokenizer = CharTokenizer.from_pretrained(own)
    weight, bias = heads.read_head(own, tensors[heads.WEIGHT].shape[1], tokenizer)
    tensors |= {heads.WEIGHT: weight, heads.BIAS: bias}
    fields |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.blank_id}


def is_published_vocabulary(fields: dict) -> bool:
    return fields.get("vocab_size") in tuple(whisper_generation.VOCABULARIES)


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.convert", description=__doc__.split("\n")[0])
    parser.add_argument(
        "source", type=Path, help="folder, .safetensors, .bin, fairseq's, Seamless's or OpenAI's .pt, torchaudio's .pth"
    )
    parser.add_argument("destination", type=Path, help="folder to write")
    parser.add_argument("--to", choices=("hf", "fairseq", "torchaudio", "openai", "onnx"), default="hf")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--lang", help="which language of a run that was trained on several (default: its first)")
    args = parser.parse_args(argv)
    own = heads.folder_of_language(folder_of(args.source), args.lang)
    if args.lang is not None and (own is None or args.to == "onnx"):
        raise InputError("--lang takes a language out of a run of several, and not --to onnx; leave it out")
    if args.destination.exists() and (not args.destination.is_dir() or any(args.destination.iterdir())):
        raise InputError(f"the destination must be new or empty, {args.destination} is not; choose another folder")

    if args.to == "onnx":
        from recipes.onnx_export import export_onnx

        check_target(args.to, layout_of(hf.tensor_names(hf.locate(args.source)[0]), args.source), args.source)
        summary = export_onnx(args.source, args.destination)
        copy_companions(args.source, args.destination)
        return summary
    tensors, fields, layout = read_any(args.source, args.to)
    if own is not None:
        use_language(own, tensors, fields)
    vocab = vocabulary(args.source, fields, layout)
    settings = whisper_settings(args.source, fields, layout) if (layout.family, args.to) == (WHISPER, "hf") else {}
    if layout.name == "seamless":
        settings = w2v_bert_settings(args.source, fields)
    target = next(row for row in LAYOUTS if (row.name, row.family) == (args.to, layout.family))
    tensors, left = target.from_hf(tensors)
    if left:
        say(f"without a place in {args.to}'s layout, left out: {hf.some(left, most=20)}")
    tensors = {name: tensor.to(DTYPES[args.dtype]) for name, tensor in tensors.items()}
    for key in ("dtype", "torch_dtype"):  # transformers loads as they say
        if key in fields:
            fields[key] = str(DTYPES[args.dtype]).removeprefix("torch.")
    if args.to == "openai":
        openai_whisper.write_checkpoint(args.destination / openai_whisper.FILE, tensors, openai_whisper.dims_of(fields))
    else:
        hf.write_tensors(args.destination / "model.safetensors", tensors)
    write_json(args.destination / "config.json", fields)
    copy_companions(args.source, args.destination)
    if own is not None:
        copy_companions(own, args.destination)
    if vocab is not None:
        write_json(args.destination / "vocab.json", vocab)
        special = {"pad_token": "<s>", "unk_token": "<unk>", "bos_token": None, "eos_token": None}
        write_json(
            args.destination / TOKENIZER,
            {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", **special},
        )
    for name, value in settings.items():
        write_json(args.destination / name, value)
    if (layout.family, args.to) == (WHISPER, "hf"):
        complete_tokenizer(args.source, args.destination, fields)
    say(f"{args.to} layout, {len(tensors)} tensors in {args.dtype}: {args.destination}")
    return {
        "source_layout": SPOKEN["hf"] if layout.name == "hf" else layout.name,
        "layout": args.to,
        "tensors": len(tensors),
        "left_out": left,
        "out": str(args.destination),
    }


def command() -> None:
    run(main)


if __name__ == "__main__":
    command()
