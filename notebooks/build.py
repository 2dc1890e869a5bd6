"""Execute the notebooks: NAME.py (jupytext, percent format) becomes NAME.ipynb with its outputs.

python notebooks/build.py [NAME ...] [--out FOLDER]
GBDNN_NOTEBOOK_FAST=1 takes smaller sizes; the notebooks in the repository are made without it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent


def build(source: Path, out: Path) -> None:
    """Execute one notebook from top to bottom in a fresh kernel and write it to `out`."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem.replace('_', '-')}-{number}"  # jupytext's are random
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # nothing may depend on where it runs
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, record_timing=False, resources=resources).execute()
    notebook.metadata["gbdnn"] = {"fast": os.environ.get("GBDNN_NOTEBOOK_FAST") == "1"}
    nbformat.validate(notebook)
    target = out / f"{source.stem}.ipynb"
    nbformat.write(notebook, target)
    print(f"{target.name}: {time.perf_counter() - begin:.1f} s")


def main() -> None:
    """Build the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # kernels find the folder benchmarks
    for name in options.names or sorted(path.stem for path in HERE.glob("[0-9]*.py")):
        build(HERE / f"{Path(name).stem}.py", options.out)


if __name__ == "__main__":
    main()
