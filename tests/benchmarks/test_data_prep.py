"""The preparation benchmark runs, and says in one line what its peer lacks.

Run: pytest tests/benchmarks/test_data_prep.py
"""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from benchmarks import data_prep
from w2v.errors import InputError


def run(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.data_prep", "--repeats", "1", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_last_line_is_the_result():
    done = run("--workers", "2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["source_rates"] == {"48000": 100}
    assert result["prepare_real_time"] > 10
    assert 32_000 <= result["store_bytes_per_second"] < 0.51 * 64_000
    assert result["store_to_batch_audio_s_per_s"] > 100


def test_segments_of_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 64_000), 16_000)
    rows = [{"audio_filepath": "a.wav", "text": "x", "offset": start, "duration": 1.5} for start in (0.0, 1.5)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = Namespace(data=[tmp_path / "m.jsonl"], lang=["tr"], workers=1, peer="none", repeats=1)
    result = data_prep.measure(args, tmp_path / "made")
    assert (result["clips"], result["audio_seconds"], result["source_rates"]) == (2, 3.0, {16_000: 2})
    args.peer = "datasets"
    with pytest.raises(InputError, match="--data holds segments"):
        data_prep.measure(args, tmp_path / "again")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed")
def test_a_missing_peer_is_one_line_with_its_remedy():
    done = run("--peer", "datasets")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install" in done.stderr
