"""Forty faults, each produced in a real process: the run goes on with the same bits, or one line says why it does not.

    python -m tests.reliability faults [NAME ...]       # a part of a name is enough

Each is classed as `resumed` (bit-equal to the run without a fault), `refused` (exit code 2 and one error line) or
`set aside` (said in one line, and the run goes on). Exit code 1 where one ends in any other way.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import file_faults, process_faults
from .stage import prepare, produce

FAULTS = file_faults.FAULTS | process_faults.FAULTS
WIDTH = max(map(len, FAULTS))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="python -m tests.reliability faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(FAULTS)}")
    args = parser.parse_args(argv)
    chosen = {
        name: fault for name, fault in FAULTS.items() if not args.names or any(part in name for part in args.names)
    }
    start, right = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="w2v-faults-") as folder:
        root = Path(folder).resolve()
        root.chmod(0o755)  # one fault is another user
        stage = prepare(root)
        for name, fault in chosen.items():
            kind, line = produce(stage, fault)
            right += kind != "wrong"
            print(f"{name:<{WIDTH}}  {kind:<9}  {line.replace(str(stage.folder), '...')}", flush=True)
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    print(f"{right} of {len(chosen)}")
    return int(right < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
