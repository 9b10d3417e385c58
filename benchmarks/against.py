"""This tree against another commit of it: the same command in both, in turn, each in a process of its own."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recipes.console import say
from w2v.errors import InputError

ROOT = Path(__file__).parents[1]
SLOWEST = 0.95  # their time / our time; below it this tree counts as slower
TERMINATED = 143  # the exit code of a process that SIGTERM ended


def git(root: Path, *words: str) -> str:
    """What git prints. CalledProcessError with its stderr where it refuses."""
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise InputError("a comparison of commits needs git, which is not installed; install git") from None


def commit_of(revision: str, root: Path) -> str:
    """The hash of a commit by any of its names. InputError where there is none. root: the top of the checkout."""
    top = ""
    with suppress(subprocess.CalledProcessError):
        top = git(root, "rev-parse", "--show-toplevel").strip()
    if not top or Path(top).resolve() != root.resolve():
        raise InputError(f"a comparison of commits needs a git checkout of w2v, {root} is none; run this in a clone")
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        raise InputError(f"REV must be a commit of this checkout, got {revision!r}; git log lists them") from None


@contextmanager
def checked_out(revision: str, root: Path = ROOT) -> Iterator[Path]:
    """A temporary git worktree of that commit, which is gone at the end, whatever happens inside."""
    commit = commit_of(revision, root)
    # SIGTERM alone would end the process without the clean-up below.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        with tempfile.TemporaryDirectory(prefix="w2v-") as folder:
            tree = Path(folder) / "tree"
            try:
                git(root, "worktree", "add", "--detach", str(tree), commit)
                yield tree
            finally:
                with suppress(subprocess.CalledProcessError):  # `add` has failed: there is nothing to remove
                    git(root, "worktree", "remove", "--force", str(tree))
    finally:
        signal.signal(signal.SIGTERM, before)


def run_in(tree: Path, module: str, *flags: str, **variables: str) -> dict:
    """The JSON object on the last line of `python -m module` in a tree. InputError where the command fails.

    variables: of the environment, beside ours.
    """
    command = [sys.executable, "-m", module, *flags]
    env = os.environ | {"PYTHONSAFEPATH": ""} | variables  # safe paths would import another, installed tree
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "nothing on stderr").splitlines()[-1]
        raise InputError(f"python -m {module} must end with 0 in {tree}, it ended with {done.returncode}: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def step_times(revision: str, flags: list[str], rounds: int, root: Path = ROOT) -> dict:
    """The median ms of benchmarks.step_time's steps in both trees, and how many times as fast this one is in the median
    round.
    """
    sides: dict[str, list[float]] = {"ours": [], "theirs": []}
    with checked_out(revision, root) as tree:
        for number in range(rounds):
            for side, folder in (("ours", root), ("theirs", tree)):
                result = run_in(folder, "benchmarks.step_time", "--peer", "none", *flags)
                # Not ms_per_step, which was the median once and is the mean now.
                sides[side].append(statistics.median(result["results"]["w2v"]["ms_by_step"]))
            ours, theirs = sides["ours"][-1], sides["theirs"][-1]
            say(f"round {number + 1}: ours {ours:.1f} ms, {revision} {theirs:.1f} ms: {theirs / ours:.3f}")
    ratio = statistics.median(b / a for a, b in zip(sides["ours"], sides["theirs"], strict=True))
    say(f"ratio, the median of {rounds} rounds: {ratio:.3f}")
    return {"against": revision, "ratio": ratio, "ms_per_step": sides, "flags": " ".join(flags)}
