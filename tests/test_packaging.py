"""What people install: the wheel, its commands and its types; and what contributors run before a commit.

Run: pytest tests/test_packaging.py
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml  # huggingface_hub brings it
from conftest import ROOT

from w2v.text import locales, whisper_languages

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = PROJECT["scripts"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing of an earlier build is in it."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("project")
    for name in ("w2v", "recipes", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return copy / "dist" / done.stdout.splitlines()[-1]


def test_the_wheel_holds_the_library_its_commands_and_the_sample(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"w2v", "recipes"}
    modules = [file.relative_to(ROOT).as_posix() for top in ("w2v", "recipes") for file in (ROOT / top).rglob("*.py")]
    assert set(modules) == {name for name in names if name.endswith(".py")}
    assert "w2v/py.typed" in names
    assert sum(name.startswith("recipes/sample/tr/clips/") for name in names) == 100
    assert {"recipes/w2v-mini/model.safetensors", "recipes/w2v-mini/vocab.json"} <= set(names)
    assert wheel.stat().st_size < 5e6 + 8e6  # the boxed model may take 8 MB


@pytest.mark.long
def test_the_installed_commands_say_what_they_take(wheel, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path, wheel]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (folder,) = (tmp_path / name for name in ("bin", "Scripts") if (tmp_path / name).is_dir())
    for name in SCRIPTS:
        done = subprocess.run(
            [folder / name, "--help"], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: python -m {SCRIPTS[name].split(':')[0]} "), name


def test_every_recipe_is_a_command():
    """A recipe ends in `command`, which `python -m` and the installed script both call."""
    recipes = set()
    for file in (ROOT / "recipes").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in source:
            assert source.endswith('\n\nif __name__ == "__main__":\n    command()\n'), file
            recipes.add(f"recipes.{file.stem}:command")
    assert recipes == set(SCRIPTS.values())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_runs_its_main_as_all_do(name, monkeypatch):
    module = importlib.import_module(SCRIPTS[name].split(":")[0])
    asked = []
    monkeypatch.setattr(module, "run", lambda main, if_stopped="": asked.append(main))
    module.command()
    assert asked == [module.main]


def test_the_library_has_no_blanket_ignores():
    for file in (ROOT / "w2v").rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert "type: ignore" not in line or re.search(r"type: ignore\[[a-z-]+\]", line), f"{file}: {line.strip()}"


def test_the_hooks_before_a_commit_are_the_test_commands_own():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]  # nothing is fetched
    hooks = [hook["entry"].split()[:2] for hook in repositories[0]["hooks"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    test_command = re.search(r"<!-- test command -->\n```bash\n(.*?)\n```", readme, re.DOTALL)[1]
    checks = [part.split()[:2] for part in test_command.split("&&")][1:-1]  # between the installation and the tests
    assert hooks == checks


def test_the_guide_for_contributors_names_what_is_there():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+\.(?:py|yml|md|toml)|[\w./-]+/)(?::\w+)?`", guide)
    named += re.findall(r"\]\(([^)#]+)", guide)
    assert len(named) > 20
    # NAME: what a contributor adds. base/ and tiny.en/ are folders of DIR.
    lacking = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert lacking == ["base/", "tiny.en/"]
    tables = set(re.findall(r"`([A-Z_]{4,})`", guide))
    assert len(tables) == 6 and tables <= set(vars(locales)) | set(vars(whisper_languages))
