"""The command line as a user meets it: real processes, standard output, exit codes."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import SHARED, needs_shared

from gbdnn import __version__
from gbdnn.cli.main import COMMANDS, cli
from gbdnn.cli.options import TableChoice

README = Path(__file__).parents[1] / "README.md"
KEYS = {
    "neurons", "layers", "inputs", "backend", "threads", "load_seconds", "seconds",
    "nominal_edges", "effective_edges", "nominal_edges_per_second", "effective_edges_per_second",
    "categories", "categories_sha256", "passed", "peak_rss_bytes", "versions",
}  # fmt: skip


def gbdnn(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gbdnn.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(autouse=True)
def _no_downloaded_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(tmp_path / "cache"))


def test_readme_commands(tmp_path):
    """The README's shell lines that call gbdnn run as they stand there."""
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", README.read_text(), re.S)
    calls = [
        part.strip()
        for block in blocks
        for line in block.splitlines()
        for part in line.split("&&")
        if part.strip().startswith("gbdnn ")
    ]
    assert "gbdnn challenge run" in calls
    for call in calls:
        if "fetch" in call or "shared" in call:  # need the network, or files beside the checkout
            continue
        if any(word in call for word in ("table", "bench")):  # long; tested elsewhere
            continue
        done = gbdnn(*shlex.split(call)[1:], cwd=tmp_path)
        assert done.returncode == 0, (call, done.stderr)


PRUNED = """
import torch
from torch.nn.utils.prune import l1_unstructured

model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 10))
for layer in model[::2]:
    l1_unstructured(layer, "weight", amount=0.9)
X = torch.rand(50, 64).numpy()
"""
SAME = """
assert abs(predictions - model(torch.from_numpy(X)).detach().numpy()).max() < 1e-5
assert network.edges == 614 + 96
assert __import__("os").stat("pruned.safetensors").st_size < 0.5 * 4 * (64 * 96 + 96 * 10)
"""


