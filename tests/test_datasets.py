"""Samples from files: every format gives the same arrays, and damage gives gbdnn's errors."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_digits

from gbdnn.cli import datasets, labels
from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    GbdnnError,
    InputError,
    NonFiniteError,
    ShapeError,
)

X = np.array([[0, 1.5, 0], [2, 0, -3], [0, 0, 4.25], [1, 1, 1]], np.float32)
NAMES = np.array(["cat", "dog", "cat", "emu"])
NUMBERS = np.array([3, 7, 3, 0])


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a file and return its path."""

    def made(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return made


def table(labels, *, header=None, delimiter=",", place=3, quote=""):
    """Return X and labels as text."""
    lines = [] if header is None else [list(header)]
    for row, label in zip(X.tolist(), labels, strict=True):
        fields = [repr(value) for value in row]
        fields.insert(place, f"{quote}{label}{quote}")
        lines.append(fields)
    return "\n".join(delimiter.join(line) for line in lines) + "\n"


def check(found, y, X=X):
    """Assert that samples and labels are right."""
    if sp.issparse(found.X):
        assert found.X.format == "csr"
        np.testing.assert_array_equal(found.X.toarray(), X)
    else:
        np.testing.assert_array_equal(found.X, X)
    if y is None:
        assert found.y is None
    else:
        np.testing.assert_array_equal(found.y, y)


# -- npz and npy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options", "y"),
    [
        (["X", "y"], {}, NUMBERS),
        (["x_train", "y_train"], {}, NUMBERS),
        (["X"], {}, None),
        (["x_train"], {}, None),
        (["X", "other"], {"label": "other"}, NUMBERS),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, names, options, y, save):
    path = tmp_path / "a.npz"
    save(path, **dict(zip(names, [X, NUMBERS], strict=False)))
    found = datasets.read(path, **options)
    check(found, y)
    assert found.X.dtype == X.dtype


def test_npz_for_training_and_for_testing(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=X, y_train=NUMBERS, x_test=X[:2] + 1, y_test=NUMBERS[2:])
    check(datasets.read(path), NUMBERS)
    check(datasets.read(path, test=True), NUMBERS[2:], X[:2] + 1)


def test_npz_images_become_rows_and_stay_bytes(tmp_path):
    path = tmp_path / "images.npz"
    images = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
    np.savez(path, X=np.asfortranarray(images), y=np.arange(5))
    found = datasets.read(path)
    assert found.X.dtype == np.uint8
    check(found, np.arange(5), images.reshape(5, 12))


def test_npz_sequences_are_not_taken_for_images(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((3, 5, 2)), lengths=[5, 1, 2], y=[0, 1, 0])
    assert datasets.read(path, sequences=True).lengths.tolist() == [5, 1, 2]
    with pytest.raises(InputError, match=r"no sequences.*\(3, 5, 2\).*--layers"):
        datasets.read(path)


def test_npz_text_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=X, y=NAMES)
    check(datasets.read(path), NAMES)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("container", [sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("compressed", [True, False])
def test_what_scipy_saves(tmp_path, kind, container, compressed):
    path = tmp_path / "a.npz"
    wanted = np.vstack([X, X])[:, [0, 1, 2, 0]]  # which blocks of 2 x 2 divide
    matrix = container(wanted)
    matrix = matrix.tobsr((2, 2)) if kind == "bsr" else matrix.asformat(kind)
    sp.save_npz(path, matrix, compressed)
    found = datasets.read(path)
    check(found, None, wanted)
    assert sp.issparse(found.X)
    y = np.arange(8)
    with np.load(path) as arrays:
        np.savez(path, **arrays, y=y, other=y + 1)
    check(datasets.read(path), y, wanted)
    check(datasets.read(path, label="other"), y + 1, wanted)
    with pytest.raises(InputError, match=r"one of .*other"):
        datasets.read(path, label="z")


@pytest.mark.parametrize(
    "changes",
    [{"format": b"dok"}, {"format": b"csc"}, {"format": 3}, {"shape": (4,)}, {"shape": (4, 3, 1)},
     {"shape": (4, 2)}, {"shape": (-4, 3)}, {"shape": (2**62, 3)}, {"indptr": np.arange(5) * 9},
     {"indices": np.full(6, 3)}, {"indices": np.full(6, 0.5)}, {"data": np.full(7, np.nan)},
     {"data": np.full(7, "x")}, {"indices": None}],
)  # fmt: skip
def test_damaged_sparse_matrices(tmp_path, changes):
    path = tmp_path / "a.npz"
    sp.save_npz(path, sp.csr_array(X))
    with np.load(path) as arrays:
        arrays = {**arrays, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(GbdnnError, match=r"a\.npz"):
        datasets.read(path)


@pytest.mark.parametrize("arrays", [{"X": sp.csr_array(X)}, {"X": X, "y": NAMES.astype(object)}])
def test_npz_of_objects(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FileFormatError, match=r"astype\(str\).*save_npz"):
        datasets.read(tmp_path / "a.npz")


@pytest.mark.parametrize(("label", "wanted"), [(None, None), ("3", NUMBERS), ("-1", NUMBERS)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, label, wanted, order):
    path = tmp_path / "a.npy"
    both = np.asarray(np.column_stack([X, NUMBERS]), order=order)
    np.save(path, X if label is None else both)
    check(datasets.read(path, label=label), wanted)


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "options", "y", "label"),
    [
        ("a.csv", table(NAMES, header="abcl"), {"label": "l"}, NAMES, "l"),
        ("a.csv", table(NAMES, header=["a", "b", "c", "target"]), {}, NAMES, "target"),
        ("a.csv", table(NUMBERS, header=["a", "b", "c", "Label"]), {}, NUMBERS, "Label"),
        ("a.csv", table(NUMBERS, header=["0", "1", "2", "label"]), {}, NUMBERS, "label"),
        ("a.csv", table(NUMBERS, header="abcd"), {"label": "-1"}, NUMBERS, "d"),
        ("a.csv", table(NUMBERS, header="abcd"), {"label": "d"}, NUMBERS, "d"),
        ("a.csv", table(NUMBERS, header="xabc", place=0), {"label": "0"}, NUMBERS, "x"),
        ("a.csv", table(NUMBERS, header="abcd"), {"names": ("d",)}, NUMBERS, "d"),
        ("a.csv", table(NAMES), {}, NAMES, None),  # the only column of text
        ("a.csv", table(NAMES, place=1), {}, NAMES, None),
        ("a.csv", table(NUMBERS), {"label": "3"}, NUMBERS, None),
        ("a.tsv", table(NAMES, delimiter="\t"), {}, NAMES, None),
        ("a.txt", table(NAMES, delimiter=";"), {}, NAMES, None),
        ("a.csv", table(NAMES, quote='"'), {}, NAMES, None),
        ("a.csv", "\ufeff" + table(NAMES, header="abcl"), {"label": "l"}, NAMES, "l"),
        ("a.csv", table(NAMES).replace("\n", "\r\n"), {}, NAMES, None),
        ("a.csv", table(NAMES).replace("\n", "\n\n"), {}, NAMES, None),
        ("a.csv", table(NAMES).strip(), {}, NAMES, None),
        ("a.csv", table(["a, b", "c", "a, b", "d\ne"], quote='"'), {},
         ["a, b", "c", "a, b", "d\ne"], None),
    ],
)  # fmt: skip
def test_tables(write, name, text, options, y, label):
    found = datasets.read(write(name, text), **options)
    check(found, y)
    assert found.label == label
    packed = write(f"{name}.gz", gzip.compress(text.encode()))
    check(datasets.read(packed, **options), y)


def test_table_of_samples_only(write):
    text = "\n".join(",".join(map(repr, row)) for row in X.tolist())
    check(datasets.read(write("a.csv", text)), None)
    check(datasets.read(write("a.csv", "a,b,c\n" + text)), None)
    found = datasets.read(write("a.csv", "a,b,label\n" + text), features=3)
    check(found, None)  # a network that takes three features has no use for a label
    check(datasets.read(write("a.csv", "1,2,3\n" + text), header=True), None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_any_numbers_come_back_from_a_table(tmp_path, data):
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = data.draw(st.lists(floats, min_size=rows * columns, max_size=rows * columns))
    wanted = np.array(values, np.float32).reshape(rows, columns)
    path = tmp_path / "a.csv"
    path.write_text("".join(",".join(map(repr, row)) + "\n" for row in wanted.tolist()))
    np.testing.assert_array_equal(datasets.read(path, features=columns).X, wanted)


def test_long_tables_are_read_in_parts(write, monkeypatch):
    from gbdnn.cli import tables

    monkeypatch.setattr(tables, "ROWS", 7)
    values = np.arange(100.0).reshape(50, 2)
    text = "".join(f"{a},{b},{int(a) % 3}\n" for a, b in values.tolist())
    found = datasets.read(write("a.csv", text), label="-1")
    np.testing.assert_array_equal(found.X, values)
    np.testing.assert_array_equal(found.y, values[:, 0] % 3)


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("1,2,3\n4,5\n", {}, "line 2"),
        ("1,2\n4,5,6\n", {}, "line 2"),
        ("a,b,c\n1,2,3\n1,,3\n", {}, "line 3"),
        ("1,2,3\n1,x,3\n", {}, "line 2"),
        ("a,b\n", {}, "header only"),
        ("", {}, "empty"),
        ("\n\n", {}, "empty"),
        ("1,2\n3,4\n", {"label": "5"}, "a column"),
        ("1,2\n3,4\n", {"label": "-3"}, "a column"),
        ("a,b\n3,4\n", {"label": "c"}, "one of a, b"),
        ('1,"2\n3,4\n', {}, "table"),
        ("1,2\n3,4\n" + "9" * 200_000 + ",1\n", {}, "table"),
    ],
)
def test_tables_with_faults(write, text, options, line):
    with pytest.raises(InputError, match=line):
        datasets.read(write("a.csv", text), **options)


@pytest.mark.parametrize("content", [b"\xff\xfe1,2\n", b"\x80\n", gzip.compress(b"1,2\n")])
def test_tables_that_are_no_text(write, content):
    with pytest.raises(FileFormatError, match="UTF-8"):
        datasets.read(write("a.csv", content))


# -- svmlight --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["a.svm", "a.svmlight", "a.libsvm.gz"])
def test_svmlight(tmp_path, first, name):
    text = io.BytesIO()
    dump_svmlight_file(X, NUMBERS, text, zero_based=first == 0)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.getvalue()) if name.endswith("gz") else text.getvalue())
    with contextlib.nullcontext() if first == 0 else pytest.warns(UserWarning, match="-based"):
        found = datasets.read(path)
    check(found, NUMBERS)
    assert sp.issparse(found.X)
    assert found.first == first
    assert datasets.read(path, first=first).first == first
    check(datasets.read(path, features=5, first=first), NUMBERS, np.pad(X, ((0, 0), (0, 2))))


