"""The pages of docs/how-to: their Python, then their commands, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path for path in (DOCS / "how-to").glob("*.md") if path.stem != "index")


def blocks(page: Path, kind: str) -> str:
    """Return the code of one kind on a page."""
    return "".join(re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.S | re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_how_to(page, tmp_path):
    program, commands = blocks(page, "python"), blocks(page, "bash")
    if "import torch" in program:
        pytest.importorskip("torch")
    if "gbdnn speech make" in commands:
        pytest.importorskip("espeakng_loader")
    tool = tmp_path / "bin" / "gbdnn"  # also where the package is not installed
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gbdnn.cli.main "$@"\n')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    environment["GBDNN_CACHE_DIR"] = str(tmp_path / "cache")  # no MNIST: the embedded digits
    environment["OMP_NUM_THREADS"] = "1"  # torch's threads lose minutes beside busy cores
    for command in ([sys.executable, "-W", "error", "-c", program], ["sh", "-ec", commands]):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]


def test_every_how_to_has_code_and_is_found():
    contents = (DOCS / "how-to" / "index.md").read_text()
    for page in PAGES:
        assert blocks(page, "python") + blocks(page, "bash"), page
        assert re.search(rf"^{page.stem}$", contents, re.M), page


def test_the_equations_show_code_that_is_there():
    shown = re.findall(
        r"\{literalinclude\} (\S+)\n:pyobject: (\S+)", (DOCS / "equations.md").read_text()
    )
    assert len(shown) >= 10
    for path, name in shown:
        source = (DOCS / path).read_text()
        for part in name.split("."):
            assert re.search(rf"^ *(?:def|class) {part}\b", source, re.M), (path, name)
