"""Linux, Windows and macOS: nothing in the product needs one of them, and the workflow tries all three.

Run: pytest tests/test_platforms.py
"""

import ast
import itertools
import pickle
import re
import shlex

import pytest
import torch
import yaml  # huggingface_hub brings it
from conftest import ROOT, SAMPLE

import w2v
from recipes import cv_finetune, cv_prepare
from w2v.data.corpus import read_corpus
from w2v.data.loading import ClipDataset
from w2v.data.store import build_store

FILES = sorted(itertools.chain((ROOT / "w2v").rglob("*.py"), (ROOT / "recipes").rglob("*.py")))
# Modules and attributes that Python on Windows does not have.
MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix", "syslog", "readline", "curses", "crypt"}
ATTRIBUTES = {
    "os": """chown chroot fchmod fchown fork forkpty getegid geteuid getgid getloadavg getpgid getuid killpg lchown
    major minor mkfifo mknod nice openpty posix_fadvise posix_fallocate posix_spawn pread preadv pwrite
    sched_getaffinity sched_setaffinity sendfile setgid setpgid setsid setuid statvfs sync sysconf uname wait wait3
    O_NONBLOCK O_DIRECTORY O_NOFOLLOW O_SYNC O_DSYNC""".split(),
    "signal": "SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGKILL SIGCHLD SIGPIPE alarm setitimer pause pthread_kill".split(),
    "select": "poll epoll kqueue".split(),
    "time": "tzset clock_gettime".split(),
}


def nodes(kind):
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def lacking_on_windows(node: ast.AST) -> set[str]:
    """What a piece of code names that Windows does not have. getattr(os, "sync", None) is a way to ask."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & MODULES
    if isinstance(node, ast.ImportFrom):
        return ({node.module} & MODULES) | {a.name for a in node.names} & set(ATTRIBUTES.get(node.module or "", ()))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return {node.attr} & set(ATTRIBUTES.get(node.value.id, ()))
    return set()


def test_nothing_that_windows_lacks():
    for where, node in nodes((ast.Import, ast.ImportFrom, ast.Attribute)):
        assert not lacking_on_windows(node), f"{where}: {lacking_on_windows(node)}"


@pytest.mark.parametrize(
    "code", ["import fcntl", "from os import fork", "os.sync()", "signal.signal(signal.SIGHUP, f)"]
)
def test_the_scan_finds_such_code(code):
    assert any(lacking_on_windows(node) for node in ast.walk(ast.parse(code)))


def test_texts_are_utf_8_whatever_the_locale():
    """Windows reads and writes files, and what other programs print, in a code page of 256 characters by default."""
    for where, call in nodes(ast.Call):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg for keyword in call.keywords}
        if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
            assert "encoding" in given, where
        elif name == "open" and isinstance(call.func, ast.Name):
            mode = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else "r"
            assert "b" in mode or "encoding" in given, where
        elif name in ("run", "Popen", "check_output"):
            assert ("text" not in given and "universal_newlines" not in given) or "encoding" in given, where


def test_file_names_are_possible_everywhere():
    """No string that names a file of ours holds a character that Windows forbids."""
    for where, node in nodes(ast.Constant):
        if isinstance(node.value, str) and re.search(r"\.(json|tsv|html|pt|part|i16|safetensors)$", node.value):
            assert not set(node.value) & set('<>:"|?'), where


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ClipDataset:
    """The embedded clips as training reads them."""
    corpus = read_corpus([SAMPLE], "tr", tmp_path_factory.mktemp("tables"))
    clips = corpus.tables["validated"][:5]
    audio = build_store(clips, tmp_path_factory.mktemp("cache"), 1)
    return ClipDataset(w2v.TINY.collate, audio, clips, [[1, 2, 3]] * 5)


def equal(one, other) -> bool:
    return torch.equal(one.inputs, other.inputs) and one.names == other.names


def test_loader_processes_need_nothing_of_their_parent(dataset):
    """Windows and macOS start them anew: what they need travels as a pickle, which holds no audio."""
    sent = pickle.dumps(dataset)
    assert len(sent) < 10_000
    assert equal(pickle.loads(sent)[[0, 3]], dataset[[0, 3]])


@pytest.mark.slow
def test_a_spawned_loader_gives_the_same_batches(dataset):
    order = [[0, 3], [4], [1, 2]]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, sampler=order, num_workers=1, multiprocessing_context="spawn"
    )
    for numbers, batch in zip(order, loader, strict=True):
        assert equal(batch, dataset[numbers])


def test_the_workflow_tries_three_systems(capsys):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert set(workflow) == {"name", True, "env", "jobs"}  # YAML 1.1 reads `on` as true; GitHub does not
    matrix = workflow["jobs"]["sample"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert "3.10" in matrix["python"] and len(matrix["python"]) == 2
    commands = [step["run"] for step in workflow["jobs"]["sample"]["steps"] if "run" in step]
    assert "python -m recipes.cv_finetune --lang tr --max-steps 10 --out run" in commands
    assert workflow["jobs"]["tests"]["steps"][-1] == {"run": "bash .ci/run"}
    for command in commands:
        words = shlex.split(command)
        if words[:2] == ["python", "-c"]:
            compile(words[2], command, "exec")
        for main, start in ((cv_prepare, ["w2v-prepare"]), (cv_finetune, ["python", "-m", "recipes.cv_finetune"])):
            if words[: len(start)] == start:
                with pytest.raises(SystemExit) as stopped:  # --help comes last: wrong flags would be refused before
                    main.main([*words[len(start) :], "--help"])
                assert stopped.value.code == 0
