"""Damaged inputs for every reader: python -m tests.fuzz --inputs N [READER ...]; exit code 1 after a wrong answer."""

import argparse
import sys
import time
from pathlib import Path

import torch

from . import data_readers, model_readers, w2v_bert_readers, whisper_readers
from .harness import HEADER, by_name, fuzz, kinds
from .hostile_pickles import RUNS

MODULES = (data_readers, model_readers, whisper_readers, w2v_bert_readers)
READERS = by_name(reader for module in MODULES for reader in module.READERS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz")
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"default: all of {', '.join(READERS)}")
    parser.add_argument("--inputs", type=int, default=1000, help="for each reader (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs with undocumented answers")
    args = parser.parse_args()
    if unknown := set(args.readers) - set(READERS):
        parser.error(f"no reader {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    readers = [READERS[name] for name in args.readers or READERS]
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    start = time.monotonic()
    print(HEADER, flush=True)
    results = fuzz(readers, args.inputs, args.seed, args.keep, args.jobs, log=lambda line: print(line, flush=True))
    findings = [finding for result in results for finding in result.findings]
    total = sum(result.inputs for result in results)
    print(f"\n{total} inputs in {time.monotonic() - start:.0f} s, {len(findings)} undocumented answers")
    for result in results:
        if result.reader == "pickles":
            ran = sum(finding.kind == "forbidden" or finding.message == RUNS for finding in result.findings)
            print(f"{ran} of {result.inputs} hostile pickles ran code")
    for group in kinds(findings):
        print(f"{len(group):>6} x {group[0].line()}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
