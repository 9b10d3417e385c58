"""README.md is true: its example runs, its commands name flags that exist.

Run: pytest tests/test_readme.py
"""

import contextlib
import io
import re

import pytest
from conftest import ROOT

from recipes import align, convert, cv_evaluate, cv_finetune, cv_prepare, demo, train_lm, transcribe

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMMON_VOICE_ROOT", raising=False)
    run = tmp_path / "runs" / "tr-tiny-1"
    cv_finetune.main(["--lang", "tr", "--max-steps", "2", "--max-train-clips", "80", "--out", str(run)])
    example = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    capsys.readouterr()
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_every_flag_in_the_readme_exists():
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {
        "--help",
        "--local-dir",
        "--check",
        "--device",
        "--long",
        "--whisper",
        "--peer",
        "--inputs",
        *("--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"),  # torchrun's
    }
    help_texts = []
    for command in (cv_finetune, cv_prepare, convert, demo, transcribe, align, cv_evaluate, train_lm):
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            command.main(["--help"])
        help_texts.append(printed.getvalue())
    assert flags
    for flag in flags:
        assert any(flag in text for text in help_texts), flag
