"""The house keeps its shape: imports point one way, peers stay out of the runtime, nothing heavy happens on import.

Run: pytest tests/test_architecture.py
"""

import ast
import functools
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PEERS = {"transformers", "fairseq", "datasets", "accelerate"}


@functools.cache  # nobody changes what it gives
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


def test_no_import_circle():
    """Lazy imports count: a circle that is hidden in a function is one all the same."""
    graph = {}
    for folder in ("w2v", "recipes"):
        for file, names in imports(folder).items():
            module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            graph[module] = {name for name in names if name.startswith(("w2v.", "recipes."))}
    # `from w2v.weights import hf` names the package; what it imports from there is a module too.
    for module, found in modules_from_packages().items():
        graph[module] |= found
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module not in done:
            for other in graph.get(module, ()):
                walk(other, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@functools.cache
def modules_from_packages() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in [*(ROOT / "w2v").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        module = str(file.relative_to(ROOT)).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        found[module] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (ROOT / node.module.replace(".", "/")).is_dir():
                found[module] |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "part", ["w2v/masking.py", "w2v/layout.py", "w2v/answers.py", "w2v/metrics.py", "w2v/errors.py"]
)
def test_leaves_import_little(part):
    ours = {name for name in imports("w2v")[part] if name.startswith("w2v")}
    assert ours <= {"w2v.layout"}


def test_models_stay_in_their_rooms():
    """Every other file asks families.py for a model, and looks at no model_type."""
    rooms = ("w2v/models/", "w2v/weights/", "w2v/__init__.py")
    for folder in ("w2v", "recipes"):
        modules = modules_from_packages()
        for file, names in imports(folder).items():
            if file.startswith(rooms):
                continue
            names = names | modules[file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")]
            inside = {name for name in names if name.startswith("w2v.models.") and name != "w2v.models.families"}
            assert not inside, f"{file} imports {inside}"
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not re.search(r"[\"']model_type[\"']", text), f"{file} looks at a checkpoint's model_type"


def test_weights_and_training_know_no_model():
    for file, names in imports("w2v").items():
        if file.startswith(("w2v/training/", "w2v/weights/")):
            assert not any(name.startswith("w2v.models") for name in names), file


@pytest.mark.parametrize(("folder", "most"), [("w2v", 450), ("recipes", 400), ("benchmarks", 450)])
def test_files_can_be_read_in_one_go(folder, most):
    for file in (ROOT / folder).rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= most, file


@pytest.fixture(scope="module")
def imported() -> list[str]:
    """What a process without Triton prints that imports all which training needs."""
    code = """if True:
        import sys
        sys.modules["triton"] = None
        import w2v, recipes.cv_finetune
        print(sorted({"transformers", "datasets"} & set(sys.modules)))
        print(w2v.kernels.device._has_triton())
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_transformers_is_never_loaded_at_run_time(imported):
    assert imported[0] == "[]"


def test_importing_w2v_needs_no_triton(imported):
    assert imported[1] == "False"
