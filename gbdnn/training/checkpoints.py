"""Checkpoints: everything a training needs to go on as if it had never stopped, in one file each.

A file holds weights with their patterns, optimizer vectors, the sparsifier's state, the position in
the data, the history and early stopping's best network. Random numbers come from (seed, purpose,
step), so the seed is their whole state. The file is written beside its place, verified and renamed
(`write_tensors`): whenever the process dies, the files that were there are whole.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbdnn.errors import DataUnavailableError, FileFormatError, InputError
from gbdnn.files.tensors import check_version, read_tensors, write_tensors
from gbdnn.training.states import dump, load

if TYPE_CHECKING:
    from gbdnn.data.batches import Batches
    from gbdnn.training.loop import Training

__all__ = ["Checkpoints", "identity"]

FORMAT, VERSION = "gbdnn training checkpoint", (1, 0)
FILES = "step-" + "[0-9]" * 12 + ".safetensors"
KEEP = 2  # files: should the newest be damaged there is one more
SETTINGS = (
    "loss", "optimizer", "learning_rate", "schedule", "batch_size", "shuffle", "steps_per_epoch",
    "clip_norm", "sparsifier", "class_weight",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in one folder."""

    folder: Path

    def open(self, training: Training, batches: Batches) -> None:
        """Make the folder, see that it can be written, and restore if the training is a new one.

        Raises
        ------
        DataUnavailableError
            If the folder cannot be made or written.
        InputError
            If there are checkpoints, but `batches` can only be passed over once; see also
            `restore`.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f".{FILES}.*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", None) or str(error)
            fix = "Check path and permission."
            expected = "a folder that can be written"
            raise DataUnavailableError(f"checkpoint {self.folder}", expected, reason, fix) from None
        if training.identity is None:
            training.identity = identity(training, batches)
        if training.step:
            return
        self.restore(training)
        if training.step and batches.once:
            expected = "an iterable that starts anew, as there are checkpoints to go on from"
            fix = "Give the data a class with __iter__, or use another folder."
            raise InputError("X", expected, "an iterator", fix)

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

    def restore(self, training: Training) -> Path | None:
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
                _check(path, record, training)
                load(path, training, tensors, record)
            except (FileFormatError, OSError) as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                message = f"checkpoint: skipped {'; '.join(damaged)}; going on from {path.name}"
                warnings.warn(message, stacklevel=6)
            return path
        if damaged:
            fix = "Remove these files to start anew."
            expected = "at least one whole checkpoint"
            raise FileFormatError(f"checkpoint {self.folder}", expected, "; ".join(damaged), fix)
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(FILES), reverse=True)


def identity(training: Training, batches: Batches) -> str:
    """Return a digest of what must be equal for a checkpoint to fit.

    Settings, seed, the network before its first step, targets and weights of the samples. The
    number of epochs, early stopping and callbacks may change; so may what changes no more than
    roundings: backend and threads.
    """
    trainer, model = training.trainer, training.model
    parts = [f"{name}={getattr(trainer, name)!r}" for name in SETTINGS]
    parts += [f"{training.seed} {model.dtype} {model.head!r}", batches.fingerprint]
    for layer in model.layers:
        pattern = layer.form.pattern
        arrays = (pattern.indptr, pattern.indices, layer.form.values, layer.bias)
        digests = [hashlib.sha256(array.data).hexdigest() for array in arrays]
        parts.append(f"{pattern.shape} {layer.after} {digests}")
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", "\n".join(parts))  # where functions are in memory
    return hashlib.sha256(text.encode()).hexdigest()


def _check(path: Path, record: dict[str, Any], training: Training) -> None:
    if record.get("format") != FORMAT:
        got = repr(record.get("format"))[:100]
        raise FileFormatError(str(path), f"the format {FORMAT!r}", got)
    check_version(path, record.get("version"), VERSION, "a checkpoint")
    if record.get("digest") != training.identity:
        raise InputError(
            "checkpoint", "a folder of a training with these settings, network and data",
            f"{path}, which comes from another training",
            "Use another folder, or the same settings, rng, network and data as before.",
        )  # fmt: skip
