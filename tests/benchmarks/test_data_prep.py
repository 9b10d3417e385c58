"""The preparation benchmark runs, and says in one line what its peer lacks.

Run: pytest tests/benchmarks/test_data_prep.py
"""

import importlib.util
import json
import runpy
import sys
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

from benchmarks import data_prep
from w2v.errors import InputError


@pytest.fixture
def run(monkeypatch):
    """run(*flags): what `python -m benchmarks.data_prep` runs, without the seconds of another start of Python."""
    threads = torch.get_num_threads()

    def call(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["data_prep", "--repeats", "1", *flags])
        runpy.run_path(str(ROOT / "benchmarks" / "data_prep.py"), run_name="__main__")

    yield call
    torch.set_num_threads(threads)


def test_the_last_line_is_the_result(run, capsys):
    run("--workers", "2")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
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
def test_a_missing_peer_is_one_line_with_its_remedy(run, capsys):
    with pytest.raises(SystemExit) as end:
        run("--peer", "datasets")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install" in line
