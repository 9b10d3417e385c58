"""Runs that survive, tried: python -m tests.reliability NAME; exit code 1 where a promise is broken."""

import argparse
import sys
from collections.abc import Callable

from . import costs, faults, kills, mutations, ranks


def with_flags(function: Callable[[argparse.Namespace], int]) -> Callable[[list[str]], int]:
    """What kills runs takes these flags."""

    def main(argv: list[str]) -> int:
        parser = argparse.ArgumentParser(prog="python -m tests.reliability kills, or places")
        parser.add_argument("--count", type=int, help="kills at random moments (default: 50)")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--only", action="append", metavar="TEXT", help="of places, those with it in the name; repeatable"
        )
        return function(parser.parse_args(argv))

    return main


NAMES: dict[str, Callable[[list[str]], int]] = {  # each returns the exit code
    "kills": with_flags(kills.kills),
    "places": with_flags(kills.places),
    "faults": faults.main,
    "mutations": mutations.main,
    "ranks": ranks.main,
    "checkpoint": costs.checkpoint,
    "soak": costs.soak,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.reliability")
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=f"what is tried: {', '.join(NAMES)}")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="its own; NAME --help shows them")
    args = parser.parse_args()
    return NAMES[args.name](args.flags)


if __name__ == "__main__":
    sys.exit(main())
