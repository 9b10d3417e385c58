"""Whether this tree trains the same weights as another commit, bit for bit: a check of code that only moved.

    python -m benchmarks.same_bits REV [--steps 50]

Both trees fine-tune on the embedded sample, on the CPU and with the same seed. Then the tensors of their exports are
compared. Exit code 1 where one differs.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.against import ROOT, checked_out, run_in
from benchmarks.common import fail, machine, with_command
from recipes.console import Parser, positive, run, say

NAMED = 5  # tensors that differ, in the message


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m benchmarks.same_bits", description=__doc__.split("\n")[0])
    parser.add_argument("revision", metavar="REV", help="the commit to compare with")
    parser.add_argument("--steps", type=positive, default=50, help="optimiser steps (default: 50)")
    args = parser.parse_args(argv)
    with checked_out(args.revision) as tree, tempfile.TemporaryDirectory() as folder:
        theirs = trained(tree, args.steps, Path(folder) / "theirs")
        ours = trained(ROOT, args.steps, Path(folder) / "ours")
    names, different = ours.keys() | theirs.keys(), differences(ours, theirs)
    equal = len(names) - len(different)
    say(f"equal: {equal} of {len(names)} tensors after {args.steps} steps of the sample")
    summary = {"against": args.revision, "steps": args.steps, "tensors": len(names), "equal": equal}
    summary |= {"first_different": different[:NAMED], "machine": machine(torch.device("cpu"))}
    summary = with_command("same_bits", summary, save=False)
    if different:
        more = " ..." if len(different) > NAMED else ""
        fail(
            summary,
            f"all tensors must equal those of {args.revision}, {len(different)} differ: "
            f"{', '.join(different[:NAMED])}{more}; take the change back, or say in its message what it changes",
        )
    return summary


def trained(tree: Path, steps: int, out: Path) -> dict[str, Tensor]:
    """The weights that a tree's recipe exports after so many steps of the sample; its audio cache is its own."""
    say(f"training in {tree}")
    flags = ["--lang", "tr", "--max-steps", str(steps), "--out", str(out), "--seed", "42", "--device", "cpu"]
    run_in(tree, "recipes.cv_finetune", *flags, W2V_CACHE=f"{out}-cache", COMMON_VOICE_ROOT="")
    return load_file(out / "model.safetensors")


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names of tensors that differ in bits, shape or type, or that one side lacks."""

    def bits(tensor: Tensor | None) -> tuple | None:
        if tensor is None:
            return None
        return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return [name for name in sorted(ours.keys() | theirs.keys()) if bits(ours.get(name)) != bits(theirs.get(name))]


if __name__ == "__main__":
    run(main)