def test_readme_python(tmp_path):
    """The README's Python lines run, and give what they say."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    recipe, inference, training, rounding = found
    assert len([line for line in recipe.splitlines() if line]) == 5
    if find_spec("torch"):
        _python(f"{PRUNED}{recipe}{SAME}", tmp_path)
    check = "\nassert probabilities.shape == (1000, 10)\n"
    check += "assert abs(probabilities.sum(axis=1) - 1).max() < 1e-5\n"
    assert "density" in _python(inference + check, tmp_path)
    assert len(training.strip().splitlines()) < 30
    accuracy = float(_python(training, tmp_path).split()[-1])
    assert 0.9 < accuracy < 1
    assert (tmp_path / "digits.safetensors").stat().st_size < 30_000
    scores = [float(word) for word in re.findall(r"0\.\d+", _python(rounding, tmp_path))[-3:]]
    assert min(scores) > 0.85


def _python(code: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_run_prints_a_table():
    done = gbdnn("challenge", "run", "--limit", 200)
    assert done.returncode == 0, done.stderr
    for label in ("categories", "GEdge/s", "nominal", "peak memory", "oracle", "layers"):
        assert label in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("backend", ["graphblas", "graphblas-reference", "dense"])
def test_run_json_has_the_documented_keys(backend):
    done = gbdnn("challenge", "run", "--json", "--limit", 100, "--backend", backend)
    record = json.loads(done.stdout)
    assert record.keys() >= KEYS
    assert record["passed"] is None  # no truth is known for the digits
    assert record["nominal_edges"] == 100 * 120 * 32 * 1024
    assert 0 < record["effective_edges"] <= record["nominal_edges"]
    assert record["oracle"]["agree"] == record["oracle"]["samples"]
    assert record["oracle"]["largest_relative_difference"] < 1e-6


def test_no_skip_computes_everything():
    record = json.loads(gbdnn("challenge", "run", "--json", "--limit", 64, "--no-skip",
                              "--no-compact").stdout)  # fmt: skip
    assert record["effective_edges"] == record["nominal_edges"]


def test_threads_do_not_change_the_result():
    records = [
        json.loads(gbdnn("challenge", "run", "--json", "--threads", threads).stdout)
        for threads in (1, 2)
    ]
    assert records[0]["categories_sha256"] == records[1]["categories_sha256"]


def test_given_categories_are_the_truth(tmp_path):
    right, wrong = tmp_path / "right.tsv", tmp_path / "wrong.tsv"
    from gbdnn.challenge import files, runner
    from gbdnn.challenge.generate import Spec

    found = runner.run(Spec(1024, 120), runner.load_inputs(1024, limit=300)).categories
    files.write_categories(right, found)
    files.write_categories(wrong, found[1:])
    good = gbdnn("challenge", "run", "--json", "--limit", 300, "--categories", right)
    bad = gbdnn("challenge", "run", "--json", "--limit", 300, "--categories", wrong)
    assert (good.returncode, json.loads(good.stdout)["passed"]) == (0, True)
    assert (bad.returncode, json.loads(bad.stdout)["passed"]) == (1, False)


def test_generated_files_run_like_generated_layers(tmp_path):
    made = gbdnn("challenge", "generate", "--neurons", 1024, "--layers", 12, "--out", tmp_path)
    assert made.returncode == 0, made.stderr
    assert len(list((tmp_path / "neuron1024").iterdir())) == 12
    call = ("challenge", "run", "--json", "--layers", 12, "--limit", 500)
    read = json.loads(gbdnn(*call, "--data", tmp_path).stdout)
    generated = json.loads(gbdnn(*call).stdout)
    assert read["categories_sha256"] == generated["categories_sha256"]
    assert read["effective_edges"] == generated["effective_edges"]


@needs_shared
def test_generate_single_layers(tmp_path):
    import hashlib

    done = gbdnn("challenge", "generate", "--out", tmp_path, "--layer", 7, "--layer", 120)
    assert done.returncode == 0, done.stderr
    digests = json.loads((SHARED / "data/graph_challenge/sha256.json").read_text())
    for k in (7, 120):
        content = (tmp_path / f"neuron1024/n1024-l{k}.tsv").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digests[f"n1024-l{k}.tsv"]


@pytest.mark.parametrize(
    "words",
    [
        ["challenge", "run", "--neurons", "1000"],
        ["challenge", "run", "--layers", "0"],
        ["challenge", "run", "--backend", "nonsense"],
        ["challenge", "run", "--threads", "0"],
        ["challenge", "run", "--threads", "many"],
        ["challenge", "run", "--limit", "-1"],
        ["challenge", "run", "--images", "no-such-file.npz"],
        ["challenge", "run", "--data", "no-such-folder"],
        ["challenge", "generate"],
        ["challenge", "generate", "--out", ".", "--layers", "2", "--layer", "3"],
        ["nonsense"],
        ["info", "--nonsense"],
    ],
)
def test_wrong_usage_exits_2(words):
    done = gbdnn(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_file_exits_1_with_one_line(tmp_path):
    path = tmp_path / "images.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    done = gbdnn("challenge", "run", "--images", path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_layer_file_exits_1(tmp_path):
    done = gbdnn("challenge", "run", "--data", tmp_path, "--json")
    assert done.returncode == 1
    assert "n1024-l1.tsv" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_space_is_said_before_writing(tmp_path):
    done = gbdnn("challenge", "generate", "--neurons", 65536, "--layers", 1920, "--out", tmp_path)
    if done.returncode == 0:
        pytest.skip("this disk holds 100 GB")
    assert "bytes" in done.stderr
    assert list(tmp_path.glob("neuron*")) == []


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["train", "--out", "m", "--epochs", "0"], 2, {"kind": "BadParameter"}),
        (["train", "--out", "m", "--growht", "set"], 2, {"argument": "--growht"}),
        (["train"], 2, {"kind": "MissingParameter", "argument": "--out"}),
        (["nonsense"], 2, {"expected": None}),
        (["train", "--out", "m", "--resume"], 2, {"kind": "UsageError", "argument": None}),
        (["summary", "bad"], 1, {"kind": "FileFormatError", "argument": "bad"}),
        (["predict", "bad", "bad.csv"], 1, {"kind": "FileFormatError"}),
        (["prune", "bad", "new"], 1, {"kind": "FileFormatError"}),
        (["train", "bad.csv", "--out", "no/m"], 1, {"kind": "DataUnavailableError"}),
        (["train", "bad.csv", "--out", "m"], 1, {"argument": "bad.csv"}),
        (["challenge", "run", "--images", "bad.npz"], 1, {"kind": "FileFormatError"}),
    ],
)
def test_failures_as_json(words, status, expected, tmp_path):
    """One object on standard output, the exit code and the line on standard error as without."""
    for name in ("bad", "bad.csv", "bad.npz"):
        (tmp_path / name).write_bytes(b"x\x00\xff")
    done = gbdnn(*words, "--json", cwd=tmp_path)
    assert done.returncode == status
    error = json.loads(done.stdout)["error"]
    assert error.keys() == {"kind", "argument", "expected", "got", "message"}
    assert error.items() >= expected.items()
    assert error["message"]
    assert (error["got"] is not None) == (status == 1)
    assert "Traceback" not in done.stderr
    plain = gbdnn(*words, cwd=tmp_path)
    assert (plain.returncode, plain.stdout, plain.stderr) == (status, "", done.stderr)


def test_ctrl_c_exits_130():
    command = [sys.executable, "-m", "gbdnn.cli.main", "challenge", "run", "--no-skip",
               "--layers", "1920", "--backend", "graphblas-reference", "--json"]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        printed, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert json.loads(printed)["error"]["kind"] == "Interrupted"
    assert "Traceback" not in messages


def test_info():
    record = json.loads(gbdnn("info", "--json").stdout)
    assert record["graphblas"]["blocking"] is True
    assert record["graphblas"]["fork_guard"] is True
    assert record["machine"]["cores"] >= 1
    assert "suitesparse-graphblas" in record["versions"]
    assert "suitesparse" in gbdnn("info").stdout


def test_help_lists_every_command():
    for words, expected in (
        (["--help"], COMMANDS),
        (["challenge", "--help"], ["run", "generate", "fetch"]),
        (["challenge", "run", "-h"], ["--no-skip", "--categories", "--json"]),
    ):
        text = gbdnn(*words).stdout
        assert all(word in text for word in expected)


# -- what the commands load, and where their choices come from -------------------------------------

HEAVY = ("numpy", "scipy", "numba", "sklearn", "graphblas", "rich", "llvmlite", "pooch", "pandas")


SPEECH = ("soundfile", "kaldi_native_fbank", "espeakng_loader", "jiwer")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["speech", "--help"]])
def test_help_imports_nothing_heavy(words):
    script = (
        "import sys; from gbdnn.cli.main import cli; "
        f"cli.main({words}, standalone_mode=False); "
        f"print([name for name in {HEAVY + SPEECH} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


def test_help_is_quick():
    """Below 0.25 s of the processor's time, from the interpreter's start; the quickest counts."""
    taken = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert gbdnn("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(taken) < 0.25, taken


def test_lines_of_help_are_those_of_the_commands():
    """Each entry of a table of commands is a command of that name."""
    for group in (cli, cli.get_command(None, "speech")):
        for name in group.table:
            assert group.get_command(None, name).name == name


def test_module():
    command = [sys.executable, "-m", "gbdnn", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"gbdnn, version {__version__}\n")


def choices():
    """Yield each option whose choices are in a table."""
    groups = [cli]
    for group in groups:
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            if hasattr(command, "list_commands"):
                groups.append(command)
            for option in command.params:
                if isinstance(option.type, TableChoice):
                    yield pytest.param(command, option, id=f"{name} {option.name}")


@pytest.mark.parametrize(("command", "option"), list(choices()))
def test_choices_are_those_of_the_tables(command, option, monkeypatch):
    """A toy that is put into a table is in the help, and accepted."""
    kind = option.type
    table = getattr(import_module(kind.module), kind.attribute)
    if callable(table):  # names chosen from the table of layers
        from gbdnn.layers import LAYERS, ReLU

        monkeypatch.setitem(LAYERS, "toy", type("Toy", (ReLU,), {"kind": "toy"}))
        toy = "toy"
    elif isinstance(table, tuple):
        toy = "7"
        monkeypatch.setattr(import_module(kind.module), kind.attribute, (*table, 7))
    else:
        toy = "toy"
        monkeypatch.setitem(table, toy, None)
    names = CliRunner().invoke(command, ["--help"]).output.split(f"{option.opts[0]} [")[1]
    assert toy in "".join(names[: names.index("]")].split()).split("|")
    assert kind.convert(toy, option, None) == toy
    if isinstance(option.default, str):
        assert option.default in kind.choices


def test_fetch_without_network_fails_in_one_line():
    environment = os.environ | {
        "https_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = gbdnn("challenge", "fetch", env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["info"], ["info", "--json"]])
def test_standard_output_on_a_full_disk(words):
    command = [sys.executable, "-m", "gbdnn.cli.main", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output cannot be written: ")
    assert "Traceback" not in done.stderr