def test_svmlight_numbering_is_the_models(write):
    """A file in which feature 0 does not occur is not moved when the model counts from 0."""
    path = write("a.svm", "1 1:5\n2 2:6\n")
    with pytest.warns(UserWarning, match="--zero-based"):
        found = datasets.read(path)
    np.testing.assert_array_equal(found.X.toarray(), [[5, 0], [0, 6]])
    found = datasets.read(path, first=0, features=3)
    np.testing.assert_array_equal(found.X.toarray(), [[0, 5, 0], [0, 0, 6]])
    with pytest.raises(FileFormatError, match=r"feature 0.*--zero-based"):
        datasets.read(write("b.svm", "1 0:5\n"), first=1)


@pytest.mark.parametrize(
    ("text", "first"),
    [("1 0:5 2:1\n", 0), ("1 1:5 3:1\n", 1), ("1 1:5\n", None), ("1 2:5\n", None), ("1\n", 1),
     ("# Column indices are zero-based\n1 1:5\n", 0),
     ("# Column indices are one-based\n1 2:5\n", 1)],
)  # fmt: skip
def test_svmlight_for_a_model_of_three_features(write, text, first):
    """What the file says by its comment, its least or largest feature; else nothing is guessed."""
    path = write("a.svm", text)
    if first is None:
        with pytest.raises(InputError, match="--zero-based or --one-based"):
            datasets.read(path, features=3)
    else:
        assert datasets.read(path, features=3).first == first
    assert datasets.read(path, features=3, first=1 - (first == 0)).X.shape == (1, 3)


