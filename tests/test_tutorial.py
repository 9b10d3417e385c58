"""docs/tutorial.ipynb: its cells run in order, and the outputs that it holds are those of these cells.

Run: pytest tests/test_tutorial.py
"""

import copy
import json
import re

import pytest
from conftest import ROOT

import w2v
from docs import run_tutorial
from w2v.metrics import error_rates

TEXT = (ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8")
NOTEBOOK = json.loads(TEXT)
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
INSTALLS = [cell for cell in CODE if cell["metadata"].get("tags") == [run_tutorial.INSTALLS]]
ALWAYS_THE_SAME = ("!python -m recipes.cv_prepare", "!python -m recipes.convert")  # but for numbers


def printed(cell: dict) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"])


def without_numbers(cell: dict) -> str:
    """What a cell prints, without digests either."""
    return re.sub(r"[0-9a-f]{16}|[0-9.]+", "#", printed(cell))


def test_the_notebook_holds_small_outputs_of_all_its_cells_and_no_paths_of_a_machine():
    ran = [cell for cell in CODE if cell not in INSTALLS]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    assert all(printed(cell) for cell in ran) and len(TEXT) < 30_000
    assert not re.search(r"(?<![\w.])/(home|tmp|root|work|content|Users|mnt|var|usr)/|[A-Z]:\\\\", TEXT)


def test_jupyter_and_colab_can_open_it():
    """What nbformat's schema 4.5 asks of these cells."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        wanted |= {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == wanted and re.fullmatch(r"[\w-]{1,64}", cell["id"])
    (install,) = INSTALLS
    assert [line[:12] for line in install["source"]] == ["!git clone -", "%pip install"] and not install["outputs"]


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"]))
    here = [link for link in links if "://" not in link]
    assert here and all((ROOT / "docs" / link).exists() for link in here)


@pytest.mark.slow
def test_the_cells_run_and_the_clip_is_understood(tmp_path):
    notebook = copy.deepcopy(NOTEBOOK)
    left = run_tutorial.run_cells(notebook, tmp_path)
    assert error_rates([left["labels"]], [left["heard"].text]).cer < 0.2
    assert w2v.load(tmp_path / "copy").transcribe(tmp_path / "clip.mp3")[0].text == left["heard"].text
    assert (tmp_path / "page.html").exists() and (tmp_path / "lm.arpa").exists()
    for stored, now in zip(NOTEBOOK["cells"], notebook["cells"], strict=True):
        if "".join(stored["source"]).startswith(ALWAYS_THE_SAME):
            assert without_numbers(stored) == without_numbers(now), "run docs/run_tutorial.py --write"


@pytest.mark.parametrize("source", ["!python -c 'raise SystemExit(3)'", "1 / 0"])
def test_a_cell_that_fails_ends_the_run(tmp_path, source):
    cell = {"cell_type": "code", "metadata": {}, "source": [source]}
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        run_tutorial.run_cells({"cells": [cell]}, tmp_path)
