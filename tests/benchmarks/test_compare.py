"""Two results side by side: their ratios, what differs, and files that are no results.

Run: pytest tests/benchmarks/test_compare.py
"""

import copy
import json
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import compare
from recipes import console
from w2v.errors import InputError

STAGES = {"data": 1.0, "forward": 30.0, "backward": 60.0, "optimiser": 9.0}
COLUMN = {
    "ms_by_step": [90.0, 110.0], "audio_s_per_s": 100.0, "stages_ms": STAGES, "peak_bytes": 10**9, "precision": "bf16",
}  # fmt: skip
MACHINE = {"gpu": "H100", "torch": "2.11.0", "gpu_state": {"driver": "570.1", "watts_at_most": 700.0}}
RESULT = {
    "results": {"w2v": COLUMN, "transformers": {**COLUMN, "audio_s_per_s": 50.0}},
    "model": "xlsr-53",
    "precision": "bf16",
    "steps": 2,
    "machine": MACHINE,
}


@pytest.fixture
def saved(tmp_path):
    def write(name: str, result: object) -> str:
        file = tmp_path / name
        file.write_text(result if isinstance(result, str) else json.dumps(result))
        return str(file)

    return write


def test_columns_are_compared_and_what_differs_is_named(saved, capsys):
    other = copy.deepcopy(RESULT)
    del other["results"]["transformers"]
    other["results"]["w2v"] |= {"ms_by_step": [60.0, 20.0], "audio_s_per_s": 250.0, "peak_bytes": None}
    other["precision"] = other["results"]["w2v"]["precision"] = "fp16"
    other["machine"]["gpu_state"]["driver"] = "580.2"
    summary = compare.main([saved("a.json", RESULT), saved("b.json", other)])
    assert summary["columns"] == {
        "w2v": {
            "ms_per_step": [100.0, 40.0],
            "audio_s_per_s": [100.0, 250.0],
            "peak_bytes": [10**9, None],
            "precision": ["bf16", "fp16"],
            "stages_ms": {name: [ms, ms] for name, ms in STAGES.items()},
            "ratio": 2.5,
        }
    }
    assert summary["differ"] == {"precision": ["bf16", "fp16"], "machine, driver": ["570.1", "580.2"]}
    err = capsys.readouterr().err
    assert "DIFFERS: precision: 'bf16' in A, 'fp16' in B" in err
    assert "DIFFERS: machine, driver: '570.1' in A, '580.2' in B" in err
    rows = {line.split("  ")[1].strip(): line.split()[-3:] for line in err.splitlines() if line.startswith("  ")}
    assert rows["ms/step"] == ["100.00", "40.00", "2.500"]
    assert rows["audio s/s"] == ["100.00", "250.00", "2.500"], "a rate's quotient is the other way round"
    assert rows["peak GB"] == ["1.00", "-", "-"]


@pytest.mark.parametrize(("least", "code"), [("1.01", 1), ("1.0", None)])
def test_a_slower_column_is_exit_code_1(least, code, saved, capsys):
    flags = [saved("a.json", RESULT), saved("b.json", RESULT), "--least", least]
    if code is None:
        assert compare.main(flags)["differ"] == {}
        return
    with pytest.raises(SystemExit) as end:
        compare.main(flags)
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["columns"]["w2v"]["ratio"] == 1.0
    assert err.splitlines()[-1].startswith("failed: B must be at least 1.01 times as fast as A, w2v, transformers")


def broken(name: str, value: object) -> dict:
    return RESULT | {"results": {"w2v": COLUMN | {name: value}}}


@pytest.mark.parametrize(
    "result",
    [
        "", "{", "[]", "{}", "[" * 5000, '{"results": "\\ud800"}', {"results": []}, {"results": {"w2v": 3}},
        {"results": {"w2v": {}}}, {"results": {"other": COLUMN}}, {"results": {}},
        broken("ms_by_step", []), broken("ms_by_step", [0.0]), broken("ms_by_step", ["3"]),
        broken("ms_by_step", [float("nan")]), broken("ms_by_step", [10**400]), broken("audio_s_per_s", -1),
        broken("audio_s_per_s", True), broken("audio_s_per_s", 1e-300), broken("stages_ms", [1]),
        broken("stages_ms", {"data": None}), broken("peak_bytes", "1"), broken("peak_bytes", float("inf")),
    ],
)  # fmt: skip
def test_files_of_strangers_are_one_line_and_exit_code_2(result, saved, capsys):
    flags = [saved("a.json", RESULT), saved("b.json", result)]
    with pytest.raises(SystemExit) as end:
        console.run(lambda: compare.main(flags))
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].isprintable()
    assert "complete model folder" not in lines[0]


def test_odd_settings_of_strangers_are_shown(saved, capsys):
    odd = RESULT | {"model": {"a": ["\x1b[2J" * 100]}, "machine": [], "results": {"w2v\x1b[2J": COLUMN, "w2v": COLUMN}}
    odd["results"]["w2v"] = COLUMN | {"stages_ms": {"\x1b[2J": 0.0}}
    summary = compare.main([saved("a.json", odd), saved("b.json", RESULT)])
    json.dumps(summary, allow_nan=False)
    assert "\x1b" not in capsys.readouterr().err


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none.json.*; give a file that benchmarks.step_time --save has written$"):
        compare.main([str(tmp_path / "none.json"), str(tmp_path / "none.json")])


def test_saved_results_can_be_compared():
    files = [str(ROOT / f"benchmarks/results/step_time-{name}.json") for name in ("cpu-tiny", "cpu-xlsr-53-fp32")]
    assert all(Path(file).is_file() for file in files)
    assert compare.main(files)["differ"]["model"] == ["tiny", "xlsr-53"]
