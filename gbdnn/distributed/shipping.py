"""Networks on their way to workers: once to each, through shared memory on the same host.

A network is pickled with its arrays apart (protocol 5). What a task carries is its key; a worker
that has not seen the key reads the network from a segment of shared memory, of which its arrays are
views, or from a payload in the task. It keeps the networks of the last keys, with what backends
prepared of them, for later chunks and calls.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import secrets
import threading
import uuid
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.machine.locks import lock_of
from gbdnn.network import Network
from gbdnn.types import Array

__all__ = ["Payload", "Segment", "key_of", "network_of", "pack"]

KEPT = 2  # networks that a worker keeps
ALIGNED = 64  # bytes
MAPPED = Path("/dev/shm")  # where Linux shows segments as files


@dataclass(frozen=True, eq=False)
class Payload:
    """A pickled network: the pickle without arrays, and the bytes of the arrays."""

    head: bytes
    buffers: list[Array]

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return len(self.head) + sum(buffer.nbytes for buffer in self.buffers)

    def unpacked(self) -> Network:
        """Return the network; its arrays are views of the buffers."""
        network: Network = pickle.loads(self.head, buffers=self.buffers)
        return network


def pack(network: Network) -> Payload:
    """Return the network as bytes; arrays are not copied."""
    found: list[pickle.PickleBuffer] = []
    head = pickle.dumps(network, protocol=5, buffer_callback=found.append)
    return Payload(head, [np.frombuffer(buffer.raw(), np.uint8) for buffer in found])


class Segment:
    """A payload in shared memory, from its making to `close`.

    The segment is registered with Python's resource tracker, a process that removes it also when
    this one is killed. Its first 16 bytes say where the index is, a pickle of the payload's head
    and of the places of the buffers.

    Raises
    ------
    OSError
        If there is not enough shared memory.
    """

    def __init__(self, payload: Payload) -> None:
        places, end = [], ALIGNED
        for buffer in payload.buffers:
            places.append((end, buffer.nbytes))
            end = -(-(end + buffer.nbytes) // ALIGNED) * ALIGNED
        index = pickle.dumps((payload.head, places))
        name = f"gbdnn_{os.getpid()}_{secrets.token_hex(4)}"  # at most 30 letters, for macOS
        self._memory = SharedMemory(name, create=True, size=end + len(index))
        self.name = self._memory.name
        try:
            _reserve(self.name, self._memory.size)
            memory: Any = self._memory.buf
            whole = np.frombuffer(memory, np.uint8)
            whole[:16].view(np.int64)[:] = end, len(index)
            for (start, size), buffer in zip(places, payload.buffers, strict=True):
                whole[start : start + size] = buffer
            whole[end : end + len(index)] = np.frombuffer(index, np.uint8)
            del whole, memory
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the segment's name; workers that have read it keep the memory while they live."""
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()
        with contextlib.suppress(BufferError):  # a view in the traceback of an exception
            self._memory.close()


def _reserve(name: str, size: int) -> None:
    """Let a segment have its memory now: else a write to a full file system ends the process."""
    path = MAPPED / name
    if path.exists():
        file = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(file)


def _read(name: str) -> Network | None:
    """Return the network in a segment, None if this host does not have it."""
    try:
        if MAPPED.is_dir():  # read-only, and unknown to the resource tracker of this process
            with (MAPPED / name).open("rb") as file:
                memory: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            _open.append(SharedMemory(name))  # which would close itself while arrays use it
            memory = _open[-1].buf
    except FileNotFoundError:
        return None
    whole = np.frombuffer(memory, np.uint8)
    end, size = whole[:16].view(np.int64)
    head, places = pickle.loads(whole[end : end + size].tobytes())
    return Payload(head, [whole[start : start + n] for start, n in places]).unpacked()


# -- what a process knows --------------------------------------------------------------------------

_keys: weakref.WeakKeyDictionary[Network, str] = weakref.WeakKeyDictionary()
_own: weakref.WeakValueDictionary[str, Network] = weakref.WeakValueDictionary()
_open: list[SharedMemory] = []


class _Kept:
    """The networks that came to this process, the last used ones."""

    def __init__(self) -> None:
        self.networks: OrderedDict[str, Network] = OrderedDict()
        self._lock = lock_of(self)

    def get(self, key: str, place: str | None, payload: Payload | None) -> Network | None:
        with self._lock:  # one thread unpacks, the others take what it made
            network = self.networks.pop(key, None)
            if network is None and place is not None:
                network = _read(place)
            if network is None and payload is not None:
                network = payload.unpacked()
            if network is not None:
                self.networks[key] = network
            while len(self.networks) > KEPT:
                self.networks.popitem(last=False)
        return network


_kept = _Kept()
_lock = threading.Lock()


def key_of(network: Network) -> str:
    """Return the key of a network of this process, always the same."""
    with _lock:
        if network not in _keys:
            _keys[network] = uuid.uuid4().hex
            _own[_keys[network]] = network
        return _keys[network]


def network_of(key: str, place: str | None, payload: Payload | None) -> Network | None:
    """Return the network of a key; None if this process must be given more than it was.

    Parameters
    ----------
    key : str
    place : str or None
        The name of a `Segment`.
    payload : Payload or None
    """
    own = _own.get(key)  # workers that are threads of the process which has the network
    return own if own is not None else _kept.get(key, place, payload)
