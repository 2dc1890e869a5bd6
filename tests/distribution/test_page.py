"""What docs/distributed.md says, done: its Python, and the command for the challenge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gbdnn.cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"


def test_the_python_of_the_page(tmp_path):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    (tmp_path / "predict.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "-W", "error", "predict.py"], cwd=tmp_path, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(256, 10)") == 7


def test_the_command_of_the_page():
    (command,) = re.findall(r"^```bash\ngbdnn (.*?)\n```", PAGE.read_text(), re.S | re.M)
    words = command.replace("processes:2", "processes:1").split()
    done = CliRunner().invoke(cli, [*words, "--json", "--limit", "200"])
    assert done.exit_code == 0, done.output
    assert '"workers": 1' in done.output


def test_a_checkpoint_needs_one_process(tmp_path):
    words = ["challenge", "run", "--executor", "processes:1", "--checkpoint", str(tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "--checkpoint is for one process" in done.output


@pytest.mark.parametrize("name", ["dask", "mpi"])
def test_extras_are_in_the_page_and_in_the_package(name):
    text = (PAGE.parents[1] / "pyproject.toml").read_text()
    assert re.search(rf"^{name} = \[", text, re.M)
    assert f"gbdnn[{name}]" in PAGE.read_text()
