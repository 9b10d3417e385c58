"""States that are written while training goes on.

Run: pytest tests/training/test_state.py
"""

import copy
import errno
import threading

import pytest
import torch

import w2v
from w2v.training import state
from w2v.training.optim import adamw
from w2v.training.state import Progress, StateWriter, load_state, save_state
from w2v.training.step import TrainStep


@pytest.fixture
def step(small_config) -> TrainStep:
    torch.manual_seed(0)
    model = w2v.Wav2Vec2ForCTC(small_config).train()
    return TrainStep(model, adamw(model, 1e-2, (0.9, 0.999), 0.0), lambda _: 1.0)


def take(step: TrainStep, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    waveform = torch.randn(16_000, generator=generator).numpy()
    batch = step.model.config.collate([waveform], [[1, 2, 3]], ["a"])
    step.begin(number)
    step.backward(step.losses(batch, last=True), step.total_weight([batch]))
    step.update()


@pytest.fixture
def gate(monkeypatch):
    """Writers wait until it is set."""
    opened, write = threading.Event(), state._write

    def waiting(path, contents):
        assert opened.wait(60)
        write(path, contents)

    monkeypatch.setattr(state, "_write", waiting)
    yield opened
    opened.set()


@pytest.mark.parametrize("aside", [True, False])
def test_training_goes_on_while_a_state_is_written_and_does_not_change_it(step, tmp_path, gate, monkeypatch, aside):
    if not aside:
        monkeypatch.setattr(state, "_memory_for_copies", lambda: 0)
        gate.set()
    states, done = StateWriter(step), []
    for number in (0, 1):
        take(step, number)
        save_progress = Progress(step=number + 1)
        if aside:
            gate.clear()
        states.save(tmp_path / f"{number}.pt", save_progress, then=lambda number=number: done.append(number))
        right = copy.deepcopy(step.model.state_dict()), copy.deepcopy(step.optimizer.state_dict()["state"])
        assert (number in done) is not aside
        take(step, 10 + number)  # meanwhile
        save_progress.step = 99
        gate.set()
        states.wait()
        assert done[-1] == number
        saved = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert saved["progress"]["step"] == number + 1
        assert all(torch.equal(saved["model"][name], value) for name, value in right[0].items())
        for i, moments in right[1].items():
            assert all(torch.equal(saved["optimizer"]["state"][i][name], value) for name, value in moments.items())
    assert load_state(tmp_path / "1.pt", step) == Progress(step=2), "it is read as any other"


def test_a_state_waits_for_the_one_before(step, tmp_path, gate):
    states, order = StateWriter(step), []
    states.save(tmp_path / "0.pt", Progress(), then=lambda: order.append("first is written"))
    second = threading.Thread(target=lambda: (states.save(tmp_path / "1.pt", Progress()), order.append("second began")))
    second.start()
    gate.set()
    second.join(60)
    states.wait()
    assert order[0] == "first is written" and (tmp_path / "1.pt").exists()


@pytest.mark.parametrize("told_by", ["check", "wait", "save"])
def test_what_could_not_be_written_is_raised_by_the_next_call(step, tmp_path, monkeypatch, told_by):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    states = StateWriter(step)
    states.wait()
    with monkeypatch.context() as patch:
        patch.setattr(state, "_write", full)
        states.save(tmp_path / "0.pt", Progress())
        states._thread.join()
    call = {"check": states.check, "wait": states.wait, "save": lambda: states.save(tmp_path / "1.pt", Progress())}
    with pytest.raises(OSError, match="No space left"):
        call[told_by]()
    assert not list(tmp_path.iterdir())
    states.save(tmp_path / "1.pt", Progress())
    states.wait()
    assert (tmp_path / "1.pt").exists(), "once there is room again"


def test_both_ways_write_the_same_file(step, tmp_path):
    take(step, 0)
    states = StateWriter(step)
    states.save(tmp_path / "a.pt", Progress(step=1))
    states.wait()
    save_state(tmp_path / "b.pt", step, Progress(step=1))
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert one["optimizer"]["param_groups"] == two["optimizer"]["param_groups"] and one["progress"] == two["progress"]
    assert one["model"].keys() == two["model"].keys()
    sizes = [(tmp_path / name).stat().st_size for name in ("a.pt", "b.pt")]
    assert max(sizes) < 1.01 * min(sizes), "no tensor is there twice"
