"""Convert a wav2vec 2.0 checkpoint between transformers', fairseq's and torchaudio's layouts, or to ONNX.

    python -m recipes.convert xlsr_53_56k.pt runs/xlsr-53            # fairseq -> a folder for --model
    python -m recipes.convert runs/tr-xlsr-53-1 DIR --to torchaudio

The layout of the source is recognised from its tensors' names and said aloud; only tensors are ever unpickled. The
result is a folder with config.json and model.safetensors, and the tokenizer where the source has one.
"""

from functools import partial
from pathlib import Path

import torch

from recipes.console import Parser, run, say
from w2v.errors import InputError, show
from w2v.files import read_bytes, write_json, write_whole
from w2v.weights import fairseq, hf
from w2v.weights import torchaudio as torchaudio_layout
from w2v.weights import wav2vec2 as naming

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What a folder may hold beside its weights, and every layout's users want along.
COMPANIONS = (
    "vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "normaliser.json",
)


def read_any(source: Path) -> tuple[dict[str, torch.Tensor], dict, str]:
    """-> transformers-named tensors, config fields, the layout's name. Says what has no place in that layout."""
    if source.suffix == ".pt" and source.is_file():
        tensors, args = fairseq.read_checkpoint(source)
    else:
        weights, _ = hf.locate(source)
        tensors, args = hf.read_weights(weights), {}
    folder = source if source.is_dir() else source.parent
    hf.warn_if_not_finite(tensors, source)
    left: list[str] = []
    if fairseq.is_layout(tensors):
        layout, (tensors, left) = "fairseq", fairseq.to_hf(tensors)
    elif torchaudio_layout.is_layout(tensors):
        layout, (tensors, left) = "torchaudio", torchaudio_layout.to_hf(tensors)
    elif naming.is_layout(tensors):
        layout = "transformers"
    else:
        raise InputError(
            f"{source} must hold a wav2vec 2.0 model in transformers', fairseq's or torchaudio's layout; its tensors "
            f"are named {hf.some(sorted(tensors))}"
        )
    say(f"{source}: {layout} layout, {len(tensors)} tensors")
    if left:
        say(f"without a place in transformers' layout, left out: {hf.some(left, most=20)}")
    if layout == "transformers" or (folder / "config.json").is_file():
        fields = hf.read_config(folder / "config.json")
    else:
        fields = fairseq.config_of(tensors, args)
    return tensors, fields, layout


def vocabulary(source: Path, fields: dict, layout: str) -> dict[str, int] | None:
    """fairseq's dict.ltr.txt beside the source, as vocab.json has it; its blank is `<s>`, id 0."""
    file = (source if source.is_dir() else source.parent) / "dict.ltr.txt"
    if layout != "fairseq" or not file.is_file():
        return None
    vocab = fairseq.read_dictionary(file)
    if fields.get("vocab_size", len(vocab)) != len(vocab):
        raise InputError(
            f"{file} must have one token per output of the head, got {len(vocab)} for {show(fields['vocab_size'])}"
        )
    fields.update(pad_token_id=vocab["<s>"])
    return vocab


def copy_companions(source: Path, destination: Path) -> None:
    folder = source if source.is_dir() else source.parent
    for name in COMPANIONS:
        if (folder / name).is_file():
            data = read_bytes("the source's", folder / name)
            write_whole(destination / name, partial(Path.write_bytes, data=data))


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m recipes.convert", description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="folder, .safetensors, .bin, fairseq .pt or torchaudio .pth")
    parser.add_argument("destination", type=Path, help="folder to write")
    parser.add_argument("--to", choices=("hf", "fairseq", "torchaudio", "onnx"), default="hf")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    args = parser.parse_args(argv)
    if args.destination.exists() and (not args.destination.is_dir() or any(args.destination.iterdir())):
        raise InputError(f"the destination must be new or empty, {args.destination} is not; choose another folder")

    if args.to == "onnx":
        from recipes.onnx_export import export_onnx

        summary = export_onnx(args.source, args.destination)
        copy_companions(args.source, args.destination)
        return summary
    tensors, fields, layout = read_any(args.source)
    vocab = vocabulary(args.source, fields, layout)
    if args.to == "hf":
        left: list[str] = []
    elif args.to == "fairseq":
        tensors, left = fairseq.from_hf(tensors)
    else:
        tensors, left = torchaudio_layout.from_hf(tensors)
    if left:
        say(f"without a place in {args.to}'s layout, left out: {hf.some(left, most=20)}")
    tensors = {name: tensor.to(DTYPES[args.dtype]) for name, tensor in tensors.items()}
    hf.write_tensors(args.destination / "model.safetensors", tensors)
    write_json(args.destination / "config.json", fields)
    copy_companions(args.source, args.destination)
    if vocab is not None:
        write_json(args.destination / "vocab.json", vocab)
        special = {"pad_token": "<s>", "unk_token": "<unk>", "bos_token": None, "eos_token": None}
        write_json(
            args.destination / "tokenizer_config.json",
            {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", **special},
        )
    say(f"{args.to} layout, {len(tensors)} tensors in {args.dtype}: {args.destination}")
    return {
        "source_layout": layout,
        "layout": args.to,
        "tensors": len(tensors),
        "left_out": left,
        "out": str(args.destination),
    }


if __name__ == "__main__":
    run(main)
