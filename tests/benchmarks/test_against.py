"""Comparisons with another commit: the right trees run, in turn, and nothing of them stays.

Run: pytest tests/benchmarks/test_against.py          (the real benchmark against HEAD: add -m slow)
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import against, step_time
from benchmarks.against import checked_out, run_in, step_times
from w2v.errors import InputError

FAKE = """
import json, sys
print("noise")
print(json.dumps({"results": {"w2v": {"ms_by_step": [%s]}}, "flags": sys.argv[1:]}))
"""


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *names, *words], check=True, capture_output=True, text=True).stdout


def in_git() -> bool:
    return (ROOT / ".git").exists()


@pytest.fixture
def repository(tmp_path) -> Path:
    """A tree whose step takes 20 ms, with a commit `then` whose step took 30 ms."""
    root = tmp_path / "repository"
    benchmark = root / "benchmarks" / "step_time.py"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(FAKE % 30.0)
    (benchmark.parent / "__init__.py").touch()  # or another benchmarks on PYTHONPATH would come before it
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "then")
    git(root, "tag", "then")
    benchmark.write_text(FAKE % 20.0)  # not committed: this tree is what is on the disk
    return root


def trees(root: Path) -> list[str]:
    return [line for line in git(root, "worktree", "list", "--porcelain").splitlines() if line.startswith("worktree")]


def test_both_trees_run_with_the_same_flags_and_the_worktree_goes(repository, capfd):
    result = step_times("then", ["--steps", "2"], 3, repository)
    assert result["ms_per_step"] == {"ours": [20.0] * 3, "theirs": [30.0] * 3}
    assert result["ratio"] == 1.5
    assert "round 3: ours 20.0 ms, then 30.0 ms: 1.500" in capfd.readouterr().err
    assert len(trees(repository)) == 1
    assert run_in(repository, "benchmarks.step_time", "--steps", "2")["flags"] == ["--steps", "2"]


def test_the_ratio_is_the_median_of_rounds_that_alternate(repository, monkeypatch):
    times, ran = iter([10.0, 20.0, 10.0, 90.0, 20.0, 10.0]), []

    def run(tree: Path, module: str, *flags: str) -> dict:
        ran.append(tree == repository)
        return {"results": {"w2v": {"ms_by_step": [next(times)]}}}

    monkeypatch.setattr(against, "run_in", run)
    assert step_times("then", [], 3, repository)["ratio"] == 2.0
    assert ran == [True, False] * 3


def test_a_worktree_goes_when_its_user_fails(repository):
    with pytest.raises(ZeroDivisionError), checked_out("then", repository) as tree:
        assert (tree / "benchmarks").is_dir()
        assert len(trees(repository)) == 2
        _ = 1 / 0
    assert not tree.parent.exists()
    assert len(trees(repository)) == 1


def test_a_worktree_goes_when_the_process_is_terminated(repository):
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))  # or the tests would end
    try:
        with pytest.raises(SystemExit) as end, checked_out("then", repository):
            assert len(trees(repository)) == 2
            signal.raise_signal(signal.SIGTERM)
        assert (end.value.code, came) == (143, [])
        assert len(trees(repository)) == 1
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM], "the handler of before is there again"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_failed_run_says(repository):
    (repository / "benchmarks" / "step_time.py").write_text("raise SystemExit('no such flag')")
    with pytest.raises(InputError, match=r"ended with 1: no such flag"):
        step_times("then", [], 1, repository)
    assert len(trees(repository)) == 1


def test_unknown_commits_and_folders_outside_git_are_one_line(repository, tmp_path):
    with pytest.raises(InputError, match=r"REV must be a commit of this checkout, got 'nobody'; git log"):
        step_times("nobody", [], 1, repository)
    with pytest.raises(InputError, match="REV must be a commit"):
        step_times("--all", [], 1, repository)
    for outside in (tmp_path, repository / "benchmarks"):  # a folder inside of another checkout is none either
        with pytest.raises(InputError, match="needs a git checkout of w2v") as error:
            step_times("then", [], 1, outside)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rounds", "2"], "add --against REV"),
        (["--against", "HEAD", "--peer", "torchaudio"], "leave one of them out"),
    ],
)
def test_what_it_refuses(flags, words):
    with pytest.raises(InputError, match=words):
        step_time.main(flags)


@pytest.mark.parametrize(("ratio", "code"), [(0.949, 1), (0.951, None)])
def test_a_slower_step_is_exit_code_1_with_the_result(ratio, code, monkeypatch, capfd):
    seen = []

    def times(revision: str, flags: list[str], rounds: int) -> dict:
        seen.append((revision, flags, rounds))
        return {"ratio": ratio}

    monkeypatch.setattr(step_time, "step_times", times)
    flags = ["--against", "HEAD~1", "--model", "tiny", "--device", "cpu", "--clips", "2", "--train-feature-encoder"]
    if code is None:
        assert step_time.main(flags)["ratio"] == ratio
    else:
        with pytest.raises(SystemExit) as end:
            step_time.main(flags)
        assert end.value.code == code
        out, err = capfd.readouterr()
        assert json.loads(out.splitlines()[-1])["ratio"] == ratio
        assert err.startswith("failed: a step must be at least 0.95 times as fast as at HEAD~1, got 0.949; ")
    passed = "--model tiny --length-mix common-voice --precision auto --checkpointing off --device cpu --clips 2"
    assert seen == [("HEAD~1", [*passed.split(), "--train-feature-encoder"], 5)]


@pytest.mark.slow
@pytest.mark.skipif(not in_git(), reason="not a git checkout")
def test_the_benchmark_runs_against_head():
    flags = ["--model", "tiny", "--device", "cpu", "--clips", "2", "--seconds", "1", "--steps", "2"]
    command = [sys.executable, "-m", "benchmarks.step_time", *flags, "--against", "HEAD", "--rounds", "1"]
    before = trees(ROOT)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr  # one round says nothing about speed
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["against"] == "HEAD"
    assert result["ratio"] > 0
    assert not [tree for tree in trees(ROOT) if tree not in before and tree.endswith("/tree")]
