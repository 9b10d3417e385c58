"""Make benchmarks/results/pyctcdecode-libri.json: what pyctcdecode finds where `benchmarks.lm --pyctcdecode` looks.

    python -m benchmarks.pyctcdecode_results

It needs kenlm, and pyctcdecode, whose release 0.5.0 pins an old numpy (pip install --no-deps pyctcdecode; pip install
pygtrie). The results are stored because of that.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.lm import LETTERS, STORED, english, noisy_libri
from recipes.console import Parser, run
from w2v.decoding.arpa import write_arpa
from w2v.errors import InputError
from w2v.files import write_text


def main(argv: list[str] | None = None) -> dict:
    Parser(prog="python -m benchmarks.pyctcdecode_results", description=(__doc__ or "").split("\n")[0]).parse_args(argv)
    try:
        from pyctcdecode import build_ctcdecoder
    except ImportError:
        raise InputError("pyctcdecode cannot be imported; see the top of this file") from None
    labels = [*(" " if token == "|" else token for token in LETTERS[:-1]), ""]
    _, lm = english()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lm.arpa"
        write_arpa(path, lm)
        for name, model in (("alone", None), ("5-gram", str(path))):
            decoder = build_ctcdecoder(labels, model)
            for kind in ("sure", "unsure"):
                rows = noisy_libri(kind == "unsure")
                best = [decoder.decode_beams(row.numpy(), beam_width=100)[0] for row in rows]
                found[f"{kind}, {name}"] = [{"text": beam[0], "score": round(float(beam[4]), 6)} for beam in best]
    record = {"pyctcdecode": version("pyctcdecode"), "best": found}
    write_text(STORED, json.dumps(record, ensure_ascii=False, indent=0) + "\n")
    return {"out": str(STORED.name), "clips": sum(map(len, found.values()))}


if __name__ == "__main__":
    run(main)
