"""The step benchmark: what it promises is there, and both sides do the same work.

Run: pytest tests/benchmarks/test_step_time.py          (several processes: add -m slow)
"""

import gzip
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import step_time
from recipes import console
from w2v.errors import InputError
from w2v.kernels.torch_private import cpu_has_bf16_products
from w2v.models.families import FAMILIES, shapes
from w2v.models.whisper_config import WhisperConfig

TINY = ["--model", "tiny", "--device", "cpu", "--clips", "2", "--seconds", "1", "--steps", "2"]
RESULT = {
    "ms_per_step", "ms_median", "ms_min", "ms_max", "ms_by_step", "audio_s_per_s", "speech_seconds", "stages_ms",
    "padding", "static_bytes", "peak_bytes", "activation_bytes", "model_flop_per_s", "share_of_ceiling",
    "layers_executed", "precision", "ms_back_to_back",
}  # fmt: skip
SMALL_WHISPER = WhisperConfig(
    d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=100, eos_token_id=50257,
)  # fmt: skip


def run(*flags: str, launcher: tuple[str, ...] = ()) -> dict:
    command = [sys.executable, *launcher, "-m", "benchmarks.step_time", *TINY, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("peer", ["transformers", "torchaudio"])
def test_the_last_line_compares_both_implementations(peer, capsys):
    pytest.importorskip(peer)
    console.run(lambda: step_time.main([*TINY, "--peer", peer, "--precision", "bf16"]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    columns = {"w2v", peer}
    if not cpu_has_bf16_products():  # ours computes in fp32 there, so the peer must do that too
        columns |= {f"{peer}-fp32"}
        assert result["precision"] == "fp32"
        assert result["ratio_fp32"] > 0
    assert set(result["results"]) == columns
    for name, column in result["results"].items():
        assert set(column) == RESULT, name
        assert len(column["ms_by_step"]) == 2
        assert column["audio_s_per_s"] > 0
        assert 0 < column["ms_back_to_back"] < 10 * column["ms_max"]
        assert set(column["stages_ms"]) == {"data", "forward", "backward", "optimiser"}
    assert len({column["layers_executed"] for column in result["results"].values()}) == 1
    least = result["roofline"]
    assert least["least_ms"] == pytest.approx(sum(least["least_ms_by_stage"].values()), abs=0.02)
    assert 0 < least["share_of_least"] < 1 and least["rates"] == "measured in this run"
    assert result["peer"] == peer
    assert result["ratio"] > 0
    assert result["failed"] == {}
    losses = result["losses_with_dropout_off"]
    assert set(losses) == {"w2v, padded", "w2v, packed", peer}
    assert max(losses.values()) - min(losses.values()) <= 1e-4 * max(losses.values())


def agrees(result: dict) -> None:
    """A column's rate, its mean time and its stages come from the same sums."""
    for name, column in result["results"].items():
        speech = column["audio_s_per_s"] * column["ms_per_step"] / 1000 * result["steps"]
        assert speech == pytest.approx(column["speech_seconds"], rel=2e-3), name
        assert sum(column["stages_ms"].values()) == pytest.approx(column["ms_per_step"], abs=0.05), name
        assert min(column["ms_by_step"]) <= column["ms_median"] <= max(column["ms_by_step"])


@pytest.fixture
def families(monkeypatch) -> dict[str, str]:
    """A small model's name by family."""
    monkeypatch.setitem(FAMILIES["whisper"].shapes, "whisper-smallest", SMALL_WHISPER)
    return {"wav2vec2": "tiny", "wav2vec2-bert": "w2v-bert-tiny", "whisper": "whisper-smallest"}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("what", ["step", "inference", "evaluation"])
def test_every_family_is_timed_beside_transformers(family, what, families):
    pytest.importorskip("transformers")
    flags = ["--model", f"random:{families[family]}", "--what", what, "--precision", "fp32", "--peer", "transformers"]
    result = step_time.main([*TINY, *flags])
    assert result["failed"] == {} and result["model"] == families[family] and result["what"] == what
    assert set(result["results"]) == {"w2v", "transformers"}
    stages = {"step": {"data", "forward", "backward", "optimiser"}, "inference": {"data", "forward"}}
    for name, column in result["results"].items():
        assert set(column) == RESULT, name
        assert set(column["stages_ms"]) == stages.get(what, {"data", "hearing"})
        hears = what != "step"
        assert (column["model_flop_per_s"] is None) == (family == "whisper" and hears)
        assert (column["padding"] is None) == (what == "evaluation")
    agrees(result)
    losses = result["losses_with_dropout_off"]
    assert set(losses) == {"transformers", "w2v, padded"} | ({"w2v, packed"} if family != "whisper" else set())
    assert max(losses.values()) - min(losses.values()) <= 1e-4 * max(losses.values())
    if what == "evaluation":
        assert result["texts_equal"].endswith(" of 4")
        if family == "whisper":  # of CTC's, transformers writes what it hears in padding too
            assert result["texts_equal"] == "4 of 4"


def test_the_peer_as_people_run_it_takes_the_same_clips_by_count(families, monkeypatch):
    pytest.importorskip("transformers")
    seen = {}
    real = step_time.warm_up

    def warm_up(columns, work, device):
        seen.update({column.name: column for column in columns})
        return real(columns, work, device)

    monkeypatch.setattr(step_time, "warm_up", warm_up)
    flags = ["--clips", "3", "--steps", "4", "--peer", "transformers-as-run", "--precision", "fp32"]
    result = step_time.main([*TINY, *flags])
    agrees(result)
    ours, theirs = seen["w2v"], seen["transformers-as-run"]
    assert sorted(i for batch in theirs.batches for i in batch) == sorted(i for batch in ours.batches for i in batch)
    assert theirs.batches != ours.batches and [len(batch) for batch in theirs.batches] == [3] * 4
    columns = result["results"]
    assert columns["w2v"]["speech_seconds"] == columns["transformers-as-run"]["speech_seconds"]
    assert columns["transformers-as-run"]["padding"] > columns["w2v"]["padding"]
    rates = [columns[name]["audio_s_per_s"] for name in ("w2v", "transformers-as-run")]
    assert result["ratio"] == pytest.approx(rates[0] / rates[1], abs=1e-3)
    assert result["ratio_paired"] is None, "its batches are others"
    assert theirs.model.config._attn_implementation == "eager"
    assert theirs.model.is_gradient_checkpointing
    assert any("fp16" in note for note in result["notes"])


def test_profiles_are_written_where_they_are_asked_for(tmp_path):
    folder = tmp_path / "new" / "profile"
    result = step_time.main([*TINY, "--steps", "1", "--peer", "torchaudio", "--profile", str(folder)])
    names = [f"{kind}-{name}" for name in result["results"] for kind in ("trace", "kernels")]
    assert len(result["profiles"]) == len(names)
    for file in result["profiles"]:
        assert file.startswith(tuple(names)) and (folder / file).stat().st_size > 100
    with gzip.open(folder / "trace-w2v.json.gz") as file:
        assert json.load(file)["traceEvents"]


def test_each_peer_saves_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    for peer in ("none", "torchaudio"):
        step_time.main([*TINY, "--steps", "1", "--peer", peer, "--save", "cpu"])
    step_time.main([*TINY, "--steps", "1", "--what", "inference", "--save", "cpu"])
    names = {"step_time-cpu-none.json", "step_time-cpu-torchaudio.json", "step_time-cpu-inference-none.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    saved = json.loads((tmp_path / "step_time-cpu-torchaudio.json").read_text())
    assert saved["memory_bytes_per_s"] > 1e8 and saved["matmul_ceiling_flop_per_s"] > 1e8
    assert {"load", "gpu_state", "gpu_state_after", "torch"} <= set(saved["machine"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_loops_for_a_gpu_are_calls_that_parse_each_with_a_file_of_its_own():
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/PERFORMANCE.md").read_text(encoding="utf-8"), re.DOTALL)
    block = next(block for block in blocks if "step_time" in block)
    told = 'python() { echo "$*"; }; torchrun() { echo "$*"; }; ' + block
    calls = subprocess.run(["bash", "-c", told], capture_output=True, text=True, check=True).stdout.splitlines()
    flags = [call.partition("benchmarks.step_time ")[2].split() for call in calls if "benchmarks.step_time" in call]
    parsed = [step_time.parse_arguments(each) for each in flags]
    saved = [(args.save, args.what, args.peer) for args in parsed if args.save]
    assert len(saved) == len(set(saved)) == 26
    assert {shapes()[args.model][0].model_type for args in parsed} == set(FAMILIES)
    assert {args.what for args in parsed} == {"step", "inference", "evaluation"}
    assert sum(args.profile is not None for args in parsed) == 2


@pytest.mark.slow
def test_several_processes_report_scaling():
    pytest.importorskip("transformers")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    result = run("--peer", "transformers", "--checkpointing", "on", launcher=launcher)
    assert set(result["results"]) == {"w2v", "w2v-alone", "transformers"}
    assert result["ranks"] == 2
    assert result["clips_per_step"] == 4
    agrees(result)
    alone, together = (result["results"][name] for name in ("w2v-alone", "w2v"))
    assert result["scaling_efficiency"] == pytest.approx(alone["ms_per_step"] / together["ms_per_step"], abs=1e-3)
    rates = together["audio_s_per_s"] / (2 * alone["audio_s_per_s"])
    assert result["scaling_efficiency"] == pytest.approx(rates, rel=5e-3)
    assert together["communication_ms"] == pytest.approx(together["ms_per_step"] - alone["ms_per_step"], abs=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clips", "2", "--batch-seconds", "10"], "give one of them"),
        (["--peer", "fairseq"], "fairseq"),
        (["--peer", "transformers,torchaudio"], "once per peer"),
        (["--peer", "torchaudio", "--checkpointing", "on"], "give --peer transformers"),
        (["--batch-seconds", "0"], "above 0"),
        (["--peer", "none", "--precision", "fp16", "--device", "cpu"], "needs a GPU"),
        (["--model", "xlsr-54"], "--model must be one of xlsr-53, .*whisper-base.*got 'xlsr-54'"),
        (["--model", "whisper-base", "--peer", "torchaudio", "--device", "cpu"], "wav2vec 2.0 only"),
        (["--what", "evaluation", "--peer", "torchaudio"], "writes text"),
        (["--what", "inference", "--checkpointing", "on"], "trains nothing"),
        (["--what", "inference", "--model", "whisper-base", "--peer", "transformers-compiled"], "one by one"),
        (["--what", "inference", "--against", "HEAD"], "as one process"),
        (["--model", "w2v-bert-tiny", "--device", "cpu", "--train-feature-encoder"], "is for wav2vec 2.0"),
    ],
)
def test_what_it_refuses(flags, words):
    with pytest.raises(InputError, match=words):
        step_time.main(flags)
