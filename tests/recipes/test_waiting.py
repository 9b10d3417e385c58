"""What is set before torch is imported: how threads wait, how a GPU's memory grows. What users have set stays.

Run: pytest tests/recipes/test_waiting.py
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

OURS = ("OMP_", "GOMP_", "PYTORCH_")


def value_of(name: str, package: str, given: dict[str, str]) -> str:
    """Of an environment variable in a process that has imported the package, with these set before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    code = f"import {package}, os, sys; assert 'torch' not in sys.modules; print(os.environ.get({name!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | given,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_sleep_soon(given, count):
    assert value_of("GOMP_SPINCOUNT", "recipes", given) == count


@pytest.mark.skipif(sys.platform != "linux", reason="only there segments can grow")
@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}, "max_split_size_mb:512"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}, "None"),  # its older name
    ],
)
@pytest.mark.parametrize("package", ["recipes", "benchmarks"])
def test_a_gpu_s_memory_grows_by_segments_that_can(package, given, setting):
    assert value_of("PYTORCH_ALLOC_CONF", package, given) == setting
