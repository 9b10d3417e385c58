"""README.md and the pages beside it are true: their commands run, their flags exist, their links lead somewhere.

Run: pytest tests/test_readme.py
"""

import contextlib
import functools
import importlib
import io
import re
import shlex
import sys

import pytest
from conftest import ROOT, SAMPLE

from recipes import cv_finetune

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "docs/RUNS.md", "docs/CHECKPOINTS.md", "docs/LANGUAGE_MODELS.md", "docs/TUNING.md")
COMMANDS = (
    "align",
    "convert",
    "cv_evaluate",
    "cv_finetune",
    "cv_prepare",
    "demo",
    "report",
    "sweep",
    "train_lm",
    "transcribe",
)
FLAGS_OF_OTHERS = {  # pytest's, the benchmarks', the fuzzer's and torchrun's
    "--help", "--check", "--device", "--long", "--whisper", "--peer", "--inputs", "--nproc-per-node", "--nnodes",
    "--node-rank", "--master-addr", "--master-port",
}  # fmt: skip

ARCHIVE = "cv-corpus-17.0-2024-03-15-tr.tar.gz"  # of the pages; the embedded sample stands for it here
SHORT = ["--model", "random:tiny", "--max-train-clips", "4", "--batch-clips", "2", "--max-steps", "1"]
RUN_HERE = {  # the commands in an order in which they can run, and what makes them short
    f"python -m recipes.cv_prepare --lang tr --data {ARCHIVE} --html page.html": [],
    f"python -m recipes.cv_finetune --lang tr --data {ARCHIVE}": SHORT,
    f"python -m recipes.sweep --lang tr --data {ARCHIVE} --lr 1e-4,3e-4 --max-steps 2000": SHORT,
    "python -m recipes.sweep --lang tr --lr 5e-4,1e-3,2e-3 --max-train-clips 12 --batch-clips 4 --max-steps 200 "
    "--eval-steps 100 --out sweep": SHORT,
    "python -m recipes.transcribe --model runs/tr-w2v-mini-1 recipes/sample/tr/clips/common_voice_tr_17348770.mp3": [],
    'echo "Bu cok fazla." | python -m recipes.align --model runs/tr-w2v-mini-1 --text - --format ctm '
    "recipes/sample/tr/clips/common_voice_tr_17348770.mp3": [],
    "python -m recipes.train_lm --model runs/tr-w2v-mini-1 --from-data --order 3 --out lm.arpa": [],
    "python -m recipes.cv_evaluate --model runs/tr-w2v-mini-1 --lang tr": [],
    "python -m recipes.cv_evaluate --model runs/tr-w2v-mini-1 --lang tr --lm lm.arpa --tune-lm": [],
    "python -m recipes.convert runs/tr-w2v-mini-1 DIR --dtype fp16": [],
}
RUN_ELSEWHERE = {  # with files that are made there
    "pip install -e . && python -m recipes.cv_finetune --lang tr":
        "recipes/test_finetune.py::test_the_sample_run_understands_new_speakers",
    'pip install -e ".[demo]" && python -m recipes.demo --model runs/tr-w2v-mini-1':
        "recipes/test_demo_page.py::test_a_dropped_file_is_written_as_transcribe_hears_it",
    "python -m recipes.convert xlsr_53_56k.pt DIR":
        "recipes/test_convert.py::test_fairseq_checkpoint_with_its_dictionary",
    "python -m recipes.convert model.pth DIR":
        "recipes/test_convert.py::test_torchaudio_state_dict_as_torch_saves_it",
    "python -m recipes.convert conformer_shaw.pt DIR": "recipes/test_convert_w2v_bert.py::",
    "python -m recipes.convert base.pt DIR": "recipes/test_convert.py::test_whisper_s_pt_alone",
    "python -m recipes.convert runs/tr-xlsr-53-1 DIR --to torchaudio": "recipes/test_convert.py::test_there_and_back",
    "python -m recipes.convert whisper-base DIR --to openai":
        "recipes/test_convert.py::test_whisper_there_and_back_is_bit_equal",
    "python -m recipes.convert runs/tr-xlsr-53-1 DIR --to onnx":
        "recipes/test_convert.py::test_onnx_gives_the_same_logits_and_texts_on_real_clips",
    f"torchrun --nproc-per-node 4 -m recipes.cv_finetune --lang tr --data {ARCHIVE}":
        "recipes/test_finetune.py::test_two_processes_train_one_model_and_resume",
}  # fmt: skip
NOT_RUN = {
    "python -m recipes.cv_finetune --lang hi --model whisper-small --data cv-corpus-11.0-2022-09-21-hi.tar.gz":
        "downloads whisper-small; tests/recipes/test_whisper_recipes.py trains a small one",
    'pip install -e ".[test]" && ruff check . && ruff format --check . && mypy && pytest -q': ".ci/run is this command",
}  # fmt: skip


def commands_of(page: str) -> list[str]:
    """What a page's fenced blocks tell the reader to type: all of bash, and what follows "$ " beside an output."""
    text, found = (ROOT / page).read_text(encoding="utf-8"), []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        if kind == "bash":
            found += lines
        elif not kind:
            found += [line[2:] for line in lines if line.startswith("$ ")]
    return [re.sub(r" +", " ", line.split("  #")[0].split(" # ")[0]).strip() for line in found]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test_or_says_why_not(page):
    assert set(commands_of(page)) <= RUN_HERE.keys() | RUN_ELSEWHERE.keys() | NOT_RUN.keys()


def test_the_lists_hold_no_more_than_the_pages_and_their_tests_exist():
    every = {command for page in PAGES for command in commands_of(page)}
    assert every == RUN_HERE.keys() | RUN_ELSEWHERE.keys() | NOT_RUN.keys()
    for place in RUN_ELSEWHERE.values():
        file, name = place.split("::")
        assert f"def {name}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), place


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """As a fresh checkout in which the sample was trained, shortly."""
    folder = tmp_path_factory.mktemp("checkout")
    run = folder / "runs" / "tr-w2v-mini-1"
    cv_finetune.main(["--lang", "tr", "--max-steps", "2", "--max-train-clips", "80", "--out", str(run)])
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.mark.slow
def test_the_commands_run_as_printed(folder, monkeypatch):
    """In their order: one reads what another one wrote."""
    monkeypatch.chdir(folder)
    for command, short in RUN_HERE.items():
        print(command, file=sys.stderr)  # pytest shows the last one where it fails
        words = shlex.split(command.replace(ARCHIVE, SAMPLE.as_posix()))
        if words[0] == "echo":
            said = io.BytesIO(words[1].encode() + b"\n")
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(said, encoding="utf-8"))
            words = words[words.index("|") + 1 :]
        assert words[:2] == ["python", "-m"]
        assert importlib.import_module(words[2]).main([*words[3:], *short])


@pytest.mark.slow
def test_the_example_runs_as_printed(folder, monkeypatch, capsys):
    example = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL).group(1)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


@functools.cache
def flags_of_commands() -> set[str]:
    """Every flag that --help of a command names."""
    found = set()
    for name in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            importlib.import_module(f"recipes.{name}").main(["--help"])
        found |= set(re.findall(r"--[a-z][a-z-]+", printed.getvalue()))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_exists(page):
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / page).read_text(encoding="utf-8")))
    assert flags and flags - FLAGS_OF_OTHERS <= flags_of_commands()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))])
def test_every_link_within_the_project_leads_somewhere(page):
    """A link's #part is a heading there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, part = link.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), link
        if part:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert part in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link
