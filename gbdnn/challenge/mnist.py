"""Where images come from: files, a cache, a download that is checked."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DataUnavailableError, FileFormatError
from gbdnn.files.disk import cache_dir, open_binary, unreadable
from gbdnn.types import FilePath

__all__ = ["fetch", "load_images", "official_images"]

Images = npt.NDArray[np.uint8]
FILE = "train-images-idx3-ubyte.gz"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
OFFICIAL = 60_000  # images of the challenge
# of the 60,000 x 28 x 28 bytes, not of a file: mirrors compress differently
PIXELS_SHA256 = "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"
IDX_IMAGES = 0x00000803  # unsigned bytes, three dimensions
INFLATION = 1032  # deflate cannot make data smaller than this


def load_images(path: FilePath) -> Images:
    """Read images from a file.

    Parameters
    ----------
    path : path-like
        ``.npz`` with an array X, uint8, (n, 28, 28) or (n, 784); or MNIST's own idx format, plain
        or ``.gz``, of any image size.

    Returns
    -------
    ndarray of uint8, shape (n, height, width)
        The first 60,000 if there are more: a file of all 70,000 MNIST images holds the training
        images, which the challenge uses, in front.

    Raises
    ------
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        Its content is something else, damaged or incomplete.
    """
    path = Path(path)
    return _load_npz(path) if path.suffix == ".npz" else _load_idx(path)


def _load_idx(path: Path) -> Images:
    with open_binary(path) as file:
        header = file.read(16)
        if len(header) < 16 or struct.unpack(">I", header[:4])[0] != IDX_IMAGES:
            got = f"a file that starts with {header[:4].hex() or 'nothing'}"
            raise FileFormatError(str(path), f"idx images (magic {IDX_IMAGES:08x}) or .npz", got)
        count, height, width = struct.unpack(">III", header[4:])
        size = count * height * width
        possible = path.stat().st_size * (INFLATION if path.suffix == ".gz" else 1)
        if size == 0 or size > possible:
            got = f"{count} x {height} x {width} in the header of {path.stat().st_size:,} bytes"
            raise FileFormatError(str(path), "as many pixels as the file can hold", got)
        pixels = file.read(size)
        if len(pixels) < size or file.read(1):
            got = f"{len(pixels):,}" if len(pixels) < size else "more"
            raise FileFormatError(str(path), f"{size:,} bytes of pixels", got)
    return np.frombuffer(pixels, np.uint8).reshape(count, height, width)[:OFFICIAL]


def _load_npz(path: Path) -> Images:
    damaged = (
        ValueError, TypeError, EOFError, KeyError, MemoryError, zlib.error, zipfile.BadZipFile,
        NotImplementedError, RuntimeError,  # RuntimeError: an encrypted member
    )  # fmt: skip
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images = archive["X"]
    except OSError as error:
        raise unreadable(path, error) from None
    except damaged as error:
        got = f"{type(error).__name__}: {error}"
        raise FileFormatError(str(path), "a whole .npz file with an array X", got) from None
    if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (784,)) or not len(images):
        expected = "X as uint8 of shape (n, 28, 28) or (n, 784)"
        raise FileFormatError(str(path), expected, f"{images.dtype} of shape {images.shape}")
    return np.ascontiguousarray(images[:OFFICIAL]).reshape(-1, 28, 28)


def official_images() -> Images | None:
    """Return the 60,000 training images of MNIST from the cache; None if they are not there.

    A damaged file counts as missing; `fetch` replaces it.
    """
    path = cache_dir() / FILE
    try:
        images = load_images(path)
    except (DataUnavailableError, FileFormatError):
        return None
    return images if _is_official(images) else None


def fetch(*, mirrors: Sequence[str] = MIRRORS, folder: Path | None = None) -> Path:
    """Download the training images of MNIST (9.9 MB) unless the cache has them.

    Parameters
    ----------
    mirrors : sequence of str
        Base URLs, tried one after the other.
    folder : Path, optional
        Default `cache_dir()`.

    Returns
    -------
    Path
        The file, for `load_images`. It is there only if the sha256 of its pixels is right.

    Raises
    ------
    DataUnavailableError
        No mirror could be reached, or none had the right file.
    """
    folder = cache_dir() if folder is None else folder
    path = folder / FILE
    if path.exists() and _problem(path) is None:
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reasons = []
        for mirror in mirrors:
            # a folder of its own on the same file system: os.replace is then atomic
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
                reason = _download(mirror.rstrip("/") + "/" + FILE, Path(scratch))
                reason = reason or _problem(Path(scratch) / FILE)
                if reason is None:
                    os.replace(Path(scratch) / FILE, path)
                    return path
                reasons.append(f"{mirror}: {reason}")
    except OSError as error:
        raise unreadable(folder, error) from None
    raise DataUnavailableError(
        "MNIST", f"{FILE} from a mirror", "; ".join(reasons) or "no mirror to ask",
        "Pass images of your own (load_images), or use embedded_images().",
    )  # fmt: skip


def _download(url: str, folder: Path) -> str | None:
    """Download to `folder`; return why it failed, in one line, or None."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=30, progressbar=False)
    try:
        pooch.retrieve(url, None, fname=FILE, path=folder, downloader=downloader)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        return f"{type(error).__name__} ({str(error).splitlines()[0][:120]})"
    return None


def _problem(path: Path) -> str | None:
    """Return why a file is not the training images of MNIST, or None."""
    try:
        return None if _is_official(load_images(path)) else "a wrong sha256 of the pixels"
    except (DataUnavailableError, FileFormatError) as error:
        return error.got


def _is_official(images: Images) -> bool:
    digest = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    return images.shape == (OFFICIAL, 28, 28) and digest == PIXELS_SHA256
