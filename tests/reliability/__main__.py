"""Runs that survive, tried: python -m tests.reliability NAME; exit code 1 where a promise is broken."""

import argparse
import sys
from collections.abc import Callable

from . import costs, kills, ranks

NAMES: dict[str, Callable[[argparse.Namespace], int]] = {  # each returns the exit code
    "kills": kills.kills,
    "places": kills.places,
    "ranks": ranks.run,
    "checkpoint": costs.checkpoint,
    "soak": costs.soak,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.reliability")
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=f"what is tried: {', '.join(NAMES)}")
    parser.add_argument("--count", type=int, help="how many, of what is drawn at random (default: as in the table)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="of places, those with it in the name; repeatable"
    )
    args = parser.parse_args()
    return NAMES[args.name](args)


if __name__ == "__main__":
    sys.exit(main())
