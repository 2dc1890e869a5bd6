"""Progress: lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from gbdnn import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_from_time_to_time(clock, capsys):
    """Twenty steps of 7 s: a line whenever 15 s have passed, with the time that is left."""
    with progress.steps_bar("epoch 1/2", 20, 0) as update:
        for step in range(1, 21):
            clock[0] += 7
            update(f"epoch {1 + (step > 10)}/2, loss {1 / step:.2f}", step)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epoch 1/2, loss 0.33, 15%, 21.0 s, about 0:01:59 left"
    assert lines[-1] == "epoch 2/2, loss 0.05, 100%, 0:02:20"
    assert len(lines) == 7
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("total", "done", "line"),
    [
        (10, 8, "a, 90%, 20.0 s, about 20.0 s left"),  # one step took 20 s, those before others
        (None, 0, "a, 20.0 s"),
        (0, 0, "a, 20.0 s"),
    ],
)
def test_where_it_begins(clock, capsys, total, done, line):
    with progress.steps_bar("a", total, done) as update:
        clock[0] += 20
        update("a", done + 1)
    assert capsys.readouterr().err == line + "\n"  # not twice


def test_short_work_is_one_line_and_none_is_none(capsys):
    with progress.bar("predict", 4) as advance:
        threads = [threading.Thread(target=advance, args=(1,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert re.fullmatch(r"predict, 100%, 0\.\d s\n", capsys.readouterr().err)
    with progress.bar("predict", 4):
        pass
    assert capsys.readouterr().err == ""


def test_what_was_done_is_said_after_an_error(capsys):
    with suppress(KeyError), progress.bar("predict", 4) as advance:
        advance(1)
        raise KeyError
    assert "25%" in capsys.readouterr().err


def on_terminal(code: str, **variables: str) -> str:
    """Return what a program writes to a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **variables}
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment) as running:
        os.close(theirs)
        text = io.BytesIO()
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            text.write(part)
    os.close(ours)
    assert running.returncode == 0
    return text.getvalue().decode()


CODE = """
import time
from gbdnn.progress import steps_bar
with steps_bar("epoch 1/9", 30, 0) as update:
    for step in range(30):
        time.sleep(0.02)
        update("epoch 3/9, loss 0.5", step + 1)
"""


def test_a_terminal_gets_a_bar():
    shown = on_terminal(CODE)
    assert "\x1b[" in shown
    assert "30/30" in shown
    assert "━" in shown
    assert re.search(r"0:00:0\d", shown)
    plain = on_terminal(CODE, TERM="dumb")
    assert "\x1b" not in plain
    assert re.fullmatch(r"epoch 3/9, loss 0\.5, 100%, .* s\s*", plain)
