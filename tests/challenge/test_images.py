"""The official inputs, the files that images come from, the cache and the download."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import socket
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SHARED, needs_shared

from gbdnn.challenge import images, mnist
from gbdnn.challenge.images import InputBits, cached_resize, embedded_images, load_images, resize
from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    GbdnnError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.files import disk

OFFICIAL_NNZ = {32: 6_374_505, 64: 25_019_051, 128: 98_858_913, 256: 392_191_985}


def dense(bits: InputBits) -> npt.NDArray[np.uint8]:
    return np.unpackbits(bits.bits, axis=1)[:, : bits.count]


def textbook(pictures: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """|V| / max |V| by the full two-dimensional transform, shape (side * side, n)."""
    n, height, width = pictures.shape
    spectrum = np.fft.fft2(pictures.transpose(1, 0, 2).reshape(height, n * width))
    large = np.zeros((side, side * n), complex)
    rows = np.arange(-((height - 1) // 2), height // 2 + 1)
    columns = np.arange(-((n * width - 1) // 2), n * width // 2 + 1)
    large[np.ix_(rows, columns)] = spectrum[np.ix_(rows, columns)]
    v = np.abs(np.fft.ifft2(large)).reshape(side, n, side)
    return (v / v.max()).transpose(2, 0, 1).reshape(side * side, n)


# -- the interpolation -----------------------------------------------------------------------------


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 21), st.integers(0, 7), st.integers(0, 99)
)
@settings(deadline=None)
def test_resize_equals_the_full_transform(h: int, w: int, n: int, more: int, seed: int) -> None:
    pictures = np.random.default_rng(seed).random((n, h, w))
    side = max(h, w) + more
    value = textbook(pictures, side)
    clear = np.abs(value - 0.5) > 1e-9
    np.testing.assert_array_equal((dense(resize(pictures, side)) > 0)[clear], (value > 0.5)[clear])


def test_the_highest_frequency_stands_on_one_side() -> None:
    # split over both sides it would give other bits: that the choice matters is seen here
    pictures = embedded_images()[:100].astype(float)
    right = dense(resize(pictures, 32))
    np.testing.assert_array_equal(right, textbook(pictures, 32) > 0.5)
    line = pictures.transpose(1, 0, 2).reshape(8, -1)
    spectrum = np.fft.rfft(line)
    spectrum[:, -1] /= 2
    split = np.fft.irfft(spectrum, 32 * 100)
    rows = np.fft.rfft(split, axis=0)
    rows[-1] /= 2
    wrong = np.abs(np.fft.irfft(rows, 32, axis=0)).reshape(32, 100, 32).transpose(2, 0, 1)
    assert ((wrong > wrong.max() / 2).reshape(1024, 100) != right).any()


def test_several_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = embedded_images()
    whole = resize(pictures, 16)
    monkeypatch.setattr(images, "BLOCK_BYTES", 8 * 16 * 40)
    np.testing.assert_array_equal(resize(pictures, 16).bits, whole.bits)


@needs_shared
def test_the_official_1200(tmp_path: Path) -> None:
    from gbdnn.challenge.files import read_matrix_market

    assert SHARED is not None
    bits = resize(load_images(SHARED / "data/mnist.npz"), 32)
    assert bits.nnz == OFFICIAL_NNZ[32]
    official = read_matrix_market(SHARED / "data/graph_challenge/sparse-images-1024_subset.mtx")
    first = bits.take(1200)  # the subset is the first 1,200 inputs
    np.testing.assert_array_equal(dense(first), official.toarray().T)
    assert (dense(bits.select(np.arange(1, 1201))) != official.toarray().T).any()


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("side", [64, 128, 256])
def test_official_counts(side: int) -> None:
    assert SHARED is not None
    assert resize(load_images(SHARED / "data/mnist.npz"), side).nnz == OFFICIAL_NNZ[side]


@pytest.mark.parametrize(
    ("pictures", "side", "error"),
    [
        (np.zeros((2, 8)), 8, ShapeError),
        (np.zeros((0, 8, 8)), 8, ShapeError),
        (np.ones((2, 8, 8)), 7, InputError),
        (np.ones((2, 8, 8)), 8.5, InputError),
        (np.full((2, 8, 8), np.nan), 8, NonFiniteError),
        (np.ones((2, 8, 8), complex), 8, DtypeError),
    ],
)
def test_bad_images(pictures: npt.NDArray[np.float64], side: int, error: type) -> None:
    with pytest.raises(error, match="expected"):
        resize(pictures, side)


def test_black_images_have_no_ones() -> None:
    assert resize(np.zeros((3, 4, 4)), 8).nnz == 0


# -- InputBits -------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 50), st.data())
def test_take_and_select(features: int, count: int, limit: int, data: st.DataObject) -> None:
    zeros_ones = np.random.default_rng(count).integers(0, 2, (features, count), np.uint8)
    bits = InputBits(np.packbits(zeros_ones, axis=1), count)
    assert (bits.n_features, bits.nnz) == (features, int(zeros_ones.sum()))
    np.testing.assert_array_equal(dense(bits.take(limit)), zeros_ones[:, :limit])
    chosen = data.draw(st.lists(st.integers(0, count - 1), max_size=20)) if count else []
    np.testing.assert_array_equal(
        dense(bits.select(chosen)), zeros_ones[:, np.array(chosen, np.int64)]
    )


@pytest.mark.parametrize(
    ("array", "count", "error"),
    [
        (np.zeros((3, 2), np.int8), 16, DtypeError),
        ([[0]], 8, DtypeError),
        (np.zeros(3, np.uint8), 8, ShapeError),
        (np.zeros((3, 2), np.uint8), 17, ShapeError),
        (np.zeros((3, 2), np.uint8), -1, InputError),
        (np.ones((3, 2), np.uint8), 15, InputError),  # the last bit belongs to no input
    ],
)
def test_bad_bits(array: object, count: int, error: type) -> None:
    with pytest.raises(error, match="expected"):
        InputBits(array, count)  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", [[-1], [16], [0.5], [[1]], [True]])
def test_bad_selection(chosen: list[int]) -> None:
    with pytest.raises(InputError, match=r"^indices: expected"):
        InputBits(np.zeros((3, 2), np.uint8), 16).select(chosen)


# -- files of images -------------------------------------------------------------------------------

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)


def idx(pictures: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(">IIII", 0x803, *pictures.shape) + pictures.tobytes()


def npz(**arrays: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def forged_npz(shape: tuple[int, ...]) -> bytes:
    member = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("X.npy", member.getvalue() + b"x" * 100)
    return file.getvalue()


def test_embedded_images() -> None:
    pictures = embedded_images()
    assert pictures.shape == (1797, 8, 8)
    assert pictures.dtype == np.uint8
    assert pictures.max() == 16


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.idx", idx(PICTURES)),
        ("train-images-idx3-ubyte", idx(PICTURES)),
        ("a.gz", gzip.compress(idx(PICTURES))),
        ("a.npz", npz(X=PICTURES)),
        ("flat.npz", npz(X=PICTURES.reshape(5, 784), y=np.zeros(5, np.uint8))),
    ],
)
def test_load_images(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(load_images(tmp_path / name), PICTURES)


def test_only_the_first_60000(tmp_path: Path) -> None:
    pictures = np.zeros((60_003, 28, 28), np.uint8)
    pictures[60_000:] = 1
    (tmp_path / "a.npz").write_bytes(npz(X=pictures))
    found = load_images(tmp_path / "a.npz")
    assert found.shape == (60_000, 28, 28)
    assert not found.any()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty", b""),
        ("short", idx(PICTURES)[:10]),
        ("labels", struct.pack(">II", 0x801, 5) + bytes(20)),
        ("cut", idx(PICTURES)[:-1]),
        ("long", idx(PICTURES) + b"x"),
        ("huge", struct.pack(">IIII", 0x803, 2**32 - 1, 2**31, 28) + bytes(99)),
        ("none", struct.pack(">IIII", 0x803, 0, 28, 28)),
        ("text.gz", b"no gzip at all"),
        ("cut.gz", gzip.compress(idx(PICTURES))[:-100]),
        ("crc.gz", gzip.compress(idx(PICTURES))[:-8] + bytes(8)),
        ("no.npz", b"no zip at all"),
        ("cut.npz", npz(X=PICTURES)[:-100]),
        ("name.npz", npz(Z=PICTURES)),
        ("dtype.npz", npz(X=PICTURES.astype(np.float32))),
        ("shape.npz", npz(X=PICTURES[:, :, :27])),
        ("flat.npz", npz(X=PICTURES.ravel())),
        ("zero.npz", npz(X=PICTURES[:0])),
        ("huge.npz", forged_npz((10**12, 28, 28))),
        ("pickle.npz", npz(X=np.array([{}], object))),  # type: ignore[arg-type]
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=name):
        load_images(tmp_path / name)


def test_a_changed_byte_in_an_npz_is_found(tmp_path: Path) -> None:
    content = bytearray(npz(X=PICTURES))
    content[len(content) // 2] ^= 0x10
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(FileFormatError):
        load_images(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["absent", "absent.gz", "absent.npz"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="expected a readable file") as caught:
        load_images(tmp_path / name)
    assert isinstance(caught.value, DataUnavailableError)


# -- the cache -------------------------------------------------------------------------------------


def test_cached_resize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = embedded_images()[:50]
    right = resize(pictures, 12)
    made = cached_resize(pictures, 12, folder=tmp_path / "new")
    (file,) = (tmp_path / "new").iterdir()
    content = file.read_bytes()

    def never(*_: object) -> InputBits:
        raise AssertionError

    monkeypatch.setattr(images, "resize", never)
    read = cached_resize(pictures, 12, folder=tmp_path / "new")
    np.testing.assert_array_equal(made.bits, right.bits)
    np.testing.assert_array_equal(read.bits, right.bits)
    with pytest.raises(AssertionError):  # other images, other file
        cached_resize(pictures[::-1], 12, folder=tmp_path / "new")

    monkeypatch.undo()
    flipped = bytearray(content)
    flipped[200] ^= 1
    for damage in (b"", content[:50], content[:-1], content + b"x", bytes(flipped)):
        file.write_bytes(damage)
        again = cached_resize(pictures, 12, folder=tmp_path / "new")
        np.testing.assert_array_equal(again.bits, right.bits)
        assert file.read_bytes() == content
    assert [p.name for p in (tmp_path / "new").iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cached_resize(embedded_images()[:9], 8, folder=tmp_path / "file" / "sub").count == 9


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(tmp_path))
    assert disk.cache_dir() == tmp_path
    assert images.official_images() is None
    monkeypatch.delenv("GBDNN_CACHE_DIR")
    assert "gbdnn" in str(disk.cache_dir())


# -- the download ----------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and its folder."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def small_official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let five pictures be the official ones, and the cache be a new folder."""
    monkeypatch.setattr(mnist, "PIXELS_SHA256", hashlib.sha256(PICTURES.tobytes()).hexdigest())
    monkeypatch.setattr(mnist, "OFFICIAL", 5)
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_fetch(mirror: tuple[str, Path], small_official: Path) -> None:
    url, folder = mirror
    (folder / mnist.FILE).write_bytes(gzip.compress(idx(PICTURES)))
    path = images.fetch(mirrors=[url])
    assert path == small_official / mnist.FILE
    np.testing.assert_array_equal(images.official_images(), PICTURES)  # type: ignore[arg-type]
    assert images.fetch(mirrors=[]) == path  # nothing is asked a second time
    path.write_bytes(b"damaged")
    assert images.official_images() is None
    images.fetch(mirrors=[url + "absent", url])  # the second mirror has it
    assert images.official_images() is not None
    assert [p.name for p in small_official.iterdir()] == [mnist.FILE]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "404"),
        (b"<html>please log in</html>", "damaged"),
        (gzip.compress(idx(PICTURES))[:-50], "damaged or incomplete"),
        (gzip.compress(idx(PICTURES ^ 1)), "wrong sha256"),
        (gzip.compress(idx(PICTURES[:4])), "wrong sha256"),
    ],
)
def test_a_wrong_download_leaves_nothing(
    mirror: tuple[str, Path], small_official: Path, content: bytes | None, reason: str
) -> None:
    url, folder = mirror
    if content is not None:
        (folder / mnist.FILE).write_bytes(content)
    with pytest.raises(DataUnavailableError, match=reason) as caught:
        images.fetch(mirrors=[url])
    assert "\n" not in str(caught.value)
    assert list(small_official.iterdir()) == []


def test_no_network_is_one_clear_line(small_official: Path) -> None:
    with socket.socket() as listener:  # a port where nobody answers
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(DataUnavailableError, match="ConnectionError") as caught:
        images.fetch(mirrors=[f"http://127.0.0.1:{port}/"])
    assert "\n" not in str(caught.value)
    assert list(small_official.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GbdnnError, match="file"):
        images.fetch(mirrors=[], folder=tmp_path / "file")


@needs_shared
def test_the_digest_is_that_of_mnist() -> None:
    assert SHARED is not None
    pixels = load_images(SHARED / "data/mnist.npz")
    assert mnist._is_official(pixels)
    assert not mnist._is_official(pixels[::-1])