def test_svmlight_with_many_features_stays_small(write):
    found = datasets.read(write("a.svm", "1 1:5 2000000000:1\n"), first=1)
    assert found.X.shape == (1, 2_000_000_000)
    assert found.X.nnz == 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", FileFormatError),
        ("x 1:2\n", FileFormatError),
        ("1 1:x\n", FileFormatError),
        ("1 -4:2\n", FileFormatError),
        ("1 3:2 1:1\n", FileFormatError),
        ("1 1:2 1:3\n", FileFormatError),
        ("1 99999999999999999999:2\n", FileFormatError),
        ("1 3000000000:2\n", FileFormatError),
        ("1 2\n", FileFormatError),
        ("\0\0\0", FileFormatError),
    ],
)
def test_svmlight_with_faults(write, text, error):
    with pytest.raises(error):
        datasets.read(write("a.svm", text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# so\n\n1 1:2 # too\n1 3:1 4:nan\n", "line 4: 4"),
        ("1 1:2\ninf 1:1\n", "line 2, label"),
        ("1 1:1e300\n", "line 1: 1"),
    ],
)
def test_svmlight_that_is_not_finite(write, text, place):
    with pytest.raises(NonFiniteError, match=place):
        datasets.read(write("a.svm", text))


def test_svmlight_other_arguments(write):
    path = write("a.svm", "1 1:5 7:2\n")
    with pytest.raises(InputError, match="label"):
        datasets.read(path, label="3")
    with pytest.raises(ShapeError, match="number 4"):
        datasets.read(path, features=4)


# -- damage ----------------------------------------------------------------------------------------


