"""Several processes under torchrun: on two machines, with others than a run began with, and when one of them ends.

Run: pytest tests/recipes/test_launch.py
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SAMPLE
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]
OFF = ("hidden-dropout", "attention-dropout", "activation-dropout", "feat-proj-dropout", "final-dropout", "layerdrop",
       "mask-time-prob", "mask-feature-prob")  # fmt: skip
RUN = ["--lang", "tr", "--model", "tiny", "--max-train-clips", "12", "--max-steps", "6", "--log-steps", "1",
       "--eval-steps", "6", "--save-steps", "1", "--keep-checkpoints", "6", "--device", "cpu",
       *(word for name in OFF for word in (f"--{name}", "0"))]  # fmt: skip
COMMAND = ["-m", "recipes.cv_finetune"]


def torchrun(processes: int, *words: str) -> subprocess.Popen:
    """One launcher. words: its own further flags, then what it starts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(process: subprocess.Popen) -> str:
    """Its stderr, once it has ended well."""
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said[-3000:]
    return said


def losses(out) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


SRUN = """#!/bin/bash
# Both nodes of the job on this machine.
SLURM_NODEID=0 "$@" & SLURM_NODEID=1 "$@" &
wait %1; one=$?
wait %2; exit $((one + $?))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_two_machines_train_one_model(tmp_path):
    """docs/slurm.sbatch with both nodes here: the losses of one launcher with as many processes; again, it goes on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "two", "MASTER_PORT": port,
           "OUT": str(tmp_path / "two"), "DATA": str(SAMPLE), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
           "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    run = [*RUN[2:], "--batch-clips", "2", "--model", "tiny"]
    script = ["bash", str(ROOT / "docs" / "slurm.sbatch"), *run]
    submitted = subprocess.run(script, cwd=ROOT, env=os.environ | job, capture_output=True, text=True, timeout=300)
    assert submitted.returncode == 0, [line for line in submitted.stderr.splitlines() if "error:" in line]
    assert submitted.stderr.count("test: WER") == 1, "the first process alone speaks"
    ended(torchrun(2, "--standalone", *COMMAND, *RUN[:2], *run, "--data", str(SAMPLE), "--out", str(tmp_path / "one")))
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    again = subprocess.run(script, cwd=ROOT, env=os.environ | job, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "resuming from" in again.stderr


def test_a_run_goes_on_with_other_processes_and_the_same_clips(tmp_path):
    """Began with two, goes on with one, and with three: each step has the clips that it would have had."""
    run = [*COMMAND, *RUN, "--batch-clips", "2"]
    ended(torchrun(2, "--standalone", *run, "--out", str(tmp_path / "2")))
    whole, weights = losses(tmp_path / "2"), load_file(tmp_path / "2" / "model.safetensors")
    for processes in (1, 3):
        out = tmp_path / str(processes)
        shutil.copytree(tmp_path / "2", out)
        for number in (3, 4, 5, 6):  # the next step is in the middle of an epoch of three
            (out / "checkpoints" / f"step-000000{number}.pt").unlink()
        said = ended(torchrun(processes, "--standalone", *COMMAND, "--resume", "--out", str(out)))
        assert "resuming from" in said
        assert json.loads((out / "run.json").read_text())["settings"]["processes"] == 2, "the steps are made for two"
        assert losses(out) == pytest.approx(whole, rel=1e-5)
        for name, weight in load_file(out / "model.safetensors").items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-5)


FAILING = """
import os, signal, sys, time
from recipes import console, cv_finetune
from w2v.errors import InputError
from w2v.training import distributed
from w2v.training.step import TrainStep
update, steps = TrainStep.update, []
def told(step):
    steps.append(step)
    if len(steps) == 3 and distributed.rank() == 1:
        print(f"ends at {time.time()}", file=sys.stderr, flush=True)
        FAILS
    return update(step)
TrainStep.update = told
console.run(lambda: cv_finetune.main(sys.argv[1:]))
"""
ENDS = {
    "os.kill(os.getpid(), signal.SIGKILL)": "Signal 9 (SIGKILL) received by PID",
    "raise ZeroDivisionError('a fault of ours')": "ZeroDivisionError: a fault of ours",
    "raise InputError('`lr` must be positive')": "error: --lr must be positive",
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("fails", ENDS)
def test_one_process_that_ends_takes_the_others_along_and_its_error_is_the_last(tmp_path, fails):
    (tmp_path / "failing.py").write_text(FAILING.replace("FAILS", fails))
    run = [*RUN, "--batch-clips", "2", "--out", str(tmp_path / "run")]
    process = torchrun(2, "--standalone", str(tmp_path / "failing.py"), *run)
    said = process.communicate(timeout=300)[1]
    now = time.time()
    assert process.returncode != 0
    began = next(float(line.split()[-1]) for line in said.splitlines() if line.startswith("ends at"))
    assert now - began < 15, "5 on a machine that does nothing else; python -m tests.reliability faults measures it"
    report = said[said.rindex("Root Cause") :]
    assert "rank      : 1" in report and ENDS[fails] in report
    assert "process 0 ends: another one of this launch is gone" in said
    assert "[rank0]: Traceback" not in said


SLOW_EVALUATION = """
import os, signal, sys, time
from recipes import console, cv_finetune, results
from w2v.training import distributed
def told(*_):
    if distributed.rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(100)
results.recognise = told
console.run(lambda: cv_finetune.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_in_an_evaluation_of_several_processes_does_not_wait_for_its_end(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_EVALUATION)
    run = [*RUN, "--batch-clips", "2", "--eval-steps", "3", "--save-steps", "100", "--out", str(tmp_path / "run")]
    process = torchrun(2, "--standalone", str(tmp_path / "slow.py"), *run)
    said = process.communicate(timeout=90)[1]
    assert sum(line.startswith("stopped by SIGTERM; go on with: torchrun") for line in said.splitlines()) == 1
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000003.pt"]
    assert "Traceback" not in said[: said.index("Sending process")]
    said = ended(torchrun(2, "--standalone", *COMMAND, "--resume", "--out", str(tmp_path / "run")))
    assert "step 3: dev WER" in said and "step 6: dev WER" in said
