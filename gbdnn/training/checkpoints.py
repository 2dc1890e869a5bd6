"""Checkpoints: everything a training needs to go on as if it had never stopped, in one file each.

A file holds weights with their patterns, optimizer vectors, the sparsifier's state, the position in
the data, the history and early stopping's best network. Random numbers come from (seed, purpose,
step), so the seed is their whole state. The file is written beside its place, verified and renamed
(`write_tensors`): whenever the process dies, the files that were there are whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from gbdnn.data.batches import Batches
from gbdnn.errors import DataUnavailableError, FileFormatError, InputError
from gbdnn.files.header import check_version
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.training.hooks import Hook
from gbdnn.training.step import Training
from gbdnn.training.stored import dump, load

__all__ = ["Checkpoints", "identity"]

FORMAT, VERSION = "gbdnn training checkpoint", (2, 0)
FILES = "step-" + "[0-9]" * 12 + ".safetensors"
KEEP = 2  # files: should the newest be damaged there is one more
SETTINGS = (
    "loss", "optimizer", "learning_rate", "schedule", "batch_size", "shuffle", "steps_per_epoch",
    "clip_norm", "sparsifier", "class_weight",
)  # fmt: skip


class Checkpoints(Hook):
    """The checkpoints in one folder, which belongs to one process at a time.

    Parameters
    ----------
    folder : Path
    every : int, optional
        Steps between two files, besides one after each epoch.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        self.folder, self.every = folder, every
        self._lock: int | None = None

    def open(self, training: Training, batches: Batches, *, resume: bool) -> None:
        """Make the folder, lock it, see that it can be written, and restore if that is asked for.

        Raises
        ------
        DataUnavailableError
            If the folder cannot be made or written.
        InputError
            If another process uses it; if it holds checkpoints and `resume` is false; if there are
            some, but `batches` can only be passed over once; see also `restore`.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            self._lock = os.open(self.folder, os.O_RDONLY)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", None) or str(error)
            fix = "Check path and permission."
            expected = "a folder that can be written"
            raise DataUnavailableError(f"checkpoint {self.folder}", expected, reason, fix) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except OSError:
            self.close()
            fix = "Wait for it to end, or use another folder."
            expected, got = "a folder that no other process trains in", f"{self.folder}, in use"
            raise InputError("checkpoint", expected, got, fix) from None
        try:
            self._open(training, batches, resume)
        except BaseException:
            self.close()
            raise

    def _open(self, training: Training, batches: Batches, resume: bool) -> None:
        training.identity = training.identity or identity(training, batches)
        if training.step:  # a live training goes on, with files of its own
            return
        if not resume and self._newest_first():
            raise InputError(
                "checkpoint", "a folder without checkpoints, or resume=True",
                f"{self.folder}, which holds some",
                "Pass resume=True (--resume) to go on from the newest, or use another folder.",
            )  # fmt: skip
        self.restore(training, batches)
        if training.step and batches.once:
            expected = "an iterable that starts anew, as there are checkpoints to go on from"
            fix = "Give the data a class with __iter__, or use another folder."
            raise InputError("X", expected, "an iterator", fix)

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- what the loop calls -----------------------------------------------------------------------

    def after_step(self, training: Training, loss: float) -> str | None:
        """Save, if it is time."""
        if self.every and training.step % self.every == 0:
            self._try(training)
        return None

    def after_epoch(self, training: Training, record: dict[str, Any]) -> str | None:
        """Save."""
        self._try(training)
        return None

    def ended(self, training: Training, stopped: str) -> None:
        """Save what no file has yet, and close."""
        if stopped == "callback":
            self._try(training)
        self.close()

    def _try(self, training: Training) -> None:
        """Write a checkpoint; if that fails, the training is worth more than the file."""
        try:
            self.save(training)
        except OSError as error:
            message = f"checkpoint not written: {error} Older ones are whole; training goes on."
            warnings.warn(message, stacklevel=7)

    def save(self, training: Training) -> Path:
        """Write the state as it is; then remove all but the newest two files.

        Raises
        ------
        DataUnavailableError
            The file cannot be written; older ones are intact.
        """
        path = self.folder / f"step-{training.step:012d}.safetensors"
        tensors, record = dump(training)
        head = {"format": FORMAT, "version": "{}.{}".format(*VERSION), "digest": training.identity}
        write_tensors(path, tensors, head | record)
        older = [other for other in self._newest_first() if other < path]
        for other in older[KEEP - 1 :]:
            with suppress(OSError):
                other.unlink()
        return path

    def restore(self, training: Training, batches: Batches) -> Path | None:
        """Put the newest state that verifies into `training`; name those that do not.

        Returns
        -------
        Path or None
            The file used; None if the folder has none.

        Raises
        ------
        InputError
            If the newest whole file belongs to another training.
        FileFormatError
            If there are files, but none is whole.
        """
        damaged = []
        for path in self._newest_first():
            try:
                tensors, record = read_tensors(path)
                version = _check(path, record, training, batches)
                load(path, training, tensors, record, version)
            except (FileFormatError, OSError) as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                message = f"checkpoint: skipped {'; '.join(damaged)}; going on from {path.name}"
                warnings.warn(message, stacklevel=7)
            return path
        if damaged:
            fix = "Remove these files to start anew."
            expected = "at least one whole checkpoint"
            raise FileFormatError(f"checkpoint {self.folder}", expected, "; ".join(damaged), fix)
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(FILES), reverse=True)


def identity(training: Training, batches: Batches, version: int = 2) -> str:
    """Return a digest of what must be equal for a checkpoint to fit.

    Settings, seed, the network before its first step, targets and weights of the samples. The
    number of epochs, early stopping and callbacks may change; so may what changes no more than
    roundings: backend and threads.

    Raises
    ------
    InputError
        For a setting of which no two can be told apart, as lambdas.
    """
    trainer, model = training.trainer, training.model
    settings = [_described(name, getattr(trainer, name)) for name in SETTINGS]
    if trainer.truncate is not None:  # older files do not know it
        settings.append(_described("truncate", trainer.truncate))
    if version == 1:
        parts = [*settings, f"{training.seed} {model.dtype} {model.head!r}", batches.fingerprint]
        return _digest([*parts, *model.fingerprint(1)])
    quantization = "quantizers={}"  # as it was called before there were plans
    if trainer.quantization is not None:
        quantization = _described("quantization", trainer.quantization)
    return _digest(
        [*settings, quantization, str(training.seed), batches.fingerprint, *model.fingerprint()]
    )


def _described(name: str, setting: Any) -> str:
    text = repr(setting)
    if "<lambda>" in text or "<locals>" in text:
        fix = "Use a function of a module, or a frozen dataclass with __call__."
        expected = "with a checkpoint what can be recognised when it is run again"
        raise InputError(name, expected, text, fix)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{name}={text}")  # where functions are in memory


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _check(path: Path, record: dict[str, Any], training: Training, batches: Batches) -> int:
    """Return the major version of a checkpoint's format, if it belongs to the training."""
    if record.get("format") != FORMAT:
        got = repr(record.get("format"))[:100]
        raise FileFormatError(str(path), f"the format {FORMAT!r}", got)
    check_version(path, record.get("version"), VERSION, "a checkpoint")
    version = int(str(record["version"]).partition(".")[0])
    wanted = training.identity if version > 1 else identity(training, batches, 1)
    if record.get("digest") != wanted:
        raise InputError(
            "checkpoint", "a folder of a training with these settings, network and data",
            f"{path}, which comes from another training",
            "Use another folder, or the same settings, rng, network and data as before.",
        )  # fmt: skip
    return version
