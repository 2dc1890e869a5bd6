"""The notebooks: they run, they draw, and each .ipynb is what its .py says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.py"))
FIGURES = {
    "01_equations": 2, "02_sparsity_sweep": 3, "03_graph_challenge": 6, "04_sparse_training": 6,
    "05_low_precision": 3, "06_rnnt": 2, "07_int4_speech": 3,
}  # fmt: skip
MISSING = [
    name for name in ("jupytext", "nbclient", "ipykernel", "matplotlib", "pandas")
    if find_spec(name) is None
]  # fmt: skip
# folders of a machine; and what Python, libraries or Jupyter say when something is not right
UNWANTED = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|tmp|usr|opt|Users|var|private|mnt)/|Warning|WARNING|Traceback"
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


def test_all_notebooks_are_here() -> None:
    assert set(NAMES) == set(FIGURES) == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_fast_mode(name: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "GBDNN_NOTEBOOK_FAST": "1",
        "GBDNN_CACHE_DIR": str(tmp_path / "cache"),  # no MNIST: the embedded digits
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    command = [sys.executable, str(NOTEBOOKS / "build.py"), name, "--out", str(tmp_path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    check_outputs(read(tmp_path / f"{name}.ipynb"), FIGURES[name])


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_whole(name: str) -> None:
    check_outputs(read(NOTEBOOKS / f"{name}.ipynb"), FIGURES[name])


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_not_from_the_fast_mode(name: str) -> None:
    notebook = read(NOTEBOOKS / f"{name}.ipynb")
    assert notebook["metadata"]["gbdnn"] == {"fast": False}


@pytest.mark.parametrize("name", NAMES)
def test_pair_is_in_sync(name: str) -> None:
    assert sources(as_ipynb(NOTEBOOKS / f"{name}.py")) == sources(read(NOTEBOOKS / f"{name}.ipynb"))


def test_checks_notice_what_they_are_for() -> None:
    notebook = read(NOTEBOOKS / f"{NAMES[0]}.ipynb")
    text = json.dumps(notebook)
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    stream = {"output_type": "stream", "name": "stdout", "text": ["see /home/someone/x\n"]}
    for change in (
        {"outputs": [stream]},
        {"outputs": [stream | {"text": ["UserWarning: no\n"]}]},
        {"outputs": [stream | {"name": "stderr", "text": ["hm\n"]}]},
        {"outputs": [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]},
        {"execution_count": None},
    ):
        cell.update(change)
        with pytest.raises(AssertionError):
            check_outputs(notebook, FIGURES[NAMES[0]])
        notebook = json.loads(text)
        cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    with pytest.raises(AssertionError, match="figures"):
        check_outputs(notebook, FIGURES[NAMES[0]] + 1)
    cell["source"] = "x = 1"
    assert sources(notebook) != sources(as_ipynb(NOTEBOOKS / f"{NAMES[0]}.py"))


def check_outputs(notebook: dict[str, Any], figures: int) -> None:
    """All cells were executed once, in order, without complaint; all figures are there."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), counts
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}, kinds
    assert all(output["name"] == "stdout" for output in outputs if "name" in output)
    for text in texts(outputs):
        assert not (found := UNWANTED.search(text)), text[max(found.start() - 80, 0) :][:200]
    drawn = sum("image/png" in output.get("data", {}) for output in outputs)
    assert drawn == figures, f"{drawn} figures, expected {figures}"


def texts(outputs: list[dict[str, Any]]) -> list[str]:
    """Return what the outputs say, without the pictures."""
    found = [output.get("text", "") for output in outputs]
    for output in outputs:
        found += [part for kind, part in output.get("data", {}).items() if "image" not in kind]
    return ["".join(text) for text in found]


def sources(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """Return kind and text of each cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def read(path: Path) -> dict[str, Any]:
    """Return a notebook as plain JSON."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def as_ipynb(path: Path) -> dict[str, Any]:
    """Convert a .py notebook without executing it, in a process whose warnings do not count."""
    command = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--output", "-", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    notebook: dict[str, Any] = json.loads(done.stdout)
    return notebook
