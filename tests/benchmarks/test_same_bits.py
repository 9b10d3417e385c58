"""Weights are compared bit for bit, and the sample's limits hold.

Run: pytest tests/benchmarks/test_same_bits.py          (real runs against HEAD: add -m slow)
"""

import json
from contextlib import nullcontext

import pytest
import torch
from conftest import ROOT

from benchmarks import same_bits
from benchmarks.same_bits import differences
from w2v.errors import InputError


def test_bits_differ_where_numbers_may_not():
    ours = {
        "same": torch.tensor([1.0, float("nan")]),
        "scalar": torch.tensor(2.0),
        "empty": torch.empty(0),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "zero": torch.tensor([0.0]),
        "last bit": torch.tensor([1.0]),
        "shape": torch.ones(2, 3),
        "type": torch.ones(2),
        "gone": torch.ones(1),
    }
    theirs = {name: tensor.clone() for name, tensor in ours.items()}
    assert differences(ours, theirs) == []
    theirs |= {
        "zero": torch.tensor([-0.0]),
        "last bit": torch.nextafter(torch.tensor([1.0]), torch.tensor([2.0])),
        "shape": torch.ones(3, 2),
        "type": torch.ones(2).to(torch.int32),
        "new": torch.ones(1),
    }
    del theirs["gone"]
    assert differences(ours, theirs) == ["gone", "last bit", "new", "shape", "type", "zero"]
    assert differences({"view": torch.ones(3, 2).T}, {"view": torch.ones(2, 3)}) == []


def test_the_first_that_differ_are_named_with_exit_code_1(monkeypatch, capfd):
    weights = {f"layer.{i}": torch.zeros(2) for i in range(9)}
    monkeypatch.setattr(same_bits, "checked_out", lambda revision: nullcontext("their tree"))
    monkeypatch.setattr(same_bits, "trained", lambda tree, steps, out: weights)
    assert same_bits.main(["HEAD", "--steps", "7"])["equal"] == 9
    assert capfd.readouterr().err == "equal: 9 of 9 tensors after 7 steps of the sample\n"

    ours = {name: tensor + (name > "layer.2") for name, tensor in weights.items()}
    monkeypatch.setattr(same_bits, "trained", lambda tree, steps, out: ours if tree == ROOT else weights)
    with pytest.raises(SystemExit) as end:
        same_bits.main(["HEAD"])
    assert end.value.code == 1
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[-1])["equal"] == 3
    assert err.startswith("equal: 3 of 9 tensors after 50 steps of the sample\nfailed: all tensors must equal those of")
    assert "6 differ: layer.3, layer.4, layer.5, layer.6, layer.7 ...;" in err


def test_an_unknown_commit_is_refused_before_anything_trains(monkeypatch):
    monkeypatch.setattr(same_bits, "trained", None)
    with pytest.raises(InputError, match=r"REV must be a commit|needs a git checkout"):
        same_bits.main(["no-such-commit"])


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_commit_trains_the_same_weights_as_itself():
    result = same_bits.main(["HEAD", "--steps", "2"])
    assert result["equal"] == result["tensors"] > 50