def npz_bytes(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy_header(shape, dtype="'<f8'", version=(1, 0)):
    """Return an .npy header that claims a shape."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text.encode()


class Trap:
    """What a pickle could do."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no archive",
        npz_bytes(Z=X),
        npz_bytes(X=X)[:-30],
        npz_bytes(X=X)[:200] + bytes([255]) + npz_bytes(X=X)[201:],
        npz_bytes(X=X, y=NUMBERS[:2]),
        npz_bytes(X=np.float64(3)),
        npz_bytes(X=np.zeros((0, 3))),
        npz_bytes(X=np.zeros((3, 0))),
        npz_bytes(X=np.ones(3)),
        npz_bytes(X=X.astype(complex)),
        npz_bytes(X=np.array([[Trap()]], object)),
        npz_bytes(X=np.zeros(3, [("a", "f4")])),
    ],
)
def test_npz_with_faults(write, content):
    with pytest.raises(GbdnnError):
        datasets.read(write("a.npz", content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy_header((2**40, 2**20)),
        npy_header((2**62, 2**62)),
        npy_header((-1, 3)) + bytes(24),
        npy_header((2, 3)) + bytes(47),
        npy_header((2, 3)) + bytes(49),
        npy_header((2, 3), "'|O'") + pickle.dumps([Trap()]),
        npy_header((2, 3), version=(9, 9)) + bytes(48),
        npy_header("__import__('os')"),
        npy_header("(" * 500),
        pickle.dumps(Trap()),
    ],
)
def test_npy_with_faults(write, content):
    with pytest.raises(GbdnnError):
        datasets.read(write("a.npy", content))


def test_a_bomb_is_not_opened(tmp_path):
    """An array of 10 GB in a small file: too large for its compressed size, or for the memory."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", npy_header((1, 100)) + bytes(800))
    raw = bytearray(path.read_bytes())
    size = len(npy_header((1, 100))) + 800
    for place in range(len(raw) - 4):
        if raw[place : place + 4] == size.to_bytes(4, "little"):
            raw[place : place + 4] = (10**9).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(FileFormatError):
        datasets.read(path)


@pytest.mark.parametrize("name", ["a", "a.json", "a.pkl", "a.npz.gz", "a.npy.gz"])
def test_unknown_kinds_of_files(write, name):
    with pytest.raises(InputError, match=r"\.npz"):
        datasets.read(write(name, b"12"))


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv", "a.svm"])
def test_files_that_are_not_there(tmp_path, name):
    with pytest.raises(DataUnavailableError):
        datasets.read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataUnavailableError):
        datasets.read(tmp_path / name)


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        (NAMES, ["cat", "dog", "emu"], [0, 1, 0, 2]),
        (NUMBERS, [0, 3, 7], [1, 2, 1, 0]),
        (NUMBERS.astype(float), [0, 3, 7], [1, 2, 1, 0]),
        (NUMBERS[:, None], [0, 3, 7], [1, 2, 1, 0]),
        (np.array([0.5, 1.5, 0.5]), [0.5, 1.5], [0, 1, 0]),
        (np.array([True, False]), [False, True], [1, 0]),
        (NAMES.astype("S"), ["cat", "dog", "emu"], [0, 1, 0, 2]),
    ],
)
def test_as_classes(y, classes, codes):
    found, numbers = labels.as_classes(y)
    assert found == classes
    assert [type(a) for a in found] == [type(a) for a in classes]
    np.testing.assert_array_equal(numbers, codes)


@pytest.mark.parametrize(
    ("y", "error"),
    [
        (np.array([1, 1, 1]), InputError),
        (np.array(["a"]), InputError),
        (np.array([1.0, np.nan]), NonFiniteError),
        (np.ones((3, 2)), ShapeError),
        (np.array([1j, 2]), DtypeError),
        (np.array([None, 1]), DtypeError),
    ],
)
def test_labels_that_are_no_classes(y, error):
    with pytest.raises(error):
        labels.as_classes(y)


def test_as_values():
    np.testing.assert_array_equal(labels.as_values(np.array([1, 2])), [[1.0], [2.0]])
    assert labels.as_values(np.ones((2, 3), np.float32)).shape == (2, 3)
    with pytest.raises(DtypeError, match="classify"):
        labels.as_values(NAMES)
    with pytest.raises(NonFiniteError):
        labels.as_values(np.array([np.inf, 1]))


def test_digits():
    found = datasets.digits()
    np.testing.assert_array_equal(found.X, load_digits().data)
    np.testing.assert_array_equal(found.y, load_digits().target)


def test_split():
    train, held = datasets.split(100, 0.25, 0)
    assert len(held) == 25
    assert sorted([*train, *held]) == list(range(100))
    assert len(datasets.split(100, 0, 0)[1]) == 0
    for count, fraction in ((3, 0.1), (3, 0.9)):
        with pytest.raises(InputError, match="validation"):
            datasets.split(count, fraction, 0)
