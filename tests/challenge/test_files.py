"""The official text files: what is written is read back, what is wrong is refused and located."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import SHARED, needs_shared

from gbdnn.challenge import files, text
from gbdnn.challenge.files import (
    categories_bytes,
    categories_path,
    images_path,
    layer_path,
    read_categories,
    read_images,
    read_layer,
    read_matrix_market,
    write_categories,
    write_images,
    write_layer,
    write_matrix_market,
)
from gbdnn.challenge.generate import Spec, layers
from gbdnn.challenge.images import InputBits
from gbdnn.errors import DataUnavailableError, FileFormatError, InputError, ShapeError
from gbdnn.weights.csr import CSR, as_csr

ENDINGS = ["", ".gz"]
SHARED_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def square(draw: st.DrawFn) -> CSR:
    n = draw(st.integers(1, 12))
    places = draw(st.sets(st.integers(0, n * n - 1), min_size=1))
    value = st.floats(width=32, allow_nan=False, allow_infinity=False)
    dense = np.zeros(n * n, np.float32)
    same = draw(value) if draw(st.booleans()) else None
    values = [draw(value) if same is None else same for _ in places]
    rows, columns = np.divmod(np.array(sorted(places)), n)
    assert dense.dtype == np.float32
    return as_csr(sp.coo_array((np.array(values, np.float32), (rows, columns)), shape=(n, n)))


def equal(a: CSR, b: CSR) -> bool:
    return (
        a.shape == b.shape
        and (a.indptr == b.indptr).all()
        and (a.indices == b.indices).all()
        and (a.full_values == b.full_values).all()
    )


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
@given(square())
@SHARED_FOLDER
def test_layers(tmp_path: Path, ending: str, layer: CSR) -> None:
    path = tmp_path / f"a.tsv{ending}"
    write_layer(path, layer)
    found = read_layer(path, layer.shape[0])
    CSR(found.indptr, found.indices, found.values, found.shape)
    assert equal(found, layer)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_official_layer_in_small_blocks(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = next(layers(Spec(1024, 120), start=17))
    path = tmp_path / f"a.tsv{ending}"
    write_layer(path, layer)
    monkeypatch.setattr(text, "BLOCK", 1000)
    found = read_layer(path, 1024)
    assert found.iso
    assert found.indices.dtype == np.int32
    assert equal(found, layer)


def test_the_orientation_and_any_order(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("2\t3\t0.5\n1\t3\t-1\n3\t1\t2e0\n")
    found = read_layer(tmp_path / "a.tsv", 3)
    assert found.to_dense().tolist() == [[0, 0, 2], [0, 0, 0], [-1, 0.5, 0]]
    assert found.dtype == np.float32


@pytest.mark.parametrize("ending", ENDINGS)
@given(st.sets(st.integers(1, 10**6)))
@SHARED_FOLDER
def test_categories(tmp_path: Path, ending: str, numbers: set[int]) -> None:
    path = tmp_path / f"c.tsv{ending}"
    write_categories(path, sorted(numbers))
    found = read_categories(path)
    assert found.dtype == np.int64
    assert found.tolist() == sorted(numbers)


@pytest.mark.parametrize("ending", ENDINGS)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
@SHARED_FOLDER
def test_images(tmp_path: Path, ending: str, features: int, count: int, seed: int) -> None:
    dense = np.random.default_rng(seed).integers(0, 2, (features, count), np.uint8)
    dense[-1, -1] = 1
    path = tmp_path / f"i.tsv{ending}"
    write_images(path, InputBits(np.packbits(dense, axis=1), count))
    found = read_images(path, features, count)
    assert found.count == count
    np.testing.assert_array_equal(np.unpackbits(found.bits, axis=1)[:, :count], dense)


@pytest.mark.parametrize("ending", ENDINGS)
@given(square())
@SHARED_FOLDER
def test_matrix_market(tmp_path: Path, ending: str, matrix: CSR) -> None:
    path = tmp_path / f"m.mtx{ending}"
    write_matrix_market(path, matrix, comment="two\nlines")
    assert equal(as_csr(read_matrix_market(path), dtype=np.float32), matrix)


def test_matrix_market_dialects(tmp_path: Path) -> None:
    path = tmp_path / "m.mtx"
    path.write_text(
        "%%matrixmarket MATRIX coordinate Integer general\r\n%c\r\n\r\n2 3 1\r\n 2  3 -7"
    )
    found = read_matrix_market(path)
    assert found.shape == (2, 3)
    assert (found.row[0], found.col[0], found.data[0]) == (1, 2, -7)
    path.write_text("%%MatrixMarket matrix coordinate pattern general\n2 3 0\n")
    assert read_matrix_market(path).nnz == 0


def test_gzip_is_reproducible(tmp_path: Path) -> None:
    write_categories(tmp_path / "a.tsv.gz", [1, 2])
    write_categories(tmp_path / "b.tsv.gz", [1, 2])
    assert (tmp_path / "a.tsv.gz").read_bytes() == (tmp_path / "b.tsv.gz").read_bytes()


# -- official content ------------------------------------------------------------------------------


@needs_shared
def test_official_categories() -> None:
    assert SHARED is not None
    folder = SHARED / "data/graph_challenge"
    content = categories_bytes(read_categories(categories_path(folder, 1024, 120)))
    official = json.loads((folder / "sha256.json").read_text())["neuron1024-l120-categories.tsv"]
    assert hashlib.sha256(content).hexdigest() == official
    assert hashlib.sha256(content[:-1]).hexdigest() != official


@needs_shared
def test_official_matrix_market() -> None:
    assert SHARED is not None
    folder = SHARED / "data/graph_challenge"
    inputs = read_matrix_market(folder / "sparse-images-1024_subset.mtx")
    assert inputs.shape == (1200, 1024)
    assert inputs.nnz == 122_713
    truth = read_matrix_market(folder / "neuron1024-l120-categories_subset.mtx")
    assert truth.shape == (1200, 1)
    whole = read_categories(categories_path(folder, 1024, 120))
    np.testing.assert_array_equal(truth.row + 1, whole[whole <= 1200])


def test_the_number_format() -> None:
    assert files._format(np.float32(0.0625)) == "6.250000e-02"
    for value in (np.float32(0.1), np.float64(0.1), np.float32(1 / 3), np.float64(1e-300)):
        assert type(value)(files._format(value)) == value


# -- names -----------------------------------------------------------------------------------------


def test_names(tmp_path: Path) -> None:
    nested = tmp_path / "neuron1024" / "n1024-l1.tsv"
    assert layer_path(tmp_path, 1024, 1) == nested
    flat = tmp_path / "n1024-l1.tsv.gz"
    flat.write_text("")
    assert layer_path(tmp_path, 1024, 1) == flat
    nested.parent.mkdir()
    nested.write_text("")
    assert layer_path(str(tmp_path), 1024, 1) == nested
    assert categories_path(tmp_path, 4096, 480) == tmp_path / "neuron4096-l480-categories.tsv"
    assert images_path(tmp_path, 4096) == tmp_path / "sparse-images-4096.tsv"


# -- what is refused -------------------------------------------------------------------------------

LAYER = "1\t1\t6.250000e-02\n2\t1\t6.250000e-02\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty file"),
        ("\n\n", "empty file"),
        (
            LAYER + "0\t1\t1\n",
            "line 3: expected row as a whole number from 1 to 4, got '0'.*from 1",
        ),
        (LAYER + "1\t5\t1\n", "line 3: expected column"),
        (LAYER + "-1\t1\t1\n", "line 3: expected row.*'-1'"),
        (LAYER + "1.0\t1\t1\n", "line 3: expected row"),
        (LAYER + "x\t1\t1\n", "line 3: expected row.*'x'"),
        (LAYER + "9" * 30 + "\t1\t1\n", "line 3: expected row"),
        (LAYER + "3\t1\tx\n", "line 3: expected a finite number, got 'x'"),
        (LAYER + "3\t1\tnan\n", "line 3: expected a finite number, got 'nan'"),
        (LAYER + "3\t1\tinf\n", "line 3: expected a finite number"),
        (LAYER + "3\t1\t1e999\n", "line 3: expected a finite number"),
        (LAYER + "3\t1\t1e39\n", "fit into float32"),
        (LAYER + "3\t1\t1-2\n", "line 3: expected a finite number, got '1-2'"),
        (LAYER + "3\t1\t" + "1" * 99 + "\n", "line 3: expected a finite number of at most 40"),
        (LAYER + "3\t1\n", "2 words in line 3"),
        (LAYER + "3\t1\t1\t1\n", "4 words in line 3"),
        (LAYER + "3\n1\t1\n", "1 words in line 3"),
        (LAYER + "3\t1\t1", "a rest without line end in line 3"),
        (LAYER + "\n1\t1\t1\n", "row 1, column 1 a second time"),
        (LAYER + LAYER, "a second time"),
        (LAYER + "3\t1\t\N{VULGAR FRACTION ONE HALF}\n", "the byte 0xc2 in line 3"),
        ("1\t\0\0", "the byte 0x00 in line 1"),
        (b"\xff\xfe1\t1\t1\n", "the byte 0xff in line 1"),
        (gzip.compress(LAYER.encode()), "the byte|rest without"),
    ],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_bad_layers(tmp_path: Path, ending: str, content: str | bytes, message: str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    path = tmp_path / f"bad.tsv{ending}"
    path.write_bytes(gzip.compress(raw) if ending else raw)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_layer(path, 4)
    assert str(path) in str(caught.value)


def test_line_numbers_go_on_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 64)
    lines = [f"{i}\t1\t1\n" for i in range(1, 101)]
    lines[76] = "\n"
    lines[90] = "91\tx\t1\n"
    (tmp_path / "a.tsv").write_text("".join(lines))
    with pytest.raises(FileFormatError, match="line 91: expected column"):
        read_layer(tmp_path / "a.tsv", 100)
    (tmp_path / "a.tsv").write_text("1" * 1000)
    with pytest.raises(FileFormatError, match="line 1"):
        read_layer(tmp_path / "a.tsv", 100)


READERS: list[Callable[[Path], Any]] = [
    lambda path: read_layer(path, 4),
    read_categories,
    lambda path: read_images(path, 4, 10),
    read_matrix_market,
]


@pytest.mark.parametrize("read", READERS)
def test_damaged_gzip_and_missing_files(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    text = "%%MatrixMarket matrix coordinate real general\n9 9 9\n" + "1 1 1\n" * 10**4
    whole = (
        gzip.compress(text.encode())
        if read is read_matrix_market
        else gzip.compress(LAYER.encode() * 100)
    )
    path = tmp_path / "a.gz"
    for content in (b"", b"no gzip", whole[:-12], whole[:20], whole[:-8] + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"a\.gz"):
            read(path)
    for absent in (tmp_path / "absent.tsv", tmp_path / "absent.gz", tmp_path):
        with pytest.raises(OSError, match="expected a readable file") as caught:
            read(absent)
        assert isinstance(caught.value, DataUnavailableError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n1\n", "line 2: expected ascending"),
        ("2\n1\n", "line 2: expected ascending"),
        ("0\n", "line 1: expected category"),
        ("1\n2 3\n", "2 words in line 2"),
        ("1\n2", "rest without"),
    ],
)
def test_bad_categories(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.tsv").write_text(content)
    with pytest.raises(FileFormatError, match=message):
        read_categories(tmp_path / "c.tsv")


def test_categories_ascend_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 4)
    (tmp_path / "c.tsv").write_text("1\n2\n3\n4\n4\n")
    with pytest.raises(FileFormatError, match="line 5: expected ascending"):
        read_categories(tmp_path / "c.tsv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty file"),
        ("1\t1\t2\n", "line 1: expected the value 1, got '2'"),
        ("1\t1\t1\n1\t5\t1\n", "line 2: expected column"),
        ("1\t1\t1\n11\t1\t1\n", "line 2: expected row"),
        ("1\t1\t1\n2\t1\t1\n1\t1\t1\n", "each place at most once"),
        ("1\t1\t1\n" * 2, "each place at most once"),
        ("1\t1\t1\n" * 256, "each place at most once"),
    ],
)
def test_bad_images(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "i.tsv").write_text(content)
    with pytest.raises(FileFormatError, match=message):
        read_images(tmp_path / "i.tsv", 4, 10)


MM = "%%MatrixMarket matrix coordinate real general\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: expected %%MatrixMarket"),
        ("1 1 1\n", "line 1"),
        ("%%MatrixMarket matrix array real general\n1 1\n1\n", "line 1.*Convert"),
        ("%%MatrixMarket matrix coordinate complex general\n", "line 1"),
        ("%%MatrixMarket matrix coordinate real symmetric\n", "line 1"),
        (MM, "got the end of the file"),
        (MM + "2 2\n", "line 2: expected rows"),
        (MM + "2 x 1\n", "line 2: expected rows"),
        (MM + "-2 2 1\n", "line 2: expected rows"),
        (MM + "99999999999999 2 1\n1 1 1\n", "line 2: expected rows"),
        (MM + "2 2 5\n" + "1 1 1\n" * 5, "line 2: expected as many entries as can be"),
        (MM + "2000000000 2000000000 999999999999\n1 1 1\n", "line 2: expected as many entries"),
        (MM + "2 2 2\n1 1 1\n", "expected 2 entries, got 1"),
        (MM + "2 2 1\n1 1 1\n1 2 1\n", "expected 1 entries"),
        (MM + "2 2 1\n1 1\n", "2 words in line 3"),
        (MM + "2 2 1\n3 1 1\n", "line 3: expected row"),
        (MM + "2 2 1\n0 1 1\n", "line 3: expected row"),
        (MM + "2 2 1\n1 1 nan\n", "line 3: expected a finite number"),
        (MM + "2 2 2\n1 1 1\n1 1 1\n", "row 1, column 1 a second time in entry 2"),
        (MM + "2 2 1\n1 1 1" + "0" * 60 + "\n", "line 3"),
    ],
)
def test_bad_matrix_market(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.mtx").write_text(content)
    with pytest.raises(FileFormatError, match=message):
        read_matrix_market(tmp_path / "m.mtx")


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"c.tsv{ending}"
    write_categories(path, [1, 2])
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_categories(path, [3])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("numbers", [[0], [2, 1], [1, 1], [1.5], [[1]], ["1"]])
def test_bad_categories_to_write(numbers: list[int]) -> None:
    with pytest.raises(InputError, match=r"^categories: expected"):
        categories_bytes(numbers)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match=r"c\.tsv: expected a file that can be written"):
        write_categories(tmp_path / "absent" / "c.tsv", [1])


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^csr"):
        write_layer(tmp_path / "a.tsv", as_csr(np.zeros((2, 2))))
    with pytest.raises(InputError, match=r"^images"):
        write_images(tmp_path / "a.tsv", InputBits(np.zeros((2, 1), np.uint8), 5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("neurons", [0, -4, 2.5, "4", True])
def test_bad_sizes(tmp_path: Path, neurons: int) -> None:
    with pytest.raises(ShapeError, match=r"^neurons: expected"):
        read_layer(tmp_path / "a.tsv", neurons)
