"""Run the cells of docs/tutorial.ipynb in order, as Jupyter would, but for those that install.

    python docs/run_tutorial.py            # in a folder that is deleted afterwards
    python docs/run_tutorial.py --write    # also put what they print into the notebook

A cell is Python, or commands that begin with "!", a line each but for those that a backslash continues. The first that
fails ends it.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
INSTALLS = "install"  # the tag of cells that are left out here


def main() -> None:
    parser = argparse.ArgumentParser(prog="python docs/run_tutorial.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put what the cells print into the notebook")
    args = parser.parse_args()
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        run_cells(notebook, Path(folder))
    if args.write:
        NOTEBOOK.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")


def run_cells(notebook: dict, folder: Path) -> dict:
    """Run them in a folder, put their outputs into `notebook`, and return what the Python cells have defined."""
    sys.path.insert(0, str(ROOT))
    names: dict = {"__name__": "__main__"}
    before, numbers = Path.cwd(), iter(range(1, 1000))
    os.chdir(folder)
    try:
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code" or INSTALLS in cell["metadata"].get("tags", []):
                continue
            source, began = "".join(cell["source"]), time.perf_counter()
            text = run_commands(source) if source.startswith("!") else run_python(source, names)
            # Where the checkout and the folder lie is this machine's own.
            text = text.replace(str(ROOT), "w2v").replace(str(folder.resolve()), ".").replace(str(folder), ".")
            cell["execution_count"] = next(numbers)
            cell["outputs"] = [
                {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
            ] * bool(text)
            first = source.splitlines()[0]
            print(f"{time.perf_counter() - began:5.1f} s  {first[:90]}", file=sys.stderr, flush=True)
    finally:
        os.chdir(before)
        sys.path.remove(str(ROOT))
    return names


def run_python(source: str, names: dict) -> str:
    """-> what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source, NOTEBOOK.name, "exec"), names)
    return printed.getvalue()


def run_commands(source: str) -> str:
    """-> what they print on stdout and stderr. RuntimeError with it where one fails."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    python_path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
        "PYTHONIOENCODING": "utf-8",
        "W2V_CACHE": "cache",
    }
    environment.pop("COMMON_VOICE_ROOT", None)  # another's data are not the sample
    printed = ""
    for line in source.replace("\\\n", " ").splitlines():
        done = subprocess.run(
            line.removeprefix("!"), shell=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", check=False,
        )  # fmt: skip
        printed += done.stdout
        if done.returncode:
            raise RuntimeError(f"{line}\n{printed}")
    return printed


if __name__ == "__main__":
    main()
