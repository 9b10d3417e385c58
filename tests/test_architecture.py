"""The house keeps its shape: imports point one way, peers stay out of the runtime, nothing heavy happens on import.

Run: pytest tests/test_architecture.py
"""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PEERS = {"transformers", "fairseq", "datasets", "accelerate"}


def imports(folder: str) -> dict[str, set[str]]:
    """{file: modules it imports}, lazy imports included."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
        found[str(file.relative_to(ROOT))] = names
    return found


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_library_knows_nothing_of_recipes_argparse_or_peers():
    for file, names in imports("w2v").items():
        assert not tops(names) & (PEERS | {"recipes", "benchmarks", "tests", "argparse"}), file
    for file, names in imports("recipes").items():
        assert not tops(names) & (PEERS | {"benchmarks", "tests"}), file


def test_the_library_does_not_print():
    for file in (ROOT / "w2v").rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), file


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        (
            "w2v/models/wav2vec2.py",
            {
                "w2v.errors",
                "w2v.masking",
                "w2v.packing",
                "w2v.weights.hf",
                "w2v.kernels.attention",
                "w2v.kernels.channels_last_conv",
                "w2v.kernels.dropout",
                "w2v.kernels.norm_gelu",
                "w2v.kernels.grouped_conv",
            },
        ),
        ("w2v/audio.py", {"w2v.errors"}),
        ("w2v/text.py", {"w2v.errors", "w2v.files"}),
        ("w2v/masking.py", set()),
        ("w2v/ctc.py", {"w2v.kernels.ctc_triton", "w2v.kernels.device"}),
    ],
)
def test_leaves_and_models_import_little(part, allowed):
    ours = {name for name in imports("w2v")[part] if name.startswith("w2v")}
    assert ours <= allowed


def test_training_is_handed_a_model_and_imports_none():
    for file, names in imports("w2v").items():
        if file.startswith("w2v/training"):
            assert not any(name.startswith(("w2v.models", "w2v.weights")) for name in names), file


def test_transformers_is_never_loaded_at_run_time():
    code = "import sys, w2v, recipes.cv_finetune; print(sorted({'transformers', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
